"""Scores what the report says of a sample world against what was planted there. For benchmarks and tests only: it reads the truth.

A finding is held against runs: those that it points at, and those that a planted problem or change met. It states a planted fact
when at least half of its runs belong to it and its measure is one that the fact truly moved, in the same direction. What
states nothing planted is a wrong claim. Nothing here is known to the report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg2.extensions import connection as Connection

from metamon_assets.reports.findings import Content, Context, Finding
from metamon_assets.reports.sections import changes, errors, incidents
from metamon_assets.simulation import truth
from metamon_assets.simulation.arrivals import day_number
from metamon_assets.simulation.changes import DAY, Change, changes_between
from metamon_assets.simulation.incidents import Incident, incidents_between
from metamon_assets.simulation.world import AGENTS
from metamon_assets_tests.reports.worlds import Stage

SECTIONS = {"incidents": incidents.build, "changes": changes.build, "errors": errors.build}
BLIND = timedelta(days=2)  # at the start of a history, when nothing came before
SEEN_FROM = 6.0  # the oracle's deviate from which a fact counts as possible to see: what the report asks of all series, and a little
SMALLEST = 0.03  # relative moves below are none
SHARED = 0.5
NEAR = timedelta(hours=24)
MEASURES = {  # of the report: metrics of the truth, and whether more of the truth's is more of the report's
    "failed": ("error_rate", "tool_failure_rate", "retrieval_failure_rate"),
    "unfinished": ("hung_rate",),
    "degraded": ("degradation_rate",),
    "completed": ("task_completion_rate",),
    "cached": ("cache_hit_rate",),
    "latency": ("latency_seconds",),
    "first_token": ("time_to_first_token_seconds", "latency_seconds"),
    "cost": ("cost", "input_tokens", "output_tokens"),
    "quality": ("quality_score",),
    "volume": ("requests",),
}
_WITH_CALL = "(trace_id, project, source) IN (SELECT trace_id, project, source FROM metamon.spans"
_COLUMNS = {"agent_name": "agent_name", "tenant_id": "tenant_id", "mode": "mode", "request_model": "request_model"}


@dataclass(slots=True)
class Fact:
    """Something planted: its moves by metric (relative), how clear they are for one who knows where to look, and who stated it."""

    id: str
    kind: str
    moves: dict[str, float]
    z: float
    runs: frozenset[str]
    start: datetime
    end: datetime | None  # None: lasts
    agents: frozenset[str]  # that have its runs
    visible: bool
    stated_by: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Score:
    """Facts with what stated them, claims in all, and those that nothing planted explains, with what they said."""

    facts: tuple[Fact, ...]
    claims: int
    wrong: tuple[str, ...]
    seconds: float = 0.0


def claims_of(context: Context) -> list[tuple[str, Finding]]:
    """What the statistical sections claim: everything but counts that are steady."""
    found: list[tuple[str, Finding]] = []
    for key, build in SECTIONS.items():
        content: Content = build(context)
        found += [(key, finding) for finding in content.findings if not finding.key.startswith(("errors.total", "errors.steady"))]
    return found


def score(connection: Connection, stage: Stage, context: Context) -> Score:
    """Build the sections and hold each claim against each planted fact."""
    facts = [*_incidents(connection, stage), *_changes(connection, stage)]
    found, wrong = claims_of(context), []
    for section, finding in found:
        stated = [fact for fact in facts if _states(connection, section, finding, fact)]
        for fact in stated:
            fact.stated_by.append(finding.key)
        if not stated:
            wrong.append(f"{finding.key}: {finding.statement}")
    return Score(tuple(facts), len(found), tuple(wrong))


def _states(connection: Connection, section: str, finding: Finding, fact: Fact) -> bool:
    if section == "errors":
        return _explains_errors(connection, finding, fact)
    if section == "changes":
        return _explains_change(connection, finding, fact)
    runs = _listed(connection, finding.query)
    if not runs or len(runs & fact.runs) < SHARED * len(runs):
        return False
    measure = finding.key.rsplit(".", 1)[1]
    bad = -1 if measure in ("completed", "cached", "quality") else 1
    if measure == "volume":
        bad = 1 if (finding.estimate is not None and finding.estimate.value > 1) else -1
    return any(bad * fact.moves.get(metric, 0.0) > SMALLEST for metric in MEASURES[measure])


def _explains_change(connection: Connection, finding: Finding, fact: Fact) -> bool:
    """The fact moved something for the agent, and began, or ended, within a day of the change that is told."""
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT min(start_time), array_agg(DISTINCT agent_name) FROM ({finding.query}) AS listed")
        first, agents = cursor.fetchone() or (None, [])
    moments = [moment for moment in (fact.start, fact.end) if moment is not None]
    near = first is not None and any(abs(first - moment) <= NEAR for moment in moments)
    moved = any(abs(move) > SMALLEST for move in fact.moves.values())
    return near and moved and len(agents) == 1 and fact.agents == frozenset(agents)


def _explains_errors(connection: Connection, finding: Finding, fact: Fact) -> bool:
    """Failures that became more, or fewer, because of the fact: a fair part of the pattern's runs are among those that it met."""
    runs = _listed(connection, finding.query)
    moved = any(abs(fact.moves.get(metric, 0.0)) > SMALLEST for metric in MEASURES["failed"])
    return moved and bool(runs) and len(runs & fact.runs) >= 0.25 * len(runs)


def _listed(connection: Connection, query: str) -> frozenset[str]:
    with connection, connection.cursor() as cursor:
        cursor.execute(query)
        names = [column.name for column in cursor.description or ()]
        at = names.index("run_id")
        return frozenset(row[at] for row in cursor.fetchall())


