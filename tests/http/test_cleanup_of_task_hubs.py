"""Cleanup over HTTP with `deleteTaskHubs`: it deletes the artifacts of retired task hubs in the storage emulator."""

from dataclasses import replace

import httpx
import pytest

from state_api.app import StateServer
from state_api.backends.protocols import Artifact, ArtifactKind, BackendError, ReadFailure, TaskHubArtifacts
from state_api.backends.storage_artifacts import StorageArtifactStore
from state_api.domain.releases.apps import Slot
from state_api.services.ports import AuditRecord
from state_api.settings import StorageSettings
from state_api.storage.apps import AppStore
from tests.backends.azure_storage_task_hub import ProviderAccount, ProviderTaskHub, artifacts_of
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    post_cleanup,
    post_events,
    post_staging,
    post_swap,
    put_app,
)

pytestmark = pytest.mark.anyio


async def test_cleanup_deletes_only_the_artifacts_of_the_hub_itself(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hubs_with_common_prefix: list[str]
) -> None:
    before = await provider_account.list_artifacts(hubs_with_common_prefix[0])
    (dry_run_result,) = await post_cleanup(http, app, dryRun=True)
    assert (dry_run_result["taskHub"], dry_run_result["outcome"], sorted(dry_run_result["artifacts"])) == (
        hubs_with_common_prefix[0],
        "WouldRemove",
        artifacts_of(hubs_with_common_prefix[0]),
    )
    assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == before
    (result,) = await post_cleanup(http, app)
    assert (result["outcome"], result["artifacts"], result["shared"]) == ("Removed", dry_run_result["artifacts"], [])
    assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == sorted(
        set(before) - set(artifacts_of(hubs_with_common_prefix[0]))
    )
    assert await post_cleanup(http, app) == []


async def test_cleanup_deletes_no_artifact_of_a_hub_with_work(
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
) -> None:
    async with ProviderTaskHub(storage, hubs_with_common_prefix[0]) as provider:
        await provider.put("order-2", "Pending")
    before = await provider_account.list_artifacts(hubs_with_common_prefix[0])
    (result,) = await post_cleanup(http, app)
    assert (result["outcome"], [reason["code"] for reason in result["reasons"]]) == ("NotDrained", ["InstancesActive"])
    assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == before


