"""Mappings: what a YAML file can say, what it may not, and the real data that load without code."""

from __future__ import annotations

import csv
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from metamon_assets.traces.normalise import Rules, normalise_runs
from metamon_assets.traces.sources import mapping
from metamon_assets.traces.sources.base import Batch, Kind, SourceError
from metamon_assets.traces.sources.files import FilesSource

Row = dict[str, Any]


def load(path: Path, how: mapping.Mapping) -> tuple[list[Row], Batch]:
    (batch,) = FilesSource([path], "shop", how).read(how.kind, None)
    return [{name: value for name, value in row.items() if value is not None} for row in batch.rows.to_pylist()], batch


def mapped(tmp_path: Path, text: str, *rows: Row) -> tuple[list[Row], Batch]:
    """Rows of a JSONL file through a mapping."""
    path = tmp_path / "given.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(path, mapping.parse(yaml.safe_load(text)))


# The language ----------------------------------------------------------------------------------------------


def test_columns_constants_units_maps_and_leftovers(tmp_path: Path) -> None:
    text = """
    columns:
      run_id: id
      start_time: {column: at, format: "%d.%m.%Y %H:%M"}
      latency_seconds: {column: took, unit: ms}
      time_to_first_token_seconds: {column: first, zero_is_missing: true, scale: 0.001}
      run_type: {value: llm}
      status: {column: ok, map: {"1": success, "0": error}}
      request_model: [{column: model, pattern: "([^/]+)$"}, {value: unknown}]
      provider: {column: model, match: {"^gpt": openai, "^a/": acme}}
      conversation_id: {template: "{user}-{thread}"}
    drop: [secret]
    """
    given_row = {"id": 7, "at": "22.08.2026 10:30", "took": "1500", "first": 0, "ok": 1.0, "model": "a/b-1", "user": "u", "thread": 3}
    (row, bare), batch = mapped(tmp_path, text, given_row | {"secret": "x", "region": "eu"}, {"id": 8, "ok": 0, "at": "1.1.2026 00:00"})
    assert batch.rejects == ()
    assert row["start_time"] == datetime(2026, 8, 22, 10, 30, tzinfo=UTC)
    assert row["end_time"] == row["start_time"] + timedelta(seconds=1.5)
    assert (row["run_id"], row["latency_seconds"], row["run_type"], row["status"]) == ("7", 1.5, "llm", "success")
    assert (row["request_model"], row["provider"], row["conversation_id"]) == ("b-1", "acme", "u-3")
    assert json.loads(row["metadata"]) == {"model": "a/b-1", "user": "u", "thread": 3, "region": "eu"}
    assert "time_to_first_token_seconds" not in row
    assert (bare["status"], bare["request_model"]) == ("error", "unknown")
    assert bare.keys().isdisjoint({"provider", "conversation_id", "latency_seconds", "end_time"})


def test_columns_are_joined_with_a_space_where_all_have_a_value(tmp_path: Path) -> None:
    text = """
    columns:
      run_id: id
      start_time: {join: [day, clock], format: "%d.%m.%Y %H:%M"}
    """
    (row, bare), batch = mapped(
        tmp_path, text, {"id": 1, "day": "22.08.2026 ", "clock": "10:30"}, {"id": 2, "day": "22.08.2026", "clock": ""}
    )
    assert batch.rejects == ()
    assert row["start_time"] == datetime(2026, 8, 22, 10, 30, tzinfo=UTC)
    assert "metadata" not in row, "both columns are held by start_time"
    assert "start_time" not in bare


