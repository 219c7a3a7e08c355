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

from harness.processes import free_port, wait_until
from state_api.backends import scheduler
from state_api.backends.protocols import Backend, ObservedPage
from state_api.backends.scheduler import SchedulerBackend
from state_api.domain.instants import Instant
from state_api.domain.task_hubs.observations import ObservedInstance

CONNECTION_SETTING = "STATE_TASKHUBS_SCHEDULER"
HUB = "shop"
QUIET_LOGGER = logging.getLogger("scheduler-tests")


def waiting(context: task.OrchestrationContext, _: Any) -> Any:
    """Runs until it is told to go."""
    return (yield context.wait_for_external_event("go"))


def eternal(context: task.OrchestrationContext, turn: int) -> Any:
    """Runs anew each time that it is told to go."""
    yield context.wait_for_external_event("go")
    context.continue_as_new(turn + 1)


def completing(_: task.OrchestrationContext, input_value: Any) -> Any:
    return input_value


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


class InMemoryScheduler:
    """An in-memory engine and a client of it."""

    def __init__(self) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.connection = f"Endpoint=http://{self.address};Authentication=None"
        self.engine: Any = create_test_backend(port)  # its methods have no types
        self.client = TaskHubGrpcClient(host_address=self.address, logger=QUIET_LOGGER)

    def start(self, orchestrator: Callable[..., Any], instance_id: str, input_value: Any = None, **more: Any) -> str:
        return self.client.schedule_new_orchestration(orchestrator, instance_id=instance_id, input=input_value, **more)

    def start_and_wait(self, orchestrator: Callable[..., Any], instance_id: str, input_value: Any = None) -> str:
        """Start an instance, and wait until its worker has had it."""
        self.start(orchestrator, instance_id, input_value)
        self.client.wait_for_orchestration_start(instance_id, timeout=20)
        return instance_id

    def wait_until(self, instance_id: str, status: str) -> None:
        def shows() -> bool:
            state = self.client.get_orchestration_state(instance_id)
            return state is not None and state.runtime_status.name == status

        wait_until(shows, f"{instance_id} is {status}", 20)

    def end(self, instance_id: str) -> None:
        self.client.raise_orchestration_event(instance_id, "go")
        self.wait_until(instance_id, "COMPLETED")

    def stop(self) -> None:
        self.client.close()
        self.engine.stop()


@pytest.fixture
def idle_scheduler() -> Iterator[InMemoryScheduler]:
    """An engine that nobody works for."""
    engine = InMemoryScheduler()
    yield engine
    engine.stop()


@asynccontextmanager
async def open_backend(connection: str, page_size: int = scheduler.PAGE_SIZE) -> AsyncIterator[SchedulerBackend]:
    backend = SchedulerBackend(connection, CONNECTION_SETTING, page_size)
    try:
        yield backend
    finally:
        await backend.close()


async def read_pages(
    backends: Sequence[Backend],
    changed_since: Instant,
    cursors: Sequence[str],
    after_page: Callable[[int], None] = lambda _: None,
    end_cursors: Sequence[str] = (),
) -> list[ObservedPage]:
    """All pages from these cursors on, read by these backends in turn. `after_page` is called after each page
    with their
    number; `end_cursors` are cursors that are not followed."""
    pages: list[ObservedPage] = []
    left = list(cursors)
    while left:
        assert len(pages) < 500, "the scan has no end"
        page = await backends[len(pages) % len(backends)].read_page(HUB, changed_since, left.pop(0))
        pages.append(page)
        left.extend(cursor for cursor in page.cursors if cursor not in end_cursors)
        after_page(len(pages))
    return pages


async def read_first_pass(backend: Backend, after_page: Callable[[int], None] = lambda _: None) -> list[ObservedPage]:
    start = await backend.begin_scan(HUB)
    return await read_pages([backend], start.changed_since, start.cursors, after_page, start.next_pass_cursors)


async def scan(backend: Backend) -> dict[str, ObservedInstance]:
    start = await backend.begin_scan(HUB)
    return latest_by_id(await read_pages([backend], start.changed_since, start.cursors))


def latest_by_id(pages: Sequence[ObservedPage]) -> dict[str, ObservedInstance]:
    """The last that was seen of each instance."""
    return {one.instance_id: one for page in pages for one in page.instances}


def active_ids(pages: Sequence[ObservedPage]) -> set[str]:
    return {one.instance_id for page in pages for one in page.instances if one.active}


# From here on, a scheduler of the tests' own.


class FakeScheduler:
    """Lists these instances as schedulers may: in some order, no more at once than a limit, with a continuation token
    that is a position in what matches."""

    def __init__(self, states: Sequence[protocol.OrchestrationState] = ()) -> None:
        self.states = list(states)
        self.order: Callable[[protocol.OrchestrationState], Any] = created_nanoseconds
        self.limit = 1_000_000
        self.always_has_more = False
        self.time_bounds = ">=<"
        self.queries: list[protocol.InstanceQuery] = []
        self.metadata: list[dict[str, str]] = []
        self.connection = ""

    def query(self, request: protocol.QueryInstancesRequest, context: Any) -> protocol.QueryInstancesResponse:
        query = request.query
        self.queries.append(query)
        self.metadata.append(dict(context.invocation_metadata()))
        matching = sorted(filter(lambda state: self._matches(query, state), self.states), key=self.order)
        begin = int(query.continuationToken.value or 0)
        end = begin + min(query.maxInstanceCount, self.limit)
        more = end < len(matching) or (self.always_has_more and begin < len(matching))
        token = {"value": str(end)} if more else None
        return protocol.QueryInstancesResponse(orchestrationState=matching[begin:end], continuationToken=token)

    def get(self, request: protocol.GetInstanceRequest, _: Any) -> protocol.GetInstanceResponse:
        state = next((state for state in self.states if state.instanceId == request.instanceId), None)
        return protocol.GetInstanceResponse(exists=state is not None, orchestrationState=state)

    def _matches(self, query: protocol.InstanceQuery, state: protocol.OrchestrationState) -> bool:
        at, lower, upper = (
            created_nanoseconds(state),
            nanoseconds(query.createdTimeFrom),
            nanoseconds(query.createdTimeTo),
        )
        after = at > lower or (at == lower and self.time_bounds.startswith(">="))
        before = not upper or at < upper or (at == upper and self.time_bounds.endswith("<="))
        active_or_any = not query.runtimeStatus or state.orchestrationStatus in query.runtimeStatus
        return active_or_any and ((after and before) or self.time_bounds == "none")


def nanoseconds(timestamp: Any) -> int:
    return int(timestamp.seconds * 1_000_000_000 + timestamp.nanos)


def created_nanoseconds(state: protocol.OrchestrationState) -> int:
    return nanoseconds(state.createdTimestamp)


def orchestration_state(
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
def serve_grpc(service: Any, credentials: Any = None) -> Iterator[str]:
    """A gRPC server with the methods `query` and `get` of `service`; gives its port."""
    methods = {"QueryInstances": service.query, "GetInstance": service.get}
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
async def open_backend_of(service: Any, page_size: int = scheduler.PAGE_SIZE) -> AsyncIterator[SchedulerBackend]:
    with serve_grpc(service) as port:
        async with open_backend(connection_string_to(port), page_size) as backend:
            yield backend


def connection_string_to(port: str) -> str:
    return f"Endpoint=http://127.0.0.1:{port};Authentication=None;SharedKey=do-not-tell"
