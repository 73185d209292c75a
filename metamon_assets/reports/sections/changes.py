"""What changes of version, model, prompt or configuration did: before against after, change by change.

A change is an event that was reported, or inferred from a first sighting. The agent's runs of up to a week before it are held
against those of up to a week after it, each side ending at the agent's neighbouring change. This is no A/B test, and the section
says so each time: what else changed, whether the weekdays differ. Three things keep it from crying wolf: conversations are
the units; the intervals are as much wider as the agent's days differ from each other anyway; and where the course breaks
at another time than that of the change, or drifts steadily, the change is not named for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from metamon_assets import words
from metamon_assets.reports import history as histories
from metamon_assets.reports import measures, runs
from metamon_assets.reports.findings import DAYS_A_MONTH, Content, Context, Finding, Table
from metamon_assets.reports.history import History, clock
from metamon_assets.reports.measures import BY_KEY, Measure
from metamon_assets.reports.past_incidents import CHOSEN, searched
from metamon_assets.reports.sections.incidents import coinciding
from metamon_assets.reports.volume import SATURDAY, calendar
from metamon_assets.statistics import scan
from metamon_assets.statistics.significance import Comparison, adjust_p_values

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal[
    "worse", "better", "better and worse", "unclear", "no change seen", "moved at another time", "too little data", "came with an incident"
]

MEASURED = ("failed", "latency", "cost", "quality", "completed")
WINDOW = timedelta(days=7)  # before and after: all weekdays, and not so long that much else happens
MINOR = "configuration"  # such a change ends no other one's week; it is named beside it
SAME = timedelta(hours=1)  # events of one agent so near to each other are one change
LEAST_RUNS = 50  # on each side
CHANCE = 0.01  # of the moves told at most so many are none (Benjamini, Hochberg over all changes and measures)
LEAST = 0.03  # a smaller relative move is not worth a sentence, however sure
BREAK = 10.0  # twice the log likelihood by which another moment may fit the course better (99 % for a change point)
LONGEST_INCIDENT = 48  # hours of an incident that is left out of the comparison
CERTAIN = 0.95  # that all intervals of the table hold at once
STEP = 1.96  # deviates by which the course must step at the change, beside a steady drift
WEEKENDS_DIFFER = 0.2  # share of runs on weekends, before against after
SHOWN = 20
_EVENTS = """
    SELECT time, kind, agent_name, version, inferred FROM metamon.events
    WHERE time >= %(start)s AND time < %(end)s AND time < %(now)s AND kind IN ('deployment', 'version', 'model', 'prompt', 'configuration')
        AND (%(project)s::text IS NULL OR project = %(project)s)
        AND (%(agent)s::text IS NULL OR agent_name IS NULL OR agent_name = %(agent)s)
    ORDER BY time, inferred, kind"""


class Change(NamedTuple):
    """An event, or several at one time: ``agent`` None concerns all."""

    time: datetime
    what: str
    agent: str | None
    inferred: bool
    version: str | None = None


@dataclass(frozen=True, slots=True)
class _Effect:
    """What a change did to a measure, with the values that people read."""

    measure: Measure
    found: Comparison
    before: float
    after: float
    at_change: bool
    p_value: float = math.nan  # corrected
    at_once: Comparison | None = None  # with the interval that holds together with those of all other changes and measures

    @property
    def clear(self) -> bool:
        """Whether it is surely a move, one of interest, and told by the values that people read in the same direction."""
        scale = abs(self.found.effect - 1) if self.relative else abs(self.found.effect) / max(abs(self.before), 1e-9)
        moved = self.found.effect - 1 if self.relative else self.found.effect
        return self.p_value <= CHANCE and scale >= LEAST and (self.after - self.before) * moved > 0

    @property
    def open(self) -> bool:
        """Whether no move lies outside the interval that holds together with all others, without the move being clear."""
        none = 1.0 if self.relative else 0.0
        return not self.clear and self.at_once is not None and not self.at_once.ci_lower <= none <= self.at_once.ci_upper

    @property
    def relative(self) -> bool:
        """Whether the effect is a ratio."""
        return self.measure.unit in ("seconds", "dollars")

    @property
    def worse(self) -> bool:
        """Whether the measure moved for the worse."""
        return ((self.found.effect - 1) if self.relative else self.found.effect) * self.measure.sign > 0


@dataclass(frozen=True, slots=True)
class _Judged:
    """A change with its effects."""

    change: Change
    before: pd.DataFrame
    after: pd.DataFrame
    days_before: float
    days_after: float
    effects: tuple[_Effect, ...]
    with_incident: bool = False  # an incident is told with it, or of its runs

    @property
    def verdict(self) -> Verdict:
        """In a word."""
        clear = [effect for effect in self.effects if effect.clear]
        at_change = {effect.worse for effect in clear if effect.at_change}
        if at_change:
            return "better and worse" if len(at_change) == 2 else "worse" if at_change == {True} else "better"
        if self.with_incident:
            return "came with an incident"
        if not self.effects:
            return "too little data"
        if clear:
            return "moved at another time"
        return "unclear" if any(effect.open for effect in self.effects) else "no change seen"


def build(context: Context) -> Content:
    """A finding for each change after which something clearly moved; a table of all."""
    changes = _changes(context)
    if not changes:
        return Content(silence="No change of version, model, prompt or configuration was reported or seen in the runs in this period.")
    history = _without_incidents(context, histories.load_with_reference(context))
    causes = _causes(context)
    judged = _corrected([_judge(history, changes, change) for change in changes])
    judged = [replace(found, with_incident=any(cause.is_change(found.change) for cause in causes)) for found in judged]
    told = [found for found in judged if found.verdict in ("worse", "better", "better and worse")]
    findings = tuple(_finding(context, history, changes, found, number) for number, found in enumerate(told, 1))
    silent = f"{words.many(len(judged), 'change')}: {_counted(judged)}. {_nothing(judged)}"
    return Content(findings, (_table(context, judged),), silence="" if findings else silent)


def _without_incidents(context: Context, history: History) -> History:
    """The history without the hours of short incidents that are over: these are told by themselves, and would look like a change's work."""
    hour, kept = history.runs["hour"].to_numpy(dtype=np.float64), np.ones(len(history.runs), dtype=bool)
    done = searched(context)
    for incident in done[1].incidents if done is not None else ():
        if incident.end < history.hours - 1 and incident.end - incident.start <= LONGEST_INCIDENT:
            kept &= (hour < incident.start) | (hour >= incident.end)
    return history if kept.all() else replace(history, runs=history.runs[kept].reset_index(drop=True))


