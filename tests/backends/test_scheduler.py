"""The backend `scheduler` on Microsoft's in-memory engine with real orchestrations."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
from durabletask.entities import EntityInstanceId
from durabletask.worker import TaskHubGrpcWorker

from harness.processes import wait_until
from state_api.domain.instants import Instant, instant_from, seconds
from state_api.domain.readiness.messages import QueueSnapshot
from state_api.domain.task_hubs.lifecycle import RuntimeStatus
from tests.backends.fake_schedulers import (
    HUB,
    QUIET_LOGGER,
    Counter,
    InMemoryScheduler,
    completing,
    eternal,
    failing,
    idle_scheduler,
    index_latest_by_id,
    link,
    list_active_ids,
    machine_time,
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
    """An engine with a worker. The tests share it, because it takes a second to stop."""
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
def empty_scheduler(scheduler_with_worker: InMemoryScheduler) -> InMemoryScheduler:
    """The engine with a worker, without instances."""
    scheduler_with_worker.engine.reset()
    return scheduler_with_worker


async def test_a_scan_returns_active_instances_and_those_that_have_just_ended(
    empty_scheduler: InMemoryScheduler,
) -> None:
    empty_scheduler.start_and_wait(waiting, "running")
    empty_scheduler.start_and_wait(waiting, "suspended")
    empty_scheduler.client.suspend_orchestration("suspended")
    empty_scheduler.wait_until("suspended", "SUSPENDED")
    empty_scheduler.start_and_wait(parent, "parent", "child")
    empty_scheduler.wait_until("child", "RUNNING")
    empty_scheduler.start_and_wait(waiting, "terminated")
    empty_scheduler.client.terminate_orchestration("terminated")
    empty_scheduler.wait_until("terminated", "TERMINATED")
    empty_scheduler.start_and_wait(completing, "completed")
    empty_scheduler.wait_until("completed", "COMPLETED")
    empty_scheduler.start_and_wait(failing, "failed")
    empty_scheduler.wait_until("failed", "FAILED")

    async with open_backend(empty_scheduler.connection) as backend:
        observed_by_id = await scan(backend)

    assert {instance_id: observed.runtime_status.value for instance_id, observed in observed_by_id.items()} == {
        "running": "Running",
        "suspended": "Suspended",
        "parent": "Running",
        "child": "Running",
        "terminated": "Terminated",
        "completed": "Completed",
        "failed": "Failed",
    }
    assert observed_by_id["child"].function_name == "waiting"
    now = instant_from(datetime.now(UTC))
    for observed in observed_by_id.values():
        assert now - seconds(20) < observed.created_at <= observed.updated_at <= now


async def test_the_first_pass_returns_only_active_instances(empty_scheduler: InMemoryScheduler) -> None:
    empty_scheduler.start_and_wait(waiting, "running")
    empty_scheduler.start_and_wait(completing, "completed")
    empty_scheduler.wait_until("completed", "COMPLETED")
    async with open_backend(empty_scheduler.connection) as backend:
        start = await backend.begin_scan(HUB)
        first = await backend.read_page(HUB, start.changed_since, start.cursors[0])
        second = await backend.read_page(HUB, start.changed_since, first.cursors[0])
    assert ([observed.instance_id for observed in first.instances], first.scanned) == (["running"], 1)
    assert ({observed.instance_id for observed in second.instances}, second.scanned) == ({"running", "completed"}, 2)
    assert second.cursors == ()


async def test_a_scheduled_instance_is_active_before_a_worker_begins_it(idle_scheduler: InMemoryScheduler) -> None:
    idle_scheduler.start(waiting, "now")
    idle_scheduler.start(waiting, "later", start_at=datetime.now(UTC) + timedelta(hours=1))
    async with open_backend(idle_scheduler.connection) as backend:
        observed_by_id = await scan(backend)
        assert await backend.read_queue_snapshot(HUB) == QueueSnapshot()
    assert {
        instance_id: observed.runtime_status for instance_id, observed in observed_by_id.items() if observed.active
    } == {
        "now": RuntimeStatus.PENDING,
        "later": RuntimeStatus.PENDING,
    }


async def test_an_instance_that_continues_as_new_stays_active_and_changes_its_stamp(
    empty_scheduler: InMemoryScheduler,
) -> None:
    empty_scheduler.start_and_wait(eternal, "eternal", 1)
    async with open_backend(empty_scheduler.connection) as backend:
        before = (await backend.find_instances(HUB, ["eternal"]))["eternal"]
        for _ in range(3):
            empty_scheduler.client.raise_orchestration_event("eternal", "go")
            observed_by_id = await scan(backend)
            assert observed_by_id["eternal"].active
        empty_scheduler.wait_until("eternal", "RUNNING")
        after = (await scan(backend))["eternal"]
    assert before is not None
    assert before.stamp != after.stamp
    assert before.created_at == after.created_at


async def test_a_stamp_changes_with_its_instance_and_only_then(empty_scheduler: InMemoryScheduler) -> None:
    empty_scheduler.start_and_wait(waiting, "changing")
    empty_scheduler.start_and_wait(waiting, "unchanged")
    async with open_backend(empty_scheduler.connection) as backend:
        stamps: list[str] = []
        unchanged_stamps: set[str] = set()

        async def record_stamps() -> None:
            """Keep the stamps that a scan shows now, and check that look-ups show the same."""
            observed_by_id = await scan(backend)
            stamps.append(observed_by_id["changing"].stamp)
            unchanged_stamps.add(observed_by_id["unchanged"].stamp)
            looked_up = await backend.find_instances(HUB, ["changing", "unchanged"])
            looked_up_stamps = [observed.stamp for observed in looked_up.values() if observed is not None]
            assert looked_up_stamps == [stamps[-1], *unchanged_stamps]

        await record_stamps()
        await record_stamps()
        assert stamps[0] == stamps[1]
        empty_scheduler.client.suspend_orchestration("changing")
        empty_scheduler.wait_until("changing", "SUSPENDED")
        await record_stamps()
        empty_scheduler.client.resume_orchestration("changing")
        empty_scheduler.wait_until("changing", "RUNNING")
        await record_stamps()
        empty_scheduler.end("changing")
        await record_stamps()
    assert len(set(stamps)) == 4
    assert len(unchanged_stamps) == 1


async def test_an_instance_that_is_restarted_with_its_id_has_a_new_stamp(empty_scheduler: InMemoryScheduler) -> None:
    empty_scheduler.start_and_wait(waiting, "again")
    empty_scheduler.end("again")
    async with open_backend(empty_scheduler.connection) as backend:
        before = (await scan(backend))["again"]
        empty_scheduler.client.restart_orchestration("again")
        empty_scheduler.wait_until("again", "RUNNING")
        after = (await scan(backend))["again"]
    assert (before.active, after.active) == (False, True)
    assert before.stamp != after.stamp


async def test_entities_are_never_returned(empty_scheduler: InMemoryScheduler) -> None:
    counter = EntityInstanceId("Counter", "one")
    empty_scheduler.client.signal_entity(counter, "add", input=1)
    wait_until(lambda: empty_scheduler.client.get_entity(counter) is not None, "the entity exists", 20)
    async with open_backend(empty_scheduler.connection) as backend:
        assert await scan(backend) == {}
        assert await backend.find_instances(HUB, [str(counter)]) == {str(counter): None}


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 20, 21, 500])
async def test_pages_of_any_size_show_every_active_instance(empty_scheduler: InMemoryScheduler, page_size: int) -> None:
    ids = {empty_scheduler.start_and_wait(waiting, f"waiting-{number}") for number in range(20)}
    async with open_backend(empty_scheduler.connection, page_size) as backend:
        start = await backend.begin_scan(HUB)
        for cursors in (start.cursors, start.next_pass_cursors):
            pages = await read_pages([backend], start.changed_since, cursors)
            assert list_active_ids(pages) == ids
            assert all(len(page.instances) == page.scanned <= page_size for page in pages)


async def test_another_worker_continues_a_scan(empty_scheduler: InMemoryScheduler) -> None:
    ids = {empty_scheduler.start_and_wait(waiting, f"waiting-{number}") for number in range(9)}
    async with (
        open_backend(empty_scheduler.connection, 2) as first,
        open_backend(empty_scheduler.connection, 2) as second,
    ):
        start = await first.begin_scan(HUB)
        pages = await read_pages([first, second], start.changed_since, start.cursors)
    assert len(pages) > 6
    assert list_active_ids(pages) == ids


async def test_instances_that_end_between_pages_hide_no_others(empty_scheduler: InMemoryScheduler) -> None:
    """The engine's continuation token is a position in the list of matches, and an end moves all others forward."""
    early = [empty_scheduler.start_and_wait(waiting, f"early-{number}") for number in range(6)]
    late = {empty_scheduler.start_and_wait(waiting, f"late-{number}") for number in range(6)}

    def end_one(_: int) -> None:
        """End one more instance after each page that the scan reads."""
        if early:
            empty_scheduler.end(early.pop(0))

    async with open_backend(empty_scheduler.connection, 4) as backend:
        pages = await read_first_pass(backend, end_one)
    assert early == []
    assert late <= list_active_ids(pages)


