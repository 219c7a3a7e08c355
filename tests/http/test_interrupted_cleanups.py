"""Cleanup with `deleteTaskHubs` that stops midway: the next call finishes it, or says what is in its way."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from azure.storage.blob.aio import ContainerClient

from state_api.app import StateServer
from state_api.backends.storage_artifacts import StorageArtifactStore
from state_api.domain.releases.apps import ProviderConfig
from state_api.settings import StorageSettings
from state_api.storage.apps import AppStore
from state_api.storage.instances import InstanceStore
from state_api.storage.task_hub_states import TaskHubStateStore
from state_api.storage.task_hubs import TaskHubStore
from tests.backends.azure_storage_task_hub import ProviderAccount, ProviderTaskHub, artifacts_of
from tests.builders import event
from tests.http.operations import (
    PROVIDER_CONFIG,
    post_cleanup,
    post_events,
    put_app,
)
from tests.http.server_clients import client_of_second_server

pytestmark = pytest.mark.anyio

CLEANUP_STEPS = 17
"""Close the name, in the registry and in the records, delete eleven artifacts, close the name again, delete the
records, and update the app."""


class SimulatedCrash(Exception):
    """Stands for the end of the server process."""


@pytest.mark.parametrize("completed_steps", range(CLEANUP_STEPS))
async def test_the_next_call_finishes_a_cleanup_that_was_cut_off_at_any_step(
    *,
    http: httpx.AsyncClient,
    server: StateServer,
    app: str,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
    monkeypatch: pytest.MonkeyPatch,
    completed_steps: int,
) -> None:
    others = [
        artifact
        for artifact in await provider_account.list_artifacts(hubs_with_common_prefix[0])
        if artifact not in artifacts_of(hubs_with_common_prefix[0])
    ]
    steps_taken: list[str] = []

    def crash_after_completed_steps(name: str, step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The step, which crashes instead if enough steps were taken before."""

        async def take_step_or_crash(*arguments: Any, **keywords: Any) -> Any:
            if len(steps_taken) == completed_steps:
                raise SimulatedCrash(name)
            steps_taken.append(name)
            return await step(*arguments, **keywords)

        return take_step_or_crash

    with monkeypatch.context() as patched:
        for owner, name in (
            (TaskHubStore, "close"),
            (TaskHubStateStore, "update"),
            (StorageArtifactStore, "delete"),
            (InstanceStore, "delete_records"),
            (AppStore, "commit"),
        ):
            patched.setattr(owner, name, crash_after_completed_steps(name, getattr(owner, name)))
        crashed = await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True})
    assert crashed.status_code == 500, "the server must have died before the last step"
    again = await post_cleanup(http, app, deleteTaskHubs=completed_steps % 2 == 0)
    assert [result["outcome"] for result in again] == ["Removed"]
    assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == others
    assert (await http.get(f"/api/apps/{app}")).json()["retired"] == []
    assert await post_cleanup(http, app) == []


async def test_cleanup_names_the_obstacle_and_the_next_call_continues(
    http: httpx.AsyncClient,
    app: str,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
    storage: StorageSettings,
) -> None:
    """A container with a lease cannot be deleted."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    async with ContainerClient.from_connection_string(connection, f"{hubs_with_common_prefix[0]}-leases") as container:
        lease = await container.acquire_lease(60)
        (result,) = await post_cleanup(http, app)
        assert result["outcome"] == "Unfinished"
        assert f"container {hubs_with_common_prefix[0]}-leases" in result["message"]
        await lease.release()
    (result,) = await post_cleanup(http, app)
    assert result["outcome"] == "Removed"
    assert [
        artifact
        for artifact in await provider_account.list_artifacts(hubs_with_common_prefix[0])
        if artifact in artifacts_of(hubs_with_common_prefix[0])
    ] == []


async def test_a_begun_deletion_waits_until_the_provider_is_set_again(
    http: httpx.AsyncClient,
    server: StateServer,
    app: str,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
) -> None:
    await TaskHubStore(server.tables, shards=4).close(
        hubs_with_common_prefix[0], deleting_from=str(ProviderConfig("azureStorage", "STATE_TASKHUBS_SHOP"))
    )
    await put_app(http, app, taskHubs=None)
    (result,) = await post_cleanup(http, app, deleteTaskHubs=False)
    assert (result["outcome"], "set taskHubs with PutApp" in result["message"]) == ("Unfinished", True)
    await put_app(http, app, taskHubs=PROVIDER_CONFIG)
    (result,) = await post_cleanup(http, app, deleteTaskHubs=False)
    assert (result["outcome"], sorted(result["artifacts"])) == ("Removed", artifacts_of(hubs_with_common_prefix[0]))


async def test_an_instance_whose_end_is_not_recorded_after_the_closing_does_not_stop_the_deletion(
    monkeypatch: pytest.MonkeyPatch,
    *,
    http: httpx.AsyncClient,
    server: StateServer,
    app: str,
    storage: StorageSettings,
    hubs_with_common_prefix: list[str],
) -> None:
    """The server dies after it has closed the name in the registry, and before it does so in the records."""
    retired_hub = hubs_with_common_prefix[0]
    async with client_of_second_server(storage) as other_http:
        await post_events(other_http, event(retired_hub, "order-2"))
    provider_config = ProviderConfig("azureStorage", "STATE_TASKHUBS_SHOP")

    async def die(*arguments: Any) -> None:
        raise SimulatedCrash

    with monkeypatch.context() as patched:
        patched.setattr(TaskHubStateStore, "update", die)
        with pytest.raises(SimulatedCrash):
            await TaskHubStore(server.tables, shards=1).close(retired_hub, deleting_from=str(provider_config))
    async with ProviderTaskHub(storage, retired_hub) as provider:
        await provider.put("order-2", "Completed")
    assert (await post_events(http, event(retired_hub, "order-2", "Completed")))["quarantined"] == 1
    (result,) = await post_cleanup(http, app, dryRun=True)
    assert (result["outcome"], [reason["code"] for reason in result["reasons"]]) == ("NotDrained", ["InstancesActive"])
    (result,) = await post_cleanup(http, app)
    assert result["outcome"] == "Removed"
