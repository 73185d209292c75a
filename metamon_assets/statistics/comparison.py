"""The result of comparing a treatment with a control, and how an estimate with a standard error becomes one.

Which estimate, which standard error and which method fits what data is told in ``significance`` and ``sequential``;
here is only what they share: the ``Comparison``, the arguments that every comparison takes, and the t interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from metamon_assets.statistics.arguments import Status, between, one_of, real

Difference = Literal["absolute", "relative"]
Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the data say about treatment − control.

    ``effect``, ``ci_lower``, ``ci_upper`` and ``standard_error`` are in the metric's unit when the difference is absolute,
    and shares of |control| (0.02 is 2 %) when it is relative; for geometric ratios, see ``compare_heavy_tailed``. A
    one-sided interval has an infinite bound. Interval and p-value agree; after a score test they follow from the variance
    where the null holds, and ``standard_error`` from the data. ``control_estimate`` and ``treatment_estimate`` are in the metric's unit,
    ``n_control`` and ``n_treatment`` count units. Where ``status`` is not ``ok``, ``reason`` says why, and figures that
    cannot be known are NaN; a status of ``ok`` may have a reason too, such as strata that were left out.
    """

    effect: float
    ci_lower: float
    ci_upper: float
    p_value: float
    standard_error: float
    control_estimate: float
    treatment_estimate: float
    n_control: float
    n_treatment: float
    method: str
    status: Status = "ok"
    reason: str = ""

    @property
    def z(self) -> float:
        """The normal deviate that has this p-value, with the sign of the effect: what group-sequential bounds are compared with.

        (Effect over standard error is not, after a score test.) One-sided p-values give a one-sided deviate.
        """
        if math.isinf(self.ci_upper) and not math.isinf(self.ci_lower):
            return -float(special.ndtri(self.p_value))
        if math.isinf(self.ci_lower) and not math.isinf(self.ci_upper):
            return float(special.ndtri(self.p_value))
        return math.copysign(float(special.ndtri(self.p_value / 2)), self.effect)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the data, checked: how the arms differ, against which null, how sure."""

    difference: Difference
    alternative: Alternative
    alpha: float
    null: float = 0.0

    def __post_init__(self) -> None:
        one_of("difference", self.difference, ("absolute", "relative"))
        one_of("alternative", self.alternative, ("two-sided", "greater", "less"))
        object.__setattr__(self, "alpha", between("alpha", self.alpha, 0, 1 if self.alternative == "two-sided" else 0.5))
        object.__setattr__(self, "null", real("null", self.null))

    @property
    def tail(self) -> float:
        """The share of alpha that lies beyond each bound of the interval."""
        return self.alpha / 2 if self.alternative == "two-sided" else self.alpha

    def p_value(self, statistic: float, dof: float = math.inf) -> float:
        """The p-value of a statistic that is t-distributed under the null (normal when ``dof`` is infinite)."""
        return float(self.p_values(np.array(statistic), np.array(dof)))

    def p_values(self, statistics: NDArray[np.float64], dof: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same for many."""
        if self.alternative == "two-sided":
            return 2 * special.stdtr(dof, -np.abs(statistics))
        return special.stdtr(dof, -statistics if self.alternative == "greater" else statistics)

    def critical_value(self, dof: float = math.inf) -> float:
        """The quantile that the interval is made of, positive for every alpha below one half."""
        return -float(special.stdtrit(dof, self.tail))

    def bounds(self, lower: float, upper: float) -> tuple[float, float]:
        """The two bounds, or one of them where the question is one-sided."""
        return (-math.inf if self.alternative == "less" else lower, math.inf if self.alternative == "greater" else upper)


def from_standard_error(
    question: Question,
    effect: float,
    standard_error: float,
    estimates: tuple[float, float],
    sizes: tuple[float, float],
    method: str,
    dof: float = math.inf,
) -> Comparison:
    """The comparison of an estimate that is t-distributed around the truth: effect ± quantile × standard error.

    ``estimates`` and ``sizes`` are those of control and treatment. A standard error of zero or NaN is ``undefined``.
    """
    if not (math.isfinite(effect) and math.isfinite(standard_error) and dof > 0):
        return without_answer("undefined", "the sums give no finite estimate and variance", estimates, sizes, method)
    if standard_error <= 0:
        return without_answer("undefined", "the values do not vary: nothing tells chance from effect", estimates, sizes, method, effect)
    width = question.critical_value(dof) * standard_error
    lower, upper = question.bounds(effect - width, effect + width)
    p_value = question.p_value((effect - question.null) / standard_error, dof)
    return Comparison(effect, lower, upper, p_value, standard_error, *estimates, *sizes, method)


def without_answer(
    status: Status, reason: str, estimates: tuple[float, float], sizes: tuple[float, float], method: str, effect: float = math.nan
) -> Comparison:
    """A comparison that has no answer, and why: no p-value, no interval."""
    return Comparison(effect, math.nan, math.nan, math.nan, math.nan, *estimates, *sizes, method, status, reason)
