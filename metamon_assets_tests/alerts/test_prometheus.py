"""The rules for Prometheus: the tools accept them, and they say the same as Metamon's own."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import metamon_assets.cli.rules  # noqa: F401 - its commands belong to main
from metamon_assets.alerts import catalogue, prometheus
from metamon_assets.alerts.catalogue import Catalogue, bundled
from metamon_assets.alerts.incidents import QUIET
from metamon_assets.alerts.signals import SIGNALS
from metamon_assets.cli.group import main
from metamon_assets.metrics.completions import BUCKET
from metamon_assets.metrics.exposition import FAMILIES, NOT_YET
from metamon_assets_tests.alerts.scene import MINUTE, Scene, scene

Labels = tuple[tuple[str, str], ...]
CHANGED = """
HighErrorRate: {by: [overall, agent, tenant, model], runbook: &text "Braces {{ .X }}, quotes ' and these words are nothing but text."}
LowCacheHitRate: {no_data: fire}
HighLatency: {by: [tenant]}
NoJobsCompleting: {enabled: true}
CheapCost:
  {metric: cost, by: [model], below: 1, window: 2h, summary: "{group} costs {value}", runbook: *text}
"""


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def ran(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def changed(tmp_path: Path) -> Catalogue:
    (tmp_path / "rules.yaml").write_text(CHANGED, encoding="utf-8")
    return catalogue.read(tmp_path / "rules.yaml")


def alerts(known: Catalogue) -> dict[str, dict[str, Any]]:
    (group,) = yaml.safe_load(prometheus.rule_file(known).text)["groups"]
    return {rule["alert"]: rule for rule in group["rules"] if "alert" in rule}


# --- what the tools say


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    for known in (Catalogue(bundled()), changed(tmp_path)):
        path = tmp_path / prometheus.RULES_FILE
        path.write_text(prometheus.rule_file(known).text, encoding="utf-8")
        said = ran(tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", path)
        (group,) = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        assert f"{len(group['rules'])} rules found" in said


def test_amtool_accepts_the_routes_and_sends_each_to_its_channels(tmp_path: Path) -> None:
    amtool, path = tool("amtool"), tmp_path / prometheus.ROUTES_FILE
    path.write_text(prometheus.route_file(Catalogue(bundled())), encoding="utf-8")
    ran(amtool, "check-config", path)
    for name, rule in alerts(Catalogue(bundled())).items():
        labels = {"severity": "critical"} | rule["labels"]
        said = ran(amtool, "config", "routes", "test", f"--config.file={path}", *(f"{label}={value}" for label, value in labels.items()))
        assert set(said.split()[0].split(",")) == {f"metamon-{kind}" for kind in bundled()[name].channels}, name
    said = ran(amtool, "config", "routes", "test", f"--config.file={path}", "severity=warning", "channels=")
    assert said.split() == ["metamon-email"]


def test_what_is_secret_is_in_files() -> None:
    text = prometheus.route_file(Catalogue(bundled()))
    assert re.findall(r"^ *-? ?(\w*(?:password|key|api_url)\w*):", text, re.M) == ["auth_password_file", "api_url_file", "routing_key_file"]


# --- what is in the files


def test_every_rule_is_there_with_what_the_catalogue_says() -> None:
    known = Catalogue(bundled())
    found = alerts(known)
    assert set(found) == set(known.enabled)
    assert {rule["labels"]["rule_id"] for rule in found.values()} >= {f"ALR-{number}" for number in range(1, 33)} - {"ALR-3"}
    for name, rule in known.enabled.items():
        rendered = found[name]
        assert rendered.get("for", "0s") == catalogue.duration_text(rule.hold)
        assert rendered["labels"].get("severity") == (None if SIGNALS[rule.metric].decides else rule.severity)
        assert rendered["labels"].get("channels", "") == ",".join(rule.channels)
        assert rendered["annotations"]["runbook"] == rule.runbook
        assert rendered["annotations"]["summary"]


def test_every_series_is_at_metrics_or_is_going_to_be() -> None:
    (group,) = yaml.safe_load(prometheus.rule_file(Catalogue(bundled())).text)["groups"]
    offered = {re.sub("_bucket$", "", family.name) for family in (*FAMILIES, *NOT_YET)} | {"training_runs_total"}
    named = {name for rule in group["rules"] for name in re.findall(r"(?<![\w:])(?:metamon|rq|learning|agent|training)_\w+", rule["expr"])}
    assert len(named) > 25
    assert {re.sub("_bucket$", "", name) for name in named} <= offered
    recorded = {rule["record"] for rule in group["rules"] if "record" in rule}
    used = {name for rule in group["rules"] for name in re.findall(r"metamon:[\w:]+", rule["expr"])}
    assert used == recorded


def test_groups_that_are_not_at_metrics_are_told(tmp_path: Path) -> None:
    known = changed(tmp_path)
    file = prometheus.rule_file(known)
    assert file.left_out == [
        "HighErrorRate: error_rate by tenant is not at /metrics",
        "HighLatency: latency_p95 by tenant is not at /metrics",
    ]
    assert all(sentence in file.text for sentence in file.left_out)
    found = alerts(known)
    assert "HighLatency" not in found
    assert '{dimension=~"overall|agent|model"}' in found["HighErrorRate"]["expr"]
    assert "absent(" in found["LowCacheHitRate"]["expr"]


def test_the_command_writes_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAMON_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "rules.yaml").write_text(CHANGED, encoding="utf-8")
    result = CliRunner().invoke(main, ["rules", "render", "--directory", str(tmp_path / "new" / "there")])
    assert result.exit_code == 0, result.output
    assert "HighLatency" in result.output
    assert sorted(path.name for path in (tmp_path / "new" / "there").iterdir()) == [prometheus.ROUTES_FILE, prometheus.RULES_FILE]


# --- what they say of samples


@dataclass
class Samples:
    """Series for promtool, a sample a minute from minute 0 on."""

    tmp_path: Path
    series: dict[str, list[str]] = field(default_factory=dict)
    expected: list[dict[str, Any]] = field(default_factory=list)

    def put(self, name: str, values: Sequence[float | None], **labels: str) -> None:
        inner = ", ".join(f'{label}="{value}"' for label, value in labels.items())
        self.series[f"{name}{{{inner}}}" if inner else name] = ["_" if value is None else f"{value:.9g}" for value in values]

    def counter(self, name: str, per_minute: Sequence[float], **labels: str) -> None:
        self.put(name, [0.0, *np.cumsum(per_minute)], **labels)

    def expect(self, minute: int, query: str, *found: Mapping[str, str], value: float = 1) -> None:
        samples = [
            {"labels": "{" + ", ".join(f'{name}="{label}"' for name, label in labels.items()) + "}", "value": value} for labels in found
        ]
        self.expected.append({"expr": query, "eval_time": f"{minute}m", "exp_samples": samples})

    def run(self, known: Catalogue, **more: Any) -> str:
        rules = self.tmp_path / prometheus.RULES_FILE
        rules.write_text(prometheus.rule_file(known).text, encoding="utf-8")
        inputs = [{"series": name, "values": " ".join(values)} for name, values in self.series.items()]
        test = {"interval": "1m", "input_series": inputs, "promql_expr_test": self.expected} | more
        path = self.tmp_path / "test.yml"
        path.write_text(
            yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]}, width=10**9), encoding="utf-8"
        )
        return ran(tool("promtool"), "test", "rules", path)


FIRING = 'group by (alertname, dimension, value) (ALERTS{alertstate="firing"})'
ALL = {"dimension": "overall", "value": "(all)"}


def test_incidents_of_what_decides_by_itself_are_told_with_their_severity(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    for rule, severity in (("Anomaly", "warning"), ("PipelineEvents", "info"), ("SecurityIssue", "critical"), ("SLOBurn", "critical")):
        samples.put("metamon_open_incidents", [None] * 5 + [2.0] * 10 + [None] * 20, rule=rule, severity=severity)
    query = 'group by (alertname, severity) (ALERTS{alertstate="firing"})'
    samples.expect(4, query)
    samples.expect(
        10,
        query,
        {"alertname": "Anomaly", "severity": "warning"},
        {"alertname": "PipelineEvents", "severity": "info"},
        {"alertname": "SecurityIssue", "severity": "critical"},
        {"alertname": "SLOBurn", "severity": "critical"},
    )
    samples.expect(34, query)
    samples.run(Catalogue(bundled()))


MINUTES = 240
# What each rule looks at, a minute: when it is well, when it is not; and the labels.
LEVELS: dict[str, tuple[float, float, dict[str, str]]] = {
    "metamon_heartbeat_age_seconds": (30, 400, {"component": "dagster_daemon"}),
    "rq_queue_length": (3, 600, {}),
    "metamon_run_duration_p95_seconds": (60, 4000, {}),
    "metamon_host_memory_share": (0.5, 0.95, {}),
    "metamon_host_cpu_share": (0.5, 0.95, {}),
    "metamon_database_connections": (20, 90, {}),
    "learning_examples_pending": (5, 600, {}),
    "metamon_cache_size": (500, 980, {"cache": "answers"}),
    "metamon_cache_capacity": (1000, 1000, {"cache": "answers"}),
    "metamon_latency_p95_seconds": (2, 12, ALL),
    "metamon_latency_p99_seconds": (4, 40, ALL),
    "metamon_open_incidents": (0, 1, {"rule": "Anomaly", "severity": "warning"}),
}
GROWING: dict[str, tuple[float, float, dict[str, str]]] = {
    "rq_jobs_total": (0.05, 0.6, {"status": "failed"}),
    "rq_jobs_total ": (1, 0.4, {"status": "completed"}),
    "agent_feedback_total": (20, 0, {"key": "user_rating"}),
    "metamon_ended_requests_total": (300, 300, ALL),
    "metamon_errors_total": (1, 90, ALL),
    "metamon_ended_requests_total ": (300, 300, {"dimension": "tool", "value": "search"}),
    "metamon_errors_total ": (1, 90, {"dimension": "tool", "value": "search"}),
    "metamon_degradation_known_total": (300, 300, ALL),
    "metamon_degraded_total": (1, 150, ALL),
    "metamon_cache_known_total": (300, 300, ALL),
    "metamon_cache_hits_total": (200, 20, ALL),
    "metamon_quality_scores_total": (300, 300, ALL),
    "metamon_quality_score_sum_total": (270, 150, ALL),
    "metamon_quality_score_squares_total": (250, 90, ALL),
    "metamon_priced_requests_total": (300, 300, ALL),
    "metamon_total_cost_dollars_total": (0.01, 1, ALL),
    "metamon_retrieval_results_total": (300, 300, ALL),
    "metamon_retrieval_errors_total": (1, 90, ALL),
    "metamon_cache_operations_total": (6, 1500, {"cache": "answers", "operation": "evict"}),
    "training_runs_total": (0.05, 0, {"status": "done"}),
    "training_runs_total ": (0, 0.05, {"status": "failed"}),
    "learning_api_request_duration_seconds_bucket": (60, 1, {"le": "1", "route": "/", "method": "GET"}),
    "learning_api_request_duration_seconds_bucket ": (60, 60, {"le": "10", "route": "/", "method": "GET"}),
    "learning_api_request_duration_seconds_bucket  ": (60, 60, {"le": "+Inf", "route": "/", "method": "GET"}),
}
OTHERWISE = {"SuddenCostSpike", "NoJobsCompleting", "PipelineEvents", "SecurityIssue", "SLOBurn"}  # which other tests make fire


def test_every_rule_fires_on_bad_samples_and_on_no_good_ones(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    for place, instance in enumerate(("good", "bad")):
        for name, (*values, labels) in LEVELS.items():
            samples.put(name.strip(), [values[place]] * MINUTES, instance=instance, **labels)
        for name, (*values, labels) in GROWING.items():
            samples.counter(name.strip(), [values[place]] * MINUTES, instance=instance, **labels)
    samples.counter("training_runs_total", [0.0] * MINUTES, instance="none", status="done")
    expected = [{"alertname": name, "instance": "bad"} for name in bundled() if name not in OTHERWISE | {"NoPromptOptimizationsRunning"}]
    expected.append({"alertname": "NoPromptOptimizationsRunning", "instance": "none"})
    samples.expect(MINUTES - 1, 'group by (alertname, instance) (ALERTS{alertstate="firing"})', *expected)
    samples.run(Catalogue(bundled()))


def test_words_are_filled_in(tmp_path: Path) -> None:
    samples, labels = Samples(tmp_path), {"dimension": "agent", "value": "a {{ .X }} b"}
    samples.counter("metamon_errors_total", [20.0] * 20, **labels)
    samples.counter("metamon_ended_requests_total", [80.0] * 20, **labels)
    rule = alerts(Catalogue(bundled()))["HighErrorRate"]
    told = {"exp_labels": {**labels, **rule["labels"]}, "exp_annotations": {"runbook": rule["annotations"]["runbook"]}}
    told["exp_annotations"]["summary"] = "25% of the runs of agent “a {{ .X }} b” fail"
    samples.run(Catalogue(bundled()), alert_rule_test=[{"eval_time": "15m", "alertname": "HighErrorRate", "exp_alerts": [told]}])


def test_cost_is_held_against_the_largest_of_before(tmp_path: Path) -> None:
    """A spike against the hour before is one; the rise of every morning is not; nor is the first hour that is seen."""
    samples, day = Samples(tmp_path), 1440
    morning = [1.0] * 120 + [5.0] * 120 + [1.0] * (day - 240)
    samples.counter("metamon_total_cost_dollars_total", morning + morning[:240], dimension="agent", value="daily")
    spike = [1.0] * (day + 100) + [5.0] * 140
    samples.counter("metamon_total_cost_dollars_total", spike, dimension="agent", value="spike")
    for agent in ("daily", "spike"):
        samples.counter("metamon_priced_requests_total", [60.0] * (day + 240), dimension="agent", value=agent)
    samples.put("metamon_total_cost_dollars_total", [None] * day + list(np.cumsum([3.0] * 240)), dimension="agent", value="new")
    samples.put("metamon_priced_requests_total", [None] * day + list(np.cumsum([60.0] * 240)), dimension="agent", value="new")
    query = 'group by (alertname, value) (ALERTS{alertname="SuddenCostSpike", alertstate="firing"})'
    samples.expect(145, query, {"alertname": "SuddenCostSpike", "value": "daily"})  # the first morning ever
    samples.expect(day + 25, query)
    samples.expect(day + 90, query)
    samples.expect(day + 118, query, {"alertname": "SuddenCostSpike", "value": "spike"})
    samples.run(Catalogue({"SuddenCostSpike": bundled()["SuddenCostSpike"]}))


# --- both evaluators


@dataclass(frozen=True)
class Drawn:
    """A rule, the shares of bad runs it is well with and those it should tell, and what a bad and a good run is like."""

    good_shares: tuple[float, float]
    bad_shares: tuple[float, float]
    counters: Callable[[Samples, np.ndarray, np.ndarray], None]
    good: Mapping[str, Any]
    bad: Mapping[str, Any]


def of_share(bad: str, all_: str, *, worse_is_less: bool = False) -> Callable[[Samples, np.ndarray, np.ndarray], None]:
    def put(samples: Samples, n: np.ndarray, k: np.ndarray) -> None:
        for labels in (ALL, {"dimension": "agent", "value": "support"}):
            samples.counter(bad, list(n - k if worse_is_less else k), **labels)
            samples.counter(all_, list(n), **labels)

    return put


def of_quality(samples: Samples, n: np.ndarray, k: np.ndarray) -> None:
    for labels in (ALL, {"dimension": "agent", "value": "support"}):
        samples.counter("metamon_quality_scores_total", list(n), **labels)
        samples.counter("metamon_quality_score_sum_total", list(0.9 * (n - k) + 0.4 * k), **labels)
        samples.counter("metamon_quality_score_squares_total", list(0.81 * (n - k) + 0.16 * k), **labels)


def of_latency(samples: Samples, n: np.ndarray, k: np.ndarray) -> None:
    """The gauge of a bucket is there once it has been over for a minute."""
    of_bucket = [15.0 if bad > 0.05 * count else 1.0 for bad, count in zip(k[::5], n[::5], strict=True)]
    shown = [None] * 6 + [value for value in of_bucket for _ in range(5)]
    for labels in (ALL, {"dimension": "agent", "value": "support"}):
        samples.put("metamon_latency_p95_seconds", shown[: len(n) + 1], **labels)
        samples.counter("metamon_ended_requests_total", list(n), **labels)


DRAWN = {
    "HighErrorRate": Drawn(
        (0.0, 0.03), (0.12, 0.5), of_share("metamon_errors_total", "metamon_ended_requests_total"), {}, {"status": "error"}
    ),
    "HighDegradationRate": Drawn(
        (0.0, 0.12),
        (0.32, 0.9),
        of_share("metamon_degraded_total", "metamon_degradation_known_total"),
        {"degraded": False},
        {"degraded": True},
    ),
    "LowCacheHitRate": Drawn(
        (0.1, 0.5),
        (0.72, 0.95),
        of_share("metamon_cache_hits_total", "metamon_cache_known_total", worse_is_less=True),
        {"cache_hit": True},
        {"cache_hit": False},
    ),
    "LowQualityScore": Drawn((0.0, 0.1), (0.35, 0.9), of_quality, {"quality_score": 0.9}, {"quality_score": 0.4}),
    "HighLatency": Drawn((0.0, 0.03), (0.12, 0.5), of_latency, {"seconds": 1.0}, {"seconds": 15.0}),
}
PER_MINUTE = 60  # at which chance decides nothing
STEP = int(BUCKET / MINUTE)
REGIMES = 4


@pytest.mark.parametrize("rule", sorted(DRAWN))
def test_both_evaluators_agree(database: str, tmp_path: Path, rule: str) -> None:
    """Good and bad hours in an order that is drawn, with shares that are drawn."""
    tool("promtool")
    drawn, known = DRAWN[rule], Catalogue({rule: bundled()[rule]})
    rng = np.random.default_rng([5, *rule.encode()])
    settled, length = bundled()[rule].window + bundled()[rule].hold + QUIET + 2 * BUCKET, timedelta(minutes=60)
    bad_times = rng.permutation([False, True] * (REGIMES // 2))
    shares = np.repeat([rng.uniform(*(drawn.bad_shares if bad else drawn.good_shares)) for bad in bad_times], length // BUCKET)
    bad = np.repeat(rng.binomial(PER_MINUTE, shares), STEP)
    samples, compared = Samples(tmp_path), {True: 0, False: 0}
    drawn.counters(samples, np.full(len(bad), PER_MINUTE), bad)
    with scene(database, rule) as at:
        for step, share in enumerate(bad[::STEP]):
            step_of(at, drawn, int(share))
            since_change = ((step + 1) * BUCKET) % length or length
            if since_change > settled:
                told = {row[1] for row in at.incidents(rule) if row[3] == "open"}
                groups = [{"alertname": rule, **dict(zip(("dimension", "value"), group.split(":"), strict=True))} for group in sorted(told)]
                samples.expect((step + 1) * STEP, FIRING, *groups)
                compared[bool(told)] += 1
    samples.run(known)
    assert min(compared.values()) >= 3


def step_of(at: Scene, drawn: Drawn, bad: int) -> None:
    at.go_on(lambda: at.runs(PER_MINUTE, bad=bad, good_values=drawn.good, bad_values=drawn.bad))
