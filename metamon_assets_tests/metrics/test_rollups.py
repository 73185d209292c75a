"""Rollups against brute force in Python over the same traces, and what holds between them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from psycopg2.extensions import connection as Connection

from metamon_assets.metrics import Refreshed, refresh_buckets, refresh_days, refresh_five_minutes, touched_buckets
from metamon_assets.metrics.histogram import from_arrays, from_values
from metamon_assets.metrics.rollups import DIMENSIONS, WHOLE_DIMENSIONS, keeps_five_minutes
from metamon_assets.warehouse import connect
from metamon_assets_tests.metrics.traffic import FIRST_DAY, fill, rows

NOW = datetime(2026, 10, 30, tzinfo=UTC)
COLUMNS = {
    "tenant": "tenant_id",
    "agent": "agent_name",
    "agent_version": "agent_version",
    "mode": "mode",
    "prompt_version": "prompt_version",
    "environment": "environment",
    "variant": "variant",
}
Row = dict[str, Any]


def label(trace: Row, dimension: str) -> str | None:
    if dimension == "overall":
        return "(all)"
    if dimension == "model":
        return trace["response_model"] or trace["request_model"] or "(none)"
    value = trace[COLUMNS[dimension]]
    return value if dimension == "variant" or value is not None else "(none)"


def known(traces: list[Row], column: str) -> list[Any]:
    return [trace[column] for trace in traces if trace[column] is not None]


def total(values: list[Any]) -> Any:
    return sum(values) if values else None


def brute_force(traces: list[Row], calls: list[Row]) -> Row:
    """Every request-level sum of some traces and of the calls in them, one column at a time."""

    def where(test: Callable[[Row], Any]) -> list[Row]:
        return [trace for trace in traces if test(trace)]

    hits, misses = where(lambda t: t["cache_hit"]), where(lambda t: t["cache_hit"] is False)
    ended = [call for call in calls if call["status"] in ("success", "error")]
    tools, retrievals = ([c for c in ended if c["run_type"] == kind] for kind in ("tool", "retriever"))
    expected: Row = {
        "requests": len(traces),
        "successes": len(where(lambda t: t["status"] == "success")),
        "errors": len(where(lambda t: t["status"] == "error")),
        "pending": len(where(lambda t: t["status"] == "pending")),
        "abandoned": len(where(lambda t: t["status"] == "abandoned")),
        "degraded_known": len(known(traces, "degraded")),
        "degraded": len(where(lambda t: t["degraded"])),
        "warned_requests": len(where(lambda t: t["warnings"])),
        "warnings": sum(len(warnings) for warnings in known(traces, "warnings")),
        "tasks_known": len(known(traces, "task_completed")),
        "tasks_completed": len(where(lambda t: t["task_completed"])),
        "cache_known": len(known(traces, "cache_hit")),
        "cache_hits": len(hits),
        "hit_latency_count": len(known(hits, "latency_seconds")),
        "hit_latency_sum": total(known(hits, "latency_seconds")),
        "miss_latency_count": len(known(misses, "latency_seconds")),
        "miss_latency_sum": total(known(misses, "latency_seconds")),
        "tokens_count": len(known(traces, "total_tokens")),
        "cache_read_tokens_count": len(known(traces, "cache_read_input_tokens")),
        "priced_requests": len(known(traces, "total_cost")),
        "unpriced_requests": len(traces) - len(known(traces, "total_cost")),
        "total_cost_sum_squares": total([float(cost) ** 2 for cost in known(traces, "total_cost")]),
        "hit_priced_requests": len(known(hits, "total_cost")),
        "hit_cost": total(known(hits, "total_cost")),
        "miss_priced_requests": len(known(misses, "total_cost")),
        "miss_cost": total(known(misses, "total_cost")),
        "tool_results": len(tools),
        "tool_errors": len([c for c in tools if c["status"] == "error"]),
        "retrieval_results": len(retrievals),
        "retrieval_errors": len([c for c in retrievals if c["status"] == "error"]),
        "tool_cost": total([c["own_cost"] for c in calls if c["run_type"] == "tool" and c["own_cost"] is not None]),
        "retrieval_cost": total([c["own_cost"] for c in calls if c["run_type"] != "tool" and c["own_cost"] is not None]),
    }
    for column in ("input_tokens", "output_tokens", "total_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
        expected[column] = total(known(traces, column))
    for column in ("reasoning_output_tokens", "input_cost", "output_cost", "total_cost", "llm_calls", "tool_calls", "retrievals"):
        expected[column] = total(known(traces, column))
    names = {"latency": "latency_seconds", "time_to_first_token": "time_to_first_token_seconds", "quality": "quality_score"}
    for name, column in names.items():
        values = known(traces, column)
        expected |= {f"{name}_count": len(values), f"{name}_sum": total(values), f"{name}_sum_squares": total([v * v for v in values])}
        expected[f"{name}_histogram"] = from_values(values)
    return expected


def assert_row(found: Row, expected: Row) -> None:
    for column, value in expected.items():
        if column.endswith("_histogram"):
            name = column.removesuffix("_histogram")
            if f"{name}_bins" in found:  # five-minute rows have that of latency only
                assert from_arrays(*(found[f"{name}_{part}"] for part in ("bins", "counts", "zeros"))) == value, column
        elif isinstance(value, float):
            assert found[column] == pytest.approx(value, rel=1e-12), column
        else:
            assert found[column] == value, (column, found["dimension"], found["dimension_value"])


def all_calls(connection: Connection) -> list[Row]:
    """Tool calls and retrievals with the trace they belong to and what they cost by themselves."""
    calls = rows(
        connection,
        "SELECT day, source, project, run_id, trace_id, run_type, tool_name, name, status, start_time, latency_seconds, total_cost"
        " FROM (SELECT * FROM metamon.spans UNION ALL SELECT * FROM metamon.traces) AS runs"
        " WHERE run_type IN ('tool', 'retriever', 'embedding', 'reranker')",
    )
    priced = {
        (row["day"], row["source"], row["project"], row["parent_run_id"])
        for row in rows(connection, "SELECT day, source, project, parent_run_id FROM metamon.spans WHERE total_cost IS NOT NULL")
    }
    for call in calls:
        call["own_cost"] = None if (call["day"], call["source"], call["project"], call["run_id"]) in priced else call["total_cost"]
    return calls


def groups_of(connection: Connection, seconds: int) -> dict[tuple[str, str, datetime], tuple[list[Row], list[Row]]]:
    """Traces, and the calls in them, by dimension, value and start of the bucket."""
    by_trace = defaultdict(list)
    for call in all_calls(connection):
        by_trace[call["day"], call["source"], call["project"], call["trace_id"]].append(call)
    found: dict[tuple[str, str, datetime], tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for trace in rows(connection, "SELECT * FROM metamon.traces"):
        start = datetime.fromtimestamp(trace["start_time"].timestamp() // seconds * seconds, UTC)
        for dimension in DIMENSIONS[:9]:
            value = label(trace, dimension)
            if value is not None:
                found[dimension, value, start][0].append(trace)
                found[dimension, value, start][1].extend(by_trace[trace["day"], trace["source"], trace["project"], trace["trace_id"]])
    return found


@pytest.mark.parametrize(("table", "seconds"), [("five_minute_metrics", 300), ("fifteen_minute_metrics", 900)])
def test_every_bucket_is_what_brute_force_finds(database: str, table: str, seconds: int) -> None:
    connection = fill(database, days=2)
    refresh_days(connection, [FIRST_DAY, FIRST_DAY + timedelta(days=1)], NOW)
    found = rows(connection, f"SELECT * FROM metamon.{table} WHERE dimension <> 'tool'")
    expected = groups_of(connection, seconds)
    assert {(row["dimension"], row["dimension_value"], row["bucket_start"]) for row in found} == expected.keys()
    for row in found:
        assert row["day"] == row["bucket_start"].date()
        assert_row(row, brute_force(*expected[row["dimension"], row["dimension_value"], row["bucket_start"]]))


def test_every_day_is_what_brute_force_finds(database: str) -> None:
    connection = fill(database, days=2)
    days = [FIRST_DAY, FIRST_DAY + timedelta(days=1)]
    refresh_days(connection, days, NOW)
    found = rows(connection, "SELECT * FROM metamon.daily_metrics WHERE dimension <> 'tool'")
    expected = groups_of(connection, 86_400)
    assert {(row["dimension"], row["dimension_value"], row["day"]) for row in found} == {(d, v, s.date()) for d, v, s in expected}
    for row in found:
        traces, calls = expected[row["dimension"], row["dimension_value"], datetime.combine(row["day"], datetime.min.time(), UTC)]
        assert_row(row, brute_force(traces, calls))
        assert row["error_types"] == counts([t["error_type"] or "(none)" for t in traces if t["status"] == "error"])
        assert row["degradation_reasons"] == counts([t["degradation_reason"] or "(none)" for t in traces if t["degraded"]])
        assert row["warning_types"] == counts([warning for t in traces for warning in t["warnings"] or ()])
        users = {(t["tenant_id"], t["user_id"]) for t in traces if t["user_id"] is not None}
        conversations = {(t["tenant_id"], t["conversation_id"]) for t in traces if t["conversation_id"] is not None}
        if row["dimension"] in ("overall", "tenant", "agent", "variant"):
            assert (row["users"], row["conversations"]) == (len(users), len(conversations)), row["dimension_value"]
        else:
            assert (row["users"], row["conversations"]) == (None, None)


def counts(values: list[str]) -> dict[str, int]:
    return {value: values.count(value) for value in set(values)}


def test_tools_have_rows_of_their_calls(database: str) -> None:
    connection = fill(database)
    refresh_days(connection, [FIRST_DAY], NOW)
    last_moment = datetime(2026, 10, 24, 23, 59, 59, tzinfo=UTC)
    expected = defaultdict(list)
    for call in all_calls(connection):
        if call["run_type"] == "tool":
            start = min(call["start_time"], last_moment)
            expected[call["tool_name"] or call["name"], datetime.fromtimestamp(start.timestamp() // 300 * 300, UTC)].append(call)
    found = rows(connection, "SELECT * FROM metamon.five_minute_metrics WHERE dimension = 'tool'")
    assert {(row["dimension_value"], row["bucket_start"]) for row in found} == expected.keys()
    for row in found:
        calls = expected[row["dimension_value"], row["bucket_start"]]
        latencies, costs = known(calls, "latency_seconds"), known(calls, "total_cost")
        ended = [call["status"] for call in calls if call["status"] in ("success", "error")]
        assert (row["requests"], row["tool_results"], row["tool_errors"]) == (len(calls), len(ended), ended.count("error"))
        assert (row["pending"], row["total_cost"]) == ([c["status"] for c in calls].count("pending"), total(costs))
        assert from_arrays(row["latency_bins"], row["latency_counts"], row["latency_zeros"]) == from_values(latencies)


def test_feedback_counts_for_the_day_of_the_trace_whenever_it_came(database: str) -> None:
    connection = fill(database)
    refresh_days(connection, [FIRST_DAY], NOW)
    (day,) = rows(connection, "SELECT * FROM metamon.daily_metrics WHERE dimension = 'overall'")
    given = rows(connection, "SELECT * FROM metamon.feedback")
    spans = {(s["source"], s["project"], s["run_id"]): s["trace_id"] for s in rows(connection, "SELECT * FROM metamon.spans")}
    roots = rows(connection, "SELECT * FROM metamon.traces")
    by_run = {(t["source"], t["project"], t["run_id"]): [t["run_id"]] for t in roots}
    by_trace = defaultdict(list)
    for t in roots:
        by_trace[t["source"], t["project"], t["trace_id"]].append(t["run_id"])
    about = [
        (row, root)
        for row in given
        for root in by_run.get((row["source"], row["project"], row["run_id"]))
        or by_trace[row["source"], row["project"], spans[row["source"], row["project"], row["run_id"]]]
    ]
    assert day["feedback_count"] == len(about) > 200
    assert day["rated_requests"] == len({root for _, root in about})
    rating = [row["score"] for row, _ in about if row["key"] == "user_rating"]
    assert day["feedback"]["user_rating"] == {
        "count": len(rating),
        "score_count": len([score for score in rating if score is not None]),
        "score_sum": sum(score for score in rating if score is not None),
    }
    assert day["feedback"].keys() == {"user_rating", "thumbs"}


def test_units_are_what_brute_force_finds(database: str) -> None:
    connection = fill(database)
    refresh_days(connection, [FIRST_DAY], NOW)
    traces = rows(connection, "SELECT * FROM metamon.traces")
    for unit in ("user", "conversation"):
        expected = defaultdict(list)
        for trace in traces:
            if trace[f"{unit}_id"] is not None:
                expected[trace[f"{unit}_id"], trace["tenant_id"], trace["agent_name"], trace["variant"]].append(trace)
        found = rows(connection, "SELECT * FROM metamon.unit_daily WHERE unit_type = %s", (unit,))
        assert len(found) == len(expected)
        for row in found:
            of_unit = expected[row["unit_id"], row["tenant_id"], row["agent_name"], row["variant"]]
            all_sums = brute_force(of_unit, [])
            assert_row(row, {name: value for name, value in all_sums.items() if name in row})
            starts = known(of_unit, "start_time")
            assert (row["first_start_time"], row["last_start_time"]) == (min(starts), max(starts))


SUMS = "requests, errors, warnings, total_cost, input_tokens, latency_count, tool_errors, latency_zeros"


def table_content(connection: Connection, table: str) -> list[tuple[Any, ...]]:
    """All rows of a table but for when they were computed; floats to twelve digits."""
    found = rows(connection, f"SELECT * FROM metamon.{table}")
    for row in found:
        row.pop("refreshed_at", None)
        row.pop("group_id", None)
    plain = [tuple(f"{value:.12g}" if isinstance(value, float) else str(value) for value in row.values()) for row in found]
    return sorted(plain)


TABLES = ("five_minute_metrics", "fifteen_minute_metrics", "daily_metrics", "unit_daily", "metric_groups")


def test_again_together_and_side_by_side_give_the_same_rows(database: str) -> None:
    connection = fill(database, days=2, traces=300)
    days = [FIRST_DAY, FIRST_DAY + timedelta(days=1)]
    first = refresh_days(connection, days, NOW)
    once = {table: table_content(connection, table) for table in TABLES}
    assert all(once.values())
    second = connect(database)
    for again in (
        lambda: refresh_days(connection, days, NOW),
        lambda: refresh_days(connection, [days[1]], NOW) + refresh_days(connection, [days[0]], NOW),
        lambda: refresh_days(connection, days, NOW, second=second),
    ):
        assert again() == first
        assert {table: table_content(connection, table) for table in TABLES} == once


def test_buckets_of_a_day_are_the_same_in_windows(database: str) -> None:
    connection = fill(database, traces=300)
    refresh_days(connection, [FIRST_DAY], NOW)
    whole = {table: table_content(connection, table) for table in TABLES[:2]}
    midnight = datetime.combine(FIRST_DAY, datetime.min.time(), UTC)
    for hour in range(0, 24, 6):
        refresh_buckets(connection, midnight + timedelta(hours=hour), midnight + timedelta(hours=hour + 6), NOW)
    assert {table: table_content(connection, table) for table in TABLES[:2]} == whole


def test_every_whole_dimension_adds_up_to_the_traces(database: str) -> None:
    connection = fill(database)
    refresh_days(connection, [FIRST_DAY], NOW, top=2)
    (raw,) = rows(connection, "SELECT count(*) AS requests, sum(total_cost) AS total_cost FROM metamon.traces")
    for table in TABLES[:3]:
        for row in rows(
            connection, f"SELECT dimension, sum(requests) AS requests, sum(total_cost) AS total_cost FROM metamon.{table} GROUP BY 1"
        ):
            if row["dimension"] in WHOLE_DIMENSIONS:
                assert (row["requests"], row["total_cost"]) == (raw["requests"], raw["total_cost"]), (table, row["dimension"])


def test_large_dimensions_keep_the_largest_the_watched_and_other(database: str) -> None:
    connection = fill(database)
    with connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO metamon.watched_groups VALUES ('agent_version', 'v8', 'just released')")
    refresh_days(connection, [FIRST_DAY], NOW, top=3)
    versions = [t["agent_version"] for t in rows(connection, "SELECT agent_version FROM metamon.traces") if t["agent_version"] is not None]
    largest = sorted(set(versions), key=lambda v: (-versions.count(v), v))[:3]
    found = {
        row["dimension_value"]: row for row in rows(connection, "SELECT * FROM metamon.daily_metrics WHERE dimension = 'agent_version'")
    }
    assert found.keys() == {*largest, "v8", "(none)", "(other)"}
    rest = [v for v in versions if v not in {*largest, "v8"}]
    assert found["(other)"]["requests"] == len(rest) > 0
    quarters = rows(connection, "SELECT DISTINCT dimension_value FROM metamon.fifteen_minute_metrics WHERE dimension = 'agent_version'")
    assert {row["dimension_value"] for row in quarters} == found.keys()  # the same choice in every bucket of the day


def test_units_in_other_are_counted_once(database: str) -> None:
    connection = fill(database)
    refresh_days(connection, [FIRST_DAY], NOW, top=1)
    for dimension, column in (("tenant", "tenant_id"), ("agent", "agent_name"), ("variant", "variant")):
        (kept,) = rows(
            connection,
            "SELECT dimension_value FROM metamon.metric_groups WHERE dimension = %s AND dimension_value NOT LIKE '(%%'",
            (dimension,),
        )
        (found,) = rows(
            connection, "SELECT users FROM metamon.daily_metrics WHERE dimension = %s AND dimension_value = '(other)'", (dimension,)
        )
        (expected,) = rows(
            connection,
            f"SELECT count(DISTINCT (tenant_id, user_id)) AS users FROM metamon.traces WHERE user_id IS NOT NULL AND {column} <> %s",
            (kept["dimension_value"],),
        )
        assert found == expected


def test_enormous_figures_are_exact(database: str) -> None:
    connection = fill(database, traces=50)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE metamon.traces SET total_cost = 99999999.999999999999, input_cost = 99999999.999999999999, cost_source = 'reported',"
            " total_tokens = 9000000000, input_tokens = 9000000000 WHERE run_id IN ('r1', 'r2', 'r3')"
        )
    refresh_days(connection, [FIRST_DAY], NOW)
    sums = "SELECT sum(total_cost) AS total_cost, sum(input_cost) AS input_cost, sum(total_tokens) AS total_tokens FROM metamon."
    (raw,) = rows(connection, sums + "traces")
    assert raw["total_cost"] > Decimal(299_999_999)
    for table in TABLES[:3]:
        assert rows(connection, f"{sums}{table} WHERE dimension = 'overall'") == [raw]


def test_a_changed_trace_changes_its_buckets_only(database: str) -> None:
    connection = fill(database, traces=300)
    refresh_days(connection, [FIRST_DAY], NOW)
    (trace,) = rows(connection, "SELECT start_time FROM metamon.traces WHERE run_id = 'r7'")
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.traces SET agent_name = 'brand-new' WHERE run_id = 'r7'")
        cursor.execute("UPDATE metamon.five_minute_metrics SET refreshed_at = '2026-01-01Z'")
    quarters = touched_buckets([trace["start_time"]])
    refreshed = refresh_five_minutes(connection, [trace["start_time"]], NOW)
    assert refreshed.five_minute_rows > 0
    assert refreshed.daily_rows == refreshed.unit_rows == 0
    touched = rows(connection, "SELECT DISTINCT bucket_start FROM metamon.five_minute_metrics WHERE refreshed_at > '2026-01-02Z'")
    assert {quarter for row in touched for quarter in touched_buckets([row["bucket_start"]])} == set(quarters)
    # A value that nobody saw when the day was chosen has rows of its own at once.
    found = rows(connection, "SELECT requests FROM metamon.five_minute_metrics WHERE dimension_value = 'brand-new'")
    assert found == [{"requests": 1}]


def test_the_live_feed_may_come_before_the_daily_run_and_fills_up_to_the_limit(database: str) -> None:
    connection = fill(database, traces=200)
    runs = "SELECT start_time FROM metamon.traces UNION ALL SELECT start_time FROM metamon.spans WHERE run_type = 'tool'"
    starts = [row["start_time"] for row in rows(connection, runs) if row["start_time"].date() == FIRST_DAY]
    refresh_five_minutes(connection, starts, NOW)
    live = {table: table_content(connection, table) for table in TABLES[:2]}
    refresh_days(connection, [FIRST_DAY], NOW)
    assert {table: table_content(connection, table) for table in TABLES[:2]} == live


def test_new_values_are_in_other_when_there_is_no_room(database: str) -> None:
    connection = fill(database, traces=200)
    midnight = datetime.combine(FIRST_DAY, datetime.min.time(), UTC)
    refresh_days(connection, [FIRST_DAY], NOW, top=2)
    chosen = table_content(connection, "metric_groups")
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.traces SET agent_version = 'brand-new'")
    refresh_buckets(connection, midnight, midnight + timedelta(days=1), NOW, top=2)
    assert table_content(connection, "metric_groups") == chosen
    values = rows(connection, "SELECT DISTINCT dimension_value AS v FROM metamon.five_minute_metrics WHERE dimension = 'agent_version'")
    assert [row["v"] for row in values] == ["(other)"]


def test_five_minutes_are_kept_for_fourteen_days(database: str) -> None:
    connection = fill(database, traces=100)
    end = datetime(2026, 10, 25, tzinfo=UTC)
    assert refresh_days(connection, [FIRST_DAY], end).five_minute_rows > 0
    later = refresh_days(connection, [FIRST_DAY], end + timedelta(days=14))
    assert later.five_minute_rows == 0
    assert later.fifteen_minute_rows > 0
    assert table_content(connection, "five_minute_metrics") == []
    assert keeps_five_minutes(FIRST_DAY, end + timedelta(days=14, microseconds=-1))


def test_a_day_without_traces_has_no_rows(database: str) -> None:
    connection = fill(database, traces=50)
    refresh_days(connection, [FIRST_DAY], NOW)
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM metamon.traces")
        cursor.execute("DELETE FROM metamon.spans")
    assert refresh_days(connection, [FIRST_DAY, FIRST_DAY + timedelta(days=3)], NOW) == Refreshed()
    assert all(table_content(connection, table) == [] for table in TABLES[:4])


def test_bounds_that_cut_a_bucket_are_refused(database: str) -> None:
    noon = datetime(2026, 10, 24, 12, tzinfo=UTC)
    with pytest.raises(ValueError, match="whole quarters of an hour"):
        refresh_buckets(connect(database), noon, noon + timedelta(minutes=5), NOW)
    with pytest.raises(ValueError, match="top must be between"):
        refresh_days(connect(database), [FIRST_DAY], NOW, top=301)


def test_a_failure_in_one_half_is_raised_and_the_lock_is_given_back(database: str) -> None:
    import psycopg2

    connection, second = fill(database, traces=50), connect(database)
    second.close()
    with pytest.raises(psycopg2.InterfaceError):
        refresh_days(connection, [FIRST_DAY], NOW, second=second)
    refresh_days(connect(database), [FIRST_DAY], NOW, second=connection)  # would wait for ever if the lock were still held


def test_days_add_up_in_every_time_zone(database: str) -> None:
    connection = fill(database, days=3, traces=250)
    refresh_days(connection, [FIRST_DAY + timedelta(days=number) for number in range(3)], NOW)
    traces = rows(connection, "SELECT * FROM metamon.traces")
    for zone in ("UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe"):
        assert_days_add_up(connection, traces, zone)


def assert_days_add_up(connection: Connection, traces: list[Row], zone: str) -> None:
    expected: dict[date, list[Row]] = defaultdict(list)
    for trace in traces:
        expected[trace["start_time"].astimezone(ZoneInfo(zone)).date()].append(trace)
    # The range of local days holds every trace, and its sums are those of the days.
    found = rows(
        connection,
        "SELECT *, metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.95) AS p95"
        " FROM analytics.daily_totals(%s, %s, %s) WHERE dimension = 'overall'",
        (zone, min(expected), max(expected)),
    )
    assert {row["local_day"]: row["requests"] for row in found} == {day: len(of_day) for day, of_day in expected.items()}, zone
    for row in found:
        sums = brute_force(expected[row["local_day"]], [])
        assert_row(row, {name: value for name, value in sums.items() if not name.startswith(("tool_", "retrieval_"))})
        latencies = sorted(known(expected[row["local_day"]], "latency_seconds"))
        truth = latencies[max(math.ceil(0.95 * len(latencies)), 1) - 1] if latencies else None
        assert row["p95"] == pytest.approx(truth, rel=0.0101)
    assert sum(row["requests"] for row in found) == len(traces)
    assert sum(row["total_cost"] or 0 for row in found) == sum(known(traces, "total_cost"))
