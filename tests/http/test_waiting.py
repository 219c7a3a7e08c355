"""Requests that wait until their slot is Ready: when they are answered, and what they cost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.backends.azure_storage import AzureStorageBackend
from state_api.domain.errors import AppNotFound, StorageUnavailable
from state_api.domain.names import app_key
from state_api.domain.readiness.policy import Assurance
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.waiting import VerificationIntervals
from state_api.domain.releases.apps import Caller
from state_api.services.app_watch import WaitIntervals
from state_api.services.slot_status import SlotStatus, StatusQuestion
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from state_api.storage.app_rows import APP_ROW_KEY
from state_api.storage.tables import APPS_TABLE
from tests.backends.azure_storage_task_hub import ControlQueue, ProviderTaskHub
from tests.backends.storage_account import connection_string_of
from tests.builders import event, timestamp
from tests.conftest import NO_EVENT_LEASE, ShiftedClock
from tests.http.operations import get_staging, post_events, post_staging, post_swap, put_app, reason_codes, run_headers

pytestmark = pytest.mark.anyio

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
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while not (watches := list(self.server.services.readiness._waiting._watches.values())):
                await asyncio.sleep(0.01)
        return watches

    def count_requests(self) -> int:
        """The number of storage requests since the last `clear`, without writes."""
        return sum(request.method == "GET" for request in self.proxy.forwarded)

    async def count_requests_of_question(self, app: str) -> int:
        """What one question costs."""
        await get_staging(self.http, app)
        self.proxy.clear()
        await get_staging(self.http, app)
        count = self.count_requests()
        self.proxy.clear()
        return count


async def is_never_disconnected() -> bool:
    return False


@asynccontextmanager
async def counted_server(
    storage: StorageSettings, intervals: WaitIntervals = SHORT_INTERVALS
) -> AsyncIterator[CountedServer]:
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
    await post_events(http, event(hub, status="Completed"))


async def is_ready_soon(waiting: asyncio.Task[SlotStatus]) -> bool:
    """The verdict of a request that is expected to end by itself."""
    return (await asyncio.wait_for(waiting, TEST_TIMEOUT_SECONDS)).verdict.ready


# What it costs


async def measure_cost_of_waiting(counted: CountedServer, app: str, caller_count: int, wait_seconds: float) -> float:
    """The requests per caller group in addition to first and last questions, as a share of what the budget allows."""
    question_cost = await counted.count_requests_of_question(app)
    loop = asyncio.get_running_loop()
    began = loop.time()
    statuses = await asyncio.gather(*(counted.wait_for_ready(app, wait_seconds) for _ in range(caller_count)))
    duration = loop.time() - began
    assert not any(status.verdict.ready for status in statuses)
    allowed = duration / SHORT_INTERVALS.per_request
    return (counted.count_requests() - FIRST_AND_LAST_QUESTIONS * question_cost) / allowed


@pytest.mark.parametrize("caller_count", [1, 1000])
async def test_a_thousand_requests_that_wait_for_one_app_cost_no_more_than_one(
    storage: StorageSettings, app: str, hub: str, caller_count: int
) -> None:
    async with counted_server(storage) as counted:
        await put_active_app(counted.http, app, hub)
        assert await measure_cost_of_waiting(counted, app, caller_count, 20 * SCALE) <= 1


async def test_requests_that_come_within_two_seconds_share_their_first_and_last_questions(
    storage: StorageSettings, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        await put_active_app(counted.http, app, hub)
        question_cost = await counted.count_requests_of_question(app)
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = await counted.start_waiting(app, wait_seconds=20 * SCALE)
        first_arrival_seconds = loop.time() - began
        others = []
        for _ in range(50):
            others.append(asyncio.create_task(counted.wait_for_ready(app, 20 * SCALE)))
            await asyncio.sleep(SHORT_INTERVALS.per_request / 100)
        arrival_seconds = loop.time() - began
        await asyncio.gather(first, *others)
        budget = (loop.time() - began) / SHORT_INTERVALS.per_request
        first_questions = 1 + (arrival_seconds + first_arrival_seconds) / SHORT_INTERVALS.per_request
        last_questions = 2 + arrival_seconds / SHORT_INTERVALS.deadline_step
        assert counted.count_requests() <= budget + question_cost * (first_questions + last_questions)


async def test_requests_of_different_runs_that_come_one_after_the_other_share_the_budget(
    storage: StorageSettings, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        await put_active_app(counted.http, app, hub)
        question_cost = await counted.count_requests_of_question(app)
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting = [
            await counted.start_waiting(app, wait_seconds=40 * SCALE, run_url=f"https://ci.example/runs/{number}")
            for number in range(10)
        ]
        statuses = await asyncio.gather(*waiting)
        allowed = (loop.time() - began) / SHORT_INTERVALS.per_request
        assert not any(status.verdict.ready for status in statuses)
        assert counted.count_requests() <= allowed + 2 * len(waiting) * question_cost


async def test_a_busy_task_hub_costs_a_waiting_request_no_more_than_a_quiet_one(
    storage: StorageSettings, app: str, hub: str
) -> None:
    """Far more events are recorded than the budget allows requests, also on a slow machine."""
    intervals = replace(SHORT_INTERVALS, per_request=0.5)
    async with counted_server(storage, intervals) as counted:
        await put_active_app(counted.http, app, hub)
        question_cost = await counted.count_requests_of_question(app)
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting = await counted.start_waiting(app)
        for number in range(100):
            status = "Completed" if number % 2 else "Running"
            await post_events(counted.http, event(hub, f"busy-{number // 2}", status))
        counted.server.stopping.set()
        assert not await is_ready_soon(waiting)
        allowed = (loop.time() - began) / intervals.per_request
        # Reads of the recording itself are not queries: it reads an instance whose end it does not find in its cache.
        queries = [request for request in counted.proxy.forwarded if request.method == "GET" and "()" in request.path]
        apps_read = [request for request in counted.proxy.forwarded if "Apps" in request.path]
        assert len(queries) + len(apps_read) <= FIRST_AND_LAST_QUESTIONS * question_cost + allowed


async def test_drained_moments_of_a_busy_task_hub_are_asked_about_within_a_limit(
    storage: StorageSettings, app: str, hub: str
) -> None:
    """Without a settle window a verdict can be Ready after every end. A policy demands a verification that the app does
    not have, so that none is."""
    async with counted_server(storage) as counted:
        await put_active_app(counted.http, app, hub)
        policy = {"settleSeconds": 0, "requireVerification": True}
        await put_app(counted.http, app, policy=policy)
        waiting = await counted.start_waiting(app, wait_seconds=20 * SCALE)
        counted.proxy.clear()
        loop = asyncio.get_running_loop()
        began = loop.time()
        ends = 0
        while not waiting.done():
            await post_events(counted.http, event(hub, status="Completed"))
            await post_events(counted.http, event(hub))
            ends += 1
        apps_read = sum("Apps" in request.path for request in counted.proxy.forwarded)
        allowed = (loop.time() - began) / SHORT_INTERVALS.per_request
        assert ends > 1
        assert apps_read <= allowed + 10 + FIRST_AND_LAST_QUESTIONS


# What ends a wait


async def test_what_the_same_server_records_ends_a_wait_without_any_polling(
    storage: StorageSettings, app: str, hub: str
) -> None:
    async with counted_server(storage, NO_POLLING) as counted:
        await put_active_app(counted.http, app, hub)
        waiting = await counted.start_waiting(app)
        await end_order(counted.http, hub)
        assert await is_ready_soon(waiting)


async def test_what_another_server_records_ends_a_wait_by_one_poll(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        await put_active_app(http, app, hub)
        waiting = await counted.start_waiting(app)
        await end_order(http, hub)
        counted.proxy.clear()
        assert await is_ready_soon(waiting)
        read_apps = sum("Apps" in request.path for request in counted.proxy.forwarded)
        assert read_apps == 1, "polls that still show the order active ask no question"


async def test_the_end_of_the_settle_window_alone_ends_a_wait(storage: StorageSettings, app: str, hub: str) -> None:
    async with counted_server(storage, NO_POLLING) as counted:
        await put_active_app(counted.http, app, hub, settle_seconds=2)
        waiting = await counted.start_waiting(app)
        await end_order(counted.http, hub)
        assert await is_ready_soon(waiting)


async def test_the_end_of_a_swap_ends_a_wait_on_the_same_server_without_any_polling(
    storage: StorageSettings, app: str, hub: str
) -> None:
    async with counted_server(storage, NO_POLLING) as counted:
        await begin_swap(counted.http, app, hub)
        waiting = await counted.start_waiting(app)
        assert (await post_swap(counted.http, app, hub, run_headers(1))).status_code == 200
        assert await is_ready_soon(waiting)


async def test_the_end_of_a_swap_ends_a_wait_on_another_server(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        await begin_swap(http, app, hub)
        waiting = await counted.start_waiting(app)
        assert (await post_swap(http, app, hub, run_headers(1))).status_code == 200
        assert await is_ready_soon(waiting)


async def test_a_policy_that_another_server_changes_ends_a_wait(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        await put_active_app(http, app, hub)
        waiting = await counted.start_waiting(app)
        await put_app(http, app, policy={"settleSeconds": 0, "ignoreFunctions": ["ProcessOrder"]})
        assert await is_ready_soon(waiting)


async def test_a_deployment_that_expires_ends_a_wait(storage: StorageSettings, app: str, hub: str) -> None:
    async with counted_server(storage) as counted:
        policy = {"settleSeconds": 0, "deploymentTimeoutMinutes": 1}
        await put_app(counted.http, app, policy=policy)
        assert (await post_staging(counted.http, app, hub, run_headers(1))).status_code == 200
        waiting = await counted.start_waiting(app, run_url=run_headers(2)["X-Run-Url"])
        counted.clock.advance(61)
        assert await is_ready_soon(waiting)


async def begin_swap(http: httpx.AsyncClient, app: str, hub: str) -> None:
    """Begin to swap a task hub into production for the first time, so that the slot will be empty."""
    await put_app(http, app, policy={"settleSeconds": 0})
    assert (await post_staging(http, app, hub, run_headers(1))).status_code == 200
    pending = await http.post(
        f"/api/apps/{app}/swap", json={"taskHub": hub, "outcome": "Pending"}, headers=run_headers(1)
    )
    assert pending.status_code == 200, pending.text


async def test_the_last_answer_is_read_at_the_end_of_the_wait(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    """Without polling, a server does not hear what another server records. Its last question finds out."""
    async with counted_server(storage, NO_POLLING) as counted:
        await put_active_app(http, app, hub)
        waiting = await counted.start_waiting(app, wait_seconds=2)
        await end_order(http, hub)
        assert await is_ready_soon(waiting)


# With verification


async def test_the_look_ups_of_requests_that_wait_are_shared(
    storage: StorageSettings,
    http: httpx.AsyncClient,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end of the order is never reported, so only a look-up at the provider shows it."""
    hub = drained_provider_hub.hub
    await post_events(http, event(hub, time=timestamp(-60)))
    await drained_provider_hub.put("order-1", "Running")
    find_instances, look_up_count = AzureStorageBackend.find_instances, 0

    async def count_look_up(backend: AzureStorageBackend, task_hub: str, ids: Sequence[str]) -> Any:
        nonlocal look_up_count
        look_up_count += 1
        return await find_instances(backend, task_hub, ids)

    monkeypatch.setattr(AzureStorageBackend, "find_instances", count_look_up)
    async with counted_server(storage) as counted:
        waiting = [asyncio.create_task(counted.wait_for_ready(app)) for _ in range(50)]
        await counted.wait_until_idle(*waiting)
        after_first_questions = look_up_count
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while look_up_count < after_first_questions + 3:
                await asyncio.sleep(0.01)
        await drained_provider_hub.put("order-1", "Completed")
        assert all([await is_ready_soon(task) for task in waiting])
    assert after_first_questions <= 2, "requests that come while another one reads share the next read"
    assert look_up_count < 50


