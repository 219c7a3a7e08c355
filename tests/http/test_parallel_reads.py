"""The records of a task hub are read while the app is, if the last question about the slot led to them. A verdict rests
on these records only if the app has not changed since."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.settings import StorageSettings
from tests.builders import event
from tests.conftest import new_app_name, new_hub_name
from tests.http.operations import assert_problem, get_staging, post_events, put_app, reason_codes
from tests.http.server_clients import client_of_second_server

pytestmark = pytest.mark.anyio

_NO_SETTLE_WINDOW = {"settleSeconds": 0}
_TIMEOUT_SECONDS = 30


class AskingServer:
    """A client of a server that reads apps and records through a proxy, which can hold its reads of apps."""

    def __init__(self, http: httpx.AsyncClient, proxy: StorageProxy) -> None:
        self.http = http
        self.proxy = proxy
        self._app_may_be_read = asyncio.Event()

    async def start_question(self, app: str) -> asyncio.Task[Any]:
        """Ask for the status of the staging slot, and return once the records are read. The app is not."""
        self.proxy.clear()
        self._app_may_be_read.clear()
        self.proxy.before_request = self._hold_reads_of_apps
        question = asyncio.create_task(self.http.get(f"/api/apps/{app}/staging"))
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while not self.proxy.forwarded:
                await asyncio.sleep(0.01)
        return question

    async def finish_question(self, question: asyncio.Task[Any]) -> httpx.Response:
        """Let the server read the app."""
        self._app_may_be_read.set()
        response: httpx.Response = await question
        return response

    async def _hold_reads_of_apps(self, method: str, path: str) -> None:
        """Hold up each read of an app until the test allows it."""
        if method == "GET" and "SafeDeployApps" in path:
            await self._app_may_be_read.wait()


@pytest.fixture
async def asking(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[AskingServer]:
    """A server that is asked about slots, while another one changes the apps."""
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as http:
        yield AskingServer(http, proxy)


@pytest.fixture
async def drained_hub(http: httpx.AsyncClient, asking: AskingServer, app: str, hub: str) -> str:
    """A drained task hub in the staging slot of the app, about which the server was asked before."""
    await put_app(http, app, slots={"staging": {"taskHub": hub}}, policy=_NO_SETTLE_WINDOW)
    assert (await get_staging(asking.http, app))["ready"]
    return hub


async def test_the_records_are_read_while_the_app_is_and_not_again(
    asking: AskingServer, app: str, drained_hub: str
) -> None:
    question = await asking.start_question(app)
    assert (await asking.finish_question(question)).json()["ready"]
    assert len(asking.proxy.forwarded) == 2


async def test_records_from_before_the_app_changed_are_not_used(
    http: httpx.AsyncClient, asking: AskingServer, app: str, drained_hub: str
) -> None:
    """The change has no effect on the slot, but the records must be as recent as the app."""
    question = await asking.start_question(app)
    await post_events(http, event(drained_hub))
    await put_app(http, app, policy={"freshnessSeconds": 60})
    verdict = (await asking.finish_question(question)).json()
    assert reason_codes(verdict) == ["InstancesActive"]
    assert len(asking.proxy.forwarded) == 3


async def test_records_of_a_task_hub_that_has_left_the_slot_are_not_used(
    http: httpx.AsyncClient, asking: AskingServer, app: str, drained_hub: str
) -> None:
    next_hub = new_hub_name()
    question = await asking.start_question(app)
    await put_app(http, app, slots={"staging": {"taskHub": next_hub}})
    await post_events(http, event(next_hub))
    verdict = (await asking.finish_question(question)).json()
    assert (verdict["taskHub"], reason_codes(verdict)) == (next_hub, ["InstancesActive"])


async def test_each_question_reads_the_records_again(
    http: httpx.AsyncClient, asking: AskingServer, app: str, drained_hub: str
) -> None:
    await post_events(http, event(drained_hub))
    assert reason_codes(await get_staging(asking.http, app)) == ["InstancesActive"]
    await post_events(http, event(drained_hub, status="Completed"))
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        while not (await get_staging(asking.http, app))["ready"]:
            await asyncio.sleep(0.05)


async def test_a_failure_to_read_records_counts_only_if_they_are_used(
    http: httpx.AsyncClient, asking: AskingServer, app: str, drained_hub: str
) -> None:
    asking.proxy.failure_status = lambda method, path: 400 if f"Hub{drained_hub}State" in path else None
    assert_problem(await asking.http.get(f"/api/apps/{app}/staging"), 503, "StorageUnavailable")
    await put_app(http, app, slots={"staging": None})
    assert (await get_staging(asking.http, app))["taskHub"] is None


async def test_the_slots_that_are_remembered_are_limited(
    http: httpx.AsyncClient, asking: AskingServer, app: str, drained_hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question about a slot that is forgotten reads the records after the app."""
    monkeypatch.setattr("state_api.services.parallel_reads.MAX_REMEMBERED_SLOTS", 1)
    other_app = new_app_name()
    await put_app(http, other_app, slots={"staging": {"taskHub": new_hub_name()}}, policy=_NO_SETTLE_WINDOW)
    assert (await get_staging(asking.http, other_app))["ready"]
    asking.proxy.clear()
    assert (await get_staging(asking.http, app))["ready"]
    assert ["SafeDeployApps" in request.path for request in asking.proxy.forwarded] == [True, False]
