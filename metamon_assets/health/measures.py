"""What a metric adds up to over windows of time: good events of all events, a level, or an amount.

Here belongs where a figure comes from. Whole days come from ``metamon.daily_metrics``; minutes from completion buckets
(runs by their end) where these have the metric, else from five-minute buckets (by their start). What rollups do not have
comes from queries of its own below, or from ``metamon.system_metrics``, where later stages put the two sums
``METRIC.numerator`` and ``METRIC.denominator``. Sums are added up and divided once; ratios are never averaged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from metamon_assets.days import midnight
from metamon_assets.metrics.registry import BY_NAME, SECONDS, Metric, Scope
from metamon_assets.warehouse import contracts

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

Window = tuple[datetime, datetime]  # half-open
CHANGE = ".change"  # behind the name of a metric: its difference from the window before

DAYS, BUCKETS = "daily_metrics", ("completion_metrics", "five_minute_metrics")
# Completion buckets name two columns differently.
_RENAMED = {"completed": "requests", "priced_runs": "priced_requests"}
_COMPLETIONS = f"(SELECT *, {', '.join(f'{own} AS {name}' for own, name in _RENAMED.items())} FROM metamon.completion_metrics)"
_WINDOWS = "unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[]) WITH ORDINALITY AS w (since, until, number)"

# Each gives, for every window, the numerator, the denominator and how many events that rests on.
_OTHER = {
    # Minutes in which the supervisor found every part working, of all since the first one that was ever looked at.
    "uptime": f"""
        SELECT least(up.n, whole.n), whole.n, whole.n
        FROM {_WINDOWS}
        CROSS JOIN LATERAL (SELECT count(DISTINCT date_trunc('minute', time))::float8 AS n FROM metamon.system_metrics
            WHERE name = 'up' AND component = '' AND value = 1 AND time >= since AND time < until) up
        CROSS JOIN (SELECT date_trunc('minute', min(time)) AS at FROM metamon.system_metrics WHERE name = 'up' AND component = '') began
        CROSS JOIN LATERAL (SELECT CASE WHEN began.at < least(until, %(now)s)
            THEN ceil(date_part('epoch', least(until, %(now)s) - greatest(since, began.at)) / 60) END AS n) whole
        WHERE %(overall)s ORDER BY number""",
    # Users who came back on the same day, of each day's users.
    "engagement": f"""
        SELECT count(*) FILTER (WHERE requests >= 2)::float8, count(unit_id)::float8, count(unit_id)
        FROM {_WINDOWS}
        LEFT JOIN LATERAL (SELECT unit_id, sum(requests) AS requests FROM metamon.unit_daily
            WHERE unit_type = 'user' AND day >= (since AT TIME ZONE 'UTC')::date AND day < (until AT TIME ZONE 'UTC')::date
            GROUP BY day, tenant_id, unit_id) users ON %(overall)s
        GROUP BY number ORDER BY number""",
    # What the cache saved, of that and what was spent.
    "cache_saving_share": f"""
        SELECT saved, saved + cost, hits
        FROM (SELECT number, sum(total_cost)::float8 AS cost, sum(hit_priced_requests)::bigint AS hits,
                (sum(hit_priced_requests) * sum(miss_cost) / nullif(sum(miss_priced_requests), 0) - sum(hit_cost))::float8 AS saved
            FROM {_WINDOWS}
            LEFT JOIN metamon.daily_metrics ON day >= (since AT TIME ZONE 'UTC')::date AND day < (until AT TIME ZONE 'UTC')::date
                AND dimension = %(dimension)s AND dimension_value = %(dimension_value)s
            GROUP BY number) sums ORDER BY number""",
    # Accepted targets that were met on the days before, of those that could be told: the day's own are not known yet.
    "targets_met": f"""
        SELECT count(*) FILTER (WHERE met)::float8, count(met)::float8, count(met)
        FROM {_WINDOWS}
        LEFT JOIN metamon.slo_status ON %(overall)s
            AND day >= (since AT TIME ZONE 'UTC')::date - 1 AND day < (until AT TIME ZONE 'UTC')::date - 1
            AND target IN (SELECT name FROM metamon.slo_targets WHERE accepted_at IS NOT NULL AND metric <> 'targets_met')
        GROUP BY number ORDER BY number""",
}
_BY_DAY_ONLY = ("engagement", "cache_saving_share", "targets_met")
_FROM_SYSTEM = f"""
    SELECT sum(value) FILTER (WHERE name = %(metric)s || '.numerator'), sum(value) FILTER (WHERE name = %(metric)s || '.denominator'),
        coalesce(sum(value) FILTER (WHERE name = %(metric)s || '.denominator'), count(value))
    FROM {_WINDOWS}
    LEFT JOIN metamon.system_metrics ON %(overall)s AND time >= since AND time < until AND component = ''
        AND name IN (%(metric)s || '.numerator', %(metric)s || '.denominator')
    GROUP BY number ORDER BY number"""


@dataclass(frozen=True, slots=True)
class Sums:
    """What a metric adds up to in one window; None: nothing there. ``squares``: of what the numerator adds up."""

    numerator: float | None
    denominator: float | None
    n: int
    squares: float | None = None
    quantile: float | None = None

    @property
    def ratio(self) -> float | None:
        """The metric's value where it is a ratio or a percentile."""
        if self.quantile is not None:
            return self.quantile
        return self.numerator / self.denominator if self.numerator is not None and self.denominator else None

    def error(self) -> float | None:
        """The standard error of a mean; None where the squares are not kept."""
        mean = self.ratio
        if self.squares is None or mean is None or self.denominator is None or self.denominator < 2:
            return None
        variance = max(self.squares / self.denominator - mean * mean, 0.0) * self.denominator / (self.denominator - 1)
        return float((variance / self.denominator) ** 0.5)


