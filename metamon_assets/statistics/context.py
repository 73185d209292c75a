"""The contextual channel of the anomaly detector: how unlike its remembered continuations is the next value?

A band asks whether a value is extreme. A context asks whether it belongs here: a low value at the peak of a cycle, a
line that turns flat, a rhythm that changes. The idea is contextual anomaly detection (Smirnov 2016, known as CAD): values
become symbols, the model remembers which symbol followed which, and a continuation it does not remember is an anomaly
until it has been seen. Here the memory is a variable-order Markov model (Cleary and Witten 1984, prediction by partial
matching): the order-1 counts of similar contexts, backed off to order 0, backed off to the distance from any known symbol.

The second fact it follows is the roughness of the series, the mean absolute change of the last dozen values. A stuck
sensor repeats a familiar value, so only its roughness is strange.

Surprise is counted in bits, -log2 of the probability, and held against the largest surprise of the last weeks, so that one
threshold fits noisy and regular series alike. An excursion raises that extreme at once: it gives one alert, not many.

Combining channels, severities and time belong to the detector that uses this. Standard library only.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from typing import Any

VERSION = 1
LEARNING = 288  # values before the first score: one day of five-minute steps

# The alphabet: the 5 % and 95 % quantiles of the sample are BINS symbols from the centre; beyond them the steps are logarithmic.
# Every 17th value is kept, a prime, since a divisor of a cycle would keep one phase of it only.
SAMPLE_SIZE, SAMPLE_EVERY, TAIL = 128, 17, 20  # 2,176 values back: a week of five-minute steps; 1 / TAIL is cut at each end
BINS = 4
CENTRE, REACH = 31, 30  # symbols 1..61; 0 and 63 stay empty, so that each symbol has neighbours
ROW = 64

# The memory: whole counts, halved together, so that what does not return is forgotten within four periods.
COUNT = 8
PERIOD = 1024
MAX_CELLS = 768

# The bits of a symbol that is not known: UNKNOWN_BITS, and DISTANCE_BITS for each step to the nearest known one.
UNKNOWN_BITS, DISTANCE_BITS, FARTHEST = 5.0, 0.7, 12

ROUGHNESS_SPAN, ROUGHNESS_PER_OCTAVE = 12, 2

# The largest surprise of recent weeks: where it starts, how it decays (half in twelve days), how fast one value may raise it.
FIRST_EXTREME, DECAY, GROWTH, SMALLEST_EXTREME = 8.0, 0.9998, 2.0, 4.0


class ContextModel:
    """One series' memory of contexts: constant work per value, bounded state.

    Scores are unit free: unchanged when the series is shifted or multiplied by a positive number. A score of .5 means as
    surprising as the most surprising value of the last weeks, 1 means at least twice as many bits. Missing and infinite values are
    skipped: they score 0 and are not learned. So do the first ``LEARNING`` values, and a value that repeats a constant.

    ``state`` is what to store and hand to ``ContextModel`` later: it goes on to the last bit where it stopped. Raises ValueError
    for the state of another version.

    >>> model = ContextModel()
    >>> scores = [model.update(value) for value in [0.0, 5.0, 10.0] * 200]
    >>> max(scores) < 0.1
    True
    >>> [round(model.peek(value), 1) for value in (0.0, 5.0, 20.0)]  # due, usual but not now, never seen
    [0.1, 0.7, 1.0]
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        if state is None:
            state = {"seen": 0, "last": 0.0, "roughness": 0.0, "context": CENTRE, "extremes": [FIRST_EXTREME] * 2}
        elif state.get("version") != VERSION:
            raise ValueError(f"state has version {state.get('version')!r}, this is version {VERSION}: start again without a state")
        self._seen: int = state["seen"]
        self._last: float = state["last"]
        self._roughness: float = state["roughness"]
        self._context: int = state["context"]
        self._extremes: list[float] = list(state["extremes"])
        self._sample: list[float] = list(state.get("sample", []))
        self._followed: dict[int, int] = dict(state.get("followed", []))  # ROW * context + symbol -> count
        self._roughness_counts: list[int] = _row(dict(state.get("roughness_counts", [])))
        self._sum_up()
        self._measure()

    @property
    def state(self) -> dict[str, Any]:
        """What the next ``ContextModel`` needs to go on: JSON-able, some 3 kB, at most 12 kB."""
        return {
            "version": VERSION,
            "seen": self._seen,
            "last": self._last,
            "roughness": self._roughness,
            "context": self._context,
            "extremes": list(self._extremes),
            "sample": list(self._sample),
            "followed": [[cell, count] for cell, count in sorted(self._followed.items())],
            "roughness_counts": [[symbol, count] for symbol, count in enumerate(self._roughness_counts) if count],
        }

    def update(self, value: float | None) -> float:
        """The score of the next value, 0 (expected) to 1 (never seen anything like it); the model learns it."""
        if value is None or not math.isfinite(value):
            return 0.0
        half = float(value) / 2  # no difference of two halves overflows
        if not self._seen:
            self._last = self._centre = half
        symbol, roughness = self._symbol(half), self._rougher(half)
        score = self._score(half, symbol, roughness, learn=True)
        self._learn(symbol, self._roughness_symbol(roughness))
        self._last, self._roughness, self._context = half, roughness, symbol
        if self._seen < SAMPLE_SIZE or self._seen % SAMPLE_EVERY == 0:
            self._sample_value(half)
        self._seen += 1
        return score

    def peek(self, value: float | None) -> float:
        """The score that ``update`` would give, without learning."""
        if value is None or not math.isfinite(value):
            return 0.0
        half = float(value) / 2
        return self._score(half, self._symbol(half), self._rougher(half), learn=False)

    def _score(self, half: float, symbol: int, roughness: float, *, learn: bool) -> float:
        if self._seen < LEARNING or (self._width == 0 and half == self._centre):
            return 0.0
        score = 0.0
        for fact, bits in enumerate((self._value_bits(symbol), self._roughness_bits(roughness))):
            extreme = self._extremes[fact]
            score = max(score, bits / (2 * max(extreme, SMALLEST_EXTREME)))
            if learn:
                self._extremes[fact] = max(extreme * DECAY, min(bits, extreme * GROWTH))
        return min(score, 1.0)

    def _value_bits(self, symbol: int) -> float:
        """Order 1 over the present context and, at half weight, its neighbours; one observation's weight on order 0."""
        counts, totals, context = self._followed.get, self._context_totals, self._context
        here = context * ROW + symbol
        above, below = here + ROW, here - ROW
        followed = (
            2 * (2 * counts(here, 0) + counts(here - 1, 0) + counts(here + 1, 0))
            + (2 * counts(above, 0) + counts(above - 1, 0) + counts(above + 1, 0))
            + (2 * counts(below, 0) + counts(below - 1, 0) + counts(below + 1, 0))
        ) / 8
        total = totals[context] + (totals[context - 1] + totals[context + 1]) / 2
        order_0 = _probability(self._symbol_counts, self._total, symbol)
        return -math.log2((followed + COUNT * order_0) / (total + COUNT))

    def _roughness_bits(self, roughness: float) -> float:
        return -math.log2(_probability(self._roughness_counts, self._roughness_total, self._roughness_symbol(roughness)))

    def _symbol(self, half: float) -> int:
        """Linear within the sample's usual range, logarithmic beyond it, bounded."""
        distance = half - self._centre
        if self._width == 0:
            return CENTRE if distance == 0 else CENTRE + int(math.copysign(REACH, distance))
        return _nearest(BINS * _compressed(distance / self._width))

    def _rougher(self, half: float) -> float:
        return self._roughness + (abs(half - self._last) - self._roughness) / ROUGHNESS_SPAN

    def _roughness_symbol(self, roughness: float) -> int:
        if roughness == 0:
            return CENTRE - REACH
        relative = roughness / self._width if self._width else math.inf
        return _nearest(ROUGHNESS_PER_OCTAVE * math.log2(relative)) if relative else CENTRE - REACH

    def _learn(self, symbol: int, roughness_symbol: int) -> None:
        cell = self._context * ROW + symbol
        self._followed[cell] = self._followed.get(cell, 0) + COUNT
        self._context_totals[self._context] += COUNT
        self._symbol_counts[symbol] += COUNT
        self._total += COUNT
        self._roughness_counts[roughness_symbol] += COUNT
        self._roughness_total += COUNT
        if self._seen % PERIOD == PERIOD - 1:
            self._roughness_counts = [count // 2 for count in self._roughness_counts]
            self._forget()
        while len(self._followed) > MAX_CELLS:
            self._forget()

    def _forget(self) -> None:
        self._followed = {cell: count // 2 for cell, count in self._followed.items() if count > 1}
        self._sum_up()

    def _sum_up(self) -> None:
        self._symbol_counts, self._context_totals = [0] * ROW, [0] * ROW
        for cell, count in self._followed.items():
            context, symbol = divmod(cell, ROW)
            self._context_totals[context] += count
            self._symbol_counts[symbol] += count
        self._total = sum(self._symbol_counts)
        self._roughness_total = sum(self._roughness_counts)

    def _sample_value(self, half: float) -> None:
        self._sample.append(half)
        bisect.insort(self._ordered, half)
        if len(self._sample) > SAMPLE_SIZE:
            del self._ordered[bisect.bisect_left(self._ordered, self._sample.pop(0))]
        self._place()

    def _measure(self) -> None:
        self._ordered = sorted(self._sample)
        self._centre = self._width = 0.0
        if self._sample:
            self._place()

    def _place(self) -> None:
        """Centre and half width of the usual range; of the whole range when the usual one is a single value."""
        ordered = self._ordered
        cut = len(ordered) // TAIL
        low, high = ordered[cut], ordered[-1 - cut]
        if low == high:
            low, high = ordered[0], ordered[-1]
        self._centre, self._width = (low + high) / 2, (high - low) / 2


def _probability(counts: list[int], total: int, symbol: int) -> float:
    """The share of a symbol and, at half weight, its neighbours; one observation's weight on symbols that are not known."""
    known = 2 * counts[symbol] + counts[symbol - 1] + counts[symbol + 1]
    distance = 0 if known else _distance(counts, symbol)
    return (known / 4 + COUNT * 2.0 ** -(UNKNOWN_BITS + DISTANCE_BITS * distance)) / (total + COUNT)


def _distance(counts: list[int], symbol: int) -> int:
    """Steps to the nearest known symbol, whose neighbours count as known; ``FARTHEST`` at most."""
    for distance in range(1, FARTHEST):
        if any(counts[max(symbol - distance - 1, 0) : symbol - distance]) or any(counts[symbol + distance + 1 : symbol + distance + 2]):
            return distance
    return FARTHEST


def _compressed(distance: float) -> float:
    """Linear up to 1, then 1 + its logarithm, on both sides."""
    if distance > 1:
        return 1 + math.log(distance)
    if distance < -1:
        return -1 - math.log(-distance)
    return distance


def _nearest(position: float) -> int:
    """The symbol of a position around the centre, bounded."""
    return CENTRE + math.floor(min(max(position, -REACH), REACH) + 0.5)


def _row(counts: Mapping[int, int]) -> list[int]:
    return [counts.get(symbol, 0) for symbol in range(ROW)]
