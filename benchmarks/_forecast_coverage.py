"""Daily and hourly series as an agent's metrics may look, and how often the intervals of ``forecast`` hold what comes next.

Shared by ``forecasts.py`` and ``calibration.py``. Nothing here is fitted to a real series.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metamon_assets.statistics.forecast import forecast

Array = NDArray[np.float64]
LEVEL, HORIZON = 0.8, 14
WEEK = np.array([0.1, 0.15, 0.12, 0.12, 0.05, -0.22, -0.32])  # logarithms, Monday first


@dataclass(frozen=True, slots=True)
class Design:
    """A kind of series: how it is drawn, how many values of it are known, and its season."""

    draw: Callable[[np.random.Generator, int], Array]
    known: int = 200
    season: int = 7


def coverage(rng: np.random.Generator, replicates: int) -> dict[str, float]:
    """The share of next values that lie in their 80 % interval, for each design.

    A replicate is one new series of a design: what is known of it is forecast 14 steps ahead, and all 14 count. With 200
    replicates the share has a standard error of about .012, since the steps of one series move together. The intervals
    are calibrated when every share lies between .75 and .85.
    """
    return {name: float(np.mean([_held(design, rng) for _ in range(replicates)])) for name, design in DESIGNS.items()}


def _held(design: Design, rng: np.random.Generator) -> float:
    values = design.draw(rng, design.known + HORIZON)
    result = forecast(values[: design.known], season=design.season, horizon=HORIZON, level=LEVEL)
    came = values[design.known :]
    return float(np.mean((result.lower <= came) & (came <= result.upper)))


def autoregressive(rng: np.random.Generator, n: int, coefficient: float, deviation: float) -> Array:
    """A stationary AR(1) series with the given standard deviation (of the steps, for a coefficient of 1)."""
    noise = rng.normal(size=n) * deviation * (np.sqrt(1 - coefficient**2) if coefficient < 1 else 1)
    noise[0] = rng.normal() * deviation
    for i in range(1, n):
        noise[i] += coefficient * noise[i - 1]
    return noise


def _weekly(noise: Callable[[np.random.Generator, int], Array]) -> Callable[[np.random.Generator, int], Array]:
    """A volume with a weekly profile and some noise on its logarithm."""

    def draw(rng: np.random.Generator, n: int) -> Array:
        return np.exp(7 + np.resize(WEEK, n) + noise(rng, n))

    return draw


def _growing(rng: np.random.Generator, n: int) -> Array:
    """An agent in roll-out: the level drifts upwards, and now and then it moves at once."""
    moves = np.cumsum(rng.normal(0.002, 0.012, n) + (rng.random(n) < 0.005) * rng.normal(0, 0.3, n))
    return np.exp(6 + moves + np.resize(WEEK, n) + autoregressive(rng, n, 0.3, 0.1))


def _holidays(rng: np.random.Generator, n: int) -> Array:
    """Quiet days, some of them two in a row, and bursts that fade; more than a year of it, with a yearly season."""
    day = np.arange(n)
    noise = 0.15 * np.sin(2 * np.pi * (day / 365.25 + rng.random())) + autoregressive(rng, n, 0.5, 0.08)
    for start in np.flatnonzero(rng.random(n) < 0.02):
        noise[start : start + rng.integers(1, 3)] -= rng.uniform(0.2, 0.7)
    for start in np.flatnonzero(rng.random(n) < 0.005):
        noise[start:] += rng.uniform(0.2, 1) * 0.6 ** np.arange(n - start)
    return np.exp(8 + np.resize(WEEK, n) + noise)


def _few(rng: np.random.Generator, n: int) -> Array:
    """Counts with zeros: a handful of failures a day."""
    return rng.poisson(np.exp(1 + np.resize(WEEK, n) + autoregressive(rng, n, 0.8, 0.3))).astype(float)


def _hourly(rng: np.random.Generator, n: int) -> Array:
    """Requests by the hour: a daily profile, weaker at weekends."""
    hour = np.arange(n) + rng.integers(168)
    profile = np.sin(2 * np.pi * (hour / 24 - 0.3)) - 0.4 * (hour // 24 % 7 >= 5)
    return np.exp(5 + profile + autoregressive(rng, n, 0.7, 0.15))


def _signed(rng: np.random.Generator, n: int) -> Array:
    """A margin or balance without a season, on both sides of zero."""
    return autoregressive(rng, n, 0.9, 10.0)


DESIGNS = {
    "weekly profile, independent noise": Design(_weekly(lambda rng, n: autoregressive(rng, n, 0.0, 0.1))),
    "weekly profile, AR .5": Design(_weekly(lambda rng, n: autoregressive(rng, n, 0.5, 0.1))),
    "weekly profile, AR .8": Design(_weekly(lambda rng, n: autoregressive(rng, n, 0.8, 0.15))),
    "weekly profile, random walk": Design(_weekly(lambda rng, n: autoregressive(rng, n, 1.0, 0.03) + rng.normal(0, 0.05, n))),
    "weekly profile, heavy tails": Design(_weekly(lambda rng, n: 0.08 * rng.standard_t(3, n))),
    "growth and level shifts": Design(_growing),
    "holidays and bursts, two years": Design(_holidays, known=800),
    "small counts": Design(_few),
    "two months of history": Design(_weekly(lambda rng, n: autoregressive(rng, n, 0.5, 0.1)), known=60),
    "four weeks of history": Design(_weekly(lambda rng, n: autoregressive(rng, n, 0.3, 0.1)), known=28),
    "by the hour": Design(_hourly, known=500, season=24),
    "no season, both signs": Design(_signed, season=1),
}
