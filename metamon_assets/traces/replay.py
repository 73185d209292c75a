"""Reading again what quarantine holds, after its cause was mended at the source (IN-7).

Here belongs the way back out of quarantine. The rows are read from their source and not from quarantine's copy,
which may be cut, redacted or without payloads: so a replay writes what an ordinary read would have written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metamon_assets.traces.ingest import ingest
from metamon_assets.traces.sources.base import Kind, Window

if TYPE_CHECKING:
    from metamon_assets.traces.configured import ConfiguredSource
    from metamon_assets.warehouse.connection import Connection

_WAITING = """
    SELECT r.source, r.project, r.kind, l.window_start, l.window_end, count(*), min(r.location)
    FROM quarantine.rejected_rows AS r JOIN metamon.ingestion_ledger AS l USING (ledger_id)
    WHERE r.replayed_at IS NULL AND (%(reason)s IS NULL OR r.reason = %(reason)s)
    GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4"""
_STILL_WAITING = """
    SELECT count(*) FROM quarantine.rejected_rows
    WHERE replayed_at IS NULL AND ledger_id = %(ledger_id)s AND source = %(source)s AND project = %(project)s AND kind = %(kind)s"""
_ACCEPTED = """
    UPDATE quarantine.rejected_rows AS r SET replayed_at = clock_timestamp() FROM metamon.ingestion_ledger AS l
    WHERE l.ledger_id = r.ledger_id AND r.ledger_id < %(ledger_id)s AND r.replayed_at IS NULL
      AND (r.source, r.project, r.kind) = (%(source)s, %(project)s, %(kind)s)
      AND (l.window_start, l.window_end) IS NOT DISTINCT FROM (%(start)s, %(end)s)"""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of the rejected rows of one earlier read."""

    source: str
    project: str
    kind: str
    window: str
    waiting: int
    accepted: int  # no longer rejected: they are in the tables now, or gone from the source
    message: str


def replay(
    connection: Connection,
    sources: Sequence[ConfiguredSource],
    *,
    reason: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[Replayed]:
    """Read every window again whose rows wait in quarantine (those with ``reason`` only, if given).

    Rows of sources that are not configured stay where they are and the message says how to load them.
    Raises IngestError when a window cannot be read; the windows before it stay replayed.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_WAITING, {"reason": reason})
        waiting = cursor.fetchall()
    known = {(configured.source.name, configured.source.project): configured for configured in sources}
    found = []
    for source, project, kind, start, end, count, location in waiting:
        words = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}" if start else "everything"
        configured = known.get((source, project))
        if configured is None:
            message = f"{source} {project!r} is not in metamon.yaml: mend {location} and load it with `metamon ingest`"
            found.append(Replayed(source, project, kind, words, count, 0, message))
            continue
        report(f"Reading {source} {project!r}, {kind}, {words} again")
        entry = ingest(connection, configured.source, Kind(kind), Window(start, end) if start else None, configured.rules)
        identity = {"ledger_id": entry.ledger_id, "source": source, "project": project, "kind": kind, "start": start, "end": end}
        with connection, connection.cursor() as cursor:
            cursor.execute(_ACCEPTED, identity)
            cursor.execute(_STILL_WAITING, identity)
            accepted = count - cursor.fetchone()[0]  # type: ignore[index]
        found.append(Replayed(source, project, kind, words, count, max(accepted, 0), f"{entry.rows_rejected} still rejected"))
    return found
