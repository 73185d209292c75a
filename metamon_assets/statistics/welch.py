"""Welch's t-test from sums: two means whose arms have their own variances, one comparison over strata or many at once.

The numbers behind ``significance.compare``, ``stratified`` and ``compare_many``, whose docstrings say what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from metamon_assets.statistics.comparison import Comparison, Question, from_standard_error, without_answer
from metamon_assets.statistics.samples import ROUNDING, ROUNDING_PER_UNIT, AdjustedMean, Arm

Floats = NDArray[np.float64]

TOO_FEW = "an arm has fewer than 2 units"
CONTRADICTION = "the sums are not finite or contradict each other, or a denominator is zero"
NO_VARIATION = "the values do not vary, or no more than their sums are rounded: nothing tells chance from effect"
ZERO_CONTROL = "the control is zero: nothing is relative to it"
FEW_OUTCOMES = "shares with few outcomes: compare them as SampleProportion, this test rejects too often here"
ZERO_TREATMENT = "the treatment is zero in every unit: a relative difference of −1 has no standard error"


def compare_strata(
    question: Question, strata: Sequence[tuple[Arm, Arm]], sizes: tuple[float, float], name: str, *, normal: bool = False
) -> Comparison:
    """Welch's t-test over strata, each weighted by n_control n_treatment / (n_control + n_treatment); one weight cancels.

    ``normal``: a normal quantile in place of Student's. Every arm has at least one unit; those without a variance, and sums
    that no data have, are ``undefined``.
    """
    weights = [c.n * t.n / (c.n + t.n) for c, t in strata]
    total = sum(weights)
    weights = [weight / total for weight in weights]
    rows = [_moments(c, t) for c, t in strata]
    control, treatment, base, unadjusted = (sum(w * row[column] for w, row in zip(weights, rows, strict=True)) for column in range(4))
    estimates, effect, relative = (control, treatment), treatment - control, question.difference == "relative"
    if any(not all(map(math.isfinite, row)) for row in rows):
        return without_answer("undefined", CONTRADICTION, estimates, sizes, name)
    if any(min(row.control_variance, row.treatment_variance) < -row.rounding for row in rows):
        return without_answer("undefined", CONTRADICTION, estimates, sizes, name)
    if relative and base == 0:
        return without_answer("undefined", ZERO_CONTROL, estimates, sizes, name)
    effect = effect / abs(base) if relative else effect
    variance = _combined(weights, rows)
    if not variance > sum(w * w * row.rounding for w, row in zip(weights, rows, strict=True)):
        return without_answer("undefined", NO_VARIATION, estimates, sizes, name, effect)
    dof = math.inf if normal else _satterthwaite(strata, rows, weights, variance)
    error = math.sqrt(variance)
    if relative:
        error = math.sqrt(_combined(weights, [_moments(c, t, unadjusted / base) for c, t in strata])) / abs(base)
        if not error:
            return without_answer("undefined", ZERO_TREATMENT, estimates, sizes, name, effect)
    return from_standard_error(question, effect, error, estimates, sizes, name, dof)


def compare_rows(question: Question, control: Floats, treatment: Floats) -> dict[str, NDArray]:
    """The fields of a ``Comparison``, each of shape (rows,), from n, sum and sum_squares of both arms, each of shape (3, rows)."""
    n_c, n_t = control[0], treatment[0]
    relative = question.difference == "relative"
    with np.errstate(all="ignore"):
        mean_c, part_c, rounding_c = _mean_and_variance(*control)
        mean_t, part_t, rounding_t = _mean_and_variance(*treatment)
        possible = np.isfinite(part_c) & np.isfinite(part_t) & (part_c >= -rounding_c) & (part_t >= -rounding_t)
        part_c, part_t = np.maximum(part_c, 0), np.maximum(part_t, 0)
        effect, variance = mean_t - mean_c, part_c + part_t
        varies = variance > rounding_c + rounding_t
        share_c, share_t = part_c / variance, part_t / variance
        dof = 1 / (share_c**2 / (n_c - 1) + share_t**2 / (n_t - 1))
        error = np.sqrt(variance)
        if relative:
            effect = effect / np.abs(mean_c)
            error = np.hypot(np.sqrt(part_t), np.sqrt(part_c) * (mean_t / mean_c)) / np.abs(mean_c)
        p_value = question.p_values((effect - question.null) / error, dof)
        width = -special.stdtrit(dof, question.tail) * error
    lower, upper = question.bounds(-1.0, 1.0)
    reason = np.select(
        [(n_c < 2) | (n_t < 2), ~possible, relative & (mean_c == 0), ~varies, error == 0],
        [TOO_FEW, CONTRADICTION, ZERO_CONTROL, NO_VARIATION, ZERO_TREATMENT],
        default="",
    )
    known = reason == ""
    few = known & _few_outcomes(control, treatment)
    answers = {
        "effect": effect,
        "ci_lower": effect + lower * width,
        "ci_upper": effect + upper * width,
        "p_value": p_value,
        "standard_error": error,
    }
    return {
        **{name: np.where(known, values, math.nan) for name, values in answers.items()},
        "control_estimate": np.where(reason == TOO_FEW, math.nan, mean_c),
        "treatment_estimate": np.where(reason == TOO_FEW, math.nan, mean_t),
        "n_control": n_c,
        "n_treatment": n_t,
        "method": np.full(effect.shape, "Welch t"),
        "status": np.select([known, reason == TOO_FEW], ["ok", "insufficient_data"], default="undefined"),
        "reason": np.where(few, FEW_OUTCOMES, reason),
    }


def _few_outcomes(control: Floats, treatment: Floats) -> NDArray[np.bool_]:
    """Where the values can only be zeros and ones, and an arm has fewer than ten of either: Welch's t rejects too often there."""
    binary = (control[1] == control[2]) & (treatment[1] == treatment[2])
    fewest = np.min([control[1], control[0] - control[1], treatment[1], treatment[0] - treatment[1]], axis=0)
    return binary & (fewest < 10)


