"""Requests that are hostile, broken or too large, and a database that goes away."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import orjson
import psycopg2
import pytest
from fastapi.responses import PlainTextResponse

from metamon_assets.traces.ingest import IngestError
from metamon_assets.warehouse.migrations import migrate
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.warehouse.roles import WRITER
from metamon_assets.web import connections, envelope, pool
from metamon_assets.web.server import MOST_CONNECTIONS
from metamon_assets_tests.conftest import TEST_SETTINGS
from metamon_assets_tests.web.conftest import MAX_BYTES, Web, served

DEPLOYMENT = {"kind": "deployment"}


def is_problem(answer: httpx2.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    content = answer.json()
    assert content["status"] == status
    assert content["request_id"] == answer.headers["X-Request-Id"]
    assert {"type", "title", "detail"} <= content.keys()
    for word in ("Traceback", "psycopg2", "SELECT", "INSERT", "/metamon_assets/"):
        assert word not in answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 50_000, 400),
        (b'{"kind":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, 400),
        (b'{"kind": "deployment", "version": "\\ud800"}', 400),
        (b"null", 422),
        (b"[]", 422),
        (b"17", 422),
        (b'"deployment"', 422),
        (b"NaN", 400),
        (orjson.dumps([DEPLOYMENT] * 1_001), 422),
        (orjson.dumps({}), 422),
        (orjson.dumps({"kind": "party"}), 422),
        (orjson.dumps({"kind": ["deployment"]}), 422),
        (orjson.dumps(DEPLOYMENT | {"version": 17}), 422),
        (orjson.dumps(DEPLOYMENT | {"version": "a\x00b"}), 422),
        (orjson.dumps(DEPLOYMENT | {"version": "x" * 501}), 422),
        (orjson.dumps(DEPLOYMENT | {"agent": ""}), 422),
        (orjson.dumps(DEPLOYMENT | {"colour": "red"}), 422),
        (orjson.dumps(DEPLOYMENT | {"url": "javascript:alert(1)"}), 422),
        (orjson.dumps(DEPLOYMENT | {"url": "file:///etc/passwd"}), 422),
        (orjson.dumps(DEPLOYMENT | {"time": "yesterday"}), 422),
        (orjson.dumps(DEPLOYMENT | {"time": "2026-08-22T12:00:00"}), 422),
        (orjson.dumps(DEPLOYMENT | {"time": "2999-08-22T12:00:00Z"}), 422),
        (orjson.dumps(DEPLOYMENT | {"time": "0001-01-01T00:00:00+23:00"}), 422),
        (orjson.dumps(DEPLOYMENT | {"time": 1e300}), 422),
        (orjson.dumps(DEPLOYMENT | {"time": -62135596800}), 422),
        (orjson.dumps(DEPLOYMENT | {"metadata": [1]}), 422),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else str(value),
)
def test_a_body_that_is_no_event_is_refused(shared_admin: httpx2.Client, body: bytes, status: int) -> None:
    is_problem(shared_admin.post("/v1/events", content=body), status)


def test_a_refusal_says_where(shared_admin: httpx2.Client) -> None:
    answer = shared_admin.post("/v1/events", json=[DEPLOYMENT, {"kind": "deployment", "version": 3}])
    is_problem(answer, 422)
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/1/version"]
    assert '"3"' not in answer.text, "values stay out of errors"


def test_hostile_text_is_stored_as_it_is(web: Web, admin: httpx2.Client) -> None:
    names = ["'; DROP TABLE metamon.events; --", "<script>alert(1)</script>", '"},{"', "%s %(a)s {x}", "\u202eevil", "☃" * 100, "\\N"]
    for name in names:
        answer = admin.post("/v1/events", json={"kind": "deployment", "agent": name, "version": name, "metadata": {name: [name, None]}})
        assert answer.json() == {"new": 1, "changed": 0, "unchanged": 0, "refused": 0}, answer.text
        (found,) = admin.get("/v1/events", params={"agent": name}).json()["items"]
        assert found["agent"] == name
        assert found["metadata"] == {name: [name, None]}
    assert web.query("SELECT count(*) FROM metamon.events") == [(len(names),)]


def test_nul_in_metadata_and_in_parameters(shared_admin: httpx2.Client) -> None:
    answer = shared_admin.post("/v1/events", json={"kind": "deployment", "metadata": {"a": "b\x00c"}})
    assert answer.status_code in (200, 422), answer.text
    for parameters in (
        {"agent": "a\x00b"},
        {"cursor": "a\x00b"},
        {"from": "\x00"},
        {"limit": "0"},
        {"limit": "1e9"},
        {"cursor": "x" * 5_000},
    ):
        is_problem(shared_admin.get("/v1/events", params=parameters), 422)


def test_what_is_not_there(shared_admin: httpx2.Client) -> None:
    is_problem(shared_admin.get("/v1/nothing"), 404)
    is_problem(shared_admin.get("/docs"), 404)
    is_problem(shared_admin.get("/v1/../etc/passwd"), 404)
    is_problem(shared_admin.delete("/v1/events"), 405)
    is_problem(shared_admin.request("BREW", "/v1/events"), 405)


def test_a_large_body_is_refused_declared_or_not(shared_admin: httpx2.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 1_000

    is_problem(shared_admin.post("/v1/events", content=b" " * (MAX_BYTES + 1)), 413)
    is_problem(shared_admin.post("/v1/events", content=chunks()), 413)
    assert shared_admin.post("/v1/events", content=b" " * (MAX_BYTES - 100) + orjson.dumps(DEPLOYMENT)).status_code == 200


def raw(web: Web, request: bytes) -> bytes:
    place = urlsplit(web.url)
    with contextlib.closing(socket.create_connection((place.hostname, place.port), timeout=20)) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # the server may hang up at any time
            connection.sendall(request)
        with contextlib.suppress(OSError):
            while part := connection.recv(65_536):
                answer += part
        return answer


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Large: " + b"x" * 10_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-\x00: b\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
        b"POST /v1/events HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: -1\r\n\r\n{}",
        b"POST /v1/events HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["ten megabytes of header", "NUL in a header", "a long address", "a huge length", "a negative length", "two lengths", "TLS"],
)
def test_broken_http_is_refused_and_the_server_lives(shared: Web, request_: bytes) -> None:
    answer = raw(shared, request_)
    assert answer == b"" or re.match(rb"HTTP/1.1 4\d\d ", answer), answer[:200]
    with shared.client() as client:
        assert client.get("/healthz").status_code == 200


def test_a_body_that_does_not_come_is_given_up(shared: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "CHUNK_SECONDS", 0.2)
    secret = shared.token("admin", "slow")
    head = f"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nAuthorization: Bearer {secret}\r\n\r\n12"
    assert b" 408 " in raw(shared, head.encode()).split(b"\r\n")[0]


def test_unexpected_errors_tell_nothing(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise RuntimeError("secret inside SELECT password")

    web.app.add_api_route("/broken", broken)
    with web.client() as client:
        answer = client.get("/broken", headers={"X-Request-Id": "my-id.7"})
    is_problem(answer, 500)
    assert "secret" not in answer.text
    assert answer.json()["request_id"] == "my-id.7"
    (logged,) = [entry for entry in caplog.records if entry.message == "A request failed unexpectedly."]
    assert vars(logged)["request_id"] == "my-id.7"


def test_a_database_that_fails_in_the_middle_is_told_apart_from_a_defect(web: Web) -> None:
    def away() -> None:
        raise IngestError("the database failed at host secret") from psycopg2.OperationalError("gone")

    def defect() -> None:
        raise IngestError("the database refused a row: secret")

    web.app.add_api_route("/away", away)
    web.app.add_api_route("/defect", defect)
    with web.client() as client:
        for path, status in (("/away", 503), ("/defect", 500)):
            answer = client.get(path)
            is_problem(answer, status)
            assert "secret" not in answer.text


def test_every_answer_has_the_headers_of_security(shared_admin: httpx2.Client) -> None:
    for path in ("/", "/healthz", "/metrics", "/v1/events", "/nothing", "/openapi.json"):
        headers = shared_admin.get(path, headers={"X-Request-Id": "<script>\x07"}).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert re.fullmatch("[0-9a-f]{32}", headers["X-Request-Id"])
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers


@pytest.fixture
def own_server(new_home: Callable[[str], Path]) -> Iterator[EmbeddedPostgres]:
    """A database server that a test may stop."""
    server = EmbeddedPostgres(new_home("metamon-web-database-"), settings=TEST_SETTINGS)
    server.start()
    migrate(server.url("metamon", ADMINISTRATOR))
    yield server
    server.stop()


def test_a_database_that_goes_away_and_comes_back(own_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(own_server.url("metamon", WRITER)) as web, web.client(web.token("admin")) as client:
        assert client.get("/v1/events").status_code == 200
        assert client.get("/readyz").json()["status"] == "ready"
        own_server.stop()
        assert client.get("/healthz").status_code == 200
        away = client.get("/readyz")
        assert away.status_code == 503
        assert away.json()["reasons"] == ["the database cannot be reached: `metamon doctor` says why"]
        answer = client.get("/v1/events")
        is_problem(answer, 503)
        assert int(answer.headers["Retry-After"]) > 0
        assert client.get("/").status_code == 200
        own_server.start()
        deadline = time.monotonic() + 20
        while client.get("/readyz").status_code != 200 or client.get("/v1/events").status_code != 200:
            assert time.monotonic() < deadline
        monkeypatch.setattr(pool, "RESTED_SECONDS", 0.0)
        own_server.stop()
        own_server.start()
        assert client.get("/v1/events").status_code == 200, "a restart that nobody noticed costs no request"
        with pytest.raises(psycopg2.OperationalError), web.app.state.pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert client.get("/v1/events").status_code == 200


def test_not_ready_while_tables_are_missing(web: Web) -> None:
    with web.client() as client:
        assert client.get("/readyz").json() == {"status": "ready", "reasons": [], "feed_age_seconds": None}
        web.query("INSERT INTO metamon.heartbeats (component) VALUES ('feed')")
        assert client.get("/readyz").json()["feed_age_seconds"] < 30
        web.query("UPDATE metamon.heartbeats SET beat_at = now() - interval '1 hour' WHERE component = 'feed'")
        silent = client.get("/readyz")
        assert silent.status_code == 200, "another process hangs; this one is as ready as before"
        assert silent.json()["feed_age_seconds"] >= 3600
        assert '<span class="bad">1 hour ago</span>' in client.get("/").text


# Connections and bodies that would use up what there is ----------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n"], ids=["nothing", "half a head"])
def test_connections_without_a_request_keep_nobody_out(web: Web, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    place = urlsplit(web.url)
    with contextlib.ExitStack() as opened:
        for _ in range(MOST_CONNECTIONS + 5):
            one = opened.enter_context(socket.create_connection((place.hostname, place.port), timeout=20))
            one.sendall(sent)
        deadline = time.monotonic() + 20
        with web.client() as client:
            while client.get("/healthz").status_code != 200:
                assert time.monotonic() < deadline, "the server answers nobody else"


def test_a_head_may_not_drip(shared: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    place = urlsplit(shared.url)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        deadline = time.monotonic() + 10
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                connection.sendall(b"x")
                connection.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    if connection.recv(1) == b"":
                        break
        assert time.monotonic() < deadline, "the second head may take for ever"


def test_an_answer_that_is_not_read_is_not_waited_for(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.5)
    web.app.add_api_route("/large", lambda: PlainTextResponse("x" * 30_000_000))
    place = urlsplit(web.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.recv(1)
        time.sleep(1.5)  # not reading is the point
        received = 0
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1_000_000):
                received += len(part)
        assert received < 30_000_000


def test_a_body_may_not_drip_for_ever(shared: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "BODY_SECONDS", 0.5)
    place = urlsplit(shared.url)
    head = f"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nAuthorization: Bearer {shared.token('admin', 'drip')}\r\n\r\n"
    with socket.create_connection((place.hostname, place.port), timeout=0.1) as connection:
        connection.sendall(head.encode())
        answer, deadline = b"", time.monotonic() + 10
        while not answer and time.monotonic() < deadline:
            connection.sendall(b"1")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65_536)
    assert b" 408 " in answer.split(b"\r\n")[0]


def test_all_bodies_together_are_bounded(shared: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Webhooks show who they are only when their body is there; strangers' bodies must not fill the memory."""
    monkeypatch.setenv("METAMON_WEBHOOK_SECRET", "secret of the hook")
    place = urlsplit(shared.url)
    head = f"POST /v1/webhooks/git HTTP/1.1\r\nHost: a\r\nContent-Length: {MAX_BYTES}\r\n\r\n".encode()
    with contextlib.ExitStack() as opened:
        for _ in range(envelope.MOST_BODIES):
            one = opened.enter_context(socket.create_connection((place.hostname, place.port), timeout=20))
            one.sendall(head + b"x" * (MAX_BYTES - 1))
        one = opened.enter_context(socket.create_connection((place.hostname, place.port), timeout=20))
        one.sendall(head + b"x" * (MAX_BYTES - 1))
        answer = one.recv(65_536)
        assert b" 503 " in answer.split(b"\r\n")[0]
        assert b"retry-after" in answer.lower()
    deadline = time.monotonic() + 20
    with shared.client(shared.token("admin", "afterwards")) as client:
        while client.post("/v1/events", json=DEPLOYMENT).status_code != 200:
            assert time.monotonic() < deadline, "the room is not given back"


