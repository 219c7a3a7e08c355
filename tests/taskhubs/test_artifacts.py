"""What a task hub leaves behind is found and removed to the last piece, and nothing of any other hub with it."""

import asyncio
from collections.abc import Callable

import pytest

from state_api.settings import StorageSettings
from state_api.taskhubs.artifacts import StorageArtifacts
from state_api.taskhubs.backend import Artifact, Found, Kind, Trouble
from tests.taskhubs.accounts import (
    Account,
    account,
    all_of,
    artifacts,
    hub,
    names,
    opened,
    proxied,
    remove_all,
    troubled,
)
from tests.taskhubs.provider import row

__all__ = ["account", "artifacts", "hub"]  # fixtures

pytestmark = pytest.mark.anyio


async def test_only_what_is_this_hubs_is_removed(account: Account, artifacts: StorageArtifacts, hub: str) -> None:
    for one in (hub, f"{hub}0", f"{hub}x", f"{hub}Instances"):
        await account.make_hub(one)
    before = await account.contents(hub)
    assert names(await artifacts.find(hub)) == all_of(hub)
    await remove_all(artifacts, hub)
    assert await account.contents(hub) == {name: held for name, held in before.items() if name not in all_of(hub)}
    assert len(before) == 44
    assert await artifacts.find(hub) == Found(())
    assert names(await artifacts.find(f"{hub}0")) == all_of(f"{hub}0")


async def test_what_is_named_like_the_hub_but_is_not_of_it_stays(
    account: Account, artifacts: StorageArtifacts, hub: str
) -> None:
    await account.make_hub(hub)
    foreign = [
        *(f"queue {hub}-{name}" for name in ("mine", "control-backup", "control-0", "control-16", "control-000")),
        *(f"container {hub}-{name}" for name in ("mine", "leases-old", "control-00", "workitems")),
        *(f"table {hub}{name}" for name in ("Orders", "InstancesOld", "s")),
    ]
    makers = {"queue": account.make_queue, "container": account.make_container, "table": account.make_table}
    for one in foreign:
        kind, _, name = one.partition(" ")
        await makers[kind](name)
    await remove_all(artifacts, hub)
    assert sorted(await account.contents(hub)) == sorted(foreign)


async def test_every_control_queue_that_a_hub_can_have_is_found(
    account: Account, artifacts: StorageArtifacts, hub: str
) -> None:
    queues = [f"{hub}-control-{number:02}" for number in range(16)]
    for queue in queues:
        await account.make_queue(queue, 0)
    assert names(await artifacts.find(hub)) == [f"queue {queue}" for queue in queues]


@pytest.mark.parametrize("spelling", [str.upper, str.lower, str.title])
async def test_a_hub_is_the_same_in_upper_and_lower_case(
    account: Account, artifacts: StorageArtifacts, hub: str, spelling: Callable[[str], str]
) -> None:
    made = f"{hub[:6]}{hub[6:].upper()}"
    await account.make_hub(made)
    found = await artifacts.find(spelling(hub))
    assert names(found) == all_of(hub, tables=made)
    assert found.shared == ()
    await remove_all(artifacts, spelling(hub))
    assert await account.contents(hub) == {}


async def test_a_hub_that_left_nothing_has_nothing(artifacts: StorageArtifacts, hub: str) -> None:
    assert await artifacts.find(hub) == Found(())


async def test_tables_that_other_hubs_use_stay(account: Account, artifacts: StorageArtifacts, hub: str) -> None:
    await account.make_hub(hub)
    await account.tables.get_table_client(f"{hub}Instances").upsert_entity(row("another", "their-order", "Running"))
    before = await account.contents(hub)
    found = await artifacts.find(hub)
    kept = [f"table {hub}History", f"table {hub}Instances"]
    assert [str(artifact) for artifact in found.shared] == kept
    assert names(found) == [name for name in all_of(hub) if name not in kept]
    await remove_all(artifacts, hub)
    assert await account.contents(hub) == {name: before[name] for name in kept}


