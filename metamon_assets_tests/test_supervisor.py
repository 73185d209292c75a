"""metamon up and down, with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from metamon_assets import log
from metamon_assets.cli import main
from metamon_assets.config import Settings
from metamon_assets.doctor import examine
from metamon_assets.supervisor import SupervisorError, down, free_port, instance_file, lock, read_state
from metamon_assets.supervisor.plan import standard_plan
from metamon_assets.supervisor.processes import Guard
from metamon_assets.supervisor.run import _secrets
from metamon_assets.supervisor.watchdog import look
from metamon_assets.warehouse import connect, server
from metamon_assets.warehouse.postgres import EmbeddedPostgres
from metamon_assets_tests.stand_ins import FLOOD_BYTES
from metamon_assets_tests.waiting import until

DAGSTER = """
import sys
from functools import partial
from metamon_assets.config import Settings
from metamon_assets.supervisor import Supervisor
from metamon_assets.supervisor.plan import standard_plan

plan = partial(standard_plan, definitions="small_definitions")
Supervisor(Settings.load(), lambda text: print(text, flush=True), plan).run()
"""
CHILDREN = ("feed", "web", "alerts", "code-server", "webserver", "daemon")
STAND_INS = ("-m", "metamon_assets_tests.stand_ins")
KEY = "secret-of-a-source"
QUERY_OF_RUNS = "{ runsOrError { __typename ... on Runs { count } ... on PythonError { message } } }"
SMALL_DEFINITIONS = """
import dagster as dg

@dg.asset
def one() -> None: ...

