"""A relay on loopback in place of Event Grid. Workers post events to it, and it delivers them to the state server's
webhook late, out of order, twice, or never."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import httpx
from aiohttp import web

from harness.http_server import HOST, run_http_server

_RETRY_SECONDS = 0.2
_MAX_DELAY_SECONDS = 0.3
_DUPLICATE_RATE = 0.05


@dataclass
class EventRelay:
    """Delivers each event until the server accepts it, except for lost ones.

    - `loss_rate` is the share of events that are lost.
    - `delivered_at` is the time of the last delivery, by `time.monotonic`.
    """

    webhook: Callable[[], str]
    random: Random
    loss_rate: float = 0.0
    url: str = ""
    posted_count: int = 0
    lost_count: int = 0
    delivered_count: int = 0
    delivered_at: float = 0.0
    _pending_deliveries: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def is_idle(self) -> bool:
        """Whether every event that was posted has been delivered or is lost."""
        return not self._pending_deliveries

    async def receive_events(self, request: web.Request) -> web.StreamResponse:
        """Accept events from a worker, and schedule their deliveries."""
        events = json.loads(await request.read())
        for event in events:
            self.posted_count += 1
            if self.random.random() < self.loss_rate:
                self.lost_count += 1
                continue
            for _ in range(2 if self.random.random() < _DUPLICATE_RATE else 1):
                task = asyncio.create_task(self._deliver(event, self.random.random() * _MAX_DELAY_SECONDS))
                self._pending_deliveries.add(task)
                task.add_done_callback(self._pending_deliveries.discard)
        return web.Response(status=200)

    async def _deliver(self, event: object, delay_seconds: float) -> None:
        """Send an event to the webhook after a delay, again and again until the server accepts it."""
        await asyncio.sleep(delay_seconds)
        async with httpx.AsyncClient(timeout=30) as http:
            while True:
                try:
                    response = await http.post(self.webhook(), json=[event])
                except httpx.TransportError:
                    response = None
                if response is not None and response.status_code == 200:
                    self.delivered_count += 1
                    self.delivered_at = time.monotonic()
                    return
                await asyncio.sleep(_RETRY_SECONDS)

    async def close(self) -> None:
        """Give up the deliveries that are still waiting."""
        for task in list(self._pending_deliveries):
            task.cancel()
        await asyncio.gather(*self._pending_deliveries, return_exceptions=True)


@asynccontextmanager
async def run_event_relay(
    webhook: Callable[[], str], random: Random, *, loss_rate: float = 0.0
) -> AsyncIterator[EventRelay]:
    """Run a relay until the block ends. `webhook` returns the current address of the server's operation PostEvents."""
    relay = EventRelay(webhook, random, loss_rate)
    async with run_http_server(relay.receive_events, shutdown_timeout=0.1) as (port,):
        relay.url = f"http://{HOST}:{port}/api/events"
        yield relay
        await relay.close()
