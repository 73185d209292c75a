"""Ground truth: what was planted, with its true effects, and where it is kept so that no stage can read it.

A true effect is the difference between a day and the same day without the problem or change: both are computed
with the same random numbers and compared by the probabilities that outcomes had (errors, degradation, completion,
cache hits, hanging, failing calls, expected quality) and, for latency, tokens and cost, by the values themselves.
Nothing is estimated from the outcomes. The truth lives in a folder of its own (0700, files 0600) outside the
folder that sources read; one file per day, and ``truth.json``, which is put together from those.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from metamon_assets.simulation.arrivals import day_number
from metamon_assets.simulation.changes import DAY, LEVELS, Change, changes_between
from metamon_assets.simulation.draws import Bools
from metamon_assets.simulation.incidents import Effect, Incident, incidents_between
from metamon_assets.simulation.simulator import World
from metamon_assets.simulation.traffic import Flow
from metamon_assets.simulation.world import AGENTS, MODELS, RETRIEVER, TOOL

# Metric: (sum that is its numerator, sum that it is divided by).
METRICS = {
    "requests": ("requests", None),
    "error_rate": ("error", "requests"),
    "degradation_rate": ("degraded", "requests"),
    "task_completion_rate": ("completed", "requests"),
    "cache_hit_rate": ("cache_hit", "requests"),
    "hung_rate": ("hung", "requests"),
    "quality_score": ("quality", "success"),
    "latency_seconds": ("latency", "ended"),
    "time_to_first_token_seconds": ("first_token", "answered"),
    "input_tokens": ("input_tokens", "requests"),
    "output_tokens": ("output_tokens", "requests"),
    "cost": ("cost", "requests"),
    "retries": ("retries", "requests"),
    "tool_failure_rate": ("tool_failures", "tools_tried"),
    "retrieval_failure_rate": ("retrieval_failures", "retrievals_tried"),
}
Sums = dict[str, float]


def day_truth(world: World, day: date, flow: Flow) -> dict[str, Any]:
    """True effects on one day: sums with and without each planted problem and each change of the day before."""
    incidents = {}
    for incident in flow.incidents:
        other = world.flow(day, frozenset({incident.id}))
        incidents[incident.id] = {
            name: {
                "with": sums(flow, _chosen(incident, flow, name), _tools(incident)),
                "without": sums(other, _chosen(incident, other, name), _tools(incident)),
            }
            for name in ("slice", "met", "all")
        }
    changes = {}
    for change in changes_between(world.seed, (flow.day - 1) * DAY, flow.day * DAY):
        other = world.flow(day, frozenset({change.id}))
        changes[change.id] = {
            "with": sums(flow, flow.requests["agent"] == change.agent),
            "without": sums(other, other.requests["agent"] == change.agent),
        }
    return {"day": day.isoformat(), "incidents": incidents, "changes": changes}


def sums(flow: Flow, chosen: Bools, tools: tuple[int, ...] | None = None) -> Sums:
    """The sums behind METRICS over chosen requests; failing tools counted only for ``tools`` (None: all)."""
    requests = {name: values[chosen] for name, values in flow.requests.items()}
    calls = flow.calls
    first = chosen[calls["request"]] & (calls["attempt"] == 0)
    tool = first & (calls["kind"] == TOOL) & (True if tools is None else np.isin(calls["tool"], tools))
    retrieval = first & (calls["kind"] == RETRIEVER)
    success, ended, answered = 1 - requests["p_error"], ~requests["hung"], requests["first_token"] > 0
    seconds = (requests["end"] - requests["time"]) / 1e6
    until_first = (requests["first_token"] - requests["time"]) / 1e6
    values = {
        "requests": len(success),
        "error": requests["p_error"].sum(),
        "degraded": requests["p_degraded"].sum(),
        "completed": requests["p_completed"].sum(),
        "cache_hit": requests["p_cache"].sum(),
        "hung": requests["p_hung"].sum(),
        "quality": (requests["expected_quality"] * success).sum(),
        "success": success.sum(),
        "latency": seconds[ended].sum(),
        "ended": ended.sum(),
        "first_token": until_first[answered].sum(),
        "answered": answered.sum(),
        "input_tokens": requests["input_tokens"].sum(),
        "output_tokens": requests["output_tokens"].sum(),
        "cost": (requests["input_cost"] + requests["output_cost"]).sum() / 1e12,
        "retries": requests["retries"].sum(),
        "tool_failures": calls["p_failure"][tool].sum(),
        "tools_tried": tool.sum(),
        "retrieval_failures": calls["p_failure"][retrieval].sum(),
        "retrievals_tried": retrieval.sum(),
    }
    return {name: float(value) for name, value in values.items()}


def write_day(folder: Path, truth: dict[str, Any]) -> None:
    """Store one day's truth."""
    _write(folder / "days" / f"{truth['day']}.json", truth)


