"""Pending timers in histories: first all of them, later those of the instances that have changed."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.data.tables.aio import TableServiceClient

from state_api.backends.azure_storage import AzureStorageBackend, TrackingStore
from state_api.domain.readiness.messages import KnownTimers
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub

pytestmark = pytest.mark.anyio


class HistoryTable:
    """Writes rows of a history table as the provider does."""

    def __init__(self, service: TableServiceClient, table: str) -> None:
        self._service = service
        self._table = table
        self._rows = 0

    async def create(self) -> None:
        await self._service.create_table(self._table)

    async def add_timer(self, instance_id: str, fires_in_seconds: float, event_id: int = 0, **columns: Any) -> None:
        """Add the history row of a timer that was created. `columns` replaces columns of the row."""
        self._rows += 1
        await self._service.get_table_client(self._table).upsert_entity(
            {
                "PartitionKey": instance_id,
                "RowKey": f"{self._rows:016X}",
                "EventType": "TimerCreated",
                "EventId": event_id,
                "ExecutionId": "e1",
                "FireAt": datetime.now(UTC) + timedelta(seconds=fires_in_seconds),
                **columns,
            }
        )


@pytest.fixture
async def provider(storage: StorageSettings, hub: str, anyio_backend: str) -> AsyncIterator[ProviderTaskHub]:
    """An empty task hub in the emulator, to which a test adds rows as the Azure Storage provider does."""
    async with ProviderTaskHub(storage, hub) as provider:
        yield await provider.create()


@pytest.fixture
async def backend(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[AzureStorageBackend]:
    """The backend that reads task hubs in the emulator."""
    backend = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP")
    yield backend
    await backend.close()


@pytest.fixture
async def service(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[TableServiceClient]:
    """A client of all tables of the emulator."""
    assert storage.connection_string is not None
    async with TableServiceClient.from_connection_string(storage.connection_string.get_secret_value()) as service:
        yield service


@pytest.fixture
async def history_table(service: TableServiceClient, provider: ProviderTaskHub) -> HistoryTable:
    """The empty History table of the task hub."""
    history_table = HistoryTable(service, f"{provider.hub}History")
    await history_table.create()
    return history_table


async def read_all_timers(
    backend: AzureStorageBackend, hub: str, known: KnownTimers | None = None
) -> tuple[KnownTimers, int]:
    """Read to the end. Return what is known then, and the number of steps."""
    timers, steps = await backend.read_timers(hub, known or KnownTimers()), 1
    while timers.cursor is not None:
        timers, steps = await backend.read_timers(hub, timers), steps + 1
    return timers, steps


async def test_all_timers_that_have_yet_to_fire_are_found(
    backend: AzureStorageBackend, provider: ProviderTaskHub, history_table: HistoryTable
) -> None:
    await history_table.add_timer("order-1", 3600)
    await history_table.add_timer("order-1", 3600, event_id=1)
    await history_table.add_timer("order^02", 60)
    await history_table.add_timer("fired", -1)
    await history_table.add_timer("rewound", 3600, EventType="GenericEvent")
    timers, _ = await read_all_timers(backend, provider.hub)
    assert len(timers.timers) == 3
    assert timers.read_through is not None


async def test_a_task_hub_without_a_history_has_no_timers(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    timers, steps = await read_all_timers(backend, provider.hub)
    assert (timers.timers, steps) == ((), 1)
    later, _ = await read_all_timers(backend, provider.hub, timers)
    assert later.timers == ()


async def test_a_long_history_is_read_in_steps(
    backend: AzureStorageBackend,
    provider: ProviderTaskHub,
    history_table: HistoryTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("state_api.backends.pending_timers._PAGE_SIZE", 1)
    for number in range(3):
        await history_table.add_timer(f"order-{number}", 3600)
    first = await backend.read_timers(provider.hub, KnownTimers())
    assert (len(first.timers), first.read_through) == (1, None)
    timers, steps = await read_all_timers(backend, provider.hub)
    assert len(timers.timers) == 3
    assert steps >= 3


async def test_a_later_read_reads_only_the_histories_of_changed_instances(
    backend: AzureStorageBackend, provider: ProviderTaskHub, history_table: HistoryTable
) -> None:
    await history_table.add_timer("order-1", 3600)
    known, _ = await read_all_timers(backend, provider.hub)
    # Its row has no new stamp, so its history is not read.
    await history_table.add_timer("unchanged", 3600)
    await provider.put("order-2", "Completed")
    await history_table.add_timer("order-2", 3600)
    later, steps = await read_all_timers(backend, provider.hub, known)
    assert (len(later.timers), steps) == (2, 1)
    # A timer that is read again is not counted twice.
    await provider.put("order-1", "Completed")
    assert len((await read_all_timers(backend, provider.hub, later))[0].timers) == 2


async def test_the_whole_history_is_read_if_many_instances_have_changed(
    backend: AzureStorageBackend,
    provider: ProviderTaskHub,
    history_table: HistoryTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("state_api.backends.pending_timers._MAX_CHANGED_INSTANCES", 1)
    known, _ = await read_all_timers(backend, provider.hub)
    await provider.put_many(["order-1", "order-2"], "Completed")
    await history_table.add_timer("elsewhere", 3600)
    timers, steps = await read_all_timers(backend, provider.hub, known)
    assert len(timers.timers) == 1
    assert timers.read_through is not None
    assert steps >= 2


async def test_a_read_with_more_timers_than_can_be_kept_does_not_count_as_complete(
    backend: AzureStorageBackend, provider: ProviderTaskHub, history_table: HistoryTable
) -> None:
    await history_table.add_timer("order-1", 3600)
    timers, _ = await read_all_timers(backend, provider.hub, KnownTimers(cursor="[false, null]", truncated=True))
    assert (len(timers.timers), timers.read_through, timers.cursor) == (1, None, None)


async def test_timers_of_other_task_hubs_in_a_shared_tracking_store_do_not_count(
    storage: StorageSettings, service: TableServiceClient, hub: str
) -> None:
    prefix = f"t{hub}"
    history_table = HistoryTable(service, f"{prefix}History")
    await history_table.create()
    async with (
        ProviderTaskHub(storage, hub, f"{prefix}Instances") as ours,
        ProviderTaskHub(storage, f"{hub}x", f"{prefix}Instances") as theirs,
    ):
        await ours.create()
        await ours.put("order-1", "Completed", ExecutionId="e1")
        await theirs.put("order-2", "Completed")
    await history_table.add_timer("order-1", 3600)
    await history_table.add_timer("order-2", 3600)
    # A former execution, in another task hub of the store: its message is in a queue of that task hub.
    await history_table.add_timer("order-1", 3600, event_id=1, ExecutionId="a former execution")
    backend = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP", TrackingStore(storage, "TRACKING", prefix))
    timers, _ = await read_all_timers(backend, hub)
    assert len(timers.timers) == 1
    await backend.close()
