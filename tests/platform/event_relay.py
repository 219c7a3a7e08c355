"""A loopback relay in place of Event Grid: workers post to it, and it delivers to the state server's webhook, late, out
of order, twice, or never."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import httpx
from aiohttp import web

from tests.loopback import HOST, listening

_RETRY_SECONDS = 0.2
_LATEST_SECONDS = 0.3
_TWICE = 0.05


@dataclass
class EventRelay:
    """`loss` is the share of events that never arrive. `delivered_at` is when the last one was recorded, by
    `time.monotonic`. Delivery is tried again until the server takes the event."""

    webhook: Callable[[], str]
    random: Random
    loss: float = 0.0
    url: str = ""
    posted: int = 0
    lost: int = 0
    delivered: int = 0
    delivered_at: float = 0.0
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def idle(self) -> bool:
        """Whether every event that was posted has arrived or is lost."""
        return not self._under_way

    async def take(self, request: web.Request) -> web.StreamResponse:
        events = json.loads(await request.read())
        for event in events:
            self.posted += 1
            if self.random.random() < self.loss:
                self.lost += 1
                continue
            for _ in range(2 if self.random.random() < _TWICE else 1):
                task = asyncio.create_task(self._deliver(event, self.random.random() * _LATEST_SECONDS))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
        return web.Response(status=200)

    async def _deliver(self, event: object, delay: float) -> None:
        await asyncio.sleep(delay)
        async with httpx.AsyncClient(timeout=30) as http:
            while True:
                try:
                    answer = await http.post(self.webhook(), json=[event])
                except httpx.TransportError:
                    answer = None
                if answer is not None and answer.status_code == 200:
                    self.delivered += 1
                    self.delivered_at = time.monotonic()
                    return
                await asyncio.sleep(_RETRY_SECONDS)

    async def close(self) -> None:
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


@asynccontextmanager
async def event_relay(webhook: Callable[[], str], random: Random, *, loss: float = 0.0) -> AsyncIterator[EventRelay]:
    """A relay until the block ends. `webhook` gives the address of the server's events operation now."""
    relay = EventRelay(webhook, random, loss)
    async with listening(relay.take, patience=0.1) as (port,):
        relay.url = f"http://{HOST}:{port}/api/events"
        yield relay
        await relay.close()
