"""How fast, how large and how much memory: a day's traces into five minutes, quarters of an hour, units and the day.

Every dimension and histogram is included; traces and spans are filled in by the server itself, with some 20 tenants, 10 agents,
30 versions, 12 models, 40 prompt versions and 10 tools. The plain aggregate that stands beside it in the same run asks, by
five minutes and for each dimension, for counts, sums and exact percentiles of latency, and writes nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from datetime import UTC, date, datetime
from pathlib import Path

from _common import Report, Stopwatch, Target, arguments, database
from psycopg2.extensions import connection as Connection

from metamon_assets.metrics import refresh_days, refresh_five_minutes
from metamon_assets.warehouse import connect, server

TARGETS = (
    Target("rollups of a day", "s", 12, at_least=False),
    Target("rollups of a day, again", "s"),
    Target("rollups of a day against the plain aggregate", "×"),
    Target("memory of the server's processes", "MB", 1000, at_least=False),
    Target("temporary files", "MB"),
    Target("rollup rows per trace", "rows"),
    Target("five-minute bytes per trace", "bytes"),
    Target("fifteen-minute bytes per trace", "bytes"),
    Target("unit bytes per trace", "bytes"),
    Target("daily bytes per trace", "bytes"),
    Target("one quarter of an hour, as the live feed asks", "s"),
    Target("rollups of a day of 2,000 traces", "s"),
)
DAY, SMALL_DAY = date(2026, 1, 15), date(2026, 1, 16)
NOW = datetime(2026, 1, 20, tzinfo=UTC)
TRACES = """
INSERT INTO metamon.traces (
    day, source, project, run_id, trace_id, run_type, name, agent_name, agent_version, mode, tenant_id, user_id, conversation_id,
    environment, start_time, end_time, first_token_time, latency_seconds, time_to_first_token_seconds, status, error_type, provider,
    request_model, response_model, prompt_name, prompt_version, input_tokens, output_tokens, total_tokens, cache_read_input_tokens,
    reasoning_output_tokens, input_cost, output_cost, total_cost, cost_source, cache_hit, quality_score, degraded, degradation_reason,
    warnings, task_completed, llm_calls, tool_calls, retrievals, metadata, observed_time)
SELECT
    %(day)s, 'files', 'benchmark', id, id, 'chain', 'answer', 'agent-' || agent, 'v' || agent * 3 + floor(3 * random())::int,
    (ARRAY['fast', 'balanced', 'thorough'])[1 + floor(3 * random())::int],
    'tenant-' || person * person / 125000000, 'user-' || person,
    'conversation-' || i / 3, (ARRAY['production', 'staging'])[1 + (random() < 0.1)::int],
    start_time, start_time + latency * interval '1 second', start_time + latency * 0.3 * interval '1 second', latency,
    CASE WHEN random() < 0.7 THEN latency * 0.3 END, CASE WHEN failed THEN 'error' ELSE 'success' END,
    CASE WHEN failed THEN 'RateLimitError' END, 'provider-' || model %% 4, 'model-' || model, 'model-' || model,
    'prompt-' || agent, 'p' || floor(40 * random() ^ 1.5)::int,
    input, output, input + output, input / 2, output / 4, (input * 2.5e-6)::numeric(20, 12), (output * 1e-5)::numeric(20, 12),
    (input * 2.5e-6)::numeric(20, 12) + (output * 1e-5)::numeric(20, 12), 'computed', random() < 0.3,
    CASE WHEN random() < 0.5 THEN 0.6 + 0.4 * random() END, degraded, CASE WHEN degraded THEN 'fallback' END,
    CASE WHEN random() < 0.05 THEN ARRAY['slow'] END, random() < 0.9, 1, 1, 1, '{}', start_time
