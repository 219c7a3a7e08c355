"""A fake of a function app with the Durable Functions extension: its management API, and a backend that reads it."""

import base64
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_plus

import pytest
from aiohttp import web

from harness.http_server import HOST, run_http_server
from state_api.backends.management_api import ManagementApiBackend
from state_api.backends.management_api_client import ManagementApiClient
from state_api.backends.protocols import Backend, ObservedPage
from state_api.domain.instants import Instant, parse_instant
from state_api.domain.task_hubs.lifecycle import ACTIVE_STATUSES, RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from tests.builders import timestamp

SYSTEM_KEY = "s3cret-System-Key=="
HUB = "OrdersHub"
API_PATH = "/runtime/webhooks/durabletask"
CONNECTION_NAME = "OrdersApp"


async def answer_as_usual(request: web.Request) -> web.StreamResponse | None:
    """Let the app answer as usual."""
    return None


@dataclass
class FakeFunctionApp:
    """A function app with the extension.

    - `hubs` are its task hubs by name, each with its instances by id. `put` writes to the task hub `hub`.
    - `requests` are those that were received.
    - A page of the list reads `rows_per_page` rows, whether they match or not, as Azure Tables does.
    - `last_token` is the continuation token of the last page, and `date` the Date header.
    - `override` can answer in the app's place.
    """

    origin: str
    hub: str = HUB
    hubs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    connection: str | None = None
    rows_per_page: int = 1000
    last_token: str = ""
    date: str | None = None
    override: Callable[[web.Request], Awaitable[web.StreamResponse | None]] = answer_as_usual
    requests: list[web.Request] = field(default_factory=list)

    def put(self, instance_id: str, status: str = "Running", created: str | None = None, **members: Any) -> None:
        """Create an instance, or change it. `members` are those of the JSON object."""
        instances = self.hubs.setdefault(self.hub.lower(), {})
        now = created or timestamp(0)
        before = instances.get(instance_id, {"createdTime": now})
        instances[instance_id] = {
            "name": "ProcessOrder",
            "instanceId": instance_id,
            "runtimeStatus": status,
            "input": None,
            "customStatus": None,
            "output": "x" * 100 if status == "Completed" else None,
            "createdTime": before["createdTime"] if created is None else now,
            "lastUpdatedTime": now,
            "historyEvents": None,
            **members,
        }

    async def handle_request(self, request: web.Request) -> web.StreamResponse:
        """Answer a request as the extension does."""
        self.requests.append(request)
        if (response := await self.override(request)) is not None:
            return response
        if request.headers.get("x-functions-key", request.query.get("code")) != SYSTEM_KEY:
            return web.Response(status=401)
        if request.query.get("connection") != self.connection:
            return web.json_response({"message": "no such connection"}, status=500)
        # The extension creates the task hub that it is asked about.
        instances = self.hubs.setdefault(request.query["taskHub"].lower(), {})
        path = decode_path_as_extension(request.raw_path.partition("?")[0])
        match path.removeprefix(API_PATH).strip("/").split("/"):
            case ["instances"]:
                return self._list_instances(request, instances)
            case ["instances", instance_id] if instance_id in instances:
                instance = cut_times_to_seconds(instances[instance_id])
                if instance["runtimeStatus"] in {status.value for status in ACTIVE_STATUSES}:
                    headers = {"Location": str(request.url), "Retry-After": "5"}
                    return web.json_response(instance, status=202, headers=headers)
                is_known_status = instance["runtimeStatus"] in {status.value for status in RuntimeStatus}
                return web.json_response(instance, status=200 if is_known_status else 500)
        return web.Response(status=404)

    def _list_instances(self, request: web.Request, instances: dict[str, dict[str, Any]]) -> web.Response:
        """Answer a page of instances as the extension does: it filters the rows of a page, so a page may be empty and
        not the last."""
        query = request.query
        statuses = [status for value in query.getall("runtimeStatus", []) for status in value.split(",")]
        created_from = parse_instant(query.get("createdTimeFrom", "0001-01-01T00:00:00Z"))
        prefix = query.get("instanceIdPrefix", "")
        if "'" in prefix:
            return web.Response(status=500)
        token = request.headers.get("x-ms-continuation-token")
        first_id = base64.b64decode(token).decode() if token else ""
        ids = sorted(
            instance_id for instance_id in instances if instance_id >= first_id and instance_id.startswith(prefix)
        )
        page: list[dict[str, Any]] = []
        rows_read = 0
        for instance_id in ids[: self.rows_per_page]:
            if len(page) == int(query.get("top", "100")):
                break
            rows_read += 1
            instance = instances[instance_id]
            has_status = not statuses or instance["runtimeStatus"] in statuses
            if has_status and parse_instant(instance["createdTime"]) >= created_from:
                page.append(cut_times_to_seconds(instance))
        has_more = rows_read < len(ids)
        next_token = base64.b64encode(ids[rows_read].encode()).decode() if has_more else self.last_token
        headers = {"x-ms-continuation-token": next_token, **({"Date": self.date} if self.date else {})}
        return web.json_response(page, headers=headers)


