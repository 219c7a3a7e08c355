"""Apps, audit records and task hubs with another schema number: they are refused, and never changed."""

import pytest

from state_api.app import StateServer
from state_api.domain.errors import UnsupportedSchema
from state_api.domain.names import app_key
from state_api.settings import Settings, StorageSettings
from state_api.storage.schema import (
    SCHEMA_PROPERTY,
)
from state_api.storage.tables import APPS_TABLE, TASK_HUBS_TABLE, instance_table_name
from state_api.storage.task_hub_state_rows import STATE_ROW_KEY
from tests.builders import event
from tests.conftest import new_hub_name
from tests.http.operations import assert_problem, post_staging, put_app
from tests.storage.schema.stored_app import (
    NEWER_SCHEMA,
    NO_SCHEMA,
    OPERATIONS_ON_APPS,
    OPERATIONS_WITH_VERDICT,
    StoredApp,
    assert_only_refused,
    other_schemas,
)

pytestmark = pytest.mark.anyio


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
        "GetTimeline",
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
