"""Comparisons that need the values themselves, where sums do not carry enough: pairs of the same cases, quantiles, heavy tails.

They are part of ``significance``, from where they are imported; what can be compared from sums is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metamon_assets.statistics import proportions, welch
from metamon_assets.statistics.arguments import between, flag, real, vector
from metamon_assets.statistics.comparison import Comparison, Difference, Question, from_standard_error, without_answer
from metamon_assets.statistics.samples import SampleMean

Floats = NDArray[np.float64]

NORMAL_95 = 1.959963984540054
# A quantile's order statistics say nothing with fewer units beyond it: 300 units for a 95th percentile.
UNITS_BEYOND_QUANTILE = 15
# Fewer clusters leave the variance between them unknown; calibration is shown from 20.
LEAST_CLUSTERS, LEAST_DEGREES = 5, 2.0


def compare_paired(
    control: ArrayLike,
    treatment: ArrayLike,
    *,
    binary: bool | None = None,
    clusters: Iterable[object] | None = None,
    alpha: float = 0.05,
) -> Comparison:
    """Compare two results of the same cases, such as golden cases under a baseline and a candidate. Shapes (pairs,).

    ``binary``: results are 0 or 1 (None: found out). Without ``clusters``, binary pairs get McNemar's test without
    correction and the interval of Tango (Statistics in Medicine 1998), which agree; other pairs get the paired t-test.
    ``clusters``: a label per pair, such as the task when trials repeat; the mean difference then has the variance between
    clusters, and repeated trials count for what they are worth. Variance and degrees of freedom allow for clusters of
    unequal size (Bell, McCaffrey: Survey Methodology 2002, 28, 169, with clusters of equal variance as working model); for
    equal ones they are those of a t-test of the clusters' means.

    ``insufficient_data`` below two pairs, five clusters or two degrees of freedom; ``undefined`` for values that are not
    finite (say what a missing output is worth before comparing) and where no pair differs: binary pairs then have an
    interval, but no p-value.
    Raises ValueError for arrays of different lengths, and values other than 0 and 1 when ``binary`` is True.

    >>> before = [1] * 70 + [0] * 30
    >>> after = [1] * 65 + [0] * 5 + [1] * 18 + [0] * 12
    >>> result = compare_paired(before, after)
    >>> result.effect, round(result.ci_lower, 3), round(result.ci_upper, 3), round(result.p_value, 4)
    (0.13, 0.039, 0.226, 0.0067)
    >>> result.method
    'McNemar, Tango interval'
    """
    before = vector("control", control)
    after = vector("treatment", treatment, length=before.size)
    _check_alike(control, treatment)
    binary = None if binary is None else flag("binary", binary)
    question, sizes = Question("absolute", "two-sided", alpha), (float(before.size), float(before.size))
    zeros_and_ones = bool(np.isin(before, (0.0, 1.0)).all() and np.isin(after, (0.0, 1.0)).all())
    finite = bool(np.isfinite(before).all() and np.isfinite(after).all())
    if binary and finite and not zeros_and_ones:
        raise ValueError("binary is True, but control and treatment hold values other than 0 and 1")
    labels = None if clusters is None else _cluster_numbers(clusters, before.size)
    by_mcnemar = labels is None and (zeros_and_ones if binary is None else binary)
    name = "McNemar, Tango interval" if by_mcnemar else "paired t" if labels is None else "paired t, clustered"
    if before.size < 2:
        return without_answer("insufficient_data", "there are fewer than two pairs", (math.nan, math.nan), sizes, name)
    estimates = (float(before.mean()), float(after.mean()))
    if not finite:
        return without_answer("undefined", "a value is missing or not finite: decide what it is worth first", estimates, sizes, name)
    if by_mcnemar:
        return _mcnemar(question, before, after, estimates, sizes, name)
    distance = after - before
    effect = float(distance.mean())
    if np.ptp(distance) <= 1e-12 * max(float(np.abs(distance).max()), float(np.abs(before).max())):
        return without_answer("undefined", "all pairs differ by the same: nothing tells chance from effect", estimates, sizes, name, effect)
    too_few = f"there are fewer than {LEAST_CLUSTERS} clusters, or a few hold nearly all pairs"
    if labels is not None and labels.max() + 1 < LEAST_CLUSTERS:
        return without_answer("insufficient_data", too_few, estimates, sizes, name, effect)
    standard_error, dof = _clustered_error(distance - effect, np.arange(before.size) if labels is None else labels)
    if labels is not None and dof < LEAST_DEGREES:
        return without_answer("insufficient_data", too_few, estimates, sizes, name, effect)
    return from_standard_error(question, effect, standard_error, estimates, sizes, name, dof)


class QuantileSummary(NamedTuple):
    """What is known of a quantile without the values: units, which quantile, its estimate, its 95 % interval."""

    n: float
    q: float
    estimate: float
    ci95_lower: float
    ci95_upper: float

    @property
    def standard_error(self) -> float:
        """The width of the interval over that of a standard normal, with GrowthBook's √(1 − 1/n)."""
        return (self.ci95_upper - self.ci95_lower) / (2 * NORMAL_95) * math.sqrt(max(1 - 1 / self.n, 0.0)) if self.n else math.nan

    @classmethod
    def from_values(cls, values: ArrayLike, q: float) -> QuantileSummary:
        """The sample quantile (linear between order statistics) with the order statistics around it, shape (n,).

        The interval's ends stand at n q ∓ 1.96 √(n q (1 − q)), rounded outwards to whole ranks (the normal approximation
        of the binomial; David and Nagaraja: Order Statistics, 2003, section 7.1). An end that other values share moves on to
        the next different value: rounded latencies are known no better than that. NaN with no values.
        """
        ordered, q = np.sort(vector("values", values)), between("q", q, 0, 1)
        n = ordered.size
        if not n:
            return cls(0, q, math.nan, math.nan, math.nan)
        width = NORMAL_95 * math.sqrt(n * q * (1 - q))
        lower, upper = max(math.floor(n * q - width), 1), min(math.ceil(n * q + width), n)
        low, high = ordered[lower - 1], ordered[upper - 1]
        first, last = np.searchsorted(ordered, low, "left"), np.searchsorted(ordered, high, "right")
        if np.searchsorted(ordered, low, "right") - first > 1 and first > 0:
            low = ordered[first - 1]
        if last - np.searchsorted(ordered, high, "left") > 1 and last < n:
            high = ordered[last]
        return cls(n, q, float(np.quantile(ordered, q)), float(low), float(high))


