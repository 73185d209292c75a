"""From LangSmith to the tables, over the weeks in which runs and feedback change (IN-5 to IN-7)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from metamon_assets.traces.ingest import IngestError, ingest
from metamon_assets.traces.ledger import LedgerEntry
from metamon_assets.traces.normalise import Rules
from metamon_assets.traces.rate_budget import RateBudget
from metamon_assets.traces.sources.base import Kind, RunsById, Source, Window
from metamon_assets.traces.sources.langsmith import LangSmithSource
from metamon_assets.traces.sources.langsmith_export import LangSmithExportSource
from metamon_assets.warehouse import connect
from metamon_assets_tests.traces.sources.langsmith_server import Fault, LangSmithServer

DAY = datetime(2026, 1, 5, tzinfo=UTC)
FIRST_DAY = Window(DAY, DAY + timedelta(days=1))


class Life:
    """An agent in LangSmith, a clock, and the tables that its runs are read into."""

    def __init__(self, server: LangSmithServer, connection: Any) -> None:
        self.server, self.connection = server, connection
        self.now = DAY + timedelta(days=1, minutes=15)

    def source(self) -> LangSmithSource:
        return LangSmithSource(
            "agent",
            api_key=self.server.key,
            api_url=self.server.api_url,
            budget=RateBudget(10_000, 1.0),
            patience_seconds=0.2,
            backoff_seconds=0.01,
            clock=lambda: self.now,
        )

    def read(self, kind: Kind = Kind.RUNS, window: Window | None = FIRST_DAY, source: Source | None = None) -> LedgerEntry:
        rules = Rules(source="langsmith", project="agent", now=self.now, store_payloads=True)
        return ingest(self.connection, source or self.source(), kind, window, rules)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())


@pytest.fixture
def life(database: str) -> Iterator[Life]:
    connection = connect(database)
    with LangSmithServer(clock=lambda: lived.now, limit=10_000) as server:
        lived = Life(server, connection)
        server.store.add_project("agent")
        yield lived
    connection.close()


def test_runs_from_pending_to_expired(life: Life) -> None:
    store = life.server.store
    roots = [store.add_run("agent", start_time=DAY + timedelta(minutes=number), name="planner") for number in range(120)]
    for root in roots:
        usage: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "total_cost": 0.0001}
        store.add_run("agent", parent=root, start_time=DAY + timedelta(hours=3), run_type="llm", **usage)
    hung = store.add_run("agent", start_time=DAY + timedelta(hours=23), seconds=None)
    late = store.add_run("agent", start_time=DAY + timedelta(hours=22), visible_from=DAY + timedelta(days=2))

    entry = life.read()
    assert (entry.rows_read, entry.rows_inserted, entry.rows_rejected, entry.rows_outside) == (241, 241, 0, 0)
    assert (entry.count.runs, Decimal(entry.count.cost or 0)) == (121, Decimal("0.012"))
    assert life.rows("SELECT count(*), sum(total_cost), sum(llm_calls) FROM metamon.traces") == [(121, Decimal("0.012"), 120)]

    life.now = DAY + timedelta(days=2, minutes=15)
    store.patch_run(hung, end_time=DAY + timedelta(days=1, hours=5))
    entry = life.read()
    assert (entry.rows_inserted, entry.rows_updated, entry.rows_unchanged) == (1, 1, 240)
    assert life.rows(f"SELECT status FROM metamon.traces WHERE run_id IN ('{hung}', '{late}')") == [("success",), ("success",)]

    life.now = DAY + timedelta(days=15)
    assert life.read().rows_read == 1, "all but the late run have expired at the source"
    assert life.rows("SELECT (SELECT count(*) FROM metamon.traces), (SELECT count(*) FROM metamon.spans)") == [(122, 120)]


def test_pending_runs_are_followed_by_id(life: Life) -> None:
    hung = life.server.store.add_run("agent", start_time=DAY, seconds=None)
    life.read()
    life.now = DAY + timedelta(days=9)
    life.server.store.patch_run(hung, end_time=DAY + timedelta(days=8), error="TimeoutError: gone")

    entry = life.read(window=None, source=RunsById(life.source(), [hung]))

    assert (entry.rows_read, entry.rows_updated) == (1, 1)
    assert life.rows("SELECT day::text, status, error_type FROM metamon.traces") == [("2026-01-05", "error", "TimeoutError")]


def test_feedback_that_is_edited_days_later(life: Life) -> None:
    store = life.server.store
    root = store.add_run("agent", start_time=DAY)
    given = store.add_feedback(root, "user_rating", created_at=DAY + timedelta(hours=2), score=5)
    assert life.read(Kind.FEEDBACK).rows_inserted == 1

    store.edit_feedback(given, at=DAY + timedelta(days=6, hours=2), score=1)
    life.now = DAY + timedelta(days=7, minutes=15)
    entry = life.read(Kind.FEEDBACK, Window(DAY + timedelta(days=6), DAY + timedelta(days=7)))

    assert (entry.rows_updated, entry.rows_outside) == (1, 0)
    assert life.rows("SELECT day::text, score, source_type FROM metamon.feedback") == [("2026-01-05", 1.0, "api")]


def test_window_that_cannot_be_read_whole_stays_as_it_was(life: Life) -> None:
    for number in range(250):
        life.server.store.add_run("agent", start_time=DAY + timedelta(minutes=number))
    life.server.faults.append(Fault("/runs/query", 503, skip=1, times=10**6))

    with pytest.raises(IngestError, match=r"failed \(503\)"):
        life.read()

    assert life.rows("SELECT count(*) FROM metamon.traces") == [(0,)]
    [(status, message)] = life.rows("SELECT status, message FROM metamon.ingestion_ledger")
    assert status == "failed"
    assert "page 2" in message
    assert life.server.key not in message
    life.server.faults.clear()
    assert life.read().rows_inserted == 250


def test_export_and_api_of_one_project_merge(life: Life, shared_data: Path) -> None:
    """A history filled from an export is not counted twice when its days are read through the API."""
    run_id = "019b8f0d-1d28-7930-948b-0957cb05c186"
    export = LangSmithExportSource(shared_data / "langsmith" / "bulk_export_sample", "agent", name="langsmith")
    assert life.read(source=export).rows_inserted == 1
    start = DAY + timedelta(hours=16, minutes=46, seconds=1, microseconds=68_924)
    life.server.store.add_run("agent", run_id=run_id, start_time=start, seconds=3.441165, name="Deep Researcher")

    life.read()

    assert life.rows("SELECT run_id FROM metamon.traces") == [(run_id,)]
