"""Tokens of the web server: making, listing and revoking them, and telling whose token a request carries.

A token is ``mm_`` and 256 random bits. Its SHA-256 is all that is stored: bits that nobody can guess need no slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from metamon_assets.errors import MetamonError
from metamon_assets.warehouse import audit

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection
    from metamon_assets.web.pool import Pool

PREFIX = "mm_"
NAME_LIMIT = 100  # characters
FRESH_SECONDS = 5.0  # a revoked token is refused after this at the latest
LOOKS, LOOKS_SECONDS = 10, 10.0  # fresh looks at the table for tokens that are not known: a new one works at once
USE_NOTED_EVERY = timedelta(minutes=1)


class Role(StrEnum):
    """What a token may do."""

    VIEWER = "viewer"
    APPROVER = "approver"
    ADMIN = "admin"
    INGEST = "ingest"


# Which roles a route that asks for one lets in: approvers see what viewers see, admins may do all, and the role for
# machines that send data sees nothing.
LETS_IN: Mapping[Role, frozenset[Role]] = {
    Role.VIEWER: frozenset({Role.VIEWER, Role.APPROVER, Role.ADMIN}),
    Role.APPROVER: frozenset({Role.APPROVER, Role.ADMIN}),
    Role.ADMIN: frozenset({Role.ADMIN}),
    Role.INGEST: frozenset({Role.INGEST, Role.APPROVER, Role.ADMIN}),
}


class TokenError(MetamonError):
    """A token cannot be made or revoked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is stored: everything but the secret."""

    token_id: int
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def valid(self, now: datetime) -> bool:
        """Whether it still lets anybody in."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


_COLUMNS = "token_id, name, role, created_at, expires_at, revoked_at, last_used_at"


def create(connection: Connection, name: str, role: Role, *, actor: str, expires_at: datetime | None = None) -> str:
    """Make a token and return it: the only time that anybody sees it. Raises TokenError when the name is taken or unusable."""
    from psycopg2 import errors

    name = name.strip()
    if not name or len(name) > NAME_LIMIT or not name.isprintable():
        raise TokenError(f"A token's name is 1 to {NAME_LIMIT} printable characters: say who or what uses it, such as checkout-agent.")
    secret = PREFIX + secrets.token_urlsafe(32)
    with connection, connection.cursor() as cursor:
        try:
            cursor.execute(
                "INSERT INTO metamon.api_tokens (name, role, token_hash, expires_at) VALUES (%s, %s, %s, %s) RETURNING token_id",
                (name, role.value, _hash(secret), expires_at),
            )
        except errors.UniqueViolation:
            raise TokenError(f"There is a token {name} already: choose another name, or revoke it first.") from None
        (token_id,) = cursor.fetchone() or (0,)
        evidence = {"name": name, "role": role.value, "expires_at": expires_at and expires_at.isoformat()}
        audit.record(connection, actor, "create_token", f"token:{token_id}", None, evidence)
    return secret


def listed(connection: Connection) -> list[Token]:
    """All tokens that were ever made, the newest first."""
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {_COLUMNS} FROM metamon.api_tokens ORDER BY token_id DESC")
        return [_token(row) for row in cursor.fetchall()]


def revoke(connection: Connection, name: str, *, actor: str) -> None:
    """Refuse a token from now on. Raises TokenError when no valid one has that name."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE metamon.api_tokens SET revoked_at = statement_timestamp() WHERE name = %s AND revoked_at IS NULL RETURNING token_id",
            (name,),
        )
        revoked = cursor.fetchone()
        if revoked is None:
            raise TokenError(f"There is no token {name} to revoke: `metamon token list` shows them.")
        audit.record(connection, actor, "revoke_token", f"token:{revoked[0]}", None, {"name": name})


class Verifier:
    """Tells whose token a request carries, from a copy of the table that is never older than a few seconds.

    Wrong tokens cost hardly a question to the database: all hashes are here, and unknown ones lead to ten fresh looks in
    ten seconds at most. A new token works at once; while somebody tries wrong ones, within ten seconds.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._by_hash: dict[bytes, Token] = {}
        self._read_at = float("-inf")
        self._looks: deque[float] = deque([float("-inf")] * LOOKS, maxlen=LOOKS)  # when unknown tokens led to the last ones
        self._used: dict[int, datetime] = {}
        self._noted: dict[int, datetime] = {}

    def verify(self, secret: str) -> Token | None:
        """The valid token with this secret, or None. Raises what ``Pool.connection`` raises."""
        digest = _hash(secret)
        token = self._find(digest, FRESH_SECONDS)
        if token is None and self._may_look():
            token = self._find(digest, 0)
        now = datetime.now(UTC)
        if token is None or not token.valid(now):
            return None
        self._used[token.token_id] = now
        return token

    def any_valid(self) -> bool:
        """Whether anybody could get in at all."""
        self._find(b"", FRESH_SECONDS)
        return any(token.valid(datetime.now(UTC)) for token in self._by_hash.values())

    def note_uses(self) -> None:
        """Write down when tokens were last used, each at most once a minute."""
        due = {
            token_id: used
            for token_id, used in list(self._used.items())
            if token_id not in self._noted or used - self._noted[token_id] >= USE_NOTED_EVERY
        }
        if not due:
            return
        with self._pool.connection() as connection, connection, connection.cursor() as cursor:
            for token_id, used in due.items():
                cursor.execute("UPDATE metamon.api_tokens SET last_used_at = %s WHERE token_id = %s", (used, token_id))
        self._noted |= due

    def _may_look(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._looks[0] <= LOOKS_SECONDS:
                return False
            self._looks.append(now)
            return True

    def _find(self, digest: bytes, oldest: float) -> Token | None:
        with self._lock:
            if time.monotonic() - self._read_at > oldest:
                self._by_hash = self._read()
                self._read_at = time.monotonic()
            found = None
            for known, token in self._by_hash.items():  # all of them, in the same time whichever it is
                if hmac.compare_digest(known, digest):
                    found = token
            return found

    def _read(self) -> dict[bytes, Token]:
        with self._pool.connection() as connection, connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT token_hash, {_COLUMNS} FROM metamon.api_tokens WHERE revoked_at IS NULL")
            return {bytes(digest): _token(row) for digest, *row in cursor.fetchall()}


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _token(row: tuple | list) -> Token:
    token_id, name, role, *times = row
    return Token(token_id, name, Role(role), *times)