def _incidents(connection: Connection, stage: Stage) -> list[Fact]:
    if stage.quiet:
        return []
    first = day_number(stage.first) * DAY
    planted = incidents_between(stage.seed, first, first + stage.days * DAY)
    parts: dict[str, list[dict[str, dict[str, float]]]] = {incident.id: [] for incident in planted}
    for day in stage.dates:
        told = truth.day_truth(stage.world, day, stage.world.flow(day))
        for name, part in told["incidents"].items():
            if name in parts:
                parts[name].append(part["met"])
    return [_incident(connection, stage, incident, parts[incident.id]) for incident in planted]


def _incident(connection: Connection, stage: Stage, incident: Incident, parts: list[dict[str, dict[str, float]]]) -> Fact:
    moves, z = _moved(parts)
    start, end = (datetime.fromtimestamp(moment / 1e6, UTC) for moment in (incident.start, incident.end))
    conditions, values = ["start_time >= %(start)s", "start_time < %(end)s"], dict[str, Any](start=start, end=end)
    for column, value in incident.slice.items():
        if column == "tool_name":
            conditions.append(f"{_WITH_CALL} WHERE tool_name = %(tool)s)")
            values["tool"] = value
        elif column.startswith("metadata."):
            conditions.append(f"metadata ->> '{column.removeprefix('metadata.')}' = %({column.removeprefix('metadata.')})s")
            values[column.removeprefix("metadata.")] = value
        elif column == "provider":
            conditions.append(f"{_WITH_CALL} WHERE run_type = 'llm' AND provider = %(provider)s)")
            values["provider"] = value
        elif column != "request_model" or "provider" not in incident.slice:
            conditions.append(f"{_COLUMNS[column]} = %({column})s")
            values[column] = value
    visible = z >= SEEN_FROM and start >= stage.start + BLIND
    agents = frozenset({str(incident.slice["agent_name"])} if "agent_name" in incident.slice else ())
    return Fact(incident.id, incident.kind, moves, z, _runs(connection, conditions, values), start, end, agents, visible)


def _changes(connection: Connection, stage: Stage) -> list[Fact]:
    if stage.quiet:
        return []
    first = day_number(stage.first) * DAY
    planted = sorted(changes_between(stage.seed, first, first + stage.days * DAY), key=lambda change: change.time)
    return [_change(connection, stage, change) for change in planted if change.sign != "null"]


def _change(connection: Connection, stage: Stage, change: Change) -> Fact:
    start = datetime.fromtimestamp(change.time / 1e6, UTC)
    days = [day for day in stage.dates if datetime(day.year, day.month, day.day, tzinfo=UTC) > start][:7]
    parts = []
    for day in days:
        flow, other = stage.world.flow(day), stage.world.flow(day, frozenset({change.id}))
        pair = ((name, side, side.requests["agent"] == change.agent) for name, side in (("with", flow), ("without", other)))
        parts.append({name: truth.sums(side, chosen) for name, side, chosen in pair})
    moves, z = _moved(parts)
    conditions = ["start_time >= %(start)s", "agent_name = %(agent)s"]
    runs = _runs(connection, conditions, {"start": start, "agent": AGENTS[change.agent].name})
    visible = z >= SEEN_FROM and start >= stage.start + BLIND and len(days) >= 2
    return Fact(change.id, f"change of {change.kind}", moves, z, runs, start, None, frozenset({AGENTS[change.agent].name}), visible)


def _moved(parts: list[dict[str, dict[str, float]]]) -> tuple[dict[str, float], float]:
    """Relative moves by metric, and the deviate of the clearest for one who knows slice, time and size."""
    moves, best = {}, 0.0
    sides = {
        side: {key: math.fsum(part[side][key] for part in parts) for key in (parts[0][side] if parts else ())}
        for side in ("with", "without")
    }
    for metric, (numerator, denominator) in truth.METRICS.items():
        if metric == "retries" or not parts:
            continue
        x, x0 = (sides[side][numerator] for side in ("with", "without"))
        n, n0 = (sides[side][denominator] if denominator else 1.0 for side in ("with", "without"))
        if min(n, n0) <= 0 or x0 <= 0 or x <= 0:
            moves[metric] = 1.0 if x > x0 else 0.0
            continue
        rate, before = x / n, x0 / n0
        moves[metric] = rate / before - 1
        if metric == "requests":
            z = math.sqrt(2 * max(x * math.log(x / x0) - x + x0, 0.0))
        elif metric.endswith(("_rate", "completion_rate")) and rate < 1 and before < 1:
            z = math.sqrt(2 * n * max(rate * math.log(rate / before) + (1 - rate) * math.log((1 - rate) / (1 - before)), 0.0))
        elif metric == "quality_score":
            z = abs(rate - before) * math.sqrt(n) / 0.1
        else:
            z = abs(math.log(rate / before)) * math.sqrt(n)  # the logarithms of latencies, tokens and costs have a deviation of about 1
        best = max(best, z if abs(moves[metric]) > SMALLEST else 0.0)
    return moves, best


def _runs(connection: Connection, conditions: list[str], values: dict[str, Any]) -> frozenset[str]:
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT run_id FROM metamon.traces WHERE {' AND '.join(conditions)}", values)
        return frozenset(run_id for (run_id,) in cursor.fetchall())


def context_of(connection: Connection, stage: Stage) -> Context:
    """The report's context for a stage: all its days, a day after they ended."""
    return Context(connection, stage.start, stage.end, stage.end + timedelta(days=1))
