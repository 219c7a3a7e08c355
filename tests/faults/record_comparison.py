"""Compares the records of a task hub, as the server lists them and as they are stored, with the expected ones, and the
counters of its timeline with the records."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from azure.data.tables.aio import TableServiceClient

from state_api.settings import StorageSettings
from state_api.storage.instance_keys import instance_key, unescape_instance_id
from state_api.storage.tables import instance_table_name
from tests.faults.event_stream import ExpectedRecords, find_lost_events
from tests.storage.stored_timelines import add_up_rows, fold_rows

Row = dict[str, Any]
_COLUMN_OF_MEMBER = {
    "active": "Active",
    "runtimeStatus": "RuntimeStatus",
    "startedAt": "StartedAt",
    "finishedAt": "FinishedAt",
    "outcome": "Outcome",
    "reason": "Reason",
}
"""The column of a row for each compared member of ListInstances."""


@dataclass(frozen=True)
class RecordComparison:
    """`lost` has the acknowledged events that no record contains, `differences` a description of each difference from
    the expected records. `records` is the number of listed instances."""

    lost: list[Any]
    differences: list[str]
    records: int


async def list_instances(address: str, hub: str) -> dict[str, Row]:
    """All pages of ListInstances, by instance id."""
    listed: dict[str, Row] = {}
    parameters: dict[str, Any] = {"top": 1000}
    async with httpx.AsyncClient(base_url=address, timeout=60) as http:
        while True:
            response = await http.get(f"/api/taskhubs/{hub}/instances", params=parameters)
            assert response.status_code == 200, response.text
            page = response.json()
            for instance in page["instances"]:
                assert instance["instanceId"] not in listed, f"{instance['instanceId']} is listed twice"
                listed[instance["instanceId"]] = instance
            if page["continuationToken"] is None:
                return listed
            parameters["continuationToken"] = page["continuationToken"]


async def read_rows(storage: StorageSettings, hub: str) -> tuple[dict[str, Row], dict[str, list[Row]]]:
    """The `i|` rows by instance id, and all `a|` rows of each instance id."""
    return _find_rows(await read_all_rows(storage, hub))


async def read_all_rows(storage: StorageSettings, hub: str) -> list[Row]:
    """All rows of the instance table of a task hub."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    async with TableServiceClient.from_connection_string(connection) as service:
        rows = service.get_table_client(instance_table_name(hub)).list_entities(results_per_page=1000)
        return [dict(row) async for row in rows]


def _find_rows(rows: Iterable[Row]) -> tuple[dict[str, Row], dict[str, list[Row]]]:
    """The `i|` rows by instance id, and all `a|` rows of each instance id."""
    instances: dict[str, Row] = {}
    active: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["RowKey"].startswith("i|"):
            instances[unescape_instance_id(row["InstanceId"])] = row
        elif row["RowKey"].startswith("a|"):
            active[unescape_instance_id(row["InstanceId"])].append(row)
    return instances, active


async def compare_records(
    address: str, storage: StorageSettings, expected_records: ExpectedRecords, acknowledged: Sequence[dict[str, Any]]
) -> RecordComparison:
    """Compare the records of a task hub, over HTTP and in its table, with the expected ones. Find lost events."""
    listed = await list_instances(address, expected_records.hub)
    rows = await read_all_rows(storage, expected_records.hub)
    instances, active = _find_rows(rows)
    differences = [
        f"listed {order}: {listed.get(order)}, not {expected_records.expected.get(order)}"
        for order in listed.keys() | expected_records.expected.keys()
        if listed.get(order) != expected_records.expected.get(order)
    ]
    differences += [
        f"row of {order}: {instances.get(order)}, not {expected_records.expected.get(order)}"
        for order in instances.keys() | expected_records.expected.keys()
        if not _row_matches(instances.get(order), expected_records.expected.get(order))
    ]
    differences += [
        f"active rows of {order}: {active.get(order)}"
        for order in active.keys() | instances.keys()
        if [(row["PartitionKey"], row["RowKey"]) for row in active.get(order, [])] != _active_keys(instances.get(order))
    ]
    counted, folded = add_up_rows(rows).counts, fold_rows(rows).counts
    differences += [
        f"timeline of {key}: {counted.get(key)}, not {folded.get(key)}"
        for key in counted.keys() | folded.keys()
        if counted.get(key) != folded.get(key)
    ]
    return RecordComparison(find_lost_events(acknowledged, instances), differences, len(listed))


def _row_matches(row: Row | None, expected: Row | None) -> bool:
    """Whether a row has the values of an expected instance."""
    if row is None or expected is None:
        return False
    return all(row.get(column) == expected[name] for name, column in _COLUMN_OF_MEMBER.items())


def _active_keys(row: Row | None) -> list[tuple[str, str]]:
    """The keys of the `a|` rows that must exist beside an `i|` row: one while the instance is active, else none."""
    if row is None or not row["Active"]:
        return []
    return [(row["PartitionKey"], f"a|{row['StartedAt']}|{instance_key(unescape_instance_id(row['InstanceId']))}")]
