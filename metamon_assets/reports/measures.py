"""What is measured of runs, in one table, and how the runs before and after a moment compare in it.

Here belong the measures that incidents, changes and readiness share: which column, whether more is bad, from what size a move is
worth a sentence, and the comparison with conversations (or users) as units where runs have them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metamon_assets import words
from metamon_assets.reports.findings import Estimate, Unit
from metamon_assets.statistics.scan import Kind, normal_scores
from metamon_assets.statistics.significance import Comparison, SampleProportion, SampleRatio, compare, compare_heavy_tailed

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
AGENT_RUNS = 100  # runs from which on an agent's latency and cost are ranked among its own


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure of runs. ``sign``: 1 when more is worse, −1 when less is, 0 when neither is (volume).

    ``least``: the smallest move of interest, as a difference of shares, of normal scores (a score of .25 is a tenth of all
    runs), or the logarithm of a factor. ``subject`` and ``noun`` are what sentences say.
    """

    key: str
    kind: Kind
    sign: int
    unit: Unit
    least: float
    noun: str
    bad: str = "true"
    order: str = "start_time"


FAILED = Measure("failed", "share", 1, "share", 0.01, "error rate", "status = 'error'")
VOLUME = Measure("volume", "volume", 0, "count", math.log(1.5), "number of runs")
MEASURES = (
    FAILED,
    Measure("unfinished", "share", 1, "share", 0.01, "share of runs that did not end", "status IN ('pending', 'abandoned')"),
    Measure("degraded", "share", 1, "share", 0.02, "share of degraded answers", "degraded"),
    Measure("completed", "share", -1, "share", 0.02, "task completion", "task_completed IS FALSE"),
    Measure("cached", "share", -1, "share", 0.05, "cache hit rate", "cache_hit IS FALSE"),
    Measure("latency", "score", 1, "seconds", 0.25, "latency", "latency_seconds IS NOT NULL", "latency_seconds DESC"),
    Measure(
        "first_token",
        "score",
        1,
        "seconds",
        0.25,
        "time to first token",
        "time_to_first_token_seconds IS NOT NULL",
        "time_to_first_token_seconds DESC",
    ),
    Measure("cost", "score", 1, "dollars", 0.25, "cost per run", "total_cost IS NOT NULL", "total_cost DESC"),
    Measure("quality", "score", -1, "share", 0.25, "quality score", "quality_score IS NOT NULL", "quality_score"),
)
BY_KEY = {measure.key: measure for measure in (*MEASURES, VOLUME)}


def scanned(measure: Measure, runs: pd.DataFrame) -> Floats:
    """What the scan adds up of each run, shape (runs,): 0 or 1, or a normal score among the runs of the same agent; NaN unknown."""
    values = runs[measure.key].to_numpy(dtype=np.float64)
    if measure.kind == "share":
        return values
    agents = runs["agent"].cat.codes.to_numpy()
    scores = np.full(len(values), math.nan)
    rest = np.ones(len(values), dtype=bool)
    for agent in np.unique(agents):
        own = agents == agent
        if np.isfinite(values[own]).sum() >= AGENT_RUNS:
            scores[own] = normal_scores(values[own])
            rest &= ~own
    scores[rest] = normal_scores(values[rest])
    return scores


def shown(measure: Measure, value: float) -> str:
    """A value of the measure for people."""
    if not math.isfinite(value):
        return "unknown"
    if measure.key == "quality":
        return f"{value:.3f}"
    if measure.unit == "seconds":
        return words.seconds(value)
    return words.dollars(value) if measure.unit == "dollars" else words.percent(value)


