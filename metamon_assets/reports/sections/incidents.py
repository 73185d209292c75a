"""Past incidents found in the history: what moved, from when to when, how far, in which runs, and what came at the same time.

The search is ``past_incidents``; here are its results in words, with sizes and intervals from the rows, the money where
cost moved, and the honest answer when nothing stood out. ``statistics.anomaly`` replays each found course as it would have come in
and says whether a watch would have raised it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metamon_assets import charts, words
from metamon_assets.reports import history as histories
from metamon_assets.reports import measures, runs
from metamon_assets.reports.findings import Content, Context, Estimate, Finding, Severity
from metamon_assets.reports.history import History
from metamon_assets.reports.measures import FAILED, VOLUME, Measure
from metamon_assets.reports.past_incidents import (
    LEAST_DAYS,
    LEAST_RUNS,
    SLICE_RUNS,
    Attributes,
    Found,
    Incident,
    Search,
    members,
    searched,
)
from metamon_assets.reports.volume import expected_volume
from metamon_assets.statistics.anomaly import Detector, Level
from metamon_assets.statistics.significance import SampleProportion, compare

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

COINCIDENCE = timedelta(hours=3)  # a change so near to the start is told with the incident
CONCERNED = 0.2  # of the slice's runs: an agent with fewer is not what the incident is about
STEPS = (5, 15, 60)  # minutes, of which the shortest with RUNS_A_STEP runs is replayed
RUNS_A_STEP = 20
SEEN_HOURS = 6  # the length of the incident whose smallest visible size is told
UNKNOWN = words.percent(None)
PICTURES = 3
POINTS_SHOWN = 24 * 14  # in a picture
IMPORTANCE = ("failed", "unfinished", "completed", "degraded", "quality", "latency", "first_token", "cost", "cached", "volume")
_SEVERITY: dict[Level, Severity] = {"critical": "serious", "warning": "notice", "normal": "notice"}
_EVENTS = """
    SELECT kind, agent_name, version, inferred, time FROM metamon.events
    WHERE time BETWEEN %(from)s AND %(to)s AND (agent_name IS NULL OR agent_name = ANY(%(whose)s))
        AND (%(project)s::text IS NULL OR project = %(project)s)
    ORDER BY abs(extract(epoch FROM time - %(at)s)) LIMIT 1"""


@dataclass(frozen=True, slots=True)
class _Size:
    """How far an incident moved its measure: before, meanwhile, and the difference for people and for machines."""

    before: str
    meanwhile: str
    moved: str
    estimate: Estimate | None
    excess: str = ""
    cost: Decimal | None = None


def build(context: Context) -> Content:
    """What was found, or how large it would have had to be."""
    done = searched(context)
    if done is None:
        history = histories.load_with_reference(context)
        span = words.many(history.hours / 24, "day") if history.hours >= 24 else words.many(history.hours, "hour")
        return Content(
            silence=f"{words.many(len(history.runs), 'run')} over {span}: too few to tell an incident from"
            f" chance, which takes {LEAST_RUNS} runs over {LEAST_DAYS} days."
        )
    search, found = done
    if not found.incidents:
        return Content(silence=_silence(context, search, found))
    told = [_most_important_first(incident) for incident in found.incidents]
    sized = [(incident, _size(context, search, incident)) for incident in told]
    sized = [(incident, size) for incident, size in sized if size.before != UNKNOWN]  # what has no before cannot have moved
    if not sized:
        return Content(silence=_silence(context, search, found))
    told = [incident for incident, _ in sized]
    return Content(
        tuple(_finding(context, search, incident, size, number) for number, (incident, size) in enumerate(sized, 1)),
        charts=tuple(_picture(search, incident) for incident in told[:PICTURES]),
        silence=_ends(context, search.history),
    )


def _most_important_first(incident: Incident) -> Incident:
    """The incident by the measure among those that moved which people suffer from most; the number of runs stays what it is."""
    if incident.of_tools or incident.measure == VOLUME:
        return incident
    moved = sorted((incident.measure, *incident.also), key=lambda measure: IMPORTANCE.index(measure.key))
    return replace(incident, measure=moved[0], also=tuple(moved[1:]))


def _ends(context: Context, history: History) -> str:
    """Where what is known of the runs ends, which is no outage."""
    ended = [feed for feed in history.feeds if feed.ends_before(history.end) and feed.last >= context.start]
    if not ended:
        return ""
    whose = [f" of {words.name(feed.project)} ({words.name(feed.source)})" if len(history.feeds) > 1 else "" for feed in ended]
    ends = [f"The traces{name} end at {histories.clock(context, feed.last)}" for name, feed in zip(whose, ended, strict=True)]
    return f"{'; '.join(ends)}: that is the end of what was read, so the hours after it are not called an outage."


def _silence(context: Context, search: Search, found: Found) -> str:
    history = search.history
    groups = [_values_of(name, history) for name in search.sliced]
    groups += ["calls of tools"] if len(search.tools) else []
    text = (
        f"Nothing stood out in {words.many(found.series, 'series', 'series')} ({_listed([measure.noun for measure in search.measures])},"
        f" of {_listed(['all runs', *groups])}) over {words.many((history.hours - history.reference) / 24, 'day')}"
    )
    text += f", with {words.many(history.reference / 24, 'day')} before for comparison." if history.reference >= 24 else "."
    share = history.runs["failed"].mean()
    n = SEEN_HOURS * len(history.runs) / max(history.hours, 1)
    if math.isfinite(share) and n >= 1:
        visible = _smallest_rise(float(share), n, found.threshold)
        told = f"less than {words.bound(visible)}" if visible < 1 else "even 100.0%"
        rise = f"rose from {words.percent(float(share))} to {told} for {SEEN_HOURS} hours"
        text += f" An error rate of all runs that {rise} would probably not have been seen."
    if history.left_out:
        text += f" {words.many(history.left_out, 'run')} before {history.start:%Y-%m-%d} were left out: a search takes the latest million."
    return f"{text} {_ends(context, history)}".strip()


def _values_of(attribute: str, history: History) -> str:
    """What series there are of an attribute: "the largest agents"; a key of the metadata is somebody's own word, so it has no plural."""
    if attribute in history.extra:
        return f"the largest values of “{words.name(attribute.removeprefix('metadata '))}”"
    return f"the largest {attribute}s"


