"""OpenTelemetry's OTLP as a source: spans become runs, metrics become gauges (IN-3, IN-14).

Here belongs what a request means: resources, scopes, spans, attributes, data points, as objects in the shape of
OTLP/JSON. ``otlp_protobuf`` brings the binary encoding into that shape; ``conventions`` holds the attribute names.
``parse_traces`` and ``parse_metrics`` take one request; a receiver of many small ones collects each with
``collect_traces`` or ``collect_metrics`` and makes one batch of them (``batch_of``), since a batch has a fixed cost.

Identifiers: ``run_id`` is "trace:span", both hexadecimal; a project is the span's ``openinference.project.name``,
else the resource's ``service.name``, else the configured one. Every unified column can also be set by an attribute
``metamon.<column>``. Attributes that are no column and no payload are kept in metadata, shortened past 4,096
characters each and 64 kB in all. What a span does not say is NULL: a streamed call without usage has no tokens,
and a root does not carry those of its trace.

Metrics: a gauge, and a cumulative sum, is a level (kind gauge; the latter labelled temporality=cumulative, since its
increase is known only together with the sample before); a delta sum is an increase (kind counter). Histograms and
summaries give NAME.count and NAME.sum in the same way, and quantiles as gauges; their buckets are not kept.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from metamon_assets.traces import columns
from metamon_assets.traces.sources import reading
from metamon_assets.traces.sources.base import Batch, Holding, Kind, Reject, SourceCount, SourceError, Window
from metamon_assets.traces.sources.catalogue import Catalogue, CatalogueEntry, Entries, gathered
from metamon_assets.traces.sources.conventions import (
    CHUNK_EVENTS,
    DETAIL_EVENTS,
    FIRST_TOKEN_EVENTS,
    FLATTENED,
    MESSAGE_EVENTS,
    NAMES,
    PAYLOADS,
    PROVIDERS,
    RUN_TYPES,
)
from metamon_assets.traces.sources.conversion import json_text, shown, to_table
from metamon_assets.traces.sources.reading import SourceFile

SUFFIXES = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz")
MAX_DOCUMENT_BYTES = 256 * 1024 * 1024
SOURCE = "otlp"

_VALUE_KEPT = 4_096  # characters of one attribute in metadata
_METADATA_KEPT = 65_536  # characters of all of them
_EVENTS_KEPT = 32
_NESTING = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEX = re.compile(r"[0-9a-fA-F]+")
_FLAT = re.compile("(" + "|".join(re.escape(name) for name in sorted(FLATTENED, key=len, reverse=True)) + r")\.(\d+)(?:\.(.+))?")
_FROM_THE_SPAN = {"run_id", "trace_id", "parent_run_id", "start_time", "end_time", "inputs", "outputs", "metadata"}
_RUN_COLUMNS = frozenset(columns.RUNS.names) - _FROM_THE_SPAN - {"source", "observed_time", "time_declared"}
_REQUEST_KEYS = frozenset({"resourceSpans", "resourceMetrics", "resourceLogs", "resource_spans", "resource_metrics", "resource_logs"})
_METRIC_SHAPES = ("gauge", "sum", "histogram", "exponentialHistogram", "summary")
_NO_RECORDED_VALUE = 1  # data point flag


class _MalformedError(ValueError):
    """A span or data point that cannot be read: a reason code, and what is wrong with how to mend it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class AttributeNames:
    """Which attribute fills which column: the conventions, with an application's own names before them."""

    index: Mapping[str, tuple[str, int]]  # attribute name to column and rank

    @classmethod
    def with_own(cls, given: Mapping[str, str | Sequence[str]] | None = None) -> AttributeNames:
        """Names for a configured map such as ``{"tenant_id": "app.customer"}``. Raises SourceError for unknown columns."""
        own = {column: (names,) if isinstance(names, str) else tuple(names) for column, names in (given or {}).items()}
        unknown = sorted(own.keys() - _RUN_COLUMNS)
        if unknown:
            raise SourceError(f"attributes: {', '.join(unknown)} cannot be set; use columns among {', '.join(sorted(_RUN_COLUMNS))}")
        index: dict[str, tuple[str, int]] = {}
        for column in sorted(_RUN_COLUMNS):
            for rank, name in enumerate((*own.get(column, ()), f"metamon.{column}", *NAMES.get(column, ()))):
                if name not in index or name in own.get(column, ()):
                    index[name] = (column, rank)
        return cls(index)


DEFAULT_NAMES = AttributeNames.with_own()


