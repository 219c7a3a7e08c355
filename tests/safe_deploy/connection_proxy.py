"""A proxy between safe-deploy and the state server that can break connections."""

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from harness.state_server import HOST

Request = tuple[str, str]
"""Method and path."""


@dataclass
class ConnectionProxy:
    """A proxy that can break connections. `cut_before_request` is called before a request is forwarded,
    `cut_before_response` before the response is. Both get the request's number, counted from 1. True breaks the
    connection."""

    url: str
    requests: list[Request] = field(default_factory=list)
    cut_before_request: Callable[[int, Request], bool] = lambda number, request: False
    cut_before_response: Callable[[int, Request], bool] = lambda number, request: False

    def clear(self) -> None:
        """Forget all requests, and break no connection."""
        self.requests.clear()
        self.cut_before_request = self.cut_before_response = lambda number, request: False


@contextmanager
def run_connection_proxy(url: str) -> Iterator[ConnectionProxy]:
    """Run a proxy before the server with this URL until the block ends."""
    parts = urlsplit(url)
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def handle_request(self) -> None:
            """Forward one request, or close the connection before the request or before the response, as the test has
            chosen."""
            request_body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = (self.command, urlsplit(self.path).path)
            with turn:
                connection_proxy.requests.append(request)
                number = len(connection_proxy.requests)
            if connection_proxy.cut_before_request(number, request):
                return
            status, headers, body = self._forward(request_body)
            if connection_proxy.cut_before_response(number, request):
                return
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815  # the names that http.server calls

        def _forward(self, request_body: bytes) -> tuple[int, Mapping[str, str], bytes]:
            """Send the request to the server. Returns status, headers and body of its response."""
            connection = http.client.HTTPConnection(parts.hostname or HOST, parts.port, timeout=60)
            try:
                kept = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                connection.request(self.command, self.path, request_body, kept)
                response = connection.getresponse()
                body = response.read()
                dropped = {"connection", "transfer-encoding", "keep-alive"}
                headers = {name: value for name, value in response.getheaders() if name.lower() not in dropped}
                return response.status, headers, body
            finally:
                connection.close()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the base class
            """Write no log."""

    with ThreadingHTTPServer((HOST, 0), Handler) as listener:
        connection_proxy = ConnectionProxy(f"http://{HOST}:{listener.server_address[1]}")
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield connection_proxy
        finally:
            listener.shutdown()
            thread.join()
