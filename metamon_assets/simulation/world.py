"""Who there is: agents, models, tools, tenants, and how they are disposed when nothing is wrong.

Here belongs the cast and its steady habits. What they do on a day is ``traffic``, what changes over time is
``changes``, what goes wrong is ``incidents``. Nobody and nothing named here exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from metamon_assets.simulation.draws import Floats, Ints, stream

PROJECT = "assistants"  # of the agents' own traces
OWN_PROJECT = "metamon"  # of Metamon's own calls, which must not come back in as traces (IN-8)
REGIONS = ("us-east", "eu-west", "ap-south")
LANGUAGES = ("en", "de", "fr", "es", "ja", "pt")
MODES = ("fast", "standard", "thorough")
ENVIRONMENTS = ("production", "staging")
SPAN_KINDS = ("retriever", "llm", "tool")
RETRIEVER, LLM, TOOL = range(3)


@dataclass(frozen=True, slots=True)
class Model:
    """A model: how fast it is, and its list price in 1e-12 US dollars per token (None: nobody sends a bill)."""

    name: str
    response_name: str
    provider: str
    first_token_seconds: float  # median
    tokens_per_second: float
    reasoning: float  # share of the output tokens
    input_price: int | None
    output_price: int | None
    cache_read_price: int | None
    cache_write_price: int | None  # None: writing costs nothing extra and is not reported


MODELS = (
    Model("gpt-4o", "gpt-4o-2024-08-06", "openai", 0.5, 110.0, 0.0, 2_500_000, 10_000_000, 1_250_000, None),
    Model("gpt-4o-mini", "gpt-4o-mini-2024-07-18", "openai", 0.36, 150.0, 0.0, 150_000, 600_000, 75_000, None),
    Model("o4-mini", "o4-mini-2025-04-16", "openai", 1.2, 180.0, 0.55, 1_100_000, 4_400_000, 275_000, None),
    Model("claude-sonnet-4-20250514", "claude-sonnet-4-20250514", "anthropic", 0.75, 95.0, 0.0, 3_000_000, 15_000_000, 300_000, 3_750_000),
    Model("claude-haiku-4-5", "claude-haiku-4-5-20251001", "anthropic", 0.42, 160.0, 0.0, 1_000_000, 5_000_000, 100_000, 1_250_000),
    Model("gemini-2.5-flash", "gemini-2.5-flash", "gcp.gemini", 0.4, 220.0, 0.25, 300_000, 2_500_000, 30_000, None),
    Model("llama-3.3-70b-internal", "llama-3.3-70b-internal", "self_hosted", 0.30, 80.0, 0.0, None, None, None, None),
)
PROVIDERS = tuple(dict.fromkeys(model.provider for model in MODELS))


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: median seconds, and how often a call fails."""

    name: str
    seconds: float
    failure: float


