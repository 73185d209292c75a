"""How targets stand and burn, against counting the same runs in Python."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from metamon_assets.config import Configuration
from metamon_assets.health import slo, targets
from metamon_assets.health.slo import Burn, Status, burn_rates, evaluate, status
from metamon_assets.health.system import Figure, store
from metamon_assets.metrics.completions import refresh_completion_days
from metamon_assets.metrics.rollups import refresh_days
from metamon_assets.warehouse import connect
from metamon_assets_tests.metrics.test_completions import run, write

DAY = date(2026, 10, 24)
START = datetime(2026, 10, 24, tzinfo=UTC)
NOW = START + timedelta(hours=18, minutes=2)
number = count()
Row = dict[str, Any]


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with closing(connect(database)) as connection:
        targets.suggest(connection, START)
        yield connection


def requests(many: int, first: datetime, minutes: float, errors: int = 0, **more: Any) -> list[Row]:
    """Requests that end evenly over the minutes before ``first`` + ``minutes``; errors are spread among them."""
    step = timedelta(minutes=minutes) / many
    seconds = more.pop("seconds", 1.0)
    return [
        run(
            f"r{next(number)}",
            first + step * i,
            seconds,
            "error" if math.floor((i + 1) * errors / many) > math.floor(i * errors / many) else "success",
            cost_source="reported" if "total_cost" in more else "unpriced",
            **more,
        )
        for i in range(many)
    ]


def computed(connection: Connection, rows: Sequence[Row], now: datetime = NOW) -> None:
    write(connection, rows)
    days = sorted({row["day"] for row in rows})
    refresh_days(connection, days, now)
    refresh_completion_days(connection, days, now)


def stand(connection: Connection, name: str, day: date = DAY, now: datetime = NOW) -> Status:
    return next(one for one in evaluate(connection, day, now) if one.target.name == name)


def burn(connection: Connection, name: str, now: datetime = NOW) -> Burn:
    return next(one for one in burn_rates(connection, now) if one.target.name == name)


def test_without_data_every_target_says_so(connection: Connection) -> None:
    found = status(connection, DAY, NOW)
    assert [one.target.name for one in found] == [target.name for target in targets.SUGGESTED]
    assert {(one.value, one.met, one.error_budget_left) for one in found} == {(None, None, None)}
    remarks = {one.target.name: one.remark or "" for one in found}
    assert all(remark.startswith("no data") for remark in remarks.values())
    assert "quality_score on the run" in remarks["weekly_quality"]
    assert "nothing has measured it" in remarks["detection_in_time"]
    for target in targets.SUGGESTED:
        targets.accept(connection, target.name, "ada", START)
    assert [one.severity for one in burn_rates(connection, NOW)] == [None] * len(targets.SUGGESTED)


def test_values_are_those_of_the_runs(connection: Connection) -> None:
    draw = random.Random(20261124)
    rows = []
    for back in range(9):
        for _ in range(60):
            start = START - timedelta(days=back) + timedelta(seconds=draw.uniform(0, 60_000))
            state = "error" if draw.random() < 0.03 else "success"
            more = {"total_cost": round(draw.random() / 50, 6), "cache_hit": draw.random() < 0.7, "total_tokens": draw.randrange(1500)}
            rows.append(run(f"r{next(number)}", start, draw.expovariate(1.0), state, cost_source="reported", **more))
    computed(connection, rows)
    found = {one.target.name: one for one in evaluate(connection, DAY, NOW)}
    today = [row for row in rows if row["day"] == DAY]
    week = [row for row in rows if row["day"] > DAY - timedelta(days=7)]

    errors = sum(row["status"] == "error" for row in today)
    one = found["error_rate"]
    assert (one.good, one.total) == (60 - errors, 60)
    assert one.value == pytest.approx(errors / 60)
    assert one.met == (errors / 60 <= 0.01)
    all_errors = sum(row["status"] == "error" for row in rows)
    assert one.error_budget_left == pytest.approx(1 - all_errors / 540 / 0.01)

    latencies: dict[date, list[float]] = {row["day"]: [] for row in rows}
    for row in rows:
        latencies[row["day"]].append(row["latency_seconds"])
    means = {day: sum(values) / len(values) for day, values in latencies.items()}
    assert found["response_time"].value == pytest.approx(means[DAY])
    assert found["response_time"].error_budget_left == pytest.approx(1 - sum(mean > 2 for mean in means.values()) / 9 / 0.05)
    assert found["response_time"].total == 60

    ordered = sorted(row["latency_seconds"] for row in week)
    assert found["weekly_latency"].value == pytest.approx(ordered[math.ceil(0.95 * len(ordered)) - 1], rel=0.011)
    hits = sum(row["cache_hit"] for row in week)
    assert found["weekly_cache_hits"].good == hits
    assert found["weekly_cache_hits"].value == pytest.approx(hits / 420)
    spent = sum(row["total_cost"] for row in rows)
    assert found["monthly_cost"].value == pytest.approx(spent)
    assert found["monthly_cost"].error_budget_left == pytest.approx(1 - spent / 10)
    week_cost, hit_cost = sum(row["total_cost"] for row in week), sum(row["total_cost"] for row in week if row["cache_hit"])
    saved = hits * (week_cost - hit_cost) / (420 - hits) - hit_cost
    assert found["weekly_cache_saving"].value == pytest.approx(saved / (saved + week_cost))


def test_a_change_is_against_the_week_before(connection: Connection) -> None:
    rows = []
    for back in range(14):
        start = START - timedelta(days=back)
        rows += requests(10, start, 60, quality_score=0.6 if back < 7 else 0.8, degraded=back < 7)
    computed(connection, rows)
    assert stand(connection, "weekly_quality").value == pytest.approx(-0.2)
    assert stand(connection, "weekly_quality").met is False
    assert stand(connection, "weekly_degradation").value == pytest.approx(1)
    assert stand(connection, "weekly_quality", DAY - timedelta(days=8)).value is None
    assert set(stand(connection, "weekly_quality").burns.values()) == {None}


@pytest.mark.parametrize(
    ("errors_in_hour", "errors_before", "severity", "window"),
    [
        (200, 0, "critical", "1h"),  # 20 % of the last hour against 14.4 %
        (100, 600, "critical", "6h"),  # 10 % of an hour is not enough; over six hours 7.4 % against 6 %
        (20, 20, None, None),
        (10, 200, "warning", "3d"),
    ],
)
def test_an_error_rate_burns_by_several_windows(
    connection: Connection, errors_in_hour: int, errors_before: int, severity: str | None, window: str | None
) -> None:
    targets.accept(connection, "error_rate", "ada", START)
    hour = NOW - timedelta(hours=1)
    rows = requests(1000, hour, 60, errors_in_hour)
    if severity == "warning":
        rows += requests(1000, NOW - timedelta(hours=6), 300, 20)
        rows += requests(5000, NOW - timedelta(days=2), 600, errors_before)
    else:
        rows += requests(8500, NOW - timedelta(hours=6), 300, errors_before)
    computed(connection, rows)
    found = burn(connection, "error_rate")
    assert (found.severity, found.window) == (severity, window), found.rates
    if window is not None:
        assert f"burns at {found.rates[window]:.3g} times" in found.words
    ended = [row for row in rows if row["end_time"] >= NOW.replace(minute=0) - timedelta(hours=1) and row["end_time"] < NOW]
    bad = sum(row["status"] == "error" for row in ended)
    assert found.events["1h"] == len(ended)
    assert found.rates["1h"] == pytest.approx(bad / len(ended) / 0.01)


def test_what_is_over_burns_no_longer(connection: Connection) -> None:
    targets.accept(connection, "error_rate", "ada", START)
    computed(connection, requests(1000, NOW - timedelta(minutes=60), 40, 500) + requests(500, NOW - timedelta(minutes=20), 20))
    found = burn(connection, "error_rate")
    assert found.rates["1h"] is not None
    assert found.rates["1h"] > 14.4
    assert found.rates["5m"] == 0
    assert found.severity == "critical"  # six hours and thirty minutes still see it
    computed(connection, requests(1500, NOW + timedelta(minutes=1), 40), NOW + timedelta(minutes=45))
    assert burn(connection, "error_rate", NOW + timedelta(minutes=45)).severity != "critical"


def test_few_events_alert_nobody(connection: Connection) -> None:
    targets.accept(connection, "error_rate", "ada", START)
    computed(connection, requests(5, NOW - timedelta(minutes=6), 5, 1))
    found = burn(connection, "error_rate")
    assert found.rates["1h"] == pytest.approx(20)
    assert found.severity is None  # the lower bound of 1 in 5 is 0.5 %
    computed(connection, requests(3, NOW - timedelta(minutes=6), 5, 3))
    assert burn(connection, "error_rate").severity == "warning"  # that of 4 in 8 is 15.7 %, but four failures page nobody
    computed(connection, requests(60, NOW - timedelta(minutes=6), 5, 20))
    assert burn(connection, "error_rate").severity == "critical"


def test_only_accepted_targets_burn(connection: Connection) -> None:
    computed(connection, requests(1000, NOW - timedelta(minutes=60), 60, 900))
    assert burn_rates(connection, NOW) == []
    assert stand(connection, "error_rate").burns["1h"] == pytest.approx(90, rel=0.05)
    targets.accept(connection, "error_rate", "ada", START)
    assert [one.severity for one in burn_rates(connection, NOW)] == ["critical"]
    targets.withdraw(connection, "error_rate", "ada", START)
    assert burn_rates(connection, NOW) == []


def test_levels_warn_when_their_bound_misses_and_amounts_by_their_pace(connection: Connection) -> None:
    for name in ("response_time", "weekly_latency", "monthly_cost"):
        targets.accept(connection, name, "ada", START)
    rows = requests(400, NOW - timedelta(hours=5), 300, seconds=3.0, total_cost=0.0001)
    rows += requests(2, NOW - timedelta(hours=1), 50, seconds=1.0, total_cost=0.0001)
    computed(connection, rows)
    found = {one.target.name: one for one in burn_rates(connection, NOW)}
    assert (found["response_time"].severity, found["response_time"].window) == ("warning", "3d")
    assert "missed by a factor of 1.5" in found["response_time"].words
    assert found["weekly_latency"].severity is None
    assert found["monthly_cost"].severity is None
    rows = requests(40, NOW - timedelta(minutes=50), 50, total_cost=0.02)  # $0.8 within an hour, of $10 in a month
    computed(connection, rows)
    assert burn(connection, "monthly_cost").severity == "critical"
    left = stand(connection, "monthly_cost").error_budget_left
    assert left == pytest.approx(1 - (0.8 + 402 * 0.0001) / 10)


def test_a_mean_of_few_or_scattered_values_alerts_nobody(connection: Connection) -> None:
    targets.accept(connection, "response_time", "ada", START)
    computed(connection, requests(20, NOW - timedelta(minutes=50), 40, seconds=9.0))
    assert burn(connection, "response_time").severity is None
    computed(
        connection, requests(40, NOW - timedelta(minutes=50), 40, seconds=0.1) + requests(1, NOW - timedelta(minutes=8), 4, seconds=120.0)
    )
    found = burn(connection, "response_time")
    assert found.rates["3d"] is not None
    assert found.rates["3d"] > 1
    assert found.severity is None


def test_targets_of_an_agent_see_its_requests_only(connection: Connection) -> None:
    began = NOW - timedelta(minutes=50)
    computed(connection, requests(300, began, 49, 150, agent_name="bad") + requests(300, began, 49, agent_name="good"))
    wanted = {"agents": {name: {"targets": {"error_rate": {"max": 0.01}}} for name in ("good", "bad", "absent")}}
    targets.follow(connection, Configuration.model_validate(wanted), START)
    severities = {one.target.name: one.severity for one in burn_rates(connection, NOW)}
    assert severities == {"absent.error_rate.max": None, "bad.error_rate.max": "critical", "good.error_rate.max": None}
    assert stand(connection, "bad.error_rate.max").value == pytest.approx(0.5)
    assert stand(connection, "absent.error_rate.max").value is None


def test_uptime_counts_minutes_without_a_look_as_down(connection: Connection) -> None:
    began = START - timedelta(days=1) + timedelta(hours=12)
    for minute in range(720):  # until midnight
        store(connection, [Figure("up", 1.0 if minute >= 20 else 0.0)], began + timedelta(minutes=minute, seconds=7))
    assert stand(connection, "uptime", DAY - timedelta(days=1)).value == pytest.approx(700 / 720, abs=0.002)
    one = stand(connection, "uptime", now=START + timedelta(hours=1))  # nobody looked since midnight
    assert (one.value, one.met) == (0, False)
    before = stand(connection, "uptime", DAY - timedelta(days=3))
    assert (before.value, before.remark) == (None, "no data in these days: nothing has measured it")


def test_later_stages_bring_their_sums(connection: Connection) -> None:
    at = START + timedelta(hours=1)
    store(connection, [Figure("detection_in_time.numerator", 48), Figure("detection_in_time.denominator", 50)], at)
    store(connection, [Figure("detection_in_time.numerator", 49), Figure("detection_in_time.denominator", 50)], at + timedelta(hours=1))
    store(connection, [Figure("proposals_done.numerator", 2)], at)
    one = stand(connection, "detection_in_time")
    assert (one.good, one.total, one.value, one.met) == (97, 100, 0.97, False)
    assert one.error_budget_left == pytest.approx(1 - 0.03 / 0.02)
    assert (stand(connection, "proposals_done").value, stand(connection, "proposals_done").met) == (2, False)
    store(connection, [Figure("critical_alerts_true.numerator", 3), Figure("critical_alerts_true.denominator", 4)], at)
    assert stand(connection, "critical_alerts_true").error_budget_left == 0


def test_a_day_is_replaced_and_the_week_says_whether_targets_were_met(connection: Connection) -> None:
    targets.accept(connection, "error_rate", "ada", START)
    targets.accept(connection, "response_time", "ada", START)
    computed(connection, requests(100, START, 60, 10))
    for _ in range(2):
        status(connection, DAY, NOW)
    last = slo.last_status(connection)
    assert len(last) == len(targets.SUGGESTED)
    assert (last["error_rate"]["met"], last["response_time"]["met"]) == (False, True)
    assert stand(connection, "weekly_targets_met").value is None
    assert stand(connection, "weekly_targets_met", DAY + timedelta(days=1)).value == pytest.approx(0.5)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT objective, value, met FROM analytics.slo_status WHERE target = 'error_rate'")
        assert cursor.fetchall() == [(0.01, pytest.approx(0.1), False)]
