"""Is the treatment better than the control, by how much, and how sure are we: comparisons at a fixed sample size.

Arms come as sums (``samples``), as SQL computes them, or as arrays where sums do not carry enough: pairs, quantiles, heavy
tails. Every comparison answers with a ``Comparison`` whose interval and p-value agree, or says why it has no answer. Tests
that stay valid while one looks again and again are in ``sequential``, sample sizes in ``power``.

Which test for what: means, ratios and CUPED by Welch's t; proportions by the score test, since the unpooled one rejects
too often when one arm is small (nominal .05 becomes .09 at 270 against 30 units and a share of .9); latencies and costs of
a small arm by ``compare_heavy_tailed``; requests that belong to users by a ``SampleRatio`` with users as units; the same
cases before and after by ``compare_paired``; stages of a rollout by ``stratified``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from metamon_assets.statistics import score_test, welch
from metamon_assets.statistics.arguments import Status, between, one_of, real, vector
from metamon_assets.statistics.comparison import (
    Alternative,
    Comparison,
    Difference,
    Question,
    from_standard_error,
    without_answer,
)
from metamon_assets.statistics.samples import AdjustedMean, Arm, SampleMean, SampleProportion, SampleRatio

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "AdjustedMean",
    "Comparison",
    "NormalPrior",
    "Posterior",
    "QuantileSummary",
    "SampleMean",
    "SampleProportion",
    "SampleRatio",
    "adjust_p_values",
    "bayesian",
    "compare",
    "compare_heavy_tailed",
    "compare_many",
    "compare_paired",
    "compare_quantile",
    "non_inferiority",
    "sample_ratio_mismatch",
    "stratified",
    "sums_by_segment",
]

Method: TypeAlias = Literal["t", "score", "wald"]
Floats: TypeAlias = NDArray[np.float64]

NORMAL_95 = 1.959963984540054
# A quantile's order statistics say nothing with fewer units beyond it: 300 units for a 95th percentile.
UNITS_BEYOND_QUANTILE = 15
# Fewer clusters leave the variance between them unknown; calibration is shown from 20.
LEAST_CLUSTERS = 5


def compare(
    control: Arm,
    treatment: Arm,
    *,
    difference: Difference = "absolute",
    alternative: Alternative = "two-sided",
    alpha: float = 0.05,
    null: float = 0.0,
    method: Method | None = None,
) -> Comparison:
    """Compare two arms of one kind.

    ``difference``: treatment − control, or that over |control| (with the sign kept when the control is negative).
    ``alternative``: "greater" asks whether the difference is above ``null``, and its interval has no upper bound.
    ``method``, by default the first that the kind has:

    - means, ratios, CUPED: "t" (Welch: each arm its own variance, Satterthwaite's degrees of freedom from the variances of
      the absolute difference; standard error of a relative difference by the delta method) or "wald" (the same with a
      normal quantile);
    - proportions: "score" (pooled test; the interval is that of Mee, or Koopman for relative differences, without
      correction, so that both agree; ``standard_error`` is the unpooled one), "t" (Welch on p (1 − p)), "wald".

    CUPED: theta is pooled over both arms, what lies between them included; the relative difference divides by the
    control's unadjusted mean, and its standard error allows for the control's covariance with the earlier values, as in
    GrowthBook. Sources: Welch, Biometrika 1947; Deng, Knoblich, Lu, KDD 2018; Deng, Xu, Kohavi, Walker, WSDM 2013.

    ``insufficient_data`` below two units (one for a score test) in an arm; ``undefined`` when sums are not finite or
    contradict each other, when nothing varies, and for relative differences to a control of zero. Two arms without one
    success, or without one failure, have no p-value either, but an interval. Raises ValueError for arms of different
    kinds, negative counts, more successes than units, or an argument out of its range.

    >>> result = compare(SampleMean(100, 500.0, 2600.0), SampleMean(100, 530.0, 2930.0))
    >>> round(result.effect, 3), round(result.ci_lower, 3), round(result.ci_upper, 3), round(result.p_value, 4)
    (0.3, 0.005, 0.595, 0.046)
    >>> errors = compare(SampleProportion(900, 90), SampleProportion(100, 17), difference="relative")
    >>> round(errors.effect, 3), round(errors.ci_lower, 3), round(errors.ci_upper, 3), round(errors.p_value, 4)
    (0.7, 0.048, 1.678, 0.0317)
    >>> compare(SampleMean(50, 100.0, 200.0), SampleMean(50, 100.0, 200.0)).reason
    'the values do not vary: nothing tells chance from effect'
    """
    return stratified([(control, treatment)], difference=difference, alternative=alternative, alpha=alpha, null=null, method=method)


def stratified(
    comparisons_by_stratum: Sequence[tuple[Arm, Arm]],
    *,
    difference: Difference = "absolute",
    alternative: Alternative = "two-sided",
    alpha: float = 0.05,
    null: float = 0.0,
    method: Method | None = None,
) -> Comparison:
    """Compare two arms within each stratum and combine: for rollout stages, where shares of traffic change over time.

    Pooled over stages, a treatment that got most of its traffic on a bad day looks bad. Here each stage's difference has
    the weight n_control n_treatment / (n_control + n_treatment) (Cochran: Biometrics 1954, 10, 417), which is that of
    Mantel and Haenszel for proportions; with one stratum this is ``compare``, whose arguments it takes. A relative
    difference divides the combined difference by the control mean with the same weights. Strata in which an arm has no
    units say nothing and are left out. For proportions, the score test sums the strata's scores.

    >>> stage_1 = (SampleProportion(900, 828), SampleProportion(100, 92))  # both .92
    >>> stage_2 = (SampleProportion(500, 425), SampleProportion(500, 425))  # both .85
    >>> result = stratified([stage_1, stage_2])
    >>> round(result.effect, 12), round(result.ci_lower, 4), round(result.ci_upper, 4)
    (0.0, -0.0369, 0.0349)
    """
    question = Question(difference, alternative, alpha, null)
    strata = _usable_strata(comparisons_by_stratum)
    kinds = {type(arm) for pair in comparisons_by_stratum for arm in pair}
    proportions = kinds == {SampleProportion}
    chosen = method or ("score" if proportions else "t")
    one_of("method", chosen, ("score", "t", "wald") if proportions else ("t", "wald"))
    sizes = (sum(c.n for c, _ in strata), sum(t.n for _, t in strata))
    name = {"t": "Welch t", "score": "score", "wald": "wald"}[chosen] + (f", {len(strata)} strata" if len(strata) > 1 else "")
    unknown = (math.nan, math.nan)
    if any(not arm.is_finite for pair in comparisons_by_stratum for arm in pair):
        return without_answer("undefined", "a sum is not a finite number", unknown, sizes, name)
    least = 1 if chosen == "score" else 2
    if not strata or any(arm.n < least for pair in strata for arm in pair):
        return without_answer("insufficient_data", f"an arm has fewer than {least} units", unknown, sizes, name)
    if chosen == "score":
        return _compare_by_score(question, strata, sizes, name)
    return welch.compare_strata(question, strata, sizes, name, normal=chosen == "wald")


def non_inferiority(
    control: Arm,
    treatment: Arm,
    *,
    margin: float | None,
    relative: bool = True,
    higher_is_better: bool = True,
    alpha: float = 0.05,
    method: Literal["t", "z"] = "t",
) -> Comparison:
    """Is the treatment not worse than the control by ``margin`` or more: p < alpha shows that it is not.

    One-sided at ``alpha``: with ``higher_is_better`` the null is effect ≤ −margin, and the interval's lower bound above
    −margin says the same as the p-value; else effect ≥ margin and the upper bound. ``margin`` is a share of |control| when
    ``relative``, else in the metric's unit; None stands for 0, a plain one-sided test.

    ``method="t"`` is ``compare`` with that null, so a relative margin gives a relative effect whose standard error allows
    for the control's noise. ``method="z"`` is what Spotify's library does: normal, unpooled, the effect and its interval
    absolute, and margin × |control mean| taken for a known number.

    Raises ValueError for a negative margin and for whatever ``compare`` refuses.

    >>> control, treatment = SampleMean(5000, 10021.0, 25142.0), SampleMean(5000, 9892.0, 24510.0)
    >>> result = non_inferiority(control, treatment, margin=0.05)
    >>> round(result.effect, 4), round(result.ci_lower, 4), result.p_value < 0.001
    (-0.0129, -0.0292, True)
    """
    one_of("method", method, ("t", "z"))
    limit = 0.0 if margin is None else real("margin", margin)
    if limit < 0:
        raise ValueError(f"margin must not be negative, not {margin!r}")
    alternative: Alternative = "greater" if higher_is_better else "less"
    known = method == "z"
    if known and relative and limit and control.n > 0:
        limit *= abs(control.estimate)
    result = compare(
        control,
        treatment,
        difference="relative" if relative and not known else "absolute",
        alternative=alternative,
        alpha=alpha,
        null=(-limit if higher_is_better else limit) if math.isfinite(limit) else 0.0,
        method="wald" if known else "t",
    )
    return replace(result, method=f"non-inferiority, {result.method}")


def compare_paired(
    control: ArrayLike,
    treatment: ArrayLike,
    *,
    binary: bool | None = None,
    clusters: Sequence[object] | NDArray | None = None,
    alpha: float = 0.05,
) -> Comparison:
    """Compare two results of the same cases, such as golden cases under a baseline and a candidate. Shapes (pairs,).

    ``binary``: results are 0 or 1 (None: found out). Without ``clusters``, binary pairs get McNemar's test without
    correction and the interval of Tango (Statistics in Medicine 1998), which agree; other pairs get the paired t-test.
    ``clusters``: a label per pair, such as the task when trials repeat; the mean difference then has the variance between
    clusters (linearised, G / (G − 1)) and G − 1 degrees of freedom, and repeated trials count for what they are worth.

    ``insufficient_data`` below two pairs or five clusters; ``undefined`` for values that are not finite (say what a missing
    output is worth before comparing) and where no pair differs: binary pairs then have an interval, but no p-value.
    Raises ValueError for arrays of different lengths, and values other than 0 and 1 when ``binary`` is True.

    >>> before = [1] * 70 + [0] * 30
    >>> after = [1] * 65 + [0] * 5 + [1] * 18 + [0] * 12
    >>> result = compare_paired(before, after)
    >>> result.effect, round(result.ci_lower, 3), round(result.ci_upper, 3), round(result.p_value, 4)
    (0.13, 0.039, 0.226, 0.0067)
    >>> result.method
    'McNemar, Tango interval'
    """
    between("alpha", alpha, 0, 1)
    before = vector("control", control)
    after = vector("treatment", treatment, length=before.size)
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
    groups = np.arange(before.size) if labels is None else labels
    count = int(groups.max()) + 1
    if labels is not None and count < LEAST_CLUSTERS:
        return without_answer("insufficient_data", f"there are fewer than {LEAST_CLUSTERS} clusters", estimates, sizes, name)
    distance = after - before
    effect = float(distance.mean())
    if np.ptp(distance) <= 1e-12 * max(float(np.abs(distance).max()), float(np.abs(before).max())):
        return without_answer("undefined", "all pairs differ by the same: nothing tells chance from effect", estimates, sizes, name, effect)
    by_cluster = np.bincount(groups, weights=distance - effect, minlength=count)
    standard_error = math.sqrt(count / (count - 1) * float(by_cluster @ by_cluster)) / before.size
    return from_standard_error(question, effect, standard_error, estimates, sizes, name, count - 1)


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
        of the binomial; David and Nagaraja: Order Statistics, 2003, section 7.1). NaN with no values.
        """
        ordered = np.sort(vector("values", values))
        n = ordered.size
        if not n:
            return cls(0, q, math.nan, math.nan, math.nan)
        width = NORMAL_95 * math.sqrt(n * q * (1 - q))
        lower, upper = max(math.floor(n * q - width), 1), min(math.ceil(n * q + width), n)
        return cls(n, q, float(np.quantile(ordered, q)), float(ordered[lower - 1]), float(ordered[upper - 1]))


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
    between("q", q, 0, 1)
    question = Question(difference, "two-sided", alpha)
    c, t = (arm if isinstance(arm, QuantileSummary) else QuantileSummary.from_values(arm, q) for arm in (control, treatment))
    for name, summary in (("control", c), ("treatment", t)):
        if not math.isclose(summary.q, q):
            raise ValueError(f"{name} is a summary of the quantile {summary.q}, not of q = {q}")
    estimates, sizes, method = (c.estimate, t.estimate), (c.n, t.n), "quantile, order statistics"
    if min(sizes) * min(q, 1 - q) < UNITS_BEYOND_QUANTILE - 1e-9:
        needed = math.ceil(UNITS_BEYOND_QUANTILE / min(q, 1 - q) - 1e-9)
        return without_answer("insufficient_data", f"an arm has fewer than the {needed} units that it needs", estimates, sizes, method)
    if not all(map(math.isfinite, (*c, *t))):
        return without_answer("undefined", "a value is not finite", estimates, sizes, method)
    if min(c.standard_error, t.standard_error) <= 0:
        return without_answer("undefined", "ties around a quantile leave its interval no width", estimates, sizes, method)
    if difference == "absolute":
        effect, standard_error = t.estimate - c.estimate, math.hypot(c.standard_error, t.standard_error)
    elif c.estimate == 0:
        return without_answer("undefined", "the control is zero: nothing is relative to it", estimates, sizes, method)
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
    half the smallest positive value of both arms together, the same in both, so a test of equal distributions keeps its
    size; the ratio then depends on that value, and ``method`` says so.

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
        name += f", {zeros} zeros counted as half the smallest positive value"
        stand_in = both[both > 0].min() / 2
        c, t = np.where(c == 0, stand_in, c), np.where(t == 0, stand_in, t)
    arms = [SampleMean.from_values(np.log(values / _geometric_mean(c))) for values in (c, t)]
    logs = welch.compare_strata(question, [(arms[0], arms[1])], sizes, name)
    estimates = (_geometric_mean(c), _geometric_mean(t))
    if logs.status != "ok":
        return replace(logs, effect=math.nan, control_estimate=estimates[0], treatment_estimate=estimates[1])
    ratio, lower, upper = math.exp(logs.effect), math.exp(logs.ci_lower), math.exp(logs.ci_upper)
    return Comparison(ratio, lower, upper, logs.p_value, ratio * logs.standard_error, *estimates, *sizes, name)


