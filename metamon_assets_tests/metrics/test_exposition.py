"""What Prometheus is shown, against what the views say (MET-10)."""

from __future__ import annotations

import datetime as dt
import math
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from metamon_assets.metrics import exposition
from metamon_assets.metrics.exposition import FAMILIES, FEEDBACK_FAMILIES, NOT_YET, REQUEST_FAMILIES, Exposition, Growth, newest_bucket
from metamon_assets.metrics.registry import METRICS, Kind, Scope
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import EmbeddedPostgres
from metamon_assets.warehouse.roles import OWNER, WRITER
from metamon_assets_tests import sample
from metamon_assets_tests.conftest import REPOSITORY, copied

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection

NOW = datetime(2024, 3, 7, 14, 7, 30, tzinfo=UTC)  # on the last day of the sample
TODAY = NOW.date()
Lend: TypeAlias = "Callable[[], AbstractContextManager[Connection]]"


def lender(url: str) -> Lend:
    @contextmanager
    def lend() -> Iterator[Connection]:
        connection = connect(url)
        try:
            yield connection
        finally:
            connection.close()

    return lend


def shown(collector: Exposition) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples as Prometheus would read them."""
    registry = CollectorRegistry()
    registry.register(collector)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


@pytest.fixture
def database(postgres: EmbeddedPostgres, computed: tuple[str, Path]) -> Iterator[str]:
    """A copy of the days of the sample, for the pipeline's role."""
    with copied(postgres, computed[0]) as name:
        yield postgres.url(name, WRITER)


@pytest.mark.parametrize(("scope", "view"), [(Scope.FIVE_MINUTES, "five_minute_metrics"), (Scope.DAY, "daily_metrics")])
def test_gauges_say_what_the_views_say(database: str, scope: Scope, view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT bucket_start FROM analytics.five_minute_metrics WHERE dimension = 'overall' AND requests > 1 ORDER BY 1 DESC"
        )
        (start,) = cursor.fetchone() or (None,)
        now = start + timedelta(minutes=6, seconds=1) if scope is Scope.FIVE_MINUTES else NOW
        found = shown(Exposition(lender(database), now=lambda: now))
        compared = 0
        for metric in METRICS:
            if metric.scope is not scope or metric.kind is Kind.COUNTER:
                continue
            where = "bucket_start = %s" if scope is Scope.FIVE_MINUTES else "day = %s"
            key = start if scope is Scope.FIVE_MINUTES else NOW.date() - timedelta(days=1)
            column = "pending" if metric.name == "pending_requests" else metric.name
            cursor.execute(
                f"SELECT dimension, dimension_value, {column}::float8 FROM analytics.{view} WHERE {where} AND dimension = ANY(%s)",
                (key, list(exposition.DIMENSIONS)),
            )
            wanted = {(d, v): value for d, v, value in cursor.fetchall() if value is not None}
            got = {
                (dict(labels)["dimension"], dict(labels)["value"]): value
                for (name, labels), value in found.items()
                if name == metric.prometheus_name
            }
            assert got == pytest.approx(wanted), metric.name
            compared += len(wanted)
    connection.close()
    assert compared > 20


def test_what_is_in_flight_is_told(database: str) -> None:
    connection = connect(database)
    start = NOW.replace(minute=5, second=0)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT metamon.ensure_partition('completion_metrics', %s)", (TODAY,))
        cursor.execute(
            "SELECT string_agg(attname, ', '), string_agg(CASE WHEN atttypid = 'timestamptz'::regtype THEN 'now()' ELSE '0' END, ', ')"
            " FROM pg_attribute WHERE attrelid = 'metamon.completion_metrics'::regclass AND attnum > 0 AND attnotnull AND NOT atthasdef"
            " AND attname NOT IN ('day', 'bucket_start', 'dimension', 'dimension_value', 'in_flight')"
        )
        names, values = cursor.fetchone() or ("", "")
        cursor.execute("DELETE FROM metamon.completion_metrics WHERE day = %s", (TODAY,))
        for minutes, number in ((0, 7), (-5, 3), (+60, 9)):
            cursor.execute(
                f"INSERT INTO metamon.completion_metrics (day, bucket_start, dimension, dimension_value, in_flight,"
                f" oldest_in_flight_seconds, {names}) VALUES (%s, %s, 'overall', '(all)', %s, 12.5, {values})",
                (TODAY, start + timedelta(minutes=minutes), number),
            )
    connection.close()
    labels = (("dimension", "overall"), ("value", "(all)"))
    found = shown(Exposition(lender(database), now=lambda: NOW))
    assert found["metamon_requests_in_flight", labels] == 7
    assert found["metamon_oldest_in_flight_seconds", labels] == 12.5
    assert ("metamon_requests_in_flight_over_p99", labels) not in found, "unknown is not 0"
    later = shown(Exposition(lender(database), now=lambda: NOW + timedelta(hours=5)))
    assert ("metamon_requests_in_flight", labels) not in later


