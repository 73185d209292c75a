"""Past incidents in a history: when measures moved, in which series, and which slice of the runs is behind it.

Here belongs the search; ``sections.incidents`` puts it into words. It goes in rounds. All series (each measure of all runs, of the
largest agents, tenants, models and other values, and failures of each tool) are scanned for the window that stands out most. Where
that is beyond chance for all series together, ``localise`` names the slice behind it, the slice's runs of that window are set
aside, and the next round looks at what is left. So one incident that shows in ten series is told once, and what it hid is found.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metamon_assets.reports import history as histories
from metamon_assets.reports.findings import Context
from metamon_assets.reports.history import History
from metamon_assets.reports.measures import BY_KEY, FAILED, MEASURES, VOLUME, Measure, scanned
from metamon_assets.reports.volume import expected_volume, volume_series
from metamon_assets.statistics import scan
from metamon_assets.statistics.localisation import Slice, localise
from metamon_assets.statistics.scan import Series, Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Attributes = dict[str, Hashable]

LEAST_RUNS = 200
LEAST_DAYS = 3
CHANCE = 0.01  # that a history without any incident shows one, all series together
MOST = 8  # incidents that are told; a person reads no more
ROUNDS = 3 * MOST
TOP = 8  # values of an attribute that have series of their own
SERIES_RUNS = 200  # that such a value has at least
SLICE_RUNS = 20  # that a slice has in its window, for its own course to be looked at
REFERENCE_HOURS = 14 * 24  # before a window that its slice is compared with
FAR_OUT = 1.0  # a normal score beyond which a latency or cost counts as high (a sixth of all), and a quality as low
PASSING = ("version", "prompt")  # attributes whose values live for some days
CHOSEN = (*PASSING, "model")  # what an agent's owner chooses: how many runs go where is told under changes, not here
UNREAD = 0.2  # of a series' runs: where feeds with so many have not begun, or have ended, its numbers are not compared
AWAY_HOURS, AWAY_PART = 72, 1 / 4  # a value without runs for so long (longer than a weekend), or for such a part of the time, is away
HANDED_OVER = 0.5  # of a value's runs that others have while it is away, from which on they have taken over
ONE_TO_ONE = 0.98  # of the runs: from which on a key of the metadata is another name of what is chosen
CONCENTRATED, MOST_RUNS = 0.7, 0.5  # of the excess and of the runs: from which, and up to which, a value is where a move is
ALIKE = 0.5  # share of the hours of two windows that both have, from which on they count as one
LARGE = 0.3  # of the excess of all runs: a slice with less is not what moved the series
TOOL_ATTRIBUTES = ("tool", "agent", "version", "tenant", "environment")


@dataclass(frozen=True, slots=True)
class Incident:
    """Hours ``start <= t < end`` of the history in which ``measure`` of the runs with ``attributes`` moved.

    ``p_value``: that any such window is found in a history without incident. ``slice_``: what the localisation said, where it
    found anything. ``also``: what else moved in about the same hours. ``attributes`` may be empty: all runs.
    """

    measure: Measure
    attributes: Attributes
    start: int
    end: int
    z: float
    p_value: float
    slice_: Slice | None = None
    also: tuple[Measure, ...] = ()

    @property
    def of_tools(self) -> bool:
        """Whether it is about calls of a tool, not about runs."""
        return "tool" in self.attributes


@dataclass(frozen=True, slots=True)
class Found:
    """The incidents, strongest first, and what was looked at."""

    incidents: tuple[Incident, ...]
    series: int
    hours: int
    threshold: float  # the normal deviate that a window must reach


def searched(context: Context) -> tuple[Search, Found] | None:
    """The search over the report's runs and those before it, made once for all sections; None where there are too few runs."""
    if "incidents" not in context.memo:
        history = histories.load_with_reference(context)
        enough = len(history.runs) >= LEAST_RUNS and history.hours >= 24 * LEAST_DAYS
        search = Search(history, histories.tool_calls(context, history)) if enough else None
        context.memo["incidents"] = None if search is None else (search, search.run())
    found: tuple[Search, Found] | None = context.memo["incidents"]
    return found