def test_a_body_that_breaks_off_is_no_error_of_ours(shared: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("METAMON_WEBHOOK_SECRET", "secret of the hook")
    seen = threading.Event()
    monkeypatch.setattr(envelope.RequestMetrics, "observe", lambda *_: seen.set())
    place = urlsplit(shared.url)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(b"POST /v1/webhooks/git HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n12")
    assert seen.wait(20)
    assert not [entry.message for entry in caplog.records if entry.levelname == "ERROR"]


def test_an_event_is_small(shared_admin: httpx2.Client) -> None:
    is_problem(shared_admin.post("/v1/events", json=DEPLOYMENT | {"metadata": {"a": "x" * 20_000}}), 422)


def test_zones_that_postgres_does_not_take(shared_admin: httpx2.Client) -> None:
    assert shared_admin.get("/v1/events", params={"from": "2026-01-01T00:00:00+23:59"}).status_code == 200
    is_problem(shared_admin.get("/v1/events", params={"to": "0001-01-01T00:00:00+23:59"}), 422)
    cursor = base64.urlsafe_b64encode(b'["2026-01-01T00:00:00-23:59", "a", "b", "c"]').decode()
    assert shared_admin.get("/v1/events", params={"cursor": cursor}).status_code == 200


def test_nobody_is_sent_to_another_host(shared_admin: httpx2.Client) -> None:
    is_problem(shared_admin.get("/v1/events/", headers={"Host": "elsewhere.example"}), 404)


def test_broken_requests_do_not_flood_the_log(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        raw(web, b"this is no HTTP\r\n\r\n")
    assert len([entry for entry in caplog.records if entry.message == "Invalid HTTP request received."]) <= 1
