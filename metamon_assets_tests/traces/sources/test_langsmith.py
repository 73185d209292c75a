"""The LangSmith source against the local LangSmith, through the real SDK."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from metamon_assets.traces.rate_budget import RateBudget
from metamon_assets.traces.sources.base import Batch, Kind, Source, SourceError, Window
from metamon_assets.traces.sources.langsmith import LangSmithSource
from metamon_assets.traces.sources.langsmith_api import shared_budget
from metamon_assets_tests.traces.sources.langsmith_server import Backend, Fault, LangSmithServer

DAY = datetime(2026, 1, 5, tzinfo=UTC)
ONE_DAY = timedelta(days=1)
MODEL = {"metadata": {"ls_model_name": "gpt-4.1", "ls_provider": "openai"}}
USAGE: dict[str, Any] = {
    "prompt_tokens": 570, "completion_tokens": 54, "total_tokens": 624,
    "prompt_token_details": {"cache_read": 128, "cache_creation": 16}, "completion_token_details": {"reasoning": 20},
    "prompt_cost": 0.00114, "completion_cost": 0.000432, "total_cost": 0.001572,
}  # fmt: skip


@dataclass
class Clock:
    now: datetime = DAY + timedelta(days=1, hours=2)

    def __call__(self) -> datetime:
        return self.now


@dataclass
class World:
    server: LangSmithServer
    clock: Clock

    def source(self, project: str = "agent", **settings: Any) -> LangSmithSource:
        defaults: dict[str, Any] = {
            "api_key": self.server.key,
            "api_url": self.server.api_url,
            "budget": RateBudget(10_000, 1.0),
            "patience_seconds": 5.0,
            "backoff_seconds": 0.01,
            "clock": self.clock,
        }
        return LangSmithSource(project, **defaults | settings)

    def trace(self, start: datetime, **root: Any) -> str:
        """A root chain with a model call below it."""
        store = self.server.store
        run_id = store.add_run("agent", start_time=start, name="Deep Researcher", **root)
        store.add_run("agent", parent=run_id, start_time=start, name="ChatOpenAI", run_type="llm", extra=MODEL, **USAGE)
        return run_id


Start = Callable[..., World]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[LangSmithServer] = []

    def start(backend: Backend = "clickhouse", **settings: Any) -> World:
        clock = Clock()
        server = LangSmithServer(backend=backend, clock=clock, **{"limit": 10_000} | settings)
        running.append(server.__enter__())
        server.store.add_project("agent")
        return World(server, clock)

    yield start
    for server in running:
        server.__exit__()


def rows(batches: Iterator[Batch] | list[Batch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.rows.to_pylist()]


def ids(batches: Iterator[Batch]) -> set[str]:
    return {row["run_id"] for row in rows(batches)}


def settled(batches: Iterator[Batch]) -> list[dict[str, Any]]:
    """Rows by run, without when they were observed."""
    return sorted(({**row, "observed_time": None} for row in rows(batches)), key=lambda row: row["run_id"])


def window(days: int = 0, length: int = 1) -> Window:
    return Window(DAY + days * ONE_DAY, DAY + (days + length) * ONE_DAY)


# ---- which rows


@pytest.mark.parametrize("backend", ["clickhouse", "dual", "smithdb"])
def test_day_of_several_pages_with_ties_at_the_border_is_read_whole(start: Start, backend: Backend) -> None:
    world = start(backend)
    roots = [world.trace(DAY + timedelta(minutes=number // 60)) for number in range(260)]  # 60 share each start
    world.trace(DAY - timedelta(microseconds=1))
    world.trace(DAY + ONE_DAY)

    source = world.source()
    read = rows(source.read(Kind.RUNS, window()))

    assert len(read) == 520
    assert [row["run_id"] for row in read[:260]] == [row["run_id"] for row in read if row["parent_run_id"] is None], "roots come first"
    assert {row["run_id"] for row in read[:260]} == set(roots)
    assert {row["trace_id"] for row in read[260:]} == set(roots)
    path = "/runs/query" if backend == "clickhouse" else "/v2/runs/query"
    assert len(world.server.requests_to(path)) == (6 if backend == "clickhouse" else 2)
    if backend == "clickhouse":
        assert read[:260] == sorted(read[:260], key=lambda row: row["start_time"]), "what arrives meanwhile lands behind the cursor"
    other = "/v2/runs/query" if backend == "clickhouse" else "/runs/query"
    assert not world.server.requests_to(other), "only the run query that the server can answer is used"
    as_declared: Source = source
    assert as_declared.name == "langsmith"


def test_range_gives_the_same_as_day_by_day(start: Start) -> None:
    world = start()
    for hour in range(72):
        root = world.trace(DAY + timedelta(hours=hour, minutes=59, seconds=59))
        world.server.store.add_run("agent", parent=root, start_time=DAY + timedelta(hours=hour + 2), name="late child")
    world.clock.now = DAY + timedelta(days=4)

    by_day = [row for day in range(3) for row in settled(world.source().read(Kind.RUNS, window(day)))]

    in_one = settled(world.source().read(Kind.RUNS, window(0, 3)))
    assert sorted(by_day, key=lambda row: row["run_id"]) == in_one
    assert len(in_one) == 216


@pytest.mark.parametrize("backend", ["clickhouse", "dual"])
def test_children_come_with_a_root_that_has_ended_and_not_with_one_that_is_pending(start: Start, backend: Backend) -> None:
    world = start(backend)
    ended, pending, other = world.trace(DAY), world.trace(DAY, seconds=None), world.trace(DAY)

    read = rows(world.source().read_runs_by_id([ended, pending], since=DAY - ONE_DAY))

    assert {row["run_id"] for row in read if row["parent_run_id"] is None} == {ended, pending}
    assert [row["trace_id"] for row in read if row["parent_run_id"] is not None] == [ended]
    assert other not in {row["trace_id"] for row in read}


def test_child_that_starts_days_later_or_just_before_belongs_to_its_roots_window(start: Start) -> None:
    for backend in ("clickhouse", "dual"):
        world = start(backend)
        root = world.trace(DAY + timedelta(hours=23))
        later = world.server.store.add_run("agent", parent=root, start_time=DAY + timedelta(days=1, hours=1))
        sooner = world.server.store.add_run("agent", parent=root, start_time=DAY + timedelta(hours=22, minutes=59, seconds=59))

        found = ids(world.source().read(Kind.RUNS, Window(DAY + timedelta(hours=23), DAY + ONE_DAY)))

        assert {root, later, sooner} < found


def test_run_that_appears_late_in_a_closed_day_is_found_by_reading_again(start: Start) -> None:
    world = start()
    world.trace(DAY + timedelta(hours=3))
    late = world.trace(DAY + timedelta(hours=4), visible_from=DAY + timedelta(days=2))

    assert late not in ids(world.source().read(Kind.RUNS, window()))
    world.clock.now = DAY + timedelta(days=2, hours=1)
    assert late in ids(world.source().read(Kind.RUNS, window()))


@pytest.mark.parametrize("backend", ["clickhouse", "dual"])
def test_pending_run_is_followed_by_id_until_it_is_patched(start: Start, backend: Backend) -> None:
    world = start(backend)
    pending = world.server.store.add_run("agent", start_time=DAY + timedelta(hours=23), seconds=None, name="slow")
    others = [world.server.store.add_run("agent", start_time=DAY, seconds=None) for _ in range(120)]

    [first] = [row for row in rows(world.source().read(Kind.RUNS, window())) if row["run_id"] == pending]
    assert (first["status"], first["end_time"]) == ("pending", None)

    world.clock.now = DAY + timedelta(days=10)
    ended = DAY + timedelta(days=9)
    world.server.store.patch_run(pending, end_time=ended, error="TimeoutError('no answer')", outputs={"a": 1})
    since = DAY - ONE_DAY
    again = {row["run_id"]: row for row in rows(world.source().read_runs_by_id([pending, *others, pending], since))}
    assert len(again) == 121
    asked = [run_id for request in world.server.log if request.body for run_id in request.body.get("ids", request.body.get("id", []))]
    assert len(asked) == 121, "each run once"
    assert (again[pending]["status"], again[pending]["end_time"], again[pending]["error_type"]) == ("error", ended, "TimeoutError")
    assert pending in {row["run_id"] for row in rows(world.source().read_runs_by_id([pending]))}


def test_expired_run_is_absent_without_an_error(start: Start) -> None:
    world = start()
    run = world.trace(DAY)
    kept = world.trace(DAY)
    world.server.store.add_feedback(kept, "thumbs", created_at=DAY, score=1)

    world.clock.now = DAY + timedelta(days=15)

    assert ids(world.source().read(Kind.RUNS, window())) >= {kept}
    assert run not in ids(world.source().read(Kind.RUNS, window()))
    assert rows(world.source().read_runs_by_id([run])) == []


def test_empty_window_asks_once_and_yields_nothing(start: Start) -> None:
    world = start()
    assert list(world.source().read(Kind.RUNS, window())) == []
    assert len(world.server.requests_to("/runs/query")) == 1
    assert list(world.source().read(Kind.EVENTS, window())) == list(world.source().read(Kind.GAUGES, window())) == []


def test_everything_is_a_window_too(start: Start) -> None:
    world = start("dual")
    run = world.trace(DAY, tier="longlived")
    world.server.store.add_feedback(run, "thumbs", created_at=DAY)
    world.clock.now = DAY + timedelta(days=300)
    everything = Window(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
    assert run in ids(world.source().read(Kind.RUNS, everything))
    assert len(rows(world.source().read(Kind.FEEDBACK, everything))) == 1
    assert world.source().count(everything).runs == 1
    assert rows(world.source().read(Kind.RUNS, Window(datetime(2001, 1, 1, tzinfo=UTC), datetime(2001, 1, 2, tzinfo=UTC)))) == []


def test_project_may_be_named_by_its_id_and_the_path_may_be_bare(start: Start) -> None:
    world = start()
    run = world.trace(DAY)
    [project_id] = world.server.store.projects

    assert run in ids(world.source(project_id).read(Kind.RUNS, window()))
    assert run in ids(world.source(api_url=world.server.url).read(Kind.RUNS, window()))


# ---- what a row says


def test_both_run_queries_give_identical_rows(start: Start) -> None:
    world = start("dual")
    for number in range(30):
        root = world.trace(DAY + timedelta(minutes=number), first_token_time=DAY + timedelta(minutes=number, microseconds=250_000))
        world.server.store.add_run(
            "agent",
            parent=root,
            start_time=DAY + timedelta(minutes=number, microseconds=5),
            name="search",
            run_type="tool",
            error="ValueError('no such page')" if number % 3 else None,
            inputs={"q": "Käse"},
            reference_example_id=root,
            tags=["a", "b"],
            extra={"metadata": {"thread_id": root, "tenant_id": 7}, "runtime": {"sdk": "langsmith-py"}},
        )
    world.server.store.add_run("agent", start_time=DAY, seconds=None)

    older = settled(world.source(api="v1").read(Kind.RUNS, window()))
    current = settled(world.source(api="v2").read(Kind.RUNS, window()))

    assert len(older) == 91
    assert older == current
    assert world.server.requests_to("/runs/query")
    assert world.server.requests_to("/v2/runs/query")


@pytest.mark.parametrize("backend", ["clickhouse", "dual"])
def test_root_carries_the_whole_trace_once(start: Start, backend: Backend) -> None:
    world = start(backend)
    root = world.trace(DAY)
    agent = world.server.store.add_run("agent", parent=root, start_time=DAY, name="agent")
    world.server.store.add_run("agent", parent=agent, start_time=DAY, run_type="llm", **USAGE)
    world.server.store.add_run("agent", parent=agent, start_time=DAY, run_type="tool", name="search")

    source = world.source()
    read = rows(source.read(Kind.RUNS, window()))

    [whole] = [row for row in read if row["parent_run_id"] is None]
    leaves = [row for row in read if row["run_type"] == "llm"]
    assert whole["total_cost"] == Decimal("0.003144") == sum(row["total_cost"] for row in leaves)
    assert whole["input_tokens"] == 1140 == sum(row["input_tokens"] for row in leaves)
    assert whole["cost_source"] == "reported"
    counted = source.count(window())
    assert (counted.runs, Decimal(counted.cost or "0")) == (1, Decimal("0.003144")), "the source's own count is of traces, each once"
    [tool] = [row for row in read if row["run_type"] == "tool"]
    assert [tool[name] for name in ("input_tokens", "output_tokens", "total_tokens", "total_cost", "cost_source")] == [None] * 5
    assert tool["tool_name"] == "search"


def test_large_payloads_kept_elsewhere_are_null_and_noted_without_their_address(start: Start) -> None:
    world = start()
    run = world.server.store.add_run("agent", start_time=DAY, payloads_in_s3=True)

    first, second = (settled(world.source().read(Kind.RUNS, window())) for _ in range(2))

    assert first == second, "signed addresses differ between answers and must not make a row look changed"
    [row] = first
    assert (row["run_id"], row["inputs"], row["outputs"]) == (run, None, None)
    assert row["metadata"] == '{"langsmith":{"payloads_not_inlined":["inputs","outputs"]}}'


def test_without_payloads_they_are_not_even_fetched(start: Start) -> None:
    for backend in ("clickhouse", "dual"):
        world = start(backend)
        world.trace(DAY, inputs={"secret": "word"})
        [root, _] = rows(world.source(payloads=False).read(Kind.RUNS, window()))
        assert "inputs" not in root
        assert "secret" not in str([request.answer for request in world.server.log])


def test_map_says_where_columns_are_found(start: Start) -> None:
    world = start()
    world.trace(DAY, extra={"metadata": {"customer": {"id": "acme"}, "app.version": "v7"}}, inputs={"persona": "planner"})
    found_at = {
        "tenant_id": "metadata.customer.id",
        "agent_version": ["metadata.missing", "metadata.app.version"],
        "agent_name": "inputs.persona",
    }

    row = rows(world.source(map=found_at).read(Kind.RUNS, window()))[0]

    assert (row["tenant_id"], row["agent_version"], row["agent_name"]) == ("acme", "v7", "planner")
    with pytest.raises(SourceError, match="map: tenant_id must be a dotted path or a list of them, not 7"):
        world.source(map={"tenant_id": 7})
    with pytest.raises(SourceError, match="map: latency cannot be mapped; what can be: agent_name"):
        world.source(map={"latency": "metadata.x"})


def test_runs_that_the_sdk_wrote_are_read_back(start: Start) -> None:
    from langsmith import Client, RunTree, traceable
    from langsmith.run_helpers import tracing_context

    world = start()
    world.clock.now = datetime.now(UTC) + timedelta(seconds=5)
    client = Client(api_url=world.server.api_url, api_key=world.server.key)

    @traceable(run_type="llm", metadata={"ls_model_name": "gpt-4.1", "ls_provider": "openai"})
    def call(question: str) -> dict[str, Any]:
        usage = {"input_tokens": 12, "output_tokens": 3, "total_tokens": 15, "input_token_details": {"cache_read": 4}}
        return {"answer": question.upper(), "usage_metadata": usage}

    @traceable(name="planner", metadata={"thread_id": "t-1", "tenant_id": "acme"})
    def agent(question: str) -> str:
        call(question)
        raise RuntimeError("out of patience")

    with tracing_context(enabled=True, client=client, project_name="agent"), pytest.raises(RuntimeError):
        agent("why")
    client.flush()
    hung = RunTree(name="hung", project_name="agent", ls_client=client)
    hung.post()
    client.flush()

    now = datetime.now(UTC)
    read = {row["name"]: row for row in rows(world.source().read(Kind.RUNS, Window(now - timedelta(hours=1), now + timedelta(hours=1))))}

    assert set(read) == {"planner", "call", "hung"}
    assert (read["planner"]["status"], read["planner"]["error_type"]) == ("error", "RuntimeError")
    assert (read["planner"]["conversation_id"], read["planner"]["tenant_id"]) == ("t-1", "acme")
    assert read["planner"]["input_tokens"] == 12
    assert read["call"]["parent_run_id"] == read["planner"]["run_id"]
    assert (read["call"]["cache_read_input_tokens"], read["call"]["request_model"]) == (4, "gpt-4.1")
    assert (read["hung"]["status"], read["hung"]["input_tokens"]) == ("pending", None)


# ---- feedback


@pytest.mark.parametrize("backend", ["clickhouse", "dual"])
def test_feedback_is_read_by_when_it_was_given_with_an_hour_of_overlap(start: Start, backend: Backend) -> None:
    world = start(backend)
    run = world.trace(DAY)
    given = [
        world.server.store.add_feedback(run, "user_rating", created_at=DAY + timedelta(minutes=number), score=number % 5)
        for number in range(150)
    ]
    overlap = world.server.store.add_feedback(run, "user_rating", created_at=DAY - timedelta(minutes=30), score=1)
    world.server.store.add_feedback(run, "user_rating", created_at=DAY - timedelta(hours=2), score=1)

    read = rows(world.source().read(Kind.FEEDBACK, window()))

    assert sorted(row["feedback_id"] for row in read) == sorted([*given, overlap]), "each once"
    assert len(world.server.requests_to("/feedback")) >= 2
    assert {row["run_id"] for row in read} == {row["trace_id"] for row in read} == {run}


@pytest.mark.parametrize("backend", ["clickhouse", "dual", "smithdb"])
def test_feedback_edited_days_later_is_read_again_with_the_current_window(start: Start, backend: Backend) -> None:
    world = start(backend)
    run, child_run = world.trace(DAY), world.trace(DAY)
    edited = world.server.store.add_feedback(run, "user_rating", created_at=DAY + timedelta(hours=1), score=5)
    world.server.store.add_feedback(child_run, "user_rating", created_at=DAY + timedelta(hours=1), score=2)
    world.server.store.edit_feedback(edited, at=DAY + timedelta(days=6, hours=1), score=1, comment="I was wrong")
    world.clock.now = DAY + timedelta(days=7, hours=1)

    [row] = rows(world.source().read(Kind.FEEDBACK, window(6)))

    assert (row["feedback_id"], row["score"], row["comment"]) == (edited, 1.0, "I was wrong")
    assert row["created_at"] == DAY + timedelta(hours=1)
    assert row["modified_at"] == DAY + timedelta(days=6, hours=1)
    world.clock.now = DAY + timedelta(days=20)
    assert rows(world.source().read(Kind.FEEDBACK, window(6))) == [], "a window of the past has no edits of its own"


def test_feedback_rows_say_who_judged(start: Start) -> None:
    world = start()
    run = world.trace(DAY)
    user = "0d9ea1c4-2f1e-4a55-9d0c-6f6f1c2b7a10"
    store = world.server.store
    store.add_feedback(run, "1", created_at=DAY, feedback_source={"type": "app", "user_id": user, "metadata": None}, score=True)
    store.add_feedback(run, "2", created_at=DAY, feedback_source={"type": "model", "metadata": {"__run": {"run_id": run}}}, value="good")
    store.add_feedback(run, "3", created_at=DAY, feedback_source={"type": "auto_eval", "metadata": None}, value={"a": 1})
    store.add_feedback(run, "4", created_at=DAY, feedback_source=None, correction={"answer": "42"})
    store.add_feedback(None, "5", created_at=DAY, session_id=next(iter(store.projects)), correction="forty-two")

    read = {row["key"]: row for row in rows(world.source().read(Kind.FEEDBACK, window()))}

    assert [read[key]["source_type"] for key in "12345"] == ["human", "llm", "llm", None, "api"]
    assert (read["1"]["score"], read["1"]["user_id"]) == (1.0, user)
    assert (read["2"]["value"], read["3"]["value"]) == ("good", '{"a":1}')
    assert run in read["2"]["metadata"], "the evaluator's own run can be found"
    assert (read["4"]["correction"], read["5"]["correction"]) == ('{"answer":"42"}', '"forty-two"')
    assert read["5"]["run_id"] is None


# ---- what can go wrong


@pytest.mark.parametrize("api", ["v1", "v2"])
@pytest.mark.parametrize(
    ("status", "says", "mends"),
    [
        (400, "did not accept the request (400)", "update the langsmith package"),
        (401, "refused the API key (401)", "Check that the key is valid"),
        (403, "does not let this API key read here (403)", "workspace_id"),
        (404, "has nothing (404)", "Check the project's name"),
        (422, "did not accept the request (422)", "Set `api: v1` or `api: v2`"),
        (429, "kept limiting the rate (429)", "Let fewer readers share this API key"),
        (500, "failed (500)", "later"),
        (501, "did not accept the request (501)", "Set `api: v1` or `api: v2`"),
        (503, "failed (503)", "later"),
    ],
)
def test_every_refusal_says_what_where_and_how_to_mend_it(start: Start, api: Any, status: int, says: str, mends: str) -> None:
    world = start("dual")
    world.trace(DAY)
    key = world.server.key
    world.server.faults.append(Fault("/runs/query", status, times=10**6, body={"detail": f"no, {key}\n  not today"}))

    with pytest.raises(SourceError) as failure:
        list(world.source(api=api, patience_seconds=0.1).read(Kind.RUNS, window()))

    message = str(failure.value)
    assert says in message
    assert mends in message
    assert f"{world.server.api_url} runs query ({api}), page 1" in message
    assert "not today" in message
    assert "\n" not in message
    assert key not in message
    assert len(world.server.requests_to("/runs/query") + world.server.requests_to("/v2/runs/query")) == 1 or status in (429, 500, 503)


def test_wrong_key_wrong_project_and_no_server_are_told_apart(start: Start) -> None:
    world = start()
    with pytest.raises(SourceError, match=r"refused the API key \(401\) at .* project 'agent'"):
        list(world.source(api_key="lsv2_pt_wrong").read(Kind.RUNS, window()))
    with pytest.raises(SourceError, match=r"does not let this API key read here \(403\)"):
        world.source(api_key=world.server.forbidden_key).count(window())
    with pytest.raises(SourceError, match=r"has nothing \(404\) at .* project 'agnet'\. Check the project's name"):
        list(world.source("agnet").read(Kind.RUNS, window()))
    with pytest.raises(SourceError, match="could not be reached") as failure:
        list(world.source(api_url="http://127.0.0.1:9/api/v1", patience_seconds=0.05).read(Kind.FEEDBACK, window()))
    assert world.server.key not in str(failure.value)
    assert world.server.key[-2:] + "\n" not in str(failure.value)


@pytest.mark.parametrize("api", ["v1", "v2"])
@pytest.mark.parametrize(
    "fault",
    [Fault("/runs/query", 503, skip=1, times=2), Fault("/runs/query", truncate=True, skip=1), Fault("/runs/query", garble=True, skip=1)],
)
def test_page_that_breaks_in_the_middle_is_taken_up_at_its_cursor(start: Start, api: Any, fault: Fault) -> None:
    world = start("dual")
    roots = {
        world.server.store.add_run("agent", start_time=DAY + timedelta(minutes=number)) for number in range(1200 if api == "v2" else 250)
    }
    world.server.faults.append(Fault(fault.path, fault.status, fault.times, fault.skip, truncate=fault.truncate, garble=fault.garble))

    assert ids(world.source(api=api).read(Kind.RUNS, Window(DAY, DAY + 2 * ONE_DAY))) == roots

    queries = [request for request in world.server.log if request.path.endswith("/runs/query") and (request.body.get("is_root"))]
    cursors = [request.body.get("cursor") for request in queries]
    assert cursors.count(None) == 1, "the first page is not read twice"
    assert cursors.count(cursors[1]) == 1 + fault.times, "the broken page is asked for again with the same cursor"


def test_page_that_stays_broken_fails_the_window(start: Start) -> None:
    world = start()
    for number in range(250):
        world.server.store.add_run("agent", start_time=DAY + timedelta(minutes=number))
    world.server.faults.append(Fault("/runs/query", 502, skip=1, times=10**6))

    batches = world.source(patience_seconds=0.1).read(Kind.RUNS, window())
    assert next(batches).rows.num_rows == 100
    with pytest.raises(SourceError, match=r"failed \(502\) \d+ times in 0 s at .* page 2\..*Nothing of the window was taken over"):
        list(batches)


@pytest.mark.parametrize(("status", "limits"), [(413, [100, 50, *[25] * 6]), (504, [100, 100, 50, 50, 50])])
def test_page_that_the_server_cannot_carry_is_asked_for_in_smaller_ones(start: Start, status: int, limits: list[int]) -> None:
    world = start()
    for number in range(150):
        world.server.store.add_run("agent", start_time=DAY + timedelta(minutes=number))
    world.server.faults.append(Fault("/runs/query", status, times=2))

    assert len(ids(world.source().read(Kind.RUNS, window()))) == 150

    of_roots = [request for request in world.server.requests_to("/runs/query") if request.body["is_root"]]
    assert [request.body["limit"] for request in of_roots] == limits


def test_page_limit_is_learned_from_the_refusal(start: Start) -> None:
    world = start(largest_page=40)
    for number in range(100):
        world.server.store.add_run("agent", start_time=DAY + timedelta(minutes=number))

    assert len(ids(world.source().read(Kind.RUNS, window()))) == 100
    assert [request.body["limit"] for request in world.server.requests_to("/runs/query")] == [100, 40, 40, 40, 40]


def test_cursor_that_never_ends_is_refused(start: Start) -> None:
    world = start("dual")
    world.trace(DAY)
    endless = {"items": [], "next_cursor": "again", "has_more": True}
    page = {"items": [{"id": "6f0c2b7a-2f1e-4a55-9d0c-6f6f1c2b7a10", "start_time": "2026-01-05T00:00:00Z"}], "next_cursor": "again"}
    world.server.faults.append(Fault("/v2/runs/query", 200, times=10**6, body=page))
    with pytest.raises(SourceError, match="gave the same cursor twice"):
        list(world.source().read(Kind.RUNS, window()))
    world.server.faults[0].body = endless
    assert list(world.source().read(Kind.RUNS, window())) == []


def test_row_that_cannot_be_read_is_rejected_and_the_rest_kept(start: Start) -> None:
    world = start()
    good = world.trace(DAY)
    bad = world.server.store.add_run("agent", start_time=DAY, total_cost="a lot", total_tokens=3)
    odd = world.server.store.add_run("agent", start_time=DAY, name="half a pair: \ud83d", extra={"metadata": {"tenant_id": "\udc00x"}})

    batches = list(world.source().read(Kind.RUNS, window()))

    [reject] = [reject for batch in batches for reject in batch.rejects]
    assert (reject.reason, reject.run_id) == ("bad_total_cost", bad)
    assert "a lot" in reject.detail
    assert bad in reject.raw
    assert "page 1, row " in reject.location
    read = {row["run_id"]: row for row in rows(batches)}
    assert good in read
    assert bad not in read
    assert (read[odd]["name"], read[odd]["tenant_id"]) == ("half a pair: ?", "?x")


def test_own_project_is_refused_by_name_and_by_id(start: Start) -> None:
    world = start()
    own = world.server.store.add_project("Metamon")
    with pytest.raises(SourceError, match="where Metamon traces its own model calls, so it cannot be a source"):
        world.source("metamon")
    with pytest.raises(SourceError, match="Name the agent's project under sources"):
        list(world.source(own).read(Kind.RUNS, window()))
    with pytest.raises(SourceError, match="'agent' is where"):
        world.source("agent", own_project="agent")


def test_server_without_statistics_tells_no_count(start: Start) -> None:
    world = start()
    world.server.faults.append(Fault("/runs/stats", 404, times=10**6))
    assert world.source().count(window()).runs is None
    with pytest.raises(SourceError, match="has nothing"):
        world.source("agnet").count(window())


# ---- the rate budget


def test_budget_holds_and_nothing_is_refused(start: Start) -> None:
    world = start(limit=6, limit_seconds=0.3, retry_after="0.3")
    for number in range(800):
        world.server.store.add_run("agent", start_time=DAY + timedelta(minutes=number))
    budget = RateBudget(6, 0.55)  # over the server's, so that a slow way there does not matter
    sources = [world.source(budget=budget) for _ in range(2)]
    read: list[int] = []

    threads = [threading.Thread(target=lambda source=source: read.append(len(ids(source.read(Kind.RUNS, window()))))) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert read == [800, 800]
    times = [request.at for request in world.server.requests_to("/runs/query")]
    assert len(times) == 18
    assert {request.status for request in world.server.requests_to("/runs/query")} == {200}, "no query was refused"
    assert all(later - earlier >= 0.3 for earlier, later in zip(times, times[6:], strict=False)), "never more than six in any 0.3 s"


@pytest.mark.parametrize("api", ["v1", "v2"])
def test_retry_after_is_honoured_for_all_who_share_the_key(start: Start, api: Any) -> None:
    world = start("dual")
    world.trace(DAY)
    world.server.faults.append(Fault("/runs/query", 429, times=1, retry_after="0.4"))
    budget = RateBudget(100, 1.0)

    assert len(rows(world.source(api=api, budget=budget).read(Kind.RUNS, window()))) == 2

    refused, then, *_ = [request for request in world.server.log if request.path.endswith("/runs/query")]
    assert (refused.status, then.status) == (429, 200)
    assert then.at - refused.at >= 0.4


def test_refusal_of_one_reader_holds_back_the_others_of_its_key(start: Start) -> None:
    world = start()
    world.trace(DAY)
    world.server.faults.append(Fault("/runs/query", 429, times=1, retry_after="0.6"))
    budget = RateBudget(100, 1.0)
    refused = threading.Thread(target=lambda: ids(world.source(budget=budget).read(Kind.RUNS, window())))
    refused.start()
    while not world.server.requests_to("/runs/query"):
        time.sleep(0.005)
    time.sleep(0.1)  # for the answer's way back

    began = time.monotonic()
    budget.acquire()
    waited = time.monotonic() - began

    refused.join()
    assert waited > 0.2


def test_reader_that_exceeds_the_servers_limit_recovers(start: Start) -> None:
    # A window that outlasts four requests also where the machine is slow: with .2 s none came too soon there.
    world = start(limit=3, limit_seconds=4, retry_after="1")
    for number in range(500):
        world.server.store.add_run("agent", start_time=DAY + timedelta(minutes=number))

    assert len(ids(world.source().read(Kind.RUNS, window()))) == 500
    assert 429 in {request.status for request in world.server.log}


def test_retry_after_may_be_a_date_and_beyond_patience_it_fails_at_once(start: Start) -> None:
    world = start()
    world.trace(DAY)
    date = f"{datetime.now(UTC) + timedelta(hours=1):%a, %d %b %Y %H:%M:%S} GMT"
    world.server.faults.append(Fault("/runs/query", 429, retry_after=date))
    began = time.monotonic()
    with pytest.raises(SourceError, match="kept limiting the rate"):
        list(world.source().read(Kind.RUNS, window()))
    assert time.monotonic() - began < 3


def test_readers_of_one_key_share_one_budget() -> None:
    assert shared_budget("https://a", "key") is shared_budget("https://a", "key")
    assert shared_budget("https://a", "key") is not shared_budget("https://a", "other")


def test_budget_never_lets_more_through_than_it_says() -> None:
    budget, taken, generator = RateBudget(5, 0.1), [], random.Random(7)
    for _ in range(14):
        time.sleep(generator.uniform(0, 0.03))
        budget.acquire()
        taken.append(time.monotonic())
    assert all(later - earlier >= 0.099 for earlier, later in zip(taken, taken[5:], strict=False))