def compare_quantile(
    control: ArrayLike | QuantileSummary,
    treatment: ArrayLike | QuantileSummary,
    q: float,
    *,
    difference: Difference = "absolute",
    alpha: float = 0.05,
) -> Comparison:
    """Compare a quantile, such as the 95th percentile of latency; ``q`` in (0, 1). Arrays of shape (n,) or summaries.

    The standard error of each arm's quantile comes from order statistics (half the width of its 95 % interval over 1.96),
    so no density is estimated; the difference is taken for normal, relative ones by the delta method, as in GrowthBook.
    Conservative: at a nominal .05 some .03 of comparisons without an effect are significant at 500 units.

    ``insufficient_data`` where an arm has fewer than 15 units beyond the quantile (300 for the 95th percentile);
    ``undefined`` for values that are not finite, ties that leave the interval no width, and relative differences to zero.
    Raises ValueError when a summary is of another quantile.

    >>> control = QuantileSummary(11000, 0.9, 7.15, 7.09, 7.21)
    >>> treatment = QuantileSummary(10900, 0.9, 7.69, 7.64, 7.74)
    >>> result = compare_quantile(control, treatment, 0.9)
    >>> round(result.effect, 3), round(result.ci_lower, 3), round(result.ci_upper, 3)
    (0.54, 0.462, 0.618)
    """
    q = between("q", q, 0, 1)
    question = Question(difference, "two-sided", alpha)
    c, t = _checked_quantile("control", control, q), _checked_quantile("treatment", treatment, q)
    estimates, sizes, method = (c.estimate, t.estimate), (c.n, t.n), "quantile, order statistics"
    if min(sizes) * min(q, 1 - q) < UNITS_BEYOND_QUANTILE - 1e-9:
        needed = math.ceil(UNITS_BEYOND_QUANTILE / min(q, 1 - q) - 1e-9)
        reason = f"each arm needs {needed} units; control has {sizes[0]:g}, treatment {sizes[1]:g}"
        return without_answer("insufficient_data", reason, estimates, sizes, method)
    if not all(map(math.isfinite, (*c, *t))):
        return without_answer("undefined", "a value is not finite", estimates, sizes, method)
    if min(c.standard_error, t.standard_error) <= 0:
        return without_answer("undefined", "ties around a quantile leave its interval no width", estimates, sizes, method)
    if difference == "absolute":
        effect, standard_error = t.estimate - c.estimate, math.hypot(c.standard_error, t.standard_error)
    elif c.estimate == 0:
        return without_answer("undefined", welch.ZERO_CONTROL, estimates, sizes, method)
    else:
        effect = (t.estimate - c.estimate) / abs(c.estimate)
        standard_error = math.hypot(t.standard_error, c.standard_error * t.estimate / c.estimate) / abs(c.estimate)
    return from_standard_error(question, effect, standard_error, estimates, sizes, method)


