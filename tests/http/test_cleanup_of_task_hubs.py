"""Cleanup that also deletes what retired task hubs left at their provider, on the emulator's tables, queues and
containers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from azure.storage.blob.aio import ContainerClient

from state_api.app import StateServer
from state_api.backends.protocols import Artifact, ArtifactKind, TaskHubArtifacts
from state_api.backends.storage_artifacts import StorageArtifactStore
from state_api.domain.releases.apps import ProviderConfig, Slot
from state_api.services.ports import AuditRecord
from state_api.settings import StorageSettings
from state_api.storage.apps import AppStore
from state_api.storage.instances import InstanceStore
from state_api.storage.probes import ProbeStore
from state_api.storage.task_hubs import TaskHubStore
from tests.backends.azure_storage_task_hub import ProviderAccount, ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.http.operations import assert_problem, post_events, post_staging, post_swap, put_app
from tests.http.test_verification import PROVIDER_CONFIG

pytestmark = pytest.mark.anyio


@pytest.fixture
async def provider_account(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[ProviderAccount]:
    async with ProviderAccount(storage) as made:
        yield made


@pytest.fixture
async def hubs_with_common_prefix(http: httpx.AsyncClient, app: str, provider_account: ProviderAccount) -> list[str]:
    """Three hubs whose names begin alike, as v10, v100 and v10x do: the first is retired, the others are in slots. The
    names of platform hubs have three characters or more."""
    first = new_hub_name()[:12]
    names = [first, f"{first}0", f"{first}x"]
    await provider_account.add_queue(f"{first}-control-backup")
    await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    for name in names:
        assert (await post_staging(http, app, name)).status_code == 200
        # The app starts.
        await provider_account.add_task_hub(name, ("order-1", "Completed"), ("@counter@shop", "Running"))
        assert (await post_swap(http, app, name)).status_code == 200
    return names


async def post_cleanup(http: httpx.AsyncClient, app: str, **order: Any) -> list[Any]:
    answer = await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True, **order})
    assert answer.status_code == 200, answer.text
    hubs_with_common_prefix: list[Any] = answer.json()["taskHubs"]
    return hubs_with_common_prefix


def artifacts_of(hub: str, *, containers: bool = True, queues: bool = True, tables: bool = True) -> list[str]:
    """The artifacts of a hub, sorted."""
    names = [f"container {hub}-{name}" for name in ("applease", "largemessages", "leases") if containers]
    names += [f"queue {hub}-control-{number:02d}" for number in range(4) if queues]
    names += [f"queue {hub}-workitems"] if queues else []
    names += [f"table {hub}{name}" for name in ("History", "Instances", "Partitions") if tables]
    return sorted(names)


async def test_only_what_is_the_hubs_own_goes(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hubs_with_common_prefix: list[str]
) -> None:
    before = await provider_account.list_artifacts(hubs_with_common_prefix[0])
    (shown,) = await post_cleanup(http, app, dryRun=True)
    assert (shown["taskHub"], shown["outcome"], sorted(shown["artifacts"])) == (
        hubs_with_common_prefix[0],
        "WouldRemove",
        artifacts_of(hubs_with_common_prefix[0]),
    )
    assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == before
    (done,) = await post_cleanup(http, app)
    assert (done["outcome"], done["artifacts"], done["shared"]) == ("Removed", shown["artifacts"], [])
    assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == sorted(
        set(before) - set(artifacts_of(hubs_with_common_prefix[0]))
    )
    assert await post_cleanup(http, app) == []


async def test_a_hub_with_work_loses_nothing(
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
) -> None:
    async with ProviderTaskHub(storage, hubs_with_common_prefix[0]) as provider:
        await provider.put("order-2", "Pending")
    before = await provider_account.list_artifacts(hubs_with_common_prefix[0])
    (done,) = await post_cleanup(http, app)
    assert (done["outcome"], [one["code"] for one in done["reasons"]]) == ("NotDrained", ["InstancesActive"])
    assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == before


async def test_what_starts_while_the_artifacts_are_sought_is_seen_and_nothing_is_deleted(
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = StorageArtifactStore.find_artifacts

    async def find_slowly(artifacts: StorageArtifactStore, task_hub: str) -> TaskHubArtifacts:
        found = await find(artifacts, task_hub)
        async with ProviderTaskHub(storage, hubs_with_common_prefix[0]) as provider:
            await provider.put("order-2", "Running")
        return found

    monkeypatch.setattr(StorageArtifactStore, "find_artifacts", find_slowly)
    before = await provider_account.list_artifacts(hubs_with_common_prefix[0])
    (done,) = await post_cleanup(http, app)
    assert (done["outcome"], [one["code"] for one in done["reasons"]]) == ("NotDrained", ["InstancesActive"])
    assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == before


async def test_what_starts_before_the_queues_are_gone_keeps_its_tables(
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delete = StorageArtifactStore.delete

    async def delete_slowly(artifacts: StorageArtifactStore, artifact: Artifact) -> None:
        if artifact == Artifact(ArtifactKind.QUEUE, f"{hubs_with_common_prefix[0]}-control-00"):
            async with ProviderTaskHub(storage, hubs_with_common_prefix[0]) as provider:
                await provider.put("order-2", "Running")
        await delete(artifacts, artifact)

    monkeypatch.setattr(StorageArtifactStore, "delete", delete_slowly)
    (done,) = await post_cleanup(http, app)
    assert (done["outcome"], [one["code"] for one in done["reasons"]]) == ("NotDrained", ["InstancesActive"])
    assert sorted(done["artifacts"]) == artifacts_of(hubs_with_common_prefix[0], tables=False)
    left = [
        one
        for one in await provider_account.list_artifacts(hubs_with_common_prefix[0])
        if one in artifacts_of(hubs_with_common_prefix[0])
    ]
    assert left == artifacts_of(hubs_with_common_prefix[0], containers=False, queues=False)
    async with ProviderTaskHub(storage, hubs_with_common_prefix[0]) as provider:
        await provider.put("order-2", "Completed")
    assert [one["outcome"] for one in await post_cleanup(http, app)] == ["Removed"]


async def test_a_hub_that_a_slot_of_any_app_holds_loses_nothing(
    http: httpx.AsyncClient,
    server: StateServer,
    app: str,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
) -> None:
    """Hub names are claimed by one app, so it takes a state that something else has written."""
    other = f"{app}-other"
    await put_app(http, other)
    apps = AppStore(server.tables)
    known = await apps.get(other)
    assert known is not None
    slots = {**known.slots, "staging": Slot(hubs_with_common_prefix[0].upper(), None, known.updated_at)}
    audit = AuditRecord(2, known.updated_at, "Test", "test", None, None, None)
    assert await apps.commit(known, replace(known, slots=slots, revision=2), audit)
    before = await provider_account.list_artifacts(hubs_with_common_prefix[0])
    (done,) = await post_cleanup(http, app)
    assert (done["outcome"], done["message"]) == ("InUse", f"slot staging of app {other} holds it")
    assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == before


async def test_a_shared_tracking_store_stays(
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
) -> None:
    async with ProviderTaskHub(storage, hubs_with_common_prefix[0]) as provider:
        await provider.put("theirs", "Running", TaskHubName="othershub")
    (done,) = await post_cleanup(http, app)
    kept = [f"table {hubs_with_common_prefix[0]}History", f"table {hubs_with_common_prefix[0]}Instances"]
    assert (done["outcome"], sorted(done["shared"])) == ("Removed", kept)
    left = await provider_account.list_artifacts(hubs_with_common_prefix[0])
    assert [one for one in left if one in artifacts_of(hubs_with_common_prefix[0])] == kept


CLEANUP_STEPS = 15
"""Closing the hub, its eleven artifacts, its records, its probes, and the app's list."""


