"""The sensor for late data (IN-6, AUT-2)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pytest

from metamon_assets import jobs
from metamon_assets.days import midnight
from metamon_assets.metrics import rollups
from metamon_assets.metrics.sensors import late_data_sensor, late_days
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.resources import Warehouse
from metamon_assets_tests.metrics.test_completions import run, write

DAY = date(2026, 8, 20)


class Books:
    """The ledger, written as reads would write it."""

    def __init__(self, url: str) -> None:
        self.url, self.connection = url, connect(url)

    def read(self, *days: date, window: tuple[date, date] | None = (DAY, DAY), by: str | None = "run", status: str = "complete") -> int:
        """Book a read that changed ``days``; ``window`` has both days inclusive."""
        start, end = (window[0], window[1] + timedelta(days=1)) if window else (None, None)
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO metamon.ingestion_ledger (source, project, kind, started_at, window_start, window_end, status, days,"
                " dagster_run_id) VALUES ('files', 'p', 'runs', now(), %s, %s, %s, %s, %s) RETURNING ledger_id",
                (start, end, status, list(days), by),
            )
            (ledger_id,) = cursor.fetchone()  # type: ignore[misc]
            return int(ledger_id)

    def ended(self, ledger_id: int) -> None:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute("UPDATE metamon.ingestion_ledger SET status = 'complete' WHERE ledger_id = %s", (ledger_id,))

    def late(self, cursor: int = 0, **options: Any) -> tuple[dict[date, int], int]:
        return late_days(self.connection, cursor, **options)


@pytest.fixture
def books(database: str) -> Iterator[Books]:
    opened = Books(database)
    yield opened
    opened.connection.close()


def test_a_run_of_the_pipeline_is_not_late_for_its_own_days(books: Books) -> None:
    last = books.read(DAY)
    assert books.late() == ({}, last)


def test_days_that_nobody_else_computes_are_late(books: Books) -> None:
    before = DAY - timedelta(days=1)
    by_hand = books.read(DAY, by=None)
    moved = books.read(before, DAY)
    followed = books.read(DAY - timedelta(days=9), window=None)
    failed = books.read(DAY - timedelta(days=5), by=None, status="failed")

    assert books.late() == ({DAY: by_hand, before: moved, DAY - timedelta(days=9): followed}, failed)
    assert books.late(moved) == ({DAY - timedelta(days=9): followed}, failed)
    assert books.late(failed) == ({}, failed), "the position stays when there is nothing new"


def test_a_read_that_runs_is_waited_for(books: Books) -> None:
    first = books.read(DAY, by=None)
    running = books.read(DAY - timedelta(days=1), by=None, status="running")
    books.read(DAY - timedelta(days=2), by=None)

    assert books.late() == ({DAY: first}, first)
    books.ended(running)
    days, position = books.late(first)
    assert (set(days), position) == ({DAY - timedelta(days=1), DAY - timedelta(days=2)}, running + 1)


def test_what_arrives_while_its_day_is_computed_is_late(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """The day's rows are written last, from what was read first."""
    start = midnight(DAY)
    write(books.connection, [run("early", start, 10)])
    prepare, arrived = rollups._prepare_daily, []

    def arriving(cursor: Any, day: date) -> rollups.Refreshed:
        prepared = prepare(cursor, day)
        other = Books(books.url)
        write(other.connection, [run("late", start, 10)])
        arrived.append(other.read(DAY, by=None))
        with other.connection, other.connection.cursor() as another:
            another.execute("UPDATE metamon.ingestion_ledger SET finished_at = clock_timestamp()")
        other.connection.close()
        return prepared

    monkeypatch.setattr(rollups, "_prepare_daily", arriving)
    rollups.refresh_days(books.connection, [DAY], start + timedelta(days=1))
    assert books.late()[0] == {DAY: arrived[0]}
    monkeypatch.setattr(rollups, "_prepare_daily", prepare)
    rollups.refresh_days(books.connection, [DAY], start + timedelta(days=1))
    assert books.late()[0] == {}


def test_many_days_are_handled_in_parts_and_none_is_lost(books: Books) -> None:
    for back in range(10):
        books.read(DAY - timedelta(days=back), by=None)
    found: set[date] = set()
    position, ticks = 0, 0
    while True:
        days, after = books.late(position, limit=4)
        if not days:
            break
        assert len(days) <= 4
        assert after > position
        found, position, ticks = found | set(days), after, ticks + 1
    assert (len(found), ticks) == (10, 3)


def test_a_read_of_more_days_than_the_limit_is_given_whole(books: Books) -> None:
    ledger_id = books.read(*(DAY - timedelta(days=back) for back in range(9)), by=None)
    days, position = books.late(limit=4)
    assert (len(days), position) == (9, ledger_id)


def test_the_sensor_asks_for_runs_once(books: Books) -> None:
    ledger_id = books.read(DAY, date(1999, 1, 1), by=None)
    sensor = late_data_sensor(jobs.REFRESH_METRICS)

    def tick(cursor: str | None) -> dg.SensorResult:
        context = dg.build_sensor_context(cursor=cursor, resources={"warehouse": Warehouse(url=books.url)})
        result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result

    first = tick(None)
    assert [(request.partition_key, request.run_key) for request in first.run_requests or []] == [(str(DAY), f"late:{DAY}:{ledger_id}")], (
        "a day before the first partition has nothing to compute"
    )
    assert not tick(first.cursor).run_requests
    assert tick(first.cursor).cursor == first.cursor == str(ledger_id)
