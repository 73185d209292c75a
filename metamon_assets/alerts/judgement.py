"""Whether a rule fires for a group: the test of its figure, widening windows, and how long the condition has held (ALR-33).

A share is above its limit when its exact lower bound is, a quantile when the share beyond the limit is above 1 − q for sure, a mean when
its 95 % interval lies beyond. A window that is too thin for that widens to 15 minutes, 1 hour, 6 hours and 1 day, and says so. Nothing
here knows the database or the clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from metamon_assets.alerts.catalogue import WINDOWS
from metamon_assets.alerts.signals import SIGNALS, Look, Reading, Signal
from metamon_assets.statistics.exact import at_least, at_most

if TYPE_CHECKING:
    from metamon_assets.alerts.catalogue import Rule
    from metamon_assets.alerts.series import Group

Outcome = Literal["fires", "calm", "too_few", "no_data"]
State = Literal["ok", "pending", "firing", "too_few", "no_data", "learning", "not_applicable"]
ALPHA, Z = 0.025, 1.959964  # of a one-sided test at the two-sided 95 %
BEYOND_A_QUANTILE = 10  # events that should lie beyond it


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one look says of a group."""

    group: Group
    outcome: Outcome
    reading: Reading | None = None
    window: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class RuleState:
    """What a rule says of a group in the end. ``since``: when the condition began to hold, or the state to be as it is."""

    state: State
    since: datetime


def judge(rule: Rule, look: Look) -> Iterator[Verdict]:
    """What the rule says of every group that has anything to say, each over the narrowest window with enough events."""
    signal = SIGNALS[rule.metric]
    least = smallest_sample(rule, signal)
    waiting: dict[Group, Verdict] | None = None  # None: nobody has been looked at yet
    for window in _windows(rule, signal):
        readings = {reading.group: reading for reading in signal.read(look, window, rule.threshold, rule.by)}
        thin: dict[Group, Verdict] = {}
        for group, reading in readings.items():
            if waiting is not None and group not in waiting:
                continue
            if reading.sample < least or reading.value is None:
                outcome: Outcome = "too_few" if reading.sample else "no_data"
                thin[group] = Verdict(group, outcome, reading, window)
            else:
                yield Verdict(group, "fires" if fires(rule, signal, reading) else "calm", reading, window)
        waiting = thin
        if not waiting:
            return
    yield from (waiting or {}).values()


def smallest_sample(rule: Rule, signal: Signal) -> int:
    """Events that a verdict must rest on."""
    if signal.q is None:
        return rule.minimum_sample
    return max(rule.minimum_sample, math.ceil(BEYOND_A_QUANTILE / (1 - signal.q) - 1e-9))


def fires(rule: Rule, signal: Signal, reading: Reading) -> bool:
    """Whether the figure is on the wrong side of the rule's bound for sure."""
    limit, value = rule.threshold, reading.value
    assert limit is not None and value is not None
    if signal.kind == "quantile":
        assert signal.q is not None and reading.counted is not None
        return at_least(reading.counted, reading.sample, 1 - signal.q) <= ALPHA
    if signal.kind == "share":
        assert reading.counted is not None
        tail = at_least if rule.above is not None else at_most
        return tail(reading.counted, reading.sample, limit) <= ALPHA
    error = Z * (reading.error or 0.0)
    return value - error > limit if rule.above is not None else value + error < limit


def advance(before: RuleState | None, verdict: Verdict, rule: Rule, at: datetime) -> RuleState:
    """The state after a verdict: it fires once the condition has held for as long as the rule wants.

    Without data a rule stays as it is, counts as well or fires, as it says of itself; so it does where events are too few.
    """
    outcome = verdict.outcome
    if outcome in ("no_data", "too_few"):
        if rule.no_data == "fire" and outcome == "no_data":
            outcome = "fires"
        elif before is not None and before.state in ("pending", "firing") and rule.no_data == "keep":
            return before
    if outcome == "fires":
        since = before.since if before is not None and before.state in ("pending", "firing") else at
        return RuleState("firing" if at - since >= rule.hold else "pending", since)
    state: State = "ok" if outcome == "calm" else outcome
    return RuleState(state, before.since if before is not None and before.state == state else at)


def _windows(rule: Rule, signal: Signal) -> tuple[timedelta, ...]:
    """The rule's own window, and where more events help the wider ones."""
    if signal.kind == "level":
        return (rule.window,)
    return (rule.window, *(window for window in WINDOWS if window > rule.window))
