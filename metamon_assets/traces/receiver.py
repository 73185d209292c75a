"""What is sent here: requests are collected, written together, and answered when they are on disk (IN-12).

Here belongs the way from a request's body to the database: decoding, the queue with its bounds, the transaction that
many requests share, and what happens when it fails. HTTP is ``web.otlp``'s. One thread writes; while it commits, the
next requests gather, so that the more comes, the more of it shares a commit.

Decisions:

- A request is answered after a commit with ``synchronous_commit`` on. A commit that fails is tried again once (what it
  wrote is merged, so twice is as once), then its requests are told to come back.
- Whoever is told to come back is told so in a second or two: the exporters of OpenTelemetry's SDKs give up and drop
  their spans when they would have to wait beyond their time limit, which is ten seconds.
- A day that another reader is loading is waited for; but not by those who sent nothing of that day.
- Rows that the database refuses make the shared transaction fail. Its requests are then written in halves, until
  those that fail alone are known; their rows go to quarantine, so that no request costs another its rows.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import psycopg2
import psycopg2.errors

from metamon_assets.config import SourcePart
from metamon_assets.errors import MetamonError, first_line
from metamon_assets.traces import ledger
from metamon_assets.traces.configured import rules_for
from metamon_assets.traces.ingest import write_batches
from metamon_assets.traces.merge import ROOT_REACH
from metamon_assets.traces.sources import otlp, otlp_protobuf
from metamon_assets.traces.sources.base import Kind, Reject, SourceError
from metamon_assets.traces.sources.otlp import AttributeNames, Collected
from metamon_assets.warehouse import merge
from metamon_assets.warehouse.connection import connect, first_complaint

if TYPE_CHECKING:
    from metamon_assets.config import Settings
    from metamon_assets.traces.ledger import LedgerEntry
    from metamon_assets.traces.normalise import Rules
    from metamon_assets.warehouse.connection import Connection

logger = logging.getLogger(__name__)

PROTOBUF, JSON = "application/x-protobuf", "application/json"
DEFAULT_PROJECT = "default"
ROWS_PER_COMMIT = 20_000
MOST_WAITING = 10_000  # requests
ENTRY_SECONDS = 60
CONNECTION_SECONDS = 300.0  # after which it is made again: the server's process for it grows, by half in 20 minutes at 50 runs/s
RETRY_SECONDS = 1  # when there is too much waiting
LONGEST_BACK_OFF = 2.0  # seconds
LOCK_TIMEOUT = "8s"  # a day that is being loaded by somebody else: better told in time than waited for
_SAID = 3  # reasons in an answer


class UndecodableError(MetamonError):
    """The body is not a request of its kind; sending it again will not help."""


class UnavailableError(MetamonError):
    """Nothing of the request was kept; it should be sent again after ``retry_after`` seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a request that is on disk: how many of its spans or points were rejected, and why."""

    rejected: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a receiver is: what waits now, and what came since it was made."""

    waiting_requests: int
    waiting_bytes: int
    requests: int
    rows: int
    rejected: int
    commits: int


class _Named(NamedTuple):
    """Received rows as coming from a source."""

    name: str = otlp.SOURCE
    project: str = DEFAULT_PROJECT


@dataclass(slots=True, eq=False)
class _Request:
    """A request that waits to be written. Its number begins the place of each of its rows."""

    number: int
    size: int
    collected: Collected
    answer: Future[Accepted]

    @property
    def rows(self) -> int:
        return len(self.collected.rows) + len(self.collected.rejects)

    @property
    def days(self) -> set[date]:
        """The days that its rows are put into, as far as they tell, and those that their roots may be in."""
        column = "start_time" if self.collected.kind is Kind.RUNS else "time"
        placed = [(moment, row.get("parent_run_id")) for row in self.collected.rows if isinstance(moment := row.get(column), datetime)]
        return {moment.date() for moment, _ in placed} | {(moment - ROOT_REACH).date() for moment, parent in placed if parent}


