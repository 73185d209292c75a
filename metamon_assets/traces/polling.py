"""The live feed's questions (IN-12): what a source is asked each minute, what is made up for later, and what is remembered.

Here belong the single steps, which a test calls with a time of its own; threads, stopping and the process are
``metamon_assets.feed``'s. A step opens nothing and waits for nothing but the source.

- ``poll`` asks each source for what is new. A source of windows (LangSmith) gives the runs whose root started in the last
  minutes, then runs that were pending, by id, and every few minutes new feedback. A source of files gives the files that
  changed. Rows go through ``ingest``, as those of the daily reading do, and touch their five-minute buckets.
- Where more time has passed than a poll reaches back, the gap becomes windows of ``metamon.feed_backlog``, which
  ``catch_up`` reads one by one, the newest first.
- ``look_back`` compares the source's own count of the last hours with what is here, and puts the hours that differ into the
  backlog. So runs that came late, or from a machine whose clock is behind, are found within minutes of the hour's end.

A live window reaches ``AHEAD`` into the future, since clocks differ. How far it reaches back depends on what the last one
took: all of the overlap while that is quick, less when the source is busy, but never less than an interval and ``MARGIN``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from metamon_assets.traces.ingest import IngestError, ingest
from metamon_assets.traces.pending import GIVE_UP_AFTER
from metamon_assets.traces.rate_budget import LONGEST_PAUSE
from metamon_assets.traces.redaction import Redactor
from metamon_assets.traces.sources.base import (
    Batch,
    FollowsRuns,
    Kind,
    RunsById,
    Source,
    SourceCount,
    SourceError,
    TellsChanges,
    TellsNewFeedback,
    Window,
)

if TYPE_CHECKING:
    from metamon_assets.config import Feed
    from metamon_assets.traces.configured import ConfiguredSource
    from metamon_assets.traces.ledger import LedgerEntry
    from metamon_assets.warehouse.connection import Connection, Cursor

AHEAD = timedelta(hours=2)  # how far clocks of agents may be ahead of ours
LEAST_WINDOW = timedelta(minutes=2)
MARGIN = timedelta(seconds=60)  # what a run may take to arrive when a busy source gets short windows
SHARE = 0.75  # of the interval that a live read may take before its window is shortened
LONGEST_BACK_OFF = timedelta(minutes=5)
RECENTLY_STARTED = timedelta(days=1)  # pending runs younger than this are asked for in each poll
OLD_PENDING_EVERY = timedelta(hours=1)
MOST_PENDING = 1_000  # ids in one poll
FEEDBACK_EVERY = timedelta(minutes=5)
LOOK_BACK_EVERY = timedelta(minutes=10)
LOOKED_BACK_HOURS = 3
LONGEST_GAP = timedelta(days=14)
LONGEST_SLICE = timedelta(hours=1)
SHORTEST_SLICE = timedelta(minutes=5)
SLICE_SECONDS = 300.0  # what one slice of the backlog should take to read: it is lost when the process is stopped
FILES_CHANGED_WITHIN = timedelta(days=1)  # older files that were never read are a backfill's business


@dataclass(frozen=True, slots=True)
class Polled:
    """What became of one question to one source; ``windows``: how many wait in its backlog."""

    source: str
    project: str
    rows_read: int = 0
    rows_written: int = 0
    pending: int = 0  # runs asked for by id
    windows: int = 0
    days: frozenset[date] = frozenset()
    since: datetime | None = None  # no row that was read started before
    seconds: float = 0.0
    error: str | None = None
    not_before: datetime | None = None  # it was not asked, and will not be until then


@dataclass(slots=True)
class State:
    """How far a source has been read and how it fares: a row of metamon.feed_state."""

    source: str
    project: str
    covered_from: datetime | None = None
    covered_until: datetime | None = None
    consecutive_failures: int = 0
    not_before: datetime | None = None
    feedback_until: datetime | None = None
    old_pending_asked_at: datetime | None = None
    looked_back_at: datetime | None = None
    last_seconds: float | None = None
    last_window_seconds: float | None = None

    @property
    def cost(self) -> float | None:
        """Seconds of reading for each second of the window, as of the last live read."""
        if self.last_seconds is None or not self.last_window_seconds:
            return None
        return self.last_seconds / self.last_window_seconds


_COLUMNS = tuple(State.__dataclass_fields__)[2:]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A source as the answer to one question, without its own count, which would be one more call."""

    source: Source
    question: Callable[[], Iterator[Batch]]

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def project(self) -> str:
        return self.source.project

    @property
    def answers_slowly(self) -> bool:
        return bool(getattr(self.source, "answers_slowly", False))

    def read(self, kind: Kind, window: Window) -> Iterator[Batch]:
        return self.question()

    def count(self, window: Window) -> SourceCount:
        return SourceCount()

    def catalogue_entries(self) -> list[object]:
        return list(getattr(self.source, "catalogue_entries", list)())


