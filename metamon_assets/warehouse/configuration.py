"""Versions of the configuration, kept in the audit log: who runs with what, since when, and what changed (CFG-1)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from metamon_assets.config.changes import content, differences
from metamon_assets.warehouse import audit

if TYPE_CHECKING:
    from metamon_assets.config import Settings
    from metamon_assets.warehouse.connection import Connection, Cursor

ACTION = "configured"
SUBJECT = "configuration:metamon.yaml"


@dataclass(frozen=True, slots=True)
class Version:
    """A configuration that was in effect: its number in the audit log, since when, by whom, and its content."""

    number: int
    since: datetime
    actor: str
    content: dict[str, Any]
    changes: tuple[str, ...]


def versions(connection: Connection, limit: int = 100) -> list[Version]:
    """The latest versions, the newest first."""
    with connection, connection.cursor() as cursor:
        return _versions(cursor, limit)


def note(connection: Connection, settings: Settings) -> list[str]:
    """Append a version when the configuration differs from the last one; gives what changed."""
    now = content(settings)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (SUBJECT,))  # of two that start together one writes
        last = _versions(cursor, 1)
        changes = [str(change) for change in differences(last[0].content if last else {}, now)]
        if changes:
            audit.record(connection, audit.acting_user(), ACTION, SUBJECT, evidence={"content": now, "changes": changes})
    return changes


def _versions(cursor: Cursor, limit: int) -> list[Version]:
    cursor.execute(
        "SELECT audit_id, at, actor, evidence FROM metamon.audit_log WHERE action = %s AND subject = %s ORDER BY audit_id DESC LIMIT %s",
        (ACTION, SUBJECT, limit),
    )
    return [
        Version(number, at, actor, evidence["content"], tuple(evidence["changes"])) for number, at, actor, evidence in cursor.fetchall()
    ]
