"""OTLP/JSON: both conventions on real payloads, the wire's traps, metrics, and input that is no OTLP."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metamon_assets.traces.sources.base import Batch, Kind, SourceError, Window
from metamon_assets.traces.sources.otlp import AttributeNames, OtlpSource, parse_metrics, parse_traces

Row = dict[str, Any]
SEEN = datetime(2026, 8, 23, tzinfo=UTC)
TRACE, SPAN, PARENT = "0c088f36c3528a314cbbef035526b6ab", "16eb8f7be9213dbd", "129785cc90acc253"
START = 1_787_392_800_000_000_000  # 2026-08-22T10:00:00Z


def any_value(value: Any) -> Any:
    """A plain value as OTLP's AnyValue."""
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            return {"arrayValue": {"values": [any_value(item) for item in value]}}
        case dict():
            return {"kvlistValue": {"values": [{"key": key, "value": any_value(item)} for key, item in value.items()]}}
    return {"stringValue": value}


def attributes(values: dict[str, Any]) -> list[Any]:
    return [{"key": key, "value": any_value(value)} for key, value in values.items()]


def span(values: dict[str, Any] | None = None, **fields: Any) -> Row:
    return {
        "traceId": TRACE,
        "spanId": SPAN,
        "name": "call",
        "startTimeUnixNano": str(START),
        "endTimeUnixNano": str(START + 1_500_000_000),
        "attributes": attributes(values or {}),
        "status": {},
    } | fields


def request(*spans: Any, resource: dict[str, Any] | None = None) -> Row:
    scope = {"scope": {"name": "instrumentation", "version": "1"}, "spans": list(spans)}
    return {"resourceSpans": [{"resource": {"attributes": attributes(resource or {})}, "scopeSpans": [scope]}]}


def rows(batch: Batch) -> list[Row]:
    return [{name: value for name, value in row.items() if value is not None} for row in batch.rows.to_pylist()]


def one(values: dict[str, Any] | None = None, resource: dict[str, Any] | None = None, **fields: Any) -> Row:
    """The run that one span becomes."""
    batch = parse_traces(request(span(values, **fields), resource=resource), SEEN)
    assert batch.rejects == ()
    (row,) = rows(batch)
    return row


# Real payloads ---------------------------------------------------------------------------------------------

CALLS = [
    "test_chat",
    "test_chat_async_streaming",
    "test_chat_history_message_dict",
    "test_chat_history_message_pydantic",
    "test_chat_pydantic_based_tool_calls",
    "test_chat_reasoning",
    "test_chat_streaming_exception_during_consumption",
    "test_chat_streaming_memory_leak_prevention",
    "test_chat_streaming_not_consumed",
    "test_chat_streaming_partial_consumption",
    "test_chat_tool_calls",
    "test_chat_tools",
    "test_chat_tools_async_streaming",
    "test_chat_tools_streaming",
    "test_chat_with_messages_attributes",
    "test_chat_with_service_tier",
    "test_with_asyncio_run",
    "connection_error",
]
SAME = (
    "run_type",
    "status",
    "error_type",
    "error_message",
    "provider",
    "request_model",
    "response_model",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "reasoning_output_tokens",
    "agent_name",
    "agent_version",
    "environment",
    "project",
)


def wire_spans(path: Path) -> list[tuple[Row, Row]]:
    """Spans of a payload with their attributes as plain values, by the shortest way."""
    content = json.loads(path.read_text())
    found = [span for resource in content["resourceSpans"] for scope in resource["scopeSpans"] for span in scope["spans"]]
    return [(span, {item["key"]: next(iter(item["value"].values())) for item in span["attributes"]}) for span in found]


def parsed(path: Path) -> dict[str, Row]:
    batch = parse_traces(path.read_bytes(), SEEN, location=str(path))
    assert batch.rejects == ()
    return {row["run_id"]: row for row in rows(batch)}


def model_call(path: Path) -> Row:
    (row,) = [row for row in parsed(path).values() if row["run_type"] == "llm"]
    return row


