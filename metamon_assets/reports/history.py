"""The report's traces as columns in memory: what the statistical sections search.

Here belongs reading, nothing else. Text columns are categories, times are hours since the start, measures are floats with NaN for
"not known". Of a longer history than fits, the latest days are read, and ``History.start`` says from when.
"""

from __future__ import annotations

import io
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from metamon_assets import words
from metamon_assets.reports.feeds import Feed, feeds_of
from metamon_assets.reports.findings import Context
from metamon_assets.reports.runs import MODEL, parameters, rows, told, traces_where

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = timedelta(days=14)  # before the report that its runs are compared with, where it is stored
MOST_RUNS = 1_000_000  # some 500 MB; of a longer history the latest days
PENDING_AFTER = timedelta(hours=1)  # what has not ended an hour after its start counts as unfinished
EXTRA_ATTRIBUTES = 4  # keys of the metadata that are read besides
EXTRA_VALUES = 20  # of each, at most
# How the attributes are called in ``analytics.traces``.
COLUMNS = {
    "agent": "agent_name",
    "version": "agent_version",
    "tenant": "tenant_id",
    "model": MODEL,
    "mode": "mode",
    "prompt": "prompt_version",
    "environment": "environment",
}
_MEASURES = """
    CASE WHEN status IN ('success', 'error') AND {told} THEN (status = 'error')::int END AS failed,
    CASE WHEN status = 'abandoned' OR (status = 'pending' AND start_time < %(now)s - %(pending_after)s) THEN 1
         WHEN status IN ('success', 'error') AND {told} THEN 0 END AS unfinished,
    degraded::int AS degraded, task_completed::int AS completed, cache_hit::int AS cached, quality_score::real AS quality,
    latency_seconds::real AS latency, time_to_first_token_seconds::real AS first_token, total_cost::real AS cost, error_type,
    hashtext(COALESCE(conversation_id, user_id)) AS unit, source || E'\\x1f' || project AS feed"""
_DAYS = "SELECT day, count(*) FROM metamon.traces WHERE {where} GROUP BY day ORDER BY day DESC"
# Keys of the metadata with a few short values each, on nearly all of some traces.
_KEYS = """
    WITH sampled AS (SELECT metadata FROM metamon.traces WHERE {where} AND jsonb_typeof(metadata) = 'object' ORDER BY run_id LIMIT 2000)
    SELECT key FROM sampled, jsonb_each(metadata)
    WHERE jsonb_typeof(value) IN ('string', 'boolean') AND length(value::text) < 60 AND length(key) < 60
    GROUP BY key
    HAVING count(DISTINCT value) BETWEEN 2 AND %(extra_values)s AND count(*) >= 0.8 * (SELECT count(*) FROM sampled)
        AND count(*) >= 20 * count(DISTINCT value)
    ORDER BY count(DISTINCT value), key LIMIT %(extra)s"""
_TOOLS = """
    SELECT floor(extract(epoch FROM t.start_time - %(from)s) / 3600)::int AS hour, COALESCE(s.tool_name, s.name) AS tool,
        t.agent_name AS agent, t.agent_version AS version, t.tenant_id AS tenant, t.environment AS environment,
        count(*) AS n, count(*) FILTER (WHERE s.status = 'error') AS failed
    FROM metamon.spans AS s
    JOIN (SELECT * FROM metamon.traces WHERE {where}) AS t USING (day, trace_id, project, source)
    WHERE s.day BETWEEN %(first_day)s AND %(last_day)s AND s.run_type IN ('tool', 'retriever') AND s.status IN ('success', 'error')
    GROUP BY 1, 2, 3, 4, 5, 6"""


@dataclass(frozen=True, slots=True)
class History:
    """``runs``: one row per trace. ``start`` and ``end``: what was read. ``attributes``: its columns that runs can be sliced by.

    ``extra``: those of them that are keys of the metadata. ``left_out``: traces of earlier days that did not fit. ``timezone``: of the
    report, by which hours and weekdays are told. ``reference``: the first so many hours lie before the report, for comparison only.
    ``feeds``: where the runs came from, each with the column ``feed``.
    """

    runs: pd.DataFrame
    start: datetime
    end: datetime
    attributes: tuple[str, ...]
    extra: frozenset[str] = frozenset()
    left_out: int = 0
    timezone: str = "UTC"
    reference: int = 0
    feeds: tuple[Feed, ...] = ()

    @property
    def hours(self) -> int:
        """Whole hours from start to end."""
        return max(round((self.end - self.start).total_seconds() / 3600), 0)


def load(context: Context, most: int = MOST_RUNS) -> History:
    """The traces of the report, or of its latest days that have ``most`` of them; ``start`` is the hour of the first one."""
    history = load_with_reference(context, most)
    if not history.reference:
        return history
    frame = history.runs[history.runs["hour"] >= history.reference].reset_index(drop=True)
    first = 0 if frame.empty else int(frame["hour"].min())
    frame["hour"] -= first
    start = history.end if frame.empty else history.start + timedelta(hours=first)
    return replace(history, runs=frame, start=start, reference=0)


def load_with_reference(context: Context, most: int = MOST_RUNS) -> History:
    """The same with up to ``REFERENCE`` before it. They are read once for all sections of a report."""
    if most not in context.memo.setdefault("histories", {}):
        loaded = _load(with_reference(context), most)
        before = max((context.start - loaded.start) / timedelta(hours=1), 0)
        context.memo["histories"][most] = replace(loaded, reference=min(math.ceil(before), loaded.hours))
    return context.memo["histories"][most]


