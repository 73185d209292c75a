"""The watch: starts Postgres and the children in order, starts again what ended or hangs, stops all."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from metamon_assets import log
from metamon_assets.supervisor.home import lock, write_state
from metamon_assets.supervisor.output import Journal
from metamon_assets.supervisor.plan import Plan, dagster_environment, standard_plan
from metamon_assets.supervisor.processes import LOOPBACK, BackOff, Child, Guard, ending, listens, signal_group
from metamon_assets.supervisor.watchdog import Finding, Sight, Watchdog, look, news

if TYPE_CHECKING:
    from metamon_assets.config import Settings

Progress = Callable[[str], None]
STOP_SECONDS = 15.0
TURN_SECONDS = 0.25
LOOK_SECONDS = 15.0
SECRET_LENGTH = 6  # shorter texts are no secrets, and stand in innocent words


@dataclass
class Supervisor:
    """The processes of one home. ``run`` returns when it was told to stop by SIGINT, SIGTERM or ``stop``."""

    settings: Settings
    progress: Progress
    plan: Callable[[Settings, Progress], Plan] = standard_plan
    watchdog: Watchdog = field(default_factory=Watchdog)
    look_seconds: float = LOOK_SECONDS
    _stopping: bool = field(default=False, init=False)

    def run(self) -> None:
        """Start everything, keep it running, stop everything. Raises SupervisorError, PostgresError, MigrationError."""
        journal = Journal(self.settings.logs / log.FILE_NAME, self.progress)
        with lock(self.settings.home), self._signals(), closing(journal):
            try:
                self._run(journal)
            except Exception as error:
                journal.write(log.to_line(log.record("critical", "supervisor", f"Ended by {type(error).__name__}: {error}")))
                raise

    def _run(self, journal: Journal) -> None:
        from metamon_assets.warehouse import server

        with server.ready(self.settings, journal.tell):
            server.prepare_dagster_storage(self.settings)
            environment = dagster_environment(self.settings) | {"METAMON_LOG": "json", "PYTHONFAULTHANDLER": "1"}
            journal.hide(_secrets(self.settings, environment))
            plan = self.plan(self.settings, journal.tell)
            watch = _Watch(self, plan, environment | {"METAMON_UI_URL": plan.ui}, journal)
            try:
                while not self._stopping:
                    watch.turn(time.monotonic())
                    time.sleep(TURN_SECONDS)
            finally:
                watch.end()
        journal.tell("Stopped.")

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


class _Watch:
    """What runs, turn by turn."""

    def __init__(self, supervisor: Supervisor, plan: Plan, environment: dict[str, str], journal: Journal) -> None:
        self._settings = supervisor.settings
        self._watchdog = supervisor.watchdog
        self._look_seconds = supervisor.look_seconds
        self._plan = plan
        self._environment = environment
        self._journal = journal
        self._postgres = None if self._settings.database_url else _Postgres(self._settings, journal.tell)
        self._guard = Guard()
        self._since = log.timestamp(datetime.now(UTC))
        self._written: dict[str, Any] = {}
        self._looked = time.monotonic()
        self._looking: Future[Sight] | None = None
        self._worker = ThreadPoolExecutor(1, "look")
        self._awaited = {"Dagster UI": plan.ui, "Metamon": plan.web}
        journal.tell(f"The log is in {journal.path}: read it with `metamon logs`. Ctrl-C stops everything.")

    def turn(self, now: float) -> None:
        """Look after each process once; ``now`` is of the monotonic clock."""
        if self._postgres is None or self._postgres.tend(now):
            for child in self._plan.children:
                self._tend(child, now)
        self._look(now)
        for name in [name for name, address in self._awaited.items() if _listens(address)]:
            self._journal.tell(f"{name}: {self._awaited.pop(name)}")
        self._write_state()

    def _tend(self, child: Child, now: float) -> None:
        """Start the child when it does not run and its pause is over; note when it has ended."""
        child.insist(now)
        if child.pid is not None:
            return
        if child.process is not None:
            self._note_death(child, now)
        elif child.ready(now):
            try:
                group = child.start(self._environment, self._settings.home, self._journal.write, now)
            except OSError as error:
                pause = child.note_failure(now, str(error))
                self._journal.tell(f"{child.name} cannot be started: {error}; the next try is in {pause:.0f} s", "error")
            else:
                self._guard.watch(group)

    def _note_death(self, child: Child, now: float) -> None:
        assert child.process is not None
        how = ending(child.process.returncode)
        signal_group(child.process.pid, signal.SIGKILL)  # what it may have left behind
        self._guard.forget(child.process.pid)
        child.process = None
        pause = child.note_failure(now, how)
        words = f"{child.name} ended ({how}); it starts again in {pause:.0f} s. See `metamon logs --component {child.name}`"
        self._journal.tell(words, "error", subject=child.name, restarts=child.restarts)

    def _look(self, now: float) -> None:
        """Let the watchdog look from time to time; end what hangs, tell what is new."""
        if self._looking is not None and self._looking.done():
            error = self._looking.exception()
            self._judge(self._looking.result() if error is None else Sight(trouble=f"{type(error).__name__}: {error}"), now)
            self._looking = None
        elif self._looking is None and now - self._looked >= self._look_seconds:
            self._looked = now
            self._looking = self._worker.submit(look, self._settings, list(self._watchdog.findings))

    def _judge(self, sight: Sight, now: float) -> None:
        before = self._watchdog.findings
        trouble = self._journal.trouble
        full = [Finding("log", "full", f"{self._journal.path} cannot be written: {trouble}")] if trouble else []
        hung = self._watchdog.judge(sight, self._plan.children, now, full)
        for level, text, finding in news(before, self._watchdog.findings):
            self._journal.tell(text, level, subject=finding.component, state=finding.state)
        for child in hung:
            child.end_hung(now)

    def _write_state(self) -> None:
        """Let ``metamon status`` and ``down`` know, when something changed."""
        processes = [child.words(child.pid) for child in self._plan.children]
        if self._postgres is not None:
            processes.insert(0, self._postgres.words(self._postgres.pid))
        state = {
            "pid": os.getpid(),
            "since": self._since,
            "ui": self._plan.ui,
            "web": self._plan.web,
            "log": str(self._journal.path),
            "processes": processes,
            "findings": [finding.words() for finding in self._watchdog.findings],
        }
        if state != self._written:
            with contextlib.suppress(OSError):  # the disk is full, which the watchdog tells; the next turn tries again
                write_state(self._settings.home, state)
                self._written = state

    def end(self) -> None:
        """Ask all of them, wait a while, then insist."""
        processes = [child.process for child in self._plan.children if child.process is not None]
        for process in processes:
            signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0))
        for process in processes:
            signal_group(process.pid, signal.SIGKILL)  # also what else is in its group
            process.wait()
            self._guard.forget(process.pid)
        self._guard.close()
        self._worker.shutdown(wait=False, cancel_futures=True)  # its calls to the database time out by themselves


class _Postgres(BackOff):
    """The embedded server: several processes share it, so that it is nobody's child and is known by its pid file."""

    def __init__(self, settings: Settings, tell: Callable[..., None]) -> None:
        from metamon_assets.warehouse.postgres import EmbeddedPostgres

        super().__init__("postgres")
        self._server = EmbeddedPostgres(settings.home, progress=tell)
        self._tell = tell
        self.pid: int | None = None
        self._gone_at: float | None = None

    def tend(self, now: float) -> bool:
        """Whether it runs; starts it again when it does not and the pause is over. That waits for crash recovery."""
        status = self._server.status()
        if status.running:
            if status.pid != self.pid:
                self.pid = status.pid
                self.note_start(now)
            if self._gone_at is not None:
                self._tell(f"Postgres is back (process {status.pid}), {now - self._gone_at:.0f} s after it ended")
                self._gone_at = None
            return True
        if self.pid is not None:
            self.pid, self._gone_at = None, now
            pause = self.note_failure(now, "its process is gone")
            self._tell(f"Postgres has ended; it starts again in {pause:.0f} s. What it said is in {self._server.log}", "error")
        elif now >= self.not_before:
            self._start(now)
        return False

    def _start(self, now: float) -> None:
        from metamon_assets.warehouse.postgres import PostgresError

        try:
            self._server.start()
        except PostgresError as error:
            pause = self.note_failure(now, "it did not start")
            self._tell(f"{error}\nThe next try is in {pause:.0f} s.", "error")


def _secrets(settings: Settings, environment: dict[str, str]) -> list[str]:
    """The values of secrets that we know, to be hidden should a child print one."""
    named = re.findall(r'"env:(\w+)"', settings.model_dump_json())
    urls = [environment.get(name, "") for name in ("METAMON_DATABASE_URL", "METAMON_DAGSTER_DATABASE_URL", "METAMON_DAGSTER_URL")]
    passwords = [urlsplit(url).password or "" for url in urls]
    values = {environment.get(name, "") for name in (*named, "METAMON_WEBHOOK_SECRET")} | {*passwords, *map(unquote, passwords)}
    return [value for value in values if len(value) >= SECRET_LENGTH]


def _listens(address: str) -> bool:
    """Whether something listens at one of our own addresses."""
    parts = urlsplit(address)
    return parts.port is not None and listens(parts.port, parts.hostname or LOOPBACK)
