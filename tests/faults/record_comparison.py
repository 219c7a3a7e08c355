"""What a server shows of a task hub, and what its table really holds, against the truth."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from azure.data.tables.aio import TableServiceClient

from state_api.settings import StorageSettings
from state_api.storage.instance_keys import instance_key, unescape_instance_id
from state_api.storage.tables import instance_table_name
from tests.faults.event_stream import ExpectedRecords, find_lost_events

Row = dict[str, Any]
_COLUMN_OF_MEMBER = {
    "active": "Active",
    "runtimeStatus": "RuntimeStatus",
    "startedAt": "StartedAt",
    "finishedAt": "FinishedAt",
    "outcome": "Outcome",
    "reason": "Reason",
}
"""What is checked of a row, and what it is called in ListInstances."""


@dataclass(frozen=True)
class RecordComparison:
    """`lost`: acknowledged events that no record holds. `wrong`: what differs from the truth, in words."""

    lost: list[Any]
    wrong: list[str]
    records: int


async def list_instances(address: str, hub: str) -> dict[str, Row]:
    """All that ListInstances lists, by instance id, page by page."""
    found: dict[str, Row] = {}
    parameters: dict[str, Any] = {"top": 1000}
    async with httpx.AsyncClient(base_url=address, timeout=60) as http:
        while True:
            answer = await http.get(f"/api/taskhubs/{hub}/instances", params=parameters)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            for one in page["instances"]:
                assert one["instanceId"] not in found, f"{one['instanceId']} is listed twice"
                found[one["instanceId"]] = one
            if page["continuationToken"] is None:
                return found
            parameters["continuationToken"] = page["continuationToken"]


async def read_rows(storage: StorageSettings, hub: str) -> tuple[dict[str, Row], dict[str, list[Row]]]:
    """The `i|` rows by instance id, and the `a|` rows: of those an id must not have two."""
    assert storage.connection_string is not None
    instances: dict[str, Row] = {}
    active: dict[str, list[Row]] = defaultdict(list)
    connection = storage.connection_string.get_secret_value()
    async with TableServiceClient.from_connection_string(connection) as service:
        async for row in service.get_table_client(instance_table_name(hub)).list_entities(results_per_page=1000):
            if row["RowKey"].startswith("i|"):
                instances[unescape_instance_id(row["InstanceId"])] = dict(row)
            elif row["RowKey"].startswith("a|"):
                active[unescape_instance_id(row["InstanceId"])].append(dict(row))
    return instances, active


async def compare_records(
    address: str, storage: StorageSettings, expected_records: ExpectedRecords, acknowledged: Sequence[dict[str, Any]]
) -> RecordComparison:
    """All of a hub's records, over HTTP and in its table, with the truth and with what was acknowledged."""
    listed = await list_instances(address, expected_records.hub)
    instances, active = await read_rows(storage, expected_records.hub)
    wrong = [
        f"listed {order}: {listed.get(order)}, not {expected_records.expected.get(order)}"
        for order in listed.keys() | expected_records.expected.keys()
        if listed.get(order) != expected_records.expected.get(order)
    ]
    wrong += [
        f"row of {order}: {instances.get(order)}, not {expected_records.expected.get(order)}"
        for order in instances.keys() | expected_records.expected.keys()
        if not _agrees(instances.get(order), expected_records.expected.get(order))
    ]
    wrong += [
        f"active rows of {order}: {active.get(order)}"
        for order in active.keys() | instances.keys()
        if [(row["PartitionKey"], row["RowKey"]) for row in active.get(order, [])] != _active_keys(instances.get(order))
    ]
    return RecordComparison(find_lost_events(acknowledged, instances), wrong, len(listed))


def _agrees(row: Row | None, expected: Row | None) -> bool:
    if row is None or expected is None:
        return False
    return all(row.get(column) == expected[name] for name, column in _COLUMN_OF_MEMBER.items())


def _active_keys(row: Row | None) -> list[tuple[str, str]]:
    """The keys of the `a|` rows that there must be beside an `i|` row: one, exactly while the instance is active."""
    if row is None or not row["Active"]:
        return []
    return [(row["PartitionKey"], f"a|{row['StartedAt']}|{instance_key(unescape_instance_id(row['InstanceId']))}")]
