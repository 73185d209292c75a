"""Sending what waits in ``metamon.outbox``: at least once, in order, and no channel waits for another (NOT-3).

Each channel that has something to send gets a thread with a connection of its own. The thread holds a lock on the channel, so two
processes never send to one channel at a time, takes the oldest message that is due, holds its row while the service is asked, and
notes the result in the same transaction. A process that dies in between leaves the row as it was: the message is sent again, with the
same key. A channel that hangs keeps its lock and its thread; later rounds leave it out, and say so.

What fails is tried again after 10 seconds, then twice as long each time up to 30 minutes, a little more or less by chance. When a channel
takes something again, whatever it had refused before is due at once. After a day of trying a message is dead: it is listed, and
``retry`` lets it wait again. Of one incident and channel nothing is sent before what was written earlier has been sent or given up.

Times are the caller's clock. One that jumps back delays nothing, since what was written or tried in its future is due; one that jumps
ahead gives nothing up, since that takes as many attempts as a day has.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg2

from metamon_assets.alerts import channels, messages, pictures
from metamon_assets.alerts.channels import DeliveryError, Message
from metamon_assets.errors import MetamonError, first_line
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.audit import record

if TYPE_CHECKING:
    from metamon_assets.alerts.routing import Policy
    from metamon_assets.config import Settings
    from metamon_assets.warehouse.connection import Connection, Cursor

FIRST_PAUSE, LONGEST_PAUSE = 10.0, 1_800.0  # seconds
GIVE_UP = timedelta(hours=24)
ATTEMPTS_OF_A_DAY = 55  # that many pauses, the longest ones included, are a day
DATABASE_SECONDS = 30  # for connecting, and for each statement
FAILURES_OF_A_ROUND = 2  # one after the other: then it is the channel, not the message

logger = logging.getLogger(__name__)


class OutboxError(MetamonError):
    """There is no such message or channel, or it is in no state for that; the text says which and what to do."""


@dataclass(slots=True)
class Delivered:
    """What a round did. ``busy``: channels that still send, in this round or since an earlier one."""

    sent: int = 0
    failed: int = 0
    dead: int = 0
    busy: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row of the outbox."""

    message_id: int
    incident_id: int | None
    event: str
    channel: str
    severity: str
    group_key: str
    dedup_key: str
    subject: str
    body_text: str
    body_html: str | None
    created_at: datetime
    attempts: int
    last_error: str | None
    dead_at: datetime | None


_COLUMNS = (
    "m.message_id, m.incident_id, m.event, m.channel, m.severity, m.group_key, m.dedup_key, m.subject, m.body_text, m.body_html,"
    " m.created_at, m.attempts, m.last_error, m.dead_at"
)
_UNSENT = "m.sent_at IS NULL AND m.dead_at IS NULL AND m.suppressed IS NULL"
_DUE = f"{_UNSENT} AND (m.send_after <= %(now)s OR (m.attempts = 0 AND m.created_at > %(now)s) OR m.last_attempt_at > %(now)s)"
_NEXT = f"""
SELECT {_COLUMNS} FROM metamon.outbox AS m
WHERE m.channel = %(channel)s AND {_DUE}
AND NOT EXISTS (SELECT FROM metamon.outbox AS earlier WHERE earlier.incident_id = m.incident_id AND earlier.channel = m.channel
    AND earlier.message_id < m.message_id AND {_UNSENT.replace("m.", "earlier.")})
ORDER BY m.message_id LIMIT 1 FOR UPDATE SKIP LOCKED"""
_AGAIN_DUE = f"""
UPDATE metamon.outbox AS m SET send_after = %(now)s
WHERE m.channel = %(channel)s AND {_UNSENT} AND m.send_after > %(now)s AND m.last_attempt_at < %(began)s"""


# --- a round -----------------------------------------------------------------------------------------------------


def deliver(
    database_url: str,
    policy: Policy,
    settings: Settings,
    now: datetime,
    *,
    most: int = 200,
    seconds: float = 10.0,
    only: str | None = None,
) -> Delivered:
    """Send what is due: at most ``most`` messages a channel, begun within ``seconds``; then it comes back, whatever still hangs.

    ``only``: that channel alone. Raises psycopg2's errors, of which nothing is lost; never what a channel does.
    """
    done, lock = Delivered(), threading.Lock()
    troubles: list[psycopg2.Error] = []
    began = time.monotonic()

    def clock() -> datetime:
        return now + timedelta(seconds=time.monotonic() - began)

    def work(channel: str) -> None:
        try:
            with closing(connect(database_url, "metamon outbox", DATABASE_SECONDS)) as connection:
                round_ = _Round(connection, channel, policy, settings, clock)
                while round_.goes_on and round_.tried < most and time.monotonic() - began < seconds:
                    found = round_.send_next()
                    with lock:
                        done.sent, done.failed, done.dead = done.sent + found.sent, done.failed + found.failed, done.dead + found.dead
                        done.busy += found.busy
        except psycopg2.Error as error:
            logger.warning("%s: the database failed, what was being sent will be sent again: %s", channel, first_line(error))
            troubles.append(error)

    threads = [threading.Thread(target=work, args=(name,), name=f"outbox {name}", daemon=True) for name in _due(database_url, now, only)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, began + seconds - time.monotonic()))
    with lock:
        late = [thread.name.removeprefix("outbox ") for thread in threads if thread.is_alive()]
        result = Delivered(done.sent, done.failed, done.dead, sorted({*done.busy, *late}))
    if troubles:
        raise troubles[0]
    return result


