"""Which slices of the data are behind a move: a scan over all combinations of a few attribute values.

Leaves (one row for each combination of all attributes) are compared with their forecast; ``localise`` names the few
slices that describe the move most briefly, each with a p-value that allows for all the slices looked at. Rows come
aggregated, from SQL or pandas; making forecasts belongs to ``forecast``, and showing slices to who calls this.

The method, in four steps:

1. Each leaf gets an expectation: its forecast, or for a ratio the denominator times a baseline rate that is shrunk
   towards what the leaf's attributes have in common with others, since a leaf's own history is short.
2. The noise of the leaves is fitted where nothing stands out: variance ``phi m + tau² m²`` of a leaf of mean ``m``
   (quasi-Poisson with overdispersion: McCullagh, Nelder: Generalized Linear Models, 1989), robust to stray leaves,
   and with a common factor for everything, so that a move of the whole is no slice's doing.
3. The slices with the greatest likelihood ratio are grown greedily into a set of least description length (Rissanen,
   1978): a slice costs the logarithm of how many there are like it, so that a child replaces its parent only if it
   explains more than its longer name costs. Leaves of one slice move alike, up to a spread between leaves.
4. Each slice must pass two tests. Noise: its sum moved by more than the noise of its leaves, of its own history and of
   the others allows. Place: as many moved leaves, scattered at random, would not lie together so; how many leaves are
   moved here and there is judged by the other leaves. The larger of the two p-values is multiplied by the number of
   slices looked at (Bonferroni, by depth); ``benchmarks/root_causes.py`` shows what share of permuted and drawn data has a
   false slice. Slices accepted before are out of the way, and all others count as noise.

What it cannot tell:

- That a single leaf of several attributes moved, since leaves stray.
- That a slice with most of the traffic moved: the common factor follows it. A version with 80 % of the requests whose
  failures double is found, one with 90 % is not.
- A move of an attribute value from how it drifts from one day to the next anyway. The noise is that of leaves, so that a
  drift of a value's leaves together is a finding, however common such drifts are.
- Ratios whose true rates vary a lot between leaves and from one time to the next, with as short a history: the p-values are
  then too small. With beta-binomial failures (rates from Beta(1, 19)), 2 to 6 % of the data have a false slice at .01.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special, stats

from metamon_assets.statistics.arguments import between, real, whole

Measure = str | tuple[str, str]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

MINIMUM_EFFECT = 0.10  # a slice moved at least so much, relative to its forecast and to what the rest did
MINIMUM_SHARE = 0.02  # and its excess is at least this part of the largest one found
MAX_SLICES = 6
ANOTHER = 6.0  # nats that a further cause must save beyond its name, since most moves have one

PRIOR = 10.0  # events: how much of what larger cells expect a cell of a baseline is taken to have seen
SPREADS = (0.0, 0.2, 1.0)  # how much the leaves of one slice may differ: standard deviation of their factors, relative
BYSTANDERS = 0.2  # of a slice whose leaves differ, this share may not have moved at all
SCATTERED = (0.4, 10.0)  # the beta prior of the share of leaves that are moved here and there, by no common cause
COMMON_SPREAD = 0.5  # standard deviation of the logarithm of the factor that everything has in common
SHORTLIST, BEAM = 12, 3  # slices weighed exactly in each scan; how many of them are tried as the first of the set
ROBUST = 4.0  # standard deviations at which residuals are cut off when the noise is fitted
TINY = 1e-300
HUGE = 1e60  # values beyond are no measurements, and their squares no numbers


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice behind a move: ``attributes`` (name to value, as they stood in the frame), and by how much it moved.

    ``actual`` and ``expected`` are sums for an additive measure and ratios for a ratio. ``excess`` is
    ``(actual − expected) · denominator`` in units of the measure, or of the numerator of a ratio. It is what would be
    gained, at most, if the slice returned to its forecast: an association, no causal effect. ``share`` is the excess
    divided by that of all leaves; shares of opposite moves have opposite signs, and when the moves cancel to less than
    a tenth of the slice's own, ``share`` is NaN. ``p_value`` allows for every slice looked at. ``depth`` is the number
    of attributes, ``denominator`` that of the slice's ratio (1 for an additive measure).
    """

    attributes: dict[str, Hashable]
    actual: float
    expected: float
    excess: float
    share: float
    p_value: float
    depth: int
    denominator: float = 1.0


