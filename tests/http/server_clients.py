"""Clients of further servers that a test starts, and failures of the storage behind a proxy."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from harness.storage_proxy import StorageProxy
from state_api.app import StateServer
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from tests.backends.storage_account import connection_string_of
from tests.conftest import NO_EVENT_LEASE, ShiftedClock


@asynccontextmanager
async def client_of_server_with(
    storage: StorageSettings, clock: ShiftedClock, settings: dict[str, str]
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose only connections to task hubs are these settings."""
    server = StateServer(Settings(storage=storage, connections=TaskHubConnections(settings)), clock)
    clock.storage = server.tables.clock
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as client:
        yield client
    await server.close()


@asynccontextmanager
async def client_of_server_reading(
    storage: StorageSettings, provider_storage: StorageSettings, clock: ShiftedClock
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that stores its state in `storage` and reads task hubs through `provider_storage`."""
    assert provider_storage.connection_string is not None
    connections = TaskHubConnections({"STATE_TASKHUBS_SHOP": provider_storage.connection_string.get_secret_value()})
    server = StateServer(Settings(storage=storage, connections=connections), clock)
    clock.storage = server.tables.clock
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as client:
        yield client
    await server.close()


@asynccontextmanager
async def client_of_second_server(storage: StorageSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a second server on the same storage."""
    server = StateServer(Settings(storage=storage), event_lease=NO_EVENT_LEASE)
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://other", timeout=60) as client:
        yield client
    await server.close()


def fail_from_request(proxy: StorageProxy, method: str, number: int) -> None:
    """Make the proxy answer the `number`th request of this method, and all later requests, with status 500.

    Of POST requests, only transactions count.
    """
    request_count = 0

    def failure_status(sent_method: str, path: str) -> int | None:
        """Fail every request of this method from the given number on. Of POST requests only transactions count."""
        nonlocal request_count
        request_count += sent_method == method and (method != "POST" or path.endswith("$batch"))
        return 500 if request_count >= number else None

    proxy.failure_status = failure_status


def connection_at_other_address(storage: StorageSettings) -> str:
    """A connection to the same emulator under another address. It stands for another account that has a task hub of the
    same name."""
    return connection_string_of(storage).replace("127.0.0.1", "localhost")
