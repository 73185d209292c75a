"""Changes that somebody reported, and those that nobody did: a version, model or prompt seen for the first time (IN-13).

Here belongs what an event is once it has been said, by command, by POST or by a webhook; files of events go through
``ingest`` like all files. First sightings are kept in a small table of their own, so that days can be read in any order: a sighting on an
earlier day moves the event back in time. What an agent showed when it was first seen itself is no change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from metamon_assets.traces.sources.base import Batch, Kind, SourceCount, Window

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from metamon_assets.traces.ledger import LedgerEntry
    from metamon_assets.traces.normalise import Rules

SOURCE = "inferred"
REPORTED = "reported"  # the source of events that were said by command, by POST or by a webhook
SAME_WITHIN = timedelta(hours=1)  # an event without id and time that says the same again within this is the same event
# A change that was reported for the same agent and version this near to its first sighting needs no inferred twin.
REPORTED_WITHIN = timedelta(days=1)

_SIGHTINGS = """
    INSERT INTO metamon.first_sightings AS f (project, agent_name, kind, value, first_time)
    SELECT project, agent_name, kind, value, min(start_time)
    FROM (
        SELECT project, agent_name, start_time, 'version' AS kind, agent_version AS value
        FROM metamon.traces WHERE day = ANY(%(days)s) AND start_time >= %(since)s
        UNION ALL
        SELECT project, agent_name, start_time, 'model', COALESCE(request_model, response_model)
        FROM metamon.traces WHERE day = ANY(%(days)s) AND start_time >= %(since)s
        UNION ALL
        SELECT s.project, t.agent_name, s.start_time, 'model', COALESCE(s.request_model, s.response_model)
        FROM metamon.spans s JOIN metamon.traces t USING (day, source, trace_id)
        WHERE s.day = ANY(%(days)s) AND t.day = ANY(%(days)s) AND s.run_type = 'llm'
            AND s.start_time >= %(since)s AND t.start_time >= %(since)s
        UNION ALL
        SELECT project, agent_name, start_time, 'prompt', COALESCE(prompt_name || ' ', '') || prompt_version
        FROM metamon.traces WHERE day = ANY(%(days)s) AND start_time >= %(since)s
    ) seen
    WHERE agent_name IS NOT NULL AND value IS NOT NULL
    GROUP BY 1, 2, 3, 4
    ON CONFLICT (project, agent_name, kind, value) DO UPDATE SET first_time = excluded.first_time
        WHERE excluded.first_time < f.first_time"""

_LIVE_DAYS = """
    SELECT array_agg(DISTINCT day), min(COALESCE(window_start, started_at - interval '1 hour'))
    FROM (SELECT * FROM metamon.ingestion_ledger ORDER BY ledger_id DESC LIMIT 1000) recent, unnest(days) day
    WHERE live AND kind = 'runs' AND finished_at > %(after)s"""

_EVENTS = """
    INSERT INTO metamon.events (source, project, event_id, kind, agent_name, version, time, inferred, metadata, observed_time)
    SELECT %(source)s, s.project, md5(concat_ws(E'\\x1f', s.kind, s.agent_name, s.value)), s.kind, s.agent_name, s.value,
        s.first_time, true, jsonb_build_object('inferred_from', 'first sighting in the traces'), s.first_time
    FROM metamon.first_sightings s
    JOIN (SELECT project, agent_name, min(first_time) AS first_time FROM metamon.first_sightings GROUP BY 1, 2) agent
        USING (project, agent_name)
    WHERE s.first_time >= agent.first_time + interval '1 day'
        AND NOT EXISTS (
            SELECT FROM metamon.events e
            WHERE NOT e.inferred AND (e.agent_name IS NULL OR e.agent_name = s.agent_name) AND s.value IN (e.version, e.commit_sha)
                AND e.time BETWEEN s.first_time - %(within)s AND s.first_time + %(within)s)"""


def infer_events(connection: Connection, days: Sequence[date]) -> int:
    """Book the first sightings of these days and derive the events from them; gives the number of inferred events.

    Reading a day again, or the days in another order, gives the same events.
    """
    return _infer(connection, days, "-infinity", always=True)


def infer_live_events(connection: Connection, after: datetime) -> int:
    """The same for what live data changed since ``after`` (of the database's clock), whoever wrote it; does nothing more
    where none of it shows anything new. Gives the number of inferred events, 0 when nothing was new.

    Runs that started before what a live read asked for are left to the daily reading.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_LIVE_DAYS, {"after": after})
        days, since = cursor.fetchone()  # type: ignore[misc]
    return _infer(connection, days, since, always=False) if days else 0


