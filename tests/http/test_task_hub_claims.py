"""Claims of task hub names over HTTP: a name is claimed only if it is new at its provider, the storage emulator."""

import asyncio
from typing import Any

import httpx
import pytest

from harness.storage_proxy import run_storage_proxy
from state_api.app import StateServer
from state_api.backends.azure_storage import AzureStorageBackend
from state_api.backends.protocols import ObservedPage
from state_api.domain.instants import Instant
from state_api.domain.releases.apps import App, ProviderConfig
from state_api.domain.task_hubs.ownership import ExistingArtifacts, ProviderUnavailable
from state_api.services.ownership import Ownership
from state_api.settings import StorageSettings
from state_api.storage.task_hubs import TaskHubStore
from tests.backends.azure_storage_task_hub import ProviderAccount
from tests.backends.fake_function_app import SYSTEM_KEY, FakeFunctionApp, serve_http
from tests.backends.storage_account import RawAccount, ServiceFault, account_proxy, connection_string_of
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    get_proof,
    post_cleanup,
    post_events,
    post_staging,
    put_app,
    reason_codes,
    retire_task_hub,
    run_headers,
)
from tests.http.server_clients import client_of_server_with, connection_at_other_address, fail_from_request

pytestmark = pytest.mark.anyio


UNREACHABLE_CONNECTION = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=QUFBQQ==;" + "".join(
    f"{service}Endpoint=http://127.0.0.1:9/a;" for service in ("Table", "Queue", "Blob")
)


ARTIFACT_PATTERNS = (
    *(f"table {{}}{suffix}" for suffix in ("Instances", "History", "Partitions")),
    *(f"queue {{}}-{suffix}" for suffix in ("control-00", "control-15", "workitems")),
    *(f"container {{}}-{suffix}" for suffix in ("leases", "largemessages", "applease")),
)


@pytest.mark.parametrize("pattern", ARTIFACT_PATTERNS)
async def test_a_name_with_any_artifact_at_the_provider_is_refused(
    http: httpx.AsyncClient, app_with_provider: str, raw_account: RawAccount, hub: str, pattern: str
) -> None:
    """Task hub names are compared without case. A refused name is not claimed, so its owner can still register it."""
    artifact = pattern.format(hub.upper() if pattern.startswith("table") else hub)
    kind, name = artifact.split(" ")
    match kind:
        case "table":
            await raw_account.add_table(name)
        case "queue":
            await raw_account.add_queue(name)
        case "container":
            await raw_account.add_container(name)
    refused = assert_problem(await post_staging(http, app_with_provider, hub.title()), 409, "TaskHubAlreadyUsed")
    assert (refused["taskHub"], refused["existing"]) == (hub.title(), [artifact])
    assert f"{artifact}, at http://127.0.0.1:" in refused["detail"]
    assert_problem(await http.get(f"/api/taskhubs/{hub}"), 404, "TaskHubNotFound")
    assert (await http.get(f"/api/apps/{app_with_provider}")).json()["slots"]["staging"] is None


