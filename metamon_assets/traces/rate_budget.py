"""How many calls a key may make: within this process, and over all processes that share a database.

LangSmith counts run queries by API key, whoever makes them: the live feed, daily runs, backfills, commands. So they book
their calls in one place, the table ``metamon.rate_budgets``, by the clock of the database. Postgres is what all of them
have at hand already; the table is unlogged, so that booking writes nothing to disk and takes a fraction of a millisecond.

While a live feed calls, it may use the whole budget and everything else two thirds of it, so that a backfill never keeps
new data waiting for more than a few calls; where no feed has called for two minutes, nothing is kept back. A
``Retry-After`` holds for everybody who uses the key, for an hour at most: what asks for longer is asked again then.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import psycopg2
from psycopg2.extensions import make_dsn

from metamon_assets.errors import first_line

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection

logger = logging.getLogger(__name__)

RUN_QUERIES = 15  # LangSmith's documented limit, per key
OTHER_RUN_QUERIES = 10  # of those that are not live, while a live feed calls
LONGEST_PAUSE = 3_600.0  # seconds: a Retry-After beyond it is not believed
SECONDS = 10.5  # LangSmith counts 10: calls may arrive somewhat closer together than they were booked


class OverBudgetError(Exception):
    """No call fits into the budget for longer than the caller would wait; ``seconds`` is how long it takes."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no call is possible for {seconds:.0f} s")
        self.seconds = seconds


class Budget(Protocol):
    """What a reader asks before it calls."""

    def acquire(self, patience: float = math.inf) -> None:
        """Wait until a call fits into the budget, and book it. Raises OverBudgetError if that takes over ``patience`` seconds."""
        ...

    def pause(self, seconds: float) -> None:
        """Let nobody call for that long: the server asked for it (``Retry-After``)."""
        ...


class RateBudget:
    """At most ``limit`` calls in any span of ``seconds``, over all threads that share the object.

    A sliding window, stricter than a token bucket (which lets twice the limit through around a refill): the
    documented limit of run queries is 15 in 10 seconds for each API key.
    """

    def __init__(self, limit: int = RUN_QUERIES, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._calls: deque[float] = deque(maxlen=limit)
        self._paused_until = 0.0
        self._lock = Lock()

    def acquire(self, patience: float = math.inf) -> None:
        """See ``Budget.acquire``."""
        _wait_for(self.book, patience)

    def pause(self, seconds: float) -> None:
        """See ``Budget.pause``."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + min(seconds, LONGEST_PAUSE))

    def book(self) -> float:
        """Book a call and give 0, or give the seconds until one may fit."""
        with self._lock:
            now = time.monotonic()
            full = len(self._calls) == self._calls.maxlen
            free_at = max(self._paused_until, self._calls[0] + self._seconds if full else 0.0)
            if free_at <= now:
                self._calls.append(now)
            return max(free_at - now, 0.0)


class SharedBudget:
    """The budget of a key over all processes that use the database of ``connection``.

    It opens a connection of its own beside that one, when the first call is booked. Without the database it counts in
    this process alone, and says so. ``live``: may use the whole budget, not only the share of everybody else.
    """

    def __init__(
        self,
        connection: Connection,
        address: str,
        key: str | None,
        *,
        live: bool = False,
        most: int = RUN_QUERIES,
        most_others: int = OTHER_RUN_QUERIES,
        seconds: float = SECONDS,
    ) -> None:
        known = connection.info.dsn_parameters | {"password": connection.info.password, "application_name": "metamon rate budget"}
        self._dsn = make_dsn(**{name: value for name, value in known.items() if value})
        self._key_hash = hashlib.sha256(f"{address}\n{key}".encode()).hexdigest()
        self._arguments = (live, most, most_others, f"{seconds} seconds")
        self._connection: Connection | None = None
        self._alone = RateBudget(most if live else most_others, seconds)
        self._lock = Lock()

    def acquire(self, patience: float = math.inf) -> None:
        """See ``Budget.acquire``."""
        _wait_for(self._book, patience)

    def pause(self, seconds: float) -> None:
        """See ``Budget.pause``."""
        self._alone.pause(seconds)
        self._ask(
            "INSERT INTO metamon.rate_budgets AS b (key_hash, paused_until) VALUES (%s, clock_timestamp() + make_interval(secs => %s))"
            " ON CONFLICT (key_hash) DO UPDATE SET paused_until = greatest(b.paused_until, excluded.paused_until) RETURNING 0.0::float8",
            (self._key_hash, min(seconds, LONGEST_PAUSE)),
        )

    def _book(self) -> float:
        wait = self._ask("SELECT metamon.book_call(%s, %s, %s, %s, %s)", (self._key_hash, *self._arguments))
        return self._alone.book() if wait is None else wait

    def _ask(self, statement: str, values: tuple[object, ...]) -> float | None:
        """The one number that a statement gives; None without the database."""
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg2.connect(self._dsn)
                    self._connection.autocommit = True
                with self._connection.cursor() as cursor:
                    cursor.execute(statement, values)
                    return float(cursor.fetchone()[0])  # type: ignore[index]
            except psycopg2.Error as error:
                self._connection = None
                reason = first_line(error)
                logger.warning("The rate budget is counted in this process alone: %s", reason)
                return None


def _wait_for(book: Callable[[], float], patience: float) -> None:
    deadline = time.monotonic() + patience
    while (wait := book()) > 0:
        if time.monotonic() + wait > deadline:
            raise OverBudgetError(wait)
        time.sleep(wait)
