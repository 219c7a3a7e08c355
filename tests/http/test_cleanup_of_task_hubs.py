"""Cleanup that also deletes what retired task hubs left at their provider, on the emulator's tables, queues and
containers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from azure.storage.blob.aio import ContainerClient

from state_api.app import StateServer
from state_api.domain.apps import Slot, TaskHubSource
from state_api.services.ports import AuditRecord
from state_api.settings import StorageSettings
from state_api.storage.apps import AppStore
from state_api.storage.instances import InstanceStore
from state_api.storage.probes import ProbeStore
from state_api.storage.task_hubs import TaskHubStore
from state_api.taskhubs.artifacts import StorageArtifacts
from state_api.taskhubs.backend import Artifact, Found, Kind
from tests.builders import at, event
from tests.conftest import new_hub
from tests.http.client import problem, publish, put, stage, swap
from tests.http.test_verification import SOURCE
from tests.taskhubs.provider import Account, ProviderHub

pytestmark = pytest.mark.anyio


@pytest.fixture
async def account(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[Account]:
    async with Account(storage) as made:
        yield made


@pytest.fixture
async def hubs(http: httpx.AsyncClient, app: str, account: Account) -> list[str]:
    """Three hubs whose names begin alike, as v10, v100 and v10x do: the first is retired, the others are in slots. The
    names of platform hubs have three characters or more."""
    first = new_hub()[:12]
    names = [first, f"{first}0", f"{first}x"]
    await account.add(f"{first}-control-backup")
    await put(http, app, policy={"settleSeconds": 0}, taskHubs=SOURCE)
    for name in names:
        assert (await stage(http, app, name)).status_code == 200
        # The app starts.
        await account.make(name, ("order-1", "Completed"), ("@counter@shop", "Running"))
        assert (await swap(http, app, name)).status_code == 200
    return names


async def clean(http: httpx.AsyncClient, app: str, **order: Any) -> list[Any]:
    answer = await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True, **order})
    assert answer.status_code == 200, answer.text
    hubs: list[Any] = answer.json()["taskHubs"]
    return hubs


def of(hub: str, *, containers: bool = True, queues: bool = True, tables: bool = True) -> list[str]:
    """The artifacts of a hub, sorted."""
    names = [f"container {hub}-{name}" for name in ("applease", "largemessages", "leases") if containers]
    names += [f"queue {hub}-control-{number:02d}" for number in range(4) if queues]
    names += [f"queue {hub}-workitems"] if queues else []
    names += [f"table {hub}{name}" for name in ("History", "Instances", "Partitions") if tables]
    return sorted(names)


async def test_only_what_is_the_hubs_own_goes(
    http: httpx.AsyncClient, app: str, account: Account, hubs: list[str]
) -> None:
    before = await account.artifacts(hubs[0])
    (shown,) = await clean(http, app, dryRun=True)
    assert (shown["taskHub"], shown["outcome"], sorted(shown["artifacts"])) == (hubs[0], "WouldRemove", of(hubs[0]))
    assert await account.artifacts(hubs[0]) == before
    (done,) = await clean(http, app)
    assert (done["outcome"], done["artifacts"], done["shared"]) == ("Removed", shown["artifacts"], [])
    assert await account.artifacts(hubs[0]) == sorted(set(before) - set(of(hubs[0])))
    assert await clean(http, app) == []


async def test_a_hub_with_work_loses_nothing(
    http: httpx.AsyncClient, app: str, storage: StorageSettings, account: Account, hubs: list[str]
) -> None:
    async with ProviderHub(storage, hubs[0]) as provider:
        await provider.put("order-2", "Pending")
    before = await account.artifacts(hubs[0])
    (done,) = await clean(http, app)
    assert (done["outcome"], [one["code"] for one in done["reasons"]]) == ("NotDrained", ["InstancesActive"])
    assert await account.artifacts(hubs[0]) == before


async def test_what_starts_while_the_artifacts_are_sought_is_seen_and_nothing_is_deleted(
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    account: Account,
    hubs: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = StorageArtifacts.find

    async def find_slowly(artifacts: StorageArtifacts, task_hub: str) -> Found:
        found = await find(artifacts, task_hub)
        async with ProviderHub(storage, hubs[0]) as provider:
            await provider.put("order-2", "Running")
        return found

    monkeypatch.setattr(StorageArtifacts, "find", find_slowly)
    before = await account.artifacts(hubs[0])
    (done,) = await clean(http, app)
    assert (done["outcome"], [one["code"] for one in done["reasons"]]) == ("NotDrained", ["InstancesActive"])
    assert await account.artifacts(hubs[0]) == before


async def test_what_starts_before_the_queues_are_gone_keeps_its_tables(
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    account: Account,
    hubs: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remove = StorageArtifacts.remove

    async def remove_slowly(artifacts: StorageArtifacts, artifact: Artifact) -> None:
        if artifact == Artifact(Kind.QUEUE, f"{hubs[0]}-control-00"):
            async with ProviderHub(storage, hubs[0]) as provider:
                await provider.put("order-2", "Running")
        await remove(artifacts, artifact)

    monkeypatch.setattr(StorageArtifacts, "remove", remove_slowly)
    (done,) = await clean(http, app)
    assert (done["outcome"], [one["code"] for one in done["reasons"]]) == ("NotDrained", ["InstancesActive"])
    assert sorted(done["artifacts"]) == of(hubs[0], tables=False)
    left = [one for one in await account.artifacts(hubs[0]) if one in of(hubs[0])]
    assert left == of(hubs[0], containers=False, queues=False)
    async with ProviderHub(storage, hubs[0]) as provider:
        await provider.put("order-2", "Completed")
    assert [one["outcome"] for one in await clean(http, app)] == ["Removed"]


async def test_a_hub_that_a_slot_of_any_app_holds_loses_nothing(
    http: httpx.AsyncClient, server: StateServer, app: str, account: Account, hubs: list[str]
) -> None:
    """Hub names are claimed by one app, so it takes a state that something else has written."""
    other = f"{app}-other"
    await put(http, other)
    apps = AppStore(server.tables)
    known = await apps.get(other)
    assert known is not None
    slots = {**known.slots, "staging": Slot(hubs[0].upper(), None, known.updated_at)}
    audit = AuditRecord(2, known.updated_at, "Test", "test", None, None, None)
    assert await apps.commit(known, replace(known, slots=slots, revision=2), audit)
    before = await account.artifacts(hubs[0])
    (done,) = await clean(http, app)
    assert (done["outcome"], done["message"]) == ("InUse", f"slot staging of app {other} holds it")
    assert await account.artifacts(hubs[0]) == before


async def test_a_shared_tracking_store_stays(
    http: httpx.AsyncClient, app: str, storage: StorageSettings, account: Account, hubs: list[str]
) -> None:
    async with ProviderHub(storage, hubs[0]) as provider:
        await provider.put("theirs", "Running", TaskHubName="othershub")
    (done,) = await clean(http, app)
    kept = [f"table {hubs[0]}History", f"table {hubs[0]}Instances"]
    assert (done["outcome"], sorted(done["shared"])) == ("Removed", kept)
    left = await account.artifacts(hubs[0])
    assert [one for one in left if one in of(hubs[0])] == kept


STEPS = 15
"""Closing the hub, its eleven artifacts, its records, its probes, and the app's list."""


