"""Completion buckets against brute force in Python over the same runs: what ended, and what was in flight."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection
from psycopg2.extras import execute_values

from metamon_assets.metrics.completions import (
    BUCKET,
    DIMENSIONS,
    drop_old_partitions,
    refresh_completion_days,
    refresh_completions,
)
from metamon_assets.metrics.histogram import bin_of, from_arrays, from_values
from metamon_assets.metrics.rollups import refresh_days
from metamon_assets.warehouse import connect
from metamon_assets_tests.metrics.traffic import rows

DAY = date(2026, 10, 24)
START = datetime(2026, 10, 24, tzinfo=UTC)
GIVEN_UP = timedelta(days=14)
Row = dict[str, Any]
COLUMNS = (
    *("day", "source", "project", "run_id", "trace_id", "run_type", "name", "agent_name", "agent_version", "mode", "tenant_id"),
    *("environment", "request_model", "tool_name", "start_time", "end_time", "latency_seconds", "time_to_first_token_seconds"),
    *("status", "degraded", "cache_hit", "quality_score", "input_tokens", "output_tokens", "total_tokens", "total_cost"),
    *("cost_source", "observed_time"),
)
LABELS = {
    "tenant": "tenant_id",
    "agent": "agent_name",
    "agent_version": "agent_version",
    "mode": "mode",
    "model": "request_model",
    "environment": "environment",
}


def run(run_id: str, start: datetime, seconds: float | None = None, status: str = "success", **more: Any) -> Row:
    """A run that took ``seconds``, or has no end."""
    end = None if seconds is None else start + timedelta(seconds=seconds)
    row: Row = dict.fromkeys(COLUMNS)
    row |= {"day": start.date(), "source": "files", "project": "p", "run_id": run_id, "trace_id": run_id, "run_type": "chain"}
    row |= {"start_time": start, "end_time": end, "latency_seconds": seconds, "status": status, "agent_name": "support"}
    return row | {"cost_source": "unpriced", "observed_time": start} | more


def random_runs(draw: random.Random, count: int, first: datetime, hours: float) -> list[Row]:
    """Runs of all kinds: short, of many hours, of weeks, without an end, on the edges of buckets, with everything missing somewhere."""

    def maybe(value: Any, share: float = 0.7) -> Any:
        return value if draw.random() < share else None

    found = []
    for number in range(count):
        start = first + timedelta(microseconds=int(draw.random() * hours * 3.6e9))
        if draw.random() < 0.05:
            start = start.replace(minute=start.minute - start.minute % 5, second=0, microsecond=0)
        seconds = draw.choice([0.0, 300.0, 300.000001, draw.expovariate(1 / 20), draw.expovariate(1 / 400), draw.uniform(0, 90_000), 1.3e6])
        status = draw.choices(["success", "error", "pending", "abandoned"], [70, 15, 10, 5])[0]
        ended = status in ("success", "error") and draw.random() < 0.95
        cost = maybe(round(draw.random(), 6))
        found.append(
            run(
                f"r{number}",
                start,
                seconds if ended else None,
                status,
                run_type=draw.choice(["chain", "chain", "chain", "tool"]),
                name="step",
                tool_name=maybe(f"tool-{draw.randrange(3)}"),
                agent_name=maybe(f"agent-{draw.randrange(3)}"),
                agent_version=maybe(f"v{draw.randrange(60)}"),
                mode=maybe("fast"),
                tenant_id=maybe(f"tenant-{draw.randrange(5)}"),
                environment=maybe("production"),
                request_model=maybe(f"model-{draw.randrange(2)}"),
                time_to_first_token_seconds=maybe(draw.random()),
                degraded=maybe(draw.random() < 0.2),
                cache_hit=maybe(draw.random() < 0.4),
                quality_score=maybe(draw.random()),
                input_tokens=maybe(draw.randrange(900)),
                total_tokens=maybe(draw.randrange(2000)),
                total_cost=cost,
                cost_source="unpriced" if cost is None else "reported",
            )
        )
    return found


def write(connection: Connection, runs: Iterable[Row], table: str = "traces") -> None:
    runs = list(runs)
    with connection, connection.cursor() as cursor:
        for day in sorted({row["day"] for row in runs}):
            cursor.execute("SELECT metamon.ensure_partition(%s, %s)", (table, day))
        values = [[row[name] for name in COLUMNS] for row in runs]
        execute_values(cursor, f"INSERT INTO metamon.{table} ({', '.join(COLUMNS)}) VALUES %s", values)


def groups(connection: Connection, day: date) -> set[tuple[str, str]]:
    found = rows(connection, "SELECT dimension, dimension_value FROM metamon.metric_groups WHERE day = %s", (day,))
    return {(row["dimension"], row["dimension_value"]) for row in found}


def places(row: Row, is_call: bool, known: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Dimension and value of every row that a run counts in."""
    if is_call:
        found = [("tool", row["tool_name"] or row["name"] or "(none)")]
    else:
        found = [("overall", "(all)"), *((dimension, row[column] or "(none)") for dimension, column in LABELS.items())]
    return [(dimension, value if (dimension, value) in known else "(other)") for dimension, value in found]


