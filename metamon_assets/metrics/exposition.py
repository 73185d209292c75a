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

Labels are bounded: dimensions overall, agent and model, of which the rollups keep 50 values each, and (other).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from typing import TYPE_CHECKING, TypeAlias

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
    Family("rq_queue_length", "gauge", (), "Runs that wait in Dagster's queue."),
    Family("rq_jobs_total", "counter", (), "Runs that Dagster finished."),
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
                self._growth.take(_sums(cursor, self._days(now.date())))
        except (psycopg2.Error, MetamonError):
            yield _samples(_STATE["metamon_database_up"], [((), 0.0)])
            return
        yield _samples(_STATE["metamon_database_up"], [((), 1.0)])
        yield from found
        for entry in (*(family(metric) for metric in _COUNTERS), FEEDBACK_FAMILIES[0]):
            yield _samples(entry, self._growth.of(entry.name))

    def _days(self, today: date) -> list[date]:
        """The days whose sums are due."""
        if time.monotonic() - self._yesterday_at < YESTERDAY_SECONDS:
            return [today]
        self._yesterday_at = time.monotonic()
        return [today - timedelta(days=1), today]


_STATE = {entry.name: entry for entry in STATE_FAMILIES}
_COUNTERS = [metric for metric in METRICS if metric.kind is Kind.COUNTER]


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


def _sums(cursor: Cursor, days: list[date]) -> dict[tuple[date, str, Labels], float]:
    """The counters' sums of days, from quarters of an hour, which the live feed keeps up to date."""
    columns = ", ".join(f"CAST(sum({metric.expression(Scope.FIFTEEN_MINUTES)}) AS double precision)" for metric in _COUNTERS)
    cursor.execute(
        f"SELECT day, dimension, dimension_value, {columns} FROM metamon.fifteen_minute_metrics"
        " WHERE day = ANY(%s) AND dimension = ANY(%s) GROUP BY day, dimension, dimension_value",
        (days, list(DIMENSIONS)),
    )
    sums = {
        (day, metric.prometheus_name, (dimension, value)): amount
        for day, dimension, value, *amounts in cursor.fetchall()
        for metric, amount in zip(_COUNTERS, amounts, strict=True)
        if amount is not None
    }
    return sums | _feedback_sums(cursor, days)


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
- **Labels**: `dimension` is overall, agent or model; `value` is one of the 50 largest of the day, `(none)` or `(other)`.
- Beside these, the usual `process_…` metrics of the server's own process.

| name | type | labels | meaning | requirement |
|---|---|---|---|---|
"""
