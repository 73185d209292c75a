"""A process that is kept alive: starting it, its end and the pause after it, ending it; and the guard of the whole group.

What runs belongs to ``plan``, when something is done to ``run``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from metamon_assets import log
from metamon_assets.supervisor.output import Reader

LOOPBACK = "127.0.0.1"
LONGEST_PAUSE_SECONDS = 60.0
STEADY_SECONDS = 60.0  # a process that ran this long starts its back-off anew
TRACE_SECONDS = 5.0  # how long a hung process gets to print where it hangs
GUARD = f"from {__name__} import guard; guard()"


@dataclass
class BackOff:
    """What is kept about a process that may die: how often, why, and when it may start again."""

    name: str
    restarts: int = field(default=0, init=False)
    failures: int = field(default=0, init=False)  # in a row
    not_before: float = field(default=0.0, init=False)
    started: float = field(default=0.0, init=False)
    since: datetime | None = field(default=None, init=False)  # when it came into its present state
    last_exit: str | None = field(default=None, init=False)

    def note_start(self, now: float) -> None:
        """It runs since ``now`` (of the monotonic clock)."""
        self.started = now
        self.since = datetime.now(UTC)

    def note_failure(self, now: float, how: str) -> float:
        """It ended, or would not start; gives the pause before the next try, in seconds."""
        self.failures = 1 if self.started and now - self.started > STEADY_SECONDS else self.failures + 1
        self.restarts += 1
        self.last_exit = how
        self.since = datetime.now(UTC)
        self.started = 0.0
        pause = min(2.0 ** (self.failures - 1), LONGEST_PAUSE_SECONDS)
        self.not_before = now + pause
        return pause

    def words(self, pid: int | None) -> dict[str, Any]:
        """For ``metamon status``."""
        state: Literal["running", "waiting", "starting"] = "running" if pid else "waiting" if self.restarts else "starting"
        return {
            "name": self.name,
            "state": state,
            "pid": pid,
            "since": log.timestamp(self.since) if self.since else None,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
        }


@dataclass
class Child(BackOff):
    """A process of ours, with a session of its own, so that all that it starts ends with it."""

    command: list[str]
    needs_port: int | None = None  # starts only when something listens there
    beat: str | None = None  # the sign of life that it gives, see ``watchdog``
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    hangs: int = field(default=0, init=False)  # in a row
    kill_at: float | None = field(default=None, init=False)

    @property
    def pid(self) -> int | None:
        """Its id while it runs."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    @property
    def running(self) -> bool:
        """Whether it could give signs of life."""
        return self.pid is not None

    def ready(self, now: float) -> bool:
        """Whether its pause is over and what it needs is there."""
        return now >= self.not_before and (self.needs_port is None or listens(self.needs_port))

    def start(self, environment: dict[str, str], folder: Path, write: Callable[[bytes], None], now: float) -> int:
        """Start it; what it prints goes to ``write`` as records, for as long as anybody holds its pipe. Gives its id.

        Raises OSError when there is no such program, or no memory, processes or files are left.
        """
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        Reader(self.name, self.process.stdout, write).start()
        self.note_start(now)
        self.kill_at = None
        return self.process.pid

    def end_hung(self, now: float) -> None:
        """Make it say where each of its threads is (PYTHONFAULTHANDLER), which also ends it; ``insist`` does so in any case."""
        if self.process is not None and self.kill_at is None:
            signal_group(self.process.pid, signal.SIGABRT)
            self.hangs += 1
            self.kill_at = now + TRACE_SECONDS

    def insist(self, now: float) -> None:
        """Kill what did not end by itself after ``end_hung``."""
        if self.process is not None and self.kill_at is not None and now >= self.kill_at:
            signal_group(self.process.pid, signal.SIGKILL)


@dataclass
class Elsewhere(BackOff):
    """A process that something else starts and ends, such as a container; known by its signs of life only."""

    beat: str
    running: bool = field(default=True, init=False)
    hangs: int = field(default=0, init=False)


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
            signal_group(group, number)
        deadline = time.monotonic() + 5
        while groups and time.monotonic() < deadline and number == signal.SIGTERM and any(map(_group_exists, groups)):
            time.sleep(0.1)
    settings = Settings.load()
    if settings.database_url is None:
        server.stop_if_unused(settings)


class Guard:
    """The supervisor's end of the pipe to the guard process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-P", "-c", GUARD], stdin=subprocess.PIPE, start_new_session=True)

    def watch(self, group: int) -> None:
        """End this group of processes if the supervisor dies."""
        self._tell(f"+{group}")

    def forget(self, group: int) -> None:
        """The group has ended."""
        self._tell(f"-{group}")

    def close(self) -> None:
        """Let the guard end."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # somebody killed the guard: the supervisor does without
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()


def signal_group(group: int, number: signal.Signals) -> None:
    """Signal all processes of a group, if there are any."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: only zombies are left, on macOS
        os.killpg(group, number)


def ending(code: int) -> str:
    """How a process ended, in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def listens(port: int, host: str = LOOPBACK) -> bool:
    """Whether something listens on the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
