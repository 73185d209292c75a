"""Inputs that came again within a day and were answered again: what a cache of answers could have spared.

Inputs are the same when nothing but the case of Latin letters and spaces differ. For whole traces only the first turn of a conversation
counts, since the answer to a later one depends on what was said before; traces that the application's own cache
answered are left out. For model calls the whole prompt is compared, so the history is in it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from metamon_assets import words
from metamon_assets.reports import runs
from metamon_assets.reports.findings import Content, Context, Estimate, Finding, Table

WITHIN = "24 hours"
LEAST = 10  # repeats; fewer are not worth a cache
LISTED = 200  # runs that the query names: payloads are not in ``analytics``, so it cannot compare inputs itself
SHOWN = 5

# One number for whose input it is and what it says: texts are slow to sort and to group by.
_KEY = "hash_record_extended(ROW(source, project, {whose}, replace(lower(inputs COLLATE \"C\"), ' ', '')), 0)"
_CONVERSATION = "hash_record_extended(ROW(source, project, agent_name, COALESCE(conversation_id, run_id)), 0)"
_TRACES = f"""
    SELECT source, project, run_id, start_time, agent_name AS whose, total_cost, latency_seconds, {_KEY.format(whose="agent_name")} AS input
    FROM (SELECT source, project, run_id, day, start_time, agent_name, total_cost, latency_seconds, status, cache_hit,
            row_number() OVER (PARTITION BY {_CONVERSATION} ORDER BY start_time, run_id) AS turn
        FROM metamon.traces WHERE {{where}}) traces
    JOIN metamon.payloads USING (run_id, project, source, day)
    WHERE turn = 1 AND status = 'success' AND cache_hit IS NOT TRUE AND inputs <> '' AND octet_length(inputs) < %(limit)s"""
_CALLS = f"""
    SELECT source, project, run_id, start_time, {runs.MODEL} AS whose, total_cost, latency_seconds, {_KEY.format(whose=runs.MODEL)} AS input
    FROM metamon.spans JOIN metamon.payloads USING (run_id, project, source, day)
    WHERE {{spans}} AND run_type = 'llm' AND status = 'success' AND cache_hit IS NOT TRUE AND inputs <> ''
        AND octet_length(inputs) < %(limit)s"""
_REPEATS = f"""
    WITH runs AS MATERIALIZED ({{runs}}), ordered AS (
        SELECT *, start_time - lag(start_time) OVER (PARTITION BY input ORDER BY start_time, run_id) <= interval '{WITHIN}' AS again
        FROM runs
    ), inputs AS (
        SELECT whose, input, count(*) AS times, count(*) FILTER (WHERE again) AS repeats, count(total_cost) FILTER (WHERE again) AS priced,
            sum(total_cost) FILTER (WHERE again) AS cost, sum(latency_seconds) FILTER (WHERE again) AS seconds,
            (array_agg(ARRAY[source, project, run_id] ORDER BY start_time) FILTER (WHERE again))[1:{LISTED}] AS listed
        FROM ordered GROUP BY 1, 2 HAVING count(*) > 1
    )
    SELECT whose, times, repeats, priced, cost, seconds, listed, n, (sum(repeats) OVER ())::bigint,
        (sum(priced) OVER ())::bigint, sum(cost) OVER (), sum(seconds) OVER (), count(*) FILTER (WHERE repeats > 0) OVER ()
    FROM (SELECT count(*) AS n FROM runs) counted LEFT JOIN inputs ON true
    ORDER BY cost DESC NULLS LAST, repeats DESC NULLS LAST LIMIT {LISTED}"""


class _Input(NamedTuple):
    """An input of an agent or model: how often it came, how often again; and the same of all inputs together."""

    whose: str | None
    times: int
    repeats: int
    priced: int
    cost: Decimal | None
    seconds: float | None
    runs: list[list[str]] | None
    all_times: int
    all_repeats: int
    all_priced: int
    all_cost: Decimal | None
    all_seconds: float | None
    repeated: int


def build(context: Context) -> Content:
    """Repeated first turns of traces, and repeated prompts of model calls."""
    limit = {"limit": context.settings.privacy.payload_limit if context.settings else 65_536}
    kinds = {
        "traces": (_TRACES.format(where=runs.traces_where(context)), "trace", "agent", False),
        "calls": (_CALLS.format(spans=runs.spans_where(context)), "model call", "model", True),
    }
    findings, tables, silences, compared = [], [], [], 0
    for key, (query, what, whose, spans) in kinds.items():
        inputs = [_Input(*row) for row in runs.rows(context, _REPEATS.format(runs=query), limit)]
        first = inputs[0]
        if not first.all_times:
            continue
        compared += 1
        if (first.all_repeats or 0) < LEAST:
            silences.append(
                f"Of {words.many(first.all_times, what)} with inputs, {first.all_repeats or 0} had that of an earlier one within {WITHIN}."
            )
            continue
        findings.append(_finding(context, key, what, inputs, spans=spans))
        tables.append(_table(what, whose, inputs))
    if not compared:
        return Content(silence=_without_inputs(context))
    return Content(tuple(findings), tuple(tables), silence=" ".join(silences) if not findings else "")


def _without_inputs(context: Context) -> str:
    if context.settings is not None and not context.settings.privacy.store_payloads:
        return "Inputs are not stored (privacy.store_payloads is off), so it cannot be seen which come again."
    return "No successful trace or model call comes with its inputs, so it cannot be seen which come again."


def _finding(context: Context, key: str, what: str, inputs: list[_Input], *, spans: bool) -> Finding:
    from metamon_assets.statistics.proportions import share_interval

    first = inputs[0]
    low, high = share_interval(first.all_repeats, first.all_times)
    listed = [run for found in inputs for run in found.runs or () if found.repeats][:LISTED]
    query = runs.listing(
        context,
        "(source, project, run_id) IN %(listed)s",
        {"listed": tuple(map(tuple, listed))},
        spans=spans,
        order="total_cost DESC NULLS LAST",
    )
    unpriced = first.all_repeats - first.all_priced
    overlap = " They lie within traces, so this does not add to what whole traces could spare." if spans else ""
    cost = f" and {words.dollars(first.all_cost)}" if first.all_cost is not None else ""
    return Finding(
        key=f"repeats.{key}",
        statement=f"{words.of(first.all_repeats, first.all_times, what)} had the input of an earlier one within {WITHIN};"
        f" answering from a cache would have spared at most {words.seconds(first.all_seconds)} of work{cost}.",
        certainty=f"Counted over {words.many(first.repeated, 'input')} that came again; {words.interval(low, high)} of the share."
        f" Whether the same answer would still have been right is not known.{overlap}"
        + (f" {words.many(unpriced, 'repeat')} {'is' if unpriced == 1 else 'are'} unpriced." if unpriced else "")
        + (f" The query lists the {LISTED} dearest." if first.all_repeats > LISTED else ""),
        estimate=Estimate(first.all_repeats / first.all_times, low, high, "share", first.all_times),
        money_per_month=runs.a_month(context, first.all_cost),
        money_is="at most",
        runs=runs.examples(context, query),
        query=query,
        severity="notice" if first.all_repeats >= 0.05 * first.all_times and runs.is_material(context, first.all_cost) else "info",
    )


def _table(what: str, whose: str, inputs: list[_Input]) -> Table:
    rows = [
        (
            words.name(found.whose),
            f"{found.times:,}",
            f"{found.repeats:,}",
            words.dollars(found.cost),
            words.name(found.runs[0][2]) if found.runs else "–",
        )
        for found in inputs[:SHOWN]
        if found.repeats
    ]
    return Table(
        f"Inputs of a {what} that came again most dearly", (whose, "came", "again", "cost of that", "for example run"), tuple(rows)
    )
