"""When requests come, and whose: conversations of a day, turn by turn.

Arrivals follow the client windows of ServeGen (Alibaba, 14 days): the day's shape varies by a factor of two,
ten-minute rates keep an ln standard deviation of some .28 around it with memory from window to window, and a few
clients make most of the traffic. A conversation belongs to the day it began on; its turns may run past midnight.
"""

from __future__ import annotations

from datetime import date

import numpy as np

from metamon_assets.simulation.changes import DAY
from metamon_assets.simulation.draws import Floats, Ints, choose, stream
from metamon_assets.simulation.incidents import Effect, Incident
from metamon_assets.simulation.world import AGENT_MODES, REGIONS, Cast

Columns = dict[str, Ints]
BINS = 144  # of ten minutes
QUESTIONS = 200  # stock questions per agent
_WEEK = np.array([1.12, 1.15, 1.15, 1.12, 1.02, 0.72, 0.72])  # Monday first; the mean is 1
_LOCAL_NOON = np.array([18.0, 12.0, 6.5])  # UTC hour of noon by region
_MORE_TURNS = 0.45  # probability that a conversation goes on
_MOST_TURNS = 12
MEAN_TURNS = (1 - _MORE_TURNS**_MOST_TURNS) / (1 - _MORE_TURNS)
_MEMORY = 0.8  # of the bursts, from one ten-minute window to the next
_TENANT_BURST, _COMMON_BURST = 0.5, 0.12  # ln standard deviations


def day_number(day: date) -> int:
    """Days since 1970-01-01."""
    return day.toordinal() - date(1970, 1, 1).toordinal()


def expected_rate(cast: Cast, day: int, per_day: float) -> Floats:
    """Requests expected in each ten minutes of a day, by tenant: (tenants, BINS), bursts included."""
    rng = stream(cast.seed, "bursts", day)
    hours = (np.arange(BINS) + 0.5) * 24 / BINS
    angle = 2 * np.pi * (hours[None, :] - _LOCAL_NOON[cast.tenant_region][:, None] - 2.0) / 24
    shape = np.exp(0.65 * np.cos(angle) + 0.12 * np.cos(2 * angle))
    shape /= shape.mean(axis=1, keepdims=True)
    own = _wander(rng, len(cast.tenants), _TENANT_BURST)
    common = _wander(rng, 1, _COMMON_BURST)
    weekday = (day + 3) % 7  # 1970-01-01 was a Thursday
    level = float(np.exp(rng.normal(0, 0.06) - 0.0018))
    rate: Floats = per_day * _WEEK[weekday] * level * cast.tenant_share[:, None] * shape * own * common / BINS
    return rate


def requests_of(cast: Cast, day: int, per_day: float, incidents: tuple[Incident, ...]) -> Columns:
    """All requests that start on a day: those of every day, in order of conversation, then what incidents add."""
    parts: list[tuple[Columns, np.random.Generator, Incident | None, Effect | None]] = []
    for began in (day - 1, day):
        conversations = _conversations(cast, began, expected_rate(cast, began, per_day), stream(cast.seed, "conversations", began))
        parts.append((conversations, stream(cast.seed, "turns", began), None, None))
    base = parts.copy()
    for incident in incidents:
        for number, effect in enumerate(incident.effects):
            for began in (day - 1, day):
                if effect.target == "sessions":
                    rng = stream(cast.seed, "more conversations", began, incident.number, number)
                    rate = (effect.size - 1) * expected_rate(cast, began, per_day)
                    rate[[tenant for tenant in range(len(rate)) if tenant not in effect.where["tenant"]]] = 0.0
                    parts.append((_only_during(incident, effect, _conversations(cast, began, rate, rng)), rng, None, None))
            if effect.target == "turns":
                for (conversations, _, _, _), began in zip(base, (day - 1, day), strict=True):
                    rng = stream(cast.seed, "more turns", began, incident.number, number)
                    parts.append((conversations, rng, incident, effect))
    requests = [_turns(conversations, rng, incident, effect) for conversations, rng, incident, effect in parts]
    columns = {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}
    today = (columns["time"] >= day * DAY) & (columns["time"] < (day + 1) * DAY)
    return {name: values[today] for name, values in columns.items()}


