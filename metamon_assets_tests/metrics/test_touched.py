"""Draining touched buckets: everything that waits is computed, once, newest first, whatever fails or runs beside it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from metamon_assets.metrics import touched
from metamon_assets.metrics.completions import BUCKET, bucket_of, refresh_completion_days, refresh_completions
from metamon_assets.metrics.rollups import refresh_days
from metamon_assets.metrics.touched import Drained, drain, drop_spare_notes
from metamon_assets.traces.merge import RunMerge
from metamon_assets.warehouse import connect
from metamon_assets_tests.metrics.test_completions import facts, flying, run, write
from metamon_assets_tests.metrics.traffic import rows
from metamon_assets_tests.traces.runs import run as live_run
from metamon_assets_tests.traces.runs import table as runs_table

START = datetime(2026, 10, 24, 12, tzinfo=UTC)
NOW = START + timedelta(minutes=14)


def touch(connection: Connection, *touches: tuple[datetime, str]) -> None:
    with connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO metamon.touched_buckets (bucket_start, clock) VALUES (%s, %s)", touches)


def waiting(connection: Connection) -> list[tuple[Any, ...]]:
    found = rows(connection, "SELECT DISTINCT bucket_start, clock FROM metamon.touched_buckets ORDER BY 1, 2")
    return [tuple(row.values()) for row in found]


def buckets(connection: Connection, table: str, column: str) -> list[tuple[Any, ...]]:
    found = rows(connection, f"SELECT bucket_start, {column} FROM metamon.{table} WHERE dimension = 'overall' ORDER BY 1")
    return [tuple(row.values()) for row in found]


def rested(connection: Connection) -> None:
    """As if the rest after the last refresh were over."""
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.bucket_refreshes SET finished_at = finished_at - interval '1 hour'")


def drain_all(connection: Connection, now: datetime = NOW) -> list[Drained]:
    found = []
    while waiting(connection):
        found.append(drain(connection, now))
        rested(connection)
    return found


def test_spare_notes_go_and_no_bucket_is_forgotten(database: str) -> None:
    connection = connect(database)
    old = NOW - timedelta(days=15)
    touch(connection, *[(START, "start"), (START, "end"), (START + BUCKET, "end"), (old, "start")] * 3)
    assert drop_spare_notes(connection, NOW) == 9
    assert waiting(connection) == [(START, "end"), (START, "start"), (START + BUCKET, "end")]
    assert drop_spare_notes(connection, NOW) == 0
    connection.close()


def test_what_was_touched_is_computed_on_both_clocks(database: str) -> None:
    connection = connect(database)
    write(connection, [run("a", START, 10), run("b", START + timedelta(minutes=4), 200), run("c", START + BUCKET, 1)])
    for _ in range(5):
        touch(connection, (START, "start"), (START, "end"), (START + BUCKET, "end"), (START + BUCKET, "start"))

    drained = drain(connection, NOW)

    assert (drained.buckets, drained.completion_buckets, drained.failed, drained.waiting) == (2, 2, 0, 0)
    assert waiting(connection) == []
    assert buckets(connection, "completion_metrics", "completed") == [(START, 1), (START + BUCKET, 2)]
    assert buckets(connection, "five_minute_metrics", "requests") == [(START, 2), (START + BUCKET, 1)]
    assert buckets(connection, "fifteen_minute_metrics", "requests") == [(START, 3)]
    assert drained.refreshed.five_minute_rows > 0 < drained.completion_rows


def end(connection: Connection, ended: Iterable[dict[str, Any]]) -> None:
    """The runs, pending until now, have ended: as the merge would note it."""
    for row in ended:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "UPDATE metamon.traces SET end_time = %(end_time)s, latency_seconds = %(latency_seconds)s, status = 'success'"
                " WHERE run_id = %(run_id)s AND end_time IS NULL",
                row,
            )
            changed = cursor.rowcount
        if changed:
            touch(connection, *((bucket, "end") for bucket in passed(row["start_time"], row["end_time"])))


def passed(start: datetime, until: datetime) -> list[datetime]:
    """The buckets from one moment to another."""
    first = bucket_of(start)
    return [first + number * BUCKET for number in range((bucket_of(until) - first) // BUCKET + 1)]


def test_live_is_what_is_computed_later(database: str) -> None:
    """Runs that are pending first, end minute by minute, some late: the same rows as when the day is computed at its end."""
    connection = connect(database)
    ending = [run(f"r{n}", START + timedelta(minutes=n), 60.0 * (n % 9) + 5, agent_name=f"agent-{n % 2}") for n in range(12)]
    for row in ending:
        now = row["start_time"] + timedelta(seconds=2)
        write(connection, [row | {"end_time": None, "latency_seconds": None, "status": "pending"}])
        touch(connection, (bucket_of(now), "start"), (bucket_of(now), "end"))
        end(connection, [earlier for earlier in ending if earlier["end_time"] <= now and earlier["run_id"] != "r3"])
        drain(connection, now)
        rested(connection)
    later = START + timedelta(minutes=40)
    end(connection, ending)
    drain_all(connection, later)

    live = facts(connection)

    assert sum(row["completed"] for row in live if row["dimension"] == "overall") == len(ending)
    refresh_completion_days(connection, [START.date()], later)
    assert facts(connection) == live


def test_a_hung_run_is_seen_within_one_drain_and_grows_older_without_any_touch(database: str) -> None:
    connection = connect(database)
    yesterday = START - timedelta(days=1)
    write(connection, [run(f"y{n}", yesterday + timedelta(seconds=n), 1) for n in range(1000)])
    refresh_days(connection, [yesterday.date()], NOW)
    write(connection, [run("hung", START, None, "pending")])
    touch(connection, (START, "start"), (START, "end"), (START + BUCKET, "end"), (START + 2 * BUCKET, "end"))
    drain(connection, NOW)
    assert flying(connection, START + 2 * BUCKET) == (1, 1, 1, 14 * 60)

    rested(connection)
    drain(connection, NOW + timedelta(minutes=3))  # nothing arrives any more: the next bucket tells it, and the last one is settled
    assert flying(connection, START + 3 * BUCKET, "agent", "support") == (1, 1, 1, 17 * 60)
    assert flying(connection, START + 2 * BUCKET) == (1, 1, 1, 15 * 60)


def merged(connection: Connection, *runs: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Merge runs as live data; gives the buckets by the end that this touched."""
    with connection, connection.cursor() as cursor:
        merge = RunMerge(cursor, "files", None, touch=True)
        merge.add(runs_table(*runs))
        merge.finish()
    found = rows(connection, "SELECT DISTINCT bucket_start FROM metamon.touched_buckets WHERE clock = 'end' ORDER BY 1")
    return [row["bucket_start"] for row in found]