def localise(
    frame: pd.DataFrame, dimensions: Sequence[str], actual: Measure, forecast: Measure, *, max_depth: int = 3, alpha: float = 0.01
) -> list[Slice]:
    """The slices that moved away from their forecast while the rest did not, largest excess first.

    ``frame`` has a row for each leaf (duplicates are summed), ``dimensions`` names its attribute columns of any hashable
    values, None and NaN included; values that are equal (1, 1.0 and True) are one, and so are missing ones (None, NaN and
    NaT). ``actual`` and ``forecast`` name a column of an additive measure, or the columns of numerator and denominator of
    a ratio or mean; denominators of the forecast weigh it, so they should be of the same kind as the actual ones (a
    forecast of 7 failures in 100 requests says more than one of 0.07 in 1). Slices are combinations of up to
    ``max_depth`` attributes, and no slice lies within another one. The list is empty when nothing stands out at level
    ``alpha``, and always when actual and forecast are equal.

    A row that lacks one side counts as zero there, since an outer join of actual and forecast values leaves NaN where a
    slice fell silent or is new. Of a ratio a side is missing when numerator and denominator both are: there was no
    traffic. Rows that lack both sides, or one of such a pair, are left out, as are rows with an infinite value (or one
    beyond 1e60), leaves with a negative forecast, and of ratios those with a negative value or without an actual
    denominator. A leaf without a forecast takes part: the forecast of an additive measure is then as good as zero, and
    the rate of a ratio that of its attributes. A ratio that fell silent has no rate, and is no move; ask for its
    denominators. Measures may be columns of truth values, which count as 0 and 1, or of decimal objects.

    Raises ValueError when a column is missing, there twice, or no column of numbers, for a measure that is neither a name
    nor a pair of names, for a ``max_depth`` that is no whole number above zero, and for an ``alpha`` outside 0 to 1.

    >>> cells = [(model, tool) for model in ("small", "large", "vision") for tool in ("search", "code", "mail", "none")]
    >>> frame = pd.DataFrame(cells, columns=["model", "tool"])
    >>> frame["failed"] = [4, 6, 5, 5, 31, 29, 33, 30, 5, 4, 6, 5]
    >>> frame["requests"] = 100
    >>> frame["failed_before"], frame["requests_before"] = 5.0, 100.0
    >>> (found,) = localise(frame, ["model", "tool"], ("failed", "requests"), ("failed_before", "requests_before"))
    >>> found.attributes, found.actual, round(found.expected, 2), round(found.excess)
    ({'model': 'large'}, 0.3075, 0.05, 103)
    """
    dimensions = _dimensions(frame, dimensions)
    amounts = _amounts(frame, actual, forecast)
    depth = min(whole("max_depth", max_depth, 1), len(dimensions))
    alpha = between("alpha", alpha, 0, 1)
    codes, values, sums = _sum_leaves(frame, dimensions, amounts)
    leaves = _additive(codes, *sums) if len(sums) == 2 else _ratio(codes, *sums, depth=depth)
    if leaves is None:
        return []
    cuboids = _Cuboids(leaves.codes, depth)
    total = float(leaves.observed.sum() - leaves.forecast.sum())
    tested = _Search(leaves, cuboids).slices(alpha)
    found = [_describe(leaves, cuboids, cell, p_value, total, dimensions, values) for cell, p_value in tested]
    found.sort(key=lambda slice_: -abs(slice_.excess))
    return [slice_ for slice_ in found if abs(slice_.excess) >= MINIMUM_SHARE * abs(found[0].excess)]


def _dimensions(frame: pd.DataFrame, dimensions: Sequence[str]) -> list[str]:
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"frame must be a DataFrame, not a {type(frame).__name__}")
    if isinstance(dimensions, str) or not isinstance(dimensions, Iterable) or not list(dimensions):
        raise ValueError("dimensions must be a sequence of at least one column name")
    names = [str(name) if isinstance(name, str) else name for name in dimensions]  # plain ones, also of an array
    missing = [name for name in names if not isinstance(name, Hashable) or name not in frame]
    if missing:
        raise ValueError(f"dimensions has names that are no columns of the frame: {', '.join(map(str, missing))}")
    if len(set(names)) < len(names):
        raise ValueError("dimensions must not name a column twice")
    for name in names:
        _column("dimensions", frame, name)
    return names


def _amounts(frame: pd.DataFrame, actual: Measure, forecast: Measure) -> Floats:
    """Actual and forecast values, shape (sides, columns of each, rows): one column of an additive measure, two of a ratio."""
    sides = []
    for name, measure in (("actual", actual), ("forecast", forecast)):
        columns = [measure] if isinstance(measure, str) else list(measure) if isinstance(measure, tuple | list) else []
        if len(columns) not in {1, 2}:
            raise ValueError(f"{name} must be a column name or a pair of them, not {measure!r}")
        sides.append([_numbers(name, frame, column) for column in columns])
    if len(sides[0]) != len(sides[1]):
        raise ValueError("actual and forecast must both be a column name, or both a pair of them")
    return np.array(sides)


def _column(name: str, frame: pd.DataFrame, column: Hashable) -> pd.Series:
    if not isinstance(column, Hashable) or column not in frame:
        raise ValueError(f"{name} names {column!r}, which is no column of the frame")
    if isinstance(frame[column], pd.DataFrame):
        raise ValueError(f"{name} names {column!r}, and the frame has several such columns")
    return frame[column]


