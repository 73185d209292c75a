"""Delivery as it should go, and what people do with messages that do not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from psycopg2.extensions import connection as Connection

from metamon_assets.alerts import outbox
from metamon_assets.alerts.outbox import ATTEMPTS_OF_A_DAY, FIRST_PAUSE, LONGEST_PAUSE, Delivered, OutboxError, deliver, pause
from metamon_assets.alerts.routing import Policy
from metamon_assets.config import Settings
from metamon_assets.metrics.completions import refresh_completion_days
from metamon_assets.warehouse import connect
from metamon_assets_tests.alerts.delivery import NOW, Mailbox, Web, fire, free_port, kinds_of, part_of, rows, seen, settings_with
from metamon_assets_tests.metrics.test_completions import run, write

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
KINDS = {"HighErrorRate": ("webhook",), "Mailed": ("email",)}


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
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    with Web().open() as web:
        monkeypatch.setenv("HOOK_URL", web.url())
        yield web


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    box = Mailbox(free_port())
    monkeypatch.setenv("MAIL_URL", box.url)
    with box.open():
        yield box


@pytest.fixture
def round_at(database: str, policy: Policy, settings: Settings) -> Callable[[timedelta], Delivered]:
    """A round of delivery so long after NOW."""

    def run_round(after: timedelta = timedelta(0)) -> Delivered:
        return deliver(database, policy, settings, NOW + after)

    return run_round


Round = Callable[..., Delivered]


def test_what_waits_is_sent_once_and_in_order(connection: Connection, policy: Policy, web: Web, round_at: Round) -> None:
    for number in range(5):
        fire(connection, policy, seen(value=f"agent {number}"))
    assert round_at() == Delivered(sent=5)
    assert round_at(MINUTE) == Delivered()
    assert web.keys == rows(connection, "dedup_key")
    assert rows(connection, "attempts, last_error") == [(1, None)] * 5
    assert all(NOW <= at < NOW + MINUTE for at in rows(connection, "sent_at"))


def test_what_is_held_back_is_not_sent(connection: Connection, policy: Policy, web: Web, round_at: Round) -> None:
    fire(connection, policy, seen(shadow=True), seen("Mailed", severity="info"))
    assert round_at() == Delivered()
    assert web.posts == []
    assert rows(connection, "suppressed") == ["shadow", "digest"]


def test_a_mail_carries_the_picture_of_its_incident(connection: Connection, policy: Policy, box: Mailbox, round_at: Round) -> None:
    runs = [run(f"r{n}", NOW - timedelta(minutes=2 * n), 1.0, agent_name="sales") for n in range(1, 100)]
    write(connection, runs)
    refresh_completion_days(connection, [NOW.date()], NOW)
    fire(connection, policy, seen("Mailed"), seen("Mailed", value="without data"))
    assert round_at() == Delivered(sent=2)
    pictured, bare = box.mails
    assert "image/png" in kinds_of(pictured)
    assert "cid:picture-1.png" in part_of(pictured, "text/html")
    assert "image/png" not in kinds_of(bare)
    assert "<!-- picture -->" not in part_of(bare, "text/html")
    assert pictured["References"] != bare["References"]


def test_the_mail_that_it_is_over_joins_the_thread(connection: Connection, policy: Policy, box: Mailbox, round_at: Round) -> None:
    fire(connection, policy, seen("Mailed"))
    assert round_at() == Delivered(sent=1)
    for minutes in (1, 12):
        fire(connection, policy, seen("Mailed", firing=False), at=NOW + minutes * MINUTE)
    assert round_at(13 * MINUTE) == Delivered(sent=1)
    opened, resolved = box.mails
    assert opened["References"] == resolved["References"]
    assert resolved["Subject"].startswith("[resolved]")
    assert [mail["X-Metamon-Event"] for mail in box.mails] == ["opened", "resolved"]


def test_pauses_grow_to_half_an_hour_and_add_up_to_a_day() -> None:
    assert 0.8 * FIRST_PAUSE <= pause(1) <= 1.2 * FIRST_PAUSE
    assert 0.8 * LONGEST_PAUSE <= pause(1_000) <= 1.2 * LONGEST_PAUSE
    assert len({pause(5) for _ in range(20)}) > 1
    expected = sum(min(FIRST_PAUSE * 2.0**n, LONGEST_PAUSE) for n in range(ATTEMPTS_OF_A_DAY - 1))
    assert 0.95 < expected / 86_400 < 1.05


def test_a_failure_is_noted_and_tried_again_after_its_pause(connection: Connection, policy: Policy, web: Web, round_at: Round) -> None:
    web.answer = lambda number: 503 if number < 3 else 200
    fire(connection, policy, seen())
    assert round_at() == Delivered(failed=1)
    ((attempts, error, after),) = rows(connection, "attempts, last_error, send_after")
    assert attempts == 1
    assert "503" in error
    assert 7 * SECOND < after - NOW < 14 * SECOND
    assert round_at(5 * SECOND) == Delivered()
    assert round_at(15 * SECOND) == Delivered(failed=1)
    assert round_at(25 * SECOND) == Delivered()
    assert round_at(MINUTE) == Delivered(sent=1)
    assert rows(connection, "attempts, last_error") == [(3, None)]


def test_after_two_failures_a_channel_rests_for_the_round(connection: Connection, policy: Policy, web: Web, round_at: Round) -> None:
    web.answer = lambda _: 500
    for number in range(5):
        fire(connection, policy, seen(value=str(number)))
    assert round_at() == Delivered(failed=2)
    assert rows(connection, "attempts") == [1, 1, 0, 0, 0]


def test_a_message_that_is_refused_holds_up_no_other(connection: Connection, policy: Policy, web: Web, round_at: Round) -> None:
    web.answer = lambda number: 400 if web.posts[number - 1][1]["group"] == "agent|1" else 200
    for number in range(5):
        fire(connection, policy, seen(value=str(number)))
    assert round_at() == Delivered(sent=4, failed=1)
    assert [body["group"] for _, body in web.posts] == [f"agent|{number}" for number in range(5)]


def test_when_a_channel_is_back_all_goes_at_once(connection: Connection, policy: Policy, web: Web, round_at: Round) -> None:
    web.answer = lambda _: 500
    fire(connection, policy, seen(value="0"), seen(value="1"))
    after = timedelta(0)
    for _ in range(8):  # the pauses are minutes long by now
        round_at(after)
        after = max(rows(connection, "send_after")) - NOW + SECOND
    pauses = rows(connection, "send_after - last_attempt_at")
    assert min(pauses) > 15 * MINUTE
    web.answer = lambda _: 200
    fire(connection, policy, seen(value="2"), at=NOW + after - 2 * MINUTE)
    with connection, connection.cursor() as cursor:  # tried a while ago
        cursor.execute("UPDATE metamon.outbox SET send_after = send_after + interval '20 minutes' WHERE attempts > 0")
    assert round_at(after) == Delivered(sent=3)


def test_the_end_of_an_incident_waits_for_its_beginning(connection: Connection, policy: Policy, web: Web, round_at: Round) -> None:
    web.answer = lambda number: 500 if number == 1 else 200
    fire(connection, policy, seen())
    round_at()
    for minutes in (1, 12):
        fire(connection, policy, seen(firing=False), at=NOW + minutes * MINUTE)
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.outbox SET send_after = %s WHERE attempts > 0", (NOW + 20 * MINUTE,))
    fire(connection, policy, seen(value="other"), at=NOW + 13 * MINUTE)
    assert round_at(14 * MINUTE) == Delivered(sent=3)  # the other one first, which tells that the channel is back
    assert [(body["group"], body["event"]) for _, body in web.posts[1:]] == [
        ("agent|other", "opened"),
        ("agent|sales", "opened"),
        ("agent|sales", "resolved"),
    ]


def test_after_a_day_of_trying_a_message_is_dead_and_may_be_tried_again(
    connection: Connection, policy: Policy, web: Web, round_at: Round
) -> None:
    web.answer = lambda _: 500
    fire(connection, policy, seen())
    attempts, after, dead = 0, timedelta(0), 0
    while not dead:
        done = round_at(after)
        dead, attempts = done.dead, attempts + done.failed
        after = rows(connection, "send_after")[0] - NOW + SECOND
        assert attempts < 2 * ATTEMPTS_OF_A_DAY
    assert attempts >= ATTEMPTS_OF_A_DAY
    assert timedelta(hours=24) <= rows(connection, "dead_at")[0] - NOW < timedelta(hours=30)
    assert round_at(after + timedelta(days=3)) == Delivered()
    (letter,) = outbox.dead_letters(connection)
    assert (letter.channel, letter.attempts) == ("hook", attempts)
    assert letter.last_error is not None
    assert "500" in letter.last_error
    outbox.retry(connection, letter.message_id, "ada", NOW + after)
    assert outbox.dead_letters(connection) == []
    web.answer = lambda _: 200
    assert round_at(after) == Delivered(sent=1)


def test_what_cannot_be_tried_again_says_why(connection: Connection, policy: Policy, web: Web, round_at: Round) -> None:
    fire(connection, policy, seen(), seen(value="new", shadow=True))
    sent, held = rows(connection, "message_id")
    round_at()
    for message, reason in ((sent, "was sent at"), (held, r"not sent on purpose \(shadow\)"), (99, "no message 99")):
        with pytest.raises(OutboxError, match=reason):
            outbox.retry(connection, message, "ada", NOW)


def test_a_channel_that_is_no_longer_configured_keeps_its_messages(
    connection: Connection, database: str, policy: Policy, tmp_path: Path
) -> None:
    fire(connection, policy, seen())
    without = settings_with(tmp_path / "without", {"mail": "email"})
    assert deliver(database, Policy.of(without, KINDS), without, NOW) == Delivered(failed=1)
    assert "no channel hook" in rows(connection, "last_error")[0]


def test_a_test_goes_through_the_outbox(
    connection: Connection, policy: Policy, web: Web, box: Mailbox, database: str, settings: Settings
) -> None:
    fire(connection, policy, seen())
    number = outbox.write_test(connection, policy, "mail", NOW)
    assert deliver(database, policy, settings, NOW, only="mail") == Delivered(sent=1)
    assert web.posts == []
    assert "Nothing is wrong" in part_of(box.mails[0], "text/plain")
    assert [row["message_id"] for row in outbox.listed(connection, "sent")] == [number]
    assert [row["channel"] for row in outbox.listed(connection)] == ["hook"]
    with pytest.raises(OutboxError, match=r"no channel absent\. Those that there are: hook, mail"):
        outbox.write_test(connection, policy, "absent", NOW)


def test_no_channel_waits_for_another(
    connection: Connection, policy: Policy, web: Web, box: Mailbox, database: str, settings: Settings
) -> None:
    web.seconds = 1.5
    fire(connection, policy, seen(), seen(value="b"), *(seen("Mailed", value=str(n)) for n in range(4)))
    began = time.monotonic()
    done = deliver(database, policy, settings, NOW, seconds=0.9)
    assert time.monotonic() - began < 1.4
    assert done == Delivered(sent=4, busy=["hook"])
    assert deliver(database, policy, settings, NOW + SECOND, seconds=0.2).busy == ["hook"]  # its lock is held: not sent a second time
    time.sleep(1.2)  # the first round's thread has finished its message, and begun no other
    assert len(web.posts) == 1
    assert rows(connection, "sent_at IS NOT NULL", "channel = 'hook'") == [True, False]


def test_two_processes_share_the_work(connection: Connection, policy: Policy, web: Web, database: str, settings: Settings) -> None:
    from threading import Thread

    web.seconds = 0.02
    for number in range(20):
        fire(connection, policy, seen(value=str(number)))
    threads = [Thread(target=deliver, args=(database, policy, settings, NOW + SECOND)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(web.keys) == 20
    assert web.keys == rows(connection, "dedup_key")


def test_whatever_fails_nothing_is_lost_and_each_key_stays_in_order(
    connection: Connection, policy: Policy, web: Web, round_at: Round
) -> None:
    draw = random.Random(20261126)
    web.answer = lambda _: draw.choice([200, 200, 500, 0])
    for number in range(12):
        fire(connection, policy, seen(value=str(number)))
    after = timedelta(0)
    for _ in range(60):
        round_at(after)
        after += 7 * MINUTE
        if all(rows(connection, "sent_at IS NOT NULL")):
            break
    assert all(rows(connection, "sent_at IS NOT NULL"))
    assert set(web.keys) == set(rows(connection, "dedup_key"))
