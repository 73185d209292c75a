"""That sums are sums: buckets, quarters, days and units agree with each other and with the rows they came from."""

from __future__ import annotations

from metamon_assets.warehouse.checks import shape_check, sql_check
from metamon_assets.warehouse.expectations import Between

# What every level of the rollups must agree on; money exactly, floats within rounding.
_COUNTS = ("requests", "successes", "errors", "pending", "latency_count", "quality_count", "priced_requests", "unpriced_requests")
_AGREE = " OR ".join(f"a.{name} IS DISTINCT FROM b.{name}" for name in _COUNTS) + " OR a.total_cost IS DISTINCT FROM b.total_cost"
_SUMS = ", ".join(f"COALESCE(sum({name}), 0) AS {name}" for name in _COUNTS) + ", sum(total_cost) AS total_cost"
_TOLD = "format('%%s traces and $%%s against %%s and $%%s', a.requests, a.total_cost, b.requests, b.total_cost)"

_RAW = """
    SELECT day, count(*) AS requests, count(*) FILTER (WHERE status = 'success') AS successes,
        count(*) FILTER (WHERE status = 'error') AS errors,
        count(*) FILTER (WHERE status = 'pending') AS pending,
        count(latency_seconds) AS latency_count,
        count(quality_score) AS quality_count, count(total_cost) AS priced_requests,
        count(*) FILTER (WHERE total_cost IS NULL) AS unpriced_requests, sum(total_cost) AS total_cost
    FROM metamon.traces WHERE day = ANY(%(days)s) GROUP BY day"""


def _overall(table: str, where: str = "true") -> str:
    return f"SELECT day, {_SUMS} FROM metamon.{table} WHERE day = ANY(%(days)s) AND dimension = 'overall' AND {where} GROUP BY day"


def _difference(left: str, right: str) -> str:
    both = f"({left}) a FULL JOIN ({right}) b USING (day)"
    return f"SELECT COALESCE(a.day, b.day), {_TOLD} FROM {both} WHERE a.day IS NULL OR b.day IS NULL OR {_AGREE}"


def _shape(table: str) -> str:
    return f"""
        SELECT day, min(requests) AS fewest_requests,
            count(*) FILTER (WHERE requests <> successes + errors + pending + abandoned) AS statuses_do_not_add_up,
            count(*) FILTER (WHERE priced_requests + unpriced_requests <> requests AND dimension <> 'tool') AS prices_do_not_add_up,
            min(total_cost) AS lowest_cost, min(latency_sum) AS lowest_latency,
            max(quality_sum / NULLIF(quality_count, 0)) AS highest_mean_quality,
            count(*) FILTER (WHERE dimension_value = '') AS nameless_groups
        FROM metamon.{table} WHERE day = ANY(%(days)s) GROUP BY day"""


_SHAPE = (
    Between("fewest_requests", 0),
    Between("statuses_do_not_add_up", 0, 0),
    Between("prices_do_not_add_up", 0, 0),
    Between("lowest_cost", 0),
    Between("lowest_latency", 0),
    Between("highest_mean_quality", 0, 1),
    Between("nameless_groups", 0, 0),
)
_UNIT_PROFILE = """
    SELECT day, min(requests) AS fewest_requests, count(*) FILTER (WHERE successes + errors > requests) AS more_outcomes_than_requests,
        count(*) FILTER (WHERE first_start_time > last_start_time) AS times_reversed, min(total_cost) AS lowest_cost
    FROM metamon.unit_daily WHERE day = ANY(%(days)s) GROUP BY day"""
_UNIT_SHAPE = (
    Between("fewest_requests", 1),
    Between("more_outcomes_than_requests", 0, 0),
    Between("times_reversed", 0, 0),
    Between("lowest_cost", 0),
)