def with_reference(context: Context) -> Context:
    """The report's period with what lies before it for comparison."""
    return replace(context, start=context.start - REFERENCE)


def _load(context: Context, most: int) -> History:
    where = traces_where(context)
    first, left_out = _first_day(context, where, most)
    end = min(context.end, context.now)
    keys = [key for (key,) in rows(context, _KEYS.format(where=where), {"extra": EXTRA_ATTRIBUTES, "extra_values": EXTRA_VALUES})]
    names = [f"metadata {key}" for key in keys]
    selected = [f"{column} AS {name}" for name, column in COLUMNS.items()]
    selected += [f"metadata ->> %(key_{number})s AS extra_{number}" for number in range(len(keys))]
    values = {f"key_{number}": key for number, key in enumerate(keys)}
    query = (
        f"SELECT extract(epoch FROM start_time - %(from)s) / 3600 AS hour, {', '.join(selected)}, {_MEASURES.format(told=told(context))}"
        f" FROM metamon.traces WHERE {where} AND day >= %(from_day)s AND start_time < %(end_of_data)s"
    )
    more = {"from": first, "from_day": first.date(), "end_of_data": end, "pending_after": PENDING_AFTER} | values
    frame = _copied(context, query, more).rename(columns={f"extra_{number}": name for number, name in enumerate(names)})
    start = first if frame.empty else first + timedelta(hours=int(frame["hour"].min()))
    frame["hour"] -= (start - first).total_seconds() / 3600
    used = tuple(name for name in (*COLUMNS, *names) if frame[name].nunique(dropna=False) > 1)
    history = History(frame, start, max(end, start), used, frozenset(names), left_out, context.timezone)
    return replace(history, feeds=feeds_of(context))


def tool_calls(context: Context, history: History) -> pd.DataFrame:
    """Calls of tools and retrievals that ended, by hour, tool and the main attributes, as far as the history goes: n and failed."""
    context = replace(context, start=min(history.start, context.start))
    frame = _copied(context, _TOOLS.format(where=traces_where(context)), {"from": history.start})
    return frame[(frame["hour"] >= 0) & (frame["hour"] < history.hours)]


def condition(history: History, attributes: Mapping[str, Hashable]) -> tuple[str, dict[str, object]]:
    """SQL on ``analytics.traces`` for a slice, and its parameters; ``tool`` means a failed call of it, None NULL."""
    parts, values = ["true"], dict[str, object]()
    for number, (name, value) in enumerate(attributes.items()):
        key = f"slice_{number}"
        if name == "tool":
            parts.append(
                "(trace_id, project, source) IN (SELECT trace_id, project, source FROM analytics.spans"
                f" WHERE status = 'error' AND COALESCE(tool_name, name) = %({key})s AND day BETWEEN %(first_day)s AND %(last_day)s)"
            )
        elif name in history.extra:
            values[f"{key}_name"] = name.removeprefix("metadata ")
            parts.append(f"metadata ->> %({key}_name)s IS NOT DISTINCT FROM %({key})s")
        else:
            parts.append(f"{COLUMNS[name]} IS NOT DISTINCT FROM %({key})s")
        values[key] = value
    return " AND ".join(parts), values


def named(history: History, attributes: Mapping[str, Hashable]) -> str:
    """A slice for people: ``agent "support", mode "fast"``; all runs where there is no attribute."""
    parts = []
    for name, value in attributes.items():
        label = words.name(name.removeprefix("metadata ")) if name in history.extra else name
        parts.append(f"no {label}" if value is None else f"{label} “{words.name(str(value))}”")
    return ", ".join(parts) if parts else "all runs"


def clock(context: Context, moment: datetime) -> str:
    """A moment to the minute in the report's time zone: ``7 Mar 2026 13:00``."""
    local = moment.astimezone(ZoneInfo(context.timezone))
    return f"{local.day} {local:%b %Y %H:%M}"


def _first_day(context: Context, where: str, most: int) -> tuple[datetime, int]:
    """The start of the earliest day from which on all fits, and how many traces came before it."""
    total = left_out = 0
    first = context.start.astimezone(UTC)
    for day, count in rows(context, _DAYS.format(where=where)):
        if total and total + count > most:
            left_out += count
            continue
        total += count
        if not left_out:
            first = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return max(first, context.start.astimezone(UTC)), left_out


def _copied(context: Context, query: str, more: dict[str, object]) -> pd.DataFrame:
    """The rows of a query as a frame: by COPY and Arrow, some five times faster than row by row."""
    import pyarrow as pa
    from pyarrow import csv

    buffer = io.BytesIO()
    with context.connection, context.connection.cursor() as cursor:
        statement = cursor.mogrify(query, parameters(context) | more).decode()
        cursor.copy_expert(f"COPY ({statement}) TO STDOUT (FORMAT csv, HEADER, ENCODING 'UTF8')", buffer)
    buffer.seek(0)
    texts = {*COLUMNS, "tool", "error_type", "feed", *(f"extra_{number}" for number in range(EXTRA_ATTRIBUTES))}
    header = buffer.getvalue().split(b"\n", 1)[0].decode().split(",")
    types = {name: pa.dictionary(pa.int32(), pa.string()) if name in texts else pa.float64() for name in header}
    table = csv.read_csv(
        buffer,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )
    return table.to_pandas()
