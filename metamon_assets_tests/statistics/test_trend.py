from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from metamon_assets.statistics import segmentation
from metamon_assets.statistics import trend as module
from metamon_assets.statistics.trend import change_points, trend
from metamon_assets_tests.statistics import scorers

Floats = NDArray[np.float64]
WEEKLY = np.array([3.0, 0, 0.5, 0.2, 1, -2, -2.7])


def autoregression(random: np.random.Generator, n: int, phi: float) -> Floats:
    noise = random.normal(size=n)
    noise[1:] *= math.sqrt(1 - phi**2)
    for t in range(1, n):
        noise[t] += phi * noise[t - 1]
    return noise


def near(found: list[int], expected: list[int], margin: int = 5) -> bool:
    return len(found) == len(expected) and all(abs(a - b) <= margin for a, b in zip(found, expected, strict=True))


def share_near(make: Callable[[np.random.Generator], Floats], expected: list[int], count: int = 10, margin: int = 5) -> float:
    return float(np.mean([near(change_points(make(np.random.default_rng(seed))), expected, margin) for seed in range(count)]))


# --- change points: planted ones


def test_finds_a_change_of_level() -> None:
    assert share_near(lambda random: np.where(np.arange(120) < 70, 0, 3) + random.normal(size=120), [70]) >= 0.9


def test_finds_two_changes_of_level_under_autocorrelation() -> None:
    steps = np.repeat([0.0, 5, 1], [100, 80, 120])
    assert share_near(lambda random: steps + autoregression(random, 300, 0.5), [100, 180]) >= 0.9


def test_finds_a_bend() -> None:
    bend = np.maximum(np.arange(150) - 90, 0) / 10
    found = [change_points(bend + 0.7 * np.random.default_rng(seed).normal(size=150)) for seed in range(20)]
    assert all(len(places) == 1 for places in found)
    assert np.mean([abs(place - 90) for places in found for place in places]) <= 4.5  # two lines that need not meet: 6


def test_finds_a_change_of_spread() -> None:
    scale = np.repeat([1.0, 4], [120, 100])
    assert share_near(lambda random: 7 + scale * random.normal(size=220), [120], margin=8) >= 0.8


def test_finds_a_change_of_level_on_a_steady_trend_with_a_weekly_pattern() -> None:
    t = np.arange(140)
    base = t / 50 + WEEKLY[t % 7] + np.where(t < 60, 0, 4)
    assert share_near(lambda random: base + random.normal(size=140), [60]) >= 0.9


def test_finds_changes_without_any_noise() -> None:
    assert change_points([0] * 30 + [5] * 30 + [2] * 20) == [30, 60]
    assert near(change_points([*range(40), *range(40, 0, -1)]), [40], margin=1)


def test_finds_many_exactly_without_noise_to_speak_of() -> None:
    levels = np.repeat([0.0, 5, 2, 8, 1], [30, 20, 40, 25, 35])
    assert change_points(levels + np.random.default_rng(3).normal(0, 0.05, levels.size)) == [30, 50, 90, 115]


def test_finds_the_exact_place_in_a_series_longer_than_the_grid_of_candidates() -> None:
    random = np.random.default_rng(4)
    series = np.repeat([0.0, 4, 0], [613, 288, 600]) + random.normal(0, 0.3, 1501)
    assert change_points(series) == [613, 901]


# --- change points: nothing where there is nothing


@pytest.mark.parametrize(
    ("make", "most"),
    [
        pytest.param(lambda random, n: random.normal(size=n), 0.04, id="white noise"),
        pytest.param(lambda random, n: autoregression(random, n, 0.6), 0.07, id="persistent noise"),
        pytest.param(lambda random, n: random.standard_t(3, size=n), 0.1, id="heavy tails"),
        pytest.param(lambda random, n: np.arange(n) / 10 + random.normal(size=n), 0.04, id="steady trend"),
        pytest.param(lambda random, n: WEEKLY[np.arange(n) % 7] + random.normal(0, 0.5, n), 0.07, id="weekly pattern"),
        pytest.param(
            lambda random, n: random.normal(size=n) + np.where(np.arange(n) % 41 == 17, random.choice([-12, 12], n), 0), 0.07, id="outliers"
        ),
    ],
)
def test_false_changes_are_rare(make: Callable[[np.random.Generator, int], Floats], most: float) -> None:
    random = np.random.default_rng(11)
    assert np.mean([bool(change_points(make(random, int(random.integers(28, 120))))) for _ in range(40)]) <= most