@pytest.mark.parametrize("convention", ["genai", "openinference"])
@pytest.mark.parametrize("call", CALLS)
def test_a_recorded_call_keeps_what_its_payload_says(shared_data: Path, call: str, convention: str) -> None:
    path = shared_data / "otlp" / f"otlp_{convention}_{call}.json"
    found = parsed(path)
    wire = wire_spans(path)
    assert len(found) == len(wire)
    for their_span, theirs in wire:
        row = found[f"{their_span['traceId']}:{their_span['spanId']}"]
        parent = their_span.get("parentSpanId")
        assert row.get("parent_run_id") == (f"{their_span['traceId']}:{parent}" if parent else None)
        assert row["start_time"].timestamp() == pytest.approx(int(their_span["startTimeUnixNano"]) / 1e9, abs=2e-6)
        assert (row["end_time"] - row["start_time"]).total_seconds() == pytest.approx(
            (int(their_span["endTimeUnixNano"]) - int(their_span["startTimeUnixNano"])) / 1e9, abs=2e-6
        )
        assert row["status"] == ("error" if their_span["status"].get("code") == "STATUS_CODE_ERROR" else "success")
        if convention == "genai":
            names = {
                "input_tokens": "gen_ai.usage.input_tokens",
                "output_tokens": "gen_ai.usage.output_tokens",
                "total_tokens": "gen_ai.usage.total_tokens",
                "cache_read_input_tokens": "gen_ai.usage.cache_read.input_tokens",
                "reasoning_output_tokens": "gen_ai.usage.reasoning_tokens",
            }
            assert row.get("request_model") == theirs.get("gen_ai.request.model")
            assert row.get("response_model") == theirs.get("gen_ai.response.model")
            if "gen_ai.tool.definitions" in theirs:
                assert json.loads(row["inputs"])["messages"] == json.loads(theirs["gen_ai.input.messages"])
            else:
                assert row.get("inputs") == theirs.get("gen_ai.input.messages")
        else:
            names = {
                "input_tokens": "llm.token_count.prompt",
                "output_tokens": "llm.token_count.completion",
                "total_tokens": "llm.token_count.total",
                "cache_read_input_tokens": "llm.token_count.prompt_details.cache_read",
                "reasoning_output_tokens": "llm.token_count.completion_details.reasoning",
            }
            assert row.get("response_model") == theirs.get("llm.model_name")
        for column, name in names.items():
            assert row.get(column) == (int(theirs[name]) if name in theirs else None)
        assert row.get("conversation_id") == theirs.get("session.id")
        assert (row["project"], row["agent_name"], row["agent_version"], row["environment"]) == (
            "support-agent",
            "support-agent",
            "1.4.0",
            "production",
        )


@pytest.mark.parametrize("call", CALLS)
def test_both_instrumentations_of_a_call_say_the_same(shared_data: Path, call: str) -> None:
    genai, openinference = (
        model_call(shared_data / "otlp" / f"otlp_{convention}_{call}.json") for convention in ("genai", "openinference")
    )
    assert {name: genai.get(name) for name in SAME} == {name: openinference.get(name) for name in SAME}
    streamed = "streaming" in call
    assert ("input_tokens" in genai) == (not streamed and call != "connection_error")
    assert ("time_to_first_token_seconds" in genai, "time_to_first_token_seconds" in openinference) == (streamed, streamed)


def test_a_refused_connection_says_what_failed(shared_data: Path) -> None:
    row = model_call(shared_data / "otlp" / "otlp_openinference_connection_error.json")
    assert (row["status"], row["error_type"], row["error_message"]) == ("error", "APIConnectionError", "Connection error.")
    assert row.keys().isdisjoint({"input_tokens", "output_tokens", "total_tokens", "response_model", "total_cost"})
    (event,) = json.loads(row["metadata"])["events"]
    assert event["attributes"]["exception.type"] == "openai.APIConnectionError"
    assert event["attributes"]["exception.stacktrace"].startswith("Traceback")


def test_flattened_messages_keep_their_order(shared_data: Path) -> None:
    path = shared_data / "otlp" / "otlp_openinference_test_chat_tool_calls.json"
    (theirs,) = [theirs for _, theirs in wire_spans(path) if "openinference.span.kind" in theirs]
    messages = json.loads(model_call(path)["inputs"])["messages"]
    assert [message["message"]["role"] for message in messages] == [
        theirs[f"llm.input_messages.{place}.message.role"] for place in range(len(messages))
    ]
    assert len(messages) > 1


