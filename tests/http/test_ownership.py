"""The ownership of task hubs over HTTP: a name is claimed only if it is new at its provider, and Cleanup deletes only
what the proof of the claim covers. The provider is the storage emulator."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web
from azure.data.tables import UpdateMode

from harness.storage_proxy import run_storage_proxy
from state_api.app import StateServer
from state_api.backends.azure_storage import AzureStorageBackend
from state_api.backends.protocols import ObservedPage
from state_api.domain.errors import StorageUnavailable
from state_api.domain.instants import Instant
from state_api.domain.releases.apps import App, Caller, ProviderConfig
from state_api.domain.task_hubs.ownership import ExistingArtifacts, ProviderUnavailable
from state_api.services.ownership import Ownership
from state_api.settings import StorageSettings
from state_api.storage.apps import AppStore
from state_api.storage.tables import TASK_HUBS_TABLE
from state_api.storage.task_hubs import TaskHubStore
from tests.backends import fake_function_app as management
from tests.backends.azure_storage_task_hub import ProviderAccount, ProviderTaskHub
from tests.backends.storage_account import RawAccount, ServiceFault, account_proxy, connection_string_of
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    get_staging,
    post_cleanup,
    post_events,
    post_staging,
    post_swap,
    put_app,
    reason_codes,
    run_headers,
)
from tests.http.test_cleanup_of_task_hubs import artifacts_of
from tests.http.test_concurrent_requests import _fail_from_request
from tests.http.test_providers import client_of_server_with

pytestmark = pytest.mark.anyio

UNREACHABLE = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=QUFBQQ==;" + "".join(
    f"{service}Endpoint=http://127.0.0.1:9/a;" for service in ("Table", "Queue", "Blob")
)


@pytest.fixture
async def raw_account(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[RawAccount]:
    """The app's storage account, to create single tables, queues and containers in it."""
    account = RawAccount(connection_string_of(storage))
    yield account
    await account.close()


@pytest.fixture
async def app_with_provider(http: httpx.AsyncClient, app: str) -> str:
    """An app with a provider and without a settle window."""
    assert (await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)).status_code == 200
    return app


async def get_proof(http: httpx.AsyncClient, hub: str) -> Any:
    response = await http.get(f"/api/taskhubs/{hub}")
    assert response.status_code == 200, response.text
    return response.json()["proof"]


async def retire(http: httpx.AsyncClient, app: str, hub: str, provider_account: ProviderAccount) -> None:
    """Stage and swap two more versions, so that the task hub is retired and no slot may carry it."""
    assert (await post_swap(http, app, hub)).status_code == 200
    for following in (new_hub_name(), new_hub_name()):
        assert (await post_staging(http, app, following, force=True, reason="test")).status_code == 200
        assert (await post_swap(http, app, following)).status_code == 200
    assert [retired["taskHub"] for retired in (await http.get(f"/api/apps/{app}")).json()["retired"]] == [hub]


ARTIFACTS = (
    *(f"table {{}}{suffix}" for suffix in ("Instances", "History", "Partitions")),
    *(f"queue {{}}-{suffix}" for suffix in ("control-00", "control-15", "workitems")),
    *(f"container {{}}-{suffix}" for suffix in ("leases", "largemessages", "applease")),
)


@pytest.mark.parametrize("artifact", ARTIFACTS)
async def test_a_name_with_any_artifact_at_the_provider_is_refused(
    http: httpx.AsyncClient, app_with_provider: str, raw_account: RawAccount, hub: str, artifact: str
) -> None:
    """The name is compared without case. It is not claimed, so its owner can still register it."""
    kind, name = artifact.format(hub).split(" ")
    match kind:
        case "table":
            await raw_account.add_table(name.replace(hub, hub.upper()))
            artifact = artifact.replace("{}", hub.upper())
        case "queue":
            await raw_account.add_queue(name)
        case "container":
            await raw_account.add_container(name)
    refused = assert_problem(await post_staging(http, app_with_provider, hub.title()), 409, "TaskHubAlreadyUsed")
    assert (refused["taskHub"], refused["existing"]) == (hub.title(), [artifact.format(hub)])
    assert f"{artifact.format(hub)}, at http://127.0.0.1:" in refused["detail"]
    assert_problem(await http.get(f"/api/taskhubs/{hub}"), 404, "TaskHubNotFound")
    assert (await http.get(f"/api/apps/{app_with_provider}")).json()["slots"]["staging"] is None