# --- polling --------------------------------------------------------------------------------------------------------


def poll(
    connection: Connection,
    sources: Sequence[ConfiguredSource],
    now: datetime,
    feed: Feed,
    *,
    progress: Callable[[int], None] | None = None,
) -> list[Polled]:
    """Ask every source for what is new at ``now`` and write it; a source that fails says so in its result.

    What cannot be read stays to be read: the next poll that succeeds covers it or puts it into the backlog.
    ``progress`` is called while rows come; what it raises ends the poll. Raises psycopg2's errors when the database is gone.
    """
    return [_poll_one(connection, configured, now, feed, progress) for configured in sources]


def _poll_one(
    connection: Connection, configured: ConfiguredSource, now: datetime, feed: Feed, progress: Callable[[int], None] | None
) -> Polled:
    source = configured.source
    state = read_state(connection, source.name, source.project)
    if _left_alone(state, now):
        return Polled(source.name, source.project, not_before=state.not_before)
    with connection, connection.cursor() as cursor:
        _save(cursor, state, last_attempt_at=now, **_begun(state, now, feed))
    # A price or redaction rule holds until the configuration changes; the time by which a clock is judged does not.
    asking = _Asking(connection, replace(configured, rules=replace(configured.rules, now=now)), state, now, feed, progress)
    started = time.monotonic()
    try:
        entries = asking.changes() if isinstance(source, TellsChanges) else asking.everything_new()
    except (IngestError, SourceError) as error:
        if connection.closed:
            raise
        return fail(connection, source.name, source.project, now, feed, error, configured.rules.redactor)
    windows = _backlog_size(connection, source.name, source.project)
    return Polled(
        source.name,
        source.project,
        rows_read=sum(entry.rows_read for entry in entries),
        rows_written=sum(entry.rows_written for entry in entries),
        pending=asking.pending,
        windows=windows,
        days=frozenset(day for entry in entries for day in entry.days),
        since=min((entry.window.start for entry in entries if entry.window), default=None),
        seconds=time.monotonic() - started,
    )


