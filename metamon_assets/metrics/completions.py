"""Completion buckets: what ended in five minutes and what was in flight then. Detection looks at these.

Reporting buckets count a run where it started, and are complete only when the last of their runs has ended. Here a run
counts where it ended, so a bucket is complete as soon as its runs have arrived; and since what hangs ends nowhere, each
bucket also says what had started before its end and had not ended by then (``in_flight``), how much of that for longer
than the p99 of its agent (``in_flight_over_p99``), and since when. Both follow from the rows alone: a day computed
later is the same as the day computed live. While a bucket lasts, its end is the time of the refresh (``in_flight_at``).

The steps are in ``sql/rollups/complet*.sql`` and ``in_flight.sql``. Values have rows of their own as on the reporting
side (``metamon.metric_groups``). Which buckets wait for a refresh, and when they get it, is told in ``touched``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from metamon_assets.days import midnight
from metamon_assets.metrics import rollups

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection, Cursor

BUCKET = timedelta(minutes=5)
DIMENSIONS = ("overall", "tenant", "agent", "agent_version", "mode", "model", "environment", "tool")
KEPT_TABLES = ("five_minute_metrics", "completion_metrics")  # whose days go when they are older than rollups.FIVE_MINUTES_KEPT

logger = logging.getLogger(__name__)


def bucket_of(moment: datetime) -> datetime:
    """The start (UTC) of the five minutes that hold ``moment``."""
    utc = moment.astimezone(UTC)
    return utc.replace(minute=utc.minute - utc.minute % 5, second=0, microsecond=0)


def refresh_completions(connection: Connection, buckets: Iterable[datetime], now: datetime) -> int:
    """Replace the five-minute buckets that hold ``buckets``, one transaction for neighbours of one day; gives the rows written.

    Buckets that have not begun at ``now`` and those of days whose five minutes are no longer kept are left out. Raises
    psycopg2's errors; a bucket is then as it was.
    """
    return sum(_refresh(connection, start, end, now) for start, end in _windows(buckets, now))


def refresh_completion_days(connection: Connection, days: Sequence[date], now: datetime) -> int:
    """Replace the buckets of whole days as far as ``now``, a transaction a day; gives the rows written.

    Days whose five minutes are no longer kept have no rows afterwards.
    """
    rows = 0
    for day in days:
        start, end = midnight(day), midnight(day + timedelta(days=1))
        rows += _refresh(connection, start, end, now)
    return rows


def drop_old_partitions(connection: Connection, now: datetime) -> int:
    """Drop the days of five-minute tables that are no longer kept at ``now``; gives how many there were.

    A table that somebody is reading is left for the next time.
    """
    from psycopg2 import errors

    dropped, before = 0, (now.astimezone(UTC) - rollups.FIVE_MINUTES_KEPT).date()
    for table in KEPT_TABLES:
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '2s'")  # while it waits, new readers of the table wait behind it
                cursor.execute("SELECT metamon.drop_old_partitions(%s, %s)", (table, before))
                dropped += (cursor.fetchone() or (0,))[0]
        except errors.LockNotAvailable:
            logger.info("%s is being read: its old days are dropped the next time", table)
    return dropped


def _windows(buckets: Iterable[datetime], now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Neighbouring buckets of one day as half-open windows."""
    start: datetime | None = None
    end: datetime | None = None
    for bucket in sorted({bucket_of(moment) for moment in buckets}):
        if bucket > now or not rollups.keeps_five_minutes(bucket.date(), now):
            continue
        if start is not None and end is not None and (bucket != end or bucket.date() != start.date()):
            yield start, end
            start = None
        start, end = start or bucket, bucket + BUCKET
    if start is not None and end is not None:
        yield start, end


def _refresh(connection: Connection, start: datetime, end: datetime, now: datetime) -> int:
    day, begun = start.date(), min(end, bucket_of(now) + BUCKET)
    kept = rollups.keeps_five_minutes(day, now)
    with rollups.prepared(connection) as cursor:
        if kept:
            cursor.execute("SELECT metamon.ensure_partition('completion_metrics', %s)", (day,))
        # One refresh of a day at a time: two that replace the same bucket would both insert it.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"completions:{day}",))
        cursor.execute(
            "DELETE FROM metamon.completion_metrics WHERE day = %s AND bucket_start >= %s AND bucket_start < %s", (day, start, end)
        )
        return _insert(cursor, start, begun, now) if kept and start < begun else 0


def _insert(cursor: Cursor, start: datetime, end: datetime, now: datetime) -> int:
    from psycopg2 import sql

    day = start.date()
    parameters = {
        "day": day,
        "window_start": start,
        "window_end": end,
        "first_moment": min(start + BUCKET, now),
        "last_moment": min(end, now),
        "last_bucket": end - BUCKET,
        "now": now,
    }
    # Spans live in the day of their root, which may have started long before them.
    readings = {
        "traces": {"table": sql.Identifier("traces"), "condition": sql.SQL("true"), "days": sql.Literal(1)},
        "spans": {
            "table": sql.Identifier("spans"),
            "condition": sql.SQL("r.run_type = 'tool'"),
            "days": sql.Literal(rollups.FIVE_MINUTES_KEPT.days),
        },
    }

    def of(step: str, table: str) -> sql.Composed:
        return sql.SQL(rollups.step_text(step)).format(**readings[table])

    dimensions = sql.SQL(rollups.step_text("completion_dimensions"))
    rollups.run(cursor, "completion_sums", parameters, completed=of("completed", "traces"))
    rollups.run(cursor, "completion_calls", parameters, completed=of("completed", "spans"))
    flights = {"in_flight": of("in_flight", "traces"), "in_flight_spans": of("in_flight", "spans")}
    rollups.run(cursor, "completion_flights", parameters, **flights)
    rollups.run(cursor, "completion_labels", parameters, dimensions=dimensions)
    if rollups.run(cursor, "completion_counted", parameters):
        rollups.join_groups(cursor, day)
    for step in ("completion_groups", "completion_limits", "completion_pairs"):
        rollups.run(cursor, step, parameters)
    groups = sql.SQL(rollups.step_text("completion_pair_groups"))
    rollups.run(cursor, "completion_histograms", groups=groups)
    return rollups.run(cursor, "completion_metrics", parameters, dimensions=dimensions, groups=groups)
