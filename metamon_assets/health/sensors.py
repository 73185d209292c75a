"""Sensors over the pipeline itself: that the daemon is alive, and which runs failed."""

from datetime import UTC, datetime

import dagster as dg

from metamon_assets.health.state import RunFailure, beat, record_failure
from metamon_assets.traces.redaction import Redactor
from metamon_assets.warehouse.resources import Warehouse

DAEMON = "dagster_daemon"


@dg.sensor(
    name="heartbeat",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Notes each minute that Dagster's daemon and code server are alive; the supervisor and alerts look at how old the note is.",
)
def heartbeat(context: dg.SensorEvaluationContext, warehouse: Warehouse) -> dg.SkipReason:
    """A row that grows old when the daemon or the code server is down."""
    with warehouse.connection() as connection:
        beat(connection, DAEMON, {"dagster": dg.__version__})
    return dg.SkipReason(f"alive at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")


@dg.run_failure_sensor(
    name="run_failures",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Keeps every failed run with its reason in metamon.run_failures.",
)
def run_failures(context: dg.RunFailureSensorContext, warehouse: Warehouse) -> None:
    """Copy what is needed to explain the failure out of Dagster's own storage."""
    run = context.dagster_run
    start, end = run.tags.get("dagster/asset_partition_range_start"), run.tags.get("dagster/asset_partition_range_end")
    events = context.get_step_failure_events()
    reasons = [_cause(event) for event in events if event.step_failure_data.error] or [context.failure_event.message or ""]
    failure = RunFailure(
        dagster_run_id=run.run_id,
        job_name=run.job_name,
        partition_key=run.tags.get("dagster/partition") or (f"{start}…{end}" if start else None),
        failed_at=datetime.now(UTC),
        step_keys=[event.step_key for event in events if event.step_key],
        message=Redactor().text("\n".join(reasons)),
    )
    with warehouse.connection() as connection:
        record_failure(connection, failure)
    context.log.warning("%s failed for %s: %s", failure.job_name, failure.partition_key, failure.message)


def _cause(event: dg.DagsterEvent) -> str:
    """What went wrong in the step itself; Dagster's own error around it only says that something did."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error is not None else ""
