"""LangSmith through its API (IN-1, IN-6, IN-8): which runs and feedback a window needs, in which order.

Roots of the window come first, then their children, which LangSmith selects by their root's start. How the
server is spoken to is ``langsmith_api``'s concern, what its words mean ``langsmith_rows``'s. To backfill months,
use a bulk export (``langsmith_export``): the older API gives at most some 150 runs a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from metamon_assets.traces.rate_budget import Budget
from metamon_assets.traces.sources.base import Batch, Kind, SourceCount, SourceError, Window
from metamon_assets.traces.sources.langsmith_api import LangSmithApi, NotOfferedError, Page, RunQuery, utc_now
from metamon_assets.traces.sources.langsmith_rows import check_map, columns_of, feedback_batch, money, runs_batch

LATE_FEEDBACK = timedelta(hours=1)  # feedback may carry a time somewhat before it arrived
EDITED_FOR = timedelta(days=14)  # feedback older than this is not looked at again for edits
REREAD = timedelta(days=3)  # windows that ended within it are current: edits elsewhere are looked for too
BEGINNING = datetime(2023, 1, 1, tzinfo=UTC)  # there was no LangSmith before
RUNS_PER_QUESTION = 100  # ids in one query of runs
RUNS_PER_FEEDBACK_QUESTION = 50  # ids in one address, which servers limit to some 8 kB


class LangSmithSource:
    """A LangSmith project, by name or id.

    ``api`` names the run query: "v2" (current), "v1" (deprecated by LangSmith, gone after 2027-01-31), or "auto".
    ``map`` says where unified columns are found, as dotted paths into the run ("metadata.customer"), where
    ``langsmith_rows.DEFAULT_MAP`` is not right. Without ``payloads`` inputs and outputs are not even fetched.
    ``own_project`` is where Metamon's own model calls are traced: it is refused as a source (IN-8).

    All sources that use one key share one budget unless ``budget`` says otherwise.
    """

    answers_slowly = True  # no day is kept locked while it is asked

    def __init__(
        self,
        project: str,
        *,
        api_key: str | None,
        api_url: str | None = None,
        workspace_id: str | None = None,
        api: Literal["auto", "v1", "v2"] = "auto",
        map: Mapping[str, Any] | None = None,  # noqa: A002 - its name in metamon.yaml
        payloads: bool = True,
        name: str = "langsmith",
        own_project: str = "metamon",
        budget: Budget | None = None,
        patience_seconds: float = 600.0,
        backoff_seconds: float = 0.5,
        timeout_seconds: float = 60.0,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.name = name
        self.project = project
        self._own_project = own_project
        self._refuse_own(project)
        self._found_at = check_map(map)
        self._payloads = payloads
        self._clock = clock
        self._id: str | None = None
        self._api = LangSmithApi(
            api_key=api_key,
            api_url=api_url,
            workspace_id=workspace_id,
            dialect=api,
            budget=budget,
            patience_seconds=patience_seconds,
            backoff_seconds=backoff_seconds,
            timeout_seconds=timeout_seconds,
            clock=clock,
        )

    def read(self, kind: Kind, window: Window) -> Iterator[Batch]:
        """Runs by their root's start, roots first; feedback by when it was given, an hour of overlap included.

        Reading feedback of a current window (ended within three days) also yields feedback given in the fourteen
        days before it that was edited since: those rows lie outside the window, in the day they were given.
        LangSmith has no events or gauges. Raises SourceError when something cannot be read whole.
        """
        window = self._possible(window)
        if kind is Kind.RUNS:
            yield from self._read_runs(window)
        elif kind is Kind.FEEDBACK:
            yield from self._feedback(created=Window(window.start - LATE_FEEDBACK, window.end))
            if window.end > self._clock() - REREAD:
                yield from self.read_feedback_edits(window)

    def read_runs_by_id(self, run_ids: Sequence[str], since: datetime | None = None) -> Iterator[Batch]:
        """The present state of these runs, roots or children, and the children of roots that have ended (IN-6).

        ``since`` is a time before which none of them started; it spares LangSmith a search through all it keeps.
        Runs that LangSmith no longer has are absent from the answer.
        """
        span = Window(since or BEGINNING, self._clock() + timedelta(minutes=1))
        ended: list[str] = []
        for ids in _chunks(run_ids, RUNS_PER_QUESTION):
            for batch in self._runs(RunQuery(span, ids=tuple(ids), payloads=self._payloads)):
                ended += _ended_roots(batch)
                yield batch
        for ids in _chunks(ended, RUNS_PER_QUESTION):
            yield from self._runs(RunQuery(span, roots=False, of_roots=tuple(ids), payloads=self._payloads))

    def read_feedback_given(self, window: Window) -> Iterator[Batch]:
        """Feedback given in the window, and nothing else: what the live feed can afford to ask for often."""
        yield from self._feedback(created=window)

    def read_feedback_edits(self, window: Window) -> Iterator[Batch]:
        """Feedback edited in ``window`` or since, given before it but no more than fourteen days before its end.

        The current API is asked for runs with such feedback; the older one knows no time of modification, so the
        fourteen days are read by time of giving (fewer calls than run by run) and the unedited left out.
        """
        since, oldest = window.start - LATE_FEEDBACK, window.end - EDITED_FOR
        if oldest >= since:
            return
        if self._api.dialect == "v1":
            pages = self._api.feedback(self._project_id, created=Window(oldest, since))
            yield from (self._feedback_batch(page, edited_since=since) for page in pages)
            return
        edited = self._api.run_ids_with_edited_feedback(self._project_id, Window(oldest, window.end), since)
        for ids in _chunks(edited, RUNS_PER_FEEDBACK_QUESTION):
            pages = self._api.feedback(self._project_id, run_ids=ids)
            yield from (self._feedback_batch(page, edited_since=since) for page in pages)

    def count(self, window: Window) -> SourceCount:
        """LangSmith's own number of root runs and their cost; empty where the server offers no statistics."""
        project_id = self._project_id
        try:
            stats = self._api.stats(project_id, window)
        except NotOfferedError:
            return SourceCount()
        cost = stats.get("total_cost")
        return SourceCount(stats.get("run_count"), None if cost is None else str(money(cost)))

    def _read_runs(self, window: Window) -> Iterator[Batch]:
        any_root = False
        for batch in self._runs(RunQuery(window, roots=True, payloads=self._payloads)):
            any_root = True
            yield batch
        if any_root:
            yield from self._runs(RunQuery(window, roots=False, payloads=self._payloads))

    def _runs(self, query: RunQuery) -> Iterator[Batch]:
        for page in self._api.runs(self._project_id, query):
            if page.items:
                yield runs_batch(
                    columns_of(page.items),
                    len(page.items),
                    source=self.name,
                    project=self.project,
                    observed_time=page.observed_time,
                    location=page.location,
                    found_at=self._found_at,
                    payloads=self._payloads,
                )

    def _feedback(self, created: Window) -> Iterator[Batch]:
        for page in self._api.feedback(self._project_id, created=created):
            if page.items:
                yield self._feedback_batch(page)

    def _feedback_batch(self, page: Page, edited_since: datetime | None = None) -> Batch:
        import pyarrow.compute as pc

        batch = feedback_batch(page.items, source=self.name, project=self.project, observed_time=page.observed_time, location=page.location)
        if edited_since is None or not batch.rows.num_rows:
            return batch
        edited = (pc.field("modified_at") >= edited_since) & (pc.field("created_at") < edited_since)
        return replace(batch, rows=batch.rows.filter(edited))

    def _possible(self, window: Window) -> Window:
        """The part of the window that LangSmith can hold anything of: "everything" is a window too."""
        day = timedelta(days=1)
        start = max(window.start, min(BEGINNING, window.end - day))
        return Window(start, min(window.end, max(self._clock(), start) + day))

    @property
    def _project_id(self) -> str:
        if self._id is None:
            self._id, name = self._api.project_id(self.project)
            self._refuse_own(name)
        return self._id

    def _refuse_own(self, project: str) -> None:
        if project.strip().casefold() == self._own_project.strip().casefold():
            raise SourceError(
                f"LangSmith project {project!r} is where Metamon traces its own model calls, so it cannot be a source: they would "
                "be watched as if they were an agent's. Name the agent's project under sources, or set another own_project."
            )


def _ended_roots(batch: Batch) -> list[str]:
    import pyarrow.compute as pc

    return batch.rows.filter(pc.field("parent_run_id").is_null() & (pc.field("status") != "pending"))["run_id"].to_pylist()


def _chunks(items: Sequence[str], size: int) -> Iterator[list[str]]:
    distinct = list(dict.fromkeys(items))
    return (distinct[start : start + size] for start in range(0, len(distinct), size))
