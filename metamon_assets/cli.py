"""What people type: ``metamon``. Each command reads the configuration, calls one function, prints what it gave.

Here belong options, help texts and printing. Imports stand inside the commands, since ``metamon --help`` must
answer at once. Figures go to standard output (``--json`` for programs), progress and errors to standard error.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import click

from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.config import Settings
    from metamon_assets.warehouse.connection import Connection

TABLE_ROWS = 200  # more are for --csv and --json


class Group(click.Group):
    """Prints errors that people can mend on one screen, without a traceback; --debug shows it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn errors with a message for people into such a message and exit code 1."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if ctx.params.get("debug") or not _for_people(error):
                raise
            click.secho(_words(error), fg="red", err=True)
            ctx.exit(getattr(error, "exit_code", 1))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are defined: the daily ones first."""
        return list(self.commands)


def _for_people(error: Exception) -> bool:
    """Whether the message says what, where, and how to mend it, or is the database's own."""
    psycopg2 = sys.modules.get("psycopg2")
    unusable = isinstance(error, PermissionError | NotADirectoryError) and error.filename is not None
    return unusable or isinstance(error, MetamonError) or (psycopg2 is not None and isinstance(error, psycopg2.OperationalError))


def _words(error: Exception) -> str:
    """What to say. A file or folder that cannot be used is nearly always the home's."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used: {error.strerror}. Let METAMON_HOME name a folder that you may read and write."
    return str(error).strip() or type(error).__name__


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, envvar="METAMON_DEBUG", help="Show tracebacks of errors. [METAMON_DEBUG=1]")
def main(debug: bool) -> None:
    """Metamon watches AI agents, tells when and why they get worse, and proves what makes them better.

    Data live in METAMON_HOME (default .metamon); metamon.yaml there, or where METAMON_CONFIG says, configures.
    """


# Helpers ---------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Progress, for people."""
    click.echo(text, err=True)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--json`` as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def day_option(name: str, meaning: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds an option that takes a UTC day, as ``<name>_day``."""
    return click.option(f"--{name}", f"{name}_day", type=click.DateTime(["%Y-%m-%d"]), metavar="DAY", help=f"{meaning} (UTC, YYYY-MM-DD).")


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Hands the configuration to the command as its first argument."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        from metamon_assets.config import Settings

        return command(Settings.load(), *arguments, **options)

    return run


@contextmanager
def database(settings: Settings, role: str | None = None) -> Iterator[Connection]:
    """A connection to the migrated database; the embedded server runs for as long as it is needed."""
    from metamon_assets.warehouse import connect, server

    with server.ready(settings, say) as url:
        connection = connect(url if role is None else server.database_url(settings, role))
        try:
            yield connection
        finally:
            connection.close()


def print_json(value: Any) -> None:
    """One JSON document on standard output; times as ISO 8601, exact numbers as text."""
    import orjson

    click.echo(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))


def print_table(columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    """A table as wide as its content; NULL stays empty."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        numeric = any(isinstance(row[number], (int, float)) and not isinstance(row[number], bool) for row in rows)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    console.print(table)


# Commands --------------------------------------------------------------------------------------------------


@main.command()
@day_option("from", "First day; by default the first that the sources or the tables have")
@day_option("to", "Last day; by default the last that the sources or the tables have")
@json_option
@with_settings
def run(settings: Settings, from_day: datetime | None, to_day: datetime | None, as_json: bool) -> None:
    """Ingest what is configured, materialise the days, print what was found."""
    from metamon_assets.pipeline import run_days

    if from_day and to_day and from_day > to_day:
        raise click.UsageError("--from lies after --to.")
    report = run_days(settings, _day(from_day), _day(to_day), progress=say)
    if as_json:
        print_json(report)
    else:
        click.echo(report)


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None


@main.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--type", "kind", type=click.Choice(["files", "otlp", "langsmith_export"]), default="files", help="What the files are.")
@click.option("--mapping", help="YAML file, or name of a bundled mapping, that says which columns are which.")
@click.option("--project", default="default", show_default=True, help="Project of rows that name none.")
@json_option
@with_settings
def ingest(settings: Settings, *, paths: tuple[str, ...], kind: str, mapping: str | None, project: str, as_json: bool) -> None:
    """Load files, folders or patterns once, without naming them in metamon.yaml."""
    from metamon_assets.traces.loading import load_once

    entries, failures = [], []
    with database(settings) as connection:
        for path in paths:
            say(f"Reading {path}")
            try:
                entries += load_once(connection, settings, path, source_type=kind, project=project, mapping=mapping)
            except MetamonError as error:
                failures.append(str(error))
    columns = ["source", "project", "kind", "rows_read", "rows_written", "rows_unchanged", "rows_rejected"]
    rows = [tuple(getattr(entry, column) for column in columns) for entry in entries]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif rows:
        print_table(columns, rows)
    if any(entry.rows_rejected for entry in entries):
        say('Why rows were rejected: metamon sql "SELECT reason, detail, location FROM quarantine.rejected_rows"')
    if failures:
        raise MetamonError("\n".join(failures))
    if entries and not any(entry.rows_written or entry.rows_unchanged or entry.rows_excluded for entry in entries):
        raise MetamonError("Every row was rejected; nothing was loaded.")


@main.command()
@click.option("--days", type=click.IntRange(min=1), help="How many days a new sample world gets, up to yesterday. [default: 90]")
@click.option("--per-day", type=click.IntRange(min=1), help="Traces a day. [default: 2000]")
@click.option("--seed", type=int, help="Another seed gives another world. [default: 7]")
@with_settings
def simulate(settings: Settings, days: int | None, per_day: int | None, seed: int | None) -> None:
    """Write a sample world, or its days since the last time, into a home that holds no data of your own."""
    from metamon_assets.simulation.home import furnish

    world = furnish(settings, days=days, traces_per_day=per_day, seed=seed, say=say)
    written = f"{world.days_written} days written, {world.traces:,} traces" if world.days_written else "nothing to add"
    say(f"Sample world of {world.first_day} to {world.last_day} (simulated): {written}")


@main.command()
@with_settings
def up(settings: Settings) -> None:
    """Keep Postgres, the Dagster UI, its daemon and the schedules running until Ctrl-C."""
    from metamon_assets.supervisor import Supervisor

    Supervisor(settings, say).run()


@main.command()
@with_settings
def down(settings: Settings) -> None:
    """Stop what `metamon up` started."""
    from metamon_assets import supervisor

    if not supervisor.down(settings, say):
        say(f"Nothing runs in {settings.home}.")


@main.command()
@json_option
@with_settings
def status(settings: Settings, as_json: bool) -> None:
    """Show which processes run."""
    from metamon_assets import doctor

    found = doctor.status(settings)
    if as_json:
        print_json(found)
        return
    click.echo(f"Home      {found['home']}")
    click.echo(f"Dagster   {found['ui'] or 'not up: metamon up'}")
    for process in found["processes"]:
        state = f"process {process['pid']}" if process["pid"] else "down, starts again"
        click.echo(f"          {process['name']}: {state}, {process['restarts']} restarts")
    click.echo(f"Postgres  {found['postgres']}")


@main.command(name="doctor")
@json_option
@with_settings
def doctor_command(settings: Settings, as_json: bool) -> None:
    """Say what is configured, reachable, missing, and how to mend it. Exit code 1 when something is broken."""
    from metamon_assets import doctor

    findings = doctor.examine(settings)
    if as_json:
        print_json(findings)
    else:
        marks = {"ok": click.style("ok  ", fg="green"), "note": click.style("note", fg="yellow"), "broken": click.style("FAIL", fg="red")}
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            click.echo(f"{marks[finding.state]}  {finding.subject:<{width}}  {finding.found}")
            if finding.mend:
                click.echo(f"      {'':<{width}}  → {finding.mend}")
    if any(finding.state == "broken" for finding in findings):
        sys.exit(1)


@main.command()
@click.option("--dry-run", is_flag=True, help="Only list what would be applied.")
@with_settings
def migrate(settings: Settings, dry_run: bool) -> None:
    """Bring the database to the shape that this version needs."""
    from metamon_assets.warehouse import server

    with server.running(settings, say):
        names = server.bring_up_to_date(settings, say, dry_run=dry_run)
    verb = "To apply" if dry_run else "Applied"
    click.echo(f"{verb}: {', '.join(names)}" if names else "The database is up to date.")


@main.command()
@click.argument("table", required=False)
@json_option
@with_settings
def dictionary(settings: Settings, table: str | None, as_json: bool) -> None:
    """Explain the tables and columns (of TABLE alone, if named) as Markdown."""
    from metamon_assets.warehouse import contracts

    with database(settings) as connection:
        relations = [
            relation
            for relation in contracts.relations(connection)
            if table is None or table in (relation.name, relation.name.split(".")[1])
        ]
    if not relations:
        raise MetamonError(f"There is no table or view {table}: `metamon dictionary` lists all.")
    if as_json:
        print_json(relations)
    else:
        click.echo(contracts.dictionary(relations))


@main.command()
@click.argument("query")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
@with_settings
def sql(settings: Settings, query: str, as_csv: bool, as_json: bool) -> None:
    """Ask the database, as the analyst, who may read but neither write nor see payloads.

    \b
    metamon sql "SELECT * FROM analytics.traces LIMIT 5"
    """
    from metamon_assets.warehouse.query import ask
    from metamon_assets.warehouse.roles import ANALYST

    with database(settings, ANALYST) as connection, ask(connection, query) as answer:
        if as_csv:
            answer.write_csv(sys.stdout)
        elif as_json:
            print_json([dict(zip(answer.distinct_columns, row, strict=True)) for row in answer.rows()])
        else:
            rows, more = answer.first(TABLE_ROWS)
            print_table(answer.columns, rows)
            if more:
                say(f"The first {TABLE_ROWS} rows; all of them with --csv or --json.")


@main.command()
@click.option("--reason", help="Only rows that were rejected for this reason.")
@json_option
@with_settings
def replay(settings: Settings, reason: str | None, as_json: bool) -> None:
    """Read again what was rejected, after its cause was mended at the source."""
    from metamon_assets.traces.configured import open_sources
    from metamon_assets.traces.replay import replay as read_again

    with database(settings) as connection:
        found = read_again(connection, open_sources(connection, settings), reason=reason, report=say)
    if as_json:
        print_json(found)
    elif not found:
        say("Nothing waits in quarantine.")
    else:
        columns = ["source", "project", "kind", "window", "waiting", "accepted", "message"]
        print_table(columns, [tuple(getattr(entry, column) for column in columns) for entry in found])


@main.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@with_settings
def execute(settings: Settings, command: tuple[str, ...]) -> None:
    """Run a program, such as `dagster` or `dg`, with Postgres up and this home's Dagster environment.

    \b
    metamon exec dagster job list -m metamon_assets.definitions
    """
    import os
    import subprocess
    import sysconfig

    from metamon_assets.supervisor import dagster_environment
    from metamon_assets.warehouse import server

    with server.ready(settings, say):
        server.prepare_dagster_storage(settings)
        environment = dagster_environment(settings)
        environment["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), environment.get("PATH", "")])
        try:
            code = subprocess.run(command, env=environment, check=False).returncode
        except FileNotFoundError as error:
            raise MetamonError(f"There is no program {command[0]} on PATH.") from error
    sys.exit(code)


@main.command()
def version() -> None:
    """Print the versions of Metamon, Python and Dagster."""
    import platform
    from importlib.metadata import version as version_of

    click.echo(f"metamon {version_of('metamon')}, Python {platform.python_version()}, Dagster {version_of('dagster')}")
