"""OTLP in protobuf: the same rows as the same request in JSON, on recorded payloads and on what each field may hold."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson, ParseDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from metamon_assets.traces.sources.base import Batch, SourceError
from metamon_assets.traces.sources.otlp import parse_metrics, parse_traces
from metamon_assets.traces.sources.otlp_protobuf import metrics_document, traces_document
from metamon_assets_tests.traces.sources.test_otlp import attributes, request, span

SEEN = datetime(2026, 8, 23, tzinfo=UTC)
LINK = {"traceId": "0c088f36c3528a314cbbef035526b6ac", "spanId": "16eb8f7be9213dbe", "attributes": attributes({"why": "retry"})}


def message(document: Any, kind: Any = ExportTraceServiceRequest) -> Any:
    """The request as a message; OTLP/JSON has identifiers in hexadecimal where protobuf's own JSON has base64."""

    def with_base64(node: Any) -> Any:
        if isinstance(node, list):
            return [with_base64(item) for item in node]
        if not isinstance(node, dict):
            return node
        return {
            key: base64.b64encode(bytes.fromhex(item)).decode() if key in ("traceId", "spanId", "parentSpanId") else with_base64(item)
            for key, item in node.items()
        }

    return ParseDict(with_base64(document), kind())


def said(batch: Batch) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]], tuple[str, ...] | None]:
    """Everything that a batch tells; metadata by its meaning, since the order of attributes has none."""
    rows = batch.rows.to_pylist()
    for row in rows:
        row.update({name: json.loads(row[name]) for name in ("metadata", "labels") if row.get(name)})
    return rows, [(reject.reason, reject.detail, reject.location) for reject in batch.rejects], batch.row_locations


def test_each_recorded_payload_gives_the_same_rows_in_both_encodings(shared_data: Path) -> None:
    seen = 0
    for path in sorted((shared_data / "otlp").glob("otlp_*.json")):
        document = json.loads(path.read_text())
        in_protobuf = parse_traces(traces_document(message(document).SerializeToString()), SEEN, project="p")
        assert in_protobuf.rows.num_rows
        assert said(in_protobuf) == said(parse_traces(document, SEEN, project="p")), path.name
        seen += in_protobuf.rows.num_rows
    assert seen >= 34


@pytest.mark.parametrize(
    "fields",
    [
        {"links": [LINK]},
        {"traceState": "a=b", "kind": "SPAN_KIND_CLIENT", "flags": 1},
        {"status": {"code": "STATUS_CODE_ERROR", "message": "no"}},
        {"events": [{"name": "exception", "timeUnixNano": "1787392800000000001", "attributes": attributes({"exception.type": "a.B"})}]},
        {"parentSpanId": "129785cc90acc253"},
        {"endTimeUnixNano": "0"},
        {"attributes": [{"key": "raw", "value": {"bytesValue": "AAEC"}}, {"key": "none", "value": {}}]},
        {"startTimeUnixNano": "0"},  # rejected alike
        {"spanId": "0000000000000000"},
    ],
)
def test_each_field_of_a_span_means_the_same_in_both_encodings(fields: dict[str, Any]) -> None:
    values = {"a": "text", "b": True, "c": 2**60, "d": 0.25, "list": [1, "x", [2]], "map": {"k": {"l": [1]}}, "ai.usage.tokens": 7}
    document = request(span(values, **fields) if "attributes" not in fields else span(**fields), resource={"service.name": "shop"})
    encoded = message(document)
    expected = said(parse_traces(MessageToJson(encoded), SEEN))
    assert said(parse_traces(document, SEEN)) == expected
    assert said(parse_traces(traces_document(encoded.SerializeToString()), SEEN)) == expected


def test_every_shape_of_metric_gives_the_same_samples_in_both_encodings() -> None:
    point = {"timeUnixNano": "1787392800000000000", "attributes": attributes({"cache": "answers"})}
    delta = {"aggregationTemporality": "AGGREGATION_TEMPORALITY_DELTA"}
    metrics = [
        {"name": "size", "unit": "1", "gauge": {"dataPoints": [point | {"asInt": "12"}, point | {"asDouble": 0.5}]}},
        {"name": "size", "unit": "1", "gauge": {"dataPoints": [point | {"asInt": "0"}]}},
        {"name": "empty", "gauge": {"dataPoints": [point | {"flags": 1}, point]}},  # no value recorded; a point without one
        {"name": "hits", "sum": delta | {"isMonotonic": True, "dataPoints": [point | {"asInt": "3"}]}},
        {"name": "all", "sum": {"aggregationTemporality": 2, "dataPoints": [point | {"asDouble": 3.5}]}},
        {"name": "wait", "histogram": delta | {"dataPoints": [point | {"count": "4", "sum": 2.5}, point | {"count": "0"}]}},
        {"name": "waits", "exponentialHistogram": delta | {"dataPoints": [point | {"count": "4", "sum": 0.0, "scale": 1}]}},
        {"name": "old", "summary": {"dataPoints": [point | {"count": "4", "quantileValues": [{"quantile": 0.5, "value": 1.5}, {}]}]}},
        {"name": "nothing"},
        {"name": "", "gauge": {"dataPoints": []}},
    ]
    resource = {"attributes": attributes({"service.name": "shop", "service.instance.id": "1"})}
    encoded = message({"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": metrics}]}]}, ExportMetricsServiceRequest)
    rows, rejects, places = said(parse_metrics(metrics_document(encoded.SerializeToString()), SEEN))
    assert (rows, rejects, places) == said(parse_metrics(MessageToJson(encoded), SEEN))
    assert [(row["name"], row["value"], row["kind"]) for row in rows] == [
        ("size", 12, "gauge"),
        ("size", 0.5, "gauge"),
        ("size", 0, "gauge"),
        ("hits", 3, "counter"),
        ("all", 3.5, "gauge"),
        ("wait.count", 4, "counter"),
        ("wait.sum", 2.5, "counter"),
        ("wait.count", 0, "counter"),
        ("waits.count", 4, "counter"),
        ("waits.sum", 0, "counter"),
        ("old.count", 4, "gauge"),
        ("old.sum", 0, "gauge"),
        ("old", 1.5, "gauge"),
        ("old", 0, "gauge"),
    ]
    assert [reason for reason, _, _ in rejects] == ["wrong_type", "malformed_otlp", "missing_id"]


def test_an_identifier_of_the_wrong_length_is_rejected_with_its_digits() -> None:
    encoded = message(request(span()))
    encoded.resource_spans[0].scope_spans[0].spans[0].span_id = b"\x01\x02"
    (reject,) = parse_traces(traces_document(encoded.SerializeToString()), SEEN).rejects
    assert reject.reason == "malformed_id"
    assert "'0102'" in reject.detail


def test_bytes_that_are_no_request_say_so() -> None:
    with pytest.raises(SourceError, match=r"ExportTraceServiceRequest in protobuf; check the exporter"):
        traces_document(b'{"resourceSpans": []}')
    with pytest.raises(SourceError, match=r"ExportMetricsServiceRequest"):
        metrics_document(b"\xff\xff")


def test_an_empty_request_is_an_empty_batch() -> None:
    assert parse_traces(traces_document(b""), SEEN).rows.num_rows == 0
    assert parse_metrics(metrics_document(b""), SEEN).rows.num_rows == 0
