"""A load generator that takes little of the machine: prepared requests over raw connections."""

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
_RETRY_AFTER = re.compile(rb"^retry-after: *(\d+)", re.IGNORECASE | re.MULTILINE)
_RETRY_STATUSES = (429, 503)
_OK_STATUS = 200
_RETRY_FOR_SECONDS = 120.0


class LoadError(Exception):
    """The server has answered what no figure may be made of."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    status: int
    retry_after: float
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came of a load: events that were recorded, seconds from the first request to the last answer, and how
    many requests were refused and sent again."""

    events: int
    seconds: float
    refused_count: int

    @property
    def events_per_second(self) -> float:
        """Events a second."""
        return self.events / self.seconds


class Connection:
    """One connection that is kept, with one request on it at a time."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._url = url
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> "Connection":
        place = urlsplit(url)
        return cls(url, *await asyncio.open_connection(place.hostname, place.port))

    async def reconnect(self) -> None:
        """Connect again: a server closes what was idle for some seconds."""
        await self.close()
        place = urlsplit(self._url)
        self._reader, self._writer = await asyncio.open_connection(place.hostname, place.port)

    async def send(self, request: bytes) -> HttpResponse:
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head)
        if length is None:
            raise LoadError("an answer without a length")
        body = await self._reader.readexactly(int(length[1]))
        retry_after = _RETRY_AFTER.search(head)
        return HttpResponse(int(head[9:12]), float(retry_after[1]) if retry_after else 1.0, body)

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def connections(url: str, count: int) -> AsyncIterator[list[Connection]]:
    """So many connections to the server, until the block ends."""
    open_connections = [await Connection.open(url) for _ in range(count)]
    try:
        yield open_connections
    finally:
        for one in open_connections:
            await one.close()


def build_post_request(url: str, path: str, body: bytes, method: str = "POST") -> bytes:
    """A request, ready to be sent."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def build_get_request(url: str, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n\r\n".encode()


async def deliver_until_accepted(connection: Connection, request: bytes, events: int) -> int:
    """Deliver until it is accepted, as Event Grid does; how often it was refused before. Raises LoadError when not
    every event of it is recorded: a figure must not be made of events that went to quarantine."""
    refused_count = 0
    deadline = time.monotonic() + _RETRY_FOR_SECONDS
    while True:
        answer = await connection.send(request)
        if answer.status in _RETRY_STATUSES and time.monotonic() < deadline:
            refused_count += 1
            await asyncio.sleep(answer.retry_after)
            await connection.reconnect()
            continue
        # One that was written although its first answer was lost counts as unchanged.
        done = answer.json() if answer.status == _OK_STATUS else {}
        if done.get("recorded", 0) + done.get("unchanged", 0) != events:
            raise LoadError(f"{answer.status} {answer.body[:300]!r}, and {events} events were to be recorded")
        return refused_count


async def run_load(open_connections: Sequence[Connection], requests: Sequence[tuple[bytes, int]]) -> LoadResult:
    """Send these requests, each with its number of events, one at a time on every connection."""
    waiting = iter(requests)
    refused_count = 0

    async def worker(connection: Connection) -> None:
        nonlocal refused_count
        for request, events in waiting:
            refused_count += await deliver_until_accepted(connection, request, events)

    began = time.perf_counter()
    await asyncio.gather(*(worker(connection) for connection in open_connections))
    return LoadResult(sum(events for _, events in requests), time.perf_counter() - began, refused_count)
