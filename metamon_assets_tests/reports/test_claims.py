"""What a report must not claim: releases as incidents, figures without a before, one incident twice, verdicts that their table denies."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from psycopg2.extensions import connection as Connection

from metamon_assets import words
from metamon_assets.charts import as_svg
from metamon_assets.config import Settings
from metamon_assets.reports import html, past_incidents
from metamon_assets.reports.findings import Content, Context, Estimate
from metamon_assets.reports.measures import BY_KEY
from metamon_assets.reports.readiness import Readiness
from metamon_assets.reports.report import build_report
from metamon_assets.reports.sections import changes, cost, default_registry, errors, incidents, readiness, traffic
from metamon_assets.reports.sections.masking import template
from metamon_assets_tests.reports.histories import DAYS, END, NOW, START, opened, write
from metamon_assets_tests.reports.test_statistics import event, healthy

HOURS = 24 * DAYS
HALF = HOURS / 2


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    opened_connection = opened(database)
    yield opened_connection
    opened_connection.close()


def context(connection: Connection, start: int = 0) -> Context:
    return Context(connection, START + timedelta(days=start), END, NOW)


def statements(content: Content) -> list[str]:
    return [finding.statement for finding in content.findings]


# --- releases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [100, 300])
@pytest.mark.parametrize("with_version", [True, False], ids=["beside the version", "alone"])
def test_a_rollout_is_no_incident(connection: Connection, at: int, *, with_version: bool) -> None:
    runs = healthy(6000)
    for run in runs:
        build = "b78" if run["hours"] >= at else "b77"
        run["metadata"] = {"build": build, "git_sha": build[::-1]}
        if with_version:
            run["agent_version"] = build
    write(connection, runs)
    assert statements(incidents.build(context(connection))) == []


def test_a_tenant_that_moves_to_another_is_none_but_a_surge_of_one_is(connection: Connection) -> None:
    runs = healthy(6000)
    for run in runs:
        if run["hours"] >= HALF and run["tenant_id"] == "tenant-3":
            run["tenant_id"] = "tenant-new"
    more = [run | {"hours": 210 + run["hours"] % 8, "run_id": f"x{number}"} for number, run in enumerate(runs[:700])]
    write(connection, [*runs, *(run | {"tenant_id": "tenant-1", "conversation_id": run["run_id"]} for run in more)])
    found = statements(incidents.build(context(connection)))
    assert len(found) == 1, found
    assert "number of runs rose from about" in found[0]


def test_what_stays_away_without_anybody_taking_over_is_not_left_out() -> None:
    rng = np.random.default_rng(8)
    others, own, hours = rng.poisson(30, HOURS).astype(float), rng.poisson(10, HOURS).astype(float), np.arange(HOURS)
    away = (hours >= 200) & (hours < 280)
    expected = np.full(HOURS, 40.0)
    assert past_incidents._handed_over(np.where(away, 0, own), others + own, expected)
    assert not past_incidents._handed_over(np.where(away, 0, own), others + np.where(away, 0, own), expected)
    assert not past_incidents._handed_over(np.where(hours % 24 < 8, 0, own), others + own, expected), "a value of the day"


@pytest.mark.parametrize(
    ("relative", "told"),
    [(0.12, "+12%"), (-0.034, "-3.4%"), (2.4, "×3.4"), (41.0, "×42"), (2.2e12, "×1,000 or more"), (math.nan, "unknown"), (98.9, "×100")],
)
def test_no_percentage_is_beyond_reason(relative: float, told: str) -> None:
    assert words.change(relative) == told


# --- what lies before the report ------------------------------------------------------------------------------


def test_what_began_before_the_report_and_goes_on_is_told_and_what_was_over_is_not(connection: Connection) -> None:
    runs = healthy(8000)
    for run in runs:
        if run["hours"] >= 7 * 24 - 5:
            run["latency_seconds"] *= 2
        if 60 <= run["hours"] < 80:
            run["total_cost"] *= 5
    write(connection, runs)
    event(connection, "version", 7 * 24 + 3, "agent-0", "v2")
    looked_at = context(connection, start=7)
    found = incidents.build(looked_at)
    assert len(found.findings) == 1, statements(found)
    assert "latency of all runs rose" in found.findings[0].statement
    assert "until the end of the period" in found.findings[0].statement
    assert all(run.start_time >= looked_at.start for run in found.findings[0].runs)
    assert changes.build(looked_at).tables[0].rows[0][3] != "too little data"


# --- figures --------------------------------------------------------------------------------------------------


def test_a_figure_that_is_none_cannot_be_told() -> None:
    with pytest.raises(ValueError, match="not a number"):
        Estimate(math.nan, None, None, "ratio", 3)


def test_a_slice_without_runs_before_is_held_against_its_agent_and_nothing_is_unknown(connection: Connection) -> None:
    runs = healthy(8000)
    for run in runs:
        run["response_model"] = "small"
        if 200 <= run["hours"] < 240 and run["agent_name"] == "agent-1":
            run["response_model"] = "large"
            run["total_cost"] *= 6
    write(connection, runs)
    for section in default_registry().in_order():
        content = section.build(context(connection))
        for finding in content.findings:
            said = finding.statement + finding.certainty
            assert "nan%" not in said
            assert "$nan" not in said
            assert "from unknown" not in said
            assert "to unknown" not in said
            assert "inf" not in [str(figure) for figure in (finding.estimate and (finding.estimate.low, finding.estimate.value)) or ()]
    found = incidents.build(context(connection)).findings
    assert any("cost per run" in finding.statement for finding in found)


# --- once -----------------------------------------------------------------------------------------------------


def test_an_incident_is_told_once_and_by_its_failures_first(connection: Connection) -> None:
    runs = healthy(8000)
    rng = np.random.default_rng(3)
    for run in runs:
        if 290 <= run["hours"] < 298:
            run["latency_seconds"] *= 6
            if rng.random() < 0.35:
                run |= {"status": "error", "error_type": "RateLimitError", "error_message": "RateLimitError: backend answered 429"}
        elif rng.random() < 0.004:
            run |= {"status": "error", "error_type": "RateLimitError", "error_message": "RateLimitError: backend answered 429"}
    write(connection, runs)
    looked_at = context(connection)
    (found,) = incidents.build(looked_at).findings
    assert "the error rate of all runs rose from" in found.statement
    assert "typical latency" in found.statement
    assert found.statement.index("error rate") < found.statement.index("latency")
    patterns = errors.build(looked_at)
    assert not [finding.key for finding in patterns.findings if ".rising" in finding.key or ".new" in finding.key]
    limited = next(finding for finding in patterns.findings if "429" in finding.statement)
    assert "“RateLimitError: backend answered 429”" in limited.statement
    assert "came in incidents that are over" in limited.statement


def test_failures_without_a_message_are_no_pattern_and_never_serious(connection: Connection) -> None:
    runs = healthy(6000)
    for number, run in enumerate(runs):
        run |= {"error_type": None, "error_message": None}
        if run["hours"] > 0.76 * HOURS and number % 8 == 0:
            run["status"] = "error"
    write(connection, runs)
    content = errors.build(context(connection))
    assert {finding.severity for finding in content.findings} <= {"info", "notice"}
    assert "failed without a message" in content.findings[1].statement
    assert "no error type" not in " ".join(statements(content))


# --- verdict and table ----------------------------------------------------------------------------------------


def excludes_zero(cell: str) -> bool:
    low, _, high = cell.partition(" to ")
    return bool(high) and (low[0] in "×+") == (high[0] in "×+")


@pytest.mark.parametrize("factor", [1.0, 1.08, 1.15])
def test_verdicts_and_intervals_agree(connection: Connection, factor: float) -> None:
    runs = healthy(7000)
    for run in runs:
        if run["hours"] >= 170:
            run["latency_seconds"] *= factor
    write(connection, runs)
    for number in range(3):
        event(connection, "version", 170 + number / 100, f"agent-{number}", "v2")
    content = changes.build(context(connection))
    for row in content.tables[0].rows:
        if row[3] == "no change seen":
            assert not any(excludes_zero(cell) for cell in row[4:]), row
        if row[3] in ("better", "worse"):
            assert any(excludes_zero(cell) for cell in row[4:]), row
    assert "hold at once" in content.tables[0].title


def test_an_interval_that_excludes_none_without_a_clear_move_is_called_unclear() -> None:
    effects = [changes._Effect(BY_KEY["latency"], _found(0.001 if number else 0.04), 1.0, 1.1, True) for number in range(2)]
    judged = changes._corrected([_judged(effects[:1]), _judged(effects[1:])])
    assert [found.verdict for found in judged] == ["no change seen", "worse"]
    small = _found(1e-6)
    small = replace(small, effect=1.02, ci_lower=1.012, ci_upper=1.028)
    judged = changes._corrected([_judged([changes._Effect(BY_KEY["latency"], small, 1.0, 1.02, True)])])
    assert judged[0].verdict == "unclear"
    assert "unclear" in changes._nothing(judged)


def _found(p_value: float) -> Any:
    from statistics import NormalDist

    from metamon_assets.statistics.significance import compare_heavy_tailed

    rng = np.random.default_rng(1)
    found = compare_heavy_tailed(np.exp(rng.normal(0, 1, 100)), np.exp(rng.normal(0, 1, 100)))
    z = NormalDist().inv_cdf(1 - p_value / 2)
    error = math.log(1.1) / z
    return replace(found, effect=1.1, ci_lower=1.1 * math.exp(-1.96 * error), ci_upper=1.1 * math.exp(1.96 * error), p_value=p_value)


def _judged(effects: list[Any]) -> Any:
    import pandas as pd

    change = changes.Change(START, "version", "a", False)
    return changes._Judged(change, pd.DataFrame(), pd.DataFrame(), 7.0, 7.0, tuple(effects))


# --- words ----------------------------------------------------------------------------------------------------


def test_calls_of_a_model_are_counted_over_its_providers(connection: Connection) -> None:
    runs = [run | {"total_cost": None} for run in healthy(60)]
    for number, run in enumerate(runs):
        run |= {"response_model": "gpt-9", "provider": ("openai", "azure")[number % 2]}
    write(connection, runs)
    unpriced = next(finding for finding in cost.build(context(connection)).findings if finding.key == "cost.unpriced")
    assert "gpt-9 (60)" in unpriced.statement


@pytest.mark.parametrize(
    ("message", "masked"),
    [
        ("backend answered 502 for call 8812", "backend answered 502 for call <number>"),
        ("429 Too Many Requests", "429 Too Many Requests"),
        ("answered in 401 ms", "answered in <number> ms"),
        ("got 400 rows", "got <number> rows"),
    ],
)
def test_status_codes_stay_where_words_show_that_they_are_some(message: str, masked: str) -> None:
    assert template(message) == masked


def test_readiness_says_the_same_once_and_that_it_is_about_traffic(connection: Connection) -> None:
    write(connection, healthy(15))
    content = readiness.build(context(connection))
    assert [row[0] for row in content.tables[0].rows] == ["all features"]
    assert "about traffic" in content.silence
    assert readiness.waiting(Readiness("golden cases", None, "ready", "")) == "enough now"


def test_few_hours_are_not_told_as_no_days(connection: Connection) -> None:
    runs = healthy(150)
    for run in runs:
        run["hours"] = HOURS - 6 + run["hours"] / 100
    write(connection, runs)
    assert "over 0 days" not in incidents.build(context(connection)).silence


# --- pictures -------------------------------------------------------------------------------------------------


def test_incidents_have_pictures_with_their_hours_shaded(connection: Connection) -> None:
    runs = healthy(6000)
    for run in runs:
        run["latency_seconds"] *= 4 if 200 <= run["hours"] < 230 else 1
    write(connection, runs)
    content = incidents.build(context(connection))
    assert len(content.charts) == 1
    assert "latency (seconds), all runs" in content.charts[0]["description"]
    shaded, _ = content.charts[0]["layer"]
    assert "2026-10-09T" in json.dumps(shaded)


def test_a_table_of_times_alone_has_a_picture(connection: Connection) -> None:
    write(connection, [{"hours": run["hours"], "latency_seconds": run["latency_seconds"]} for run in healthy(900)])
    content = traffic.build(context(connection))
    (picture,) = content.charts
    assert [part["description"] for part in picture["vconcat"]] == ["Runs by hour", "Median latency by hour (seconds)"]
    assert sum(point["value"] for point in picture["vconcat"][0]["layer"][0]["data"]["values"]) == 900
    assert "NaN" not in as_svg(picture, prefix="p")


def test_an_incident_after_a_release_is_not_laid_to_it(connection: Connection) -> None:
    runs = healthy(8000)
    for number, run in enumerate(runs):
        if 200 <= run["hours"] < 208 and number % 3:
            run |= {"status": "error", "error_type": None if number % 2 else "Timeout"}
    write(connection, runs)
    for agent in range(3):
        event(connection, "version", 170 + 3 * agent, f"agent-{agent}", "v2")
    looked_at = context(connection)
    (found,) = incidents.build(looked_at).findings
    assert "Most of the errors" not in found.statement or "(100.0%)" not in found.statement
    assert changes.build(looked_at).findings == ()


def test_tables_can_be_read_on_a_narrow_page(connection: Connection) -> None:
    write(connection, healthy(3000))
    event(connection, "version", 170, "agent-0", "v2")
    looked_at = context(connection)
    report = build_report(looked_at.connection, Settings.load(), START, END, NOW)
    page = html.page(report)
    assert '<table class="many">' in page, "the table of changes wraps"
    assert 'data-column="unpriced"' in page, "cells know their column, which a narrow page puts beside them"
    assert "content: attr(data-column)" in page
