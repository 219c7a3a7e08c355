"""An orchestration's start can be nothing but a message in a control queue: never Ready then. A timer's message that an
ended instance left says nothing: Ready at once then."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from state_api.settings import StorageSettings
from tests.platform.durable_host import DurableHost, run_durable_host
from tests.platform.event_relay import EventRelay, run_event_relay
from tests.platform.scenarios import DAY_SECONDS, launcher_chain
from tests.platform.state_server import STORAGE_PROVIDER_CONFIG, StateServerProcess, run_state_server
from tests.platform.task_hub_storage import TaskHubReader
from tests.platform.verdict_poller import VerdictPoller

pytestmark = pytest.mark.anyio

TASK_HUB_COUNT = 20
MAX_CONCURRENT_TASK_HUBS = 4
FIRST_READ_SECONDS = 30
"""The time counts from the first look after the last event, which a busy machine delays."""

CHAIN_LENGTH = 40
"""More than a worker gets through before it is killed: then a start is on its way, or an instance is active. The
extension takes no input that is nested much deeper."""

UNEXPLAINED_TIMEOUT_SECONDS = 630
"""Messages that nothing explains stop blocking after this long without a change: 600 s, and 30 s more."""


@dataclass
class PendingStartFixture:
    """One server, and one relay for the events of all task hubs."""

    storage: StorageSettings
    folder: Path
    server: StateServerProcess
    relay: EventRelay

    @property
    def connection(self) -> str:
        assert self.storage.connection_string is not None
        return self.storage.connection_string.get_secret_value()

    @asynccontextmanager
    async def task_hub(self, *, events: bool, partitions: int = 2) -> AsyncIterator[tuple[DurableHost, VerdictPoller]]:
        """A new task hub with its worker, which runs, and an app whose staging slot holds it."""
        name = f"starts{uuid.uuid4().hex[:16]}"
        looked_at = TaskHubReader(self.connection, name)
        topic = self.relay.url if events else None
        try:
            async with run_durable_host(
                name, self.connection, self.folder, topic=topic, partitions=partitions
            ) as worker:
                await self.server.put_app(f"app-{name}", name, STORAGE_PROVIDER_CONFIG)
                yield worker, VerdictPoller(self.server, f"app-{name}", looked_at)
        finally:
            await looked_at.close()


@pytest.fixture
async def pending_start_fixture(
    storage: StorageSettings, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[PendingStartFixture]:
    async with (
        run_state_server(storage, tmp_path) as server,
        run_event_relay(lambda: server.webhook, Random()) as relay,
    ):
        yield PendingStartFixture(storage, tmp_path, server, relay)


async def claim_partitions(worker: DurableHost) -> None:
    """Let the worker run something, so that it owns all partitions."""
    for number in range(4):
        await worker.start_orchestration("Chain", f"warm-{number}", steps=1)
    for number in range(4):
        await worker.wait_for_status(f"warm-{number}", "Completed")


async def test_leftover_timers_do_not_block_and_a_start_on_its_way_does(
    pending_start_fixture: PendingStartFixture,
) -> None:
    """20 task hubs. First, timers of days were terminated, and their messages stay in the control queues until then:
    Ready all the same. Then the worker is killed within 150 ms of a launch: amid a chain of launchers, each of which is
    only a message until it has ended. The last orchestration of the chain waits for an event that nobody sends, so the
    task hub is not drained, whatever of the chain is active or on its way."""
    draw = Random()
    at_once = asyncio.Semaphore(MAX_CONCURRENT_TASK_HUBS)
    watched: list[VerdictPoller] = []

    async def one(number: int) -> None:
        async with at_once, pending_start_fixture.task_hub(events=number % 2 == 0) as (worker, watch):
            timers = await leave_timers(worker, 1 + number % 3)
            messages = await watch.storage.count_messages()
            assert messages.invisible >= len(timers), "a timer's message stays until it would have fired"
            await watch.wait_until_ready()
            function, given = launcher_chain(f"chain-{number}", CHAIN_LENGTH, "last")
            await worker.start_orchestration(function, "first", **given)
            asking = asyncio.create_task(watch.poll_for(3))
            await worker.wait_for_status("first", "Completed")
            await asyncio.sleep(draw.random() * 0.15)
            worker.kill()
            await asking
            watched.append(watch)

    await asyncio.gather(*(one(number) for number in range(TASK_HUB_COUNT)))
    false = [dict(answer.verdict) for watch in watched for answer in watch.ready]
    assert false == [], f"{len(false)} answers were Ready while a start was on its way"
    assert len(watched) == TASK_HUB_COUNT
    # Otherwise the rows alone told that something was active, and this shows nothing about messages.
    assert sum(watch.messages_only_count for watch in watched) > 0


async def test_a_start_that_was_on_its_way_runs_later_and_then_the_task_hub_drains(
    pending_start_fixture: PendingStartFixture,
) -> None:
    async with pending_start_fixture.task_hub(events=True) as (worker, watch):
        await claim_partitions(worker)
        function, given = launcher_chain("chain", CHAIN_LENGTH, "last")
        await worker.start_orchestration(function, "first", **given)
        worker.kill()
        await watch.poll_for(1)
        await worker.start()
        running = asyncio.create_task(worker.wait_for_status("last", "Running", timeout_seconds=150))
        await watch.poll_until(running.done)
        await running
        assert watch.ready == []
        await worker.raise_go_event("last")
        await worker.wait_for_status("last", "Completed")
        await watch.storage.wait_until_no_messages()
        await watch.wait_until_ready()


async def test_a_task_hub_whose_app_is_dead_drains_despite_leftover_timers(
    pending_start_fixture: PendingStartFixture,
) -> None:
    async with pending_start_fixture.task_hub(events=True) as (worker, watch):
        await leave_timers(worker, 3)
        worker.kill()
        assert (await watch.storage.count_messages()).invisible >= 3
        await watch.wait_until_ready()


async def test_starts_that_wait_for_a_worker_to_warm_up_are_never_called_drained(
    pending_start_fixture: PendingStartFixture,
) -> None:
    """Without events. A worker that has just started takes its partitions one after the other."""

    async def one() -> None:
        async with pending_start_fixture.task_hub(events=False, partitions=4) as (worker, watch):
            lasts = [f"last-{chain}" for chain in range(6)]
            for chain, last in enumerate(lasts):
                function, given = launcher_chain(f"chain-{chain}", 3, last)
                await worker.start_orchestration(function, f"first-{chain}", **given)
            running = asyncio.gather(*(worker.wait_for_status(last, "Running") for last in lasts))
            await watch.poll_until(running.done)
            await running
            assert watch.ready == [], [dict(answer.verdict) for answer in watch.ready]
            for last in lasts:
                await worker.raise_go_event(last)
                await worker.wait_for_status(last, "Completed")
            await watch.wait_until_ready()

    for _ in range(4):
        await one()


async def leave_timers(worker: DurableHost, count: int) -> list[str]:
    """Timers of days whose instances are terminated."""
    timers = [f"timer-{number}" for number in range(count)]
    for number, timer in enumerate(timers):
        await worker.start_orchestration("Timer", timer, seconds=(number + 1) * 2 * DAY_SECONDS)
    for timer in timers:
        await worker.wait_for_status(timer, "Running")
        await worker.send_operation("terminate", timer)
        await worker.wait_for_status(timer, "Terminated")
    return timers


@pytest.mark.long
async def test_a_start_whose_workers_die_again_and_again_is_never_called_drained(
    pending_start_fixture: PendingStartFixture,
) -> None:
    """For 12 minutes. One task hub's workers are killed soon after they have started, over and over. In two others the
    start is taken and hidden by somebody who dies: for a minute again and again, and once for 600 s, which is the
    longest that a worker hides a message that it gives up."""
    deadline = time.monotonic() + 12 * 60
    draw = Random()

    async def dying_workers() -> VerdictPoller:
        async with pending_start_fixture.task_hub(events=True) as (worker, watch):
            watch.pause_seconds = 1
            await start_and_kill(worker)
            asking = asyncio.create_task(watch.poll_until(lambda: time.monotonic() > deadline))
            while not asking.done():
                await worker.start()
                await asyncio.sleep(draw.random())
                worker.kill()
                # Until the messages that this worker had taken can be seen again.
                await asyncio.wait([asking], timeout=65)
            await asking
            return watch

    async def hidden(seconds: int) -> VerdictPoller:
        async with pending_start_fixture.task_hub(events=True) as (worker, watch):
            watch.pause_seconds = 1
            await start_and_kill(worker)
            asking = asyncio.create_task(watch.poll_until(lambda: time.monotonic() > deadline))
            while not asking.done():
                for name in await watch.storage.list_control_queues():
                    queue = watch.storage.queues.get_queue_client(name)
                    async for _ in queue.receive_messages(visibility_timeout=seconds):
                        pass
                await asyncio.wait([asking], timeout=5)
            await asking
            return watch

    async def start_and_kill(worker: DurableHost) -> None:
        await claim_partitions(worker)
        function, given = launcher_chain("chain", CHAIN_LENGTH, "last")
        await worker.start_orchestration(function, "first", **given)
        # The first start has a row at once. Killed amid the chain, the worker leaves one that is only a message.
        await asyncio.sleep(0.05 + draw.random() * 0.1)
        worker.kill()

    watched = await asyncio.gather(dying_workers(), hidden(60), hidden(600))
    for watch in watched:
        assert watch.ready == [], [dict(answer.verdict) for answer in watch.ready]
        assert len(watch.responses) > 100
    assert sum(watch.messages_only_count for watch in watched) > 0


@pytest.mark.long
async def test_timers_of_purged_instances_stop_blocking_after_the_timeout(
    pending_start_fixture: PendingStartFixture,
) -> None:
    """20 task hubs. Without its history nothing explains a timer's message: until the timeout it could be a start."""
    at_once = asyncio.Semaphore(MAX_CONCURRENT_TASK_HUBS)

    async def one(number: int) -> float:
        await at_once.acquire()
        async with pending_start_fixture.task_hub(events=number % 2 == 0) as (worker, watch):
            for timer in await leave_timers(worker, 1 + number % 3):
                await worker.send_operation("purge", timer)
            worker.kill()
            at_once.release()
            watch.pause_seconds = 5
            return await watch.wait_until_ready(UNEXPLAINED_TIMEOUT_SECONDS + FIRST_READ_SECONDS)

    took = await asyncio.gather(*(one(number) for number in range(TASK_HUB_COUNT)))
    assert min(took) > UNEXPLAINED_TIMEOUT_SECONDS - 60, "nobody could know before that these were no starts"