def test_without_data_there_is_no_sample_and_no_zero(database: str) -> None:
    later = NOW + timedelta(days=30)
    found = shown(Exposition(lender(database), now=lambda: later))
    requests = {metric.prometheus_name for metric in METRICS}
    assert not {name for name, _ in found} & requests
    assert found["metamon_database_up", ()] == 1


def test_counters_start_at_zero_and_grow_by_what_comes(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "CACHED_SECONDS", -1)
    monkeypatch.setattr(exposition, "YESTERDAY_SECONDS", -1)
    collector = Exposition(lender(database), now=lambda: NOW)
    series = ("metamon_requests_total", (("dimension", "overall"), ("value", "(all)")))
    assert shown(collector)[series] == 0

    def add(number: int, day: date = TODAY) -> float:
        connection = connect(database)
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "UPDATE metamon.fifteen_minute_metrics SET requests = requests + %s WHERE ctid IN (SELECT ctid FROM"
                " metamon.fifteen_minute_metrics WHERE day = %s AND dimension = 'overall' ORDER BY requests DESC LIMIT 1)"
                " AND dimension = 'overall' AND day = %s",
                (number, day, day),
            )
            assert cursor.rowcount == 1
        connection.close()
        return shown(collector)[series]

    assert add(5) == 5
    assert add(3, NOW.date() - timedelta(days=1)) == 8
    assert add(-4) == 8, "rows that are corrected do not make a counter fall"
    assert add(4) == 8, "nor count twice"
    assert add(1) == 9
    assert add(7, NOW.date() - timedelta(days=2)) == 9, "history is no traffic of this minute"


def test_growth_goes_on_over_midnight() -> None:
    growth = Growth()
    monday, tuesday, wednesday = (date(2026, 8, day) for day in (24, 25, 26))
    name = "n"
    history: tuple[dict[tuple[date, str, tuple[str, ...]], float], ...] = (
        {(monday, name, ()): 100.0},
        {(monday, name, ()): 110.0},
        {(monday, name, ()): 112.0, (tuesday, name, ()): 5.0},
        {(tuesday, name, ()): 6.0, (wednesday, name, ()): 1.0},
        {},
        {(tuesday, name, ()): 6.0, (wednesday, name, ()): 2.0},
    )
    for sums in history:
        growth.take(sums)
    assert dict(growth.of(name)) == {(): 20.0}
    assert len(growth._highest) == 2


def test_names_that_are_gone_are_forgotten() -> None:
    growth = Growth()
    growth.take({})
    for number in range(10):
        growth.take({(date(2026, 8, 1 + number), "requests", ("agent", f"agent-{number}")): 1.0})
    assert {labels[1] for labels, _ in growth.of("requests")} == {"agent-8", "agent-9"}


@pytest.mark.parametrize(
    ("now", "five", "fifteen"),
    [("12:00:59", "11:50", "11:30"), ("12:01:00", "11:55", "11:45"), ("12:16:00", "12:10", "12:00"), ("00:00:30", "23:50", "23:30")],
)
def test_the_newest_bucket_is_over_for_a_minute(now: str, five: str, fifteen: str) -> None:
    moment = datetime.fromisoformat(f"2026-08-22T{now}+00:00")
    assert f"{newest_bucket(moment, Scope.FIVE_MINUTES):%H:%M}" == five
    assert f"{newest_bucket(moment, Scope.FIFTEEN_MINUTES):%H:%M}" == fifteen
    assert newest_bucket(moment, Scope.DAY).date() == date(2026, 8, 21)


