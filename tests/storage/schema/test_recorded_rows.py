"""Instances, activity stamps and probes with another schema number: they are refused, and never changed."""

import httpx
import pytest

from state_api.storage.instance_keys import FIRST_SHARD
from state_api.storage.instance_rows import ACTIVITY_STAMP_PREFIX, CORRECTION_EPOCH_KEY
from state_api.storage.schema import (
    ACTIVITY_SCHEMA,
    PROBE_SCHEMA,
    SCHEMA_PROPERTY,
)
from state_api.storage.tables import instance_table_name
from state_api.storage.timeline_rows import TIMELINE_FROM
from tests.builders import event, timestamp
from tests.http.operations import assert_problem, post_events, put_app
from tests.storage.schema.stored_app import (
    NEWER_SCHEMA,
    OPERATIONS_WITH_VERDICT,
    StoredApp,
    assert_only_refused,
    client_of_new_server,
    other_schemas,
)

pytestmark = pytest.mark.anyio


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
async def test_counters_of_another_schema_are_refused_and_stop_no_recording(
    stored_app: StoredApp, number: int | None
) -> None:
    table = instance_table_name(stored_app.hub)
    keys = {row["RowKey"] for row in await stored_app.list_rows(table, lambda row: row["RowKey"] >= TIMELINE_FROM)}
    async with stored_app.with_schema_number(table, lambda row: row["RowKey"] in keys, number) as http:
        await assert_only_refused(http, stored_app, ["GetTimeline"], number=number, row_kind="counters of timelines")


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
