"""Everything that a task hub leaves in a storage account is found and deleted, and nothing of any other task hub."""

import asyncio
from collections.abc import Callable

import pytest

from state_api.backends.protocols import Artifact, ArtifactKind, ReadFailure, TaskHubArtifacts
from state_api.backends.storage_artifacts import StorageArtifactStore
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import provider_row
from tests.backends.storage_account import (
    RawAccount,
    account,
    account_proxy,
    artifacts,
    delete_artifacts,
    hub,
    list_artifact_names,
    list_expected_artifacts,
    open_artifacts,
    raises_read_failure,
)

__all__ = ["account", "artifacts", "hub"]  # fixtures

pytestmark = pytest.mark.anyio


async def test_only_the_artifacts_of_this_task_hub_are_deleted(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    for task_hub in (hub, f"{hub}0", f"{hub}x", f"{hub}Instances"):
        await account.add_hub(task_hub)
    before = await account.list_contents(hub)
    assert list_artifact_names(await artifacts.find_artifacts(hub)) == list_expected_artifacts(hub)
    await delete_artifacts(artifacts, hub)
    assert await account.list_contents(hub) == {
        name: entries for name, entries in before.items() if name not in list_expected_artifacts(hub)
    }
    assert len(before) == 44
    assert await artifacts.find_artifacts(hub) == TaskHubArtifacts(())
    assert list_artifact_names(await artifacts.find_artifacts(f"{hub}0")) == list_expected_artifacts(f"{hub}0")


async def test_artifacts_with_similar_names_are_not_deleted(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    await account.add_hub(hub)
    foreign = [
        *(f"queue {hub}-{name}" for name in ("mine", "control-backup", "control-0", "control-16", "control-000")),
        *(f"container {hub}-{name}" for name in ("mine", "leases-old", "control-00", "workitems")),
        *(f"table {hub}{name}" for name in ("Orders", "InstancesOld", "s")),
    ]
    create = {"queue": account.add_queue, "container": account.add_container, "table": account.add_table}
    for artifact in foreign:
        kind, _, name = artifact.partition(" ")
        await create[kind](name)
    await delete_artifacts(artifacts, hub)
    assert sorted(await account.list_contents(hub)) == sorted(foreign)


async def test_all_sixteen_control_queues_that_a_task_hub_can_have_are_found(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    queues = [f"{hub}-control-{number:02}" for number in range(16)]
    for queue in queues:
        await account.add_queue(queue, 0)
    assert list_artifact_names(await artifacts.find_artifacts(hub)) == [f"queue {queue}" for queue in queues]


@pytest.mark.parametrize("spelling", [str.upper, str.lower, str.title])
async def test_a_task_hub_name_is_compared_without_case(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str, spelling: Callable[[str], str]
) -> None:
    spelled_by_app = f"{hub[:6]}{hub[6:].upper()}"
    await account.add_hub(spelled_by_app)
    task_hub_artifacts = await artifacts.find_artifacts(spelling(hub))
    assert list_artifact_names(task_hub_artifacts) == list_expected_artifacts(hub, tables=spelled_by_app)
    assert task_hub_artifacts.shared == ()
    await delete_artifacts(artifacts, spelling(hub))
    assert await account.list_contents(hub) == {}


async def test_a_task_hub_that_does_not_exist_has_no_artifacts(artifacts: StorageArtifactStore, hub: str) -> None:
    assert await artifacts.find_artifacts(hub) == TaskHubArtifacts(())


async def test_tables_that_other_task_hubs_use_are_not_deleted(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    await account.add_hub(hub)
    await account.tables.get_table_client(f"{hub}Instances").upsert_entity(
        provider_row("another", "their-order", "Running")
    )
    before = await account.list_contents(hub)
    task_hub_artifacts = await artifacts.find_artifacts(hub)
    shared = [f"table {hub}History", f"table {hub}Instances"]
    assert [str(artifact) for artifact in task_hub_artifacts.shared] == shared
    assert list_artifact_names(task_hub_artifacts) == [
        name for name in list_expected_artifacts(hub) if name not in shared
    ]
    await delete_artifacts(artifacts, hub)
    assert await account.list_contents(hub) == {name: before[name] for name in shared}


async def test_another_task_hubs_row_is_found_after_many_pages(
    account: RawAccount, hub: str, storage: StorageSettings
) -> None:
    """The task hub's own rows spell its name in a way that the filter does not know, so all of them are read."""
    await account.add_table(f"{hub}Instances")
    table = account.tables.get_table_client(f"{hub}Instances")
    for start in range(0, 2300, 100):
        # One partition, because transactions are faster. The provider has a partition for each instance.
        rows = [provider_row(hub.upper(), f"order-{n}", "Completed") for n in range(start, start + 100)]
        one_partition = [row | {"PartitionKey": "orders", "RowKey": row["PartitionKey"]} for row in rows]
        await table.submit_transaction([("create", row) for row in one_partition])
    async with account_proxy(storage) as proxy, open_artifacts(proxy.settings) as artifacts:
        assert list_artifact_names(await artifacts.find_artifacts(hub)) == [f"table {hub}Instances"]
        reads = [path for path in proxy.forwarded if f"{hub}Instances" in path]
        assert len(reads) == 3
        assert all("$select=TaskHubName&" in f"{path}&" for path in reads)
        await table.upsert_entity(provider_row("another", "zebra", "Completed"))
        assert (await artifacts.find_artifacts(hub)).shared == (Artifact(ArtifactKind.TABLE, f"{hub}Instances"),)


async def test_a_row_without_a_task_hub_name_counts_as_this_task_hubs(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    await account.add_table(f"{hub}Instances", hub, None, "", hub.upper())
    assert list_artifact_names(await artifacts.find_artifacts(hub)) == [f"table {hub}Instances"]


async def test_a_history_table_without_an_instance_table_is_not_deleted(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    """An interrupted deletion does not leave this behind, because it deletes the instance table last."""
    await account.add_table(f"{hub}History")
    await account.add_table(f"{hub}Partitions")
    history, partitions = (Artifact(ArtifactKind.TABLE, f"{hub}{suffix}") for suffix in ("History", "Partitions"))
    assert await artifacts.find_artifacts(hub) == TaskHubArtifacts((partitions,), (history,))


async def test_a_deletion_that_stopped_after_any_step_is_completed_by_the_next(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    steps = len(list_expected_artifacts(hub))
    for steps_done in range(steps + 1):
        task_hub, neighbour = f"{hub}{steps_done:02}", f"{hub}{steps_done:02}x"
        await account.add_hub(task_hub)
        async with open_artifacts(storage) as first:
            for artifact in (await first.find_artifacts(task_hub)).deletable[:steps_done]:
                await first.delete(artifact)
        if steps_done == 0:
            await account.add_hub(neighbour)
        async with open_artifacts(storage) as second:
            remaining = await second.find_artifacts(task_hub)
            assert list_artifact_names(remaining) == list_expected_artifacts(task_hub)[steps_done:]
            assert steps_done == steps or str(remaining.deletable[-1]) == f"table {task_hub}Instances"
            await delete_artifacts(second, task_hub)
    assert sorted(await account.list_contents(hub)) == sorted(list_expected_artifacts(f"{hub}00x"))


async def test_deleting_an_artifact_that_is_gone_does_nothing(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    await account.add_hub(hub)
    task_hub_artifacts = await artifacts.find_artifacts(hub)
    for _ in range(2):
        await asyncio.gather(
            *(artifacts.delete(artifact) for artifact in task_hub_artifacts.deletable for _ in range(2))
        )
    assert await account.list_contents(hub) == {}


async def test_leases_on_blobs_do_not_prevent_the_deletion_of_their_container(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    await account.add_container(f"{hub}-leases")
    async with account.blobs.get_blob_client(f"{hub}-leases", "taskhub.json") as blob:
        await blob.acquire_lease(60)
    await delete_artifacts(artifacts, hub)
    assert await account.list_contents(hub) == {}


async def test_nothing_is_deleted_while_an_app_runs_on_the_task_hub(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    """The app has a lease on the container that is deleted first."""
    await account.add_hub(hub)
    before = await account.list_contents(hub)
    lease = await account.blobs.get_container_client(f"{hub}-applease").acquire_lease(60)
    with raises_read_failure(
        ReadFailure.FAILED, f"container {hub}-applease is leased: an app still runs on this task hub"
    ):
        await delete_artifacts(artifacts, hub)
    assert await account.list_contents(hub) == before
    await lease.release()
    await delete_artifacts(artifacts, hub)
    assert await account.list_contents(hub) == {}
