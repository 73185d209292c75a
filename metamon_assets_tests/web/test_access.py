"""Who gets in, and who does not (SEC-3)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from metamon_assets.warehouse import connect
from metamon_assets.web import auth, tokens
from metamon_assets.web.auth import SlidingWindow, require
from metamon_assets.web.pool import Pool
from metamon_assets.web.tokens import Role, TokenError
from metamon_assets_tests.web.conftest import Web

EVENT = {"kind": "deployment", "agent": "support", "version": "2"}
PUBLIC = {("GET", "/"), ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/openapi.json"), ("POST", "/v1/webhooks/git")}
# Every route that takes a token, and who may call it.
ROLES = {
    ("GET", "/metrics"): {"viewer", "approver", "admin"},
    ("GET", "/v1/events"): {"viewer", "approver", "admin"},
    ("POST", "/v1/events"): {"ingest", "approver", "admin"},
    ("POST", "/v1/traces"): {"ingest", "approver", "admin"},
    ("POST", "/v1/metrics"): {"ingest", "approver", "admin"},
}


def routes(web: Web) -> set[tuple[str, str]]:
    document = web.app.openapi()
    return {(method.upper(), path) for path, item in document["paths"].items() for method in item}


def test_every_route_lets_in_exactly_its_roles(web: Web) -> None:
    assert routes(web) | {("GET", "/openapi.json")} <= PUBLIC | set(ROLES), "a new route: say who may call it"
    secrets = {role.value: web.token(role) for role in Role}
    for method, path in routes(web) - PUBLIC:
        for role, secret in {**secrets, "nobody": None, "wrong": "mm_wrong"}.items():
            with web.client(secret) as client:
                answer = client.request(method, path, json=EVENT if method == "POST" else None)
            expected = role in ROLES[method, path]
            assert (answer.status_code not in (401, 403)) == expected, (method, path, role, answer.status_code, answer.text)
            if not expected:
                assert answer.status_code == (401 if role in ("nobody", "wrong") else 403)


def test_public_routes_need_no_token(shared: Web) -> None:
    with shared.client() as client:
        for path in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert client.get(path).status_code == 200, path


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "bearer mm_x y", "Bearer " + "x" * 5_000, "Bearer \xe9"])
def test_odd_credentials_are_refused(shared: Web, header: str) -> None:
    with shared.client() as client:
        answer = client.get("/v1/events", headers={b"Authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_revoked_token_is_refused_within_seconds(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "FRESH_SECONDS", 1.0)
    secret = web.token("viewer", "leaving")
    with web.client(secret) as client:
        assert client.get("/v1/events").status_code == 200
        connection = connect(web.database_url)
        tokens.revoke(connection, "leaving", actor="test")
        connection.close()
        deadline = time.monotonic() + tokens.FRESH_SECONDS + 5
        while client.get("/v1/events").status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_an_expired_token_is_refused(web: Web) -> None:
    connection = connect(web.database_url)
    secret = tokens.create(connection, "old", Role.ADMIN, actor="test", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    connection.close()
    with web.client(secret) as client:
        assert client.get("/v1/events").status_code == 401


def test_wrong_tokens_are_slowed_down_and_right_ones_are_not(web: Web) -> None:
    secret = web.token("viewer")
    with web.client("mm_wrong") as guessing, web.client(secret) as client:
        answers = [guessing.get("/v1/events") for _ in range(auth.FAILURES + 5)]
        assert [answer.status_code for answer in answers].count(401) == auth.FAILURES
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["Retry-After"]) > 0
        assert client.get("/v1/events").status_code == 200


def test_a_token_is_limited(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "REQUESTS", 3)
    with web.client(web.token("viewer")) as one, web.client(web.token("viewer", "another")) as another:
        assert [one.get("/v1/events").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
        assert another.get("/v1/events").status_code == 200


def test_the_window_slides() -> None:
    now = 1_000.0
    window = SlidingWindow(10, clock=lambda: now)
    assert [window.count("a") for _ in range(4)] == [1, 2, 3, 4]
    now = 1_015.0  # half of the window before still counts
    assert window.count("a") == 1 + 4 / 2
    assert window.count("b") == 1
    now = 1_100.0
    assert window.count("a") == 1


def test_many_addresses_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MOST_KEYS", 10)
    window = SlidingWindow(10, clock=lambda: 1_000.0)
    for number in range(100):
        window.count(str(number))
    assert len(window._now) <= 11


def test_secrets_are_nowhere(web: Web) -> None:
    secret = web.token("viewer")
    (row,) = web.query("SELECT t::text FROM metamon.api_tokens AS t")
    assert secret not in row[0]
    assert secret.removeprefix("mm_") not in row[0]
    assert len(secret) == 46
    audited = web.query("SELECT action, subject, evidence::text FROM metamon.audit_log WHERE subject LIKE 'token:%%'")
    assert [entry[0] for entry in audited] == ["create_token"]
    assert secret not in str(audited)


def test_making_and_revoking_is_audited_and_names_are_unique(web: Web) -> None:
    connection = connect(web.database_url)
    first = tokens.create(connection, "checkout", Role.INGEST, actor="ann")
    with pytest.raises(TokenError, match="already"):
        tokens.create(connection, "checkout", Role.VIEWER, actor="ann")
    tokens.revoke(connection, "checkout", actor="ben")
    with pytest.raises(TokenError, match="no token checkout"):
        tokens.revoke(connection, "checkout", actor="ben")
    assert tokens.create(connection, "checkout", Role.INGEST, actor="ann") != first
    for name in ("", "  ", "a\nb", "x" * 101, "a\x00b"):
        with pytest.raises(TokenError, match="name"):
            tokens.create(connection, name, Role.VIEWER, actor="ann")
    connection.close()
    actions = web.query("SELECT actor, action FROM metamon.audit_log WHERE subject LIKE 'token:%%' ORDER BY audit_id")
    assert actions == [("ann", "create_token"), ("ben", "revoke_token"), ("ann", "create_token")]


def test_the_last_use_is_noted(web: Web) -> None:
    with web.client(web.token("viewer")) as client:
        client.get("/v1/events")
    web.app.state.access.verifier.note_uses()
    ((used,),) = web.query("SELECT last_used_at FROM metamon.api_tokens")
    assert abs(datetime.now(UTC) - used) < timedelta(seconds=30)


def test_an_unknown_role_is_a_defect_of_the_route() -> None:
    with pytest.raises(ValueError, match="root"):
        require("root")


def test_wrong_tokens_cost_few_questions_and_a_new_one_works_at_once_beside_them(shared: Web) -> None:
    verifier = tokens.Verifier(Pool(shared.database_url))
    for number in range(3):
        assert verifier.verify(f"mm_wrong{number}") is None
    assert verifier.verify(shared.token("viewer", "at once")) is not None
    before = list(verifier._looks)
    for number in range(50):
        assert verifier.verify(f"mm_wrong{number}") is None
    assert sum(look not in before for look in verifier._looks) == tokens.LOOKS - 4