class SimulatedCrash(Exception):
    """The server dies here."""


@pytest.mark.parametrize("survived", range(CLEANUP_STEPS))
async def test_a_removal_that_was_cut_off_anywhere_is_finished_by_the_next_call(
    http: httpx.AsyncClient,
    server: StateServer,
    app: str,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
    monkeypatch: pytest.MonkeyPatch,
    survived: int,
) -> None:
    others = [
        one
        for one in await provider_account.list_artifacts(hubs_with_common_prefix[0])
        if one not in artifacts_of(hubs_with_common_prefix[0])
    ]
    done: list[str] = []

    def counted(name: str, step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def take(*arguments: Any, **named: Any) -> Any:
            if len(done) == survived:
                raise SimulatedCrash(name)
            done.append(name)
            return await step(*arguments, **named)

        return take

    with monkeypatch.context() as patched:
        for owner, name in (
            (TaskHubStore, "close"),
            (StorageArtifactStore, "delete"),
            (InstanceStore, "delete_records"),
            (ProbeStore, "delete_records"),
            (AppStore, "commit"),
        ):
            patched.setattr(owner, name, counted(name, getattr(owner, name)))
        crashed = await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True})
    assert crashed.status_code == 500, "the server must have died before the last step"
    again = await post_cleanup(http, app, deleteTaskHubs=survived % 2 == 0)
    assert [one["outcome"] for one in again] == ["Removed"]
    assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == others
    assert (await http.get(f"/api/apps/{app}")).json()["retired"] == []
    assert await post_cleanup(http, app) == []