def test_what_cannot_be_read_costs_the_row_or_only_the_value(tmp_path: Path) -> None:
    text = """
    columns:
      run_id: id
      start_time: at
      end_time: {column: until, format: "%H:%M"}
      latency_seconds: {column: took, unit: ms}
      input_tokens: tokens
      total_cost: cost
      status: state
      run_type: kind
      task_completed: done
    """
    good = {"at": "2026-08-22T10:00:00Z", "took": "1,234.5", "tokens": "1,204", "cost": "$0.25", "state": "ok", "kind": "llm"}
    bad = {"took": -3, "tokens": "many", "cost": -1, "state": "wobbly", "kind": "premium", "done": "perhaps", "until": "late"}
    given: list[Row] = [{"id": "a", **good}, {"id": "b", **good, **bad}, {"id": "c", **good, "at": "soon"}, {**good, **bad}]
    given += [{"id": name, **good, **one} for name, one in (("d", {"took": "NaN"}), ("e", {"tokens": 10**12}), ("f", {"tokens": "n/a"}))]

    _, strict = mapped(tmp_path, text, *given)
    assert [reject.run_id for reject in strict.rejects] == ["b", "c", None]

    rows, batch = mapped(tmp_path, text + "\n    unreadable: leave_out", *given)
    assert [(reject.reason, reject.run_id) for reject in batch.rejects] == [("wrong_type", "c"), ("missing_id", None)]
    read = {row["run_id"]: row for row in rows}
    assert (read["a"]["latency_seconds"], read["a"]["input_tokens"], float(read["a"]["total_cost"])) == (1.2345, 1204, 0.25)
    assert read["a"].keys() >= {"end_time"}, "which is the start and what it took"
    assert "metadata" not in read["a"]
    assert read["b"].keys() == {"run_id", "project", "source", "start_time", "status", "observed_time", "metadata"}
    assert read["b"]["status"] == "error", "no status that nobody knows passes for a success"
    assert json.loads(read["b"]["metadata"]) == {
        "left_out": {
            "latency_seconds": "-0.003",
            "input_tokens": "many",
            "total_cost": "-1.000000000000",
            "status": "wobbly",
            "run_type": "premium",
            "task_completed": "perhaps",
            "end_time": "late",
        }
    }
    assert "metadata" not in read["d"] | read["f"], "what says that there is no value is none"
    assert json.loads(read["e"]["metadata"]) == {"left_out": {"input_tokens": str(10**12)}}
    normalised = normalise_runs(batch, Rules(source="files", project="shop", now=datetime(2026, 8, 23, tzinfo=UTC)))
    assert (normalised.rows.num_rows, normalised.rejects) == (5, ())


def test_an_end_before_its_start_is_left_out(tmp_path: Path) -> None:
    text = "{unreadable: leave_out, columns: {run_id: id, start_time: at, end_time: until, latency_seconds: took}}"
    (row,), _ = mapped(tmp_path, text, {"id": 1, "at": "2026-08-22T10:00:00Z", "until": "2026-08-22T09:00:00Z", "took": 5})
    assert ("end_time" in row, row["latency_seconds"]) == (False, 5.0)


def test_places_in_nested_objects(tmp_path: Path) -> None:
    text = """
    columns:
      run_id: {template: "{call.id}-{call.try}"}
      start_time: call.at
      tenant_id: customer.id
      user_id: a.b
      conversation_id: {hash: [call.id, customer.id]}
    rules: [{when: {equals: {call.state: bad}}, set: {status: error}}]
    drop: [customer.mail]
    """
    call = {"id": 7, "try": 2, "at": "2026-08-22T10:00:00Z", "state": "bad"}
    rows, _ = mapped(
        tmp_path,
        text,
        {"call": call, "customer": {"id": "c", "mail": "x@y.example", "tier": "gold"}, "a.b": "u"},
        {"call": {**call, "try": 3, "state": "good"}, "customer": None, "a": {"b": "v"}},
        {"call": {**call, "try": 4}, "customer": "none", "a": {"x": 1}},
    )
    assert [row["run_id"] for row in rows] == ["7-2", "7-3", "7-4"]
    assert [(row.get("tenant_id"), row.get("user_id"), row.get("status")) for row in rows] == [
        ("c", "u", "error"),
        (None, "v", None),
        (None, None, "error"),
    ]
    kept = {"id": 7, "try": 2, "state": "bad"}
    assert json.loads(rows[0]["metadata"]) == {"call": kept, "customer": {"tier": "gold"}}, "what may not be seen is not"
    assert json.loads(rows[2]["metadata"])["customer"] == "none"


def test_places_in_nested_columns_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1], "at": [datetime(2026, 8, 22, tzinfo=UTC)], "customer": [{"id": "c"}]}), path)
    rows, _ = load(path, mapping.parse({"columns": {"run_id": "id", "start_time": "at", "tenant_id": "customer.id"}}))
    assert rows[0]["tenant_id"] == "c"
    with pytest.raises(SourceError, match=r"reads customer\.name, which the file has not"):
        load(path, mapping.parse({"columns": {"run_id": "id", "tenant_id": "customer.name"}}))


