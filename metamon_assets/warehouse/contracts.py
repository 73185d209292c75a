"""What tables mean: columns, types and comments, told once in ``sql/migrations`` and read from there.

Here belongs reading it, in two ways that a test keeps in step: from a database's catalogue (``describe``,
``dictionary``), and from the SQL files (``declared``), so that asset definitions show their columns without a
database at load. The files are plain DDL, of which this understands what they use: CREATE TABLE with columns,
constraints and LIKE; ALTER TABLE ADD and DROP COLUMN, ADD PRIMARY KEY; DROP TABLE; COMMENT.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from metamon_assets.errors import MetamonError
from metamon_assets.warehouse.migrations import migration_files, sql_folder

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection

SCHEMAS = ("analytics", "metamon", "quarantine")  # the analysts' views first


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, its type in Postgres's words, whether it may be NULL, and what it means."""

    name: str
    type: str
    nullable: bool
    comment: str | None


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view, as ``schema.name``, and what it means."""

    name: str
    kind: str  # table or view
    comment: str | None
    columns: tuple[Column, ...]


class UnknownRelationError(MetamonError):
    """There is no table or view of that name."""


# --- from the catalogue -------------------------------------------------------------------------------------


def describe(connection: Connection, name: str) -> Relation:
    """The table or view ``schema.name`` as the database has it. Raises UnknownRelationError."""
    found = [relation for relation in relations(connection) if relation.name == name]
    if not found:
        raise UnknownRelationError(f"There is no table or view {name} in this database: `metamon dictionary` lists what there is.")
    return found[0]


def relations(connection: Connection) -> list[Relation]:
    """All tables and views of the schemas that people read, by schema and name."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname || '.' || c.relname, CASE WHEN c.relkind IN ('v', 'm') THEN 'view' ELSE 'table' END, "
            "obj_description(c.oid, 'pg_class'), a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, "
            "col_description(c.oid, a.attnum) "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid "
            "WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm') AND a.attnum > 0 AND NOT a.attisdropped "
            "ORDER BY array_position(%s, n.nspname::text), c.relname, a.attnum",
            (list(SCHEMAS), list(SCHEMAS)),
        )
        found: dict[str, Relation] = {}
        for name, kind, comment, column, data_type, nullable, meaning in cursor:
            relation = found.get(name, Relation(name, kind, comment, ()))
            found[name] = replace(relation, columns=(*relation.columns, Column(column, _short(data_type), nullable, meaning)))
    return list(found.values())


def dictionary(relations: Iterable[Relation]) -> str:
    """The data dictionary of these tables and views, in Markdown."""
    lines: list[str] = []
    for relation in relations:
        lines += [f"## {relation.name} ({relation.kind})", "", relation.comment or "", "", "| column | type | meaning |", "|---|---|---|"]
        lines += [
            f"| {column.name} | {column.type} | {(column.comment or '').replace('|', chr(92) + '|')} |" for column in relation.columns
        ]
        lines.append("")
    return "\n".join(lines)


# --- from the files -----------------------------------------------------------------------------------------

TOKEN = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|;", re.DOTALL)
NAME = r"(\w+\.\w+)"
CREATE_TABLE = re.compile(rf"CREATE (?:UNLOGGED )?TABLE {NAME} \((.*)\)(?: PARTITION BY .*)?", re.DOTALL)
ALTER_TABLE = re.compile(rf"ALTER TABLE {NAME} (.*)", re.DOTALL)
DROP_TABLE = re.compile(rf"DROP TABLE {NAME}")
COMMENT = re.compile(rf"COMMENT ON (?:TABLE {NAME}|COLUMN {NAME}\.(\w+)) IS '(.*)'", re.DOTALL)
PRIMARY_KEY = re.compile(r"PRIMARY KEY \(([^)]*)\)")
LIKE = re.compile(rf"LIKE {NAME}(.*)", re.DOTALL)
COLUMN = re.compile(r"(\w+) (.+?)(?= NOT NULL| NULL| DEFAULT| PRIMARY KEY| REFERENCES| CHECK| GENERATED| UNIQUE|$)(.*)", re.DOTALL)
CONSTRAINTS = ("CHECK", "UNIQUE", "FOREIGN", "CONSTRAINT", "EXCLUDE")


