"""A server on loopback between the command line and a state server: passes requests on, or does what goes wrong on the
way. What is not told where to pass requests on to is a server of another kind."""

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
    """Instead of what the state server would say."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TruncatedResponse:
    """The connection ends in the middle of the server's answer."""


@dataclass(frozen=True)
class NoResponse:
    """Nothing comes back."""


@dataclass(frozen=True)
class EndlessResponse:
    """An answer without end, a byte at a time."""


Fault = CannedResponse | TruncatedResponse | NoResponse | EndlessResponse


@dataclass
class ReceivedRequest:
    """One request that came."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class FaultProxy:
    """`target` is the state server's address. `fault` decides, for the request of this number from 0 on, what goes
    wrong with it; None lets it pass."""

    target: str | None = None
    fault: Callable[[int], Fault | None] = lambda number: None
    received: list[ReceivedRequest] = field(default_factory=list)
    url: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)

    def always_inject(self, fault: Fault) -> None:
        self.fault = lambda number: fault


class _Server(ThreadingHTTPServer):
    def __init__(self, run_fault_proxy: FaultProxy) -> None:
        super().__init__((HOST, 0), _Handler)
        self.run_fault_proxy = run_fault_proxy
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that go away are what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        run_fault_proxy = self.server.run_fault_proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            number = len(run_fault_proxy.received)
            run_fault_proxy.received.append(
                ReceivedRequest(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
            )
        fault = run_fault_proxy.fault(number)
        if isinstance(fault, NoResponse):
            run_fault_proxy.stopped.wait()
            self._reset()
        elif isinstance(fault, EndlessResponse):
            self._send_endless_response(run_fault_proxy.stopped)
        elif isinstance(fault, CannedResponse):
            self._respond(fault)
        elif run_fault_proxy.target is None:
            self._respond(CannedResponse(404))
        else:
            self._forward(run_fault_proxy.target, body, cut=fault is not None)

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815  # the names that http.server calls

    def _forward(self, target: str, body: bytes, cut: bool) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        try:
            got = httpx.request(
                self.command, f"{target}{self.path}", headers=headers, content=body, timeout=200, verify=False
            )
        except httpx.TransportError:
            # As if there were nothing in between.
            self._reset()
            return
        kept = {name: got.headers[name] for name in ("Content-Type", "Retry-After", "ETag") if name in got.headers}
        self._respond(CannedResponse(got.status_code, got.content, kept), cut=cut)

    def _respond(self, answer: CannedResponse, *, cut: bool = False) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
        if cut:
            self.wfile.flush()
            self._reset()

    def _send_endless_response(self, stopped: threading.Event) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not stopped.wait(0.1):
            self.wfile.write(b" ")

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the base class
        """Nobody reads it."""


@contextmanager
def run_fault_proxy(target: str | None = None) -> Iterator[FaultProxy]:
    """Listen on a free port until the block ends."""
    made = FaultProxy(target)
    with _Server(made) as server:
        made.url = f"http://{HOST}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            made.stopped.set()
            server.shutdown()
            thread.join()