def test_identifiers_from_columns_or_lines_stay_the_same(tmp_path: Path) -> None:
    by_columns = "columns: {run_id: {hash: [a, b]}}"
    by_line = "columns: {run_id: {line: true}}"
    rows = [{"a": "1", "b": "2"}, {"a": "12", "b": ""}, {"a": "1", "b": "2"}]
    first = [row["run_id"] for row in mapped(tmp_path, by_columns, *rows)[0]]
    assert first == [row["run_id"] for row in mapped(tmp_path, by_columns, *rows)[0]]
    assert first[0] == first[2] != first[1]
    assert len({row["run_id"] for row in mapped(tmp_path, by_line, *rows)[0]}) == 3


def test_rules_set_clear_and_reject(tmp_path: Path) -> None:
    text = """
    columns: {run_id: id, status: {value: success}, latency_seconds: took, output_tokens: tokens}
    rules:
      - when: {not_empty: error}
        set: {status: error, error_message: {column: error}}
      - when: {all_zero: [took, tokens]}
        set: {status: error, error_type: failed_probe}
        clear: [latency_seconds, output_tokens]
      - when: {equals: {kind: [test, 7]}}
        reject: test traffic is not loaded
      - when: {matches: {kind: "^slow"}, empty: error}
        set: {degraded: true}
    """
    rows, batch = mapped(
        tmp_path,
        text,
        {"id": "a", "took": 1, "tokens": 2},
        {"id": "b", "took": 0, "tokens": "0.0"},
        {"id": "c", "took": 0, "tokens": 5, "error": "boom"},
        {"id": "d", "took": 1, "tokens": 2, "kind": "7.0"},
        {"id": "e", "took": 1, "tokens": 2, "kind": "slowly"},
        {"id": "f", "took": 0},
    )
    plain, probe, failed, slow, silent = rows
    assert (plain["status"], plain["latency_seconds"]) == ("success", 1.0)
    assert (probe["status"], probe["error_type"]) == ("error", "failed_probe")
    assert probe.keys().isdisjoint({"latency_seconds", "output_tokens"})
    assert (failed["status"], failed["error_message"], failed["latency_seconds"]) == ("error", "boom", 0.0)
    assert slow["degraded"] is True
    assert silent["status"] == "success"  # an absent figure is not a zero
    assert [(reject.reason, reject.detail, reject.run_id) for reject in batch.rejects] == [("rule", "test traffic is not loaded", "d")]


def test_declared_times_are_marked(tmp_path: Path) -> None:
    text = "{declared_time: 2026-08-22, columns: {run_id: id, start_time: at}}"
    declared, told = mapped(tmp_path, text, {"id": "a"}, {"id": "b", "at": "2026-08-23T00:00:00Z"})[0]
    assert (declared["start_time"], declared["time_declared"]) == (datetime(2026, 8, 22, tzinfo=UTC), True)
    assert (told["start_time"], told["time_declared"]) == (datetime(2026, 8, 23, tzinfo=UTC), False)


def test_seconds_since_a_declared_moment(tmp_path: Path) -> None:
    text = "columns: {run_id: id, start_time: {column: offset, unit: ms, base: 2026-08-22T00:00:00Z}}"
    rows, batch = mapped(tmp_path, text, {"id": "a", "offset": "1500"}, {"id": "b", "offset": "soon"})
    assert [(row["start_time"], row["time_declared"]) for row in rows] == [(datetime(2026, 8, 22, 0, 0, 1, 500_000, tzinfo=UTC), True)]
    assert [(reject.reason, reject.run_id) for reject in batch.rejects] == [("wrong_type", "b")]


def test_steps_become_a_trace_with_one_root(tmp_path: Path) -> None:
    text = """
    columns: {run_id: step_id, start_time: at, agent_name: {value: bot}}
    trace:
      by: task
      columns: {run_type: {value: agent}, quality_score: reward, status: {value: success}}
      rules: [{when: {equals: {reward: 0}}, set: {task_completed: false}}]
    """
    steps = [
        {"task": task, "step_id": f"{task}{step}", "reward": task, "at": f"2026-08-22T10:00:0{step}Z"} for task in (0, 1) for step in (1, 2)
    ]
    rows, batch = mapped(tmp_path, text, *steps)
    roots = [row for row in rows if "parent_run_id" not in row]
    assert [(root["run_id"], root["trace_id"], root["quality_score"], root["agent_name"]) for root in roots] == [
        ("0", "0", 0, "bot"),
        ("1", "1", 1, "bot"),
    ]
    assert [root.get("task_completed") for root in roots] == [False, None]
    assert [root["start_time"].second for root in roots] == [1, 1]
    assert {(row["parent_run_id"], row["trace_id"]) for row in rows if row not in roots} == {("0", "0"), ("1", "1")}
    assert batch.rows.num_rows == 6


