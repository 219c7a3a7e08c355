"""One table per task hub. `i|<id>` holds an instance, `a|<since>|<id>` exists exactly while it is active, and both
change in one transaction under the ETag of `i|<id>`. `b|1|<function>`, the function's last beat, tells when an
instance of an orchestrator function last changed in the shard; the mark in `b|1|^c` changes when a look-up closes one.
The 1 is the schema number of these rows.

"Is anything active?" is then one range read per shard, whatever the hub has finished, and it comes oldest first.
"""

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables import TableEntity
from azure.data.tables.aio import TableClient

from state_api.domain.errors import InvalidRequest, StorageUnavailable
from state_api.domain.instants import Instant, parse_instant
from state_api.domain.readiness.evidence import ACTIVE_LIMIT, ActiveInstance, InstanceActivity
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.task_hubs.lifecycle import Instance, LifecycleEvent, RuntimeStatus, instance_from_event
from state_api.services.ports import Page, TableMissing, TaskHubRecord
from state_api.storage.group_commit import GroupCommit, read_stored_instance
from state_api.storage.instance_keys import ordinal_sort_key, shard_of
from state_api.storage.instance_rows import (
    ACTIVE_FROM,
    ACTIVE_TO,
    ACTIVITY_STAMP_PREFIX,
    CORRECTION_EPOCH_KEY,
    STAMPS_TO,
    active_instance_from_row,
    check_schema,
    instance_from_row,
)
from state_api.storage.schema import INSTANCE_SCHEMA
from state_api.storage.tables import (
    INVALID_CONTINUATION,
    Tables,
    decode_token,
    encode_token,
    instance_table_name,
    read_page,
    timestamp_of,
    translate_storage_errors,
)
from state_api.storage.transaction_plan import InstanceUpdate

_MAX_SERVICE_PAGES = 10
"""Pages of the service that one page of ours may read while a filter finds nothing."""


