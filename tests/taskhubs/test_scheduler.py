"""Task hubs of Durable Task Scheduler, against Microsoft's in-memory engine with real orchestrations, and against a
scheduler of the tests' own where the engine cannot be brought to answer as it should here."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # it has no types
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from durabletask import task
from durabletask.client import TaskHubGrpcClient
from durabletask.entities import DurableEntity, EntityInstanceId
from durabletask.internal import orchestrator_service_pb2 as protocol
from durabletask.testing import create_test_backend
from durabletask.worker import TaskHubGrpcWorker

from dev.local import free_port, until
from state_api.domain.instants import Instant, instant_from, seconds
from state_api.domain.lifecycle import RuntimeStatus
from state_api.domain.sightings import Sighting
from state_api.settings import SettingsError
from state_api.taskhubs import scheduler
from state_api.taskhubs.backend import Backend, SourceError, SourcePage, Trouble
from state_api.taskhubs.scheduler import SchedulerBackend

pytestmark = pytest.mark.anyio

SETTING = "SHOP_SCHEDULER"
HUB = "shop"
QUIET = logging.getLogger("scheduler-tests")


def waiting(context: task.OrchestrationContext, _: Any) -> Any:
    """Runs until it is told to go."""
    return (yield context.wait_for_external_event("go"))


def eternal(context: task.OrchestrationContext, turn: int) -> Any:
    """Runs anew each time that it is told to go."""
    yield context.wait_for_external_event("go")
    context.continue_as_new(turn + 1)


def completing(_: task.OrchestrationContext, given: Any) -> Any:
    return given


def failing(_: task.OrchestrationContext, __: Any) -> Any:
    raise ValueError("as it should")


def parent(context: task.OrchestrationContext, child: str) -> Any:
    return (yield context.call_sub_orchestrator(waiting, instance_id=child))


def link(context: task.OrchestrationContext, number: int) -> Any:
    """Waits, then starts the next link and ends in the same turn."""
    yield context.wait_for_external_event("go")
    context.call_sub_orchestrator(link, input=number + 1, instance_id=f"link-{number + 1}")


class Counter(DurableEntity):
    def add(self, amount: int) -> None:
        self.set_state(self.get_state(int, 0) + amount)


class Engine:
    """An in-memory engine and a client of it."""

    def __init__(self) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.connection = f"Endpoint=http://{self.address};Authentication=None"
        self.engine: Any = create_test_backend(port)  # its methods have no types
        self.client = TaskHubGrpcClient(host_address=self.address, logger=QUIET)

    def start(self, orchestrator: Callable[..., Any], instance_id: str, given: Any = None, **more: Any) -> str:
        return self.client.schedule_new_orchestration(orchestrator, instance_id=instance_id, input=given, **more)

    def begin(self, orchestrator: Callable[..., Any], instance_id: str, given: Any = None) -> str:
        """Start an instance, and wait until its worker has had it."""
        self.start(orchestrator, instance_id, given)
        self.client.wait_for_orchestration_start(instance_id, timeout=20)
        return instance_id

    def until(self, instance_id: str, status: str) -> None:
        def shows() -> bool:
            state = self.client.get_orchestration_state(instance_id)
            return state is not None and state.runtime_status.name == status

        until(shows, f"{instance_id} is {status}", 20)

    def end(self, instance_id: str) -> None:
        self.client.raise_orchestration_event(instance_id, "go")
        self.until(instance_id, "COMPLETED")

    def stop(self) -> None:
        self.client.close()
        self.engine.stop()


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


@pytest.fixture
def idle_engine() -> Iterator[Engine]:
    """An engine that nobody works for."""
    engine = Engine()
    yield engine
    engine.stop()


@asynccontextmanager
async def opened(connection: str, page_size: int = scheduler.PAGE_SIZE) -> AsyncIterator[SchedulerBackend]:
    backend = SchedulerBackend(connection, SETTING, page_size)
    try:
        yield backend
    finally:
        await backend.close()


async def followed(
    backends: Sequence[Backend],
    since: Instant,
    cursors: Sequence[str],
    between: Callable[[int], None] = lambda _: None,
    until_at: Sequence[str] = (),
) -> list[SourcePage]:
    """All pages from these cursors on, read by these backends in turn. `between` is called after each page with their
    number; `until_at` are cursors that are not followed."""
    pages: list[SourcePage] = []
    left = list(cursors)
    while left:
        assert len(pages) < 500, "the scan has no end"
        page = await backends[len(pages) % len(backends)].page(HUB, since, left.pop(0))
        pages.append(page)
        left.extend(cursor for cursor in page.cursors if cursor not in until_at)
        between(len(pages))
    return pages


async def first_pass(backend: Backend, between: Callable[[int], None] = lambda _: None) -> list[SourcePage]:
    start = await backend.start(HUB)
    return await followed([backend], start.since, start.cursors, between, start.again)


async def scanned(backend: Backend) -> dict[str, Sighting]:
    start = await backend.start(HUB)
    return seen(await followed([backend], start.since, start.cursors))


def seen(pages: Sequence[SourcePage]) -> dict[str, Sighting]:
    """The last that was seen of each instance."""
    return {one.instance_id: one for page in pages for one in page.sightings}


def active(pages: Sequence[SourcePage]) -> set[str]:
    return {one.instance_id for page in pages for one in page.sightings if one.active}


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
        assert (await backend.in_flight(HUB)) is False
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


# From here on, a scheduler of the tests' own.


class Scheduler:
    """Lists these instances as schedulers may: in some order, no more at once than a limit, with a continuation token
    that is a position in what matches."""

    def __init__(self, states: Sequence[protocol.OrchestrationState] = ()) -> None:
        self.states = list(states)
        self.order: Callable[[protocol.OrchestrationState], Any] = created
        self.limit = 1_000_000
        self.always_more = False
        self.bounds = ">=<"
        self.asked: list[protocol.InstanceQuery] = []
        self.metadata: list[dict[str, str]] = []
        self.connection = ""

    def query(self, request: protocol.QueryInstancesRequest, context: Any) -> protocol.QueryInstancesResponse:
        query = request.query
        self.asked.append(query)
        self.metadata.append(dict(context.invocation_metadata()))
        matching = sorted(filter(lambda state: self._matches(query, state), self.states), key=self.order)
        begin = int(query.continuationToken.value or 0)
        end = begin + min(query.maxInstanceCount, self.limit)
        more = end < len(matching) or (self.always_more and begin < len(matching))
        token = {"value": str(end)} if more else None
        return protocol.QueryInstancesResponse(orchestrationState=matching[begin:end], continuationToken=token)

    def get(self, request: protocol.GetInstanceRequest, _: Any) -> protocol.GetInstanceResponse:
        state = next((state for state in self.states if state.instanceId == request.instanceId), None)
        return protocol.GetInstanceResponse(exists=state is not None, orchestrationState=state)

    def _matches(self, query: protocol.InstanceQuery, state: protocol.OrchestrationState) -> bool:
        at, lower, upper = created(state), nanoseconds(query.createdTimeFrom), nanoseconds(query.createdTimeTo)
        after = at > lower or (at == lower and self.bounds.startswith(">="))
        before = not upper or at < upper or (at == upper and self.bounds.endswith("<="))
        active_or_any = not query.runtimeStatus or state.orchestrationStatus in query.runtimeStatus
        return active_or_any and ((after and before) or self.bounds == "none")


def nanoseconds(timestamp: Any) -> int:
    return int(timestamp.seconds * 1_000_000_000 + timestamp.nanos)


def created(state: protocol.OrchestrationState) -> int:
    return nanoseconds(state.createdTimestamp)


def state_of(
    instance_id: str,
    at: int = 1_700_000_000_000_000_000,
    status: int = protocol.ORCHESTRATION_STATUS_RUNNING,
    **more: Any,
) -> protocol.OrchestrationState:
    """An instance that was created at so many nanoseconds, and has not changed since."""
    moment = {"seconds": at // 1_000_000_000, "nanos": at % 1_000_000_000}
    fields = {"name": "work", "createdTimestamp": moment, "lastUpdatedTimestamp": moment, **more}
    return protocol.OrchestrationState(instanceId=instance_id, orchestrationStatus=status, **fields)  # type: ignore[arg-type]  # numbers come over the wire


@contextmanager
def serving(own: Any, credentials: Any = None) -> Iterator[str]:
    """A gRPC server with the methods `query` and `get` of `own`; gives its port."""
    methods = {"QueryInstances": own.query, "GetInstance": own.get}
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            method,
            getattr(protocol, f"{name}Request").FromString,
            getattr(protocol, f"{name}Response").SerializeToString,
        )
        for name, method in methods.items()
    }
    # It has threads of its own: what an asyncio server leaves behind in a loop that has ended upsets the next one.
    server = grpc.server(ThreadPoolExecutor(20))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("TaskHubSidecarService", handlers),))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield str(port)
    finally:
        server.stop(None).wait()


@asynccontextmanager
async def reading(own: Any, page_size: int = scheduler.PAGE_SIZE) -> AsyncIterator[SchedulerBackend]:
    with serving(own) as port:
        async with opened(connection_to(port), page_size) as backend:
            yield backend


def connection_to(port: str) -> str:
    return f"Endpoint=http://127.0.0.1:{port};Authentication=None;SharedKey=do-not-tell"


def spread(apart: int) -> list[protocol.OrchestrationState]:
    """A hundred instances, two at a time, so many nanoseconds apart; their ids are in another order."""
    return [
        state_of(f"one-{number * 37 % 100:02d}", 1_700_000_000_000_000_000 + number // 2 * apart)
        for number in range(100)
    ]


SECOND = 1_000_000_000
SPREAD = spread(SECOND)
ORDERS: dict[str, Callable[[protocol.OrchestrationState], Any]] = {
    "oldest first": created,
    "newest first": lambda state: -created(state),
    "by id": lambda state: state.instanceId,
    "by end of id": lambda state: state.instanceId[::-1],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("always_more", [False, True])
@pytest.mark.parametrize("bounds", [">=<", "><", ">=<=", "none"])
@pytest.mark.parametrize("apart", [SECOND, 100])
async def test_the_ways_of_a_scheduler_do_not_matter(order: str, always_more: bool, bounds: str, apart: int) -> None:
    """Neither its order, nor what it takes the ends of a span to be, nor a token where there is no more."""
    own = Scheduler(spread(apart))
    own.order, own.always_more, own.bounds = ORDERS[order], always_more, bounds
    async with reading(own, 8) as backend:
        pages = await first_pass(backend)
    assert active(pages) == {state.instanceId for state in own.states}


async def test_cursors_stay_short_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest first, each page cuts off no more than itself; the bounds that are dropped are found again."""
    monkeypatch.setattr(scheduler, "_BOUNDS", 2)
    own = Scheduler(SPREAD)
    own.order = ORDERS["newest first"]
    async with reading(own, 8) as backend:
        pages = await first_pass(backend)
    assert active(pages) == {state.instanceId for state in SPREAD}
    assert max(len(cursor) for page in pages for cursor in page.cursors) < 90


