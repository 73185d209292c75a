"""What LangSmith's words become in the unified columns."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from metamon_assets.traces.columns import RUNS
from metamon_assets.traces.sources.langsmith_rows import columns_of, parse_times, runs_batch

OBSERVED = datetime(2026, 1, 6, 2, tzinfo=UTC)
MOMENT = datetime(2026, 1, 5, 16, 46, 1, 68924, tzinfo=UTC)


def unified(*runs: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    filled = [{"id": f"run-{number}", "start_time": "2026-01-05T00:00:00"} | run for number, run in enumerate(runs)]
    batch = runs_batch(
        columns_of(filled), len(filled), source="langsmith", project="p", observed_time=OBSERVED, location="here", **settings
    )
    assert not batch.rejects, batch.rejects
    assert all(RUNS.field(name).type == batch.rows.schema.field(name).type for name in batch.rows.column_names)
    return batch.rows.to_pylist()


def test_captured_run_means_what_it_should(shared_data: Path) -> None:
    run = json.loads((shared_data / "langsmith" / "run_full_rest_2026-01.json").read_text())

    [row] = unified(run)

    expected: dict[str, Any] = {
        "run_id": "019b8f0d-1d28-7930-948b-0957cb05c186",
        "trace_id": "019b8f0d-1d28-7930-948b-0957cb05c186",
        "parent_run_id": None,
        "run_type": "chain",
        "name": "Deep Researcher",
        "agent_name": "Deep Researcher",
        "agent_version": "b419df8",
        "user_id": "langgraph-studio-user",
        "conversation_id": "eca339f1-81f7-401f-a1bd-99e725f94c10",
        "start_time": MOMENT,
        "end_time": datetime(2026, 1, 5, 16, 46, 4, 510089, tzinfo=UTC),
        "first_token_time": datetime(2026, 1, 5, 16, 46, 3, 605517, tzinfo=UTC),
        "status": "success",
        "error_type": None,
        "error_message": None,
        "input_tokens": 570,
        "output_tokens": 54,
        "total_tokens": 624,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": None,
        "reasoning_output_tokens": 0,
        "input_cost": Decimal("0.00114"),
        "output_cost": Decimal("0.000432"),
        "total_cost": Decimal("0.001572"),
        "cost_source": "reported",
        "request_model": None,
        "tenant_id": None,
        "tool_name": None,
        "tags": [],
        "observed_time": OBSERVED,
    }
    assert {name: row[name] for name in expected} == expected
    assert json.loads(row["inputs"]) == run["inputs"]
    assert json.loads(row["outputs"]) == run["outputs"]
    metadata = json.loads(row["metadata"])
    assert metadata["search_api"] == "tavily"
    assert metadata["langsmith"]["runtime"]["sdk_version"] == "0.6.0"


def test_unknown_tokens_are_null_not_zero() -> None:
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "total_cost": 0.0, "prompt_token_details": {"cache_read": 0}}
    tool, streamed, free, counted = unified(
        {"run_type": "tool", **zero},
        {"run_type": "llm", **zero},
        {"run_type": "llm", "prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5, "total_cost": 0.0},
        {"run_type": "llm", "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7, "total_cost": None},
    )
    for row in (tool, streamed):
        assert [row[name] for name in ("input_tokens", "output_tokens", "total_tokens", "cache_read_input_tokens", "total_cost")] == [
            None
        ] * 5
        assert row["cost_source"] is None
    assert (free["output_tokens"], free["total_cost"], free["cost_source"]) == (0, Decimal(0), "reported")
    assert (counted["total_tokens"], counted["total_cost"], counted["cost_source"]) == (7, None, None)


def test_costs_are_exact_whatever_they_were_written_as() -> None:
    written = [0.1, "0.1", 1e-7, Decimal("0.00000002"), 3]
    rows = unified(*({"total_tokens": 1, "total_cost": cost} for cost in written))
    assert [row["total_cost"] for row in rows] == [Decimal("0.1"), Decimal("0.1"), Decimal("1e-7"), Decimal("2e-8"), Decimal(3)]


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        ("RateLimitError('429: slow down')Traceback (most recent call last):\n  File …", "RateLimitError"),
        ("openai.BadRequestError: Error code: 400 - {'error': …}", "BadRequestError"),
        ('Traceback (most recent call last):\n  File "a.py"\nhttpx.ReadTimeout: timed out\n\n', "ReadTimeout"),
        ("GraphInterrupt((Interrupt(value=1),))", "GraphInterrupt"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
        ("Note: the page was empty", None),
        ("the tool said: ValueError", None),
        ("", None),
    ],
)
def test_class_of_an_error_is_taken_from_its_text_where_it_looks_like_one(error: str, error_type: str | None) -> None:
    [row] = unified({"status": "error", "error": error})
    assert (row["error_type"], row["error_message"]) == (error_type, error or None)


def test_metadata_fills_the_columns() -> None:
    metadata = {
        "tenant_id": "acme",
        "user_id": 17,
        "conversation_id": "c-1",
        "environment": "production",
        "mode": "fast",
        "variant": "p-3:candidate",
        "quality_score": "0.75",
        "degraded": "true",
        "degradation_reason": "timeout",
        "warnings": ["stale", "partial"],
        "task_completed": False,
        "cache_hit": 1,
        "revision_id": "abc",
        "lc_hub_repo": "planner",
        "lc_hub_commit_hash": "9f2c",
        "ls_provider": "amazon_bedrock",
        "ls_model_name": "claude-sonnet-4-5",
    }
    [row] = unified({"extra": {"metadata": metadata}, "tags": ["x"], "run_type": "LLM", "parent_run_id": "run-9", "status": "SUCCESS"})
    expected: dict[str, Any] = {
        "tenant_id": "acme", "user_id": "17", "conversation_id": "c-1", "environment": "production", "mode": "fast",
        "variant": "p-3:candidate", "quality_score": 0.75, "degraded": True, "degradation_reason": "timeout",
        "warnings": ["stale", "partial"], "task_completed": False, "cache_hit": True, "agent_version": "abc",
        "prompt_name": "planner", "prompt_version": "9f2c", "provider": "aws.bedrock", "request_model": "claude-sonnet-4-5",
        "run_type": "llm", "status": "success", "tags": ["x"], "agent_name": None,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected


def test_metadata_of_an_odd_kind_is_kept_and_does_not_break_the_row() -> None:
    odd, listed, text, absent = unified(
        {"extra": {"metadata": {"quality_score": "high", "degraded": "perhaps", "tenant_id": ["a"]}}},
        {"extra": {"metadata": [1, 2]}},
        {"extra": "{not json"},
        {"extra": None},
    )
    assert (odd["quality_score"], odd["degraded"], odd["tenant_id"]) == (None, None, '["a"]')
    assert json.loads(odd["metadata"])["quality_score"] == "high"
    assert listed["metadata"] is None
    assert json.loads(text["metadata"]) == {"langsmith": {"unparsed": "{not json"}}
    assert absent["metadata"] is None


def test_rows_without_what_makes_a_run_are_rejected_one_by_one() -> None:
    runs: list[dict[str, Any]] = [
        {"id": None, "start_time": "2026-01-05T00:00:00"},
        {"id": "b"},
        {"id": "c", "start_time": "yesterday"},
        {"id": "d", "start_time": 5},
        {"id": "e", "start_time": "2026-01-05T00:00:00", "total_tokens": 1.5},
        {"id": "f", "start_time": "2026-01-05T00:00:00", "total_cost": "1e30"},
        {"id": "g", "start_time": "2026-01-05T00:00:00", "total_cost": "NaN"},
        {"id": "h", "start_time": "2026-01-05T00:00:00", "prompt_tokens": 1e300},
        {"id": "i", "start_time": "2026-01-05T00:00:00", "end_time": "2026-13-05T00:00:00"},
        {"id": "good", "start_time": "2026-01-05T00:00:00"},
    ]
    batch = runs_batch(columns_of(runs), len(runs), source="langsmith", project="p", observed_time=OBSERVED, location="page 3")
    assert batch.rows["run_id"].to_pylist() == ["good"]
    assert [(reject.run_id, reject.reason) for reject in batch.rejects] == [
        (None, "missing_id"), ("b", "missing_start_time"), ("c", "bad_start_time"), ("d", "bad_start_time"), ("e", "bad_total_tokens"),
        ("f", "bad_total_cost"), ("g", "bad_total_cost"), ("h", "bad_prompt_tokens"), ("i", "bad_end_time"),
    ]  # fmt: skip
    assert batch.rejects[2].location == "page 3, row 3"
    assert json.loads(batch.rejects[2].raw)["start_time"] == "yesterday"


@pytest.mark.parametrize(
    "column",
    [
        ["2026-01-05T16:46:01.068924", None],
        ["2026-01-05 16:46:01.068924", None],
        ["2026-01-05T16:46:01.068924Z", None],
        ["2026-01-05T16:46:01.068924999Z", None],
        ["2026-01-05T18:46:01.068924+02:00", None],
        [MOMENT, None],
        pa.array(["2026-01-05T16:46:01.068924", None], pa.large_string()),
        pa.array([MOMENT, None], pa.timestamp("us")),
        pa.array([MOMENT, None], pa.timestamp("ns", "Europe/Paris")),
        pa.chunked_array([pa.array([MOMENT], pa.timestamp("us", "UTC")), pa.array([None], pa.timestamp("us", "UTC"))]),
        pa.array([1767631561068924, None]),
        pa.array([1767631561068924000, None]),
    ],
)
def test_times_are_read_however_they_are_written(column: Any) -> None:
    times, bad = parse_times(column)
    assert (times.to_pylist(), bad) == ([MOMENT, None], [])


def test_coarser_times_and_mixed_ones() -> None:
    assert parse_times(pa.array([1767631561]))[0].to_pylist() == [MOMENT.replace(microsecond=0)]
    assert parse_times(pa.array([1767631561068]))[0].to_pylist() == [MOMENT.replace(microsecond=68000)]
    assert parse_times(pa.array([date(2026, 1, 5)]))[0].to_pylist() == [datetime(2026, 1, 5, tzinfo=UTC)]
    times, bad = parse_times(["2026-01-05T16:46:01.068924", "soon", "2026-01-05T16:46:01.068924Z", "2026-01-05"])
    assert (times.to_pylist(), bad) == ([MOMENT, None, MOMENT, datetime(2026, 1, 5, tzinfo=UTC)], [1])