def _smallest_rise(share: float, n: float, threshold: float) -> float:
    """The share among ``n`` runs whose deviate is the threshold: half of such incidents are seen."""
    grid = np.linspace(share, 1, 2000)[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = grid * np.log(grid / max(share, 1e-9)) + np.where(grid < 1, (1 - grid) * np.log((1 - grid) / (1 - share)), 0.0)
    seen = grid[np.sqrt(2 * n * gain) >= threshold]
    return float(seen[0]) if seen.size else 1.0


def _finding(context: Context, search: Search, incident: Incident, size: _Size, number: int) -> Finding:
    history = search.history
    start, end = (history.start + timedelta(hours=hour) for hour in (incident.start, incident.end))
    level, noticed = _replayed(search, incident)
    value, unit = (size.estimate.value, size.estimate.unit) if size.estimate is not None else (math.inf, "share")  # from none
    rising = incident.measure.sign > 0 or (incident.measure.sign == 0 and value > 1)
    lasting = incident.end >= history.hours - 1
    until = "until the end of the period" if lasting else f"to {histories.clock(context, end)}"
    noun = "error rate of calls" if incident.of_tools else incident.measure.noun
    noun = f"typical {noun}" if unit == "ratio" and incident.measure != VOLUME else noun
    whose = "" if incident.measure == VOLUME and not incident.attributes else f" of {histories.named(history, incident.attributes)}"
    statement = (
        f"From {histories.clock(context, start)} {until} ({_length(incident)}) the {noun}{whose}"
        f" {'rose' if rising else 'fell'} from {size.before} to {size.meanwhile}.{size.excess}"
    )
    statement += "".join(f" {sentence}" for sentence in _more(context, search, incident))
    query = _query(context, history, incident, start, end)
    return Finding(
        key=f"incidents.{number}.{incident.measure.key}",
        statement=statement,
        certainty=_certainty(search, incident, size, level, None if noticed is None else histories.clock(context, noticed)),
        estimate=size.estimate,
        cost=size.cost,
        money_is="more than as before" if size.cost else "",
        runs=runs.examples(context, query),
        query=query,
        severity=_SEVERITY[level],
    )


def _certainty(search: Search, incident: Incident, size: _Size, level: Level, noticed: str | None) -> str:
    text = (
        f"Compared with {_reference(search, incident)}: {size.moved}. Where hours differ by chance, and days as elsewhere in this history,"
        f" so clear a window comes with a probability of {_p(incident.p_value)}, all series counted. The window was chosen because it"
        " stands out, so its size is told rather too large."
    )
    blamed = incident.slice_
    if blamed is not None:
        share = "" if not 0 < blamed.share <= 1 else f" with {words.percent(blamed.share)} of the move"
        searched = "named by a search over all combinations of up to three attributes"
        text += f" The slice was {searched}{share} (p {_p(blamed.p_value)}); an association."
    elif not incident.attributes and search.history.attributes:
        text += " No slice of the runs explains it better than all of them."
    if noticed is not None:
        text += f" A watch on this course would have raised a {'critical alert' if level == 'critical' else 'warning'} at {noticed}."
    return text


def _more(context: Context, search: Search, incident: Incident) -> Iterator[str]:
    """What else belongs to it: other measures, the kind of errors, a change at the same time."""
    if incident.measure == VOLUME and incident.end >= search.history.hours - 1 and not _actual(search, incident):
        yield "None has come since: either there were none, or their source has not delivered them."
    if incident.also:
        yield f"With it: {', '.join(_beside(search, incident, measure) for measure in incident.also)}."
    if incident.measure == FAILED and not incident.of_tools:
        _, within = _parts(search, incident)
        failed = within.loc[within["failed"] == 1, "error_type"]
        kinds = failed.value_counts()
        if len(kinds) and 2 * kinds.iloc[0] >= len(failed):
            count = words.of(int(kinds.iloc[0]), len(failed), "failed run")
            yield f"Most of the errors: “{words.name(str(kinds.index[0]))}” ({count})."
    for kind, whose, version, inferred, time in coinciding(context, search, incident):
        what = f"{kind} “{words.name(version)}”" if version else str(kind)
        yield (
            f"At the same time ({histories.clock(context, time)}): {what} of {words.name(whose) if whose else 'all agents'}"
            f" ({'first seen then' if inferred else 'reported'}); a hint, no proof."
        )


def coinciding(context: Context, search: Search, incident: Incident) -> list[runs.Row]:
    """The change that came at the same time as an incident, if any: kind, agent, version, whether it was inferred, when."""
    start = search.history.start + timedelta(hours=incident.start)
    rows = search.tools[members(search.tools, incident.attributes)] if incident.of_tools else _chosen(search, incident)[0]
    shares = rows["agent"].value_counts(normalize=True)
    agents = [str(agent) for agent in shares.index[shares >= CONCERNED]]
    near = max(COINCIDENCE, timedelta(hours=(incident.end - incident.start) / 10))
    return runs.rows(context, _EVENTS, {"from": start - near, "to": start + COINCIDENCE, "at": start, "whose": agents})


def _size(context: Context, search: Search, incident: Incident) -> _Size:
    if incident.measure == VOLUME:
        return _volume(search, incident)
    if incident.of_tools:
        return _calls(search, incident)
    measure = incident.measure
    before, within = _parts(search, incident)
    found = measures.effect(measure, before, within)
    typical = [measures.typical(measure, part) for part in (before, within)]
    if measure.kind == "score" and measure.unit != "share" and found.status == "ok":
        typical = [found.control_estimate, found.treatment_estimate]  # geometric means, which the ratio is of
    excess, cost = "", None
    if measure.key == "cost":
        mean = before["cost"].mean()
        cost = Decimal(str(round(float((within["cost"] - mean).sum()), 6))) if math.isfinite(mean) else None
        cost = cost if cost is not None and cost > 0 else None
        excess = f" That is about {words.dollars(cost)} more than these runs would have cost as before." if cost else ""
    elif measure.kind == "share" and all(map(math.isfinite, typical)):
        count = round(abs(typical[1] - typical[0]) * int(within[measure.key].notna().sum()))
        excess = f" That is about {words.many(count, 'run')} {'more' if measure.sign > 0 else 'fewer'} than expected."
    shown = [measures.shown(measure, value) for value in typical]
    if found.status != "ok":
        return _Size(shown[0], shown[1], "too few to give an interval", None, excess, cost)
    return _Size(shown[0], shown[1], measures.moved(measure, found), measures.estimate(measure, found), excess, cost)


def _beside(search: Search, incident: Incident, measure: Measure) -> str:
    """Another measure that moved, with its figures where it has some."""
    if measure == VOLUME:
        return measure.noun
    parts = _parts(search, replace(incident, measure=measure))
    values = [measures.typical(measure, part) for part in parts]
    if not all(map(math.isfinite, values)):
        return measure.noun
    noun = f"typical {measure.noun}" if measure.unit == "seconds" else measure.noun
    return f"{noun} {measures.shown(measure, values[0])} → {measures.shown(measure, values[1])}"


def _calls(search: Search, incident: Incident) -> _Size:
    tools = search.tools
    own = members(tools, incident.attributes)
    within = own & ((tools["hour"] >= incident.start) & (tools["hour"] < incident.end)).to_numpy()
    past = (tools["hour"] < incident.start).to_numpy() & search.tools_alive
    before = own & past if (own & past).any() else members(tools, {"tool": incident.attributes["tool"]}) & past
    arms = [SampleProportion(float(tools["n"][part].sum()), float(tools["failed"][part].sum())) for part in (before, within)]
    found = compare(*arms)
    shares = [arm.estimate if arm.n else math.nan for arm in arms]
    more = max(arms[1].successes - arms[1].n * (shares[0] if math.isfinite(shares[0]) else 0.0), 0.0)
    excess = f" That is about {words.many(round(more), 'failed call')} more than expected."
    shown = [words.percent(share) for share in shares]
    if found.status != "ok":
        return _Size(shown[0], shown[1], "too few to give an interval", None, excess)
    return _Size(shown[0], shown[1], measures.moved(FAILED, found), measures.estimate(FAILED, found), excess)


def _volume(search: Search, incident: Incident) -> _Size:
    """Runs against what was expected; the interval takes them for independent, exact where there are few."""
    from scipy import stats

    _, hours = _chosen(search, incident)
    every = np.bincount(hours, minlength=search.history.hours).astype(np.float64)
    profile = expected_volume(every, search.history)
    window = slice(incident.start, incident.end)
    actual, before = float(every[window].sum()), float(every[: incident.start].sum())
    expected = float(profile[window].sum() * before / max(profile[: incident.start].sum(), 1e-9))
    ratio = actual / max(expected, 1e-9)
    error = 1.96 / math.sqrt(max(before, 1.0))
    low = stats.chi2.ppf(0.025, 2 * actual) / 2 / max(expected, 1e-9) * math.exp(-error) if actual else 0.0
    high = stats.chi2.ppf(0.975, 2 * actual + 2) / 2 / max(expected, 1e-9) * math.exp(error)
    if expected < 1 / 2:
        return _Size("none", f"{actual:,.0f}", "from none, so no factor is given", None)
    moved = f"{words.change(ratio - 1)} (95% interval {words.change(low - 1)} to {words.change(high - 1)}, if runs come independently)"
    return _Size(f"about {expected:,.0f} expected", f"{actual:,.0f}", moved, Estimate(ratio, low, high, "ratio", int(actual)))


def _actual(search: Search, incident: Incident) -> int:
    """Runs of the incident's slice in its hours."""
    _, hours = _chosen(search, incident)
    return int(((hours >= incident.start) & (hours < incident.end)).sum())


def _chosen(search: Search, incident: Incident) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """The runs of the incident's slice, at any time, and their hours."""
    own = members(search.history.runs, incident.attributes)
    return search.history.runs[own], search.hour[own]


def _parts(search: Search, incident: Incident) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs before the incident that no other incident explains (``_compared``), and the slice's runs in it."""
    chosen, hours = _chosen(search, incident)
    return search.history.runs[_past(search, incident, _compared(search, incident))], chosen[
        (hours >= incident.start) & (hours < incident.end)
    ]


def _past(search: Search, incident: Incident, attributes: Attributes) -> NDArray[np.bool_]:
    key = incident.measure.key
    known = search.history.runs[key].notna().to_numpy() if key != VOLUME.key else True
    return search.alive[key] & known & members(search.history.runs, attributes) & (search.hour < incident.start)


def _compared(search: Search, incident: Incident) -> Attributes:
    """The slice whose runs before are looked at: the incident's own, or, where it had next to none before, one that had.

    What is released (a version, a prompt, a model) is left out first: a new version is held against the one before.
    """
    attributes = dict(incident.attributes)
    order = sorted(attributes, key=lambda name: (name not in search.chosen, name == "agent"))
    for name in order:
        if _past(search, incident, attributes).sum() >= SLICE_RUNS:
            break
        del attributes[name]
    return attributes


def _reference(search: Search, incident: Incident) -> str:
    """What the runs of the incident are compared with."""
    if incident.of_tools or incident.measure == VOLUME or _compared(search, incident) == incident.attributes:
        return "the runs before"
    whose = histories.named(search.history, _compared(search, incident))
    return f"the runs of {whose} before, since there were none or too few of its own"


def _replayed(search: Search, incident: Incident) -> tuple[Level, datetime | None]:
    """The highest level of a detector that saw the slice's course value by value, and when it first left normal in the window."""
    hour, n, x = _as_it_came(search, incident)
    hours = search.history.hours
    step = next((step for step in STEPS if n.sum() * step / 60 >= RUNS_A_STEP * hours and not incident.of_tools), STEPS[-1])
    bins = hours * 60 // step
    at = np.minimum((hour * 60 / step).astype(np.int64), bins - 1)
    counts, sums = (np.bincount(at, weights, bins).tolist() for weights in (n, x))
    detector, levels = Detector(), list[tuple[datetime, Level]]()
    for number, (count, total) in enumerate(zip(counts, sums, strict=True)):
        moment = search.history.start + timedelta(minutes=step * number)
        value = total if incident.measure == VOLUME else total / count if count else None
        verdict = detector.update(moment, value)
        if verdict.level != "normal" and incident.start * 60 <= step * number < incident.end * 60:
            levels.append((moment + timedelta(minutes=step), verdict.level))
    if not levels:
        return "normal", None
    return ("critical" if any(level == "critical" for _, level in levels) else "warning"), levels[0][0]


def _as_it_came(search: Search, incident: Incident) -> tuple[Floats, Floats, Floats]:
    """Hours, counts and sums of the slice's runs, or calls, for the incident's measure."""
    if incident.of_tools:
        calls = search.tools[members(search.tools, incident.attributes)]
        hour, n, x = (calls[name].to_numpy(dtype=np.float64) for name in ("hour", "n", "failed"))
        return hour, n, x
    chosen, _ = _chosen(search, incident)
    x = np.ones(len(chosen)) if incident.measure == VOLUME else chosen[incident.measure.key].to_numpy(dtype=np.float64)
    known = np.isfinite(x)
    return chosen["hour"].to_numpy(dtype=np.float64)[known], np.ones(int(known.sum())), x[known]


def _picture(search: Search, incident: Incident) -> dict[str, Any]:
    """The course of what moved, with the incident shaded."""
    history, every = search.history, max(math.ceil(search.history.hours / POINTS_SHOWN), 1)
    hour, n, x = _as_it_came(search, incident)
    bins = math.ceil(history.hours / every)
    counts, sums = (np.bincount((hour / every).astype(np.int64).clip(0, bins - 1), weights, bins) for weights in (n, x))
    values = sums if incident.measure == VOLUME else np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)
    points = [(history.start + timedelta(hours=every * at), float(value)) for at, value in enumerate(values) if math.isfinite(value)]
    window = (history.start + timedelta(hours=incident.start), history.start + timedelta(hours=incident.end))
    noun = "error rate of calls" if incident.of_tools else incident.measure.noun
    mean = "mean " if incident.measure.kind == "score" else ""
    unit = {"seconds": " (seconds)", "dollars": " (US dollars)"}.get(incident.measure.unit, "")
    title = f"{mean}{noun}{unit}, {histories.named(history, incident.attributes)}, by {words.many(every, 'hour')}"
    return charts.course(points, title=title[0].upper() + title[1:], window=window, percent=incident.measure.kind == "share")


def _query(context: Context, history: History, incident: Incident, start: datetime, end: datetime) -> str:
    where, values = histories.condition(history, incident.attributes)
    bad = "true" if incident.of_tools else incident.measure.bad
    condition = f"start_time >= %(incident_start)s AND start_time < %(incident_end)s AND {bad} AND {where}"
    return runs.listing(context, condition, values | {"incident_start": start, "incident_end": end}, order=incident.measure.order)


def _length(incident: Incident) -> str:
    hours = incident.end - incident.start
    return words.many(hours, "hour") if hours < 48 else f"{hours / 24:.1f} days"


def _listed(names: list[str]) -> str:
    """Names as a sentence lists them: "a, b and c"."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _p(value: float) -> str:
    return "under 0.0001" if value < 0.0001 else f"{value:.4f}"
