"""The jobs: which assets are computed together, and running one in this process for some days.

``metamon run`` and tests use the latter; the daemon launches the same jobs in processes of their own.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime

import dagster as dg

from metamon_assets import partitions
from metamon_assets.errors import MetamonError
from metamon_assets.health import system
from metamon_assets.health.maintenance import prune_event_log
from metamon_assets.metrics.assets import GROUP as METRICS
from metamon_assets.metrics.touched import drop_spare_notes
from metamon_assets.traces.ledger import drop_old_live_entries
from metamon_assets.warehouse import connect, server
from metamon_assets.warehouse.resources import Warehouse

DAILY = "daily"
REFRESH_METRICS = "refresh_metrics"
MAINTENANCE = "maintenance"
INCIDENTS = "keep_incidents"
FIRST_ASSET, LAST_ASSET = "traces", "daily_metrics"  # what a day begins with, and what everything else of it leads to

daily = dg.define_asset_job(
    DAILY,
    selection=dg.AssetSelection.all(),
    description="Everything that follows from a day's input: read it, check it, compute what it adds up to.",
)
refresh_metrics = dg.define_asset_job(
    REFRESH_METRICS,
    selection=dg.AssetSelection.groups(METRICS),
    description="Computes a day's metrics again from the rows that are here, without reading any source.",
)


keep_incidents = dg.define_asset_job(
    INCIDENTS,
    selection=dg.AssetSelection.assets("incident_snapshots"),
    description="Keeps how incidents stand, whenever one changes.",
)


@dg.op(name="prune_event_log")
def prune(context: dg.OpExecutionContext, warehouse: Warehouse) -> None:
    """Remove old events about steps, and what they logged, from Dagster's storage; runs and materialisations stay."""
    with closing(connect(server.dagster_url(warehouse.settings))) as connection:
        context.log.info("%s old events removed", prune_event_log(connection, datetime.now(UTC)))


@dg.op(name="prune_live_books")
def prune_live_books(context: dg.OpExecutionContext, warehouse: Warehouse) -> None:
    """Remove what was noted live and nobody needs any more: ledger entries, notes about touched buckets, figures of the pipeline."""
    with warehouse.connection() as connection:
        now = datetime.now(UTC)
        context.log.info("%s notes about touched buckets removed", drop_spare_notes(connection, now))
        context.log.info("%s old live ledger entries removed", drop_old_live_entries(connection, now))
        context.log.info("%s old figures of the pipeline removed", system.drop_old(connection, now))


@dg.job(name=MAINTENANCE, description="Keeps the pipeline's own storage small.", executor_def=dg.in_process_executor)
def maintenance() -> None:
    """What is done once a day, whatever the days hold."""
    prune()
    prune_live_books()


class JobError(MetamonError):
    """A run of a job failed; the message says which step and why."""


def instance() -> dg.DagsterInstance:
    """Dagster's instance of DAGSTER_HOME, for many runs in this process; a context manager.

    Its storage would open a connection for every event, three for most, which took a quarter of a run. It keeps them
    as the webserver's does instead.
    """
    opened = dg.DagsterInstance.get()
    opened.optimize_for_webserver(statement_timeout=0, pool_recycle=3600, max_overflow=20)
    return opened


def computed_days(instance: dg.DagsterInstance) -> frozenset[date]:
    """The days that were read and computed. (Metrics alone are also refreshed for days that were never read.)"""
    first, last = (instance.get_materialized_partitions(dg.AssetKey(asset)) for asset in (FIRST_ASSET, LAST_ASSET))
    return frozenset(map(date.fromisoformat, first & last))


def chunks(days: Sequence[date], most: int = partitions.MAX_DAYS_PER_RUN) -> Iterator[list[date]]:
    """``days`` in runs of neighbours, at most ``most`` of them together, as a backfill would split them."""
    chunk: list[date] = []
    for day in sorted(days):
        if chunk and (len(chunk) == most or day.toordinal() != chunk[-1].toordinal() + 1):
            yield chunk
            chunk = []
        chunk.append(day)
    if chunk:
        yield chunk


def execute(definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, days: Sequence[date]) -> str:
    """Run ``job`` for consecutive days in this process; gives the run's id. Raises JobError when a step fails."""
    first, last = partitions.key_of(days[0]), partitions.key_of(days[-1])
    resolved = definitions.resolve_job_def(job)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    if len(days) == 1:
        result = resolved.execute_in_process(instance=instance, partition_key=first, run_config=quiet, raise_on_error=False)
    else:
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        result = resolved.execute_in_process(instance=instance, tags=tags, run_config=quiet, raise_on_error=False)
    if any(_was_interrupted(event) for event in result.all_events):
        raise KeyboardInterrupt
    if not result.success:
        raise JobError(f"{job} failed for {first}{f' to {last}' if last != first else ''} (run {result.run_id}):\n{_reasons(result)}")
    return result.run_id


def _was_interrupted(event: dg.DagsterEvent) -> bool:
    """Whether a step ended because somebody pressed Ctrl-C or asked the process to stop."""
    error = event.step_failure_data.error if event.is_step_failure else None
    while error is not None:
        if error.cls_name in ("DagsterExecutionInterruptedError", "KeyboardInterrupt"):
            return True
        error = error.cause
    return False


def _reasons(result: dg.ExecuteInProcessResult) -> str:
    reasons = []
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            while error.cause is not None:
                error = error.cause
            reasons.append(f"  {event.step_key}: {error.message.strip()}")
    return "\n".join(reasons) or "  no step says why; see the run in the Dagster UI"
