"""Rows with another schema number: every operation that needs such a row is refused, and no operation changes one."""

from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from azure.data.tables import TableEntity, UpdateMode

from harness.processes import free_ports
from state_api.app import StateServer
from state_api.domain.errors import UnsupportedSchema
from state_api.domain.instants import Instant
from state_api.domain.names import app_key
from state_api.emulator import EmulatorPorts, storage_emulator
from state_api.services.ports import QuarantinedEvent
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from state_api.storage import schema
from state_api.storage.instance_keys import FIRST_SHARD
from state_api.storage.instance_rows import ACTIVITY_STAMP_PREFIX, CORRECTION_EPOCH_KEY
from state_api.storage.quarantine import QuarantineStore
from state_api.storage.schema import (
    ACTIVITY_SCHEMA,
    APP_INDEX_SCHEMA,
    APP_SCHEMA,
    AUDIT_SCHEMA,
    INSTANCE_SCHEMA,
    PROBE_SCHEMA,
    QUARANTINE_SCHEMA,
    SCHEMA_PROPERTY,
    TASK_HUB_SCHEMA,
    TASK_HUB_STATE_SCHEMA,
    RowSchema,
)
from state_api.storage.tables import APPS_TABLE, QUARANTINE_TABLE, TASK_HUBS_TABLE, instance_table_name
from state_api.storage.task_hub_state_rows import STATE_ROW_KEY
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.http.operations import PROVIDER_CONFIG, assert_problem, get_staging, post_events, post_staging, put_app

pytestmark = pytest.mark.anyio

NEWER_SCHEMA, OLDER_SCHEMA, NO_SCHEMA = 4, 0, None
Row = dict[str, Any]


@pytest.fixture(scope="module")
def storage() -> Iterator[StorageSettings]:
    """A separate storage, because the rows that these tests write would make every other test fail."""
    ports = EmulatorPorts(*free_ports(3))
    with storage_emulator(ports, None):
        yield StorageSettings.model_validate({"connection_string": ports.connection_string()})


@dataclass
class StoredApp:
    """An app with a task hub in each slot and a stored probe result. The staged task hub has an active and a finished
    instance."""

    server: StateServer
    app: str
    hub: str = field(default_factory=new_hub_name)
    production: str = field(default_factory=new_hub_name)

    async def list_rows(self, table: str, matches: Callable[[Row], bool]) -> list[TableEntity]:
        all_rows = self.server.tables.client(table).list_entities()
        return [row async for row in all_rows if matches(row)]

    @asynccontextmanager
    async def with_schema_number(
        self, table: str, matches: Callable[[Row], bool], number: int | None
    ) -> AsyncIterator[httpx.AsyncClient]:
        """Give these rows another schema number, start a new server, and check that it changes none of them."""
        client = self.server.tables.client(table)
        before = await self.list_rows(table, matches)
        assert before, "there are such rows"
        for row in before:
            changed = {name: value for name, value in row.items() if name != SCHEMA_PROPERTY}
            changed |= {} if number is None else {SCHEMA_PROPERTY: number}
            await client.upsert_entity(changed, mode=UpdateMode.REPLACE)
        renumbered = await self.list_rows(table, matches)
        try:
            async with client_of_new_server(self.server) as http:
                yield http
            after = await self.list_rows(table, matches)
            assert [(dict(row), row.metadata["etag"]) for row in after] == [
                (dict(row), row.metadata["etag"]) for row in renumbered
            ]
        finally:
            for row in before:
                await client.upsert_entity(row, mode=UpdateMode.REPLACE)


