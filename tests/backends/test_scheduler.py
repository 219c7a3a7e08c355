"""Task hubs of Durable Task Scheduler, against Microsoft's in-memory engine with real orchestrations."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from durabletask.entities import EntityInstanceId
from durabletask.worker import TaskHubGrpcWorker

from harness.processes import wait_until
from state_api.domain.instants import instant_from, seconds
from state_api.domain.readiness.messages import QueueSnapshot
from state_api.domain.task_hubs.lifecycle import RuntimeStatus
from tests.backends.fake_schedulers import (
    HUB,
    QUIET_LOGGER,
    Counter,
    InMemoryScheduler,
    active_ids,
    completing,
    eternal,
    failing,
    idle_scheduler,
    latest_by_id,
    link,
    open_backend,
    parent,
    read_first_pass,
    read_pages,
    scan,
    waiting,
)

__all__ = ["idle_scheduler"]  # a fixture

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def scheduler_with_worker() -> Iterator[InMemoryScheduler]:
    """An engine with a worker. It takes a second to stop, so the tests share it."""
    engine = InMemoryScheduler()
    worker: Any = TaskHubGrpcWorker(host_address=engine.address, logger=QUIET_LOGGER)
    for orchestrator in (waiting, eternal, completing, failing, parent, link):
        worker.add_orchestrator(orchestrator)
    worker.add_entity(Counter)
    worker.start()
    yield engine
    worker.stop()
    engine.stop()


@pytest.fixture
def engine(scheduler_with_worker: InMemoryScheduler) -> InMemoryScheduler:
    """That engine, empty."""
    scheduler_with_worker.engine.reset()
    return scheduler_with_worker


async def test_a_scan_finds_what_is_active_and_what_has_just_ended(engine: InMemoryScheduler) -> None:
    engine.start_and_wait(waiting, "running")
    engine.start_and_wait(waiting, "suspended")
    engine.client.suspend_orchestration("suspended")
    engine.wait_until("suspended", "SUSPENDED")
    engine.start_and_wait(parent, "parent", "child")
    engine.wait_until("child", "RUNNING")
    engine.start_and_wait(waiting, "terminated")
    engine.client.terminate_orchestration("terminated")
    engine.wait_until("terminated", "TERMINATED")
    engine.start_and_wait(completing, "completed")
    engine.wait_until("completed", "COMPLETED")
    engine.start_and_wait(failing, "failed")
    engine.wait_until("failed", "FAILED")

    async with open_backend(engine.connection) as backend:
        found = await scan(backend)

    assert {one.instance_id: one.runtime_status.value for one in found.values()} == {
        "running": "Running",
        "suspended": "Suspended",
        "parent": "Running",
        "child": "Running",
        "terminated": "Terminated",
        "completed": "Completed",
        "failed": "Failed",
    }
    assert found["child"].function_name == "waiting"
    now = instant_from(datetime.now(UTC))
    for one in found.values():
        assert now - seconds(20) < one.created_at <= one.updated_at <= now


async def test_the_first_pass_holds_nothing_but_what_is_active(engine: InMemoryScheduler) -> None:
    engine.start_and_wait(waiting, "running")
    engine.start_and_wait(completing, "completed")
    engine.wait_until("completed", "COMPLETED")
    async with open_backend(engine.connection) as backend:
        start = await backend.begin_scan(HUB)
        first = await backend.read_page(HUB, start.changed_since, start.cursors[0])
        second = await backend.read_page(HUB, start.changed_since, first.cursors[0])
    assert ([one.instance_id for one in first.instances], first.scanned) == (["running"], 1)
    assert ({one.instance_id for one in second.instances}, second.scanned) == ({"running", "completed"}, 2)
    assert second.cursors == ()


async def test_what_is_scheduled_is_active_before_anybody_works_on_it(idle_scheduler: InMemoryScheduler) -> None:
    idle_scheduler.start(waiting, "now")
    idle_scheduler.start(waiting, "later", start_at=datetime.now(UTC) + timedelta(hours=1))
    async with open_backend(idle_scheduler.connection) as backend:
        found = await scan(backend)
        assert await backend.read_queue_snapshot(HUB) == QueueSnapshot()
    assert {one.instance_id: one.runtime_status for one in found.values() if one.active} == {
        "now": RuntimeStatus.PENDING,
        "later": RuntimeStatus.PENDING,
    }


async def test_what_continues_as_new_stays_active_under_a_new_stamp(engine: InMemoryScheduler) -> None:
    engine.start_and_wait(eternal, "eternal", 1)
    async with open_backend(engine.connection) as backend:
        before = (await backend.find_instances(HUB, ["eternal"]))["eternal"]
        for _ in range(3):
            engine.client.raise_orchestration_event("eternal", "go")
            found = await scan(backend)
            assert found["eternal"].active
        engine.wait_until("eternal", "RUNNING")
        after = (await scan(backend))["eternal"]
    assert before is not None
    assert before.stamp != after.stamp
    assert before.created_at == after.created_at


async def test_a_stamp_changes_with_its_instance_and_only_then(engine: InMemoryScheduler) -> None:
    engine.start_and_wait(waiting, "changing")
    engine.start_and_wait(waiting, "resting")
    async with open_backend(engine.connection) as backend:
        stamps: list[str] = []
        rests: set[str] = set()

        async def look() -> None:
            found = await scan(backend)
            stamps.append(found["changing"].stamp)
            rests.add(found["resting"].stamp)
            told = await backend.find_instances(HUB, ["changing", "resting"])
            assert [one.stamp for one in told.values() if one is not None] == [stamps[-1], *rests]

        await look()
        await look()
        assert stamps[0] == stamps[1]
        engine.client.suspend_orchestration("changing")
        engine.wait_until("changing", "SUSPENDED")
        await look()
        engine.client.resume_orchestration("changing")
        engine.wait_until("changing", "RUNNING")
        await look()
        engine.end("changing")
        await look()
    assert len(set(stamps)) == 4
    assert len(rests) == 1


async def test_an_instance_started_anew_under_its_id_has_a_new_stamp(engine: InMemoryScheduler) -> None:
    engine.start_and_wait(waiting, "again")
    engine.end("again")
    async with open_backend(engine.connection) as backend:
        before = (await scan(backend))["again"]
        engine.client.restart_orchestration("again")
        engine.wait_until("again", "RUNNING")
        after = (await scan(backend))["again"]
    assert (before.active, after.active) == (False, True)
    assert before.stamp != after.stamp


async def test_entities_are_never_seen(engine: InMemoryScheduler) -> None:
    counter = EntityInstanceId("Counter", "one")
    engine.client.signal_entity(counter, "add", input=1)
    wait_until(lambda: engine.client.get_entity(counter) is not None, "the entity is there", 20)
    async with open_backend(engine.connection) as backend:
        assert await scan(backend) == {}
        assert await backend.find_instances(HUB, [str(counter)]) == {str(counter): None}


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 20, 21, 500])
async def test_pages_of_any_size_lead_through_the_whole_hub(engine: InMemoryScheduler, page_size: int) -> None:
    ids = {engine.start_and_wait(waiting, f"waiting-{number}") for number in range(20)}
    async with open_backend(engine.connection, page_size) as backend:
        start = await backend.begin_scan(HUB)
        for cursors in (start.cursors, start.next_pass_cursors):
            pages = await read_pages([backend], start.changed_since, cursors)
            assert active_ids(pages) == ids
            assert all(len(page.instances) == page.scanned <= page_size for page in pages)


async def test_another_worker_carries_a_scan_on(engine: InMemoryScheduler) -> None:
    ids = {engine.start_and_wait(waiting, f"waiting-{number}") for number in range(9)}
    async with open_backend(engine.connection, 2) as one, open_backend(engine.connection, 2) as other:
        start = await one.begin_scan(HUB)
        pages = await read_pages([one, other], start.changed_since, start.cursors)
    assert len(pages) > 6
    assert active_ids(pages) == ids


async def test_instances_that_end_between_pages_hide_no_others(engine: InMemoryScheduler) -> None:
    """The engine's continuation token is a position, and what ends moves all others forward."""
    early = [engine.start_and_wait(waiting, f"early-{number}") for number in range(6)]
    late = {engine.start_and_wait(waiting, f"late-{number}") for number in range(6)}

    def end_one(_: int) -> None:
        if early:
            engine.end(early.pop(0))

    async with open_backend(engine.connection, 4) as backend:
        pages = await read_first_pass(backend, end_one)
    assert early == []
    assert late <= active_ids(pages)


