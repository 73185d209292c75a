"""The statistical sections against histories with known answers: incidents, changes, error patterns; and silence where nothing is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from psycopg2.extensions import connection as Connection

from metamon_assets.reports.findings import Content, Context
from metamon_assets.reports.sections import changes, errors, incidents
from metamon_assets.reports.sections.masking import template
from metamon_assets_tests.reports.histories import DAYS, END, NOW, START, fill, opened, write

HOURS = 24 * DAYS


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    opened_connection = opened(database)
    yield opened_connection
    opened_connection.close()


def context(connection: Connection, **options: Any) -> Context:
    return Context(connection, START, END, NOW, **options)


def healthy(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Runs of three agents and four tenants over the period, each a conversation of its own, of which 3 % fail."""
    rng = np.random.default_rng(seed)
    hours = np.sort(rng.uniform(0, HOURS, count))
    failed = rng.random(count) < 0.03
    latency, cost = np.exp(0.6 * rng.standard_normal(count)), 0.01 * np.exp(0.7 * rng.standard_normal(count))
    agent, tenant = rng.integers(0, 3, count), rng.integers(0, 4, count)
    return [
        {
            "hours": float(hours[i]),
            "run_id": f"r{i}",
            "agent_name": f"agent-{agent[i]}",
            "tenant_id": f"tenant-{tenant[i]}",
            "conversation_id": f"c{i}",
            "status": "error" if failed[i] else "success",
            "error_type": "Timeout" if failed[i] else None,
            "error_message": f"no answer within {rng.integers(100, 900)} ms" if failed[i] else None,
            "latency_seconds": float(latency[i]),
            "total_cost": float(round(cost[i], 9)),
        }
        for i in range(count)
    ]


def rows_of(connection: Connection, query: str) -> list[dict[str, Any]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(query)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def event(connection: Connection, kind: str, hours: float, agent: str | None = None, version: str | None = None) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.events (source, project, event_id, kind, agent_name, version, time, observed_time)"
            " VALUES ('api', 'p', %s, %s, %s, %s, %s, now())",
            (f"e{hours}", kind, agent, version, START + timedelta(hours=hours)),
        )


def check(connection: Connection, content: Content) -> None:
    """What holds for every content: whole sentences, queries that run and list runs of the period, keys that are not there twice."""
    keys = [finding.key for finding in content.findings]
    assert len(set(keys)) == len(keys)
    assert content.findings or content.tables or content.silence
    for finding in content.findings:
        assert finding.statement.endswith(".")
        assert finding.certainty.endswith(".")
        assert "nan" not in finding.statement.lower().replace("tenant", "")
        listed = rows_of(connection, finding.query)
        assert listed
        assert all(START <= row["start_time"] < END for row in listed)
        assert {run.run_id for run in finding.runs} <= {row["run_id"] for row in listed}
        assert finding.runs


# --- incidents ------------------------------------------------------------------------------------------------


def test_a_slow_tenant_of_one_agent_is_found_where_and_when_it_was(connection: Connection) -> None:
    runs = healthy(8000)
    for run in runs:
        if 200 <= run["hours"] < 230 and run["agent_name"] == "agent-1":
            run["latency_seconds"] *= 3
    write(connection, runs)
    event(connection, "deployment", 200.5, "agent-1", "v2")
    content = incidents.build(context(connection))
    check(connection, content)
    (found,) = content.findings
    assert "latency of agent “agent-1” rose" in found.statement
    start = START + timedelta(hours=200)
    assert f"From {start.day} Oct 2026 {start:%H}" in found.statement or f"From {start.day} Oct 2026" in found.statement
    assert found.estimate is not None
    assert found.estimate.low is not None
    assert found.estimate.low < 3 < (found.estimate.high or 0)
    assert "deployment “v2”" in found.statement
    listed = rows_of(connection, found.query)
    assert {row["agent_name"] for row in listed} == {"agent-1"}
    inside = [200 <= (row["start_time"] - START) / timedelta(hours=1) < 230 for row in listed]
    assert np.mean(inside) > 0.9


