"""What rules can look at: for each metric how it is read, by which groups, and which of its events are the bad ones.

Here belongs reading; whether a figure is bad enough is ``judgement``'s. Four kinds, since each wants another test:

- ``share``: bad events among events (error rate); ``quantile``: the same, bad being beyond the limit (p95 above 10 s is more than
  5 % above 10 s); ``mean``: a sum with its squares; ``level``: a figure that simply is (a queue, a share of memory).

A metric that later stages bring (annotations, optimisation runs) is read from ``metamon.system_metrics`` under its name and has no
reading until somebody writes it: its rules are not applicable until then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from metamon_assets.alerts.series import UNNAMED, Buckets, Group, beyond

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Cursor

Kind = Literal["share", "quantile", "mean", "level"]
ALL: Group = ("overall", "(all)")
OF_RUNS = ("overall", "agent", "agent_version", "tenant", "mode", "model", "environment")
COMPARED = (timedelta(hours=1), timedelta(days=1), timedelta(days=7))  # before a cost that is held against what it was
PRICED_BUCKETS = 6  # of such an hour's twelve: what has only just begun was no cheaper before
FRESH = timedelta(minutes=5)  # older samples of a level say nothing of now


@dataclass(frozen=True, slots=True)
class Reading:
    """A group's figure over a window: ``counted`` of ``sample`` events, or a mean with its standard error, or only a value.

    ``value`` is None where there is nothing to read; ``sample`` then says how many events there were.
    """

    group: Group
    value: float | None
    sample: int = 0
    counted: int | None = None
    error: float | None = None


@dataclass(slots=True)
class Look:
    """One look at everything, at one moment: the buckets, and the database for what they do not have."""

    cursor: Cursor
    at: datetime
    buckets: Buckets
    memo: dict[object, object] = field(default_factory=dict)


Reader = Callable[[Look, timedelta, float | None, Sequence[str]], Iterator[Reading]]


@dataclass(frozen=True, slots=True)
class Signal:
    """A metric for rules. ``bad``: SQL over a row t of metamon.traces that picks the bad runs, for evidence; "" where no run is bad.

    ``q``: of a quantile. ``decides``: the reading itself says whether it is an incident, a rule has no bound. ``exists`` is SQL that is
    true once the input was ever seen (None: always there).
    """

    name: str
    kind: Kind
    unit: str
    description: str
    read: Reader
    dimensions: tuple[str, ...] = ("overall",)
    bad: str = ""
    q: float | None = None
    decides: bool = False
    exists: str | None = None

    @property
    def of_buckets(self) -> bool:
        """Whether it is read from completion buckets."""
        return (self.dimensions == OF_RUNS and not self.decides) or self.dimensions == ("tool",)


# --- from completion buckets -------------------------------------------------------------------------------------


def _share(bad: str, of: str) -> Reader:
    """Bad events among events, each a column or the difference of two (``a-b``)."""

    def read(look: Look, window: timedelta, threshold: float | None, by: Sequence[str]) -> Iterator[Reading]:
        sums = look.buckets.window(look.at, window)
        for place, group in look.buckets.of(by):
            n, k = (_whole(_column(look.buckets, sums[place], name)) for name in (of, bad))
            yield Reading(group, k / n if n else None, n, min(k, n))

    return read


def _beyond(look: Look, window: timedelta, threshold: float | None, by: Sequence[str]) -> Iterator[Reading]:
    """Latencies beyond the threshold. The value is the share that is; ``evidence`` finds the quantile itself for what fires."""
    assert threshold is not None
    return _share(beyond(threshold), "latency_count")(look, window, threshold, by)


def _mean(name: str) -> Reader:
    """A mean with its standard error."""

    def read(look: Look, window: timedelta, threshold: float | None, by: Sequence[str]) -> Iterator[Reading]:
        sums = look.buckets.window(look.at, window)
        count, total, squares = (look.buckets.column(f"{name}_{part}") for part in ("count", "sum", "sum_squares"))
        for place, group in look.buckets.of(by):
            n = float(sums[place, count])
            mean = float(sums[place, total]) / n if n > 0 else None
            variance = max(float(sums[place, squares]) / n - (mean or 0.0) ** 2, 0.0) * n / (n - 1) if n > 1 else math.inf
            yield Reading(group, mean, _whole(n), error=math.sqrt(variance / n) if n > 1 else math.inf)

    return read


def _cost(look: Look, window: timedelta, threshold: float | None, by: Sequence[str]) -> Iterator[Reading]:
    """US dollars of the window."""
    sums = look.buckets.window(look.at, window)
    cost, priced = look.buckets.column("total_cost"), look.buckets.column("priced_runs")
    for place, group in look.buckets.of(by):
        n = _whole(sums[place, priced])
        yield Reading(group, float(sums[place, cost]) if n else None, n)


def _cost_growth(look: Look, window: timedelta, threshold: float | None, by: Sequence[str]) -> Iterator[Reading]:
    """Cost of the window over the largest of what as long a time cost before: the hour before, the same time a day and a week ago.

    So the rise of every morning is none.
    """
    now = {reading.group: reading for reading in _cost(look, window, threshold, by)}
    earlier = _earlier_cost(look, window, by)
    for group, reading in now.items():
        before = max(earlier.get(group, {}).values(), default=0.0)
        known = reading.value is not None and before > 0
        yield Reading(group, reading.value / before if known else None, reading.sample)  # type: ignore[operator]


def _earlier_cost(look: Look, window: timedelta, by: Sequence[str]) -> dict[Group, dict[timedelta, float]]:
    """Cost per window in an hour around the same time before, by how long ago."""
    found: dict[Group, dict[timedelta, float]] = {}
    for ago in COMPARED:
        end = look.at - (window if ago == COMPARED[0] else ago - timedelta(minutes=30))
        look.cursor.execute(
            "SELECT dimension, dimension_value, sum(total_cost)::float8 FROM metamon.completion_metrics WHERE day BETWEEN %s AND %s"
            " AND bucket_start >= %s AND bucket_start < %s AND dimension = ANY(%s) GROUP BY 1, 2 HAVING count(total_cost) >= %s",
            ((end - COMPARED[0]).date(), end.date(), end - COMPARED[0], end, list(by), PRICED_BUCKETS),
        )
        for dimension, value, cost in look.cursor.fetchall():
            if cost:
                found.setdefault((dimension, value), {})[ago] = cost * (window / COMPARED[0])
    return found


def _column(buckets: Buckets, sums: Sequence[float], name: str) -> float:
    first, _, less = name.partition("-")
    return float(sums[buckets.column(first)] - (sums[buckets.column(less)] if less else 0.0))


def _whole(number: float) -> int:
    """Events of a window that was taken in proportion, as whole ones."""
    return max(round(number), 0)


# --- from the database -------------------------------------------------------------------------------------------


def _counts(query: str) -> Reader:
    """Bad events and events by SQL that gives dimension, value, bad, all; its parameters: since, at, first_day, last_day, by."""

    def read(look: Look, window: timedelta, threshold: float | None, by: Sequence[str]) -> Iterator[Reading]:
        since = look.at - window
        look.cursor.execute(query, {"since": since, "at": look.at, "first_day": since.date(), "last_day": look.at.date(), "by": list(by)})
        for dimension, value, bad, n in look.cursor.fetchall():
            if value not in UNNAMED:
                events = int(n or 0)
                counted = min(int(bad or 0), events)  # more judgements than runs are as good as one for each
                yield Reading((dimension, value), counted / events if events else None, events, counted)

    return read


def _level(query: str) -> Reader:
    """A figure by SQL that gives dimension, value, figure, sample; the same parameters."""

    def read(look: Look, window: timedelta, threshold: float | None, by: Sequence[str]) -> Iterator[Reading]:
        since = look.at - window
        look.cursor.execute(
            query, {"since": since, "at": look.at, "first_day": since.date(), "last_day": look.at.date(), "by": list(by), "fresh": FRESH}
        )
        for dimension, value, figure, sample in look.cursor.fetchall():
            yield Reading((dimension, value), None if figure is None else float(figure), int(sample or 0))

    return read


def _sampled(name: str, aggregate: str = "last") -> tuple[Reader, str]:
    """A figure of ``metamon.system_metrics``: its newest sample, or the sum of those of the window; and SQL for whether it exists."""
    of = {"last": "(array_agg(value ORDER BY time DESC))[1]", "sum": "sum(value)"}[aggregate]
    since = "greatest(%(since)s, %(at)s - %(fresh)s)" if aggregate == "last" else "%(since)s"
    query = (
        f"SELECT 'overall', '(all)', {of}, count(*) FROM metamon.system_metrics WHERE name = '{name}' AND time > {since} AND time <= %(at)s"
        " HAVING count(*) > 0"
    )
    return _level(query), f"SELECT EXISTS (SELECT FROM metamon.system_metrics WHERE name = '{name}')"


def _gauge(figure: str, names: Sequence[str]) -> tuple[Reader, str]:
    """A figure over the newest samples of gauges by their labels (the largest counts), or sums of counters."""
    listed = ", ".join(f"'{name}'" for name in names)
    query = (
        f"SELECT 'overall', '(all)', max(figure), sum(samples) FROM (SELECT labels, {figure} AS figure, count(*) AS samples"
        f" FROM metamon.gauge_samples AS g WHERE name IN ({listed}) AND day BETWEEN %(first_day)s AND %(last_day)s"
        " AND time > %(since)s AND time <= %(at)s GROUP BY labels) AS by_labels HAVING max(figure) IS NOT NULL"
    )
    return _level(query), f"SELECT EXISTS (SELECT FROM metamon.gauge_samples WHERE name IN ({listed}))"


_NEWEST = "(array_agg(value ORDER BY time DESC) FILTER (WHERE name = '{}'))[1]"
_CACHE_FILLED = f"{_NEWEST.format('cache_size')} / nullif({_NEWEST.format('cache_capacity')}, 0)"
_EVICTIONS = (
    "sum(value) FILTER (WHERE labels ->> 'operation' = 'evict')"
    " / extract(epoch FROM CAST(%(at)s AS timestamptz) - CAST(%(since)s AS timestamptz))"
)
_RETRIEVALS = """
    SELECT dimension, dimension_value, sum(retrieval_errors), sum(retrieval_results) FROM metamon.five_minute_metrics
    WHERE day BETWEEN %(first_day)s AND %(last_day)s AND bucket_start >= %(since)s AND bucket_start < %(at)s
        AND dimension = ANY(%(by)s) GROUP BY 1, 2 HAVING sum(retrieval_results) > 0"""
_FEEDBACK = """
    SELECT 'overall', '(all)', (SELECT count(*) FROM metamon.feedback
        WHERE day BETWEEN %(first_day)s AND %(last_day)s AND created_at > %(since)s AND created_at <= %(at)s), count
    FROM (SELECT sum(completed) AS count FROM metamon.completion_metrics WHERE day BETWEEN %(first_day)s AND %(last_day)s
        AND bucket_start >= %(since)s AND bucket_start < %(at)s AND dimension = 'overall') AS runs WHERE count > 0"""
_FINISHED = """
    SELECT 'overall', '(all)', coalesce(sum(value) FILTER (WHERE name = '{bad}'), 0), coalesce(sum(value) FILTER (WHERE name = '{all}'), 0)
    FROM metamon.system_metrics WHERE name IN ('{bad}', '{all}') AND time > %(since)s AND time <= %(at)s HAVING count(*) > 0"""
_WORKER_AWAY = """
    SELECT 'overall', '(all)', extract(epoch FROM CAST(%(at)s AS timestamptz) - beat_at), 1
    FROM metamon.heartbeats WHERE component = 'dagster_daemon'"""
_HAS_WORKER = "SELECT EXISTS (SELECT FROM metamon.heartbeats WHERE component = 'dagster_daemon')"
_HAS_FEEDBACK = "SELECT EXISTS (SELECT FROM metamon.feedback)"
_HAS_JOBS = "SELECT EXISTS (SELECT FROM metamon.system_metrics WHERE name = 'runs_finished')"
_JOBS_FINISHED = """
    SELECT 'overall', '(all)', sum(value), count(*) FROM metamon.system_metrics
    WHERE name = 'runs_finished' AND time > %(since)s AND time <= %(at)s
    HAVING min(time) < %(since)s + interval '10 minutes'"""  # who has not looked for as long cannot say that none completed


def _signals() -> Iterator[Signal]:
    runs = OF_RUNS
    yield Signal("error_rate", "share", "1", "Failed share of what ended.", _share("errors", "completed"), runs, "t.status = 'error'")
    yield Signal("degradation_rate", "share", "1", "Share of degraded answers.", _share("degraded", "degraded_known"), runs, "t.degraded")
    yield Signal(
        "cache_hit_rate", "share", "1", "Share that the cache answered.", _share("cache_hits", "cache_known"), runs, "t.cache_hit IS FALSE"
    )
    yield Signal(
        "tool_failure_rate",
        "share",
        "1",
        "Failed share of a tool's calls.",
        _share("errors", "completed"),
        ("tool",),
        "EXISTS (SELECT FROM metamon.spans AS s WHERE s.day = t.day AND s.source = t.source AND s.trace_id = t.trace_id"
        " AND s.status = 'error' AND COALESCE(s.tool_name, s.name) = %(value)s)",
    )
    yield Signal(
        "retrieval_failure_rate",
        "share",
        "1",
        "Failed share of the retrievals.",
        _counts(_RETRIEVALS),
        ("overall", "agent", "tenant"),
        "EXISTS (SELECT FROM metamon.spans AS s WHERE s.day = t.day AND s.source = t.source AND s.trace_id = t.trace_id"
        " AND s.status = 'error' AND s.run_type = 'retriever')",
    )
    for q in (0.5, 0.95, 0.99):
        name = f"latency_p{round(q * 100)}"
        yield Signal(name, "quantile", "s", f"Quantile {q:g} of the latency.", _beyond, runs, "t.latency_seconds > %(threshold)s", q)
    yield Signal("quality_mean", "mean", "1", "Mean quality score.", _mean("quality"), runs, "t.quality_score < %(threshold)s")
    yield Signal("cost", "level", "USD", "US dollars of the window.", _cost, runs, "t.total_cost > 0")
    yield Signal("cost_growth", "level", "1", "Cost of the window over what it was before.", _cost_growth, runs, "t.total_cost > 0")
    yield Signal("feedback_rate", "share", "1", "Judgements per run that ended.", _counts(_FEEDBACK), exists=_HAS_FEEDBACK)
    yield Signal(
        "feedback_count",
        "level",
        "1",
        "Judgements in the window, while anything runs.",
        _level(_FEEDBACK),
        exists=_HAS_FEEDBACK,
    )
    yield Signal(
        "job_failure_rate",
        "share",
        "1",
        "Failed share of the pipeline's runs.",
        _counts(_FINISHED.format(bad="runs_failed", all="runs_finished")),
        exists=_HAS_JOBS,
    )
    yield Signal("jobs_finished", "level", "1", "Runs of the pipeline that ended.", _level(_JOBS_FINISHED), exists=_HAS_JOBS)
    away = "Seconds since Dagster's daemon and code server last worked together."
    yield Signal("worker_away_seconds", "level", "s", away, _level(_WORKER_AWAY), exists=_HAS_WORKER)
    for name, unit, aggregate, description in _SAMPLED:
        read, exists = _sampled(name, aggregate)
        yield Signal(name, "level", unit, description, read, exists=exists)
    read, exists = _gauge(_CACHE_FILLED, ("cache_size", "cache_capacity"))
    yield Signal("cache_filled", "level", "1", "Entries of the fullest cache over its capacity.", read, exists=exists)
    read, exists = _gauge(_EVICTIONS, ("cache_operations",))
    yield Signal("cache_eviction_rate", "level", "1/s", "Evictions per second of the busiest cache.", read, exists=exists)
    for name, description in _DECIDING:
        yield Signal(name, "level", "1", description, _nothing, dimensions=(*OF_RUNS, "tool", "asset", "target", "project"), decides=True)


def _nothing(look: Look, window: timedelta, threshold: float | None, by: Sequence[str]) -> Iterator[Reading]:
    """Signals that decide by themselves have sources of their own (``sources``)."""
    return iter(())


_SAMPLED = (
    ("queue_length", "1", "last", "Runs of the pipeline that wait."),
    ("run_seconds_p95", "s", "last", "95th percentile of how long the pipeline's runs took in the last hour."),
    ("host_memory_share", "1", "last", "Memory in use."),
    ("host_cpu_share", "1", "last", "Processors in use."),
    ("database_connections", "1", "last", "Connections to the database."),
    ("api_latency_p95", "s", "last", "95th percentile of the API's answers."),
    ("pending_annotations", "1", "last", "Learning examples that wait for a decision."),
    ("optimisation_failures", "1", "sum", "Optimisation runs that failed."),
    ("prompt_optimisations", "1", "sum", "Prompt optimisations that ran."),
)
_DECIDING = (
    ("anomaly", "The adaptive detector, on every watched metric and group."),
    ("pipeline_events", "Failed asset checks, failed runs and stale sensors of the pipeline."),
    ("security_flags", "Secrets in outputs, injections, exfiltration links."),
    ("slo_burn", "Error budgets of accepted targets that burn too fast."),
)
SIGNALS: dict[str, Signal] = {signal.name: signal for signal in _signals()}
