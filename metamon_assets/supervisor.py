"""``metamon up``: starts Postgres and Dagster's processes, watches them, starts dead ones again, stops all together.

Here belongs everything about processes of a home, and no Dagster: what is watched must not run the watch. One
supervisor per home, by a lock that its death releases. A guard process ends the children when the supervisor is
killed without a chance to do so itself. Everything listens on loopback only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.config import Settings

HOST = "127.0.0.1"
DEFINITIONS = "metamon_assets.definitions"
LONGEST_PAUSE_SECONDS = 60.0
STEADY_SECONDS = 60.0  # a process that ran this long starts its back-off anew
STOP_SECONDS = 15.0
LOG_LIMIT = 10_000_000  # bytes; a longer log is put aside when its process starts
GUARD = f"from {__name__} import guard; guard()"
Progress = Callable[[str], None]


class SupervisorError(MetamonError):
    """The processes of a home cannot be started or stopped; the message says why and what to do."""


@dataclass
class Child:
    """A process that is kept alive."""

    name: str
    command: list[str]
    log: Path
    needs_port: int | None = None  # starts only when something listens there
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    failures: int = 0  # in a row
    not_before: float = 0.0
    last_exit: int | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None


@dataclass
class Supervisor:
    """The processes of one home. ``run`` returns when it was told to stop by SIGINT, SIGTERM or ``stop``."""

    settings: Settings
    progress: Progress
    definitions: str = DEFINITIONS
    children: list[Child] = field(default_factory=list)
    ui: str = ""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    _stopping: bool = False
    _guard: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Start everything, keep it running, stop everything. Raises SupervisorError, PostgresError, MigrationError."""
        from metamon_assets.warehouse import server

        with lock(self.settings.home), self._signals():
            with server.ready(self.settings, self.progress):
                server.prepare_dagster_storage(self.settings)
                environment = dagster_environment(self.settings)
                self._guard = _start_guard()
                try:
                    self._plan()
                    self._watch(environment)
                finally:
                    self._end_children()
            self.progress("Stopped.")

    def stop(self, *_: object) -> None:
        """Ask ``run`` to end; also the handler of SIGINT and SIGTERM."""
        self._stopping = True

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Handlers of our own, also where a non-interactive shell made SIGINT ignored."""
        before = {number: signal.signal(number, self.stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _plan(self) -> None:
        """What runs: a code server, and the UI and the daemon that both ask it for the definitions."""
        code_port = free_port()
        ui_port = free_port(self.settings.ui_port)
        self.ui = f"http://{HOST}:{ui_port}"
        if ui_port != self.settings.ui_port:
            self.progress(f"Port {self.settings.ui_port} is taken: the Dagster UI comes to port {ui_port}")
        workspace = self.settings.dagster_home / "workspace.yaml"
        served = {"grpc_server": {"host": HOST, "port": code_port, "location_name": "metamon"}}
        workspace.write_text(json.dumps({"load_from": [served]}))  # JSON is YAML
        bin_folder = Path(sysconfig.get_path("scripts"))
        logs = self.settings.logs
        logs.mkdir(parents=True, exist_ok=True)
        code_server = [str(bin_folder / "dagster"), "code-server", "start", "-m", self.definitions, "-h", HOST, "-p", str(code_port)]
        webserver = [str(bin_folder / "dagster-webserver"), "-h", HOST, "-p", str(ui_port), "-w", str(workspace)]
        daemon = [str(bin_folder / "dagster-daemon"), "run", "-w", str(workspace)]
        self.children = [
            Child("code-server", code_server, logs / "code-server.log"),
            Child("webserver", webserver, logs / "webserver.log", needs_port=code_port),
            Child("daemon", daemon, logs / "daemon.log", needs_port=code_port),
        ]

    def _watch(self, environment: dict[str, str]) -> None:
        told = False
        while not self._stopping:
            changed = [self._tend(child, environment) for child in self.children]
            if any(changed):
                self._write_state()
            if not told and answers(self.ui):
                told = True
                self.progress(f"Dagster UI: {self.ui}")
                self.progress(f"Logs: {self.settings.logs}. Ctrl-C stops everything.")
            time.sleep(0.25)

    def _tend(self, child: Child, environment: dict[str, str]) -> bool:
        """Start the child when it does not run and its pause is over; True when something changed."""
        now = time.monotonic()
        if child.alive:
            return False
        if child.process is not None:
            self._note_death(child, now)
            return True
        if now < child.not_before or (child.needs_port is not None and not _accepts(child.needs_port)):
            return False
        _put_aside(child.log)
        with child.log.open("ab") as log:
            child.process = subprocess.Popen(
                child.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.settings.home,
                start_new_session=True,
            )
        self._tell_guard("+", child.process.pid)
        child.started = now
        return True

    def _note_death(self, child: Child, now: float) -> None:
        assert child.process is not None
        child.last_exit = child.process.returncode
        _signal_group(child.process.pid, signal.SIGKILL)  # what it may have left behind
        self._tell_guard("-", child.process.pid)
        child.process = None
        child.failures = 1 if now - child.started > STEADY_SECONDS else child.failures + 1
        pause = min(2.0 ** (child.failures - 1), LONGEST_PAUSE_SECONDS)
        child.not_before = now + pause
        child.restarts += 1
        self.progress(f"{child.name} ended ({_ending(child.last_exit)}); it starts again in {pause:.0f} s. See {child.log}")

    def _end_children(self) -> None:
        """Ask all of them, wait a while, then insist."""
        processes = [child.process for child in self.children if child.process is not None]
        for process in processes:
            _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0))
        for process in processes:
            _signal_group(process.pid, signal.SIGKILL)  # also what else is in its group
            process.wait()
            self._tell_guard("-", process.pid)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()

    def _tell_guard(self, sign: str, group: int) -> None:
        assert self._guard is not None
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{sign}{group}\n".encode())
        self._guard.stdin.flush()

    def _write_state(self) -> None:
        """What ``metamon status`` and ``down`` read; whole or not at all."""
        processes = [
            {"name": child.name, "pid": child.process.pid if child.process else None, "restarts": child.restarts, "log": str(child.log)}
            for child in self.children
        ]
        state = {"pid": os.getpid(), "since": f"{self.since:%Y-%m-%d %H:%M} UTC", "ui": self.ui, "processes": processes}
        path = _state_file(self.settings.home)
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps(state))
        unfinished.replace(path)


def guard() -> None:
    """Runs as a process of its own: when the supervisor's end of the pipe closes, ends what the supervisor left behind."""
    from metamon_assets.config import Settings
    from metamon_assets.warehouse import server

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for number in (signal.SIGTERM, signal.SIGKILL):
        for group in groups:
            _signal_group(group, number)
        deadline = time.monotonic() + 5
        while groups and time.monotonic() < deadline and number == signal.SIGTERM and any(map(_group_exists, groups)):
            time.sleep(0.1)
    settings = Settings.load()
    if settings.database_url is None:
        server.stop_if_unused(settings)


