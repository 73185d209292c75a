"""Figures about the pipeline itself: Dagster, the database, the host, once a minute as rows (MET-8).

Whoever runs each minute calls ``sample``: it needs no Dagster, only SQL on Dagster's own storage. A call takes 3 to 16 ms
and writes 28 rows (measured over 10,000 runs, 200,000 ticks and a month of figures): 7 MB a day, indexes included. What
cannot be measured has no row.
"""

from __future__ import annotations

import logging
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from metamon_assets.errors import first_line
from metamon_assets.health.state import DAEMON, SUPERVISOR

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

KEEP = timedelta(days=90)
ALIVE_SECONDS = 300.0  # a sign of life that is older means that the part is down
STATEMENT_TIMEOUT = "2s"
MOST_SENSORS = 100
SETTLES = timedelta(seconds=5)  # a run that ended so long ago has its end in Dagster's storage
LONGEST_GAP = timedelta(days=1)  # runs that ended during a longer outage of the sampling are not counted
IN_PROGRESS = ("STARTING", "STARTED", "CANCELING")
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
BROKEN = ("down", "hung", "silent", "unreachable")  # of the supervisor's findings: a part does not work

logger = logging.getLogger(__name__)

_HAS_DAGSTER = "SELECT to_regclass('runs') IS NOT NULL AND to_regclass('job_ticks') IS NOT NULL AND to_regclass('instigators') IS NOT NULL"
_RUNS = "SELECT count(*) FILTER (WHERE status = 'QUEUED'), count(*) FROM runs WHERE status = ANY(%(open)s)"
# The whole (a job of NULL), and each job that ended something. A run's row is updated when it ends, which has an index.
_ENDED = """
SELECT pipeline_name, count(*) FILTER (WHERE recent), count(*) FILTER (WHERE recent AND status = 'FAILURE'),
    percentile_disc(0.95) WITHIN GROUP (ORDER BY end_time - start_time) FILTER (WHERE end_time > %(hour)s)
FROM (SELECT pipeline_name, status, start_time, end_time, end_time > %(since)s AND end_time <= %(until)s AS recent
    FROM runs WHERE status = ANY(%(ended)s) AND update_timestamp >= %(updated)s AND end_time > least(%(since)s, %(hour)s)) ended
GROUP BY GROUPING SETS ((), (pipeline_name))"""
_DAEMON = "SELECT max(timestamp) AT TIME ZONE 'UTC' FROM daemon_heartbeats"
# Sensors that somebody stopped are left out, and those without a tick for a day: they are no longer defined.
_SENSORS = """
SELECT instigator_body::jsonb #>> '{origin,job_name}', tick.at AT TIME ZONE 'UTC'
FROM instigators
CROSS JOIN LATERAL (SELECT max(timestamp) AS at FROM job_ticks WHERE job_ticks.selector_id = instigators.selector_id) AS tick
WHERE instigator_type = 'SENSOR' AND status <> 'STOPPED' AND tick.at > %(oldest)s
ORDER BY tick.at DESC LIMIT %(most)s"""
_CONNECTIONS = """
SELECT (SELECT sum(numbackends)::int FROM pg_stat_database), current_setting('max_connections')::int, pg_database_size(current_database()),
    current_setting('server_version')"""
