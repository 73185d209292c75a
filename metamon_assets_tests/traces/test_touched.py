"""Which five-minute buckets a merge touches: those of what changed, as it was and as it is (IN-12)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from metamon_assets.traces.merge import RunMerge
from metamon_assets.warehouse import connect
from metamon_assets_tests.traces.runs import run, table

NOW = datetime.now(UTC)
NOON = NOW.replace(hour=12, minute=1, second=0, microsecond=0) - timedelta(days=2)
READ = NOW - timedelta(days=1)


class Tables:
    """Merges, and the buckets that they touched since the last look, by the clock of starts."""

    def __init__(self, url: str) -> None:
        self.connection = connect(url)

    def merge(self, *rows: dict[str, Any], touch: bool = True, age: int = 0) -> set[str]:
        """``age``: the larger, the fresher."""
        fresh = [row | {"observed_time": READ + timedelta(minutes=age)} for row in rows]
        with self.connection, self.connection.cursor() as cursor:
            runs = RunMerge(cursor, "files", None, touch=touch)
            runs.add(table(*fresh))
            counts = runs.finish()
            cursor.execute("DELETE FROM metamon.touched_buckets RETURNING bucket_start, clock")
            found = cursor.fetchall()
        assert counts.touched == len(found) == len(set(found))
        return {f"{moment:%d %H:%M}".removeprefix(f"{NOON:%d} ") for moment, clock in found if clock == "start"}


@pytest.fixture
def tables(database: str) -> Iterator[Tables]:
    found = Tables(database)
    yield found
    found.connection.close()


def minutes(number: float) -> datetime:
    return NOON + timedelta(minutes=number)


def test_a_new_day_that_is_loaded_directly(tables: Tables) -> None:
    rows = [run(f"r{n}", start=minutes(n)) for n in (0, 1, 7, 33)]
    assert tables.merge(*rows) == {"12:00", "12:05", "12:30"}
    assert tables.merge(*rows) == set(), "nothing changed"


def test_nothing_is_touched_unless_asked(tables: Tables) -> None:
    assert tables.merge(run("a", start=minutes(0)), touch=False) == set()


def test_a_start_that_changes_touches_the_old_bucket_and_the_new_one(tables: Tables) -> None:
    tables.merge(run("a", start=minutes(0), seconds=1.0), run("b", start=minutes(20)))
    assert tables.merge(run("a", start=minutes(10), seconds=2.0), run("b", start=minutes(20)), age=1) == {"12:00", "12:10"}


def test_a_root_that_changes_its_day_touches_both(tables: Tables) -> None:
    tables.merge(run("a", start=minutes(0), seconds=None), run("other", start=minutes(5) + timedelta(days=1)))
    assert tables.merge(run("a", start=minutes(0) + timedelta(days=1)), age=1) == {"12:00", f"{NOON + timedelta(days=1):%d} 12:00"}


def test_a_span_touches_its_roots_bucket_and_a_tool_call_its_own_too(tables: Tables) -> None:
    tables.merge(run("a", start=minutes(0), seconds=900.0), run("far", start=minutes(50)))
    assert tables.merge(run("a1", "a", "a", start=minutes(10), run_type="llm")) == {"12:00"}
    assert tables.merge(run("a2", "a", "a", start=minutes(10), run_type="tool")) == {"12:00", "12:10"}
    assert tables.merge(run("a2", "a", "a", start=minutes(10), run_type="tool")) == set()


def test_a_tool_call_after_midnight_touches_the_last_bucket_of_its_roots_day(tables: Tables) -> None:
    tables.merge(run("a", start=minutes(660), seconds=9_000.0))
    assert tables.merge(run("a1", "a", "a", start=minutes(723), run_type="tool")) == {"23:00", "23:55"}


def test_a_stand_in_that_grows_or_gives_way_touches_where_it_was(tables: Tables) -> None:
    tables.merge(run("other", start=minutes(50)))
    assert tables.merge(run("c1", "t", "root", start=minutes(10))) == {"12:10"}
    assert tables.merge(run("c2", "t", "root", start=minutes(6))) == {"12:05", "12:10"}
    assert tables.merge(run("root", "t", start=minutes(1), seconds=900.0), age=1) == {"12:00", "12:05"}


def test_old_days_touch_nothing(tables: Tables) -> None:
    assert tables.merge(run("a", start=minutes(0) - timedelta(days=20))) == set()