async def test_another_hubs_row_is_found_behind_many_pages(
    account: Account, hub: str, storage: StorageSettings
) -> None:
    """The hub's own rows are spelt in a way that no filter foresees, so that all of them are read."""
    await account.make_table(f"{hub}Instances")
    table = account.tables.get_table_client(f"{hub}Instances")
    for start in range(0, 2300, 100):
        # One partition, because a transaction is faster; the provider has one for each instance.
        rows = [row(hub.upper(), f"order-{n}", "Completed") for n in range(start, start + 100)]
        written = [one | {"PartitionKey": "orders", "RowKey": one["PartitionKey"]} for one in rows]
        await table.submit_transaction([("create", one) for one in written])
    async with proxied(storage) as proxy, opened(proxy.settings) as artifacts:
        assert names(await artifacts.find(hub)) == [f"table {hub}Instances"]
        reads = [path for path in proxy.passed if f"{hub}Instances" in path]
        assert len(reads) == 3
        assert all("$select=TaskHubName&" in f"{path}&" for path in reads)
        await table.upsert_entity(row("another", "zebra", "Completed"))
        assert (await artifacts.find(hub)).shared == (Artifact(Kind.TABLE, f"{hub}Instances"),)


async def test_rows_without_a_hub_belong_to_nobody_else(
    account: Account, artifacts: StorageArtifacts, hub: str
) -> None:
    await account.make_table(f"{hub}Instances", hub, None, "", hub.upper())
    assert names(await artifacts.find(hub)) == [f"table {hub}Instances"]


async def test_a_history_without_instances_stays(account: Account, artifacts: StorageArtifacts, hub: str) -> None:
    """Instances go last, so it is nothing that an interrupted removal has left."""
    await account.make_table(f"{hub}History")
    await account.make_table(f"{hub}Partitions")
    history, partitions = (Artifact(Kind.TABLE, f"{hub}{suffix}") for suffix in ("History", "Partitions"))
    assert await artifacts.find(hub) == Found((partitions,), (history,))


async def test_a_removal_that_was_cut_short_anywhere_is_finished_by_the_next(
    account: Account, storage: StorageSettings, hub: str
) -> None:
    steps = len(all_of(hub))
    for done in range(steps + 1):
        one, neighbour = f"{hub}{done:02}", f"{hub}{done:02}x"
        await account.make_hub(one)
        async with opened(storage) as first:
            for artifact in (await first.find(one)).own[:done]:
                await first.remove(artifact)
        if done == 0:
            await account.make_hub(neighbour)
        async with opened(storage) as second:
            left = await second.find(one)
            assert names(left) == all_of(one)[done:]
            assert done == steps or str(left.own[-1]) == f"table {one}Instances"
            await remove_all(second, one)
    assert sorted(await account.contents(hub)) == sorted(all_of(f"{hub}00x"))


async def test_what_is_gone_can_be_removed_again(account: Account, artifacts: StorageArtifacts, hub: str) -> None:
    await account.make_hub(hub)
    found = await artifacts.find(hub)
    for _ in range(2):
        await asyncio.gather(*(artifacts.remove(artifact) for artifact in found.own for _ in range(2)))
    assert await account.contents(hub) == {}


async def test_leases_on_blobs_do_not_hold_a_container(account: Account, artifacts: StorageArtifacts, hub: str) -> None:
    await account.make_container(f"{hub}-leases")
    async with account.blobs.get_blob_client(f"{hub}-leases", "taskhub.json") as blob:
        await blob.acquire_lease(60)
    await remove_all(artifacts, hub)
    assert await account.contents(hub) == {}


async def test_an_app_that_still_runs_on_the_hub_stops_its_removal(
    account: Account, artifacts: StorageArtifacts, hub: str
) -> None:
    """It holds a lease on the first container that would be removed."""
    await account.make_hub(hub)
    before = await account.contents(hub)
    lease = await account.blobs.get_container_client(f"{hub}-applease").acquire_lease(60)
    with troubled(Trouble.FAILED, f"container {hub}-applease is leased: an app still runs on this task hub"):
        await remove_all(artifacts, hub)
    assert await account.contents(hub) == before
    await lease.release()
    await remove_all(artifacts, hub)
    assert await account.contents(hub) == {}
