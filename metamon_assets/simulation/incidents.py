"""Planted problems: what goes wrong, where, from when to when, and how much.

Here belong the calendar of problems, drawn from the seed, and the few kinds of effects that problems are made
of; ``traffic`` carries the effects out. The calendar is a function of the seed and of time alone: time is cut into
slots of 3.75 days (24 in 90 days) with one problem each, three in eight of kinds that nobody has a name for. Of
those the right answer is "unknown"; ``mechanism`` tells a person what happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from metamon_assets.simulation.changes import DAY
from metamon_assets.simulation.draws import Bools, Floats, Ints, choose, short_hash, stream
from metamon_assets.simulation.world import (
    AGENT_MODELS,
    AGENT_TOOLS,
    AGENTS,
    LANGUAGES,
    LLM,
    MODELS,
    MODES,
    PROVIDERS,
    REGIONS,
    RETRIEVER,
    TOOL,
    TOOLS,
    Cast,
    cast,
)

HOUR = DAY // 24
SLOT = 15 * DAY // 4
LONGEST = 12 * DAY
_PATTERN = (False, True, False, False, True, False, True, False)  # which slots of eight hold an unnamed kind
_NAMED_PER_PATTERN, _UNNAMED_PER_PATTERN = 5, 3

# How attributes are called in the unified columns.
COLUMN = {
    "tenant": "tenant_id",
    "agent": "agent_name",
    "model": "request_model",
    "provider": "provider",
    "region": "metadata.region",
    "language": "metadata.language",
    "mode": "mode",
    "tool": "tool_name",
}


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing that a problem does. ``where`` maps attributes to the codes for which it holds.

    ``target`` is a quantity of ``traffic``; ``size`` is a factor (latency, first_token, input_tokens, output_tokens,
    cache, billing, sessions), or added (failure, span_failure, degraded, hung, quality, completion, turns), or for
    ``model`` the probability of being sent to model ``to``. For ``sessions``, ``to`` and ``mode`` name the agent and
    mode of the extra ones.
    """

    target: str
    size: float
    where: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    span_kind: int | None = None
    error: str | None = None
    hours: tuple[int, int] | None = None  # of the UTC day, half-open
    minutes: tuple[int, int] | None = None  # of the hour, half-open
    rising: bool = False  # from nothing at the start to ``size`` at the end
    first_turn: int = 0  # only from this turn of a conversation on
    user_bucket: tuple[int, int] | None = None  # (modulus, remainder) of the user's number
    cached: bool = False  # only answers from the application's cache
    to: int = -1
    mode: int = -1


