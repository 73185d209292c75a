"""The assets of the second stage: what a day adds up to, by five minutes, by a quarter of an hour, by unit, by day.

One refresh computes all of them from the same rows, since the larger ones are sums of the smaller ones; each shows
its own figures. Completion buckets go by another clock and have a step of their own.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from metamon_assets import partitions
from metamon_assets.metrics import charts
from metamon_assets.metrics.completions import drop_old_partitions, refresh_completion_days
from metamon_assets.metrics.rollups import refresh_days
from metamon_assets.warehouse.assets import figures_per_day, markdown_table, report_days, results, table_spec
from metamon_assets.warehouse.resources import Warehouse

GROUP = "metrics"
TRENDS_DAYS = 14  # days that the picture of a day looks back

_BUCKET_FIGURES = """
    SELECT day, sum(n)::bigint AS rows, max(n) FILTER (WHERE dimension = 'overall') AS buckets, count(*) AS groups
    FROM (SELECT day, dimension, count(*) AS n FROM metamon.{table} WHERE day = ANY(%(days)s)
        GROUP BY day, dimension, dimension_value) of_group
    GROUP BY day"""
_COMPLETION_FIGURES = """
    SELECT day, count(*) AS rows, sum(completed) FILTER (WHERE dimension = 'overall')::bigint AS completed,
        max(in_flight) FILTER (WHERE dimension = 'overall') AS most_in_flight,
        max(in_flight_over_p99) FILTER (WHERE dimension = 'overall') AS most_over_p99
    FROM metamon.completion_metrics WHERE day = ANY(%(days)s) GROUP BY day"""
_UNIT_FIGURES = """
    SELECT day, count(*) AS rows, count(DISTINCT unit_id) FILTER (WHERE unit_type = 'user') AS users,
        count(DISTINCT unit_id) FILTER (WHERE unit_type = 'conversation') AS conversations
    FROM metamon.unit_daily WHERE day = ANY(%(days)s) GROUP BY day"""
_RATES = """round(100.0 * errors / NULLIF(successes + errors, 0), 2)::float8 AS error_percent,
        round(metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.95)::numeric, 2)::float8 AS latency_p95_seconds,
        round(total_cost, 4)::float8 AS total_cost_usd"""
_DAILY_FIGURES = f"""
    SELECT n.day, n.rows, requests, {_RATES}
    FROM (SELECT day, count(*) AS rows FROM metamon.daily_metrics WHERE day = ANY(%(days)s) GROUP BY day) n
    LEFT JOIN metamon.daily_metrics d ON d.day = n.day AND d.dimension = 'overall'"""
_LARGEST = f"""
    SELECT dimension_value, requests, {_RATES}
    FROM metamon.daily_metrics WHERE day = %(day)s AND dimension IN ('overall', 'agent')
    ORDER BY dimension DESC, requests DESC LIMIT 9"""
_TREND = f"""
    SELECT day, requests, {_RATES}
    FROM metamon.daily_metrics WHERE dimension = 'overall' AND day > %(first)s - %(back)s AND day <= %(last)s ORDER BY day"""

# Where the columns of a day come from, for those that people ask about.
_SUMS = {
    "requests": "run_id",
    "errors": "status",
    "latency_sum": "latency_seconds",
    "latency_counts": "latency_seconds",
    "time_to_first_token_sum": "time_to_first_token_seconds",
    "quality_sum": "quality_score",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "total_cost": "total_cost",
    "cache_hits": "cache_hit",
    "degraded": "degraded",
    "tasks_completed": "task_completed",
}
_FROM_TRACES = {column: [("traces", origin)] for column, origin in _SUMS.items()}
_FROM_QUARTERS = {column: [("fifteen_minute_metrics", column)] for column in _SUMS}


@dg.multi_asset(
    name="metrics",
    can_subset=True,  # a backfill in the UI asks for the assets one by one
    specs=[
        table_spec("five_minute_metrics", group=GROUP, deps=["traces", "spans"], lineage=_FROM_TRACES),
        table_spec("fifteen_minute_metrics", group=GROUP, deps=["traces", "spans"], lineage=_FROM_TRACES),
        table_spec(
            "unit_daily",
            group=GROUP,
            deps=["traces"],
            lineage={"requests": [("traces", "run_id")], "total_cost": [("traces", "total_cost")]},
        ),
        table_spec(
            "daily_metrics", group=GROUP, deps=["fifteen_minute_metrics", "unit_daily", "feedback", "traces"], lineage=_FROM_QUARTERS
        ),
    ],
    backfill_policy=partitions.backfill_policy,
    pool="postgres",
    description="One pass over a day's traces and spans gives its buckets, units and daily figures.",
)
def metrics(context: dg.AssetExecutionContext, warehouse: Warehouse) -> Iterator[dg.MaterializeResult]:
    """Compute the days again from the rows that are here."""
    days = partitions.days_of(context)
    with warehouse.connection() as connection, warehouse.connection() as second:
        context.log.info(str(refresh_days(connection, days, datetime.now(UTC), second=second)))
        for table in ("five_minute_metrics", "fifteen_minute_metrics"):
            report_days(context, table, figures_per_day(connection, _BUCKET_FIGURES.format(table=table), days))
        report_days(context, "unit_daily", figures_per_day(connection, _UNIT_FIGURES, days))
        report_days(context, "daily_metrics", _daily_figures(connection, days))
    yield from results(context, ("five_minute_metrics", "fifteen_minute_metrics", "unit_daily", "daily_metrics"))


@dg.multi_asset(
    name="completions",
    specs=[
        table_spec(
            "completion_metrics",
            group=GROUP,
            deps=["traces", "spans", "daily_metrics"],
            lineage={
                "completed": [("traces", "end_time"), ("traces", "status")],
                "errors": [("traces", "status")],
                "latency_counts": [("traces", "latency_seconds")],
                "total_cost": [("traces", "total_cost")],
                "in_flight": [("traces", "start_time"), ("traces", "end_time"), ("traces", "status")],
                "in_flight_over_p99": [("traces", "start_time"), ("daily_metrics", "latency_counts")],
            },
        )
    ],
    backfill_policy=partitions.backfill_policy,
    pool="postgres",
    description="What ended in each five minutes of a day and what was in flight, against the p99 of the days before.",
)
def completions(context: dg.AssetExecutionContext, warehouse: Warehouse) -> Iterator[dg.MaterializeResult]:
    """Compute the days again from the rows that are here; what is older than five-minute rows are kept is dropped."""
    days, now = partitions.days_of(context), datetime.now(UTC)
    with warehouse.connection() as connection:
        rows = refresh_completion_days(connection, days, now)
        context.log.info("%s rows written; %s old days of five-minute tables dropped", rows, drop_old_partitions(connection, now))
        report_days(context, "completion_metrics", figures_per_day(connection, _COMPLETION_FIGURES, days))
    yield from results(context, ("completion_metrics",))


def _daily_figures(connection: Any, days: list[date]) -> Mapping[date, Mapping[str, Any]]:
    """Of each day its rows, its overall figures (which Dagster plots over days), its agents, and the days up to it."""
    figures = figures_per_day(connection, _DAILY_FIGURES, days)
    with connection, connection.cursor() as cursor:
        cursor.execute(_TREND, {"first": days[0], "last": days[-1], "back": TRENDS_DAYS})
        trend = cursor.fetchall()
        for day, of_day in figures.items():
            if not of_day["rows"]:
                continue
            cursor.execute(_LARGEST, {"day": day})
            of_day["agents"] = markdown_table(("agent", "requests", "errors %", "p95 seconds", "cost $"), cursor.fetchall())
            until = [row for row in trend if day - timedelta(days=TRENDS_DAYS) < row[0] <= day]
            of_day[f"last_{TRENDS_DAYS}_days"] = markdown_table(("figure", "course", "least", "most"), charts.daily_courses(until))
            if day == days[-1]:  # a tenth of a second each: in a backfill the last day's picture shows the others too
                of_day["picture"] = dg.MetadataValue.md(
                    charts.as_markdown(charts.daily_trend(until), alt=f"requests, errors, latency and cost up to {day}")
                )
    return figures
