"""The receiver: many requests in one commit, answers only after it, and what each failure costs (IN-12)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from metamon_assets.config import Settings
from metamon_assets.metrics.sensors import late_days
from metamon_assets.traces.receiver import JSON, PROTOBUF, Accepted, Receiver, UnavailableError, UndecodableError
from metamon_assets.traces.sources.base import Kind
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.migrations import migrate
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.warehouse.roles import WRITER
from metamon_assets_tests.conftest import TEST_SETTINGS
from metamon_assets_tests.traces.sources.test_otlp import attributes, request, span

WAIT = 60.0
NOW = time.time_ns() // 10**9 * 10**9
CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.output_tokens": 5,
}


def settings(tmp_path: Path, **web: Any) -> Settings:
    return Settings.load({"METAMON_HOME": str(tmp_path)}).model_copy(update=web)


@pytest.fixture
def receiver(database: str, tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(database, settings(tmp_path))
    yield made
    made.close(WAIT)


def body(*spans: Any, service: str = "shop") -> bytes:
    return orjson.dumps(request(*spans, resource={"service.name": service, "service.version": "7"}))


def a_span(trace: int, number: int = 1, parent: int | None = None, values: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    links = {} if parent is None else {"parentSpanId": f"{parent:016x}"}
    times = {"startTimeUnixNano": str(NOW), "endTimeUnixNano": str(NOW + 2 * 10**9)}
    return span(values, **({"traceId": f"{trace:032x}", "spanId": f"{number:016x}"} | times | links | fields))


def gauge(value: float, **fields: Any) -> bytes:
    point = {"timeUnixNano": str(NOW), "asDouble": value, "attributes": attributes({"cache": "answers"})} | fields
    scope = {"metrics": [{"name": "cache_size", "gauge": {"dataPoints": [point]}}]}
    return orjson.dumps({"resourceMetrics": [{"resource": {}, "scopeMetrics": [scope]}]})


def select(database: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    connection = connect(database)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()
    finally:
        connection.close()


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def test_spans_are_there_when_the_answer_is(receiver: Receiver, database: str) -> None:
    sent = body(a_span(1, values={"gen_ai.agent.name": "support"}), a_span(1, 2, parent=1, values=CHAT))
    assert receiver.submit(Kind.RUNS, sent, JSON).result(WAIT) == Accepted()
    assert select(database, "SELECT project, agent_name, agent_version, input_tokens, llm_calls, total_cost > 0 FROM analytics.traces") == [
        ("shop", "support", "7", 10, 1, True)
    ]
    assert select(database, "SELECT clock FROM metamon.touched_buckets ORDER BY clock") == [("end",), ("start",)]


def test_the_same_span_twice_is_no_duplicate(receiver: Receiver, database: str) -> None:
    futures = [receiver.submit(Kind.RUNS, body(a_span(1)), JSON) for _ in range(5)]
    assert [future.result(WAIT) for future in futures] == [Accepted()] * 5
    assert receiver.submit(Kind.RUNS, body(a_span(1)), JSON).result(WAIT) == Accepted()
    assert select(database, "SELECT count(*) FROM metamon.traces") == [(1,)]


def test_a_trace_may_come_in_any_order_and_in_many_requests(receiver: Receiver, database: str) -> None:
    def send(*spans: Any) -> None:
        assert receiver.submit(Kind.RUNS, body(*spans), JSON).result(WAIT) == Accepted()

    send(a_span(1, 3, parent=2, values=CHAT))
    assert select(database, "SELECT run_id, root_inferred, llm_calls FROM metamon.traces") == [(f"{1:032x}:{2:016x}", True, 1)]
    send(a_span(1, 2, parent=1, values={"gen_ai.operation.name": "execute_tool"}))
    send(a_span(1, 4, parent=1, values=CHAT))
    send(a_span(1, 1, values={"gen_ai.agent.name": "support"}))
    assert select(database, "SELECT run_id, root_inferred, llm_calls, tool_calls, input_tokens FROM metamon.traces") == [
        (f"{1:032x}:{1:016x}", False, 2, 1, 20)
    ]
    assert select(database, "SELECT count(*) FROM metamon.spans") == [(3,)]
    # Each row that was read is one of these.
    assert select(
        database,
        "SELECT rows_read, rows_inserted + rows_updated + rows_unchanged + rows_duplicate + rows_excluded + rows_rejected + rows_outside"
        " FROM metamon.ingestion_ledger",
    ) == [(4, 4)]


def hold_writer(database: str) -> tuple[Any, Callable[[], None]]:
    """Keeps the receiver's day locked, so that what is sent gathers."""
    holder = connect(database)
    cursor = holder.cursor()
    day = datetime.fromtimestamp(NOW / 1e9, UTC).date()
    cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"day:otlp:{day}",))
    return holder, holder.rollback


