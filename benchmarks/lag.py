"""How long after a run's end it is counted in its buckets, through each way in, with the real feed and the real web server.

Runs end evenly in time and are sent in the order of their ends, so the k-th run is counted when the buckets' totals have
grown by k: a watcher reads the totals ten times a second, beside what is measured. The buckets that are computed again
hold the traffic of the minutes before at the same rate, filled in beforehand. Completion buckets are those by the end
of a run (detection), reporting buckets those by its start.

Through files the poll interval dominates: half of it in the middle, all of it at worst, before anything is read.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from _common import Report, Target, arguments, database
from rollups import SPANS, TRACES, settle

from metamon_assets.config import FilesSource, Settings
from metamon_assets.metrics import refresh_five_minutes
from metamon_assets.metrics.completions import BUCKET, bucket_of, refresh_completions
from metamon_assets.warehouse import connect, server

RATES = (50, 500)
PATHS = ("merged directly", "OTLP by POST", "lines in a file")
# Seconds that p99 may be, by rate: completion bucket, reporting bucket. Files: one poll more.
LIMITS = {50: (5, 15), 500: (15, 60)}
CLOCKS = ("completion bucket", "reporting bucket")


def _name(path: str, rate: int, clock: str, quantile: str) -> str:
    return f"{path}, {rate} runs/s, to the {clock}: {quantile}"


TARGETS = (
    *(
        Target(
            _name(path, rate, clock, quantile),
            "s",
            LIMITS[rate][number] + (60 if path == PATHS[2] else 0) if quantile == "p99" else None,
            at_least=False,
        )
        for path in PATHS
        for rate in RATES
        for number, clock in enumerate(CLOCKS)
        for quantile in ("p50", "p99")
    ),
    Target("memory of the feed at the end against the first quarter", "×", 1.1, at_least=False),
    Target("memory of the web server, likewise", "×", 1.1, at_least=False),
    Target("memory of their database connections, likewise", "×", 1.1, at_least=False),
)
AGENTS, MODELS, TENANTS = 10, 12, 20
EVERY = 0.25  # seconds from one sending to the next
PATIENCE = 240  # seconds after the last run within which it must be counted


def main() -> int:
    parser = arguments("Lag from a run's end to its bucket: p50 and p99 at 50 and 500 runs/s through each path; memory.")
    parser.add_argument("--seconds", type=float, help="of each measurement (default 180; 30 with --quick)")
    parser.add_argument("--minutes", type=float, help="for which memory is watched (default 20; 1 with --quick)")
    parser.add_argument("--before", type=float, help="minutes of traffic that are there already (default 15; 5 with --quick)")
    parser.add_argument("--rates", type=int, nargs="*", default=list(RATES), choices=RATES)
    parser.add_argument("--paths", nargs="*", default=list(PATHS), choices=PATHS)
    options = parser.parse_args()
    options.seconds = options.seconds or (30 if options.quick else 180)
    options.minutes = options.minutes or (1 if options.quick else 20)
    options.before = options.before or (5 if options.quick else 15)
    report = Report("lag", TARGETS, options)
    for rate in options.rates:
        with database() as (settings, url):
            bench = _Bench(report, settings, url, rate)
            bench.fill(options.before)
            with bench.feed():
                for path in options.paths:
                    if path != PATHS[2]:
                        bench.measure(path, options.seconds)
                if rate == RATES[0] and PATHS[1] in options.paths:
                    bench.measure_memory(options.minutes)
            if PATHS[2] in options.paths:
                with bench.feed_of_files() as file:
                    bench.measure_files(file, options.seconds)
    return report.finish()


# What runs look like, by path ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Runs:
    """Draws runs that end at given moments."""

    random: random.Random
    count: int = 0

    def draw(self, ends: Sequence[datetime]) -> list[dict[str, Any]]:
        return [self._run(end) for end in ends]

    def _run(self, end: datetime) -> dict[str, Any]:
        self.count += 1
        draw = self.random
        agent, seconds = draw.randrange(AGENTS), min(draw.lognormvariate(0.5, 0.8), 60)
        return {
            "run_id": f"{draw.getrandbits(128):032x}",
            "agent_name": f"agent-{agent}",
            "agent_version": f"v{agent * 3 + draw.randrange(3)}",
            "tenant_id": f"tenant-{draw.randrange(TENANTS)}",
            "environment": "production",
            "request_model": f"model-{draw.randrange(MODELS)}",
            "input_tokens": draw.randrange(100, 3000),
            "output_tokens": draw.randrange(10, 500),
            "start_time": end - timedelta(seconds=seconds),
            "end_time": end,
            "latency_seconds": seconds,
            "status": "error" if draw.random() < 0.02 else "success",
        }


class _Sender(Protocol):
    """A way in: takes what ended since it was asked last."""

    note: str

    def __call__(self, runs: list[dict[str, Any]]) -> None: ...


class _Merged:
    """The rows are merged by this process, as the live feed does after it has asked a source."""

    note = f"merged every {EVERY:g} s, no waiting for a poll"
    name, project = "live", "benchmark"

    def __init__(self, settings: Settings, url: str) -> None:
        from metamon_assets.traces.configured import rules_for

        self._connection = connect(url)
        part = FilesSource.model_validate({"type": "files", "project": self.project, "path": "none"})
        self._rules = rules_for(self._connection, settings, part)
        self._runs: list[dict[str, Any]] = []

    def __call__(self, runs: list[dict[str, Any]]) -> None:
        from metamon_assets.traces.ingest import ingest
        from metamon_assets.traces.sources.base import Kind

        self._runs = runs
        ingest(self._connection, self, Kind.RUNS, None, self._rules, touch=True)

    def read(self, kind: Any, window: Any) -> Iterator[Any]:
        import pyarrow as pa

        from metamon_assets.traces.columns import RUNS
        from metamon_assets.traces.sources.base import Batch

        more = {"source": self.name, "project": self.project, "run_type": "chain", "observed_time": datetime.now(UTC)}
        rows = [run | more | {"trace_id": run["run_id"]} for run in self._runs]
        schema = pa.schema([RUNS.field(name) for name in rows[0]])
        yield Batch(kind, pa.Table.from_pylist(rows, schema=schema))

    def count(self, window: Any) -> Any:
        from metamon_assets.traces.sources.base import SourceCount

        return SourceCount()


class _Posted:
    """An agent's run and its model call as two spans, sent as an exporter sends them."""

    note = f"a run and its model call, one request every {EVERY:g} s"

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {"Content-Type": "application/x-protobuf", "Authorization": f"Bearer {token}"}

    def __call__(self, runs: list[dict[str, Any]]) -> None:
        self._connection.request("POST", "/v1/traces", _request(runs), self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if (answer.status, content) != (200, b""):
            raise RuntimeError(f"the web server answered {answer.status}: {content[:300]!r}")


def _request(runs: list[dict[str, Any]]) -> bytes:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    _set(resource.resource.attributes, {"service.name": "shop", "deployment.environment.name": "production"})
    scope = resource.scope_spans.add()
    for run in runs:
        trace_id, root = bytes.fromhex(run["run_id"]), bytes.fromhex(run["run_id"][:16])
        start, end = (int(run[name].timestamp() * 1e6) * 1000 for name in ("start_time", "end_time"))
        for number in range(2):
            span = scope.spans.add(trace_id=trace_id, name="step", kind=3, start_time_unix_nano=start, end_time_unix_nano=end)
            span.span_id, span.parent_span_id = (root, b"") if number == 0 else (root[::-1], root)
            span.status.code = 2 if run["status"] == "error" else 1
            if number == 0:
                agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": run["agent_name"]}
                _set(span.attributes, agent | {"gen_ai.agent.version": run["agent_version"], "tenant.id": run["tenant_id"]})
            else:
                call = {"gen_ai.operation.name": "chat", "gen_ai.system": "openai", "gen_ai.request.model": run["request_model"]}
                tokens = {f"gen_ai.usage.{name}": run[name] for name in ("input_tokens", "output_tokens")}
                _set(span.attributes, call | tokens)
    return bytes(request.SerializeToString())


def _set(target: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        setattr(target.add(key=key).value, "int_value" if isinstance(value, int) else "string_value", value)


class _Appended:
    """Lines of JSON at the end of a file that the feed polls."""

    def __init__(self, file: Path, note: str) -> None:
        self._file, self.note = file, note

    def __call__(self, runs: list[dict[str, Any]]) -> None:
        with self._file.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(run, default=lambda value: value.isoformat()) + "\n" for run in runs)


# The measurement -------------------------------------------------------------------------------------------------


@dataclass
class _Bench:
    """A home with its database, and traffic at one rate."""

    report: Report
    settings: Settings
    url: str
    rate: int
    processes: dict[str, int] = field(default_factory=dict)
    measured: int = 0

    def fill(self, minutes: float) -> None:
        """The traffic of the last minutes, its buckets computed."""
        connection, now = connect(self.url), datetime.now(UTC)
        start = now - timedelta(minutes=minutes)
        rows = int(self.rate * minutes * 60)
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT setseed(%s)", (self.report.arguments.seed % 1000 / 1000,))
            for table, statement in (("traces", TRACES), ("spans", SPANS)):
                cursor.execute("SELECT metamon.ensure_partition(%s, %s)", (table, start.date()))
                spread = statement.replace("86400.0 / %(count)s", f"{1 / self.rate!r}")
                spread = spread.replace("%(day)s::timestamp AT TIME ZONE 'UTC'", "%(start)s::timestamptz")
                cursor.execute(spread, {"day": start.date(), "start": start, "count": rows})
            cursor.execute("DELETE FROM metamon.traces WHERE end_time > %s", (now,))
        settle(connect(server.database_url(self.settings)))
        moments = [bucket_of(start) + number * BUCKET for number in range(int((now - bucket_of(start)) / BUCKET) + 1)]
        refresh_completions(connection, moments, datetime.now(UTC))
        refresh_five_minutes(connection, moments, datetime.now(UTC))
        connection.close()

    @contextmanager
    def feed(self) -> Iterator[None]:
        with self._process("feed", "feed"):
            yield

    @contextmanager
    def feed_of_files(self) -> Iterator[Path]:
        """The feed with a file to poll."""
        folder = self.settings.home / "lines"
        folder.mkdir()
        part = json.dumps({"type": "files", "project": "benchmark", "path": str(folder)})
        interval = 10 if self.report.arguments.quick else 60
        configuration = f"sources: [{part}]\nfeed: {{interval_seconds: {interval}}}\n"
        (self.settings.home / "metamon.yaml").write_text(configuration, encoding="utf-8")
        with self.feed():
            yield folder / "runs.jsonl"

    def measure(self, path: str, seconds: float) -> None:
        """The lag through a path that is sent to."""
        if path == PATHS[0]:
            self._record(path, *self._lags(_Merged(self.settings, self.url), seconds))
        else:
            with self._web() as sender:
                self._record(path, *self._lags(sender, seconds))

    def measure_files(self, file: Path, seconds: float) -> None:
        interval = 10 if self.report.arguments.quick else 60
        sender = _Appended(file, f"polled every {interval} s, which dominates")
        self._record(PATHS[2], *self._lags(sender, max(seconds, 2 * interval)))

    def measure_memory(self, minutes: float) -> None:
        """Memory of the processes while runs are posted."""
        samples: list[tuple[float, float, float]] = []
        stopped = threading.Event()
        with self._web() as sender:
            watcher = threading.Thread(target=self._watch_memory, args=(samples, stopped))
            watcher.start()
            try:
                self._lags(sender, minutes * 60)
            finally:
                stopped.set()
                watcher.join()
        quarter = max(len(samples) // 4, 1)
        names = [target.name for target in TARGETS if target.name.startswith("memory")]
        for position, name in enumerate(names):
            first, last = (statistics.median(sample[position] for sample in part) for part in (samples[:quarter], samples[-quarter:]))
            self.report.record(name, last / first, f"{minutes:g} minutes at {self.rate} runs/s by POST: {first:.0f} and {last:.0f} MB")

    def _record(self, path: str, lags: dict[str, list[float]], note: str) -> None:
        for clock in CLOCKS:
            cuts = statistics.quantiles(lags[clock], n=100)
            self.report.record(_name(path, self.rate, clock, "p50"), cuts[49], note)
            self.report.record(_name(path, self.rate, clock, "p99"), cuts[98], f"{len(lags[clock]):,} runs")

    def _lags(self, sender: _Sender, seconds: float) -> tuple[dict[str, list[float]], str]:
        """Seconds from each run's end until each clock's buckets had it."""
        self.measured += 1  # no two measurements draw the same runs
        runs = _Runs(random.Random(f"{self.report.arguments.seed} {self.rate} {self.measured}"))
        watcher = _Watcher(self.url)
        watcher.start()
        ends: list[float] = []
        begun = sent_until = time.time()
        try:
            while sent_until < begun + seconds:
                time.sleep(max(sent_until + EVERY - time.time(), 0))
                until = time.time()
                count = round((until - begun) * self.rate) - len(ends)
                fresh = [sent_until + (until - sent_until) * (number + 1) / count for number in range(count)]
                sender(runs.draw([datetime.fromtimestamp(end, UTC) for end in fresh]))
                ends += fresh
                sent_until = until
            watcher.await_growth(len(ends))
        finally:
            watcher.stop()
        behind = len(ends) / (sent_until - begun) / self.rate
        note = sender.note + ("" if behind > 0.99 else f"; the path took only {behind:.0%} of the rate")
        return {clock: watcher.lags(clock, ends) for clock in CLOCKS}, note

    # Processes

    @contextmanager
    def _process(self, name: str, *command: str) -> Iterator[None]:
        log = self.settings.home / f"{name}.log"
        with log.open("ab") as out:
            metamon = Path(sys.executable).with_name("metamon")
            process = subprocess.Popen([metamon, *command], stdout=out, stderr=out, env=os.environ | {"METAMON_LOG": "text"})
        self.processes[name] = process.pid
        try:
            time.sleep(0.5)
            if process.poll() is not None:
                raise RuntimeError(f"metamon {name} ended at once:\n{log.read_text(encoding='utf-8')[-2000:]}")
            yield
        finally:
            process.terminate()
            process.wait(60)

    @contextmanager
    def _web(self) -> Iterator[_Posted]:
        from metamon_assets.web import tokens

        connection = connect(self.url)
        token = tokens.create(connection, f"benchmark {time.time()}", tokens.Role("ingest"), actor="benchmark")
        connection.close()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with self._process("web", "web", "--port", str(port)):
            _await(lambda: _listens(port), 60, "the web server does not answer")
            yield _Posted(port, token)

    def _watch_memory(self, samples: list[tuple[float, float, float]], stopped: threading.Event) -> None:
        connection = connect(self.url, "benchmark")
        while not stopped.wait(1):
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'metamon%%'"
                    " AND backend_type = 'client backend'"
                )
                backends = [pid for (pid,) in cursor.fetchall()]
            feed, web = (_anonymous(self.processes[name]) for name in ("feed", "web"))
            samples.append((feed, web, sum(map(_anonymous, backends))))
        connection.close()


class _Watcher(threading.Thread):
    """Reads ten times a second how many runs the buckets of each clock hold."""

    QUERIES = (
        (CLOCKS[0], "SELECT sum(completed) FROM metamon.completion_metrics WHERE dimension = 'overall' AND day >= %s"),
        (CLOCKS[1], "SELECT sum(requests) FROM metamon.five_minute_metrics WHERE dimension = 'overall' AND day >= %s"),
    )

    def __init__(self, url: str) -> None:
        super().__init__(name="watcher")
        self._connection = connect(url, "benchmark")
        self._stopped = threading.Event()
        self._day = datetime.now(UTC).date() - timedelta(days=1)
        self._base = {clock: self._total(query) for clock, query in self.QUERIES}
        self.seen: dict[str, list[tuple[int, float]]] = {clock: [(0, time.time())] for clock in CLOCKS}

    def run(self) -> None:
        """Look until it is stopped."""
        while not self._stopped.wait(0.1):
            for clock, query in self.QUERIES:
                grown = self._total(query) - self._base[clock]
                if grown > self.seen[clock][-1][0]:
                    self.seen[clock].append((grown, time.time()))

    def stop(self) -> None:
        """End, and close the connection."""
        self._stopped.set()
        self.join()
        self._connection.close()

    def await_growth(self, count: int) -> None:
        """Wait until both clocks have counted so many."""
        _await(lambda: all(self.seen[clock][-1][0] >= count for clock in CLOCKS), PATIENCE, f"of {count:,} runs some were never counted")

    def lags(self, clock: str, ends: Sequence[float]) -> list[float]:
        """Seconds from each end until so many were counted."""
        counts, times = zip(*self.seen[clock], strict=True)
        return [times[bisect_left(counts, number)] - end for number, end in enumerate(ends, 1)]

    def _total(self, query: str) -> int:
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(query, (self._day,))
            row = cursor.fetchone()
        return int(row[0] or 0) if row else 0


def _await(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(0.1)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def _anonymous(pid: int) -> float:
    """Anonymous memory of a process in MB; 0 when it has just ended."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text(encoding="ascii").split("RssAnon:")[1].split()[0]) / 1024
    except (FileNotFoundError, IndexError, ProcessLookupError):
        return 0.0


if __name__ == "__main__":
    sys.exit(main())
