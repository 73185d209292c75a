"""The data dictionary: what every table, view and column means, read from the COMMENTs in the database.

Here belongs the reading. The words themselves are written once, in ``sql/``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection

# Partitions repeat their parents, so they are left out.
_QUERY = """
SELECT n.nspname, c.relname, c.relkind = 'v', obj_description(c.oid, 'pg_class'),
       a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, col_description(c.oid, a.attnum)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname IN ('metamon', 'analytics', 'quarantine', 'snapshots') AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
ORDER BY n.nspname <> 'analytics', n.nspname, c.relname, a.attnum
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: name, Postgres type, whether it is always filled, and what it means."""

    name: str
    type: str
    required: bool
    description: str


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view: ``schema.name``, what it holds, its columns in order."""

    name: str
    kind: str  # table or view
    description: str
    columns: tuple[Column, ...]


def read(connection: Connection) -> list[Relation]:
    """All tables and views that people may meet, the analysts' views first."""
    found: dict[str, tuple[str, str, list[Column]]] = {}
    with connection, connection.cursor() as cursor:
        cursor.execute(_QUERY)
        for schema, table, view, about, column, type_, required, meaning in cursor:
            entry = found.setdefault(f"{schema}.{table}", ("view" if view else "table", about or "", []))
            entry[2].append(Column(column, type_, required, meaning or ""))
    return [Relation(name, kind, about, tuple(columns)) for name, (kind, about, columns) in found.items()]
