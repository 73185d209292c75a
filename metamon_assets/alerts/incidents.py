"""Incidents: from the first time that a rule fires for a group until it has been quiet for long enough (NOT-3).

Here belong the transitions, and nothing else writes ``metamon.incidents``. ``observe`` takes what a rule saw; whatever there is to
tell of it goes into the outbox in the same transaction (``routing``), so that an incident is never stored without its message, nor
a message written for an incident that is not there.

- One incident of a fingerprint (rule, metric and group) is open at a time. Its severity rises and does not fall while it is open.
- It is resolved when its rule has been quiet for ``QUIET``. What fires again within ``FLAPPING`` of that goes on as the same incident
  with one more episode, and nobody is told again unless it is worse than before.
- What was over before it was found (``late``) and what is in shadow is stored and counted, and never sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

import orjson

from metamon_assets.alerts import routing
from metamon_assets.errors import MetamonError
from metamon_assets.warehouse.audit import record

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection, Cursor

Severity = Literal["info", "warning", "critical"]
Event = Literal["opened", "worsened", "reopened", "resolved", "acknowledged", "feedback"]
Verdict = Literal["true_positive", "false_positive"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
QUIET = timedelta(minutes=10)
FLAPPING = timedelta(hours=1)
STALE = timedelta(minutes=20)  # what began and ended longer ago than this before anybody looked is not paged


class IncidentError(MetamonError):
    """There is no such incident, or it is not in a state for that; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a rule saw of a group at one time, firing or not.

    ``started_at``: since when the data show it. ``worst_is``: 1 when larger values are worse, −1 when smaller ones are.
    ``examples``: traces as source, project and trace id; they and who is affected stay as they were where an observation has none.
    """

    rule: str
    metric: str
    dimension: str
    dimension_value: str
    firing: bool
    severity: Severity
    started_at: datetime
    summary: str = ""
    value: float | None = None
    expected: float | None = None
    lower: float | None = None
    upper: float | None = None
    threshold: float | None = None
    worst_is: int = 1
    sample: int | None = None
    window_seconds: int | None = None
    affected_requests: int | None = None
    affected_users: int | None = None
    examples: tuple[Mapping[str, str], ...] = ()
    reasons: tuple[str, ...] = ()
    dagster_run_id: str | None = None
    shadow: bool = False
    quiet: timedelta = QUIET

    @property
    def fingerprint(self) -> str:
        """Rule, metric and group."""
        return f"{self.rule}|{self.metric}|{self.dimension}|{self.dimension_value}"


@dataclass(frozen=True, slots=True)
class Incident:
    """A row of ``metamon.incidents``."""

    incident_id: int
    fingerprint: str
    rule: str
    metric: str
    dimension: str
    dimension_value: str
    status: Literal["open", "resolved"]
    severity: Severity
    shadow: bool
    late: bool
    started_at: datetime
    opened_at: datetime
    updated_at: datetime
    quiet_since: datetime | None
    resolved_at: datetime | None
    episodes: int
    summary: str
    value: float | None
    peak: float | None
    expected: float | None
    lower: float | None
    upper: float | None
    threshold: float | None
    sample: int | None
    window_seconds: int | None
    affected_requests: int | None
    affected_users: int | None
    examples: list[dict[str, str]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    dagster_run_id: str | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None


COLUMNS = tuple(entry.name for entry in fields(Incident))
_SEEN = (  # what an observation tells of an incident, under the same names
    *("summary", "value", "expected", "lower", "upper", "threshold", "sample", "window_seconds"),
    *("reasons", "dagster_run_id"),
)


def observe(
    cursor: Cursor, policy: routing.Policy, seen: Iterable[Observation], at: datetime, now: datetime
) -> list[tuple[Incident, Event]]:
    """Bring incidents up to date with what rules saw at ``at``, in the caller's transaction; gives what happened, in that order.

    ``at`` lies before ``now`` while an outage is being caught up with. What opens then is late: it is told when it still goes on
    once the present is reached, and else only counted.
    """
    late = now - at > STALE
    happened = []
    for observation in seen:
        found = _latest(cursor, observation.fingerprint)
        step = _fire(cursor, observation, found, at, late=late) if observation.firing else _calm(cursor, observation, found, at)
        if step is not None:
            incident, event = step
            _book(cursor, incident, event, at)
            if event == "resolved" or (event in ("opened", "worsened") and not late):
                routing.enqueue(cursor, policy, incident, event, now)
            happened.append(step)
    return happened


def _fire(cursor: Cursor, seen: Observation, found: Incident | None, now: datetime, *, late: bool) -> tuple[Incident, Event] | None:
    if found is None or (found.resolved_at is not None and now - found.resolved_at > FLAPPING):
        return _open(cursor, seen, now, late=late), "opened"
    untold = found.late and not late
    reopened = found.status == "resolved" or found.quiet_since is not None
    worse = SEVERITIES.index(seen.severity) > SEVERITIES.index(found.severity) or (found.shadow and not seen.shadow)
    incident = _store(
        cursor,
        replace(
            found,
            **{name: getattr(seen, name) for name in _SEEN},
            affected_requests=found.affected_requests if seen.affected_requests is None else seen.affected_requests,
            affected_users=found.affected_users if seen.affected_users is None else seen.affected_users,
            status="open",
            severity=max(seen.severity, found.severity, key=SEVERITIES.index),
            shadow=found.shadow and seen.shadow,
            late=found.late and late,
            updated_at=now,
            quiet_since=None,
            resolved_at=None,
            episodes=found.episodes + reopened,
            peak=_worst(found.peak, seen.value, seen.worst_is),
            examples=[dict(example) for example in seen.examples] or found.examples,
        ),
    )
    if untold:
        return incident, "opened"
    if worse:
        return incident, "worsened"
    return (incident, "reopened") if found.status == "resolved" else None


def _open(cursor: Cursor, seen: Observation, now: datetime, *, late: bool) -> Incident:
    names = ("fingerprint", "rule", "metric", "dimension", "dimension_value", "severity", "shadow", "affected_requests", "affected_users")
    values = {name: getattr(seen, name) for name in (*names, *_SEEN)}
    values |= {"status": "open", "late": late, "episodes": 1, "peak": seen.value}
    values |= {"started_at": min(seen.started_at, now), "opened_at": now, "updated_at": now}
    values["examples"] = orjson.dumps([dict(example) for example in seen.examples]).decode()
    values["reasons"] = list(seen.reasons)
    cursor.execute(
        f"INSERT INTO metamon.incidents ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))}) RETURNING {', '.join(COLUMNS)}",
        list(values.values()),
    )
    return Incident(*cursor.fetchone())  # type: ignore[misc]


def _calm(cursor: Cursor, seen: Observation, found: Incident | None, now: datetime) -> tuple[Incident, Event] | None:
    if found is None or found.status == "resolved":
        return None
    if found.quiet_since is None:
        _store(cursor, replace(found, quiet_since=now))
        return None
    if now - found.quiet_since < seen.quiet:
        return None
    return _store(cursor, replace(found, status="resolved", resolved_at=now)), "resolved"


def _store(cursor: Cursor, incident: Incident) -> Incident:
    changed = [name for name in COLUMNS if name not in ("incident_id", "fingerprint", "rule", "metric", "dimension", "dimension_value")]
    values = {name: getattr(incident, name) for name in changed}
    values["examples"], values["reasons"] = orjson.dumps(incident.examples).decode(), list(incident.reasons)
    cursor.execute(
        f"UPDATE metamon.incidents SET {', '.join(f'{name} = %s' for name in values)} WHERE incident_id = %s",
        [*values.values(), incident.incident_id],
    )
    return incident


def _latest(cursor: Cursor, fingerprint: str) -> Incident | None:
    """The open incident of a fingerprint, or the one that was resolved last."""
    cursor.execute(
        f"SELECT {', '.join(COLUMNS)} FROM metamon.incidents WHERE fingerprint = %s"
        " ORDER BY resolved_at DESC NULLS FIRST, incident_id DESC LIMIT 1 FOR UPDATE",
        (fingerprint,),
    )
    row = cursor.fetchone()
    return None if row is None else Incident(*row)


def _worst(peak: float | None, value: float | None, worst_is: int) -> float | None:
    known = [number for number in (peak, value) if number is not None]
    return max(known, key=lambda number: worst_is * number) if known else None


def _book(cursor: Cursor, incident: Incident, event: Event, now: datetime, note: str = "", actor: str | None = None) -> None:
    cursor.execute(
        "INSERT INTO metamon.incident_events (incident_id, at, event, severity, value, note, actor) VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (incident.incident_id, now, event, incident.severity, incident.value, note, actor),
    )


# --- reading, and what people do ---------------------------------------------------------------------------------


def recent(cursor: Cursor, *, rule: str | None = None, only_open: bool = False, most: int | None = None) -> list[Incident]:
    """The incidents that were opened last, the newest first."""
    cursor.execute(
        f"SELECT {', '.join(COLUMNS)} FROM metamon.incidents"
        " WHERE (%(rule)s IS NULL OR rule = %(rule)s) AND (status = 'open' OR NOT %(only_open)s)"
        " ORDER BY incident_id DESC LIMIT %(most)s",
        {"rule": rule, "only_open": only_open, "most": most},
    )
    return [Incident(*row) for row in cursor.fetchall()]


def read(cursor: Cursor, incident_id: int) -> Incident:
    """One incident. Raises IncidentError."""
    cursor.execute(f"SELECT {', '.join(COLUMNS)} FROM metamon.incidents WHERE incident_id = %s", (incident_id,))
    row = cursor.fetchone()
    if row is None:
        raise IncidentError(f"There is no incident {incident_id}: `metamon incidents list` shows those that there are.")
    return Incident(*row)


def acknowledge(connection: Connection, incident_id: int, actor: str, now: datetime) -> Incident:
    """Note who takes an incident on. Raises IncidentError where somebody has already."""
    with connection, connection.cursor() as cursor:
        incident = read(cursor, incident_id)
        if incident.acknowledged_by is not None:
            raise IncidentError(f"Incident {incident_id} was taken on by {incident.acknowledged_by}.")
        incident = _store(cursor, replace(incident, acknowledged_at=now, acknowledged_by=actor))
        _book(cursor, incident, "acknowledged", now, actor=actor)
        return incident


def give_feedback(connection: Connection, incident_id: int, verdict: Verdict, actor: str, now: datetime, note: str = "") -> None:
    """Say whether there was something worth telling (NOT-5); a later word replaces an earlier one. Raises IncidentError."""
    with connection, connection.cursor() as cursor:
        incident = read(cursor, incident_id)
        cursor.execute(
            "INSERT INTO metamon.incident_feedback (incident_id, verdict, note, actor, given_at) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT (incident_id) DO UPDATE SET (verdict, note, actor, given_at) ="
            " (excluded.verdict, excluded.note, excluded.actor, excluded.given_at)",
            (incident_id, verdict, note, actor, now),
        )
        _book(cursor, incident, "feedback", now, note=f"{verdict}: {note}" if note else verdict, actor=actor)
        record(connection, actor, "give_feedback", f"incident:{incident_id}", note or None, {"verdict": verdict})
