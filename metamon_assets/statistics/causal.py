"""What a change did to a daily metric when there was no experiment: an interrupted time series.

Here belongs the estimate of one change at a known day, from the days before it and, where there are any, from series
that the change cannot have touched (controls). Experiments with units in two arms belong in ``significance.py``; a
change whose day is unknown belongs in ``trend.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metamon_assets.statistics.arguments import Status, between, vector, whole
from metamon_assets.statistics.mixture import TMixture

Array = NDArray[np.float64]

SPARE_DAYS = 10  # days before the change beyond one for each coefficient: with fewer, the noise is a guess
AUTOCORRELATIONS = (np.arange(20) + 0.5) / 20  # phi of stationary noise
SMOOTHING_WEIGHTS = np.arange(1, 11) / 10  # w of a local level; 1 is a random walk
PRIOR_ALONE = (0.4, 0.5, 0.1)  # probabilities of stationary noise, a local level, a local level with a slope
PRIOR_BESIDE_CONTROLS = (0.85, 0.12, 0.03)  # controls follow the drift that they share with the metric
ROUNDING = 1e-13  # noise below this share of the largest value is rounding
COLLINEAR = 1e-6  # a control adds nothing when the other columns leave less than this share of it


@dataclass(frozen=True, slots=True, eq=False)
class Impact:
    """The lift of a metric after a change, against what it would have been without.

    ``effect``, its interval and ``standard_error`` are a mean per day, in the unit of the values. ``cumulative`` and its
    interval are their sum over the ``n_after`` days that were compared; ``n_before`` days were learnt from. ``counterfactual``
    has one value for each day from the change on, NaN where it is unknown. Numbers are NaN unless ``status`` is "ok".
    """

    effect: float
    ci_lower: float
    ci_upper: float
    p_value: float
    cumulative: float
    cumulative_ci: tuple[float, float]
    counterfactual: Array
    method: str
    standard_error: float
    n_before: int
    n_after: int
    status: Status = "ok"
    reason: str = ""


def impact(
    values: ArrayLike,
    intervention: int,
    *,
    controls: ArrayLike | None = None,
    season: int = 7,
    alpha: float = 0.05,
) -> Impact:
    """The mean lift per day after a change, with its ``1 - alpha`` interval and a two-sided p-value.

    ``values`` has shape (n,): one value per day, in order, NaN for a missing day. ``intervention`` is the 0-based index of
    the first day after the change. ``controls`` has shape (n,) or (n, k): series of the same days that the change has not
    touched. ``season`` is the length of the repeating pattern in days, 1 for none.

    A regression on the days before the change, with a mean for each day of the season and a slope for each control,
    predicts the days after it; the effect is the mean of the values minus the predictions. Nothing is learnt from
    the days after the change, so the lift may grow or fade.

    The noise is of one of three kinds: a stationary AR(1), 0 <= phi < 1; a local level, which is a random walk plus white
    noise with smoothing weight 0 < w <= 1, a ratio of variances w² / (1 - w) (Muth, JASA 55, 1960); or a local level with a
    slope, which is normal around zero. Neither phi nor w is estimated. Each is laid on a grid, flat a priori, and the models
    are weighted by prior times restricted likelihood, the marginal one under flat priors of the coefficients and the log
    variance (Harville, Biometrika 61, 1974). Without controls the kinds have prior probabilities of .4, .5 and .1, beside
    controls .85, .12 and .03. In each model the lift has a t distribution around the best linear unbiased prediction
    (Goldberger, JASA 57, 1962), with the joint covariance of the days. The effect is the mean of the mixture of
    these distributions, the interval lies between its quantiles, and the p-value is twice its smaller tail at zero.

    A control is left out when it is constant before the change or follows from the others and the season; ``method``
    tells. Days are left out when the metric or a control is missing, or when their day of the season does not occur before
    the change.

    ``status`` is "insufficient_data" with fewer than ``season + k + 10`` days to learn from, and without a day to compare
    (also when ``intervention`` is n, on the day of the change itself); "undefined" when a number is infinite or
    when season and controls leave no noise before the change, as with constant values.

    The work grows with the cube of the days: about 10 ms for 70 days, a quarter of a second for a year.

    Raises ValueError for an argument of the wrong shape or type, for an ``intervention`` outside 0..n, a ``season``
    below 1, and an ``alpha`` that is not between 0 and 1.

    >>> rng = np.random.default_rng(1)
    >>> control = 50 + rng.normal(0, 3, 70)
    >>> requests = 100 + 2 * control + rng.normal(0, 1, 70)
    >>> requests[56:] += 5
    >>> result = impact(requests, 56, controls=control)
    >>> print(f"{result.effect:.1f} [{result.ci_lower:.1f}, {result.ci_upper:.1f}] per day, {result.cumulative:.0f} in all")
    4.7 [4.0, 5.4] per day, 65 in all
    """
    metric = vector("values", values)
    regressors = _controls(controls, metric.size)
    start = whole("intervention", intervention, 0)
    if start > metric.size:
        raise ValueError(f"intervention must be at most {metric.size}, the number of values, not {intervention!r}")
    season = whole("season", season, 1)
    alpha = between("alpha", alpha, 0, 1)

    phase = np.arange(metric.size) % season
    usable = np.isfinite(metric) & np.isfinite(regressors).all(axis=1)
    usable &= np.isin(phase, phase[:start][usable[:start]])
    before, after = np.flatnonzero(usable[:start]), start + np.flatnonzero(usable[start:])
    blank = _blank(metric.size - start, before.size, after.size)
    needed = season + regressors.shape[1] + SPARE_DAYS
    if np.isinf(metric).any() or np.isinf(regressors).any():
        return replace(blank, status="undefined", reason="a value or a control is infinite")
    if before.size < needed:
        reason = f"{before.size} complete days before the change, at least {needed} are needed"
        return replace(blank, status="insufficient_data", reason=reason)
    if not after.size:
        return replace(blank, status="insufficient_data", reason="no complete day after the change")

    design, kept = _design(phase, regressors, before)
    centre = metric[before].mean()
    scale = float(np.abs(metric[before] - centre).max()) or 1.0
    response = (metric - centre) / scale
    if _noise(response[before], design[before]) <= ROUNDING * np.abs(metric[before]).max() / scale:
        return replace(blank, status="undefined", reason="the values before the change have no noise to compare with")

    lift, counterfactual = _lift(response, design, before, after, start, PRIOR_BESIDE_CONTROLS if kept else PRIOR_ALONE)
    lower, upper = lift.quantile(alpha / 2) * scale, lift.quantile(1 - alpha / 2) * scale
    return replace(
        blank,
        effect=lift.mean * scale,
        ci_lower=lower,
        ci_upper=upper,
        p_value=lift.p_value(),
        cumulative=lift.mean * scale * after.size,
        cumulative_ci=(lower * after.size, upper * after.size),
        counterfactual=centre + counterfactual * scale,
        standard_error=lift.standard_deviation * scale,
        method=_method(kept, regressors.shape[1]),
    )


def _controls(controls: ArrayLike | None, days: int) -> Array:
    """The controls with shape (n, k), k = 0 without any."""
    if controls is None:
        return np.empty((days, 0))
    try:
        array = np.asarray(controls, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"controls must be numbers of shape (n,) or (n, k): {error}") from error
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim != 2 or array.shape[0] != days:
        raise ValueError(f"controls must have shape ({days},) or ({days}, k), as there are {days} values, not {np.shape(controls)}")
    return array


def _method(kept: list[int], given: int) -> str:
    """The name of the method; with controls also how many were used, and the positions of those left out."""
    name = "forecast from before the change, AR(1) or local-level noise"
    if not given:
        return name
    left_out = ", ".join(str(position) for position in range(given) if position not in kept)
    return f"{name}, {len(kept)} of {given} controls" + (f" (constant or implied by the others: {left_out})" if left_out else "")


def _blank(days_after: int, n_before: int, n_after: int) -> Impact:
    """The result before anything is estimated."""
    nan = float("nan")
    return Impact(nan, nan, nan, nan, nan, (nan, nan), np.full(days_after, nan), _method([], 0), nan, n_before, n_after)


def _design(phase: NDArray[np.int64], controls: Array, before: NDArray[np.int64]) -> tuple[Array, list[int]]:
    """A column for each day of the season that occurs before the change and for each control that adds to the others.

    Shape (n, p), and the positions of the controls that were kept. Rows are NaN where a day cannot be predicted.
    """
    seasons = np.unique(phase[before])
    design = (phase[:, np.newaxis] == seasons).astype(np.float64)
    design[~np.isin(phase, seasons)] = np.nan
    kept = []
    for position, control in enumerate(controls.T):
        column = control - control[before].mean()
        spread = np.abs(column[before]).max()
        if spread <= ROUNDING * np.abs(control[before]).max():
            continue
        if _noise(column[before] / spread, design[before]) > COLLINEAR:
            design = np.column_stack([design, column / spread])
            kept.append(position)
    return design, kept


def _noise(response: Array, design: Array) -> float:
    """The root mean square of what a least-squares fit leaves."""
    coefficients = np.linalg.lstsq(design, response)[0]
    return float(np.sqrt(np.mean((response - design @ coefficients) ** 2)))


def _lift(
    response: Array, design: Array, before: NDArray[np.int64], after: NDArray[np.int64], start: int, prior: tuple[float, float, float]
) -> tuple[TMixture, Array]:
    """The mean lift under each model of the noise, weighted by prior times restricted likelihood, and every day's prediction."""
    days = np.concatenate([before, np.arange(start, response.size)])
    average = np.isin(days[before.size :], after) / after.size
    models = [_predict(response[before], design[before], design[start:], average, noise) for noise in _noises(days)]
    likelihoods, predictions, scales = (np.array(part) for part in zip(*models, strict=True))
    sizes = np.array([AUTOCORRELATIONS.size, SMOOTHING_WEIGHTS.size, SMOOTHING_WEIGHTS.size])
    weights = np.repeat(np.array(prior) / sizes, sizes) * np.exp(likelihoods - likelihoods.max())
    weights /= weights.sum()
    locations = response[after].mean() - predictions[:, after - start].mean(axis=1)
    return TMixture(weights, locations, scales, before.size - design.shape[1]), weights @ predictions


