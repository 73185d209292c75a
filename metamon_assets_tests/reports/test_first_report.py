"""What somebody's first report must not say: that none failed where nobody knows, that files which end are an outage, that cents matter."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from metamon_assets import words
from metamon_assets.config import Settings
from metamon_assets.metrics.rollups import refresh_days
from metamon_assets.reports.findings import Content, Context, Finding, Registry, Section
from metamon_assets.reports.html import page
from metamon_assets.reports.readiness import assess
from metamon_assets.reports.report import Report, as_json, build_report
from metamon_assets.reports.sections import changes, cost, errors, incidents, repeats, slices
from metamon_assets.reports.summary import summarise
from metamon_assets.reports.terminal import print_report
from metamon_assets_tests.reports.histories import DAYS, END, NOW, START, opened, write
from metamon_assets_tests.reports.test_statistics import event, healthy

HOURS = 24 * DAYS
STOP = HOURS - 15  # hours: the last rows come at nine in the morning of the last day
COLUMNS = "{run_id: {line: true}, start_time: begin, latency_seconds: took}"


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    opened_connection = opened(database)
    yield opened_connection
    opened_connection.close()


def context(connection: Connection, settings: Settings | None = None) -> Context:
    return Context(connection, START, END, NOW, settings=settings)


def configured(home: Path, *sources: str) -> Settings:
    lines = [f"  - {{type: files, path: {number}.csv, {source}}}\n" for number, source in enumerate(sources)]
    (home / "metamon.yaml").write_text("sources:\n" + "".join(lines))
    return Settings.load({"METAMON_HOME": str(home)})


def made(connection: Connection, settings: Settings | None = None, registry: Registry | None = None) -> Report:
    return build_report(connection, settings or Settings.load(), START, END, NOW, registry=registry)


def told(report: Report) -> str:
    file = io.StringIO()
    print_report(report, file)
    return " ".join(file.getvalue().split())


def statements(content: Content) -> list[str]:
    return [finding.statement for finding in content.findings]


def successes(count: int, **columns: Any) -> list[dict[str, Any]]:
    return [run | {"status": "success", "error_type": None, "error_message": None, "total_cost": None} | columns for run in healthy(count)]


# --- whether runs failed --------------------------------------------------------------------------------------


def test_without_a_column_for_it_nobody_says_that_none_failed(connection: Connection, tmp_path: Path) -> None:
    settings = configured(tmp_path, f"project: p, map: {{columns: {COLUMNS}}}")
    write(connection, successes(2000))
    report = made(connection, settings)
    text = told(report)
    assert "2,000 traces by 3 agents on 14 days: unknown whether they failed." in text
    assert "Not in these traces, and therefore not in this report: whether runs failed (error rates and outages)" in text
    assert "These runs do not tell whether they failed, so nothing is said of errors." in text
    assert "--map status=COLUMN" in text
    for wrong in ("succeeded", "0 failed", "None of 2,000", "error rate may", "rose from 0.0%"):
        assert wrong not in text, wrong
    assert "the traces do not tell" in page(report)
    assert (report.facts.untold, report.facts.succeeded, report.facts.failed) == (2000, 0, 0)
    found = {entry.feature: entry for entry in assess(context(connection, settings)) if entry.agent is None}
    for feature in ("error patterns", "outages", "hourly detection", "change detection", "canary at 10 %"):
        assert (found[feature].state, found[feature].why) == ("not yet", "not in these traces: whether runs failed"), feature
    assert found["weekly comparison"].state == "ready"
    assert "of latency" in found["weekly comparison"].smallest_effect
    assert "points" not in found["weekly comparison"].smallest_effect
    assert not [finding for finding in slices.build(context(connection, settings)).findings if "errors" in finding.key]


@pytest.mark.parametrize(
    "source",
    [
        "project: p",
        f"project: p, map: {{columns: {COLUMNS[:-1]}, status: state}}}}",
        f"project: p, map: {{columns: {COLUMNS}, rules: [{{when: {{not_empty: fault}}, set: {{status: error}}}}]}}",
    ],
    ids=["unified names", "a column", "a rule"],
)
def test_where_runs_tell_it_is_said(connection: Connection, tmp_path: Path, source: str) -> None:
    write(connection, successes(300))
    text = told(made(connection, configured(tmp_path, source)))
    assert "300 succeeded, 0 failed (0.0%)" in text
    assert "None of 300 runs failed. The error rate may still be up to 1.0% (95%)." in text


def test_runs_that_tell_are_judged_beside_those_that_do_not(connection: Connection, tmp_path: Path) -> None:
    settings = configured(tmp_path, f"project: p, map: {{columns: {COLUMNS}}}", "project: told")
    mute = successes(1000)
    for number, run in enumerate(mute[:400]):
        run |= {"project": "told", "status": "error" if number % 10 == 0 else "success"}
    write(connection, mute)
    report = made(connection, settings)
    text = told(report)
    assert "360 succeeded, 40 failed (10.0%), of 600 it is unknown" in text
    assert "40 of 400 runs (10.0%) failed" in text
    assert "600 of 1,000 runs (60.0%) do not tell whether they failed" in text
    assert "whether runs failed (" not in text


def test_what_came_in_does_not_say_either_that_none_failed(connection: Connection, tmp_path: Path) -> None:
    settings = configured(tmp_path, f"project: p, map: {{columns: {COLUMNS}}}")
    write(connection, successes(40, total_cost="0.0001"))
    refresh_days(connection, [START.date() + timedelta(days=number) for number in range(DAYS)], NOW)
    text = str(summarise(connection, settings, days_computed=1))
    assert "failed         unknown: the traces do not tell" in text
    assert "cost           $0.0040; 0.0% of the traces have no price" in text
    assert "0.00%" not in text


# --- rejected rows --------------------------------------------------------------------------------------------


def quarantined(connection: Connection, **reasons: int) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.ingestion_ledger (source, project, kind, started_at, status) VALUES ('files', 'p', 'runs', %s, 'complete')"
            " RETURNING ledger_id",
            (NOW,),
        )
        (ledger,) = cursor.fetchone()  # type: ignore[misc]
        for reason, count in reasons.items():
            cursor.execute(
                "INSERT INTO quarantine.rejected_rows (ledger_id, source, project, kind, reason, detail, location, raw, fingerprint,"
                " last_rejected_at) SELECT %(ledger)s, 'files', 'p', 'runs', %(reason)s, 'd', 'v1.csv', '{}', %(reason)s || i, %(now)s"
                " FROM generate_series(1, %(count)s) i",
                {"ledger": ledger, "reason": reason, "count": count, "now": NOW},
            )


def test_rejected_rows_are_named_at_the_top_with_their_share_and_reasons(connection: Connection) -> None:
    write(connection, healthy(792))
    quarantined(connection, missing_time=150, wrong_type=50, end_before_start=5, unknown_status=3)
    report = made(connection)
    text = told(report)
    said = "208 of 1,000 rows (20.8%) were rejected and were not counted: missing time (150), wrong type (50), end before start (5), others"
    assert said in text
    assert text.index(said) < text.index("What it costs")
    assert said in page(report)
    assert 'metamon sql "SELECT reason, detail, location FROM quarantine.rejected_rows WHERE replayed_at IS NULL"' in text
    assert as_json(report)["facts"]["rejected"]["reasons"][0] == ("missing_time", 150)
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE quarantine.rejected_rows SET replayed_at = now()")
    assert "rejected" not in told(made(connection))


def test_rows_of_which_all_were_rejected_are_told_too(connection: Connection) -> None:
    quarantined(connection, missing_time=7)
    assert "7 of 7 rows (100.0%) were rejected" in told(made(connection))


def test_while_a_file_is_still_being_read_the_share_is_that_of_the_file(connection: Connection) -> None:
    write(connection, healthy(10))
    quarantined(connection, missing_time=40)
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.ingestion_ledger SET rows_read = 1000, rows_rejected = 40")
    assert "40 of 1,000 rows (4.0%) were rejected" in told(made(connection))


# --- where the traces end -------------------------------------------------------------------------------------


def of_files(connection: Connection, project: str = "p") -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.source_files (path, source, project, kind, size_bytes, modified_at, rows)"
            " VALUES ('/v1.csv', 'files', %s, 'runs', 1, now(), 1)",
            (project,),
        )


def read(connection: Connection, until: datetime, *, asked: bool = True) -> None:
    """A read of the source as the books have it; not ``asked``: rows that were sent here."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.ingestion_ledger (source, project, kind, window_start, window_end, started_at, finished_at, status)"
            " VALUES ('files', 'p', 'runs', %s, %s, %s, %s, 'complete')",
            (START if asked else None, END if asked else None, until, until),
        )


