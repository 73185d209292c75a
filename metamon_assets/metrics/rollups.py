"""From traces to buckets, units and days: when which rows are computed, and in which transactions.

Here belongs the order of things; how a row comes about is in ``sql/rollups``, one file per step. Those files are plain
SQL (CASTs, CTEs, GROUP BY, LATERAL joins, ``array_agg``); what another engine needs a twin for is named here once:
``metamon.histogram_bin``, ``unnest`` of two arrays side by side, ``jsonb_object_agg``, temporary tables that end with
the transaction. ``{names}`` in them are filled in with identifiers from this module only.

A trace is in the bucket of its start: these are the reporting buckets. Detection looks at completions instead, which
``completions`` computes.

Buckets are replaced whole, by delete and insert in one transaction, so computing them again changes nothing but
``refreshed_at``. (Sums of floats may differ in their last digit when the server reads rows in another order; counts,
money, tokens and histograms are exact.) Which values have rows of their own is chosen for a whole day
(``metamon.metric_groups``), so the buckets of a day agree with each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from metamon_assets.days import midnight
from metamon_assets.warehouse.migrations import sql_folder

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection, Cursor

DIMENSIONS = ("overall", "tenant", "agent", "agent_version", "mode", "model", "prompt_version", "environment", "variant", "tool")
# Every trace is in one row of each of these; variant has only the traces of a rollout, and tool has calls, not traces.
WHOLE_DIMENSIONS = DIMENSIONS[:8]
# Where each histogram comes from, and which dimensions have one (tools tell no first token and no quality).
HISTOGRAMS = {
    "latency": ("histograms", DIMENSIONS),
    "time_to_first_token": ("histograms_fifteen", DIMENSIONS[:9]),
    "quality": ("histograms_fifteen", DIMENSIONS[:9]),
}
QUARTER = timedelta(minutes=15)
FIVE_MINUTES_KEPT = timedelta(days=14)
TOP = 50  # values of a dimension that have rows of their own
MOST_GROUPS = 3_000  # groups are numbered by small integers
_WORK_MEMORY = "192MB"
NARROW = {"money": "bigint", "tokens": "integer"}
WIDE = {"money": "numeric(38, 0)", "tokens": "bigint"}


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh wrote."""

    five_minute_rows: int = 0
    fifteen_minute_rows: int = 0
    unit_rows: int = 0
    daily_rows: int = 0

    def __add__(self, other: Refreshed) -> Refreshed:
        return Refreshed(
            self.five_minute_rows + other.five_minute_rows,
            self.fifteen_minute_rows + other.fifteen_minute_rows,
            self.unit_rows + other.unit_rows,
            self.daily_rows + other.daily_rows,
        )


def touched_buckets(start_times: Iterable[datetime]) -> list[datetime]:
    """The quarters of an hour (their starts, UTC, in order) that runs with these start times belong to.

    Give the starts of roots and, for dimension tool, those of tool calls; other spans count where their root is.
    """
    return sorted({_quarter(moment) for moment in start_times})


def refresh_five_minutes(connection: Connection, buckets: Iterable[datetime], now: datetime) -> Refreshed:
    """Recompute the quarters of an hour that hold ``buckets``, in both bucket tables: what the live feed calls.

    Values seen for the first time get rows of their own while there is room (see ``refresh_buckets``).
    """
    total = Refreshed()
    for start, end in _windows(touched_buckets(buckets)):
        total += refresh_buckets(connection, start, end, now)
    return total