@pytest.mark.parametrize("order", ORDERS)
async def test_continuation_tokens_are_followed_through_what_was_created_at_once(order: str) -> None:
    at_once = [state_of(f"one-at-once-{number}", created(SPREAD[50])) for number in range(20)]
    own = Scheduler([*SPREAD, *at_once])
    own.order = ORDERS[order]
    async with reading(own, 6) as backend:
        pages = await first_pass(backend)
    assert active(pages) == {state.instanceId for state in own.states}


async def test_a_limit_of_the_scheduler_is_cut_through_like_a_full_page() -> None:
    own = Scheduler([state_of(f"one-{number}", number * SECOND) for number in range(450)])
    own.limit = 100
    async with reading(own) as backend:
        pages = await first_pass(backend)
    assert len(active(pages)) == 450
    assert not any(query.HasField("continuationToken") for query in own.asked)


async def test_short_pages_are_followed_by_their_tokens() -> None:
    own = Scheduler(SPREAD)
    own.limit = 3
    async with reading(own, 8) as backend:
        pages = await first_pass(backend)
    assert active(pages) == {state.instanceId for state in SPREAD}


class Scripted:
    """Gives these answers in turn."""

    def __init__(self, *answers: protocol.QueryInstancesResponse) -> None:
        self.answers = list(answers)

    def query(self, _: Any, __: Any) -> protocol.QueryInstancesResponse:
        return self.answers.pop(0)

    get = query


