"""What got better and worse: the main metrics of some days against the days before, with intervals.

Requests of one conversation resemble each other, so conversations are the units, or users, where at least half of the requests name
theirs; else each request counts as one, and the letter says so. Several metrics are looked at together, so their p-values are corrected
for being many (false discovery rate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Literal

from metamon_assets import words
from metamon_assets.alerts.rules import figure
from metamon_assets.metrics.registry import BY_NAME, HIGHER

if TYPE_CHECKING:
    from metamon_assets.statistics.comparison import Comparison
    from metamon_assets.statistics.samples import Arm
    from metamon_assets.warehouse.connection import Cursor

Span = tuple[date, date]  # first and last day
Unit = Literal["conversation", "user", "request"]
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Compared:
    """A metric and how it is taken from the sums of a unit; ``squares``: of requests, None where the metric is a share of them."""

    metric: str
    numerator: str
    denominator: str
    squares: str | None = None
    relative: bool = False


COMPARED = (
    Compared("error_rate", "errors", "successes + errors"),
    Compared("latency_mean", "latency_sum", "latency_count", "latency_sum_squares", relative=True),
    Compared("cost_per_request", "total_cost", "priced_requests", "total_cost_sum_squares", relative=True),
    Compared("quality_mean", "quality_sum", "quality_count", "quality_sum_squares"),
    Compared("task_completion_rate", "tasks_completed", "tasks_known"),
)


@dataclass(frozen=True, slots=True)
class Movement:
    """How a metric moved. ``verdict``: better or worse where it is clear, else unclear."""

    metric: str
    unit: Unit
    found: Comparison
    verdict: Literal["better", "worse", "unclear"]
    relative: bool

    def words(self) -> str:
        """The move with its interval."""
        before, after = (
            figure(value, BY_NAME[self.metric].unit, self.metric) for value in (self.found.control_estimate, self.found.treatment_estimate)
        )
        effect, low, high = (self._change(value) for value in (self.found.effect, self.found.ci_lower, self.found.ci_upper))
        return f"{self.metric} {before} → {after}: {effect} (95% interval {low} to {high})"

    def _change(self, value: float) -> str:
        if self.relative:
            return words.change(value)
        return f"{value:+.3f}" if self.metric == "quality_mean" else f"{100 * value:+.2g} points"


def moved(cursor: Cursor, before: Span, after: Span) -> list[Movement]:
    """The metrics of both spans that can be compared, in the order of COMPARED."""
    import numpy as np

    from metamon_assets.statistics.significance import adjust_p_values, compare

    unit = _unit(cursor, before, after)
    pairs = zip(COMPARED, _arms(cursor, unit, before), _arms(cursor, unit, after), strict=True)
    found = [(one, compare(control, treatment, difference="relative" if one.relative else "absolute")) for one, control, treatment in pairs]
    found = [(one, result) for one, result in found if result.status == "ok" and np.isfinite(result.p_value)]
    if not found:
        return []
    adjusted = adjust_p_values([result.p_value for _, result in found])
    return [
        Movement(one.metric, unit, result, _verdict(one.metric, result.effect, clear=p < ALPHA), one.relative)
        for (one, result), p in zip(found, adjusted, strict=True)
    ]


def _verdict(metric: str, effect: float, *, clear: bool) -> Literal["better", "worse", "unclear"]:
    if not clear or not effect:
        return "unclear"
    return "better" if (effect > 0) == (BY_NAME[metric].direction == HIGHER) else "worse"


def _unit(cursor: Cursor, before: Span, after: Span) -> Unit:
    """The unit that at least half of the requests of both spans name."""
    named: Sequence[Unit] = ("conversation", "user")
    for unit in named:
        if all(_named_share(cursor, unit, span) >= 0.5 for span in (before, after)):
            return unit
    return "request"


def _named_share(cursor: Cursor, unit: Unit, span: Span) -> float:
    cursor.execute(
        "SELECT coalesce("
        "(SELECT sum(requests) FROM metamon.unit_daily WHERE unit_type = %(unit)s AND day BETWEEN %(first)s AND %(last)s) /"
        " nullif((SELECT sum(requests) FROM metamon.daily_metrics"
        " WHERE dimension = 'overall' AND day BETWEEN %(first)s AND %(last)s), 0), 0)::float8",
        {"unit": unit, "first": span[0], "last": span[1]},
    )
    (share,) = cursor.fetchone() or (0.0,)
    return float(share)


def _arms(cursor: Cursor, unit: Unit, span: Span) -> list[Arm]:
    from metamon_assets.statistics.samples import SampleMean, SampleProportion, SampleRatio

    if unit == "request":
        sums = _request_sums(cursor, span)
        return [
            SampleProportion(n, total) if one.squares is None else SampleMean(n, total, squares)
            for one, (n, total, squares) in zip(COMPARED, sums, strict=True)
        ]
    return [SampleRatio(*row) for row in _unit_sums(cursor, unit, span)]


def _request_sums(cursor: Cursor, span: Span) -> list[tuple[float, float, float]]:
    parts = ", ".join(f"sum({one.denominator})::float8, sum({one.numerator})::float8, {_squares(one)}" for one in COMPARED)
    cursor.execute(f"SELECT {parts} FROM metamon.daily_metrics WHERE dimension = 'overall' AND day BETWEEN %s AND %s", span)
    row = [value or 0.0 for value in cursor.fetchone() or ()]
    return [(row[3 * place], row[3 * place + 1], row[3 * place + 2]) for place in range(len(COMPARED))]


def _squares(one: Compared) -> str:
    return "0::float8" if one.squares is None else f"sum({one.squares})::float8"


def _unit_sums(cursor: Cursor, unit: Unit, span: Span) -> list[list[float]]:
    """For each metric the sums of SampleRatio over units that have it."""
    own = ", ".join(
        f"sum({one.numerator})::float8 AS x{place}, nullif(sum({one.denominator}), 0)::float8 AS n{place}"
        for place, one in enumerate(COMPARED)
    )
    sums = ", ".join(
        f"count(n{p})::float8, sum(x{p}) FILTER (WHERE n{p} > 0), sum(x{p} * x{p}) FILTER (WHERE n{p} > 0), sum(n{p}), sum(n{p} * n{p}),"
        f" sum(x{p} * n{p})"
        for p in range(len(COMPARED))
    )
    cursor.execute(
        f"SELECT {sums} FROM (SELECT {own} FROM metamon.unit_daily WHERE unit_type = %s AND day BETWEEN %s AND %s"
        " GROUP BY tenant_id, unit_id) AS units",
        (unit, *span),
    )
    row = [value or 0.0 for value in cursor.fetchone() or ()]
    return [row[6 * place : 6 * place + 6] for place in range(len(COMPARED))]
