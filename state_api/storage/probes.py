"""The probes of each task hub: the lease of the worker that reads the task hub, its last result, an unfinished scan and
what is remembered of its messages. Stored in the task hub's instance table, which Cleanup deletes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import UpdateMode
from azure.data.tables.aio import TableClient

from state_api.domain.errors import StorageUnavailable
from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import ProbeResult
from state_api.domain.readiness.messages import MessageState
from state_api.domain.readiness.scans import Scan
from state_api.services.ports import Lease, ProbeRecord
from state_api.storage.instance_keys import FIRST_SHARD
from state_api.storage.probe_rows import (
    PROBE_ROWS_FROM,
    PROBE_ROWS_TO,
    ProbeRowKind,
    held_lease_row,
    message_state_row,
    probe_record_from_rows,
    probe_row_kind,
    released_lease_row,
    renewed_lease_row,
    result_row,
)
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
from state_api.storage.transactions import TableOperation

_MAX_ATTEMPTS = 5


class ProbeStore:
    """Every write is conditional on the ETag of the task hub's lease row, with or without a lease. So a worker stores
    only what rests on what is stored. No write creates the table, so nothing is written after Cleanup."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def get(self, task_hub: str) -> ProbeRecord:
        """What is stored of the probes of this task hub."""
        return (await self._read_with_etag(task_hub))[0]

    async def acquire_lease(
        self, task_hub: str, lease_owner: str, record: ProbeRecord, etag: str | None, *, until: Instant
    ) -> Lease | None:
        """Lease the task hub to one worker if `record` and `etag` are still what is stored. None if another worker has
        written since."""
        write = _conditional_write(held_lease_row(lease_owner, until, record.scan), etag)
        async with translate_storage_errors():
            try:
                [etag] = await submit_transaction(self._table(task_hub), [write])
            except HttpResponseError as error:
                if is_table_missing(error):
                    # Nothing was recorded of the task hub, or it was cleaned up: each worker reads for itself.
                    return Lease(task_hub, lease_owner, None)
                if not is_write_conflict(error):
                    raise
                # Another worker wrote first, or this worker did: when a response is lost, the request is sent again
                # and then conflicts with its own first attempt.
                stored, etag = await self._read_with_etag(task_hub)
                if stored.lease_owner != lease_owner:
                    return None
        return Lease(task_hub, lease_owner, etag)

    async def renew_lease(self, lease: Lease, until: Instant) -> Lease | None:
        """Extend the lease. None if another worker holds it by now, or if the lease is not stored."""
        if lease.etag is None:
            return None
        row = renewed_lease_row(until)
        async with translate_storage_errors():
            try:
                condition = {**if_match(lease.etag), "mode": UpdateMode.MERGE}
                [etag] = await submit_transaction(self._table(lease.task_hub), [("update", row, condition)])
            except HttpResponseError as error:
                if not (is_write_conflict(error) or is_table_missing(error)):
                    raise
                # Another worker holds the lease by now, or the response to the first attempt of this write was lost.
                record, etag = await self._read_with_etag(lease.task_hub)
                if (record.lease_owner, record.leased_until) != (lease.lease_owner, until):
                    return None
        assert etag is not None, "the row exists"
        return replace(lease, etag=etag)

    async def save(
        self,
        task_hub: str,
        etag: str | None,
        *,
        result: ProbeResult | None = None,
        scan: Scan | None = None,
        message_state: MessageState | None = None,
    ) -> bool:
        """Store what came of a scan if the lease row still has `etag`, and end the lease. Without a `result` or
        `message_state` the stored one stays; without a `scan` the stored one is removed. False, and nothing is written,
        if another worker has written since, or if the table is missing."""
        operations = [_conditional_write(released_lease_row(scan), etag)]
        if message_state is not None:
            operations.append(_overwrite(message_state_row(message_state)))
        if result is not None:
            operations.append(_overwrite(result_row(result)))
        async with translate_storage_errors():
            try:
                await submit_transaction(self._table(task_hub), operations)
            except HttpResponseError as error:
                if not (is_write_conflict(error) or is_table_missing(error)):
                    raise
                return False
        return True

    async def replace_result(self, task_hub: str, result: ProbeResult) -> None:
        """Store a result in place of what other workers have stored, and end the lease of the one that scans now.
        Nothing is written if the table is missing."""
        for _ in range(_MAX_ATTEMPTS):
            record, etag = await self._read_with_etag(task_hub)
            if etag is None or await self.save(task_hub, etag, result=result, scan=record.scan):
                return
        raise StorageUnavailable(
            f"too many requests store probes of task hub {task_hub} at the same time: try again", retry_after=5
        )

    def _table(self, task_hub: str) -> TableClient:
        return self._tables.client(instance_table_name(task_hub))

    async def _read_with_etag(self, task_hub: str) -> tuple[ProbeRecord, str | None]:
        """The task hub's record, and the ETag of its lease row; None where that row does not exist."""
        query = "PartitionKey eq @partition and RowKey ge @from and RowKey lt @to"
        parameters = {"partition": FIRST_SHARD, "from": PROBE_ROWS_FROM, "to": PROBE_ROWS_TO}
        async with translate_storage_errors():
            try:
                entities = self._table(task_hub).query_entities(query, parameters=parameters)
                rows = {probe_row_kind(row): row async for row in entities}
            except ResourceNotFoundError:
                return ProbeRecord(), None
        lease_row = rows.get(ProbeRowKind.LEASE)
        return probe_record_from_rows(rows), etag_of(lease_row) if lease_row is not None else None


def _conditional_write(row: Mapping[str, Any], etag: str | None) -> TableOperation:
    """Replace the row if it still has `etag`; create it, if it does not exist, where `etag` is None."""
    if etag is None:
        return ("create", row)
    return ("update", row, {**if_match(etag), "mode": UpdateMode.REPLACE})


def _overwrite(row: Mapping[str, Any]) -> TableOperation:
    """The operation that writes the row and replaces the row that is there."""
    return ("upsert", row, {"mode": UpdateMode.REPLACE})
