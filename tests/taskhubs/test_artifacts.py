"""What a task hub leaves behind is found and removed to the last piece, and nothing of any other hub with it."""

import asyncio
import logging
import secrets
import string
from collections.abc import AsyncIterator, Callable, Iterator
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

from dev.local import free_ports
from state_api.emulator import EmulatorPorts
from state_api.settings import StorageSettings, emulator_connection
from state_api.taskhubs.artifacts import StorageArtifacts
from state_api.taskhubs.backend import Artifact, Found, Kind, SourceError, Trouble
from tests.loopback import HOST, listening
from tests.taskhubs.provider import row

pytestmark = pytest.mark.anyio

NAME = "ShopStorage"
SECRET = "Eby8vdM02xNO"
SERVICES = ("Table", "Queue", "Blob")


def connection_of(storage: StorageSettings) -> str:
    assert storage.connection_string is not None
    return storage.connection_string.get_secret_value()


class Account:
    """The storage account as the app and its operators see it."""

    def __init__(self, connection: str) -> None:
        self.tables = TableServiceClient.from_connection_string(connection)
        self.queues = QueueServiceClient.from_connection_string(connection)
        self.blobs = BlobServiceClient.from_connection_string(connection)

    async def close(self) -> None:
        for client in (self.tables, self.queues, self.blobs):
            await client.close()

    async def make_table(self, name: str, *hubs: str | None) -> None:
        """A table with a row for each of these hubs."""
        await self.tables.create_table(name)
        for number, hub in enumerate(hubs):
            columns = row(hub or "", f"order-{number}", "Completed")
            if hub is None:
                del columns["TaskHubName"]
            await self.tables.get_table_client(name).upsert_entity(columns)

    async def make_queue(self, name: str, messages: int = 1) -> None:
        await self.queues.create_queue(name)
        for _ in range(messages):
            await self.queues.get_queue_client(name).send_message("a message")

    async def make_container(self, name: str) -> None:
        await self.blobs.create_container(name)
        await self.blobs.get_container_client(name).upload_blob("taskhub.json", b"{}")

    async def make_hub(self, hub: str) -> None:
        """All that the provider makes."""
        for suffix in ("Instances", "History", "Partitions"):
            await self.make_table(f"{hub}{suffix}", hub, hub)
        for suffix in ("control-00", "control-01", "control-02", "control-03", "workitems"):
            await self.make_queue(f"{hub.lower()}-{suffix}")
        for suffix in ("leases", "largemessages", "applease"):
            await self.make_container(f"{hub.lower()}-{suffix}")

    async def contents(self, prefix: str) -> dict[str, list[str]]:
        """Everything in the account whose name begins so, with what is in it."""
        found: dict[str, list[str]] = {}
        async for table in self.tables.list_tables():
            if table.name.lower().startswith(prefix):
                rows = self.tables.get_table_client(table.name).list_entities()
                found[f"table {table.name}"] = [str(one) async for one in rows]
        async for queue in self.queues.list_queues(name_starts_with=prefix):
            messages = await self.queues.get_queue_client(queue.name).peek_messages(32)
            found[f"queue {queue.name}"] = [str(one.id) for one in messages]
        async for container in self.blobs.list_containers(name_starts_with=prefix):
            blobs = self.blobs.get_container_client(container.name).list_blob_names()
            found[f"container {container.name}"] = [name async for name in blobs]
        return found


@pytest.fixture
async def account(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[Account]:
    account = Account(connection_of(storage))
    yield account
    await account.close()


@pytest.fixture
async def artifacts(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageArtifacts]:
    artifacts = StorageArtifacts(storage, NAME)
    yield artifacts
    await artifacts.close()


@pytest.fixture
def hub() -> str:
    """A hub name of letters only, that no other test uses and no other name begins with."""
    return "a" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(12))


def names(found: Found) -> list[str]:
    return [str(artifact) for artifact in found.own]


def all_of(hub: str, tables: str | None = None) -> list[str]:
    """What `make_hub` makes, in the order of removal."""
    low = hub.lower()
    return [
        *(f"container {low}-{suffix}" for suffix in ("applease", "leases", "largemessages")),
        *(f"queue {low}-control-{number:02}" for number in range(4)),
        f"queue {low}-workitems",
        *(f"table {tables or hub}{suffix}" for suffix in ("Partitions", "History", "Instances")),
    ]


async def remove_all(artifacts: StorageArtifacts, hub: str) -> None:
    for artifact in (await artifacts.find(hub)).own:
        await artifacts.remove(artifact)


