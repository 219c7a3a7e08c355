"""The row of a task hub's state: its columns, and the conversions from and to a state. It is in the first shard of the
instance table, where one query reads it together with the active instances."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from state_api.storage.instance_keys import FIRST_SHARD
from state_api.storage.instance_rows import HUB_ROWS_FROM
from state_api.storage.schema import TASK_HUB_STATE_SCHEMA

STATE_ROW_KEY = f"{HUB_ROWS_FROM}hub"


@dataclass(frozen=True, slots=True)
class TaskHubState:
    """What a verdict needs to know of a task hub besides its instances.

    - `shards`: the number of partitions of the instance table, as in the registry.
    - `recording`: events or corrections may have been recorded.
    - `closed`: Cleanup removes the task hub, so the records of its instances count no more.
    - `seen`: a probe has found the task hub.
    - `confirmed_backend`: the backend that has shown an instance which events had reported.
    """

    shards: int
    recording: bool = False
    closed: bool = False
    seen: bool = False
    confirmed_backend: str | None = None


def task_hub_state_row(state: TaskHubState) -> dict[str, Any]:
    """The row that holds the state of a task hub. A row has no column whose value is None."""
    return {
        "PartitionKey": FIRST_SHARD,
        "RowKey": STATE_ROW_KEY,
        **TASK_HUB_STATE_SCHEMA.schema_property,
        "Shards": state.shards,
        "Recording": state.recording,
        "Closed": state.closed,
        "Seen": state.seen,
        "ConfirmedBackend": state.confirmed_backend,
    }


def task_hub_state_from_row(row: Mapping[str, Any]) -> TaskHubState:
    """The state of a task hub in its row. Raises UnsupportedSchema."""
    TASK_HUB_STATE_SCHEMA.check(row)
    return TaskHubState(
        shards=row["Shards"],
        recording=row["Recording"],
        closed=row["Closed"],
        seen=row["Seen"],
        confirmed_backend=row.get("ConfirmedBackend"),
    )
