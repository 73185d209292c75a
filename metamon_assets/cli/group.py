"""The command ``metamon`` itself: its options, and how errors are told to people."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from metamon_assets.errors import MetamonError

# As a newcomer meets them: connect, compute, read; keep it running; look deeper; keep it in order.
ORDER = [
    *("connect", "run", "report", "readiness"),
    *("up", "down", "status", "logs", "config", "event", "token"),
    *("incidents", "silences", "rules", "targets", "outbox"),
    *("ingest", "sql", "dictionary", "replay", "simulate"),
    *("doctor", "migrate", "feed", "web", "alerts", "watch", "exec", "version"),
]


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
        """Commands of Metamon in the order of ORDER, the daily ones first; those of a group as they are defined."""
        return sorted(self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def _for_people(error: Exception) -> bool:
    """Whether the message says what, where, and how to mend it, or is the database's own."""
    psycopg2 = sys.modules.get("psycopg2")
    return (
        _is_unusable_place(error)
        or isinstance(error, MetamonError)
        or (psycopg2 is not None and isinstance(error, psycopg2.OperationalError))
    )


def _is_unusable_place(error: Exception) -> bool:
    """Whether a file or folder cannot be used that is nearly always the home's, or the home itself cannot be made."""
    if not isinstance(error, OSError) or error.filename is None:
        return False
    return isinstance(error, PermissionError | NotADirectoryError) or _home().is_relative_to(str(error.filename))


def _home() -> Path:
    from metamon_assets.config.settings import DEFAULT_HOME

    return Path(os.environ.get("METAMON_HOME") or DEFAULT_HOME).expanduser().absolute()


def _words(error: Exception) -> str:
    """What to say."""
    if isinstance(error, OSError) and error.filename is not None:
        why = "it is no folder" if isinstance(error, FileExistsError) else error.strerror
        return f"{error.filename} cannot be used: {why}. Let METAMON_HOME name a folder that you may read and write."
    from metamon_assets.words import clean

    return clean(str(error)).strip() or type(error).__name__  # what it quotes may be a stranger's


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, envvar="METAMON_DEBUG", help="Show tracebacks of errors. [METAMON_DEBUG=1]")
def main(debug: bool) -> None:
    """Metamon watches AI agents, tells when and why they get worse, and proves what makes them better.

    Data live in METAMON_HOME (default .metamon); metamon.yaml there, or where METAMON_CONFIG says, configures.
    """