def expected(traces: list[Row], spans: list[Row], day: date, now: datetime, known: set[tuple[str, str]]) -> dict[tuple[Any, ...], Row]:
    """All buckets of a day as far as ``now``: one run and one bucket at a time."""
    counted = [(row, False) for row in traces] + [(row, True) for row in [*spans, *traces] if row["run_type"] == "tool"]
    found: dict[tuple[Any, ...], Row] = defaultdict(lambda: {"ended": [], "flying": []})
    for number in range(288):
        begin = datetime.combine(day, datetime.min.time(), UTC) + number * BUCKET
        if begin > now:
            break
        moment = min(begin + BUCKET, now)
        for row, is_call in counted:
            start, end = row["start_time"], row["end_time"]
            ended_at = end or start
            lasting = (end or start) - start <= GIVEN_UP
            gone_at = min(end or datetime.max.replace(tzinfo=UTC), start + GIVEN_UP)
            is_open = end is not None or row["status"] in ("pending", "abandoned")
            for place in places(row, is_call, known):
                if row["status"] in ("success", "error") and begin <= ended_at < begin + BUCKET and lasting:
                    found[begin, *place]["ended"].append(row)
                if is_open and start < moment <= gone_at:
                    found[begin, *place]["flying"].append((moment - start).total_seconds())
    return found


def total(values: list[Any]) -> Any:
    return sum(values) if values else None


def assert_near(found: Any, wanted: float | None) -> None:
    assert (found is None) == (wanted is None)
    assert wanted is None or float(found) == pytest.approx(wanted, rel=1e-9)


def assert_buckets(connection: Connection, wanted: dict[tuple[Any, ...], Row], day: date, now: datetime) -> None:
    found = rows(connection, "SELECT * FROM metamon.completion_metrics WHERE day = %s", (day,))
    assert {(row["bucket_start"], row["dimension"], row["dimension_value"]) for row in found} == wanted.keys()
    for row in found:
        runs, ages = wanted[row["bucket_start"], row["dimension"], row["dimension_value"]].values()
        statuses = [run["status"] for run in runs]
        counts = (row["completed"], row["successes"], row["errors"])
        assert counts == (len(runs), statuses.count("success"), statuses.count("error"))
        is_call = row["dimension"] == "tool"
        for name, column in (
            ("latency", "latency_seconds"),
            ("time_to_first_token", "time_to_first_token_seconds"),
            ("quality", "quality_score"),
        ):
            values = [] if is_call and name != "latency" else [run[column] for run in runs if run[column] is not None]
            assert row[f"{name}_count"] == len(values)
            assert_near(row[f"{name}_sum"], total(values))
            assert_near(row[f"{name}_sum_squares"], total([value**2 for value in values]))
            if name == "latency":
                assert from_arrays(row["latency_bins"], row["latency_counts"], row["latency_zeros"]) == from_values(values)
        for name in ("degraded", "cache_hit"):
            values = [] if is_call else [run[name] for run in runs if run[name] is not None]
            known, hits = ("degraded_known", "degraded") if name == "degraded" else ("cache_known", "cache_hits")
            assert (row[known], row[hits]) == (len(values), sum(values))
        for name in ("input_tokens", "total_tokens"):
            assert row[name] == (None if is_call else total([run[name] for run in runs if run[name] is not None]))
        costs = [run["total_cost"] for run in runs if run["total_cost"] is not None]
        assert row["priced_runs"] == len(costs)
        assert_near(row["total_cost"], total(costs))
        assert row["in_flight"] == len(ages)
        assert_near(row["oldest_in_flight_seconds"], max(ages, default=None))
        assert row["in_flight_at"] == min(row["bucket_start"] + BUCKET, now)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_day_is_what_brute_force_finds(database: str, seed: int) -> None:
    draw = random.Random(seed)
    # From before what is still in flight on the day up to the day itself, which lasts still.
    traces = [*random_runs(draw, 250, START, 24), *random_runs(draw, 60, START - timedelta(days=15), 15 * 24)]
    traces = [row | {"run_id": f"t{number}"} for number, row in enumerate(traces)]
    # Spans live in the day of their root: calls of a trace that has lasted for days are in the day of its start.
    spans = [
        row | {"run_id": f"s{number}", "trace_id": "t1", "day": row["day"] - timedelta(days=draw.choice([0, 0, 1, 2, 13]))}
        for number, row in enumerate(random_runs(draw, 100, START, 24))
    ]
    now = START + timedelta(hours=17, minutes=3)
    connection = connect(database)
    write(connection, traces)
    write(connection, spans, "spans")

    refresh_completion_days(connection, [DAY], now)

    wanted = expected(traces, spans, DAY, now, groups(connection, DAY))
    assert {place[0] for _, *place in wanted} == set(DIMENSIONS)
    assert ("agent_version", "(other)") in {tuple(place) for _, *place in wanted}  # more than have rows of their own
    assert_buckets(connection, wanted, DAY, now)


