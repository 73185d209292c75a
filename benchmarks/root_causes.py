"""How well the slices behind a move are found: F1 by kind of case, silence where nothing stands out, time, calibration.

The cases are made here: leaves over three to six attributes with heavy-tailed volumes, causes of one to three attributes
planted in some of them. A predicted slice counts only when all its attribute values are right, and right and wrong ones
are added up over the cases of a family (micro F1). For calibration the values of every case are dealt out anew over its
leaves, after which no slice is behind the move. That scatters whatever moved together, so nulls are drawn as well: the
failures of now and of a history as short come of one rate, of a rate that differs by leaf and time (beta-binomial), or
of three times the rate now, everywhere. Adtributor, written here from its paper (Bhagwan et al., NSDI 2014),
answers the same cases in the same run; it knows causes of one attribute only. The reference cases, other ones, are scored
where they are present (METAMON_SHARED_CASES, or ../shared/cases).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from _common import Report, Stopwatch, Target, arguments, reference_cases

from metamon_assets.statistics.localisation import localise

Rng = np.random.Generator
Measure = str | tuple[str, str]
Cause = dict[str, str]
Answer = list[tuple[Cause, float]]  # attributes and p-value
Localise = Callable[["Case", float], Answer]


@dataclass(frozen=True, slots=True)
class Case:
    """Leaves, what was planted in them, and how to call ``localise`` on them."""

    frame: pd.DataFrame
    dimensions: list[str]
    causes: list[Cause]
    actual: Measure = "actual"
    forecast: Measure = "forecast"


@dataclass(frozen=True, slots=True)
class Family:
    """How the cases of a family are made. ``lift``: by how much a slice moves, relative to its forecast."""

    kind: str  # additive, dense, sparse, mean or real
    causes: tuple[int, ...] = (0,)
    lift: tuple[float, float] = (0.0, 0.0)
    noise: tuple[float, ...] = (0.0,)  # standard deviation of an additive measure, relative to its forecast


FAMILIES = {
    "additive, clean": Family("additive", (1,), (0.5, 1.0), (0.01, 0.03)),
    "additive, several causes": Family("additive", (2, 3), (0.3, 1.0), (0.01, 0.03, 0.06)),
    "additive, noisy": Family("additive", (1, 1, 2), (0.5, 1.0), (0.12, 0.2)),
    "additive, hard": Family("additive", (1, 2, 3, 4), (0.2, 0.5), (0.15, 0.25)),
    "ratio, dense": Family("dense", (1, 2, 3), (1.9, 4.0)),
    "ratio, dense and hard": Family("dense", (1, 2, 3, 4), (0.35, 1.0)),
    "ratio, sparse": Family("sparse", (1, 2), (1.7, 5.0)),
    "ratio, sparse and hard": Family("sparse", (1, 2, 3), (0.7, 1.4)),
    "ratio of means": Family("mean", (1, 2), (1.0, 2.0)),
    "like real": Family("real", (1,) * 19 + (2,)),
    "none, additive": Family("additive", noise=(0.01, 0.06, 0.15, 0.25)),
    "none, ratio, dense": Family("dense"),
    "none, ratio, sparse": Family("sparse"),
    "none, ratio of means": Family("mean"),
    "none, like real": Family("real"),
}
TARGETS = (
    Target("F1 over all cases with a cause", "", 0.84),
    *(Target(f"F1: {name}", "", 0.65 if name == "like real" else None) for name in FAMILIES if not name.startswith("none")),
    Target("empty answers without a cause, additive", "", 0.99),
    Target("empty answers without a cause, ratio", "", 0.99),
    Target("permuted data with a false slice, alpha .01", "", 0.01, at_least=False),
    Target("permuted data with a false slice, alpha .05", "", 0.05, at_least=False),
    Target("drawn data with a false slice, alpha .01, binomial", "", 0.01, at_least=False),
    Target("drawn data with a false slice, alpha .01, all times 3", "", 0.01, at_least=False),
    Target("drawn data with a false slice, alpha .01, beta-binomial", ""),
    Target("milliseconds a case", "ms", 50, at_least=False),
    Target("F1 of Adtributor over all cases with a cause", ""),
    Target("empty answers of Adtributor without a cause", ""),
    Target("reference cases: F1 over all with a cause", "", 0.84),
    Target("reference cases: F1 of the real ones", "", 0.65),
    Target("reference cases: empty answers without a cause", "", 1.0),
)
NAMES = ("model", "prompt_version", "tenant", "region", "tool", "agent")
RATIO = (("num_actual", "den_actual"), ("num_forecast", "den_forecast"))
PERIODS = (1, 3, 7, 28)  # of history behind the forecast of a ratio
CASES, QUICK_CASES = 100, 30  # of each family
DRAWN = 5  # times as many data sets of each kind of drawn nulls
SHARED = reference_cases("root_causes")


def main() -> int:
    parser = arguments("Root causes: F1 by family, silence without a cause, calibration on permuted data, milliseconds a case.")
    parser.add_argument("--cases", type=int, help=f"of each family (default {CASES}; {QUICK_CASES} with --quick)")
    options = parser.parse_args()
    options.cases = options.cases or (QUICK_CASES if options.quick else CASES)
    report = Report("root_causes", TARGETS, options)
    _made(report)
    _drawn(report)
    if SHARED.is_dir():
        _reference(report)
    else:
        print(f"reference cases: none in {SHARED}")
    return report.finish()


class Score:
    """Right, wrong and missing slices, and how many answers were empty."""

    def __init__(self) -> None:
        self.right = self.wrong = self.missing = self.empty = self.cases = 0

    def add(self, answer: Answer, causes: Iterable[Cause]) -> None:
        named, true = {_key(attributes) for attributes, _ in answer}, {_key(cause) for cause in causes}
        self.right += len(named & true)
        self.wrong += len(named - true)
        self.missing += len(true - named)
        self.empty += not named
        self.cases += 1

    @property
    def f1(self) -> float:
        return 2 * self.right / max(2 * self.right + self.wrong + self.missing, 1)

    @property
    def share_empty(self) -> float:
        return self.empty / max(self.cases, 1)

    def __str__(self) -> str:
        return f"{self.right} right, {self.wrong} wrong, {self.missing} missing in {self.cases} cases"


def _made(report: Report) -> None:
    ours, theirs, silent_peer = Score(), Score(), Score()
    silent = {"additive": Score(), "ratio": Score()}
    seconds: list[float] = []
    false: list[float] = []
    for at, name in enumerate(FAMILIES):
        rng = np.random.default_rng([report.arguments.seed, at])
        here = Score()
        for case in cases(name, report.arguments.cases, rng):
            with Stopwatch() as watch:
                answer = ours_of(case, 0.01)
            seconds.append(watch.seconds)
            here.add(answer, case.causes)
            if case.causes:
                ours.add(answer, case.causes)
                theirs.add(adtributor(case, 0.01), case.causes)
            else:
                silent["additive" if isinstance(case.actual, str) else "ratio"].add(answer, [])
                silent_peer.add(adtributor(case, 0.01), [])
            false.append(min((p_value for _, p_value in ours_of(permuted(case, rng), 0.05)), default=1.0))
        if not name.startswith("none"):
            # Thirty cases of one kind leave chance a tenth or more to play with.
            limit = 0.5 if report.arguments.quick and name == "like real" else None
            report.record(f"F1: {name}", here.f1, str(here), limit=limit)
    report.record("F1 over all cases with a cause", ours.f1, str(ours))
    for kind, score in silent.items():
        report.record(f"empty answers without a cause, {kind}", score.share_empty, f"{score.cases} cases")
    for alpha in (0.01, 0.05):
        share = float(np.mean(np.array(false) <= alpha))
        report.record(f"permuted data with a false slice, alpha .{100 * alpha:02.0f}", share, f"{len(false)} data sets, all families")
    report.record("milliseconds a case", 1000 * float(np.mean(seconds)), f"mean of {len(seconds)}; largest {1000 * max(seconds):.0f}")
    report.record("F1 of Adtributor over all cases with a cause", theirs.f1, str(theirs))
    report.record("empty answers of Adtributor without a cause", silent_peer.share_empty, f"{silent_peer.cases} cases")


def _drawn(report: Report) -> None:
    for at, kind in enumerate(("binomial", "all times 3", "beta-binomial")):
        rng, count = np.random.default_rng([report.arguments.seed, 1000 + at]), DRAWN * report.arguments.cases
        false = sum(bool(ours_of(drawn_null(kind, rng), 0.01)) for _ in range(count))
        # So few data sets leave chance more to play with: three standard deviations of it.
        limit = 0.01 + 3 * math.sqrt(0.01 * 0.99 / count) if report.arguments.quick and kind != "beta-binomial" else None
        name = f"drawn data with a false slice, alpha .01, {kind}"
        report.record(name, false / count, f"{false} of {count} data sets, full, sparse and correlated attributes", limit=limit)


def _reference(report: Report) -> None:
    everything, real, none = Score(), Score(), Score()
    for truth in json.loads((SHARED / "truth.json").read_text(encoding="utf-8")):
        types = dict.fromkeys(truth["dimensions"], str)
        frame = pd.read_csv(SHARED / f"{truth['case']}.csv", dtype=types, keep_default_na=False)
        case = Case(frame, truth["dimensions"], truth["causes"], *(RATIO if truth["measure"] == "ratio" else ()))
        answer = ours_of(case, 0.01)
        (everything if case.causes else none).add(answer, case.causes)
        if truth["family"] == "real_rs":
            real.add(answer, case.causes)
    report.record("reference cases: F1 over all with a cause", everything.f1, str(everything))
    report.record("reference cases: F1 of the real ones", real.f1, str(real))
    report.record("reference cases: empty answers without a cause", none.share_empty, f"{none.cases} cases")


def _key(attributes: Cause) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(attributes.items()))


def ours_of(case: Case, alpha: float) -> Answer:
    """What ``localise`` answers."""
    found = localise(case.frame, case.dimensions, case.actual, case.forecast, alpha=alpha)
    return [({name: str(value) for name, value in slice_.attributes.items()}, slice_.p_value) for slice_ in found]


def adtributor(case: Case, _: float) -> Answer:
    """The values of one attribute that explain most, by its paper: 10 % each, 67 % together, and of the attributes the most surprising."""
    best: tuple[float, Answer] = (0.0, [])
    for name in case.dimensions:
        power, surprise = _powers(case, name)
        taken, explained, total = [], 0.0, 0.0
        for value in surprise.sort_values(ascending=False).index:
            if power[value] > 0.1:
                taken.append(value)
                explained += power[value]
                total += surprise[value]
            if explained > 0.67:
                best = max(best, (total, [({name: value}, 0.0) for value in taken]), key=lambda found: found[0])
                break
    return best[1]


def _powers(case: Case, name: str) -> tuple[pd.Series, pd.Series]:
    """Explanatory power (of a ratio by partial derivatives, normed to one) and surprise (Jensen-Shannon) of each value."""
    pairs = zip(*([measure] if isinstance(measure, str) else measure for measure in (case.actual, case.forecast)), strict=True)
    sums = case.frame.groupby(name)[[column for pair in pairs for column in pair]].sum().to_numpy().T
    moved, whole = sums[::2] - sums[1::2], sums[1::2].sum(axis=1)
    ratio = len(moved) == 2
    power = (moved[0] * whole[1] - moved[1] * whole[0]) / (whole[1] * (whole[1] + moved[1])) if ratio else moved[0]
    surprise = np.zeros(sums.shape[1])
    for actual, forecast in zip(sums[::2], sums[1::2], strict=True):
        p, q = forecast / max(forecast.sum(), 1e-12) + 1e-12, actual / max(actual.sum(), 1e-12) + 1e-12
        surprise += 0.5 * (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q)))
    values = sorted(case.frame[name].unique())
    return pd.Series(power / (power.sum() or 1.0), values), pd.Series(surprise, values)


def cases(name: str, count: int, rng: Rng) -> Iterator[Case]:
    """``count`` cases of a family."""
    make = _real_case if FAMILIES[name].kind == "real" else _additive_case if FAMILIES[name].kind == "additive" else _ratio_case
    while count:
        try:
            yield make(FAMILIES[name], rng)
        except _NoPlaceError:
            continue
        count -= 1


def permuted(case: Case, rng: Rng) -> Case:
    """The same leaves with their values dealt out anew: no slice is behind the move any longer."""
    frame = case.frame.copy()
    values = [column for column in frame if column not in case.dimensions]
    frame[values] = frame[values].to_numpy()[rng.permutation(len(frame))]
    return replace(case, frame=frame, causes=[])


def drawn_null(kind: str, rng: Rng) -> Case:
    """Failures without a slice behind them: all combinations of four attributes, those that some requests have, or correlated ones."""
    sizes, shape = (5, 6, 8, 4), rng.choice(["full", "sparse", "correlated"])
    if shape == "full":
        codes = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
        asked = np.ceil(rng.lognormal(2, 1.5, len(codes))).astype(int)
    else:
        requests = np.stack([(rng.zipf(1.6, 4000) - 1) % size for size in sizes], axis=1)
        if shape == "correlated":  # the second attribute follows from the first, but for one request in ten
            requests[:, 1] = (requests[:, 0] + (rng.random(4000) < 0.1)) % sizes[1]
        codes, asked = np.unique(requests, axis=0, return_counts=True)
        asked *= 3
    frame, dimensions, _ = _named(codes, [], rng)
    for side, factor in (("actual", 3 if kind == "all times 3" else 1), ("forecast", 1)):
        rate = rng.beta(1, 19, len(codes)) if kind == "beta-binomial" else 0.05 * factor
        frame[f"num_{side}"], frame[f"den_{side}"] = rng.binomial(asked, rate), asked
    return Case(frame, dimensions, [], *RATIO)


class _NoPlaceError(Exception):
    """These leaves have no slices that could be told from others."""


def _additive_case(family: Family, rng: Rng) -> Case:
    codes, volume = _leaves(rng, 100)
    causes, shift = _plant(family, codes, volume, rng)
    frame, dimensions, named = _named(codes, causes, rng)
    if rng.random() < 0.4:
        shift = -np.minimum(shift, 0.95)
    noise = 1 + rng.choice(family.noise) * rng.standard_normal(volume.size)
    together = rng.uniform(0.7, 1.5) if not causes and rng.random() < 0.3 else 1.0  # everything moves: no slice is behind it
    frame["forecast"] = volume.round(3)
    frame["actual"] = (volume * (1 + shift) * noise * together).clip(0).round(3)
    return Case(frame, dimensions, named)


def _ratio_case(family: Family, rng: Rng) -> Case:
    """Failures or latencies, with more traffic in one place, and often with a move of everything when no slice moves."""
    codes, volume = _leaves(rng, {"sparse": 7, "dense": 400, "mean": 60}[family.kind])
    causes, shift = _plant(family, codes, volume, rng)
    frame, dimensions, named = _named(codes, causes, rng)
    together = rng.uniform(1.3, 2.2) if not causes and rng.random() < 0.5 else 1.0
    base = {"sparse": 0.05, "dense": 0.07, "mean": 1.0}[family.kind] * _effects(codes, 0.35, rng)
    for _ in range(2):  # pairs of values that have always been different
        base[_pair(codes, rng)] *= rng.uniform(2, 5)
    if family.kind != "mean":
        base = base.clip(max=0.15)
    traffic = volume.copy()
    shifted = rng.integers(codes.shape[1])
    traffic[codes[:, shifted] == rng.integers(codes[:, shifted].max() + 1)] *= rng.uniform(1.3, 3.0)
    draw = _latencies if family.kind == "mean" else _failures
    _fill(frame, draw(base * (1 + shift) * together, traffic, rng), [draw(base, volume, rng) for _ in range(rng.choice(PERIODS))])
    seen = (frame["den_actual"] > 0) | (frame["den_forecast"] > 0)
    return Case(frame[seen].reset_index(drop=True), dimensions, named, *RATIO)


def _real_case(family: Family, rng: Rng) -> Case:
    """Few combinations of skewed values, rates near zero that come in bursts, and a jump that differs by leaf and by value."""
    count, attributes = int(np.exp(rng.uniform(np.log(20), np.log(600)))), int(rng.integers(4, 6))
    columns = []
    for _ in range(attributes):
        share = rng.permutation(1 / np.arange(1, rng.integers(2, 9) + 1) ** rng.uniform(0.7, 1.6))
        columns.append(rng.choice(share.size, 3 * count, p=share / share.sum()))
    codes = np.unique(np.stack(columns, axis=1), axis=0)
    codes = codes[np.sort(rng.permutation(len(codes))[:count])]
    volume = _effects(codes, 0.6, rng) * rng.lognormal(0, 1.2, len(codes))
    volume *= np.exp(rng.uniform(np.log(20), np.log(1500))) / volume.mean()
    causes, inside = _plant(family, codes, volume, rng)
    base = (rng.uniform(0.01, 0.035) * _effects(codes, 0.4, rng)).clip(max=0.5)
    struck = (inside > 0) & (rng.random(len(codes)) > rng.uniform(0, 0.5))  # some leaves do not take part
    uneven = _effects(codes, 0.5, rng) * rng.gamma(4, 1 / 4, len(codes))
    jump = np.where(struck, rng.uniform(0.03, 0.5) * uneven, 0).clip(max=0.95)
    steady = rng.uniform(0.5, 10)
    past = [_failures(base * rng.gamma(steady, 1 / steady, len(codes)), volume, rng) for _ in range(4)]
    traffic = volume * rng.lognormal(0, 0.2, len(codes))
    failed, asked = _failures(base * rng.gamma(steady, 1 / steady, len(codes)), traffic, rng)
    failed = failed + rng.binomial(asked - failed, jump)
    usual = (base * asked)[inside > 0].sum()
    if causes and failed[inside > 0].sum() - usual < 6 * math.sqrt(usual):
        raise _NoPlaceError
    frame, dimensions, named = _named(codes, causes, rng)
    _fill(frame, (failed, asked), past)
    return Case(frame, dimensions, named, *RATIO)


def _leaves(rng: Rng, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Codes of all combinations of three to six attributes of 2 to 20 values, and their volumes."""
    sizes = np.zeros(0)
    while not 500 <= np.prod(sizes) <= 2500:
        sizes = np.exp(rng.uniform(np.log(2), np.log(20), rng.integers(3, 7))).astype(int)
    codes = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    volume = _effects(codes, 0.6, rng) * rng.lognormal(0, 0.8, len(codes))
    return codes, volume * mean / volume.mean()


