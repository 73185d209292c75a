"""What is configured, reachable, missing: ``metamon doctor`` and ``metamon status``.

Here belong the questions and how to mend what is wrong. Nothing is changed; an embedded server that is not running
is started for the look and stopped after it. No secret is shown. No Dagster is imported.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metamon_assets.config import ConfigError, LangSmithSource, Settings, SourcePart
from metamon_assets.errors import MetamonError
from metamon_assets.supervisor import SupervisorError, read_state

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection

GIGABYTE = 10**9
LITTLE_DISK = 5 * GIGABYTE
TOO_LITTLE_DISK = GIGABYTE // 2
LEDGER_ROWS = 3
TIMEOUT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the screen. ``note``: not needed, or not yet; ``broken``: something will not work."""

    subject: str
    state: Literal["ok", "note", "broken"]
    found: str
    mend: str = ""


def examine(settings: Settings, unusable: ConfigError | None = None) -> list[Finding]:
    """All findings, in the order in which they are best mended. ``unusable``: why metamon.yaml is not in the settings."""
    configuration = [_unusable(settings, unusable)] if unusable else _configuration(settings)
    return [*_machine(settings), *configuration, *_database(settings), *_processes(settings)]


def status(settings: Settings) -> dict[str, Any]:
    """Which processes of the home run, since when, what the supervisor finds wrong, and the last signs of life."""
    state = read_state(settings.home) or {}
    return {
        "home": str(settings.home),
        "ui": state.get("ui"),
        "web": state.get("web"),
        "since": state.get("since"),
        "log": state.get("log"),
        "processes": state.get("processes", []),
        "findings": state.get("findings", []),
        "postgres": _postgres_words(settings),
        "signs_of_life": _signs_of_life(settings),
    }


def must_be_alive(component: str, signs: Sequence[Mapping[str, Any]]) -> None:
    """Raise SupervisorError unless ``component`` gave one of the signs of life within five minutes."""
    from metamon_assets.supervisor.watchdog import SILENCE_SECONDS

    age = next((sign["age_seconds"] for sign in signs if sign["component"] == component), None)
    if age is None:
        known = ", ".join(sign["component"] for sign in signs) or "none at all"
        raise SupervisorError(f"{component} has given no sign of life yet, or the database cannot be reached. Known here: {known}.")
    if age > SILENCE_SECONDS:
        raise SupervisorError(f"{component} was last seen alive {age / 60:.0f} minutes ago: see its log.")


