"""The live feed's questions, with a simulated clock, the real SDK over real HTTP, and a real database (IN-12, trial 7e)."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from metamon_assets.config import Feed
from metamon_assets.traces import polling
from metamon_assets.traces.configured import ConfiguredSource
from metamon_assets.traces.ingest import ingest
from metamon_assets.traces.normalise import Rules
from metamon_assets.traces.polling import Polled, catch_up, look_back, poll, read_state
from metamon_assets.traces.rate_budget import RateBudget
from metamon_assets.traces.sources.base import Kind, Window
from metamon_assets.traces.sources.files import FilesSource
from metamon_assets.traces.sources.langsmith import LangSmithSource
from metamon_assets.traces.sources.otlp import OtlpSource
from metamon_assets.warehouse import connect
from metamon_assets_tests.traces.sources.langsmith_server import Fault, LangSmithServer

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=3)
MINUTE = timedelta(minutes=1)
FEED = Feed()


class Life:
    """An agent in LangSmith, a clock that a test moves, and the tables that the feed fills."""

    def __init__(self, server: LangSmithServer, connection: Any) -> None:
        self.server, self.connection = server, connection
        self.now = NOON
        self.opened: dict[str, ConfiguredSource] = {}

    def configured(self, **settings: Any) -> ConfiguredSource:
        """The source, opened once, as the feed does."""
        if repr(settings) not in self.opened:
            self.opened[repr(settings)] = self._open(**settings)
        return self.opened[repr(settings)]

    def _open(self, **settings: Any) -> ConfiguredSource:
        defaults: dict[str, Any] = {
            "api_key": self.server.key,
            "api_url": self.server.api_url,
            "budget": RateBudget(10_000, 1.0),
            "patience_seconds": 0.1,
            "backoff_seconds": 0.01,
            "timeout_seconds": 5.0,
            "clock": lambda: self.now,
        }
        source = LangSmithSource(settings.pop("project", "agent"), **defaults | settings)
        return ConfiguredSource(source, Rules(source="langsmith", project=source.project, now=NOON))

    def poll(self, **settings: Any) -> Polled:
        (polled,) = poll(self.connection, [self.configured(**settings)], self.now, FEED)
        return polled

    def minutes(self, number: int, then: Callable[[], Any] | None = None) -> list[Polled]:
        """A poll at the end of each of some minutes."""
        polls = []
        for _ in range(number):
            self.now += MINUTE
            if then is not None:
                then()
            polls.append(self.poll())
        return polls

    def catch_up(self) -> list[Polled]:
        done = []
        while found := catch_up(self.connection, self.configured(), self.now, FEED):
            done.append(found)
        return done

    def run(self, **fields: Any) -> str:
        return self.server.store.add_run("agent", **{"start_time": self.now - timedelta(seconds=30)} | fields)

    def read_day(self) -> None:
        """What the daily asset does."""
        midnight = NOON.replace(hour=0)
        configured = self.configured()
        ingest(self.connection, configured.source, Kind.RUNS, Window(midnight, midnight + timedelta(days=1)), configured.rules)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return list(cursor.fetchall())

    def run_ids(self) -> set[str]:
        return {run_id for (run_id,) in self.rows("SELECT run_id FROM metamon.traces UNION SELECT run_id FROM metamon.spans")}

    def backlog(self) -> list[tuple[datetime, datetime, str]]:
        return self.rows("SELECT window_start, window_end, reason FROM metamon.feed_backlog ORDER BY window_start")

    def touched(self) -> set[tuple[str, str]]:
        """Buckets and clocks that wait, which are then done."""
        taken = "DELETE FROM metamon.touched_buckets RETURNING to_char(bucket_start, 'HH24:MI'), clock"
        return {(bucket, clock) for bucket, clock in self.rows(taken)}

    def queries(self) -> int:
        return len(self.server.requests_to("/runs/query"))


@pytest.fixture
def life(database: str) -> Iterator[Life]:
    with lived(database) as found:
        yield found


@contextmanager
def lived(database: str) -> Iterator[Life]:
    connection = connect(database)
    with LangSmithServer(clock=lambda: found.now, limit=10_000) as server:
        found = Life(server, connection)
        server.store.add_project("agent")
        yield found
    connection.close()


# ---- what is asked each minute


def test_new_runs_are_here_within_the_minute_and_touch_their_buckets(life: Life) -> None:
    root = life.run(seconds=400.0)  # 11:59:30 to 12:06:10
    life.server.store.add_run("agent", parent=root, start_time=NOON + timedelta(minutes=5, seconds=10), run_type="tool", seconds=1.0)
    life.now += timedelta(minutes=7)
    assert life.poll().rows_written == 0, "the first window is short: it is not known yet what reading costs"
    polled = life.minutes(1)[0]
    assert (polled.rows_read, polled.rows_written, polled.error) == (2, 2, None)
    touched = life.touched()
    assert {bucket for bucket, clock in touched if clock == "start"} == {"11:55", "12:05"}, "its own, and that of its tool call"
    assert {bucket for bucket, clock in touched if clock == "end"} == {"11:55", "12:00", "12:05"}, "it was in flight until its end"
    assert life.minutes(1)[0].rows_written == 0
    assert life.touched() == set(), "what did not change touches nothing"


def test_a_late_end_patches_its_bucket_and_a_hung_run_stays_visible(life: Life) -> None:
    slow, hung = life.run(seconds=None), life.run(seconds=None)
    life.minutes(1)
    life.touched()
    assert [polled.pending for polled in life.minutes(3)] == [0] * 3, "those in the window need not be asked for by id"
    life.now += timedelta(minutes=41)
    assert life.minutes(1)[0].pending == 2
    life.server.store.patch_run(slow, end_time=life.now, outputs={"answer": "late"})
    life.server.store.add_run("agent", parent=slow, start_time=life.now - MINUTE, run_type="llm", total_tokens=7)
    assert life.minutes(1)[0].rows_written == 2, "the end, and the child that came with it"
    touched = life.touched()
    assert {bucket for bucket, clock in touched if clock == "start"} == {"11:55"}
    assert ("12:45", "end") in touched
    assert life.rows("SELECT run_id, status, end_time IS NULL FROM metamon.traces ORDER BY status") == [
        (hung, "pending", True),
        (slow, "success", False),
    ]
    assert life.minutes(1)[0].pending == 1


def test_pending_runs_older_than_a_day_are_asked_for_once_an_hour(life: Life) -> None:
    old = life.run(start_time=NOON - timedelta(days=2), seconds=None)
    ingest(life.connection, life.configured().source, Kind.RUNS, Window(NOON - timedelta(days=3), NOON), life.configured().rules)
    life.minutes(1)
    life.now += 56 * MINUTE
    assert [polled.pending for polled in life.minutes(5)] == [0, 0, 0, 1, 0]
    assert life.run_ids() == {old}


def test_of_more_pending_runs_than_one_poll_asks_for_each_has_its_turn(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "MOST_PENDING", 6)
    hanging = [life.run(start_time=NOON - timedelta(hours=2, minutes=number), seconds=None) for number in range(12)]
    ingest(life.connection, life.configured().source, Kind.RUNS, Window(NOON - timedelta(days=1), NOON), life.configured().rules)
    since, before = NOON - timedelta(days=1), NOON
    state = polling.read_state(life.connection, "langsmith", "agent")
    asked = [set(polling._pending(life.connection, state, since, before)) for _ in range(60)]
    assert all(len(run_ids) == 6 and run_ids >= set(hanging[:3]) for run_ids in asked)
    assert set.union(*asked) == set(hanging)  # the share of such draws that miss one: 9 * (2 / 3) ** 60


def test_feedback_is_asked_for_every_five_minutes(life: Life) -> None:
    root = life.run()
    life.minutes(1)
    life.server.store.add_feedback(root, "thumbs", score=1.0, created_at=life.now + timedelta(seconds=5))
    life.minutes(5)
    assert life.rows("SELECT key, score FROM metamon.feedback") == [("thumbs", 1.0)]
    assert len(life.server.requests_to("/feedback")) == 2


def test_an_idle_source_costs_one_query_a_minute(life: Life) -> None:
    life.minutes(10)
    asked = [request.path for request in life.server.log if request.path not in ("/info", "/sessions")]
    assert asked.count("/runs/query") == 10
    assert len(asked) == 12, "and feedback twice"


def test_window_shrinks_when_reading_it_takes_too_long(life: Life) -> None:
    life.minutes(3)
    life.rows("UPDATE metamon.feed_state SET last_seconds = 100, last_window_seconds = 300 RETURNING 1")
    life.minutes(1)
    (length,) = life.rows("SELECT last_window_seconds FROM metamon.feed_state")[0]
    assert length == pytest.approx(135.0)
    assert life.backlog() == [], "it still reaches back behind the last poll"


# ---- trouble


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"api_key": "lsv2_pt_wrong_wrong_wrong"}, "refused the API key"),
        ({"api_key": "lsv2_pt_fedcba9876543210_other"}, "does not let this API key read here"),
        ({"project": "no such agent"}, "Check the project's name"),
    ],
)
def test_wrong_key_no_permission_unknown_project(life: Life, settings: dict[str, Any], words: str) -> None:
    life.run()
    polled = life.poll(**settings)
    assert polled.error is not None
    assert words in polled.error
    assert settings.get("api_key", "lsv2") not in polled.error or "api_key" not in settings
    project = settings.get("project", "agent")
    assert life.rows("SELECT consecutive_failures, last_error, last_success_at FROM metamon.feed_state WHERE project = %s", project) == [
        (1, polled.error, None)
    ]
    if project == "agent":  # the key was mended
        life.now += 2 * MINUTE
        assert life.poll().rows_written == 0
        assert life.minutes(1)[0].rows_written == 1, "what was there meanwhile comes with the first full window"
        assert life.rows("SELECT consecutive_failures, last_error FROM metamon.feed_state") == [(0, None)]


def test_an_empty_project_is_no_failure(life: Life) -> None:
    polls = life.minutes(3)
    assert [(polled.rows_read, polled.error) for polled in polls] == [(0, None)] * 3
    assert life.rows("SELECT DISTINCT status FROM metamon.ingestion_ledger") == [("empty",)]


def test_failures_back_off_up_to_five_minutes_and_end_with_the_first_success(life: Life) -> None:
    life.server.faults.append(Fault("/runs/query", status=500, times=10**6))
    waits = []
    for _ in range(8):
        polled = life.poll()
        assert polled.not_before is not None
        waits.append((polled.not_before - life.now).total_seconds())
        assert life.poll().error is None, "it is left alone"
        life.now = polled.not_before
    assert all(30 * 2**n <= wait <= 60 * 2**n for n, wait in enumerate(waits[:3]))
    assert all(150 <= wait <= 300 for wait in waits[3:])
    life.server.faults.clear()
    assert life.poll().error is None
    assert read_state(life.connection, "langsmith", "agent").consecutive_failures == 0


def test_retry_after_is_honoured(life: Life) -> None:
    life.server.faults.append(Fault("/runs/query", status=429, times=1, retry_after="120"))
    polled = life.poll()
    assert polled.error is not None
    assert "kept limiting the rate (429)" in polled.error
    assert polled.not_before == life.now + timedelta(seconds=120)
    asked = life.queries()
    life.now += timedelta(seconds=119)
    assert life.poll().not_before is not None
    assert life.queries() == asked
    life.now += timedelta(seconds=2)
    assert "no call is possible for" in (life.poll().error or ""), "other readers of the key are kept from calling as well"
    life.opened.clear()  # the pause is told by the real clock
    life.now += timedelta(minutes=5)
    assert life.poll().error is None


def test_a_source_that_was_gone_for_an_hour_loses_nothing_and_the_newest_comes_first(life: Life) -> None:
    def one() -> None:
        life.run()

    life.minutes(5, one)
    life.server.faults.append(Fault("/", status=503, times=10**6))
    life.minutes(65, one)
    assert len(life.run_ids()) == 5
    life.server.faults.clear()
    life.now = max(life.now, read_state(life.connection, "langsmith", "agent").not_before or life.now)

    back = life.minutes(1, one)[0]
    live = [run for run in life.server.store.runs.values() if run.fields["start_time"] >= life.now - timedelta(minutes=20)]
    assert back.rows_written == len(live) > 10, "live data at once"
    starts = [start for start, _, _ in life.backlog()]
    assert back.windows == len(starts) == 2
    assert life.minutes(1, one)[0].rows_written == 1, "they go on while the backlog waits"

    order = [done.since for done in life.catch_up()]
    assert order == sorted(starts, reverse=True)
    assert life.run_ids() == set(life.server.store.runs)
    assert life.backlog() == []


def test_a_source_that_was_away_from_the_first_question_on_loses_nothing(life: Life) -> None:
    missed = life.run(status="success", end_time=life.now)
    assert life.poll(api_key="wrong").error
    life.now += 40 * MINUTE
    assert life.poll().windows == 1
    life.catch_up()
    assert life.run_ids() == {missed}


@pytest.mark.parametrize("first", [True, False], ids=["at the first poll", "later"])
def test_a_clock_that_was_a_day_ahead_for_a_moment_hides_no_later_gap(life: Life, first: bool) -> None:
    if not first:
        life.minutes(2)
    right = life.now
    life.now += timedelta(days=1)
    assert life.poll().error is None
    life.now = right + MINUTE
    assert life.poll().error is None
    life.catch_up()  # the gap that the wrong clock made, which holds nothing yet
    life.now += MINUTE
    missed = life.run(status="success", end_time=life.now)
    life.now += 60 * MINUTE
    assert life.poll().windows > 0
    life.catch_up()
    assert life.run_ids() == {missed}


def test_a_back_off_of_a_clock_that_was_ahead_is_not_waited_for(life: Life) -> None:
    right = life.now
    life.now += timedelta(days=1)
    assert life.poll(api_key="wrong").not_before is not None
    life.now = right + MINUTE
    assert life.poll().not_before is None


def test_a_window_that_cannot_be_read_stays_and_lets_the_others_pass(life: Life) -> None:
    life.run()
    life.minutes(2)
    life.now += timedelta(hours=3)
    life.run(start_time=NOON + timedelta(hours=1))
    life.poll()
    waiting = life.backlog()
    assert len(waiting) >= 3
    life.server.faults.append(Fault("/runs/query", status=400, times=1))
    first, second = (catch_up(life.connection, life.configured(), life.now, FEED) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.error is not None
    assert second.error is None
    assert second.since == waiting[-2][0], "the next newest"
    life.catch_up()
    assert life.run_ids() == set(life.server.store.runs)


def test_clock_an_hour_ahead_is_live_and_one_behind_is_found_when_its_hour_is_over(life: Life) -> None:
    life.minutes(3)
    ahead = life.run(start_time=life.now + timedelta(hours=1), visible_from=life.now)
    life.minutes(1)
    assert life.run_ids() == {ahead}
    assert {bucket for bucket, _ in life.touched()} == {"13:00"}, "it counts in the bucket that its clock says"

    life.now = NOON + timedelta(hours=2)
    behind = life.run(start_time=life.now - timedelta(hours=1), visible_from=life.now)
    life.catch_up()
    life.minutes(2)
    found = []
    for _ in range(9):
        life.now += 9 * MINUTE
        life.minutes(1)
        look_back(life.connection, life.configured(), life.now, FEED)
        found += life.catch_up()
    assert life.run_ids() == {ahead, behind}
    assert len(found) == 2, "the hour of each run once: the run ahead of its time is in a window that was not asked for before"


def test_an_hour_that_differs_for_good_is_read_once(life: Life) -> None:
    configured = life.configured()
    excluding = ConfiguredSource(configured.source, Rules(source="langsmith", project="agent", now=NOON, exclude_tags=frozenset({"test"})))
    life.minutes(1)
    life.now = NOON + timedelta(hours=3)
    life.run(start_time=NOON + timedelta(minutes=70), tags=["test"])
    differing = []
    for _ in range(3):
        differing.append(look_back(life.connection, excluding, life.now, FEED))
        catch_up(life.connection, excluding, life.now, FEED)
        life.now += timedelta(minutes=10)
    assert differing == [1, 0, 0]


def test_a_poll_that_is_stopped_in_the_middle_has_written_nothing_and_the_next_one_has_all(life: Life) -> None:
    for number in range(150):
        life.run(start_time=NOON + timedelta(seconds=number / 10))
    life.now += MINUTE

    class StopError(Exception):
        pass

    def stop(rows: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        poll(life.connection, [life.configured()], life.now, FEED, progress=stop)
    assert life.run_ids() == set()
    life.minutes(1)
    assert len(life.run_ids()) == 150
    assert life.rows("SELECT count(*) FROM metamon.ingestion_ledger WHERE status = 'running'") == [(0,)]


def test_one_source_that_fails_leaves_the_others_alone(life: Life) -> None:
    life.run()
    life.now += MINUTE
    broken = life.configured(project="no such agent")
    polled = poll(life.connection, [broken, life.configured()], life.now, FEED)
    assert [found.error is None for found in polled] == [False, True]
    assert polled[1].rows_written == 1


# ---- polls and the daily reading


def test_a_long_daily_reading_of_a_new_day_does_not_hold_up_the_feed(life: Life, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(150):
        life.run(start_time=NOON + timedelta(seconds=number / 10))
    life.now += MINUTE
    answer, reading, go_on = life.server.answer, threading.Event(), threading.Event()

    def slowly(request: Any, *rest: Any) -> Any:
        if request.path == "/runs/query" and request.body.get("cursor") and "T00:00:00" in request.body["start_time"]:
            reading.set()
            go_on.wait(30)
        return answer(request, *rest)

    monkeypatch.setattr(life.server, "answer", slowly)
    monkeypatch.setattr(life.server, "_lock", contextlib.nullcontext())
    other = Life(life.server, connect(database))
    other.now = life.now
    daily = threading.Thread(target=other.read_day)
    daily.start()
    try:
        assert reading.wait(10), "the daily reading is in the middle of the day"
        life.poll()
        assert len(life.run_ids()) == 150, "the feed has written the day meanwhile"
    finally:
        go_on.set()
        daily.join(30)
    assert other.rows("SELECT status, rows_unchanged FROM metamon.ingestion_ledger WHERE NOT live") == [("complete", 150)]
    other.connection.close()


@pytest.mark.parametrize("seed", range(2))
def test_polls_in_any_order_give_the_rows_of_one_daily_reading(life: Life, seed: int) -> None:
    """Polls at odd moments, failures, outages and restarts in between: the rows are those of a reading afterwards."""
    generator = random.Random(seed)
    store = life.server.store
    for _ in range(generator.randint(30, 50)):
        start = NOON + timedelta(seconds=generator.uniform(0, 3600))
        end = None if generator.random() < 0.3 else start + timedelta(seconds=generator.expovariate(1 / 60))
        root = store.add_run("agent", start_time=start, seconds=None, visible_from=start + timedelta(seconds=generator.expovariate(1 / 20)))
        children = [
            store.add_run(
                "agent", parent=root, start_time=start + timedelta(seconds=generator.uniform(0, 50)), run_type=kind, total_tokens=3
            )
            for kind in generator.choices(["llm", "tool", "chain"], k=generator.randint(0, 3))
        ]
        last = max([start, *(store.runs[child].fields["start_time"] for child in children)])
        store.patch_run(root, at=max(last, end or last) + timedelta(hours=0 if end else generator.uniform(0, 2)), end_time=end or last)
    life.now = NOON
    life.poll()
    while life.now < NOON + timedelta(hours=3):
        life.now += generator.choice([MINUTE, 2 * MINUTE, timedelta(minutes=generator.uniform(3, 60))])
        if generator.random() < 0.2:
            life.server.faults.append(Fault("/runs/query", status=503, skip=generator.randint(0, 1)))
        life.poll()
        life.server.faults.clear()
        if generator.random() < 0.5:
            catch_up(life.connection, life.configured(), life.now, FEED)
    life.minutes(6)
    life.catch_up()
    ours = _settled(life)
    assert len(ours) == len(store.runs)
    assert life.backlog() == []

    life.read_day()
    assert _settled(life) == ours, "the daily reading changes nothing"
    life.rows("WITH t AS (DELETE FROM metamon.traces), s AS (DELETE FROM metamon.spans) DELETE FROM metamon.payloads RETURNING 1")
    life.read_day()
    assert _settled(life) == ours, "and alone it gives the same"


def _settled(life: Life) -> list[tuple[Any, ...]]:
    return life.rows(
        "SELECT day, run_id, content_hash FROM metamon.traces UNION ALL SELECT day, run_id, content_hash FROM metamon.spans ORDER BY 2"
    )


# ---- files


def test_only_files_that_changed_are_opened(life: Life, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    line = '{{"run_id": "{0}", "trace_id": "{0}", "run_type": "chain", "start_time": "{1}", "end_time": "{1}", "status": "success"}}\n'
    (tmp_path / "runs.jsonl").write_text(line.format("a", now.isoformat()))
    (tmp_path / "feedback.jsonl").write_text(
        json.dumps({"feedback_id": "f", "key": "thumbs", "score": 1, "created_at": now.isoformat()}) + "\n"
    )

    def once() -> Polled:
        from metamon_assets.traces.configured import read_catalogue

        source = FilesSource([tmp_path], "shop", catalogue=read_catalogue(life.connection, "files", "shop"))
        (polled,) = poll(life.connection, [ConfiguredSource(source, Rules(source="files", project="shop", now=NOON))], now, FEED)
        return polled

    assert (once().rows_written, once().rows_read) == (2, 0)
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write(line.format("b", now.isoformat()))
    assert once().rows_written == 1
    assert {clock for _, clock in life.touched()} == {"start", "end"}
    (tmp_path / "runs.jsonl").unlink()
    (tmp_path / "feedback.jsonl").unlink()
    tmp_path.rmdir()
    failed = once()
    assert failed.error is not None
    assert str(tmp_path) in failed.error


def test_otlp_files_are_polled_too(life: Life, tmp_path: Path) -> None:
    now = str(int(datetime.now(UTC).timestamp()) * 10**9)
    span = {"traceId": "a" * 32, "spanId": "b" * 16, "name": "chat", "startTimeUnixNano": now, "endTimeUnixNano": now}
    (tmp_path / "spans.json").write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}))
    configured = ConfiguredSource(OtlpSource([tmp_path], "shop"), Rules(source="otlp", project="shop", now=NOON))
    polls = [poll(life.connection, [configured], datetime.now(UTC), FEED)[0] for _ in range(2)]
    assert [polled.rows_written for polled in polls] == [1, 0]
    assert polls[1].rows_read == 0