def waiting_for_lock(database: str) -> bool:
    return bool(select(database, "SELECT FROM pg_stat_activity WHERE application_name = 'metamon receiver' AND wait_event_type = 'Lock'"))


def test_what_gathers_during_a_commit_shares_the_next_one(receiver: Receiver, database: str) -> None:
    holder, release = hold_writer(database)
    futures = [receiver.submit(Kind.RUNS, body(a_span(1)), JSON)]
    until(lambda: waiting_for_lock(database))
    futures += [receiver.submit(Kind.RUNS, body(a_span(trace)), JSON) for trace in range(2, 202)]
    futures.append(receiver.submit(Kind.GAUGES, gauge(3), JSON))
    assert not any(future.done() for future in futures)
    assert receiver.load().waiting_requests == 202
    release()
    assert [future.result(WAIT) for future in futures] == [Accepted()] * 202
    assert select(database, "SELECT count(*), count(DISTINCT xmin::text) FROM metamon.traces") == [(201, 2)]
    # One entry of the ledger for each kind, however many commits.
    assert select(
        database, "SELECT kind, status, live, rows_read, rows_inserted, cardinality(days) FROM metamon.ingestion_ledger ORDER BY kind"
    ) == [("gauges", "complete", True, 1, 1, 1), ("runs", "complete", True, 201, 201, 1)]
    until(lambda: receiver.load().waiting_requests == 0)
    assert (receiver.load().commits, receiver.load().waiting_bytes) == (3, 0)
    holder.close()


def test_bad_spans_are_counted_against_their_own_request(receiver: Receiver, database: str) -> None:
    holder, release = hold_writer(database)
    first = receiver.submit(Kind.RUNS, body(a_span(1)), JSON)
    until(lambda: waiting_for_lock(database))
    bad_on_the_wire = receiver.submit(Kind.RUNS, body(a_span(2), a_span(3, startTimeUnixNano="0")), JSON)
    good = receiver.submit(Kind.RUNS, body(a_span(4)), JSON)
    end_before_start = a_span(5, endTimeUnixNano=str(NOW - 10**9))
    wrong_type = a_span(6, values={"gen_ai.usage.input_tokens": "many"})
    bad_rows = receiver.submit(Kind.RUNS, body(end_before_start, wrong_type), JSON)
    release()
    assert (first.result(WAIT), good.result(WAIT)) == (Accepted(), Accepted())
    assert bad_on_the_wire.result(WAIT).rejected == 1
    assert bad_on_the_wire.result(WAIT).message.startswith("resourceSpans[0].scopeSpans[0].spans[1]: missing_start_time: ")
    assert bad_rows.result(WAIT).rejected == 2
    assert "quarantine.rejected_rows" in bad_rows.result(WAIT).message
    assert select(database, "SELECT count(*) FROM metamon.traces") == [(3,)]
    assert select(database, "SELECT reason FROM quarantine.rejected_rows ORDER BY reason") == [
        ("end_before_start",),
        ("missing_start_time",),
        ("wrong_type",),
    ]
    ((read, inserted, rejected),) = select(database, "SELECT rows_read, rows_inserted, rows_rejected FROM metamon.ingestion_ledger")
    assert (read, inserted, rejected) == (6, 3, 3)
    holder.close()


def test_two_spans_of_one_id_that_contradict_each_other_are_a_partial_success(receiver: Receiver, database: str) -> None:
    accepted = receiver.submit(Kind.RUNS, body(a_span(1, name="one"), a_span(1, name="other")), JSON).result(WAIT)
    assert (accepted.rejected, "conflicting_duplicate" in accepted.message) == (1, True)
    assert select(database, "SELECT count(*) FROM metamon.traces") == [(1,)]


