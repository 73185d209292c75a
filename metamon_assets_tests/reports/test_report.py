"""The report as a whole: true at every size, whole when a section fails, safe whatever the names are."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from psycopg2.extensions import connection as Connection

from metamon_assets.cli import main
from metamon_assets.config import Settings
from metamon_assets.reports import rows
from metamon_assets.reports.findings import Content, Context, Estimate, Finding, Registry, RunReference, Section, Table
from metamon_assets.reports.html import page
from metamon_assets.reports.report import Report, as_json, build_report, last_days
from metamon_assets.reports.sections import default_registry
from metamon_assets.reports.terminal import print_report
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import EmbeddedPostgres
from metamon_assets.warehouse.query import ask
from metamon_assets.warehouse.roles import ANALYST, WRITER
from metamon_assets_tests.reports import histories
from metamon_assets_tests.reports.histories import END, NOW, START, write

HOSTILE = "<script>alert(1)</script>\"'&\x1b[31mred\x1b]0;owned\x07\u202etxt.exe\u200b"


@pytest.fixture
def history(database: str) -> Iterator[Connection]:
    """An empty history, to be written."""
    connection = histories.opened(database)
    yield connection
    connection.close()


@pytest.fixture
def settings() -> Settings:
    return Settings.load()


def made(connection: Connection, settings: Settings, registry: Registry | None = None) -> Report:
    return build_report(connection, settings, START, END, NOW, registry=registry)


def in_terminal(report: Report) -> str:
    file = io.StringIO()
    print_report(report, file)
    return file.getvalue()


def on_page(report: Report) -> str:
    """The page's text, without tags."""
    return re.sub(r"<[^>]+>", " ", re.sub(r"<(style|svg).*?</\1>", "", page(report), flags=re.DOTALL))


def runs(count: int, **columns: Any) -> list[dict[str, Any]]:
    """Traces evenly over the period."""
    return [{"run_id": f"r{number}", "hours": 336 * number / count, **columns} for number in range(count)]


def test_an_empty_history_says_so(history: Connection, settings: Settings) -> None:
    report = made(history, settings)
    assert not report.parts
    for text in (in_terminal(report), on_page(report)):
        assert "There are no traces in this period" in text
        assert "metamon doctor" in text
        assert "$0" not in text
    start, end = last_days(history, NOW)
    assert (start.date(), end.date()) == (NOW.date() - timedelta(days=14), NOW.date() + timedelta(days=1))


def test_one_run_makes_no_claims(history: Connection, settings: Settings) -> None:
    write(history, [{"run_id": "only", "hours": 300, "latency_seconds": 2.0, "total_cost": "0.25", "agent_name": "a"}])
    report = made(history, settings)
    text = in_terminal(report)
    assert "1 trace by 1 agent on 1 day: 1 succeeded, 0 failed (0.0%)." in text
    assert "1 trace cost $0.25" in text
    assert "In 30 days" not in text, "a month from a day"
    assert "95% interval" not in text
    assert not report.failures


@pytest.mark.parametrize("count", [1, 2, 30])
def test_only_time_latency_and_status(history: Connection, settings: Settings, count: int) -> None:
    """What a CSV with three columns gives: no agent, no model, no spans, no cost."""
    write(history, runs(count, latency_seconds=1.5))
    text = in_terminal(made(history, settings))
    flat = " ".join(text.split())
    assert f"What {count} trace{'s' if count > 1 else ''} cost is unknown: none has a price." in flat
    assert "not counted as $0" in flat
    assert "$0.00" not in text
    assert "The traces have no child runs" in flat
    assert "so there are no groups to compare" in flat
    assert "Not in these traces, and therefore not in this report: agent names" in flat


def test_all_failed_and_none_ended(history: Connection, settings: Settings) -> None:
    write(history, runs(40, status="error", error_type="Timeout", latency_seconds=30.0, agent_name="a"))
    assert "40 failed (100.0%)" in in_terminal(made(history, settings))
    with history, history.cursor() as cursor:
        cursor.execute("UPDATE metamon.traces SET status = 'pending', latency_seconds = NULL, error_type = NULL")
    text = in_terminal(made(history, settings))
    assert "0 succeeded, 0 failed, 40 have not ended" in text
    assert "0.0%)" not in text.splitlines()[3], "no failure rate without an ended trace"


def test_a_hundred_thousand(history: Connection, settings: Settings, record_property: Callable[[str, object], None]) -> None:
    histories.fill(history, 100_000, spans=False, payloads=False)
    report = made(history, settings)
    record_property("seconds", {part.section.key: round(part.seconds, 2) for part in report.parts})
    assert not report.failures
    assert report.facts.traces == 100_000
    assert report.facts.cost == Decimal("575")
    flat = " ".join(in_terminal(report).split())
    assert "100,000 traces cost $575.00 in 14 days" in flat
    assert "a month of 30 days is $1,232" in flat


