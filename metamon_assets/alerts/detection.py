"""The adaptive detector over every watched metric and group (ALR-29): what it follows, what it remembers, what it finds.

A ``Detector`` (``statistics.anomaly``) follows each series of five-minute buckets by the time of completion. It learns from closed
buckets only, in order, each once; between two of them every look holds the last five minutes against it without a trace in its state.
Its severities, not its score, decide: those of the value itself and of the run of the latest values, which sees smaller shifts that last.

- What it follows is made even first: shares as the arcsine of their root, means as logarithms, numbers of runs as roots less the root
  of those that are due at that time, so that noise is as large at night as at noon; latencies also as the mean of their logarithms,
  which a single slow run hardly moves. A figure that rests on few runs is drawn towards that of the day (``PRIOR`` runs of it).
- The threshold rises with the logarithm of the number of series, so that a thousand series wake nobody more often than a hundred.
- A finding is critical only with corroboration: it is far out, was out one closed bucket earlier too, and either another metric of the
  group is out as well or enough runs are affected. A surge of traffic is worth a note, a silence a warning.
- Memory is checkpointed each hour and at midnight; what came since is learnt again from the buckets as they are then, so that late
  rows are corrected. ``rewrite`` does the same for whole days, from the midnight before.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from psycopg2.extras import execute_values

from metamon_assets.alerts.series import Buckets
from metamon_assets.days import midnight
from metamon_assets.metrics.completions import BUCKET, bucket_of
from metamon_assets.statistics.anomaly import NOTICE, AnomalyScore, Detector

if TYPE_CHECKING:
    from metamon_assets.alerts.incidents import Severity
    from metamon_assets.alerts.series import Group
    from metamon_assets.warehouse.connection import Connection, Cursor

Floats = NDArray[np.float64]
Scale = Literal["share", "mean", "logarithms", "count"]

logger = logging.getLogger(__name__)

GRACE = timedelta(minutes=2)  # after a bucket's end until it counts as closed: sources are polled each minute
WARN, PAGE = 4.0, 6.0  # severities, for up to ``SERIES`` series
SERIES = 100
TOP = 20  # values of a dimension that are followed
PRIOR = 20.0  # runs of the day's figure that a bucket's is drawn towards
AFFECTED = 20  # runs beyond what is usual in ten minutes, from which on they are enough to page for
CHECKPOINT = timedelta(hours=1)
MIDNIGHTS_KEPT = timedelta(days=4)
HISTORY = timedelta(days=14)  # that a new installation learns from
DAY = timedelta(days=1)
MINUTES = 5


@dataclass(frozen=True, slots=True)
class Watch:
    """A watched metric: a column over another. ``worse``: 1 when more is, −1 when less is."""

    metric: str
    scale: Scale
    numerator: str
    denominator: str
    worse: int
    unit: str
    dimensions: tuple[str, ...] = ("overall", "agent", "tenant", "model")

    def figures(
        self, sums: Floats, day: Floats, columns: Sequence[str], *, due: Floats | None = None, runs: float = PRIOR
    ) -> tuple[Floats, NDArray[np.int64]]:
        """The metric of every group, made even (NaN without data), and the runs that it rests on, from sums (groups, columns).

        Numbers of runs are told from those that are ``due``, shape (groups,).
        """
        over = sums[:, columns.index(self.numerator)]
        if self.scale == "count":
            return np.sqrt(over) - (0.0 if due is None else np.sqrt(due)), np.rint(over).astype(np.int64)
        n, usual = sums[:, columns.index(self.denominator)], day[:, columns.index(self.denominator)]
        with np.errstate(divide="ignore", invalid="ignore"):
            prior = day[:, columns.index(self.numerator)] / usual if runs else 0.0
            even = (over + runs * prior) / (n + runs)
            if self.scale == "share":
                even = np.arcsin(np.sqrt(np.clip(even, 0, 1)))
            elif self.scale == "mean":
                even = np.log(even)
        return np.where((n > 0) & np.isfinite(even), even, np.nan), np.rint(n).astype(np.int64)

    def shown(self, even: float, due: float = 0.0) -> float:
        """A figure in its own unit again; a number of runs beside those that are due."""
        if self.scale == "count":
            return max(even + math.sqrt(due), 0.0) ** 2
        return math.sin(min(max(even, 0.0), math.pi / 2)) ** 2 if self.scale == "share" else math.exp(min(even, 700.0))

    def even(self, shown: float) -> float:
        """The other way round, for all but numbers of runs."""
        return math.asin(math.sqrt(min(max(shown, 0.0), 1.0))) if self.scale == "share" else math.log(max(shown, 1e-300))


WATCHED = (
    Watch("error_rate", "share", "errors", "completed", 1, "1", ("overall", "agent", "tenant", "model", "tool")),
    Watch("latency_mean", "mean", "latency_sum", "latency_count", 1, "s", ("overall", "agent", "tenant", "model", "tool")),
    Watch("latency_typical", "logarithms", "latency_log_sum", "latency_count", 1, "s", ("overall", "agent", "tenant", "model", "tool")),
    Watch("cost_per_request", "mean", "total_cost", "priced_runs", 1, "USD"),
    Watch("quality_mean", "mean", "quality_sum", "quality_count", -1, "1"),
    Watch("cache_hit_rate", "share", "cache_hits", "cache_known", -1, "1"),
    Watch("degradation_rate", "share", "degraded", "degraded_known", 1, "1"),
    Watch("requests", "count", "completed", "", -1, "1"),
)
BY_METRIC = {watch.metric: watch for watch in WATCHED}
Key = tuple[str, str, str]  # metric, dimension, value


@dataclass(frozen=True, slots=True)
class Finding:
    """A series that is out of its range at one time, in the metric's own unit. ``severity``: see ``statistics.anomaly``.

    ``level`` None: not far enough to be told, or not for the worse; such a finding still corroborates.
    """

    watch: Watch
    group: Group
    at: datetime
    value: float
    sample: int
    expected: float | None
    lower: float | None
    upper: float | None
    severity: float
    reasons: tuple[str, ...]
    level: Severity | None
    rises: bool
    learnt: bool  # of a closed bucket
    persists: bool  # it was out one closed bucket earlier, too
    excess: float  # runs beyond what is usual that are bad, in ten minutes

    @property
    def worse(self) -> bool:
        """Whether it moved for the worse."""
        return self.rises == (self.watch.worse > 0)


@dataclass(slots=True)
class _Followed:
    """A series: its detector and the severities of the latest closed buckets for the worse."""

    detector: Detector = field(default_factory=Detector)
    recent: deque[tuple[datetime, float]] = field(default_factory=lambda: deque(maxlen=4))


@dataclass(slots=True)
class Detection:
    """All detectors, in memory. ``reached``: the end of the last bucket that they have learnt."""

    followed: dict[Key, _Followed] = field(default_factory=dict)
    reached: datetime | None = None
    checkpoint: datetime | None = None
    latest: list[Finding] = field(default_factory=list)  # of the last closed bucket

    # --- looking ------------------------------------------------------------------------------------------------

    def close(self, buckets: Buckets, end: datetime) -> list[Finding]:
        """Learn the bucket that ended then; gives what is out of its range in it. Buckets are closed in order, each once."""
        start = end - BUCKET
        found = []
        for key, watch, value, sample, due, excess in self._figures(buckets, buckets.bucket(start), end):
            followed = self.followed.get(key)
            if followed is None:
                followed = self.followed[key] = _Followed()
            verdict = followed.detector.update(start, value)
            finding = self._finding(watch, key[1:], end, value, sample, due, verdict, followed, excess, learnt=True)
            followed.recent.append((end, finding.severity if finding is not None and finding.worse else 0.0))
            if finding is not None:
                found.append(finding)
        self.reached = end
        self.latest = self._corroborated(found)
        return self.latest

    def look(self, buckets: Buckets, at: datetime) -> list[Finding]:
        """Hold the last five minutes before ``at`` against what is usual, without learning. Numbers of runs wait for closed buckets:
        of the last minute or two not all are here."""
        found = []
        for key, watch, value, sample, due, excess in self._figures(buckets, buckets.window(at, BUCKET), at):
            followed = self.followed.get(key)
            if followed is None or watch.scale == "count":
                continue
            verdict = followed.detector.peek(at - BUCKET, value)
            finding = self._finding(watch, key[1:], at, value, sample, due, verdict, followed, excess, learnt=False)
            if finding is not None:
                found.append(finding)
        return self._corroborated(found)

    def _figures(self, buckets: Buckets, sums: Floats, at: datetime) -> Iterator[tuple[Key, Watch, float, int, float, float]]:
        """Each series that is followed, its figure, its runs, the runs that are due, and how many runs more than usual are bad."""
        day = buckets.window(at, DAY)
        columns = buckets.columns
        chosen, due = _chosen(buckets, day), buckets.due(at)
        for watch in WATCHED:
            values, samples = watch.figures(sums, day, columns, due=due)
            for place, group in chosen:
                if group[0] in watch.dimensions and (math.isfinite(values[place]) or (watch.metric, *group) in self.followed):
                    excess = _excess(watch, sums[place], day[place], columns)
                    yield (watch.metric, *group), watch, float(values[place]), int(samples[place]), float(due[place]), excess

    def _finding(
        self,
        watch: Watch,
        group: tuple[str, str],
        at: datetime,
        value: float,
        sample: int,
        due: float,
        verdict: AnomalyScore,
        followed: _Followed,
        excess: float,
        *,
        learnt: bool,
    ) -> Finding | None:
        # Of the run only where this window has nothing in common with the last one that was learnt.
        apart = learnt or self.reached is None or at - BUCKET >= self.reached
        severity = max(verdict.severity, verdict.run if apart else 0.0)
        if severity < NOTICE or verdict.expected is None or not math.isfinite(value):
            return None
        rises = value > verdict.expected
        level: Severity | None = None
        if severity >= self.warn and (rises == (watch.worse > 0) or watch.scale == "count"):
            level = "warning" if rises == (watch.worse > 0) else "info"
        return Finding(
            watch=watch,
            group=group,
            at=at,
            value=watch.shown(value, due),
            sample=sample,
            expected=watch.shown(verdict.expected, due),
            lower=None if verdict.lower is None else watch.shown(verdict.lower, due),
            upper=None if verdict.upper is None else watch.shown(verdict.upper, due),
            severity=severity,
            reasons=verdict.reasons,
            level=level,
            rises=rises,
            learnt=learnt,
            persists=any(out >= self.warn and end <= at - BUCKET for end, out in followed.recent),
            excess=excess,
        )

    def _corroborated(self, found: list[Finding]) -> list[Finding]:
        """The findings with the names of other metrics of their group that are out too; critical where enough speaks for it."""
        by_group: dict[Group, list[Finding]] = {}
        for finding in found:
            if finding.worse:
                by_group.setdefault(finding.group, []).append(finding)
        return [self._with_others(finding, by_group.get(finding.group, [])) for finding in found]

    def _with_others(self, finding: Finding, of_group: Sequence[Finding]) -> Finding:
        others = [other for other in of_group if other.watch != finding.watch]
        far_out = finding.level == "warning" and finding.severity >= self.warn + PAGE - WARN
        level: Severity | None = "critical" if far_out and finding.persists and (others or finding.excess >= AFFECTED) else finding.level
        reasons = (*finding.reasons, *(f"{other.watch.metric} too" for other in others))
        return replace(finding, level=level, reasons=reasons)

    @property
    def warn(self) -> float:
        """The severity from which on a finding is told."""
        return WARN + math.log10(max(len(self.followed), SERIES) / SERIES)

    # --- remembering --------------------------------------------------------------------------------------------

    def load(self, cursor: Cursor, at: datetime) -> None:
        """Go on from the newest checkpoint before ``at``; without one, begin with the history that there is."""
        cursor.execute("SELECT max(as_of) FROM metamon.detector_states WHERE as_of <= %s", (at,))
        (as_of,) = cursor.fetchone() or (None,)
        self.followed, self.reached, self.checkpoint = {}, as_of, as_of
        if as_of is None:
            self.reached = max(bucket_of(at) - HISTORY, _first_bucket(cursor) or bucket_of(at) - BUCKET)
            return
        cursor.execute("SELECT metric, dimension, dimension_value, state FROM metamon.detector_states WHERE as_of = %s", (as_of,))
        for metric, dimension, value, state in cursor:
            try:
                detector = Detector(orjson.loads(zlib.decompress(state)))
            except ValueError as error:  # of another version of the detector: it learns anew
                logger.warning("What was learnt of %s of %s %s cannot be used any more: %s", metric, dimension, value, error)
                continue
            self.followed[metric, dimension, value] = _Followed(detector)

    def save(self, cursor: Cursor) -> None:
        """Checkpoint where ``reached`` is. Of the earlier ones those at midnight stay for some days."""
        assert self.reached is not None
        cursor.execute(
            "DELETE FROM metamon.detector_states WHERE as_of < %s OR as_of >= %s OR as_of <> date_trunc('day', as_of, 'UTC')",
            (self.reached - MIDNIGHTS_KEPT, self.reached),
        )
        self.insert(cursor)
        self.checkpoint = self.reached

    def insert(self, cursor: Cursor) -> None:
        """Write all detectors as they are."""
        rows = [
            (*key, MINUTES, self.reached, zlib.compress(orjson.dumps(followed.detector.state), 1))
            for key, followed in self.followed.items()
        ]
        execute_values(
            cursor,
            "INSERT INTO metamon.detector_states (metric, dimension, dimension_value, minutes, as_of, state) VALUES %s",
            rows,
            page_size=100,
        )

    def due(self, now: datetime) -> bool:
        """Whether it is time for a checkpoint: at midnight, and each hour once the present is near."""
        if self.reached is None or not self.followed:
            return False
        near = now - self.reached <= 2 * CHECKPOINT
        elapsed = self.checkpoint is None or self.reached - self.checkpoint >= CHECKPOINT
        return self.reached == midnight(self.reached.date()) or (near and elapsed)


def rewrite(connection: Connection, day: date, now: datetime) -> int:
    """Find a day's anomalies again, from the checkpoint at its midnight (else from an earlier one, else from the history before it).

    Where the day is over, the checkpoint at its end is written again, so that the next day begins with the same. Gives the findings.
    """
    start, end = midnight(day), min(midnight(day + timedelta(days=1)), bucket_of(now))
    again, buckets, found = Detection(), Buckets(), list[Finding]()
    with connection, connection.cursor() as cursor:
        again.load(cursor, start)
        assert again.reached is not None
        reached = again.reached
        while reached < end:
            until = min(reached + DAY, end)
            buckets.refresh(cursor, until, DAY + (until - reached) + BUCKET)
            while reached < until:
                reached += BUCKET
                of_bucket = again.close(buckets, reached)
                found += of_bucket if reached > start else []
        cursor.execute("DELETE FROM metamon.anomalies WHERE day = %s", (day,))
        store(cursor, found)
        if end == midnight(day + timedelta(days=1)):
            cursor.execute("DELETE FROM metamon.detector_states WHERE as_of = %s", (end,))
            again.insert(cursor)
    return len(found)


def store(cursor: Cursor, found: Iterable[Finding]) -> None:
    """Keep findings of closed buckets as facts."""
    rows = [
        (
            (finding.at - BUCKET).date(),
            finding.at - BUCKET,
            MINUTES,
            finding.watch.metric,
            *finding.group,
            finding.value,
            finding.sample,
            min(finding.severity / (finding.severity + WARN), 1.0),
            "normal" if finding.level in (None, "info") else finding.level,
            finding.expected,
            finding.lower,
            finding.upper,
            list(finding.reasons),
        )
        for finding in found
        if finding.learnt
    ]
    if rows:
        execute_values(
            cursor,
            "INSERT INTO metamon.anomalies (day, bucket_start, minutes, metric, dimension, dimension_value, value, sample, score, level,"
            " expected, lower, upper, reasons) VALUES %s ON CONFLICT (day, bucket_start, minutes, metric, dimension, dimension_value)"
            " DO UPDATE SET (value, sample, score, level, expected, lower, upper, reasons, detected_at) = (excluded.value, excluded.sample,"
            " excluded.score, excluded.level, excluded.expected, excluded.lower, excluded.upper, excluded.reasons, statement_timestamp())",
            rows,
        )


def _first_bucket(cursor: Cursor) -> datetime | None:
    cursor.execute("SELECT min(bucket_start) FROM metamon.completion_metrics")
    return (cursor.fetchone() or (None,))[0]


def _chosen(buckets: Buckets, day: Floats) -> list[tuple[int, Group]]:
    """The groups that are followed: of each dimension the largest of the last day."""
    completed = day[:, buckets.column("completed")] if day.size else np.zeros(0)
    found: list[tuple[int, Group]] = []
    for dimension in ("overall", "agent", "tenant", "model", "tool"):
        of_dimension = buckets.of([dimension])
        of_dimension.sort(key=lambda entry: (-completed[entry[0]], entry[1]))
        found += [entry for entry in of_dimension[:TOP] if completed[entry[0]] > 0]
    return found


def _excess(watch: Watch, sums: Floats, day: Floats, columns: Sequence[str]) -> float:
    """Runs beyond the day's share that are bad, over two such windows; of means every run counts, of numbers those that are missing."""
    if watch.scale == "count":
        return float(2 * (day[columns.index("completed")] / 288 - sums[columns.index("completed")]))
    n, usual = sums[columns.index(watch.denominator)], day[columns.index(watch.denominator)]
    if watch.scale in ("mean", "logarithms") or usual <= 0:
        return float(2 * n)
    over = sums[columns.index(watch.numerator)] - n * day[columns.index(watch.numerator)] / usual
    return float(2 * watch.worse * over)
