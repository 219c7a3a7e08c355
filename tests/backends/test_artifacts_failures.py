"""Failures to find and delete the artifacts of a task hub: refusals, faults of each service, invalid settings."""

import pytest

from harness.processes import free_ports
from state_api.backends.protocols import Artifact, ArtifactKind, ReadFailure
from state_api.emulator import EmulatorPorts
from state_api.settings import StorageSettings, emulator_connection_string
from tests.backends.storage_account import (
    ACCOUNT_KEY_START,
    CONNECTION_NAME,
    CUT_CONNECTION,
    HALF_RESPONSE,
    SERVICES,
    RawAccount,
    ServiceFault,
    account,
    account_proxy,
    delete_artifacts,
    hub,
    list_artifact_names,
    list_expected_artifacts,
    open_artifacts,
    raises_read_failure,
)

__all__ = ["account", "hub"]  # fixtures

pytestmark = pytest.mark.anyio


async def test_a_refusal_names_the_missing_role(account: RawAccount, storage: StorageSettings, hub: str) -> None:
    await account.add_hub(hub)
    before = await account.list_contents(hub)
    mismatch = ServiceFault(403, "AuthorizationPermissionMismatch")
    async with account_proxy(storage) as proxy, open_artifacts(proxy.settings) as artifacts:
        task_hub_artifacts = await artifacts.find_artifacts(hub)
        by_kind = {artifact.kind: artifact for artifact in task_hub_artifacts.deletable}
        for kind, service in zip(
            (ArtifactKind.TABLE, ArtifactKind.QUEUE, ArtifactKind.CONTAINER), SERVICES, strict=True
        ):
            role = f"Storage {service} Data Contributor"
            parts = (f"the setting {CONNECTION_NAME}", f"its {kind}s (AuthorizationPermissionMismatch)", role)
            proxy.faults = {service: mismatch}
            with raises_read_failure(ReadFailure.DENIED, *parts):
                await artifacts.find_artifacts(hub)
            # An identity that may only read finds the artifacts and is refused when it deletes one.
            proxy.faults = {f"{service} DELETE": mismatch}
            assert await artifacts.find_artifacts(hub) == task_hub_artifacts
            with raises_read_failure(ReadFailure.DENIED, *parts):
                await artifacts.delete(by_kind[kind])
    assert await account.list_contents(hub) == before


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("fault", "failure", "part", "retry_after"),
    [
        (ServiceFault(503, "ServerBusy", {"Retry-After": "7"}), ReadFailure.THROTTLED, "asks to wait", 7),
        (ServiceFault(429, "TooManyRequests", {"Retry-After": "9"}), ReadFailure.THROTTLED, "asks to wait", 9),
        (ServiceFault(503, "ServerBusy"), ReadFailure.THROTTLED, "asks to wait", None),
        (ServiceFault(500, "InternalError"), ReadFailure.FAILED, "answers 500 (InternalError)", None),
        (ServiceFault(404, "Injected"), ReadFailure.FAILED, "answers 404 (Injected)", None),
        (ServiceFault(401, "InvalidAuthenticationInfo"), ReadFailure.DENIED, "(InvalidAuthenticationInfo)", None),
        (ServiceFault(200), ReadFailure.FAILED, "incomplete or unexpected response", None),
        (ServiceFault(CUT_CONNECTION), ReadFailure.FAILED, "cannot be reached", None),
        (ServiceFault(HALF_RESPONSE), ReadFailure.FAILED, "incomplete or unexpected response", None),
    ],
    ids=lambda value: f"{value.status}{value.headers}" if isinstance(value, ServiceFault) else "",
)
async def test_a_fault_of_any_service_is_reported_by_its_kind(
    *,
    storage: StorageSettings,
    hub: str,
    service: str,
    fault: ServiceFault,
    failure: ReadFailure,
    part: str,
    retry_after: int | None,
) -> None:
    async with account_proxy(storage) as proxy, open_artifacts(proxy.settings) as artifacts:
        proxy.faults = {service: fault}
        with raises_read_failure(failure, f"the setting {CONNECTION_NAME}", part, retry_after=retry_after):
            await artifacts.find_artifacts(hub)


