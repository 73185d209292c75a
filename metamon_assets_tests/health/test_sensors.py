"""Signs of life, failed runs and failed checks as rows without secrets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from metamon_assets.health.sensors import SETTLED, collect, dagster_events, heartbeat, new_evaluations, run_failures
from metamon_assets.health.state import DAEMON, CheckVerdict, record_verdicts
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.resources import Warehouse


def test_a_heartbeat_grows_old_only_when_nobody_beats(database: str) -> None:
    connection = connect(database)
    for _ in range(2):
        with dg.build_sensor_context(resources={"warehouse": Warehouse(url=database)}) as context:
            heartbeat(context)
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT component, beat_at, detail ->> 'dagster' FROM metamon.heartbeats")
            ((component, beat_at, version),) = cursor.fetchall()
        assert (component, version) == (DAEMON, dg.__version__)
        assert datetime.now(UTC) - beat_at < timedelta(minutes=1)
    connection.close()


@dg.op
def failing() -> None:
    raise ValueError("no answer for jane.doe@example.com with key sk-ant-api03-abcdefghijklmnopqrstuvwxyz0123456789")


@dg.job
def broken() -> None:
    failing()


def test_a_failed_run_is_kept_once_and_redacted(database: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = broken.execute_in_process(instance=instance, raise_on_error=False, tags={"dagster/partition": "2026-08-20"})
        for _ in range(2):  # the sensor may see a failure again after a crash
            context = dg.build_run_status_sensor_context(
                sensor_name="run_failures",
                dagster_instance=instance,
                dagster_run=result.dagster_run,
                dagster_event=result.get_run_failure_event(),
                resources={"warehouse": Warehouse(url=database)},
            ).for_run_failure()
            run_failures(context)
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT dagster_run_id, job_name, partition_key, step_keys, message FROM metamon.run_failures")
        ((run_id, job_name, partition_key, step_keys, message),) = cursor.fetchall()
    connection.close()
    assert (run_id, job_name, partition_key, step_keys) == (result.run_id, "broken", "2026-08-20", ["failing"])
    assert "no answer for" in message
    assert "jane.doe" not in message
    assert "abcdefghijkl" not in message


@dg.asset
def shop() -> None:
    pass


VERDICTS = {"shape": dg.AssetCheckResult(passed=True), "late": dg.AssetCheckResult(passed=True)}
SECRET = "jane.doe@example.com may not see sk-ant-api03-abcdefghijklmnopqrstuvwxyz0123456789"


@dg.asset_check(asset=shop)
def shape() -> dg.AssetCheckResult:
    return VERDICTS["shape"]


@dg.asset_check(asset=shop)
def late() -> dg.AssetCheckResult:
    return VERDICTS["late"]


@pytest.fixture(params=["postgres", "ephemeral"])
def instance(
    request: pytest.FixtureRequest, owned_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Dagster with its storage in Postgres, and in memory."""
    if request.param == "ephemeral":
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance
        return
    monkeypatch.setenv("DAGSTER_STORAGE", owned_database.replace("postgresql://", "postgresql+psycopg2://"))
    (tmp_path / "dagster.yaml").write_text(
        json.dumps({"storage": {"postgres": {"postgres_url": {"env": "DAGSTER_STORAGE"}}}, "telemetry": {"enabled": False}})
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def materialize(instance: dg.DagsterInstance, **verdicts: dg.AssetCheckResult) -> None:
    VERDICTS.update(verdicts)
    assert dg.materialize([shop, shape, late], instance=instance).success  # a check that does not block fails no run


def tick(instance: dg.DagsterInstance, database: str, cursor: str | None, after: timedelta = 2 * SETTLED) -> tuple[str, str]:
    """One tick of the sensor as it would be a little later: the new cursor, and what it says."""
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources={"warehouse": Warehouse(url=database)}) as context:
        records, position = new_evaluations(instance, cursor, datetime.now(UTC) + after)
        with closing(connect(database)) as connection:
            recorded = record_verdicts(connection, collect(records))
        assert context.instance is instance
    return str(position), f"{len(records)} evaluations, {recorded} of them news"


