"""The commands about incidents, silences and messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from psycopg2.extensions import connection as Connection

import metamon_assets.cli.incidents  # noqa: F401 - its commands belong to main
from metamon_assets.alerts.routing import Policy
from metamon_assets.cli.group import main
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets_tests.alerts.delivery import Web, fire, rows, seen, settings_with

Metamon = Callable[..., Result]


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with closing(connect(database)) as connection:
        yield connection


@pytest.fixture
def metamon(tmp_path: Path, postgres: EmbeddedPostgres, database_name: str, monkeypatch: pytest.MonkeyPatch) -> Metamon:
    settings_with(tmp_path / "home", {"hook": "webhook"})
    monkeypatch.setenv("METAMON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("METAMON_DATABASE_URL", postgres.url(database_name, ADMINISTRATOR))
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


POLICY = Policy(channels={"hook": "webhook"}, rule_channels={"HighErrorRate": ("webhook",)}, timezone="Europe/Vienna")


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return str(result.output)


def test_incidents_are_listed_shown_taken_on_and_judged(metamon: Metamon, connection: Connection) -> None:
    assert "No incident is open" in done(metamon("incidents", "list"))
    (incident,) = fire(connection, POLICY, seen(value="sales\x1b[2J", reasons=("two channels",)))
    fire(connection, POLICY, seen("Other"))
    listed = done(metamon("incidents", "list"))
    assert "HighErrorRate" in listed
    assert "2026-11-26 14:07 CET" in listed
    assert "\x1b" not in listed
    shown = done(metamon("incidents", "show", incident.incident_id))
    assert "two channels" in shown
    assert "waiting" in shown
    assert "is taken on by" in done(metamon("incidents", "acknowledge", incident.incident_id))
    assert metamon("incidents", "acknowledge", incident.incident_id).exit_code == 1
    assert "a false alarm" in done(metamon("incidents", "feedback", incident.incident_id, "false", "--note", "a test"))
    document = json.loads(done(metamon("incidents", "show", incident.incident_id, "--json")))
    assert [event["event"] for event in document["events"]] == ["opened", "acknowledged", "feedback"]
    assert document["messages"][0]["channel"] == "hook"
    missing = metamon("incidents", "show", 99)
    assert missing.exit_code == 1
    assert "no incident 99" in missing.output
    found = json.loads(done(metamon("incidents", "list", "--all", "--rule", "HighErrorRate", "--json")))
    assert [one["incident_id"] for one in found] == [incident.incident_id]


def test_silences_are_added_listed_and_ended(metamon: Metamon) -> None:
    assert "Nothing is silenced" in done(metamon("silences", "list"))
    said = done(
        metamon("silences", "add", "--rule", "HighErrorRate", "--dimension", "agent", "--value", "sales", "--for", "4h", "--reason", "x")
    )
    assert "Silence 1: rule HighErrorRate, agent sales until" in said
    done(metamon("silences", "add", "--maintenance", "--from", "2126-12-24 18:00", "--until", "2126-12-24 20:00", "--reason", "move"))
    listed = json.loads(done(metamon("silences", "list", "--json")))
    assert [(one["silence_id"], one["maintenance"]) for one in listed] == [(2, True), (1, False)]
    assert listed[0]["starts_at"].startswith("2126-12-24T17:00")  # Vienna's winter
    assert "has ended" in done(metamon("silences", "end", 1))
    assert "rule HighErrorRate" not in done(metamon("silences", "list"))
    assert "rule HighErrorRate" in done(metamon("silences", "list", "--past"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--rule", "R"), "either --for 4h or --until"),
        (("--rule", "R", "--for", "4h", "--until", "2126-01-01 10:00"), "either --for 4h or --until"),
        (("--rule", "R", "--for", "soon"), "soon is no span of time"),
        (("--rule", "R", "--for", "3000000d"), "3000000d is no span of time"),
        (("--rule", "R", "--for", "99999999999d"), "of at most ten years"),
        (("--for", "1h"), "name one, or make it a maintenance window"),
    ],
)
def test_a_silence_that_makes_no_sense_is_refused(metamon: Metamon, given: tuple[str, ...], message: str) -> None:
    result = metamon("silences", "add", "--reason", "x", *given)
    assert result.exit_code == 1
    assert message in result.output


def test_messages_are_listed_and_tried_again(metamon: Metamon, connection: Connection) -> None:
    assert "No message waits" in done(metamon("outbox", "list"))
    fire(connection, POLICY, seen())
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.outbox SET dead_at = now(), attempts = 55, last_error = 'error=500'")
    assert "given up" in done(metamon("outbox", "list", "--state", "dead"))
    assert "is due" in done(metamon("outbox", "retry", rows(connection, "message_id")[0]))
    assert rows(connection, "attempts, dead_at") == [(0, None)]
    assert "waiting" in done(metamon("outbox", "list"))


def test_a_channel_is_tested_through_the_outbox(metamon: Metamon, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    with Web(answer=lambda number: 500 if number == 1 else 200).open() as web:
        monkeypatch.setenv("HOOK_URL", web.url())
        failed = metamon("outbox", "test", "hook")
        assert failed.exit_code == 1
        assert "error=500" in failed.output
        assert "took the message" in done(metamon("outbox", "test", "hook"))
    assert [body["event"] for _, body in web.posts][:2] == ["test", "test"]
    absent = metamon("outbox", "test", "absent")
    assert absent.exit_code == 1
    assert "Those that there are: hook" in absent.output
