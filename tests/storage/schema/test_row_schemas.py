"""Every kind of row has a schema number of its own, and the server accepts only exactly that number."""

import pytest

from state_api.domain.errors import UnsupportedSchema
from state_api.domain.instants import Instant
from state_api.services.ports import QuarantinedEvent
from state_api.storage import schema
from state_api.storage.quarantine import QuarantineStore
from state_api.storage.schema import (
    ACTIVITY_SCHEMA,
    APP_INDEX_SCHEMA,
    APP_SCHEMA,
    AUDIT_SCHEMA,
    DELIVERY_CHECK_SCHEMA,
    INSTANCE_SCHEMA,
    PROBE_SCHEMA,
    QUARANTINE_SCHEMA,
    ROUTER_SCHEMA,
    SCHEMA_PROPERTY,
    TASK_HUB_SCHEMA,
    TASK_HUB_STATE_SCHEMA,
    TIMELINE_SCHEMA,
    VERSION_SCHEMA,
    RowSchema,
)
from state_api.storage.tables import APPS_TABLE, QUARANTINE_TABLE, TASK_HUBS_TABLE, instance_table_name
from state_api.storage.task_hub_state_rows import STATE_ROW_KEY
from tests.storage.schema.stored_app import (
    NEWER_SCHEMA,
    OLDER_SCHEMA,
    Row,
    StoredApp,
)

pytestmark = pytest.mark.anyio


SCHEMAS = [value for value in vars(schema).values() if isinstance(value, RowSchema)]


def test_every_kind_of_row_has_its_own_name() -> None:
    assert len(SCHEMAS) == len({row_schema.row_kind for row_schema in SCHEMAS}) == 13


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
        kinds = {"audit": AUDIT_SCHEMA, "version": VERSION_SCHEMA, "router": ROUTER_SCHEMA}
        return APP_INDEX_SCHEMA if partition == "|apps" else kinds.get(key.split("|")[0], APP_SCHEMA)
    if table == TASK_HUBS_TABLE:
        return TASK_HUB_SCHEMA
    if table == QUARANTINE_TABLE:
        return QUARANTINE_SCHEMA
    if key == STATE_ROW_KEY:
        return TASK_HUB_STATE_SCHEMA
    kinds = {"0": PROBE_SCHEMA, "b": ACTIVITY_SCHEMA, "d": DELIVERY_CHECK_SCHEMA, "t": TIMELINE_SCHEMA}
    return kinds.get(key[0], INSTANCE_SCHEMA)
