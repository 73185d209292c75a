"""Commands about targets: what metrics should be, and which of them count."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from metamon_assets.cli.group import main
from metamon_assets.cli.output import database, json_option, print_json, print_table, say, with_settings

if TYPE_CHECKING:
    from metamon_assets.config import Settings
    from metamon_assets.health.targets import Target

COLUMNS = ["name", "state", "wanted", "value", "met", "budget_left", "day", "remark"]


@main.group()
def targets() -> None:
    """List, accept and withdraw targets: what metrics should be. Only accepted ones alert."""


@targets.command(name="list")
@click.option("--accepted", is_flag=True, help="Only those that count.")
@json_option
@with_settings
def list_targets(settings: Settings, accepted: bool, as_json: bool) -> None:
    """List the targets with how they stood on the last computed day."""
    from metamon_assets.health.slo import last_status
    from metamon_assets.health.targets import follow, listed, suggest

    with database(settings) as connection:
        suggest(connection, datetime.now(UTC))
        follow(connection, settings, datetime.now(UTC))
        stood = last_status(connection)
        found = [_line(target, stood.get(target.name, {})) for target in listed(connection, accepted=accepted)]
    if as_json:
        print_json(found)
    elif found:
        print_table(COLUMNS, [tuple(_short(line[column]) for column in COLUMNS) for line in found])
        say("`metamon targets accept NAME` lets one count." if stood else "How they stand is computed by `metamon run` and each night.")
    else:
        say("No target is accepted yet: `metamon targets list` shows the suggestions, `metamon targets accept NAME` lets one count.")


@targets.command()
@click.argument("name")
@click.option("--objective", type=float, help="Another bound than the suggested one, in the metric's own unit: 0.02 for 2 %, 25 for $25.")
@with_settings
def accept(settings: Settings, name: str, objective: float | None) -> None:
    """Let the target NAME count from now on: it alerts when its error budget burns."""
    from metamon_assets.health.targets import accept as accept_target
    from metamon_assets.health.targets import suggest
    from metamon_assets.warehouse.audit import acting_user

    now = datetime.now(UTC)
    with database(settings) as connection:
        suggest(connection, now)
        target = accept_target(connection, name, acting_user(), now, objective)
    click.echo(f"{target.name} counts from now on: {target.words}.")


@targets.command()
@click.argument("name")
@with_settings
def withdraw(settings: Settings, name: str) -> None:
    """Make the target NAME a suggestion again: it is measured and no longer alerts."""
    from metamon_assets.health.targets import withdraw as withdraw_target
    from metamon_assets.warehouse.audit import acting_user

    with database(settings) as connection:
        withdraw_target(connection, name, acting_user(), datetime.now(UTC))
    click.echo(f"{name} is a suggestion again.")


def _line(target: Target, stood: dict[str, Any]) -> dict[str, Any]:
    state = f"accepted by {target.accepted_by}" if target.accepted_by else "suggested"
    return {"name": target.name, "state": state, "wanted": target.words, **{column: stood.get(column) for column in COLUMNS[3:]}}


def _short(value: Any) -> Any:
    """As a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else value
