"""Readiness: what works at 200, 1,000 and 5,000 traces a day, and nothing senseless of little."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from psycopg2.extensions import connection as Connection

from metamon_assets.cli import main
from metamon_assets.reports.findings import Context
from metamon_assets.reports.readiness import FEATURES, Readiness, Traffic, assess, judged
from metamon_assets.reports.sections import readiness
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets_tests.reports.histories import END, NOW, START, opened, write


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    opened_connection = opened(database)
    yield opened_connection
    opened_connection.close()


def traffic(per_day: float, *, error_rate: float = 0.05, days: float = 14.0) -> Traffic:
    """An agent that fails as often and tells nothing but cost, latency and status."""
    runs = round(per_day * days)
    failed = round(error_rate * runs)
    return Traffic(None, runs, days, failed, runs, 1 - error_rate, runs, False, (0.6, runs), (0.5, runs), runs, 1.0)


def answers(found: Traffic) -> dict[str, Readiness]:
    return {entry.feature: entry for entry in judged(found)}


def test_weeks_of_a_few_runs_are_not_called_comparable() -> None:
    found = answers(traffic(2))["weekly comparison"]
    assert found.state == "wider window"
    assert "only very large differences" in found.why
    assert answers(traffic(200))["weekly comparison"].state == "ready"


def test_at_200_a_day_a_canary_of_a_tenth_takes_some_27_days() -> None:
    found = answers(traffic(200))
    for feature in ("cost", "error patterns", "outages", "weekly comparison", "golden cases"):
        assert found[feature].state == "ready", feature
    canary = found["canary at 10 %"]
    assert canary.state == "wider window"
    assert "5,4" in canary.why  # 5,433 runs at exactly 95 %; the rate here is a hair below
    assert "about 28 days at 200 runs a day" in canary.why or "about 27 days" in canary.why
    assert "Use 50/50 (11 days), or golden cases" in canary.why
    assert found["A/B test at 50/50"].state == "ready"
    assert found["hourly detection"].state == "wider window"
    assert found["five-minute detection"].state != "ready"


def test_at_1000_a_day_hourly_and_at_5000_five_minute_detection_work() -> None:
    thousand, many = answers(traffic(1000)), answers(traffic(5000))
    assert thousand["hourly detection"].state == "ready"
    assert thousand["five-minute detection"].state != "ready"
    assert many["five-minute detection"].state == "ready"
    assert many["canary at 10 %"].state == "ready"


@pytest.mark.parametrize("runs", [0, 1, 5, 19])
def test_of_a_few_runs_nothing_is_said_but_how_many_are_missing(runs: int) -> None:
    for entry in judged(Traffic(None, runs, 3.0, 0, runs, 1.0, runs, False, (0.5, runs), (0.5, runs), runs, 1.0)):
        assert entry.state == "not yet"
        assert entry.smallest_effect == ""
        assert "nan" not in entry.why
        assert (entry.ready_in_days is None) == (runs == 0)


@pytest.mark.parametrize("error_rate", [0.0, 1.0, 0.99])
def test_when_all_or_none_failed_every_sentence_stays_true(error_rate: float) -> None:
    for entry in judged(traffic(300, error_rate=error_rate)):
        assert "nan" not in entry.why
        assert "inf" not in entry.smallest_effect
        if error_rate > 0.9 and entry.feature in ("outages", "hourly detection", "five-minute detection", "canary at 10 %"):
            assert entry.state == "not yet"


def test_less_traffic_is_never_readier() -> None:
    order = {"not yet": 0, "wider window": 1, "ready": 2}
    for feature in ("hourly detection", "five-minute detection", "canary at 10 %", "A/B test at 50/50", "change detection"):
        states = [order[answers(traffic(per_day))[feature].state] for per_day in (5, 20, 100, 400, 1600, 6400, 25600)]
        assert states == sorted(states), feature


def test_each_agent_is_judged_by_its_own_figures_and_the_section_shows_them(connection: Connection) -> None:
    rows = [
        {"hours": 336 * number / 2800, "run_id": f"r{number}", "agent_name": "busy" if number % 7 else "rare",
         "conversation_id": f"c{number}", "status": "error" if number % 31 == 0 else "success",
         "latency_seconds": 1 + number % 5, "total_cost": 0.01 * (1 + number % 3)}
        for number in range(2800)
    ]  # fmt: skip
    write(connection, rows)
    context = Context(connection, START, END, NOW)
    found = assess(context)
    assert {(entry.agent, entry.feature) for entry in found} == {
        (agent, feature) for agent in (None, "busy", "rare") for feature in FEATURES
    }
    tables = readiness.build(context).tables
    assert [row[0] for row in tables[0].rows] == list(FEATURES)
    assert tables[1].columns == ("feature", "busy", "rare")


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_section_stands_on_nearly_nothing(connection: Connection, count: int) -> None:
    write(connection, [{"hours": number, "run_id": f"r{number}", "status": "error"} for number in range(count)])
    (table,) = readiness.build(Context(connection, START, END, NOW)).tables
    assert {row[1] for row in table.rows} == {"not yet"}


def test_a_single_day_is_told_as_one(connection: Connection) -> None:
    write(connection, [{"hours": number / 40, "run_id": f"r{number}"} for number in range(800)])
    found = {entry.feature: entry for entry in assess(Context(connection, START, START + timedelta(days=1), START + timedelta(days=1)))}
    assert found["weekly comparison"].state == "not yet"
    assert found["weekly comparison"].ready_in_days == 13


def test_the_command_prints_tables_and_json(
    postgres: EmbeddedPostgres, database_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = postgres.url(database_name, ADMINISTRATOR)
    connection = opened(url)
    write(connection, [{"hours": number / 10, "run_id": f"r{number}", "agent_name": f"a{number % 2}"} for number in range(400)])
    connection.close()
    monkeypatch.setenv("METAMON_HOME", str(tmp_path))
    monkeypatch.setenv("METAMON_DATABASE_URL", url)
    shown = CliRunner().invoke(main, ["readiness"])
    assert shown.exit_code == 0, shown.output
    assert "All runs" in shown.output
    assert "canary at 10 %" in shown.output
    told = json.loads(CliRunner().invoke(main, ["readiness", "--json", "--agent", "a1"]).output)
    assert [entry["feature"] for entry in told] == list(FEATURES)
