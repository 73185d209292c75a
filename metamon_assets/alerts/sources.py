"""What decides by itself whether it is an incident: anomalies, events of the pipeline, security flags, error budgets.

Here belongs turning each of them into observations. Their figures come from ``detection``, ``health`` and ``traces.security``; rules of
the catalogue say only whether they are looked at, how severe they are at most, and who is told.

Anomalies: one incident for each metric and group. Of groups that move in the same metric at the same time, one is told, the one that
is furthest out: agents, tenants, models and tools are the same runs, seen from several sides. Since the detector takes for normal what
persists, an incident holds the band that it was opened with, for as long as a few hours can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import orjson

from metamon_assets import words
from metamon_assets.alerts import evidence, incidents
from metamon_assets.alerts.detection import BY_METRIC, Finding
from metamon_assets.alerts.incidents import Observation, Severity
from metamon_assets.alerts.rules import figure, group_text
from metamon_assets.metrics.completions import BUCKET

if TYPE_CHECKING:
    from metamon_assets.alerts.catalogue import Rule
    from metamon_assets.alerts.incidents import Incident
    from metamon_assets.alerts.series import Buckets
    from metamon_assets.alerts.signals import Look
    from metamon_assets.health.slo import Burn
    from metamon_assets.traces.security import Flagged

ANOMALY, PIPELINE, SECURITY, BURN = "Anomaly", "PipelineEvents", "SecurityIssue", "SLOBurn"
COINCIDENT = timedelta(minutes=30)  # incidents of one metric that began so close together are one, seen from several sides
HELD = timedelta(hours=6)  # for which an incident's band is still a measure
SMOOTHED = timedelta(minutes=30)
HELD_PART = 1 / 3  # of the way from what was expected to the edge of the band: half an hour's mean beyond it is still out
SPECIFIC = ("tool", "tenant", "agent", "model", "overall")  # which side is told of those that are equally far out
EVENTS_KEPT = timedelta(hours=1)  # for which an event of the pipeline keeps its incident open
# How a bad run of a metric is known, for evidence; the limit is the edge of the band.
BAD_RUNS = {
    "error_rate": "t.status = 'error'",
    "latency_mean": "t.latency_seconds > %(threshold)s",
    "latency_typical": "t.latency_seconds > %(threshold)s",
    "cost_per_request": "t.total_cost > %(threshold)s",
    "quality_mean": "t.quality_score < %(threshold)s",
    "cache_hit_rate": "t.cache_hit IS FALSE",
    "degradation_rate": "t.degraded",
}


# --- anomalies ---------------------------------------------------------------------------------------------------


def anomalies(look: Look, rule: Rule, found: Sequence[Finding]) -> list[Observation]:
    """What the detectors' findings at ``look.at`` say of incidents that are open, and of new ones."""
    of_dimensions = [finding for finding in found if finding.group[0] in rule.by]
    by_place = {(finding.watch.metric, *finding.group): finding for finding in of_dimensions}
    open_ones = incidents.recent(look.cursor, rule=ANOMALY, only_open=True)
    seen = [_going_on(look, incident, by_place.get(_place(incident))) for incident in open_ones]
    taken = {_place(incident) for incident in open_ones}
    sides = [(incident.metric, incident.dimension, incident.started_at) for incident in open_ones]
    for finding in sorted(of_dimensions, key=_precedence):
        place = (finding.watch.metric, *finding.group)
        if finding.level is None or place in taken or _another_side(finding, sides):
            continue
        sides.append((finding.watch.metric, finding.group[0], finding.at - BUCKET))
        seen.append(_observation(look, finding, finding.level))
    return seen


def _place(incident: Incident) -> tuple[str, str, str]:
    return incident.metric, incident.dimension, incident.dimension_value


def _precedence(finding: Finding) -> tuple[float, int]:
    return -round(finding.severity), SPECIFIC.index(finding.group[0])


def _another_side(finding: Finding, sides: Iterable[tuple[str, str, datetime]]) -> bool:
    """Whether an incident of the same metric, in another dimension, began at about the same time."""
    return any(
        metric == finding.watch.metric and dimension != finding.group[0] and abs(finding.at - BUCKET - started) <= COINCIDENT
        for metric, dimension, started in sides
    )