def _numbers(name: str, frame: pd.DataFrame, column: str) -> Floats:
    """A column as floats; truth values count as 0 and 1, and objects (decimals of a database) one by one."""
    series = _column(name, frame, column)
    if pd.api.types.is_object_dtype(series):
        what = f"{name}: every value of column {column!r}"
        return np.array([math.nan if value is None or value is pd.NA else real(what, value, finite=False) for value in series])
    if not pd.api.types.is_numeric_dtype(series) or pd.api.types.is_complex_dtype(series):
        raise ValueError(f"{name} names {column!r}, which is no column of numbers")
    return series.to_numpy(dtype=np.float64, na_value=np.nan)


def _sum_leaves(frame: pd.DataFrame, dimensions: list[str], amounts: Floats) -> tuple[Integers, list[list[Hashable]], list[Floats]]:
    """Codes of the leaves, shape (leaves, dimensions); the values that they stand for; and the sum of each column."""
    absent = np.logical_and.reduce(np.isnan(amounts), axis=1)  # shape (sides, rows)
    alone = absent & ~np.logical_and.reduce(absent, axis=0)
    columns = np.concatenate(np.where(alone[:, None], 0.0, amounts))
    known = (np.abs(columns) < HUGE).all(axis=0)
    columns[np.abs(columns) < 1 / HUGE] = 0.0
    rows, values = [], []
    for name in dimensions:
        try:
            code, _ = pd.factorize(frame[name], use_na_sentinel=False)
        except TypeError as error:
            raise ValueError(f"dimensions names {name!r}, whose values cannot be told apart: {error}") from error
        rows.append(code)
        values.append(frame[name].iloc[np.unique(code, return_index=True)[1]].tolist())
    codes, leaf = np.unique(np.stack(rows, axis=1).astype(np.int64)[known], axis=0, return_inverse=True)
    return codes, values, [_summed(leaf.ravel(), amount, len(codes)) for amount in columns[:, known]]


def _summed(group: Integers, amounts: Floats, groups: int) -> Floats:
    return np.bincount(group, amounts, groups).astype(np.float64, copy=False)


@dataclass(frozen=True, slots=True)
class _Leaves:
    """What was seen and expected, by leaf; ``forecast`` is shown, ``expected`` (never zero) is what the search uses."""

    codes: Integers
    observed: Floats
    forecast: Floats
    expected: Floats
    denominator: Floats | None  # None for an additive measure
    history: Floats | None  # of a ratio, effective events in the past: as many Poisson events would be as noisy
    foreseen: Floats | None  # and how many the baseline would have expected then


def _additive(codes: Integers, observed: Floats, forecast: Floats) -> _Leaves | None:
    positive = forecast[forecast > 0]
    if positive.size == 0 or np.array_equal(observed, forecast):
        return None
    smallest = 0.01 * float(np.median(positive))  # stands for a forecast of nothing, which has no relative change
    keep = (forecast > 0) | ((forecast == 0) & (observed > smallest))
    return _Leaves(codes[keep], observed[keep], forecast[keep], np.maximum(forecast, smallest)[keep], None, None, None)


def _ratio(codes: Integers, *sums: Floats, depth: int) -> _Leaves | None:
    valid = np.logical_and.reduce([amounts >= 0 for amounts in sums])
    codes, (observed, denominator, past, past_denominator) = codes[valid], (amounts[valid] for amounts in sums)
    if past_denominator.sum() <= 0 or np.allclose(observed * past_denominator, past * denominator, rtol=1e-12, atol=0):
        return None
    rate, noise = _baseline(codes, past, past_denominator, depth)
    keep = denominator > 0
    if not keep.any():
        return None
    forecast = (denominator * rate)[keep]
    expected = np.maximum(forecast, 1e-9 * forecast.mean())
    history, foreseen = (past / noise)[keep], (past_denominator * rate / noise)[keep]
    return _Leaves(codes[keep], observed[keep], forecast, expected, denominator[keep], history, foreseen)


def _baseline(codes: Integers, past: Floats, denominator: Floats, depth: int) -> tuple[Floats, Floats]:
    """A rate for each leaf, and the noise of its ``past``: variance over mean.

    From the whole down to the leaf itself, every cell corrects what larger ones expect of it. The correction is shrunk
    as if the cell had seen ``PRIOR`` more events that were as expected: an empirical-Bayes rate (Clayton, Kaldor 1987).
    Single attributes are fitted together, by iterated proportional fitting.
    """
    total = max(float(past.sum()), 0.5)  # half an event, where none was ever seen
    rate = np.full(len(past), total / denominator.sum())
    unit = max(float(((past - denominator * rate) ** 2).sum()) / total, 1e-6 * total)
    cuboids = list(_cuboids(codes, depth))
    single = [cell for attributes, cell in cuboids if len(attributes) == 1]
    for _ in range(5):
        for cell in single:
            rate = _corrected(rate, cell, past, denominator, unit)
    mean = denominator * rate
    seen = mean > 0
    noise, tau2 = _variance((past - mean)[seen], mean[seen], np.ones(int(seen.sum())))
    noise = max(noise, 0.01 * unit)
    prior = PRIOR * noise
    for attributes, cell in cuboids:
        if len(attributes) > 1:
            rate = _corrected(rate, cell, past, denominator, prior)
    return _corrected(rate, np.arange(len(past)), past, denominator, prior), noise + tau2 * mean


