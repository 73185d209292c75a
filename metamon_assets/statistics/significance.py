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
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from metamon_assets.statistics import proportions, welch
from metamon_assets.statistics.arguments import Status, between, flag, one_of, real, vector
from metamon_assets.statistics.comparison import (
    Alternative,
    Comparison,
    Difference,
    Question,
    without_answer,
)
from metamon_assets.statistics.raw_values import QuantileSummary, compare_heavy_tailed, compare_paired, compare_quantile
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
    'the values do not vary, or no more than their sums are rounded: nothing tells chance from effect'
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
    difference divides the combined difference by the control mean with the same weights. Strata in which an arm has too few
    units (below two, one for a score test) are left out, and ``reason`` says how many. For proportions the score test sums
    the strata's scores, each variance times N / (N − 1) as Mantel and Haenszel have it, so that many small strata keep the
    size; with one stratum there is no such factor.

    >>> stage_1 = (SampleProportion(900, 828), SampleProportion(100, 92))  # both .92
    >>> stage_2 = (SampleProportion(500, 425), SampleProportion(500, 425))  # both .85
    >>> result = stratified([stage_1, stage_2])
    >>> round(result.effect, 12), round(result.ci_lower, 4), round(result.ci_upper, 4)
    (0.0, -0.0369, 0.0349)
    """
    question = Question(difference, alternative, alpha, null)
    pairs = _checked_strata(comparisons_by_stratum)
    methods = ("score", "t", "wald") if isinstance(pairs[0][0], SampleProportion) else ("t", "wald")
    chosen = methods[0] if method is None else method
    one_of("method", chosen, methods)
    least = 1 if chosen == "score" else 2
    used = [pair for pair in pairs if min(arm.n for arm in pair) >= least]
    sizes = (sum(c.n for c, _ in used or pairs), sum(t.n for _, t in used or pairs))
    name = {"t": "Welch t", "score": "score", "wald": "wald"}[chosen] + (f", {len(used)} strata" if len(used) > 1 else "")
    unknown = (math.nan, math.nan)
    if any(not arm.is_finite for pair in pairs for arm in pair):
        reason = "a sum is missing or not finite: drop or fill missing values before adding up"
        return without_answer("undefined", reason, unknown, sizes, name)
    if not used:
        return without_answer("insufficient_data", welch.TOO_FEW if least == 2 else "an arm has no units", unknown, sizes, name)
    result = (
        _compare_by_score(question, used, sizes, name)
        if chosen == "score"
        else welch.compare_strata(question, used, sizes, name, normal=chosen == "wald")
    )
    if len(used) < len(pairs) and result.status == "ok":
        return replace(result, reason=f"{len(pairs) - len(used)} of {len(pairs)} strata left out: an arm has too few units there")
    return result


def non_inferiority(
    control: Arm,
    treatment: Arm,
    *,
    margin: float | None,
    relative: bool = True,
    higher_is_better: bool = True,
    alpha: float = 0.05,
    method: Literal["t", "score", "z"] | None = None,
) -> Comparison:
    """Is the treatment not worse than the control by ``margin`` or more: p < alpha shows that it is not.

    One-sided at ``alpha``: with ``higher_is_better`` the null is effect ≤ −margin, and the interval's lower bound above
    −margin says the same as the p-value; else effect ≥ margin and the upper bound. ``margin`` is a share of |control| when
    ``relative``, else in the metric's unit; None stands for 0, a plain one-sided test.

    By default this is ``compare`` with that null: "t" for means, ratios and CUPED, so a relative margin gives a relative
    effect whose standard error allows for the control's noise; "score" for proportions, since "t" lets 10 to 20 % of small
    canaries with rare errors pass that are exactly at the margin. ``method="z"`` is what Spotify's library does: normal,
    unpooled, the effect and its interval absolute, and margin × |control mean| taken for a known number.

    Raises ValueError for a negative margin and for whatever ``compare`` refuses.

    >>> control, treatment = SampleMean(5000, 10021.0, 25142.0), SampleMean(5000, 9892.0, 24510.0)
    >>> result = non_inferiority(control, treatment, margin=0.05)
    >>> round(result.effect, 4), round(result.ci_lower, 4), result.p_value < 0.001
    (-0.0129, -0.0292, True)
    """
    if method is not None:
        one_of("method", method, ("t", "score", "z"))
    limit = 0.0 if margin is None else real("margin", margin)
    if limit < 0 or (flag("relative", relative) and limit >= 1):
        raise ValueError(f"margin must not be negative, and a share below 1 when it is relative (0.02 is 2 %), not {margin!r}")
    higher_is_better = flag("higher_is_better", higher_is_better)
    known = method == "z"
    if known and relative:
        ((checked, _),) = _checked_strata([(control, treatment)])
        known_margin = limit * abs(checked.estimate) if checked.n > 0 else limit
        limit = known_margin if math.isfinite(known_margin) else limit  # else there is no answer, which compare says
    result = compare(
        control,
        treatment,
        difference="relative" if relative and not known else "absolute",
        alternative="greater" if higher_is_better else "less",
        alpha=alpha,
        null=-limit if higher_is_better else limit,
        method="wald" if method == "z" else method,
    )
    return replace(result, method=f"non-inferiority, {result.method}")


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
    belief = None if prior is None else _checked_prior(prior)
    if result.status != "ok":
        return Posterior(math.nan, math.nan, math.nan, math.nan, (math.nan, math.nan), math.nan, result.status, result.reason)
    if belief is not None:
        precision = 1 / variance + 1 / belief.variance
        effect, variance = (effect / variance + belief.mean / belief.variance) / precision, 1 / precision
    deviation = math.sqrt(variance)
    z = effect / deviation
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    width = Question(difference, "two-sided", alpha).critical_value() * deviation
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
        missing = [column for column in columns if column not in getattr(frame, "columns", ())]
        if missing:
            raise ValueError(f"{name} has no column {', '.join(missing)}: sums_by_segment makes them from rows")
        if frame.index.has_duplicates:
            raise ValueError(f"{name} has index entries that stand twice, such as {frame.index[frame.index.duplicated()][0]!r}")
        if (frame["n"] < 0).any():
            raise ValueError(f"{name} has a negative n")
    index = control.index if control.index.equals(treatment.index) else control.index.union(treatment.index, sort=False)
    if len(index) == len(control) + len(treatment) > 0 and len(control) and len(treatment):
        raise ValueError(f"control and treatment have no key in common: {control.index[0]!r}, {treatment.index[0]!r}")
    sums = [frame[columns].astype(np.float64).reindex(index, fill_value=0.0).to_numpy().T for frame in (control, treatment)]
    return pd.DataFrame(welch.compare_rows(question, sums[0], sums[1]), index=index)


def sums_by_segment(values: pd.DataFrame, segments: Sequence[object] | NDArray | pd.Series) -> pd.DataFrame:
    """The sums that ``compare_many`` takes, from one row per unit: ``values`` has a column per metric, NaN where unknown.

    ``segments``: one label per row, of any type, in the order of the rows; rows without one (None, NaN) are left out. The
    result has the index (metric, segment) and the columns n, sum, sum_squares. Raises ValueError when labels are not one per
    row, or are a Series with another index than ``values``.

    >>> import pandas as pd
    >>> sums_by_segment(pd.DataFrame({"cost": [1.0, 2.0, 4.0]}), ["eu", "us", "us"])  # doctest: +NORMALIZE_WHITESPACE
                     n  sum  sum_squares
    metric segment
    cost   eu       1.0  1.0          1.0
           us       2.0  6.0         20.0
    """
    import pandas as pd

    if not isinstance(values, pd.DataFrame) or values.columns.has_duplicates:
        raise ValueError("values must be a DataFrame whose columns, one per metric, have different names")
    if isinstance(segments, str):
        raise ValueError(f"segments must be labels, one per row, such as frame[{segments!r}]")
    if isinstance(segments, pd.Series) and not segments.index.equals(values.index):
        raise ValueError("segments must have the index of values: labels would go to other rows")
    codes, labels = pd.factorize(pd.Series(segments), sort=True)
    if len(codes) != len(values):
        raise ValueError(f"segments must have {len(values)} labels, one per row, not {len(codes)}")
    sums = {}
    for metric in values.columns:
        column = vector(f"values[{metric!r}]", values[metric])
        used = (codes >= 0) & ~np.isnan(column)
        code, value = (codes, column) if used.all() else (codes[used], column[used])
        sums[metric] = np.stack([np.bincount(code, weights, len(labels)) for weights in (None, value, value * value)], axis=1)
    index = pd.MultiIndex.from_product([list(sums), labels], names=["metric", "segment"])
    table = np.concatenate(list(sums.values())) if sums else np.empty((0, 3))
    return pd.DataFrame(table, index=index, columns=["n", "sum", "sum_squares"])


def _checked_strata(strata: Sequence[tuple[Arm, Arm]]) -> list[tuple[Arm, Arm]]:
    """The strata as they are; ValueError when they are not pairs of sums of one kind, or sums that no count can have."""
    pairs = [tuple(pair) if isinstance(pair, Sequence) else (pair,) for pair in strata] if isinstance(strata, Sequence) else []
    arms = [arm for pair in pairs for arm in pair]
    kinds = {type(arm) for arm in arms}
    if not pairs or len(kinds) > 1 or not kinds <= set(get_args(Arm)) or any(len(pair) != 2 for pair in pairs):
        names = ", ".join(sorted(kind.__name__ for kind in kinds)) or repr(strata)
        raise ValueError(f"control and treatment must be two sums of one kind, such as SampleMean (from_values makes one), not {names}")
    for arm in arms:
        if arm.n < 0:
            raise ValueError(f"n must not be negative: {arm}")
        if isinstance(arm, SampleProportion) and (arm.successes < 0 or arm.successes > arm.n):
            raise ValueError(f"successes must lie between 0 and n: {arm}")
    return [(pair[0], pair[1]) for pair in pairs]


def _checked_prior(prior: NormalPrior | tuple[float, float] | Mapping[str, float]) -> NormalPrior:
    try:
        belief = NormalPrior(**prior) if isinstance(prior, Mapping) else NormalPrior(*prior)
    except TypeError as error:
        raise ValueError(f"prior must be a mean and a variance, not {prior!r}") from error
    return NormalPrior(real("prior mean", belief.mean), between("prior variance", belief.variance, 0, math.inf))


def _compare_by_score(question: Question, strata: Sequence[tuple[Arm, Arm]], sizes: tuple[float, float], name: str) -> Comparison:
    pairs = [(c, t) for c, t in strata if isinstance(c, SampleProportion) and isinstance(t, SampleProportion)]
    counts = np.array([[c.successes, c.n, t.successes, t.n] for c, t in pairs], dtype=np.float64).T
    weights = counts[1] * counts[3] / (counts[1] + counts[3])
    shares = proportions.TwoShares(counts[0], counts[1], counts[2], counts[3], weights / weights.sum())
    control, treatment = float(shares.weights @ shares.control), float(shares.weights @ shares.treatment)
    estimates, relative = (control, treatment), question.difference == "relative"
    if relative and control == 0:
        return without_answer("undefined", welch.ZERO_CONTROL, estimates, sizes, name)
    null = between("null", question.null, -1.0, math.inf if relative else 1.0)
    effect = treatment / control - 1 if relative else treatment - control
    if relative:
        lower, upper = (bound - 1 for bound in proportions.ratio_interval(shares, effect + 1, question.critical_value()))
        statistic = shares.ratio_statistic(1 + null)
    else:
        lower, upper = proportions.difference_interval(shares, effect, question.critical_value())
        statistic = shares.difference_statistic(null)
    unpooled = welch.compare_strata(question, strata, sizes, name, normal=True)
    pooled_error = math.sqrt(shares.pooled_variance) / (control if relative else 1.0)
    error = unpooled.standard_error if unpooled.status == "ok" else pooled_error
    result = Comparison(effect, *question.bounds(lower, upper), question.p_value(statistic), error, *estimates, *sizes, name)
    if null == 0 and not pooled_error:
        reason = "all units of both arms have the same outcome: there is an interval, but no test"
        return replace(result, p_value=math.nan, standard_error=math.nan, status="undefined", reason=reason)
    return result
