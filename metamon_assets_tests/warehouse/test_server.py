"""Which Postgres a configuration means, and who may stop the embedded one."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from metamon_assets.config import Settings
from metamon_assets.warehouse import connect, server
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.warehouse.roles import ANALYST, WRITER


@pytest.fixture
def own(postgres: EmbeddedPostgres, database_name: str, tmp_path: Path) -> Settings:
    """A configuration with a Postgres of one's own."""
    return Settings.load({"METAMON_HOME": str(tmp_path / "home"), "METAMON_DATABASE_URL": postgres.url(database_name, ADMINISTRATOR)})


@pytest.fixture
def embedded() -> Iterator[Settings]:
    home = Path(tempfile.mkdtemp(prefix="metamon-server-"))
    shutil.rmtree(home)
    yield Settings.load({"METAMON_HOME": str(home)})
    EmbeddedPostgres(home).stop()
    shutil.rmtree(home, ignore_errors=True)


def test_the_embedded_server_runs_while_somebody_needs_it(embedded: Settings) -> None:
    def runs() -> bool:
        return EmbeddedPostgres(embedded.home).status().running

    with server.running(embedded) as url:
        with closing(connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_user")
            assert cursor.fetchone() == ("metamon_owner",)
        with server.running(embedded):
            pass
        assert runs(), "the one that ended first stopped the server under the other"
        assert not server.stop_if_unused(embedded)
        other = os.open(embedded.home / "postgres.users", os.O_RDONLY)  # as another process that uses the server
        fcntl.flock(other, fcntl.LOCK_SH)
    assert runs()
    os.close(other)
    assert server.stop_if_unused(embedded)
    assert not runs()


def test_a_server_of_ones_own_is_never_started_stopped_or_written_beside(own: Settings) -> None:
    with server.ready(own) as url:
        assert url == server.database_url(own, WRITER)
    assert not own.home.exists()


def test_roles_on_a_server_of_ones_own(own: Settings) -> None:
    with closing(connect(server.database_url(own, ANALYST))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_user, current_setting('TimeZone')")
        assert cursor.fetchone() == ("metamon_analyst", "UTC")


def test_dagster_keeps_to_its_schema_of_a_shared_database(own: Settings) -> None:
    from dagster_postgres import PostgresRunStorage

    server.prepare_dagster_storage(own)
    server.prepare_dagster_storage(own)
    storage = PostgresRunStorage.create_clean_storage(server.dagster_url(own))
    assert storage.get_runs_count() == 0
    storage.dispose()
    with closing(connect(server.database_url(own))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'runs'")
        assert cursor.fetchall() == [("dagster",)]


def test_dagster_may_have_a_database_of_its_own(own: Settings) -> None:
    from pydantic import SecretStr

    apart = own.model_copy(update={"dagster_database_url": SecretStr("postgresql://ann:pw@db:5433/dagster?sslmode=require")})
    assert server.dagster_url(apart) == "postgresql+psycopg2://ann:pw@db:5433/dagster?sslmode=require"


def test_options_of_an_address_are_kept() -> None:
    settings = Settings.load({"METAMON_DATABASE_URL": "postgresql://db/metamon?options=-c%20statement_timeout%3D5s&sslmode=require"})
    assert server.database_url(settings, ANALYST) == (
        "postgresql://db/metamon?options=-c%20statement_timeout%3D5s%20-c%20role%3Dmetamon_analyst&sslmode=require"
    )