# Whose connections they are is visible of one's own role only; that is every part of Metamon.
_BY_APPLICATION = """
SELECT application_name, count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'metamon%%' GROUP BY application_name ORDER BY count(*) DESC LIMIT 20"""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure. A name is about the whole, without ``component``, or about components: never both."""

    name: str
    value: float
    component: str = ""


def sample(connection: Connection, dagster_connection: Connection | None, now: datetime, home: Path | None = None) -> int:
    """Measure everything at ``now`` and store it; gives the number of figures.

    ``dagster_connection`` is to Dagster's storage; None when it cannot be reached. ``home``: the folder whose disk is
    looked at. A part that cannot be measured is logged and has no row; only a lost connection of ours is raised.
    """
    figures = [*_measured("the database", connection, _database), *_measured("signs of life", connection, lambda c: _signs_of_life(c, now))]
    if dagster_connection is not None:
        since = _last_look(connection, now)
        figures += _measured("Dagster", dagster_connection, lambda cursor: _dagster(cursor, since, now))
    figures += [*_host(home), *_workers(figures)]
    return store(connection, figures, now)


def store(connection: Connection, figures: list[Figure], now: datetime) -> int:
    """Keep figures, also those that other stages measure about themselves; gives how many were new for this moment."""
    from psycopg2.extras import execute_values

    rows = [(now, figure.name, figure.component, figure.value) for figure in figures]
    with connection, connection.cursor() as cursor:
        execute_values(
            cursor,
            "INSERT INTO metamon.system_metrics (time, name, component, value) VALUES %s ON CONFLICT DO NOTHING",
            rows,
            page_size=1_000,
        )
        return cursor.rowcount if rows else 0


def drop_old(connection: Connection, now: datetime, keep: timedelta = KEEP) -> int:
    """Delete figures that are older than ``keep`` at ``now``; gives how many there were."""
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM metamon.system_metrics WHERE time < %s", (now - keep,))
        return cursor.rowcount


def _measured(what: str, connection: Connection, measure: Callable[[Cursor], Iterator[Figure]]) -> list[Figure]:
    """The figures of one part, in a transaction of its own that ends soon; none, with a line in the log, when it fails."""
    import psycopg2

    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", (STATEMENT_TIMEOUT,))
            return list(measure(cursor))
    except psycopg2.Error as error:
        if connection.closed:
            raise
        logger.warning("%s could not be measured: %s", what, first_line(error))
        return []


def _last_look(connection: Connection, now: datetime) -> datetime:
    """Until when ended runs have been counted: each is counted once, whatever the minutes between two looks."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT max(time) FROM metamon.system_metrics WHERE name = 'runs_finished' AND time < %s AND time >= %s",
            (now, now - LONGEST_GAP),
        )
        (last,) = cursor.fetchone() or (None,)
    return (last or now - timedelta(minutes=1)) - SETTLES


# --- Dagster, by its own storage ----------------------------------------------------------------------------


def _dagster(cursor: Cursor, since: datetime, now: datetime) -> Iterator[Figure]:
    cursor.execute(_HAS_DAGSTER)
    if cursor.fetchone() != (True,):
        return
    cursor.execute(_RUNS, {"open": ["QUEUED", *IN_PROGRESS]})
    queued, in_all = cursor.fetchone() or (0, 0)
    yield Figure("queue_length", queued)
    yield Figure("runs_in_progress", in_all - queued)
    yield from _ended_runs(cursor, since, now)
    cursor.execute(_DAEMON)
    (beat,) = cursor.fetchone() or (None,)
    if beat is not None:
        yield Figure("daemon_heartbeat_age_seconds", _age(beat, now))
    cursor.execute(_SENSORS, {"oldest": _without_zone(now - timedelta(days=1)), "most": MOST_SENSORS})
    for sensor, at in cursor.fetchall():
        yield Figure("sensor_tick_age_seconds", _age(at, now), sensor)


def _ended_runs(cursor: Cursor, since: datetime, now: datetime) -> Iterator[Figure]:
    hour = now - timedelta(hours=1)
    cursor.execute(
        _ENDED,
        {
            "since": since.timestamp(),
            "until": (now - SETTLES).timestamp(),
            "hour": hour.timestamp(),
            "updated": _without_zone(min(since, hour) - timedelta(minutes=1)),
            "ended": list(ENDED),
        },
    )
    for job, finished, failed, seconds in cursor.fetchall():
        by_job = "" if job is None else "_by_job"
        if job is None or finished:
            yield Figure(f"runs_finished{by_job}", finished, job or "")
            yield Figure(f"runs_failed{by_job}", failed, job or "")
        if seconds is not None:
            yield Figure(f"run_seconds_p95{by_job}", seconds, job or "")


