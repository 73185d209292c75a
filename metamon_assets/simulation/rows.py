"""A day's flow as Arrow tables in the unified columns: runs, feedback, events, gauges.

Here belongs how the world looks to a source, payloads and identifiers included; what happened is ``traffic``. Derived
figures (latency, total tokens, computed costs) are left out on purpose: deriving them is the pipeline's work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metamon_assets.simulation import texts
from metamon_assets.simulation.changes import DAY, changes_between, changes_of
from metamon_assets.simulation.draws import Bools, Floats, Ints, hexadecimal, short_hash, stream
from metamon_assets.simulation.incidents import Incident
from metamon_assets.simulation.traffic import DEGRADATION_REASONS, ERROR_TYPES, Flow
from metamon_assets.simulation.world import (
    AGENTS,
    ENVIRONMENTS,
    LANGUAGES,
    LLM,
    MODELS,
    MODES,
    OWN_PROJECT,
    PROJECT,
    REGIONS,
    RETRIEVER,
    SPAN_KINDS,
    TOOL,
    TOOLS,
    Cast,
)
from metamon_assets.traces import columns

SNAPSHOT_DELAY = 600_000_000  # a day's files are written ten minutes after its end
WHOLE_LATE, CHILDREN_LATE = 1, 2
_LATE_SHARE, _CHILDREN_LATE_SHARE = 0.003, 0.002
_FIVE_MINUTES = 300_000_000
_CACHE_CAPACITY = 1000
_FEEDBACK_SHARE = 0.11
_LATEST_FEEDBACK = 70 * 3600.0  # seconds after the answer
_LATEST_EDIT = 20 * 3600.0
FEEDBACK_DAYS = 5  # files of so many days, its own included, may speak of a run


@dataclass(frozen=True, slots=True)
class FeedbackTable:
    """Feedback on a day's runs as it was given, and the edited versions of some of it."""

    given: pa.Table
    edited: pa.Table


def dress(cast: Cast, flow: Flow) -> Flow:
    """The flow with what rows need besides: identifiers, lateness, and the throws of dice for texts."""
    requests, calls = dict(flow.requests), dict(flow.calls)
    rows, children = len(requests["time"]), len(calls["start"])
    rng = stream(cast.seed, "identifiers", flow.day)
    requests["ids"] = rng.integers(0, 2**64, (rows, 3), dtype=np.uint64)
    requests["dice"] = stream(cast.seed, "texts", flow.day).random((rows, 8))
    calls["ids"] = stream(cast.seed, "call identifiers", flow.day).integers(0, 2**64, (children, 1), dtype=np.uint64)
    calls["dice"] = stream(cast.seed, "call texts", flow.day).random((children, 2))
    lateness = requests["dice"][:, 7]
    requests["late"] = np.select([lateness < _LATE_SHARE, lateness < _LATE_SHARE + _CHILDREN_LATE_SHARE], [WHOLE_LATE, CHILDREN_LATE], 0)
    return replace(flow, requests=requests, calls=calls)


def runs(cast: Cast, flow: Flow, roots: Bools | None = None, children: Bools | None = None, as_of: int | None = None) -> pa.Table:
    """Roots and children of a dressed flow, in order of their ends, as RUNS.

    ``roots`` and ``children`` choose rows (default: all). What ends after ``as_of`` (microseconds) is shown as pending;
    without it only what never ends.
    """
    root_rows = np.arange(len(flow.requests["time"])) if roots is None else np.flatnonzero(roots)
    child_rows = np.arange(len(flow.calls["start"])) if children is None else np.flatnonzero(children)
    limit = 2**62 if as_of is None else as_of
    table = pa.concat_tables(
        [_complete(_roots(cast, flow, root_rows, limit), columns.RUNS), _complete(_children(cast, flow, child_rows, limit), columns.RUNS)]
    )
    ends = np.concatenate([flow.requests["end"][root_rows], flow.calls["end"][child_rows]])
    return table.take(pa.array(np.argsort(ends, kind="stable")))


def ends_of_children(flow: Flow) -> Ints:
    """When each call ends: a hanging call shortly before its request does."""
    ends: Ints = np.where(flow.calls["hung"], flow.requests["end"][flow.calls["request"]] - 1000, flow.calls["end"])
    return ends


