"""Raw TCP connections, for requests that are invalid or incomplete."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from harness.state_server import HOST, ServerProcess


def connect(server: ServerProcess, request: bytes = b"", timeout: float = 60) -> socket.socket:
    """Connect to the server and send these bytes."""
    connection = socket.create_connection((HOST, int(server.url.rpartition(":")[2])), timeout)
    connection.sendall(request)
    return connection


@contextmanager
def open_raw_connections(server: ServerProcess, request: bytes, count: int) -> Iterator[list[socket.socket]]:
    """Open `count` connections that have each sent these bytes; closes them at the end."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(server, request)) for _ in range(count)]


def read_until_closed(connection: socket.socket) -> bytes:
    """Everything that the server sends until it closes the connection."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def partial_delivery(*, content_length: int, sent_length: int) -> bytes:
    """A delivery of events whose head declares `content_length` bytes, followed by only `sent_length` bytes."""
    head = (
        "POST /api/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {content_length}\r\n\r\n"
    )
    return head.encode() + b"[" + b" " * (sent_length - 1)