def test_a_folder_of_payloads_as_a_source(shared_data: Path) -> None:
    source = OtlpSource([shared_data / "otlp" / "otlp_*.json"], "default")
    (batch,) = source.read(Kind.RUNS, None)
    assert (batch.rows.num_rows, batch.rejects) == (70, ())
    assert len(set(batch.rows["run_id"].to_pylist())) == 70
    assert list(source.read(Kind.FEEDBACK, None)) == []
    assert set(batch.rows["source"].to_pylist()) == {"otlp"}


@pytest.mark.parametrize(
    "name", ["openinference_client_span_tool_calls", "otel_genai_client_span_tool_calls", "otel_genai_deprecated_client_span_tool_calls"]
)
def test_one_call_in_three_attribute_maps(shared_data: Path, name: str) -> None:
    theirs = json.loads((shared_data / "otlp" / "openinference" / f"{name}.json").read_text())
    row = one(theirs)
    assert (row["run_type"], row["provider"], row["request_model"], row["response_model"]) == ("llm", "openai", "gpt-4", "gpt-4-0613")
    assert (row["input_tokens"], row["output_tokens"]) == (97, 52)
    assert "Weather in Paris?" in row["inputs"]
    assert "rainy" in row["outputs"]


def test_a_tool_span_of_the_genai_conventions(shared_data: Path) -> None:
    row = one(json.loads((shared_data / "otlp" / "openinference" / "otel_genai_tool_execution_span.json").read_text()))
    assert (row["run_type"], row["tool_name"], row["inputs"]) == ("tool", "get_weather", '{"city": "New York"}')
    assert json.loads(row["outputs"])["status"] == "success"


def test_spans_of_the_vercel_ai_sdk(shared_data: Path) -> None:
    spans = json.loads((shared_data / "otlp" / "openinference" / "vercel_all-spans.json").read_text())
    for theirs in spans:
        given_attributes = theirs["attributes"]
        row = one(given_attributes)
        names = ("gen_ai.usage.input_tokens", "ai.usage.inputTokens", "ai.usage.promptTokens", "ai.usage.tokens")
        assert row.get("input_tokens") == next((given_attributes[name] for name in names if name in given_attributes), None)
        assert (row["run_type"] == "llm") == theirs["name"].endswith(("doGenerate", "doStream"))
        if row["run_type"] == "llm":
            assert row["provider"] == "openai"
            assert row["response_model"] == given_attributes["gen_ai.response.model"]


# The wire's traps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, "success"),
        ({"code": 0}, "success"),
        ({"code": 1}, "success"),
        ({"code": "STATUS_CODE_OK"}, "success"),
        ({"code": 2}, "error"),
        ({"code": "STATUS_CODE_ERROR", "message": "no"}, "error"),
        (None, "success"),
        ({"code": "STATUS_CODE_NEW"}, "success"),
    ],
)
def test_status_by_name_or_number(status: Any, expected: str) -> None:
    assert one(status=status)["status"] == expected


def test_a_span_without_an_end_is_pending() -> None:
    row = one(endTimeUnixNano="0")
    assert row["status"] == "pending"
    assert "end_time" not in row


def test_a_handled_exception_is_no_error() -> None:
    event = {
        "name": "exception",
        "timeUnixNano": START,
        "attributes": attributes({"exception.type": "ValueError", "exception.message": "x"}),
    }
    row = one(events=[event])
    assert row["status"] == "success"
    assert row.keys().isdisjoint({"error_type", "error_message"})
    failed = one(events=[event], status={"code": 2})
    assert (failed["error_type"], failed["error_message"]) == ("ValueError", "x")


def test_integers_may_be_numbers_or_texts_and_field_names_of_either_style() -> None:
    plain = {
        "trace_id": TRACE,
        "span_id": SPAN,
        "parent_span_id": PARENT,
        "name": "call",
        "start_time_unix_nano": START,
        "end_time_unix_nano": START + 10**9,
        "attributes": [{"key": "gen_ai.usage.input_tokens", "value": {"int_value": 5}}, {"key": "user.id", "value": {"string_value": "u"}}],
    }
    (row,) = rows(parse_traces({"resource_spans": [{"scope_spans": [{"spans": [plain]}]}]}, SEEN))
    assert (row["run_id"], row["parent_run_id"], row["input_tokens"], row["user_id"]) == (f"{TRACE}:{SPAN}", f"{TRACE}:{PARENT}", 5, "u")
    assert row["end_time"] == datetime(2026, 8, 22, 10, 0, 1, tzinfo=UTC)


