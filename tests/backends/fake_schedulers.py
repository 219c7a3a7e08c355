"""Schedulers for tests: Microsoft's in-memory engine with real orchestrations, and a fake for the responses that the
engine never gives."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
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
from state_api.backends.protocols import Backend, ObservedPage, ReadStorageTime
from state_api.backends.scheduler import SchedulerBackend
from state_api.domain.instants import Instant, instant_from
from state_api.domain.task_hubs.observations import ObservedInstance

CONNECTION_SETTING = "STATE_TASKHUBS_SCHEDULER"
HUB = "shop"
QUIET_LOGGER = logging.getLogger("scheduler-tests")


def waiting(context: task.OrchestrationContext, _: Any) -> Any:
    """Run until the event `go`."""
    return (yield context.wait_for_external_event("go"))


def eternal(context: task.OrchestrationContext, turn: int) -> Any:
    """Continue as new at each event `go`."""
    yield context.wait_for_external_event("go")
    context.continue_as_new(turn + 1)


def completing(_: task.OrchestrationContext, input_value: Any) -> Any:
    """Complete at once, with the input as output."""
    return input_value


def failing(_: task.OrchestrationContext, __: Any) -> Any:
    """Fail at once."""
    raise ValueError("fails on purpose")


def parent(context: task.OrchestrationContext, child: str) -> Any:
    """Start the sub-orchestration `child`, which waits for the event `go`, and wait for it."""
    return (yield context.call_sub_orchestrator(waiting, instance_id=child))


def link(context: task.OrchestrationContext, number: int) -> Any:
    """Wait for `go`, then start the next link and end in the same turn."""
    yield context.wait_for_external_event("go")
    context.call_sub_orchestrator(link, input=number + 1, instance_id=f"link-{number + 1}")


class Counter(DurableEntity):
    def add(self, amount: int) -> None:
        self.set_state(self.get_state(int, 0) + amount)


class InMemoryScheduler:
    """Microsoft's in-memory engine and its client."""

    def __init__(self) -> None:
        """Prepare the in-memory engine of the durabletask library on a free port, and a client of it."""
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.connection = f"Endpoint=http://{self.address};Authentication=None"
        self.engine: Any = create_test_backend(port)  # Any: its methods have no types
        self.client = TaskHubGrpcClient(host_address=self.address, logger=QUIET_LOGGER)

    def start(self, orchestrator: Callable[..., Any], instance_id: str, input_value: Any = None, **options: Any) -> str:
        return self.client.schedule_new_orchestration(
            orchestrator, instance_id=instance_id, input=input_value, **options
        )

    def start_and_wait(self, orchestrator: Callable[..., Any], instance_id: str, input_value: Any = None) -> str:
        """Start an instance, and wait until a worker has begun it."""
        self.start(orchestrator, instance_id, input_value)
        self.client.wait_for_orchestration_start(instance_id, timeout=20)
        return instance_id

    def wait_until(self, instance_id: str, status: str) -> None:
        def has_status() -> bool:
            state = self.client.get_orchestration_state(instance_id)
            return state is not None and state.runtime_status.name == status

        wait_until(has_status, f"{instance_id} is {status}", 20)

    def end(self, instance_id: str) -> None:
        """Raise the event `go`, and wait until the instance has completed."""
        self.client.raise_orchestration_event(instance_id, "go")
        self.wait_until(instance_id, "COMPLETED")

    def stop(self) -> None:
        self.client.close()
        self.engine.stop()


@pytest.fixture
def idle_scheduler() -> Iterator[InMemoryScheduler]:
    """An engine without a worker."""
    engine = InMemoryScheduler()
    yield engine
    engine.stop()


def machine_time() -> Instant:
    """The time of this machine, on which the state storage's clock is right."""
    return instant_from(datetime.now(UTC))


@asynccontextmanager
async def open_backend(
    connection: str, page_size: int = scheduler.PAGE_SIZE, *, storage_time: ReadStorageTime = machine_time
) -> AsyncIterator[SchedulerBackend]:
    """The backend that reads the scheduler of this connection string, closed at the end of the block."""
    backend = SchedulerBackend(connection, CONNECTION_SETTING, page_size, storage_time=storage_time)
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
    """Read all pages that these cursors lead to, by these backends in turn. `after_page` is called after each page with
    the number of pages so far. `end_cursors` are not followed."""
    pages: list[ObservedPage] = []
    unread = list(cursors)
    while unread:
        assert len(pages) < 500, "the scan has no end"
        page = await backends[len(pages) % len(backends)].read_page(HUB, changed_since, unread.pop(0))
        pages.append(page)
        unread.extend(cursor for cursor in page.cursors if cursor not in end_cursors)
        after_page(len(pages))
    return pages


async def read_first_pass(backend: Backend, after_page: Callable[[int], None] = lambda _: None) -> list[ObservedPage]:
    """Read the pages over active instances, without the pass over recent ones that follows."""
    start = await backend.begin_scan(HUB)
    return await read_pages([backend], start.changed_since, start.cursors, after_page, start.next_pass_cursors)


