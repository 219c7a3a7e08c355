"""The comparison of records, on which the other fault tests rely: it finds lost events and wrong records."""

from pathlib import Path

import pytest
from azure.data.tables import UpdateMode
from azure.data.tables.aio import TableServiceClient

from harness.state_server import run_server
from state_api.settings import StorageSettings
from state_api.storage.tables import instance_table_name
from tests.conftest import new_hub_name
from tests.faults.event_stream import generate_orders
from tests.faults.record_comparison import compare_records, read_rows

pytestmark = [pytest.mark.fault, pytest.mark.anyio]


async def test_lost_events_and_wrong_records_are_found(storage: StorageSettings, tmp_path: Path) -> None:
    expected = generate_orders(new_hub_name(), 60, seed=1, active_share=0.5)
    with run_server(storage, tmp_path) as server:
        with server.client() as http:
            assert http.post("/api/events", json=expected.events).status_code == 200
        before = await compare_records(server.url, storage, expected, expected.events)
        assert (before.lost, before.differences) == ([], [])
        instances, active = await read_rows(storage, expected.hub)
        deleted, changed, without_active_row = expected.active[:3]
        assert storage.connection_string is not None
        connection = storage.connection_string.get_secret_value()
        async with TableServiceClient.from_connection_string(connection) as service:
            table = service.get_table_client(instance_table_name(expected.hub))
            await table.delete_entity(instances[deleted]["PartitionKey"], instances[deleted]["RowKey"])
            await table.update_entity({**instances[changed], "RuntimeStatus": "Failed"}, mode=UpdateMode.REPLACE)
            await table.delete_entity(
                active[without_active_row][0]["PartitionKey"], active[without_active_row][0]["RowKey"]
            )
        after = await compare_records(server.url, storage, expected, expected.events)
    assert {event["data"]["instanceId"] for event in after.lost} == {deleted}
    assert any(difference.startswith("timeline of") for difference in after.differences)
    for order in (deleted, changed, without_active_row):
        assert any(order in difference for difference in after.differences)
