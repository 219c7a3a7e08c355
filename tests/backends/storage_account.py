"""A storage account with task hubs, as the app and its operators see it, and a proxy in front of it that injects
faults."""

import asyncio
import secrets
import string
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import aiohttp
import pytest
from aiohttp import web
from azure.data.tables.aio import TableServiceClient
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue.aio import QueueServiceClient
from yarl import URL

from harness.http_server import HOST, run_http_server
from state_api.backends.protocols import BackendError, ReadFailure, TaskHubArtifacts
from state_api.backends.storage_account import StorageAccount
from state_api.backends.storage_artifacts import StorageArtifactStore
from state_api.emulator import EmulatorPorts
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import provider_row

CONNECTION_NAME = "ShopStorage"
ACCOUNT_KEY_START = "Eby8vdM02xNO"
"""The beginning of the emulator's account key, which no message may contain."""
SERVICES = ("Table", "Queue", "Blob")
CUT_CONNECTION, HALF_RESPONSE = 0, -1
"""Values for the status of a fault: the connection is closed without a response, or in the middle of it."""


def connection_string_of(storage: StorageSettings) -> str:
    assert storage.connection_string is not None
    return storage.connection_string.get_secret_value()


class RawAccount:
    """Creates and reads tables, queues and containers, as the app and its operators do."""

    def __init__(self, connection: str) -> None:
        self.tables = TableServiceClient.from_connection_string(connection)
        self.queues = QueueServiceClient.from_connection_string(connection)
        self.blobs = BlobServiceClient.from_connection_string(connection)

    async def close(self) -> None:
        for client in (self.tables, self.queues, self.blobs):
            await client.close()

    async def add_table(self, name: str, *hubs: str | None) -> None:
        """Create a table with a row of each of these task hubs; None stands for a row without a task hub's name."""
        await self.tables.create_table(name)
        for number, hub in enumerate(hubs):
            columns = provider_row(hub or "", f"order-{number}", "Completed")
            if hub is None:
                del columns["TaskHubName"]
            await self.tables.get_table_client(name).upsert_entity(columns)

    async def add_partitions(self, hub: str, count: int) -> None:
        """Create the table that has a row for each control queue, or add rows to it."""
        await self.tables.create_table_if_not_exists(f"{hub}Partitions")
        for number in range(count):
            entity = {"PartitionKey": "", "RowKey": f"{hub.lower()}-control-{number:02}", "CurrentOwner": "worker-1"}
            await self.tables.get_table_client(f"{hub}Partitions").upsert_entity(entity)

    async def add_queue(self, name: str, messages: int = 1) -> None:
        """Create a queue with so many messages."""
        await self.queues.create_queue(name)
        for _ in range(messages):
            await self.queues.get_queue_client(name).send_message("a message")

    async def add_container(self, name: str) -> None:
        """Create a container with a blob, as the provider creates its lease container."""
        await self.blobs.create_container(name)
        await self.blobs.get_container_client(name).upload_blob("taskhub.json", b"{}")

    async def add_hub(self, hub: str) -> None:
        """Create everything that the provider creates for a task hub."""
        for suffix in ("Instances", "History"):
            await self.add_table(f"{hub}{suffix}", hub, hub)
        await self.add_partitions(hub, 4)
        for suffix in ("control-00", "control-01", "control-02", "control-03", "workitems"):
            await self.add_queue(f"{hub.lower()}-{suffix}")
        for suffix in ("leases", "largemessages", "applease"):
            await self.add_container(f"{hub.lower()}-{suffix}")

    async def list_contents(self, prefix: str) -> dict[str, list[str]]:
        """List every table, queue and container whose name begins with `prefix`, with its content."""
        contents: dict[str, list[str]] = {}
        async for table in self.tables.list_tables():
            if table.name.lower().startswith(prefix):
                rows = self.tables.get_table_client(table.name).list_entities()
                contents[f"table {table.name}"] = [str(row) async for row in rows]
        async for queue in self.queues.list_queues(name_starts_with=prefix):
            messages = await self.queues.get_queue_client(queue.name).peek_messages(32)
            contents[f"queue {queue.name}"] = [str(message.id) for message in messages]
        async for container in self.blobs.list_containers(name_starts_with=prefix):
            blobs = self.blobs.get_container_client(container.name).list_blob_names()
            contents[f"container {container.name}"] = [name async for name in blobs]
        return contents


@pytest.fixture
async def account(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[RawAccount]:
    """A client of the whole storage account, to create and look up what a test needs."""
    account = RawAccount(connection_string_of(storage))
    yield account
    await account.close()


@pytest.fixture
async def artifacts(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageArtifactStore]:
    """The store that finds and deletes the artifacts of task hubs in the account."""
    async with open_artifacts(storage) as artifacts:
        yield artifacts


@pytest.fixture
def hub() -> str:
    """A name of letters only that no other test uses, and that no other task hub's name begins with."""
    return "a" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(12))


def list_artifact_names(artifacts: TaskHubArtifacts) -> list[str]:
    """The artifacts that Cleanup deletes, as it names them, in the order of deletion."""
    return [str(artifact) for artifact in artifacts.deletable]


