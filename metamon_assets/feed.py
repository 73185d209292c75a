"""``metamon feed``: the process that keeps the data at most a minute or two old (IN-12).

Here belong threads, intervals, stopping, and what is done when something is away. What a source is asked is in
``traces.polling``, how buckets are computed in ``metrics.touched``. Each source has a thread with a connection of its own
that polls every interval and may use all of the rate budget; one that is read by windows (LangSmith) has a second, which
catches up with what was missed, from the rest. A source that hangs or fails therefore holds up nobody else. One more
thread computes buckets as they are touched, and once a minute the events that follow from first sightings.

One feed works on a database at a time: a second one waits, and takes over when the first is gone. The configuration is read
again when its file changes; one that cannot be read leaves the old one in place. Threads are daemons: where a read hangs
in the network the process ends without it, and the server rolls back what it had begun.
"""

from __future__ import annotations

import logging
import math
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors

from metamon_assets.config import ConfigError, LangSmithExportSource, LangSmithSource, Settings, last_written
from metamon_assets.errors import MetamonError, first_line
from metamon_assets.health.state import beat
from metamon_assets.metrics.touched import CLOCKS, drain
from metamon_assets.traces import polling
from metamon_assets.traces.configured import ConfiguredSource, open_source, rules_for, with_new_catalogue
from metamon_assets.traces.events import infer_live_events
from metamon_assets.traces.polling import Polled
from metamon_assets.traces.sources.base import SourceError
from metamon_assets.traces.tables import FEEDBACK, GAUGE_SAMPLES, PAYLOADS, SPANS, TRACES
from metamon_assets.warehouse import connect, merge
from metamon_assets.warehouse.alone import only_one

if TYPE_CHECKING:
    from metamon_assets.config import SourceConfig
    from metamon_assets.warehouse.connection import Connection

COMPONENT = "feed"
STOP_SECONDS = 5.0  # after which threads that hang are left behind
BEAT_SECONDS = 15.0
RELOAD_SECONDS = 5.0
DAYS_AHEAD_SECONDS = 600.0
REFRESH_SECONDS = 3.0  # longest time between two looks for touched buckets; a notification wakes up sooner
EVENTS_SECONDS = 60.0
CATCH_UP_SECONDS = 10.0  # between two looks into the backlog
REOPEN_SECONDS = 3_600.0  # after which a source and its rules are made again: prices in the database may have changed
CONNECTION_SECONDS = 300.0  # after which a refresher makes its own again: the server's process for it grows with what it computes
LOCK_TIMEOUT = "60s"  # a day that somebody else is writing; then the poll fails, says so, and is repeated
RECONNECT_SECONDS, LONGEST_RECONNECT_SECONDS = 1.0, 30.0

logger = logging.getLogger(__name__)


class FeedStoppedError(MetamonError):
    """The feed was stopped in the middle of a read; nothing of it was written, and the next feed reads it."""


def run_feed(settings: Settings, database_url: str, stop: threading.Event, *, load: Callable[[], Settings] = Settings.load) -> None:
    """Poll, catch up and refresh until ``stop`` is set. Waits while another feed works on the database.

    ``load`` reads the configuration again. Never raises for what a source or the database does: it logs, and tries again.
    """
    wait = RECONNECT_SECONDS
    while not stop.is_set():
        try:
            with only_one(lambda: _connect(database_url), COMPONENT, stop) as connection:
                if connection is not None:
                    wait = RECONNECT_SECONDS
                    settings = _Feed(settings, database_url, connection, stop, load).run()
        except psycopg2.Error as error:
            logger.warning("The database failed; trying again in %.0f s: %s", wait, first_line(error))
            stop.wait(wait)
            wait = min(2 * wait, LONGEST_RECONNECT_SECONDS)


