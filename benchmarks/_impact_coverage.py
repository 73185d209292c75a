"""How often the interval of ``causal.impact`` holds the true lift, on simulated days.

Every series has 56 days before the change and 14 after it, a weekly pattern, and a lift of 5 on every day after it. Metric and
control share one process (innovations of standard deviation 2) and have one each of their own (1). ``calibration.py``
prints the table; run as a script, this module prints it with the harder designs below the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from metamon_assets.statistics.causal import impact

Array = NDArray[np.float64]
Design = Callable[[np.random.Generator, int], tuple[Array, Array]]  # of so many days: metric without lift, control

WEEK = np.array([0.0, 1.0, 2.0, 1.0, 0.0, -3.0, -4.0])
BEFORE, AFTER, LIFT = 56, 14, 5.0


def coverage(
    rng: np.random.Generator, replicates: int, designs: Mapping[str, Design] | None = None, *, before: int = BEFORE
) -> dict[str, tuple[float, float, float]]:
    """By design, once with its control and once without: coverage of the 95 % interval, its mean width, the RMSE of the effect."""
    results = {}
    for name, design in (DESIGNS if designs is None else designs).items():
        rows: dict[str, list[tuple[bool, float, float]]] = {f"{name}, control": [], f"{name}, no control": []}
        for _ in range(replicates):
            metric, control = design(rng, before + AFTER)
            metric[before:] += LIFT
            for row, controls in zip(rows, (control, None), strict=True):
                result = impact(metric, before, controls=controls)
                rows[row].append((result.ci_lower <= LIFT <= result.ci_upper, result.ci_upper - result.ci_lower, result.effect - LIFT))
        for row, outcomes in rows.items():
            covered, width, error = np.array(outcomes, dtype=np.float64).T
            results[row] = (float(covered.mean()), float(width.mean()), float(np.sqrt(np.mean(error**2))))
    return results


def autoregressive(
    phi: float, *, shared: float = 2.0, growth: float = 0.0, control_growth: float = 0.0, heavy_tails: bool = False
) -> Design:
    """AR(1) processes with the same ``phi``, the shared one with this deviation of innovations, and steady growth per day."""

    def design(rng: np.random.Generator, days: int) -> tuple[Array, Array]:
        def noise(deviation: float) -> Array:
            innovations = rng.standard_t(3, days) / np.sqrt(3) if heavy_tails else rng.normal(0, 1, days)
            innovations[0] /= np.sqrt(1 - phi**2)
            series = deviation * innovations
            for day in range(1, days):
                series[day] += phi * series[day - 1]
            return series

        both = WEEK[np.arange(days) % 7] + noise(shared) + growth * np.arange(days)
        return 100 + both + noise(1), 100 + both + noise(1) + control_growth * np.arange(days)

    return design


def random_walk(step: float, shared: float, own: float) -> Design:
    """A shared random walk and shared white noise, and white noise of each one's own, by standard deviation."""

    def design(rng: np.random.Generator, days: int) -> tuple[Array, Array]:
        both = WEEK[np.arange(days) % 7] + np.cumsum(rng.normal(0, step, days)) + rng.normal(0, shared, days)
        return 100 + both + rng.normal(0, own, days), 100 + both + rng.normal(0, own, days)

    return design


DESIGNS: dict[str, Design] = {"AR .5": autoregressive(0.5), "AR .8": autoregressive(0.8), "random walk": random_walk(0.7, 2.0, 1.0)}
HARDER: dict[str, Design] = {
    "white noise": autoregressive(0.0),
    "AR .95": autoregressive(0.95),
    "AR .5, t(3) noise": autoregressive(0.5, heavy_tails=True),
    "AR .5, growth of 1 a day": autoregressive(0.5, growth=1.0),
    "AR .5, growth of .1 in the control": autoregressive(0.5, control_growth=0.1),
    "AR .5, weak control": autoregressive(0.5, shared=0.5),
    "random walk, little noise": random_walk(1.0, 0.0, 0.3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replicates", type=int, default=1000)
    chosen = parser.parse_args()
    rng = np.random.default_rng(chosen.seed)
    tables = {"": (DESIGNS | HARDER, BEFORE), "28 days before: ": (DESIGNS, 28), "112 days before: ": (DESIGNS, 112)}
    for prefix, (designs, before) in tables.items():
        for name, (covered, width, error) in coverage(rng, chosen.replicates, designs, before=before).items():
            print(f"{prefix + name:<55} coverage {covered:.3f}  width {width:5.1f}  RMSE {error:.2f}", flush=True)


if __name__ == "__main__":
    main()
