"""How often the anomaly detector cries wolf, how much of what is planted it finds and how late, and what an update costs.

Series of thirteen kinds are simulated (traffic, latencies, counts, spikes, steps, walks, drifts, temperatures, noise, …), half of them
with the small quirks that real series have. The healthy ones run for four weeks at five minutes. The others have steps of five
minutes to an hour, some with gaps, and zero to four planted anomalies of ten kinds, each within a window as the Numenta
benchmark draws them: together a tenth of the series, centred on the onset. Beside the detector stands the rolling robust z (median and
MAD of a day, one alert per excursion) at the threshold that gives it as many false alarms as the detector has. Then come four plain
series of five minutes (noise, lognormal, error rate, daily course): how soon a shift of 3, 6 and 12 deviations is told, and whether an
incident that comes again two days later is told again. Where the shared
cases are present, their own scorer judges the detector. The parameters of the detector were chosen on seeds 1 to 4, 11 to 14 and 31 to 34
of these series; the seeds used here are others.
"""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
from _common import Report, Target, arguments, reference_cases
from numpy.typing import NDArray

from metamon_assets.statistics.anomaly import HOLD, NOTICE, WARNING, AnomalyScore, Detector, score

TARGETS = (
    Target("time per update", "µs", 30, at_least=False),
    Target("time per record of the rolling robust z", "µs"),
    Target("largest state, as JSON", "bytes"),
    Target("healthy series: excursions told", "per series-day"),
    Target("healthy series: warnings", "per series-day", 0.05, at_least=False),
    Target("healthy series: critical", "per series-day"),
    Target("planted anomalies told within their window", "%"),
    Target("planted anomalies told, by the rolling robust z", "%"),
    Target("planted anomalies with a warning", "%"),
    Target("planted anomalies that became critical", "%"),
    Target("delay from the onset to what is told, median", "records"),
    Target("delay of the rolling robust z, median", "records"),
    *(
        Target(f"shift of {size} deviations, {what} within {minutes} minutes", "%")
        for size in (3, 6, 12)
        for what in ("told", "a warning")
        for minutes in (5, 60)
    ),
    *(Target(f"incident of {minutes} minutes, a warning {when}", "%") for minutes in (30, 120, 360) for when in ("at first", "again")),
    Target("shared cases, standard score", "", 65),
    Target("shared cases, low-FP score", "", 55),
    Target("shared cases, low-FN score", ""),
    Target("shared cases, false alarms", "per series-day", 0.06, at_least=False),
)
TOLD = NOTICE / (NOTICE + WARNING)  # the score from which an excursion is told
Array = NDArray[np.float64]
START = datetime(2026, 3, 2)  # noqa: DTZ001 - a Monday; the simulated clocks have no zone


@dataclass(frozen=True, slots=True)
class Planted:
    """One anomaly: its kind, its first record, and the first and last record of its window."""

    kind: str
    onset: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Simulated:
    """A series and what was planted in it."""

    family: str
    timestamps: list[datetime]
    values: list[float]
    planted: list[Planted] = field(default_factory=list)

    @property
    def days(self) -> float:
        return (self.timestamps[-1] - self.timestamps[0]) / timedelta(days=1)


SHAPES = ((5, 4032), (5, 4032), (5, 4032), (5, 1200), (5, 8064), (15, 2600), (30, 4800), (60, 1500))  # minutes, records


def simulate(rng: np.random.Generator, family: str, anomalies: int, shape: tuple[int, int] | None = None) -> Simulated:
    """A series of a family with that many planted anomalies, of a shape or of any."""
    minutes, records = shape or SHAPES[rng.integers(len(SHAPES))]
    steps = np.full(records, float(minutes))
    if rng.random() < 0.15:  # irregular steps, some gaps
        steps *= rng.uniform(0.7, 1.6, records)
        steps[rng.integers(0, records, 4)] *= rng.integers(10, 80, 4)
    hours = np.cumsum(steps) / 60
    values = _quirks(rng, FAMILIES[family](rng, hours))
    planted: list[Planted] = []
    half = max(int(0.05 * records / max(anomalies, 1)), 6)
    lowest = int(0.15 * records) + half
    for onset in _onsets(rng, anomalies, lowest, records - 2 * half, 2.5 * half):
        kind = str(rng.choice(list(ANOMALIES)))
        _plant(rng, kind, values, hours, onset)
        planted.append(Planted(kind, onset, onset - half, onset + half))
    timestamps = [START + timedelta(seconds=round(hour * 3600)) for hour in hours.tolist()]
    return Simulated(family, timestamps, values.tolist(), planted)


