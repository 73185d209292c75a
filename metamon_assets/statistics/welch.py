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
from metamon_assets.statistics.samples import ROUNDING, AdjustedMean, Arm

Floats = NDArray[np.float64]

TOO_FEW = "an arm has fewer than 2 units"
CONTRADICTION = "the sums are not finite or contradict each other, or a denominator is zero"
NO_VARIATION = "the values do not vary: nothing tells chance from effect"
ZERO_CONTROL = "the control is zero: nothing is relative to it"


def compare_strata(
    question: Question, strata: Sequence[tuple[Arm, Arm]], sizes: tuple[float, float], name: str, *, normal: bool = False
) -> Comparison:
    """Welch's t-test over strata, each weighted by n_control n_treatment / (n_control + n_treatment); one weight cancels.

    ``normal``: a normal quantile in place of Student's. Every arm must have two units.
    """
    weights = [c.n * t.n / (c.n + t.n) for c, t in strata]
    total = sum(weights)
    rows = [_moments(c, t) for c, t in strata]
    control, treatment, base, unadjusted = (
        sum(w * row[column] for w, row in zip(weights, rows, strict=True)) / total for column in range(4)
    )
    estimates, effect = (control, treatment), treatment - control
    if any(not all(map(math.isfinite, row)) or min(row.control_variance, row.treatment_variance) < 0 for row in rows):
        return without_answer("undefined", CONTRADICTION, estimates, sizes, name)
    variance = sum(w**2 * (row.control_variance + row.treatment_variance) for w, row in zip(weights, rows, strict=True)) / total**2
    if variance <= 0:
        return without_answer("undefined", NO_VARIATION, estimates, sizes, name)
    dof = math.inf if normal else _satterthwaite(strata, rows, weights, total, variance)
    if question.difference == "relative":
        if base == 0:
            return without_answer("undefined", ZERO_CONTROL, estimates, sizes, name)
        scaled = [_moments(c, t, unadjusted / base) for c, t in strata]
        variance = sum(w**2 * (row.control_variance + row.treatment_variance) for w, row in zip(weights, scaled, strict=True))
        effect, variance = effect / abs(base), variance / total**2 / base**2
    return from_standard_error(question, effect, math.sqrt(variance), estimates, sizes, name, dof)


def compare_rows(question: Question, control: Floats, treatment: Floats) -> dict[str, NDArray]:
    """The fields of a ``Comparison``, each of shape (rows,), from n, sum and sum_squares of both arms, each of shape (3, rows)."""
    n_c, n_t = np.nan_to_num(control[0]), np.nan_to_num(treatment[0])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        (mean_c, variance_c), (mean_t, variance_t) = _mean_and_variance(*control), _mean_and_variance(*treatment)
        part_c, part_t = variance_c / n_c, variance_t / n_t
        effect, variance = mean_t - mean_c, part_c + part_t
        share_c, share_t = part_c / variance, part_t / variance
        dof = 1 / (share_c**2 / (n_c - 1) + share_t**2 / (n_t - 1))
        if question.difference == "relative":
            effect = effect / np.abs(mean_c)
            variance = (part_t + part_c * (mean_t / mean_c) ** 2) / mean_c**2
        error = np.sqrt(variance)
        p_value = question.p_values((effect - question.null) / error, dof)
        width = -special.stdtrit(dof, question.tail) * error
    lower, upper = question.bounds(-1.0, 1.0)
    reason = np.select(
        [
            (n_c < 2) | (n_t < 2),
            ~(np.isfinite(part_c) & np.isfinite(part_t) & (part_c >= 0) & (part_t >= 0)),
            part_c + part_t == 0,
            (mean_c == 0) & (question.difference == "relative"),
        ],
        [TOO_FEW, CONTRADICTION, NO_VARIATION, ZERO_CONTROL],
        default="",
    )
    known = reason == ""
    answers = {
        "effect": effect,
        "ci_lower": effect + lower * width,
        "ci_upper": effect + upper * width,
        "p_value": p_value,
        "standard_error": error,
    }
    return {
        **{name: np.where(known, values, math.nan) for name, values in answers.items()},
        "control_estimate": mean_c,
        "treatment_estimate": mean_t,
        "n_control": n_c,
        "n_treatment": n_t,
        "method": np.full(effect.shape, "Welch t"),
        "status": np.select([known, reason == TOO_FEW], ["ok", "insufficient_data"], default="undefined"),
        "reason": reason,
    }


class _Moments(NamedTuple):
    """One stratum for the t-test: estimates (adjusted and not), and the variances of both means."""

    control: float
    treatment: float
    base: float
    unadjusted: float
    control_variance: float
    treatment_variance: float


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
        )
    assert not isinstance(control, AdjustedMean)
    assert not isinstance(treatment, AdjustedMean)
    c, t = control.estimate, treatment.estimate
    return _Moments(c, t, c, t, scale**2 * control.variance / control.n, treatment.variance / treatment.n)


def _satterthwaite(
    strata: Sequence[tuple[Arm, Arm]], rows: Sequence[_Moments], weights: Sequence[float], total: float, variance: float
) -> float:
    """Degrees of freedom of the absolute difference (Satterthwaite: Biometrics Bulletin 1946, 2, 110), from shares of its variance."""
    parts = 0.0
    for w, row, (c, t) in zip(weights, rows, strata, strict=True):
        share = (w / total) ** 2 / variance
        parts += (share * row.control_variance) ** 2 / (c.n - 1) + (share * row.treatment_variance) ** 2 / (t.n - 1)
    return 1 / parts


def _mean_and_variance(n: Floats, total: Floats, sum_squares: Floats) -> tuple[Floats, Floats]:
    """As ``SampleMean.estimate`` and ``.variance``, row by row."""
    scatter = sum_squares - total**2 / n
    return total / n, np.where(np.abs(scatter) <= ROUNDING * sum_squares, 0.0, scatter) / (n - 1)
