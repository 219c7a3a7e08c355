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

from state_api.domain.instants import Instant, parse_instant
from state_api.domain.lifecycle import RUNNING_STATUSES, RuntimeStatus
from state_api.domain.sightings import Sighting
from state_api.taskhubs.backend import Backend, SourcePage
from state_api.taskhubs.management_api import ManagementApiBackend
from tests.builders import at
from tests.loopback import HOST, listening

KEY = "s3cret-System-Key=="
HUB = "OrdersHub"
API = "/runtime/webhooks/durabletask"
NAME = "OrdersApp"


async def as_usual(request: web.Request) -> web.StreamResponse | None:
    """Nothing out of the ordinary."""
    return None


@dataclass
class App:
    """A function app with the extension: its task hubs, and what it was asked. A page of the list takes in `segment`
    rows, whether they match or not, as Azure Tables does. `instead` can answer in its place. `put` writes to the task
    hub `hub`."""

    origin: str
    hub: str = HUB
    hubs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    connection: str | None = None
    segment: int = 1000
    last_token: str = ""
    date: str | None = None
    instead: Callable[[web.Request], Awaitable[web.StreamResponse | None]] = as_usual
    asked: list[web.Request] = field(default_factory=list)

    def put(self, instance_id: str, status: str = "Running", created: str | None = None, **more: Any) -> None:
        """Create an instance, or change it."""
        instances = self.hubs.setdefault(self.hub.lower(), {})
        now = created or at(0)
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
        self.asked.append(request)
        if (other := await self.instead(request)) is not None:
            return other
        if request.headers.get("x-functions-key", request.query.get("code")) != KEY:
            return web.Response(status=401)
        if request.query.get("connection") != self.connection:
            return web.json_response({"message": "no such connection"}, status=500)
        # The extension makes the hub that it is asked about.
        instances = self.hubs.setdefault(request.query["taskHub"].lower(), {})
        path = as_the_extension_reads(request.raw_path.partition("?")[0])
        match path.removeprefix(API).strip("/").split("/"):
            case ["instances"]:
                return self._list(request, instances)
            case ["instances", instance_id] if instance_id in instances:
                shown = as_shown(instances[instance_id])
                if shown["runtimeStatus"] in {status.value for status in RUNNING_STATUSES}:
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
        for instance_id in rows[: self.segment]:
            if len(page) == int(query.get("top", "100")):
                break
            seen += 1
            one = instances[instance_id]
            if (not wanted or one["runtimeStatus"] in wanted) and parse_instant(one["createdTime"]) >= since:
                page.append(as_shown(one))
        onward = base64.b64encode(rows[seen].encode()).decode() if seen < len(rows) else self.last_token
        headers = {"x-ms-continuation-token": onward, **({"Date": self.date} if self.date else {})}
        return web.json_response(page, headers=headers)


def as_shown(instance: dict[str, Any]) -> dict[str, Any]:
    """The API cuts times to seconds."""
    return {
        name: f"{value[:19]}Z" if name.endswith("Time") and isinstance(value, str) else value
        for name, value in instance.items()
    }


def as_the_extension_reads(raw_path: str) -> str:
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
async def served(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """A server on loopback; yields its origin."""
    async with listening(answer, patience=0.1) as (port,):
        yield f"http://{HOST}:{port}"


@pytest.fixture
async def app(anyio_backend: str) -> AsyncIterator[App]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await running.answer(request)

    running = App("")
    async with served(answer) as origin:
        running.origin = origin
        yield running


@asynccontextmanager
async def backend_on(origin: str, key: str = KEY, **more: Any) -> AsyncIterator[ManagementApiBackend]:
    made = ManagementApiBackend(origin, key, NAME, **more)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def backend(app: App) -> AsyncIterator[ManagementApiBackend]:
    async with backend_on(app.origin) as made:
        yield made


async def passed(backend: Backend, since: Instant, cursors: tuple[str, ...]) -> list[SourcePage]:
    """All pages that these cursors lead to."""
    pages = []
    left = list(cursors)
    while left:
        page = await backend.page(HUB, since, left.pop(0))
        pages.append(page)
        left.extend(page.cursors)
        assert len(pages) < 200
    return pages


async def scanned(backend: Backend) -> list[Sighting]:
    start = await backend.start(HUB)
    return [one for page in await passed(backend, start.since, start.cursors) for one in page.sightings]


@pytest.fixture(autouse=True)
def no_key_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may log the key, whatever goes wrong in it."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.get_records("call"):
        assert KEY not in record.getMessage()
        assert KEY not in caplog.handler.format(record)