def answer(token: str, *states: protocol.OrchestrationState) -> protocol.QueryInstancesResponse:
    return protocol.QueryInstancesResponse(orchestrationState=states, continuationToken={"value": token})


async def test_empty_pages_are_not_the_end_and_the_token_0_is() -> None:
    own = Scripted(answer("a"), answer("b"), answer("0", state_of("hidden")), answer(""))
    async with reading(own) as backend:
        assert set(await scanned(backend)) == {"hidden"}
    assert own.answers == []


async def test_a_listing_without_an_end_is_an_error() -> None:
    own = Scripted(answer("a"), answer("a"))
    async with reading(own) as backend:
        with pytest.raises(SourceError, match=f"{SETTING} gives the same page of task hub {HUB} again") as caught:
            await scanned(backend)
    assert caught.value.trouble is Trouble.FAILED


async def test_the_version_of_an_orchestration_comes_along() -> None:
    own = Scheduler([state_of("versioned", version={"value": "2.1"}), state_of("plain")])
    async with reading(own) as backend:
        for found in (await scanned(backend), await backend.find(HUB, ["versioned", "plain"])):
            assert [one and one.version for one in (found["versioned"], found["plain"])] == ["2.1", None]


async def test_every_status_of_the_protocol_is_known_and_others_count_as_active() -> None:
    names = dict(protocol.OrchestrationStatus.items())
    own = Scheduler([state_of(name, status=number) for name, number in names.items()])
    own.states.append(state_of("new", status=99))
    async with reading(own) as backend:
        start = await backend.start(HUB)
        found = seen(await followed([backend], Instant(0), start.again))
        in_first_pass = active(await first_pass(backend))
    told = {name: one.runtime_status.name for name, one in found.items()}
    assert told == {name: name.removeprefix("ORCHESTRATION_STATUS_") for name in names} | {"new": "RUNNING"}
    assert {name for name in in_first_pass if name != "new"} == {
        name for name, one in found.items() if one.active and name != "new"
    }