async def test_instances_that_are_purged_between_pages_hide_no_others(engine: InMemoryScheduler) -> None:
    ended = [f"ended-{number}" for number in range(6)]
    kept = {f"kept-{number}" for number in range(6)}
    for one, other in zip(ended, sorted(kept), strict=True):
        engine.start_and_wait(completing, one)
        engine.start_and_wait(waiting, other)
        engine.wait_until(one, "COMPLETED")

    def purge_one(_: int) -> None:
        if ended:
            engine.client.purge_orchestration(ended.pop(0))

    async with open_backend(engine.connection, 3) as backend:
        start = await backend.begin_scan(HUB)
        pages = await read_pages([backend], start.changed_since, start.next_pass_cursors, purge_one)
    assert kept <= set(latest_by_id(pages))


async def test_a_hand_over_between_the_passes_is_seen(engine: InMemoryScheduler) -> None:
    engine.start_and_wait(link, "link-0", 0)
    async with open_backend(engine.connection) as backend:
        start = await backend.begin_scan(HUB)
        before = await backend.read_page(HUB, start.changed_since, start.cursors[0])
        engine.end("link-0")
        after = await read_pages([backend], start.changed_since, before.cursors)
        again = await read_pages([backend], start.changed_since, start.next_pass_cursors)
    assert [one.instance_id for one in before.instances] == ["link-0"]
    for pages in (after, again):
        assert active_ids(pages) == {"link-1"}
        assert latest_by_id(pages)["link-0"].stamp != before.instances[0].stamp