async def test_instances_that_are_purged_between_pages_hide_no_others(empty_scheduler: InMemoryScheduler) -> None:
    ended = [f"ended-{number}" for number in range(6)]
    kept = {f"kept-{number}" for number in range(6)}
    for ended_id, kept_id in zip(ended, sorted(kept), strict=True):
        empty_scheduler.start_and_wait(completing, ended_id)
        empty_scheduler.start_and_wait(waiting, kept_id)
        empty_scheduler.wait_until(ended_id, "COMPLETED")

    def purge_one(_: int) -> None:
        """Purge one more ended instance after each page that the scan reads."""
        if ended:
            empty_scheduler.client.purge_orchestration(ended.pop(0))

    async with open_backend(empty_scheduler.connection, 3) as backend:
        start = await backend.begin_scan(HUB)
        pages = await read_pages([backend], start.changed_since, start.next_pass_cursors, purge_one)
    assert kept <= set(index_latest_by_id(pages))


async def test_an_instance_that_another_starts_between_the_passes_is_seen(empty_scheduler: InMemoryScheduler) -> None:
    empty_scheduler.start_and_wait(link, "link-0", 0)
    async with open_backend(empty_scheduler.connection) as backend:
        start = await backend.begin_scan(HUB)
        before = await backend.read_page(HUB, start.changed_since, start.cursors[0])
        empty_scheduler.end("link-0")
        after = await read_pages([backend], start.changed_since, before.cursors)
        next_pass = await read_pages([backend], start.changed_since, start.next_pass_cursors)
    assert [observed.instance_id for observed in before.instances] == ["link-0"]
    for pages in (after, next_pass):
        assert list_active_ids(pages) == {"link-1"}
        assert index_latest_by_id(pages)["link-0"].stamp != before.instances[0].stamp


