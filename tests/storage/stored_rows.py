"""Reads the rows of an instance table, for tests that check what is stored."""

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
    """The registry's record of a registered task hub."""
    record = await TaskHubStore(server.tables, shards=4).get(hub)
    assert record is not None
    return record


async def stored_rows(server: StateServer, hub: str, prefix: str) -> list[dict[str, Any]]:
    """The rows of a task hub's instance table whose keys begin with `prefix`."""
    rows = server.tables.client(instance_table_name(hub)).list_entities()
    return [dict(row) async for row in rows if row["RowKey"].startswith(prefix)]


async def active_instance_ids(server: StateServer, hub: str) -> list[str]:
    """The sorted ids of the active rows. An id with two active rows appears twice."""
    return sorted(unescape_instance_id(row["InstanceId"]) for row in await stored_rows(server, hub, "a|"))
