"""Limits on connections: how many may be open, how long a request head may take, and how long a response may stay
unread. Extends uvicorn's HTTP protocol, which has none of these limits.

uvicorn's `timeout_keep_alive` starts after a response and ends with the next byte, and its `limit_concurrency` responds
with 503 but keeps the connection. Hypercorn's `read_timeout` starts again with each byte.
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
"""Connections that the operating system completes before the server accepts them; as many as may be open.

While the backlog is full, the system drops the last packet of a TCP handshake. The caller considers the connection open
and sends its request. If the backlog stays full for some seconds, the system resets that connection, and the caller
gets no HTTP response. Measured on Linux 6.18 with 600 callers and 20 accepted connections a second: 302 connections
were reset with a backlog of 128, none with 1,024."""
ACCEPT_BATCH = 128
"""Connections that asyncio accepts in one iteration of the event loop."""
_ACCEPTED_DESCRIPTORS = 3 * ACCEPT_BATCH
"""File descriptors for accepted connections beyond `MAX_CONNECTIONS`. asyncio accepts two more batches before the
connections that the first batch replaces are closed."""
OTHER_DESCRIPTORS = 256
"""File descriptors for connections to storage accounts, schedulers and apps, and for the log."""
MIN_CONNECTIONS = 64
HEAD_TIMEOUT_SECONDS = 10.0
UNREAD_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The limits on the connections of one server.

    - `head_timeout_seconds`: limits the time from the connection, or from the previous response, to the end of a
      request head.
    - `unread_timeout_seconds`: limits the time in which a caller reads nothing of a response that is being sent.
    """

    max_connections: int = MAX_CONNECTIONS
    head_timeout_seconds: float = HEAD_TIMEOUT_SECONDS
    unread_timeout_seconds: float = UNREAD_TIMEOUT_SECONDS


def raise_open_file_limit() -> int:
    """Raise the soft limit on open files as far as the hard limit allows. Returns the number of connections that this
    process then has file descriptors for, at most MAX_CONNECTIONS.

    Without enough file descriptors, asyncio logs an error for every waiting connection, again and again.
    """
    try:
        import resource  # noqa: PLC0415 (Windows has no such module, and no such limit)
    except ImportError:
        return MAX_CONNECTIONS
    reserved = _ACCEPTED_DESCRIPTORS + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    if soft < MAX_CONNECTIONS + reserved:
        needed = MAX_CONNECTIONS + reserved
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MAX_CONNECTIONS, max(MIN_CONNECTIONS, soft - reserved))


def set_backlog(listeners: Iterable[socket.socket], backlog: int = BACKLOG) -> None:
    """Change the backlog of listening sockets. asyncio uses one number for the backlog and for the connections that it
    accepts in one iteration, and the first should be much larger."""
    for listener in listeners:
        with socket.fromfd(listener.fileno(), listener.family, listener.type) as duplicate:
            duplicate.listen(backlog)


class ConnectionLimiter:
    """Limits the open connections of one server."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: set[LimitedConnection] = set()
        # Ordered by the time at which they began to wait for a request. The values are unused.
        self._idle: dict[LimitedConnection, None] = {}

    def add(self, connection: "LimitedConnection") -> None:
        """Accept a connection. If the maximum is reached, close the one that has waited longest for a request; if none
        waits, close the new connection."""
        if len(self._open) < self.limits.max_connections:
            self._open.add(connection)
            return
        if (longest_idle := next(iter(self._idle), None)) is None:
            log.warning("refused a connection: %d are open and each has a request", len(self._open))
            connection.abort()
            return
        log.warning("closed an idle connection for a new one: %d are open", len(self._open))
        self.remove(longest_idle)
        longest_idle.abort()
        self._open.add(connection)

    def remove(self, connection: "LimitedConnection") -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def mark_idle(self, connection: "LimitedConnection") -> None:
        """Record that the connection waits for a request from now on."""
        if connection in self._open:
            self._idle.pop(connection, None)
            self._idle[connection] = None

    def mark_busy(self, connection: "LimitedConnection") -> None:
        """Record that the connection has a request."""
        self._idle.pop(connection, None)


class LimitedConnection(H11Protocol):
    """A connection of uvicorn with the limits of a ConnectionLimiter."""

    def __init__(self, *args: Any, limiter: ConnectionLimiter, **options: Any) -> None:
        """Create uvicorn's connection, whose limits the limiter enforces."""
        super().__init__(*args, **options)
        self._limiter = limiter
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection as open and idle, and limit the time until the head of its first request has arrived."""
        super().connection_made(transport)
        self._start_head_timer()
        self._limiter.add(self)
        self._limiter.mark_idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop limiting a connection that has been closed."""
        self._stop_timers()
        self._limiter.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive bytes. Once they begin a request, the connection no longer counts as idle, so it is not closed."""
        super().data_received(data)
        self._mark_busy_if_request_is_open()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request of the connection."""
        # uvicorn starts the next request here if it has already arrived.
        super().on_response_complete()
        if not self._mark_busy_if_request_is_open():
            self._start_head_timer()
            self._limiter.mark_idle(self)

    def send_400_response(self, msg: str) -> None:
        """Respond to bytes that are not HTTP, or close the connection if a response has begun: uvicorn itself
        would raise an error then."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            # The application must not send a second response.
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except h11.LocalProtocolError:
            self.transport.close()

    def pause_writing(self) -> None:
        """Limit the time for which the client may leave the response unread."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """Lift that limit: the client has read on."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def abort(self) -> None:
        """Close the connection at once, without sending the rest of a response."""
        self._stop_timers()
        self.transport.abort()

    def _mark_busy_if_request_is_open(self) -> bool:
        """If a request has no complete response yet, stop the timer for the next request head and mark the connection
        busy. Returns whether there is such a request."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._limiter.mark_busy(self)
        return True

    def _start_head_timer(self) -> None:
        """Give the client the head timeout, from now on, to send the head of a request."""
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(self._limiter.limits.head_timeout_seconds, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        """Close a connection whose next request head is not complete in time."""
        self._head_timer = None
        if self.transport.get_write_buffer_size():
            # The previous response is still being sent.
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
        """Check later whether the client has read any of the bytes that are still to be sent."""
        unsent_bytes = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(
            self._limiter.limits.unread_timeout_seconds, self._on_write_timeout, unsent_bytes
        )

    def _on_write_timeout(self, previously_unsent_bytes: int) -> None:
        """Close a connection whose client has read nothing of the response in the meantime."""
        self._write_timer = None
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes >= previously_unsent_bytes > 0:
            log.warning(
                "closed a connection: its response has not been read for %g s",
                self._limiter.limits.unread_timeout_seconds,
            )
            self.abort()
        elif unsent_bytes:
            self._start_write_timer()
        elif self._head_timer is None and not self._mark_busy_if_request_is_open():
            self._start_head_timer()

    def _stop_timers(self) -> None:
        """Cancel the timeouts of a connection that is closed."""
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None


def protocol_factory(limits: ConnectionLimits) -> Any:
    """A factory of limited connections, for uvicorn's setting `http`."""
    return partial(LimitedConnection, limiter=ConnectionLimiter(limits))