def test_identifiers_in_base64_or_upper_case_are_the_same() -> None:
    encoded: Row = {
        key: base64.b64encode(bytes.fromhex(value)).decode()
        for key, value in (("traceId", TRACE), ("spanId", SPAN), ("parentSpanId", PARENT))
    }
    upper: Row = {"traceId": TRACE.upper(), "spanId": SPAN.upper(), "parentSpanId": PARENT.upper()}
    assert one(**encoded)["run_id"] == one(**upper)["run_id"] == f"{TRACE}:{SPAN}"
    assert one(**encoded)["parent_run_id"] == one(**upper)["parent_run_id"]
    assert "parent_run_id" not in one(parentSpanId="0000000000000000")


def test_every_kind_of_value_survives_in_metadata() -> None:
    values = {"text": "x", "flag": True, "number": 2**40, "ratio": 0.5, "list": ["a", 1], "nested": {"a": {"b": [1]}}}
    row = one(values | {"gen_ai.usage.input_tokens": 3})
    metadata = json.loads(row["metadata"])
    assert {name: metadata[name] for name in values} == values
    raw = [{"key": "blob", "value": {"bytesValue": "aGk="}}, {"key": "nothing", "value": {}}, {"key": "gone", "value": None}]
    metadata = json.loads(one(attributes=raw)["metadata"])
    assert metadata["blob"] == "aGk="
    assert metadata.keys().isdisjoint({"nothing", "gone"})


def test_long_values_and_many_of_them_are_shortened() -> None:
    row = one({"long": "x" * 10_000} | {f"key{number}": "y" * 4_000 for number in range(40)})
    metadata = json.loads(row["metadata"])
    assert len(row["metadata"]) < 70_000
    assert metadata["left_out"][0] == "long"
    assert json.loads(one({"long": "x" * 10_000})["metadata"])["long"].endswith("(10000 characters)")


# Columns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("input_tokens", "gen_ai.usage.input_tokens"),
        ("input_tokens", "gen_ai.usage.prompt_tokens"),
        ("output_tokens", "gen_ai.usage.completion_tokens"),
        ("cache_read_input_tokens", "gen_ai.usage.cache_read.input_tokens"),
        ("cache_read_input_tokens", "gen_ai.usage.cache_read_tokens"),
        ("cache_read_input_tokens", "gen_ai.usage.cache_read_input_tokens"),
        ("cache_read_input_tokens", "gen_ai.usage.input_tokens.cached"),
        ("cache_read_input_tokens", "llm.token_count.prompt_details.cache_read"),
        ("cache_creation_input_tokens", "gen_ai.usage.cache_creation.input_tokens"),
        ("cache_creation_input_tokens", "gen_ai.usage.cache_write_tokens"),
        ("cache_creation_input_tokens", "llm.token_count.prompt_details.cache_write"),
        ("reasoning_output_tokens", "gen_ai.usage.reasoning.output_tokens"),
        ("reasoning_output_tokens", "llm.token_count.completion_details.reasoning"),
        ("llm_calls", "metamon.llm_calls"),
    ],
)
def test_counts_under_every_name(column: str, name: str) -> None:
    assert one({name: 7})[column] == 7
    assert column not in one()


@pytest.mark.parametrize(
    ("values", "provider"),
    [
        ({"gen_ai.provider.name": "aws.bedrock"}, "aws.bedrock"),
        ({"gen_ai.system": "az.ai.openai"}, "azure.ai.openai"),
        ({"gen_ai.system": "openai.responses"}, "openai"),
        ({"llm.provider": "azure", "llm.system": "openai"}, "azure.ai.openai"),
        ({"llm.system": "vertexai"}, "gcp.vertex_ai"),
        ({"gen_ai.system": "Anthropic"}, "anthropic"),
    ],
)
def test_providers_in_opentelemetrys_present_names(values: dict[str, Any], provider: str) -> None:
    assert one(values)["provider"] == provider


