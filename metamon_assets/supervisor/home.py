"""What a home knows of its supervisor: the lock that there is one, its state for other commands, and how to stop it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.config import Settings

Progress = Callable[[str], None]


class SupervisorError(MetamonError):
    """The processes of a home cannot be started or stopped; the message says why and what to do."""


@contextmanager
def lock(home: Path) -> Iterator[None]:
    """Hold the home's supervisor lock. Raises SupervisorError when another supervisor has it."""
    home.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(_lock_file(home), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "a") as file:  # who may read it may hold it
        if not _take(file):
            other = read_state(home) or {}
            raise SupervisorError(
                f"{home} is already up: process {other.get('pid', 'unknown')} since {other.get('since', 'a moment ago')}, "
                f"Dagster UI at {other.get('ui') or 'an address not known yet'}. Stop it with `metamon down`, or use another METAMON_HOME."
            )
        _state_file(home).unlink(missing_ok=True)  # of one that was killed: its process ids may be others' by now
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


def write_state(home: Path, state: Mapping[str, Any]) -> None:
    """Tell other commands; whole or not at all. Raises OSError when the disk is full."""
    path = _state_file(home)
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(state))
    unfinished.replace(path)


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
    if state.get("watching"):
        raise SupervisorError(f"Only `metamon watch` runs in {home}, since {state['since']}: stop it where it was started.")
    if "pid" not in state:
        raise SupervisorError(f"The supervisor of {home} is still starting: try again in a moment.")
    pid = int(state["pid"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_seconds
    while read_state(home) is not None:
        if time.monotonic() > deadline:
            raise SupervisorError(
                f"Process {pid} has not stopped within {timeout_seconds:.0f} s: `metamon logs` may say why; kill -9 {pid} ends it."
            )
        time.sleep(0.1)
