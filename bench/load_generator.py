"""A load generator that uses little processor time: prepared requests over raw connections."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_CONTENT_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(rb"^transfer-encoding: *chunked", re.IGNORECASE | re.MULTILINE)
_RETRY_AFTER = re.compile(rb"^retry-after: *(\d+)", re.IGNORECASE | re.MULTILINE)
_RETRY_STATUSES = (429, 503)
_OK_STATUS = 200
_RETRY_FOR_SECONDS = 120.0


class LoadError(Exception):
    """A response that makes the measurement invalid."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response. `head` is its status line and headers, as received; `retry_after` is in seconds."""

    status: int
    retry_after: float
    body: bytes
    head: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The result of a load.

    `seconds` pass from the first request to the last response; `refused_count` requests were refused and sent again."""

    events: int
    seconds: float
    refused_count: int

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds


class Connection:
    """A persistent HTTP connection, for one request at a time."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._url = url
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> "Connection":
        """Open a connection that stays open for many requests."""
        address = urlsplit(url)
        return cls(url, *await asyncio.open_connection(address.hostname, address.port))

    async def reconnect(self) -> None:
        """Connect again, because a server closes connections that are idle for some seconds."""
        await self.close()
        address = urlsplit(self._url)
        self._reader, self._writer = await asyncio.open_connection(address.hostname, address.port)

    async def send(self, request: bytes) -> HttpResponse:
        """Send a complete request, and read its response. Raises LoadError if the end of its body is unknown."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head)
        if length is not None:
            body = await self._reader.readexactly(int(length[1]))
        elif _CHUNKED.search(head) is not None:
            body = await self._read_chunks()
        else:
            raise LoadError("the response has neither Content-Length nor chunks")
        retry_after = _RETRY_AFTER.search(head)
        return HttpResponse(int(head[9:12]), float(retry_after[1]) if retry_after else 1.0, body, head)

    async def _read_chunks(self) -> bytes:
        """Read a body with chunked transfer encoding. Each chunk is preceded by its length in hexadecimal digits, and
        ends with CR LF."""
        body = b""
        while True:
            length = int((await self._reader.readline()).partition(b";")[0], 16)
            chunk = await self._reader.readexactly(length + 2)
            if length == 0:
                return body
            body += chunk[:-2]

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def open_connections(url: str, count: int) -> AsyncIterator[list[Connection]]:
    """Open `count` connections to the server, until the block ends."""
    opened = [await Connection.open(url) for _ in range(count)]
    try:
        yield opened
    finally:
        for connection in opened:
            await connection.close()


def build_post_request(url: str, path: str, body: bytes, method: str = "POST") -> bytes:
    """The bytes of a request with a JSON body."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def build_get_request(url: str, path: str) -> bytes:
    """The bytes of an HTTP/1.1 GET request, built before the measurement begins."""
    return f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n\r\n".encode()


async def deliver_until_accepted(connection: Connection, request: bytes, events: int) -> int:
    """Send a delivery until it is accepted, as Event Grid does. Returns how often it was refused before.

    Raises LoadError unless every event is recorded: events in quarantine would make the measurement invalid."""
    refused_count = 0
    deadline = time.monotonic() + _RETRY_FOR_SECONDS
    while True:
        response = await connection.send(request)
        if response.status in _RETRY_STATUSES and time.monotonic() < deadline:
            refused_count += 1
            await asyncio.sleep(response.retry_after)
            await connection.reconnect()
            continue
        # An event that was written by an earlier, unanswered attempt counts as unchanged.
        counts = response.json() if response.status == _OK_STATUS else {}
        if counts.get("recorded", 0) + counts.get("unchanged", 0) != events:
            raise LoadError(f"not all of {events} events were recorded: {response.status} {response.body[:300]!r}")
        return refused_count


async def run_load(connections: Sequence[Connection], requests: Sequence[tuple[bytes, int]]) -> LoadResult:
    """Send requests, each with its number of events, one at a time on every connection."""
    waiting = iter(requests)
    refused_count = 0

    async def send_waiting_requests(connection: Connection) -> None:
        """Send requests over one connection until none waits. All connections take from the same requests."""
        nonlocal refused_count
        for request, events in waiting:
            refused_count += await deliver_until_accepted(connection, request, events)

    began = time.perf_counter()
    await asyncio.gather(*(send_waiting_requests(connection) for connection in connections))
    return LoadResult(sum(events for _, events in requests), time.perf_counter() - began, refused_count)
