"""Work that was done again because it had failed: calls within a trace, and people who ask again in a conversation.

A call counts as a retry when the call before it of the same tool or model in the same trace failed, whatever it was
given; a trace does when the one before it in its conversation and agent failed within the last ten minutes.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from metamon_assets import words
from metamon_assets.reports import runs
from metamon_assets.reports.findings import Content, Context, Estimate, Finding, Table

SOON = "10 minutes"
LEAST = 5  # retries of a step, below which there is nothing to say about it
SHOWN = 8
STEP = "COALESCE(tool_name, name, '(none)')"
TYPES = "('llm', 'embedding', 'tool', 'retriever', 'reranker')"

# Only traces with a failed call can hold a retry, which spares sorting all the others.
_CALLS = f"""
    WITH counted AS (
        SELECT run_type, {STEP} AS step, count(*) AS calls, count(*) FILTER (WHERE status = 'error') AS failures
        FROM metamon.spans WHERE {{spans}} AND run_type IN {TYPES} GROUP BY 1, 2
    ), failing AS (
        SELECT DISTINCT trace_id, project, source FROM metamon.spans WHERE {{spans}} AND run_type IN {TYPES} AND status = 'error'
    ), ordered AS (
        SELECT run_type, {STEP} AS step, status, latency_seconds, total_cost, trace_id,
            lag(status) OVER (PARTITION BY source, project, trace_id, run_type, {STEP} ORDER BY start_time, run_id) AS before
        FROM metamon.spans JOIN failing USING (trace_id, project, source) WHERE {{spans}} AND run_type IN {TYPES}
    ), again AS (
        SELECT run_type, step, count(*) AS retries, count(*) FILTER (WHERE status = 'success') AS helped,
            count(*) FILTER (WHERE status IN ('success', 'error')) AS ended, sum(latency_seconds) AS seconds, count(total_cost) AS priced,
            sum(total_cost) AS cost, count(DISTINCT trace_id) AS traces
        FROM ordered WHERE before = 'error' GROUP BY 1, 2
    )
    SELECT run_type, step, calls, failures, COALESCE(retries, 0), COALESCE(helped, 0), COALESCE(ended, 0), COALESCE(seconds, 0),
        COALESCE(priced, 0), cost, COALESCE(traces, 0)
    FROM counted LEFT JOIN again USING (run_type, step) WHERE failures > 0 ORDER BY 5 DESC, 3 DESC"""
_RETRIED = f"""
    SELECT {runs.COLUMNS}, tool_name FROM (
        SELECT {runs.COLUMNS}, tool_name,
            lag(status) OVER (PARTITION BY source, project, trace_id, run_type, {STEP} ORDER BY start_time, run_id) AS before
        FROM analytics.spans WHERE {{spans}} AND run_type = %(run_type)s AND {STEP} = %(step)s) ordered
    WHERE before = 'error' ORDER BY start_time"""
_AGAIN = f"""
    SELECT {runs.COLUMNS}, conversation_id FROM (
        SELECT {runs.COLUMNS}, conversation_id, lag(status) OVER conversation AS before,
            start_time - lag(start_time) OVER conversation AS since
        FROM analytics.traces WHERE {{where}} AND conversation_id IS NOT NULL
        WINDOW conversation AS (PARTITION BY source, project, agent_name, conversation_id ORDER BY start_time, run_id)) ordered
    WHERE before = 'error' AND since <= interval '{SOON}'"""
_ASKED = """
    SELECT (SELECT count(*) FROM metamon.traces WHERE {where} AND conversation_id IS NOT NULL),
        (SELECT count(*) FROM metamon.traces WHERE {where} AND conversation_id IS NOT NULL AND status = 'error'),
        count(*), count(*) FILTER (WHERE status = 'success'), count(*) FILTER (WHERE status IN ('success', 'error')),
        sum(latency_seconds), count(total_cost), sum(total_cost)
    FROM ({again}) again"""


class Step(NamedTuple):
    """Calls of a tool or model, and those of them that came right after a failed one."""

    run_type: str
    step: str
    calls: int
    failures: int
    retries: int
    helped: int
    ended: int
    seconds: float
    priced: int
    cost: Decimal | None
    traces: int


def build(context: Context) -> Content:
    """Calls that were made again, by tool and model; conversations in which somebody asked again."""
    steps = _steps(context)
    retried = [step for step in steps if step.retries]
    findings = [_calls(context, step) for step in retried if step.retries >= LEAST][:3]
    asked, silence = _asked_again(context)
    if asked:
        findings.append(asked)
    return Content(
        findings=tuple(findings),
        tables=(_table(retried),) if retried else (),
        silence="" if findings else f"{_no_retries(context, steps, retried)} {silence}",
    )


def steps_again(context: Context) -> list[Step]:
    """The tools and models that were called again, and what that cost."""
    return [step for step in _steps(context) if step.retries]


def query_of(context: Context, step: Step) -> str:
    """The query that lists the calls of a step that came right after a failed one."""
    return runs.literal(context, _RETRIED.format(spans=runs.spans_where(context)), {"run_type": step.run_type, "step": step.step})


def _steps(context: Context) -> list[Step]:
    return [Step(*row) for row in runs.rows(context, _CALLS.format(spans=runs.spans_where(context)))]


def _no_retries(context: Context, steps: list[Step], retried: list[Step]) -> str:
    if retried:
        count = words.many(sum(step.retries for step in retried), "call")
        return f"{count} came again after a failure, fewer than {LEAST} of any tool or model: too few to say more."
    if steps:
        failed = words.many(sum(step.failures for step in steps), "call")
        return f"{failed} of tools and models failed; none was followed by another of the same in its trace."
    exist = f"SELECT EXISTS (SELECT FROM metamon.spans WHERE {runs.spans_where(context)} AND run_type IN {TYPES})"
    if runs.rows(context, exist)[0][0]:
        return "No call of a tool or model failed."
    return "The traces have no child runs of tools or models, so calls within a trace that were made again cannot be seen."


def _calls(context: Context, step: Step) -> Finding:
    from metamon_assets.statistics.proportions import share_interval

    share, low, high = step.helped / step.ended if step.ended else None, *share_interval(step.helped, step.ended)
    query = query_of(context, step)
    statement = (
        f"{words.name(step.step)} ({step.run_type}) was called again after a failure {words.many(step.retries, 'time')}"
        f" in {words.many(step.traces, 'trace')}: {words.percent(step.retries / step.calls)} of its calls,"
        f" {words.seconds(step.seconds)} of work" + (f", {words.dollars(step.cost)}." if step.cost else ".")
    )
    unpriced = (
        "" if step.cost is None or step.priced == step.retries else f" {step.retries - step.priced:,} of the {step.retries:,} are unpriced."
    )
    if step.ended:
        certainty = f"Counted. {words.percent(share)} of these calls succeeded ({words.interval(low, high)}).{unpriced}"
    else:
        certainty = f"Counted. None of them has ended yet.{unpriced}"
    return Finding(
        key=f"retries.{step.run_type}.{step.step}",
        statement=statement,
        certainty=certainty,
        estimate=Estimate(share, low, high, "share", step.ended) if share is not None else None,
        money_per_month=runs.a_month(context, step.cost),
        money_is="what the calls made again cost",
        runs=runs.examples(context, query),
        query=query,
        severity="notice" if step.retries >= 0.05 * step.calls and runs.is_material(context, step.cost) else "info",
    )


def _asked_again(context: Context) -> tuple[Finding | None, str]:
    """The finding, or the sentence that there is none."""
    from metamon_assets.statistics.proportions import share_interval

    where = runs.traces_where(context)
    again = _AGAIN.format(where=where)
    ((turns, failures, count, helped, ended, seconds, priced, cost),) = runs.rows(context, _ASKED.format(where=where, again=again))
    if not turns:
        return None, "The traces name no conversation, so it cannot be seen whether people ask again after a failure."
    if not failures:
        told = runs.told(context) == "true"
        return None, "No trace of a conversation failed." if told else "Whether traces failed is not known of all of them."
    if count < LEAST:
        return (
            None,
            f"Traces in conversations that failed: {failures:,}; followed by another within {SOON}: {count}.",
        )
    low, high = share_interval(count, failures)
    query = f"{runs.literal(context, again)} ORDER BY start_time"
    success = f" {words.of(helped, ended, 'of those that ended', 'of those that ended')} succeeded." if ended else ""
    return Finding(
        key="retries.asked_again",
        statement=f"{words.of(count, failures, 'failed trace')} in conversations had another after them within {SOON}:"
        f" {words.seconds(seconds)} of work" + (f", {words.dollars(cost)}." if cost else "."),
        certainty=f"The share has a {words.interval(low, high)}.{success} Whether it was the same question is not checked."
        + ("" if cost is None or priced == count else f" {count - priced:,} of them are unpriced."),
        estimate=Estimate(count / failures, low, high, "share", failures),
        money_per_month=runs.a_month(context, cost),
        money_is="what the traces after a failed one cost",
        runs=runs.examples(context, query),
        query=query,
        severity="info",
    ), ""


def _table(steps: list[Step]) -> Table:
    rows = [
        (
            words.name(step.step),
            step.run_type,
            f"{step.calls:,}",
            words.percent(step.failures / step.calls),
            f"{step.retries:,}",
            words.percent(step.helped / step.ended if step.ended else None),
            words.dollars(step.cost) if step.cost is not None or step.run_type == "llm" else "–",
        )
        for step in steps[:SHOWN]
    ]
    return Table(
        "Called again right after a failure", ("step", "type", "calls", "failed", "again", "then succeeded", "their cost"), tuple(rows)
    )