def feedback(cast: Cast, flow: Flow) -> FeedbackTable:
    """What people said about the day's runs, minutes to days later."""
    requests = flow.requests
    rng = stream(cast.seed, "feedback", flow.day)
    uniform = rng.random((len(requests["time"]), 8))
    normal = rng.standard_normal((len(requests["time"]), 3))
    rows = np.flatnonzero((uniform[:, 0] < _FEEDBACK_SHARE * np.where(requests["error"], 1.6, 1.0)) & ~requests["hung"])
    uniform, normal = uniform[rows], normal[rows]
    content = np.clip(0.22 + 0.72 * requests["completed"][rows] + 0.8 * (requests["quality"][rows] - 0.87), 0.03, 0.99)
    content = np.where(requests["error"][rows], 0.06, content)
    happy = uniform[:, 1] < content
    rated = uniform[:, 2] < 0.4
    rating = np.clip(np.round(np.where(happy, 4.6, 2.0) + 0.7 * normal[:, 0]), 1, 5)
    created = requests["end"][rows] + (np.minimum(np.exp(np.log(2700) + 1.6 * normal[:, 1]), _LATEST_FEEDBACK) * 1e6).astype(np.int64)
    said = np.where(uniform[:, 3] < 0.25, (uniform[:, 4] * 4).astype(np.int64), -1)
    comment = pc.if_else(pa.array(happy), _name(texts.COMMENTS[0], said), _name(texts.COMMENTS[1], said))
    given = {
        "project": _same(PROJECT, len(rows)),
        "feedback_id": hexadecimal(rng.integers(0, 2**64, (len(rows), 1), dtype=np.uint64), 16),
        "run_id": hexadecimal(requests["ids"][rows, 2:], 16),
        "trace_id": hexadecimal(requests["ids"][rows, :2], 32),
        "key": _name(("thumbs", "user_rating"), rated.astype(np.int64)),
        "score": pa.array(np.where(rated, rating, happy.astype(float))),
        "comment": comment,
        "source_type": _same("human", len(rows)),
        "user_id": _user(cast, requests["tenant"][rows], requests["user"][rows]),
        "created_at": _time(created),
    }
    edits = pa.array(np.flatnonzero(uniform[:, 5] < 0.06))
    edited = {name: values.take(edits) for name, values in given.items()}
    later = created[edits] + (np.minimum(np.exp(np.log(5400) + 1.2 * normal[edits, 2]), _LATEST_EDIT) * 1e6).astype(np.int64)
    edited["score"] = pa.array(np.where(rated[edits], 6 - rating[edits], 1.0 - happy[edits]))
    edited["modified_at"] = _time(later)
    return FeedbackTable(_complete(given, columns.FEEDBACK), _complete(edited, columns.FEEDBACK))


def events(cast: Cast, day: int, incidents: tuple[Incident, ...]) -> pa.Table:
    """What was reported on a day: deployments (not all of them), and configuration changes that mean nothing."""
    start, end = day * DAY, (day + 1) * DAY
    rng = stream(cast.seed, "events", day)
    found: list[dict[str, Any]] = []
    for change in changes_between(cast.seed, start, end):
        if change.reported:
            kind = {"version": "deployment"}.get(change.kind, change.kind)
            version = {"version": change.agent_version, "prompt": change.prompt_version}.get(change.kind, MODELS[change.model].name)
            found.append(_event(cast, change.agent, kind, version, change.time - 40_000_000))
    for incident in incidents:
        if incident.deploys and incident.reported:
            agent = incident.where["agent"][0]
            before = _versions_at(cast.seed, agent, incident.start)
            for time, version in (
                (incident.start, _incident_version(cast.seed, agent, incident)),
                (incident.end, before[incident.deploys == "prompt"]),
            ):
                if start <= time < end:
                    found.append(_event(cast, agent, "prompt" if incident.deploys == "prompt" else "deployment", version, time))
    if rng.random() < 0.12:
        agent = int(rng.integers(len(AGENTS)))
        found.append(_event(cast, agent, "configuration", None, start + int(rng.uniform(8, 18) * 3.6e9)))
    found.sort(key=lambda event: event["time"])
    return pa.Table.from_pylist(found, schema=columns.EVENTS)


