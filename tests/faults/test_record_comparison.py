"""The measure itself: what the other tests count as lost and wrong is seen when it is there."""

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


async def test_what_is_missing_or_differs_is_seen(storage: StorageSettings, tmp_path: Path) -> None:
    truth = generate_orders(new_hub_name(), 60, seed=1, active_share=0.5)
    with run_server(storage, tmp_path) as served:
        with served.client() as http:
            assert http.post("/api/events", json=truth.events).status_code == 200
        right = await compare_records(served.url, storage, truth, truth.events)
        assert (right.lost, right.wrong) == ([], [])
        instances, active = await read_rows(storage, truth.hub)
        gone, changed, idle = truth.active[:3]
        assert storage.connection_string is not None
        connection = storage.connection_string.get_secret_value()
        async with TableServiceClient.from_connection_string(connection) as service:
            table = service.get_table_client(instance_table_name(truth.hub))
            await table.delete_entity(instances[gone]["PartitionKey"], instances[gone]["RowKey"])
            await table.update_entity({**instances[changed], "RuntimeStatus": "Failed"}, mode=UpdateMode.REPLACE)
            await table.delete_entity(active[idle][0]["PartitionKey"], active[idle][0]["RowKey"])
        seen = await compare_records(served.url, storage, truth, truth.events)
    assert {one["data"]["instanceId"] for one in seen.lost} == {gone}
    for order in (gone, changed, idle):
        assert any(order in one for one in seen.wrong)