@pytest.mark.parametrize(
    ("values", "run_type"),
    [
        ({"gen_ai.operation.name": "chat"}, "llm"),
        ({"gen_ai.operation.name": "invoke_agent"}, "agent"),
        ({"gen_ai.operation.name": "execute_tool"}, "tool"),
        ({"gen_ai.operation.name": "embeddings"}, "embedding"),
        ({"openinference.span.kind": "RETRIEVER"}, "retriever"),
        ({"openinference.span.kind": "GUARDRAIL"}, "guardrail"),
        ({"openinference.span.kind": "AGENT", "gen_ai.operation.name": "chat"}, "agent"),
        ({"traceloop.span.kind": "workflow"}, "workflow"),
        ({"ai.operationId": "ai.streamText.doStream"}, "llm"),
        ({"gen_ai.operation.name": "something new"}, "chain"),
        ({"gen_ai.tool.name": "search"}, "tool"),
        ({"metamon.run_type": "evaluator", "gen_ai.operation.name": "chat"}, "evaluator"),
        ({}, "chain"),
    ],
)
def test_run_types(values: dict[str, Any], run_type: str) -> None:
    assert one(values)["run_type"] == run_type


def test_costs_that_openinference_reports() -> None:
    row = one({"llm.cost.prompt": 0.0015, "llm.cost.completion": 0.002, "llm.cost.total": 0.0035})
    assert (row["input_cost"], row["output_cost"], row["total_cost"]) == (Decimal("0.0015"), Decimal("0.002"), Decimal("0.0035"))
    assert row["cost_source"] == "reported"
    assert "cost_source" not in one({"gen_ai.usage.input_tokens": 1})


def test_the_first_token_by_seconds_or_by_event() -> None:
    row = one({"gen_ai.response.time_to_first_chunk": 0.25})
    assert (row["time_to_first_token_seconds"], row["first_token_time"]) == (0.25, datetime(2026, 8, 22, 10, 0, 0, 250_000, tzinfo=UTC))
    chunks = [{"name": "gen_ai.content.completion.chunk", "timeUnixNano": str(START + delay)} for delay in (400_000_000, 300_000_000)]
    assert one(events=chunks)["time_to_first_token_seconds"] == 0.3


def test_the_service_is_project_and_agent_unless_the_span_names_them() -> None:
    resource = {"service.name": "shop", "service.version": "2.1", "deployment.environment": "staging", "host.name": "h1"}
    row = one(resource=resource)
    assert (row["project"], row["agent_name"], row["agent_version"], row["environment"]) == ("shop", "shop", "2.1", "staging")
    assert json.loads(row["metadata"])["resource"] == {"host.name": "h1"}
    named = one({"openinference.project.name": "p", "gen_ai.agent.name": "planner", "gen_ai.agent.version": "9"}, resource)
    assert (named["project"], named["agent_name"], named["agent_version"]) == ("p", "planner", "9")
    assert one(resource={"service.name": "unknown_service"})["project"] == "default"


def test_an_applications_own_attributes_go_first() -> None:
    names = AttributeNames.with_own({"tenant_id": "app.customer", "user_id": ["app.user", "user.id"]})
    payload = request(span({"app.customer": "acme", "tenant.id": "other", "user.id": "u", "metadata": '{"plan": "gold", "mode": "fast"}'}))
    (row,) = rows(parse_traces(payload, SEEN, names=names))
    assert (row["tenant_id"], row["user_id"], row["mode"]) == ("acme", "u", "fast")
    metadata = json.loads(row["metadata"])
    assert (metadata["tenant.id"], metadata["plan"]) == ("other", "gold")
    with pytest.raises(SourceError, match="tenant cannot be set"):
        AttributeNames.with_own({"tenant": "app.customer"})


def test_the_present_name_goes_before_the_old_one_in_any_order() -> None:
    for values in ({"gen_ai.system": "old", "gen_ai.provider.name": "new"}, {"gen_ai.provider.name": "new", "gen_ai.system": "old"}):
        row = one(values)
        assert row["provider"] == "new"
        assert "old" in row["metadata"]


