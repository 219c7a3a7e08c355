"""Connections that do not keep to HTTP, or that never finish what they send."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from harness.state_server import HOST, ServerProcess


def connect(server: ServerProcess, sent: bytes = b"", timeout: float = 60) -> socket.socket:
    connection = socket.create_connection((HOST, int(server.url.rpartition(":")[2])), timeout)
    connection.sendall(sent)
    return connection


@contextmanager
def open_raw_connections(server: ServerProcess, sent: bytes, count: int) -> Iterator[list[socket.socket]]:
    """Several connections that have sent this."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(server, sent)) for _ in range(count)]


def read_until_closed(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def partial_delivery(length: int, sent: int) -> bytes:
    """A delivery of events that promises `length` bytes, of which `sent` follow."""
    head = f"POST /api/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}"
    return f"{head}\r\n\r\n".encode() + b"[" + b" " * (sent - 1)
