"""What every backend says of a task hub name before it is claimed: one contract for all providers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped]  # it has no types
import pytest
from durabletask.internal import orchestrator_service_pb2 as protocol

from state_api.domain.ownership import Existing
from state_api.settings import StorageSettings, emulator_connection
from state_api.taskhubs.azure_storage import AzureStorageBackend
from state_api.taskhubs.backend import Backend, Kind, Trouble
from tests.taskhubs import management_app as management
from tests.taskhubs.accounts import NAME, SECRET, Account, Fault, connection_of, hub, proxied, troubled
from tests.taskhubs.schedulers import HUB, Scheduler, opened, reading, state_of

__all__ = ["hub"]

pytestmark = pytest.mark.anyio

SIGNED = (
    "TableEndpoint=https://shop.table.core.windows.net;QueueEndpoint=https://shop.queue.core.windows.net;"
    "BlobEndpoint=https://shop.blob.core.windows.net;SharedAccessSignature=sv=2024&sig=Eby8vdM02xNO"
)


@dataclass
class Provider:
    """A backend, and how an app makes a task hub there. `asked` counts the requests that have come."""

    backend: Backend
    make: Callable[[str], Awaitable[None]]
    asked: Callable[[], int]
    answers: bool = True


@asynccontextmanager
async def azure_storage(storage: StorageSettings) -> AsyncIterator[Provider]:
    account = Account(connection_of(storage))
    async with proxied(storage) as proxy:
        backend = AzureStorageBackend(proxy.settings, NAME)
        yield Provider(backend, account.make_hub, lambda: len(proxy.passed))
        await backend.close()
    await account.close()


@asynccontextmanager
async def tracking_store(storage: StorageSettings) -> AsyncIterator[Provider]:
    """The task hub has no table of its own: all it has is rows among those of others."""
    account = Account(connection_of(storage))

    async def make(name: str) -> None:
        await account.make_table("ContractInstances", "another", name.upper())

    async with proxied(storage) as proxy:
        backend = AzureStorageBackend(proxy.settings, NAME, proxy.settings, "Tracking", "Contract")
        yield Provider(backend, make, lambda: len(proxy.passed))
        await backend.close()
        await account.tables.delete_table("ContractInstances")
    await account.close()


@asynccontextmanager
async def scheduler(_: StorageSettings) -> AsyncIterator[Provider]:
    own = Scheduler()

    async def make(name: str) -> None:
        own.states.append(state_of("@counter@shop", 1))

    async with reading(own) as backend:
        yield Provider(backend, make, lambda: len(own.asked))


@asynccontextmanager
async def management_api(_: StorageSettings) -> AsyncIterator[Provider]:
    running = management.App("")

    async def make(name: str) -> None:
        running.put("order-1")

    async with management.served(running.answer) as origin, management.backend_on(origin) as backend:
        yield Provider(backend, make, lambda: len(running.asked), answers=False)


PROVIDERS: list[Callable[[StorageSettings], AbstractAsyncContextManager[Provider]]] = [
    azure_storage,
    tracking_store,
    scheduler,
    management_api,
]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_provider_says_what_exists_under_a_name_and_where_it_looked(
    storage: StorageSettings, hub: str, provider: Callable[..., AbstractAsyncContextManager[Provider]]
) -> None:
    async with provider(storage) as at:
        addresses = at.backend.addresses
        assert at.asked() == 0, "to say where task hubs are needs no connection"
        assert addresses
        assert all(one.startswith(("http://127.0.0.1:", "http://[::1]:", "http://localhost:")) for one in addresses)
        before = await at.backend.existing(hub)
        await at.make(hub)
        after = await at.backend.existing(hub)
        if at.answers:
            assert before == Existing((), addresses)
            assert after is not None
            assert (bool(after.artifacts), after.addresses) == (True, addresses)
        else:
            # To ask would create the task hub.
            assert (before, after, at.asked()) == (None, None, 0)


async def test_an_account_is_known_by_its_addresses_without_its_secrets(anyio_backend: str) -> None:
    backend = AzureStorageBackend(StorageSettings.model_validate({"connection_string": SIGNED}), NAME)
    assert backend.addresses == tuple(f"https://shop.{kind}.core.windows.net" for kind in ("table", "queue", "blob"))
    assert SECRET not in str(backend.addresses)
    by_name = {f"{kind}_service_uri": f"https://shop.{kind}.core.windows.net/" for kind in ("table", "queue", "blob")}
    same = AzureStorageBackend(StorageSettings.model_validate(by_name), NAME)
    assert same.addresses == backend.addresses
    await same.close()
    await backend.close()


async def test_services_whose_address_is_not_known_are_not_asked(storage: StorageSettings, hub: str) -> None:
    """A server that verifies by the tables alone needs no more of the setting."""
    parts = dict(part.split("=", 1) for part in connection_of(storage).rstrip(";").split(";"))
    port = int(parts["TableEndpoint"].split(":")[2].split("/")[0])
    tables_only = StorageSettings.model_validate({"connection_string": emulator_connection("127.0.0.1", port)})
    backend = AzureStorageBackend(tables_only, NAME)
    assert backend.addresses == (parts["TableEndpoint"],)
    assert await backend.existing(hub) == Existing((), backend.addresses)
    assert backend.artifacts.address(Kind.QUEUE) is None
    await backend.close()


@pytest.mark.parametrize("service", ["Table", "Queue", "Blob"])
async def test_what_fails_is_no_answer(storage: StorageSettings, hub: str, service: str) -> None:
    async with proxied(storage) as proxy:
        backend = AzureStorageBackend(proxy.settings, NAME)
        proxy.faults[service] = Fault(429, headers={"Retry-After": "4"})
        with troubled(Trouble.THROTTLED, "asks to wait", retry_after=4):
            await backend.existing(hub)
        await backend.close()


async def test_tables_that_must_not_be_listed_are_no_answer(storage: StorageSettings, hub: str) -> None:
    async with proxied(storage) as proxy:
        backend = AzureStorageBackend(proxy.settings, NAME)
        proxy.faults["Table"] = Fault(403, "AuthorizationPermissionMismatch")
        with troubled(Trouble.DENIED, "Storage Table Data Reader"):
            await backend.existing(hub)
        await backend.close()


async def test_a_scheduler_that_has_no_such_task_hub_has_nothing_under_its_name() -> None:
    """It must be created before the app starts, so that it is not there is no mistake."""

    class Missing(Scheduler):
        def query(self, request: protocol.QueryInstancesRequest, context: Any) -> Any:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such task hub")

    async with reading(Missing()) as backend:
        assert await backend.existing(HUB) == Existing((), backend.addresses)


async def test_pages_without_instances_are_not_the_end_of_a_schedulers_answer() -> None:
    class Slow(Scheduler):
        def query(self, request: protocol.QueryInstancesRequest, context: Any) -> protocol.QueryInstancesResponse:
            self.asked.append(request.query)
            states = self.states if len(self.asked) == 4 else []
            token = {"value": f"page {len(self.asked)}"}
            return protocol.QueryInstancesResponse(orchestrationState=states, continuationToken=token)

    own = Slow([state_of("order-1", 1)])
    async with reading(own) as backend:
        existing = await backend.existing(HUB)
    assert existing is not None
    assert existing.artifacts == (f"orchestration instances in task hub {HUB}",)
    assert [query.continuationToken.value for query in own.asked] == ["", "page 1", "page 2", "page 3"]


async def test_a_scheduler_that_is_away_is_no_answer(anyio_backend: str) -> None:
    async with opened("Endpoint=http://127.0.0.1:9;Authentication=None") as backend:
        with troubled(Trouble.FAILED, "cannot be reached"):
            await backend.existing(HUB)