class NormalPrior(NamedTuple):
    """What is believed of the effect before the data, in the effect's unit (a share when it is relative)."""

    mean: float
    variance: float


@dataclass(frozen=True, slots=True)
class Posterior:
    """What is believed of the effect after the data: a normal distribution, and what follows from it.

    ``chance_to_win``: the probability that the effect is above zero. ``expected_loss_control``: what is lost on average by
    staying with the control, E[max(effect, 0)]; ``expected_loss_treatment``: by choosing the treatment, E[max(−effect, 0)];
    both in the effect's unit, for a metric of which more is better. ``ci``: the central credible interval.
    """

    chance_to_win: float
    expected_loss_control: float
    expected_loss_treatment: float
    effect: float
    ci: tuple[float, float]
    standard_deviation: float
    status: Status = "ok"
    reason: str = ""

    @property
    def ci_lower(self) -> float:
        """The lower end of the credible interval."""
        return self.ci[0]

    @property
    def ci_upper(self) -> float:
        """The upper end of the credible interval."""
        return self.ci[1]


def bayesian(
    control: Arm,
    treatment: Arm,
    *,
    difference: Difference = "absolute",
    prior: NormalPrior | tuple[float, float] | Mapping[str, float] | None = None,
    alpha: float = 0.05,
) -> Posterior:
    """The posterior of the effect: a normal likelihood around the estimate, times a normal prior (None: flat).

    The estimate and its standard error are those of ``compare`` with unpooled variances, absolute or relative by the delta
    method; the prior is on that same effect, as (mean, variance). Conjugate: precisions add (Gelman et al.: Bayesian Data
    Analysis, section 2.5). ``undefined`` and ``insufficient_data`` as there. Raises ValueError for a variance that is not
    positive.

    >>> result = bayesian(SampleProportion(1000, 900), SampleProportion(1000, 870))
    >>> round(result.chance_to_win, 4), round(result.expected_loss_control, 5), round(result.expected_loss_treatment, 5)
    (0.0176, 9e-05, 0.03009)
    """
    proportion = isinstance(control, SampleProportion)
    result = compare(control, treatment, difference=difference, alpha=alpha, method="wald" if proportion else "t")
    effect, variance = result.effect, result.standard_error**2
    belief = NormalPrior(**prior) if isinstance(prior, Mapping) else None if prior is None else NormalPrior(*prior)
    if belief is not None:
        between("prior variance", belief.variance, 0, math.inf)
        real("prior mean", belief.mean)
    if result.status != "ok":
        return Posterior(math.nan, math.nan, math.nan, math.nan, (math.nan, math.nan), math.nan, result.status, result.reason)
    if belief is not None:
        precision = 1 / variance + 1 / belief.variance
        effect, variance = (effect / variance + belief.mean / belief.variance) / precision, 1 / precision
    deviation = math.sqrt(variance)
    z = effect / deviation
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    width = -float(special.ndtri(alpha / 2)) * deviation
    return Posterior(
        chance_to_win=float(special.ndtr(z)),
        expected_loss_control=deviation * (density + z * float(special.ndtr(z))),
        expected_loss_treatment=deviation * (density - z * float(special.ndtr(-z))),
        effect=effect,
        ci=(effect - width, effect + width),
        standard_deviation=deviation,
    )