def test_every_query_lists_its_runs_to_an_analyst(
    history: Connection, settings: Settings, postgres: EmbeddedPostgres, database_name: str
) -> None:
    histories.fill(history, 3_000)
    _plant(history)
    report = made(history, settings)
    assert not report.failures, report.failures
    sections = {section.key for section, _ in report.findings}
    assert {"cost", "steps", "retries", "repeats", "savings"} <= sections
    analyst = connect(postgres.url(database_name, ANALYST))
    for _, finding in report.findings:
        if not finding.query:
            continue
        with ask(analyst, finding.query) as answer:
            place = answer.columns.index("run_id") if "run_id" in answer.columns else None
            listed = list(answer.rows())
        assert listed or not finding.runs, finding.key
        if place is not None:
            assert {run.run_id for run in finding.runs} <= {row[place] for row in listed}, finding.key
    analyst.close()


def _plant(connection: Connection) -> None:
    """Repeated inputs, retries within a trace, and a long tail of cost."""
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.payloads SET inputs = 'the same' WHERE right(run_id, 1) = '7'")
        cursor.execute("UPDATE metamon.traces SET conversation_id = NULL WHERE right(run_id, 1) = '7'")
        cursor.execute("UPDATE metamon.traces SET conversation_id = NULL, total_cost = total_cost * 40 WHERE right(run_id, 2) = '33'")
        cursor.execute(
            "INSERT INTO metamon.spans (day, source, project, run_id, trace_id, parent_run_id, run_type, name, start_time, latency_seconds,"
            " status, cost_source, observed_time) SELECT day, source, project, run_id || 'x', trace_id, parent_run_id, run_type, name,"
            " start_time + interval '1 s', 1, 'success', 'unpriced', observed_time FROM metamon.spans WHERE status = 'error'"
        )


def test_a_section_that_fails_is_shown_as_failed(history: Connection, settings: Settings) -> None:
    write(history, runs(3))
    registry = Registry({"cost": default_registry().sections["cost"]})

    def build(context: Context) -> Content:
        with context.connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")
        return Content()

    registry.register(Section("broken", "A broken one", 1, build))
    report = made(history, settings, registry)
    assert [part.section.key for part in report.failures] == ["broken"]
    assert "unknown: none has a price" in " ".join(in_terminal(report).split()), "the section after it is there"
    for text in (in_terminal(report), on_page(report)):
        assert "This section failed and is missing: DivisionByZero: division by zero" in text
    assert as_json(report)["sections"][0]["failure"] == "DivisionByZero: division by zero"
    assert rows.replace_day(history, START.date(), report) == 1 + len(report.findings)
    with history, history.cursor() as cursor:
        cursor.execute("SELECT key FROM metamon.report_findings WHERE severity = 'serious'")
        assert cursor.fetchall() == [("broken.failed",)]


def test_hostile_names_are_text(history: Connection, settings: Settings) -> None:
    names = [f"{HOSTILE}{number}" for number in range(2)]
    traces = [
        {
            "run_id": f"{HOSTILE}{n}",
            "hours": n,
            "agent_name": names[n % 2],
            "total_cost": "1",
            "latency_seconds": 1.0 + n % 2,
            "name": HOSTILE,
        }
        for n in range(300)
    ]
    spans = [
        {"run_id": f"s{n}", "trace_id": f"{HOSTILE}{n}", "parent_run_id": f"{HOSTILE}{n}", "hours": n, "run_type": "llm", "name": HOSTILE}
        | {"latency_seconds": 0.5, "response_model": HOSTILE, "input_tokens": 10, "output_tokens": 5}
        for n in range(300)
    ]
    write(history, traces, spans)
    report = made(history, settings)
    assert not report.failures
    text, html = in_terminal(report), page(report)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert not set("\x1b\x07\u202e\u200b") & set(html)
    assert html.count("<svg") >= 1


def test_a_link_is_one_only_when_a_browser_may_follow_it(history: Connection, settings: Settings) -> None:
    write(history, runs(1))
    urls = ["https://smith.example/r/1", "javascript:alert(1)", "data:text/html,x"]
    references = tuple(RunReference("langsmith", "p", f"run-{n}", START, url) for n, url in enumerate(urls))
    finding = Finding("k", "S.", "C.", Estimate(1.0, None, None, "count", 1), None, references)
    registry = Registry()
    registry.register(Section("one", "One", 1, lambda context: Content((finding,), (Table("T", ("a",), ()),))))
    html = page(made(history, settings, registry))
    assert 'href="https://smith.example/r/1"' in html
    assert "javascript:" not in html
    assert "data:text" not in html


def test_highlights_go_by_severity_then_money(history: Connection, settings: Settings) -> None:
    write(history, runs(1))

    def finding(key: str, severity: Any, money: str | None) -> Finding:
        return Finding(key, f"{key}.", "Sure.", money_per_month=None if money is None else Decimal(money), severity=severity)

    found = {
        "one": [finding("info-rich", "info", "900"), finding("poor", "notice", None), finding("rich", "notice", "100")],
        "two": [finding("trifle", "notice", "1"), finding("serious", "serious", None), finding("third of two", "notice", "90")],
        "cost": [finding("cost.total", "serious", "1000")],
    }
    registry = Registry()
    for number, (key, findings) in enumerate(found.items()):
        registry.register(Section(key, key, number, lambda context, findings=findings: Content(tuple(findings))))  # type: ignore[misc]
    report = made(history, settings, registry)
    assert [one.key for _, one in report.highlights] == ["serious", "rich", "third of two", "poor"], "a trifle would be the third of two"


