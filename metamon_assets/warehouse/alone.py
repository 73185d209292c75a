"""One process at a time for a kind of work on a database: the others stand by and take over when it is gone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection

STANDBY_SECONDS = 5.0

logger = logging.getLogger(__name__)


@contextmanager
def only_one(open_connection: Callable[[], Connection], work: str, stop: threading.Event) -> Iterator[Connection | None]:
    """The connection that holds the lock of ``work`` ("feed"), as soon as no other process does; None when stopped before.

    The lock goes with the connection. Raises psycopg2's errors.
    """
    connection = open_connection()
    told = False
    try:
        while not stop.is_set():
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"metamon:{work}",))
                (ours,) = cursor.fetchone() or (False,)
            if ours:
                yield connection
                return
            if not told:
                logger.info("Another process does the same (%s) on this database; this one stands by and takes over when it is gone", work)
                told = True
            stop.wait(STANDBY_SECONDS)
        yield None
    finally:
        connection.close()
