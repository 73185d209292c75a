"""Expected numbers of runs: the rhythm of days and weeks, wherever the people are, is no incident; an outage or a surge is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from metamon_assets.reports.history import History
from metamon_assets.reports.past_incidents import Search
from metamon_assets.reports.volume import calendar, volume_series
from metamon_assets.statistics import scan

START = datetime(2026, 3, 3, tzinfo=UTC)  # a Tuesday
SERIES = 20  # that a history has some of: a p-value is multiplied by it


def rhythm(days: int, shift: int = 0, weekend: tuple[int, ...] = (5, 6), growth: float = 1.0) -> np.ndarray:
    """Runs expected an hour of people who work by day, ``shift`` hours east of UTC, and little at their weekend."""
    hours = np.arange(24 * days)
    of_day, weekday = (hours + shift) % 24, (START.weekday() + (hours + shift) // 24) % 7
    by_day = 8 + 60 * np.clip(np.sin((of_day - 6) / 24 * 2 * np.pi), 0, None)
    return np.asarray(by_day * np.where(np.isin(weekday, weekend), 0.2, 1.0) * growth ** (hours / len(hours)))


def window_of(runs: np.ndarray, timezone: str = "UTC") -> scan.Window | None:
    history = History(pd.DataFrame(), START, START + timedelta(hours=len(runs)), (), timezone=timezone)
    return scan.best_window(volume_series(runs.astype(np.float64), history, np.zeros(len(runs), dtype=bool), 1.0))


@pytest.mark.parametrize(
    ("expected", "timezone"),
    [
        (rhythm(4), "UTC"),
        (rhythm(4, 9), "UTC"),
        (rhythm(9, 9), "UTC"),
        (rhythm(9, -8), "America/Los_Angeles"),
        (rhythm(14, 9), "UTC"),
        (rhythm(14, -8), "UTC"),
        (rhythm(14, 2, (4, 5)), "UTC"),
        (rhythm(14, growth=3.0), "UTC"),
        (rhythm(28, 12), "Pacific/Auckland"),
    ],
    ids=["four days", "four days east", "nine days east", "nine days west", "east", "west", "friday and saturday", "growth", "four weeks"],
)
def test_a_rhythm_is_no_incident(expected: np.ndarray, timezone: str) -> None:
    rng = np.random.default_rng(11)
    found = [window_of(rng.poisson(expected), timezone) for _ in range(30)]
    assert sum(window is not None and window.p_value * SERIES <= 0.01 for window in found) <= 2


@pytest.mark.parametrize(("days", "shift", "factor"), [(4, 0, 0.0), (9, 0, 0.0), (9, 0, 4.0), (14, 9, 0.0), (14, 9, 4.0)])
def test_an_outage_and_a_surge_by_day_are_found(days: int, shift: int, factor: float) -> None:
    expected = rhythm(days, shift)
    at = slice(2 * 24 + 9 - shift, 2 * 24 + 15 - shift)  # on a Thursday
    expected[at] *= factor
    window = window_of(np.random.default_rng(5).poisson(expected))
    assert window is not None
    assert window.p_value * SERIES <= 0.01
    assert abs(window.start - at.start) <= 2
    assert abs(window.end - at.stop) <= 2


def test_the_calendar_goes_by_the_clocks_of_the_time_zone() -> None:
    of_day, weekday = calendar(datetime(2026, 3, 28, 23, tzinfo=UTC), 4, "Europe/Berlin")  # the night in which clocks are put forward
    assert of_day.tolist() == [0, 1, 3, 4]
    assert set(weekday.tolist()) == {6}


def test_failures_of_whole_conversations_are_not_taken_for_many(runs: int = 6000, size: int = 6) -> None:
    claims = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        conversation = np.arange(runs) // size
        starts = np.sort(rng.uniform(0, 336, runs // size))[conversation]
        failed = rng.random(runs) < rng.beta(0.1, 3, runs // size)[conversation]  # a conversation fails nearly as a whole, or not
        none, unknown = pd.Categorical([None] * runs), np.full(runs, np.nan)
        frame = pd.DataFrame({"hour": starts, "failed": failed.astype(float), "unit": conversation.astype(float)})
        frame = frame.assign(agent=none, error_type=none)
        for name in ("unfinished", "degraded", "completed", "cached", "latency", "first_token", "cost", "quality"):
            frame[name] = unknown
        tools = pd.DataFrame({name: [] for name in ("hour", "tool", "n", "failed")})
        search = Search(History(frame, START, START + timedelta(days=14), ()), tools)
        assert search.alike["failed"] > 1.5
        claims += any(incident.measure.key == "failed" for incident in search.run().incidents)
    assert claims == 0