def gauges(cast: Cast, flow: Flow) -> pa.Table:
    """Readings every five minutes: the answer cache, the request queue, workers, the host."""
    times = flow.day * DAY + np.arange(0, DAY, _FIVE_MINUTES)
    rng = stream(cast.seed, "gauges", flow.day)
    count, requests = len(times), flow.requests
    window = np.clip((requests["end"] - flow.day * DAY) // _FIVE_MINUTES, 0, count - 1)
    arrivals = np.bincount(window, minlength=count)
    hits = np.bincount(window, weights=requests["cache_hit"], minlength=count)
    writes = np.round(0.8 * (arrivals - hits))
    load = arrivals / max(arrivals.mean(), 1.0)
    calm = np.convolve(load, np.ones(12) / 12, mode="same")
    size = np.clip(np.round(560 + 160 * calm + 25 * rng.standard_normal(count)), 50, _CACHE_CAPACITY)
    evicted = np.maximum(0.0, writes - np.maximum(0.0, np.diff(size, prepend=size[0])))
    memory: Floats = 0.52 + 0.04 * calm + 0.01 * rng.standard_normal(count)
    for incident in flow.incidents:
        for effect in incident.effects:
            if effect.rising:
                on = (times >= incident.start) & (times < incident.end)
                memory = memory + np.where(on, 0.36 * incident.strength(effect, times), 0.0)
    memory = np.clip(memory, 0.05, 0.985)
    processor: Floats = np.clip(0.14 + 0.2 * load + 0.03 * rng.standard_normal(count), 0.02, 0.99)
    operations = {
        "hit": hits,
        "miss": arrivals - hits,
        "write": writes,
        "evict": evicted,
        "invalidate": rng.poisson(0.3, count).astype(float),
    }
    series: list[tuple[str, str, str, str, Floats]] = [
        ("cache_operations", "counter", "1", f'{{"cache":"answers","operation":"{name}"}}', values) for name, values in operations.items()
    ]
    series += [
        ("cache_size", "gauge", "1", '{"cache":"answers"}', size),
        ("cache_capacity", "gauge", "1", '{"cache":"answers"}', np.full(count, float(_CACHE_CAPACITY))),
        ("cache_memory", "gauge", "By", '{"cache":"answers"}', size * 18_432),
        ("cache_entry_age", "gauge", "s", '{"cache":"answers"}', np.round(3000 + 900 * np.clip(rng.standard_normal(count), -2, 2), 1)),
        ("queue_length", "gauge", "1", "{}", rng.poisson(1.5 * load).astype(float)),
        ("workers", "gauge", "1", "{}", np.full(count, 8.0)),
        ("host_cpu_utilization", "gauge", "1", "{}", np.round(processor, 4)),
        ("host_memory_utilization", "gauge", "1", "{}", np.round(memory, 4)),
    ]
    kinds = len(series)
    table = {
        "project": _same(PROJECT, count * kinds),
        "name": _spread([item[0] for item in series], count),
        "time": _time(np.repeat(times, kinds)),
        "value": pa.array(np.stack([item[4] for item in series], axis=1).ravel()),
        "unit": _spread([item[2] for item in series], count),
        "kind": _spread([item[1] for item in series], count),
        "labels": _spread([item[3] for item in series], count),
    }
    return _complete(table, columns.GAUGES)


def own_runs(cast: Cast, day: int) -> pa.Table:
    """A few calls of Metamon itself, in a project of its own: for the exclusion list to leave out (IN-8)."""
    rng = stream(cast.seed, "own", day)
    count = int(rng.integers(4, 12))
    ids = rng.integers(0, 2**64, (count, 3), dtype=np.uint64)
    start = day * DAY + 3 * 3_600_000_000 + np.sort(rng.integers(0, 1_200_000_000, count))
    table = {
        "project": _same(OWN_PROJECT, count),
        "run_id": hexadecimal(ids[:, 2:], 16),
        "trace_id": hexadecimal(ids[:, :2], 32),
        "run_type": _same("llm", count),
        "name": _same("judge answer", count),
        "agent_name": _same("metamon-judge", count),
        "environment": _same("production", count),
        "start_time": _time(start),
        "end_time": _time(start + rng.integers(400_000, 2_000_000, count)),
        "status": _same("success", count),
        "provider": _same("openai", count),
        "request_model": _same("gpt-4o-mini", count),
        "input_tokens": pa.array(rng.integers(600, 1200, count)),
        "output_tokens": pa.array(rng.integers(20, 90, count)),
    }
    return _complete(table, columns.RUNS)


# Runs ------------------------------------------------------------------------------------------------------


def _roots(cast: Cast, flow: Flow, rows: Ints, limit: int) -> dict[str, pa.Array]:
    requests = {name: values[rows] for name, values in flow.requests.items()}
    count, agent, dice = len(rows), requests["agent"], requests["dice"]
    pending = requests["never"] | (requests["end"] > limit)
    calling = pa.array((requests["llm_calls"] > 0) & (requests["input_tokens"] > 0) & ~pending)
    called = (requests["llm_calls"] > 0) & ~pending
    versions = _version_columns(cast, flow, requests)
    error_type = np.where(pending, -1, requests["error_type"])
    success = ~requests["error"] & ~pending
    question = _pick(_question_pool(), agent, requests["question"])
    own_number = pc.binary_join_element_wise(" (case ", pa.array((dice[:, 0] * 1e6).astype(np.int64)).cast(pa.string()), ")", "")
    person = pc.if_else(
        pa.array(dice[:, 1] < 0.01),
        pc.binary_join_element_wise(
            " You can reach me at ", _name(texts.FIRST_NAMES, (dice[:, 2] * 10).astype(np.int64)), ".roe@example.com.", ""
        ),
        pc.if_else(
            pa.array(dice[:, 1] > 0.998), pc.binary_join_element_wise(" My key is sk-", hexadecimal(requests["ids"][:, :2], 32), "", ""), ""
        ),
    )
    inputs = pc.binary_join_element_wise(
        _name(texts.GREETINGS, requests["language"]), question, pc.if_else(pa.array(requests["plain"] == 1), "", own_number), person, ""
    )
    first, second = (_pick(_answer_pool(), agent, (dice[:, column] * texts.ANSWERS).astype(np.int64)) for column in (3, 4))
    more = pc.if_else(pa.array(requests["mode"] == MODES.index("thorough")), second, "")
    outputs = pc.binary_join_element_wise(_name(texts.GREETINGS, requests["language"]), first, " ", more, "")
    outputs = pc.if_else(pa.array(requests["truncated"]), pc.utf8_slice_codeunits(outputs, 0, 75), outputs)
    scored = success & (dice[:, 5] < 0.6)
    metadata = pc.binary_join_element_wise(
        '{"region":"', _name(REGIONS, requests["region"]), '","language":"', _name(LANGUAGES, requests["language"]),
        '","turn":', pa.array(requests["turn"] + 1).cast(pa.string()), "}", "",
    )  # fmt: skip
    warned = np.select([requests["reason"] == 0, dice[:, 6] < 0.03, dice[:, 6] < 0.05], [0, 1, 2], -1)
    warned = np.where((warned == 0) & ~requests["degraded"], -1, warned)
    costs = _reported_costs(requests["input_cost"], requests["output_cost"], _reports(agent) & ~pending & called)
    return {
        "project": _same(PROJECT, count),
        "run_id": hexadecimal(requests["ids"][:, 2:], 16),
        "trace_id": hexadecimal(requests["ids"][:, :2], 32),
        "run_type": _same("agent", count),
        "name": _name([agent.name for agent in AGENTS], agent),
        **_shared(cast, requests, versions),
        "user_id": _user(cast, requests["tenant"], requests["user"]),
        "conversation_id": hexadecimal(requests["id"].astype(np.uint64)[:, None], 16),
        "start_time": _time(requests["time"]),
        "end_time": _time(requests["end"], ~pending),
        "first_token_time": _time(requests["first_token"], success & (requests["first_token"] > 0)),
        "status": _name(("success", "error", "pending"), np.where(pending, 2, requests["error"].astype(np.int64))),
        **_errors(error_type, dice[:, 0]),
        **_model_columns(requests["model"], called, agent, versions),
        **_token_columns(requests, calling),
        **costs,
        "cache_hit": pa.array(requests["cache_hit"] == 1, mask=pending),
        "quality_score": pa.array(np.round(requests["quality"], 4), mask=~scored),
        "degraded": pa.array(requests["degraded"], mask=pending),
        "degradation_reason": _name(DEGRADATION_REASONS, np.where(requests["degraded"] & ~pending, requests["reason"], -1)),
        "warnings": _warnings(np.where(pending, -1, warned)),
        "task_completed": pa.array(requests["completed"], mask=pending | (dice[:, 5] > 0.85)),
        "llm_calls": pa.array(requests["llm_calls"].astype(np.int32), mask=pending),
        "tool_calls": pa.array(requests["tool_calls"].astype(np.int32), mask=pending),
        "retrievals": pa.array(requests["retrievals"].astype(np.int32), mask=pending),
        "metadata": metadata,
        "inputs": inputs,
        "outputs": pc.if_else(pa.array(success), outputs, pa.scalar(None, pa.string())),
    }


def _children(cast: Cast, flow: Flow, rows: Ints, limit: int) -> dict[str, pa.Array]:
    calls = {name: values[rows] for name, values in flow.calls.items()}
    owner, kind, dice = calls["request"], calls["kind"], calls["dice"]
    requests = {name: values[owner] for name, values in flow.requests.items() if name not in ("dice",)}
    ends = ends_of_children(flow)[rows]
    pending = (calls["hung"] & requests["never"]) | (ends > limit)
    failed, model_call = calls["failed"] & ~pending, kind == LLM
    versions = _version_columns(cast, flow, requests)
    answered = model_call & ~failed & ~pending
    tool_names = [tool.name for tool in TOOLS]
    names = [*tool_names, "search knowledge base", "plan", "reflect", "answer"]
    named = np.where(
        kind == TOOL, calls["tool"], len(TOOLS) + np.select([kind == RETRIEVER, calls["place"] == 1, calls["place"] == 3], [0, 1, 2], 3)
    )
    calls_out = pc.if_else(
        pa.array(kind == TOOL),
        _name(texts.TOOL_ANSWERS, (dice[:, 0] * 5).astype(np.int64)),
        _name(texts.SEARCHED, (dice[:, 0] * 4).astype(np.int64)),
    )
    thought = _pick(_answer_pool(), requests["agent"], (dice[:, 0] * texts.ANSWERS).astype(np.int64))
    answer = pa.scalar(None, pa.string())  # stands on the root
    outputs = pc.if_else(pa.array(model_call), pc.if_else(pa.array(calls["place"] == 4), answer, thought), calls_out)
    inputs = pc.if_else(
        pa.array(model_call),
        pa.scalar(None, pa.string()),
        pc.binary_join_element_wise('{"query":"', _pick(_question_pool(), requests["agent"], requests["question"]), '"}', ""),
    )
    first = calls["start"] + (calls["first_token_seconds"] * 1e6).astype(np.int64)
    return {
        "project": _same(PROJECT, len(rows)),
        "run_id": hexadecimal(calls["ids"], 16),
        "trace_id": hexadecimal(requests["ids"][:, :2], 32),
        "parent_run_id": hexadecimal(requests["ids"][:, 2:], 16),
        "run_type": _name(SPAN_KINDS, kind),
        "name": _name(names, named),
        "tool_name": _name(tool_names, np.where(kind == TOOL, calls["tool"], -1)),
        **_shared(cast, requests, versions),
        "start_time": _time(calls["start"]),
        "end_time": _time(ends, ~pending),
        "first_token_time": _time(first, answered),
        "status": _name(("success", "error", "pending"), np.where(pending, 2, failed.astype(np.int64))),
        **_errors(np.where(failed, calls["error"], -1), dice[:, 1]),
        **_model_columns(requests["model"], model_call, requests["agent"], versions),
        **_token_columns(calls, pa.array(answered)),
        **_reported_costs(calls["input_cost"], calls["output_cost"], _reports(requests["agent"]) & answered),
        "inputs": inputs,
        "outputs": pc.if_else(pa.array(~failed & ~pending), outputs, pa.scalar(None, pa.string())),
    }


def _shared(cast: Cast, requests: dict[str, np.ndarray], versions: tuple[pa.Array, pa.Array]) -> dict[str, pa.Array]:
    return {
        "agent_name": _name([agent.name for agent in AGENTS], requests["agent"]),
        "agent_version": versions[0],
        "mode": _name(MODES, requests["mode"]),
        "tenant_id": _name(cast.tenants, requests["tenant"]),
        "environment": _name(ENVIRONMENTS, requests["environment"]),
    }


def _model_columns(model: Ints, called: Bools, agent: Ints, versions: tuple[pa.Array, pa.Array]) -> dict[str, pa.Array]:
    codes = np.where(called, model, -1)
    present = pa.array(called)
    return {
        "provider": _name([model.provider for model in MODELS], codes),
        "request_model": _name([model.name for model in MODELS], codes),
        "response_model": _name([model.response_name for model in MODELS], codes),
        "prompt_name": _name([f"{agent.name}-main" for agent in AGENTS], np.where(called, agent, -1)),
        "prompt_version": pc.if_else(present, versions[1], pa.scalar(None, pa.string())),
    }


def _token_columns(source: dict[str, np.ndarray], known: pa.Array) -> dict[str, pa.Array]:
    nothing = pa.scalar(None, pa.int64())
    result = {name: pc.if_else(known, pa.array(source[name]), nothing) for name in ("input_tokens", "output_tokens")}
    for name, key in (
        ("cache_read_input_tokens", "cache_read"),
        ("cache_creation_input_tokens", "cache_write"),
        ("reasoning_output_tokens", "reasoning"),
    ):
        result[name] = pc.if_else(pc.and_(known, pa.array(source[key] > 0)), pa.array(source[key]), nothing)
    return result


def _reports(agents: Ints) -> Bools:
    return np.array([agent.reports_cost for agent in AGENTS])[agents]


def _reported_costs(input_cost: Ints, output_cost: Ints, reported: Bools) -> dict[str, pa.Array]:
    amounts = {"input_cost": input_cost, "output_cost": output_cost, "total_cost": input_cost + output_cost}
    columns_: dict[str, pa.Array] = {name: _money(values, reported) for name, values in amounts.items()}
    return {**columns_, "cost_source": _name(("reported",), np.where(reported, 0, -1))}


def _errors(codes: Ints, dice: Floats) -> dict[str, pa.Array]:
    rows = np.flatnonzero(codes >= 0)
    message: np.ndarray = np.full(len(codes), None, dtype=object)
    for row in rows:
        number = int(dice[row] * 9000)
        message[row] = texts.ERROR_MESSAGES[ERROR_TYPES[codes[row]]].format(number=1000 + number, small=1 + number % 20)
    return {"error_type": _name(ERROR_TYPES, codes), "error_message": pa.array(message, pa.string())}


def _warnings(codes: Ints) -> pa.Array:
    lists = pa.array([["context_truncated"], ["slow_tool"], ["low_confidence"]], columns.STRINGS)
    return lists.take(pa.array(np.maximum(codes, 0), mask=codes < 0))


@lru_cache(maxsize=32)
def _version_names(seed: int, agent: int) -> tuple[list[str], list[str]]:
    """Agent and prompt version before the first change and after each."""
    history = changes_of(seed, agent)
    return ["1.0.0", *(change.agent_version for change in history)], [
        short_hash(seed, "prompt", agent, 0),
        *(change.prompt_version for change in history),
    ]


def _versions_at(seed: int, agent: int, time: int) -> tuple[str, str]:
    number = sum(1 for change in changes_of(seed, agent) if change.time <= time)
    agent_names, prompt_names = _version_names(seed, agent)
    return agent_names[number], prompt_names[number]


def _incident_version(seed: int, agent: int, incident: Incident) -> str:
    """A version that came with a problem: the patch after the version then current, or another prompt hash."""
    if incident.deploys == "prompt":
        return incident.version
    return _versions_at(seed, agent, incident.start)[0].removesuffix(".0") + ".1"


def _version_columns(cast: Cast, flow: Flow, requests: dict[str, np.ndarray]) -> tuple[pa.Array, pa.Array]:
    names: list[str] = []
    prompts: list[str] = []
    offset = np.zeros(len(AGENTS), dtype=np.int64)
    for agent in range(len(AGENTS)):
        offset[agent] = len(names)
        names += _version_names(cast.seed, agent)[0]
        prompts += _version_names(cast.seed, agent)[1]
    code = offset[requests["agent"]] + requests["change"] + 1
    agent_code, prompt_code = code, code.copy()
    for incident in flow.incidents:
        if incident.deploys:
            agent = incident.where["agent"][0]
            rows = (requests["agent"] == agent) & (requests["time"] >= incident.start) & (requests["time"] < incident.end)
            pool, codes = (prompts, prompt_code) if incident.deploys == "prompt" else (names, agent_code)
            pool.append(_incident_version(cast.seed, agent, incident))
            codes = np.where(rows, len(pool) - 1, codes)
            if incident.deploys == "prompt":
                prompt_code = codes
            else:
                agent_code = codes
    return _name(names, agent_code), _name(prompts, prompt_code)


# Events ----------------------------------------------------------------------------------------------------


def _event(cast: Cast, agent: int, kind: str, version: str | None, time: int) -> dict[str, Any]:
    commit = short_hash(cast.seed, "commit", agent, kind, version, time)
    return {
        "project": PROJECT,
        "event_id": f"ev-{short_hash(cast.seed, 'event', agent, kind, time)}",
        "kind": kind,
        "agent_name": AGENTS[agent].name,
        "version": version,
        "commit_sha": commit,
        "url": f"https://git.example/{AGENTS[agent].name}/commit/{commit}",
        "actor": texts.FIRST_NAMES[int(commit, 16) % len(texts.FIRST_NAMES)],
        "time": np.datetime64(time, "us").astype(object),
    }


# Arrow -----------------------------------------------------------------------------------------------------


def _complete(given: dict[str, pa.Array], schema: pa.Schema) -> pa.Table:
    """A table in the unified schema; columns that are not given are NULL."""
    rows = len(next(iter(given.values())))
    return pa.Table.from_arrays(
        [given[field.name] if field.name in given else pa.nulls(rows, field.type) for field in schema], schema=schema
    )


def _name(pool: Any, codes: Ints) -> pa.Array:
    """The names of codes; a negative code is NULL."""
    return pa.array(pool, pa.string()).take(pa.array(np.maximum(codes, 0), mask=codes < 0))


def _same(text: str, rows: int) -> pa.Array:
    return pa.repeat(text, rows)


def _spread(items: list[str], times: int) -> pa.Array:
    return _name(items, np.tile(np.arange(len(items)), times))


def _time(microseconds: Ints, known: Bools | None = None) -> pa.Array:
    return pa.array(microseconds, columns.TIMESTAMP, mask=None if known is None else ~known)


def _money(pico: Ints, known: Bools) -> pa.Array:
    """Exact amounts from whole 1e-12 dollars: a decimal of scale 12 is that integer in 128 bits."""
    wide = np.zeros((len(pico), 2), dtype=np.int64)
    wide[:, 0] = pico
    validity = pa.py_buffer(np.packbits(known, bitorder="little").tobytes())
    return pa.Array.from_buffers(columns.MONEY, len(pico), [validity, pa.py_buffer(wide.tobytes())])


def _user(cast: Cast, tenant: Ints, user: Ints) -> pa.Array:
    return pc.binary_join_element_wise(_name(cast.tenants, tenant), pa.array(user).cast(pa.string()), "-")


def _pick(pool: tuple[pa.Array, int], agent: Ints, number: Ints) -> pa.Array:
    values, each = pool
    return values.take(pa.array(agent * each + number))


@lru_cache(maxsize=1)
def _question_pool() -> tuple[pa.Array, int]:
    pools = texts.questions()
    return pa.array([text for pool in pools for text in pool]), len(pools[0])


@lru_cache(maxsize=1)
def _answer_pool() -> tuple[pa.Array, int]:
    pools = texts.answers()
    return pa.array([text for pool in pools for text in pool]), len(pools[0])