def refresh_buckets(connection: Connection, start: datetime, end: datetime, now: datetime, top: int = TOP) -> Refreshed:
    """Replace the buckets from ``start`` to ``end`` (UTC, whole quarters of an hour, end exclusive), a transaction a day.

    A day whose groups were never chosen gets them chosen first; on a day that has them, new values join while fewer
    than ``top`` have rows of their own and are in (other) after that, until ``refresh_days`` chooses again.
    Raises ValueError when the bounds are not quarters of an hour.
    """
    if start.tzinfo is None or end.tzinfo is None or _quarter(start) != start or _quarter(end) != end:
        raise ValueError(f"Buckets are refreshed by whole quarters of an hour in UTC; got {start} to {end}.")
    total = Refreshed()
    for day in _days(start, end):
        window = (max(start, midnight(day)), min(end, midnight(day + timedelta(days=1))))
        with _locked(connection, day):
            with prepared(connection) as cursor:
                _ensure_partitions(cursor, day, now)
                _choose_groups(cursor, day, *window, top, again=False)
            total += _buckets_transaction(connection, day, *window, now)
    return total


def refresh_days(
    connection: Connection, days: Sequence[date], now: datetime, top: int = TOP, second: Connection | None = None
) -> Refreshed:
    """Replace everything about ``days``: groups, buckets, units, daily rows. Each day is a few transactions.

    With a ``second`` connection to the same database the two halves of a day are computed side by side, in about half
    the time. Five-minute rows are written for days that ended at most 14 days before ``now``, and removed from older
    ones. A day without traces has no rows afterwards. Raises psycopg2's errors; a day that failed half way is whole
    again after the next refresh.
    """
    total = Refreshed()
    for day in days:
        with _locked(connection, day):
            total += _refresh_day(connection, second, day, now, top)
    return total


def _refresh_day(connection: Connection, second: Connection | None, day: date, now: datetime, top: int) -> Refreshed:
    start, noon, end = midnight(day), midnight(day) + timedelta(hours=12), midnight(day + timedelta(days=1))

    def choose(one: Connection) -> Refreshed:
        return _transaction(one, lambda cursor: _choose_groups(cursor, day, start, end, top, again=True))

    def units(unit: str) -> Callable[[Connection], Refreshed]:
        return lambda one: _transaction(one, lambda cursor: _replace_units(cursor, day, unit))

    def buckets(first: datetime, last: datetime) -> Callable[[Connection], Refreshed]:
        return lambda one: _buckets_transaction(one, day, first, last, now)

    with connection, connection.cursor() as cursor:
        _ensure_partitions(cursor, day, now)
        cursor.execute("SELECT clock_timestamp()")
        (began,) = cursor.fetchone() or (now,)
    if second is None:
        total = choose(connection) + units("user")(connection) + units("conversation")(connection) + buckets(start, end)(connection)
        return total + _transaction(connection, lambda cursor: _prepare_daily(cursor, day) + _replace_daily(cursor, day, began))
    total = _side_by_side(connection, second, choose, units("user"))
    total += _side_by_side(connection, second, buckets(start, noon), buckets(noon, end))
    with prepared(second) as cursor:
        total += _side_by_side(connection, second, units("conversation"), lambda _: _prepare_daily(cursor, day))
        return total + _replace_daily(cursor, day, began)


# --- steps: each runs in a transaction of the caller ----------------------------------------------------------


def _choose_groups(cursor: Cursor, day: date, start: datetime, end: datetime, top: int, again: bool) -> Refreshed:
    """Choose the day's groups from a window of it; unless ``again``, those chosen before stay and new ones join while there is room."""
    if not 1 <= top * len(DIMENSIONS) <= MOST_GROUPS:
        raise ValueError(f"top must be between 1 and {MOST_GROUPS // len(DIMENSIONS)}, not {top}.")
    run(cursor, "counted", _window(day, start, end))
    join_groups(cursor, day, top, again)
    return Refreshed()


def join_groups(cursor: Cursor, day: date, top: int = TOP, again: bool = False) -> None:
    """Let the values of ``rollup_counted`` join the day's groups while there is room; ``again``: choose all of them anew."""
    cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"groups:{day}",))
    if again:
        cursor.execute("DELETE FROM metamon.metric_groups WHERE day = %s", (day,))
    run(cursor, "groups", {"day": day, "top": top})


