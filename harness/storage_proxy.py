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

from harness.http_server import HOST, run_http_server
from state_api.settings import StorageSettings, emulator_connection_string

_FIRST_CONTINUATION = base64.b64encode(b" ").decode()
"""A continuation from before the first key, as the emulator writes it."""


@dataclass
class ForwardedRequest:
    """One request that went through: its method, what it was for, and how many rows came back."""

    method: str
    path: str
    rows: int


async def no_delay(method: str, path: str) -> None:
    """Nothing to wait for."""


@dataclass
class StorageProxy:
    """The proxy's settings, which a test may change at any time, and the requests that it forwarded.

    - `failure_status(method, path)` returns the HTTP status to answer with instead of forwarding, with `headers`;
      0 aborts the connection, None forwards the request.
    - `drops_response(method, path)`: the storage handles the request, and the connection is aborted unanswered.
    - `truncate_responses` sends half of each body and aborts the connection.
    - `insert_empty_pages` sends an empty page with a continuation token before each page of a query, as Azure may do.
    - `before_request(method, path)` is awaited before a request is forwarded.
    """

    settings: StorageSettings
    forwarded: list[ForwardedRequest] = field(default_factory=list)
    failure_status: Callable[[str, str], int | None] = lambda method, path: None
    drops_response: Callable[[str, str], bool] = lambda method, path: False
    before_request: Callable[[str, str], Awaitable[None]] = no_delay
    headers: dict[str, str] = field(default_factory=dict)
    truncate_responses: bool = False
    insert_empty_pages: bool = False
    _pages_preceded_by_empty: set[str] = field(default_factory=set)

    @property
    def empty_page_count(self) -> int:
        """How many empty pages there were."""
        return len(self._pages_preceded_by_empty)

    def needs_empty_page(self, request: web.Request) -> bool:
        """Whether this page is to be preceded by an empty one."""
        if not self.insert_empty_pages or request.method != "GET" or not request.path.endswith("()"):
            return False
        fresh = request.raw_path not in self._pages_preceded_by_empty
        self._pages_preceded_by_empty.add(request.raw_path)
        return fresh

    def count_requests_and_rows(self) -> tuple[int, int]:
        """Requests and rows since the last `clear`."""
        return len(self.forwarded), sum(one.rows for one in self.forwarded)

    def clear(self) -> None:
        self.forwarded.clear()


@asynccontextmanager
async def run_storage_proxy(storage: StorageSettings) -> AsyncIterator[StorageProxy]:
    """Stand between; yields the settings of a storage whose tables are reached through the proxy."""
    assert storage.connection_string is not None
    parts = dict(part.split("=", 1) for part in storage.connection_string.get_secret_value().split(";") if part)
    endpoint = urlsplit(parts["TableEndpoint"])
    queue_port, blob_port = (
        urlsplit(parts[name]).port if name in parts else None for name in ("QueueEndpoint", "BlobEndpoint")
    )
    # The emulator closes what was idle for 5 s, and a request that is no GET would fail over it.
    connector = aiohttp.TCPConnector(keepalive_timeout=2)
    async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            # Whole before anything else: a request that is held back outlives its sender.
            content = await request.read()
            await proxy.before_request(request.method, request.path)
            status = proxy.failure_status(request.method, request.path)
            if status == 0:
                _abort_connection(request)
            if status is not None:
                return web.json_response({"odata.error": {"code": "Injected"}}, status=status, headers=proxy.headers)
            if proxy.needs_empty_page(request):
                place = request.query.get("NextPartitionKey", _FIRST_CONTINUATION)
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
                if proxy.truncate_responses and body:
                    await _send_half(request, answer.status, body)
                if proxy.drops_response(request.method, request.path):
                    _abort_connection(request)
                proxy.forwarded.append(ForwardedRequest(request.method, request.path, _count_rows(body)))
                kept = {
                    name: value
                    for name, value in answer.headers.items()
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "keep-alive")
                }
                return web.Response(status=answer.status, body=body, headers=kept)

        async with run_http_server(forward) as (port,):
            connection = emulator_connection_string(HOST, port, queue_port=queue_port, blob_port=blob_port)
            proxy = StorageProxy(StorageSettings.model_validate({"connection_string": connection}))
            yield proxy


async def _send_half(request: web.Request, status: int, body: bytes) -> NoReturn:
    half = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
    half.content_length = len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    _abort_connection(request)


def _abort_connection(request: web.Request) -> NoReturn:
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError


def _count_rows(body: bytes) -> int:
    try:
        content = json.loads(body)
    except ValueError:
        return 0
    return len(content["value"]) if isinstance(content, dict) and isinstance(content.get("value"), list) else 0