class _Cause(NamedTuple):
    """What an incident is laid to: a change that came at the same ``time``, or a version, prompt or model whose runs it is about."""

    agent: str | None
    version: str | None = None
    time: datetime | None = None

    def is_change(self, change: Change) -> bool:
        """Whether it is this change."""
        if None not in (self.agent, change.agent) and self.agent != change.agent:
            return False
        if self.time is not None:
            return abs(change.time - self.time) <= SAME
        return any(f"{mark}{words.name(self.version)}”" in change.what for mark in ("“", " "))  # a prompt's name may stand before it


def _causes(context: Context) -> list[_Cause]:
    """What the incidents of this report are laid to."""
    done = searched(context)
    if done is None:
        return []
    search, causes = done[0], list[_Cause]()
    for incident in done[1].incidents:
        named = {name: str(value) for name, value in incident.attributes.items() if value is not None}
        causes += [_Cause(named.get("agent"), named[name]) for name in CHOSEN if name in named]
        causes += [_Cause(whose, time=time) for _, whose, _, _, time in coinciding(context, search, incident)]
    return causes


def _nothing(judged: list[_Judged]) -> str:
    """Why none of the changes is told, in accordance with the verdicts of the table."""
    verdicts = {found.verdict for found in judged}
    text = "At none of them did anything clearly move"
    if "came with an incident" in verdicts:
        text = "What moved with some of them is told under “What went wrong in this time”"
        text += "; at none of the others did anything clearly move" if len(verdicts) > 1 else ""
    if "moved at another time" in verdicts:
        text += "; what did move came at another time than the change"
    if "unclear" in verdicts:
        text += "; where it is unclear, something may have moved, too little to matter or not surely enough among so many comparisons"
    return f"{text}."


def _changes(context: Context) -> list[Change]:
    """Events in order of time. Those of one agent within an hour are one change, and so are a report and the first sighting of it."""
    found: list[Change] = []
    for time, kind, agent, version, inferred in runs.rows(context, _EVENTS):
        what = f"{kind} “{words.name(version)}”" if version else str(kind)
        new = Change(time, what, agent, inferred, version)
        at = next((at for at, known in enumerate(found) if _is_one(known, new)), None)
        if at is None:
            found.append(new)
        elif new.version and found[at].version and not _names_same(found[at], new):
            found[at] = found[at]._replace(what=f"{found[at].what} and {what}", inferred=found[at].inferred and inferred)
    return found


def _is_one(known: Change, new: Change) -> bool:
    within = timedelta(days=1) if _names_same(known, new) and known.inferred != new.inferred else SAME
    return known.agent == new.agent and new.time - known.time <= within


def _names_same(known: Change, new: Change) -> bool:
    """Whether one version is the other, perhaps with the prompt's name before it."""
    if not known.version or not new.version:
        return False
    return known.version.split()[-1] == new.version.split()[-1]


