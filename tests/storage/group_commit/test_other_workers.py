"""Group commit while other workers write the same instances."""

import asyncio

import pytest

from harness.storage_proxy import StorageProxy
from state_api.app import StateServer
from state_api.services.ports import TaskHubRecord
from state_api.storage.instances import InstanceStore
from tests.storage.group_commit.recording import (
    START,
    count_reads,
    count_transactions,
    lifecycle_event,
)
from tests.storage.stored_rows import active_instance_ids, instance_store

pytestmark = pytest.mark.anyio


async def test_a_write_of_another_worker_is_not_overwritten(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    other = instance_store(server)
    ids = [f"order-{n}" for n in range(30)]
    await store.record(record, [lifecycle_event(record, instance_id) for instance_id in ids])
    # The cached rows of the first store are stale now.
    await other.record(
        record, [lifecycle_event(record, instance_id, "Failed", 9, "by the other worker") for instance_id in ids[:20]]
    )
    assert all(
        await store.record(record, [lifecycle_event(record, instance_id, "Completed", 5) for instance_id in ids[20:]])
    )
    mixed = [lifecycle_event(record, instance_id, "Completed", 7) for instance_id in ids]
    assert await store.record(record, mixed) == [False] * 20 + [True] * 10
    assert await active_instance_ids(server, hub) == []
    for instance_id in ids[:20]:
        stored = await store.get(record, instance_id)
        assert stored is not None
        assert stored.finished is not None
        assert stored.finished.reason == "by the other worker"


async def test_two_workers_that_write_the_same_instances_lose_no_event(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    other = instance_store(server)
    ids = [f"order-{n}" for n in range(7)]
    waves = [
        [lifecycle_event(record, instance_id, "Running" if tick % 2 else "Completed", tick) for instance_id in ids]
        for tick in range(1, 25)
    ]
    await asyncio.gather(
        *(worker.record(record, [event]) for wave in waves for event in wave for worker in (store, other)),
    )
    for instance_id in ids:
        stored = await store.get(record, instance_id)
        assert stored is not None
        assert stored.started is not None
        assert stored.finished is not None
        assert (stored.started.at - START, stored.finished.at - START) == (23, 24)
    assert await active_instance_ids(server, hub) == []
    await other.close()


async def test_the_start_of_a_stored_instance_does_not_fail_the_other_starts(
    server: StateServer, proxy: StorageProxy, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    other = instance_store(server)
    await other.record(record, [lifecycle_event(record, "monitor"), lifecycle_event(record, "monitor", "Completed", 3)])
    events = [lifecycle_event(record, f"order-{n}") for n in range(20)] + [lifecycle_event(record, "monitor", tick=5)]
    assert all(await store.record(record, events))
    assert await active_instance_ids(server, hub) == ["monitor", *sorted(f"order-{n}" for n in range(20))]
    # After that conflict the store reads starts before it writes them, until they are all new again.
    await other.record(record, [lifecycle_event(record, "monitor-2")])
    proxy.clear()
    assert all(
        await store.record(record, [lifecycle_event(record, "monitor-2", tick=9), lifecycle_event(record, "new")])
    )
    assert (count_transactions(proxy), count_reads(proxy)) == (1, 2)
    assert all(await store.record(record, [lifecycle_event(record, "newer")]))
    proxy.clear()
    assert all(await store.record(record, [lifecycle_event(record, "newest")]))
    assert (count_transactions(proxy), count_reads(proxy)) == (1, 0)