def _signs_of_life(settings: Settings) -> list[dict[str, Any]]:
    """When each part of the system was last seen alive, from the database; none while that is down. Starts nothing."""
    from psycopg2 import Error

    from metamon_assets.warehouse import connect, server
    from metamon_assets.warehouse.postgres import EmbeddedPostgres

    if settings.database_url is None and not EmbeddedPostgres(settings.home).status().running:
        return []
    try:
        with (
            closing(connect(server.database_url(settings), timeout_seconds=TIMEOUT_SECONDS)) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(
                "SELECT component, beat_at, extract(epoch FROM now() - beat_at)::float8, detail FROM metamon.heartbeats ORDER BY 1"
            )
            names = ("component", "at", "age_seconds", "detail")
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    except Error:  # Postgres stands in the same screen: it says why
        return []


def _postgres_words(settings: Settings) -> str:
    if settings.database_url is not None:
        return f"your own: {_without_password(settings.database_url.get_secret_value())}"
    from metamon_assets.warehouse.postgres import EmbeddedPostgres

    found = EmbeddedPostgres(settings.home).status()
    if found.version is None:
        return "embedded, not created yet"
    return f"embedded {found.version}, " + (f"process {found.pid}" if found.running else "not running")


def _without_password(url: str) -> str:
    """Host and database of an address, and nothing else of it."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return f"{parts.hostname or 'local socket'}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _machine(settings: Settings) -> Iterator[Finding]:
    yield Finding("Python", "ok", platform.python_version())
    nearest = settings.home
    while not nearest.exists():
        nearest = nearest.parent
    disk = shutil.disk_usage(nearest)
    if wrong := _why_no_home(nearest, disk.total):
        yield Finding("Home", "broken", f"{settings.home}: {nearest} {wrong}", "set METAMON_HOME to a folder of yours")
        return
    yield Finding("Home", "ok", f"{settings.home}{'' if settings.home.exists() else ' (not made yet)'}")
    yield _disk(disk.free)


def _why_no_home(nearest: Path, size: int) -> str:
    """What keeps a home from being made at or below ``nearest``, on a disk of ``size`` bytes; empty when nothing does."""
    if not nearest.is_dir():
        return "is a file, where a folder is needed"
    if not os.access(nearest, os.W_OK):
        return "is not writable"
    return "" if size else "is not on a disk: nothing can be kept there"


def _disk(free: int) -> Finding:
    words = f"{free / GIGABYTE:.1f} GB free"
    if free < TOO_LITTLE_DISK:
        return Finding("Disk", "broken", words, "free some room, or move METAMON_HOME to a larger disk")
    if free < LITTLE_DISK:
        return Finding("Disk", "note", words, "a million traces take some gigabytes: free some room before a large backfill")
    return Finding("Disk", "ok", words)


def _unusable(settings: Settings, error: ConfigError) -> Finding:
    mistakes = str(error).strip().splitlines()
    mend = "; ".join(line.strip() for line in mistakes[1:]) or mistakes[0]
    return Finding("Configuration", "broken", f"{settings.config_path} cannot be used, so its sources are not looked at", mend)


def _configuration(settings: Settings) -> Iterator[Finding]:
    if settings.config_path.exists():
        yield Finding("Configuration", "ok", str(settings.config_path))
    else:
        yield Finding("Configuration", "note", f"no {settings.config_path}: defaults hold", "`metamon connect` writes one for your source")
    if not settings.sources:
        yield Finding("Sources", "note", "none configured", "`metamon connect` sets one up; or load files once with `metamon ingest`")
    for source in settings.sources:
        yield _source(settings, source)
    yield from _channels(settings)


def _channels(settings: Settings) -> Iterator[Finding]:
    """Whether alerts reach anybody. Nothing is sent: `metamon outbox test` does that."""
    if not settings.channels:
        yield Finding("Channels", "note", "none configured: alerts are recorded, and sent to nobody", "name channels in metamon.yaml")
    for name, channel in settings.channels.items():
        if channel.url.available:
            yield Finding(f"Channel {name}", "ok", f"{channel.type}; `metamon outbox test {name}` sends a message")
        else:
            variable = channel.url.variable
            yield Finding(f"Channel {name}", "broken", f"{channel.type}: {variable} is not set", f"export {variable}=… with its address")


def _source(settings: Settings, source: SourcePart) -> Finding:
    subject = f"Source {source.source}"
    if isinstance(source, LangSmithSource):
        return _langsmith(subject, source)
    path = settings.path_of(str(getattr(source, "path", "")))
    pattern = any(sign in path.name or sign in str(path.parent) for sign in "*?[")
    count = sum(1 for _ in _glob(path)) if pattern else 0
    if path.exists():
        return Finding(subject, "ok", f"{source.project}: {path}")
    if count:
        return Finding(subject, "ok", f"{source.project}: {count} files match {path}")
    return Finding(subject, "broken", f"{source.project}: nothing at {path}", "correct its path: in metamon.yaml")


def _glob(path: Path) -> Iterator[Path]:
    parts = path.parts
    first = next(number for number, part in enumerate(parts) if any(sign in part for sign in "*?["))
    return Path(*parts[:first]).glob(str(Path(*parts[first:])))


def _langsmith(subject: str, source: LangSmithSource) -> Finding:
    from metamon_assets.traces.sources.base import SourceError
    from metamon_assets.traces.sources.langsmith_api import DEFAULT_URL, LangSmithApi

    if not source.api_key.available:
        variable = source.api_key.variable
        return Finding(subject, "broken", f"{source.project}: {variable} is not set", f"export {variable}=… with your LangSmith key")
    api = LangSmithApi(
        api_key=source.api_key.value().get_secret_value(),
        api_url=source.endpoint or DEFAULT_URL,
        workspace_id=source.workspace_id,
        patience_seconds=5,
        timeout_seconds=10,
    )
    try:
        api.project_id(source.project)
    except SourceError as error:
        return Finding(subject, "broken", f"{source.project}: does not answer", str(error))
    return Finding(subject, "ok", f"{source.project}: answers at {source.endpoint or DEFAULT_URL}")


def _database(settings: Settings) -> Iterator[Finding]:
    from psycopg2 import OperationalError

    from metamon_assets.warehouse import connect, server
    from metamon_assets.warehouse.postgres import EmbeddedPostgres

    words = _postgres_words(settings)
    if settings.database_url is None and EmbeddedPostgres(settings.home).status().version is None:
        yield Finding("Postgres", "note", words, "`metamon run` or `metamon up` creates it")
        return
    try:
        with server.running(settings, lambda _: None) as url:
            with closing(connect(url)) as connection:
                yield Finding("Postgres", "ok", f"{words}; version {_version(connection)}")
                pending = server.bring_up_to_date(settings, dry_run=True)
                if pending:
                    yield Finding("Tables", "note", f"{len(pending)} migrations to apply: {', '.join(pending)}", "metamon migrate")
                else:
                    yield Finding("Tables", "ok", _amounts(connection))
                    yield from _ledger(connection)
            yield _dagster_storage(settings)
    except (MetamonError, OperationalError) as error:
        yield Finding("Postgres", "broken", words, str(error).strip())


def _version(connection: Connection) -> str:
    return f"{connection.server_version // 10_000}.{connection.server_version % 10_000}"


def _amounts(connection: Connection) -> str:
    """Rows by the ledger's books and days by the partitions: counting the rows themselves could take minutes."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(sum(rows_inserted), 0) FROM metamon.ingestion_ledger")
        (rows,) = cursor.fetchone() or (0,)
        cursor.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'metamon.traces'::regclass")
        (days,) = cursor.fetchone() or (0,)
    return f"up to date; {rows:,} rows of {days} days ingested" if days else "up to date; nothing ingested yet"


def _ledger(connection: Connection) -> Iterator[Finding]:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT source, project, kind, status, finished_at, rows_read, rows_rejected, message FROM metamon.ingestion_ledger "
            "ORDER BY ledger_id DESC LIMIT %s",
            (LEDGER_ROWS,),
        )
        for source, project, kind, state, finished, read, rejected, message in cursor.fetchall():
            when = f"{finished:%Y-%m-%d %H:%M} UTC" if finished else "unfinished"
            words = f"{when}: {source} {project}, {kind}: {state}, {read:,} read, {rejected:,} rejected"
            yield Finding("Last read", "note" if state == "failed" else "ok", words, message if state == "failed" and message else "")