async def test_the_task_hub_is_read_at_once_when_the_records_show_that_it_has_drained(
    storage: StorageSettings, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    hub = drained_provider_hub.hub
    await drained_provider_hub.put("order-1", "Running")
    async with counted_server(storage, NO_POLLING) as counted:
        await post_events(counted.http, event(hub, time=timestamp(-60)))
        waiting = await counted.start_waiting(app)
        await drained_provider_hub.put("order-1", "Completed")
        await end_order(counted.http, hub)
        assert (await asyncio.wait_for(waiting, TEST_TIMEOUT_SECONDS)).verdict.assurance is Assurance.VERIFIED


async def test_an_instance_that_only_the_task_hub_shows_is_waited_for(
    storage: StorageSettings, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """No event reports the start or the end."""
    await drained_provider_hub.put("order-1", "Running")
    async with counted_server(storage) as counted:
        waiting = await counted.start_waiting(app)
        await drained_provider_hub.put("order-1", "Completed")
        assert await is_ready_soon(waiting)


async def test_an_event_of_another_server_is_a_reason_to_read_a_task_hub_again_that_was_not_drained(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """The start of an order is still a message. Nothing else would make the server read the task hub again soon."""
    rarely = VerificationIntervals(look_up=1e6, longest=1e6)
    async with (
        ControlQueue(drained_provider_hub) as queue,
        counted_server(storage, replace(SHORT_INTERVALS, verification=rarely)) as counted,
    ):
        message = await queue.send("the start of order-1")
        waiting = await counted.start_waiting(app)
        await drained_provider_hub.put("order-1", "Completed")
        await queue.delete(message)
        await post_events(http, event(drained_provider_hub.hub), event(drained_provider_hub.hub, status="Completed"))
        assert await is_ready_soon(waiting)


async def test_a_request_that_reads_no_task_hub_waits_for_the_probe_of_another_server(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    async with counted_server(storage) as counted:
        waiting = await counted.start_waiting(app, mode=VerificationMode.NONE)
        assert (await get_staging(http, app))["ready"]
        assert await is_ready_soon(waiting)


# Callers, errors and the end of the server


async def test_a_caller_that_is_gone_leaves_the_others_waiting(storage: StorageSettings, app: str, hub: str) -> None:
    async with counted_server(storage, replace(NO_POLLING, connection_check=0.01)) as counted:
        await put_active_app(counted.http, app, hub)
        is_gone = asyncio.Event()

        async def is_disconnected() -> bool:
            return is_gone.is_set()

        staying = await counted.start_waiting(app)
        leaving = await counted.start_waiting(app, is_disconnected=is_disconnected)
        is_gone.set()
        assert not await is_ready_soon(leaving)
        assert not staying.done()
        await end_order(counted.http, hub)
        assert await is_ready_soon(staying)


async def test_a_cancelled_request_leaves_the_others_waiting(storage: StorageSettings, app: str, hub: str) -> None:
    async with counted_server(storage, NO_POLLING) as counted:
        await put_active_app(counted.http, app, hub)
        staying, cancelled = await counted.start_waiting(app), await counted.start_waiting(app)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await end_order(counted.http, hub)
        assert await is_ready_soon(staying)


async def test_all_waits_end_when_the_server_stops(storage: StorageSettings, app: str, hub: str) -> None:
    async with counted_server(storage, NO_POLLING) as counted:
        await put_active_app(counted.http, app, hub)
        waiting = [await counted.start_waiting(app) for _ in range(3)]
        counted.server.stopping.set()
        assert [await is_ready_soon(task) for task in waiting] == [False] * 3
        assert not (await counted.wait_for_ready(app)).verdict.ready, "later requests are answered at once"


async def test_a_storage_that_stays_away_fails_every_request_that_waits(
    storage: StorageSettings, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        await put_active_app(counted.http, app, hub)
        waiting = [await counted.start_waiting(app) for _ in range(3)]
        counted.proxy.failure_status = lambda method, path: 500
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), TEST_TIMEOUT_SECONDS)
        assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 3


async def test_a_poll_that_fails_once_does_not_end_a_wait(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    """The library repeats a request that fails. A response that cannot be read is not repeated."""
    async with counted_server(storage) as counted:
        await put_active_app(counted.http, app, hub)
        waiting = await counted.start_waiting(app)
        failed = asyncio.Event()

        def fail_once(method: str, path: str) -> int | None:
            if failed.is_set():
                return None
            failed.set()
            return 400

        counted.proxy.failure_status = fail_once
        await asyncio.wait_for(failed.wait(), TEST_TIMEOUT_SECONDS)
        await end_order(http, hub)
        assert await is_ready_soon(waiting)


async def test_a_request_that_waits_for_an_app_that_is_gone_fails(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        await begin_swap(http, app, hub)
        waiting = await counted.start_waiting(app)
        await counted.server.tables.client(APPS_TABLE).delete_entity(app_key(app), APP_ROW_KEY)
        with pytest.raises(AppNotFound):
            await asyncio.wait_for(waiting, TEST_TIMEOUT_SECONDS)


async def test_a_verdict_that_only_a_policy_prevents_asks_for_the_app_alone(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        policy = {"settleSeconds": 0, "requireVerification": True}
        await put_app(http, app, policy=policy, slots={"staging": {"taskHub": hub}})
        waiting = await counted.start_waiting(app)
        counted.proxy.clear()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while counted.count_requests() < 5:
                await asyncio.sleep(0.01)
        assert all("Apps" in request.path for request in counted.proxy.forwarded)
        await put_app(http, app, policy={"requireVerification": False})
        assert await is_ready_soon(waiting)
        assert reason_codes(await get_staging(http, app)) == []