async def test_a_foreign_task_hub_is_neither_staged_nor_deleted(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    """The app had no provider when it claimed the name, so the claim has no proof.

    Once the provider is set, Cleanup finds a drained task hub of this name and does not delete it.
    """
    await provider_account.add_task_hub(hub, ("their-order", "Completed"))
    foreign_artifacts = await provider_account.list_artifacts(hub)
    assert (await post_staging(http, app, hub)).status_code == 200
    assert await get_proof(http, hub) is None
    await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    await retire_task_hub(http, app, hub)
    for dry_run in (True, False):
        (result,) = await post_cleanup(http, app, dryRun=dry_run)
        assert (result["outcome"], result["artifacts"]) == ("NotOwned", [])
        assert f"nothing proves that task hub {hub} belongs to this app" in result["message"]
        assert f'adoptTaskHubs ["{hub}"]' in result["message"]
        assert await provider_account.list_artifacts(hub) == foreign_artifacts
        remaining = (await http.get(f"/api/apps/{app}")).json()["retired"]
        assert [retired["taskHub"] for retired in remaining] == ([hub] if dry_run else [])
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert newest["details"] == {"removed": [hub], "notOwned": [hub]}
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["closed"]


async def test_a_name_that_is_a_prefix_of_existing_names_is_new(
    http: httpx.AsyncClient, app_with_provider: str, provider_account: ProviderAccount, hub: str
) -> None:
    await provider_account.add_task_hub(f"{hub}0", ("order-1", "Running"))
    await provider_account.add_queue(f"{hub}-control-backup")
    await provider_account.add_queue(f"{hub}-control-16")
    assert (await post_staging(http, app_with_provider, hub)).status_code == 200


async def test_a_claim_shows_its_basis_addresses_and_time(
    http: httpx.AsyncClient, app_with_provider: str, storage: StorageSettings, hub: str
) -> None:
    staged = (await post_staging(http, app_with_provider, hub)).json()
    proof = await get_proof(http, hub)
    endpoints = dict(part.split("=", 1) for part in connection_string_of(storage).rstrip(";").split(";"))
    assert proof == {
        "basis": "New",
        "addresses": [endpoints[f"{service}Endpoint"] for service in ("Table", "Queue", "Blob")],
        "at": staged["slots"]["staging"]["since"],
    }


@pytest.mark.parametrize("spelling", [str, str.upper, str.title])
async def test_a_row_in_a_shared_tracking_store_makes_a_name_used(
    *, storage: StorageSettings, clock: ShiftedClock, raw_account: RawAccount, app: str, hub: str, spelling: Any
) -> None:
    """Task hub names are compared without case, although the queries of Azure Tables compare with case."""
    prefix = f"T{new_hub_name()}"
    connections = {
        "STATE_TASKHUBS_OWN": connection_string_of(storage),
        "STATE_TASKHUBS_SHARED": connection_string_of(storage),
    }
    provider_config = {
        "provider": "azureStorage",
        "connection": "STATE_TASKHUBS_OWN",
        "trackingConnection": "STATE_TASKHUBS_SHARED",
        "trackingPrefix": prefix,
    }
    async with client_of_server_with(storage, clock, connections) as http:
        await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=provider_config)
        new_hub = new_hub_name()
        assert (await post_staging(http, app, new_hub, run_headers(1))).status_code == 200, (
            "a tracking store that does not exist yet has no rows"
        )
        table = (await get_proof(http, new_hub))["addresses"][-1]
        assert table.endswith(f"/{prefix}Instances")
        await raw_account.add_table(f"{prefix}Instances", f"{hub}0", f"{hub[:-1]}", spelling(hub))
        refused = assert_problem(await post_staging(http, app, hub, run_headers(1)), 409, "TaskHubAlreadyUsed")
        assert refused["existing"] == [f"rows of {spelling(hub)} in table {prefix}Instances"]
        assert table in refused["addresses"]
        # The staged version never started, so the shared table has no row of its task hub.
        await put_app(http, app, policy={"missingTaskHubIsDrained": True})
        assert (await post_staging(http, app, f"{hub}x", run_headers(1))).status_code == 200


@pytest.mark.parametrize("service", ["Table", "Queue", "Blob"])
async def test_no_name_is_claimed_while_the_provider_is_unavailable(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str, service: str
) -> None:
    async with (
        account_proxy(storage) as proxy,
        client_of_server_with(storage, clock, {"STATE_TASKHUBS_SHOP": connection_string_of(proxy.settings)}) as http,
    ):
        await put_app(http, app, taskHubs=PROVIDER_CONFIG)
        proxy.faults[service] = ServiceFault(503, headers={"Retry-After": "7"})
        response = await post_staging(http, app, hub)
        problem = assert_problem(response, 503, "TaskHubUnavailable")
        assert response.headers["retry-after"] == "7"
        assert problem["detail"].startswith(f"task hub {hub} was not claimed: the server could not check whether")
        assert "the setting STATE_TASKHUBS_SHOP asks to wait" in problem["detail"]
        assert_problem(await http.get(f"/api/taskhubs/{hub}"), 404, "TaskHubNotFound")
        proxy.faults.clear()
        assert (await post_staging(http, f"{app}-other", hub)).status_code == 200


