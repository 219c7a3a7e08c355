"""Limits on connections: how many are open, how long a request head may take, how long an answer may wait to be read.

uvicorn has none of these. Its `timeout_keep_alive` starts after an answer and stops at the next byte, and its
`limit_concurrency` answers 503 after a connection has been taken. Hypercorn's `read_timeout` starts anew with each
byte. So uvicorn's protocol is extended here.
"""

import asyncio
import logging
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 2000
BACKLOG = 2000
"""Connections that the system accepts for the server before the server takes them: as many as can be open. When the
backlog is full, the system drops the last packet of a handshake, and the caller takes the connection for open and sends
its request. When it stays full for some seconds, as under overload on a busy machine, the system forgets the handshake
and resets that connection, so the caller gets no 503 (Linux 6.18, run: of 600 callers at 20 accepted connections a
second, 302 were reset with a backlog of 128 and none with 1,024)."""
ACCEPT_BATCH = 128
"""Connections that asyncio takes in one turn of the event loop."""
_ACCEPTED_DESCRIPTORS = 3 * ACCEPT_BATCH
"""File descriptors beside those of `MAX_CONNECTIONS`: asyncio takes two more batches before those that the first batch
replaces are closed."""
OTHER_DESCRIPTORS = 256
"""File descriptors for connections to storage, schedulers and apps, and for the log."""
MIN_CONNECTIONS = 64
HEAD_TIMEOUT_SECONDS = 10.0
UNREAD_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """`head_timeout_seconds` is the time from the connection, or from the answer before, to the end of a request's
    head. `unread_timeout_seconds` is the time in which a caller must read some of an answer that waits to be sent."""

    max_connections: int = MAX_CONNECTIONS
    head_timeout_seconds: float = HEAD_TIMEOUT_SECONDS
    unread_timeout_seconds: float = UNREAD_TIMEOUT_SECONDS


def raise_open_file_limit() -> int:
    """The number of connections that this process has file descriptors for, at most MAX_CONNECTIONS. Raises the soft
    limit on open files as far as the hard limit allows. Without enough of them, asyncio logs an error for each
    connection that waits, again and again."""
    try:
        import resource  # noqa: PLC0415 (Windows has no such module, and no such limit)
    except ImportError:
        return MAX_CONNECTIONS
    others = _ACCEPTED_DESCRIPTORS + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    if soft < MAX_CONNECTIONS + others:
        needed = MAX_CONNECTIONS + others
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MAX_CONNECTIONS, max(MIN_CONNECTIONS, soft - others))


def set_backlog(listeners: Iterable[socket.socket], backlog: int = BACKLOG) -> None:
    """Give sockets that listen already another backlog. asyncio has a single number for the backlog and for what it
    takes in one turn of the event loop."""
    for listener in listeners:
        with socket.fromfd(listener.fileno(), listener.family, listener.type) as same:
            same.listen(backlog)


class ConnectionLimiter:
    """The open connections of one server."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: set[LimitedConnection] = set()
        # In the order in which they began to wait for a request.
        self._idle: dict[LimitedConnection, None] = {}

    def add(self, connection: "LimitedConnection") -> None:
        """Take a connection. When too many are open, close the one that has waited longest for a request, or this one
        if each of the others has a request."""
        if len(self._open) < self.limits.max_connections:
            self._open.add(connection)
            return
        if (longest := next(iter(self._idle), None)) is None:
            log.warning("refused a connection: %d are open and each has a request", len(self._open))
            connection.abort()
            return
        log.warning("closed an idle connection for a new one: %d are open", len(self._open))
        self.remove(longest)
        longest.abort()
        self._open.add(connection)

    def remove(self, connection: "LimitedConnection") -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def mark_idle(self, connection: "LimitedConnection") -> None:
        """The connection waits for a request from now on."""
        if connection in self._open:
            self._idle.pop(connection, None)
            self._idle[connection] = None

    def mark_busy(self, connection: "LimitedConnection") -> None:
        """The connection has a request."""
        self._idle.pop(connection, None)


class LimitedConnection(H11Protocol):
    """uvicorn's connection with the limits of its table."""

    def __init__(self, *args: Any, limiter: ConnectionLimiter, **more: Any) -> None:
        super().__init__(*args, **more)
        self._limiter = limiter
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_head_timer()
        self._limiter.add(self)
        self._limiter.mark_idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self._limiter.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._register_request()

    def on_response_complete(self) -> None:
        # uvicorn begins the next request here if it has arrived already.
        super().on_response_complete()
        if not self._register_request():
            self._start_head_timer()
            self._limiter.mark_idle(self)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP. uvicorn raises an error if a part of an answer has been sent."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            # The application must not answer a second time.
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except h11.LocalProtocolError:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def abort(self) -> None:
        """Close the connection without sending what is left to be sent."""
        self._stop_timers()
        self.transport.abort()

    def _register_request(self) -> bool:
        """Whether the connection has a request that is not answered yet."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._limiter.mark_busy(self)
        return True

    def _start_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(self._limiter.limits.head_timeout_seconds, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if self.transport.get_write_buffer_size():
            # The answer before is still being sent.
            if self._write_timer is None:
                self._start_write_timer()
            return
        if self.conn.trailing_data[0]:
            log.warning("closed a connection: its request head is not complete after %g s", self._head_timeout_seconds)
        self.abort()

    @property
    def _head_timeout_seconds(self) -> float:
        return self._limiter.limits.head_timeout_seconds

    def _start_write_timer(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(
            self._limiter.limits.unread_timeout_seconds, self._on_write_timeout, left
        )

    def _on_write_timeout(self, before: int) -> None:
        self._write_timer = None
        left = self.transport.get_write_buffer_size()
        if left >= before > 0:
            log.warning(
                "closed a connection: its answer has not been read for %g s",
                self._limiter.limits.unread_timeout_seconds,
            )
            self.abort()
        elif left:
            self._start_write_timer()
        elif self._head_timer is None and not self._register_request():
            self._start_head_timer()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None


def protocol_factory(limits: ConnectionLimits) -> Any:
    """What uvicorn's setting `http` takes in place of a protocol class."""
    return partial(LimitedConnection, limiter=ConnectionLimiter(limits))
