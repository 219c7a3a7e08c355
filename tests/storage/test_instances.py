"""The instance store on the storage emulator: recording, active instances, and lists."""

import pytest

from state_api.app import StateServer
from state_api.domain.errors import StorageUnavailable
from state_api.domain.instants import Instant, parse_instant
from state_api.domain.readiness.evidence import ACTIVE_LIMIT
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.task_hubs.lifecycle import LifecycleEvent, RuntimeStatus
from state_api.services.ports import TableMissing, TaskHubRecord
from state_api.storage.task_hubs import TaskHubStore
from tests.storage.stored_rows import active_instance_ids, instance_store, stored_rows

pytestmark = pytest.mark.anyio

START = parse_instant("2026-11-20T09:00:00Z")

AWKWARD_IDS = [
    "plain",
    "a b",
    " leading and trailing ",
    "a+b%20c%",
    "it's 'quoted'",
    '"double"',
    "a/b\\c#d?e^f",
    "^^0^1",
    "tab\tline\nnull\x00del\x7fc1\x9f",
    "Zażółć gęślą 日本語",
    "😀 beyond the first plane",
    "a\u2028b\u2029c",
    "\ufeff\ufffe\uffff",
    "eq 'x' or true",
    "a|2026-11-20|b",
    "e\u0301 and é",
    "&<>;$(rm)`|{}",
    "/" * 256,
    "\U0001f600" * 128,
    "x" * 256,
    "@entity@key",
]


def lifecycle_event(
    hub: str, instance_id: str, status: RuntimeStatus, tick: int = 0, *, function_name: str = "ProcessOrder"
) -> LifecycleEvent:
    """An event of an instance, `tick` ticks after the start of all of them."""
    return LifecycleEvent(hub, instance_id, function_name, status, "", Instant(START + tick))


async def open_task_hub(server: StateServer, hub: str) -> TaskHubRecord:
    """Create a task hub with four shards."""
    return await TaskHubStore(server.tables, shards=4).get_or_create(hub)


