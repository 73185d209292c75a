"""The assets of this stage: the anomalies of a day, which can be computed again, and how incidents stood at its end, which cannot."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from metamon_assets import partitions
from metamon_assets.alerts import detection
from metamon_assets.days import midnight
from metamon_assets.warehouse.assets import figures_per_day, report_days, results, table_spec
from metamon_assets.warehouse.resources import Warehouse

GROUP = "alerts"

_ANOMALIES = """
    SELECT day, count(a.metric) AS rows, count(*) FILTER (WHERE a.level = 'warning') AS warnings,
        count(*) FILTER (WHERE a.level = 'critical') AS critical, count(DISTINCT (a.metric, a.dimension, a.dimension_value))
        FILTER (WHERE a.metric IS NOT NULL) AS series
    FROM unnest(%(days)s) day LEFT JOIN metamon.anomalies AS a USING (day) GROUP BY day"""
_INCIDENTS = """
    SELECT day, count(s.incident_id) AS rows, count(*) FILTER (WHERE s.status = 'open') AS open,
        count(*) FILTER (WHERE s.severity = 'critical') AS critical
    FROM unnest(%(days)s) day LEFT JOIN metamon.incident_snapshots AS s USING (day) GROUP BY day"""
_SNAPSHOT = """
    INSERT INTO metamon.incident_snapshots (day, incident_id, status, severity, incident)
    SELECT %(day)s, incident_id, status, severity, to_jsonb(i) FROM metamon.incidents AS i
    WHERE opened_at < %(end)s AND (resolved_at IS NULL OR resolved_at >= %(start)s)
    ON CONFLICT (day, incident_id) DO UPDATE SET (status, severity, incident) = (excluded.status, excluded.severity, excluded.incident)"""


@dg.multi_asset(
    name="anomalies_of_days",
    specs=[
        table_spec(
            "anomalies",
            group=GROUP,
            deps=["completion_metrics"],
            lineage={
                "value": [("completion_metrics", "errors"), ("completion_metrics", "latency_sum"), ("completion_metrics", "total_cost")],
                "sample": [("completion_metrics", "completed")],
            },
        )
    ],
    backfill_policy=partitions.backfill_policy,
    pool="postgres",
    description="Finds a day's anomalies again, from the detectors' checkpoint at its midnight. Opens no incident and tells nobody.",
)
def anomalies(context: dg.AssetExecutionContext, warehouse: Warehouse) -> Iterator[dg.MaterializeResult]:
    """The days in order, since each begins with what was learnt by the end of the one before."""
    days, now = partitions.days_of(context), datetime.now(UTC)
    with warehouse.connection() as connection:
        for day in days:
            context.log.info("%s: %s findings", day, detection.rewrite(connection, day, now))
        report_days(context, "anomalies", figures_per_day(connection, _ANOMALIES, days))
    yield from results(context, ("anomalies",))


@dg.multi_asset(
    name="incidents_of_days",
    specs=[
        table_spec(
            "incident_snapshots", group=GROUP, deps=["anomalies"], lineage={"incident": [("anomalies", "value"), ("anomalies", "expected")]}
        )
    ],
    backfill_policy=partitions.backfill_policy,
    pool="postgres",
    description="Keeps how incidents stand now as the state of a day. Incidents change through their transitions only, never here.",
)
def incident_snapshots(context: dg.AssetExecutionContext, warehouse: Warehouse) -> Iterator[dg.MaterializeResult]:
    """A day that is over keeps the snapshot that it has: incidents have changed since."""
    days, now = partitions.days_of(context), datetime.now(UTC)
    with warehouse.connection() as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT DISTINCT day FROM metamon.incident_snapshots WHERE day = ANY(%s)", (days,))
            kept = {day for (day,) in cursor.fetchall() if midnight(day + timedelta(days=2)) < now}
            for day in sorted(set(days) - kept):
                cursor.execute(_SNAPSHOT, {"day": day, "start": midnight(day), "end": midnight(day + timedelta(days=1))})
        report_days(context, "incident_snapshots", figures_per_day(connection, _INCIDENTS, days))
    yield from results(context, ("incident_snapshots",))