@asynccontextmanager
async def client_of_new_server(server: StateServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a new server, which has no cached rows, on the same storage."""
    new_server = StateServer(server.api.state.settings)
    transport = httpx.ASGITransport(new_server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://new", timeout=60) as client:
        yield client
    await new_server.close()


@pytest.fixture
async def server(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StateServer]:
    assert storage.connection_string is not None
    connections = TaskHubConnections({PROVIDER_CONFIG["connection"]: storage.connection_string.get_secret_value()})
    state = StateServer(Settings(storage=storage, connections=connections))
    yield state
    await state.close()


@pytest.fixture
async def stored_app(server: StateServer, http: httpx.AsyncClient, storage: StorageSettings, app: str) -> StoredApp:
    stored = StoredApp(server, app)
    slots = {"staging": {"taskHub": stored.hub}, "production": {"taskHub": stored.production}}
    await put_app(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    async with ProviderTaskHub(storage, stored.hub) as provider:
        await provider.create()
        assert (await get_staging(http, app))["ready"], "stores a probe result"
        await provider.put("order-1", "Running")
        await post_events(http, event(stored.hub, "order-1", time=timestamp(-30)))
        await post_events(
            http, event(stored.hub, "order-2", time=timestamp(-20)), event(stored.hub, "order-2", "Completed")
        )
        assert not (await get_staging(http, app))["ready"]
    return stored


Request = tuple[str, str, Any]


def requests_of(stored_app: StoredApp) -> dict[str, Request]:
    """Every operation as a request about the stored app and its task hub."""
    app, hub = f"/api/apps/{stored_app.app}", stored_app.hub
    return {
        "GetStagingStatus": ("GET", f"{app}/staging?verify=none", None),
        "GetStagingStatus cached": ("GET", f"{app}/staging", None),
        "GetStagingStatus fresh": ("GET", f"{app}/staging?verify=fresh", None),
        "PostStaging": ("POST", f"{app}/staging", {"taskHub": new_hub_name()}),
        "PostStaging forced": ("POST", f"{app}/staging", {"taskHub": new_hub_name(), "force": True, "reason": "x"}),
        "DeleteStaging": ("DELETE", f"{app}/staging?taskHub={hub}", None),
        "Cleanup": ("POST", f"{app}/cleanup", {}),
        "ListApps": ("GET", "/api/apps", None),
        "GetApp": ("GET", app, None),
        "PutApp": ("PUT", app, {"slots": {"staging": None}}),
        "DeleteApp": ("DELETE", app, None),
        # After the operations that a pending swap makes the server refuse.
        "PostSwap": ("POST", f"{app}/swap", {"taskHub": hub, "outcome": "Pending"}),
        "GetHistory": ("GET", f"{app}/history", None),
        "PostWaiver": (
            "POST",
            f"{app}/waivers",
            {"taskHub": hub, "instanceId": "order-1", "reason": "x", "expiresAt": timestamp(3600)},
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


async def assert_only_refused(
    http: httpx.AsyncClient, stored_app: StoredApp, operations: Collection[str], *, number: int | None, row_kind: str
) -> None:
    """Each of these operations is refused with 503 because of this kind of row. No other operation fails."""
    responses = {
        name: await http.request(method, path, json=body)
        for name, (method, path, body) in requests_of(stored_app).items()
    }
    assert {name for name, response in responses.items() if response.status_code >= 500} == set(operations)
    for name in operations:
        problem = assert_problem(responses[name], 503, "UnsupportedSchema")
        assert row_kind in problem["detail"], (name, problem)
        assert ("Run the server version" if number is not None else "empty storage account") in problem["detail"]
        assert int(responses[name].headers["retry-after"]) > 0


OPERATIONS_ON_APPS = (
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
OPERATIONS_WITH_VERDICT = (
    "GetStagingStatus",
    "GetStagingStatus cached",
    "GetStagingStatus fresh",
    "PostStaging",
    "PostStaging forced",
    "PutApp",
    "DeleteApp",
)

other_schemas = pytest.mark.parametrize(
    "number", [NEWER_SCHEMA, OLDER_SCHEMA, NO_SCHEMA], ids=["newer", "older", "without a number"]
)


@other_schemas
async def test_an_app_of_another_schema_is_refused(stored_app: StoredApp, number: int | None) -> None:
    key = app_key(stored_app.app)
    async with stored_app.with_schema_number(
        APPS_TABLE, lambda row: row["PartitionKey"] == key and row["RowKey"] == "app", number
    ) as http:
        await assert_only_refused(
            http, stored_app, OPERATIONS_ON_APPS, number=number, row_kind="apps in the state storage"
        )


@pytest.mark.parametrize("number", [NEWER_SCHEMA, NO_SCHEMA], ids=["newer", "without a number"])
async def test_an_entry_of_another_schema_in_the_list_of_apps_is_refused(
    stored_app: StoredApp, number: int | None
) -> None:
    key = app_key(stored_app.app)
    async with stored_app.with_schema_number(
        APPS_TABLE, lambda row: row["PartitionKey"] == "|apps" and row["RowKey"] == key, number
    ) as http:
        problem = assert_problem(await http.get("/api/apps"), 503, "UnsupportedSchema")
        assert "list of apps" in problem["detail"]
        assert (await http.get(f"/api/apps/{stored_app.app}")).status_code == 200


async def test_creating_an_app_keeps_its_existing_entry_in_the_list_of_apps(stored_app: StoredApp) -> None:
    """The existing entry may have any schema."""
    client = stored_app.server.tables.client(APPS_TABLE)
    name = f"{stored_app.app}-b"
    await client.create_entity({"PartitionKey": "|apps", "RowKey": name, SCHEMA_PROPERTY: NEWER_SCHEMA, "New": "x"})
    async with stored_app.with_schema_number(APPS_TABLE, lambda row: row["RowKey"] == name, NEWER_SCHEMA) as http:
        assert (await put_app(http, name)).status_code == 200
    await client.delete_entity("|apps", name)


@other_schemas
async def test_an_audit_record_of_another_schema_is_refused(stored_app: StoredApp, number: int | None) -> None:
    key = app_key(stored_app.app)
    matches = lambda row: row["PartitionKey"] == key and row["RowKey"].startswith("audit|")  # noqa: E731
    async with stored_app.with_schema_number(APPS_TABLE, matches, number) as http:
        problem = assert_problem(await http.get(f"/api/apps/{stored_app.app}/history"), 503, "UnsupportedSchema")
        assert "audit log" in problem["detail"]


@other_schemas
async def test_a_registered_task_hub_of_another_schema_is_refused(stored_app: StoredApp, number: int | None) -> None:
    """A verdict does not need this row."""
    matches = lambda row: row["PartitionKey"] == "hub" and row["RowKey"] == stored_app.hub  # noqa: E731
    operations = (
        "GetTaskHub",
        "DeleteTaskHub",
        "ListInstances",
        "ListInstances ended",
        "GetVersions",
        "PostEvents",
    )
    async with stored_app.with_schema_number(TASK_HUBS_TABLE, matches, number) as http:
        await assert_only_refused(http, stored_app, operations, number=number, row_kind="registry of task hubs")
        other = f"{stored_app.app}-b"
        assert_problem(await post_staging(http, other, stored_app.hub), 503, "UnsupportedSchema")
        assert_problem(
            await put_app(http, other, slots={"production": {"taskHub": stored_app.hub}}), 503, "UnsupportedSchema"
        )


@other_schemas
async def test_a_state_of_a_task_hub_of_another_schema_is_refused(stored_app: StoredApp, number: int | None) -> None:
    table = instance_table_name(stored_app.hub)
    async with stored_app.with_schema_number(table, lambda row: row["RowKey"] == STATE_ROW_KEY, number) as http:
        operations = (*OPERATIONS_WITH_VERDICT, "GetTaskHub", "GetVersions")
        await assert_only_refused(http, stored_app, operations, number=number, row_kind="states of task hubs")


async def test_the_limit_on_unclaimed_task_hubs_counts_no_registry_with_rows_of_another_schema(
    stored_app: StoredApp, storage: StorageSettings
) -> None:
    matches = lambda row: row["PartitionKey"] == "hub" and row["RowKey"] == stored_app.hub  # noqa: E731
    async with stored_app.with_schema_number(TASK_HUBS_TABLE, matches, NEWER_SCHEMA):
        limited = StateServer(Settings(storage=storage, max_unclaimed_task_hubs=100))
        with pytest.raises(UnsupportedSchema):
            await limited.services.recorder.record([event(new_hub_name())], "webhook")
        await limited.close()


@other_schemas
async def test_an_instance_of_another_schema_is_refused(stored_app: StoredApp, number: int | None) -> None:
    """Both rows of an instance have one schema, because one transaction writes both."""
    operations = (
        *OPERATIONS_WITH_VERDICT,
        "GetTaskHub",
        "ListInstances",
        "ListInstances ended",
        "GetVersions",
        "PostEvents",
    )
    async with stored_app.with_schema_number(
        instance_table_name(stored_app.hub), lambda row: row["RowKey"][:2] in ("i|", "a|"), number
    ) as http:
        await assert_only_refused(
            http, stored_app, operations, number=number, row_kind="instances in the state storage"
        )


async def test_an_instance_of_another_schema_does_not_stop_others_in_its_delivery(stored_app: StoredApp) -> None:
    table = instance_table_name(stored_app.hub)
    async with stored_app.with_schema_number(table, lambda row: row["RowKey"] == "i|order-2", NEWER_SCHEMA) as http:
        mixed = [event(stored_app.hub, f"other-{number}") for number in range(20)]
        mixed.insert(10, event(stored_app.hub, "order-2", "Failed"))
        assert_problem(await http.post("/api/events", json=mixed), 503, "UnsupportedSchema")
        assert_problem(await http.post("/api/events", json=mixed[10:11]), 503, "UnsupportedSchema")
        counts = await post_events(http, *mixed[:10], *mixed[11:])
        assert counts["recorded"] + counts["unchanged"] == 20
    written = await stored_app.list_rows(table, lambda row: row["RowKey"].startswith("i|other"))
    assert len(written) == 20


async def test_a_cached_instance_that_a_newer_server_has_changed_is_refused(stored_app: StoredApp) -> None:
    table = instance_table_name(stored_app.hub)
    async with client_of_new_server(stored_app.server) as http:
        await post_events(http, event(stored_app.hub, "order-7"))
        async with stored_app.with_schema_number(table, lambda row: row["RowKey"] == "i|order-7", NEWER_SCHEMA):
            sent = event(stored_app.hub, "order-7", "Completed")
            assert_problem(await http.post("/api/events", json=[sent]), 503, "UnsupportedSchema")


@other_schemas
@pytest.mark.parametrize(
    "prefix", [ACTIVITY_STAMP_PREFIX, CORRECTION_EPOCH_KEY], ids=["of a function", "of corrections"]
)
async def test_an_activity_stamp_of_another_schema_is_refused(
    stored_app: StoredApp, prefix: str, number: int | None
) -> None:
    table = instance_table_name(stored_app.hub)
    client = stored_app.server.tables.client(table)
    if prefix == CORRECTION_EPOCH_KEY:
        of_function = (await stored_app.list_rows(table, lambda row: row["RowKey"].startswith(ACTIVITY_STAMP_PREFIX)))[
            0
        ]
        row = {
            "PartitionKey": of_function["PartitionKey"],
            "RowKey": CORRECTION_EPOCH_KEY,
            SCHEMA_PROPERTY: ACTIVITY_SCHEMA.number,
            "Epoch": "x",
        }
        await client.upsert_entity(row | {"FunctionName": "", "LastEventAt": timestamp()})
    async with stored_app.with_schema_number(table, lambda row: row["RowKey"].startswith(prefix), number) as http:
        for path in (f"/api/apps/{stored_app.app}/staging", f"/api/taskhubs/{stored_app.hub}"):
            problem = assert_problem(await http.get(path), 503, "UnsupportedSchema")
            assert "activity stamps" in problem["detail"]
        if prefix == ACTIVITY_STAMP_PREFIX:
            # A new server reads a function's stamp in a shard before it first writes that stamp.
            for name in ("order-1", "order-2"):
                sent = event(stored_app.hub, name, "Failed")
                assert_problem(await http.post("/api/events", json=[sent]), 503, "UnsupportedSchema")


async def test_activity_stamps_of_two_schemas_have_different_keys(stored_app: StoredApp) -> None:
    """The server overwrites a stamp without reading it, so a stamp of another schema must not have the same key."""
    newer_prefix = f"b|{NEWER_SCHEMA}|"
    table = instance_table_name(stored_app.hub)
    stamp = (await stored_app.list_rows(table, lambda row: row["RowKey"].startswith(ACTIVITY_STAMP_PREFIX)))[0]
    newer = {
        **stamp,
        "RowKey": stamp["RowKey"].replace(ACTIVITY_STAMP_PREFIX, newer_prefix),
        SCHEMA_PROPERTY: NEWER_SCHEMA,
        "New": "x",
    }
    client = stored_app.server.tables.client(table)
    await client.create_entity(newer)
    async with stored_app.with_schema_number(
        table, lambda row: row["RowKey"].startswith(newer_prefix), NEWER_SCHEMA
    ) as http:
        for number in range(20):
            await post_events(http, event(stored_app.hub, f"order-{number}", "Completed"))
        assert_problem(await http.get(f"/api/apps/{stored_app.app}/staging"), 503, "UnsupportedSchema")
    await client.delete_entity(newer["PartitionKey"], newer["RowKey"])


@other_schemas
@pytest.mark.parametrize("kind", ["lease", "result", "messages"])
async def test_a_probe_of_another_schema_is_refused(stored_app: StoredApp, kind: str, number: int | None) -> None:
    table = instance_table_name(stored_app.hub)
    if kind == "messages":
        row = {"PartitionKey": FIRST_SHARD, "RowKey": "0|messages", **PROBE_SCHEMA.schema_property}
        await stored_app.server.tables.client(table).upsert_entity(row)
    async with stored_app.with_schema_number(table, lambda row: row["RowKey"] == f"0|{kind}", number) as http:
        operations = (*OPERATIONS_WITH_VERDICT, "GetTaskHub", "GetVersions")
        await assert_only_refused(http, stored_app, operations, number=number, row_kind="probe results")
        await stored_app.server.background.probe_due_hubs()


@pytest.mark.parametrize("kind", ["lease", "result"])
async def test_cleanup_does_not_delete_a_probe_of_another_schema(
    stored_app: StoredApp, kind: str, http: httpx.AsyncClient
) -> None:
    ended = [event(stored_app.hub, name, "Completed") for name in ("order-1", "order-2")]
    await post_events(http, *ended)
    assert (await put_app(http, stored_app.app, taskHubs=None)).status_code == 200
    assert (await put_app(http, stored_app.app, slots={"staging": None})).status_code == 200
    table = instance_table_name(stored_app.hub)
    matches = lambda row: row["RowKey"] == f"0|{kind}"  # noqa: E731
    async with stored_app.with_schema_number(table, matches, NEWER_SCHEMA) as new_http:
        assert_problem(await new_http.post(f"/api/apps/{stored_app.app}/cleanup"), 503, "UnsupportedSchema")
    assert (await http.post(f"/api/apps/{stored_app.app}/cleanup")).json()["taskHubs"][0]["outcome"] == "Removed"


@other_schemas
async def test_an_event_of_another_schema_in_quarantine_is_refused(stored_app: StoredApp, number: int | None) -> None:
    store = QuarantineStore(stored_app.server.tables)
    await store.add([QuarantinedEvent(Instant(1), "BadTime", "message", "webhook", '"event"')])
    async with stored_app.with_schema_number(
        QUARANTINE_TABLE, lambda row: row["PartitionKey"] == "quarantine", number
    ) as http:
        operations = ("ListQuarantine", "PurgeQuarantine")
        await assert_only_refused(http, stored_app, operations, number=number, row_kind="events in quarantine")


@other_schemas
async def test_a_waiting_event_of_another_schema_is_refused(
    stored_app: StoredApp, storage: StorageSettings, number: int | None
) -> None:
    hub = new_hub_name()
    limited = StateServer(Settings(storage=storage, max_unclaimed_task_hubs=0))
    await limited.services.recorder.record([event(hub)], "webhook")
    await limited.close()
    async with stored_app.with_schema_number(
        QUARANTINE_TABLE, lambda row: row["PartitionKey"] == f"waiting|{hub}", number
    ) as http:
        for response in (
            await http.get(f"/api/taskhubs/{hub}"),
            await http.delete(f"/api/taskhubs/{hub}"),
            await post_staging(http, f"{stored_app.app}-b", hub),
            await put_app(http, f"{stored_app.app}-b", slots={"staging": {"taskHub": hub}}),
            await http.delete("/api/quarantine", params={"before": timestamp(1)}),
        ):
            assert "events in quarantine" in assert_problem(response, 503, "UnsupportedSchema")["detail"]
    # With its schema restored, the claim is on record and the event is recorded.
    async with client_of_new_server(stored_app.server) as http:
        assert (await put_app(http, f"{stored_app.app}-b", slots={"staging": {"taskHub": hub}})).status_code == 200
        assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 1


SCHEMAS = [value for value in vars(schema).values() if isinstance(value, RowSchema)]


def test_every_kind_of_row_has_its_own_name() -> None:
    assert len(SCHEMAS) == len({row_schema.row_kind for row_schema in SCHEMAS}) == 9


def test_the_schemas_that_these_tests_call_newer_and_older_are_unknown() -> None:
    assert not {row_schema.number for row_schema in SCHEMAS} & {NEWER_SCHEMA, OLDER_SCHEMA}


@pytest.mark.parametrize("number", [0, 2, -1, 2**31 - 1, None, "1", True, 1.0, "", "x" * 1000])
def test_only_the_exact_integer_is_accepted(number: object) -> None:
    with pytest.raises(UnsupportedSchema) as raised:
        RowSchema("instances", 1).check({SCHEMA_PROPERTY: number} if number is not None else {})
    assert len(raised.value.message) < 200


async def test_every_row_that_the_server_writes_has_its_number(stored_app: StoredApp) -> None:
    """Also the rows that the tests before this one wrote to the same storage."""
    await QuarantineStore(stored_app.server.tables).add(
        [QuarantinedEvent(Instant(1), "BadTime", "", "webhook", '"event"')]
    )
    for table in (APPS_TABLE, TASK_HUBS_TABLE, QUARANTINE_TABLE, instance_table_name(stored_app.hub)):
        rows = await stored_app.list_rows(table, lambda row: True)
        assert rows
        for row in rows:
            assert row.get(SCHEMA_PROPERTY) == expected_schema(table, row).number, dict(row)


def expected_schema(table: str, row: Row) -> RowSchema:
    """The schema of the kind of row that the keys identify."""
    partition, key = row["PartitionKey"], row["RowKey"]
    if table == APPS_TABLE:
        return APP_INDEX_SCHEMA if partition == "|apps" else AUDIT_SCHEMA if key.startswith("audit|") else APP_SCHEMA
    if table == TASK_HUBS_TABLE:
        return TASK_HUB_SCHEMA
    if table == QUARANTINE_TABLE:
        return QUARANTINE_SCHEMA
    if key == STATE_ROW_KEY:
        return TASK_HUB_STATE_SCHEMA
    return {"0": PROBE_SCHEMA, "b": ACTIVITY_SCHEMA}.get(key[0], INSTANCE_SCHEMA)