def _going_on(look: Look, incident: Incident, finding: Finding | None) -> Observation:
    """Whether an open incident still lasts: its series is out now, or its last half hour is out by the band of its beginning."""
    if finding is not None and finding.level is not None and finding.worse:
        return _observation(look, finding, finding.level, incident)
    held = _held(look.buckets, incident, look.at)
    return Observation(
        rule=ANOMALY,
        metric=incident.metric,
        dimension=incident.dimension,
        dimension_value=incident.dimension_value,
        firing=held,
        severity=incident.severity,
        started_at=incident.started_at,
        summary=incident.summary,
        value=incident.value,
        expected=incident.expected,
        lower=incident.lower,
        upper=incident.upper,
        worst_is=_worst_is(incident),
        sample=incident.sample,
        window_seconds=incident.window_seconds,
        affected_requests=incident.affected_requests,
        affected_users=incident.affected_users,
        reasons=tuple(incident.reasons),
        shadow=incident.shadow,
    )


def _worst_is(incident: Incident) -> int:
    """In which direction the incident went."""
    known = incident.peak is not None and incident.expected is not None
    return 1 if known and incident.peak > incident.expected else -1  # type: ignore[operator]


def _held(buckets: Buckets, incident: Incident, at: datetime) -> bool:
    watch = BY_METRIC.get(incident.metric)
    bound = incident.upper if _worst_is(incident) > 0 else incident.lower
    if watch is None or incident.expected is None or bound is None or at - incident.started_at > HELD:
        return False
    group = _place(incident)[1:]
    if group not in buckets.groups:
        return False
    place = buckets.groups.index(group)
    sums = buckets.window(at, SMOOTHED)
    if watch.scale == "count":
        sums = sums * (BUCKET / SMOOTHED)
    values, _ = watch.figures(sums, buckets.window(at, timedelta(days=1)), buckets.columns, due=buckets.due(at))
    if watch.scale == "count":  # what is due has changed since
        expected, edge = 0.0, math.sqrt(max(bound, 0.0)) - math.sqrt(max(incident.expected, 0.0))
    else:
        expected, edge = watch.even(incident.expected), watch.even(bound)
    limit = expected + HELD_PART * (edge - expected)
    return bool(_worst_is(incident) * (values[place] - limit) > 0)


def _observation(look: Look, finding: Finding, level: Severity, incident: Incident | None = None) -> Observation:
    """A finding as an observation; one of an incident that is open keeps its beginning and its band."""
    watch, dimension, value = finding.watch, *finding.group
    bound = finding.upper if finding.rises else finding.lower
    started = incident.started_at if incident else finding.at - BUCKET
    band = incident or finding
    found = evidence.Evidence()
    if evidence.is_due(look.at, new=incident is None):
        found = evidence.gather(look.cursor, BAD_RUNS.get(watch.metric, ""), finding.group, started, look.at, bound)
    return Observation(
        rule=ANOMALY,
        metric=watch.metric,
        dimension=dimension,
        dimension_value=value,
        firing=True,
        severity=level,
        started_at=started,
        summary=(
            f"{_words(watch.metric)} of {group_text(finding.group)} is {figure(finding.value, watch.unit, watch.metric)},"
            f" expected {figure(finding.expected, watch.unit, watch.metric)}"
        ),
        value=finding.value,
        expected=band.expected,
        lower=band.lower,
        upper=band.upper,
        worst_is=1 if finding.rises else -1,
        sample=finding.sample,
        window_seconds=int(BUCKET.total_seconds()),
        affected_requests=found.requests,
        affected_users=found.users,
        examples=found.examples,
        reasons=finding.reasons,
    )


def _words(metric: str) -> str:
    return metric.replace("_", " ").capitalize()


# --- events of the pipeline --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """Something that went wrong in the pipeline: what, since when, how bad."""

    key: str
    severity: Severity
    text: str
    at: datetime
    run_id: str | None = None


# The newest word of each check; that of anomalies is told as the incidents that they are.
_FAILED_CHECKS = """
    SELECT asset_key, check_name, partition_key, severity, dagster_run_id, happened_at, message FROM (
        SELECT DISTINCT ON (asset_key, check_name) * FROM metamon.dagster_events
        WHERE happened_at > %(since)s AND happened_at <= %(at)s AND check_name <> 'nothing_critical'
        ORDER BY asset_key, check_name, happened_at DESC) AS newest
    WHERE kind = 'check_failed'"""
_FAILED_RUNS = """
    SELECT DISTINCT ON (job_name) job_name, partition_key, dagster_run_id, failed_at, message FROM metamon.run_failures
    WHERE failed_at > %(since)s AND failed_at <= %(at)s ORDER BY job_name, failed_at DESC"""
