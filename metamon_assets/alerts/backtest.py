"""What the rules would have told over the last days, had they been as they are now, and which thresholds would tell less (ALR-35).

The stored buckets are gone through again, a day at a time and a look every five minutes, with the same readers, tests and hold times as
when it counts; incidents are kept in memory, by the same times of quiet. Nothing is written. What decides by itself has no threshold
to try: anomalies are those that were recorded, of the others only the incidents that there were are counted.

A suggested threshold is one that would have opened an incident at most once a week. It is found among quantiles of what the windows
showed, of each the value that it was beyond for sure and for as long as the rule wants. A person decides whether to take it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metamon_assets import words
from metamon_assets.alerts import sources
from metamon_assets.alerts.catalogue import WINDOWS
from metamon_assets.alerts.incidents import FLAPPING, QUIET, SEVERITIES, Severity
from metamon_assets.alerts.judgement import RuleState, Verdict, Z, advance, judge, smallest_sample
from metamon_assets.alerts.series import KEPT, TYPICAL, UNNAMED, Buckets, Floats, beyond
from metamon_assets.alerts.signals import SIGNALS, Look, Reading, Signal
from metamon_assets.alerts.tick import KEEP_WITHOUT_DATA
from metamon_assets.metrics.completions import BUCKET, bucket_of
from metamon_assets.metrics.histogram import bin_of

if TYPE_CHECKING:
    from metamon_assets.alerts.catalogue import Catalogue, Rule
    from metamon_assets.alerts.series import Group
    from metamon_assets.warehouse.connection import Connection, Cursor

DAY, WEEK, QUARTER = timedelta(days=1), timedelta(days=7), timedelta(minutes=15)
LOOKS_PER_WINDOW = 12  # of long windows, which change slowly
ENOUGH = DAY  # of looks with data, below which nothing is suggested
MOST_OF_THE_TIME = 0.05  # that a rule may fire, whatever the number of incidents
QUANTILES = (0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0)
NOT_KEPT = ("worker_away_seconds",)  # of which only the present is known
NOWHERE = -math.inf
TINY = 1e-9  # a bound below it says nothing
Progress = Callable[[str], None]


@dataclass(slots=True)
class WouldBe:
    """An incident that there would have been. ``closed_at`` None: it would still be open."""

    metric: str
    group: Group
    severity: Severity
    opened_at: datetime
    peak: float | None
    closed_at: datetime | None = None
    messages: int = 1
    quiet_since: datetime | None = None
    spoken_at: datetime | None = None

    def seconds(self, end: datetime) -> float:
        """How long it was open."""
        return ((self.closed_at or end) - self.opened_at).total_seconds()


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A threshold that would have opened ``incidents`` in the same time. ``line`` is for rules.yaml."""

    rule: str
    bound: str
    threshold: float
    incidents: int
    quieter: bool  # than the rule is now; else it could tell more than it does

    @property
    def line(self) -> str:
        """As it stands in rules.yaml."""
        return f"{self.rule}: {{{self.bound}: {self.threshold:g}}}"


@dataclass(frozen=True, slots=True)
class Replay:
    """What one rule would have told. ``note`` says why there is nothing to say, where that is so."""

    name: str
    rule: Rule
    incidents: Sequence[WouldBe] = ()
    seconds: float = 0.0
    suggestion: Suggestion | None = None
    note: str = ""

    @property
    def groups(self) -> list[tuple[tuple[str, str, str], int]]:
        """Metric, dimension and value, by how often it would have fired for them."""
        return Counter((incident.metric, *incident.group) for incident in self.incidents).most_common()

    @property
    def messages(self) -> int:
        """To each channel of the rule, before warnings of an hour are collected: opened, worsened, resolved."""
        return sum(incident.messages for incident in self.incidents)


