"""A server whose storage requests are counted, for the table in docs/performance.md."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.conftest import new_app_name, new_hub_name
from tests.http.operations import PROVIDER_CONFIG, get_staging, put_app


@dataclass(frozen=True, slots=True)
class CountedServer:
    """A client of a server whose storage requests a proxy counts. Each task hub that it creates has `queue_count`
    control queues."""

    http: httpx.AsyncClient
    state_server: StateServer
    proxy: StorageProxy
    storage: StorageSettings
    queue_count: int

    async def count(self, request: Awaitable[object]) -> int:
        """The number of storage requests while the server answers this request, and of what it does afterwards."""
        await self._finish_recording()
        self.proxy.clear()
        response = await request
        await self._finish_recording()
        if isinstance(response, httpx.Response):
            assert response.status_code == 200, response.text
        return len(self.proxy.forwarded)

    async def _finish_recording(self) -> None:
        """Wait until the server has deleted old counters, which it does in the background."""
        while tasks := self.state_server._instances._group_commit._tasks:
            await asyncio.gather(*tasks)

    async def count_unchanged(self, request: Awaitable[httpx.Response]) -> int:
        """The number of storage requests for a routing document that has not changed."""
        self.proxy.clear()
        assert (await request).status_code == 304
        return len(self.proxy.forwarded)

    async def create_provider_hub(self, hub: str) -> None:
        """Create the tables and queues of a task hub, as its app does when it starts."""
        async with ProviderTaskHub(self.storage, hub) as provider:
            await provider.create(queue_count=self.queue_count)

    async def register(self, *, verified: bool) -> tuple[str, str]:
        """Register an app with a drained task hub in its staging slot; the names of both."""
        app, hub = new_app_name(), new_hub_name()
        if verified:
            await self.create_provider_hub(hub)
        members = {"taskHubs": PROVIDER_CONFIG} if verified else {}
        await put_app(self.http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, **members)
        return app, hub

    async def register_and_ask(self, *, verified: bool) -> tuple[str, str]:
        """Register an app, and ask for the status of its staging slot once."""
        app, hub = await self.register(verified=verified)
        assert (await get_staging(self.http, app))["ready"]
        return app, hub


@asynccontextmanager
async def counted_server(storage: StorageSettings, queue_count: int) -> AsyncIterator[CountedServer]:
    """A new server, whose requests to its own storage and to that of the task hubs go through a counting proxy."""
    async with run_storage_proxy(storage, all_services=True) as proxy:
        assert proxy.settings.connection_string is not None
        connections = TaskHubConnections({"STATE_TASKHUBS_SHOP": proxy.settings.connection_string.get_secret_value()})
        server = StateServer(Settings(storage=proxy.settings, connections=connections))
        transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as http:
            yield CountedServer(http, server, proxy, storage, queue_count)
        await server.close()
