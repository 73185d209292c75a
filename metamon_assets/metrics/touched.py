"""Buckets whose runs changed: which are computed again, in what order, and how often.

Whoever merges live runs notes the five-minute buckets that they touch in ``metamon.touched_buckets``, in the same
transaction: by the clock of starts for reporting, by the clock of ends for detection (every bucket that a run was in
flight in, and the one it ended in). ``drain`` takes what waits, computes those buckets and deletes the notes that it
took, in that order, so that a crash repeats work and loses none. How a bucket is computed is in ``rollups`` and
``completions``.

Completion buckets go first, since alerts wait for them; who calls for each clock on a connection of its own spares them
the wait for a large reporting bucket. Each kind of work may take a share of one core's time: after a refresh that took
a second it rests for some two and a half (``SHARE``), however the caller hurries. So the lag grows with the traffic,
and the load does not.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from metamon_assets.metrics.completions import bucket_of, refresh_completions
from metamon_assets.metrics.rollups import FIVE_MINUTES_KEPT, Refreshed, refresh_five_minutes, touched_buckets

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection

CLOCKS = ("end", "start")  # completion buckets, since alerts wait for them, before reporting buckets
SHARE = 0.3  # of one core's time that each kind of work may take
SECONDS = 1.0  # after which a drain starts no further bucket, so that the newest ones get their turn again
LIVE = timedelta(minutes=30)  # buckets that live data touch; older ones are being caught up with
MOST_NOTES = 200_000  # that one drain looks at
IN_FLIGHT_EVERY = timedelta(seconds=60)
_LOCK_TIMEOUT = "2s"  # a day that a run of the pipeline is computing waits for the next drain

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain did: reporting buckets and completion buckets computed, their rows, and what is left.

    ``wait_seconds``: there is no point in draining again sooner.
    """

    buckets: int = 0
    completion_buckets: int = 0
    refreshed: Refreshed = field(default_factory=Refreshed)
    completion_rows: int = 0
    failed: int = 0
    waiting: int = 0
    wait_seconds: float = 0.0


@dataclass(slots=True)
class _Waiting:
    """A bucket that waits: its five-minute buckets, the notes about it and the earliest of them."""

    start: datetime
    buckets: list[datetime] = field(default_factory=list)
    touches: list[int] = field(default_factory=list)
    oldest: datetime | None = None


def drain(
    connection: Connection, now: datetime, *, clocks: Sequence[str] = CLOCKS, seconds: float = SECONDS, share: float = SHARE
) -> Drained:
    """Compute the buckets that wait, as far as ``seconds`` reach; with those by the end, each minute also what is in flight now.

    ``now`` is the time that buckets are computed for; waiting and resting go by the server's clock. Safe to call from
    several threads and processes, each with a connection of its own: of those that ask for a clock all but one find
    nothing to do. A bucket that cannot be computed is logged and waits on; the others are computed. Raises psycopg2's
    errors when the connection is lost.
    """
    drained = Drained()
    for clock in clocks:
        with _alone(connection, clock) as alone:
            if alone:
                before = _settle(connection, now, share, drained) if clock == "end" else drained
                drained = _work(connection, clock, now, seconds, share, before)
    return drained


def _settle(connection: Connection, now: datetime, share: float, drained: Drained) -> Drained:
    """Each minute, say what is in flight."""
    if _rest(connection, "in_flight", share) > 0:
        return drained
    started = time.monotonic()
    rows = _attempt(connection, "what is in flight", lambda: refresh_in_flight(connection, now))
    _finish(connection, "in_flight", started, 1, int(rows is None), None)
    return replace(drained, completion_rows=drained.completion_rows + (rows or 0), failed=drained.failed + int(rows is None))


