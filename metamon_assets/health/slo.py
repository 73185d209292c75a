"""How targets stand: their value, what is left of the error budget, and how fast it burns.

Burn rates follow the Google SRE Workbook, chapter 5 (Alerting on SLOs): a budget that burns at rate 1 is used up exactly
at the end of its time. A short window beside each long one ends the alert soon after the trouble has ended. What burning
means depends on the kind of target:

- share: the bad share of events against the share that the objective allows;
- amount: what was used against an even pace through the budget's days;
- level: the level against the objective, above 1 when it misses it. There are no events to count, so its budget is one
  in twenty of the days that may miss, and means alert only when their 95 % bound misses too.

With few events nothing alerts by chance: the exact lower bound of a share (Clopper-Pearson, two-sided 95 %) has to be
above the threshold in the long window, and fewer than five bad events page nobody; percentiles need 10 / (1 - q) values,
means and amounts 30.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from metamon_assets.days import midnight
from metamon_assets.health import targets
from metamon_assets.health.measures import CHANGE, Sums, of_days, of_minutes
from metamon_assets.health.targets import Target
from metamon_assets.metrics.completions import bucket_of
from metamon_assets.metrics.registry import BY_NAME
from metamon_assets.statistics import exact

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

Severity = Literal["warning", "critical"]
WINDOWS: Mapping[str, timedelta] = {
    "5m": timedelta(minutes=5),
    "30m": timedelta(minutes=30),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "3d": timedelta(days=3),
}
# Severity, burn rate, long window, short window: the worst first.
CONDITIONS: tuple[tuple[Severity, float, str, str], ...] = (
    ("critical", 14.4, "1h", "5m"),
    ("critical", 6.0, "6h", "30m"),
    ("warning", 1.0, "3d", "6h"),
)
MISSED_DAYS_ALLOWED = 0.05  # of the days of a level's error budget
FEWEST_BAD = 5  # events, for a page
FEWEST = 30  # values of a mean, or priced requests
TAIL = 0.025  # beyond each end of an interval
Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Status:
    """How a target stood at the end of a day."""

    day: date
    target: Target
    good: float | None
    total: float | None
    value: float | None
    error_budget_left: float | None
    burns: Mapping[str, float | None]
    """Burn rate by window (WINDOWS)."""
    remark: str | None
    """Why there is no value."""

    @property
    def met(self) -> bool | None:
        """Whether the value is on the right side; None without one."""
        return None if self.value is None else self.target.met(self.value)


@dataclass(frozen=True, slots=True)
class Burn:
    """How fast the error budget of an accepted target burns now, and what that calls for."""

    target: Target
    rates: Mapping[str, float | None]
    """Burn rate by window; None: no data."""
    events: Mapping[str, int]
    """How many events each rests on."""
    severity: Severity | None
    """None: nothing to tell."""
    window: str | None
    """The long window that calls for it."""

    @property
    def words(self) -> str:
        """What burns, for a message."""
        if self.window is None:
            return f"{self.target.name}: nothing burns"
        rate = f"{self.rates[self.window]:.3g}"
        if self.target.kind == "level":
            return f"{self.target.name} ({self.target.words}): missed by a factor of {rate} over {self.window}"
        budget = f"its budget of {self.target.budget_days} days burns at {rate} times the even pace"
        return f"{self.target.name} ({self.target.words}): {budget} over {self.window}"


def evaluate(connection: Connection, day: date, now: datetime) -> list[Status]:
    """How every target stands at the end of ``day`` (at ``now`` while it lasts), accepted or not. Writes nothing."""
    known = targets.listed(connection)
    end = min(midnight(day + timedelta(days=1)), now)
    with connection, connection.cursor() as cursor:
        return [_status(cursor, target, day, end, now) for target in known]


def status(connection: Connection, day: date, now: datetime) -> list[Status]:
    """As ``evaluate``, and replaces the day in ``metamon.slo_status``."""
    from psycopg2.extras import execute_values

    found = evaluate(connection, day, now)
    burns = ", ".join(f"burn_{name}" for name in WINDOWS)
    columns = f"day, target, good, total, value, met, error_budget_left, {burns}, remark, computed_at"
    rows = [
        (
            one.day,
            one.target.name,
            one.good,
            one.total,
            one.value,
            one.met,
            one.error_budget_left,
            *(one.burns[name] for name in WINDOWS),
            one.remark,
            now,
        )
        for one in found
    ]
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"slo_status:{day}",))
        cursor.execute("DELETE FROM metamon.slo_status WHERE day = %s", (day,))
        execute_values(cursor, f"INSERT INTO metamon.slo_status ({columns}) VALUES %s", rows)
    return found


def last_status(connection: Connection) -> dict[str, dict[str, Any]]:
    """How each target stood on the last day for which it was computed, by name."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT ON (target) target, day, value, met, error_budget_left, remark FROM metamon.slo_status"
            " WHERE day > (SELECT max(day) FROM metamon.slo_status) - 30 ORDER BY target, day DESC"
        )
        names = ("day", "value", "met", "budget_left", "remark")
        return {target: dict(zip(names, row, strict=True)) for target, *row in cursor.fetchall()}


