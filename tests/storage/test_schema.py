"""Rows of another schema number: every operation that needs one is refused, and none changes one."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from azure.data.tables import TableEntity, UpdateMode

from dev.local import free_ports
from state_api.app import StateServer
from state_api.domain.errors import UnsupportedSchema
from state_api.domain.instants import Instant
from state_api.domain.names import app_key
from state_api.emulator import EmulatorPorts, storage_emulator
from state_api.services.ports import Quarantined
from state_api.settings import Connections, Settings, StorageSettings
from state_api.storage import schema
from state_api.storage.instance_rows import BEAT, CLOSED
from state_api.storage.quarantine import QuarantineStore
from state_api.storage.schema import INSTANCE, SCHEMA, RowSchema
from state_api.storage.tables import APPS, QUARANTINE, TASK_HUBS, instance_table
from tests.builders import at, event
from tests.conftest import new_hub
from tests.http.client import problem, publish, put, stage, staging
from tests.http.test_verification import SOURCE
from tests.taskhubs.provider import ProviderHub

pytestmark = pytest.mark.anyio

NEWER, NONE = 2, None
Row = dict[str, Any]


@pytest.fixture(scope="module")
def storage() -> Iterator[StorageSettings]:
    """A storage of its own: what these tests write would stop every other test."""
    ports = EmulatorPorts(*free_ports(3))
    with storage_emulator(ports, None):
        yield StorageSettings.model_validate({"connection_string": ports.connection()})


@dataclass
class Place:
    """An app with a task hub in each slot, one of them with an active and an ended instance, that was read once."""

    server: StateServer
    app: str
    hub: str = field(default_factory=new_hub)
    production: str = field(default_factory=new_hub)

    async def rows(self, table: str, of: Callable[[Row], bool]) -> list[TableEntity]:
        found = self.server.tables.client(table).list_entities()
        return [row async for row in found if of(row)]

    @asynccontextmanager
    async def tampered(
        self, table: str, of: Callable[[Row], bool], number: int | None
    ) -> AsyncIterator[httpx.AsyncClient]:
        """Give these rows another schema number, and start a server. The rows must then stay as they are."""
        client = self.server.tables.client(table)
        before = await self.rows(table, of)
        assert before, "there are such rows"
        for row in before:
            changed = {name: value for name, value in row.items() if name != SCHEMA}
            changed |= {} if number is None else {SCHEMA: number}
            await client.upsert_entity(changed, mode=UpdateMode.REPLACE)
        tampered = await self.rows(table, of)
        try:
            async with fresh(self.server) as http:
                yield http
            after = await self.rows(table, of)
            assert [(dict(row), row.metadata["etag"]) for row in after] == [
                (dict(row), row.metadata["etag"]) for row in tampered
            ]
        finally:
            for row in before:
                await client.upsert_entity(row, mode=UpdateMode.REPLACE)


@asynccontextmanager
async def fresh(server: StateServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that remembers nothing."""
    settings = server.api.state.settings
    another = StateServer(settings)
    transport = httpx.ASGITransport(another.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://fresh", timeout=60) as client:
        yield client
    await another.close()


@pytest.fixture
async def server(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StateServer]:
    assert storage.connection_string is not None
    connections = Connections({SOURCE["connection"]: storage.connection_string.get_secret_value()})
    state = StateServer(Settings(storage=storage, connections=connections))
    yield state
    await state.close()


@pytest.fixture
async def place(server: StateServer, http: httpx.AsyncClient, storage: StorageSettings, app: str) -> Place:
    made = Place(server, app)
    slots = {"staging": {"taskHub": made.hub}, "production": {"taskHub": made.production}}
    await put(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=SOURCE)
    async with ProviderHub(storage, made.hub) as provider:
        await provider.create()
        assert (await staging(http, app))["ready"], "now there is a probe result"
        await provider.put("order-1", "Running")
        await publish(http, event(made.hub, "order-1", time=at(-30)))
        await publish(http, event(made.hub, "order-2", time=at(-20)), event(made.hub, "order-2", "Completed"))
        assert not (await staging(http, app))["ready"]
    return made


Request = tuple[str, str, Any]


def requests_of(place: Place) -> dict[str, Request]:
    """Every operation, as a request to which these apps and task hubs have an answer."""
    app, hub = f"/api/apps/{place.app}", place.hub
    return {
        "GetStagingStatus": ("GET", f"{app}/staging?verify=none", None),
        "GetStagingStatus cached": ("GET", f"{app}/staging", None),
        "GetStagingStatus fresh": ("GET", f"{app}/staging?verify=fresh", None),
        "PostStaging": ("POST", f"{app}/staging", {"taskHub": new_hub()}),
        "PostStaging forced": ("POST", f"{app}/staging", {"taskHub": new_hub(), "force": True, "reason": "x"}),
        "DeleteStaging": ("DELETE", f"{app}/staging?taskHub={hub}", None),
        "Cleanup": ("POST", f"{app}/cleanup", {}),
        "ListApps": ("GET", "/api/apps", None),
        "GetApp": ("GET", app, None),
        "PutApp": ("PUT", app, {"slots": {"staging": None}}),
        "DeleteApp": ("DELETE", app, None),
        # After those that a pending swap would refuse.
        "PostSwap": ("POST", f"{app}/swap", {"taskHub": hub, "outcome": "Pending"}),
        "GetHistory": ("GET", f"{app}/history", None),
        "PostWaiver": (
            "POST",
            f"{app}/waivers",
            {"taskHub": hub, "instanceId": "order-1", "reason": "x", "expiresAt": at(3600)},
        ),
        "DeleteWaiver": ("DELETE", f"{app}/waivers?taskHub={hub}&instanceId=order-1", None),
        "GetTaskHub": ("GET", f"/api/taskhubs/{hub}", None),
        "DeleteTaskHub": ("DELETE", f"/api/taskhubs/{hub}", None),
        "ListInstances": ("GET", f"/api/taskhubs/{hub}/instances", None),
        "ListInstances ended": ("GET", f"/api/taskhubs/{hub}/instances?active=false&status=Completed", None),
        "GetVersions": ("GET", f"/api/taskhubs/{hub}/versions", None),
        "PostEvents": ("POST", "/api/events", [event(hub, "order-1", "Completed"), event(hub, "order-2", "Failed")]),
        "ListQuarantine": ("GET", "/api/quarantine", None),
        "PurgeQuarantine": ("DELETE", "/api/quarantine?before=2020-01-01", None),
    }


async def refused(http: httpx.AsyncClient, place: Place, number: int | None, said: str, *operations: str) -> None:
    """Each of these operations answers that it cannot read such rows. No other fails."""
    answers = {
        name: await http.request(method, path, json=body) for name, (method, path, body) in requests_of(place).items()
    }
    assert {name for name, answer in answers.items() if answer.status_code >= 500} == set(operations)
    for name in operations:
        told = problem(answers[name], 503, "UnsupportedSchema")
        assert said in told["detail"], (name, told)
        assert ("Run the server version" if number else "empty storage account") in told["detail"]
        assert int(answers[name].headers["retry-after"]) > 0


OF_AN_APP = (
    "GetStagingStatus",
    "GetStagingStatus cached",
    "GetStagingStatus fresh",
    "PostStaging",
    "PostStaging forced",
    "DeleteStaging",
    "PostSwap",
    "Cleanup",
    "ListApps",
    "GetApp",
    "PutApp",
    "DeleteApp",
    "GetHistory",
    "PostWaiver",
    "DeleteWaiver",
    "GetTaskHub",
    "GetVersions",
)
VERDICTS = (
    "GetStagingStatus",
    "GetStagingStatus cached",
    "GetStagingStatus fresh",
    "PostStaging",
    "PostStaging forced",
    "PutApp",
    "DeleteApp",
)

numbers = pytest.mark.parametrize("number", [NEWER, NONE], ids=["newer", "without a number"])


@numbers
async def test_an_app_of_another_schema(place: Place, number: int | None) -> None:
    key = app_key(place.app)
    async with place.tampered(APPS, lambda row: row["PartitionKey"] == key and row["RowKey"] == "app", number) as http:
        await refused(http, place, number, "apps in the state storage", *OF_AN_APP)


@numbers
async def test_an_entry_in_the_list_of_apps_of_another_schema(place: Place, number: int | None) -> None:
    key = app_key(place.app)
    async with place.tampered(
        APPS, lambda row: row["PartitionKey"] == "|apps" and row["RowKey"] == key, number
    ) as http:
        told = problem(await http.get("/api/apps"), 503, "UnsupportedSchema")
        assert "list of apps" in told["detail"]
        assert (await http.get(f"/api/apps/{place.app}")).status_code == 200


async def test_the_entry_in_the_list_of_apps_is_not_written_again(place: Place) -> None:
    """An app that is created while its entry is there already, of whatever schema."""
    client = place.server.tables.client(APPS)
    name = f"{place.app}-b"
    await client.create_entity({"PartitionKey": "|apps", "RowKey": name, SCHEMA: NEWER, "New": "x"})
    async with place.tampered(APPS, lambda row: row["RowKey"] == name, NEWER) as http:
        assert (await put(http, name)).status_code == 200
    await client.delete_entity("|apps", name)


@numbers
async def test_an_audit_record_of_another_schema(place: Place, number: int | None) -> None:
    key = app_key(place.app)
    of = lambda row: row["PartitionKey"] == key and row["RowKey"].startswith("audit|")  # noqa: E731
    async with place.tampered(APPS, of, number) as http:
        told = problem(await http.get(f"/api/apps/{place.app}/history"), 503, "UnsupportedSchema")
        assert "audit log" in told["detail"]


@numbers
async def test_a_registered_task_hub_of_another_schema(place: Place, number: int | None) -> None:
    of = lambda row: row["PartitionKey"] == "hub" and row["RowKey"] == place.hub  # noqa: E731
    operations = (*VERDICTS, "GetTaskHub", "DeleteTaskHub", "ListInstances", "ListInstances ended", "GetVersions")
    async with place.tampered(TASK_HUBS, of, number) as http:
        await refused(http, place, number, "registry of task hubs", *operations, "PostEvents")
        other = f"{place.app}-b"
        problem(await stage(http, other, place.hub), 503, "UnsupportedSchema")
        problem(await put(http, other, slots={"production": {"taskHub": place.hub}}), 503, "UnsupportedSchema")


async def test_a_task_hub_of_another_schema_is_not_left_out_of_the_limit(
    place: Place, storage: StorageSettings
) -> None:
    of = lambda row: row["PartitionKey"] == "hub" and row["RowKey"] == place.hub  # noqa: E731
    async with place.tampered(TASK_HUBS, of, NEWER):
        limited = StateServer(Settings(storage=storage, unclaimed_task_hubs=100))
        with pytest.raises(UnsupportedSchema):
            await limited.services.recorder.record([event(new_hub())], "webhook")
        await limited.close()


@numbers
async def test_an_instance_of_another_schema(place: Place, number: int | None) -> None:
    """Its two rows: one transaction writes both."""
    async with place.tampered(instance_table(place.hub), lambda row: row["RowKey"][:2] in ("i|", "a|"), number) as http:
        # PostEvents comes after all others.
        await refused(
            http,
            place,
            number,
            "instances in the state storage",
            *VERDICTS,
            "GetTaskHub",
            "ListInstances",
            "ListInstances ended",
            "GetVersions",
            "PostEvents",
        )


async def test_an_instance_of_another_schema_does_not_hold_up_its_neighbours(place: Place) -> None:
    table = instance_table(place.hub)
    async with place.tampered(table, lambda row: row["RowKey"] == "i|order-2", NEWER) as http:
        mixed = [event(place.hub, f"neighbour-{number}") for number in range(20)]
        mixed.insert(10, event(place.hub, "order-2", "Failed"))
        problem(await http.post("/api/events", json=mixed), 503, "UnsupportedSchema")
        problem(await http.post("/api/events", json=mixed[10:11]), 503, "UnsupportedSchema")
        again = await publish(http, *mixed[:10], *mixed[11:])
        assert again["recorded"] + again["unchanged"] == 20
    written = await place.rows(table, lambda row: row["RowKey"].startswith("i|neighbour"))
    assert len(written) == 20


async def test_an_instance_that_this_worker_remembers_is_read_again(place: Place) -> None:
    """The row was changed by a newer server since this one wrote it."""
    table = instance_table(place.hub)
    async with fresh(place.server) as known:
        await publish(known, event(place.hub, "order-7"))
        async with place.tampered(table, lambda row: row["RowKey"] == "i|order-7", NEWER):
            sent = event(place.hub, "order-7", "Completed")
            problem(await known.post("/api/events", json=[sent]), 503, "UnsupportedSchema")


@numbers
@pytest.mark.parametrize("prefix", [BEAT, CLOSED], ids=["of a function", "of corrections"])
async def test_an_activity_stamp_of_another_schema(place: Place, prefix: str, number: int | None) -> None:
    table = instance_table(place.hub)
    client = place.server.tables.client(table)
    if prefix == CLOSED:
        of_function = (await place.rows(table, lambda row: row["RowKey"].startswith(BEAT)))[0]
        row = {"PartitionKey": of_function["PartitionKey"], "RowKey": CLOSED, SCHEMA: 1, "Mark": "x"}
        await client.upsert_entity(row | {"FunctionName": "", "LastEventAt": at()})
    async with place.tampered(table, lambda row: row["RowKey"].startswith(prefix), number) as http:
        for path in (f"/api/apps/{place.app}/staging", f"/api/taskhubs/{place.hub}"):
            told = problem(await http.get(path), 503, "UnsupportedSchema")
            assert "activity stamps" in told["detail"]
        if prefix == BEAT:
            # A fresh server reads a function's stamp before it writes one. It is in the shards of order-1 and order-2.
            for name in ("order-1", "order-2"):
                sent = event(place.hub, name, "Failed")
                problem(await http.post("/api/events", json=[sent]), 503, "UnsupportedSchema")


async def test_an_activity_stamp_that_a_newer_server_writes_has_another_key(place: Place) -> None:
    """Stamps are overwritten without being read, so no two schemas may share a key."""
    table = instance_table(place.hub)
    stamp = (await place.rows(table, lambda row: row["RowKey"].startswith(BEAT)))[0]
    newer = {**stamp, "RowKey": stamp["RowKey"].replace(BEAT, "b|2|"), SCHEMA: NEWER, "New": "x"}
    client = place.server.tables.client(table)
    await client.create_entity(newer)
    async with place.tampered(table, lambda row: row["RowKey"].startswith("b|2|"), NEWER) as http:
        for number in range(20):
            await publish(http, event(place.hub, f"order-{number}", "Completed"))
        problem(await http.get(f"/api/apps/{place.app}/staging"), 503, "UnsupportedSchema")
    await client.delete_entity(newer["PartitionKey"], newer["RowKey"])


@numbers
@pytest.mark.parametrize("kind", ["work", "result", "messages"])
async def test_a_probe_of_another_schema(place: Place, kind: str, number: int | None) -> None:
    if kind == "messages":
        row = {"PartitionKey": "probe", "RowKey": f"{place.hub}|messages", SCHEMA: 1, "Memory0": ""}
        await place.server.tables.client(TASK_HUBS).upsert_entity(row)
    of = lambda row: row["PartitionKey"] == "probe" and row["RowKey"] == f"{place.hub}|{kind}"  # noqa: E731
    async with place.tampered(TASK_HUBS, of, number) as http:
        await refused(http, place, number, "probe results", *VERDICTS, "GetVersions")
        await place.server.background.run_once()


@pytest.mark.parametrize("kind", ["work", "result"])
async def test_cleanup_leaves_a_probe_of_another_schema(place: Place, kind: str, http: httpx.AsyncClient) -> None:
    ended = [event(place.hub, name, "Completed") for name in ("order-1", "order-2")]
    await publish(http, *ended)
    assert (await put(http, place.app, taskHubs=None)).status_code == 200
    assert (await put(http, place.app, slots={"staging": None})).status_code == 200
    of = lambda row: row["PartitionKey"] == "probe" and row["RowKey"] == f"{place.hub}|{kind}"  # noqa: E731
    async with place.tampered(TASK_HUBS, of, NEWER) as fresh_http:
        problem(await fresh_http.post(f"/api/apps/{place.app}/cleanup"), 503, "UnsupportedSchema")
    assert (await http.post(f"/api/apps/{place.app}/cleanup")).json()["taskHubs"][0]["outcome"] == "Removed"


@numbers
async def test_an_event_in_quarantine_of_another_schema(place: Place, number: int | None) -> None:
    store = QuarantineStore(place.server.tables)
    await store.keep([Quarantined(Instant(1), "BadTime", "why", "webhook", '"odd"')])
    async with place.tampered(QUARANTINE, lambda row: row["PartitionKey"] == "quarantine", number) as http:
        await refused(http, place, number, "events in quarantine", "ListQuarantine", "PurgeQuarantine")


@numbers
async def test_a_waiting_event_of_another_schema(place: Place, storage: StorageSettings, number: int | None) -> None:
    hub = new_hub()
    limited = StateServer(Settings(storage=storage, unclaimed_task_hubs=0))
    await limited.services.recorder.record([event(hub)], "webhook")
    await limited.close()
    async with place.tampered(QUARANTINE, lambda row: row["PartitionKey"] == f"waiting|{hub}", number) as http:
        for answer in (
            await http.get(f"/api/taskhubs/{hub}"),
            await http.delete(f"/api/taskhubs/{hub}"),
            await stage(http, f"{place.app}-b", hub),
            await put(http, f"{place.app}-b", slots={"staging": {"taskHub": hub}}),
            await http.delete("/api/quarantine", params={"before": at(1)}),
        ):
            assert "events in quarantine" in problem(answer, 503, "UnsupportedSchema")["detail"]
    # As it was before: the claim was kept, and the event still counts.
    async with fresh(place.server) as http:
        assert (await put(http, f"{place.app}-b", slots={"staging": {"taskHub": hub}})).status_code == 200
        assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 1


def test_every_kind_of_row_has_a_name_of_its_own_and_a_number() -> None:
    kinds = [kind for kind in vars(schema).values() if isinstance(kind, RowSchema)]
    assert len(kinds) == len({kind.rows for kind in kinds}) == 8
    assert {kind.number for kind in kinds} == {1}


@pytest.mark.parametrize("number", [0, 2, -1, 2**31 - 1, None, "1", True, 1.0, "", "x" * 1000])
def test_only_the_very_number_is_taken(number: object) -> None:
    with pytest.raises(UnsupportedSchema) as refused:
        INSTANCE.check({SCHEMA: number} if number is not None else {})
    assert len(refused.value.message) < 200


async def test_every_row_that_the_server_writes_has_its_number(place: Place) -> None:
    """Whatever was written by the tests before this one, too."""
    await QuarantineStore(place.server.tables).keep([Quarantined(Instant(1), "BadTime", "", "webhook", '"odd"')])
    for table in (APPS, TASK_HUBS, QUARANTINE, instance_table(place.hub)):
        rows = await place.rows(table, lambda row: True)
        assert rows
        assert {row.get(SCHEMA) for row in rows} == {1}
