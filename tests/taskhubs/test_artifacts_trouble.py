"""What goes wrong while what a task hub left is found and removed: refusals, faults of each service, bad settings."""

import pytest

from dev.local import free_ports
from state_api.emulator import EmulatorPorts
from state_api.settings import StorageSettings, emulator_connection
from state_api.taskhubs.backend import Artifact, Kind, Trouble
from tests.taskhubs.accounts import (
    CUT,
    HALF,
    NAME,
    SECRET,
    SERVICES,
    Account,
    Fault,
    account,
    all_of,
    hub,
    names,
    opened,
    proxied,
    remove_all,
    troubled,
)

__all__ = ["account", "hub"]  # fixtures

pytestmark = pytest.mark.anyio


async def test_a_refusal_names_the_role_that_is_missing(account: Account, storage: StorageSettings, hub: str) -> None:
    await account.make_hub(hub)
    before = await account.contents(hub)
    mismatch = Fault(403, "AuthorizationPermissionMismatch")
    async with proxied(storage) as proxy, opened(proxy.settings) as artifacts:
        found = await artifacts.find(hub)
        by_kind = {artifact.kind: artifact for artifact in found.own}
        for kind, service in zip((Kind.TABLE, Kind.QUEUE, Kind.CONTAINER), SERVICES, strict=True):
            role = f"Storage {service} Data Contributor"
            told = (f"the setting {NAME}", f"its {kind}s (AuthorizationPermissionMismatch)", role)
            proxy.faults = {service: mismatch}
            with troubled(Trouble.DENIED, *told):
                await artifacts.find(hub)
            # Whoever may only read finds out when it deletes.
            proxy.faults = {f"{service} DELETE": mismatch}
            assert await artifacts.find(hub) == found
            with troubled(Trouble.DENIED, *told):
                await artifacts.remove(by_kind[kind])
    assert await account.contents(hub) == before


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("fault", "trouble", "part", "retry_after"),
    [
        (Fault(503, "ServerBusy", {"Retry-After": "7"}), Trouble.THROTTLED, "asks to wait", 7),
        (Fault(429, "TooManyRequests", {"Retry-After": "9"}), Trouble.THROTTLED, "asks to wait", 9),
        (Fault(503, "ServerBusy"), Trouble.THROTTLED, "asks to wait", None),
        (Fault(500, "InternalError"), Trouble.FAILED, "answers 500 (InternalError)", None),
        (Fault(404, "Injected"), Trouble.FAILED, "answers 404 (Injected)", None),
        (Fault(401, "InvalidAuthenticationInfo"), Trouble.DENIED, "(InvalidAuthenticationInfo)", None),
        (Fault(200), Trouble.FAILED, "does not answer as a storage account does", None),
        (Fault(CUT), Trouble.FAILED, "cannot be reached", None),
        (Fault(HALF), Trouble.FAILED, "does not answer as a storage account does", None),
    ],
    ids=lambda value: f"{value.status}{value.headers}" if isinstance(value, Fault) else "",
)
async def test_a_fault_of_any_service_is_told_by_its_kind(
    storage: StorageSettings,
    hub: str,
    service: str,
    fault: Fault,
    trouble: Trouble,
    part: str,
    retry_after: int | None,
) -> None:
    async with proxied(storage) as proxy, opened(proxy.settings) as artifacts:
        proxy.faults = {service: fault}
        with troubled(trouble, f"the setting {NAME}", part, retry_after=retry_after):
            await artifacts.find(hub)


async def test_a_fault_in_the_middle_leaves_the_rest_to_the_next_call(
    account: Account, storage: StorageSettings, hub: str
) -> None:
    await account.make_hub(hub)
    async with proxied(storage) as proxy, opened(proxy.settings) as artifacts:
        for service, left in (("Blob", 11), ("Queue", 8), ("Table", 3)):
            proxy.faults = {f"{service} DELETE": Fault(503, "ServerBusy", {"Retry-After": "1"})}
            with troubled(Trouble.THROTTLED, retry_after=1):
                await remove_all(artifacts, hub)
            assert len(await account.contents(hub)) == left
        proxy.faults = {}
        await remove_all(artifacts, hub)
    assert await account.contents(hub) == {}


@pytest.mark.parametrize(
    ("service", "code"), [("Table", "TableBeingDeleted"), ("Queue", "QueueBeingDeleted"), ("Blob", "ContainerNotFound")]
)
async def test_what_is_being_deleted_counts_as_gone(
    storage: StorageSettings, hub: str, service: str, code: str
) -> None:
    kind = dict(zip(SERVICES, (Kind.TABLE, Kind.QUEUE, Kind.CONTAINER), strict=True))[service]
    async with proxied(storage) as proxy, opened(proxy.settings) as artifacts:
        proxy.faults = {service: Fault(409 if code.endswith("Deleted") else 404, code)}
        await artifacts.remove(Artifact(kind, f"{hub}-control-00"))
        proxy.faults = {service: Fault(409, "SomethingElse")}
        with troubled(Trouble.FAILED, "answers 409 (SomethingElse)"):
            await artifacts.remove(Artifact(kind, f"{hub}-control-00"))


