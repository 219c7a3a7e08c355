"""The HTTP server through which commands of a pipeline control the demo's Function Apps."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dev.demo.control_client import CONTROL_ADDRESS_VARIABLE
from dev.demo.processes import HOST

ControlCommand = Callable[[dict[str, Any]], str]
"""Takes the body of a command, and returns what the command prints. Raises ValueError, RuntimeError or TimeoutError."""


@contextmanager
def run_control_server(commands: Mapping[str, ControlCommand]) -> Iterator[dict[str, str]]:
    """Serve these commands on loopback until the block ends. Yields the environment variable with the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Carry out the command that the path names, and answer with the text that it prints."""
            try:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = commands[self.path.removeprefix("/")](body)
            except (ValueError, RuntimeError, TimeoutError) as error:
                self._send_response(500, str(error))
            except KeyboardInterrupt:
                # `wait_until` raises it in this thread too.
                self._send_response(500, "the demo was stopped")
            else:
                self._send_response(200, text)

        def _send_response(self, status: int, text: str) -> None:
            """Answer with a status and a text, which the command prints."""
            body = text.encode()
            # The command may have been stopped meanwhile. Then nothing waits for the answer.
            with suppress(ConnectionError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Write no access log, because it would be part of the demo's output."""

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield {CONTROL_ADDRESS_VARIABLE: f"{HOST}:{server.server_port}"}
        finally:
            server.shutdown()
            thread.join()
