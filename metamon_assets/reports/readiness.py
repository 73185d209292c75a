"""Which features work with the traffic there is, for all agents and for each: ready, in a wider window, or not yet, and why.

Every answer follows from the agent's own figures: runs a day, how often they fail, how much latency and cost vary, how alike the
runs of one conversation are. The smallest effects are those found in four of five cases (power .8) at the level that the feature
uses. With next to nothing to go by, the answer is "not yet" and how much is missing, never a figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np

from metamon_assets import words
from metamon_assets.reports import history as histories
from metamon_assets.reports import measures
from metamon_assets.reports.findings import Context
from metamon_assets.statistics.power import solve, solve_proportion

if TYPE_CHECKING:
    import pandas as pd

State = Literal["ready", "wider window", "not yet"]

POWER = 0.8
POINTS = 0.03  # the fall that canaries and comparisons are asked about
FEWEST_RUNS = 20  # below, a rate means nothing
FEWEST_DAYS = 1.0
AGENTS = 8  # that are judged one by one
WEEK = 7
FALSE_ALARM = 1e-4  # a window: what a detector's warning stands for, about one in two weeks of five-minute windows and channels
WINDOWS = {5: "five minutes", 15: "15 minutes", 60: "an hour", 240: "four hours", 1440: "a day"}
HALF = 0.5  # an incident in which half of the runs fail must show within one window
LONGEST_TEST = 14  # days that a team waits for a canary
ENDLESS_TEST = 90  # days after which nobody waits any more
PATTERN_RUNS = 20  # failed runs, from which on patterns have shares
USABLE = 10  # points: weeks that show only larger falls are not worth comparing
CASES = 150  # golden cases that show a fall of ten points
CHANGED_OUTCOMES = 0.1  # of golden cases, between two versions
SUCCESSES = 0.5, 1.0  # added to what was seen, so that no rate is 0 or 1


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a feature works for an agent (None: all together). ``ready_in_days``: at this rate; None: ready, or traffic must grow."""

    feature: str
    agent: str | None
    state: State
    why: str
    smallest_effect: str = ""
    ready_in_days: float | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is known of an agent's runs."""

    agent: str | None
    runs: int
    days: float
    failed: int
    ended: int
    completed: float  # share of tasks completed, or of runs without error where nobody says
    known: int  # runs of which that is known
    by_completion: bool
    log_cost: tuple[float, int]  # variance of the logarithm, and priced runs with a cost above zero
    log_latency: tuple[float, int]
    priced: int
    alike: float  # design effect: how many runs of one conversation count as one

    @property
    def per_day(self) -> float:
        """Runs a day; less than a day counts as one."""
        return self.runs / max(self.days, 1.0)

    @property
    def error_rate(self) -> float:
        """Never 0 and never 1."""
        return (self.failed + SUCCESSES[0]) / (self.ended + SUCCESSES[1])

    @property
    def success(self) -> float:
        """The share that canaries are to protect; never 0 and never 1."""
        return (self.completed * self.known + SUCCESSES[0]) / (self.known + SUCCESSES[1])

    @property
    def outcome(self) -> str:
        """What that share is called."""
        return "task completion" if self.by_completion else "success rate"


def assess(context: Context) -> list[Readiness]:
    """All features for all runs together, then for each of the largest agents."""
    history = histories.load(context)
    frame = history.runs
    days = (history.end - history.start) / timedelta(days=1) if len(frame) else 0.0
    found = list(judged(_traffic(None, frame, days)))
    if context.agent is None and frame["agent"].nunique() > 1:
        for agent in frame["agent"].value_counts().index[:AGENTS]:
            own = frame[frame["agent"] == agent]
            since = days - float(own["hour"].min()) / 24
            found += judged(_traffic(str(agent), own, since))
    return found


