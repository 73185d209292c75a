"""Signs of life, and failed runs as rows without secrets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg

from metamon_assets.health.sensors import DAEMON, heartbeat, run_failures
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