async def test_entities_in_the_listing_are_left_out() -> None:
    own = Scheduler([state_of("@counter@one"), state_of("order")])
    async with reading(own) as backend:
        pages = await first_pass(backend)
        assert await backend.find(HUB, ["@counter@one"]) == {"@counter@one": None}
    assert active(pages) == {"order"}
    assert pages[0].scanned == 1


async def test_times_keep_their_ticks() -> None:
    own = Scheduler([state_of("one", 1_700_000_000_123_456_789)])
    async with reading(own) as backend:
        found = (await scanned(backend))["one"]
        own.states = [state_of("one", 1_700_000_000_123_456_790)]
        later = (await scanned(backend))["one"]
    assert found.created_at == found.updated_at == 17_000_000_001_234_567
    assert found.stamp != later.stamp


async def test_each_call_says_which_task_hub_it_means() -> None:
    own = Scheduler()
    async with reading(own) as backend:
        for hub in (HUB, "other"):
            start = await backend.start(hub)
            await backend.page(hub, start.since, start.cursors[0])
    assert [metadata["taskhub"] for metadata in own.metadata] == [HUB, "other"]
    assert all("authorization" not in metadata for metadata in own.metadata)


async def test_since_is_a_minute_before_now() -> None:
    """Created times are of the scheduler's clock, which this server cannot see."""
    own = Scheduler()
    async with reading(own) as backend:
        start = await backend.start(HUB)
        await followed([backend], start.since, start.cursors)
    ago = instant_from(datetime.now(UTC)) - start.since
    assert seconds(60) <= ago < seconds(70)
    assert [nanoseconds(query.createdTimeFrom) for query in own.asked] == [0, start.since * 100]
    assert sorted(own.asked[0].runtimeStatus) == [0, 2, 6, 7]
    assert list(own.asked[1].runtimeStatus) == []
    assert {query.maxInstanceCount for query in own.asked} == {500}
    assert not any(query.fetchInputsAndOutputs for query in own.asked)


