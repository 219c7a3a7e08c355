"""The probes of each task hub: the lease of the worker that reads the task hub, its last result, an unfinished scan and
what is remembered of its messages. Stored in the task hub's instance table, which Cleanup deletes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import UpdateMode
from azure.data.tables.aio import TableClient

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
    """Every write is conditional on the ETag of the task hub's lease row, so a worker that has lost its lease writes
    nothing. No write creates the table, so nothing is written after Cleanup."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def get(self, task_hub: str) -> ProbeRecord:
        return (await self._read_with_etag(task_hub))[0]

    async def acquire_lease(
        self, task_hub: str, lease_owner: str, record: ProbeRecord, etag: str | None, *, until: Instant, now: Instant
    ) -> Lease | None:
        """Lease the task hub to one worker. `record` and `etag` are what was last read of its probes. They are read
        again only if they have changed. None while another worker holds the lease or acquires it first."""
        for _ in range(_MAX_ATTEMPTS):
            if record.leased_until is not None and now < record.leased_until and record.lease_owner != lease_owner:
                return None
            write = _conditional_write(held_lease_row(lease_owner, until, record.scan), etag)
            async with translate_storage_errors():
                try:
                    [new_etag] = await submit_transaction(self._table(task_hub), [write])
                    return Lease(task_hub, lease_owner, record, new_etag)
                except HttpResponseError as error:
                    if is_table_missing(error):
                        # Nothing was recorded of the task hub, or it was cleaned up: each worker reads for itself.
                        return Lease(task_hub, lease_owner, ProbeRecord(), None)
                    if not is_write_conflict(error):
                        raise
            # Another worker wrote first, or this worker did: when a response is lost, the request is sent again and
            # then conflicts with its own first attempt.
            record, etag = await self._read_with_etag(task_hub)
            if etag is not None and record.lease_owner == lease_owner:
                return Lease(task_hub, lease_owner, record, etag)
        return None

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

    async def save_and_release(
        self,
        lease: Lease,
        *,
        result: ProbeResult | None = None,
        scan: Scan | None = None,
        message_state: MessageState | None = None,
    ) -> bool:
        """End the lease and store what came of it. Without a `result` or `message_state` the stored one stays; without
        a `scan` the stored one is removed. False, and nothing is written, if another worker holds the lease by now, or
        if the table is missing."""
        operations = [_conditional_write(released_lease_row(scan), lease.etag)]
        if message_state is not None and message_state != lease.record.message_state:
            operations.append(_overwrite(message_state_row(message_state)))
        if result is not None:
            operations.append(_overwrite(result_row(result)))
        async with translate_storage_errors():
            try:
                await submit_transaction(self._table(lease.task_hub), operations)
            except HttpResponseError as error:
                if not (is_write_conflict(error) or is_table_missing(error)):
                    raise
                return False
        return True

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
    return ("upsert", row, {"mode": UpdateMode.REPLACE})
