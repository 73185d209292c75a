"""Migrations: once, in order, whole or not at all, and never against another history."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import sql

from metamon_assets.warehouse import connect
from metamon_assets.warehouse.migrations import MigrationError, migrate, migration_files, sql_folder, view_files
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.warehouse.roles import ANALYST, OWNER

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def empty(postgres: EmbeddedPostgres) -> Iterator[str]:
    """Administrator's URL of a database without anything in it."""
    name = f"empty_{uuid.uuid4().hex[:12]}"
    administrator = connect(postgres.url("postgres", ADMINISTRATOR))
    administrator.autocommit = True
    with administrator.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield postgres.url(name, ADMINISTRATOR)
        cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    administrator.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of sql/ to change."""
    return Path(shutil.copytree(sql_folder(), tmp_path / "sql"))


def query(url: str, statement: str) -> list[tuple]:
    connection = connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_a_new_database_gets_everything_once(empty: str) -> None:
    files = [file.name for file in (*migration_files(sql_folder()), *view_files(sql_folder()))]
    assert migrate(empty, dry_run=True) == files
    assert query(empty, "SELECT to_regnamespace('metamon')::text") == [(None,)]
    assert migrate(empty) == files
    assert migrate(empty) == []
    assert migrate(empty, dry_run=True) == []
    assert query(empty, "SELECT array_agg(name ORDER BY name) FROM metamon.schema_migrations") == [(sorted(files),)]
    assert query(empty, "SELECT array_agg(subject ORDER BY audit_id) FROM metamon.audit_log WHERE action = 'migrate'") == [
        ([f"sql:{name}" for name in files],)
    ]


def test_a_new_migration_is_applied_alone_and_views_follow(owned_database: str, folder: Path) -> None:
    number = len(migration_files(folder)) + 1
    (folder / "migrations" / f"{number:04d}_more.sql").write_text("ALTER TABLE metamon.traces ADD COLUMN region text;")
    pending = [f"{number:04d}_more.sql", *(file.name for file in view_files(folder))]
    assert migrate(owned_database, folder, dry_run=True) == pending
    assert migrate(owned_database, folder) == pending


def test_a_migration_that_fails_leaves_nothing_behind(owned_database: str, folder: Path) -> None:
    number = len(migration_files(folder)) + 1
    (folder / "migrations" / f"{number:04d}_good.sql").write_text("CREATE TABLE metamon.good (a int);")
    (folder / "migrations" / f"{number + 1:04d}_bad.sql").write_text("CREATE TABLE metamon.half (a int); SELECT 1 / 0;")
    with pytest.raises(MigrationError, match=rf"{number + 1:04d}_bad.sql failed and was rolled back: division by zero"):
        migrate(owned_database, folder)
    assert query(owned_database, "SELECT to_regclass('metamon.good')::text, to_regclass('metamon.half')::text") == [("metamon.good", None)]
    assert migrate(owned_database, folder, dry_run=True)[0] == f"{number + 1:04d}_bad.sql"


def test_a_changed_file_is_refused(owned_database: str, folder: Path) -> None:
    path = folder / "migrations" / "0001_schemas.sql"
    path.write_text(path.read_text() + "-- an afterthought\n")
    with pytest.raises(MigrationError, match=r"0001_schemas.sql was changed after it was applied"):
        migrate(owned_database, folder)


def test_a_missing_file_is_refused(owned_database: str, folder: Path) -> None:
    last = migration_files(folder)[-1].name
    (folder / "migrations" / last).unlink()
    with pytest.raises(MigrationError, match=f"The database has {last}, which the files lack: a newer Metamon made it"):
        migrate(owned_database, folder)


def test_another_history_is_refused(owned_database: str, folder: Path) -> None:
    (folder / "migrations" / "0002_traces.sql").rename(folder / "migrations" / "0002_trails.sql")
    with pytest.raises(MigrationError, match=r"The database has 0002_traces.sql where the files have 0002_trails.sql"):
        migrate(owned_database, folder)


@pytest.mark.parametrize("name", ["0001_again.sql", "0099_gap.sql", "later.sql"])
def test_files_out_of_order_are_refused_before_anything_is_done(owned_database: str, folder: Path, name: str) -> None:
    (folder / "migrations" / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError, match=r"migrations are named NNNN_name.sql, without gaps"):
        migrate(owned_database, folder)


def test_two_at_once_apply_everything_once(empty: str) -> None:
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate(empty))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(len, applied)) == [0, 0, len(migrate_all())]


def migrate_all() -> list[str]:
    return [file.name for file in (*migration_files(sql_folder()), *view_files(sql_folder()))]


def test_changed_views_are_replaced_also_when_a_column_goes(postgres: EmbeddedPostgres, owned_database: str, folder: Path) -> None:
    path = folder / "views" / "records.sql"
    path.write_text(path.read_text().replace("metadata, observed_time", "observed_time"))
    assert migrate(owned_database, folder) == ["views/records.sql"]
    assert query(
        owned_database, "SELECT count(*) FROM pg_attribute WHERE attrelid = 'analytics.events'::regclass AND attname = 'metadata'"
    ) == [(0,)]
    assert migrate(owned_database, folder) == []
    assert query(owned_database, f"SELECT has_table_privilege('{ANALYST}', 'analytics.events', 'SELECT')") == [(True,)]


def test_a_view_of_somebody_on_ours_is_named_and_kept(owned_database: str, folder: Path) -> None:
    query(owned_database, "CREATE SCHEMA theirs")
    query(owned_database, "CREATE VIEW theirs.own AS SELECT metadata FROM analytics.events")
    path = folder / "views" / "records.sql"
    path.write_text(path.read_text().replace("metadata, observed_time", "observed_time"))
    with pytest.raises(MigrationError, match=r"view theirs.own depends on view (analytics\.)?events"):
        migrate(owned_database, folder)
    assert query(owned_database, "SELECT * FROM theirs.own") == []


def test_everything_is_made_by_the_owner_whoever_connects(empty: str) -> None:
    migrate(empty)
    owners = (
        "SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class WHERE relnamespace::regnamespace::text IN ('metamon', 'analytics')"
    )
    assert query(empty, owners) == [(OWNER,)]


def test_an_unreachable_database_raises_what_the_driver_says() -> None:
    with pytest.raises(psycopg2.OperationalError):
        migrate("postgresql://nobody@/nothing?host=/nonexistent")


def test_the_wheel_carries_the_sql(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=REPOSITORY, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    unpacked = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(unpacked)
    program = "from metamon_assets.warehouse.migrations import *; print(*[file.name for file in migration_files(sql_folder())])"
    found = subprocess.run([sys.executable, "-c", program], cwd=unpacked, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [file.name for file in migration_files(sql_folder())]