def test_parquet_goes_through_a_mapping_too(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1, 2], "at": [datetime(2026, 8, 22, tzinfo=UTC)] * 2, "nested": [{"a": 1}, None]}), path)
    rows, _ = load(path, mapping.parse({"columns": {"run_id": "id", "start_time": "at"}}))
    assert [row["run_id"] for row in rows] == ["1", "2"]
    assert json.loads(rows[0]["metadata"]) == {"nested": {"a": 1}}


def test_other_kinds_can_be_mapped(tmp_path: Path) -> None:
    score = "{column: up, map: {'true': 1, 'false': 0}}"
    text = f"{{kind: feedback, columns: {{feedback_id: id, run_id: call, key: {{value: thumbs}}, score: {score}}}}}"
    rows, _ = mapped(tmp_path, text, {"id": "f", "call": "r", "up": True})
    assert [(row["feedback_id"], row["run_id"], row["key"], row["score"]) for row in rows] == [("f", "r", "thumbs", 1.0)]


# What it may not say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("[]", "must be a YAML object"),
        ("kind: runs", "columns: is missing; add it"),
        ("{columns: {run_id: id}, colums: 1}", "colums: is not a key that a mapping knows"),
        ("columns: {latncy_seconds: took}", "did you mean latency_seconds?"),
        ("columns: {run_id: {column: a, value: b}}", "needs exactly one of"),
        ("columns: {run_id: {hash: []}}", "columns.run_id.0.hash"),
        ("columns: {run_id: {column: a, pattern: '('}}", "is not a regular expression"),
        ("columns: {run_id: {column: a, unit: fortnights}}", "columns.run_id.0.unit"),
        ("columns: {start_time: {column: a, base: 2026-01-01}}", "base needs unit"),
        ("columns: {run_id: {column: a, decimal_comma: true, thousands_comma: true}}", "exclude each other"),
        ("{columns: {run_id: a}, declared_time: once}", "a time like"),
        ("{columns: {run_id: a}, rules: [{when: {}, set: {status: error}}]}", "needs at least one of all_zero"),
        ("{columns: {run_id: a}, rules: [{when: {empty: b}}]}", "needs at least one of set"),
        ("{columns: {run_id: a}, rules: [{when: {empty: b}, clear: [latency]}]}", "rules.latency: not a unified column"),
        ("{kind: gauges, columns: {name: a}, trace: {by: b}}", "only runs have traces"),
        ("{kind: metrics, columns: {name: a}}", "kind"),
    ],
)
def test_a_wrong_mapping_says_key_fault_and_remedy(text: str, mentions: str) -> None:
    with pytest.raises(SourceError) as caught:
        mapping.parse(yaml.safe_load(text), "mine.yaml")
    assert mentions in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_a_mapping_file_that_is_missing_or_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="llm-latency"):
        mapping.load(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("columns: [")
    with pytest.raises(SourceError, match="is not YAML"):
        mapping.load(broken)


def test_a_file_without_the_columns_that_the_mapping_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,when\n1,2\n")
    with pytest.raises(SourceError, match=r"reads took, which the file has not; its columns are id, when"):
        load(path, mapping.parse({"columns": {"run_id": "id", "latency_seconds": "took"}}))


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(st.text(max_size=8), x)
    )
)
def test_any_content_is_a_mapping_or_an_error_for_people(content: Any) -> None:
    try:
        mapping.parse({"columns": {"run_id": content}})
    except SourceError as error:
        assert "columns" in str(error)


@pytest.mark.parametrize("name", mapping.bundled())
def test_bundled_mappings_are_valid_and_described(name: str) -> None:
    assert mapping.load(name).description


# Real data -------------------------------------------------------------------------------------------------