def list_expected_artifacts(hub: str, tables: str | None = None) -> list[str]:
    """Return what `add_hub` creates, in the order of deletion. `tables` is the name as the tables spell it."""
    lower = hub.lower()
    return [
        *(f"container {lower}-{suffix}" for suffix in ("applease", "leases", "largemessages")),
        *(f"queue {lower}-control-{number:02}" for number in range(4)),
        f"queue {lower}-workitems",
        *(f"table {tables or hub}{suffix}" for suffix in ("Partitions", "History", "Instances")),
    ]


async def delete_artifacts(artifacts: StorageArtifactStore, hub: str) -> None:
    """Delete everything that belongs to the task hub, as a cleanup does."""
    for artifact in (await artifacts.find_artifacts(hub)).deletable:
        await artifacts.delete(artifact)


@dataclass
class ServiceFault:
    """A response in the service's place; or a closed connection, if the status is CUT_CONNECTION or HALF_RESPONSE."""

    status: int
    code: str = "Injected"
    headers: dict[str, str] = field(default_factory=dict)

    def to_response(self, service: str) -> web.Response:
        """The response in the format of the service's errors."""
        headers = {"x-ms-error-code": self.code, **self.headers}
        if service == "Table":
            body = {"odata.error": {"code": self.code, "message": {"lang": "en-US", "value": "no"}}}
            return web.json_response(body, status=self.status, headers=headers)
        xml = f"<?xml version='1.0' encoding='utf-8'?><Error><Code>{self.code}</Code><Message>no</Message></Error>"
        return web.Response(text=xml, status=self.status, headers=headers, content_type="application/xml")


@dataclass
class AccountProxy:
    """Forwards requests to all three services.

    `faults` are by path, by service and method (`Queue DELETE`), or by service; the first of these applies. `forwarded`
    are the paths of the requests that were passed on.
    """

    settings: StorageSettings
    faults: dict[str, ServiceFault] = field(default_factory=dict)
    forwarded: list[str] = field(default_factory=list)
    before_request: Callable[[str, str], Awaitable[None]] | None = None
    """Awaited before a request is passed on, with its method and path."""


def abort_connection(request: web.Request) -> NoReturn:
    """Close the client's connection without a response."""
    assert request.transport is not None
    request.transport.abort()
    raise asyncio.CancelledError


@asynccontextmanager
async def account_proxy(storage: StorageSettings) -> AsyncIterator[AccountProxy]:
    """A proxy before each service of the storage account, at which a test injects faults or acts before a request."""
    connection = dict(part.split("=", 1) for part in connection_string_of(storage).rstrip(";").split(";"))
    services: dict[int, str] = {}

    async def forward_request(request: web.Request) -> web.StreamResponse:
        """Send the request to the emulator and return its response, or fail in the way that the test has set for its
        path."""
        assert request.transport is not None
        service = services[request.transport.get_extra_info("sockname")[1]]
        fault_keys = (request.path.removeprefix("/devstoreaccount1"), f"{service} {request.method}", service)
        fault = next((proxy.faults[key] for key in fault_keys if key in proxy.faults), None)
        if fault is not None and fault.status == CUT_CONNECTION:
            abort_connection(request)
        if fault is not None and fault.status != HALF_RESPONSE:
            return fault.to_response(service)
        proxy.forwarded.append(request.path_qs)
        if proxy.before_request is not None:
            await proxy.before_request(request.method, request.path)
        upstream = URL(connection[f"{service}Endpoint"]).origin()
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        async with session.request(
            request.method,
            # The path as received: a key that is escaped must not be escaped again.
            URL(f"{upstream}{request.raw_path}", encoded=True),
            headers=headers,
            data=await request.read() or None,
            # Added headers would invalidate the signature, which covers the content type.
            skip_auto_headers=["Content-Type", "Accept-Encoding", "User-Agent", "Accept"],
        ) as response:
            if fault is not None:
                half = web.StreamResponse(headers={"Content-Type": response.headers["Content-Type"]})
                half.content_length = len(await response.read())
                await half.prepare(request)
                await half.write((await response.read())[: half.content_length // 2])
                abort_connection(request)
            hop_headers = ("transfer-encoding", "content-length", "connection", "keep-alive")
            headers = {name: value for name, value in response.headers.items() if name.lower() not in hop_headers}
            return web.Response(status=response.status, body=await response.read(), headers=headers)

    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        run_http_server(forward_request, len(SERVICES)) as ports,
    ):
        services.update(zip(ports, SERVICES, strict=True))
        yield (
            proxy := AccountProxy(
                StorageSettings.model_validate({"connection_string": EmulatorPorts(*ports).connection_string(HOST)})
            )
        )


@asynccontextmanager
async def open_artifacts(settings: StorageSettings) -> AsyncIterator[StorageArtifactStore]:
    """The store of artifacts in this account, closed at the end of the block."""
    account = StorageAccount(settings, CONNECTION_NAME)
    try:
        yield StorageArtifactStore(account)
    finally:
        await account.close()


@contextmanager
def raises_read_failure(failure: ReadFailure, *parts: str, retry_after: int | None = None) -> Iterator[None]:
    """Expect the block to raise BackendError with this failure and a message of one line, with these parts and without
    secrets."""
    with pytest.raises(BackendError) as caught:
        yield
    error = caught.value
    assert error.failure is failure, error.message
    for part in parts:
        assert part in error.message
    assert error.retry_after == retry_after
    assert "\n" not in error.message
    assert ACCOUNT_KEY_START not in error.message
