from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from statsmodels.tsa.exponential_smoothing.ets import ETSModel

from metamon_assets.statistics import forecast as module
from metamon_assets.statistics.forecast import Forecast, forecast

Array = NDArray[np.float64]
WEEK = np.array([0.1, 0.15, 0.12, 0.12, 0.05, -0.22, -0.32])


def daily(rng: np.random.Generator, n: int, carried: float = 0.5, deviation: float = 0.1) -> Array:
    """A volume with a weekly profile and AR(1) noise on its logarithm."""
    noise = rng.normal(size=n) * deviation
    for i in range(1, n):
        noise[i] = carried * noise[i - 1] + np.sqrt(1 - carried**2) * noise[i]
    return np.exp(6 + np.resize(WEEK, n) + noise)


def naive(known: Array, horizon: int = 14) -> Array:
    return np.resize(known[-7:], horizon)


def width(result: Forecast) -> Array:
    return result.upper - result.lower


# Against independent sources


@pytest.mark.parametrize(("alpha", "beta", "gamma"), [(0.3, 0.1, 0.2), (0.1, 0.0, 0.05), (0.7, 0.2, 0.3)])
def test_smoothing_is_that_of_statsmodels(monkeypatch: pytest.MonkeyPatch, alpha: float, beta: float, gamma: float) -> None:
    values = np.log(daily(np.random.default_rng(1), 70))
    for name, value in (("LEVEL", alpha), ("TREND", beta), ("SEASON", gamma), ("CARRY_OVER", 0.0)):
        monkeypatch.setattr(module, name, (value,))
    past = module._Past(values, 7, np.array([35, 70]), np.full((2, 10), np.nan))
    weeks = values[:28].reshape(4, 7)
    profile = np.median(weeks - weeks.mean(axis=1, keepdims=True), axis=0)
    model = ETSModel(
        values, error="add", trend="add", damped_trend=True, seasonal="add", seasonal_periods=7, initialization_method="known",
        initial_level=values[:28].mean(), initial_trend=0.0, initial_seasonal=profile,
    )  # fmt: skip
    # Parameters as in Hyndman et al.: beta and gamma there are products with alpha and 1 - alpha. Seasons are newest first.
    names = dict(zip(model.param_names, model.start_params, strict=True))
    names |= {
        "smoothing_level": alpha,
        "smoothing_trend": alpha * beta,
        "smoothing_seasonal": gamma * (1 - alpha),
        "damping_trend": module.DAMPING,
    }
    expected = model.smooth([names[name] for name in model.param_names]).forecast(10)
    np.testing.assert_allclose(module._exponential_smoothing(past)[0, -1], expected, rtol=1e-9)


def test_a_deviation_is_carried_over_by_its_power(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LEVEL", 0.0), ("TREND", 0.0), ("CARRY_OVER", 0.5)):
        monkeypatch.setattr(module, name, (value,))
    values = np.append(np.zeros(20), 8.0)
    past = module._Past(values, 1, np.array([20, 21]), np.full((2, 4), np.nan))
    assert module._exponential_smoothing(past)[0].tolist() == [[0, 0, 0, 0], [4, 2, 1, 0.5]]


def test_who_was_right_at_past_origins_counts() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(10, 3))
    truth[-1] = np.nan
    past = module._Past(np.zeros(20), 1, np.arange(11, 21), truth)
    good, bad = np.nan_to_num(truth) + 0.01, np.nan_to_num(truth) + 1.0
    pooled = module._pooled(np.stack([good, bad]), past)
    np.testing.assert_allclose(pooled[0], (good[0] + bad[0]) / 2)  # nothing is known yet
    np.testing.assert_allclose(pooled[1:], good[1:], atol=1e-12)


def test_a_pooled_forecast_knows_nothing_of_what_comes_later() -> None:
    rng = np.random.default_rng(3)
    paths, actual = rng.normal(size=(3, 12, 4)), rng.normal(size=(12, 4))
    past = module._Past(np.zeros(30), 1, np.arange(19, 31), actual)
    changed = actual.copy()
    changed[6:], changed[5, 1:] = 99.0, 99.0  # from the time of the seventh origin on
    later = module._Past(past.history, 1, past.origins, changed)
    np.testing.assert_array_equal(module._pooled(paths, past)[:7], module._pooled(paths, later)[:7])
    assert not np.array_equal(module._pooled(paths, past)[7], module._pooled(paths, later)[7])


