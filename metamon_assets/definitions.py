"""The only entry point for Dagster: everything that the stages define, put together.

Nothing is computed here, and nothing connects to anything when this loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from metamon_assets import jobs
from metamon_assets.alerts import assets as alerts_assets
from metamon_assets.alerts import checks as alerts_checks
from metamon_assets.alerts.sensors import incidents_sensor
from metamon_assets.health import assets as health_assets
from metamon_assets.health import checks as health_checks
from metamon_assets.health import sensors as health_sensors
from metamon_assets.health.schedules import maintenance_schedule
from metamon_assets.metrics import assets as metrics_assets
from metamon_assets.metrics import checks as metrics_checks
from metamon_assets.metrics.sensors import late_data_sensor
from metamon_assets.reports import assets as reports_assets
from metamon_assets.reports import checks as reports_checks
from metamon_assets.traces import assets as traces_assets
from metamon_assets.traces import checks as traces_checks
from metamon_assets.traces.schedules import daily_schedule
from metamon_assets.warehouse.resources import Warehouse


def build_definitions(resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """All definitions; ``resources`` go before the product's own (tests give a database of theirs)."""
    return dg.Definitions(
        assets=[*dg.load_assets_from_modules([traces_assets, metrics_assets, health_assets, alerts_assets, reports_assets])],
        asset_checks=[*traces_checks.checks, *metrics_checks.checks, *health_checks.checks, *alerts_checks.checks, *reports_checks.checks],
        jobs=[jobs.daily, jobs.refresh_metrics, jobs.keep_incidents, jobs.maintenance],
        schedules=[daily_schedule(jobs.DAILY), maintenance_schedule(jobs.MAINTENANCE)],
        sensors=[
            late_data_sensor(jobs.REFRESH_METRICS),
            incidents_sensor(jobs.INCIDENTS),
            health_sensors.heartbeat,
            health_sensors.run_failures,
            health_sensors.dagster_events,
        ],
        resources={"warehouse": Warehouse(), **(resources or {})},
        # One process for a run: a process for each step costs some four CPU seconds, more than most steps.
        executor=dg.in_process_executor,
    )


@dg.definitions
def definitions() -> dg.Definitions:
    """What Dagster loads."""
    return build_definitions()
