"""Metric expressions of metamon.yaml: what may be said, and that nothing else reaches the database."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metamon_assets.config.expressions import ExpressionError, parse
from metamon_assets.metrics.expressions import COLUMNS, compile_metric
from metamon_assets.warehouse import connect

ALLOWED = [
    "CASE WHEN status = 'error' THEN 0 ELSE 1 END",
    "(metadata ->> 'resolved') = 'true'",
    "(metadata ->> 'it''s %s')::numeric * 1.5",
    "cardinality(warnings) > 0",
    "'vip' = ANY(tags)",
    "total_cost / nullif(output_tokens, 0)",
    "latency_seconds BETWEEN 1 AND 2 AND mode IN ('chat', 'batch')",
    "extract(epoch from end_time - start_time) > 30",
    "agent_name LIKE 'support%'",
    "NOT coalesce(degraded, false)",
    "round(ln(greatest(latency_seconds, 0.001))::numeric, 2)",
    "task_completed IS NOT TRUE -- a remark",
]
TRACES = [
    {
        "status": "error",
        "latency_seconds": 1.5,
        "mode": "chat",
        "agent_name": "support-eu",
        "tags": ["vip"],
        "output_tokens": 0,
        "start_time": "2026-01-01T00:00:00Z",
        "end_time": "2026-01-01T00:01:00Z",
        "warnings": [],
        "metadata": {"resolved": "true"},
    },
    {"status": "success", "total_cost": 0.5, "output_tokens": 7, "degraded": True, "task_completed": True, "metadata": {"it's %s": "2"}},
    {},
]
REFUSED = {
    "1; DROP TABLE metamon.traces": "give one SQL expression",
    "(SELECT count(*) FROM metamon.payloads)": "not allowed here",
    "run_id IN (SELECT run_id FROM metamon.payloads)": "IN takes a list of values",
    "EXISTS (SELECT 1)": "not allowed here",
    "pg_sleep(10)": "the function pg_sleep",
    "pg_read_file('/etc/passwd')": "the function pg_read_file",
    "sum(latency_seconds)": "not allowed here",
    "row_number() OVER ()": "not allowed here",
    "current_user": "not allowed here",
    "status::regclass": "not allowed here",
    "%(p0)s": "not allowed here",
    "$1": "not allowed here",
    "metamon.traces.status": "write status",
    "mode ~ '(a+)+$'": "not allowed here",
    "latncy_seconds": "did you mean latency_seconds?",
    "inputs LIKE '%secret%'": "there is no column inputs",
    "(metadata ->> status) = 'x'": "write the key of metadata ->> status as text",
    "CAST(status AS text FORMAT 'x')": "without FORMAT",
    "status = '\x00'": "NUL",
    '"cardinality"(tags) > 1': "the function cardinality",
    "": "give one SQL expression",
    "1e999": "too large",
    "status = 'error": "not an SQL expression",
    "(" * 400 + "1" + ")" * 400: "not an SQL expression",
    "1" + " + 1" * 300: "at most",
}


@pytest.mark.parametrize("text", ALLOWED)
def test_what_is_allowed_means_the_same_to_the_database(text: str, database: str) -> None:
    compiled = compile_metric(text)
    assert "'" not in compiled.sql, "literals go as parameters"
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMPORARY TABLE given_traces ON COMMIT DROP AS SELECT * FROM jsonb_populate_recordset(NULL::metamon.traces, %s)",
            (json.dumps(TRACES),),
        )
        cursor.execute(f"SELECT {compiled.sql} FROM given_traces t ORDER BY status", compiled.parameters)
        ours = cursor.fetchall()
        cursor.execute(f"SELECT {text}\n FROM given_traces ORDER BY status")
        assert ours == cursor.fetchall()
    connection.close()


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=[text[:40] for text in REFUSED])
def test_everything_else_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError, match=reason.replace("?", r"\?")):
        compile_metric(text)


@given(st.text(alphabet="abc_'\"\\%();,-*/ =<>$1.0[]{}:|#\n", max_size=40))
def test_no_text_gets_past_the_list(text: str) -> None:
    try:
        parse(text)
        compiled = compile_metric(text)
    except ExpressionError:
        return
    assert not set("';\\") & set(compiled.sql)
    assert "--" not in compiled.sql
    assert "/*" not in compiled.sql


def test_payloads_are_no_columns() -> None:
    assert {"latency_seconds", "metadata", "tags"} <= COLUMNS
    assert not {"inputs", "outputs"} & COLUMNS
