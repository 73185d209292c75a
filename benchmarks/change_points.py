"""Change points and trends: are changes found where people would mark them, and do the trend's intervals hold?

The change points are scored as in van den Burg, Williams: An Evaluation of Change Point Detection Algorithms (2020): covering,
and F1 with a margin of five, against several annotators. The series are simulated, of many shapes, with annotators who see
large changes, may overlook small ones, err by a place or two and sometimes mark what is not there; beside ours stand three
peers on the same series. The shares are such that the peers come out about as published for real series (no change at all
.57 and .65). Where the shared cases are present, the same is reported for them, in groups.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise, product

import numpy as np
from _common import Report, Stopwatch, Target, arguments, reference_cases
from numpy.typing import NDArray

from metamon_assets.statistics.trend import change_points, trend

Floats = NDArray[np.float64]
Random = np.random.Generator
Marked = tuple[Floats, list[tuple[int, float]]]  # a series, and its changes with how visible each is (1: clearly)
Detector = Callable[[Floats], list[int]]

CASES = reference_cases("trend")
GROUPS = ("all", "main", "quality_control")
ANNOTATORS, MARGIN = 5, 5
PERSISTENCES, LENGTHS, SLOPE = (0.0, 0.3, 0.6, 0.8), (28, 56, 90), 0.03


def main() -> int:
    options = arguments("Change points against simulated annotators and peers; size and coverage of trends.").parse_args()
    report = Report("change_points", TARGETS, options)
    _changes(report, 8 if options.quick else 50)
    _quiet(report, 40 if options.quick else 200)
    _speed(report)
    _trends(report, 1000 if options.quick else 2000, LENGTHS[:1] if options.quick else LENGTHS)
    if CASES.is_dir():
        _cases(report)
    return report.finish()


def _changes(report: Report, each: int) -> None:
    """Covering and F1 of every detector, by shape and over all series."""
    everything = []
    for index, (shape, (make, share)) in enumerate(SHAPES.items()):
        scores = []
        for k in range(round(each * share)):
            random = np.random.default_rng([report.arguments.seed, index, k])
            series, changes = make(random)
            annotators = _annotations(random, series.size, changes)
            scores.append([_scores(annotators, detect(series), series.size) for detect in DETECTORS.values()])
        cells = (f"{name} {score[0]:.2f} {score[1]:.2f}" for name, score in zip(DETECTORS, np.mean(scores, axis=0), strict=True))
        print(f"  {shape:<10} {'  '.join(cells)}", flush=True)
        everything += scores
    for name, means in zip(DETECTORS, np.mean(everything, axis=0).tolist(), strict=True):
        for score, value in zip(("covering", "F1"), means, strict=True):
            report.record(f"{score}, {name}", value, f"{len(everything)} simulated series")


def _quiet(report: Report, count: int) -> None:
    """How often something is found where there is nothing."""
    random = np.random.default_rng([report.arguments.seed, 100])
    for name, phi in (("white noise", 0.0), ("persistent noise", 0.6), ("a random walk", 1.0)):
        false = [bool(change_points(_autoregression(random, int(random.integers(30, 400)), phi))) for _ in range(count)]
        report.record(f"share with a change, {name}", float(np.mean(false)), f"{count} series of 30 to 400 values")


def _speed(report: Report) -> None:
    random = np.random.default_rng([report.arguments.seed, 101])
    trend(random.normal(size=90))  # imports SciPy
    for name, length, function in (
        ("change points of 100 values", 100, change_points),
        ("change points of 1000 values", 1000, change_points),
        ("trend of 90 values", 90, trend),
    ):
        runs = []
        for _ in range(5):
            series = _autoregression(random, length, 0.5)
            with Stopwatch() as watch:
                function(series)
            runs.append(1000 * watch.seconds)
        report.record(name, runs)


def _trends(report: Report, count: int, lengths: Sequence[int]) -> None:
    """How often the test rejects when there is no trend, and how often the interval holds the slope that is there."""
    for phi, length in product(PERSISTENCES, lengths):
        random = np.random.default_rng([report.arguments.seed, 102, length, round(100 * phi)])
        t = np.arange(length)
        covered = rejected = 0
        for _ in range(count):
            without, with_trend = (_autoregression(random, length, phi) + np.sin(2 * np.pi * t / 7) for _ in range(2))
            rejected += trend(without).p_value < 0.05
            low, high = trend(with_trend + SLOPE * t).ci
            covered += low <= SLOPE <= high
        report.record(f"size of the trend test, φ {phi}, n {length}", rejected / count, f"{count} series with a weekly pattern")
        report.record(f"coverage of the slope, φ {phi}, n {length}", covered / count, f"{count} others")


def _cases(report: Report) -> None:
    described = json.loads((CASES / "annotations.json").read_text(encoding="utf-8"))
    scores = []
    for name, about in sorted(described.items()):
        with (CASES / "series" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            series = np.array([float(row["value"]) if row["value"] else math.nan for row in csv.DictReader(file)])
        found, annotators = change_points(series), list(about["annotations"].values())
        scores.append((about["group"], _scores(annotators, found, series.size)))
    for group in GROUPS:
        those = [score for name, score in scores if group in {"all", name}]
        for score, value in zip(("covering", "F1"), np.mean(those, axis=0).tolist(), strict=True):
            report.record(f"{score}, shared cases, {group}", value, f"{len(those)} series")


# --- scores (van den Burg, Williams 2020, section 4)


def _scores(annotators: Sequence[Sequence[int]], found: Sequence[int], n: int) -> tuple[float, float]:
    return covering(annotators, found, n), f1(annotators, found)


def covering(annotators: Sequence[Sequence[int]], found: Sequence[int], n: int) -> float:
    """How well the found segments overlap the annotators', 0 to 1."""
    guesses = _segments(found, n)
    overlaps = [
        (stop - start) / n * max(max(min(stop, b) - max(start, a), 0) / (max(stop, b) - min(start, a)) for a, b in guesses)
        for places in annotators
        for start, stop in _segments(places, n)
    ]
    return sum(overlaps) / len(annotators)


