"""From files to tables and books: the whole way in, and what happens when something on it breaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from metamon_assets.traces.configured import ConfiguredSource
from metamon_assets.traces.ingest import IngestError, ingest, ingest_days
from metamon_assets.traces.ledger import LedgerEntry, drop_old_live_entries
from metamon_assets.traces.normalise import Rules
from metamon_assets.traces.sources.base import Batch, Kind, SourceCount, SourceError, Window
from metamon_assets.traces.sources.files import FilesSource
from metamon_assets.warehouse import connect
from metamon_assets_tests.traces.runs import run, table

DAY = Window(datetime(2026, 8, 22, tzinfo=UTC), datetime(2026, 8, 23, tzinfo=UTC))
GOOD = {"run_id": "r1", "start_time": "2026-08-22T10:00:00Z", "end_time": "2026-08-22T10:00:02Z", "run_type": "chain", "status": "success"}


@pytest.fixture
def connection(database: str) -> Iterator[Any]:
    connection = connect(database)
    yield connection
    if not connection.closed:
        connection.close()


def rules(**options: Any) -> Rules:
    return Rules(source="files", project="test", now=datetime(2026, 8, 23, 1, tzinfo=UTC), **options)


def write(path: Path, *lines: dict[str, Any] | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((line if isinstance(line, bytes) else orjson.dumps(line)) + b"\n" for line in lines))
    os.utime(path, (1_787_440_000, 1_787_440_000))
    return path


def read(connection: Any, path: Path, kind: Kind = Kind.RUNS, window: Window | None = DAY, **options: Any) -> LedgerEntry:
    return ingest(connection, FilesSource([path], project="test"), kind, window, rules(**options))


def rows(connection: Any, query: str) -> list[tuple[Any, ...]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


BAD: list[tuple[str, dict[str, Any] | bytes]] = [
    ("malformed_json", b'{"run_id": "x", '),
    ("not_an_object", b"[1, 2]"),
    ("invalid_utf8", b'{"run_id": "\xff\xfe"}'),
    ("missing_id", {**GOOD, "run_id": None}),
    ("end_before_start", {**GOOD, "run_id": "b1", "end_time": "2026-08-22T09:59:59Z"}),
    ("negative_latency", {**GOOD, "run_id": "b2", "end_time": None, "latency_seconds": -1}),
    ("unknown_status", {**GOOD, "run_id": "b3", "status": "purple"}),
    ("unknown_run_type", {**GOOD, "run_id": "b4", "run_type": "purple"}),
    ("bad_time", {**GOOD, "run_id": "b5", "start_time": "yesterday"}),
]


def test_every_kind_of_bad_row_is_quarantined_and_the_good_ones_get_in(connection: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "runs" / "calls.jsonl", GOOD, *(line for _, line in BAD))
    entry = read(connection, path)
    assert (entry.status, entry.rows_read, entry.rows_inserted, entry.rows_rejected) == ("complete", 1 + len(BAD), 1, len(BAD))
    assert entry.rows_accounted_for == entry.rows_read
    found = rows(connection, "SELECT location, reason, detail FROM quarantine.rejected_rows ORDER BY reject_id")
    assert {location.rpartition(":")[2] for location, _, _ in found} == {str(line) for line in range(2, 2 + len(BAD))}
    for _, reason, detail in found:
        assert len(detail) > 20, f"{reason} says too little: {detail}"
    assert rows(
        connection, "SELECT rows_rejected, (SELECT sum(n::int) FROM jsonb_each_text(reject_reasons) r(k, n)) FROM metamon.ingestion_ledger"
    ) == [(len(BAD), len(BAD))]
    again = read(connection, path)
    assert (again.rows_inserted, again.rows_unchanged, again.rows_rejected) == (0, 1, len(BAD))
    assert rows(connection, "SELECT count(*), min(times_rejected), max(times_rejected) FROM quarantine.rejected_rows") == [(len(BAD), 2, 2)]


def test_what_is_read_is_priced_redacted_and_cut(connection: Any, tmp_path: Path) -> None:
    call = {
        **GOOD,
        "run_type": "llm",
        "provider": "openai",
        "request_model": "gpt-4o",
        "input_tokens": 1_000_000,
        "output_tokens": 0,
        "status": "error",
        "error_message": "cannot reach ann@example.org",
        "inputs": {"text": "x" * 3_000},
        "metadata": {"region": "eu", "key": "sk-" + "a1B2" * 10},
    }
    read(connection, write(tmp_path / "a.jsonl", call), payload_limit=1_000, store_payloads=True)
    assert rows(connection, "SELECT total_cost, cost_source, error_message, metadata->>'region' FROM metamon.traces") == [
        (Decimal("2.5"), "computed", "cannot reach [email]", "eu")
    ]
    assert "sk-" not in str(rows(connection, "SELECT metadata FROM metamon.traces"))
    ((inputs,),) = rows(connection, "SELECT inputs FROM metamon.payloads")
    assert len(inputs.encode()) <= 1_100


def test_payloads_that_are_not_stored_are_nowhere(connection: Any, tmp_path: Path) -> None:
    secret = "the-payload-nobody-may-keep"
    read(
        connection,
        write(tmp_path / "a.jsonl", {**GOOD, "inputs": secret}, {**GOOD, "run_id": "b", "status": "purple", "outputs": secret}),
        store_payloads=False,
    )
    assert rows(connection, "SELECT count(*) FROM metamon.payloads") == [(0,)]
    everywhere = rows(connection, "SELECT t::text FROM metamon.traces t UNION ALL SELECT q::text FROM quarantine.rejected_rows q")
    assert len(everywhere) == 2
    assert secret not in str(everywhere)


def test_an_empty_window_is_booked_as_empty(connection: Any, tmp_path: Path) -> None:
    entry = read(connection, write(tmp_path / "2026-08-25.jsonl", GOOD))
    assert (entry.status, entry.rows_read) == ("empty", 0)
    assert rows(connection, "SELECT status, window_start, window_end FROM metamon.ingestion_ledger") == [("empty", DAY.start, DAY.end)]


def test_the_exclusion_list_keeps_rows_out_and_counts_them(connection: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, {**GOOD, "run_id": "r2", "agent_name": "judge"}, {**GOOD, "run_id": "r3", "tags": ["metamon"]})
    entry = read(connection, path, exclude_agents=frozenset({"judge"}), exclude_tags=frozenset({"metamon"}))
    assert (entry.rows_inserted, entry.rows_excluded, entry.rows_accounted_for) == (1, 2, 3)


def test_feedback_events_and_gauges_find_their_tables(connection: Any, tmp_path: Path) -> None:
    write(
        tmp_path / "feedback" / "a.jsonl",
        {"feedback_id": "f1", "run_id": "r1", "key": "thumbs", "score": 1, "created_at": "2026-08-22T11:00:00Z"},
        {
            "feedback_id": "f2",
            "run_id": "r1",
            "key": "thumbs",
            "score": 0,
            "created_at": "2026-08-21T11:00:00Z",
            "modified_at": "2026-08-22T01:00:00Z",
        },
        {"feedback_id": "f3", "run_id": "r1", "key": "thumbs", "score": 0, "created_at": "2026-08-21T11:00:00Z"},
    )
    write(tmp_path / "events" / "a.jsonl", {"event_id": "e1", "kind": "deployment", "version": "2", "time": "2026-08-22T11:00:00Z"})
    write(
        tmp_path / "gauges" / "a.jsonl",
        {"name": "cache_size", "time": "2026-08-22T11:00:00Z", "value": 5, "labels": {"cache": "a"}},
        {"name": "cache_size", "time": "2026-08-22T11:00:00Z", "value": 6, "labels": {"cache": "b"}},
    )
    given = read(connection, tmp_path, Kind.FEEDBACK)
    assert (given.rows_inserted, given.rows_outside) == (2, 1)
    assert read(connection, tmp_path, Kind.EVENTS).rows_inserted == 1
    assert read(connection, tmp_path, Kind.GAUGES).rows_inserted == 2
    edited = write(
        tmp_path / "feedback" / "b.jsonl",
        {"feedback_id": "f1", "key": "thumbs", "score": 0, "created_at": "2026-08-22T11:00:00Z", "modified_at": "2026-08-22T12:00:00Z"},
    )
    assert read(connection, edited, Kind.FEEDBACK).rows_updated == 1
    assert rows(connection, "SELECT day, feedback_id, score FROM metamon.feedback ORDER BY 2") == [
        (date(2026, 8, 22), "f1", 0.0),
        (date(2026, 8, 21), "f2", 0.0),
    ]


class BreakingSource:
    """A source that gives one page and then breaks, as an API does."""

    name, project = "files", "test"

    def __init__(self, error: BaseException, days: set[date] | None = None) -> None:
        self.error, self.days = error, days

    def read(self, kind: Kind, window: Window) -> Iterator[Batch]:
        yield Batch(kind, table(*(run(f"{window.start:%d}-{n}", start=window.start) for n in range(3))))
        if self.days is None or any(window.start <= datetime(d.year, d.month, d.day, tzinfo=UTC) < window.end for d in self.days):
            raise self.error

    def count(self, window: Window) -> SourceCount:
        return SourceCount()


def test_a_page_that_breaks_in_the_middle_leaves_the_window_as_it_was(connection: Any) -> None:
    with pytest.raises(IngestError, match="page 2 answered 503"):
        ingest(connection, BreakingSource(SourceError("page 2 answered 503; try again later")), Kind.RUNS, DAY, rules())
    assert rows(connection, "SELECT count(*) FROM metamon.traces") == [(0,)]
    assert rows(connection, "SELECT status, rows_read, message FROM metamon.ingestion_ledger") == [
        ("failed", 0, "page 2 answered 503; try again later")
    ]


def test_one_bad_day_costs_no_other(connection: Any) -> None:
    bad = date(2026, 8, 21)
    sources = [ConfiguredSource(BreakingSource(SourceError("no such day"), {bad}), rules())]
    with pytest.raises(IngestError, match="2026-08-21"):
        ingest_days(connection, sources, Kind.RUNS, [date(2026, 8, day) for day in (20, 21, 22)])
    assert rows(connection, "SELECT day, count(*) FROM metamon.traces GROUP BY 1 ORDER BY 1") == [
        (date(2026, 8, 20), 3),
        (date(2026, 8, 22), 3),
    ]


def test_postgres_stopping_in_mid_write_loses_nothing(database: str, tmp_path: Path) -> None:
    """The server cuts the connection between two batches: nothing is written, and the next read says what happened."""

    class Cut(BreakingSource):
        def read(self, kind: Kind, window: Window) -> Iterator[Batch]:
            yield Batch(kind, table(run("r1")))
            other = connect(database)
            with other, other.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s)", (victim.get_backend_pid(),))
            other.close()
            yield Batch(kind, table(run("r2")))

    victim = connect(database)
    with pytest.raises(IngestError, match=r"the database failed .* nothing was written"):
        ingest(victim, Cut(SourceError("unused")), Kind.RUNS, DAY, rules())
    survivor = connect(database)
    assert rows(survivor, "SELECT count(*) FROM metamon.traces") == [(0,)]
    assert rows(survivor, "SELECT status FROM metamon.ingestion_ledger") == [("running",)]
    assert read(survivor, write(tmp_path / "a.jsonl", GOOD)).rows_inserted == 1
    ((status, message),) = rows(survivor, "SELECT status, message FROM metamon.ingestion_ledger ORDER BY ledger_id LIMIT 1")
    assert status == "failed"
    assert "interrupted" in message
    survivor.close()


def test_a_read_that_is_under_way_is_not_taken_for_a_dead_one(database: str, tmp_path: Path) -> None:
    class Slow(BreakingSource):
        def read(self, kind: Kind, window: Window) -> Iterator[Batch]:
            yield Batch(kind, table(run("slow", start=window.start - timedelta(days=9))))
            read(other, write(tmp_path / "2026-08-22.jsonl", GOOD))
            assert rows(other, "SELECT status FROM metamon.ingestion_ledger ORDER BY ledger_id") == [("running",), ("complete",)]

    first, other = connect(database), connect(database)
    ingest(first, Slow(SourceError("unused")), Kind.RUNS, None, rules())
    assert rows(other, "SELECT status FROM metamon.ingestion_ledger ORDER BY ledger_id") == [("complete",), ("complete",)]
    first.close()
    other.close()


def test_unchanged_files_that_cannot_hold_the_window_are_not_opened_again(connection: Any, tmp_path: Path) -> None:
    from metamon_assets.traces.configured import read_catalogue

    path = write(tmp_path / "calls.jsonl", GOOD)
    read(connection, path)
    catalogue = read_catalogue(connection, "files", "test")
    path.write_bytes(b"x" * path.stat().st_size)  # if it were opened, this would be rejected
    os.utime(path, (1_787_440_000, 1_787_440_000))
    next_day = Window(datetime(2026, 8, 25, tzinfo=UTC), datetime(2026, 8, 26, tzinfo=UTC))
    entry = ingest(connection, FilesSource([path], project="test", catalogue=catalogue), Kind.RUNS, next_day, rules())
    assert entry.status == "empty"


def test_contradicting_feedback_with_numbers_beyond_64_bits_is_quarantined(connection: Any, tmp_path: Path) -> None:
    given = {"feedback_id": "f1", "run_id": "r1", "key": "thumbs", "score": 1, "created_at": "2026-08-22T11:00:00Z"}
    path = write(tmp_path / "feedback" / "a.jsonl", {**given, "metadata": {"n": 1e30}}, {**given, "metadata": {"n": 2e30}})
    entry = read(connection, path.parent.parent, Kind.FEEDBACK)
    assert (entry.rows_inserted, dict(entry.reject_reasons)) == (1, {"conflicting_duplicate": 1})


def test_a_row_that_the_database_refuses_is_not_told_to_those_who_read_the_books(
    connection: Any, owned_database: str, tmp_path: Path
) -> None:
    owner = connect(owned_database)
    with owner, owner.cursor() as cursor:
        cursor.execute("ALTER TABLE metamon.traces ADD CHECK (error_message NOT LIKE '%private%')")
    owner.close()
    with pytest.raises(IngestError, match="violates check constraint") as raised:
        read(connection, write(tmp_path / "a.jsonl", {**GOOD, "error_message": "something private"}))
    ((status, message),) = rows(connection, "SELECT status, message FROM metamon.ingestion_ledger")
    assert (status, "private" in message, "private" in str(raised.value)) == ("failed", False, False)
    assert raised.value.__suppress_context__


def test_a_mended_file_settles_what_it_had_rejected(connection: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, {**GOOD, "run_id": "r2", "status": "purple"}, b"{")
    waiting = "SELECT reason FROM quarantine.rejected_rows WHERE replayed_at IS NULL"
    read(connection, path)
    assert len(rows(connection, waiting)) == 2
    read(connection, write(path, GOOD, {**GOOD, "run_id": "r2"}, b"{"))
    assert rows(connection, waiting) == [("malformed_json",)]


def test_old_live_entries_go_unless_their_rows_are_in_quarantine(connection: Any) -> None:
    now = datetime(2026, 8, 23, 1, tzinfo=UTC)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.ingestion_ledger (source, project, kind, started_at, status, live) VALUES"
            " ('otlp', 'old', 'runs', %(old)s, 'complete', true), ('otlp', 'daily', 'runs', %(old)s, 'complete', false),"
            " ('otlp', 'rejected', 'runs', %(old)s, 'complete', true), ('otlp', 'new', 'runs', %(now)s, 'complete', true)",
            {"old": now - timedelta(days=91), "now": now},
        )
        cursor.execute(
            "INSERT INTO quarantine.rejected_rows (ledger_id, source, project, kind, reason, detail, location, raw, fingerprint)"
            " SELECT ledger_id, source, project, kind, 'malformed_json', '', '', '', 'f' FROM metamon.ingestion_ledger"
            " WHERE project = 'rejected'"
        )
    assert drop_old_live_entries(connection, now) == 1
    assert rows(connection, "SELECT project FROM metamon.ingestion_ledger ORDER BY 1") == [("daily",), ("new",), ("rejected",)]