@dataclass(slots=True)
class OtlpSource:
    """OTLP/JSON files: a request per file, or one per line as the collector's file exporter writes them.

    ``project`` is for what comes without a service name. ``attributes`` names an application's own attributes for
    columns, such as ``{"tenant_id": "app.customer"}``; of several the first that is there counts. ``catalogue``: entries
    of earlier readings by (path, kind), so that unchanged files which cannot hold a window are not opened.
    """

    paths: Sequence[str | Path]
    project: str
    attributes: Mapping[str, str | Sequence[str]] | None = None
    catalogue: Entries = field(default_factory=dict)
    max_line_bytes: int = reading.MAX_LINE_BYTES
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    name: str = SOURCE
    _names: AttributeNames = field(init=False, repr=False)
    _files: Catalogue = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.paths, (str, Path)):
            self.paths = [self.paths]
        self._names = AttributeNames.with_own(self.attributes)
        self._files = Catalogue(self.catalogue)

    def read(self, kind: Kind, window: Window | None) -> Iterator[Batch]:
        """Batches of runs or gauges from every file that may hold some of the window (None: from every file).

        Raises SourceError for a path that is missing or a file that cannot be read.
        """
        if kind not in (Kind.RUNS, Kind.GAUGES):
            return
        files = (file for file in reading.find_files(self.paths, SUFFIXES) if self._files.may_hold(file, kind, window))
        yield from gathered(batch for file in files for batch in self._files.noting(file, kind, self._batches(file, kind)))

    def changed(self, since: datetime) -> set[Kind]:
        """Kinds that files written at or after ``since`` were not read for since. Raises SourceError."""
        return {kind for kind in (Kind.RUNS, Kind.GAUGES) if any(self._changed_files(kind, since))}

    def read_changes(self, kind: Kind, since: datetime) -> Iterator[Batch]:
        """Batches from those files, whatever times their rows have."""
        files = self._changed_files(kind, since)
        yield from gathered(batch for file in files for batch in self._files.noting(file, kind, self._batches(file, kind)))

    def _changed_files(self, kind: Kind, since: datetime) -> Iterator[SourceFile]:
        return (file for file in reading.find_files(self.paths, SUFFIXES) if self._files.changed(file, kind, since))

    def count(self, window: Window) -> SourceCount:
        """Files keep no count of their own."""
        return SourceCount()

    def holdings(self) -> Iterator[Holding]:
        """Which days each file has runs for; a file that tells neither by its name nor by the catalogue is read."""
        for file in reading.find_files(self.paths, SUFFIXES):
            if found := self._files.holding(file, Kind.RUNS, partial(self._batches, file, Kind.RUNS)):
                yield found

    def catalogue_entries(self) -> list[CatalogueEntry]:
        """One entry for each file that was read to its end since this source was made."""
        return list(self._files.read.values())

    def _batches(self, file: SourceFile, kind: Kind) -> Iterator[Batch]:
        for location, document in self._documents(file, kind):
            if isinstance(document, Reject):
                yield Batch(kind, pa.table({}), (document,), str(file.path), ())
            elif kind is Kind.RUNS:
                yield parse_traces(document, file.modified, project=self.project, location=location, names=self._names, source=self.name)
            else:
                yield parse_metrics(document, file.modified, project=self.project, location=location, source=self.name)

    def _documents(self, file: SourceFile, kind: Kind) -> Iterator[tuple[str, bytes | Reject]]:
        """The requests of a file: one per line when its first line is one, else the whole file."""
        whole: list[bytes] | None = None
        size, decided = 0, False
        for chunk in reading.read_lines(file.path, self.max_line_bytes):
            if chunk.fault is not None:
                detail = reading.advice(chunk.fault, self.max_line_bytes)
                yield "", Reject(kind, chunk.fault, detail, f"{file.path}:{chunk.first}", chunk.lines[0].decode(errors="replace"))
                if whole is not None:
                    return  # what is left of the document cannot be read
                continue
            for number, line in enumerate(chunk.lines, chunk.first):
                if not decided and line.strip():
                    decided = True
                    whole = None if _is_json(line) else []
                if whole is not None:
                    size += len(line) + 1
                    if size > self.max_document_bytes:
                        raise SourceError(f"{file.path}: is a document of over {self.max_document_bytes} bytes; write a request per line")
                    whole.append(line)
                elif line.strip():
                    yield f"{file.path}:{number}", line
        if whole:
            yield str(file.path), b"\n".join(whole)


