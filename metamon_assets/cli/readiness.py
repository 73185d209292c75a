"""The command that says what works with the traffic there is: ``metamon readiness``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from metamon_assets.cli.group import main
from metamon_assets.cli.output import database, json_option, print_json, with_settings

if TYPE_CHECKING:
    from metamon_assets.config import Settings
    from metamon_assets.reports.readiness import Readiness

_COLOURS = {"ready": "green", "wider window": "yellow", "not yet": "red"}


@main.command()
@click.option("--days", type=click.IntRange(min=1), default=14, show_default=True, help="How many days to look back.")
@click.option("--project", help="Only traces of this project.")
@click.option("--agent", help="Only traces of this agent.")
@json_option
@with_settings
def readiness(settings: Settings, *, days: int, project: str | None, agent: str | None, as_json: bool) -> None:
    """Say what works with the traffic there is, the smallest effect it shows, and what takes how long."""
    from metamon_assets.reports.findings import Context
    from metamon_assets.reports.readiness import assess
    from metamon_assets.reports.report import check_names, last_days

    now = datetime.now(UTC)
    with database(settings, existing=True) as connection:
        check_names(connection, project, agent)
        start, end = last_days(connection, now, days, project, agent)
        found = assess(Context(connection, start, end, now, settings.timezone, project, agent, settings))
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: list[Readiness]) -> None:
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from metamon_assets import words
    from metamon_assets.reports.sections.readiness import STATES, TRAFFIC, merged, waiting

    click.echo(f"{TRAFFIC}\n")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for agent in dict.fromkeys(entry.agent for entry in found):
        table = Table(
            title=Text("All runs" if agent is None else words.name(agent), style="bold"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        for name in ("feature", "traffic", "why", "smallest effect", "enough in about"):
            table.add_column(name, overflow="fold")
        for entry in merged([entry for entry in found if entry.agent == agent]):
            state = Text(STATES[entry.state], style=_COLOURS[entry.state])
            table.add_row(entry.feature, state, Text(entry.why), entry.smallest_effect or "–", waiting(entry))
        console.print(table)
