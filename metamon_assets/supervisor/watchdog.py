"""The look at signs of life: who is dead, who lives and does nothing, which sensors stand still.

It reads ``metamon.heartbeats`` and, with plain SQL, the heartbeats and ticks in Dagster's own storage. ``look`` asks
the database; ``Watchdog.judge`` knows neither database nor processes. What is found stands in the row ``supervisor``
of ``metamon.heartbeats`` (``detail -> 'findings'``), where alerts read it; that row grows old when the supervisor dies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from metamon_assets import log
from metamon_assets.errors import MetamonError
from metamon_assets.supervisor.plan import DAGSTER_DAEMON
from metamon_assets.supervisor.processes import Child, Elsewhere

if TYPE_CHECKING:
    from metamon_assets.config import Settings

COMPONENT = "supervisor"
SILENCE_SECONDS = 300.0  # a sign of life that did not change for so long
LONGEST_PATIENCE_SECONDS = 3_600.0
REPEATED_FAILURES = 3  # in a row; fewer are told when they happen and mended by the restart
TIMEOUT_SECONDS = 10
SENSOR_PREFIX = "sensor "
HEARTBEAT = f"{SENSOR_PREFIX}heartbeat"  # of health.sensors: it does nothing but tick

State = Literal["down", "hung", "silent", "stale", "unreachable", "full"]
MISSING_TABLES = "SELECT to_regclass('daemon_heartbeats') IS NULL OR to_regclass('job_ticks') IS NULL OR to_regclass('instigators') IS NULL"
DAEMON_BEAT = "SELECT max(timestamp) AT TIME ZONE 'UTC' FROM daemon_heartbeats"
# Sensors that somebody stopped, or that look less often than silence is noticed, are left out.
SENSOR_TICKS = """
SELECT instigator_body::jsonb #>> '{origin,job_name}' AS name, tick.at AT TIME ZONE 'UTC'
FROM instigators
CROSS JOIN LATERAL (SELECT max(timestamp) AS at FROM job_ticks WHERE job_ticks.selector_id = instigators.selector_id) AS tick
WHERE instigator_type = 'SENSOR' AND status <> 'STOPPED' AND tick.at IS NOT NULL
AND (instigator_body::jsonb #>> '{job_specific_data,min_interval}')::float8 <= %s
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    component: str
    state: State
    detail: str
    since: datetime = field(default_factory=lambda: datetime.now(UTC), compare=False)

    def words(self) -> dict[str, str]:
        """For the database, ``metamon status`` and the log."""
        return {"component": self.component, "state": self.state, "since": log.timestamp(self.since), "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look saw: the last sign of life by name, or why nothing could be seen."""

    beats: Mapping[str, datetime] = field(default_factory=dict)
    trouble: str | None = None


def look(settings: Settings, findings: Sequence[Finding]) -> Sight:
    """One round in the database, in a thread of its own: tell what was found last, read who gave signs of life.

    What is found here is told to people by ``metamon alerts``, which needs no Dagster either, and which this watches.
    """
    from psycopg2 import Error

    from metamon_assets.health.state import beat
    from metamon_assets.warehouse import connect, server
    from metamon_assets.warehouse.roles import WRITER

    try:
        with closing(connect(server.database_url(settings, WRITER), COMPONENT, TIMEOUT_SECONDS)) as connection:
            beat(connection, COMPONENT, {"findings": [finding.words() for finding in findings]})
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT component, beat_at FROM metamon.heartbeats WHERE component <> %s", (COMPONENT,))
                beats: dict[str, datetime] = dict(cursor.fetchall())
        with (
            closing(connect(server.dagster_url(settings), COMPONENT, TIMEOUT_SECONDS)) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(MISSING_TABLES)
            if not (cursor.fetchone() or (True,))[0]:
                cursor.execute(DAEMON_BEAT)
                beats[DAGSTER_DAEMON] = (cursor.fetchone() or (None,))[0]
                cursor.execute(SENSOR_TICKS, (SILENCE_SECONDS,))
                beats |= {f"{SENSOR_PREFIX}{name}": at for name, at in cursor.fetchall()}
    except (Error, MetamonError) as error:
        return Sight(trouble=str(error).strip() or type(error).__name__)
    return Sight({name: at for name, at in beats.items() if at is not None})


class Watchdog:
    """Remembers when each sign of life last changed, by the clock that neither sleeps nor jumps."""

    def __init__(self, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._silence = silence_seconds
        self._seen: dict[str, tuple[datetime, float]] = {}
        self._changed = {HEARTBEAT}  # signs given in our time, not left from an earlier one; that of the heartbeat sensor is due
        self._looked = 0.0
        self.findings: list[Finding] = []

    def judge(self, sight: Sight, watched: Sequence[Child | Elsewhere], now: float, known: Sequence[Finding] = ()) -> list[Child]:
        """Bring ``findings`` up to date at ``now`` (of the monotonic clock, seconds); gives our children that hang.

        ``known`` is what was found elsewhere.
        """
        if sight.trouble is not None:
            self._looked = 0.0  # while nobody can give signs of life, nobody is silent
            self._keep([*known, *repeatedly_down(watched), Finding("database", "unreachable", sight.trouble)])
            return []
        self._remember(sight, now)
        silent = [one for one in watched if self._is_silent(one, now)]
        for one in watched:
            if one.beat in self._seen and self._seen[one.beat][1] > one.started:
                one.hangs = 0  # it has given a sign of life since its start
        found = [*known, *repeatedly_down(watched), *(self._silence_of(one, now) for one in silent)]
        if not any(one.beat == DAGSTER_DAEMON for one in silent):
            found += self._stale_sensors(watched, now)
        self._keep(found)
        return [one for one in silent if isinstance(one, Child)]

    def _remember(self, sight: Sight, now: float) -> None:
        self._looked = self._looked or now
        for name, at in sight.beats.items():
            if name not in self._seen or self._seen[name][0] != at:
                self._changed |= {name} & self._seen.keys()
                self._seen[name] = (at, now)

    def _is_silent(self, one: Child | Elsewhere, now: float) -> bool:
        patience = min(self._silence * 2**one.hangs, LONGEST_PATIENCE_SECONDS)
        return one.beat is not None and one.running and self._quiet(one.beat, one.started, now) > patience

    def _quiet(self, beat: str, started: float, now: float) -> float:
        """How long there was no sign of life although there could have been, in seconds."""
        return now - max(started, self._looked, self._seen[beat][1] if beat in self._seen else 0.0)

    def _silence_of(self, one: Child | Elsewhere, now: float) -> Finding:
        assert one.beat is not None
        words = f"no sign of life for {self._quiet(one.beat, one.started, now) / 60:.0f} minutes"
        if isinstance(one, Elsewhere):
            return Finding(one.name, "silent", f"{words}: it is down, or hangs")
        return Finding(one.name, "hung", f"process {one.pid} runs, but has given {words}: it is started again")

    def _stale_sensors(self, watched: Sequence[Child | Elsewhere], now: float) -> Iterator[Finding]:
        """Sensors that ticked and do not any more while the daemon lives, and the heartbeat sensor in any case."""
        daemon = next((one for one in watched if one.beat == DAGSTER_DAEMON), None)
        if daemon is None or not daemon.running:
            return
        for name in sorted(self._changed):
            if name.startswith(SENSOR_PREFIX) and self._quiet(name, daemon.started, now) > 2 * self._silence:
                last = f"last tick {self._seen[name][0]:%Y-%m-%d %H:%M:%S} UTC" if name in self._seen else "no tick yet"
                advice = "is it stopped in the Dagster UI? See its ticks there, and `metamon logs --component code-server`"
                yield Finding(name, "stale", f"{last}; {advice}")

    def _keep(self, found: Sequence[Finding]) -> None:
        """The new findings, each since it was first found in its state."""
        before = {(finding.component, finding.state): finding.since for finding in self.findings}
        self.findings = [Finding(one.component, one.state, one.detail, before.get((one.component, one.state), one.since)) for one in found]


def news(before: Sequence[Finding], after: Sequence[Finding]) -> Iterator[tuple[str, str, Finding]]:
    """What is to be told when findings change: level, text, and which finding it is about."""
    known, present = ({(one.component, one.state) for one in some} for some in (before, after))
    for one in after:
        if (one.component, one.state) not in known:
            yield "error", f"{one.component} is {one.state}: {one.detail}", one
    for one in before:
        if (one.component, one.state) not in present:
            yield "info", f"{one.component} is no longer {one.state}, which it was since {log.timestamp(one.since)}", one


def repeatedly_down(watched: Sequence[Child | Elsewhere]) -> list[Finding]:
    """Those that end again and again."""
    advice = "see `metamon logs --component"
    return [
        Finding(one.name, "down", f"ended {one.failures} times in a row, last: {one.last_exit}; {advice} {one.name}`")
        for one in watched
        if not one.running and one.failures >= REPEATED_FAILURES
    ]