def _infer(connection: Connection, days: Sequence[date], since: datetime | str, *, always: bool) -> int:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('events:inferred', 0))")
        cursor.execute(_SIGHTINGS, {"days": list(days), "since": since})
        if not cursor.rowcount and not always:
            return 0
        cursor.execute("DELETE FROM metamon.events WHERE source = %s", (SOURCE,))
        cursor.execute(_EVENTS, {"source": SOURCE, "within": REPORTED_WITHIN})
        return cursor.rowcount


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A change as somebody reports it. Without ``event_id`` its content is its identity; without ``time`` it happened now."""

    kind: str
    event_id: str | None = None
    project: str = "default"
    agent_name: str | None = None
    version: str | None = None
    commit_sha: str | None = None
    url: str | None = None
    actor: str | None = None
    time: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content_id(self) -> str:
        """An id that says the same when the same is said."""
        said = [self.kind, self.project, self.agent_name, self.version, self.commit_sha, self.url, self.actor]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def report(connection: Connection, events: Sequence[Event], rules: Rules) -> LedgerEntry:
    """Keep reported events; saying them again changes nothing. Inferred twins of them go.

    ``rules.now`` is the time of events that tell none. Raises IngestError when the database fails; events that the
    rules refuse (a time in the far future) are in quarantine, and counted as rejected in the entry.
    """
    from metamon_assets.traces.ingest import ingest

    with connection, connection.cursor() as cursor:
        # One report at a time, to the end of the session's work on it: two that say the same must find each other.
        cursor.execute("SELECT pg_advisory_lock(hashtextextended('events:reported', 0))")
    try:
        identified = _identified(connection, events, rules.now)
        entry = ingest(connection, _Reported(tuple(identified)), Kind.EVENTS, None, rules)
        infer_events(connection, [])
    finally:
        if not connection.closed:
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(hashtextextended('events:reported', 0))")
    return entry


def _identified(connection: Connection, events: Sequence[Event], now: datetime) -> Iterator[Event]:
    """The events, each with its id and its time, and each once."""
    seen: dict[tuple[str, str], Event] = {}
    for event in events:
        known = event if event.time is not None else _said_before(connection, event, now)
        time = known.time or now
        event_id = known.event_id or f"{event.content_id}-{time.timestamp():.0f}"
        seen[known.project, event_id] = replace(known, event_id=event_id, time=time)
    yield from seen.values()


def _said_before(connection: Connection, event: Event, now: datetime) -> Event:
    """An event that tells no time: with the id and the time of the one that said the same before, if there is one."""
    same, value = ("event_id = %s", event.event_id) if event.event_id else ("starts_with(event_id, %s) AND time > %s", event.content_id)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT event_id, time FROM metamon.events WHERE source = %s AND project = %s AND {same} ORDER BY time DESC LIMIT 1",
            (REPORTED, event.project, value, *(() if event.event_id else (now - SAME_WITHIN,))),
        )
        before = cursor.fetchone()
    return event if before is None else replace(event, event_id=before[0], time=before[1])


@dataclass(frozen=True, slots=True)
class _Reported:
    """What was reported, as a source that ``ingest`` reads."""

    events: tuple[Event, ...]
    name: str = REPORTED
    project: str = "default"

    def read(self, kind: Kind, window: Window) -> Iterator[Batch]:
        """All events in one batch."""
        import pyarrow as pa

        from metamon_assets.traces.columns import EVENTS

        columns = ("project", "event_id", "kind", "agent_name", "version", "commit_sha", "url", "actor", "time")
        arrays = {name: pa.array([getattr(event, name) for event in self.events], EVENTS.field(name).type) for name in columns}
        arrays["metadata"] = pa.array([json.dumps(dict(event.metadata)) if event.metadata else None for event in self.events], pa.string())
        yield Batch(kind, pa.table(arrays), location="what was reported")

    def count(self, window: Window) -> SourceCount:
        """Nothing to reconcile with."""
        return SourceCount()
