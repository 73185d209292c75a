"""Which Postgres a configuration means, and keeping it up while somebody needs it.

Here belongs the choice between the embedded server and one of your own, the addresses for each role, and who may
stop the embedded one: every process that uses it holds a shared lock, and the last to let go stops the server.
Running a server belongs to ``postgres``, roles and rights to ``roles``.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from metamon_assets.warehouse import configuration
from metamon_assets.warehouse.connection import SQLALCHEMY_DRIVER, connect
from metamon_assets.warehouse.migrations import migrate
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.warehouse.roles import OWNER, WRITER

if TYPE_CHECKING:
    from metamon_assets.config import Settings

logger = logging.getLogger(__name__)
Progress = Callable[[str], None]
DAGSTER_SCHEMA = "dagster"


def database_url(settings: Settings, role: str = OWNER) -> str:
    """Where ``role`` finds Metamon's database; carries a password, so never log it.

    On a server of your own the connecting user is the one in METAMON_DATABASE_URL, acting as ``role`` unless that is
    the owner.
    """
    if settings.database_url is None:
        return EmbeddedPostgres(settings.home).url(role=role)
    url = settings.database_url.get_secret_value()
    return url if role == OWNER else _with_option(url, f"role={role}")


def dagster_url(settings: Settings) -> str:
    """Where Dagster keeps its own storage, in SQLAlchemy's spelling.

    Beside a database of your own that is METAMON_DAGSTER_DATABASE_URL, else the schema ``dagster`` of the same database.
    """
    if settings.database_url is None:
        return EmbeddedPostgres(settings.home).dagster_url()
    if settings.dagster_database_url is not None:
        return _sqlalchemy(settings.dagster_database_url.get_secret_value())
    return _sqlalchemy(_with_option(settings.database_url.get_secret_value(), f"search_path={DAGSTER_SCHEMA}"))


@contextmanager
def running(settings: Settings, progress: Progress = logger.info) -> Iterator[str]:
    """The owner's address of a server that runs for as long as the block lasts.

    The embedded one is started if need be, and stopped at the end unless another process uses it too.
    Raises PostgresError.
    """
    if settings.database_url is not None:
        yield database_url(settings)
        return
    server = EmbeddedPostgres(settings.home, progress=progress)
    if not settings.home.exists():
        settings.home.mkdir(parents=True)
        settings.home.chmod(0o755)  # whatever the umask says: started by root, the server's user has to pass through
    users = os.open(settings.home / "postgres.users", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(users, fcntl.LOCK_SH)  # waits while the last user before us stops the server
        server.start()
        yield server.url()
    finally:
        stop_if_unused(settings, users)
        os.close(users)


@contextmanager
def ready(settings: Settings, progress: Progress = logger.info, *, noted: bool = True) -> Iterator[str]:
    """The pipeline's address, of a server that runs for as long as the block lasts, with the tables as this version
    needs them and, unless ``noted`` is false, a configuration that changed in the audit log.

    Raises PostgresError, MigrationError, RolesError.
    """
    with running(settings, progress):
        bring_up_to_date(settings, progress)
        url = database_url(settings, WRITER)
        if noted:
            _note_configuration(url, settings)
        yield url


def _note_configuration(url: str, settings: Settings) -> None:
    connection = connect(url)
    try:
        configuration.note(connection, settings)
    finally:
        connection.close()


def bring_up_to_date(settings: Settings, progress: Progress = logger.info, *, dry_run: bool = False) -> list[str]:
    """Apply the migrations that the running server lacks, as a user who may; gives their names."""
    url = database_url(settings) if settings.database_url else EmbeddedPostgres(settings.home).url(role=ADMINISTRATOR)
    return migrate(url, dry_run=dry_run, progress=progress)


def stop_if_unused(settings: Settings, users: int | None = None) -> bool:
    """Stop the embedded server unless a process is using it; False when one is."""
    path = settings.home / "postgres.users"
    if users is None:
        if not path.exists():
            return True
        own = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return stop_if_unused(settings, own)
        finally:
            os.close(own)
    fcntl.flock(users, fcntl.LOCK_UN)  # let go first: two that end together must not both see the other
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    EmbeddedPostgres(settings.home).stop()
    return True


def prepare_dagster_storage(settings: Settings) -> None:
    """Make the schema that Dagster's storage lives in, where it shares a database of your own."""
    if settings.database_url is None or settings.dagster_database_url is not None:
        return
    connection = connect(database_url(settings))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {DAGSTER_SCHEMA}")
    finally:
        connection.close()


def _sqlalchemy(url: str) -> str:
    return SQLALCHEMY_DRIVER + url.split("://", 1)[1]


def _with_option(url: str, option: str) -> str:
    """The address with a server setting for every session of it (libpq's ``options``)."""
    from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query["options"] = f"{query.get('options', '')} -c {option}".strip()
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))