def test_live_runs_touch_every_bucket_that_they_were_in_flight_in(database: str) -> None:
    """From the merge to the buckets: a run of 17 minutes that is only told when it has ended, and one that hangs."""
    connection, now = connect(database), datetime.now(UTC)
    first = bucket_of(now - timedelta(hours=1))
    long = live_run("long", start=first + timedelta(minutes=1), seconds=1020.0, agent_name="support")
    short = live_run("tool", "long", "long", start=first + timedelta(minutes=2), run_type="tool", tool_name="search")

    assert merged(connection, long, short) == [first + number * BUCKET for number in range(4)]
    drain_all(connection, now)
    told = {bucket: (flying(connection, bucket) or (None,))[0] for bucket in passed(first, first + 3 * BUCKET)}
    assert told == {first: 1, first + BUCKET: 1, first + 2 * BUCKET: 1, first + 3 * BUCKET: 0}
    assert sum(done for _, done in buckets(connection, "completion_metrics", "completed")) == 1
    (tool,) = rows(connection, "SELECT bucket_start, completed FROM metamon.completion_metrics WHERE dimension = 'tool'")
    assert tuple(tool.values()) == (first, 1)

    hung = live_run("hung", start=now - timedelta(minutes=12), seconds=None)
    assert merged(connection, hung) == passed(now - timedelta(minutes=12), now)
    drain(connection, now)
    assert (flying(connection, bucket_of(now)) or (0, 0, 0, 0))[3] == pytest.approx(720)


def test_what_is_in_flight_is_looked_at_once_a_minute(database: str) -> None:
    connection = connect(database)
    write(connection, [run("hung", START, None, "pending")])
    assert drain(connection, NOW).completion_rows > 0
    assert drain(connection, NOW).completion_rows == 0
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.bucket_refreshes SET finished_at = finished_at - interval '61 seconds'")
    assert drain(connection, NOW).completion_rows > 0