def burn_rates(connection: Connection, now: datetime) -> list[Burn]:
    """How the accepted targets burn at ``now``: what rule ALR-32 alerts on.

    Each window ends now and begins with a whole five-minute bucket, so it is up to five minutes longer than its name says.
    """
    accepted = targets.listed(connection, accepted=True)
    with connection, connection.cursor() as cursor:
        return [_burn(target, _windows(cursor, target, now, now)) for target in accepted]


# --- days ---------------------------------------------------------------------------------------------------


def _status(cursor: Cursor, target: Target, day: date, end: datetime, now: datetime) -> Status:
    window = _sums(cursor, target, [_span(day, target.window_days)], now)[0]
    burns = {name: _rate(target, sums, seconds) for name, (sums, seconds) in _windows(cursor, target, end, now).items()}
    value = _value(target, window)
    if target.metric.endswith(CHANGE):
        value = _changes(cursor, target, [day], now)[0]
    if value is None:
        return Status(day, target, None, None, None, None, burns, _why_nothing(target))
    good = _good(target, window) if target.kind == "share" else None
    total = window.denominator if target.kind == "share" else float(window.n)
    return Status(day, target, good, total, value, _budget_left(cursor, target, day, value, now), burns, None)


def _span(day: date, days: int) -> tuple[date, date]:
    return day - timedelta(days=days - 1), day


def _sums(cursor: Cursor, target: Target, spans: Sequence[tuple[date, date]], now: datetime) -> list[Sums]:
    dimension = (target.dimension, target.dimension_value)
    return of_days(cursor, target.metric.removesuffix(CHANGE), dimension, spans, now)


def _changes(cursor: Cursor, target: Target, days: Sequence[date], now: datetime) -> list[float | None]:
    """By how much the metric changed from the window before to that of each day."""
    back = timedelta(days=target.window_days)
    here = _sums(cursor, target, [_span(day, target.window_days) for day in days], now)
    before = _sums(cursor, target, [_span(day - back, target.window_days) for day in days], now)
    pairs = [(now_.ratio, then.ratio) for now_, then in zip(here, before, strict=True)]
    return [None if a is None or b is None else a - b for a, b in pairs]


def _value(target: Target, sums: Sums) -> float | None:
    return sums.numerator if target.kind == "amount" else sums.ratio


def _good(target: Target, sums: Sums) -> float | None:
    if sums.numerator is None or not sums.denominator:
        return None
    return sums.numerator if target.direction == "at_least" else sums.denominator - sums.numerator


def _bad_share(target: Target, sums: Sums) -> float | None:
    good = _good(target, sums)
    return None if good is None or not sums.denominator else 1 - good / sums.denominator