class Receiver:
    """Takes requests from any thread and writes them from one of its own, which it starts at once.

    ``most_waiting_bytes`` bounds the bodies that wait (default: twice the largest that is accepted). Raises
    SourceError when ``settings.map`` names unknown columns.
    """

    def __init__(self, database_url: str, settings: Settings, *, most_waiting_bytes: int | None = None) -> None:
        self._url = database_url
        self._settings = settings
        self._names = AttributeNames.with_own(settings.map)
        self._most_waiting_bytes = most_waiting_bytes or 2 * settings.web.max_request_bytes
        self._numbers = count(1)
        self._changed = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._waiting_requests = self._waiting_bytes = 0  # those that are being read or written count too
        self._totals: Counter[str] = Counter()
        self._closed = False
        self._retry_at, self._failures = 0.0, 0
        self._connection: Connection | None = None
        self._connection_until = 0.0
        self._rules: Rules | None = None
        self._rules_until = 0.0
        self._entries: dict[Kind, tuple[float, LedgerEntry]] = {}
        self._thread = threading.Thread(target=self._write_for_ever, name="receiver", daemon=True)
        self._thread.start()

    @property
    def max_request_bytes(self) -> int:
        """The largest request that is accepted, unpacked."""
        return self._settings.web.max_request_bytes

    # --- taking ---------------------------------------------------------------------------------------------

    def submit(self, kind: Kind, body: bytes, content_type: str, project: str | None = None) -> Future[Accepted]:
        """Take an unpacked OTLP request of runs or gauges; the future holds the outcome once it is on disk.

        ``project`` is for what comes without a service name. Raises UndecodableError for what is no such request, and
        UnavailableError when there is no room or no database; the future raises UnavailableError likewise.
        """
        self._make_room(len(body))
        try:
            request = self._read(kind, body, content_type, project or DEFAULT_PROJECT)
        except BaseException:
            self._leave(1, len(body))
            raise
        if not request.rows:
            request.answer.set_result(Accepted())
            self._leave(1, len(body))
            return request.answer
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()
        return request.answer

    def close(self, timeout: float = 30.0) -> None:
        """Write what waits and end; what cannot be written within ``timeout`` seconds is told to come back."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)
        self._turn_away("the server is stopping")

    def load(self) -> Load:
        """How busy it is."""
        with self._changed:
            totals = {name: self._totals[name] for name in ("requests", "rows", "rejected", "commits")}
            return Load(self._waiting_requests, self._waiting_bytes, **totals)

    def _make_room(self, size: int) -> None:
        """Count a request in. Raises UnavailableError when it has to come back later."""
        with self._changed:
            if self._closed:
                raise UnavailableError("the server is stopping", RETRY_SECONDS)
            wait = self._retry_at - time.monotonic()
            if wait > 0:
                raise UnavailableError("the database cannot be reached", math.ceil(wait))
            # One request is always taken, however large.
            full = self._waiting_bytes and self._waiting_bytes + size > self._most_waiting_bytes
            if full or self._waiting_requests >= MOST_WAITING:
                raise UnavailableError("more is sent than can be written", RETRY_SECONDS)
            self._waiting_requests += 1
            self._waiting_bytes += size

    def _leave(self, requests: int, size: int) -> None:
        with self._changed:
            self._waiting_requests -= requests
            self._waiting_bytes -= size

    def _read(self, kind: Kind, body: bytes, content_type: str, project: str) -> _Request:
        number = next(self._numbers)
        document, place = _decoded(kind, body, content_type), f"request {number}"
        if kind is Kind.RUNS:
            collected = otlp.collect_traces(document, project=project, location=place, names=self._names)
        else:
            collected = otlp.collect_metrics(document, project=project, location=place)
        answer: Future[Accepted] = Future()
        answer.set_running_or_notify_cancel()  # a client that goes away does not undo what it sent
        return _Request(number, len(body), collected, answer)

    # --- writing --------------------------------------------------------------------------------------------

    def _write_for_ever(self) -> None:
        while requests := self._next_requests():
            for kind in (Kind.RUNS, Kind.GAUGES):
                if of_kind := [request for request in requests if request.collected.kind is kind]:
                    self._write_whatever_happens(of_kind)
            self._leave(len(requests), sum(request.size for request in requests))
        if self._connection is not None:
            self._connection.close()

    def _next_requests(self) -> list[_Request]:
        """What waits, as far as it fits a commit; nothing when the receiver is closed and empty."""
        requests: list[_Request] = []
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            rows = 0
            while self._waiting and (not requests or rows + self._waiting[0].rows <= ROWS_PER_COMMIT):
                requests.append(self._waiting.popleft())
                rows += requests[-1].rows
        return requests

    def _write_whatever_happens(self, requests: Sequence[_Request]) -> None:
        """A defect of ours costs these requests their answer, and not everybody theirs for ever."""
        try:
            if others := self._without_busy_days(requests):
                self._write(others)
        except Exception as error:
            logger.exception("what was sent cannot be answered. Please report this as a defect.")
            for request in requests:
                if not request.answer.done():
                    request.answer.set_exception(error)

    def _without_busy_days(self, requests: Sequence[_Request]) -> Sequence[_Request]:
        """The requests that need not wait for a day that somebody else is loading; those that need to are told to come back.

        Where all of them need to they may wait: it keeps nobody else from being written.
        """
        days = {day for request in requests for day in request.days}
        if len(days) < 2:
            return requests
        try:
            busy = self._busy(days)
        except (psycopg2.Error, UnavailableError):  # the write meets it too, and tries again
            self._disconnect()
            return requests
        others = [request for request in requests if busy.isdisjoint(request.days)]
        if not others:
            return requests
        self._come_back([request for request in requests if not busy.isdisjoint(request.days)])
        return others

    def _busy(self, days: Iterable[date]) -> set[date]:
        """The days among these that another writer has now."""
        connection, _ = self._connected()
        with connection, connection.cursor() as cursor:
            return {day for day in days if not merge.try_lock_day(cursor, otlp.SOURCE, day)}

    def _come_back(self, requests: Sequence[_Request]) -> None:
        for request in requests:
            request.answer.set_exception(UnavailableError("a day of what was sent is being loaded by another reader", RETRY_SECONDS))

    def _write(self, requests: Sequence[_Request]) -> None:
        """Write requests of one kind and answer them."""
        try:
            rejects = self._commit_twice(requests)
        except psycopg2.errors.LockNotAvailable:
            self._come_back(requests)
        except UnavailableError as error:
            for request in requests:
                request.answer.set_exception(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the thread or cost another request
            if _database_is_away(error):
                self._database_failed(requests, error)
            elif len(requests) > 1:
                self._write(requests[: len(requests) // 2])
                self._write(requests[len(requests) // 2 :])
            else:
                self._refuse(requests[0], error)
        else:
            self._answer(requests, rejects)

    def _commit_twice(self, requests: Sequence[_Request]) -> list[Reject]:
        try:
            return self._commit(requests)
        except psycopg2.errors.LockNotAvailable:
            raise  # it has waited long enough
        except psycopg2.Error as error:
            if not _database_is_away(error):
                raise
            logger.warning("writing what was sent failed, trying again: %s", _reason(error))
            self._disconnect()  # a connection that the server closed in the meantime says so only now
            return self._commit(requests)

    def _commit(self, requests: Sequence[_Request]) -> list[Reject]:
        """One transaction for all; gives what was rejected."""
        kind, now = requests[0].collected.kind, datetime.now(UTC)
        connection, rules = self._connected()
        batch = otlp.batch_of([request.collected for request in requests], otlp.SOURCE, now)
        try:
            until, booked = self._entries.get(kind, (0.0, None))
            if booked is None or until < time.monotonic():
                until, booked = time.monotonic() + ENTRY_SECONDS, ledger.receiving_entry(connection, otlp.SOURCE, DEFAULT_PROJECT, kind)
                self._entries[kind] = (until, booked)
            with connection, connection.cursor() as cursor:
                entry = booked.part()
                write_batches(cursor, _Named(), entry, [batch], replace(rules, now=now), touch=True)
                rejects = entry.rejects or []
                entry.add(booked)
                entry.status = "complete"
                ledger.write_entry(cursor, entry)
        except psycopg2.Error:
            self._disconnect()  # with its temporary tables, which may be of an older shape
            raise
        self._entries[kind] = (until, replace(entry, rejects=None))
        self._totals["commits"] += 1
        return rejects

    def _connected(self) -> tuple[Connection, Rules]:
        """The connection, made again where it was lost or is old, and the rules, read again each minute."""
        if self._connection is not None and self._connection_until < time.monotonic():
            self._disconnect()
        if self._connection is None:
            self._connection = connect(self._url, "metamon receiver")
            self._connection_until = time.monotonic() + CONNECTION_SECONDS
            with self._connection, self._connection.cursor() as cursor:
                cursor.execute("SET synchronous_commit TO on")
                cursor.execute("SET lock_timeout TO %s", (LOCK_TIMEOUT,))
        if self._rules is None or self._rules_until < time.monotonic():
            self._rules = self._read_rules(self._connection)
            self._rules_until = time.monotonic() + ENTRY_SECONDS
        return self._connection, self._rules

    def _read_rules(self, connection: Connection) -> Rules:
        """The rules of now; those of before where a price is wrong, which is no fault of what is sent. Raises UnavailableError."""
        try:
            return rules_for(connection, self._settings, SourcePart(project=DEFAULT_PROJECT, name=otlp.SOURCE))
        except (ValueError, MetamonError) as error:
            logger.error("the rules for what is sent cannot be read, those of before hold: %s", error)  # noqa: TRY400 - told in full
            if self._rules is None:
                raise UnavailableError(f"the rules for what is sent cannot be read ({error})", RETRY_SECONDS) from error
            return self._rules

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    # --- answering ------------------------------------------------------------------------------------------

    def _answer(self, requests: Sequence[_Request], rejects: Sequence[Reject]) -> None:
        self._failures = 0
        places: dict[int, dict[str, str]] = {}  # of each request, where something was rejected and why
        for reject in rejects:
            number = _number_of(reject, requests)
            places.setdefault(number, {})[_inside(reject.location)] = f"{reject.reason}: {reject.detail}"
        for request in requests:
            found = places.get(request.number, {})
            self._totals.update(requests=1, rows=request.rows, rejected=len(found))
            request.answer.set_result(Accepted(len(found), _summary(found)))

    def _database_failed(self, requests: Sequence[_Request], error: Exception) -> None:
        """Tell everybody to come back, and leave the database alone for a moment."""
        self._disconnect()
        self._failures += 1
        back_off = min(2.0 ** (self._failures - 3), LONGEST_BACK_OFF)
        logger.error("what was sent cannot be written, asking for it again: %s", _reason(error))
        with self._changed:
            self._retry_at = time.monotonic() + back_off
        for request in requests:
            request.answer.set_exception(UnavailableError("the database cannot be reached", math.ceil(back_off)))
        if not self._closed:
            self._turn_away("the database cannot be reached")

    def _turn_away(self, why: str) -> None:
        with self._changed:
            turned_away = list(self._waiting)
            self._waiting.clear()
        for request in turned_away:
            request.answer.set_exception(UnavailableError(why, RETRY_SECONDS))
        self._leave(len(turned_away), sum(request.size for request in turned_away))

    def _refuse(self, request: _Request, error: Exception) -> None:
        """Keep the rows of a request that cannot be written in quarantine."""
        logger.error("a request cannot be written, its rows go to quarantine", exc_info=error)
        collected = request.collected
        detail = f"the database refused a row of this request ({_reason(error)}). Please report this as a defect."
        refused = Collected(collected.kind, collected.location, rejects=list(collected.rejects))
        for place, wire in collected.places:
            refused.reject("refused_by_database", detail, place, wire)
        try:
            rejects = self._commit([replace(request, collected=refused)])
        except Exception as again:
            if _database_is_away(again):
                self._database_failed([request], again)
                return
            logger.exception("a request cannot be kept in quarantine either")
            self._disconnect()
            request.answer.set_exception(again)
        else:
            self._answer([request], rejects)


def _database_is_away(error: BaseException) -> bool:
    """Whether it failed for no fault of the rows. A value too long for an index is one of theirs, whatever class Postgres puts it in."""
    return isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError) and not isinstance(
        error, psycopg2.errors.ProgramLimitExceeded
    )


def _decoded(kind: Kind, body: bytes, content_type: str) -> dict[str, Any]:
    """The request in the shape of OTLP/JSON. Raises UndecodableError."""
    if content_type == PROTOBUF:
        try:
            return otlp_protobuf.traces_document(body) if kind is Kind.RUNS else otlp_protobuf.metrics_document(body)
        except SourceError as error:
            raise UndecodableError(str(error)) from None
    try:
        document = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise UndecodableError(f"the body is not JSON: {error}") from None
    name = "resourceSpans" if kind is Kind.RUNS else "resourceMetrics"
    if not isinstance(document, dict) or (document and name not in document and otlp.snake_case(name) not in document):
        raise UndecodableError(f"the body is no OTLP request of this kind: it needs {name} at the top")
    if otlp.number_of_rows(document, kind) > otlp_protobuf.MOST_ROWS:
        raise UndecodableError(str(otlp_protobuf.too_many("spans or metrics", otlp_protobuf.MOST_ROWS)))
    return document


def _number_of(reject: Reject, requests: Sequence[_Request]) -> int:
    """Which request a reject is of. One that contradicts another of the same id is known by its id only, which senders choose."""
    if reject.reason != "conflicting_duplicate":
        word, _, rest = reject.location.partition(" ")
        if word == "request":
            return int(rest.partition(" ")[0])
    return next((request.number for request in requests if any(row.get("run_id") == reject.run_id for row in request.collected.rows)), 0)


def _inside(location: str) -> str:
    """A place as seen from inside the request."""
    return location.split(" ", 2)[-1] if location.startswith("request ") else location


def _summary(found: dict[str, str]) -> str:
    if not found:
        return ""
    said = [f"{place}: {why}" for place, why in list(found.items())[:_SAID]]
    more = [f"and {len(found) - _SAID} more"] if len(found) > _SAID else []
    return "; ".join(said + more) + ". They are kept in quarantine.rejected_rows."


def _reason(error: BaseException) -> str:
    return first_line(first_complaint(error))
