"""Figures about Dagster, the database and the host: as they are, once, and none where nothing is measured."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData, TickData, TickStatus
from psycopg2.extensions import connection as Connection

from metamon_assets.health.state import DAEMON, SUPERVISOR, beat
from metamon_assets.health.system import KEEP, SETTLES, Figure, drop_old, sample, store
from metamon_assets.warehouse import connect

LATER = SETTLES + timedelta(seconds=1)


@pytest.fixture
def instance(owned_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster with its storage in the test's database."""
    monkeypatch.setenv("DAGSTER_STORAGE", owned_database.replace("postgresql://", "postgresql+psycopg2://"))
    (tmp_path / "dagster.yaml").write_text(
        json.dumps({"storage": {"postgres": {"postgres_url": {"env": "DAGSTER_STORAGE"}}}, "telemetry": {"enabled": False}})
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def connection(owned_database: str) -> Iterator[Connection]:
    with closing(connect(owned_database)) as connection:
        yield connection


def figures(connection: Connection, now: datetime) -> dict[tuple[str, str], float]:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT name, component, value FROM metamon.system_metrics WHERE time = %s", (now,))
        return {(name, component): value for name, component, value in cursor.fetchall()}


@dg.op
def working() -> None:
    pass


@dg.op
def failing() -> None:
    raise ValueError("no")


@dg.job
def good() -> None:
    working()


@dg.job
def bad() -> None:
    failing()


def test_what_is_not_there_is_not_measured(connection: Connection, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    count = sample(connection, connection, now)
    found = figures(connection, now)
    assert count == len(found)
    assert found["database_connections", ""] >= 1
    assert found["database_connections_by_part", "metamon"] >= 1
    assert found["database_connections_limit", ""] > 10
    assert found["database_size_bytes", ""] > 1_000_000
    assert 0 < found["host_memory_share", ""] <= 1
    names = {name for name, _ in found}
    assert not names & {"queue_length", "runs_finished", "workers", "up", "host_disk_share", "sensor_tick_age_seconds"}
    assert any(name == "build_info" and "python" in component for name, component in found)

    until = time.monotonic() + 0.05
    while time.monotonic() < until:
        pass
    soon = now + timedelta(minutes=1)
    sample(connection, None, soon, tmp_path)
    found = figures(connection, soon)
    assert 0 < found["host_cpu_share", ""] <= 1
    assert 0 < found["host_disk_share", ""] <= 1


def test_runs_are_counted_once_whatever_the_minutes_between_two_looks(instance: dg.DagsterInstance, connection: Connection) -> None:
    assert good.execute_in_process(instance=instance).success
    for _ in range(2):
        assert not bad.execute_in_process(instance=instance, raise_on_error=False).success
    for status in ("STARTED", "QUEUED"):
        instance.add_run(dg.DagsterRun(job_name="good", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.NOT_STARTED))
        with connection, connection.cursor() as cursor:
            cursor.execute("UPDATE runs SET status = %s WHERE status = 'NOT_STARTED'", (status,))

    now = datetime.now(UTC)
    sample(connection, connection, now - timedelta(minutes=3))
    sample(connection, connection, now + LATER)
    found = figures(connection, now + LATER)
    assert (found["queue_length", ""], found["runs_in_progress", ""]) == (1, 1)
    assert (found["runs_finished", ""], found["runs_failed", ""]) == (3, 2)
    assert (found["runs_finished_by_job", "good"], found["runs_failed_by_job", "good"]) == (1, 0)
    assert (found["runs_finished_by_job", "bad"], found["runs_failed_by_job", "bad"]) == (2, 2)
    assert 0 < found["run_seconds_p95", ""] < 60
    assert found["run_seconds_p95_by_job", "bad"] > 0

    assert good.execute_in_process(instance=instance).success
    after_an_outage = datetime.now(UTC) + LATER + timedelta(minutes=40)
    with connection, connection.cursor() as cursor:
        ended = (after_an_outage - timedelta(minutes=20)).timestamp()
        cursor.execute("UPDATE runs SET end_time = %s WHERE id = (SELECT max(id) FROM runs)", (ended,))
    sample(connection, connection, after_an_outage)
    found = figures(connection, after_an_outage)
    assert (found["runs_finished", ""], found["runs_failed", ""]) == (1, 0)
    assert ("runs_finished_by_job", "bad") not in found


def test_sensors_daemon_and_workers_are_as_old_as_their_last_sign(instance: dg.DagsterInstance, connection: Connection) -> None:
    now = datetime.now(UTC)
    running, stopped = InstigatorStatus.RUNNING, InstigatorStatus.STOPPED
    for name, status, minutes in (("late_data", running, 3), ("stopped", stopped, 3), ("of_old", running, 1500)):
        repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("metamon"), "__repository__")
        origin = RemoteInstigatorOrigin(repository, name)
        instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, status, SensorInstigatorData(min_interval=30)))
        at = (now - timedelta(minutes=minutes)).timestamp()
        selector = origin.get_selector().get_id()
        instance.create_tick(TickData(origin.get_id(), name, InstigatorType.SENSOR, TickStatus.SKIPPED, at, selector_id=selector))
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO daemon_heartbeats (daemon_type, daemon_id, timestamp, body) VALUES ('SENSOR', 'x', %s, '')",
            ((now - timedelta(seconds=20)).replace(tzinfo=None),),
        )
    sample(connection, connection, now)
    found = figures(connection, now)
    document = (Path(__file__).resolve().parents[2] / "docs" / "health.md").read_text(encoding="utf-8")
    assert not [name for name, _ in found if name not in document]
    ages = {component: value for (name, component), value in found.items() if name == "sensor_tick_age_seconds"}
    assert ages == {"late_data": pytest.approx(180, abs=0.1)}
    assert found["daemon_heartbeat_age_seconds", ""] == pytest.approx(20, abs=0.1)
    assert found["workers", ""] == 1  # the daemon; no sensor has ticked in the code server

    beat(connection, DAEMON)
    soon = datetime.now(UTC)
    sample(connection, connection, soon)
    assert figures(connection, soon)["workers", ""] == 2
    dead = now + timedelta(minutes=10)
    sample(connection, connection, dead)
    assert figures(connection, dead)["workers", ""] == 0