def test_probe_calls_of_nineteen_days(shared_data: Path) -> None:
    path = shared_data / "llm_latency" / "thefastest_ai_llm_latency.csv"
    rows, batch = load(path, mapping.load("llm-latency"))
    with path.open() as file:
        wire = list(csv.DictReader(file))
    assert len(rows) == len(wire) == 5_985
    assert batch.rejects == ()
    assert len({row["run_id"] for row in rows}) == 5_985
    assert len({row["start_time"].date() for row in rows}) == 19
    (failed,) = [row for row in rows if row["status"] == "error"]
    assert failed["error_type"] == "failed_probe"
    assert failed.keys().isdisjoint({"latency_seconds", "time_to_first_token_seconds", "output_tokens", "end_time", "total_cost"})
    answered = [(row, theirs) for row, theirs in zip(rows, wire, strict=True) if row["status"] == "success"]
    assert len(answered) == 5_984
    for row, theirs in answered:
        assert row["latency_seconds"] == float(theirs["total_time_s"])
        assert row["time_to_first_token_seconds"] == float(theirs["ttft_s"])
        assert row["output_tokens"] == int(theirs["num_tokens"])
        assert theirs["model"].endswith(row["request_model"])
    assert json.loads(rows[0]["metadata"])["region"] == "sea"
    assert all("input_tokens" not in row for row in rows)
    providers = Counter(row.get("provider") for row in rows)
    assert (providers["openai"], providers["anthropic"], providers["azure.ai.openai"]) == (550, 550, 880)


def test_episodes_of_an_airline_agent(shared_data: Path) -> None:
    rows, batch = load(shared_data / "episodes" / "taubench_gpt4o_airline_episodes.csv", mapping.load("tau-bench-episodes"))
    assert (len(rows), batch.rejects) == (200, ())
    assert Counter(row["task_completed"] for row in rows) == {False: 116, True: 84}
    assert sum(row["quality_score"] for row in rows) == 84
    assert sum(int(json.loads(row["metadata"])["n_tool_errors"]) for row in rows) == 73
    assert all(
        row["time_declared"] and row.keys().isdisjoint({"total_cost", "input_tokens", "latency_seconds", "end_time"}) for row in rows
    )


def test_steps_of_an_airline_agent(shared_data: Path) -> None:
    rows, batch = load(shared_data / "episodes" / "tau_airline_gpt4o.jsonl", mapping.load("tau-bench-steps"))
    roots = {row["run_id"]: row for row in rows if "parent_run_id" not in row}
    steps = [row for row in rows if "parent_run_id" in row]
    assert (len(roots), len(steps), batch.rejects) == (199, 5_296, ())
    assert Counter(root["task_completed"] for root in roots.values()) == {False: 116, True: 83}
    assert {step["parent_run_id"] for step in steps} == roots.keys()
    errors = [step for step in steps if step["status"] == "error"]
    assert len(errors) == 73
    assert all(step["run_type"] == "tool" and step["tool_name"] and step["error_message"].startswith("Error") for step in errors)
    assert {step["run_type"] for step in steps if "request_model" in step} == {"llm"}
    assert all("quality_score" not in step and "reward" not in step["metadata"] for step in steps)
    assert [json.loads(step["metadata"])["step"] for step in steps[:3]] == [0, 1, 2]


def test_failure_labels_never_enter(shared_data: Path) -> None:
    path = shared_data / "episodes" / "who_when.jsonl"
    rows, batch = load(path, mapping.load("who-and-when"))
    steps = [row for row in rows if "parent_run_id" in row]
    assert (len(steps), len(rows) - len(steps), batch.rejects) == (4_092, 184, ())
    assert all("label" not in str(row.get("metadata")) and "decisive" not in str(row.get("metadata")) for row in rows)
    reasons = {json.loads(line)["label_reason"] for line in path.open()}
    everything = "\n".join(str({name: value for name, value in row.items() if name != "outputs"}) for row in rows)
    assert not any(reason and reason in everything for reason in reasons)


def test_request_logs_in_the_layout_of_burstgpt(tmp_path: Path) -> None:
    path = tmp_path / "burst.csv"
    path.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        + "5,ChatGPT,472,18,490,Conversation log\n" * 2
        + "45.5,GPT-4,10,0,10,API log\n"
    )
    rows, _ = load(path, mapping.load("burstgpt"))
    assert len({row["run_id"] for row in rows}) == 3
    assert [row["status"] for row in rows] == ["success", "success", "error"]
    assert rows[2]["start_time"] == datetime(2023, 1, 1, 0, 0, 45, 500_000, tzinfo=UTC)
    assert all(row["time_declared"] and "latency_seconds" not in row for row in rows)
    assert Kind.RUNS is mapping.load("burstgpt").kind