async def test_only_what_is_this_hubs_is_removed(account: Account, artifacts: StorageArtifacts, hub: str) -> None:
    for one in (hub, f"{hub}0", f"{hub}x", f"{hub}Instances"):
        await account.make_hub(one)
    before = await account.contents(hub)
    assert names(await artifacts.find(hub)) == all_of(hub)
    await remove_all(artifacts, hub)
    assert await account.contents(hub) == {name: held for name, held in before.items() if name not in all_of(hub)}
    assert len(before) == 44
    assert await artifacts.find(hub) == Found(())
    assert names(await artifacts.find(f"{hub}0")) == all_of(f"{hub}0")


async def test_what_is_named_like_the_hub_but_is_not_of_it_stays(
    account: Account, artifacts: StorageArtifacts, hub: str
) -> None:
    await account.make_hub(hub)
    foreign = [
        *(f"queue {hub}-{name}" for name in ("mine", "control-backup", "control-0", "control-16", "control-000")),
        *(f"container {hub}-{name}" for name in ("mine", "leases-old", "control-00", "workitems")),
        *(f"table {hub}{name}" for name in ("Orders", "InstancesOld", "s")),
    ]
    makers = {"queue": account.make_queue, "container": account.make_container, "table": account.make_table}
    for one in foreign:
        kind, _, name = one.partition(" ")
        await makers[kind](name)
    await remove_all(artifacts, hub)
    assert sorted(await account.contents(hub)) == sorted(foreign)


async def test_every_control_queue_that_a_hub_can_have_is_found(
    account: Account, artifacts: StorageArtifacts, hub: str
) -> None:
    queues = [f"{hub}-control-{number:02}" for number in range(16)]
    for queue in queues:
        await account.make_queue(queue, 0)
    assert names(await artifacts.find(hub)) == [f"queue {queue}" for queue in queues]


@pytest.mark.parametrize("spelling", [str.upper, str.lower, str.title])
async def test_a_hub_is_the_same_in_upper_and_lower_case(
    account: Account, artifacts: StorageArtifacts, hub: str, spelling: Callable[[str], str]
) -> None:
    made = f"{hub[:6]}{hub[6:].upper()}"
    await account.make_hub(made)
    found = await artifacts.find(spelling(hub))
    assert names(found) == all_of(hub, tables=made)
    assert found.shared == ()
    await remove_all(artifacts, spelling(hub))
    assert await account.contents(hub) == {}


async def test_a_hub_that_left_nothing_has_nothing(artifacts: StorageArtifacts, hub: str) -> None:
    assert await artifacts.find(hub) == Found(())


async def test_tables_that_other_hubs_use_stay(account: Account, artifacts: StorageArtifacts, hub: str) -> None:
    await account.make_hub(hub)
    await account.tables.get_table_client(f"{hub}Instances").upsert_entity(row("another", "their-order", "Running"))
    before = await account.contents(hub)
    found = await artifacts.find(hub)
    kept = [f"table {hub}History", f"table {hub}Instances"]
    assert [str(artifact) for artifact in found.shared] == kept
    assert names(found) == [name for name in all_of(hub) if name not in kept]
    await remove_all(artifacts, hub)
    assert await account.contents(hub) == {name: before[name] for name in kept}


async def test_another_hubs_row_is_found_behind_many_pages(
    account: Account, hub: str, storage: StorageSettings
) -> None:
    """The hub's own rows are spelt in a way that no filter foresees, so that all of them are read."""
    await account.make_table(f"{hub}Instances")
    table = account.tables.get_table_client(f"{hub}Instances")
    for start in range(0, 2300, 100):
        # One partition, because a transaction is faster; the provider has one for each instance.
        rows = [row(hub.upper(), f"order-{n}", "Completed") for n in range(start, start + 100)]
        written = [one | {"PartitionKey": "orders", "RowKey": one["PartitionKey"]} for one in rows]
        await table.submit_transaction([("create", one) for one in written])
    async with proxied(storage) as proxy, opened(proxy.settings) as artifacts:
        assert names(await artifacts.find(hub)) == [f"table {hub}Instances"]
        reads = [path for path in proxy.passed if f"{hub}Instances" in path]
        assert len(reads) == 3
        assert all("$select=TaskHubName&" in f"{path}&" for path in reads)
        await table.upsert_entity(row("another", "zebra", "Completed"))
        assert (await artifacts.find(hub)).shared == (Artifact(Kind.TABLE, f"{hub}Instances"),)


async def test_rows_without_a_hub_belong_to_nobody_else(
    account: Account, artifacts: StorageArtifacts, hub: str
) -> None:
    await account.make_table(f"{hub}Instances", hub, None, "", hub.upper())
    assert names(await artifacts.find(hub)) == [f"table {hub}Instances"]


async def test_a_history_without_instances_stays(account: Account, artifacts: StorageArtifacts, hub: str) -> None:
    """Instances go last, so it is nothing that an interrupted removal has left."""
    await account.make_table(f"{hub}History")
    await account.make_table(f"{hub}Partitions")
    history, partitions = (Artifact(Kind.TABLE, f"{hub}{suffix}") for suffix in ("History", "Partitions"))
    assert await artifacts.find(hub) == Found((partitions,), (history,))