def _corrected(rate: Floats, cell: Integers, past: Floats, denominator: Floats, prior: float) -> Floats:
    expected = np.bincount(cell, denominator * rate)
    return rate * ((np.bincount(cell, past) + prior) / (expected + prior))[cell]


def _cuboids(codes: Integers, max_depth: int) -> Iterator[tuple[tuple[int, ...], Integers]]:
    """Every combination of up to ``max_depth`` attributes, fewest first, with the cell of each leaf, numbered without gaps."""
    sizes = codes.max(axis=0, initial=0) + 1
    for depth in range(1, max_depth + 1):
        for attributes in itertools.combinations(range(codes.shape[1]), depth):
            cell = codes[:, attributes[0]]
            for attribute in attributes[1:]:
                cell = _numbered(cell) * sizes[attribute] + codes[:, attribute]
            yield attributes, _numbered(cell)


def _numbered(key: Integers) -> Integers:
    """The same groups, numbered from zero without gaps."""
    if key.size and key.max() > 16 * key.size + 1024:  # too many possible keys to make a list of them
        return np.unique(key, return_inverse=True)[1]
    return (np.cumsum(np.bincount(key) > 0) - 1)[key]


def _variance(residual: Floats, mean: Floats, scale: Floats) -> tuple[float, float]:
    """``phi`` and ``tau²`` of the variance ``phi scale mean + tau² mean²``: weighted least squares on the squared residuals.

    Both are at least zero. Residuals are cut off at ``ROBUST`` standard deviations, and what that takes away from
    normal ones is given back.
    """
    linear, square, target = scale * mean, mean * mean, residual * residual
    least = max(1e-9 * float(target.sum() / linear.sum()), 1e-12 * float(linear.mean()))
    # The start: the median of a squared normal variable is 0.455. Weighted, since most leaves of sparse data saw nothing.
    order = np.argsort(target / linear)
    middle = np.searchsorted(np.cumsum(linear[order]), linear.sum() / 2)
    phi, tau2 = max(float((target / linear)[order][middle]) / 0.455, least), 0.0
    for _ in range(12):
        variance = phi * linear + tau2 * square
        cut = np.minimum(target, ROBUST**2 * variance) / _KEPT
        weighted = linear / variance, square / variance
        a, b, c = (float(one @ other) for one, other in itertools.combinations_with_replacement(weighted, 2))
        d, e = (float(one @ (cut / variance)) for one in weighted)
        determinant = a * c - b * b
        phi, tau2 = ((d * c - e * b) / determinant, (a * e - b * d) / determinant) if determinant > 1e-12 * a * c else (d / a, 0.0)
        if phi < least:
            phi, tau2 = least, e / c
        elif tau2 < 0:
            phi, tau2 = max(d / a, least), 0.0
    return phi, tau2


# The mean of min(z², ROBUST²) of a standard normal z.
_KEPT = math.erf(ROBUST / 2**0.5) - ROBUST * (2 / math.pi) ** 0.5 * math.exp(-(ROBUST**2) / 2) + ROBUST**2 * math.erfc(ROBUST / 2**0.5)


