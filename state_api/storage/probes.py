"""What is kept of the probes of each task hub: the last result, a scan under way, what is remembered of its messages,
and the lease of the worker that has the hub. In the registry's table, in a partition of its own, in a row each because
each can be long."""

import functools
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import TableEntity, UpdateMode
from pydantic import TypeAdapter, ValidationError

from state_api.domain.instants import Instant, format_instant, parse_instant
from state_api.domain.names import hub_key
from state_api.domain.readiness.evidence import ProbeResult
from state_api.domain.readiness.messages import MessageState
from state_api.domain.readiness.scans import Scan
from state_api.services.ports import Lease, ProbeRecord
from state_api.storage.schema import PROBE_SCHEMA
from state_api.storage.tables import (
    TASK_HUBS_TABLE,
    Tables,
    etag_of,
    if_match,
    is_table_missing,
    is_write_conflict,
    join_property,
    split_property,
    submit_transaction,
    translate_storage_errors,
)
from state_api.storage.transactions import TableOperation

_PARTITION = "probe"

log = logging.getLogger(__name__)

Stored = TypeVar("Stored")


# Made when first used, for the sake of a cold start.


@functools.cache
def _result_adapter() -> TypeAdapter[ProbeResult]:
    return TypeAdapter(ProbeResult)


@functools.cache
def _scan_adapter() -> TypeAdapter[Scan]:
    return TypeAdapter(Scan)


@functools.cache
def _memory_adapter() -> TypeAdapter[MessageState]:
    return TypeAdapter(MessageState)


class ProbeStore:
    """`{hub}|work` holds lease and scan and guards every write with its ETag; `{hub}|result` holds the last result and
    `{hub}|messages` what is remembered of the messages."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._table = tables.client(TASK_HUBS_TABLE)

    async def get(self, task_hub: str) -> ProbeRecord:
        return (await self._read_with_etag(task_hub))[0]

    async def acquire_lease(self, task_hub: str, lease_owner: str, until: Instant, now: Instant) -> Lease | None:
        """Take the hub for one worker. None while another has it, or was faster."""
        known, etag = await self._read_with_etag(task_hub)
        if known.leased_until is not None and now < known.leased_until and known.lease_owner != lease_owner:
            return None
        written = await self._write_lease(_work_row(task_hub, lease_owner, until, known.scan), etag)
        if written is None:
            # Another was faster; or it was this one: an answer that is lost on its way is asked for again.
            known, written = await self._read_with_etag(task_hub)
            if written is None or known.lease_owner != lease_owner:
                return None
        return Lease(task_hub, lease_owner, known, written)

    async def _write_lease(self, row: Mapping[str, Any], etag: str | None) -> str | None:
        """The new ETag; None if the row has another by now."""
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
        # Merged, so that a long scan is not written again each time.
        row = _probe_row(lease.task_hub, "work", LeasedUntil=format_instant(until))
        async with translate_storage_errors():
            try:
                condition = {**if_match(lease.etag), "mode": UpdateMode.MERGE}
                [token] = await submit_transaction(self._table, [("update", row, condition)])
            except HttpResponseError as error:
                if not (is_write_conflict(error) or is_table_missing(error)):
                    raise
                # Either another worker has the hub by now, or the answer to this very write was lost.
                known, token = await self._read_with_etag(lease.task_hub)
                if (known.lease_owner, known.leased_until) != (lease.lease_owner, until):
                    return None
        assert token is not None, "the row exists"
        return replace(lease, etag=token)

    async def save_and_release(
        self, lease: Lease, result: ProbeResult | None, scan: Scan | None, message_state: MessageState | None = None
    ) -> bool:
        operations: list[TableOperation] = [_conditional_write(_work_row(lease.task_hub, "", None, scan), lease.etag)]
        if message_state is not None and message_state != lease.record.message_state:
            row = _probe_row(
                lease.task_hub,
                "messages",
                **split_property("MessageState", _memory_adapter().dump_json(message_state).decode()),
            )
            operations.append(("upsert", row, {"mode": UpdateMode.REPLACE}))
        if result is not None:
            row = _probe_row(
                lease.task_hub, "result", **split_property("Result", _result_adapter().dump_json(result).decode())
            )
            operations.append(("upsert", row, {"mode": UpdateMode.REPLACE}))
        async with translate_storage_errors():
            try:
                await submit_transaction(self._table, operations)
            except HttpResponseError as error:
                if not (is_write_conflict(error) or is_table_missing(error)):
                    raise
                return False
        return True

    async def delete_records(self, task_hub: str) -> None:
        # Raises if another version of this server wrote them.
        await self._read_with_etag(task_hub)
        # The lease first: whoever still holds it cannot leave a result behind then.
        for kind in ("work", "result", "messages"):
            async with translate_storage_errors():
                try:
                    await submit_transaction(self._table, [("delete", _probe_row(task_hub, kind))])
                except HttpResponseError as error:
                    if not (is_write_conflict(error) or is_table_missing(error)):
                        raise

    async def _read_with_etag(self, task_hub: str) -> tuple[ProbeRecord, str | None]:
        rows: dict[str, TableEntity] = {}
        query = "PartitionKey eq @partition and RowKey gt @from and RowKey lt @to"
        parameters = {"partition": _PARTITION, "from": f"{hub_key(task_hub)}|", "to": f"{hub_key(task_hub)}}}"}
        async with translate_storage_errors():
            try:
                async for row in self._table.query_entities(query, parameters=parameters):
                    PROBE_SCHEMA.check(row)
                    rows[row["RowKey"].rpartition("|")[2]] = row
            except ResourceNotFoundError:
                return ProbeRecord(), None
        work, result = rows.get("work"), rows.get("result")
        until = work.get("LeasedUntil") if work is not None else None
        return ProbeRecord(
            result=_parse_or_none(_result_adapter(), "Result", result),
            scan=_parse_or_none(_scan_adapter(), "Scan", work),
            leased_until=parse_instant(until) if until else None,
            lease_owner=work.get("LeaseOwner", "") if work is not None else "",
            message_state=_parse_or_none(_memory_adapter(), "MessageState", rows.get("messages")) or MessageState(),
        ), (etag_of(work) if work is not None else None)


def _parse_or_none(kind: TypeAdapter[Stored], name: str, row: TableEntity | None) -> Stored | None:
    """What is kept in a row; nothing if it cannot be read. Then the task hub is read again."""
    text = join_property(name, row) if row is not None else ""
    if not text:
        return None
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        log.warning("what was kept of a probe cannot be read: %d errors", error.error_count())
        return None


def _probe_row(task_hub: str, kind: str, **properties: Any) -> dict[str, Any]:
    return {
        "PartitionKey": _PARTITION,
        "RowKey": f"{hub_key(task_hub)}|{kind}",
        **PROBE_SCHEMA.schema_property,
        **properties,
    }


def _work_row(task_hub: str, lease_owner: str, until: Instant | None, scan: Scan | None) -> dict[str, Any]:
    lease = {"LeaseOwner": lease_owner, "LeasedUntil": format_instant(until)} if until is not None else {}
    return _probe_row(
        task_hub, "work", **lease, **(split_property("Scan", _scan_adapter().dump_json(scan).decode()) if scan else {})
    )


def _conditional_write(row: Mapping[str, Any], etag: str | None) -> TableOperation:
    if etag is None:
        return ("create", row)
    return ("update", row, {**if_match(etag), "mode": UpdateMode.REPLACE})
