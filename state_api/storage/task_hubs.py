"""The registry of task hubs: which app has claimed a task hub, whether it takes events, and how many shards its
instance table has."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import UpdateMode

from state_api.domain.errors import StorageUnavailable
from state_api.domain.names import HubKey, app_key, hub_key
from state_api.domain.releases import refusals
from state_api.domain.task_hubs.ownership import TaskHubClaim
from state_api.services.ports import EventLease, TaskHubRecord, TaskHubReopened, TooManyTaskHubs
from state_api.services.shared_reads import SharedReads
from state_api.storage.open_task_hubs import OpenTaskHubs
from state_api.storage.tables import (
    TASK_HUBS_TABLE,
    Tables,
    etag_of,
    if_match,
    is_table_missing,
    is_write_conflict,
    submit_transaction,
    translate_storage_errors,
)
from state_api.storage.task_hub_rows import (
    TASK_HUB_PARTITION,
    task_hub_columns,
    task_hub_record_from_row,
    task_hub_row,
    task_hub_row_key,
)
from state_api.storage.task_hub_states import TaskHubStateStore
from state_api.storage.transactions import TableOperation
from state_api.storage.unclaimed_limit import UnclaimedTaskHubLimit

_MAX_ATTEMPTS = 10
_MAX_CONCURRENT_CREATIONS = 8

RecordUpdate = Callable[[TaskHubRecord], TaskHubRecord]
"""Returns the record as it should be. A task hub that is not registered comes in as a record without an app."""


class TaskHubStore:
    """Reads and writes the registry.

    - `shards`: the number of shards for new task hubs.
    - `unclaimed_limit`: the number of unclaimed task hubs that may take events. None means no limit.
    - `event_lease`: how long a read that shows an unclaimed task hub open covers the events that are recorded after it.
    """

    def __init__(
        self,
        tables: Tables,
        shards: int,
        unclaimed_limit: int | None = None,
        event_lease: EventLease = EventLease(),  # noqa: B008 (immutable)
    ) -> None:
        """Prepare the registry of task hubs. `shards` is the number of partitions of a new one."""
        self._tables = tables
        self._table = tables.client(TASK_HUBS_TABLE)
        self._states = TaskHubStateStore(tables)
        self._shards = shards
        # Caching is safe although another worker may close a task hub. Closing also deletes its instance table, and a
        # write to a missing table invalidates the cache. Until then, `takes_events` limits how long an entry counts.
        self._open_task_hubs = OpenTaskHubs(event_lease.seconds, tables.clock)
        self._open_reads = SharedReads[HubKey, bool]()
        self._creation_slots = asyncio.Semaphore(_MAX_CONCURRENT_CREATIONS)
        self._unclaimed = UnclaimedTaskHubLimit(self._table, unclaimed_limit)

    async def ping(self) -> None:
        """Send the storage a cheap request, which also synchronizes the clock."""
        # The name of a task hub begins with a letter, so this row never exists.
        await self._read_with_etag("-")

    async def get(self, task_hub: str) -> TaskHubRecord | None:
        """The record of the task hub; None if no event and no app has named it."""
        stored = await self._read_with_etag(task_hub)
        return stored[0] if stored else None

    async def get_or_create(self, task_hub: str, *, enforce_limit: bool = True) -> TaskHubRecord:
        """The record of a task hub that events have arrived for. Creates its row and its instance table when they are
        missing, unless the task hub is closed. Raises TooManyTaskHubs if `enforce_limit` is set, the task hub is not
        registered, and the limit on unclaimed task hubs is reached."""
        if (record := self._open_task_hubs.get(task_hub)) is not None:
            return record
        async with self._creation_slots:
            return await self._get_or_create_record(task_hub, enforce_limit=enforce_limit)

    async def _get_or_create_record(self, task_hub: str, *, enforce_limit: bool) -> TaskHubRecord:
        """The record of a task hub, which is made ready for recording events unless it is closed. Raises
        TooManyTaskHubs."""
        if (cached := self._open_task_hubs.get(task_hub)) is not None:
            return cached
        stored = await self._read_with_etag(task_hub)
        if stored is None and enforce_limit and not await self._unclaimed.admit():
            raise TooManyTaskHubs
        record = stored[0] if stored else await self._update_record(task_hub, lambda record: record)
        if record.closed:
            return record
        if not record.recording:
            await self._states.update(record, lambda state: replace(state, recording=True))
        read_start = self._open_task_hubs.start_read()
        # Set `recording` after the table exists and before the first event. So a recording task hub without a table has
        # lost its records, and a task hub that is not recording has none to lose.
        record = await self._update_record(
            task_hub, lambda record: record if record.closed else replace(record, recording=True)
        )
        if not record.closed:
            self._open_task_hubs.add(record, read_start)
        return record

    def invalidate_cache(self, task_hub: str) -> None:
        """Read the record from storage when the next event of the task hub arrives."""
        self._open_task_hubs.remove(task_hub)

    async def claim(self, task_hub: str, claim: TaskHubClaim) -> TaskHubRecord:
        """Reserve the task hub for this app for ever, and create its instance table. If the app does not stage the task
        hub in the end, the claim stays. Otherwise another app could take a name that a slower writer is about to use. A
        claim without a proof keeps the proof on record. Raises TaskHubAlreadyUsed and TaskHubInUse."""

        def add_claim(record: TaskHubRecord) -> TaskHubRecord:
            if record.closed:
                raise refusals.task_hub_already_used(task_hub).to_error()
            if record.app is not None and app_key(record.app) != app_key(claim.app):
                raise refusals.claimed_by_other_app(task_hub, record.app).to_error()
            return replace(record, app=claim.app, proof=record.proof if claim.proof is None else claim.proof)

        record = await self._update_record(task_hub, add_claim)
        self._unclaimed.invalidate_cache()
        if not record.recording:
            # Create the state also at a repeated claim, because the worker of the first one may have died before this.
            await self._states.create(record)
        return record

    async def close(self, task_hub: str, *, deleting_from: str | None = None) -> None:
        """Take no more events for the task hub; they go to quarantine. `deleting_from` records the backend that its
        artifacts are about to be deleted from. The records of its instances count no more, because events that would
        end them are not recorded."""
        record = await self._update_record(
            task_hub,
            lambda record: replace(record, closed=True, deleting_from=deleting_from or record.deleting_from),
        )
        self.invalidate_cache(task_hub)
        # Close the state after the registry: until then, events are recorded, and a verdict must not miss them.
        await self._states.update(record, lambda state: replace(state, closed=True))

    async def close_for_deletion(self, task_hub: str) -> TaskHubRecord:
        """Close the task hub unless an app has claimed it. One conditional write, so that no app can claim it at the
        same time. The record's `deletion_id` identifies this closing, which concurrent calls share. It is empty if
        the deletion was decided before. Raises TaskHubClaimed."""

        def close_unclaimed(record: TaskHubRecord) -> TaskHubRecord:
            if record.app is not None:
                raise refusals.task_hub_claimed(record.name, record.app).to_error()
            if record.closed:
                return record
            return replace(record, closed=True, deletion_id=secrets.token_hex(8))

        return await self._update_unclaimed(task_hub, close_unclaimed)

    async def decide_deletion(self, closing: TaskHubRecord) -> TaskHubRecord:
        """Keep the task hub closed for ever: from now on it cannot be reopened, so its table can be deleted. `closing`
        comes from `close_for_deletion`. Raises TaskHubReopened if another call has reopened it since."""

        def remove_deletion_id(record: TaskHubRecord) -> TaskHubRecord:
            if not record.closed or record.deletion_id not in (closing.deletion_id, ""):
                raise TaskHubReopened
            return replace(record, deletion_id="")

        return await self._update_unclaimed(closing.name, remove_deletion_id)

    async def reopen(self, closing: TaskHubRecord) -> TaskHubRecord:
        """Undo `close_for_deletion`, unless another call has decided the deletion or has closed the task hub again.
        Returns the record as it is then."""

        def undo_closing(record: TaskHubRecord) -> TaskHubRecord:
            is_same_closing = record.closed and record.deletion_id == closing.deletion_id
            return replace(record, closed=False, deletion_id="") if is_same_closing else record

        return await self._update_unclaimed(closing.name, undo_closing)

    async def _update_unclaimed(self, task_hub: str, update: RecordUpdate) -> TaskHubRecord:
        """Update the record of a task hub that no app has claimed. What is cached of it is forgotten."""
        record = await self._update_record(task_hub, update)
        self.invalidate_cache(task_hub)
        self._unclaimed.invalidate_cache()
        return record

    async def takes_events(self, task_hub: str) -> bool:
        """Whether events that were recorded before this call may be acknowledged: the task hub is open, or was open
        less than an event lease ago (`EventLease`). Otherwise the row is read again, by a read that begins after this
        call. Also updates the cached record."""
        if self._open_task_hubs.has_lease(task_hub):
            return True
        return await self._open_reads.read(hub_key(task_hub), partial(self._read_whether_open, task_hub))

    async def _read_whether_open(self, task_hub: str) -> bool:
        """Whether the task hub is registered and not closed, as the registry says now. Updates the cache."""
        read_start = self._open_task_hubs.start_read()
        stored = await self._read_with_etag(task_hub)
        if stored is None or stored[0].closed:
            self.invalidate_cache(task_hub)
            return False
        if self._open_task_hubs.get(task_hub) is not None:
            self._open_task_hubs.add(stored[0], read_start)
        return True

    async def record_seen(self, task_hub: str, *, confirmed_backend: str | None = None) -> None:
        """Record that a probe has found the task hub, and the backend that has shown an instance known from events.
        Does nothing for a task hub that is not registered."""
        record = await self.get(task_hub)
        if record is not None:
            await self._states.update(
                record,
                lambda state: replace(state, seen=True, confirmed_backend=confirmed_backend or state.confirmed_backend),
            )

    async def _read_with_etag(self, task_hub: str) -> tuple[TaskHubRecord, str] | None:
        """The registered task hub, and the ETag that a conditional write needs. None if there is no row."""
        async with translate_storage_errors():
            try:
                row = await self._table.get_entity(TASK_HUB_PARTITION, hub_key(task_hub))
            except ResourceNotFoundError:
                return None
        return task_hub_record_from_row(row), etag_of(row)

    async def _update_record(self, task_hub: str, update: RecordUpdate) -> TaskHubRecord:
        """Read the record, apply `update` and write what it changes under the row's ETag. Starts again when another
        writer was faster, so `update` may be called several times."""
        for _ in range(_MAX_ATTEMPTS):
            stored = await self._read_with_etag(task_hub)
            if stored is None:
                record = update(TaskHubRecord(task_hub, self._shards, app=None, recording=False, closed=False))
                write: TableOperation = ("create", task_hub_row(record))
            else:
                record = update(stored[0])
                if record == stored[0]:
                    return record
                condition = {**if_match(stored[1]), "mode": UpdateMode.MERGE}
                write = ("update", {**task_hub_row_key(task_hub), **_changed_columns(stored[0], record)}, condition)
            async with translate_storage_errors():
                try:
                    await submit_transaction(self._table, [write])
                except HttpResponseError as error:
                    if is_table_missing(error):
                        await self._tables.create_table(TASK_HUBS_TABLE)
                    elif not is_write_conflict(error):
                        raise
                    continue
            written = await self._read_with_etag(task_hub)
            if written is not None:
                return written[0]
        raise StorageUnavailable(
            f"too many requests change task hub {task_hub} at the same time: try again", retry_after=5
        )


def _changed_columns(before: TaskHubRecord, after: TaskHubRecord) -> dict[str, object]:
    """The columns of `after` that differ from those of `before`."""
    columns_before = task_hub_columns(before)
    return {name: value for name, value in task_hub_columns(after).items() if value != columns_before[name]}