@contextmanager
def lock(home: Path) -> Iterator[None]:
    """Hold the home's supervisor lock. Raises SupervisorError when another supervisor has it."""
    home.mkdir(parents=True, exist_ok=True)
    with _lock_file(home).open("a") as file:
        if not _take(file):
            other = read_state(home) or {}
            raise SupervisorError(
                f"{home} is already up: process {other.get('pid', 'unknown')} since {other.get('since', 'a moment ago')}, "
                f"Dagster UI at {other.get('ui') or 'an address not known yet'}. Stop it with `metamon down`, or use another METAMON_HOME."
            )
        try:
            yield
        finally:
            _state_file(home).unlink(missing_ok=True)


def _take(file: IO[str]) -> bool:
    """The lock, tried for a moment: ``read_state`` in another process may hold it for an instant."""
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def read_state(home: Path) -> dict[str, Any] | None:
    """What the running supervisor of ``home`` wrote down; None when none runs. Empty while it starts."""
    try:
        with _lock_file(home).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        path = _state_file(home)
        return dict(json.loads(path.read_text())) if path.exists() else {}


def _lock_file(home: Path) -> Path:
    return home / "supervisor.lock"


def _state_file(home: Path) -> Path:
    return home / "supervisor.json"


def down(settings: Settings, progress: Progress, timeout_seconds: float = 90.0) -> bool:
    """Stop the supervisor of the home, and an embedded Postgres that nobody uses; False when nothing ran."""
    from metamon_assets.warehouse import server
    from metamon_assets.warehouse.postgres import EmbeddedPostgres

    state = read_state(settings.home)
    if state is not None:
        _stop_supervisor(settings.home, state, timeout_seconds)
        progress("Stopped.")
        return True
    if settings.database_url is not None or not EmbeddedPostgres(settings.home).status().running:
        return False
    if not server.stop_if_unused(settings):
        raise SupervisorError(f"Postgres in {settings.home} is in use by another command of Metamon: wait until that ends, or stop it.")
    progress("Stopped Postgres, which a killed process had left running.")
    return True


def _stop_supervisor(home: Path, state: dict[str, Any], timeout_seconds: float) -> None:
    if "pid" not in state:
        raise SupervisorError(f"The supervisor of {home} is still starting: try again in a moment.")
    pid = int(state["pid"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_seconds
    while read_state(home) is not None:
        if time.monotonic() > deadline:
            raise SupervisorError(f"Process {pid} has not stopped within {timeout_seconds:.0f} s: see {home / 'logs'}, or kill -9 {pid}.")
        time.sleep(0.1)


def dagster_environment(settings: Settings) -> dict[str, str]:
    """The environment for Dagster's processes: its home, made ready, and where its storage is."""
    from metamon_assets.warehouse import server

    folder = settings.dagster_home
    folder.mkdir(parents=True, exist_ok=True)
    source = instance_file()
    first_line = source.read_text().splitlines()[0]
    copy = folder / "dagster.yaml"
    if not copy.exists() or copy.read_text().startswith(first_line):
        shutil.copyfile(source, copy)
    return os.environ | {
        "DAGSTER_HOME": str(folder),
        "METAMON_HOME": str(settings.home),
        "METAMON_CONFIG": str(settings.config_path) if settings.config_path.exists() else "",
        "METAMON_DAGSTER_URL": server.dagster_url(settings),
        "DAGSTER_EVENT_BATCH_SIZE": "100",  # the materialisations of a range are stored together
    }


def instance_file() -> Path:
    """The project's ``dagster.yaml``."""
    return Path(__file__).with_name("dagster.yaml")


def free_port(wanted: int = 0) -> int:
    """``wanted`` or the next port above it that is free on loopback; any free port for 0."""
    for port in [wanted, *range(wanted + 1, min(wanted + 100, 65_536))] if wanted else [0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SupervisorError(f"No port from {wanted} to {wanted + 99} is free on this machine: set ui_port in metamon.yaml.")


def answers(url: str) -> bool:
    """Whether the UI answers."""
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=2) as response:  # noqa: S310 - our own loopback address
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _start_guard() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", GUARD], stdin=subprocess.PIPE, start_new_session=True)


def _put_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_suffix(".old.log"))


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: only zombies are left, on macOS
        os.killpg(group, number)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _accepts(port: int) -> bool:
    """Whether something listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0