FROM (
    SELECT i, md5(i::text) AS id, %(day)s::timestamp AT TIME ZONE 'UTC' + i * (86400.0 / %(count)s) * interval '1 second' AS start_time,
           floor(10 * (i / 3 * 104729::bigint %% 1009 / 1009.0) ^ 2)::int AS agent,
           floor(50000 * (i / 3 * 7919::bigint %% 100003 / 100003.0) ^ 2)::bigint AS person,
           floor(12 * random() ^ 1.5)::int AS model, random() < 0.02 AS failed, random() < 0.03 AS degraded,
           round(exp(0.5 + 2 * (random() + random() + random() + random() - 2))::numeric, 6)::float8 AS latency,
           floor(exp(6.5 + 2 * (random() + random() + random() - 1.5)))::int AS input,
           floor(exp(5 + 2 * (random() + random() + random() - 1.5)))::int AS output
    FROM generate_series(0, %(count)s - 1) AS i
) AS drawn
"""
# A model call in every trace, a tool call in every fourth and a retrieval in every fourth.
SPANS = """
INSERT INTO metamon.spans (day, source, project, run_id, trace_id, parent_run_id, run_type, name, tool_name,
                           start_time, latency_seconds, status, total_cost, cost_source, observed_time)
SELECT %(day)s, 'files', 'benchmark', id || '.' || k, id, id, (ARRAY['tool', 'llm', 'retriever'])[k], 'step',
       CASE k WHEN 1 THEN 'tool-' || floor(10 * random() ^ 2)::int END, start_time, exp(random() - 1),
       CASE WHEN random() < 0.03 THEN 'error' ELSE 'success' END,
       CASE k WHEN 2 THEN (0.001 * random())::numeric(20, 12) END, CASE k WHEN 2 THEN 'computed' ELSE 'unpriced' END, start_time
FROM (SELECT i, md5(i::text) AS id, %(day)s::timestamp AT TIME ZONE 'UTC' + i * (86400.0 / %(count)s) * interval '1 second' AS start_time
      FROM generate_series(0, %(count)s - 1) AS i) AS roots, generate_series(1, 3) AS k
