"""Raw TCP connections, for requests that are invalid or incomplete."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from harness.state_server import HOST, ServerProcess


def connect(server: ServerProcess, request: bytes = b"", *, timeout_seconds: float = 60) -> socket.socket:
    """Connect to the server and send the bytes of `request`."""
    connection = socket.create_connection((HOST, int(server.url.rpartition(":")[2])), timeout_seconds)
    connection.sendall(request)
    return connection


@contextmanager
def open_raw_connections(server: ServerProcess, request: bytes, count: int) -> Iterator[list[socket.socket]]:
    """Open `count` connections, send the bytes of `request` over each, and close them when the block ends."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(server, request)) for _ in range(count)]


def read_until_closed(connection: socket.socket) -> bytes:
    """Return everything that the server sends until it closes the connection."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def partial_delivery(*, content_length: int, sent_length: int) -> bytes:
    """The first bytes of a delivery: its head, which declares `content_length` bytes, and `sent_length` of them."""
    head = (
        "POST /api/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {content_length}\r\n\r\n"
    )
    return head.encode() + b"[" + b" " * (sent_length - 1)
