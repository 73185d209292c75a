"""Collected mails: once per period, catching up, across clock changes; and what they say."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from metamon_assets.alerts import movements
from metamon_assets.alerts.digest import due_at, false_positives, write_due
from metamon_assets.alerts.incidents import give_feedback
from metamon_assets.alerts.routing import Policy
from metamon_assets.health import slo, targets
from metamon_assets.health.state import RunFailure, record_failure
from metamon_assets.metrics.rollups import refresh_days
from metamon_assets.warehouse import connect
from metamon_assets_tests.alerts.delivery import NOW, fire, rows, seen
from metamon_assets_tests.metrics.test_completions import run, write

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
KINDS = {"HighErrorRate": ("slack",), "Second": ("slack",), "Third": ("slack",), "Quiet": ("email",)}
POLICY = Policy(
    channels={"chat": "slack", "mail": "email"},
    rule_channels=KINDS,
    digest_channels=("mail",),
    timezone="Europe/Vienna",
    base_url="https://metamon.example",
)
VIENNA = ZoneInfo("Europe/Vienna")
TODAY = datetime(2026, 11, 26, 8, tzinfo=UTC)  # nine o'clock in Vienna, a Thursday
DIGESTS = "event IN ('hourly', 'daily', 'weekly')"


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with closing(connect(database)) as connection:
        yield connection


def digest(connection: Connection, event: str = "daily") -> tuple[str, str, str]:
    """Subject, text and HTML of the last one."""
    found: tuple[str, str, str] = rows(connection, "subject, body_text, body_html", f"event = '{event}'")[-1]
    return found


def begun(connection: Connection, at: datetime = TODAY - DAY, policy: Policy = POLICY) -> None:
    """Metamon runs since then: the first digest is due at the next nine o'clock."""
    assert write_due(connection, policy, at) == []


# --- hourly ------------------------------------------------------------------------------------------------------


def test_what_was_held_back_is_told_once_after_the_full_hour(connection: Connection) -> None:
    fire(connection, POLICY, seen(severity="warning"), seen("Second", severity="warning"), seen("Third", severity="warning"))
    assert rows(connection, "suppressed") == [None, "hourly", "hourly"]
    assert write_due(connection, POLICY, NOW.replace(minute=59)) == []
    assert write_due(connection, POLICY, NOW.replace(minute=0) + HOUR) == ["hourly-2026-11-26T14"]
    assert write_due(connection, POLICY, NOW.replace(minute=0) + 2 * HOUR) == []
    assert rows(connection, "channel, suppressed", DIGESTS) == [("mail", None)]
    subject, text, html = digest(connection, "hourly")
    assert subject == "[hourly] 2 warnings held back"
    for form in (text, html):
        assert "Second, agent sales" in form
        assert "(open)" in form
        assert "https://metamon.example/incidents/2" in form
    assert "incidents/1" not in text


def test_what_was_held_back_on_several_channels_is_told_once(connection: Connection) -> None:
    policy = replace(POLICY, rule_channels=dict.fromkeys(KINDS, ("slack", "email")))
    fire(connection, policy, seen(severity="warning"), seen("Second", severity="warning"))
    assert write_due(connection, policy, NOW + HOUR) == ["hourly-2026-11-26T14"]
    assert "1 warning held back" in digest(connection, "hourly")[0]


def test_an_outage_of_hours_gives_one_hourly_mail(connection: Connection) -> None:
    begun(connection, TODAY)
    for hours in range(4):
        fire(
            connection,
            POLICY,
            seen(value=str(hours), severity="warning"),
            seen("Second", value=str(hours), severity="warning"),
            at=NOW + hours * HOUR,
        )
    keys = [key for key in write_due(connection, POLICY, NOW + 9 * HOUR) if key.startswith("hourly")]
    assert keys == ["hourly-2026-11-26T22"]
    assert "4 warnings held back" in digest(connection, "hourly")[0]