def _traffic(agent: str | None, frame: pd.DataFrame, days: float) -> Traffic:
    failed = frame["failed"].to_numpy(dtype=np.float64)
    by_completion = bool(frame["completed"].notna().sum() >= max(FEWEST_RUNS, len(frame) / 2))
    key = "completed" if by_completion else "failed"
    values = frame[key].dropna()
    share = float(values.mean()) if len(values) else math.nan
    variances = {}
    for name in ("cost", "latency"):
        positive = frame[name].to_numpy(dtype=np.float64)
        positive = np.log(positive[positive > 0])
        variances[name] = (float(positive.var(ddof=1)) if positive.size > 1 else math.nan, int(positive.size))
    return Traffic(
        agent,
        len(frame),
        days,
        int(np.nansum(failed)),
        int(np.isfinite(failed).sum()),
        (share if by_completion else 1 - share) if math.isfinite(share) else 0.0,
        len(values),
        by_completion,
        variances["cost"],
        variances["latency"],
        int(frame["cost"].notna().sum()),
        measures.design_effect(measures.BY_KEY[key], frame) if len(values) else 1.0,
    )


def judged(traffic: Traffic) -> Iterator[Readiness]:
    """All features for one agent's traffic."""
    too_few = _too_few(traffic)
    for feature, judge in _FEATURES.items():
        state, why, effect, days = too_few or judge(traffic)
        yield Readiness(feature, traffic.agent, state, why, effect, days)


_Answer = tuple[State, str, str, float | None]
_Judge = Callable[[Traffic], _Answer]


def _too_few(traffic: Traffic) -> _Answer | None:
    """What is said of everything while there is nothing to go by."""
    if not traffic.runs:
        return "not yet", "no runs yet", "", None
    missing = max(FEWEST_DAYS - traffic.days, 0.0)
    if traffic.runs >= FEWEST_RUNS and not missing:
        return None
    wait = max(missing, (FEWEST_RUNS - traffic.runs) / traffic.per_day)
    why = f"{words.many(traffic.runs, 'run')} so far; rates mean something from {FEWEST_RUNS} runs over a day on"
    return "not yet", why, "", float(math.ceil(max(wait, 1.0)))


# --- the features ---------------------------------------------------------------------------------------------


def _cost(traffic: Traffic) -> _Answer:
    if not traffic.priced:
        return "not yet", "no run has a price: let the source report cost, or models and tokens", "", None
    variance, n = traffic.log_cost
    per_week = WEEK * n / max(traffic.days, 1.0)
    effect = _ratio_between(variance, per_week)
    why = f"{words.of(traffic.priced, traffic.runs, 'run')} have a price; sums are counted, not estimated"
    return "ready", why, f"{effect} of the cost per run from week to week" if effect else "", None


def _patterns(traffic: Traffic) -> _Answer:
    if traffic.failed >= PATTERN_RUNS:
        visible = 3 / traffic.failed
        return "ready", f"{words.many(traffic.failed, 'failed run')}", f"a pattern with {words.percent(visible)} of the failures", None
    why = f"{words.many(traffic.failed, 'failed run')}; shares of patterns mean something from {PATTERN_RUNS} on"
    if not traffic.failed:
        return "not yet", f"{why}. Failures are told as they come", "", None
    return (
        "wider window",
        f"{why}. Failures are told as they come",
        "",
        _days((PATTERN_RUNS - traffic.failed) / (traffic.failed / max(traffic.days, 1.0))),
    )


def _outages(traffic: Traffic) -> _Answer:
    """Runs in a row that all fail, until that is no chance."""
    in_a_row = math.ceil(math.log(FALSE_ALARM) / math.log(traffic.error_rate))
    minutes = in_a_row / traffic.per_day * 1440
    if traffic.error_rate > HALF:
        return "not yet", f"{words.percent(traffic.error_rate)} of the runs fail anyway: an outage would not stand out", "", None
    why = f"an outage shows after {words.many(in_a_row, 'failed run')} in a row, on average in {words.seconds(60 * minutes)}"
    return ("ready" if minutes <= 180 else "wider window"), why, "every run fails", None