def f1(annotators: Sequence[Sequence[int]], found: Sequence[int]) -> float:
    """The harmonic mean of precision, against what anybody marked, and the mean of the annotators' recalls."""
    sets = [{0, *places} for places in annotators]
    guesses = {0, *found}
    precision = _matched(set().union(*sets), guesses) / len(guesses)
    recall = float(np.mean([_matched(places, guesses) / len(places) for places in sets]))
    return 2 * precision * recall / (precision + recall)


def _segments(places: Sequence[int], n: int) -> list[tuple[int, int]]:
    edges = [0, *sorted(set(places) - {0, n}), n]
    return list(pairwise(edges))


def _matched(true: set[int], guesses: set[int]) -> int:
    """How many true changes have a guess within the margin; a guess counts once."""
    free, matched = set(guesses), 0
    for place in sorted(true):
        near = [guess for guess in free if abs(guess - place) <= MARGIN]
        if near:
            free.remove(min(near, key=lambda guess: (abs(guess - place), guess)))
            matched += 1
    return matched


# --- peers: changes of the mean of the standardised series, as their authors' packages find them by default


def nothing(_: Floats) -> list[int]:
    return []


def single_change(series: Floats) -> list[int]:
    """At most one change (AMOC): the normal likelihood ratio against the modified Bayes information criterion."""
    y = _standardised(series)
    gain, place = _best_split(y, 0, y.size)
    return [place] if gain > 3 * math.log(y.size) else []


def binary_segmentation(series: Floats) -> list[int]:
    """Up to five changes, each the best split of one of the segments there are."""
    y = _standardised(series)
    edges = [0, y.size]
    while len(edges) < 7:
        gain, place = max(_best_split(y, a, b) for a, b in pairwise(edges))
        if gain <= 3 * math.log(y.size):
            break
        edges = sorted([*edges, place])
    return edges[1:-1]


def _standardised(series: Floats) -> Floats:
    return (series - series.mean()) / max(float(series.std(ddof=1)), 1e-12)