def _dagster_storage(settings: Settings) -> Finding:
    from psycopg2 import OperationalError

    from metamon_assets.warehouse import connect, server

    try:
        with closing(connect(server.dagster_url(settings))) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('event_logs') IS NOT NULL")
            (made,) = cursor.fetchone() or (False,)
    except OperationalError as error:
        return Finding("Dagster", "broken", "its storage cannot be reached", str(error).strip())
    if not made:
        return Finding("Dagster", "note", "storage reachable, still empty", "`metamon up` or `metamon run` fills it")
    return Finding("Dagster", "ok", f"storage reachable; home {settings.dagster_home}")


def _processes(settings: Settings) -> Iterator[Finding]:
    state = read_state(settings.home) if settings.home.is_dir() else None
    if state is None:
        yield Finding("Processes", "note", "not up: no live feed, no alerts, no server, no schedules", "metamon up")
        return
    for process in state.get("processes", []):
        if process["state"] != "running":
            words = f"{process['name']}: {process['state']}, last: {process['last_exit'] or 'not started yet'}"
            yield Finding("Processes", "broken" if process["restarts"] else "note", words, f"metamon logs --component {process['name']}")
        elif process["restarts"]:
            words = f"{process['name']}: process {process['pid']}, {process['restarts']} restarts, last: {process['last_exit']}"
            yield Finding("Processes", "note", words, f"metamon logs --component {process['name']}")
        else:
            yield Finding("Processes", "ok", f"{process['name']}: process {process['pid']}")
    for found in state.get("findings", []):
        yield Finding("Watchdog", "broken", f"{found['component']} is {found['state']} since {found['since']}: {found['detail']}")
    for subject, address in (("Metamon", state.get("web")), ("Dagster UI", state.get("ui"))):
        if address:
            yield Finding(subject, "ok", address)