def typical(measure: Measure, runs: pd.DataFrame) -> float:
    """The figure that sentences give: a share, the mean cost or quality, the median latency; NaN without runs."""
    values = runs[measure.key].to_numpy(dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return math.nan
    return float(np.median(values)) if measure.unit == "seconds" else float(values.mean())


def effect(measure: Measure, before: pd.DataFrame, after: pd.DataFrame) -> Comparison:
    """After against before: a difference of shares or of quality; for latency and cost the ratio of geometric means.

    The units are conversations, or users, where at least half of the runs name theirs, else runs. Shares keep the score
    test, which holds for few failures, with as many runs as they are worth when those of one unit are alike.
    """
    if measure.unit in ("seconds", "dollars"):
        arms = [_by_unit(frame, measure.key, logarithmic=True) for frame in (before, after)]
        return compare_heavy_tailed(*(np.exp(total / n) for total, n in arms))
    (x_before, n_before), (x_after, n_after) = (_by_unit(frame, measure.key) for frame in (before, after))
    if measure.kind != "share":
        return compare(SampleRatio.from_values(x_before, n_before), SampleRatio.from_values(x_after, n_after))
    worth = 1 / _design_effect(np.concatenate([x_before, x_after]), np.concatenate([n_before, n_after]))
    return compare(
        SampleProportion(worth * n_before.sum(), worth * x_before.sum()), SampleProportion(worth * n_after.sum(), worth * x_after.sum())
    )


def estimate(measure: Measure, found: Comparison) -> Estimate:
    """A comparison as a finding carries it: shares and quality as differences, latency and cost as ratios."""
    unit: Unit = "ratio" if measure.unit in ("seconds", "dollars") else "share"
    low, high = (bound if math.isfinite(bound) else None for bound in (found.ci_lower, found.ci_upper))
    return Estimate(found.effect, low, high, unit, int(found.n_control + found.n_treatment), found.p_value)


def moved(measure: Measure, found: Comparison) -> str:
    """The effect with its interval for people."""
    effect, low, high = _figures(measure, found)
    ratio = measure.unit in ("seconds", "dollars")
    unit = "" if ratio or measure.key == "quality" else " points"
    return f"{effect}{unit} (95% interval {low} to {high}{', of the geometric mean' if ratio else ''})"


def interval(measure: Measure, found: Comparison) -> str:
    """The interval alone, for a table: "-12% to +5.8%", or points of a share."""
    _, low, high = _figures(measure, found)
    return f"{low} to {high}"


def _figures(measure: Measure, found: Comparison) -> tuple[str, ...]:
    """Effect and bounds: changes in per cent, in units of quality, or in points of a share."""
    figures = (found.effect, found.ci_lower, found.ci_upper)
    if measure.unit in ("seconds", "dollars"):
        return tuple(words.change(figure - 1) for figure in figures)
    if measure.key == "quality":
        return tuple(f"{figure:+.3f}" for figure in figures)
    return tuple(f"{100 * figure:+.1f}" for figure in figures)


def design_effect(measure: Measure, runs: pd.DataFrame) -> float:
    """How many runs of one conversation count as one, for a share."""
    return _design_effect(*_by_unit(runs, measure.key))


def _design_effect(total: Floats, n: Floats) -> float:
    """By how much the share's variance between units exceeds that of as many independent runs; at least 1."""
    runs, share = n.sum(), total.sum() / max(n.sum(), 1.0)
    binomial = runs * share * (1 - share)
    return max(1.0, float(((total - share * n) ** 2).sum()) / binomial) if binomial > 0 else 1.0


def _by_unit(runs: pd.DataFrame, key: str, *, logarithmic: bool = False) -> tuple[Floats, Floats]:
    """Sums and counts of a measure by unit; logarithms of positive values for latency and cost."""
    values = runs[key].to_numpy(dtype=np.float64)
    units = runs["unit"].to_numpy(dtype=np.float64)
    usable = values > 0 if logarithmic else np.isfinite(values)
    values, units = values[usable], units[usable]
    if logarithmic:
        values = np.log(values)
    known = np.isfinite(units)
    if known.sum() * 2 < len(units) or not len(units):
        return values, np.ones(len(values))
    _, group = np.unique(units[known], return_inverse=True)
    n = np.bincount(group).astype(np.float64)
    return np.concatenate([np.bincount(group, values[known]), values[~known]]), np.concatenate([n, np.ones(int((~known).sum()))])