def backtest(connection: Connection, catalogue: Catalogue, now: datetime, days: int, progress: Progress = lambda _: None) -> list[Replay]:
    """Every enabled rule over the ``days`` before ``now``, as far as buckets are kept."""
    end = bucket_of(now)
    start = end - days * DAY
    rules = {name: rule for name, rule in catalogue.enabled.items() if not SIGNALS[rule.metric].decides}
    with connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        notes = {name: note for name, rule in rules.items() if (note := _not_replayed(cursor, rule))}
        replayed = {name: _Replayed(name, rule) for name, rule in rules.items() if name not in notes}
        _go_through(cursor, list(replayed.values()), start, end, progress)
        found = []
        for name, rule in catalogue.enabled.items():
            if name in replayed:
                found.append(replayed[name].told(cursor, start, end))
            elif name in notes:
                found.append(Replay(name, rule, note=notes[name]))
            else:
                found.append(_by_itself(cursor, name, rule, start, end))
    return found


def _not_replayed(cursor: Cursor, rule: Rule) -> str:
    """Why a rule cannot be tried on the past; "" where it can."""
    if rule.metric in NOT_KEPT:
        return "only its present is known"
    exists = SIGNALS[rule.metric].exists
    if exists is None:
        return ""
    cursor.execute(exists)
    return "" if (cursor.fetchone() or (False,))[0] else "not applicable: its input was never seen"


