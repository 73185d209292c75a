"""OTLP over HTTP: ``POST /v1/traces`` and ``POST /v1/metrics``, as OpenTelemetry's protocol says (IN-12).

Here belongs the protocol's HTTP: encodings, limits, partial success, errors as google.rpc.Status in the encoding of
the request. What the requests mean and how they are written is ``traces.receiver``'s. There is no route for logs:
an exporter of logs is told 404 rather than that its logs were kept.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import zlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsPartialSuccess, ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTracePartialSuccess, ExportTraceServiceResponse
from starlette.exceptions import HTTPException  # FastAPI's is one of these

from metamon_assets.traces.receiver import JSON, PROTOBUF, Accepted, UnavailableError, UndecodableError
from metamon_assets.traces.sources.base import Kind
from metamon_assets.web.envelope import read_body, too_large

if TYPE_CHECKING:
    from concurrent.futures import Future

    from metamon_assets.traces.receiver import Receiver

PROJECT_HEADER = "x-metamon-project"
_LONGEST_PROJECT = 255  # characters
# google.rpc.Code by HTTP status.
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 413: 3, 415: 3, 429: 8, 503: 14}
_INTERNAL = 13


def router(receiver: Receiver, require: Callable[[str], Callable[..., Any]]) -> APIRouter:
    """The routes. ``require("ingest")`` must be a dependency that lets senders in."""
    routes = APIRouter(route_class=_OtlpRoute, tags=["otlp"], dependencies=[Depends(require("ingest"))])

    @routes.post("/v1/traces", summary="Take spans (OTLP)", openapi_extra=_BODY, responses=_RESPONSES)
    async def traces(request: Request) -> Response:
        """An ExportTraceServiceRequest. The answer comes when its spans are on disk."""
        return await _take(receiver, Kind.RUNS, request)

    @routes.post("/v1/metrics", summary="Take metrics (OTLP)", openapi_extra=_BODY, responses=_RESPONSES)
    async def metrics(request: Request) -> Response:
        """An ExportMetricsServiceRequest. The answer comes when its points are on disk."""
        return await _take(receiver, Kind.GAUGES, request)

    return routes


_BODY = {"requestBody": {"required": True, "content": {PROTOBUF: {"schema": {"type": "string", "format": "binary"}}, JSON: {}}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body is no such request; a google.rpc.Status in the request's encoding, as with every error."},
    413: {"description": "The body is too large."},
    415: {"description": "Neither protobuf nor JSON, or compressed otherwise than by gzip."},
    503: {"description": "Nothing was kept; send it again after Retry-After seconds."},
}


class _OtlpRoute(APIRoute):
    """A route whose errors, those of its dependencies included, are what OTLP clients understand."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except HTTPException as error:
                return _status(_content_type(request), error.status_code, str(error.detail), error.headers)

        return answered


async def _take(receiver: Receiver, kind: Kind, request: Request) -> Response:
    content_type = _content_type(request)
    if content_type not in (PROTOBUF, JSON):
        raise HTTPException(415, f"Content-Type must be {PROTOBUF} or {JSON}.")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise HTTPException(415, "Content-Encoding must be gzip, or absent.")
    project = request.headers.get(PROJECT_HEADER)
    if project is not None and not 0 < len(project) <= _LONGEST_PROJECT:
        raise HTTPException(400, f"{PROJECT_HEADER} must have 1 to {_LONGEST_PROJECT} characters.")
    body = await read_body(request, receiver.max_request_bytes)
    try:
        waiting = await run_in_threadpool(_submit, receiver, kind, body, encoding, content_type, project)
        accepted = await asyncio.wrap_future(waiting)
    except UndecodableError as error:
        raise HTTPException(400, str(error)) from None
    except UnavailableError as error:
        raise HTTPException(503, f"{error}: send it again", {"Retry-After": str(error.retry_after)}) from None
    return _success(kind, content_type, accepted)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _submit(receiver: Receiver, kind: Kind, body: bytes, encoding: str, content_type: str, project: str | None) -> Future[Accepted]:
    if encoding == "gzip" and body:
        body = _unpacked(body, receiver.max_request_bytes)
    return receiver.submit(kind, body, content_type, project)


def _unpacked(body: bytes, limit: int) -> bytes:
    """Gzip's content, which may consist of several members; never more than ``limit`` bytes of it are made."""
    try:
        # It reads on in small steps: what copies the rest of the body for each member takes minutes for a million empty ones.
        content = gzip.GzipFile(fileobj=io.BytesIO(body)).read(limit + 1)
    except EOFError:
        raise HTTPException(400, "The body is not gzip: it ends too early.") from None
    except (OSError, zlib.error) as error:
        raise HTTPException(400, f"The body is not gzip: {error}.") from None
    if len(content) > limit:
        raise too_large(limit)
    return content


# Answers ---------------------------------------------------------------------------------------------------


def _success(kind: Kind, content_type: str, accepted: Accepted) -> Response:
    partial = bool(accepted.rejected)
    if content_type == JSON:
        name = "rejectedSpans" if kind is Kind.RUNS else "rejectedDataPoints"
        told = {"partialSuccess": {name: str(accepted.rejected), "errorMessage": accepted.message}} if partial else {}
        return Response(orjson.dumps(told), media_type=JSON)
    answer: ExportTraceServiceResponse | ExportMetricsServiceResponse
    if kind is Kind.RUNS:
        spans = ExportTracePartialSuccess(rejected_spans=accepted.rejected, error_message=accepted.message)
        answer = ExportTraceServiceResponse(partial_success=spans if partial else None)
    else:
        points = ExportMetricsPartialSuccess(rejected_data_points=accepted.rejected, error_message=accepted.message)
        answer = ExportMetricsServiceResponse(partial_success=points if partial else None)
    return Response(answer.SerializeToString(), media_type=PROTOBUF)


def _status(content_type: str, http_status: int, message: str, headers: Any) -> Response:
    """An error as google.rpc.Status, in protobuf unless the request is JSON."""
    code = _CODES.get(http_status, _INTERNAL)
    if content_type == JSON:
        return Response(orjson.dumps({"code": code, "message": message}), http_status, headers, JSON)
    return Response(_status_message(code, message), http_status, headers, PROTOBUF)


def _status_message(code: int, message: str) -> bytes:
    """Field 1, the code, and field 2, the message: too little to depend on a package that has the definition."""
    text = message.encode()
    length, size = b"", len(text)
    while size >= 0x80:
        length += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return bytes((0x08, code, 0x12)) + length + bytes((size,)) + text
