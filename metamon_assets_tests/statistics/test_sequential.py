"""Looking again and again: published bounds, simulated false positives, and interval and p-value that agree at every look."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metamon_assets.statistics.sequential import confidence_sequence, crossing_probabilities, group_sequential_bounds
from metamon_assets.statistics.significance import SampleMean, SampleProportion, compare

FIVE = [0.2, 0.4, 0.6, 0.8, 1.0]
proportions = st.tuples(st.integers(100, 5000), st.floats(0.02, 0.98)).map(lambda pair: SampleProportion(pair[0], round(pair[0] * pair[1])))


def brownian(rng: np.random.Generator, fractions: np.ndarray, replicates: int, drift: float = 0.0) -> np.ndarray:
    """z at each look, shape (replicates, looks)."""
    steps = np.diff(fractions, prepend=0.0)
    path = np.cumsum(rng.normal(drift * steps, np.sqrt(steps), (replicates, fractions.size)), axis=1)
    return path / np.sqrt(fractions)


@pytest.mark.parametrize(
    ("fractions", "spending", "bounds"),
    [  # Jennison and Turnbull 2000, and what gsDesign prints for its sfLDOF and sfLDPocock
        (FIVE, "obrien_fleming", [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
        ([1 / 3, 2 / 3, 1], "obrien_fleming", [3.7103, 2.5114, 1.9930]),
        ([1.0], "pocock", [1.9600]),
    ],
)
def test_bounds_are_the_published_ones(fractions: list[float], spending: str, bounds: list[float]) -> None:
    assert group_sequential_bounds(fractions, spending=spending) == pytest.approx(bounds, abs=3e-4)


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock", "power:2", "power:0.5"])
@pytest.mark.parametrize("two_sided", [True, False])
def test_all_looks_together_spend_alpha(spending: str, two_sided: bool) -> None:
    fractions = [0.13, 0.2, 0.55, 0.6, 0.97, 1.0]
    bounds = group_sequential_bounds(fractions, alpha=0.1, spending=spending, two_sided=two_sided)
    spent = crossing_probabilities(bounds, fractions, two_sided=two_sided)
    assert spent[-1] == pytest.approx(0.1, abs=1e-6)
    assert (np.diff(spent) > 0).all()


def test_bounds_do_not_depend_on_later_looks() -> None:
    assert group_sequential_bounds([0.2, 0.5]) == pytest.approx(group_sequential_bounds([0.2, 0.5, 0.9, 1.0])[:2], abs=1e-9)


def test_a_hundred_looks_keep_their_size_and_nearly_all_power() -> None:
    fractions = np.arange(1, 101) / 100
    bounds = group_sequential_bounds(fractions)
    rng, drift = np.random.default_rng(1), stats.norm.ppf(0.975) + stats.norm.ppf(0.9)
    null, real = brownian(rng, fractions, 20000), brownian(rng, fractions, 20000, drift)
    assert (np.abs(null) > bounds).any(axis=1).mean() == pytest.approx(0.05, abs=0.005)
    crossed = np.abs(real) > bounds
    assert crossed.any(axis=1).mean() > 0.97 * 0.9
    assert np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, 100).mean() < 75
    assert crossing_probabilities(bounds, fractions, drift=drift)[-1] == pytest.approx(crossed.any(axis=1).mean(), abs=0.01)


def test_repeated_looks_at_a_fixed_size_are_wrong_as_often_as_the_table_says() -> None:
    # Armitage, McPherson and Rowe 1969, for 2, 5, 10 and 20 looks.
    for count, size in ((2, 0.0831), (5, 0.1417), (10, 0.1934), (20, 0.2479)):
        fractions = np.arange(1, count + 1) / count
        assert crossing_probabilities([1.959964] * count, fractions)[-1] == pytest.approx(size, abs=2e-4)


@pytest.mark.parametrize("canary", [False, True])
def test_a_confidence_sequence_is_rarely_wrong_at_any_look(canary: bool) -> None:
    rng, replicates = np.random.default_rng(2), 400
    sizes = [np.linspace(50 if not canary else 500, 5000, 100).astype(int), np.linspace(50, 500 if canary else 5000, 100).astype(int)]
    wrong = 0
    for _ in range(replicates):
        streams = [np.cumsum(rng.binomial(np.diff(n, prepend=0), 0.9)) for n in sizes]
        z = _z(streams, sizes)
        wrong += any(
            confidence_sequence(
                *(SampleProportion(n[look], x[look]) for n, x in zip(sizes, streams, strict=True)), tuning_n=sizes[0][-1] + sizes[1][-1]
            ).p_value
            <= 0.05
            for look in np.flatnonzero(np.abs(z) > 1.5)
        )
    assert wrong / replicates <= 0.05


def _z(streams: list[np.ndarray], sizes: list[np.ndarray]) -> np.ndarray:
    (x, y), (n, m) = streams, sizes
    share = (x + y) / (n + m)
    return (y / m - x / n) / np.sqrt(np.maximum(share * (1 - share), 1e-9) * (1 / n + 1 / m))


@given(proportions, proportions, st.sampled_from(["two-sided", "greater", "less"]), st.floats(100, 20000))
def test_sequence_and_p_value_agree(control: SampleProportion, treatment: SampleProportion, alternative: Any, tuning_n: float) -> None:
    for difference in ("absolute", "relative"):
        result = confidence_sequence(control, treatment, difference=difference, alternative=alternative, tuning_n=tuning_n)
        assert (result.p_value < 0.05) == (result.ci_lower > 0 or result.ci_upper < 0) or result.p_value == pytest.approx(0.05, abs=1e-9)


def test_a_sequence_is_wider_than_one_look_and_tightest_where_it_was_tuned() -> None:
    arms = SampleMean(5000, 10000.0, 30000.0), SampleMean(5000, 10100.0, 30500.0)
    widths = {
        n: np.ptp([getattr(confidence_sequence(*arms, tuning_n=n), end) for end in ("ci_lower", "ci_upper")]) for n in (100, 10000, 10**6)
    }
    fixed = compare(*arms)
    assert widths[10000] < min(widths[100], widths[10**6])
    assert 1.3 * (fixed.ci_upper - fixed.ci_lower) < widths[10000] < 1.6 * (fixed.ci_upper - fixed.ci_lower)


def test_a_share_with_few_outcomes_borrows_the_others_variance() -> None:
    few = confidence_sequence(SampleProportion(5000, 4500), SampleProportion(80, 80), tuning_n=5000)
    assert few.standard_error == pytest.approx(math.sqrt(4580 / 5080 * 500 / 5080 * (1 / 5000 + 1 / 80)))
    assert few.status == "ok"


def test_total_failure_of_a_canary_is_an_answer() -> None:
    result = confidence_sequence(SampleProportion(5000, 5000), SampleProportion(500, 0), tuning_n=5000)
    assert (result.status, result.effect) == ("ok", -1.0)
    assert result.p_value < 1e-6
    relative = confidence_sequence(SampleProportion(5000, 4000), SampleProportion(500, 0), difference="relative", tuning_n=5000)
    pooled = SampleProportion(5500, 4000).variance * (1 / 5000 + 1 / 500)
    assert relative.standard_error == pytest.approx(math.sqrt(pooled) / 0.8)


def test_the_one_sided_p_value_is_the_alpha_at_which_the_bound_reaches_zero() -> None:
    arms = SampleMean(3000, 6000.0, 24000.0), SampleMean(3000, 6300.0, 25000.0)
    result = confidence_sequence(*arms, alternative="greater", tuning_n=6000)
    rho_squared = (-2 * math.log(0.1) + math.log(1 - 2 * math.log(0.1))) / 6000
    growth = 6000 * rho_squared + 1
    width = result.standard_error * math.sqrt(2 * growth / (6000 * rho_squared) * math.log1p(math.sqrt(growth) / (2 * result.p_value)))
    assert result.effect == pytest.approx(width, rel=1e-9)


def test_looks_that_are_close_together_are_nearly_one() -> None:
    for spending, two_sided in (("obrien_fleming", False), ("pocock", True)):
        apart = group_sequential_bounds([0.5, 1.0], spending=spending, two_sided=two_sided)
        close = group_sequential_bounds([0.5, 0.5002, 1.0], spending=spending, two_sided=two_sided)
        assert close[-1] == pytest.approx(apart[-1], abs=1e-3)


def test_what_has_no_answer_once_has_none_sequentially() -> None:
    constant = SampleMean(50, 100.0, 200.0)
    result = confidence_sequence(constant, constant, tuning_n=100)
    assert (result.status, result.method) == ("undefined", "asymptotic confidence sequence")
    assert math.isnan(result.p_value)
    assert confidence_sequence(SampleProportion(0, 0), SampleProportion(9, 3), tuning_n=100).status == "insufficient_data"


def test_nothing_to_spend_never_rejects() -> None:
    assert group_sequential_bounds([0.001, 1.0])[0] > 30
    assert group_sequential_bounds([0.001, 0.002, 1.0])[1] > 10


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: group_sequential_bounds([]), "information_fractions"),
        (lambda: group_sequential_bounds([0.5, 0.5]), "information_fractions"),
        (lambda: group_sequential_bounds([0.5, 1.1]), "information_fractions"),
        (lambda: group_sequential_bounds([0.0, 1.0]), "information_fractions"),
        (lambda: group_sequential_bounds([math.nan]), "information_fractions"),
        (lambda: group_sequential_bounds([0.5, 0.500001]), "information_fractions"),
        (lambda: group_sequential_bounds([1.0], spending=None), "spending"),  # type: ignore[arg-type]
        (lambda: crossing_probabilities([-1.0], [1.0]), "bounds"),
        (lambda: crossing_probabilities([math.nan], [1.0]), "bounds"),
        (lambda: crossing_probabilities([1.0], [1.0], drift=math.nan), "drift"),
        (lambda: group_sequential_bounds([1.0], alpha=1.0), "alpha"),
        (lambda: group_sequential_bounds([1.0], two_sided="x"), "two_sided"),  # type: ignore[arg-type]
        (lambda: group_sequential_bounds([1.0], spending="haste"), "spending"),
        (lambda: group_sequential_bounds([1.0], spending="power:x"), "spending"),
        (lambda: group_sequential_bounds([1.0], spending="power:-1"), "spending"),
        (lambda: crossing_probabilities([1.0], FIVE), "bounds"),
        (lambda: confidence_sequence(SampleMean(9, 9.0, 20.0), SampleMean(9, 9.0, 20.0), tuning_n=0), "tuning_n"),
        (lambda: confidence_sequence(SampleMean(9, 9.0, 20.0), SampleMean(9, 9.0, 20.0), alpha=0, tuning_n=9), "alpha"),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        call()
