"""One look at everything: detectors learn what has closed, rules are judged, incidents open, go on and end.

``tick`` is called each minute, by the process ``metamon alerts`` and, where that is not running, by a Dagster sensor; whoever comes first
does the work. It is bounded in time and moves ``metamon.alert_progress`` forward only over what it has handled. After an outage it goes
through the missed buckets one by one, in portions of ``CHUNK``, with rules judged at the end of each; what was over by then is recorded
and paged to nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import orjson

from metamon_assets.alerts import detection, incidents, sources
from metamon_assets.alerts.detection import GRACE, Detection, Finding
from metamon_assets.alerts.incidents import STALE, Observation
from metamon_assets.alerts.rules import evaluate
from metamon_assets.alerts.series import KEPT, Buckets
from metamon_assets.alerts.shadow import Newcomers
from metamon_assets.alerts.signals import SIGNALS, Look
from metamon_assets.metrics.completions import BUCKET, bucket_of

if TYPE_CHECKING:
    from metamon_assets.alerts.catalogue import Catalogue
    from metamon_assets.alerts.routing import Policy
    from metamon_assets.health.slo import Burn
    from metamon_assets.traces.security import Flagged
    from metamon_assets.warehouse.connection import Connection, Cursor

logger = logging.getLogger(__name__)

CHUNK = timedelta(hours=6)  # of buckets that are read at once while catching up
SECONDS = 20.0  # after which a tick that catches up leaves the rest to the next one
STATEMENT_TIMEOUT = "15s"
KEEP_WITHOUT_DATA = timedelta(hours=6)  # for which an incident of a rule stays open that has nothing to judge any more
FLAGS = timedelta(hours=1)  # of security flags that are looked at: read late, they are told late
_LOCK = "hashtextextended('metamon:alerts', 0)"


@dataclass(frozen=True, slots=True)
class Ticked:
    """What a tick did. ``reached``: everything before has been looked at; ``busy``: somebody else is at it."""

    reached: datetime | None = None
    buckets: int = 0
    series: int = 0
    findings: int = 0
    happened: Sequence[tuple[int, str]] = ()
    seconds: float = 0.0
    busy: bool = False

    @property
    def words(self) -> str:
        """In one line, for people."""
        if self.busy:
            return "another process is looking"
        events = ", ".join(f"incident {number} {event}" for number, event in self.happened) or "nothing happened"
        return f"{self.series} series, {self.buckets} buckets closed, {self.findings} out of their range; {events} ({self.seconds:.2f} s)"


@dataclass(slots=True)
class Watcher:
    """What a process remembers between its ticks: buckets of the last day and detectors. Give each tick the same one."""

    catalogue: Catalogue
    policy: Policy
    shadow_hours: float = 48.0
    buckets: Buckets = field(init=False)
    detection: Detection = field(default_factory=Detection)
    newcomers: Newcomers = field(default_factory=Newcomers)

    def __post_init__(self) -> None:
        rules = self.catalogue.enabled.values()
        limits = {rule.threshold for rule in rules if SIGNALS[rule.metric].kind == "quantile" and rule.threshold is not None}
        self.buckets = Buckets(tuple(sorted(limits)))


def last_tick(cursor: Cursor) -> datetime | None:
    """When anybody last finished a tick."""
    cursor.execute("SELECT ticked_at FROM metamon.alert_progress WHERE work = 'tick'")
    row = cursor.fetchone()
    return row[0] if row else None


def tick(connection: Connection, watcher: Watcher, now: datetime, *, seconds: float = SECONDS) -> Ticked:
    """Look at everything that has happened by ``now``, in about ``seconds``; what is left is caught up with by the next ticks.

    Raises psycopg2's errors; nothing of the portion that failed is kept then, and the next tick looks at it again.
    """
    started = time.monotonic()
    with _alone(connection) as alone:
        if not alone:
            return Ticked(busy=True)
        try:
            return _tick(connection, watcher, now, seconds, started)
        except BaseException:
            watcher.detection, watcher.buckets = Detection(), Buckets(watcher.buckets.limits)  # as the database has it, again
            raise


def _tick(connection: Connection, watcher: Watcher, now: datetime, seconds: float, started: float) -> Ticked:
    reached = _begin(connection, watcher, now)
    closed, findings, happened = 0, 0, list[tuple[int, str]]()
    while True:
        until = min(now, reached + CHUNK)
        flags, burning = _outside(connection, until, now)
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", (STATEMENT_TIMEOUT,))
            watcher.buckets.refresh(cursor, until, KEPT + CHUNK + BUCKET)
            for end in _ends(reached, until):
                found = watcher.detection.close(watcher.buckets, end)
                detection.store(cursor, found)
                closed, findings = closed + 1, findings + len(found)
                if now - end > STALE:
                    happened += _observe(cursor, watcher, end, now, found, (), ())
                if watcher.detection.due(now):
                    watcher.detection.save(cursor)
            if until == now:
                found = watcher.detection.look(watcher.buckets, now)
                findings += len(found)
                happened += _observe(cursor, watcher, now, now, [*_latest(watcher, now), *found], flags, burning)
            reached = max(reached, watcher.detection.reached or reached)
            figures = {"series": len(watcher.detection.followed), "closed": closed, "findings": findings}
            _book(cursor, "tick", reached, time.monotonic() - started, figures)
        if until == now or time.monotonic() - started >= seconds:
            break
    return Ticked(reached, closed, len(watcher.detection.followed), findings, happened, time.monotonic() - started)


def _begin(connection: Connection, watcher: Watcher, now: datetime) -> datetime:
    """Where to go on: what this process remembers, if nobody else has been at it since; else the last checkpoint."""
    memory = watcher.detection
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT reached FROM metamon.alert_progress WHERE work = 'tick'")
        row = cursor.fetchone()
        if memory.reached is None or row is None or row[0] != memory.reached or memory.reached > now:
            memory.load(cursor, now)
            if row is not None and memory.reached is not None and memory.reached < row[0] <= now:
                watcher.buckets.refresh(cursor, row[0], KEPT + (row[0] - memory.reached) + BUCKET)
                for end in _ends(memory.reached, row[0] + GRACE):
                    memory.close(watcher.buckets, end)  # learnt before, and told before
    assert memory.reached is not None
    return memory.reached


def _ends(reached: datetime, until: datetime) -> Iterator[datetime]:
    """Ends of the buckets that have closed since."""
    end = bucket_of(reached) + BUCKET
    while end <= until - GRACE:
        yield end
        end += BUCKET


def _latest(watcher: Watcher, now: datetime) -> list[Finding]:
    """The findings of the newest closed bucket: numbers of runs are known of closed ones only."""
    return [finding for finding in watcher.detection.latest if now - finding.at <= BUCKET + GRACE and finding.watch.scale == "count"]


def _outside(connection: Connection, until: datetime, now: datetime) -> tuple[Sequence[Flagged], Sequence[Burn]]:
    """What other stages say of the present; nothing while the past is caught up with."""
    if until != now:
        return (), ()
    from metamon_assets.health.slo import burn_rates
    from metamon_assets.traces.security import open_flags

    return open_flags(connection, now - FLAGS, now), burn_rates(connection, now)


def _observe(
    cursor: Cursor,
    watcher: Watcher,
    at: datetime,
    now: datetime,
    found: Sequence[Finding],
    flags: Sequence[Flagged],
    burning: Sequence[Burn],
) -> list[tuple[int, str]]:
    """Judge all rules at a moment and bring incidents up to date."""
    look = Look(cursor, at, watcher.buckets)
    rules = watcher.catalogue.enabled
    seen = evaluate(look, watcher.catalogue)
    if sources.ANOMALY in rules:
        seen += sources.anomalies(look, rules[sources.ANOMALY], found)
    if at == now:
        seen += sources.pipeline(look) if sources.PIPELINE in rules else []
        seen += sources.security(look, flags) if sources.SECURITY in rules else []
        seen += sources.burns(look, burning) if sources.BURN in rules else []
    seen += _abandoned(look, watcher, seen)
    watcher.newcomers.refresh(cursor, now, watcher.shadow_hours)
    marked = (_in_shadow(watcher, cursor, observation, at) for observation in seen)
    return [(incident.incident_id, event) for incident, event in incidents.observe(cursor, watcher.policy, marked, at, now)]


def _in_shadow(watcher: Watcher, cursor: Cursor, seen: Observation, at: datetime) -> Observation:
    """What a new source does pages nobody, security flags excepted."""
    about_runs = seen.rule == sources.ANOMALY or (seen.rule in watcher.catalogue.rules and SIGNALS[seen.metric].bad)
    if not seen.firing or seen.shadow or not about_runs:
        return seen
    return replace(seen, shadow=watcher.newcomers.knows(cursor, (seen.dimension, seen.dimension_value), at))


def _abandoned(look: Look, watcher: Watcher, seen: Iterable[Observation]) -> list[Observation]:
    """Incidents of rules that nobody has had anything to say of for hours, or whose rule is looked at no more."""
    spoken = {observation.fingerprint for observation in seen}
    found = []
    for one in incidents.recent(look.cursor, only_open=True):
        looked_at = one.rule in watcher.catalogue.enabled
        if one.fingerprint not in spoken and (not looked_at or look.at - one.updated_at > KEEP_WITHOUT_DATA):
            found.append(Observation(one.rule, one.metric, one.dimension, one.dimension_value, False, one.severity, one.started_at))
    return found


def _book(cursor: Cursor, work: str, reached: datetime, seconds: float, detail: dict[str, int]) -> None:
    cursor.execute(
        "INSERT INTO metamon.alert_progress (work, reached, ticked_at, seconds, detail) VALUES (%s, %s, clock_timestamp(), %s, %s)"
        " ON CONFLICT (work) DO UPDATE SET (reached, ticked_at, seconds, detail) ="
        " (excluded.reached, excluded.ticked_at, excluded.seconds, excluded.detail)",
        (work, reached, seconds, orjson.dumps(detail).decode()),
    )


@contextmanager
def _alone(connection: Connection) -> Iterator[bool]:
    """Whether nobody else is looking; while the block lasts nobody else does."""
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_try_advisory_lock({_LOCK})")
        (alone,) = cursor.fetchone() or (False,)
    try:
        yield bool(alone)
    finally:
        if alone and not connection.closed:
            with connection, connection.cursor() as cursor:
                cursor.execute(f"SELECT pg_advisory_unlock({_LOCK})")