def test_messages_from_events_and_documents_from_flattened_attributes() -> None:
    events = [
        {"name": "gen_ai.user.message", "timeUnixNano": START, "attributes": attributes({"content": "hi"})},
        {"name": "gen_ai.choice", "timeUnixNano": START, "attributes": attributes({"message": {"content": "hello"}})},
    ]
    row = one(events=events)
    assert json.loads(row["inputs"]) == [{"role": "user", "content": "hi"}]
    assert json.loads(row["outputs"])[0]["message"] == {"content": "hello"}
    found = one({f"retrieval.documents.{place}.document.id": f"d{place}" for place in (10, 2, 0)} | {"input.value": "question"})
    assert [document["document"]["id"] for document in json.loads(found["outputs"])] == ["d0", "d2", "d10"]
    assert found["inputs"] == "question"
    calls = one({f"llm.output_messages.0.message.tool_calls.{place}.tool_call.id": f"c{place}" for place in (10, 2, 0)})
    assert json.loads(calls["outputs"]) == [{"message": {"tool_calls": [{"tool_call": {"id": call}} for call in ("c0", "c2", "c10")]}}]


def test_tags_as_list_or_text() -> None:
    assert one({"tag.tags": ["a", "b"]})["tags"] == one({"tag.tags": '["a", "b"]'})["tags"] == ["a", "b"]


# Bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"traceId": None}, "missing_id"),
        ({"traceId": "0" * 32}, "missing_id"),
        ({"spanId": ""}, "missing_id"),
        ({"traceId": "xyz"}, "malformed_id"),
        ({"spanId": 12}, "malformed_id"),
        ({"startTimeUnixNano": None}, "missing_start_time"),
        ({"startTimeUnixNano": "soon"}, "wrong_type"),
        ({"endTimeUnixNano": "9" * 40}, "wrong_type"),
        ({"endTimeUnixNano": []}, "wrong_type"),
        ({"attributes": attributes({"gen_ai.usage.input_tokens": "many"})}, "wrong_type"),
        ({"attributes": attributes({"gen_ai.usage.input_tokens": 1.5})}, "wrong_type"),
        ({"attributes": attributes({"llm.cost.total": "free"})}, "wrong_type"),
    ],
)
def test_a_malformed_span_is_rejected_and_its_neighbour_arrives(fields: Row, reason: str) -> None:
    batch = parse_traces(request(span(**fields), span(spanId=PARENT)), SEEN, location="x.json:3")
    assert [row["run_id"] for row in rows(batch)] == [f"{TRACE}:{PARENT}"]
    (reject,) = batch.rejects
    assert (reject.reason, reject.location) == (reason, "x.json:3 resourceSpans[0].scopeSpans[0].spans[0]")
    assert reject.detail
    assert json.loads(reject.raw)["name"] == "call"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "malformed_json"),
        (b'{"a": "\xff"}', "malformed_json"),
        (b"[]", "not_otlp"),
        (b'{"spans": []}', "not_otlp"),
        (b'{"resourceSpans": 1}', "malformed_otlp"),
        (b'{"resourceSpans": [1]}', "malformed_otlp"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [null]}]}]}', "malformed_otlp"),
    ],
)
def test_what_is_no_otlp_is_rejected_whole(payload: bytes, reason: str) -> None:
    batch = parse_traces(payload, SEEN, location="x.json")
    assert batch.rows.num_rows == 0
    assert [reject.reason for reject in batch.rejects] == [reason]
    assert "x.json" in batch.rejects[0].location


