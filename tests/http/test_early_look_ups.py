"""What the last question showed active is looked up while the app and the records are read. A verdict rests on this
early look-up only if it shows all of these instances active."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event
from tests.http.counted_storage import CountedServer, counted_server
from tests.http.operations import get_staging, post_events, put_app, reason_codes

pytestmark = pytest.mark.anyio

_INSTANCE = "order-1"
_TIMEOUT_SECONDS = 30


class LookedUpTaskHub:
    """A task hub with an active instance, about which the server was asked before."""

    def __init__(self, server: CountedServer, provider: ProviderTaskHub, app: str) -> None:
        self.server = server
        self.provider = provider
        self.app = app
        self._records_may_be_read = asyncio.Event()

    async def ask_while_records_wait(self) -> tuple[asyncio.Task[httpx.Response], list[str]]:
        """Ask for the status; the task of the question, and the paths that were read while app and records were held
        up. Returns once the early look-up has ended."""
        self.server.proxy.clear()
        self._records_may_be_read.clear()
        self.server.proxy.before_request = self._hold_state_reads
        question = asyncio.create_task(self.server.http.get(f"/api/apps/{self.app}/staging?verify=cached"))
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while not self.server.proxy.forwarded:
                await asyncio.sleep(0.01)
        return question, [request.path for request in self.server.proxy.forwarded]

    async def finish(self, question: asyncio.Task[httpx.Response]) -> dict[str, object]:
        """Let the server read app and records; the verdict."""
        self._records_may_be_read.set()
        verdict: dict[str, object] = (await question).json()
        return verdict

    def looked_up_count(self) -> int:
        """How often an instance was read since the question began."""
        return sum("Instances" in request.path for request in self.server.proxy.forwarded)

    async def _hold_state_reads(self, method: str, path: str) -> None:
        """Hold up all requests except those for the instances of the task hub."""
        if "Instances" not in path:
            await self._records_may_be_read.wait()


@pytest.fixture
async def looked_up(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[LookedUpTaskHub]:
    """A server that has looked up the active instance once."""
    async with counted_server(storage, queue_count=1) as server:
        app, hub = await server.register_and_ask(verified=True)
        async with ProviderTaskHub(storage, hub) as provider:
            await provider.put(_INSTANCE, "Running")
            await post_events(server.http, event(hub, instance_id=_INSTANCE))
            assert reason_codes(await get_staging(server.http, app, verify="cached")) == ["InstancesActive"]
            yield LookedUpTaskHub(server, provider, app)


async def test_an_instance_that_is_still_active_is_looked_up_before_the_records_are_read(
    looked_up: LookedUpTaskHub,
) -> None:
    question, paths = await looked_up.ask_while_records_wait()
    assert len(paths) == 1
    assert reason_codes(await looked_up.finish(question)) == ["InstancesActive"]
    # The app, the records and the instance, each once.
    assert len(looked_up.server.proxy.forwarded) == 3


async def test_an_instance_that_ends_after_the_early_look_up_blocks_this_verdict_and_not_the_next(
    looked_up: LookedUpTaskHub,
) -> None:
    question, _ = await looked_up.ask_while_records_wait()
    await looked_up.provider.put(_INSTANCE, "Completed")
    assert reason_codes(await looked_up.finish(question)) == ["InstancesActive"]
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        while not (await get_staging(looked_up.server.http, looked_up.app, verify="fresh"))["ready"]:
            await asyncio.sleep(0.05)


async def test_an_end_that_the_early_look_up_shows_counts_only_after_the_records_were_read(
    looked_up: LookedUpTaskHub,
) -> None:
    """The instance starts again between the early look-up and the read of the records."""
    await looked_up.provider.put(_INSTANCE, "Completed")
    question, _ = await looked_up.ask_while_records_wait()
    await looked_up.provider.put(_INSTANCE, "Running")
    assert reason_codes(await looked_up.finish(question)) == ["InstancesActive"]
    assert looked_up.looked_up_count() == 2


async def test_a_change_of_the_app_discards_the_early_look_up(looked_up: LookedUpTaskHub) -> None:
    question, _ = await looked_up.ask_while_records_wait()
    async with counted_server(looked_up.server.storage, queue_count=1) as other_server:
        response = await put_app(other_server.http, looked_up.app, policy={"freshnessSeconds": 60})
        assert response.status_code == 200
    assert reason_codes(await looked_up.finish(question)) == ["InstancesActive"]
    assert looked_up.looked_up_count() == 2


async def test_a_question_by_events_looks_nothing_up(looked_up: LookedUpTaskHub) -> None:
    looked_up.server.proxy.clear()
    assert reason_codes(await get_staging(looked_up.server.http, looked_up.app, verify="none")) == ["InstancesActive"]
    assert looked_up.looked_up_count() == 0
    question, paths = await looked_up.ask_while_records_wait()
    assert len(paths) == 1, "the next question with verification still looks up early"
    assert reason_codes(await looked_up.finish(question)) == ["InstancesActive"]
