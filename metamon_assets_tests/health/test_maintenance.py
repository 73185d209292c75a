"""Pruning of Dagster's event log, in Dagster's own storage."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import ASSET_EVENTS, PIPELINE_EVENTS, DagsterEventType

from metamon_assets.health.maintenance import DISPENSABLE, KEEP, prune_event_log
from metamon_assets.warehouse import connect


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def thing(context: dg.AssetExecutionContext) -> None:
    context.log.info("a line")


@pytest.fixture
def instance(owned_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster with its storage in the test's database."""
    monkeypatch.setenv("DAGSTER_STORAGE", owned_database.replace("postgresql://", "postgresql+psycopg2://"))
    (tmp_path / "dagster.yaml").write_text(
        json.dumps({"storage": {"postgres": {"postgres_url": {"env": "DAGSTER_STORAGE"}}}, "telemetry": {"enabled": False}})
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def test_what_dagster_must_remember_is_not_dispensable() -> None:
    kinds = {DagsterEventType(name) for name in DISPENSABLE}
    assert not kinds & (ASSET_EVENTS | PIPELINE_EVENTS)
    assert DagsterEventType.STEP_FAILURE not in kinds


def test_old_events_go_and_materialisations_stay(instance: dg.DagsterInstance, owned_database: str) -> None:
    for key in ("a", "b"):
        assert dg.materialize([thing], instance=instance, partition_key=key).success
    now = datetime.now(UTC)
    with closing(connect(owned_database)) as connection:

        def count(condition: str = "true") -> int:
            with connection, connection.cursor() as cursor:
                cursor.execute(f"SELECT count(*) FROM event_logs WHERE {condition}")
                return int((cursor.fetchone() or (0,))[0])

        everything, lines = count(), count("dagster_event_type IS NULL")
        assert lines >= 2
        assert prune_event_log(connection, now) == 0
        assert prune_event_log(connection, now + KEEP - timedelta(minutes=10)) == 0
        assert count() == everything

        gone = prune_event_log(connection, now + KEEP + timedelta(minutes=1), batch=7)
        assert gone > everything / 3
        assert count() == everything - gone
        assert count("dagster_event_type IS NULL") == 0
        assert count("dagster_event_type = 'ASSET_MATERIALIZATION'") == 2
        assert prune_event_log(connection, now + KEEP + timedelta(minutes=1)) == 0
    assert instance.get_materialized_partitions(dg.AssetKey("thing")) == {"a", "b"}
    assert all(run.is_success for run in instance.get_runs())
    assert len(instance.get_runs()) == 2