def events(database: str) -> list[tuple[str, str, str]]:
    with closing(connect(database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT kind, check_name, severity FROM metamon.dagster_events ORDER BY event_id")
        return cursor.fetchall()


def test_failed_checks_are_kept_whatever_their_severity_and_so_is_the_next_pass(instance: dg.DagsterInstance, database: str) -> None:
    materialize(instance, shape=dg.AssetCheckResult(passed=False, description="of old"))
    cursor, said = tick(instance, database, None)
    assert (said, events(database)) == ("0 evaluations, 0 of them news", [])  # history is no news

    failed = dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description=SECRET)
    materialize(instance, shape=failed, late=dg.AssetCheckResult(passed=False))
    assert tick(instance, database, cursor, timedelta()) == (cursor, "0 evaluations, 0 of them news")  # not settled yet
    cursor, said = tick(instance, database, cursor)
    assert said == "2 evaluations, 2 of them news"
    assert sorted(events(database)) == [("check_failed", "late", "ERROR"), ("check_failed", "shape", "WARN")]
    with closing(connect(database)) as connection, connection, connection.cursor() as rows:
        rows.execute("SELECT message, asset_key, partition_key FROM metamon.dagster_events WHERE check_name = 'shape'")
        ((message, asset_key, partition_key),) = rows.fetchall()
    assert "may not see" in message
    assert "jane.doe" not in message
    assert "abcdefghijkl" not in message
    assert (asset_key, partition_key) == ("shop", None)

    for _ in range(2):
        materialize(instance, shape=dg.AssetCheckResult(passed=True), late=dg.AssetCheckResult(passed=True))
    again, said = tick(instance, database, cursor)
    assert said == "4 evaluations, 2 of them news"  # the second pass says nothing new
    assert tick(instance, database, cursor) == (again, "4 evaluations, 0 of them news")  # after a crash: nothing twice
    assert len(events(database)) == 4


def test_a_cursor_beyond_the_newest_event_begins_again_at_the_newest(instance: dg.DagsterInstance, database: str) -> None:
    materialize(instance, shape=dg.AssetCheckResult(passed=False), late=dg.AssetCheckResult(passed=True))
    cursor, said = tick(instance, database, "1000000")
    assert said == "0 evaluations, 0 of them news"
    assert 0 < int(cursor) < 1000
    materialize(instance, shape=dg.AssetCheckResult(passed=False), late=dg.AssetCheckResult(passed=True))
    assert tick(instance, database, cursor)[1] == "2 evaluations, 1 of them news"


def test_the_sensor_moves_its_cursor_over_what_it_kept(instance: dg.DagsterInstance, database: str) -> None:
    resources = {"warehouse": Warehouse(url=database)}
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        first = dagster_events(context)
    assert isinstance(first, dg.SensorResult)
    assert first.cursor == "0"
    materialize(instance, shape=dg.AssetCheckResult(passed=False), late=dg.AssetCheckResult(passed=True))
    time.sleep(SETTLED.total_seconds())
    with dg.build_sensor_context(instance=instance, cursor=first.cursor, resources=resources) as context:
        second = dagster_events(context)
    assert isinstance(second, dg.SensorResult)
    assert int(second.cursor or 0) > 0
    assert second.skip_reason is not None
    assert second.skip_reason.skip_message == "2 evaluations, 1 of them news"
    assert events(database) == [("check_failed", "shape", "ERROR")]


def test_a_range_of_days_is_told_by_day_and_not_once_more_together(database: str) -> None:
    def verdict(storage_id: int, day: str | None, passed: bool) -> CheckVerdict:
        at = datetime(2026, 11, 20, tzinfo=UTC) + timedelta(seconds=storage_id)
        return CheckVerdict(storage_id, "daily_metrics", "adds_up", day, passed, "ERROR", "run", at, "1 of 2 days failed")

    with closing(connect(database)) as connection:
        found = [verdict(1, "2026-11-18", False), verdict(2, "2026-11-19", True), verdict(3, None, False)]
        assert record_verdicts(connection, found) == 1
        assert record_verdicts(connection, [verdict(4, "2026-11-18", True)]) == 1
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT kind, partition_key FROM metamon.dagster_events ORDER BY event_id")
            assert cursor.fetchall() == [("check_failed", "2026-11-18"), ("check_passed", "2026-11-18")]
