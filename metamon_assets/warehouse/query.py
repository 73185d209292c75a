"""Questions that people ask in SQL: read-only, streamed, with errors that say what to do.

Here belongs running somebody's own query. Queries that are part of Metamon belong to the stage that needs them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection, Cursor

ROWS_AT_A_TIME = 10_000
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

    connection.set_session(readonly=True)
    try:
        with connection.cursor("metamon_sql" if _STREAMED.match(query) else None) as cursor:
            cursor.execute(query)
            yield Answer(cursor)
    except errors.ReadOnlySqlTransaction as error:
        raise QueryError(f"{_first_line(error)}: metamon sql only reads. What is stored changes through Metamon's commands.") from error
    except errors.InsufficientPrivilege as error:
        raise QueryError(
            f"{_first_line(error)}: metamon sql asks as the analyst, who may only read, and neither payloads nor rejected rows' text."
        ) from error
    except psycopg2.Error as error:
        raise QueryError(str(error).strip()) from error
    finally:
        connection.rollback()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
