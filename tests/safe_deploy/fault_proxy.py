"""A proxy between the CLI and a state server that forwards requests or injects faults. Without a state server it
answers 404, as a server of another kind does."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

HOST = "127.0.0.1"


@dataclass(frozen=True)
class CannedResponse:
    """A response in place of the state server's."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TruncatedResponse:
    """The connection breaks in the middle of the state server's response."""


@dataclass(frozen=True)
class NoResponse:
    """No response, and the connection stays open."""


@dataclass(frozen=True)
class EndlessResponse:
    """A response that never ends, one byte at a time."""


Fault = CannedResponse | TruncatedResponse | NoResponse | EndlessResponse


@dataclass
class ReceivedRequest:
    """A request that has reached the proxy."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class FaultProxy:
    """`upstream_url` is the state server's URL. `fault` returns the fault of a request by its number, counted from 0;
    None forwards the request."""

    upstream_url: str | None = None
    fault: Callable[[int], Fault | None] = lambda number: None
    received: list[ReceivedRequest] = field(default_factory=list)
    url: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)

    def always_inject(self, fault: Fault) -> None:
        """Answer every request with this fault."""
        self.fault = lambda number: fault


class _Server(ThreadingHTTPServer):
    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__((HOST, 0), _Handler)
        self.proxy = proxy
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that disconnect are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        """Inject the fault of this request, or forward it. Without a state server, answer 404."""
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            number = len(proxy.received)
            proxy.received.append(
                ReceivedRequest(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
            )
        fault = proxy.fault(number)
        if isinstance(fault, NoResponse):
            proxy.stopped.wait()
            self._reset()
        elif isinstance(fault, EndlessResponse):
            self._send_endless_response(proxy.stopped)
        elif isinstance(fault, CannedResponse):
            self._respond(fault)
        elif proxy.upstream_url is None:
            self._respond(CannedResponse(404))
        else:
            self._forward(proxy.upstream_url, body, truncate=fault is not None)

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815  # the names that http.server calls

    def _forward(self, upstream_url: str, body: bytes, *, truncate: bool) -> None:
        """Send the request to the state server, and its response to the client, or only half of it."""
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        try:
            response = httpx.request(
                self.command, f"{upstream_url}{self.path}", headers=headers, content=body, timeout=200, verify=False
            )
        except httpx.TransportError:
            # The client sees the same as without a proxy.
            self._reset()
            return
        kept = {
            name: response.headers[name] for name in ("Content-Type", "Retry-After", "ETag") if name in response.headers
        }
        self._respond(CannedResponse(response.status_code, response.content, kept), truncate=truncate)

    def _respond(self, response: CannedResponse, *, truncate: bool = False) -> None:
        """Send a response. With `truncate`, break the connection after half of the body."""
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body[: len(response.body) // 2] if truncate else response.body)
        if truncate:
            self.wfile.flush()
            self._reset()

    def _send_endless_response(self, stopped: threading.Event) -> None:
        """Send one blank after the other until the test stops the proxy."""
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not stopped.wait(0.1):
            self.wfile.write(b" ")

    def _reset(self) -> None:
        """Break the connection with a TCP reset, which closing without lingering sends."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the base class
        """Write no log."""


@contextmanager
def run_fault_proxy(upstream_url: str | None = None) -> Iterator[FaultProxy]:
    """Run a proxy on a free port of loopback until the block ends."""
    proxy = FaultProxy(upstream_url)
    with _Server(proxy) as server:
        proxy.url = f"http://{HOST}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.stopped.set()
            server.shutdown()
            thread.join()