def _replace_buckets(cursor: Cursor, day: date, start: datetime, end: datetime, now: datetime, types: dict[str, str]) -> Refreshed:
    from psycopg2 import sql

    parameters = _window(day, start, end)
    for table in ("five_minute_metrics", "fifteen_minute_metrics"):
        cursor.execute(f"DELETE FROM metamon.{table} WHERE day = %s AND bucket_start >= %s AND bucket_start < %s", (day, start, end))
    formats = {name: sql.SQL(text) for name, text in types.items()}
    # Groups chosen a moment ago have no statistics; the planner would look each trace's groups up one by one.
    cursor.execute("SET LOCAL enable_nestloop = off")
    for step in ("facts", "tools"):
        run(cursor, step, parameters, **formats)
    cursor.execute("SET LOCAL enable_nestloop = on")
    run(cursor, "calls", parameters, **formats)
    cursor.execute("SELECT EXISTS (SELECT FROM rollup_calls WHERE priced_run_id IS NOT NULL)")
    if cursor.fetchone() == (True,):
        run(cursor, "call_costs", parameters)
    for step in ("sums", "group_sums", "call_sums", "bucket_tables"):
        run(cursor, step, parameters)
    for metric, (step, dimensions) in HISTOGRAMS.items():
        for dimension in dimensions:
            group = sql.Identifier(f"{dimension}_group")
            run(cursor, step, metric_name=sql.Literal(metric), bin=sql.Identifier(f"{metric}_bin"), group=group)
    cursor.execute("SET LOCAL enable_nestloop = off")  # these have no statistics either, and gathering them takes as long again
    five = run(cursor, "five_minutes", parameters) if keeps_five_minutes(day, now) else 0
    return Refreshed(five_minute_rows=five, fifteen_minute_rows=run(cursor, "fifteen_minutes", parameters))


def _replace_units(cursor: Cursor, day: date, unit: str) -> Refreshed:
    from psycopg2 import sql

    cursor.execute("DELETE FROM metamon.unit_daily WHERE day = %s AND unit_type = %s", (day, unit))
    return Refreshed(unit_rows=run(cursor, "units", {"day": day, "unit_type": unit}, unit=sql.Identifier(f"{unit}_id")))


def _prepare_daily(cursor: Cursor, day: date) -> Refreshed:
    """Everything of the daily rows that does not wait for the conversations, into temporary tables."""
    from psycopg2 import sql

    parameters = {"day": day, "unit_type": "user"}
    for step in ("day_tables", "distinct", "feedback", "reasons"):
        run(cursor, step, parameters)
    for metric in HISTOGRAMS:
        names = {"metric_name": sql.Literal(metric), "bins": sql.Identifier(f"{metric}_bins"), "counts": sql.Identifier(f"{metric}_counts")}
        run(cursor, "day_histograms", parameters, **names)
    return Refreshed()


def _replace_daily(cursor: Cursor, day: date, began: datetime) -> Refreshed:
    parameters = {"day": day, "unit_type": "conversation", "began": began}
    run(cursor, "distinct", parameters)
    cursor.execute("DELETE FROM metamon.daily_metrics WHERE day = %s", (day,))
    return Refreshed(daily_rows=run(cursor, "days", parameters))


# --- helpers ---------------------------------------------------------------------------------------------------


def _window(day: date, start: datetime, end: datetime) -> dict[str, Any]:
    """The parameters of a window: a call may start outside of its root's day, and is then in the day's first or last bucket."""
    day_start, day_end = midnight(day), midnight(day + timedelta(days=1))
    return {
        "day": day,
        "day_start": day_start,
        "day_end": day_end,
        "window_start": start,
        "window_end": end,
        "calls_start": "-infinity" if start == day_start else start,
        "calls_end": "infinity" if end == day_end else end,
    }