def parse_traces(
    payload: Mapping[str, Any] | bytes | str,
    observed_time: datetime,
    *,
    project: str = "default",
    location: str = "",
    names: AttributeNames = DEFAULT_NAMES,
    source: str = SOURCE,
) -> Batch:
    """Runs of one ExportTraceServiceRequest in OTLP/JSON; spans that cannot be read are the batch's rejects.

    ``project`` is for resources without a service name. Never raises for bad content.
    """
    return batch_of([collect_traces(payload, project=project, location=location, names=names)], source, observed_time)


def collect_traces(
    payload: Mapping[str, Any] | bytes | str, *, project: str = "default", location: str = "", names: AttributeNames = DEFAULT_NAMES
) -> Collected:
    """The runs of one request as they stand on the wire, not yet in columns. Never raises for bad content."""
    collected = Collected(Kind.RUNS, location)
    for place, span, resource, scope in _spans(collected.document(payload), collected):
        try:
            collected.add(_run(span, resource, scope, names, project), place, span)
        except _MalformedError as error:
            collected.reject(error.reason, str(error), place, span)
    return collected


def parse_metrics(
    payload: Mapping[str, Any] | bytes | str,
    observed_time: datetime,
    *,
    project: str = "default",
    location: str = "",
    source: str = SOURCE,
) -> Batch:
    """Gauge samples of one ExportMetricsServiceRequest in OTLP/JSON; points that cannot be read are rejects.

    ``project`` is for resources without a service name. Never raises for bad content.
    """
    return batch_of([collect_metrics(payload, project=project, location=location)], source, observed_time)


def collect_metrics(payload: Mapping[str, Any] | bytes | str, *, project: str = "default", location: str = "") -> Collected:
    """The samples of one request, not yet in columns. Never raises for bad content."""
    collected = Collected(Kind.GAUGES, location)
    for place, metric, resource in _metrics(collected.document(payload), collected):
        try:
            _read_metric(place, metric, resource, project, collected)
        except _MalformedError as error:
            collected.reject(error.reason, str(error), place, metric)
    return collected


def batch_of(parts: Sequence[Collected], source: str, observed_time: datetime) -> Batch:
    """One batch of what was collected from one or more requests of the same kind; values of a wrong type are rejects."""
    kind, location = parts[0].kind, parts[0].location
    rows = [row for part in parts for row in part.rows]
    places = [place for part in parts for place in part.places]
    rejects = [reject for part in parts for reject in part.rejects]
    present = set().union(*rows)
    table, problems = to_table(kind, {name: [row.get(name) for row in rows] for name in present}, len(rows))
    for row, problem in sorted(problems.items()):
        rejects.append(_reject(kind, *problem, *places[row], rows[row].get("run_id")))
    kept = [row for row in range(len(rows)) if row not in problems]
    if problems:
        table = table.take(pa.array(kept, pa.int64()))
    table = table.append_column("source", pa.repeat(pa.scalar(source), table.num_rows))
    table = table.append_column("observed_time", pa.repeat(pa.scalar(observed_time, columns.TIMESTAMP), table.num_rows))
    return Batch(kind, table, tuple(rejects), location, tuple(places[row][0] for row in kept))