class Crash(Exception):
    """The server dies here."""


@pytest.mark.parametrize("survived", range(STEPS))
async def test_a_removal_that_was_cut_off_anywhere_is_finished_by_the_next_call(
    http: httpx.AsyncClient,
    server: StateServer,
    app: str,
    account: Account,
    hubs: list[str],
    monkeypatch: pytest.MonkeyPatch,
    survived: int,
) -> None:
    others = [one for one in await account.artifacts(hubs[0]) if one not in of(hubs[0])]
    done: list[str] = []

    def counted(name: str, step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def take(*arguments: Any, **named: Any) -> Any:
            if len(done) == survived:
                raise Crash(name)
            done.append(name)
            return await step(*arguments, **named)

        return take

    with monkeypatch.context() as patched:
        for owner, name in (
            (TaskHubStore, "close"),
            (StorageArtifacts, "remove"),
            (InstanceStore, "drop"),
            (ProbeStore, "drop"),
            (AppStore, "commit"),
        ):
            patched.setattr(owner, name, counted(name, getattr(owner, name)))
        crashed = await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True})
    assert crashed.status_code == 500, "the server must have died before the last step"
    again = await clean(http, app, deleteTaskHubs=survived % 2 == 0)
    assert [one["outcome"] for one in again] == ["Removed"]
    assert await account.artifacts(hubs[0]) == others
    assert (await http.get(f"/api/apps/{app}")).json()["retired"] == []
    assert await clean(http, app) == []


