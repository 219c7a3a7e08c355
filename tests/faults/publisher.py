"""Delivers events as Event Grid does (PLATFORM: Event Grid delivery): several deliveries in flight, out of order, some
of them twice, and each until it succeeds, to any of the servers."""

import asyncio
import contextlib
import heapq
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.faults.event_stream import instance_id_of, is_start

_RETRY_DELAYS_SECONDS = (10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200)
"""The delay after each attempt; the last one repeats."""
_ATTEMPTS = 30
_SPEED_UP = 100
_MAX_DELAY_SECONDS = 2.0
"""The longest delay. Delays are a hundredth of Event Grid's, so that a test takes seconds. All attempts together take
50 s instead of a day, so an outage in a test must be shorter."""
_NOT_RETRIED = frozenset([400, 401, 403, 413])


@dataclass(order=True)
class _Delivery:
    due: float
    number: int
    events: list[int] = field(compare=False)
    attempts: int = field(compare=False, default=0)


@dataclass
class Publisher:
    """Sends events to the servers until each event is acknowledged. Half of the deliveries have one event.

    - `addresses`: each attempt goes to one of these. They may change while the publisher runs.
    - `max_batch`: the maximum number of events in the other deliveries.
    - `duplicate_share`: the share of deliveries that are sent twice.
    - `max_displacement`: by how many positions an event may be out of order.
    - `per_second`: limits the events per second.
    - `timeout`: in seconds.
    """

    addresses: list[str]
    seed: int
    max_batch: int = 50
    in_flight: int = 16
    duplicate_share: float = 0.05
    max_displacement: int = 200
    timeout: float = 30
    per_second: float | None = None

    events: list[dict[str, Any]] = field(default_factory=list)
    acknowledged: dict[int, float] = field(default_factory=dict)
    """By index in `events`, the time of its first successful response, by the monotonic clock."""
    dropped: Counter[int] = field(default_factory=Counter)
    """Events that are not sent again, by status; 0 for those whose attempts are used up."""
    retried: Counter[str] = field(default_factory=Counter)
    deliveries: int = 0
    duplicated: int = 0
    quarantined: int = 0
    known_active: set[str] = field(default_factory=set)
    """Orders whose start was acknowledged and whose end has not been sent."""
    _ended: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Seed the random choices, so that a run can be repeated."""
        self._random = random.Random(self.seed)

    @property
    def acknowledged_events(self) -> list[dict[str, Any]]:
        """The events that a server has acknowledged."""
        return [self.events[number] for number in self.acknowledged]

    def summary(self) -> dict[str, int]:
        """The measurements of this publisher."""
        return {
            "events": len(self.events),
            "acknowledged": len(self.acknowledged),
            "deliveries": self.deliveries,
            "retries": self.retried.total(),
            "duplicates": self.duplicated,
        }

    async def wait_for_share(self, share: float) -> None:
        """Wait until this share of the events is acknowledged."""
        while len(self.acknowledged) < share * len(self.events):
            await asyncio.sleep(0.02)

    async def run(self, events: Sequence[dict[str, Any]]) -> None:
        """Publish events. Returns when each is acknowledged or dropped."""
        first = len(self.events)
        self.events += events
        new_deliveries = deque(self._create_deliveries(range(first, len(self.events))))
        retries: list[_Delivery] = []
        unfinished_count = len(new_deliveries)
        began_at, released_count = time.monotonic(), 0

        def next_delivery() -> _Delivery | None:
            """A retry that is due, or else a new delivery; None if neither can be sent now."""
            nonlocal released_count
            if retries and retries[0].due <= time.monotonic():
                return heapq.heappop(retries)
            is_ahead = self.per_second is not None and released_count > (time.monotonic() - began_at) * self.per_second
            if not new_deliveries or is_ahead:
                return None
            released_count += len(new_deliveries[0].events)
            return new_deliveries.popleft()

        async def send_deliveries(session: aiohttp.ClientSession) -> None:
            """Send deliveries one after another until all are acknowledged. One that is refused is sent again later."""
            nonlocal unfinished_count
            while unfinished_count:
                delivery = next_delivery()
                if delivery is None:
                    await asyncio.sleep(0.03)
                    continue
                retry_delay = await self._attempt(session, delivery)
                if retry_delay is None:
                    unfinished_count -= 1
                else:
                    delivery.due = time.monotonic() + retry_delay
                    heapq.heappush(retries, delivery)

        limits = aiohttp.ClientTimeout(total=self.timeout)
        async with aiohttp.ClientSession(timeout=limits, connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(send_deliveries(session) for _ in range(self.in_flight)))

    def _create_deliveries(self, numbers: Sequence[int]) -> list[_Delivery]:
        """Distribute these events over deliveries, out of order, and duplicate some deliveries."""
        rng = self._random
        order = sorted(numbers, key=lambda number: number + rng.random() * self.max_displacement)
        deliveries: list[_Delivery] = []
        start = 0
        while start < len(order):
            size = 1 if rng.random() < 0.5 else rng.randint(1, self.max_batch)
            deliveries.append(_Delivery(0, len(deliveries), order[start : start + size]))
            start += size
        for duplicated in [delivery for delivery in deliveries if rng.random() < self.duplicate_share]:
            # The duplicate is sent up to 40 deliveries after the first one.
            position = min(len(deliveries), duplicated.number + rng.randint(1, 40))
            deliveries.insert(position, _Delivery(0, len(deliveries), duplicated.events))
            self.duplicated += len(duplicated.events)
        return deliveries

    async def _attempt(self, session: aiohttp.ClientSession, delivery: _Delivery) -> float | None:
        """Send a delivery once. Returns the seconds until its next attempt; None if there is none."""
        events = [self.events[number] for number in delivery.events]
        for event in events:
            if not is_start(event):
                self._ended.add(instance_id_of(event))
                self.known_active.discard(instance_id_of(event))
        delivery.attempts += 1
        self.deliveries += 1
        retry_after: str | None = None
        try:
            async with session.post(f"{self._random.choice(self.addresses)}/api/events", json=events) as response:
                body = await response.read()
                retry_after = response.headers.get("Retry-After")
                status = response.status
            if 200 <= status <= 204:
                self._acknowledge(delivery.events, body)
                return None
            if status in _NOT_RETRIED:
                self.dropped[status] += len(events)
                return None
            self.retried[str(status)] += 1
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.retried[type(error).__name__] += 1
        if delivery.attempts == _ATTEMPTS:
            self.dropped[0] += len(events)
            return None
        delay = _RETRY_DELAYS_SECONDS[min(delivery.attempts, len(_RETRY_DELAYS_SECONDS)) - 1] / _SPEED_UP
        with contextlib.suppress(ValueError):
            delay = max(delay, float(retry_after or 0))
        return min(delay, _MAX_DELAY_SECONDS) * self._random.uniform(0.8, 1.2)

    def _acknowledge(self, numbers: Sequence[int], body: bytes) -> None:
        """Remember that the server has acknowledged these events. What they start is active until an end is sent."""
        self.quarantined += b'"quarantined":0' not in body
        now = time.monotonic()
        for number in numbers:
            self.acknowledged.setdefault(number, now)
            event = self.events[number]
            if is_start(event) and instance_id_of(event) not in self._ended:
                self.known_active.add(instance_id_of(event))


@asynccontextmanager
async def publish_in_background(
    publisher: Publisher, events: Sequence[dict[str, Any]]
) -> AsyncIterator["asyncio.Task[None]"]:
    """Publish while the block runs, and wait for the end of it afterwards."""
    publishing = asyncio.create_task(publisher.run(events))
    try:
        yield publishing
        await publishing
    finally:
        publishing.cancel()
