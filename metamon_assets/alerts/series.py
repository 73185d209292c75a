"""The last day of completion buckets in memory, as sums by group: what rules and detectors look at.

Here belongs reading ``metamon.completion_metrics`` once and then only what changed, and sums over windows that end at any moment. A
tick over a thousand series has no time to ask the database for each window; a matrix of a day (288 buckets) answers in milliseconds.

The window that ends now holds a part of the oldest bucket only, and of that bucket it is not known which runs ended in that part. They
are taken in proportion, as sliding-window counters do; so the last five minutes are the running bucket and the fitting share of the one
before. Sums are floats: they decide whether to tell somebody, and are no books.

Of the two weeks before only numbers of runs are kept, by half hours: how many are due now follows from the same time of the days before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metamon_assets.metrics.completions import BUCKET, bucket_of
from metamon_assets.metrics.histogram import LOG_GAMMA, bin_of

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Cursor

Floats = NDArray[np.float64]
Group = tuple[str, str]  # dimension and value

KEPT = timedelta(days=1)
HALF, DAYS = timedelta(minutes=30), 14  # of which the days before are made, and how many of them
LEAST_DAYS = 2  # of the same kind, working days or weekends (UTC), from which on they alone say what is due
SATURDAY = 5
UNNAMED = ("(none)", "(other)")  # values that are nobody's
SUMS = (
    *("completed", "errors", "degraded_known", "degraded", "cache_known", "cache_hits", "latency_count", "latency_sum"),
    *("latency_sum_squares", "time_to_first_token_count", "time_to_first_token_sum", "quality_count", "quality_sum"),
    *("quality_sum_squares", "tokens_count", "total_tokens", "priced_runs", "total_cost", "total_cost_sum_squares"),
)
TYPICAL = "latency_log_sum"  # of the logarithms of the latencies above zero, from the histogram
OVERLAP = timedelta(seconds=60)  # what began to be written before the last look may have been committed after it


def beyond(seconds: float) -> str:
    """The name of the sum of latencies beyond a limit."""
    return f"latency_beyond_{seconds:g}"


@dataclass(slots=True)
class Buckets:
    """Sums of five minutes, shape (buckets, groups, columns), from ``start`` on.

    ``limits``: seconds beyond which latencies are counted, each a column of its own (within the histogram's 1 %).
    """

    limits: tuple[float, ...] = ()
    start: datetime | None = None
    groups: list[Group] = field(default_factory=list)
    sums: Floats = field(default_factory=lambda: np.zeros((0, 0, 0)))
    changed_until: datetime | None = None
    halves: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # runs, shape (half hours, groups), NaN before there were any
    halves_end: datetime | None = None
    _place: dict[Group, int] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names along the last axis."""
        return (*SUMS, TYPICAL, *map(beyond, self.limits))

    @property
    def end(self) -> datetime:
        """The end of the last bucket."""
        assert self.start is not None
        return self.start + len(self.sums) * BUCKET

    def refresh(self, cursor: Cursor, at: datetime, kept: timedelta = KEPT) -> None:
        """Read what changed since the last call, so that the buckets of ``kept`` before ``at`` and the running one are here."""
        first, last = bucket_of(at) - kept, bucket_of(at)
        if self.start is None or not self.start <= first <= self.end:
            self.start, self.groups, self._place, self.changed_until = first, [], {}, None
            self.sums = np.zeros((0, 0, len(self.columns)))
        self.sums = self.sums[(first - self.start) // BUCKET :]
        self.start = first
        missing = (last - first) // BUCKET + 1 - len(self.sums)
        fresh = first + len(self.sums) * BUCKET
        if missing > 0:
            self.sums = np.concatenate([self.sums, np.zeros((missing, *self.sums.shape[1:]))])
        cursor.execute("SELECT statement_timestamp()")
        (asked_at,) = cursor.fetchone() or (None,)
        rows = self._read(cursor, fresh, last, "true", None)
        if self.changed_until is not None:
            rows += self._read(cursor, first, fresh - BUCKET, "refreshed_at > %(since)s", self.changed_until - OVERLAP)
        known = len(self.groups)
        self._take(rows)
        self.changed_until = asked_at
        self._refresh_halves(cursor, last, anew=len(self.groups) > known)

    def _refresh_halves(self, cursor: Cursor, last: datetime, *, anew: bool) -> None:
        """Read the half hours that are over by ``last``: those that are new, or all of them where groups are."""
        end = last - (last - last.replace(minute=0)) % HALF
        start, kept = end - (DAYS + 1) * KEPT, int((DAYS + 1) * KEPT / HALF)
        if not anew and self.halves_end is not None and self.halves_end <= end and end - self.halves_end < KEPT:
            fresh = int((end - self.halves_end) / HALF)
            self.halves = np.concatenate([self.halves, np.zeros((fresh, self.halves.shape[1]))])[-kept:]
            since = self.halves_end - HALF
        else:
            self.halves, since = np.zeros((kept, len(self.groups))), start
        self.halves_end = end
        cursor.execute(
            "SELECT date_bin(%(half)s, bucket_start, %(start)s), dimension, dimension_value, sum(completed)::float8"
            " FROM metamon.completion_metrics WHERE day BETWEEN %(first_day)s AND %(last_day)s"
            " AND bucket_start >= %(since)s AND bucket_start < %(end)s GROUP BY 1, 2, 3",
            {"half": HALF, "start": start, "since": since, "end": end, "first_day": since.date(), "last_day": end.date()},
        )
        for half, dimension, value, completed in cursor.fetchall():
            if (dimension, value) in self._place:
                self.halves[int((half - start) / HALF), self._place[dimension, value]] = completed
        busy = np.flatnonzero(np.nan_to_num(self.halves).any(axis=1))
        self.halves[: busy[0] if len(busy) else len(self.halves)] = np.nan  # nobody was looking yet

    def due(self, at: datetime) -> Floats:
        """Runs that are due in the five minutes before ``at``, by the same time of the days before, shape (groups,); NaN unknown."""
        unknown = np.full(len(self.groups), np.nan)
        if self.halves_end is None or not len(self.halves):
            return unknown
        middle = at - BUCKET / 2
        place = len(self.halves) - (self.halves_end - middle) / HALF - 0.5  # among the middles of half hours
        days = []
        for back in range(1, DAYS + 1):
            before = place - back * int(KEPT / HALF)
            first = int(np.floor(before))
            if first >= 0 and first + 1 < len(self.halves):
                part = before - first
                kind = ((middle - back * KEPT).weekday() >= SATURDAY) == (middle.weekday() >= SATURDAY)
                days.append((kind, (1 - part) * self.halves[first] + part * self.halves[first + 1]))
        alike = [runs for kind, runs in days if kind and np.isfinite(runs).any()]
        chosen = alike if len(alike) >= LEAST_DAYS else [runs for _, runs in days if np.isfinite(runs).any()]
        return np.asarray(np.median(chosen, axis=0)) * (BUCKET / HALF) if len(chosen) >= LEAST_DAYS else unknown

    def _read(self, cursor: Cursor, first: datetime, last: datetime, condition: str, since: datetime | None) -> list[tuple]:
        """Rows of the buckets from ``first`` to ``last``."""
        logarithms = f"(SELECT coalesce(sum((b + 0.5) * c), 0) * {LOG_GAMMA} FROM unnest(latency_bins, latency_counts) AS h (b, c))"
        counted = [
            f"(SELECT coalesce(sum(c), 0) FROM unnest(latency_bins, latency_counts) AS h (b, c) WHERE b > {bin_of(limit)})"
            for limit in self.limits
        ]
        sums = ", ".join([*(f"{name}::float8" for name in SUMS), logarithms, *counted])
        cursor.execute(
            f"SELECT bucket_start, dimension, dimension_value, {sums}"
            " FROM metamon.completion_metrics"
            " WHERE day BETWEEN %(first_day)s AND %(last_day)s AND bucket_start BETWEEN %(first)s AND %(last)s"
            f" AND {condition}",
            {"first": first, "last": last, "first_day": first.date(), "last_day": last.date(), "since": since},
        )
        return cursor.fetchall()

    def _take(self, rows: Iterable[tuple]) -> None:
        assert self.start is not None
        rows = list(rows)
        new = sorted({row[1:3] for row in rows} - self._place.keys())
        if new:
            self._place |= {group: len(self.groups) + number for number, group in enumerate(new)}
            self.groups += new
            wider = np.zeros((len(self.sums), len(self.groups), len(self.columns)))
            wider[:, : self.sums.shape[1]] = self.sums
            self.sums = wider
        # Buckets are replaced whole: what a bucket that was written again does not have any more is gone.
        for bucket in {row[0] for row in rows}:
            self.sums[(bucket - self.start) // BUCKET] = 0.0
        if rows:
            at = [(row[0] - self.start) // BUCKET for row in rows]
            self.sums[at, [self._place[row[1:3]] for row in rows]] = np.nan_to_num(np.array([row[3:] for row in rows], dtype=float))

    def window(self, at: datetime, length: timedelta) -> Floats:
        """Sums of the time before ``at``, shape (groups, columns); the oldest bucket in proportion."""
        assert self.start is not None
        running = (bucket_of(at) - self.start) // BUCKET
        first = running - int(length / BUCKET)
        if at == bucket_of(at):  # the bucket that begins then is none of it
            return np.asarray(self.sums[max(first, 0) : running].sum(axis=0))
        within = self.sums[max(first, 0) : running + 1]
        if first < 0 or not len(within):
            return np.asarray(within.sum(axis=0))
        share = 1 - (at - bucket_of(at)) / BUCKET
        return np.asarray(within[1:].sum(axis=0) + share * within[0])

    def bucket(self, start: datetime) -> Floats:
        """Sums of one bucket, shape (groups, columns)."""
        assert self.start is not None
        return np.asarray(self.sums[(start - self.start) // BUCKET])

    def column(self, name: str) -> int:
        """The place of a column."""
        return self.columns.index(name)

    def of(self, dimensions: Iterable[str]) -> list[tuple[int, Group]]:
        """Place and group of the values of some dimensions that are somebody's."""
        wanted = set(dimensions)
        return [(place, group) for place, group in enumerate(self.groups) if group[0] in wanted and group[1] not in UNNAMED]