async def test_a_page_may_be_larger_than_grpc_lets_in_by_default() -> None:
    own = Scheduler([state_of(f"one-{number}", customStatus={"value": "x" * 16_000}) for number in range(500)])
    async with reading(own) as backend:
        assert len(await scanned(backend)) == 500


class Refusing:
    """Answers every call with an error."""

    def __init__(self, code: Any, *metadata: tuple[str, str]) -> None:
        self.code = code
        self.metadata = metadata

    def query(self, _: Any, context: Any) -> None:
        context.set_trailing_metadata(self.metadata)
        context.abort(self.code, "SharedKey=do-not-tell")

    get = query


@pytest.mark.parametrize(
    ("code", "trouble", "words"),
    [
        ("NOT_FOUND", Trouble.MISSING, f"has no task hub {HUB}"),
        ("PERMISSION_DENIED", Trouble.DENIED, f"role Durable Task Data Reader on task hub {HUB}"),
        ("UNAUTHENTICATED", Trouble.DENIED, "role Durable Task Data Reader"),
        ("RESOURCE_EXHAUSTED", Trouble.THROTTLED, "asks to wait"),
        ("UNAVAILABLE", Trouble.FAILED, "cannot be reached"),
        ("DEADLINE_EXCEEDED", Trouble.FAILED, "has not answered within 20 s"),
        ("UNIMPLEMENTED", Trouble.FAILED, "something else answers"),
        ("INTERNAL", Trouble.FAILED, "answers with INTERNAL"),
    ],
)
async def test_an_error_says_what_to_mend(code: str, trouble: Trouble, words: str) -> None:
    async with reading(Refusing(grpc.StatusCode[code])) as backend:
        start = await backend.start(HUB)
        for call in (backend.page(HUB, start.since, start.cursors[0]), backend.find(HUB, ["one", "two"])):
            with pytest.raises(SourceError) as caught:
                await call
            assert caught.value.trouble is trouble
            assert caught.value.retry_after is None
            assert f"the scheduler of the setting {SETTING} " in caught.value.message
            assert words in caught.value.message
            assert not any(secret in caught.value.message for secret in ("do-not-tell", "127.0.0.1", "\n"))


@pytest.mark.parametrize(("told", "wait"), [("7", 7), ("soon", None), ("-1", None)])
async def test_a_throttled_call_tells_how_long_to_wait(told: str, wait: int | None) -> None:
    own = Refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, ("other", "1"), ("retry-after", told))
    async with reading(own) as backend:
        with pytest.raises(SourceError) as caught:
            await backend.find(HUB, ["one"])
    assert (caught.value.trouble, caught.value.retry_after) == (Trouble.THROTTLED, wait)


async def test_a_scheduler_that_keeps_silent_costs_no_more_than_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        over = threading.Event()

        def query(self, *_: Any) -> None:
            self.over.wait(30)

        get = query

    own = Silent()
    monkeypatch.setattr(scheduler, "DEADLINE", 0.3)
    async with reading(own) as backend, asyncio.timeout(10):
        for call in (scanned(backend), backend.find(HUB, [str(number) for number in range(20)])):
            with pytest.raises(SourceError, match=r"has not answered within 0\.3 s") as caught:
                await call
            assert caught.value.trouble is Trouble.FAILED
        own.over.set()


