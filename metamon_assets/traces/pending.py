"""Runs that had not ended when they were read: asked for again by id until they end or are given up (IN-6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from metamon_assets.traces.configured import ConfiguredSource
from metamon_assets.traces.ingest import IngestError, ingest
from metamon_assets.traces.sources.base import FollowsRuns, Kind, RunsById

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

GIVE_UP_AFTER = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Followed:
    """What became of the runs that were pending."""

    asked_for: int
    ended: int
    abandoned: int

    def __str__(self) -> str:
        given_up = f"{self.abandoned} given up after {GIVE_UP_AFTER.days} days"
        return f"{self.asked_for} pending runs asked for again: {self.ended} have ended; {given_up}"


def follow_pending(
    connection: Connection, sources: Sequence[ConfiguredSource], *, now: datetime, dagster_run_id: str | None = None
) -> Followed:
    """Ask each source that can tell for its pending runs; mark as abandoned what stayed pending for 14 days.

    Abandoned is neither success nor failure, and an end that comes after all still wins. Raises IngestError at the end
    when a source could not be asked; the others were.
    """
    asked_for = ended = 0
    failures = []
    for configured in sources:
        source = configured.source
        if not isinstance(source, FollowsRuns) or not (run_ids := _pending(connection, source.name, source.project, now)):
            continue
        try:
            ingest(connection, RunsById(source, run_ids), Kind.RUNS, None, configured.rules, dagster_run_id=dagster_run_id)
        except IngestError as error:
            failures.append(str(error))
            continue
        asked_for += len(run_ids)
        ended += len(run_ids) - len(_pending(connection, source.name, source.project, now))
    followed = Followed(asked_for, ended, _abandon(connection, now))
    if failures:
        raise IngestError("\n".join(failures))
    return followed


def _pending(connection: Connection, source: str, project: str, now: datetime) -> list[str]:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT run_id FROM (SELECT source, project, day, run_id, status FROM metamon.traces"
            "   UNION ALL SELECT source, project, day, run_id, status FROM metamon.spans) r"
            " WHERE status = 'pending' AND source = %(source)s AND project = %(project)s AND day >= %(oldest)s",
            {"source": source, "project": project, "oldest": (now - GIVE_UP_AFTER).date()},
        )
        return [run_id for (run_id,) in cursor.fetchall()]


def _abandon(connection: Connection, now: datetime) -> int:
    """Mark them, and book the days that changed, so that their metrics are computed again."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            """
            WITH old_traces AS (UPDATE metamon.traces SET status = 'abandoned', ingested_at = statement_timestamp()
                WHERE status = 'pending' AND start_time < %(before)s RETURNING source, project, day),
            old_spans AS (UPDATE metamon.spans SET status = 'abandoned', ingested_at = statement_timestamp()
                WHERE status = 'pending' AND start_time < %(before)s RETURNING source, project, day)
            INSERT INTO metamon.ingestion_ledger
                (source, project, kind, started_at, finished_at, status, rows_read, rows_updated, days, message)
            SELECT source, project, 'runs', statement_timestamp(), statement_timestamp(), 'complete', count(*), count(*),
                array_agg(DISTINCT day), 'runs that stayed pending were marked as abandoned'
            FROM (SELECT * FROM old_traces UNION ALL SELECT * FROM old_spans) marked
            GROUP BY source, project RETURNING rows_read""",
            {"before": now - GIVE_UP_AFTER},
        )
        return sum(rows for (rows,) in cursor.fetchall())