TOOLS = (
    Tool("order_lookup", 0.18, 0.008),
    Tool("refund", 0.35, 0.012),
    Tool("web_search", 0.5, 0.015),
    Tool("page_reader", 0.7, 0.022),
    Tool("run_tests", 1.3, 0.018),
    Tool("read_file", 0.05, 0.004),
    Tool("crm_search", 0.28, 0.010),
    Tool("sql_query", 0.55, 0.020),
    Tool("plot", 0.4, 0.006),
    Tool("calendar", 0.22, 0.009),
    Tool("send_email", 0.3, 0.007),
)


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent when nothing is wrong. Token figures are medians per model call and ln standard deviations."""

    name: str
    share: float  # of the traffic
    tools: dict[str, float]  # weights
    tool_calls: float  # mean, in standard mode
    retrieval: float  # probability
    input_tokens: float
    input_spread: float
    output_tokens: float
    cache: float  # probability that the application answers from its own cache
    quality: float
    completion: float
    failure: float  # probability of an error of the agent's own code
    degraded: float
    models: tuple[float, ...]  # weights over MODELS
    modes: tuple[float, ...]
    reports_cost: bool = False


# Spreads: Azure's conversation requests have ln sd .99 (context) and .86 (generated), its code requests 1.36 and .85.
OUTPUT_SPREAD = 0.85
AGENTS = (
    Agent("support", 0.34, {"order_lookup": 5, "refund": 1.5, "send_email": 1}, 1.6, 0.75, 1050, 0.85, 70, 0.34, 0.88, 0.93, 0.002, 0.02,
          (2, 6, 0, 0, 3, 2, 0), (4, 5, 1)),
    Agent("research", 0.15, {"web_search": 5, "page_reader": 4}, 2.6, 0.45, 2100, 0.95, 150, 0.12, 0.84, 0.88, 0.003, 0.04,
          (2, 0, 2, 5, 0, 2, 0), (1, 4, 4)),
    Agent("coding", 0.20, {"read_file": 5, "run_tests": 3, "web_search": 0.5}, 2.7, 0.25, 1900, 1.2, 110, 0.07, 0.85, 0.86, 0.004, 0.03,
          (1, 0, 2, 6, 0, 0, 2), (2, 5, 3)),
    Agent("sales", 0.12, {"crm_search": 5, "send_email": 2, "web_search": 1}, 1.8, 0.45, 1150, 0.9, 80, 0.2, 0.87, 0.91, 0.002, 0.025,
          (4, 3, 0, 0, 1, 0, 0), (3, 5, 1), reports_cost=True),
    Agent("data-analysis", 0.11, {"sql_query": 5, "plot": 2, "read_file": 1}, 2.5, 0.35, 1600, 0.95, 110, 0.14, 0.86, 0.89, 0.004, 0.03,
          (3, 0, 1, 2, 0, 3, 0), (1, 5, 3)),
    Agent("scheduling", 0.08, {"calendar": 6, "send_email": 2}, 2.0, 0.1, 700, 0.8, 45, 0.1, 0.9, 0.95, 0.002, 0.015,
          (0, 4, 0, 0, 2, 3, 3), (6, 4, 0.5)),
)  # fmt: skip

TENANT_NAMES = (
    "aldgate", "birchwood", "calder", "dunmore", "eastvale", "fernhill", "greycliff", "harrowgate", "inverlock",
    "juniper", "kelsey", "larkfield", "marlowe", "northby", "orchard", "penrose", "quarry", "rowanby",
)  # fmt: skip


def _habits(name: str) -> Floats:
    return np.array(
        [[agent.tools.get(tool.name, 0.0) for tool in TOOLS] if name == "tools" else getattr(agent, name) for agent in AGENTS], dtype=float
    )


AGENT_TOOLS = _habits("tools")
AGENT_MODES = _habits("modes")
AGENT_MODELS = _habits("models")


@dataclass(frozen=True, slots=True)
class Cast:
    """What the seed decides about who there is. Arrays have one row per tenant."""

    seed: int
    tenants: tuple[str, ...]
    tenant_share: Floats  # sums to 1
    tenant_agents: Floats  # (tenants, agents), rows sum to 1
    tenant_region: Ints
    tenant_languages: Floats  # (tenants, languages), rows sum to 1
    tenant_users: Ints
    questions: Ints  # the order in which each agent's stock questions are popular


@lru_cache(maxsize=8)
def cast(seed: int) -> Cast:
    """The cast of the world with this seed: 12 to 18 tenants whose sizes follow Zipf's law."""
    rng = stream(seed, "cast")
    count = int(rng.integers(12, len(TENANT_NAMES) + 1))
    names = tuple(str(name) for name in rng.permutation(TENANT_NAMES)[:count])
    share: Floats = 1.0 / np.arange(1, count + 1, dtype=np.float64) ** 0.9
    share /= share.sum()
    agents = rng.dirichlet(6.0 * np.array([agent.share for agent in AGENTS]), size=count) + 0.01
    # Tenants differ in which agents they use, the whole keeps the agents' shares.
    for _ in range(20):
        agents *= np.array([agent.share for agent in AGENTS]) / (share @ agents)
        agents /= agents.sum(axis=1, keepdims=True)
    languages = rng.dirichlet(np.array([3.0, 0.7, 0.6, 0.6, 0.4, 0.4]), size=count)
    languages = 0.9 * languages + 0.1 * np.array([0.5, 0.12, 0.12, 0.1, 0.08, 0.08])
    users = np.maximum(12, rng.lognormal(np.log(900 * share), 0.4)).astype(np.int64)
    return Cast(
        seed,
        names,
        share,
        agents,
        rng.choice(len(REGIONS), size=count, p=[0.45, 0.4, 0.15]),
        languages,
        users,
        np.array([rng.permutation(200) for _ in AGENTS]),
    )
