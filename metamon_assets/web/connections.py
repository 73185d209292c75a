"""Connections that do not get on: whoever sends no request, or does not read the answer, is cut off.

uvicorn bounds the pause between two requests only. Without more, a few hundred connections that are opened and left
would use up ``MOST_CONNECTIONS`` for as long as their owner likes, and everybody else would be told 503. How long a
body may take is the ``envelope``'s business.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # for a request's line and headers, from the first byte or from the connection
STALL_SECONDS = 30.0  # for a client to take some of what waits for it


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol with a limit on how long a head may take, and an answer may wait."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come: it has to say what it wants."""
        super().connection_made(transport)
        self._head, self._stall = _Deadline(transport), _Deadline(transport)
        self._head.set(HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        """A part of a request: its head has to be whole in time, however slowly its bytes drip."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head.clear()
        else:
            self._head.set(HEAD_SECONDS)

    def pause_writing(self) -> None:
        """The client does not keep up."""
        super().pause_writing()
        self._stall.set(STALL_SECONDS)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stall.clear()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came. What the client has not read by then is not waited for without end."""
        super().timeout_keep_alive_handler()
        self._stall.set(STALL_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._head.clear()
        self._stall.clear()
        super().connection_lost(exc)


class _Deadline:
    """Cuts a connection off when it is missed."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """From now on, unless one is set already."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def clear(self) -> None:
        """It was met."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
