"""The scan for windows in which a series moved: finds what is there, and as rarely as it says what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metamon_assets.statistics import scan
from metamon_assets.statistics.scan import Kind, Series

HOURS = 336


def noise(kind: Kind, rng: np.random.Generator, rate: float, day: np.ndarray | None = None) -> Series:
    """Healthy series; ``day`` moves the rate of each hour."""
    n = rng.poisson(rate, HOURS).astype(np.float64)
    shift = np.zeros(HOURS) if day is None else day
    if kind == "share":
        return Series(kind, n, rng.binomial(n.astype(np.int64), np.clip(0.05 + shift, 0, 1)).astype(np.float64))
    if kind == "score":
        return Series(kind, n, rng.standard_normal(HOURS) * np.sqrt(n) + shift * n)
    return Series(kind, np.full(HOURS, rate), rng.poisson(rate * np.exp(shift)).astype(np.float64), sign=0)


@pytest.mark.parametrize("kind", ["share", "score", "volume"])
@pytest.mark.parametrize("rate", [2.0, 40.0])
def test_healthy_series_reach_a_p_value_no_more_often_than_it_says(kind: Kind, rate: float) -> None:
    rng = np.random.default_rng(5)
    found = [scan.best_window(noise(kind, rng, rate)) for _ in range(60)]
    assert sum(window is not None and window.p_value < 0.05 for window in found) <= 8  # of Binomial(60, .05), 99.8 %


@pytest.mark.parametrize(("kind", "move"), [("share", 0.25), ("score", 1.2), ("volume", 1.2)])
def test_a_move_is_found_where_it_is(kind: Kind, move: float) -> None:
    shift = np.zeros(HOURS)
    shift[200:212] = move
    window = scan.best_window(noise(kind, np.random.default_rng(3), 20.0, shift))
    assert window is not None
    assert window.p_value < 1e-6
    assert abs(window.start - 200) <= 4
    assert abs(window.end - 212) <= 4


def test_a_fall_of_what_is_bad_when_it_rises_is_nothing() -> None:
    shift = np.zeros(HOURS)
    shift[200:260] = -1.5
    healthy = noise("score", np.random.default_rng(1), 20.0, shift)
    window = scan.best_window(healthy)
    assert window is None or window.p_value > 0.01
    fallen = scan.best_window(Series("score", healthy.n, healthy.total, sign=-1))
    assert fallen is not None
    assert fallen.p_value < 1e-6


def test_what_is_bad_only_beside_better_days_later_is_no_incident() -> None:
    shift = np.zeros(HOURS)
    shift[180:] = -1.0  # better from then on: the time before was as it always had been
    window = scan.best_window(noise("score", np.random.default_rng(2), 20.0, shift))
    assert window is None or window.p_value > 0.01


@pytest.mark.parametrize("spread", [0.1, 0.25, 0.5])
def test_a_rate_that_wanders_from_day_to_day_anyway_has_few_incidents(spread: float) -> None:
    rng = np.random.default_rng(7)
    wandering = [np.repeat(rng.normal(0, spread, HOURS // 24), 24) for _ in range(60)]
    found = [scan.best_window(noise("score", rng, 40.0, shift)) for shift in wandering]
    assert sum(window is not None and window.p_value < 0.01 for window in found) <= 3  # of Binomial(60, .01), 99.7 %


def test_moves_below_the_least_are_left_out() -> None:
    shift = np.zeros(HOURS)
    shift[200:260] = 0.3
    healthy = noise("score", np.random.default_rng(4), 60.0, shift)
    small = scan.best_window(Series("score", healthy.n, healthy.total, least=0.6))
    assert small is None or small.p_value > 0.01
    seen = scan.best_window(Series("score", healthy.n, healthy.total, least=0.1))
    assert seen is not None
    assert seen.p_value < 1e-4


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_short_and_empty_series_have_no_window(steps: int) -> None:
    assert scan.best_window(Series("share", np.zeros(steps), np.zeros(steps))) is None
    assert scan.best_window(Series("volume", np.zeros(steps), np.zeros(steps), sign=0)) is None


def test_series_in_which_all_or_nothing_fails_have_no_window() -> None:
    n = np.full(HOURS, 5.0)
    assert scan.best_window(Series("share", n, n)) is None
    assert scan.best_window(Series("share", n, np.zeros(HOURS))) is None


def test_scores_are_normal_whatever_the_tails_and_missing_ones_stay_missing() -> None:
    values = np.exp(3 * np.random.default_rng(0).standard_normal(999))
    values[10] = math.nan
    scores = scan.normal_scores(values)
    assert np.isnan(scores[10])
    assert abs(np.nanmean(scores)) < 1e-9
    assert 0.95 < np.nanstd(scores) < 1.02
    assert (np.argsort(scores[11:]) == np.argsort(values[11:])).all()


def test_a_steady_drift_has_no_step_and_a_step_is_one_beside_a_drift() -> None:
    def step(course: np.ndarray, seed: int) -> float:
        series = noise("score", np.random.default_rng(seed), 40.0, course)
        n, total = scan.cumulated(series.n), scan.cumulated(series.total)
        return scan.step_beside_drift("score", n, total, 20, 168, 320)

    drift, stepping = np.linspace(0, 1, HOURS), np.where(np.arange(HOURS) < 168, 0.0, 0.5)
    assert abs(np.mean([step(drift, seed) for seed in range(40)])) < 0.5  # of a standard error of .16
    assert min(step(drift + stepping, seed) for seed in range(10)) > 5
    assert scan.step_beside_drift("share", np.zeros(9), np.zeros(9), 1, 4, 8) == 0


def test_a_course_breaks_where_it_moved() -> None:
    shift = np.zeros(HOURS)
    shift[150:] = 0.8
    healthy = noise("score", np.random.default_rng(9), 20.0, shift)
    n, total = scan.cumulated(healthy.n), scan.cumulated(healthy.total)
    breaks = scan.split_deviates("score", n, total, 50, 300)
    assert breaks.shape == (249,)
    assert abs(50 + 1 + int(np.argmax(breaks)) - 150) <= 3
