"""How often the adaptive detector (rule Anomaly) wakes somebody for nothing, what it finds of planted shifts, and how late.

Worlds are drawn as completion buckets of single minutes: agents with a daily course, busy and quiet ones, failures in bursts, latencies
and costs with heavy tails, slow drifts of all of them. Detectors learn fourteen days; then a look is taken each minute, as ``metamon
alerts`` does. Findings of one series within an hour of each other are one alert, and so are those of one metric that begin in several
dimensions within half an hour. A planted shift lasts an hour, begins anywhere within its five minutes, and is as many deviations large
as the metric, made even, has between neighbouring five minutes of healthy time, where there is room for that. The delay runs from the end
of the first closed bucket that lies in it.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from _common import Report, Target, arguments
from numpy.typing import NDArray

from metamon_assets.alerts.detection import WATCHED, Detection, Finding, Watch
from metamon_assets.alerts.series import DAYS, HALF, TYPICAL, Buckets
from metamon_assets.metrics.completions import BUCKET, bucket_of

TRAFFIC = (200, 1_000, 5_000, 100_000)
SIZES = (3.0, 6.0)
AGENTS = 19
START = datetime(2026, 1, 5, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
LEARNT_DAYS = 14
GRACE = timedelta(minutes=2)
SPARE = 180  # minutes between planted shifts
LASTS = 60
TARGETS = (
    *(Target(f"{size:g} deviations, {traffic:,} a day: found within an hour", "%") for size in SIZES for traffic in TRAFFIC[2:]),
    Target("6 deviations: found", "%", 98),
    Target("6 deviations: delay after the first closed bucket, p99", "min", 5, at_least=False),
    Target("6 deviations: delay, median", "min"),
    Target("3 deviations: found within 60 minutes", "%", 95),
    Target("3 deviations: delay, median", "min"),
    *(Target(f"healthy, {traffic:,} a day: alerts", "a day", 5, at_least=False) for traffic in TRAFFIC),
    Target("healthy: critical", "in all", 0, at_least=False),
    Target("one tick over 1,000 series", "s", 2, at_least=False),
)
Array = NDArray[np.float64]
SHARES = (("errors", "error_rate"), ("degraded", "degradation_rate"), ("cache_hits", "cache_hit_rate"))
MEANS = (("latency", "latency_mean", "latency_sum", "latency_count"), ("cost", "cost_per_request", "total_cost", "priced_runs"))


@dataclass(slots=True)
class World:
    """Minutes of 19 agents and all of them together, drawn as they are needed."""

    seed: int
    per_day: int
    rng: np.random.Generator = field(init=False)
    share: Array = field(init=False)
    base: dict[str, Array] = field(init=False)
    drift: Array = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.seed, self.per_day])
        self.share = self.rng.dirichlet(np.full(AGENTS, 1.2))
        self.base = {
            "errors": self.rng.uniform(0.005, 0.06, AGENTS),
            "degraded": self.rng.uniform(0.01, 0.1, AGENTS),
            "cache_hits": self.rng.uniform(0.3, 0.8, AGENTS),
            "latency": np.exp(self.rng.normal(0.8, 0.6, AGENTS)),
            "cost": np.exp(self.rng.normal(-5, 0.7, AGENTS)),
            "quality": self.rng.uniform(0.7, 0.92, AGENTS),
        }
        self.drift = np.zeros((6, AGENTS))

    def minute(self, at: datetime, columns: tuple[str, ...], shift: Shift | None) -> Array:
        """Sums of one minute, shape (agents + 1, columns), all runs last."""
        hour = (at - START) / timedelta(hours=1)
        course = math.exp(0.9 * math.sin(2 * math.pi * (hour - 9) / 24)) * (0.6 if at.weekday() >= 5 else 1.0) / 1.2
        self.drift = 0.999 * self.drift + self.rng.normal(0, 0.004, self.drift.shape)  # a tenth, over a day
        rates = self.per_day / 1440 * course * self.share
        if shift is not None and shift.watch.scale == "count" and shift.from_ <= at < shift.until:
            rates[shift.agent] *= shift.factor
        n = self.rng.poisson(rates)
        wave = 1 + 0.15 * math.sin(2 * math.pi * (hour - 14) / 24)
        sums = np.zeros((AGENTS + 1, len(columns)))

        def put(name: str, values: Array) -> None:
            sums[:AGENTS, columns.index(name)] = values

        def factor(metric: str) -> Array:
            out = np.ones(AGENTS)
            planted_in = "latency_mean" if shift is not None and shift.watch.metric == "latency_typical" else shift and shift.watch.metric
            if shift is not None and planted_in == metric and shift.from_ <= at < shift.until:
                out[shift.agent] = shift.factor
            return out

        put("completed", n.astype(float))
        for row, (name, metric) in enumerate(
            (("errors", "error_rate"), ("degraded", "degradation_rate"), ("cache_hits", "cache_hit_rate"))
        ):
            p = np.clip(self.base[name] * np.exp(self.drift[row]) * factor(metric), 0, 1)
            put(name, self.rng.binomial(n, p).astype(float))
        put("degraded_known", n.astype(float))
        put("cache_known", n.astype(float))
        for row, (name, metric, total, count) in enumerate(MEANS, start=3):
            level = self.base[name] * np.exp(self.drift[row]) * factor(metric) * (wave if name == "latency" else 1.0)
            sums_, logarithms = _lognormals(self.rng, n, level, 0.8)
            put(total, sums_)
            put(count, n.astype(float))
            if name == "latency":
                put(TYPICAL, logarithms)
        quality = np.clip(self.base["quality"] * np.exp(0.3 * self.drift[5]) * factor("quality_mean"), 0, 1)
        put("quality_sum", np.clip(n * quality + self.rng.normal(0, 0.12, AGENTS) * np.sqrt(n), 0, n))
        put("quality_count", n.astype(float))
        sums[AGENTS] = sums[:AGENTS].sum(axis=0)
        return sums


def _lognormals(rng: np.random.Generator, n: NDArray[np.int64], level: Array, sigma: float) -> tuple[Array, Array]:
    """Sums of n lognormal values with mean ``level`` and of their logarithms, each drawn."""
    drawn = rng.normal(-(sigma**2) / 2, sigma, int(n.sum()))
    edges = np.concatenate([[0], np.cumsum(n)])
    totals, logarithms = (np.concatenate([[0.0], np.cumsum(values)]) for values in (np.exp(drawn), drawn))
    return level * np.diff(totals[edges]), np.diff(logarithms[edges]) + n * np.log(level)


@dataclass(frozen=True, slots=True)
class Shift:
    """A planted shift: the metric of an agent times a factor for a time."""

    watch: Watch
    agent: int
    from_: datetime
    until: datetime
    factor: float
    size: float


@dataclass(slots=True)
class Replay:
    """A world under watch, minute by minute."""

    world: World
    now: datetime = START
    buckets: Buckets = field(default_factory=Buckets)
    detection: Detection = field(default_factory=Detection)
    half: Array = field(default_factory=lambda: np.zeros(AGENTS + 1))

    def __post_init__(self) -> None:
        self.buckets.start, self.buckets.groups = START, [*(("agent", f"agent-{n}") for n in range(AGENTS)), ("overall", "(all)")]
        self.buckets.sums = np.zeros((1, AGENTS + 1, len(self.buckets.columns)))
        self.buckets.halves = np.zeros((0, AGENTS + 1))

    def step(self, shift: Shift | None, *, looking: bool) -> list[Finding]:
        """The next minute; gives what is found at its end."""
        assert self.buckets.start is not None
        place = (bucket_of(self.now) - self.buckets.start) // BUCKET
        if place == len(self.buckets.sums):
            self.buckets.sums = np.concatenate([self.buckets.sums[-300:], np.zeros((1, *self.buckets.sums.shape[1:]))])
            self.buckets.start += (place + 1 - len(self.buckets.sums)) * BUCKET
        minute = self.world.minute(self.now, self.buckets.columns, shift)
        self.buckets.sums[-1] += minute
        self.half += minute[:, self.buckets.column("completed")]
        self.now += MINUTE
        if (self.now - START) % HALF == timedelta(0):
            self.buckets.halves = np.concatenate([self.buckets.halves, self.half[None]])[-int((DAYS + 1) * DAY / HALF) :]
            self.buckets.halves_end, self.half = self.now, np.zeros(AGENTS + 1)
        found: list[Finding] = []
        closed = bucket_of(self.now - GRACE)
        if self.detection.reached is None:
            self.detection.reached = START
        while self.detection.reached < closed:
            found += self.detection.close(self.buckets, self.detection.reached + BUCKET)
        if looking:
            found += self.detection.look(self.buckets, self.now)
        return found

    def deviations(self) -> dict[tuple[str, int], tuple[float, float]]:
        """Of each metric and agent, made even: the mean of five minutes and their deviation, by the differences of neighbours of a day."""
        sums = self.buckets.sums[-289:-1]
        found = {}
        for watch in WATCHED:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.array([watch.figures(bucket, bucket, self.buckets.columns, runs=0)[0] for bucket in sums])
            for agent in range(AGENTS):
                steps = np.diff(values[:, agent])
                steps = steps[np.isfinite(steps)]
                if len(steps) >= 50 and steps.any():
                    found[watch.metric, agent] = float(np.nanmean(values[:, agent])), float(steps.std() / math.sqrt(2))
        return found


@dataclass(slots=True)
class Alerts:
    """Findings put together as incidents are."""

    open: dict[tuple[str, str, str], datetime] = field(default_factory=dict)
    begun: list[tuple[str, str, datetime]] = field(default_factory=list)
    warnings: int = 0
    critical: int = 0

    def take(self, found: list[Finding]) -> None:
        for finding in sorted(found, key=lambda one: -one.severity):
            if finding.level not in ("warning", "critical"):
                continue
            key = (finding.watch.metric, *finding.group)
            known = self.open.get(key)
            self.open[key] = finding.at
            self.critical += finding.level == "critical"
            if known is not None and finding.at - known < timedelta(hours=1):
                continue
            sides = [(m, d, t) for m, d, t in self.begun[-50:] if m == key[0] and d != key[1] and finding.at - t <= timedelta(minutes=30)]
            if not sides:
                self.begun.append((key[0], key[1], finding.at))
                self.warnings += 1


def learnt(seed: int, per_day: int) -> Replay:
    """A replay that has learnt its fourteen days."""
    replay = Replay(World(seed, per_day))
    while replay.now < START + LEARNT_DAYS * DAY:
        replay.step(None, looking=False)
    return replay


def healthy(replay: Replay, days: float) -> tuple[float, int]:
    """Alerts a day, and how many were critical."""
    alerts, until = Alerts(), replay.now + days * DAY
    while replay.now < until:
        alerts.take(replay.step(None, looking=True))
    return alerts.warnings / days, alerts.critical


def planted(replay: Replay, size: float, count: int, rng: np.random.Generator) -> list[float | None]:
    """Minutes from the end of the first closed bucket within each shift until it was found; None: not within an hour."""
    delays: list[float | None] = []
    for _ in range(count):
        deviations = replay.deviations()
        shift = _drawn(replay, deviations, size, rng)
        while replay.now < shift.from_:
            replay.step(shift, looking=False)
        agent = f"agent-{shift.agent}"
        first_closed = bucket_of(shift.from_ + BUCKET - timedelta(seconds=1)) + BUCKET
        told: datetime | None = None
        while replay.now < shift.until:
            for finding in replay.step(shift, looking=told is None):
                same = finding.group[1] == agent and finding.watch.metric.split("_")[0] == shift.watch.metric.split("_")[0]
                if told is None and finding.level in ("warning", "critical") and same:
                    told = replay.now
        delays.append(None if told is None else max((told - first_closed) / MINUTE, 0.0))
        until = replay.now + SPARE * MINUTE
        while replay.now < until:
            replay.step(None, looking=False)
    return delays


def _drawn(replay: Replay, deviations: dict[tuple[str, int], tuple[float, float]], size: float, rng: np.random.Generator) -> Shift:
    """A shift for the worse of that size, in a series where there is room for it."""
    while True:
        metric, agent = list(deviations)[int(rng.integers(len(deviations)))]
        watch = next(watch for watch in WATCHED if watch.metric == metric)
        mean, deviation = deviations[metric, agent]
        moved = mean + watch.worse * size * deviation
        if mean <= 0 or moved < 0 or ((watch.scale == "share" or metric == "quality_mean") and moved > 1):
            continue
        start = replay.now + timedelta(minutes=int(rng.integers(10, 40)))
        return Shift(watch, agent, start, start + LASTS * MINUTE, watch.shown(moved) / max(watch.shown(mean), 1e-6), size)


def record_tick(report: Report) -> None:
    """A look and a closed bucket over a thousand series."""
    replay = Replay(World(1, 500_000))
    for _ in range(3 * 24 * 60):
        replay.step(None, looking=False)
    series = len(replay.detection.followed)
    seconds = []
    for _ in range(10):
        while (replay.now - GRACE) != bucket_of(replay.now - GRACE) - MINUTE:
            replay.step(None, looking=False)
        begun = time.process_time()
        replay.step(None, looking=True)
        seconds.append((time.process_time() - begun) * 1000 / series)
    report.record("one tick over 1,000 series", seconds, f"a closed bucket and a look, of {series} series, scaled up; database apart")


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--days", type=float, help="healthy days at each traffic (default 10; 1 with --quick)")
    parser.add_argument("--shifts", type=int, help="planted shifts of each size and traffic (default 40; 6 with --quick)")
    options = parser.parse_args()
    days, count = options.days or (1 if options.quick else 10), options.shifts or (6 if options.quick else 40)
    report = Report("detection", TARGETS, options)
    rng = np.random.default_rng(options.seed)
    delays: dict[float, list[float | None]] = {size: [] for size in SIZES}
    critical = 0
    for traffic in TRAFFIC[2:] if options.quick else TRAFFIC:
        replay = learnt(options.seed, traffic)
        alerts, of_them = healthy(replay, days)
        critical += of_them
        report.record(f"healthy, {traffic:,} a day: alerts", alerts, f"{days:g} days, {len(replay.detection.followed)} series")
        for size in SIZES if traffic in TRAFFIC[2:] else ():
            found = planted(replay, size, count, rng)
            delays[size] += found
            told = sum(delay is not None for delay in found)
            report.record(f"{size:g} deviations, {traffic:,} a day: found within an hour", 100 * told / count, f"{told} of {count}")
    report.record("healthy: critical", critical, "looks with a critical finding")
    for size, name in ((6.0, "6 deviations: found"), (3.0, "3 deviations: found within 60 minutes")):
        told_in = sorted(delay for delay in delays[size] if delay is not None)
        report.record(name, 100 * len(told_in) / len(delays[size]), f"{len(told_in)} of {len(delays[size])}")
        report.record(f"{size:g} deviations: delay, median", statistics.median(told_in or [math.nan]))
        if size == 6.0:
            late = told_in[min(math.ceil(0.99 * len(told_in)) - 1, len(told_in) - 1)] if told_in else math.nan
            report.record("6 deviations: delay after the first closed bucket, p99", late)
    record_tick(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
