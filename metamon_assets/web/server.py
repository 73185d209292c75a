"""The process: one uvicorn worker that listens where the configuration says, and stops within seconds."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from metamon_assets import log
from metamon_assets.errors import MetamonError
from metamon_assets.warehouse import server as warehouse

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from metamon_assets.config import Settings

logger = logging.getLogger(__name__)
STOP_SECONDS = 5  # for requests under way
IDLE_SECONDS = 15  # for a connection without a request
MOST_CONNECTIONS = 500
BACKLOG = 256  # connections that wait to be accepted
SAME_TEXT_SECONDS = 60  # between two lines of uvicorn that say the same
LONGEST_HEAD = 32 * 1024  # bytes of a request's line and headers


class WebError(MetamonError):
    """The web server cannot listen; the message says where and what to do."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Starts the embedded database if need be. Raises WebError and what ``server.ready`` raises."""
    log.configure("web")
    with _exit_on_signals(), warehouse.ready(settings, logger.info) as url:
        from metamon_assets.web.app import create_app

        app = create_app(settings, url)
        _say_who_may_enter(app)
        run(app, settings.web.host, settings.web.port)


def run(app: FastAPI, host: str, port: int) -> None:
    """Serve the application. Raises WebError when the address cannot be had."""
    server = configured(app)
    with listen(host, port) as listening:
        host, port = listening.getsockname()[:2]
        logger.info("Listening on %s", address(host, port), extra={"host": host, "port": port})
        server.run(sockets=[listening])


def configured(app: FastAPI) -> uvicorn.Server:
    """The server with its limits; it gets its socket when it runs."""
    import uvicorn

    from metamon_assets.web.connections import BoundedProtocol

    logging.getLogger("uvicorn.error").addFilter(_seldom)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,  # h11, which bounds the head of a request
            h11_max_incomplete_event_size=LONGEST_HEAD,
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # anybody can send those
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )


def _seldom(entry: logging.LogRecord, last: dict[str, float] = {}) -> bool:  # noqa: B006 - what it remembers
    """Lets each text through once a minute: what strangers cause as often as they like must not push all else out of the log."""
    if entry.levelno <= logging.WARNING and entry.created - last.get(entry.msg, 0.0) < SAME_TEXT_SECONDS:
        return False
    last[entry.msg] = entry.created
    return True


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0: any free one. Raises WebError."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(place[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise WebError(
            f"Nothing can listen on {host} port {port} ({error.strerror or error}): choose another port with --port or web.port."
        ) from error


def address(host: str, port: int) -> str:
    """As people write it."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _say_who_may_enter(app: FastAPI) -> None:
    """Warn where the server can be reached from elsewhere, or where nobody could use it."""
    host = app.state.settings.web.host
    if not _loopback(host):
        logger.warning("%s can be reached from other machines, without encryption: put a proxy with TLS before it.", host)
    if not app.state.access.verifier.any_valid():
        logger.warning("There is no token yet, so nobody can read or send anything: metamon token create NAME --role ingest")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _exit_on_signals() -> Iterator[None]:
    """End by SystemExit, so that what was opened is closed; uvicorn sends its signals on when it has stopped."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(0)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
