"""The same rules for Prometheus and Alertmanager: rule file and routes, rendered from the catalogue over the names at ``/metrics``.

They are a second pair of eyes: they tell also when Metamon itself is down. What decides by itself in Metamon (anomalies, events of the
pipeline, security flags, error budgets) is rendered from the gauge of open incidents. Beyond that Prometheus differs in this:

- A share is above its limit by the score test with continuity correction, which agrees with the exact one but for the smallest samples;
  a quantile is compared as it is, within 1 %, once there are enough runs.
- A window that is too thin does not widen: the rule waits.
- Only dimensions that are at ``/metrics`` can be looked at; ``left_out`` names the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from metamon_assets import words
from metamon_assets.alerts.catalogue import duration_text
from metamon_assets.alerts.incidents import QUIET
from metamon_assets.alerts.judgement import Z, smallest_sample
from metamon_assets.alerts.rules import COUNTS, figure
from metamon_assets.alerts.signals import SIGNALS, Signal
from metamon_assets.metrics.exposition import DIMENSIONS, OPEN_INCIDENTS

if TYPE_CHECKING:
    from metamon_assets.alerts.catalogue import Catalogue, Channel, Rule

RULES_FILE, ROUTES_FILE = "metamon.rules.yml", "metamon.alertmanager.yml"
GROUP = "metamon"
CALLS = ("tool",)  # dimensions of calls that counters have too


@dataclass(frozen=True, slots=True)
class Share:
    """Bad events among events, each as PromQL of their number within ``$w``."""

    bad: str
    all: str
    dimensions: tuple[str, ...] = DIMENSIONS


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean, from the number, the sum and the sum of squares within ``$w``."""

    count: str
    total: str
    squares: str
    dimensions: tuple[str, ...] = DIMENSIONS


@dataclass(frozen=True, slots=True)
class Quantile:
    """A gauge of a quantile, and how many events there were within ``$w``."""

    value: str
    count: str
    dimensions: tuple[str, ...] = DIMENSIONS


@dataclass(frozen=True, slots=True)
class Level:
    """A figure that is compared as it is, and how many events it rests on, where that matters."""

    value: str
    count: str = ""
    dimensions: tuple[str, ...] = ("overall",)

    @property
    def grouped(self) -> bool:
        """Whether it is known by groups."""
        return len(self.dimensions) > 1


Series: TypeAlias = Share | Mean | Quantile | Level


def _grown(name: str) -> str:
    return f'increase({name}{{value!~"{_NOBODY}"}}[$w])'


_NOBODY = "[(](none|other)[)]"  # what series.UNNAMED lists
_ENDED = _grown("metamon_ended_requests_total")
_FEEDBACK = "sum without (key) (increase(agent_feedback_total[$w]))"
_ALL_ENDED = 'sum without (dimension, value) (increase(metamon_ended_requests_total{dimension="overall"}[$w]))'
_JOBS = "sum without (status) (increase(rq_jobs_total[$w]))"
_FAILED_JOBS = 'sum without (status) (increase(rq_jobs_total{status="failed"}[$w]))'
_EVICTIONS = 'max without (cache, operation) (rate(metamon_cache_operations_total{operation="evict"}[$w]))'
_API = "histogram_quantile(0.95, sum without (method, route) (rate(learning_api_request_duration_seconds_bucket[$w])))"
_COST, _PRICED = _grown("metamon_total_cost_dollars_total"), _grown("metamon_priced_requests_total")
# The largest of what as long a time cost before: in the hour before, in an hour around the same time a day ago, and a week ago; each
# only where something was spent at the beginning of that hour, too.
_SPENT = f'metamon_total_cost_dollars_total{{value!~"{_NOBODY}"}}'
_EARLIER = " or ".join(
    f'label_replace(increase({_SPENT}[1h] offset {end}) and increase({_SPENT}[10m] offset {begun}) > 0, "ago", "{end}", "", "")'
    for end, begun in (("$w", "$before"), ("1410m", "1460m"), ("10050m", "10100m"))
)
_GROWTH = f"{_COST} / ($part * max without (ago) ({_EARLIER}) > 0)"

