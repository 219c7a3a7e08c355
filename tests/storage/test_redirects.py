"""An account or an app that redirects: no request goes to where it leads, because credentials would go along."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx
import pytest
from aiohttp import web

from state_api.app import StateServer
from state_api.domain.instants import Instant
from state_api.settings import Connections, Settings, StorageSettings, emulator_connection
from state_api.taskhubs.account import StorageAccount
from state_api.taskhubs.artifacts import StorageArtifacts
from state_api.taskhubs.azure_storage import AzureStorageBackend
from state_api.taskhubs.backend import Artifact, Backend, Kind, SourceError, Trouble
from state_api.taskhubs.control_queues import ControlQueues
from state_api.taskhubs.management_api import ManagementApiBackend
from tests.builders import event
from tests.conftest import new_hub
from tests.loopback import HOST, listening

pytestmark = pytest.mark.anyio


@dataclass
class Redirecting:
    """A server that answers every request with a redirect to another place, and what both were asked."""

    port: int
    asked: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    @property
    def settings(self) -> StorageSettings:
        connection = emulator_connection(HOST, self.port, self.port, self.port)
        return StorageSettings.model_validate({"connection_string": connection})


@pytest.fixture(params=[301, 302, 307, 308])
async def redirecting(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[Redirecting]:
    asked: list[str] = []
    elsewhere: list[str] = []

    async def collect(asking: web.Request) -> web.StreamResponse:
        elsewhere.append(f"{asking.method} {asking.path} {asking.headers.get('Authorization')}")
        return web.json_response({"value": []})

    async with AsyncExitStack() as stack:
        (other,) = await stack.enter_async_context(listening(collect))

        async def redirect(asking: web.Request) -> web.StreamResponse:
            asked.append(f"{asking.method} {asking.path}")
            return web.Response(status=request.param, headers={"Location": f"http://{HOST}:{other}{asking.rel_url}"})

        (port,) = await stack.enter_async_context(listening(redirect))
        yield Redirecting(port, asked, elsewhere)


async def test_the_state_storage_cannot_lead_the_server_elsewhere(redirecting: Redirecting) -> None:
    server = StateServer(Settings(storage=redirecting.settings, connections=Connections({})))
    transport = httpx.ASGITransport(server.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=60) as http:
        answers = [
            await http.get("/api/health/ready"),
            await http.get("/api/apps"),
            await http.get("/api/apps/shop/staging"),
            await http.get("/api/quarantine"),
            await http.post("/api/events", json=[event(new_hub())]),
            await http.post("/api/apps/shop/staging", json={"taskHub": new_hub()}),
        ]
    await server.close()
    assert [answer.status_code for answer in answers] == [503] * len(answers)
    assert redirecting.asked
    assert redirecting.elsewhere == []


READS: dict[str, Callable[[Backend], Awaitable[object]]] = {
    "start": lambda backend: backend.start("orders"),
    "page": lambda backend: backend.page("orders", Instant(0), "[null, null]"),
    "find": lambda backend: backend.find("orders", ["order-1"]),
}


@pytest.mark.parametrize("read", READS)
async def test_an_apps_account_cannot_lead_the_server_elsewhere(redirecting: Redirecting, read: str) -> None:
    backend = AzureStorageBackend(redirecting.settings, "STATE_TASKHUBS_SHOP")
    with pytest.raises(SourceError) as raised:
        await READS[read](backend)
    await backend.close()
    assert raised.value.trouble is Trouble.FAILED
    assert redirecting.asked
    assert redirecting.elsewhere == []


async def test_its_queues_containers_and_tables_cannot_either(redirecting: Redirecting) -> None:
    account = StorageAccount(redirecting.settings, "STATE_TASKHUBS_SHOP")
    artifacts = StorageArtifacts(account)
    with pytest.raises(SourceError):
        await artifacts.find("orders")
    for kind in Kind:
        with pytest.raises(SourceError):
            await artifacts.remove(Artifact(kind, "orders-control-00"))
    with pytest.raises(SourceError):
        await ControlQueues(account).snapshot("orders")
    await account.close()
    assert len(redirecting.asked) >= 5
    assert redirecting.elsewhere == []


async def test_an_apps_management_api_cannot_either(redirecting: Redirecting) -> None:
    backend = ManagementApiBackend(f"http://{HOST}:{redirecting.port}", "the-system-key", "STATE_TASKHUBS_SHOP")
    for read in ("start", "find"):
        with pytest.raises(SourceError, match="redirects"):
            await READS[read](backend)
    await backend.close()
    assert redirecting.asked
    assert redirecting.elsewhere == []
