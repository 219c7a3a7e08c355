"""Group commit on the storage emulator. A proxy in front of it holds back, counts and fails requests."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from azure.data.tables import UpdateMode

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.errors import StorageUnavailable
from state_api.domain.instants import Instant, format_instant, parse_instant
from state_api.domain.task_hubs.lifecycle import LifecycleEvent, RuntimeStatus
from state_api.services.ports import TableMissing, TaskHubRecord
from state_api.settings import Settings, StorageSettings
from state_api.storage import activity_stamps, group_commit, instance_cache
from state_api.storage.instances import InstanceStore
from state_api.storage.tables import instance_table_name
from state_api.storage.task_hubs import TaskHubStore
from tests.storage.stored_rows import active_instance_ids, instance_store

pytestmark = pytest.mark.anyio

START = parse_instant("2026-11-20T09:00:00Z")


def lifecycle_event(
    hub: TaskHubRecord, instance_id: str, status: str = "Running", tick: int = 0, reason: str = ""
) -> LifecycleEvent:
    return LifecycleEvent(hub.name, instance_id, "ProcessOrder", RuntimeStatus(status), reason, Instant(START + tick))


class TransactionGate:
    """Delays transactions while it is closed."""

    def __init__(self, proxy: StorageProxy) -> None:
        self.held_count = 0
        self._open = asyncio.Event()
        self._open.set()
        proxy.before_request = self._pass

    async def _pass(self, method: str, path: str) -> None:
        """Delay a transaction while the gate is closed. The proxy calls this before each request."""
        if path.endswith("$batch") and not self._open.is_set():
            self.held_count += 1
            await self._open.wait()

    async def wait_until_held(self, count: int) -> None:
        """Wait until `count` transactions have been delayed."""
        async with asyncio.timeout(20):
            while self.held_count < count:
                await asyncio.sleep(0.01)

    def close(self) -> None:
        """Delay all further transactions until the gate is opened."""
        self._open.clear()

    def open(self) -> None:
        """Let the delayed transactions and all further ones pass."""
        self._open.set()


def count_transactions(proxy: StorageProxy) -> int:
    return sum(request.path.endswith("$batch") for request in proxy.forwarded)


def count_reads(proxy: StorageProxy) -> int:
    return sum(request.method == "GET" for request in proxy.forwarded)


@pytest.fixture
async def proxy(storage: StorageSettings) -> AsyncIterator[StorageProxy]:
    async with run_storage_proxy(storage) as storage_proxy:
        yield storage_proxy


@pytest.fixture
async def server_behind_proxy(proxy: StorageProxy) -> AsyncIterator[StateServer]:
    server = StateServer(Settings(storage=proxy.settings))
    yield server
    await server.close()


@pytest.fixture
async def store(server_behind_proxy: StateServer) -> AsyncIterator[InstanceStore]:
    instances = instance_store(server_behind_proxy)
    yield instances
    await instances.close()


@pytest.fixture
async def record(server: StateServer, hub: str) -> TaskHubRecord:
    """A task hub with one shard, so that all its updates share one queue."""
    return await TaskHubStore(server.tables, shards=1).get_or_create(hub)


async def record_first_event(store: InstanceStore, record: TaskHubRecord) -> None:
    """Make the store read the function's activity stamp, which it does once, before requests are counted."""
    await store.record(record, [lifecycle_event(record, "first")])


def record_concurrently(
    store: InstanceStore, record: TaskHubRecord, events: Sequence[LifecycleEvent]
) -> list[asyncio.Task[list[bool | None]]]:
    """Start recording each of these events in a delivery of its own."""
    return [asyncio.create_task(store.record(record, [event])) for event in events]


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


async def test_a_rejected_row_does_not_affect_other_instances(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    events = [lifecycle_event(record, f"order-{n}") for n in range(20)]
    # Longer than a property may be. The event parser shortens reasons, so this cannot come from an event.
    events[7] = lifecycle_event(record, "order-7", "Failed", 1, "x" * 40_000)
    changed = await store.record(record, events)
    assert changed == [None if n == 7 else True for n in range(20)]
    assert await active_instance_ids(server, hub) == sorted(f"order-{n}" for n in range(20) if n != 7)


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


async def test_a_lost_response_does_not_record_an_event_twice(
    proxy: StorageProxy, server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    await record_first_event(store, record)
    lost = 0

    def drops_response(method: str, path: str) -> bool:
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


async def test_the_cache_is_bounded_and_records_are_the_same_without_it(
    monkeypatch: pytest.MonkeyPatch, server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    monkeypatch.setattr(instance_cache, "MAX_CACHED_ROWS", 5)
    ids = [f"order-{n}" for n in range(60)]
    assert all(await store.record(record, [lifecycle_event(record, instance_id) for instance_id in ids]))
    assert await store.record(record, [lifecycle_event(record, instance_id) for instance_id in ids]) == [False] * 60
    assert all(
        await store.record(record, [lifecycle_event(record, instance_id, "Completed", 5) for instance_id in ids])
    )
    assert len(store._group_commit._cache) == 5
    assert not store._group_commit._queues
    assert await active_instance_ids(server, hub) == []


async def test_the_cache_of_stamps_is_bounded_and_a_late_event_sets_no_stamp_back(
    monkeypatch: pytest.MonkeyPatch, server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    monkeypatch.setattr(activity_stamps, "MAX_CACHED_STAMPS", 2)
    functions = [f"Function{number}" for number in range(6)]

    def starts_at(tick: int) -> list[LifecycleEvent]:
        return [
            LifecycleEvent(hub, f"{name}-{tick}", name, RuntimeStatus.RUNNING, "", Instant(START + tick))
            for name in functions
        ]

    assert all(await store.record(record, starts_at(1)))
    assert all(await store.record(record, starts_at(0)))
    rows = server.tables.client(instance_table_name(hub)).query_entities("RowKey ge 'b|' and RowKey lt 'b}'")
    last_event_times = {row["FunctionName"]: row["LastEventAt"] async for row in rows}
    assert last_event_times == dict.fromkeys(functions, format_instant(Instant(START + 1)))
    assert len(store._group_commit._stamps._last_event_at) == 2


async def test_a_deleted_table_invalidates_the_cache(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    events = [lifecycle_event(record, f"order-{n}") for n in range(5)]
    await store.record(record, events)
    # By the Cleanup of another worker, or by an operator.
    await server.tables.delete_table(instance_table_name(hub))
    with pytest.raises(TableMissing):
        await store.record(record, [lifecycle_event(record, "new")])
    await server.tables.create_table(instance_table_name(hub))
    assert await store.record(record, events) == [True] * 5
    assert await active_instance_ids(server, hub) == sorted(event.instance_id for event in events)
