"""Commands about alerts: incidents, silences, and the messages that tell of them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from metamon_assets.cli.group import main
from metamon_assets.cli.output import database, json_option, print_json, print_table, say, shown, with_settings
from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.config import Settings

INCIDENT_COLUMNS = ["incident_id", "status", "severity", "rule", "dimension", "dimension_value", "started_at", "summary", "notes"]
SILENCE_COLUMNS = ["silence_id", "about", "starts_at", "ends_at", "maintenance", "reason", "created_by"]
MESSAGE_COLUMNS = ["message_id", "channel", "state", "subject", "created_at", "attempts", "last_error"]
TOLD_COLUMNS = ["message_id", "channel", "event", "state", "created_at", "sent_at"]
TEST_SECONDS = 60.0  # longer than a channel may take
TIMES = ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"]


# --- incidents ---------------------------------------------------------------------------------------------------


@main.group()
def incidents() -> None:
    """List and show incidents, take one on, and say whether it was worth telling."""


@incidents.command(name="list")
@click.option("--all", "everything", is_flag=True, help="Resolved ones too.")
@click.option("--rule", help="Of one rule.")
@click.option("--most", type=click.IntRange(min=1), default=50, show_default=True, help="How many.")
@json_option
@with_settings
def list_incidents(settings: Settings, everything: bool, rule: str | None, most: int, as_json: bool) -> None:
    """List open incidents, the newest first."""
    from metamon_assets.alerts.incidents import recent

    with database(settings, existing=True) as connection, connection, connection.cursor() as cursor:
        found = recent(cursor, most=most, rule=rule, only_open=not everything)
    if as_json:
        print_json([asdict(incident) for incident in found])
    elif found:
        lines = [asdict(one) | {"started_at": _local(one.started_at, settings), "notes": _notes(one)} for one in found]
        print_table(INCIDENT_COLUMNS, [tuple(line[column] for column in INCIDENT_COLUMNS) for line in lines])
    else:
        say("There is no incident." if everything else "No incident is open. `metamon incidents list --all` shows resolved ones.")


def _notes(incident: Any) -> str:
    notes = [name for name in ("shadow", "late") if getattr(incident, name)]
    if incident.acknowledged_by:
        notes.append(f"taken on by {incident.acknowledged_by}")
    return ", ".join(notes)


@incidents.command()
@click.argument("number", type=int)
@json_option
@with_settings
def show(settings: Settings, number: int, as_json: bool) -> None:
    """Show incident NUMBER: what, where, since when, how bad, why, and what was sent."""
    from metamon_assets.alerts.history import events, told
    from metamon_assets.alerts.incidents import read
    from metamon_assets.alerts.messages import of_incident
    from metamon_assets.alerts.routing import Policy

    with database(settings, existing=True) as connection, connection, connection.cursor() as cursor:
        incident = read(cursor, number)
        happened, sent = events(cursor, number), told(cursor, number)
    if as_json:
        print_json({"incident": asdict(incident), "events": happened, "messages": sent})
        return
    _, text, _ = of_incident(Policy.of(settings, {}), incident, "resolved" if incident.status == "resolved" else "opened")
    click.echo(shown(text))
    for one in happened:
        one["at"] = _local(one["at"], settings)
    print_table(list(happened[0]), [tuple(one.values()) for one in happened])
    if sent:
        lines = [_with_state(one, settings) for one in sent]
        print_table(TOLD_COLUMNS, [tuple(line[column] for column in TOLD_COLUMNS) for line in lines])
    else:
        say("No message was written of it.")


@incidents.command()
@click.argument("number", type=int)
@with_settings
def acknowledge(settings: Settings, number: int) -> None:
    """Take incident NUMBER on, so that others know that somebody does."""
    from metamon_assets.alerts.incidents import acknowledge as take_on
    from metamon_assets.warehouse.audit import acting_user

    with database(settings, existing=True) as connection:
        incident = take_on(connection, number, acting_user(), datetime.now(UTC))
    click.echo(f"Incident {number} is taken on by {shown(incident.acknowledged_by)}.")


@incidents.command()
@click.argument("number", type=int)
@click.argument("verdict", type=click.Choice(["true", "false"]))
@click.option("--note", default="", help="Why.")
@with_settings
def feedback(settings: Settings, number: int, verdict: str, note: str) -> None:
    """Say whether incident NUMBER was worth telling (true) or a false alarm (false). The last word counts."""
    from metamon_assets.alerts.incidents import give_feedback
    from metamon_assets.warehouse.audit import acting_user

    with database(settings, existing=True) as connection:
        give_feedback(
            connection, number, "true_positive" if verdict == "true" else "false_positive", acting_user(), datetime.now(UTC), note
        )
    click.echo(f"Noted: incident {number} was {'worth telling' if verdict == 'true' else 'a false alarm'}.")


# --- silences ----------------------------------------------------------------------------------------------------


@main.group()
def silences() -> None:
    """List, add and end silences and maintenance windows: what is recorded, and not sent, while they last."""


@silences.command(name="list")
@click.option("--past", is_flag=True, help="Those that have ended, too.")
@json_option
@with_settings
def list_silences(settings: Settings, past: bool, as_json: bool) -> None:
    """List the silences that hold or will."""
    from metamon_assets.alerts.silences import listed

    with database(settings, existing=True) as connection:
        found = listed(connection, datetime.now(UTC), past=past)
    lines = [asdict(silence) | {"about": silence.about} for silence in found]
    if as_json:
        print_json(lines)
    elif lines:
        for line in lines:
            line |= {name: _local(line[name], settings) for name in ("starts_at", "ends_at")}
        print_table(SILENCE_COLUMNS, [tuple(line[column] for column in SILENCE_COLUMNS) for line in lines])
    else:
        say("Nothing is silenced.")


@silences.command()
@click.option("--rule", help="Rule that it is about. [default: all]")
@click.option("--dimension", help="Dimension that it is about, such as agent. [default: all]")
@click.option("--value", help="Value of the dimension, such as an agent's name. [default: all]")
@click.option("--maintenance", is_flag=True, help="Planned work; this may be about everything.")
@click.option("--for", "span", metavar="SPAN", help="How long, such as 90m, 4h or 2d, of at most ten years.")
@click.option("--until", type=click.DateTime(TIMES), metavar="TIME", help="Until when, in the configured time zone (YYYY-MM-DD HH:MM).")
@click.option("--from", "since", type=click.DateTime(TIMES), metavar="TIME", help="From when. [default: now]")
@click.option("--reason", required=True, help="Why; others will ask.")
@with_settings
def add(
    settings: Settings,
    rule: str | None,
    dimension: str | None,
    value: str | None,
    maintenance: bool,
    span: str | None,
    until: datetime | None,
    since: datetime | None,
    reason: str,
) -> None:
    """Silence a rule, a group, or both. What matches is recorded and counted in the digest."""
    from metamon_assets.alerts.silences import create
    from metamon_assets.warehouse.audit import acting_user

    now = datetime.now(UTC)
    zone = ZoneInfo(settings.timezone)
    starts_at = since.replace(tzinfo=zone).astimezone(UTC) if since else now
    with database(settings) as connection:
        silence = create(
            connection,
            reason=reason,
            actor=acting_user(),
            now=now,
            starts_at=starts_at,
            ends_at=_end(starts_at, span, until.replace(tzinfo=zone).astimezone(UTC) if until else None),
            rule=rule,
            dimension=dimension,
            dimension_value=value,
            maintenance=maintenance,
        )
    until_when = _local(silence.ends_at, settings)
    click.echo(
        f"Silence {silence.silence_id}: {shown(silence.about)} until {until_when}. `metamon silences end {silence.silence_id}` ends it."
    )


def _end(starts_at: datetime, span: str | None, until: datetime | None) -> datetime:
    """When it ends. Raises MetamonError unless exactly one of both says so."""
    from metamon_assets.alerts.catalogue import parse_duration

    if (span is None) == (until is None):
        raise MetamonError("Say how long it is to last: either --for 4h or --until '2026-12-24 18:00'.")
    if until is not None:
        return until
    duration = parse_duration(span or "", units="mhd")
    if duration is None:
        raise MetamonError(f"{span} is no span of time: write one like 90m, 4h or 2d, of at most ten years.")
    return starts_at + duration


@silences.command()
@click.argument("number", type=int)
@with_settings
def end(settings: Settings, number: int) -> None:
    """End silence NUMBER now."""
    from metamon_assets.alerts.silences import end as end_silence
    from metamon_assets.warehouse.audit import acting_user

    with database(settings, existing=True) as connection:
        silence = end_silence(connection, number, acting_user(), datetime.now(UTC))
    click.echo(f"Silence {number} has ended: {shown(silence.about)}.")


# --- messages ----------------------------------------------------------------------------------------------------


@main.group()
def outbox() -> None:
    """List messages, send what was given up again, and test a channel."""


@outbox.command(name="list")
@click.option(
    "--state",
    type=click.Choice(["unsent", "dead", "sent", "suppressed", "all"]),
    default="unsent",
    show_default=True,
    help="Which: unsent are those that wait or were given up.",
)
@click.option("--most", type=click.IntRange(min=1), default=50, show_default=True, help="How many.")
@json_option
@with_settings
def list_messages(settings: Settings, state: str, most: int, as_json: bool) -> None:
    """List messages, the newest first."""
    from metamon_assets.alerts.outbox import listed

    with database(settings, existing=True) as connection:
        found = listed(connection, state, most)
    if as_json:
        print_json(found)
    elif found:
        lines = [_with_state(one, settings) for one in found]
        print_table(MESSAGE_COLUMNS, [tuple(line[column] for column in MESSAGE_COLUMNS) for line in lines])
    else:
        say("No message waits." if state == "unsent" else "There is no such message.")


@outbox.command()
@click.argument("number", type=int)
@with_settings
def retry(settings: Settings, number: int) -> None:
    """Try message NUMBER again at once, and for another day where it was given up."""
    from metamon_assets.alerts.outbox import retry as retry_message
    from metamon_assets.warehouse.audit import acting_user

    with database(settings, existing=True) as connection:
        retry_message(connection, number, acting_user(), datetime.now(UTC))
    click.echo(f"Message {number} is due. `metamon up` sends it.")


@outbox.command(name="test")
@click.argument("channel")
@with_settings
def try_channel(settings: Settings, channel: str) -> None:
    """Send a test message to CHANNEL, through the outbox, together with what waits for it. Exit code 1 when it is not taken."""
    from metamon_assets.alerts.outbox import deliver, listed, write_test
    from metamon_assets.alerts.routing import Policy
    from metamon_assets.warehouse import server
    from metamon_assets.warehouse.roles import WRITER

    policy = Policy.of(settings, {})
    with database(settings) as connection:
        number = write_test(connection, policy, channel, datetime.now(UTC))
        deliver(server.database_url(settings, WRITER), policy, settings, datetime.now(UTC), seconds=TEST_SECONDS, only=channel)
        message = next(one for one in listed(connection, "all") if one["message_id"] == number)
    if message["sent_at"] is None:
        why = message["last_error"] or "other messages of the channel wait before it, or it is busy"
        raise MetamonError(f"Channel {channel} did not take it: {why}. It is tried again while `metamon up` runs.")
    click.echo(f"Channel {channel} took the message.")


def _with_state(message: dict[str, Any], settings: Settings) -> dict[str, Any]:
    state = "waiting"
    if message["suppressed"]:
        state = f"not sent: {message['suppressed']}"
    elif message["sent_at"]:
        state = "sent"
    elif message["dead_at"]:
        state = "given up"
    times = {name: _local(message[name], settings) for name in ("created_at", "sent_at") if message[name]}
    return message | times | {"state": state}


def _local(moment: datetime, settings: Settings) -> str:
    from metamon_assets.alerts.messages import local

    return local(moment, settings.timezone)
