"""Messages in control queues on the real extension. The verdict is never Ready while an orchestration's start is only a
message. It is Ready at once if the only messages are those of timers that ended instances have left."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from harness.durable_host import DurableHost, run_durable_host
from state_api.settings import StorageSettings
from tests.platform.event_relay import EventRelay, run_event_relay
from tests.platform.scenarios import DAY_SECONDS, build_launcher_chain
from tests.platform.state_server import STORAGE_PROVIDER_CONFIG, StateServerProcess, run_state_server
from tests.platform.task_hub_storage import TaskHubReader
from tests.platform.verdict_poller import VerdictPoller

pytestmark = pytest.mark.anyio

TASK_HUB_COUNT = 12
MAX_CONCURRENT_TASK_HUBS = 4
FIRST_READ_SECONDS = 30
"""How much later than the timeout Ready may come. The timeout counts from the first probe after the last event, and a
busy machine delays that probe."""

CHAIN_LENGTH = 40
"""More links than a worker completes before it is killed, so that a start is on its way or an instance is active. The
extension accepts no input that is nested much deeper."""

UNEXPLAINED_TIMEOUT_SECONDS = 630
"""How long a message that nothing explains blocks without any change: 600 s, and 30 s more."""


@dataclass
class PendingStartFixture:
    """One state server, and one relay for the events of all task hubs."""

    storage: StorageSettings
    folder: Path
    server: StateServerProcess
    relay: EventRelay

    @property
    def connection(self) -> str:
        assert self.storage.connection_string is not None
        return self.storage.connection_string.get_secret_value()

    @asynccontextmanager
    async def run_task_hub(
        self, *, events: bool, partitions: int = 2
    ) -> AsyncIterator[tuple[DurableHost, VerdictPoller]]:
        """Create a task hub with a running worker, and an app whose staging slot holds it."""
        name = f"starts{uuid.uuid4().hex[:16]}"
        task_hub_storage = TaskHubReader(self.connection, name)
        topic = self.relay.url if events else None
        try:
            async with run_durable_host(
                name, self.connection, self.folder, topic=topic, partitions=partitions
            ) as worker:
                await self.server.put_app(f"app-{name}", name, STORAGE_PROVIDER_CONFIG)
                yield worker, VerdictPoller(self.server, f"app-{name}", task_hub_storage)
        finally:
            await task_hub_storage.close()


@pytest.fixture
async def pending_start_fixture(
    storage: StorageSettings, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[PendingStartFixture]:
    """A state server, and a relay that delivers events to it, for task hubs that a test runs."""
    async with (
        run_state_server(storage, tmp_path) as server,
        run_event_relay(lambda: server.webhook, Random()) as relay,
    ):
        yield PendingStartFixture(storage, tmp_path, server, relay)


async def claim_partitions(worker: DurableHost) -> None:
    """Let the worker run orchestrations until it owns all partitions."""
    for number in range(4):
        await worker.start_orchestration("Chain", f"warm-{number}", steps=1)
    for number in range(4):
        await worker.wait_for_status(f"warm-{number}", "Completed")


async def test_a_start_on_its_way_blocks_and_leftover_timers_do_not(
    pending_start_fixture: PendingStartFixture,
) -> None:
    """In several task hubs, instances with timers of days are terminated. Their messages stay in the control queues,
    and the verdict is Ready all the same.

    Then the worker is killed up to 150 ms after the start of a chain of launchers. Each of them is only a message until
    it has ended. The last orchestration of the chain waits for an event that is never sent. So the task hub never
    drains: some part of the chain is always active or on its way.
    """
    choices = Random()
    concurrency_limit = asyncio.Semaphore(MAX_CONCURRENT_TASK_HUBS)
    pollers: list[VerdictPoller] = []

    async def check_task_hub(number: int) -> None:
        """Run a chain of starts on a task hub with cancelled timers, and kill the worker somewhere in the chain."""
        async with concurrency_limit, pending_start_fixture.run_task_hub(events=number % 2 == 0) as (worker, poller):
            timers = await leave_timers(worker, 1 + number % 3)
            messages = await poller.storage.count_messages()
            assert messages.invisible >= len(timers), "a timer's message stays until the timer would have fired"
            await poller.wait_until_ready()
            function, input_fields = build_launcher_chain(f"chain-{number}", CHAIN_LENGTH, "last")
            await worker.start_orchestration(function, "first", **input_fields)
            polling = asyncio.create_task(poller.poll_for(3))
            await worker.wait_for_status("first", "Completed")
            await asyncio.sleep(choices.random() * 0.15)
            worker.kill()
            await polling
            pollers.append(poller)

    async with asyncio.TaskGroup() as checks:
        for number in range(TASK_HUB_COUNT):
            checks.create_task(check_task_hub(number))
    wrong = [dict(response.verdict) for poller in pollers for response in poller.ready_responses]
    assert wrong == [], f"{len(wrong)} responses were Ready while a start was on its way"
    assert len(pollers) == TASK_HUB_COUNT
    # Otherwise rows alone have shown that something was active, and the test says nothing about messages.
    assert sum(poller.messages_only_count for poller in pollers) > 0


async def test_a_start_on_its_way_runs_with_the_next_worker_and_then_the_task_hub_drains(
    pending_start_fixture: PendingStartFixture,
) -> None:
    async with pending_start_fixture.run_task_hub(events=True) as (worker, poller):
        await claim_partitions(worker)
        function, input_fields = build_launcher_chain("chain", CHAIN_LENGTH, "last")
        await worker.start_orchestration(function, "first", **input_fields)
        worker.kill()
        await poller.poll_for(1)
        await worker.start()
        running = asyncio.create_task(worker.wait_for_status("last", "Running", timeout_seconds=150))
        await poller.poll_until(running.done)
        await running
        assert poller.ready_responses == []
        await worker.raise_go_event("last")
        await worker.wait_for_status("last", "Completed")
        await poller.storage.wait_until_no_messages()
        await poller.wait_until_ready()


async def test_a_task_hub_without_a_worker_is_ready_despite_leftover_timers(
    pending_start_fixture: PendingStartFixture,
) -> None:
    async with pending_start_fixture.run_task_hub(events=True) as (worker, poller):
        await leave_timers(worker, 3)
        worker.kill()
        assert (await poller.storage.count_messages()).invisible >= 3
        await poller.wait_until_ready()


async def test_starts_that_wait_for_a_worker_to_warm_up_are_never_ready(
    pending_start_fixture: PendingStartFixture,
) -> None:
    """A worker that has just started takes over its partitions one after the other. No events are published."""

    async def check_task_hub() -> None:
        """Start six chains, and poll until the last instance of each is running. No answer may be Ready before that."""
        async with pending_start_fixture.run_task_hub(events=False, partitions=4) as (worker, poller):
            last_ids = [f"last-{chain}" for chain in range(6)]
            for chain, last in enumerate(last_ids):
                function, input_fields = build_launcher_chain(f"chain-{chain}", 3, last)
                await worker.start_orchestration(function, f"first-{chain}", **input_fields)
            running = asyncio.gather(*(worker.wait_for_status(last, "Running") for last in last_ids))
            await poller.poll_until(running.done)
            await running
            assert poller.ready_responses == [], [dict(response.verdict) for response in poller.ready_responses]
            for last in last_ids:
                await worker.raise_go_event(last)
                await worker.wait_for_status(last, "Completed")
            await poller.wait_until_ready()

    for _ in range(4):
        await check_task_hub()


async def leave_timers(worker: DurableHost, count: int) -> list[str]:
    """Start timers of days, and terminate their instances. Return the ids of the instances."""
    timers = [f"timer-{number}" for number in range(count)]
    for number, timer in enumerate(timers):
        await worker.start_orchestration("Timer", timer, seconds=(number + 1) * 2 * DAY_SECONDS)
    for timer in timers:
        await worker.wait_for_status(timer, "Running")
        await worker.send_operation("terminate", timer)
        await worker.wait_for_status(timer, "Terminated")
    return timers


@pytest.mark.long
async def test_a_start_whose_workers_are_killed_again_and_again_is_never_ready(
    pending_start_fixture: PendingStartFixture,
) -> None:
    """The test lasts 12 minutes. In one task hub, workers are started, and killed soon afterwards, again and again.

    In two others, the test takes the messages as a worker does that is then killed. In one it hides them for a minute
    at a time. In the other it hides them for 600 s, the longest time for which a worker hides a message that it
    abandons."""
    deadline = time.monotonic() + 12 * 60
    choices = Random()

    async def kill_workers() -> VerdictPoller:
        """Start a worker and kill it, again and again. Each leaves messages that are hidden until its visibility
        timeout."""
        async with pending_start_fixture.run_task_hub(events=True) as (worker, poller):
            poller.pause_seconds = 1
            await start_chain_and_kill_worker(worker)
            polling = asyncio.create_task(poller.poll_until(lambda: time.monotonic() > deadline))
            while not polling.done():
                await worker.start()
                await asyncio.sleep(choices.random())
                worker.kill()
                # Wait until the messages that this worker had taken are visible again.
                await asyncio.wait([polling], timeout=65)
            await polling
            return poller

    async def hide_messages(visibility_timeout_seconds: int) -> VerdictPoller:
        """Take messages from the queues and do not delete them, so that they are hidden again and again."""
        async with pending_start_fixture.run_task_hub(events=True) as (worker, poller):
            poller.pause_seconds = 1
            await start_chain_and_kill_worker(worker)
            polling = asyncio.create_task(poller.poll_until(lambda: time.monotonic() > deadline))
            while not polling.done():
                for name in await poller.storage.list_control_queues():
                    queue = poller.storage.queues.get_queue_client(name)
                    async for _ in queue.receive_messages(visibility_timeout=visibility_timeout_seconds):
                        pass
                await asyncio.wait([polling], timeout=5)
            await polling
            return poller

    async def start_chain_and_kill_worker(worker: DurableHost) -> None:
        """Start a chain of orchestrations, and kill the worker before the chain has ended."""
        await claim_partitions(worker)
        function, input_fields = build_launcher_chain("chain", CHAIN_LENGTH, "last")
        await worker.start_orchestration(function, "first", **input_fields)
        # The first start has a row at once. A worker that is killed amid the chain leaves a start that is a message.
        await asyncio.sleep(0.05 + choices.random() * 0.1)
        worker.kill()

    pollers = await asyncio.gather(kill_workers(), hide_messages(60), hide_messages(600))
    for poller in pollers:
        assert poller.ready_responses == [], [dict(response.verdict) for response in poller.ready_responses]
        assert len(poller.responses) > 100
    assert sum(poller.messages_only_count for poller in pollers) > 0


@pytest.mark.long
async def test_timers_of_purged_instances_stop_blocking_after_the_timeout(
    pending_start_fixture: PendingStartFixture,
) -> None:
    """In each of several task hubs, instances with timers are terminated and purged.

    Without an instance's history nothing explains its timer's message, so the message may be a start until the
    timeout."""
    concurrency_limit = asyncio.Semaphore(MAX_CONCURRENT_TASK_HUBS)

    async def wait_until_ready(number: int) -> float:
        """Leave timers whose histories are purged, and return the seconds until the verdict is Ready."""
        await concurrency_limit.acquire()
        async with pending_start_fixture.run_task_hub(events=number % 2 == 0) as (worker, poller):
            for timer in await leave_timers(worker, 1 + number % 3):
                await worker.send_operation("purge", timer)
            worker.kill()
            concurrency_limit.release()
            poller.pause_seconds = 5
            return await poller.wait_until_ready(UNEXPLAINED_TIMEOUT_SECONDS + FIRST_READ_SECONDS)

    durations = await asyncio.gather(*(wait_until_ready(number) for number in range(TASK_HUB_COUNT)))
    assert min(durations) > UNEXPLAINED_TIMEOUT_SECONDS - 60, "until then the messages could have been starts"