def drop_spare_notes(connection: Connection, now: datetime) -> int:
    """Drop notes that nothing will be computed for, or that say what a later one says; gives how many.

    While no feed runs, nobody takes the notes of what is sent here, millions a day. A later note about the same bucket stands
    for an earlier one, and buckets older than five minutes are kept are not computed any more.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM metamon.touched_buckets AS t USING (SELECT bucket_start, clock, max(touch_id) AS last_touch"
            "   FROM metamon.touched_buckets GROUP BY bucket_start, clock) AS newest"
            " WHERE t.bucket_start = newest.bucket_start AND t.clock = newest.clock"
            " AND (t.touch_id < newest.last_touch OR t.bucket_start < %s)",
            (now - FIVE_MINUTES_KEPT,),
        )
        return int(cursor.rowcount)


def refresh_in_flight(connection: Connection, now: datetime) -> int:
    """Say what is in flight at ``now``, also when nothing arrives, and settle the buckets of the last day that have ended since.

    Gives the rows written.
    """
    current = bucket_of(now)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT bucket_start FROM metamon.completion_metrics WHERE dimension = 'overall' AND dimension_value = '(all)'"
            " AND day >= %s AND bucket_start < %s AND in_flight_at < bucket_start + interval '5 minutes'",
            ((now - timedelta(days=1)).date(), current),
        )
        unsettled = [bucket for (bucket,) in cursor.fetchall()]
    # The current one on its own and first: a day before that somebody else computes must not keep it from being told.
    return refresh_completions(connection, [current], now) + refresh_completions(connection, unsettled, now)


def _work(connection: Connection, clock: str, now: datetime, seconds: float, share: float, drained: Drained) -> Drained:
    """Compute the buckets of one clock that wait, if its rest is over; ``drained`` with what came of it."""
    waiting = _waiting(connection, clock, now)
    if not waiting:
        return drained
    if (rest := _rest(connection, clock, share)) > 0:
        sooner = min(rest, drained.wait_seconds) if drained.waiting else rest
        return replace(drained, waiting=drained.waiting + len(waiting), wait_seconds=sooner)
    started = time.monotonic()
    done: list[_Waiting] = []
    failed = 0
    locked: set[date] = set()  # days that somebody else computes: to wait again for each of their buckets would hold up the live ones
    for bucket in _in_order(waiting, now):
        if len(done) >= 2 and time.monotonic() - started >= seconds:
            break
        if bucket.start.date() in locked:
            failed += 1
            continue
        compute = partial(_compute, connection, clock, bucket, now)
        refreshed = _attempt(
            connection, f"the bucket of {bucket.start:%Y-%m-%d %H:%M} ({clock})", compute, partial(locked.add, bucket.start.date())
        )
        if refreshed is None:
            failed += 1
            continue
        done.append(bucket)
        drained = _add(drained, clock, len(bucket.buckets), refreshed)
    oldest = min((bucket.oldest for bucket in done if bucket.oldest is not None), default=None)
    _finish(connection, clock, started, len(done), failed, oldest)
    return replace(drained, failed=drained.failed + failed, waiting=drained.waiting + len(waiting) - len(done))


def _add(drained: Drained, clock: str, buckets: int, refreshed: Refreshed | int) -> Drained:
    if isinstance(refreshed, int):
        return replace(
            drained, completion_buckets=drained.completion_buckets + buckets, completion_rows=drained.completion_rows + refreshed
        )
    return replace(drained, buckets=drained.buckets + buckets, refreshed=drained.refreshed + refreshed)


def _compute(connection: Connection, clock: str, bucket: _Waiting, now: datetime) -> Refreshed | int:
    """Compute a bucket, then delete the notes about it."""
    refresh = refresh_completions if clock == "end" else refresh_five_minutes
    refreshed = refresh(connection, bucket.buckets, now)
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM metamon.touched_buckets WHERE touch_id = ANY(%s)", (bucket.touches,))
    return refreshed


def _attempt(connection: Connection, what: str, work: Callable[[], T], when_locked: Callable[[], None] | None = None) -> T | None:
    """The work's result; None when it could not be done, which is logged: it is tried again the next time."""
    import psycopg2

    try:
        return work()
    except psycopg2.errors.LockNotAvailable:
        logger.info("%s is being computed by somebody else and waits", what)
        if when_locked is not None:
            when_locked()
    except psycopg2.Error:
        if connection.closed:
            raise
        logger.exception("%s could not be computed; it waits and is tried again", what)
    return None