async def test_a_foreign_task_hub_is_neither_staged_nor_deleted(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    """Without a provider, the name is claimed without a proof. After the provider is set, Cleanup finds a drained task
    hub of this name and does not delete it."""
    await provider_account.add_task_hub(hub, ("their-order", "Completed"))
    foreign_artifacts = await provider_account.list_artifacts(hub)
    assert (await post_staging(http, app, hub)).status_code == 200
    assert await get_proof(http, hub) is None
    await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    await retire(http, app, hub, provider_account)
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
    """Task hub names are case-insensitive, but the filters of the store are not."""
    prefix = f"T{new_hub_name()}"
    connections = {
        "STATE_TASKHUBS_OWN": connection_string_of(storage),
        "STATE_TASKHUBS_SHARED": connection_string_of(storage),
    }
    source = {
        "provider": "azureStorage",
        "connection": "STATE_TASKHUBS_OWN",
        "trackingConnection": "STATE_TASKHUBS_SHARED",
        "trackingPrefix": prefix,
    }
    async with client_of_server_with(storage, clock, connections) as http:
        await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=source)
        first = new_hub_name()
        assert (await post_staging(http, app, first, run_headers(1))).status_code == 200, (
            "a store that does not exist yet holds nothing"
        )
        table = (await get_proof(http, first))["addresses"][-1]
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
    [UNREACHABLE, "UseDevelopmentStorage", "wrong key"],
)
async def test_no_name_is_claimed_if_the_setting_leads_nowhere(
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
    async with client_of_server_with(storage, clock, {"STATE_TASKHUBS_SHOP": UNREACHABLE}) as http:
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
    ownership = Ownership(TaskHubStore(server.tables, 4), server.backends)
    shop = App("shop", provider_config=ProviderConfig("azureStorage", "STATE_TASKHUBS_SHOP"))
    over = asyncio.get_running_loop().time()
    problem = await ownership.find_existing(shop, hub, Caller("ci"), over)
    assert isinstance(problem, ProviderUnavailable)
    assert "did not answer in time" in problem.message


async def test_the_management_api_is_not_asked_because_asking_creates_the_task_hub(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await running.handle(request)

    running = management.FakeFunctionApp("")
    async with management.serve_http(handle) as origin:
        settings = {"STATE_TASKHUBS_API__endpoint": origin, "STATE_TASKHUBS_API__key": management.SYSTEM_KEY}
        async with client_of_server_with(storage, clock, settings) as http:
            await put_app(http, app, taskHubs={"provider": "managementApi", "connection": "STATE_TASKHUBS_API"})
            assert (await post_staging(http, app, hub)).status_code == 200
            assert (running.requests, running.hubs) == ([], {})
            assert await get_proof(http, hub) is None


async def test_the_same_run_repeats_its_request_after_its_app_has_started(
    http: httpx.AsyncClient, app_with_provider: str, provider_account: ProviderAccount, hub: str
) -> None:
    first = await post_staging(http, app_with_provider, hub, run_headers(1))
    proof = await get_proof(http, hub)
    await provider_account.add_task_hub(hub, ("order-1", "Running"))
    again = await post_staging(http, app_with_provider, hub, run_headers(1))
    assert (again.status_code, again.json()) == (200, first.json())
    await post_events(http, event(hub, "order-1"))
    assert (await post_staging(http, app_with_provider, hub, run_headers(1))).status_code == 200
    # The deployment is abandoned, and another run stages the same version: the slot already holds its task hub.
    assert (
        await http.delete(f"/api/apps/{app_with_provider}/staging", params={"taskHub": hub}, headers=run_headers(1))
    ).status_code == 200
    assert (
        await post_staging(http, app_with_provider, hub, run_headers(2), force=True, reason="test")
    ).status_code == 200
    assert await get_proof(http, hub) == proof


async def test_a_claim_whose_commit_was_lost_is_valid_for_its_own_run_only(
    *,
    storage: StorageSettings,
    clock: ShiftedClock,
    http: httpx.AsyncClient,
    app_with_provider: str,
    provider_account: ProviderAccount,
    hub: str,
) -> None:
    """The storage fails between the claim and the commit. The app starts nevertheless and publishes events."""
    settings = {"STATE_TASKHUBS_SHOP": connection_string_of(storage)}
    async with run_storage_proxy(storage) as proxy, client_of_server_with(proxy.settings, clock, settings) as broken:
        _fail_from_request(proxy, "POST", 2)
        assert_problem(await post_staging(broken, app_with_provider, hub, run_headers(1)), 503, "StorageUnavailable")
    proof = await get_proof(http, hub)
    assert proof["basis"] == "New"
    await provider_account.add_task_hub(hub, ("order-1", "Running"))
    await post_events(http, event(hub, "order-1"))
    assert_problem(await post_staging(http, app_with_provider, hub, run_headers(2)), 409, "TaskHubAlreadyUsed")
    assert_problem(
        await post_staging(http, f"{app_with_provider}-other", hub, run_headers(1)), 409, "TaskHubAlreadyUsed"
    )
    assert (await post_staging(http, app_with_provider, hub, run_headers(1))).status_code == 200
    assert await get_proof(http, hub) == proof, "what was proven stays proven"


async def test_callers_without_a_run_cannot_repeat_a_claim(
    *,
    storage: StorageSettings,
    clock: ShiftedClock,
    http: httpx.AsyncClient,
    app_with_provider: str,
    provider_account: ProviderAccount,
    hub: str,
) -> None:
    settings = {"STATE_TASKHUBS_SHOP": connection_string_of(storage)}
    async with run_storage_proxy(storage) as proxy, client_of_server_with(proxy.settings, clock, settings) as broken:
        _fail_from_request(proxy, "POST", 2)
        assert_problem(await post_staging(broken, app_with_provider, hub), 503, "StorageUnavailable")
    await provider_account.add_task_hub(hub, ("order-1", "Running"))
    assert_problem(await post_staging(http, app_with_provider, hub), 409, "TaskHubAlreadyUsed")


async def test_a_claim_that_is_proven_at_another_address_is_checked_again(
    storage: StorageSettings, clock: ShiftedClock, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    """The commit is lost, and the setting leads to another account before the run retries."""
    before = connection_string_of(storage)
    async with (
        run_storage_proxy(storage) as proxy,
        client_of_server_with(proxy.settings, clock, {"STATE_TASKHUBS_SHOP": before}) as http,
    ):
        await put_app(http, app, taskHubs=PROVIDER_CONFIG)
        _fail_from_request(proxy, "POST", 2)
        assert_problem(await post_staging(http, app, hub, run_headers(1)), 503, "StorageUnavailable")
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    async with client_of_server_with(
        storage, clock, {"STATE_TASKHUBS_SHOP": connection_at_other_address(storage)}
    ) as http:
        assert_problem(await post_staging(http, app, hub, run_headers(1)), 409, "TaskHubAlreadyUsed")


async def test_exactly_one_of_several_apps_claims_a_new_name_at_once(
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


async def test_the_name_is_checked_while_the_slot_is_read(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the two reads waits until the other has begun."""
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    await put_app(http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    begun_steps = {"page": asyncio.Event(), "existing": asyncio.Event()}
    page, existing = AzureStorageBackend.read_page, AzureStorageBackend.find_existing

    async def both(step: str) -> None:
        begun_steps[step].set()
        async with asyncio.timeout(30):
            await asyncio.gather(*(event.wait() for event in begun_steps.values()))

    async def read_page_slowly(self: AzureStorageBackend, task_hub: str, since: Instant, cursor: str) -> ObservedPage:
        await both("page")
        return await page(self, task_hub, since, cursor)

    async def find_existing_slowly(self: AzureStorageBackend, task_hub: str) -> ExistingArtifacts | None:
        await both("existing")
        return await existing(self, task_hub)

    monkeypatch.setattr(AzureStorageBackend, "read_page", read_page_slowly)
    monkeypatch.setattr(AzureStorageBackend, "find_existing", find_existing_slowly)
    assert (await post_staging(http, app, new_hub_name())).status_code == 200


# What Cleanup may delete


def connection_at_other_address(storage: StorageSettings) -> str:
    """A connection to the same emulator under another address. It stands for another account that has a task hub of the
    same name."""
    return connection_string_of(storage).replace("127.0.0.1", "localhost")


async def test_cleanup_deletes_what_the_proof_covers(
    http: httpx.AsyncClient, app_with_provider: str, provider_account: ProviderAccount, hub: str
) -> None:
    assert (await post_staging(http, app_with_provider, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    await retire(http, app_with_provider, hub, provider_account)
    (result,) = await post_cleanup(http, app_with_provider)
    assert (result["outcome"], sorted(result["artifacts"]), result["message"]) == ("Removed", artifacts_of(hub), None)
    assert await provider_account.list_artifacts(hub) == []


@pytest.mark.parametrize("connection", ["STATE_TASKHUBS_SHOP", "STATE_TASKHUBS_OTHER"], ids=["setting", "taskHubs"])
async def test_cleanup_deletes_nothing_at_another_account_than_the_proven_one(
    *,
    http: httpx.AsyncClient,
    storage: StorageSettings,
    clock: ShiftedClock,
    app_with_provider: str,
    provider_account: ProviderAccount,
    hub: str,
    connection: str,
) -> None:
    """Either the value of the setting was changed, or the app's taskHubs name another setting."""
    assert (await post_staging(http, app_with_provider, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    await retire(http, app_with_provider, hub, provider_account)
    before = await provider_account.list_artifacts(hub)
    async with client_of_server_with(storage, clock, {connection: connection_at_other_address(storage)}) as moved:
        assert (
            await put_app(moved, app_with_provider, taskHubs=PROVIDER_CONFIG | {"connection": connection})
        ).status_code == 200
        (dry_run_result,) = await post_cleanup(moved, app_with_provider, dryRun=True)
        assert dry_run_result["outcome"] == "NotOwned"
        assert "proven for http://127.0.0.1:" in dry_run_result["message"]
        assert "but not for http://localhost:" in dry_run_result["message"]
        (result,) = await post_cleanup(moved, app_with_provider)
        assert result["outcome"] == "NotOwned"
    assert await provider_account.list_artifacts(hub) == before


async def test_a_proof_covers_the_same_account_behind_another_setting(
    storage: StorageSettings, clock: ShiftedClock, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    settings = {
        "STATE_TASKHUBS_OLD": connection_string_of(storage),
        "STATE_TASKHUBS_NEW": connection_string_of(storage),
    }
    async with client_of_server_with(storage, clock, settings) as http:
        await put_app(
            http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG | {"connection": "STATE_TASKHUBS_OLD"}
        )
        assert (await post_staging(http, app, hub)).status_code == 200
        await provider_account.add_task_hub(hub, ("order-1", "Completed"))
        await retire(http, app, hub, provider_account)
        await put_app(http, app, taskHubs=PROVIDER_CONFIG | {"connection": "STATE_TASKHUBS_NEW"})
        assert [result["outcome"] for result in await post_cleanup(http, app)] == ["Removed"]
    assert await provider_account.list_artifacts(hub) == []


async def test_a_task_hub_with_a_claim_without_a_proof_is_not_deleted(
    http: httpx.AsyncClient, server: StateServer, app_with_provider: str, provider_account: ProviderAccount, hub: str
) -> None:
    assert (await post_staging(http, app_with_provider, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    await retire(http, app_with_provider, hub, provider_account)
    table = server.tables.client(TASK_HUBS_TABLE)
    row = await table.get_entity("hub", hub)
    del row["OwnershipProof"], row["RunId"]
    await table.upsert_entity(row, mode=UpdateMode.REPLACE)
    before = await provider_account.list_artifacts(hub)
    assert [result["outcome"] for result in await post_cleanup(http, app_with_provider)] == ["NotOwned"]
    assert await provider_account.list_artifacts(hub) == before


async def test_a_begun_deletion_waits_until_the_setting_leads_to_the_proven_address(
    *,
    http: httpx.AsyncClient,
    server: StateServer,
    storage: StorageSettings,
    clock: ShiftedClock,
    app_with_provider: str,
    provider_account: ProviderAccount,
    hub: str,
) -> None:
    assert (await post_staging(http, app_with_provider, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    await retire(http, app_with_provider, hub, provider_account)
    source = str(ProviderConfig("azureStorage", "STATE_TASKHUBS_SHOP"))
    await TaskHubStore(server.tables, 4).close(hub, deleting_from=source)
    before = await provider_account.list_artifacts(hub)
    async with client_of_server_with(
        storage, clock, {"STATE_TASKHUBS_SHOP": connection_at_other_address(storage)}
    ) as moved:
        (result,) = await post_cleanup(moved, app_with_provider)
        assert result["outcome"] == "Unfinished"
        assert "its setting now leads to another address" in result["message"]
    assert await provider_account.list_artifacts(hub) == before
    assert [result["outcome"] for result in await post_cleanup(http, app_with_provider)] == ["Removed"]


async def test_a_task_hub_with_work_is_not_drained_even_if_it_is_not_owned(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    assert (await post_staging(http, app, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("order-1", "Running"))
    await retire(http, app, hub, provider_account)
    await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    (result,) = await post_cleanup(http, app)
    assert (result["outcome"], reason_codes(result)) == ("NotDrained", ["InstancesActive"])
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.put("order-1", "Completed")
    assert [result["outcome"] for result in await post_cleanup(http, app)] == ["NotOwned"]


@pytest.mark.parametrize(("service", "kind"), [("Queue", "queue"), ("Blob", "container")])
async def test_a_claim_is_not_proven_for_services_that_the_server_could_not_list(
    *,
    storage: StorageSettings,
    clock: ShiftedClock,
    app: str,
    provider_account: ProviderAccount,
    hub: str,
    service: str,
    kind: str,
) -> None:
    """A server whose roles allow only reading tables can stage. With more roles later, it deletes no artifacts of the
    services that it could not list at the claim."""
    async with (
        account_proxy(storage) as proxy,
        client_of_server_with(storage, clock, {"STATE_TASKHUBS_SHOP": connection_string_of(proxy.settings)}) as http,
    ):
        await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
        proxy.faults[f"{service} GET"] = ServiceFault(403, "AuthorizationPermissionMismatch")
        assert (await post_staging(http, app, hub)).status_code == 200
        own = dict(part.split("=", 1) for part in connection_string_of(proxy.settings).rstrip(";").split(";"))
        addresses = (await get_proof(http, hub))["addresses"]
        assert own[f"{service}Endpoint"] not in addresses
        assert len(addresses) == 2
        await provider_account.add_task_hub(hub, ("order-1", "Completed"))
        await retire(http, app, hub, provider_account)
        proxy.faults.clear()
        before = await provider_account.list_artifacts(hub)
        (result,) = await post_cleanup(http, app)
        assert result["outcome"] == "NotOwned"
        assert f"but not for {own[f'{service}Endpoint']}" in result["message"]
        assert await provider_account.list_artifacts(hub) == before


# Adoption


async def test_put_app_adopts_an_existing_task_hub_and_records_it(
    http: httpx.AsyncClient, app: str, storage: StorageSettings, provider_account: ProviderAccount, hub: str
) -> None:
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    slots = {"staging": {"taskHub": hub, "version": "1"}}
    assert (
        await put_app(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    ).status_code == 200
    (record,) = (await http.get(f"/api/apps/{app}/history")).json()["history"]
    proof = await get_proof(http, hub)
    assert (proof["basis"], len(proof["addresses"])) == ("Adopted", 3)
    assert record["details"]["adopted"] == {"taskHubs": [hub], "addresses": proof["addresses"]}
    assert (await get_staging(http, app))["assurance"] == "verified"
    following = new_hub_name()
    assert (await post_staging(http, app, following)).status_code == 200
    assert (await post_swap(http, app, following)).status_code == 200
    (result,) = await post_cleanup(http, app)
    assert (result["taskHub"], result["outcome"]) == (hub, "Removed")
    assert await provider_account.list_artifacts(hub) == []


async def test_an_adoption_that_was_not_recorded_proves_nothing(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage fails when the app is written, and the request is repeated."""
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    slots = {"staging": {"taskHub": hub}}
    assert (await put_app(http, app, slots=slots, policy={"settleSeconds": 0})).status_code == 200
    adopt = {"taskHubs": PROVIDER_CONFIG, "adoptTaskHubs": [hub]}

    async def fail(*arguments: object) -> bool:
        raise StorageUnavailable("the state storage cannot be used at the moment")

    with monkeypatch.context() as patched:
        patched.setattr(AppStore, "commit", fail)
        assert_problem(await put_app(http, app, **adopt), 503, "StorageUnavailable")
    assert await get_proof(http, hub) is None
    assert (await put_app(http, app, **adopt)).status_code == 200
    record, *_ = (await http.get(f"/api/apps/{app}/history")).json()["history"]
    assert record["details"]["adopted"]["taskHubs"] == [hub]
    assert (await get_proof(http, hub))["basis"] == "Adopted"


async def test_a_missing_task_hub_at_another_account_does_not_remove_active_records(
    storage: StorageSettings, clock: ShiftedClock, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    """The task hub and its instances are known in one account. If another account has no such task hub, the records of
    the first one stay, and a probe of the first account is no evidence for the other."""
    settings = {"STATE_TASKHUBS_SHOP": connection_string_of(storage)}
    async with client_of_server_with(storage, clock, settings) as http:
        await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
        assert (await post_staging(http, app, hub)).status_code == 200
        await provider_account.add_task_hub(hub, ("order-1", "Running"))
        await post_events(http, event(hub, "order-1"))
        assert "InstancesActive" in reason_codes(await get_staging(http, app, wait=2))
        # Retired by force: its orchestration still runs.
        await retire(http, app, hub, provider_account)
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.delete()
    async with client_of_server_with(
        storage, clock, {"STATE_TASKHUBS_SHOP": connection_at_other_address(storage)}
    ) as moved:
        (result,) = await post_cleanup(moved, app, deleteTaskHubs=False)
        assert (result["taskHub"], result["outcome"]) == (hub, "NotDrained")
        listed = (await moved.get(f"/api/taskhubs/{hub}/instances?active=true")).json()["instances"]
        assert [instance["instanceId"] for instance in listed] == ["order-1"]


async def test_put_app_adopts_a_named_task_hub_of_the_app(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    """The task hub was claimed while the app had no provider, and retired later."""
    assert (await post_staging(http, app, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    await retire(http, app, hub, provider_account)
    problem = assert_problem(await put_app(http, app, adoptTaskHubs=[hub]), 400, "InvalidRequest")
    assert "send taskHubs in the same request" in problem["detail"]
    await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    assert [result["outcome"] for result in await post_cleanup(http, app, dryRun=True)] == ["NotOwned"]
    adopted = await put_app(http, app, adoptTaskHubs=[hub.upper()])
    assert adopted.status_code == 200
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert newest["details"]["adopted"]["taskHubs"] == [hub]
    assert (await get_proof(http, hub))["basis"] == "Adopted"
    again = await put_app(http, app, adoptTaskHubs=[hub])
    assert again.headers["etag"] == adopted.headers["etag"], "what is proven there already is not adopted again"
    assert [result["outcome"] for result in await post_cleanup(http, app)] == ["Removed"]
    assert await provider_account.list_artifacts(hub) == []


async def test_an_app_adopts_its_own_task_hubs_only(http: httpx.AsyncClient, app_with_provider: str, hub: str) -> None:
    problem = assert_problem(await put_app(http, app_with_provider, adoptTaskHubs=[hub]), 400, "InvalidRequest")
    assert problem["detail"] == (
        f"app {app_with_provider} cannot adopt task hub {hub}: none of its slots holds it, and it is not retired. "
        "Put it into a slot in the same request, or leave it out of adoptTaskHubs"
    )
    other = f"{app_with_provider}-other"
    assert (await post_staging(http, app_with_provider, hub)).status_code == 200
    await put_app(http, other, taskHubs=PROVIDER_CONFIG)
    assert_problem(await put_app(http, other, adoptTaskHubs=[hub]), 400, "InvalidRequest")
    assert_problem(await put_app(http, other, slots={"staging": {"taskHub": hub}}), 409, "TaskHubInUse")


async def test_sending_the_body_of_get_app_to_put_app_adopts_nothing(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    """Not even if taskHubs change, which may lead to a foreign task hub of the same name."""
    assert (await post_staging(http, app, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("their-order", "Completed"))
    answered = (await http.get(f"/api/apps/{app}")).json()
    assert (await http.put(f"/api/apps/{app}", json={**answered, "taskHubs": PROVIDER_CONFIG})).status_code == 200
    assert await get_proof(http, hub) is None