@dg.sensor(job=dg.define_asset_job("all", "*"), minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def looks(context):
    return dg.SkipReason("nothing")

@dg.definitions
def definitions() -> dg.Definitions:
    return dg.Definitions(assets=[one], sensors=[looks])
"""


@contextmanager
def new_home() -> Iterator[Path]:
    """A home that the server's user can enter, named by the environment."""
    folder = Path(tempfile.mkdtemp(prefix="metamon up "))  # with spaces in its path
    folder.chmod(0o755)
    home = folder / "home"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("METAMON_HOME", str(home))
        environment.delenv("METAMON_CONFIG", raising=False)
        environment.delenv("METAMON_DATABASE_URL", raising=False)
        yield home
        if home.exists():
            EmbeddedPostgres(home).stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def home() -> Iterator[Path]:
    with new_home() as home:
        yield home


@contextmanager
def started(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """The supervisor as a process (``python ARGUMENTS``), and what it has said so far."""
    (home.parent / "small_definitions.py").write_text(SMALL_DEFINITIONS)
    said = home.parent / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": str(home.parent), "A_KEY": KEY}
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


def exists(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def process_of(home: Path, name: str) -> dict[str, Any]:
    return next((process for process in (read_state(home) or {}).get("processes", []) if process["name"] == name), {})


def serves(address: str, query: str | None = None) -> bool:
    """Whether there is an answer, and data in it where GraphQL is asked."""
    body = json.dumps({"query": query}).encode() if query else None
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, {"content-type": "application/json"}), timeout=30) as response:
            return query is None or "errors" not in json.load(response)
    except OSError:
        return False


def dagster_beats() -> Mapping[str, datetime]:
    return look(Settings.load(), []).beats


@pytest.mark.timeout(300)
def test_up_serves_dagster_restarts_what_dies_and_down_stops_everything(home: Path) -> None:
    with started(home, "-c", DAGSTER) as (process, said):
        until(lambda: "Dagster UI: http://127.0.0.1:" in said(), 120, "the UI", said)
        until(lambda: process_of(home, "daemon").get("pid"), 30, "the daemon", said)
        state = read_state(home)
        assert state is not None
        assert [entry["name"] for entry in state["processes"]] == ["postgres", *CHILDREN]

        query = {"query": "{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename } } } } }"}
        request = urllib.request.Request(f"{state['ui']}/graphql", json.dumps(query).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            (entry,) = json.load(response)["data"]["workspaceOrError"]["locationEntries"]
        assert entry == {"name": "metamon", "locationOrLoadError": {"__typename": "RepositoryLocation"}}

        until(lambda: "Metamon: http://127.0.0.1:" in said(), 60, "the web server", said)
        with urllib.request.urlopen(state["web"], timeout=30) as response:
            assert f'<a href="{state["ui"]}">' in response.read().decode()

        second = subprocess.run([sys.executable, "-c", DAGSTER], capture_output=True, text=True, check=False, timeout=60)
        assert second.returncode != 0
        assert f"is already up: process {process.pid} since" in second.stderr
        assert state["ui"] in second.stderr

        until(lambda: dagster_beats().keys() >= {"dagster", "sensor looks"}, 60, "a tick of the sensor", said)

        first = {name: process_of(home, name)["pid"] for name in CHILDREN}
        for pid in first.values():
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(process_of(home, name)["pid"] not in (None, pid) for name, pid in first.items()), 60, "the restart of all", said)
        for name in first:
            assert f"{name} ended (killed by SIGKILL); it starts again in 1 s" in said()
        records = list(log.read(home / "logs" / log.FILE_NAME))
        assert {entry["component"] for entry in records} >= {"supervisor", "code-server", "daemon"}
        assert any(entry.get("logger", "").startswith("dagster") for entry in records)

        until(lambda: serves(f"{state['ui']}/server_info"), 60, "the UI after its restart", said)
        assert serves(f"{state['ui']}/graphql", QUERY_OF_RUNS), "keeps a connection"
        postmaster = process_of(home, "postgres")["pid"]
        os.kill(postmaster, signal.SIGKILL)
        until(lambda: "Postgres is back (process " in said(), 60, "Postgres", said)
        assert serves(f"{state['ui']}/graphql", QUERY_OF_RUNS), "the first page after that"

        pids = [entry["pid"] for entry in (read_state(home) or {})["processes"]]
        assert down(Settings.load(), progress=lambda _: None)
        assert process.wait(10) == 0
        assert not [pid for pid in pids if pid and exists(pid)]
        assert not EmbeddedPostgres(home).status().running
        assert read_state(home) is None
    assert "password" not in said().lower()
    assert not down(Settings.load(), progress=lambda _: None)


@dataclass
class Up:
    """A supervisor over stand-ins that runs for the tests of this module."""

    home: Path
    process: subprocess.Popen[bytes]
    said: Callable[[], str]

    def records(self, component: str) -> list[log.Record]:
        return [entry for entry in log.read(self.home / "logs" / log.FILE_NAME) if entry["component"] == component]

    def until(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        return until(condition, seconds, what, self.said)


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with new_home() as home:
        home.mkdir()
        home.chmod(0o755)
        (home / "metamon.yaml").write_text("sources:\n- {type: langsmith, project: p, api_key: env:A_KEY}\n")
        with started(home, *STAND_INS) as (process, said):
            until(lambda: process_of(home, "steady").get("pid"), 60, "the start", said)
            yield Up(home, process, said)


def test_a_child_that_crashes_is_started_again_after_growing_pauses(up: Up) -> None:
    up.until(lambda: "crashing ended (exit code 3); it starts again in 4 s" in up.said(), 60, "the third crash")
    pauses = [line.split("again in ")[1].split(".")[0] for line in up.said().splitlines() if "crashing ended" in line]
    assert pauses[:3] == ["1 s", "2 s", "4 s"]
    assert [entry["message"] for entry in up.records("crashing")][:3] == ["I crash"] * 3
    state = process_of(up.home, "crashing")
    assert (state["pid"], state["state"], state["last_exit"]) == (None, "waiting", "exit code 3")
    assert process_of(up.home, "steady")["restarts"] == 0


def test_a_program_that_is_not_there_is_told_and_stops_nothing_else(up: Up) -> None:
    up.until(lambda: "absent cannot be started: [Errno 2]" in up.said(), 20, "the first try")
    assert process_of(up.home, "absent")["state"] == "waiting"


def test_what_children_print_becomes_records(up: Up) -> None:
    found = up.until(lambda: (records := up.records("talking"))[-1:] and len(records) >= 6 and records, 20, "the child's end")[:6]
    ours, text, dagster, plain, coloured, trace = found
    assert ours == {"time": "2026-01-02T03:04:05.678Z", "level": "warning", "component": "talking", "message": "ours", "runs": 7}
    assert (text["time"], text["level"], text["message"]) == ("2026-01-02T03:04:05.000Z", "error", "it broke")
    assert text["logger"] == "dagster.daemon"
    assert text["traceback"] == "DagsterError: why\n\nStack Trace:\n  File x"
    assert (dagster["time"], dagster["level"], dagster["message"]) == ("2026-01-02T03:04:06.500Z", "info", "of dagster")
    assert plain["message"] == "the key is ***"
    assert coloured["message"] == "coloured"
    assert (trace["level"], trace["message"]) == ("error", "SystemError: worse")
    assert trace["traceback"].count("Traceback (most recent call last)") == 2
    assert KEY not in up.said()


def test_a_flood_is_drained_rotated_and_cut(up: Up) -> None:
    up.until(lambda: any(entry["message"] == "that was all" for entry in up.records("flooding")), 60, "the flood's end")
    records = up.records("flooding")
    lines = FLOOD_BYTES // 50
    assert [int(entry["message"]) for entry in records[:lines]] == list(range(lines))
    assert records[lines]["message"].startswith("xxx")
    assert records[lines]["message"].endswith(f"… ({FLOOD_BYTES - 65_536} more bytes)")
    assert process_of(up.home, "flooding")["restarts"] == 0
    files = sorted((up.home / "logs").iterdir())
    assert len(files) >= 2
    assert all(file.stat().st_size <= log.FILE_LIMIT for file in files)


def test_who_lives_but_gives_no_sign_of_life_is_started_again(up: Up) -> None:
    first = up.until(lambda: process_of(up.home, "hanging").get("pid"), 20, "the start")
    up.until(lambda: process_of(up.home, "hanging")["last_exit"] == "killed by SIGABRT", 30, "the end of the hung child")
    up.until(lambda: process_of(up.home, "hanging")["pid"] not in (None, first), 20, "its restart")
    assert "hanging is hung: process" in up.said()
    (trace, *_) = up.records("hanging")
    assert "stand_ins.py" in trace["traceback"]
    assert "in hanging" in trace["traceback"]
    assert process_of(up.home, "alive")["restarts"] == 0


def test_what_the_watchdog_finds_is_in_the_database(up: Up) -> None:
    def findings() -> dict[str, Any]:
        with closing(connect(server.database_url(Settings.load()))) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SELECT detail -> 'findings' FROM metamon.heartbeats WHERE component = 'supervisor'")
            (found,) = cursor.fetchone() or ([],)
            return {finding["component"]: finding for finding in found}

    found = up.until(lambda: (seen := findings()).keys() >= {"crashing", "absent"} and seen, 30, "the findings")
    assert found["crashing"]["state"] == "down"
    assert re.fullmatch(r"ended \d times in a row, last: exit code 3; see `metamon logs --component crashing`", found["crashing"]["detail"])
    assert found["crashing"].keys() == {"component", "state", "since", "detail"}


def test_status_and_doctor_tell_what_runs_and_what_is_wrong(up: Up) -> None:
    up.until(lambda: any(finding["component"] == "crashing" for finding in (read_state(up.home) or {})["findings"]), 30, "the finding")
    found = json.loads(CliRunner().invoke(main, ["status", "--json"]).stdout)
    states = {process["name"]: process["state"] for process in found["processes"]}
    assert states["postgres"] == states["steady"] == "running"
    assert {sign["component"] for sign in found["signs_of_life"]} >= {"alive", "supervisor"}
    assert all(sign["age_seconds"] < 60 for sign in found["signs_of_life"])
    text = CliRunner().invoke(main, ["status"]).output
    assert re.search(r"steady: process \d+ since 20", text)
    assert re.search(r"Last seen   alive: \d+ s ago", text)
    assert "Down        crashing: ended" in text
    lines = [(finding.subject, finding.state, finding.found) for finding in examine(Settings.load())]
    assert any(subject == "Processes" and state == "broken" and words.startswith("crashing: waiting") for subject, state, words in lines)
    assert any(subject == "Watchdog" and words.startswith("crashing is down since") for subject, _, words in lines)


def test_postgres_that_dies_is_started_again_and_its_users_go_on(up: Up) -> None:
    before = up.until(lambda: process_of(up.home, "alive").get("pid"), 20, "the start")
    postmaster = process_of(up.home, "postgres")["pid"]
    os.kill(postmaster, signal.SIGKILL)
    up.until(lambda: process_of(up.home, "postgres")["pid"] not in (None, postmaster), 60, "the restart of Postgres")
    assert "Postgres has ended; it starts again in 1 s" in up.said()
    assert process_of(up.home, "postgres")["restarts"] == 1
    assert re.search(rf"Postgres is back \(process {process_of(up.home, 'postgres')['pid']}\), \d+ s after it ended", up.said())
    assert any("no database" in entry["message"] for entry in up.records("alive"))

    def beats() -> bool:
        with closing(connect(server.database_url(Settings.load()))) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SELECT now() - beat_at < interval '2 seconds' FROM metamon.heartbeats WHERE component = 'alive'")
            return bool((cursor.fetchone() or (False,))[0])

    up.until(beats, 30, "a new sign of life")
    assert process_of(up.home, "alive")["pid"] == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_the_supervisor(up: Up, number: signal.Signals) -> None:
    """The last tests of ``up``: the first ends it, the others start it again."""
    with contextlib.ExitStack() as stack:
        process = up.process
        if process.poll() is not None:
            process, _ = stack.enter_context(started(up.home, *STAND_INS))
            up.until(lambda: process_of(up.home, "steady").get("pid"), 60, "the start")
        grandchild = up.home / "grandchild"
        pids = up.until(lambda: _everybody(up.home), 60, "all at once")
        assert EmbeddedPostgres(up.home).status().pid in pids
        process.send_signal(number)
        process.wait(60)
        up.until(lambda: not any(map(exists, pids)), 30, "the end of all")
        assert read_state(up.home) is None
        grandchild.unlink()


def _everybody(home: Path) -> list[int]:
    """The processes of a home and the grandchild; none while one of them (some stand-ins end by themselves) is not there."""
    grandchild = home / "grandchild"
    pids = [int(grandchild.read_text())] if grandchild.exists() and grandchild.read_text() else []
    pids += [entry["pid"] for entry in (read_state(home) or {})["processes"] if entry["pid"]] if pids else []
    return pids if all(map(exists, pids)) else []


def test_only_one_supervisor_holds_a_home(tmp_path: Path) -> None:
    (tmp_path / "supervisor.json").write_text('{"pid": 1}')  # left by one that was killed
    with lock(tmp_path):
        assert (tmp_path / "supervisor.lock").stat().st_mode & 0o077 == 0, "others could hold it too, and keep `up` from starting"
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


def test_an_address_that_nobody_can_listen_on_is_no_taken_port() -> None:
    with pytest.raises(SupervisorError, match=r"Nothing can listen on no-such-host\.invalid port 4318"):
        free_port(4318, "no-such-host.invalid")


@pytest.mark.parametrize(
    ("host", "address"),
    [("::1", "http://[::1]:"), ("::", "http://[::1]:"), ("0.0.0.0", "http://127.0.0.1:"), ("127.0.0.2", "http://127.0.0.2:")],
)
def test_the_address_of_the_web_server_can_be_opened(tmp_path: Path, host: str, address: str) -> None:
    (tmp_path / "metamon.yaml").write_text(f"web: {{host: '{host}'}}\n")
    settings = Settings.load({"METAMON_HOME": str(tmp_path)})
    settings.dagster_home.mkdir()
    plan = standard_plan(settings, lambda _: None)
    assert plan.web.startswith(address)
    assert urllib.parse.urlsplit(plan.web).port


def test_passwords_are_hidden_as_they_are_and_as_addresses_have_them(tmp_path: Path) -> None:
    settings = Settings.load({"METAMON_HOME": str(tmp_path)})
    environment = {"METAMON_DATABASE_URL": "postgresql://u:p%40ssword@h/d", "METAMON_WEBHOOK_SECRET": "of the hook"}
    assert set(_secrets(settings, environment)) == {"p%40ssword", "p@ssword", "of the hook"}


def test_the_guard_takes_no_modules_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pydantic.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAMON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("METAMON_DATABASE_URL", "postgresql://nobody@h/d")
    Guard().close()
    assert not (tmp_path / "taken").exists()


def test_an_instance_file_of_ones_own_is_left_alone(home: Path) -> None:
    from metamon_assets.supervisor import dagster_environment

    settings = Settings.load()
    server = EmbeddedPostgres(home)
    server.start()
    environment = dagster_environment(settings)
    copy = settings.dagster_home / "dagster.yaml"
    assert environment["DAGSTER_HOME"] == str(settings.dagster_home)
    assert settings.dagster_home.stat().st_mode & 0o077 == 0
    locks = (home / "postgres" / "lock", home / "postgres.users")
    assert not [path for path in locks if path.exists() and path.stat().st_mode & 0o077]
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
