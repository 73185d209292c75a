"""``metamon alerts``: the process that looks each minute, and sends what is to be told (AUT-6).

Here belong its loop, its threads and stopping; what a look is, is in ``alerts.tick``, how messages are sent in ``alerts.outbox``. It
needs no Dagster: it tells when Dagster is down. Looking and sending have a thread each, so that a mail server that hangs delays no look,
and a long look no message. One such process works on a database at a time; a second one stands by.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg2

from metamon_assets.errors import MetamonError, first_line
from metamon_assets.warehouse import connect, server
from metamon_assets.warehouse.alone import only_one

if TYPE_CHECKING:
    from metamon_assets.alerts.catalogue import Catalogue
    from metamon_assets.alerts.routing import Policy
    from metamon_assets.alerts.tick import Ticked, Watcher
    from metamon_assets.config import Settings
    from metamon_assets.warehouse.connection import Connection

COMPONENT = "alerts"
TICK_SECONDS = 60.0
AFTER_THE_MINUTE = 5.0  # by when the buckets of the minute that ended are computed
SEND_SECONDS = 5.0
LONGEST_WAIT = 30.0
STOP_SECONDS = 5.0
CONNECTION_SECONDS = 3_600.0  # after which configuration and rules are read again

logger = logging.getLogger(__name__)


def run_alerts(settings: Settings, database_url: str, stop: threading.Event, *, load: Callable[[], Settings]) -> None:
    """Look and send until ``stop`` is set. Waits while another such process works on the database.

    ``load`` reads the configuration again. Never raises for what the database or a channel does: it logs, and tries again.
    """
    wait = 1.0
    while not stop.is_set():
        try:
            with only_one(lambda: connect(database_url, "metamon alerts"), COMPONENT, stop) as connection:
                while connection is not None and not stop.is_set():
                    wait = 1.0
                    settings = _run(settings, database_url, connection, stop, load)
        except psycopg2.Error as error:
            logger.warning("The database failed; trying again in %.0f s: %s", wait, first_line(error))
            stop.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT)


def look_once(settings: Settings, database_url: str) -> Ticked:
    """One look, as far as it comes in its time. Raises psycopg2's errors and ConfigError."""
    from metamon_assets.alerts.tick import tick

    with closing(connect(database_url, "metamon alerts")) as connection:
        return tick(connection, _watcher(settings)[0], datetime.now(UTC))


def _watcher(settings: Settings) -> tuple[Watcher, Policy]:
    """What looks, and who is told. Raises ConfigError for rules that cannot be used."""
    from metamon_assets.alerts import catalogue

    return _looking_at(settings, catalogue.load(settings))


def _run(settings: Settings, database_url: str, connection: Connection, stop: threading.Event, load: Callable[[], Settings]) -> Settings:
    """Look and send for as long as a configuration is good for; gives the next one. Raises psycopg2's errors."""
    from metamon_assets.alerts import catalogue

    try:
        watcher, policy = _watcher(settings)
    except MetamonError as error:
        logger.error("The rules cannot be used, those that come with Metamon stand in: %s", error)  # noqa: TRY400 - told in full
        watcher, policy = _looking_at(settings, catalogue.Catalogue(catalogue.bundled()))
    seen = _stamps(settings)
    sender = _Sender(database_url, policy, settings)
    sender.start()
    until = time.monotonic() + CONNECTION_SECONDS
    try:
        while not stop.is_set() and time.monotonic() < until and _stamps(settings) == seen:
            _minute(settings, connection, watcher)
            _wait_for_minute(stop, settings, seen)
    finally:
        sender.stopping.set()
        sender.join(STOP_SECONDS)
    try:
        return load()
    except MetamonError as error:
        logger.error("The configuration was changed and cannot be used; the old one stays in place: %s", error)  # noqa: TRY400 - told in full
        return settings


def _looking_at(settings: Settings, rules: Catalogue) -> tuple[Watcher, Policy]:
    from metamon_assets.alerts.routing import Policy
    from metamon_assets.alerts.tick import Watcher

    policy = Policy.of(settings, rules.channels, rules.runbooks)
    return Watcher(rules, policy, settings.alerts.shadow_hours), policy


def _minute(settings: Settings, connection: Connection, watcher: Watcher) -> None:
    """Measure the pipeline, look at everything, give a sign of life."""
    from metamon_assets.alerts.tick import tick
    from metamon_assets.health.state import beat

    now = datetime.now(UTC)
    _measure(settings, connection, now)
    ticked = tick(connection, watcher, now)
    logger.log(logging.INFO if ticked.happened else logging.DEBUG, "%s", ticked.words)
    beat(connection, COMPONENT, {"series": ticked.series, "seconds": round(ticked.seconds, 3)})


def _measure(settings: Settings, connection: Connection, now: datetime) -> None:
    """Figures of Dagster, the database and the host; without Dagster's when its storage cannot be reached."""
    from metamon_assets.health import system

    try:
        with closing(connect(server.dagster_url(settings), "metamon alerts", 5)) as dagster:
            system.sample(connection, dagster, now, settings.home)
    except (psycopg2.Error, MetamonError) as error:
        if connection.closed:
            raise
        logger.info("Dagster's storage cannot be reached: %s", first_line(error))
        system.sample(connection, None, now, settings.home)


def _wait_for_minute(stop: threading.Event, settings: Settings, seen: object) -> None:
    """Until some seconds past the next minute, or until the configuration changes."""
    until = time.time() + TICK_SECONDS - (time.time() - AFTER_THE_MINUTE) % TICK_SECONDS
    while not stop.is_set() and time.time() < until and _stamps(settings) == seen:
        stop.wait(min(1.0, max(until - time.time(), 0.0)))


def _stamps(settings: Settings) -> tuple[object, ...]:
    """When the configuration and the rules were last written."""
    from metamon_assets.alerts.catalogue import FILE
    from metamon_assets.config import last_written

    return last_written(settings.config_path), last_written(settings.home / FILE)


class _Sender(threading.Thread):
    """Sends what waits, every few seconds, and writes digests that are due."""

    def __init__(self, database_url: str, policy: Policy, settings: Settings) -> None:
        super().__init__(name="sender", daemon=True)
        self.stopping = threading.Event()
        self._url, self._policy, self._settings = database_url, policy, settings

    def run(self) -> None:
        from metamon_assets.alerts import outbox

        while not self.stopping.is_set():
            self._try("What waits cannot be sent now", lambda: outbox.deliver(self._url, self._policy, self._settings, datetime.now(UTC)))
            self._try("Digests cannot be written now", self._write_digests)
            self.stopping.wait(SEND_SECONDS)

    def _write_digests(self) -> None:
        from metamon_assets.alerts import digest

        with closing(connect(self._url, "metamon alerts")) as connection:
            digest.write_due(connection, self._policy, datetime.now(UTC))

    def _try(self, otherwise: str, work: Callable[[], object]) -> None:
        """Whatever it is that fails: what waits stays, and is tried again."""
        try:
            work()
        except Exception as error:  # the thread goes on
            expected = isinstance(error, MetamonError | psycopg2.Error)
            logger.warning("%s: %s", otherwise, first_line(error), exc_info=None if expected else error)
