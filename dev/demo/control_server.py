"""The HTTP server through which `python -m dev.demo.slot_command` controls the demo's Function App."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dev.demo.local_function_app import FunctionApp
from dev.demo.processes import HOST
from dev.demo.slot_command import CONTROL_ADDRESS_VARIABLE


@contextmanager
def run_control_server(app: FunctionApp) -> Iterator[dict[str, str]]:
    """Serve on loopback until the block ends. Yields the environment variable with the address for the command."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Deploy into a slot or swap the slots, as the body says, and answer with what the slots hold then."""
            command = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                if self.path == "/swap":
                    app.swap()
                else:
                    app.deploy(command["slot"], command["code"], command["taskHub"])
            except (ValueError, RuntimeError, TimeoutError) as error:
                self._send_response(500, str(error))
            else:
                self._send_response(200, ", ".join(f"{slot} {hub}" for slot, hub in app.get_slot_task_hubs().items()))

        def _send_response(self, status: int, text: str) -> None:
            """Answer with a status and a text, which the command prints."""
            body = text.encode()
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
