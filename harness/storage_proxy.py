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


_SERVICES = ("Table", "Queue", "Blob")
"""The services of a storage account, as connection strings name them."""


@dataclass
class ForwardedRequest:
    """A forwarded request: its method, its path, the number of rows in the response, and the service, such as Table."""

    method: str
    path: str
    rows: int
    service: str


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
        """Forget the requests that were forwarded so far."""
        self.forwarded.clear()


@asynccontextmanager
async def run_storage_proxy(storage: StorageSettings, *, all_services: bool = False) -> AsyncIterator[StorageProxy]:
    """Run a proxy in front of the tables of a storage account; with `all_services`, of its queues and blobs as well.
    Its `settings` lead through the proxy."""
    assert storage.connection_string is not None
    parts = dict(part.split("=", 1) for part in storage.connection_string.get_secret_value().split(";") if part)
    endpoints = {
        service: urlsplit(parts[f"{service}Endpoint"]) for service in _SERVICES if f"{service}Endpoint" in parts
    }
    proxied_services = list(endpoints) if all_services else ["Table"]
    # The emulator closes connections that were idle for 5 s, and requests other than GET are not retried.
    connector = aiohttp.TCPConnector(keepalive_timeout=2)
    async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as session:

        async def forward_request(request: web.Request) -> web.StreamResponse:
            """Send a request to the storage emulator and return its response, with the failures that the test has
            set."""
            # Read port and body first, because a delayed request may outlive its client.
            service = proxied_services[ports.index(_local_port(request))]
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
            target = f"http://{endpoints[service].netloc}{request.raw_path}"
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
                proxy.forwarded.append(ForwardedRequest(request.method, request.path, _count_rows(body), service))
                kept_headers = {
                    name: value
                    for name, value in answer.headers.items()
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "keep-alive")
                }
                return web.Response(status=answer.status, body=body, headers=kept_headers)

        async with run_http_server(forward_request, ports=len(proxied_services)) as ports:
            port_by_service = {service: endpoint.port for service, endpoint in endpoints.items()}
            port_by_service |= dict(zip(proxied_services, ports, strict=True))
            connection = emulator_connection_string(
                HOST,
                ports[0],
                queue_port=port_by_service.get("Queue"),
                blob_port=port_by_service.get("Blob"),
            )
            proxy = StorageProxy(StorageSettings.model_validate({"connection_string": connection}))
            yield proxy


def _local_port(request: web.Request) -> int:
    """The port at which the request arrived, which shows for which storage service it is."""
    assert request.transport is not None
    port: int = request.transport.get_extra_info("sockname")[1]
    return port


async def _send_half(request: web.Request, status: int, body: bytes) -> NoReturn:
    """Send the first half of a response, and abort the connection."""
    half = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
    half.content_length = len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    _abort_connection(request)


def _abort_connection(request: web.Request) -> NoReturn:
    """Close the connection without a response."""
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError


def _count_rows(body: bytes) -> int:
    """The number of rows in the response to a query; 0 for any other response."""
    try:
        response = json.loads(body)
    except ValueError:
        return 0
    return len(response["value"]) if isinstance(response, dict) and isinstance(response.get("value"), list) else 0
