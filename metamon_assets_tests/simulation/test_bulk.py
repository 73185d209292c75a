"""Many plain rows for benchmarks."""

import json
import time
from datetime import date
from pathlib import Path

import pyarrow.compute as pc

from metamon_assets.simulation import bulk_traces, write_bulk_jsonl
from metamon_assets.traces import columns


def test_bulk_rows_are_roots_of_their_day_in_the_unified_columns() -> None:
    table = bulk_traces(3, 120_000, date(2026, 2, 3))
    assert table.schema == columns.RUNS
    assert table.num_rows == 120_000
    assert pc.count_distinct(table["run_id"]).as_py() == 120_000
    assert table["parent_run_id"].null_count == 120_000
    assert {time.date() for time in (pc.min(table["start_time"]).as_py(), pc.max(table["start_time"]).as_py())} == {date(2026, 2, 3)}
    assert pc.all(pc.greater_equal(table["end_time"], table["start_time"])).as_py()
    assert bulk_traces(3, 1000, date(2026, 2, 3)).equals(bulk_traces(3, 1000, date(2026, 2, 3)))
    assert bulk_traces(3, 0, date(2026, 2, 3)).num_rows == 0


def test_bulk_lines_are_wide_and_written_fast(tmp_path: Path) -> None:
    start = time.perf_counter()
    size = write_bulk_jsonl(tmp_path / "bulk.jsonl", 100_000)
    seconds = time.perf_counter() - start
    print(f"{100_000 / seconds:,.0f} lines/s of {size / 100_000:.0f} bytes")
    with (tmp_path / "bulk.jsonl").open() as file:
        lines = file.readlines()
    assert (tmp_path / "bulk.jsonl").stat().st_size == size
    assert len(lines) == 100_000
    assert 500 < size / 100_000 < 750
    assert set(json.loads(lines[-1])) <= {*columns.RUNS.names}