def test_an_empty_request_is_no_error() -> None:
    payloads: list[Row] = [{}, {"resourceSpans": []}, {"resourceMetrics": []}]
    for payload in payloads:
        assert parse_traces(payload, SEEN).rejects == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [
        "gen_ai.usage.input_tokens",
        "llm.model_name",
        "llm.input_messages.0.message.role",
        "llm.input_messages.0",
        "metadata",
        "error.type",
        "tag.tags",
        "input.value",
        "gen_ai.response.time_to_first_chunk",
        "llm.cost.total",
        "gen_ai.provider.name",
        "llm.invocation_parameters",
        "x",
    ]
)
VALUES = st.dictionaries(
    st.sampled_from(["stringValue", "intValue", "doubleValue", "boolValue", "arrayValue", "kvlistValue", "bytesValue"]), JSON, max_size=2
)
ATTRIBUTES = st.lists(st.fixed_dictionaries({"key": NAMES, "value": VALUES | JSON}) | JSON, max_size=5) | JSON
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["exception", "gen_ai.choice", "First Token Stream Event", "y"]) | JSON,
            "timeUnixNano": JSON,
            "attributes": ATTRIBUTES,
        }
    )
    | JSON,
    max_size=3,
)
SPANS = st.builds(
    lambda base, changes: base | changes,
    st.just(span()),
    st.fixed_dictionaries(
        {},
        optional={
            "traceId": JSON,
            "name": JSON,
            "startTimeUnixNano": JSON,
            "attributes": ATTRIBUTES,
            "events": EVENTS | JSON,
            "status": JSON,
            "kind": JSON,
            "links": JSON,
        },
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(SPANS | JSON, max_size=3), st.dictionaries(NAMES | st.just("service.name"), JSON, max_size=3))
def test_any_spans_are_runs_or_rejects(spans: list[Any], resource: dict[str, Any]) -> None:
    payload = request(*spans)
    payload["resourceSpans"][0]["resource"] = {"attributes": resource}
    batch = parse_traces(json.dumps(payload).encode(), SEEN)
    assert batch.rows.num_rows + len(batch.rejects) == len(spans)
    for name in ("metadata",):
        if name in batch.rows.column_names:
            assert all(isinstance(json.loads(value), dict) for value in batch.rows[name].to_pylist() if value is not None)


@settings(max_examples=100, deadline=None)
@given(
    JSON
    | st.fixed_dictionaries({"resourceSpans": JSON})
    | st.fixed_dictionaries({"resourceMetrics": st.lists(st.fixed_dictionaries({"scopeMetrics": JSON}))})
)
def test_any_document_is_taken_without_an_exception(document: Any) -> None:
    for parse in (parse_traces, parse_metrics):
        batch = parse(json.dumps(document).encode(), SEEN)
        assert batch.rows.num_rows == 0


# Files -----------------------------------------------------------------------------------------------------


def test_one_request_per_line_as_the_collector_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    lines = [json.dumps(request(span())).encode(), b'{"resourceSpans": [', json.dumps(request(span(spanId=PARENT))).encode()]
    path.write_bytes(b"\n".join(lines) + b"\n")
    (batch,) = OtlpSource([path], "p").read(Kind.RUNS, None)
    assert [row["project"] for row in rows(batch)] == ["p", "p"]
    assert batch.row_locations == tuple(f"{path}:{line} resourceSpans[0].scopeSpans[0].spans[0]" for line in (1, 3))
    assert [(reject.reason, reject.location) for reject in batch.rejects] == [("malformed_json", f"{path}:2")]


def test_one_document_per_file_plain_or_compressed(tmp_path: Path) -> None:
    text = json.dumps(request(span()), indent=1).encode()
    (tmp_path / "a.json").write_bytes(text)
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(json.dumps(request(span(spanId=PARENT)), indent=1).encode()))
    (tmp_path / "c.json").write_bytes(text[:-20])
    (tmp_path / "d.json").write_bytes(b"")
    (batch,) = OtlpSource([tmp_path], "p").read(Kind.RUNS, None)
    assert batch.rows.num_rows == 2
    assert [(reject.reason, reject.location) for reject in batch.rejects] == [("malformed_json", f"{tmp_path}/c.json")]


def test_a_document_beyond_the_limit_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(request(*[span()] * 20), indent=1))
    with pytest.raises(SourceError, match="write a request per line"):
        list(OtlpSource([tmp_path], "p", max_document_bytes=1_000).read(Kind.RUNS, None))


def test_dated_files_beyond_the_window_are_not_opened(tmp_path: Path) -> None:
    for day in (1, 22):
        (tmp_path / f"2026-08-{day:02}.json").write_text(json.dumps(request(span())))
    window = Window(datetime(2026, 8, 22, tzinfo=UTC), datetime(2026, 8, 23, tzinfo=UTC))
    (batch,) = OtlpSource([tmp_path], "p").read(Kind.RUNS, window)
    assert batch.rows.num_rows == 1


def test_unchanged_files_of_other_days_are_not_opened_again(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(request(span())))
    source = OtlpSource([tmp_path], "p")
    assert len(list(source.read(Kind.RUNS, None))) == 1
    catalogue = {(entry.path, entry.kind): entry for entry in source.catalogue_entries()}
    september = Window(datetime(2026, 9, 22, tzinfo=UTC), datetime(2026, 9, 23, tzinfo=UTC))
    assert list(OtlpSource([tmp_path], "p", catalogue=catalogue).read(Kind.RUNS, september)) == []
    assert len(list(OtlpSource([tmp_path], "p").read(Kind.RUNS, september))) == 1


