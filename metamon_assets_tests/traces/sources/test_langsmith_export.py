"""Bulk exports: the published layout, and files as they may turn out to be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metamon_assets.traces.sources.base import Batch, Kind, Source, SourceError, Window
from metamon_assets.traces.sources.langsmith_export import LangSmithExportSource

DAY = datetime(2026, 1, 5, tzinfo=UTC)
SESSION = "39037901-6b38-4915-b7dc-318b42ec8a71"
FIRST = date(2026, 1, 1)
TEXTS = (
    "id", "tenant_id", "session_id", "trace_id", "parent_run_id", "parent_run_ids", "reference_example_id", "name", "run_type", "status",
    "dotted_order", "trace_tier", "inputs", "outputs", "error", "extra", "events", "tags", "feedback_stats",
)  # fmt: skip
SCHEMA = pa.schema(
    [(name, pa.string()) for name in TEXTS]
    + [(name, pa.timestamp("us")) for name in ("start_time", "end_time", "first_token_time")]
    + [(name, pa.int64()) for name in ("total_tokens", "prompt_tokens", "completion_tokens")]
    + [(name, pa.float64()) for name in ("total_cost", "prompt_cost", "completion_cost")]
    + [("is_root", pa.bool_())]
)


def run(number: int, start: datetime, **changes: Any) -> dict[str, Any]:
    root = number - number % 5  # every fifth is a root, the four after it its children
    return {
        "id": f"run-{number}",
        "session_id": SESSION,
        "trace_id": f"run-{root}",
        "parent_run_id": None if number == root else f"run-{root}",
        "name": f"step {number % 5}",
        "run_type": "chain" if number == root else "llm",
        "start_time": start,
        "end_time": start + timedelta(seconds=2),
        "status": "success",
        "extra": json.dumps({"metadata": {"thread_id": f"t-{root}", "ls_model_name": "gpt-4.1"}}),
        "tags": '["a", "b"]',
        "inputs": '{"q": "why"}',
        "outputs": '{"a": "because"}',
        "total_tokens": 15,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_cost": 0.000125,
    } | changes


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(
        day: date, table: pa.Table | list[dict[str, Any]], *, export: str = "1", session: str = SESSION, name: str = "part-0"
    ) -> Path:
        if isinstance(table, list):
            naive = [
                {key: value.replace(tzinfo=None) if isinstance(value, datetime) else value for key, value in row.items()} for row in table
            ]
            table = pa.Table.from_pylist(naive, SCHEMA)
        folder = tmp_path / f"export_id={export}/tenant_id=t/session_id={session}/runs/year={day.year}/month={day.month}/day={day.day}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.parquet"
        pq.write_table(table, file, compression="zstd")
        return file

    return write


def rows(batches: list[Batch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.rows.to_pylist()]


def window(start: datetime = DAY, days: int = 1) -> Window:
    return Window(start, start + timedelta(days=days))


def test_published_sample(shared_data: Path) -> None:
    source: Source = LangSmithExportSource(shared_data / "langsmith" / "bulk_export_sample", "research", name="langsmith")

    [row] = rows(list(source.read(Kind.RUNS, window())))

    assert (row["source"], row["project"], row["run_id"]) == ("langsmith", "research", "019b8f0d-1d28-7930-948b-0957cb05c186")
    assert row["start_time"] == datetime(2026, 1, 5, 16, 46, 1, 68924, tzinfo=UTC)
    assert (row["total_tokens"], row["total_cost"], row["cost_source"]) == (624, Decimal("0.001572"), "reported")
    assert (row["conversation_id"], row["agent_version"]) == ("eca339f1-81f7-401f-a1bd-99e725f94c10", "b419df8")
    assert json.loads(row["inputs"])["messages"][0]["type"] == "human"
    assert rows(list(source.read(Kind.RUNS, window(DAY + timedelta(days=3))))) == []
    assert list(source.read(Kind.FEEDBACK, window())) == []
    assert source.count(window()).runs is None


def test_ten_thousand_runs_over_ten_days(tmp_path: Path, write: Write) -> None:
    for number in range(10):
        day = FIRST + timedelta(days=number)
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        write(day, [run(1000 * number + step, start + timedelta(seconds=80 * step)) for step in range(1000)])
    source = LangSmithExportSource(tmp_path, "agent")

    everything = rows(list(source.read(Kind.RUNS, Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 11, tzinfo=UTC)))))
    batches = list(source.read(Kind.RUNS, window()))

    assert len({row["run_id"] for row in everything}) == 10_000
    assert [batch.location[-len("month=1/day=4/part-0.parquet") :] for batch in batches] == [
        f"month=1/day={day}/part-0.parquet" for day in (4, 5, 6)
    ]
    assert sum(row["total_cost"] for row in everything) == Decimal("1.25")
    assert {row["conversation_id"] for row in everything if row["trace_id"] == "run-15"} == {"t-15"}
    assert sum(row["parent_run_id"] is None for row in everything) == 2_000
    assert len(rows(list(source.read(Kind.RUNS, Window(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)))))) == 10_000
    assert source.days()[0] == datetime(2026, 1, 1, tzinfo=UTC)
    assert len(source.days()) == 10


def test_files_are_read_in_pieces(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metamon_assets.traces.sources.langsmith_export.ROWS_AT_ONCE", 300)
    table = [run(number, DAY) for number in range(1000)]
    table[700]["total_cost"] = float("nan")
    file = write(DAY.date(), table)

    batches = list(LangSmithExportSource(tmp_path, "agent").read(Kind.RUNS, window()))

    assert [batch.rows.num_rows for batch in batches] == [300, 300, 299, 100]
    [reject] = batches[2].rejects
    assert (reject.reason, reject.location, reject.run_id) == ("bad_total_cost", f"{file}, row 701", "run-700")


def test_newest_file_says_when_its_rows_were_observed(write: Write, tmp_path: Path) -> None:
    older = write(DAY.date(), [run(0, DAY, status="pending", end_time=None)], export="1")
    newer = write(DAY.date(), [run(0, DAY)], export="2")
    os.utime(older, (1767700000, 1767700000))
    os.utime(newer, (1767800000, 1767800000))

    read = rows(list(LangSmithExportSource(tmp_path, "agent").read(Kind.RUNS, window())))

    assert [(row["status"], row["observed_time"].timestamp()) for row in read] == [("pending", 1767700000), ("success", 1767800000)]


def test_physical_types_may_differ_and_columns_may_be_missing_or_new(write: Write, tmp_path: Path) -> None:
    plain = {"id": ["x"], "trace_id": ["x"], "name": ["n"], "run_type": ["llm"], "status": ["success"], "total_tokens": [15]}
    expected = None
    for start, end, cost, tokens, tags in [
        (
            pa.array([DAY], pa.timestamp("us")),
            pa.array([DAY + timedelta(seconds=1)], pa.timestamp("ns", "UTC")),
            0.5,
            pa.array([15]),
            '["a"]',
        ),
        (pa.array(["2026-01-05T00:00:00"]), pa.array(["2026-01-05 00:00:01+00:00"]), "0.5", pa.array([15], pa.int32()), ["a"]),
        (pa.array([1767571200]), pa.array([1767571201000]), Decimal("0.5"), pa.array([15.0]), '["a"]'),
        (pa.array([1767571200000000]), pa.array([1767571201000000000]), 0.5, pa.array([Decimal(15)], pa.decimal128(10, 0)), ["a"]),
    ]:
        table = pa.table(plain | {"start_time": start, "end_time": end, "total_cost": [cost], "tags": [tags], "brand_new": [1]})
        table = table.set_column(table.schema.get_field_index("total_tokens"), "total_tokens", tokens)
        file = write(DAY.date(), table)
        os.utime(file, (1767800000, 1767800000))

        [row] = rows(list(LangSmithExportSource(tmp_path, "agent").read(Kind.RUNS, window())))

        expected = expected or row
        assert row == expected
        assert (row["start_time"], row["end_time"], row["total_cost"], row["tags"]) == (
            DAY,
            DAY + timedelta(seconds=1),
            Decimal("0.5"),
            ["a"],
        )
        assert (row["input_tokens"], row["total_tokens"], row["error_message"]) == (None, 15, None)


def test_json_text_that_is_not_json_is_kept(write: Write, tmp_path: Path) -> None:
    write(DAY.date(), [run(0, DAY, extra="{broken", tags="loose", inputs="plain words")])
    [row] = rows(list(LangSmithExportSource(tmp_path, "agent").read(Kind.RUNS, window())))
    assert (json.loads(row["metadata"]), row["tags"], row["inputs"]) == ({"langsmith": {"unparsed": "{broken"}}, ["loose"], "plain words")


def test_payloads_need_not_be_read(write: Write, tmp_path: Path) -> None:
    write(DAY.date(), [run(0, DAY)])
    [row] = rows(list(LangSmithExportSource(tmp_path, "agent", payloads=False).read(Kind.RUNS, window())))
    assert "inputs" not in row


def test_several_projects_in_a_folder_are_not_mixed(write: Write, tmp_path: Path) -> None:
    write(DAY.date(), [run(0, DAY)])
    write(DAY.date(), [run(1, DAY)], session="another")
    with pytest.raises(SourceError, match=f"holds exports of 2 LangSmith projects: {SESSION}, another. Set session_id"):
        list(LangSmithExportSource(tmp_path, "agent").read(Kind.RUNS, window()))
    [row] = rows(list(LangSmithExportSource(tmp_path, "agent", session_id="another").read(Kind.RUNS, window())))
    assert row["run_id"] == "run-1"


def test_what_is_no_export_is_refused_with_a_reason(write: Write, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no such folder\. Give the folder"):
        list(LangSmithExportSource(tmp_path / "missing", "agent").read(Kind.RUNS, window()))
    file = write(DAY.date(), pa.table({"a": [1]}))
    with pytest.raises(SourceError, match="no column id and no column start_time, so this is not an export of runs"):
        list(LangSmithExportSource(tmp_path, "agent").read(Kind.RUNS, window()))
    write(DAY.date(), [run(number, DAY) for number in range(100)])
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", whole[:2000] + b"\0" * 400 + whole[2400:]):
        file.write_bytes(broken)
        with pytest.raises(SourceError, match=r"part-0\.parquet: not readable as Parquet beyond row 1: .*Copy the file again"):
            list(LangSmithExportSource(tmp_path, "agent").read(Kind.RUNS, window()))
