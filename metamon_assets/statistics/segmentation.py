"""Where a series breaks into segments of another level, slope or spread: the search behind ``trend.change_points``.

Dynamic programming over the cost of every segment, for a handful of models of what a segment is, and the criterion that
says how many segments a series is worth. What a caller needs to know stands in the docstring of ``change_points``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Chosen on simulated series (benchmarks/change_points.py); the scores there hardly move within a factor of 1.5.
SHORTEST_SEGMENT = 5  # shorter ones are outliers
MOST_CHANGES = 8
MOST_CANDIDATES = 200  # places tried at first; in longer series every second, third, … one, and its neighbours afterwards
PERSISTENCES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)  # a wave that lasts longer is a change for who reads it
PRICE_OF_A_PLACE = 3.0  # in units of ln n, beside one for each parameter of a segment; less finds changes in four weeks of waves
SMALLEST_VARIANCE = 0.003  # of the whole series': nobody calls a bend smaller than that a change
ROUNDING = 1e-12
SMALLEST_RSS = 1e-9  # of a series with variance 1: less is rounding
SEASONS = (4, 7, 12, 24)  # of the calendar; waves of other lengths look like persistence
OUTLIER = 5.0  # robust standard deviations from the neighbours


def standardised(y: Floats, magnitude: float) -> Floats | None:
    """With mean 0 and variance 1; None when all values are the same, up to the rounding of figures of that magnitude."""
    if np.ptp(y / magnitude if magnitude else y) <= ROUNDING:
        return None
    y = y / magnitude
    y = y - y.mean()
    return y / np.std(y)


def without_season(y: Floats, places: Integers) -> Floats:
    """The series without the pattern of the length in ``SEASONS`` that explains most, if it explains more than it costs."""
    best, pattern = 0.0, np.zeros(y.size)
    for season in SEASONS:
        if y.size < 4 * season:
            continue
        weights = np.ones(season) if season % 2 else np.r_[0.5, np.ones(season - 1), 0.5]  # a centred mean over one season
        inner = slice(weights.size // 2, y.size - weights.size // 2)
        rest = y[inner] - np.convolve(y, weights / season, "valid")
        rest = rest - np.median(rest)
        reach = 6 * 1.4826 * np.median(np.abs(rest))
        rest = np.clip(rest, -reach, reach) if reach > 0 else rest
        phase = places % season
        counts = np.maximum(np.bincount(phase[inner], minlength=season), 1)
        means = (np.bincount(phase[inner], rest, minlength=season) / counts)[phase]
        before, after = np.var(rest), np.var(rest - means[inner])
        if before == 0:
            continue
        gain = rest.size * math.log(max(float(after / before), ROUNDING)) + (season + 3) * math.log(rest.size)
        if gain < best:
            best, pattern = gain, means - means.mean()
    return y - pattern


def without_outliers(y: Floats) -> Floats:
    """Values far from the median of the seven around them replaced by it (Hampel's filter, with the spread of the 31 around)."""
    median = np.median(sliding_window_view(np.pad(y, 3, mode="reflect"), 7), axis=1)
    off = np.abs(y - median)
    around = min(15, y.size - 1)
    nearby = np.median(sliding_window_view(np.pad(off, around, mode="reflect"), 2 * around + 1), axis=1)
    scale = 1.4826 * np.maximum(nearby, np.median(off))
    scale = np.where(scale > 0, scale, 2.5 * off.mean())  # rare events: only the rarest are outliers (measured: below .08 a day)
    return np.where(off > OUTLIER * scale, median, y)


@dataclass(frozen=True, slots=True)
class _Model:
    """What the segments of a series are: levels or lines, of one variance or each its own, with errors that persist.

    ``ties`` is the share of values that equal the one before: the larger, the less a variance of its own may shrink, for a run
    of zeros in counts of rare events is no quiet segment. ``joined`` lines meet where they change: one line with bends.
    """

    phi: float
    line: bool
    own_variance: bool
    ties: float
    joined: bool = False

    def costs(self, rss: Floats, sizes: Integers) -> Floats:
        """What segments add to the fit."""
        return np.asarray(sizes * np.log(rss / sizes + self._smallest)) if self.own_variance else rss

    def criterion(self, cost: float, changes: int, n: int) -> float:
        """Twice the negative log likelihood of a segmentation, and the price of its parts."""
        fit = cost if self.own_variance else n * math.log(cost / n + self._smallest)
        pieces = 1 if self.joined else changes + 1  # each an autoregression of its own
        parameters = pieces * (1 + self.line + self.own_variance) + changes * self.joined + (not self.own_variance)
        return fit - pieces * math.log(1 - self.phi**2) + (PRICE_OF_A_PLACE * changes + parameters) * math.log(n)

    @property
    def _smallest(self) -> float:
        return max(SMALLEST_VARIANCE, self.ties * self.own_variance) * (1 - self.phi**2)


def best_segmentation(y: Floats, times: Floats, ties: float) -> list[int]:
    """The changes of the segmentation with the smallest criterion, over all models."""
    n = y.size
    step = -(-n // MOST_CANDIDATES)
    grid = np.unique(np.r_[np.arange(0, n, step), n])
    best, changes, winner = math.inf, [], _Model(0, False, False, ties)
    for phi in PERSISTENCES:
        residuals = _Moments(y, times, phi).between(grid)
        for line, own_variance in product((False, True), repeat=2):
            model = _Model(phi, line, own_variance, ties)
            for cuts, cost in _segmentations(residuals[line], grid, model):
                criterion = model.criterion(cost, len(cuts), n)
                if criterion < best:
                    best, changes, winner = criterion, cuts, model
    best, changes = _closer(best, changes, y, times, winner, step)
    if changes and winner.line and not winner.own_variance:
        bends = _moved(changes, y, times, winner.phi)
        if replace(winner, joined=True).criterion(_bent_residuals(y, times, winner.phi, bends), len(bends), n) < best:
            return bends
    return changes


def _closer(best: float, changes: list[int], y: Floats, times: Floats, model: _Model, step: int) -> tuple[float, list[int]]:
    """The same search around the changes that were found, closer and closer, where not every place was tried: criterion, changes."""
    moments, n = _Moments(y, times, model.phi), y.size
    while changes and step > 1:
        reach, step = step, -(-2 * step * len(changes) // MOST_CANDIDATES)
        around = [np.arange(max(change - reach, 1), min(change + reach, n), step) for change in changes]
        grid = np.unique(np.r_[0, np.concatenate(around), changes, n])
        found = _segmentations(moments.between(grid)[model.line], grid, model)
        best, changes = min((model.criterion(cost, len(cuts), n), cuts) for cuts, cost in found)
    return best, changes


def _moved(changes: list[int], y: Floats, times: Floats, phi: float) -> list[int]:
    """The bends of a line, each moved to where the line fits best, in smaller and smaller steps."""
    changes, step = list(changes), max(y.size // 100, 1)
    while True:
        for i, change in enumerate(changes):
            first = (changes[i - 1] if i else 0) + SHORTEST_SEGMENT
            last = (changes[i + 1] if i + 1 < len(changes) else y.size) - SHORTEST_SEGMENT
            tries = [change, *range(max(change - 8 * step, first), min(change + 8 * step, last) + 1, step)]
            costs = [_bent_residuals(y, times, phi, [*changes[:i], place, *changes[i + 1 :]]) for place in tries]
            changes[i] = tries[int(np.argmin(costs))]
        if step == 1:
            return changes
        step = max(step // 3, 1)


def _bent_residuals(y: Floats, times: Floats, phi: float, changes: list[int]) -> float:
    """The residual sum of squares around one line with bends, by generalised least squares."""
    t = times / np.ptp(times)
    bends = np.maximum(t[:, None] - t[changes], 0)
    columns = np.column_stack([np.ones_like(t), t, bends, y])
    whitened = np.vstack([math.sqrt(1 - phi**2) * columns[:1], columns[1:] - phi * columns[:-1]])
    residuals = whitened[:, -1] - whitened[:, :-1] @ np.linalg.lstsq(whitened[:, :-1], whitened[:, -1])[0]
    return max(float(residuals @ residuals), SMALLEST_RSS)


def _segmentations(residuals: Floats, grid: Integers, model: _Model) -> Iterator[tuple[list[int], float]]:
    """For each number of changes the best ones in the grid, and their cost.

    ``residuals`` [j, i] are those of the segment from ``grid[i]`` to ``grid[j]``.
    """
    sizes = grid[:, None] - grid[None, :]
    costs = np.where(sizes >= SHORTEST_SEGMENT, model.costs(residuals, np.maximum(sizes, 1)), np.inf)
    most = min(MOST_CHANGES, int(grid[-1]) // SHORTEST_SEGMENT - 1)
    return ((grid[places].tolist(), cost) for places, cost in _partitions(costs, most))


def _partitions(costs: Floats, most: int) -> Iterator[tuple[list[int], float]]:
    """For 0, 1, … ``most`` changes the cheapest way from the first place of the grid to the last: its places, and its cost.

    ``costs`` [j, i] is the cost of the segment from place i to place j.
    """
    every, reached = np.arange(costs.shape[0]), costs[:, 0]
    yield [], float(reached[-1])
    origins: list[Integers] = []
    for _ in range(most):
        through = costs + reached
        origins.append(np.argmin(through, axis=1))
        reached = through[every, origins[-1]]
        if not np.isfinite(reached[-1]):
            return
        places = [costs.shape[0] - 1]
        for origin in reversed(origins):
            places.append(int(origin[places[-1]]))
        yield places[:0:-1], float(reached[-1])


class _Moments:
    """Cumulative sums from which the residual sum of squares of every segment follows, each an autoregression of its own.

    Within a segment, y(t) − phi y(t − 1) is regressed on the same differences of 1 and t; its first value counts with the
    variance of the stationary process (Prais, Winsten 1954).
    """

    def __init__(self, y: Floats, times: Floats, phi: float) -> None:
        t = (times - times.mean()) / np.ptp(times)
        columns = np.stack([np.ones_like(t), t, y])
        inner = columns.copy()
        inner[:, 1:] -= phi * columns[:, :-1]
        pairs = ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2))
        self._first = (1 - phi**2) * np.stack([columns[i] * columns[j] for i, j in pairs])
        products = np.stack([inner[i] * inner[j] for i, j in pairs])
        self._sums = np.concatenate([np.zeros((6, 1)), np.cumsum(products, axis=1)], axis=1)

    def between(self, grid: Integers) -> tuple[Floats, Floats]:
        """Residual sums of squares around a level and around a line: [j, i] for the segment from ``grid[i]`` to ``grid[j]``.

        Meaningless where that is shorter than two values.
        """
        first = np.minimum(grid, self._first.shape[1] - 1)
        ones, times, squares, y, times_y, y_squares = (
            sums[grid][:, None] - (sums[first + 1] - starts[first])[None, :] for sums, starts in zip(self._sums, self._first, strict=True)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            level = y_squares - y**2 / ones
            line = level - (times_y - times * y / ones) ** 2 / np.maximum(squares - times**2 / ones, 1e-12)
        return np.maximum(level, SMALLEST_RSS), np.maximum(line, SMALLEST_RSS)