def _due(database_url: str, now: datetime, only: str | None) -> list[str]:
    """The channels that have something to send."""
    with closing(connect(database_url, "metamon outbox", DATABASE_SECONDS)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT m.channel FROM metamon.outbox AS m WHERE {_DUE} AND (%(only)s IS NULL OR m.channel = %(only)s) ORDER BY 1",
            {"now": now, "only": only},
        )
        return [name for (name,) in cursor.fetchall()]


class _Round:
    """One channel's part of a round."""

    def __init__(self, connection: Connection, channel: str, policy: Policy, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._connection, self._channel, self._policy, self._settings, self._clock = connection, channel, policy, settings, clock
        self._began = clock()
        self._failures_in_a_row = 0
        self._took = False
        self.tried = 0
        self.goes_on = True

    def send_next(self) -> Delivered:
        """Send the oldest message that is due, in one transaction; ``goes_on`` is false when that was all for this round."""
        if not self.tried and not self._locked():
            self.goes_on = False
            return Delivered(busy=[self._channel])
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(_NEXT, {"channel": self._channel, "now": self._clock()})
            row = cursor.fetchone()
            if row is None:
                self.goes_on = False
                return Delivered()
            self.tried += 1
            waiting = Waiting(*row)
            try:
                self._send(cursor, waiting)
            except DeliveryError as error:
                return self._failed(cursor, waiting, str(error))
            self._sent(cursor, waiting)
            return Delivered(sent=1)

    def _locked(self) -> bool:
        """Whether the channel is ours; the lock goes with the connection."""
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(hashtextextended('metamon:outbox:' || %s, 0))", (self._channel,))
            (ours,) = cursor.fetchone() or (False,)
        return bool(ours)

    def _send(self, cursor: Cursor, waiting: Waiting) -> None:
        channel = self._settings.channels.get(self._channel)
        if channel is None:
            raise DeliveryError(f"there is no channel {self._channel} in {self._settings.config_path} any more")
        html = waiting.body_html
        if html is not None and channel.type == "email" and waiting.incident_id is not None:
            html = _with_picture(cursor, waiting.incident_id, html, self._clock())
        link = None if waiting.incident_id is None else messages.incident_url(self._policy, waiting.incident_id)
        channels.send(
            channel,
            Message(
                subject=waiting.subject,
                text=waiting.body_text,
                html=html,
                event=waiting.event,
                severity=waiting.severity,
                key=waiting.dedup_key,
                group=waiting.group_key,
                incident_id=waiting.incident_id,
                link=link,
            ),
        )

    def _sent(self, cursor: Cursor, waiting: Waiting) -> None:
        now = self._clock()
        cursor.execute(
            "UPDATE metamon.outbox SET sent_at = %(now)s, attempts = attempts + 1, last_attempt_at = %(now)s, last_error = NULL"
            " WHERE message_id = %(message)s",
            {"now": now, "message": waiting.message_id},
        )
        self._failures_in_a_row = 0
        if not self._took:
            cursor.execute(_AGAIN_DUE, {"now": now, "channel": self._channel, "began": self._began})
        self._took = True
        logger.info("%s: sent %s", self._channel, waiting.dedup_key)

    def _failed(self, cursor: Cursor, waiting: Waiting, reason: str) -> Delivered:
        now = self._clock()
        attempts = waiting.attempts + 1
        dead = attempts >= ATTEMPTS_OF_A_DAY and now - waiting.created_at >= GIVE_UP
        cursor.execute(
            "UPDATE metamon.outbox SET attempts = %(attempts)s, last_attempt_at = %(now)s, last_error = %(reason)s,"
            " send_after = %(after)s, dead_at = CASE WHEN %(dead)s THEN %(now)s END WHERE message_id = %(message)s",
            {
                "attempts": attempts,
                "now": now,
                "reason": reason,
                "after": now + timedelta(seconds=pause(attempts)),
                "dead": dead,
                "message": waiting.message_id,
            },
        )
        self._failures_in_a_row += 1
        self.goes_on = self._failures_in_a_row < FAILURES_OF_A_ROUND
        level = logging.ERROR if dead else logging.WARNING
        logger.log(level, "%s did not take %s, attempt %d: %s", self._channel, waiting.dedup_key, attempts, reason)
        return Delivered(failed=1, dead=int(dead))


def pause(attempts: int) -> float:
    """Seconds until the next attempt after so many, a fifth more or less by chance."""
    longest = min(FIRST_PAUSE * 2.0 ** min(attempts - 1, 30), LONGEST_PAUSE)
    return longest * random.uniform(0.8, 1.2)  # noqa: S311 - what failed together should not come back together


def _with_picture(cursor: Cursor, incident_id: int, html: str, now: datetime) -> str:
    """The mail with the picture of its incident. A mail without one is better than none."""
    from metamon_assets.alerts.incidents import read

    picture = None
    cursor.execute("SAVEPOINT picture")
    try:
        picture = pictures.course(cursor, read(cursor, incident_id), now)
    except Exception as error:  # noqa: BLE001 - whatever cannot be drawn, the words are what matters
        logger.warning("The picture of incident %d cannot be drawn: %s", incident_id, first_line(error))
        cursor.execute("ROLLBACK TO SAVEPOINT picture")
    image = "" if picture is None else f'<p><img src="{picture}" alt="The last hours" style="max-width: 100%; height: auto;"></p>'
    return html.replace(messages.PICTURE, image)


# --- what people do ----------------------------------------------------------------------------------------------


def listed(connection: Connection, state: str = "unsent", most: int = 200) -> list[dict[str, Any]]:
    """Rows of the outbox, the newest first. ``state``: unsent (waiting or dead), dead, sent, suppressed or all."""
    conditions = {
        "unsent": "sent_at IS NULL AND suppressed IS NULL",
        "dead": "dead_at IS NOT NULL",
        "sent": "sent_at IS NOT NULL AND suppressed IS NULL",
        "suppressed": "suppressed IS NOT NULL",
        "all": "true",
    }
    columns = [
        *("message_id", "channel", "event", "severity", "subject", "created_at", "send_after", "attempts", "last_error"),
        *("sent_at", "dead_at", "suppressed", "dedup_key", "incident_id"),
    ]
    with connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(columns)} FROM metamon.outbox WHERE {conditions[state]} ORDER BY message_id DESC LIMIT %s", (most,)
        )
        return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def dead_letters(connection: Connection) -> list[Waiting]:
    """Messages that were given up, the oldest first."""
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {_COLUMNS} FROM metamon.outbox AS m WHERE m.dead_at IS NOT NULL ORDER BY m.message_id")
        return [Waiting(*row) for row in cursor.fetchall()]


