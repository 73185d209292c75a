"""Sensors over the pipeline itself: that the daemon is alive, which runs failed, and which asset checks."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from metamon_assets.health.state import DAEMON, CheckVerdict, RunFailure, beat, record_failure, record_verdicts
from metamon_assets.traces.redaction import Redactor
from metamon_assets.warehouse.resources import Warehouse

EVENTS_PER_TICK = 500
# Two runs may log at the same time, and the event with the lower number may be committed last: what is so old is complete.
SETTLED = timedelta(seconds=5)


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


@dg.sensor(
    name="dagster_events",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Keeps every asset check that failed, blocking or not, and its next pass, in metamon.dagster_events.",
)
def dagster_events(context: dg.SensorEvaluationContext, warehouse: Warehouse) -> dg.SensorResult:
    """Only a blocking check that fails at ERROR fails its run; the others are seen nowhere but in Dagster's event log."""
    records, cursor = new_evaluations(context.instance, context.cursor, datetime.now(UTC))
    with warehouse.connection() as connection:
        recorded = record_verdicts(connection, collect(records))
    reason = f"{len(records)} evaluations, {recorded} of them news"
    return dg.SensorResult(skip_reason=dg.SkipReason(reason), cursor=str(cursor))


def new_evaluations(instance: dg.DagsterInstance, cursor: str | None, now: datetime) -> tuple[Sequence[dg.EventLogRecord], int]:
    """The next evaluations of asset checks after ``cursor``, and the cursor behind them.

    It begins at the newest one, so that no history is told as news; and again when the cursor is beyond that, since
    the numbers start anew with a new storage. Evaluations are never pruned, so the newest one stays.
    """
    newest = _evaluations(instance, limit=1, ascending=False)
    last = newest[0].storage_id if newest else 0
    if cursor is None or int(cursor) > last:
        return [], last
    records = _evaluations(instance, limit=EVENTS_PER_TICK, ascending=True, after=int(cursor), before=now - SETTLED)
    return records, records[-1].storage_id if records else int(cursor)


def collect(records: Sequence[dg.EventLogRecord]) -> list[CheckVerdict]:
    """What asset checks said, with messages redacted."""
    redactor, found = Redactor(), []
    for record in records:
        entry = record.event_log_entry
        event = entry.get_dagster_event()
        evaluation = event.asset_check_evaluation_data
        found.append(
            CheckVerdict(
                storage_id=record.storage_id,
                asset_key=evaluation.asset_key.to_user_string(),
                check_name=evaluation.check_name,
                partition_key=evaluation.partition,
                passed=evaluation.passed,
                severity=evaluation.severity.value,
                dagster_run_id=entry.run_id or None,
                happened_at=datetime.fromtimestamp(entry.timestamp, UTC),
                message=redactor.text(evaluation.description or event.message or ""),
            )
        )
    return found


def _evaluations(
    instance: dg.DagsterInstance, *, limit: int, ascending: bool, after: int | None = None, before: datetime | None = None
) -> Sequence[dg.EventLogRecord]:
    """The one place that asks Dagster's storage: the method of the instance of the same name is deprecated."""
    wanted = dg.EventRecordsFilter(
        dg.DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=after, before_timestamp=before.timestamp() if before else None
    )
    return instance.event_log_storage.get_event_records(wanted, limit=limit, ascending=ascending)


def _cause(event: dg.DagsterEvent) -> str:
    """What went wrong in the step itself; Dagster's own error around it only says that something did."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error is not None else ""