def stopped() -> list[dict[str, Any]]:
    return [run for run in healthy(6000) if run["hours"] < STOP]


def test_files_that_end_are_no_outage(connection: Connection) -> None:
    write(connection, stopped())
    of_files(connection)
    content = incidents.build(context(connection))
    assert not [text for text in statements(content) if "number of runs" in text]
    assert "The traces end at 14 Oct 2026 08:" in content.silence
    assert "not called an outage" in content.silence


def test_the_end_of_the_last_read_is_none_but_a_source_that_goes_silent_is(connection: Connection) -> None:
    write(connection, stopped())
    read(connection, START + timedelta(hours=STOP, minutes=10))
    assert not statements(incidents.build(context(connection)))
    read(connection, NOW)
    (found,) = statements(incidents.build(context(connection)))
    assert "the number of runs fell from about" in found
    assert "None has come since" in found


def test_what_is_sent_here_and_stops_is_an_outage(connection: Connection) -> None:
    write(connection, stopped())
    read(connection, START + timedelta(hours=STOP), asked=False)
    (found,) = statements(incidents.build(context(connection)))
    assert "the number of runs fell from about" in found


def test_an_agent_that_stops_while_its_file_goes_on_is_an_outage(connection: Connection) -> None:
    write(connection, [run for run in healthy(9000) if run["agent_name"] != "agent-1" or run["hours"] < STOP])
    of_files(connection)
    found = statements(incidents.build(context(connection)))
    assert any("the number of runs of agent “agent-1” fell" in text for text in found), found