def poll_once(settings: Settings, database_url: str) -> list[Polled]:
    """One poll of every source, then the backlog for as long as an interval is, then the buckets that all this touched.

    A source that fails says so in its result. Raises psycopg2's errors.
    """
    connection = _connect(database_url)
    until = time.monotonic() + settings.feed.interval_seconds
    try:
        polled = [_poll_part(connection, settings, part) for part in _polled_parts(settings)]
        for part, found in zip(_polled_parts(settings), polled, strict=True):
            if found.error is None and found.windows:
                configured = _open(connection, settings, part, live=False)
                while time.monotonic() < until and polling.catch_up(connection, configured, datetime.now(UTC), settings.feed):
                    pass
        while (drained := drain(connection, datetime.now(UTC), share=1.0)).waiting > drained.failed and time.monotonic() < until:
            time.sleep(min(drained.wait_seconds, 1.0))
    finally:
        connection.close()
    return polled


def _poll_part(connection: Connection, settings: Settings, part: SourceConfig) -> Polled:
    now = datetime.now(UTC)
    try:
        configured = _open(connection, settings, part, live=True)
    except (ConfigError, SourceError) as error:
        return polling.fail(connection, part.source, part.project, now, settings.feed, error)
    return polling.poll(connection, [configured], now, settings.feed)[0]


def _polled_parts(settings: Settings) -> list[SourceConfig]:
    """All sources but exports, which do not grow by the minute."""
    return [part for part in settings.sources if not isinstance(part, LangSmithExportSource)]


def _open(connection: Connection, settings: Settings, part: SourceConfig, *, live: bool) -> ConfiguredSource:
    return ConfiguredSource(open_source(connection, settings, part, live=live), rules_for(connection, settings, part))


def _connect(database_url: str) -> Connection:
    connection = connect(database_url, "metamon feed")
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))
    return connection


class _Feed:
    """The feed while it holds the lock."""

    def __init__(
        self, settings: Settings, database_url: str, connection: Connection, stop: threading.Event, load: Callable[[], Settings]
    ) -> None:
        self._settings = settings
        self._url = database_url
        self._connection = connection
        self._stop = stop
        self._load = load
        self._workers: list[_Worker] = []
        self._seen = last_written(settings.config_path)

    def run(self) -> Settings:
        """Until it is stopped; gives the configuration that was in use at the end. Raises psycopg2's errors when the lock is lost."""
        steps = [
            _Every(DAYS_AHEAD_SECONDS, self._make_days),
            _Every(RELOAD_SECONDS, self._reload),
            _Every(BEAT_SECONDS, self._beat),
        ]
        refreshers = [_Refresher(self._url, clock) for clock in CLOCKS]
        try:
            for step in steps:
                step.run()
            for refresher in refreshers:
                refresher.start()
            self._start_workers()
            while not self._stop.is_set():
                for step in steps:
                    step.run()
                self._stop.wait(1.0)
        finally:
            _end([*self._workers, *refreshers])
        return self._settings

    def _start_workers(self) -> None:
        parts = _polled_parts(self._settings)
        self._workers = [_Poller(self._url, self._settings, part) for part in parts]
        self._workers += [_CatchUp(self._url, self._settings, part) for part in parts if isinstance(part, LangSmithSource)]
        for worker in self._workers:
            worker.start()
        names = ", ".join(f"{part.source}/{part.project}" for part in parts) or "no source, since none is configured"
        logger.info("Polling every %d s: %s", self._settings.feed.interval_seconds, names)

    def _reload(self) -> None:
        """Take over a configuration that was changed."""
        stamp = last_written(self._settings.config_path)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            settings = self._load()
        except ConfigError as error:
            logger.error("The configuration was changed and cannot be used; the old one stays in place: %s", error)  # noqa: TRY400 - told in full
            return
        if settings == self._settings:
            return
        logger.info("The configuration was changed: the sources are opened again")
        _end(self._workers)
        self._settings = settings
        self._start_workers()

    def _beat(self) -> None:
        working = [worker for worker in self._workers if isinstance(worker, _Poller)]
        failing = [worker.label for worker in working if worker.failing]
        beat(self._connection, COMPONENT, {"sources": len(working), "failing": failing})

    def _make_days(self) -> None:
        """Today and tomorrow exist before anything is read, so that no bulk load of them keeps live data out.

        What somebody else is making or loading now is not waited for: the feed's lock and heartbeat hang on this thread.
        """
        try:
            with self._connection, self._connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '2s'")
                for ahead in (0, 1):
                    day = (datetime.now(UTC) + timedelta(days=ahead)).date()
                    merge.ensure_partitions(cursor, (TRACES, SPANS, PAYLOADS, FEEDBACK, GAUGE_SAMPLES), day)
        except psycopg2.errors.LockNotAvailable:
            logger.info("The tables of today and tomorrow are in use by somebody else; they are looked at again in ten minutes")