def _detection(traffic: Traffic, minutes: int) -> _Answer:
    """Whether an incident that fails half of the runs shows in one window."""
    n = traffic.per_day * minutes / 1440
    if traffic.error_rate >= HALF:
        return "not yet", f"{words.percent(traffic.error_rate)} of the runs fail anyway", "", None
    visible = _visible_share(n, traffic.error_rate)
    if visible is not None and visible <= HALF:
        return (
            "ready",
            f"{n:.3g} runs in {WINDOWS[minutes]} on average, fewer at night",
            f"an error rate of {words.percent(visible)} in {WINDOWS[minutes]}",
            None,
        )
    enough = next((runs for runs in range(1, 300) if (_visible_share(runs, traffic.error_rate) or 1) <= HALF), None)
    why = f"{n:.2g} runs in {WINDOWS[minutes]} on average are too few"
    why += f"; it takes about {enough * 1440 / minutes:,.0f} runs a day" if enough else ""
    for wider, name in WINDOWS.items():
        visible = _visible_share(traffic.per_day * wider / 1440, traffic.error_rate)
        if wider > minutes and visible is not None and visible <= HALF:
            return "wider window", f"{why}. In {name} it works", f"an error rate of {words.percent(visible)} in {name}", None
    return "not yet", why, "", None


def _weekly(traffic: Traffic) -> _Answer:
    effect = _fall_between(traffic, WEEK * traffic.per_day) if traffic.known else None
    latency = _ratio_between(traffic.log_latency[0], WEEK * traffic.log_latency[1] / max(traffic.days, 1.0))
    shown = " and ".join(part for part in (effect and f"{effect} points of {traffic.outcome}", latency and f"{latency} of latency") if part)
    missing = 2 * WEEK - traffic.days
    if missing > 0.5:
        return "not yet", f"{traffic.days:.0f} of {2 * WEEK} days are here", shown, _days(missing)
    if (effect is None or float(effect) > USABLE) and (traffic.known or not latency):
        return (
            "wider window",
            f"{words.many(WEEK * traffic.per_day, 'run')} a week show only very large differences: compare months",
            shown,
            None,
        )
    return "ready", f"about {words.many(WEEK * traffic.per_day, 'run')} a week", shown, None


def _changes(traffic: Traffic) -> _Answer:
    """A fall of three points after a release, against the week before it."""
    needed = _units(traffic, 1.0)
    if needed is None:
        return "not yet", f"a {traffic.outcome} of {words.percent(traffic.success)} cannot fall by {100 * POINTS:.0f} points", "", None
    days = max(needed / 2 / (traffic.per_day / traffic.alike), 1.0)
    effect = _fall_between(traffic, WEEK * traffic.per_day)
    shown = f"{effect} points of {traffic.outcome} within a week" if effect else ""
    why = (
        f"a fall of {100 * POINTS:.0f} points shows after about {words.many(math.ceil(days), 'day')} with the new version"
        " (before and after, no A/B test)"
    )
    return ("ready" if days <= WEEK else "wider window" if days <= ENDLESS_TEST else "not yet"), why, shown, None


def _canary(traffic: Traffic, share: float) -> _Answer:
    ratio = share / (1 - share)
    needed, halves = _units(traffic, ratio), _units(traffic, 1.0)
    if needed is None or halves is None:
        return "not yet", f"a {traffic.outcome} of {words.percent(traffic.success)} cannot fall by {100 * POINTS:.0f} points", "", None
    rate = traffic.per_day / traffic.alike
    days = needed / rate
    why = (
        f"a fall of {100 * POINTS:.0f} points from a {traffic.outcome} of {words.percent(traffic.success)} takes {needed:,.0f} runs, about"
        f" {words.many(math.ceil(days), 'day')} at {traffic.per_day:,.0f} runs a day"
    )
    if traffic.alike > 1.05:
        why += f" (runs of one conversation are alike: {traffic.alike:.2g} count as one)"
    state: State = "ready" if days <= LONGEST_TEST else "wider window" if days <= ENDLESS_TEST else "not yet"
    if state != "ready" and ratio < 1:
        why += f". Use 50/50 ({words.many(math.ceil(halves / rate), 'day')}), or golden cases"
    elif state != "ready":
        why += ". Use golden cases"
    effect = _fall_between(traffic, LONGEST_TEST * traffic.per_day, ratio)
    return state, why, f"{effect} points in {LONGEST_TEST} days" if effect else "", None