def test_one_source_that_ends_and_one_that_begins_beside_it_are_no_incidents(connection: Connection) -> None:
    late = [run | {"run_id": f"o{run['run_id']}", "source": "otlp", "agent_name": "mine"} for run in healthy(20_000)]
    late = [run for run in late if run["hours"] >= HOURS - 6]
    write(connection, [*stopped(), *late])
    of_files(connection)
    content = incidents.build(context(connection))
    assert not statements(content)
    assert "The traces of p (files) end at 14 Oct 2026 08:" in content.silence


# --- what is blamed is not called unmoved ---------------------------------------------------------------------


def test_a_change_that_an_incident_is_laid_to_is_not_called_unmoved(connection: Connection) -> None:
    runs = healthy(6000)
    for run in runs:  # dearer for a day and a half after the prompt: an incident, which the comparison of weeks leaves out
        if run["agent_name"] == "agent-1" and 200 <= run["hours"] < 236:
            run["total_cost"] *= 2.1
    write(connection, runs)
    event(connection, "prompt", 200, "agent-1", "answer 3")
    event(connection, "version", 120, "agent-2", "v9")
    looked_at = context(connection)
    assert any("prompt “answer 3”" in text for text in statements(incidents.build(looked_at)))
    content = changes.build(looked_at)
    verdicts = {row[2]: row[3] for row in content.tables[0].rows}
    assert verdicts == {"version “v9”": "no change seen", "prompt “answer 3”": "came with an incident"}
    assert "What moved with some of them is told under “What went wrong in this time”" in content.silence
    assert "At none of them" not in content.silence


def test_a_version_whose_runs_an_incident_is_about_is_it_too() -> None:
    change = changes.Change(START, "prompt “answer 13”", "a", inferred=True)
    assert changes._Cause("a", "13").is_change(change), "runs have the prompt's version without its name"
    assert changes._Cause(None, "answer 13").is_change(change)
    assert not changes._Cause("b", "13").is_change(change)
    assert not changes._Cause("a", "3").is_change(change)


# --- what matters ---------------------------------------------------------------------------------------------


def test_cents_are_not_what_matters_most(connection: Connection) -> None:
    runs = [run | {"total_cost": 1e-7, "status": "success", "error_type": None, "error_message": None} for run in healthy(400)]
    payloads = [{"run_id": run["run_id"], "hours": run["hours"], "inputs": f"question {number % 20}"} for number, run in enumerate(runs)]
    write(connection, runs, payloads=payloads)
    (found,) = repeats.build(context(connection)).findings
    assert found.severity == "info"
    assert not [finding.key for _, finding in made(connection).highlights if "repeats" in finding.key]
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.traces SET total_cost = 1")
    (found,) = repeats.build(context(connection)).findings
    assert found.severity == "notice"
    assert made(connection).highlights[0][1].key == found.key


def test_money_is_ranked_from_a_dollar_a_month_on(connection: Connection) -> None:
    write(connection, healthy(1))

    def found(key: str, money: str | None, severity: Any = "notice") -> Finding:
        return Finding(key, f"{key}.", "Sure.", money_per_month=None if money is None else Decimal(money), severity=severity)

    registry = Registry()
    registry.register(Section("one", "one", 0, lambda context: Content((found("cents", "0.5"), found("unknown", None)))))
    registry.register(Section("two", "two", 1, lambda context: Content((found("dollars", "2"), found("dust", "0.000004", "info")))))
    assert [finding.key for _, finding in made(connection, registry=registry).highlights] == ["dollars", "unknown", "cents"]


def test_that_nothing_has_a_price_is_said_once_and_not_as_what_matters(connection: Connection) -> None:
    write(connection, [{"run_id": f"r{number}", "hours": HOURS * number / 600, "latency_seconds": 1.0} for number in range(600)])
    content = cost.build(context(connection))
    assert [finding.key for finding in content.findings] == ["cost.unpriced"]
    report = made(connection)
    assert not report.highlights
    text = told(report)
    assert text.count("none has a price") == 1
    assert text.count("600 of 600") == 0


# --- words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "said"), [(0.00004, "0.1%"), (0.0123, "1.3%"), (0.02, "2.0%"), (0.9996, "100.0%"), (1.0, "100.0%")])
def test_a_bound_is_rounded_up(share: float, said: str) -> None:
    assert words.bound(share) == said


def test_no_bound_is_told_as_up_to_under(connection: Connection) -> None:
    write(connection, successes(8000))
    content = errors.build(context(connection))
    assert content.silence == "None of 8,000 runs failed. The error rate may still be up to 0.1% (95%)."


def test_somebodys_own_word_gets_no_plural(connection: Connection) -> None:
    runs = healthy(3000)
    for number, run in enumerate(runs):
        run["metadata"] = {"Ergebnis": ("ok", "fehler")[number % 2]}
    write(connection, runs)
    silence = incidents.build(context(connection)).silence
    assert "the largest values of “Ergebnis”" in silence
    assert "Ergebniss" not in silence