@pytest.mark.parametrize(
    "connection",
    [UNREACHABLE_CONNECTION, "UseDevelopmentStorage", "wrong key"],
)
async def test_no_name_is_claimed_if_the_connection_setting_does_not_work(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str, connection: str
) -> None:
    settings = {"STATE_TASKHUBS_SHOP": connection_string_of(storage)}
    async with client_of_server_with(storage, clock, settings) as http:
        await put_app(http, app, taskHubs=PROVIDER_CONFIG)
    if connection == "wrong key":
        connection = connection_string_of(storage).replace("AccountKey=Eby8", "AccountKey=Abcd")
    async with client_of_server_with(storage, clock, {"STATE_TASKHUBS_SHOP": connection}) as http:
        problem = assert_problem(await post_staging(http, app, hub), 503, "TaskHubUnavailable")
        assert "STATE_TASKHUBS_SHOP" in problem["detail"]
        assert_problem(await http.get(f"/api/taskhubs/{hub}"), 404, "TaskHubNotFound")


async def test_other_refusals_come_before_an_unavailable_provider(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str
) -> None:
    async with client_of_server_with(storage, clock, {"STATE_TASKHUBS_SHOP": UNREACHABLE_CONNECTION}) as http:
        await put_app(http, app, slots={"staging": {"taskHub": new_hub_name()}}, taskHubs=PROVIDER_CONFIG)
        refused = assert_problem(await post_staging(http, app, hub), 409, "StagingNotReady")
        assert reason_codes(refused) == ["ProbeFailed"]
        # Force overrides the verdict, but not the check of the provider.
        assert_problem(await post_staging(http, app, hub, force=True, reason="test"), 503, "TaskHubUnavailable")
        # Without a provider there is no check, and the claim is not proven.
        await put_app(http, app, taskHubs=None)
        assert (await post_staging(http, app, hub)).status_code == 200
        assert await get_proof(http, hub) is None


async def test_a_provider_that_does_not_answer_in_time_is_unavailable(server: StateServer, hub: str) -> None:
    ownership = Ownership(TaskHubStore(server.tables, shards=4), server.backends)
    shop = App("shop", provider_config=ProviderConfig("azureStorage", "STATE_TASKHUBS_SHOP"))
    deadline_that_has_passed = asyncio.get_running_loop().time()
    problem = await ownership.find_existing(shop, hub, deadline_that_has_passed)
    assert isinstance(problem, ProviderUnavailable)
    assert "did not answer in time" in problem.message


async def test_a_claim_sends_no_request_to_the_management_api_because_that_would_create_the_task_hub(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str
) -> None:
    function_app = FakeFunctionApp("")
    async with serve_http(function_app.handle_request) as origin:
        settings = {"STATE_TASKHUBS_API__endpoint": origin, "STATE_TASKHUBS_API__key": SYSTEM_KEY}
        async with client_of_server_with(storage, clock, settings) as http:
            await put_app(http, app, taskHubs={"provider": "managementApi", "connection": "STATE_TASKHUBS_API"})
            assert (await post_staging(http, app, hub)).status_code == 200
            assert (function_app.requests, function_app.hubs) == ([], {})
            assert await get_proof(http, hub) is None


async def test_the_same_run_can_repeat_post_staging_after_its_app_has_created_the_task_hub(
    http: httpx.AsyncClient, app_with_provider: str, provider_account: ProviderAccount, hub: str
) -> None:
    first_response = await post_staging(http, app_with_provider, hub, run_headers(1))
    proof = await get_proof(http, hub)
    await provider_account.add_task_hub(hub, ("order-1", "Running"))
    repeated_response = await post_staging(http, app_with_provider, hub, run_headers(1))
    assert (repeated_response.status_code, repeated_response.json()) == (200, first_response.json())
    await post_events(http, event(hub, "order-1"))
    assert (await post_staging(http, app_with_provider, hub, run_headers(1))).status_code == 200
    # The first run abandons its deployment, and another run can stage the task hub that the slot already holds.
    assert (
        await http.delete(f"/api/apps/{app_with_provider}/staging", params={"taskHub": hub}, headers=run_headers(1))
    ).status_code == 200
    assert (
        await post_staging(http, app_with_provider, hub, run_headers(2), force=True, reason="test")
    ).status_code == 200
    assert await get_proof(http, hub) == proof


