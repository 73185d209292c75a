"""What quarantine holds, and reading it again after its cause was mended at the source (IN-7).

Here belong the sum of what waits and the way back out of quarantine. The rows are read from their source and not from quarantine's copy,
which may be cut, redacted or without payloads: so a replay writes what an ordinary read would have written.
"""

from __future__ import annotations

import re
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
# Details quote the row's value in their middle. What is about the same column (their first word) and ends with the same advice (their
# last part) is the same. The least and the greatest text of many share what all of them share; in reverse, their ends.
_PROBLEMS = """
    SELECT reason, count(*), min(detail COLLATE "C"), max(detail COLLATE "C"),
        min(reverse(detail) COLLATE "C"), max(reverse(detail) COLLATE "C"), (array_agg(location ORDER BY detail COLLATE "C"))[1]
    FROM quarantine.rejected_rows
    WHERE replayed_at IS NULL AND (%(reason)s IS NULL OR reason = %(reason)s)
    GROUP BY reason, substring(detail FROM '^[[:alpha:]_]+ '), regexp_replace(detail, '^.*[:;.] (?=.)', '')
    ORDER BY 2 DESC, 1, 3"""


@dataclass(frozen=True, slots=True)
class Problem:
    """Rows that wait in quarantine for the same reason: ``detail`` is what their details share, with … for the rest."""

    reason: str
    rows: int
    detail: str
    example: str  # what stands for … in one of them
    location: str  # of that one


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


def problems(connection: Connection, reason: str | None = None) -> list[Problem]:
    """What waits in quarantine (for ``reason`` only, if given), the most frequent first."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_PROBLEMS, {"reason": reason})
        return [Problem(why, rows, *_shared(*details), location) for why, rows, *details, location in cursor.fetchall()]


def _shared(least: str, greatest: str, least_reversed: str, greatest_reversed: str) -> tuple[str, str]:
    """What all details share, in whole words, and what stands between in the least of them."""
    if least == greatest:
        return least, ""
    beginning = re.sub(r"\S*$", "", _common(least, greatest))
    rest = least.removeprefix(beginning)
    end = re.sub(r"^\S*?(?=[;:,.]?\s|$)", "", _common(least_reversed, greatest_reversed)[: len(rest)][::-1], count=1)
    return f"{beginning}…{end}", rest.removesuffix(end)


def _common(one: str, other: str) -> str:
    """What both begin with."""
    return one[: next((place for place, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) > 1), len(one))]


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