_COMPLETION_PROFILE = """
    SELECT day, min(completed) AS fewest_completed, count(*) FILTER (WHERE completed <> successes + errors) AS statuses_do_not_add_up,
        count(*) FILTER (WHERE in_flight_known > in_flight OR in_flight_over_p99 > in_flight_known) AS more_hung_than_in_flight,
        count(*) FILTER (WHERE (oldest_in_flight_seconds IS NULL) <> (in_flight = 0)) AS ages_of_nothing,
        count(*) FILTER (WHERE in_flight_at > bucket_start + interval '5 minutes') AS looked_too_late,
        min(total_cost) AS lowest_cost, min(latency_sum) AS lowest_latency,
        max(quality_sum / NULLIF(quality_count, 0)) AS highest_mean_quality,
        count(*) FILTER (WHERE dimension_value = '') AS nameless_groups
    FROM metamon.completion_metrics WHERE day = ANY(%(days)s) GROUP BY day"""
_COMPLETION_SHAPE = (
    Between("fewest_completed", 0),
    Between("statuses_do_not_add_up", 0, 0),
    Between("more_hung_than_in_flight", 0, 0),
    Between("ages_of_nothing", 0, 0),
    Between("looked_too_late", 0, 0),
    Between("lowest_cost", 0),
    Between("lowest_latency", 0),
    Between("highest_mean_quality", 0, 1),
    Between("nameless_groups", 0, 0),
)

shapes = [shape_check(table, _shape(table), _SHAPE) for table in ("five_minute_metrics", "fifteen_minute_metrics", "daily_metrics")]
shapes.append(shape_check("unit_daily", _UNIT_PROFILE, _UNIT_SHAPE))
shapes.append(shape_check("completion_metrics", _COMPLETION_PROFILE, _COMPLETION_SHAPE))

