"""The application: which routes there are and what they share.

Here belongs putting it together. A later part of the API adds its router in ``create_app`` and nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import psycopg2
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from metamon_assets.errors import MetamonError
from metamon_assets.health.state import beat
from metamon_assets.metrics.exposition import Exposition
from metamon_assets.traces.receiver import Receiver
from metamon_assets.warehouse.migrations import migration_files, sql_folder, view_files
from metamon_assets.web import events, health, otlp, page, webhook
from metamon_assets.web.auth import Access, require
from metamon_assets.web.envelope import Envelope, RequestMetrics
from metamon_assets.web.pool import Pool
from metamon_assets.web.problems import Problem, add_handlers
from metamon_assets.web.tokens import Verifier

if TYPE_CHECKING:
    from metamon_assets.config import Settings

logger = logging.getLogger(__name__)
BEAT_SECONDS = 30.0
STOP_SECONDS = 5.0  # for what is being written
DESCRIPTION = """Metamon's web server. Send a token as `Authorization: Bearer mm_…`; `metamon token create NAME --role ROLE` makes one.
Errors are RFC 9457 problems. Lists are paged by cursor."""

_OTLP_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "No token, or a wrong one."},
    403: {"description": "The token's role may not send data."},
    429: {"description": "Too many requests; try again after Retry-After seconds."},
}


def create_app(settings: Settings, database_url: str) -> FastAPI:
    """The application over the database at ``database_url`` (role metamon_writer), which need not be there yet."""
    pool = Pool(database_url)
    registry = CollectorRegistry()
    exposition = Exposition(pool.connection)
    receiver = Receiver(database_url, settings)
    app = FastAPI(
        title="Metamon",
        version=version("metamon"),
        description=DESCRIPTION,
        docs_url=None,  # the usual pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirection would lead to whatever host the request names, and from https to http
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.pool = pool
    app.state.access = Access(Verifier(pool))
    app.state.registry = registry
    app.state.exposition = exposition
    app.state.receiver = receiver
    app.state.schema = (migration_files(sql_folder()), view_files(sql_folder()))  # as this code needs it, whatever the files say later
    disable_created_metrics()
    ProcessCollector(registry=registry)
    registry.register(exposition)
    app.add_middleware(Envelope, max_bytes=settings.web.max_request_bytes, metrics=RequestMetrics(registry))
    add_handlers(app)
    for router in (page.router, health.router, events.router, webhook.router):
        app.include_router(router)
    app.include_router(otlp.router(receiver, require), responses=_OTLP_REFUSALS)
    _complete_openapi(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Beats while the server runs."""
    stopped = threading.Event()
    beating = threading.Thread(target=_beat, args=(app, stopped), name="beat", daemon=True)
    beating.start()
    try:
        yield
    finally:
        stopped.set()
        await run_in_threadpool(app.state.receiver.close, STOP_SECONDS)
        await run_in_threadpool(beating.join, STOP_SECONDS)
        app.state.pool.close()


def _beat(app: FastAPI, stopped: threading.Event) -> None:
    """Say that the server lives, note which tokens were used, and let the counters grow; until ``stopped``."""
    while True:
        try:
            with app.state.pool.connection() as connection:
                beat(connection, "web", {"version": app.version, "port": app.state.settings.web.port})
            app.state.access.verifier.note_uses()
            app.state.exposition.collect()
        except (psycopg2.Error, MetamonError) as error:
            logger.warning("No beat: the database does not answer (%s).", type(error).__name__)
        if stopped.wait(BEAT_SECONDS):
            return


def _complete_openapi(app: FastAPI) -> None:
    """Add the schemas that routes refer to by name, and say that errors of validation are problems too."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (Problem, events.NewEvent):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            schemas[model.__name__] = schema
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
