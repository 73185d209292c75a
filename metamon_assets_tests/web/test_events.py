"""Events by POST and by webhook, and reading them (IN-13)."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from metamon_assets_tests.web.conftest import Web, served

SECRET = "a secret that the host knows"


def test_an_event_is_kept_with_what_was_said(web: Web, admin: httpx2.Client) -> None:
    said = {
        "kind": "deployment",
        "agent": "support",
        "version": "1.4.0",
        "commit": "4f2a9c1",
        "url": "https://ci.example.com/runs/7",
        "actor": "ann",
        "time": "2026-08-22T14:00:00+02:00",
        "metadata": {"ticket": 17},
    }
    assert admin.post("/v1/events", json=said).json() == {"new": 1, "changed": 0, "unchanged": 0, "refused": 0}
    (found,) = admin.get("/v1/events").json()["items"]
    assert found == {
        **said,
        "id": found["id"],
        "source": "reported",
        "project": "default",
        "time": "2026-08-22T12:00:00Z",
        "inferred": False,
    }


def test_saying_it_again_changes_nothing(web: Web, admin: httpx2.Client) -> None:
    events: list[dict[str, Any]] = [
        {"kind": "deployment", "agent": "support", "version": "2"},
        {"kind": "deployment", "agent": "support", "version": "2", "time": "2026-08-22T12:00:00Z"},
        {"kind": "prompt", "version": "greeting b", "id": "mine"},
    ]
    assert admin.post("/v1/events", json=events).json()["new"] == 3
    assert admin.post("/v1/events", json=events).json() == {"new": 0, "changed": 0, "unchanged": 3, "refused": 0}
    assert admin.post("/v1/events", json=events[0]).json()["unchanged"] == 1
    changed = events[2] | {"version": "greeting c"}
    assert admin.post("/v1/events", json=changed).json() == {"new": 0, "changed": 1, "unchanged": 0, "refused": 0}
    assert admin.post("/v1/events", json=[events[0]] * 5).json() == {"new": 0, "changed": 0, "unchanged": 1, "refused": 0}
    assert web.query("SELECT count(*) FROM metamon.events") == [(3,)]


def test_the_same_version_deployed_again_later_is_another_event(web: Web, admin: httpx2.Client) -> None:
    said = {"kind": "deployment", "agent": "support", "version": "2"}
    admin.post("/v1/events", json=said)
    web.query("UPDATE metamon.events SET time = time - interval '2 hours', event_id = event_id || '1'")
    assert admin.post("/v1/events", json=said).json()["new"] == 1


def test_a_reported_event_replaces_its_inferred_twin(web: Web, admin: httpx2.Client) -> None:
    now = datetime.now(UTC)
    web.query(
        "INSERT INTO metamon.first_sightings (project, agent_name, kind, value, first_time) VALUES"
        " ('p', 'support', 'version', '1', %s), ('p', 'support', 'version', '2', %s), ('p', 'support', 'model', 'large', %s)",
        now - timedelta(days=9),
        now,
        now,
    )
    admin.post("/v1/events", json={"kind": "other", "agent": "sales"})
    inferred = "SELECT kind, version FROM metamon.events WHERE inferred ORDER BY kind"
    assert web.query(inferred) == [("model", "large"), ("version", "2")]
    admin.post("/v1/events", json={"kind": "deployment", "agent": "support", "version": "2"})
    assert web.query(inferred) == [("model", "large")]


def test_events_of_excluded_projects_are_refused_and_told(web: Web, admin: httpx2.Client) -> None:
    answer = admin.post("/v1/events", json=[{"kind": "other", "project": "metamon"}, {"kind": "other"}])
    assert answer.json() == {"new": 1, "changed": 0, "unchanged": 0, "refused": 1}


def test_pages_are_whole_and_in_order(admin: httpx2.Client) -> None:
    begin = datetime(2026, 8, 22, tzinfo=UTC)
    times = [begin + timedelta(minutes=number // 3) for number in range(25)]  # three at a time at the same moment
    admin.post("/v1/events", json=[{"kind": "other", "id": f"e{n}", "time": time.isoformat()} for n, time in enumerate(times)])
    seen: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = admin.get("/v1/events", params={"limit": 7} | ({"cursor": cursor} if cursor else {})).json()
        seen += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        admin.post("/v1/events", json={"kind": "other", "id": f"late {cursor}", "time": "2026-08-23T00:00:00Z"})
    assert len(seen) == 25
    assert {event["id"] for event in seen} == {f"e{n}" for n in range(25)}
    assert [event["time"] for event in seen] == sorted((event["time"] for event in seen), reverse=True)


def test_events_by_time_and_agent(admin: httpx2.Client) -> None:
    for number, agent in enumerate(("support", "sales", None)):
        admin.post("/v1/events", json={"kind": "other", "agent": agent, "time": f"2026-08-2{number}T00:00:00Z"})

    def agents(**parameters: str) -> list[str | None]:
        return [event["agent"] for event in admin.get("/v1/events", params=parameters).json()["items"]]

    assert agents() == [None, "sales", "support"]
    assert agents(agent="support") == [None, "support"]
    assert agents(**{"from": "2026-08-21T00:00:00Z", "to": "2026-08-22T00:00:00Z"}) == ["sales"]


# Webhooks -------------------------------------------------------------------------------------------------------
# Payloads in the shape that the hosts document, cut down to a little more than what is read.

REPOSITORY = {"id": 7, "full_name": "acme/agent", "html_url": "https://git.example.com/acme/agent", "default_branch": "main"}
PUSHED = 1_787_421_600  # 2026-08-22 18:00 UTC
GITHUB: dict[str, dict[str, Any]] = {
    "deployment_status": {
        "action": "created",
        "deployment_status": {
            "id": 901,
            "state": "success",
            "creator": {"login": "deployer"},
            "environment": "production",
            "target_url": "https://ci.example.com/deploys/901",
            "created_at": "2026-08-22T12:00:00Z",
            "updated_at": "2026-08-22T12:00:00Z",
        },
        "deployment": {
            "id": 900,
            "sha": "4f2a9c1d00000000000000000000000000000000",
            "ref": "v1.4.0",
            "task": "deploy",
            "environment": "production",
            "creator": {"login": "ann"},
        },
        "repository": REPOSITORY,
        "sender": {"login": "bot"},
    },
    "release": {
        "action": "published",
        "release": {
            "id": 55,
            "tag_name": "v1.5.0",
            "target_commitish": "main",
            "html_url": "https://git.example.com/acme/agent/releases/v1.5.0",
            "draft": False,
            "prerelease": False,
            "author": {"login": "ann"},
            "created_at": "2026-08-22T12:50:00Z",
            "published_at": "2026-08-22T13:00:00Z",
        },
        "repository": REPOSITORY,
        "sender": {"login": "ann"},
    },
    "push": {
        "ref": "refs/heads/main",
        "before": "0" * 40,
        "after": "aa" * 20,
        "created": False,
        "deleted": False,
        "compare": "https://git.example.com/acme/agent/compare/a...b",
        "head_commit": {
            "id": "aa" * 20,
            "message": "Shorter greeting",
            "timestamp": "2026-08-20T09:00:00+02:00",
            "url": "https://git.example.com/acme/agent/commit/aa",
            "author": {"name": "Ann"},
        },
        "repository": REPOSITORY | {"pushed_at": PUSHED},
        "pusher": {"name": "ann"},
        "sender": {"login": "ann"},
    },
}
GITLAB = {
    "object_kind": "deployment",
    "status": "success",
    "status_changed_at": "2026-08-22 14:00:00 +0200",
    "deployment_id": 15,
    "deployable_id": 796,
    "deployable_url": "https://gitlab.example.com/acme/agent/-/jobs/796",
    "environment": "staging",
    "project": {
        "id": 30,
        "path_with_namespace": "acme/agent",
        "web_url": "https://gitlab.example.com/acme/agent",
        "default_branch": "main",
    },
    "ref": "main",
    "short_sha": "279484c0",
    "user": {"id": 1, "name": "Ann", "username": "ann"},
    "commit_url": "https://gitlab.example.com/acme/agent/-/commit/279484c0",
}


@pytest.fixture
def hooked(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    monkeypatch.setenv("METAMON_WEBHOOK_SECRET", SECRET)
    return web


def deliver(web: Web, kind: str, payload: Any, secret: str = SECRET, **headers: str) -> httpx2.Response:
    body = json.dumps(payload).encode()
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    with web.client() as client:
        named = {"X-GitHub-Event": kind, "X-GitHub-Delivery": "1", "X-Hub-Signature-256": signature, **headers}
        return client.post("/v1/webhooks/git", params={"agent": "support"}, content=body, headers=named)


def stored(web: Web) -> list[tuple[Any, ...]]:
    return web.query("SELECT kind, agent_name, version, commit_sha, url, actor, time FROM metamon.events ORDER BY time")


def test_what_github_deploys_is_a_deployment(hooked: Web) -> None:
    for kind, payload in GITHUB.items():
        assert deliver(hooked, kind, payload).json() == {"new": 1, "changed": 0, "unchanged": 0, "refused": 0}
    noon = datetime(2026, 8, 22, 12, tzinfo=UTC)
    deployed, released, pushed = stored(hooked)
    sha = "4f2a9c1d00000000000000000000000000000000"
    assert deployed == ("deployment", "support", "v1.4.0", sha, "https://ci.example.com/deploys/901", "ann", noon)
    assert released[2:4] == ("v1.5.0", None)
    assert released[6] == noon + timedelta(hours=1)
    assert pushed[2:6] == (None, "aa" * 20, "https://git.example.com/acme/agent/commit/aa", "ann")
    assert pushed[6] == datetime.fromtimestamp(PUSHED, UTC)
    assert hooked.query("SELECT DISTINCT metadata->>'repository' FROM metamon.events") == [("acme/agent",)]


def test_a_delivery_that_comes_twice_changes_nothing(hooked: Web) -> None:
    for kind, payload in GITHUB.items():
        deliver(hooked, kind, payload)
        again = deliver(hooked, kind, payload, **{"X-GitHub-Delivery": "another"})
        assert again.json() == {"new": 0, "changed": 0, "unchanged": 1, "refused": 0}
    assert len(stored(hooked)) == 3


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("ping", {"zen": "Keep it simple."}),
        ("issues", {"action": "opened"}),
        ("deployment_status", {"deployment_status": GITHUB["deployment_status"]["deployment_status"] | {"state": "failure"}}),
        ("release", {"action": "edited"}),
        ("release", {"release": GITHUB["release"]["release"] | {"draft": True}}),
        ("push", {"ref": "refs/heads/feature"}),
        ("push", {"ref": "refs/tags/v1"}),
        ("push", {"deleted": True, "head_commit": None}),
    ],
)
def test_other_deliveries_are_taken_note_of(hooked: Web, kind: str, change: dict[str, Any]) -> None:
    answer = deliver(hooked, kind, GITHUB.get(kind, {}) | change)
    assert (answer.status_code, answer.content) == (204, b"")
    assert stored(hooked) == []


def test_a_form_is_read_too(hooked: Web) -> None:
    body = urlencode({"payload": json.dumps(GITHUB["release"])}).encode()
    signature = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": "release", "X-Hub-Signature-256": signature, "Content-Type": "application/x-www-form-urlencoded"}
    with hooked.client() as client:
        assert client.post("/v1/webhooks/git", content=body, headers=headers).json()["new"] == 1


def test_what_gitlab_deploys_is_a_deployment(hooked: Web) -> None:
    with hooked.client() as client:
        headers = {"X-Gitlab-Event": "Deployment Hook", "X-Gitlab-Token": SECRET}
        assert client.post("/v1/webhooks/git", json=GITLAB, headers=headers).json()["new"] == 1
        assert client.post("/v1/webhooks/git", json=GITLAB, headers=headers).json()["unchanged"] == 1
        assert client.post("/v1/webhooks/git", json=GITLAB | {"status": "running"}, headers=headers).status_code == 204
    (event,) = stored(hooked)
    link = "https://gitlab.example.com/acme/agent/-/jobs/796"
    assert event == ("deployment", None, "main", "279484c0", link, "ann", datetime(2026, 8, 22, 12, tzinfo=UTC))


def test_without_the_secret_nothing_gets_in(hooked: Web) -> None:
    payload = GITHUB["release"]
    assert deliver(hooked, "release", payload, secret="another").status_code == 401
    assert deliver(hooked, "release", payload, **{"X-Hub-Signature-256": ""}).status_code == 401
    assert deliver(hooked, "release", payload, **{"X-Hub-Signature-256": "sha256="}).status_code == 401
    with hooked.client() as client:
        assert client.post("/v1/webhooks/git", json=payload).status_code == 401
        for token in ("", "another", SECRET + "x", "é"):
            headers = {b"X-Gitlab-Event": b"Deployment Hook", b"X-Gitlab-Token": token.encode()}
            assert client.post("/v1/webhooks/git", json=GITLAB, headers=headers).status_code == 401
    assert stored(hooked) == []


@pytest.mark.parametrize(
    "payload",
    [
        {},
        [],
        {"action": "published", "release": None},
        {"action": "published", "release": []},
        GITHUB["release"] | {"repository": "acme"},
        GITHUB["release"] | {"release": GITHUB["release"]["release"] | {"published_at": "soon"}},
        GITHUB["release"] | {"release": GITHUB["release"]["release"] | {"published_at": "2999-01-01T00:00:00Z"}},
        GITHUB["release"] | {"release": GITHUB["release"]["release"] | {"html_url": "javascript:alert(1)"}},
    ],
)
def test_a_signed_payload_of_another_shape_is_refused(hooked: Web, payload: Any) -> None:
    answer = deliver(hooked, "release", payload)
    assert answer.status_code == (204 if payload == [] else 422), answer.text
    assert stored(hooked) == []


def test_a_strange_time_of_a_push_is_refused(hooked: Web) -> None:
    for pushed_at in (-(10**12), True, 0):
        payload = GITHUB["push"] | {"repository": REPOSITORY | {"pushed_at": pushed_at}}
        assert deliver(hooked, "push", payload).status_code == 422


def test_webhooks_are_off_without_a_secret(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METAMON_WEBHOOK_SECRET", raising=False)
    answer = deliver(web, "release", GITHUB["release"], secret="")
    assert answer.status_code == 503
    assert "METAMON_WEBHOOK_SECRET" in answer.json()["detail"]


def test_the_secret_of_the_configuration_goes_first(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from metamon_assets.config.secret import Secret

    monkeypatch.setenv("GIT_SECRET", "from the configuration")
    monkeypatch.setenv("METAMON_WEBHOOK_SECRET", SECRET)
    with served(database, webhook_secret=Secret("GIT_SECRET")) as web:
        assert deliver(web, "release", GITHUB["release"]).status_code == 401
        assert deliver(web, "release", GITHUB["release"], secret="from the configuration").json()["new"] == 1


def test_one_repository_may_deploy_several_agents(hooked: Web) -> None:
    body = json.dumps(GITHUB["release"]).encode()
    signature = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": "release", "X-Hub-Signature-256": signature}
    with hooked.client() as client:
        for agent in ("support", "sales", "a" * 500):
            assert client.post("/v1/webhooks/git", params={"agent": agent}, content=body, headers=headers).json()["new"] == 1
        assert client.post("/v1/webhooks/git", params={"agent": "sales"}, content=body, headers=headers).json()["unchanged"] == 1
    assert {row[1] for row in stored(hooked)} == {"support", "sales", "a" * 500}


def test_a_token_for_sending_does_not_write_over_what_was_signed(hooked: Web) -> None:
    deliver(hooked, "release", GITHUB["release"])
    ((signed,),) = hooked.query("SELECT event_id FROM metamon.events")
    with hooked.client(hooked.token("ingest")) as client:
        answer = client.post("/v1/events", json={"kind": "deployment", "id": signed, "version": "forged"})
    assert answer.status_code == 422
    assert "webhook's" in answer.json()["detail"]
    assert stored(hooked)[0][2] != "forged"


def test_a_form_with_too_many_fields_is_refused(hooked: Web) -> None:
    body = "&".join(f"field{number}=1" for number in range(20)).encode()
    signature = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": "push", "X-Hub-Signature-256": signature, "Content-Type": "application/x-www-form-urlencoded"}
    with hooked.client() as client:
        assert client.post("/v1/webhooks/git", content=body, headers=headers).status_code == 400
