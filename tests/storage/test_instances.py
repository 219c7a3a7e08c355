"""The instance store on real tables: what is recorded, what is active, what a list shows."""

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
    hub: str, instance_id: str, status: RuntimeStatus, tick: int = 0, name: str = "ProcessOrder", reason: str = ""
) -> LifecycleEvent:
    return LifecycleEvent(hub, instance_id, name, status, reason, Instant(START + tick))


async def open_task_hub(server: StateServer, hub: str) -> TaskHubRecord:
    return await TaskHubStore(server.tables, 4).get_or_create(hub)


async def test_every_instance_id_round_trips(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    events = [lifecycle_event(hub, instance_id, RuntimeStatus.RUNNING, n) for n, instance_id in enumerate(AWKWARD_IDS)]
    assert all(await store.record(record, events))
    for event in events:
        known = await store.get(record, event.instance_id)
        assert known is not None
        assert known.instance_id == event.instance_id
    seen = {one.instance_id for one in (await store.read_activity(record, Exemptions())).active}
    assert seen == set(AWKWARD_IDS) - {"@entity@key"}
    listed = [one.instance_id for one in (await store.list_page(record, top=100)).items]
    assert sorted(listed) == sorted(AWKWARD_IDS)
    ended = [lifecycle_event(hub, instance_id, RuntimeStatus.COMPLETED, 100) for instance_id in AWKWARD_IDS]
    assert all(await store.record(record, ended))
    assert await active_instance_ids(server, hub) == []
    assert not any(one.active for one in (await store.list_page(record, top=100)).items)


async def test_ids_that_differ_only_in_what_is_escaped_stay_apart(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    ids = ["a/b", "a^0b", "a^^0b", "A/b", "a\\b"]
    await store.record(record, [lifecycle_event(hub, instance_id, RuntimeStatus.RUNNING) for instance_id in ids])
    assert await active_instance_ids(server, hub) == sorted(ids)


async def test_an_active_row_exists_exactly_while_the_instance_is_active(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    steps = [
        (RuntimeStatus.RUNNING, 10, ["one"]),
        (RuntimeStatus.COMPLETED, 20, []),
        (RuntimeStatus.RUNNING, 15, []),
        (RuntimeStatus.RUNNING, 30, ["one"]),
        (RuntimeStatus.RUNNING, 40, ["one"]),
        (RuntimeStatus.FAILED, 40, []),
    ]
    for status, tick, active in steps:
        await store.record(record, [lifecycle_event(hub, "one", status, tick)])
        assert await active_instance_ids(server, hub) == active, (status, tick)


async def test_a_duplicate_changes_nothing_and_writes_nothing(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    event = lifecycle_event(hub, "one", RuntimeStatus.RUNNING)
    assert await store.record(record, [event, event]) == [True, False]
    before = await stored_rows(server, hub, "")
    stamps = {row["RowKey"]: row for row in before}
    first = (await store.read_activity(record, Exemptions())).last_recorded_at
    assert await store.record(record, [event]) == [False]
    assert {row["RowKey"]: row for row in await stored_rows(server, hub, "")} == stamps
    assert (await store.read_activity(record, Exemptions())).last_recorded_at == first


async def test_active_instances_come_oldest_first_whatever_their_ids(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    events = [lifecycle_event(hub, f"id-{n}", RuntimeStatus.RUNNING, 1000 - n) for n in range(50)]
    await store.record(record, events)
    active = (await store.read_activity(record, Exemptions())).active
    assert [one.instance_id for one in active] == [f"id-{n}" for n in reversed(range(50))]


async def test_the_active_count_is_exact_to_the_limit_and_then_a_lower_bound(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    await store.record(record, [lifecycle_event(hub, f"{n}", RuntimeStatus.RUNNING, n) for n in range(ACTIVE_LIMIT)])
    activity = await store.read_activity(record, Exemptions())
    assert (len(activity.active), activity.has_more) == (ACTIVE_LIMIT, False)
    await store.record(record, [lifecycle_event(hub, "one more", RuntimeStatus.RUNNING, -1)])
    activity = await store.read_activity(record, Exemptions())
    assert (len(activity.active), activity.has_more) == (ACTIVE_LIMIT, True)
    assert activity.active[0].instance_id == "one more"


async def test_what_the_policy_ignores_does_not_hide_what_it_does_not(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    monitors = [lifecycle_event(hub, f"m{n}", RuntimeStatus.RUNNING, n, "Monitor") for n in range(ACTIVE_LIMIT + 50)]
    await store.record(record, [*monitors, lifecycle_event(hub, "order", RuntimeStatus.RUNNING, 10_000)])
    activity = await store.read_activity(record, Exemptions(("Monitor",)))
    assert [one.instance_id for one in activity.active] == ["order"]
    assert (activity.has_more, activity.ignored_count) == (False, ACTIVE_LIMIT + 50)


@pytest.mark.parametrize("top", [1, 7, 100])
async def test_a_list_shows_every_instance_once_page_by_page(server: StateServer, hub: str, top: int) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    running = [lifecycle_event(hub, f"run/{n}", RuntimeStatus.RUNNING, -n) for n in range(10)]
    ended = [
        lifecycle_event(hub, f"end#{n}", RuntimeStatus.FAILED if n % 2 else RuntimeStatus.COMPLETED) for n in range(10)
    ]
    await store.record(record, running + ended)

    async def listed(active: bool | None, status: RuntimeStatus | None) -> list[str]:
        ids: list[str] = []
        token = None
        while True:
            page = await store.list_page(record, active=active, status=status, top=top, token=token)
            assert len(page.items) <= top
            ids += [one.instance_id for one in page.items]
            token = page.continuation_token
            if token is None:
                return ids

    oldest_first = [f"run/{n}" for n in reversed(range(10))]
    assert (await listed(None, None))[:10] == oldest_first
    assert sorted(await listed(None, None)) == sorted(event.instance_id for event in running + ended)
    assert await listed(True, None) == oldest_first
    assert sorted(await listed(False, None)) == sorted(event.instance_id for event in ended)
    assert sorted(await listed(None, RuntimeStatus.FAILED)) == sorted(f"end#{n}" for n in range(1, 10, 2))
    assert await listed(True, RuntimeStatus.FAILED) == []


async def test_active_instances_of_the_same_time_are_listed_once_each(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    ids = ["a", "\uff5e", "\U0001f600", "z", "/"]
    await store.record(record, [lifecycle_event(hub, instance_id, RuntimeStatus.RUNNING) for instance_id in ids])
    seen, token = [], None
    for _ in ids:
        page = await store.list_page(record, active=True, top=1, token=token)
        seen += [one.instance_id for one in page.items]
        token = page.continuation_token
    assert token is None
    assert sorted(seen) == sorted(ids)


async def test_the_last_event_is_the_latest_by_its_own_time_also_after_a_restart(server: StateServer, hub: str) -> None:
    record = await open_task_hub(server, hub)
    await instance_store(server).record(record, [lifecycle_event(hub, "one", RuntimeStatus.COMPLETED, 50)])
    # A worker that has just started knows nothing of what came before.
    await instance_store(server).record(record, [lifecycle_event(hub, "one", RuntimeStatus.RUNNING, 40)])
    activity = await instance_store(server).read_activity(record, Exemptions())
    assert activity.last_event_at == Instant(START + 50)


async def test_recording_into_a_table_that_is_gone_is_told(server: StateServer, hub: str) -> None:
    store, record = instance_store(server), await open_task_hub(server, hub)
    await store.delete_records(record)
    await store.delete_records(record)
    with pytest.raises(TableMissing):
        await store.record(record, [lifecycle_event(hub, "one", RuntimeStatus.RUNNING)])
    with pytest.raises(StorageUnavailable, match="was deleted"):
        await store.read_activity(record, Exemptions())
    assert await store.get(record, "one") is None
    assert (await store.list_page(record, top=10)).items == ()
