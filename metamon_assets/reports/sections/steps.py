"""Where the time of a trace goes: its steps by their own time, which is theirs less that of the runs they called.

Own times of all steps and of the root add up to the whole, also where steps run side by side (each then counts). The
percentiles are those of a step's whole time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from metamon_assets import charts, words
from metamon_assets.reports import runs
from metamon_assets.reports.findings import Content, Context, Estimate, Finding, Table

LARGE = 0.1  # share of the time that makes a step worth a sentence
FINDINGS, SHOWN = 3, 10
STEP = "COALESCE(tool_name, name, '(none)')"

_STEPS = f"""
    WITH kept AS MATERIALIZED (
        SELECT source, project, run_id, parent_run_id, run_type, {STEP} AS step, status, latency_seconds
        FROM metamon.spans WHERE {{spans}}
    ), called AS (
        SELECT source, project, parent_run_id AS run_id, sum(latency_seconds) AS seconds FROM kept GROUP BY 1, 2, 3
    )
    SELECT run_type, step, count(*), count(latency_seconds), count(*) FILTER (WHERE status = 'error'), sum(latency_seconds),
        sum(greatest(latency_seconds - COALESCE(seconds, 0), 0)) AS own
    FROM kept LEFT JOIN called USING (run_id, project, source) GROUP BY 1, 2
    UNION ALL
    SELECT NULL, NULL, count(*), count(latency_seconds), 0, sum(latency_seconds), sum(greatest(latency_seconds - seconds, 0))
    FROM metamon.traces JOIN called USING (run_id, project, source) WHERE {{where}}
    ORDER BY 7 DESC NULLS LAST"""
_BINS = f"""
    SELECT run_type, {STEP}, CASE WHEN latency_seconds > 0 THEN metamon.histogram_value(metamon.histogram_bin(latency_seconds)) ELSE 0 END,
        count(*)
    FROM metamon.spans WHERE {{spans}} AND latency_seconds IS NOT NULL AND (run_type, {STEP}) IN %(steps)s GROUP BY 1, 2, 3"""


class _Step(NamedTuple):
    """A step of one type and name; the root's own work has neither."""

    run_type: str | None
    step: str | None
    calls: int
    timed: int
    failed: int
    seconds: float | None
    own: float | None


def build(context: Context) -> Content:
    """The steps that take the most time, and a table of the rest."""
    where, spans = runs.traces_where(context), runs.spans_where(context)
    steps = [_Step(*row) for row in runs.rows(context, _STEPS.format(where=where, spans=spans))]
    named = [step for step in steps if step.run_type is not None]
    if not named:
        return Content(
            silence="The traces have no child runs (spans), so their time cannot be split into steps. Model and tool calls"
            " sent as spans of their trace would show it: OpenTelemetry and LangSmith instrumentation do so by themselves."
        )
    whole = sum(step.own or 0 for step in steps)
    if not whole:
        return Content(silence="No step tells how long it took, so it cannot be said where the time goes.")
    shown = [step for step in named if step.own][:SHOWN]
    times = _times(context, spans, shown)
    large = [step for step in shown if (step.own or 0) >= LARGE * whole][:FINDINGS]
    return Content(
        findings=tuple(_finding(context, step, whole, times[step.run_type, step.step]) for step in large),
        tables=(_table(shown, len(named), whole, times),),
        charts=(_picture(steps, whole),),
        silence=""
        if large
        else f"No step takes {words.percent(LARGE)} of the time or more: it is spread over {words.many(len(named), 'step')}.",
    )


_Times = dict[tuple[str | None, str | None], np.ndarray]


def _times(context: Context, spans: str, steps: list[_Step]) -> _Times:
    """Each step's times within 1 %, from a histogram."""
    wanted = tuple((step.run_type, step.step) for step in steps)
    parts: dict[tuple[str | None, str | None], list[tuple[float, int]]] = {}
    for run_type, step, value, count in runs.rows(context, _BINS.format(spans=spans), {"steps": wanted}):
        parts.setdefault((run_type, step), []).append((value, count))
    return {key: np.repeat(*map(np.array, zip(*found, strict=True))) for key, found in parts.items()}


def _finding(context: Context, step: _Step, whole: float, times: np.ndarray) -> Finding:
    from metamon_assets.statistics.raw_values import UNITS_BEYOND_QUANTILE, QuantileSummary

    share = (step.own or 0) / whole
    tail = QuantileSummary.from_values(times, 0.95)
    enough = step.timed * 0.05 >= UNITS_BEYOND_QUANTILE
    half = f"half of its {words.many(step.timed, 'timed call')} take {words.seconds(float(np.median(times)))} or less"
    query = runs.listing(
        context,
        f"run_type = %(run_type)s AND {STEP} = %(step)s AND latency_seconds IS NOT NULL",
        {"run_type": step.run_type, "step": step.step},
        spans=True,
        order="latency_seconds DESC",
    )
    if enough:
        slow = f"one in twenty takes {words.seconds(tail.estimate)} or longer"
        bounds = f"{words.seconds(tail.ci95_lower)} and {words.seconds(tail.ci95_upper)}"
        certainty = f"The share is counted. The 95th percentile lies between {bounds} (95% interval)."
        estimate = Estimate(tail.estimate, tail.ci95_lower, tail.ci95_upper, "seconds", step.timed)
    else:
        slow = f"the slowest {words.seconds(float(times.max()))}"
        needed = round(UNITS_BEYOND_QUANTILE / 0.05)
        certainty = f"The share is counted. For a 95th percentile {step.timed} calls are too few; it takes {needed}."
        estimate = Estimate(share, None, None, "share", step.timed)
    return Finding(
        key=f"steps.{step.run_type}.{step.step}",
        statement=f"{words.name(step.step)} ({step.run_type}) takes {words.percent(share)} of the time: {half}, {slow}.",
        certainty=certainty,
        estimate=estimate,
        runs=runs.examples(context, query),
        query=query,
        severity="info",
    )


def _table(steps: list[_Step], count: int, whole: float, times: _Times) -> Table:
    rows = []
    for step in steps:
        values = times[step.run_type, step.step]
        rows.append(
            (
                words.name(step.step),
                step.run_type or "",
                f"{step.calls:,}",
                words.percent((step.own or 0) / whole),
                words.seconds(float(np.quantile(values, 0.5))),
                words.seconds(float(np.quantile(values, 0.95))),
                words.percent(step.failed / step.calls),
            )
        )
    title = "Steps by their own time" + (f" (the first {len(steps)} of {count:,})" if count > len(steps) else "")
    return Table(title, ("step", "type", "calls", "of the time", "p50", "p95", "failed"), tuple(rows))


def _picture(steps: list[_Step], whole: float) -> dict[str, object]:
    shares = [
        ("(the root's own work)" if step.step is None else words.name(step.step), (step.own or 0) / whole) for step in steps if step.own
    ]
    return charts.bars(shares[:8], title="share of the time", percent=True)
