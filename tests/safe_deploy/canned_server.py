"""A server that answers each operation with responses of the test, in order, the last one again and again."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from typing import Any

from tests.safe_deploy.fault_proxy import CannedResponse, FaultProxy, run_fault_proxy
from tests.safe_deploy.in_process import run_in_process
from tests.safe_deploy.processes import CliResult

APP_PATH = "/api/apps/shop"


@dataclass
class CannedServer:
    """`responses` by method and path, such as `GET /api/apps/shop/rollout`: bodies, or problem documents with their
    status."""

    proxy: FaultProxy
    responses: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def requests(self) -> list[str]:
        """The method and path of every request, with its query."""
        return [f"{request.method} {request.path}" for request in self.proxy.received]

    def answer(self, operation: str, *bodies: Any) -> None:
        """Answer an operation of the app with these bodies, such as `GET /rollout`."""
        method, path = operation.split()
        self.responses[f"{method} {path if path.startswith('/api') else APP_PATH + path}"] = list(bodies)

    def respond(self, number: int) -> CannedResponse:
        """The response to the request with this number. A problem document has its status."""
        request = self.proxy.received[number]
        bodies = self.responses[f"{request.method} {request.path.partition('?')[0].removesuffix('/')}"]
        body = bodies.pop(0) if len(bodies) > 1 else bodies[0]
        status = body["status"] if "code" in body else 200
        return CannedResponse(status, json.dumps(body).encode(), {"ETag": '"1"'})

    def run(self, *arguments: str, **variables: str) -> CliResult:
        """Run a command against this server, in this process."""
        environment = {"SAFE_DEPLOY_SERVER": self.proxy.url, "SAFE_DEPLOY_APP": "shop", "COLUMNS": "1000"}
        return CliResult(*astuple(run_in_process(arguments, environment | variables)))


@contextmanager
def run_canned_server() -> Iterator[CannedServer]:
    """Run the server until the block ends. It knows an app with releases side by side."""
    with run_fault_proxy() as proxy:
        server = CannedServer(proxy)
        proxy.fault = server.respond
        app = {"app": "shop", "model": "sideBySide", "policy": {"quiesceFunctions": []}}
        server.answer(f"GET {APP_PATH}", app)
        yield server
