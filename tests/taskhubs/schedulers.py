"""Schedulers that tests ask: Microsoft's in-memory engine with real orchestrations, and one of the tests' own, where
the engine cannot be brought to answer as it should."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]  # it has no types
import pytest
from durabletask import task
from durabletask.client import TaskHubGrpcClient
from durabletask.entities import DurableEntity
from durabletask.internal import orchestrator_service_pb2 as protocol
from durabletask.testing import create_test_backend

from dev.local import free_port, until
from state_api.domain.instants import Instant
from state_api.domain.sightings import Sighting
from state_api.taskhubs import scheduler
from state_api.taskhubs.backend import Backend, SourcePage
from state_api.taskhubs.scheduler import SchedulerBackend

SETTING = "STATE_TASKHUBS_SCHEDULER"
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
