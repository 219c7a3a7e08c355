"""The counters of the timeline are the fold over the records. Several servers write them, responses are lost, and
transactions of one shard are in flight at the same time."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from harness.storage_proxy import StorageProxy
from state_api.app import StateServer
from state_api.domain.errors import StorageUnavailable
from state_api.domain.instants import Instant, seconds
from state_api.domain.task_hubs.lifecycle import EvidenceSource, Finished, Instance, LifecycleEvent, RuntimeStatus
from state_api.domain.task_hubs.timeline import instant_of_minute
from state_api.services.ports import TableMissing, TaskHubRecord
from state_api.storage import timeline_counters
from state_api.storage.instances import InstanceStore
from state_api.storage.tables import instance_table_name
from state_api.storage.task_hubs import TaskHubStore
from state_api.storage.timeline_rows import TIMELINE_FROM, timeline_row, timeline_row_key
from tests.storage.group_commit.recording import count_reads, count_transactions
from tests.storage.stored_rows import instance_store, stored_rows
from tests.storage.stored_timelines import check_timeline, this_minute

pytestmark = pytest.mark.anyio

FUNCTIONS = ("ProcessOrder", "ShipOrder", "Bill\u00e9 \U0001f600")


def recent_event(
    hub: TaskHubRecord,
    instance_id: str,
    status: str = "Running",
    minutes_ago: float = 5,
    function: str = "ProcessOrder",
) -> LifecycleEvent:
    """An event of an instance at a recent time."""
    at = Instant(instant_of_minute(this_minute()) - seconds(60 * minutes_ago))
    return LifecycleEvent(hub.name, instance_id, function, RuntimeStatus(status), "", at)


def random_events(hub: TaskHubRecord, seed: int, count: int = 150) -> list[LifecycleEvent]:
    """Starts and ends of few instances at few times within 40 minutes, with duplicates, in any order."""
    choose = random.Random(seed)
    events = [
        recent_event(
            hub,
            choose.choice([f"order-{choose.randrange(25)}", "@counter@orders"]),
            choose.choice(["Running", "Running", "Completed", "Failed", "Terminated"]),
            minutes_ago=choose.randrange(80) / 2,
            function=choose.choice(FUNCTIONS),
        )
        for _ in range(count)
    ]
    events += choose.choices(events, k=count // 3)
    choose.shuffle(events)
    return events


async def record_until_acknowledged(store: InstanceStore, hub: TaskHubRecord, events: Sequence[LifecycleEvent]) -> None:
    """Send a delivery until it is acknowledged, as Event Grid does."""
    for _ in range(20):
        try:
            await store.record(hub, events)
        except StorageUnavailable:
            continue
        return
    raise AssertionError("the delivery was not acknowledged")


async def record_in_deliveries(
    stores: Sequence[InstanceStore], hub: TaskHubRecord, events: Sequence[LifecycleEvent], seed: int
) -> None:
    """Send the events in deliveries of random sizes to random stores, all at once."""
    choose = random.Random(seed)
    deliveries = []
    while events:
        size = choose.randrange(1, 12)
        deliveries.append(record_until_acknowledged(choose.choice(stores), hub, events[:size]))
        events = events[size:]
    await asyncio.gather(*deliveries)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shards", [1, 3])
async def test_the_counters_of_several_servers_add_up_to_the_fold_over_the_records(
    server: StateServer, hub: str, seed: int, shards: int
) -> None:
    record = await TaskHubStore(server.tables, shards=shards).get_or_create(hub)
    stores = [instance_store(server) for _ in range(3)]
    await record_in_deliveries(stores, record, random_events(record, seed), seed)
    timeline = await check_timeline(server, hub)
    assert timeline.counts
    minute = this_minute()
    assert await stores[0].read_timeline(record, minute - 60, minute + 1) == timeline
    for store in stores:
        await store.close()


@pytest.mark.parametrize("seed", range(4))
async def test_lost_responses_and_failures_count_nothing_twice_and_leave_nothing_out(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord, proxy: StorageProxy, seed: int
) -> None:
    choose = random.Random(seed)
    proxy.drops_response = lambda method, path: path.endswith("$batch") and choose.random() < 0.2
    proxy.failure_status = lambda method, path: choose.choice([500, 503, 0]) if choose.random() < 0.1 else None
    other = instance_store(server)
    await record_in_deliveries([store, other], record, random_events(record, seed), seed)
    proxy.drops_response, proxy.failure_status = lambda method, path: False, lambda method, path: None
    assert (await check_timeline(server, hub)).counts
    await record_in_deliveries([store, other], record, random_events(record, seed + 100), seed)
    await check_timeline(server, hub)
    await other.close()


async def test_instances_that_continue_as_new_on_two_servers_count_once(
    server: StateServer, hub: str, record: TaskHubRecord
) -> None:
    stores = [instance_store(server), instance_store(server)]
    for generation in range(20, 0, -1):
        events = [recent_event(record, f"monitor-{n}", "Completed", generation) for n in range(5)]
        events += [recent_event(record, f"monitor-{n}", "Running", generation - 0.1) for n in range(5)]
        await asyncio.gather(*(stores[n % 2].record(record, [event]) for n, event in enumerate(events)))
    timeline = await check_timeline(server, hub)
    assert Counter(timeline.counts.values()) == {5: 1}
    for store in stores:
        await store.close()


async def test_a_server_that_stops_in_the_middle_leaves_exact_counters(
    server: StateServer, hub: str, record: TaskHubRecord
) -> None:
    store, other = instance_store(server), instance_store(server)
    events = random_events(record, seed=1)
    recording = [asyncio.create_task(store.record(record, [event])) for event in events]
    # The first event is a transaction of its own, and all others are on their way then.
    await asyncio.wait(recording, return_when=asyncio.FIRST_COMPLETED)
    await store.close()
    assert any(isinstance(result, BaseException) for result in await asyncio.gather(*recording, return_exceptions=True))
    await check_timeline(server, hub)
    await record_until_acknowledged(other, record, events)
    await check_timeline(server, hub)
    await other.close()


async def test_the_ends_that_a_probe_finds_are_counted(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    await store.record(record, [recent_event(record, "order-1"), recent_event(record, "order-2")])
    at = recent_event(record, "order-1", minutes_ago=2).occurred_at
    ended = Finished(at, RuntimeStatus.COMPLETED, "", "ProcessOrder", EvidenceSource.PROBE)
    await store.record_corrections(record, [Instance("order-1", finished=ended)])
    (point, end) = (await check_timeline(server, hub)).points(first_minute=0, step_minutes=1)
    assert (point.started, point.cohort_active, point.cohort_ends.completed, end.ends.completed) == (2, 1, 1, 1)


async def test_a_batch_needs_one_request_and_one_row_of_counters(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord, proxy: StorageProxy
) -> None:
    minutes_ago = this_minute() % 10 + 20
    await store.record(record, [recent_event(record, "first", minutes_ago=minutes_ago)])
    await settle(store)
    proxy.clear()
    for n in range(5):
        await store.record(record, [recent_event(record, f"order-{n}", minutes_ago=minutes_ago)])
    assert (count_transactions(proxy), count_reads(proxy)) == (5, 0)
    assert len(await stored_rows(server, hub, TIMELINE_FROM)) == 1


async def settle(store: InstanceStore) -> None:
    """Wait until the store has nothing to do in the background."""
    while tasks := store._group_commit._tasks:
        await asyncio.gather(*tasks)


async def test_an_app_with_hundreds_of_functions_is_counted_in_several_rows(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    events = [
        recent_event(record, f"order-{n}-{status}", status, minutes_ago=n % 10, function=f"Function{n}" + "x" * 60)
        for n in range(400)
        for status in ("Running", "Completed")
    ]
    for at in range(0, len(events), 100):
        assert all(await store.record(record, events[at : at + 100]))
    timeline = await check_timeline(server, hub)
    assert len({key.function_name for key in timeline.counts}) == 400
    rows = await stored_rows(server, hub, TIMELINE_FROM)
    longest = max(sum(len(str(value)) for name, value in row.items() if name.startswith("Counts")) for row in rows)
    assert longest < 4 * timeline_counters.MAX_ROW_CHARACTERS


async def test_the_cache_of_counter_rows_is_bounded(
    monkeypatch: pytest.MonkeyPatch, server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    monkeypatch.setattr(timeline_counters, "MAX_CACHED_ROWS", 3)
    monkeypatch.setattr(timeline_counters, "_MAX_WATCHED_SHARDS", 1)
    starts = [recent_event(record, f"order-{n}", minutes_ago=20 * n + 15) for n in range(60)]
    ends = [recent_event(record, f"order-{n}", "Completed") for n in range(60)]
    assert all(await store.record(record, starts))
    assert all(await store.record(record, ends))
    assert len(store._group_commit._counters) == 3
    await check_timeline(server, hub)


async def test_instances_that_started_hours_ago_end_in_one_delivery(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord, proxy: StorageProxy
) -> None:
    starts = [recent_event(record, f"order-{n}", minutes_ago=28 * n + 15) for n in range(100)]
    assert all(await store.record(record, starts))
    await settle(store)
    proxy.clear()
    assert all(await store.record(record, [recent_event(record, f"order-{n}", "Completed", 15) for n in range(100)]))
    assert (count_transactions(proxy), count_reads(proxy)) == (4, 0)
    await check_timeline(server, hub)


async def test_a_table_that_was_deleted_is_counted_anew(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    events = [recent_event(record, f"order-{n}") for n in range(5)]
    await store.record(record, events)
    await server.tables.delete_table(instance_table_name(hub))
    with pytest.raises(TableMissing):
        await store.record(record, [recent_event(record, "new")])
    await server.tables.create_table(instance_table_name(hub))
    assert await store.record(record, events) == [True] * 5
    assert sum((await check_timeline(server, hub)).counts.values()) == 5


async def test_a_counter_row_that_was_deleted_stops_no_recording(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    await store.record(record, [recent_event(record, "order-1")])
    (row,) = await stored_rows(server, hub, TIMELINE_FROM)
    await server.tables.client(instance_table_name(hub)).delete_entity(row["PartitionKey"], row["RowKey"])
    events = [recent_event(record, "order-2"), recent_event(record, "order-3")]
    assert await store.record(record, events) == [True, True]
    (row,) = await stored_rows(server, hub, TIMELINE_FROM)
    assert '"started":{' in row["Counts0"]


OLD_MINUTES, RECENT_MINUTES = 51 * 60, 47 * 60


async def create_counter_row(server: StateServer, hub: str, minutes_ago: int, **columns: int) -> str:
    """Create an empty row of counters, as another server did some time ago; its key."""
    key = timeline_row_key((this_minute() - minutes_ago) // 10 * 10, f"{minutes_ago}-{columns}")
    row = {**timeline_row("00", key, '{"counts":{}}'), **columns}
    await server.tables.client(instance_table_name(hub)).create_entity(row)
    return key


async def counter_keys(server: StateServer, hub: str) -> set[str]:
    return {row["RowKey"] for row in await stored_rows(server, hub, TIMELINE_FROM)}


async def test_rows_that_are_too_old_to_be_shown_are_deleted_with_the_first_event_of_ten_minutes(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord, proxy: StorageProxy
) -> None:
    old = {await create_counter_row(server, hub, OLD_MINUTES + 10 * n) for n in range(130)}
    kept = {
        await create_counter_row(server, hub, RECENT_MINUTES),
        await create_counter_row(server, hub, OLD_MINUTES, Schema=99),
    }
    await store.record(record, [recent_event(record, "order-1", minutes_ago=15)])
    await settle(store)
    assert not old & await counter_keys(server, hub)
    assert kept < await counter_keys(server, hub)
    another = await create_counter_row(server, hub, OLD_MINUTES)
    await store.record(record, [recent_event(record, "order-2", minutes_ago=15)])
    await store.record(record, [recent_event(record, "order-3", minutes_ago=35)])
    await settle(store)
    assert another in await counter_keys(server, hub), "no later ten minutes have begun"
    await store.record(record, [recent_event(record, "order-4", minutes_ago=0)])
    await settle(store)
    assert another not in await counter_keys(server, hub)


async def test_a_failed_deletion_fails_no_event_and_is_repeated_later(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord, proxy: StorageProxy
) -> None:
    old = await create_counter_row(server, hub, OLD_MINUTES)
    await store.record(record, [recent_event(record, "stamped", minutes_ago=3 * 24 * 60)])
    proxy.failure_status = lambda method, path: 403 if method == "GET" else None
    assert await store.record(record, [recent_event(record, "order-1", minutes_ago=15)]) == [True]
    await settle(store)
    proxy.failure_status = lambda method, path: None
    assert old in await counter_keys(server, hub)
    assert await store.record(record, [recent_event(record, "order-2", minutes_ago=0)]) == [True]
    await settle(store)
    assert old not in await counter_keys(server, hub)


async def test_events_that_are_too_old_to_be_shown_are_recorded_and_not_counted(
    server: StateServer, hub: str, store: InstanceStore, record: TaskHubRecord
) -> None:
    assert await store.record(record, [recent_event(record, "order-1", minutes_ago=50 * 60)]) == [True]
    assert await counter_keys(server, hub) == set()
    assert await store.record(record, [recent_event(record, "order-1", "Completed")]) == [True]
    (point,) = (await check_timeline(server, hub)).points(first_minute=0, step_minutes=1)
    assert (point.started, point.ends.completed, point.cohort_ends.total) == (0, 1, 0)
