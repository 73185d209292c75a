"""The rate budget over processes: real processes, one database."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from metamon_assets.traces.rate_budget import OverBudgetError, RateBudget, SharedBudget
from metamon_assets.warehouse import connect

SPAN = 0.5  # seconds
# Prints when each of its calls was booked, by the database's clock.
CALLER = """
import sys, time
from metamon_assets.traces.rate_budget import SharedBudget
from metamon_assets.warehouse import connect
url, live, seconds, until = sys.argv[1], sys.argv[2] == "live", float(sys.argv[3]), float(sys.argv[4])
budget = SharedBudget(connect(url), "https://langsmith.test", "key", live=live, seconds=seconds)
calls = 0
while time.time() < until:
    budget.acquire()
    calls += 1
print(calls)
"""


@pytest.fixture
def connection(database: str) -> Iterator[Any]:
    found = connect(database)
    yield found
    found.close()


def test_processes_together_keep_the_limit_and_live_reads_their_share(database: str, connection: Any) -> None:
    SharedBudget(connection, "https://langsmith.test", "key", live=True, seconds=SPAN).acquire()  # a feed runs
    until = time.time() + 4.0
    callers = [
        subprocess.Popen([sys.executable, "-c", CALLER, database, kind, str(SPAN), str(until)], stdout=subprocess.PIPE, text=True)
        for kind in ("other", "other", "live")
    ]
    seen: set[str] = set()
    most = {"all": 0, "others": 0}
    while time.time() < until:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT live_calls, other_calls FROM metamon.rate_budgets")
            for live, others in cursor.fetchall():
                seen.update(map(str, [*live, *others]))
                most = {"all": max(most["all"], len(live) + len(others)), "others": max(most["others"], len(others))}
        time.sleep(0.01)
    calls = [int(caller.communicate(timeout=30)[0]) for caller in callers]
    spans = 4.0 / SPAN
    assert most == {"all": 15, "others": 10}, "the limit is reached and never passed, at any moment"
    assert sum(calls) <= 15 * (spans + 1)
    assert calls[0] + calls[1] <= 10 * (spans + 1)
    assert calls[2] > 4 * spans, "live calls get the five that are kept for them"
    assert all(calls), "nobody starves"
    assert _most_in_a_span(seen) <= 15


def _most_in_a_span(moments: set[str]) -> int:
    times = sorted(datetime.fromisoformat(moment).timestamp() for moment in moments)
    first, most = 0, 0
    for last, moment in enumerate(times):
        while times[first] <= moment - SPAN:
            first += 1
        most = max(most, last - first + 1)
    return most


def test_where_no_feed_calls_nothing_is_kept_back_for_it(connection: Any) -> None:
    budget = SharedBudget(connection, "https://langsmith.test", "key", seconds=60)
    for _ in range(15):
        budget.acquire(patience=0)
    with pytest.raises(OverBudgetError):
        budget.acquire(patience=0)


def test_a_pause_holds_for_everybody_and_for_this_key_alone(connection: Any) -> None:
    def budget(key: str, live: bool) -> SharedBudget:
        return SharedBudget(connection, "https://langsmith.test", key, live=live)

    budget("key", live=False).pause(30)
    budget("key", live=False).pause(5)
    for live in (True, False):
        with pytest.raises(OverBudgetError) as refused:
            budget("key", live).acquire(patience=0.1)
        assert 29 < refused.value.seconds <= 30, "the longer pause holds"
    budget("another", live=False).acquire(patience=0.1)


@pytest.mark.parametrize("lie", [30 * 86_400.0, math.inf])
def test_a_pause_beyond_an_hour_is_not_believed(connection: Any, lie: float) -> None:
    shared, alone = SharedBudget(connection, "https://langsmith.test", "key"), RateBudget()
    for budget in (shared, alone):
        budget.pause(lie)
        with pytest.raises(OverBudgetError) as refused:
            budget.acquire(patience=0.1)
        assert refused.value.seconds <= 3_600


def test_the_key_is_not_stored(connection: Any) -> None:
    SharedBudget(connection, "https://langsmith.test", "lsv2_pt_secret").acquire()
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_jsonb(b)::text FROM metamon.rate_budgets b")
        assert "secret" not in json.dumps(cursor.fetchall())


def test_without_the_database_calls_are_counted_in_this_process(connection: Any, caplog: pytest.LogCaptureFixture) -> None:
    budget = SharedBudget(connection, "https://langsmith.test", "key", seconds=60.0)
    budget._dsn = "host=127.0.0.1 port=1 dbname=nowhere connect_timeout=1"  # a database that is gone
    for _ in range(10):
        budget.acquire()
    with pytest.raises(OverBudgetError):
        budget.acquire(patience=0.1)
    assert "counted in this process alone" in caplog.text


def test_threads_of_one_source_may_share_it(connection: Any) -> None:
    budget, taken = SharedBudget(connection, "https://langsmith.test", "key", live=True, seconds=0.2), []

    def call() -> None:
        for _ in range(10):
            budget.acquire()
            taken.append(time.monotonic())

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(taken) == 40
    assert max(taken) - min(taken) >= 0.4 - 0.05, "40 calls at 15 in a fifth of a second"
