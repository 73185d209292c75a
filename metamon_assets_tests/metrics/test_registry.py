"""The list of metrics: complete, computable, and the source of the views and of the table in the documents."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from metamon_assets.metrics import METRICS, refresh_days
from metamon_assets.metrics.registry import BY_NAME, Kind, Metric, Scope, markdown, views
from metamon_assets.warehouse.migrations import sql_folder
from metamon_assets_tests.metrics.traffic import FIRST_DAY, fill, rows

NOW = datetime(2026, 10, 30, tzinfo=UTC)


def test_the_views_are_those_of_the_list() -> None:
    text = (sql_folder() / "views" / "metrics.sql").read_text(encoding="utf-8")
    assert text == views(), "sql/views/metrics.sql is not what registry.views() gives: write it again (see the module's docstring)"


def test_names_are_unique_and_fit_for_prometheus() -> None:
    assert len(BY_NAME) == len(METRICS) > 30
    names = [metric.prometheus_name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"metamon_[a-z][a-z0-9_]*", name) for name in names)
    assert BY_NAME["latency_p95"].prometheus_name == "metamon_latency_p95_seconds"
    assert BY_NAME["total_cost"].prometheus_name == "metamon_total_cost_dollars_total"
    assert BY_NAME["input_tokens"].prometheus_name == "metamon_input_tokens_total"


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_described_whole(metric: Metric) -> None:
    assert metric.requirement in {f"MET-{number}" for number in range(1, 6)}
    assert metric.description.endswith(".")
    assert (metric.kind is Kind.RATIO) <= bool(metric.denominator)
    assert (metric.kind is Kind.HISTOGRAM) == (metric.quantile is not None)
    assert f"| {metric.name} |" in markdown()


def test_every_metric_has_a_value_on_a_day_that_has_everything(database: str) -> None:
    connection = fill(database)
    refresh_days(connection, [FIRST_DAY], NOW)
    values = {row["metric"]: row for row in rows(connection, "SELECT * FROM analytics.metric_values WHERE dimension = 'overall'")}
    assert values.keys() == BY_NAME.keys()
    assert [name for name, row in values.items() if row["value"] is None or row["n"] == 0] == []
    (day,) = rows(connection, "SELECT * FROM analytics.daily_metrics WHERE dimension = 'overall'")
    for name, row in values.items():
        assert float(day[name]) == pytest.approx(row["value"]), name
    assert day["error_rate"] == pytest.approx(day["errors"] / (day["successes"] + day["errors"]))
    assert day["request_rate"] == pytest.approx(600 / 86_400)
    assert float(day["month_cost_estimate"]) == pytest.approx(31 * float(day["total_cost"]))


@pytest.mark.parametrize("scope", list(Scope))
def test_every_rollup_has_the_metrics_of_its_scope(database: str, scope: Scope) -> None:
    connection = fill(database, traces=300)
    refresh_days(connection, [FIRST_DAY], NOW)
    found = rows(connection, f"SELECT * FROM analytics.{scope} WHERE dimension = 'overall' ORDER BY requests DESC LIMIT 1")
    assert {metric.name for metric in METRICS if metric.in_scope(scope)} <= found[0].keys()
    seconds = {"five_minute_metrics": 300, "fifteen_minute_metrics": 900, "daily_metrics": 86_400}[scope]
    assert found[0]["request_rate"] == pytest.approx(found[0]["requests"] / seconds)


def test_what_nobody_reports_is_null_and_not_instrumented(database: str) -> None:
    connection = fill(database, traces=100)
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.traces SET quality_score = NULL, time_to_first_token_seconds = NULL, cache_hit = NULL")
        cursor.execute("SELECT metamon.ensure_partition('gauge_samples', %s)", (FIRST_DAY,))
        cursor.execute(
            "INSERT INTO metamon.gauge_samples (day, source, project, name, time, labels, kind, value, observed_time)"
            " SELECT %(day)s, 'files', 'p', 'cache_operations', %(day)s + interval '10 hours', jsonb_build_object('operation', o),"
            " 'counter', n, now() FROM (VALUES ('hit', 30), ('miss', 10), ('evict', 6)) AS v (o, n)",
            {"day": FIRST_DAY},
        )
    refresh_days(connection, [FIRST_DAY], NOW)
    (day,) = rows(connection, "SELECT * FROM analytics.daily_metrics WHERE dimension = 'overall'")
    assert [day[name] for name in ("quality_mean", "quality_p50", "time_to_first_token_mean", "cache_hit_rate", "cache_saved_cost")] == [
        None
    ] * 5
    states = {row["metric"]: row for row in rows(connection, "SELECT * FROM analytics.instrumentation")}
    assert states["quality_mean"]["state"] == states["cache_size"]["state"] == "not instrumented"
    assert states["quality_mean"]["what_would_change_that"] == "quality_score on the run, 0 to 1"
    assert '"name": "cache_size"' in states["cache_size"]["what_would_change_that"]
    assert (states["cache_operations"]["state"], states["cache_operations"]["last_day"]) == ("instrumented", FIRST_DAY)
    assert states["total_cost"]["state"] == "instrumented"
    (cache,) = rows(connection, "SELECT * FROM analytics.cache_operations")
    assert (cache["hits"], cache["hit_rate"], cache["evictions_per_second"], cache["writes"]) == (30, 0.75, 0.02, None)
    assert cache["bucket_start"] == datetime(2026, 10, 24, 10, tzinfo=UTC)


def test_engagement_counts_users_once_a_day(database: str) -> None:
    connection = fill(database)
    refresh_days(connection, [FIRST_DAY], NOW)
    found = {row["tenant_id"]: row for row in rows(connection, "SELECT * FROM analytics.engagement_daily")}
    expected = rows(
        connection,
        "SELECT tenant_id, count(*) AS users, count(*) FILTER (WHERE n > 1) AS engaged FROM (SELECT tenant_id, user_id, count(*) AS n"
        " FROM metamon.traces WHERE user_id IS NOT NULL GROUP BY 1, 2) AS users GROUP BY 1",
    )
    assert {row["tenant_id"]: (row["users"], row["engaged"]) for row in expected} == {
        tenant: (row["users"], row["engaged_users"]) for tenant, row in found.items()
    }


def test_a_range_s_ratio_is_the_ratio_of_its_sums(database: str) -> None:
    connection = fill(database, days=2, traces=300)
    refresh_days(connection, [FIRST_DAY, FIRST_DAY + timedelta(days=1)], NOW)
    metric = BY_NAME["cost_per_request"]
    (found,) = rows(
        connection,
        f"SELECT sum({metric.numerator}) / sum({metric.denominator}) AS v FROM metamon.daily_metrics WHERE dimension = 'overall'",
    )
    (raw,) = rows(connection, "SELECT avg(total_cost) AS v FROM metamon.traces")
    assert float(found["v"]) == pytest.approx(float(raw["v"]))
