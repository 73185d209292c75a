"""Every rule of the catalogue fires, holds back and is resolved, from rows that were ingested or from what is measured of the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from metamon_assets.alerts.catalogue import bundled
from metamon_assets.metrics.completions import BUCKET
from metamon_assets_tests.alerts.scene import Scene, scene

Happens = Callable[[Scene], None]
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Case:
    """What a minute is like when all is well, when it is bad, and when it is as bad but too thin to tell."""

    good: Happens
    bad: Happens
    thin: Happens | None = None
    group: str = "overall:(all)"
    severity: str = "warning"
    bad_minutes: int = 25  # by when it has fired
    good_minutes: int = 45  # by when it is resolved
    calm_before: int = 5
    step: timedelta = BUCKET


def slow(seconds: float) -> dict[str, float]:
    return {"seconds": seconds}


CASES: dict[str, Case] = {
    "HighErrorRate": Case(lambda s: s.runs(30), lambda s: s.runs(30, bad=9), lambda s: s.runs(1, bad=1)),
    "HighLatency": Case(
        lambda s: s.runs(60), lambda s: s.runs(60, bad=12, bad_values=slow(15)), lambda s: s.runs(1, bad=1, bad_values=slow(15))
    ),
    "VeryHighLatency": Case(
        lambda s: s.runs(250),
        lambda s: s.runs(250, bad=20, bad_values=slow(40)),
        lambda s: s.runs(1, bad=1, bad_values=slow(40)),
        severity="critical",
    ),
    "LowCacheHitRate": Case(
        lambda s: s.runs(20, bad=4, good_values={"cache_hit": True}, bad_values={"cache_hit": False}),
        lambda s: s.runs(20, bad=19, good_values={"cache_hit": True}, bad_values={"cache_hit": False}),
        lambda s: s.runs(1, cache_hit=False),
        bad_minutes=45,
        good_minutes=60,
    ),
    "LowQualityScore": Case(
        lambda s: s.runs(20, quality_score=0.95),
        lambda s: s.runs(20, bad=10, good_values={"quality_score": 0.7}, bad_values={"quality_score": 0.5}),
        lambda s: s.runs(1, quality_score=0.1),
        bad_minutes=35,
    ),
    "HighDegradationRate": Case(
        lambda s: s.runs(20, degraded=False),
        lambda s: s.runs(20, bad=12, good_values={"degraded": False}, bad_values={"degraded": True}),
        lambda s: s.runs(1, degraded=True),
        bad_minutes=35,
    ),
    "ToolFailureRateHigh": Case(
        lambda s: s.calls(10, 0, "tool", "search"),
        lambda s: s.calls(10, 5, "tool", "search"),
        lambda s: s.calls(1, 1, "tool", "search"),
        group="tool:search",
        bad_minutes=35,
    ),
    "RAGFailureRateHigh": Case(
        lambda s: s.calls(10, 0, "retriever", "index"),
        lambda s: s.calls(10, 5, "retriever", "index"),
        lambda s: s.calls(1, 1, "retriever", "index"),
        severity="critical",
        bad_minutes=35,
    ),
    "SuddenCostSpike": Case(
        lambda s: s.runs(10, total_cost="0.01"),
        lambda s: s.runs(10, total_cost="0.05"),
        severity="critical",
        calm_before=70,
        bad_minutes=40,
        good_minutes=40,
    ),
    "CacheNearCapacity": Case(
        lambda s: s.cache(500),
        lambda s: s.cache(980),
        good_minutes=40,
    ),
    "HighCacheEvictionRate": Case(
        lambda s: s.gauge("cache_operations", 20, "counter", operation="evict"),
        lambda s: s.gauge("cache_operations", 9000, "counter", operation="evict"),
        bad_minutes=30,
        good_minutes=45,
    ),
    "LearningWorkerDown": Case(lambda s: s.beat(), lambda s: None, severity="critical", good_minutes=20),
    "CriticalQueueLength": Case(
        lambda s: s.figure("queue_length", 3), lambda s: s.figure("queue_length", 501), severity="critical", good_minutes=20
    ),
    "HighQueueLength": Case(lambda s: s.figure("queue_length", 3), lambda s: s.figure("queue_length", 101)),
    "NoJobsCompleting": Case(
        lambda s: s.figure("runs_finished", 1),
        lambda s: s.figure("runs_finished", 0),
        severity="critical",
        calm_before=65,
        bad_minutes=65,
        good_minutes=20,
    ),
    "HighJobFailureRate": Case(
        lambda s: s.jobs(2, 0),
        lambda s: s.jobs(2, 1),
        lambda s: s.jobs(0, 0),
        bad_minutes=30,
        good_minutes=85,
    ),
    "SlowJobExecution": Case(lambda s: s.figure("run_seconds_p95", 60), lambda s: s.figure("run_seconds_p95", 4000), good_minutes=20),
    "HighMemoryUsage": Case(lambda s: s.figure("host_memory_share", 0.5), lambda s: s.figure("host_memory_share", 0.95)),
    "HighCPUUsage": Case(lambda s: s.figure("host_cpu_share", 0.3), lambda s: s.figure("host_cpu_share", 0.95)),
    "HighDatabaseConnections": Case(
        lambda s: s.figure("database_connections", 20), lambda s: s.figure("database_connections", 81), severity="info", good_minutes=20
    ),
    "HighAPILatency": Case(lambda s: s.figure("api_latency_p95", 0.1), lambda s: s.figure("api_latency_p95", 3)),
    "HighPendingAnnotations": Case(
        lambda s: s.figure("pending_annotations", 5), lambda s: s.figure("pending_annotations", 101), good_minutes=20
    ),
    "VeryHighPendingAnnotations": Case(
        lambda s: s.figure("pending_annotations", 5), lambda s: s.figure("pending_annotations", 501), severity="info", good_minutes=20
    ),
    "OptimizationJobFailing": Case(
        lambda s: s.figure("optimisation_failures", 0),
        lambda s: s.figure("optimisation_failures", 1),
        bad_minutes=300,
        good_minutes=1600,
        step=HOUR,
    ),
    "NoPromptOptimizationsRunning": Case(
        lambda s: s.figure("prompt_optimisations", 1),
        lambda s: s.figure("prompt_optimisations", 0),
        severity="info",
        bad_minutes=8 * 1440,
        good_minutes=1440,
        step=8 * HOUR,
    ),
    "NoFeedbackSubmissions": Case(lambda s: s.judged(1), lambda s: s.runs(1), bad_minutes=480, good_minutes=180, step=HOUR),
    "LowFeedbackRate": Case(
        lambda s: s.judged(0.05),
        lambda s: s.runs(0.4),
        severity="info",
        calm_before=240,
        bad_minutes=1920,
        good_minutes=2400,
        step=4 * HOUR,
    ),
    "HighDailyCost": Case(
        lambda s: s.runs(0.1, total_cost="0.01"),
        lambda s: s.runs(0.1, total_cost="9"),
        bad_minutes=300,
        good_minutes=1800,
        step=HOUR,
    ),
}
# Rules about many hours, in steps of one.
LONG = {"OptimizationJobFailing", "NoPromptOptimizationsRunning", "NoFeedbackSubmissions", "LowFeedbackRate", "HighDailyCost"}
BY_THEMSELVES = {"Anomaly", "PipelineEvents", "SecurityIssue", "SLOBurn"}


def test_no_rule_is_left_out() -> None:
    assert set(CASES) | BY_THEMSELVES == set(bundled())


@pytest.mark.parametrize("rule", sorted(CASES))
def test_it_fires_and_is_resolved(database: str, rule: str) -> None:
    case = CASES[rule]
    with scene(database, rule, step=case.step) as at:
        at.minutes(case.calm_before, lambda: case.good(at))
        assert at.incidents() == []
        at.minutes(case.bad_minutes, lambda: case.bad(at))
        fired = [row for row in at.incidents() if row[1] == case.group]
        assert fired == [(rule, case.group, case.severity, "open")]
        ((began, opened, summary, runbook),) = at.rows(
            "SELECT started_at, opened_at, summary, rule FROM metamon.incidents ORDER BY incident_id LIMIT 1"
        )
        assert began <= opened and "{" not in summary and runbook == rule
        at.minutes(case.good_minutes, lambda: case.good(at))
        assert {row[3] for row in at.incidents()} == {"resolved"}


@pytest.mark.parametrize("rule", sorted(name for name in set(CASES) - LONG if bundled()[name].hold))
def test_what_does_not_last_fires_nothing(database: str, rule: str) -> None:
    case, hold = CASES[rule], bundled()[rule].hold
    with scene(database, rule) as at:
        at.minutes(case.calm_before, lambda: case.good(at))
        for _ in range(12):
            at.go_on(lambda: case.bad(at))
            if at.state(rule, case.group.partition(":")[0]) == "pending":
                break
        began = at.now
        while at.now + at.step < began + hold:
            at.go_on(lambda: case.bad(at))
        assert at.incidents() == []  # not yet, though it holds
        at.go_on(lambda: case.bad(at))
        assert at.now - began == hold
        assert at.incidents()


@pytest.mark.parametrize("rule", sorted(name for name in set(CASES) - LONG if CASES[name].thin))
def test_what_is_too_thin_fires_nothing(database: str, rule: str) -> None:
    case = CASES[rule]
    with scene(database, rule) as at:
        assert case.thin is not None
        thin = case.thin
        at.minutes(10, lambda: thin(at))
        assert at.incidents() == []
        assert at.state(rule, case.group.partition(":")[0]) in ("too_few", "no_data", "ok")
