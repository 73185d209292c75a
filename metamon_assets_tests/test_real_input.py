"""Real input through the whole pipeline: recorded model calls, OTLP payloads, agent episodes, from files to metrics.

The figures that are expected are computed from the files themselves, by other means than the product's.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from metamon_assets import jobs
from metamon_assets.definitions import build_definitions
from metamon_assets.traces.available import available_days
from metamon_assets.traces.configured import open_sources
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.resources import Warehouse

Query = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def query(database: str) -> Iterator[Query]:
    connection = connect(database)

    def ask(text: str) -> list[tuple[Any, ...]]:
        with connection, connection.cursor() as cursor:
            cursor.execute(text)
            return list(cursor.fetchall())

    yield ask
    connection.close()


@pytest.fixture
def compute(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[date]]:
    """Configure sources and run the daily job over every day that they have something for."""

    def run(*sources: dict[str, Any]) -> list[date]:
        (tmp_path / "metamon.yaml").write_text(json.dumps({"sources": sources}))
        monkeypatch.setenv("METAMON_HOME", str(tmp_path))
        warehouse = Warehouse(url=database)
        connection = connect(database)
        days = sorted(available_days(connection, open_sources(connection, warehouse.settings), datetime.now(UTC).date()).days)
        connection.close()
        definitions = build_definitions({"warehouse": warehouse})
        with dg.DagsterInstance.ephemeral() as instance:
            for chunk in jobs.chunks(days):
                jobs.execute(definitions, instance, jobs.DAILY, chunk)
        return days

    return run


def test_recorded_model_calls(shared_data: Path, compute: Callable[..., list[date]], query: Query) -> None:
    path = shared_data / "llm_latency" / "thefastest_ai_llm_latency.csv"
    with path.open(newline="") as file:
        calls = list(csv.DictReader(file))
    days = compute({"type": "files", "project": "probes", "path": str(path), "map": "llm-latency"})
    assert len(days) == 19
    assert query(
        "SELECT count(*), count(*) FILTER (WHERE status = 'error'), count(total_cost), sum(output_tokens) FROM metamon.traces"
    ) == [(len(calls), 1, 0, sum(int(call["num_tokens"]) for call in calls))]
    by_day: dict[date, list[float]] = {}
    for call in calls:
        if float(call["total_time_s"]) > 0:
            by_day.setdefault(date.fromisoformat(call["time"][:10]), []).append(float(call["total_time_s"]))
    measured = query(
        "SELECT day, requests, latency_count, latency_sum,"
        " metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.5),"
        " metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.95),"
        " metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.99)"
        " FROM metamon.daily_metrics WHERE dimension = 'overall' ORDER BY day"
    )
    assert [row[0] for row in measured] == sorted(by_day)
    for day, _, count, total, *quantiles in measured:
        assert count == len(by_day[day])
        assert total == pytest.approx(sum(by_day[day]), rel=1e-9)
        for q, found in zip((0.5, 0.95, 0.99), quantiles, strict=True):
            exact = np.quantile(by_day[day], q, method="inverted_cdf")
            assert found == pytest.approx(exact, rel=0.0102), f"p{100 * q:.0f} of {day}"
    models = {row[0] for row in query("SELECT dimension_value FROM metamon.daily_metrics WHERE dimension = 'model'")}
    assert len(models) > 20
    assert query("SELECT count(*) FROM quarantine.rejected_rows") == [(0,)]


def test_otlp_payloads(shared_data: Path, compute: Callable[..., list[date]], query: Query) -> None:
    files = sorted((shared_data / "otlp").glob("otlp_*.json"))
    spans = [
        span
        for file in files
        for resource in json.loads(file.read_text())["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    compute({"type": "otlp", "project": "default", "path": str(shared_data / "otlp" / "otlp_*.json")})
    roots = [span for span in spans if not span.get("parentSpanId")]
    assert query("SELECT count(*) FROM metamon.traces") == [(len({span["traceId"] for span in spans}),)]
    assert query("SELECT count(*) FROM metamon.traces WHERE NOT root_inferred") == [(len(roots),)]
    assert query("SELECT count(*) FROM metamon.spans") == [(len(spans) - len(roots),)]
    assert query("SELECT count(*) FROM metamon.traces WHERE error_type ~ 'APIConnectionError' AND status = 'error'") == [(2,)]
    # Both instrumentations recorded the same calls, so tokens and cost must agree, and roots carry their children's.
    both = query(
        "SELECT (metadata->>'scope' ~ 'openinference' OR name = 'ChatCompletion') AS openinference, sum(input_tokens), sum(output_tokens),"
        " sum(total_cost) FROM (SELECT * FROM metamon.spans UNION ALL SELECT * FROM metamon.traces WHERE run_type = 'llm') r"
        " WHERE run_type = 'llm' GROUP BY 1 ORDER BY 1"
    )
    assert len(both) == 2
    assert both[0][1:] == both[1][1:]
    assert query("SELECT count(*) FROM metamon.traces WHERE 'total_cost' = ANY(derived_columns)")[0][0] > 0


def test_agent_episodes(shared_data: Path, compute: Callable[..., list[date]], query: Query) -> None:
    path = shared_data / "episodes" / "taubench_gpt4o_airline_episodes.csv"
    with path.open(newline="") as file:
        episodes = list(csv.DictReader(file))
    days = compute({"type": "files", "project": "tau-bench", "path": str(path), "map": "tau-bench-episodes"})
    assert len(days) == 1
    rewards = [float(episode["reward"]) for episode in episodes]
    found = query(
        "SELECT requests, quality_count, quality_sum, tasks_known, tasks_completed, tool_calls, latency_count, total_cost, priced_requests"
        " FROM metamon.daily_metrics WHERE dimension = 'overall'"
    )
    tool_calls = sum(int(episode["n_tool_calls"]) for episode in episodes)
    assert found == [(200, 200, sum(rewards), 200, int(sum(rewards)), tool_calls, 0, None, 0)]
    assert query("SELECT bool_and(time_declared), count(latency_seconds) FROM metamon.traces") == [(True, 0)]


def test_steps_of_episodes(shared_data: Path, compute: Callable[..., list[date]], query: Query) -> None:
    path = shared_data / "episodes" / "tau_airline_gpt4o.jsonl"
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    compute({"type": "files", "project": "tau-bench-steps", "path": str(path), "map": "tau-bench-steps"})
    assert query("SELECT count(*) FROM metamon.traces") == [(len({step["trace_id"] for step in steps}),)]
    assert query("SELECT count(*) FROM metamon.spans") == [(len(steps),)]
    errors = sum(1 for step in steps if step["span_type"] == "tool" and step["error_text"])
    assert query("SELECT tool_errors FROM metamon.daily_metrics WHERE dimension = 'overall'") == [(errors,)]
