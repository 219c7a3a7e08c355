"""What every backend says of a task hub name before it is claimed: one contract for all providers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped]  # it has no types
import pytest
from durabletask.internal import orchestrator_service_pb2 as protocol

from state_api.backends.azure_storage import AzureStorageBackend, TrackingStore
from state_api.backends.protocols import ArtifactKind, Backend, ReadFailure
from state_api.domain.task_hubs.ownership import ExistingArtifacts
from state_api.settings import StorageSettings, emulator_connection_string
from tests.backends import fake_function_app as management
from tests.backends.fake_schedulers import HUB, FakeScheduler, open_backend, open_backend_of, orchestration_state
from tests.backends.storage_account import (
    ACCOUNT_KEY_START,
    CONNECTION_NAME,
    RawAccount,
    ServiceFault,
    account_proxy,
    connection_string_of,
    hub,
    raises_read_failure,
)

__all__ = ["hub"]

pytestmark = pytest.mark.anyio

SAS_CONNECTION = (
    "TableEndpoint=https://shop.table.core.windows.net;QueueEndpoint=https://shop.queue.core.windows.net;"
    "BlobEndpoint=https://shop.blob.core.windows.net;SharedAccessSignature=sv=2024&sig=Eby8vdM02xNO"
)


@dataclass
class ContractProvider:
    """A backend, and how an app makes a task hub there. `asked` counts the requests that have come."""

    backend: Backend
    make: Callable[[str], Awaitable[None]]
    asked: Callable[[], int]
    answers: bool = True


@asynccontextmanager
async def azure_storage(storage: StorageSettings) -> AsyncIterator[ContractProvider]:
    account = RawAccount(connection_string_of(storage))
    async with account_proxy(storage) as proxy:
        backend = AzureStorageBackend(proxy.settings, CONNECTION_NAME)
        yield ContractProvider(backend, account.add_hub, lambda: len(proxy.forwarded))
        await backend.close()
    await account.close()


@asynccontextmanager
async def tracking_store(storage: StorageSettings) -> AsyncIterator[ContractProvider]:
    """The task hub has no table of its own: all it has is rows among those of others."""
    account = RawAccount(connection_string_of(storage))

    async def make(name: str) -> None:
        await account.add_table("ContractInstances", "another", name.upper())

    async with account_proxy(storage) as proxy:
        backend = AzureStorageBackend(
            proxy.settings, CONNECTION_NAME, TrackingStore(proxy.settings, "Tracking", "Contract")
        )
        yield ContractProvider(backend, make, lambda: len(proxy.forwarded))
        await backend.close()
        await account.tables.delete_table("ContractInstances")
    await account.close()


@asynccontextmanager
async def scheduler(_: StorageSettings) -> AsyncIterator[ContractProvider]:
    own = FakeScheduler()

    async def make(name: str) -> None:
        own.states.append(orchestration_state("@counter@shop", 1))

    async with open_backend_of(own) as backend:
        yield ContractProvider(backend, make, lambda: len(own.queries))


@asynccontextmanager
async def management_api(_: StorageSettings) -> AsyncIterator[ContractProvider]:
    running = management.FakeFunctionApp("")

    async def make(name: str) -> None:
        running.put("order-1")

    async with management.serve_http(running.answer) as origin, management.open_management_backend(origin) as backend:
        yield ContractProvider(backend, make, lambda: len(running.requests), answers=False)


PROVIDERS: list[Callable[[StorageSettings], AbstractAsyncContextManager[ContractProvider]]] = [
    azure_storage,
    tracking_store,
    scheduler,
    management_api,
]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_provider_says_what_exists_under_a_name_and_where_it_looked(
    storage: StorageSettings, hub: str, provider: Callable[..., AbstractAsyncContextManager[ContractProvider]]
) -> None:
    async with provider(storage) as at:
        addresses = at.backend.addresses
        assert at.asked() == 0, "to say where task hubs are needs no connection"
        assert addresses
        assert all(one.startswith(("http://127.0.0.1:", "http://[::1]:", "http://localhost:")) for one in addresses)
        before = await at.backend.find_existing(hub)
        await at.make(hub)
        after = await at.backend.find_existing(hub)
        if at.answers:
            assert before == ExistingArtifacts((), addresses)
            assert after is not None
            assert (bool(after.artifacts), after.addresses) == (True, addresses)
        else:
            # To ask would create the task hub.
            assert (before, after, at.asked()) == (None, None, 0)


async def test_an_account_is_known_by_its_addresses_without_its_secrets(anyio_backend: str) -> None:
    backend = AzureStorageBackend(
        StorageSettings.model_validate({"connection_string": SAS_CONNECTION}), CONNECTION_NAME
    )
    assert backend.addresses == tuple(f"https://shop.{kind}.core.windows.net" for kind in ("table", "queue", "blob"))
    assert ACCOUNT_KEY_START not in str(backend.addresses)
    by_name = {f"{kind}_service_uri": f"https://shop.{kind}.core.windows.net/" for kind in ("table", "queue", "blob")}
    same = AzureStorageBackend(StorageSettings.model_validate(by_name), CONNECTION_NAME)
    assert same.addresses == backend.addresses
    await same.close()
    await backend.close()


async def test_services_whose_address_is_not_known_are_not_asked(storage: StorageSettings, hub: str) -> None:
    """A server that verifies by the tables alone needs no more of the setting."""
    parts = dict(part.split("=", 1) for part in connection_string_of(storage).rstrip(";").split(";"))
    port = int(parts["TableEndpoint"].split(":")[2].split("/")[0])
    tables_only = StorageSettings.model_validate({"connection_string": emulator_connection_string("127.0.0.1", port)})
    backend = AzureStorageBackend(tables_only, CONNECTION_NAME)
    assert backend.addresses == (parts["TableEndpoint"],)
    assert await backend.find_existing(hub) == ExistingArtifacts((), backend.addresses)
    assert backend.artifacts.service_address(ArtifactKind.QUEUE) is None
    await backend.close()


@pytest.mark.parametrize("service", ["Table", "Queue", "Blob"])
async def test_what_fails_is_no_answer(storage: StorageSettings, hub: str, service: str) -> None:
    async with account_proxy(storage) as proxy:
        backend = AzureStorageBackend(proxy.settings, CONNECTION_NAME)
        proxy.faults[service] = ServiceFault(429, headers={"Retry-After": "4"})
        with raises_read_failure(ReadFailure.THROTTLED, "asks to wait", retry_after=4):
            await backend.find_existing(hub)
        await backend.close()


async def test_tables_that_must_not_be_listed_are_no_answer(storage: StorageSettings, hub: str) -> None:
    async with account_proxy(storage) as proxy:
        backend = AzureStorageBackend(proxy.settings, CONNECTION_NAME)
        proxy.faults["Table"] = ServiceFault(403, "AuthorizationPermissionMismatch")
        with raises_read_failure(ReadFailure.DENIED, "Storage Table Data Reader"):
            await backend.find_existing(hub)
        await backend.close()


async def test_a_scheduler_that_has_no_such_task_hub_has_nothing_under_its_name() -> None:
    """It must be created before the app starts, so that it is not there is no mistake."""

    class Missing(FakeScheduler):
        def query(self, request: protocol.QueryInstancesRequest, context: Any) -> Any:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such task hub")

    async with open_backend_of(Missing()) as backend:
        assert await backend.find_existing(HUB) == ExistingArtifacts((), backend.addresses)


async def test_pages_without_instances_are_not_the_end_of_a_schedulers_answer() -> None:
    class Slow(FakeScheduler):
        def query(self, request: protocol.QueryInstancesRequest, context: Any) -> protocol.QueryInstancesResponse:
            self.queries.append(request.query)
            states = self.states if len(self.queries) == 4 else []
            token = {"value": f"page {len(self.queries)}"}
            return protocol.QueryInstancesResponse(orchestrationState=states, continuationToken=token)

    own = Slow([orchestration_state("order-1", 1)])
    async with open_backend_of(own) as backend:
        existing = await backend.find_existing(HUB)
    assert existing is not None
    assert existing.artifacts == (f"orchestration instances in task hub {HUB}",)
    assert [query.continuationToken.value for query in own.queries] == ["", "page 1", "page 2", "page 3"]


async def test_a_scheduler_that_is_away_is_no_answer(anyio_backend: str) -> None:
    async with open_backend("Endpoint=http://127.0.0.1:9;Authentication=None") as backend:
        with raises_read_failure(ReadFailure.FAILED, "cannot be reached"):
            await backend.find_existing(HUB)
