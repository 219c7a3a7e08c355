"""Task hubs of Durable Task Scheduler, against Microsoft's in-memory engine with real orchestrations."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from durabletask.entities import EntityInstanceId
from durabletask.worker import TaskHubGrpcWorker

from dev.local import until
from state_api.domain.instants import instant_from, seconds
from state_api.domain.lifecycle import RuntimeStatus
from state_api.domain.messages import QueueSnapshot
from tests.taskhubs.schedulers import (
    HUB,
    QUIET,
    Counter,
    Engine,
    active,
    completing,
    eternal,
    failing,
    first_pass,
    followed,
    idle_engine,
    link,
    opened,
    parent,
    scanned,
    seen,
    waiting,
)

__all__ = ["idle_engine"]  # a fixture

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def worked() -> Iterator[Engine]:
    """An engine with a worker. It takes a second to stop, so the tests share it."""
    engine = Engine()
    worker: Any = TaskHubGrpcWorker(host_address=engine.address, logger=QUIET)
    for orchestrator in (waiting, eternal, completing, failing, parent, link):
        worker.add_orchestrator(orchestrator)
    worker.add_entity(Counter)
    worker.start()
    yield engine
    worker.stop()
    engine.stop()


@pytest.fixture
def engine(worked: Engine) -> Engine:
    """That engine, empty."""
    worked.engine.reset()
    return worked


async def test_a_scan_finds_what_is_active_and_what_has_just_ended(engine: Engine) -> None:
    engine.begin(waiting, "running")
    engine.begin(waiting, "suspended")
    engine.client.suspend_orchestration("suspended")
    engine.until("suspended", "SUSPENDED")
    engine.begin(parent, "parent", "child")
    engine.until("child", "RUNNING")
    engine.begin(waiting, "terminated")
    engine.client.terminate_orchestration("terminated")
    engine.until("terminated", "TERMINATED")
    engine.begin(completing, "completed")
    engine.until("completed", "COMPLETED")
    engine.begin(failing, "failed")
    engine.until("failed", "FAILED")

    async with opened(engine.connection) as backend:
        found = await scanned(backend)

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


async def test_the_first_pass_holds_nothing_but_what_is_active(engine: Engine) -> None:
    engine.begin(waiting, "running")
    engine.begin(completing, "completed")
    engine.until("completed", "COMPLETED")
    async with opened(engine.connection) as backend:
        start = await backend.start(HUB)
        first = await backend.page(HUB, start.since, start.cursors[0])
        second = await backend.page(HUB, start.since, first.cursors[0])
    assert ([one.instance_id for one in first.sightings], first.scanned) == (["running"], 1)
    assert ({one.instance_id for one in second.sightings}, second.scanned) == ({"running", "completed"}, 2)
    assert second.cursors == ()


async def test_what_is_scheduled_is_active_before_anybody_works_on_it(idle_engine: Engine) -> None:
    idle_engine.start(waiting, "now")
    idle_engine.start(waiting, "later", start_at=datetime.now(UTC) + timedelta(hours=1))
    async with opened(idle_engine.connection) as backend:
        found = await scanned(backend)
        assert await backend.snapshot(HUB) == QueueSnapshot()
    assert {one.instance_id: one.runtime_status for one in found.values() if one.active} == {
        "now": RuntimeStatus.PENDING,
        "later": RuntimeStatus.PENDING,
    }


async def test_what_continues_as_new_stays_active_under_a_new_stamp(engine: Engine) -> None:
    engine.begin(eternal, "eternal", 1)
    async with opened(engine.connection) as backend:
        before = (await backend.find(HUB, ["eternal"]))["eternal"]
        for _ in range(3):
            engine.client.raise_orchestration_event("eternal", "go")
            found = await scanned(backend)
            assert found["eternal"].active
        engine.until("eternal", "RUNNING")
        after = (await scanned(backend))["eternal"]
    assert before is not None
    assert before.stamp != after.stamp
    assert before.created_at == after.created_at


async def test_a_stamp_changes_with_its_instance_and_only_then(engine: Engine) -> None:
    engine.begin(waiting, "changing")
    engine.begin(waiting, "resting")
    async with opened(engine.connection) as backend:
        stamps: list[str] = []
        rests: set[str] = set()

        async def look() -> None:
            found = await scanned(backend)
            stamps.append(found["changing"].stamp)
            rests.add(found["resting"].stamp)
            told = await backend.find(HUB, ["changing", "resting"])
            assert [one.stamp for one in told.values() if one is not None] == [stamps[-1], *rests]

        await look()
        await look()
        assert stamps[0] == stamps[1]
        engine.client.suspend_orchestration("changing")
        engine.until("changing", "SUSPENDED")
        await look()
        engine.client.resume_orchestration("changing")
        engine.until("changing", "RUNNING")
        await look()
        engine.end("changing")
        await look()
    assert len(set(stamps)) == 4
    assert len(rests) == 1


async def test_an_instance_started_anew_under_its_id_has_a_new_stamp(engine: Engine) -> None:
    engine.begin(waiting, "again")
    engine.end("again")
    async with opened(engine.connection) as backend:
        before = (await scanned(backend))["again"]
        engine.client.restart_orchestration("again")
        engine.until("again", "RUNNING")
        after = (await scanned(backend))["again"]
    assert (before.active, after.active) == (False, True)
    assert before.stamp != after.stamp


async def test_entities_are_never_seen(engine: Engine) -> None:
    counter = EntityInstanceId("Counter", "one")
    engine.client.signal_entity(counter, "add", input=1)
    until(lambda: engine.client.get_entity(counter) is not None, "the entity is there", 20)
    async with opened(engine.connection) as backend:
        assert await scanned(backend) == {}
        assert await backend.find(HUB, [str(counter)]) == {str(counter): None}


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 20, 21, 500])
async def test_pages_of_any_size_lead_through_the_whole_hub(engine: Engine, page_size: int) -> None:
    ids = {engine.begin(waiting, f"waiting-{number}") for number in range(20)}
    async with opened(engine.connection, page_size) as backend:
        start = await backend.start(HUB)
        for cursors in (start.cursors, start.again):
            pages = await followed([backend], start.since, cursors)
            assert active(pages) == ids
            assert all(len(page.sightings) == page.scanned <= page_size for page in pages)


async def test_another_worker_carries_a_scan_on(engine: Engine) -> None:
    ids = {engine.begin(waiting, f"waiting-{number}") for number in range(9)}
    async with opened(engine.connection, 2) as one, opened(engine.connection, 2) as other:
        start = await one.start(HUB)
        pages = await followed([one, other], start.since, start.cursors)
    assert len(pages) > 6
    assert active(pages) == ids


async def test_instances_that_end_between_pages_hide_no_others(engine: Engine) -> None:
    """The engine's continuation token is a position, and what ends moves all others forward."""
    early = [engine.begin(waiting, f"early-{number}") for number in range(6)]
    late = {engine.begin(waiting, f"late-{number}") for number in range(6)}

    def end_one(_: int) -> None:
        if early:
            engine.end(early.pop(0))

    async with opened(engine.connection, 4) as backend:
        pages = await first_pass(backend, end_one)
    assert early == []
    assert late <= active(pages)


