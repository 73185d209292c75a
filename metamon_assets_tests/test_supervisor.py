"""metamon up and down, with real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from metamon_assets.config import Settings
from metamon_assets.supervisor import SupervisorError, down, free_port, instance_file, lock, read_state
from metamon_assets.warehouse.postgres import EmbeddedPostgres

DAGSTER = """
import sys
from metamon_assets.config import Settings
from metamon_assets.supervisor import Supervisor
Supervisor(Settings.load(), lambda text: print(text, flush=True), definitions="small_definitions").run()
"""
SMALL_DEFINITIONS = """
import dagster as dg

@dg.asset
def one() -> None: ...

@dg.definitions
def definitions() -> dg.Definitions:
    return dg.Definitions(assets=[one])
"""
# The supervisor with children that need no Dagster, to see how it treats them. One of them has a child of its own.
PLAIN = """
import sys
from metamon_assets.config import Settings
from metamon_assets.supervisor import Child, Supervisor

class Plain(Supervisor):
    def _plan(self):
        logs = self.settings.logs
        logs.mkdir(parents=True, exist_ok=True)
        self.ui = "http://127.0.0.1:9"
        self.children = [
            Child("steady", ["sh", "-c", "sleep 1000 & echo $! > grandchild; wait"], logs / "steady.log"),
            Child("crashing", ["sh", "-c", "echo I crash; exit 3"], logs / "crashing.log"),
        ]

Plain(Settings.load(), lambda text: print(text, flush=True)).run()
"""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that the server's user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="metamon up "))  # with spaces in its path
    folder.chmod(0o755)
    home = folder / "home"
    monkeypatch.setenv("METAMON_HOME", str(home))
    monkeypatch.delenv("METAMON_CONFIG", raising=False)
    monkeypatch.delenv("METAMON_DATABASE_URL", raising=False)
    yield home
    if home.exists():
        EmbeddedPostgres(home).stop()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def started(home: Path, script: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """The supervisor as a process, and what it has said so far."""
    (home.parent / "small_definitions.py").write_text(SMALL_DEFINITIONS)
    said = home.parent / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": str(home.parent)}
        )
    try:
        yield process, said.read_text
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(condition: Callable[[], Any], seconds: float, what: str, said: Callable[[], str] = str) -> Any:
    """Wait for the condition to give something; fail with what was said otherwise."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s:\n{said()}"
        time.sleep(0.1)
    return found


def exists(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def process_of(home: Path, name: str) -> dict[str, Any]:
    return next((process for process in (read_state(home) or {}).get("processes", []) if process["name"] == name), {})


@pytest.mark.timeout(300)
def test_up_serves_dagster_restarts_what_dies_and_down_stops_everything(home: Path) -> None:
    with started(home, DAGSTER) as (process, said):
        until(lambda: "Dagster UI: http://127.0.0.1:" in said(), 120, "the UI", said)
        state = read_state(home)
        assert state is not None
        assert [entry["name"] for entry in state["processes"]] == ["code-server", "webserver", "daemon"]

        query = {"query": "{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename } } } } }"}
        request = urllib.request.Request(f"{state['ui']}/graphql", json.dumps(query).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            (entry,) = json.load(response)["data"]["workspaceOrError"]["locationEntries"]
        assert entry == {"name": "metamon", "locationOrLoadError": {"__typename": "RepositoryLocation"}}

        second = subprocess.run([sys.executable, "-c", DAGSTER], capture_output=True, text=True, check=False, timeout=60)
        assert second.returncode != 0
        assert f"is already up: process {process.pid} since" in second.stderr
        assert state["ui"] in second.stderr

        first_daemon = process_of(home, "daemon")["pid"]
        os.kill(first_daemon, signal.SIGKILL)
        until(lambda: process_of(home, "daemon").get("pid") not in (None, first_daemon), 30, "the daemon's restart", said)
        assert "daemon ended (killed by SIGKILL); it starts again in 1 s" in said()

        pids = [entry["pid"] for entry in (read_state(home) or {})["processes"]]
        assert down(Settings.load(), progress=lambda _: None)
        assert process.wait(10) == 0
        assert not [pid for pid in pids if exists(pid)]
        assert not EmbeddedPostgres(home).status().running
        assert read_state(home) is None
    assert "password" not in said().lower()
    assert not down(Settings.load(), progress=lambda _: None)


def test_a_child_that_crashes_is_started_again_after_growing_pauses(home: Path) -> None:
    with started(home, PLAIN) as (_, said):
        until(lambda: "crashing ended (exit code 3); it starts again in 4 s" in said(), 60, "the third crash", said)
        pauses = [line.split("again in ")[1].split(".")[0] for line in said().splitlines() if "crashing ended" in line]
        assert pauses == ["1 s", "2 s", "4 s"]
        assert (home / "logs/crashing.log").read_text() == "I crash\n" * 3
        assert process_of(home, "steady")["restarts"] == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_supervisor(home: Path, number: signal.Signals) -> None:
    with started(home, PLAIN) as (process, said):
        child = until(lambda: process_of(home, "steady").get("pid"), 60, "the start", said)
        grandchild = int(until(lambda: (home / "grandchild").exists() and (home / "grandchild").read_text(), 10, "the grandchild"))
        postgres = EmbeddedPostgres(home).status().pid
        assert postgres
        assert exists(grandchild)
        process.send_signal(number)
        process.wait(60)
        until(lambda: not any(map(exists, (child, grandchild, postgres))), 30, "the end of all", said)
    assert read_state(home) is None


def test_only_one_supervisor_holds_a_home(tmp_path: Path) -> None:
    with lock(tmp_path):
        with pytest.raises(SupervisorError, match="is already up"), lock(tmp_path):
            pass
        assert read_state(tmp_path) == {}
    assert read_state(tmp_path) is None
    with lock(tmp_path):  # free again
        pass


def test_a_taken_port_is_left_to_who_has_it() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port


def test_an_instance_file_of_ones_own_is_left_alone(home: Path) -> None:
    from metamon_assets.supervisor import dagster_environment

    settings = Settings.load()
    server = EmbeddedPostgres(home)
    server.start()
    environment = dagster_environment(settings)
    copy = settings.dagster_home / "dagster.yaml"
    assert environment["DAGSTER_HOME"] == str(settings.dagster_home)
    assert environment["METAMON_DAGSTER_URL"].startswith("postgresql+psycopg2://")
    assert copy.read_text() == instance_file().read_text()
    copy.write_text("# mine\n")
    dagster_environment(settings)
    assert copy.read_text() == "# mine\n"


def test_dagster_accepts_the_instance_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key of dagster.yaml, by Dagster's own schema, without opening the storage."""
    from dagster._core.instance.ref import InstanceRef

    shutil.copyfile(instance_file(), tmp_path / "dagster.yaml")
    monkeypatch.setenv("METAMON_DAGSTER_URL", "postgresql+psycopg2://nobody@127.0.0.1:9/none")
    settings = InstanceRef.from_dir(str(tmp_path)).settings
    assert settings.items() >= {"telemetry": {"enabled": False}, "sensors": {"use_threads": True, "num_workers": 4}}.items()
