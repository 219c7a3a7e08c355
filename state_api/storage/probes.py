"""The probes of each task hub: the lease of the worker that reads the task hub, its last result, an unfinished scan and
what is remembered of its messages. Stored in the registry's table, in a partition of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import UpdateMode

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import ProbeResult
from state_api.domain.readiness.messages import MessageState
from state_api.domain.readiness.scans import Scan
from state_api.services.ports import Lease, ProbeRecord
from state_api.storage.probe_rows import (
    PROBE_PARTITION,
    ProbeRowKind,
    held_lease_row,
    message_state_row,
    probe_record_from_rows,
    probe_row,
    probe_row_keys,
    probe_row_kind,
    released_lease_row,
    renewed_lease_row,
    result_row,
)
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
from state_api.storage.transactions import TableOperation


class ProbeStore:
    """Every write is conditional on the ETag of the task hub's lease row, so a worker that has lost its lease writes
    nothing."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._table = tables.client(TASK_HUBS_TABLE)

    async def get(self, task_hub: str) -> ProbeRecord:
        return (await self._read_with_etag(task_hub))[0]

    async def acquire_lease(self, task_hub: str, lease_owner: str, *, until: Instant, now: Instant) -> Lease | None:
        """Lease the task hub to one worker. None while another worker holds the lease or acquires it first."""
        record, etag = await self._read_with_etag(task_hub)
        if record.leased_until is not None and now < record.leased_until and record.lease_owner != lease_owner:
            return None
        new_etag = await self._write_lease(held_lease_row(task_hub, lease_owner, until, record.scan), etag)
        if new_etag is None:
            # Another worker wrote first, or this worker did: when a response is lost, the request is sent again and
            # then conflicts with its own first attempt.
            record, new_etag = await self._read_with_etag(task_hub)
            if new_etag is None or record.lease_owner != lease_owner:
                return None
        return Lease(task_hub, lease_owner, record, new_etag)

    async def _write_lease(self, row: Mapping[str, Any], etag: str | None) -> str | None:
        """The new ETag; None if the stored row no longer has `etag`. Creates the table when it is missing."""
        for _ in range(2):
            async with translate_storage_errors():
                try:
                    return (await submit_transaction(self._table, [_conditional_write(row, etag)]))[0]
                except HttpResponseError as error:
                    if is_write_conflict(error):
                        break
                    if not is_table_missing(error):
                        raise
                    await self._tables.create_table(TASK_HUBS_TABLE)
        return None

    async def renew_lease(self, lease: Lease, until: Instant) -> Lease | None:
        """Extend the lease. None if another worker holds it by now."""
        row = renewed_lease_row(lease.task_hub, until)
        async with translate_storage_errors():
            try:
                condition = {**if_match(lease.etag), "mode": UpdateMode.MERGE}
                [etag] = await submit_transaction(self._table, [("update", row, condition)])
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
        a `scan` the stored one is removed. False, and nothing is written, if another worker holds the lease by now."""
        operations = [_conditional_write(released_lease_row(lease.task_hub, scan), lease.etag)]
        if message_state is not None and message_state != lease.record.message_state:
            operations.append(_overwrite(message_state_row(lease.task_hub, message_state)))
        if result is not None:
            operations.append(_overwrite(result_row(lease.task_hub, result)))
        async with translate_storage_errors():
            try:
                await submit_transaction(self._table, operations)
            except HttpResponseError as error:
                if not (is_write_conflict(error) or is_table_missing(error)):
                    raise
                return False
        return True

    async def delete_records(self, task_hub: str) -> None:
        """Delete all rows of the task hub. Raises UnsupportedSchema before anything is deleted."""
        await self._read_with_etag(task_hub)
        # The lease comes first: without its row, a worker that still holds the lease cannot write a result afterwards.
        for kind in (ProbeRowKind.LEASE, ProbeRowKind.RESULT, ProbeRowKind.MESSAGES):
            async with translate_storage_errors():
                try:
                    await submit_transaction(self._table, [("delete", probe_row(task_hub, kind))])
                except HttpResponseError as error:
                    if not (is_write_conflict(error) or is_table_missing(error)):
                        raise

    async def _read_with_etag(self, task_hub: str) -> tuple[ProbeRecord, str | None]:
        """The task hub's record, and the ETag of its lease row; None where that row does not exist."""
        keys_from, keys_to = probe_row_keys(task_hub)
        query = "PartitionKey eq @partition and RowKey gt @from and RowKey lt @to"
        parameters = {"partition": PROBE_PARTITION, "from": keys_from, "to": keys_to}
        async with translate_storage_errors():
            try:
                rows = {
                    probe_row_kind(row): row async for row in self._table.query_entities(query, parameters=parameters)
                }
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