def _best_split(y: Floats, start: int, stop: int) -> tuple[float, int]:
    sums, n = np.cumsum(y[start:stop]), stop - start
    if n < 2:
        return 0.0, start
    sizes = np.arange(1, n)
    gains = sums[:-1] ** 2 / sizes + (sums[-1] - sums[:-1]) ** 2 / (n - sizes) - sums[-1] ** 2 / n
    return float(gains.max()), start + 1 + int(gains.argmax())


DETECTORS: dict[str, Detector] = {
    "ours": change_points,
    "no change": nothing,
    "single change": single_change,
    "binary segmentation": binary_segmentation,
}


# --- series


def _annotations(random: Random, n: int, changes: list[tuple[int, float]]) -> list[list[int]]:
    """What people mark: each has an eye of their own, sees what is visible enough for it, and is off by a place or two."""
    marks: list[list[int]] = []
    for _ in range(ANNOTATORS):
        strictness = 0.5 * math.exp(random.normal(0, 0.5))
        seen = [place for place, visibility in changes if visibility * math.exp(random.normal(0, 0.3)) > strictness]
        mine = {int(np.clip(place + round(random.normal(0, min(2, n / 60))), 1, n - 1)) for place in seen}
        if random.random() < 0.15:
            mine.add(int(random.integers(3, n - 3)))
        marks.append(sorted(mine))
    return marks


def _autoregression(random: Random, n: int, phi: float) -> Floats:
    """AR(1) noise of variance one; a random walk for ``phi`` 1."""
    noise = random.normal(size=n)
    if phi == 1:
        return np.cumsum(noise)
    noise[1:] *= math.sqrt(1 - phi**2)
    for t in range(1, n):
        noise[t] += phi * noise[t - 1]
    return noise


def _noise(random: Random, n: int) -> Floats:
    return _autoregression(random, n, float(random.choice([0, 0, 0.3, 0.5, 0.7, 0.85])))


def _length(random: Random, shortest: int, longest: int = 991) -> int:
    return int(math.exp(random.uniform(math.log(shortest), math.log(longest))))


