"""The one place that talks to LangSmith: pages of runs and feedback, the rate budget, retries, clear errors.

Here belongs everything that would change when the ``langsmith`` SDK or LangSmith's HTTP interface changes. Both
run queries come out in one shape, that of the older one (``POST /runs/query``, "v1"): lower-case words,
``session_id`` for the project, ``parent_run_id``. What a run means in the unified columns is told in
``langsmith_rows``; which runs are asked for, in ``langsmith``.

The SDK (0.14.17) offers the current query (``POST /v2/runs/query``, "v2") publicly only to asyncio programs; the
synchronous client that its own functions use is reached here through ``Client._get_langsmith_api_sync``. Its
retries are turned off on both paths, since they know neither the shared budget nor a bound on the total time.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import UUID

from metamon_assets.traces.rate_budget import Budget, OverBudgetError, RateBudget
from metamon_assets.traces.sources.base import SourceError, Window

if TYPE_CHECKING:
    from langsmith import Client

Dialect = Literal["v1", "v2"]
Answer = TypeVar("Answer")

DEFAULT_URL = "https://api.smith.langchain.com"
LARGEST_PAGE: dict[Dialect, int] = {"v1": 100, "v2": 1000}  # more is refused with 400
SMALLEST_PAGE = 10  # where halving of pages that the server cannot carry stops
FEEDBACK_PAGE = 100
PROJECTS_PAGE = 100
RUN_SKEW = timedelta(seconds=60)  # children may carry a start slightly before their root's
LONGEST_BACKOFF = 60.0  # seconds

SELECT_V1 = (
    "id", "trace_id", "parent_run_id", "session_id", "name", "run_type", "start_time", "end_time", "first_token_time", "status", "error",
    "extra", "tags", "thread_id", "reference_example_id", "prompt_tokens", "completion_tokens", "total_tokens", "prompt_token_details",
    "completion_token_details", "prompt_cost", "completion_cost", "total_cost",
)  # fmt: skip
PAYLOADS_V1 = ("inputs", "outputs", "inputs_s3_urls", "outputs_s3_urls")
SELECT_V2 = (
    "ID", "TRACE_ID", "PARENT_RUN_IDS", "PROJECT_ID", "NAME", "RUN_TYPE", "START_TIME", "END_TIME", "FIRST_TOKEN_TIME", "STATUS", "ERROR",
    "EXTRA", "TAGS", "THREAD_ID", "REFERENCE_EXAMPLE_ID", "PROMPT_TOKENS", "COMPLETION_TOKENS", "TOTAL_TOKENS", "PROMPT_TOKEN_DETAILS",
    "COMPLETION_TOKEN_DETAILS", "PROMPT_COST", "COMPLETION_COST", "TOTAL_COST",
)  # fmt: skip
PAYLOADS_V2 = ("INPUTS", "OUTPUTS")


_budgets: dict[tuple[str, str | None], RateBudget] = {}
_budgets_lock = Lock()


def shared_budget(api_url: str, api_key: str | None) -> RateBudget:
    """The budget that every reader of this key in the process shares, since LangSmith counts by key."""
    with _budgets_lock:
        return _budgets.setdefault((api_url, api_key), RateBudget())


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs to ask for: roots started in ``window``, the children of such roots, runs by ``ids``, or the children
    of the roots ``of_roots``."""

    window: Window
    roots: bool | None = None
    ids: tuple[str, ...] = ()
    of_roots: tuple[str, ...] = ()
    payloads: bool = True
    latest: datetime | None = None  # when children may have started at the latest


@dataclass(frozen=True, slots=True)
class Page:
    """One answer: ``items`` as LangSmith's own objects, and when it came."""

    items: list[dict[str, Any]]
    observed_time: datetime
    location: str


class LangSmithError(SourceError):
    """LangSmith could not be read. ``status`` is that of its answer; None: no whole answer came."""

    status: int | None = None
    said: str = ""


class NotOfferedError(LangSmithError):
    """The server has nothing there, or does not know the question."""