NOTHING = Sums(None, None, 0)


def of_days(cursor: Cursor, metric: str, dimension: tuple[str, str], spans: Sequence[tuple[date, date]], now: datetime) -> list[Sums]:
    """The sums of whole UTC days, for each (first, last) of ``spans``; of a metric that nothing knows: nothing."""
    windows = [(midnight(first), midnight(last + timedelta(days=1))) for first, last in spans]
    if metric not in BY_NAME:
        return _other(cursor, metric, dimension, windows, now)
    on = "r.day >= (w.since AT TIME ZONE 'UTC')::date AND r.day < (w.until AT TIME ZONE 'UTC')::date"
    return _rollup(cursor, BY_NAME[metric], DAYS, on, dimension, windows)


def of_minutes(cursor: Cursor, metric: str, dimension: tuple[str, str], windows: Sequence[Window], now: datetime) -> list[Sums] | None:
    """The sums of the buckets that begin in each window; None where no buckets have the metric."""
    if metric not in BY_NAME:
        return None if metric in _BY_DAY_ONLY or metric.endswith(CHANGE) else _other(cursor, metric, dimension, windows, now)
    table = _bucket_table(BY_NAME[metric])
    if table is None:
        return None
    # The days spare the planner all other partitions.
    on = "r.bucket_start >= w.since AND r.bucket_start < w.until AND r.day BETWEEN %(first_day)s AND %(last_day)s"
    return _rollup(cursor, BY_NAME[metric], table, on, dimension, windows)


def _other(cursor: Cursor, metric: str, dimension: tuple[str, str], windows: Sequence[Window], now: datetime) -> list[Sums]:
    parameters = {"metric": metric, "overall": dimension[0] == "overall", "now": now, **_parameters(dimension, windows)}
    cursor.execute(_OTHER.get(metric, _FROM_SYSTEM), parameters)
    found = [Sums(numerator, denominator, int(n or 0)) for numerator, denominator, n in cursor.fetchall()]
    return found or [NOTHING] * len(windows)


def _rollup(cursor: Cursor, metric: Metric, table: str, on: str, dimension: tuple[str, str], windows: Sequence[Window]) -> list[Sums]:
    """One query for all windows. The expressions are the registry's, not a stranger's."""
    if metric.quantile is not None:
        h = metric.numerator
        figures = f"metamon.histogram_merge(r.{h}_bins, r.{h}_counts) AS merged, sum(r.{h}_zeros)::bigint AS zeros"
        told = f"NULL, NULL, n, NULL, metamon.histogram_quantile((merged).bins, (merged).counts, zeros, {metric.quantile:g})"
    else:
        squares = _squares(metric, table)
        denominator = metric.denominator.replace("{seconds}", str(SECONDS[Scope.DAY])) or "NULL::bigint"
        figures = (
            f"sum({metric.numerator})::float8 AS numerator, sum({denominator})::float8 AS denominator,"
            f" {f'sum({squares})' if squares else 'NULL::float8'} AS squares"
        )
        told = "numerator, denominator, n, squares, NULL"
    rows = _COMPLETIONS if table == BUCKETS[0] else f"metamon.{table}"
    cursor.execute(
        f"SELECT {told} FROM (SELECT w.number, coalesce(sum({metric.sample}), 0)::bigint AS n, {figures}"
        f" FROM {_WINDOWS} LEFT JOIN {rows} r ON r.dimension = %(dimension)s AND r.dimension_value = %(dimension_value)s AND {on}"
        " GROUP BY w.number) sums ORDER BY number",
        _parameters(dimension, windows),
    )
    return [Sums(*row) for row in cursor.fetchall()]


def _parameters(dimension: tuple[str, str], windows: Sequence[Window]) -> Mapping[str, object]:
    starts, ends = [since for since, _ in windows], [until for _, until in windows]
    return {
        "starts": starts,
        "ends": ends,
        "dimension": dimension[0],
        "dimension_value": dimension[1],
        "first_day": min(starts).date(),
        "last_day": max(ends).date(),
    }


@cache
def _bucket_table(metric: Metric) -> str | None:
    """The table of buckets that has all columns of the metric: completions before starts."""
    wanted = _columns_of(metric)
    return next((table for table in BUCKETS if wanted <= _columns(table)), None)


def _columns_of(metric: Metric) -> set[str]:
    if metric.quantile is not None:
        return {f"{metric.numerator}_{part}" for part in ("bins", "counts", "zeros")}
    return set(re.findall(r"[a-z_]+", f"{metric.numerator} {metric.denominator} {metric.sample}"))


def _squares(metric: Metric, table: str) -> str | None:
    """The column with the sum of squares of what the numerator adds up, if there is one."""
    name = "total_cost_sum_squares" if metric.numerator == "total_cost" else f"{metric.numerator}_squares"
    return name if name in _columns(table) else None


@cache
def _columns(table: str) -> frozenset[str]:
    found = {column.name for column in contracts.declared()[f"metamon.{table}"].columns}
    return frozenset(found | set(_RENAMED.values()) if table == BUCKETS[0] else found)