@dataclass(slots=True)
class _Every:
    """Something that is done again when some seconds have passed."""

    seconds: float
    step: Callable[[], None]
    last: float = -math.inf

    def run(self) -> None:
        if time.monotonic() >= self.last + self.seconds:
            self.last = time.monotonic()
            self.step()


def _end(workers: list[Any]) -> None:
    """Ask threads to stop and wait for them, not for those that hang."""
    for worker in workers:
        worker.stopping.set()
    until = time.monotonic() + STOP_SECONDS
    for worker in workers:
        if worker.ident is not None:
            worker.join(max(0.0, until - time.monotonic()))
    for worker in workers:
        if worker.is_alive():
            logger.warning("%s is still reading and is left behind; nothing of that read is written", worker.name)


# --- threads --------------------------------------------------------------------------------------------------------


class _Worker(threading.Thread):
    """A thread with a connection of its own, opened again whenever it is lost."""

    def __init__(self, name: str, database_url: str) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()
        self._url = database_url

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                connection = _connect(self._url)
                try:
                    self.work(connection)
                finally:
                    connection.close()
            except FeedStoppedError:
                return
            except Exception as error:  # whatever it is: the other threads, and this one later, go on
                expected = isinstance(error, MetamonError | psycopg2.Error)
                logger.warning("%s: %s", self.name, first_line(error), exc_info=None if expected else error)
                self.stopping.wait(RECONNECT_SECONDS)

    def work(self, connection: Connection) -> None:
        """What the thread does until ``stopping`` is set."""
        raise NotImplementedError

    def _progress(self, rows: int) -> None:
        if self.stopping.is_set():
            raise FeedStoppedError("the feed was stopped while it read; nothing was written, the next feed reads it")


class _OfSource(_Worker):
    """A thread for one source."""

    live: bool

    def __init__(self, database_url: str, settings: Settings, part: SourceConfig) -> None:
        self.label = f"{part.source}/{part.project}"
        super().__init__(f"{type(self).__name__.strip('_')} {self.label}", database_url)
        self._settings = settings
        self._part = part
        self._reopen_at = 0.0

    def _opened(self, connection: Connection) -> ConfiguredSource | None:
        """The source, as soon as it can be opened; None when stopped before."""
        feed = self._settings.feed
        self._reopen_at = time.monotonic() + REOPEN_SECONDS
        while not self.stopping.is_set():
            try:
                return _open(connection, self._settings, self._part, live=self.live)
            except (ConfigError, SourceError) as error:
                if self.live:
                    self._tell(polling.fail(connection, self._part.source, self._part.project, datetime.now(UTC), feed, error))
            self.stopping.wait(feed.interval_seconds)
        return None

    def _goes_on(self) -> bool:
        return not self.stopping.is_set() and time.monotonic() < self._reopen_at

    def _tell(self, polled: Polled) -> None:
        raise NotImplementedError


