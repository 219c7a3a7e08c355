"""The control queues of a drained task hub are read while the app and the records are. A verdict rests on this early
read only if nothing was recorded since the last question, and if no queue had a message."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ControlQueue, ProviderTaskHub, control_message
from tests.builders import event
from tests.conftest import ShiftedClock
from tests.http.counted_storage import CountedServer, counted_server
from tests.http.operations import get_staging, post_events, put_app, reason_codes

pytestmark = pytest.mark.anyio

_QUEUE_COUNT = 2
_QUEUE_READ_COUNT = _QUEUE_COUNT + 1
"""The number of messages in each queue, and the list of the queues."""

_TIMEOUT_SECONDS = 30


class DrainedTaskHub:
    """A drained task hub, about which the server was asked before. The test holds up the reads of its next question."""

    def __init__(self, server: CountedServer, provider: ProviderTaskHub, queue: ControlQueue, app: str) -> None:
        self.server = server
        self.provider = provider
        self.queue = queue
        self.app = app
        self._records_may_be_read = asyncio.Event()

    async def ask_while_records_wait(self, verify: str = "fresh") -> asyncio.Task[httpx.Response]:
        """Ask for the status while app and records are held up. The reads begin when the caller waits."""
        self.server.proxy.clear()
        self._records_may_be_read.clear()
        self.server.proxy.before_request = self._hold_state_reads
        return asyncio.create_task(self.server.http.get(f"/api/apps/{self.app}/staging?verify={verify}"))

    async def ask_until_queues_are_read(self) -> asyncio.Task[httpx.Response]:
        """Ask for the status, and return once the queues were read early."""
        question = await self.ask_while_records_wait()
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while self.count_queue_reads() < _QUEUE_READ_COUNT:
                await asyncio.sleep(0.01)
        return question

    async def finish(self, question: asyncio.Task[httpx.Response]) -> Any:
        """Let the server read app and records; the verdict."""
        self._records_may_be_read.set()
        response = await question
        assert response.status_code == 200, response.text
        return response.json()

    def count_queue_reads(self) -> int:
        """How many reads of the queues there were since the question began."""
        hub = self.provider.hub.lower()
        queues = (f"{hub}-control-", f"{hub}partitions")
        return sum(any(name in request.path.lower() for name in queues) for request in self.server.proxy.forwarded)

    async def _hold_state_reads(self, method: str, path: str) -> None:
        """Hold up the requests of the server to its own tables."""
        if "SafeDeploy" in path:
            await self._records_may_be_read.wait()


@pytest.fixture
async def drained(storage: StorageSettings, clock: ShiftedClock, anyio_backend: str) -> AsyncIterator[DrainedTaskHub]:
    """A server that has found the task hub drained."""
    async with counted_server(storage, _QUEUE_COUNT, clock) as server:
        app, hub = await server.register_and_ask(verified=True)
        async with ProviderTaskHub(storage, hub) as provider, ControlQueue(provider) as queue:
            assert (await get_staging(server.http, app, verify="fresh"))["ready"]
            yield DrainedTaskHub(server, provider, queue, app)


async def test_the_queues_are_read_before_the_records_and_not_again(drained: DrainedTaskHub) -> None:
    question = await drained.ask_until_queues_are_read()
    verdict = await drained.finish(question)
    assert (verdict["ready"], verdict["assurance"]) == (True, "verified")
    assert drained.count_queue_reads() == _QUEUE_READ_COUNT


async def test_an_orchestration_that_starts_after_the_queues_were_read_blocks(drained: DrainedTaskHub) -> None:
    question = await drained.ask_until_queues_are_read()
    await drained.provider.put("order-1", "Running")
    assert reason_codes(await drained.finish(question)) == ["InstancesActive"]


async def test_a_start_by_an_orchestration_that_ended_after_the_queues_were_read_blocks(
    drained: DrainedTaskHub,
) -> None:
    """The pass shows that something has changed, so the queues are read again."""
    question = await drained.ask_until_queues_are_read()
    await drained.queue.send(control_message("order-2"))
    await drained.provider.put("order-1", "Completed")
    assert reason_codes(await drained.finish(question)) == ["StartsPending"]
    assert drained.count_queue_reads() > _QUEUE_READ_COUNT


async def test_queues_with_a_message_are_read_again(drained: DrainedTaskHub) -> None:
    message = await drained.queue.send(control_message("order-1", "EventRaised"))
    question = await drained.ask_until_queues_are_read()
    await drained.queue.delete(message)
    await drained.queue.send(control_message("order-2"))
    assert reason_codes(await drained.finish(question)) == ["StartsPending"]


async def test_queues_from_before_an_end_was_recorded_are_read_again(
    storage: StorageSettings, drained: DrainedTaskHub, clock: ShiftedClock
) -> None:
    """An orchestration has ended, and another one is about to start. The settle window is over when the server reads
    the records."""
    question = await drained.ask_until_queues_are_read()
    hub = drained.provider.hub
    async with counted_server(storage, queue_count=_QUEUE_COUNT) as other_server:
        await post_events(other_server.http, event(hub, "order-1"), event(hub, "order-1", "Completed"))
    await drained.queue.send(control_message("order-2"))
    clock.advance(60)
    assert reason_codes(await drained.finish(question)) == ["StartsPending"]
    assert drained.count_queue_reads() > _QUEUE_READ_COUNT


async def test_a_change_of_the_app_discards_the_early_read(storage: StorageSettings, drained: DrainedTaskHub) -> None:
    question = await drained.ask_until_queues_are_read()
    async with counted_server(storage, queue_count=_QUEUE_COUNT) as other_server:
        response = await put_app(other_server.http, drained.app, policy={"settleSeconds": 0, "freshnessSeconds": 60})
        assert response.status_code == 200
    await drained.queue.send(control_message("order-1"))
    assert reason_codes(await drained.finish(question)) == ["StartsPending"]


async def test_an_early_read_that_fails_is_repeated(drained: DrainedTaskHub) -> None:
    failures = iter([403])
    drained.server.proxy.failure_status = lambda method, path: next(failures, None) if "-control-" in path else None
    question = await drained.ask_while_records_wait()
    assert (await drained.finish(question))["ready"]


@pytest.mark.parametrize("verify", ["cached", "none"])
async def test_only_a_question_that_will_read_the_task_hub_begins_early(drained: DrainedTaskHub, verify: str) -> None:
    question = await drained.ask_while_records_wait(verify)
    assert (await drained.finish(question))["ready"]
    assert drained.count_queue_reads() == 0


async def test_a_question_by_events_does_not_end_the_early_reads(drained: DrainedTaskHub) -> None:
    question = await drained.ask_while_records_wait("none")
    assert (await drained.finish(question))["ready"]
    assert (await drained.finish(await drained.ask_until_queues_are_read()))["ready"]
