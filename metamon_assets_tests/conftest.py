"""What all tests share: a real Postgres, a fresh migrated database for each test, and the shared data where it is.

Every pytest process (each xdist worker) runs a server of its own, started when the first test asks for it and
stopped when the session ends; a guard process stops it also when this process dies by kill -9.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg2 import sql

from metamon_assets.warehouse import connect
from metamon_assets.warehouse.migrations import migrate
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.warehouse.roles import OWNER, WRITER, ensure_roles

if TYPE_CHECKING:
    from metamon_assets_tests.sample import Pipeline

REPOSITORY = Path(__file__).resolve().parents[1]
# Tests must not depend on a home that somebody has here: the partitions' first day comes from the configuration.
for name in ("METAMON_CONFIG", "METAMON_DATABASE_URL"):
    os.environ.pop(name, None)
os.environ["METAMON_HOME"] = str(REPOSITORY / ".metamon-of-tests-is-not-there")
TEMPLATE = "metamon"
# Tests lose nothing by a crash of the machine, so nothing needs to reach the disk. (Tests of durability make their own server.)
TEST_SETTINGS = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "128MB", "max_wal_size": "1GB", "autovacuum": "off"}
# A test that waits for a lock of its own would wait for ever: no signal reaches Python inside a query.
TEST_SETTINGS |= {"lock_timeout": "20s", "statement_timeout": "120s"}
GUARD = """
import shutil, sys
from pathlib import Path
from metamon_assets.warehouse.postgres import EmbeddedPostgres
homes = [Path(line.rstrip("\\n")) for line in sys.stdin]  # ends when the test process closes its end, however it dies
for home in homes:
    for data in home.glob("**/postgres/data"):
        EmbeddedPostgres(data.parents[1]).stop()
    shutil.rmtree(home, ignore_errors=True)
"""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository (or METAMON_SHARED_DATA); skips where there is none."""
    return beside_the_repository("data", "METAMON_SHARED_DATA")


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """The folder of reference cases beside the repository (or METAMON_SHARED_CASES); skips where there is none."""
    return beside_the_repository("cases", "METAMON_SHARED_CASES")


def beside_the_repository(name: str, variable: str) -> Path:
    folder = Path(os.environ.get(variable, REPOSITORY.parent / "shared" / name))
    if not folder.is_dir():
        pytest.skip(f"no shared {name} in {folder}")
    return folder


@pytest.fixture(scope="session")
def new_home() -> Iterator[Callable[[str], Path]]:
    """Makes empty homes for servers (not below tmp_path, which only root may enter); none outlives the session."""
    guard = subprocess.Popen([sys.executable, "-c", GUARD], stdin=subprocess.PIPE, cwd=REPOSITORY, start_new_session=True, text=True)
    assert guard.stdin is not None
    pipe = guard.stdin

    memory = Path("/dev/shm")  # creating a cluster there takes a third of the time
    place = memory if memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30 else None

    def make(name: str) -> Path:
        home = Path(tempfile.mkdtemp(prefix=name, dir=place))
        home.chmod(0o755)
        pipe.write(f"{home}\n")
        pipe.flush()
        return home

    yield make
    pipe.close()
    guard.wait(60)


@pytest.fixture(scope="session")
def postgres(new_home: Callable[[str], Path]) -> EmbeddedPostgres:
    """A running server with a migrated database to copy."""
    server = EmbeddedPostgres(new_home("metamon-test-"), settings=TEST_SETTINGS)
    server.start()
    migrate(server.url(TEMPLATE, ADMINISTRATOR))
    return server


@pytest.fixture
def database_name(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A fresh copy of the migrated database, dropped after the test."""
    with copied(postgres, TEMPLATE) as name:
        yield name


@contextmanager
def copied(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    """A copy of a database for as long as the block lasts. Nobody may be connected to ``template``."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    administrator = connect(postgres.url("postgres", ADMINISTRATOR))
    administrator.autocommit = True  # CREATE DATABASE takes no transaction
    try:
        with administrator.cursor() as cursor:
            names = {"name": sql.Identifier(name), "template": sql.Identifier(template), "owner": sql.Identifier(OWNER)}
            cursor.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template} OWNER {owner}").format(**names))
            # Rights on a database are not copied with it.
            cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {name} FROM PUBLIC").format(**names))
            inside = connect(postgres.url(name, ADMINISTRATOR))
            ensure_roles(inside)
            inside.close()
            yield name
            cursor.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names))
    finally:
        administrator.close()


@pytest.fixture(scope="session")
def computed(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A database in which the days of ``sample`` are computed, five-minute rows included, and the home they came from."""
    from metamon_assets.metrics.completions import refresh_completion_days
    from metamon_assets.metrics.rollups import refresh_days
    from metamon_assets_tests import sample

    home = sample.write_home(tmp_path_factory.mktemp("sample") / "home")
    with copied(postgres, TEMPLATE) as name, pytest.MonkeyPatch.context() as environment:
        environment.setenv("METAMON_HOME", str(home))
        url = postgres.url(name, WRITER)
        sample.Pipeline(url).run(*sample.DAYS)
        connection = connect(url)
        soon_after = datetime.combine(sample.DAYS[-1], time(), UTC) + timedelta(days=1)
        refresh_days(connection, sample.DAYS, soon_after)
        refresh_completion_days(connection, sample.DAYS, soon_after)
        connection.close()
        yield name, home


@pytest.fixture
def pipeline(postgres: EmbeddedPostgres, computed: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """The pipeline over a copy of the ``computed`` database, with a new instance of Dagster that knows of no run."""
    from metamon_assets_tests import sample

    template, home = computed
    monkeypatch.setenv("METAMON_HOME", str(home))
    with copied(postgres, template) as name:
        yield sample.Pipeline(postgres.url(name, WRITER))


@pytest.fixture
def database(postgres: EmbeddedPostgres, database_name: str) -> str:
    """URL of a fresh migrated database, for the pipeline's role: reads and writes rows, and changes no table."""
    return postgres.url(database_name, WRITER)


@pytest.fixture
def owned_database(postgres: EmbeddedPostgres, database_name: str) -> str:
    """URL of the same database as ``database``, for the role that owns everything in it."""
    return postgres.url(database_name, OWNER)
