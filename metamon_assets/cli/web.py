"""Commands about the web server: running it, its tokens, and reporting events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from metamon_assets.cli.group import main
from metamon_assets.cli.output import database, json_option, print_json, print_table, say, with_settings
from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.config import Settings

ROLES = ("viewer", "approver", "admin", "ingest")
KINDS = ("deployment", "version", "model", "prompt", "configuration", "incident", "other")


@main.command()
@click.option("--host", help="Address to listen on. [default: web.host of metamon.yaml]")
@click.option("--port", type=click.IntRange(1, 65_535), help="Port to listen on. [default: web.port of metamon.yaml]")
@with_settings
def web(settings: Settings, host: str | None, port: int | None) -> None:
    """Run the web server alone: API, OTLP receiver, events, metrics. `metamon up` runs it with everything else."""
    from metamon_assets.web.server import serve

    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    serve(settings.model_copy(update={"web": settings.web.model_copy(update=given)}))


@main.group()
def token() -> None:
    """Make, list and revoke the tokens that the web server asks for."""


@token.command(name="create")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it may do: ingest sends data and reads nothing.")
@click.option("--expires-days", type=click.IntRange(min=1, max=3650), help="Days until it is refused. [default: never]")
@with_settings
def create_token(settings: Settings, name: str, role: str, expires_days: int | None) -> None:
    """Make a token for NAME and print it: the only time that it is shown."""
    from metamon_assets.warehouse.audit import acting_user
    from metamon_assets.web import tokens

    expires_at = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)
    with database(settings) as connection:
        secret = tokens.create(connection, name, tokens.Role(role), actor=acting_user(), expires_at=expires_at)
    click.echo(secret)
    say(f"This is the only time that it is shown. Send it as `Authorization: Bearer …`; `metamon token revoke {name}` ends it.")


@token.command(name="list")
@json_option
@with_settings
def list_tokens(settings: Settings, as_json: bool) -> None:
    """List the tokens that were made, without their secrets."""
    from metamon_assets.web import tokens

    with database(settings) as connection:
        found = tokens.listed(connection)
    columns = ["name", "role", "state", "created_at", "expires_at", "last_used_at"]
    now = datetime.now(UTC)
    rows = [
        (
            entry.name,
            entry.role.value,
            _state(entry, now),
            _minute(entry.created_at),
            _minute(entry.expires_at),
            _minute(entry.last_used_at),
        )
        for entry in found
    ]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif rows:
        print_table(columns, rows)
    else:
        say("There is no token yet: metamon token create NAME --role ROLE")


@token.command(name="revoke")
@click.argument("name")
@with_settings
def revoke_token(settings: Settings, name: str) -> None:
    """Refuse the token NAME from now on; running servers follow within seconds."""
    from metamon_assets.warehouse.audit import acting_user
    from metamon_assets.web import tokens

    with database(settings) as connection:
        tokens.revoke(connection, name, actor=acting_user())
    say(f"The token {name} is revoked.")


@main.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--agent", help="Agent it concerns. [default: all]")
@click.option("--version", help="What the agent, model or prompt changed to.")
@click.option("--commit", help="Commit that was deployed.")
@click.option("--url", help="Page that tells more (http or https).")
@click.option("--actor", help="Who did it. [default: the user who runs the command]")
@click.option("--time", help="When, with its time zone (2026-08-22T12:00:00Z). [default: now]")
@click.option("--id", "event_id", help="What stays the same when it is reported again. [default: its content]")
@json_option
@with_settings
def event(settings: Settings, *, kind: str, as_json: bool, event_id: str | None, actor: str | None, **said: str | None) -> None:
    """Report a deployment or another change, which charts and change points then refer to.

    \b
    metamon event deployment --agent support --version 1.4.0
    """
    from pydantic import ValidationError

    from metamon_assets.config.sources import SourcePart
    from metamon_assets.traces.configured import rules_for
    from metamon_assets.traces.events import REPORTED, report
    from metamon_assets.warehouse.audit import acting_user
    from metamon_assets.web.events import NewEvent

    try:
        new = NewEvent.model_validate({"kind": kind, "id": event_id, "actor": actor or acting_user(), **said})
    except ValidationError as error:
        wrong = "\n".join(f"  --{found['loc'][0]}: {found['msg']}" for found in error.errors())
        raise MetamonError(f"The event does not fit:\n{wrong}") from None
    with database(settings) as connection:
        entry = report(connection, [new.event()], rules_for(connection, settings, SourcePart(project=new.project, name=REPORTED)))
    if entry.rows_rejected:
        raise MetamonError(f"The event was refused ({', '.join(entry.reject_reasons)}): correct its time.")
    found = {"new": entry.rows_inserted, "changed": entry.rows_updated, "unchanged": entry.rows_unchanged}
    if as_json:
        print_json(found)
    else:
        say("Reported." if entry.rows_inserted else "Known already.")


def _state(entry: object, now: datetime) -> str:
    from metamon_assets.web.tokens import Token

    assert isinstance(entry, Token)
    if entry.revoked_at is not None:
        return "revoked"
    return "valid" if entry.valid(now) else "expired"


def _minute(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d %H:%M}"