@pytest.mark.parametrize("seconds_ahead", [(600, 0), (0, 600)], ids=["of the machine", "of the state storage"])
async def test_a_clock_that_is_ahead_hides_no_instance_that_another_starts_between_the_passes(
    empty_scheduler: InMemoryScheduler, monkeypatch: pytest.MonkeyPatch, seconds_ahead: tuple[int, int]
) -> None:
    machine_ahead, storage_ahead = seconds_ahead

    class MachineClock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "MachineClock":
            return super().now(tz) + timedelta(seconds=machine_ahead)

    monkeypatch.setattr("state_api.backends.scheduler.datetime", MachineClock)
    empty_scheduler.start_and_wait(link, "link-0", 0)
    async with open_backend(
        empty_scheduler.connection, storage_time=lambda: Instant(machine_time() + seconds(storage_ahead))
    ) as backend:
        start = await backend.begin_scan(HUB)
        before = await backend.read_page(HUB, start.changed_since, start.cursors[0])
        empty_scheduler.end("link-0")
        after = await read_pages([backend], start.changed_since, before.cursors)
    assert list_active_ids(after) == {"link-1"}


async def test_the_first_pass_catches_up_with_a_chain_of_instances(empty_scheduler: InMemoryScheduler) -> None:
    for number in range(7):
        empty_scheduler.start_and_wait(waiting, f"other-{number}")
    empty_scheduler.start_and_wait(link, "link-0", 0)
    links = [f"link-{number}" for number in range(7)]

    def end_next_link(page_count: int) -> None:
        """After each page, end the instance that has started the next one."""
        if page_count < len(links):
            empty_scheduler.end(links[page_count - 1])

    async with open_backend(empty_scheduler.connection, 2) as backend:
        pages = await read_first_pass(backend, end_next_link)
    assert len(pages) > len(links)
    assert links[-1] in list_active_ids(pages)


async def test_ids_of_dots_are_found(empty_scheduler: InMemoryScheduler) -> None:
    ids = [empty_scheduler.start_and_wait(waiting, instance_id) for instance_id in (".", "..")]
    async with open_backend(empty_scheduler.connection) as backend:
        observed_by_id = await backend.find_instances(HUB, ids)
    active = [observed.instance_id for observed in observed_by_id.values() if observed is not None and observed.active]
    assert active == ids


async def test_many_instances_are_looked_up_at_once(empty_scheduler: InMemoryScheduler) -> None:
    ids = [empty_scheduler.start_and_wait(waiting, f"waiting-{number}") for number in range(40)]
    empty_scheduler.end(ids[0])
    async with open_backend(empty_scheduler.connection) as backend:
        observed_by_id = await backend.find_instances(HUB, [*ids, "unknown"])
        assert await backend.find_instances(HUB, []) == {}
    assert list(observed_by_id) == [*ids, "unknown"]
    assert observed_by_id["unknown"] is None
    ended = [name for name, observed in observed_by_id.items() if observed is not None and not observed.active]
    assert ended == [ids[0]]


async def test_an_instance_is_found_as_soon_as_it_is_started(idle_scheduler: InMemoryScheduler) -> None:
    """So a start on a scheduler is never only a message."""
    async with open_backend(idle_scheduler.connection) as backend:
        for number in range(20):
            instance_id = idle_scheduler.start(waiting, f"waiting-{number}")
            observed = (await backend.find_instances(HUB, [instance_id]))[instance_id]
            assert observed is not None
            assert observed.active


async def test_a_closed_backend_opens_another_connection(empty_scheduler: InMemoryScheduler) -> None:
    empty_scheduler.start_and_wait(waiting, "running")
    async with open_backend(empty_scheduler.connection) as backend:
        await backend.close()
        assert set(await scan(backend)) == {"running"}
        await backend.close()
        assert set(await scan(backend)) == {"running"}
