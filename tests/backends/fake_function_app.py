"""A function app with the extension, as far as the management API goes, and the backend on it."""

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

from state_api.backends.management_api import ManagementApiBackend
from state_api.backends.management_api_client import ManagementApiClient
from state_api.backends.protocols import Backend, ObservedPage
from state_api.domain.instants import Instant, parse_instant
from state_api.domain.task_hubs.lifecycle import ACTIVE_STATUSES, RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from tests.builders import timestamp
from tests.local_http_server import HOST, http_server

SYSTEM_KEY = "s3cret-System-Key=="
HUB = "OrdersHub"
API_PATH = "/runtime/webhooks/durabletask"
CONNECTION_NAME = "OrdersApp"


async def no_override(request: web.Request) -> web.StreamResponse | None:
    """Nothing out of the ordinary."""
    return None


@dataclass
class FakeFunctionApp:
    """A function app with the extension: its task hubs, and what it was asked. A page of the list takes in
    `rows_per_page`
    rows, whether they match or not, as Azure Tables does. `override` can answer in its place. `put` writes to the task
    hub `hub`."""

    origin: str
    hub: str = HUB
    hubs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    connection: str | None = None
    rows_per_page: int = 1000
    last_token: str = ""
    date: str | None = None
    override: Callable[[web.Request], Awaitable[web.StreamResponse | None]] = no_override
    requests: list[web.Request] = field(default_factory=list)

    def put(self, instance_id: str, status: str = "Running", created: str | None = None, **more: Any) -> None:
        """Create an instance, or change it."""
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
            **more,
        }

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if (other := await self.override(request)) is not None:
            return other
        if request.headers.get("x-functions-key", request.query.get("code")) != SYSTEM_KEY:
            return web.Response(status=401)
        if request.query.get("connection") != self.connection:
            return web.json_response({"message": "no such connection"}, status=500)
        # The extension makes the hub that it is asked about.
        instances = self.hubs.setdefault(request.query["taskHub"].lower(), {})
        path = decode_path_as_extension(request.raw_path.partition("?")[0])
        match path.removeprefix(API_PATH).strip("/").split("/"):
            case ["instances"]:
                return self._list(request, instances)
            case ["instances", instance_id] if instance_id in instances:
                shown = with_times_cut_to_seconds(instances[instance_id])
                if shown["runtimeStatus"] in {status.value for status in ACTIVE_STATUSES}:
                    headers = {"Location": str(request.url), "Retry-After": "5"}
                    return web.json_response(shown, status=202, headers=headers)
                known = shown["runtimeStatus"] in {status.value for status in RuntimeStatus}
                return web.json_response(shown, status=200 if known else 500)
        return web.Response(status=404)

    def _list(self, request: web.Request, instances: dict[str, dict[str, Any]]) -> web.Response:
        query = request.query
        wanted = [one for value in query.getall("runtimeStatus", []) for one in value.split(",")]
        since = parse_instant(query.get("createdTimeFrom", "0001-01-01T00:00:00Z"))
        prefix = query.get("instanceIdPrefix", "")
        if "'" in prefix:
            return web.Response(status=500)
        token = request.headers.get("x-ms-continuation-token")
        following = base64.b64decode(token).decode() if token else ""
        rows = sorted(one for one in instances if one >= following and one.startswith(prefix))
        page: list[dict[str, Any]] = []
        seen = 0
        for instance_id in rows[: self.rows_per_page]:
            if len(page) == int(query.get("top", "100")):
                break
            seen += 1
            one = instances[instance_id]
            if (not wanted or one["runtimeStatus"] in wanted) and parse_instant(one["createdTime"]) >= since:
                page.append(with_times_cut_to_seconds(one))
        onward = base64.b64encode(rows[seen].encode()).decode() if seen < len(rows) else self.last_token
        headers = {"x-ms-continuation-token": onward, **({"Date": self.date} if self.date else {})}
        return web.json_response(page, headers=headers)


def with_times_cut_to_seconds(instance: dict[str, Any]) -> dict[str, Any]:
    """The API cuts times to seconds."""
    return {
        name: f"{value[:19]}Z" if name.endswith("Time") and isinstance(value, str) else value
        for name, value in instance.items()
    }


def decode_path_as_extension(raw_path: str) -> str:
    """The host decodes the path, but for slashes, and resolves its dots; then the extension decodes it once more."""
    once = "%2F".join(unquote(part) for part in re.split("%2f", raw_path, flags=re.IGNORECASE))
    kept: list[str] = []
    for part in once.split("/"):
        if part == "..":
            kept.pop()
        elif part != ".":
            kept.append(part)
    return unquote_plus("/".join(kept))


@asynccontextmanager
async def serve_http(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """A server on loopback; yields its origin."""
    async with http_server(answer, shutdown_timeout=0.1) as (port,):
        yield f"http://{HOST}:{port}"


@pytest.fixture
async def function_app(anyio_backend: str) -> AsyncIterator[FakeFunctionApp]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await running.answer(request)

    running = FakeFunctionApp("")
    async with serve_http(answer) as origin:
        running.origin = origin
        yield running


@asynccontextmanager
async def open_management_backend(
    origin: str, key: str = SYSTEM_KEY, **more: Any
) -> AsyncIterator[ManagementApiBackend]:
    made = ManagementApiBackend(ManagementApiClient(origin, key, CONNECTION_NAME, **more))
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def backend(function_app: FakeFunctionApp) -> AsyncIterator[ManagementApiBackend]:
    async with open_management_backend(function_app.origin) as made:
        yield made


async def read_pages(backend: Backend, since: Instant, cursors: tuple[str, ...]) -> list[ObservedPage]:
    """All pages that these cursors lead to."""
    pages = []
    left = list(cursors)
    while left:
        page = await backend.read_page(HUB, since, left.pop(0))
        pages.append(page)
        left.extend(page.cursors)
        assert len(pages) < 200
    return pages


async def scan(backend: Backend) -> list[ObservedInstance]:
    start = await backend.begin_scan(HUB)
    return [one for page in await read_pages(backend, start.changed_since, start.cursors) for one in page.instances]


@pytest.fixture(autouse=True)
def no_key_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may log the key, whatever goes wrong in it."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.get_records("call"):
        assert SYSTEM_KEY not in record.getMessage()
        assert SYSTEM_KEY not in caplog.handler.format(record)