def _effects(codes: np.ndarray, spread: float, rng: Rng) -> np.ndarray:
    """A factor for each value of each attribute, multiplied over the attributes of a leaf."""
    return np.prod([rng.lognormal(0, spread, column.max() + 1)[column] for column in codes.T], axis=0)


def _pair(codes: np.ndarray, rng: Rng) -> np.ndarray:
    both, leaf = rng.choice(codes.shape[1], 2, replace=False), codes[rng.integers(len(codes))]
    return (codes[:, both] == leaf[both]).all(axis=1)


def _plant(family: Family, codes: np.ndarray, volume: np.ndarray, rng: Rng) -> tuple[list[dict[int, int]], np.ndarray]:
    """Causes of one to three attributes, disjoint, each clearly smaller than any slice around it; and how much every leaf moves."""
    count = int(rng.choice(family.causes))
    causes: list[dict[int, int]] = []
    shift = np.zeros(len(codes))
    smallest, largest = {"sparse": (0.02, 0.4), "real": (0.03, 0.6)}.get(family.kind, (0.003, 0.4))
    for _ in range(200):
        if len(causes) == count:
            return causes, shift
        attributes = np.sort(rng.choice(codes.shape[1], int(rng.choice([1, 2, 2, 3])), replace=False))
        leaf = codes[rng.integers(len(codes))]
        held = codes[:, attributes] == leaf[attributes]
        inside = held.all(axis=1)
        around = min(volume[np.delete(held, at, axis=1).all(axis=1)].sum() for at in range(attributes.size))
        share = volume[inside].sum() / volume.sum()
        if smallest <= share <= largest and inside.sum() > 1 and not shift[inside].any() and around > 1.2 * volume[inside].sum():
            causes.append({int(at): int(leaf[at]) for at in attributes})
            shift[inside] = rng.uniform(*family.lift) if family.kind != "real" else 1
    raise _NoPlaceError


