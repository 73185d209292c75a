"""What makes runs a trace: days, roots, totals, moves and versions, on a real Postgres."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from metamon_assets.traces.merge import RunCounts, RunMerge
from metamon_assets.traces.sources.base import Window
from metamon_assets.warehouse import connect
from metamon_assets_tests.traces.runs import NOON, READ_AT, run, table

DAY = date(2026, 8, 22)
MIDNIGHT = datetime(2026, 8, 23, tzinfo=UTC)


@pytest.fixture
def connection(database: str) -> Iterator[Any]:
    connection = connect(database)
    yield connection
    connection.close()


def read(connection: Any, *batches: pa.Table, window: Window | None = None, source: str = "files") -> RunCounts:
    with connection, connection.cursor() as cursor:
        merge = RunMerge(cursor, source, window, across_projects=source == "otlp")
        for batch in batches:
            merge.add(batch)
        return merge.finish()


def rows(connection: Any, query: str) -> list[tuple[Any, ...]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def everything(connection: Any) -> list[tuple[Any, ...]]:
    """All rows with their contents but without the time of writing."""
    return [
        row
        for relation in ("traces", "spans", "payloads")
        for row in rows(connection, f"SELECT to_jsonb(t) - 'ingested_at' FROM metamon.{relation} t ORDER BY source, project, run_id, day")
    ]


def test_a_new_day_is_loaded_and_reading_it_again_writes_nothing(connection: Any) -> None:
    batch = table(*(run(f"r{n}", start=NOON + timedelta(seconds=n)) for n in range(50)))
    assert (read(connection, batch).inserted, read(connection, batch).unchanged) == (50, 50)
    before = rows(connection, "SELECT run_id, xmin::text, ingested_at FROM metamon.traces ORDER BY 1")
    counts = read(connection, batch)
    assert (counts.inserted, counts.updated, counts.unchanged, counts.days) == (0, 0, 50, set())
    assert rows(connection, "SELECT run_id, xmin::text, ingested_at FROM metamon.traces ORDER BY 1") == before
    # Built before it was attached, yet indexed and constrained like any other day.
    indexes = rows(connection, "SELECT indexdef FROM pg_indexes WHERE schemaname = 'partitions' AND tablename = 'traces_20260822'")
    parent = rows(connection, "SELECT indexdef FROM pg_indexes WHERE schemaname = 'metamon' AND tablename = 'traces'")
    assert len(indexes) == len(parent)


def test_values_survive_the_copy(connection: Any) -> None:
    batch = table(
        run(
            "r1",
            name='he said "hi", {ok}\\n',
            error_message="",
            tags=["a", 'b "c", {d}', "", "e\\f"],
            warnings=[],
            metadata='{"k": "v,\\"w\\""}',
            total_cost="0.000000000001",
            cost_source="reported",
            input_tokens=2**40,
            cache_hit=False,
            quality_score=0.1,
            inputs='line\nline, "q"',
        ),
        run("r2"),
    )
    read(connection, batch)
    found = rows(
        connection,
        "SELECT name, error_message, tags, warnings, metadata, total_cost, input_tokens, cache_hit, quality_score"
        " FROM metamon.traces ORDER BY run_id",
    )
    assert found[0] == (
        'he said "hi", {ok}\\n',
        "",
        ["a", 'b "c", {d}', "", "e\\f"],
        [],
        {"k": 'v,"w"'},
        Decimal("0.000000000001"),
        2**40,
        False,
        0.1,
    )
    assert found[1] == (None,) * 9
    assert rows(connection, "SELECT run_id, inputs, outputs FROM metamon.payloads") == [("r1", 'line\nline, "q"', None)]


def test_terminal_beats_pending_in_either_order(connection: Any, database: str) -> None:
    pending, ended = table(run("r", seconds=None)), table(run("r", seconds=3.0))
    read(connection, pending)
    assert read(connection, ended).updated == 1
    assert read(connection, pending).unchanged == 1
    assert rows(connection, "SELECT status, latency_seconds FROM metamon.traces") == [("success", 3.0)]


def test_later_end_then_fresher_reading_wins(connection: Any) -> None:
    later = READ_AT + timedelta(hours=1)
    read(connection, table(run("r", seconds=3.0, name="a")))
    read(connection, table(run("r", seconds=2.0, name="b", observed_time=later)))
    assert rows(connection, "SELECT name FROM metamon.traces") == [("a",)]
    read(connection, table(run("r", seconds=3.0, name="c", observed_time=later)))
    assert rows(connection, "SELECT name FROM metamon.traces") == [("c",)]
    read(connection, table(run("r", seconds=3.0, name="a")))
    assert rows(connection, "SELECT name FROM metamon.traces") == [("c",)]


def test_spans_live_in_their_roots_day_across_midnight(connection: Any) -> None:
    root = run("root", start=MIDNIGHT - timedelta(seconds=5), seconds=20.0)
    child = run("child", "root", "root", start=MIDNIGHT + timedelta(seconds=5), run_type="llm", inputs="hello")
    read(connection, table(child, root))
    assert rows(connection, "SELECT day FROM metamon.spans UNION ALL SELECT day FROM metamon.payloads") == [(DAY,), (DAY,)]


@pytest.mark.parametrize("root_first", [True, False])
def test_a_trace_split_over_reads_comes_together(connection: Any, root_first: bool) -> None:
    root = table(run("root", start=MIDNIGHT - timedelta(seconds=5), seconds=20.0))
    call: dict[str, Any] = {"run_type": "llm", "input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "total_cost": "0.01"}
    children = table(
        run("a", "root", "root", start=MIDNIGHT + timedelta(seconds=1), **call),
        run("b", "root", "root", start=MIDNIGHT + timedelta(seconds=2), **call),
    )
    reads = [root, children] if root_first else [children, root]
    for batch in reads:
        read(connection, batch)
    assert rows(connection, "SELECT run_id, day, root_inferred, total_tokens, total_cost, cost_source, llm_calls FROM metamon.traces") == [
        ("root", DAY, False, 30, Decimal("0.02"), "computed", 2)
    ]
    assert rows(connection, "SELECT run_id, day FROM metamon.spans ORDER BY 1") == [("a", DAY), ("b", DAY)]
    before = everything(connection)
    for batch in reads:
        counts = read(connection, batch)
        assert (counts.inserted, counts.updated) == (0, 0)
    assert everything(connection) == before


def test_a_root_takes_only_what_its_source_left_empty(connection: Any) -> None:
    root = run("root", input_tokens=100, total_cost="0.5", cost_source="reported")
    call = run("call", "root", "root", run_type="llm", input_tokens=10, output_tokens=5, total_cost="0.01")
    read(connection, table(root, call, run("tool", "root", "root", run_type="tool"), run("search", "root", "tool", run_type="retriever")))
    assert rows(
        connection,
        "SELECT input_tokens, output_tokens, total_cost, cost_source, llm_calls, tool_calls, retrievals, derived_columns"
        " FROM metamon.traces",
    ) == [(100, 5, Decimal("0.5"), "reported", 1, 1, 1, ["output_tokens", "llm_calls", "tool_calls", "retrievals"])]


def test_the_calls_of_a_root_tell_its_cost_better_than_its_own_tokens(connection: Any) -> None:
    root = run("root", run_type="agent", input_tokens=100, output_tokens=10, total_cost="0.9")
    alone = run("alone", run_type="agent", input_tokens=100, output_tokens=10, total_cost="0.9")
    call = run("call", "root", "root", run_type="llm", input_tokens=10, output_tokens=5, total_cost="0.01")
    for _ in range(2):
        counts = read(connection, table(root, call, alone))
        assert rows(connection, "SELECT run_id, total_cost, cost_source, input_tokens FROM metamon.traces ORDER BY run_id DESC") == [
            ("root", Decimal("0.01"), "computed", 100),
            ("alone", Decimal("0.9"), "computed", 100),
        ]
    assert counts.unchanged == 3


def test_a_model_call_made_of_model_calls_counts_once(connection: Any) -> None:
    outer = run("outer", "root", "root", run_type="llm", input_tokens=10, total_cost="0.01")
    inner = run("inner", "root", "outer", run_type="llm", input_tokens=10, total_cost="0.01")
    read(connection, table(run("root"), outer, inner))
    assert rows(connection, "SELECT input_tokens, total_cost, llm_calls FROM metamon.traces") == [(10, Decimal("0.01"), 1)]


def test_one_unpriced_call_leaves_the_trace_unpriced(connection: Any) -> None:
    priced = run("a", "root", "root", run_type="llm", total_cost="0.01", input_cost=Decimal("0.01"))
    read(connection, table(run("root"), priced, run("b", "root", "root", run_type="llm", input_tokens=7)))
    assert rows(connection, "SELECT total_cost, cost_source, input_cost FROM metamon.traces") == [(None, "unpriced", Decimal("0.01"))]


@pytest.mark.parametrize("source", ["files", "otlp"])
@pytest.mark.parametrize("together", [True, False])
def test_each_of_several_roots_gets_its_own_descendants(connection: Any, source: str, together: bool) -> None:
    call: dict[str, Any] = {"run_type": "llm", "total_cost": "0.01", "source": source}
    runs = [
        run("t:a", "t", source=source),
        run("t:a1", "t", "t:a", source=source),
        run("t:a2", "t", "t:a1", **call),
        run("t:b", "t", source=source, start=NOON + timedelta(seconds=1)),
        run("t:b1", "t", "t:b", **call),
        run("t:x", "t", "t:missing", **call),
    ]
    for _ in range(2):
        for batch in [table(*runs)] if together else [table(one) for one in runs]:
            read(connection, batch, source=source)
        assert rows(connection, "SELECT run_id, total_cost, llm_calls FROM metamon.traces ORDER BY 1") == [
            ("t:a", Decimal("0.02"), 2),
            ("t:b", Decimal("0.01"), 1),
        ]
    assert rows(connection, "SELECT count(*) FROM metamon.spans") == [(4,)]


def test_a_trace_whose_root_never_comes_gets_an_inferred_one(connection: Any) -> None:
    spans = table(
        run("t:1", "t", "t:0", start=NOON, seconds=2.0, run_type="llm", agent_name="helper", input_tokens=3, total_cost="0.1"),
        run("t:2", "t", "t:0", start=NOON + timedelta(seconds=5), seconds=1.0, run_type="llm", status="error", total_cost="0.2"),
    )
    for _ in range(2):
        counts = read(connection, spans)
        assert rows(
            connection, "SELECT run_id, root_inferred, agent_name, status, latency_seconds, total_cost, llm_calls FROM metamon.traces"
        ) == [("t:0", True, "helper", "error", 6.0, Decimal("0.3"), 2)]
    assert (counts.inserted, counts.updated, counts.unchanged) == (0, 0, 2)
    read(connection, table(run("t:3", "t", "t:0", start=NOON + timedelta(seconds=9), seconds=1.0)))
    assert rows(connection, "SELECT latency_seconds FROM metamon.traces") == [(10.0,)]


@pytest.mark.parametrize("root_id", ["t:0", "t:root"])
def test_the_real_root_replaces_the_inferred_one(connection: Any, root_id: str) -> None:
    read(connection, table(run("t:1", "t", "t:0", start=MIDNIGHT + timedelta(seconds=1), run_type="llm", inputs="x")))
    read(connection, table(run(root_id, "t", start=MIDNIGHT - timedelta(seconds=1), seconds=9.0, name="real")))
    assert rows(connection, "SELECT run_id, name, root_inferred, day, llm_calls FROM metamon.traces") == [(root_id, "real", False, DAY, 1)]
    assert rows(connection, "SELECT run_id, day FROM metamon.spans") == [("t:1", DAY)]
    assert rows(connection, "SELECT run_id, day FROM metamon.payloads") == [("t:1", DAY)]


def test_a_run_that_changes_its_day_moves_with_all_that_is_its(connection: Any) -> None:
    child = run("child", "root", "root", start=MIDNIGHT + timedelta(seconds=1), run_type="llm", inputs="x")
    read(connection, table(run("root", start=MIDNIGHT + timedelta(seconds=1), seconds=None, outputs="y"), child))
    counts = read(connection, table(run("root", start=MIDNIGHT - timedelta(seconds=1), seconds=5.0)))
    assert (counts.moved, counts.days) == (1, {DAY, MIDNIGHT.date()})
    assert rows(connection, "SELECT run_id, day, status FROM metamon.traces") == [("root", DAY, "success")]
    assert rows(connection, "SELECT run_id, day FROM metamon.spans") == [("child", DAY)]
    assert rows(connection, "SELECT run_id, day FROM metamon.payloads ORDER BY 1") == [("child", DAY), ("root", DAY)]
    # The older version, read again, does not bring the old day back.
    stale = read(connection, table(run("root", start=MIDNIGHT + timedelta(seconds=1), seconds=None), child))
    assert rows(connection, "SELECT run_id, day, status FROM metamon.traces") == [("root", DAY, "success")]
    assert (stale.inserted, stale.unchanged) == (0, 2)


def test_a_window_keeps_whole_traces_by_their_root(connection: Any) -> None:
    window = Window(MIDNIGHT - timedelta(days=1), MIDNIGHT)
    inside = [run("in", start=MIDNIGHT - timedelta(seconds=1)), run("in:1", "in", "in", start=MIDNIGHT + timedelta(seconds=1))]
    outside = [run("out", start=MIDNIGHT), run("out:1", "out", "out", start=MIDNIGHT)]
    counts = read(connection, table(*inside, *outside), window=window)
    assert (counts.inserted, counts.outside) == (2, 2)
    assert rows(connection, "SELECT run_id FROM metamon.traces UNION ALL SELECT run_id FROM metamon.spans ORDER BY 1") == [
        ("in",),
        ("in:1",),
    ]


def test_a_range_gives_the_same_rows_as_day_by_day(connection: Any) -> None:
    def batch(source_day: int) -> list[dict[str, Any]]:
        start = datetime(2026, 8, source_day, 23, 59, 59, tzinfo=UTC)
        made = []
        for n in range(5):
            root = f"{source_day}-{n}"
            made += [
                run(root, start=start, seconds=9.0),
                run(root + ":1", root, root, start=start + timedelta(seconds=n), run_type="llm", total_cost="0.5"),
            ]
        return made

    all_rows = table(*(row for day in (10, 11, 12) for row in batch(day)))
    first = datetime(2026, 8, 10, tzinfo=UTC)
    for n in range(3):
        read(connection, all_rows, window=Window(first + timedelta(days=n), first + timedelta(days=n + 1)))
    by_day = everything(connection)
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM metamon.traces; DELETE FROM metamon.spans; DELETE FROM metamon.payloads")
    read(connection, all_rows, window=Window(first, first + timedelta(days=3)))
    assert everything(connection) == by_day
    assert len(by_day) == 30


def test_duplicates_are_dropped_and_contradictions_quarantined(connection: Any) -> None:
    batch = table(
        run("same"), run("same"), run("differs", name="a"), run("differs", name="b"), run("patched", seconds=None), run("patched")
    )
    counts = read(connection, batch)
    assert (counts.inserted, counts.duplicate) == (3, 2)
    (conflict,) = counts.conflicts
    assert (conflict.reason, conflict.run_id) == ("conflicting_duplicate", "differs")
    again = read(connection, batch)
    assert (again.inserted, again.updated, again.unchanged, again.duplicate, len(again.conflicts)) == (0, 0, 3, 2, 1)


def test_sources_do_not_touch_each_other(connection: Any) -> None:
    read(connection, table(run("r")))
    read(connection, table(run("r", source="langsmith", name="other")), source="langsmith")
    assert rows(connection, "SELECT source, name FROM metamon.traces ORDER BY 1") == [("files", None), ("langsmith", "other")]


def test_an_otlp_trace_may_span_projects(connection: Any) -> None:
    spans = table(
        run("t:0", "t", source="otlp", project="front"),
        run("t:1", "t", "t:0", source="otlp", project="back", run_type="llm", input_tokens=4, start=NOON + timedelta(seconds=1)),
    )
    read(connection, spans, source="otlp")
    assert rows(connection, "SELECT run_id, project, input_tokens, llm_calls FROM metamon.traces") == [("t:0", "front", 4, 1)]


def test_a_failed_read_leaves_everything_as_it_was(connection: Any) -> None:
    read(connection, table(run("r", name="before")))
    before = everything(connection)
    with pytest.raises(RuntimeError), connection, connection.cursor() as cursor:
        merge = RunMerge(cursor, "files", None)
        merge.add(table(run("r", name="after"), run("new", start=NOON + timedelta(days=1))))
        merge.finish()
        raise RuntimeError("the source broke")
    assert everything(connection) == before


def test_an_older_reading_of_a_call_does_not_undo_its_root(connection: Any) -> None:
    call: dict[str, Any] = {"run_type": "llm", "total_tokens": 15, "total_cost": "0.01"}
    read(connection, table(run("root"), run("a", "root", "root", **call)))
    before = everything(connection)
    counts = read(connection, table(run("root"), run("a", "root", "root", seconds=None, run_type="llm")))
    assert (counts.updated, counts.unchanged, counts.days) == (0, 2, set())
    assert everything(connection) == before


def test_given_up_children_leave_their_inferred_root_given_up(connection: Any) -> None:
    child = table(run("a", "root", "root", seconds=None))
    read(connection, child)
    with connection, connection.cursor() as cursor:
        for relation in ("traces", "spans"):
            cursor.execute(f"UPDATE metamon.{relation} SET status = 'abandoned'")
    read(connection, child)
    assert rows(connection, "SELECT status FROM metamon.traces UNION ALL SELECT status FROM metamon.spans") == [("abandoned",)] * 2


@pytest.mark.parametrize("start", [NOON, MIDNIGHT + timedelta(seconds=5)])
def test_the_real_root_replaces_an_inferred_one_of_another_project(connection: Any, start: datetime) -> None:
    read(connection, table(run("child", "t", "root", source="otlp", project="b", start=start, inputs="hello")), source="otlp")
    root = run("root", "t", source="otlp", project="a", start=NOON, seconds=86_400.0)
    read(connection, table(root), source="otlp")
    assert rows(connection, "SELECT run_id, project, root_inferred FROM metamon.traces") == [("root", "a", False)]
    assert rows(connection, "SELECT day FROM metamon.spans UNION ALL SELECT day FROM metamon.payloads") == [(DAY,), (DAY,)]


def test_contradictions_with_numbers_beyond_64_bits_are_quarantined(connection: Any) -> None:
    counts = read(connection, table(run("r", metadata='{"n": 1e30}'), run("r", metadata='{"n": 2e30}')))
    assert [conflict.reason for conflict in counts.conflicts] == ["conflicting_duplicate"]


def test_two_readers_of_a_new_day_do_not_wait_for_each_other(connection: Any, database: str) -> None:
    outcome: list[Any] = []

    def read_beside() -> None:
        other = connect(database)
        try:
            outcome.append(read(other, table(run("b", project="other"))).inserted)
        except Exception as error:  # noqa: BLE001 - looked at below
            outcome.append(error)
        finally:
            other.close()

    with connection, connection.cursor() as cursor:
        merge = RunMerge(cursor, "files", None)
        merge.add(table(run("a")))
        thread = threading.Thread(target=read_beside)
        thread.start()
        while not _waiting(database):
            time.sleep(0.02)
        merge.finish()
    thread.join()
    assert outcome == [1]
    assert rows(connection, "SELECT run_id FROM metamon.traces ORDER BY 1") == [("a",), ("b",)]


@pytest.mark.parametrize("root_first", [True, False])
def test_two_writers_around_midnight_store_a_trace_once(connection: Any, database: str, root_first: bool) -> None:
    """One has the root of before midnight, the other a call of after it; neither sees what the other has not committed."""
    root = run("root", "t", source="otlp", start=MIDNIGHT - timedelta(seconds=1), seconds=60)
    call = run("call", "t", "root", source="otlp", start=MIDNIGHT + timedelta(minutes=10))
    first, second = (root, call) if root_first else (call, root)
    failures: list[Exception] = []

    def write_beside() -> None:
        other = connect(database)
        try:
            read(other, table(second), source="otlp")
        except Exception as error:  # noqa: BLE001 - looked at below
            failures.append(error)
        finally:
            other.close()

    read(connection, *(table(run(f"o{day}", source="otlp", start=MIDNIGHT + timedelta(days=day))) for day in (-1, 0)), source="otlp")
    with connection, connection.cursor() as cursor:
        merge = RunMerge(cursor, "otlp", None, across_projects=True)
        merge.add(table(first))
        merge.finish()
        thread = threading.Thread(target=write_beside)
        thread.start()
        while not _waiting(database):
            assert thread.is_alive(), "the other did not wait"
            time.sleep(0.02)
    thread.join()
    assert not failures
    assert rows(connection, "SELECT run_id, root_inferred FROM metamon.traces WHERE trace_id = 't'") == [("root", False)]
    assert rows(connection, "SELECT run_id, day FROM metamon.spans") == [("call", DAY)]


def _waiting(database: str) -> bool:
    watcher = connect(database)
    try:
        return bool(
            rows(
                watcher,
                "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            )
        )
    finally:
        watcher.close()