async def test_a_refused_connection_names_the_setting_and_not_the_address() -> None:
    port = str(free_port())
    async with opened(connection_to(port)) as backend:
        with pytest.raises(SourceError) as caught:
            await scanned(backend)
    assert caught.value.trouble is Trouble.FAILED
    assert "cannot be reached" in caught.value.message
    assert SETTING in caught.value.message
    assert port not in caught.value.message


async def test_a_scheduler_is_found_again_after_an_outage(idle_engine: Engine) -> None:
    idle_engine.start(waiting, "waiting")
    idle_engine.engine.stop()
    async with opened(idle_engine.connection) as backend:
        with pytest.raises(SourceError, match="cannot be reached"):
            await scanned(backend)
        idle_engine.engine.start()
        found: dict[str, Sighting] = {}
        async with asyncio.timeout(20):
            while not found:
                with suppress(SourceError):
                    found = await scanned(backend)
                await asyncio.sleep(0.1)
    assert set(found) == {"waiting"}


async def test_a_backend_opens_again_after_it_was_closed(engine: Engine) -> None:
    engine.begin(waiting, "running")
    async with opened(engine.connection) as backend:
        await backend.close()
        assert set(await scanned(backend)) == {"running"}
        await backend.close()
        assert set(await scanned(backend)) == {"running"}


