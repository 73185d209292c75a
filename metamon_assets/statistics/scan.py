"""Past windows in which a series moved: a scan over all windows of a few lengths, each held against what came before and around it.

A history that lies complete can be searched backwards, which finds what is too weak for a detector that sees one value at a time:
an agent with six runs an hour that fails a little more often for two days. Here belongs the search in one series of counts and
sums; which series there are, what a window means and which slice is behind it belong to who calls this. ``anomaly`` judges a
series as it comes.

The method: for each window the likelihood ratio of "its own rate" against "the same rate as its surroundings" (the scan statistic
of Kulldorff, Communications in Statistics 1997, in time), as a signed square root. It is taken against everything before the
window, against the median day before it and against everything outside of it, and the smallest counts: what is bad only beside
better days, earlier or later, is no incident. How much the rate wanders by itself is measured outside of it, by the differences
of neighbouring windows and days (a median, which other moves hardly disturb), and makes the statistic smaller by as much, and by
more where only a few days tell. The p-value of the best window is multiplied by the number of windows that are not nearly alike,
``LOOKS`` for each step of time, found by simulation (metamon_assets_tests/statistics/test_scan.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Kind = Literal["share", "score", "volume"]

LEAST_RUNS = 10.0  # in a window
LEAST_REFERENCE = 50.0  # runs before a window
LEARNING = 1 / 7  # of the history comes before the first window, two days of fourteen
DAY_STEPS = 24  # the longest windows whose wandering can be measured in a short history, in steps
MEDIAN_EFFICIENCY = 0.4  # of a variance that is estimated by a median of squares
LAGS = (1, 2, 3)  # days that are compared to see what days differ by
MEDIAN_OF_SQUARES = 0.4549  # of a standard normal variable
LOOKS = 4.0  # windows per step that count as different


@dataclass(frozen=True, slots=True)
class Series:
    """A series by steps of time, shape (T,) each: runs (or, for a volume, what was expected), and the sum over them.

    ``share``: ``total`` counts the runs that have some property. ``score``: ``total`` is the sum of normal scores. ``volume``:
    ``total`` counts runs, ``n`` says how many the hour and weekday lead one to expect, up to a common factor.
    ``sign``: 1 when a rise is bad, −1 when a fall is, 0 when both are of interest. ``least``: smaller moves are of no interest;
    a difference of shares (which must also be a fourth of the rarer outcome), of mean scores, or the logarithm of a factor.
    ``alike``: how many runs come together, as those of a conversation do, where that is known: the variance is larger by as much.
    ``of_days``: the factor of the variance of days at least, where the caller knows it: an ``n`` chosen after the runs hides some of it.
    """

    kind: Kind
    n: Floats
    total: Floats
    sign: int = 1
    least: float = 0.0
    alike: float = 1.0
    of_days: float = 1.0


@dataclass(frozen=True, slots=True)
class Window:
    """The steps ``start <= t < end`` in which a series moved most, how far (a normal deviate), and its p-value for the whole series."""

    start: int
    end: int
    z: float
    p_value: float


def durations(steps: int) -> list[int]:
    """The lengths of windows that are looked at, up to half of a history: each a third or a half longer than the one before."""
    lengths = [1, 2, 3, 4, 6, 8, 12, 16, 24, 36, 48, 72, 96, 144, 192, 288, 384, 576, 768, 1152]
    return [length for length in lengths if length <= steps / 2]


def best_window(series: Series) -> Window | None:
    """The window that stands out most, or None where no window has enough runs before and in it."""
    steps = len(series.n)
    first = max(1, math.ceil(LEARNING * steps))
    n, total = cumulated(series.n), cumulated(series.total)
    best: Window | None = None
    usual = median_days(n, total)
    for length in durations(steps):
        starts = np.arange(first, steps - length + 1)
        if not starts.size:
            continue
        z = deviates(series.kind, n, total, starts, starts + length, series.least, usual)
        z = np.where(np.isfinite(z), np.abs(z) if series.sign == 0 else z * series.sign, -math.inf)
        if not z.max() > (0.0 if best is None else best.z):
            continue
        start = int(starts[np.argmax(z)])
        factor = wander_around(series, start, start + length)
        deviate = float(z.max()) / math.sqrt(factor)
        if best is None or deviate > best.z:
            p_value = LOOKS * steps * (2 if series.sign == 0 else 1) * _tail(deviate, factor, steps)
            best = Window(start, start + length, deviate, min(p_value, 1.0))
    return best


def wander_around(series: Series, start: int, end: int) -> float:
    """The factor by which the variance of a window exceeds that of chance, from the series without its move.

    What days differ by, the hours of a day share, so a shorter window has its part of it.
    """
    calm = series.total.copy()
    before, inside = series.n[:start].sum(), series.n[start:end].sum()
    if before and inside:
        move = series.total[start:end].sum() / inside - series.total[:start].sum() / before
        calm[start:end] -= series.n[start:end] * move
    n, total = cumulated(series.n), cumulated(calm)
    length = min(end - start, DAY_STEPS)
    day = max(wander(series.kind, n, total, DAY_STEPS), series.of_days)
    return max(wander(series.kind, n, total, length), 1 + (day - 1) * length / DAY_STEPS, series.alike)


def deviates(
    kind: Kind,
    n: Floats,
    total: Floats,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    least: float = 0.0,
    usual: Floats | None = None,
) -> Floats:
    """How far windows are from what came before, from the median day before, and from all around them, whichever is nearest.

    −inf where runs are too few, 0 where the move is smaller than ``least``. ``n`` and ``total`` are cumulated, shape (T + 1,), ``usual``
    is what ``median_days`` says of them; the result has the shape of ``starts``.
    """
    inside = n[ends] - n[starts], total[ends] - total[starts]
    before = n[starts] - n[0], total[starts] - total[0]
    around = before[0] + n[-1] - n[ends], before[1] + total[-1] - total[ends]
    usual = (median_days(n, total) if usual is None else usual)[starts // DAY_STEPS]
    with np.errstate(divide="ignore", invalid="ignore"):
        usual = np.where(np.isfinite(usual), usual, before[1] / before[0])
        others = (before, (before[0], usual * before[0]), around)
        near, middle, far = (_deviate(kind, *inside, *other) for other in others)
        large = _large(kind, inside[1] / inside[0], before[1] / before[0], least)
    alike = (np.sign(near) == np.sign(far)) & (np.sign(near) == np.sign(middle))
    smallest = np.sign(near) * np.minimum(np.minimum(np.abs(near), np.abs(middle)), np.abs(far))
    enough = (inside[0] >= LEAST_RUNS) & (before[0] >= LEAST_REFERENCE)
    return np.where(enough, np.where(alike & large, np.nan_to_num(smallest, nan=0.0), 0.0), -math.inf)


def split_deviates(kind: Kind, n: Floats, total: Floats, start: int, end: int) -> Floats:
    """How far the parts before and after each step within ``start < t < end`` differ, shape (end − start − 1,): where a course breaks.

    ``n`` and ``total`` are cumulated. NaN where a part has no runs.
    """
    at = np.arange(start + 1, end)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _deviate(kind, n[end] - n[at], total[end] - total[at], n[at] - n[start], total[at] - total[start])


def step_beside_drift(kind: Kind, n: Floats, total: Floats, start: int, at: int, end: int) -> float:
    """How far the rate steps at ``at`` beyond what a steady drift over ``start <= t < end`` explains: a normal deviate.

    0 where it cannot be told. ``n`` and ``total`` are cumulated. Any two parts of a drift differ; a step adds to the straight line.
    """
    runs, sums = np.diff(n[start : end + 1]), np.diff(total[start : end + 1])
    if not runs.sum() > 0:
        return 0.0
    rate = sums.sum() / runs.sum()
    time, step = (values - np.average(values, weights=runs) for values in (np.arange(len(runs)), np.arange(start, end) >= at))
    spread = float((runs * time**2).sum())
    step -= time * (float((runs * time * step).sum()) / spread if spread > 0 else 0.0)
    variance = {"share": rate * (1 - rate), "score": 1.0, "volume": rate}[kind] * float((runs * step**2).sum())
    return float((step * (sums - rate * runs)).sum()) / math.sqrt(variance) if variance > 1e-9 else 0.0


def wander(kind: Kind, n: Floats, total: Floats, length: int) -> float:
    """By how much neighbouring windows of a length differ more than chance alone makes them: a factor of the variance, at least 1.

    Windows of a day are whole days, each beside those of the next three; shorter ones begin at every step.
    """
    days = length == DAY_STEPS
    pairs = [np.arange(0, len(n) - (lag + 1) * length, length if days else 1) for lag in (LAGS if days else (1,))]
    left = np.concatenate(pairs)
    right = np.concatenate([starts + lag * length for starts, lag in zip(pairs, LAGS, strict=False)])
    left_n, right_n = n[left + length] - n[left], n[right + length] - n[right]
    filled = (left_n > 0) & (right_n > 0)
    if filled.sum() < 8 or n[-1] <= 0:
        return 1.0
    left, right, left_n, right_n = left[filled], right[filled], left_n[filled], right_n[filled]
    mean = total[-1] / n[-1]
    variance = {"share": mean * (1 - mean), "score": 1.0, "volume": mean}[kind]
    if variance <= 0:
        return 1.0
    difference = (total[left + length] - total[left]) / left_n - (total[right + length] - total[right]) / right_n
    squares = difference**2 / (variance * (1 / left_n + 1 / right_n))
    return max(1.0, float(np.median(squares)) / MEDIAN_OF_SQUARES)


def tail(z: float) -> float:
    """The probability that a standard normal variable is above ``z``.

    >>> round(tail(1.96), 4)
    0.025
    """
    return float(special.ndtr(-z))


def threshold(p_value: float, steps: int) -> float:
    """The deviate that a window of a history of so many steps must reach for a p-value."""
    return -float(special.ndtri(min(p_value / LOOKS / max(steps, 1), 0.5)))


def normal_scores(values: Floats) -> Floats:
    """The values' ranks as quantiles of the normal distribution (van der Waerden 1952), ties at their middle rank; NaN stays NaN.

    Whatever the tails of a measure, its scores have means that behave. Shape (n,) to (n,).
    """
    from scipy.stats import rankdata

    known = np.isfinite(values)
    scores = np.full(len(values), math.nan)
    if known.any():
        scores[known] = special.ndtri((rankdata(values[known]) - 0.5) / known.sum())
    return scores


def _tail(z: float, factor: float, steps: int) -> float:
    """The probability of a deviate whose variance was in part estimated: Student's t, by Satterthwaite's degrees of freedom."""
    if factor <= 1:
        return tail(z)
    freedom = MEDIAN_EFFICIENCY * max(steps / DAY_STEPS - 1, 1) * (factor / (factor - 1)) ** 2
    return float(special.stdtr(freedom, -z))


def _deviate(kind: Kind, n: Floats, total: Floats, other_n: Floats, other_total: Floats) -> Floats:
    """The signed root of twice the likelihood ratio that two parts have one rate."""
    rate, other = total / n, other_total / other_n
    if kind == "score":
        return (rate - other) / np.sqrt(1 / n + 1 / other_n)
    pooled = (total + other_total) / (n + other_n)
    gain = special.xlogy(total, rate / pooled) + special.xlogy(other_total, other / pooled)
    if kind == "share":
        gain += special.xlogy(n - total, (1 - rate) / (1 - pooled)) + special.xlogy(other_n - other_total, (1 - other) / (1 - pooled))
    return np.sign(rate - other) * np.sqrt(2 * np.maximum(gain, 0.0))


def _large(kind: Kind, rate: Floats, other: Floats, least: float) -> NDArray[np.bool_]:
    if kind == "volume":
        return np.abs(np.log(rate.clip(1e-12) / other.clip(1e-12))) >= least
    enough = np.abs(rate - other) >= least
    return enough & (np.abs(rate - other) >= np.minimum(other, 1 - other) / 4) if kind == "share" else enough


def median_days(n: Floats, total: Floats) -> Floats:
    """The median of the rates of the whole days before each day, shape (days + 1,); NaN where there is none."""
    edges = np.arange(0, len(n), DAY_STEPS)
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = np.diff(total[edges]) / np.diff(n[edges])
    medians = [math.nan]
    for day in range(1, len(rates) + 1):
        known = rates[:day][np.isfinite(rates[:day])]
        medians.append(float(np.median(known)) if known.size else math.nan)
    return np.array(medians)


def cumulated(values: Floats) -> Floats:
    """Sums of the steps before each step, shape (T,) to (T + 1,): what ``deviates`` and ``wander`` take.

    >>> cumulated(np.array([1.0, 2.0])).tolist()
    [0.0, 1.0, 3.0]
    """
    return np.concatenate([[0.0], np.cumsum(values)])
