"""Cleanup over HTTP deletes at a provider only the task hubs that the proof of their claim covers."""

import httpx
import pytest
from azure.data.tables import UpdateMode

from state_api.app import StateServer
from state_api.domain.releases.apps import ProviderConfig
from state_api.settings import StorageSettings
from state_api.storage.tables import TASK_HUBS_TABLE
from state_api.storage.task_hubs import TaskHubStore
from tests.backends.azure_storage_task_hub import ProviderAccount, ProviderTaskHub, artifacts_of
from tests.backends.storage_account import ServiceFault, account_proxy, connection_string_of
from tests.builders import event
from tests.conftest import ShiftedClock
from tests.http.operations import (
    PROVIDER_CONFIG,
    get_proof,
    get_staging,
    post_cleanup,
    post_events,
    post_staging,
    put_app,
    reason_codes,
    retire_task_hub,
)
from tests.http.server_clients import client_of_server_with, connection_at_other_address

pytestmark = pytest.mark.anyio


async def test_cleanup_deletes_what_the_proof_covers(
    http: httpx.AsyncClient, app_with_provider: str, provider_account: ProviderAccount, hub: str
) -> None:
    assert (await post_staging(http, app_with_provider, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    await retire_task_hub(http, app_with_provider, hub)
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
    """The value of the setting has changed, or the app's `taskHubs` name another setting."""
    assert (await post_staging(http, app_with_provider, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    await retire_task_hub(http, app_with_provider, hub)
    artifacts_before = await provider_account.list_artifacts(hub)
    async with client_of_server_with(
        storage, clock, {connection: connection_at_other_address(storage)}
    ) as client_at_other_address:
        assert (
            await put_app(
                client_at_other_address, app_with_provider, taskHubs=PROVIDER_CONFIG | {"connection": connection}
            )
        ).status_code == 200
        (dry_run_result,) = await post_cleanup(client_at_other_address, app_with_provider, dryRun=True)
        assert dry_run_result["outcome"] == "NotOwned"
        assert "proven for http://127.0.0.1:" in dry_run_result["message"]
        assert "but not for http://localhost:" in dry_run_result["message"]
        (result,) = await post_cleanup(client_at_other_address, app_with_provider)
        assert result["outcome"] == "NotOwned"
    assert await provider_account.list_artifacts(hub) == artifacts_before


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
        await retire_task_hub(http, app, hub)
        await put_app(http, app, taskHubs=PROVIDER_CONFIG | {"connection": "STATE_TASKHUBS_NEW"})
        assert [result["outcome"] for result in await post_cleanup(http, app)] == ["Removed"]
    assert await provider_account.list_artifacts(hub) == []


async def test_a_task_hub_with_a_claim_without_a_proof_is_not_deleted(
    http: httpx.AsyncClient, server: StateServer, app_with_provider: str, provider_account: ProviderAccount, hub: str
) -> None:
    assert (await post_staging(http, app_with_provider, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    await retire_task_hub(http, app_with_provider, hub)
    table = server.tables.client(TASK_HUBS_TABLE)
    row = await table.get_entity("hub", hub)
    del row["OwnershipProof"]
    await table.upsert_entity(row, mode=UpdateMode.REPLACE)
    artifacts_before = await provider_account.list_artifacts(hub)
    assert [result["outcome"] for result in await post_cleanup(http, app_with_provider)] == ["NotOwned"]
    assert await provider_account.list_artifacts(hub) == artifacts_before


async def test_an_unfinished_deletion_continues_only_once_the_setting_leads_to_the_proven_address(
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
    await retire_task_hub(http, app_with_provider, hub)
    provider_config = str(ProviderConfig("azureStorage", "STATE_TASKHUBS_SHOP"))
    await TaskHubStore(server.tables, shards=4).close(hub, deleting_from=provider_config)
    artifacts_before = await provider_account.list_artifacts(hub)
    async with client_of_server_with(
        storage, clock, {"STATE_TASKHUBS_SHOP": connection_at_other_address(storage)}
    ) as client_at_other_address:
        (result,) = await post_cleanup(client_at_other_address, app_with_provider)
        assert result["outcome"] == "Unfinished"
        assert "its setting now leads to another address" in result["message"]
    assert await provider_account.list_artifacts(hub) == artifacts_before
    assert [result["outcome"] for result in await post_cleanup(http, app_with_provider)] == ["Removed"]


async def test_cleanup_reports_active_work_before_it_reports_missing_ownership(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    assert (await post_staging(http, app, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("order-1", "Running"))
    await retire_task_hub(http, app, hub)
    await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    (result,) = await post_cleanup(http, app)
    assert (result["outcome"], reason_codes(result)) == ("NotDrained", ["InstancesActive"])
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.put("order-1", "Completed")
    assert [result["outcome"] for result in await post_cleanup(http, app)] == ["NotOwned"]


@pytest.mark.parametrize(("service", "kind"), [("Queue", "queue"), ("Blob", "container")])
async def test_a_claim_does_not_cover_services_that_the_server_could_not_list(
    *,
    storage: StorageSettings,
    clock: ShiftedClock,
    app: str,
    provider_account: ProviderAccount,
    hub: str,
    service: str,
    kind: str,
) -> None:
    """A server that may read only tables can still claim a name.

    When the server has more roles later, it deletes nothing in the services that it could not list at the claim.
    """
    async with (
        account_proxy(storage) as proxy,
        client_of_server_with(storage, clock, {"STATE_TASKHUBS_SHOP": connection_string_of(proxy.settings)}) as http,
    ):
        await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
        proxy.faults[f"{service} GET"] = ServiceFault(403, "AuthorizationPermissionMismatch")
        assert (await post_staging(http, app, hub)).status_code == 200
        endpoints = dict(part.split("=", 1) for part in connection_string_of(proxy.settings).rstrip(";").split(";"))
        addresses = (await get_proof(http, hub))["addresses"]
        assert endpoints[f"{service}Endpoint"] not in addresses
        assert len(addresses) == 2
        await provider_account.add_task_hub(hub, ("order-1", "Completed"))
        await retire_task_hub(http, app, hub)
        proxy.faults.clear()
        artifacts_before = await provider_account.list_artifacts(hub)
        (result,) = await post_cleanup(http, app)
        assert result["outcome"] == "NotOwned"
        assert f"but not for {endpoints[f'{service}Endpoint']}" in result["message"]
        assert await provider_account.list_artifacts(hub) == artifacts_before


async def test_a_missing_task_hub_at_another_account_does_not_remove_active_records(
    storage: StorageSettings, clock: ShiftedClock, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    """The app's connection leads to a second account, which has no task hub of this name.

    The active instances that the records hold from the first account still block.
    """
    settings = {"STATE_TASKHUBS_SHOP": connection_string_of(storage)}
    async with client_of_server_with(storage, clock, settings) as http:
        await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
        assert (await post_staging(http, app, hub)).status_code == 200
        await provider_account.add_task_hub(hub, ("order-1", "Running"))
        await post_events(http, event(hub, "order-1"))
        assert "InstancesActive" in reason_codes(await get_staging(http, app, wait=2))
        # PostStaging with force retires the task hub although its orchestration still runs.
        await retire_task_hub(http, app, hub)
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.delete()
    async with client_of_server_with(
        storage, clock, {"STATE_TASKHUBS_SHOP": connection_at_other_address(storage)}
    ) as client_at_other_address:
        (result,) = await post_cleanup(client_at_other_address, app, deleteTaskHubs=False)
        assert (result["taskHub"], result["outcome"]) == (hub, "NotDrained")
        listed = (await client_at_other_address.get(f"/api/taskhubs/{hub}/instances?active=true")).json()["instances"]
        assert [instance["instanceId"] for instance in listed] == ["order-1"]