async def test_every_instance_id_survives_a_round_trip(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    events = [lifecycle_event(hub, instance_id, RuntimeStatus.RUNNING, n) for n, instance_id in enumerate(AWKWARD_IDS)]
    assert all(await store.record(record, events))
    for event in events:
        stored = await store.get(record, event.instance_id)
        assert stored is not None
        assert stored.instance_id == event.instance_id
    active = {
        instance.instance_id for instance in (await store.read_records(record.name, Exemptions())).activity.active
    }
    assert active == set(AWKWARD_IDS) - {"@entity@key"}
    listed = [instance.instance_id for instance in (await store.list_page(record, top=100)).items]
    assert sorted(listed) == sorted(AWKWARD_IDS)
    ended = [lifecycle_event(hub, instance_id, RuntimeStatus.COMPLETED, 100) for instance_id in AWKWARD_IDS]
    assert all(await store.record(record, ended))
    assert await active_instance_ids(server, hub) == []
    assert not any(instance.active for instance in (await store.list_page(record, top=100)).items)


async def test_ids_that_differ_only_in_escaped_characters_are_different_instances(
    server: StateServer, hub: str
) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    ids = ["a/b", "a^0b", "a^^0b", "A/b", "a\\b"]
    await store.record(record, [lifecycle_event(hub, instance_id, RuntimeStatus.RUNNING) for instance_id in ids])
    assert await active_instance_ids(server, hub) == sorted(ids)


async def test_an_active_row_exists_exactly_while_the_instance_is_active(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    steps = [
        (RuntimeStatus.RUNNING, 10, ["order"]),
        (RuntimeStatus.COMPLETED, 20, []),
        (RuntimeStatus.RUNNING, 15, []),
        (RuntimeStatus.RUNNING, 30, ["order"]),
        (RuntimeStatus.RUNNING, 40, ["order"]),
        (RuntimeStatus.FAILED, 40, []),
    ]
    for status, tick, active in steps:
        await store.record(record, [lifecycle_event(hub, "order", status, tick)])
        assert await active_instance_ids(server, hub) == active, (status, tick)


async def test_a_duplicate_writes_nothing(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    event = lifecycle_event(hub, "order", RuntimeStatus.RUNNING)
    assert await store.record(record, [event, event]) == [True, False]
    rows_before = {row["RowKey"]: row for row in await stored_rows(server, hub, "")}
    recorded_before = (await store.read_records(record.name, Exemptions())).activity.last_recorded_at
    assert await store.record(record, [event]) == [False]
    assert {row["RowKey"]: row for row in await stored_rows(server, hub, "")} == rows_before
    assert (await store.read_records(record.name, Exemptions())).activity.last_recorded_at == recorded_before


async def test_active_instances_are_sorted_by_start_time(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    events = [lifecycle_event(hub, f"id-{n}", RuntimeStatus.RUNNING, 1000 - n) for n in range(50)]
    await store.record(record, events)
    active = (await store.read_records(record.name, Exemptions())).activity.active
    assert [instance.instance_id for instance in active] == [f"id-{n}" for n in reversed(range(50))]


async def test_active_instances_are_counted_exactly_up_to_the_limit(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    await store.record(record, [lifecycle_event(hub, f"{n}", RuntimeStatus.RUNNING, n) for n in range(ACTIVE_LIMIT)])
    activity = (await store.read_records(record.name, Exemptions())).activity
    assert (len(activity.active), activity.has_more) == (ACTIVE_LIMIT, False)
    await store.record(record, [lifecycle_event(hub, "one more", RuntimeStatus.RUNNING, -1)])
    activity = (await store.read_records(record.name, Exemptions())).activity
    assert (len(activity.active), activity.has_more) == (ACTIVE_LIMIT, True)
    assert activity.active[0].instance_id == "one more"


async def test_many_ignored_instances_do_not_hide_a_blocking_one(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    monitors = [
        lifecycle_event(hub, f"m{n}", RuntimeStatus.RUNNING, n, function_name="Monitor")
        for n in range(ACTIVE_LIMIT + 50)
    ]
    await store.record(record, [*monitors, lifecycle_event(hub, "order", RuntimeStatus.RUNNING, 10_000)])
    activity = (await store.read_records(record.name, Exemptions(("Monitor",)))).activity
    assert [instance.instance_id for instance in activity.active] == ["order"]
    assert (activity.has_more, activity.ignored_count) == (False, ACTIVE_LIMIT + 50)


@pytest.mark.parametrize("top", [1, 7, 100])
async def test_the_pages_of_a_list_have_every_instance_once(server: StateServer, hub: str, top: int) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    running = [lifecycle_event(hub, f"run/{n}", RuntimeStatus.RUNNING, -n) for n in range(10)]
    ended = [
        lifecycle_event(hub, f"end#{n}", RuntimeStatus.FAILED if n % 2 else RuntimeStatus.COMPLETED) for n in range(10)
    ]
    await store.record(record, running + ended)

    async def list_ids(*, active: bool | None = None, status: RuntimeStatus | None = None) -> list[str]:
        """The ids on all pages of the list, in order. No page may be longer than asked for."""
        ids: list[str] = []
        token = None
        while True:
            page = await store.list_page(record, active=active, status=status, top=top, token=token)
            assert len(page.items) <= top
            ids += [instance.instance_id for instance in page.items]
            token = page.continuation_token
            if token is None:
                return ids

    oldest_first = [f"run/{n}" for n in reversed(range(10))]
    assert (await list_ids())[:10] == oldest_first
    assert sorted(await list_ids()) == sorted(event.instance_id for event in running + ended)
    assert await list_ids(active=True) == oldest_first
    assert sorted(await list_ids(active=False)) == sorted(event.instance_id for event in ended)
    assert sorted(await list_ids(status=RuntimeStatus.FAILED)) == sorted(f"end#{n}" for n in range(1, 10, 2))
    assert await list_ids(active=True, status=RuntimeStatus.FAILED) == []


async def test_active_instances_with_equal_start_times_are_listed_once_each(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    ids = ["a", "\uff5e", "\U0001f600", "z", "/"]
    await store.record(record, [lifecycle_event(hub, instance_id, RuntimeStatus.RUNNING) for instance_id in ids])
    listed, token = [], None
    for _ in ids:
        page = await store.list_page(record, active=True, top=1, token=token)
        listed += [instance.instance_id for instance in page.items]
        token = page.continuation_token
    assert token is None
    assert sorted(listed) == sorted(ids)


async def test_an_older_event_does_not_set_the_last_event_time_back_after_a_restart(
    server: StateServer, hub: str
) -> None:
    record = await open_task_hub(server, hub)
    await instance_store(server).record(record, [lifecycle_event(hub, "order", RuntimeStatus.COMPLETED, 50)])
    # A new store has no cached activity stamp.
    await instance_store(server).record(record, [lifecycle_event(hub, "order", RuntimeStatus.RUNNING, 40)])
    activity = (await instance_store(server).read_records(record.name, Exemptions())).activity
    assert activity.last_event_at == Instant(START + 50)


async def test_a_deleted_instance_table_is_an_error_for_recording_and_for_reading_activity(
    server: StateServer, hub: str
) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    await store.delete_records(record)
    await store.delete_records(record)
    with pytest.raises(TableMissing):
        await store.record(record, [lifecycle_event(hub, "order", RuntimeStatus.RUNNING)])
    with pytest.raises(StorageUnavailable, match="was deleted"):
        await store.read_records(record.name, Exemptions())
    assert await store.get(record, "order") is None
    assert (await store.list_page(record, top=10)).items == ()