@pytest.mark.parametrize(
    ("connection", "target", "authentication"),
    [
        (
            "Endpoint=https://s.eu.durabletask.io;Authentication=ManagedIdentity",
            "s.eu.durabletask.io:443",
            "ManagedIdentity",
        ),
        ("endpoint=https://s.io/;AUTHENTICATION=defaultazure;TaskHub=x;", "s.io:443", "DefaultAzure"),
        (" Authentication = azurecli ; Endpoint = https://s.io:8443 ", "s.io:8443", "AzureCLI"),
        ("Endpoint=s.io;Authentication=WorkloadIdentity;ClientID=1;TenantId=2", "s.io:443", "WorkloadIdentity"),
        ("Endpoint=https://s.io;Authentication=Environment", "s.io:443", "Environment"),
        ("Endpoint=https://s.io;Authentication=AzurePowerShell", "s.io:443", "AzurePowerShell"),
        ("Endpoint=http://localhost:8080;Authentication=None", "localhost:8080", "None"),
        ("Endpoint=http://dts;Authentication=none", "dts:80", "None"),
        ("Endpoint=http://[::1]:8080;Authentication=None", "[::1]:8080", "None"),
    ],
)
def test_connection_strings_are_read_as_microsoft_writes_them(
    connection: str, target: str, authentication: str
) -> None:
    read = SchedulerBackend(connection, SETTING)._connection
    assert (read.target, read.authentication) == (target, authentication)
    assert read.secure == ("http://" not in connection)


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        ("", "Endpoint is missing"),
        ("do-not-tell", "a part without ="),
        ("Endpoint=https://do-not-tell.io", "Authentication is missing"),
        ("Endpoint=;Authentication=None;Key=do-not-tell", "Endpoint is missing"),
        ("Authentication=ManagedIdentity;AccountKey=do-not-tell", "Endpoint is missing"),
        ("Endpoint=https://s.io;Authentication=do-not-tell", "one of None, ManagedIdentity"),
        ("Endpoint=https://s.io;Authentication=InteractiveBrowser", "one of None, ManagedIdentity"),
        ("Endpoint=http://do-not-tell;Authentication=ManagedIdentity", "https only"),
        ("Endpoint=https://user:do-not-tell@s.io;Authentication=None", "without path"),
        ("Endpoint=https://s.io/do-not-tell;Authentication=None", "without path"),
        ("Endpoint=https://s.io?sig=do-not-tell;Authentication=None", "without path"),
        ("Endpoint=https://s.io:do-not-tell;Authentication=None", "without path"),
        ("Endpoint=ftp://do-not-tell;Authentication=None", "without path"),
        ("Endpoint=https://do not tell;Authentication=None", "without path"),
        ("Endpoint=https://[do-not-tell;Authentication=None", "without path"),
    ],
)
def test_a_wrong_connection_string_says_what_to_write(connection: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        SchedulerBackend(connection, SETTING)
    message = str(caught.value)
    assert f"the setting {SETTING} must be the connection string of a Durable Task Scheduler" in message
    assert words in message
    assert "tell" not in message


MANAGED = "Endpoint=https://127.0.0.1:9;ClientID=do-not-tell;Authentication="


@pytest.mark.parametrize("authentication", ["Environment", "WorkloadIdentity"])
async def test_a_missing_identity_is_told_from_a_missing_role(
    authentication: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    async with opened(MANAGED + authentication) as backend:
        with pytest.raises(SourceError) as caught:
            await scanned(backend)
    assert caught.value.trouble is Trouble.DENIED
    assert f"gets no token for the scheduler of the setting {SETTING}" in caught.value.message
    assert f"Authentication={authentication}?" in caught.value.message
    assert "do-not-tell" not in caught.value.message


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "durabletask.azuremanaged.internal.access_token_manager", None)
    async with opened(MANAGED + "ManagedIdentity") as backend:
        with pytest.raises(SourceError, match=r"install requirements-scheduler\.txt") as caught:
            await scanned(backend)
    assert caught.value.trouble is Trouble.FAILED
    assert SETTING in caught.value.message


SCAN = """
import asyncio, sys
from state_api.taskhubs.scheduler import SchedulerBackend
slow = {"grpc", "durabletask", "azure.identity", "google.protobuf"} & set(sys.modules)

async def main():
    backend = SchedulerBackend(sys.argv[1], "SETTING")
    start = await backend.start("shop")
    pages = [await backend.page("shop", start.since, start.cursors[0]) for _ in range(2)]
    print(slow, [one.instance_id for page in pages for one in page.sightings])
    await backend.close()

asyncio.run(main())
"""


async def test_a_managed_identity_reads_over_tls(tmp_path: Path) -> None:
    """The managed service as far as it can be had here: a certificate, a token from the place where App Service gives
    them, and that token on each call. Nothing slow is loaded before it is needed."""
    tokens: list[dict[str, str]] = []

    async def give_token(request: web.Request) -> web.Response:
        tokens.append({**request.query, "secret": request.headers["X-IDENTITY-HEADER"]})
        return web.json_response(
            {"access_token": "a-token", "expires_on": "4000000000", "resource": request.query["resource"]}
        )

    application = web.Application()
    application.router.add_get("/token", give_token)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", free_port())
    await site.start()
    key, certificate = certificate_of("localhost")
    (tmp_path / "root.pem").write_bytes(certificate)
    own = Scheduler([state_of("managed")])
    try:
        with serving(own, grpc.ssl_server_credentials([(key, certificate)])) as port:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                SCAN,
                f"Endpoint=https://localhost:{port};Authentication=ManagedIdentity;ClientID=client;TaskHub=ignored",
                cwd=Path(__file__).parents[2],
                env={
                    "PATH": os.environ["PATH"],
                    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(tmp_path / "root.pem"),
                    "IDENTITY_ENDPOINT": f"{site.name}/token",
                    "IDENTITY_HEADER": "header",
                },
                stdout=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(30):
                printed, _ = await process.communicate()
    finally:
        await runner.cleanup()
    assert printed.decode().strip() == "set() ['managed', 'managed']"
    assert [(one["resource"], one["client_id"], one["secret"]) for one in tokens] == [
        ("https://durabletask.io", "client", "header")
    ]
    assert [(one["taskhub"], one["authorization"]) for one in own.metadata] == [("shop", "Bearer a-token")] * 2


def certificate_of(host: str) -> tuple[bytes, bytes]:
    """A key and a certificate that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)
