"""Which groups are new: what they do is recorded and told in the digest, and pages nobody (ALR-34).

A source is new for some hours after its first reading, however much history it brings. A group is new when all that it does comes from
new sources; runs of a source that has been here for long make it an old one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from metamon_assets.alerts.evidence import COLUMNS

if TYPE_CHECKING:
    from metamon_assets.alerts.series import Group
    from metamon_assets.warehouse.connection import Cursor

REFRESHED = timedelta(minutes=10)
LOOKED_BACK = timedelta(days=1)


@dataclass(slots=True)
class Newcomers:
    """The sources by age, as of the last refresh."""

    old: list[tuple[str, str]] = field(default_factory=list)
    new: list[tuple[str, str]] = field(default_factory=list)
    refreshed_at: datetime | None = None

    def refresh(self, cursor: Cursor, now: datetime, hours: float) -> None:
        """Read when each source was first read, every few minutes."""
        if self.refreshed_at is not None and timedelta(0) <= now - self.refreshed_at < REFRESHED:
            return
        cursor.execute(
            "SELECT source, project, min(started_at) > %s FROM metamon.ingestion_ledger WHERE kind = 'runs' GROUP BY source, project",
            (now - timedelta(hours=hours),),
        )
        rows = cursor.fetchall()
        self.new = [(source, project) for source, project, is_new in rows if is_new]
        self.old = [(source, project) for source, project, is_new in rows if not is_new]
        self.refreshed_at = now

    def knows(self, cursor: Cursor, group: Group, at: datetime) -> bool:
        """Whether the group is new."""
        if not self.new or not self.old:
            return bool(self.new)
        dimension, value = group
        if dimension not in COLUMNS:  # all runs, or calls of a tool: of an installation that has been here for long
            return False
        cursor.execute(
            f"SELECT NOT EXISTS (SELECT FROM metamon.traces AS t WHERE t.day BETWEEN %s AND %s AND {COLUMNS[dimension]} = %s"
            " AND (t.source, t.project) IN (SELECT * FROM unnest(%s::text[], %s::text[])))",
            ((at - LOOKED_BACK).date(), at.date(), value, [source for source, _ in self.old], [project for _, project in self.old]),
        )
        (is_new,) = cursor.fetchone() or (False,)
        return bool(is_new)