async def test_what_stands_in_the_way_is_told_and_the_next_call_goes_on(
    http: httpx.AsyncClient,
    app: str,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
    storage: StorageSettings,
) -> None:
    """A container that somebody holds a lease on cannot be deleted."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    async with ContainerClient.from_connection_string(connection, f"{hubs_with_common_prefix[0]}-leases") as container:
        lease = await container.acquire_lease(60)
        (done,) = await post_cleanup(http, app)
        assert done["outcome"] == "Unfinished"
        assert f"container {hubs_with_common_prefix[0]}-leases" in done["message"]
        await lease.release()
    (done,) = await post_cleanup(http, app)
    assert done["outcome"] == "Removed"
    assert [
        one
        for one in await provider_account.list_artifacts(hubs_with_common_prefix[0])
        if one in artifacts_of(hubs_with_common_prefix[0])
    ] == []


async def test_a_deletion_that_was_begun_waits_for_where_the_hubs_live(
    http: httpx.AsyncClient,
    server: StateServer,
    app: str,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
) -> None:
    await TaskHubStore(server.tables, 4).close(
        hubs_with_common_prefix[0], deleting_from=str(ProviderConfig("azureStorage", "STATE_TASKHUBS_SHOP"))
    )
    await put_app(http, app, taskHubs=None)
    (done,) = await post_cleanup(http, app, deleteTaskHubs=False)
    assert (done["outcome"], "set taskHubs with PutApp" in done["message"]) == ("Unfinished", True)
    await put_app(http, app, taskHubs=PROVIDER_CONFIG)
    (done,) = await post_cleanup(http, app, deleteTaskHubs=False)
    assert (done["outcome"], sorted(done["artifacts"])) == ("Removed", artifacts_of(hubs_with_common_prefix[0]))


async def test_deleting_needs_to_know_where_the_hubs_live(
    http: httpx.AsyncClient, app: str, hubs_with_common_prefix: list[str]
) -> None:
    await put_app(http, app, taskHubs=None)
    told = assert_problem(
        await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True}), 400, "InvalidRequest"
    )
    assert "set taskHubs with PutApp" in told["detail"]
    api = {"provider": "managementApi", "connection": "STATE_TASKHUBS_API"}
    assert (await put_app(http, app, taskHubs=api)).status_code == 400


async def test_a_hub_that_does_not_exist_loses_its_records_and_is_not_deleted(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hubs_with_common_prefix: list[str]
) -> None:
    missing = new_hub_name()
    await put_app(http, app, taskHubs=None)
    assert (await post_staging(http, app, missing)).status_code == 200
    assert (await post_swap(http, app, missing)).status_code == 200
    assert (await post_staging(http, app, new_hub_name())).status_code == 200
    assert (await post_swap(http, app, (await staged_hub(http, app)))).status_code == 200
    assert (await post_staging(http, app, last := new_hub_name())).status_code == 200
    assert (await post_swap(http, app, last)).status_code == 200
    assert (await put_app(http, app, taskHubs=PROVIDER_CONFIG, adoptTaskHubs=[missing])).status_code == 200
    done = {one["taskHub"]: one for one in await post_cleanup(http, app)}
    assert (done[missing]["outcome"], done[missing]["reasons"][0]["code"]) == ("NotDrained", "TaskHubMissing")
    cleaned = (await http.post(f"/api/apps/{app}/cleanup", json={})).json()["taskHubs"]
    assert [(one["taskHub"], one["outcome"]) for one in cleaned] == [(missing, "Removed")]


async def staged_hub(http: httpx.AsyncClient, app: str) -> str:
    content = (await http.get(f"/api/apps/{app}")).json()
    hub: str = content["slots"]["staging"]["taskHub"]
    return hub


async def test_late_events_do_not_bring_a_deleted_hub_back(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hubs_with_common_prefix: list[str]
) -> None:
    await post_cleanup(http, app)
    assert await post_events(http, event(hubs_with_common_prefix[0], "late", time=timestamp(-5))) == {
        "recorded": 0,
        "unchanged": 0,
        "quarantined": 1,
    }
    assert await post_cleanup(http, app) == []