@cache
def declared() -> dict[str, Relation]:
    """The tables that ``sql/migrations`` makes, by ``schema.name``; needs no database."""
    tables: dict[str, Relation] = {}
    for file in migration_files(sql_folder()):
        for statement in _statements(file.text):
            _follow(statement, tables)
    return tables


def _statements(text: str) -> Iterator[str]:
    """The statements of a file, comments removed and blanks outside literals reduced to one."""
    parts: list[str] = []
    position = 0
    for token in TOKEN.finditer(text):
        parts.append(re.sub(r"\s+", " ", text[position : token.start()]))
        position = token.end()
        if token.group() == ";":
            yield "".join(parts).strip()
            parts = []
        elif not token.group().startswith("--"):
            parts.append(token.group())


def _follow(statement: str, tables: dict[str, Relation]) -> None:
    if found := CREATE_TABLE.fullmatch(statement):
        name, body = found.groups()
        tables[name] = Relation(name, "table", None, _columns(body, tables))
    elif found := DROP_TABLE.fullmatch(statement):
        del tables[found.group(1)]
    elif (found := COMMENT.fullmatch(statement)) and (found.group(1) or found.group(2)) in tables:
        name, text = found.group(1) or found.group(2), found.group(4).replace("''", "'")
        table = tables[name]
        if found.group(3) is None:
            tables[name] = replace(table, comment=text)
        else:
            columns = (replace(column, comment=text) if column.name == found.group(3) else column for column in table.columns)
            tables[name] = replace(table, columns=tuple(columns))
    elif (found := ALTER_TABLE.fullmatch(statement)) and found.group(1) in tables:
        for change in _items(found.group(2)):
            tables[found.group(1)] = _altered(tables[found.group(1)], change)


def _altered(table: Relation, change: str) -> Relation:
    if change.startswith("ADD COLUMN "):
        return replace(table, columns=(*table.columns, *_columns(change.removeprefix("ADD COLUMN "), {})))
    if change.startswith("DROP COLUMN "):
        return replace(table, columns=tuple(column for column in table.columns if column.name != change.split()[2]))
    if found := PRIMARY_KEY.search(change):
        return replace(table, columns=_not_null(table.columns, found.group(1)))
    return table


def _columns(body: str, tables: dict[str, Relation]) -> tuple[Column, ...]:
    columns: list[Column] = []
    keys: list[str] = []
    for item in _items(body):
        if found := LIKE.fullmatch(item):
            keeps_comments = "INCLUDING ALL" in found.group(2) or "INCLUDING COMMENTS" in found.group(2)
            copied = tables[found.group(1)].columns
            columns += copied if keeps_comments else [replace(column, comment=None) for column in copied]
        elif found := PRIMARY_KEY.match(item):
            keys.append(found.group(1))
        elif not item.startswith(CONSTRAINTS) and (found := COLUMN.fullmatch(item)):
            name, data_type, rest = found.groups()
            required = any(word in rest for word in ("NOT NULL", "PRIMARY KEY", "AS IDENTITY"))
            columns.append(Column(name, _short(data_type), not required, None))
    return _not_null(tuple(columns), ", ".join(keys))


def _items(body: str) -> Iterator[str]:
    """What stands between the commas of a column list, not looking into brackets."""
    depth, begin = 0, 0
    for position, character in enumerate(body):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            yield body[begin:position].strip()
            begin = position + 1
    yield body[begin:].strip()


def _not_null(columns: tuple[Column, ...], key: str) -> tuple[Column, ...]:
    names = {name.strip() for name in key.split(",")}
    return tuple(replace(column, nullable=False) if column.name in names else column for column in columns)


def _short(data_type: str) -> str:
    return data_type.replace("timestamp with time zone", "timestamptz").replace(", ", ",")
