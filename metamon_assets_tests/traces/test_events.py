"""Events inferred from first sightings (IN-13)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from metamon_assets.traces.events import infer_events, infer_live_events
from metamon_assets.warehouse import connect
from metamon_assets_tests.traces.runs import run

START = datetime(2026, 8, 1, 10, tzinfo=UTC)


class World:
    """Traces of agents over days, and the events that follow from them."""

    def __init__(self, url: str) -> None:
        self.connection = connect(url)

    def execute(self, query: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def trace(self, day: int, agent: str = "support", *, hours: float = 0, **columns: Any) -> None:
        start = START + timedelta(days=day, hours=hours)
        self.execute("SELECT metamon.ensure_partition(t, %s) FROM unnest('{traces, spans}'::text[]) t", (start.date(),))
        row = run(f"{agent} {start} {columns}", start=start, agent_name=agent, day=start.date(), **columns)
        self.execute(
            f"INSERT INTO metamon.traces ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})",
            tuple(row.values()),
        )

    def reported(self, day: int, **columns: Any) -> None:
        self.execute(
            f"INSERT INTO metamon.events (source, project, event_id, kind, time, inferred, observed_time, {', '.join(columns)})"
            f" VALUES ('files', 'p', 'r{day}', 'deployment', %s, false, now(), {', '.join(['%s'] * len(columns))})",
            (START + timedelta(days=day), *columns.values()),
        )

    def infer(self, *days: int) -> int:
        return infer_events(self.connection, [self.day(day) for day in days])

    def events(self) -> list[tuple[Any, ...]]:
        return self.execute("SELECT kind, agent_name, version, time FROM metamon.events WHERE inferred ORDER BY time, kind, version")

    @staticmethod
    def day(day: int) -> date:
        return (START + timedelta(days=day)).date()


@pytest.fixture
def world(database: str) -> Iterator[World]:
    made = World(database)
    yield made
    made.connection.close()


def test_what_an_agent_showed_at_first_is_no_change(world: World) -> None:
    world.trace(0, agent_version="1", request_model="large", prompt_name="greeting", prompt_version="a")
    world.trace(0, hours=6, agent_version="2")
    world.trace(5, "sales", agent_version="7")
    assert world.infer(0, 5) == 0


def test_new_versions_models_and_prompts_are_events(world: World) -> None:
    world.trace(0, agent_version="1", request_model="large", prompt_name="greeting", prompt_version="a")
    world.trace(3, agent_version="2", response_model="small", prompt_name="greeting", prompt_version="b")
    assert world.infer(0, 3) == 3
    time = START + timedelta(days=3)
    assert world.events() == [
        ("model", "support", "small", time),
        ("prompt", "support", "greeting b", time),
        ("version", "support", "2", time),
    ]


def test_the_order_of_days_does_not_matter(world: World) -> None:
    for day, version in enumerate(("1", "1", "2", "1", "3", "2")):
        world.trace(day, agent_version=version)
    outcomes = set()
    for order in permutations((0, 2, 4)):
        world.execute("DELETE FROM metamon.first_sightings")
        for first in order:
            world.infer(first, first + 1)
        outcomes.add(tuple(world.events()))
    assert outcomes == {(("version", "support", "2", START + timedelta(days=2)), ("version", "support", "3", START + timedelta(days=4)))}
    world.infer(0, 1, 2, 3, 4, 5)
    assert tuple(world.events()) in outcomes


def test_an_earlier_sighting_moves_the_event_back(world: World) -> None:
    world.trace(0, agent_version="1")
    world.trace(5, agent_version="2")
    world.infer(0, 5)
    world.trace(4, agent_version="2")
    world.infer(4)
    assert world.events() == [("version", "support", "2", START + timedelta(days=4))]


@pytest.mark.parametrize(
    ("report", "inferred"),
    [
        ({"day": 3, "agent_name": "support", "version": "2"}, 0),
        ({"day": 3, "version": "2"}, 0),
        ({"day": 2, "agent_name": "support", "commit_sha": "2"}, 0),
        ({"day": 3, "agent_name": "sales", "version": "2"}, 1),
        ({"day": 3, "agent_name": "support", "version": "9"}, 1),
        ({"day": 1, "agent_name": "support", "version": "2"}, 1),
    ],
    ids=["reported", "reported for all agents", "by its commit, the day before", "of another agent", "another version", "long before"],
)
def test_a_change_that_was_reported_needs_no_twin(world: World, report: dict[str, Any], inferred: int) -> None:
    world.trace(0, agent_version="1")
    world.trace(3, agent_version="2")
    world.reported(**report)
    assert world.infer(0, 3) == inferred


def test_live_data_tell_what_is_new_in_them(world: World) -> None:
    def read_live(day: int, hours: float) -> None:
        world.execute(
            "INSERT INTO metamon.ingestion_ledger (source, project, kind, started_at, finished_at, status, window_start, days, live)"
            " VALUES ('files', 'p', 'runs', now(), clock_timestamp(), 'complete', %s, %s, true)",
            (START + timedelta(days=day, hours=hours), [world.day(day)]),
        )

    world.trace(0, agent_version="1")
    world.infer(0)
    (before,) = world.execute("SELECT clock_timestamp()")[0]
    world.trace(3, agent_version="2", hours=1)
    assert infer_live_events(world.connection, before) == 0, "nothing was read yet"
    read_live(3, hours=2)
    assert infer_live_events(world.connection, before) == 0, "it started before what was asked for"
    read_live(3, hours=0.5)
    assert infer_live_events(world.connection, before) == 1
    assert [event[:3] for event in world.events()] == [("version", "support", "2")]
    assert infer_live_events(world.connection, before) == 0, "it is known"
