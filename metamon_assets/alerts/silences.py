"""Silences and maintenance windows (NOT-4): what is recorded and counted, and not sent while they last.

Here belong the rows of ``metamon.silences``. Whether one matches is asked when a message is written, so a silence made later holds
back nothing that waits already.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING

from metamon_assets.errors import MetamonError
from metamon_assets.warehouse.audit import record

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection, Cursor


class SilenceError(MetamonError):
    """A silence cannot be made or ended; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A row of ``metamon.silences``. What is None matches everything."""

    silence_id: int
    rule: str | None
    dimension: str | None
    dimension_value: str | None
    starts_at: datetime
    ends_at: datetime
    maintenance: bool
    reason: str
    created_by: str

    @property
    def about(self) -> str:
        """What it is about, in words."""
        rule = f"rule {self.rule}" if self.rule else "all rules"
        if self.dimension is None:
            return rule
        return f"{rule}, {self.dimension} {'(any)' if self.dimension_value is None else self.dimension_value}"


_COLUMNS = ", ".join(entry.name for entry in fields(Silence))


def create(
    connection: Connection,
    *,
    reason: str,
    actor: str,
    now: datetime,
    ends_at: datetime,
    starts_at: datetime | None = None,
    rule: str | None = None,
    dimension: str | None = None,
    dimension_value: str | None = None,
    maintenance: bool = False,
) -> Silence:
    """Make a silence from ``starts_at`` (now) to ``ends_at``. Raises SilenceError.

    Only a maintenance window may be about everything: a silence says what it is about.
    """
    starts_at = starts_at or now
    if ends_at <= max(starts_at, now):
        raise SilenceError("A silence has to end after it starts, and after now: choose a later end.")
    if dimension_value is not None and dimension is None:
        raise SilenceError("A value needs its dimension, such as agent: name it too.")
    if rule is None and dimension is None and not maintenance:
        raise SilenceError("A silence is about a rule, a dimension or a value: name one, or make it a maintenance window.")
    if not reason.strip():
        raise SilenceError("A silence needs a reason: others will wonder why it is quiet.")
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.silences"
            " (rule, dimension, dimension_value, starts_at, ends_at, maintenance, reason, created_by, created_at)"
            f" VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING {_COLUMNS}",
            (rule, dimension, dimension_value, starts_at, ends_at, maintenance, reason, actor, now),
        )
        silence = Silence(*cursor.fetchone())  # type: ignore[misc]
        evidence = {"about": silence.about, "starts_at": str(starts_at), "ends_at": str(ends_at), "maintenance": maintenance}
        record(connection, actor, "create_silence", f"silence:{silence.silence_id}", reason, evidence)
    return silence


def end(connection: Connection, silence_id: int, actor: str, now: datetime) -> Silence:
    """Let a silence end at ``now``; one that has not begun never will. Raises SilenceError where there is nothing to end."""
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {_COLUMNS} FROM metamon.silences WHERE silence_id = %s FOR UPDATE", (silence_id,))
        row = cursor.fetchone()
        if row is None:
            raise SilenceError(f"There is no silence {silence_id}: `metamon silences list` shows those that there are.")
        if Silence(*row).ends_at <= now:
            raise SilenceError(f"Silence {silence_id} has ended already.")
        cursor.execute(
            "UPDATE metamon.silences SET ends_at = greatest(%s, starts_at + interval '1 microsecond') WHERE silence_id = %s"
            f" RETURNING {_COLUMNS}",
            (now, silence_id),
        )
        silence = Silence(*cursor.fetchone())  # type: ignore[misc]
        record(connection, actor, "end_silence", f"silence:{silence_id}")
    return silence


def listed(connection: Connection, now: datetime, *, past: bool = False) -> list[Silence]:
    """Those that hold or will, with ``past`` all; the one that ends last first."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_COLUMNS} FROM metamon.silences WHERE ends_at > %s OR %s ORDER BY ends_at DESC, silence_id DESC LIMIT 1000",
            (now, past),
        )
        return [Silence(*row) for row in cursor.fetchall()]


def matching(cursor: Cursor, rule: str, dimension: str, value: str, now: datetime) -> Silence | None:
    """The silence that holds for a rule and group at ``now``, one that names the rule first."""
    cursor.execute(
        f"SELECT {_COLUMNS} FROM metamon.silences WHERE starts_at <= %(now)s AND ends_at > %(now)s"
        " AND (rule IS NULL OR rule = %(rule)s) AND (dimension IS NULL OR dimension = %(dimension)s)"
        " AND (dimension_value IS NULL OR dimension_value = %(value)s)"
        " ORDER BY rule IS NULL, maintenance, silence_id LIMIT 1",
        {"now": now, "rule": rule, "dimension": dimension, "value": value},
    )
    row = cursor.fetchone()
    return None if row is None else Silence(*row)