class InstanceStore:
    """Reads and writes the instance tables."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._group_commit = GroupCommit(tables)

    async def record(self, hub: TaskHubRecord, events: Sequence[LifecycleEvent]) -> list[bool | None]:
        """Merge events into their instances, durably. For each event, whether it changed anything: a duplicate does
        not, and is not written; None if the storage does not take it. Raises TableMissing, StorageUnavailable; then
        any part may have been written, and sending all again is safe."""
        return await self._merge(hub, [instance_from_event(event) for event in events], stamps_activity=True)

    async def record_corrections(self, hub: TaskHubRecord, corrections: Sequence[Instance]) -> list[bool | None]:
        """The same with what a probe has seen, which is no event: the hub's functions do not beat, so that nothing
        has to settle anew. But an end leaves a mark: what was read before proves nothing from then on."""
        return await self._merge(hub, corrections, stamps_activity=False)

    async def _merge(
        self, hub: TaskHubRecord, evidence: Sequence[Instance], stamps_activity: bool
    ) -> list[bool | None]:
        by_instance: dict[str, list[int]] = defaultdict(list)
        for number, one in enumerate(evidence):
            by_instance[one.instance_id].append(number)
        groups = [
            (
                _partition_key(instance_id, hub.shards),
                InstanceUpdate(instance_id, tuple(evidence[number] for number in numbers), stamps_activity),
            )
            for instance_id, numbers in by_instance.items()
        ]
        outcomes = await self._group_commit.commit(instance_table_name(hub.name), groups)
        changed: list[bool | None] = [None] * len(evidence)
        for numbers, outcome in zip(by_instance.values(), outcomes, strict=True):
            if outcome is not None:
                for number, effective in zip(numbers, outcome, strict=True):
                    changed[number] = effective
        return changed

    async def read_activity(
        self, hub: TaskHubRecord, exemptions: Exemptions, *, missing_is_empty: bool = False
    ) -> InstanceActivity:
        """What is active, oldest first, and when something last changed, without what is exempt: one range read per
        shard. Raises StorageUnavailable also if the hub's table is gone, unless `missing_is_empty`."""
        table = self._tables.client(instance_table_name(hub.name))
        async with translate_storage_errors():
            shards = await asyncio.gather(
                *(
                    self._read_shard_activity(table, shard, exemptions, missing_is_empty=missing_is_empty)
                    for shard in _partition_keys(hub.shards)
                )
            )
        merged = heapq.merge(*(shard.active for shard in shards), key=lambda one: (one.started_at, one.instance_id))
        active = tuple(merged)
        return InstanceActivity(
            active=active[:ACTIVE_LIMIT],
            has_more=len(active) > ACTIVE_LIMIT,
            ignored_count=sum(shard.ignored_count for shard in shards),
            last_event_at=max((shard.last_event_at for shard in shards if shard.last_event_at), default=None),
            last_recorded_at=max((shard.last_recorded_at for shard in shards if shard.last_recorded_at), default=None),
            correction_epoch="".join(shard.correction_epoch for shard in shards),
            waived=tuple(one for shard in shards for one in shard.waived),
        )

    async def _read_shard_activity(
        self, table: TableClient, shard: str, exemptions: Exemptions, *, missing_is_empty: bool
    ) -> InstanceActivity:
        active: list[ActiveInstance] = []
        waived: list[ActiveInstance] = []
        ignored = 0
        last_event_at: Instant | None = None
        last_recorded_at: Instant | None = None
        closings = ""
        rows = table.query_entities(
            "PartitionKey eq @shard and RowKey ge @from and RowKey lt @to",
            parameters={"shard": shard, "from": ACTIVE_FROM, "to": STAMPS_TO},
            results_per_page=1000,
        )
        try:
            async for row in rows:
                check_schema(row)
                if row["RowKey"] == CORRECTION_EPOCH_KEY:
                    closings = row["Epoch"]
                    continue
                ignored_function = exemptions.ignores(row["FunctionName"])
                if row["RowKey"].startswith(ACTIVITY_STAMP_PREFIX):
                    if not ignored_function:
                        last_event_at = max(last_event_at or Instant(0), parse_instant(row["LastEventAt"]))
                        last_recorded_at = max(last_recorded_at or Instant(0), timestamp_of(row))
                elif ignored_function:
                    ignored += 1
                else:
                    instance = ActiveInstance.from_instance(active_instance_from_row(row))
                    if exemptions.find_waiver(instance.instance_id) is not None:
                        waived.append(instance)
                        continue
                    active.append(instance)
                    if len(active) > ACTIVE_LIMIT:
                        break
        except ResourceNotFoundError:
            if missing_is_empty:
                return InstanceActivity()
            # An empty answer would say that nothing runs.
            raise StorageUnavailable(
                f"the records of a task hub are gone: table {table.table_name} was deleted. Make it again, empty, only "
                "if you know that nothing runs on that hub"
            ) from None
        return InstanceActivity(tuple(active), False, ignored, last_event_at, last_recorded_at, tuple(waived), closings)

    async def get(self, hub: TaskHubRecord, instance_id: str) -> Instance | None:
        """The record of one instance."""
        table = self._tables.client(instance_table_name(hub.name))
        async with translate_storage_errors():
            try:
                return (
                    await read_stored_instance(table, _partition_key(instance_id, hub.shards), instance_id)
                ).instance
            except TableMissing:
                return None

    async def list_page(
        self,
        hub: TaskHubRecord,
        *,
        active: bool | None = None,
        status: RuntimeStatus | None = None,
        top: int,
        token: str | None = None,
    ) -> Page[Instance]:
        """Instances, the active ones first and of these the oldest first; the finished ones in no order of time.

        A page can be short, even empty, and still have a continuation token, as with the service's own lists.
        """
        finished: dict[str, Any] = {"kind": "finished", "shard": 0, "page": None}
        if token is None:
            position: dict[str, Any] = {"kind": "active", "after": ""} if active is not False else finished
        else:
            position = decode_token(token, "active", "finished")
        if position["kind"] == "active":
            if not isinstance(after := position.get("after"), str):
                raise InvalidRequest(INVALID_CONTINUATION)
            page = await self._read_active_page(hub, after, top)
            items = tuple(one for one in page.items if status is None or one.runtime_status is status)
            if page.continuation_token is not None or active is not None:
                return Page(items, page.continuation_token)
            if len(items) == top:
                return Page(items, encode_token(finished))
            rest = await self._read_finished_page(hub, status, top - len(items), finished)
            return Page(items + rest.items, rest.continuation_token)
        return await self._read_finished_page(hub, status, top, position)

    async def _read_active_page(self, hub: TaskHubRecord, after: str, top: int) -> Page[Instance]:
        table = self._tables.client(instance_table_name(hub.name))
        async with translate_storage_errors():
            shards = await asyncio.gather(
                *(self._read_active_rows(table, shard, after, top + 1) for shard in _partition_keys(hub.shards))
            )
        rows = sorted((row for shard in shards for row in shard), key=lambda row: ordinal_sort_key(row["RowKey"]))
        if not rows:
            return Page((), None)
        token = encode_token({"kind": "active", "after": rows[top - 1]["RowKey"]}) if len(rows) > top else None
        return Page(tuple(active_instance_from_row(row) for row in rows[:top]), token)

    async def _read_active_rows(self, table: TableClient, shard: str, after: str, limit: int) -> list[TableEntity]:
        rows = table.query_entities(
            "PartitionKey eq @shard and RowKey gt @after and RowKey lt @to",
            parameters={"shard": shard, "after": max(after, ACTIVE_FROM), "to": ACTIVE_TO},
            results_per_page=min(limit, 1000),
        )
        found: list[TableEntity] = []
        try:
            async for row in rows:
                found.append(row)
                if len(found) == limit:
                    break
        except ResourceNotFoundError:
            return []
        return found

    async def _read_finished_page(
        self, hub: TaskHubRecord, status: RuntimeStatus | None, top: int, position: Mapping[str, Any]
    ) -> Page[Instance]:
        shard, token = position.get("shard"), position.get("page")
        if type(shard) is not int or not 0 <= shard < hub.shards or not isinstance(token, str | None):
            raise InvalidRequest(INVALID_CONTINUATION)
        table = self._tables.client(instance_table_name(hub.name))
        # A row of another schema need not have these properties, and must not be left out.
        unsupported = f"not (Schema eq {INSTANCE_SCHEMA.number})"
        query = "PartitionKey eq @shard and RowKey ge 'i|' and RowKey lt 'i}' and "
        parameters: dict[str, Any] = {}
        if status is None:
            query += f"(Active eq false or {unsupported})"
        else:
            query += f"(Active eq false and RuntimeStatus eq @status or {unsupported})"
            parameters["status"] = status.value
        items: list[Instance] = []
        for _ in range(_MAX_SERVICE_PAGES):
            parameters["shard"] = _shard_name(shard)
            page = await read_page(table, query, parameters, top=top - len(items), token=token, list_name="instances")
            items += [instance_from_row(row) for row in page.items]
            token = page.continuation_token
            if token is None:
                shard += 1
            if shard == hub.shards:
                return Page(tuple(items), None)
            if len(items) == top:
                break
        return Page(tuple(items), encode_token({"kind": "finished", "shard": shard, "page": token}))

    async def delete_records(self, hub: TaskHubRecord) -> None:
        table = instance_table_name(hub.name)
        self._group_commit.invalidate_cache(table)
        await self._tables.delete_table(table)
        self._group_commit.invalidate_cache(table)

    async def close(self) -> None:
        """End what is still being written."""
        await self._group_commit.close()


def _partition_key(instance_id: str, shards: int) -> str:
    return _shard_name(shard_of(instance_id, shards))


def _partition_keys(shards: int) -> list[str]:
    return [_shard_name(number) for number in range(shards)]


def _shard_name(shard: int) -> str:
    return f"{shard:02d}"
