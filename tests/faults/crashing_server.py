"""A server that dies at one of its requests to the storage. Nothing that it still does reaches the storage, so that
no code of its own can tidy up behind it."""

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
    """What becomes of the request at which the server dies."""

    BEFORE = "before"
    """It never reaches the storage."""
    AFTER = "after"
    """It reaches the storage, and the answer is lost."""
    LATE = "late"
    """It is on its way for long: it reaches the storage when the next server has done its work."""


class _RequestFate(StrEnum):
    PASSES = "passes"
    IS_CUT = "is cut"


@dataclass
class CrashPlan:
    """Counts the requests of one server, from 1, and has it die at number `at_request`; None lets it live. `requests`
    are what it asked for, `died` is set once nothing of it is under way but what comes late."""

    at_request: int | None = None
    timing: CrashTiming = CrashTiming.BEFORE
    requests: list[tuple[str, str]] = field(default_factory=list)
    died: asyncio.Event = field(default_factory=asyncio.Event)
    release_late: asyncio.Event = field(default_factory=asyncio.Event)
    late_arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _crashed: bool = False
    _in_flight: int = 0
    _fate: ContextVar[_RequestFate] = field(default_factory=lambda: ContextVar("fate"))
    _late: ContextVar[bool] = field(default_factory=lambda: ContextVar("late", default=False))

    def attach_to(self, proxy: StorageProxy) -> None:
        proxy.before_request, proxy.failure_status, proxy.drops_response = (
            self._before_request,
            self._failure_status,
            self._drops_response,
        )

    @property
    def writes(self) -> int:
        return sum(method not in _READS for method, _ in self.requests)

    async def _before_request(self, method: str, path: str) -> None:
        self.requests.append((method, path))
        strikes = len(self.requests) == self.at_request
        if self._crashed or (strikes and self.timing is CrashTiming.BEFORE):
            self._fate.set(_RequestFate.IS_CUT)
            self._crashed = True
            self._check_crashed()
            return
        self._fate.set(_RequestFate.PASSES)
        if not strikes:
            self._in_flight += 1
            return
        self._crashed = True
        if self.timing is CrashTiming.AFTER:
            self._in_flight += 1
            return
        self._late.set(True)
        self._check_crashed()
        await self.release_late.wait()

    def _failure_status(self, method: str, path: str) -> int | None:
        return 0 if self._fate.get() is _RequestFate.IS_CUT else None

    def _drops_response(self, method: str, path: str) -> bool:
        """The storage has answered."""
        if self._late.get():
            self.late_arrived.set()
            return True
        self._in_flight -= 1
        self._check_crashed()
        return self._crashed

    def _check_crashed(self) -> None:
        if self._crashed and not self._in_flight:
            self.died.set()


@asynccontextmanager
async def crashing_server(
    storage: StorageSettings, crash_plan: CrashPlan, clock_offset_seconds: float = 0
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server on this storage that dies as `crash_plan` says. The task hubs of its apps live there too,
    and its requests to them count."""
    async with AsyncExitStack() as stack:
        ports: list[int] = []
        for service in _SERVICES:
            proxy = await stack.enter_async_context(run_storage_proxy(_settings_for_service(storage, service)))
            crash_plan.attach_to(proxy)
            ports.append(_port(proxy.settings, "Table"))
        # What comes late must not keep the proxies, if a test fails before it lets go.
        stack.callback(crash_plan.release_late.set)
        connection = EmulatorPorts(*ports).connection_string(HOST)
        way = StorageSettings.model_validate({"connection_string": connection})
        yield await stack.enter_async_context(in_process_server(way, clock_offset_seconds))


@asynccontextmanager
async def in_process_server(
    storage: StorageSettings, clock_offset_seconds: float = 0
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a new server in this process, whose clock is `clock_offset_seconds` seconds ahead."""
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
    """Ask, and have the server die over it; the answer if it came first."""

    async def asked() -> httpx.Response:
        return await send(client)

    asking = asyncio.create_task(asked())
    dying = asyncio.create_task(crash_plan.died.wait())
    done, _ = await asyncio.wait({asking, dying}, timeout=_TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    assert done, "neither an answer nor an end"
    dying.cancel()
    if not crash_plan.died.is_set():
        return await asking
    asking.cancel()
    await asyncio.gather(asking, dying, return_exceptions=True)
    return None


def _settings_for_service(storage: StorageSettings, service: str) -> StorageSettings:
    """The storage as the proxy takes it, which asks for tables: here it stands before another service."""
    endpoint = f"TableEndpoint=http://{HOST}:{_port(storage, service)}/devstoreaccount1;"
    return StorageSettings.model_validate({"connection_string": endpoint})


def _port(storage: StorageSettings, service: str) -> int:
    assert storage.connection_string is not None
    parts = dict(part.partition("=")[::2] for part in storage.connection_string.get_secret_value().split(";"))
    port = httpx.URL(parts[f"{service}Endpoint"]).port
    assert port is not None
    return port