def test_buckets_one_by_one_are_those_of_the_day(database: str) -> None:
    """Live and computed later are the same: each bucket refreshed on its own, in any order, against the whole day at once."""
    draw = random.Random(4)
    connection = connect(database)
    write(connection, random_runs(draw, 300, START - timedelta(hours=2), 6))
    later = START + timedelta(days=1)
    buckets = [START + number * BUCKET for number in range(48)]
    draw.shuffle(buckets)
    refresh_completion_days(connection, [DAY], later)  # chooses the groups
    whole = facts(connection)
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM metamon.completion_metrics")

    for bucket in buckets:
        refresh_completions(connection, [bucket + timedelta(seconds=draw.random() * 299)], later)

    assert facts(connection) == [row for row in whole if row["bucket_start"] < START + 48 * BUCKET]
    refresh_completions(connection, [START + number * BUCKET for number in range(288)], later)  # many at once
    assert facts(connection) == whole


def facts(connection: Connection) -> list[Row]:
    found = rows(connection, "SELECT * FROM metamon.completion_metrics ORDER BY bucket_start, dimension, dimension_value")
    floats = [f"{name}_{part}" for name in ("latency", "time_to_first_token", "quality") for part in ("sum", "sum_squares")]
    floats.append("total_cost_sum_squares")
    return [
        {name: float(f"{value:.9g}") if name in floats and value is not None else value for name, value in row.items()}
        | {"refreshed_at": None}
        for row in found
    ]


def flying(connection: Connection, bucket: datetime, dimension: str = "overall", value: str = "(all)") -> tuple[Any, ...] | None:
    found = rows(
        connection,
        "SELECT in_flight, in_flight_known, in_flight_over_p99, oldest_in_flight_seconds FROM metamon.completion_metrics"
        " WHERE bucket_start = %s AND dimension = %s AND dimension_value = %s",
        (bucket, dimension, value),
    )
    return tuple(found[0].values()) if found else None


def test_what_hangs_is_seen_against_the_p99_of_its_agent(database: str) -> None:
    connection = connect(database)
    yesterday = START - timedelta(days=1)
    # 1,000 runs of support with a p99 of some ten seconds, 999 of search: too few to know theirs.
    write(connection, [run(f"y{n}", yesterday + timedelta(seconds=60 * n), 10 if n % 50 == 0 else 1) for n in range(1000)])
    write(connection, [run(f"z{n}", yesterday + timedelta(seconds=60 * n), 1, agent_name="search") for n in range(999)])
    refresh_days(connection, [yesterday.date()], START)
    now = START + timedelta(minutes=62)
    write(
        connection,
        [
            run("hung", now - timedelta(seconds=3000), None, "pending"),
            run("slow", now - timedelta(seconds=11), None, "pending"),
            run("fine", now - timedelta(seconds=9), None, "pending"),
            run("unknown", now - timedelta(seconds=3000), None, "pending", agent_name="search"),
        ],
    )
    current, earlier = START + timedelta(minutes=60), START + timedelta(minutes=30)
    refresh_completions(connection, [current, earlier], now)

    assert bin_of(10) is not None
    assert flying(connection, current) == (4, 3, 2, 3000)
    assert flying(connection, current, "agent", "support") == (3, 3, 2, 3000)
    assert flying(connection, current, "agent", "search") == (1, 0, None, 3000)  # no p99 yet: not known, which is not zero
    assert flying(connection, earlier, "agent", "support") == (1, 1, 1, 3000 - 27 * 60)

    with connection, connection.cursor() as cursor:  # it ends after all: it hung until then all the same
        cursor.execute("UPDATE metamon.traces SET end_time = %s, status = 'error' WHERE run_id = 'hung'", (now + timedelta(seconds=10),))
    refresh_completions(connection, [current, earlier, current + BUCKET], now + timedelta(minutes=6))
    assert flying(connection, earlier, "agent", "support") == (1, 1, 1, 3000 - 27 * 60)
    assert flying(connection, current, "agent", "support") == (2, 2, 2, 191)