def sample_ratio_mismatch(observed: ArrayLike, expected_weights: ArrayLike) -> float:
    """The p-value of Pearson's chi-squared test that units were split by ``expected_weights``. Both of shape (arms,).

    Below .001 (Fabijan et al.: KDD 2019) the assignment is broken and no result of the experiment can be trusted. Weights
    need not add up to 1. NaN when no unit was observed. Raises ValueError for fewer than two arms, negative or not finite
    counts, and weights that are not positive.

    >>> round(sample_ratio_mismatch([821588, 815482], [0.5, 0.5]), 9)
    1.822e-06
    >>> round(sample_ratio_mismatch([905, 95], [90, 10]), 3)
    0.598
    """
    counts = vector("observed", observed)
    weights = vector("expected_weights", expected_weights, length=counts.size)
    if counts.size < 2:
        raise ValueError("observed must have at least two arms")
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise ValueError("observed must be counts: finite and not negative")
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError("expected_weights must be positive")
    total = counts.sum()
    if not total:
        return math.nan
    expected = weights / weights.sum() * total
    return float(special.chdtrc(counts.size - 1, float(((counts - expected) ** 2 / expected).sum())))


def adjust_p_values(p_values: ArrayLike, method: str = "fdr_bh") -> Floats:
    """P-values corrected for being many, shape (n,): compare each with alpha as if it were alone.

    ``method``: a name that ``statsmodels.stats.multitest.multipletests`` takes, "fdr_bh" (Benjamini and Hochberg: JRSS B
    1995), "fdr_by" (any dependence), "holm", "bonferroni" and others. NaN stays NaN and does not count as a test. Raises
    ValueError for another method, and p-values outside 0 to 1.

    >>> adjust_p_values([0.005, 0.06, 0.007, 0.04, 0.01, 0.03]).round(3).tolist()
    [0.02, 0.06, 0.02, 0.048, 0.02, 0.045]
    """
    from statsmodels.stats.multitest import multipletests, multitest_alias

    one_of("method", method, tuple(multitest_alias))
    adjusted = vector("p_values", p_values).copy()
    known = ~np.isnan(adjusted)
    if (adjusted[known] < 0).any() or (adjusted[known] > 1).any():
        raise ValueError("p_values must lie between 0 and 1")
    if known.any():
        adjusted[known] = multipletests(adjusted[known], method=method)[1]
    return adjusted


