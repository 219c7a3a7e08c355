"""Recordings of Microsoft's Durable Functions extension: the events, rows, messages and responses that it wrote.
README.md in this folder describes the files."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from azure.data.tables import EdmType, EntityProperty

_FOLDER = Path(__file__).parent
_TYPE = "@odata.type"
_NOT_WRITTEN_BY_THE_EXTENSION = {"snapshot", "odata.etag", "Timestamp"}

HUB = "Recorded"
"""The task hub of most recordings."""

REWOUND_FUNCTION_NAME = "Mends"
"""The orchestration of the durable host that fails once. After a rewind it waits for an event."""

REWOUND_INSTANCE_ID = "mends"
"""The instance that was rewound, was then active with the status Pending, and completed."""


@functools.cache
def _read_text(name: str) -> tuple[str, ...]:
    return tuple((_FOLDER / f"{name}.jsonl").read_text().splitlines())


def read_lines(name: str) -> list[dict[str, Any]]:
    """Return the documents of a file, by its name without `.jsonl`. The caller may change them."""
    return [json.loads(line) for line in _read_text(name)]


def read_events() -> list[dict[str, Any]]:
    """Return every lifecycle event, in the order in which the extension posted them."""
    return [event for post in read_lines("events") for event in post["body"]]


def find_event(instance_id: str, status: str, hub: str | None = None) -> dict[str, Any]:
    """Return the first event of this instance with this status. If there is a `hub`, it replaces the event's task hub.
    Raises LookupError."""
    for event in read_events():
        if (event["data"]["instanceId"], event["data"]["runtimeStatus"]) == (instance_id, status):
            if hub is not None:
                event["data"]["hubName"] = hub
            return event
    raise LookupError(f"no event {status} of {instance_id} was recorded")


DELIVERIES = {
    "running": [("chain-3", "Running")],
    "completed": [("chain-3", "Completed")],
    "failed": [("wait-fails", "Failed")],
    "entity": [("@counter@a", "Running")],
}
"""Deliveries with a single event, as instance and status. The delivery `continue-as-new` has several."""


def recorded_delivery(name: str, hub: str) -> list[dict[str, Any]]:
    """Return the recorded events of a delivery, with `hub` as their task hub.

    `name` is one of `DELIVERIES`, or `continue-as-new`: a start, an end, and the start of the next generation."""
    if name == "continue-as-new":
        generations = [event for event in read_events() if event["data"]["instanceId"] == "eternal-5"][:3]
        for event in generations:
            event["data"]["hubName"] = hub
        return generations
    return [find_event(instance_id, status, hub) for instance_id, status in DELIVERIES[name]]


def list_recorded_moments() -> list[tuple[str, str]]:
    """Return the moments at which a table `{Hub}Instances` was recorded: name and task hub of each, in order."""
    return list(dict.fromkeys((row["snapshot"], row["TaskHubName"]) for row in read_lines("instances")))


def read_instance_rows(snapshot: str = "end", hub: str = HUB) -> list[dict[str, Any]]:
    """Return the rows of `{Hub}Instances` at a recorded moment, as the Table service returned them."""
    return [row for row in read_lines("instances") if (row["snapshot"], row["TaskHubName"]) == (snapshot, hub)]


def read_instance_row(instance_key: str, snapshot: str = "end", hub: str = HUB) -> dict[str, Any]:
    """Return the row of `{Hub}Instances` with this partition key at a recorded moment. Raises StopIteration."""
    return next(row for row in read_instance_rows(snapshot, hub) if row["PartitionKey"] == instance_key)


def to_table_entity(row: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Convert a recorded row for the Table client, with its types and all digits of its times. `changes` replace
    properties."""
    typed = {
        name: EntityProperty(value, EdmType(row[name + _TYPE])) if name + _TYPE in row else value
        for name, value in row.items()
        if not name.endswith(_TYPE) and name not in _NOT_WRITTEN_BY_THE_EXTENSION
    }
    return typed | changes