@dataclass(slots=True)
class _Asking:
    """One poll of one source."""

    connection: Connection
    configured: ConfiguredSource
    state: State
    now: datetime
    feed: Feed
    progress: Callable[[int], None] | None
    pending: int = 0

    def changes(self) -> list[LedgerEntry]:
        """Files that were written since they were read last."""
        source = self.configured.source
        assert isinstance(source, TellsChanges)
        since = min(self.state.covered_until or self.now, self.now) - FILES_CHANGED_WITHIN
        entries = [self.ingest(_Asked(source, partial(source.read_changes, kind, since)), kind) for kind in sorted(source.changed(since))]
        self.succeeded(entries)
        return entries

    def everything_new(self) -> list[LedgerEntry]:
        """The live window, roots before children; then pending runs, then feedback."""
        source = self.configured.source
        window = live_window(self.state, self.now, self.feed)
        started = time.monotonic()
        entries = [self.ingest(_Asked(source, partial(source.read, Kind.RUNS, window)), Kind.RUNS, window)]
        self.succeeded(entries, window, time.monotonic() - started)
        if isinstance(source, FollowsRuns):
            entries += self.follow(source, window)
        if isinstance(source, TellsNewFeedback) and _due(self.state.feedback_until, self.now, FEEDBACK_EVERY):
            until = self.state.feedback_until
            since = until if until is not None and until <= self.now else window.start
            given = Window(max(since, self.now - LONGEST_GAP) - MARGIN, self.now + AHEAD)
            entries.append(self.ingest(_Asked(source, partial(source.read_feedback_given, given)), Kind.FEEDBACK, given))
            self.save(feedback_until=self.now)
        return entries

    def follow(self, source: FollowsRuns, window: Window) -> list[LedgerEntry]:
        """Pending runs that the window does not hold: the recent ones each time, all of them once an hour."""
        all_of_them = _due(self.state.old_pending_asked_at, self.now, OLD_PENDING_EVERY)
        since = self.now - (GIVE_UP_AFTER if all_of_them else RECENTLY_STARTED)
        run_ids = _pending(self.connection, self.state, since, window.start)
        entries = [self.ingest(RunsById(source, run_ids, since - MARGIN), Kind.RUNS)] if run_ids else []
        self.pending = len(run_ids)
        if all_of_them:
            self.save(old_pending_asked_at=self.now)
        return entries

    def ingest(self, source: Source, kind: Kind, window: Window | None = None) -> LedgerEntry:
        return ingest(self.connection, source, kind, window, self.configured.rules, progress=self.progress, touch=True)

    def save(self, **values: object) -> None:
        with self.connection, self.connection.cursor() as cursor:
            _save(cursor, self.state, **values)

    def succeeded(self, entries: Sequence[LedgerEntry], window: Window | None = None, seconds: float | None = None) -> None:
        """Book that everything up to now has been asked for, and what lies between this window and the last one as missing."""
        with self.connection, self.connection.cursor() as cursor:
            if window is not None and (gap := _gap(self.state, window, self.feed)):
                _add_to_backlog(cursor, self.state, gap, "outage", _slice_length(self.state))
            _save(
                cursor,
                self.state,
                # Not the later of both: a clock that was ahead for a moment would hide every gap until it is that late.
                covered_from=min(self.state.covered_from or self.now, window.start if window else self.now),
                covered_until=self.now,
                last_success_at=self.now,
                consecutive_failures=0,
                last_error=None,
                not_before=None,
                last_rows_read=sum(entry.rows_read for entry in entries),
                last_rows_written=sum(entry.rows_written for entry in entries),
                last_seconds=seconds,
                last_window_seconds=(self.now - window.start).total_seconds() if window else None,
            )


def live_window(state: State, now: datetime, feed: Feed) -> Window:
    """What to ask for at ``now``: the overlap, or as much of it as can be read in good time.

    >>> from metamon_assets.config import Feed
    >>> from datetime import UTC
    >>> noon, quick = datetime(2026, 1, 5, 12, tzinfo=UTC), State("langsmith", "agent", last_seconds=1.0, last_window_seconds=600.0)
    >>> str(live_window(quick, noon, Feed()).start)
    '2026-01-05 11:40:00+00:00'
    >>> busy = State("langsmith", "agent", last_seconds=100.0, last_window_seconds=300.0)
    >>> str(live_window(busy, noon, Feed()).start)
    '2026-01-05 11:57:45+00:00'
    """
    least = max(LEAST_WINDOW, timedelta(seconds=feed.interval_seconds) + MARGIN)
    if state.cost is None:  # the first question: what it costs is not known yet
        return Window(now - least, now + AHEAD)
    quick_enough = timedelta(seconds=min(SHARE * feed.interval_seconds / max(state.cost, 1e-3), feed.overlap_minutes * 60.0))
    return Window(now - max(least, quick_enough), now + AHEAD)


def fail(
    connection: Connection, source: str, project: str, now: datetime, feed: Feed, error: Exception, redactor: Redactor | None = None
) -> Polled:
    """Book that a source could not be asked, and until when it is left alone: twice as long each time, up to five minutes,
    or as long as it asked for."""
    state = read_state(connection, source, project)
    begun = _begun(state, now, feed)
    failures = state.consecutive_failures + 1
    longest = LONGEST_BACK_OFF.total_seconds()
    wait = min(longest, feed.interval_seconds * 2.0 ** min(failures - 1, 20)) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads readers
    asked_to_wait = getattr(error, "retry_after", None) or getattr(error.__cause__, "retry_after", None) or 0.0
    not_before = now + timedelta(seconds=min(max(wait, asked_to_wait), LONGEST_PAUSE))
    message = (redactor or Redactor()).text(str(error))
    with connection, connection.cursor() as cursor:
        _save(cursor, state, last_attempt_at=now, consecutive_failures=failures, last_error=message, not_before=not_before, **begun)
    return Polled(source, project, error=message, not_before=not_before)


# --- catching up ----------------------------------------------------------------------------------------------------


