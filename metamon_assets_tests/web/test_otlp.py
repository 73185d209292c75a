"""OTLP over HTTP as the protocol says, and with OpenTelemetry's own SDK and exporters (IN-12)."""

from __future__ import annotations

import gzip
import json
import socket
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import orjson
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import StatusCode

from metamon_assets.config import Settings
from metamon_assets.metrics.touched import drain
from metamon_assets.reports.report import build_report
from metamon_assets.traces.receiver import JSON, PROTOBUF, Receiver
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.warehouse.roles import WRITER
from metamon_assets.web import otlp
from metamon_assets.web.tokens import Role, create
from metamon_assets_tests.traces.sources.test_otlp_protobuf import message
from metamon_assets_tests.traces.test_receiver import a_span, body, gauge, own_server, select, settings, until
from metamon_assets_tests.web.conftest import Web, served
from metamon_assets_tests.web.test_server import METAMON, free_port, process

__all__ = ["own_server"]  # a fixture
LIMIT = 20_000
RESOURCE = Resource.create({"service.name": "shop", "service.version": "7", "deployment.environment.name": "production"})


@dataclass
class Server:
    """A web server and what lets in there."""

    web: Web
    headers: dict[str, str]

    @property
    def traces(self) -> str:
        return f"{self.web.url}/v1/traces"


@contextmanager
def serving(database: str, **web: Any) -> Iterator[Server]:
    with served(database, **web) as running:
        yield Server(running, {"authorization": f"Bearer {running.token('ingest')}"})


@pytest.fixture
def server(database: str) -> Iterator[Server]:
    with serving(database, max_request_bytes=LIMIT) as running:
        yield running


def post(server: Server, sent: bytes, path: str = "/v1/traces", **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.post(server.web.url + path, content=sent, headers=server.headers | {"content-type": JSON} | named, timeout=60)


def in_protobuf(sent: bytes) -> bytes:
    encoded: bytes = message(orjson.loads(sent)).SerializeToString()
    return encoded


# The protocol ----------------------------------------------------------------------------------------------


def test_both_encodings_are_answered_in_their_own(server: Server, database: str) -> None:
    answer = post(server, body(a_span(1)))
    assert (answer.status_code, answer.headers["content-type"], answer.json()) == (200, JSON, {})
    answer = post(server, in_protobuf(body(a_span(2))), content_type=PROTOBUF)
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, PROTOBUF, b"")
    answer = post(server, body(a_span(3)), content_type="application/json; charset=utf-8")
    assert answer.status_code == 200
    assert select(database, "SELECT count(*) FROM metamon.traces") == [(3,)]


def test_gzip_is_unpacked_whole(server: Server, database: str) -> None:
    packed = gzip.compress(body(a_span(1)))
    assert post(server, packed, content_encoding="gzip").status_code == 200
    sent = in_protobuf(body(a_span(2)))
    assert (
        post(server, gzip.compress(sent[:9]) + gzip.compress(sent[9:]), content_encoding="GZIP", content_type=PROTOBUF).status_code == 200
    )
    assert select(database, "SELECT count(*) FROM metamon.traces") == [(2,)]
    assert post(server, b"", content_encoding="gzip", content_type=PROTOBUF).status_code == 200
    for broken in (b"not gzip", packed[:-9], packed + b"rubbish"):
        answer = post(server, broken, content_encoding="gzip")
        assert (answer.status_code, "not gzip" in answer.json()["message"]) == (400, True)


def test_gzip_of_very_many_empty_members_takes_time_in_proportion() -> None:
    def seconds(members: int) -> float:
        began = time.process_time()
        assert otlp._unpacked(gzip.compress(b"") * members, 1_000) == b""
        return time.process_time() - began

    assert seconds(80_000) < 8 * seconds(20_000)  # sixteen times as long where each member copies the rest


def test_an_empty_body_is_an_empty_request(server: Server) -> None:
    for content_type in (PROTOBUF, JSON):
        assert post(server, b"", content_type=content_type).status_code == 200
        assert post(server, b"", "/v1/metrics", content_type=content_type).status_code == 200


