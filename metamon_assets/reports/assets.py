"""The asset of the report: what the 14 days up to a day show, as rows that people and later stages read."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from metamon_assets import charts, partitions
from metamon_assets.reports import report, rows
from metamon_assets.warehouse.assets import markdown_table, report_days, results, table_spec
from metamon_assets.warehouse.resources import Warehouse

GROUP = "reports"
SHOWN = 12  # findings in the metadata


@dg.multi_asset(
    name="report",
    specs=[
        table_spec(
            "report_findings",
            group=GROUP,
            deps=["traces", "spans", "daily_metrics", "events"],
            lineage={
                "money_per_month": [("traces", "total_cost"), ("spans", "total_cost")],
                "cost": [("traces", "total_cost")],
                "runs": [("traces", "run_id"), ("spans", "run_id")],
            },
        )
    ],
    backfill_policy=partitions.backfill_policy,
    pool="postgres",
    description="Costs, slow steps, errors, changes, repeats and savings of the 14 days up to a day. Of several days the last one is done.",
)
def report_findings(context: dg.AssetExecutionContext, warehouse: Warehouse) -> Iterator[dg.MaterializeResult]:
    """Make the report of the run's last day. (Its period covers the others; one for each would take hours in a backfill.)"""
    days = partitions.days_of(context)
    _, end = partitions.bounds_of(days)
    with warehouse.connection() as connection:
        found = report.build_report(connection, warehouse.settings, end - timedelta(days=report.DAYS), end, datetime.now(UTC))
        count = rows.replace_day(connection, days[-1], found)
        earlier = {day: {"rows": _count(connection, day)} for day in days[:-1]}
    for part in found.failures:
        context.log.error("The section %s failed: %s", part.section.title, part.failure)
    report_days(context, "report_findings", {**earlier, days[-1]: {"rows": count, **_figures(found)}})
    yield from results(context, ("report_findings",))


def _count(connection: Any, day: Any) -> int:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM metamon.report_findings WHERE day = %s", (day,))
        ((count,),) = cursor.fetchall()
        return int(count)


def _figures(found: report.Report) -> dict[str, Any]:
    table = [
        (section.title, finding.severity, finding.statement, finding.money)
        for section, finding in (found.highlights + [other for other in found.findings if other not in found.highlights])[:SHOWN]
    ]
    figures: dict[str, Any] = {
        "traces": found.facts.traces,
        "sections_failed": len(found.failures),
        "findings": markdown_table(("section", "severity", "what was found", "money"), table),
    }
    if chart := next((chart for part in found.parts for chart in part.content.charts), None):
        figures["picture"] = dg.MetadataValue.md(charts.as_markdown(chart, alt=str(chart["description"])))
    return figures