class _Poller(_OfSource):
    """Asks a source for what is new, every interval."""

    live = True
    failing = False

    def work(self, connection: Connection) -> None:
        """Poll at once, then at every full interval of the clock."""
        configured = self._opened(connection)
        interval = self._settings.feed.interval_seconds
        while configured is not None and self._goes_on():
            configured = with_new_catalogue(connection, configured)
            (polled,) = polling.poll(connection, [configured], datetime.now(UTC), self._settings.feed, progress=self._progress)
            self._tell(polled)
            self.stopping.wait(interval - time.time() % interval)

    def _tell(self, polled: Polled) -> None:
        if polled.error is not None:
            logger.warning("%s cannot be read: %s", self.label, polled.error, extra={"not_before": str(polled.not_before)})
            self.failing = True
        elif polled.not_before is None:
            if self.failing:
                logger.info("%s can be read again; %d windows wait to be caught up with", self.label, polled.windows)
            self.failing = False
            level = logging.INFO if polled.rows_written else logging.DEBUG
            figures = {"rows_read": polled.rows_read, "windows": polled.windows, "seconds": round(polled.seconds, 3)}
            logger.log(level, "%s: %d new or changed rows", self.label, polled.rows_written, extra=figures | {"pending": polled.pending})


class _CatchUp(_OfSource):
    """Reads what a source had while it, or the feed, was away; and looks whether anything came late."""

    live = False

    def work(self, connection: Connection) -> None:
        """A window of the backlog after the other; then a look every few seconds."""
        configured = self._opened(connection)
        feed = self._settings.feed
        while configured is not None and self._goes_on():
            with suppress(SourceError):  # the poller meets the same trouble and tells it
                polling.look_back(connection, configured, datetime.now(UTC), feed)
            polled = polling.catch_up(connection, configured, datetime.now(UTC), feed, progress=self._progress)
            if polled is None:
                self.stopping.wait(CATCH_UP_SECONDS)
                continue
            self._tell(polled)
            if polled.error is not None:
                self.stopping.wait(feed.interval_seconds)

    def _tell(self, polled: Polled) -> None:
        if polled.error is not None:
            logger.warning("%s: a window of the backlog cannot be read and stays: %s", self.label, polled.error)
            return
        figures = {"rows_read": polled.rows_read, "windows": polled.windows, "seconds": round(polled.seconds, 3)}
        logger.info("%s: caught up with the window from %s, %d rows", self.label, polled.since, polled.rows_written, extra=figures)


class _Refresher(_Worker):
    """Computes the buckets of one clock as they are touched, so that detection never waits for a large reporting bucket.

    The one of reporting buckets also sees what first sightings tell.
    """

    def __init__(self, database_url: str, clock: str) -> None:
        super().__init__(f"Refresher of buckets by {clock}", database_url)
        self._clock = clock
        self._inferred_at = datetime.now(UTC)

    def work(self, connection: Connection) -> None:
        """Wait for a notification, or a few seconds, and compute; for as long as a connection lasts."""
        with connection, connection.cursor() as cursor:
            cursor.execute("LISTEN metamon_touched")
        events = _Every(EVENTS_SECONDS, lambda: self._infer(connection))
        until = time.monotonic() + CONNECTION_SECONDS
        while not self.stopping.is_set() and time.monotonic() < until:
            drained = drain(connection, datetime.now(UTC), clocks=[self._clock])
            if self._clock == "start":
                events.run()
            if drained.waiting:
                self.stopping.wait(min(max(drained.wait_seconds, 0.05), REFRESH_SECONDS))
            else:
                self._await_touch(connection)

    def _await_touch(self, connection: Connection) -> None:
        until = time.monotonic() + REFRESH_SECONDS
        while not self.stopping.is_set() and (left := until - time.monotonic()) > 0:
            if select.select([connection], [], [], min(left, 0.5))[0]:
                connection.poll()
            if connection.notifies:
                connection.notifies.clear()
                return

    def _infer(self, connection: Connection) -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT statement_timestamp()")
            (now,) = cursor.fetchone() or (None,)
        if events := infer_live_events(connection, self._inferred_at):
            logger.info("A version, model or prompt was seen for the first time; %d such events are known", events)
        self._inferred_at = now