SERIES: dict[str, Series] = {
    "error_rate": Share(_grown("metamon_errors_total"), _ENDED),
    "degradation_rate": Share(_grown("metamon_degraded_total"), _grown("metamon_degradation_known_total")),
    "cache_hit_rate": Share(_grown("metamon_cache_hits_total"), _grown("metamon_cache_known_total")),
    "tool_failure_rate": Share(_grown("metamon_errors_total"), _ENDED, CALLS),
    "retrieval_failure_rate": Share(_grown("metamon_retrieval_errors_total"), _grown("metamon_retrieval_results_total")),
    "feedback_rate": Share(_FEEDBACK, _ALL_ENDED, ("overall",)),
    "job_failure_rate": Share(_FAILED_JOBS, _JOBS, ("overall",)),
    "quality_mean": Mean(
        _grown("metamon_quality_scores_total"), _grown("metamon_quality_score_sum_total"), _grown("metamon_quality_score_squares_total")
    ),
    **{f"latency_p{q}": Quantile(f"metamon_latency_p{q}_seconds", _ENDED) for q in (50, 95, 99)},
    "cost": Level(_COST, _PRICED, DIMENSIONS),
    "cost_growth": Level(_GROWTH, _PRICED, DIMENSIONS),
    "feedback_count": Level(_FEEDBACK, _ALL_ENDED),
    "jobs_finished": Level(_JOBS),
    "worker_away_seconds": Level('max without (component) (metamon_heartbeat_age_seconds{component="dagster_daemon"})'),
    "queue_length": Level("rq_queue_length"),
    "run_seconds_p95": Level("metamon_run_duration_p95_seconds"),
    "host_memory_share": Level("metamon_host_memory_share"),
    "host_cpu_share": Level("metamon_host_cpu_share"),
    "database_connections": Level("metamon_database_connections"),
    "api_latency_p95": Level(_API),
    "pending_annotations": Level("learning_examples_pending"),
    "optimisation_failures": Level('sum without (status) (increase(training_runs_total{status="failed"}[$w]))'),
    "prompt_optimisations": Level("sum without (status) (increase(training_runs_total[$w]))"),
    "cache_filled": Level("max without (cache) (metamon_cache_size / metamon_cache_capacity)"),
    "cache_eviction_rate": Level(_EVICTIONS),
}
_TOLD_BY_SEVERITY: dict[str, dict[str, str]] = {
    "critical": {"group_wait": "10s", "group_interval": "5m", "repeat_interval": "4h"},
    "warning": {"group_wait": "1m", "group_interval": "1h", "repeat_interval": "24h"},
    "info": {"group_wait": "5m", "group_interval": "24h", "repeat_interval": "7d"},
}
_KINDS: tuple[Channel, ...] = ("email", "slack", "pagerduty", "webhook")


@dataclass(slots=True)
class RuleFile:
    """Prometheus' rules. ``left_out``: what cannot be told there, a sentence each."""

    text: str = ""
    left_out: list[str] = field(default_factory=list)


# --- rules -------------------------------------------------------------------------------------------------------


def rule_file(catalogue: Catalogue) -> RuleFile:
    """The catalogue's enabled rules as a Prometheus rule file."""
    recorded: dict[str, str] = {}
    alerts, left_out = [], []
    for name, rule in catalogue.enabled.items():
        rendered = _Rendered(name, rule)
        if not rendered.known:
            left_out.append(f"{name}: {rule.metric} by {', '.join(rule.by)} is not at /metrics")
            continue
        if rendered.unknown:
            left_out.append(f"{name}: {rule.metric} by {', '.join(rendered.unknown)} is not at /metrics")
        alerts.append(rendered.alert())
        recorded |= rendered.recorded()
    records: list[dict[str, Any]] = [{"record": name, "expr": expression} for name, expression in recorded.items()]
    header = [f"Alert rules of Metamon, written by `metamon rules render` into {RULES_FILE}. Change rules.yaml, and render again."]
    header += [f"Not told here: {sentence}." for sentence in left_out]
    return RuleFile(_yaml({"groups": [{"name": GROUP, "interval": "1m", "rules": [*records, *alerts]}]}, header), left_out)