def test_a_query_that_nobody_could_copy_is_no_next_step(history: Connection, settings: Settings) -> None:
    write(history, runs(1))
    long, short = f"SELECT {'1, ' * 1000}1", "SELECT run_id FROM analytics.traces"

    def steps(*queries: str) -> str:
        findings = tuple(
            Finding(str(n), f"Finding {n}.", "Sure.", severity="serious", query=query) for n, query in enumerate(queries, start=1)
        )
        registry = Registry()
        registry.register(Section("one", "one", 0, lambda context: Content(findings)))
        return in_terminal(made(history, settings, registry)).split("What to do next")[1]

    assert "the first finding" in steps(short, long)
    later = steps(long, short)
    assert "behind “Finding 2.”" in later
    assert f'metamon sql "{short}"' in later
    assert "metamon sql" not in steps(long)


def test_money_is_a_rate_only_of_what_goes_on() -> None:
    assert Finding("k", "S.", "C.").money == ""
    assert Finding("k", "S.", "C.", money_per_month=Decimal(12), money_is="at most").money == "$12.00 in 30 days (at most)"
    assert Finding("k", "S.", "C.", cost=Decimal("3.5")).money == "$3.50 once"


def test_the_command(history: Connection, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(history, runs(30, total_cost="0.5", latency_seconds=1.0, agent_name="a"))
    monkeypatch.setenv("METAMON_DATABASE_URL", database)
    monkeypatch.setenv("METAMON_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("metamon_assets.warehouse.server.migrate", lambda *arguments, **options: None, raising=False)
    run = CliRunner().invoke

    said = run(main, ["report"])
    assert said.exit_code == 0, said.output
    assert "2026-10-01 to 2026-10-14 (UTC)" in said.stdout, "the last 14 days that have data"
    assert "30 traces cost $15.00" in said.stdout
    assert max(map(len, said.stdout.split("metamon sql")[0].splitlines())) <= 80

    document = json.loads(run(main, ["report", "--json", "--section", "cost"]).stdout)
    assert [section["key"] for section in document["sections"]] == ["cost"]
    assert document["facts"]["cost"] == "15.000000000000"

    html = tmp_path / "report.html"
    assert run(main, ["report", "--html", str(html), "--from", "2026-10-03", "--to", "2026-10-04"]).exit_code == 0
    assert "2026-10-03 to 2026-10-04" in html.read_text(encoding="utf-8")

    for command in ("report", "readiness"):
        unknown = run(main, [command, "--agent", "nope"])
        assert (unknown.exit_code, unknown.stdout) == (1, "")
        assert "There is no agent nope; there are: a." in unknown.stderr
        assert "There is no project nope; there are: " in run(main, [command, "--project", "nope"]).stderr
    assert "There is no section nonsense" in run(main, ["report", "--section", "nonsense"]).output
    assert run(main, ["report", "--from", "2026-10-03", "--to", "2026-10-01"]).exit_code == 2
    assert "cannot be written" in run(main, ["report", "--html", "/nowhere/at/all.html"]).output


def test_figures_of_numpy_are_written_as_numbers(history: Connection, settings: Settings) -> None:
    write(history, runs(1))
    figures = Estimate(np.float64(0.5), np.float64(0.25), np.float64(np.inf), "share", 3, np.float64(1e-9))
    registry = Registry()
    registry.register(Section("one", "one", 0, lambda context: Content((Finding("a", "A.", "Sure.", estimate=figures),))))
    report = made(history, settings, registry)
    assert rows.replace_day(history, START.date(), report) == 1
    with history, history.cursor() as cursor:
        cursor.execute("SELECT value, low, high, sample, p_value FROM metamon.report_findings")
        assert cursor.fetchall() == [(0.5, 0.25, float("inf"), 3, 1e-9)]


def test_an_agent_or_project_alone(history: Connection, settings: Settings) -> None:
    write(history, [{**run, "run_id": f"{run['run_id']}-{a}", "agent_name": a} for a in "ab" for run in runs(20, total_cost="1")])
    spans = [
        {"run_id": f"s{n}-{a}", "trace_id": f"r{n}-{a}", "run_type": "tool", "name": f"tool-{a}", "hours": 16 * n, "latency_seconds": 1}
        for a in "ab"
        for n in range(20)
    ]
    write(history, spans=spans)
    report = build_report(history, settings, START, END, NOW, agent="a")
    assert report.facts.traces == 20
    text = in_terminal(report)
    assert "tool-a" in text
    assert "tool-b" not in text
    assert build_report(history, settings, START, END, NOW, project="other").facts.traces == 0


def test_the_writer_makes_it(postgres: EmbeddedPostgres, database_name: str, settings: Settings) -> None:
    """The asset runs as the pipeline's role, which owns nothing."""
    connection = connect(postgres.url(database_name, WRITER))
    assert made(connection, settings).facts.traces == 0
    connection.close()
