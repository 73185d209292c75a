"""The audit log: every action of a person or of the automation, appended and never changed (SEC-5).

Here belongs writing an entry. Whoever acts calls ``record`` in the same transaction, so that an action and its
entry are there together or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection


def record(
    connection: Connection, actor: str, action: str, subject: str, reason: str | None = None, evidence: Mapping[str, Any] | None = None
) -> int:
    """Append an entry and return its id; the caller commits.

    ``actor``: a person's name or the part of the system; ``action``: a verb; ``subject``: what it was done to, as
    ``kind:id``; ``evidence``: figures and identifiers that the decision rested on (JSON).
    """
    from psycopg2.extras import Json

    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.audit_log (actor, action, subject, reason, evidence) VALUES (%s, %s, %s, %s, %s) RETURNING audit_id",
            (actor, action, subject, reason, Json(dict(evidence or {}))),
        )
        (audit_id,) = cursor.fetchone() or (0,)
    return int(audit_id)


def acting_user() -> str:
    """Who runs this process, for ``actor``; a container's user may have no name."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
