"""Which runs a report is about: the period, project and agent as SQL, example runs, and the query that lists the rest.

Here belongs what every section needs to ask the tables; what it asks for stands in the section.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from metamon_assets.days import midnight
from metamon_assets.reports import outcomes
from metamon_assets.reports.findings import DAYS_A_MONTH, MATERIAL, Context, RunReference

Row = tuple[Any, ...]

FEW_DAYS = 7  # a month is not estimated from less: a week has all its weekdays
MODEL = "COALESCE(response_model, request_model)"  # the one that answered
_QUICKLY = "SET LOCAL work_mem = '96MB'; SET LOCAL jit = off"  # sorts in memory, and no compiling for queries of a second
_CALL = (
    f"source, project, run_id, trace_id, provider, {MODEL} AS model, agent_name, start_time, status, input_tokens, output_tokens,"
    " cache_read_input_tokens, cache_creation_input_tokens, reasoning_output_tokens, input_cost, total_cost"
)
COLUMNS = "source, project, run_id, trace_id, name, agent_name, start_time, latency_seconds, status, error_type, total_cost"


def traces_where(context: Context) -> str:
    """The condition on ``traces`` that picks the report's roots; its parameters are ``parameters(context)``."""
    conditions = ["day BETWEEN %(first_day)s AND %(last_day)s"]
    if not _whole_days(context):
        conditions.append("start_time >= %(start)s AND start_time < %(end)s")
    if context.project is not None:
        conditions.append("project = %(project)s")
    if context.agent is not None:
        conditions.append("agent_name = %(agent)s")
    return " AND ".join(conditions)


def spans_where(context: Context) -> str:
    """The condition on ``spans`` that picks those of the report's traces."""
    conditions = ["day BETWEEN %(first_day)s AND %(last_day)s"]
    if context.project is not None:
        conditions.append("project = %(project)s")
    if context.agent is not None or not _whole_days(context):
        conditions.append(
            f"(trace_id, project, source) IN (SELECT trace_id, project, source FROM analytics.traces WHERE {traces_where(context)})"
        )
    return " AND ".join(conditions)


def told(context: Context) -> str:
    """The condition on ``traces`` that picks those of which their source tells whether they failed (``outcomes``)."""
    return "(source, project) NOT IN %(untold)s" if _untold(context) else "true"


def model_calls(context: Context) -> str:
    """A query for the model calls of the report's traces: those in spans, and roots that name a model with no call below them."""
    kinds = "run_type IN ('llm', 'embedding')"
    return f"""
        SELECT {_CALL} FROM analytics.spans WHERE {spans_where(context)} AND {kinds}
        UNION ALL
        SELECT {_CALL} FROM analytics.traces t WHERE {traces_where(context)} AND {MODEL} IS NOT NULL AND NOT EXISTS (
            SELECT FROM analytics.spans s WHERE s.trace_id = t.trace_id AND s.day = t.day AND s.project = t.project AND s.source = t.source
                AND s.{kinds})"""


def parameters(context: Context) -> dict[str, Any]:
    """What ``traces_where`` and ``spans_where`` refer to."""
    last = max(context.end - timedelta(microseconds=1), context.start)
    return {
        "first_day": context.start.astimezone(UTC).date(),
        "last_day": last.astimezone(UTC).date(),
        "start": context.start,
        "end": context.end,
        "now": context.now,
        "project": context.project,
        "agent": context.agent,
        "untold": _untold(context),
    }


def rows(context: Context, query: str, more: Mapping[str, Any] | None = None) -> list[Row]:
    """Rows of a query that may use ``parameters(context)`` and ``more``."""
    with context.connection, context.connection.cursor() as cursor:
        cursor.execute(_QUICKLY)
        cursor.execute(query, parameters(context) | dict(more or {}))
        return list(cursor.fetchall())


def listing(
    context: Context, condition: str = "true", more: Mapping[str, Any] | None = None, *, spans: bool = False, order: str = "start_time"
) -> str:
    """The query, ready for ``metamon sql``, that lists the report's traces (or ``spans``) for which ``condition`` holds.

    ``condition`` and ``order`` are SQL of ours; values of strangers go into ``more`` and become literals.
    """
    table, where = ("analytics.spans", spans_where(context)) if spans else ("analytics.traces", traces_where(context))
    return literal(context, f"SELECT {COLUMNS} FROM {table} WHERE {where} AND {condition} ORDER BY {order}", more)


def literal(context: Context, query: str, more: Mapping[str, Any] | None = None) -> str:
    """A query with its parameters written out."""
    with context.connection.cursor() as cursor:
        return cursor.mogrify(query, parameters(context) | dict(more or {})).decode()


def examples(context: Context, query: str, count: int = 3) -> tuple[RunReference, ...]:
    """The first runs of a ``listing``."""
    with context.connection, context.connection.cursor() as cursor:
        cursor.execute(_QUICKLY)
        cursor.execute(f"SELECT source, project, run_id, start_time FROM ({query} LIMIT {count:d}) AS listed")
        return tuple(RunReference(*row) for row in cursor.fetchall())


def observed_days(context: Context) -> float:
    """Days from the day of the first trace to the end of the period (or now): what a month is estimated from."""
    if context.observed_days is not None:
        return context.observed_days
    ((first,),) = rows(context, f"SELECT min(day) FROM metamon.traces WHERE {traces_where(context)}")
    return days_between(context.start, context.end, context.now, None if first is None else midnight(first))


def days_between(start: datetime, end: datetime, now: datetime, first: datetime | None) -> float:
    """The same from the start of the first day with traces; 0 without any."""
    return 0.0 if first is None else max((min(end, now) - max(start, first)).total_seconds() / 86_400, 0.0)


def is_material(context: Context, cost: Decimal | None) -> bool:
    """Whether the money comes to ``MATERIAL`` in 30 days, as far as can be told; what has no price may."""
    return cost is None or cost * DAYS_A_MONTH / Decimal(max(observed_days(context), 1.0)) >= MATERIAL


def a_month(context: Context, cost: Decimal | None) -> Decimal | None:
    """What ``cost`` of the period comes to in 30 days; None when unknown, or seen for less than a week."""
    days = observed_days(context)
    return None if cost is None or days < FEW_DAYS else (cost * DAYS_A_MONTH / Decimal(days)).quantize(Decimal("0.000001"))


def _untold(context: Context) -> tuple[tuple[str, str], ...]:
    if "untold" not in context.memo:
        context.memo["untold"] = outcomes.untold(context.settings)
    found: tuple[tuple[str, str], ...] = context.memo["untold"]
    return found


def _whole_days(context: Context) -> bool:
    bounds = (context.start.astimezone(UTC), context.end.astimezone(UTC))
    return all(moment == moment.replace(hour=0, minute=0, second=0, microsecond=0) for moment in bounds)