class _Cuboids:
    """The cells of all combinations of up to ``depth`` attributes, in one numbering, so that one bincount sums them all."""

    def __init__(self, codes: Integers, depth: int) -> None:
        self.attributes: list[tuple[int, ...]] = []
        cells, leaves, alone = [], [], []
        sizes: dict[tuple[int, ...], tuple[Integers, Integers]] = {}
        self.size = 0
        for attributes, cell in _cuboids(codes, depth):
            size = np.bincount(cell)
            leaf = np.zeros(size.size, dtype=np.int64)
            leaf[cell] = np.arange(cell.size)
            sizes[attributes] = cell, size
            parents = [sizes[rest] for rest in itertools.combinations(attributes, len(attributes) - 1)] if len(attributes) > 1 else []
            # A cell with the same leaves as a cell of fewer attributes (or as everything) is a longer name of the same slice.
            alone.append(np.logical_and.reduce([size < cell.size, *(size < parent[of[leaf]] for of, parent in parents)]))
            self.attributes.append(attributes)
            cells.append(cell + self.size)
            leaves.append(leaf)
            self.size += size.size
        self.of_leaf = np.stack(cells)  # shape (cuboids, leaves)
        self.leaf = np.concatenate(leaves)  # one leaf of each cell
        self.cuboid = np.repeat(np.arange(len(leaves)), [len(leaf) for leaf in leaves])
        self.usable = np.concatenate(alone)
        depths = np.array([len(attributes) for attributes in self.attributes])[self.cuboid]
        self.looked_at = np.bincount(depths[self.usable], minlength=depth + 1).clip(1)[depths] * float(depth)
        self.depth = depths

    def sums(self, amounts: Floats) -> Floats:
        """The sum over the leaves of every cell."""
        return _summed(self.of_leaf.ravel(), np.tile(amounts, len(self.of_leaf)), self.size)

    def members(self, cell: int) -> Mask:
        """Which leaves are in the cell."""
        return self.of_leaf[self.cuboid[cell]] == cell

    def outside(self, cells: Sequence[int]) -> Mask:
        """Which leaves are in none of the cells."""
        inside = np.zeros(self.of_leaf.shape[1], dtype=bool)
        for cell in cells:
            inside |= self.members(cell)
        return ~inside

    def nested(self, one: int, other: int) -> bool:
        """Whether one of two cells lies within the other, by its attributes."""
        inner, outer = (one, other) if self.depth[one] >= self.depth[other] else (other, one)
        held = set(self.attributes[self.cuboid[outer]]) <= set(self.attributes[self.cuboid[inner]])
        return bool(held and self.of_leaf[self.cuboid[outer], self.leaf[inner]] == outer)


@dataclass(slots=True)
class _Model:
    """What every leaf does when no slice stands out, in effective counts: ``seen`` against a mean of ``mean`` (of variance one each).

    A leaf of mean ``m`` and variance ``v`` counts ``m² / v`` effective events, the number whose Poisson noise is as
    large as its own. Ratios are judged by the Poisson deviance of these, additive measures by the normal one.
    """

    seen: Floats
    mean: Floats
    level: float  # the factor that everything has in common
    freedom: float  # degrees of freedom of the noise
    stray: float  # share of leaves that fit nothing
    additive: bool

    def deviance(self, leaves: Integers | Mask, factor: Floats | float) -> Floats:
        """Half the deviance of leaves whose mean is ``factor`` times the usual."""
        return _deviance(self.seen[leaves], self.mean[leaves], factor, additive=self.additive)

    def usual(self, leaves: Integers | Mask) -> Floats:
        """Log-likelihood of leaves that did not move, up to a constant of each leaf."""
        return np.logaddexp(math.log1p(-self.stray) - self.deviance(leaves, 1.0), math.log(self.stray))

    def moved(self, leaves: Integers, factor: Floats | float, spread: float) -> tuple[Floats, Floats]:
        """Log-likelihood of leaves that moved by ``factor``, give or take ``spread``, and their weights in estimating it."""
        narrower = 1 / (1 + spread**2 * self.mean[leaves] * factor)
        main = math.log1p(-self.stray) - narrower * self.deviance(leaves, factor) + 0.5 * np.log(narrower)
        other: Floats | float = math.log(self.stray)
        if spread:
            main = main + math.log1p(-BYSTANDERS)
            other = np.logaddexp(other, math.log(BYSTANDERS) - self.deviance(leaves, 1.0))
        both = np.logaddexp(main, other)
        return both, np.exp(main - both) * narrower

    def gains(self, group: Integers, leaves: Integers, count: int) -> tuple[Floats, Floats, Floats]:
        """Log-likelihood ratio, factor and spread of each of ``count`` groups of leaves."""
        best, best_factor, best_spread = np.zeros(count), np.ones(count), np.zeros(count)
        usual = self.usual(leaves)
        for spread in SPREADS:
            weight = np.ones(len(leaves))
            for _ in range(2):  # the second time without the leaves that do not fit the first
                weighted = np.bincount(group, weight * self.mean[leaves], count)
                factor = (np.bincount(group, weight * self.seen[leaves], count) / weighted.clip(TINY)).clip(1e-3)
                moved, weight = self.moved(leaves, factor[group], spread)
                gain = np.bincount(group, moved - usual, count) - math.log(len(SPREADS))
                better = gain > best
                best, best_factor = np.where(better, gain, best), np.where(better, factor, best_factor)
                best_spread = np.where(better, spread, best_spread)
        return best, best_factor, best_spread

    def evidence(self, inside: Integers, rest: Integers) -> float:
        """Log of the marginal likelihood ratio: the leaves inside moved together, or moved leaves are scattered everywhere."""
        (gain,), (factor,), (spread,) = self.gains(np.zeros(len(inside), dtype=np.int64), inside, 1)
        if gain <= 0:
            return 0.0
        within, beyond = (self.moved(leaves, factor, spread)[0] - self.usual(leaves) for leaves in (inside, rest))
        share = np.exp(np.linspace(math.log(1e-5), math.log(0.8), 24))[:, None]  # of leaves that moved; summed over, below
        prior = SCATTERED[0] * np.log(share[:, 0]) + (SCATTERED[1] - 1) * np.log1p(-share[:, 0])
        without = prior + np.logaddexp(np.log1p(-share), np.log(share) + beyond).sum(axis=1)
        scattered = without + np.logaddexp(np.log1p(-share), np.log(share) + within).sum(axis=1)
        return float(within.sum() - math.log(len(SPREADS)) - special.logsumexp(scattered) + special.logsumexp(without))


