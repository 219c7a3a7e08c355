"""Fixtures: a server and a stored app on a storage of their own."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from harness.processes import free_ports
from state_api.app import StateServer
from state_api.emulator import EmulatorPorts, storage_emulator
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.http.operations import PROVIDER_CONFIG, get_staging, post_events, put_app
from tests.storage.schema.stored_app import (
    StoredApp,
)


@pytest.fixture(scope="package")
def storage() -> Iterator[StorageSettings]:
    """A separate storage, because the rows that these tests write would make every other test fail."""
    ports = EmulatorPorts(*free_ports(3))
    with storage_emulator(ports, None):
        yield StorageSettings.model_validate({"connection_string": ports.connection_string()})


@pytest.fixture
async def server(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StateServer]:
    """A state server that can read task hubs in the emulator."""
    assert storage.connection_string is not None
    connections = TaskHubConnections({PROVIDER_CONFIG["connection"]: storage.connection_string.get_secret_value()})
    state = StateServer(Settings(storage=storage, connections=connections))
    yield state
    await state.close()


@pytest.fixture
async def stored_app(server: StateServer, http: httpx.AsyncClient, storage: StorageSettings, app: str) -> StoredApp:
    """An app with rows of every kind: events, an active instance, a result of a probe."""
    stored = StoredApp(server, app)
    slots = {"staging": {"taskHub": stored.hub}, "production": {"taskHub": stored.production}}
    await put_app(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    async with ProviderTaskHub(storage, stored.hub) as provider:
        await provider.create()
        assert (await get_staging(http, app))["ready"], "stores a probe result"
        await provider.put("order-1", "Running")
        await post_events(http, event(stored.hub, "order-1", time=timestamp(-30)))
        await post_events(
            http, event(stored.hub, "order-2", time=timestamp(-20)), event(stored.hub, "order-2", "Completed")
        )
        assert not (await get_staging(http, app))["ready"]
    return stored
