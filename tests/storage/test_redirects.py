"""A storage account or an app that answers with redirects: the server follows none, because its credentials would go to
the target."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx
import pytest
from aiohttp import web

from harness.http_server import HOST, run_http_server
from state_api.app import StateServer
from state_api.backends.azure_storage import AzureStorageBackend
from state_api.backends.control_queues import ControlQueues
from state_api.backends.management_api import ManagementApiBackend
from state_api.backends.management_api_client import ManagementApiClient
from state_api.backends.protocols import Artifact, ArtifactKind, Backend, BackendError, ReadFailure
from state_api.backends.storage_account import StorageAccount
from state_api.backends.storage_artifacts import StorageArtifactStore
from state_api.domain.instants import Instant
from state_api.emulator import EmulatorPorts
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from tests.builders import event
from tests.conftest import new_hub_name

pytestmark = pytest.mark.anyio


@dataclass
class RedirectingServer:
    """A server that redirects every request to another server, and the requests that each of the two has received."""

    port: int
    requests: list[str] = field(default_factory=list)
    requests_at_target: list[str] = field(default_factory=list)

    @property
    def settings(self) -> StorageSettings:
        """Settings of a state storage whose tables, queues and blobs are all at this server."""
        connection = EmulatorPorts(self.port, self.port, self.port).connection_string(HOST)
        return StorageSettings.model_validate({"connection_string": connection})


@pytest.fixture(params=[301, 302, 307, 308])
async def redirecting_server(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[RedirectingServer]:
    """A server that redirects requests to the server `requests_at_target` with one of the redirect statuses."""
    requests: list[str] = []
    requests_at_target: list[str] = []

    async def answer_at_target(request: web.Request) -> web.StreamResponse:
        """Keep a request that has followed the redirect, with its credentials."""
        requests_at_target.append(f"{request.method} {request.path} {request.headers.get('Authorization')}")
        return web.json_response({"value": []})

    async with AsyncExitStack() as stack:
        (target_port,) = await stack.enter_async_context(run_http_server(answer_at_target))

        async def redirect_to_target(redirected: web.Request) -> web.StreamResponse:
            """Redirect the request to another server."""
            requests.append(f"{redirected.method} {redirected.path}")
            location = f"http://{HOST}:{target_port}{redirected.rel_url}"
            return web.Response(status=request.param, headers={"Location": location})

        (port,) = await stack.enter_async_context(run_http_server(redirect_to_target))
        yield RedirectingServer(port, requests, requests_at_target)


async def test_a_redirect_of_the_state_storage_is_not_followed(redirecting_server: RedirectingServer) -> None:
    server = StateServer(Settings(storage=redirecting_server.settings, connections=TaskHubConnections({})))
    transport = httpx.ASGITransport(server.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=60) as http:
        responses = [
            await http.get("/api/health/ready"),
            await http.get("/api/apps"),
            await http.get("/api/apps/shop/staging"),
            await http.get("/api/quarantine"),
            await http.post("/api/events", json=[event(new_hub_name())]),
            await http.post("/api/apps/shop/staging", json={"taskHub": new_hub_name()}),
        ]
    await server.close()
    assert [response.status_code for response in responses] == [503] * len(responses)
    assert redirecting_server.requests
    assert redirecting_server.requests_at_target == []


READS: dict[str, Callable[[Backend], Awaitable[object]]] = {
    "start": lambda backend: backend.begin_scan("orders"),
    "page": lambda backend: backend.read_page("orders", Instant(0), "[null, null]"),
    "find": lambda backend: backend.find_instances("orders", ["order-1"]),
}


@pytest.mark.parametrize("read", READS)
async def test_a_redirect_of_an_apps_storage_account_is_not_followed(
    redirecting_server: RedirectingServer, read: str
) -> None:
    backend = AzureStorageBackend(redirecting_server.settings, "STATE_TASKHUBS_SHOP")
    with pytest.raises(BackendError) as raised:
        await READS[read](backend)
    await backend.close()
    assert raised.value.failure is ReadFailure.FAILED
    assert redirecting_server.requests
    assert redirecting_server.requests_at_target == []


async def test_a_redirect_of_an_apps_queues_containers_and_tables_is_not_followed(
    redirecting_server: RedirectingServer,
) -> None:
    account = StorageAccount(redirecting_server.settings, "STATE_TASKHUBS_SHOP")
    artifacts = StorageArtifactStore(account)
    with pytest.raises(BackendError):
        await artifacts.find_artifacts("orders")
    for kind in ArtifactKind:
        with pytest.raises(BackendError):
            await artifacts.delete(Artifact(kind, "orders-control-00"))
    with pytest.raises(BackendError):
        await ControlQueues(account).read_queue_snapshot("orders")
    await account.close()
    assert len(redirecting_server.requests) >= 5
    assert redirecting_server.requests_at_target == []


async def test_a_redirect_of_an_apps_management_api_is_not_followed(redirecting_server: RedirectingServer) -> None:
    address = f"http://{HOST}:{redirecting_server.port}"
    backend = ManagementApiBackend(ManagementApiClient(address, "the-system-key", "STATE_TASKHUBS_SHOP"))
    for read in ("start", "find"):
        with pytest.raises(BackendError, match="redirects"):
            await READS[read](backend)
    await backend.close()
    assert redirecting_server.requests
    assert redirecting_server.requests_at_target == []
