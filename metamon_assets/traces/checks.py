"""What must be true of traces, spans, feedback, events and gauges of a day before anything is computed from them.

Shapes and ranges are Great Expectations suites over each day's figures; what ties tables, books and sources together
is logic in SQL. Blocking ones stop the metrics of the day, since those would spread what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from metamon_assets.warehouse.checks import shape_check, sql_check
from metamon_assets.warehouse.expectations import Between

WEEK_SECONDS = 7 * 86_400.0
MOST_TOKENS = 1e8  # in one trace; beyond that somebody counted something else
MOST_COST = 10_000.0  # US dollars of one trace

_RUN_PROFILE = """
    SELECT day,
        count(*) FILTER (WHERE trim(run_id) = '' OR trim(trace_id) = '') AS empty_ids,
        count(*) FILTER (WHERE start_time > statement_timestamp() + interval '1 day') AS in_the_future,
        max(latency_seconds) AS longest_seconds,
        count(*) FILTER (WHERE time_to_first_token_seconds > latency_seconds + 0.001) AS first_token_after_end,
        min(least(input_tokens, output_tokens, total_tokens, cache_read_input_tokens, reasoning_output_tokens)) AS fewest_tokens,
        max(total_tokens) AS most_tokens,
        count(*) FILTER (WHERE cache_read_input_tokens + COALESCE(cache_creation_input_tokens, 0) > input_tokens) AS more_cached_than_input,
        min(least(input_cost, output_cost, total_cost)) AS lowest_cost, max(total_cost) AS highest_cost,
        min(quality_score) AS lowest_quality, max(quality_score) AS highest_quality,
        count(*) FILTER (WHERE status = 'success' AND error_type IS NOT NULL) AS successes_with_error
    FROM metamon.{table} WHERE day = ANY(%(days)s) GROUP BY day"""
_RUN_SUITE = (
    Between("empty_ids", 0, 0),
    Between("in_the_future", 0, 0),
    Between("longest_seconds", 0, WEEK_SECONDS),
    Between("first_token_after_end", 0, 0),
    Between("fewest_tokens", 0),
    Between("most_tokens", 0, MOST_TOKENS),
    Between("more_cached_than_input", 0, 0),
    Between("lowest_cost", 0),
    Between("highest_cost", 0, MOST_COST),
    Between("lowest_quality", 0, 1),
    Between("highest_quality", 0, 1),
    Between("successes_with_error", 0, 0),
)
_FEEDBACK_PROFILE = """
    SELECT day, count(*) FILTER (WHERE trim(key) = '') AS empty_keys,
        count(*) FILTER (WHERE score IS NULL AND value IS NULL AND comment IS NULL AND correction IS NULL) AS saying_nothing,
        count(*) FILTER (WHERE modified_at < created_at) AS edited_before_given, max(abs(score)) AS largest_score
    FROM metamon.feedback WHERE day = ANY(%(days)s) GROUP BY day"""
_FEEDBACK_SUITE = (
    Between("empty_keys", 0, 0),
    Between("saying_nothing", 0, 0),
    Between("edited_before_given", 0, 0),
    Between("largest_score", 0, 1e6),
)
_EVENT_PROFILE = """
    SELECT (time AT TIME ZONE 'UTC')::date AS day,
        count(*) FILTER (WHERE version IS NULL AND commit_sha IS NULL AND metadata IS NULL) AS saying_nothing,
        count(*) FILTER (WHERE inferred AND source <> 'inferred') AS inferred_by_others
    FROM metamon.events WHERE (time AT TIME ZONE 'UTC')::date = ANY(%(days)s) GROUP BY 1"""
_EVENT_SUITE = (Between("saying_nothing", 0, 0), Between("inferred_by_others", 0, 0))
_GAUGE_PROFILE = """
    SELECT day, count(*) FILTER (WHERE trim(name) = '') AS empty_names,
        count(*) FILTER (WHERE kind = 'counter' AND value < 0) AS falling_counters,
        count(*) FILTER (WHERE value IN ('NaN', 'Infinity', '-Infinity')) AS not_finite
    FROM metamon.gauge_samples WHERE day = ANY(%(days)s) GROUP BY day"""
_GAUGE_SUITE = (Between("empty_names", 0, 0), Between("falling_counters", 0, 0), Between("not_finite", 0, 0))

_SHAPES: Mapping[str, tuple[str, Sequence[Between]]] = {
    "traces": (_RUN_PROFILE.format(table="traces"), _RUN_SUITE),
    "spans": (_RUN_PROFILE.format(table="spans"), _RUN_SUITE),
    "feedback": (_FEEDBACK_PROFILE, _FEEDBACK_SUITE),
    "events": (_EVENT_PROFILE, _EVENT_SUITE),
    "gauge_samples": (_GAUGE_PROFILE, _GAUGE_SUITE),
}


shapes = [shape_check(table, query, suite) for table, (query, suite) in _SHAPES.items()]

ledger_is_complete = sql_check(
    asset="traces",
    name="ledger_is_complete",
    description="The day was read, the last reading of each source did not fail, and every row that was read is accounted for.",
    blocking=True,
    query="""
        WITH days AS (SELECT day, day::timestamp AT TIME ZONE 'UTC' AS start FROM unnest(%(days)s::date[]) day),
        found AS (SELECT d.day, l.*, l.window_start <= d.start AND l.window_end >= least(d.start + interval '1 day', l.started_at) AS whole
            FROM days d JOIN metamon.ingestion_ledger l ON l.kind = 'runs'),
        -- Some runs of the day that were read since (pending ones by id, a quarter of an hour) do not make good a day that failed.
        readings AS (SELECT *, row_number() OVER (PARTITION BY day, source, project, whole IS TRUE ORDER BY ledger_id DESC) AS age
            FROM found WHERE whole OR day = ANY(days))
        SELECT day, 'no reading of any source covers the day' FROM days d
        WHERE NOT EXISTS (SELECT FROM readings r WHERE r.day = d.day) AND EXISTS (SELECT FROM metamon.ingestion_ledger)
        UNION ALL
        -- A later run that read the day without this source shows that the source is no longer configured.
        SELECT day, format('%%s %%s: the last reading is %%s: %%s', source, project, status, message) FROM readings r
        WHERE age = 1 AND status NOT IN ('complete', 'empty') AND NOT EXISTS (SELECT FROM readings n WHERE n.day = r.day AND n.whole
            AND n.ledger_id > r.ledger_id AND n.dagster_run_id IS DISTINCT FROM r.dagster_run_id)
        UNION ALL
        SELECT day, format('ledger entry %%s: %%s rows read, %%s accounted for', ledger_id, rows_read, accounted) FROM (
            SELECT *, rows_inserted + rows_updated + rows_unchanged + rows_duplicate + rows_excluded + rows_rejected + rows_outside
                AS accounted
            FROM readings) r
        WHERE status = 'complete' AND rows_read <> accounted""",
)

has_rows = sql_check(
    asset="traces",
    name="has_rows",
    description="A day that is over has traces from every source and project that had some in the week before.",
    severity=dg.AssetCheckSeverity.WARN,
    query="""
        SELECT d.day, format('no traces from %%s %%s, which had %%s in the week before', w.source, w.project, w.traces)
        FROM unnest(%(days)s::date[]) d(day)
        JOIN LATERAL (SELECT source, project, count(*) AS traces FROM metamon.traces t
            WHERE t.day BETWEEN d.day - 7 AND d.day - 1 GROUP BY 1, 2) w ON true
        WHERE d.day < (%(now)s AT TIME ZONE 'UTC')::date
            AND NOT EXISTS (SELECT FROM metamon.traces t WHERE t.day = d.day AND t.source = w.source AND t.project = w.project)""",
)

agrees_with_the_source = sql_check(
    asset="traces",
    name="agrees_with_the_source",
    description="Where a source counts its own runs for the day (LangSmith does), we have that many, and at most .1 % more or less cost.",
    severity=dg.AssetCheckSeverity.WARN,
    query="""
        WITH days AS (SELECT day, day::timestamp AT TIME ZONE 'UTC' AS start FROM unnest(%(days)s::date[]) day),
        told AS (SELECT DISTINCT ON (d.day, l.source, l.project) d.day, l.source, l.project, l.source_runs, l.source_cost,
                l.window_start, l.window_end
            FROM days d JOIN metamon.ingestion_ledger l ON l.window_start <= d.start AND l.window_end >= d.start + interval '1 day'
            WHERE l.kind = 'runs' AND l.status IN ('complete', 'empty') AND l.source_runs IS NOT NULL
            ORDER BY d.day, l.source, l.project, l.ledger_id DESC),
        ours AS (SELECT told.*, h.runs, h.cost FROM told, LATERAL (SELECT count(*) AS runs, sum(total_cost) AS cost FROM metamon.traces t
            WHERE t.source = told.source AND t.project = told.project
                AND t.start_time >= told.window_start AND t.start_time < told.window_end
                AND t.day BETWEEN (told.window_start AT TIME ZONE 'UTC')::date AND (told.window_end AT TIME ZONE 'UTC')::date) h)
        SELECT day, format('%%s %%s: the source counts %%s runs, here are %%s', source, project, source_runs, runs)
        FROM ours WHERE runs < source_runs
        UNION ALL
        SELECT day, format('%%s %%s: the source reports $%%s, here are $%%s', source, project, source_cost, cost)
        FROM ours WHERE abs(COALESCE(cost, 0) - source_cost) > 0.001 * source_cost AND runs <= source_runs""",
)

runs_have_one_day = sql_check(
    asset="traces",
    name="runs_have_one_day",
    description="No trace stands in two neighbouring days: a run that changed its day left the old one.",
    query="""
        SELECT a.day, format('%%s %%s stands also on %%s', a.source, a.run_id, b.day)
        FROM metamon.traces a JOIN metamon.traces b USING (run_id, project, source)
        WHERE a.day = ANY(%(days)s) AND b.day = ANY(ARRAY(SELECT unnest(%(days)s::date[]) - 1)) AND b.day = a.day - 1
        LIMIT 100""",
)

no_orphans = sql_check(
    asset="spans",
    name="no_orphans",
    description="Every span's trace is in traces, on the same day.",
    blocking=True,
    query="""
        SELECT day, format('%%s spans without their trace, such as %%s', count(*), min(run_id))
        FROM metamon.spans s
        WHERE day = ANY(%(days)s) AND NOT EXISTS (
            SELECT FROM metamon.traces t WHERE t.day = s.day AND t.day = ANY(%(days)s) AND t.source = s.source AND t.trace_id = s.trace_id)
        GROUP BY day""",
)

totals_match_children = sql_check(
    asset="spans",
    name="totals_match_children",
    description="Where a trace's cost was added up from its model calls, it is their sum.",
    query="""
        WITH calls AS (SELECT day, source, project, trace_id, sum(total_cost) AS cost FROM metamon.spans s
            WHERE day = ANY(%(days)s) AND run_type IN ('llm', 'embedding') AND NOT EXISTS (
                SELECT FROM metamon.spans i WHERE i.day = s.day AND i.day = ANY(%(days)s) AND i.trace_id = s.trace_id
                    AND i.parent_run_id = s.run_id AND i.run_type = s.run_type)
            GROUP BY 1, 2, 3, 4)
        SELECT t.day, format('%%s traces whose cost is not the sum of their calls, such as %%s', count(*), min(t.run_id))
        FROM metamon.traces t JOIN calls c USING (day, source, project, trace_id)
        WHERE t.day = ANY(%(days)s) AND 'total_cost' = ANY(t.derived_columns) AND t.total_cost IS DISTINCT FROM c.cost
            AND t.source <> 'otlp'
        GROUP BY t.day""",
)

feedback_finds_its_run = sql_check(
    asset="feedback",
    name="feedback_finds_its_run",
    description="Feedback on a run is about a run that is here: all of the day's but 5 %, or but one.",
    severity=dg.AssetCheckSeverity.WARN,
    query="""
        WITH given AS (SELECT f.day, EXISTS (SELECT FROM metamon.traces t WHERE t.run_id = f.run_id AND t.day BETWEEN f.day - 31 AND f.day)
                OR EXISTS (SELECT FROM metamon.spans s WHERE s.run_id = f.run_id AND s.day BETWEEN f.day - 31 AND f.day) AS known
            FROM metamon.feedback f WHERE f.day = ANY(%(days)s) AND f.run_id IS NOT NULL)
        SELECT day, format('%%s of %%s are about runs that are not here', count(*) FILTER (WHERE NOT known), count(*))
        FROM given GROUP BY day HAVING count(*) FILTER (WHERE NOT known) > greatest(1, 0.05 * count(*))""",
)

checks = [
    *shapes,
    ledger_is_complete,
    has_rows,
    agrees_with_the_source,
    runs_have_one_day,
    no_orphans,
    totals_match_children,
    feedback_finds_its_run,
]