def cut_times_to_seconds(instance: dict[str, Any]) -> dict[str, Any]:
    """Return an instance as the API shows it: with its times cut to seconds."""
    return {
        name: f"{value[:19]}Z" if name.endswith("Time") and isinstance(value, str) else value
        for name, value in instance.items()
    }


def decode_path_as_extension(raw_path: str) -> str:
    """Decode a path as the host and the extension do: the host decodes everything but slashes and resolves dot
    segments, and then the extension decodes once more."""
    decoded_by_host = "%2F".join(unquote(part) for part in re.split("%2f", raw_path, flags=re.IGNORECASE))
    segments: list[str] = []
    for segment in decoded_by_host.split("/"):
        if segment == "..":
            segments.pop()
        elif segment != ".":
            segments.append(segment)
    return unquote_plus("/".join(segments))


@asynccontextmanager
async def serve_http(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serve requests on loopback until the block ends; yields the server's origin."""
    async with run_http_server(handle, shutdown_timeout=0.1) as (port,):
        yield f"http://{HOST}:{port}"


@pytest.fixture
async def function_app(anyio_backend: str) -> AsyncIterator[FakeFunctionApp]:
    """A fake Function App that serves the management API over HTTP."""
    app = FakeFunctionApp("")
    async with serve_http(app.handle_request) as origin:
        app.origin = origin
        yield app


@asynccontextmanager
async def open_management_backend(
    origin: str, key: str = SYSTEM_KEY, **client_options: Any
) -> AsyncIterator[ManagementApiBackend]:
    """The backend that reads through the management API at this address, closed at the end of the block."""
    backend = ManagementApiBackend(ManagementApiClient(origin, key, CONNECTION_NAME, **client_options))
    try:
        yield backend
    finally:
        await backend.close()


@pytest.fixture
async def backend(function_app: FakeFunctionApp) -> AsyncIterator[ManagementApiBackend]:
    """The backend that reads the fake Function App."""
    async with open_management_backend(function_app.origin) as backend:
        yield backend


async def read_pages(backend: Backend, changed_since: Instant, cursors: tuple[str, ...]) -> list[ObservedPage]:
    """Read all pages that these cursors lead to."""
    pages = []
    unread = list(cursors)
    while unread:
        page = await backend.read_page(HUB, changed_since, unread.pop(0))
        pages.append(page)
        unread.extend(page.cursors)
        assert len(pages) < 200
    return pages


async def scan(backend: Backend) -> list[ObservedInstance]:
    """Return the instances of one pass."""
    start = await backend.begin_scan(HUB)
    pages = await read_pages(backend, start.changed_since, start.cursors)
    return [observed for page in pages for observed in page.instances]


@pytest.fixture(autouse=True)
def fail_if_the_key_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if the test has logged the key."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.get_records("call"):
        assert SYSTEM_KEY not in record.getMessage()
        assert SYSTEM_KEY not in caplog.handler.format(record)