@dataclass(frozen=True, slots=True)
class _Rendered:
    """One rule on its way into the file."""

    name: str
    rule: Rule

    @property
    def signal(self) -> Signal:
        return SIGNALS[self.rule.metric]

    @property
    def series(self) -> Series:
        return SERIES[self.rule.metric]

    @property
    def known(self) -> tuple[str, ...]:
        """Dimensions that can be looked at."""
        return self.rule.by if self.signal.decides else tuple(name for name in self.rule.by if name in self.series.dimensions)

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(name for name in self.rule.by if name not in self.known)

    def alert(self) -> dict[str, Any]:
        """The rule as Prometheus has it."""
        rule = self.rule
        labels = {"rule_id": rule.id, "metric": rule.metric, "channels": ",".join(rule.channels)}
        if not self.signal.decides:  # else the incidents' own severity
            labels["severity"] = rule.severity
        found: dict[str, Any] = {"alert": self.name, "expr": self.expression()}
        if rule.hold:
            found["for"] = duration_text(rule.hold)
        return found | {
            "keep_firing_for": duration_text(QUIET),
            "labels": {name: value for name, value in labels.items() if value},
            "annotations": {"summary": self.summary(), "runbook": _literal(rule.runbook)},
        }

    # What it looks at

    def expression(self) -> str:
        """The condition, as PromQL."""
        if self.signal.decides:
            return f'sum without (rule) ({OPEN_INCIDENTS.name}{{rule="{self.name}"}}) > 0'
        present, condition = self._condition()
        return f"{condition}\nor absent({present})" if self.rule.no_data == "fire" else condition

    def _condition(self) -> tuple[str, str]:
        """What must be there, and the condition itself."""
        series, limit, least = self.series, _number(self.rule.threshold or 0.0), smallest_sample(self.rule, self.signal)
        sign, margin = (">", "+") if self.rule.above is not None else ("<", "-")
        if isinstance(series, Share):
            bad, n = self._record("bad") + self._by, self._record("all") + self._by
            spread = _number(Z * math.sqrt((self.rule.threshold or 0.0) * (1 - (self.rule.threshold or 0.0))))
            return n, f"{bad} / {n}\n  {sign} {limit} {margin} ({spread} / sqrt({n}) + 0.5 / {n})\nand {n} >= {max(least, 1)}"
        if isinstance(series, Mean):
            mean, error, n = (self._record(what) + self._by for what in ("mean", "error", "count"))
            return n, f"{mean} {sign} {limit} {margin} {_number(Z)} * {error}\nand {n} >= {max(least, 2)}"
        if isinstance(series, Quantile):
            n = self._record("count") + self._by
            return series.value, f"{series.value}{self._by} {sign} {limit}\nand {n} >= {least}"
        value, n = self._filled(series.value), self._filled(series.count)
        if series.grouped:
            value, n = self._record("value") + self._by, self._record("count") + self._by
        return value, f"{value} {sign} {limit}" + (f"\nand {n} >= {max(least, 1)}" if n else "")

    @property
    def _by(self) -> str:
        """The groups that are looked at; none where a figure has no groups."""
        if self.series.dimensions == ("overall",):
            return ""
        return f'{{dimension="{self.known[0]}"}}' if len(self.known) == 1 else f'{{dimension=~"{"|".join(self.known)}"}}'

    def _filled(self, template: str) -> str:
        part = _number(self.rule.window.total_seconds() / 3600)
        before = duration_text(self.rule.window + timedelta(minutes=50))
        return template.replace("$w", duration_text(self.rule.window)).replace("$before", before).replace("$part", part)

    def _record(self, what: str) -> str:
        return f"metamon:{self.rule.metric}:{what}{duration_text(self.rule.window)}"

    def recorded(self) -> dict[str, str]:
        """Recording rules that its condition names."""
        series = self.series if self.rule.metric in SERIES else None
        if isinstance(series, Share):
            return {self._record("bad"): self._filled(series.bad), self._record("all"): self._filled(series.all)}
        if isinstance(series, Quantile):
            return {self._record("count"): self._filled(series.count)}
        if isinstance(series, Level):
            return (
                {self._record("value"): self._filled(series.value), self._record("count"): self._filled(series.count)}
                if series.grouped
                else {}
            )
        if series is None:
            return {}
        count, mean = self._record("count"), self._record("mean")
        return {
            count: self._filled(series.count),
            mean: f"{self._filled(series.total)} / {count}",
            self._record("error"): f"sqrt(clamp_min({self._filled(series.squares)} / {count} - {mean} ^ 2, 0) / ({count} - 1))",
        }

    # What it says

    def summary(self) -> str:
        """The rule's sentence as a template of Prometheus."""
        if self.signal.decides:
            return f"{{{{ $value }}}} open incidents of {self.name}: see `metamon incidents list`"
        rule = self.rule
        said = rule.summary.format(
            group="\x00group",
            value="\x00value",
            threshold=figure(rule.threshold, self.signal.unit, self.signal.name),
            window=duration_text(rule.window),
            hold=duration_text(rule.hold),
            sample=f"{rule.minimum_sample:,} or more",
        )
        return _literal(said).replace("\x00group", _GROUP).replace("\x00value", self._value())

    def _value(self) -> str:
        if self.signal.q is not None:
            return f"more than {words.percent(1 - self.signal.q)}"
        return f"{{{{ $value | {_format(self.signal)} }}}}" + (" times" if self.signal.name == "cost_growth" else "")