@dataclass(slots=True)
class Search:
    """The state of a search: the runs, what the scan adds up of each, and which were set aside."""

    history: History
    tools: pd.DataFrame
    values: dict[str, Floats] = field(init=False)
    hour: NDArray[np.int64] = field(init=False)
    alive: dict[str, Mask] = field(init=False)  # by measure: runs that no incident explains yet
    tools_alive: Mask = field(init=False)
    together: Floats = field(init=False)  # by run: how many runs its conversation has on the day
    alike: dict[str, float] = field(init=False)  # by measure: how many runs of a conversation count as one
    feed: NDArray[np.int64] = field(init=False)  # by run: the number of its feed
    unread: Mask = field(init=False)  # by feed and hour: before the feed's first run, or after what is known of it
    volumes_told: list[Incident] = field(default_factory=list)
    chosen: frozenset[str] = field(init=False)  # attributes of which numbers of runs are no incident
    handed_over: dict[tuple[str, bytes], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        runs = self.history.runs
        self.hour = np.floor(runs["hour"].to_numpy(dtype=np.float64)).astype(np.int64).clip(0, max(self.history.hours - 1, 0))
        self.values = {measure.key: scanned(measure, runs) for measure in MEASURES if runs[measure.key].notna().any()}
        group = _conversations(runs["unit"].to_numpy(dtype=np.float64), self.hour // 24)
        self.together = np.bincount(group)[group].astype(np.float64) if len(group) else np.ones(0)
        self.alike = {key: _alike(group, x) for key, x in self.values.items()}
        self.alive = {key: np.ones(len(runs), dtype=bool) for key in (*self.values, VOLUME.key)}
        self.tools_alive = np.ones(len(self.tools), dtype=bool)
        self.feed, self.unread = _unread(self.history)
        self.chosen = frozenset(CHOSEN)
        released = [name for name in self.history.attributes if name in self.history.extra and self._released(name)]
        self.chosen = frozenset((*CHOSEN, *released))

    @property
    def measures(self) -> list[Measure]:
        """What is searched."""
        return [BY_KEY[key] for key in (*self.values, VOLUME.key)]

    @property
    def sliced(self) -> list[str]:
        """The attributes of which some values have series of their own."""
        return [attribute for attribute, _, _ in self._groups() if attribute]

    def run(self) -> Found:
        """All rounds."""
        hours = self.history.hours
        found: list[Incident] = []
        known: dict[tuple[str, str, Hashable], tuple[bytes, Window | None]] = {}
        series = 0
        for _ in range(ROUNDS):
            every = list(self._windows(known))
            series = max(series, len(every))
            clear = [(window, where) for window, where in every if window is not None and window.p_value * series <= CHANCE]
            if not clear or sum(incident.end > self.history.reference for incident in found) >= MOST:
                break
            window, (measure, attribute, value) = max(clear, key=lambda entry: entry[0].z)
            incident = self._explained(measure, {attribute: value} if attribute else {}, window, series)
            self._set_aside(incident)
            found = _added(found, incident)
        found = [incident for incident in found if incident.end > self.history.reference]  # what ended before the report is not told
        found.sort(key=lambda incident: -incident.z)
        return Found(tuple(found), series, hours, scan.threshold(CHANCE / max(series, 1), hours))

    # --- series ---------------------------------------------------------------------------------------------

    def _windows(
        self, known: dict[tuple[str, str, Hashable], tuple[bytes, Window | None]]
    ) -> Iterator[tuple[Window | None, tuple[Measure, str, Hashable]]]:
        """The best window of each series; those of unchanged series as they were in the round before."""
        for measure, attribute, value, series in self._series():
            key, content = (measure.key, attribute, value), series.n.tobytes() + series.total.tobytes()
            if key not in known or known[key][0] != content:
                known[key] = content, scan.best_window(series)
            yield known[key][1], (measure, attribute, value)

    def _series(self) -> Iterator[tuple[Measure, str, Hashable, Series]]:
        hours = self.history.hours
        for attribute, values, codes in self._groups():
            for measure in MEASURES:
                if measure.key not in self.values:
                    continue
                x = self.values[measure.key]
                chosen = self.alive[measure.key] & (codes >= 0) & np.isfinite(x)
                n, total = _sums(codes[chosen] * hours + self.hour[chosen], x[chosen], len(values), hours)
                for row, value in enumerate(values):
                    alike = self.alike[measure.key]
                    yield measure, attribute, value, Series(measure.kind, n[row], total[row], measure.sign, measure.least, alike)
            if attribute in self.chosen:
                continue
            member = codes >= 0
            every, _ = _sums(codes[member] * hours + self.hour[member], None, len(values), hours)
            for row, value in enumerate(values):
                if attribute and self._taken_over(attribute, codes == row):
                    continue
                if (course := self._volume(every[row], codes == row)) is not None:
                    yield VOLUME, attribute, value, course
        yield from self._tool_series()

    def _groups(self) -> Iterator[tuple[str, Sequence[Hashable], NDArray[np.int64]]]:
        """All runs, and for each attribute the largest values with each run's number among them (−1: none)."""
        yield "", (None,), np.zeros(len(self.hour), dtype=np.int64)
        for attribute in self.history.attributes:
            if attribute in PASSING:
                continue
            column = self.history.runs[attribute]
            counts = column.value_counts()
            values = [value for value in counts.index[:TOP] if counts[value] >= SERIES_RUNS]
            if values:
                yield attribute, values, column.cat.set_categories(values).cat.codes.to_numpy().astype(np.int64)

    def _released(self, key: str) -> bool:
        """Whether a key of the metadata goes with releases: one to one with a version, prompt or model, or its values follow each other."""
        import pandas as pd

        runs = self.history.runs
        agent, own = runs["agent"].cat.codes, runs[key].cat.codes
        for name in CHOSEN:
            pairs = pd.DataFrame({"agent": agent, "own": own, "other": runs[name].cat.codes}).value_counts(sort=False)
            most = min(pairs.groupby(level=["agent", by]).max().sum() for by in ("own", "other"))
            if name in self.history.attributes and most >= ONE_TO_ONE * len(runs):
                return True
        grouped = next(((codes, values) for attribute, values, codes in self._groups() if attribute == key), None)
        return grouped is not None and any(self._taken_over(key, grouped[0] == row) for row in range(len(grouped[1])))

    def _taken_over(self, attribute: str, own: Mask) -> bool:
        """Whether a value is away for long while the runs of its agents go on with other values: it was replaced, nothing broke."""
        hours = self.history.hours
        key = (attribute, np.packbits(own).tobytes())
        if key not in self.handed_over:
            every = np.bincount(self.hour[own], minlength=hours).astype(np.float64)
            agents = self.history.runs["agent"].cat.codes.to_numpy()
            beside = np.ones(len(own), dtype=bool) if attribute == "agent" else np.isin(agents, np.unique(agents[own]))
            total = np.bincount(self.hour[beside], minlength=hours).astype(np.float64)
            self.handed_over[key] = _handed_over(every, total, expected_volume(total, self.history))
        return self.handed_over[key]

    def not_known(self, member: Mask) -> Mask:
        """The hours in which it is not known how many runs some feeds had that give a good part of these runs."""
        share = np.bincount(self.feed[member], minlength=len(self.unread)) / max(member.sum(), 1)
        return np.asarray(share @ self.unread >= UNREAD)

    def _volume(self, every: Floats, member: Mask) -> Series | None:
        """Runs against what the rhythm of day and week leads one to expect; hours of an incident that they had part in are left out.

        None where it is never known how many there were.
        """
        told = self.not_known(member)
        if told.all():
            return None
        for window in self.volumes_told:
            within = member & (self.hour >= window.start) & (self.hour < window.end)
            told[window.start : window.end] |= (within & ~self.alive[VOLUME.key]).sum() >= 0.05 * within.sum()
        return volume_series(every, self.history, told, float(self.together[member].mean()) if member.any() else 1.0)

    def _tool_series(self) -> Iterator[tuple[Measure, str, Hashable, Series]]:
        hours, tools = self.history.hours, self.tools
        if tools.empty:
            return
        n, failed, hour = (tools[name].to_numpy(dtype=np.float64) for name in ("n", "failed", "hour"))
        counts = tools.groupby("tool", observed=True)["n"].sum().sort_values(ascending=False)
        for tool in counts.index[: 2 * TOP]:
            if counts[tool] >= SERIES_RUNS:
                own = self.tools_alive & (tools["tool"] == tool).to_numpy()
                at = hour[own].astype(np.int64)
                yield FAILED, "tool", tool, Series("share", _binned(at, n[own], hours), _binned(at, failed[own], hours), 1, FAILED.least)

    # --- which slice ----------------------------------------------------------------------------------------

    def _explained(self, measure: Measure, plain: Attributes, window: Window, series: int) -> Incident:
        """The incident behind a window: its slice, its own start and end, and what else moved with it."""
        blamed = self._blame(measure, plain, window)
        if blamed is not None:
            attributes = {name: _known(value) for name, value in blamed.attributes.items()}
        else:
            attributes = plain or self._concentrated(measure, window)
        start, end = self._extent(measure, attributes, window)
        found = Incident(measure, attributes, start, end, window.z, min(window.p_value * series, 1.0), blamed)
        return found if found.of_tools else replace(found, also=tuple(self._also(found, series)))

    def _blame(self, measure: Measure, plain: Attributes, window: Window) -> Slice | None:
        """The largest slice that moved as the window did and has to do with the series in which it stood out."""
        frame, dimensions = self._tool_frame(window) if "tool" in plain else self._run_frame(measure, window)
        if frame is None or not dimensions:
            return None
        names = ("x", "x_before") if measure.kind == "volume" else (("x", "n"), ("x_before", "n_before"))
        for slice_ in localise(frame, dimensions, *names):
            agrees = all(slice_.attributes.get(name, value) == value for name, value in plain.items())
            large = not slice_.share < LARGE or bool(plain)
            if agrees and large and slice_.excess * self._direction(measure, plain, window) > 0:
                return slice_
        return None

    def _concentrated(self, measure: Measure, window: Window) -> Attributes:
        """The value of one attribute that has most of the excess of all runs, and not most of the runs; else none: all runs."""
        best, found = CONCENTRATED, dict[str, Hashable]()
        if measure.kind == "volume":
            return found
        x = self.values[measure.key]
        known = self.alive[measure.key] & np.isfinite(x)
        within = known & (self.hour >= window.start) & (self.hour < window.end)
        before = known & (self.hour < window.start)
        every = float(x[within].sum() - within.sum() * x[before].mean())
        for attribute, values, codes in self._groups():
            for row, value in enumerate(values if attribute else ()):
                own = codes == row
                inside, past = within & own, before & own
                if past.sum() >= SLICE_RUNS and inside.sum() <= MOST_RUNS * within.sum():
                    share = float(x[inside].sum() - inside.sum() * x[past].mean()) / every
                    if share > best:
                        best, found = share, {attribute: value}
        return found

    def _direction(self, measure: Measure, plain: Attributes, window: Window) -> int:
        """1 when what is counted rose in the window; for volume that may be either."""
        if measure.kind != "volume":
            return 1
        own = self._inside(plain, measure)
        every = np.bincount(self.hour[own], minlength=self.history.hours).astype(np.float64)
        expected = expected_volume(every, self.history)[window.start : window.end].sum()
        return 1 if every[window.start : window.end].sum() > expected else -1

    def _run_frame(self, measure: Measure, window: Window) -> tuple[pd.DataFrame | None, list[str]]:
        """Leaves of all attributes: bad runs and runs in the window, and in the time before it."""
        dimensions = [name for name in self.history.attributes if measure.kind != "volume" or name not in self.chosen]
        if measure.kind == "volume":
            bad = np.ones(len(self.hour))
        elif measure.kind == "share":
            bad = self.values[measure.key] if measure.sign > 0 else 1 - self.values[measure.key]
        else:
            x = measure.sign * self.values[measure.key]
            bad = np.where(np.isfinite(x), x > FAR_OUT, math.nan)
        usable = self.alive[measure.key] & np.isfinite(bad)
        within = usable & (self.hour >= window.start) & (self.hour < window.end)
        before = usable & (self.hour < window.start) & (self.hour >= window.start - REFERENCE_HOURS)
        if not dimensions or within.sum() < SLICE_RUNS or before.sum() < SLICE_RUNS:
            return None, []
        scale = self._exposure(window) if measure.kind == "volume" else 1.0
        chosen = np.flatnonzero(within | before)
        frame = self.history.runs[dimensions].iloc[chosen].apply(lambda column: column.cat.codes if hasattr(column, "cat") else column)
        frame["x"], frame["n"] = bad[chosen] * within[chosen], 1.0 * within[chosen]
        frame["x_before"], frame["n_before"] = scale * bad[chosen] * before[chosen], 1.0 * before[chosen]
        grouped = frame.groupby(dimensions, sort=False)[["x", "n", "x_before", "n_before"]].sum().reset_index()
        for name in dimensions:
            grouped[name] = _decoded(grouped[name], self.history.runs[name])
        return grouped, dimensions

    def _exposure(self, window: Window) -> float:
        """Runs expected in the window for each run of the time before."""
        every = np.bincount(self.hour, minlength=self.history.hours).astype(np.float64)
        expected = expected_volume(every, self.history)
        first = max(window.start - REFERENCE_HOURS, 0)
        return float(expected[window.start : window.end].sum() / max(expected[first : window.start].sum(), 1.0))

    def _tool_frame(self, window: Window) -> tuple[pd.DataFrame | None, list[str]]:
        tools = self.tools[self.tools_alive]
        dimensions = [name for name in TOOL_ATTRIBUTES if tools[name].nunique(dropna=False) > 1]
        within = ((tools["hour"] >= window.start) & (tools["hour"] < window.end)).to_numpy()
        before = ((tools["hour"] < window.start) & (tools["hour"] >= window.start - REFERENCE_HOURS)).to_numpy()
        if not dimensions or not within.any() or not before.any():
            return None, []
        frame = tools[dimensions].astype(object)
        for name, source in (("x", "failed"), ("n", "n")):
            frame[name], frame[f"{name}_before"] = tools[source] * within, tools[source] * before
        return frame, dimensions

    def _inside(self, attributes: Attributes, measure: Measure) -> Mask:
        """Runs of a slice that were not set aside for the measure."""
        return self.alive[measure.key] & members(self.history.runs, attributes)

    def _extent(self, measure: Measure, attributes: Attributes, window: Window) -> tuple[int, int]:
        """Start and end of the window moved to where the slice's own course stands out most."""
        series = self._course(measure, attributes)
        if series is None:
            return window.start, window.end
        n, total = scan.cumulated(series.n), scan.cumulated(series.total)
        reach = max(2, (window.end - window.start) // 2)
        starts = np.arange(max(window.start - reach, 1), min(window.start + reach, len(series.n)))
        ends = np.arange(max(window.end - reach, 1), min(window.end + reach, len(series.n)) + 1)
        left, right = (grid.ravel() for grid in np.meshgrid(starts, ends, indexing="ij"))
        left, right = left[right > left], right[right > left]
        z = scan.deviates(series.kind, n, total, left, right)
        z = np.abs(z) if series.sign == 0 else series.sign * z
        z = np.where(np.isfinite(z), z, -math.inf)
        at = int(np.argmax(z))
        return (int(left[at]), int(right[at])) if z[at] > 0 else (window.start, window.end)

    def _course(self, measure: Measure, attributes: Attributes) -> Series | None:
        """The series of a slice; None where it has too few runs."""
        hours = self.history.hours
        if "tool" in attributes:
            own = self.tools_alive & members(self.tools, attributes)
            at = self.tools["hour"].to_numpy(dtype=np.int64)[own]
            n, failed = (_binned(at, self.tools[name].to_numpy(dtype=np.float64)[own], hours) for name in ("n", "failed"))
            return Series("share", n, failed, 1)
        own = self._inside(attributes, measure)
        if own.sum() < SLICE_RUNS:
            return None
        if measure.kind == "volume":
            every = np.bincount(self.hour[own], minlength=hours).astype(np.float64)
            return volume_series(every, self.history, self.not_known(own), float(self.together[own].mean()))
        x = self.values[measure.key]
        own &= np.isfinite(x)
        n, total = _sums(self.hour[own], x[own], 1, hours)
        return Series(measure.kind, n[0], total[0], measure.sign, alike=self.alike[measure.key])

    def _also(self, found: Incident, series: int) -> Iterator[Measure]:
        """Other measures of the slice that moved for the worse in about the same hours, beyond chance for all series."""
        for key in (*self.values, VOLUME.key):
            measure = BY_KEY[key]
            course = None if measure == found.measure else self._course(measure, found.attributes)
            if course is None:
                continue
            window = scan.best_window(replace(course, least=measure.least))
            if window is None or window.p_value * series > CHANCE:
                continue
            common = min(window.end, found.end) - max(window.start, found.start)
            if common >= ALIKE * (max(window.end, found.end) - min(window.start, found.start)):
                yield measure

    def _set_aside(self, found: Incident) -> None:
        """What is explained is not looked at again: runs, or calls of a tool and the runs that failed with them."""
        if found.of_tools:
            within = ((self.tools["hour"] >= found.start) & (self.tools["hour"] < found.end)).to_numpy()
            self.tools_alive &= ~(within & members(self.tools, found.attributes))
            return
        within = (self.hour >= found.start) & (self.hour < found.end)
        for measure in (found.measure, *found.also):
            self.alive[measure.key] &= ~(self._inside(found.attributes, measure) & within)
            if measure == VOLUME:
                self.volumes_told.append(found)


def _unread(history: History) -> tuple[NDArray[np.int64], Mask]:
    """The number of each run's feed, and by feed the hours in which nothing is known of its runs, shape (feeds, hours)."""
    hours = np.arange(history.hours)
    unread = np.zeros((max(len(history.feeds), 1), history.hours), dtype=bool)
    for row, feed in enumerate(history.feeds):
        first = math.floor((feed.first - history.start) / timedelta(hours=1))
        unread[row] = hours < first
        if feed.known_until is not None and feed.ends_before(history.end):
            unread[row] |= hours >= math.floor((feed.known_until - history.start) / timedelta(hours=1))
    if not history.feeds:
        return np.zeros(len(history.runs), dtype=np.int64), unread
    codes = history.runs["feed"].cat.set_categories([feed.key for feed in history.feeds]).cat.codes
    return codes.to_numpy().astype(np.int64).clip(0), unread


def _handed_over(every: Floats, total: Floats, expected: Floats) -> bool:
    """Whether others had the runs of a value (``every``) in the hours in which it was away, so that all (``total``) were as expected."""
    away = _away(every)
    if not away.any() or away.all():
        return False
    share = every[~away].sum() / max(total[~away].sum(), 1.0)
    level = [_usual_level(total * part, expected * part) for part in (away, ~away)]
    return bool(level[0] > (1 - HANDED_OVER * share) * level[1])


def _usual_level(total: Floats, expected: Floats) -> float:
    """The middle one of the days' ratios, so that one surge or outage does not count."""
    days = -(-len(total) // 24)
    seen, due = (np.pad(values, (0, 24 * days - len(values))).reshape(days, 24).sum(axis=1) for values in (total, expected))
    return float(np.median(seen[due > 0] / due[due > 0])) if (due > 0).any() else 0.0


def _away(every: Floats) -> Mask:
    """The hours of stretches without any run that are longer than a weekend, or a good part of all time."""
    least = min(AWAY_HOURS, max(AWAY_PART * len(every), 1))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], every == 0, [0]])))
    away = np.zeros(len(every), dtype=bool)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        away[start:end] = end - start >= least
    return away


