"""The assets of this stage: how the pipeline itself was on a day, and how the targets stood at its end."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from metamon_assets import partitions
from metamon_assets.health import slo, targets
from metamon_assets.warehouse.assets import figures_per_day, markdown_table, report_days, results, table_spec
from metamon_assets.warehouse.resources import Warehouse

GROUP = "health"

_DAY_OF_TIME = "time >= day::timestamp AT TIME ZONE 'UTC' AND time < (day + 1)::timestamp AT TIME ZONE 'UTC'"
_SYSTEM_FIGURES = f"""
    SELECT day, count(time) AS rows, count(DISTINCT date_trunc('minute', time)) AS minutes_measured,
        max(value) FILTER (WHERE name = 'queue_length') AS longest_queue,
        (sum(value) FILTER (WHERE name = 'runs_finished'))::bigint AS runs_finished,
        (sum(value) FILTER (WHERE name = 'runs_failed'))::bigint AS runs_failed,
        max(value) FILTER (WHERE name = 'host_memory_share') AS most_memory_share
    FROM unnest(%(days)s) day LEFT JOIN metamon.system_metrics ON {_DAY_OF_TIME} GROUP BY day"""
_BY_NAME = f"""
    SELECT name || CASE component WHEN '' THEN '' ELSE ' of ' || component END, min(value), avg(value), max(value)
    FROM metamon.system_metrics, (SELECT %(day)s::date AS day) of_day WHERE {_DAY_OF_TIME} AND name <> 'build_info'
    GROUP BY name, component ORDER BY name, component LIMIT 60"""


@dg.multi_asset(
    name="system",
    specs=[table_spec("system_metrics", group=GROUP, kinds=["dagster"])],
    backfill_policy=partitions.backfill_policy,
    pool="postgres",
    description="Shows what was measured on a day. The rows come each minute, from the process that `metamon up` runs.",
)
def system(context: dg.AssetExecutionContext, warehouse: Warehouse) -> Iterator[dg.MaterializeResult]:
    """Sum up the day's figures; nothing is computed that is not there."""
    days = partitions.days_of(context)
    with warehouse.connection() as connection:
        figures = figures_per_day(connection, _SYSTEM_FIGURES, days)
        for day, of_day in figures.items():
            if of_day["rows"]:
                of_day["figures"] = _by_name(connection, day)
    report_days(context, "system_metrics", {day: _known(of_day) for day, of_day in figures.items()})
    yield from results(context, ("system_metrics",))


@dg.multi_asset(
    name="slo",
    specs=[
        table_spec(
            "slo_status",
            group=GROUP,
            deps=["daily_metrics", "completion_metrics", "unit_daily", "system_metrics"],
            lineage={
                "good": [("daily_metrics", "errors"), ("daily_metrics", "successes"), ("system_metrics", "value")],
                "value": [("daily_metrics", "latency_sum"), ("daily_metrics", "total_cost"), ("unit_daily", "requests")],
                "burn_1h": [("completion_metrics", "errors"), ("completion_metrics", "completed")],
            },
        )
    ],
    backfill_policy=partitions.backfill_policy,
    pool="postgres",
    description="How each target stood at the end of a day: value, error budget left, burn rates. Targets that are missing are suggested.",
)
def slo_status(context: dg.AssetExecutionContext, warehouse: Warehouse) -> Iterator[dg.MaterializeResult]:
    """Compute the days again, the earliest first, since the weekly review looks at the days before."""
    days, now = partitions.days_of(context), datetime.now(UTC)
    with warehouse.connection() as connection:
        targets.suggest(connection, now)
        if changed := targets.follow(connection, warehouse.settings, now):
            context.log.info("Targets that follow metamon.yaml: %s", ", ".join(changed))
        figures = {day: _stand(slo.status(connection, day, now)) for day in days}
    report_days(context, "slo_status", figures)
    yield from results(context, ("slo_status",))


def _stand(found: list[slo.Status]) -> dict[str, Any]:
    told = [one for one in found if one.value is not None]
    accepted = [one for one in told if one.target.accepted_at is not None]
    table = [(one.target.name, one.target.words, one.value, "yes" if one.met else "no", one.error_budget_left) for one in told]
    return {
        "rows": len(found),
        "targets_with_data": len(told),
        "accepted_with_data": len(accepted),
        "accepted_and_missed": sum(not one.met for one in accepted),
        "targets": markdown_table(("target", "wanted", "value", "met", "error budget left"), table),
    }


def _by_name(connection: Any, day: date) -> dg.MetadataValue:
    with connection, connection.cursor() as cursor:
        cursor.execute(_BY_NAME, {"day": day})
        return markdown_table(("figure", "least", "mean", "most"), cursor.fetchall())


def _known(figures: dict[str, Any]) -> dict[str, Any]:
    """Without the figures that nothing measured."""
    return {name: value for name, value in figures.items() if value is not None}
