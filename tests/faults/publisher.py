"""Event Grid as a webhook sees it (PLATFORM: Event Grid delivery): several deliveries in flight, in no order, some
twice, each tried again until it is answered with success, at whichever server the address leads to."""

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
"""Seconds between attempts; the last again and again."""
_ATTEMPTS = 30
_SPEED_UP = 100
_LONGEST_WAIT = 2.0
"""Delays are a hundredth of Event Grid's, and never longer than this, so that a test takes seconds. All attempts
together then take 50 s instead of a day: no outage in a test may be longer."""
_NOT_RETRIED = frozenset([400, 401, 403, 413])


@dataclass(order=True)
class _Delivery:
    due: float
    number: int
    events: list[int] = field(compare=False)
    attempts: int = field(compare=False, default=0)


@dataclass
class Publisher:
    """`addresses` may change while it runs: each attempt goes to any of them. `max_batch` is the most events that one
    delivery has; half of the deliveries have one. `duplicate_share` is the share of deliveries that are made twice, and
    `max_displacement` by how many places an event may be out of order. `per_second` holds the events back to that
    rate."""

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
    """By place in `events`, when the first 200 for it came, by the monotonic clock."""
    dropped: Counter[int] = field(default_factory=Counter)
    """Events that are not tried again, by status; 0 for those that had all attempts."""
    retried: Counter[str] = field(default_factory=Counter)
    deliveries: int = 0
    duplicated: int = 0
    quarantined: int = 0
    known_active: set[str] = field(default_factory=set)
    """Orders whose start was acknowledged and of whose end no server has heard yet."""
    _ended: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @property
    def acknowledged_events(self) -> list[dict[str, Any]]:
        """The events that were acknowledged."""
        return [self.events[number] for number in self.acknowledged]

    def summary(self) -> dict[str, int]:
        return {
            "events": len(self.events),
            "acknowledged": len(self.acknowledged),
            "deliveries": self.deliveries,
            "retries": self.retried.total(),
            "duplicates": self.duplicated,
        }

    async def wait_for_share(self, share: float) -> None:
        """Wait until so much of the events is acknowledged."""
        while len(self.acknowledged) < share * len(self.events):
            await asyncio.sleep(0.02)

    async def run(self, events: Sequence[dict[str, Any]]) -> None:
        """Publish these events, and return when each is acknowledged or dropped."""
        first = len(self.events)
        self.events += events
        fresh = deque(self._deliveries(range(first, len(self.events))))
        waiting: list[_Delivery] = []
        open_ones = len(fresh)
        began, released = time.monotonic(), 0

        def following() -> _Delivery | None:
            """The next to be tried: one whose time has come again before one that is new."""
            nonlocal released
            if waiting and waiting[0].due <= time.monotonic():
                return heapq.heappop(waiting)
            held = self.per_second is not None and released > (time.monotonic() - began) * self.per_second
            if not fresh or held:
                return None
            released += len(fresh[0].events)
            return fresh.popleft()

        async def work(session: aiohttp.ClientSession) -> None:
            nonlocal open_ones
            while open_ones:
                delivery = following()
                if delivery is None:
                    await asyncio.sleep(0.03)
                    continue
                again = await self._attempt(session, delivery)
                if again is None:
                    open_ones -= 1
                else:
                    delivery.due = time.monotonic() + again
                    heapq.heappush(waiting, delivery)

        limits = aiohttp.ClientTimeout(total=self.timeout)
        async with aiohttp.ClientSession(timeout=limits, connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(work(session) for _ in range(self.in_flight)))

    def _deliveries(self, numbers: Sequence[int]) -> list[_Delivery]:
        chance = self._random
        order = sorted(numbers, key=lambda number: number + chance.random() * self.max_displacement)
        made: list[_Delivery] = []
        at = 0
        while at < len(order):
            size = 1 if chance.random() < 0.5 else chance.randint(1, self.max_batch)
            made.append(_Delivery(0, len(made), order[at : at + size]))
            at += size
        for twice in [one for one in made if chance.random() < self.duplicate_share]:
            # The second time comes later, perhaps after what came next.
            place = min(len(made), twice.number + chance.randint(1, 40))
            made.insert(place, _Delivery(0, len(made), twice.events))
            self.duplicated += len(twice.events)
        return made

    async def _attempt(self, session: aiohttp.ClientSession, delivery: _Delivery) -> float | None:
        """Deliver once. None if that is the end of it, else how long to wait."""
        events = [self.events[number] for number in delivery.events]
        for one in events:
            if not is_start(one):
                self._ended.add(instance_id_of(one))
                self.known_active.discard(instance_id_of(one))
        delivery.attempts += 1
        self.deliveries += 1
        asked_for: str | None = None
        try:
            async with session.post(f"{self._random.choice(self.addresses)}/api/events", json=events) as answer:
                body = await answer.read()
                asked_for = answer.headers.get("Retry-After")
                status = answer.status
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
        wait = _RETRY_DELAYS_SECONDS[min(delivery.attempts, len(_RETRY_DELAYS_SECONDS)) - 1] / _SPEED_UP
        with contextlib.suppress(ValueError):
            wait = max(wait, float(asked_for or 0))
        return min(wait, _LONGEST_WAIT) * self._random.uniform(0.8, 1.2)

    def _acknowledge(self, numbers: Sequence[int], body: bytes) -> None:
        self.quarantined += b'"quarantined":0' not in body
        now = time.monotonic()
        for number in numbers:
            self.acknowledged.setdefault(number, now)
            one = self.events[number]
            if is_start(one) and instance_id_of(one) not in self._ended:
                self.known_active.add(instance_id_of(one))


@asynccontextmanager
async def publish_in_background(
    publisher: Publisher, events: Sequence[dict[str, Any]]
) -> AsyncIterator["asyncio.Task[None]"]:
    """Publish while the block runs, and to the end after it."""
    running = asyncio.create_task(publisher.run(events))
    try:
        yield running
        await running
    finally:
        running.cancel()