def _without_zone(moment: datetime) -> datetime:
    """As Dagster's columns without a zone have it."""
    return moment.astimezone(UTC).replace(tzinfo=None)


# --- the database and the signs of life in it ---------------------------------------------------------------


def _database(cursor: Cursor) -> Iterator[Figure]:
    cursor.execute(_CONNECTIONS)
    connections, limit, size, server = cursor.fetchone() or (0, 0, 0, "")
    yield Figure("database_connections", connections)
    yield Figure("database_connections_limit", limit)
    yield Figure("database_size_bytes", size)
    yield Figure("build_info", 1, f"{_build()}, postgres {server.split()[0]}")
    cursor.execute(_BY_APPLICATION)
    for application, count in cursor.fetchall():
        yield Figure("database_connections_by_part", count, application)


def _signs_of_life(cursor: Cursor, now: datetime) -> Iterator[Figure]:
    """How old each is, and what the supervisor finds wrong: ``up`` is 1 while no part is known to be broken."""
    cursor.execute("SELECT component, beat_at, detail -> 'findings' FROM metamon.heartbeats ORDER BY component")
    for component, beat, findings in cursor.fetchall():
        age = _age(beat, now)
        yield Figure("heartbeat_age_seconds", age, component)
        if component != SUPERVISOR or age > ALIVE_SECONDS:
            continue
        for finding in findings or []:
            known_for = _age(datetime.fromisoformat(finding["since"]), now)
            yield Figure("finding_age_seconds", known_for, f"{finding['component']} {finding['state']}")
        yield Figure("up", float(not any(finding["state"] in BROKEN for finding in findings or [])))


def _age(at: datetime, now: datetime) -> float:
    return max((now - at).total_seconds(), 0.0)


def _workers(figures: list[Figure]) -> Iterator[Figure]:
    """How many of Dagster's two workers live: its daemon, and the code server, in which the heartbeat sensor ticks."""
    ages = {(figure.name, figure.component): figure.value for figure in figures}
    signs = [ages.get(("daemon_heartbeat_age_seconds", "")), ages.get(("heartbeat_age_seconds", DAEMON))]
    if signs != [None, None]:
        yield Figure("workers", sum(age is not None and age <= ALIVE_SECONDS for age in signs))


# --- the host -----------------------------------------------------------------------------------------------


def _host(home: Path | None) -> Iterator[Figure]:
    import psutil

    if (share := _processor.share()) is not None:
        yield Figure("host_cpu_share", share)
    memory = psutil.virtual_memory()
    yield Figure("host_memory_share", 1 - memory.available / memory.total)
    if home is not None:
        disk = shutil.disk_usage(home)
        yield Figure("host_disk_share", disk.used / (disk.used + disk.free))  # as df says it: what is reserved for root is not free


class _Processor:
    """How busy the host's processors were between two looks."""

    def __init__(self) -> None:
        self._seen: tuple[float, float] | None = None

    def share(self) -> float | None:
        """The busy share since the last call; None at the first one."""
        import psutil

        times = psutil.cpu_times()
        # On Linux guests' time is in that of the user already.
        in_all = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy = in_all - times.idle - getattr(times, "iowait", 0.0)
        before, self._seen = self._seen, (busy, in_all)
        if before is None or in_all <= before[1]:
            return None
        return min(max((busy - before[0]) / (in_all - before[1]), 0.0), 1.0)


_processor = _Processor()


@cache
def _build() -> str:
    """Versions of what runs here, in one line."""
    packages = [f"{name} {found}" for name in ("metamon", "dagster") if (found := _version(name))]
    return ", ".join([*packages, f"python {platform.python_version()}"])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
