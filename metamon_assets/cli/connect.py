"""``metamon connect``: the first hour with a source of one's own."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metamon_assets.cli.group import Group, main
from metamon_assets.cli.output import as_day, database, day_option, say, with_settings

if TYPE_CHECKING:
    from metamon_assets.config import Settings
    from metamon_assets.onboarding.connect import Connected, Options
    from metamon_assets.onboarding.dialogue import Dialogue
    from metamon_assets.warehouse.connection import Connection


@main.group(cls=Group)
def connect() -> None:
    """Connect a source of your own: check it, guess what is where, write metamon.yaml, read the past, report.

    Asks at most three questions, each with a default; with --yes, or without a terminal, none.
    """


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every source has."""
    options = (
        click.option("--project", "projects", multiple=True, help="Project: in LangSmith one to read, elsewhere the name that rows get."),
        click.option("--map", "edits", multiple=True, metavar="COLUMN=PLACE", help="Where a column is found; none: nowhere. [repeatable]"),
        day_option("from", "First day to read"),
        click.option("--backfill/--no-backfill", default=None, help="Read the past at once, or leave it to `metamon run`."),
        click.option("--yes", "-y", is_flag=True, help="Ask nothing: take the defaults."),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@connect.command()
@click.option("--key", metavar="NAME", help="Environment variable that holds the key. [default: LANGSMITH_API_KEY]")
@click.option(
    "--endpoint",
    envvar=["LANGSMITH_ENDPOINT", "LANGCHAIN_ENDPOINT"],
    show_envvar=True,
    help="Address of the API, for the EU or a server of your own.",
)
@click.option("--workspace", "workspace_id", help="Workspace, for keys that see several.")
@click.option("--days", type=click.IntRange(0, 3650), help="How many days back to read. [default: 14]")
@_common
@with_settings
def langsmith(settings: Settings, *, yes: bool, **given: Any) -> None:
    """Read a project of LangSmith by its API."""
    from metamon_assets.onboarding.connect import connect_langsmith

    _finish(settings, connect_langsmith(settings, _options(given), _dialogue(yes)))


@connect.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--zone", help="Time zone of times that name none, such as Europe/Vienna. [default: UTC]")
@_common
@with_settings
def files(settings: Settings, path: Path, *, yes: bool, **given: Any) -> None:
    """Read CSV, JSON lines or Parquet at PATH: a file, a folder or a pattern, whatever its columns are called."""
    from metamon_assets.onboarding.connect import connect_files

    _finish(settings, connect_files(settings, path, _options(given), _dialogue(yes)))


@connect.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--wait", type=click.IntRange(min=0), metavar="SECONDS", help="Without PATH: wait so long for the first span.")
@_common
@with_settings
def otlp(settings: Settings, path: Path | None, *, wait: int | None, yes: bool, **given: Any) -> None:
    """Receive OpenTelemetry from an application, or read OTLP/JSON files at PATH.

    Without PATH a token is made, and what the application has to set is printed.
    """
    from metamon_assets.onboarding.connect import connect_otlp, refuse_sample_world

    if path is not None:
        _finish(settings, connect_otlp(settings, path, _options(given), _dialogue(yes)))
        return
    refuse_sample_world(settings)
    with database(settings) as connection:
        _receive(settings, connection, wait)


def _receive(settings: Settings, connection: Connection, wait: int | None) -> None:
    from datetime import UTC

    from metamon_assets.errors import MetamonError
    from metamon_assets.onboarding import receiving
    from metamon_assets.onboarding.guess import printable
    from metamon_assets.supervisor import read_state

    running = (read_state(settings.home) or {}).get("web")
    endpoint = receiving.endpoint_of(settings, running)
    begun, token = datetime.now(UTC), receiving.new_token(connection)
    if running is None and settings.web.public_url is None and receiving.taken(settings):
        say(
            f"Something listens at {endpoint} already. Unless that is `metamon web`, `metamon up` takes the next free port, and the token"
            " must not be sent to the other: take the address from `metamon status` once Metamon is up.\n"
        )
    say("The token below may only send data. It is shown this once; `metamon token revoke` takes it back.\n")
    say("Environment variables, for any language:\n")
    click.echo(receiving.environment_lines(endpoint, token))
    say("\nOr in Python:\n")
    click.echo(receiving.python_lines(endpoint, token))
    say("\nnext: metamon up (it receives at that address), then start the application")
    if wait:
        say(f"Waiting up to {wait} s for the first span …")
        found = receiving.first_span(connection, begun, wait)
        if found is None:
            raise MetamonError(
                f"No span came within {wait} s. Is `metamon up` or `metamon web` running, does the application send to {endpoint},"
                " and did it end a span? Its exporter says why it was refused."
            )
        say(f"The first span has come: {printable(found[1])} of {printable(found[0])}. next: metamon report")


def _options(given: dict[str, Any]) -> Options:
    from metamon_assets.onboarding.connect import Options, read_edits

    edits, first = read_edits(given.pop("edits")), as_day(given.pop("from_day"))
    return Options(edits=edits, first=first, **given)


def _dialogue(yes: bool) -> Dialogue:
    from metamon_assets.onboarding.dialogue import Dialogue

    def prompt(question: str, default: str) -> str:
        return str(click.prompt(question, default=default, err=True))

    return Dialogue(say, None if yes or not sys.stdin.isatty() else prompt)


def _finish(settings: Settings, connected: Connected) -> None:
    """Read the past and report, or say what comes next."""
    if not connected.backfill:
        say("next: metamon run (reads and reports), then metamon up (keeps watching)")
        return
    from metamon_assets.config import Settings as Loaded
    from metamon_assets.onboarding.backfill import backfill

    settings = Loaded.load()
    backfill(settings, connected.first, say=say, show=functools.partial(_show_report, settings))
    say("next: metamon up (keeps watching), metamon report --help")


def _show_report(settings: Settings, connection: Connection) -> None:
    """The report on the last two weeks that have traces."""
    from datetime import UTC

    from metamon_assets.reports.report import build_report, last_days
    from metamon_assets.reports.terminal import print_report

    now = datetime.now(UTC)
    start, end = last_days(connection, now)
    print_report(build_report(connection, settings, start, end, now), sys.stdout)