def test_feedback_is_counted_by_key(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "CACHED_SECONDS", -1)
    monkeypatch.setattr(exposition, "YESTERDAY_SECONDS", -1)
    monkeypatch.setattr(exposition, "MOST_FEEDBACK_KEYS", 1)
    collector = Exposition(lender(database), now=lambda: NOW)
    shown(collector)
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT metamon.ensure_partition('feedback', %s)", (NOW.date(),))
        cursor.execute("DELETE FROM metamon.feedback WHERE day = %s", (NOW.date(),))
        cursor.execute(
            "INSERT INTO metamon.feedback (day, source, project, feedback_id, key, created_at, observed_time)"
            " SELECT %s, 's', 'p', 'f' || n, CASE WHEN n <= 90 THEN 'user_rating' ELSE 'key ' || n END, %s, now()"
            " FROM generate_series(1, 100) n",
            (NOW.date(), NOW),
        )
    connection.close()
    found = shown(collector)
    counts = {dict(labels)["key"]: value for (name, labels), value in found.items() if name == "agent_feedback_total"}
    assert set(counts) <= {"user_rating", "(other)"} | {key for key in counts if counts[key] == 0}
    assert counts["(other)"] >= 10


def test_sums_that_shares_consist_of_grow_with_what_comes(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "CACHED_SECONDS", -1)
    monkeypatch.setattr(exposition, "YESTERDAY_SECONDS", -1)
    collector = Exposition(lender(database), now=lambda: NOW)
    before = shown(collector)
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        for dimension in ("agent", "tool"):
            cursor.execute(
                "UPDATE metamon.fifteen_minute_metrics"
                " SET successes = successes + 30, errors = errors + 10, degraded_known = degraded_known + 7"
                " WHERE ctid IN (SELECT ctid FROM metamon.fifteen_minute_metrics WHERE day = %s AND dimension = %s LIMIT 1)"
                " AND day = %s AND dimension = %s RETURNING dimension_value",
                (TODAY, dimension, TODAY, dimension),
            )
            assert cursor.rowcount == 1
    connection.close()
    after = shown(collector)
    grown = {
        key: value - before[key] for key, value in after.items() if key in before and key[0].endswith("_total") and "process" not in key[0]
    }
    found = {(name, dict(labels)["dimension"]): value for (name, labels), value in grown.items() if value}
    assert found == {
        ("metamon_ended_requests_total", "agent"): 40,
        ("metamon_errors_total", "agent"): 10,
        ("metamon_degradation_known_total", "agent"): 7,
        ("metamon_ended_requests_total", "tool"): 40,
        ("metamon_errors_total", "tool"): 10,
    }
    of_tools = {name for name, labels in after if ("dimension", "tool") in labels}
    assert of_tools == {"metamon_requests_total", "metamon_ended_requests_total", "metamon_errors_total"}


def test_figures_of_the_pipeline_are_shown_while_they_are_fresh(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "CACHED_SECONDS", -1)
    monkeypatch.setattr(exposition, "YESTERDAY_SECONDS", -1)
    moment = [NOW]
    collector = Exposition(lender(database), now=lambda: moment[0])
    connection = connect(database)

    def measure(at: datetime, **figures: float) -> None:
        with connection, connection.cursor() as cursor:
            for name, value in figures.items():
                cursor.execute("INSERT INTO metamon.system_metrics (time, name, value) VALUES (%s, %s, %s)", (at, name, value))

    measure(NOW - timedelta(minutes=3), queue_length=9, runs_finished=5, runs_failed=2)
    measure(NOW - timedelta(minutes=1), queue_length=4, host_cpu_share=0.25)
    found = shown(collector)
    assert found["rq_queue_length", ()] == 4
    assert found["metamon_host_cpu_share", ()] == 0.25
    assert ("metamon_host_memory_share", ()) not in found, "unknown is not 0"
    assert found["rq_jobs_total", (("status", "failed"),)] == 0
    measure(NOW, runs_finished=4, runs_failed=1)
    found = shown(collector)
    assert found["rq_jobs_total", (("status", "failed"),)] == 1
    assert found["rq_jobs_total", (("status", "completed"),)] == 3
    moment[0] = NOW + timedelta(minutes=5)
    assert ("rq_queue_length", ()) not in shown(collector)
    connection.close()


