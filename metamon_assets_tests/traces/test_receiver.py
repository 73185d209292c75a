"""The receiver: many requests in one commit, answers only after it, and what each failure costs (IN-12)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from metamon_assets.config import Settings
from metamon_assets.metrics.rollups import refresh_days
from metamon_assets.metrics.sensors import late_days
from metamon_assets.traces.receiver import JSON, PROTOBUF, Accepted, Receiver, UnavailableError, UndecodableError
from metamon_assets.traces.sources import otlp_protobuf
from metamon_assets.traces.sources.base import Kind
from metamon_assets.traces.sources.otlp_protobuf import MOST_ROWS
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


def test_a_trace_whose_root_never_comes_stays_in_the_buckets_of_its_day(receiver: Receiver, database: str) -> None:
    """Its first run began before midnight and comes after one from after it."""
    day = datetime.fromtimestamp(NOW / 1e9, UTC).date()
    midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 10**9
    for number, seconds in ((3, 0), (2, -60)):
        start, end = midnight + seconds * 10**9, midnight + 10**9
        sent = body(a_span(1, number, parent=1, startTimeUnixNano=str(start), endTimeUnixNano=str(end)))
        assert receiver.submit(Kind.RUNS, sent, JSON).result(WAIT) == Accepted()
    connection = connect(database)
    refresh_days(connection, [day - timedelta(days=1), day], datetime.now(UTC))
    connection.close()
    assert select(database, "SELECT day, requests FROM metamon.daily_metrics WHERE dimension = 'overall'") == [(day, 1)]
    assert select(database, "SELECT latency_seconds FROM metamon.traces") == [(61.0,)]


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


def test_a_name_that_looks_like_a_place_does_not_end_the_receiver(receiver: Receiver, database: str) -> None:
    """Points that contradict each other are told by their name, which senders choose."""
    points = [{"timeUnixNano": str(NOW), "asDouble": value, "attributes": []} for value in (1.0, 2.0)]
    scope = {"metrics": [{"name": "request me", "gauge": {"dataPoints": points}}]}
    sent = orjson.dumps({"resourceMetrics": [{"resource": {}, "scopeMetrics": [scope]}]})
    accepted = receiver.submit(Kind.GAUGES, sent, JSON).result(WAIT)
    assert (accepted.rejected, "conflicting_duplicate" in accepted.message) == (1, True)
    assert receiver.submit(Kind.RUNS, body(a_span(1)), JSON).result(WAIT) == Accepted()


def test_a_failure_of_the_answer_costs_one_request_and_not_the_receiver(
    receiver: Receiver, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("metamon_assets.traces.receiver._number_of", lambda *_: 1 // 0)
        twice = receiver.submit(Kind.RUNS, body(a_span(1, name="one"), a_span(1, name="other")), JSON)
        assert isinstance(twice.exception(WAIT), ZeroDivisionError)
    assert receiver.submit(Kind.RUNS, body(a_span(2)), JSON).result(WAIT) == Accepted()


def test_a_value_too_long_for_an_index_is_no_failure_of_the_database(receiver: Receiver, database: str) -> None:
    noise = random.Random(1)
    long = "".join(noise.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(9_000))
    holder, release = hold_writer(database)
    good = [receiver.submit(Kind.RUNS, body(a_span(1)), JSON)]
    until(lambda: waiting_for_lock(database))
    bad = receiver.submit(Kind.GAUGES, gauge(1, attributes=attributes({"cache": long})), JSON)
    named = receiver.submit(Kind.RUNS, body(a_span(2), service=long), JSON)
    good += [receiver.submit(Kind.GAUGES, gauge(2), JSON), receiver.submit(Kind.RUNS, body(a_span(3)), JSON)]
    release()
    assert [future.result(WAIT) for future in good] == [Accepted()] * 3
    assert (bad.result(WAIT).rejected, "refused_by_database" in bad.result(WAIT).message) == (1, True)
    assert (named.result(WAIT).rejected, "project is longer than" in named.result(WAIT).message) == (1, True)
    holder.close()


def test_a_day_that_another_reader_loads_keeps_only_its_own_senders_waiting(receiver: Receiver, database: str) -> None:
    holder, release = hold_writer(database)
    today = [receiver.submit(Kind.RUNS, body(a_span(1)), JSON)]
    until(lambda: waiting_for_lock(database))
    other = connect(database)
    day = datetime.fromtimestamp(NOW / 1e9, UTC).date() - timedelta(days=1)
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"day:otlp:{day}",))
    old = a_span(2, startTimeUnixNano=str(NOW - 86_400 * 10**9), endTimeUnixNano=str(NOW - 86_399 * 10**9))
    yesterday = receiver.submit(Kind.RUNS, body(old), JSON)
    today += [receiver.submit(Kind.RUNS, body(a_span(trace)), JSON) for trace in range(3, 6)]
    release()
    assert [future.result(WAIT) for future in today] == [Accepted()] * 4
    with pytest.raises(UnavailableError, match="being loaded by another reader"):
        yesterday.result(WAIT)
    other.rollback()
    assert receiver.submit(Kind.RUNS, body(old), JSON).result(WAIT) == Accepted()
    other.close()
    holder.close()


def test_a_call_of_after_midnight_waits_for_who_writes_the_day_of_its_root(receiver: Receiver, database: str) -> None:
    holder, release = hold_writer(database)
    today = [receiver.submit(Kind.RUNS, body(a_span(1)), JSON)]
    until(lambda: waiting_for_lock(database))
    midnight = NOW // (86_400 * 10**9) * 86_400 * 10**9
    other = connect(database)
    with other.cursor() as cursor:
        day = datetime.fromtimestamp(midnight / 1e9, UTC).date() - timedelta(days=1)
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"day:otlp:{day}",))
    early: dict[str, Any] = {"startTimeUnixNano": str(midnight + 60 * 10**9), "endTimeUnixNano": str(midnight + 61 * 10**9)}
    call = receiver.submit(Kind.RUNS, body(a_span(2, 2, parent=1, **early)), JSON)
    today += [receiver.submit(Kind.RUNS, body(a_span(3, **early)), JSON)]
    release()
    assert [future.result(WAIT) for future in today] == [Accepted()] * 2
    with pytest.raises(UnavailableError, match="being loaded by another reader"):
        call.result(WAIT)
    other.close()
    holder.close()


def test_rules_are_read_again_each_minute_though_gauges_and_runs_take_turns(
    receiver: Receiver, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chat = CHAT | {"gen_ai.provider.name": "openai"}

    def is_over(what: str) -> None:
        monkeypatch.setattr(receiver, what, getattr(receiver, what) - 120)

    assert receiver.submit(Kind.RUNS, body(a_span(1, values=chat)), JSON).result(WAIT) == Accepted()
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.price_overrides (provider, model, valid_from, input_per_million, output_per_million)"
            " VALUES ('openai', 'gpt-4o-mini', '2020-01-01', 10000, 0)"
        )
    assert receiver.submit(Kind.GAUGES, gauge(1), JSON).result(WAIT) == Accepted()
    is_over("_rules_until")
    assert receiver.submit(Kind.RUNS, body(a_span(2, values=chat)), JSON).result(WAIT) == Accepted()
    ((cost,),) = select(database, "SELECT total_cost FROM metamon.traces WHERE trace_id LIKE '%%2'")
    assert cost == Decimal("0.1")
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE metamon.price_overrides SET input_per_million = 1000000")  # out of bounds: those of before hold
    is_over("_rules_until")
    assert receiver.submit(Kind.RUNS, body(a_span(3, values=chat)), JSON).result(WAIT) == Accepted()
    assert "is not within" in caplog.text
    connection.close()


def test_without_rules_senders_are_told_to_come_back(database: str, tmp_path: Path) -> None:
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.price_overrides (provider, model, valid_from, input_per_million, output_per_million)"
            " VALUES ('openai', 'gpt-4o-mini', '2020-01-01', 1000000, 0)"
        )
    receiver = Receiver(database, settings(tmp_path))
    with pytest.raises(UnavailableError, match="is not within"):
        receiver.submit(Kind.RUNS, body(a_span(1)), JSON).result(WAIT)
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM metamon.price_overrides")
    assert receiver.submit(Kind.RUNS, body(a_span(1)), JSON).result(WAIT) == Accepted()
    receiver.close(WAIT)
    connection.close()


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


@pytest.mark.parametrize("depth", [1, 2, 3], ids=["resources", "scopes", "spans"])
@pytest.mark.parametrize("kind", [Kind.RUNS, Kind.GAUGES])
def test_a_small_body_of_very_many_empty_rows_is_refused_at_once(receiver: Receiver, kind: Kind, depth: int) -> None:
    """Two bytes make a span; a compressed request of some hundred bytes must not cost gigabytes."""
    names = ("resourceSpans", "scopeSpans", "spans") if kind is Kind.RUNS else ("resourceMetrics", "scopeMetrics", "metrics")
    document: Any = [{}] * (MOST_ROWS + 1)
    for name in reversed(names[:depth]):
        document = [{name: document}]
    with pytest.raises(UndecodableError, match=r"more than 50,000 spans or metrics: send less at a time"):
        receiver.submit(kind, orjson.dumps(document[0]), JSON)
    body = (b"\x0a\x00" if depth == 1 else b"\x12\x00") * (MOST_ROWS + 1)
    for level in range(depth - 1, 0, -1):
        body = (b"\x0a" if level == 1 else b"\x12") + encoded_length(len(body)) + body
    with pytest.raises(UndecodableError, match=r"more than 50,000 spans or metrics"):
        receiver.submit(kind, body, PROTOBUF)
    assert receiver.load().waiting_requests == 0


def test_a_span_of_very_many_parts_is_refused(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_protobuf, "MOST_PARTS", 1_000)
    body = b"\x5a\x00" * 1_001  # events
    for tag in (b"\x12", b"\x12", b"\x0a"):
        body = tag + encoded_length(len(body)) + body
    with pytest.raises(UndecodableError, match="more than 1,000 attributes, events, links or points"):
        receiver.submit(Kind.RUNS, body, PROTOBUF)


def encoded_length(size: int) -> bytes:
    """As protobuf writes it."""
    written = b""
    while size >= 0x80:
        written += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return written + bytes((size,))


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


def test_an_entry_that_waits_for_its_first_rows_is_not_passed_over(receiver: Receiver, database: str) -> None:
    """Its number is lower than that of a read which begins and ends in the meantime."""
    holder, release = hold_writer(database)
    future = receiver.submit(Kind.RUNS, body(a_span(1)), JSON)
    until(lambda: waiting_for_lock(database))
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.ingestion_ledger (source, project, kind, started_at, status)"
            " VALUES ('files', 'p', 'runs', now(), 'complete') RETURNING ledger_id"
        )
        (other,) = cursor.fetchone() or (0,)
    position = late_days(connection, 0)[1]
    release()
    assert future.result(WAIT) == Accepted()
    ((ours,),) = select(database, "SELECT ledger_id FROM metamon.ingestion_ledger WHERE source = 'otlp'")
    assert position < ours < other
    connection.close()
    holder.close()