def catch_up(
    connection: Connection,
    configured: ConfiguredSource,
    now: datetime,
    feed: Feed,
    *,
    progress: Callable[[int], None] | None = None,
) -> Polled | None:
    """Read one window of the backlog, the newest that has failed least; None when there is none, or the source is away.

    A window that cannot be read stays, and the next one has its turn.
    """
    source = configured.source
    state = read_state(connection, source.name, source.project)
    window = None if _left_alone(state, now) else _next_in_backlog(connection, state)
    if window is None:
        return None
    started = time.monotonic()
    rules = replace(configured.rules, now=now)
    key = (source.name, source.project, window.start, window.end)
    try:
        entry = ingest(connection, source, Kind.RUNS, window, rules, progress=progress, touch=True)
    except IngestError as error:
        if connection.closed:
            raise
        message = rules.redactor.text(str(error))
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "UPDATE metamon.feed_backlog SET attempts = attempts + 1, last_error = %s"
                " WHERE (source, project, window_start, window_end) = (%s, %s, %s, %s)",
                (message, *key),
            )
        return Polled(source.name, source.project, error=message, windows=_backlog_size(connection, *key[:2]))
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM metamon.feed_backlog WHERE (source, project, window_start, window_end) = (%s, %s, %s, %s)", key)
    return Polled(
        source.name,
        source.project,
        rows_read=entry.rows_read,
        rows_written=entry.rows_written,
        windows=_backlog_size(connection, *key[:2]),
        days=frozenset(entry.days),
        since=window.start,
        seconds=time.monotonic() - started,
    )


def look_back(connection: Connection, configured: ConfiguredSource, now: datetime, feed: Feed) -> int:
    """Put the hours before the live window of which the source counts more traces than are here into the backlog.

    Gives how many. An hour that was read and still differs (excluded and rejected runs are counted by the source too) is
    read again only when the source's count changes. Raises SourceError.
    """
    source = configured.source
    state = read_state(connection, source.name, source.project)
    if _left_alone(state, now) or state.covered_from is None or not _due(state.looked_back_at, now, LOOK_BACK_EVERY):
        return 0
    hour = timedelta(hours=1)
    end = (now - timedelta(minutes=feed.overlap_minutes)).replace(minute=0, second=0, microsecond=0)
    windows = [Window(end - (back + 1) * hour, end - back * hour) for back in range(LOOKED_BACK_HOURS)]
    found = 0
    for window in windows:
        if window.start < state.covered_from or (counted := source.count(window).runs) is None:
            continue
        with connection, connection.cursor() as cursor:
            if counted > _traces_here(cursor, state, window) and counted != _counted_when_read(cursor, state, window):
                _add_to_backlog(cursor, state, window, "count_differs", _slice_length(state))
                found += 1
    with connection, connection.cursor() as cursor:
        _save(cursor, state, looked_back_at=now)
    return found


# --- what is remembered ---------------------------------------------------------------------------------------------


def read_state(connection: Connection, source: str, project: str) -> State:
    """What is known of a source; nothing yet for a new one."""
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(_COLUMNS)} FROM metamon.feed_state WHERE source = %s AND project = %s", (source, project))
        row = cursor.fetchone()
    return State(source, project, *(row or ()))


def _save(cursor: Cursor, state: State, **values: object) -> None:
    names = list(values)
    cursor.execute(
        f"INSERT INTO metamon.feed_state (source, project, {', '.join(names)}) VALUES (%s, %s{', %s' * len(names)})"
        f" ON CONFLICT (source, project) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in names)}",
        (state.source, state.project, *values.values()),
    )


def _due(last: datetime | None, now: datetime, every: timedelta) -> bool:
    """Whether it was not done for so long; what was done in the future was done by a clock that has been set back since."""
    return last is None or now >= last + every or last > now


def _left_alone(state: State, now: datetime) -> bool:
    """Whether the source is not to be asked now; never for longer than any failure can have meant."""
    return state.not_before is not None and now < state.not_before <= now + timedelta(seconds=LONGEST_PAUSE)


def _begun(state: State, now: datetime, feed: Feed) -> dict[str, datetime]:
    """What the first question to a source promises, even if it fails: everything from its window on will be read."""
    if state.covered_until is not None:
        return {}
    state.covered_from = state.covered_until = live_window(state, now, feed).start
    return {"covered_from": state.covered_from, "covered_until": state.covered_until}


