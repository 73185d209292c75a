"""Bringing a database to the shape that ``sql/`` describes: migrations once and in order, views whenever they changed.

Here belongs the runner. The shape itself is plain SQL: ``sql/migrations/NNNN_name.sql``, each applied in one
transaction as ``metamon_owner`` and remembered with its checksum in ``metamon.schema_migrations``;
``sql/views/*.sql``, made of CREATE OR REPLACE VIEW and comments, applied after them.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection

logger = logging.getLogger(__name__)
NAME = re.compile(r"\d{4}_[a-z0-9_]+\.sql")
LOCK = "SELECT pg_advisory_lock(hashtextextended('metamon:migrate', 0))"
OLDEST_SERVER = 150000


class MigrationError(MetamonError):
    """The database could not be brought up to date and stays as it was; the message says what, where, how to mend it."""


@dataclass(frozen=True, slots=True)
class SqlFile:
    """A file of ``sql/``: its name below that folder, its text and the text's SHA-256."""

    name: str
    text: str
    checksum: str


def sql_folder() -> Path:
    """The folder ``sql``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "sql", package.parent / "sql"):
        if (folder / "migrations").is_dir():
            return folder
    raise MigrationError(f"The folder sql/migrations is neither in {package} nor beside it: install Metamon again.")


def migration_files(folder: Path) -> list[SqlFile]:
    """The migrations of ``folder`` in order. Raises MigrationError on odd names, gaps and doubles."""
    files = [_read(path, path.name) for path in sorted((folder / "migrations").glob("*.sql"))]
    for position, file in enumerate(files, start=1):
        if not NAME.fullmatch(file.name) or int(file.name[:4]) != position:
            raise MigrationError(
                f"{folder / 'migrations' / file.name} should be number {position:04d}: migrations are named NNNN_name.sql, without gaps."
            )
    return files


def view_files(folder: Path) -> list[SqlFile]:
    """The view definitions of ``folder``, in order of name."""
    return [_read(path, f"views/{path.name}") for path in sorted((folder / "views").glob("*.sql"))]


def migrate(url: str, folder: Path | None = None, dry_run: bool = False, progress: Callable[[str], None] = logger.info) -> list[str]:
    """Apply what the database at ``url`` lacks and return the names of those files, in order.

    Two at once: the second waits and then finds nothing to do. With ``dry_run`` nothing is changed, only listed.
    Raises MigrationError (a file was changed, lost or slipped in, or its SQL failed) and RolesError.
    """
    from metamon_assets.warehouse.connection import connect
    from metamon_assets.warehouse.roles import OWNER, ensure_roles

    folder = folder or sql_folder()
    migrations, views = migration_files(folder), view_files(folder)
    connection = connect(url, "metamon migrate")
    try:
        if connection.server_version < OLDEST_SERVER:
            raise MigrationError(
                f"The server is Postgres {connection.server_version // 10000}; Metamon needs {OLDEST_SERVER // 10000} or newer."
            )
        if dry_run:
            return _pending(_applied(connection), migrations, views)
        _execute(connection, LOCK)
        ensure_roles(connection)
        _execute(connection, f"SET ROLE {OWNER}")
        pending = _pending(_applied(connection), migrations, views)
        for file in migrations:
            if file.name in pending:
                progress(f"Applying {file.name}")
                _apply(connection, [file])
        if pending:
            _apply_views(connection, views)
        return pending
    finally:
        connection.close()  # gives up the lock


def unapplied(connection: Connection, migrations: list[SqlFile], views: list[SqlFile]) -> list[str]:
    """Names of the files that the database lacks or has in another form. Raises MigrationError as ``migrate`` does."""
    return _pending(_applied(connection), migrations, views)


def _read(path: Path, name: str) -> SqlFile:
    data = path.read_bytes()
    return SqlFile(name, data.decode(), hashlib.sha256(data).hexdigest())


def _execute(connection: Connection, statement: str) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)


def _applied(connection: Connection) -> dict[str, str]:
    """Checksums by name of what the database has; empty for a new one."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('metamon.schema_migrations') IS NOT NULL")
        if not (cursor.fetchone() or (False,))[0]:
            return {}
        cursor.execute("SELECT name, checksum FROM metamon.schema_migrations")
        return dict(cursor.fetchall())


def _pending(applied: dict[str, str], migrations: list[SqlFile], views: list[SqlFile]) -> list[str]:
    """Names of what is to be applied. Raises MigrationError when the files and the database tell different histories."""
    done = sorted(name for name in applied if not name.startswith("views/"))
    for file, name in zip(migrations, done, strict=False):
        if file.name != name:
            raise MigrationError(
                f"The database has {name} where the files have {file.name}: another version of Metamon made it. Install that one."
            )
        if file.checksum != applied[name]:
            raise MigrationError(f"{name} was changed after it was applied: restore it, put the change into a new one.")
    if len(done) > len(migrations):
        raise MigrationError(
            f"The database has {', '.join(done[len(migrations) :])}, which the files lack: a newer Metamon made it. Install that one."
        )
    pending = [file.name for file in migrations[len(done) :]]
    return pending + [file.name for file in views if pending or applied.get(file.name) != file.checksum]


def _apply(connection: Connection, files: Iterable[SqlFile], before: str = "") -> None:
    """Run ``before`` and the files in one transaction, with their entries in schema_migrations and the audit log."""
    import psycopg2

    from metamon_assets.warehouse import audit

    what = "sql/views"
    try:
        with connection, connection.cursor() as cursor:
            if before:
                cursor.execute(before)
            for file in files:
                what = file.name
                cursor.execute(file.text)
                cursor.execute(
                    "INSERT INTO metamon.schema_migrations (name, checksum) VALUES (%s, %s) "
                    "ON CONFLICT (name) DO UPDATE SET checksum = excluded.checksum, applied_at = excluded.applied_at",
                    (file.name, file.checksum),
                )
                audit.record(connection, "metamon", "migrate", f"sql:{file.name}", None, {"checksum": file.checksum})
    except psycopg2.Error as error:
        raise MigrationError(f"{what} failed and was rolled back: {str(error).strip()}") from error


def _apply_views(connection: Connection, views: list[SqlFile]) -> None:
    """All views in one transaction; where one lost or changed a column, which REPLACE refuses, the old ones go first.

    Not with CASCADE: a view that somebody built on ours is named in the error instead of lost.
    """
    from psycopg2 import errors

    try:
        _apply(connection, views)
    except MigrationError as error:
        if not isinstance(error.__cause__, errors.InvalidTableDefinition):
            raise
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT string_agg(format('analytics.%I', viewname), ', ') FROM pg_views WHERE schemaname = 'analytics'")
            (existing,) = cursor.fetchone() or (None,)
        _apply(connection, views, before=f"DROP VIEW {existing}")
