"""Which agents, tenants, models, modes, environments and versions fail more, are slower or cost more than the rest.

Each value is compared with all others of its dimension (a version with the other versions of its agent). Users are the
units where traces name them, else conversations, else traces, since what one user does again is no evidence twice.
Latency is compared on the log scale, because a few very slow traces would drown everything else; money by means.
All p-values are corrected together for being many (Holm), and a difference must be large enough to matter in practice.
Differences are told as they are: nothing is adjusted for one slice having another mix of work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from metamon_assets import words
from metamon_assets.reports import runs
from metamon_assets.reports.findings import Content, Context, Estimate, Finding, Table

if TYPE_CHECKING:
    from metamon_assets.statistics.comparison import Comparison

Metric = str  # errors, latency, cost
# dimension: what it is compared within (SQL), its value (SQL)
DIMENSIONS = {
    "agent": ("NULL", "agent_name"),
    "tenant": ("NULL", "tenant_id"),
    "model": ("NULL", runs.MODEL),
    "mode": ("NULL", "mode"),
    "environment": ("NULL", "environment"),
    "version": ("agent_name", "agent_version"),
}
LEAST_UNITS = 30  # on either side; below, a heavy tail makes intervals too short
LEAST_FAILURES = 10  # on both sides together
LARGEST = 30  # values of a dimension that are looked at
LEAST_SHARE = 0.01  # of the traces of its dimension
MORE_ERRORS, TIMES_ERRORS = 0.02, 1.5  # points and times that an error rate must be higher by
TIMES_SLOWER, TIMES_DEARER = 1.25, 1.5
FINDINGS = {"errors": 3, "cost": 2, "latency": 2}  # of each kind, most important first

# Per dimension, value and unit first; then the sums that a ratio of two sums over units needs, for each of the metrics.
_METRICS = {"errors": ("failed", "ended"), "latency": ("logs", "timed"), "cost": ("cost", "priced")}
_SUMS = ", ".join(
    f"count(*) FILTER (WHERE {d} > 0), sum({n}), sum({n} * {n}), sum({d}), sum({d} * {d}), sum({n} * {d})" for n, d in _METRICS.values()
)
_BASE = """
    WITH base AS MATERIALIZED (
        SELECT COALESCE(user_id, conversation_id, run_id) AS unit, agent_name, agent_version, tenant_id, mode, environment,
            response_model, request_model,
            CASE WHEN status IN ('success', 'error') AND {told} THEN 1.0::float8 ELSE 0 END AS is_ended,
            CASE WHEN status = 'error' THEN 1.0::float8 ELSE 0 END AS is_failed,
            CASE WHEN latency_seconds > 0 THEN ln(latency_seconds) END AS log, total_cost::float8 AS paid
        FROM metamon.traces WHERE {where}
    )"""
_OF_DIMENSION = f"""
    SELECT '{{dimension}}', within, value, sum(traces), {_SUMS}
    FROM (SELECT {{within}}::text AS within, {{value}} AS value, unit, count(*) AS traces, sum(is_ended) AS ended, sum(is_failed) AS failed,
            count(log)::float8 AS timed, COALESCE(sum(log), 0) AS logs, count(paid)::float8 AS priced, COALESCE(sum(paid), 0) AS cost
        FROM base WHERE {{value}} IS NOT NULL GROUP BY 1, 2, 3) units
    GROUP BY within, value"""
_UNITS = "SELECT count(user_id), count(conversation_id), count(*) FROM metamon.traces WHERE {where}"


@dataclass(frozen=True, slots=True)
class _Slice:
    """A value of a dimension with its sums: six for each metric (units, Σx, Σx², Σd, Σd², Σxd)."""

    dimension: str
    within: str | None
    value: str
    traces: int
    sums: npt.NDArray[np.float64]

    def of(self, metric: Metric) -> npt.NDArray[np.float64]:
        return self.sums[list(_METRICS).index(metric)]


class _Difference(NamedTuple):
    """A slice against the rest of its dimension."""

    slice: _Slice
    rest: npt.NDArray[np.float64]
    metric: Metric
    found: Comparison


def build(context: Context) -> Content:
    """What stands out, and a table of every dimension's values."""
    where = runs.traces_where(context)
    parts = [_OF_DIMENSION.format(dimension=dimension, within=within, value=value) for dimension, (within, value) in DIMENSIONS.items()]
    query = _BASE.format(where=where, told=runs.told(context)) + " UNION ALL ".join(parts)
    slices = [
        _Slice(dimension, within, value, int(traces), np.array(sums, np.float64).reshape(len(_METRICS), 6))
        for dimension, within, value, traces, *sums in runs.rows(context, query)
    ]
    groups = _groups(slices)
    if not groups:
        return Content(silence=_nothing_to_compare(slices))
    differences = [difference for group in groups for difference in _compared(group)]
    tables = tuple(_tables(groups))
    if not differences:
        most = max(int(slice_.of("errors")[0]) for group in groups for slice_ in group)
        needed = f"A comparison takes {LEAST_UNITS} users (or conversations, or traces where those are not named) on either side"
        return Content(tables=tables, silence=f"{needed}; the largest group has {most:,}. That is too few to tell.")
    findings = _findings(context, differences, _unit_name(context, where))
    compared = words.many(len(differences), "comparison")
    return Content(
        findings=findings,
        tables=tables,
        silence="" if findings else f"Nothing stands out: {compared}, none of which shows a difference that is both certain and large.",
    )