def _conversations(unit: Floats, day: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each run the number of its conversation on its day; one of its own where the conversation is not known."""
    group = np.arange(len(unit))
    known = np.isfinite(unit)
    if known.any():
        _, number = np.unique(unit[known] * (day.max() + 1) + day[known], return_inverse=True)
        group[known] = len(unit) + number
    return np.unique(group, return_inverse=True)[1].astype(np.int64)


def _alike(group: NDArray[np.int64], x: Floats) -> float:
    """By how much sums of ``x`` over groups vary more than sums over as many independent runs; at least 1."""
    known = np.isfinite(x)
    variance = float(x[known].var()) if known.any() else 0.0
    if variance <= 0:
        return 1.0
    excess = np.bincount(group[known], x[known] - x[known].mean())
    return max(1.0, float((excess**2).sum()) / (variance * int(known.sum())))


def members(frame: pd.DataFrame, attributes: Attributes) -> Mask:
    """Which rows have all of the attributes; None is met by rows that have none."""
    chosen = np.ones(len(frame), dtype=bool)
    for name, value in attributes.items():
        chosen &= (frame[name].isna() if value is None else frame[name] == value).to_numpy(dtype=bool)
    return chosen


def _sums(cell: NDArray[np.int64], x: Floats | None, rows: int, hours: int) -> tuple[Floats, Floats]:
    """Counts and sums by row and hour, shape (rows, hours)."""
    n = _binned(cell, None, rows * hours).reshape(rows, hours)
    return n, n if x is None else _binned(cell, x, rows * hours).reshape(rows, hours)


def _binned(at: NDArray[np.int64], weights: Floats | None, length: int) -> Floats:
    return np.bincount(at, weights, length).astype(np.float64)


def _known(value: Hashable) -> Hashable:
    """None for what pandas made of it."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _decoded(codes: pd.Series, column: pd.Series) -> list[Hashable]:
    if not hasattr(column, "cat"):
        return list(codes)
    categories = list(column.cat.categories)
    return [None if code < 0 else categories[code] for code in codes]


def _added(found: list[Incident], incident: Incident) -> list[Incident]:
    """The incidents with another one, which may be more of one that is known: the same slice and measure, next to it in time."""
    for at, other in enumerate(found):
        near = max((other.end - other.start) // 2, 6)
        apart = max(other.start - incident.end, incident.start - other.end)
        if (other.measure, other.attributes) == (incident.measure, incident.attributes) and apart <= near:
            longer = replace(other, start=min(other.start, incident.start), end=max(other.end, incident.end))
            return [*found[:at], longer, *found[at + 1 :]]
    return [*found, incident]