def _deviance(seen: Floats, mean: Floats, factor: Floats | float, *, additive: bool) -> Floats:
    expected = factor * mean
    if additive:  # noise grows with the leaf, so that it does not shrink when the leaf grows
        return (seen - expected) ** 2 / (2 * mean * np.maximum(factor, 1.0) ** 2)
    return special.xlogy(seen, seen / expected) - seen + expected


class _Search:
    """The set of slices that describes the leaves most briefly, and the p-value of each."""

    def __init__(self, leaves: _Leaves, cuboids: _Cuboids) -> None:
        self.cuboids, self.observed, self.expected, self.history = cuboids, leaves.observed, leaves.expected, leaves.history
        self.foreseen = leaves.foreseen
        self.additive = leaves.denominator is None
        self.cost = np.log(cuboids.looked_at) + 1.0
        self.counts = leaves.denominator is not None and bool((leaves.observed == np.round(leaves.observed)).all())
        self.scale = np.ones(len(leaves.observed))
        if leaves.denominator is not None:
            events = self.counts and bool((leaves.observed <= leaves.denominator).all())
            rate = leaves.expected / leaves.denominator
            if not events and self._fits_better(rate / np.average(rate, weights=leaves.denominator)):
                self.scale = rate / np.average(rate, weights=leaves.denominator)
                self.counts = False

    def slices(self, alpha: float) -> list[tuple[int, float]]:
        """Cells with their p-values."""
        if len(self.observed) < 3:
            return []
        self.model = self._fit(self._first_look())
        _, picked = self._grow([], BEAM)
        for _ in range(3):  # what is found takes its noise with it, and more may show
            before = picked
            self.model = self._fit(picked)
            picked = self._refine(picked)
            if set(picked) == set(before):
                break
        return self._confirmed(picked, alpha)

    def _fits_better(self, scale: Floats) -> bool:
        """Whether the noise of a leaf grows with its rate, as that of a sum of latencies does and that of failures does not."""
        mean = self.expected * _level(self.observed, self.expected)
        residual = self.observed - mean
        misfit = []
        for candidate in (self.scale, scale):
            phi, tau2 = _variance(residual, mean, candidate)
            variance = phi * candidate * mean + tau2 * mean * mean
            misfit.append(float((np.log(variance) + np.minimum(residual**2 / variance, 9)).sum()))
        return misfit[1] < misfit[0]

    def _first_look(self) -> list[int]:
        """Up to three slices by their sums alone (the scan statistic of Kulldorff 1997), to be left out when the noise is fitted.

        No test: a slice too many costs the fit some leaves, one too few would hide in the noise that it makes.
        """
        level = _level(self.observed, self.expected)
        phi, tau2 = _variance(self.observed - level * self.expected, level * self.expected, self.scale)
        variance = max(phi, float(self.counts)) * self.scale + tau2 * level * self.expected
        seen, mean = self.observed / variance, self.expected / variance
        picked: list[int] = []
        free = np.ones(len(seen), dtype=bool)
        for _ in range(3):
            inside, usual = self.cuboids.sums(seen * free), self.cuboids.sums(mean * free)
            rest, rest_usual = (seen @ free - inside), (mean @ free - usual)
            left = free.sum() - self.cuboids.sums(free.astype(np.float64))
            possible = self.cuboids.usable & (usual > 0) & (rest_usual > 0.05 * mean.sum()) & (left >= len(seen) / 2)
            factor, level = inside / usual.clip(TINY), rest / rest_usual.clip(TINY)
            gain = self._likelihood_ratio(inside, usual) + self._likelihood_ratio(rest, rest_usual) - self.cost
            gain -= np.log(level.clip(1e-6, 1e6)) ** 2 / (2 * COMMON_SPREAD**2)
            gain = np.where(possible & _stands_out(factor, level), gain, -np.inf)
            cell = int(np.argmax(gain))
            if not np.isfinite(gain[cell]):
                break
            picked.append(cell)
            free &= ~self.cuboids.members(cell)
        return picked

    def _fit(self, picked: Sequence[int]) -> _Model:
        """The model of the leaves outside some slices."""
        free = self.cuboids.outside(picked)
        observed, expected, scale = self.observed[free], self.expected[free], self.scale[free]
        size = len(observed)
        level = _level(observed, expected)
        phi, tau2 = _variance(observed - level * expected, level * expected, scale)
        poisson = self.counts and phi <= 1  # events are no steadier than independent ones: nothing was estimated
        phi, tau2 = max(phi, float(self.counts)) * size / max(size - 1, 1), tau2 * size / max(size - 1, 1)
        variance = phi * scale + tau2 * level * expected
        level = _level(observed / variance, expected / variance)
        variance = phi * self.scale + tau2 * level * self.expected
        seen = self.observed if self.additive else self.observed.clip(0)
        freedom = math.inf if poisson else max(size - 1, 1)
        model = _Model(seen / variance, level * self.expected / variance, level, freedom, 0.5, self.additive)
        model.stray = (float((model.deviance(free, 1.0) > 8).sum()) + 0.05) / (size + 50)
        return model

    def _scan(self, picked: Sequence[int]) -> list[int]:
        """The slices whose addition shortens the description most, best first."""
        model, free = self.model, self.cuboids.outside(picked)
        seen, mean = self.cuboids.sums(model.seen * free), self.cuboids.sums(model.mean * free)
        possible = self.cuboids.usable & (mean > 0) & _stands_out(model.level * seen / mean.clip(TINY), model.level)
        quick = np.where(possible, self._likelihood_ratio(seen, mean) - self.cost, -np.inf)
        top = np.argpartition(-quick, min(SHORTLIST, quick.size) - 1)[:SHORTLIST]
        top = top[quick[top] > 0]
        group, leaves = np.nonzero((self.cuboids.of_leaf[self.cuboids.cuboid[top]] == top[:, None]) & free)
        gain, factor, _ = model.gains(group, leaves, top.size)
        gain = np.where(_stands_out(model.level * factor, model.level), gain - self.cost[top], -np.inf)
        return [int(top[at]) for at in np.argsort(-gain, kind="stable") if gain[at] > 0]

    def _grow(self, picked: list[int], beam: int) -> tuple[float, list[int]]:
        """The best set that contains ``picked``, less what lies around or within an addition: greedy, but for the first slice."""
        best = self._saved(picked), picked
        if len(picked) >= MAX_SLICES:
            return best
        larger = [self._with(picked, cell) for cell in self._scan(picked)[:4]]
        ranked = sorted(((self._saved(cells), cells) for cells in larger), reverse=True)
        for saved, cells in ranked[:beam]:
            if saved > best[0] or (beam > 1 and saved > 0):
                best = max(best, self._grow(cells, 1), key=lambda found: found[0])
        return best

    def _with(self, picked: Sequence[int], cell: int) -> list[int]:
        return [other for other in picked if not self.cuboids.nested(other, cell)] + [cell]

    def _gains(self, picked: Sequence[int]) -> Floats:
        """Log-likelihood ratio of each slice on its leaves; those in several slices belong to the first of them.

        Where those did not move further than the first one says, they speak against a later slice: it should leave them
        out. (Not of counted events, whose rates do not multiply.)
        """
        owner = np.full(len(self.observed), -1)
        for at in reversed(range(len(picked))):
            owner[self.cuboids.members(picked[at])] = at
        leaves = np.flatnonzero(owner >= 0)
        gains, factors, spreads = self.model.gains(owner[leaves], leaves, len(picked))
        for first, later in itertools.combinations(range(0 if self.counts else len(picked)), 2):
            shared = np.flatnonzero(self.cuboids.members(picked[later]) & (owner == first))
            spread = max(spreads[first], spreads[later])
            both, alone = (self.model.moved(shared, factor, spread)[0] for factor in (factors[first] * factors[later], factors[first]))
            gains[later] += min(float((both - alone).sum()), 0.0)
        return gains

    def _saved(self, picked: list[int]) -> float:
        """By how much the set shortens the description of the leaves, in nats."""
        if not picked:
            return 0.0
        if self.cuboids.outside(picked).sum() < max(2, len(self.observed) / 5):
            return -math.inf  # too little is left to tell what did not move
        return float((self._gains(picked) - self.cost[picked]).sum()) - ANOTHER * (len(picked) - 1)

    def _refine(self, picked: list[int]) -> list[int]:
        """Add slices, drop them, exchange them for others or for their parts, as long as that shortens the description."""
        best = self._saved(picked)
        for _ in range(2 * MAX_SLICES):
            tries = [self._with(picked, cell) for cell in self._scan(picked)[:3]] if len(picked) < MAX_SLICES else []
            for cell in picked:
                rest = [other for other in picked if other != cell]
                tries += [rest, *(self._with(rest, other) for other in self._scan(rest)[:3]), *self._parts(rest, cell)]
            ranked = max(((self._saved(cells), cells) for cells in tries), default=(best, picked), key=lambda found: found[0])
            if ranked[0] <= best + 1e-9:
                break
            best, picked = ranked
        return picked

    def _parts(self, rest: list[int], cell: int) -> Iterator[list[int]]:
        """The other slices with one, two or three parts of a slice: of a parent whose children moved, no single one may do better."""
        for _ in range(3):
            within = [
                part for part in self._scan(rest) if self.cuboids.nested(part, cell) and self.cuboids.depth[part] > self.cuboids.depth[cell]
            ]
            if not within:
                return
            rest = self._with(rest, within[0])
            yield rest

    def _confirmed(self, picked: list[int], alpha: float) -> list[tuple[int, float]]:
        """The slices that pass their test, each with the accepted ones left out; the strongest first, and twice, as noise gets less."""
        order = [picked[at] for at in np.argsort(-self._gains(picked), kind="stable")] if picked else []
        accepted: dict[int, float] = {}
        for cell in order * 2:
            if cell not in accepted:
                p_value = self._p_value(cell, list(accepted))
                if p_value <= alpha:
                    accepted[cell] = p_value
        return list(accepted.items())

    def _p_value(self, cell: int, accepted: list[int]) -> float:
        """The larger of two, times the number of slices looked at: moved leaves lie here by chance, or all is noise.

        Twice the logarithm of each likelihood ratio is taken as a squared normal variable, that of noise as a squared t.
        With one dimension the slices are the leaves, where moved ones lie says nothing, and only noise is tested.
        """
        model = self._fit([*accepted, cell])
        free, inside = self.cuboids.outside(accepted), self.cuboids.members(cell)
        within, rest = np.flatnonzero(free & inside), np.flatnonzero(free & ~inside)
        noise = 2 * float(stats.t.sf(math.sqrt(2 * self._beyond_noise(model, within, rest)), model.freedom))
        chance = 0.0
        if len(self.cuboids.attributes) > 1:
            chance = 2 * float(stats.norm.sf(math.sqrt(2 * max(model.evidence(within, rest), 0.0))))
        return min(max(max(noise, chance) * float(self.cuboids.looked_at[cell]), TINY), 1.0)

    def _beyond_noise(self, model: _Model, inside: Integers, rest: Integers) -> float:
        """Log-likelihood ratio of the sum of a slice; for a ratio, when its own history and that of the others are short as well.

        Where the slice's history says, against the shrunk baseline, that it has always been so, that is believed.
        """
        _, (factor,), _ = model.gains(np.zeros(len(inside), dtype=np.int64), inside, 1)
        own = float(model.mean[inside].sum())
        plain = float(model.seen[inside].sum()) / own  # of all leaves, as the noise is, while the factor leaves some out
        factor = max(1.0, min(factor, plain)) if factor > 1 else min(1.0, max(factor, plain))
        if self.history is None or self.foreseen is None:
            return own * (factor - 1) ** 2 / 2
        past, past_of_others = self.history[inside].sum(), self.history[rest].sum()
        before = (past + 1) / (self.foreseen[inside].sum() + 1)
        news = max(factor / max(before, 1.0), 1.0) if factor > 1 else min(factor / min(before, 1.0), 1.0)
        borrowed = 1.0 if self.foreseen[inside].any() else PRIOR  # a new slice is expected to do as larger cells do
        history = own / (past + borrowed) + own / (past_of_others + PRIOR)
        variance = 1 + own / model.mean[rest].sum() + history  # one part is the slice's own
        return float(own * factor / news * (special.xlogy(news, news) - news + 1) / variance)

    def _likelihood_ratio(self, seen: Floats, mean: Floats) -> Floats:
        """Log-likelihood ratio of sums having a mean of their own; 0 where nothing was expected."""
        mean = mean.clip(TINY)
        if self.additive:
            return (seen - mean) ** 2 / (2 * mean)
        seen = seen.clip(0)
        return special.xlogy(seen, seen / mean) - seen + mean


