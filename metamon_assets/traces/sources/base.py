"""What a source is: the one shape that LangSmith, OTLP, exports and files share.

Here belong the types that cross the border between a source and ``traces.ingest``. A source turns its own
wire into the unified columns and says what it could not read; it never writes to the database, prices,
redacts or decides which version of a run wins: those happen once, for all sources, behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Protocol, runtime_checkable

import pyarrow as pa

from metamon_assets.days import midnight
from metamon_assets.errors import MetamonError


class Kind(StrEnum):
    """What a batch holds; also the name of the unified schema it follows."""

    RUNS = "runs"
    FEEDBACK = "feedback"
    EVENTS = "events"
    GAUGES = "gauges"


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open span of time in UTC: ``start <= t < end``. Runs belong to it by their root's start."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError(f"a window needs time zones: {self.start!r} to {self.end!r}")
        if self.end <= self.start:
            raise ValueError(f"a window must end after it starts: {self.start} to {self.end}")

    @classmethod
    def of_days(cls, first: date, last: date) -> Window:
        """The UTC days from ``first`` to ``last``, both whole."""
        return cls(midnight(first), midnight(last + timedelta(days=1)))


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that could not be read, on its way to quarantine.

    ``reason`` is a short stable code ("malformed_json"), ``detail`` says what and how to mend it, ``location``
    where it stood ("calls.jsonl:17"), ``raw`` what stood there, as text (invalid bytes replaced).
    """

    kind: Kind
    reason: str
    detail: str
    location: str
    raw: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of one kind in the unified columns (a subset of them is fine; absent ones are NULL)."""

    kind: Kind
    rows: pa.Table
    rejects: tuple[Reject, ...] = ()
    location: str = ""  # where the rows came from, for messages: a file, a page
    row_locations: tuple[str, ...] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SourceCount:
    """What the source itself says it holds for a window: for reconciliation (None: it does not tell)."""

    runs: int | None = None
    cost: str | None = None  # decimal text


class SourceError(MetamonError):
    """The source could not be read; the window stays as it was. The message says what, where, how to mend it.

    ``retry_after``: seconds for which the source asked to be left alone, if it did.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NamedSource(Protocol):
    """A place that traces come from, by whatever way."""

    @property
    def name(self) -> str:
        """The value of the column ``source``: langsmith, langsmith_export, otlp, files."""
        ...

    @property
    def project(self) -> str:
        """The value of the column ``project`` where rows do not tell their own."""
        ...


class Source(NamedSource, Protocol):
    """One configured place that can be asked for traces."""

    def read(self, kind: Kind, window: Window) -> Iterator[Batch]:
        """Yield batches of ``kind`` whose root started (feedback: created, others: happened) in ``window``.

        Raises SourceError when the window cannot be read whole; batches yielded before then are discarded.
        """
        ...

    def count(self, window: Window) -> SourceCount:
        """The source's own figures for the window; empty when it offers none."""
        ...


@dataclass(frozen=True, slots=True)
class Holding:
    """The days (UTC, both inclusive) that a part of a source covers, and whether it was read before as it is now."""

    first: date
    last: date
    unread: bool


@runtime_checkable
class TellsHoldings(Protocol):
    """A source that can say which days it has something for, as files can."""

    def holdings(self) -> Iterator[Holding]:
        """Each file's days. Raises SourceError for a path that is missing or cannot be read."""
        ...


@runtime_checkable
class FollowsRuns(Protocol):
    """A source that can be asked for single runs, to see whether they have ended."""

    @property
    def name(self) -> str: ...

    @property
    def project(self) -> str: ...

    def read_runs_by_id(self, run_ids: Sequence[str], since: datetime | None = None) -> Iterator[Batch]:
        """Yield the runs of these ids that the source still has, and the children of roots among them that have ended.

        None of them started before ``since``.
        """
        ...


@runtime_checkable
class TellsNewFeedback(Protocol):
    """A source that can be asked for new feedback alone, cheaply enough to do so often."""

    def read_feedback_given(self, window: Window) -> Iterator[Batch]:
        """Yield feedback given in the window; edits of older feedback are left to the daily reading."""
        ...


@runtime_checkable
class TellsChanges(Protocol):
    """A source that knows what of it has not been read yet as it is now, as files do."""

    def changed(self, since: datetime) -> set[Kind]:
        """Kinds of which something was written at or after ``since`` and not been read since. Raises SourceError."""
        ...

    def read_changes(self, kind: Kind, since: datetime) -> Iterator[Batch]:
        """Yield everything in those parts of the source, whenever it happened."""
        ...


@dataclass(frozen=True, slots=True)
class RunsById:
    """A source seen as the runs of some ids only."""

    source: FollowsRuns
    run_ids: Sequence[str]
    since: datetime | None = None

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def project(self) -> str:
        return self.source.project

    def read(self, kind: Kind, window: Window) -> Iterator[Batch]:
        """The runs, whatever the window: what they are now decides where they belong."""
        return self.source.read_runs_by_id(self.run_ids, self.since)

    def count(self, window: Window) -> SourceCount:
        """Nothing to reconcile with: the source counts windows."""
        return SourceCount()
