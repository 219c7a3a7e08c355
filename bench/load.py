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

_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)
_RETRY_AFTER = re.compile(rb"^retry-after: *(\d+)", re.IGNORECASE | re.MULTILINE)
_REFUSED = (429, 503)
_OK = 200
_PATIENCE = 120.0


class LoadError(Exception):
    """The server has answered what no figure may be made of."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    retry_after: float
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Drive:
    """What came of a load: events that were recorded, seconds from the first request to the last answer, and how
    many requests were refused and sent again."""

    events: int
    seconds: float
    refused: int

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


class Connection:
    """One connection that is kept, with one request on it at a time."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._url = url
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, url: str) -> "Connection":
        place = urlsplit(url)
        return cls(url, *await asyncio.open_connection(place.hostname, place.port))

    async def renew(self) -> None:
        """Connect again: a server closes what was idle for some seconds."""
        await self.close()
        place = urlsplit(self._url)
        self._reader, self._writer = await asyncio.open_connection(place.hostname, place.port)

    async def send(self, request: bytes) -> Answer:
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is None:
            raise LoadError("an answer without a length")
        body = await self._reader.readexactly(int(length[1]))
        retry_after = _RETRY_AFTER.search(head)
        return Answer(int(head[9:12]), float(retry_after[1]) if retry_after else 1.0, body)

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def connections(url: str, count: int) -> AsyncIterator[list[Connection]]:
    """So many connections to the server, until the block ends."""
    opened = [await Connection.to(url) for _ in range(count)]
    try:
        yield opened
    finally:
        for one in opened:
            await one.close()


def post(url: str, path: str, body: bytes, method: str = "POST") -> bytes:
    """A request, ready to be sent."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(url: str, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n\r\n".encode()


async def deliver(connection: Connection, request: bytes, events: int) -> int:
    """Deliver until it is accepted, as Event Grid does; how often it was refused before. Raises LoadError when not
    every event of it is recorded: a figure must not be made of events that went to quarantine."""
    refused = 0
    deadline = time.monotonic() + _PATIENCE
    while True:
        answer = await connection.send(request)
        if answer.status in _REFUSED and time.monotonic() < deadline:
            refused += 1
            await asyncio.sleep(answer.retry_after)
            await connection.renew()
            continue
        # One that was written although its first answer was lost counts as unchanged.
        done = answer.json() if answer.status == _OK else {}
        if done.get("recorded", 0) + done.get("unchanged", 0) != events:
            raise LoadError(f"{answer.status} {answer.body[:300]!r}, and {events} events were to be recorded")
        return refused


async def drive(opened: Sequence[Connection], requests: Sequence[tuple[bytes, int]]) -> Drive:
    """Send these requests, each with its number of events, one at a time on every connection."""
    waiting = iter(requests)
    refused = 0

    async def worker(connection: Connection) -> None:
        nonlocal refused
        for request, events in waiting:
            refused += await deliver(connection, request, events)

    began = time.perf_counter()
    await asyncio.gather(*(worker(connection) for connection in opened))
    return Drive(sum(events for _, events in requests), time.perf_counter() - began, refused)