def compare_heavy_tailed(control: ArrayLike, treatment: ArrayLike, *, alpha: float = 0.05) -> Comparison:
    """Compare latencies or costs whose tail is too heavy for means, one value ≥ 0 per unit, shapes (n_c,) and (n_t,).

    Welch's t-test of the logarithms. What it tests is whether the *distributions* on the log scale have the same centre;
    equal means with different spread are not equal here. Decisions about money take means instead.

    ``effect`` is the ratio of geometric means, treatment over control: 1.0 is no difference, and the interval is that of
    the ratio, not symmetric around it. ``control_estimate`` and ``treatment_estimate`` are the geometric means, and
    ``standard_error`` that of the ratio by the delta method. Zeros have no logarithm: where there are any, each counts as
    half the smallest positive value of both arms together, and both arms get the variance of all (Student's t): a test of
    equal distributions then keeps its size also where a small canary has few zeros; the ratio depends on that value, and
    ``method`` says so. Another rare mode, such as 5 % of answers from a cache in a millisecond, is not noticed: with 20 units
    in an arm, size is then lost; compare those answers apart.

    ``insufficient_data`` below two units in an arm; ``undefined`` for negative or not finite values, and for values that
    do not vary.

    >>> control = [1.0, 2.0, 4.0, 8.0]
    >>> result = compare_heavy_tailed(control, [2 * value for value in control])
    >>> round(result.effect, 6), round(result.control_estimate, 4), result.method
    (2.0, 2.8284, 'Welch t of logarithms, geometric ratio')
    """
    question = Question("absolute", "two-sided", alpha)
    c, t = vector("control", control), vector("treatment", treatment)
    sizes, name = (float(c.size), float(t.size)), "Welch t of logarithms, geometric ratio"
    unknown = (math.nan, math.nan)
    if min(sizes) < 2:
        return without_answer("insufficient_data", "an arm has fewer than two units", unknown, sizes, name)
    both = np.concatenate([c, t])
    if not np.isfinite(both).all() or both.min() < 0:
        return without_answer("undefined", "a value is negative or not finite and has no logarithm", unknown, sizes, name)
    if not both.any():
        return without_answer("undefined", "all values are zero", (0.0, 0.0), sizes, name)
    zeros = int((both == 0).sum())
    if zeros:
        name = f"Student t of logarithms, geometric ratio, zeros ({zeros}) counted as half the smallest positive value"
        stand_in = both[both > 0].min() / 2
        c, t = np.where(c == 0, stand_in, c), np.where(t == 0, stand_in, t)
    estimates = (_geometric_mean(c), _geometric_mean(t))
    logs = [np.log(values) - math.log(estimates[0]) for values in (c, t)]
    result = (
        _student(question, logs, sizes, name)
        if zeros
        else welch.compare_strata(question, [(SampleMean.from_values(logs[0]), SampleMean.from_values(logs[1]))], sizes, name)
    )
    if result.status != "ok":
        return without_answer(result.status, result.reason, estimates, sizes, name)
    ratio, lower, upper = math.exp(result.effect), math.exp(result.ci_lower), math.exp(result.ci_upper)
    return Comparison(ratio, lower, upper, result.p_value, ratio * result.standard_error, *estimates, *sizes, name)


def _checked_quantile(name: str, arm: ArrayLike | QuantileSummary, q: float) -> QuantileSummary:
    if not isinstance(arm, QuantileSummary):
        return QuantileSummary.from_values(vector(name, arm), q)
    summary = QuantileSummary(*(real(field, value, finite=False) for field, value in arm._asdict().items()))
    if not math.isclose(summary.q, q):
        raise ValueError(f"{name} is a summary of the quantile {summary.q}, not of q = {q}")
    if summary.ci95_lower > summary.estimate or summary.estimate > summary.ci95_upper:
        raise ValueError(f"{name} is a summary whose interval leaves out its estimate: {summary}")
    return summary


