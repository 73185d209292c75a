"""A Postgres of somebody's own: the oldest that is supported does all that the embedded one does."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metamon_assets.config import Settings
from metamon_assets.warehouse import connect, migrations, server
from metamon_assets.warehouse.migrations import MigrationError, migrate, migration_files, sql_folder
from metamon_assets.warehouse.postgres import installed_binaries
from metamon_assets.warehouse.roles import ANALYST, OWNER, WRITER, RolesError


def _old_binaries() -> Path:
    """Postgres 15 where the system has it, else the older of the two in the wheel (16)."""
    system = Path("/usr/lib/postgresql/15/bin")
    return system if (system / "initdb").exists() else installed_binaries().parents[1] / "pginstall" / "bin"


@pytest.fixture(scope="module")
def old_server(new_home: Callable[[str], Path]) -> Iterator[str]:
    """Address of an older server's empty database, for an ordinary user who may create roles and databases."""
    folder = new_home("metamon-old-")
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def run(command: str, *arguments: str) -> None:
        environment = os.environ | {"LC_ALL": "C"}
        subprocess.run(
            [_old_binaries() / command, *arguments], check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL, **identity
        )

    run("initdb", "-D", "data", "-U", "admin", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
    run("pg_ctl", "start", "-w", "-D", "data", "-l", "log", "-o", f"-h '' -k {folder} -F -c timezone=Asia/Tokyo")
    try:
        administrator = connect(f"postgresql://admin@/postgres?host={folder}")
        administrator.autocommit = True
        with administrator.cursor() as cursor:
            cursor.execute("CREATE ROLE platform LOGIN CREATEROLE CREATEDB")
            cursor.execute("CREATE ROLE plain LOGIN")
            cursor.execute('CREATE DATABASE "agents" OWNER platform')
        administrator.close()
        yield f"postgresql://platform@/agents?host={folder}"
    finally:
        run("pg_ctl", "stop", "-D", "data", "-m", "fast")


def settings_for(tmp_path: Path, **environment: str) -> Settings:
    return Settings.load({"METAMON_HOME": str(tmp_path), **environment})


def current_user(url: str) -> tuple[str, str]:
    connection = connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_user::text, current_setting('TimeZone')")
        (answer,) = cursor.fetchall()
    connection.close()
    return answer


def test_the_oldest_server_takes_all_migrations_and_roles(old_server: str, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, METAMON_DATABASE_URL=old_server)
    with pytest.raises(RolesError, match=r"The database user plain may not set up .*CREATE ROLE metamon_owner NOLOGIN"):
        migrate(old_server.replace("platform@", "plain@"))
    with server.running(settings) as url:
        applied = server.bring_up_to_date(settings)
        assert applied[: len(migration_files(sql_folder()))] == [file.name for file in migration_files(sql_folder())]
        assert server.bring_up_to_date(settings) == []
        assert current_user(url) == ("platform", "UTC")
    with server.ready(settings) as url:
        assert current_user(url) == (WRITER, "UTC")
    assert current_user(server.database_url(settings, WRITER)) == (WRITER, "UTC")
    assert current_user(server.database_url(settings, ANALYST)) == (ANALYST, "UTC")
    connection = connect(old_server)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {WRITER}")
        cursor.execute("SELECT metamon.begin_partition('payloads', '2026-08-23')")
        cursor.execute("SELECT metamon.attach_partition('payloads', '2026-08-23')")
        cursor.execute("SELECT count(*) FROM metamon.payloads")
        assert cursor.fetchone() == (0,)
        cursor.execute("SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = 'metamon.traces'::regclass")
        assert cursor.fetchone() == (OWNER,)
    connection.close()


def test_a_second_database_of_that_server_finds_the_roles_made(old_server: str) -> None:
    connection = connect(old_server)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE second")
    connection.close()
    assert migrate(old_server.replace("/agents?", "/second?"))


def test_a_server_that_is_too_old_is_refused(old_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "OLDEST_SERVER", 990_000)
    with pytest.raises(MigrationError, match=r"The server is Postgres 1[56]; Metamon needs 99 or newer"):
        migrate(old_server)