def _judge(history: History, changes: list[Change], change: Change) -> _Judged:
    frame = history.runs
    own = np.ones(len(frame), dtype=bool) if change.agent is None else (frame["agent"] == change.agent).to_numpy()
    others = [
        other.time
        for other in changes
        if other.agent in (None, change.agent) and abs(other.time - change.time) > SAME and not other.what.startswith(MINOR)
    ]
    first = max([history.start, change.time - WINDOW, *(time for time in others if time < change.time)])
    last = min([history.end, change.time + WINDOW, *(time for time in others if time > change.time)])
    lower, at, upper = ((moment - history.start).total_seconds() / 3600 for moment in (first, change.time, last))
    hour = frame["hour"].to_numpy(dtype=np.float64)
    before, after = frame[own & (hour >= lower) & (hour < at)], frame[own & (hour >= at) & (hour < upper)]
    effects: list[_Effect] = []
    if min(len(before), len(after)) >= LEAST_RUNS:
        effects = [effect for key in MEASURED if (effect := _effect(history, BY_KEY[key], frame[own], before, after, at)) is not None]
    return _Judged(change, before, after, max(at - lower, 0) / 24, max(upper - at, 0) / 24, tuple(effects))


def _effect(history: History, measure: Measure, own: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame, at: float) -> _Effect | None:
    known = [part[part[measure.key].notna()] for part in (before, after)]
    if min(map(len, known)) < LEAST_RUNS:
        return None
    found = measures.effect(measure, *known)
    if found.status != "ok":
        return None
    x = measures.scanned(measure, own)
    hour = np.floor(own["hour"].to_numpy(dtype=np.float64)).astype(np.int64)
    usable = np.isfinite(x)
    n, total = (scan.cumulated(np.bincount(hour[usable], weights, history.hours + 1).astype(np.float64)) for weights in (None, x[usable]))
    factor = scan.wander(measure.kind, n, total, scan.DAY_STEPS)
    first, last = int(known[0]["hour"].min()), int(known[1]["hour"].max()) + 1
    breaks = scan.split_deviates(measure.kind, n, total, first, last)
    here = breaks[min(max(round(at), first + 1), last - 1) - first - 1]
    step = scan.step_beside_drift(measure.kind, n, total, first, round(at), last) * math.copysign(1, here) / math.sqrt(factor)
    at_change = bool(np.isfinite(here) and float(np.nanmax(breaks**2) - here**2) / factor <= BREAK and step >= STEP)
    return _Effect(measure, _widened(found, factor), measures.typical(measure, known[0]), measures.typical(measure, known[1]), at_change)


def _widened(found: Comparison, factor: float) -> Comparison:
    """The comparison with an interval, and a p-value, that allow for a variance larger by a factor."""
    scale = math.sqrt(factor)
    if scale == 1 or not math.isfinite(found.p_value):
        return found
    p_value = 2 * scan.tail(abs(found.z) / scale)
    return replace(_stretched(found, scale), p_value=p_value, standard_error=found.standard_error * scale)


def _stretched(found: Comparison, scale: float) -> Comparison:
    """The comparison with an interval so many times as wide."""
    if "ratio" in found.method:
        bounds = [found.effect * (bound / found.effect) ** scale for bound in (found.ci_lower, found.ci_upper)]
    else:
        bounds = [found.effect + scale * (bound - found.effect) for bound in (found.ci_lower, found.ci_upper)]
    return replace(found, ci_lower=bounds[0], ci_upper=bounds[1])


def _corrected(judged: list[_Judged]) -> list[_Judged]:
    p_values = adjust_p_values([effect.found.p_value for found in judged for effect in found.effects] or [math.nan]).tolist()
    normal, compared = NormalDist(), max(len(p_values), 1)
    wider = normal.inv_cdf(1 - (1 - CERTAIN) / 2 / compared) / normal.inv_cdf((1 + CERTAIN) / 2)
    result = []
    for found in judged:
        own, p_values = p_values[: len(found.effects)], p_values[len(found.effects) :]
        result.append(
            replace(
                found,
                effects=tuple(replace(e, p_value=p, at_once=_stretched(e.found, wider)) for e, p in zip(found.effects, own, strict=True)),
            )
        )
    return result


