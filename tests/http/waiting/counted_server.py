"""A server whose requests to the state storage are counted, and requests to it that wait until a slot is Ready."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.waiting import VerificationIntervals
from state_api.domain.releases.apps import Caller
from state_api.services.app_watch import WaitIntervals
from state_api.services.slot_status import SlotStatus, StatusQuestion
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from tests.backends.storage_account import connection_string_of
from tests.builders import event
from tests.conftest import NO_EVENT_LEASE, ShiftedClock
from tests.http.operations import get_staging, post_events, post_staging, put_app, run_headers

SCALE = 1 / 20
"""Times of the server in these tests are shorter by this factor: one second stands for twenty."""

SHORT_INTERVALS = WaitIntervals(
    per_request=2 * SCALE,
    idle=10 * SCALE,
    connection_check=SCALE,
    verification=VerificationIntervals(look_up=5 * SCALE, longest=30 * SCALE),
)
NO_POLLING = WaitIntervals(per_request=1e6)
"""With these, only what the server itself records or knows in advance ends a wait."""

LONG_WAIT_SECONDS = 100
TEST_TIMEOUT_SECONDS = 60
"""A wait that has not ended by then has missed its reason to end."""

FIRST_AND_LAST_QUESTIONS = 4
"""How often requests that wait at the same time ask at the beginning and at the end: requests that come while another
one reads share the next read."""


@dataclass
class CountedServer:
    """A server, with a proxy that counts its requests to the state storage."""

    proxy: StorageProxy
    server: StateServer
    http: httpx.AsyncClient
    clock: ShiftedClock

    async def wait_for_ready(
        self,
        app: str,
        wait_seconds: float = LONG_WAIT_SECONDS,
        *,
        slot: str = "staging",
        run_url: str | None = None,
        mode: VerificationMode = VerificationMode.CACHED,
        is_disconnected: Callable[[], Awaitable[bool]] | None = None,
    ) -> SlotStatus:
        """Ask for the status of a slot, and wait until it is ready or the time is up."""
        question = StatusQuestion(app, slot, Caller("anna", run_url), mode)
        return await self.server.services.readiness.wait_for_status(
            question, wait_seconds=wait_seconds, is_disconnected=is_disconnected or is_never_disconnected
        )

    async def start_waiting(self, app: str, **options: Any) -> asyncio.Task[SlotStatus]:
        """A request that waits and has been found NotReady once."""
        waiting = asyncio.create_task(self.wait_for_ready(app, **options))
        await self.wait_until_idle(waiting)
        return waiting

    async def wait_until_idle(self, *waiting: asyncio.Task[SlotStatus]) -> None:
        """Wait until all first questions are answered. The requests must not end by that."""
        (watch,) = await self._find_watches()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while any(group.outlook is None or group.is_busy for group in watch._groups.values()):
                await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)

    async def _find_watches(self) -> list[Any]:
        """The watches of the server, once there are any."""
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while not (watches := list(self.server.services.readiness._waiting._watches.values())):
                await asyncio.sleep(0.01)
        return watches

    def count_reads(self) -> int:
        """The number of storage requests since the last `clear`, without writes."""
        return sum(request.method == "GET" for request in self.proxy.forwarded)

    async def count_requests_of_question(self, app: str) -> int:
        """What one question costs."""
        await get_staging(self.http, app)
        self.proxy.clear()
        await get_staging(self.http, app)
        count = self.count_reads()
        self.proxy.clear()
        return count


async def is_never_disconnected() -> bool:
    return False


@asynccontextmanager
async def counted_server(
    storage: StorageSettings, intervals: WaitIntervals = SHORT_INTERVALS
) -> AsyncIterator[CountedServer]:
    """A server whose storage requests are counted. At the end no watch and no task of it may be left."""
    tasks_before = asyncio.all_tasks()
    async with run_storage_proxy(storage) as proxy:
        clock = ShiftedClock()
        connections = TaskHubConnections({"STATE_TASKHUBS_SHOP": connection_string_of(storage)})
        settings = Settings(storage=proxy.settings, connections=connections)
        server = StateServer(settings, clock, NO_EVENT_LEASE, wait_intervals=intervals)
        clock.storage = server.tables.clock
        transport = httpx.ASGITransport(server.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as client:
            yield CountedServer(proxy, server, client, clock)
        await server.close()
        assert not server.services.readiness._waiting._watches, "the last request ends the watch"
    await asyncio.sleep(0)
    left_over = {task for task in asyncio.all_tasks() - tasks_before if "state_api" in repr(task.get_coro())}
    assert not left_over, "no task outlives the requests that wait"


async def put_active_app(http: httpx.AsyncClient, app: str, hub: str, settle_seconds: int = 0) -> None:
    """An app whose staging slot holds a task hub with one active instance, `order-1`."""
    await put_app(http, app, policy={"settleSeconds": settle_seconds}, slots={"staging": {"taskHub": hub}})
    await post_events(http, event(hub))


async def end_order(http: httpx.AsyncClient, hub: str) -> None:
    """Record that the order has ended."""
    await post_events(http, event(hub, status="Completed"))


async def begin_swap(http: httpx.AsyncClient, app: str, hub: str) -> None:
    """Begin to swap a task hub into production for the first time, so that the slot will be empty."""
    await put_app(http, app, policy={"settleSeconds": 0})
    assert (await post_staging(http, app, hub, run_headers(1))).status_code == 200
    pending = await http.post(
        f"/api/apps/{app}/swap", json={"taskHub": hub, "outcome": "Pending"}, headers=run_headers(1)
    )
    assert pending.status_code == 200, pending.text


async def is_ready_soon(waiting: asyncio.Task[SlotStatus]) -> bool:
    """The verdict of a request that is expected to end by itself."""
    return (await asyncio.wait_for(waiting, TEST_TIMEOUT_SECONDS)).verdict.ready
