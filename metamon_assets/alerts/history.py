"""What people look up about incidents: what happened to one and what was sent of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Cursor


def events(cursor: Cursor, incident_id: int) -> list[dict[str, Any]]:
    """What happened to an incident, in order."""
    columns = ["at", "event", "severity", "value", "note", "actor"]
    cursor.execute(f"SELECT {', '.join(columns)} FROM metamon.incident_events WHERE incident_id = %s ORDER BY event_id", (incident_id,))
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def told(cursor: Cursor, incident_id: int) -> list[dict[str, Any]]:
    """What was sent of an incident, is to be sent, or is not and why."""
    columns = ["message_id", "channel", "event", "severity", "created_at", "sent_at", "dead_at", "suppressed", "attempts", "last_error"]
    cursor.execute(f"SELECT {', '.join(columns)} FROM metamon.outbox WHERE incident_id = %s ORDER BY message_id", (incident_id,))
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
