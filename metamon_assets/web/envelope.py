"""What is done to every request and answer, whatever the route: an id, limits, security headers, measurements.

Here belongs the one piece of middleware. It is plain ASGI, so that bodies are counted as they arrive, in chunks or
not, and nothing is held back on its way.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from typing import TYPE_CHECKING

from fastapi import HTTPException
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect

from metamon_assets.metrics.exposition import REQUEST_FAMILIES
from metamon_assets.web.problems import problem

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)
CHUNK_SECONDS = 20.0  # a body that pauses for longer is given up, so that slow senders do not pile up
BODY_SECONDS = 300.0  # and one that takes longer as a whole
MOST_BODIES = 8  # of the largest that is accepted, as much as all requests together may hold
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)  # bytes
# A page may say more about itself; everything else has no business in a browser.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class RequestMetrics:
    """How many requests there were, how long they took, how large they and their answers were."""

    def __init__(self, registry: CollectorRegistry) -> None:
        requests, duration, received, sent = REQUEST_FAMILIES
        self.requests = Counter(requests.name, requests.help, requests.labels, registry=registry)
        self.duration = Histogram(duration.name, duration.help, duration.labels, registry=registry)
        self.received = Histogram(received.name, received.help, received.labels, registry=registry, buckets=SIZES)
        self.sent = Histogram(sent.name, sent.help, sent.labels, registry=registry, buckets=SIZES)

    def observe(self, exchange: _Exchange) -> None:
        """Count a request that has been answered."""
        method = exchange.scope["method"] if exchange.scope["method"] in METHODS else "(other)"
        route = getattr(exchange.scope.get("route"), "path", "(none)")  # never the path itself, which anybody can make up
        self.requests.labels(method, route, str(exchange.status)).inc()
        self.duration.labels(method, route).observe(time.perf_counter() - exchange.begun)
        self.received.labels(method, route).observe(exchange.received)
        self.sent.labels(method, route).observe(exchange.sent)


class Envelope:
    """The middleware. ``max_bytes`` bounds the body of a request; all bodies together have room for ``MOST_BODIES`` of those."""

    def __init__(self, app: ASGIApp, max_bytes: int, metrics: RequestMetrics) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._room = Room(MOST_BODIES * max_bytes)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._max_bytes, self._room)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:  # the last line of defence: whatever it was, the client learns nothing of it
            logger.exception("A request failed unexpectedly.", extra={"request_id": exchange.request_id, "path": scope["path"][:200]})
            if exchange.answered:
                raise  # half an answer is out; the server cuts the connection
            detail = "Something unexpected went wrong here; the server's log has it under this request_id."
            await problem(exchange.request_id, 500, detail)(scope, receive, exchange.send)
        finally:
            self._room.give_back(exchange.received)
            self._metrics.observe(exchange)


class Room:
    """How many bytes of bodies the server still takes. For one event loop, so without a lock."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> bool:
        """Take some, and say whether that much was there; in either case it is given back later."""
        self._left -= size
        return self._left >= 0

    def give_back(self, size: int) -> None:
        """A request is over."""
        self._left += size


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of ``limit`` bytes at most. Raises HTTPException where it is larger, breaks off or does not come."""
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large(limit)
            parts.append(part)
    except ClientDisconnect:  # nobody is left to read the answer, and it is nothing to log as an error
        raise HTTPException(400, "The body broke off.") from None
    return b"".join(parts)


def too_large(limit: int) -> HTTPException:
    """What is said of a body of more bytes."""
    return HTTPException(413, f"This takes {limit:,} bytes at most: send less at a time.", {"Connection": "close"})


class _Exchange:
    """One request and its answer, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_bytes: int, room: Room) -> None:
        self.scope = scope
        self.begun = time.perf_counter()
        self.received = self.sent = self.status = 0
        self.answered = False
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        self.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = self.request_id
        declared = headers.get("content-length", "0")
        self._too_large = declared.isascii() and declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes)
        self._max_bytes = max_bytes
        self._room = room
        self._whole = False  # the body has arrived
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        """The next part of the body. Raises HTTPException for a body that is too large or does not come."""
        if self._whole:
            return await self._receive()  # waits for the client to go away, for as long as that takes
        if self._too_large:
            raise too_large(self._max_bytes)
        left = self.begun + BODY_SECONDS - time.perf_counter()
        try:
            message = await asyncio.wait_for(self._receive(), min(CHUNK_SECONDS, left))
        except TimeoutError:
            raise HTTPException(408, "The body comes too slowly, or not at all.", {"Connection": "close"}) from None
        size = len(message.get("body", b""))
        self.received += size
        self._whole = not message.get("more_body", False)
        if not self._room.take(size):
            raise HTTPException(503, "Too much is sent at once: send it again in a moment.", {"Connection": "close", "Retry-After": "1"})
        if self.received > self._max_bytes:
            raise too_large(self._max_bytes)
        return message

    async def send(self, message: Message) -> None:
        """A part of the answer, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.answered = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers["X-Request-Id"] = self.request_id
        self.sent += len(message.get("body", b""))
        await self._send(message)