def _wander(rng: np.random.Generator, rows: int, spread: float) -> Floats:
    """Positive noise with mean 1 and memory: exp of an AR(1) process, (rows, BINS)."""
    steps = rng.standard_normal((rows, BINS)) * np.sqrt(1 - _MEMORY**2)
    steps[:, 0] /= np.sqrt(1 - _MEMORY**2)
    for column in range(1, BINS):
        steps[:, column] += _MEMORY * steps[:, column - 1]
    result: Floats = np.exp(spread * steps - spread**2 / 2)
    return result


def _conversations(cast: Cast, day: int, rate: Floats, rng: np.random.Generator) -> Columns:
    """The conversations that begin on a day."""
    counts = rng.poisson(rate / MEAN_TURNS)
    tenant, window = (part.astype(np.int64) for part in np.divmod(np.repeat(np.arange(counts.size), counts.ravel()), BINS))
    rows = len(tenant)
    uniform = rng.random((rows, 9))
    users = cast.tenant_users[tenant]
    user = (users * uniform[:, 1] ** 2.2).astype(np.int64)
    agent = choose(uniform[:, 2], cast.tenant_agents[tenant])
    elsewhere = uniform[:, 3] < 0.12
    region = np.where(elsewhere, (uniform[:, 4] * len(REGIONS)).astype(np.int64), cast.tenant_region[tenant])
    rank = (QUESTIONS * uniform[:, 5] ** 2.5).astype(np.int64)
    # A user's language is the user's own: a fixed, evenly spread number stands for the throw of the dice.
    fixed = ((user + 1) * 0.6180339887498949 + tenant * 0.37) % 1.0
    return {
        "id": rng.integers(0, 2**62, rows),
        "time": day * DAY + ((window + uniform[:, 0]) * (DAY // BINS)).astype(np.int64),
        "tenant": tenant,
        "user": user,
        "agent": agent,
        "language": choose(fixed, cast.tenant_languages[tenant]),
        "region": region,
        "environment": (uniform[:, 6] > 0.95).astype(np.int64),
        "mode": choose(uniform[:, 7], AGENT_MODES[agent]),
        "question": cast.questions[agent, rank],
        "plain": (uniform[:, 8] < 0.45).astype(np.int64),
    }


def _only_during(incident: Incident, effect: Effect, conversations: Columns) -> Columns:
    """Those of the conversations that an incident adds which begin while it lasts, as it wants them to be."""
    inside = (conversations["time"] >= incident.start) & (conversations["time"] < incident.end)
    conversations = {name: values[inside] for name, values in conversations.items()}
    if effect.to >= 0:
        conversations["agent"] = np.full_like(conversations["agent"], effect.to)
    if effect.mode >= 0:
        conversations["mode"] = np.full_like(conversations["mode"], effect.mode)
    return conversations


def _turns(conversations: Columns, rng: np.random.Generator, incident: Incident | None, effect: Effect | None) -> Columns:
    """The requests of conversations; with an effect on turns, only the turns that it adds at the end."""
    rows = len(conversations["time"])
    if incident is None or effect is None:
        first = np.zeros(rows, dtype=np.int64)
        count = np.minimum(rng.geometric(1 - _MORE_TURNS, rows), _MOST_TURNS)
        lead = np.zeros(rows)
    else:
        met = incident.selects(effect, {**conversations, "turn": np.zeros(rows, dtype=np.int64)}, conversations["time"])
        first = np.full(rows, _MOST_TURNS, dtype=np.int64)
        count = np.where(met, rng.poisson(effect.size, rows), 0)
        lead = rng.uniform(60, 300, rows)
    conversation = np.repeat(np.arange(rows), count)
    turn = np.arange(len(conversation)) - np.repeat(np.cumsum(count) - count, count)
    gaps = np.where(turn == 0, lead[conversation], 15 + np.exp(np.log(70) + rng.standard_normal(len(conversation))))
    elapsed = np.cumsum(gaps)
    starts = np.cumsum(count) - count
    elapsed -= np.repeat((elapsed - gaps)[starts[count > 0]], count[count > 0])
    result = {name: values[conversation] for name, values in conversations.items()}
    result["time"] = result["time"] + (elapsed * 1e6).astype(np.int64)
    result["turn"] = np.minimum(turn + first[conversation] // 4, 11)
    # Later turns mostly ask something else; turns that were added say the same again.
    if effect is None:
        result["question"] = (result["question"] + 7 * turn * turn) % QUESTIONS
    return result
