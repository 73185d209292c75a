"""A look: what it learns and remembers, outages, restarts, two at once, and what it opens on its own."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from typing import Any

import pytest

from metamon_assets.alerts import detection
from metamon_assets.alerts.catalogue import Catalogue, bundled
from metamon_assets.alerts.routing import Policy
from metamon_assets.alerts.tick import Watcher, tick
from metamon_assets.health import targets
from metamon_assets.metrics.completions import BUCKET, refresh_completions
from metamon_assets.warehouse import connect
from metamon_assets_tests.alerts.scene import MINUTE, NOON, Scene, scene

RUNS = 20  # per bucket
STALE = {"component": "sensor late_data", "state": "stale", "since": "2026-08-22T12:00:00+00:00", "detail": "no tick"}


def history(at: Scene, hours: float, errors: float = 0.05, seed: int = 1, each: int = RUNS) -> None:
    """Runs of one agent that end evenly, from that many hours before now on, and their buckets."""
    rng = random.Random(seed)
    rows = []
    count = int(hours * 12 * each)
    for place in range(count):
        end = at.now - timedelta(hours=hours) * (1 - (place + 0.5) / count)
        seconds = rng.lognormvariate(0, 0.4)
        rows.append(
            {
                "run_id": f"h{place}",
                "trace_id": f"h{place}",
                "run_type": "chain",
                "status": "error" if rng.random() < errors else "success",
                "agent_name": "support",
                "start_time": end - timedelta(seconds=seconds),
                "end_time": end,
            }
        )
    from metamon_assets.traces.sources.base import Kind

    at.put(Kind.RUNS, rows)
    refresh_completions(at.connection, [at.now - BUCKET * back for back in range(int(hours * 12) + 1)], at.now)


def anew(at: Scene) -> Scene:
    """Another process: nothing in memory."""
    at.watcher = Watcher(at.watcher.catalogue, at.policy)
    return at


def test_a_new_installation_learns_from_the_history_that_there_is(database: str) -> None:
    with scene(database, "Anomaly", latencies=random.Random(2)) as at:
        history(at, 40)
        ticked = tick(at.connection, at.watcher, at.now)
        assert ticked.buckets == 40 * 12 - 1  # the newest is not two minutes old
        assert at.watcher.detection.reached == at.now - BUCKET
        assert at.rows("SELECT count(*) FROM metamon.outbox") == [(0,)]


def test_a_burst_of_errors_is_found_within_minutes_with_its_evidence_and_resolved(database: str) -> None:
    with scene(database, "Anomaly", latencies=random.Random(2)) as at:
        history(at, 40)
        tick(at.connection, at.watcher, at.now)
        at.step = MINUTE
        at.minutes(6, lambda: at.runs(4))
        began = at.now
        found = "FROM metamon.incidents WHERE metric = 'error_rate' AND NOT late"
        while not at.rows(f"SELECT {found}") and at.now < began + 15 * MINUTE:
            at.go_on(lambda: at.runs(4, bad=3))
        assert at.now - began <= 5 * MINUTE
        columns = "dimension, expected, value, affected_requests, affected_users, examples, reasons"
        ((dimension, expected, value, requests, users, examples, reasons),) = at.rows(f"SELECT {columns} {found}")
        assert dimension == "agent"  # told once, though all runs are out as well
        assert value > 0.2 > expected
        assert requests >= 6
        assert users == 7
        assert {example["source"] for example in examples} == {"files"}
        assert reasons
        at.minutes(20, lambda: at.runs(4, bad=3))
        assert at.rows(f"SELECT dimension, status {found}") == [("agent", "open")]
        at.step = BUCKET
        at.minutes(90, lambda: at.runs(4))
        assert at.rows(f"SELECT status {found}") == [("resolved",)]


def test_silence_is_found(database: str) -> None:
    with scene(database, "Anomaly", latencies=random.Random(2)) as at:
        history(at, 80, each=12)  # what is due is known after two days, and then learnt about
        tick(at.connection, at.watcher, at.now)
        at.minutes(25)
        assert "requests" in {metric for (metric,) in at.rows("SELECT metric FROM metamon.incidents WHERE NOT late")}


def test_a_restart_forgets_nothing(database: str) -> None:
    with scene(database, "Anomaly", latencies=random.Random(2)) as at:
        history(at, 40)
        tick(at.connection, at.watcher, at.now)
        at.minutes(90, lambda: at.runs(4))
        kept = {key: one.detector.state for key, one in at.watcher.detection.followed.items()}
        at.now += MINUTE
        tick(at.connection, anew(at).watcher, at.now)
        again = {key: one.detector.state for key, one in at.watcher.detection.followed.items()}
        assert again == kept
        assert at.rows("SELECT count(DISTINCT as_of) FROM metamon.detector_states WHERE as_of <> date_trunc('day', as_of)") == [(1,)]


def test_an_outage_is_caught_up_with_bucket_by_bucket_and_pages_nobody_for_what_is_over(database: str) -> None:
    policy = Policy(channels={"mail": "email"}, rule_channels={"HighErrorRate": ("email",)})
    with scene(database, "HighErrorRate", "Anomaly", policy=policy) as at:
        at.minutes(30, lambda: at.runs(30))
        for happens, minutes in (("bad", 30), ("good", 120)):  # nobody looks
            for _ in range(minutes // 5):
                at.now += BUCKET
                at.runs(30, bad=15 if happens == "bad" else 0)
        refresh_completions(at.connection, [at.now - BUCKET * back for back in range(40)], at.now)
        before = at.watcher.detection.reached
        ticked = tick(at.connection, anew(at).watcher, at.now)
        assert ticked.buckets == (at.watcher.detection.reached - before) // BUCKET  # type: ignore[operator]
        found = at.rows("SELECT rule, dimension, status, late FROM metamon.incidents WHERE rule = 'HighErrorRate' ORDER BY 2")
        assert found == [("HighErrorRate", "agent", "resolved", True), ("HighErrorRate", "overall", "resolved", True)]
        assert at.rows("SELECT count(*) FROM metamon.outbox WHERE suppressed IS NULL") == [(0,)]


def test_a_tick_that_has_little_time_goes_on_where_it_stopped(database: str) -> None:
    with scene(database, "HighErrorRate") as at:
        history(at, 30)
        reached: list[Any] = []
        while not reached or at.watcher.detection.reached != at.now - BUCKET:
            tick(at.connection, at.watcher, at.now, seconds=0)
            assert at.watcher.detection.reached is not None
            reached.append(at.watcher.detection.reached)
        assert reached == sorted(set(reached))
        assert len(reached) >= 5  # portions of six hours


def test_two_at_once_do_not_both_look(database: str) -> None:
    with scene(database, "HighErrorRate") as at:
        at.minutes(10, lambda: at.runs(5))
        other = connect(database)
        with other, other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtextextended('metamon:alerts', 0))")
        assert tick(at.connection, at.watcher, at.now).busy
        with other, other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock_all()")
        other.close()
        assert not tick(at.connection, at.watcher, at.now).busy


def test_what_another_process_learnt_meanwhile_is_taken_over(database: str) -> None:
    with scene(database, "Anomaly", latencies=random.Random(2)) as at:
        history(at, 30)
        tick(at.connection, at.watcher, at.now)
        first = at.watcher
        anew(at).minutes(30, lambda: at.runs(4))
        second, at.watcher = at.watcher, first
        at.now += MINUTE
        tick(at.connection, at.watcher, at.now)
        assert at.watcher.detection.reached == second.detection.reached
        states = [{key: one.detector.state for key, one in watcher.detection.followed.items()} for watcher in (first, second)]
        assert states[0] == states[1]


def test_a_tick_that_fails_is_looked_at_again(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with scene(database, "HighErrorRate") as at:
        at.minutes(10, lambda: at.runs(30, bad=20))
        before = at.rows("SELECT count(*) FROM metamon.incident_events")

        def broken(*_: Any) -> None:
            raise RuntimeError("a disk is full")

        monkeypatch.setattr(detection, "store", broken)
        with pytest.raises(RuntimeError):
            at.minutes(5, lambda: at.runs(30, bad=20))
        assert at.rows("SELECT count(*) FROM metamon.incident_events") == before
        monkeypatch.undo()
        at.minutes(10, lambda: at.runs(30, bad=20))
        assert at.incidents("HighErrorRate")


def test_a_clock_that_is_set_back_stops_nothing(database: str) -> None:
    with scene(database, "HighErrorRate") as at:
        at.minutes(30, lambda: at.runs(30))
        at.now -= timedelta(hours=2)
        at.minutes(20, lambda: at.runs(30, bad=20))
        assert at.incidents("HighErrorRate")


def test_a_days_anomalies_found_again_are_those_found_live(database: str) -> None:
    with scene(database, "Anomaly", latencies=random.Random(2)) as at:
        at.now = NOON + timedelta(hours=9)
        history(at, 40)
        tick(at.connection, at.watcher, at.now)
        at.minutes(45, lambda: at.runs(4, bad=3))
        at.minutes(150, lambda: at.runs(4))
        columns = "bucket_start, metric, dimension, dimension_value, level, round(value::numeric, 9), sample, reasons"
        query = f"SELECT {columns} FROM metamon.anomalies WHERE day = '2026-08-22' ORDER BY 1, 2, 3, 4"
        live = at.rows(query)
        assert any(row[4] == "warning" for row in live)
        detection.rewrite(at.connection, NOON.date(), at.now)
        assert at.rows(query) == live


def test_a_new_source_pages_nobody(database: str) -> None:
    with scene(database, "HighErrorRate") as at:
        at.minutes(15, lambda: at.runs(30))
        at.execute("UPDATE metamon.ingestion_ledger SET started_at = %s", at.now)
        at.watcher.newcomers.refreshed_at = None
        at.now += MINUTE * 4

        def bad() -> None:
            at.runs(30, bad=20)
            at.execute("UPDATE metamon.ingestion_ledger SET started_at = %s", at.now - timedelta(hours=1))

        at.minutes(20, bad)
        assert {shadow for (shadow,) in at.rows("SELECT shadow FROM metamon.incidents")} == {True}


def test_failed_checks_and_runs_and_findings_of_the_supervisor_are_incidents(database: str) -> None:
    with scene(database, "PipelineEvents") as at:
        at.go_on()
        with at.connection, at.connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO metamon.run_failures (dagster_run_id, job_name, failed_at, message) VALUES ('run-1', 'daily', %s, 'no disk')",
                (at.now,),
            )
            cursor.execute(
                "INSERT INTO metamon.heartbeats (component, beat_at, detail) VALUES ('supervisor', %s, %s)",
                (at.now, json.dumps({"findings": [STALE]})),
            )
        at.go_on()
        assert at.incidents() == [
            ("PipelineEvents", "asset:run daily", "warning", "open"),
            ("PipelineEvents", "asset:sensor late_data stale", "warning", "open"),
        ]
        assert at.rows("SELECT dagster_run_id FROM metamon.incidents ORDER BY 1 NULLS LAST LIMIT 1") == [("run-1",)]
        at.execute("UPDATE metamon.heartbeats SET detail = '{\"findings\": []}'")
        at.minutes(90)
        assert {status for *_, status in at.incidents()} == {"resolved"}


def test_the_catalogue_decides_what_is_looked_at(database: str) -> None:
    with scene(database, "HighErrorRate") as at:
        at.minutes(15, lambda: at.runs(30, bad=20))
        assert at.incidents()[0][3] == "open"
        off = {"HighErrorRate": bundled()["HighErrorRate"].model_copy(update={"enabled": False})}
        at.watcher = Watcher(Catalogue(off), at.policy)
        at.minutes(30, lambda: at.runs(30, bad=20))
        assert {status for *_, status in at.incidents()} == {"resolved"}


def test_a_secret_in_an_output_is_critical_at_once_though_the_source_is_new(database: str) -> None:
    policy = Policy(channels={"mail": "email"}, rule_channels={"SecurityIssue": ("email",)})
    with scene(database, "SecurityIssue", policy=policy) as at:
        at.go_on(lambda: at.runs(1, inputs="what is it", outputs="it is the weather"))
        assert at.incidents() == []
        secret = "AKIA" + "IOSFODNN7" + "EXAMQLE"
        at.go_on(lambda: at.runs(0.2, outputs=f"the key is {secret}"))
        ((rule, group, severity, status),) = at.incidents()
        assert (rule, severity, status) == ("SecurityIssue", "critical", "open")
        assert group == "project:shop · support · secret_in_output"
        assert at.rows("SELECT channel, suppressed FROM metamon.outbox") == [("mail", None)]
        assert secret not in str(at.rows("SELECT * FROM metamon.incidents, metamon.outbox"))
        at.minutes(90, lambda: at.runs(1))
        assert at.incidents()[0][3] == "resolved"


def test_an_accepted_target_whose_budget_burns_is_an_incident_and_a_suggestion_is_none(database: str) -> None:
    with scene(database, "SLOBurn") as at:
        targets.suggest(at.connection, at.now)
        at.minutes(60, lambda: at.runs(10, bad=5))
        assert at.incidents() == []
        targets.accept(at.connection, "error_rate", "ada", at.now)
        at.go_on(lambda: at.runs(10, bad=5))
        assert at.incidents() == [("SLOBurn", "target:error_rate", "critical", "open")]
