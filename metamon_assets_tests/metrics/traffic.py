"""Traces for tests of rollups: a few thousand over some days, made in SQL, with everything missing somewhere."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from psycopg2.extensions import connection as Connection

from metamon_assets.warehouse import connect

FIRST_DAY = date(2026, 10, 24)  # Europe/Berlin leaves summer time on the next day, America/New_York on 1 November

# random_normal() is Postgres 16 and newer; the sum of four uniforms does as well.
_TRACES = """
INSERT INTO metamon.traces (
    day, source, project, run_id, trace_id, run_type, name, agent_name, agent_version, mode, tenant_id, user_id, conversation_id,
    environment, start_time, latency_seconds, time_to_first_token_seconds, status, error_type, request_model, response_model,
    prompt_version,
    input_tokens, output_tokens, total_tokens, cache_read_input_tokens, cache_creation_input_tokens, reasoning_output_tokens,
    input_cost, output_cost, total_cost, cost_source, cache_hit, quality_score, degraded, degradation_reason, warnings, task_completed,
    llm_calls, tool_calls, retrievals, variant, observed_time)
SELECT
    %(day)s, CASE WHEN i %% 2 = 0 THEN 'files' ELSE 'otlp' END, 'p' || i %% 3, 'r' || i, 't' || i,
    CASE WHEN p[1] < 0.02 THEN 'tool' WHEN p[1] < 0.03 THEN 'retriever' ELSE 'chain' END, 'answer',
    CASE WHEN p[2] < 0.9 THEN 'agent-' || floor(4 * p[3])::int END, CASE WHEN p[4] < 0.8 THEN 'v' || floor(9 * p[5] ^ 2)::int END,
    CASE WHEN p[6] < 0.8 THEN (ARRAY['fast', 'thorough'])[1 + floor(2 * p[7])::int] END,
    CASE WHEN p[8] < 0.9 THEN 'tenant-' || floor(7 * p[9] ^ 2)::int END,
    CASE WHEN p[10] < 0.9 THEN 'user-' || floor(90 * p[11])::int END, CASE WHEN p[12] < 0.7 THEN 'c' || floor(300 * p[13])::int END,
    CASE WHEN p[14] < 0.9 THEN (ARRAY['production', 'staging'])[1 + floor(2 * p[15])::int] END,
    %(day)s::timestamp AT TIME ZONE 'UTC' + CASE WHEN i = 1 THEN interval '0' WHEN i = 2 THEN interval '24 hours' - interval '1 microsecond'
        ELSE floor(86400e6 * p[16]) * interval '1 microsecond' END,
    CASE WHEN p[17] < 0.85 THEN CASE WHEN p[18] < 0.02 THEN 0 ELSE exp(3 * (p[18] + p[19] + p[20] + p[21] - 2)) END END,
    CASE WHEN p[22] < 0.4 THEN p[23] * 2 END,
    CASE WHEN p[24] < 0.9 THEN 'success' WHEN p[24] < 0.96 THEN 'error' WHEN p[24] < 0.98 THEN 'pending' ELSE 'abandoned' END,
    CASE WHEN p[25] < 0.9 THEN (ARRAY['RateLimitError', 'Timeout'])[1 + floor(2 * p[26])::int] END,
    CASE WHEN p[27] < 0.8 THEN 'model-' || floor(3 * p[28])::int END, CASE WHEN p[29] < 0.3 THEN 'dated-' || floor(2 * p[28])::int END,
    CASE WHEN p[30] < 0.6 THEN 'p' || floor(5 * p[31])::int END,
    it, ot, it + ot, CASE WHEN p[32] < 0.5 THEN it / 2 END, CASE WHEN p[32] < 0.2 THEN it / 5 END, CASE WHEN p[33] < 0.5 THEN ot / 4 END,
    CASE WHEN priced THEN (it * 2.5e-6)::numeric(20, 12) END, CASE WHEN priced THEN (ot * 1e-5)::numeric(20, 12) END,
    CASE WHEN priced THEN (it * 2.5e-6 + ot * 1e-5)::numeric(20, 12) + 0.000000000001 * i END,
    CASE WHEN priced THEN 'computed' ELSE 'unpriced' END,
    CASE WHEN p[34] < 0.7 THEN p[35] < 0.4 END, CASE WHEN p[36] < 0.5 THEN round(p[37]::numeric, 1)::float8 END,
    CASE WHEN p[38] < 0.7 THEN p[38] < 0.1 END, CASE WHEN p[39] < 0.5 THEN 'fallback' END,
    CASE WHEN p[40] < 0.1 THEN ARRAY['slow', 'long'] WHEN p[40] < 0.2 THEN ARRAY['slow'] WHEN p[40] < 0.3 THEN '{}'::text[] END,
    CASE WHEN p[41] < 0.6 THEN p[42] < 0.8 END, CASE WHEN p[43] < 0.8 THEN 2 END, CASE WHEN p[44] < 0.8 THEN 1 END,
    CASE WHEN p[45] < 0.8 THEN 1 END,
    CASE WHEN p[46] < 0.1 THEN 'proposal-1:' || (ARRAY['control', 'treatment'])[1 + floor(2 * p[47])::int] END,
    '2026-10-30Z'
