"""How `python -m dev.demo.slot_command` reaches the Function App of the story that runs: HTTP on loopback."""

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
    """Take orders until the block ends; yields the variables that lead the command here."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                if self.path == "/swap":
                    app.swap()
                else:
                    app.deploy(sent["slot"], sent["code"], sent["taskHub"])
            except (ValueError, RuntimeError, TimeoutError) as error:
                self._answer(500, str(error))
            else:
                self._answer(200, ", ".join(f"{slot} {hub}" for slot, hub in app.slot_task_hubs().items()))

        def _answer(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield {CONTROL_ADDRESS_VARIABLE: f"{HOST}:{server.server_port}"}
        finally:
            server.shutdown()
            thread.join()