async def test_a_removal_that_was_cut_short_anywhere_is_finished_by_the_next(
    account: Account, storage: StorageSettings, hub: str
) -> None:
    steps = len(all_of(hub))
    for done in range(steps + 1):
        one, neighbour = f"{hub}{done:02}", f"{hub}{done:02}x"
        await account.make_hub(one)
        async with opened(storage) as first:
            for artifact in (await first.find(one)).own[:done]:
                await first.remove(artifact)
        if done == 0:
            await account.make_hub(neighbour)
        async with opened(storage) as second:
            left = await second.find(one)
            assert names(left) == all_of(one)[done:]
            assert done == steps or str(left.own[-1]) == f"table {one}Instances"
            await remove_all(second, one)
    assert sorted(await account.contents(hub)) == sorted(all_of(f"{hub}00x"))


async def test_what_is_gone_can_be_removed_again(account: Account, artifacts: StorageArtifacts, hub: str) -> None:
    await account.make_hub(hub)
    found = await artifacts.find(hub)
    for _ in range(2):
        await asyncio.gather(*(artifacts.remove(artifact) for artifact in found.own for _ in range(2)))
    assert await account.contents(hub) == {}


async def test_leases_on_blobs_do_not_hold_a_container(account: Account, artifacts: StorageArtifacts, hub: str) -> None:
    await account.make_container(f"{hub}-leases")
    async with account.blobs.get_blob_client(f"{hub}-leases", "taskhub.json") as blob:
        await blob.acquire_lease(60)
    await remove_all(artifacts, hub)
    assert await account.contents(hub) == {}


async def test_an_app_that_still_runs_on_the_hub_stops_its_removal(
    account: Account, artifacts: StorageArtifacts, hub: str
) -> None:
    """It holds a lease on the first container that would be removed."""
    await account.make_hub(hub)
    before = await account.contents(hub)
    lease = await account.blobs.get_container_client(f"{hub}-applease").acquire_lease(60)
    with troubled(Trouble.FAILED, f"container {hub}-applease is leased: an app still runs on this task hub"):
        await remove_all(artifacts, hub)
    assert await account.contents(hub) == before
    await lease.release()
    await remove_all(artifacts, hub)
    assert await account.contents(hub) == {}


# Faults.


CUT, HALF = 0, -1


@dataclass
class Fault:
    """An answer in the service's place; or the connection is cut, at once or in the middle of the real answer."""

    status: int
    code: str = "Injected"
    headers: dict[str, str] = field(default_factory=dict)

    def answer(self, service: str) -> web.Response:
        headers = {"x-ms-error-code": self.code, **self.headers}
        if service == "Table":
            content = {"odata.error": {"code": self.code, "message": {"lang": "en-US", "value": "no"}}}
            return web.json_response(content, status=self.status, headers=headers)
        body = f"<?xml version='1.0' encoding='utf-8'?><Error><Code>{self.code}</Code><Message>no</Message></Error>"
        return web.Response(text=body, status=self.status, headers=headers, content_type="application/xml")


@dataclass
class Proxy:
    """Stands before all three services. A fault is named by the path, by service and method, or by the service."""

    settings: StorageSettings
    faults: dict[str, Fault] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)


def cut(request: web.Request) -> NoReturn:
    assert request.transport is not None
    request.transport.abort()
    raise asyncio.CancelledError