@dataclass(frozen=True, slots=True)
class Incident:
    """A planted problem. Times in microseconds since 1970, half-open; ``slice`` in the unified columns' names."""

    id: str
    kind: str
    mechanism: str
    slice: Mapping[str, str]
    where: Mapping[str, tuple[int, ...]]
    start: int
    end: int
    effects: tuple[Effect, ...]
    metrics: tuple[str, ...]
    fix: str | None
    deploys: str | None  # "agent" or "prompt": it came with a new version of that, which was taken back at the end
    version: str
    reported: bool
    number: int

    def selects(self, effect: Effect, columns: Mapping[str, Ints], time: Ints) -> Bools:
        """Which requests an effect meets, by their attributes and start."""
        rows = (time >= self.start) & (time < self.end)
        for name, codes in effect.where.items():
            if name in columns:
                rows &= np.isin(columns[name], codes)
        if effect.hours:
            hour = time % DAY // HOUR
            rows &= (hour >= effect.hours[0]) & (hour < effect.hours[1])
        if effect.minutes:
            minute = time % HOUR // 60_000_000
            rows &= (minute >= effect.minutes[0]) & (minute < effect.minutes[1])
        if effect.first_turn:
            rows &= columns["turn"] >= effect.first_turn
        if effect.user_bucket:
            rows &= columns["user"] % effect.user_bucket[0] == effect.user_bucket[1]
        return rows

    def strength(self, effect: Effect, time: Ints) -> Floats:
        """From 0 to 1: how far a rising effect has risen."""
        if not effect.rising:
            return np.ones(len(time))
        return np.clip((time - self.start) / (self.end - self.start), 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A problem before it has a time."""

    mechanism: str
    where: Mapping[str, tuple[int, ...]]
    effects: tuple[Effect, ...]
    metrics: tuple[str, ...]
    hours: tuple[float, float]  # shortest and longest duration
    fix: str | None = None
    deploys: str | None = None


@lru_cache(maxsize=256)
def incident_of_slot(seed: int, slot: int) -> Incident:
    """The one problem that begins in a slot."""
    rotation = int(stream(seed, "rotation").integers(len(_PATTERN)))
    rounds, place = divmod(slot + rotation, len(_PATTERN))
    unnamed = _PATTERN[place]
    before = sum(1 for value in _PATTERN[:place] if value == unnamed)
    number = rounds * (_UNNAMED_PER_PATTERN if unnamed else _NAMED_PER_PATTERN) + before
    deck = _UNNAMED if unnamed else _NAMED
    deal, card = divmod(number, len(deck))
    kind = deck[int(stream(seed, "unnamed" if unnamed else "named", deal).permutation(len(deck))[card])]
    rng = stream(seed, "incident", slot)
    draft = kind(rng, cast(seed))
    duration = int(np.exp(rng.uniform(*np.log(draft.hours))) * HOUR)
    start = slot * SLOT + int(rng.uniform(0, 1) * SLOT)
    if draft.deploys:  # people deploy at work
        start = start // DAY * DAY + int(rng.uniform(8, 17) * HOUR)
    start -= start % 60_000_000
    names = {"tenant": cast(seed).tenants, **_NAMES}
    return Incident(
        id=f"inc-{slot:05d}",
        kind="unknown" if unnamed else kind.__name__.lstrip("_"),
        mechanism=draft.mechanism,
        slice={COLUMN[name]: names[name][codes[0]] for name, codes in draft.where.items()},
        where={name: codes for name, codes in draft.where.items() if name != "provider"},
        start=start,
        end=start + duration,
        effects=draft.effects,
        metrics=draft.metrics,
        fix=draft.fix,
        deploys=draft.deploys,
        version=short_hash(seed, "slot", slot),
        reported=bool(rng.random() < 0.6),
        number=slot + (1 << 18),
    )


def incidents_between(seed: int, start: int, end: int) -> tuple[Incident, ...]:
    """Problems that are on at some moment of start <= t < end, in order of their beginning."""
    slots = range((start - LONGEST) // SLOT - 1, (end - 1) // SLOT + 1)
    found = (incident_of_slot(seed, slot) for slot in slots)
    return tuple(incident for incident in found if incident.start < end and incident.end > start)


_NAMES: dict[str, tuple[str, ...]] = {
    "agent": tuple(agent.name for agent in AGENTS),
    "model": tuple(model.name for model in MODELS),
    "provider": PROVIDERS,
    "region": REGIONS,
    "language": LANGUAGES,
    "mode": MODES,
    "tool": tuple(tool.name for tool in TOOLS),
}


def _agent(rng: np.random.Generator) -> int:
    return int(choose(rng.random(1), np.array([agent.share + 0.08 for agent in AGENTS]))[0])


def _tenant(rng: np.random.Generator, cast: Cast) -> int:
    return int(choose(rng.random(1), cast.tenant_share + 0.02)[0])


def _model_of(rng: np.random.Generator, agent: int) -> int:
    return int(choose(rng.random(1), AGENT_MODELS[agent])[0])


# Kinds that have a name ------------------------------------------------------------------------------------


def _tool_errors(rng: np.random.Generator, cast: Cast) -> _Draft:
    tool = int(choose(rng.random(1), np.array([agent.share for agent in AGENTS]) @ AGENT_TOOLS)[0])
    where = {"tool": (tool,)}
    effect = Effect("span_failure", rng.uniform(0.12, 0.6), where, TOOL, "ToolError")
    mechanism = f"calls of {TOOLS[tool].name} fail"
    return _Draft(mechanism, where, (effect,), ("tool_failure_rate", "error_rate"), (4, 18), "restart or replace the tool's backend")


def _model_latency(rng: np.random.Generator, cast: Cast) -> _Draft:
    model, region = _model_of(rng, _agent(rng)), int(choose(rng.random(1), np.array([0.45, 0.4, 0.15]))[0])
    where = {"model": (model,), "region": (region,)}
    effect = Effect("latency", rng.uniform(1.7, 4.0), where, LLM)
    return _Draft(
        "a model answers slowly in one region", where, (effect,), ("latency_seconds",), (3, 30), "route to another region or model"
    )


def _prompt_growth(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"agent": (_agent(rng),)}
    effect = Effect("input_tokens", rng.uniform(1.7, 2.8), where)
    return _Draft("a prompt grew", where, (effect,), ("input_tokens", "cost"), (24, 110), "return to the prompt before", "prompt")


def _cache_off(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"agent": (int(rng.choice([0, 0, 3, 1])),)}
    effect = Effect("cache", rng.uniform(0.0, 0.25), where)
    return _Draft(
        "the application's cache is all but off", where, (effect,), ("cache_hit_rate", "cost", "latency_seconds"), (6, 60), "turn it on"
    )


def _quality_drop(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"agent": (_agent(rng),)}
    size = rng.uniform(0.05, 0.2)
    effects = (Effect("quality", -size, where), Effect("completion", -0.8 * size, where))
    return _Draft("answers are worse since a prompt version", where, effects, ("quality_score", "task_completion_rate"), (20, 100),
                  "return to the prompt before", "prompt")  # fmt: skip


def _tenant_failures(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"tenant": (_tenant(rng, cast),)}
    effect = Effect("failure", rng.uniform(0.15, 0.7), where, error="AuthenticationError")
    return _Draft("one tenant's credentials are refused", where, (effect,), ("error_rate",), (4, 16), "renew the tenant's credentials")


def _rate_limiting(rng: np.random.Generator, cast: Cast) -> _Draft:
    provider = int(rng.choice(3, p=[0.5, 0.35, 0.15]))
    models = tuple(number for number, model in enumerate(MODELS) if model.provider == PROVIDERS[provider])
    effect = Effect("span_failure", rng.uniform(0.06, 0.25), {"model": models}, LLM, "RateLimitError", hours=(13, 17))
    return _Draft("a provider limits the rate at peak hours", {"provider": (provider,), "model": models}, (effect,),
                  ("error_rate", "retries"), (30, 80), "spread the load or raise the limit")  # fmt: skip


def _retrieval_failure(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"agent": (int(rng.choice([0, 0, 1, 3, 4])),)}
    effect = Effect("span_failure", rng.uniform(0.15, 0.6), where, RETRIEVER, "RetrievalError")
    return _Draft("retrieval fails", where, (effect,), ("retrieval_failure_rate", "error_rate"), (5, 18), "restart the index")


def _slow_drift(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"agent": (_agent(rng),)}
    effect = Effect("latency", rng.uniform(1.7, 2.8), where, rising=True)
    return _Draft(
        "slower day by day, as with a leak, until a restart", where, (effect,), ("latency_seconds",), (120, 280), "restart; mend the leak"
    )


def _hung_requests(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"agent": (_agent(rng),)}
    effect = Effect("hung", rng.uniform(0.04, 0.15), where)
    return _Draft("requests hang", where, (effect,), ("hung_rate",), (4, 14), "set a timeout")


def _failing_version(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"agent": (_agent(rng),)}
    effect = Effect("failure", rng.uniform(0.05, 0.2), where, error="SchemaValidationError")
    return _Draft(
        "a version fails on part of the requests", where, (effect,), ("error_rate",), (3, 30), "return to the version before", "agent"
    )


def _slow_first_token(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"model": (_model_of(rng, _agent(rng)),)}
    effect = Effect("first_token", rng.uniform(2.5, 6.0), where, LLM)
    return _Draft(
        "a model is slow to begin", where, (effect,), ("time_to_first_token_seconds", "latency_seconds"), (4, 40), "use another model"
    )


def _fallback_answers(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"agent": (_agent(rng),)}
    effect = Effect("degraded", rng.uniform(0.12, 0.45), where, error="fallback_model")
    return _Draft(
        "answers come from the fallback", where, (effect,), ("degradation_rate", "quality_score"), (4, 30), "bring back the main model"
    )


def _traffic_surge(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"tenant": (int(choose(rng.random(1), cast.tenant_share)[0]),)}
    effect = Effect("sessions", rng.uniform(3.0, 8.0), where)
    return _Draft("one tenant sends many times its traffic", where, (effect,), ("requests",), (3, 9), "limit the tenant's rate")


def _costly_routing(rng: np.random.Generator, cast: Cast) -> _Draft:
    agent = _agent(rng)
    costly = 3 if agent != 3 else 0
    where = {"agent": (agent,), "mode": (int(rng.choice([0, 1])),)}
    effect = Effect("model", rng.uniform(0.6, 1.0), where, to=costly)
    return _Draft("requests go to a dear model", where, (effect,), ("cost",), (24, 96), "route as before")


# Kinds that no rule and no generator will name -------------------------------------------------------------


def _three_attributes(rng: np.random.Generator, cast: Cast) -> _Draft:
    agent = int(rng.choice(3))
    where = {"agent": (agent,), "mode": (int(np.argmax(AGENTS[agent].modes)),), "region": (int(rng.choice(2)),)}
    effect = Effect("failure", rng.uniform(0.08, 0.3), where, error="RuntimeError")
    return _Draft("requests fail where three attributes meet; nothing was deployed", where, (effect,), ("error_rate",), (12, 72))


def _change_of_mix(rng: np.random.Generator, cast: Cast) -> _Draft:
    tenant = _tenant(rng, cast)
    where = {"tenant": (tenant,)}
    factor = 1.0 + rng.uniform(0.25, 0.6) / cast.tenant_share[tenant]
    effect = Effect("sessions", min(factor, 12.0), where, to=1, mode=2)
    return _Draft("one tenant's users ask for long research; every kind of request is as good as before, the averages only look worse",
                  where, (effect,), ("requests", "latency_seconds", "cost"), (24, 90))  # fmt: skip


def _odd_minutes(rng: np.random.Generator, cast: Cast) -> _Draft:
    first = int(rng.integers(0, 50))
    where = {"agent": (_agent(rng),)}
    effect = Effect("latency", rng.uniform(2.0, 4.0), where, minutes=(first, first + 7))
    return _Draft("slow in the same seven minutes of every hour", where, (effect,), ("latency_seconds",), (48, 200))


def _silent_truncation(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"language": (int(rng.integers(1, len(LANGUAGES))),)}
    effects = (Effect("output_tokens", rng.uniform(0.25, 0.45), where), Effect("completion", -rng.uniform(0.25, 0.5), where))
    return _Draft(
        "answers in one language end too early; no error, no warning", where, effects, ("output_tokens", "task_completion_rate"), (24, 120)
    )


def _duplicate_charging(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"agent": (3,), "mode": (int(rng.integers(0, 2)),)}
    effect = Effect("billing", 2.0, where)
    return _Draft("reported costs are charged twice, tokens are as ever", where, (effect,), ("cost",), (24, 120))


def _stale_cache(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"agent": (int(rng.choice([0, 3])),)}
    effects = (
        Effect("quality", -rng.uniform(0.12, 0.3), where, cached=True),
        Effect("completion", -rng.uniform(0.1, 0.3), where, cached=True),
    )
    return _Draft("answers from the cache are stale", where, effects, ("quality_score", "task_completion_rate"), (24, 120))


def _rephrasing(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"agent": (_agent(rng),), "language": (0,)}
    effect = Effect("turns", rng.uniform(0.8, 2.0), where)
    return _Draft("users ask again in other words", where, (effect,), ("requests",), (24, 100))


def _some_users(rng: np.random.Generator, cast: Cast) -> _Draft:
    modulus = int(rng.integers(5, 12))
    effect = Effect("failure", rng.uniform(0.06, 0.25), {}, error="RuntimeError", user_bucket=(modulus, int(rng.integers(modulus))))
    return _Draft("some users' requests fail, with nothing in common but a hash of their number", {}, (effect,), ("error_rate",), (12, 72))


def _long_conversations(rng: np.random.Generator, cast: Cast) -> _Draft:
    where = {"agent": (_agent(rng),)}
    effects = (
        Effect("quality", -rng.uniform(0.1, 0.25), where, first_turn=3),
        Effect("latency", rng.uniform(1.2, 1.8), where, first_turn=3),
    )
    return _Draft("conversations go bad from the third turn on", where, effects, ("quality_score", "latency_seconds"), (30, 140))


_Kind = Callable[[np.random.Generator, Cast], _Draft]
_NAMED: tuple[_Kind, ...] = (
    _tool_errors,
    _model_latency,
    _prompt_growth,
    _cache_off,
    _quality_drop,
    _tenant_failures,
    _rate_limiting,
    _retrieval_failure,
    _slow_drift,
    _hung_requests,
    _failing_version,
    _slow_first_token,
    _fallback_answers,
    _traffic_surge,
    _costly_routing,
)
_UNNAMED: tuple[_Kind, ...] = (
    _three_attributes,
    _change_of_mix,
    _odd_minutes,
    _silent_truncation,
    _duplicate_charging,
    _stale_cache,
    _rephrasing,
    _some_users,
    _long_conversations,
)
