"""Commands about data: compute days, load, look, read again."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, fields
from datetime import datetime
from typing import TYPE_CHECKING

import click

from metamon_assets.cli.group import main
from metamon_assets.cli.output import as_day, database, day_option, json_option, print_json, print_table, say, with_settings
from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.config import Settings
    from metamon_assets.traces.replay import Problem, Replayed

TABLE_ROWS = 200  # more are for --csv and --json


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
    report = run_days(settings, as_day(from_day), as_day(to_day), progress=say)
    if as_json:
        print_json(report)
    else:
        click.echo(report)


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
    reasons: Counter[str] = sum((entry.reject_reasons for entry in entries), Counter())
    if reasons:
        say(f"Rejected: {', '.join(f'{number:,} {reason}' for reason, number in reasons.most_common(3))}; more: metamon replay --list")
    if failures:
        raise MetamonError("\n".join(failures))
    if entries and not any(entry.rows_written or entry.rows_unchanged or entry.rows_excluded for entry in entries):
        raise MetamonError(_all_rejected(reasons, mapped=kind != "files" or mapping is not None))


def _all_rejected(reasons: Counter[str], *, mapped: bool) -> str:
    most = next((reason for reason, _ in reasons.most_common(1)), "")
    unnamed = not mapped and most.startswith("missing_")
    hint = " For columns of other names, `metamon connect files PATH` guesses which are which." if unnamed else ""
    return f"Every row was rejected, most of them as {most}; nothing was loaded.{hint}"


@main.command()
@click.option("--days", type=click.IntRange(min=1), help="How many days a new sample world gets, up to yesterday. [default: 28]")
@click.option("--per-day", type=click.IntRange(min=1), help="Traces a day. [default: 1000]")
@click.option("--seed", type=int, help="Another seed gives another world. [default: 7]")
@with_settings
def simulate(settings: Settings, days: int | None, per_day: int | None, seed: int | None) -> None:
    """Write a sample world, or its days since the last time, into a home that holds no data of your own."""
    from metamon_assets.simulation.home import furnish

    world = furnish(settings, days=days, traces_per_day=per_day, seed=seed, say=say)
    written = f"{world.days_written} days written, {world.traces:,} traces" if world.days_written else "nothing to add"
    say(f"Sample world of {world.first_day} to {world.last_day} (simulated): {written}")


@main.command()
@click.argument("table", required=False)
@json_option
@with_settings
def dictionary(settings: Settings, table: str | None, as_json: bool) -> None:
    """Explain the tables and columns (of TABLE alone, if named) as Markdown."""
    from metamon_assets.warehouse import contracts

    with database(settings, existing=True) as connection:
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

    with database(settings, ANALYST, existing=True) as connection, ask(connection, query) as answer:
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
@click.option("--list", "only_list", is_flag=True, help="Read nothing: only sum up what waits in quarantine, by what is wrong with it.")
@click.option("--reason", help="Only rows that were rejected for this reason.")
@json_option
@with_settings
def replay(settings: Settings, only_list: bool, reason: str | None, as_json: bool) -> None:
    """Read again what was rejected, after its cause was mended at the source."""
    from metamon_assets.traces.configured import open_sources
    from metamon_assets.traces.replay import problems
    from metamon_assets.traces.replay import replay as read_again

    found: Sequence[Problem] | Sequence[Replayed]
    with database(settings, existing=True) as connection:
        if only_list:
            found = problems(connection, reason)
        else:
            found = read_again(connection, open_sources(connection, settings), reason=reason, report=say)
    if as_json:
        print_json(found)
    elif not found:
        say("Nothing waits in quarantine.")
    else:
        print_table([field.name for field in fields(found[0])], [astuple(entry) for entry in found])