async def test_an_orchestration_that_starts_while_artifacts_are_listed_stops_the_deletion(
    *,
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = StorageArtifactStore.find_artifacts

    async def find_slowly(artifacts: StorageArtifactStore, task_hub: str) -> TaskHubArtifacts:
        """Find the artifacts. An order starts in the task hub before the caller has the result."""
        existing = await find(artifacts, task_hub)
        async with ProviderTaskHub(storage, hubs_with_common_prefix[0]) as provider:
            await provider.put("order-2", "Running")
        return existing

    monkeypatch.setattr(StorageArtifactStore, "find_artifacts", find_slowly)
    before = await provider_account.list_artifacts(hubs_with_common_prefix[0])
    (result,) = await post_cleanup(http, app)
    assert (result["outcome"], [reason["code"] for reason in result["reasons"]]) == ("NotDrained", ["InstancesActive"])
    assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == before


async def test_an_orchestration_that_starts_before_the_queues_are_deleted_keeps_its_tables(
    *,
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delete = StorageArtifactStore.delete

    async def delete_slowly(artifacts: StorageArtifactStore, artifact: Artifact) -> None:
        """Delete an artifact. An order starts just before control queue 00 of the task hub is deleted."""
        if artifact == Artifact(ArtifactKind.QUEUE, f"{hubs_with_common_prefix[0]}-control-00"):
            async with ProviderTaskHub(storage, hubs_with_common_prefix[0]) as provider:
                await provider.put("order-2", "Running")
        await delete(artifacts, artifact)

    monkeypatch.setattr(StorageArtifactStore, "delete", delete_slowly)
    (result,) = await post_cleanup(http, app)
    assert (result["outcome"], [reason["code"] for reason in result["reasons"]]) == ("NotDrained", ["InstancesActive"])
    assert sorted(result["artifacts"]) == artifacts_of(hubs_with_common_prefix[0], tables=False)
    remaining = [
        artifact
        for artifact in await provider_account.list_artifacts(hubs_with_common_prefix[0])
        if artifact in artifacts_of(hubs_with_common_prefix[0])
    ]
    assert remaining == artifacts_of(hubs_with_common_prefix[0], containers=False, queues=False)
    async with ProviderTaskHub(storage, hubs_with_common_prefix[0]) as provider:
        await provider.put("order-2", "Completed")
    assert [result["outcome"] for result in await post_cleanup(http, app)] == ["Removed"]


async def test_cleanup_deletes_no_artifact_of_a_hub_that_a_slot_of_any_app_holds(
    http: httpx.AsyncClient,
    server: StateServer,
    app: str,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
) -> None:
    """Only one app can claim a task hub name, so the test writes this state itself."""
    other_app = f"{app}-other"
    await put_app(http, other_app)
    apps = AppStore(server.tables)
    stored_app = await apps.get(other_app)
    assert stored_app is not None
    slots = {**stored_app.slots, "staging": Slot(hubs_with_common_prefix[0].upper(), None, stored_app.updated_at)}
    audit_record = AuditRecord(2, stored_app.updated_at, "Test", "test", None, None, None)
    assert await apps.commit(stored_app, replace(stored_app, slots=slots, revision=2), audit_record)
    before = await provider_account.list_artifacts(hubs_with_common_prefix[0])
    (result,) = await post_cleanup(http, app)
    assert (result["outcome"], result["message"]) == ("InUse", f"slot staging of app {other_app} holds it")
    assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == before


async def test_cleanup_does_not_delete_a_shared_tracking_store(
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
) -> None:
    """The tables of a retired task hub stay if its instance table has a row of another task hub."""
    retired_hub = hubs_with_common_prefix[0]
    async with ProviderTaskHub(storage, retired_hub) as provider:
        await provider.put("theirs", "Running", TaskHubName="othershub")
    (result,) = await post_cleanup(http, app)
    shared_tables = [f"table {retired_hub}History", f"table {retired_hub}Instances"]
    assert (result["outcome"], sorted(result["shared"])) == ("Removed", shared_tables)
    remaining = await provider_account.list_artifacts(retired_hub)
    assert [artifact for artifact in remaining if artifact in artifacts_of(retired_hub)] == shared_tables


async def test_tables_stay_if_another_task_hub_begins_to_use_them_during_the_deletion(
    *,
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retired_hub = hubs_with_common_prefix[0]
    delete = StorageArtifactStore.delete

    async def delete_while_another_hub_starts(store: StorageArtifactStore, artifact: Artifact) -> None:
        """Delete an artifact. Meanwhile, another task hub begins to keep rows in the same tracking store."""
        if artifact.kind is ArtifactKind.QUEUE:
            async with ProviderTaskHub(storage, retired_hub) as provider:
                await provider.put("theirs", "Running", TaskHubName="othershub")
        await delete(store, artifact)

    with monkeypatch.context() as patched:
        patched.setattr(StorageArtifactStore, "delete", delete_while_another_hub_starts)
        (result,) = await post_cleanup(http, app)
    shared_tables = [f"table {retired_hub}History", f"table {retired_hub}Instances"]
    assert (result["outcome"], "another task hub" in result["message"]) == ("Unfinished", True)
    assert not {*shared_tables} & {*result["artifacts"]}
    (result,) = await post_cleanup(http, app)
    assert (result["outcome"], sorted(result["shared"])) == ("Removed", shared_tables)
    remaining = await provider_account.list_artifacts(retired_hub)
    assert [artifact for artifact in remaining if artifact in artifacts_of(retired_hub)] == shared_tables


async def test_tables_stay_if_another_task_hub_begins_to_use_them_after_an_interrupted_deletion(
    *,
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first call deletes the queues and fails at the first table. The row of the other task hub appears after the
    second call has listed the artifacts."""
    retired_hub = hubs_with_common_prefix[0]
    delete, find = StorageArtifactStore.delete, StorageArtifactStore.find_artifacts

    async def fail_at_first_table(store: StorageArtifactStore, artifact: Artifact) -> None:
        if artifact.kind is ArtifactKind.TABLE:
            raise BackendError(ReadFailure.FAILED, "the connection broke")
        await delete(store, artifact)

    async def find_before_another_hub_starts(store: StorageArtifactStore, task_hub: str) -> TaskHubArtifacts:
        existing = await find(store, task_hub)
        async with ProviderTaskHub(storage, retired_hub) as provider:
            await provider.put("theirs", "Running", TaskHubName="othershub")
        return existing

    with monkeypatch.context() as patched:
        patched.setattr(StorageArtifactStore, "delete", fail_at_first_table)
        assert [result["outcome"] for result in await post_cleanup(http, app)] == ["Unfinished"]
    with monkeypatch.context() as patched:
        patched.setattr(StorageArtifactStore, "find_artifacts", find_before_another_hub_starts)
        (result,) = await post_cleanup(http, app)
    assert (result["outcome"], "another task hub" in result["message"]) == ("Unfinished", True)
    remaining = await provider_account.list_artifacts(retired_hub)
    shared_tables = [f"table {retired_hub}History", f"table {retired_hub}Instances"]
    assert {*shared_tables} <= {*remaining}


async def test_deleting_artifacts_without_a_provider_is_refused(
    http: httpx.AsyncClient, app: str, hubs_with_common_prefix: list[str]
) -> None:
    await put_app(http, app, taskHubs=None)
    problem = assert_problem(
        await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True}), 400, "InvalidRequest"
    )
    assert "set taskHubs with PutApp" in problem["detail"]
    api = {"provider": "managementApi", "connection": "STATE_TASKHUBS_API"}
    assert (await put_app(http, app, taskHubs=api)).status_code == 400


async def test_cleanup_removes_only_the_records_of_a_hub_that_does_not_exist(
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
    result = {result["taskHub"]: result for result in await post_cleanup(http, app)}
    assert (result[missing]["outcome"], result[missing]["reasons"][0]["code"]) == ("NotDrained", "TaskHubMissing")
    cleaned = (await http.post(f"/api/apps/{app}/cleanup", json={})).json()["taskHubs"]
    assert [(result["taskHub"], result["outcome"]) for result in cleaned] == [(missing, "Removed")]


async def staged_hub(http: httpx.AsyncClient, app: str) -> str:
    """The task hub in slot staging."""
    app_body = (await http.get(f"/api/apps/{app}")).json()
    hub: str = app_body["slots"]["staging"]["taskHub"]
    return hub


async def test_late_events_of_a_deleted_hub_go_to_quarantine(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hubs_with_common_prefix: list[str]
) -> None:
    await post_cleanup(http, app)
    assert await post_events(http, event(hubs_with_common_prefix[0], "late", time=timestamp(-5))) == {
        "recorded": 0,
        "unchanged": 0,
        "quarantined": 1,
    }
    assert await post_cleanup(http, app) == []