def write_summary(folder: Path, world: World, first: date, last: date) -> None:
    """Put ``truth.json`` together from the days that are stored, for the days ``first`` to ``last``."""
    days = [
        json.loads((folder / "days" / f"{first + timedelta(days=number)}.json").read_text()) for number in range((last - first).days + 1)
    ]
    start, end = day_number(first) * DAY, (day_number(last) + 1) * DAY
    incidents = [_incident(world, incident, days) for incident in incidents_between(world.seed, start, end)]
    changes = [_change(change, days) for change in sorted(changes_between(world.seed, start, end), key=lambda change: change.time)]
    summary = {
        "about": "Truth of the simulated sample world: what was planted and what it truly did. For scoring only; no stage may read it.",
        "seed": world.seed,
        "traces_per_day": world.traces_per_day,
        "first_day": first.isoformat(),
        "last_day": last.isoformat(),
        "incidents": incidents,
        "changes": changes,
        "files": _files(days),
    }
    _write(folder / "truth.json", summary)


def _chosen(incident: Incident, flow: Flow, population: str) -> Bools:
    """Requests of a population: all while the problem lasts, those of its slice, or those that its first effect met."""
    requests = flow.requests
    effect = {"all": Effect("", 0.0), "slice": Effect("", 0.0, incident.where), "met": incident.effects[0]}[population]
    chosen = incident.selects(effect, requests, requests["time"])
    if effect.cached:
        chosen &= requests["cache_hit"] == 1
    tools = effect.where.get("tool")
    if tools:
        tried = np.zeros(len(chosen), dtype=bool)
        tried[flow.calls["request"][np.isin(flow.calls["tool"], tools)]] = True
        chosen &= tried
    return chosen


def _tools(incident: Incident) -> tuple[int, ...] | None:
    return incident.where.get("tool")


def _added(parts: Iterable[Sums]) -> Sums:
    total: Sums = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _rates(total: Sums) -> dict[str, float | None]:
    rates: dict[str, float | None] = {}
    for metric, (numerator, denominator) in METRICS.items():
        if denominator is None:
            rates[metric] = total[numerator]
        else:
            rates[metric] = total[numerator] / total[denominator] if total[denominator] else None
    return rates


def _compared(parts: list[dict[str, Sums]]) -> dict[str, Any]:
    """Each metric with and without, for all parts together; metrics that did not move are left out."""
    if not parts:
        return {}
    moved, still = (_rates(_added(part[side] for part in parts)) for side in ("with", "without"))
    result: dict[str, Any] = {"requests_measured": moved["requests"]}
    for metric, value in moved.items():
        other = still[metric]
        if value is not None and other is not None and abs(value - other) > 1e-12 * max(abs(value), abs(other)):
            result[metric] = {
                "with": value,
                "without": other,
                "effect": value - other,
                "relative": (value - other) / other if other else None,
            }
    return result


def _incident(world: World, incident: Incident, days: list[dict[str, Any]]) -> dict[str, Any]:
    parts = [day["incidents"][incident.id] for day in days if incident.id in day["incidents"]]
    return {
        "id": incident.id,
        "kind": incident.kind,
        "mechanism": incident.mechanism,
        "slice": dict(incident.slice),
        "start": _iso(incident.start),
        "end": _iso(incident.end),
        "metrics": list(incident.metrics),
        "parameters": [_parameters(effect) for effect in incident.effects],
        "fix": {"exists": incident.fix is not None, "what": incident.fix},
        "deployment": {"of": incident.deploys, "reported": incident.reported} if incident.deploys else None,
        "effect": {name: _compared([part[name] for part in parts]) for name in ("slice", "met", "all")},
    }


def _change(change: Change, days: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": change.id,
        "kind": change.kind,
        "sign": change.sign,
        "agent_name": AGENTS[change.agent].name,
        "time": _iso(change.time),
        "reported": change.reported,
        "agent_version": change.agent_version,
        "prompt_version": change.prompt_version,
        "request_model": MODELS[change.model].name if change.kind == "model" else None,
        "parameters": {name: value for name, value in zip(LEVELS, change.effects, strict=True) if value},
        "effect_on_the_day_after": _compared([day["changes"][change.id] for day in days if change.id in day["changes"]]),
    }


def _parameters(effect: Effect) -> dict[str, Any]:
    """What is set on an effect, without codes that mean something only to the simulator."""
    shown = ("target", "size", "error", "hours", "minutes", "rising", "first_turn", "user_bucket", "cached")
    return {name: getattr(effect, name) for name in shown if getattr(effect, name) not in (None, False, 0)}


def _files(days: list[dict[str, Any]]) -> dict[str, Any]:
    totals: dict[str, Any] = {"damaged": []}
    for day in days:
        for name, value in day.get("files", {}).items():
            totals[name] = totals[name] + value if name in totals else value
    return totals


def _iso(microseconds: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).isoformat()


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=1, default=float)
    temporary.replace(path)