WHERE k = 2 OR (i + k) %% 4 = 0
"""
PLAIN = """
SELECT date_bin('5 minutes', start_time, '2000-01-01Z') AS bucket_start, {column}, count(*), count(*) FILTER (WHERE status = 'error'),
       avg(latency_seconds), sum(input_tokens), sum(output_tokens), sum(total_cost), avg(quality_score), avg(time_to_first_token_seconds),
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_seconds)
FROM metamon.traces WHERE day = %s GROUP BY 1, 2
"""
PLAIN_COLUMNS = ("project", "tenant_id", "agent_name", "agent_version", "mode", "response_model", "prompt_version", "environment")


def main() -> int:
    parser = arguments("Rollups: seconds for a day of a million traces, memory, bytes per trace, ratio to plain SQL.")
    parser.add_argument("--rows", type=int, help="traces of the day (default 1,000,000; 100,000 with --quick)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the repeated figures (default %(default)s)")
    options = parser.parse_args()
    options.rows = options.rows or (100_000 if options.quick else 1_000_000)
    report = Report("rollups", TARGETS, options)
    with database() as (settings, url):
        first, second = connect(url), connect(url)
        _fill(first, options.seed, DAY, options.rows)
        _fill(first, options.seed, SMALL_DAY, 2_000)
        settle(connect(server.database_url(settings)))
        _measure(report, first, second)
    return report.finish()


def _fill(connection: Connection, seed: int, day: date, rows: int) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT setseed(%s)", (seed % 1000 / 1000,))
        for table, statement in (("traces", TRACES), ("spans", SPANS)):
            cursor.execute("SELECT metamon.ensure_partition(%s, %s)", (table, day))
            cursor.execute(statement, {"day": day, "count": rows})


def settle(owner: Connection) -> None:
    """As a day is after its first load: with statistics, and its index of times complete."""
    owner.autocommit = True  # VACUUM takes no transaction
    with owner.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE) metamon.traces, metamon.spans")
    owner.close()


def _measure(report: Report, first: Connection, second: Connection) -> None:
    rows, rounds = report.arguments.rows, range(report.arguments.rounds)
    spilled = _spilled(first)
    with Stopwatch() as watch, _Memory(first, second) as memory:
        written = refresh_days(first, [DAY], NOW, second=second)
    scaled = TARGETS[0].limit * max(rows / 1_000_000, 0.25) if TARGETS[0].limit else None  # small days have their fixed costs
    report.record("rollups of a day", watch.seconds, f"{rows:,} traces, {rows * 3 // 2:,} spans, two connections; first time", limit=scaled)
    report.record("memory of the server's processes", memory.peak, "anonymous memory of both, beyond shared_buffers")
    report.record("temporary files", (_spilled(first) - spilled) / 1e6)
    _sizes(report, first, written.five_minute_rows + written.fifteen_minute_rows + written.unit_rows + written.daily_rows)
    again, plain = [], []
    for _ in rounds:  # side by side
        with Stopwatch() as watch:
            _plain(first)
        plain.append(watch.seconds)
        with Stopwatch() as watch:
            refresh_days(first, [DAY], NOW, second=second)
        again.append(watch.seconds)
    report.record("rollups of a day, again", again, "the day's rows deleted and written again")
    ratios = [ours / theirs for ours, theirs in zip(again, plain, strict=True)]
    report.record("rollups of a day against the plain aggregate", ratios, f"8 dimensions, exact percentiles: {min(plain):.1f} s")
    quarters, small = [], []
    for _ in rounds:
        with Stopwatch() as watch:
            refresh_five_minutes(first, [datetime(2026, 1, 15, 13, tzinfo=UTC)], NOW)
        quarters.append(watch.seconds)
        with Stopwatch() as watch:
            refresh_days(first, [SMALL_DAY], NOW, second=second)
        small.append(watch.seconds)
    report.record("one quarter of an hour, as the live feed asks", quarters, f"on the day of {rows:,} traces")
    report.record("rollups of a day of 2,000 traces", small)


def _plain(connection: Connection) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL work_mem = '192MB'")
        for column in PLAIN_COLUMNS:
            cursor.execute(f"SELECT count(*) FROM ({PLAIN.format(column=column)}) AS plain", (DAY,))


def _sizes(report: Report, connection: Connection, written: int) -> None:
    rows = report.arguments.rows
    report.record("rollup rows per trace", written / rows)
    for name, table in (("five-minute", "five_minute_metrics"), ("fifteen-minute", "fifteen_minute_metrics"), ("unit", "unit_daily")):
        (size,) = _row(connection, f"SELECT pg_total_relation_size(oid) FROM pg_class WHERE relname = '{table}_{DAY:%Y%m%d}'")
        report.record(f"{name} bytes per trace", float(size) / rows)
    (size,) = _row(connection, "SELECT pg_total_relation_size('metamon.daily_metrics')")
    report.record("daily bytes per trace", float(size) / rows)


def _spilled(connection: Connection) -> float:
    time.sleep(1.1)  # a session tells what it did at most once a second
    (size,) = _row(connection, "SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()")
    return float(size)


def _row(connection: Connection, query: str) -> tuple[float, ...]:
    with connection, connection.cursor() as cursor:
        cursor.execute(query)
        row = cursor.fetchone()
    assert row is not None
    return row


class _Memory:
    """The most anonymous memory, in MB, that the processes of some connections had at once; looked at every 20 ms."""

    peak = 0.0

    def __init__(self, *connections: Connection) -> None:
        self._files = [Path(f"/proc/{connection.info.backend_pid}/status") for connection in connections]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stopped.wait(0.02):
            texts = [file.read_text(encoding="ascii") for file in self._files]
            self.peak = max(self.peak, sum(int(text.split("RssAnon:")[1].split()[0]) for text in texts) / 1024)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()


if __name__ == "__main__":
    sys.exit(main())
