"""How long ``metamon rules backtest`` takes over fourteen days, by the number of series that there are.

Series are groups times watched metrics. Rows of completion buckets, rollups, figures of the pipeline, caches and feedback are drawn in
the database, for a day more than is gone through, as much as an installation of that size has.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from _common import Report, Stopwatch, Target, arguments, database

from metamon_assets.alerts.backtest import backtest
from metamon_assets.alerts.catalogue import Catalogue, bundled
from metamon_assets.alerts.detection import WATCHED
from metamon_assets.warehouse import connect

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection, Cursor

DAYS, SERIES = 14, 1_000
NAME = "rules backtest"
TARGETS = (Target(NAME, "s", 60, at_least=False), Target("rules that it tried", "rules", 20))
NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
SHARES = {"agent": 0.4, "tenant": 0.25, "model": 0.2, "tool": 0.15}
PER_BUCKET = 40  # runs of a group in five minutes

_GROUPS = """
    SELECT 'overall' AS dimension, '(all)' AS value, 20 AS size
    UNION ALL SELECT d, d || ' ' || n, 1 FROM unnest(%(of)s, %(many)s) AS t (d, m), generate_series(1, m) AS n"""
_DRAWN = """
    CROSS JOIN LATERAL (SELECT (%(runs)s * size * {minutes} / 5 * (0.7 + 0.6 * random()))::int AS n WHERE at IS NOT NULL) AS runs
    CROSS JOIN LATERAL (SELECT (n * 0.04 * random())::int AS bad, ARRAY(SELECT b::smallint FROM generate_series(0, 80, 4) AS b) AS bins,
        ARRAY(SELECT greatest(n / 21, 1) FROM generate_series(0, 80, 4)) AS counts WHERE n IS NOT NULL) AS more"""
_SAMPLED = """
    INSERT INTO metamon.system_metrics (time, name, value)
    SELECT at, name, CASE WHEN name LIKE '%%share' THEN random() * 0.7 WHEN name = 'runs_failed' THEN 0 ELSE random() * 20 END
    FROM generate_series(%(first)s, %(now)s, interval '1 minute') AS at, unnest(
        ARRAY['queue_length', 'run_seconds_p95', 'host_memory_share', 'host_cpu_share', 'database_connections', 'api_latency_p95',
            'runs_finished', 'runs_failed', 'pending_annotations'] || ARRAY(SELECT 'more ' || n FROM generate_series(1, 19) n)) AS name"""
_CACHES = """
    INSERT INTO metamon.gauge_samples (day, source, project, name, time, labels, kind, value, observed_time)
    SELECT (at AT TIME ZONE 'UTC')::date, 'app', 'shop', name, at, labels, kind, value * (0.5 + random() / 4), at
    FROM generate_series(%(first)s, %(now)s, interval '1 minute') AS at, (VALUES
        ('cache_size', '{}'::jsonb, 'gauge', 1000), ('cache_capacity', '{}', 'gauge', 2000),
        ('cache_operations', '{"operation": "evict"}', 'counter', 60)) AS g (name, labels, kind, value)"""
_FEEDBACK = """
    INSERT INTO metamon.feedback (day, source, project, feedback_id, key, created_at, observed_time)
    SELECT (at AT TIME ZONE 'UTC')::date, 'app', 'shop', 'f' || n, 'user_rating', at, at FROM generate_series(1, 50000) AS n
    CROSS JOIN LATERAL (SELECT %(first)s + n / 50000.0 * (%(now)s - %(first)s) AS at) AS moment"""


def main() -> int:
    parser = arguments("Seconds that a backtest of fourteen days takes.")
    parser.add_argument("--series", type=int, default=SERIES, help="groups times watched metrics (default %(default)s)")
    options = parser.parse_args()
    days = 3 if options.quick else DAYS
    report = Report("backtest", TARGETS, options)
    with database() as (_, url):
        connection = connect(url)
        rows = fill(connection, days + 1, options.series, options.seed)
        busy = time.process_time()
        with Stopwatch() as watch:
            found = backtest(connection, Catalogue(bundled()), NOW, days, lambda text: print(text, file=sys.stderr))
        busy = time.process_time() - busy
        connection.close()
    tried = sum(not replay.note for replay in found)
    incidents = sum(len(replay.incidents) for replay in found)
    note = f"{days} days, {options.series:,} series, {rows:,} completion buckets; {incidents} incidents"
    note += f"; {busy:.0f} s of its own, the rest the database's and waiting; load {os.getloadavg()[0]:.1f}"
    report.record(NAME, watch.seconds, note, limit=60 * days / DAYS)
    report.record("rules that it tried", tried)
    return report.finish()


def fill(connection: Connection, days: int, series: int, seed: int) -> int:
    """Draw everything; gives the rows of completion buckets."""
    groups = series // len(WATCHED)
    parameters = {
        "of": list(SHARES),
        "many": [max(round(groups * share), 1) for share in SHARES.values()],
        "first": NOW - timedelta(days=days),
        "now": NOW,
        "runs": PER_BUCKET,
    }
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT setseed(%s)", (seed % 1000 / 1000,))
        for number in range(days + 1):
            for table in ("completion_metrics", "five_minute_metrics", "fifteen_minute_metrics", "feedback", "gauge_samples"):
                cursor.execute("SELECT metamon.ensure_partition(%s, %s)", (table, (NOW - timedelta(days=number)).date()))
        rows = _buckets(cursor, "completion_metrics", 5, parameters)
        for table, minutes in (("five_minute_metrics", 5), ("fifteen_minute_metrics", 15)):
            _buckets(cursor, table, minutes, parameters)
        for figures in (_SAMPLED, _CACHES, _FEEDBACK):  # what the pipeline, caches and people tell
            cursor.execute(figures, parameters)
    with connection, connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return rows


def _buckets(cursor: Cursor, table: str, minutes: int, parameters: dict[str, object]) -> int:
    """Buckets of every group: the figures that rules look at drawn, the others 0."""
    drawn = {
        "completed": "n",
        "requests": "n",
        "successes": "n - bad",
        "errors": "bad",
        "degraded_known": "n",
        "degraded": "bad",
        "cache_known": "n",
        "cache_hits": "n / 2 + bad",
        "latency_count": "n",
        "latency_sum": "n * 2.0",
        "latency_sum_squares": "n * 6.0",
        "latency_bins": "bins",
        "latency_counts": "counts",
        "quality_count": "n",
        "quality_sum": "n * 0.9 - bad * 0.1",
        "quality_sum_squares": "n * 0.82",
        "priced_runs": "n",
        "priced_requests": "n",
        "total_cost": "n * 0.0001",
        "retrieval_results": "n / 4",
        "retrieval_errors": "bad / 4",
    }
    cursor.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        " AND (attnotnull AND NOT atthasdef OR attname = ANY(%s))"
        " AND attname NOT IN ('day', 'bucket_start', 'dimension', 'dimension_value')",
        (f"metamon.{table}", list(drawn)),
    )
    names = [name for (name,) in cursor.fetchall()]
    values = [drawn.get(name, "at" if name == "in_flight_at" else "0") for name in names]
    cursor.execute(
        f"INSERT INTO metamon.{table} (day, bucket_start, dimension, dimension_value, {', '.join(names)})"
        f" SELECT (at AT TIME ZONE 'UTC')::date, at, dimension, value, {', '.join(values)}"
        f" FROM ({_GROUPS}) AS groups CROSS JOIN generate_series(%(first)s, %(now)s, interval '{minutes} minutes') AS at"
        + _DRAWN.format(minutes=minutes),
        parameters,
    )
    return cursor.rowcount


if __name__ == "__main__":
    sys.exit(main())
