"""The rows of an instance table as they really are, for tests that look at them."""

from typing import Any

from state_api.app import StateServer
from state_api.services.ports import TaskHubRecord
from state_api.storage.instance_keys import unescape_instance_id
from state_api.storage.instances import InstanceStore
from state_api.storage.tables import instance_table_name
from state_api.storage.task_hubs import TaskHubStore


def instance_store(server: StateServer) -> InstanceStore:
    return InstanceStore(server.tables)


async def task_hub_record(server: StateServer, hub: str) -> TaskHubRecord:
    """The registry's record of a hub that must be known."""
    record = await TaskHubStore(server.tables, 4).get(hub)
    assert record is not None
    return record


async def stored_rows(server: StateServer, hub: str, prefix: str) -> list[dict[str, Any]]:
    """All rows of a hub's table whose key begins with `prefix`."""
    found = server.tables.client(instance_table_name(hub)).list_entities()
    return [dict(row) async for row in found if row["RowKey"].startswith(prefix)]


async def active_instance_ids(server: StateServer, hub: str) -> list[str]:
    """The ids of the `a|` rows, sorted; an id that has two would be there twice."""
    return sorted(unescape_instance_id(row["InstanceId"]) for row in await stored_rows(server, hub, "a|"))