def _format(signal: Signal) -> str:
    """How Prometheus shows a value of a signal."""
    if signal.unit in ("s", "USD"):
        return "humanizeDuration" if signal.unit == "s" else 'printf "$%.2f"'
    if signal.name in COUNTS:
        return 'printf "%.0f"'
    if signal.name in ("quality_mean", "cost_growth") or signal.unit != "1":
        return 'printf "%.3f"' if signal.name == "quality_mean" else 'printf "%.1f"'
    return "humanizePercentage"


_GROUP = (
    '{{ if or (not $labels.dimension) (eq $labels.dimension "overall") }}all runs'
    "{{ else }}{{ $labels.dimension }} “{{ $labels.value }}”{{ end }}"
)


def _literal(text: str) -> str:
    """Text in which Prometheus finds no template."""
    return text.replace("{{", '{{ "{{" }}')


def _number(value: float) -> str:
    return f"{value:.6g}"


# --- routes ------------------------------------------------------------------------------------------------------


def route_file(catalogue: Catalogue) -> str:
    """A configuration of Alertmanager: by severity how often, by channel where to. Its receivers are to be filled in."""
    used = [kind for kind in _KINDS if any(kind in rule.channels for rule in catalogue.enabled.values())]
    route = {
        "receiver": "metamon-email",
        "group_by": ["alertname", "dimension", "value"],
        "routes": [_route(severity, used) for severity in _TOLD_BY_SEVERITY],
    }
    inhibited = {
        "source_matchers": ['severity="critical"'],
        "target_matchers": ['severity=~"warning|info"'],
        "equal": ["metric", "dimension", "value"],
    }
    header = [
        f"Routes of Metamon's alerts, written by `metamon rules render` into {ROUTES_FILE}. Addresses are examples: put yours in. What is",
        "secret stands in files that only Alertmanager may read, under the names given here.",
    ]
    receivers = [{"name": f"metamon-{kind}"} | _RECEIVERS[kind] for kind in _KINDS if kind in {"email", *used}]
    return _yaml({"route": route, "inhibit_rules": [inhibited], "receivers": receivers}, header)


def _route(severity: str, kinds: list[Channel]) -> dict[str, Any]:
    """Everything of one severity: to each channel that its rule names, else by mail."""
    to_each = [
        {"receiver": f"metamon-{kind}", "matchers": [f'channels=~"(.*,)?{kind}(,.*)?"'], "continue": position < len(kinds) - 1}
        for position, kind in enumerate(kinds)
    ]
    return {"receiver": "metamon-email", "matchers": [f'severity="{severity}"'], **_TOLD_BY_SEVERITY[severity], "routes": to_each}


_TEXT = "{{ range .Alerts }}{{ .Annotations.summary }}\n{{ .Annotations.runbook }}\n{{ end }}"
_TITLE = "[{{ .Status }}] {{ .CommonLabels.alertname }} {{ .CommonLabels.value }}"
_SECRETS = "/etc/alertmanager/metamon"
_RECEIVERS: dict[Channel, dict[str, Any]] = {
    "email": {
        "email_configs": [
            {
                "to": "ops@example.com",
                "from": "metamon@example.com",
                "smarthost": "smtp.example.com:587",
                "auth_username": "metamon@example.com",
                "auth_password_file": f"{_SECRETS}/smtp-password",
                "send_resolved": True,
                "headers": {"Subject": _TITLE},
                "text": _TEXT,
            }
        ]
    },
    "slack": {"slack_configs": [{"api_url_file": f"{_SECRETS}/slack-url", "send_resolved": True, "title": _TITLE, "text": _TEXT}]},
    "pagerduty": {
        "pagerduty_configs": [
            {
                "routing_key_file": f"{_SECRETS}/pagerduty-key",
                "send_resolved": True,
                "severity": "{{ .CommonLabels.severity }}",
                "description": "{{ (index .Alerts 0).Annotations.summary }}",
            }
        ]
    },
    "webhook": {"webhook_configs": [{"url": "http://127.0.0.1:9000/metamon", "send_resolved": True}]},
}

# --- YAML --------------------------------------------------------------------------------------------------------


def _yaml(content: dict[str, Any], header: list[str]) -> str:
    """A document with comments on top; texts of several lines as such."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Of its own, so that it changes nobody else's."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    lines = "".join(f"# {line}\n" for line in header)
    return lines + yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=140)


def files(catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    """Name and content of each file."""
    yield RULES_FILE, rule_file(catalogue).text
    yield ROUTES_FILE, route_file(catalogue)
