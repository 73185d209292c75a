"""Small runs for tests: rows in the unified columns with everything filled that a table demands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from metamon_assets.traces.columns import RUNS

NOON = datetime(2026, 8, 22, 12, tzinfo=UTC)
READ_AT = datetime(2026, 8, 23, 1, tzinfo=UTC)


def run(
    run_id: str, trace_id: str | None = None, parent: str | None = None, start: datetime = NOON, seconds: float | None = 1.0, **columns: Any
) -> dict[str, Any]:
    """One run as a dict; ``seconds`` None makes it pending."""
    end = None if seconds is None else start + timedelta(seconds=seconds)
    row: dict[str, Any] = {
        "source": "files",
        "project": "test",
        "run_id": run_id,
        "trace_id": trace_id or run_id,
        "parent_run_id": parent,
        "run_type": "chain",
        "start_time": start,
        "end_time": end,
        "latency_seconds": seconds,
        "status": "pending" if seconds is None else "success",
        "cost_source": "unpriced",
        "time_declared": False,
        "observed_time": READ_AT,
    }
    if "total_cost" in columns:
        columns["total_cost"] = columns["total_cost"] and Decimal(columns["total_cost"])
        columns.setdefault("cost_source", "computed")
    return row | columns


def table(*rows: dict[str, Any]) -> pa.Table:
    """The rows as an Arrow table in the schema that sources deliver."""
    return pa.Table.from_pylist(list(rows), schema=RUNS)
