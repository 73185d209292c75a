"""Comparisons that stay valid while one looks again and again, where a fixed-size test is wrong a third of the time.

Two ways. Without a planned end: ``confidence_sequence``, valid at every look for ever, at the price of power. With a
planned size and a calendar of looks: ``group_sequential_bounds``, whose last bound is nearly that of a single look. Looking
once belongs to ``significance``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from metamon_assets.statistics.arguments import between, flag, real, vector
from metamon_assets.statistics.comparison import Alternative, Comparison, Difference, Question
from metamon_assets.statistics.samples import Arm, SampleProportion
from metamon_assets.statistics.significance import compare

Floats = NDArray[np.float64]

# Grid points on each side of a density's middle at least, and how far apart they may lie in standard deviations of the step
# from one look to the next: then twice as many change a bound by less than 1e-6.
HALF_GRID, WIDEST_SPACING = 300, 0.7
# Closer looks would need a grid that no machine holds; they are one look.
CLOSEST_LOOKS = 1e-4
# No density of a Brownian motion matters beyond this many standard deviations.
FARTHEST = 9.0
# With fewer successes or failures than this, the variance of a share is a guess.
ENOUGH_OUTCOMES = 10


def confidence_sequence(
    control: Arm,
    treatment: Arm,
    *,
    difference: Difference = "absolute",
    alternative: Alternative = "two-sided",
    alpha: float = 0.05,
    tuning_n: float,
) -> Comparison:
    """An interval that covers the effect at all looks together with probability 1 − alpha, and the p-value that goes with it.

    The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (arXiv:2103.06476): two-sided
    equation 9, one-sided equation 134. ``tuning_n``: the number of units, both arms together, at which the interval shall
    be tightest; it must be fixed before the first look. The estimate and its standard error are those of ``compare`` with
    unpooled variances. The p-value is that alpha at which the interval, with its tuning held, just reaches zero; it is 1
    where the data do not speak against the null at all.

    Asymptotic: valid from the first look at which the estimate is about normal, so do not look before an arm has some 50
    units. Where an arm has fewer than ten successes or failures, its own variance is a guess that is often too small (with it,
    5 % of null canaries of 10 % and a share of .9 were rejected at some look, in place of 1 to 2 %): there the pooled variance
    is taken when it is larger. Means with a heavy tail are not normal for long: with a lognormal σ of 2 and a 10 % canary 14 %
    of true nulls were rejected (σ of 1: 4 %); compare logarithms there. ``insufficient_data`` and ``undefined`` as in
    ``compare``, but a share of 0 in one arm and 1 in the other has an answer.
    Raises ValueError for a ``tuning_n`` that is not positive.

    >>> from metamon_assets.statistics.samples import SampleProportion
    >>> result = confidence_sequence(SampleProportion(5000, 4500), SampleProportion(550, 470), tuning_n=5000)
    >>> round(result.ci_lower, 4), round(result.ci_upper, 4), round(result.p_value, 4)
    (-0.0929, 0.002, 0.0699)
    """
    tuning_n = between("tuning_n", tuning_n, 0, math.inf)
    question = Question(difference, alternative, alpha)
    alpha = question.alpha
    fixed = compare(control, treatment, difference=difference, alpha=alpha, method="wald" if isinstance(control, SampleProportion) else "t")
    name, pooled_error = "asymptotic confidence sequence", _pooled_error(control, treatment, difference)
    if fixed.status != "ok" and not (pooled_error and math.isfinite(fixed.effect)):
        return replace(fixed, method=name)
    n = fixed.n_control + fixed.n_treatment
    tuning = 2 * question.tail  # a one-sided sequence is tuned for twice its alpha
    rho_squared = (-2 * math.log(tuning) + math.log(1 - 2 * math.log(tuning))) / tuning_n
    growth = n * rho_squared + 1
    one_sided = alternative != "two-sided"
    penalty = math.log1p(math.sqrt(growth) / (2 * alpha)) if one_sided else math.log(math.sqrt(growth) / alpha)
    standard_error = max(pooled_error, fixed.standard_error if fixed.status == "ok" else 0.0)
    width = standard_error * math.sqrt(2 * growth / (n * rho_squared) * penalty)
    lower, upper = question.bounds(fixed.effect - width, fixed.effect + width)
    p_value = _always_valid_p_value(fixed.effect / standard_error, n * rho_squared, alternative)
    return Comparison(
        fixed.effect,
        lower,
        upper,
        p_value,
        standard_error,
        fixed.control_estimate,
        fixed.treatment_estimate,
        fixed.n_control,
        fixed.n_treatment,
        name,
    )


def group_sequential_bounds(
    information_fractions: ArrayLike, *, alpha: float = 0.05, spending: str = "obrien_fleming", two_sided: bool = True
) -> Floats:
    """The z beyond which each look rejects, shape (looks,), so that all looks together reject a true null at ``alpha``.

    Compare ``Comparison.z`` of a two-sided ``compare`` with them, in absolute value: it has the sizes that the bounds assume.

    ``information_fractions``: shape (looks,), rising, the share of the planned units that each look has seen; the last may
    be below 1. Looks may come when they come: the bounds of earlier ones do not depend on later ones (Lan, DeMets:
    Biometrika 1983, 70, 659). ``spending``: how much of each side's alpha a is used up at fraction t:

    - "obrien_fleming": 2 − 2 Φ(z(1 − a/2) / √t), little at first, so that the last bound is nearly that of a single look;
    - "pocock": a ln(1 + (e − 1) t);
    - "power:R": a t to the power of R (Kim, DeMets: Biometrika 1987, 74, 149), "power:2" as in Spotify's library.

    Two-sided bounds are symmetric, each side spends alpha / 2, and crossing either ends the test. Computed by recursive
    integration (Armitage, McPherson, Rowe: JRSS A 1969, 132, 235; Jennison, Turnbull: Group Sequential Methods, 2000,
    chapter 19). Raises ValueError for fractions that do not rise within (0, 1] by 0.0001 or more, an unknown ``spending``, and
    an ``alpha`` that the looks cannot spend.

    >>> group_sequential_bounds([1 / 3, 2 / 3, 1]).round(3).tolist()
    [3.71, 2.511, 1.993]
    """
    times, two_sided = _fractions(information_fractions), flag("two_sided", two_sided)
    side = between("alpha", alpha, 0, 1) / (2 if two_sided else 1)
    steps = np.diff(_spent(spending, side, times), prepend=0.0)
    bounds, density = np.empty_like(times), _Density.start(times)
    for look, (time, step) in enumerate(zip(times, steps, strict=True)):
        bounds[look] = density.bound_that_spends(step, time)
        density = density.carried_on(bounds[look], time, two_sided=two_sided)
    return bounds


def crossing_probabilities(bounds: ArrayLike, information_fractions: ArrayLike, *, drift: float = 0.0, two_sided: bool = True) -> Floats:
    """The probability that a bound has been crossed by each look, shape (looks,): size when ``drift`` is 0, else power.

    ``bounds``: the z beyond which each look rejects; ``drift``: the expected z at the planned end (effect over its standard
    error there). Source as for ``group_sequential_bounds``. Raises ValueError for bounds that are not one per fraction.

    >>> five_looks = [0.2, 0.4, 0.6, 0.8, 1.0]
    >>> crossing_probabilities([1.959964] * 5, five_looks).round(4).tolist()  # looking five times at .05 each
    [0.05, 0.0831, 0.1073, 0.1262, 0.1417]
    """
    times = _fractions(information_fractions)
    limits, drift = vector("bounds", bounds, length=times.size), real("drift", drift)
    two_sided = flag("two_sided", two_sided)
    if not (limits >= 0).all():
        raise ValueError("bounds must be numbers of at least 0")
    crossed, density = np.empty_like(times), _Density.start(times)
    total = 0.0
    for look, (time, bound) in enumerate(zip(times, limits, strict=True)):
        total += density.beyond(bound, time, drift) + (density.beyond(-bound, time, drift, below=True) if two_sided else 0.0)
        crossed[look] = total
        density = density.carried_on(bound, time, drift, two_sided=two_sided)
    return crossed


class _Density:
    """The density of the score process (z √t, a Brownian motion with drift) that has crossed no bound so far, on a grid."""

    def __init__(self, time: float, points: Floats, masses: Floats, half_grid: int) -> None:
        self.time = time
        self.points = points
        self.masses = masses  # density × quadrature weight
        self.half_grid = half_grid

    @classmethod
    def start(cls, times: Floats) -> _Density:
        closest = float(np.diff(times).min()) if times.size > 1 else 1.0
        return cls(0.0, np.zeros(1), np.ones(1), max(HALF_GRID, math.ceil(FARTHEST / (WIDEST_SPACING * math.sqrt(closest)))))

    def beyond(self, bound: float, time: float, drift: float = 0.0, *, below: bool = False) -> float:
        """The probability of being above (or below) z = ``bound`` at ``time``, not having crossed before."""
        step = time - self.time
        distance = (bound * math.sqrt(time) - self.points - drift * step) / math.sqrt(step)
        return float(self.masses @ special.ndtr(distance if below else -distance))

    def bound_that_spends(self, probability: float, time: float) -> float:
        """The z above which ``probability`` lies at ``time``; infinite when nothing is to be spent."""
        from scipy import optimize

        if not self.time:
            return -float(special.ndtri(probability))
        lowest, highest = -FARTHEST, 2 * FARTHEST
        if probability <= self.beyond(highest, time):
            return math.inf
        if probability >= self.beyond(lowest, time):
            raise ValueError("alpha is more than these looks can spend")
        return float(optimize.brentq(lambda z: self.beyond(z, time) - probability, lowest, highest, xtol=1e-10))

    def carried_on(self, bound: float, time: float, drift: float = 0.0, *, two_sided: bool) -> _Density:
        """The density at ``time`` of what has not crossed ``bound`` there either."""
        step, scale = time - self.time, math.sqrt(time)
        middle = drift * time
        upper = min(bound * scale, middle + FARTHEST * scale)
        lower = max(-bound * scale if two_sided else -math.inf, middle - FARTHEST * scale)
        points, weights = _simpson(lower, upper, self.half_grid)
        distance = (points[:, None] - self.points[None, :] - drift * step) / math.sqrt(step)
        density = np.exp(-(distance**2) / 2) @ self.masses / math.sqrt(2 * math.pi * step)
        return _Density(time, points, density * weights, self.half_grid)


def _simpson(lower: float, upper: float, half_grid: int) -> tuple[Floats, Floats]:
    points = np.linspace(lower, upper, 2 * half_grid + 1)
    weights = np.full(points.size, 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    return points, weights * (upper - lower) / (6 * half_grid)


def _fractions(values: ArrayLike) -> Floats:
    times = vector("information_fractions", values)
    if not times.size or not times[0] > 0 or not (np.diff(times) >= CLOSEST_LOOKS).all() or times[-1] > 1 + 1e-12:
        wanted = f"above 0 and up to 1, each {CLOSEST_LOOKS} above the last or more"
        raise ValueError(f"information_fractions must be shares of the planned units, {wanted}")
    return times


def _spent(spending: str, side: float, times: Floats) -> Floats:
    """One side's alpha that is used up at each fraction."""
    if spending == "obrien_fleming":
        return 2 * special.ndtr(special.ndtri(side / 2) / np.sqrt(times))
    if spending == "pocock":
        return side * np.log1p((math.e - 1) * times)
    if isinstance(spending, str) and spending.startswith("power:"):
        try:
            exponent = float(spending.removeprefix("power:"))
        except ValueError:
            exponent = math.nan
        return side * times ** between("the exponent in spending", exponent, 0, math.inf)
    raise ValueError(f'spending must be "obrien_fleming", "pocock" or "power:R" with a number R, not {spending!r}')


def _pooled_error(control: Arm, treatment: Arm, difference: Difference) -> float:
    """The standard error of two shares were they equal, where one has too few outcomes of a kind to know its own; else 0."""
    if not (isinstance(control, SampleProportion) and isinstance(treatment, SampleProportion)) or min(control.n, treatment.n) <= 0:
        return 0.0
    if min(min(arm.successes, arm.n - arm.successes) for arm in (control, treatment)) >= ENOUGH_OUTCOMES:
        return 0.0
    error = math.sqrt((control + treatment).variance * (1 / control.n + 1 / treatment.n))
    if difference == "relative":
        return error / control.estimate if control.successes else 0.0
    return error


def _always_valid_p_value(z: float, information: float, alternative: Alternative) -> float:
    """The alpha at which the sequence, with its tuning held, just reaches zero; ``information`` is n ρ²."""
    growth = information + 1
    evidence = z * z * information / (2 * growth)
    if alternative == "two-sided":
        return min(1.0, math.sqrt(growth) * math.exp(-evidence))
    if (z if alternative == "greater" else -z) <= 0:
        return 1.0
    return min(1.0, math.sqrt(growth) / (2 * math.expm1(min(evidence, 700.0))) if evidence else 1.0)