@dataclass(frozen=True, slots=True)
class _Failure:
    status: int | None  # None: no whole answer arrived
    retry_after: float | None
    text: str

    @property
    def passing(self) -> bool:
        return self.status is None or self.status in (408, 425, 429) or (self.status >= 500 and not self.absent)

    @property
    def absent(self) -> bool:
        """The server has no such route, or nothing there."""
        return self.status in (404, 405, 501)


class _PageTooLargeError(Exception):
    """The page is more than the server can carry; ``most`` is what it says it can, if it does."""

    def __init__(self, most: int | None) -> None:
        self.most = most


def utc_now() -> datetime:
    """The present, with its zone."""
    return datetime.now(UTC)


class LangSmithApi:
    """LangSmith as pages of plain objects.

    ``patience_seconds`` bounds how long one request is repeated before SourceError; a reading therefore ends.
    ``dialect`` "auto" takes v2 where the server says that it can (``/info``), else v1.
    """

    def __init__(
        self,
        *,
        api_key: str | None,
        api_url: str | None = None,
        workspace_id: str | None = None,
        dialect: Literal["auto", "v1", "v2"] = "auto",
        budget: Budget | None = None,
        patience_seconds: float = 600.0,
        backoff_seconds: float = 0.5,
        timeout_seconds: float = 60.0,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.api_url = (api_url or DEFAULT_URL).rstrip("/")
        self._api_key = api_key
        self._workspace_id = workspace_id
        self._dialect: Literal["auto", "v1", "v2"] = dialect
        self._budget = budget or shared_budget(self.api_url, api_key)
        self._patience = patience_seconds
        self._backoff = backoff_seconds
        self._timeout = timeout_seconds
        self._clock = clock
        self._largest_page: int | None = None  # what the server said, when it refused more
        self._made: Client | None = None

    # ---- what callers ask for

    def project_id(self, project: str) -> tuple[str, str]:
        """The id and the name of a project, given its name or its id. Raises SourceError when there is none."""
        return self._project(project, include_stats=False)[:2]

    def projects(self) -> list[dict[str, Any]]:
        """All tracing projects of the key's workspace, with the number of their traces (``run_count``) where it is told."""
        found: list[dict[str, Any]] = []
        while True:
            params = {"limit": PROJECTS_PAGE, "offset": len(found), "reference_free": True, "include_stats": True}
            where = f"{self.api_url} projects, from {len(found)}"
            page = self._send(where, partial(self._legacy, "GET", "/sessions", params=params))
            found += page
            if len(page) < PROJECTS_PAGE:
                return found

    def server_time(self) -> datetime | None:
        """What time it is by the server's own clock (the header Date); None where it does not say."""
        answer = self._send(f"{self.api_url} info", lambda: self._client.request_with_retries("GET", "/info"))
        try:
            return parsedate_to_datetime(answer.headers.get("date") or "")
        except ValueError:
            return None

    def feedback_keys(self, project_id: str) -> list[str]:
        """The keys that feedback on this project's runs has used, by the project's own statistics."""
        return sorted(self._project(project_id, include_stats=True)[2])

    @property
    def dialect(self) -> Dialect:
        """The run query in use."""
        if self._dialect == "auto":
            from langsmith._internal._v2_migration_utils import QueryBackend, get_query_backend

            backend = get_query_backend(self._client.info.instance_flags)
            self._dialect = "v1" if backend is QueryBackend.CLICKHOUSE_ONLY else "v2"
        return self._dialect

    def runs(self, project_id: str, query: RunQuery) -> Iterator[Page]:
        """Pages of runs. A page that breaks is asked for again at its cursor, smaller if the server is overwhelmed."""
        size = min(self._largest_page or LARGEST_PAGE[self.dialect], LARGEST_PAGE[self.dialect])
        cursor: str | None = None
        number, used = 1, set[str]()
        ask = self._page_v1 if self.dialect == "v1" else self._page_v2
        # A child may start long after its root's window: only the clock bounds it. All pages share the bound, since a
        # cursor belongs to one question.
        query = replace(query, latest=max(query.window.end, self._clock()) + RUN_SKEW)
        while True:
            location = f"{self.api_url} runs query ({self.dialect}), page {number}"
            request = partial(ask, project_id, query, size, cursor)
            try:
                runs, following = self._send(location, request, budget=True, sized=size > SMALLEST_PAGE)
            except _PageTooLargeError as refusal:
                self._largest_page = refusal.most or self._largest_page
                size = max(SMALLEST_PAGE, min(refusal.most or size // 2, size - 1))
                continue
            yield Page(runs, self._clock(), location)
            if not runs or not following:
                return
            if following in used:
                raise SourceError(
                    f"{location}: the server gave the same cursor twice, so the pages would never end. "
                    "Nothing was taken over; read the window again, and report it to LangSmith if it stays."
                )
            used.add(following)
            cursor, number = following, number + 1

    def run_ids_with_edited_feedback(self, project_id: str, runs: Window, modified_since: datetime) -> list[str]:
        """Ids of runs started in ``runs`` whose feedback was written or edited since then. v2 only."""
        keys = self.feedback_keys(project_id)
        if not keys:
            return []
        ids: list[str] = []
        cursor: str | None = None
        while True:
            body: dict[str, Any] = {
                "project_ids": [project_id],
                "min_start_time": runs.start.isoformat(),
                "max_start_time": runs.end.isoformat(),
                "min_feedback_modified_at": modified_since.isoformat(),
                "filter": _any_of([f"eq(feedback_key, {_quoted(key)})" for key in keys]),
                "selects": ["ID"],
                "page_size": LARGEST_PAGE["v2"],
            }
            where = f"{self.api_url} runs with edited feedback"
            answer = self._send(where, partial(self._query_v2, body, cursor), budget=True)
            ids += [item["id"] for item in answer.get("items") or []]
            cursor = answer.get("next_cursor")
            if not cursor:
                return ids

    def feedback(self, project_id: str, *, created: Window | None = None, run_ids: Sequence[str] = ()) -> Iterator[Page]:
        """Pages of feedback by when it was given, or by the runs that it is about."""
        params: dict[str, Any] = {"session": project_id, "limit": FEEDBACK_PAGE}
        if created:
            params |= {"min_created_at": created.start.isoformat(), "max_created_at": created.end.isoformat()}
        if run_ids:
            params["run"] = list(run_ids)
        offset = 0
        while True:
            location = f"{self.api_url} feedback, from row {offset}"
            items = self._send(location, partial(self._legacy, "GET", "/feedback", params=params | {"offset": offset}))
            yield Page(items, self._clock(), location)
            if len(items) < FEEDBACK_PAGE:
                return
            offset += len(items)

    def stats(self, project_id: str, window: Window) -> dict[str, Any]:
        """The server's own figures of the root runs started in ``window``. Raises NotOfferedError where it keeps none."""
        location = f"{self.api_url} run statistics"
        return self._send(
            location,
            lambda: self._client.get_run_stats(
                project_ids=[project_id],
                is_root=True,
                start_time=window.start.isoformat(),
                filter=_started_in(window),
            ),
        )

    # ---- the wire

    @property
    def _client(self) -> Client:
        if self._made is None:
            from langsmith import Client
            from urllib3.util.retry import Retry

            milliseconds = int(self._timeout * 1000)
            self._made = Client(
                api_url=self.api_url,
                api_key=self._api_key,
                workspace_id=self._workspace_id,
                retry_config=Retry(total=0, raise_on_status=False),
                timeout_ms=(min(10_000, milliseconds), milliseconds),
                auto_batch_tracing=False,
            )
        return self._made

    def _legacy(self, method: Literal["GET", "POST"], path: str, **request: Any) -> Any:
        return _decoded(self._client.request_with_retries(method, path, request_kwargs=request).content)

    def _page_v1(self, project_id: str, query: RunQuery, size: int, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
        import orjson

        body: dict[str, Any] = {
            "session": [project_id],
            "select": [*SELECT_V1, *(PAYLOADS_V1 if query.payloads else ())],
            "limit": size,
            "order": "asc",  # rows that arrive while we read land behind the cursor, not before it
        }
        if query.ids:
            body["id"] = list(query.ids)
        else:
            body |= {"start_time": (query.window.start - _skew(query)).isoformat(), **_selection(query)}
        if cursor:
            body["cursor"] = cursor
        answer = self._legacy("POST", "/runs/query", data=orjson.dumps(body))
        return answer["runs"], (answer.get("cursors") or {}).get("next")

    def _page_v2(self, project_id: str, query: RunQuery, size: int, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
        latest = query.window.end if query.roots else query.latest or query.window.end
        body: dict[str, Any] = {
            "project_ids": [project_id],
            "min_start_time": (query.window.start - _skew(query)).isoformat(),
            "max_start_time": latest.isoformat(),
            "selects": [*SELECT_V2, *(PAYLOADS_V2 if query.payloads else ())],
            "include_subtree_usage": True,  # so that a root carries its trace's tokens and cost, as in v1
            "page_size": size,
        }
        body |= {"ids": list(query.ids)} if query.ids else _selection(query)
        answer = self._query_v2(body, cursor)
        return [_as_v1(run) for run in answer.get("items") or []], answer.get("next_cursor")

    def _query_v2(self, body: dict[str, Any], cursor: str | None) -> dict[str, Any]:
        asked = body | ({"cursor": cursor} if cursor else {})
        client = self._client._get_langsmith_api_sync().with_options(max_retries=0)
        return _decoded(client.runs.with_raw_response.query_v2(**asked).read())

    def _project(self, project: str, *, include_stats: bool) -> tuple[str, str, dict[str, Any]]:
        name = {"project_id": project} if _is_uuid(project) else {"project_name": project}
        found = self._send(f"{self.api_url} project {project!r}", lambda: self._client.read_project(**name, include_stats=include_stats))
        return str(found.id), found.name or project, found.feedback_stats or {}

    # ---- patience

    def _send(self, where: str, request: Callable[[], Answer], *, budget: bool = False, sized: bool = False) -> Answer:
        """Send until it succeeds, cannot succeed, or the patience is used up. ``sized``: a smaller page may help."""
        import requests
        from langsmith._exceptions import LangsmithError as CurrentError
        from langsmith.utils import LangSmithError as LegacyError

        started, attempt = time.monotonic(), 0
        while True:
            if budget:
                self._acquire(where)
            try:
                return request()
            except (LegacyError, CurrentError, requests.RequestException, ValueError, KeyError) as error:
                failure = _failure_of(error)
            if sized and (refusal := _too_large(failure, attempt)):
                raise refusal
            if not failure.passing:
                raise self._error(where, failure) from None
            delay = min(LONGEST_BACKOFF, self._backoff * 2**attempt) * random.uniform(0.5, 1.5)  # noqa: S311 - readers that failed together should not come back together
            if failure.retry_after is not None:
                delay = max(delay, failure.retry_after)
                self._budget.pause(failure.retry_after)
            if time.monotonic() + delay - started > self._patience:
                raise self._error(where, failure, tries=attempt + 1) from None
            time.sleep(delay)
            attempt += 1

    def _acquire(self, where: str) -> None:
        try:
            self._budget.acquire(self._patience)
        except OverBudgetError as error:
            failure = _Failure(429, error.seconds, f"{error}; another reader of this key may have been told so")
            raise self._error(where, failure) from None

    def _error(self, where: str, failure: _Failure, tries: int = 1) -> LangSmithError:
        said = failure.text.replace(self._api_key, "…") if self._api_key else failure.text
        said = re.sub(r"\s+", " ", said)[:300]
        otherwise = _ADVICE[500] if failure.status and failure.status >= 500 and not failure.absent else _ADVICE[400]
        what, mend = _ADVICE.get(failure.status, otherwise)
        repeated = f" {tries} times in {self._patience:.0f} s" if tries > 1 else ""
        status = f" ({failure.status})" if failure.status else ""
        text = f"LangSmith {what}{status}{repeated} at {where}. {mend} Nothing of the window was taken over. It said: {said}"
        error = NotOfferedError(text) if failure.absent else LangSmithError(text)
        error.status, error.said, error.retry_after = failure.status, said, failure.retry_after
        return error


_ADVICE: dict[int | None, tuple[str, str]] = {
    None: ("could not be reached, or its answer broke off,", "Check the network and api_url, then read the window again."),
    400: (
        "did not accept the request",
        "Set `api: v1` or `api: v2` for this source, whichever this server supports; update the langsmith package.",
    ),
    401: ("refused the API key", "Check that the key is valid and belongs to the region of api_url (US, EU or self-hosted)."),
    403: (
        "does not let this API key read here",
        "Give the key's role read access to the project; an organisation-wide key also needs workspace_id.",
    ),
    404: ("has nothing", "Check the project's name (or id), workspace_id and api_url."),
    429: ("kept limiting the rate", "Let fewer readers share this API key, or raise patience_seconds."),
    500: ("failed", "This is on LangSmith's side: read the window again later, or backfill from a bulk export."),
}


def _failure_of(error: Exception) -> _Failure:
    """What went wrong, from either half of the SDK; the older one keeps the answer in the chain of causes."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if response is not None:
            return _Failure(response.status_code, _retry_after(response.headers.get("retry-after")), response.text)
        cause = cause.__cause__ or cause.__context__
    if type(error).__name__ == "LangSmithNotFoundError":  # an empty list of projects, answered with 200
        return _Failure(404, None, str(error))
    return _Failure(None, None, f"{type(error).__name__}: {_first_line(error)}")


def _decoded(content: bytes) -> Any:
    """JSON, mending what applications put into strings that no database takes: lone halves of surrogate pairs."""
    import orjson

    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return _mended(json.loads(content))  # the lenient reader; what it cannot read either is a broken page


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    return value


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _retry_after(header: str | None) -> float | None:
    """Seconds to wait: the header holds a number or a date (RFC 9110, 10.2.3)."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - utc_now()).total_seconds())
    except (ValueError, TypeError):  # TypeError: a date without a zone
        return None


def _too_large(failure: _Failure, attempt: int) -> _PageTooLargeError | None:
    """Smaller pages help against a refused limit at once, against an overwhelmed server after a repetition."""
    if failure.status == 400 and (told := re.search(r"maximum allowed value of (\d+)", failure.text)):
        return _PageTooLargeError(int(told.group(1)))
    if failure.status == 413 or (attempt >= 1 and failure.status in (502, 504)):
        return _PageTooLargeError(None)
    return None


def _skew(query: RunQuery) -> timedelta:
    return timedelta(0) if query.roots else RUN_SKEW


def _selection(query: RunQuery) -> dict[str, Any]:
    """Half-open by the root's start: as the run's own filter for roots, as the trace's for children."""
    if query.of_roots:
        return {"is_root": False, "trace_filter": f"in(id, [{', '.join(map(_quoted, query.of_roots))}])"}
    inside = _started_in(query.window)
    return {"is_root": True, "filter": inside} if query.roots else {"is_root": False, "trace_filter": inside}


def _started_in(window: Window) -> str:
    return f'and(gte(start_time, "{window.start.isoformat()}"), lt(start_time, "{window.end.isoformat()}"))'


def _any_of(conditions: list[str]) -> str:
    return conditions[0] if len(conditions) == 1 else f"or({', '.join(conditions)})"


def _quoted(text: str) -> str:
    import orjson

    return orjson.dumps(text).decode()


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _as_v1(run: dict[str, Any]) -> dict[str, Any]:
    """A run of the v2 query in the names of v1."""
    renamed = dict(run)
    renamed["session_id"] = renamed.pop("project_id", None)
    parents = renamed.pop("parent_run_ids", None)
    renamed["parent_run_id"] = parents[-1] if parents else None
    for word in ("run_type", "status"):
        renamed[word] = str(run.get(word) or "").lower() or None
    for details in ("prompt_token_details", "completion_token_details"):
        renamed[details] = (run.get(details) or {}).get("raw")
    return renamed
