"""What matches a silence, and what cannot be made one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from metamon_assets.alerts import silences
from metamon_assets.alerts.silences import Silence, SilenceError
from metamon_assets.warehouse import connect
from metamon_assets_tests.alerts.delivery import NOW

HOUR = timedelta(hours=1)


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with closing(connect(database)) as connection:
        yield connection


def make(connection: Connection, **more: Any) -> Silence:
    given: dict[str, Any] = {"reason": "known", "actor": "ada", "now": NOW, "ends_at": NOW + HOUR}
    return silences.create(connection, **(given | more))


def matches(
    connection: Connection, rule: str = "R", dimension: str = "agent", value: str = "a", *, after: timedelta = timedelta(0)
) -> bool:
    with connection, connection.cursor() as cursor:
        return silences.matching(cursor, rule, dimension, value, NOW + after) is not None


@pytest.mark.parametrize(
    ("about", "matching", "not_matching"),
    [
        ({"rule": "R"}, [{}, {"dimension": "overall", "value": "(all)"}], [{"rule": "S"}]),
        ({"dimension": "agent"}, [{}, {"value": "b"}, {"rule": "S"}], [{"dimension": "tenant"}]),
        ({"dimension": "agent", "dimension_value": "a"}, [{}, {"rule": "S"}], [{"value": "b"}, {"dimension": "tenant"}]),
        ({"rule": "R", "dimension": "agent", "dimension_value": "a"}, [{}], [{"rule": "S"}, {"value": "b"}]),
        ({"maintenance": True}, [{}, {"rule": "S", "dimension": "tenant", "value": "x"}], []),
    ],
)
def test_it_matches_what_it_names(
    connection: Connection, about: dict[str, Any], matching: list[dict[str, Any]], not_matching: list[dict[str, Any]]
) -> None:
    make(connection, **about)
    assert all(matches(connection, **one) for one in matching)
    assert not any(matches(connection, **one) for one in not_matching)


def test_it_holds_from_its_start_to_its_end(connection: Connection) -> None:
    make(connection, rule="R", starts_at=NOW + HOUR, ends_at=NOW + 2 * HOUR)
    second = timedelta(seconds=1)
    found = [matches(connection, after=after) for after in (HOUR - second, HOUR, 2 * HOUR - second, 2 * HOUR)]
    assert found == [False, True, True, False]


def test_one_that_is_ended_holds_no_longer(connection: Connection) -> None:
    running, later = make(connection, rule="R"), make(connection, rule="S", starts_at=NOW + HOUR, ends_at=NOW + 2 * HOUR)
    for silence in (running, later):
        silences.end(connection, silence.silence_id, "bob", NOW + timedelta(minutes=1))
    assert not matches(connection, after=timedelta(minutes=1))
    assert not matches(connection, rule="S", after=HOUR + timedelta(minutes=1))
    assert silences.listed(connection, NOW + 2 * HOUR) == []
    assert {one.silence_id for one in silences.listed(connection, NOW, past=True)} == {running.silence_id, later.silence_id}
    with pytest.raises(SilenceError, match="has ended already"):
        silences.end(connection, running.silence_id, "bob", NOW + timedelta(minutes=2))
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT actor, action FROM metamon.audit_log WHERE subject LIKE 'silence:%' ORDER BY audit_id")
        assert cursor.fetchall() == [("ada", "create_silence")] * 2 + [("bob", "end_silence")] * 2


def test_a_rule_of_its_own_goes_before_a_maintenance_window(connection: Connection) -> None:
    make(connection, maintenance=True)
    make(connection, rule="R")
    with connection, connection.cursor() as cursor:
        found = silences.matching(cursor, "R", "agent", "a", NOW)
    assert found is not None
    assert not found.maintenance


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "name one, or make it a maintenance window"),
        ({"dimension_value": "a", "rule": "R"}, "needs its dimension"),
        ({"rule": "R", "ends_at": NOW}, "later end"),
        ({"rule": "R", "starts_at": NOW - 2 * HOUR, "ends_at": NOW - HOUR}, "later end"),
        ({"rule": "R", "reason": " "}, "needs a reason"),
    ],
)
def test_what_makes_no_sense_is_refused(connection: Connection, given: dict[str, Any], message: str) -> None:
    with pytest.raises(SilenceError, match=message):
        make(connection, **given)


def test_what_is_not_there_cannot_end(connection: Connection) -> None:
    with pytest.raises(SilenceError, match="no silence 99"):
        silences.end(connection, 99, "ada", NOW)