# Metrics ---------------------------------------------------------------------------------------------------


def metrics(*given_metrics: Any) -> Row:
    resource = {"attributes": attributes({"service.name": "shop", "service.instance.id": "i1"})}
    return {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"scope": {"name": "m"}, "metrics": list(given_metrics)}]}]}


def point(**fields: Any) -> Row:
    return {"timeUnixNano": str(START), "attributes": attributes({"cache": "answers", "shard": 3})} | fields


def test_levels_increases_and_running_totals() -> None:
    payload = metrics(
        {"name": "cache_size", "unit": "By", "gauge": {"dataPoints": [point(asInt="2048"), point(asDouble=1.5)]}},
        {"name": "cache_hits", "sum": {"aggregationTemporality": 1, "isMonotonic": True, "dataPoints": [point(asInt=7)]}},
        {"name": "requests", "sum": {"aggregationTemporality": "AGGREGATION_TEMPORALITY_CUMULATIVE", "dataPoints": [point(asInt="100")]}},
    )
    batch = parse_metrics(payload, SEEN)
    assert batch.rejects == ()
    size, ratio, hits, total = rows(batch)
    assert (size["name"], size["value"], size["unit"], size["kind"], size["project"]) == ("cache_size", 2048.0, "By", "gauge", "shop")
    assert size["labels"] == '{"cache":"answers","service.instance.id":"i1","shard":"3"}'
    assert size["time"] == datetime(2026, 8, 22, 10, tzinfo=UTC)
    assert (ratio["value"], hits["kind"], hits["value"]) == (1.5, "counter", 7.0)
    assert (total["kind"], json.loads(total["labels"])["temporality"]) == ("gauge", "cumulative")


def test_histograms_and_summaries_give_count_and_sum() -> None:
    histogram = {"aggregationTemporality": 1, "dataPoints": [point(count="4", sum=2.5, bucketCounts=["1", "3"], explicitBounds=[1])]}
    quantiles = [{"quantile": 0.5, "value": 0.2}, {"quantile": 0.99, "value": 0.9}]
    summary = {"dataPoints": [point(count=4, sum=2.5, quantileValues=quantiles)]}
    found = rows(parse_metrics(metrics({"name": "wait", "unit": "s", "histogram": histogram}, {"name": "size", "summary": summary}), SEEN))
    assert [(row["name"], row["value"], row["kind"]) for row in found] == [
        ("wait.count", 4.0, "counter"),
        ("wait.sum", 2.5, "counter"),
        ("size.count", 4.0, "gauge"),
        ("size.sum", 2.5, "gauge"),
        ("size", 0.2, "gauge"),
        ("size", 0.9, "gauge"),
    ]
    assert [row.get("unit") for row in found[:2]] == ["1", "s"]
    assert [json.loads(row["labels"]).get("quantile") for row in found[4:]] == ["0.5", "0.99"]


def test_bad_points_are_rejected_and_absent_ones_passed_over() -> None:
    points = [
        point(asDouble="NaN"),
        point(asInt="many"),
        point(),
        point(asInt=1, timeUnixNano=None),
        point(asInt=1, flags=1),
        point(asInt=5),
    ]
    batch = parse_metrics(
        metrics({"name": "queue", "gauge": {"dataPoints": points}}, {"name": "", "gauge": {}}, {"name": "odd"}), SEEN, location="m.json"
    )
    assert [row["value"] for row in rows(batch)] == [5.0]
    assert [reject.reason for reject in batch.rejects] == [
        "wrong_type",
        "wrong_type",
        "wrong_type",
        "missing_time",
        "missing_id",
        "malformed_otlp",
    ]
    assert batch.rejects[1].location == "m.json resourceMetrics[0].scopeMetrics[0].metrics[0].dataPoints[1]"
    assert all(reject.kind is Kind.GAUGES for reject in batch.rejects)


def test_metrics_of_a_file_are_gauges(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(
        json.dumps(metrics({"name": "queue", "gauge": {"dataPoints": [point(asInt=1)]}})) + "\n" + json.dumps(request(span()))
    )
    source = OtlpSource([tmp_path], "p")
    (gauges,) = source.read(Kind.GAUGES, None)
    (runs,) = source.read(Kind.RUNS, None)
    assert (gauges.rows.num_rows, runs.rows.num_rows) == (1, 1)
