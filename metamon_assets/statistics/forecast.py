"""Forecasts of a metric's next values from its own past: daily volume, tokens or cost one and two weeks ahead, for example.

Exponential smoothing runs over the history once with many parameters side by side. Each set of parameters forecasts from
many past times (origins) as well as from now, always from what was known there. Their errors at the past origins say how
much each one counts in the mean of all, and the errors of that mean say how wide the interval is.

What a metric would have been without an intervention stands in ``causal``; whether a value that has arrived is unusual
stands in ``anomaly``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from metamon_assets.statistics import arguments

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

HISTORY = 2500  # values; older ones are not looked at
ORIGINS = 40  # past origins at most; one season apart, or several short ones, where the history is long enough
LEVEL, TREND, SEASON = (0.01, 0.04, 0.15, 0.5), (0.0, 0.2), (0.03, 0.1, 0.3)  # smoothing parameters: how fast each one learns
CARRY_OVER = (0.0, 0.6)  # how much of a deviation is left one step later
DAMPING = 0.95  # how much of a trend is left one step later
CYCLE = {7: (364, 21), 24: (168, 24)}  # by season: a longer cycle of whole seasons (year, week), and how far its level is smoothed
# Intervals aim at this share of the misses that the level allows: the time ahead may be unlike the time behind. Chosen on daily
# counts of commits to public repositories, where holidays made plain intervals miss by five points more than on drawn series.
MISSES = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """The next values, each array of shape (horizon,): point forecast, bounds of the interval, and how they came about.

    With status ``insufficient_data`` or ``undefined`` the bounds are NaN, and ``reason`` says why.
    """

    mean: Array
    lower: Array
    upper: Array
    method: str
    status: arguments.Status = "ok"
    reason: str = ""


def forecast(values: ArrayLike, *, season: int, horizon: int, level: float = 0.8) -> Forecast:
    """The next ``horizon`` values of a series, each with an interval that holds it with probability ``level``.

    ``values``: shape (n,), oldest first, evenly spaced; NaN is a missing value, also at the end. ``season``: values per
    cycle (7: days of a week, 24: hours of a day, 1: none). The result is in the unit of the values.

    Method: additive Holt–Winters smoothing with damped trend and autocorrelated errors (De Livera, Hyndman, Snyder, JASA
    106, 2011, section 2, without their Box–Cox transform) for a grid of parameters, combined by past errors (Bates,
    Granger, Operational Research Quarterly 20, 1969). Outliers are drawn in first (as Gelper, Fried, Croux, Journal of
    Forecasting 29, 2010). With two years of days, or two weeks of hours, the level's course in the cycles before is
    followed as far as it came again so far. A series without a negative value is smoothed as logarithms: seasons and
    errors multiply, the point forecast is a median, and neither it nor a bound is below zero. Intervals come from errors
    at past origins, step by step: adaptive conformal inference (Gibbs, Candès, NeurIPS 2021).

    What it cannot do: follow a straight line without noise to its end. Trends are damped, since a level that has moved once
    must not run away; of a growth of 1 % a day without a break, a third to a half is missing two weeks ahead, and the
    interval does not know. Beyond a ``level`` of about .98 there are too few past errors to tell a wider interval.

    Fewer than three seasons or twelve known values: ``insufficient_data``, the last season again, bounds NaN. Values that
    are all the same, or a history that was forecast without error: ``undefined``, bounds NaN, since nothing tells a width.
    An infinite value: ``undefined``, all NaN. At most the last 2,500 values are used.

    Raises ValueError when ``values`` is not a sequence of numbers, ``season`` or ``horizon`` not a whole number of at
    least 1, or ``level`` not between 0 and 1.

    >>> week = [100, 110, 105, 108, 95, 40, 30]
    >>> noise = [(i * 37) % 11 - 5 for i in range(70)]
    >>> result = forecast([week[i % 7] + noise[i] for i in range(70)], season=7, horizon=7)
    >>> [round(value / 10) for value in result.mean]
    [10, 11, 10, 11, 9, 4, 3]
    >>> bool((result.lower < result.mean).all() and (result.mean < result.upper).all())
    True
    """
    series = arguments.vector("values", values)
    season = arguments.whole("season", season, 1)
    horizon = arguments.whole("horizon", horizon, 1)
    level = arguments.between("level", level, 0, 1)
    if np.isinf(series).any():
        return _without_interval(np.full(horizon, np.nan), "none", "undefined", "a value is infinite")
    series = series[-HISTORY:]
    known = np.flatnonzero(np.isfinite(series))
    needed = max(3 * season, 12)
    if len(known) < needed:
        reason = f"{len(known)} known values, {needed} are needed: three seasons, and twelve in any case"
        return _without_interval(_naive(series, season, horizon), "seasonal naive", "insufficient_data", reason)
    if (series[known] == series[known[0]]).all():
        reason = "all values are the same: nothing tells how far the next ones may lie apart"
        return _without_interval(np.full(horizon, series[known[0]]), "constant", "undefined", reason)
    return _smoothed(series[known[0] :], season, horizon, level)


def _without_interval(mean: Array, method: str, status: arguments.Status, reason: str) -> Forecast:
    return Forecast(mean, np.full(len(mean), np.nan), np.full(len(mean), np.nan), method, status, reason)


def _naive(series: Array, season: int, horizon: int) -> Array:
    """The last season again; the last known value where that is missing, or NaN when nothing is known."""
    known = series[np.isfinite(series)]
    if known.size == 0:
        return np.full(horizon, np.nan)
    last = series[-season:] if len(series) >= season else known[-1:]
    return np.resize(np.where(np.isfinite(last), last, known[-1]), horizon)


def _smoothed(series: Array, season: int, horizon: int, level: float) -> Forecast:
    scale = _Scale.of(series)
    past = _Past.of(scale.forward(series), season, horizon)
    pooled = _pooled(_exponential_smoothing(past) + _recurring_course(past), past)
    middle = np.clip(pooled[-1], scale.lowest, scale.highest)
    judged = slice(len(pooled) // 4, -1)  # at the first origins there was little to forecast from
    errors = (past.actual - pooled)[judged]
    method = f"pooled exponential smoothing of {'values' if scale.shift is None else 'logarithms'}"
    if np.isnan(errors).all():
        reason = "too many of the last values are missing: no forecast from the past can be compared with what came"
        return _without_interval(scale.backward(middle), method, "insufficient_data", reason)
    if np.nanmax(np.abs(errors)) < 1e-9 * (np.ptp(past.history) or 1):
        reason = "every forecast from the past was exact: nothing tells how far the next values may lie apart"
        return _without_interval(scale.backward(middle), method, "undefined", reason)
    width = _width(errors, _share_aimed_at(errors, past.origins[judged], level))
    return Forecast(scale.backward(middle), scale.backward(middle - width), scale.backward(middle + width), method)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Logarithms of what is never negative, shifted when some of it is near zero (None: the values as they are).

    Forecasts stay between ``lowest``, a value of zero, and ``highest``, ten times the largest: exponentials run away.
    """

    shift: float | None
    lowest: float = -np.inf
    highest: float = np.inf

    @classmethod
    def of(cls, series: Array) -> _Scale:
        smallest, median = float(np.nanmin(series)), float(np.nanmedian(series))
        if smallest < 0:
            return cls(None)
        highest = float(np.log(np.nanmax(series)) + np.log(10))
        if smallest > 0.2 * median:
            return cls(0.0, highest=highest)
        shift = 0.5 * median if median > 0 else float(np.nanmean(series))  # small counts, closed days: zero is not far from one
        return cls(shift, float(np.log(shift)), highest)

    def forward(self, values: Array) -> Array:
        return values if self.shift is None else np.log(values + self.shift)

    def backward(self, scaled: Array) -> Array:
        if self.shift is None:
            return scaled
        # Zero is zero: by way of the logarithm it would be some 1e-15, and a bound above every zero that comes.
        above = np.exp(np.minimum(scaled, self.highest)) - self.shift
        return np.where(scaled > self.lowest, np.maximum(above, 0), 0.0)