_WATCHDOG = "SELECT beat_at, detail -> 'findings' FROM metamon.heartbeats WHERE component = 'supervisor'"


def pipeline(look: Look) -> list[Observation]:
    """Failed checks and runs of the last hour, and what the supervisor finds wrong now; incidents without such an event are quiet."""
    events = {event.key: event for event in _events(look)}
    seen = [
        Observation(
            rule=PIPELINE,
            metric="pipeline_events",
            dimension="asset",
            dimension_value=event.key,
            firing=True,
            severity=event.severity,
            started_at=event.at,
            summary=event.text,
            dagster_run_id=event.run_id,
            quiet=BUCKET,
        )
        for event in events.values()
    ]
    return [*seen, *_over(look, PIPELINE, events)]


def _events(look: Look) -> Iterator[Event]:
    parameters = {"since": look.at - EVENTS_KEPT, "at": look.at}
    look.cursor.execute(_FAILED_CHECKS, parameters)
    for asset, check, partition, severity, run_id, at, message in look.cursor.fetchall():
        about = f" for {partition}" if partition else ""
        level: Severity = "warning" if severity == "ERROR" else "info"
        yield Event(f"check {asset}:{check}", level, f"The check {check} of {asset} failed{about}: {message}"[:500], at, run_id)
    look.cursor.execute(_FAILED_RUNS, parameters)
    for job, partition, run_id, at, message in look.cursor.fetchall():
        about = f" for {partition}" if partition else ""
        yield Event(f"run {job}", "warning", f"A run of {job} failed{about}: {message}"[:500], at, run_id)
    look.cursor.execute(_WATCHDOG)
    row = look.cursor.fetchone()
    if row is None or look.at - row[0] > EVENTS_KEPT:
        return
    findings = row[1] if isinstance(row[1], list) else orjson.loads(row[1] or "[]")
    for finding in findings:
        component, state = finding["component"], finding["state"]
        at = min(datetime.fromisoformat(finding["since"]), look.at)
        yield Event(f"{component} {state}", "warning", f"{component} is {state}: {finding['detail']}", at)


def _over(look: Look, rule: str, going_on: Iterable[str]) -> list[Observation]:
    """Open incidents of a rule that nothing speaks for any more."""
    known = set(going_on)
    return [
        Observation(rule, one.metric, one.dimension, one.dimension_value, False, one.severity, one.started_at, quiet=BUCKET)
        for one in incidents.recent(look.cursor, rule=rule, only_open=True)
        if one.dimension_value not in known
    ]


# --- security flags ----------------------------------------------------------------------------------------------


def security(look: Look, flags: Sequence[Flagged]) -> list[Observation]:
    """Flags of the last hour; an incident goes on for as long after the last one."""
    seen = []
    for flagged in flags:
        place = " · ".join(filter(None, (flagged.project, flagged.agent_name, flagged.kind)))
        seen.append(
            Observation(
                rule=SECURITY,
                metric="security_flags",
                dimension="project",
                dimension_value=place,
                firing=True,
                severity=flagged.severity,
                started_at=flagged.first_time,
                summary=f"{words.many(flagged.count, 'trace')} of {words.name(place)} flagged: {flagged.kind.replace('_', ' ')}",
                value=float(flagged.count),
                sample=flagged.count,
                affected_requests=flagged.count,
                examples=tuple(
                    {"source": flagged.source, "project": flagged.project, "trace_id": trace_id} for trace_id in flagged.trace_ids
                ),
            )
        )
    return [*seen, *_over(look, SECURITY, [one.dimension_value for one in seen])]


# --- error budgets -----------------------------------------------------------------------------------------------


def burns(look: Look, burning: Sequence[Burn]) -> list[Observation]:
    """Accepted targets whose error budget burns too fast."""
    seen = []
    for burn in burning:
        if burn.severity is None or burn.window is None:
            continue
        seen.append(
            Observation(
                rule=BURN,
                metric="slo_burn",
                dimension="target",
                dimension_value=burn.target.name,
                firing=True,
                severity=burn.severity,
                started_at=look.at,
                summary=burn.words,
                value=burn.rates[burn.window],
                threshold=1.0,
                sample=burn.events[burn.window],
            )
        )
    return [*seen, *_over(look, BURN, [one.dimension_value for one in seen])]