# The envelope ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Collected:
    """Rows of one request as they are found, and what could not be read."""

    kind: Kind
    location: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    places: list[tuple[str, Any]] = field(default_factory=list)  # of each row: where, and the wire's own object
    rejects: list[Reject] = field(default_factory=list)

    def add(self, row: dict[str, Any], place: str, wire: Any) -> None:
        self.rows.append(row)
        self.places.append((place, wire))

    def reject(self, reason: str, detail: str, place: str, wire: Any) -> None:
        self.rejects.append(_reject(self.kind, reason, detail, place, wire))

    def document(self, payload: Mapping[str, Any] | bytes | str) -> Mapping[str, Any]:
        """The request; an empty one when it is none."""
        document: Any = payload
        if isinstance(payload, (bytes, str)):
            try:
                document = orjson.loads(payload)
            except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
                raw = payload.decode(errors="replace") if isinstance(payload, bytes) else payload.encode(errors="replace").decode()
                self.reject("malformed_json", f"not JSON: {error}; send OTLP as complete JSON in UTF-8", self.location, raw)
                return {}
        if not isinstance(document, dict) or (document and _REQUEST_KEYS.isdisjoint(document)):
            detail = "not an OTLP request: it needs resourceSpans or resourceMetrics at the top"
            self.reject("not_otlp", detail, self.location, document)
            return {}
        return document

    def items(self, record: Mapping[str, Any], name: str, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The objects of a list field with their places; anything else there is rejected."""
        values = _get(record, name)
        if values is None:
            return
        if not isinstance(values, list):
            self.reject("malformed_otlp", f"{name} must be a list", place, values)
            return
        for position, value in enumerate(values):
            here = f"{place}{'.' if place != self.location else ' '}{name}[{position}]"
            if isinstance(value, dict):
                yield here, value
            else:
                self.reject("malformed_otlp", f"each of {name} must be an object", here, value)


def _reject(kind: Kind, reason: str, detail: str, place: str, wire: Any, run_id: str | None = None) -> Reject:
    raw = wire if isinstance(wire, str) else json_text(wire)
    return Reject(kind, reason, detail, place, raw[: reading.RAW_KEPT], run_id)


def _get(record: Mapping[str, Any], name: str) -> Any:
    """A field by its JSON name or by its name in the protocol's definition (traceId, trace_id): parsers must take both."""
    value = record.get(name)
    return value if value is not None else record.get(snake_case(name))


@cache
def snake_case(name: str) -> str:
    """A field's name in the protocol's definition."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def _spans(document: Mapping[str, Any], collected: Collected) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any], Mapping[str, Any]]]:
    """Each span with its place, its resource's attributes and its scope."""
    for place, resource_spans in collected.items(document, "resourceSpans", collected.location):
        resource = _attributes(_object(resource_spans, "resource").get("attributes"))
        name = "scopeSpans" if _get(resource_spans, "scopeSpans") is not None else "instrumentationLibrarySpans"
        for inner, scope_spans in collected.items(resource_spans, name, place):
            scope = _object(scope_spans, "scope") or _object(scope_spans, "instrumentationLibrary")
            for where, span in collected.items(scope_spans, "spans", inner):
                yield where, span, resource, scope


def _metrics(document: Mapping[str, Any], collected: Collected) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any]]]:
    """Each metric with its place and its resource's attributes."""
    for place, resource_metrics in collected.items(document, "resourceMetrics", collected.location):
        resource = _attributes(_object(resource_metrics, "resource").get("attributes"))
        for inner, scope_metrics in collected.items(resource_metrics, "scopeMetrics", place):
            for where, metric in collected.items(scope_metrics, "metrics", inner):
                yield where, metric, resource


def number_of_rows(document: Mapping[str, Any], kind: Kind) -> int:
    """How many resources, scopes, and spans or metrics a document has, whatever they are."""
    number, found = 0, [document]
    for name in _LEVELS[kind]:
        lists = [_get(one, name) or (_get(one, "instrumentationLibrarySpans") if name == "scopeSpans" else None) for one in found]
        inner = [item for given in lists if isinstance(given, list) for item in given]
        number += len(inner)
        found = [item for item in inner if isinstance(item, dict)]
    return number


_LEVELS = {Kind.RUNS: ("resourceSpans", "scopeSpans", "spans"), Kind.GAUGES: ("resourceMetrics", "scopeMetrics", "metrics")}


