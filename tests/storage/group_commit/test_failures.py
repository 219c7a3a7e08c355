"""What a failure of the storage, of one row, of a caller or of the server means for the other events."""

import asyncio

import pytest
from azure.data.tables import UpdateMode

from harness.storage_proxy import StorageProxy
from state_api.app import StateServer
from state_api.domain.errors import StorageUnavailable
from state_api.services.ports import TaskHubRecord
from state_api.storage import group_commit
from state_api.storage.instances import InstanceStore
from state_api.storage.tables import instance_table_name
from tests.storage.group_commit.recording import (
    TransactionGate,
    lifecycle_event,
    record_concurrently,
    record_first_event,
)
from tests.storage.stored_rows import active_instance_ids, instance_store

pytestmark = pytest.mark.anyio


async def test_a_rejected_row_does_not_affect_other_instances(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    events = [lifecycle_event(record, f"order-{n}") for n in range(20)]
    # Longer than a property may be. The event parser shortens reasons, so this cannot come from an event.
    events[7] = lifecycle_event(record, "order-7", "Failed", 1, "x" * 40_000)
    changed = await store.record(record, events)
    assert changed == [None if n == 7 else True for n in range(20)]
    assert await active_instance_ids(server, hub) == sorted(f"order-{n}" for n in range(20) if n != 7)


async def test_an_unreadable_row_fails_only_its_own_instance(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    other = instance_store(server)
    await other.record(record, [lifecycle_event(record, "odd")])
    table = server.tables.client(instance_table_name(hub))
    row = await table.get_entity("00", "i|odd")
    await table.update_entity({**row, "StartedStatus": "Dreaming"}, mode=UpdateMode.REPLACE)
    events = [
        lifecycle_event(record, "order-1"),
        lifecycle_event(record, "odd", "Completed", 5),
        lifecycle_event(record, "order-2"),
    ]
    results = await asyncio.gather(*record_concurrently(store, record, events), return_exceptions=True)
    assert results[0] == results[2] == [True]
    assert isinstance(results[1], ValueError)


async def test_a_storage_failure_fails_all_callers_and_caches_nothing(
    proxy: StorageProxy, store: InstanceStore, record: TaskHubRecord
) -> None:
    await record_first_event(store, record)
    proxy.failure_status = lambda method, path: 500 if path.endswith("$batch") else None
    tasks = record_concurrently(store, record, [lifecycle_event(record, f"order-{n}") for n in range(5)])
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, StorageUnavailable)
    proxy.failure_status = lambda method, path: None
    assert await store.record(record, [lifecycle_event(record, f"order-{n}") for n in range(5)]) == [True] * 5


async def test_status_400_without_a_known_code_does_not_reject_the_event(
    proxy: StorageProxy, store: InstanceStore, record: TaskHubRecord
) -> None:
    await record_first_event(store, record)
    proxy.failure_status = lambda method, path: 400 if path.endswith("$batch") else None
    with pytest.raises(StorageUnavailable):
        await store.record(record, [lifecycle_event(record, "order")])
    proxy.failure_status = lambda method, path: None
    assert await store.record(record, [lifecycle_event(record, "order")]) == [True]


async def test_a_long_retry_after_does_not_delay_the_caller_beyond_the_timeout(
    monkeypatch: pytest.MonkeyPatch, proxy: StorageProxy, store: InstanceStore, record: TaskHubRecord
) -> None:
    monkeypatch.setattr(group_commit, "_TRANSACTION_TIMEOUT_SECONDS", 1)
    await record_first_event(store, record)
    proxy.headers = {"Retry-After": "600"}
    proxy.failure_status = lambda method, path: 503 if path.endswith("$batch") else None
    with pytest.raises(StorageUnavailable):
        await store.record(record, [lifecycle_event(record, "order")])
    proxy.failure_status = lambda method, path: None
    assert await store.record(record, [lifecycle_event(record, "order")]) == [True]


async def test_a_cancelled_caller_does_not_delay_the_others(
    proxy: StorageProxy, server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    await record_first_event(store, record)
    gate = TransactionGate(proxy)
    gate.close()
    tasks = record_concurrently(store, record, [lifecycle_event(record, "opens")])
    await gate.wait_until_held(1)
    tasks += record_concurrently(store, record, [lifecycle_event(record, f"order-{n}") for n in range(4)])
    await asyncio.sleep(0.05)
    tasks[0].cancel()
    tasks[2].cancel()
    await asyncio.sleep(0.05)
    gate.open()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False, True, False, False]
    # The event of the first cancelled caller was being written, that of the second was still in the queue.
    assert await active_instance_ids(server, hub) == ["first", "opens", "order-0", "order-2", "order-3"]


async def test_a_call_while_the_server_stops_fails(store: InstanceStore, record: TaskHubRecord) -> None:
    task = asyncio.create_task(store.record(record, [lifecycle_event(record, "order")]))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StorageUnavailable, match="stopping"):
        await task
    with pytest.raises(StorageUnavailable, match="stopping"):
        await store.record(record, [lifecycle_event(record, "order")])


async def test_waiting_calls_fail_when_the_server_stops(
    proxy: StorageProxy, server_behind_proxy: StateServer, record: TaskHubRecord
) -> None:
    store = instance_store(server_behind_proxy)
    await record_first_event(store, record)
    gate = TransactionGate(proxy)
    gate.close()
    tasks = record_concurrently(store, record, [lifecycle_event(record, "opens")])
    await gate.wait_until_held(1)
    tasks += record_concurrently(store, record, [lifecycle_event(record, "waits")])
    await asyncio.sleep(0.05)
    await store.close()
    for task in tasks:
        with pytest.raises(StorageUnavailable, match="stopping"):
            await task
    gate.open()