@pytest.mark.parametrize("rate", [0.03, 0.2, 1.0])
def test_rare_events_make_no_changes_of_their_own(rate: float) -> None:
    assert np.mean([bool(change_points(np.random.default_rng(seed).poisson(rate, 100))) for seed in range(40)]) <= 0.15


def test_finds_that_rare_events_become_frequent() -> None:
    assert share_near(lambda random: random.poisson(np.repeat([0.2, 3.0], [80, 60])).astype(np.float64), [80]) >= 0.8


def test_what_alternates_does_not_change() -> None:
    assert change_points([0, 1] * 30) == []


def test_two_wild_days_in_a_row_are_no_segment() -> None:
    series = np.random.default_rng(5).normal(size=90)
    series[40:42] += 15
    assert change_points(series) == []


# --- change points: what must not matter


@settings(max_examples=25, deadline=None)
@given(
    scale=st.floats(1e-6, 1e6),
    sign=st.sampled_from([-1, 1]),
    offset=st.floats(-1e3, 1e3),
    seed=st.integers(0, 10_000),
    step=st.floats(0, 6),
)
def test_scale_sign_and_offset_do_not_matter(scale: float, sign: int, offset: float, seed: int, step: float) -> None:
    series = np.random.default_rng(seed).normal(size=60)
    series[35:] += step
    found = change_points(series)
    assert change_points(sign * scale * (series + offset)) == found
    assert found == sorted(set(found))
    assert all(segmentation.SHORTEST_SEGMENT <= place <= 60 - segmentation.SHORTEST_SEGMENT for place in found)


def test_backwards_in_time_the_same_changes_are_found() -> None:
    for seed in range(8):
        random = np.random.default_rng(seed)
        series = np.repeat([0.0, 4, -1], [40, 50, 45]) + autoregression(random, 135, 0.3)
        assert near(sorted(135 - place for place in change_points(series[::-1])), change_points(series), margin=2)


def test_missing_days_are_skipped_and_places_refer_to_the_series_with_them() -> None:
    series = np.repeat([0.0, 6], [60, 50]) + np.random.default_rng(6).normal(size=110)
    series[[3, 10, 11, 12, 40, 80, 81]] = np.nan
    assert near(change_points(series), [60], margin=1)
    with_none: Any = [None if math.isnan(value) else value for value in series]
    assert change_points(with_none) == change_points(series)


@pytest.mark.parametrize(
    "values",
    [[], [1.0], [1, 2] * 4, [5.0] * 50, [0.1 + 0.2] * 30 + [0.3] * 30, [math.nan] * 40, [*range(40), math.inf], [0.0] * 40 + [1.0]],
)
def test_nothing_can_be_said(values: list[float]) -> None:
    assert change_points(values) == []


@pytest.mark.parametrize("values", [[[1.0, 2.0]], ["a", "b"], 3.0])
def test_values_must_be_numbers_in_one_dimension(values: object) -> None:
    with pytest.raises(ValueError, match="values"):
        change_points(values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="values"):
        trend(values)  # type: ignore[arg-type]


def test_huge_and_tiny_values() -> None:
    series = np.repeat([0.0, 6], [40, 40]) + np.random.default_rng(7).normal(size=80)
    for scale in (1e-300, 1e300):
        assert near(change_points(series * scale), [40], margin=1)
        assert trend(series * scale).direction == "up"


# --- change points: the parts, against brute force


@pytest.mark.parametrize("phi", [0.0, 0.6])
def test_residual_sums_of_segments_are_those_of_a_regression(phi: float) -> None:
    y = np.random.default_rng(8).normal(size=25)
    times = np.delete(np.arange(27.0), [4, 9])
    level, line = segmentation._Moments(y, times, phi).between(np.array([0, 6, 20, 25]))
    covariance = phi ** np.abs(np.subtract.outer(np.arange(14), np.arange(14))) / (1 - phi**2)
    for rss, design in ((level, np.ones((14, 1))), (line, sm.add_constant(times[6:20]))):
        fit = sm.GLS(y[6:20], design, sigma=covariance).fit()
        assert rss[2, 1] == pytest.approx(fit.ssr, rel=1e-9)