def test_the_width_is_the_quantile_of_the_errors_of_its_step() -> None:
    sizes = np.array([1.0, 2.0, 5.0])
    errors = np.random.default_rng(17).normal(size=(4000, 3)) * sizes
    errors[-2:, 2] = np.nan
    np.testing.assert_allclose(module._width(errors, 0.8), 1.2816 * sizes, rtol=0.05)  # the normal distribution's 90 % quantile
    np.testing.assert_allclose(module._width(errors, 0.95), 1.96 * sizes, rtol=0.05)


def test_past_intervals_know_nothing_of_what_came_later() -> None:
    errors = np.random.default_rng(19).normal(size=(40, 7))
    shares = []
    for late in (50.0, 5000.0):  # missed either way, and known to none of the origins
        errors[34:, 6] = late
        shares.append(module._share_aimed_at(errors, np.arange(40), 0.8))
    assert shares[0] == shares[1]


def test_intervals_learn_from_what_they_missed() -> None:
    rng, origins, wanted = np.random.default_rng(18), 7 * np.arange(40), 1 - module.MISSES * 0.2
    shares = [module._share_aimed_at(rng.normal(size=(40, 7)), origins, 0.8) for _ in range(30)]
    assert abs(np.mean(shares) - wanted) < 0.03
    errors = rng.normal(size=(40, 7))
    errors[25:] *= 3
    assert module._share_aimed_at(errors, origins, 0.8) > wanted + 0.05
    errors[25:] /= 9
    assert module._share_aimed_at(errors, origins, 0.8) < wanted - 0.05


# How good it is


def test_it_comes_near_to_the_best_possible_forecast() -> None:
    """Of independent noise on a weekly profile, where knowing the profile is all there is to know."""
    rng = np.random.default_rng(4)
    ours, best, last_week = [], [], []
    for _ in range(40):
        values = daily(rng, 154, carried=0.0)
        known, came = values[:140], values[140:]
        ours.append(np.abs(came - forecast(known, season=7, horizon=14).mean).mean())
        best.append(np.abs(came - np.exp(6 + np.resize(WEEK, 14))).mean())
        last_week.append(np.abs(came - naive(known)).mean())
    assert np.mean(ours) < 1.08 * np.mean(best)
    assert np.mean(ours) < 0.8 * np.mean(last_week)  # which is 1.41 times the best


@pytest.mark.parametrize("season", [1, 7])
def test_it_follows_a_random_walk(season: int) -> None:
    rng = np.random.default_rng(5)
    ours, last = [], []
    for _ in range(30):
        values = np.cumsum(rng.normal(size=154))
        ours.append(np.abs(values[140:] - forecast(values[:140], season=season, horizon=14).mean).mean())
        last.append(np.abs(values[140:] - values[139]).mean())
    assert np.mean(ours) < 1.15 * np.mean(last)  # the last value is the best forecast of a random walk


def test_growth_goes_on_and_dies_down() -> None:
    known = 1000 + 10 * np.arange(140.0)
    result = forecast(known + np.random.default_rng(6).normal(0, 5, 140), season=7, horizon=28)
    ahead = result.mean - known[-1]
    assert 40 < ahead[6] < 75
    assert ahead[27] - ahead[20] < ahead[7] - ahead[0]


def test_what_happened_at_this_time_of_year_happens_again() -> None:
    days = np.arange(3 * 364)
    rng = np.random.default_rng(7)
    peak = 0.5 * np.exp(-0.5 * ((days % 364 - 357) / 5) ** 2)  # in the year's last weeks
    values = np.exp(6 + np.resize(WEEK, len(days)) + peak + rng.normal(0, 0.05, len(days)))
    known, came = values[:-14], values[-14:]
    error = np.abs(came - forecast(known, season=7, horizon=14).mean).mean()
    one_year = np.abs(came - forecast(known[-364:], season=7, horizon=14).mean).mean()
    assert error < 0.6 * one_year