FROM (
    SELECT i, p, CASE WHEN p[48] < 0.8 THEN floor(2000 * p[49])::int END AS it,
           CASE WHEN p[48] < 0.8 THEN floor(500 * p[50])::int END AS ot,
           p[48] < 0.8 AND p[51] < 0.8 AS priced
    FROM (SELECT i, array_agg(random()) AS p FROM generate_series(1, %(count)s) AS i, generate_series(1, 51) GROUP BY i ORDER BY i) AS drawn
) AS rows
"""
_SPANS = """
INSERT INTO metamon.spans (day, source, project, run_id, trace_id, parent_run_id, run_type, name, tool_name, start_time,
                           latency_seconds, status, total_cost, cost_source, observed_time)
SELECT t.day, t.source, t.project, t.run_id || '.' || k, t.trace_id, t.run_id, kind, 'step',
       CASE WHEN p[1] < 0.7 THEN 'tool-' || floor(4 * p[2])::int END,
       t.start_time + p[3] * interval '20 minutes', CASE WHEN p[4] < 0.9 THEN p[5] END,
       CASE WHEN p[6] < 0.8 THEN 'success' WHEN p[6] < 0.95 THEN 'error' ELSE 'pending' END,
       CASE WHEN priced THEN p[7]::numeric(20, 12) / 100 END, CASE WHEN priced THEN 'reported' ELSE 'unpriced' END, '2026-10-30Z'
FROM (SELECT t.*, k, (ARRAY['tool', 'retriever', 'embedding', 'llm'])[1 + floor(4 * p[8])::int] AS kind, p, p[9] < 0.3 AS priced
      FROM metamon.traces AS t
      JOIN (SELECT run_id, k, array_agg(random()) AS p FROM metamon.traces, generate_series(1, 2) AS k, generate_series(1, 9)
            WHERE day = %(day)s GROUP BY run_id, k ORDER BY run_id, k) AS drawn ON drawn.run_id = t.run_id
      WHERE t.day = %(day)s) AS t
"""
_GRANDCHILDREN = """
INSERT INTO metamon.spans (day, source, project, run_id, trace_id, parent_run_id, run_type, start_time, status, total_cost, cost_source,
                           observed_time)
SELECT day, source, project, run_id || '.1', trace_id, run_id, 'llm', start_time, 'success', 0.001, 'reported', observed_time
FROM metamon.spans WHERE day = %(day)s AND run_type = 'tool' AND run_id LIKE '%%7.1'
"""
_FEEDBACK = """
INSERT INTO metamon.feedback (day, source, project, feedback_id, run_id, key, score, created_at, observed_time)
SELECT %(day)s::date + late, source, project, run_id || '-' || late, run_id, CASE late WHEN 0 THEN 'user_rating' ELSE 'thumbs' END,
       CASE WHEN run_id LIKE '%%3' THEN NULL ELSE 4 END, start_time + late * interval '1 day', '2026-10-30Z'
FROM (SELECT source, project, run_id, start_time FROM metamon.traces WHERE day = %(day)s AND right(run_id, 1) IN ('3', '5')
      UNION ALL
      SELECT source, project, run_id, start_time FROM metamon.spans WHERE day = %(day)s AND run_id LIKE '%%11.1') AS runs,
     generate_series(0, 1) AS late
"""


def fill(database: str, days: int = 1, traces: int = 600) -> Connection:
    """Put ``traces`` traces with their spans and feedback on each of ``days`` days from FIRST_DAY on; always the same ones."""
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT setseed(0.42)")
        for number in range(days):
            day = FIRST_DAY + timedelta(days=number)
            for table, ahead in (("traces", 0), ("spans", 0), ("feedback", 0), ("feedback", 1)):
                cursor.execute("SELECT metamon.ensure_partition(%s, %s)", (table, day + timedelta(days=ahead)))
            for statement in (_TRACES, _SPANS, _GRANDCHILDREN, _FEEDBACK):
                cursor.execute(statement, {"day": day, "count": traces})
    return connection


def rows(connection: Connection, query: str, parameters: Any = None) -> list[dict[str, Any]]:
    """The rows of a query as dicts."""
    with connection, connection.cursor() as cursor:
        cursor.execute(query, parameters)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
