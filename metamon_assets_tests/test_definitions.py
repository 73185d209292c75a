"""What Dagster is told: the asset graph as a whole, and that loading it costs and touches nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from metamon_assets.definitions import build_definitions

SNAPSHOT = Path(__file__).with_name("definitions.json")
REGENERATE = "METAMON_WRITE_SNAPSHOT=1 python -m pytest metamon_assets_tests/test_definitions.py"
NEVER_AT_LOAD = {"great_expectations", "statsmodels", "langsmith", "genai_prices", "altair", "vl_convert", "scipy"}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions()


@pytest.fixture(scope="module")
def graph(definitions: dg.Definitions) -> Any:
    return definitions.resolve_asset_graph()


def described(definitions: dg.Definitions, graph: Any) -> dict[str, Any]:
    """Everything that a reader of the UI would notice if it changed, without the texts."""
    repository = definitions.get_repository_def()
    return {
        "assets": {key.to_user_string(): _asset(graph.get(key)) for key in sorted(graph.get_all_asset_keys())},
        "checks": {
            f"{key.asset_key.to_user_string()}.{key.name}": {
                "blocking": graph.get(key).blocking,
                "partitions": _partitions(graph.get(key).partitions_def),
            }
            for key in sorted(graph.asset_check_keys)
        },
        "jobs": {
            job.name: {
                "assets": sorted(key.to_user_string() for key in job.asset_layer.executable_asset_keys),
                "checks": len(job.asset_layer.asset_graph.asset_check_keys),
                "partitions": _partitions(job.partitions_def),
                "executor": job.executor_def.name,
            }
            for job in sorted(repository.get_all_jobs(), key=lambda job: job.name)
            if not job.name.startswith("__")
        },
        "schedules": {
            schedule.name: {
                "job": schedule.job_name,
                "cron": schedule.cron_schedule,
                "timezone": schedule.execution_timezone,
                "starts": schedule.default_status.value,
            }
            for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name)
        },
        "sensors": {
            sensor.name: {
                "kind": sensor.sensor_type.value,
                "jobs": sorted(target.job_name for target in sensor.targets),
                "seconds": sensor.minimum_interval_seconds,
                "starts": sensor.default_status.value,
            }
            for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name)
        },
    }


def _asset(node: Any) -> dict[str, Any]:
    policy, backfill = node.freshness_policy, node.backfill_policy
    return {
        "group": node.group_name,
        "deps": sorted(key.to_user_string() for key in node.parent_keys),
        "kinds": sorted(node.kinds),
        "owners": sorted(node.owners),
        "partitions": _partitions(node.partitions_def),
        "days_per_run": backfill.max_partitions_per_run if backfill else None,
        "freshness": policy and f"by {policy.deadline_cron} {policy.timezone}, at most {policy.lower_bound_delta} before",
        "pools": sorted(node.pools or ()),
    }


def _partitions(partitions: dg.PartitionsDefinition | None) -> str | None:
    if not isinstance(partitions, dg.DailyPartitionsDefinition):
        return None if partitions is None else type(partitions).__name__
    return f"daily {partitions.timezone} from the first day, up to today {partitions.end_offset - 1:+d}"


def test_the_graph_is_the_one_that_was_agreed(definitions: dg.Definitions, graph: Any) -> None:
    found = json.dumps(described(definitions, graph), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get("METAMON_WRITE_SNAPSHOT"):
        SNAPSHOT.write_text(found, encoding="utf-8")
    agreed = SNAPSHOT.read_text(encoding="utf-8")
    assert json.loads(found) == json.loads(agreed), f"If the change is meant, write the new snapshot and look at its diff: {REGENERATE}"


def test_everything_loads(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


def test_every_asset_explains_itself(graph: Any) -> None:
    lacking = []
    for key in graph.get_all_asset_keys():
        node, name = graph.get(key), key.to_user_string()
        lacks = {
            "a description": not node.description,
            "a group": node.group_name in (None, "default"),
            "kinds": not node.kinds,
            "an owner": not node.owners,
            "a check": not node.check_keys,
            "column lineage, though it has an upstream in the warehouse": bool(node.parent_keys) and not _lineage(node),
        }
        lacks |= {f"a description of its column {column.name}": not column.description for column in _columns(node)}
        lacking += [f"{name} lacks {what}" for what, is_lacking in lacks.items() if is_lacking]
        lacking += [f"{name} has no columns"] * (not _columns(node))
    assert not lacking, "\n".join(lacking)


def test_lineage_names_columns_that_exist(graph: Any) -> None:
    columns = {key: {column.name for column in _columns(graph.get(key))} for key in graph.get_all_asset_keys()}
    for key in graph.get_all_asset_keys():
        for column, origins in _lineage(graph.get(key)).items():
            assert column in columns[key], f"{key.to_user_string()} has no column {column}"
            for origin in origins:
                assert origin.asset_key in graph.get(key).parent_keys, f"{key.to_user_string()} does not depend on {origin.asset_key}"
                assert origin.column_name in columns[origin.asset_key], f"{origin.asset_key} has no column {origin.column_name}"


def test_every_check_explains_itself(graph: Any) -> None:
    lacking = [key for key in graph.asset_check_keys if not graph.get(key).description]
    assert not lacking


def _columns(node: Any) -> list[dg.TableColumn]:
    return list(dict(node.metadata)["dagster/column_schema"].columns)


def _lineage(node: Any) -> dict[str, Any]:
    lineage = node.metadata.get("dagster/column_lineage")
    return dict(lineage.deps_by_column) if lineage else {}


LOAD = """
import json, socket, sys
def refuse(*arguments, **options):
    raise AssertionError(f"loading the definitions connects to {arguments[1:]}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import psycopg2
psycopg2.connect = refuse
from metamon_assets.definitions import definitions
found = definitions()
found.get_repository_def()
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


def test_loading_imports_nothing_heavy_and_connects_to_nothing(tmp_path: Path) -> None:
    # psycopg2 connects in C, where no patch of sockets would see it; a home that is not there would be made.
    environment = {"PATH": os.environ["PATH"], "METAMON_HOME": str(tmp_path / "home"), "DAGSTER_DISABLE_TELEMETRY": "1"}
    loaded = subprocess.run([sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert loaded.returncode == 0, loaded.stderr
    assert not NEVER_AT_LOAD & set(json.loads(loaded.stdout))
    assert not (tmp_path / "home").exists()


def test_every_asset_can_be_asked_for_alone() -> None:
    """Dagster's backfill refuses several assets of one step whose upstream assets differ, unless they can be had one by one."""
    definitions = [definition for definition in build_definitions().assets or () if isinstance(definition, dg.AssetsDefinition)]
    together = [definition for definition in definitions if len(definition.keys) > 1]
    assert len(together) == 2
    assert all(definition.can_subset for definition in together)
