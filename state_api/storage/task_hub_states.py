"""Creates the instance table of a task hub, and writes the row of the task hub's state in it."""

from collections.abc import Callable

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import UpdateMode
from azure.data.tables.aio import TableClient

from state_api.domain.errors import StorageUnavailable
from state_api.services.ports import TaskHubRecord
from state_api.storage.instance_keys import FIRST_SHARD
from state_api.storage.tables import (
    Tables,
    etag_of,
    if_match,
    instance_table_name,
    is_table_missing,
    is_write_conflict,
    submit_transaction,
    translate_storage_errors,
)
from state_api.storage.task_hub_state_rows import (
    STATE_ROW_KEY,
    TaskHubState,
    task_hub_state_from_row,
    task_hub_state_row,
)
from state_api.storage.transactions import TableOperation

_MAX_WRITE_ATTEMPTS = 10


class TaskHubStateStore:
    """The only writer of state rows."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def create(self, record: TaskHubRecord) -> None:
        """Create the instance table and the state of a registered task hub, where they are missing. Raises
        StorageUnavailable, also if the records are lost."""
        await self.update(record, lambda state: state)

    async def update(self, record: TaskHubRecord, change: Callable[[TaskHubState], TaskHubState]) -> None:
        """Change the state of a registered task hub. Creates what is missing, unless the task hub is closed. `change`
        may be called several times. Raises StorageUnavailable, also if the records are lost."""
        name = instance_table_name(record.name)
        table = self._tables.client(name)
        for _ in range(_MAX_WRITE_ATTEMPTS):
            stored = await self._read_with_etag(table)
            write: TableOperation
            if stored is not None:
                state = change(stored[0])
                if state == stored[0]:
                    return
                write = ("update", task_hub_state_row(state), {**if_match(stored[1]), "mode": UpdateMode.REPLACE})
            elif record.closed:
                return
            else:
                if not record.recording:
                    # Create the table only here. If the table of a task hub that is recording is missing, its records
                    # were deleted, and a new empty table would show that nothing is active.
                    await self._tables.create_table(name)
                state = change(TaskHubState(record.shards, recording=record.recording))
                write = ("create", task_hub_state_row(state))
            async with translate_storage_errors():
                try:
                    await submit_transaction(table, [write])
                    return
                except HttpResponseError as error:
                    if is_table_missing(error):
                        raise lost_records_error(name) from error
                    if not is_write_conflict(error):
                        raise
        raise StorageUnavailable(
            f"too many requests change task hub {record.name} at the same time: try again", retry_after=5
        )

    async def _read_with_etag(self, table: TableClient) -> tuple[TaskHubState, str] | None:
        """The state in the task hub's own table, and the ETag that a conditional write needs. None if there is no
        row."""
        async with translate_storage_errors():
            try:
                row = await table.get_entity(FIRST_SHARD, STATE_ROW_KEY)
            except ResourceNotFoundError:
                return None
        return task_hub_state_from_row(row), etag_of(row)


def lost_records_error(table_name: str) -> StorageUnavailable:
    """The error about a missing table of a task hub that is recording. Without the table nothing is known about the
    task hub, and an empty result would show that nothing is active."""
    return StorageUnavailable(
        f"the records of a task hub are lost: table {table_name} was deleted. Create it again, empty, only if you know "
        "that nothing runs on the task hub"
    )