def test_an_hour_that_comes_twice_loses_nothing(connection: Connection) -> None:
    fire(connection, POLICY, seen(severity="warning"), seen("Second", severity="warning"))
    assert write_due(connection, POLICY, NOW + HOUR) == ["hourly-2026-11-26T14"]
    fire(connection, POLICY, seen("Third", severity="warning"))  # the clock was put back
    assert write_due(connection, POLICY, NOW + HOUR) == []
    assert write_due(connection, POLICY, NOW + 2 * HOUR) == ["hourly-2026-11-26T15"]
    assert "Third" in digest(connection, "hourly")[0]


# --- when the digest is due --------------------------------------------------------------------------------------


@given(
    st.integers(0, 10 * 365 * 24 * 60).map(lambda minutes: datetime(2020, 1, 1, tzinfo=UTC) + minutes * MINUTE),
    st.sampled_from(["UTC", "Europe/Vienna", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu"]),
    st.integers(4, 22),
)
@hypothesis_settings(max_examples=300, deadline=None)
def test_it_is_always_that_hour_and_the_last_one(now: datetime, zone: str, hour: int) -> None:
    for period, longest in (("daily", 25 * HOUR), ("weekly", 7 * DAY + HOUR)):
        due = due_at(now, zone, hour, period)  # type: ignore[arg-type]
        assert due.astimezone(ZoneInfo(zone)).time() == time(hour)
        assert timedelta(0) <= now - due.astimezone(UTC) <= longest
        assert period == "daily" or due.astimezone(ZoneInfo(zone)).weekday() == 0


@pytest.mark.parametrize(
    ("day", "utc_hour"), [(date(2026, 3, 28), 8), (date(2026, 3, 29), 7), (date(2026, 10, 24), 7), (date(2026, 10, 25), 8)]
)
def test_clocks_that_change_leave_it_at_nine(connection: Connection, day: date, utc_hour: int) -> None:
    due = datetime.combine(day, time(utc_hour), UTC)
    begun(connection, due - HOUR)
    assert write_due(connection, POLICY, due - timedelta(seconds=1)) == []
    assert write_due(connection, POLICY, due) == [f"daily-{day}"]


def test_an_hour_that_is_left_out_or_comes_twice_has_one_digest_all_the_same(connection: Connection) -> None:
    policy = replace(POLICY, digest_hour=2)
    for day in (date(2026, 3, 29), date(2026, 10, 25)):  # Vienna's clocks change at one o'clock UTC
        noon_before = datetime.combine(day, time(12), UTC) - DAY
        write_due(connection, policy, noon_before)
        written = [key for minutes in range(0, 48 * 60, 15) for key in write_due(connection, policy, noon_before + minutes * MINUTE)]
        assert [key for key in written if key.startswith("daily")] == [f"daily-{day}", f"daily-{day + DAY}"]


def test_one_a_day_however_often_it_is_asked_for(connection: Connection) -> None:
    begun(connection, TODAY - 7 * DAY - HOUR)
    written = [
        key for minutes in range(0, 7 * 24 * 60 + 1, 20) for key in write_due(connection, POLICY, TODAY - 7 * DAY + minutes * MINUTE)
    ]
    days = [f"daily-{(TODAY - back * DAY).date()}" for back in range(7, -1, -1)]
    assert sorted(written) == sorted([*days, "weekly-2026-11-23"])
    assert sorted(rows(connection, "dedup_key", DIGESTS)) == sorted(written)


def test_the_first_one_comes_at_the_next_nine_oclock(connection: Connection) -> None:
    fire(connection, POLICY, seen(), at=TODAY - 2 * HOUR)
    begun(connection, TODAY + HOUR)
    assert write_due(connection, POLICY, TODAY + DAY) == ["daily-2026-11-27"]
    assert "no incident, and nothing was held back" not in digest(connection)[1]  # it is still open
    assert "Still open from before" in digest(connection)[1]


def test_after_an_outage_there_is_one_with_everything(connection: Connection) -> None:
    begun(connection, TODAY - 5 * DAY)
    for back in (4, 3, 2):
        fire(connection, POLICY, seen(value=f"agent-{back}"), at=TODAY - back * DAY)
    assert write_due(connection, POLICY, TODAY + 3 * HOUR) == ["daily-2026-11-26", "weekly-2026-11-23"]
    subject, text, _ = digest(connection)
    assert subject == "[daily] Digest of 2026-11-26: 3 opened, 3 open"
    assert all(f"agent-{back}" in text for back in (4, 3, 2))
    assert text.startswith("Since 2026-11-21 09:00 CET: 3 incidents opened")


def test_a_clock_that_jumps_ahead_and_back_tells_everything_once(connection: Connection) -> None:
    begun(connection)
    fire(connection, POLICY, seen(value="before"), at=TODAY - HOUR)
    assert write_due(connection, POLICY, TODAY + DAY) == ["daily-2026-11-27"]  # the clock is a day ahead
    fire(connection, POLICY, seen(value="after"), at=TODAY + MINUTE)
    assert write_due(connection, POLICY, TODAY + 2 * MINUTE) == ["daily-2026-11-26"]  # and right again
    assert write_due(connection, POLICY, TODAY + 3 * MINUTE) == []
    assert write_due(connection, POLICY, TODAY + DAY) == []
    fire(connection, POLICY, seen(value="later"), at=TODAY + DAY)
    assert write_due(connection, POLICY, TODAY + 2 * DAY) == ["daily-2026-11-28"]
    opened = [text.partition("Opened\n")[2].partition("\n\n")[0] for text in rows(connection, "body_text", "event = 'daily'")]
    assert [[name for name in ("before", "after", "later") if f"agent {name}" in part] for part in opened] == [
        ["before"],
        ["after"],
        ["later"],
    ]


def test_two_processes_write_it_once(connection: Connection, database: str) -> None:
    from threading import Thread

    begun(connection)

    def ask() -> None:
        with closing(connect(database)) as own:
            write_due(own, POLICY, TODAY)

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(connection, "dedup_key", DIGESTS) == ["daily-2026-11-26"]


def test_without_channels_there_is_none(connection: Connection) -> None:
    begun(connection, policy=Policy.silent())
    fire(connection, Policy.silent(), seen(), at=TODAY - HOUR)
    assert write_due(connection, Policy.silent(), TODAY) == []
    assert rows(connection) == []


# --- what it says ------------------------------------------------------------------------------------------------


def test_with_nothing_to_say_it_says_so_in_one_line(connection: Connection) -> None:
    begun(connection)
    write_due(connection, POLICY, TODAY)
    subject, text, html = digest(connection)
    assert subject == "[daily] Digest of 2026-11-26: no incident"
    assert text.startswith("Nothing to report since 2026-11-25 09:00 CET: no incident, nothing held back, no traffic, nothing wrong")
    assert text.count("\n") == 1
    assert "<h2" not in html
    assert "<img" not in html


def test_it_tells_what_opened_what_is_open_what_was_held_back_and_why(connection: Connection) -> None:
    fire(connection, POLICY, seen(value="old"), seen("Second", value="ended"), at=TODAY - 2 * DAY)
    begun(connection)
    at = TODAY - 3 * HOUR
    fire(connection, POLICY, seen(value="new"), seen("Third", value="new", severity="warning"), seen("Quiet", severity="info"), at=at)
    fire(connection, POLICY, seen("Second", value="shy", shadow=True), seen("Third", value="shy", shadow=True), at=at)
    for minutes in (0, 11):
        fire(connection, POLICY, seen("Second", value="ended", firing=False), at=at + minutes * MINUTE)
    assert write_due(connection, POLICY, TODAY)[-1] == "daily-2026-11-26"
    subject, text, html = digest(connection)
    assert subject == "[daily] Digest of 2026-11-26: 5 opened, 6 open"
    assert "5 incidents opened (3 critical), 1 resolved, 6 open now." in text
    parts = {part.partition("\n")[0]: part for part in text.split("\n\n")}
    assert "HighErrorRate, agent new" in parts["Opened"]
    assert "HighErrorRate, agent old" in parts["Still open from before"]
    assert "Second, agent ended" in parts["Resolved"]
    held = parts["Recorded and not sent"]
    assert "digest       Quiet 1" in held
    assert "hourly       Third 1" in held
    assert "shadow       Second 1, Third 1" in held
    assert "Second: 1" in parts["In shadow, since its source or rule is new"]
    assert 'src="data:image/png;base64,' in html


def test_what_was_found_late_is_counted(connection: Connection) -> None:
    begun(connection)
    from metamon_assets.alerts.incidents import observe

    with connection, connection.cursor() as cursor:
        observe(cursor, POLICY, [seen(at=TODAY - 5 * HOUR)], TODAY - 5 * HOUR, TODAY - HOUR)
    assert rows(connection) == []
    write_due(connection, POLICY, TODAY)
    assert "late         HighErrorRate 1" in digest(connection)[1]
    assert "found late" in digest(connection)[1]


def test_words_of_strangers_are_words_here_too(connection: Connection) -> None:
    begun(connection)
    fire(connection, POLICY, seen(value="<script>", summary="<script>alert(1)</script>\r\nx"), at=TODAY - HOUR)
    write_due(connection, POLICY, TODAY)
    assert "<script" not in digest(connection)[2]


def test_it_tells_what_is_wrong_with_the_pipeline_and_with_channels(connection: Connection) -> None:
    begun(connection)
    fire(connection, POLICY, seen(), at=TODAY - 12 * HOUR)
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.outbox SET attempts = 3, last_error = 'error=500' WHERE channel = 'chat'")
        cursor.execute(
            "INSERT INTO metamon.heartbeats (component, beat_at, detail) VALUES ('supervisor', %s, %s), ('feed', %s, '{}')",
            (TODAY, '{"findings": [{"component": "feed", "state": "hung", "detail": "no sign of life"}]}', TODAY - HOUR),
        )
    record_failure(connection, RunFailure("r1", "daily", "2026-11-25", TODAY - 2 * HOUR, "broke"))
    write_due(connection, POLICY, TODAY)
    text = digest(connection)[1]
    assert "feed is hung: no sign of life" in text
    assert "feed gave its last sign of life at 2026-11-26 07:00 UTC" in text
    assert "run daily failed 1 time" in text
    assert "channel chat: 1 tried and still waiting, 0 given up (error=500)" in text


def traffic(connection: Connection, days: Sequence[date], failing: float, seconds: float, units: bool = True, per_day: int = 120) -> None:
    """Days of runs, each conversation of three."""
    draw = random.Random(f"{days[0]} {failing}")
    made: list[dict[str, Any]] = []
    for day in days:
        for number in range(per_day):
            start = datetime.combine(day, time(6), UTC) + timedelta(minutes=number)
            status = "error" if draw.random() < failing else "success"
            cost = {"total_cost": round(draw.uniform(0.01, 0.02), 4), "cost_source": "reported"}
            made.append(run(f"{day}/{number}", start, draw.gammavariate(4, seconds / 4), status, **cost))
    write(connection, made)
    if units:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "UPDATE metamon.traces SET conversation_id = (split_part(run_id, '/', 2)::int / 3)::text WHERE day >= %s", (days[0],)
            )
    refresh_days(connection, days, TODAY)


LAST = date(2026, 11, 25)
WEEK_BEFORE = [LAST - timedelta(days=back) for back in range(7, 0, -1)]


@pytest.mark.parametrize(("units", "unit"), [(True, "conversation"), (False, "request")])
def test_it_tells_what_got_better_and_worse_with_intervals(connection: Connection, units: bool, unit: str) -> None:
    begun(connection)
    traffic(connection, WEEK_BEFORE, 0.05, 4.0, units)
    traffic(connection, [LAST], 0.30, 2.0, units)
    with connection, connection.cursor() as cursor:
        found = {one.metric: one for one in movements.moved(cursor, (WEEK_BEFORE[0], WEEK_BEFORE[-1]), (LAST, LAST))}
    assert {name: one.verdict for name, one in found.items()} == {
        "error_rate": "worse",
        "latency_mean": "better",
        "cost_per_request": "unclear",
    }
    assert {one.unit for one in found.values()} == {unit}
    assert 0.1 < found["error_rate"].found.ci_lower < 0.25 < found["error_rate"].found.ci_upper < 0.4
    write_due(connection, POLICY, TODAY)
    text = digest(connection)[1]
    assert "Better and worse: 2026-11-25 (UTC) against the seven days before" in text
    assert "- worse: error_rate" in text
    assert "- better: latency_mean" in text
    assert "(95% interval" in text
    assert "- no clear change: cost_per_request" in text
    assert ("Requests were counted as independent" in text) == (not units)
    assert "for 120 requests" in text


def test_chance_alone_moves_nothing(connection: Connection) -> None:
    traffic(connection, WEEK_BEFORE, 0.05, 4.0)
    traffic(connection, [LAST], 0.050001, 4.0)
    with connection, connection.cursor() as cursor:
        found = movements.moved(cursor, (WEEK_BEFORE[0], WEEK_BEFORE[-1]), (LAST, LAST))
    assert {one.verdict for one in found} == {"unclear"}


def test_it_tells_how_accepted_targets_stand(connection: Connection) -> None:
    targets.suggest(connection, TODAY - 9 * DAY)
    begun(connection)
    targets.accept(connection, "error_rate", "ada", TODAY - 8 * DAY)
    targets.accept(connection, "response_time", "ada", TODAY - 8 * DAY, 10.0)
    traffic(connection, [LAST], 0.3, 2.0)
    slo.status(connection, LAST, TODAY)
    write_due(connection, POLICY, TODAY)
    text = digest(connection)[1]
    assert "1 of 2 targets on 2026-11-25" in text
    assert "error_rate: " in text
    assert "missed, 0% of the error budget left" in text
    assert "response_time" not in text


def test_the_weekly_review_answers_its_questions(connection: Connection) -> None:
    monday = datetime(2026, 11, 23, 8, tzinfo=UTC)
    begun(connection, monday - DAY)
    sunday = date(2026, 11, 22)
    traffic(connection, [sunday - timedelta(days=back) for back in range(13, -1, -1)], 0.01, 2.0, per_day=60)
    (incident,) = fire(connection, POLICY, seen(), at=monday - 2 * DAY)
    give_feedback(connection, incident.incident_id, "false_positive", "ada", monday - DAY)
    assert write_due(connection, POLICY, monday) == ["daily-2026-11-23", "weekly-2026-11-23"]
    subject, text, _ = digest(connection, "weekly")
    assert subject.startswith("[weekly] Weekly review of 2026-11-23")
    answers = {line[2:].partition(". ")[0]: line for line in text.partition("The week's questions\n")[2].split("\n\n")[0].splitlines()}
    assert "Yes: 1.0%" in answers["Fewer than 2 % of a week's requests fail"]
    assert "(n = 420)" in answers["Fewer than 2 % of a week's requests fail"]
    assert "Yes: " in answers["95 % of a week's requests are answered within 5 seconds"]
    assert "Unknown: no data." in answers["The cache answers more than 60 % of a week's requests"]
    assert "Unknown: no data." in answers["Quality does not fall"]
    assert len(answers) == len([one for one in targets.SUGGESTED if one.name.startswith("weekly_")]) + 1
    assert "HighErrorRate: 1 of 1 alert (100.0%) judged false" in text


def test_false_positives_are_counted_by_rule(connection: Connection) -> None:
    found = fire(connection, POLICY, *(seen(value=str(n)) for n in range(3)), seen("Second"))
    for incident, verdict in zip(found, ("false_positive", "true_positive", "false_positive", "true_positive"), strict=True):
        give_feedback(connection, incident.incident_id, verdict, "ada", NOW)  # type: ignore[arg-type]
    give_feedback(connection, found[0].incident_id, "true_positive", "bob", NOW + MINUTE, "I looked again")
    with connection, connection.cursor() as cursor:
        assert false_positives(cursor, NOW - DAY) == [("HighErrorRate", 3, 1), ("Second", 1, 0)]
        assert false_positives(cursor, NOW + DAY) == []