def test_up_says_what_the_supervisor_finds(connection: Connection) -> None:
    def findings(*found: dict[str, str]) -> dict[tuple[str, str], float]:
        beat(connection, SUPERVISOR, {"findings": list(found)})
        now = datetime.now(UTC)
        sample(connection, None, now)
        return figures(connection, now)

    since = (datetime.now(UTC) - timedelta(minutes=7)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert findings()["up", ""] == 1
    stale = findings({"component": "sensor late_data", "state": "stale", "since": since, "detail": ""})
    assert (stale["up", ""], round(stale["finding_age_seconds", "sensor late_data stale"])) == (1, 420)
    assert findings({"component": "feed", "state": "hung", "since": since, "detail": ""})["up", ""] == 0

    forgotten = datetime.now(UTC) + timedelta(minutes=20)
    sample(connection, None, forgotten)
    found = figures(connection, forgotten)
    assert found["heartbeat_age_seconds", SUPERVISOR] > 1000
    assert ("up", "") not in found


def test_a_part_that_does_not_answer_costs_the_others_nothing(
    instance: dg.DagsterInstance, connection: Connection, owned_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime.now(UTC)
    with closing(connect(owned_database)) as other, closing(connect(owned_database)) as locker:
        with locker.cursor() as cursor:
            cursor.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        sample(connection, other, now)
        assert time.monotonic() - began < 10
        locker.rollback()
        found = figures(connection, now)
        assert ("queue_length", "") not in found
        assert ("database_size_bytes", "") in found
        assert "Dagster could not be measured" in caplog.text
        soon = now + timedelta(minutes=1)
        sample(connection, other, soon)
        assert figures(connection, soon)["queue_length", ""] == 0


def test_old_figures_go_and_the_same_moment_is_kept_once(database: str) -> None:
    now = datetime.now(UTC)
    with closing(connect(database)) as connection:
        assert store(connection, [Figure("old", 1), Figure("old", 1, "part")], now - KEEP - timedelta(seconds=1)) == 2
        assert store(connection, [Figure("new", 1)], now - KEEP) == 1
        assert store(connection, [Figure("new", 2)], now - KEEP) == 0
        assert store(connection, [], now) == 0
        assert drop_old(connection, now) == 2
        assert drop_old(connection, now) == 0
        assert figures(connection, now - KEEP) == {("new", ""): 1}