five_minutes_add_up = sql_check(
    asset="five_minute_metrics",
    name="adds_up_to_quarters",
    description="On days that have five-minute rows their sums are those of the quarters of an hour.",
    query=_difference(
        _overall("five_minute_metrics"),
        _overall("fifteen_minute_metrics", "day IN (SELECT day FROM metamon.five_minute_metrics WHERE day = ANY(%(days)s))"),
    ),
)
quarters_match_traces = sql_check(
    asset="fifteen_minute_metrics",
    name="matches_traces",
    description="The quarters of an hour of a day hold exactly the day's traces: counts, outcomes, known figures and cost.",
    query=_difference(_overall("fifteen_minute_metrics"), _RAW),
)
days_match_quarters = sql_check(
    asset="daily_metrics",
    name="matches_quarters",
    description="The day is the sum of its quarters of an hour.",
    query=_difference(_overall("daily_metrics"), _overall("fifteen_minute_metrics")),
)
days_match_traces = sql_check(
    asset="daily_metrics",
    name="matches_traces",
    description="The day holds exactly the day's traces, counted again from the rows.",
    query=_difference(_overall("daily_metrics"), _RAW),
)
dimensions_are_complete = sql_check(
    asset="daily_metrics",
    name="dimensions_are_complete",
    description="By tenant, by agent, by model and so on, the day's traces are all there, whatever is in (other).",
    query="""
        SELECT o.day, format('%%s: %%s of %%s traces', d.dimension, d.requests, o.requests)
        FROM (SELECT day, requests FROM metamon.daily_metrics WHERE day = ANY(%(days)s) AND dimension = 'overall') o
        JOIN (SELECT day, dimension, sum(requests) AS requests FROM metamon.daily_metrics
            WHERE day = ANY(%(days)s) AND dimension NOT IN ('overall', 'tool', 'variant') GROUP BY 1, 2) d USING (day)
        WHERE d.requests <> o.requests""",
)
units_match_traces = sql_check(
    asset="unit_daily",
    name="matches_traces",
    description="The users' and conversations' requests and cost are those of the traces that name one.",
    query="""
        WITH units AS (SELECT day, unit_type, sum(requests) AS requests, sum(total_cost) AS cost FROM metamon.unit_daily
            WHERE day = ANY(%(days)s) GROUP BY 1, 2),
        raw AS (SELECT day, 'user' AS unit_type, count(*) AS requests, sum(total_cost) AS cost FROM metamon.traces
            WHERE day = ANY(%(days)s) AND user_id IS NOT NULL GROUP BY 1
            UNION ALL SELECT day, 'conversation', count(*), sum(total_cost) FROM metamon.traces
            WHERE day = ANY(%(days)s) AND conversation_id IS NOT NULL GROUP BY 1)
        SELECT COALESCE(u.day, r.day), format('%%s: %%s requests against %%s', COALESCE(u.unit_type, r.unit_type), u.requests, r.requests)
        FROM units u FULL JOIN raw r ON r.day = u.day AND r.unit_type = u.unit_type
        WHERE u.requests IS DISTINCT FROM r.requests OR u.cost IS DISTINCT FROM r.cost""",
)
completions_match_traces = sql_check(
    asset="completion_metrics",
    name="matches_traces",
    description="On days that have completion buckets, these hold exactly the traces that ended on the day (began, where no end is known).",
    query="""
        WITH buckets AS (SELECT day, sum(completed) FILTER (WHERE dimension = 'overall') AS completed,
                sum(errors) FILTER (WHERE dimension = 'overall') AS errors, sum(total_cost) FILTER (WHERE dimension = 'overall') AS cost
            FROM metamon.completion_metrics WHERE day = ANY(%(days)s) GROUP BY day),
        raw AS (SELECT b.day, count(*) AS completed, count(*) FILTER (WHERE t.status = 'error') AS errors, sum(t.total_cost) AS cost
            FROM buckets b JOIN metamon.traces t ON t.day BETWEEN b.day - 14 AND b.day
                AND (COALESCE(t.end_time, t.start_time) AT TIME ZONE 'UTC')::date = b.day
                AND (t.end_time IS NULL OR t.end_time - t.start_time <= interval '336 hours')
            WHERE t.status IN ('success', 'error') GROUP BY b.day)
        SELECT b.day, format('%%s ended, %%s failed, $%%s against %%s, %%s and $%%s', b.completed, b.errors, b.cost,
            r.completed, r.errors, r.cost)
        FROM buckets b LEFT JOIN raw r USING (day)
        WHERE COALESCE(b.completed, 0) <> COALESCE(r.completed, 0) OR COALESCE(b.errors, 0) <> COALESCE(r.errors, 0)
            OR b.cost IS DISTINCT FROM r.cost""",
)
in_flight_matches_traces = sql_check(
    asset="completion_metrics",
    name="in_flight_matches_traces",
    description="At noon and at the end of the day as many traces are in flight as the rows say that had begun and not ended.",
    query="""
        WITH moments AS (SELECT d.day, (d.day + m.after) AT TIME ZONE 'UTC' AS moment
            FROM (SELECT DISTINCT day FROM metamon.completion_metrics WHERE day = ANY(%(days)s)) d,
                (VALUES (interval '12 hours'), (interval '24 hours')) m (after)),
        told AS (SELECT m.day, m.moment, COALESCE(c.in_flight, 0) AS in_flight
            FROM moments m LEFT JOIN metamon.completion_metrics c ON c.day = m.day AND c.bucket_start = m.moment - interval '5 minutes'
                AND c.dimension = 'overall'
            WHERE m.moment <= %(now)s AND COALESCE(c.in_flight_at, m.moment) = m.moment)
        SELECT day, format('%%s in flight at %%s, the traces say %%s', in_flight, to_char(moment AT TIME ZONE 'UTC', 'HH24:MI'), counted)
        FROM told, LATERAL (SELECT count(*) AS counted FROM metamon.traces t
            WHERE t.day BETWEEN told.day - 15 AND told.day AND t.start_time < moment AND t.start_time >= moment - interval '336 hours'
                AND (t.end_time >= moment OR (t.end_time IS NULL AND t.status IN ('pending', 'abandoned')))) rows
        WHERE in_flight <> counted""",
)

checks = [
    *shapes,
    five_minutes_add_up,
    quarters_match_traces,
    days_match_quarters,
    days_match_traces,
    dimensions_are_complete,
    units_match_traces,
    completions_match_traces,
    in_flight_matches_traces,
]
