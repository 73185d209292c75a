"""How fast 2,000 comparisons of two means are (20 metrics × 100 segments), from sums and from a million raw rows.

Beside ``compare_many`` stand, in the same run, what one would write with SciPy (``ttest_ind`` cell by cell, on the cells' raw
values and from moments) and with statsmodels (``CompareMeans``), measured on some of the cells and scaled up; and the largest
difference of a p-value from SciPy's over all cells.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from _common import Report, Stopwatch, Target, arguments
from scipy import stats

from metamon_assets.statistics.significance import compare_many, sums_by_segment

METRICS, SEGMENTS = 20, 100
TARGETS = (
    Target("2,000 comparisons from sums", "ms", 30, at_least=False),
    Target("2,000 comparisons from raw rows", "s", 1.0, at_least=False),
    Target("largest difference of a p-value from SciPy's", "", 1e-10, at_least=False),
    Target("SciPy, a loop over raw values", "× as long"),
    Target("SciPy, a loop over moments", "× as long"),
    Target("statsmodels, a loop over raw values", "× as long"),
)


def main() -> int:
    options = arguments(__doc__ or "").parse_args()
    report = Report("comparisons", TARGETS, options)
    rows, rounds = (200_000, 3) if options.quick else (1_000_000, 7)
    rng = np.random.default_rng(options.seed)
    values = pd.DataFrame(rng.lognormal(size=(rows, METRICS)), columns=[f"metric_{number}" for number in range(METRICS)])
    segments = pd.Series(pd.Categorical.from_codes(rng.integers(0, SEGMENTS, rows), [f"segment_{number}" for number in range(SEGMENTS)]))
    treated = rng.random(rows) < 0.1
    arms = [(values[side].reset_index(drop=True), segments[side].reset_index(drop=True)) for side in (~treated, treated)]
    sums = [sums_by_segment(*arm) for arm in arms]

    def from_rows() -> pd.DataFrame:
        return compare_many(*(sums_by_segment(*arm) for arm in arms))

    from_sums = [seconds(lambda: compare_many(sums[0], sums[1])) for _ in range(3 * rounds)]
    raw = [seconds(from_rows) for _ in range(rounds)]
    report.record("2,000 comparisons from sums", [1000 * value for value in from_sums])
    report.record("2,000 comparisons from raw rows", raw, f"{rows:,} rows of {METRICS} metrics")
    cells = Cells(arms)
    theirs = np.array([stats.ttest_ind(*cells.raw(cell), equal_var=False).pvalue for cell in range(METRICS * SEGMENTS)])
    ours = from_rows()["p_value"].to_numpy()
    report.record("largest difference of a p-value from SciPy's", float(np.abs(ours - theirs).max()), f"{ours.size:,} cells")
    some = range(0, METRICS * SEGMENTS, 20)
    moments = {cell: cells.moments(cell) for cell in some}
    loops: dict[str, tuple[Callable[[int], object], float, str]] = {
        "SciPy, a loop over raw values": (cells.scipy, min(raw), "with intervals"),
        "SciPy, a loop over moments": (
            lambda cell: stats.ttest_ind_from_stats(*moments[cell], equal_var=False),
            min(from_sums),
            "p-value only",
        ),
        "statsmodels, a loop over raw values": (cells.statsmodels, min(raw), "with intervals"),
    }
    for name, (one, reference, what) in loops.items():
        taken = [seconds(lambda: [one(cell) for cell in some]) * METRICS * SEGMENTS / len(some) / reference for _ in range(rounds)]  # noqa: B023
        report.record(name, taken, f"{what}; every twentieth cell, scaled; sorting rows into cells not included")
    return report.finish()


def seconds(call: Callable[[], object]) -> float:
    with Stopwatch() as watch:
        call()
    return watch.seconds


class Cells:
    """The raw values of each cell, metric by metric, found by sorting once."""

    def __init__(self, arms: list[tuple[pd.DataFrame, pd.Series]]) -> None:
        self.arms = []
        for values, segments in arms:
            codes = segments.cat.codes.to_numpy()
            order = np.argsort(codes, kind="stable")
            self.arms.append((values.to_numpy()[order], np.searchsorted(codes[order], np.arange(SEGMENTS + 1))))

    def raw(self, cell: int) -> list[np.ndarray]:
        metric, segment = divmod(cell, SEGMENTS)
        return [values[edges[segment] : edges[segment + 1], metric] for values, edges in reversed(self.arms)]

    def moments(self, cell: int) -> list[float]:
        return [figure for values in self.raw(cell) for figure in (values.mean(), values.std(ddof=1), values.size)]

    def scipy(self, cell: int) -> object:
        return stats.ttest_ind(*self.raw(cell), equal_var=False).confidence_interval()

    def scipy_from(self, moments: list[float]) -> object:
        return stats.ttest_ind_from_stats(*moments, equal_var=False)

    def statsmodels(self, cell: int) -> object:
        from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

        both = CompareMeans(*(DescrStatsW(values) for values in self.raw(cell)))
        return both.ttest_ind(usevar="unequal"), both.tconfint_diff(usevar="unequal")


if __name__ == "__main__":
    sys.exit(main())