def test_the_newest_bucket_comes_first_and_what_is_caught_up_gets_on(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect(database)
    old = [START - timedelta(hours=3) + number * BUCKET for number in range(5)]
    live = [START, START + BUCKET, START + 2 * BUCKET]
    touch(connection, *((bucket, "end") for bucket in [*old, *live]))
    computed: list[datetime] = []

    def remember(connection: Connection, buckets: Iterable[datetime], now: datetime) -> int:
        computed.extend(buckets)
        return 0

    monkeypatch.setattr(touched, "refresh_completions", remember)
    drained = drain(connection, NOW, seconds=0)  # time for the two that every drain does
    computed = computed[1:]  # the current one, for what is in flight
    assert computed == [live[2], old[4]]
    assert drained.waiting == 6
    rested(connection)
    touch(connection, (live[2], "end"))
    drain(connection, NOW)
    assert computed[2:] == [START + 2 * BUCKET, live[2], old[3], live[1], live[0], old[2], old[1], old[0]]


def test_after_a_refresh_its_clock_rests_in_proportion(database: str) -> None:
    connection = connect(database)
    write(connection, [run("a", START, 10)])
    touch(connection, (START, "start"), (START, "end"))
    drain(connection, NOW)
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.bucket_refreshes SET finished_at = clock_timestamp(), seconds = 60 WHERE work = 'start'")
        cursor.execute("UPDATE metamon.bucket_refreshes SET finished_at = clock_timestamp(), seconds = 0 WHERE work = 'end'")
    touch(connection, (START, "start"), (START, "end"))
    drained = drain(connection, NOW)
    assert (drained.buckets, drained.completion_buckets, drained.waiting) == (0, 1, 1)
    assert 130 < drained.wait_seconds <= 140  # 60 s are 30 % of 200 s
    assert waiting(connection) == [(START, "start")]


def test_a_bucket_that_fails_waits_and_keeps_nobody_waiting(database: str, owned_database: str, caplog: pytest.LogCaptureFixture) -> None:
    connection, owner = connect(database), connect(owned_database)
    write(connection, [run(f"r{n}", START + n * BUCKET, 10) for n in range(3)])
    touch(connection, *((START + n * BUCKET, clock) for n in range(3) for clock in ("start", "end")))
    with owner, owner.cursor() as cursor:
        cursor.execute("ALTER TABLE metamon.completion_metrics ADD CONSTRAINT broken CHECK (bucket_start <> %s)", (START + 2 * BUCKET,))
    with caplog.at_level(logging.ERROR):
        drained = drain(connection, NOW)
    assert (drained.completion_buckets, drained.failed, drained.waiting) == (2, 2, 1)  # once more as the one in flight
    assert "2026-10-24 12:10 (end) could not be computed" in caplog.text
    assert waiting(connection) == [(START + 2 * BUCKET, "end")]
    assert buckets(connection, "completion_metrics", "completed") == [(START, 1), (START + BUCKET, 1)]
    with owner, owner.cursor() as cursor:
        cursor.execute("ALTER TABLE metamon.completion_metrics DROP CONSTRAINT broken")
    rested(connection)
    assert drain(connection, NOW).failed == 0
    assert waiting(connection) == []
    assert buckets(connection, "completion_metrics", "completed") == [(START + n * BUCKET, 1) for n in range(3)]


def test_a_crash_after_the_refresh_repeats_it(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect(database)
    write(connection, [run("a", START, 10)])
    touch(connection, (START, "end"))
    real = refresh_completions

    def killed(connection: Connection, buckets: Iterable[datetime], now: datetime) -> int:
        written = real(connection, buckets, now)
        if START in set(buckets):
            with connect(database) as other, other.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        return written

    with monkeypatch.context() as patched:
        patched.setattr(touched, "refresh_completions", killed)
        with pytest.raises(psycopg2.Error):
            drain(connection, NOW)
    again = connect(database)
    assert buckets(again, "completion_metrics", "completed") == [(START, 1)]
    assert waiting(again) == [(START, "end")]
    rested(again)
    assert drain(again, NOW).completion_buckets == 1
    assert buckets(again, "completion_metrics", "completed") == [(START, 1)]
    assert waiting(again) == []


def test_two_drains_at_once_do_the_work_once_and_lose_nothing(database: str) -> None:
    connection = connect(database)
    write(connection, [run(f"r{n}", START + timedelta(seconds=n), 10) for n in range(600)])
    stopped, results, errors = threading.Event(), [], []

    def keep_draining() -> None:
        own = connect(database)
        try:
            while not stopped.is_set():
                results.append(drain(own, NOW))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=keep_draining) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(30):
        write(connection, [run(f"s{number}", START + timedelta(seconds=number), 10)])
        touch(connection, (START, "start"), (START, "end"))
    deadline = datetime.now(UTC) + timedelta(seconds=20)
    while waiting(connection) and datetime.now(UTC) < deadline:
        threading.Event().wait(0.05)
    stopped.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert waiting(connection) == []
    assert sum(drained.completion_buckets for drained in results) >= 1
    assert buckets(connection, "completion_metrics", "completed")[0] == (START, 290 + 30)
    assert buckets(connection, "fifteen_minute_metrics", "requests") == [(START, 630)]


def test_clocks_are_drained_side_by_side(database: str) -> None:
    connection, other = connect(database), connect(database)
    write(connection, [run("a", START, 10)])
    touch(connection, (START, "start"), (START, "end"))
    with other, other.cursor() as cursor:  # somebody computes reporting buckets
        cursor.execute("SELECT pg_advisory_lock(hashtextextended('touched_buckets:start', 0))")
    assert drain(connection, NOW, clocks=["start"]) == Drained()
    drained = drain(connection, NOW)
    assert (drained.completion_buckets, drained.buckets) == (1, 0)
    with other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock_all()")
    rested(connection)
    assert drain(connection, NOW, clocks=["start"]).buckets == 1


def test_a_day_that_is_being_computed_waits(database: str) -> None:
    connection, daily = connect(database), connect(database)
    write(connection, [run("a", START, 10)])
    touch(connection, (START, "start"), (START, "end"))
    with daily, daily.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"rollups:{START.date()}",))
    drained = drain(connection, NOW)
    assert (drained.completion_buckets, drained.buckets, drained.failed) == (1, 0, 1)
    assert waiting(connection) == [(START, "start")]
    with daily, daily.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock_all()")
    rested(connection)
    assert drain(connection, NOW).buckets == 1


