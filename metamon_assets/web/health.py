"""Signs of life: is the process there, can it do its work, and what is measured."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel

from metamon_assets.warehouse.migrations import MigrationError, unapplied
from metamon_assets.web.auth import require
from metamon_assets.web.problems import documented
from metamon_assets.web.tokens import Role, Token

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection

FEED = "feed"
FEED_SILENT_SECONDS = 180.0  # a feed that has not been heard of for longer is most likely down
STARTED = time.monotonic()
router = APIRouter(tags=["health"])
PUBLIC: dict[str, Any] = {"security": []}


class Alive(BaseModel):
    """The process is there."""

    status: Literal["ok"] = "ok"
    version: str
    uptime_seconds: float


class Readiness(BaseModel):
    """Whether everything that this server itself needs is there. Sending traffic elsewhere would not bring back a silent feed."""

    status: Literal["ready", "not ready"]
    reasons: list[str]
    """What is missing, and how to mend it."""
    feed_age_seconds: float | None = None
    """Seconds since the live feed was last heard of (in /metrics: metamon_heartbeat_age_seconds); null when it never was."""


@router.get("/healthz", summary="Whether the process is alive; asks nobody else", openapi_extra=PUBLIC)
async def healthz() -> Alive:
    """Answers as long as the process does. For the supervisor and for liveness probes."""
    return Alive(version=version("metamon"), uptime_seconds=round(time.monotonic() - STARTED, 1))


@router.get(
    "/readyz",
    summary="Whether the database answers and has the tables of this version",
    openapi_extra=PUBLIC,
    responses={503: {"model": Readiness, "description": "Something is missing; the reasons say what"}},
)
def readyz(request: Request) -> Response:
    """Ready: the database answers and has the tables of this version. How long the live feed has been silent is told beside it."""
    found = readiness(request)
    return JSONResponse(found.model_dump(), 200 if found.status == "ready" else 503)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus, in its text format",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {}}, "description": "The metrics of docs/metrics.md"}, **documented(401, 403, 429)},
)
def metrics(request: Request, _: Annotated[Token, Depends(require(Role.VIEWER))]) -> Response:
    """What docs/metrics.md lists. Let Prometheus send a viewer's token (`authorization: {credentials_file: …}`)."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return Response(generate_latest(request.app.state.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def readiness(request: Request) -> Readiness:
    """What ``/readyz`` and the front page tell."""
    import psycopg2

    from metamon_assets.web.pool import PoolBusyError

    try:
        with request.app.state.pool.connection() as connection:
            lacking = unapplied(connection, *request.app.state.schema)
            if lacking:
                return _not_ready(f"the database lacks {', '.join(lacking)}: run `metamon migrate`")
            age = _age_of(connection, FEED)
    except (MigrationError, PoolBusyError) as error:  # both say what to do
        return _not_ready(str(error))
    except psycopg2.Error:
        return _not_ready("the database cannot be reached: `metamon doctor` says why")
    return Readiness(status="ready", reasons=[], feed_age_seconds=age)


def _not_ready(reason: str) -> Readiness:
    return Readiness(status="not ready", reasons=[reason])


def _age_of(connection: Connection, component: str) -> float | None:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT beat_at FROM metamon.heartbeats WHERE component = %s", (component,))
        found = cursor.fetchone()
    return None if found is None else max(0.0, round((datetime.now(UTC) - found[0]).total_seconds(), 1))
