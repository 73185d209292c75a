"""A day as tables in the unified columns."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from metamon_assets.simulation import Day, World, rows
from metamon_assets.simulation.arrivals import day_number
from metamon_assets.simulation.changes import DAY as DAY_LENGTH
from metamon_assets.simulation.changes import changes_between
from metamon_assets.simulation.world import AGENTS, MODELS
from metamon_assets.traces import columns

DAY = date(2026, 9, 16)


@pytest.fixture(scope="module")
def day() -> Day:
    return World(7).day(DAY)


@pytest.fixture(scope="module")
def runs(day: Day) -> list[dict[str, object]]:
    result: list[dict[str, object]] = day.runs.to_pylist()
    return result


def test_tables_have_the_unified_columns(day: Day) -> None:
    assert day.runs.schema == columns.RUNS
    assert day.feedback.schema == columns.FEEDBACK
    assert day.events.schema == columns.EVENTS
    assert day.gauges.schema == columns.GAUGES
    for table in (day.runs, day.feedback, day.gauges):
        table.validate(full=True)
    for name, allowed in (("run_type", columns.RUN_TYPES), ("status", columns.STATUSES), ("cost_source", columns.COST_SOURCES)):
        assert set(pc.unique(day.runs[name]).to_pylist()) - {None} <= set(allowed)
    assert set(pc.unique(day.gauges["kind"]).to_pylist()) == set(columns.GAUGE_KINDS)


def test_a_day_is_the_same_whenever_it_is_made(day: Day) -> None:
    again = World(7)
    again.day(DAY - timedelta(days=3))
    same, other = again.day(DAY), World(8).day(DAY)
    for name in ("runs", "feedback", "events", "gauges"):
        assert getattr(same, name).equals(getattr(day, name))
    assert not other.runs.equals(day.runs)


def test_identifiers_are_unique_and_children_know_their_root(day: Day, runs: list[dict[str, object]]) -> None:
    assert pc.count_distinct(day.runs["run_id"]).as_py() == day.runs.num_rows
    roots = {run["run_id"]: run for run in runs if run["parent_run_id"] is None}
    assert pc.count_distinct(day.runs["trace_id"]).as_py() == len(roots)
    assert 1800 < len(roots) < 3500
    for run in runs:
        if run["parent_run_id"] is not None:
            root = roots[run["parent_run_id"]]
            assert run["trace_id"] == root["trace_id"]
            assert run["tenant_id"] == root["tenant_id"]
            assert run["start_time"] >= root["start_time"]  # type: ignore[operator]
            if root["end_time"] is not None:
                assert run["end_time"] <= root["end_time"]  # type: ignore[operator]


def test_tokens_and_reported_costs_of_the_leaves_sum_to_the_root(runs: list[dict[str, object]]) -> None:
    for name in (
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "reasoning_output_tokens",
        "total_cost",
    ):
        leaves: dict[object, Decimal | int] = {}
        for run in runs:
            if run["parent_run_id"] is not None and run[name] is not None:
                leaves[run["trace_id"]] = leaves.get(run["trace_id"], 0) + run[name]  # type: ignore[operator]
        roots = [run for run in runs if run["parent_run_id"] is None and run["status"] != "pending"]
        assert sum(run[name] is not None for run in roots) > 20
        for root in roots:
            assert (root[name] or 0) == leaves.get(root["trace_id"], 0)


def test_only_one_agent_reports_cost_and_nobody_else_says_zero(runs: list[dict[str, object]]) -> None:
    reporting = {agent.name for agent in AGENTS if agent.reports_cost}
    priced = [run for run in runs if run["total_cost"] is not None]
    assert {run["agent_name"] for run in priced} == reporting
    assert all(run["cost_source"] == "reported" and run["total_cost"] == run["input_cost"] + run["output_cost"] for run in priced)  # type: ignore[operator]
    by_name = {model.name: model for model in MODELS}
    calls = [run for run in priced if run["run_type"] == "llm"]
    assert sum(bool(call["cache_read_input_tokens"]) for call in calls) > 20
    assert sum(bool(call["cache_creation_input_tokens"]) for call in calls) > 5
    for call in calls:
        model = by_name[str(call["request_model"])]
        read, written = (int(str(call[name] or 0)) for name in ("cache_read_input_tokens", "cache_creation_input_tokens"))
        plain = int(str(call["input_tokens"])) - read - written
        pico = plain * (model.input_price or 0) + read * (model.cache_read_price or 0) + written * (model.cache_write_price or 0)
        assert call["input_cost"] == Decimal(pico) / 10**12
        assert call["output_cost"] == Decimal((model.output_price or 0) * int(str(call["output_tokens"]))) / 10**12


def test_what_has_not_ended_yet_is_pending_and_says_nothing_of_its_end() -> None:
    world = World(7, 20_000)
    dressed = world.dressed(DAY)
    noon = day_number(DAY) * DAY_LENGTH + DAY_LENGTH // 2
    before = (dressed.requests["time"] < noon) & (dressed.requests["time"] > noon - 60_000_000)
    calls = before[dressed.calls["request"]]
    runs = rows.runs(world.cast, dressed, before, calls, as_of=noon).to_pylist()
    limit = datetime(2026, 9, 16, 12, tzinfo=UTC)
    ended = {run["run_id"]: run["end_time"] for run in rows.runs(world.cast, dressed, before, calls).to_pylist()}
    assert sum(run["status"] == "pending" for run in runs) > 3
    for run in runs:
        pending = ended[run["run_id"]] is None or ended[run["run_id"]] > limit
        assert (run["status"] == "pending") == pending
        if pending:
            for name in (
                "end_time",
                "outputs",
                "output_tokens",
                "total_cost",
                "error_type",
                "task_completed",
                "quality_score",
                "degraded",
                "llm_calls",
            ):
                assert run[name] is None


def test_every_kind_of_oddity_is_there() -> None:
    world = World(7)
    tables = [world.day(DAY + timedelta(days=day)) for day in range(6)]
    runs = pa.concat_tables([day.runs for day in tables]).to_pylist()
    roots = [run for run in runs if run["parent_run_id"] is None]
    assert {run["run_type"] for run in runs} == {"agent", "llm", "tool", "retriever"}
    assert {run["environment"] for run in runs} == {"production", "staging"}
    assert {run["mode"] for run in roots} == {"fast", "standard", "thorough"}
    assert len({run["tool_name"] for run in runs} - {None}) >= 8
    assert len({run["error_type"] for run in runs} - {None}) >= 6
    assert len({run["request_model"] for run in runs} - {None}) >= 6
    assert any(run["status"] == "pending" and run["end_time"] is None for run in roots)
    assert any(run["warnings"] for run in roots)
    assert {run["degradation_reason"] for run in roots} >= {"tool_unavailable", "low_confidence", "context_truncated"}
    assert any(run["cache_hit"] for run in roots)
    assert sum("@example.com" in run["inputs"] for run in roots) > 20
    assert sum(" sk-" in run["inputs"] for run in roots) > 2
    questions = [run["inputs"] for run in roots]
    assert len(set(questions)) < 0.8 * len(questions)  # some are asked again and again
    retried = [run for run in runs if run["parent_run_id"] and run["status"] == "error"]
    assert len(retried) > 50
    assert all(run["error_message"] for run in runs if run["status"] == "error")
    assert all(run["quality_score"] is None or 0 <= run["quality_score"] <= 1 for run in roots)


def test_feedback_comes_late_is_edited_and_speaks_of_runs(day: Day) -> None:
    feedback = day.feedback.to_pylist()
    roots = {run["run_id"]: run for run in day.runs.to_pylist() if run["parent_run_id"] is None}
    assert 0.05 < len(feedback) / len(roots) < 0.2
    assert {item["key"] for item in feedback} == {"thumbs", "user_rating"}
    assert any(item["comment"] for item in feedback)
    for item in feedback:
        root = roots[item["run_id"]]
        assert item["user_id"] == root["user_id"]
        assert timedelta(0) < item["created_at"] - root["end_time"] < timedelta(days=3)
        assert item["score"] in ((0, 1) if item["key"] == "thumbs" else (1, 2, 3, 4, 5))
    edited = [item for item in feedback if item["modified_at"]]
    first = {item["feedback_id"]: item for item in feedback if not item["modified_at"]}
    assert edited
    assert all(item["modified_at"] > item["created_at"] and first[item["feedback_id"]]["score"] is not None for item in edited)
    assert any(item["created_at"].date() > DAY for item in feedback)
    happy = [item["score"] for item in feedback if item["key"] == "user_rating" and roots[item["run_id"]]["status"] == "error"]
    content = [item["score"] for item in feedback if item["key"] == "user_rating" and roots[item["run_id"]]["task_completed"]]
    assert sum(happy) / max(len(happy), 1) + 0.5 < sum(content) / len(content)


def test_gauges_agree_with_the_traces(day: Day) -> None:
    gauges = day.gauges.to_pylist()
    times = {sample["time"] for sample in gauges}
    assert len(times) == 288
    assert min(times) == datetime(2026, 9, 16, tzinfo=UTC)
    keys = [(sample["name"], sample["labels"], sample["time"]) for sample in gauges]
    assert len(set(keys)) == len(keys)
    hits = sum(sample["value"] for sample in gauges if '"hit"' in sample["labels"])
    in_traces = [run["cache_hit"] for run in day.runs.to_pylist() if run["parent_run_id"] is None]
    assert hits == pytest.approx(sum(bool(hit) for hit in in_traces), abs=3)
    assert all(0 <= sample["value"] <= 1 for sample in gauges if sample["name"].endswith("_utilization"))


def test_events_report_most_changes_and_only_at_their_time() -> None:
    world = World(7)
    events = []
    start = day_number(DAY)
    for number in range(start, start + 60):
        found = rows.events(world.cast, number, ()).to_pylist()
        assert all(day_number(event["time"].date()) == number and event["kind"] in columns.EVENT_KINDS for event in found)
        events += found
    changes = list(changes_between(7, start * DAY_LENGTH, (start + 60) * DAY_LENGTH))
    reported = [event for event in events if event["kind"] != "configuration"]
    assert len(reported) == sum(change.reported for change in changes)
    assert 0 < len(reported) < len(changes)
    assert len({event["event_id"] for event in events}) == len(events)
