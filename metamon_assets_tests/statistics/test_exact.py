"""Exact tails and bounds, against SciPy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from metamon_assets.statistics.exact import at_least, at_most, lower_bound, upper_bound


@given(st.integers(0, 3000), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_tails_are_those_of_scipy(n: int, part: float, p: float) -> None:
    successes = round(part * n)
    assert at_least(successes, n, p) == pytest.approx(binom.sf(successes - 1, n, p), rel=1e-8, abs=1e-12)
    assert at_most(successes, n, p) == pytest.approx(binom.cdf(successes, n, p), rel=1e-8, abs=1e-12)


@given(st.integers(1, 100_000), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_bounds_are_those_of_clopper_and_pearson(n: int, part: float) -> None:
    successes = round(part * n)
    lower = beta.ppf(0.025, successes, n - successes + 1) if successes else 0.0
    upper = beta.ppf(0.975, successes + 1, n - successes) if successes < n else 1.0
    assert lower_bound(successes, n) == pytest.approx(lower, abs=1e-9)
    assert upper_bound(successes, n) == pytest.approx(upper, abs=1e-9)


def test_a_decision_by_the_tail_is_one_by_the_bound() -> None:
    for n in (1, 20, 500):
        for successes in range(n + 1):
            assert (at_least(successes, n, 0.05) <= 0.025) == (lower_bound(successes, n) > 0.05 - 1e-12)


def test_nothing_is_known_of_no_events() -> None:
    assert (lower_bound(0, 0), upper_bound(0, 0), at_least(0, 0, 0.3)) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(("successes", "n", "p"), [(-1, 3, 0.5), (4, 3, 0.5), (1, 3, -0.1), (1, 3, 1.1)])
def test_impossible_counts_are_refused(successes: int, n: int, p: float) -> None:
    with pytest.raises(ValueError, match="of n events"):
        at_least(successes, n, p)