def corpus(seed: int, per_family: int) -> list[Simulated]:
    """Series of every family, of all shapes, with zero to four anomalies."""
    rng = np.random.default_rng(seed)
    return [simulate(rng, family, int(rng.choice(5, p=[0.15, 0.25, 0.3, 0.2, 0.1]))) for family in FAMILIES for _ in range(per_family)]


def _onsets(rng: np.random.Generator, count: int, lowest: int, highest: int, apart: float) -> list[int]:
    chosen: list[int] = []
    for candidate in rng.integers(lowest, highest, 200 * count).tolist():
        if len(chosen) < count and all(abs(candidate - other) > apart for other in chosen):
            chosen.append(candidate)
    return sorted(chosen)


# Families: healthy behaviour. ``hours`` since a Monday's midnight, shape (n,), in; values, shape (n,), out.


def _day(rng: np.random.Generator, hours: Array) -> Array:
    """A daily course between 0 and 1, sharper or rounder, with weaker weekends in half of the cases."""
    phase = 2 * np.pi * (hours - rng.uniform(0, 24)) / 24
    wave = np.sin(phase) + rng.uniform(0, 0.6) * np.sin(2 * phase + rng.uniform(0, 6))
    wave = (wave - wave.min()) / (wave.max() - wave.min())
    weekend = np.where(hours // 24 % 7 >= 5, rng.choice([1.0, rng.uniform(0.4, 0.9)]), 1.0)
    return wave ** rng.uniform(0.7, 2) * weekend


def _ar(rng: np.random.Generator, n: int, phi: float) -> Array:
    """A Gaussian AR(1) of variance one."""
    shocks = rng.standard_normal(n) * math.sqrt(1 - phi * phi)
    level, out = float(rng.standard_normal()), np.empty(n)
    for i, shock in enumerate(shocks.tolist()):
        level = phi * level + shock
        out[i] = level
    return out


def _traffic(rng: np.random.Generator, hours: Array) -> Array:
    rate = 10 ** rng.uniform(1, 4) * (rng.uniform(0.1, 0.5) + _day(rng, hours))
    return rng.poisson(rate * np.exp(rng.uniform(0.03, 0.2) * _ar(rng, len(hours), rng.uniform(0, 0.95)))).astype(float)


def _latency(rng: np.random.Generator, hours: Array) -> Array:
    sigma = rng.uniform(0.1, 0.7)
    log = sigma * _ar(rng, len(hours), rng.uniform(0, 0.9)) + rng.uniform(0, 0.5) * _day(rng, hours)
    return rng.uniform(0.1, 300) * np.exp(log)


def _counts(rng: np.random.Generator, hours: Array) -> Array:
    rate = rng.uniform(0.3, 30) * (0.3 + rng.choice([0, 1]) * _day(rng, hours))
    return rng.poisson(rate * rng.gamma(k := rng.uniform(0.3, 3), 1 / k, len(hours))).astype(float)


def _flat_spikes(rng: np.random.Generator, hours: Array) -> Array:
    n, level = len(hours), rng.uniform(0.1, 50)
    values = level * (1 + rng.uniform(0.002, 0.05) * rng.standard_normal(n))
    at = rng.random(n) < rng.uniform(0.003, 0.03)
    if rng.random() < 0.5:  # a job that runs by the clock
        at = np.floor(hours / (every := rng.choice([1, 3, 6, 24]))) != np.floor((hours - hours[1] + hours[0]) / every)
    return values + at * level * rng.uniform(0.5, 10) * rng.gamma(4, 0.25, n)


def _steps(rng: np.random.Generator, hours: Array) -> Array:
    n, levels = len(hours), rng.uniform(10, 100, rng.integers(2, 5))
    switches = np.cumsum(rng.random(n) < 1 / rng.uniform(60, 400))
    order = rng.integers(0, len(levels), int(switches[-1]) + 1)
    return levels[order[switches]] + rng.uniform(0.1, 4) * rng.standard_normal(n)


def _walk(rng: np.random.Generator, hours: Array) -> Array:
    phi = rng.choice([0.999, 0.9995, 0.997])
    return rng.uniform(20, 500) + rng.uniform(1, 20) * (_ar(rng, len(hours), phi) + rng.uniform(0, 0.3) * rng.standard_normal(len(hours)))


def _drift(rng: np.random.Generator, hours: Array) -> Array:
    slope = rng.uniform(-3, 3) * hours / hours[-1]
    noise = rng.uniform(0.05, 0.3) * _ar(rng, len(hours), rng.uniform(0, 0.9))
    return rng.uniform(10, 100) + rng.uniform(1, 10) * (slope + rng.choice([0, 1]) * _day(rng, hours) + noise)


def _temperature(rng: np.random.Generator, hours: Array) -> Array:
    slow = _ar(rng, len(hours), 0.998)
    return rng.uniform(10, 80) + rng.uniform(2, 8) * (rng.uniform(0, 1) * _day(rng, hours) + slow) + 0.2 * _ar(rng, len(hours), 0.8)


def _noise(rng: np.random.Generator, hours: Array) -> Array:
    return rng.uniform(-10, 100) + rng.uniform(0.5, 20) * _ar(rng, len(hours), rng.choice([0, 0.3, 0.7]))


def _mentions(rng: np.random.Generator, hours: Array) -> Array:
    """Counts in which a few heavy-tailed bursts a week are healthy: each brings others for an hour or so."""
    rate = rng.uniform(1, 50) * (0.3 + _day(rng, hours))
    heat, warm, size = 0.0, rng.uniform(0.5, 0.95), rng.uniform(0.2, 1)
    boost = np.empty(len(hours))
    for i, start in enumerate((rng.random(len(hours)) < 1 / rng.uniform(200, 1500)).tolist()):
        heat = heat * warm + (size * rng.pareto(2.5) if start else 0.0)
        boost[i] = heat
    return rng.poisson(rate * (1 + boost) * rng.gamma(6, 1 / 6, len(hours))).astype(float)


def _sawtooth(rng: np.random.Generator, hours: Array) -> Array:
    every = rng.uniform(6, 60) * (1 + 0.1 * _ar(rng, len(hours), 0.99))
    phase = np.cumsum(np.diff(hours, prepend=0) / every) % 1
    return rng.uniform(10, 50) + rng.uniform(10, 50) * phase + rng.uniform(0.1, 1.5) * rng.standard_normal(len(hours))


def _ratio(rng: np.random.Generator, hours: Array) -> Array:
    units = rng.poisson(rng.uniform(10, 500) * (0.2 + _day(rng, hours)))
    failed = rng.binomial(units, np.clip(10 ** rng.uniform(-2.5, -0.7) * np.exp(0.2 * _ar(rng, len(hours), 0.9)), 0, 1))
    return np.where(units > 0, failed / np.maximum(units, 1), np.nan)


def _clockwork(rng: np.random.Generator, hours: Array) -> Array:
    wave = _day(rng, hours)
    if rng.random() < 0.5:
        wave = np.where((hours - rng.uniform(0, 12)) % 24 < rng.uniform(6, 12), 1.0, 0.0)
    return rng.uniform(0, 20) + rng.uniform(20, 80) * wave + rng.choice([0, 1, 3]) * rng.uniform(-1, 1, len(hours))


def _quirks(rng: np.random.Generator, values: Array) -> Array:
    """What half of the real series have and nobody calls an anomaly: calmer and rougher times, and a few small spikes a week."""
    if rng.random() < 0.5:
        return values
    usual = 1.4826 * float(np.nanmedian(np.abs(np.diff(values)))) / math.sqrt(2)
    spikes = (rng.random(len(values)) < 1 / rng.uniform(300, 3000)) * rng.choice([-1, 1], len(values)) * rng.pareto(2, len(values))
    rough = rng.standard_normal(len(values)) * np.clip(np.exp(rng.uniform(0.3, 1) * _ar(rng, len(values), 0.99)) - 1, 0, 4)
    changed = values + usual * (2 * spikes + rough)
    return np.maximum(changed, 0) if np.nanmin(values) >= 0 else changed


FAMILIES: dict[str, Callable[[np.random.Generator, Array], Array]] = {
    "traffic": _traffic,
    "latency": _latency,
    "counts": _counts,
    "flat with spikes": _flat_spikes,
    "steps": _steps,
    "random walk": _walk,
    "drift": _drift,
    "temperature": _temperature,
    "noise": _noise,
    "mentions": _mentions,
    "sawtooth": _sawtooth,
    "ratio": _ratio,
    "clockwork": _clockwork,
}

# Anomalies: how long they last, and what they make of the values ``v`` while they do. ``unit`` is the size of the effect.


def _plant(rng: np.random.Generator, kind: str, values: Array, hours: Array, onset: int) -> None:
    """Change ``values`` in place. Effects are four to sixteen times the local deviation, or a good part of the range if that is more."""
    day = max(int(np.searchsorted(hours, hours[onset] + 24)) - onset, 12)
    known = values[: onset + day]
    low, high = np.nanquantile(known, [0.01, 0.99])
    local = 1.4826 * float(np.nanmedian(np.abs(np.diff(known)))) / math.sqrt(2)
    unit = max(4 * 4 ** rng.random() * local, rng.uniform(0.3, 1.2) * float(high - low), 1e-3 * abs(float(high)))
    duration, change = ANOMALIES[kind]
    length = max(int(rng.uniform(*duration) * day), 1)
    part = slice(onset, min(onset + length, len(values)))
    nonnegative = bool(np.nanmin(known) >= 0)
    changed = change(rng, values[part].copy(), unit, values[max(onset - day, 0) : onset])
    values[part] = np.maximum(changed, 0) if nonnegative else changed


ANOMALIES: dict[str, tuple[tuple[float, float], Callable[[np.random.Generator, Array, float, Array], Array]]] = {
    "spike": ((0.002, 0.02), lambda _, v, unit, __: v + unit),
    "dip": ((0.002, 0.02), lambda _, v, unit, __: v - unit),
    "burst": ((0.03, 0.2), lambda rng, v, unit, _: v + unit * rng.gamma(2, 0.5, len(v))),
    "level shift": ((0.4, 3), lambda rng, v, unit, _: v + 0.7 * unit * rng.choice([-1, 1])),
    "variance up": ((0.1, 0.6), lambda rng, v, unit, _: v + 0.6 * unit * rng.standard_normal(len(v))),
    "flat middle": ((0.25, 0.8), lambda _, v, __, before: np.full(len(v), np.nanmedian(before) if len(before) else v[0])),
    "outage": ((0.02, 0.3), lambda _, v, __, before: np.full(len(v), min(float(np.nanmin(before)), 0.0) if len(before) else 0.0)),
    "missing cycle": ((0.7, 1), lambda rng, v, _, before: np.nanquantile(before, 0.1) + 0.1 * (v - np.nanmedian(v))),
    "ramp": ((0.3, 1.2), lambda rng, v, unit, _: v + 1.5 * unit * np.linspace(0, 1, len(v)) * rng.choice([-1, 1])),
    "denser spikes": ((0.2, 0.6), lambda rng, v, unit, _: v + unit * (rng.random(len(v)) < 0.15)),
}


def main() -> int:
    parser = arguments("Anomaly detector: false alarms, found anomalies, delay, time and state, beside a rolling robust z.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the timed figures (default %(default)s)")
    options = parser.parse_args()
    report = Report("anomaly", TARGETS, options)
    rng = np.random.default_rng((2026, options.seed))
    shape = (5, 2 * 2016) if options.quick else (5, 4 * 2016)
    healthy = [simulate(rng, family, 0, shape) for family in FAMILIES for _ in range(1 if options.quick else 6)]
    _measure_cost(report, healthy[0])
    threshold = _measure_false_alarms(report, healthy)
    _measure_found(report, corpus(int(rng.integers(2**31)) + 100, 2 if options.quick else 12), threshold)
    _measure_shifts(report, rng, 3 if options.quick else 20)
    _measure_incidents(report, rng, 2 if options.quick else 10)
    _measure_cases(report)
    return report.finish()


def _measure_cost(report: Report, series: Simulated) -> None:
    ours, peers = [], []
    records = list(zip(series.timestamps, series.values, strict=True))[:4032]
    for _ in range(report.arguments.rounds):  # side by side; processor time, for other processes are no concern of this one
        detector, start = Detector(), time.process_time()
        for timestamp, value in records:
            detector.update(timestamp, value)
        ours.append((time.process_time() - start) / len(records) * 1e6)
        start = time.process_time()
        robust_z([value for _, value in records])
        peers.append((time.process_time() - start) / len(records) * 1e6)
    report.record("time per update", ours, f"{len(records):,} updates, processor time")
    report.record("time per record of the rolling robust z", peers, "NumPy, the whole series at once")


def _measure_false_alarms(report: Report, healthy: list[Simulated]) -> float:
    """Gives the threshold of the peer that has as few false alarms."""
    outcomes = [watch(series) for series in healthy]
    days = sum(series.days for series in healthy)
    note = f"{len(healthy)} series, {days:,.0f} days at five minutes"
    report.record("largest state, as JSON", max(outcome.state_bytes for outcome in outcomes), "after all updates")
    told = sum(len(outcome.told) for outcome in outcomes) / days
    report.record("healthy series: excursions told", told, note)
    warnings = sum(len(outcome.warnings) for outcome in outcomes) / days
    report.record("healthy series: warnings", warnings, note, limit=0.1 if report.arguments.quick else None)  # few days, much chance
    report.record("healthy series: critical", sum(len(outcome.critical) for outcome in outcomes) / days, note)
    levels = [robust_z(series.values) for series in healthy]
    return next(t for t in np.geomspace(3, 1e6, 200).tolist() if sum(len(alerts(z, t)) for z in levels) / days <= told)


def _measure_found(report: Report, series: list[Simulated], threshold: float) -> None:
    outcomes = [watch(one) for one in series]
    peers = [alerts(robust_z(one.values), threshold) for one in series]
    planted = [(one, outcome, peer, a) for one, outcome, peer in zip(series, outcomes, peers, strict=True) for a in one.planted]
    total = len(planted)
    delays = [delay for _, outcome, _, a in planted if (delay := _delay(outcome.told, a)) is not None]
    peer_delays = [delay for _, _, peer, a in planted if (delay := _delay(peer, a)) is not None]
    report.record("planted anomalies told within their window", 100 * len(delays) / total, f"{total} anomalies in {len(series)} series")
    note = f"z above {threshold:.1f}: as many false alarms"
    report.record("planted anomalies told, by the rolling robust z", 100 * len(peer_delays) / total, note)
    for name, which in (("planted anomalies with a warning", "warnings"), ("planted anomalies that became critical", "critical")):
        report.record(name, 100 * sum(_delay(getattr(outcome, which), a) is not None for _, outcome, _, a in planted) / total)
    report.record("delay from the onset to what is told, median", statistics.median(delays))
    report.record("delay of the rolling robust z, median", statistics.median(peer_delays))
    for kind in ANOMALIES:
        found = [_delay(outcome.told, a) is not None for _, outcome, _, a in planted if a.kind == kind]
        print(f"  {kind}: {sum(found)} of {len(found)} told")


# Plain series, shape (n,), at five minutes, with the standard deviation of their noise: what a shift is measured by.

DAY = 288


def _plain_noise(rng: np.random.Generator, n: int) -> tuple[Array, float]:
    return 50 + 5 * rng.standard_normal(n), 5.0


def _plain_lognormal(rng: np.random.Generator, n: int) -> tuple[Array, float]:
    return 1.2 * np.exp(0.2 * rng.standard_normal(n)), 0.25


def _plain_error_rate(rng: np.random.Generator, n: int) -> tuple[Array, float]:
    return rng.binomial(60, 0.03, n) / 60, math.sqrt(0.03 * 0.97 / 60)


def _plain_day(rng: np.random.Generator, n: int) -> tuple[Array, float]:
    return (200 - 100 * np.cos(2 * np.pi * np.arange(n) / DAY)) * (1 + 0.05 * rng.standard_normal(n)), 10.0


PLAIN = {"noise": _plain_noise, "lognormal": _plain_lognormal, "error rate": _plain_error_rate, "daily course": _plain_day}


def _watch_shifts(rng: np.random.Generator, name: str, size: float, length: int, onsets: Sequence[int]) -> list[list[AnomalyScore]]:
    """Verdicts during shifts of that many deviations and records at the onsets, in days, each plus the same hours."""
    late = int(rng.integers(DAY))
    starts = [onset * DAY + late for onset in onsets]
    values, deviation = PLAIN[name](rng, starts[-1] + length)
    for start in starts:
        values[start : start + length] += size * deviation
    detector = Detector()
    verdicts = [detector.update(START + timedelta(minutes=5 * i), value) for i, value in enumerate(values.tolist())]
    return [verdicts[start : start + length] for start in starts]


def _share(found: Sequence[bool]) -> float:
    return 100 * sum(found) / len(found)


def _measure_shifts(report: Report, rng: np.random.Generator, rounds: int) -> None:
    """Told or a warning at the first record, and in the first hour."""
    tests: dict[str, Callable[[AnomalyScore], bool]] = {
        "told": lambda verdict: verdict.score >= TOLD,
        "a warning": lambda verdict: verdict.level != "normal",
    }
    for size in (3, 6, 12):
        runs = {name: [_watch_shifts(rng, name, size, 12, (8,))[0] for _ in range(rounds)] for name in PLAIN}
        for what, test in tests.items():
            for minutes in (5, 60):
                shares = {name: _share([any(map(test, run[: minutes // 5])) for run in several]) for name, several in runs.items()}
                note = ", ".join(f"{name} {share:.0f}" for name, share in shares.items())
                report.record(f"shift of {size} deviations, {what} within {minutes} minutes", statistics.fmean(shares.values()), note)


def _measure_incidents(report: Report, rng: np.random.Generator, rounds: int) -> None:
    """Twelve deviations, and the same two days later."""
    for minutes in (30, 120, 360):
        runs = {name: [_watch_shifts(rng, name, 12, minutes // 5, (8, 10)) for _ in range(rounds)] for name in PLAIN}
        for i, when in enumerate(("at first", "again")):
            shares = {name: _share([any(v.level != "normal" for v in run[i]) for run in several]) for name, several in runs.items()}
            note = ", ".join(f"{name} {share:.0f}" for name, share in shares.items())
            report.record(f"incident of {minutes} minutes, a warning {when}", statistics.fmean(shares.values()), note)


def _delay(alarms: Sequence[int], anomaly: Planted) -> int | None:
    """Records from the onset to the first alarm in the window; None without one."""
    return next((alarm - anomaly.onset for alarm in alarms if anomaly.onset <= alarm <= anomaly.last), None)


def _measure_cases(report: Report) -> None:
    folder = reference_cases("anomaly")
    if not (folder / "score.py").is_file():
        print(f"no shared cases in {folder}")
        return
    scorer = _module(folder / "score.py")
    series = scorer.load("dev")
    scores = [score(one.times, one.values) for one in series]
    results = {profile: scorer.sweep(series, scores, profile) for profile in scorer.PROFILES}
    for name, result in zip(("standard", "low-FP", "low-FN"), results.values(), strict=True):
        note = f"{result['windows_hit']} of {result['windows']} windows, from {result['threshold']:.2f}"
        report.record(f"shared cases, {name} score", result["score"], note)
    report.record("shared cases, false alarms", results["standard"]["fp_per_series_day"], "at the threshold of the standard score")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True)
class Outcome:
    """At which records a series was told of, and became a warning or critical; the size of the state at its end."""

    told: list[int]
    warnings: list[int]
    critical: list[int]
    state_bytes: int


def watch(series: Simulated) -> Outcome:
    """What the detector makes of a series."""
    detector = Detector()
    verdicts = [detector.update(timestamp, value) for timestamp, value in zip(series.timestamps, series.values, strict=True)]
    size = len(json.dumps(detector.state, separators=(",", ":")))
    told = [i for i, verdict in enumerate(verdicts) if verdict.score >= TOLD]
    return Outcome(told, _starts(verdicts, ("warning", "critical")), _starts(verdicts, ("critical",)), size)


def _starts(verdicts: Sequence[AnomalyScore], levels: tuple[str, ...]) -> list[int]:
    return alerts(np.array([verdict.level in levels for verdict in verdicts], dtype=np.float64), 1)


def robust_z(values: Sequence[float], window: int = 288) -> Array:
    """How many scaled MADs each value lies from the median of the day before it; 0 where that is not known."""
    array = np.asarray(values, dtype=np.float64)
    past = np.lib.stride_tricks.sliding_window_view(array, window)[:-1]
    median = np.nanmedian(past, axis=1)
    mad = 1.4826 * np.nanmedian(np.abs(past - median[:, None]), axis=1)
    with np.errstate(over="ignore"):
        z = np.abs(array[window:] - median) / np.maximum(mad, 1e-9 * np.abs(median) + 1e-300)
    return np.concatenate([np.zeros(window), np.nan_to_num(z, posinf=0.0)])


def alerts(values: Array, threshold: float) -> list[int]:
    """Where an excursion to the threshold starts: one that follows another within ``HOLD`` records belongs to it."""
    high = np.flatnonzero(values >= threshold).tolist()
    return [now for before, now in zip([-HOLD - 1, *high], high, strict=False) if now - before > HOLD]


if __name__ == "__main__":
    sys.exit(main())
