"""Reads everything recorded of a task hub that a verdict needs: its state and its probes, the active instances, and
when something last changed. One range query for a task hub with one shard."""

import asyncio
import hashlib
import heapq
from collections.abc import Sequence

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables import TableEntity
from azure.data.tables.aio import TableClient

from state_api.domain.instants import Instant, parse_instant
from state_api.domain.names import hub_key
from state_api.domain.readiness.evidence import ACTIVE_LIMIT, ActiveInstance, InstanceActivity
from state_api.domain.readiness.exemptions import Exemptions
from state_api.services.ports import TaskHubRecord, TaskHubRecords
from state_api.storage.instance_keys import shard_name
from state_api.storage.instance_rows import (
    ACTIVITY_STAMP_PREFIX,
    CORRECTION_EPOCH_KEY,
    HUB_ROWS_FROM,
    STAMPS_TO,
    active_instance_from_row,
    check_schema,
)
from state_api.storage.probe_rows import ProbeRowKind, probe_record_from_rows, probe_row_kind
from state_api.storage.tables import (
    TASK_HUBS_TABLE,
    Tables,
    etag_of,
    instance_table_name,
    timestamp_of,
    translate_storage_errors,
)
from state_api.storage.task_hub_rows import TASK_HUB_PARTITION, task_hub_record_from_row
from state_api.storage.task_hub_state_rows import STATE_ROW_KEY, TaskHubState, task_hub_state_from_row
from state_api.storage.task_hub_states import lost_records_error


class RecordsReader:
    """Reads the instance tables. The number of shards is read together with the first shard and never cached, so
    a verdict always rests on all shards."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def read(self, task_hub: str, exemptions: Exemptions) -> TaskHubRecords:
        """Everything recorded of the task hub. Empty if it is unknown or was cleaned up. Raises UnsupportedSchema and
        StorageUnavailable, also if its table is missing although something was recorded."""
        table = self._tables.client(instance_table_name(task_hub))
        async with translate_storage_errors():
            try:
                first = await _read_shard(table, 0, exemptions)
            except ResourceNotFoundError:
                first = None
            if first is not None and first.state is not None:
                return await _combine_shards(table, first, first.state, exemptions)
            return await self._read_without_state(table, task_hub, exemptions)

    async def _read_without_state(self, table: TableClient, task_hub: str, exemptions: Exemptions) -> TaskHubRecords:
        """Read the records of a task hub without a state row. The registry shows why the row is missing.

        The task hub is unknown, or it was cleaned up, or a worker died before it wrote the row, or a person has deleted
        the table."""
        record = await self._read_registry(task_hub)
        if record is None or record.closed:
            return TaskHubRecords(recording=record is not None and record.recording)
        try:
            # Read the shard again, because the first event may have been recorded between the two reads.
            first = await _read_shard(table, 0, exemptions)
        except ResourceNotFoundError:
            if record.recording:
                raise lost_records_error(table.table_name) from None
            return TaskHubRecords()
        state = first.state or TaskHubState(record.shards, recording=record.recording)
        return await _combine_shards(table, first, state, exemptions)

    async def _read_registry(self, task_hub: str) -> TaskHubRecord | None:
        """The registered task hub; None if no event and no app has named it."""
        registry = self._tables.client(TASK_HUBS_TABLE)
        try:
            row = await registry.get_entity(TASK_HUB_PARTITION, hub_key(task_hub))
        except ResourceNotFoundError:
            return None
        return task_hub_record_from_row(row)


class _ShardRecords:
    """Adds up the rows of one shard, in key order. Only the first shard has a state and probes."""

    def __init__(self, exemptions: Exemptions) -> None:
        """Begin without any row. Instances that are exempt are counted apart."""
        self._exemptions = exemptions
        self.state: TaskHubState | None = None
        self.probe_rows: dict[str, TableEntity] = {}
        self.active: list[ActiveInstance] = []
        self.waived: list[ActiveInstance] = []
        self.ignored_count = 0
        self.last_event_at: Instant | None = None
        self.last_recorded_at: Instant | None = None
        self.correction_epoch = ""
        self._versions = hashlib.sha256()

    def add_row(self, row: TableEntity) -> None:
        """Take in one row of the task hub. Raises UnsupportedSchema."""
        key = row["RowKey"]
        if key == STATE_ROW_KEY:
            self.state = task_hub_state_from_row(row)
        elif key.startswith(HUB_ROWS_FROM):
            self.probe_rows[probe_row_kind(row)] = row
        else:
            check_schema(row)
            self._versions.update(f"{key}\n{etag_of(row)}\n".encode("utf-8", "surrogatepass"))
            self._add_activity(row)

    def _add_activity(self, row: TableEntity) -> None:
        """Add an active row, a stamp or the correction epoch."""
        if row["RowKey"] == CORRECTION_EPOCH_KEY:
            self.correction_epoch = row["Epoch"]
        elif row["RowKey"].startswith(ACTIVITY_STAMP_PREFIX):
            if not self._exemptions.ignores(row["FunctionName"]):
                self.last_event_at = max(self.last_event_at or Instant(0), parse_instant(row["LastEventAt"]))
                self.last_recorded_at = max(self.last_recorded_at or Instant(0), timestamp_of(row))
        elif self._exemptions.ignores(row["FunctionName"]):
            self.ignored_count += 1
        else:
            instance = ActiveInstance.from_instance(active_instance_from_row(row))
            is_waived = self._exemptions.find_waiver(instance.instance_id) is not None
            (self.waived if is_waived else self.active).append(instance)

    @property
    def versions_digest(self) -> str:
        """Identifies the active rows, the stamps and the correction epoch that were read, with their ETags."""
        return self._versions.hexdigest()[:32]


async def _read_shard(table: TableClient, shard: int, exemptions: Exemptions) -> _ShardRecords:
    """The records in one shard. Stops after ACTIVE_LIMIT + 1 instances that are not exempt, without reading the
    stamps: the verdict is NotReady even without them. Raises the library's errors."""
    records = _ShardRecords(exemptions)
    rows = table.query_entities(
        "PartitionKey eq @partition and RowKey ge @from and RowKey lt @to",
        parameters={"partition": shard_name(shard), "from": HUB_ROWS_FROM, "to": STAMPS_TO},
        results_per_page=1000,
    )
    async for row in rows:
        records.add_row(row)
        if len(records.active) > ACTIVE_LIMIT:
            break
    return records


