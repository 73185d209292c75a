"""Questions that people ask in SQL: read-only, streamed, with errors that say what to do.

Here belongs running somebody's own query. Queries that are part of Metamon belong to the stage that needs them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from metamon_assets.errors import MetamonError, first_line

if TYPE_CHECKING:
    import psycopg2

    from metamon_assets.warehouse.connection import Connection, Cursor

ROWS_AT_A_TIME = 10_000
MARGIN = 50  # characters shown of a query on each side of what is wrong in it
_STREAMED = re.compile(r"\s*(--[^\n]*\n|/\*.*?\*/|\s|\()*(select|with|values|table)\b", re.IGNORECASE | re.DOTALL)


class QueryError(MetamonError):
    """The query was refused; the message has the database's words and, for writes, why."""


class Answer:
    """What a query gave: column names, and rows as they are fetched."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._fetched: list[tuple[Any, ...]] = cursor.fetchmany(ROWS_AT_A_TIME) if cursor.name or cursor.description else []
        self.columns = [column.name for column in cursor.description or ()]

    @property
    def distinct_columns(self) -> list[str]:
        """The column names, told apart where several are the same: sum, sum_2."""
        seen: dict[str, int] = {}
        names = []
        for name in self.columns:
            seen[name] = seen.get(name, 0) + 1
            names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
        return names

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """All rows, once."""
        while self._fetched:
            yield from self._fetched
            self._fetched = self._cursor.fetchmany(ROWS_AT_A_TIME)

    def first(self, limit: int) -> tuple[list[tuple[Any, ...]], bool]:
        """At most ``limit`` rows (up to ROWS_AT_A_TIME), and whether there are more."""
        return self._fetched[:limit], len(self._fetched) > limit

    def write_csv(self, file: IO[str]) -> None:
        """All rows with a header; NULL is an empty field."""
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows())


@contextmanager
def ask(connection: Connection, query: str) -> Iterator[Answer]:
    """Run ``query`` in a transaction that cannot write, and undo it. Raises QueryError."""
    import psycopg2
    from psycopg2 import errors

    if _several(query):
        raise QueryError("This is more than one statement, and only one is run at a time: ask them one by one.")
    connection.set_session(readonly=True)
    try:
        with connection.cursor("metamon_sql" if _STREAMED.match(query) else None) as cursor:
            cursor.execute(query)
            yield Answer(cursor)
    except errors.ReadOnlySqlTransaction as error:
        raise QueryError(f"{first_line(error)}: metamon sql only reads. What is stored changes through Metamon's commands.") from error
    except errors.InsufficientPrivilege as error:
        raise QueryError(
            f"{first_line(error)}: metamon sql asks as the analyst, who may only read, and neither payloads nor rejected rows' text."
        ) from error
    except psycopg2.Error as error:
        raise QueryError(_words(error, query)) from error
    finally:
        connection.rollback()


def _several(query: str) -> bool:
    """Whether something follows the end of the first statement. What cannot be read is left for the database to complain of."""
    from sqlglot import tokenize
    from sqlglot.errors import TokenError

    try:
        kinds = [token.token_type.name for token in tokenize(query, read="postgres")]
    except TokenError:
        return False
    while kinds and kinds[-1] == "SEMICOLON":
        kinds.pop()
    return "SEMICOLON" in kinds


def _words(error: psycopg2.Error, query: str) -> str:
    """The database's words, with the place in the query as it was asked: what the database names lies in the cursor around it."""
    said = error.diag
    if not said.message_primary:
        return str(error).strip()
    lines = [said.message_primary, *_place(error, query)]
    lines += [f"{name}: {text}" for name, text in (("DETAIL", said.message_detail), ("HINT", said.message_hint)) if text]
    return "\n".join(lines)


def _place(error: psycopg2.Error, query: str) -> Iterator[str]:
    """The line of the query that is wrong, and a mark under the place."""
    if not error.diag.statement_position or error.cursor is None or not error.cursor.query:
        return
    around = len(error.cursor.query.decode("utf-8", "replace")) - len(query)
    before = query[: int(error.diag.statement_position) - 1 - around]
    number, start = before.count("\n") + 1, before.rfind("\n") + 1
    cut = max(0, len(before) - start - MARGIN)
    line = query[start:].split("\n", 1)[0][cut : cut + 2 * MARGIN]
    label = f"LINE {number}: {'…' if cut else ''}"
    yield label + line
    yield " " * (len(label) + len(before) - start - cut) + "^"