def _finding(context: Context, history: History, changes: list[Change], found: _Judged, number: int) -> Finding:
    change = found.change
    clear = [effect for effect in found.effects if effect.clear and effect.at_change]
    clear.sort(key=lambda effect: (not effect.worse, effect.p_value))
    moved = "; ".join(
        f"{effect.measure.noun} {measures.shown(effect.measure, effect.before)} → {measures.shown(effect.measure, effect.after)},"
        f" {measures.moved(effect.measure, effect.found)}"
        for effect in clear
    )
    whose = "all agents" if change.agent is None else f"“{words.name(change.agent)}”"
    values = {"change": change.time, "change_end": change.time + timedelta(days=found.days_after), "changed": change.agent}
    bad = clear[0].measure
    condition = (
        "start_time >= %(change)s AND start_time < %(change_end)s AND (%(changed)s::text IS NULL OR agent_name = %(changed)s)"
        f" AND {bad.bad}"
    )
    query = runs.listing(context, condition, values, order=bad.order)
    return Finding(
        key=f"changes.{number}.{found.verdict.replace(' ', '_')}",
        statement=f"{whose[0].upper() + whose[1:]} got {found.verdict} with {change.what} on {clock(context, change.time)}: {moved}.",
        certainty=_certainty(history, changes, found, clear),
        estimate=measures.estimate(bad, clear[0].found),
        money_per_month=_money(found, clear),
        runs=runs.examples(context, query),
        query=query,
        severity="notice" if any(effect.worse for effect in clear) else "info",
    )


def _certainty(history: History, changes: list[Change], found: _Judged, clear: list[_Effect]) -> str:
    change = found.change
    compared = (
        f"Before and after, no A/B test: {words.many(len(found.before), 'run')} of {found.days_before:.1f} days against"
        f" {words.many(len(found.after), 'run')} of {found.days_after:.1f} days; p at most"
        f" {max(effect.p_value for effect in clear):.2g}, corrected for all changes and measures, and for how days differ anyway."
    )
    parts = [compared]
    near = [other for other in changes if other != change and abs(other.time - change.time) <= timedelta(days=1)]
    if near:
        listed = ", ".join(f"{other.what} of {'all agents' if other.agent is None else words.name(other.agent)}" for other in near[:3])
        parts.append(f"Within a day of it changed as well: {listed}.")
    weekends = [_weekend(history, part) for part in (found.before, found.after)]
    if abs(weekends[0] - weekends[1]) > WEEKENDS_DIFFER:
        shares = " and ".join(f"{words.percent(share)} {word}" for share, word in zip(weekends, ("before", "after"), strict=True))
        parts.append(f"The weekdays differ: of the runs, {shares} were on weekends.")
    if found.days_after < 1:
        parts.append("Less than a day has passed since, so the hours of the day differ too.")
    if change.inferred:
        parts.append("Nobody reported the change; it was first seen in the runs then.")
    return " ".join(parts)


def _weekend(history: History, part: pd.DataFrame) -> float:
    _, weekday = calendar(history.start, history.hours + 1, history.timezone)
    return float((weekday[np.floor(part["hour"].to_numpy(dtype=np.float64)).astype(np.int64)] >= SATURDAY).mean())


def _money(found: _Judged, clear: list[_Effect]) -> Decimal | None:
    """What the move of the mean cost comes to in 30 days at the present number of priced runs; from three days on."""
    cost = next((effect for effect in clear if effect.measure.key == "cost"), None)
    if cost is None or found.days_after < 3:
        return None
    return Decimal(str(round((cost.after - cost.before) * int(found.after["cost"].notna().sum()) / found.days_after * DAYS_A_MONTH, 6)))


def _table(context: Context, judged: list[_Judged]) -> Table:
    """One row per change; of each measure the interval of its move: all hold at once with 95 % (Bonferroni)."""
    shown = judged[:SHOWN]
    measured = list(dict.fromkeys(effect.measure.key for found in shown for effect in found.effects))
    nouns = {effect.measure.key: effect.measure.noun for found in shown for effect in found.effects}
    rows = [
        (
            clock(context, found.change.time),
            "all agents" if found.change.agent is None else words.name(found.change.agent),
            found.change.what + (" (first seen)" if found.change.inferred else ""),
            _in_words(found),
            *_cells(found, measured),
        )
        for found in shown
    ]
    title = "Changes" if len(judged) <= SHOWN else f"Changes (the first {SHOWN} of {len(judged):,})"
    title += ", and what they moved at most and at least (rates in points; all intervals hold at once with 95%)" if measured else ""
    return Table(title, ("time", "agent", "change", "verdict", *(nouns[key] for key in measured)), tuple(rows))


def _in_words(found: _Judged) -> str:
    few = f": {len(found.before)} and {len(found.after)} runs of {LEAST_RUNS}" if found.verdict == "too little data" else ""
    return f"{found.verdict}{few}"


def _cells(found: _Judged, measured: list[str]) -> list[str]:
    intervals = {effect.measure.key: measures.interval(effect.measure, effect.at_once or effect.found) for effect in found.effects}
    return [intervals.get(key, "–") for key in measured]


def _counted(judged: list[_Judged]) -> str:
    verdicts = [found.verdict for found in judged]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
