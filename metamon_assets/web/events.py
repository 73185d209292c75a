"""``/v1/events``: deployments and other changes, told and read (IN-13)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import orjson
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, StringConstraints, TypeAdapter, ValidationError

from metamon_assets.config.sources import SourcePart
from metamon_assets.traces.configured import rules_for
from metamon_assets.traces.events import REPORTED, Event, report
from metamon_assets.web.auth import require
from metamon_assets.web.envelope import read_body
from metamon_assets.web.problems import documented, problem, request_id
from metamon_assets.web.tokens import Role, Token

if TYPE_CHECKING:
    from metamon_assets.traces.ledger import LedgerEntry

MOST_EVENTS = 1_000  # of one request
MOST_BYTES = 2**20  # of one request: JSON is read in one go, while everybody else waits
MOST_METADATA = 16 * 1024  # bytes of an event's metadata as JSON, since a page has up to a thousand events
AHEAD = timedelta(minutes=10)  # clocks differ by minutes; an event of tomorrow is a mistake
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
PAGE = 100
LONGEST_PAGE = 1_000
EventKind: TypeAlias = Literal["deployment", "version", "model", "prompt", "configuration", "incident", "other"]
LONGEST_ID = 500  # characters
WEBHOOK_IDS = ("github:", "gitlab:")  # what these begin is signed: a token for sending data must not write over it
# Control characters have no meaning in any of these, and NUL cannot be stored.
Text: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
Url: TypeAlias = Annotated[str, StringConstraints(max_length=2_000, pattern=r"^https?://[^\x00-\x20\x7f]+$")]


def _plausible(time: datetime) -> datetime:
    if not EARLIEST <= time <= datetime.now(UTC) + AHEAD:
        raise ValueError(f"the time lies before {EARLIEST:%Y} or in the future")
    return time.astimezone(UTC)


def _small(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(metadata)) > MOST_METADATA:
        raise ValueError(f"metadata has more than {MOST_METADATA:,} bytes as JSON: keep what explains the event, and link to the rest")
    return metadata


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time lies outside the years 1 to 9999") from None


Time: TypeAlias = Annotated[AwareDatetime, AfterValidator(_plausible)]
Moment: TypeAlias = Annotated[AwareDatetime, AfterValidator(_in_utc)]  # zones that Postgres does not take (+23:59) among them
router = APIRouter(prefix="/v1/events", tags=["events"])


class NewEvent(BaseModel):
    """A change that charts and change points refer to."""

    model_config = ConfigDict(extra="forbid")

    kind: EventKind
    """What changed."""
    agent: Text | None = None
    """Agent it concerns; none: all."""
    version: Text | None = None
    """What the agent, model or prompt changed to."""
    commit: Text | None = None
    """Commit that was deployed."""
    url: Url | None = None
    """Page that tells more."""
    actor: Text | None = None
    """Who did it."""
    time: Time | None = None
    """When it happened, with its time zone; none: now."""
    id: Text | None = None
    """What stays the same when the event is sent again; none: its content is its identity."""
    project: Text = "default"
    """Project it belongs to."""
    metadata: Annotated[dict[str, JsonValue], Field(max_length=50), AfterValidator(_small)] = {}
    """Anything else."""

    def event(self) -> Event:
        """As it is stored."""
        return Event(
            kind=self.kind,
            event_id=self.id,
            project=self.project,
            agent_name=self.agent,
            version=self.version,
            commit_sha=self.commit,
            url=self.url,
            actor=self.actor,
            time=self.time,
            metadata=self.metadata,
        )


class Accepted(BaseModel):
    """What became of the events."""

    new: int
    changed: int
    unchanged: int
    refused: int
    """Those of agents and projects that metamon.yaml excludes."""

    @classmethod
    def of(cls, entry: LedgerEntry) -> Accepted:
        """As the ledger has it."""
        refused = entry.rows_excluded + entry.rows_rejected
        return cls(new=entry.rows_inserted, changed=entry.rows_updated, unchanged=entry.rows_unchanged, refused=refused)


class StoredEvent(BaseModel):
    """An event as it is known."""

    id: str
    source: str
    project: str
    kind: EventKind
    agent: str | None
    version: str | None
    commit: str | None
    url: str | None
    actor: str | None
    time: datetime
    inferred: bool
    """True when nobody reported it and the traces gave it away."""
    metadata: dict[str, JsonValue] | None


class EventPage(BaseModel):
    """Events, the newest first."""

    items: list[StoredEvent]
    next_cursor: str | None
    """Give it as `cursor` for the next page; null: this was the last."""


_EVENTS: TypeAdapter[list[NewEvent]] = TypeAdapter(Annotated[list[NewEvent], Field(min_length=1, max_length=MOST_EVENTS)])
_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "oneOf": [
                    {"$ref": "#/components/schemas/NewEvent"},
                    {"type": "array", "items": {"$ref": "#/components/schemas/NewEvent"}, "minItems": 1, "maxItems": MOST_EVENTS},
                ]
            }
        }
    },
}


@router.post(
    "",
    summary="Report deployments and other changes, one or a list",
    openapi_extra={"requestBody": _BODY},
    responses=documented(400, 401, 403, 408, 413, 422, 429, 503),
)
async def post_events(request: Request, _: Annotated[Token, Depends(require(Role.INGEST))]) -> Accepted:
    """Sending an event again changes nothing: it is known by its id, else by its content and time (none: within an hour)."""
    given = parse_json(await read_body(request, MOST_BYTES))  # after the token was looked at, unlike a declared body
    events = _EVENTS.validate_python(given if isinstance(given, list) else [given])
    if any(event.id is not None and event.id.startswith(WEBHOOK_IDS) for event in events):
        raise HTTPException(422, f"Ids that begin with {' or '.join(WEBHOOK_IDS)} are the webhook's: choose another.")
    entry = await run_in_threadpool(store, request, [event.event() for event in events])
    return Accepted.of(entry)


@router.get("", summary="List events, the newest first", responses=documented(401, 403, 422, 429, 503), response_model=EventPage)
def get_events(
    request: Request,
    _: Annotated[Token, Depends(require(Role.VIEWER))],
    start: Annotated[Moment | None, Query(alias="from", description="First time, inclusive.")] = None,
    end: Annotated[Moment | None, Query(alias="to", description="Last time, exclusive.")] = None,
    agent: Annotated[Text | None, Query(description="Events of this agent, and those that concern all.")] = None,
    cursor: Annotated[str | None, Query(max_length=4_000, description="next_cursor of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=LONGEST_PAGE, description="Events on a page.")] = PAGE,
) -> EventPage | Response:
    """Reported events and those that the traces gave away; a page at a time, stable while new events arrive."""
    try:
        after = None if cursor is None else read_cursor(cursor)
    except ValueError:
        return problem(request_id(request), 422, "The cursor is not one of ours: take next_cursor from the page before as it is.")
    query = (
        "SELECT event_id, source, project, kind, agent_name, version, commit_sha, url, actor, time, inferred, metadata FROM metamon.events"
        " WHERE (%(start)s::timestamptz IS NULL OR time >= %(start)s) AND (%(end)s::timestamptz IS NULL OR time < %(end)s)"
        " AND (%(agent)s::text IS NULL OR agent_name IS NULL OR agent_name = %(agent)s)"
        " AND (%(time)s::timestamptz IS NULL OR (time, event_id, project, source) < (%(time)s, %(id)s, %(project)s, %(source)s))"
        " ORDER BY time DESC, event_id DESC, project DESC, source DESC LIMIT %(most)s"
    )
    position = dict(zip(("time", "id", "project", "source"), after or (None,) * 4, strict=True))
    with request.app.state.pool.connection() as connection, connection, connection.cursor() as database:
        database.execute(query, {"start": start, "end": end, "agent": agent, "most": limit + 1, **position})
        rows = database.fetchall()
    items = [StoredEvent(**dict(zip(StoredEvent.model_fields, row, strict=True))) for row in rows[:limit]]
    more = len(rows) > limit
    return EventPage(items=items, next_cursor=write_cursor(items[-1]) if more else None)


def parse_json(body: bytes) -> Any:
    """The JSON of a body. Raises HTTPException where it is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f"The body is not JSON (line {error.lineno}, column {error.colno}).") from None


def store(request: Request, events: Sequence[Event]) -> LedgerEntry:
    """Keep events. Raises what ``report`` raises."""
    with request.app.state.pool.connection() as connection:
        rules = rules_for(connection, request.app.state.settings, SourcePart(project="default", name=REPORTED))
        return report(connection, events, rules)


def write_cursor(event: StoredEvent) -> str:
    """Where a page ended."""
    place = [event.time.isoformat(), event.id, event.project, event.source]
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def read_cursor(text: str) -> tuple[datetime, str, str, str]:
    """What ``write_cursor`` wrote. Raises ValueError for anything else."""
    try:
        place = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64 of JSON") from error
    try:
        found = _PLACE.validate_python(place)
    except ValidationError as error:
        raise ValueError("not a place") from error
    if any("\x00" in part for part in found[1:]):
        raise ValueError("not a place")
    return found


_PLACE: TypeAdapter[tuple[datetime, str, str, str]] = TypeAdapter(tuple[Moment, str, str, str])