def _groups(slices: list[_Slice]) -> list[list[_Slice]]:
    """Slices that are compared with each other, largest first; two at least."""
    groups: dict[tuple[str, str | None], list[_Slice]] = {}
    for slice_ in sorted(slices, key=lambda slice_: (-slice_.traces, slice_.value)):
        groups.setdefault((slice_.dimension, slice_.within), []).append(slice_)
    return [group for group in groups.values() if len(group) > 1]


def _nothing_to_compare(slices: list[_Slice]) -> str:
    named = ", ".join(sorted({slice_.dimension for slice_ in slices}))
    if not named:
        return "The traces name no agent, tenant, model, mode, environment or version, so there are no groups to compare."
    return f"There is only one value of each dimension that the traces name ({named}), so there are no groups to compare."


def _compared(group: list[_Slice]) -> Iterator[_Difference]:
    """Every large enough value against the rest."""
    total = sum(slice_.sums for slice_ in group)
    traces = sum(slice_.traces for slice_ in group)
    for slice_ in group[:LARGEST]:
        if slice_.traces < LEAST_SHARE * traces:
            continue
        for place, metric in enumerate(_METRICS):
            mine, rest = slice_.of(metric), (total - slice_.sums)[place]
            if min(mine[0], rest[0]) < LEAST_UNITS or (metric == "errors" and mine[1] + rest[1] < LEAST_FAILURES):
                continue
            found = _comparison(metric, rest, mine)
            if found.status == "ok":
                yield _Difference(slice_, rest, metric, found)


def _comparison(metric: Metric, rest: npt.NDArray[np.float64], mine: npt.NDArray[np.float64]) -> Comparison:
    from metamon_assets.statistics import significance

    if metric == "errors" and mine[0] == mine[3] and rest[0] == rest[3]:  # a unit for every trace: exact for rare errors
        return significance.compare(significance.SampleProportion(rest[0], rest[1]), significance.SampleProportion(mine[0], mine[1]))
    arms = (significance.SampleRatio(*sums) for sums in (rest, mine))
    return significance.compare(*arms, difference="relative" if metric == "cost" else "absolute")


def _findings(context: Context, differences: list[_Difference], unit: str) -> tuple[Finding, ...]:
    """Differences that are certain after correction and large; slices of the very same traces are told once."""
    from metamon_assets.statistics.significance import adjust_p_values

    adjusted = adjust_p_values([difference.found.p_value for difference in differences], "holm")
    told: dict[tuple[str, str], list[tuple[_Difference, float]]] = {}
    for difference, p_value in zip(differences, adjusted.tolist(), strict=True):
        if p_value < 0.05 and _is_large(difference):
            same = (difference.metric, np.array2string(difference.slice.of(difference.metric)[:2], precision=9))
            told.setdefault(same, []).append((difference, p_value))
    ranked = sorted(told.values(), key=lambda group: -_weight(group[0][0]))
    chosen = [group for metric, most in FINDINGS.items() for group in [group for group in ranked if group[0][0].metric == metric][:most]]
    return tuple(_finding(context, group, unit, len(differences)) for group in chosen)


def _is_large(difference: _Difference) -> bool:
    """Whether it is worse than the rest by enough to matter."""
    found = difference.found
    if difference.metric == "errors":
        return found.effect >= MORE_ERRORS and found.treatment_estimate >= TIMES_ERRORS * found.control_estimate
    if difference.metric == "latency":
        return math.exp(found.effect) >= TIMES_SLOWER
    return found.effect >= TIMES_DEARER - 1


def _weight(difference: _Difference) -> float:
    """How much of it there is, among differences of one metric: traces times how much worse."""
    return difference.slice.traces * difference.found.effect


