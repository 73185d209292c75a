"""Requests that are hostile, broken or too large, and a database that goes away."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import orjson
import psycopg2
import pytest

from metamon_assets.traces.ingest import IngestError
from metamon_assets.warehouse.migrations import migrate
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.warehouse.roles import WRITER
from metamon_assets.web import envelope, pool
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


def test_not_ready_while_tables_are_missing_or_the_feed_is_silent(web: Web) -> None:
    with web.client() as client:
        assert client.get("/readyz").json() == {"status": "ready", "reasons": [], "feed_age_seconds": None}
        web.query("INSERT INTO metamon.heartbeats (component) VALUES ('feed')")
        assert client.get("/readyz").json()["feed_age_seconds"] < 30
        web.query("UPDATE metamon.heartbeats SET beat_at = now() - interval '1 hour' WHERE component = 'feed'")
        silent = client.get("/readyz")
        assert silent.status_code == 503
        assert silent.json()["reasons"][0].startswith("the live feed has not been heard of for 3600 seconds")