def test_what_was_given_up_is_not_in_flight_any_more(database: str) -> None:
    connection = connect(database)
    start = START + timedelta(minutes=1)
    write(connection, [run("p", start - GIVEN_UP, None, "pending"), run("a", start - GIVEN_UP, None, "abandoned", agent_name=None)])
    refresh_completion_days(connection, [DAY], START + timedelta(minutes=20))
    assert rows(connection, "SELECT * FROM metamon.completion_metrics") == []
    yesterday = START - BUCKET
    refresh_completions(connection, [yesterday], START + timedelta(minutes=20))
    assert flying(connection, yesterday) == (2, 0, None, (GIVEN_UP - timedelta(minutes=1)).total_seconds())


def test_a_run_that_ends_elsewhere_leaves_its_bucket(database: str) -> None:
    connection = connect(database)
    write(connection, [run("r", START, 10)])
    assert refresh_completions(connection, [START], START + BUCKET) == len(DIMENSIONS) - 1
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.traces SET end_time = end_time + interval '10 minutes'")
    refresh_completions(connection, [START, START + 2 * BUCKET], START + 3 * BUCKET)
    found = rows(connection, "SELECT bucket_start, completed, in_flight FROM metamon.completion_metrics WHERE dimension = 'overall'")
    assert sorted(tuple(row.values()) for row in found) == [(START, 0, 1), (START + 2 * BUCKET, 1, 0)]


def test_old_days_have_no_five_minutes(database: str) -> None:
    connection = connect(database)
    write(connection, [run("r", START, 10)])
    now = START + timedelta(days=16)
    assert refresh_completions(connection, [START], now) == 0
    refresh_completion_days(connection, [DAY], START + timedelta(days=1))
    assert refresh_completion_days(connection, [DAY], now) == 0
    assert rows(connection, "SELECT * FROM metamon.completion_metrics") == []


def test_a_bucket_that_has_not_begun_has_no_row(database: str) -> None:
    connection = connect(database)
    write(connection, [run("r", START, 1000)])
    assert refresh_completions(connection, [START + 2 * BUCKET], START + BUCKET) == 0


def test_enormous_figures_are_exact(database: str) -> None:
    connection = connect(database)
    write(connection, [run(name, START, 10, total_cost=99_999_999, cost_source="reported", total_tokens=2**60) for name in "rs"])
    refresh_completions(connection, [START], START + BUCKET)
    (row,) = rows(connection, "SELECT total_cost, total_tokens FROM metamon.completion_metrics WHERE dimension = 'overall'")
    assert tuple(map(int, row.values())) == (199_999_998, 2**61)


def test_days_that_are_no_longer_kept_are_dropped_and_raw_tables_never(database: str) -> None:
    connection = connect(database)
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=back) for back in (0, 13, 14, 15, 40)]
    with connection, connection.cursor() as cursor:
        for table in ("five_minute_metrics", "completion_metrics", "fifteen_minute_metrics", "traces"):
            for day in days:
                cursor.execute("SELECT metamon.ensure_partition(%s, %s)", (table, day))
    assert drop_old_partitions(connection, datetime.now(UTC)) == 4  # two days of two tables
    assert drop_old_partitions(connection, datetime.now(UTC)) == 0
    left = rows(
        connection,
        "SELECT t.name, count(*) FROM unnest(ARRAY['five_minute_metrics', 'completion_metrics', 'fifteen_minute_metrics', 'traces'])"
        " AS t (name), unnest(%s) AS d (day) WHERE metamon.partition_exists(t.name, d.day) GROUP BY 1 ORDER BY 1",
        (days,),
    )
    assert [row["count"] for row in left] == [3, 5, 3, 5]
    for table, day in (("traces", days[-1]), ("completion_metrics", today - timedelta(days=3))):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), connection, connection.cursor() as cursor:
            cursor.execute("SELECT metamon.drop_old_partitions(%s, %s)", (table, day))


def test_dropping_waits_for_nobody(database: str) -> None:
    connection, reader = connect(database), connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT metamon.ensure_partition('completion_metrics', %s)", (date(2020, 1, 1),))
    with reader.cursor() as cursor:
        cursor.execute("SELECT * FROM metamon.completion_metrics")  # and goes on reading
        assert drop_old_partitions(connection, datetime.now(UTC)) == 0
    reader.rollback()
    assert drop_old_partitions(connection, datetime.now(UTC)) == 1
