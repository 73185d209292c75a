"""A few database connections that all requests share, and that outlive a restart of the database.

Here belongs lending connections to threads. A connection that has rested is tried before it is lent, so a database
that was away and is back needs nobody to restart the web server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from metamon_assets.errors import MetamonError
from metamon_assets.warehouse import connect

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection

CONNECTIONS = 8
WAIT_SECONDS = 5.0  # for a connection, and for the database to answer when one is opened
STATEMENT_SECONDS = 30
RESTED_SECONDS = 1.0  # a connection used more recently than this is lent without a try


class PoolBusyError(MetamonError):
    """All connections are in use, and stayed so for as long as a request waits."""


class Pool:
    """At most ``size`` connections to ``url``, opened when they are needed."""

    def __init__(self, url: str, size: int = CONNECTIONS) -> None:
        self._url = f"{url}{'&' if '?' in url else '?'}connect_timeout={WAIT_SECONDS:.0f}"
        self._free = threading.BoundedSemaphore(size)
        self._idle: list[tuple[float, Connection]] = []
        self._lock = threading.Lock()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for as long as the block lasts; what the block did not commit is undone.

        Raises PoolBusyError, and psycopg2.OperationalError when the database cannot be reached.
        """
        if not self._free.acquire(timeout=WAIT_SECONDS):
            raise PoolBusyError("The database is busy: all connections of the web server are in use. Try again in a moment.")
        try:
            connection = self._take()
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close what rests; connections that are lent close when they come back."""
        with self._lock:
            resting, self._idle = self._idle, []
        for _, connection in resting:
            connection.close()

    def _take(self) -> Connection:
        while True:
            with self._lock:
                if not self._idle:
                    break
                since, connection = self._idle.pop()
            if time.monotonic() - since < RESTED_SECONDS or _answers(connection):
                return connection
            connection.close()
        connection = connect(self._url, "metamon web")
        with connection, connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = %s", (STATEMENT_SECONDS * 1000,))
        return connection

    def _give_back(self, connection: Connection) -> None:
        import psycopg2

        if not connection.closed:
            try:
                connection.rollback()
            except psycopg2.Error:
                connection.close()
        if connection.closed:
            self.close()  # the others are most likely as broken
            return
        with self._lock:
            self._idle.append((time.monotonic(), connection))


def _answers(connection: Connection) -> bool:
    import psycopg2

    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.rollback()
    except psycopg2.Error:
        return False
    return True