def test_partitions_are_the_cheapest_of_all() -> None:
    random = np.random.default_rng(9)
    size = 8
    costs = np.where(np.tril(np.ones((size, size)), -1) > 0, random.uniform(0, 1, (size, size)), np.inf)
    for cuts, cost in segmentation._partitions(costs, 4):
        every = {
            inner: sum(costs[b, a] for a, b in pairwise([0, *inner, size - 1])) for inner in combinations(range(1, size - 1), len(cuts))
        }
        assert cost == pytest.approx(min(every.values()))
        assert every[tuple(cuts)] == pytest.approx(cost)


# --- trends


@pytest.mark.parametrize(("phi", "n"), [(0.0, 28), (0.3, 90), (0.6, 28), (0.6, 56), (0.8, 56)])
def test_size_and_coverage(phi: float, n: int) -> None:
    random = np.random.default_rng(20 + n)
    t = np.arange(n)
    rejected = covered = 0
    for _ in range(200):
        noise = autoregression(random, n, phi) + WEEKLY[t % 7]
        rejected += trend(noise).p_value < 0.05
        low, high = trend(noise + 0.1 * t).ci
        covered += low <= 0.1 <= high
    assert 0.01 <= rejected / 200 <= 0.1  # a test for independent errors rejects a quarter at phi .6
    assert 0.9 <= covered / 200 <= 0.99


def test_one_persistence_gives_generalised_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PHIS", np.array([0.4]))
    monkeypatch.setattr(module, "CLIP", 1e9)
    random = np.random.default_rng(21)
    times = np.delete(np.arange(60), [5, 6, 30])
    values = np.full(60, np.nan)
    values[times] = 0.05 * times + WEEKLY[times % 7] + autoregression(random, 60, 0.4)[times]
    design = np.column_stack([np.eye(7)[times % 7], times])
    fit = sm.GLS(values[times], design, sigma=0.4 ** np.abs(np.subtract.outer(times, times))).fit()
    result = trend(values, alpha=0.1)
    assert result.slope == pytest.approx(fit.params[-1], rel=1e-9)
    assert result.ci == pytest.approx(tuple(fit.conf_int(0.1)[-1]), rel=1e-6)
    assert result.p_value == pytest.approx(fit.pvalues[-1], rel=1e-6)


def test_likelihood_of_a_persistence_is_the_restricted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIP", 1e9)
    times = np.delete(np.arange(40), [7, 8, 20])
    y = autoregression(np.random.default_rng(22), 40, 0.5)[times]
    design = np.column_stack([np.ones(times.size), times - times.mean()])
    expected = []
    for phi in module.PHIS:
        covariance = phi ** np.abs(np.subtract.outer(times, times)).astype(np.float64)
        inverse = np.linalg.inv(covariance)
        gram = design.T @ inverse @ design
        residual = y - design @ np.linalg.solve(gram, design.T @ inverse @ y)
        rss = residual @ inverse @ residual
        determinants = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(gram)[1]
        expected.append(-0.5 * ((times.size - 2) * math.log(rss) + determinants))
    weights = np.exp(np.array(expected) - max(expected))
    fit = module._robust_fit(y, design, times)
    assert fit is not None
    np.testing.assert_allclose(fit.weights, weights / weights.sum(), rtol=1e-6, atol=1e-12)


