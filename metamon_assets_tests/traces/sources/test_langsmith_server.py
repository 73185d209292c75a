"""Is the local LangSmith like the published one? Its answers against the OpenAPI document, the SDK's requests against it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import requests

from metamon_assets.traces.rate_budget import RateBudget
from metamon_assets.traces.sources.base import Kind, Window
from metamon_assets.traces.sources.langsmith import LangSmithSource
from metamon_assets_tests.traces.sources.langsmith_server import LangSmithServer

DAY = datetime(2026, 1, 5, tzinfo=UTC)
PROJECT = "39037901-6b38-4915-b7dc-318b42ec8a71"
RUN = "019b8f0d-1d28-7930-948b-0957cb05c186"
FEEDBACK = "704738b4-523b-4edf-91e4-da3e62478059"
SEEN_OTHERWISE = {"total_cost", "prompt_cost", "completion_cost", "prompt_cost_details", "completion_cost_details"}


@pytest.fixture
def server() -> Iterator[LangSmithServer]:
    with LangSmithServer(backend="dual", clock=lambda: DAY + timedelta(days=1, hours=1), limit=1000) as running:
        store = running.store
        store.add_project("ib_deep_research", PROJECT)
        usage: dict[str, Any] = {
            "prompt_tokens": 570,
            "completion_tokens": 54,
            "total_tokens": 624,
            "total_cost": 0.001572,
            "prompt_cost": 0.00114,
        }
        store.add_run(
            "ib_deep_research",
            run_id=RUN,
            start_time=DAY + timedelta(hours=16, microseconds=68_924),
            first_token_time=DAY + timedelta(hours=17),
            prompt_token_details={"cache_read": 3},
            prompt_cost_details={"cache_read": 0.0},
            extra={"metadata": {"thread_id": "eca339f1-81f7-401f-a1bd-99e725f94c10"}},
            **usage,
        )
        store.add_run("ib_deep_research", parent=RUN, start_time=DAY + timedelta(hours=16), run_type="tool", error="ValueError('x')")
        store.add_run("ib_deep_research", start_time=DAY + timedelta(hours=17), seconds=None, payloads_in_s3=True)
        store.add_feedback(RUN, "user_score", feedback_id=FEEDBACK, created_at=DAY + timedelta(hours=20), score=1, value="good")
        yield running


def call(server: LangSmithServer, method: str, path: str, *, key: str | None = None, **request: Any) -> requests.Response:
    headers = {"x-api-key": key or server.key, "Content-Type": "application/json"}
    return requests.request(method, server.url + path, headers=headers, timeout=10, **request)


def query(server: LangSmithServer, path: str = "/api/v1/runs/query", **body: Any) -> requests.Response:
    project = {"session": [PROJECT]} if "v2" not in path else {"project_ids": [PROJECT]}
    return call(server, "POST", path, json=project | body)


# ---- against the OpenAPI document


@pytest.fixture(scope="module")
def openapi(shared_data: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((shared_data / "langsmith" / "openapi_subset.json").read_text())
    schemas = document["components"]["schemas"]
    for name in SEEN_OTHERWISE:  # the document says text; the real answer in run_full_rest_2026-01.json has numbers
        schemas["RunSchema"]["properties"][name] = {}
    return document


def check(openapi: dict[str, Any], schema: dict[str, Any], answer: Any) -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator(schema | {"components": openapi["components"]}).validate(answer)


ANSWERS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/api/v1/info", {}, 200, ""),
    ("POST", "/api/v1/runs/query", {"json": {"session": [PROJECT]}}, 200, ""),
    ("POST", "/api/v1/runs/query", {"json": {"session": [PROJECT], "select": ["id", "thread_id", "prompt_token_details"]}}, 200, ""),
    ("POST", "/api/v1/runs/query", {"json": {"session": [PROJECT], "select": ["nonsense"]}}, 422, ""),
    ("POST", "/api/v1/runs/query", {"json": {"session": ["nonsense"]}}, 422, ""),
    ("POST", "/api/v1/runs/stats", {"json": {"session": [PROJECT], "is_root": True}}, 200, ""),
    ("GET", f"/api/v1/runs/{RUN}", {}, 200, "/api/v1/runs/{run_id}"),
    ("GET", "/api/v1/sessions", {"params": {"include_stats": "true"}}, 200, ""),
    ("GET", "/api/v1/sessions", {"params": {"limit": 101}}, 422, ""),
    ("GET", f"/api/v1/sessions/{PROJECT}", {}, 200, "/api/v1/sessions/{session_id}"),
    ("GET", "/api/v1/feedback", {"params": {"session": PROJECT}}, 200, ""),
    ("GET", "/api/v1/feedback", {"params": {"limit": 0}}, 422, ""),
    ("GET", f"/api/v1/feedback/{FEEDBACK}", {}, 200, "/api/v1/feedback/{feedback_id}"),
    (
        "POST",
        "/v2/runs/query",
        {"json": {"project_ids": [PROJECT], "selects": ["ID", "EXTRA", "TOTAL_COST", "PROMPT_TOKEN_DETAILS"]}},
        200,
        "",
    ),
    ("POST", "/v2/runs/query", {"json": {"project_ids": [PROJECT], "selects": ["NONSENSE"]}}, 422, ""),
    ("POST", "/v2/runs/query", {"json": {"project_ids": [PROJECT], "page_size": 1001}}, 400, ""),
    ("POST", "/v2/runs/query", {"json": {"project_ids": [RUN]}}, 404, ""),
    ("GET", f"/v2/runs/{RUN}", {"params": {"project_id": PROJECT, "selects": ["ID", "STATUS"]}}, 200, "/v2/runs/{run_id}"),
]


@pytest.mark.parametrize(("method", "path", "request_", "status", "template"), ANSWERS)
def test_answers_are_as_the_openapi_document_says(
    server: LangSmithServer, openapi: dict[str, Any], method: str, path: str, request_: dict[str, Any], status: int, template: str
) -> None:
    answer = call(server, method, path, **request_)

    assert answer.status_code == status
    responses = openapi["paths"][template or path][method.lower()]["responses"]
    check(openapi, responses[str(status)]["content"]["application/json"]["schema"], answer.json())


def test_requests_of_the_source_are_as_the_openapi_document_says(server: LangSmithServer, openapi: dict[str, Any]) -> None:
    """Unknown keys would be dropped or refused by the real server: none but the two that only the newer SDK knows."""
    day = Window(DAY, DAY + timedelta(days=1))
    schemas: dict[Literal["v1", "v2"], str] = {"v1": "BodyParamsForRunsQuerySchema", "v2": "query.QueryRunsRequestBody"}
    for api, schema in schemas.items():
        source = LangSmithSource(
            "ib_deep_research", api_key=server.key, api_url=server.api_url, api=api, clock=server.store.clock, budget=RateBudget(99)
        )
        server.log.clear()
        list(source.read(Kind.RUNS, day))
        list(source.read(Kind.FEEDBACK, day))
        list(source.read_runs_by_id([RUN]))
        list(source.read_feedback_edits(Window(DAY + timedelta(days=1), DAY + timedelta(days=2))))
        source.count(day)
        bodies = [request.body for request in server.log if request.path.endswith("/runs/query")]
        assert len(bodies) >= 3
        for body in bodies:
            check(openapi, {"$ref": f"#/components/schemas/{schema}"}, body)
            unknown = set(body) - set(openapi["components"]["schemas"][schema]["properties"])
            assert unknown <= {"include_subtree_usage", "min_feedback_modified_at"}
        if api == "v2":
            assert all({"min_start_time", "max_start_time", "selects"} <= set(body) for body in bodies), (
                "or the last day, and only ids, come back"
            )
        stats = server.requests_to("/runs/stats")[0].body
        check(openapi, {"$ref": "#/components/schemas/RunStatsQueryParams"}, stats)
        assert {request.status for request in server.log} == {200}


def test_requests_that_the_sdk_was_seen_to_send_are_accepted(server: LangSmithServer, shared_data: Path) -> None:
    calls = json.loads((shared_data / "langsmith" / "wire_calls_0.14.17.json").read_text())
    served = ("/info", "/sessions", "/runs", "/feedback")
    sent = 0
    for seen in calls:
        path, body = seen["path"].replace("/api/v1", "").replace("/api/v2", "/v2"), seen["body"] or {}
        elsewhere = not path.startswith((*served, "/v2/runs")) or (seen["method"] == "PATCH" and "sessions" in path)
        if elsewhere or "_raw_bytes" in body or "cursor" in body:
            continue  # other routes; bodies that were not kept; cursors of another server
        answer = call(server, seen["method"], seen["path"], params=seen["query"], json=seen["body"])
        assert answer.status_code in (200, 202), (seen["sdk_call"], answer.text)
        sent += 1
    assert sent >= 20


# ---- behaviour that the document tells in words, or the notes


def test_page_limits_and_selects(server: LangSmithServer) -> None:
    refused = query(server, limit=101)
    assert (refused.status_code, refused.json()) == (400, {"detail": "Limit exceeds maximum allowed value of 100"})
    assert "thread_id" not in query(server).json()["runs"][0], "not selected by default"
    assert query(server, select=["id", "thread_id"]).json()["runs"][1]["thread_id"]
    assert set(query(server, "/api/v2/runs/query").json()["items"][0]) == {"id"}
    assert query(server, "/v2/runs/query", sort_order="ASC").status_code == 400


def test_times_costs_tokens_and_payloads_look_as_in_each_interface(server: LangSmithServer) -> None:
    [pending, root, tool] = query(server).json()["runs"]
    assert [run["start_time"] for run in (pending, root, tool)] == [
        "2026-01-05T17:00:00",
        "2026-01-05T16:00:00.068924",
        "2026-01-05T16:00:00",
    ], "descending, without a zone"
    assert (root["total_cost"], tool["total_cost"], tool["total_tokens"]) == (0.001572, None, 0)
    assert (pending["status"], pending["end_time"], pending["inputs"]) == ("pending", None, None)
    assert "ROOT" in pending["inputs_s3_urls"]
    selects = ["START_TIME", "END_TIME", "STATUS", "RUN_TYPE", "TOTAL_TOKENS", "TOTAL_COST", "PROMPT_TOKEN_DETAILS"]
    [pending, root, tool] = query(server, "/v2/runs/query", selects=selects, min_start_time=DAY.isoformat()).json()["items"]
    assert (root["start_time"], root["status"], root["run_type"]) == ("2026-01-05T16:00:00.068924Z", "SUCCESS", "CHAIN")
    assert root["prompt_token_details"] == {"raw": {"cache_read": 3}}
    assert pending["end_time"] is None
    assert "total_tokens" not in tool


def test_current_query_sees_one_day_unless_told(server: LangSmithServer) -> None:
    old = server.store.add_run("ib_deep_research", start_time=DAY - timedelta(days=2))
    assert old not in query(server, "/v2/runs/query").text
    assert old in query(server, "/v2/runs/query", min_start_time=(DAY - timedelta(days=3)).isoformat()).text


def test_subtree_usage_is_only_given_on_request(server: LangSmithServer) -> None:
    root = server.store.add_run("ib_deep_research", start_time=DAY + timedelta(hours=18))
    server.store.add_run("ib_deep_research", parent=root, start_time=DAY + timedelta(hours=18), run_type="llm", total_tokens=7)
    asked: dict[str, Any] = {"ids": [root], "selects": ["ID", "TOTAL_TOKENS"]}
    assert query(server, "/v2/runs/query", **asked).json()["items"] == [{"id": root}]
    assert query(server, "/v2/runs/query", include_subtree_usage=True, **asked).json()["items"] == [{"id": root, "total_tokens": 7}]


def test_cursor_is_opaque_and_belongs_to_its_query(server: LangSmithServer) -> None:
    first = query(server, limit=1).json()
    cursor = first["cursors"]["next"]
    assert query(server, limit=1, cursor=cursor).json()["runs"][0]["id"] != first["runs"][0]["id"]
    assert query(server, limit=1, cursor=cursor, is_root=True).status_code == 400
    assert query(server, limit=1, cursor="made up").status_code == 400


def test_filters_that_are_not_understood_are_refused(server: LangSmithServer) -> None:
    for text in ("gte(start_time)", 'between(start_time, "a")', 'eq(colour, "red")', 'lt(start_time, "tomorrow")', 'eq(id, "a"'):
        assert query(server, filter=text).status_code == 400, text
    bound = {"min_feedback_modified_at": DAY.isoformat()}
    assert query(server, "/v2/runs/query", **bound).status_code == 400, "a bound on feedback needs a feedback condition"
    assert query(server, "/v2/runs/query", filter='eq(feedback_key, "user_score")', **bound).json()["items"] == [{"id": RUN}]


def test_keys_flags_and_rate_limit(server: LangSmithServer) -> None:
    assert call(server, "GET", "/api/v1/sessions", key="wrong").status_code == 401
    assert call(server, "GET", "/sessions", key=server.forbidden_key).status_code == 403
    assert call(server, "GET", "/info", key="wrong").json()["instance_flags"] == {"ch_query_enabled": True, "sdb_query_enabled": True}
    with LangSmithServer() as strict:
        strict.store.add_project("ib_deep_research", PROJECT)
        statuses = [query(strict).status_code for _ in range(16)]
        assert statuses == [200] * 15 + [429]
        assert 1 <= int(query(strict).headers["Retry-After"]) <= 10
        assert query(strict, "/v2/runs/query").status_code == 429
        assert call(strict, "GET", "/api/v1/sessions").status_code == 200, "only run queries are counted"