def _budget_left(cursor: Cursor, target: Target, day: date, value: float, now: datetime) -> float | None:
    if target.kind == "share":
        bad = _bad_share(target, _sums(cursor, target, [_span(day, target.budget_days)], now)[0])
        return None if bad is None else _left(bad, target.allowed)
    if target.kind == "amount":
        return _left(value, target.objective) if target.direction == "at_most" else None
    days = [day - timedelta(days=back) for back in range(target.budget_days)]
    if target.metric.endswith(CHANGE):
        values = _changes(cursor, target, days, now)
    else:
        values = [sums.ratio for sums in _sums(cursor, target, [_span(one, target.window_days) for one in days], now)]
    told = [one for one in values if one is not None]
    return _left(sum(not target.met(one) for one in told) / len(told), MISSED_DAYS_ALLOWED)


def _left(used: float, allowed: float) -> float:
    """The share of a budget that is left. Where nothing is allowed it is whole or gone."""
    if allowed <= 0:
        return 1.0 if used <= 0 else 0.0
    return 1 - used / allowed


def _why_nothing(target: Target) -> str:
    metric = BY_NAME.get(target.metric.removesuffix(CHANGE))
    if metric is not None:
        return "no data in these days" + (f"; it needs {metric.needs}" if metric.needs else "")
    return "no data in these days: nothing has measured it"


# --- minutes ------------------------------------------------------------------------------------------------


def _windows(cursor: Cursor, target: Target, end: datetime, now: datetime) -> dict[str, tuple[Sums | None, float]]:
    """What each window before ``end`` holds, and its seconds."""
    spans = {name: (bucket_of(end - length), end) for name, length in WINDOWS.items()}
    found = of_minutes(cursor, target.metric, (target.dimension, target.dimension_value), list(spans.values()), now)
    sums: Sequence[Sums | None] = found if found is not None else [None] * len(spans)
    return {name: (one, (span[1] - span[0]).total_seconds()) for (name, span), one in zip(spans.items(), sums, strict=True)}


def _rate(target: Target, sums: Sums | None, seconds: float) -> float | None:
    """The burn rate; None where it is not known, or nothing may burn at all."""
    if sums is None:
        return None
    if target.kind == "share":
        bad = _bad_share(target, sums)
        return None if bad is None or target.allowed <= 0 else bad / target.allowed
    value = _value(target, sums)
    if value is None:
        return None
    if target.kind == "amount":
        even = target.objective * seconds / timedelta(days=target.window_days).total_seconds()
        return value / even if target.direction == "at_most" and even > 0 else None
    return _against(target, value)


def _against(target: Target, level: float) -> float | None:
    above, below = (level, target.objective) if target.direction == "at_most" else (target.objective, level)
    return above / below if below > 0 and above >= 0 else None


def _burn(target: Target, windows: Mapping[str, tuple[Sums | None, float]]) -> Burn:
    rates = {name: _rate(target, *window) for name, window in windows.items()}
    events = {name: sums.n if sums is not None else 0 for name, (sums, _) in windows.items()}
    for severity, threshold, long, short in CONDITIONS:
        rate, soon, sums = rates[long], rates[short], windows[long][0]
        if rate is None or soon is None or sums is None or min(rate, soon) <= threshold:
            continue
        if _is_clear(target, sums, rate, threshold, FEWEST_BAD if severity == "critical" else 1):
            return Burn(target, rates, events, severity, long)
    return Burn(target, rates, events, None, None)


def _is_clear(target: Target, sums: Sums, rate: float, threshold: float, fewest_bad: int) -> bool:
    """Whether chance alone would hardly give such a rate."""
    if target.kind == "share":
        good = _good(target, sums)
        assert good is not None
        assert sums.denominator is not None
        bad = round(sums.denominator - good)
        return bad >= fewest_bad and exact.at_least(bad, round(sums.denominator), threshold * target.allowed) <= TAIL
    quantile = BY_NAME[target.metric].quantile if target.metric in BY_NAME else None
    if sums.n < (FEWEST if quantile is None else 10 / (1 - quantile)):
        return False
    error, mean = sums.error(), sums.ratio
    if target.kind == "amount" or error is None or mean is None:
        return rate > threshold
    bound = mean - Z * error if target.direction == "at_most" else mean + Z * error
    against = _against(target, bound)
    return against is not None and against > threshold