def keeps_five_minutes(day: date, now: datetime) -> bool:
    """Whether ``day`` is recent enough at ``now`` to have five-minute rows."""
    return midnight(day + timedelta(days=1)) > now - FIVE_MINUTES_KEPT


def _ensure_partitions(cursor: Cursor, day: date, now: datetime) -> None:
    five_minutes = ("five_minute_metrics",) if keeps_five_minutes(day, now) else ()
    for table in (*five_minutes, "fifteen_minute_metrics", "unit_daily"):
        cursor.execute("SELECT metamon.ensure_partition(%s, %s)", (table, day))


def _buckets_transaction(connection: Connection, day: date, start: datetime, end: datetime, now: datetime) -> Refreshed:
    from psycopg2 import errors

    try:
        return _transaction(connection, lambda cursor: _replace_buckets(cursor, day, start, end, now, NARROW))
    except errors.NumericValueOutOfRange:  # enormous figures: exact all the same, only slower
        return _transaction(connection, lambda cursor: _replace_buckets(cursor, day, start, end, now, WIDE))


@contextmanager
def prepared(connection: Connection) -> Iterator[Cursor]:
    """A cursor in a transaction of its own, with the memory that rollups take."""
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL work_mem = '{_WORK_MEMORY}'")
        # Every join here is of many rows with few; merging would sort the many.
        cursor.execute("SET LOCAL enable_mergejoin = off")
        yield cursor


def _transaction(connection: Connection, work: Callable[[Cursor], Refreshed]) -> Refreshed:
    with prepared(connection) as cursor:
        return work(cursor)


def _side_by_side(
    first: Connection, second: Connection | None, left: Callable[[Connection], Refreshed], right: Callable[[Connection], Refreshed]
) -> Refreshed:
    """Run two pieces of work, at once when there is a second connection; the error of either is raised after both ended."""
    if second is None:
        return left(first) + right(first)
    outcome: list[Refreshed | BaseException] = []

    def run() -> None:
        try:
            outcome.append(right(second))
        except BaseException as error:  # noqa: BLE001 - raised in the calling thread
            outcome.append(error)

    thread = threading.Thread(target=run, name="rollups")
    thread.start()
    try:
        result = left(first)
    finally:
        thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return result + outcome[0]


@contextmanager
def _locked(connection: Connection, day: date) -> Iterator[None]:
    """Only one refresh of a day at a time; the lock spans transactions, so it is the session's."""
    key = (f"rollups:{day}",)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", key)
    try:
        yield
    finally:
        if not connection.closed:
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", key)


@cache
def step_text(step: str) -> str:
    """The text of ``sql/rollups/<step>.sql``."""
    return (sql_folder() / "rollups" / f"{step}.sql").read_text(encoding="utf-8")


def run(cursor: Cursor, step: str, parameters: dict[str, Any] | None = None, **names: Any) -> int:
    """Run ``sql/rollups/<step>.sql`` with its {names} filled in; gives the rows that it wrote."""
    from psycopg2 import sql

    cursor.execute(sql.SQL(step_text(step)).format(**names) if names else step_text(step), parameters)
    return cursor.rowcount


def _quarter(moment: datetime) -> datetime:
    utc = moment.astimezone(UTC)
    return utc.replace(minute=utc.minute - utc.minute % 15, second=0, microsecond=0)


def _windows(quarters: Sequence[datetime]) -> Iterator[tuple[datetime, datetime]]:
    """Runs of neighbouring quarters as half-open windows."""
    start = end = None
    for quarter in quarters:
        if start is None or end != quarter:
            if start is not None and end is not None:
                yield start, end
            start = quarter
        end = quarter + QUARTER
    if start is not None and end is not None:
        yield start, end


def _days(start: datetime, end: datetime) -> Iterator[date]:
    day = start.astimezone(UTC).date()
    while midnight(day) < end:
        yield day
        day += timedelta(days=1)
