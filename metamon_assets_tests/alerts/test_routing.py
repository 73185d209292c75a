"""Who is told, when, and why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from metamon_assets.alerts import silences
from metamon_assets.alerts.incidents import Incident
from metamon_assets.alerts.routing import SECURITY, Policy, enqueue
from metamon_assets.config.shape import Route
from metamon_assets.warehouse import connect
from metamon_assets_tests.alerts.delivery import NOW, fire, rows, seen, settings_with

CHANNELS = {"mail": "email", "chat": "slack", "pager": "pagerduty", "hook": "webhook"}
KINDS = {"HighErrorRate": ("slack", "pagerduty"), "LowFeedbackRate": ("email",), SECURITY: ("email", "pagerduty")}
POLICY = Policy(channels=CHANNELS, rule_channels=KINDS, digest_channels=("mail",))
MINUTE = timedelta(minutes=1)


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with closing(connect(database)) as connection:
        yield connection


def test_without_routes_the_rule_names_the_kinds(connection: Connection) -> None:
    fire(connection, POLICY, seen())
    assert rows(connection) == [("chat", "opened", None), ("pager", "opened", None)]


def test_a_warning_without_a_channel_of_its_kinds_goes_to_chat_and_webhooks_and_pages_nobody(connection: Connection) -> None:
    fire(connection, POLICY, seen("OfNoKind", severity="warning"))
    assert rows(connection, "channel, suppressed") == [("chat", None), ("hook", None)]


def test_a_critical_incident_without_a_channel_of_its_kinds_goes_to_all(connection: Connection) -> None:
    fire(connection, POLICY, seen("OfNoKind"))
    assert rows(connection, "channel") == list(CHANNELS)


def test_routes_go_before_kinds_and_match_severity_and_agent(connection: Connection) -> None:
    routes = (
        Route(channels=("pager",), severities=("critical",)),
        Route(channels=("mail", "pager"), agents=("sales",)),
        Route(channels=("hook",), severities=("info",)),
    )
    policy = replace(POLICY, routes=routes)
    fire(connection, policy, seen(value="sales"), seen(value="support"), seen(value="sales", rule="B", severity="warning"))
    found = rows(connection, "channel, severity, group_key")
    assert found == [
        ("pager", "critical", "agent|sales"),
        ("mail", "critical", "agent|sales"),
        ("pager", "critical", "agent|support"),
        ("mail", "warning", "agent|sales"),
        ("pager", "warning", "agent|sales"),
    ]


def test_a_critical_incident_that_no_route_takes_goes_to_all_and_a_warning_into_the_digest(connection: Connection) -> None:
    policy = replace(POLICY, routes=(Route(channels=("chat",), agents=("sales",)),))
    fire(connection, policy, seen(value="other"))
    assert rows(connection, "channel") == list(CHANNELS)
    fire(connection, policy, seen(value="third", severity="warning"))
    assert rows(connection)[len(CHANNELS) :] == [("mail", "opened", "digest")]


def test_a_warning_is_sent_at_once_and_the_next_of_its_group_is_collected(connection: Connection) -> None:
    first, again = seen(severity="warning"), seen("Second", severity="warning")
    policy = replace(POLICY, rule_channels={"HighErrorRate": ("slack",), "Second": ("slack",), "Third": ("slack",)})
    fire(connection, policy, first, again, seen("Third", value="support", severity="warning"))
    assert rows(connection, "group_key, suppressed") == [("agent|sales", None), ("agent|sales", "hourly"), ("agent|support", None)]
    fire(connection, policy, seen("Third", at=NOW + 59 * MINUTE, severity="warning"), at=NOW + 59 * MINUTE)
    fire(connection, policy, seen("Third", value="x", at=NOW, severity="warning"), at=NOW + 61 * MINUTE)
    assert rows(connection, "suppressed")[3:] == ["hourly", None]


def test_after_an_hour_the_group_is_told_again(connection: Connection) -> None:
    policy = replace(POLICY, rule_channels={"HighErrorRate": ("slack",), "Second": ("slack",)})
    fire(connection, policy, seen(severity="warning"))
    fire(connection, policy, seen("Second", severity="warning"), at=NOW + 60 * MINUTE)
    assert rows(connection, "suppressed") == [None, None]


def test_what_a_clock_that_ran_ahead_wrote_holds_nothing_back(connection: Connection) -> None:
    policy = replace(POLICY, rule_channels={"HighErrorRate": ("slack",), "Second": ("slack",)})
    fire(connection, policy, seen(severity="warning"), at=NOW + timedelta(days=1))
    fire(connection, policy, seen("Second", severity="warning"))
    assert rows(connection, "suppressed") == [None, None]


def test_a_warning_without_a_channel_of_its_kinds_goes_into_the_hourly_mail(connection: Connection) -> None:
    fire(connection, replace(POLICY, channels={"mail": "email"}), seen(severity="warning"))
    assert rows(connection) == [("mail", "opened", "hourly")]


def test_a_warning_is_not_held_back_where_no_channel_gets_collected_mail(connection: Connection) -> None:
    policy = Policy(channels={"pager": "pagerduty"}, rule_channels=KINDS)
    fire(connection, policy, seen(severity="warning"), seen("Second", severity="warning"))
    assert rows(connection, "suppressed") == [None, None]


def test_an_info_waits_for_the_digest(connection: Connection) -> None:
    fire(connection, POLICY, seen("LowFeedbackRate", severity="info"))
    assert rows(connection) == [("mail", "opened", "digest")]


@pytest.mark.parametrize(("maintenance", "reason"), [(False, "silenced"), (True, "maintenance")])
def test_what_is_silenced_is_counted_and_not_sent(connection: Connection, maintenance: bool, reason: str) -> None:
    silences.create(connection, reason="known", actor="ada", now=NOW, ends_at=NOW + MINUTE, rule="HighErrorRate", maintenance=maintenance)
    (incident,) = fire(connection, POLICY, seen())
    assert rows(connection) == [("chat", "opened", reason), ("pager", "opened", reason)]
    with connection, connection.cursor() as cursor:
        assert enqueue(cursor, POLICY, incident, "resolved", NOW) == 0


def test_shadow_and_late_are_counted_and_not_sent(connection: Connection) -> None:
    (incident,) = fire(connection, POLICY, seen(shadow=True))
    with connection, connection.cursor() as cursor:
        enqueue(cursor, POLICY, replace(incident, shadow=False, late=True, severity="warning"), "opened", NOW)
    assert rows(connection, "suppressed") == ["shadow", "shadow", "late", "late"]


def test_what_leaves_shadow_is_told(connection: Connection) -> None:
    fire(connection, POLICY, seen(shadow=True))
    fire(connection, POLICY, seen(), at=NOW + MINUTE)
    assert rows(connection, "event, suppressed") == [("opened", "shadow")] * 2 + [("worsened", None)] * 2


def test_a_security_flag_pays_no_heed_to_shadow_hours_and_windows_that_do_not_name_it(connection: Connection) -> None:
    silences.create(connection, reason="work", actor="ada", now=NOW, ends_at=NOW + 60 * MINUTE, maintenance=True)
    fire(connection, POLICY, seen(SECURITY, severity="warning", shadow=True), seen(SECURITY, value="b", severity="info"))
    assert rows(connection) == [("mail", "opened", None), ("pager", "opened", None)] * 2
    silences.create(connection, reason="a test", actor="ada", now=NOW, ends_at=NOW + 60 * MINUTE, rule=SECURITY)
    fire(connection, POLICY, seen(SECURITY, value="c"))
    assert rows(connection, "suppressed")[4:] == ["silenced", "silenced"]


def test_the_end_is_told_where_the_beginning_was(connection: Connection) -> None:
    policy = replace(POLICY, rule_channels={"HighErrorRate": ("slack", "pagerduty")})
    (incident,) = fire(connection, policy, seen())
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.outbox SET dead_at = now() WHERE channel = 'chat'")
        cursor.execute("UPDATE metamon.outbox SET sent_at = now() WHERE channel = 'pager'")
        assert enqueue(cursor, policy, replace(incident, status="resolved", resolved_at=NOW), "resolved", NOW) == 1
    assert rows(connection)[-1] == ("pager", "resolved", None)


def test_an_incident_that_ends_before_it_was_told_is_told_from_beginning_to_end(connection: Connection) -> None:
    fire(connection, POLICY, seen())
    for minutes in (1, 12):
        fire(connection, POLICY, seen(firing=False, at=NOW), at=NOW + minutes * MINUTE)
    assert rows(connection) == [(name, event, None) for event in ("opened", "resolved") for name in ("chat", "pager")]


def test_the_same_is_written_once(connection: Connection) -> None:
    (incident,) = fire(connection, POLICY, seen())
    with connection, connection.cursor() as cursor:
        assert enqueue(cursor, POLICY, incident, "opened", NOW + MINUTE) == 0
    assert rows(connection, "dedup_key") == [f"incident-{incident.incident_id}-opened-critical"] * 2


def test_nothing_is_written_when_the_incident_is_not(connection: Connection) -> None:
    with pytest.raises(ZeroDivisionError), connection, connection.cursor() as cursor:
        from metamon_assets.alerts.incidents import observe

        observe(cursor, POLICY, [seen()], NOW, NOW)
        raise ZeroDivisionError
    assert rows(connection) == []


def test_without_channels_nobody_is_told(connection: Connection) -> None:
    fire(connection, Policy.silent(), seen(), seen(SECURITY))
    assert rows(connection) == []


def test_the_policy_of_a_configuration(tmp_path: Path) -> None:
    more = "routes:\n  - {channels: [second], severities: [info]}\n  - {channels: [chat, first], agents: [sales]}\n"
    settings = settings_with(tmp_path / "home", {"first": "email", "second": "email", "chat": "slack"}, more)
    policy = Policy.of(settings, KINDS, {"HighErrorRate": "Look."})
    assert policy.digest_channels == ("second",)
    assert policy.base_url == "https://metamon.example"
    assert (policy.timezone, dict(policy.channels)) == ("Europe/Vienna", {"first": "email", "second": "email", "chat": "slack"})
    assert Policy.of(settings_with(tmp_path / "other", {"hook": "webhook", "chat": "slack"}), {}).digest_channels == ("chat",)
    assert Policy.of(settings_with(tmp_path / "pager", {"pager": "pagerduty"}), {}).digest_channels == ()


# --- whatever the configuration ----------------------------------------------------------------------------------

names = st.sampled_from(sorted(CHANNELS))
routes = st.builds(
    Route,
    channels=st.lists(names, min_size=1, max_size=3, unique=True).map(tuple),
    severities=st.lists(st.sampled_from(["info", "warning", "critical"]), min_size=1, unique=True).map(tuple),
    agents=st.sampled_from([(), ("sales",), ("support",)]),
)
policies = st.builds(
    Policy,
    channels=st.dictionaries(names, st.none(), min_size=1).map(lambda found: {name: CHANNELS[name] for name in found}),
    routes=st.lists(routes, max_size=3).map(tuple),
    rule_channels=st.dictionaries(
        st.sampled_from(["A", "B", SECURITY]), st.lists(st.sampled_from(sorted(CHANNELS.values())), unique=True).map(tuple)
    ),
    digest_channels=st.sampled_from([(), ("mail",)]),
)
observations = st.lists(
    st.builds(
        seen,
        rule=st.sampled_from(["A", "B", SECURITY]),
        value=st.sampled_from(["sales", "support"]),
        severity=st.sampled_from(["info", "warning", "critical"]),
        shadow=st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one.fingerprint,
)


@given(policy=policies, found=observations, silenced=st.sampled_from([None, "A", "B"]), late=st.booleans())
@hypothesis_settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_invariants(connection: Connection, policy: Policy, found: list[Any], silenced: str | None, late: bool) -> None:
    try:
        with connection.cursor() as cursor:
            if silenced:
                cursor.execute(
                    "INSERT INTO metamon.silences (rule, starts_at, ends_at, reason, created_by) VALUES (%s, %s, %s, 'x', 'x')",
                    (silenced, NOW - MINUTE, NOW + MINUTE),
                )
            for observation in found:
                check(cursor, policy, replace(opened(cursor, observation), late=late), silenced)
            check_hours(cursor, policy)
    finally:
        connection.rollback()


def opened(cursor: Any, observation: Any) -> Incident:
    from metamon_assets.alerts.incidents import observe

    ((incident, event),) = observe(cursor, Policy.silent(), [observation], NOW, NOW)
    assert event == "opened"
    return incident


def check(cursor: Any, policy: Policy, incident: Incident, silenced: str | None) -> None:
    written = enqueue(cursor, policy, incident, "opened", NOW)
    assert enqueue(cursor, policy, incident, "opened", NOW + MINUTE) == 0
    cursor.execute("SELECT channel, suppressed FROM metamon.outbox WHERE incident_id = %s", (incident.incident_id,))
    rows = cursor.fetchall()
    assert len(rows) == written
    assert {channel for channel, _ in rows} <= policy.channels.keys() | set(policy.digest_channels)
    security = incident.rule == SECURITY
    held = incident.late or (incident.shadow and not security) or incident.rule == silenced
    sent = [channel for channel, reason in rows if reason is None]
    if held:
        assert not sent
    elif incident.severity == "critical" or security:
        assert rows
        assert len(sent) == len(rows)  # at once, on each of its channels, and there is at least one
    elif incident.severity == "info":
        assert not sent
    else:
        assert rows  # a warning is always told somewhere: at once, hourly or in the digest
    resolved = enqueue(cursor, policy, incident, "resolved", NOW)
    assert resolved == len([name for name in sent if name in policy.channels])


def check_hours(cursor: Any, policy: Policy) -> None:
    """No warning is sent to a channel that was told of its group just before."""
    cursor.execute(
        "SELECT count(*) FROM metamon.outbox m JOIN metamon.incidents i USING (incident_id) WHERE m.event = 'opened'"
        " AND m.suppressed IS NULL AND m.severity = 'warning' AND i.rule <> %s AND EXISTS (SELECT FROM metamon.outbox e"
        " WHERE e.channel = m.channel AND e.group_key = m.group_key AND e.message_id < m.message_id AND e.suppressed IS NULL"
        " AND e.event = 'opened')",
        (SECURITY,),
    )
    assert not policy.digest_channels or cursor.fetchone() == (0,)
