"""From the first bad rows being committed to the message at the receiver, with the real feed, web server and alert process.

Runs of many agents are posted as OTLP, five a second each. In every trial one agent more begins to fail half of its runs; the clock runs
from the answer to the first request with a failed run until the webhook's server has the message of that agent. Two ways: a rule without
duration (HighErrorRate with ``for: 0s``), which must have its twenty runs first; and the adaptive detector is left out here, since it
learns for a day (``detection.py`` measures it).
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from _common import Report, Target, arguments, database
from lag import _await, _listens, _request, _Runs

from metamon_assets.warehouse import connect

TARGETS = (
    Target("from bad rows committed to the message, median", "s"),
    Target("from bad rows committed to the message, p99", "s", 300, at_least=False),
    Target("messages for each incident", "", 1, at_least=False),
)
PER_SECOND = 5
AGENTS = 4
PATIENCE = 240.0
RULES = "HighErrorRate: {for: 0s, by: [agent], above: 0.2}\nAnomaly: {enabled: false}\n"


class _Inbox(BaseHTTPRequestHandler):
    """A webhook's server that keeps what it is sent, with the time."""

    taken: list[tuple[float, str]] = []  # noqa: RUF012 - one for all requests

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.taken.append((time.time(), body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@contextmanager
def _process(home: Path, environment: dict[str, str], *command: str) -> Iterator[None]:
    with (home / f"{command[0]}.log").open("ab") as out:
        process = subprocess.Popen([Path(sys.executable).with_name("metamon"), *command], stdout=out, stderr=out, env=environment)
    try:
        time.sleep(0.5)
        if process.poll() is not None:
            raise RuntimeError(f"metamon {command[0]} ended at once: {(home / f'{command[0]}.log').read_text()[-2000:]}")
        yield
    finally:
        process.terminate()
        process.wait(60)


class _Traffic(threading.Thread):
    """Posts runs of all agents each second; ``failing`` may be changed meanwhile."""

    def __init__(self, port: int, token: str, seed: int) -> None:
        super().__init__(name="traffic", daemon=True)
        self.failing: set[str] = set()
        self.failed_at: dict[str, float] = {}
        self.stopped = threading.Event()
        self._port, self._headers = port, {"Content-Type": "application/x-protobuf", "Authorization": f"Bearer {token}"}
        self._random, self._runs = random.Random(seed), _Runs(random.Random(seed))

    def run(self) -> None:
        from datetime import UTC, datetime

        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self.stopped.wait(1.0):
            runs = self._runs.draw([datetime.now(UTC)] * (PER_SECOND * AGENTS))
            for place, run in enumerate(runs):
                run["agent_name"] = f"agent-{place % AGENTS}"
                bad = run["agent_name"] in self.failing and self._random.random() < 0.5
                run["status"] = "error" if bad else "success"
            client.request("POST", "/v1/traces", _request(runs), self._headers)
            answer = client.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the web server answered {answer.status}")
            for run in runs:
                if run["status"] == "error":
                    self.failed_at.setdefault(run["agent_name"], time.time())


def main() -> int:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    report = Report("alerting", TARGETS, options)
    trials = 1 if options.quick else AGENTS
    inbox = ThreadingHTTPServer(("127.0.0.1", 0), _Inbox)
    threading.Thread(target=inbox.serve_forever, daemon=True).start()
    delays: list[float] = []
    with database() as (settings, url), ExitStack() as running:
        channel = {"type": "webhook", "url": "env:BENCHMARK_HOOK"}
        (settings.home / "metamon.yaml").write_text(json.dumps({"channels": {"hook": channel}, "alerts": {"shadow_hours": 0}}))
        (settings.home / "rules.yaml").write_text(RULES)
        hook = f"http://127.0.0.1:{inbox.server_address[1]}/hook"
        environment = os.environ | {"METAMON_LOG": "text", "BENCHMARK_HOOK": hook}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for command in (("feed",), ("web", "--port", str(port)), ("alerts",)):
            running.enter_context(_process(settings.home, environment, *command))
        _await(lambda: _listens(port), 60, "the web server does not answer")
        traffic = _Traffic(port, _token(url), options.seed)
        traffic.start()
        time.sleep(45)
        for number in range(trials):
            agent = f"agent-{number}"
            traffic.failing.add(agent)
            _await(lambda agent=agent: any(agent in body for _, body in _Inbox.taken), PATIENCE, f"no message of {agent}")
            told = next(at for at, body in _Inbox.taken if agent in body)
            delays.append(told - traffic.failed_at[agent])
            print(f"{agent}: {delays[-1]:.1f} s", flush=True)
            time.sleep(random.Random(f"{options.seed} {number}").uniform(0, 60))
        traffic.stopped.set()
        connection = connect(url)
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(DISTINCT incident_id) FROM metamon.incidents WHERE dimension = 'agent'")
            (incidents,) = cursor.fetchone() or (0,)
        connection.close()
    inbox.shutdown()
    delays.sort()
    report.record("from bad rows committed to the message, median", delays[len(delays) // 2], f"{trials} trials, a look each minute")
    report.record("from bad rows committed to the message, p99", delays[-1], "the longest")
    report.record("messages for each incident", len(_Inbox.taken) / max(incidents, 1), f"{len(_Inbox.taken)} of {incidents}")
    return report.finish()


def _token(url: str) -> str:
    from metamon_assets.web import tokens

    connection = connect(url)
    try:
        return tokens.create(connection, "benchmark", tokens.Role("ingest"), actor="benchmark")
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
