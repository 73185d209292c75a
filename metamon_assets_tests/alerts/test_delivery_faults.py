"""What can go wrong between an incident and its message: nothing is lost, and what comes twice has the same key."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from metamon_assets.alerts.outbox import Delivered, deliver
from metamon_assets.alerts.routing import Policy
from metamon_assets.config import Settings
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.migrations import migrate
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.warehouse.roles import WRITER
from metamon_assets_tests.alerts.delivery import NOW, Mailbox, Web, fire, free_port, rows, seen, settings_with

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
KINDS = {"HighErrorRate": ("webhook",), "Mailed": ("email",)}
DELIVERING = """
import sys
from datetime import UTC, datetime
from metamon_assets.alerts.outbox import deliver
from metamon_assets.alerts.routing import Policy
from metamon_assets.config import Settings
settings = Settings.load()
deliver(sys.argv[1], Policy.of(settings, {}), settings, datetime.fromisoformat(sys.argv[2]))
"""


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with closing(connect(database)) as connection:
        yield connection


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_with(tmp_path / "home", {"hook": "webhook", "mail": "email"})


@pytest.fixture
def policy(settings: Settings) -> Policy:
    return Policy.of(settings, KINDS)


@pytest.fixture
def round_at(database: str, policy: Policy, settings: Settings) -> Callable[..., Delivered]:
    return lambda after=timedelta(0), seconds=30.0: deliver(database, policy, settings, NOW + after, seconds=seconds)


Round = Callable[..., Delivered]


# --- servers -----------------------------------------------------------------------------------------------------


def test_a_web_server_that_is_down_gets_everything_when_it_is_back(
    connection: Connection, policy: Policy, round_at: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = Web(port=free_port())
    monkeypatch.setenv("HOOK_URL", web.url())
    fire(connection, policy, seen(), seen(value="b"), seen(value="c"))
    assert round_at() == Delivered(failed=2)
    assert "refused" in rows(connection, "last_error")[0]
    with web.open():
        assert round_at(MINUTE) == Delivered(sent=3)
    assert web.keys == rows(connection, "dedup_key")


def test_a_mail_server_that_is_down_gets_everything_when_it_is_back(
    connection: Connection, policy: Policy, round_at: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Mailbox(free_port())
    monkeypatch.setenv("MAIL_URL", box.url)
    fire(connection, policy, seen("Mailed"), seen("Mailed", value="b"))
    assert round_at() == Delivered(failed=2)
    with box.open():
        assert round_at(MINUTE) == Delivered(sent=2)
    assert [mail["X-Metamon-Key"] for mail in box.mails] == rows(connection, "dedup_key")


@pytest.mark.parametrize("said", ["451 4.3.0 try later", "550 5.7.1 no", "421 closing"])
def test_a_mail_server_that_refuses(
    connection: Connection, policy: Policy, round_at: Round, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    box = Mailbox(free_port(), answer=lambda number: said if number == 1 else "250 OK")
    monkeypatch.setenv("MAIL_URL", box.url)
    fire(connection, policy, seen("Mailed"))
    with box.open():
        assert round_at() == Delivered(failed=1)
        assert round_at(MINUTE) == Delivered(sent=1)
    assert len(box.mails) == 1


def test_a_web_server_that_answers_500_in_the_middle(
    connection: Connection, policy: Policy, round_at: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    fire(connection, policy, *(seen(value=str(number)) for number in range(6)))
    with Web(answer=lambda number: 500 if number in (3, 4) else 200).open() as web:
        monkeypatch.setenv("HOOK_URL", web.url())
        assert round_at() == Delivered(sent=2, failed=2)
        assert round_at(MINUTE) == Delivered(sent=4)
    assert sorted(set(web.keys)) == sorted(rows(connection, "dedup_key"))
    assert len(web.keys) == 8


def test_a_web_server_that_hangs_up_after_it_has_read(
    connection: Connection, policy: Policy, round_at: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    fire(connection, policy, seen())
    with Web(answer=lambda number: 0 if number == 1 else 200).open() as web:
        monkeypatch.setenv("HOOK_URL", web.url())
        assert round_at() == Delivered(failed=1)
        assert round_at(MINUTE) == Delivered(sent=1)
    assert web.keys == rows(connection, "dedup_key") * 2  # it may have taken the first: the key tells that they are the same


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("rule", ["HighErrorRate", "Mailed"])
def test_a_server_that_says_nothing_is_given_up_and_holds_up_no_other(
    connection: Connection, policy: Policy, round_at: Round, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    other = {"HighErrorRate": "Mailed", "Mailed": "HighErrorRate"}[rule]
    fire(connection, policy, seen(rule), seen(other))
    box = Mailbox(free_port())
    with silent_server() as port, Web().open() as web, box.open():
        monkeypatch.setenv("HOOK_URL", f"json://127.0.0.1:{port}/?rto=1&cto=1" if rule == "HighErrorRate" else web.url())
        monkeypatch.setenv("MAIL_URL", f"mailto://127.0.0.1:{port}/?from=a@b.example&to=c@d.example&cto=1" if rule == "Mailed" else box.url)
        done = round_at()
    assert (done.sent, done.failed) == (1, 1)
    assert len(web.posts) + len(box.mails) == 1
    assert rows(connection, "last_error", "sent_at IS NULL")[0]


# --- the process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["webhook", "email"])
def test_a_process_that_is_killed_after_sending_sends_it_again_with_the_same_key(
    connection: Connection, policy: Policy, database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    fire(connection, policy, seen("HighErrorRate" if kind == "webhook" else "Mailed"))
    processes: list[subprocess.Popen[bytes]] = []
    started = threading.Event()

    def kill() -> None:
        started.wait(10)
        if processes and processes[0].poll() is None:
            processes[0].send_signal(signal.SIGKILL)
            processes[0].wait()

    def kill_and_take(_: int) -> str:
        kill()
        return "250 OK"

    box = Mailbox(free_port(), answer=kill_and_take)
    with Web(before_answer=kill).open() as web, box.open():
        monkeypatch.setenv("HOOK_URL", web.url())
        monkeypatch.setenv("MAIL_URL", box.url)
        environment = {**os.environ, "METAMON_HOME": str(settings.home)}
        arguments = [sys.executable, "-c", DELIVERING, database, NOW.isoformat()]
        processes.append(subprocess.Popen(arguments, env=environment))
        started.set()
        assert processes[0].wait(60) == -signal.SIGKILL
        assert rows(connection, "attempts, sent_at") == [(0, None)]
        assert deliver(database, policy, settings, NOW + MINUTE) == Delivered(sent=1)
    sent = web.keys if kind == "webhook" else [mail["X-Metamon-Key"] for mail in box.mails]
    assert sent == rows(connection, "dedup_key") * 2


# --- the database ------------------------------------------------------------------------------------------------


@pytest.fixture
def server(new_home: Callable[[str], Path]) -> Iterator[EmbeddedPostgres]:
    """A server of its own, to be restarted."""
    server = EmbeddedPostgres(new_home("metamon-restarted-"))
    server.start()
    yield server
    server.stop()


def test_a_database_that_is_restarted_while_a_message_is_sent(
    server: EmbeddedPostgres, settings: Settings, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(server.url(role=ADMINISTRATOR))
    url = server.url(role=WRITER)
    with closing(connect(url)) as connection:
        fire(connection, policy, *(seen(value=str(number)) for number in range(4)))
        keys = rows(connection, "dedup_key")

    def restart() -> None:
        if len(web.posts) == 2:
            server.stop()
            server.start()

    with Web(before_answer=restart).open() as web:
        monkeypatch.setenv("HOOK_URL", f"json://127.0.0.1:{web.port}/hook?rto=30")
        with pytest.raises(psycopg2.Error):
            deliver(url, policy, settings, NOW)
        assert deliver(url, policy, settings, NOW + MINUTE) == Delivered(sent=3)
    assert web.keys == [keys[0], keys[1], keys[1], keys[2], keys[3]]
    with closing(connect(url)) as connection:
        assert all(rows(connection, "sent_at IS NOT NULL"))


def test_without_a_database_it_says_so(settings: Settings, policy: Policy) -> None:
    with pytest.raises(psycopg2.OperationalError):
        deliver(f"postgresql://nobody@127.0.0.1:{free_port()}/metamon", policy, settings, NOW)


# --- the clock ---------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_back_delays_nothing(
    connection: Connection, policy: Policy, round_at: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Web(answer=lambda number: 500 if number == 1 else 200).open() as web:
        monkeypatch.setenv("HOOK_URL", web.url())
        fire(connection, policy, seen())
        assert round_at() == Delivered(failed=1)
        fire(connection, policy, seen(value="b"))  # written just before the jump
        assert round_at(-HOUR) == Delivered(sent=2)
        fire(connection, policy, seen(value="c"), at=NOW - HOUR)
        assert round_at(-HOUR + MINUTE) == Delivered(sent=1)
        assert round_at(HOUR) == Delivered()
    assert sorted(set(web.keys)) == sorted(rows(connection, "dedup_key"))


def test_pauses_hold_on_a_clock_that_jumped_back(
    connection: Connection, policy: Policy, round_at: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Web(answer=lambda _: 500).open() as web:
        monkeypatch.setenv("HOOK_URL", web.url())
        fire(connection, policy, seen())
        assert round_at(-DAY) == Delivered(failed=1)
        assert round_at(-DAY + timedelta(seconds=3)) == Delivered()
        assert round_at(-DAY + MINUTE) == Delivered(failed=1)


def test_a_clock_that_jumps_ahead_gives_nothing_up(
    connection: Connection, policy: Policy, round_at: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Web(answer=lambda number: 500 if number < 4 else 200).open() as web:
        monkeypatch.setenv("HOOK_URL", web.url())
        fire(connection, policy, seen())
        assert round_at() == Delivered(failed=1)
        assert round_at(DAY) == Delivered(failed=1)  # a day after it was written, and not given up
        assert round_at(MINUTE) == Delivered(failed=1)  # the clock is right again
        assert round_at(2 * MINUTE) == Delivered(sent=1)
        assert round_at(2 * DAY) == Delivered()
    assert web.keys == rows(connection, "dedup_key") * 4
