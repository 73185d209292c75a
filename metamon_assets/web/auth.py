"""Who may call which route: ``Depends(require(role))``, by a token in the header Authorization.

Everything needs a token but the signs of life, the front page, the OpenAPI document and webhooks, which are signed.
There are no cookies, so another site's page in somebody's browser can do nothing here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from metamon_assets.web.tokens import LETS_IN, Role, Token, Verifier

WINDOW_SECONDS = 60.0
FAILURES = 20  # wrong tokens that an address may try in a window
REQUESTS = 1_200  # of a token in a window
INGEST_REQUESTS = 60_000  # of a token for ingest, which many processes share
MOST_KEYS = 10_000

Bearer = HTTPBearer(auto_error=False, description="A token made by `metamon token create NAME --role ROLE`.")


class SlidingWindow:
    """Counts by key over about the last ``seconds``: the current window and the fitting share of the one before it."""

    def __init__(self, seconds: float = WINDOW_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = Lock()
        self._number = 0
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def count(self, key: str, add: int = 1) -> float:
        """Add to a key's count and give the count. Beyond ``MOST_KEYS`` keys, new ones share a count."""
        with self._lock:
            number, share = divmod(self._clock(), self._seconds)
            if number != self._number:
                self._before = self._now if number == self._number + 1 else {}
                self._now, self._number = {}, int(number)
            if key not in self._now and len(self._now) >= MOST_KEYS:
                key = ""
            self._now[key] = self._now.get(key, 0) + add
            return self._now[key] + self._before.get(key, 0) * (1 - share / self._seconds)


class Access:
    """What the application knows about who may come in."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self._failures = SlidingWindow()
        self._requests = SlidingWindow()

    def admit(self, secret: str, address: str, role: Role) -> Token:
        """The token with this secret, if it lets in here. Raises HTTPException: 401, 403 or 429."""
        token = self.verifier.verify(secret)
        if token is None:
            self.failed(address)
            raise HTTPException(401, "The token is wrong, revoked or expired.", {"WWW-Authenticate": 'Bearer error="invalid_token"'})
        if token.role not in LETS_IN[role]:
            allowed = ", ".join(sorted(LETS_IN[role]))
            raise HTTPException(403, f"This token's role is {token.role}; this takes one of: {allowed}.")
        if self._requests.count(str(token.token_id)) > (INGEST_REQUESTS if role is Role.INGEST else REQUESTS):
            raise _too_many("This token is used more often than allowed.")
        return token

    def failed(self, address: str) -> None:
        """Note a wrong token or signature. Raises HTTPException when there were too many from that address."""
        if self._failures.count(address) > FAILURES:
            raise _too_many("Too many wrong tokens came from this address.")


def require(role: Role | str) -> Callable[..., Token]:
    """A dependency that lets in tokens of this role (and of those above it), and gives the token."""
    wanted = Role(role)

    def admitted(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(Bearer)] = None) -> Token:
        if credentials is None:
            detail = "This takes a token: send the header `Authorization: Bearer mm_…`. `metamon token create` makes one."
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})
        access: Access = request.app.state.access
        return access.admit(credentials.credentials, client_address(request), wanted)

    return admitted


def client_address(request: Request) -> str:
    """Where the request comes from, as the socket says; headers can be made up."""
    return request.client.host if request.client else "(unknown)"


def _too_many(what: str) -> HTTPException:
    return HTTPException(429, f"{what} Wait a minute.", {"Retry-After": f"{WINDOW_SECONDS:.0f}"})
