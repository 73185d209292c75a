"""How many units a comparison needs, how small an effect it can find, and how likely it finds one: before the first unit.

The power of the t-test of two means and of the score test of two proportions, as ``significance.compare`` makes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy import special

from metamon_assets.statistics.arguments import between, one_of, real
from metamon_assets.statistics.comparison import Alternative

# Beyond this many degrees of freedom Student's t is the normal distribution to nine digits.
NORMAL_FROM = 1e7
LARGEST_SAMPLE = 1e15


def solve(
    *,
    baseline_mean: float,
    baseline_variance: float,
    treatment_variance: float | None = None,
    relative_effect: float | None = None,
    n_total: float | None = None,
    power: float | None = None,
    alpha: float = 0.05,
    ratio: float = 1.0,
    alternative: Alternative = "two-sided",
) -> float:
    """Whichever of ``relative_effect``, ``n_total`` and ``power`` is None, from the other two.

    ``relative_effect``: treatment / control − 1 in shares of |``baseline_mean``|, negative for "less"; the smallest that is
    found with ``power`` when it is asked for (positive when two-sided). ``n_total``: units of both arms together; rounded
    up to whole ones when it is asked for. ``ratio``: units of the treatment per unit of the control, 1/9 for a 10 % canary.
    ``baseline_variance``: of one unit. ``treatment_variance``: the same in the treatment, None for an equal one. For
    proportions and their score test see ``solve_proportion``.

    The two-sample t-test with the non-central t distribution (Cohen: Statistical Power Analysis, 1988, chapter 2), both
    rejection regions counted when two-sided. Raises ValueError when not exactly one of the three is None, for arguments
    out of range, an effect that points away from the alternative, and a power that cannot be reached.

    >>> solve(baseline_mean=0.5, baseline_variance=0.65, relative_effect=0.1, power=0.8)
    8165.0
    >>> round(solve(baseline_mean=0.9, baseline_variance=0.09, n_total=2000, power=0.8, ratio=1 / 9), 4)
    0.0696
    """
    one_of("alternative", alternative, ("two-sided", "greater", "less"))
    alpha = between("alpha", alpha, 0, 1)
    ratio = between("ratio", ratio, 0, 1e15)
    baseline_variance = between("baseline_variance", baseline_variance, 0, math.inf)
    other_variance = baseline_variance if treatment_variance is None else between("treatment_variance", treatment_variance, 0, math.inf)
    baseline_mean = real("baseline_mean", baseline_mean)
    if baseline_mean == 0:
        raise ValueError("baseline_mean must not be 0: no effect is relative to it")
    information = 1 / ((1 + ratio) * (baseline_variance + other_variance / ratio))  # per unit

    def power_of(effect: float, n: float) -> float:
        return _t_test_power(effect * abs(baseline_mean) * math.sqrt(n * information), n - 2, alpha, alternative)

    return _solve(power_of, relative_effect, n_total, power, alpha, ratio, alternative, 1 / (abs(baseline_mean) * math.sqrt(information)))


def solve_proportion(
    *,
    baseline: float,
    relative_effect: float | None = None,
    n_total: float | None = None,
    power: float | None = None,
    alpha: float = 0.05,
    ratio: float = 1.0,
    alternative: Alternative = "two-sided",
) -> float:
    """The same for the score test of two proportions, which ``compare`` makes of them; ``baseline`` is the control's share.

    Each arm has the variance of its own share, and the test that of the pooled one, so that in a small canary a rate that
    falls and one that rises need different numbers (Fleiss, Levin, Paik: Statistical Methods for Rates and Proportions, 2003,
    chapter 4, without continuity correction). The smallest effect found when two-sided is the smallest rise. Raises ValueError
    as ``solve`` does, and for a treatment whose share would not lie between 0 and 1.

    >>> solve_proportion(baseline=0.95, relative_effect=-0.03 / 0.95, power=0.8, ratio=1 / 9)
    5433.0
    >>> solve_proportion(baseline=0.92, relative_effect=0.03 / 0.92, power=0.8, ratio=1 / 9)
    6240.0
    """
    one_of("alternative", alternative, ("two-sided", "greater", "less"))
    baseline, alpha, ratio = between("baseline", baseline, 0, 1), between("alpha", alpha, 0, 1), between("ratio", ratio, 0, 1e15)
    if relative_effect is not None:
        between("the treatment's share, baseline × (1 + relative_effect),", baseline * (1 + real("relative_effect", relative_effect)), 0, 1)
    quantile = -float(special.ndtri(alpha / 2 if alternative == "two-sided" else alpha))

    def power_of(effect: float, n: float) -> float:
        share = min(max(baseline * (1 + effect), 0.0), 1.0)
        pooled = (baseline + ratio * share) / (1 + ratio)
        null = math.sqrt(pooled * (1 - pooled) * (1 + ratio) ** 2 / ratio / n)
        real_error = math.sqrt((1 + ratio) * (baseline * (1 - baseline) + share * (1 - share) / ratio) / n)
        above, below = ((side * (share - baseline) - quantile * null) / real_error for side in (1, -1))
        found = {"greater": (above,), "less": (below,), "two-sided": (above, below)}[alternative]
        return sum(float(special.ndtr(z)) for z in found)

    furthest = 1.0 if alternative == "less" else 1 / baseline - 1
    return _solve(power_of, relative_effect, n_total, power, alpha, ratio, alternative, 0.01 * furthest, furthest)


def _solve(
    power_of: Callable[[float, float], float],
    relative_effect: float | None,
    n_total: float | None,
    power: float | None,
    alpha: float,
    ratio: float,
    alternative: Alternative,
    first_effect: float,
    largest_effect: float = math.inf,
) -> float:
    """The one that is None, from the power that an effect has with a number of units."""
    if sum(value is None for value in (relative_effect, n_total, power)) != 1:
        raise ValueError("exactly one of relative_effect, n_total and power must be None: the one to solve for")
    if power is not None:
        power = between("power", power, alpha, 1)
    if n_total is not None:
        n_total = _checked_total(n_total, ratio)
    if relative_effect is not None:
        relative_effect = between("relative_effect", relative_effect, -math.inf, math.inf)
        if n_total is not None:
            return power_of(relative_effect, n_total)
        assert power is not None
        return _units(power_of, relative_effect, power, ratio, alternative)
    assert n_total is not None
    assert power is not None
    sign, units, wanted = -1.0 if alternative == "less" else 1.0, n_total, power
    largest = min(largest_effect, 1e9 * first_effect)
    return sign * _rising_root(lambda effect: power_of(sign * effect, units) - wanted, 0.0, first_effect, largest, "relative_effect")


def _units(power_of: Callable[[float, float], float], effect: float, power: float, ratio: float, alternative: Alternative) -> float:
    if effect == 0 or (alternative != "two-sided" and (effect > 0) != (alternative == "greater")):
        raise ValueError(f"relative_effect must point in the direction of the alternative, not {effect!r}")
    smallest = _smallest_total(ratio)
    found = _rising_root(lambda n: power_of(effect, n) - power, smallest, smallest + 16, LARGEST_SAMPLE, "n_total")
    return float(math.ceil(found - 1e-6))


def _checked_total(n_total: float, ratio: float) -> float:
    number, least = between("n_total", n_total, 2, math.inf), _smallest_total(ratio)
    if number < least:
        raise ValueError(f"n_total must be at least {least:g}, so that each arm has a unit, not {n_total!r}")
    return number


def _smallest_total(ratio: float) -> float:
    """Three units, and one in each arm."""
    return float(math.ceil(max(3.0, (1 + ratio) / min(1.0, ratio)) - 1e-9))


def _t_test_power(shift: float, dof: float, alpha: float, alternative: Alternative) -> float:
    """The probability that a t statistic whose noncentrality is ``shift`` rejects."""
    if dof > NORMAL_FROM:
        dof = math.inf
    quantile = -float(special.stdtrit(dof, alpha / 2 if alternative == "two-sided" else alpha))
    if alternative == "two-sided":
        return _below(-quantile, dof, shift) + _below(-quantile, dof, -shift)
    return _below(-quantile, dof, -shift if alternative == "greater" else shift)


def _below(t: float, dof: float, shift: float) -> float:
    """The noncentral t distribution function; normal where the degrees of freedom are infinite or SciPy's series fails."""
    value = float(special.nctdtr(dof, shift, t)) if math.isfinite(dof) else math.nan
    return value if math.isfinite(value) else float(special.ndtr(t - shift))


def _rising_root(function: Callable[[float], float], lower: float, first: float, largest: float, name: str) -> float:
    from scipy import optimize

    upper = min(first, largest)
    while function(upper) < 0:
        if upper >= largest:
            raise ValueError(f"no {name} up to {largest:g} reaches this power")
        upper = min(4 * upper, largest)
    return lower if function(lower) >= 0 else float(optimize.brentq(function, lower, upper, xtol=1e-12, rtol=1e-12))
