"""Pending runs are followed until they end, and given up after 14 days (IN-6), with the real SDK over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from metamon_assets.metrics.sensors import late_days
from metamon_assets.traces.configured import ConfiguredSource
from metamon_assets.traces.ingest import ingest
from metamon_assets.traces.normalise import Rules
from metamon_assets.traces.pending import Followed, follow_pending
from metamon_assets.traces.rate_budget import RateBudget
from metamon_assets.traces.sources.base import Kind, Window
from metamon_assets.traces.sources.langsmith import LangSmithSource
from metamon_assets.warehouse import connect
from metamon_assets_tests.traces.sources.langsmith_server import LangSmithServer

DAY = datetime(2026, 1, 5, tzinfo=UTC)


class Agent:
    """An agent in LangSmith, a clock, and the tables."""

    def __init__(self, server: LangSmithServer, connection: Any) -> None:
        self.server, self.connection = server, connection
        self.now = DAY + timedelta(days=1)

    def configured(self) -> ConfiguredSource:
        source = LangSmithSource(
            "agent", api_key=self.server.key, api_url=self.server.api_url, budget=RateBudget(10_000, 1.0), clock=lambda: self.now
        )
        return ConfiguredSource(source, Rules(source="langsmith", project="agent", now=self.now))

    def read(self) -> None:
        configured = self.configured()
        ingest(
            self.connection, configured.source, Kind.RUNS, Window(DAY, DAY + timedelta(days=1)), configured.rules, dagster_run_id="daily"
        )

    def follow(self, **after: float) -> Followed:
        self.now = DAY + timedelta(**after)
        return follow_pending(self.connection, [self.configured()], now=self.now, dagster_run_id="later")

    def statuses(self, table: str = "traces") -> list[str]:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(f"SELECT status FROM metamon.{table} ORDER BY start_time")
            return [status for (status,) in cursor.fetchall()]


@pytest.fixture
def agent(database: str) -> Iterator[Agent]:
    connection = connect(database)
    with LangSmithServer(clock=lambda: living.now, limit=10_000) as server:
        living = Agent(server, connection)
        server.store.add_project("agent")
        yield living
    connection.close()


def test_a_run_that_ends_days_later(agent: Agent) -> None:
    hung = agent.server.store.add_run("agent", start_time=DAY, seconds=None)
    agent.server.store.add_run("agent", start_time=DAY + timedelta(hours=1), seconds=None)
    agent.read()
    assert agent.follow(days=2) == Followed(2, 0, 0)

    agent.server.store.patch_run(hung, end_time=DAY + timedelta(days=3), error="TimeoutError: gone")
    assert agent.follow(days=4) == Followed(2, 1, 0)
    assert agent.statuses() == ["error", "pending"]
    days, _ = late_days(agent.connection, 0)
    assert set(days) == {date(2026, 1, 5)}, "its day is computed again"


def test_given_up_after_14_days_and_still_right_after_that(agent: Agent) -> None:
    hung = agent.server.store.add_run("agent", start_time=DAY + timedelta(hours=2), seconds=None, tier="longlived")
    agent.server.store.add_run("agent", parent=hung, start_time=DAY + timedelta(hours=2), seconds=None, tier="longlived")
    agent.read()

    assert agent.follow(days=14, hours=1).abandoned == 0
    assert agent.follow(days=14, hours=3).abandoned == 2
    assert (agent.statuses(), agent.statuses("spans")) == (["abandoned"], ["abandoned"])
    assert agent.follow(days=14, hours=4) == Followed(0, 0, 0), "nobody asks for it again"

    agent.server.store.patch_run(hung, end_time=DAY + timedelta(days=15))
    agent.now = DAY + timedelta(days=16)
    agent.read()
    assert agent.statuses() == ["success"], "an end that comes after all still wins"


def test_nothing_pending_asks_for_nothing(agent: Agent) -> None:
    agent.server.store.add_run("agent", start_time=DAY)
    agent.read()
    asked = len(agent.server.log)
    assert agent.follow(days=2) == Followed(0, 0, 0)
    assert len(agent.server.log) == asked