def test_a_request_that_the_database_refuses_costs_no_other_its_rows(receiver: Receiver, database: str, owned_database: str) -> None:
    connection = connect(owned_database)
    with connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE metamon.traces ADD CONSTRAINT no_poison CHECK (name <> 'poison')")
    holder, release = hold_writer(database)
    good = [receiver.submit(Kind.RUNS, body(a_span(1)), JSON)]
    until(lambda: waiting_for_lock(database))
    good += [receiver.submit(Kind.RUNS, body(a_span(trace)), JSON) for trace in range(2, 10)]
    bad = receiver.submit(Kind.RUNS, body(a_span(10, name="poison"), a_span(11)), JSON)
    good += [receiver.submit(Kind.RUNS, body(a_span(trace)), JSON) for trace in range(12, 20)]
    release()
    assert [future.result(WAIT) for future in good] == [Accepted()] * 17
    assert bad.result(WAIT).rejected == 2
    assert "refused_by_database" in bad.result(WAIT).message
    assert select(database, "SELECT count(*) FROM metamon.traces") == [(17,)]
    assert select(database, "SELECT reason, raw::json ->> 'name' FROM quarantine.rejected_rows ORDER BY 2") == [
        ("refused_by_database", "call"),
        ("refused_by_database", "poison"),
    ]
    assert "poison" not in bad.result(WAIT).message.replace("no_poison", "")  # the row itself is not told
    holder.close()
    connection.close()


@pytest.mark.parametrize(
    ("kind", "sent", "content_type", "said"),
    [
        (Kind.RUNS, b"\xff\xff", PROTOBUF, "no opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest"),
        (Kind.RUNS, b"{", JSON, "not JSON"),
        (Kind.RUNS, b"[]", JSON, "needs resourceSpans"),
        (Kind.RUNS, b'{"resourceMetrics": []}', JSON, "needs resourceSpans"),
        (Kind.GAUGES, b'{"resourceSpans": []}', JSON, "needs resourceMetrics"),
    ],
)
def test_what_is_no_request_is_refused_at_once(receiver: Receiver, kind: Kind, sent: bytes, content_type: str, said: str) -> None:
    with pytest.raises(UndecodableError, match=said):
        receiver.submit(kind, sent, content_type)
    assert (receiver.load().waiting_requests, receiver.load().waiting_bytes) == (0, 0)


def test_an_empty_request_is_accepted_and_books_nothing(receiver: Receiver, database: str) -> None:
    for sent, content_type in (
        (b"", PROTOBUF),
        (b"", JSON),
        (b"{}", JSON),
        (b'{"resourceSpans": []}', JSON),
        (b'{"resource_spans": []}', JSON),
    ):
        assert receiver.submit(Kind.RUNS, sent, content_type).result(WAIT) == Accepted()
    assert select(database, "SELECT count(*) FROM metamon.ingestion_ledger") == [(0,)]


def test_gauges_arrive_once(receiver: Receiver, database: str) -> None:
    for _ in range(2):
        assert receiver.submit(Kind.GAUGES, gauge(3.5), JSON, "ours").result(WAIT) == Accepted()
    bad = receiver.submit(Kind.GAUGES, gauge(1, asDouble="NaN"), JSON).result(WAIT)
    assert (bad.rejected, "wrong_type" in bad.message) == (1, True)
    assert select(database, "SELECT project, name, value, labels ->> 'cache' FROM metamon.gauge_samples") == [
        ("ours", "cache_size", 3.5, "answers")
    ]


def test_the_configured_map_names_an_applications_own_attributes(database: str, tmp_path: Path) -> None:
    receiver = Receiver(database, settings(tmp_path, map={"tenant_id": "app.customer"}))
    assert receiver.submit(Kind.RUNS, body(a_span(1, values={"app.customer": "acme"})), JSON).result(WAIT) == Accepted()
    receiver.close(WAIT)
    assert select(database, "SELECT tenant_id FROM metamon.traces") == [("acme",)]


