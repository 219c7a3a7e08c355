"""A real HTTP proxy between a server and its storage: counts what passes, and fails when it is told to."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

from state_api.settings import StorageSettings, emulator_connection
from tests.loopback import HOST, listening

_FIRST = base64.b64encode(b" ").decode()
"""A continuation from before the first key, as the emulator writes it."""


@dataclass
class Passed:
    """One request that went through: its method, what it was for, and how many rows came back."""

    method: str
    path: str
    rows: int


async def at_once(method: str, path: str) -> None:
    """Nothing to wait for."""


@dataclass
class StorageProxy:
    """`fail` decides per request whether to answer with a status of its own, with `headers`; 0 cuts the connection
    instead. What `lose` names reaches the storage, but the answer never comes back. `cut_bodies` breaks off in the
    middle of every answer, and `empty_pages` puts an empty page with a continuation before every page of a query, as
    the service may do. `before` is awaited before a request passes."""

    settings: StorageSettings
    passed: list[Passed] = field(default_factory=list)
    fail: Callable[[str, str], int | None] = lambda method, path: None
    lose: Callable[[str, str], bool] = lambda method, path: False
    before: Callable[[str, str], Awaitable[None]] = at_once
    headers: dict[str, str] = field(default_factory=dict)
    cut_bodies: bool = False
    empty_pages: bool = False
    _emptied: set[str] = field(default_factory=set)

    @property
    def emptied(self) -> int:
        """How many empty pages there were."""
        return len(self._emptied)

    def empties(self, request: web.Request) -> bool:
        """Whether this page is to be preceded by an empty one."""
        if not self.empty_pages or request.method != "GET" or not request.path.endswith("()"):
            return False
        fresh = request.raw_path not in self._emptied
        self._emptied.add(request.raw_path)
        return fresh

    def count(self) -> tuple[int, int]:
        """Requests and rows since the last `clear`."""
        return len(self.passed), sum(one.rows for one in self.passed)

    def clear(self) -> None:
        self.passed.clear()


@asynccontextmanager
async def storage_proxy(storage: StorageSettings) -> AsyncIterator[StorageProxy]:
    """Stand between; yields the settings of a storage whose tables are reached through the proxy."""
    assert storage.connection_string is not None
    parts = dict(part.split("=", 1) for part in storage.connection_string.get_secret_value().split(";") if part)
    endpoint = urlsplit(parts["TableEndpoint"])
    others = [urlsplit(parts[name]).port if name in parts else None for name in ("QueueEndpoint", "BlobEndpoint")]
    # The emulator closes what was idle for 5 s, and a request that is no GET would fail over it.
    connector = aiohttp.TCPConnector(keepalive_timeout=2)
    async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            # Whole before anything else: a request that is held back outlives its sender.
            content = await request.read()
            await proxy.before(request.method, request.path)
            status = proxy.fail(request.method, request.path)
            if status == 0:
                _cut(request)
            if status is not None:
                return web.json_response({"odata.error": {"code": "Injected"}}, status=status, headers=proxy.headers)
            if proxy.empties(request):
                place = request.query.get("NextPartitionKey", _FIRST)
                return web.json_response({"value": []}, headers={"x-ms-continuation-NextPartitionKey": place})
            headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
            target = f"http://{endpoint.hostname}:{endpoint.port}{request.raw_path}"
            # The address as it came: a key that was escaped once must not be escaped twice.
            url = URL(target, encoded=True)
            # Nothing is added: the signature covers the content type.
            async with session.request(
                request.method,
                url,
                headers=headers,
                data=content or None,
                skip_auto_headers=["Content-Type", "Accept-Encoding", "User-Agent", "Accept"],
            ) as answer:
                body = await answer.read()
                if proxy.cut_bodies and body:
                    await _break_off(request, answer.status, body)
                if proxy.lose(request.method, request.path):
                    _cut(request)
                proxy.passed.append(Passed(request.method, request.path, _rows(body)))
                kept = {
                    name: value
                    for name, value in answer.headers.items()
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "keep-alive")
                }
                return web.Response(status=answer.status, body=body, headers=kept)

        async with listening(forward) as (port,):
            connection = emulator_connection(HOST, port, *others)
            proxy = StorageProxy(StorageSettings.model_validate({"connection_string": connection}))
            yield proxy


async def _break_off(request: web.Request, status: int, body: bytes) -> NoReturn:
    half = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
    half.content_length = len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    _cut(request)


def _cut(request: web.Request) -> NoReturn:
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError


def _rows(body: bytes) -> int:
    try:
        content = json.loads(body)
    except ValueError:
        return 0
    return len(content["value"]) if isinstance(content, dict) and isinstance(content.get("value"), list) else 0
