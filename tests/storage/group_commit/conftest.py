"""An instance store behind a proxy, which counts and fails its requests, and a task hub to record events of."""

from collections.abc import AsyncIterator

import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.services.ports import TaskHubRecord
from state_api.settings import Settings, StorageSettings
from state_api.storage.instances import InstanceStore
from state_api.storage.task_hubs import TaskHubStore
from tests.storage.stored_rows import instance_store


@pytest.fixture
async def proxy(storage: StorageSettings) -> AsyncIterator[StorageProxy]:
    """A proxy in front of the emulator that counts requests and can fail."""
    async with run_storage_proxy(storage) as storage_proxy:
        yield storage_proxy


@pytest.fixture
async def server_behind_proxy(proxy: StorageProxy) -> AsyncIterator[StateServer]:
    """A state server whose storage requests go through the proxy."""
    server = StateServer(Settings(storage=proxy.settings))
    yield server
    await server.close()


@pytest.fixture
async def store(server_behind_proxy: StateServer) -> AsyncIterator[InstanceStore]:
    """The instance store of the server behind the proxy, with nothing cached."""
    instances = instance_store(server_behind_proxy)
    yield instances
    await instances.close()


@pytest.fixture
async def record(server: StateServer, hub: str) -> TaskHubRecord:
    """A task hub with one shard, so that all its updates share one queue."""
    return await TaskHubStore(server.tables, shards=1).get_or_create(hub)
