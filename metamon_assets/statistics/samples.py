"""Sufficient statistics of one arm: sums that SQL computes, that merge by addition, and that every comparison starts from.

One class per kind of metric. ``n`` is always the number of independent units (users, conversations, cases), not of
requests. No test and no interval belongs here, only what the sums say of the arm itself: estimate, variance, covariance.
"""

from __future__ import annotations

import math
import sys
from dataclasses import astuple, dataclass, fields
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metamon_assets.statistics.arguments import real, vector

# A sum of squared deviations is known to this share of the sum of squares, at best and for each unit that was added up.
ROUNDING, ROUNDING_PER_UNIT = 1e-12, 2 * sys.float_info.epsilon


@dataclass(frozen=True, slots=True)
class _Sums:
    n: float

    def __post_init__(self) -> None:
        """Take the sums for floats, whatever the database or NumPy calls them: squares of its integers overflow in silence."""
        for field in fields(self):
            object.__setattr__(self, field.name, real(field.name, getattr(self, field.name), finite=False))

    def __add__(self, other: Self) -> Self:
        """The arm that holds the units of both: exact, associative up to rounding."""
        if type(other) is not type(self):
            return NotImplemented
        return type(self)(*(left + right for left, right in zip(astuple(self), astuple(other), strict=True)))

    @property
    def is_finite(self) -> bool:
        """Whether every sum is a finite number."""
        return all(map(math.isfinite, astuple(self)))


@dataclass(frozen=True, slots=True)
class SampleMean(_Sums):
    """A mean per unit: the number of units, the sum of their values, the sum of the squared values.

    >>> SampleMean.from_values([1.0, 2.0, 3.0])
    SampleMean(n=3.0, sum=6.0, sum_squares=14.0)
    >>> SampleMean(3, 6.0, 14.0) + SampleMean(1, 4.0, 16.0)
    SampleMean(n=4.0, sum=10.0, sum_squares=30.0)
    >>> SampleMean(3, 6.0, 14.0).variance
    1.0
    """

    sum: float
    sum_squares: float

    @classmethod
    def from_values(cls, values: ArrayLike) -> Self:
        """The sums of one value per unit, shape (n,)."""
        array = vector("values", values)
        return cls(array.size, float(array.sum()), _product(array, array))

    @property
    def estimate(self) -> float:
        """The mean."""
        return self.sum / self.n

    @property
    def variance(self) -> float:
        """The variance of one unit's value, with n − 1 in the denominator."""
        return _variance(self.n, self.sum, self.sum_squares)

    @property
    def rounding(self) -> float:
        """How much of ``variance`` may be nothing but the rounding of the sums."""
        return _rounding(self.n, self.sum_squares)


@dataclass(frozen=True, slots=True)
class SampleProportion(_Sums):
    """A share of units: how many there are, and how many of them succeeded.

    >>> SampleProportion(200, 150).estimate, SampleProportion(200, 150).variance
    (0.75, 0.1875)
    """

    successes: float

    @classmethod
    def from_values(cls, values: ArrayLike) -> Self:
        """The sums of one 0 or 1 per unit, shape (n,). Raises ValueError when another value is among them."""
        array = vector("values", values)
        if not np.isin(array, (0.0, 1.0)).all():
            raise ValueError("values must be 0 or 1 for a proportion")
        return cls(array.size, float(array.sum()))

    @property
    def estimate(self) -> float:
        """The share of successes."""
        return self.successes / self.n

    @property
    def variance(self) -> float:
        """p (1 − p), with n in the denominator as GrowthBook has it."""
        return self.estimate * (1 - self.estimate)

    @property
    def rounding(self) -> float:
        """None: counts are exact."""
        return 0.0