def retry(connection: Connection, message_id: int, actor: str, now: datetime) -> None:
    """Let a message be tried at once, and for another day where it was dead. Raises OutboxError."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT sent_at, suppressed FROM metamon.outbox WHERE message_id = %s FOR UPDATE", (message_id,))
        row = cursor.fetchone()
        if row is None:
            raise OutboxError(f"There is no message {message_id}: `metamon outbox list` shows those that wait.")
        if row[1] is not None:
            raise OutboxError(f"Message {message_id} is not sent on purpose ({row[1]}): there is nothing to try again.")
        if row[0] is not None:
            raise OutboxError(f"Message {message_id} was sent at {row[0]:%Y-%m-%d %H:%M} UTC.")
        cursor.execute("UPDATE metamon.outbox SET dead_at = NULL, attempts = 0, send_after = %s WHERE message_id = %s", (now, message_id))
        record(connection, actor, "retry_message", f"message:{message_id}")


def write_test(connection: Connection, policy: Policy, channel: str, now: datetime) -> int:
    """Write a test message for a channel; gives its number. Raises OutboxError where there is no such channel."""
    if channel not in policy.channels:
        known = ", ".join(policy.channels) or "none: docs/alerts.md tells how to name some in metamon.yaml"
        raise OutboxError(f"There is no channel {channel}. Those that there are: {known}.")
    letter = messages.Letter(
        subject="[test] Metamon can reach you",
        lead=f"This is a test of channel {channel}, asked for at {messages.local(now, policy.timezone)}. Nothing is wrong.",
        sections=[messages.Section(lines=[messages.Line("Metamon", policy.base_url)])],
    )
    with connection, connection.cursor() as cursor:
        return write(cursor, letter, channels=[channel], event="test", key=f"test-{uuid4().hex[:12]}", now=now)[0]


def write(cursor: Cursor, letter: messages.Letter, *, channels: Sequence[str], event: str, key: str, now: datetime) -> list[int]:
    """Write a letter that is about no single incident for some channels; gives the numbers of those that were not there yet."""
    text, html = letter.text(), letter.html()
    written = []
    for channel in channels:
        cursor.execute(
            "INSERT INTO metamon.outbox"
            " (event, channel, severity, group_key, dedup_key, subject, body_text, body_html, created_at, send_after)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (dedup_key, channel) DO NOTHING RETURNING message_id",
            (event, channel, letter.severity, event, key, letter.subject, text, html, now, now),
        )
        row = cursor.fetchone()
        written += [row[0]] if row else []
    return written