def test_caches_are_shown_as_applications_told_them(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "CACHED_SECONDS", -1)
    monkeypatch.setattr(exposition, "YESTERDAY_SECONDS", -1)
    monkeypatch.setattr(exposition, "MOST_CACHES", 2)
    collector = Exposition(lender(database), now=lambda: NOW)
    shown(collector)
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT metamon.ensure_partition('gauge_samples', %s)", (TODAY,))
        for number, (name, minutes, value, labels) in enumerate(
            (
                ("cache_size", 2, 50, '{"cache": "answers"}'),
                ("cache_size", 1, 70, '{"cache": "answers"}'),
                ("cache_size", 1, 10, '{"cache": "small"}'),
                ("cache_size", 1, 5, "{}"),
                ("cache_size", 30, 999, '{"cache": "gone"}'),
                ("cache_capacity", 1, 100, '{"cache": "answers"}'),
                ("cache_operations", 3, 6, '{"cache": "answers", "operation": "evict"}'),
                ("cache_operations", 2, 4, '{"cache": "answers", "operation": "evict"}'),
                ("cache_operations", 2, 3, '{"cache": "small", "operation": "hit"}'),
                ("cache_operations", 2, 2, '{"cache": "tiny", "operation": "hit"}'),
                ("cache_operations", 2, 1, '{"operation": "hit"}'),
                ("cache_operations", 2, 9, '{"operation": "what is this"}'),
            )
        ):
            cursor.execute(
                "INSERT INTO metamon.gauge_samples (day, source, project, name, time, labels, value, observed_time)"
                " VALUES (%s, %s, 'p', %s, %s, %s, %s, now())",
                (TODAY, f"s{number}", name, NOW - timedelta(minutes=minutes), labels, value),
            )
    connection.close()
    found = shown(collector)
    sizes = {dict(labels)["cache"]: value for (name, labels), value in found.items() if name == "metamon_cache_size"}
    assert sizes == {"answers": 70, "small": 10}
    assert found["metamon_cache_capacity", (("cache", "answers"),)] == 100
    operations = {
        (dict(labels)["cache"], dict(labels)["operation"]): value
        for (name, labels), value in found.items()
        if name == "metamon_cache_operations_total" and value
    }
    assert operations == {("answers", "evict"): 10, ("small", "hit"): 3, ("(other)", "hit"): 3}


def test_open_incidents_are_counted_but_for_those_that_are_not_told(database: str) -> None:
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        for number, (rule, severity, status, shadow, late) in enumerate(
            (
                ("Anomaly", "warning", "open", False, False),
                ("Anomaly", "warning", "open", False, False),
                ("Anomaly", "critical", "open", False, False),
                ("Anomaly", "critical", "open", True, False),
                ("SLOBurn", "critical", "open", False, True),
                ("SLOBurn", "critical", "resolved", False, False),
            )
        ):
            cursor.execute(
                "INSERT INTO metamon.incidents (fingerprint, rule, metric, dimension, dimension_value, status, severity, shadow, late,"
                " started_at, opened_at, updated_at, episodes, summary, resolved_at) VALUES (%s, %s, 'm', 'agent', 'a', %s, %s, %s, %s,"
                " now(), now(), now(), 1, 's', CASE WHEN %s = 'resolved' THEN now() END)",
                (f"f{number}", rule, status, severity, shadow, late, status),
            )
    connection.close()
    found = {
        dict(labels)["severity"]: value
        for (name, labels), value in shown(Exposition(lender(database), now=lambda: NOW)).items()
        if name == "metamon_open_incidents"
    }
    assert found == {"warning": 2, "critical": 1}