def _waiting(connection: Connection, clock: str, now: datetime) -> list[_Waiting]:
    """What waits and has begun, five minutes each by the clock of ends and whole quarters of an hour by that of starts.

    By the numbers of the notes, not up to the highest of them: a lower one may be committed later. The newest notes only:
    while no feed runs, what is sent here leaves millions a day.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT bucket_start, array_agg(touch_id), min(touched_at) FROM (SELECT * FROM metamon.touched_buckets"
            " WHERE clock = %s AND bucket_start <= %s ORDER BY touch_id DESC LIMIT %s) newest GROUP BY bucket_start",
            (clock, now, MOST_NOTES),
        )
        found = cursor.fetchall()
    waiting: dict[datetime, _Waiting] = {}
    for bucket_start, touches, oldest in found:
        start = bucket_start if clock == "end" else touched_buckets([bucket_start])[0]
        entry = waiting.setdefault(start, _Waiting(start))
        entry.buckets.append(bucket_start)
        entry.touches.extend(touches)
        entry.oldest = oldest if entry.oldest is None else min(entry.oldest, oldest)
    return list(waiting.values())


def _in_order(waiting: Sequence[_Waiting], now: datetime) -> list[_Waiting]:
    """The newest first; but the second is one that is being caught up with, so that these get on whatever live data do."""
    newest_first = sorted(waiting, key=lambda bucket: bucket.start, reverse=True)
    parts = defaultdict(list)
    for bucket in newest_first:
        parts[bucket.start > now - LIVE].append(bucket)
    live, older = parts[True], parts[False]
    return live[:1] + older[:1] + live[1:] + older[1:]


def _rest(connection: Connection, work: str, share: float) -> float:
    """Seconds until the next refresh of this kind of work is due; 0 or less: it is."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT date_part('epoch', finished_at - clock_timestamp()), seconds FROM metamon.bucket_refreshes WHERE work = %s", (work,)
        )
        row = cursor.fetchone()
    if row is None:
        return 0.0
    since, took = min(row[0], 0.0), row[1]  # not after now: the server's clock may have been set back
    pause = IN_FLIGHT_EVERY.total_seconds() if work == "in_flight" else took * (1 / share - 1)
    return float(since + pause)


def _finish(connection: Connection, work: str, started: float, buckets: int, failed: int, oldest: datetime | None) -> None:
    """Book how the refresh went."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.bucket_refreshes (work, finished_at, seconds, buckets, failed, oldest_touch)"
            " VALUES (%s, clock_timestamp(), %s, %s, %s, %s) ON CONFLICT (work) DO UPDATE SET"
            " (finished_at, seconds, buckets, failed, oldest_touch) ="
            " (excluded.finished_at, excluded.seconds, excluded.buckets, excluded.failed, excluded.oldest_touch)",
            (work, time.monotonic() - started, buckets, failed, oldest),
        )


@contextmanager
def _alone(connection: Connection, clock: str) -> Iterator[bool]:
    """Whether nobody else drains this clock; while the block lasts nobody else does, and locks are waited for only shortly."""
    key = (f"touched_buckets:{clock}",)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0)), current_setting('lock_timeout')", key)
        alone, patience = cursor.fetchone() or (False, None)
        if alone:
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", (_LOCK_TIMEOUT,))
    try:
        yield bool(alone)
    finally:
        if alone and not connection.closed:
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    "SELECT set_config('lock_timeout', %s, false), pg_advisory_unlock(hashtextextended(%s, 0))", (patience, *key)
                )