async def _combine_shards(
    table: TableClient, first: _ShardRecords, state: TaskHubState, exemptions: Exemptions
) -> TaskHubRecords:
    """Read the other shards at once, and add everything up."""
    others = await asyncio.gather(*(_read_shard(table, shard, exemptions) for shard in range(1, state.shards)))
    shards = (first, *others)
    lease_row = first.probe_rows.get(ProbeRowKind.LEASE)
    digests = "".join(shard.versions_digest for shard in shards)
    return TaskHubRecords(
        activity=InstanceActivity() if state.closed else _add_up_activity(shards),
        recording=state.recording,
        seen=state.seen,
        confirmed_backend=state.confirmed_backend,
        probe=probe_record_from_rows(first.probe_rows),
        probe_etag=etag_of(lease_row) if lease_row is not None else None,
        change_token=hashlib.sha256(f"{state.recording} {state.closed} {digests}".encode()).hexdigest()[:32],
    )


def _add_up_activity(shards: Sequence[_ShardRecords]) -> InstanceActivity:
    """What is active in all shards together, the oldest instances first."""
    active = tuple(
        heapq.merge(
            *(shard.active for shard in shards), key=lambda instance: (instance.started_at, instance.instance_id)
        )
    )
    return InstanceActivity(
        active=active[:ACTIVE_LIMIT],
        has_more=len(active) > ACTIVE_LIMIT,
        ignored_count=sum(shard.ignored_count for shard in shards),
        last_event_at=max((shard.last_event_at for shard in shards if shard.last_event_at), default=None),
        last_recorded_at=max((shard.last_recorded_at for shard in shards if shard.last_recorded_at), default=None),
        correction_epoch="".join(shard.correction_epoch for shard in shards),
        waived=tuple(instance for shard in shards for instance in shard.waived),
    )
