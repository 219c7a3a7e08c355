"""A server crashes between any two of its requests to the storage while it records a delivery. Event Grid sends the
delivery again, to the next server. The records are complete then, and each instance is counted once."""

import asyncio
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.settings import StorageSettings
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.faults.crashing_server import CrashPlan, CrashTiming, crashing_server, in_process_server, send_until_crash
from tests.http.operations import post_events
from tests.storage.stored_timelines import check_timeline

pytestmark = [pytest.mark.anyio, pytest.mark.fault]

_CONCURRENT_CASES = 4


def build_deliveries(hub: str) -> list[list[dict[str, Any]]]:
    """Two deliveries that follow each other: starts, and then ends, restarts and duplicates."""

    def order(number: int, status: str, seconds_ago: float) -> dict[str, Any]:
        """An event of an order. There are three functions."""
        return event(hub, f"order-{number}", status, time=timestamp(-seconds_ago), function=f"Function{number % 3}")

    starts = [order(n, "Running", 60 * n + 300) for n in range(12)]
    ends = [order(n, "Failed" if n % 4 == 0 else "Completed", 60) for n in range(9)]
    next_generation = [order(n, "Running", 50) for n in range(3)]
    return [starts, [*starts[:4], *ends, *next_generation, event(hub, "order-20", "Completed")]]


async def record_with_crash(
    server: StateServer, storage: StorageSettings, http: httpx.AsyncClient, plan: CrashPlan
) -> bool:
    """Record both deliveries at a server that crashes by the plan, and then again, in the other order, at the next
    server. Returns whether the first server has crashed."""
    hub = new_hub_name()
    # Registered before, so that every request of the crashing server belongs to the recording.
    await post_events(http, event(hub, "order-1", time=timestamp(-3000)))
    deliveries = build_deliveries(hub)

    async def send(client: httpx.AsyncClient) -> httpx.Response:
        """Send both deliveries; the response to the last one."""
        await client.post("/api/events", json=deliveries[0])
        return await client.post("/api/events", json=deliveries[1])

    async with crashing_server(storage, plan) as crashing, in_process_server(storage) as next_server:
        response = await send_until_crash(crashing, send, plan)
        await check_timeline(server, hub)
        for delivery in reversed(deliveries):
            await post_events(next_server, *delivery)
        if plan.timing is CrashTiming.LATE and response is None:
            plan.release_late.set()
            await asyncio.wait_for(plan.late_arrived.wait(), 60)
        timeline = await check_timeline(server, hub)
    points = timeline.points(first_minute=0, step_minutes=10**9)
    assert sum(point.started for point in points) == 12
    assert sum(point.ends.total for point in points) == 7
    return response is None


async def test_a_crash_at_any_request_counts_no_instance_twice_and_leaves_none_out(
    server: StateServer, storage: StorageSettings, http: httpx.AsyncClient
) -> None:
    no_crash = CrashPlan()
    assert not await record_with_crash(server, storage, http, no_crash)
    case_slots = asyncio.Semaphore(_CONCURRENT_CASES)
    crash_count = 0

    async def crash_at(number: int, timing: CrashTiming) -> None:
        """Crash at one request. A request that the server sends after its response may come too late to crash it."""
        nonlocal crash_count
        async with case_slots:
            has_crashed = await record_with_crash(server, storage, http, CrashPlan(number, timing))
        crash_count += has_crashed

    async with asyncio.TaskGroup() as group:
        for number, (method, _) in enumerate(no_crash.requests, 1):
            # Between two reads, the storage is as the last write has left it.
            if method == "POST":
                for timing in CrashTiming:
                    group.create_task(crash_at(number, timing))
    transaction_count = sum(method == "POST" for method, _ in no_crash.requests)
    assert transaction_count > 1
    assert crash_count == len(CrashTiming) * transaction_count
