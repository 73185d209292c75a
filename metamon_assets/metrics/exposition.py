"""What ``/metrics`` shows Prometheus (MET-10): the registry's metrics as they are now, and the state of the system.

Here belongs how each kind of metric becomes a family that Prometheus understands, and the one list of all families
(``docs/metrics.md`` is ``markdown()``; a test fails when they differ). Serving it belongs to ``web``.

- Counters show by how much the sums of today and yesterday have grown since this process started. So they never fall,
  although rows are corrected and days are computed again; they start at zero with the process, as Prometheus expects;
  and a history that is loaded later does not look like traffic of this minute. Totals over days are in the database.
- Ratios, rates and percentiles are gauges over the newest bucket of five minutes (where it has none: fifteen) that has
  been over for a minute, so that the feed has read all of it. Without data there is no sample; a level is never 0 for
  want of data.
- What is in flight is a gauge from the newest bucket of completions.
- Metrics of days are gauges over the last whole UTC day.
- What alert rules need beside these is here too, so that Prometheus can judge by the same figures: the sums that shares and
  means consist of, figures of the pipeline and the host as they were last measured, caches as applications told them, open incidents.

Labels are bounded: dimensions overall, agent and model, of which the rollups keep 50 values each, and (other); calls and their
errors also by tool; at most 20 caches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from typing import TYPE_CHECKING, TypeAlias

from metamon_assets.days import midnight
from metamon_assets.metrics.registry import METRICS, Kind, Metric, Scope

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from prometheus_client import Metric as Samples

    from metamon_assets.warehouse.connection import Connection, Cursor

DIMENSIONS = ("overall", "agent", "model")
LABELS = ("dimension", "value")
CACHED_SECONDS = 5.0
YESTERDAY_SECONDS = 60.0  # what is late changes yesterday's sums, and there is less hurry about that
SETTLED = timedelta(minutes=1)  # what a bucket that is over may still wait for the feed
IN_FLIGHT_AGE = timedelta(minutes=15)  # an older look says nothing about now
MOST_FEEDBACK_KEYS = 20
MOST_CACHES = 20
CACHE_AGE = timedelta(minutes=10)  # applications tell less often
OPERATIONS = ("hit", "miss", "write", "evict", "invalidate")
MEASURED_AGE = timedelta(minutes=5)  # an older figure of the pipeline says nothing about now
Lend: TypeAlias = "Callable[[], AbstractContextManager[Connection]]"
Labels: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """A family of ``/metrics``: its name, type, labels, help, and the requirement that asks for it."""

    name: str
    type: str
    labels: Labels
    help: str
    requirement: str = "MET-10"


REQUEST_FAMILIES = (
    Family("learning_api_requests_total", "counter", ("method", "route", "status"), "Requests to this server."),
    Family("learning_api_request_duration_seconds", "histogram", ("method", "route"), "Seconds from a request to the end of its answer."),
    Family("learning_api_request_size_bytes", "histogram", ("method", "route"), "Bytes of the bodies of requests."),
    Family("learning_api_response_size_bytes", "histogram", ("method", "route"), "Bytes of the bodies of answers."),
)
FEEDBACK_FAMILIES = (
    Family("agent_feedback_total", "counter", ("key",), "Judgements given, by what was judged."),
    Family("agent_feedback_rating", "gauge", LABELS, "Mean user_rating of the last whole UTC day, on the scale of the feedback itself."),
    Family("agent_feedback_collection_rate", "gauge", LABELS, "Share of the requests of the last whole UTC day that got feedback."),
)
IN_FLIGHT_FAMILIES = (
    Family("metamon_requests_in_flight", "gauge", LABELS, "Requests that had started and not ended at the last look.", "MET-1"),
    Family(
        "metamon_requests_in_flight_over_p99",
        "gauge",
        LABELS,
        "Those in flight for longer than the p99 of their agent, where it is known: what hangs.",
        "MET-1",
    ),
    Family("metamon_oldest_in_flight_seconds", "gauge", LABELS, "Seconds since the start of the longest request in flight.", "MET-1"),
)
# Sums that shares and means consist of, and what they are in a rollup.
SUM_FAMILIES = (
    (
        Family("metamon_ended_requests_total", "counter", LABELS, "Requests that ended (dimension tool: calls).", "ALR-17"),
        "successes + errors",
    ),
    (
        Family("metamon_degradation_known_total", "counter", LABELS, "Requests that say whether the answer was degraded.", "ALR-26"),
        "degraded_known",
    ),
    (Family("metamon_degraded_total", "counter", LABELS, "Of them those whose answer was.", "ALR-26"), "degraded"),
    (Family("metamon_cache_known_total", "counter", LABELS, "Requests that say whether the cache answered.", "ALR-20"), "cache_known"),
    (Family("metamon_cache_hits_total", "counter", LABELS, "Of them those that it answered.", "ALR-20"), "cache_hits"),
    (Family("metamon_quality_scores_total", "counter", LABELS, "Requests with a quality score.", "ALR-25"), "quality_count"),
    (Family("metamon_quality_score_sum_total", "counter", LABELS, "Sum of the quality scores.", "ALR-25"), "quality_sum"),
    (Family("metamon_quality_score_squares_total", "counter", LABELS, "Sum of their squares.", "ALR-25"), "quality_sum_squares"),
    (Family("metamon_priced_requests_total", "counter", LABELS, "Requests with a cost.", "ALR-24"), "priced_requests"),
    (Family("metamon_retrieval_results_total", "counter", LABELS, "Retrievals that ended.", "ALR-28"), "retrieval_results"),
    (Family("metamon_retrieval_errors_total", "counter", LABELS, "Of them those that failed.", "ALR-28"), "retrieval_errors"),
)
# Figures of the pipeline and the host, by their names in metamon.system_metrics.
FIGURE_FAMILIES = {
    "queue_length": Family("rq_queue_length", "gauge", (), "Runs that wait in Dagster's queue."),
    "run_seconds_p95": Family(
        "metamon_run_duration_p95_seconds",
        "gauge",
        (),
        "95th percentile of how long Dagster's runs took that ended in the last hour.",
        "MET-8",
    ),
    "host_cpu_share": Family("metamon_host_cpu_share", "gauge", (), "Share of the host's processors in use, over a minute.", "MET-8"),
    "host_memory_share": Family("metamon_host_memory_share", "gauge", (), "Share of the host's memory in use.", "MET-8"),
    "host_disk_share": Family("metamon_host_disk_share", "gauge", (), "Share of the disk of Metamon's home in use.", "MET-8"),
}
JOBS = Family("rq_jobs_total", "counter", ("status",), "Runs that Dagster finished: failed, or completed otherwise.")
CACHE_OPERATIONS = Family(
    "metamon_cache_operations_total", "counter", ("cache", "operation"), "Operations of applications' caches, as they told them.", "MET-2"
)
CACHE_FAMILIES = {
    "cache_size": Family("metamon_cache_size", "gauge", ("cache",), "Entries of applications' caches, as they told them last.", "MET-2"),
    "cache_capacity": Family("metamon_cache_capacity", "gauge", ("cache",), "Entries that they have room for.", "MET-2"),
}
OPEN_INCIDENTS = Family(
    "metamon_open_incidents", "gauge", ("rule", "severity"), "Open incidents that are told, not those in shadow or found late.", "NOT-3"
)
RULE_FAMILIES = (
    *(entry for entry, _ in SUM_FAMILIES),
    *FIGURE_FAMILIES.values(),
    JOBS,
    CACHE_OPERATIONS,
    *CACHE_FAMILIES.values(),
    OPEN_INCIDENTS,
)
BUCKET_START = Family(
    "metamon_bucket_start_timestamp_seconds", "gauge", (), "Start of the five minutes that the gauges of requests describe."
)
STATE_FAMILIES = (
    Family("metamon_build_info", "gauge", ("version", "python"), "Version of Metamon; always 1."),
    Family("metamon_uptime_seconds", "gauge", (), "Seconds since this server started."),
    Family("metamon_database_up", "gauge", (), "Whether the database answers."),
    Family("metamon_database_connections", "gauge", (), "Connections to Metamon's database.", "MET-8"),
    Family("metamon_database_connections_limit", "gauge", (), "Connections that the database server allows.", "MET-8"),
    Family("metamon_heartbeat_age_seconds", "gauge", ("component",), "Seconds since each part of the system was last heard of.", "MET-8"),
    Family("metamon_feed_lag_seconds", "gauge", (), "Seconds that the oldest changed bucket has waited for its metrics; 0: none.", "MET-8"),
)
# Asked for by MET-10; what they count does not exist yet, so they are not shown: a zero would be a claim.
NOT_YET = (
    Family("learning_examples_pending", "gauge", (), "Learning examples that wait for a decision."),
    Family("learning_examples_approved", "gauge", (), "Learning examples that were approved."),
    Family("learning_examples_rejected", "gauge", (), "Learning examples that were rejected."),
    Family("learning_examples_quality_score", "histogram", (), "Quality of learning examples."),
    Family("rq_job_duration_seconds", "histogram", (), "Seconds that Dagster's runs took."),
    Family("rq_workers_total", "gauge", (), "Workers that carry out Dagster's runs."),
    Family("training_runs_total", "counter", (), "Optimisation runs."),
    Family("training_run_duration_seconds", "histogram", (), "Seconds that optimisation runs took."),
    Family("training_run_improvement_percentage", "gauge", (), "What the last optimisation runs gained."),
    Family("ab_tests_active", "gauge", (), "Experiments under way."),
    Family("ab_test_statistical_significance", "gauge", (), "How sure each experiment is of its difference."),
)


def family(metric: Metric) -> Family:
    """How a metric of the registry is shown."""
    over = {Scope.FIVE_MINUTES: "Newest full five minutes", Scope.FIFTEEN_MINUTES: "Newest full quarter of an hour", Scope.DAY: "Last day"}
    counter = metric.kind is Kind.COUNTER
    text = metric.description if counter else f"{metric.description} {over[metric.scope]}."
    return Family(metric.prometheus_name, "counter" if counter else "gauge", LABELS, text, metric.requirement)


FAMILIES = (
    *(family(metric) for metric in METRICS),
    *IN_FLIGHT_FAMILIES,
    *FEEDBACK_FAMILIES,
    *REQUEST_FAMILIES,
    *RULE_FAMILIES,
    BUCKET_START,
    *STATE_FAMILIES,
)


def markdown() -> str:
    """All families as one table: the document ``docs/metrics.md``."""
    rows = [(entry, "") for entry in FAMILIES] + [(entry, " *Not yet.*") for entry in NOT_YET]
    table = "\n".join(
        f"| {entry.name} | {entry.type} | {', '.join(entry.labels) or '–'} | {entry.help}{mark} | {entry.requirement} |"
        for entry, mark in rows
    )
    return _DOCUMENT + table + "\n"


# --- what is shown ----------------------------------------------------------------------------------------------


class Growth:
    """By how much sums have grown since they were first seen. They may fall in between; that is not forgotten and not counted."""

    def __init__(self) -> None:
        self._highest: dict[tuple[date, str, Labels], float] = {}
        self._grown: dict[tuple[str, Labels], float] = {}
        self._begun = False

    def take(self, sums: Mapping[tuple[date, str, Labels], float]) -> None:
        """The sums of days by name and labels, as they are now. The first ones are where counting starts."""
        for key, value in sums.items():
            _, name, labels = key
            seen = self._highest.get(key, 0.0 if self._begun else value)
            self._grown[name, labels] = self._grown.get((name, labels), 0.0) + max(0.0, value - seen)
            self._highest[key] = max(seen, value)
        self._begun = True
        newest = max((day for day, _, _ in self._highest), default=date.min)
        self._highest = {key: value for key, value in self._highest.items() if key[0] >= newest - timedelta(days=1)}
        # What is not among the labels of these days has ended: with other names each day, a server would grow for ever.
        present = {key[1:] for key in self._highest}
        self._grown = {key: value for key, value in self._grown.items() if key in present}

    def of(self, name: str) -> Iterator[tuple[Labels, float]]:
        """The growth of a name by its labels."""
        return ((labels, value) for (of, labels), value in self._grown.items() if of == name)


class Exposition:
    """A collector for ``prometheus_client``; ``lend`` gives a database connection for a while, or raises psycopg2's errors."""

    def __init__(self, lend: Lend, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._lend = lend
        self._now = now
        self._started = now()
        self._growth = Growth()
        self._lock = threading.Lock()
        self._kept: list[Samples] = []
        self._kept_at = self._yesterday_at = float("-inf")

    def describe(self) -> Iterable[Samples]:
        """Nothing: so that registering asks no database."""
        return ()

    def collect(self) -> Iterable[Samples]:
        """All families, at most a few seconds old. While the database is away, those that need none."""
        with self._lock:
            if time.monotonic() - self._kept_at > CACHED_SECONDS:
                self._kept = list(self._read())
                self._kept_at = time.monotonic()
            return list(self._kept)

    def _read(self) -> Iterator[Samples]:
        import psycopg2

        from metamon_assets.errors import MetamonError

        now = self._now()
        yield from _own_state(now - self._started)
        found: list[Samples] = []
        try:
            with self._lend() as connection, connection, connection.cursor() as cursor:
                found += _database_state(cursor)
                found += _gauges(cursor, now)
                found += _in_flight(cursor, now)
                found += _measured(cursor, now)
                found += _caches(cursor, now)
                found += _open_incidents(cursor)
                self._growth.take(_sums(cursor, self._days(now.date())))
        except (psycopg2.Error, MetamonError):
            yield _samples(_STATE["metamon_database_up"], [((), 0.0)])
            return
        yield _samples(_STATE["metamon_database_up"], [((), 1.0)])
        yield from found
        for entry in (*(entry for entry, _ in _COUNTED), FEEDBACK_FAMILIES[0], JOBS, CACHE_OPERATIONS):
            yield _samples(entry, self._growth.of(entry.name))

    def _days(self, today: date) -> list[date]:
        """The days whose sums are due."""
        if time.monotonic() - self._yesterday_at < YESTERDAY_SECONDS:
            return [today]
        self._yesterday_at = time.monotonic()
        return [today - timedelta(days=1), today]


_STATE = {entry.name: entry for entry in STATE_FAMILIES}
_COUNTED: list[tuple[Family, str]] = [
    *((family(metric), metric.expression(Scope.FIFTEEN_MINUTES)) for metric in METRICS if metric.kind is Kind.COUNTER),
    *SUM_FAMILIES,
]
_OF_TOOLS = {"metamon_requests_total", "metamon_ended_requests_total", "metamon_errors_total"}


def _samples(entry: Family, values: Iterable[tuple[Labels, float]]) -> Samples:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kind = CounterMetricFamily if entry.type == "counter" else GaugeMetricFamily
    samples = kind(entry.name, entry.help, labels=entry.labels)
    for labels, value in values:
        samples.add_metric(labels, value)
    return samples


def _own_state(uptime: timedelta) -> Iterator[Samples]:
    import platform
    from importlib.metadata import version

    yield _samples(_STATE["metamon_build_info"], [((version("metamon"), platform.python_version()), 1.0)])
    yield _samples(_STATE["metamon_uptime_seconds"], [((), uptime.total_seconds())])


def _database_state(cursor: Cursor) -> Iterator[Samples]:
    cursor.execute(
        "SELECT (SELECT numbackends FROM pg_stat_database WHERE datname = current_database()), current_setting('max_connections')::int,"
        " (SELECT greatest(0, extract(epoch FROM clock_timestamp() - min(touched_at)))::float8 FROM metamon.touched_buckets)"
    )
    connections, limit, lag = cursor.fetchone() or (0, 0, None)
    yield _samples(_STATE["metamon_database_connections"], [((), float(connections))])
    yield _samples(_STATE["metamon_database_connections_limit"], [((), float(limit))])
    yield _samples(_STATE["metamon_feed_lag_seconds"], [((), lag or 0.0)])
    cursor.execute("SELECT component, greatest(0, extract(epoch FROM clock_timestamp() - beat_at))::float8 FROM metamon.heartbeats")
    yield _samples(_STATE["metamon_heartbeat_age_seconds"], [((component,), age) for component, age in cursor.fetchall()])


def newest_bucket(now: datetime, scope: Scope) -> datetime:
    """Start of the newest bucket of ``scope`` that is over and settled; for days, of the last whole one."""
    if scope is Scope.DAY:
        return datetime.combine(now.date() - timedelta(days=1), clock(), UTC)
    minutes = 5 if scope is Scope.FIVE_MINUTES else 15
    settled = now - SETTLED
    return settled.replace(minute=settled.minute - settled.minute % minutes, second=0, microsecond=0) - timedelta(minutes=minutes)


def _gauges(cursor: Cursor, now: datetime) -> Iterator[Samples]:
    yield _samples(BUCKET_START, [((), newest_bucket(now, Scope.FIVE_MINUTES).timestamp())])
    for scope in Scope:
        shown = [metric for metric in METRICS if metric.scope is scope and metric.kind is not Kind.COUNTER]
        rows = _rows(cursor, shown, scope, newest_bucket(now, scope))
        for position, metric in enumerate(shown):
            values = [(row[:2], row[2 + position]) for row in rows if row[2 + position] is not None]
            yield _samples(family(metric), values)
            if metric.name in _ALSO:
                yield _samples(_ALSO[metric.name], values)


_ALSO = {"user_satisfaction": FEEDBACK_FAMILIES[1], "feedback_collection_rate": FEEDBACK_FAMILIES[2]}


def _rows(cursor: Cursor, metrics: Sequence[Metric], scope: Scope, start: datetime) -> list[tuple]:
    """Dimension, value and the metrics of one bucket, a row for each group."""
    bucket = "" if scope is Scope.DAY else " AND bucket_start = %(start)s"
    columns = ", ".join(f"CAST({metric.expression(scope)} AS double precision)" for metric in metrics)
    cursor.execute(
        f"SELECT dimension, dimension_value, {columns} FROM metamon.{scope}"
        f" WHERE day = %(day)s AND dimension = ANY(%(dimensions)s){bucket}",
        {"day": start.date(), "start": start, "dimensions": list(DIMENSIONS)},
    )
    return cursor.fetchall()


def _in_flight(cursor: Cursor, now: datetime) -> Iterator[Samples]:
    """What is under way, from the newest completion bucket, which the live feed computes each minute while it lasts."""
    cursor.execute(
        "SELECT dimension, dimension_value, in_flight, in_flight_over_p99, oldest_in_flight_seconds FROM metamon.completion_metrics"
        " WHERE day = ANY(%(days)s) AND dimension = ANY(%(dimensions)s) AND bucket_start = (SELECT max(bucket_start)"
        " FROM metamon.completion_metrics WHERE day = ANY(%(days)s) AND dimension = 'overall'"
        " AND bucket_start BETWEEN %(from)s AND %(now)s)",
        {"days": [now.date(), (now - IN_FLIGHT_AGE).date()], "dimensions": list(DIMENSIONS), "from": now - IN_FLIGHT_AGE, "now": now},
    )
    rows = cursor.fetchall()
    for position, entry in enumerate(IN_FLIGHT_FAMILIES, start=2):
        yield _samples(entry, [(row[:2], float(row[position])) for row in rows if row[position] is not None])


_CACHE = "coalesce(labels ->> 'cache', '(none)')"


def _measured(cursor: Cursor, now: datetime) -> Iterator[Samples]:
    """The newest figures of the pipeline and the host."""
    cursor.execute(
        "SELECT DISTINCT ON (name) name, value FROM metamon.system_metrics WHERE name = ANY(%s) AND component = ''"
        " AND time > %s AND time <= %s ORDER BY name, time DESC",
        (list(FIGURE_FAMILIES), now - MEASURED_AGE, now),
    )
    found = dict(cursor.fetchall())
    for name, entry in FIGURE_FAMILIES.items():
        yield _samples(entry, [((), found[name])] if name in found else [])


def _caches(cursor: Cursor, now: datetime) -> Iterator[Samples]:
    """The newest readings of the largest caches; of several with one name the larger one."""
    cursor.execute(
        f"SELECT name, cache, max(value) FROM (SELECT DISTINCT ON (name, labels) name, {_CACHE} AS cache, value FROM metamon.gauge_samples"
        " WHERE name = ANY(%s) AND day = ANY(%s) AND time > %s AND time <= %s ORDER BY name, labels, time DESC) AS newest"
        " GROUP BY name, cache ORDER BY max(value) DESC, cache",
        (list(CACHE_FAMILIES), [now.date(), (now - CACHE_AGE).date()], now - CACHE_AGE, now),
    )
    rows = cursor.fetchall()
    for name, entry in CACHE_FAMILIES.items():
        yield _samples(entry, [((cache,), value) for of, cache, value in rows if of == name][:MOST_CACHES])


def _open_incidents(cursor: Cursor) -> Iterator[Samples]:
    cursor.execute("SELECT rule, severity, count(*) FROM metamon.incidents WHERE status = 'open' AND NOT shadow AND NOT late GROUP BY 1, 2")
    yield _samples(OPEN_INCIDENTS, [((rule, severity), float(count)) for rule, severity, count in cursor.fetchall()])


def _sums(cursor: Cursor, days: list[date]) -> dict[tuple[date, str, Labels], float]:
    """The counters' sums of days, from quarters of an hour, which the live feed keeps up to date."""
    columns = ", ".join(f"CAST(sum({expression}) AS double precision)" for _, expression in _COUNTED)
    cursor.execute(
        f"SELECT day, dimension, dimension_value, {columns} FROM metamon.fifteen_minute_metrics"
        " WHERE day = ANY(%s) AND dimension = ANY(%s) GROUP BY day, dimension, dimension_value",
        (days, [*DIMENSIONS, "tool"]),
    )
    sums = {
        (day, entry.name, (dimension, value)): amount
        for day, dimension, value, *amounts in cursor.fetchall()
        for (entry, _), amount in zip(_COUNTED, amounts, strict=True)
        if amount is not None and (dimension != "tool" or entry.name in _OF_TOOLS)
    }
    return sums | _feedback_sums(cursor, days) | _job_sums(cursor, days) | _cache_sums(cursor, days)


def _job_sums(cursor: Cursor, days: list[date]) -> dict[tuple[date, str, Labels], float]:
    """Runs of the pipeline that ended, by day."""
    cursor.execute(
        "SELECT CAST(time AT TIME ZONE 'UTC' AS date) AS day, coalesce(sum(value) FILTER (WHERE name = 'runs_failed'), 0),"
        " coalesce(sum(value) FILTER (WHERE name = 'runs_finished'), 0) FROM metamon.system_metrics"
        " WHERE name IN ('runs_failed', 'runs_finished') AND component = '' AND time >= %s AND time < %s GROUP BY 1",
        (midnight(min(days)), midnight(max(days) + timedelta(days=1))),
    )
    sums: dict[tuple[date, str, Labels], float] = {}
    for day, failed, finished in cursor.fetchall():
        sums[day, JOBS.name, ("failed",)] = failed
        sums[day, JOBS.name, ("completed",)] = max(finished - failed, 0.0)
    return sums


def _cache_sums(cursor: Cursor, days: list[date]) -> dict[tuple[date, str, Labels], float]:
    """Operations of caches by day; beyond the busiest caches of a day they count as (other)."""
    cursor.execute(
        "SELECT day, CASE WHEN place <= %s THEN cache ELSE '(other)' END, operation, sum(n) FROM ("
        "SELECT day, cache, operation, n, dense_rank() OVER (PARTITION BY day ORDER BY in_all DESC, cache) AS place FROM ("
        f"SELECT day, {_CACHE} AS cache, labels ->> 'operation' AS operation, sum(value) AS n,"
        f" sum(sum(value)) OVER (PARTITION BY day, {_CACHE}) AS in_all FROM metamon.gauge_samples"
        " WHERE name = 'cache_operations' AND day = ANY(%s) AND labels ->> 'operation' = ANY(%s) GROUP BY 1, 2, 3) AS counted) AS placed"
        " GROUP BY 1, 2, 3",
        (MOST_CACHES, days, list(OPERATIONS)),
    )
    return {(day, CACHE_OPERATIONS.name, (cache, operation)): count for day, cache, operation, count in cursor.fetchall()}


def _feedback_sums(cursor: Cursor, days: list[date]) -> dict[tuple[date, str, Labels], float]:
    """Judgements by key; beyond the most frequent keys of a day they count as (other)."""
    cursor.execute(
        "SELECT day, CASE WHEN place <= %s THEN key ELSE '(other)' END, CAST(sum(n) AS double precision) FROM ("
        "SELECT day, key, count(*) AS n, row_number() OVER (PARTITION BY day ORDER BY count(*) DESC, key) AS place"
        " FROM metamon.feedback WHERE day = ANY(%s) GROUP BY day, key) AS counted GROUP BY 1, 2",
        (MOST_FEEDBACK_KEYS, days),
    )
    return {(day, FEEDBACK_FAMILIES[0].name, (key,)): count for day, key, count in cursor.fetchall()}


_DOCUMENT = """\
# Metrics for Prometheus

`GET /metrics` of the web server, with a token whose role is viewer:

```yaml
scrape_configs:
  - job_name: metamon
    authorization: {credentials_file: /etc/prometheus/metamon-token}
    static_configs: [{targets: ["127.0.0.1:4318"]}]
```

- **Counters** show by how much the sums of today and yesterday (UTC) have grown since the server started. They never
  fall, although rows are corrected and days are computed again, and loading an old history does not look like traffic.
- **Gauges** of requests describe the newest five minutes (time to first token and quality: fifteen) that have been over
  for a minute; those of days the last whole UTC day; those in flight the last look, a minute ago. Without data there is
  no sample.
- **Labels**: `dimension` is overall, agent or model, for requests, errors and ended requests also tool; `value` is one of the
  50 largest of the day, `(none)` or `(other)`.
- **Alert rules** for Prometheus and routes for Alertmanager, from the same catalogue as Metamon's own: `metamon rules render`.
- Beside these, the usual `process_…` metrics of the server's own process.

| name | type | labels | meaning | requirement |
|---|---|---|---|---|
"""
