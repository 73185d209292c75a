"""Incidents: opened once, worsened, quiet, flapping, late; what people do; and never without what is to be told of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from metamon_assets.alerts import incidents
from metamon_assets.alerts.incidents import FLAPPING, QUIET, STALE, IncidentError, Observation, observe
from metamon_assets.alerts.routing import Policy
from metamon_assets.warehouse import connect

NOON = datetime(2026, 8, 22, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
POLICY = Policy(channels={"mail": "email"}, rule_channels={"HighErrorRate": ("email",)})


@pytest.fixture
def connection(database: str) -> Iterator[Any]:
    connection = connect(database)
    yield connection
    connection.close()


def saw(firing: bool = True, **more: Any) -> Observation:
    values: dict[str, Any] = {"severity": "warning", "started_at": NOON - 5 * MINUTE, "summary": "it fails", "value": 0.1}
    return Observation("HighErrorRate", "error_rate", "overall", "(all)", firing, **(values | more))


def step(connection: Any, *seen: Observation, at: datetime = NOON, now: datetime | None = None) -> list[str]:
    with connection, connection.cursor() as cursor:
        return [event for _, event in observe(cursor, POLICY, seen, at, now or at)]


def rows(connection: Any, query: str) -> list[tuple[Any, ...]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def told(connection: Any) -> list[str]:
    return [event for (event,) in rows(connection, "SELECT event FROM metamon.outbox WHERE suppressed IS NULL ORDER BY message_id")]


def test_one_incident_is_opened_goes_on_and_is_resolved_once_it_has_been_quiet(connection: Any) -> None:
    assert step(connection, saw()) == ["opened"]
    assert step(connection, saw(value=0.3), at=NOON + MINUTE) == []
    assert step(connection, saw(value=0.2), at=NOON + 2 * MINUTE) == []
    assert step(connection, saw(False), at=NOON + 3 * MINUTE) == []
    assert step(connection, saw(False), at=NOON + 3 * MINUTE + QUIET - MINUTE) == []
    assert step(connection, saw(False), at=NOON + 3 * MINUTE + QUIET) == ["resolved"]
    found = rows(connection, "SELECT status, value, peak, episodes, started_at, opened_at, resolved_at FROM metamon.incidents")
    assert found == [("resolved", 0.2, 0.3, 1, NOON - 5 * MINUTE, NOON, NOON + 3 * MINUTE + QUIET)]
    assert told(connection) == ["opened", "resolved"]
    assert [event for (event,) in rows(connection, "SELECT event FROM metamon.incident_events ORDER BY 1")] == ["opened", "resolved"]


def test_it_worsens_a_level_and_never_falls_back(connection: Any) -> None:
    events = [
        step(connection, saw(severity=severity), at=NOON + number * MINUTE)
        for number, severity in enumerate(("info", "warning", "warning", "critical", "info"))
    ]
    assert events == [["opened"], ["worsened"], [], ["worsened"], []]
    assert rows(connection, "SELECT severity FROM metamon.incidents") == [("critical",)]
    assert told(connection)[-2:] == ["worsened", "worsened"] or told(connection) == ["worsened", "worsened"]


def test_what_flaps_is_one_incident_and_told_once(connection: Any) -> None:
    now = NOON
    for _ in range(4):
        step(connection, saw(), at=now)
        step(connection, saw(False), at=now + MINUTE)
        step(connection, saw(False), at=now + MINUTE + QUIET)
        now += 20 * MINUTE
    assert rows(connection, "SELECT count(*), max(episodes) FROM metamon.incidents") == [(1, 4)]
    assert told(connection) == ["opened", "resolved"]


def test_after_the_time_of_flapping_it_is_another_incident(connection: Any) -> None:
    step(connection, saw())
    step(connection, saw(False), at=NOON + MINUTE)
    step(connection, saw(False), at=NOON + MINUTE + QUIET)
    assert step(connection, saw(), at=NOON + 2 * MINUTE + QUIET + FLAPPING) == ["opened"]
    assert rows(connection, "SELECT count(*) FROM metamon.incidents") == [(2,)]


def test_what_was_over_before_anybody_looked_is_kept_and_not_sent(connection: Any) -> None:
    now = NOON + timedelta(hours=5)
    step(connection, saw(), at=NOON, now=now)
    step(connection, saw(False), at=NOON + MINUTE, now=now)
    step(connection, saw(False), at=NOON + MINUTE + QUIET, now=now)
    assert rows(connection, "SELECT status, late FROM metamon.incidents") == [("resolved", True)]
    assert told(connection) == []


def test_what_began_long_ago_and_still_goes_on_is_told_once(connection: Any) -> None:
    now = NOON + timedelta(hours=5)
    assert step(connection, saw(), at=NOON, now=now) == ["opened"]
    assert told(connection) == []
    assert step(connection, saw(), at=now, now=now) == ["opened"]
    assert step(connection, saw(), at=now + MINUTE) == []
    assert rows(connection, "SELECT late, opened_at FROM metamon.incidents") == [(False, NOON)]
    assert told(connection) == ["opened"]
    assert now - NOON > STALE


def test_shadow_is_recorded_and_told_when_it_ends(connection: Any) -> None:
    step(connection, saw(shadow=True))
    assert told(connection) == []
    assert step(connection, saw(), at=NOON + MINUTE) == ["worsened"]
    assert told(connection) == ["worsened"]


def test_groups_and_metrics_have_incidents_of_their_own(connection: Any) -> None:
    other = Observation("HighErrorRate", "error_rate", "agent", "sales", True, "warning", NOON)
    assert step(connection, saw(), other) == ["opened", "opened"]
    assert step(connection, saw(), other, at=NOON + MINUTE) == []


def test_an_incident_is_never_stored_without_its_message(connection: Any) -> None:
    with connection.cursor() as cursor:
        observe(cursor, POLICY, [saw()], NOON, NOON)
    connection.rollback()
    assert rows(connection, "SELECT (SELECT count(*) FROM metamon.incidents), (SELECT count(*) FROM metamon.outbox)") == [(0, 0)]


def test_people_take_it_on_and_say_what_it_was(connection: Any) -> None:
    step(connection, saw())
    ((number,),) = rows(connection, "SELECT incident_id FROM metamon.incidents")
    assert incidents.acknowledge(connection, number, "ada", NOON).acknowledged_by == "ada"
    with pytest.raises(IncidentError, match="taken on by ada"):
        incidents.acknowledge(connection, number, "bob", NOON)
    incidents.give_feedback(connection, number, "true_positive", "ada", NOON, "it was the index")
    incidents.give_feedback(connection, number, "false_positive", "bob", NOON + MINUTE)
    assert rows(connection, "SELECT verdict, actor FROM metamon.incident_feedback") == [("false_positive", "bob")]
    events = rows(connection, "SELECT event, actor FROM metamon.incident_events ORDER BY event_id")
    assert events == [("opened", None), ("acknowledged", "ada"), ("feedback", "ada"), ("feedback", "bob")]
    assert rows(connection, "SELECT count(*) FROM metamon.audit_log WHERE action = 'give_feedback'") == [(2,)]
    with pytest.raises(IncidentError, match="no incident 99"):
        incidents.give_feedback(connection, 99, "true_positive", "ada", NOON)
