"""Sample sizes, effects and power: as statsmodels has them, as simulation shows them, and each the inverse of the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from metamon_assets.statistics.power import solve, solve_proportion

GOOD: dict[str, Any] = {"baseline_mean": 1.0, "baseline_variance": 1.0, "relative_effect": 0.1, "power": 0.8}
SIDES = {"two-sided": "two-sided", "greater": "larger", "less": "smaller"}


@pytest.mark.parametrize("alternative", list(SIDES))
@pytest.mark.parametrize("ratio", [1.0, 1 / 9, 3.0])
@pytest.mark.parametrize("n_total", [12, 200, 9000])
def test_power_is_that_of_statsmodels(alternative: Any, ratio: float, n_total: int) -> None:
    effect = -0.2 if alternative == "less" else 0.2
    ours = solve(baseline_mean=5.0, baseline_variance=4.0, relative_effect=effect, n_total=n_total, ratio=ratio, alternative=alternative)
    theirs = TTestIndPower().power(effect * 5 / 2, n_total / (1 + ratio), 0.05, ratio=ratio, alternative=SIDES[alternative])
    if math.isnan(theirs):  # statsmodels has no answer where the power is next to 1
        assert ours > 0.999999
    else:
        assert ours == pytest.approx(theirs, abs=1e-6)


@given(
    st.floats(0.01, 100),
    st.floats(0.01, 100),
    st.floats(0.01, 0.5),
    st.floats(0.55, 0.99),
    st.sampled_from([1.0, 1 / 9, 2.0]),
    st.sampled_from(list(SIDES)),
)
def test_each_is_the_inverse_of_the_others(
    mean: float, variance: float, effect: float, power: float, ratio: float, alternative: Any
) -> None:
    known: dict[str, Any] = {"baseline_mean": mean, "baseline_variance": variance, "ratio": ratio, "alternative": alternative}
    effect = -effect if alternative == "less" else effect
    n_total = solve(relative_effect=effect, power=power, **known)
    assert n_total == int(n_total)
    reached = solve(relative_effect=effect, n_total=n_total, **known)
    assert reached >= power - 1e-6
    if n_total > max(4, (1 + ratio) / min(1, ratio)):
        assert solve(relative_effect=effect, n_total=n_total - 1, **known) < power + 1e-6
    if reached < 0.9999:
        assert solve(n_total=n_total, power=reached, **known) == pytest.approx(effect, rel=1e-4)


def test_power_is_what_simulation_shows() -> None:
    rng = np.random.default_rng(1)
    power = solve(baseline_mean=10.0, baseline_variance=9.0, relative_effect=0.1, n_total=120, ratio=0.5)
    drawn = [stats.ttest_ind(rng.normal(10, 3, 80), rng.normal(11, 3, 40)).pvalue < 0.05 for _ in range(3000)]
    assert power == pytest.approx(np.mean(drawn), abs=0.03)


def test_arms_with_their_own_variance_need_more() -> None:
    equal, own = (solve(**GOOD, treatment_variance=variance) for variance in (1.0, 2.0))
    assert equal == solve(**GOOD)
    assert own == pytest.approx(1.5 * equal, rel=0.01)


@pytest.mark.parametrize(
    ("control", "treatment", "ratio"), [(0.95, 0.92, 1 / 9), (0.92, 0.95, 1 / 9), (0.04, 0.02, 1 / 9), (0.3, 0.36, 1.0)]
)
def test_the_score_test_reaches_the_power_that_was_planned(control: float, treatment: float, ratio: float) -> None:
    n_total = solve_proportion(baseline=control, relative_effect=treatment / control - 1, power=0.8, ratio=ratio)
    n, m = int(n_total / (1 + ratio)), int(n_total * ratio / (1 + ratio))
    rng = np.random.default_rng(2)
    x, y = rng.binomial(n, control, 20000), rng.binomial(m, treatment, 20000)
    share = (x + y) / (n + m)
    found = np.abs(y / m - x / n) > 1.959964 * np.sqrt(share * (1 - share) * (1 / n + 1 / m))
    assert found.mean() == pytest.approx(0.8, abs=0.015)


@given(st.floats(0.05, 0.9), st.floats(0.02, 0.1), st.floats(0.55, 0.95), st.sampled_from([1.0, 1 / 9]))
def test_each_is_the_inverse_of_the_others_for_proportions(baseline: float, effect: float, power: float, ratio: float) -> None:
    known: dict[str, Any] = {"baseline": baseline, "ratio": ratio}
    n_total = solve_proportion(relative_effect=effect, power=power, **known)
    reached = solve_proportion(relative_effect=effect, n_total=n_total, **known)
    assert power - 1e-6 <= reached < 1
    assert solve_proportion(n_total=n_total, power=reached, **known) == pytest.approx(effect, rel=1e-4)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"baseline": 0.0}, "baseline"),
        ({"baseline": 1.2}, "baseline"),
        ({"relative_effect": 1.5}, "relative_effect"),
        ({"relative_effect": -1.0}, "relative_effect"),
        ({"relative_effect": None, "n_total": 20, "power": 0.999}, "relative_effect"),
        ({"n_total": 100}, "exactly one"),
        ({"alpha": 0}, "alpha"),
    ],
)
def test_a_wrong_argument_of_proportions_is_named(changed: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        solve_proportion(**({"baseline": 0.5, "relative_effect": 0.1, "power": 0.8} | changed))


def test_a_canary_needs_more_than_an_even_split() -> None:
    known: dict[str, Any] = {"baseline_mean": 0.95, "baseline_variance": 0.0475, "relative_effect": -0.03 / 0.95, "power": 0.8}
    assert 2.5 < solve(**known, ratio=1 / 9) / solve(**known) < 3.0


def test_very_large_samples_are_normal() -> None:
    n_total = solve(baseline_mean=1.0, baseline_variance=1.0, relative_effect=1e-5, power=0.8)
    assert n_total == pytest.approx(4 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 / 1e-10, rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"power": None}, "exactly one"),
        ({"n_total": 100}, "exactly one"),
        ({"baseline_mean": 0.0}, "baseline_mean"),
        ({"baseline_variance": 0.0}, "baseline_variance"),
        ({"baseline_variance": math.nan}, "baseline_variance"),
        ({"alpha": 1.5}, "alpha"),
        ({"ratio": 0}, "ratio"),
        ({"power": 1.0}, "power"),
        ({"power": 0.01}, "power"),
        ({"alternative": "up"}, "alternative"),
        ({"alternative": "less"}, "relative_effect"),
        ({"relative_effect": 0.0}, "relative_effect"),
        ({"relative_effect": None, "n_total": 2}, "n_total"),
        ({"relative_effect": None, "n_total": 100, "ratio": 1e-6}, "n_total"),
        ({"treatment_variance": 0.0}, "treatment_variance"),
        ({"ratio": 1e300}, "ratio"),
        ({"power": "0.8"}, "power"),
        ({"relative_effect": 1e-12}, "n_total"),
    ],
)
def test_a_wrong_argument_is_named(changed: dict[str, Any], name: str) -> None:
    call: Callable[[], float] = lambda: solve(**(GOOD | changed))  # noqa: E731
    with pytest.raises(ValueError, match=name):
        call()
