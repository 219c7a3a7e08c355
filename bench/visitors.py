"""Visitors of an app behind a router: they send requests all the time, with and without cookies, and keep what each
response shows."""

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bench.load_generator import Connection, HttpResponse, LoadError, open_connections

CONNECTIONS = 8
"""Connections to the router. Each has one request in flight."""
PAUSE_SECONDS = 0.015
"""The pause on a connection after a response, so that the load leaves most of the machine to what is measured."""
_STICKY_COOKIE = re.compile(rb"^set-cookie: *(release=[^;\r]*)", re.IGNORECASE | re.MULTILINE)
_OK_STATUS = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """The release that has answered a request, and when, in seconds of `time.perf_counter`."""

    at: float
    release: str


@dataclass(slots=True)
class Visitor:
    """A visitor, and the releases that have answered, each once for every stay."""

    keeps_cookies: bool = False
    cookie: bytes | None = None
    stays: list[str] = field(default_factory=list)
    request_count: int = 0

    def build_request(self, url: str) -> bytes:
        """The bytes of the next request."""
        cookie = b"Cookie: " + self.cookie + b"\r\n" if self.cookie is not None else b""
        return f"GET / HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n".encode() + cookie + b"\r\n"

    def keep(self, response: HttpResponse) -> str:
        """Keep what a response shows. Returns the release that has answered."""
        release = response.body.decode()
        sticky = _STICKY_COOKIE.search(response.head)
        if self.keeps_cookies and sticky is not None:
            self.cookie = sticky[1]
        if self.stays[-1:] != [release]:
            self.stays.append(release)
        self.request_count += 1
        return release


@dataclass(slots=True)
class Traffic:
    """The answers so far, and a description of each request that failed."""

    visitors: Sequence[Visitor]
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def wait_for_all(self) -> None:
        """Wait until each visitor has sent a request from now on, and has got its response. Raises TimeoutError after a
        minute."""
        # The next response may belong to a request that was sent before.
        targets = [visitor.request_count + 2 for visitor in self.visitors]
        async with asyncio.timeout(60):
            while any(visitor.request_count < target for visitor, target in zip(self.visitors, targets, strict=True)):
                self.check()
                await asyncio.sleep(PAUSE_SECONDS)

    def check(self) -> None:
        """Raises LoadError if a request has failed."""
        if self.failures:
            raise LoadError(f"{len(self.failures)} requests failed: {'; '.join(self.failures[:3])}")

    def find_last_answer(self, release: str) -> float:
        """When this release has answered for the last time so far; 0 if it never has."""
        return next((answer.at for answer in reversed(self.answers) if answer.release == release), 0)


@asynccontextmanager
async def run_traffic(url: str, visitors: Sequence[Visitor]) -> AsyncIterator[Traffic]:
    """Send requests until the block ends. Raises LoadError at the end if one has failed."""
    traffic, is_over = Traffic(visitors), asyncio.Event()
    connection_count = min(CONNECTIONS, len(visitors))

    async def send_requests(connection: Connection, own_visitors: deque[Visitor]) -> None:
        """Send one request after the other over a connection, of its visitors in turns."""
        while not is_over.is_set():
            visitor = own_visitors[0]
            own_visitors.rotate(-1)
            try:
                response = await connection.send(visitor.build_request(url))
            except (LoadError, EOFError, OSError) as error:
                traffic.failures.append(f"{type(error).__name__}: {error}")
                await connection.reconnect()
                continue
            if response.status == _OK_STATUS:
                traffic.answers.append(Answer(time.perf_counter(), visitor.keep(response)))
            else:
                traffic.failures.append(f"{response.status} {response.body[:100]!r}")
            await asyncio.sleep(PAUSE_SECONDS)

    async with open_connections(url, connection_count) as connections:
        tasks = [
            asyncio.create_task(send_requests(connection, deque(visitors[number::connection_count])))
            for number, connection in enumerate(connections)
        ]
        try:
            yield traffic
            is_over.set()
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    traffic.check()
