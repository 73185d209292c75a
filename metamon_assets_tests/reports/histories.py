"""Histories for tests of the report: traces, spans and payloads written as given, everything else left unknown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from psycopg2.extensions import connection as Connection

from metamon_assets.warehouse import connect

FIRST = date(2026, 10, 1)
DAYS = 14
START = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC)
END = START + timedelta(days=DAYS)
NOW = END + timedelta(hours=8)

Row = Mapping[str, Any]

# Many traces at once, each with a tool and a model call; agents, tenants and users are dealt in turn.
_MANY = """
    INSERT INTO metamon.traces (day, source, project, run_id, trace_id, run_type, agent_name, tenant_id, user_id, conversation_id, mode,
        environment, agent_version, start_time, latency_seconds, status, error_type, response_model, provider, input_tokens, output_tokens,
        total_tokens, input_cost, output_cost, total_cost, cost_source, observed_time)
    SELECT start::date, 'files', 'p', 'r' || i, 'r' || i, 'chain', 'agent-' || i %% 6, 'tenant-' || i %% 40,
        'user-' || i %% 4000, 'c' || i / 2,
        'mode-' || i %% 3, 'production', 'v1', start, exp(0.8 * draw), CASE WHEN i %% 50 = 0 THEN 'error' ELSE 'success' END,
        CASE WHEN i %% 50 = 0 THEN 'Timeout' END, 'gpt-4o', 'openai', 1500, 200, 1700, 0.00375, 0.002, 0.00575, 'computed', start
    FROM (SELECT i, %(start)s::timestamptz + i * interval '14 days' / %(count)s AS start, random() + random() + random() - 1.5 AS draw
        FROM generate_series(0, %(count)s - 1) i) runs"""
_MANY_SPANS = """
    INSERT INTO metamon.spans (day, source, project, run_id, trace_id, parent_run_id, run_type, name, start_time, latency_seconds, status,
        provider, response_model, input_tokens, output_tokens, input_cost, output_cost, total_cost, cost_source, observed_time)
    SELECT day, source, project, run_id || '.' || k, trace_id, run_id, CASE k WHEN 1 THEN 'tool' ELSE 'llm' END,
        CASE k WHEN 1 THEN 'search' ELSE 'answer' END, start_time + k * interval '10 ms', latency_seconds * k / 4,
        CASE WHEN k = 1 AND status = 'error' THEN 'error' ELSE 'success' END, CASE k WHEN 2 THEN 'openai' END,
        CASE k WHEN 2 THEN 'gpt-4o' END,
        CASE k WHEN 2 THEN input_tokens END, CASE k WHEN 2 THEN output_tokens END, CASE k WHEN 2 THEN input_cost END,
        CASE k WHEN 2 THEN output_cost END, CASE k WHEN 2 THEN total_cost END, CASE k WHEN 2 THEN 'computed' ELSE 'unpriced' END, start_time
    FROM metamon.traces, generate_series(1, 2) k"""
_MANY_PAYLOADS = """
    INSERT INTO metamon.payloads (day, source, project, run_id, inputs, observed_time)
    SELECT day, source, project, run_id, repeat(md5(run_id), 30), start_time FROM metamon.traces"""


def opened(database: str) -> Connection:
    """A connection to a database that has a partition for every day of the period."""
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        for table in ("traces", "spans", "payloads", "feedback"):
            cursor.execute("SELECT metamon.ensure_partition(%s, %s::date + i) FROM generate_series(0, %s) i", (table, FIRST, DAYS - 1))
    return connection


def fill(connection: Connection, count: int, *, spans: bool = True, payloads: bool = True) -> None:
    """``count`` traces evenly over the period; each cost $0.00575, every fiftieth failed."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT setseed(0.42)")
        cursor.execute(_MANY, {"start": START, "count": count})
        if spans:
            cursor.execute(_MANY_SPANS)
        if payloads:
            cursor.execute(_MANY_PAYLOADS)
        cursor.execute("ANALYZE metamon.traces")
    connection.commit()


def write(connection: Connection, traces: Iterable[Row] = (), spans: Iterable[Row] = (), payloads: Iterable[Row] = ()) -> None:
    """Rows by column name; what a row must have is filled in. ``hours``: hours after the start of the period."""
    for table, rows in (("traces", traces), ("spans", spans), ("payloads", payloads)):
        _insert(connection, table, [_complete(table, number, row) for number, row in enumerate(rows)])


def _complete(table: str, number: int, row: Row) -> dict[str, Any]:
    values = dict(row)
    start = START + timedelta(hours=values.pop("hours", 0.0))
    run_id = values.get("run_id", f"{table[0]}{number}")
    defaults: dict[str, Any] = {"day": start.date(), "source": "files", "project": "p", "run_id": run_id, "observed_time": start}
    if table != "payloads":
        status = "unpriced" if values.get("total_cost") is None else "reported"
        defaults |= {"trace_id": run_id, "run_type": "chain", "start_time": start, "status": "success", "cost_source": status}
    return defaults | values


def _insert(connection: Connection, table: str, rows: list[dict[str, Any]]) -> None:
    """In one statement; Postgres fills in what a row does not name."""
    if not rows:
        return
    names = sorted({name for row in rows for name in row})
    with connection, connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO metamon.{table} ({', '.join(names)}) SELECT {', '.join(names)}"
            f" FROM jsonb_populate_recordset(NULL::metamon.{table}, %s::jsonb)",
            (json.dumps(rows, default=str),),
        )