async def test_a_chain_of_hand_overs_does_not_run_away_from_the_first_pass(engine: InMemoryScheduler) -> None:
    for number in range(7):
        engine.start_and_wait(waiting, f"other-{number}")
    engine.start_and_wait(link, "link-0", 0)
    links = [f"link-{number}" for number in range(7)]

    def hand_over(pages: int) -> None:
        if pages < len(links):
            engine.end(links[pages - 1])

    async with open_backend(engine.connection, 2) as backend:
        pages = await read_first_pass(backend, hand_over)
    assert len(pages) > len(links)
    assert links[-1] in active_ids(pages)


async def test_ids_of_dots_are_found(engine: InMemoryScheduler) -> None:
    ids = [engine.start_and_wait(waiting, instance_id) for instance_id in (".", "..")]
    async with open_backend(engine.connection) as backend:
        found = await backend.find_instances(HUB, ids)
    assert [one.instance_id for one in found.values() if one is not None and one.active] == ids


async def test_many_instances_are_found_by_their_ids_at_once(engine: InMemoryScheduler) -> None:
    ids = [engine.start_and_wait(waiting, f"waiting-{number}") for number in range(40)]
    engine.end(ids[0])
    async with open_backend(engine.connection) as backend:
        found = await backend.find_instances(HUB, [*ids, "nobody"])
        assert await backend.find_instances(HUB, []) == {}
    assert list(found) == [*ids, "nobody"]
    assert found["nobody"] is None
    assert [one for one in ids if (it := found[one]) is not None and not it.active] == [ids[0]]


async def test_what_is_started_is_found_at_once(idle_scheduler: InMemoryScheduler) -> None:
    """Why nothing is ever in flight."""
    async with open_backend(idle_scheduler.connection) as backend:
        for number in range(20):
            one = idle_scheduler.start(waiting, f"waiting-{number}")
            found = (await backend.find_instances(HUB, [one]))[one]
            assert found is not None
            assert found.active


async def test_a_backend_opens_again_after_it_was_closed(engine: InMemoryScheduler) -> None:
    engine.start_and_wait(waiting, "running")
    async with open_backend(engine.connection) as backend:
        await backend.close()
        assert set(await scan(backend)) == {"running"}
        await backend.close()
        assert set(await scan(backend)) == {"running"}