def test_promtool_finds_nothing_to_say(database: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    registry = CollectorRegistry()
    registry.register(Exposition(lender(database), now=lambda: NOW))
    said = subprocess.run([promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, b"")


def test_labels_are_escaped(database: str) -> None:
    hostile = 'a"b\\c\nd} 1\n# HELP evil'
    connection = connect(database)
    start = newest_bucket(NOW, Scope.FIVE_MINUTES)
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM metamon.five_minute_metrics WHERE dimension = 'agent' AND bucket_start = %s", (start,))
        cursor.execute(
            "SELECT string_agg(attname, ', ') FROM pg_attribute WHERE attrelid = 'metamon.five_minute_metrics'::regclass AND attnum > 0"
            " AND NOT attisdropped AND attname NOT IN ('bucket_start', 'day', 'dimension_value')"
        )
        (columns,) = cursor.fetchone() or ("",)
        cursor.execute(
            f"INSERT INTO metamon.five_minute_metrics (bucket_start, day, dimension_value, {columns}) SELECT %s, %s, %s, {columns}"
            " FROM metamon.five_minute_metrics WHERE dimension = 'agent' AND requests > 0 LIMIT 1",
            (start, start.date(), hostile),
        )
        assert cursor.rowcount == 1
    connection.close()
    found = shown(Exposition(lender(database), now=lambda: NOW))
    assert found["metamon_request_rate_per_second", (("dimension", "agent"), ("value", hostile))] > 0
    assert not [name for name, _ in found if "evil" in name]


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    found = shown(Exposition(lender(f"postgresql:///none?host={tmp_path}")))
    assert found["metamon_database_up", ()] == 0
    assert found["metamon_uptime_seconds", ()] >= 0
    assert {name for name, _ in found} == {"metamon_database_up", "metamon_uptime_seconds", "metamon_build_info"}


def test_it_costs_little_with_as_many_groups_as_there_can_be(postgres: EmbeddedPostgres, computed: tuple[str, Path]) -> None:
    """Two days of 50 agents and 50 models, each with a full histogram in every bucket."""
    with copied(postgres, computed[0]) as name:
        connection = connect(postgres.url(name, OWNER))
        now = datetime.combine(TODAY, dt.time(23, 59), UTC)
        with connection, connection.cursor() as cursor:
            for table, minutes, hours in (("five_minute_metrics", 5, 1), ("fifteen_minute_metrics", 15, 47)):
                cursor.execute(
                    "SELECT string_agg(attname, ', ') FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
                    " AND attname NOT IN ('bucket_start', 'day', 'dimension', 'dimension_value', 'latency_bins', 'latency_counts')",
                    (f"metamon.{table}",),
                )
                (columns,) = cursor.fetchone() or ("",)
                cursor.execute(
                    f"INSERT INTO metamon.{table} (bucket_start, day, dimension, dimension_value, latency_bins, latency_counts, {columns})"
                    f" SELECT b, b::date, d, 'group ' || g, ARRAY(SELECT n::smallint FROM generate_series(1, 60) n),"
                    f" ARRAY(SELECT n FROM generate_series(1, 60) n), {columns}"
                    f" FROM (SELECT * FROM metamon.{table} WHERE dimension = 'overall' AND requests > 0 LIMIT 1) AS one,"
                    f" generate_series(%s::timestamptz, %s::timestamptz, interval '{minutes} minutes') AS b,"
                    " unnest('{agent,model}'::text[]) AS d, generate_series(1, 50) AS g",
                    (now.replace(minute=0) - timedelta(hours=hours), now),
                )
            cursor.execute("ANALYZE metamon.five_minute_metrics, metamon.fifteen_minute_metrics")
        connection.close()
        collector = Exposition(lender(postgres.url(name, WRITER)), now=lambda: now)
        seconds = []
        for _ in range(4):
            begun = time.perf_counter()
            samples = sum(len(family.samples) for family in collector.collect())
            seconds.append(time.perf_counter() - begun)
            collector._kept_at = -math.inf
    print(f"{samples:,} samples in {seconds[0] * 1000:.0f} ms at first, then {min(seconds[1:]) * 1000:.0f} ms")
    assert samples > 2_000
    assert min(seconds) < 0.5  # a machine that does other things too; alone it is about a fifth of that


def test_every_name_that_the_specification_asks_for_is_listed_once() -> None:
    names = [family.name for family in (*FAMILIES, *NOT_YET)]
    assert len(names) == len(set(names))
    required = {
        *("agent_feedback_total", "agent_feedback_rating", "agent_feedback_collection_rate"),
        *(f"learning_examples_{what}" for what in ("pending", "approved", "rejected", "quality_score")),
        *("rq_queue_length", "rq_jobs_total", "rq_job_duration_seconds", "rq_workers_total"),
        *(f"learning_api_{what}" for what in ("requests_total", "request_duration_seconds", "request_size_bytes", "response_size_bytes")),
        *("training_runs_total", "training_run_duration_seconds", "training_run_improvement_percentage"),
        *("ab_tests_active", "ab_test_statistical_significance"),
    }
    assert required <= set(names)
    assert len(FAMILIES) > 30
    assert {metric.prometheus_name for metric in METRICS} < set(names)


def test_every_family_that_is_shown_is_documented(database: str) -> None:
    registry = CollectorRegistry()
    registry.register(Exposition(lender(database), now=lambda: NOW))
    found = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    assert found == {family.name for family in FAMILIES} - {family.name for family in REQUEST_FAMILIES}
    assert {family.name for family in FEEDBACK_FAMILIES} <= found


def test_the_document_is_in_step() -> None:
    assert (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8") == exposition.markdown(), (
        "write docs/metrics.md again: python -c"
        " \"from metamon_assets.metrics.exposition import markdown; print(markdown(), end='')\" > docs/metrics.md"
    )


def test_the_sample_covers_the_day() -> None:
    assert NOW.date() == sample.DAYS[-1]