def test_an_outage_of_a_tenant_names_its_errors_and_money_is_told_where_cost_moved(connection: Connection) -> None:
    runs = healthy(8000)
    for run in runs:
        if 120 <= run["hours"] < 144 and run["tenant_id"] == "tenant-2" and int(run["run_id"][1:]) % 2:
            run |= {"status": "error", "error_type": "AuthenticationError", "error_message": "invalid key"}
        if 250 <= run["hours"] < 300:
            run["total_cost"] *= 4
    write(connection, runs)
    content = incidents.build(context(connection))
    check(connection, content)
    by_measure = {finding.key.rsplit(".", 1)[1]: finding for finding in content.findings}
    assert set(by_measure) == {"failed", "cost"}
    assert "tenant “tenant-2”" in by_measure["failed"].statement
    assert "“AuthenticationError”" in by_measure["failed"].statement
    assert "all runs rose" in by_measure["cost"].statement
    extra = sum(run["total_cost"] * 3 / 4 for run in runs if 250 <= run["hours"] < 300)
    assert by_measure["cost"].money_per_month is None, "what is over has no monthly rate"
    assert float(by_measure["cost"].cost or 0) == pytest.approx(extra, rel=0.25)
    assert by_measure["cost"].money.endswith(" once (more than as before)")


def test_a_surge_of_runs_and_a_silence_are_told_as_numbers_of_runs(connection: Connection) -> None:
    runs = [run for run in healthy(8000) if not 280 <= run["hours"] < 296]
    more = [run | {"hours": 150 + run["hours"] % 8, "run_id": f"x{run['run_id']}", "tenant_id": "tenant-0"} for run in healthy(900, seed=2)]
    for number, run in enumerate(more):
        run["conversation_id"] = f"x{number}"
    write(connection, [*runs, *more])
    content = incidents.build(context(connection))
    check(connection, Content(findings=tuple(finding for finding in content.findings if "fell" not in finding.statement)))
    statements = [finding.statement for finding in content.findings]
    assert any("number of runs of tenant “tenant-0” rose" in statement for statement in statements)
    assert any("the number of runs fell" in statement for statement in statements), statements


def test_failing_tool_calls_are_found_though_the_runs_go_on(connection: Connection) -> None:
    runs = healthy(5000)
    rng = np.random.default_rng(4)
    spans = [
        {
            "run_id": f"{run['run_id']}.1",
            "trace_id": run["run_id"],
            "parent_run_id": run["run_id"],
            "hours": run["hours"],
            "run_type": "tool",
            "tool_name": ("search", "mail")[number % 2],
            "status": "error" if rng.random() < (0.5 if number % 2 and 200 <= run["hours"] < 212 else 0.02) else "success",
        }
        for number, run in enumerate(runs)
    ]
    write(connection, runs, spans)
    content = incidents.build(context(connection))
    check(connection, content)
    (found,) = content.findings
    assert "error rate of calls of tool “mail” rose" in found.statement


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_quiet_history_has_no_incident_and_says_what_it_would_not_have_seen(connection: Connection, seed: int) -> None:
    write(connection, healthy(6000, seed))
    content = incidents.build(context(connection))
    assert content.findings == ()
    assert re.search(r"Nothing stood out in \d+ series .* over 14 days", content.silence)
    assert "would probably not have been seen" in content.silence


def test_silence_names_only_what_was_searched_and_patterns_the_units_that_were_counted(connection: Connection) -> None:
    known = ("hours", "run_id", "status", "latency_seconds")
    write(connection, [{name: run[name] for name in known} for run in healthy(1500)])  # as a CSV of time, status and latency
    silence = incidents.build(context(connection)).silence
    assert "(error rate, share of runs that did not end, latency and number of runs, of all runs)" in silence
    assert "The rate of affected runs in" in errors.build(context(connection)).findings[1].certainty


def test_what_stops_for_good_is_told_with_what_else_it_may_be(connection: Connection) -> None:
    write(connection, [run for run in healthy(6000) if run["hours"] < HOURS - 9])
    (found,) = incidents.build(context(connection)).findings
    assert "the number of runs fell" in found.statement
    assert "their source has not delivered them" in found.statement
    assert "-100% to -9" in found.certainty, "an exact interval of none seen"


