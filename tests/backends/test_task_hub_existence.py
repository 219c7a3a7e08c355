"""What single providers say about a task hub's name before it is claimed. What all of them say is in the contract
suite."""

from typing import Any

import grpc  # type: ignore[import-untyped]  # it has no types
import pytest
from durabletask.internal import orchestrator_service_pb2 as protocol

from state_api.backends.azure_storage import AzureStorageBackend
from state_api.backends.protocols import ArtifactKind, ReadFailure
from state_api.domain.task_hubs.ownership import ExistingArtifacts
from state_api.settings import StorageSettings, emulator_connection_string
from tests.backends.fake_schedulers import (
    HUB,
    FakeScheduler,
    build_orchestration_state,
    open_backend,
    open_backend_of_service,
)
from tests.backends.storage_account import (
    ACCOUNT_KEY_START,
    CONNECTION_NAME,
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


async def test_a_storage_account_has_the_addresses_of_its_services_without_secrets(anyio_backend: str) -> None:
    backend = AzureStorageBackend(
        StorageSettings.model_validate({"connection_string": SAS_CONNECTION}), CONNECTION_NAME
    )
    assert backend.addresses == tuple(f"https://shop.{kind}.core.windows.net" for kind in ("table", "queue", "blob"))
    assert ACCOUNT_KEY_START not in str(backend.addresses)
    service_uris = {
        f"{kind}_service_uri": f"https://shop.{kind}.core.windows.net/" for kind in ("table", "queue", "blob")
    }
    with_identity = AzureStorageBackend(StorageSettings.model_validate(service_uris), CONNECTION_NAME)
    assert with_identity.addresses == backend.addresses
    await with_identity.close()
    await backend.close()


async def test_services_without_a_known_address_are_not_asked(storage: StorageSettings, hub: str) -> None:
    """A server that reads only tables needs no more than their address in the setting."""
    parts = dict(part.split("=", 1) for part in connection_string_of(storage).rstrip(";").split(";"))
    port = int(parts["TableEndpoint"].split(":")[2].split("/")[0])
    tables_only = StorageSettings.model_validate({"connection_string": emulator_connection_string("127.0.0.1", port)})
    backend = AzureStorageBackend(tables_only, CONNECTION_NAME)
    assert backend.addresses == (parts["TableEndpoint"],)
    assert await backend.find_existing(hub) == ExistingArtifacts((), backend.addresses)
    assert backend.artifacts.service_address(ArtifactKind.QUEUE) is None
    await backend.close()


@pytest.mark.parametrize("service", ["Table", "Queue", "Blob"])
async def test_a_service_that_fails_is_an_error(storage: StorageSettings, hub: str, service: str) -> None:
    async with account_proxy(storage) as proxy:
        backend = AzureStorageBackend(proxy.settings, CONNECTION_NAME)
        proxy.faults[service] = ServiceFault(429, headers={"Retry-After": "4"})
        with raises_read_failure(ReadFailure.THROTTLED, "asks to wait", retry_after=4):
            await backend.find_existing(hub)
        await backend.close()


async def test_tables_that_may_not_be_listed_are_an_error(storage: StorageSettings, hub: str) -> None:
    async with account_proxy(storage) as proxy:
        backend = AzureStorageBackend(proxy.settings, CONNECTION_NAME)
        proxy.faults["Table"] = ServiceFault(403, "AuthorizationPermissionMismatch")
        with raises_read_failure(ReadFailure.DENIED, "Storage Table Data Reader"):
            await backend.find_existing(hub)
        await backend.close()


async def test_a_task_hub_that_the_scheduler_does_not_have_is_new() -> None:
    """On a scheduler it must be created before the app starts, so it is no error that it is missing."""

    class SchedulerWithoutTaskHub(FakeScheduler):
        def query(self, request: protocol.QueryInstancesRequest, context: Any) -> Any:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such task hub")

    async with open_backend_of_service(SchedulerWithoutTaskHub()) as backend:
        assert await backend.find_existing(HUB) == ExistingArtifacts((), backend.addresses)


async def test_a_scheduler_is_asked_for_further_pages_after_empty_ones() -> None:
    class EmptyPagesScheduler(FakeScheduler):
        def query(self, request: protocol.QueryInstancesRequest, context: Any) -> protocol.QueryInstancesResponse:
            self.queries.append(request.query)
            states = self.states if len(self.queries) == 4 else []
            token = {"value": f"page {len(self.queries)}"}
            return protocol.QueryInstancesResponse(orchestrationState=states, continuationToken=token)

    scheduler = EmptyPagesScheduler([build_orchestration_state("order-1", 1)])
    async with open_backend_of_service(scheduler) as backend:
        existing = await backend.find_existing(HUB)
    assert existing is not None
    assert existing.artifacts == (f"orchestration instances in task hub {HUB}",)
    assert [query.continuationToken.value for query in scheduler.queries] == ["", "page 1", "page 2", "page 3"]


async def test_a_scheduler_that_cannot_be_reached_is_an_error(anyio_backend: str) -> None:
    async with open_backend("Endpoint=http://127.0.0.1:9;Authentication=None") as backend:
        with raises_read_failure(ReadFailure.FAILED, "cannot be reached"):
            await backend.find_existing(HUB)
