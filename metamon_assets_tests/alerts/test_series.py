"""Buckets in memory: what changed is read again, windows end anywhere, and sums are those of the database."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from metamon_assets.alerts.series import Buckets, beyond
from metamon_assets.metrics.completions import BUCKET, refresh_completions
from metamon_assets_tests.alerts.scene import MINUTE, NOON, Scene, scene


def refreshed(buckets: Buckets, at: Scene) -> Buckets:
    with at.connection, at.connection.cursor() as cursor:
        buckets.refresh(cursor, at.now, timedelta(hours=2))
    return buckets


def completed(buckets: Buckets, at: Scene, minutes: float) -> float:
    place = buckets.groups.index(("overall", "(all)"))
    return float(buckets.window(at.now, timedelta(minutes=minutes))[place, buckets.column("completed")])


def test_rows_that_come_after_an_empty_look_are_seen(database: str) -> None:
    with scene(database, "HighErrorRate", step=MINUTE) as at:
        buckets = refreshed(Buckets(), at)
        assert buckets.groups == []
        at.go_on(lambda: at.runs(10))
        assert completed(refreshed(buckets, at), at, 5) == 10
        at.go_on(lambda: at.runs(7))
        assert completed(refreshed(buckets, at), at, 5) == 17


def test_a_window_takes_the_oldest_bucket_in_proportion(database: str) -> None:
    with scene(database, "HighErrorRate") as at:
        at.go_on(lambda: at.runs(20))  # 100, from noon to 12:05
        at.step = MINUTE
        at.minutes(2, lambda: at.runs(10))
        buckets = refreshed(Buckets(), at)
        assert completed(buckets, at, 5) == pytest.approx(20 + 100 * 3 / 5)
        assert completed(buckets, at, 60) == 120


def test_a_window_that_ends_at_a_buckets_start_has_nothing_of_it(database: str) -> None:
    with scene(database, "HighErrorRate") as at:
        at.minutes(10, lambda: at.runs(10))
        buckets = refreshed(Buckets(), at)
        at.now -= BUCKET
        assert completed(buckets, at, 5) == 50


def test_late_rows_change_buckets_that_are_known(database: str) -> None:
    with scene(database, "HighErrorRate") as at:
        at.minutes(30, lambda: at.runs(2))
        buckets = refreshed(Buckets(), at)
        before = completed(buckets, at, 60)
        at.now -= 20 * MINUTE
        at.runs(3)
        touched = [at.now - BUCKET * back for back in range(2)]
        at.now += 20 * MINUTE
        refresh_completions(at.connection, touched, at.now)
        assert completed(refreshed(buckets, at), at, 60) == before + 15


def test_sums_are_those_of_the_database_and_latencies_are_counted_beyond_limits(database: str) -> None:
    with scene(database, "HighErrorRate") as at:
        at.minutes(20, lambda: at.runs(5, bad=1, bad_values={"seconds": 20.0, "status": "error"}))
        buckets = refreshed(Buckets((10.0, 30.0)), at)
        place = buckets.groups.index(("agent", "support"))
        sums = buckets.window(at.now, timedelta(hours=1))[place]
        assert [sums[buckets.column(name)] for name in ("completed", "errors", beyond(10.0), beyond(30.0))] == [100, 20, 20, 0]
        assert sums[buckets.column("latency_log_sum")] == pytest.approx(20 * np.log(20.0), rel=0.01, abs=1.0)


def test_old_buckets_leave_and_a_jump_of_the_clock_reads_anew(database: str) -> None:
    with scene(database, "HighErrorRate") as at:
        at.minutes(20, lambda: at.runs(5))
        buckets = refreshed(Buckets(), at)
        at.now += timedelta(hours=1)
        assert len(refreshed(buckets, at).sums) == 25
        assert completed(buckets, at, 120) == 100
        at.now += timedelta(days=3)
        assert completed_or_nothing(refreshed(buckets, at), at) == 0
        at.now = NOON + timedelta(minutes=20)
        assert completed(refreshed(buckets, at), at, 60) == 100


def completed_or_nothing(buckets: Buckets, at: Scene) -> float:
    return completed(buckets, at, 60) if buckets.groups else 0.0


def test_what_is_due_follows_the_same_time_of_days_of_the_same_kind() -> None:
    monday = NOON + timedelta(days=2)  # Monday, 24 August
    hours = np.arange(15 * 48) / 2
    start = monday - timedelta(days=15)
    weekend = np.array([(start + timedelta(hours=hour)).weekday() >= 5 for hour in hours])
    runs = 600 * (1 + 0.5 * np.sin(2 * np.pi * (hours + 0.25) / 24)) * np.where(weekend, 0.5, 1.0)
    buckets = Buckets(groups=[("overall", "(all)")], halves=runs[:, None], halves_end=monday)
    for at in (monday, monday + timedelta(hours=3, minutes=7), monday + timedelta(days=5)):
        middle = (at - BUCKET / 2 - start) / timedelta(hours=1)
        expected = 100 * (1 + 0.5 * np.sin(2 * np.pi * middle / 24)) * (0.5 if at.weekday() >= 5 else 1.0)
        if at < monday + timedelta(days=1):
            assert buckets.due(at)[0] == pytest.approx(expected, rel=0.02)
    buckets.halves[: -int(1.5 * 48)] = np.nan
    assert np.isnan(buckets.due(monday)[0])  # one day is no rule


def test_half_hours_are_read_once_and_those_before_anything_ran_are_unknown(database: str) -> None:
    with scene(database, "HighErrorRate", step=30 * MINUTE) as at:
        at.minutes(120, lambda: at.runs(2))
        buckets = refreshed(Buckets(), at)
        place = buckets.groups.index(("overall", "(all)"))
        assert list(buckets.halves[-4:, place]) == [60, 60, 60, 60]
        assert np.isnan(buckets.halves[:-4]).all()
        at.go_on(lambda: at.runs(1))
        assert list(refreshed(buckets, at).halves[-5:, place]) == [60, 60, 60, 60, 30]