def compare_many(
    control: pd.DataFrame,
    treatment: pd.DataFrame,
    *,
    difference: Difference = "absolute",
    alternative: Alternative = "two-sided",
    alpha: float = 0.05,
) -> pd.DataFrame:
    """``compare`` of means for many metrics and segments at once, by Welch's t.

    Both frames have the index (metric, segment), each pair once, and the columns n, sum, sum_squares (``sums_by_segment``
    makes them). The result has the rows of either, in the control's order first, and the fields of ``Comparison`` as
    columns; rows without units in an arm are ``insufficient_data``. P-values are not corrected for being many: see
    ``adjust_p_values``. Raises ValueError for missing columns and index entries that stand twice.

    >>> import pandas as pd
    >>> index = pd.MultiIndex.from_tuples([("latency", "eu"), ("latency", "us")], names=["metric", "segment"])
    >>> control = pd.DataFrame({"n": [100, 100], "sum": [500.0, 500.0], "sum_squares": [2600.0, 2600.0]}, index)
    >>> treatment = pd.DataFrame({"n": [100, 1], "sum": [530.0, 5.0], "sum_squares": [2930.0, 25.0]}, index)
    >>> compare_many(control, treatment)[["effect", "p_value", "status"]].round(3)  # doctest: +NORMALIZE_WHITESPACE
                     effect  p_value             status
    metric  segment
    latency eu          0.3    0.046                 ok
            us          NaN      NaN  insufficient_data
    """
    import pandas as pd

    question = Question(difference, alternative, alpha)
    columns = ["n", "sum", "sum_squares"]
    for name, frame in (("control", control), ("treatment", treatment)):
        missing = [column for column in columns if column not in frame.columns]
        if missing:
            raise ValueError(f"{name} has no column {', '.join(missing)}")
        if frame.index.has_duplicates:
            raise ValueError(f"{name} has index entries that stand twice, such as {frame.index[frame.index.duplicated()][0]!r}")
    index = control.index if control.index.equals(treatment.index) else control.index.union(treatment.index, sort=False)
    sums = [frame.reindex(index)[columns].to_numpy(dtype=np.float64).T for frame in (control, treatment)]
    return pd.DataFrame(welch.compare_rows(question, sums[0], sums[1]), index=index)