def test_a_weekend_is_foreseen_by_the_hour() -> None:
    hours = np.arange(24 * 33)
    values = 100 + 20 * np.sin(2 * np.pi * hours / 24) - 40 * (hours // 24 % 7 >= 5)
    values = values + np.random.default_rng(8).normal(0, 2, len(hours))
    friday_evening = 24 * 33 - 24
    result = forecast(values[:friday_evening], season=24, horizon=24)  # day 32 is the fifth of its week
    assert np.abs(result.mean - values[friday_evening:]).mean() < 15
    result = forecast(values, season=24, horizon=24)
    assert result.mean.mean() < 75


def test_a_holiday_of_last_week_is_not_expected_again() -> None:
    values = daily(np.random.default_rng(9), 140, deviation=0.03)
    holiday = values.copy()
    holiday[-3:-1] *= 0.3
    usual, after = forecast(values, season=7, horizon=7).mean, forecast(holiday, season=7, horizon=7).mean
    np.testing.assert_allclose(after, usual, rtol=0.12)
    assert (after[4:6] / usual[4:6]).min() > 0.9


def test_a_new_level_is_believed_within_two_weeks() -> None:
    values = daily(np.random.default_rng(10), 140, deviation=0.03)
    values[-14:] *= 2
    expected = 2 * np.exp(6 + np.resize(WEEK, 7))
    np.testing.assert_allclose(forecast(values, season=7, horizon=7).mean, expected, rtol=0.15)


@pytest.mark.parametrize(("known", "season", "level"), [(150, 7, 0.8), (150, 7, 0.5), (30, 7, 0.8), (150, 1, 0.8), (15, 1, 0.8)])
def test_intervals_hold_what_they_say(known: int, season: int, level: float) -> None:
    rng = np.random.default_rng(11)
    held = []
    for _ in range(60):
        values = daily(rng, known + 14) if season == 7 else np.log(daily(rng, known + 14)) - np.resize(WEEK, known + 14) - 6
        result = forecast(values[:known], season=season, horizon=14, level=level)
        held.append((result.lower <= values[known:]) & (values[known:] <= result.upper))
    assert abs(np.mean(held) - (1 - module.MISSES * (1 - level))) < 0.07


def test_real_series_against_seasonal_naive(shared_cases: Path) -> None:
    ratios = []
    for path in sorted((shared_cases / "forecast" / "daily").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            values = np.array([float(row["value"]) for row in csv.DictReader(file)])
        ours, last_week = [], []
        for origin in range(len(values) - 140, len(values) - 13, 14):
            came = values[origin : origin + 14]
            ours.append(np.abs(came - forecast(values[:origin], season=7, horizon=14).mean).mean())
            last_week.append(np.abs(came - naive(values[:origin])).mean())
        ratios.append(np.mean(ours) / np.mean(last_week))
    assert np.mean(ratios) <= 0.9
    assert max(ratios) <= 1.02


def test_days_without_anything_have_a_bound_of_zero() -> None:
    rng = np.random.default_rng(31)
    values = rng.poisson(np.resize([40.0, 42, 41, 43, 39, 0, 0], 140)).astype(float)
    result = forecast(values, season=7, horizon=7)
    assert result.lower[5:].tolist() == [0.0, 0.0]
    assert result.mean[5] < 1


# What must hold for any series

numbers = st.lists(st.floats(0, 1e6).map(lambda x: round(x, 3)), min_size=21, max_size=80).filter(lambda x: len(set(x)) > 3)


@settings(max_examples=50, deadline=None)
@given(numbers, st.sampled_from([1, 2, 7]), st.integers(1, 20))
def test_bounds_enclose_and_nothing_is_negative(values: list[float], season: int, horizon: int) -> None:
    result = forecast(values, season=season, horizon=horizon)
    assert result.mean.shape == result.lower.shape == result.upper.shape == (horizon,)
    assert np.isfinite(result.mean).all()
    assert (result.mean >= 0).all()
    if result.status == "ok":
        assert (result.lower >= 0).all()
        assert (result.lower <= result.mean).all()
        assert (result.mean <= result.upper).all()
        assert (result.lower < result.upper).all()
    else:
        assert np.isnan(result.lower).all()
        assert result.reason


@settings(max_examples=50, deadline=None)
@given(numbers, st.sampled_from([0.001, 0.5, 1024.0]))
def test_the_unit_does_not_matter(values: list[float], factor: float) -> None:
    before, after = forecast(values, season=7, horizon=7), forecast(np.array(values) * factor, season=7, horizon=7)
    for name in ("mean", "lower", "upper"):
        np.testing.assert_allclose(getattr(after, name), factor * getattr(before, name), rtol=1e-6, atol=1e-6 * factor)


def test_a_signed_series_may_be_moved_and_turned_over() -> None:
    values = np.log(daily(np.random.default_rng(12), 100)) - 6
    before = forecast(values, season=7, horizon=7)
    moved, turned = forecast(values - 3, season=7, horizon=7), forecast(-values, season=7, horizon=7)
    assert before.method == moved.method == "pooled exponential smoothing of values"
    np.testing.assert_allclose(moved.upper, before.upper - 3)
    np.testing.assert_allclose(turned.lower, -before.upper)


def test_a_higher_level_and_steps_further_ahead_are_wider() -> None:
    values = daily(np.random.default_rng(13), 60)
    low, high = (forecast(values, season=7, horizon=7, level=level) for level in (0.5, 0.95))
    assert (width(low) < width(high)).all()
    np.testing.assert_array_equal(low.mean, high.mean)
    far = width(forecast(values, season=7, horizon=200))
    assert far[-7:].mean() > 1.5 * far[:7].mean()  # further ahead than any error that is known


def test_only_the_recent_past_counts() -> None:
    values = daily(np.random.default_rng(14), module.HISTORY + 50)
    np.testing.assert_array_equal(forecast(values, season=7, horizon=7).upper, forecast(values[50:], season=7, horizon=7).upper)


# Missing values, and what cannot be told


def test_missing_values_change_little() -> None:
    rng = np.random.default_rng(15)
    values = daily(rng, 140, deviation=0.03)
    whole = forecast(values, season=7, horizon=7)
    gaps: list[float | None] = [None if rng.random() < 0.1 else value for value in values]
    some = forecast(gaps, season=7, horizon=7)  # type: ignore[arg-type]  # None is a missing value, as in a column of a table
    np.testing.assert_allclose(some.mean, whole.mean, rtol=0.05)
    ahead = forecast(np.append(values, [np.nan] * 3), season=7, horizon=4)  # the last three days are not there yet
    np.testing.assert_allclose(ahead.mean, whole.mean[3:], rtol=0.05)
    np.testing.assert_array_equal(forecast(np.append([np.nan] * 5, values), season=7, horizon=7).mean, whole.mean)


def test_counts_with_zeros() -> None:
    values = np.random.default_rng(16).poisson(0.3, 200)
    result = forecast(values, season=7, horizon=14)
    assert result.status == "ok"
    assert (result.lower == 0).mean() > 0.5
    assert (result.upper > 0.3).all()
    assert 0.05 < result.mean.mean() < 0.4


@pytest.mark.parametrize(
    ("values", "status", "mean"),
    [
        ([], "insufficient_data", np.nan),
        ([np.nan] * 30, "insufficient_data", np.nan),
        ([5.0], "insufficient_data", 5.0),
        ([*[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0] * 2, 1.0], "insufficient_data", 2.0),
        ([*[np.nan] * 100, *range(20)], "insufficient_data", 13.0),
        ([3.0] * 50, "undefined", 3.0),
        ([0.0] * 50, "undefined", 0.0),
        ([*range(50), np.inf], "undefined", np.nan),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0] * 20, "undefined", 1.0),
        ([*range(30), *[np.nan] * 400], "insufficient_data", None),
    ],
)
def test_what_cannot_be_told_is_not_told(values: list[float], status: str, mean: float | None) -> None:
    result = forecast(values, season=7, horizon=3)
    assert result.status == status
    assert result.reason
    assert np.isnan(result.lower).all()
    assert np.isnan(result.upper).all()
    if mean is not None:
        np.testing.assert_allclose(result.mean[0], mean)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("values", {"values": [[1.0, 2.0]]}),
        ("values", {"values": ["a"]}),
        ("season", {"season": 0}),
        ("season", {"season": 1.5}),
        ("horizon", {"horizon": 0}),
        ("level", {"level": 1.0}),
        ("level", {"level": np.nan}),
    ],
)
def test_a_wrong_argument_is_named(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=name):
        forecast(**({"values": [1.0] * 30, "season": 7, "horizon": 7} | arguments))  # type: ignore[arg-type]
