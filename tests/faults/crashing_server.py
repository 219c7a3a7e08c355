"""A server that crashes at one of its requests to the storage. Its later requests do not reach the storage, so its own
code cannot clean up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

import httpx

from harness.http_server import HOST
from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.emulator import EmulatorPorts
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from tests.conftest import ShiftedClock

_SERVICES = ("Table", "Queue", "Blob")
_READS = ("GET", "HEAD")
_TIMEOUT_SECONDS = 60

SendRequest = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


class CrashTiming(StrEnum):
    """What happens to the request at which the server crashes."""

    BEFORE = "before"
    """The request never reaches the storage."""
    AFTER = "after"
    """The request reaches the storage, and the response is lost."""
    LATE = "late"
    """The request is delayed, and reaches the storage after the next server has completed the operation."""


class _RequestFate(StrEnum):
    PASSES = "passes"
    IS_CUT = "is cut"


@dataclass
class CrashPlan:
    """Counts the requests of one server from 1, and makes it crash at number `at_request`.

    - `at_request`: None means no crash.
    - `requests`: the method and path of each request.
    - `crashed`: set when the server has crashed and none of its requests is in flight, except a delayed one.
    - `release_late`: the test sets it to let the delayed request continue.
    - `late_arrived`: set when the storage has carried out the delayed request.
    """

    at_request: int | None = None
    timing: CrashTiming = CrashTiming.BEFORE
    requests: list[tuple[str, str]] = field(default_factory=list)
    crashed: asyncio.Event = field(default_factory=asyncio.Event)
    release_late: asyncio.Event = field(default_factory=asyncio.Event)
    late_arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _has_crashed: bool = False
    _in_flight: int = 0
    _fate: ContextVar[_RequestFate] = field(default_factory=lambda: ContextVar("fate"))
    _late: ContextVar[bool] = field(default_factory=lambda: ContextVar("late", default=False))

    def attach_to(self, proxy: StorageProxy) -> None:
        """Apply the plan to all requests that go through this proxy."""
        proxy.before_request, proxy.failure_status, proxy.drops_response = (
            self._before_request,
            self._failure_status,
            self._drops_response,
        )

    @property
    def write_count(self) -> int:
        """The number of requests so far that may change the storage."""
        return sum(method not in _READS for method, _ in self.requests)

    async def _before_request(self, method: str, path: str) -> None:
        """Decide the fate of a storage request: it passes, or it is the one at which the server crashes, or comes after
        that."""
        self.requests.append((method, path))
        is_crash_point = len(self.requests) == self.at_request
        if self._has_crashed or (is_crash_point and self.timing is CrashTiming.BEFORE):
            self._fate.set(_RequestFate.IS_CUT)
            self._has_crashed = True
            self._report_crash_without_requests()
            return
        self._fate.set(_RequestFate.PASSES)
        if not is_crash_point:
            self._in_flight += 1
            return
        self._has_crashed = True
        if self.timing is CrashTiming.AFTER:
            self._in_flight += 1
            return
        self._late.set(True)
        self._report_crash_without_requests()
        await self.release_late.wait()

    def _failure_status(self, method: str, path: str) -> int | None:
        return 0 if self._fate.get() is _RequestFate.IS_CUT else None

    def _drops_response(self, method: str, path: str) -> bool:
        """Called when the storage has responded."""
        if self._late.get():
            self.late_arrived.set()
            return True
        self._in_flight -= 1
        self._report_crash_without_requests()
        return self._has_crashed

    def _report_crash_without_requests(self) -> None:
        """Set `crashed` once no request is in flight."""
        if self._has_crashed and not self._in_flight:
            self.crashed.set()


@asynccontextmanager
async def crashing_server(
    storage: StorageSettings, crash_plan: CrashPlan, clock_offset_seconds: float = 0
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that crashes by `crash_plan`.

    The storage also holds the task hubs of its apps. The plan counts requests to them, too.
    """
    async with AsyncExitStack() as stack:
        ports: list[int] = []
        for service in _SERVICES:
            proxy = await stack.enter_async_context(run_storage_proxy(_settings_for_service(storage, service)))
            crash_plan.attach_to(proxy)
            ports.append(_port(proxy.settings, "Table"))
        # A delayed request must not block the proxies when a test fails early.
        stack.callback(crash_plan.release_late.set)
        connection = EmulatorPorts(*ports).connection_string(HOST)
        proxied_storage = StorageSettings.model_validate({"connection_string": connection})
        yield await stack.enter_async_context(in_process_server(proxied_storage, clock_offset_seconds))


@asynccontextmanager
async def in_process_server(
    storage: StorageSettings, clock_offset_seconds: float = 0
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a new server in this process whose clock is `clock_offset_seconds` ahead."""
    assert storage.connection_string is not None
    clock = ShiftedClock()
    connections = TaskHubConnections({"STATE_TASKHUBS_SHOP": storage.connection_string.get_secret_value()})
    server = StateServer(Settings(storage=storage, connections=connections), clock)
    clock.storage = server.tables.clock
    clock.advance(clock_offset_seconds)
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=_TIMEOUT_SECONDS) as client:
        yield client
    await server.close()


async def send_until_crash(
    client: httpx.AsyncClient, send: SendRequest, crash_plan: CrashPlan
) -> httpx.Response | None:
    """Send a request, and return its response; None if the server crashes first."""

    async def send_request() -> httpx.Response:
        return await send(client)

    responding = asyncio.create_task(send_request())
    crashing = asyncio.create_task(crash_plan.crashed.wait())
    done, _ = await asyncio.wait({responding, crashing}, timeout=_TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    assert done, "neither a response nor a crash"
    crashing.cancel()
    if not crash_plan.crashed.is_set():
        return await responding
    responding.cancel()
    await asyncio.gather(responding, crashing, return_exceptions=True)
    return None


def _settings_for_service(storage: StorageSettings, service: str) -> StorageSettings:
    """Settings with which a storage proxy, which forwards to the table endpoint, forwards to another service."""
    endpoint = f"TableEndpoint=http://{HOST}:{_port(storage, service)}/devstoreaccount1;"
    return StorageSettings.model_validate({"connection_string": endpoint})


def _port(storage: StorageSettings, service: str) -> int:
    """The port of a service in the connection string."""
    assert storage.connection_string is not None
    parts = dict(part.partition("=")[::2] for part in storage.connection_string.get_secret_value().split(";"))
    port = httpx.URL(parts[f"{service}Endpoint"]).port
    assert port is not None
    return port