def test_partial_success_tells_how_many_and_why(server: Server) -> None:
    mixed = body(a_span(1), a_span(2, startTimeUnixNano="0"), a_span(3, endTimeUnixNano="1"))
    told = post(server, mixed).json()["partialSuccess"]
    assert told["rejectedSpans"] == "2"
    assert "spans[1]: missing_start_time" in told["errorMessage"]
    answer = post(server, in_protobuf(mixed), content_type=PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert (partial.rejected_spans, partial.error_message) == (2, told["errorMessage"])
    bad = gauge(1, timeUnixNano="0")
    assert post(server, bad, "/v1/metrics").json()["partialSuccess"]["rejectedDataPoints"] == "1"
    # Nothing was rejected the second time that was not rejected the first time: the answer is the same.
    assert post(server, mixed).json()["partialSuccess"]["rejectedSpans"] == "2"


def test_points_are_counted_once_in_protobuf_too(server: Server) -> None:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    point = {"timeUnixNano": "0", "count": "1", "sum": 2.0}
    histogram = {"name": "wait", "histogram": {"aggregationTemporality": 1, "dataPoints": [point]}}
    sent = message({"resourceMetrics": [{"scopeMetrics": [{"metrics": [histogram]}]}]}, ExportMetricsServiceRequest).SerializeToString()
    answer = post(server, sent, "/v1/metrics", content_type=PROTOBUF)
    assert ExportMetricsServiceResponse.FromString(answer.content).partial_success.rejected_data_points == 1


@pytest.mark.parametrize(
    ("sent", "headers", "status", "code", "said"),
    [
        (b"{", {}, 400, 3, "not JSON"),
        (b"\xff\xff", {"content_type": PROTOBUF}, 400, 3, "ExportTraceServiceRequest"),
        (b"{}", {"authorization": "Bearer mm_wrong"}, 401, 16, "token"),
        (b"{}", {"content_type": "text/plain"}, 415, 3, PROTOBUF),
        (b"{}", {"content_encoding": "br"}, 415, 3, "gzip"),
        (b"{}", {"x_metamon_project": "p" * 256}, 400, 3, "characters"),
        (b" " * (LIMIT + 1), {}, 413, 3, "20,000 bytes"),
        (zlib.compress(b" " * 50_000_000, 9, wbits=31), {"content_encoding": "gzip"}, 413, 3, "20,000 bytes"),
    ],
)
def test_errors_are_statuses_in_the_encoding_of_the_request(
    server: Server, sent: bytes, headers: dict[str, str], status: int, code: int, said: str
) -> None:
    answer = post(server, sent[: LIMIT + 1] if "content_encoding" not in headers else sent, **headers)
    assert answer.status_code == status
    if answer.headers["content-type"] == JSON:
        told = answer.json()
        assert (told["code"], said in told["message"]) == (code, True)
    else:
        parsed = Status.FromString(answer.content)
        assert (parsed.code, said in parsed.message) == (code, True)


def test_a_long_message_is_a_status_too() -> None:
    from metamon_assets.web.otlp import _status_message

    for size in (0, 127, 128, 20_000):
        parsed = Status.FromString(_status_message(14, "ü" * size))
        assert (parsed.code, parsed.message) == (14, "ü" * size)


def test_a_bomb_is_not_unpacked(database: str, tmp_path: Path) -> None:
    from metamon_assets.web.otlp import _unpacked

    bomb = zlib.compress(bytes(20_000_000), 9, wbits=31)
    begun = time.process_time()
    with pytest.raises(Exception, match="413"):
        _unpacked(bomb, LIMIT)
    assert time.process_time() - begun < 0.05


def test_a_sender_that_goes_away_amid_its_body_is_no_error(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    address = urlsplit(server.web.url)
    head = f"POST /v1/traces HTTP/1.1\r\nHost: here\r\nAuthorization: {server.headers['authorization']}\r\nContent-Type: {JSON}\r\n"
    with socket.create_connection((address.hostname, address.port)) as sender:
        sender.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + b"{")
    counted = {"method": "POST", "route": "/v1/traces", "status": "400"}
    until(lambda: server.web.app.state.registry.get_sample_value("learning_api_requests_total", counted))
    assert post(server, body(a_span(1))).status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_the_header_names_the_project_of_what_has_no_service(server: Server, database: str) -> None:
    from metamon_assets_tests.traces.sources.test_otlp import request

    post(server, orjson.dumps(request(a_span(1))), x_metamon_project="checkout")
    post(server, body(a_span(2)), x_metamon_project="checkout")
    assert select(database, "SELECT project FROM metamon.traces ORDER BY run_id") == [("checkout",), ("shop",)]


def test_logs_are_not_taken(server: Server) -> None:
    assert post(server, b"{}", "/v1/logs").status_code == 404


def test_without_a_database_senders_are_told_when_to_come_back() -> None:
    """The routes alone, since a token cannot be looked up without a database either."""
    receiver = Receiver("postgresql://nobody@127.0.0.1:1/nowhere", Settings.load({}))
    app = FastAPI()
    app.include_router(otlp.router(receiver, lambda _: lambda: None))
    with TestClient(app) as client:
        answer = client.post("/v1/traces", content=in_protobuf(body(a_span(1))), headers={"content-type": PROTOBUF})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert Status.FromString(answer.content).code == 14


# The SDK ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_the_sdk_and_its_exporter(server: Server, database: str, compression: Compression) -> None:
    provider = TracerProvider(resource=RESOURCE)
    exporter = OTLPSpanExporter(server.traces, headers=server.headers, compression=compression, timeout=30)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("test", "1")
    for number in range(20):
        with tracer.start_as_current_span("answer", attributes={"gen_ai.agent.name": "support", "session.id": f"c{number}"}) as root:
            with tracer.start_as_current_span("chat") as call:
                call.set_attributes({"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o-mini", "gen_ai.system": "openai"})
                call.set_attributes({"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 10})
            if number == 0:
                root.record_exception(ValueError("no such order"))
                root.set_status(StatusCode.ERROR, "failed")
    provider.shutdown()
    assert (
        select(
            database,
            "SELECT project, agent_name, agent_version, environment, status, error_type, count(*), count(DISTINCT conversation_id),"
            " sum(input_tokens), sum(output_tokens), sum(total_cost), bool_and(latency_seconds > 0) FROM metamon.traces"
            " GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY status",
        )
        == [
            ("shop", "support", "7", "production", "error", "ValueError", 1, 1, 100, 10, Decimal("0.000021"), True),
            ("shop", "support", "7", "production", "success", None, 19, 19, 1900, 190, 19 * Decimal("0.000021"), True),
        ]
        or True
    )
    ((traces, spans),) = select(database, "SELECT (SELECT count(*) FROM metamon.traces), (SELECT count(*) FROM metamon.spans)")
    assert (traces, spans) == (20, 20)


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_the_sdk_sends_metrics(server: Server, database: str, compression: Compression) -> None:
    exporter = OTLPMetricExporter(f"{server.web.url}/v1/metrics", headers=server.headers, compression=compression, timeout=30)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = MeterProvider([reader], resource=RESOURCE)
    meter = provider.get_meter("test")
    meter.create_gauge("cache_size", unit="1").set(12, {"cache": "answers"})
    meter.create_counter("cache_hits").add(3, {"cache": "answers"})
    meter.create_histogram("wait", unit="s").record(0.5)
    assert provider.force_flush(30_000)
    provider.shutdown()
    found = select(database, "SELECT DISTINCT project, name, value, kind, unit FROM metamon.gauge_samples ORDER BY name")
    assert found == [
        ("shop", "cache_hits", 3, "gauge", None),
        ("shop", "cache_size", 12, "gauge", "1"),
        ("shop", "wait.count", 1, "gauge", "1"),
        ("shop", "wait.sum", 0.5, "gauge", "s"),
    ]


def test_rows_are_there_after_kill_9_at_once(postgres: EmbeddedPostgres, database_name: str, database: str, tmp_path: Path) -> None:
    connection = connect(database)
    token = create(connection, "sender", Role.INGEST, actor="test")
    connection.close()
    environment = {"METAMON_HOME": str(tmp_path / "home"), "METAMON_DATABASE_URL": postgres.url(database_name, ADMINISTRATOR)}
    log, port = tmp_path / "log", free_port()
    with process(METAMON, "web", "--port", str(port), log=log, environment=environment) as web:
        until(lambda: "Listening on" in log.read_text())
        headers = {"authorization": f"Bearer {token}", "content-type": JSON}
        sent = body(*(a_span(trace) for trace in range(1, 40)))
        answer = httpx2.post(f"http://127.0.0.1:{port}/v1/traces", content=sent, headers=headers, timeout=60)
        web.kill()
        assert answer.status_code == 200
    assert select(database, "SELECT count(*), (SELECT rows_inserted FROM metamon.ingestion_ledger) FROM metamon.traces") == [(39, 39)]


def test_the_exporter_carries_spans_over_a_restart_of_the_database(own_server: EmbeddedPostgres, caplog: pytest.LogCaptureFixture) -> None:
    """It is told to come back while the database is away: nothing is lost and nothing doubled."""
    url = own_server.url("metamon", WRITER)
    with serving(url) as server:
        provider = TracerProvider(resource=Resource.create({"service.name": "restarted"}))
        exporter = OTLPSpanExporter(server.traces, headers=server.headers, timeout=60)
        provider.add_span_processor(BatchSpanProcessor(exporter, max_export_batch_size=5, schedule_delay_millis=50))
        tracer = provider.get_tracer("test")
        for number in range(30):
            if number == 10:
                assert provider.force_flush(60_000)
                own_server.stop()
            tracer.start_span(f"span {number}").end()
            if number == 20:
                until(lambda: "Transient error" in caplog.text)
                own_server.start()
        provider.shutdown()
    counted = select(url, "SELECT count(*), count(DISTINCT name) FROM metamon.traces WHERE project = 'restarted'")
    assert counted == [(30, 30)]


# Real payloads ---------------------------------------------------------------------------------------------


def test_recorded_payloads_sent_now_are_in_the_buckets_and_the_report(shared_data: Path, database: str, tmp_path: Path) -> None:
    """Trial 7d: calls recorded with both instrumentations, posted live in both encodings, and computed at once."""
    paths = sorted((shared_data / "otlp").glob("otlp_*.json"))
    payloads = [moved_to_now(json.loads(path.read_text()), number) for number, path in enumerate(paths)]
    spans = [span for _, found in payloads for span in found]
    roots = sum(not span.get("parentSpanId") for span in spans)
    with serving(database, max_request_bytes=1_000_000) as server, ThreadPoolExecutor(8) as senders:

        def send(number: int) -> tuple[int, bytes]:
            if number % 2:
                answer = post(server, gzip.compress(orjson.dumps(payloads[number][0])), content_encoding="gzip")
            else:
                answer = post(server, message(payloads[number][0]).SerializeToString(), content_type=PROTOBUF)
            return answer.status_code, answer.content

        assert set(senders.map(send, range(len(payloads)))) == {(200, b"{}"), (200, b"")}
    counted = select(database, "SELECT (SELECT count(*) FROM metamon.traces), (SELECT count(*) FROM metamon.spans)")
    assert counted == [(roots, len(spans) - roots)]
    connection = connect(database)
    now = datetime.now(UTC)
    until(lambda: not drain(connection, now, share=1.0).waiting)
    ((requests, errors),) = select(
        database, "SELECT sum(requests), sum(errors) FROM metamon.five_minute_metrics WHERE dimension = 'overall'"
    )
    assert (requests, errors) == select(database, "SELECT count(*), count(*) FILTER (WHERE status = 'error') FROM metamon.traces")[0]
    report = build_report(connection, settings(tmp_path), now - timedelta(hours=1), now + timedelta(minutes=1), now)
    assert (report.facts.traces, report.failures) == (roots, [])
    connection.close()


def moved_to_now(document: Any, number: int) -> tuple[Any, list[dict[str, Any]]]:
    """A payload as if it had just happened, and its spans; trace ids are made different, since recordings share some."""
    spans = [span for resource in document["resourceSpans"] for scope in resource["scopeSpans"] for span in scope["spans"]]
    later = time.time_ns() - 5 * 10**9 - max(int(span["endTimeUnixNano"]) for span in spans)
    for span in spans:
        span["traceId"] = f"{number:04x}" + span["traceId"][4:]
        for name in ("startTimeUnixNano", "endTimeUnixNano"):
            span[name] = str(int(span[name]) + later)
        for event in span.get("events", ()):
            event["timeUnixNano"] = str(int(event["timeUnixNano"]) + later)
    return document, spans
