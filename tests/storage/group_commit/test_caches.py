"""The caches of group commit are bounded, and never change what is recorded."""

import pytest

from state_api.app import StateServer
from state_api.domain.instants import Instant, format_instant
from state_api.domain.task_hubs.lifecycle import LifecycleEvent, RuntimeStatus
from state_api.services.ports import TableMissing, TaskHubRecord
from state_api.storage import activity_stamps, instance_cache
from state_api.storage.instances import InstanceStore
from state_api.storage.tables import instance_table_name
from tests.storage.group_commit.recording import (
    START,
    lifecycle_event,
)
from tests.storage.stored_rows import active_instance_ids

pytestmark = pytest.mark.anyio


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
        """A start for each of the functions, at this tick."""
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