def _places(random: Random, n: int, gap: int, shares: Sequence[float] = (0.15, 0.38, 0.24, 0.15, 0.08)) -> list[int]:
    """Changes at least ``gap`` apart and from the ends; ``shares`` is how often there are none, one, two, …"""
    count = min(int(random.choice(len(shares), p=shares)), max(n // gap - 1, 0))
    free = np.sort(random.integers(0, n - (count + 1) * gap + 1, size=count))
    return [int(place + (i + 1) * gap) for i, place in enumerate(free)]


def _signed(random: Random, low: float, high: float) -> float:
    return float(random.choice([-1, 1]) * random.uniform(low, high))


def _wide(random: Random, low: float, high: float) -> float:
    return math.exp(random.uniform(math.log(low), math.log(high)))


def levels(random: Random) -> Marked:
    n = _length(random, 30)
    series, changes = _noise(random, n), []
    for place in _places(random, n, max(4, n // 12)):
        step = _signed(random, 1.5, 8)
        series[place:] += step
        changes.append((place, abs(step) / 2.5))
    return series, changes


def stairs(random: Random) -> Marked:
    n = _length(random, 60)
    series, changes = _noise(random, n) * random.uniform(0.15, 0.6), []
    for place in _places(random, n, max(6, n // 20), (0, 0, 0, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1)):
        step = random.normal(0, 2)
        series[place:] += step
        changes.append((place, abs(step)))
    return series, changes


def slopes(random: Random) -> Marked:
    n = _length(random, 15, 600)
    t, changes = np.arange(n), []
    series = random.normal() * 6 * t / n
    for place in _places(random, n, max(5, n // 7)):
        bend = _signed(random, 1, 4)
        series += 10 * bend * np.maximum(t - place, 0) / n
        series[place:] += random.normal(0, 2) * (random.random() < 0.25)
        changes.append((place, abs(bend) / 1.6))
    return _standardised(series) + _noise(random, n) * _wide(random, 0.01, 0.3), changes


def economies(random: Random) -> Marked:
    """Growth that gets slower or faster, breaks off, or turns into decline."""
    n = _length(random, 20, 250)
    growth, changes = np.full(n, random.uniform(0.4, 2) / n), []
    for place in _places(random, n, max(5, n // 7), (0.2, 0.4, 0.25, 0.15)):
        kind, crisis = random.integers(3), max(2, n // 25)
        if kind == 0:
            growth[place:] += _signed(random, 1.2, 4.8) / n
        elif kind == 1:
            growth[place : place + crisis] -= random.uniform(0.1, 0.35) / crisis
        else:
            growth[place:] *= -random.uniform(0.3, 1.2)
        changes.append((place, 1.2))
    growth += random.uniform(0.1, 0.5) * random.choice([1, 2, 3]) * np.abs(growth).mean() * random.normal(size=n)
    logs = np.cumsum(growth)
    return np.exp(logs) if random.random() < 0.6 else logs, changes


def prices(random: Random) -> Marked:
    """Random walks of changing volatility; people mark the large moves."""
    n = _length(random, 100, 900)
    series, changes = np.cumsum(random.normal(size=n) * np.exp(_autoregression(random, n, 0.95) / 2)), []
    for place in _places(random, n, n // 8, (0.2, 0.4, 0.24, 0.16)):
        move, days = _signed(random, 0.5, 1.5), random.choice([1, max(3, n // 20)])
        series[place:] += move * series.std() * np.minimum(np.arange(n - place) / days, 1)
        changes.append((place, abs(move)))
    return np.exp(_standardised(series) / 1.5) if random.random() < 0.4 else series, changes


def variances(random: Random) -> Marked:
    n = _length(random, 80)
    scale, changes = np.ones(n), []
    for i, place in enumerate(_places(random, n, max(15, n // 8), (0.1, 0.45, 0.35, 0.1))):
        factor = random.uniform(2, 6)
        scale[place:] *= factor if i % 2 == 0 else 1 / factor
        changes.append((place, math.log(factor) / 1.1))
    return _autoregression(random, n, float(random.choice([0, 0.3, 0.6]))) * scale, changes


def seasons(random: Random) -> Marked:
    period = int(random.choice([4, 7, 12, 12]))
    n = _length(random, 6 * period, 500)
    t, changes = np.arange(n), []
    base = random.normal() * 3 * t / n
    for place in _places(random, n, max(10, n // 7)):
        if random.random() < 0.6:
            size = _signed(random, 1, 4)
            base[place:] += size
        else:
            size = _signed(random, 1.2, 4)
            base += 2.5 * size * np.maximum(t - place, 0) / n
        changes.append((place, abs(size) / 2))
    swing = 1 + 0.2 * (base - base.min()) * (random.random() < 0.4)
    pattern = random.normal(size=period) * random.uniform(0.3, 1.5)
    return base + swing * pattern[t % period] + _noise(random, n) * random.uniform(0.2, 0.8), changes


def outliers(random: Random) -> Marked:
    n = _length(random, 60)
    series, changes = _noise(random, n), []
    for place in _places(random, n, max(4, n // 12), (0.4, 0.4, 0.2)):
        step = _signed(random, 3, 8)
        series[place:] += step
        changes.append((place, abs(step) / 2.5))
    count = max(1, int(n * random.uniform(0.005, 0.03)))
    series[random.choice(n, count, replace=False)] += random.choice([-1, 1], count) * random.uniform(5, 15, count)
    return series, changes


def counts(random: Random) -> Marked:
    n = _length(random, 40, 600)
    mean, changes = np.full(n, math.exp(random.uniform(0, 4))), []
    for place in _places(random, n, max(4, n // 12)):
        before, after = mean[place], mean[place] * math.exp(_signed(random, 0.3, 1.5))
        mean[place:] = after
        changes.append((place, float(abs(after - before) / math.sqrt(max(before, after)) / 2.5)))
    return random.poisson(mean * np.exp(0.2 * _autoregression(random, n, 0.5))).astype(np.float64), changes


def epidemics(random: Random) -> Marked:
    """Skewed waves that grow or fade."""
    n = _length(random, 150)
    mean, changes = np.full(n, 2.0), []
    for place in _places(random, n, n // 6, (0.3, 0.5, 0.2)):
        step = random.choice([-1, -1, 1]) * random.uniform(0.8, 2.2)
        mean[place:] += step
        changes.append((place, abs(step) / 1.1))
    wave = random.uniform(0.2, 0.7) * np.sin(2 * np.pi * np.arange(n) / random.uniform(12, 60))
    return np.exp(mean + wave + 0.4 * _autoregression(random, n, 0.8)), changes


def takeoffs(random: Random) -> Marked:
    """Flat, then growth; growth, then a plateau; exponential growth (no change); from one plateau to another."""
    n = _length(random, 20, 600)
    t, place, kind = np.arange(n), int(n * random.uniform(0.3, 0.75)), random.integers(4)
    if kind == 2:
        series, changes = np.exp(t / n * random.uniform(1, 4)), []
    elif kind == 3:
        series, half = 1 / (1 + np.exp((place - t) / n * random.uniform(8, 30))), max(n // 10, 2)
        changes = [(edge, 0.7) for edge in (place - half, place + half) if 4 < edge < n - 4]
    else:
        series, changes = np.maximum(t - place, 0.0) if kind == 0 else np.minimum(t, float(place)), [(place, 1.3)]
    return _standardised(series) + _noise(random, n) * _wide(random, 0.02, 0.4), changes


def shocks(random: Random) -> Marked:
    """A drop and its end, at once or step by step."""
    n = _length(random, 40, 500)
    start, width = int(n * random.uniform(0.25, 0.7)), int(n * random.uniform(0.08, 0.25))
    series = _noise(random, n) * random.uniform(0.1, 0.5) + np.linspace(0, random.normal(0, 2), n)
    series[start : start + width] -= random.uniform(2, 4) * (np.linspace(1, 0, width) if random.random() < 0.5 else 1)
    return series, [(start, 1.5), (start + width, 1.0)]


def smooth(random: Random) -> Marked:
    n = _length(random, 15, 500)
    t = np.arange(n) / n
    series = t * random.choice([-1, 1]) + 0.3 * random.normal() * t**2
    return _standardised(series) + _noise(random, n) * _wide(random, 0.005, 0.5), []


def quiet(random: Random) -> Marked:
    n = _length(random, 15)
    return _noise(random, n), []


# Each with its share; those without a change are rarer, for few of the real series are without any mark.
SHAPES: dict[str, tuple[Callable[[Random], Marked], float]] = {
    function.__name__: (function, share)
    for function, share in (
        (levels, 1), (stairs, 1), (slopes, 1), (economies, 1), (prices, 1), (variances, 1), (seasons, 1), (outliers, 1), (counts, 1),
        (epidemics, 1), (takeoffs, 1), (shocks, 1), (smooth, 0.6), (quiet, 0.5),
    )
}  # fmt: skip

TARGETS = (
    *(
        Target(f"{score}, {name}", "", limit if name == "ours" else None)
        for name in DETECTORS
        for score, limit in (("covering", 0.68), ("F1", 0.70))
    ),
    Target("share with a change, white noise", "", 0.03, at_least=False),
    Target("share with a change, persistent noise", "", 0.05, at_least=False),
    Target("share with a change, a random walk", ""),
    Target("change points of 100 values", "ms"),
    Target("change points of 1000 values", "ms", 1000, at_least=False),
    Target("trend of 90 values", "ms"),
    *(
        target
        for phi, length in product(PERSISTENCES, LENGTHS)
        for target in (
            Target(f"size of the trend test, φ {phi}, n {length}", "", 0.03 if phi < 0.8 else None, upper=0.07),
            Target(f"coverage of the slope, φ {phi}, n {length}", "", 0.93 if phi < 0.8 else None, upper=0.97),
        )
    ),
    *(Target(f"{score}, shared cases, {group}", "", limit) for group in GROUPS for score, limit in (("covering", 0.68), ("F1", 0.70))),
)


if __name__ == "__main__":
    sys.exit(main())
