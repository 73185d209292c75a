"""The daily job over the sample world: what each partition shows, and that computing again changes nothing."""

from __future__ import annotations

import re
import threading
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import pytest

from metamon_assets import jobs, partitions
from metamon_assets.config import Settings
from metamon_assets.metrics.sensors import late_days
from metamon_assets.pipeline import PipelineError, _days_to_run, _progress
from metamon_assets.reports.summary import summarise
from metamon_assets.warehouse import connect
from metamon_assets_tests.sample import DAYS, Pipeline
from metamon_assets_tests.waiting import until

COUNTED = {
    "traces": "SELECT count(*) FROM metamon.traces WHERE day = %s",
    "spans": "SELECT count(*) FROM metamon.spans WHERE day = %s",
    "feedback": "SELECT count(*) FROM metamon.feedback WHERE day = %s",
    "events": "SELECT count(*) FROM metamon.events WHERE (time AT TIME ZONE 'UTC')::date = %s",
    "gauge_samples": "SELECT count(*) FROM metamon.gauge_samples WHERE day = %s",
    "five_minute_metrics": "SELECT count(*) FROM metamon.five_minute_metrics WHERE day = %s",
    "fifteen_minute_metrics": "SELECT count(*) FROM metamon.fifteen_minute_metrics WHERE day = %s",
    "unit_daily": "SELECT count(*) FROM metamon.unit_daily WHERE day = %s",
    "daily_metrics": "SELECT count(*) FROM metamon.daily_metrics WHERE day = %s",
}
# Everything but when it was written and by which read.
RAW = "(SELECT md5(string_agg(md5((to_jsonb(t) - 'ingested_at' - 'observed_time')::text), '' ORDER BY {1})) FROM metamon.{0} t)"
CONTENT = f"""
    SELECT {RAW.format("traces", "run_id")}, {RAW.format("spans", "run_id")}, {RAW.format("feedback", "feedback_id")},
        {RAW.format("events", "source, event_id")}, (SELECT count(*) FROM metamon.gauge_samples),
        (SELECT md5(string_agg(jsonb_build_array(day, dimension, dimension_value, requests, errors, total_cost, latency_bins,
            latency_counts)::text, '' ORDER BY day, dimension, dimension_value)) FROM metamon.daily_metrics),
        (SELECT md5(string_agg(jsonb_build_array(day, unit_type, unit_id, requests, total_cost)::text, ''
            ORDER BY day, unit_type, unit_id, requests, total_cost)) FROM metamon.unit_daily)"""