@dataclass(frozen=True, slots=True)
class _Past:
    """A history without gaps and outliers, and the origins to forecast from; the last origin is now.

    An origin is the number of values that are known there. ``actual``: what came after, (origins, horizon), NaN where it
    is missing or still to come.
    """

    history: Array
    season: int
    origins: Counts
    actual: Array

    @classmethod
    def of(cls, series: Array, season: int, horizon: int) -> _Past:
        n, first = len(series), max(2 * season, 8)
        apart = int(np.clip((n - first) // 12, 1, season * -(-5 // season)))  # whole seasons, and at least five values
        origins = n - apart * np.arange(min(ORIGINS, (n - first) // apart), -1, -1)
        actual = np.append(series, np.full(horizon, np.nan))[origins[:, None] + np.arange(horizon)]
        return cls(_without_outliers(_filled(series, season), season), season, origins, actual)


def _filled(series: Array, season: int) -> Array:
    """Missing values are the median of the nearest four of the same phase, or lie on a line between their neighbours."""
    missing = np.isnan(series)
    if not missing.any():
        return series
    places = np.arange(len(series))
    filled = np.where(missing, np.interp(places, places[~missing], series[~missing]), series)
    around = np.stack([_shifted(series, k * season) for k in (-2, -1, 1, 2)])
    phase = missing & np.isfinite(around).any(axis=0)
    filled[phase] = np.nanmedian(around[:, phase], axis=0)
    return filled


def _without_outliers(history: Array, season: int) -> Array:
    """Values are drawn in to 2.5 robust standard deviations from the median of their phase in the six seasons before.

    What is compared is the distance from the median of the last season, so that a new level is soon no outlier. Each
    value is judged by earlier ones only; the standard deviation is that of the whole history.
    """
    window = max(season, 5)
    start = np.full(window - 1, np.median(history[:window]))
    distance = history - np.median(sliding_window_view(np.append(start, history), window), axis=1)
    before = np.stack([_shifted(distance, k * season) for k in range(1, 7)])
    before[0, :season] = distance[:season]
    surprise = distance - np.nanmedian(before, axis=0)
    bound = 2.5 * 1.4826 * np.median(np.abs(surprise[season:]))
    return history - surprise + np.clip(surprise, -bound, bound) if bound > 0 else history


def _shifted(series: Array, by: int) -> Array:
    """``series[t - by]`` at t, NaN where that lies outside."""
    places = np.arange(len(series)) - by
    inside = (places >= 0) & (places < len(series))
    return np.where(inside, series[np.where(inside, places, 0)], np.nan)


def _exponential_smoothing(past: _Past) -> Array:
    """Forecasts of additive Holt–Winters smoothing with every combination of parameters: (combinations, origins, horizon)."""
    season, steps = past.season, np.arange(past.actual.shape[1])
    grid = np.meshgrid(LEVEL, TREND, SEASON if season > 1 else (0.0,), CARRY_OVER, indexing="ij")
    alpha, beta, gamma, rho = (axis.ravel() for axis in grid)
    damped, carried = np.cumsum(DAMPING ** (steps + 1)), rho[:, None] ** (steps + 1)
    start = max(0, int(past.origins[0]) - max(60 * season, 300))  # enough to forget how it started
    history = past.history[start:]
    seasons = min(4, (int(past.origins[0]) - start) // season)
    first = history[: seasons * season].reshape(seasons, season)
    level, trend, deviation = np.full(len(alpha), first.mean()), np.zeros(len(alpha)), np.zeros(len(alpha))
    profile = np.repeat(np.median(first - first.mean(axis=1, keepdims=True), axis=0)[:, None], len(alpha), axis=1)
    result = np.empty((len(alpha), *past.actual.shape))
    place = {int(origin) - start: i for i, origin in enumerate(past.origins)}
    for t in range(len(history) + 1):
        if t in place:
            seasonal = profile[(t + steps) % season].T
            result[:, place[t]] = level[:, None] + damped * trend[:, None] + seasonal + carried * deviation[:, None]
        if t == len(history):
            break
        trend = DAMPING * trend
        before, deviation = rho * deviation, history[t] - level - trend - profile[t % season]
        error = deviation - before
        level = level + trend + alpha * error
        trend = trend + alpha * beta * error
        profile[t % season] += gamma * (1 - alpha) * error
    return result


def _recurring_course(past: _Past) -> Array | float:
    """How far the level is expected to move as it did in the up to three cycles before, (origins, horizon).

    That move times its regression coefficient in the whole history, once a season, shrunk towards zero as if a fifth of a
    cycle had shown none. Zero where there are less than two cycles, and for a season without a longer cycle.
    """
    cycle, window = CYCLE.get(past.season, (0, 0))
    n, horizon = len(past.history), past.actual.shape[1]
    if cycle == 0 or n < 2 * cycle + horizon + 2 * window:
        return 0.0
    rows = np.arange(cycle + window, n - horizon - window, past.season)
    moved = _course(past.history, rows, horizon, window)
    before = _past_course(past.history, rows, horizon, cycle, window)
    energy = float(np.sum(before**2))
    coefficient = float(np.sum(before * moved)) / (energy * (1 + 0.2 * cycle / past.season / len(rows)) + 1e-300)
    return np.clip(coefficient, 0, 1) * _past_course(past.history, past.origins, horizon, cycle, window)


def _past_course(history: Array, origins: Counts, horizon: int, cycle: int, window: int) -> Array:
    """The mean of the last three cycles' courses at these origins, of those that are known; zero without any."""
    total, count = np.zeros((len(origins), horizon)), np.zeros((len(origins), 1))
    for ago in (cycle, 2 * cycle, 3 * cycle):
        known = (origins - ago >= window) & (ago >= horizon + window)
        total[known] += _course(history, origins[known] - ago, horizon, window)
        count += known[:, None]
    return total / np.maximum(count, 1)


def _course(history: Array, origins: Counts, horizon: int, window: int) -> Array:
    """The mean of ``window`` values around each of the next ``horizon`` ones, less that of the last ``window`` ones."""
    mean = np.append(np.full(window, np.nan), sliding_window_view(history, window).mean(axis=1))  # before index t
    around = origins[:, None] + np.arange(horizon) + window // 2 + 1
    return mean[around] - mean[origins][:, None]


def _pooled(paths: Array, past: _Past) -> Array:
    """The weighted mean of ``paths`` (forecasters, origins, horizon) at each origin, by their errors known there.

    A weight is the mean absolute error to the power of -20: forecasters that are equally good share, others hardly count.
    An error loses half of its influence in sixteen origins.
    """
    origins, horizon = past.actual.shape
    errors, targets = np.abs(paths - past.actual), past.origins[:, None] + np.arange(horizon)
    result = np.empty((origins, horizon))
    for i, origin in enumerate(past.origins):
        age = i - np.arange(i)
        weight = np.where((targets[:i] < origin) & np.isfinite(past.actual[:i]), 0.5 ** (age[:, None] / 16), 0)
        total = (np.where(weight > 0, errors[:, :i], 0) * weight).sum(axis=(1, 2))
        smallest = max(total.min(), 1e-9 * total.max())
        share = (np.maximum(total, smallest) / smallest) ** -20 if smallest > 0 else np.ones(len(total))
        result[i] = share @ paths[:, i] / share.sum()
    return result


def _share_aimed_at(errors: Array, origins: Counts, level: float) -> float:
    """The share of past errors that an interval has to hold for ``level`` of the next ones to be held.

    It starts from ``MISSES``. At each past origin the interval that could be told there is compared with what came, and the
    share goes up by a tenth of the misses that were too many, or down: adaptive conformal inference (Gibbs, Candès,
    NeurIPS 2021, equation 2).
    """
    wanted = share = 1 - MISSES * (1 - level)
    targets = origins[:, None] + np.arange(errors.shape[1])
    for i in range(6, len(origins)):
        before = np.where(targets[:i] < origins[i], errors[:i], np.nan)
        came = np.isfinite(errors[i])
        if came.any() and np.isfinite(before).any():
            missed = np.mean(np.abs(errors[i]) > _width(before, share), where=came)
            share = float(np.clip(share + 0.1 * (missed - (1 - wanted)), wanted / 2, 1 - (1 - wanted) / 5))
    return share


def _width(errors: Array, share: float) -> Array:
    """Half the width that holds this share of errors at past origins (origins, horizon; NaN: not known), by step.

    A step's own mean size, leant on that of all steps, times the quantile of all errors in units of it.
    """
    size = np.abs(errors)
    known = np.isfinite(size)
    count, overall = known.sum(axis=0), size[known].mean()
    usual = (np.where(known, size, 0).sum(axis=0) + 10 * overall) / (count + 10)
    ratio = (size / np.maximum(usual, 1e-300))[known]
    last = np.flatnonzero(count)[-1] + 1
    beyond = np.sqrt(np.maximum(np.arange(1, len(count) + 1) / last, 1))  # no error is known so far ahead: as a random walk
    return usual * beyond * (np.quantile(ratio, share) or ratio.mean())
