"""What a message says, and that strangers' words in it do nothing."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from metamon_assets.alerts import messages, pictures
from metamon_assets.alerts.incidents import Incident
from metamon_assets.alerts.messages import figure, of_incident
from metamon_assets.alerts.routing import Policy
from metamon_assets.metrics.completions import refresh_completion_days
from metamon_assets.warehouse import connect
from metamon_assets_tests.alerts.delivery import NOW, fire, seen
from metamon_assets_tests.metrics.test_completions import run, write

POLICY = Policy(timezone="Europe/Vienna", base_url="https://metamon.example", runbooks={"HighErrorRate": "Look at the tools first."})
HOSTILE = "<script>alert(1)</script>\r\nBcc: victim@example.com\x1b[2J\u202e"


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with closing(connect(database)) as connection:
        yield connection


def incident(connection: Connection, **more: Any) -> Incident:
    (found,) = fire(connection, Policy.silent(), seen(at=NOW - timedelta(minutes=9), **more), at=NOW)
    return found


def test_it_says_what_where_since_when_how_bad_and_why(connection: Connection) -> None:
    found = incident(
        connection,
        lower=0.002,
        upper=0.02,
        affected_requests=97,
        affected_users=1,
        reasons=("the error rate is far outside its band", "latency rose with it"),
        examples=({"source": "langsmith", "project": "shop/eu", "trace_id": "t?1"},),
        dagster_run_id="0f3a",
    )
    subject, text, html = of_incident(POLICY, found, "opened")
    assert subject == "[critical] HighErrorRate, agent sales: 12 % of the requests of sales fail"
    for form in (text, html):
        assert "error_rate of agent sales" in form
        assert "2026-11-26 13:58 CET, found 2026-11-26 14:07 CET" in form
        assert "12.0%, threshold 5.0%, usually 0.2% to 2.0%, sample 812 in 5.0 min" in form
        assert "97 requests, 1 user" in form
        assert "latency rose with it" in form
        assert "https://metamon.example/traces/langsmith/shop%2Feu/t%3F1" in form
        assert f"https://metamon.example/incidents/{found.incident_id}" in form
        assert "http://127.0.0.1:3000/runs/0f3a" in form
        assert "https://metamon.example/docs/runbooks/HighErrorRate" in form
        assert "Look at the tools first." in form


def test_that_it_is_over_says_how_long_it_lasted(connection: Connection) -> None:
    found = replace(incident(connection), status="resolved", quiet_since=NOW + timedelta(minutes=51), resolved_at=NOW + timedelta(hours=1))
    subject, text, _ = of_incident(POLICY, found, "resolved")
    assert subject.startswith("[resolved] HighErrorRate")
    assert "it lasted about 60 min" in text
    assert "Look at the tools" not in text


def test_that_it_is_worse_stands_in_the_subject(connection: Connection) -> None:
    assert of_incident(POLICY, incident(connection), "worsened")[0].startswith("[critical] worse: HighErrorRate")


def test_words_of_strangers_are_words(connection: Connection) -> None:
    found = incident(
        connection,
        value=HOSTILE,
        summary=HOSTILE,
        reasons=(HOSTILE,),
        examples=({"source": HOSTILE, "project": "../..", "trace_id": '"><img src=x>'},),
    )
    subject, text, html = of_incident(replace(POLICY, runbooks={"HighErrorRate": "<b>"}), found, "opened")
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    for form in (subject, text, html):
        assert not set(form) & {"\r", "\x1b", "\u202e"}
    assert "\n" not in subject
    assert 'href="https://metamon.example/traces/%3Cscript%3E' in html


@given(st.text(max_size=400))
@hypothesis_settings(max_examples=200, deadline=None)
def test_subjects_are_one_line(text: str) -> None:
    subject = messages.one_line(text)
    assert len(subject) <= messages.SUBJECT_LIMIT
    assert len(subject.splitlines()) <= 1
    assert subject.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", subject)


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("error_rate", 0.123, "12.3%"),
        ("latency_p95", 12.5, "12.5 s"),
        ("total_cost", 123.4, "$123.40"),
        ("user_satisfaction", 4.6, "4.6"),
        ("queue_length", 512.0, "512"),
        ("error_rate", None, "unknown"),
    ],
)
def test_figures_are_in_the_unit_of_their_metric(metric: str, value: float | None, shown: str) -> None:
    assert figure(metric, value) == shown


def test_the_picture_shows_the_last_hours(connection: Connection) -> None:
    found = incident(connection, lower=0.0, upper=0.02)
    with connection, connection.cursor() as cursor:
        assert pictures.course(cursor, found, NOW) is None  # no data
    runs = [
        run(f"r{n}", NOW - timedelta(minutes=2 * n), 1.0, "error" if n % 9 == 0 else "success", agent_name="sales") for n in range(1, 200)
    ]
    write(connection, runs)
    refresh_completion_days(connection, [NOW.date()], NOW)
    with connection, connection.cursor() as cursor:
        picture = pictures.course(cursor, found, NOW)
    assert picture is not None
    head, _, data = picture.partition(",")
    assert head == "data:image/png;base64"
    png = base64.b64decode(data)
    assert png.startswith(b"\x89PNG")
    assert 5_000 < len(png) < 200_000
