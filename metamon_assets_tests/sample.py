"""Some days of the sample world for tests of the pipeline, and the pipeline over them in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.base import PartitionKeyFilter  # type: ignore[attr-defined]

from metamon_assets import jobs
from metamon_assets.definitions import build_definitions
from metamon_assets.simulation import simulate
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.resources import Warehouse

DAYS = [date(2024, 3, 5), date(2024, 3, 6), date(2024, 3, 7)]  # Tuesday to Thursday
PER_DAY = 30
CONFIGURATION = "sources: [{type: files, project: sample, path: sample}]\n"


def write_home(home: Path) -> Path:
    """A home with the days as files and a configuration that names them; METAMON_HOME must point to it."""
    home.mkdir(parents=True, exist_ok=True)
    simulate(7, DAYS[0], len(DAYS), PER_DAY, home / "sample", home / "truth")
    (home / "metamon.yaml").write_text(CONFIGURATION)
    return home


@dataclass
class Pipeline:
    """All definitions over one database, with an instance of Dagster in memory."""

    url: str
    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)

    def __post_init__(self) -> None:
        self.definitions = build_definitions({"warehouse": Warehouse(url=self.url)})

    def run(self, *days: date, job: str = jobs.DAILY) -> str:
        """Run a job for consecutive days; raises JobError."""
        return jobs.execute(self.definitions, self.instance, job, days)

    def check(self, asset: str, name: str, days: Sequence[date]) -> dict[date, tuple[bool, str]]:
        """Run one check for the days and nothing else; gives each day's verdict as Dagster has it."""
        key = dg.AssetCheckKey(dg.AssetKey(asset), name)
        job = self.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(), asset_check_selection={key})
        tags = {"dagster/asset_partition_range_start": str(days[0]), "dagster/asset_partition_range_end": str(days[-1])}
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        job.execute_in_process(instance=self.instance, tags=tags, run_config=quiet, raise_on_error=False)
        return {day: self.verdict(key, day) for day in days}

    def verdict(self, key: dg.AssetCheckKey, day: date) -> tuple[bool, str]:
        """The last evaluation of a day's partition: whether it passed, and its description."""
        history = self.instance.event_log_storage.get_asset_check_execution_history(
            key, limit=1, partition_filter=PartitionKeyFilter(key=str(day))
        )
        assert history, f"{key.to_user_string()} was not evaluated for {day}"
        assert history[0].status != AssetCheckExecutionRecordStatus.PLANNED, f"{key.to_user_string()} of {day} was only planned"
        event = history[0].event
        assert event is not None
        evaluation = event.get_dagster_event().asset_check_evaluation_data
        return evaluation.passed, evaluation.description or ""

    def check_keys(self) -> list[dg.AssetCheckKey]:
        """All checks."""
        return sorted(self.definitions.resolve_asset_graph().asset_check_keys)

    def metadata(self, table: str, day: date) -> dict[str, Any]:
        """What the last materialization of a day's partition says."""
        filter_ = dg.AssetRecordsFilter(asset_key=dg.AssetKey(table), asset_partitions=[str(day)])
        records = self.instance.fetch_materializations(filter_, limit=1).records
        assert records, f"{table} was not materialized for {day}"
        assert records[0].asset_materialization is not None
        return {name: value.value for name, value in records[0].asset_materialization.metadata.items()}

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        connection = connect(self.url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(query, parameters or None)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def copy_row(self, table: str, day: date, **changes: Any) -> None:
        """Insert a copy of a row of the day with some columns changed."""
        columns = ", ".join(
            name
            for (name,) in self.rows(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
                f"metamon.{table}",
            )
        )
        self.rows(
            f"INSERT INTO metamon.{table} ({columns}) SELECT {columns} FROM jsonb_populate_record(NULL::metamon.{table},"
            f" (SELECT to_jsonb(t) FROM metamon.{table} t WHERE day = %s LIMIT 1) || %s::jsonb)",
            day,
            json.dumps(changes, default=str),
        )
