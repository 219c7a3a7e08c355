"""What Microsoft's Durable Functions extension wrote, recorded: events, rows, messages and answers as they were. The
files are described in README.md beside this module."""

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


@functools.cache
def _read_text(name: str) -> tuple[str, ...]:
    return tuple((_FOLDER / f"{name}.jsonl").read_text().splitlines())


def read_lines(name: str) -> list[dict[str, Any]]:
    """The documents of a file, by its name without `.jsonl`. A caller may change them."""
    return [json.loads(line) for line in _read_text(name)]


def events() -> list[dict[str, Any]]:
    """Every lifecycle event, in the order in which the extension posted them."""
    return [event for post in read_lines("events") for event in post["body"]]


def find_event(instance_id: str, status: str, hub: str | None = None) -> dict[str, Any]:
    """The first event of this instance with this status; about `hub` instead of its own task hub, if it is given."""
    for found in events():
        if (found["data"]["instanceId"], found["data"]["runtimeStatus"]) == (instance_id, status):
            if hub is not None:
                found["data"]["hubName"] = hub
            return found
    raise LookupError(f"no event {status} of {instance_id} was recorded")


DELIVERIES = {
    "running": [("chain-3", "Running")],
    "completed": [("chain-3", "Completed")],
    "failed": [("wait-fails", "Failed")],
    "entity": [("@counter@a", "Running")],
}
"""Events of one kind, by instance and status. `continue-as-new` is the one delivery with several."""


def recorded_delivery(name: str, hub: str) -> list[dict[str, Any]]:
    """Recorded events about `hub`: one of `DELIVERIES`, or `continue-as-new`, which is a start, an end, and the start
    of the next generation."""
    if name == "continue-as-new":
        found = [one for one in events() if one["data"]["instanceId"] == "eternal-5"][:3]
        for one in found:
            one["data"]["hubName"] = hub
        return found
    return [find_event(instance_id, status, hub) for instance_id, status in DELIVERIES[name]]


def snapshots() -> list[tuple[str, str]]:
    """The recorded moments of `{Hub}Instances`, each with its task hub, in order."""
    return list(dict.fromkeys((row["snapshot"], row["TaskHubName"]) for row in read_lines("instances")))


def instance_rows(snapshot: str = "end", hub: str = HUB) -> list[dict[str, Any]]:
    """The rows of `{Hub}Instances` at that moment, as the Table service gave them."""
    return [row for row in read_lines("instances") if (row["snapshot"], row["TaskHubName"]) == (snapshot, hub)]


def instance_row(instance_key: str, snapshot: str = "end", hub: str = HUB) -> dict[str, Any]:
    """One of these rows, by its partition key."""
    return next(row for row in instance_rows(snapshot, hub) if row["PartitionKey"] == instance_key)


def table_entity(row: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A recorded row as the Table client takes it, with its types and all digits of its times; with these properties
    changed."""
    typed = {
        name: EntityProperty(value, EdmType(row[name + _TYPE])) if name + _TYPE in row else value
        for name, value in row.items()
        if not name.endswith(_TYPE) and name not in _NOT_WRITTEN_BY_THE_EXTENSION
    }
    return typed | changes
