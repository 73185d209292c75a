"""Who is told of an incident, when, and why not (NOT-1): writes the rows of the outbox in the incident's own transaction.

Here belong the decisions; what a message says is in ``messages``, how it is sent in ``outbox`` and ``channels``.

- Critical incidents and security flags are sent at once, always. A security flag pays no heed to shadow, nor to silences that do not
  name its rule.
- Warnings are sent at once, but at most hourly for a group and channel; what comes in between is told in the hourly mail.
- Infos are told in the daily digest.
- What is not sent has a row with the reason, so that the digest can count it.
- That an incident is over is told where it was told that it began, whatever holds then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from metamon_assets.alerts import messages, silences

if TYPE_CHECKING:
    from metamon_assets.alerts.incidents import Incident
    from metamon_assets.config import Settings
    from metamon_assets.config.shape import Route
    from metamon_assets.warehouse.connection import Cursor

Told = Literal["opened", "worsened", "resolved"]
Reason = Literal["shadow", "late", "silenced", "maintenance", "hourly", "digest"]
SECURITY = "SecurityIssue"
HOURLY = timedelta(hours=1)
INSTEAD = ("slack", "webhook")
DIGEST_KINDS = ("email", "slack", "webhook")  # where digests go: to channels of the first kind that there is


@dataclass(frozen=True)
class Policy:
    """Everything that decides where messages go and what stands in them.

    ``channels``: name to type. ``rule_channels``: for each rule the kinds of channels that it names. ``runbooks``: what to do, by rule.
    """

    channels: Mapping[str, str] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    rule_channels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    timezone: str = "UTC"
    digest_hour: int = 9
    base_url: str = "http://127.0.0.1:4318"
    dagster_url: str = "http://127.0.0.1:3000"
    digest_channels: tuple[str, ...] = ()
    runbooks: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, rule_channels: Mapping[str, tuple[str, ...]], runbooks: Mapping[str, str] | None = None) -> Policy:
        """The policy of a configuration."""
        channels = {name: channel.type for name, channel in settings.channels.items()}
        host = "127.0.0.1" if settings.web.host in ("0.0.0.0", "::") else settings.web.host  # noqa: S104 - not listened on here
        return cls(
            channels=channels,
            routes=settings.routes,
            rule_channels=dict(rule_channels),
            timezone=settings.timezone,
            digest_hour=settings.alerts.digest_hour,
            base_url=(settings.web.public_url or f"http://{host}:{settings.web.port}").rstrip("/"),
            dagster_url=(settings.ui_url or f"http://127.0.0.1:{settings.ui_port}").rstrip("/"),
            digest_channels=_digest_channels(channels, settings.routes),
            runbooks=dict(runbooks or {}),
        )

    @classmethod
    def silent(cls) -> Policy:
        """Without channels: incidents are recorded and nobody is told."""
        return cls()


def _digest_channels(channels: Mapping[str, str], routes: Iterable[Route]) -> tuple[str, ...]:
    """The mail channels that routes give infos of all agents to, else all mail channels, else those of the next kind."""
    named = {name for route in routes if "info" in route.severities and not route.agents for name in route.channels}
    for kind in DIGEST_KINDS:
        of_kind = [name for name, its_kind in channels.items() if its_kind == kind]
        if of_kind:
            return tuple([name for name in of_kind if name in named] or of_kind)
    return ()


def enqueue(cursor: Cursor, policy: Policy, incident: Incident, event: Told, now: datetime) -> int:
    """Write one message's rows in the caller's transaction, one for each channel; gives how many were not there yet."""
    if event == "resolved":
        decided: list[tuple[str, Reason | None]] = [(name, None) for name in _told(cursor, policy, incident.incident_id)]
    else:
        decided = _decisions(cursor, policy, incident, now)
    if not decided:
        return 0
    subject, text, html = messages.of_incident(policy, incident, event)
    written = 0
    for channel, reason in decided:
        cursor.execute(
            "INSERT INTO metamon.outbox (incident_id, event, channel, severity, group_key, dedup_key, subject, body_text, body_html,"
            " created_at, send_after, suppressed) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (dedup_key, channel) DO NOTHING",
            (
                incident.incident_id,
                event,
                channel,
                incident.severity,
                group_key(incident),
                f"incident-{incident.incident_id}-{event}-{incident.severity}",
                subject,
                text,
                html,
                now,
                now,
                reason,
            ),
        )
        written += cursor.rowcount
    return written


def group_key(incident: Incident) -> str:
    """What warnings are grouped by: at most one an hour of each is sent."""
    return f"{incident.dimension}|{incident.dimension_value}"


def _told(cursor: Cursor, policy: Policy, incident_id: int) -> list[str]:
    """The channels that were told of an incident, or will be: what was given up there was not."""
    cursor.execute(
        "SELECT channel FROM metamon.outbox WHERE incident_id = %s AND event IN ('opened', 'worsened')"
        " AND suppressed IS NULL AND dead_at IS NULL GROUP BY channel ORDER BY min(message_id)",
        (incident_id,),
    )
    return [name for (name,) in cursor.fetchall() if name in policy.channels]


def _decisions(cursor: Cursor, policy: Policy, incident: Incident, now: datetime) -> list[tuple[str, Reason | None]]:
    """For each channel that it concerns: None, or why it is not sent there."""
    urgent = incident.severity == "critical" or incident.rule == SECURITY
    names = _routed(policy, incident)
    collected: Reason | None = None
    if not names and not urgent and policy.digest_channels:
        names, collected = policy.digest_channels, "digest" if policy.routes else "hourly"
    for_all = _reason(cursor, incident, now)
    if for_all is not None or urgent:
        return [(name, for_all) for name in names or policy.channels]
    if incident.severity == "info":
        return [(name, "digest") for name in names]
    return [
        (name, collected or ("hourly" if policy.digest_channels and _went_out(cursor, name, incident, now) else None))
        for name in names or policy.channels
    ]


def _routed(policy: Policy, incident: Incident) -> Sequence[str]:
    """The channels that routes give it to; without routes those of the kinds that its rule names, or instead of them."""
    if policy.routes:
        found = [name for route in policy.routes if _matches(route, incident) for name in route.channels if name in policy.channels]
        return list(dict.fromkeys(found))
    kinds = policy.rule_channels.get(incident.rule, ())
    named = [name for name, kind in policy.channels.items() if kind in kinds]
    # Of a warning that wants Slack where there is none, a webhook is the next best; a pager is for what is critical.
    return named or [name for name, kind in policy.channels.items() if kind in INSTEAD and incident.severity == "warning"]


def _matches(route: Route, incident: Incident) -> bool:
    agent = incident.dimension_value if incident.dimension == "agent" else None
    return incident.severity in route.severities and (not route.agents or agent in route.agents)


def _reason(cursor: Cursor, incident: Incident, now: datetime) -> Reason | None:
    """Why nobody at all is told."""
    security = incident.rule == SECURITY
    if incident.shadow and not security:
        return "shadow"
    if incident.late:
        return "late"
    silence = silences.matching(cursor, incident.rule, incident.dimension, incident.dimension_value, now)
    if silence is None or (security and silence.rule is None):
        return None
    return "maintenance" if silence.maintenance else "silenced"


def _went_out(cursor: Cursor, channel: str, incident: Incident, now: datetime) -> bool:
    """Whether the channel was told of the group within the hour. What a clock that ran ahead wrote does not count."""
    cursor.execute(
        "SELECT EXISTS (SELECT FROM metamon.outbox WHERE channel = %s AND group_key = %s AND event IN ('opened', 'worsened')"
        " AND suppressed IS NULL AND dead_at IS NULL AND created_at > %s AND created_at <= %s)",
        (channel, group_key(incident), now - HOURLY, now),
    )
    (found,) = cursor.fetchone() or (False,)
    return bool(found)
