"""What requests that wait cost in requests to the state storage."""

import asyncio
from dataclasses import replace

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.builders import event
from tests.http.operations import get_staging, post_events, put_app, reason_codes
from tests.http.waiting.counted_server import (
    FIRST_AND_LAST_QUESTIONS,
    SCALE,
    SHORT_INTERVALS,
    TEST_TIMEOUT_SECONDS,
    CountedServer,
    counted_server,
    is_ready_soon,
    put_active_app,
)

pytestmark = pytest.mark.anyio


async def measure_cost_of_waiting(counted: CountedServer, app: str, caller_count: int, wait_seconds: float) -> float:
    """The requests per caller group in addition to first and last questions, as a share of what the budget allows."""
    question_cost = await counted.count_requests_of_question(app)
    loop = asyncio.get_running_loop()
    began = loop.time()
    statuses = await asyncio.gather(*(counted.wait_for_ready(app, wait_seconds) for _ in range(caller_count)))
    duration = loop.time() - began
    assert not any(status.verdict.ready for status in statuses)
    allowed = duration / SHORT_INTERVALS.per_request
    return (counted.count_reads() - FIRST_AND_LAST_QUESTIONS * question_cost) / allowed


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
        # A busy machine answers late, so the requests may end over a longer time than they arrived in.
        ends: list[float] = []
        for request in (first, *others):
            request.add_done_callback(lambda _: ends.append(loop.time()))
        await asyncio.gather(first, *others)
        budget = (loop.time() - began) / SHORT_INTERVALS.per_request
        first_questions = 1 + (arrival_seconds + first_arrival_seconds) / SHORT_INTERVALS.per_request
        end_seconds = max(arrival_seconds, max(ends) - min(ends))
        last_questions = 2 + end_seconds / SHORT_INTERVALS.deadline_step
        shared_cost = budget + question_cost * (first_questions + last_questions)
        unshared_cost = budget + question_cost * 2 * (1 + len(others))
        # The intervals between the ends are rounded, and a busy machine delays them.
        assert counted.count_reads() <= 1.5 * shared_cost < unshared_cost


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
        assert counted.count_reads() <= allowed + 2 * len(waiting) * question_cost


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


async def test_a_verdict_that_only_a_policy_prevents_asks_for_the_app_alone(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        policy = {"settleSeconds": 0, "requireVerification": True}
        await put_app(http, app, policy=policy, slots={"staging": {"taskHub": hub}})
        waiting = await counted.start_waiting(app)
        counted.proxy.clear()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while counted.count_reads() < 5:
                await asyncio.sleep(0.01)
        assert all("Apps" in request.path for request in counted.proxy.forwarded)
        await put_app(http, app, policy={"requireVerification": False})
        assert await is_ready_soon(waiting)
        assert reason_codes(await get_staging(http, app)) == []
