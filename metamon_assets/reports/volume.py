"""How many runs an hour of a history leads one to expect: the rhythm of the day and of the week, and steady growth.

Here belongs what is expected; what differs from it is searched by ``past_incidents``. A rhythm must never be told as an incident, so
each hour has several expectations and is held against the nearest: the same hour of the other days of its kind (working day or
weekend, in the report's time zone), and the same hour of the weeks beside it, which knows about other weekends and other time
zones. Where no week lies beside it, hours next to a weekend may belong to it for people elsewhere, and are allowed to.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metamon_assets.reports.measures import VOLUME
from metamon_assets.statistics import scan
from metamon_assets.statistics.scan import Series

if TYPE_CHECKING:
    from datetime import datetime

    from metamon_assets.reports.history import History

Floats = NDArray[np.float64]

DAY, WEEK = 24, 7 * 24
SATURDAY = 5
BESIDE = (0, 4, 5, 6)  # weekdays of which some hours are weekend somewhere in the world
TRIMMED = 5  # days of a kind from which on the largest and the smallest are left out
PAIRS = 7  # days with another a week later, from which on growth is looked at
MEDIAN_ERROR = 1.2533  # standard error of a median, in those of a mean


def expected_volume(runs: Floats, history: History) -> Floats:
    """Runs expected in each hour, shape (hours,), up to a common factor; what was seen where nothing leads one to expect anything."""
    return _expectations(runs, history)[0] if len(runs) else runs


def volume_series(runs: Floats, history: History, left_out: NDArray[np.bool_], alike: float) -> Series:
    """Runs against what is expected, ready to be scanned; hours that are ``left_out`` count as none expected and none seen.

    The nearest expectation follows the runs a little, so what days differ by is measured against each alone, and the better counts.
    """
    nearest, *alone = (np.where(left_out, 0.0, values) for values in _expectations(runs, history))
    seen = np.where(left_out, 0.0, runs)
    of_days = min(scan.wander("volume", scan.cumulated(values), scan.cumulated(seen), DAY) for values in alone)
    return Series("volume", nearest, seen, VOLUME.sign, VOLUME.least, alike, of_days)


def _expectations(runs: Floats, history: History) -> list[Floats]:
    """The nearest expectation, that of the kind of day, and that of the weeks beside where all hours have one."""
    of_day, weekday = calendar(history.start, len(runs), history.timezone)
    level = _level(runs)
    flat, weekend = runs / level, weekday >= SATURDAY
    own, other = (_of_kind(flat, of_day, weekend, same=same) for same in (True, False))
    beside = _weeks_beside(flat)
    lonely = np.isnan(beside) & np.isin(weekday, BESIDE)
    second = np.where(lonely, np.where(np.isnan(other), flat, other), np.where(np.isnan(beside), own, beside))
    nearest = np.where(np.abs(own - flat) <= np.abs(second - flat), own, second)
    least = max(1e-3 * float(runs.mean()), 1e-9)
    alone = [own] if np.isnan(beside).any() else [own, beside]
    return [(values * level).clip(least) for values in (nearest, *alone)]


@lru_cache(maxsize=8)
def calendar(start: datetime, hours: int, timezone: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hour of the day and weekday (Monday 0) of each hour from ``start`` on, by the clocks of a time zone, shape (hours,)."""
    import pandas as pd

    local = pd.date_range(start, periods=hours, freq="h").tz_convert(timezone)
    return local.hour.to_numpy(dtype=np.int64), local.day_of_week.to_numpy(dtype=np.int64)


def _of_kind(flat: Floats, of_day: NDArray[np.int64], weekend: NDArray[np.bool_], *, same: bool) -> Floats:
    """The mean of the same hour (with those beside it) of the days of the same kind, or of the other kind; NaN without such days."""
    expected = np.full(len(flat), np.nan)
    for kind in (False, True):
        chosen = weekend == (kind if same else not kind)
        profile = np.array([_middle(flat[chosen & (of_day == hour)]) for hour in range(DAY)])
        smooth = (np.roll(profile, 1) + 2 * profile + np.roll(profile, -1)) / 4
        own = weekend == kind
        expected[own] = smooth[of_day[own]]
    return expected


def _middle(values: Floats) -> float:
    if not values.size:
        return float("nan")
    return float((np.sort(values)[1:-1] if len(values) >= TRIMMED else values).mean())


def _weeks_beside(flat: Floats) -> Floats:
    """The mean of the same hour, with those beside it, of the week before and the week after; NaN where there is neither."""
    smooth = np.convolve(np.pad(flat, 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid")
    total, count = np.zeros(len(flat)), np.zeros(len(flat))
    if len(flat) > WEEK:
        total[WEEK:] += smooth[:-WEEK]
        total[:-WEEK] += smooth[WEEK:]
        count[WEEK:] += 1
        count[:-WEEK] += 1
    with np.errstate(invalid="ignore"):
        return total / count


def _level(runs: Floats) -> Floats:
    """The steady growth or decline from week to week as a factor of each hour; 1 where there is none for sure."""
    days = runs[: len(runs) // DAY * DAY].reshape(-1, DAY).sum(axis=1)
    ones = np.ones(len(runs))
    if len(days) < PAIRS + 7:
        return ones
    before, after = days[:-7], days[7:]
    filled = (before > 0) & (after > 0)
    if filled.sum() < PAIRS - 1:
        return ones
    steps = np.log(after[filled] / before[filled])
    growth = float(np.median(steps))
    error = MEDIAN_ERROR * float(np.median(np.abs(steps - growth))) / 0.6745 / len(steps) ** 0.5
    if abs(growth) < 2 * error:
        return ones
    return np.exp(growth * (np.arange(len(runs)) - len(runs) / 2) / WEEK)
