"""A server that dies at one of its requests to the storage. Nothing that it still does reaches the storage, so that
no code of its own can tidy up behind it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

import httpx

from state_api.app import StateServer
from state_api.settings import Connections, Settings, StorageSettings, emulator_connection
from tests.conftest import ShiftedClock
from tests.loopback import HOST
from tests.proxy import StorageProxy, storage_proxy

_SERVICES = ("Table", "Queue", "Blob")
_READS = ("GET", "HEAD")
_SECONDS = 60

Ask = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


class When(StrEnum):
    """What becomes of the request at which the server dies."""

    BEFORE = "before"
    """It never reaches the storage."""
    AFTER = "after"
    """It reaches the storage, and the answer is lost."""
    LATE = "late"
    """It is on its way for long: it reaches the storage when the next server has done its work."""


class _Fate(StrEnum):
    PASSES = "passes"
    IS_CUT = "is cut"


@dataclass
class Doom:
    """Counts the requests of one server, from 1, and has it die at number `at`; None lets it live. `requests` are what
    it asked for, `died` is set once nothing of it is under way but what comes late."""

    at: int | None = None
    when: When = When.BEFORE
    requests: list[tuple[str, str]] = field(default_factory=list)
    died: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _struck: bool = False
    _under_way: int = 0
    _fate: ContextVar[_Fate] = field(default_factory=lambda: ContextVar("fate"))
    _late: ContextVar[bool] = field(default_factory=lambda: ContextVar("late", default=False))

    def watch(self, proxy: StorageProxy) -> None:
        proxy.before, proxy.fail, proxy.lose = self._before, self._fail, self._lose

    @property
    def writes(self) -> int:
        return sum(method not in _READS for method, _ in self.requests)

    async def _before(self, method: str, path: str) -> None:
        self.requests.append((method, path))
        strikes = len(self.requests) == self.at
        if self._struck or (strikes and self.when is When.BEFORE):
            self._fate.set(_Fate.IS_CUT)
            self._struck = True
            self._look()
            return
        self._fate.set(_Fate.PASSES)
        if not strikes:
            self._under_way += 1
            return
        self._struck = True
        if self.when is When.AFTER:
            self._under_way += 1
            return
        self._late.set(True)
        self._look()
        await self.let_go.wait()

    def _fail(self, method: str, path: str) -> int | None:
        return 0 if self._fate.get() is _Fate.IS_CUT else None

    def _lose(self, method: str, path: str) -> bool:
        """The storage has answered."""
        if self._late.get():
            self.arrived.set()
            return True
        self._under_way -= 1
        self._look()
        return self._struck

    def _look(self) -> None:
        if self._struck and not self._under_way:
            self.died.set()


@asynccontextmanager
async def doomed(storage: StorageSettings, doom: Doom, ahead: float = 0) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server on this storage that dies as `doom` says. The task hubs of its apps live there too, and its
    requests to them count."""
    async with AsyncExitStack() as stack:
        ports: list[int] = []
        for service in _SERVICES:
            proxy = await stack.enter_async_context(storage_proxy(_only(storage, service)))
            doom.watch(proxy)
            ports.append(_port(proxy.settings, "Table"))
        # What comes late must not keep the proxies, if a test fails before it lets go.
        stack.callback(doom.let_go.set)
        connection = emulator_connection(HOST, *ports)
        way = StorageSettings.model_validate({"connection_string": connection})
        yield await stack.enter_async_context(serving_here(way, ahead))


@asynccontextmanager
async def serving_here(storage: StorageSettings, ahead: float = 0) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a new server in this process, whose clock is `ahead` seconds ahead."""
    assert storage.connection_string is not None
    clock = ShiftedClock()
    connections = Connections({"STATE_TASKHUBS_SHOP": storage.connection_string.get_secret_value()})
    server = StateServer(Settings(storage=storage, connections=connections), clock)
    clock.storage = server.tables.clock
    clock.turn(ahead)
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=_SECONDS) as client:
        yield client
    await server.close()


async def dies(client: httpx.AsyncClient, ask: Ask, doom: Doom) -> httpx.Response | None:
    """Ask, and have the server die over it; the answer if it came first."""

    async def asked() -> httpx.Response:
        return await ask(client)

    asking = asyncio.create_task(asked())
    dying = asyncio.create_task(doom.died.wait())
    done, _ = await asyncio.wait({asking, dying}, timeout=_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    assert done, "neither an answer nor an end"
    dying.cancel()
    if not doom.died.is_set():
        return await asking
    asking.cancel()
    await asyncio.gather(asking, dying, return_exceptions=True)
    return None


def _only(storage: StorageSettings, service: str) -> StorageSettings:
    """The storage as the proxy takes it, which asks for tables: here it stands before another service."""
    endpoint = f"TableEndpoint=http://{HOST}:{_port(storage, service)}/devstoreaccount1;"
    return StorageSettings.model_validate({"connection_string": endpoint})


def _port(storage: StorageSettings, service: str) -> int:
    assert storage.connection_string is not None
    parts = dict(part.partition("=")[::2] for part in storage.connection_string.get_secret_value().split(";"))
    port = httpx.URL(parts[f"{service}Endpoint"]).port
    assert port is not None
    return port