@pytest.mark.parametrize("count", [0, 1, 5, 200])
def test_of_few_runs_no_section_says_more_than_it_can(connection: Connection, count: int) -> None:
    write(connection, healthy(count))
    found = [build(context(connection)) for build in (incidents.build, changes.build, errors.build)]
    assert found[0].findings == ()
    assert found[1].findings == ()
    assert not [finding for finding in found[2].findings if finding.severity != "info"]
    assert all(content.silence or content.findings for content in found)
    for content in found:
        check(connection, content)


# --- changes --------------------------------------------------------------------------------------------------


def test_changes_are_better_worse_nothing_or_too_little(connection: Connection) -> None:
    runs = healthy(9000)
    for run in runs:
        if run["hours"] >= 170 and run["agent_name"] == "agent-0":
            run["total_cost"] *= 2
        if run["hours"] >= 150 and run["agent_name"] == "agent-1":
            run["latency_seconds"] *= 0.6
    write(connection, runs)
    event(connection, "version", 170, "agent-0", "v2")
    event(connection, "prompt", 150, "agent-1", "p7")
    event(connection, "model", 160, "agent-2", "gpt-5")
    event(connection, "model", HOURS - 2, "agent-2", "gpt-6")
    content = changes.build(context(connection))
    check(connection, content)
    verdicts = {row[1]: row[3] for row in reversed(content.tables[0].rows)}
    assert verdicts == {"agent-0": "worse", "agent-1": "better", "agent-2": "no change seen"}
    assert [row[3] for row in content.tables[0].rows][-1].startswith("too little data: ")
    worse = next(finding for finding in content.findings if "worse" in finding.key)
    assert worse.estimate is not None
    assert worse.estimate.low is not None
    assert worse.estimate.low < 2 < (worse.estimate.high or 0)
    assert worse.money_per_month is not None
    assert worse.money_per_month > 0
    assert "no A/B test" in worse.certainty
    assert "Within a day of it changed as well" in worse.certainty
    assert worse.severity == "notice"


def test_what_moved_at_another_time_is_not_laid_to_a_change(connection: Connection) -> None:
    runs = healthy(9000)
    for run in runs:
        if run["hours"] >= 240:
            run["latency_seconds"] *= 2
    write(connection, runs)
    event(connection, "version", 170, "agent-0", "v2")
    content = changes.build(context(connection))
    assert content.findings == ()
    assert content.tables[0].rows[0][3] == "moved at another time"


def test_a_report_and_its_first_sighting_are_one_change(connection: Connection) -> None:
    write(connection, healthy(300))
    event(connection, "deployment", 100, "agent-0", "v2")
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.events (source, project, event_id, kind, agent_name, version, time, inferred, observed_time)"
            " VALUES ('inferred', 'p', 'i', 'version', 'agent-0', 'v2', %s, true, now())",
            (START + timedelta(hours=102),),
        )
    assert len(changes.build(context(connection)).tables[0].rows) == 1


# --- errors ---------------------------------------------------------------------------------------------------


def test_patterns_are_new_rising_gone_or_steady(connection: Connection) -> None:
    runs = healthy(6000)
    for number, run in enumerate(runs):
        late = run["hours"] >= 0.8 * HOURS
        if number % 25 == 0 and late:
            run |= {"status": "error", "error_type": "SchemaError", "error_message": f"field 'f{number}' is missing"}
        elif number % 40 == 1 and (late or number % 400 == 1):
            run |= {"status": "error", "error_type": "RateLimit", "error_message": f"limit of {number} tokens"}
        elif number % 60 == 2 and run["hours"] < 0.5 * HOURS:
            run |= {"status": "error", "error_type": "Refused", "error_message": "connection refused by 10.0.0.1"}
    write(connection, runs)
    content = errors.build(context(connection))
    check(connection, content)
    courses = {row[0].split(":")[0]: row[4] for row in content.tables[0].rows}
    assert courses == {"SchemaError": "new", "RateLimit": "rising", "Refused": "gone", "Timeout": "steady"}
    new = next(finding for finding in content.findings if finding.key.startswith("errors.new"))
    assert "field <quoted> is missing" in new.statement
    rising = next(finding for finding in content.findings if finding.key.startswith("errors.rising"))
    assert rising.estimate is not None
    assert rising.estimate.low is not None
    assert rising.estimate.low > 1.5
    for finding in content.findings[1:]:
        (kind,) = {row["error_type"] for row in rows_of(connection, finding.query)}
        count = sum(run["error_type"] == kind and run["status"] == "error" for run in runs)
        assert len(rows_of(connection, finding.query)) == count


