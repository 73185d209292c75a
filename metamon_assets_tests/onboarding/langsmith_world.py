"""A LangSmith project as an application with agents fills it: for trials of the first hour.

Three agents in two versions work for some customers; each trace has a root, calls of models and of tools. Whom a trace
belongs to stands in metadata under the application's own names, not under those of a convention.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from metamon_assets_tests.traces.sources.langsmith_store import LangSmithStore

AGENTS = {"support": 0.6, "billing": 0.3, "research": 0.1}
CUSTOMERS = {"acme": 0.5, "globex": 0.3, "initech": 0.15, "umbrella": 0.05}
CHILDREN = 4.0  # a trace has so many in the mean
ERROR = "RateLimitError: 429 too many requests for customer {}"


def fill(store: LangSmithStore, project: str, *, days: int, per_day: int, now: datetime, seed: int = 1) -> int:
    """Put the traces of the last ``days`` whole UTC days into the store; gives their number."""
    chance = random.Random(seed)
    today = datetime(now.year, now.month, now.day, tzinfo=UTC)
    for back in range(days, 0, -1):
        for start in sorted(chance.random() for _ in range(per_day)):
            _trace(store, project, today - timedelta(days=back - start), chance, version="2.1" if back <= days // 2 else "2.0")
    return days * per_day


def _trace(store: LangSmithStore, project: str, start: datetime, chance: random.Random, version: str) -> None:
    agent, customer = (chance.choices(list(shares), list(shares.values()))[0] for shares in (AGENTS, CUSTOMERS))
    metadata = {
        "botName": agent,
        "git_sha": version,
        "customerId": customer,
        "chatId": f"chat-{chance.randrange(10**6)}",
        "uid": f"{customer}-{chance.randrange(200)}",
        "langchain_version": "1.2.6",
        "temperature": 0.2,
    }
    failed = chance.random() < 0.03
    calls = [chance.lognormvariate(0.0, 0.6) for _ in range(chance.choice((1, 2, 2, 3)))]
    failure: dict[str, Any] = {"error": ERROR.format(customer)} if failed else {}
    common: dict[str, Any] = {"tier": "longlived", "extra": {"metadata": metadata}}
    root = store.add_run(
        project,
        start_time=start,
        seconds=sum(calls) * 1.3 + 0.2,
        name="AgentExecutor",
        inputs={"question": f"Where is order {chance.randrange(500)}?"},
        outputs={"answer": "It is on its way."},
        **failure,
        **common,
    )
    moment = start + timedelta(seconds=0.1)
    for number, seconds in enumerate(calls):
        tokens: dict[str, Any] = {"prompt_tokens": chance.randrange(300, 3000), "completion_tokens": chance.randrange(20, 500)}
        bill: dict[str, Any] = {"prompt_cost": tokens["prompt_tokens"] * 2e-7, "completion_cost": tokens["completion_tokens"] * 8e-7}
        store.add_run(
            project,
            start_time=moment,
            seconds=seconds,
            parent=root,
            name="ChatOpenAI",
            run_type="llm",
            inputs={"messages": [{"role": "user", "content": f"Step {number} of {root}"}]},
            **tokens,
            **bill,
            total_tokens=sum(tokens.values()),
            total_cost=sum(bill.values()),
            **{**common, "extra": {"metadata": {**metadata, "ls_provider": "openai", "ls_model_name": "gpt-4o-mini"}}},
        )
        moment += timedelta(seconds=seconds)
        store.add_run(project, start_time=moment, seconds=seconds * 0.2, parent=root, name=f"lookup_{number}", run_type="tool", **common)
        moment += timedelta(seconds=seconds * 0.25)