def _noises(days: NDArray[np.int64]) -> Iterator[Array]:
    """The covariances of the noise on some days, up to a factor: kind by kind, in the order of the grids."""
    gaps = np.abs(np.subtract.outer(days, days))
    for autocorrelation in AUTOCORRELATIONS:
        yield (autocorrelation ** np.arange(days[-1] - days[0] + 1))[gaps]
    elapsed = days - days[0] + 1.0
    walk = np.minimum.outer(elapsed, elapsed)
    # A slope with the standard deviation of the white noise per day: far from zero, so that it is free, and yet proper.
    for slope in (0.0, np.outer(elapsed, elapsed)):
        for weight in SMOOTHING_WEIGHTS:
            yield (1 - weight) * (gaps == 0) + weight**2 * walk + slope


def _predict(response: Array, design: Array, ahead: Array, average: Array, noise: Array) -> tuple[float, Array, float]:
    """The log restricted likelihood, the prediction of every day ahead, and the standard error of their weighted average.

    ``noise`` is the covariance of all days, those of ``response`` first, up to a factor that is estimated.
    """
    size, coefficients = design.shape
    factor = np.linalg.cholesky(noise[:size, :size])
    white = np.linalg.solve(factor, np.column_stack([design, response, noise[:size, size:]]))
    columns, target, carried = white[:, :coefficients], white[:, coefficients], white[:, coefficients + 1 :]
    orthogonal, triangle = np.linalg.qr(columns)
    estimate = np.linalg.solve(triangle, orthogonal.T @ target)
    residual = target - columns @ estimate
    degrees = size - coefficients
    variance = residual @ residual / degrees
    determinants = np.log(np.diag(factor)).sum() + np.log(np.abs(np.diag(triangle))).sum()
    # What the coefficients add to the error of the average: the design ahead that the noise before it does not carry.
    averaged = average > 0
    through = np.linalg.solve(triangle.T, average[averaged] @ ahead[averaged] - carried @ average @ columns)
    spread = average @ noise[size:, size:] @ average - np.sum((carried @ average) ** 2) + through @ through
    likelihood = -determinants - degrees / 2 * np.log(variance)
    return likelihood, ahead @ estimate + residual @ carried, float(np.sqrt(variance * spread))