@asynccontextmanager
async def proxied(storage: StorageSettings) -> AsyncIterator[Proxy]:
    connection = dict(part.split("=", 1) for part in connection_of(storage).rstrip(";").split(";"))
    services: dict[int, str] = {}

    async def forward(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        service = services[request.transport.get_extra_info("sockname")[1]]
        named = (request.path.removeprefix("/devstoreaccount1"), f"{service} {request.method}", service)
        fault = next((proxy.faults[name] for name in named if name in proxy.faults), None)
        if fault is not None and fault.status == CUT:
            cut(request)
        if fault is not None and fault.status != HALF:
            return fault.answer(service)
        proxy.passed.append(request.path_qs)
        upstream = URL(connection[f"{service}Endpoint"]).origin()
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        async with session.request(
            request.method,
            # The address as it came: a key that was escaped once must not be escaped twice.
            URL(f"{upstream}{request.raw_path}", encoded=True),
            headers=headers,
            data=await request.read() or None,
            # Nothing is added: the signature covers the content type.
            skip_auto_headers=["Content-Type", "Accept-Encoding", "User-Agent", "Accept"],
        ) as answer:
            if fault is not None:
                half = web.StreamResponse(headers={"Content-Type": answer.headers["Content-Type"]})
                half.content_length = len(await answer.read())
                await half.prepare(request)
                await half.write((await answer.read())[: half.content_length // 2])
                cut(request)
            dropped = ("transfer-encoding", "content-length", "connection", "keep-alive")
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in dropped}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    async with aiohttp.ClientSession(auto_decompress=False) as session, listening(forward, len(SERVICES)) as ports:
        services.update(zip(ports, SERVICES, strict=True))
        yield (proxy := Proxy(StorageSettings.model_validate({"connection_string": emulator_connection(HOST, *ports)})))


@asynccontextmanager
async def opened(settings: StorageSettings) -> AsyncIterator[StorageArtifacts]:
    artifacts = StorageArtifacts(settings, NAME)
    try:
        yield artifacts
    finally:
        await artifacts.close()


@contextmanager
def troubled(trouble: Trouble, *parts: str, retry_after: int | None = None) -> Iterator[None]:
    """The block must end in this trouble, told in one line with these parts and without secrets."""
    with pytest.raises(SourceError) as caught:
        yield
    error = caught.value
    assert error.trouble is trouble, error.message
    for part in parts:
        assert part in error.message
    assert error.retry_after == retry_after
    assert "\n" not in error.message
    assert SECRET not in error.message


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


# Messages on their way.


async def test_messages_are_on_their_way_until_the_last_is_deleted(
    account: Account, artifacts: StorageArtifacts, hub: str
) -> None:
    for number in range(4):
        await account.make_queue(f"{hub}-control-{number:02}", 0)
    await account.make_queue(f"{hub}-workitems")
    await account.make_queue(f"{hub}-control-backup")
    await account.make_queue(f"{hub}x-control-00")
    assert await artifacts.in_flight(hub) is False
    queue = account.queues.get_queue_client(f"{hub}-control-03")
    await queue.send_message("start an order")
    assert await artifacts.in_flight(hub) is True
    assert await artifacts.in_flight(hub.upper()) is True
    # A worker has it: nobody else can see it for a while.
    [taken] = [message async for message in queue.receive_messages(visibility_timeout=600)]
    assert await queue.peek_messages() == []
    assert await artifacts.in_flight(hub) is True
    await queue.delete_message(taken)
    assert await artifacts.in_flight(hub) is False
    # A timer, or a delayed start.
    await queue.send_message("wake an order", visibility_timeout=600)
    assert await artifacts.in_flight(hub) is True


async def test_a_hub_without_queues_has_no_messages(account: Account, artifacts: StorageArtifacts, hub: str) -> None:
    assert await artifacts.in_flight(hub) is False
    await account.make_queue(f"{hub}-workitems")
    assert await artifacts.in_flight(hub) is False


async def test_queues_that_cannot_be_read_tell_nothing(
    account: Account, storage: StorageSettings, hub: str, caplog: pytest.LogCaptureFixture
) -> None:
    await account.make_hub(hub)
    caplog.set_level(logging.INFO, "state_api")
    async with proxied(storage) as proxy, opened(proxy.settings) as artifacts:
        proxy.faults = {"Queue": Fault(403, "AuthorizationPermissionMismatch")}
        assert [await artifacts.in_flight(hub) for _ in range(3)] == [None] * 3
        [said] = caplog.messages
        assert "Storage Queue Data Reader" in said
        assert NAME in said
        assert SECRET not in said
        for fault in (Fault(503, "ServerBusy"), Fault(CUT), Fault(404), Fault(200)):
            proxy.faults = {"Queue": fault}
            assert await artifacts.in_flight(hub) is None
        assert len(caplog.messages) == 5
        proxy.faults = {}
        assert await artifacts.in_flight(hub) is True
    nowhere = EmulatorPorts(*free_ports(3)).connection()
    for settings in (
        {"connection_string": nowhere},
        {"connection_string": emulator_connection("127.0.0.1", 1)},
        {"table_service_uri": "https://shop.table.core.windows.net"},
    ):
        async with opened(StorageSettings.model_validate(settings)) as artifacts:
            assert await artifacts.in_flight(hub) is None
    assert {record.levelno for record in caplog.records if record.name.startswith("state_api")} == {logging.INFO}


async def test_a_queue_that_goes_while_it_is_looked_at_holds_nothing(
    account: Account, storage: StorageSettings, hub: str
) -> None:
    await account.make_hub(hub)
    async with proxied(storage) as proxy, opened(proxy.settings) as artifacts:
        proxy.faults = {f"/{hub}-control-{number:02}": Fault(404, "QueueNotFound") for number in range(4)}
        assert await artifacts.in_flight(hub) is False
        proxy.faults[f"/{hub}-control-02"] = Fault(403, "AuthorizationFailure")
        assert await artifacts.in_flight(hub) is None


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