def _level(observed: Floats, expected: Floats) -> float:
    """The factor that leaves have in common."""
    return max(float(observed.sum() / expected.sum()), 1e-6)


def _stands_out(factor: Floats, level: Floats | float) -> Mask:
    """Whether slices moved, both from their forecast and, the same way, from what the rest did."""
    own, least = np.log(factor.clip(1e-6)), math.log1p(MINIMUM_EFFECT)
    apart = own - np.log(np.clip(level, 1e-6, None))
    return (np.abs(own) >= least) & (np.abs(apart) >= least) & (own * apart > 0)


def _describe(
    leaves: _Leaves,
    cuboids: _Cuboids,
    cell: int,
    p_value: float,
    total: float,
    dimensions: Sequence[str],
    values: Sequence[Sequence[Hashable]],
) -> Slice:
    inside = cuboids.members(cell)
    observed, forecast = float(leaves.observed[inside].sum()), float(leaves.forecast[inside].sum())
    denominator = 1.0 if leaves.denominator is None else float(leaves.denominator[inside].sum())
    excess = observed - forecast
    attributes = {dimensions[at]: values[at][leaves.codes[cuboids.leaf[cell], at]] for at in cuboids.attributes[cuboids.cuboid[cell]]}
    share = excess / total if abs(total) >= 0.1 * abs(excess) else math.nan
    return Slice(attributes, observed / denominator, forecast / denominator, excess, share, p_value, len(attributes), denominator)
