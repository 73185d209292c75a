"""Errors as RFC 9457 says: one shape for whatever goes wrong, with the id of the request and nothing that is not for outsiders.

Here belongs turning exceptions into answers. What is unknown is logged with its traceback and answered with a
sentence that tells nothing of the inside: no text of an exception, no SQL.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import psycopg2
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from metamon_assets.traces.ingest import IngestError
from metamon_assets.web.pool import PoolBusyError

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
MOST_ERRORS = 20  # of one request that are listed


class InvalidField(BaseModel):
    """One thing in a request that has to be mended."""

    pointer: str
    """Where, as a JSON pointer; for parameters their name."""
    detail: str
    """What is wrong."""


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = "about:blank"
    """Kind of problem; about:blank says that the status tells it."""
    title: str
    """The status in words."""
    status: int
    """HTTP status code."""
    detail: str
    """What is wrong with this request and how to mend it."""
    request_id: str
    """Under which the server's log has it; also in the header X-Request-Id."""
    errors: list[InvalidField] | None = None
    """What has to be mended in the request."""


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route answers with, for the OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def problem(
    request_id: str, status: int, detail: str, headers: Mapping[str, str] | None = None, errors: Sequence[InvalidField] | None = None
) -> JSONResponse:
    """The answer that says so."""
    content = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, request_id=request_id, errors=list(errors) if errors else None
    )
    return JSONResponse(content.model_dump(exclude_none=True), status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def request_id(request: Request) -> str:
    """The id that the envelope gave the request."""
    return str(request.state.request_id)


def invalid(error: ValidationError | RequestValidationError) -> list[InvalidField]:
    """What pydantic found, as pointers into the request; without the values, which may be secrets or enormous."""
    return [
        InvalidField(pointer="/" + "/".join(_escaped(part) for part in found["loc"]), detail=str(found["msg"])[:200])
        for found in error.errors()[:MOST_ERRORS]
    ]


def add_handlers(app: FastAPI) -> None:
    """Make the application answer every exception with a problem."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(ValidationError, _validation)
    for kind in (*_DATABASE_ERRORS, PoolBusyError, IngestError):
        app.add_exception_handler(kind, _database)


def _escaped(part: object) -> str:
    return str(part)[:100].replace("~", "~0").replace("/", "~1")


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else _WORDS.get(error.status_code, error.detail)
    return problem(request_id(request), error.status_code, str(detail), error.headers)


def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError | RequestValidationError)
    return problem(request_id(request), 422, "The request does not fit; see errors for what has to be mended.", errors=invalid(error))


def _database(request: Request, error: Exception) -> Response:
    if isinstance(error, IngestError) and not isinstance(error.__cause__, _DATABASE_ERRORS):
        raise error  # a defect, which sending it again would not mend
    logger.warning("The database did not answer a request.", exc_info=error, extra={"request_id": request_id(request)})
    detail = "The database cannot be reached or is busy; nothing was changed. Try again in a moment."
    return problem(request_id(request), 503, detail, {"Retry-After": str(RETRY_SECONDS)})


_DATABASE_ERRORS = (psycopg2.OperationalError, psycopg2.InterfaceError)
_WORDS = {
    404: "There is nothing here: /openapi.json lists what there is.",
    405: "This address does not take that method: /openapi.json lists what it takes.",
}