def sums_by_segment(values: pd.DataFrame, segments: Sequence[object] | NDArray | pd.Series) -> pd.DataFrame:
    """The sums that ``compare_many`` takes, from one row per unit: ``values`` has a column per metric, NaN where unknown.

    ``segments``: one label per row, of any type; rows without one (None, NaN) are left out. The result has the index
    (metric, segment) and the columns n, sum, sum_squares.

    >>> import pandas as pd
    >>> sums_by_segment(pd.DataFrame({"cost": [1.0, 2.0, 4.0]}), ["eu", "us", "us"])  # doctest: +NORMALIZE_WHITESPACE
                     n  sum  sum_squares
    metric segment
    cost   eu       1.0  1.0          1.0
           us       2.0  6.0         20.0
    """
    import pandas as pd

    codes, labels = pd.factorize(pd.Series(segments), sort=True)
    if len(codes) != len(values):
        raise ValueError(f"segments must have {len(values)} labels, one per row, not {len(codes)}")
    sums = {}
    for metric in values.columns:
        column = values[metric].to_numpy(dtype=np.float64)
        used = (codes >= 0) & ~np.isnan(column)
        code, value = (codes, column) if used.all() else (codes[used], column[used])
        sums[metric] = np.stack([np.bincount(code, weights, len(labels)) for weights in (None, value, value * value)], axis=1)
    index = pd.MultiIndex.from_product([list(sums), labels], names=["metric", "segment"])
    table = np.concatenate(list(sums.values())) if sums else np.empty((0, 3))
    return pd.DataFrame(table, index=index, columns=["n", "sum", "sum_squares"])


