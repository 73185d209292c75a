"""Arrow tables as JSON lines."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from metamon_assets.simulation import jsonl
from metamon_assets.traces import columns


def test_lines_read_back_as_the_rows_without_nulls() -> None:
    table = pa.table(
        {
            "run_id": ["a", "b"],
            "start_time": pa.array([datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), None], columns.TIMESTAMP),
            "inputs": ['say "hi" \\ to\nall', None],
            "total_cost": pa.array([Decimal("0.000001500000"), None], columns.MONEY),
            "warnings": pa.array([["x", "y"], None], columns.STRINGS),
            "metadata": [None, '{"region":"eu"}'],
            "cache_hit": [True, None],
            "quality_score": [0.25, None],
            "input_tokens": [3, 4],
            "name": pa.nulls(2, pa.string()),
        }
    )
    text = bytes(jsonl.line_bytes(jsonl.lines(table))).decode()
    assert text.endswith("\n")
    first, second = (json.loads(line, parse_float=Decimal) for line in text.splitlines())
    assert first == {
        "run_id": "a",
        "start_time": "2026-01-02T03:04:05.000006Z",
        "inputs": 'say "hi" \\ to\nall',
        "total_cost": Decimal("0.0000015"),
        "warnings": ["x", "y"],
        "cache_hit": True,
        "quality_score": Decimal("0.25"),
        "input_tokens": 3,
    }
    assert second == {"run_id": "b", "metadata": {"region": "eu"}, "input_tokens": 4}


def test_slices_keep_their_own_text() -> None:
    lines = jsonl.lines(pa.table({"run_id": [f"r{number}" for number in range(5)]}))
    assert bytes(jsonl.line_bytes(lines.slice(1, 2))) == b'{"run_id":"r1"}\n{"run_id":"r2"}\n'
    assert bytes(jsonl.line_bytes(lines.slice(5))) == b""


def test_a_table_without_a_complete_column_is_refused() -> None:
    with pytest.raises(ValueError, match="without NULLs"):
        jsonl.lines(pa.table({"run_id": ["a", None]}))