async def test_a_deletion_that_a_fault_interrupts_is_completed_by_the_next_call(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    await account.add_hub(hub)
    async with account_proxy(storage) as proxy, open_artifacts(proxy.settings) as artifacts:
        for service, remaining_count in (("Blob", 11), ("Queue", 8), ("Table", 3)):
            proxy.faults = {f"{service} DELETE": ServiceFault(503, "ServerBusy", {"Retry-After": "1"})}
            with raises_read_failure(ReadFailure.THROTTLED, retry_after=1):
                await delete_artifacts(artifacts, hub)
            assert len(await account.list_contents(hub)) == remaining_count
        proxy.faults = {}
        await delete_artifacts(artifacts, hub)
    assert await account.list_contents(hub) == {}


@pytest.mark.parametrize(
    ("service", "code"), [("Table", "TableBeingDeleted"), ("Queue", "QueueBeingDeleted"), ("Blob", "ContainerNotFound")]
)
async def test_an_artifact_that_is_being_deleted_counts_as_gone(
    storage: StorageSettings, hub: str, service: str, code: str
) -> None:
    kind = dict(zip(SERVICES, (ArtifactKind.TABLE, ArtifactKind.QUEUE, ArtifactKind.CONTAINER), strict=True))[service]
    async with account_proxy(storage) as proxy, open_artifacts(proxy.settings) as artifacts:
        proxy.faults = {service: ServiceFault(409 if code.endswith("Deleted") else 404, code)}
        await artifacts.delete(Artifact(kind, f"{hub}-control-00"))
        proxy.faults = {service: ServiceFault(409, "SomethingElse")}
        with raises_read_failure(ReadFailure.FAILED, "answers 409 (SomethingElse)"):
            await artifacts.delete(Artifact(kind, f"{hub}-control-00"))


async def test_a_table_that_is_deleted_while_it_is_read_is_not_a_failure(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    await account.add_hub(hub)
    async with account_proxy(storage) as proxy, open_artifacts(proxy.settings) as artifacts:
        proxy.faults = {f"/{hub}Instances()": ServiceFault(409, "TableBeingDeleted")}
        assert list_artifact_names(await artifacts.find_artifacts(hub)) == list_expected_artifacts(hub)
        proxy.faults = {f"/{hub}Instances()": ServiceFault(403, "AuthorizationPermissionMismatch")}
        with raises_read_failure(ReadFailure.DENIED, "Storage Table Data Contributor"):
            await artifacts.find_artifacts(hub)


async def test_finding_artifacts_takes_four_requests(account: RawAccount, storage: StorageSettings, hub: str) -> None:
    await account.add_hub(hub)
    async with account_proxy(storage) as proxy, open_artifacts(proxy.settings) as artifacts:
        await artifacts.find_artifacts(hub)
        assert len(proxy.forwarded) == 4


@pytest.mark.parametrize("address", ["127.0.0.1", "no-such-account.invalid"])
async def test_an_account_that_cannot_be_reached_is_reported_with_its_setting(hub: str, address: str) -> None:
    connection = EmulatorPorts(*free_ports(3)).connection_string(address)
    async with open_artifacts(StorageSettings.model_validate({"connection_string": connection})) as artifacts:
        for kind in ArtifactKind:
            with raises_read_failure(
                ReadFailure.FAILED, f"the setting {CONNECTION_NAME} cannot be reached for its {kind}s"
            ):
                await artifacts.delete(Artifact(kind, f"{hub}-leases"))


KEY = f"AccountKey={ACCOUNT_KEY_START}"


@pytest.mark.parametrize(
    ("connection", "kind", "part"),
    [
        ("AccountName=shop;TableEndpoint=http://127.0.0.1:1/shop", ArtifactKind.QUEUE, "add QueueEndpoint"),
        (emulator_connection_string("127.0.0.1", 1, queue_port=2), ArtifactKind.CONTAINER, "add BlobEndpoint"),
        (emulator_connection_string("127.0.0.1", 1, blob_port=2), ArtifactKind.QUEUE, "add QueueEndpoint"),
        ("BlobEndpoint=https://shop.example;SharedAccessSignature=sig", ArtifactKind.TABLE, "add TableEndpoint"),
        (KEY, ArtifactKind.TABLE, "add TableEndpoint to it, or AccountName and AccountKey"),
        ("AccountName=shop", ArtifactKind.TABLE, "is not complete"),
        (f"AccountName=shop;{KEY};nonsense", ArtifactKind.QUEUE, "is not complete"),
        (f"AccountName=shop;{KEY};nonsense", ArtifactKind.CONTAINER, "is not complete"),
    ],
)
async def test_an_incomplete_connection_string_is_reported_with_what_is_missing(
    connection: str, kind: ArtifactKind, part: str
) -> None:
    async with open_artifacts(StorageSettings.model_validate({"connection_string": connection})) as artifacts:
        with raises_read_failure(ReadFailure.FAILED, f"the connection string in the setting {CONNECTION_NAME}", part):
            await artifacts.delete(Artifact(kind, "shopv1-leases"))


async def test_an_invalid_account_key_is_a_refusal() -> None:
    connection = f"AccountName=shop;{KEY}x"
    async with open_artifacts(StorageSettings.model_validate({"connection_string": connection})) as artifacts:
        for kind in ArtifactKind:
            with raises_read_failure(
                ReadFailure.DENIED, f"the setting {CONNECTION_NAME}", "or correct the connection string"
            ):
                await artifacts.delete(Artifact(kind, "shopv1-leases"))


async def test_an_account_name_alone_leads_to_all_services() -> None:
    """The connection strings that the Azure portal shows are like this."""
    connection = f"DefaultEndpointsProtocol=https;AccountName=shop;{KEY};EndpointSuffix=nowhere.invalid"
    async with open_artifacts(StorageSettings.model_validate({"connection_string": connection})) as artifacts:
        for kind in ArtifactKind:
            with raises_read_failure(ReadFailure.FAILED, "cannot be reached"):
                await artifacts.delete(Artifact(kind, "shopv1-leases"))


@pytest.mark.parametrize(
    ("kind", "setting"), [(ArtifactKind.QUEUE, "queueServiceUri"), (ArtifactKind.CONTAINER, "blobServiceUri")]
)
async def test_an_identity_needs_the_address_of_every_service(kind: ArtifactKind, setting: str) -> None:
    settings = StorageSettings(table_service_uri="https://shop.table.core.windows.net")
    async with open_artifacts(settings) as artifacts:
        with raises_read_failure(
            ReadFailure.FAILED, f"set {CONNECTION_NAME}__{setting}, or {CONNECTION_NAME}__accountName"
        ):
            await artifacts.delete(Artifact(kind, "shopv1-leases"))


async def test_an_identity_without_a_token_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    # The only credential that looks for its token in the environment alone.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    settings = StorageSettings(
        table_service_uri="https://shop.table.nowhere.invalid",
        queue_service_uri="https://shop.queue.nowhere.invalid",
        blob_service_uri="https://shop.blob.nowhere.invalid",
        client_id="00000000-0000-0000-0000-000000000000",
    )
    async with open_artifacts(settings) as artifacts:
        for kind, service in zip(
            (ArtifactKind.TABLE, ArtifactKind.QUEUE, ArtifactKind.CONTAINER), SERVICES, strict=True
        ):
            with raises_read_failure(ReadFailure.DENIED, f"its {kind}s", f"Storage {service} Data Contributor"):
                await artifacts.delete(Artifact(kind, "shopv1-leases"))
