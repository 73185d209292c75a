"""Rows that came in and could not be accepted: how many, what share, and why most of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from metamon_assets import words

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

REASONS = 3  # that are named
QUERY = "SELECT reason, detail, location FROM quarantine.rejected_rows WHERE replayed_at IS NULL"

_WAITING = """
    FROM quarantine.rejected_rows WHERE replayed_at IS NULL AND kind = 'runs' AND last_rejected_at >= %(since)s
        AND (%(project)s::text IS NULL OR project = %(project)s)"""
_REASONS = f"SELECT reason, count(*) {_WAITING} GROUP BY 1 ORDER BY 2 DESC, 1"
# Rejected rows may have no day, so all that was kept of their sources is counted beside them; and while the days of a file are
# still being read, the rows that were read with them.
_GOOD = f"""
    WITH rejecting AS MATERIALIZED (SELECT DISTINCT source, project, ledger_id {_WAITING})
    SELECT (SELECT count(*) FROM metamon.traces WHERE (source, project) IN (SELECT source, project FROM rejecting))
            + (SELECT count(*) FROM metamon.spans WHERE (source, project) IN (SELECT source, project FROM rejecting)),
        (SELECT COALESCE(sum(rows_read - rows_rejected), 0)::bigint FROM metamon.ingestion_ledger
            WHERE ledger_id IN (SELECT ledger_id FROM rejecting))"""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Rows in quarantine by reason, the commonest first, and the good rows of the same sources."""

    reasons: tuple[tuple[str, int], ...] = ()
    good: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return sum(count for _, count in self.reasons)


def rejected(connection: Connection, since: datetime, project: str | None = None) -> Rejected:
    """The rows that wait in quarantine and were read since then, of one project or of all."""
    values = {"since": since, "project": project}
    with connection, connection.cursor() as cursor:
        cursor.execute(_REASONS, values)
        reasons = tuple(cursor.fetchall())
        if not reasons:
            return Rejected()
        cursor.execute(_GOOD, values)
        (good,) = cursor.fetchall()
        return Rejected(reasons, max(good))


def sentence(found: Rejected) -> str:
    """The same for people; empty where nothing was rejected."""
    if not found.rows:
        return ""
    named = [f"{reason.replace('_', ' ')} ({count:,})" for reason, count in found.reasons[:REASONS]]
    others = found.rows - sum(count for _, count in found.reasons[:REASONS])
    named += [f"others ({others:,})"] if others else []
    was = "was" if found.rows == 1 else "were"
    return f"{words.of(found.rows, found.rows + found.good, 'row')} {was} rejected and {was} not counted: {', '.join(named)}."