def test_a_day_that_is_being_computed_is_waited_for_once_in_a_drain(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, daily = connect(database), connect(database)
    monkeypatch.setattr(touched, "_LOCK_TIMEOUT", "300ms")
    quarters = [START - timedelta(days=1) + n * timedelta(minutes=15) for n in range(12)]
    write(connection, [run(str(moment), moment, 10) for moment in [START, *quarters]])
    touch(connection, *((moment, "start") for moment in [START, START - timedelta(minutes=15), *quarters]))
    with daily, daily.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"rollups:{quarters[0].date()}",))
    began = time.monotonic()
    drained = drain(connection, NOW, clocks=["start"], seconds=60.0)
    assert time.monotonic() - began < 2.0  # twelve times the lock's would be more
    assert (drained.buckets, drained.failed, drained.waiting) == (2, 12, 12)
    with daily, daily.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock_all()")
    rested(connection)
    assert drain(connection, NOW, clocks=["start"], seconds=60.0).waiting == 0


def test_a_server_whose_clock_was_set_back_does_not_rest_until_it_has_caught_up(database: str) -> None:
    connection = connect(database)
    write(connection, [run("a", START, 10)])
    touch(connection, (START, "end"))
    drain(connection, NOW)
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.bucket_refreshes SET finished_at = finished_at + interval '1 hour'")
    touch(connection, (START, "end"))
    assert drain(connection, NOW).wait_seconds < 60


def test_what_is_in_flight_is_told_though_an_unsettled_day_is_locked(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, daily = connect(database), connect(database)
    monkeypatch.setattr(touched, "_LOCK_TIMEOUT", "300ms")
    midnight = START.replace(hour=0)
    write(connection, [run("hangs", midnight - timedelta(minutes=3), None, "pending")])
    refresh_completions(connection, [midnight - BUCKET], midnight - timedelta(minutes=1))
    with daily, daily.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"completions:{(midnight - BUCKET).date()}",))
    drain(connection, midnight + timedelta(minutes=2), clocks=["end"])
    assert flying(connection, midnight) is not None
    daily.close()


def test_a_drain_looks_at_the_newest_notes_and_the_others_have_their_turn(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect(database)
    monkeypatch.setattr(touched, "MOST_NOTES", 2)
    write(connection, [run(f"r{n}", START + n * BUCKET, 10) for n in range(3)])
    touch(connection, *((START + n * BUCKET, "end") for n in (0, 1, 2, 2)))
    assert drain(connection, NOW, clocks=["end"]).completion_buckets == 1
    assert waiting(connection) == [(START, "end"), (START + BUCKET, "end")]
    rested(connection)
    drain(connection, NOW, clocks=["end"])
    assert waiting(connection) == []
    assert buckets(connection, "completion_metrics", "completed") == [(START + n * BUCKET, 1) for n in range(3)]


def test_buckets_of_the_future_wait_and_old_ones_have_no_five_minutes(database: str) -> None:
    connection = connect(database)
    old = START - timedelta(days=20)
    write(connection, [run("a", START + 4 * BUCKET, 10), run("b", old, 10)])
    touch(connection, (START + 4 * BUCKET, "end"), (old, "end"), (old, "start"))
    drain(connection, NOW)
    assert waiting(connection) == [(START + 4 * BUCKET, "end")]
    assert buckets(connection, "completion_metrics", "completed") == []
    assert buckets(connection, "five_minute_metrics", "requests") == []
    assert buckets(connection, "fifteen_minute_metrics", "requests") == [(old, 1)]
    assert date(2026, 10, 4) == old.date()
