"""What a task hub leaves behind is found and removed to the last piece, and nothing of any other hub with it."""

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
    artifact_names,
    artifacts,
    delete_artifacts,
    expected_artifacts,
    hub,
    open_artifacts,
    raises_read_failure,
)

__all__ = ["account", "artifacts", "hub"]  # fixtures

pytestmark = pytest.mark.anyio


async def test_only_what_is_this_hubs_is_removed(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    for one in (hub, f"{hub}0", f"{hub}x", f"{hub}Instances"):
        await account.add_hub(one)
    before = await account.list_contents(hub)
    assert artifact_names(await artifacts.find_artifacts(hub)) == expected_artifacts(hub)
    await delete_artifacts(artifacts, hub)
    assert await account.list_contents(hub) == {
        name: held for name, held in before.items() if name not in expected_artifacts(hub)
    }
    assert len(before) == 44
    assert await artifacts.find_artifacts(hub) == TaskHubArtifacts(())
    assert artifact_names(await artifacts.find_artifacts(f"{hub}0")) == expected_artifacts(f"{hub}0")


async def test_what_is_named_like_the_hub_but_is_not_of_it_stays(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    await account.add_hub(hub)
    foreign = [
        *(f"queue {hub}-{name}" for name in ("mine", "control-backup", "control-0", "control-16", "control-000")),
        *(f"container {hub}-{name}" for name in ("mine", "leases-old", "control-00", "workitems")),
        *(f"table {hub}{name}" for name in ("Orders", "InstancesOld", "s")),
    ]
    makers = {"queue": account.add_queue, "container": account.add_container, "table": account.add_table}
    for one in foreign:
        kind, _, name = one.partition(" ")
        await makers[kind](name)
    await delete_artifacts(artifacts, hub)
    assert sorted(await account.list_contents(hub)) == sorted(foreign)


async def test_every_control_queue_that_a_hub_can_have_is_found(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    queues = [f"{hub}-control-{number:02}" for number in range(16)]
    for queue in queues:
        await account.add_queue(queue, 0)
    assert artifact_names(await artifacts.find_artifacts(hub)) == [f"queue {queue}" for queue in queues]


@pytest.mark.parametrize("spelling", [str.upper, str.lower, str.title])
async def test_a_hub_is_the_same_in_upper_and_lower_case(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str, spelling: Callable[[str], str]
) -> None:
    made = f"{hub[:6]}{hub[6:].upper()}"
    await account.add_hub(made)
    found = await artifacts.find_artifacts(spelling(hub))
    assert artifact_names(found) == expected_artifacts(hub, tables=made)
    assert found.shared == ()
    await delete_artifacts(artifacts, spelling(hub))
    assert await account.list_contents(hub) == {}


async def test_a_hub_that_left_nothing_has_nothing(artifacts: StorageArtifactStore, hub: str) -> None:
    assert await artifacts.find_artifacts(hub) == TaskHubArtifacts(())


async def test_tables_that_other_hubs_use_stay(account: RawAccount, artifacts: StorageArtifactStore, hub: str) -> None:
    await account.add_hub(hub)
    await account.tables.get_table_client(f"{hub}Instances").upsert_entity(
        provider_row("another", "their-order", "Running")
    )
    before = await account.list_contents(hub)
    found = await artifacts.find_artifacts(hub)
    kept = [f"table {hub}History", f"table {hub}Instances"]
    assert [str(artifact) for artifact in found.shared] == kept
    assert artifact_names(found) == [name for name in expected_artifacts(hub) if name not in kept]
    await delete_artifacts(artifacts, hub)
    assert await account.list_contents(hub) == {name: before[name] for name in kept}


async def test_another_hubs_row_is_found_behind_many_pages(
    account: RawAccount, hub: str, storage: StorageSettings
) -> None:
    """The hub's own rows are spelt in a way that no filter foresees, so that all of them are read."""
    await account.add_table(f"{hub}Instances")
    table = account.tables.get_table_client(f"{hub}Instances")
    for start in range(0, 2300, 100):
        # One partition, because a transaction is faster; the provider has one for each instance.
        rows = [provider_row(hub.upper(), f"order-{n}", "Completed") for n in range(start, start + 100)]
        written = [one | {"PartitionKey": "orders", "RowKey": one["PartitionKey"]} for one in rows]
        await table.submit_transaction([("create", one) for one in written])
    async with account_proxy(storage) as proxy, open_artifacts(proxy.settings) as artifacts:
        assert artifact_names(await artifacts.find_artifacts(hub)) == [f"table {hub}Instances"]
        reads = [path for path in proxy.forwarded if f"{hub}Instances" in path]
        assert len(reads) == 3
        assert all("$select=TaskHubName&" in f"{path}&" for path in reads)
        await table.upsert_entity(provider_row("another", "zebra", "Completed"))
        assert (await artifacts.find_artifacts(hub)).shared == (Artifact(ArtifactKind.TABLE, f"{hub}Instances"),)


async def test_rows_without_a_hub_belong_to_nobody_else(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    await account.add_table(f"{hub}Instances", hub, None, "", hub.upper())
    assert artifact_names(await artifacts.find_artifacts(hub)) == [f"table {hub}Instances"]


async def test_a_history_without_instances_stays(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    """Instances go last, so it is nothing that an interrupted removal has left."""
    await account.add_table(f"{hub}History")
    await account.add_table(f"{hub}Partitions")
    history, partitions = (Artifact(ArtifactKind.TABLE, f"{hub}{suffix}") for suffix in ("History", "Partitions"))
    assert await artifacts.find_artifacts(hub) == TaskHubArtifacts((partitions,), (history,))


async def test_a_removal_that_was_cut_short_anywhere_is_finished_by_the_next(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    steps = len(expected_artifacts(hub))
    for done in range(steps + 1):
        one, neighbour = f"{hub}{done:02}", f"{hub}{done:02}x"
        await account.add_hub(one)
        async with open_artifacts(storage) as first:
            for artifact in (await first.find_artifacts(one)).deletable[:done]:
                await first.delete(artifact)
        if done == 0:
            await account.add_hub(neighbour)
        async with open_artifacts(storage) as second:
            left = await second.find_artifacts(one)
            assert artifact_names(left) == expected_artifacts(one)[done:]
            assert done == steps or str(left.deletable[-1]) == f"table {one}Instances"
            await delete_artifacts(second, one)
    assert sorted(await account.list_contents(hub)) == sorted(expected_artifacts(f"{hub}00x"))


async def test_what_is_gone_can_be_removed_again(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    await account.add_hub(hub)
    found = await artifacts.find_artifacts(hub)
    for _ in range(2):
        await asyncio.gather(*(artifacts.delete(artifact) for artifact in found.deletable for _ in range(2)))
    assert await account.list_contents(hub) == {}


async def test_leases_on_blobs_do_not_hold_a_container(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    await account.add_container(f"{hub}-leases")
    async with account.blobs.get_blob_client(f"{hub}-leases", "taskhub.json") as blob:
        await blob.acquire_lease(60)
    await delete_artifacts(artifacts, hub)
    assert await account.list_contents(hub) == {}


async def test_an_app_that_still_runs_on_the_hub_stops_its_removal(
    account: RawAccount, artifacts: StorageArtifactStore, hub: str
) -> None:
    """It holds a lease on the first container that would be removed."""
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
