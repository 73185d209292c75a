"""OTLP's binary encoding, brought into the shape of OTLP/JSON that ``otlp`` reads.

Here belongs the walk over protobuf messages and nothing that gives them a meaning. Attributes become plain objects
and identifiers hexadecimal at once, both of which ``otlp`` takes as well; what it does not use is left out.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from metamon_assets.traces.sources.base import SourceError
from metamon_assets.traces.sources.conversion import json_text

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

_NESTING = 32
# Two bytes make a message that takes hundreds once it is read, so that bytes alone bound no memory.
MOST_ROWS = 50_000  # spans or metrics of a request, with the resources and scopes that hold them
MOST_PARTS = 1_000_000  # attributes, events, links or points of a request


def traces_document(body: bytes) -> dict[str, Any]:
    """An ExportTraceServiceRequest. Raises SourceError when the bytes are none."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = _decoded(ExportTraceServiceRequest, body)
    spans = (span for of_resource in request.resource_spans for of_scope in of_resource.scope_spans for span in of_scope.spans)
    _check_parts(len(span.attributes) + len(span.events) + len(span.links) for span in spans)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(of_resource.resource.attributes)},
                "scopeSpans": [
                    {"scope": _scope(of_scope.scope), "spans": [_span(span) for span in of_scope.spans]}
                    for of_scope in of_resource.scope_spans
                ],
            }
            for of_resource in request.resource_spans
        ]
    }


def metrics_document(body: bytes) -> dict[str, Any]:
    """An ExportMetricsServiceRequest. Raises SourceError when the bytes are none."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    request = _decoded(ExportMetricsServiceRequest, body)
    metrics = (metric for of_resource in request.resource_metrics for of_scope in of_resource.scope_metrics for metric in of_scope.metrics)
    _check_parts(len(getattr(metric, kind).data_points) for metric in metrics if (kind := metric.WhichOneof("data")) is not None)
    return {
        "resourceMetrics": [
            {
                "resource": {"attributes": _attributes(of_resource.resource.attributes)},
                "scopeMetrics": [{"metrics": [_metric(metric) for metric in of_scope.metrics]} for of_scope in of_resource.scope_metrics],
            }
            for of_resource in request.resource_metrics
        ]
    }


def too_many(what: str, most: int) -> SourceError:
    """What is said of a request that would take too much memory to read."""
    return SourceError(f"the request has more than {most:,} {what}: send less at a time")


def _check_parts(numbers: Iterable[int]) -> None:
    if sum(numbers) > MOST_PARTS:
        raise too_many("attributes, events, links or points", MOST_PARTS)


def _rows(body: memoryview, depth: int = 3) -> Iterator[None]:
    """One for each resource, scope, and span or metric, found without reading it. Ends early where the bytes are no protobuf."""
    place = 0
    with contextlib.suppress(IndexError):  # cut off: the parser says so
        while place < len(body):
            key, place = _varint(body, place)
            wire_type = key & 7
            if wire_type == 2:  # bytes, text and messages
                size, place = _varint(body, place)
                if key >> 3 == (1 if depth == 3 else 2):  # resource_…; scope_…; spans, metrics
                    yield
                    if depth > 1:
                        yield from _rows(body[place : place + size], depth - 1)
                place += size
            elif wire_type == 0:
                _, place = _varint(body, place)
            elif wire_type in (1, 5):
                place += 8 if wire_type == 1 else 4
            else:
                return


def _varint(body: memoryview, place: int) -> tuple[int, int]:
    """A number and the place after it. Raises IndexError at the end of the bytes."""
    number = shift = 0
    while True:
        byte = body[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80 or shift > 63:
            return number, place


def _decoded(message: Any, body: bytes) -> Any:
    if sum(1 for _ in itertools.islice(_rows(memoryview(body)), MOST_ROWS + 1)) > MOST_ROWS:
        raise too_many("spans or metrics", MOST_ROWS)
    try:
        return message.FromString(body)
    except DecodeError:
        raise SourceError(f"the body is no {message.DESCRIPTOR.full_name} in protobuf; check the exporter's protocol and path") from None


# Values ----------------------------------------------------------------------------------------------------


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _plain(pair.value) for pair in pairs}


def _plain(value: AnyValue, depth: int = 0) -> Any:
    """A value without its wrapping; bytes in base64, as OTLP/JSON has them."""
    kind = value.WhichOneof("value")
    if kind == "string_value":  # by far the most frequent
        return value.string_value
    if kind is None:
        return None
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    if depth > _NESTING:
        from google.protobuf.json_format import MessageToDict

        return json_text(MessageToDict(value))
    if kind == "array_value":
        return [_plain(item, depth + 1) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: _plain(pair.value, depth + 1) for pair in value.kvlist_value.values}
    return getattr(value, kind)


def _scope(scope: InstrumentationScope) -> dict[str, str]:
    return {name: text for name, text in (("name", scope.name), ("version", scope.version)) if text}


# Spans -----------------------------------------------------------------------------------------------------


def _span(span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {
        "traceId": span.trace_id.hex(),
        "spanId": span.span_id.hex(),
        "parentSpanId": span.parent_span_id.hex(),
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": span.start_time_unix_nano,
        "endTimeUnixNano": span.end_time_unix_nano,
        "attributes": _attributes(span.attributes),
    }
    if span.HasField("status"):
        found["status"] = {"code": span.status.code, "message": span.status.message}
    if span.events:
        found["events"] = [
            {"name": event.name, "timeUnixNano": event.time_unix_nano, "attributes": _attributes(event.attributes)} for event in span.events
        ]
    if span.links:
        found["links"] = [
            {"traceId": link.trace_id.hex(), "spanId": link.span_id.hex(), "attributes": _attributes(link.attributes)}
            for link in span.links
        ]
    if span.trace_state:
        found["traceState"] = span.trace_state
    return found


# Metrics ---------------------------------------------------------------------------------------------------

_SHAPES = {
    "gauge": "gauge",
    "sum": "sum",
    "histogram": "histogram",
    "exponential_histogram": "exponentialHistogram",
    "summary": "summary",
}


def _metric(metric: Metric) -> dict[str, Any]:
    found: dict[str, Any] = {"name": metric.name, "unit": metric.unit}
    kind = metric.WhichOneof("data")
    if kind is not None:
        data = getattr(metric, kind)
        found[_SHAPES[kind]] = {
            "aggregationTemporality": getattr(data, "aggregation_temporality", None),
            "dataPoints": [_point(kind, point) for point in data.data_points],
        }
    return found


def _point(kind: str, point: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "timeUnixNano": point.time_unix_nano,
        "flags": point.flags,
        "attributes": _attributes(point.attributes),
    }
    if kind in ("gauge", "sum"):
        value = point.WhichOneof("value")
        if value is not None:
            found["asInt" if value == "as_int" else "asDouble"] = getattr(point, value)
        return found
    found["count"] = point.count
    if kind == "summary" or point.HasField("sum"):
        found["sum"] = point.sum
    if kind == "summary":
        found["quantileValues"] = [{"quantile": item.quantile, "value": item.value} for item in point.quantile_values]
    return found
