"""A local LangSmith: real HTTP on loopback that the real SDK reads from and writes to.

Here belongs what the interface does, by LangSmith's OpenAPI document, its documentation and what its SDK sends:
limits on page sizes, unknown selects refused, the rate limit with Retry-After, opaque cursors, times without a
zone in v1 and with Z in v2, costs as floats, three back ends in /info, and faults on demand. What it holds is
``langsmith_store``. None of it was compared with the hosted service, only with its published description and
one real run.

    with LangSmithServer() as server:
        server.store.add_run("agent", start_time=…)
        client = langsmith.Client(api_url=server.api_url, api_key=server.key)
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from metamon_assets_tests.traces.sources.langsmith_store import (
    OWN_USAGE,
    TENANT,
    BadFilterError,
    Filter,
    LangSmithStore,
    is_uuid,
    parse_time,
)

Backend = Literal["clickhouse", "dual", "smithdb"]
Query = dict[str, list[str]]


def _words(text: str) -> set[str]:
    return set(text.split())


RUN_SELECT = _words(
    "id name run_type start_time end_time status error extra events inputs inputs_preview inputs_s3_urls inputs_or_signed_url outputs"
    " outputs_preview outputs_s3_urls outputs_or_signed_url s3_urls error_or_signed_url events_or_signed_url extra_or_signed_url"
    " serialized_or_signed_url parent_run_id manifest_id manifest_s3_id manifest session_id serialized reference_example_id"
    " reference_dataset_id total_tokens prompt_tokens prompt_token_details completion_tokens completion_token_details total_cost"
    " prompt_cost prompt_cost_details completion_cost completion_cost_details price_model_id first_token_time trace_id dotted_order"
    " last_queued_at feedback_stats child_run_ids parent_run_ids tags in_dataset app_path share_token trace_tier"
    " trace_first_received_at ttl_seconds trace_upgrade thread_id trace_min_max_start_time messages inserted_at"
)
RUN_SELECT_V2 = _words(
    "ID NAME RUN_TYPE STATUS START_TIME END_TIME LATENCY_SECONDS FIRST_TOKEN_TIME ERROR ERROR_PREVIEW EXTRA METADATA EVENTS INPUTS"
    " INPUTS_PREVIEW OUTPUTS OUTPUTS_PREVIEW MANIFEST PARENT_RUN_IDS PROJECT_ID TRACE_ID THREAD_ID DOTTED_ORDER IS_ROOT"
    " REFERENCE_EXAMPLE_ID REFERENCE_DATASET_ID TOTAL_TOKENS PROMPT_TOKENS COMPLETION_TOKENS TOTAL_COST PROMPT_COST COMPLETION_COST"
    " PROMPT_TOKEN_DETAILS COMPLETION_TOKEN_DETAILS PROMPT_COST_DETAILS COMPLETION_COST_DETAILS PRICE_MODEL_ID TAGS APP_PATH"
    " ATTACHMENTS THREAD_EVALUATION_TIME IS_IN_DATASET SHARE_URL FEEDBACK_STATS"
)
ALWAYS_V1 = {"name", "run_type", "trace_id", "dotted_order", "id", "status", "session_id", "app_path"}  # required by RunSchema
BODY_V1 = _words(
    "id trace parent_run run_type session reference_example execution_order start_time end_time error query filter trace_filter"
    " tree_filter is_root data_source_type skip_pagination search_filter use_experimental_search cursor limit select order"
    " skip_prev_cursor"
)
# What the SDK 0.14.17 can send; the OpenAPI document of July lacks the feedback bounds and include_subtree_usage.
BODY_V2 = _words(
    "ai_search cursor filter has_error ids include_subtree_usage is_root max_feedback_modified_at max_start_time"
    " min_feedback_modified_at min_start_time page_size project_ids reference_dataset_id reference_examples run_type selects"
    " trace_filter trace_id tree_filter"
)
ROUTES = (
    ("GET", "/info", 200, "_info"),
    ("POST", "/runs/query", 200, "_query_v1"),
    ("POST", "/v2/runs/query", 200, "_query_v2"),
    ("POST", "/runs/stats", 200, "_stats"),
    ("POST", "/runs/batch", 202, "_post_runs"),
    ("POST", "/runs", 202, "_post_run"),
    ("GET", "/runs/([^/]+)", 200, "_run_v1"),
    ("GET", "/v2/runs/([^/]+)", 200, "_run_v2"),
    ("PATCH", "/runs/([^/]+)", 202, "_patch_run"),
    ("GET", "/sessions", 200, "_projects"),
    ("POST", "/sessions", 200, "_post_project"),
    ("GET", "/sessions/([^/]+)", 200, "_project"),
    ("GET", "/feedback", 200, "_feedback"),
    ("POST", "/feedback", 200, "_post_feedback"),
    ("GET", "/feedback/([^/]+)", 200, "_one_feedback"),
    ("PATCH", "/feedback/([^/]+)", 200, "_patch_feedback"),
)
FLAGS: dict[Backend, dict[str, Any]] = {
    "clickhouse": {},  # an older server does not know the flags
    "dual": {"ch_query_enabled": True, "sdb_query_enabled": True},
    "smithdb": {"ch_query_enabled": False, "sdb_query_enabled": True},
}


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """An answer other than success."""

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status, self.body, self.headers = status, body, headers or {}


@dataclass
class Fault:
    """Something that goes wrong: the next ``times`` requests whose path contains ``path``, after ``skip`` good ones.

    ``truncate`` announces the whole answer and closes the connection half-way through it; ``garble`` answers 200
    with half the JSON; otherwise the answer is ``status``.
    """

    path: str
    status: int = 503
    times: int = 1
    skip: int = 0
    retry_after: str | None = None
    body: Any = None
    truncate: bool = False
    garble: bool = False


@dataclass
class Request:
    """One line of the server's log."""

    method: str
    path: str  # without /api/v1
    query: Query
    body: Any
    key: str | None
    at: float  # time.monotonic()
    status: int = 0
    answer: Any = field(default=None, repr=False)