def test_agrees_with_theil_and_sen_on_a_clear_trend_with_outliers() -> None:
    t = np.arange(90)
    values = 0.2 * t + np.random.default_rng(23).normal(size=90)
    values[[3, 7]] += 200
    ours, theirs = trend(values, season=1), stats.theilslopes(values, t)
    assert ours.slope == pytest.approx(theirs.slope, abs=0.01)
    assert ours.direction == "up"
    assert ours.ci[0] < 0.2 < ours.ci[1]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_rare_events_are_no_outliers(rate: float) -> None:
    results = [trend(np.random.default_rng(seed).poisson(rate, 60)) for seed in range(60)]
    widths = [result.ci[1] - result.ci[0] for result in results]
    expected = 2 * 2 * math.sqrt(12 * rate / 60**3)  # of least squares, for independent counts
    assert 0.8 * expected <= np.median(widths) <= 1.6 * expected
    assert sum(result.direction != "flat" for result in results) <= 9


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    slope=st.floats(-0.2, 0.2),
    scale=st.floats(1e-4, 1e4),
    offset=st.floats(-100, 100),
    alpha=st.floats(0.001, 0.4),
)
def test_interval_p_value_and_direction_agree_and_follow_the_scale(
    seed: int, slope: float, scale: float, offset: float, alpha: float
) -> None:
    values = slope * np.arange(35) + autoregression(np.random.default_rng(seed), 35, 0.3)
    result, scaled, mirrored = trend(values, alpha=alpha), trend(scale * (values + offset), alpha=alpha), trend(-values, alpha=alpha)
    low, high = result.ci
    assert low < result.slope < high
    assert (result.p_value < alpha) == (result.direction != "flat")
    assert result.direction == ("up" if low > 0 else "down" if high < 0 else "flat")
    assert 0 < result.p_value <= 1
    assert scaled.slope == pytest.approx(scale * result.slope, rel=1e-5, abs=1e-7 * scale)
    assert scaled.ci == pytest.approx((scale * low, scale * high), rel=1e-5, abs=1e-7 * scale)
    assert mirrored.ci == pytest.approx((-high, -low), rel=1e-5, abs=1e-7)


def test_backwards_in_time_the_slope_turns_round() -> None:
    values = autoregression(np.random.default_rng(24), 56, 0.5) + 0.03 * np.arange(56)
    forwards, backwards = trend(values), trend(values[::-1])
    assert backwards.slope == pytest.approx(-forwards.slope, rel=1e-6)
    assert backwards.p_value == pytest.approx(forwards.p_value, rel=1e-6)


def test_seasonality_is_the_share_of_the_pattern() -> None:
    t = np.arange(140)
    noise = np.random.default_rng(25).normal(size=140)
    result = trend(0.05 * t + WEEKLY[t % 7] + noise)
    assert result.seasonality == pytest.approx(1 - 1 / (1 + WEEKLY.var()), abs=0.06)
    assert trend(0.05 * t + noise, season=1).seasonality == 0
    none = [trend(np.random.default_rng(seed).normal(size=56)).seasonality for seed in range(60)]
    assert none.count(0) >= 52


def test_missing_days() -> None:
    t = np.arange(60)
    values = 0.3 * t + WEEKLY[t % 7] + np.random.default_rng(26).normal(size=60)
    values[[0, 8, 9, 30, 31, 32, 59]] = np.nan
    result = trend(values)
    assert (result.status, result.n, result.direction) == ("ok", 53, "up")
    assert result.ci[0] < 0.3 < result.ci[1]
    assert trend(np.where(t % 7 == 6, np.nan, values)).status == "ok"  # no value on any Sunday


@pytest.mark.parametrize(
    ("values", "status", "reason"),
    [
        ([], "insufficient_data", "0 values, at least 21"),
        ([1.0, 2.0, 4.0] * 6, "insufficient_data", "18 values"),
        ([math.nan] * 50, "insufficient_data", "0 values"),
        ([3.0] * 40, "undefined", "the same"),
        ([0.0] * 40, "undefined", "the same"),
        ([0.1 + 0.2, 0.3] * 20, "undefined", "the same"),
        ([float(t) for t in range(40)], "undefined", "no variation around"),
        ([WEEKLY[t % 7] - t for t in range(40)], "undefined", "no variation around"),
        ([*range(40), math.inf], "undefined", "infinite"),
    ],
)
def test_failure_is_told(values: list[float], status: str, reason: str) -> None:
    result = trend(values)
    assert result.status == status
    assert reason in result.reason
    assert result.direction == "unknown"
    assert all(math.isnan(figure) for figure in (result.slope, *result.ci, result.p_value, result.seasonality))


@pytest.mark.parametrize(
    ("name", "argument"), [("season", {"season": 0}), ("season", {"season": 1.5}), ("alpha", {"alpha": 0}), ("alpha", {"alpha": math.nan})]
)
def test_arguments_are_checked(name: str, argument: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=name):
        trend(np.random.default_rng(27).normal(size=40), **argument)  # type: ignore[arg-type]


# --- the shared cases


def test_shared_cases(shared_cases: Path) -> None:
    folder = shared_cases / "trend"
    scorer = scorers.load(folder)
    assert json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    for group in ("main", "quality_control"):
        result = scorer.evaluate(change_points, group)
        assert result["covering"] >= 0.68
        assert result["f1"] >= 0.70
