"""A removal that failed after its command had deleted the task hub is repeated; nothing else with a missing task hub
is removed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from harness.storage_proxy import run_storage_proxy
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderAccount, ProviderTaskHub, control_queue_names
from tests.backends.storage_account import connection_string_of
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import PROVIDER_CONFIG, assert_problem, post_events, reason_codes, run_headers
from tests.http.release_operations import (
    SECONDS_UNTIL_ROUTERS_STOP,
    delete_release,
    get_release_status,
    post_release,
    put_routing,
    put_side_by_side_app,
)
from tests.http.server_clients import client_of_server_with, connection_at_other_address

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, slots=True)
class FailedRemoval:
    """An app whose release 1 has drained and release 2 is active. The removal of release 1 has failed."""

    app: str
    hub: ProviderTaskHub


@pytest.fixture
async def failed_removal(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str, storage: StorageSettings, provider_hub: ProviderTaskHub
) -> AsyncIterator[FailedRemoval]:
    """A release whose removal was begun and has failed. Its task hub exists, and its only order has ended."""
    await put_side_by_side_app(http, app, taskHubs=PROVIDER_CONFIG)
    async with ProviderTaskHub(storage, new_hub_name()) as next_hub:
        for version, hub in (("1", provider_hub), ("2", next_hub)):
            assert (await post_release(http, app, version, hub.hub)).status_code == 200
            await hub.create()
            assert (await put_routing(http, app, version)).status_code == 200
        await provider_hub.put("order-1", "Completed")
        clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
        assert (await delete_release(http, app, "1", "Pending", run_headers(1))).status_code == 200
        assert (await delete_release(http, app, "1", "Failed", run_headers(1))).status_code == 200
        yield FailedRemoval(app, provider_hub)


async def delete_task_hub(storage: StorageSettings, failed: FailedRemoval) -> None:
    """Delete all that the provider has of the task hub, as the command of a removal does."""
    async with ProviderAccount(storage) as account:
        await account.delete_task_hub(failed.hub.hub)


async def test_a_removal_whose_command_had_deleted_the_task_hub_is_repeated(
    http: httpx.AsyncClient, storage: StorageSettings, failed_removal: FailedRemoval
) -> None:
    app = failed_removal.app
    await delete_task_hub(storage, failed_removal)
    verdict = await get_release_status(http, app, "1", verify="fresh")
    assert (verdict["ready"], verdict["state"], verdict["assurance"]) == (True, "Drained", "verified")
    assert (await delete_release(http, app, "1", "Pending", run_headers(2))).status_code == 200
    assert (await get_release_status(http, app, "1", verify="fresh"))["ready"], "asked again before the command runs"
    assert (await delete_release(http, app, "1", "Failed", run_headers(2))).status_code == 200
    assert (await delete_release(http, app, "1", "Pending", run_headers(3))).status_code == 200
    removed = await delete_release(http, app, "1", "Done", run_headers(3))
    assert removed.json()["releases"].keys() == {"2"}
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()
    assert [hub["outcome"] for hub in cleaned["taskHubs"]] == ["Removed"]


async def test_one_of_two_runs_repeats_the_removal_and_no_traffic_comes_back(
    http: httpx.AsyncClient, storage: StorageSettings, failed_removal: FailedRemoval
) -> None:
    app = failed_removal.app
    await delete_task_hub(storage, failed_removal)
    *removals, rollback = await asyncio.gather(
        *(delete_release(http, app, "1", "Pending", run_headers(number)) for number in range(4)),
        put_routing(http, app, "1"),
    )
    assert sorted(response.status_code for response in removals) == [200, 409, 409, 409]
    assert rollback.json()["code"] in {"ReleaseNotDeployed", "ReleaseRemoved"}


async def test_a_task_hub_of_which_something_is_left_is_not_gone(
    http: httpx.AsyncClient, storage: StorageSettings, failed_removal: FailedRemoval
) -> None:
    """A queue is left, which can hold the start of an order that a restarted app would execute."""
    app = failed_removal.app
    await delete_task_hub(storage, failed_removal)
    async with ProviderAccount(storage) as account:
        await account.add_queue(control_queue_names(failed_removal.hub.hub)[0])
    verdict = await get_release_status(http, app, "1", verify="fresh")
    assert reason_codes(verdict) == ["TaskHubMissing"]
    assert_problem(await delete_release(http, app, "1", "Pending"), 409, "ReleaseNotDrained")


async def test_a_task_hub_that_its_app_has_created_again_is_read(
    http: httpx.AsyncClient, storage: StorageSettings, failed_removal: FailedRemoval
) -> None:
    app = failed_removal.app
    await delete_task_hub(storage, failed_removal)
    async with ProviderTaskHub(storage, failed_removal.hub.hub) as again:
        await again.create()
        await again.put("order-2", "Running")
        refused = assert_problem(await delete_release(http, app, "1", "Pending"), 409, "ReleaseNotDrained")
        assert reason_codes(refused) == ["InstancesActive"]


async def test_an_order_that_events_show_blocks_although_the_task_hub_is_gone(
    http: httpx.AsyncClient, storage: StorageSettings, failed_removal: FailedRemoval
) -> None:
    app = failed_removal.app
    await delete_task_hub(storage, failed_removal)
    await post_events(http, event(failed_removal.hub.hub, "order-2"))
    assert "InstancesActive" in reason_codes(await get_release_status(http, app, "1", verify="fresh"))
    assert_problem(await delete_release(http, app, "1", "Pending"), 409, "ReleaseNotDrained")


async def test_another_account_without_the_task_hub_proves_nothing(
    storage: StorageSettings, clock: ShiftedClock, failed_removal: FailedRemoval
) -> None:
    await delete_task_hub(storage, failed_removal)
    settings = {"STATE_TASKHUBS_SHOP": connection_at_other_address(storage)}
    async with client_of_server_with(storage, clock, settings) as http:
        verdict = await get_release_status(http, failed_removal.app, "1", verify="fresh")
        assert reason_codes(verdict) == ["TaskHubMissing"]
        assert_problem(await delete_release(http, failed_removal.app, "1", "Pending"), 409, "ReleaseNotDrained")


async def test_a_provider_that_cannot_be_reached_proves_nothing(
    storage: StorageSettings, clock: ShiftedClock, failed_removal: FailedRemoval
) -> None:
    await delete_task_hub(storage, failed_removal)
    async with run_storage_proxy(storage, all_services=True) as proxy:
        proxy.failure_status = lambda method, path: 500
        settings = {"STATE_TASKHUBS_SHOP": connection_string_of(proxy.settings)}
        async with client_of_server_with(storage, clock, settings) as http:
            assert_problem(await delete_release(http, failed_removal.app, "1", "Pending"), 409, "ReleaseNotDrained")


async def test_a_question_that_reads_no_task_hub_does_not_ask_its_provider(
    http: httpx.AsyncClient, storage: StorageSettings, failed_removal: FailedRemoval
) -> None:
    await delete_task_hub(storage, failed_removal)
    assert (await get_release_status(http, failed_removal.app, "1", verify="fresh"))["ready"]
    assert reason_codes(await get_release_status(http, failed_removal.app, "1", verify="none")) == ["TaskHubMissing"]
