"""Do the tests reject true nulls as often as they say, and do the intervals cover the truth: simulations and exact sums.

Sizes of binary tests are exact (every outcome that matters is computed and weighted with its probability); everything else
is simulated from ``--seed``, with its Monte-Carlo error beside it. Peers that people use instead stand beside each figure in
the same run: the unpooled z-test, Welch's test of raw values, a fixed-size test that is looked at again and again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Literal

import _forecast_coverage
import _impact_coverage
import numpy as np
from _common import Report, Target, arguments
from scipy import special, stats

from metamon_assets.statistics import prediction_powered
from metamon_assets.statistics.sequential import confidence_sequence, group_sequential_bounds
from metamon_assets.statistics.significance import (
    Comparison,
    SampleMean,
    SampleProportion,
    SampleRatio,
    compare,
    compare_heavy_tailed,
    compare_paired,
    compare_quantile,
    non_inferiority,
    stratified,
)

Generator = np.random.Generator
CANARIES = ((900, 100), (450, 50), (270, 30))
TAILS = ((1.0, 200, 22), (1.0, 1000, 111), (2.0, 200, 22), (2.0, 1000, 111))
LOOKS, PLANNED = 100, 5000
MARGINS = {  # control and treatment units, share, margin
    "270/30, .9 − .05": (270, 30, 0.9, -0.05),
    "450/50, .98 − .02": (450, 50, 0.98, -0.02),
    "450/50, .05 + .05": (450, 50, 0.05, 0.05),
}
SIZE = {"limit": 0.035, "upper": 0.06}
TARGETS = (
    *(Target(f"score test, share .9, {c}/{t}: size", "", **SIZE) for c, t in CANARIES),
    *(Target(f"unpooled z-test, share .9, {c}/{t}: size", "") for c, t in CANARIES),
    *(Target(f"log-scale test, lognormal σ = {s:g}, {c}/{t}: size", "", **SIZE) for s, c, t in TAILS),
    *(Target(f"Welch's test of raw values, lognormal σ = {s:g}, {c}/{t}: size", "") for s, c, t in TAILS),
    *(Target(f"log-scale test, equal means, σ = 1 against {s:g}: rejects", "") for s in (1.05, 1.1, 1.2)),
    *(
        target
        for kind in ("shares", "lognormal", "shares, 10 % canary")
        for target in (
            Target(f"{kind}: confidence sequence, {LOOKS} looks: false positives", "", 0.05, at_least=False),
            Target(f"{kind}: confidence sequence: power of a fixed size", "×", None if "canary" in kind else 0.70),
            Target(f"{kind}: O'Brien–Fleming, {LOOKS} looks: false positives", "", 0.055, at_least=False),
            Target(f"{kind}: O'Brien–Fleming: power of a fixed size", "×", 0.97),
            Target(f"{kind}: O'Brien–Fleming: mean sample", "× planned", 0.75, at_least=False),
            Target(f"{kind}: fixed-size test looked at {LOOKS} times: false positives", ""),
        )
    ),
    Target("20 users per arm, requests clustered: size", "", 0.04, upper=0.06),
    Target("20 users per arm, requests taken for units: size", ""),
    Target("20 tasks × 4 trials, paired and clustered: size", "", 0.04, upper=0.06),
    Target("20 tasks, 4 of them with ten times the trials: size", "", 0.06, at_least=False),
    Target("users with Pareto(1.5) requests, 200/22: size", ""),
    Target("log-scale test with a fifth zeros, 200/22: size", "", **SIZE),
    Target("95th percentile, n = 500: size", "", 0.01, upper=0.055),
    Target("95th percentile, n = 2,000: size", "", 0.01, upper=0.055),
    Target("95th percentile, n = 299: share without an answer", "", 1.0),
    Target("McNemar, 50 pairs: size", "", **SIZE),
    Target("non-inferiority of means at its margin, 450/50: size", "", **SIZE),
    *(Target(f"non-inferiority of shares at its margin, {where}: size", "", 0.06, at_least=False) for where in MARGINS),
    Target("rollout stages, stratified: |bias|", "percentage points", 0.01, at_least=False),
    Target("rollout stages, pooled: |bias|", "percentage points"),
    *(
        Target(f"impact, {design}, control: coverage of 95 %", "", low, upper=high)
        for design, low, high in (("AR .5", 0.93, 0.97), ("AR .8", 0.93, 0.97), ("random walk", 0.90, 1.0))
    ),
    *(
        Target(f"impact, {design}, no control: coverage of 95 %", "", low, upper=high)
        for design, low, high in (("AR .5", 0.93, 0.99), ("AR .8", 0.93, 0.99), ("random walk", 0.90, 1.0))
    ),
    Target("impact, AR .5, control: mean width", ""),
    *(Target(f"forecast, {design}: coverage of 80 %", "", 0.75, upper=0.85) for design in _forecast_coverage.DESIGNS),
    Target("prediction-powered mean, 30 labels: coverage", "", 0.93, upper=0.97),
    Target("prediction-powered mean, 30 labels: width against labels alone", "×", 1.0, at_least=False),
)


def exact_size(n_control: int, n_treatment: int, share: float, method: Literal["score", "wald"]) -> float:
    """The probability of p <= .05 when both arms have the same share."""
    return exact_rejections(
        ((n_control, share), (n_treatment, share)), lambda control, treatment: compare(control, treatment, method=method)
    )


def exact_margin(n_control: int, n_treatment: int, share: float, margin: float) -> float:
    """The probability that a treatment passes which is worse than the control by the margin, no less."""

    def test(control: SampleProportion, treatment: SampleProportion) -> Comparison:
        return non_inferiority(control, treatment, margin=abs(margin), relative=False, higher_is_better=margin < 0)

    return exact_rejections(((n_control, share), (n_treatment, share + margin)), test)


def exact_rejections(arms: Sequence[tuple[int, float]], test: Callable[[SampleProportion, SampleProportion], Comparison]) -> float:
    """The probability of p <= .05, ``arms`` being the units and the share of control and treatment."""
    (n_control, _), (n_treatment, _) = arms
    ranges, weights = [], []
    for n, share in arms:
        distribution = stats.binom(n, share)
        values = np.arange(distribution.ppf(1e-5), distribution.isf(1e-5) + 1)
        ranges.append(values)
        weights.append(distribution.pmf(values))
    rejected = 0.0
    for (x, p), (y, q) in product(zip(ranges[0], weights[0], strict=True), zip(ranges[1], weights[1], strict=True)):
        result = test(SampleProportion(n_control, x), SampleProportion(n_treatment, y))
        rejected += p * q * (result.p_value <= 0.05)
    return float(rejected)


def rejects(replicates: int, p_value: Callable[[], float]) -> tuple[float, str]:
    """The share of replicates that are significant, and its Monte-Carlo error."""
    share = sum(p_value() <= 0.05 for _ in range(replicates)) / replicates
    return share, monte_carlo(share, replicates)


def monte_carlo(share: float, replicates: int) -> str:
    return f"± {math.sqrt(max(share * (1 - share), 1e-9) / replicates):.4f}, {replicates:,} replicates"


def canaries(report: Report) -> None:
    for (control, treatment), (method, name) in product(CANARIES, (("score", "score test"), ("wald", "unpooled z-test"))):
        report.record(f"{name}, share .9, {control}/{treatment}: size", exact_size(control, treatment, 0.9, method), "exact")


def heavy_tails(report: Report, rng: Generator, replicates: int) -> None:
    for sigma, n_control, n_treatment in TAILS:
        arms = lambda: (rng.lognormal(0, sigma, n_control), rng.lognormal(0, sigma, n_treatment))  # noqa: E731, B023
        where = f"lognormal σ = {sigma:g}, {n_control}/{n_treatment}: size"
        report.record(f"log-scale test, {where}", *rejects(replicates, lambda: compare_heavy_tailed(*arms()).p_value))  # noqa: B023
        raw = lambda: compare(*(SampleMean.from_values(arm) for arm in arms())).p_value  # noqa: E731, B023
        report.record(f"Welch's test of raw values, {where}", *rejects(replicates, raw))
    zeros = lambda n: np.where(rng.random(n) < 0.2, 0.0, rng.lognormal(size=n))  # noqa: E731
    where = "log-scale test with a fifth zeros, 200/22: size"
    report.record(where, *rejects(replicates, lambda: compare_heavy_tailed(zeros(200), zeros(22)).p_value))
    for sigma in (1.05, 1.1, 1.2):  # the mean of a lognormal is exp(μ + σ² / 2)
        draw = lambda: compare_heavy_tailed(rng.lognormal(0, 1, 1000), rng.lognormal((1 - sigma**2) / 2, sigma, 1000)).p_value  # noqa: E731, B023
        report.record(f"log-scale test, equal means, σ = 1 against {sigma:g}: rejects", *rejects(replicates // 4, draw))


class Design:
    """A stream of two arms that is looked at ``LOOKS`` times, as sums by look; an effect that a fixed size finds nine times in ten."""

    def __init__(self, kind: str) -> None:
        self.shares = kind.startswith("shares")
        self.sizes = [np.round(np.linspace(n / LOOKS, n, LOOKS)) for n in (PLANNED, PLANNED // 9 if "canary" in kind else PLANNED)]
        deviation = 0.3 if self.shares else math.sqrt((math.e - 1) * math.e)
        self.effect = (1.959964 + 1.281552) * deviation * math.sqrt(sum(1 / sizes[-1] for sizes in self.sizes))
        self.tuning_n = sum(sizes[-1] for sizes in self.sizes)

    def draw(self, rng: Generator, replicates: int, effect: float) -> list[np.ndarray]:
        """Sums of both arms as each look sees them, shape (sums, replicates, looks): n and what the kind of metric has."""
        return [self._arm(rng, sizes, replicates, shift) for sizes, shift in zip(self.sizes, (0.0, -effect), strict=True)]

    def _arm(self, rng: Generator, sizes: np.ndarray, replicates: int, shift: float) -> np.ndarray:
        n, steps = np.broadcast_to(sizes, (replicates, LOOKS)), np.diff(sizes, prepend=0).astype(int)
        if self.shares:
            return np.stack([n, np.cumsum(rng.binomial(steps, 0.9 + shift, (replicates, LOOKS)), axis=1)])
        ends, sums = sizes.astype(int) - 1, []
        for _ in range(replicates):
            values = rng.lognormal(0, 1, int(sizes[-1])) + shift
            sums.append((np.cumsum(values)[ends], np.cumsum(values**2)[ends]))
        return np.stack([n, *np.swapaxes(np.array(sums), 0, 1)])

    def z(self, control: np.ndarray, treatment: np.ndarray) -> np.ndarray:
        """The statistic of a fixed size at each look, shape (replicates, looks): that of ``compare``, for many at once."""
        difference = treatment[1] / treatment[0] - control[1] / control[0]
        if self.shares:
            share = (control[1] + treatment[1]) / (control[0] + treatment[0])
            variance = share * (1 - share) * (1 / control[0] + 1 / treatment[0])
        else:
            variance = sum((q - s**2 / n) / (n - 1) / n for n, s, q in (control, treatment))
        return difference / np.sqrt(np.maximum(variance, 1e-12))

    def sequence_rejects(self, control: np.ndarray, treatment: np.ndarray, z: np.ndarray) -> bool:
        """Whether the sequence of one replicate, shapes (sums, looks) and (looks,), leaves zero out at any look.

        Looks before an arm has 50 units do not count; one at which a fixed size is far from rejecting cannot reject.
        """
        kind = SampleProportion if self.shares else SampleMean
        asked = (np.abs(z) > 1.5) & (np.minimum(control[0], treatment[0]) >= 50)
        arms = ((kind(*control[:, look]), kind(*treatment[:, look])) for look in np.flatnonzero(asked))
        return any(confidence_sequence(*pair, tuning_n=self.tuning_n).p_value <= 0.05 for pair in arms)


def looks(report: Report, rng: Generator, replicates: int, kind: str) -> None:
    """False positives and power of one look, of many, of O'Brien–Fleming bounds, and (fewer replicates) of the sequence."""
    design, bounds = Design(kind), group_sequential_bounds(np.arange(1, LOOKS + 1) / LOOKS)
    rates: dict[tuple[str, bool], float] = {}
    for real in (False, True):
        control, treatment = design.draw(rng, replicates, design.effect if real else 0.0)
        z = design.z(control, treatment)
        crossed = np.abs(z) > bounds
        rates["fixed", real] = float((np.abs(z[:, -1]) > 1.959964).mean())
        rates["peeked", real] = float((np.abs(z) > 1.959964).any(axis=1).mean())
        rates["group", real] = float(crossed.any(axis=1).mean())
        rates["sample", real] = float(np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, LOOKS).mean()) / LOOKS
        fewer = [np.moveaxis(arm[:, : replicates // 4], 1, 0) for arm in (control, treatment)]
        rates["sequence", real] = sum(map(design.sequence_rejects, *fewer, z)) / len(fewer[0])
    name = f"{kind}: confidence sequence"
    report.record(
        f"{name}, {LOOKS} looks: false positives", rates["sequence", False], monte_carlo(rates["sequence", False], replicates // 4)
    )
    report.record(f"{name}: power of a fixed size", rates["sequence", True] / rates["fixed", True], f"fixed {rates['fixed', True]:.3f}")
    name = f"{kind}: O'Brien–Fleming"
    report.record(f"{name}, {LOOKS} looks: false positives", rates["group", False], monte_carlo(rates["group", False], replicates))
    report.record(f"{name}: power of a fixed size", rates["group", True] / rates["fixed", True])
    report.record(f"{name}: mean sample", rates["sample", True], "where there is an effect")
    name = f"{kind}: fixed-size test looked at {LOOKS} times: false positives"
    report.record(name, rates["peeked", False], f"looked at once {rates['fixed', False]:.3f}")


def clusters(report: Report, rng: Generator, replicates: int) -> None:
    """Users with 1 + Poisson(4) requests and a random effect on the logit of success, the same in both arms."""

    def arm() -> tuple[np.ndarray, np.ndarray]:
        requests = 1 + rng.poisson(4, 20)
        successes = rng.binomial(requests, special.expit(1.0 + 1.3 * rng.standard_normal(20)))
        return successes, requests

    def clustered() -> float:
        return compare(*(SampleRatio.from_values(*arm()) for _ in range(2))).p_value

    def naive() -> float:
        return compare(*(SampleProportion(requests.sum(), successes.sum()) for successes, requests in (arm(), arm()))).p_value

    def paired() -> float:
        ease, labels = 1.3 * np.repeat(rng.standard_normal(20), 4), np.repeat(np.arange(20), 4)
        taste = 0.7 * np.repeat(rng.standard_normal(20), 4)  # a task may suit one of the two, which trials repeat
        results = [rng.random(80) < special.expit(ease + sign * taste) for sign in (-1, 1)]
        return compare_paired(results[0].astype(float), results[1].astype(float), clusters=labels.tolist()).p_value

    def uneven() -> float:
        labels = np.repeat(np.arange(20), np.where(np.arange(20) < 16, 2, 20))
        return compare_paired(np.zeros(labels.size), rng.normal(size=20)[labels] + rng.normal(0, 0.5, labels.size), clusters=labels).p_value

    def heavy(n: int) -> SampleRatio:
        requests = np.ceil(rng.pareto(1.5, n) + 1e-9)
        return SampleRatio.from_values(rng.binomial(requests.astype(int), special.expit(1.0 + 1.3 * rng.standard_normal(n))), requests)

    report.record("20 tasks, 4 of them with ten times the trials: size", *rejects(replicates, uneven))
    heavy_note = rejects(replicates // 4, lambda: compare(heavy(200), heavy(22)).p_value)
    report.record("users with Pareto(1.5) requests, 200/22: size", heavy_note[0], f"{heavy_note[1]}; a few users are most of the arm")
    report.record("20 users per arm, requests clustered: size", *rejects(replicates, clustered))
    report.record("20 users per arm, requests taken for units: size", *rejects(replicates // 4, naive))
    report.record("20 tasks × 4 trials, paired and clustered: size", *rejects(replicates, paired))


def percentiles(report: Report, rng: Generator, replicates: int) -> None:
    for n in (500, 2000):
        draw = lambda: compare_quantile(rng.lognormal(size=n), rng.lognormal(size=n), 0.95).p_value  # noqa: E731, B023
        report.record(f"95th percentile, n = {n:,}: size", *rejects(replicates, draw))
    unanswered = sum(
        compare_quantile(rng.lognormal(size=299), rng.lognormal(size=299), 0.95).status == "insufficient_data" for _ in range(20)
    )
    report.record("95th percentile, n = 299: share without an answer", unanswered / 20)


def pairs_and_margins(report: Report, rng: Generator, replicates: int) -> None:
    def mcnemar() -> float:
        ease = rng.random(50)
        p_value = compare_paired(*((rng.random(50) < 0.3 + 0.6 * ease).astype(float) for _ in range(2))).p_value
        return 1.0 if math.isnan(p_value) else p_value  # no pair differs

    def at_margin() -> float:
        control, treatment = rng.normal(10, 3, 450), rng.normal(9.5, 3, 50)
        return non_inferiority(SampleMean.from_values(control), SampleMean.from_values(treatment), margin=0.05).p_value

    report.record("McNemar, 50 pairs: size", *rejects(replicates, mcnemar))
    report.record("non-inferiority of means at its margin, 450/50: size", *rejects(replicates, at_margin))
    for where, (n, m, share, margin) in MARGINS.items():
        report.record(f"non-inferiority of shares at its margin, {where}: size", exact_margin(n, m, share, margin), "exact")


def ramp(report: Report, rng: Generator, replicates: int) -> None:
    """Two stages of a rollout, 90:10 on a good day and 50:50 on a bad one, without any effect."""
    apart, pooled = [], []
    for _ in range(replicates):
        stages = [
            tuple(SampleProportion(n, float(rng.binomial(n, share))) for n in sizes)
            for sizes, share in (((9000, 1000), 0.92), ((5000, 5000), 0.85))
        ]
        apart.append(stratified(stages, method="wald").effect)  # type: ignore[arg-type]
        pooled.append(compare(stages[0][0] + stages[1][0], stages[0][1] + stages[1][1], method="wald").effect)
    error = 100 * float(np.std(apart)) / math.sqrt(replicates)
    limit = max(0.01, 3 * error)
    note = f"± {error:.4f} percentage points, {replicates:,} replicates; the limit is three such errors, at least .01"
    report.record("rollout stages, stratified: |bias|", abs(100 * float(np.mean(apart))), note, limit=limit)
    report.record("rollout stages, pooled: |bias|", abs(100 * float(np.mean(pooled))))


def judged(report: Report, rng: Generator, replicates: int) -> None:
    """A judge that passes one wrong answer in four and fails one right answer in ten; 5,000 judged, 30 labelled."""
    covered, width, alone = 0, 0.0, 0.0
    for _ in range(replicates):
        labels = (rng.random(5030) < 0.7).astype(float)
        scores = np.where(labels == 1, rng.random(5030) < 0.9, rng.random(5030) < 0.25).astype(float)
        result = prediction_powered.mean(scores, scores[:30], labels[:30])
        covered += result.ci_lower <= 0.7 <= result.ci_upper
        width += result.ci_upper - result.ci_lower
        alone += 2 * stats.t.ppf(0.975, 29) * labels[:30].std(ddof=1) / math.sqrt(30)
    share = covered / replicates
    report.record("prediction-powered mean, 30 labels: coverage", share, monte_carlo(share, replicates))
    report.record("prediction-powered mean, 30 labels: width against labels alone", width / alone)


def impacts(report: Report, rng: Generator, replicates: int) -> None:
    for design, (covered, width, error) in _impact_coverage.coverage(rng, replicates).items():
        note = f"{monte_carlo(covered, replicates)}; mean width {width:.2f}, RMSE {error:.2f}"
        report.record(f"impact, {design}: coverage of 95 %", covered, note)
        if design == "AR .5, control":
            report.record(f"impact, {design}: mean width", width)


def forecasts(report: Report, rng: Generator, replicates: int) -> None:
    for design, covered in _forecast_coverage.coverage(rng, replicates).items():
        report.record(f"forecast, {design}: coverage of 80 %", covered, f"{replicates} series")


def sections(quick: bool) -> Iterator[Callable[[Report, Generator], None]]:
    many, few = (4000, 6000) if quick else (40000, 20000)
    yield lambda report, rng: canaries(report)
    yield lambda report, rng: heavy_tails(report, rng, many)
    for kind in ("shares", "lognormal", "shares, 10 % canary"):
        yield lambda report, rng, kind=kind: looks(report, rng, few, kind)  # type: ignore[misc]
    yield lambda report, rng: clusters(report, rng, many)
    yield lambda report, rng: percentiles(report, rng, many)
    yield lambda report, rng: pairs_and_margins(report, rng, many)
    yield lambda report, rng: ramp(report, rng, few)
    yield lambda report, rng: judged(report, rng, many)
    yield lambda report, rng: impacts(report, rng, 300 if quick else 2000)
    yield lambda report, rng: forecasts(report, rng, 60 if quick else 500)


def main() -> int:
    options = arguments(__doc__ or "").parse_args()
    report = Report("calibration", TARGETS, options)
    for number, section in enumerate(sections(options.quick)):
        section(report, np.random.default_rng((options.seed, number)))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