async def test_what_stands_in_the_way_is_told_and_the_next_call_goes_on(
    http: httpx.AsyncClient, app: str, account: Account, hubs: list[str], storage: StorageSettings
) -> None:
    """A container that somebody holds a lease on cannot be deleted."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    async with ContainerClient.from_connection_string(connection, f"{hubs[0]}-leases") as container:
        lease = await container.acquire_lease(60)
        (done,) = await clean(http, app)
        assert done["outcome"] == "Unfinished"
        assert f"container {hubs[0]}-leases" in done["message"]
        await lease.release()
    (done,) = await clean(http, app)
    assert done["outcome"] == "Removed"
    assert [one for one in await account.artifacts(hubs[0]) if one in of(hubs[0])] == []


async def test_a_deletion_that_was_begun_waits_for_where_the_hubs_live(
    http: httpx.AsyncClient, server: StateServer, app: str, account: Account, hubs: list[str]
) -> None:
    await TaskHubStore(server.tables, 4).close(hubs[0], str(TaskHubSource("azureStorage", "STATE_TASKHUBS_SHOP")))
    await put(http, app, taskHubs=None)
    (done,) = await clean(http, app, deleteTaskHubs=False)
    assert (done["outcome"], "set taskHubs with PutApp" in done["message"]) == ("Unfinished", True)
    await put(http, app, taskHubs=SOURCE)
    (done,) = await clean(http, app, deleteTaskHubs=False)
    assert (done["outcome"], sorted(done["artifacts"])) == ("Removed", of(hubs[0]))


async def test_deleting_needs_to_know_where_the_hubs_live(http: httpx.AsyncClient, app: str, hubs: list[str]) -> None:
    await put(http, app, taskHubs=None)
    told = problem(await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True}), 400, "InvalidRequest")
    assert "set taskHubs with PutApp" in told["detail"]
    api = {"provider": "managementApi", "connection": "STATE_TASKHUBS_API"}
    assert (await put(http, app, taskHubs=api)).status_code == 400


async def test_a_hub_that_does_not_exist_loses_its_records_and_is_not_deleted(
    http: httpx.AsyncClient, app: str, account: Account, hubs: list[str]
) -> None:
    missing = new_hub()
    await put(http, app, taskHubs=None)
    assert (await stage(http, app, missing)).status_code == 200
    assert (await swap(http, app, missing)).status_code == 200
    assert (await stage(http, app, new_hub())).status_code == 200
    assert (await swap(http, app, (await in_slot(http, app)))).status_code == 200
    assert (await stage(http, app, last := new_hub())).status_code == 200
    assert (await swap(http, app, last)).status_code == 200
    assert (await put(http, app, taskHubs=SOURCE, adoptTaskHubs=[missing])).status_code == 200
    done = {one["taskHub"]: one for one in await clean(http, app)}
    assert (done[missing]["outcome"], done[missing]["reasons"][0]["code"]) == ("NotDrained", "TaskHubMissing")
    cleaned = (await http.post(f"/api/apps/{app}/cleanup", json={})).json()["taskHubs"]
    assert [(one["taskHub"], one["outcome"]) for one in cleaned] == [(missing, "Removed")]


async def in_slot(http: httpx.AsyncClient, app: str) -> str:
    content = (await http.get(f"/api/apps/{app}")).json()
    hub: str = content["slots"]["staging"]["taskHub"]
    return hub


async def test_late_events_do_not_bring_a_deleted_hub_back(
    http: httpx.AsyncClient, app: str, account: Account, hubs: list[str]
) -> None:
    await clean(http, app)
    assert await publish(http, event(hubs[0], "late", time=at(-5))) == {"recorded": 0, "unchanged": 0, "quarantined": 1}
    assert await clean(http, app) == []
