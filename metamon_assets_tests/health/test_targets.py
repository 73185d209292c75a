"""Targets: suggested once, counting only after somebody accepted them, and those of metamon.yaml following it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from metamon_assets.config import Configuration
from metamon_assets.health.targets import (
    CONFIGURATION,
    SUGGESTED,
    TargetError,
    accept,
    follow,
    kind_of,
    listed,
    suggest,
    withdraw,
)
from metamon_assets.metrics.registry import BY_NAME
from metamon_assets.warehouse import connect

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
AGENTS: dict[str, Any] = {
    "agents": {
        "support": {
            "targets": {"latency_p95": {"max": 8}, "task_completion_rate": {"min": 0.9}, "daily_active_users": {"min": 5}},
            "monthly_budget": "25",
        }
    }
}


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with closing(connect(database)) as connection:
        yield connection


def audited(connection: Connection) -> list[tuple[str, str, str]]:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT actor, action, subject FROM metamon.audit_log WHERE subject LIKE 'target:%' ORDER BY audit_id")
        return cursor.fetchall()


def test_the_suggestions_are_sound() -> None:
    assert len({target.name for target in SUGGESTED}) == len(SUGGESTED)
    for target in SUGGESTED:
        assert target.budget_days >= target.window_days, target.name
        assert target.kind != "share" or 0 <= target.objective <= 1, target.name
        if target.metric in BY_NAME:
            assert target.kind == kind_of(target.metric), target.name


def test_suggestions_count_only_after_somebody_accepted_them(connection: Connection) -> None:
    assert suggest(connection, NOW) == len(SUGGESTED)
    assert suggest(connection, NOW) == 0
    assert listed(connection) == list(SUGGESTED)
    assert listed(connection, accepted=True) == []

    accepted = accept(connection, "error_rate", "ada", NOW)
    assert (accepted.objective, accepted.accepted_by, accepted.accepted_at) == (0.01, "ada", NOW)
    assert accept(connection, "monthly_cost", "ada", NOW, objective=250).objective == 250
    assert [target.name for target in listed(connection, accepted=True)] == ["error_rate", "monthly_cost"]

    assert suggest(connection, NOW) == 0
    assert withdraw(connection, "error_rate", "bob", NOW).accepted_by is None
    assert [(target.name, target.objective) for target in listed(connection, accepted=True)] == [("monthly_cost", 250)]
    assert audited(connection) == [
        ("ada", "accept_target", "target:error_rate"),
        ("ada", "accept_target", "target:monthly_cost"),
        ("bob", "withdraw_target", "target:error_rate"),
    ]


def test_mistakes_are_told_and_change_nothing(connection: Connection) -> None:
    suggest(connection, NOW)
    with pytest.raises(TargetError, match="did you mean error_rate"):
        accept(connection, "eror_rate", "ada", NOW)
    with pytest.raises(TargetError, match="from 0 to 1, not 2"):
        accept(connection, "error_rate", "ada", NOW, objective=2)
    with pytest.raises(TargetError, match="nothing to withdraw"):
        withdraw(connection, "error_rate", "ada", NOW)
    assert listed(connection, accepted=True) == []
    assert audited(connection) == []


def test_targets_of_the_configuration_follow_it(connection: Connection) -> None:
    suggest(connection, NOW)
    configuration = Configuration.model_validate(AGENTS)
    names = ["support.daily_active_users.min", "support.latency_p95.max", "support.monthly_budget", "support.task_completion_rate.min"]
    assert follow(connection, configuration, NOW) == names
    assert follow(connection, configuration, NOW + timedelta(days=1)) == []
    found = {target.name: target for target in listed(connection, accepted=True)}
    assert sorted(found) == names
    assert {target.kind for target in found.values()} == {"level", "share", "amount"}
    assert found["support.latency_p95.max"].words == "latency_p95 of agent support at most 8"
    assert found["support.monthly_budget"].objective == 25
    assert {(target.accepted_by, target.accepted_at) for target in found.values()} == {(CONFIGURATION, NOW)}
    for decide in (accept, withdraw):
        with pytest.raises(TargetError, match=r"stands in metamon.yaml \(agents.support\)"):
            decide(connection, names[0], "ada", NOW)

    changed = Configuration.model_validate({"agents": {"support": {"targets": {"latency_p95": {"max": 9}}}}})
    assert follow(connection, changed, NOW) == names
    assert [(target.name, target.objective) for target in listed(connection, accepted=True)] == [("support.latency_p95.max", 9)]
    assert follow(connection, Configuration(), NOW) == ["support.latency_p95.max"]
    assert listed(connection) == list(SUGGESTED)
    assert audited(connection)[-1] == (CONFIGURATION, "remove_target", "target:support.latency_p95.max")
