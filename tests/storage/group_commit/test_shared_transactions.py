"""Updates of a task hub that arrive together share transactions. Duplicates send no request."""

import asyncio

import pytest

from harness.storage_proxy import StorageProxy
from state_api.app import StateServer
from state_api.domain.errors import StorageUnavailable
from state_api.services.ports import TaskHubRecord
from state_api.storage.instances import InstanceStore
from tests.storage.group_commit.recording import (
    TransactionGate,
    count_reads,
    count_transactions,
    lifecycle_event,
    record_concurrently,
    record_first_event,
)
from tests.storage.stored_rows import active_instance_ids

pytestmark = pytest.mark.anyio


async def test_updates_that_arrive_during_a_transaction_share_the_next_one(
    proxy: StorageProxy, store: InstanceStore, record: TaskHubRecord
) -> None:
    await record_first_event(store, record)
    gate = TransactionGate(proxy)
    gate.close()
    first = record_concurrently(store, record, [lifecycle_event(record, "opens")])
    await gate.wait_until_held(1)
    proxy.clear()
    others = record_concurrently(store, record, [lifecycle_event(record, f"order-{n}") for n in range(40)])
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in (*first, *others)), "a call returned before its transaction ended"
    assert gate.held_count == 1
    gate.open()
    assert await asyncio.gather(*first, *others) == [[True]] * 41
    assert count_transactions(proxy) == 2


async def test_a_large_delivery_takes_few_transactions_and_no_reads(
    proxy: StorageProxy, store: InstanceStore, record: TaskHubRecord
) -> None:
    await record_first_event(store, record)
    proxy.clear()
    await store.record(record, [lifecycle_event(record, f"order-{n}") for n in range(490)])
    assert (count_transactions(proxy), count_reads(proxy)) == (10, 0)
    proxy.clear()
    await store.record(record, [lifecycle_event(record, f"order-{n}", "Completed", 5) for n in range(490)])
    assert (count_transactions(proxy), count_reads(proxy)) == (10, 0)


async def test_a_duplicate_sends_no_request(proxy: StorageProxy, store: InstanceStore, record: TaskHubRecord) -> None:
    events = [lifecycle_event(record, "order"), lifecycle_event(record, "order", "Failed", 5)]
    await store.record(record, events)
    proxy.clear()
    assert await store.record(record, [*events, *events]) == [False] * 4
    assert proxy.count_requests_and_rows() == (0, 0)


async def test_a_duplicate_waits_for_the_transaction_of_the_first_event(
    proxy: StorageProxy, store: InstanceStore, record: TaskHubRecord
) -> None:
    await record_first_event(store, record)
    gate = TransactionGate(proxy)
    gate.close()
    first = record_concurrently(store, record, [lifecycle_event(record, "order")])
    await gate.wait_until_held(1)
    duplicate = record_concurrently(store, record, [lifecycle_event(record, "order")])
    await asyncio.sleep(0.1)
    assert not duplicate[0].done()
    # The first transaction fails, so the duplicate must not succeed as if its event were recorded.
    proxy.failure_status = lambda method, path: 403 if path.endswith("$batch") else None
    gate.open()
    for task in (*first, *duplicate):
        with pytest.raises(StorageUnavailable):
            await task
    proxy.failure_status = lambda method, path: None
    assert await store.record(record, [lifecycle_event(record, "order")]) == [True]


async def test_a_lost_response_does_not_record_an_event_twice(
    proxy: StorageProxy, server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    await record_first_event(store, record)
    lost = 0

    def drops_response(method: str, path: str) -> bool:
        """Lose the response of the first transaction, which the emulator has carried out."""
        nonlocal lost
        lost += path.endswith("$batch")
        return path.endswith("$batch") and lost == 1

    proxy.drops_response = drops_response
    assert len(await store.record(record, [lifecycle_event(record, f"order-{n}") for n in range(10)])) == 10
    assert lost > 1
    assert await active_instance_ids(server, hub) == ["first", *(f"order-{n}" for n in range(10))]
    proxy.clear()
    assert await store.record(record, [lifecycle_event(record, f"order-{n}") for n in range(10)]) == [False] * 10
    assert proxy.count_requests_and_rows() == (0, 0)