def _named(codes: np.ndarray, causes: list[dict[int, int]], rng: Rng) -> tuple[pd.DataFrame, list[str], list[Cause]]:
    dimensions = [str(name) for name in rng.choice(NAMES, codes.shape[1], replace=False)]
    frame = pd.DataFrame({name: [f"{name[0]}{code}" for code in column] for name, column in zip(dimensions, codes.T, strict=True)})
    return frame, dimensions, [{dimensions[at]: f"{dimensions[at][0]}{value}" for at, value in cause.items()} for cause in causes]


def _fill(frame: pd.DataFrame, now: tuple[np.ndarray, np.ndarray], past: list[tuple[np.ndarray, np.ndarray]]) -> None:
    frame["num_actual"], frame["den_actual"] = now
    frame["num_forecast"], frame["den_forecast"] = np.mean(past, axis=0).round(4)


def _failures(rate: np.ndarray, volume: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    asked = rng.poisson(volume)
    return rng.binomial(asked, np.minimum(rate, 0.9)), asked


def _latencies(mean: np.ndarray, volume: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Sums of latencies with a coefficient of variation of 0.8, as gamma variables, and their number."""
    asked = rng.poisson(volume)
    shape = asked.clip(1) / 0.64
    return np.where(asked > 0, rng.gamma(shape) * mean * asked / shape, 0).round(4), asked


if __name__ == "__main__":
    sys.exit(main())
