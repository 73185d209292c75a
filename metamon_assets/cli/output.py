"""What commands share: options, the database, and how figures and progress are printed."""

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


def shown(value: object) -> str:
    """A value as text for a terminal, which would obey control characters in a stranger's name."""
    from metamon_assets.words import clean

    return clean(str(value))


def say(text: str) -> None:
    """Progress, for people."""
    click.echo(shown(text), err=True)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--json`` as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def day_option(name: str, meaning: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds an option that takes a UTC day, as ``<name>_day``."""
    return click.option(f"--{name}", f"{name}_day", type=click.DateTime(["%Y-%m-%d"]), metavar="DAY", help=f"{meaning} (UTC, YYYY-MM-DD).")


def as_day(moment: datetime | None) -> date | None:
    """The day of a ``day_option``."""
    return moment.date() if moment else None


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Hands the configuration to the command as its first argument."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        from metamon_assets.config import Settings

        return command(Settings.load(), *arguments, **options)

    return run


def with_home(command: Callable[..., Any]) -> Callable[..., Any]:
    """As ``with_settings``, for commands that need the home alone: a metamon.yaml that cannot be used keeps none of them from working."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        from metamon_assets.config import Settings

        settings, unusable = Settings.load_or_defaults()
        if unusable:
            say(f"{settings.config_path} cannot be used (`metamon config check` says why); this command goes on without it.")
        return command(settings, *arguments, **options)

    return run


@contextmanager
def database(settings: Settings, role: str | None = None, *, noted: bool = True, existing: bool = False) -> Iterator[Connection]:
    """A connection to the migrated database; the embedded server runs for as long as it is needed.

    Unless ``noted`` is false the configuration goes to the audit log when it has changed. ``existing``: for commands that
    only read, which make no database in a home that has none. Raises MetamonError for that.
    """
    from metamon_assets.warehouse import connect, server

    if existing and not has_database(settings):
        raise MetamonError(
            f"There is no data in {settings.home} yet: connect a source with `metamon connect langsmith`, `metamon connect files PATH` or"
            " `metamon connect otlp`, see the sample world with `make run`, or let METAMON_HOME name another folder."
        )
    with server.ready(settings, say, noted=noted) as url:
        connection = connect(url if role is None else server.database_url(settings, role))
        try:
            yield connection
        finally:
            connection.close()


def has_database(settings: Settings) -> bool:
    """Whether there is something to read: a database of one's own, or an embedded one that was made."""
    from metamon_assets.warehouse.postgres import EmbeddedPostgres

    return settings.database_url is not None or EmbeddedPostgres(settings.home).status().version is not None


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
        table.add_column(Text(shown(column)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else shown(value)) for value in row))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    console.print(table)
