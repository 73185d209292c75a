"""The OTLP receiver: spans per second on one core from HTTP to committed rows, latency of requests, memory over time.

Spans are those of an agent with two model calls and two tools, with messages. Servers of the same web framework take the
same requests from clients on another core: one that only parses the protobuf, one that also makes every attribute a Python
object (neither keeps anything), the receiver with its database on the same one core, and both with all cores. Each answer
of the receiver stands for committed rows. The makers of a distribution of the OpenTelemetry Collector say that it takes
15,000 spans a second for each core (Splunk's documentation, "Sizing"); it is written in Go and stores nothing. The target
is set for processor time, which is what a core gives when it has nothing else to do; the figure by the clock is beside it.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _common import Report, Target, arguments, database

from metamon_assets.config import Settings
from metamon_assets.warehouse import connect

TARGETS = (
    Target("reading protobuf into rows", "spans/s"),
    Target("reading JSON into rows", "spans/s"),
    Target("a bare server that only parses, one core", "spans/s"),
    Target("a bare server that reads every attribute, one core", "spans/s"),
    Target("receiver and database on one core, to committed rows", "spans/s"),
    Target("the same for a second of their processor time", "spans/s", 5_000),
    Target("of what a bare server parses, by processor time", "×"),
    Target("of what a bare server reads, by processor time", "×"),
    Target("receiver and database on all cores, to committed rows", "spans/s"),
    Target("requests of 50 spans, one client: p50", "ms"),
    Target("requests of 50 spans, one client: p99", "ms", 500, at_least=False),
    Target("requests of 50 spans, eight clients: p50", "ms"),
    Target("requests of 50 spans, eight clients: p99", "ms", 1_000, at_least=False),
    Target("memory of the receiver at the end against the first quarter", "×", 1.1, at_least=False),
    Target("memory of its database connection, likewise", "×", 1.1, at_least=False),
)
SPANS_PER_TRACE, CLIENTS = 5, 8
STEADY_RATE = 2_000  # spans a second while memory is watched
ATTRIBUTES: tuple[dict[str, Any], ...] = (
    {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "support", "input.value": "How do I return my order? " * 4},
    {"gen_ai.operation.name": "chat", "gen_ai.system": "openai", "gen_ai.request.model": "gpt-4o-mini"},
    {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search", "gen_ai.tool.call.arguments": '{"query": "returns"}'},
    {"gen_ai.operation.name": "chat", "gen_ai.system": "openai", "gen_ai.request.model": "gpt-4o-mini"},
    {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "order", "gen_ai.tool.call.result": "delivered"},
)
RESOURCE = {
    "service.name": "shop",
    "service.version": "1.2.3",
    "deployment.environment.name": "production",
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.version": "1.38.0",
}


def main() -> int:
    parser = arguments("OTLP receiver: spans a second on one core, latency, memory.")
    parser.add_argument("--minutes", type=float, help="for which memory is watched (default 20; 1 with --quick)")
    parser.add_argument("--seconds", type=float, help="of each measurement of speed (default 30; 8 with --quick)")
    parser.add_argument("--serve", nargs=2, metavar=("WHAT", "DATABASE"), help="(for the script itself) serve")
    options = parser.parse_args()
    if options.serve:
        return _serve(*options.serve)
    options.minutes = options.minutes or (1 if options.quick else 20)
    options.seconds = options.seconds or (8 if options.quick else 30)
    report = Report("receiver", TARGETS, options)
    _reading(report)
    with database() as (settings, url):
        _speed(report, settings, url)
        _latency(report, url)
        _memory(report, url)
    return report.finish()


# Requests --------------------------------------------------------------------------------------------------


class Template:
    """A request of some traces whose ids are written anew each time, so that each request brings new rows."""

    def __init__(self, traces: int, seed: int) -> None:
        self._random = random.Random(seed)
        body, self._ids = _request(traces, self._random), []
        for trace in body.resource_spans[0].scope_spans[0].spans[::SPANS_PER_TRACE]:
            self._ids.append(trace.trace_id)
        self.spans = traces * SPANS_PER_TRACE
        self.body: bytes = body.SerializeToString()
        self._places = [[found.start() for found in re.finditer(re.escape(id_), self.body)] for id_ in self._ids]
        assert all(len(places) == SPANS_PER_TRACE for places in self._places)

    def fresh(self) -> bytes:
        made, new = bytearray(self.body), os.urandom(16 * len(self._places))
        for number, places in enumerate(self._places):
            for place in places:
                made[place : place + 16] = new[16 * number : 16 * number + 16]
        return bytes(made)


def _request(traces: int, rng: random.Random) -> Any:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    _set(resource.resource.attributes, RESOURCE)
    scope = resource.scope_spans.add()
    scope.scope.name, scope.scope.version = "opentelemetry.instrumentation.openai_v2", "2.1"
    now = time.time_ns()
    for _ in range(traces):
        trace_id, root = rng.randbytes(16), rng.randbytes(8)
        start = now - rng.randrange(60 * 10**9)
        for number, attributes in enumerate(ATTRIBUTES):
            span = scope.spans.add(trace_id=trace_id, span_id=rng.randbytes(8) if number else root, name="step", kind=3)
            span.parent_span_id = root if number else b""
            span.start_time_unix_nano, span.end_time_unix_nano = start + number, start + rng.randrange(10**8, 10**10)
            _set(span.attributes, attributes | _drawn(number, rng))
            if rng.random() < 0.02:
                span.status.code = 2
                _set(span.attributes, {"error.type": "timeout"})
    return request


def _drawn(number: int, rng: random.Random) -> dict[str, Any]:
    if number == 0:
        ids = {name: f"{name[0]}{rng.randrange(most)}" for name, most in (("user.id", 500), ("session.id", 2_000), ("tenant.id", 10))}
        return ids | {"output.value": "You can return it within 30 days. " * 4}
    if number % 2:
        messages = json.dumps([{"role": "user", "content": "How do I return my order? " * rng.randrange(2, 12)}])
        tokens = {"gen_ai.usage.input_tokens": rng.randrange(100, 3_000), "gen_ai.usage.output_tokens": rng.randrange(10, 500)}
        said = {"gen_ai.response.id": f"chatcmpl-{rng.randbytes(8).hex()}", "gen_ai.response.model": "gpt-4o-mini-2024-07-18"}
        return {"gen_ai.input.messages": messages, "server.address": "api.openai.com", "gen_ai.request.temperature": 0.2} | tokens | said
    return {}


def _set(target: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        kind = {str: "string_value", int: "int_value", float: "double_value"}[type(value)]
        setattr(target.add(key=key).value, kind, value)


# The servers -----------------------------------------------------------------------------------------------


def _serve(what: str, url: str) -> int:
    """Serve one of them; the port is printed."""
    import uvicorn
    from fastapi import FastAPI
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from metamon_assets.traces.receiver import Receiver
    from metamon_assets.traces.sources.otlp_protobuf import traces_document
    from metamon_assets.web import otlp

    app = FastAPI()
    if what == "parsing":
        _add_bare_route(app, ExportTraceServiceRequest.FromString)
    elif what == "reading":
        _add_bare_route(app, traces_document)
    else:
        app.include_router(otlp.router(Receiver(url, Settings.load()), lambda _: lambda: None))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, http="h11")
    listening = config.bind_socket()
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def _add_bare_route(app: Any, read: Callable[[bytes], object]) -> None:
    from fastapi import Request, Response
    from fastapi.concurrency import run_in_threadpool
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    async def traces(request: Request) -> Response:
        body = await request.body()
        await run_in_threadpool(read, body)
        return Response(ExportTraceServiceResponse().SerializeToString(), media_type="application/x-protobuf")

    # The annotations are texts here; what they name is not seen from outside this function.
    traces.__annotations__ = {"request": Request, "return": Response}
    app.post("/v1/traces")(traces)


@contextmanager
def _server(what: str, url: str, cores: set[int]) -> Iterator[tuple[int, int]]:
    """A server in a process of its own on some cores: its port and its process."""
    process = subprocess.Popen([sys.executable, __file__, "--serve", what, url], stdout=subprocess.PIPE, text=True)
    try:
        os.sched_setaffinity(process.pid, cores)
        assert process.stdout is not None
        port = int(process.stdout.readline())
        _await(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(60)


def _await(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def _placed(settings: Settings) -> Iterator[Callable[[set[int]], None]]:
    """Clients on the last core; gives how to place the database (its new connections) on some."""
    every = os.sched_getaffinity(0)
    postmaster = int((settings.home / "postgres" / "data" / "postmaster.pid").read_text(encoding="ascii").split()[0])
    os.sched_setaffinity(0, {max(every)})
    try:
        yield lambda cores: os.sched_setaffinity(postmaster, cores)
    finally:
        os.sched_setaffinity(postmaster, every)
        os.sched_setaffinity(0, every)


# Load ------------------------------------------------------------------------------------------------------


def _load(port: int, templates: list[Template], seconds: float, rate: float = 0) -> tuple[int, float, list[float]]:
    """One client for each template, each sending its next request when the last is answered (or at ``rate`` requests a
    second together): accepted spans, seconds, and seconds of each request."""
    latencies: list[list[float]] = [[] for _ in templates]
    begun, end = time.perf_counter(), time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        due = begun
        while time.perf_counter() < end:
            body = templates[number].fresh()
            sent = time.perf_counter()
            connection.request("POST", "/v1/traces", body, {"Content-Type": "application/x-protobuf"})
            answer = connection.getresponse()
            assert (answer.read(), answer.status) == (b"", 200), answer.status
            latencies[number].append(time.perf_counter() - sent)
            if rate:
                due += len(templates) / rate
                time.sleep(max(due - time.perf_counter(), 0))
        connection.close()

    with ThreadPoolExecutor(len(templates)) as clients:
        list(clients.map(client, range(len(templates))))
    took = time.perf_counter() - begun
    spans = sum(len(each) * template.spans for each, template in zip(latencies, templates, strict=True))
    return spans, took, [latency for each in latencies for latency in each]


# Measurements ----------------------------------------------------------------------------------------------


def _reading(report: Report) -> None:
    """From bytes to the batch that is written, without the database."""
    from google.protobuf.json_format import MessageToJson

    from metamon_assets.traces.sources.otlp import parse_traces
    from metamon_assets.traces.sources.otlp_protobuf import traces_document

    message = _request(200, random.Random(report.arguments.seed))
    binary, text = message.SerializeToString(), MessageToJson(message, indent=None).encode()
    spans, now = 200 * SPANS_PER_TRACE, datetime.now(UTC)
    for name, read in (
        ("reading protobuf into rows", lambda: parse_traces(traces_document(binary), now)),
        ("reading JSON into rows", lambda: parse_traces(text, now)),
    ):
        speeds = []
        for _ in range(7):
            begun = time.process_time()
            assert read().rows.num_rows == spans
            speeds.append(spans / (time.process_time() - begun))
        size = len(binary) if "protobuf" in name else len(text)
        report.record(name, speeds, f"{size / spans:.0f} bytes a span, processor time")


def _speed(report: Report, settings: Settings, url: str) -> None:
    seconds, seed = report.arguments.seconds, report.arguments.seed
    templates = [Template(100, seed + number) for number in range(CLIENTS)]
    every = os.sched_getaffinity(0)
    one = {min(every)}
    with _placed(settings) as place:
        figures, processor = {}, {}
        for what, cores in (("parsing", one), ("reading", one), ("ours", one), ("all", every)):
            place(cores)
            with _server(what, url, cores) as (port, pid):
                _load(port, templates, min(seconds / 4, 5))  # warm
                processes = [pid] if what in ("parsing", "reading") else [pid, _backend(url)]
                before = sum(map(_processor_seconds, processes))
                spans, took, _ = _load(port, templates, seconds)
                processor[what] = spans / (sum(map(_processor_seconds, processes)) - before)
            figures[what] = spans / took
    size = len(templates[0].body) // templates[0].spans
    note = f"{CLIENTS} clients on another core, requests of {templates[0].spans} spans, {size} bytes each"
    for what, name in (("parsing", "a bare server that only parses"), ("reading", "a bare server that reads every attribute")):
        report.record(f"{name}, one core", figures[what], f"{note}; {processor[what]:,.0f} by processor time")
    report.record("receiver and database on one core, to committed rows", figures["ours"], f"{seconds:.0f} s by the clock")
    report.record("the same for a second of their processor time", processor["ours"])
    report.record("of what a bare server parses, by processor time", processor["ours"] / processor["parsing"])
    report.record("of what a bare server reads, by processor time", processor["ours"] / processor["reading"])
    note = f"{len(every)} cores, the clients' included; {processor['all']:,.0f} by processor time"
    report.record("receiver and database on all cores, to committed rows", figures["all"], note)


def _latency(report: Report, url: str) -> None:
    seed = report.arguments.seed
    with _server("ours", url, os.sched_getaffinity(0)) as (port, _):
        for clients, word in ((1, "one client"), (CLIENTS, "eight clients")):
            templates = [Template(10, seed + number) for number in range(clients)]
            _load(port, templates, 2)
            spans, took, latencies = _load(port, templates, report.arguments.seconds)
            cuts = statistics.quantiles(latencies, n=100)
            note = f"{len(latencies):,} requests, {spans / took:,.0f} spans/s"
            report.record(f"requests of 50 spans, {word}: p50", cuts[49] * 1000, note)
            report.record(f"requests of 50 spans, {word}: p99", cuts[98] * 1000)


def _memory(report: Report, url: str) -> None:
    minutes = report.arguments.minutes
    templates = [Template(20, report.arguments.seed + number) for number in range(4)]
    with _server("ours", url, os.sched_getaffinity(0)) as (port, pid):
        _load(port, templates, 5)
        backend = _backend(url)
        samples: list[tuple[float, float]] = []
        stopped = threading.Event()

        def watch() -> None:
            while not stopped.wait(0.25):
                samples.append((_anonymous(pid), _anonymous(backend)))

        watching = threading.Thread(target=watch)
        watching.start()
        spans, took, _ = _load(port, templates, minutes * 60, rate=STEADY_RATE / templates[0].spans)
        stopped.set()
        watching.join()
    quarter = len(samples) // 4
    for position, name in enumerate(
        ("memory of the receiver at the end against the first quarter", "memory of its database connection, likewise")
    ):
        first, last = (statistics.median(sample[position] for sample in part) for part in (samples[:quarter], samples[-quarter:]))
        note = f"{minutes:g} minutes at {spans / took:,.0f} spans/s: {first:.0f} and {last:.0f} MB (medians of quarters)"
        report.record(name, last / first, note)


def _backend(url: str) -> int:
    """The database's process for the receiver that was started last."""
    connection = connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'metamon receiver' ORDER BY backend_start DESC")
        (pid,) = cursor.fetchone()  # type: ignore[misc]
    connection.close()
    return int(pid)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _anonymous(pid: int) -> float:
    """Anonymous memory of a process in MB."""
    return int(Path(f"/proc/{pid}/status").read_text(encoding="ascii").split("RssAnon:")[1].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main())
