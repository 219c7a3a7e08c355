"""A real HTTP proxy between a server and its storage, which counts requests and fails on demand."""

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
"""A continuation token before the first key, as the emulator writes it."""


@dataclass
class ForwardedRequest:
    """A forwarded request: its method, its path, and the number of rows in the response."""

    method: str
    path: str
    rows: int


async def no_delay(method: str, path: str) -> None:
    """Forward the request at once."""


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
        """The number of empty pages that were inserted."""
        return len(self._pages_preceded_by_empty)

    def needs_empty_page(self, request: web.Request) -> bool:
        """Whether an empty page is to be sent before this page."""
        if not self.insert_empty_pages or request.method != "GET" or not request.path.endswith("()"):
            return False
        fresh = request.raw_path not in self._pages_preceded_by_empty
        self._pages_preceded_by_empty.add(request.raw_path)
        return fresh

    def count_requests_and_rows(self) -> tuple[int, int]:
        """The number of requests and of rows since the last `clear`."""
        return len(self.forwarded), sum(request.rows for request in self.forwarded)

    def clear(self) -> None:
        self.forwarded.clear()


@asynccontextmanager
async def run_storage_proxy(storage: StorageSettings, *, include_queues: bool = False) -> AsyncIterator[StorageProxy]:
    """Run a proxy in front of the tables of a storage account, and of its queues if asked. Its `settings` lead through
    the proxy."""
    assert storage.connection_string is not None
    parts = dict(part.split("=", 1) for part in storage.connection_string.get_secret_value().split(";") if part)
    host = urlsplit(parts["TableEndpoint"]).hostname
    table_port, queue_port, blob_port = (
        urlsplit(parts[name]).port if name in parts else None
        for name in ("TableEndpoint", "QueueEndpoint", "BlobEndpoint")
    )
    assert table_port is not None
    proxied_ports = [table_port, *([queue_port] if include_queues and queue_port is not None else [])]
    # The emulator closes connections that were idle for 5 s, and requests other than GET are not retried.
    connector = aiohttp.TCPConnector(keepalive_timeout=2)
    async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            # Read the body first, because a delayed request may outlive its client.
            request_body = await request.read()
            await proxy.before_request(request.method, request.path)
            status = proxy.failure_status(request.method, request.path)
            if status == 0:
                _abort_connection(request)
            if status is not None:
                return web.json_response({"odata.error": {"code": "Injected"}}, status=status, headers=proxy.headers)
            if proxy.needs_empty_page(request):
                token = request.query.get("NextPartitionKey", _FIRST_CONTINUATION)
                return web.json_response({"value": []}, headers={"x-ms-continuation-NextPartitionKey": token})
            headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
            target = f"http://{host}:{target_ports[request.url.port]}{request.raw_path}"
            # The URL is already encoded. Encoding it again would change escaped keys.
            url = URL(target, encoded=True)
            # No headers are added, because the signature covers the content type.
            async with session.request(
                request.method,
                url,
                headers=headers,
                data=request_body or None,
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

        async with run_http_server(forward, len(proxied_ports)) as ports:
            target_ports: dict[int | None, int] = dict(zip(ports, proxied_ports, strict=True))
            if len(ports) > 1:
                queue_port = ports[1]
            connection = emulator_connection_string(HOST, ports[0], queue_port=queue_port, blob_port=blob_port)
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
        response = json.loads(body)
    except ValueError:
        return 0
    return len(response["value"]) if isinstance(response, dict) and isinstance(response.get("value"), list) else 0