def _usable_strata(strata: Sequence[tuple[Arm, Arm]]) -> list[tuple[Arm, Arm]]:
    """The strata in which both arms have units; ValueError for arms that are not what they must be."""
    arms = [arm for pair in strata for arm in pair]
    kinds = {type(arm) for arm in arms}
    if len(kinds) > 1 or not all(isinstance(arm, SampleMean | SampleProportion | SampleRatio | AdjustedMean) for arm in arms):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"control and treatment must be two sums of one kind, such as SampleMean, not {names}")
    for arm in arms:
        if arm.n < 0:
            raise ValueError(f"n must not be negative: {arm}")
        if isinstance(arm, SampleProportion) and (arm.successes < 0 or arm.successes > arm.n):
            raise ValueError(f"successes must lie between 0 and n: {arm}")
    return list(strata) if len(strata) == 1 else [(c, t) for c, t in strata if c.n > 0 and t.n > 0]


def _compare_by_score(question: Question, strata: Sequence[tuple[Arm, Arm]], sizes: tuple[float, float], name: str) -> Comparison:
    pairs = [(c, t) for c, t in strata if isinstance(c, SampleProportion) and isinstance(t, SampleProportion)]
    counts = np.array([[c.successes, c.n, t.successes, t.n] for c, t in pairs], dtype=np.float64).T
    weights = counts[1] * counts[3] / (counts[1] + counts[3])
    shares = score_test.TwoShares(counts[0], counts[1], counts[2], counts[3], weights / weights.sum())
    control, treatment = float(shares.weights @ shares.control), float(shares.weights @ shares.treatment)
    estimates, relative = (control, treatment), question.difference == "relative"
    if relative and control == 0:
        return without_answer("undefined", "the control is zero: nothing is relative to it", estimates, sizes, name)
    z = question.critical_value()
    null = _null_within_reach(question.null, relative)
    unpooled = welch.compare_strata(question, strata, sizes, name, normal=True).standard_error
    if relative:
        effect = treatment / control - 1
        lower, upper = (bound - 1 for bound in score_test.ratio_interval(shares, effect + 1, z))
        statistic = shares.ratio_statistic(1 + null)
    else:
        effect = treatment - control
        lower, upper = score_test.difference_interval(shares, effect, z)
        statistic = shares.difference_statistic(null)
    result = Comparison(effect, *question.bounds(lower, upper), question.p_value(statistic), unpooled, *estimates, *sizes, name)
    if null == 0 and not shares.pooled_variance:
        return replace(result, p_value=math.nan, status="undefined", reason="all units of both arms have the same outcome")
    return result