@pytest.fixture
def fresh(database: str, computed: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """The pipeline over an empty database, with the sample days as files."""
    monkeypatch.setenv("METAMON_HOME", str(computed[1]))
    return Pipeline(database)


def test_a_range_shows_each_day_its_own(fresh: Pipeline) -> None:
    fresh.run(*DAYS)

    for day in DAYS:
        for table, query in COUNTED.items():
            found = fresh.rows(query, day)[0][0]
            assert fresh.metadata(table, day)["dagster/partition_row_count"] == found, f"{table} of {day}"
        figures = fresh.metadata("daily_metrics", day)
        expected = fresh.rows("SELECT count(*), round(sum(total_cost), 4)::float8 FROM metamon.traces WHERE day = %s", day)[0]
        assert (figures["requests"], figures["total_cost_usd"]) == expected
        assert "| (all) |" in figures["agents"]
        assert ("picture" in figures) == (day == DAYS[-1])  # of the days up to it, the others among them
        verdicts = {key.to_user_string(): fresh.verdict(key, day) for key in fresh.check_keys()}
        assert all(passed for passed, _ in verdicts.values()), {name: why for name, (passed, why) in verdicts.items() if not passed}
    assert len({fresh.metadata("traces", day)["dagster/partition_row_count"] for day in DAYS}) > 1, "days of different sizes tell more"


def test_a_single_day(fresh: Pipeline) -> None:
    day = DAYS[1]
    fresh.run(day)

    assert fresh.rows("SELECT DISTINCT day FROM metamon.traces") == [(day,)]
    assert fresh.metadata("traces", day)["dagster/partition_row_count"] == fresh.rows("SELECT count(*) FROM metamon.traces")[0][0] > 10
    assert all(fresh.verdict(key, day)[0] for key in fresh.check_keys())
    assert jobs.computed_days(fresh.instance) == {day}


def test_days_that_were_not_asked_for_stay_untouched(fresh: Pipeline) -> None:
    fresh.run(*DAYS[:2])

    for table in ("traces", "spans", "payloads"):
        assert fresh.rows(f"SELECT DISTINCT day FROM metamon.{table} ORDER BY day") == [(day,) for day in DAYS[:2]], table
    connection = connect(fresh.url)
    assert late_days(connection, 0)[0] == {}, "the run has computed all that its reads have changed"
    connection.close()


def test_again_and_day_by_day_give_the_same(fresh: Pipeline, pipeline: Pipeline) -> None:
    for day in reversed(DAYS):
        fresh.run(day)
    content = fresh.rows(CONTENT)
    assert all(content[0])
    assert content == pipeline.rows(CONTENT), "day by day, latest first, gives what the range gave"

    fresh.run(*DAYS)
    assert fresh.rows(CONTENT) == content
    assert fresh.rows(
        "SELECT sum(rows_inserted), sum(rows_updated) FROM metamon.ingestion_ledger WHERE window_end - window_start > '1 day'"
    ) == [(0, 0)]


def test_a_range_evaluated_again_keeps_the_latest_verdict(pipeline: Pipeline) -> None:
    key = dg.AssetCheckKey(dg.AssetKey("traces"), "shape_and_ranges")
    assert pipeline.check("traces", "shape_and_ranges", DAYS)[DAYS[1]] == (True, "")
    pipeline.rows("UPDATE metamon.traces SET total_tokens = 1e9 WHERE day = %s", DAYS[1])
    found = pipeline.check("traces", "shape_and_ranges", DAYS)
    assert [found[day][0] for day in DAYS] == [True, False, True]
    pipeline.rows("UPDATE metamon.traces SET total_tokens = 10 WHERE day = %s", DAYS[1])
    assert pipeline.check("traces", "shape_and_ranges", DAYS)[DAYS[1]] == pipeline.verdict(key, DAYS[1]) == (True, "")


@pytest.mark.parametrize("days", [DAYS[1:2], DAYS], ids=["day", "range"])
def test_a_blocking_check_stops_the_metrics(pipeline: Pipeline, days: list[date]) -> None:
    # A read does not touch rows that the source no longer has, so this one stays as it is.
    pipeline.copy_row("spans", DAYS[1], run_id="lost", trace_id="nobody")
    with pytest.raises(jobs.JobError, match="no_orphans"):
        pipeline.run(*days)

    assert pipeline.instance.get_materialized_partitions(dg.AssetKey("spans")) == {str(day) for day in days}
    assert not jobs.computed_days(pipeline.instance)
    passed, why = pipeline.verdict(dg.AssetCheckKey(dg.AssetKey("spans"), "no_orphans"), DAYS[1])
    assert (passed, why) == (False, "1 spans without their trace, such as lost")


def test_while_days_take_long_something_is_said_and_how_long_is_left() -> None:
    said: list[str] = []
    with _progress(10, said.append, every_seconds=0.01) as advance:
        until(lambda: len(said) > 1, 10, "a line before the first part")
        assert said[0].startswith("Computed 0 of 10 days in 0 s; ")
        advance(DAYS[:1])
        before = len(said)
        assert re.fullmatch(r"Computed 1 of 10 days in \d+ s; at most about \d+ s left", said[-1])
        until(lambda: len(said) > before, 10, "a line after the first part")
    assert said[-1].endswith("left")
    assert "progress" not in {thread.name for thread in threading.enumerate()}


def test_an_empty_home_is_told_how_to_connect(database: str, tmp_path: Path) -> None:
    connection = connect(database)
    with pytest.raises(PipelineError, match="metamon connect langsmith"):
        _days_to_run(connection, Settings.load({"METAMON_HOME": str(tmp_path)}), frozenset(), None, None)
    connection.close()


def test_what_came_in_is_followed_by_where_to_look(pipeline: Pipeline) -> None:
    connection = connect(pipeline.url)
    text = str(summarise(connection, Settings.load(), days_computed=0))
    connection.close()
    for command in ("metamon report", "metamon readiness", "metamon up", "metamon sql"):
        assert f"\n  {command} " in text


def test_chunks_are_runs_of_neighbours() -> None:
    days = [*DAYS, date(2024, 3, 9), date(2024, 3, 10)]
    assert list(jobs.chunks(days[::-1], most=2)) == [DAYS[:2], DAYS[2:], days[3:]]


def test_partitions_are_utc_days_up_to_today() -> None:
    now = datetime(2026, 11, 20, 0, 15, tzinfo=UTC)
    keys = partitions.daily.get_partition_keys(current_time=now)
    assert (keys[0], keys[-1]) == (Settings.load().start_day.isoformat(), "2026-11-20")
    assert partitions.bounds_of(DAYS) == (datetime(2024, 3, 5, tzinfo=UTC), datetime(2024, 3, 8, tzinfo=UTC))
    assert partitions.closed_days(now, 2) == [date(2026, 11, 18), date(2026, 11, 19)]
