"""Changes that nobody reported: a version, model or prompt of an agent that is seen for the first time (IN-13).

First sightings are kept in a small table of their own, so that days can be read in any order: a sighting on an
earlier day moves the event back in time. What an agent showed when it was first seen itself is no change.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

SOURCE = "inferred"
# A change that was reported for the same agent and version this near to its first sighting needs no inferred twin.
REPORTED_WITHIN = timedelta(days=1)

_SIGHTINGS = """
    INSERT INTO metamon.first_sightings AS f (project, agent_name, kind, value, first_time)
    SELECT project, agent_name, kind, value, min(start_time)
    FROM (
        SELECT project, agent_name, start_time, 'version' AS kind, agent_version AS value
        FROM metamon.traces WHERE day = ANY(%(days)s)
        UNION ALL
        SELECT project, agent_name, start_time, 'model', COALESCE(request_model, response_model)
        FROM metamon.traces WHERE day = ANY(%(days)s)
        UNION ALL
        SELECT s.project, t.agent_name, s.start_time, 'model', COALESCE(s.request_model, s.response_model)
        FROM metamon.spans s JOIN metamon.traces t USING (day, source, trace_id)
        WHERE s.day = ANY(%(days)s) AND t.day = ANY(%(days)s) AND s.run_type = 'llm'
        UNION ALL
        SELECT project, agent_name, start_time, 'prompt', COALESCE(prompt_name || ' ', '') || prompt_version
        FROM metamon.traces WHERE day = ANY(%(days)s)
    ) seen
    WHERE agent_name IS NOT NULL AND value IS NOT NULL
    GROUP BY 1, 2, 3, 4
    ON CONFLICT (project, agent_name, kind, value) DO UPDATE SET first_time = excluded.first_time
        WHERE excluded.first_time < f.first_time"""

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
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('events:inferred', 0))")
        cursor.execute(_SIGHTINGS, {"days": list(days)})
        cursor.execute("DELETE FROM metamon.events WHERE source = %s", (SOURCE,))
        cursor.execute(_EVENTS, {"source": SOURCE, "within": REPORTED_WITHIN})
        return cursor.rowcount
