"""The assets of the first stage: what agents did, as their sources tell it.

Thin on purpose: each reads its days, calls the functions that do the work, and shows what came of it.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from metamon_assets import partitions
from metamon_assets.traces.configured import open_sources
from metamon_assets.traces.events import infer_events
from metamon_assets.traces.ingest import ingest_days
from metamon_assets.traces.ledger import LedgerEntry
from metamon_assets.traces.pending import follow_pending
from metamon_assets.traces.sources.base import Kind
from metamon_assets.warehouse.assets import figures_per_day, markdown_table, report_days, results, table_spec
from metamon_assets.warehouse.resources import Warehouse

GROUP = "traces"

_RUN_FIGURES = """
    SELECT day, count(*) AS rows, count(DISTINCT (source, project)) AS projects,
        count(*) FILTER (WHERE status = 'error') AS errors, count(*) FILTER (WHERE status = 'pending') AS pending,
        count(*) FILTER (WHERE cost_source = 'unpriced') AS unpriced, round(sum(total_cost), 4)::float8 AS total_cost_usd,
        round(percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_seconds)::numeric, 3)::float8 AS latency_p50_seconds,
        max(ingested_at) AS last_written
    FROM metamon.{table} WHERE day = ANY(%(days)s) GROUP BY day"""
_FEEDBACK_FIGURES = """
    SELECT day, count(*) AS rows, count(DISTINCT key) AS keys, count(*) FILTER (WHERE source_type = 'human') AS from_people,
        round(avg(score)::numeric, 3)::float8 AS mean_score
    FROM metamon.feedback WHERE day = ANY(%(days)s) GROUP BY day"""
_EVENT_FIGURES = """
    SELECT (time AT TIME ZONE 'UTC')::date AS day, count(*) AS rows, count(*) FILTER (WHERE inferred) AS inferred
    FROM metamon.events WHERE (time AT TIME ZONE 'UTC')::date = ANY(%(days)s) GROUP BY 1"""
_GAUGE_FIGURES = """
    SELECT day, count(*) AS rows, count(DISTINCT name) AS gauges
    FROM metamon.gauge_samples WHERE day = ANY(%(days)s) GROUP BY day"""

# What ties a row to its trace, and what an inferred change was seen in.
_OF_TRACES = {"trace_id": [("traces", "trace_id")], "day": [("traces", "day")]}
_ABOUT_TRACES = {"run_id": [("traces", "run_id")], "trace_id": [("traces", "trace_id")]}
_FROM_SIGHTINGS = {
    "agent_name": [("traces", "agent_name")],
    "version": [("traces", "agent_version"), ("traces", "request_model"), ("traces", "prompt_version")],
    "time": [("traces", "start_time")],
}


def _ingest(context: dg.AssetExecutionContext, warehouse: Warehouse, kind: Kind) -> list[LedgerEntry]:
    """Read one kind from all sources for the run's days; what was read and rejected goes to the log."""
    with warehouse.connection() as connection:
        return ingest_days(
            connection,
            open_sources(connection, warehouse.settings),
            kind,
            partitions.days_of(context),
            dagster_run_id=context.run.run_id,
            report=context.log.info,
        )


def _show(context: dg.AssetExecutionContext, warehouse: Warehouse, table: str, query: str, entries: list[LedgerEntry]) -> None:
    """Each partition shows its own rows, and what the reads of this run made of theirs."""
    with warehouse.connection() as connection:
        figures = figures_per_day(connection, query, partitions.days_of(context))
    reads = _reads(entries)
    report_days(context, table, {day: {**of_day, **reads} for day, of_day in figures.items()})


def _reads(entries: list[LedgerEntry]) -> Mapping[str, Any]:
    headers = ("source", "days", "read", "new", "newer", "unchanged", "duplicate", "excluded", "rejected")
    rows = [
        (
            f"{e.source}/{e.project}",
            _span(e),
            e.rows_read,
            e.rows_inserted,
            e.rows_updated,
            e.rows_unchanged,
            e.rows_duplicate,
            e.rows_excluded,
            e.rows_rejected,
        )
        for e in entries
    ]
    return {"reads": markdown_table(headers, rows)} if rows else {}


def _span(entry: LedgerEntry) -> str:
    """The days that were asked for, both inclusive; without the year, which the partition tells, and without line breaks."""
    if entry.window is None:
        return "all"
    first, last = entry.window.start, entry.window.end - timedelta(days=1)
    if first.date() == last.date():
        return f"{first:%d\u00a0%b}"
    return f"{first:%d}–{last:%d\u00a0%b}" if first.month == last.month else f"{first:%d\u00a0%b}–{last:%d\u00a0%b}"


@dg.multi_asset(
    name="traces",
    can_subset=True,  # a backfill in the UI asks for the assets one by one
    specs=[
        table_spec("traces", group=GROUP, kinds=["langsmith", "opentelemetry"]),
        table_spec("spans", group=GROUP, deps=["traces"], lineage=_OF_TRACES),
    ],
    backfill_policy=partitions.backfill_policy,
    pool="postgres",
    description="One read of every source gives both the roots and their children.",
)
def traces_and_spans(context: dg.AssetExecutionContext, warehouse: Warehouse) -> Iterator[dg.MaterializeResult]:
    """Roots into traces, children into spans, from every configured source."""
    entries = _ingest(context, warehouse, Kind.RUNS)
    if partitions.days_of(context)[-1] >= partitions.closed_days(datetime.now(UTC), 1)[-1]:
        with warehouse.connection() as connection:
            followed = follow_pending(
                connection, open_sources(connection, warehouse.settings), now=datetime.now(UTC), dagster_run_id=context.run.run_id
            )
            context.log.info(str(followed))
    for table in ("traces", "spans"):
        _show(context, warehouse, table, _RUN_FIGURES.format(table=table), entries)
    yield from results(context, ("traces", "spans"))


@dg.multi_asset(
    name="feedback",
    specs=[table_spec("feedback", group=GROUP, deps=["traces"], lineage=_ABOUT_TRACES)],
    backfill_policy=partitions.backfill_policy,
    pool="postgres",
)
def feedback(context: dg.AssetExecutionContext, warehouse: Warehouse) -> None:
    """What people and evaluators said, on the day they said it."""
    _show(context, warehouse, "feedback", _FEEDBACK_FIGURES, _ingest(context, warehouse, Kind.FEEDBACK))


@dg.multi_asset(
    name="events",
    specs=[table_spec("events", group=GROUP, deps=["traces"], lineage=_FROM_SIGHTINGS)],
    backfill_policy=partitions.backfill_policy,
    pool="postgres",
)
def events(context: dg.AssetExecutionContext, warehouse: Warehouse) -> None:
    """Deployments that were reported, and changes that the traces gave away."""
    entries = _ingest(context, warehouse, Kind.EVENTS)
    with warehouse.connection() as connection:
        infer_events(connection, partitions.days_of(context))
    _show(context, warehouse, "events", _EVENT_FIGURES, entries)


@dg.multi_asset(
    name="gauge_samples",
    specs=[table_spec("gauge_samples", group=GROUP)],
    backfill_policy=partitions.backfill_policy,
    pool="postgres",
)
def gauge_samples(context: dg.AssetExecutionContext, warehouse: Warehouse) -> None:
    """Readings that traces cannot tell."""
    _show(context, warehouse, "gauge_samples", _GAUGE_FIGURES, _ingest(context, warehouse, Kind.GAUGES))
