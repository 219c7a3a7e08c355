"""What tests run on: one storage emulator for the whole run, a server on it, and a client."""

import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx
import pytest

from harness.processes import free_ports
from state_api.app import StateServer
from state_api.domain.instants import Instant, seconds
from state_api.emulator import EmulatorPorts, is_listening, storage_emulator
from state_api.services.ports import EventLease
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from state_api.storage.storage_clock import StorageClock
from tests import hypothesis_profiles as profiles

profiles.register_profiles()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so that they ignore SIGINT, and every process that tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


NO_EVENT_LEASE = EventLease(seconds=0, margin_seconds=0)
"""Every event of an unclaimed task hub costs a read of its registry row, and DeleteTaskHub does not wait."""


@pytest.fixture
def anyio_backend() -> str:
    """The server runs on asyncio, as Azure Functions does."""
    return "asyncio"


@contextmanager
def run_storage() -> Iterator[StorageSettings]:
    """An empty storage account in memory."""
    ports = EmulatorPorts(*free_ports(3))
    with storage_emulator(ports, None):
        yield StorageSettings.model_validate({"connection_string": ports.connection_string()})
        ended = [service for service, port in ports.by_service().items() if not is_listening("127.0.0.1", port)]
        assert not ended, f"the storage emulator's services {ended} ended during the tests"


@pytest.fixture(scope="session")
def storage() -> Iterator[StorageSettings]:
    """A storage account for the whole run, in memory. Tests use unique names, so they do not disturb each other."""
    with run_storage() as settings:
        yield settings


@pytest.fixture(scope="module")
def own_storage() -> Iterator[StorageSettings]:
    """A storage account for the tests of one module. The number of apps and tables of other tests has no effect there:
    lists have one page, and the background rounds of a server find nothing."""
    with run_storage() as settings:
        yield settings


class ShiftedClock:
    """The storage's clock, which a test can advance."""

    def __init__(self) -> None:
        self.storage: StorageClock | None = None
        self.offset_ticks = 0
        self.uncertainty_seconds = 0.0

    def advance(self, duration_seconds: float) -> None:
        """Move the clock forward."""
        self.offset_ticks += seconds(duration_seconds)

    @property
    def synchronized(self) -> bool:
        return self.storage is not None and self.storage.synchronized

    def now(self) -> Instant:
        assert self.storage is not None
        return Instant(self.storage.now() + self.offset_ticks)

    def upper_bound(self) -> Instant:
        assert self.storage is not None
        return Instant(self.storage.upper_bound() + self.offset_ticks + seconds(self.uncertainty_seconds))


@pytest.fixture
def clock() -> ShiftedClock:
    """A clock that shows the storage's time, shifted as far as the test wants."""
    return ShiftedClock()


@pytest.fixture
async def server(storage: StorageSettings, clock: ShiftedClock, anyio_backend: str) -> AsyncIterator[StateServer]:
    """A complete server in this process, on the storage emulator."""
    assert storage.connection_string is not None
    # The task hubs of the tests' apps live in the same emulator.
    connection = storage.connection_string.get_secret_value()
    connections = TaskHubConnections({"STATE_TASKHUBS_SHOP": connection, "STATE_TASKHUBS_OTHER": connection})
    state = StateServer(Settings(storage=storage, connections=connections), clock, NO_EVENT_LEASE)
    clock.storage = state.tables.clock
    yield state
    await state.close()


@pytest.fixture
async def http(server: StateServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server that calls its complete ASGI stack."""
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as client:
        yield client


@pytest.fixture
def hub() -> str:
    """A task hub name that no other test uses."""
    return new_hub_name()


@pytest.fixture
def app() -> str:
    """An app name that no other test uses."""
    return new_app_name()


def new_app_name() -> str:
    return f"shop-{uuid.uuid4().hex[:12]}"


def new_hub_name() -> str:
    return f"h{uuid.uuid4().hex[:16]}"