def test_what_is_seen_first_only_because_it_is_rare_is_not_new(connection: Connection) -> None:
    runs = healthy(4000)
    runs[-3] |= {"status": "error", "error_type": "Odd", "error_message": "seen once"}
    runs[-9] |= {"status": "error", "error_type": "Odd", "error_message": "seen once"}
    write(connection, runs)
    content = errors.build(context(connection))
    assert not [finding for finding in content.findings if finding.key.startswith("errors.new")]


HOSTILE = [
    "%_\\' OR 1=1 --",
    "a%(b)s {c} %s",
    "\x1b[31mred\x1b[0m\u202e",
    "<script>alert(1)</script>",
    "x" * 5000,
    " \n\t ",
    "a\\b\\c",
    "''\"\"",
    "{}",
]


def test_hostile_messages_are_listed_by_their_queries_and_cannot_do_anything(connection: Connection) -> None:
    runs = healthy(200)
    for number, message in enumerate(HOSTILE):
        for run in runs[number * 6 : number * 6 + 6]:
            run |= {"status": "error", "error_type": f"E{number}'%s", "error_message": message}
    write(connection, runs)
    content = errors.build(context(connection))
    check(connection, content)
    rendered = "".join(finding.statement + finding.certainty for finding in content.findings) + "".join(
        cell for row in content.tables[0].rows for cell in row
    )
    assert "\x1b" not in rendered
    assert "\u202e" not in rendered
    assert {row[0].split("'")[0] for row in content.tables[0].rows} >= {f"E{number}" for number in range(len(HOSTILE))}


def test_a_message_that_only_the_failed_call_has_is_taken_from_it(connection: Connection) -> None:
    runs = [run | {"status": "success", "error_type": None, "error_message": None} for run in healthy(300)]
    for run in runs[:30]:
        run["status"] = "error"
    spans = [
        {"run_id": f"s{n}", "trace_id": run["run_id"], "parent_run_id": run["run_id"], "hours": run["hours"], "run_type": "tool",
         "status": "error", "error_type": "ToolError", "error_message": f"worker {n} is gone"}
        for n, run in enumerate(runs[:30])
    ]  # fmt: skip
    write(connection, runs, spans)
    content = errors.build(context(connection))
    check(connection, content)
    assert "ToolError: worker <number> is gone" in content.findings[1].statement
    assert len(rows_of(connection, content.findings[1].query)) == 30


def test_masks_keep_what_tells_causes_apart() -> None:
    assert template("HTTP 429 for https://a.b/c?d=1") == "HTTP 429 for <url>"
    assert template("status code 503 after 30 s") == "status code 503 after <number> s"
    assert template("mail to a.b@c.org failed") == "mail to <email> failed"
    assert template("0x7f3a at 2026-03-01T10:00:00Z in C:\\a\\b.txt") == "<id> at <time> in <path>"
    assert template("a\n  b") == "a b"
    assert template("can't parse it's answer") == "can't parse it's answer"


# --- all ------------------------------------------------------------------------------------------------------


def test_one_project_and_one_agent_are_looked_at_alone(connection: Connection) -> None:
    fill(connection, 3000, payloads=False)
    event(connection, "version", 150, "agent-1", "v2")
    for options in ({"project": "p"}, {"agent": "agent-1"}, {"project": "p", "agent": "agent-1"}):
        for build in (incidents.build, changes.build, errors.build):
            check(connection, build(context(connection, **options)))
    assert errors.build(context(connection, project="other")).silence.startswith("There are no runs")