class _Moments(NamedTuple):
    """One stratum for the t-test: estimates (adjusted and not), the variances of both means, and what of them may be rounding."""

    control: float
    treatment: float
    base: float
    unadjusted: float
    control_variance: float
    treatment_variance: float
    rounding: float


def _moments(control: Arm, treatment: Arm, scale: float = 1.0) -> _Moments:
    """``scale`` multiplies the control's value, but not its adjustment: what the delta method of a relative effect asks for."""
    if isinstance(control, AdjustedMean) and isinstance(treatment, AdjustedMean):
        theta = (control + treatment).theta
        return _Moments(
            control.estimate - theta * control.pre_sum / control.n,
            treatment.estimate - theta * treatment.pre_sum / treatment.n,
            control.estimate,
            treatment.estimate,
            control.adjusted_variance(theta, scale) / control.n,
            treatment.adjusted_variance(theta) / treatment.n,
            control.adjusted_rounding(theta) / control.n + treatment.adjusted_rounding(theta) / treatment.n,
        )
    assert not isinstance(control, AdjustedMean)
    assert not isinstance(treatment, AdjustedMean)
    c, t = control.estimate, treatment.estimate
    rounding = control.rounding / control.n + treatment.rounding / treatment.n
    return _Moments(c, t, c, t, scale * scale * control.variance / control.n, treatment.variance / treatment.n, rounding)


def _combined(weights: Sequence[float], rows: Sequence[_Moments]) -> float:
    """The variance of the weighted difference; an arm's that is negative by rounding counts as none."""
    return sum(w * w * (max(row.control_variance, 0.0) + max(row.treatment_variance, 0.0)) for w, row in zip(weights, rows, strict=True))


def _satterthwaite(strata: Sequence[tuple[Arm, Arm]], rows: Sequence[_Moments], weights: Sequence[float], variance: float) -> float:
    """Degrees of freedom of the absolute difference (Satterthwaite: Biometrics Bulletin 1946, 2, 110), from shares of its variance."""
    parts = 0.0
    for w, row, (c, t) in zip(weights, rows, strata, strict=True):
        share_c, share_t = w * w * row.control_variance / variance, w * w * row.treatment_variance / variance
        parts += share_c * share_c / (c.n - 1) + share_t * share_t / (t.n - 1)
    return 1 / parts


def _mean_and_variance(n: Floats, total: Floats, sum_squares: Floats) -> tuple[Floats, Floats, Floats]:
    """The mean, its variance, and how much of that may be rounding: ``SampleMean``'s, row by row."""
    units = n * (n - 1)
    return total / n, (sum_squares - total * (total / n)) / units, np.maximum(ROUNDING, ROUNDING_PER_UNIT * n) * sum_squares / units