_PENDING = """
    SELECT run_id FROM (
        SELECT run_id, start_time FROM metamon.traces
        WHERE status = 'pending' AND NOT root_inferred AND source = %(source)s AND project = %(project)s
            AND day >= %(day)s AND start_time >= %(since)s AND start_time < %(before)s
        UNION ALL
        SELECT s.run_id, s.start_time FROM metamon.spans s
        JOIN metamon.traces t ON t.day = s.day AND t.source = s.source AND t.trace_id = s.trace_id
        WHERE s.status = 'pending' AND t.status <> 'pending' AND s.source = %(source)s AND s.project = %(project)s
            AND s.day >= %(day)s AND t.day >= %(day)s AND t.start_time >= %(since)s AND t.start_time < %(before)s) waiting
    ORDER BY CASE WHEN row_number() OVER (ORDER BY start_time DESC) <= %(most)s / 2 THEN 0 ELSE random() END LIMIT %(most)s"""


def _pending(connection: Connection, state: State, since: datetime, before: datetime) -> list[str]:
    """Roots that had not ended, and children that had not though their root had: where there are more than one poll may ask
    for, half of them the newest and half drawn from the others, so that each has its turn.

    Children of a pending root are read when it ends.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _PENDING,
            {
                "source": state.source,
                "project": state.project,
                "day": since.date(),
                "since": since,
                "before": before,
                "most": MOST_PENDING,
            },
        )
        return [run_id for (run_id,) in cursor.fetchall()]


def _gap(state: State, window: Window, feed: Feed) -> Window | None:
    """What lies between the last window and this one, with the overlap before it: runs that came late are in there too."""
    if state.covered_until is None or state.covered_until >= window.start:
        return None
    start = state.covered_until - timedelta(minutes=feed.overlap_minutes)
    return Window(max(start, window.start - LONGEST_GAP), window.start)


def _slice_length(state: State) -> timedelta:
    if state.cost is None:
        return LONGEST_SLICE
    return max(SHORTEST_SLICE, min(LONGEST_SLICE, timedelta(seconds=SLICE_SECONDS / max(state.cost, 1e-3))))


def _add_to_backlog(cursor: Cursor, state: State, window: Window, reason: str, length: timedelta) -> None:
    """Slices of the window, cut from its end; one that waits already from the same moment becomes the longer of both."""
    end = window.end
    while end > window.start:
        start = max(window.start, end - length)
        cursor.execute(
            "INSERT INTO metamon.feed_backlog AS b (source, project, window_start, window_end, reason) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT (source, project, window_start) DO UPDATE SET window_end = greatest(b.window_end, excluded.window_end)",
            (state.source, state.project, start, end, reason),
        )
        end = start


def _next_in_backlog(connection: Connection, state: State) -> Window | None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT window_start, window_end FROM metamon.feed_backlog WHERE source = %s AND project = %s"
            " ORDER BY attempts, window_start DESC LIMIT 1",
            (state.source, state.project),
        )
        row = cursor.fetchone()
    return Window(*row) if row else None


def _backlog_size(connection: Connection, source: str, project: str) -> int:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM metamon.feed_backlog WHERE source = %s AND project = %s", (source, project))
        return int(cursor.fetchone()[0])  # type: ignore[index]


def _traces_here(cursor: Cursor, state: State, window: Window) -> int:
    cursor.execute(
        "SELECT count(*) FROM metamon.traces WHERE day BETWEEN %s AND %s AND source = %s AND project = %s"
        " AND start_time >= %s AND start_time < %s AND NOT root_inferred",
        (window.start.date(), window.end.date(), state.source, state.project, window.start, window.end),
    )
    return int(cursor.fetchone()[0])  # type: ignore[index]


def _counted_when_read(cursor: Cursor, state: State, window: Window) -> int | None:
    """What the source counted when exactly this window was read last."""
    cursor.execute(
        "SELECT sum(source_runs) FROM (SELECT DISTINCT ON (window_start) window_start, window_end, source_runs"
        "   FROM metamon.ingestion_ledger WHERE source = %s AND project = %s AND kind = 'runs' AND status IN ('complete', 'empty')"
        "   AND source_runs IS NOT NULL AND window_start >= %s AND window_end <= %s ORDER BY window_start, ledger_id DESC) reads"
        " HAVING sum(window_end - window_start) = %s",
        (state.source, state.project, window.start, window.end, window.end - window.start),
    )
    row = cursor.fetchone()
    return None if row is None else int(row[0])
