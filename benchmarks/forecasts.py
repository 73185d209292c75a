"""How good, how honest and how fast forecasts are: against last week's values, and beside statsmodels' Holt–Winters.

Every daily series is forecast once a week over its last fifth (at most 20 weeks, with two weeks left), one and two weeks
ahead. A series' ratio is the mean absolute error over that of the seasonal naive forecast at the same origins; skill is one
minus the mean ratio. The real series come from the shared cases (METAMON_SHARED_CASES, or ../shared/cases) where those are
present; the others are drawn from the daily designs of ``_forecast_coverage``.
"""

from __future__ import annotations

import csv
import sys
import warnings
from dataclasses import dataclass

import numpy as np
from _common import Report, Stopwatch, Target, arguments, reference_cases
from _forecast_coverage import DESIGNS, HORIZON, LEVEL, Array, coverage

from metamon_assets.statistics.forecast import forecast

SEASON, AHEAD = 7, (7, 14)
DAYS = 800  # of a drawn series
KINDS = ("real", "drawn")
OURS, PEER, NAIVE = "forecast", "statsmodels", "seasonal naive"
TARGETS = (
    *(Target(f"{OURS}: skill on {kind} series, {days} days", "", 0.1) for kind in KINDS for days in AHEAD),
    *(Target(f"{PEER}: skill on {kind} series, {days} days", "") for kind in KINDS for days in AHEAD),
    *(Target(f"{OURS}: worst of the {kind} series", f"× {NAIVE}", 1.02, at_least=False) for kind in KINDS),
    *(Target(f"{PEER}: worst of the {kind} series", f"× {NAIVE}") for kind in KINDS),
    *(Target(f"80 % intervals on {kind} series", "", 0.75, upper=0.85) for kind in KINDS),
    *(Target(f"80 % intervals: {name}", "", 0.75, upper=0.85) for name in DESIGNS),
    Target(f"{OURS}: time", "ms", 300, at_least=False),
    Target(f"{PEER}: time", "ms"),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out on one series: error over the naive one by (who, days ahead), the share in the intervals, ms by who."""

    ratios: dict[tuple[str, int], float]
    held: float
    milliseconds: dict[str, float]


def main() -> int:
    options = arguments(__doc__ or "").parse_args()
    report = Report("forecasts", TARGETS, options)
    rng = np.random.default_rng(options.seed)
    origins, copies, replicates = (6, 1, 60) if options.quick else (20, 3, 200)
    daily = {name: design for name, design in DESIGNS.items() if design.season == SEASON and design.known >= 200}
    drawn = {f"{name}, no. {i + 1}": design.draw(rng, DAYS) for name, design in daily.items() for i in range(copies)}
    milliseconds: dict[str, list[float]] = {OURS: [], PEER: []}
    for kind, series in zip(KINDS, (_real_series(), drawn), strict=True):
        if not series:
            print(f"{kind} series: none here, left out")
            continue
        measured = {name: _measure(values, origins) for name, values in series.items()}
        _record(report, kind, measured)
        for who, times in milliseconds.items():
            times += [one.milliseconds[who] for one in measured.values()]
    for name, share in coverage(rng, replicates).items():
        report.record(f"80 % intervals: {name}", share, f"{replicates} series, {HORIZON} steps")
    for who, times in milliseconds.items():
        report.record(f"{who}: time", times, f"{HORIZON} days ahead, mean of each series")
    return report.finish()


def _real_series() -> dict[str, Array]:
    result = {}
    for path in sorted((reference_cases("forecast") / "daily").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            result[path.stem] = np.array([float(row["value"]) for row in csv.DictReader(file)])
    return result


def _measure(values: Array, origins: int) -> Measured:
    """Forecasts from ``origins`` weeks' ends at most, spread over the last fifth of a series."""
    first = max(28, len(values) - max(HORIZON + SEASON, min(len(values) // 5, 140)))
    weekly = np.arange(first, len(values) - HORIZON + 1, SEASON)
    chosen = weekly[np.unique(np.linspace(0, len(weekly) - 1, origins).astype(int))]
    errors: dict[str, list[Array]] = {OURS: [], PEER: [], NAIVE: []}
    seconds, held = {OURS: 0.0, PEER: 0.0}, []
    for origin in chosen:
        known, came = values[:origin], values[origin : origin + HORIZON]
        with Stopwatch() as watch:
            result = forecast(known, season=SEASON, horizon=HORIZON, level=LEVEL)
        seconds[OURS] += watch.seconds
        with Stopwatch() as watch:
            peer = _holt_winters(known)
        seconds[PEER] += watch.seconds
        held.append((result.lower <= came) & (came <= result.upper))
        for who, mean in ((OURS, result.mean), (PEER, peer), (NAIVE, np.resize(known[-SEASON:], HORIZON))):
            errors[who].append(np.abs(came - mean))
    mean_error = {(who, days): float(np.mean(np.array(rows)[:, :days])) for who, rows in errors.items() for days in AHEAD}
    ratios = {(who, days): error / mean_error[NAIVE, days] for (who, days), error in mean_error.items()}
    return Measured(ratios, float(np.mean(held)), {who: 1e3 * total / len(chosen) for who, total in seconds.items()})


def _holt_winters(known: Array) -> Array:
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about optima that are not quite reached
        model = ExponentialSmoothing(known, trend="add", damped_trend=True, seasonal="add", seasonal_periods=SEASON)
        return np.asarray(model.fit().forecast(HORIZON))


def _record(report: Report, kind: str, measured: dict[str, Measured]) -> None:
    for who in (OURS, PEER):
        for days in AHEAD:
            skill = 1 - float(np.mean([one.ratios[who, days] for one in measured.values()]))
            report.record(f"{who}: skill on {kind} series, {days} days", skill, f"{len(measured)} series")
        worst, days, name = max((one.ratios[who, days], days, name) for name, one in measured.items() for days in AHEAD)
        report.record(f"{who}: worst of the {kind} series", worst, f"{name}, {days} days")
    held = float(np.mean([one.held for one in measured.values()]))
    report.record(f"80 % intervals on {kind} series", held, f"{len(measured)} series")


if __name__ == "__main__":
    sys.exit(main())