class LangSmithServer:
    """The server; a context manager. ``clock`` is the time it believes in, ``limit`` run queries per ``limit_seconds`` are allowed."""

    def __init__(
        self,
        *,
        backend: Backend = "clickhouse",
        clock: Callable[[], datetime] | None = None,
        limit: int = 15,
        limit_seconds: float = 10.0,
        retry_after: str | None = None,
        largest_page: int = 100,
    ) -> None:
        self.key = "lsv2_pt_0123456789abcdef_local"
        self.forbidden_key = "lsv2_pt_fedcba9876543210_other"
        self.backend: Backend = backend
        self.store = LangSmithStore(clock or (lambda: datetime.now(UTC)))
        self.largest_page = largest_page
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self._limit, self._limit_seconds, self._retry_after = limit, limit_seconds, retry_after
        self._queries: dict[str, deque[float]] = defaultdict(deque)
        self._lock = threading.RLock()
        self._http = _HttpServer(("127.0.0.1", 0), _Handler)
        self._http.app = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def api_url(self) -> str:
        return f"{self.url}/api/v1"

    def requests_to(self, path: str) -> list[Request]:
        return [request for request in self.log if request.path == path]

    # ---- one request

    def answer(self, request: Request, content_type: str, raw: bytes) -> tuple[int, Any, dict[str, str], Fault | None]:
        with self._lock:
            self.log.append(request)
            headers: dict[str, str] = {}
            fault = self._fault(request)
            try:
                if fault and not (fault.truncate or fault.garble):
                    raise Refusal(fault.status, fault.body or {"detail": "injected"}, _retry_header(fault.retry_after))
                status, body = self._route(request, content_type, raw)
            except Refusal as refusal:
                status, body, headers = refusal.status, refusal.body, refusal.headers
            except BadFilterError as error:
                status, body = 400, _problem(request, 400, f"Invalid filter: {error}")
            request.status, request.answer = status, body
            return status, body, headers, fault

    def _fault(self, request: Request) -> Fault | None:
        for fault in self.faults:
            if fault.path in request.path and fault.times > 0:
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def _route(self, request: Request, content_type: str, raw: bytes) -> tuple[int, Any]:
        if request.path != "/info":
            self._authorise(request)
        if request.path == "/runs/multipart":
            self._multipart(content_type, raw)
            return 202, {"message": "accepted"}
        for method, pattern, status, name in ROUTES:
            match = re.fullmatch(pattern, request.path)
            if match and method == request.method:
                return status, getattr(self, name)(request, *match.groups())
        raise Refusal(404, {"detail": "Not Found"})

    def _authorise(self, request: Request) -> None:
        if request.key == self.forbidden_key:
            raise Refusal(403, {"detail": "Forbidden"})
        if request.key != self.key:
            raise Refusal(401, {"detail": "Invalid token"})

    def _spend(self, request: Request) -> None:
        """The rate limit of run queries: a sliding window for each key."""
        spent = self._queries[request.key or ""]
        while spent and spent[0] <= request.at - self._limit_seconds:
            spent.popleft()
        if len(spent) >= self._limit:
            wait = self._retry_after or str(math.ceil(spent[0] + self._limit_seconds - request.at))
            raise Refusal(429, {"detail": "Rate limit exceeded"}, _retry_header(wait))
        spent.append(request.at)

    def _info(self, _: Request) -> dict[str, Any]:
        return {
            "version": "0.16.14",
            "git_sha": None,
            "license_expiration_time": None,
            "batch_ingest_config": {
                "use_multipart_endpoint": True,
                "scale_up_qsize_trigger": 1000,
                "scale_up_nthreads_limit": 16,
                "scale_down_nempty_trigger": 4,
                "size_limit": 100,
                "size_limit_bytes": 20971520,
            },
            "instance_flags": FLAGS[self.backend],
            "customer_info": None,
        }

    # ---- the older run query

    def _query_v1(self, request: Request) -> dict[str, Any]:
        self._spend(request)
        body = request.body
        if self.backend == "smithdb":
            raise Refusal(501, {"detail": "Not implemented on this deployment"})
        if unknown := set(body) - BODY_V1:
            raise _invalid(["body", sorted(unknown)[0]], "Extra inputs are not permitted")
        limit = body.get("limit", 100)
        if limit > self.largest_page:
            raise Refusal(400, {"detail": f"Limit exceeds maximum allowed value of {self.largest_page}"})
        select = body.get("select") or sorted(RUN_SELECT - {"thread_id", "trace_tier"})
        for index, name in enumerate(select):
            if name not in RUN_SELECT:
                raise _invalid(["body", "select", index], f"Input should be a valid run column, not {name!r}")
        for name in ("session", "id"):
            if bad := [value for value in body.get(name) or [] if not is_uuid(value)]:
                raise _invalid(["body", name, 0], f"Input should be a valid UUID, not {bad[0]!r}")
        if body.get("id"):  # the documentation: "this will ignore all other filtering arguments"
            found = [run for run in self.store.visible_runs() if run["id"] in body["id"]]
        else:
            found = self._matching(body, body.get("session"), body.get("start_time"), body.get("end_time"))
        page, following = _page(found, body, limit, ascending=body.get("order", "desc") == "asc")
        names = set(select) | ALWAYS_V1
        trees = self._trees()
        return {
            "runs": [{key: value for key, value in self._shown_v1(run, trees).items() if key in names} for run in page],
            "cursors": {"next": following, "prev": None},
            "search_cursors": None,
            "parsed_query": None,
        }

    def _run_v1(self, _: Request, run_id: str) -> dict[str, Any]:
        for run in self.store.visible_runs():
            if run["id"] == run_id:
                return self._shown_v1(run, self._trees())
        raise Refusal(404, {"detail": "Run not found"})

    def _shown_v1(self, run: dict[str, Any], trees: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        usage = self.store.subtree_usage(run, trees[run["trace_id"]])
        stored = run.get("payloads_in_s3")
        address = {"ROOT": {"presigned_url": f"https://storage.invalid/{run['id']}?signature={uuid4().hex}", "s3_url": None}}
        shown = dict.fromkeys(RUN_SELECT - {"trace_min_max_start_time", "inserted_at"})
        return shown | {
            "id": run["id"],
            "name": run["name"],
            "run_type": run["run_type"],
            "start_time": _naive(run["start_time"]),
            "end_time": _naive(run["end_time"]),
            "first_token_time": _naive(usage["first_token_time"]),
            "status": run["status"],
            "error": run.get("error"),
            "extra": run["extra"],
            "events": [],
            "inputs": None if stored else run["inputs"],
            "outputs": None if stored else run["outputs"],
            "inputs_s3_urls": address if stored else None,
            "outputs_s3_urls": address if stored else None,
            "parent_run_id": run["parent_run_id"],
            "parent_run_ids": self.store.ancestors(run),
            "session_id": run["session_id"],
            "trace_id": run["trace_id"],
            "dotted_order": run["dotted_order"],
            "tags": run["tags"],
            "reference_example_id": run.get("reference_example_id"),
            "thread_id": _thread(run),
            "app_path": f"/o/{TENANT}/projects/p/{run['session_id']}/r/{run['id']}",
            "trace_tier": self.store.runs[run["id"]].tier,
            "trace_first_received_at": _naive(self.store.runs[run["id"]].visible_from),
            "trace_upgrade": False,
            "in_dataset": False,
            **{name: usage[name] or 0 for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
            **{name: usage[name] for name in OWN_USAGE if not name.endswith("_tokens")},
        }

    # ---- the current run query

    def _query_v2(self, request: Request) -> dict[str, Any]:
        self._spend(request)
        body = request.body
        if self.backend == "clickhouse":
            raise _problem_refusal(request, 404, "no such route on this deployment")
        if unknown := set(body) - BODY_V2:
            raise _problem_refusal(request, 400, f"unknown field {sorted(unknown)[0]!r}")
        size = body.get("page_size", 100)
        if not 1 <= size <= 1000:
            raise _problem_refusal(request, 400, "page_size must be between 1 and 1000")
        projects = body.get("project_ids") or []
        if not projects:
            raise _problem_refusal(request, 400, "set exactly one of project_ids and reference_dataset_id")
        if any(not is_uuid(value) for value in [*projects, *(body.get("ids") or [])]):
            raise _problem_refusal(request, 422, "invalid UUID")
        if any(project not in self.store.projects for project in projects):
            raise _problem_refusal(request, 404, "session not found")
        selects = body.get("selects") or ["ID"]
        if unknown := set(selects) - RUN_SELECT_V2:
            raise _problem_refusal(request, 422, f"unknown select {sorted(unknown)[0]!r}")
        now = self.store.clock()
        earliest = body.get("min_start_time") or (now - timedelta(days=1)).isoformat()
        latest = body.get("max_start_time") or now.isoformat()
        found = self._matching(body, projects, earliest, latest)
        if body.get("ids"):
            found = [run for run in found if run["id"] in body["ids"]]
        page, following = _page(found, body, size, ascending=False)
        trees = self._trees()
        subtree = bool(body.get("include_subtree_usage"))
        items = [self._shown_v2(run, trees, selects, subtree=subtree) for run in page]
        return {"items": items, "has_more": following is not None} | ({"next_cursor": following} if following else {})

    def _run_v2(self, request: Request, run_id: str) -> dict[str, Any]:
        for run in self.store.visible_runs(request.query.get("project_id")):
            if run["id"] == run_id:
                return self._shown_v2(run, self._trees(), request.query.get("selects") or ["ID"], subtree=False)
        raise _problem_refusal(request, 404, "run not found")

    def _shown_v2(
        self, run: dict[str, Any], trees: dict[str, list[dict[str, Any]]], selects: list[str], *, subtree: bool
    ) -> dict[str, Any]:
        usage = self.store.subtree_usage(run, trees[run["trace_id"]]) if subtree else run
        end = run["end_time"]
        shown = {
            "id": run["id"],
            "name": run["name"],
            "run_type": run["run_type"].upper(),
            "status": run["status"].upper(),
            "start_time": _zulu(run["start_time"]),
            "end_time": _zulu(end),
            "latency_seconds": (end - run["start_time"]).total_seconds() if end else None,
            "first_token_time": _zulu(usage.get("first_token_time")),
            "error": run.get("error"),
            "extra": run["extra"],
            "metadata": (run["extra"] or {}).get("metadata"),
            "inputs": None if run.get("payloads_in_s3") else run["inputs"],
            "outputs": None if run.get("payloads_in_s3") else run["outputs"],
            "parent_run_ids": self.store.ancestors(run),
            "project_id": run["session_id"],
            "trace_id": run["trace_id"],
            "thread_id": _thread(run),
            "dotted_order": run["dotted_order"],
            "is_root": run["parent_run_id"] is None,
            "tags": run["tags"],
            "reference_example_id": run.get("reference_example_id"),
        }
        for name in OWN_USAGE:
            value = usage.get(name)
            shown[name] = {"raw": value} if name.endswith("_details") and value is not None else value
        # "Properties not listed are omitted"; absent ones too, except that end_time is null while pending.
        wanted = {name.lower() for name in selects}
        return {name: value for name, value in shown.items() if name in wanted and (value is not None or name == "end_time")}

    # ---- what both share

    def _trees(self) -> dict[str, list[dict[str, Any]]]:
        trees: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for run in self.store.visible_runs():
            trees[run["trace_id"]].append(run)
        return trees

    def _matching(self, body: dict[str, Any], projects: list[str] | None, earliest: str | None, latest: str | None) -> list[dict[str, Any]]:
        """Runs that a query of either kind selects. Both bounds of the start are inclusive: half-open needs a filter."""
        runs = self.store.visible_runs(projects)
        roots = {run["id"]: run for run in runs if run["parent_run_id"] is None}
        own, trace = (Filter(body[name]) if body.get(name) else None for name in ("filter", "trace_filter"))
        bounds = [parse_time(body[name]) if body.get(name) else None for name in ("min_feedback_modified_at", "max_feedback_modified_at")]
        if any(bounds) and not any(part and part.asks_for_feedback for part in (own, trace)):
            raise BadFilterError("a bound on feedback needs a feedback condition")
        given: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for feedback in self.store.visible_feedback():
            if (not bounds[0] or feedback["modified_at"] >= bounds[0]) and (not bounds[1] or feedback["modified_at"] < bounds[1]):
                given[feedback["run_id"]].append(feedback)
        start, end = (parse_time(bound) if bound else None for bound in (earliest, latest))

        def wanted(run: dict[str, Any]) -> bool:
            root = roots.get(run["trace_id"])
            return (
                (start is None or run["start_time"] >= start)
                and (end is None or run["start_time"] <= end)
                and (body.get("is_root") is None or body["is_root"] == (run["parent_run_id"] is None))
                and (body.get("run_type") is None or body["run_type"].lower() == run["run_type"])
                and (_failed(body) is None or _failed(body) == (run["status"] == "error"))
                and (not (body.get("trace") or body.get("trace_id")) or run["trace_id"] in (body.get("trace"), body.get("trace_id")))
                and (own is None or own.matches(run, given[run["id"]]))
                and (trace is None or (root is not None and trace.matches(root, given[root["id"]])))
            )

        return [run for run in runs if wanted(run)]

    def _stats(self, request: Request) -> dict[str, Any]:
        body = request.body
        runs = self._matching(body, body.get("session"), body.get("start_time"), body.get("end_time"))
        if body.get("id"):
            runs = [run for run in runs if run["id"] in body["id"]]
        trees = self._trees()
        usage = [self.store.subtree_usage(run, trees[run["trace_id"]]) for run in runs]
        latencies = sorted((run["end_time"] - run["start_time"]).total_seconds() for run in runs if run["end_time"])
        costs = [used["total_cost"] for used in usage if used["total_cost"] is not None]
        return {
            "run_count": len(runs),
            "latency_p50": latencies[len(latencies) // 2] if latencies else None,
            "latency_p99": latencies[int(len(latencies) * 0.99)] if latencies else None,
            "total_tokens": sum(used["total_tokens"] or 0 for used in usage),
            "total_cost": sum(costs) if costs else None,
            "error_rate": sum(run["status"] == "error" for run in runs) / len(runs) if runs else None,
            "feedback_stats": {},
        }

    # ---- projects

    def _post_project(self, request: Request) -> dict[str, Any]:
        return self._shown_project(self.store.add_project(request.body["name"], request.body.get("id")), stats=False)

    def _project(self, request: Request, project_id: str) -> dict[str, Any]:
        if project_id not in self.store.projects:
            raise Refusal(404, {"detail": "Session not found"})
        return self._shown_project(project_id, stats=_flag(request.query, "include_stats"))

    def _projects(self, request: Request) -> list[dict[str, Any]]:
        query = request.query
        limit, offset = int(query.get("limit", ["100"])[0]), int(query.get("offset", ["0"])[0])
        if not 1 <= limit <= 100:
            raise _invalid(["query", "limit"], "Input should be less than or equal to 100")
        names, ids = query.get("name"), query.get("id")
        tracing_only = _flag(query, "reference_free")
        found = [
            key
            for key, project in self.store.projects.items()
            if (not names or project["name"] in names)
            and (not ids or key in ids)
            and not (tracing_only and project["reference_dataset_id"])
        ]
        return [self._shown_project(key, stats=_flag(query, "include_stats")) for key in found[offset : offset + limit]]

    def _shown_project(self, project_id: str, *, stats: bool) -> dict[str, Any]:
        project = self.store.projects[project_id]
        shown = project | {"start_time": _naive(project["start_time"]), "end_time": None, "extra": {}, "description": None}
        if stats:
            keys = {given["key"] for given in self.store.visible_feedback() if given["session_id"] == project_id}
            runs = [run for run in self.store.visible_runs([project_id]) if run["parent_run_id"] is None]
            shown |= {"run_count": len(runs), "feedback_stats": {key: {"n": 1, "avg": None, "values": {}} for key in sorted(keys)}}
        return shown

    # ---- feedback

    def _feedback(self, request: Request) -> list[dict[str, Any]]:
        query = request.query
        limit, offset = int(query.get("limit", ["100"])[0]), int(query.get("offset", ["0"])[0])
        if not 1 <= limit <= 100:
            raise _invalid(["query", "limit"], "Input should be less than or equal to 100")
        found = self.store.visible_feedback()
        for name, key in (("run", "run_id"), ("session", "session_id"), ("key", "key")):
            if query.get(name):
                found = [given for given in found if given[key] in query[name]]
        if query.get("source"):
            found = [given for given in found if given["feedback_source"]["type"] in query["source"]]
        if query.get("min_created_at"):
            found = [given for given in found if given["created_at"] >= parse_time(query["min_created_at"][0])]
        if query.get("max_created_at"):
            found = [given for given in found if given["created_at"] <= parse_time(query["max_created_at"][0])]
        found.sort(key=lambda given: (given["created_at"], given["id"]), reverse=True)
        return [self._shown_feedback(given["id"]) for given in found[offset : offset + limit]]

    def _shown_feedback(self, feedback_id: str) -> dict[str, Any]:
        if feedback_id not in self.store.feedback:
            raise Refusal(404, {"detail": "Feedback not found"})
        given = self.store.feedback[feedback_id].at(self.store.clock())
        return given | {"created_at": given["created_at"].isoformat(), "modified_at": given["modified_at"].isoformat(), "is_root": False}

    def _one_feedback(self, _: Request, feedback_id: str) -> dict[str, Any]:
        return self._shown_feedback(feedback_id)

    def _post_feedback(self, request: Request) -> dict[str, Any]:
        return self._shown_feedback(self._take_feedback(request.body))

    def _patch_feedback(self, request: Request, feedback_id: str) -> dict[str, Any]:
        self.store.edit_feedback(feedback_id, **request.body)
        return self._shown_feedback(feedback_id)

    def _take_feedback(self, body: dict[str, Any]) -> str:
        names = ("score", "value", "comment", "correction", "feedback_source", "extra", "trace_id", "session_id")
        fields = {name: body[name] for name in names if body.get(name) is not None}
        created = parse_time(body["created_at"]) if body.get("created_at") else None
        return self.store.add_feedback(body.get("run_id"), body["key"], created_at=created, feedback_id=body.get("id"), **fields)

    # ---- writing

    def _multipart(self, content_type: str, raw: bytes) -> None:
        message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + raw)
        runs: dict[tuple[str, str], dict[str, Any]] = {}
        for part in message.iter_parts():
            operation, _, rest = str(part.get_param("name", header="content-disposition")).partition(".")
            identifier, _, attribute = rest.partition(".")
            value = json.loads(_bytes(part.get_payload(decode=True)))
            if operation == "feedback":
                self._take_feedback(value)
            elif attribute:
                runs[operation, identifier][attribute] = value
            else:
                runs[operation, identifier] = value
        for (operation, identifier), run in runs.items():
            if operation == "post":
                self._take_run(run)
            else:
                self._change_run(identifier, run)

    def _post_run(self, request: Request) -> dict[str, Any]:
        self._take_run(request.body)
        return {"message": "accepted"}

    def _post_runs(self, request: Request) -> dict[str, Any]:
        for run in request.body.get("post") or []:
            self._take_run(run)
        for run in request.body.get("patch") or []:
            self._change_run(run["id"], run)
        return {"message": "accepted"}

    def _patch_run(self, request: Request, run_id: str) -> dict[str, Any]:
        self._change_run(run_id, request.body)
        return {"message": "accepted"}

    def _take_run(self, body: dict[str, Any]) -> None:
        self.store.add_run(
            body.get("session_name") or "default",
            run_id=body["id"],
            start_time=_moment(body["start_time"]),
            seconds=None,
            visible_from=self.store.clock(),
            trace_id=body.get("trace_id") or body["id"],
            parent_run_id=body.get("parent_run_id"),
            dotted_order=body.get("dotted_order") or body["id"],
            name=body["name"],
            run_type=body["run_type"],
            **_written(body),
        )

    def _change_run(self, run_id: str, body: dict[str, Any]) -> None:
        if run_id in self.store.runs:
            self.store.patch_run(run_id, **_written(body))


def _written(body: dict[str, Any]) -> dict[str, Any]:
    """What a client wrote about a run, with the usage that LangSmith takes out of it."""
    written = {
        name: body[name] for name in ("inputs", "outputs", "extra", "error", "tags", "reference_example_id") if body.get(name) is not None
    }
    if body.get("end_time"):
        written["end_time"] = _moment(body["end_time"])
        written["status"] = "error" if body.get("error") else "success"
    metadata = (body.get("extra") or {}).get("metadata") or {}
    usage = (body.get("outputs") or {}).get("usage_metadata") or metadata.get("usage_metadata")
    if usage:
        written |= {
            "prompt_tokens": usage.get("input_tokens"),
            "completion_tokens": usage.get("output_tokens"),
            "total_tokens": usage.get("total_tokens"),
            "prompt_token_details": usage.get("input_token_details"),
            "completion_token_details": usage.get("output_token_details"),
            "prompt_cost": usage.get("input_cost"),
            "completion_cost": usage.get("output_cost"),
            "total_cost": usage.get("total_cost"),
        }
    return written


def _page(found: list[dict[str, Any]], body: dict[str, Any], size: int, *, ascending: bool) -> tuple[list[dict[str, Any]], str | None]:
    """Sorted by start, ties by id; the cursor is the last row shown, bound to its query."""
    found.sort(key=_position, reverse=not ascending)
    question = json.dumps({key: value for key, value in body.items() if key not in ("cursor", "limit", "page_size")}, sort_keys=True)
    if body.get("cursor"):
        try:
            asked, after = json.loads(base64.urlsafe_b64decode(body["cursor"]))
        except ValueError:
            raise Refusal(400, {"detail": "Invalid cursor"}) from None
        if asked != question:
            raise Refusal(400, {"detail": "The cursor belongs to another query"})
        found = [run for run in found if (_position(run) > tuple(after) if ascending else _position(run) < tuple(after))]
    page = found[:size]
    if len(found) <= size:
        return page, None
    return page, base64.urlsafe_b64encode(json.dumps([question, _position(page[-1])]).encode()).decode()


def _position(run: dict[str, Any]) -> tuple[str, str]:
    return f"{run['start_time'].astimezone(UTC):%Y%m%d%H%M%S%f}", run["id"]


def _thread(run: dict[str, Any]) -> str | None:
    metadata = (run["extra"] or {}).get("metadata") or {}
    return metadata.get("thread_id") or metadata.get("session_id") or metadata.get("conversation_id")


def _failed(body: dict[str, Any]) -> bool | None:
    return body.get("error") if body.get("error") is not None else body.get("has_error")


def _bytes(payload: Any) -> bytes:
    assert isinstance(payload, bytes)
    return payload


def _moment(value: Any) -> datetime:
    return datetime.fromtimestamp(value / 1000, UTC) if isinstance(value, int | float) else parse_time(value)


def _naive(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() if moment else None


def _zulu(moment: datetime | None) -> str | None:
    naive = _naive(moment)
    return f"{naive}Z" if naive else None


def _flag(query: Query, name: str) -> bool:
    return query.get(name, ["false"])[0].lower() == "true"


def _retry_header(seconds: str | None) -> dict[str, str]:
    return {"Retry-After": seconds} if seconds is not None else {}


def _invalid(location: list[str | int], message: str) -> Refusal:
    return Refusal(422, {"detail": [{"loc": location, "msg": message, "type": "value_error"}]})


def _problem(request: Request, status: int, detail: str) -> dict[str, Any]:
    if not request.path.startswith("/v2"):
        return {"detail": detail}
    return {"type": "about:blank", "title": "Request failed", "status": status, "detail": detail, "instance": request.path}


def _problem_refusal(request: Request, status: int, detail: str) -> Refusal:
    return Refusal(status, _problem(request, status, detail), {"Content-Type": "application/problem+json"})


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    app: LangSmithServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one packet
    disable_nagle_algorithm = True
    server: _HttpServer

    def _serve(self) -> None:
        at = time.monotonic()
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        content_type = self.headers.get("Content-Type", "")
        address = urlsplit(self.path)
        path = address.path
        for prefix in ("/api/v1", "/api"):
            if path.startswith(prefix + "/"):
                path = path.removeprefix(prefix)
                break
        body = json.loads(raw) if raw and "json" in content_type else None
        request = Request(self.command, path, parse_qs(address.query), body, self.headers.get("x-api-key"), at)
        status, answer, headers, fault = self.server.app.answer(request, content_type, raw)
        payload = json.dumps(answer).encode()
        if fault and fault.garble:
            payload = payload[: len(payload) // 2]
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if fault and fault.truncate:
            self.wfile.write(payload[: len(payload) // 2])
            self.close_connection = True
            return
        self.wfile.write(payload)

    do_GET = do_POST = do_PATCH = _serve  # noqa: N815 - the names that http.server looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
        """Nothing on the terminal: the log is ``LangSmithServer.log``."""