async def test_a_claim_whose_app_could_not_be_saved_is_repeated_as_long_as_the_task_hub_is_not_used(
    *,
    storage: StorageSettings,
    clock: ShiftedClock,
    http: httpx.AsyncClient,
    app_with_provider: str,
    provider_account: ProviderAccount,
    hub: str,
) -> None:
    """The storage fails after the claim, before the app is saved. A function app that starts all the same has work that
    a second deployment would break, also one by the same run."""
    settings = {"STATE_TASKHUBS_SHOP": connection_string_of(storage)}
    async with run_storage_proxy(storage) as proxy, client_of_server_with(proxy.settings, clock, settings) as broken:
        fail_from_request(proxy, "POST", 2)
        assert_problem(await post_staging(broken, app_with_provider, hub, run_headers(1)), 503, "StorageUnavailable")
    assert (await get_proof(http, hub))["basis"] == "New"
    other_app = f"{app_with_provider}-other"
    assert_problem(await post_staging(http, other_app, hub, run_headers(1)), 409, "TaskHubAlreadyUsed")
    await provider_account.add_task_hub(hub, ("order-1", "Running"))
    for run in (run_headers(1), run_headers(2), None):
        assert_problem(await post_staging(http, app_with_provider, hub, run), 409, "TaskHubAlreadyUsed")
    await provider_account.delete_task_hub(hub)
    assert (await post_staging(http, app_with_provider, hub, run_headers(1))).status_code == 200


async def test_a_claim_is_repeated_where_the_setting_leads_now(
    storage: StorageSettings, clock: ShiftedClock, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    """The app cannot be saved after the claim, and the setting leads to another account before the run retries."""
    first_connection = connection_string_of(storage)
    async with (
        run_storage_proxy(storage) as proxy,
        client_of_server_with(proxy.settings, clock, {"STATE_TASKHUBS_SHOP": first_connection}) as http,
    ):
        await put_app(http, app, taskHubs=PROVIDER_CONFIG)
        fail_from_request(proxy, "POST", 2)
        assert_problem(await post_staging(http, app, hub, run_headers(1)), 503, "StorageUnavailable")
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    async with client_of_server_with(
        storage, clock, {"STATE_TASKHUBS_SHOP": connection_at_other_address(storage)}
    ) as http:
        assert_problem(await post_staging(http, app, hub, run_headers(1)), 409, "TaskHubAlreadyUsed")


async def test_exactly_one_of_several_apps_that_claim_a_new_name_at_once_succeeds(
    http: httpx.AsyncClient, app_with_provider: str, hub: str
) -> None:
    apps = [f"{app_with_provider}-{number}" for number in range(5)]
    for name in apps:
        await put_app(http, name, taskHubs=PROVIDER_CONFIG)
    responses = await asyncio.gather(*(post_staging(http, name, hub, run_headers(n)) for n, name in enumerate(apps)))
    (winner,) = [response.json()["app"] for response in responses if response.status_code == 200]
    refused = [response.json() for response in responses if response.status_code == 409]
    assert len(refused) == 4
    assert all(winner in problem["detail"] for problem in refused)
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["app"] == winner


async def test_post_staging_checks_the_new_name_while_it_reads_the_staged_task_hub(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the two steps waits until the other has begun, so steps in sequence would never end."""
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    await put_app(http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    page_read_has_begun, name_check_has_begun = asyncio.Event(), asyncio.Event()
    read_page, find_existing = AzureStorageBackend.read_page, AzureStorageBackend.find_existing

    async def read_page_during_name_check(
        backend: AzureStorageBackend, task_hub: str, since: Instant, cursor: str
    ) -> ObservedPage:
        """Read a page once the check of the name has begun, or fail if both are not done at the same time."""
        page_read_has_begun.set()
        async with asyncio.timeout(30):
            await name_check_has_begun.wait()
        return await read_page(backend, task_hub, since, cursor)

    async def check_name_during_page_read(backend: AzureStorageBackend, task_hub: str) -> ExistingArtifacts | None:
        """Check the name once the read of a page has begun, or fail if both are not done at the same time."""
        name_check_has_begun.set()
        async with asyncio.timeout(30):
            await page_read_has_begun.wait()
        return await find_existing(backend, task_hub)

    monkeypatch.setattr(AzureStorageBackend, "read_page", read_page_during_name_check)
    monkeypatch.setattr(AzureStorageBackend, "find_existing", check_name_during_page_read)
    assert (await post_staging(http, app, new_hub_name())).status_code == 200