async def test_a_table_that_goes_while_it_is_looked_at_is_no_trouble(
    account: Account, storage: StorageSettings, hub: str
) -> None:
    await account.make_hub(hub)
    async with proxied(storage) as proxy, opened(proxy.settings) as artifacts:
        proxy.faults = {f"/{hub}Instances()": Fault(409, "TableBeingDeleted")}
        assert names(await artifacts.find(hub)) == all_of(hub)
        proxy.faults = {f"/{hub}Instances()": Fault(403, "AuthorizationPermissionMismatch")}
        with troubled(Trouble.DENIED, "Storage Table Data Contributor"):
            await artifacts.find(hub)


async def test_finding_takes_few_requests(account: Account, storage: StorageSettings, hub: str) -> None:
    await account.make_hub(hub)
    async with proxied(storage) as proxy, opened(proxy.settings) as artifacts:
        await artifacts.find(hub)
        assert len(proxy.passed) == 4


@pytest.mark.parametrize("address", ["127.0.0.1", "no-such-account.invalid"])
async def test_an_account_that_cannot_be_reached_is_told_with_its_setting(hub: str, address: str) -> None:
    connection = EmulatorPorts(*free_ports(3)).connection(address)
    async with opened(StorageSettings.model_validate({"connection_string": connection})) as artifacts:
        for kind in Kind:
            with troubled(Trouble.FAILED, f"the setting {NAME} cannot be reached for its {kind}s"):
                await artifacts.remove(Artifact(kind, f"{hub}-leases"))


KEY = f"AccountKey={SECRET}"


@pytest.mark.parametrize(
    ("connection", "kind", "part"),
    [
        ("AccountName=shop;TableEndpoint=http://127.0.0.1:1/shop", Kind.QUEUE, "add QueueEndpoint"),
        (emulator_connection("127.0.0.1", 1, 2), Kind.CONTAINER, "add BlobEndpoint"),
        (emulator_connection("127.0.0.1", 1, None, 2), Kind.QUEUE, "add QueueEndpoint"),
        ("BlobEndpoint=https://shop.example;SharedAccessSignature=sig", Kind.TABLE, "add TableEndpoint"),
        (KEY, Kind.TABLE, "add TableEndpoint to it, or AccountName and AccountKey"),
        ("AccountName=shop", Kind.TABLE, "is not complete"),
        (f"AccountName=shop;{KEY};nonsense", Kind.QUEUE, "is not complete"),
        (f"AccountName=shop;{KEY};nonsense", Kind.CONTAINER, "is not complete"),
    ],
)
async def test_a_connection_string_that_lacks_something_is_told_so(connection: str, kind: Kind, part: str) -> None:
    async with opened(StorageSettings.model_validate({"connection_string": connection})) as artifacts:
        with troubled(Trouble.FAILED, f"the connection string in the setting {NAME}", part):
            await artifacts.remove(Artifact(kind, "shopv1-leases"))


async def test_a_key_that_is_none_is_a_refusal() -> None:
    connection = f"AccountName=shop;{KEY}x"
    async with opened(StorageSettings.model_validate({"connection_string": connection})) as artifacts:
        for kind in Kind:
            with troubled(Trouble.DENIED, f"the setting {NAME}", "or correct the connection string"):
                await artifacts.remove(Artifact(kind, "shopv1-leases"))


async def test_an_account_name_alone_leads_to_all_services() -> None:
    """As in the connection strings that Azure gives out."""
    connection = f"DefaultEndpointsProtocol=https;AccountName=shop;{KEY};EndpointSuffix=nowhere.invalid"
    async with opened(StorageSettings.model_validate({"connection_string": connection})) as artifacts:
        for kind in Kind:
            with troubled(Trouble.FAILED, "cannot be reached"):
                await artifacts.remove(Artifact(kind, "shopv1-leases"))


@pytest.mark.parametrize(("kind", "setting"), [(Kind.QUEUE, "queueServiceUri"), (Kind.CONTAINER, "blobServiceUri")])
async def test_an_identity_needs_the_address_of_every_service(kind: Kind, setting: str) -> None:
    settings = StorageSettings(table_service_uri="https://shop.table.core.windows.net")
    async with opened(settings) as artifacts:
        with troubled(Trouble.FAILED, f"set {NAME}__{setting}, or {NAME}__accountName"):
            await artifacts.remove(Artifact(kind, "shopv1-leases"))


async def test_an_identity_without_a_token_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    # The only kind of identity that looks for its token nowhere but in the environment.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    settings = StorageSettings(
        table_service_uri="https://shop.table.nowhere.invalid",
        queue_service_uri="https://shop.queue.nowhere.invalid",
        blob_service_uri="https://shop.blob.nowhere.invalid",
        client_id="00000000-0000-0000-0000-000000000000",
    )
    async with opened(settings) as artifacts:
        for kind, service in zip((Kind.TABLE, Kind.QUEUE, Kind.CONTAINER), SERVICES, strict=True):
            with troubled(Trouble.DENIED, f"its {kind}s", f"Storage {service} Data Contributor"):
                await artifacts.remove(Artifact(kind, "shopv1-leases"))