@dataclass(frozen=True, slots=True)
class SampleRatio(_Sums):
    """A ratio of two sums over units, such as cost per request with users as units: clustered data in the right way.

    The denominator may be each unit's number of requests: the ratio is then the mean per request, and its variance
    is that between units, whatever the requests of one unit have in common.

    >>> arm = SampleRatio.from_values(numerators=[2.0, 4.0, 9.0], denominators=[1.0, 2.0, 3.0])
    >>> arm == SampleRatio(3, 15.0, 101.0, 6.0, 14.0, 37.0)
    True
    >>> arm.estimate, arm.variance
    (2.5, 0.4375)
    """

    numerator_sum: float
    numerator_sum_squares: float
    denominator_sum: float
    denominator_sum_squares: float
    cross_product: float

    @classmethod
    def from_values(cls, numerators: ArrayLike, denominators: ArrayLike) -> Self:
        """The sums of a numerator and a denominator per unit, both of shape (n,)."""
        top = vector("numerators", numerators)
        bottom = vector("denominators", denominators, length=top.size)
        return cls(top.size, float(top.sum()), _product(top, top), float(bottom.sum()), _product(bottom, bottom), _product(top, bottom))

    @property
    def estimate(self) -> float:
        """The ratio of the sums; NaN where the denominator is zero."""
        return self.numerator_sum / self.denominator_sum if self.denominator_sum else math.nan

    @property
    def variance(self) -> float:
        """n times the ratio's variance by the delta method (Deng, Knoblich, Lu: KDD 2018, equation 4), with n − 1.

        That is the variance of numerator − ratio × denominator over the squared mean denominator.
        """
        ratio, mean = self.estimate, self.denominator_sum / self.n
        numerator = _variance(self.n, self.numerator_sum, self.numerator_sum_squares)
        denominator = _variance(self.n, self.denominator_sum, self.denominator_sum_squares)
        both = _covariance(self.n, self.numerator_sum, self.denominator_sum, self.cross_product)
        return (numerator + ratio * ratio * denominator - 2 * ratio * both) / (mean * mean) if mean else math.nan

    @property
    def rounding(self) -> float:
        """How much of ``variance`` may be nothing but the rounding of the sums."""
        mean = self.denominator_sum / self.n
        squares = self.numerator_sum_squares + self.estimate * self.estimate * self.denominator_sum_squares
        return _rounding(self.n, squares) / (mean * mean) if mean else math.nan


@dataclass(frozen=True, slots=True)
class AdjustedMean(_Sums):
    """A mean per unit beside the same units' value before the experiment (CUPED; Deng, Xu, Kohavi, Walker: WSDM 2013).

    >>> arm = AdjustedMean.from_values(post=[2.0, 3.0, 7.0], pre=[1.0, 2.0, 3.0])
    >>> arm
    AdjustedMean(n=3.0, post_sum=12.0, post_sum_squares=62.0, pre_sum=6.0, pre_sum_squares=14.0, cross_product=29.0)
    >>> arm.theta
    2.5
    """

    post_sum: float
    post_sum_squares: float
    pre_sum: float
    pre_sum_squares: float
    cross_product: float

    @classmethod
    def from_values(cls, post: ArrayLike, pre: ArrayLike) -> Self:
        """The sums of a value during and one before the experiment per unit, both of shape (n,)."""
        after = vector("post", post)
        before = vector("pre", pre, length=after.size)
        return cls(
            after.size, float(after.sum()), _product(after, after), float(before.sum()), _product(before, before), _product(after, before)
        )

    @property
    def estimate(self) -> float:
        """The unadjusted mean."""
        return self.post_sum / self.n

    @property
    def post_variance(self) -> float:
        """The variance of one unit's value, with n − 1."""
        return _variance(self.n, self.post_sum, self.post_sum_squares)

    @property
    def pre_variance(self) -> float:
        """The variance of one unit's earlier value, with n − 1."""
        return _variance(self.n, self.pre_sum, self.pre_sum_squares)

    @property
    def pre_post_covariance(self) -> float:
        """The covariance of the two, with n − 1."""
        return _covariance(self.n, self.post_sum, self.pre_sum, self.cross_product)

    @property
    def theta(self) -> float:
        """The slope of the value on the earlier one; 0 where the earlier one does not vary."""
        earlier = self.pre_variance
        return self.pre_post_covariance / earlier if earlier > _rounding(self.n, self.pre_sum_squares) else 0.0

    def adjusted_variance(self, theta: float, scale: float = 1.0) -> float:
        """The variance of scale × value − theta × earlier value."""
        spread = scale * scale * self.post_variance + theta * theta * self.pre_variance
        return spread - 2 * scale * theta * self.pre_post_covariance

    def adjusted_rounding(self, theta: float) -> float:
        """How much of the adjusted variance may be nothing but rounding."""
        return _rounding(self.n, self.post_sum_squares + theta * theta * self.pre_sum_squares)


Arm: TypeAlias = SampleMean | SampleProportion | SampleRatio | AdjustedMean


def _product(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """The sum of products; infinite where floats do not hold it, which no comparison accepts."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(left @ right)


def _variance(n: float, total: float, sum_squares: float) -> float:
    return (sum_squares - total * (total / n)) / (n - 1) if n > 1 else math.nan


def _covariance(n: float, total_x: float, total_y: float, cross_product: float) -> float:
    return (cross_product - total_x * (total_y / n)) / (n - 1) if n > 1 else math.nan


def _rounding(n: float, sum_squares: float) -> float:
    return max(ROUNDING, ROUNDING_PER_UNIT * n) * sum_squares / (n - 1) if n > 1 else math.nan