async def test_instances_that_are_purged_between_pages_hide_no_others(engine: Engine) -> None:
    ended = [f"ended-{number}" for number in range(6)]
    kept = {f"kept-{number}" for number in range(6)}
    for one, other in zip(ended, sorted(kept), strict=True):
        engine.begin(completing, one)
        engine.begin(waiting, other)
        engine.until(one, "COMPLETED")

    def purge_one(_: int) -> None:
        if ended:
            engine.client.purge_orchestration(ended.pop(0))

    async with opened(engine.connection, 3) as backend:
        start = await backend.start(HUB)
        pages = await followed([backend], start.since, start.again, purge_one)
    assert kept <= set(seen(pages))


async def test_a_hand_over_between_the_passes_is_seen(engine: Engine) -> None:
    engine.begin(link, "link-0", 0)
    async with opened(engine.connection) as backend:
        start = await backend.start(HUB)
        before = await backend.page(HUB, start.since, start.cursors[0])
        engine.end("link-0")
        after = await followed([backend], start.since, before.cursors)
        again = await followed([backend], start.since, start.again)
    assert [one.instance_id for one in before.sightings] == ["link-0"]
    for pages in (after, again):
        assert active(pages) == {"link-1"}
        assert seen(pages)["link-0"].stamp != before.sightings[0].stamp


async def test_a_chain_of_hand_overs_does_not_run_away_from_the_first_pass(engine: Engine) -> None:
    for number in range(7):
        engine.begin(waiting, f"other-{number}")
    engine.begin(link, "link-0", 0)
    links = [f"link-{number}" for number in range(7)]

    def hand_over(pages: int) -> None:
        if pages < len(links):
            engine.end(links[pages - 1])

    async with opened(engine.connection, 2) as backend:
        pages = await first_pass(backend, hand_over)
    assert len(pages) > len(links)
    assert links[-1] in active(pages)


async def test_ids_of_dots_are_found(engine: Engine) -> None:
    ids = [engine.begin(waiting, instance_id) for instance_id in (".", "..")]
    async with opened(engine.connection) as backend:
        found = await backend.find(HUB, ids)
    assert [one.instance_id for one in found.values() if one is not None and one.active] == ids


async def test_many_instances_are_found_by_their_ids_at_once(engine: Engine) -> None:
    ids = [engine.begin(waiting, f"waiting-{number}") for number in range(40)]
    engine.end(ids[0])
    async with opened(engine.connection) as backend:
        found = await backend.find(HUB, [*ids, "nobody"])
        assert await backend.find(HUB, []) == {}
    assert list(found) == [*ids, "nobody"]
    assert found["nobody"] is None
    assert [one for one in ids if (it := found[one]) is not None and not it.active] == [ids[0]]


async def test_what_is_started_is_found_at_once(idle_engine: Engine) -> None:
    """Why nothing is ever in flight."""
    async with opened(idle_engine.connection) as backend:
        for number in range(20):
            one = idle_engine.start(waiting, f"waiting-{number}")
            found = (await backend.find(HUB, [one]))[one]
            assert found is not None
            assert found.active


async def test_a_backend_opens_again_after_it_was_closed(engine: Engine) -> None:
    engine.begin(waiting, "running")
    async with opened(engine.connection) as backend:
        await backend.close()
        assert set(await scanned(backend)) == {"running"}
        await backend.close()
        assert set(await scanned(backend)) == {"running"}