def _finding(context: Context, group: list[tuple[_Difference, float]], unit: str, comparisons: int) -> Finding:
    difference, p_value = group[0]
    slice_, found = difference.slice, difference.found
    others = ", ".join(f"{other.slice.dimension} {words.name(other.slice.value)}" for other, _ in group[1:])
    whose = f"{slice_.dimension.capitalize()} {words.name(slice_.value)}" + (f" of {words.name(slice_.within)}" if slice_.within else "")
    whose += f" (the same traces as {others})" if others else ""
    statement, estimate, money = _told(difference, p_value)
    passing = slice_.dimension == "version"  # which may be over
    condition, more = f"{DIMENSIONS[slice_.dimension][1]} = %(value)s", {"value": slice_.value, "within": slice_.within}
    condition += " AND agent_name = %(within)s" if slice_.within else ""
    bad = {"errors": " AND status = 'error'", "latency": " AND latency_seconds IS NOT NULL", "cost": " AND total_cost IS NOT NULL"}
    order = {"errors": "start_time DESC", "latency": "latency_seconds DESC", "cost": "total_cost DESC"}[difference.metric]
    query = runs.listing(context, condition + bad[difference.metric], more, order=order)
    return Finding(
        key=f"slices.{difference.metric}.{slice_.dimension}.{slice_.value}",
        statement=f"{whose} {statement}",
        certainty=f"More than chance (p {_p(p_value)} after correction for {words.many(comparisons, 'comparison')}),"
        f" from {found.n_treatment:,.0f} {unit} against {found.n_control:,.0f}. Not adjusted for a different mix of work.",
        estimate=estimate,
        money_per_month=None if passing else runs.a_month(context, money),
        cost=money if passing else None,
        money_is={"errors": "failures above the rest's rate, at its cost of a trace", "cost": "above the rest's cost of a trace"}.get(
            difference.metric, ""
        ),
        runs=runs.examples(context, query),
        query=query,
        severity="serious"
        if difference.metric == "errors" and found.effect >= 0.1
        else "notice"
        if difference.metric == "errors"
        else "info",
    )


def _told(difference: _Difference, p_value: float) -> tuple[str, Estimate, Decimal | None]:
    """What is said of a slice, the estimate behind it, and the money of the period that the difference is worth."""
    found, slice_ = difference.found, difference.slice
    sample = int(found.n_treatment + found.n_control)
    if difference.metric == "errors":
        rest = f"{words.percent(found.control_estimate)} of the rest"
        statement = (
            f"fails in {words.percent(found.treatment_estimate)} of its traces, {rest}: {100 * found.effect:+.1f} points"
            f" (95% interval {100 * found.ci_lower:+.1f} to {100 * found.ci_upper:+.1f})."
        )
        paid = slice_.of("cost")
        wasted = found.effect * slice_.of("errors")[3] * paid[1] / paid[3] if paid[3] else None
        return statement, Estimate(found.effect, found.ci_lower, found.ci_upper, "share", sample, p_value), _money(wasted)
    if difference.metric == "latency":
        ratio, low, high = (math.exp(value) for value in (found.effect, found.ci_lower, found.ci_upper))
        middle = (math.exp(value) for value in (found.treatment_estimate, found.control_estimate))
        statement = (
            f"takes {ratio:.2f} times as long as the rest (95% interval {low:.2f} to {high:.2f}):"
            f" typically {' against '.join(map(words.seconds, middle))} (geometric means)."
        )
        return statement, Estimate(ratio, low, high, "ratio", sample, p_value), None
    statement = (
        f"costs {words.dollars(found.treatment_estimate)} a trace, the rest {words.dollars(found.control_estimate)}:"
        f" {1 + found.effect:.1f} times as much (95% interval {1 + found.ci_lower:.1f} to {1 + found.ci_upper:.1f})."
    )
    more = (found.treatment_estimate - found.control_estimate) * float(slice_.of("cost")[3])
    return statement, Estimate(1 + found.effect, 1 + found.ci_lower, 1 + found.ci_upper, "ratio", sample, p_value), _money(more)


def _money(amount: float | None) -> Decimal | None:
    return None if amount is None else Decimal(str(round(amount, 9)))


def _p(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def _unit_name(context: Context, where: str) -> str:
    users, conversations, traces = runs.rows(context, _UNITS.format(where=where))[0]
    if 2 * users >= traces:
        return "users"
    return "conversations" if 2 * conversations >= traces else "traces"


def _tables(groups: list[list[_Slice]]) -> Iterator[Table]:
    for group in groups:
        first = group[0]
        if first.within is not None:  # versions: their changes have a section of their own
            continue
        rows = []
        for slice_ in group[:8]:
            errors, latency, cost = (slice_.of(metric) for metric in _METRICS)
            rows.append(
                (
                    words.name(slice_.value),
                    f"{slice_.traces:,}",
                    words.percent(errors[1] / errors[3] if errors[3] else None),
                    words.seconds(math.exp(latency[1] / latency[3]) if latency[3] else None),
                    words.dollars(cost[1] / cost[3] if cost[3] else None),
                )
            )
        title = f"By {first.dimension}"
        title += f" (the largest 8 of {len(group):,})" if len(group) > 8 else ""
        yield Table(title, (first.dimension, "traces", "failed", "typical latency", "cost a trace"), tuple(rows))
