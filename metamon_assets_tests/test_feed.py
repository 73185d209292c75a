"""The live feed as a process: threads, stopping, standing by, a new configuration, `metamon feed`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from metamon_assets.config import Feed, Settings
from metamon_assets.feed import run_feed
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets_tests.traces.sources.langsmith_server import LangSmithServer

SOURCE = "{{type: langsmith, project: {project}, name: {name}, api_key: env:KEY_OF_TESTS, endpoint: '{url}'}}"


class Home:
    """A home with sources, and the feed over it."""

    def __init__(self, folder: Path, url: str, server: LangSmithServer) -> None:
        self.folder, self.url, self.server = folder, url, server
        self.stops: list[threading.Event] = []
        self.threads: list[threading.Thread] = []

    def write(self, *sources: str) -> None:
        (self.folder / "metamon.yaml").write_text("sources:\n" + "".join(f"  - {source}\n" for source in sources))

    def langsmith(self, project: str = "agent", name: str = "langsmith", url: str | None = None) -> str:
        return SOURCE.format(project=project, name=name, url=url or self.server.api_url)

    def load(self) -> Settings:
        settings = Settings.load({"METAMON_HOME": str(self.folder)})
        return settings.model_copy(update={"feed": Feed.model_construct(interval_seconds=1, overlap_minutes=20)})

    def start(self) -> threading.Event:
        """Run a feed in this process; the event ends it."""
        stop = threading.Event()
        thread = threading.Thread(target=run_feed, args=(self.load(), self.url, stop), kwargs={"load": self.load}, daemon=True)
        thread.start()
        self.stops.append(stop)
        self.threads.append(thread)
        return stop

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        connection = connect(self.url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(query)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def await_rows(
        self, query: str, wanted: Callable[[list[tuple[Any, ...]]], bool] = bool, seconds: float = 20.0
    ) -> list[tuple[Any, ...]]:
        until = time.monotonic() + seconds
        while not wanted(found := self.rows(query)):
            assert time.monotonic() < until, f"{query} gave {found} for {seconds} s"
            time.sleep(0.05)
        return found

    def run(self, **fields: Any) -> str:
        return self.server.store.add_run("agent", start_time=datetime.now(UTC) - timedelta(seconds=10), seconds=2.0, **fields)


@pytest.fixture
def home(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with LangSmithServer(limit=10_000) as server:
        monkeypatch.setenv("KEY_OF_TESTS", server.key)
        server.store.add_project("agent")
        made = Home(tmp_path, database, server)
        yield made
        for stop in made.stops:
            stop.set()
        for thread in made.threads:
            thread.join(20)


@pytest.fixture
def mute() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_runs_reach_their_buckets_though_other_sources_hang_or_fail(home: Home, mute: str) -> None:
    home.write(home.langsmith(), home.langsmith(name="hanging", url=mute), home.langsmith("nowhere", "failing"))
    stop = home.start()
    run_id = home.run(extra={"metadata": {"ls_model_name": "m", "revision_id": "v1"}})
    home.await_rows(f"SELECT FROM metamon.traces WHERE run_id = '{run_id}'")
    home.await_rows("SELECT requests FROM metamon.five_minute_metrics WHERE dimension = 'overall'")
    home.await_rows("SELECT FROM metamon.completion_metrics WHERE dimension = 'overall'")
    home.await_rows("SELECT last_error FROM metamon.feed_state WHERE source = 'failing' AND last_error LIKE '%has nothing%'")
    assert home.rows("SELECT last_success_at FROM metamon.feed_state WHERE source = 'hanging'") == [(None,)]
    home.run()
    home.await_rows("SELECT count(*) FROM metamon.traces", lambda found: found == [(2,)])
    started = time.monotonic()
    stop.set()
    home.threads[0].join(20)
    assert time.monotonic() - started < 8, "also though one source hangs"
    assert home.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1") == [(0,)]


def test_it_beats_and_a_new_configuration_is_taken_over(
    home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metamon_assets.feed.RELOAD_SECONDS", 0.2)
    monkeypatch.setattr("metamon_assets.feed.BEAT_SECONDS", 0.2)
    caplog.set_level("INFO")
    home.write(home.langsmith())
    stop = home.start()
    home.run()
    home.await_rows("SELECT FROM metamon.traces")
    home.await_rows(
        "SELECT detail FROM metamon.heartbeats WHERE component = 'feed'", lambda found: found == [({"failing": [], "sources": 1},)]
    )

    (home.folder / "metamon.yaml").write_text("sources: [{type: nonsense}]")
    until = time.monotonic() + 10
    while "the old one stays in place" not in caplog.text:
        assert time.monotonic() < until
        time.sleep(0.05)
    home.run()
    home.await_rows("SELECT count(*) FROM metamon.traces", lambda found: found == [(2,)])

    (home.folder / "logs").mkdir()
    line = {"run_id": "f", "trace_id": "f", "run_type": "chain", "start_time": datetime.now(UTC).isoformat(), "status": "success"}
    (home.folder / "logs" / "runs.jsonl").write_text(json.dumps(line) + "\n")
    home.write(home.langsmith(), "{type: files, project: shop, path: logs}")
    home.await_rows("SELECT FROM metamon.traces WHERE run_id = 'f'")
    stop.set()
    home.threads[0].join(20)


def test_a_day_that_somebody_else_loads_does_not_keep_the_feed_from_starting(home: Home) -> None:
    home.write(home.langsmith())
    loader = connect(home.url)
    with loader.cursor() as cursor:
        cursor.execute("SELECT metamon.begin_partition('traces', (statement_timestamp() AT TIME ZONE 'UTC')::date, true)")
    home.start()
    home.await_rows("SELECT FROM metamon.heartbeats WHERE component = 'feed'")
    loader.close()
    home.run()
    home.await_rows("SELECT FROM metamon.traces")


def test_a_second_feed_stands_by_and_takes_over(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metamon_assets.warehouse.alone.STANDBY_SECONDS", 0.2)
    home.write(home.langsmith())
    first = home.start()
    home.await_rows("SELECT FROM metamon.feed_state WHERE last_success_at IS NOT NULL")
    second = home.start()
    home.await_rows(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%metamon:feed%%' AND pid <> pg_backend_pid()".replace("%%", "%")
    )
    pollers = [thread for thread in threading.enumerate() if thread.name == "Poller langsmith/agent"]
    assert len(pollers) == 1
    first.set()
    home.threads[0].join(20)
    home.run()
    home.await_rows("SELECT FROM metamon.traces")
    second.set()
    home.threads[1].join(20)


def test_the_database_going_away_is_survived(home: Home, postgres: EmbeddedPostgres, database_name: str) -> None:
    home.write(home.langsmith())
    stop = home.start()
    home.await_rows("SELECT FROM metamon.feed_state WHERE last_success_at IS NOT NULL")
    administrator = connect(postgres.url(database_name, ADMINISTRATOR))
    with administrator, administrator.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'metamon%'"
            " AND pid <> pg_backend_pid()"
        )
        assert cursor.rowcount >= 4
    administrator.close()
    home.run()
    home.await_rows("SELECT FROM metamon.traces")
    stop.set()
    home.threads[0].join(20)


# ---- the command


def command(home: Home, postgres: EmbeddedPostgres, database_name: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "METAMON_HOME": str(home.folder),
        "METAMON_DATABASE_URL": postgres.url(database_name, ADMINISTRATOR),
        "METAMON_LOG": "json",
    }
    program = [sys.executable, "-c", "from metamon_assets.cli import main; main()", "feed", *arguments]
    return subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_feed_once_prints_what_came_and_says_when_a_source_failed(home: Home, postgres: EmbeddedPostgres, database_name: str) -> None:
    home.write(home.langsmith(), home.langsmith("nowhere", "other"))
    home.run()
    process = command(home, postgres, database_name, "--once", "--json")
    out, err = process.communicate(timeout=90)
    found, failed = json.loads(out)
    assert (found["source"], found["rows_written"], found["error"]) == ("langsmith", 1, None), err
    assert home.rows("SELECT requests FROM metamon.five_minute_metrics WHERE dimension = 'overall'") == [(1,)]
    assert process.returncode == 1
    assert "Check the project's name" in failed["error"]


def test_killed_in_the_middle_of_a_read_and_started_again(
    home: Home, postgres: EmbeddedPostgres, database_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write(home.langsmith())
    for _ in range(250):
        home.run()
    gate = threading.Event()
    answer = home.server.answer
    pages = 0

    def slowly(request: Any, *rest: Any) -> Any:
        nonlocal pages
        if request.path == "/runs/query":
            pages += 1
            if pages == 2:
                gate.wait(30)
        return answer(request, *rest)

    monkeypatch.setattr(home.server, "answer", slowly)
    process = command(home, postgres, database_name)
    until = time.monotonic() + 30
    while pages < 2:
        assert time.monotonic() < until, process.stderr
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=20)
    assert home.rows("SELECT count(*) FROM metamon.traces") == [(0,)], "nothing is half written"
    gate.set()

    process = command(home, postgres, database_name)
    home.await_rows("SELECT count(*) FROM metamon.traces", lambda found: found == [(250,)], 40)
    assert home.rows("SELECT message FROM metamon.ingestion_ledger WHERE status = 'failed'")[0][0].startswith("interrupted")
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert time.monotonic() - started < 8
    assert all({"time", "level", "component", "message"} <= json.loads(line).keys() for line in out.splitlines())
