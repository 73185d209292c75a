"""Planted changes: versions, prompts and models that agents moved to, and what each did to them.

An agent's state at a moment is the sum of its changes since ORIGIN, so it is a function of the seed and the
moment alone. About a third of the changes do nothing, the others make things better or worse; what has drifted
far from where it began tends to come back. Problems, which begin and end, are ``incidents``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

import numpy as np

from metamon_assets.simulation.draws import Floats, Ints, short_hash, stream
from metamon_assets.simulation.world import AGENT_MODELS, AGENTS

DAY = 86_400_000_000  # microseconds, in which all times here are counted since 1970
ORIGIN = date(2025, 1, 1)
PERIOD_DAYS = 17.0  # an agent changes about that often
_COUNT = 400  # changes per agent that are thought out: some 18 years

# What a change can move, the typical size of a move, and how far an agent may drift from where it began.
LEVELS = ("failure", "latency", "quality", "completion", "input_tokens", "output_tokens")
_SIZES = np.array([0.012, 0.16, 0.035, 0.04, 0.2, 0.16])  # failure, quality, completion: added; the others: ln
_BOUNDS = np.array([0.02, 0.3, 0.05, 0.06, 0.4, 0.3])
_BETTER = np.array([-1, -1, 1, 1, -1, -1])
FAILURE, LATENCY, QUALITY, COMPLETION, INPUT_TOKENS, OUTPUT_TOKENS = range(len(LEVELS))


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one agent. ``effects`` has one figure per level; ``mix`` are new model weights of a model change."""

    id: str
    agent: int
    time: int
    kind: str  # version, prompt, model
    sign: str  # positive, null, negative; mixed: another model is better in some ways and worse in others
    reported: bool
    agent_version: str
    prompt_version: str
    model: int  # the model that most requests go to from now on
    effects: tuple[float, ...]
    mix: tuple[float, ...]


@lru_cache(maxsize=64)
def changes_of(seed: int, agent: int) -> tuple[Change, ...]:
    """All changes of one agent since ORIGIN, in order of time."""
    rng = stream(seed, "changes", agent)
    first = ORIGIN.toordinal() - date(1970, 1, 1).toordinal() + rng.uniform(0, PERIOD_DAYS)
    level = np.zeros(len(LEVELS))
    mix = AGENT_MODELS[agent]
    major, minor, prompt = int(rng.integers(1, 5)), int(rng.integers(0, 12)), 0
    result = []
    for number in range(_COUNT):
        day = int(first + PERIOD_DAYS * number + rng.uniform(-4, 4))
        time = day * DAY + int(rng.uniform(8.0, 17.5) * 3600) * 1_000_000
        kind = ("version", "prompt", "model")[int(rng.choice(3, p=[0.5, 0.3, 0.2]))]
        sign = ("positive", "null", "negative")[int(rng.choice(3, p=[0.36, 0.34, 0.30]))]
        effects = _effects(rng, level, sign)
        if not effects.any():
            sign = "null"
        level = level + effects
        new_mix = _mix(rng, agent, mix)
        reported = bool(rng.random() < 0.65)
        if kind == "model":
            mix = new_mix
        elif kind == "version":
            minor += 1
        else:
            prompt += 1
        result.append(
            Change(
                f"chg-{agent}-{number:03d}",
                agent,
                time,
                kind,
                "mixed" if kind == "model" else sign,
                reported,
                f"{major}.{minor}.0",
                short_hash(seed, "prompt", agent, prompt),
                int(np.argmax(mix)),
                tuple(float(effect) for effect in effects),
                tuple(float(weight) for weight in mix),
            )
        )
    return tuple(result)


def changes_between(seed: int, start: int, end: int) -> Iterator[Change]:
    """Changes of all agents with start <= time < end (microseconds)."""
    for agent in range(len(AGENTS)):
        yield from (change for change in changes_of(seed, agent) if start <= change.time < end)


@dataclass(frozen=True, slots=True)
class State:
    """What holds for each of the requests: the level of every effect and the weights of the models."""

    levels: Floats  # (requests, LEVELS)
    mix: Floats  # (requests, models)
    change: Ints  # (requests,) number of the agent's latest change, -1 before the first


def state_at(seed: int, agents: Ints, times: Ints, without: frozenset[str] = frozenset()) -> State:
    """The state of each request's agent at its time, as if the changes named in ``without`` had not happened."""
    levels = np.zeros((len(agents), len(LEVELS)))
    mix = AGENT_MODELS[agents]
    latest = np.full(len(agents), -1, dtype=np.int64)
    for agent in range(len(AGENTS)):
        rows = np.flatnonzero(agents == agent)
        if len(rows) == 0:
            continue
        history = changes_of(seed, agent)
        number = np.searchsorted(np.array([change.time for change in history]), times[rows], side="right") - 1
        steps, mixes = _history(history, agent, without & {change.id for change in history})
        levels[rows] = steps[number + 1]
        mix[rows] = mixes[number + 1]
        latest[rows] = number
    return State(levels, mix, latest)


def _history(history: tuple[Change, ...], agent: int, without: frozenset[str]) -> tuple[Floats, Floats]:
    """Levels and model weights before the first change and after each."""
    kept = np.array([change.id not in without for change in history])
    steps = np.array([change.effects for change in history]) * kept[:, None]
    mixes = [AGENT_MODELS[agent]]
    for change in history:
        mixes.append(mixes[-1] if change.kind != "model" or change.id in without else np.array(change.mix))
    return np.vstack([np.zeros((1, len(LEVELS))), np.cumsum(steps, axis=0)]), np.array(mixes)


def _effects(rng: np.random.Generator, level: Floats, sign: str) -> Floats:
    """Moves of one to three levels in the direction of ``sign``; a level at its bound moves back instead."""
    size = _SIZES * rng.uniform(0.5, 1.6, len(LEVELS))
    chosen = rng.permutation(len(LEVELS))[: int(rng.integers(1, 4))]
    if sign == "null":
        return np.zeros(len(LEVELS))
    effects = np.zeros(len(LEVELS))
    effects[chosen] = (size * _BETTER * (1 if sign == "positive" else -1))[chosen]
    outside = np.abs(level + effects) > _BOUNDS
    effects[outside] = 0.0
    # An agent never fails less often than never, so failure falls only by what it has risen.
    effects[FAILURE] = max(effects[FAILURE], -level[FAILURE])
    return effects


def _mix(rng: np.random.Generator, agent: int, mix: Floats) -> Floats:
    """New weights: another model of those that this agent may use takes the lead."""
    lead = int(np.argmax(mix))
    usable = AGENT_MODELS[agent] > 0
    usable[lead] = False
    winner = int(rng.choice(np.flatnonzero(usable)))
    weights = 0.4 * AGENT_MODELS[agent] / AGENT_MODELS[agent].sum()
    weights[winner] += float(rng.uniform(0.4, 0.7))
    return weights
