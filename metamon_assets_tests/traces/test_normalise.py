"""What rows become: filled, checked with a reason for each refusal, excluded, redacted, and always fit for Postgres."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metamon_assets.traces import columns
from metamon_assets.traces.merge import RunMerge
from metamon_assets.traces.normalise import (
    MESSAGE_LIMIT,
    Normalised,
    Rules,
    normalise_events,
    normalise_feedback,
    normalise_gauges,
    normalise_runs,
)
from metamon_assets.traces.redaction import Redactor
from metamon_assets.traces.sources.base import Batch, Kind
from metamon_assets.warehouse import connect

NOW = datetime(2026, 11, 20, tzinfo=UTC)
NOON = datetime(2026, 9, 1, 12, tzinfo=UTC)
REDACTOR = Redactor()


def rules(**changes: Any) -> Rules:
    return Rules(source="files", project="main", now=NOW, **{"redactor": REDACTOR, **changes})


def batch(*rows: Mapping[str, Any], kind: Kind = Kind.RUNS, **parts: Any) -> Batch:
    schema = {Kind.RUNS: columns.RUNS, Kind.FEEDBACK: columns.FEEDBACK, Kind.EVENTS: columns.EVENTS, Kind.GAUGES: columns.GAUGES}[kind]
    names = {name for row in rows for name in row}
    schema = pa.schema([field for field in schema if field.name in names])
    return Batch(kind, pa.Table.from_pylist(list(rows), schema=schema), **parts)


def normalise(*rows: Mapping[str, Any], **changes: Any) -> Normalised:
    return normalise_runs(
        batch(*[{"run_id": f"r{n}", "start_time": NOON, **row} for n, row in enumerate(rows)], location="a.jsonl"), rules(**changes)
    )


def one(changes: dict[str, Any] | None = None, /, **row: Any) -> dict[str, Any]:
    """The single run as stored."""
    result = normalise(row, **(changes or {}))
    assert [(reject.reason, reject.detail) for reject in result.rejects] == []
    stored: dict[str, Any] = result.rows.to_pylist()[0]
    return stored


# Filling ------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_filled() -> None:
    row = one()
    filled = {name: value for name, value in row.items() if value is not None}
    assert filled == {
        "source": "files",
        "project": "main",
        "run_id": "r0",
        "trace_id": "r0",
        "run_type": "chain",
        "start_time": NOON,
        "status": "success",
        "cost_source": "unpriced",
        "time_declared": False,
        "observed_time": NOW,
    }


def test_the_result_has_all_columns_in_order() -> None:
    assert normalise({}).rows.schema == columns.RUNS
    assert normalise_runs(batch(), rules()).rows.schema == columns.RUNS


def test_what_the_source_said_stays() -> None:
    row = one(source="otlp", project="shop", trace_id="t", parent_run_id="p", run_type="tool", status="pending", time_declared=True)
    assert [row[name] for name in ("source", "project", "trace_id", "parent_run_id", "run_type", "status", "time_declared")] == [
        "otlp",
        "shop",
        "t",
        "p",
        "tool",
        "pending",
        True,
    ]


def test_a_named_model_makes_a_run_a_model_call_and_a_run_is_not_its_own_parent() -> None:
    assert one(request_model="gpt-4o")["run_type"] == "llm"
    assert one(parent_run_id="r0")["parent_run_id"] is None


@pytest.mark.parametrize(
    ("said", "status", "error_type"),
    [
        ("OK", "success", None),
        ("Completed", "success", None),
        ("FAILED", "error", None),
        ("timeout", "error", "timeout"),
        ("Cancelled", "error", "cancelled"),
        ("in-progress", "pending", None),
        ("200", "success", None),
        ("503", "error", None),
        ("STATUS_CODE_UNSET", "success", None),
        ("abandoned", "abandoned", None),
    ],
)
def test_statuses_by_other_names(said: str, status: str, error_type: str | None) -> None:
    row = one(status=said)
    assert (row["status"], row["error_type"]) == (status, error_type)


def test_a_missing_status_follows_the_error() -> None:
    assert one(error_message="boom")["status"] == "error"
    assert one(error_type="ValueError")["status"] == "error"
    assert one(error_message="")["status"] == "success"
    assert one(status="error", error_type="Own")["error_type"] == "Own"


@pytest.mark.parametrize(
    ("said", "run_type"), [("LLM", "llm"), ("Chat", "llm"), ("execute_tool", "tool"), ("RETRIEVAL", "retriever"), ("invoke_agent", "agent")]
)
def test_run_types_by_other_names(said: str, run_type: str) -> None:
    assert one(run_type=said)["run_type"] == run_type


# Times and durations --------------------------------------------------------------------------------------------


def test_latency_and_end_follow_from_each_other() -> None:
    assert one(end_time=NOON + timedelta(seconds=1.5))["latency_seconds"] == 1.5
    assert one(latency_seconds=1.5)["end_time"] == NOON + timedelta(seconds=1.5)
    pending = one(latency_seconds=1.5, status="pending")
    assert (pending["end_time"], pending["latency_seconds"]) == (None, 1.5)
    assert one(end_time=NOON)["latency_seconds"] == 0


def test_two_clock_readings_win_over_a_reported_latency_that_contradicts_them() -> None:
    row = one(end_time=NOON + timedelta(seconds=10), latency_seconds=4.25, metadata='{"a": 1}')
    assert row["latency_seconds"] == 10
    assert orjson.loads(row["metadata"]) == {"a": 1, "reported_latency_seconds": 4.25}
    rounded = one(end_time=NOON + timedelta(seconds=10), latency_seconds=9.5)
    assert (rounded["latency_seconds"], rounded["metadata"]) == (9.5, None)


def test_the_first_token() -> None:
    end = NOON + timedelta(seconds=2)
    row = one(end_time=end, first_token_time=NOON + timedelta(seconds=0.5))
    assert row["time_to_first_token_seconds"] == 0.5
    assert one(end_time=end, time_to_first_token_seconds=0.5)["first_token_time"] == NOON + timedelta(seconds=0.5)
    assert one(end_time=end, time_to_first_token_seconds=2.005)["time_to_first_token_seconds"] == 2


# Refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"run_id": None}, "missing_id", "give each run an id"),
        ({"run_id": ""}, "missing_id", "give each run an id"),
        ({"run_id": "x" * 1025}, "id_too_long", "run_id is longer than 1024 bytes"),
        ({"tenant_id": "é" * 600}, "id_too_long", "tenant_id"),
        ({"start_time": None}, "missing_start_time", "map a column to it or declare one"),
        ({"start_time": datetime(1970, 1, 21, tzinfo=UTC)}, "start_time_out_of_range", "1970-01-21T00:00:00+00:00 lies before 2000"),
        ({"start_time": NOW + timedelta(days=2)}, "start_time_out_of_range", "in the future"),
        (
            {"end_time": NOON - timedelta(microseconds=1)},
            "end_before_start",
            "end_time 2026-09-01T11:59:59.999999+00:00 lies before start_time",
        ),
        ({"end_time": NOW + timedelta(days=2)}, "end_time_out_of_range", "in the future"),
        ({"latency_seconds": -0.1}, "negative_duration", "latency_seconds is -0.1"),
        ({"latency_seconds": -1e300}, "negative_duration", "latency_seconds is -1e+300"),
        ({"latency_seconds": math.nan}, "non_finite_value", "latency_seconds is nan"),
        ({"latency_seconds": math.inf}, "non_finite_value", "latency_seconds is inf"),
        ({"latency_seconds": 1e18}, "duration_out_of_range", "check the unit"),
        ({"time_to_first_token_seconds": -1.0}, "negative_duration", "time_to_first_token_seconds"),
        ({"time_to_first_token_seconds": 1e300}, "duration_out_of_range", "time_to_first_token_seconds"),
        ({"first_token_time": NOON - timedelta(seconds=1)}, "first_token_before_start", "first_token_time"),
        ({"time_to_first_token_seconds": 3.0, "latency_seconds": 2.0}, "first_token_after_end", "later than the end"),
        ({"status": "exploded"}, "unknown_status", "status exploded is unknown: map it to one of success, error, pending, abandoned"),
        ({"status": "999"}, "unknown_status", "999"),
        ({"run_type": "wizard"}, "unknown_run_type", "run_type wizard is unknown"),
        ({"cost_source": "guessed"}, "unknown_cost_source", "guessed"),
        ({"input_tokens": -1}, "negative_tokens", "input_tokens is -1"),
        ({"total_tokens": -5}, "negative_tokens", "total_tokens is -5"),
        ({"output_tokens": 2**62}, "tokens_out_of_range", "output_tokens"),
        ({"input_tokens": 10**9, "cache_read_input_tokens": 10**9, "cache_creation_input_tokens": 1}, "tokens_out_of_range", "with cached"),
        ({"total_cost": Decimal("-0.01")}, "negative_cost", "total_cost is -0.010000000000"),
        ({"total_cost": Decimal(90_000_000)}, "cost_out_of_range", "US dollars for one run"),
        ({"quality_score": 4.5}, "quality_out_of_range", "quality_score is 4.5"),
        ({"quality_score": math.nan}, "non_finite_value", "quality_score"),
        ({"llm_calls": -1}, "negative_count", "llm_calls is -1"),
    ],
)
def test_a_bad_row_goes_to_quarantine_with_its_reason(row: dict[str, Any], reason: str, detail: str) -> None:
    result = normalise({}, row, {})
    assert result.rows.num_rows == 2
    (reject,) = result.rejects
    assert reject.reason == reason
    assert detail in reject.detail
    assert (reject.kind, reject.location) == (Kind.RUNS, "a.jsonl row 2")
    assert orjson.loads(reject.raw).get("run_id") == (row.get("run_id", "r1"))
    assert reject.run_id == row.get("run_id", "r1")


def test_a_row_has_one_reason_and_rows_have_their_places() -> None:
    rows: list[dict[str, Any]] = [
        {"run_id": "ok", "start_time": NOON},
        {"run_id": "bad", "start_time": NOON, "status": "?", "input_tokens": -1},
    ]
    result = normalise_runs(batch(*rows, row_locations=("f.csv:2", "f.csv:9")), rules())
    (reject,) = result.rejects
    assert (reject.reason, reject.location, reject.run_id) == ("unknown_status", "f.csv:9", "bad")


def test_nothing_is_lost() -> None:
    rng = random.Random(4)
    rows: list[dict[str, Any]] = [
        {"quality_score": rng.choice([0.5, 7.0]), "status": rng.choice(["ok", "??"]), "agent_name": rng.choice(["a", "metamon"])}
        for _ in range(300)
    ]
    result = normalise(*rows, exclude_agents=frozenset({"metamon"}))
    assert result.rows.num_rows + len(result.rejects) + result.excluded == 300
    assert min(result.rows.num_rows, len(result.rejects), result.excluded) > 10


def test_a_huge_batch_is_taken_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"name": f"n{n}\0", "tags": [f"t{n}\0"] * (n % 3), "status": "??" if n % 7 == 0 else "ok"} for n in range(50)]
    whole = normalise(*rows, exclude_tags=frozenset({"t4"}))
    monkeypatch.setattr("metamon_assets.traces.normalise._SLICE_BYTES", 2_000)
    parts = normalise(*rows, exclude_tags=frozenset({"t4"}))
    assert parts.rows.column("run_id").num_chunks > 3
    assert parts.rows.to_pylist() == whole.rows.to_pylist()
    assert (parts.rejects, parts.excluded) == (whole.rejects, 1)


def test_columns_that_are_not_unified_are_a_defect_of_the_source() -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl: columns prompt_tokens are not unified"):
        normalise_runs(Batch(Kind.RUNS, pa.table({"run_id": ["a"], "prompt_tokens": [1]}), location="a.jsonl"), rules())
    with pytest.raises(ValueError, match="not of their unified types"):
        normalise_runs(Batch(Kind.RUNS, pa.table({"run_id": ["a"], "input_tokens": ["many"]})), rules())


# Exclusions ---------------------------------------------------------------------------------------------------


def test_exclusions_are_counted_and_not_rejected() -> None:
    rows: list[dict[str, Any]] = [
        {"project": "metamon"},
        {"agent_name": "canary", "status": "??"},
        {"tags": ["x", "synthetic", "synthetic"]},
        {"tags": ["x"]},
        {"tags": []},
        {},
    ]
    result = normalise(
        *rows, exclude_projects=frozenset({"metamon"}), exclude_agents=frozenset({"canary"}), exclude_tags=frozenset({"synthetic"})
    )
    assert (result.excluded, result.rejects) == (3, ())
    assert result.rows.column("run_id").to_pylist() == ["r3", "r4", "r5"]


def test_the_projects_own_name_can_be_excluded() -> None:
    assert normalise({}, exclude_projects=frozenset({"main"})).excluded == 1


# Token conventions (the bills themselves: test_pricing) ---------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "stored"),
    [  # input, output, total, read, creation, reasoning → input, output, total, convention
        ((100, 10, 110, 80, None, None), (100, 10, 110, {})),
        ((100, 10, None, 80, None, None), (100, 10, 110, {})),
        ((20, 10, 110, 80, None, None), (100, 10, 110, {"token_convention": "additive"})),
        ((90, 10, 180, 80, None, None), (170, 10, 180, {"token_convention": "additive"})),
        ((3, 12, 15, 13, 2, None), (18, 12, 30, {"token_convention": "additive", "reported_total_tokens": 15})),
        ((100, 40, 140, None, None, 30), (100, 40, 140, {})),
        ((100, 10, 140, None, None, 30), (100, 40, 140, {"reasoning_convention": "additive"})),
        ((100, 10, None, None, None, 30), (100, 40, 140, {"reasoning_convention": "additive"})),
        ((50, 10, 140, 50, None, 30), (100, 40, 140, {"token_convention": "additive", "reasoning_convention": "additive"})),
        ((100, 40, 170, 30, None, 30), (130, 40, 170, {"token_convention": "additive"})),
        ((100, None, 8_000, None, None, None), (100, None, 8_000, {})),
        ((None, 10, 8_000, 90, None, None), (None, 10, 8_000, {})),
        ((100, 10, 999, None, None, None), (100, 10, 110, {"reported_total_tokens": 999})),
    ],
)
def test_token_conventions(given: tuple[int | None, ...], stored: tuple[Any, ...]) -> None:
    names = (
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "reasoning_output_tokens",
    )
    row = one(**dict(zip(names, given, strict=True)))
    metadata = {} if row["metadata"] is None else orjson.loads(row["metadata"])
    assert (row["input_tokens"], row["output_tokens"], row["total_tokens"], metadata) == stored


# Text -----------------------------------------------------------------------------------------------------------


def test_long_text_is_shortened_between_characters_and_says_so() -> None:
    row = one(error_message="é" * MESSAGE_LIMIT, name="n" * 2_000, tags=["t" * 2_000, "short"])
    assert row["error_message"] == "é" * (MESSAGE_LIMIT // 2) + f"… [shortened from {2 * MESSAGE_LIMIT:,} bytes]"
    assert row["name"] == "n" * 1_024 + "… [shortened from 2,000 bytes]"
    assert row["tags"] == ["t" * 1_024 + "… [shortened from 2,000 bytes]", "short"]


def test_nul_and_invalid_bytes_do_not_reach_postgres() -> None:
    row = one(name="a\0b", tags=["c\0d", None, "e"], error_message="\0")
    assert (row["name"], row["tags"]) == ("ab", ["cd", None, "e"])
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"bad \xff\xed\xa0\x80"], pa.binary()).buffers())
    table = pa.table({"run_id": ["a", "b"], "start_time": pa.array([NOON] * 2, columns.TIMESTAMP), "name": broken})
    names = normalise_runs(Batch(Kind.RUNS, table), rules()).rows.column("name").to_pylist()
    assert names[0] == "ok"
    assert names[1].startswith("bad \ufffd")


def test_lists_keep_their_rows_when_items_are_mended() -> None:
    rows: list[dict[str, Any]] = [{"tags": ["a\0"]}, {"tags": None}, {"tags": []}, {"run_id": None, "tags": ["gone"]}, {"tags": ["b", "c"]}]
    assert normalise(*rows).rows.column("tags").to_pylist() == [["a"], None, [], ["b", "c"]]


@pytest.mark.parametrize(
    ("said", "stored"),
    [
        ('{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        ('{"a": "x\\u0000y"}', {"a": "xy"}),
        ('{"a": "\\\\u0000"}', {"a": "\\u0000"}),
        ("[1, 2]", {"value": [1, 2]}),
        ('"text"', {"value": "text"}),
        ("not json", {"value": "not json"}),
        ('{"a": "\\ud800"}', {"value": '{"a": "\\ud800"}'}),
        ('{"a": 1e400}', {"value": '{"a": 1e400}'}),
        ('{"a": NaN}', {"value": '{"a": NaN}'}),
        ('{"mail": "ann@example.org", "password": "x"}', {"mail": "[email]", "password": "[secret]"}),
    ],
)
def test_metadata_is_an_object_that_postgres_takes(said: str, stored: dict[str, Any]) -> None:
    assert orjson.loads(one(metadata=said)["metadata"]) == stored


def test_hostile_metadata_is_tamed() -> None:
    deep = orjson.loads(one(metadata='{"a":' * 900 + "1" + "}" * 900)["metadata"])
    assert deep["value"].startswith('{"a":{"a"')
    huge = orjson.loads(one(metadata=orjson.dumps({"a": "x" * 200_000}).decode())["metadata"])
    assert huge["value"].endswith("[shortened from 200,008 characters]")
    marked = one(metadata="[1]", input_tokens=1, output_tokens=1, cache_read_input_tokens=9)
    assert orjson.loads(marked["metadata"]) == {"value": "[1]", "token_convention": "additive"}


def test_messages_are_redacted() -> None:
    assert one(error_message="no mailbox ann@example.org")["error_message"] == "no mailbox [email]"
    assert one({"redactor": Redactor.disabled()}, error_message="ann@example.org")["error_message"] == "ann@example.org"


def test_payloads_are_kept_only_when_asked_for() -> None:
    assert one(inputs="hello", outputs="there")["inputs"] is None
    kept = one({"store_payloads": True, "payload_limit": 100}, inputs="ann@example.org asks", outputs="o" * 150)
    assert (kept["inputs"], kept["outputs"]) == ("[email] asks", "o" * 100 + "… [shortened from 150 bytes]")


def test_a_secret_is_redacted_before_the_text_is_cut() -> None:
    kept = one({"store_payloads": True, "payload_limit": 30}, inputs="x" * 20 + " ann@example.org " + "y" * 50)
    assert "ann" not in kept["inputs"]


# The other kinds ------------------------------------------------------------------------------------------------


def test_feedback() -> None:
    rows: list[dict[str, Any]] = [
        {
            "feedback_id": "f1",
            "key": "thumbs",
            "score": 1.0,
            "created_at": NOON,
            "comment": "mail ann@example.org",
            "correction": "not json",
        },
        {"feedback_id": None, "key": "k", "created_at": NOON},
        {"feedback_id": "f3", "key": None, "created_at": NOON},
        {"feedback_id": "f4", "key": "k", "created_at": None},
        {"feedback_id": "f5", "key": "k", "created_at": NOON, "score": math.inf},
        {"feedback_id": "f6", "key": "k", "created_at": NOON, "correction": '{"answer": "a\\u0000"}', "metadata": "{}"},
    ]
    result = normalise_feedback(batch(*rows, kind=Kind.FEEDBACK), rules())
    assert [reject.reason for reject in result.rejects] == ["missing_id", "missing_key", "missing_created_at", "non_finite_value"]
    assert result.rows.schema == columns.FEEDBACK
    first, last = result.rows.to_pylist()
    assert (first["comment"], first["correction"], first["source"], first["observed_time"]) == ("mail [email]", '"not json"', "files", NOW)
    assert last["correction"] == '{"answer":"a"}'


def test_events() -> None:
    rows: list[dict[str, Any]] = [
        {"event_id": "e1", "kind": "Deploy", "time": NOON, "agent_name": "a"},
        {"event_id": "e2", "kind": "party", "time": NOON},
        {"event_id": "e3", "kind": None, "time": NOON, "url": "https://ann:pw@example.org/x"},
        {"event_id": None, "kind": "model", "time": NOON},
        {"event_id": "e5", "kind": "model", "time": datetime(1999, 1, 1, tzinfo=UTC)},
        {"event_id": "e6", "kind": "model", "time": NOON, "agent_name": "out"},
    ]
    result = normalise_events(batch(*rows, kind=Kind.EVENTS), rules(exclude_agents=frozenset({"out"})))
    assert [reject.reason for reject in result.rejects] == ["unknown_kind", "missing_id", "time_out_of_range"]
    assert result.excluded == 1
    assert [(row["kind"], row["inferred"]) for row in result.rows.to_pylist()] == [("deployment", False), ("other", False)]
    assert result.rows.column("url").to_pylist()[1] == "https://[credentials]@example.org/x"


def test_gauges() -> None:
    sample = {"name": "cache_size", "time": NOON, "value": 1.0}
    rows: list[dict[str, Any]] = [
        {**sample, "labels": '{"b": "2", "a": 1}'},
        {**sample, "name": None},
        {**sample, "value": None},
        {**sample, "value": math.nan},
        {**sample, "value": -1.0, "kind": "counter"},
        {**sample, "value": -1.0},
        {**sample, "kind": "histogram"},
        {**sample, "kind": "sum"},
    ]
    result = normalise_gauges(batch(*rows, kind=Kind.GAUGES), rules())
    reasons = [reject.reason for reject in result.rejects]
    assert reasons == ["missing_name", "missing_value", "non_finite_value", "negative_counter", "unknown_kind"]
    assert [(row["labels"], row["kind"]) for row in result.rows.to_pylist()] == [
        ('{"a":"1","b":"2"}', "gauge"),
        ("{}", "gauge"),
        ("{}", "counter"),
    ]


# Whatever comes in ------------------------------------------------------------------------------------------------

TEXTS = (
    st.none()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["", "\0", "x" * 1_100, "ann@example.org", "ok", "llm"])
)
TIMES = st.none() | st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC)) | st.just(NOON)  # noqa: DTZ001
NUMBERS = st.none() | st.floats(allow_nan=True) | st.sampled_from([0.0, 0.5, 1.5, -1.0])
COUNTS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 500)
MONEY = st.none() | st.decimals(-1, 10**7, places=12)
ANY_RUN = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("run_id", "trace_id", "parent_run_id", "status", "run_type", "name", "error_message", "provider", "request_model", "inputs"),
            TEXTS,
        ),
        "metadata": TEXTS | st.just('{"a": "\\u0000"}') | st.just("{} {}"),
        "tags": st.none() | st.lists(TEXTS, max_size=3),
        **dict.fromkeys(("end_time", "first_token_time"), TIMES),
        "start_time": TIMES | st.just(NOON),
        **dict.fromkeys(("latency_seconds", "time_to_first_token_seconds", "quality_score"), NUMBERS),
        **dict.fromkeys(("input_tokens", "output_tokens", "total_tokens", "cache_read_input_tokens", "reasoning_output_tokens"), COUNTS),
        **dict.fromkeys(("input_cost", "output_cost", "total_cost"), MONEY),
        "cache_hit": st.none() | st.booleans(),
    },
)
PRICES = rules().prices


@settings(max_examples=150, deadline=None)
@given(st.lists(ANY_RUN, min_size=1, max_size=8))
def test_any_rows_end_up_stored_rejected_or_excluded_and_never_raise(rows: list[dict[str, Any]]) -> None:
    result = normalise_runs(batch(*[{"start_time": NOON, **row} for row in rows]), rules(store_payloads=True, prices=PRICES))
    assert result.rows.num_rows + len(result.rejects) == len(rows)
    for row in result.rows.to_pylist():
        assert row["run_id"]
        assert row["trace_id"]
        assert row["end_time"] is None or row["end_time"] >= row["start_time"]
        assert row["latency_seconds"] is None or 0 <= row["latency_seconds"] < math.inf
        waited = row["time_to_first_token_seconds"]
        assert waited is None or row["latency_seconds"] is None or 0 <= waited <= row["latency_seconds"]
        assert row["status"] in columns.STATUSES
        assert row["run_type"] in columns.RUN_TYPES
        assert (row["cost_source"] == "unpriced") == (row["total_cost"] is None)
        assert row["metadata"] is None or isinstance(orjson.loads(row["metadata"]), dict)
        if None not in (row["input_tokens"], row["output_tokens"]):
            assert row["total_tokens"] == row["input_tokens"] + row["output_tokens"]
        if row["input_tokens"] is not None:
            assert (row["cache_read_input_tokens"] or 0) <= row["input_tokens"]
        assert "\0" not in str(row)


def test_postgres_takes_all_that_is_accepted(database: str) -> None:
    ugly = ["a\0b", "\ud7ff\ue000", "tab\tnew\nline", 'q"uo,te\\', "\\N", "{}", "\U0001f600", "x" * 5_000, "\\u0000"]
    rows: list[dict[str, Any]] = [
        {
            "run_id": f"{number}{text[:900]}",
            "name": text,
            "error_message": text,
            "tags": [text, None],
            "metadata": text,
            "inputs": text,
            "outputs": "\0",
        }
        for number, text in enumerate(ugly)
    ]
    rows += [
        {"run_id": f"m{n}", "metadata": text}
        for n, text in enumerate(['{"a":"\\u0000"}', '{"a":1e400}', '{"\\ud800":1}', "[" * 5_000, '{"a":' * 99 + "1" + "}" * 99])
    ]
    result = normalise(*rows, store_payloads=True)
    assert not result.rejects
    connection = connect(database)
    try:
        with connection, connection.cursor() as cursor:
            merge = RunMerge(cursor, "files", None)
            merge.add(result.rows)
            assert merge.finish().inserted == len(rows)
    finally:
        connection.close()


# Speed --------------------------------------------------------------------------------------------------------------


def typical(count: int) -> pa.Table:
    """Model calls with 28 filled columns, a twentieth of them errors."""
    rng = random.Random(3)
    models = [("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5"), ("google", "gemini-2.5-pro"), ("openai", "o3")]
    rows = []
    for number in range(count):
        provider, model = models[number % 4]
        seconds = rng.lognormvariate(0, 1)
        start = NOON + timedelta(microseconds=rng.randrange(10**10))
        tokens = rng.randrange(10, 20_000)
        names = {
            "name": "ChatOpenAI",
            "agent_name": f"agent-{number % 12}",
            "agent_version": "1.4",
            "mode": "fast",
            "environment": "production",
        }
        people = {"tenant_id": f"tenant-{number % 50}", "user_id": f"user-{number % 5000}", "conversation_id": f"{rng.getrandbits(64):x}"}
        times = {"start_time": start, "end_time": start + timedelta(seconds=seconds), "time_to_first_token_seconds": seconds / 3}
        call = {"provider": provider, "request_model": model, "prompt_name": "support", "prompt_version": "7", "run_type": "llm"}
        counts = {"input_tokens": tokens, "output_tokens": 400, "cache_read_input_tokens": tokens // 2}
        outcome = {"status": "success", "cache_hit": False, "quality_score": rng.random(), "task_completed": True}
        if number % 20 == 0:
            message = f"429 too many requests for org-{number}, retry in 20 s"
            outcome |= {"status": "error", "error_type": "RateLimitError", "error_message": message}
        rest = {"tags": ["a", "b"], "metadata": f'{{"region":"eu","request":"{number:08x}"}}'}
        rows.append({"run_id": f"{rng.getrandbits(128):032x}", **names, **people, **times, **call, **counts, **outcome, **rest})
    return batch(*rows).rows


def test_speed(capsys: pytest.CaptureFixture[str]) -> None:
    table = typical(20_000)
    settled = rules(prices=PRICES)
    seconds = []
    for _ in range(4):  # the first looks prices up
        start = time.process_time()
        result = normalise_runs(Batch(Kind.RUNS, table), settled)
        seconds.append(time.process_time() - start)
    rate = table.num_rows / min(seconds)
    with capsys.disabled():
        print(f"\nnormalise: {rate:,.0f} runs a second on one core, {table.num_columns} columns filled, priced and redacted")
    assert (result.rows.num_rows, set(result.rows.column("cost_source").to_pylist())) == (20_000, {"computed"})
    assert rate >= 150_000