def _golden(traffic: Traffic) -> _Answer:
    """Cases are made from runs and compared in pairs, so their number counts, not the traffic."""
    usable = traffic.runs - traffic.failed
    cases = math.ceil(_pairs(POINTS, CHANGED_OUTCOMES))
    why = (
        f"needs no traffic, only cases: {CASES} made from past runs show a fall of 10 points, {cases:,} one of {100 * POINTS:.0f} points"
        f" (if one case in ten changes its outcome; for 10 points, one in five)"
    )
    if usable >= CASES:
        return "ready", why, f"10 points with {CASES} cases", None
    if not usable:
        return "not yet", f"no successful run to make a case from; {why}", "", None
    return (
        "not yet",
        f"{words.many(usable, 'successful run')} to choose from; {why}",
        "",
        _days((CASES - usable) / (usable / max(traffic.days, 1.0))),
    )


def _from_failures(judge: _Judge) -> _Judge:
    """A feature that has nothing to go by where no run is known to have failed or not."""
    return lambda traffic: judge(traffic) if traffic.ended else _NOT_TOLD


def _from_outcomes(judge: _Judge) -> _Judge:
    """The same where it is not known either whether runs did what they were for."""
    return lambda traffic: judge(traffic) if traffic.known else _NOT_TOLD


_NOT_TOLD: _Answer = ("not yet", "not in these traces: whether runs failed", "", None)
_FEATURES: dict[str, _Judge] = {
    "cost": _cost,
    "error patterns": _from_failures(_patterns),
    "outages": _from_failures(_outages),
    "hourly detection": _from_failures(lambda traffic: _detection(traffic, 60)),
    "five-minute detection": _from_failures(lambda traffic: _detection(traffic, 5)),
    "weekly comparison": _weekly,
    "change detection": _from_outcomes(_changes),
    "canary at 10 %": _from_outcomes(lambda traffic: _canary(traffic, 0.1)),
    "A/B test at 50/50": _from_outcomes(lambda traffic: _canary(traffic, 0.5)),
    "golden cases": _golden,
}
FEATURES: Sequence[str] = tuple(_FEATURES)


# --- arithmetic -----------------------------------------------------------------------------------------------


def _units(traffic: Traffic, ratio: float) -> float | None:
    """Runs in both arms that show a fall of three points; None where the share cannot fall so far."""
    share = traffic.success
    return solve_proportion(baseline=share, relative_effect=-POINTS / share, power=POWER, ratio=ratio) if share > POINTS else None


def _fall_between(traffic: Traffic, n: float, ratio: float = 1.0) -> str | None:
    """The smallest fall of the share that ``n`` runs (for a ratio of 1: on each side) show, in points; None: not even to zero."""
    total = (2 * n if ratio == 1 else n) / traffic.alike
    try:
        effect = solve_proportion(baseline=traffic.success, n_total=total, power=POWER, ratio=ratio, alternative="less", alpha=0.025)
    except ValueError:
        return None
    return f"{-100 * effect * traffic.success:.2g}"


def _ratio_between(variance: float, n: float) -> str | None:
    """The smallest relative change of a geometric mean that ``n`` runs on each side show."""
    if not math.isfinite(variance) or variance <= 0 or n < 10:
        return None
    return words.change(math.exp(solve(baseline_mean=1.0, baseline_variance=variance, n_total=2 * n, power=POWER)) - 1)


def _visible_share(n: float, rate: float) -> float | None:
    """The smallest share of failures that ``n`` runs tell from ``rate`` with power .8 at the level of a warning; None: none does."""
    from scipy.stats import binom

    runs = math.floor(n)
    if runs < 1:
        return None
    critical = int(binom.isf(FALSE_ALARM, runs, rate)) + 1
    if critical > runs:
        return None
    grid = np.linspace(rate, 1, 200)
    return float(grid[np.argmax(binom.sf(critical - 1, runs, grid) >= POWER)])


def _pairs(fall: float, changed: float) -> float:
    """Pairs that show a mean difference of ``fall`` when a share ``changed`` of them differ (two-sided, normal)."""
    z = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(POWER)
    return z**2 * (changed - fall**2) / fall**2


def _days(days: float) -> float:
    return float(max(math.ceil(days - 1e-9), 1))
