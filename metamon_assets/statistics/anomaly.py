"""Streaming anomaly detection: causal, one pass, one set of parameters for every metric, whatever its unit and its step.

A ``Detector`` follows one series. It looks at each value through six channels: the value itself, its jump from the last ones, its
distance from what is usual at that time of day, the mean of these distances over a day, how much the values scatter, and the sum of the
latest distances (the run), which is told apart. Each
channel is held against the extremes that it reached in the hours of the last week (its blocks). How rare the present value is, is a
return period: a severity of 3 stands for what one block in 10³ sees, from the rank among the blocks' extremes and, beyond the
largest of them, from an exponential tail (block maxima and threshold excesses: Coles, An Introduction to Statistical Modeling of
Extreme Values, 2001, chapters 3 and 4). A second family of channels, the context of ``context.ContextModel``, corroborates: it
raises the severity of what the first family found, and finds nothing alone.

An excursion is told once: afterwards the score stays at zero until the excursion is over, or has become a hundred times as rare.

Only the standard library is imported, for a tick of a few seconds has no time for more. What looks at a whole series at once (change
points, trends, forecasts) does not belong here, nor does what to do about an anomaly.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from numbers import Real
from typing import Any, Literal

from metamon_assets.statistics.context import MAX_CELLS, ROW, SAMPLE_SIZE, ContextModel
from metamon_assets.statistics.context import VERSION as CONTEXT_VERSION

Level = Literal["normal", "warning", "critical"]

VERSION = 2  # of the state; another version is refused
# Severities are decimal logarithms of return periods, in blocks, of one side of one channel. Simulated healthy series of five minutes
# reach NOTICE once in five days, WARNING once in two weeks (benchmarks/anomaly.py). All parameters were chosen by such simulations.
NOTICE, WARNING, CRITICAL = 3.0, 4.0, 6.0
ESCALATION = 2.0  # an excursion is told again when it has become a hundred times as rare as when it was told
HOLD = 48  # records below NOTICE, or steps without a record, that end an excursion: four hours at five minutes
RELEASE = 3  # records below NOTICE after which the level is normal again
PERSISTENCE = 3  # values severe by themselves, without which no excursion is critical
REASON = 2.0  # the severity from which a channel counts as a reason
BLOCK_RECORDS, BLOCK_SECONDS = 12, 3600.0  # a block closes when it has both
MEMORY = 168  # blocks: a week at five minutes, half a year at an hour
TAIL = 4  # the largest fourth of the blocks' extremes gives the scale of the tail
TREND_RATE, TREND_TOLERANCE = 1 / 32, 0.05  # a record is as rare as the records of late: a trend sets them all the time
LEARNING_BLOCKS, LEARNING_SECONDS = 16, 16 * 3600.0  # no score before both have passed
LEAST, LEAST_RELATIVE = 0.01, 1e-4  # of the usual range, and of the level: smaller changes are of no interest
LEAST_SPREAD = 0.1  # nor is a tenth more or less scatter
DUST, NOTHING = 1e-12, 1e-9  # of the largest value learnt, or at all where all were zero: rounding errors are smaller
FAST, SPREAD = 2 / 9, 2 / 17  # weights of exponential means over 8 and 16 records
SLOW_DAYS, DAILY = 4.0, 0.2  # the span of the slow level; how much of the daily course is learnt anew each day
BINS = 48  # of the daily course, half an hour each
LARGEST = 1e300  # what is beyond counts as infinite: no difference of two values is
GAP_STEPS, CLOCK_SECONDS = 6.0, 86400.0  # longer than that is a gap; the clock was set back when time runs back by more
CONTEXT_RECORDS, CONTEXT_USUAL, CONTEXT_WEIGHT = 6, 0.4, 2.0  # a context as strange as any of late adds up to 1.2 to the severity
CHANNELS = ("level", "jump", "season", "level shift", "spread", "run")
RUN = "run"  # tells of shifts that last, apart from the score
# What the sum of so many of the latest distances from the usual counts in the channel "run": an hour at most, at five minutes.
RUN_WEIGHTS = (0.0, *(1 / math.sqrt(length) for length in range(2, 13)))
OWN = ("level", "season")  # channels of the value itself, without a memory of other values


@dataclass(frozen=True, slots=True)
class AnomalyScore:
    """What a detector says of one value.

    - ``score``, 0 to 1: the news, severity / (severity + 4). An excursion is told once, with a score of at least 3/7, and again when it
      has escalated; from 0.5 on, healthy series of five minutes give about one false alarm in two weeks. Scores below 3/7 tell
      what is unusual but no excursion.
    - ``level``: the state now. "warning" from severity 4; "critical" from severity 6, when three values were severe by themselves and
      the context agrees. It is "normal" again after three records in a row below severity 3. That need not be the end of the incident:
      what persists becomes the new normal, for noise at five minutes a shift of 6 deviations after 6 hours, one of 12 after 8, one of
      1000 after 16. An alert that is to last as long as the incident must hold it itself.
    - ``expected``, ``lower`` and ``upper``, in the unit of the values: what was expected, and between what no warning comes from
      the value or from its place in the day (the other channels have no place in such a band). None while the detector learns.
    - ``reasons``: the channels that are outside their usual ranges ("level", "jump", "season", "level shift", "spread", "run", "context"),
      "gap" after one, or why nothing was judged: "learning", "missing", "late".
    - ``severity``: how rare the value is, whether or not it is news: the decimal logarithm of its return period in blocks; 0 where nothing
      is unusual or nothing was judged. ``run``: how rare the latest values are together, up to twelve of them; it has no part in score
      and level, and sees smaller shifts than they do.
    """

    score: float
    level: Level
    expected: float | None
    lower: float | None
    upper: float | None
    reasons: tuple[str, ...]
    severity: float = 0.0
    run: float = 0.0


def score(timestamps: Sequence[datetime], values: Sequence[float]) -> list[float]:
    """The scores of a whole series, each from what came before it: a loop over ``Detector.update``.

    ``timestamps`` and ``values``: shape (n,); the result has the same length. Raises ValueError when the lengths differ.

    >>> from datetime import datetime, timedelta
    >>> times = [datetime(2026, 1, 5) + timedelta(minutes=5 * i) for i in range(1000)]
    >>> values = [20.0 + i % 7 for i in range(1000)]
    >>> values[900:905] = [60.0] * 5
    >>> [i for i, s in enumerate(score(times, values)) if s >= 0.5]
    [900]
    """
    detector = Detector()
    return [detector.update(timestamp, value).score for timestamp, value in zip(timestamps, values, strict=True)]


class Detector:
    """Follows one series, value by value; between two of them it can rest as JSON, in its ``state``.

    Time runs forward. A timestamp that is not later than the last one (a duplicate, or late data) changes nothing and gets
    score 0 with the reason "late"; one that is earlier by more than a day means that the clock was set back, and time goes on
    from there. None, NaN, infinite values (beyond 1e300) and pandas' NA count as missing: score 0, nothing is learnt, the level stays.
    After a gap of more than six steps a jump is not judged; one of more than 48 ends an excursion. The step is learnt. Where the
    timestamps have a zone, time is counted in UTC, to the microsecond; the daily course follows their clock as it is given. Steps of a
    minute to an hour suit it best: 192 records and 16 hours pass before the first judgement.

    What it learns of an incident ends where a warning starts, so that the next one like it is told as well. Changes as small as
    rounding errors are none: up to 1e-12 of the largest value or, while every value was zero, up to 1e-9.

    >>> import json
    >>> from datetime import datetime, timedelta
    >>> detector, start = Detector(), datetime(2026, 1, 5)
    >>> for i in range(1000):
    ...     verdict = detector.update(start + timedelta(minutes=5 * i), 20.0 + i % 7)
    >>> verdict.score < 0.5, verdict.level
    (True, 'normal')
    >>> again = Detector(json.loads(json.dumps(detector.state)))
    >>> verdict = again.update(start + timedelta(minutes=5000), 60.0)
    >>> verdict.level, verdict.reasons
    ('warning', ('level', 'jump', 'season', 'level shift', 'spread', 'run', 'context'))
    """

    __slots__ = ("_channels", "_context", "_excursion", "_last", "_profile", "_series", "_visits")

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        """A new detector, or one that goes on from a ``state``. Raises ValueError for what is no state of this version."""
        if state is None:
            state = _new_state()
        elif not _fits(state, _STATE):
            raise ValueError(f"state must be what Detector.state gave, in version {VERSION}, with all its keys, lengths and types")
        self._last = None if state["last"] is None else datetime.fromisoformat(state["last"])
        self._series = _Series(**state["series"])
        self._excursion = _Excursion(*state["excursion"])
        self._profile, self._visits = list(state["profile"]), list(state["visits"])
        sides = [_Side(*side) for side in state["sides"]]
        self._channels = tuple(zip(CHANNELS, sides[::2], sides[1::2], strict=True))
        self._context = ContextModel(state["context"])
        self._fit()

    @property
    def state(self) -> dict[str, Any]:
        """All that it remembers, for ``Detector(state)``: JSON of some twenty kilobytes, which does not grow."""
        return {
            "version": VERSION,
            "last": None if self._last is None else self._last.isoformat(),
            "series": asdict(self._series),
            "excursion": list(astuple(self._excursion)),
            "profile": list(self._profile),
            "visits": list(self._visits),
            "sides": [side.state for _, *sides in self._channels for side in sides],
            "context": self._context.state,
        }

    def update(self, timestamp: datetime, value: float | None) -> AnomalyScore:
        """Judge the next value by what came before it, then learn from it.

        Raises ValueError for a value that is no real number and not missing, for a timestamp that is no datetime, and where one timestamp
        has a zone and another has none.
        """
        moment, number = _moment(timestamp), _number(value)
        if reason := self._unusable(moment, number):
            return AnomalyScore(0.0, self._excursion.level, None, None, None, (reason,))
        reading = self._read(moment, _bin(timestamp), number, self._context.update(number))
        verdict, self._excursion = self._judge(reading)
        self._learn(reading, verdict)
        return verdict

    def peek(self, timestamp: datetime, value: float | None) -> AnomalyScore:
        """What ``update`` would say, without a trace in the state."""
        moment, number = _moment(timestamp), _number(value)
        if reason := self._unusable(moment, number):
            return AnomalyScore(0.0, self._excursion.level, None, None, None, (reason,))
        return self._judge(self._read(moment, _bin(timestamp), number, self._context.peek(number)))[0]

    def _unusable(self, moment: datetime, value: float) -> str | None:
        if not -LARGEST <= value <= LARGEST:  # nor is NaN
            return "missing"
        if self._last is None:
            return None
        if (moment.tzinfo is None) != (self._last.tzinfo is None):
            raise ValueError(f"timestamp must have a time zone as the ones before have, or none as they, not {moment!r}")
        return "late" if -CLOCK_SECONDS <= (moment - self._last).total_seconds() <= 0 else None

    def _read(self, moment: datetime, bin_: int, value: float, context: float) -> _Reading:
        """The value as the channels see it. Nothing is learnt yet."""
        series = self._series
        seconds = 0.0 if self._last is None else (moment - self._last).total_seconds()
        step = series.step or seconds
        gap = seconds > GAP_STEPS * step or seconds < 0
        over = seconds > HOLD * step or seconds < 0
        day = min(max(86400 / step, 12.0), 1440.0) if step > 0 else 288.0
        trust = 0.0  # in the daily course: none before a day has passed, nor where it errs as much as the level alone
        if series.count > 1.2 * day and series.level_error > 0:
            trust = min(max(2 - 2 * series.season_error / series.level_error, 0.0), 1.0)
        slow, fast = (series.slow, series.fast) if series.count else (value, value)
        expected = slow + trust * self._profile[bin_]
        residual = value - expected
        jump = 0.0 if gap else value - fast
        shift = series.shift + _day_weight(day) * (residual - series.shift)
        spread = series.spread + SPREAD * (abs(jump) - series.spread)
        scatter = math.log(spread + 0.2 * series.least + 1e-12 * abs(value) + 1e-300)  # less than that is as good as none
        strange = max(context, *series.contexts)
        residuals = [residual] if gap else [*series.residuals, residual]
        signals = (value, jump, residual, shift, scatter, _run(residuals))
        return _Reading(moment, value, seconds, gap, over, day, bin_, expected, context, strange, residuals, signals)

    def _judge(self, reading: _Reading) -> tuple[AnomalyScore, _Excursion]:
        series, excursion = self._series, _Excursion() if reading.over else self._excursion
        if series.blocks < LEARNING_BLOCKS or series.age < LEARNING_SECONDS:
            return AnomalyScore(0.0, "normal", None, None, None, ("learning",)), excursion
        severity, run, own, reasons = self._severity(reading)
        context = reading.strange - CONTEXT_USUAL
        if context > 0 and severity > 0:
            severity += CONTEXT_WEIGHT * context
            reasons.append("context")
        news, excursion = excursion.follow(severity, own=own, agreed=context > 0)
        (_, highest, lowest), _, (_, above, below), *_ = self._channels
        expected = reading.expected
        lower = min(max(-lowest.limit, expected - below.limit), expected)
        upper = max(min(highest.limit, expected + above.limit), expected)
        return AnomalyScore(news, excursion.level, expected, lower, upper, tuple(reasons), severity, run), excursion

    def _severity(self, reading: _Reading) -> tuple[float, float, bool, list[str]]:
        """The severity of the channel that is furthest out and that of the run, whether the value's own is at NOTICE, and the names of
        the channels far out.

        The channels that remember are not the value's own: one jump keeps the scatter high for a while, which shows no persistence.
        """
        highest, run, own = 0.0, 0.0, False
        reasons = ["gap"] if reading.gap else []
        for (name, upper, lower), signal in zip(self._channels, reading.signals, strict=True):
            if signal > upper.near:
                severity = upper.severity(signal)
            elif -signal > lower.near:
                severity = lower.severity(-signal)
            else:
                continue
            if name == RUN:
                run = severity
            else:
                highest = max(highest, severity)
                own = own or (severity >= NOTICE and name in OWN)
            if severity >= REASON:
                reasons.append(name)
        return highest, run, own, reasons

    def _learn(self, reading: _Reading, verdict: AnomalyScore) -> None:
        """The means learn the value as if it were at the edge of its band, or one outlier would spoil them."""
        series, value = self._series, reading.value
        if verdict.lower is not None and verdict.upper is not None:
            value = min(max(value, verdict.lower), verdict.upper)
        if series.count == 0:
            series.fast = series.slow = value
        series.count += 1
        self._last = reading.moment
        self._learn_step(reading.seconds)
        series.shift += _day_weight(reading.day) * (value - reading.expected - series.shift)
        series.spread += SPREAD * ((0.0 if reading.gap else abs(value - series.fast)) - series.spread)
        self._learn_course(value, reading)
        series.slow += (value - series.slow) / min(series.count, SLOW_DAYS * reading.day)
        series.fast = value if reading.gap else series.fast + FAST * (value - series.fast)
        series.contexts = [*series.contexts[1:], reading.context]
        series.residuals = reading.residuals[1 - len(RUN_WEIGHTS) :]
        series.highest = list(map(max, series.highest or reading.signals, reading.signals))
        series.lowest = list(map(min, series.lowest or reading.signals, reading.signals))
        series.block_records += 1
        if series.block_records >= BLOCK_RECORDS and series.block_seconds >= BLOCK_SECONDS:
            self._close_block()

    def _learn_step(self, seconds: float) -> None:
        """The usual step is a running median: a little up when a step is longer, a little down when it is shorter."""
        series = self._series
        if seconds > 0:
            usual = series.step or seconds
            if seconds != usual:
                rate = 1.02 + 1 / series.count
                usual = usual * rate if seconds > usual else usual / rate
            series.step = usual
            series.age += seconds
            series.block_seconds += seconds

    def _learn_course(self, value: float, reading: _Reading) -> None:
        """The daily course of the deviations from the slow level, and whether it forecasts better than that level alone."""
        series, bin_ = self._series, reading.bin
        deviation = value - series.slow
        error = deviation - self._profile[bin_]
        series.season_error += (abs(error) - series.season_error) / reading.day
        series.level_error += (abs(deviation) - series.level_error) / reading.day
        self._visits[bin_] += 1
        self._profile[bin_] += error * max(1 / self._visits[bin_], min(DAILY, DAILY * BINS / reading.day))

    def _close_block(self) -> None:
        series = self._series
        if series.blocks > 0:  # in the first block the means still settle
            for (_, upper, lower), highest, lowest in zip(self._channels, series.highest, series.lowest, strict=True):
                upper.append(highest)
                lower.append(-lowest)
        series.blocks += 1
        series.block_records, series.block_seconds, series.highest, series.lowest = 0, 0.0, [], []
        _, upper, lower = self._channels[0]
        if (known := len(upper.extremes)) >= 4:
            reach = max(upper.extremes[-1], lower.extremes[-1])
            if reach > series.least:  # dust after nothing but zeros is no value to measure by
                series.largest = max(series.largest, reach)
            usual = upper.extremes[-1 - known // 20] + lower.extremes[-1 - known // 20]
            series.least = max(LEAST * usual, LEAST_RELATIVE * abs(series.slow), DUST * series.largest or NOTHING)
        self._fit()

    def _fit(self) -> None:
        """Fit the tails of all sides for the next block."""
        least = self._series.least
        for (_, *sides), smallest in zip(self._channels, (least, least, least, least / 2, LEAST_SPREAD, least), strict=True):
            for side in sides:
                side.fit(smallest)


def _number(value: object) -> float:
    """A value as a float, NaN where it is missing."""
    if isinstance(value, Real | Decimal):
        try:
            return float(value)
        except (OverflowError, ValueError) as error:
            raise ValueError(f"value must be a number that a float can hold: {error}") from error
    if value is None or type(value).__name__ == "NAType":  # of pandas, which is not loaded for this
        return math.nan
    raise ValueError(f"value must be a real number or None, not {value!r}")


def _moment(timestamp: datetime) -> datetime:
    """In UTC where the zone is known, for Python takes two times of one zone apart by their wall clocks; in whole microseconds."""
    if type(timestamp) is not datetime:  # pandas' Timestamp has nanoseconds, which no state keeps
        try:
            timestamp = datetime.combine(timestamp.date(), timestamp.timetz())
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"timestamp must be a datetime, not {timestamp!r}") from error
    return timestamp if timestamp.tzinfo is None else timestamp.astimezone(UTC)


def _bin(timestamp: datetime) -> int:
    """Of the daily course."""
    return (timestamp.hour * 60 + timestamp.minute) * BINS // 1440


def _run(residuals: Sequence[float]) -> float:
    """The sum of the latest residuals over the root of their number, of the number from two on for which it is furthest from 0.

    That is the generalised likelihood ratio of a shift of unknown start within a window, up to the deviation of the noise (Lai, Journal
    of the Royal Statistical Society B 57, 1995): a shift of half the size shows in four times as many records.
    """
    furthest = total = 0.0
    for weight, residual in zip(RUN_WEIGHTS, reversed(residuals), strict=False):
        total += residual
        scaled = weight * total
        if abs(scaled) > abs(furthest):
            furthest = scaled
    return furthest


def _day_weight(day: float) -> float:
    """Of an exponential mean over a day of that many records."""
    return 2 / (day + 1)


@dataclass(slots=True)
class _Series:
    """What is remembered of the whole series; spans and weights are the constants above."""

    count: int = 0
    age: float = 0.0  # seconds
    step: float = 0.0  # seconds; 0 until two timestamps are known
    fast: float = 0.0  # exponential means of the values
    slow: float = 0.0
    shift: float = 0.0  # of the deviations from what was expected
    spread: float = 0.0  # of the absolute jumps
    residuals: list[float] = field(default_factory=list)  # the latest distances from what was expected
    season_error: float = 0.0  # of the absolute errors with the daily course and without
    level_error: float = 0.0
    least: float = 0.0  # the least change of interest
    largest: float = 0.0  # the largest absolute value learnt
    contexts: list[float] = field(default_factory=lambda: [0.0] * (CONTEXT_RECORDS - 1))  # the latest scores
    blocks: int = 0  # closed
    block_records: int = 0  # in the open block
    block_seconds: float = 0.0
    highest: list[float] = field(default_factory=list)  # signals in the open block
    lowest: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Reading:
    """One value as the channels see it."""

    moment: datetime
    value: float
    seconds: float  # since the last one
    gap: bool
    over: bool  # the gap is so long that it ends an excursion
    day: float  # in records
    bin: int
    expected: float
    context: float
    strange: float  # the largest context score of late
    residuals: list[float]  # this one and those before it
    signals: tuple[float, ...]  # in the order of CHANNELS


@dataclass(frozen=True, slots=True)
class _Excursion:
    """The run of severe records that is under way, if ``severe`` is not 0. What makes its level starts anew at its release."""

    severe: int = 0  # records at NOTICE or above
    persistent: int = 0  # those whose own value was
    calm: int = 0  # records below it since the last of these
    told: float = 0.0  # the severity that was told last
    worst: float = 0.0
    agreed: bool = False  # the context did, at one of the severe records

    @property
    def level(self) -> Level:
        if self.worst < WARNING:
            return "normal"
        return "critical" if self.worst >= CRITICAL and self.persistent >= PERSISTENCE and self.agreed else "warning"

    def follow(self, severity: float, *, own: bool, agreed: bool) -> tuple[float, _Excursion]:
        """The score of the next value, and the excursion after it."""
        news = severity / (severity + WARNING)
        if severity >= NOTICE:
            tell = self.severe == 0 or severity >= self.told + ESCALATION
            told = severity if tell else self.told
            after = _Excursion(self.severe + 1, self.persistent + own, 0, told, max(self.worst, severity), self.agreed or agreed)
            return (news if tell else 0.0), after
        if self.severe == 0:
            return news, self
        calm = self.calm + 1
        if calm == HOLD:
            return 0.0, _Excursion()
        if calm == RELEASE:
            return 0.0, _Excursion(self.severe, calm=calm, told=self.told)
        return 0.0, replace(self, calm=calm)


class _Side:
    """The largest values of one signal, block by block, and the tail that they have."""

    __slots__ = ("blocks", "extremes", "flat", "least", "limit", "near", "record", "records", "scale")

    def __init__(self, records: float = 0.0, blocks: Sequence[float] = ()) -> None:
        self.records = records  # the share of late blocks that exceeded all before them
        self.blocks = deque(blocks)  # the extremes in order of time
        self.extremes = sorted(blocks)
        self.near = self.limit = math.inf  # below near, nothing is rare; a warning starts at limit
        self.flat = False  # the extremes hardly differ
        self.record, self.scale, self.least = 0.0, 1.0, 0.0  # the severity of a record, and how much more is a decade

    @property
    def state(self) -> list[Any]:
        return [self.records, list(self.blocks)]

    def append(self, highest: float) -> None:
        """Remember the largest value of one more block, but no more than what a warning starts at: an incident must not hide the next.

        Where the extremes hardly differ, as those of a constant, that would be next to nothing: then half of the way is learnt.
        """
        if highest > self.limit:
            highest = (highest + self.extremes[-1]) / 2 if self.flat else self.limit
        highest = float(f"{highest:.5g}")  # or the state would be three times as long
        extremes = self.extremes
        if len(extremes) > 8:
            self.records += TREND_RATE * ((highest > extremes[-1]) - self.records)
        if len(extremes) == MEMORY:
            del extremes[bisect_left(extremes, self.blocks.popleft())]
        self.blocks.append(highest)
        insort(extremes, highest)

    def fit(self, least: float) -> None:
        """An exponential tail beyond the largest fourth of the extremes; nothing within ``least`` of an extreme counts as beyond it."""
        extremes = self.extremes
        known = len(extremes)
        if known < 4:
            return
        tail = max(known // TAIL, 3)
        base = extremes[-1 - tail]
        self.flat = extremes[-1] - base <= least
        self.least, self.near = least, base + least
        self.scale = math.log(10) * max(sum(extremes[-tail:]) / tail - base, least, 1e-300)
        self.record = -math.log10(max(0.5 / (known + 1), self.records - TREND_TOLERANCE))
        self.limit = extremes[-1] + least + max(WARNING - self.record, 0.0) * self.scale

    def severity(self, signal: float) -> float:
        """The decimal logarithm of the return period, in blocks, of a signal above ``near``."""
        extremes, signal = self.extremes, signal - self.least
        if signal > extremes[-1]:
            return self.record + min((signal - extremes[-1]) / self.scale, 30.0)
        reached = len(extremes) - bisect_left(extremes, signal)
        return -math.log10(max((reached + 0.5) / (len(extremes) + 1), self.records - TREND_TOLERANCE))


def _new_state() -> dict[str, Any]:
    return {
        "version": VERSION,
        "last": None,
        "series": asdict(_Series()),
        "excursion": list(astuple(_Excursion())),
        "profile": [0.0] * BINS,
        "visits": [0] * BINS,
        "sides": [_Side().state for _ in range(2 * len(CHANNELS))],
        "context": ContextModel().state,
    }


# The shape of a state: a dict has these keys; a list has these parts; a tuple stands for a list of like parts, and the lengths that it may
# have; a range for a whole number in it; float for a finite number; else the type.
_WHOLE, _SIGNALS = range(2**63), (float, (0, len(CHANNELS)))
_STATE: dict[str, Any] = {
    "version": range(VERSION, VERSION + 1),
    "last": datetime,
    "series": {name: float if isinstance(default, float) else _WHOLE for name, default in asdict(_Series()).items()}
    | {"contexts": [float] * (CONTEXT_RECORDS - 1), "highest": _SIGNALS, "lowest": _SIGNALS, "residuals": (float, range(len(RUN_WEIGHTS)))},
    "excursion": [_WHOLE, _WHOLE, range(HOLD), float, float, bool],
    "profile": [float] * BINS,
    "visits": [_WHOLE] * BINS,
    "sides": [[float, (float, range(MEMORY + 1))]] * (2 * len(CHANNELS)),
    "context": {
        "version": range(CONTEXT_VERSION, CONTEXT_VERSION + 1),
        "seen": _WHOLE,
        "last": float,
        "roughness": float,
        "context": range(1, ROW - 1),
        "extremes": [float, float],
        "sample": (float, range(SAMPLE_SIZE + 1)),
        "followed": ([range(ROW**2), _WHOLE], range(MAX_CELLS + 1)),
        "roughness_counts": ([range(ROW), _WHOLE], range(ROW + 1)),
    },
}


def _fits(part: Any, shape: Any) -> bool:
    """Whether a part of a state has that shape."""
    if isinstance(shape, dict):
        return isinstance(part, Mapping) and part.keys() == shape.keys() and all(_fits(part[key], inner) for key, inner in shape.items())
    if isinstance(shape, list):
        return isinstance(part, list) and len(part) == len(shape) and all(map(_fits, part, shape))
    if isinstance(shape, tuple):
        return isinstance(part, list) and len(part) in shape[1] and all(_fits(one, shape[0]) for one in part)
    if isinstance(shape, range):
        return type(part) is int and part in shape
    if shape is float:
        return type(part) in {int, float} and -1e305 < part < 1e305  # nor is NaN
    if shape is datetime:
        return part is None or _is_moment(part)
    return isinstance(part, shape)


def _is_moment(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(datetime.fromisoformat(text))
    except ValueError:
        return False
