"""The records of instances: one table per task hub, whose rows `instance_rows.py` describes.

Whether an instance is active is recorded twice, in its own row and by an active row, and one transaction changes both.
Finding all active instances is therefore one range query per shard, oldest first, however many instances have finished
(`records_reader.py`).
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables import TableEntity
from azure.data.tables.aio import TableClient

from state_api.domain.errors import InvalidRequest
from state_api.domain.instants import Instant
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.waiting import InstanceChange, RecordedChanges
from state_api.domain.task_hubs.lifecycle import Instance, LifecycleEvent, RuntimeStatus, instance_from_event
from state_api.domain.task_hubs.timeline import Minute, Timeline
from state_api.services.change_signals import ChangeSignals
from state_api.services.ports import Page, TableMissing, TaskHubRecord, TaskHubRecords
from state_api.storage.group_commit import GroupCommit
from state_api.storage.instance_keys import ordinal_sort_key, shard_name, shard_of
from state_api.storage.instance_loader import read_stored_instance
from state_api.storage.instance_rows import (
    ACTIVE_FROM,
    ACTIVE_TO,
    active_instance_from_row,
    instance_from_row,
)
from state_api.storage.records_reader import RecordsReader
from state_api.storage.schema import INSTANCE_SCHEMA
from state_api.storage.tables import (
    INVALID_CONTINUATION,
    Tables,
    decode_token,
    encode_token,
    instance_table_name,
    read_page,
    task_hub_of_table,
    translate_storage_errors,
)
from state_api.storage.timeline_reader import read_timeline
from state_api.storage.transaction_plan import InstanceUpdate, TransactionPlan

_MAX_SERVICE_PAGES = 10
"""Pages that the storage is asked for to fill one page of the API, when a filter leaves out most rows."""

_ACTIVE, _FINISHED = "active", "finished"
"""The two kinds of continuation tokens: a list of instances begins with the active ones."""


class InstanceStore:
    """Reads and writes the instance tables. What it has recorded is passed on as `signals`."""

    def __init__(self, tables: Tables, signals: ChangeSignals | None = None) -> None:
        self._tables = tables
        self._signals = signals or ChangeSignals()
        self._group_commit = GroupCommit(tables, self._signal_changes)
        self._reader = RecordsReader(tables)

    async def record(self, hub: TaskHubRecord, events: Sequence[LifecycleEvent]) -> list[bool | None]:
        """Merge events into their instances, durably. For each event: whether it changed the record, or None if the
        storage rejects the row. Raises TableMissing and StorageUnavailable; then any of the events may have been
        recorded, and recording all of them again is safe."""
        return await self._merge(hub, [instance_from_event(event) for event in events], stamps_activity=True)

    async def record_corrections(self, hub: TaskHubRecord, corrections: Sequence[Instance]) -> list[bool | None]:
        """Record what a probe has observed, with the result of `record`. Corrections do not stamp activity, so the task
        hub need not settle again. A correction that ends an active instance changes the correction epoch: an earlier
        probe result no longer counts."""
        return await self._merge(hub, corrections, stamps_activity=False)

    async def _merge(
        self, hub: TaskHubRecord, changes: Sequence[Instance], *, stamps_activity: bool
    ) -> list[bool | None]:
        """Merge changes into the stored instances. For each change: whether it had an effect, or None if the storage
        rejects the row."""
        indexes_by_instance: dict[str, list[int]] = defaultdict(list)
        for index, change in enumerate(changes):
            indexes_by_instance[change.instance_id].append(index)
        updates = [
            (
                _partition_key(instance_id, hub.shards),
                InstanceUpdate(instance_id, tuple(changes[index] for index in indexes), stamps_activity),
            )
            for instance_id, indexes in indexes_by_instance.items()
        ]
        outcomes = await self._group_commit.commit(instance_table_name(hub.name), updates)
        changed: list[bool | None] = [None] * len(changes)
        for indexes, outcome in zip(indexes_by_instance.values(), outcomes, strict=True):
            if outcome is not None:
                for index, effective in zip(indexes, outcome, strict=True):
                    changed[index] = effective
        return changed

    async def read_records(self, task_hub: str, exemptions: Exemptions) -> TaskHubRecords:
        """Everything recorded of the task hub that a verdict needs. Raises StorageUnavailable, also if the records are
        lost."""
        return await self._reader.read(task_hub, exemptions)

    def _signal_changes(self, table: str, plan: TransactionPlan, sent_at: Instant) -> None:
        """Report what a transaction has stored to the listeners of its task hub."""
        task_hub = task_hub_of_table(table)
        if self._signals.has_listeners(task_hub):
            instances = [
                InstanceChange(row.instance.instance_id, row.instance.function_name, row.instance.active)
                for row in plan.rows
            ]
            self._signals.signal_task_hub(
                task_hub, RecordedChanges(instances, frozenset(plan.activity_stamps), recorded_at=sent_at)
            )

    async def get(self, hub: TaskHubRecord, instance_id: str) -> Instance | None:
        """The record of one instance; None if nothing is recorded of it."""
        table = self._tables.client(instance_table_name(hub.name))
        async with translate_storage_errors():
            try:
                stored = await read_stored_instance(table, _partition_key(instance_id, hub.shards), instance_id)
            except TableMissing:
                return None
        return stored.instance

    async def read_timeline(self, hub: TaskHubRecord, first_minute: Minute, end_minute: Minute) -> Timeline:
        """What the servers have counted of these minutes, `end_minute` excluded. Empty without a table."""
        table = self._tables.client(instance_table_name(hub.name))
        async with translate_storage_errors():
            return await read_timeline(table, _partition_keys(hub.shards), first_minute, end_minute)

    async def list_page(
        self,
        hub: TaskHubRecord,
        *,
        active: bool | None = None,
        status: RuntimeStatus | None = None,
        top: int,
        token: str | None = None,
    ) -> Page[Instance]:
        """Up to `top` instances: the active ones first, oldest first, then the finished ones by key. `active` and
        `status` filter. A page can be short or even empty and still have a continuation token, as in Azure's own
        lists."""
        first_finished: dict[str, Any] = {"kind": _FINISHED, "shard": 0, "page": None}
        if token is not None:
            position = decode_token(token, _ACTIVE, _FINISHED)
        elif active is False:
            position = first_finished
        else:
            position = {"kind": _ACTIVE, "after": ""}
        if position["kind"] == _FINISHED:
            return await self._read_finished_page(hub, status, top=top, position=position)
        page = await self._read_active_page(hub, position.get("after"), top)
        items = tuple(instance for instance in page.items if status is None or instance.runtime_status is status)
        if page.continuation_token is not None or active is not None:
            return Page(items, page.continuation_token)
        if len(items) == top:
            return Page(items, encode_token(first_finished))
        finished = await self._read_finished_page(hub, status, top=top - len(items), position=first_finished)
        return Page(items + finished.items, finished.continuation_token)

    async def _read_active_page(self, hub: TaskHubRecord, after: Any, top: int) -> Page[Instance]:
        """Up to `top` active instances whose row keys are greater than `after`, which comes from a token."""
        if not isinstance(after, str):
            raise InvalidRequest(INVALID_CONTINUATION)
        table = self._tables.client(instance_table_name(hub.name))
        async with translate_storage_errors():
            shards = await asyncio.gather(
                *(_read_active_rows(table, partition, after, top + 1) for partition in _partition_keys(hub.shards))
            )
        rows = sorted((row for shard in shards for row in shard), key=lambda row: ordinal_sort_key(row["RowKey"]))
        if not rows:
            return Page((), None)
        token = encode_token({"kind": _ACTIVE, "after": rows[top - 1]["RowKey"]}) if len(rows) > top else None
        return Page(tuple(active_instance_from_row(row) for row in rows[:top]), token)

    async def _read_finished_page(
        self, hub: TaskHubRecord, status: RuntimeStatus | None, *, top: int, position: Mapping[str, Any]
    ) -> Page[Instance]:
        """Up to `top` finished instances from a `position` on, which comes from a token: a shard, and the storage's
        own token in that shard."""
        shard, token = position.get("shard"), position.get("page")
        if type(shard) is not int or not 0 <= shard < hub.shards or not isinstance(token, str | None):
            raise InvalidRequest(INVALID_CONTINUATION)
        table = self._tables.client(instance_table_name(hub.name))
        # Select rows of another schema too. They may lack these columns, and must be refused, not left out.
        other_schema = f"not (Schema eq {INSTANCE_SCHEMA.number})"
        query = "PartitionKey eq @partition and RowKey ge 'i|' and RowKey lt 'i}' and "
        parameters: dict[str, Any] = {}
        if status is None:
            query += f"(Active eq false or {other_schema})"
        else:
            query += f"(Active eq false and RuntimeStatus eq @status or {other_schema})"
            parameters["status"] = status.value
        items: list[Instance] = []
        for _ in range(_MAX_SERVICE_PAGES):
            parameters["partition"] = shard_name(shard)
            page = await read_page(table, query, parameters, top=top - len(items), token=token, list_name="instances")
            items += [instance_from_row(row) for row in page.items]
            token = page.continuation_token
            if token is None:
                shard += 1
            if shard == hub.shards:
                return Page(tuple(items), None)
            if len(items) == top:
                break
        return Page(tuple(items), encode_token({"kind": _FINISHED, "shard": shard, "page": token}))

    async def delete_records(self, hub: TaskHubRecord) -> None:
        """Delete the task hub's instance table, which also holds its probes; a missing table is fine."""
        table = instance_table_name(hub.name)
        self._group_commit.invalidate_cache(table)
        await self._tables.delete_table(table)
        # Clear the cache again, because a write may have filled the cache until the table was deleted.
        self._group_commit.invalidate_cache(table)

    async def close(self) -> None:
        """Cancel what is being written."""
        await self._group_commit.close()


async def _read_active_rows(table: TableClient, partition: str, after: str, limit: int) -> list[TableEntity]:
    """Up to `limit` active rows of one shard whose keys are greater than `after`; none if the table is missing."""
    rows = table.query_entities(
        "PartitionKey eq @partition and RowKey gt @after and RowKey lt @to",
        parameters={"partition": partition, "after": max(after, ACTIVE_FROM), "to": ACTIVE_TO},
        results_per_page=min(limit, 1000),
    )
    active_rows: list[TableEntity] = []
    try:
        async for row in rows:
            active_rows.append(row)
            if len(active_rows) == limit:
                break
    except ResourceNotFoundError:
        return []
    return active_rows


def _partition_key(instance_id: str, shards: int) -> str:
    return shard_name(shard_of(instance_id, shards))


def _partition_keys(shards: int) -> list[str]:
    return [shard_name(shard) for shard in range(shards)]