def _mcnemar(
    question: Question, before: Floats, after: Floats, estimates: tuple[float, float], sizes: tuple[float, float], name: str
) -> Comparison:
    n = before.size
    gained, lost = float(((before == 0) & (after == 1)).sum()), float(((before == 1) & (after == 0)).sum())
    effect = (gained - lost) / n
    lower, upper = proportions.paired_interval(gained, lost, n, question.critical_value())
    # From the data; where all pairs changed in one direction, from the null.
    standard_error = math.sqrt((gained + lost - (gained - lost) ** 2 / n) or gained + lost) / n
    if gained + lost == 0:
        reason = "no pair differs: there is an interval, but no test"
        return Comparison(effect, lower, upper, math.nan, math.nan, *estimates, *sizes, name, "undefined", reason)
    p_value = question.p_value(proportions.paired_statistic(gained, lost, n, 0.0))
    return Comparison(effect, lower, upper, p_value, standard_error, *estimates, *sizes, name)


def _check_alike(control: object, treatment: object) -> None:
    """Two pandas Series are compared by position: ValueError when their indexes say that the positions are not the same cases."""
    indexes: list[Any] = [values.index for values in (control, treatment) if hasattr(values, "iloc") and hasattr(values, "index")]
    if len(indexes) == 2 and not indexes[0].equals(indexes[1]):
        raise ValueError("treatment must have the index of control: other cases would stand side by side")


def _cluster_numbers(clusters: Iterable[object], length: int) -> NDArray[np.intp]:
    """Labels of any hashable kind as numbers from 0; ValueError when they are not one per pair, or missing."""
    labels = list(clusters) if isinstance(clusters, Iterable) and not isinstance(clusters, str) else []
    if len(labels) != length:
        raise ValueError(f"clusters must be {length} labels, one per pair, not {len(labels) or repr(clusters)}")
    numbers: dict[object, int] = {}
    try:
        missing = sum(label is None or bool(label != label) for label in labels)  # noqa: PLR0124 (NaN and NaT differ from themselves)
        found = np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.intp)
    except TypeError as error:
        raise ValueError(f"clusters must be labels that can be told apart, and none missing: {error}") from error
    if missing:
        raise ValueError(f"clusters has {missing} missing labels: give each pair without a cluster a label of its own")
    return found


def _clustered_error(deviations: Floats, groups: NDArray[np.intp]) -> tuple[float, float]:
    """The standard error of a mean from its deviations, clustered, and its degrees of freedom (Bell, McCaffrey 2002).

    Working model: the clusters' means have one variance. Each one's deviation from the mean then has that times
    1 − 2 w + Σ w², w being the cluster's share of all values; the sum of squares is scaled accordingly, and Satterthwaite's
    degrees of freedom are those of that quadratic form.
    """
    shares = np.bincount(groups) / deviations.size
    total = float(shares @ shares)
    scale = shares**2 / (1 - 2 * shares + total)
    means = np.bincount(groups, weights=deviations) / np.bincount(groups)
    # The trace of (D B)², where D holds the scales and B = I − 1 w' − w 1' + Σ w², without its matrices.
    a, b = float(scale.sum()), float(scale @ shares)
    everything = total**2 * a**2 - 4 * total * a * b + 2 * a * float(scale @ shares**2) + 2 * b**2
    diagonal = float(scale**2 @ ((1 - 2 * shares + total) ** 2 - (total - 2 * shares) ** 2))
    dof = float(scale @ (1 - 2 * shares + total)) ** 2 / (everything + diagonal)
    return math.sqrt(float(scale @ means**2)), dof


def _student(question: Question, arms: Sequence[Floats], sizes: tuple[float, float], name: str) -> Comparison:
    """Student's t-test, one variance for both arms."""
    c, t = arms
    dof = c.size + t.size - 2
    variance = (float(((c - c.mean()) ** 2).sum()) + float(((t - t.mean()) ** 2).sum())) / dof
    error = math.sqrt(variance * (1 / c.size + 1 / t.size))
    return from_standard_error(question, float(t.mean() - c.mean()), error, (math.nan, math.nan), sizes, name, dof)


def _geometric_mean(values: Floats) -> float:
    return math.exp(float(np.log(values).mean()))
