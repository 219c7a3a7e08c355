"""Reading a timeline: over several pages, while other servers record, and of a task hub without a table."""

from collections.abc import AsyncIterator

import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.errors import StorageUnavailable
from state_api.services.ports import TaskHubRecord
from state_api.settings import Settings, StorageSettings
from state_api.storage.instances import InstanceStore
from state_api.storage.tables import instance_table_name
from state_api.storage.task_hubs import TaskHubStore
from state_api.storage.timeline_rows import RowCounts, StoredCounts, timeline_row, timeline_row_key
from tests.storage.stored_rows import instance_store
from tests.storage.stored_timelines import this_minute

pytestmark = pytest.mark.anyio


@pytest.fixture
async def proxy(storage: StorageSettings) -> AsyncIterator[StorageProxy]:
    """A proxy in front of the emulator, which shows each request before it is sent."""
    async with run_storage_proxy(storage) as storage_proxy:
        yield storage_proxy


@pytest.fixture
async def store(proxy: StorageProxy) -> AsyncIterator[InstanceStore]:
    """The instance store of a server behind the proxy."""
    server = StateServer(Settings(storage=proxy.settings))
    yield instance_store(server)
    await server.close()


@pytest.fixture
async def record(server: StateServer, hub: str) -> TaskHubRecord:
    """A task hub with two shards."""
    return await TaskHubStore(server.tables, shards=2).get_or_create(hub)


FIRST_MINUTE = this_minute() // 10 * 10 - 60


async def write_counts(server: StateServer, hub: str, row_id: str, count: int, shard: str = "00") -> None:
    """Write a row that counts starts in the first minute."""
    counts: RowCounts = {"ProcessOrder": {"started": {0: count}}}
    row = timeline_row(shard, timeline_row_key(FIRST_MINUTE, row_id), StoredCounts(counts=counts).to_json())
    await server.tables.client(instance_table_name(hub)).upsert_entity(row)


async def read_starts(store: InstanceStore, record: TaskHubRecord) -> int:
    """The starts of an hour."""
    timeline = await store.read_timeline(record, FIRST_MINUTE, FIRST_MINUTE + 60)
    return sum(point.started for point in timeline.points(first_minute=FIRST_MINUTE, step_minutes=60))


async def test_the_rows_of_all_servers_shards_and_pages_are_added_up(
    server: StateServer, store: InstanceStore, record: TaskHubRecord, proxy: StorageProxy
) -> None:
    proxy.insert_empty_pages = True
    for number in range(5):
        await write_counts(server, record.name, f"row-{number}", 2, shard=f"{number % 2:02d}")
    assert await read_starts(store, record) == 10
    assert proxy.empty_page_count >= 2


async def test_only_the_minutes_asked_for_are_counted(
    server: StateServer, store: InstanceStore, record: TaskHubRecord
) -> None:
    await write_counts(server, record.name, "row", 2)
    assert not (await store.read_timeline(record, FIRST_MINUTE + 1, FIRST_MINUTE + 60)).counts
    assert not (await store.read_timeline(record, FIRST_MINUTE - 60, FIRST_MINUTE)).counts
    assert (await store.read_timeline(record, FIRST_MINUTE, FIRST_MINUTE + 1)).counts


async def test_a_timeline_that_changes_between_two_pages_is_read_again(
    server: StateServer, store: InstanceStore, record: TaskHubRecord, proxy: StorageProxy
) -> None:
    await write_counts(server, record.name, "moved away", -1)
    reads = 0

    async def record_start(method: str, path: str) -> None:
        """Write the row that counts the start, before the second read of the first shard."""
        nonlocal reads
        reads += method == "GET"
        if reads == 3:
            await write_counts(server, record.name, "started", 3)

    proxy.before_request = record_start
    assert await read_starts(store, record) == 2
    assert reads == 3


async def test_a_timeline_that_never_adds_up_is_refused(
    server: StateServer, store: InstanceStore, record: TaskHubRecord
) -> None:
    await write_counts(server, record.name, "moved away", -1)
    with pytest.raises(StorageUnavailable, match="while the timeline is read"):
        await read_starts(store, record)


async def test_a_task_hub_without_a_table_has_an_empty_timeline(store: InstanceStore, hub: str) -> None:
    record = TaskHubRecord(hub, shards=2, app=None, recording=False, closed=True)
    assert await read_starts(store, record) == 0