def _null_within_reach(null: float, relative: bool) -> float:
    lowest, highest = (-1.0, math.inf) if relative else (-1.0, 1.0)
    return between("null", null, lowest, highest)


def _mcnemar(
    question: Question, before: Floats, after: Floats, estimates: tuple[float, float], sizes: tuple[float, float], name: str
) -> Comparison:
    n = before.size
    gained, lost = float(((before == 0) & (after == 1)).sum()), float(((before == 1) & (after == 0)).sum())
    effect = (gained - lost) / n
    lower, upper = score_test.paired_interval(gained, lost, n, question.critical_value())
    standard_error = math.sqrt(max(gained + lost - (gained - lost) ** 2 / n, 0.0)) / n
    if gained + lost == 0:
        reason = "no pair differs: there is an interval, but no test"
        return Comparison(effect, lower, upper, math.nan, math.nan, *estimates, *sizes, name, "undefined", reason)
    p_value = question.p_value(score_test.paired_statistic(gained, lost, n, 0.0))
    return Comparison(effect, lower, upper, p_value, standard_error, *estimates, *sizes, name)


def _cluster_numbers(clusters: Sequence[object] | NDArray, length: int) -> NDArray[np.intp]:
    """Labels of any hashable kind as numbers from 0; ValueError when they are not one per pair."""
    if len(clusters) != length:
        raise ValueError(f"clusters must have {length} labels, one per pair, not {len(clusters)}")
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in clusters], dtype=np.intp)


def _geometric_mean(values: Floats) -> float:
    return math.exp(float(np.log(values).mean()))
