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
from tests.backends.fake_schedulers import HUB, FakeScheduler, open_backend, open_backend_of, orchestration_state
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