async def scan(backend: Backend) -> dict[str, ObservedInstance]:
    """Return the instances of one scan by id."""
    start = await backend.begin_scan(HUB)
    return index_latest_by_id(await read_pages([backend], start.changed_since, start.cursors))


def index_latest_by_id(pages: Sequence[ObservedPage]) -> dict[str, ObservedInstance]:
    """Return each instance as it was last observed."""
    return {observed.instance_id: observed for page in pages for observed in page.instances}


def list_active_ids(pages: Sequence[ObservedPage]) -> set[str]:
    return {observed.instance_id for page in pages for observed in page.instances if observed.active}


class FakeScheduler:
    """Lists instances as a scheduler may: sorted by `order`, at most `limit` on a page, with a continuation token that
    is a position in the list of matches.

    - `always_has_more` gives the last page a token too.
    - `time_bounds` are the comparisons of created times with the lower and the upper bound: `>=<`, `><` or `>=<=`.
      With `none` they are not compared.
    - `queries` and `metadata` are those of the calls that were received.
    """

    def __init__(self, states: Sequence[protocol.OrchestrationState] = ()) -> None:
        """Begin with these instances, in the order of their creation and without a limit on pages."""
        self.states = list(states)
        self.order: Callable[[protocol.OrchestrationState], Any] = get_created_nanoseconds
        self.limit = 1_000_000
        self.always_has_more = False
        self.time_bounds = ">=<"
        self.queries: list[protocol.InstanceQuery] = []
        self.metadata: list[dict[str, str]] = []
        self.connection = ""

    def query(self, request: protocol.QueryInstancesRequest, context: Any) -> protocol.QueryInstancesResponse:
        """Answer QueryInstances with the page of matching instances that the continuation token begins."""
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
        """Answer GetInstance with the instance, if it exists."""
        state = next((state for state in self.states if state.instanceId == request.instanceId), None)
        return protocol.GetInstanceResponse(exists=state is not None, orchestrationState=state)

    def _matches(self, query: protocol.InstanceQuery, state: protocol.OrchestrationState) -> bool:
        """Compare an instance with the statuses and created times of a query."""
        created = get_created_nanoseconds(state)
        lower, upper = to_nanoseconds(query.createdTimeFrom), to_nanoseconds(query.createdTimeTo)
        is_after = created > lower or (created == lower and self.time_bounds.startswith(">="))
        is_before = not upper or created < upper or (created == upper and self.time_bounds.endswith("<="))
        has_status = not query.runtimeStatus or state.orchestrationStatus in query.runtimeStatus
        return has_status and ((is_after and is_before) or self.time_bounds == "none")


def to_nanoseconds(timestamp: Any) -> int:
    """A protobuf timestamp as nanoseconds since 1970."""
    return int(timestamp.seconds * 1_000_000_000 + timestamp.nanos)


def get_now_nanoseconds() -> int:
    return time.time_ns()


def to_timestamp_fields(value: int) -> dict[str, int]:
    """Return the fields of a protocol timestamp."""
    return {"seconds": value // 1_000_000_000, "nanos": value % 1_000_000_000}


def get_created_nanoseconds(state: protocol.OrchestrationState) -> int:
    """The created time of an instance, by which the scheduler orders its pages."""
    return to_nanoseconds(state.createdTimestamp)


def build_orchestration_state(
    instance_id: str,
    created_nanoseconds: int = 1_700_000_000_000_000_000,
    status: int = protocol.ORCHESTRATION_STATUS_RUNNING,
    **fields: Any,
) -> protocol.OrchestrationState:
    """Return an instance that has not changed since it was created."""
    created = to_timestamp_fields(created_nanoseconds)
    fields = {"name": "work", "createdTimestamp": created, "lastUpdatedTimestamp": created, **fields}
    return protocol.OrchestrationState(instanceId=instance_id, orchestrationStatus=status, **fields)  # type: ignore[arg-type]  # the protocol sends numbers


@contextmanager
def serve_grpc(service: Any, credentials: Any = None) -> Iterator[str]:
    """Serve the methods `query` and `get` of `service` by gRPC until the block ends; yields the port."""
    methods = {"QueryInstances": service.query, "GetInstance": service.get}
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            method,
            getattr(protocol, f"{name}Request").FromString,
            getattr(protocol, f"{name}Response").SerializeToString,
        )
        for name, method in methods.items()
    }
    # A server with threads: an asyncio server would leave callbacks in the event loop of a test that has ended.
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
async def open_backend_of_service(
    service: Any, page_size: int = scheduler.PAGE_SIZE
) -> AsyncIterator[SchedulerBackend]:
    """The backend that reads a service in this process, served over gRPC until the block ends."""
    with serve_grpc(service) as port:
        async with open_backend(build_connection_string(port), page_size) as backend:
            yield backend


def build_connection_string(port: str) -> str:
    return f"Endpoint=http://127.0.0.1:{port};Authentication=None;SharedKey=do-not-tell"
