"""What happens to the requests of a day: models, tokens, latency, failures, retries, quality.

``flow`` is a pure function of the cast, the day and the set of planted problems and changes left out. The same
random numbers are drawn whatever is left out, so two flows differ only by what was left out: that is how ``truth``
knows true effects. Beside what happened, a flow keeps the probabilities that it happened with.

Token spreads follow Azure's 2023 requests, latency follows thefastest.ai (see ``draws``); the levels are invented.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metamon_assets.simulation import changes
from metamon_assets.simulation.arrivals import Columns, requests_of
from metamon_assets.simulation.changes import DAY, state_at
from metamon_assets.simulation.draws import FIRST_TOKEN_NOISE, TOTAL_TIME_NOISE, Bools, Floats, Ints, choose, heavy_tailed, stream
from metamon_assets.simulation.incidents import HOUR, Effect, Incident, incidents_between
from metamon_assets.simulation.world import AGENT_TOOLS, AGENTS, LLM, MODELS, OUTPUT_SPREAD, RETRIEVER, TOOL, TOOLS, Cast

_FATAL = np.array([0.4, 0.5, 0.35])  # probability that a failed call of this kind fails again and takes the request down
_BASE_FAILURE = np.array([0.004, 0.004, 0.0])  # of retrievals and model calls; tools have their own
_MODE_TOOLS = np.array([0.5, 1.0, 1.5])
_MODE_TOKENS = np.array([0.75, 1.0, 1.5])
_MODE_MODELS = np.array([[1, 2.5, 0.6, 0.6, 2.5, 2, 1], [1] * 7, [1.6, 0.4, 2.5, 1.8, 0.4, 0.7, 0.8]])
_MOST_TOOLS = 8
_HUNG = 0.0002
_NEVER, _FOR_HOURS = 0.4, 0.15  # shares of hung requests that never end, and that end after hours
_TIMEOUT_SECONDS = np.array([5.0, 30.0, 12.0])
_RETRIEVAL_SECONDS = 0.15
DEGRADED_AFTER_FAILURE = 0.5  # probability, when a tool failed once and then answered
_DEGRADED_COMPLETION, _DEGRADED_QUALITY = 0.6, 0.15
_QUALITY_SAMPLE = 30.0  # a score has the variance of a Beta distribution with this many pseudo-observations
_CACHED_FROM = 1024  # input tokens from which providers cache prompts

ERROR_TYPES = (
    "RetrievalError", "RateLimitError", "APITimeoutError", "InternalServerError", "ToolError", "ToolTimeout", "OutputParserError",
    "AuthenticationError", "SchemaValidationError", "RuntimeError",
)  # fmt: skip
_TIMEOUTS = (ERROR_TYPES.index("APITimeoutError"), ERROR_TYPES.index("ToolTimeout"))
_RATE_LIMIT = ERROR_TYPES.index("RateLimitError")
_OWN_ERROR = ERROR_TYPES.index("OutputParserError")
DEGRADATION_REASONS = ("context_truncated", "tool_unavailable", "low_confidence", "fallback_model")

_FACTORS = ("latency", "first_token", "input_tokens", "output_tokens", "cache", "billing")


@dataclass(frozen=True, slots=True)
class Flow:
    """A day's requests and their calls, as columns.

    ``requests``: one row per request (attributes, times in microseconds, outcomes, and under ``p_…`` and
    ``expected_quality`` the probabilities behind the outcomes). ``calls``: one row per attempt of a child, ordered by
    request and time; ``request`` is its row there. Flags are 0 or 1; costs in 1e-12 US dollars.
    """

    day: int
    requests: dict[str, np.ndarray]
    calls: dict[str, np.ndarray]
    incidents: tuple[Incident, ...]


class _Met:
    """The effects of a day that have one target, each with the requests that it meets."""

    def __init__(self, incidents: tuple[Incident, ...], requests: Columns) -> None:
        self._all = [(incident, effect) for incident in incidents for effect in incident.effects]
        self._requests = requests

    def of(self, target: str) -> list[tuple[Incident, Effect, Bools, Floats]]:
        """Incident, effect, which requests, and its size for each request."""
        result = []
        time = self._requests["time"]
        for incident, effect in self._all:
            if effect.target == target:
                rows = incident.selects(effect, self._requests, time)
                if effect.cached:
                    rows &= self._requests["cache_hit"] == 1
                neutral = 1.0 if target in _FACTORS else 0.0
                result.append((incident, effect, rows, neutral + (effect.size - neutral) * incident.strength(effect, time)))
        return result


@dataclass(frozen=True, slots=True)
class _Scene:
    """What the steps of a flow share. Each step adds columns to ``requests`` or ``plan`` (one row per planned call)."""

    cast: Cast
    day: int
    requests: dict[str, np.ndarray]
    plan: dict[str, np.ndarray]
    uniform: Floats  # (requests, 16): a column for each throw of the dice
    levels: Floats  # (requests, LEVELS) of ``changes``
    met: _Met


def flow(cast: Cast, day: int, per_day: float, without: frozenset[str] = frozenset()) -> Flow:
    """The flow of a day (days since 1970) with ``per_day`` requests on average, but for the named problems and changes."""
    incidents = tuple(incident for incident in incidents_between(cast.seed, (day - 1) * DAY, (day + 1) * DAY) if incident.id not in without)
    requests: dict[str, np.ndarray] = dict(requests_of(cast, day, per_day, incidents))
    rows = len(requests["time"])
    uniform = stream(cast.seed, "requests", day).random((rows, 16))
    state = state_at(cast.seed, requests["agent"], requests["time"], without)
    requests["change"] = state.change
    met = _Met(incidents, requests)
    requests["model"] = choose(uniform[:, 0], state.mix * _MODE_MODELS[requests["mode"]])
    for _, effect, hit, size in met.of("model"):
        requests["model"] = np.where(hit & (uniform[:, 1] < size), effect.to, requests["model"])
    p_cache = _of_agent("cache", requests["agent"]) * (0.6 + 0.9 * requests["plain"])
    for _, _, hit, size in met.of("cache"):
        p_cache = np.where(hit, p_cache * size, p_cache)
    requests["p_cache"] = p_cache
    requests["cache_hit"] = (uniform[:, 2] < p_cache).astype(np.int64)
    scene = _Scene(cast, day, requests, _plan(cast, day, requests, uniform), uniform, state.levels, met)
    _tokens(scene)
    _latency(scene)
    _failures(scene)
    _outcomes(scene)
    calls = _attempts(scene)
    _sum_up(scene, calls)
    return Flow(day, requests, calls, tuple(incident for incident in incidents if incident.end > day * DAY))


def _of_agent(habit: str, agents: Ints) -> Floats:
    return np.array([float(getattr(agent, habit)) for agent in AGENTS])[agents]


def _of_model(habit: str, models: Ints) -> Floats:
    return np.array([float(getattr(model, habit) or 0) for model in MODELS])[models]


def _plan(cast: Cast, day: int, requests: dict[str, np.ndarray], uniform: Floats) -> dict[str, np.ndarray]:
    """The calls that each request would make if nothing failed: retrieval, a model call, tools, a last model call."""
    agent, mode = requests["agent"], requests["mode"]
    rows = len(agent)
    everyone = np.arange(rows)
    tools = np.minimum(stream(cast.seed, "tools", day).poisson(_of_agent("tool_calls", agent) * _MODE_TOOLS[mode]), _MOST_TOOLS)
    retrieves = uniform[:, 3] < np.minimum(_of_agent("retrieval", agent) * np.array([0.7, 1.0, 1.2])[mode], 0.95)
    reflects = (mode == 2) & (uniform[:, 4] < 0.5)
    owner = np.concatenate([everyone[retrieves], everyone[tools > 0], np.repeat(everyone, tools), everyone[reflects], everyone])
    place = np.repeat([0, 1, 2, 3, 4], [retrieves.sum(), (tools > 0).sum(), tools.sum(), reflects.sum(), rows])
    order = np.argsort(owner * 8 + place, kind="stable")
    owner, place = owner[order], place[order]
    draws = stream(cast.seed, "calls", day).random((len(owner), 8))
    kind = np.array([RETRIEVER, LLM, TOOL, LLM, LLM])[place]
    tool = np.where(kind == TOOL, choose(draws[:, 0], AGENT_TOOLS[agent[owner]]), -1)
    return {"request": owner, "place": place, "kind": kind, "tool": tool, "draws": draws}


def _tokens(scene: _Scene) -> None:
    """Tokens of each planned model call; 0 elsewhere."""
    requests, plan, levels, met = scene.requests, scene.plan, scene.levels, scene.met
    owner, model_call = plan["request"], plan["kind"] == LLM
    normal = stream(scene.cast.seed, "tokens", scene.day).standard_normal((len(owner), 2))
    agent, turn, models = requests["agent"][owner], requests["turn"][owner], requests["model"][owner]
    size = _MODE_TOKENS[requests["mode"][owner]]
    tokens_in = _of_agent("input_tokens", agent) * size * (1 + 0.12 * turn) * np.exp(_of_agent("input_spread", agent) * normal[:, 0])
    tokens_in *= np.exp(levels[owner, changes.INPUT_TOKENS])
    tokens_out = _of_agent("output_tokens", agent) * size * np.where(plan["place"] == 1, 0.4, 1.0) * np.exp(OUTPUT_SPREAD * normal[:, 1])
    tokens_out *= np.exp(levels[owner, changes.OUTPUT_TOKENS])
    for _, _, hit, factor in met.of("input_tokens"):
        tokens_in *= np.where(hit, factor, 1.0)[owner]
    truncated = np.zeros(len(requests["time"]), dtype=bool)
    for _, _, hit, factor in met.of("output_tokens"):
        tokens_out *= np.where(hit, factor, 1.0)[owner]
        truncated |= hit & (factor < 0.6)
    requests["truncated"] = truncated
    inputs = np.where(model_call, np.clip(tokens_in, 24, 100_000), 0).astype(np.int64)
    outputs = np.where(model_call, np.clip(tokens_out, 2, 16_000), 0).astype(np.int64)
    draws = plan["draws"]
    share = np.where(turn > 0, np.where(draws[:, 1] < 0.7, 0.25 + 0.6 * draws[:, 2], 0.0), np.where(draws[:, 1] < 0.45, 0.2, 0.0))
    cacheable = model_call & (inputs >= _CACHED_FROM) & (_of_model("cache_read_price", models) > 0)
    read = np.where(cacheable, inputs * share, 0).astype(np.int64)
    writes = cacheable & (read == 0) & (_of_model("cache_write_price", models) > 0)
    plan["input_tokens"], plan["output_tokens"] = inputs, outputs
    plan["cache_read"], plan["cache_write"] = read, np.where(writes, inputs * 0.4, 0).astype(np.int64)
    plan["reasoning"] = (outputs * _of_model("reasoning", models)).astype(np.int64)


def _latency(scene: _Scene) -> None:
    """Seconds of each planned call, and of model calls until the first token."""
    requests, plan, met = scene.requests, scene.plan, scene.met
    owner, kind, draws = plan["request"], plan["kind"], plan["draws"]
    models = requests["model"][owner]
    until_first = _of_model("first_token_seconds", models)
    writing = plan["output_tokens"] / _of_model("tokens_per_second", models)
    typical = np.select(
        [kind == LLM, kind == TOOL], [until_first + writing, np.array([tool.seconds for tool in TOOLS])[plan["tool"]]], _RETRIEVAL_SECONDS
    )
    seconds = typical * heavy_tailed(draws[:, 3], TOTAL_TIME_NOISE)
    together = np.where(draws[:, 5] < 0.5, draws[:, 3], draws[:, 4])  # a slow call is often slow from its start
    first = until_first * (1 + plan["input_tokens"] / 40_000) * heavy_tailed(together, FIRST_TOKEN_NOISE)
    first = np.where(kind == LLM, np.minimum(first, 0.97 * seconds), 0.0)
    for _, _, hit, factor in met.of("first_token"):
        longer = np.where(hit, factor, 1.0)[owner]
        seconds = seconds + first * (longer - 1)
        first = first * longer
    slower = np.exp(scene.levels[owner, changes.LATENCY])
    for _, effect, hit, factor in met.of("latency"):
        meets = hit[owner] & (True if effect.span_kind is None else kind == effect.span_kind)
        slower = np.where(meets, slower * factor[owner], slower)
    plan["seconds"], plan["first_token_seconds"] = seconds * slower, first * slower


def _failures(scene: _Scene) -> None:
    """Which planned calls fail, with what error, and which of them are reached at all."""
    requests, plan = scene.requests, scene.plan
    owner, kind, tool, draws = plan["request"], plan["kind"], plan["tool"], plan["draws"]
    base = _BASE_FAILURE[kind] + np.where(kind == TOOL, np.array([tool.failure for tool in TOOLS])[tool], 0.0)
    survives = 1 - base
    error = np.select(
        [kind == RETRIEVER, kind == TOOL],
        [
            ERROR_TYPES.index("RetrievalError"),
            np.where(draws[:, 7] < 0.65, ERROR_TYPES.index("ToolError"), ERROR_TYPES.index("ToolTimeout")),
        ],
        1 + choose(draws[:, 7], np.array([0.45, 0.3, 0.25])),
    )
    for _, effect, hit, size in scene.met.of("span_failure"):
        meets = hit[owner] & (kind == effect.span_kind) & np.isin(tool, effect.where.get("tool", range(-1, len(TOOLS))))
        added = np.where(meets, size[owner], 0.0)
        survives = survives * (1 - added)
        theirs = meets & (draws[:, 7] < added / (1 - survives))
        error = np.where(theirs, ERROR_TYPES.index(effect.error or ""), error)
    probability = 1 - survives
    fails, fatal = draws[:, 6] < probability, draws[:, 6] < probability * _FATAL[kind]
    before = np.cumsum(fatal) - fatal
    first = np.searchsorted(owner, np.arange(len(requests["time"])))
    reached = (before - before[first][owner] == 0) & (requests["cache_hit"][owner] == 0)
    plan.update(p_failure=probability, error=error, fails=fails & reached, fatal=fatal & reached, reached=reached)


def _outcomes(scene: _Scene) -> None:
    """Status, degradation, completion and quality of each request, and their probabilities."""
    requests, plan, uniform, levels, met = scene.requests, scene.plan, scene.uniform, scene.levels, scene.met
    rows, owner, agent = len(requests["time"]), plan["request"], requests["agent"]
    own_failure = np.maximum(_of_agent("failure", agent) + levels[:, changes.FAILURE], 0.0)
    survives, error = 1 - own_failure, np.full(rows, _OWN_ERROR)
    for _, effect, hit, size in met.of("failure"):
        added = np.where(hit, size, 0.0)
        survives = survives * (1 - added)
        error = np.where(hit & (uniform[:, 6] < added / (1 - survives)), ERROR_TYPES.index(effect.error or ""), error)
    calls = requests["cache_hit"][owner] == 0
    no_fatal = np.exp(_sum(owner, np.log1p(-plan["p_failure"] * _FATAL[plan["kind"]]) * calls, rows))
    tool = calls & (plan["kind"] == TOOL)
    # Probability that no call is fatal and no tool fails even once.
    smooth = np.exp(_sum(owner, np.log1p(-plan["p_failure"] * np.where(tool, 1.0, _FATAL[plan["kind"]])) * calls, rows))
    degraded = _of_agent("degraded", agent) * (requests["cache_hit"] == 0)
    fallback = np.zeros(rows, dtype=bool)
    for _, _, hit, size in met.of("degraded"):
        added = np.where(hit & (requests["cache_hit"] == 0), size, 0.0)
        degraded = np.where(added > 0, 1 - (1 - degraded) * (1 - added), degraded)
        fallback |= hit & (uniform[:, 8] < added / np.maximum(degraded, 1e-12))
    completion = _of_agent("completion", agent) + levels[:, changes.COMPLETION]
    for _, _, hit, size in met.of("completion"):
        completion = completion + np.where(hit, size, 0.0)
    completion = np.clip(completion, 0.02, 0.99)
    quality = _of_agent("quality", agent) + levels[:, changes.QUALITY]
    for _, _, hit, size in met.of("quality"):
        quality = quality + np.where(hit, size, 0.0)
    quality = np.clip(quality, _DEGRADED_QUALITY + 0.05, 0.98)
    hung = np.where(requests["cache_hit"] == 0, _HUNG, 0.0)
    for _, _, hit, size in met.of("hung"):
        hung = np.where(hit & (requests["cache_hit"] == 0), 1 - (1 - hung) * (1 - size), hung)

    success = survives * no_fatal
    p_degraded = survives * (smooth * degraded + (no_fatal - smooth) * (1 - (1 - degraded) * (1 - DEGRADED_AFTER_FAILURE)))
    requests["p_error"], requests["p_degraded"], requests["p_hung"] = 1 - success, p_degraded, hung
    requests["p_completed"] = completion * (success - (1 - _DEGRADED_COMPLETION) * p_degraded)
    requests["expected_quality"] = quality - _DEGRADED_QUALITY * p_degraded / success

    fatal = _sum(owner, plan["fatal"], rows) > 0
    own = uniform[:, 5] >= survives
    requests["error"] = fatal | own
    error[owner[plan["fatal"]]] = plan["error"][plan["fatal"]]
    requests["error_type"] = np.where(requests["error"], error, -1)
    requests["hung"] = ~requests["error"] & (uniform[:, 7] < hung)
    stumbled = _sum(owner, plan["fails"] & (plan["kind"] == TOOL), rows) > 0
    by_itself, by_tool = uniform[:, 8] < degraded, stumbled & (uniform[:, 9] < DEGRADED_AFTER_FAILURE)
    requests["degraded"] = ~requests["error"] & (by_itself | by_tool)
    requests["reason"] = np.where(fallback, 3, np.where(by_itself, 2 * (uniform[:, 10] < 0.5), 1))
    chance = completion * np.where(requests["degraded"], _DEGRADED_COMPLETION, 1.0)
    requests["completed"] = ~requests["error"] & (uniform[:, 11] < chance)
    mean = quality - _DEGRADED_QUALITY * requests["degraded"]
    requests["quality"] = stream(scene.cast.seed, "quality", scene.day).beta(mean * _QUALITY_SAMPLE, (1 - mean) * _QUALITY_SAMPLE)
    fate = uniform[:, 12]
    minutes = np.exp(np.log(600) + 0.9 * stream(scene.cast.seed, "hang", scene.day).standard_normal(rows))
    hours = 3600 * (3 + 11 * uniform[:, 15])
    requests["hang_seconds"] = np.select([fate < _NEVER, fate < _NEVER + _FOR_HOURS], [np.inf, hours], minutes)


def _attempts(scene: _Scene) -> dict[str, np.ndarray]:
    """The calls that were made: each planned call that was reached, once more when it failed; with their times."""
    requests, plan = scene.requests, scene.plan
    count = np.where(plan["reached"], 1 + plan["fails"], 0)
    planned = np.repeat(np.arange(len(count)), count)
    attempt = np.arange(len(planned)) - np.repeat(np.cumsum(count) - count, count)
    calls = {name: plan[name][planned] for name in plan if name not in ("draws", "reached", "fails", "fatal")}
    calls["attempt"] = attempt
    failed = plan["fails"][planned] & ((attempt == 0) | plan["fatal"][planned])
    calls["failed"] = failed
    draws = stream(scene.cast.seed, "waits", scene.day).random(2 * len(count))[2 * planned + attempt]
    timeout, limited = np.isin(calls["error"], _TIMEOUTS), calls["error"] == _RATE_LIMIT
    seconds = np.where(
        failed, np.select([timeout, limited], [_TIMEOUT_SECONDS[calls["kind"]], 0.08], 0.4 * calls["seconds"]), calls["seconds"]
    )
    wait = np.where(attempt > 0, np.where(limited, 1 + 4 * draws, 0.2 + 0.5 * draws), 0.002 + 0.01 * draws)
    for name in ("input_tokens", "output_tokens", "cache_read", "cache_write", "reasoning", "first_token_seconds"):
        calls[name] = np.where(failed, 0, calls[name])
    owner = calls["request"]
    length, pause = np.maximum(seconds * 1e6, 1000).astype(np.int64), (wait * 1e6).astype(np.int64)
    passed = np.cumsum(length + pause)
    first = np.searchsorted(owner, np.arange(len(requests["time"])))
    before = np.concatenate([[0], passed])[first]
    calls["end"] = requests["time"][owner] + passed - before[owner]
    calls["start"] = calls["end"] - length
    calls["last"] = np.append(owner[1:] != owner[:-1], True) if len(owner) else np.zeros(0, dtype=bool)
    calls["hung"] = calls["last"] & requests["hung"][owner]
    models = requests["model"][owner]
    plain = calls["input_tokens"] - calls["cache_read"] - calls["cache_write"]
    calls["input_cost"] = (
        plain * _of_model("input_price", models)
        + calls["cache_read"] * _of_model("cache_read_price", models)
        + calls["cache_write"] * _of_model("cache_write_price", models)
    ).astype(np.int64)
    calls["output_cost"] = (calls["output_tokens"] * _of_model("output_price", models)).astype(np.int64)
    return calls


def _sum_up(scene: _Scene, calls: dict[str, np.ndarray]) -> None:
    """What the root carries of its calls: end, first token, tokens, cost, counts."""
    requests, uniform = scene.requests, scene.uniform
    rows, owner = len(requests["time"]), calls["request"]
    for _, _, hit, factor in scene.met.of("billing"):
        for name in ("input_cost", "output_cost"):
            calls[name] = np.where(hit[owner], calls[name] * factor[owner], calls[name]).astype(np.int64)
    for name in ("input_tokens", "output_tokens", "cache_read", "cache_write", "reasoning", "input_cost", "output_cost"):
        requests[name] = _sum(owner, calls[name], rows).astype(np.int64)
    for kind, name in ((LLM, "llm_calls"), (TOOL, "tool_calls"), (RETRIEVER, "retrievals")):
        requests[name] = _sum(owner, calls["kind"] == kind, rows).astype(np.int64)
    requests["retries"] = _sum(owner, calls["attempt"] > 0, rows).astype(np.int64)
    tool = calls["kind"] == TOOL
    requests["tool_failures"] = _sum(owner, np.where(tool, calls["failed"], 0), rows)
    for kind, name in ((TOOL, "p_tool_failures"), (RETRIEVER, "p_retrieval_failures")):
        requests[name] = _sum(owner, np.where((calls["kind"] == kind) & (calls["attempt"] == 0), calls["p_failure"], 0.0), rows)
    requests["tools_tried"] = _sum(owner, tool & (calls["attempt"] == 0), rows)
    from_cache = (0.015 + 0.05 * uniform[:, 13]) * 1e6
    end = requests["time"] + np.where(requests["cache_hit"] == 1, from_cache, 3000 + 20_000 * uniform[:, 13]).astype(np.int64)
    last = calls["last"]
    end[owner[last]] = calls["end"][last] + (1000 + 8000 * uniform[owner[last], 14]).astype(np.int64)
    never = requests["hung"] & np.isinf(requests["hang_seconds"])
    hang = np.where(requests["hung"] & ~never, requests["hang_seconds"] * 1e6, 0).astype(np.int64)
    requests["end"] = np.minimum(end + hang, requests["time"] + 24 * HOUR)  # in the next day's file at the latest
    requests["never"] = never
    answer = (calls["kind"] == LLM) & ~calls["failed"] & (calls["place"] == 4)
    requests["first_token"] = np.zeros(rows, dtype=np.int64)
    requests["first_token"][owner[answer]] = (calls["start"] + (calls["first_token_seconds"] * 1e6).astype(np.int64))[answer]


def _sum(owner: Ints, values: np.ndarray, rows: int) -> Floats:
    return np.bincount(owner, weights=values, minlength=rows).astype(np.float64)
