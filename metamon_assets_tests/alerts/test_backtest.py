"""The rules on the past: they tell what was told, suggest what would have told less, and write nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from psycopg2.extensions import connection as Connection

import metamon_assets.cli.rules  # noqa: F401 - its commands belong to main
from metamon_assets.alerts.backtest import Answers, PastBuckets, Replay, backtest, lines
from metamon_assets.alerts.catalogue import Catalogue, bundled
from metamon_assets.alerts.series import Buckets
from metamon_assets.alerts.signals import SIGNALS, Look
from metamon_assets.cli.group import main
from metamon_assets.health import system
from metamon_assets.metrics.completions import BUCKET, bucket_of
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets_tests.alerts.scene import MINUTE, NOON, Scene, scene

TRIED = ("HighErrorRate", "LowQualityScore", "HighQueueLength", "SuddenCostSpike", "RAGFailureRateHigh", "HighJobFailureRate")
DAY = timedelta(days=1)


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with closing(connect(database)) as connection:
        yield connection


def catalogue(*names: str) -> Catalogue:
    return Catalogue({name: rule for name, rule in bundled().items() if name in names})


def found(connection: Connection, *names: str, now: datetime = NOON, days: int = 14) -> dict[str, Replay]:
    return {replay.name: replay for replay in backtest(connection, catalogue(*names), now, days)}


def good(at: Scene) -> None:
    at.runs(12, quality_score=0.95, total_cost="0.01", cost_source="reported")
    at.calls(8, 0, "retriever", "index")
    at.figure("queue_length", 3)
    at.jobs(2, 0)


def bad(at: Scene) -> None:
    at.runs(12, bad=5, good_values={"quality_score": 0.6}, bad_values={"status": "error"}, total_cost="0.09", cost_source="reported")
    at.calls(8, 4, "retriever", "index")
    at.figure("queue_length", 180)
    at.jobs(2, 1)


def test_the_past_tells_what_was_told(database: str) -> None:
    with scene(database, *TRIED) as at:
        for minutes, what in ((75, good), (35, bad), (75, good), (25, bad), (40, good)):
            at.minutes(minutes, lambda what=what: what(at))  # type: ignore[misc]
        told = at.rows("SELECT rule, dimension, dimension_value, opened_at, resolved_at FROM metamon.incidents ORDER BY incident_id")
        again = [
            (name, *incident.group, incident.opened_at, incident.closed_at)
            for name, replay in found(at.connection, *TRIED, now=at.now, days=1).items()
            for incident in replay.incidents
        ]
    assert {row[0] for row in told} == set(TRIED)
    assert sorted(row[:3] for row in again) == sorted(row[:3] for row in told)
    for row, other in zip(sorted(again), sorted(told), strict=True):
        for moment, live in zip(row[3:], other[3:], strict=True):
            # Retrievals are known by the start of their runs, a bucket earlier than they were when it counted.
            spare = BUCKET if row[0] == "RAGFailureRateHigh" else timedelta(0)
            assert (moment is None) == (live is None) and (moment is None or abs(moment - live) <= spare), (row, other)


def test_a_suggested_threshold_fires_at_most_once_a_week(connection: Connection) -> None:
    heights = [150, 200, 250, 300, 400, 900]
    for minute in range(0, 14 * 1440, 5):
        at = NOON - 14 * DAY + minute * MINUTE
        burst, within = divmod(minute, 2 * 1440 + 300)
        value = heights[burst] if burst < len(heights) and 600 <= within < 630 else 10 + minute % 7
        system.store(connection, [system.Figure("queue_length", value)], at)
    replay = found(connection, "HighQueueLength")["HighQueueLength"]
    assert len(replay.incidents) == 6
    assert replay.messages == 12
    assert [incident.peak for incident in replay.incidents] == heights
    assert 6 * 20 * 60 <= replay.seconds <= 6 * 40 * 60
    suggestion = replay.suggestion
    assert suggestion is not None and suggestion.quieter
    (line,) = lines([replay], 14)
    assert line.startswith(f"HighQueueLength: {{above: {suggestion.threshold:g}}}  # ")
    changed = bundled()["HighQueueLength"].model_copy(update={"above": suggestion.threshold})
    (then,) = backtest(connection, Catalogue({"HighQueueLength": changed}), NOON, 14)
    assert len(then.incidents) == suggestion.incidents <= 2
    calm = found(connection, "CriticalQueueLength")["CriticalQueueLength"]
    assert len(calm.incidents) == 1
    assert all(line.startswith("# ") for line in lines([calm], 14)), "what would tell more than now is a comment"


def test_nothing_is_written(database: str) -> None:
    tables = ("incidents", "incident_events", "outbox", "rule_states", "detector_states", "alert_progress", "anomalies")
    counts = "SELECT " + ", ".join(f"(SELECT count(*) FROM metamon.{table})" for table in tables)
    with scene(database, "HighErrorRate") as at:
        at.minutes(30, lambda: at.runs(30, bad=20))
        before = at.rows(counts)
        assert found(at.connection, *bundled(), now=at.now, days=1)["HighErrorRate"].incidents
        assert at.rows(counts) == before


def test_many_moments_are_answered_as_each_by_itself(database: str) -> None:
    with scene(database, "HighErrorRate") as at:
        at.minutes(60, lambda: bad(at), at.feedback, lambda: at.cache(900))
        moments = [at.now - number * BUCKET for number in range(12)]
        compared = 0
        with at.connection, at.connection.cursor() as cursor:
            for name, rule in bundled().items():
                answers, signal = Answers(cursor, rule, moments), SIGNALS[rule.metric]
                for moment in moments:
                    of_both = []
                    for source in (answers.at(moment), cursor):
                        buckets = Buckets()
                        buckets.refresh(cursor, at.now, DAY)
                        if signal.kind == "quantile" or signal.decides:
                            continue
                        of_both.append(list(signal.read(Look(source, moment, buckets), rule.window, rule.threshold, rule.by)))
                    assert of_both[:1] == of_both[1:], name
                    compared += sum(map(len, of_both[:1]))
    assert compared > 100


def test_windows_end_with_the_moment_that_is_looked_from(database: str) -> None:
    with scene(database, "HighErrorRate") as at:
        at.minutes(30, lambda: at.runs(10))
        at.minutes(30, lambda: at.runs(30))
        with at.connection, at.connection.cursor() as cursor:
            past, present = PastBuckets(), Buckets()
            past.load(cursor, at.now - DAY, at.now, ["overall", "agent"])
            present.refresh(cursor, at.now)
            (place, _), (other, _) = past.of(["overall"])[0], present.of(["overall"])[0]
            for length in (5, 15, 60):
                mine, theirs = (b.window(at.now, length * MINUTE)[p] for b, p in ((past, place), (present, other)))
                assert mine[past.column("completed")] == pytest.approx(theirs[present.column("completed")])
            assert past.window(at.now - 30 * MINUTE, 5 * MINUTE)[place, past.column("completed")] == 50
            past.load(cursor, at.now - timedelta(hours=2), at.now + BUCKET, ["overall", "agent"])
            assert past.window(at.now, 60 * MINUTE)[past.of(["overall"])[0][0], past.column("completed")] == 1200


def test_anomalies_are_those_that_were_recorded(connection: Connection) -> None:
    day = NOON.replace(hour=0)
    with connection, connection.cursor() as cursor:
        for minute, dimension, level in (
            *((600 + 5 * number, "agent", "warning") for number in range(3)),
            (600, "overall", "warning"),  # the same, seen from another side
            (615, "agent", "critical"),
            (600, "tenant", "normal"),
            (720 - 5, "model", "warning"),
        ):
            cursor.execute(
                "INSERT INTO metamon.anomalies (day, bucket_start, minutes, metric, dimension, dimension_value, value, sample, score,"
                " level)"
                " VALUES (%s, %s, 5, 'error_rate', %s, 'x', 0.5, 100, %s, %s)",
                (day.date(), day + minute * MINUTE, dimension, 0.9 if dimension == "agent" else 0.8, level),
            )
    replay = found(connection, "Anomaly", days=1)["Anomaly"]
    assert [(incident.group, incident.severity, incident.messages) for incident in replay.incidents] == [
        (("agent", "x"), "critical", 3),
        (("model", "x"), "warning", 1),
    ]
    assert replay.incidents[0].opened_at == day + 605 * MINUTE
    assert replay.incidents[1].closed_at is None


def test_the_command(
    database: str, tmp_path: Path, postgres: EmbeddedPostgres, database_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("METAMON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("METAMON_DATABASE_URL", postgres.url(database_name, ADMINISTRATOR))
    now = bucket_of(datetime.now(UTC))
    with scene(database, "HighErrorRate", now=now - timedelta(hours=1)) as at:
        at.minutes(55, lambda: at.runs(30, bad=20))
    result = CliRunner().invoke(main, ["rules", "backtest", "--days", "2", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    by_name = {rule["rule"]: rule for rule in document["rules"]}
    assert set(by_name) == set(Catalogue(bundled()).enabled)
    assert {incident["value"] for incident in by_name["HighErrorRate"]["incidents"]} == {"(all)", "support"}
    assert by_name["LearningWorkerDown"]["note"]
    assert "UTC" in result.stderr
    shown = CliRunner().invoke(main, ["rules", "backtest", "--days", "1"])
    assert shown.exit_code == 0, shown.output
    assert "HighErrorRate" in shown.stdout
    assert CliRunner().invoke(main, ["rules", "backtest", "--days", "15"]).exit_code == 2
