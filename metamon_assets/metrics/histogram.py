"""Log-histograms in Python: the same bins, merges and quantiles as ``metamon.histogram_*`` in SQL, digit for digit.

Bin ``k`` holds ``gamma ** k <= x < gamma ** (k + 1)`` with ``gamma = 1.01 / 0.99``. The value that stands for it,
``2 gamma ** (k + 1) / (gamma + 1)``, is within 1 % of everything in the bin, so every quantile is within 1 % of the
exact one (the inverse of the distribution function, ``percentile_disc``). Values of zero and less have no logarithm
and are counted apart; unknown values (None, NaN) are not counted at all. After Masson, Rim, Lee: DDSketch, VLDB 2019.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RELATIVE_ERROR = 0.01
LOG_GAMMA = 0.020000666706669435  # ln(1.01 / 0.99)
SMALLEST_BIN, LARGEST_BIN = -32768, 32767


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values fell into each bin: ``bins`` ascending, ``counts`` beside them, ``zeros`` for values of zero and less."""

    bins: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    zeros: int = 0

    @property
    def count(self) -> int:
        """The number of values in it."""
        return sum(self.counts) + self.zeros

    def quantile(self, q: float) -> float | None:
        """The ``q``-quantile, 0 <= q <= 1, within 1 %; None when there are no values. Raises ValueError for another ``q``."""
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is asked for between 0 and 1, not at {q}")
        if self.count == 0:
            return None
        rank = max(math.ceil(q * self.count), 1)
        seen = self.zeros
        if rank <= seen:
            return 0.0
        for bin_, count in zip(self.bins, self.counts, strict=True):
            seen += count
            if seen >= rank:
                return bin_value(bin_)
        raise AssertionError("the counts add up to the rank of every quantile")


def bin_of(value: float | None) -> int | None:
    """The bin of a value; None for values without a logarithm and for unknown ones."""
    if value is None or not value > 0:
        return None
    if value == math.inf:
        return LARGEST_BIN
    return min(max(math.floor(math.log(value) / LOG_GAMMA), SMALLEST_BIN), LARGEST_BIN)


def bin_value(bin_: int) -> float:
    """The value that stands for a bin; the outermost bins hold everything below 1e-284 and above 1e284."""
    return math.exp(bin_ * LOG_GAMMA) * 1.01


def from_values(values: Iterable[float | None] | np.ndarray) -> Histogram:
    """The histogram of some values. Uses ``math.log`` value by value: NumPy's own may differ in the last digit."""
    import numpy as np

    known = np.asarray([value for value in values if value is not None], dtype=float)
    known = known[~np.isnan(known)]
    positive = known[known > 0]
    logs = np.fromiter(map(math.log, positive), float, count=len(positive))
    bins, counts = np.unique(np.clip(np.floor(logs / LOG_GAMMA), SMALLEST_BIN, LARGEST_BIN).astype(np.int64), return_counts=True)
    return Histogram(tuple(bins.tolist()), tuple(counts.tolist()), len(known) - len(positive))


def from_arrays(bins: Sequence[int] | None, counts: Sequence[int] | None, zeros: int | None) -> Histogram:
    """The histogram of a row's columns; NULL arrays are empty."""
    return merge([Histogram(tuple(bins or ()), tuple(counts or ()), zeros or 0)])


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """One histogram of everything in ``histograms``: exactly that of all their values together."""
    total: dict[int, int] = {}
    zeros = 0
    for histogram in histograms:
        zeros += histogram.zeros
        for bin_, count in zip(histogram.bins, histogram.counts, strict=True):
            total[bin_] = total.get(bin_, 0) + count
    return Histogram(tuple(sorted(total)), tuple(total[bin_] for bin_ in sorted(total)), zeros)
