"""Means that rest on a judge, corrected by the labels that people gave to a few: prediction-powered inference.

A judge that scores every trace is precise and biased; labels of a few are unbiased and noisy. Here both become one
estimate. How far judge and labels agree case by case (kappa) belongs elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from metamon_assets.statistics.arguments import Status, between, vector

Floats = NDArray[np.float64]

# With fewer labels the slope of labels on judgements, and so the interval, is guesswork: see benchmarks/calibration.py.
LEAST_LABELS = 10


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval; NaN, and a reason, where ``status`` is not ``ok``."""

    value: float
    ci_lower: float
    ci_upper: float
    standard_error: float
    status: Status = "ok"
    reason: str = ""


def mean(judged_all: ArrayLike, judged_labelled: ArrayLike, labels: ArrayLike, *, alpha: float = 0.05) -> Estimate:
    """The mean of the labels that everything would get, were everything labelled.

    ``judged_all``: the judge's scores of everything (N,); ``judged_labelled`` and ``labels``: its scores of, and people's
    labels for, a random sample (n,), in or beside ``judged_all``. The estimate is mean(labels) + λ (mean(judged_all) −
    mean(judged_labelled)) with λ the slope of labels on scores: λ = 1 is prediction-powered inference (Angelopoulos et al.:
    Science 2023, 382, 669), the fitted λ its power-tuned form (Angelopoulos, Duchi, Zrnic: arXiv:2311.01453), known to
    survey statistics as regression estimation in double sampling (Cochran: Sampling Techniques, 1977, section 12.6). So a
    useless judge costs nothing, and a biased one is corrected. The variance is that of the residuals over n plus λ² times
    that of the scores over N; Student's t with n − 2 degrees of freedom. Labels of 0 and 1 count at least one that the judge
    got wrong.

    ``insufficient_data`` below ten labels; ``undefined`` for values that are not finite, and when neither labels nor
    residuals vary. Raises ValueError for scores and labels of different lengths.

    >>> judged = [0.0, 1.0] * 500
    >>> sample, labels = [0.0, 1.0] * 15, [0.0, 1.0, 0.0, 1.0, 0.0, 0.0] * 5  # people find a third of its passes wrong
    >>> result = mean(judged, sample, labels)
    >>> round(result.value, 3), round(result.ci_lower, 3), round(result.ci_upper, 3)
    (0.333, 0.202, 0.464)
    """
    alpha = between("alpha", alpha, 0, 1)
    everything, truth = vector("judged_all", judged_all), vector("labels", labels)
    sample = vector("judged_labelled", judged_labelled, length=truth.size)
    if truth.size < LEAST_LABELS or everything.size < 2:
        return _unknown("insufficient_data", f"there are fewer than {LEAST_LABELS} labels, or nothing was judged")
    if not all(np.isfinite(values).all() for values in (everything, sample, truth)):
        return _unknown("undefined", "a score or label is missing or not finite")
    with np.errstate(over="ignore", invalid="ignore"):
        value, variance = _regression_estimate(everything, sample, truth)
    if not math.isfinite(value) or not math.isfinite(variance) or variance <= 1e-24 * value * value:
        return _unknown("undefined", "neither labels nor what the judge leaves of them vary, or they are too large")
    standard_error = math.sqrt(variance)
    width = -float(special.stdtrit(truth.size - 2, alpha / 2)) * standard_error
    return Estimate(value, value - width, value + width, standard_error)


def _regression_estimate(everything: Floats, sample: Floats, truth: Floats) -> tuple[float, float]:
    """The estimate and its variance."""
    n, deviation = truth.size, sample - sample.mean()
    spread = float(deviation @ deviation)
    slope = float(deviation @ truth) / spread if spread > 1e-12 * float(sample @ sample) else 0.0
    residuals = truth - truth.mean() - slope * deviation
    squares = float(residuals @ residuals)
    if np.isin(truth, (0.0, 1.0)).all():
        squares = max(squares, 1.0)  # that none of a few was judged wrong does not say that none is
    value = float(truth.mean() + slope * (everything.mean() - sample.mean()))
    return value, squares / (n - 2) / n + slope * slope * float(everything.var(ddof=1)) / everything.size


def _unknown(status: Status, reason: str) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, math.nan, status, reason)