def _go_through(cursor: Cursor, replayed: Sequence[_Replayed], start: datetime, end: datetime, progress: Progress) -> None:
    limits = {one.rule.threshold for one in replayed if one.signal.kind == "quantile" and one.rule.threshold is not None}
    buckets = PastBuckets(tuple(sorted(limits)))
    dimensions = sorted({dimension for one in replayed for dimension in one.rule.by})
    until = start
    while until < end:
        since, until = until, min(until + DAY, end)
        buckets.load(cursor, since - KEPT, until, dimensions)
        looks = [since + number * BUCKET for number in range(1, (until - since) // BUCKET + 1)]
        for one in replayed:
            one.go_through(cursor, buckets, [at for at in looks if (at - start) % one.step == timedelta(0)])
        progress(f"{until:%Y-%m-%d %H:%M} UTC: {words.many(sum(len(one.incidents) for one in replayed), 'incident')} so far")


class PastBuckets(Buckets):
    """Buckets that are looked at from the past: what came after the moment of a look does not count. Windows end where buckets do.

    Thousands of looks go through the same ones, so windows are differences of running sums, and places are looked up once.
    """

    __slots__ = ("_places", "_until")

    def load(self, cursor: Cursor, first: datetime, end: datetime, dimensions: Sequence[str]) -> None:
        """Read the buckets from ``first`` to before ``end``; those that are here already stay."""
        begun = self.start is not None and self.start <= first < self.end
        kept = self.sums[(first - self.start) // BUCKET :] if begun and self.start is not None else np.zeros((0, 0, len(self.columns)))
        fresh = first + len(kept) * BUCKET
        rows = self._rows(cursor, fresh, end, dimensions)
        groups = list(dict.fromkeys([*(self.groups if begun else ()), *sorted({(row[1], row[2]) for row in rows})]))
        place = {group: number for number, group in enumerate(groups)}
        self.start, self.groups = first, groups
        self.sums = np.zeros(((end - first) // BUCKET, len(groups), len(self.columns)))
        self.sums[: len(kept), : kept.shape[1]] = kept
        if rows:
            at = [(row[0] - first) // BUCKET for row in rows]
            self.sums[at, [place[row[1], row[2]] for row in rows]] = np.nan_to_num(np.array([row[3:] for row in rows], dtype=float))
        self._until = np.concatenate([np.zeros((1, *self.sums.shape[1:])), np.cumsum(self.sums, axis=0)])
        self._places: dict[object, Any] = {}

    def _rows(self, cursor: Cursor, first: datetime, end: datetime, dimensions: Sequence[str]) -> list[tuple[Any, ...]]:
        """Start, group and all columns, but for the logarithms, which no rule looks at."""
        counted = {
            beyond(limit): "(SELECT coalesce(sum(c), 0) FROM unnest(latency_bins, latency_counts) AS h (b, c)"
            f" WHERE b > {bin_of(limit)})::float8"
            for limit in self.limits
        }
        columns = ", ".join(counted.get(name, "0" if name == TYPICAL else f"{name}::float8") for name in self.columns)
        cursor.execute(
            f"SELECT bucket_start, dimension, dimension_value, {columns} FROM metamon.completion_metrics"
            " WHERE day BETWEEN %s AND %s AND bucket_start >= %s AND bucket_start < %s AND dimension = ANY(%s)",
            (first.date(), end.date(), first, end, list(dimensions)),
        )
        return cursor.fetchall()

    def window(self, at: datetime, length: timedelta) -> Floats:
        """Sums of the time before ``at``, shape (groups, columns)."""
        assert self.start is not None
        last = (at - self.start) // BUCKET
        return np.asarray(self._until[last] - self._until[max(last - int(length / BUCKET), 0)])

    def column(self, name: str) -> int:
        """The place of a column."""
        if name not in self._places:
            self._places[name] = super().column(name)
        return int(self._places[name])

    def of(self, dimensions: Iterable[str]) -> list[tuple[int, Group]]:
        """Place and group of the values of some dimensions."""
        wanted = tuple(dimensions)
        if wanted not in self._places:
            self._places[wanted] = super().of(wanted)
        return list(self._places[wanted])


class _Nothing(Buckets):
    """Buckets of nobody: for a reader of which only what it asks the database counts."""

    def window(self, at: datetime, length: timedelta) -> Floats:
        return np.zeros((0, len(self.columns)))


# --- one rule ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Replayed:
    """A rule on its way through the days: the state and incidents of each group, and what its windows showed."""

    name: str
    rule: Rule
    incidents: list[WouldBe] = field(default_factory=list)
    states: dict[Group, RuleState] = field(default_factory=dict)
    newest: dict[Group, WouldBe] = field(default_factory=dict)
    looks: int = 0
    shown: dict[Group, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def signal(self) -> Signal:
        return SIGNALS[self.rule.metric]

    @property
    def step(self) -> timedelta:
        """From one look to the next."""
        longest = self.rule.window / LOOKS_PER_WINDOW
        if self.rule.hold:
            longest = min(longest, self.rule.hold / 2)
        return max(BUCKET * int(longest / BUCKET), BUCKET)

    def go_through(self, cursor: Cursor, buckets: Buckets, looks: Sequence[datetime]) -> None:
        """Look at each of the moments, in order."""
        answers = Answers(cursor, self.rule, looks)
        for at in looks:
            for verdict in judge(self.rule, Look(answers.at(at), at, buckets)):
                self._take(verdict, at)
            self._close_abandoned(at)
            self.looks += 1

    def _take(self, verdict: Verdict, at: datetime) -> None:
        group, reading = verdict.group, verdict.reading
        state = self.states[group] = advance(self.states.get(group), verdict, self.rule, at)
        if verdict.outcome in ("fires", "calm") and reading is not None:
            self.shown.setdefault(group, []).append((self.looks, self._for_sure(reading)))
        if state.state == "firing":
            about = (self.rule.metric, group, self.rule.severity)
            self.newest[group] = _fired(self.newest.get(group), self.incidents, *about, at, reading, self.rule.worst_is)
        elif verdict.outcome == "calm" or self.rule.no_data != "keep":
            _calmed(self.newest.get(group), at)

    def _for_sure(self, reading: Reading) -> float:
        """The bound that the reading is beyond for sure; larger is worse."""
        assert reading.value is not None
        sign, value = self.rule.worst_is, float(reading.value)
        if self.signal.kind == "share":  # Wilson's bound, which is near the exact one and needs no search
            value, squared = min(value, 1.0), Z**2 / reading.sample
            half = Z * math.sqrt(value * (1 - value) / reading.sample + squared / (4 * reading.sample))
            value = (value + squared / 2 - sign * half) / (1 + squared)
        elif reading.error is not None:
            value -= sign * Z * reading.error
        return sign * value

    def _close_abandoned(self, at: datetime) -> None:
        for incident in self.newest.values():
            if incident.closed_at is None and at - (incident.spoken_at or at) > KEEP_WITHOUT_DATA:
                incident.closed_at, incident.messages = at, incident.messages + 1

    # What came of it

    def told(self, cursor: Cursor, start: datetime, end: datetime) -> Replay:
        """The rule's incidents, and a threshold."""
        seconds = sum(incident.seconds(end) for incident in self.incidents)
        note = "" if self.shown else "no window with enough events"
        return Replay(self.name, self.rule, self.incidents, seconds, self._suggestion(cursor, start, end), note)

    def _suggestion(self, cursor: Cursor, start: datetime, end: datetime) -> Suggestion | None:
        step, held = self.step, self._held(self.shown, self.looks, self.step)
        if self.signal.kind == "quantile":
            step, held = QUARTER, self._held(_quantiles(cursor, self.rule, self.signal, start, end), (end - start) // QUARTER + 1, QUARTER)
        known = held[np.isfinite(held)]
        if known.size * step < ENOUGH:
            return None
        most, gap = (end - start) / WEEK, (FLAPPING + QUIET) // step
        chosen: tuple[float, int] | None = None
        for tried in sorted({self._rounded(value) for value in np.quantile(known, QUANTILES, method="higher")}, reverse=True):
            incidents = _episodes(held > tried, gap)
            if incidents > max(most, 1):
                break
            chosen = (tried, incidents)
        if chosen is None:
            return None
        threshold = self.rule.worst_is * chosen[0]
        if threshold == self.rule.threshold or threshold < TINY or (self.signal.kind == "share" and threshold >= 1):
            return None
        fired = sum(incident.seconds(end) for incident in self.incidents) / (end - start).total_seconds()
        quieter = len(self.incidents) > max(most, 1) or fired > MOST_OF_THE_TIME
        return Suggestion(self.name, "above" if self.rule.worst_is > 0 else "below", threshold, chosen[1], quieter)

    def _held(self, shown: Mapping[Group, Iterable[tuple[int, float]]], looks: int, step: timedelta) -> Floats:
        """Of each group and look the bound that it was beyond for as long as the rule wants; minus infinity without data."""
        values = np.full((max(len(shown), 1), max(looks, 1)), NOWHERE)
        for row, readings in enumerate(shown.values()):
            for look, value in readings:
                values[row, look] = value
        held = values.copy()
        for back in range(1, math.ceil(self.rule.hold / step) + 1):
            held[:, back:] = np.minimum(held[:, back:], values[:, :-back])
            held[:, :back] = NOWHERE
        return held

    def _rounded(self, value: float) -> float:
        """Away from what was seen, to two digits."""
        if value == 0 or not math.isfinite(value):
            return value
        digits = 1 - math.floor(math.log10(abs(value)))
        return round(math.ceil(round(value * 10**digits, 6)) / 10**digits, digits)


def _episodes(firing: NDArray[np.bool_], gap: int) -> int:
    """Incidents: looks of a group that fire, those that are near each other being one."""
    count = 0
    for row in firing:
        at = np.flatnonzero(row)
        count += int(at.size > 0) + int((np.diff(at) > gap).sum())
    return count


def _quantiles(cursor: Cursor, rule: Rule, signal: Signal, start: datetime, end: datetime) -> dict[Group, list[tuple[int, float]]]:
    """A quantile of the latency in each quarter of an hour that has enough runs: buckets only know the share beyond the rule's bound."""
    cursor.execute(
        "SELECT dimension, dimension_value, bucket_start,"
        " metamon.histogram_quantile(latency_bins, CAST(latency_counts AS bigint[]), latency_zeros, %s)"
        " FROM metamon.fifteen_minute_metrics WHERE day BETWEEN %s AND %s AND bucket_start >= %s AND bucket_start < %s"
        " AND dimension = ANY(%s) AND dimension_value <> ALL(%s) AND latency_count >= %s",
        (signal.q, start.date(), end.date(), start, end, list(rule.by), list(UNNAMED), smallest_sample(rule, signal)),
    )
    found: dict[Group, list[tuple[int, float]]] = {}
    for dimension, value, at, quantile in cursor.fetchall():
        found.setdefault((dimension, value), []).append(((at - start) // QUARTER, float(rule.worst_is * quantile)))
    return found


# --- incidents in memory -----------------------------------------------------------------------------------------


def _fired(
    newest: WouldBe | None,
    incidents: list[WouldBe],
    metric: str,
    group: Group,
    severity: Severity,
    at: datetime,
    reading: Reading | None,
    worst_is: int,
) -> WouldBe:
    """The incident that goes on or opens."""
    value = reading.value if reading is not None else None
    if newest is None or (newest.closed_at is not None and at - newest.closed_at > FLAPPING):
        newest = WouldBe(metric, group, severity, at, value)
        incidents.append(newest)
    elif SEVERITIES.index(severity) > SEVERITIES.index(newest.severity):
        newest.severity, newest.messages = severity, newest.messages + 1
    if newest.closed_at is not None:
        newest.closed_at, newest.messages = None, newest.messages - 1  # that it is over is told once
    if value is not None and (newest.peak is None or worst_is * value > worst_is * newest.peak):
        newest.peak = value
    newest.quiet_since, newest.spoken_at = None, at
    return newest


def _calmed(newest: WouldBe | None, at: datetime) -> None:
    """The incident is resolved when it has been quiet for long enough."""
    if newest is None or newest.closed_at is not None:
        return
    newest.spoken_at = at
    newest.quiet_since = newest.quiet_since or at
    if at - newest.quiet_since >= QUIET:
        newest.closed_at, newest.messages = at, newest.messages + 1


# --- what decides by itself --------------------------------------------------------------------------------------


def _by_itself(cursor: Cursor, name: str, rule: Rule, start: datetime, end: datetime) -> Replay:
    if name == sources.ANOMALY:
        incidents = _anomalies(cursor, rule, start, end)
        return Replay(name, rule, incidents, sum(one.seconds(end) for one in incidents), note="from the anomalies that were recorded")
    cursor.execute("SELECT count(*) FROM metamon.incidents WHERE rule = %s AND opened_at > %s AND opened_at <= %s", (name, start, end))
    (count,) = cursor.fetchone() or (0,)
    return Replay(name, rule, note=f"decides by itself; {count} incidents were recorded")


def _anomalies(cursor: Cursor, rule: Rule, start: datetime, end: datetime) -> list[WouldBe]:
    """Recorded anomalies as incidents: one of a metric and group at a time, and of several sides of a metric the first one."""
    cursor.execute(
        "SELECT bucket_start, metric, dimension, dimension_value, level, value, score FROM metamon.anomalies"
        " WHERE day BETWEEN %s AND %s AND bucket_start >= %s AND bucket_start < %s AND level <> 'normal' AND dimension = ANY(%s)"
        " ORDER BY bucket_start, score DESC, array_position(%s, dimension)",
        (start.date(), end.date(), start, end, list(rule.by), list(sources.SPECIFIC)),
    )
    incidents: list[WouldBe] = []
    newest: dict[tuple[str, Group], WouldBe] = {}
    for at, metric, dimension, value, level, figure, _ in cursor.fetchall():
        place = (metric, (dimension, value))
        for incident in newest.values():
            _quiet_until(incident, at + BUCKET)
        going_on = place in newest and newest[place].closed_at is None
        sides = [of[1][0] for of, incident in newest.items() if of[0] == metric and abs(incident.opened_at - at) <= sources.COINCIDENT]
        if going_on or not any(side != dimension for side in sides):
            newest[place] = _fired(newest.get(place), incidents, *place, level, at + BUCKET, Reading(place[1], figure), 1)
    for incident in newest.values():
        _quiet_until(incident, end)
    return incidents


def _quiet_until(incident: WouldBe, at: datetime) -> None:
    """Resolve what has not been out again for long enough."""
    if incident.closed_at is None and incident.spoken_at is not None and at - incident.spoken_at > BUCKET + QUIET:
        incident.closed_at, incident.messages = incident.spoken_at + BUCKET + QUIET, incident.messages + 1


# --- the database, asked for many moments at once ----------------------------------------------------------------


Key = tuple[str, str]


class Answers:
    """A cursor for the readers of one rule, which answers what they ask at any of ``looks``.

    A day has hundreds of looks. So when a reader asks something for the first time, the same is asked for all looks of the day in one
    statement, with the parameters that the reader itself gives for each.
    """

    def __init__(self, cursor: Cursor, rule: Rule, looks: Sequence[datetime]) -> None:
        self._cursor = cursor
        self._rule, self._looks = rule, looks
        self._known: dict[Key, list[tuple[Any, ...]]] = {}
        self._at: datetime
        self._rows: list[tuple[Any, ...]] = []

    def at(self, moment: datetime) -> Any:
        """The cursor of a look then."""
        self._at = moment
        return self

    def execute(self, query: str, parameters: Any = None) -> None:
        """Answer from what is known, or ask for all looks."""
        key = _key(query, parameters)
        if key not in self._known:
            self._ask(query, parameters)
        self._rows = self._known[key]

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows

    def _ask(self, query: str, parameters: Any) -> None:
        """Ask for all looks what the reader asks with the window that it has now; where that is not to be known, for this one."""
        signal, key = SIGNALS[self._rule.metric], _key(query, parameters)
        several = [parameters]
        for window in (self._rule.window, *(WINDOWS if signal.kind != "level" else ())):
            if key in {_key(*question) for question in self._questions(window, self._at)}:
                several = [asked for at in self._looks for of, asked in self._questions(window, at) if of == query]
                break
        self._ask_all(query, several)

    def _questions(self, window: timedelta, at: datetime) -> list[tuple[str, Any]]:
        """What the rule's reader asks of the database at a moment."""
        listener, rule = _Listener(), self._rule
        list(SIGNALS[rule.metric].read(Look(listener, at, _Nothing()), window, rule.threshold, rule.by))  # type: ignore[arg-type]
        return listener.questions

    def _ask_all(self, query: str, several: Sequence[Any]) -> None:
        """One statement for several sets of parameters."""
        names = list(several[0]) if isinstance(several[0], Mapping) else [f"p{number}" for number in range(len(several[0]))]
        values = [list(parameters.values()) if isinstance(parameters, Mapping) else list(parameters) for parameters in several]
        place = iter(names)
        inner = re.sub(r"%\((\w+)\)s|%s", lambda match: f"asked.{match[1] or next(place)}", query)
        row = f"(%s, {', '.join(['%s'] * len(names))})"
        listed = ", ".join([row] * len(values))
        self._cursor.execute(
            f"SELECT asked.n, answer.* FROM (VALUES {listed}) AS asked (n, {', '.join(names)}) CROSS JOIN LATERAL ({inner}) AS answer",
            [value for number, of_one in enumerate(values) for value in (number, *of_one)],
        )
        keys = [_key(query, parameters) for parameters in several]
        self._known |= {key: [] for key in keys}
        for number, *answer in self._cursor.fetchall():
            self._known[keys[number]].append(tuple(answer))


class _Listener:
    """A cursor that hears what is asked and knows nothing."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, Any]] = []

    def execute(self, query: str, parameters: Any = None) -> None:
        self.questions.append((query, parameters))

    def fetchall(self) -> list[tuple[Any, ...]]:
        return []


def _key(query: str, parameters: Any) -> Key:
    return query, repr(parameters)


def lines(found: Iterable[Replay], days: int) -> Iterator[str]:
    """Suggestions as lines for rules.yaml; what would tell more than now is a comment."""
    for replay in found:
        suggestion = replay.suggestion
        if suggestion is not None:
            told = f"{words.many(suggestion.incidents, 'incident')} in {days} days; with {replay.rule.threshold:g}: {len(replay.incidents)}"
            yield f"{'' if suggestion.quieter else '# '}{suggestion.line}  # {told}"


def document(replay: Replay, days: int) -> dict[str, Any]:
    """A rule's replay as JSON."""
    incidents = [
        {
            "metric": incident.metric,
            "dimension": incident.group[0],
            "value": incident.group[1],
            "severity": incident.severity,
            "opened_at": incident.opened_at,
            "closed_at": incident.closed_at,
            "peak": None if incident.peak is None else float(incident.peak),
            "messages": incident.messages,
        }
        for incident in replay.incidents
    ]
    suggested = replay.suggestion
    return {
        "rule": replay.name,
        "threshold": replay.rule.threshold,
        "incidents": incidents,
        "incidents_a_week": round(len(incidents) * 7 / days, 2),
        "seconds_open": round(replay.seconds),
        "messages": replay.messages,
        "suggestion": suggested and {suggested.bound: suggested.threshold, "incidents": suggested.incidents, "quieter": suggested.quieter},
        "note": replay.note,
    }