def test_when_too_much_waits_senders_are_told_to_come_back(database: str, tmp_path: Path) -> None:
    sent = body(a_span(1))
    receiver = Receiver(database, settings(tmp_path), most_waiting_bytes=2 * len(sent))
    holder, release = hold_writer(database)
    futures = [receiver.submit(Kind.RUNS, sent, JSON) for _ in range(2)]
    with pytest.raises(UnavailableError) as told:
        receiver.submit(Kind.RUNS, sent, JSON)
    assert told.value.retry_after == 1
    release()
    assert [future.result(WAIT) for future in futures] == [Accepted()] * 2
    until(lambda: receiver.load().waiting_bytes == 0)
    large = body(*(a_span(trace) for trace in range(2, 30)))
    assert receiver.submit(Kind.RUNS, large, JSON).result(WAIT) == Accepted()  # one is taken, however large
    receiver.close(WAIT)
    holder.close()


def test_closing_writes_what_waits_and_takes_no_more(database: str, tmp_path: Path) -> None:
    receiver = Receiver(database, settings(tmp_path))
    futures = [receiver.submit(Kind.RUNS, body(a_span(trace)), JSON) for trace in range(1, 51)]
    receiver.close(WAIT)
    assert all(future.done() for future in futures)
    assert select(database, "SELECT count(*) FROM metamon.traces") == [(50,)]
    with pytest.raises(UnavailableError, match="stopping"):
        receiver.submit(Kind.RUNS, body(a_span(1)), JSON)


def test_a_connection_that_the_server_closed_is_made_again(receiver: Receiver, database: str) -> None:
    assert receiver.submit(Kind.RUNS, body(a_span(1)), JSON).result(WAIT) == Accepted()
    select(database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'metamon receiver'")
    assert receiver.submit(Kind.RUNS, body(a_span(2)), JSON).result(WAIT) == Accepted()
    assert select(database, "SELECT count(*) FROM metamon.traces") == [(2,)]


@pytest.fixture(scope="module")
def own_server(new_home: Callable[[str], Path]) -> Iterator[EmbeddedPostgres]:
    """A server that tests may stop."""
    server = EmbeddedPostgres(new_home("metamon-receiver-"), settings=TEST_SETTINGS)
    server.start()
    migrate(server.url("metamon", ADMINISTRATOR))
    yield server
    server.stop()


def test_without_a_database_nothing_is_acknowledged_and_later_all_is_well(own_server: EmbeddedPostgres, tmp_path: Path) -> None:
    url = own_server.url("metamon", WRITER)
    receiver = Receiver(url, settings(tmp_path))
    assert receiver.submit(Kind.RUNS, body(a_span(1)), JSON).result(WAIT) == Accepted()
    own_server.stop()
    with pytest.raises(UnavailableError, match="cannot be reached") as told:
        receiver.submit(Kind.RUNS, body(a_span(2)), JSON).result(WAIT)
    assert told.value.retry_after <= 2
    with pytest.raises(UnavailableError):  # while it backs off, at once
        receiver.submit(Kind.RUNS, body(a_span(2)), JSON)
    own_server.start()

    def sent() -> Accepted | None:
        try:
            return receiver.submit(Kind.RUNS, body(a_span(2)), JSON).result(WAIT)
        except UnavailableError:
            return None

    assert until(sent) == Accepted()
    assert select(url, "SELECT count(*) FROM metamon.traces") == [(2,)]
    receiver.close(WAIT)


def test_what_is_sent_for_today_makes_no_day_late_but_an_older_day_once_its_entry_is_whole(receiver: Receiver, database: str) -> None:
    assert receiver.submit(Kind.RUNS, body(a_span(1)), JSON).result(WAIT) == Accepted()
    connection = connect(database)
    (ledger_id,) = select(database, "SELECT ledger_id FROM metamon.ingestion_ledger")[0]
    assert late_days(connection, 0) == ({}, ledger_id - 1)  # it can still grow
    two_days_ago = NOW - 2 * 86_400 * 10**9
    old = a_span(2, startTimeUnixNano=str(two_days_ago), endTimeUnixNano=str(two_days_ago + 10**9))
    assert receiver.submit(Kind.RUNS, body(old), JSON).result(WAIT) == Accepted()
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.ingestion_ledger SET started_at = started_at - interval '3 minutes'")
    day = (datetime.fromtimestamp(NOW / 1e9, UTC) - timedelta(days=2)).date()
    assert late_days(connection, 0) == ({day: ledger_id}, ledger_id)
    assert late_days(connection, ledger_id) == ({}, ledger_id)
    connection.close()
