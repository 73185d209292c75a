"""The assets over computed days: rows, metadata that says how it stands, and checks that find what is wrong."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from metamon_assets.days import midnight
from metamon_assets.health import assets, checks
from metamon_assets.health.system import Figure, store
from metamon_assets.health.targets import SUGGESTED
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.resources import Warehouse
from metamon_assets_tests.sample import DAYS, Pipeline


def materialize(pipeline: Pipeline, *days: date) -> dg.ExecuteInProcessResult:
    """Both assets and their checks, for one day or a range."""
    which: dict[str, Any] = {"partition_key": str(days[0])}
    if len(days) > 1:
        which = {"tags": {"dagster/asset_partition_range_start": str(days[0]), "dagster/asset_partition_range_end": str(days[-1])}}
    everything = [assets.system, assets.slo_status, *checks.checks]
    return dg.materialize(everything, resources={"warehouse": Warehouse(url=pipeline.url)}, instance=pipeline.instance, **which)


def failed(result: dg.ExecuteInProcessResult) -> dict[str, str | None]:
    return {one.check_name: one.description for one in result.get_asset_check_evaluations() if not one.passed}


def test_a_range_of_days_has_its_figures(pipeline: Pipeline) -> None:
    with closing(connect(pipeline.url)) as connection:
        store(connection, [Figure("queue_length", 3), Figure("up", 1)], midnight(DAYS[1]) + timedelta(hours=3))
    assert failed(materialize(pipeline, *DAYS)) == {}

    rows = pipeline.rows("SELECT day, count(*), count(value) FROM metamon.slo_status GROUP BY day ORDER BY day")
    assert [(day, of_day) for day, of_day, _ in rows] == [(day, len(SUGGESTED)) for day in DAYS]
    assert all(told >= 8 for _, _, told in rows)
    ((errors, ended),) = pipeline.rows(
        "SELECT count(*) FILTER (WHERE status = 'error'), count(*) FILTER (WHERE status IN ('success', 'error')) FROM metamon.traces"
        " WHERE day = %s",
        DAYS[1],
    )
    ((value, total),) = pipeline.rows("SELECT value, total FROM metamon.slo_status WHERE day = %s AND target = 'error_rate'", DAYS[1])
    assert (value, total) == (pytest.approx(errors / ended), ended)

    shown = pipeline.metadata("slo_status", DAYS[1])
    assert shown["dagster/partition_row_count"] == len(SUGGESTED)
    assert "error_rate at most 0.01" in shown["targets"]
    assert shown["accepted_with_data"] == 0
    shown = pipeline.metadata("system_metrics", DAYS[1])
    assert (shown["dagster/partition_row_count"], shown["minutes_measured"], shown["longest_queue"]) == (2, 1, 3)
    assert "queue_length" in shown["figures"]
    assert pipeline.metadata("system_metrics", DAYS[0])["dagster/partition_row_count"] == 0


def test_the_checks_find_what_is_wrong(pipeline: Pipeline) -> None:
    day = DAYS[-1]
    with closing(connect(pipeline.url)) as connection:
        store(connection, [Figure("host_memory_share", 1.5), Figure("queue_length", -1, "x")], midnight(day) + timedelta(hours=1))
    impossible = failed(materialize(pipeline, day))
    assert set(impossible) == {"figures_are_possible"}
    assert "host_memory_share : 1 times" in (impossible["figures_are_possible"] or "")

    pipeline.rows("UPDATE metamon.slo_status SET good = total + 1 WHERE day = %s AND target = 'error_rate'", day)
    pipeline.rows("DELETE FROM metamon.slo_status WHERE day = %s AND target = 'uptime'", day)
    pipeline.definitions = dg.Definitions(
        assets=[assets.slo_status], asset_checks=checks.checks[1:], resources={"warehouse": Warehouse(url=pipeline.url)}
    )
    found = pipeline.check("slo_status", "every_target_has_a_status", DAYS[1:])
    assert found == {DAYS[1]: (True, ""), day: (False, "uptime")}
    passed, finding = pipeline.check("slo_status", "status_agrees_with_targets", DAYS[1:])[day]
    assert not passed
    assert "error_rate" in finding


def test_a_day_that_lasts_has_the_status_so_far(pipeline: Pipeline) -> None:
    today = datetime.now(UTC).date()
    assert failed(materialize(pipeline, today)) == {}
    rows = pipeline.rows("SELECT target, remark FROM metamon.slo_status WHERE day = %s AND value IS NOT NULL", today)
    assert rows == []