def _object(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = _get(record, name)
    return value if isinstance(value, dict) else {}


# Values ----------------------------------------------------------------------------------------------------


def _attributes(given: Any) -> dict[str, Any]:
    """Attributes by name. Also takes a plain object, as some dumps write them."""
    if isinstance(given, dict):
        return {str(key): value for key, value in given.items() if value is not None}
    if not isinstance(given, list):
        return {}
    result = {}
    for item in given:
        if isinstance(item, dict) and isinstance(item.get("key"), str):
            value = _any_value(item.get("value"))
            if value is not None:
                result[item["key"]] = value
    return result


def _any_value(value: Any, depth: int = 0) -> Any:
    """OTLP's AnyValue as a plain one. Integers may be texts, bytes stay base64; what is malformed stays as it is."""
    if not isinstance(value, dict):
        return value
    if depth > _NESTING:
        return json_text(value)
    for name, content in value.items():
        match name:
            case "stringValue" | "string_value" | "boolValue" | "bool_value" | "bytesValue" | "bytes_value":
                return content
            case "intValue" | "int_value":
                return _whole(content) if isinstance(content, str) else content
            case "doubleValue" | "double_value":
                return content
            case "arrayValue" | "array_value":
                values = content.get("values") if isinstance(content, dict) else None
                return [_any_value(item, depth + 1) for item in values] if isinstance(values, list) else []
            case "kvlistValue" | "kvlist_value":
                pairs = content.get("values") if isinstance(content, dict) else None
                known = [pair for pair in pairs if isinstance(pair, dict)] if isinstance(pairs, list) else []
                return {str(pair.get("key")): _any_value(pair.get("value"), depth + 1) for pair in known}
    return None


def _whole(text: str) -> int | str:
    return int(text) if re.fullmatch(r"[+-]?\d{1,20}", text) else text


def _identifier(value: Any, name: str, size: int) -> str | None:
    """A trace or span id in hexadecimal, from hexadecimal or base64; NULL when it is absent or all zero."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        if len(value) == 2 * size and _HEX.fullmatch(value):
            return value.lower() if value.strip("0") else None
        try:
            decoded = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            decoded = b""
        if len(decoded) == size:
            return decoded.hex() if any(decoded) else None
    raise _MalformedError("malformed_id", f"{name} is {shown(value)}; it must be {2 * size} hexadecimal digits (or {size} bytes in base64)")


def _moment(value: Any, name: str) -> datetime | None:
    """Nanoseconds since 1970, as a number or text; 0 and absent are unknown."""
    if value in (None, "", 0, "0"):
        return None
    number = _whole(value) if isinstance(value, str) else value
    if isinstance(number, float) and math.isfinite(number):
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise _MalformedError("wrong_type", f"{name} is {shown(value)}; it must be nanoseconds since 1970, as a number or text")
    try:
        return _EPOCH + timedelta(microseconds=number // 1000)
    except OverflowError:
        raise _MalformedError("wrong_type", f"{name} is {shown(value)}, beyond any calendar; it must be nanoseconds since 1970") from None


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


# Spans -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """What a span's attributes and events turned out to be."""

    values: dict[str, Any] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    payload: dict[str, dict[str, Any]] = field(default_factory=lambda: {"inputs": {}, "outputs": {}})
    messages: dict[str, list[Any]] = field(default_factory=lambda: {"inputs": [], "outputs": []})  # from events
    metadata: dict[str, Any] = field(default_factory=dict)


def _run(
    span: Mapping[str, Any], resource: Mapping[str, Any], scope: Mapping[str, Any], names: AttributeNames, project: str
) -> dict[str, Any]:
    """A span in the unified columns. Raises _MalformedError without usable identifiers or a start."""
    trace_id = _identifier(_get(span, "traceId"), "traceId", 16)
    span_id = _identifier(_get(span, "spanId"), "spanId", 8)
    parent = _identifier(_get(span, "parentSpanId"), "parentSpanId", 8)
    if trace_id is None or span_id is None:
        raise _MalformedError("missing_id", "traceId and spanId must be there and not zero; check the exporter")
    start = _moment(_get(span, "startTimeUnixNano"), "startTimeUnixNano")
    end = _moment(_get(span, "endTimeUnixNano"), "endTimeUnixNano")
    if start is None:
        raise _MalformedError("missing_start_time", "startTimeUnixNano is missing or zero; check the exporter")

    attributes = _attributes(span.get("attributes"))
    found = _Found()
    _sort(attributes, names, found)
    _defaults_of_resource(resource, names, found)
    events = [event for event in span.get("events") or () if isinstance(event, dict)] if isinstance(span.get("events"), list) else []
    exception = _read_events(events, names, found)

    row = found.values
    row.setdefault("project", project)
    row |= {
        "run_id": f"{trace_id}:{span_id}",
        "trace_id": trace_id,
        "parent_run_id": f"{trace_id}:{parent}" if parent else None,
        "name": span.get("name") or row.get("name"),
        "start_time": start,
        "end_time": end,
    }
    row.setdefault("run_type", _run_type(attributes, row))
    _model(attributes, row)
    _status(_object(span, "status"), exception, row, ended=end is not None)
    _first_token(attributes, start, row)
    if row.get("total_cost") is not None or (row.get("input_cost") is not None and row.get("output_cost") is not None):
        row.setdefault("cost_source", "reported")
    for side, parts in found.payload.items():
        row[side] = _payload(parts)
    row["metadata"] = _metadata(span, scope, found.metadata)
    return row


def _sort(attributes: Mapping[str, Any], names: AttributeNames, found: _Found) -> None:
    """Each attribute to its column, to the payload, or to metadata."""
    flat: dict[str, dict[int, dict[str, Any]]] = {}
    for name, value in _with_metadata_keys(attributes):
        column = names.index.get(name)
        if column is not None:
            _offer(name, value, *column, found)
        elif name in PAYLOADS:
            side, part = PAYLOADS[name]
            _add_part(found.payload[side], part, value, name)
        elif match := _FLAT.fullmatch(name):
            flat.setdefault(match.group(1), {}).setdefault(int(match.group(2)[:9]), {})[match.group(3) or ""] = value
        else:
            found.metadata[name.removeprefix("metadata.") if name.startswith("metadata.") else name] = value
    for prefix, items in flat.items():
        side, part = FLATTENED[prefix]
        _add_part(found.payload[side], part, [_nested(items[position]) for position in sorted(items)], prefix)


def _with_metadata_keys(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Attributes, with OpenInference's ``metadata`` (a JSON object as text) taken apart as ``metadata.<key>``."""
    for name, value in attributes.items():
        parsed = _parsed(value) if name == "metadata" else None
        if isinstance(parsed, dict):
            for key, item in parsed.items():
                if item is not None:
                    yield f"metadata.{key}", item
        else:
            yield name, value


def _offer(name: str, value: Any, column: str, rank: int, found: _Found) -> None:
    """Take a value for a column unless a better name gave one; what loses and differs is kept in metadata."""
    if value is None or value == "":
        return
    if isinstance(value, (dict, list)) and column not in ("tags", "warnings"):
        found.metadata[name] = value
        return
    known = found.values.get(column)
    if known is not None and found.ranks[column] <= rank:
        if known != value:
            found.metadata[name] = value
        return
    if known is not None and known != value:
        found.metadata[f"other.{column}"] = known
    found.values[column], found.ranks[column] = value, rank


def _defaults_of_resource(resource: Mapping[str, Any], names: AttributeNames, found: _Found) -> None:
    """The service is the project and the agent, its version the agent's, unless the span says otherwise."""
    others = {}
    best: dict[str, tuple[int, Any]] = {}
    for name, value in resource.items():
        column, rank = names.index.get(name, (None, 0))
        if column is None:
            others[name] = value
        elif value != "" and (column not in best or rank < best[column][0]):
            best[column] = (rank, value)
    for column, (_, value) in best.items():
        found.values.setdefault(column, value)
    for name, filled in (("service.name", ("project", "agent_name")), ("service.version", ("agent_version",))):
        if resource.get(name) not in (None, "", "unknown_service"):
            value = others.pop(name, resource[name])
            for column in filled:
                if found.values.setdefault(column, value) != value:
                    others[name] = value
    if others:
        found.metadata["resource"] = others


def _read_events(events: Sequence[Mapping[str, Any]], names: AttributeNames, found: _Found) -> Mapping[str, Any]:
    """Messages, the first token and details from a span's events; returns the attributes of the last exception."""
    exception: Mapping[str, Any] = {}
    others = []
    for event in events:
        name, attributes = str(event.get("name")), _attributes(event.get("attributes"))
        if name in FIRST_TOKEN_EVENTS:
            _note_first_token(event, found)
        if name in MESSAGE_EVENTS:
            side, role = MESSAGE_EVENTS[name]
            found.messages[side].append({"role": role} | attributes)
        elif name in DETAIL_EVENTS:
            _sort(attributes, names, found)
        elif name not in CHUNK_EVENTS:
            others.append({"name": name, "time": _event_time(event), "attributes": attributes})
        if name == "exception":
            exception = attributes
    for side, messages in found.messages.items():
        _add_part(found.payload[side], "messages", messages or None, "events")
    if others:
        found.metadata["events"] = others[:_EVENTS_KEPT] + [f"{len(others) - _EVENTS_KEPT} more"] * (len(others) > _EVENTS_KEPT)
    return exception


def _note_first_token(event: Mapping[str, Any], found: _Found) -> None:
    moment, known = _event_time(event), found.values.get("first_token_time")
    if moment is not None and (not isinstance(known, datetime) or moment < known):
        found.values["first_token_time"] = moment


def _event_time(event: Mapping[str, Any]) -> datetime | None:
    try:
        return _moment(_get(event, "timeUnixNano"), "timeUnixNano")
    except _MalformedError:
        return None  # an event's own time decides nothing


def _run_type(attributes: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    for name, names in RUN_TYPES.items():
        value = attributes.get(name)
        if isinstance(value, str) and value.lower() in names:
            return names[value.lower()]
    if row.get("tool_name") is not None:
        return "tool"
    return "llm" if row.get("input_tokens") is not None and (row.get("request_model") or row.get("response_model")) else "chain"


def _model(attributes: Mapping[str, Any], row: dict[str, Any]) -> None:
    """The requested model also from OpenInference's invocation parameters, and the provider in OpenTelemetry's names."""
    if row.get("request_model") is None:
        parameters = _parsed(attributes.get("llm.invocation_parameters"))
        requested = parameters.get("model") if isinstance(parameters, dict) else None
        row["request_model"] = requested if isinstance(requested, str) else row.get("response_model")
    provider = row.get("provider")
    if isinstance(provider, str):
        provider = provider.lower()
        row["provider"] = PROVIDERS.get(provider, provider.removesuffix(".responses").removesuffix(".chat"))


def _status(status: Mapping[str, Any], exception: Mapping[str, Any], row: dict[str, Any], ended: bool) -> None:
    """Unset means success; an error by the status or by error.type. Its message from the exception, else the status."""
    failed = status.get("code") in (2, "2", "STATUS_CODE_ERROR", "ERROR") or row.get("error_type") is not None
    row.setdefault("status", "error" if failed else "success" if ended else "pending")
    if not failed:
        return
    if row.get("error_type") in (None, "_OTHER"):
        kind = exception.get("exception.type")
        row["error_type"] = kind.rpartition(".")[2] if isinstance(kind, str) and kind else row.get("error_type")
    row.setdefault("error_message", exception.get("exception.message") or _get(status, "message"))


def _first_token(attributes: Mapping[str, Any], start: datetime, row: dict[str, Any]) -> None:
    """Both the moment and the seconds of the first token, from whichever is known."""
    milliseconds = attributes.get("ai.response.msToFirstChunk")
    if row.get("time_to_first_token_seconds") is None and isinstance(milliseconds, (int, float)):
        row["time_to_first_token_seconds"] = milliseconds / 1000
    seconds, moment = row.get("time_to_first_token_seconds"), row.get("first_token_time")
    if moment is None and isinstance(seconds, (int, float)) and 0 <= seconds < 86_400:
        row["first_token_time"] = start + timedelta(seconds=seconds)
    elif seconds is None and isinstance(moment, datetime):
        row["time_to_first_token_seconds"] = (moment - start).total_seconds()


# Payload and metadata --------------------------------------------------------------------------------------


def _add_part(parts: dict[str, Any], part: str, value: Any, name: str) -> None:
    """A part of the payload; a second one of the same name is kept under its attribute's."""
    if value is None or value == "":
        return
    if part not in parts:
        parts[part] = value
    elif _parsed(parts[part]) != _parsed(value):
        parts[name] = value


def _payload(parts: Mapping[str, Any]) -> str | None:
    """One part as it is, several as a JSON object of them."""
    if not parts:
        return None
    if len(parts) == 1:
        (value,) = parts.values()
        return value if isinstance(value, str) else json_text(value)
    return json_text({name: _parsed(value) for name, value in parts.items()})


def _parsed(value: Any) -> Any:
    """JSON objects and lists that travel as text, taken apart."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _nested(leaves: Mapping[str, Any]) -> Any:
    """``{"message.role": …, "message.tool_calls.0.id": …}`` as nested objects; numbered levels become lists in order."""
    if set(leaves) == {""}:
        return leaves[""]
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        node = tree
        *levels, last = path.split(".")[:_NESTING]
        for level in levels:
            deeper = node.setdefault(level, {})
            if not isinstance(deeper, dict):
                deeper = node[level] = {"": deeper}
            node = deeper
        node[last] = value if not isinstance(node.get(last), dict) else {"": value} | node[last]
    return _with_lists(tree)


def _with_lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node and all(key.isdecimal() for key in node):
        return [_with_lists(node[key]) for key in sorted(node, key=int)]
    return {key: _with_lists(value) for key, value in node.items()}


def _metadata(span: Mapping[str, Any], scope: Mapping[str, Any], metadata: dict[str, Any]) -> str | None:
    """Everything else as a JSON object, each value and the whole shortened."""
    kind = span.get("kind")
    if isinstance(kind, (str, int)) and kind not in (0, "SPAN_KIND_UNSPECIFIED"):
        metadata["span_kind"] = kind.removeprefix("SPAN_KIND_") if isinstance(kind, str) else _SPAN_KINDS.get(kind, str(kind))
    if isinstance(scope.get("name"), str) and scope["name"]:
        metadata["scope"] = {name: scope[name] for name in ("name", "version") if isinstance(scope.get(name), str)}
    if state := _get(span, "traceState"):
        metadata["traceState"] = state
    if isinstance(links := span.get("links"), list) and links:
        metadata["links"] = [_link(link) if isinstance(link, dict) else link for link in links]
    if not metadata:
        return None
    if len(text := json_text(metadata)) <= _VALUE_KEPT:
        return text  # nothing in it can be too long
    texts = {name: json_text(_shortened(value)) for name, value in metadata.items()}
    left_out = []
    size = sum(map(len, texts.values()))
    for name in sorted(texts, key=lambda name: len(texts[name]), reverse=True):
        if size <= _METADATA_KEPT:
            break
        size -= len(texts.pop(name))
        left_out.append(name)
    if left_out:
        texts["left_out"] = json_text(left_out[:100])
    return "{" + ",".join(f"{json_text(name)}:{text}" for name, text in texts.items()) + "}"


def _link(link: Mapping[str, Any]) -> dict[str, Any]:
    """Another span that this one refers to: identifiers in hexadecimal where they can be read, attributes by name."""
    shown_link: dict[str, Any] = {}
    for name, size in (("traceId", 16), ("spanId", 8)):
        given = _get(link, name)
        try:
            shown_link[name] = _identifier(given, name, size)
        except _MalformedError:
            shown_link[name] = given
    if attributes := _attributes(link.get("attributes")):
        shown_link["attributes"] = attributes
    return shown_link


_SPAN_KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}


def _shortened(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str) and len(value) > _VALUE_KEPT:
        return f"{value[:_VALUE_KEPT]}… ({len(value)} characters)"
    if depth > _NESTING:
        return _shortened(json_text(value))
    if isinstance(value, dict):
        return {key: _shortened(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item, depth + 1) for item in value]
    return value


# Metrics ---------------------------------------------------------------------------------------------------


def _read_metric(place: str, metric: Mapping[str, Any], resource: Mapping[str, Any], project: str, collected: Collected) -> None:
    """Samples of each data point. Raises _MalformedError for a metric without a name or a known kind of data."""
    name = metric.get("name")
    if not isinstance(name, str) or not name:
        raise _MalformedError("missing_id", "the metric has no name; check the exporter")
    shape = next((shape for shape in _METRIC_SHAPES if _get(metric, shape) is not None), None)
    if shape is None:
        raise _MalformedError("malformed_otlp", f"the metric has none of {', '.join(_METRIC_SHAPES)}")
    data = _object(metric, shape)
    increase = shape != "gauge" and _get(data, "aggregationTemporality") in (1, "1", "AGGREGATION_TEMPORALITY_DELTA")
    service = resource.get("service.name")
    common = {
        "project": project if service in (None, "", "unknown_service") else service,
        "unit": metric.get("unit") or None,
        "kind": "counter" if increase else "gauge",
    }
    # Instances of a service report the same metric side by side; a level that is really a running total says so.
    labels = {key: resource[key] for key in ("service.instance.id",) if key in resource}
    if shape != "gauge" and not increase:
        labels["temporality"] = "cumulative"
    for where, point in collected.items(data, "dataPoints", place):
        try:
            if not _without_value(point):
                own = _attributes(point.get("attributes")) | labels
                time = _point_time(point)
                for figure in _figures(name, shape, point, own):
                    collected.add({**common, "time": time, "labels": own, **figure}, where, point)
        except _MalformedError as error:
            collected.reject(error.reason, str(error), where, point)


def _without_value(point: Mapping[str, Any]) -> bool:
    flags = point.get("flags")
    return isinstance(flags, int) and bool(flags & _NO_RECORDED_VALUE)


def _point_time(point: Mapping[str, Any]) -> datetime:
    time = _moment(_get(point, "timeUnixNano"), "timeUnixNano")
    if time is None:
        raise _MalformedError("missing_time", "timeUnixNano is missing or zero; check the exporter")
    return time


def _figures(name: str, shape: str, point: Mapping[str, Any], labels: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if shape in ("gauge", "sum"):
        yield {"name": name, "value": _figure(point, "asDouble", "asInt")}
        return
    # JSON leaves out what has its default, and only a histogram can do without its sum.
    yield {"name": f"{name}.count", "value": _figure({"count": 0} | dict(point), "count"), "unit": "1"}
    if shape == "summary" or _get(point, "sum") is not None:
        yield {"name": f"{name}.sum", "value": _figure({"sum": 0} | dict(point), "sum")}
    values = _get(point, "quantileValues")
    for item in values if shape == "summary" and isinstance(values, list) else ():
        if isinstance(item, dict):
            of_quantile = dict(labels) | {"quantile": json_text(_figure({"quantile": 0} | item, "quantile"))}
            yield {"name": name, "value": _figure({"value": 0} | item, "value"), "labels": of_quantile, "kind": "gauge"}


def _figure(point: Mapping[str, Any], *fields: str) -> float:
    for name in fields:
        value = _get(point, name)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                break
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**1000:
            return float(value)
        if value is not None:
            break
    raise _MalformedError("wrong_type", f"{' or '.join(fields)} must be a finite number in the data point")
