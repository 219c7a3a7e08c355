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

from state_api.domain.evidence import ProbeResult
from state_api.domain.instants import Instant, format_instant, parse_instant
from state_api.domain.messages import MessageMemory
from state_api.domain.names import hub_key
from state_api.domain.scans import Scan
from state_api.services.ports import Lease, ProbeRecord
from state_api.storage.schema import PROBE
from state_api.storage.tables import (
    TASK_HUBS,
    Tables,
    chunked,
    etag_of,
    is_lost_race,
    is_no_table,
    transact,
    translated,
    unchanged_since,
    unchunked,
)
from state_api.storage.transactions import Operation

_PARTITION = "probe"

log = logging.getLogger(__name__)

Kept = TypeVar("Kept")


# Made when first used, for the sake of a cold start.


@functools.cache
def _result() -> TypeAdapter[ProbeResult]:
    return TypeAdapter(ProbeResult)


@functools.cache
def _scan() -> TypeAdapter[Scan]:
    return TypeAdapter(Scan)


@functools.cache
def _memory() -> TypeAdapter[MessageMemory]:
    return TypeAdapter(MessageMemory)


class ProbeStore:
    """`{hub}|work` holds lease and scan and guards every write with its ETag; `{hub}|result` holds the last result and
    `{hub}|messages` what is remembered of the messages."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._table = tables.client(TASK_HUBS)

    async def get(self, task_hub: str) -> ProbeRecord:
        return (await self._read(task_hub))[0]

    async def lease(self, task_hub: str, owner: str, until: Instant, now: Instant) -> Lease | None:
        """Take the hub for one worker. None while another has it, or was faster."""
        known, etag = await self._read(task_hub)
        if known.leased_until is not None and now < known.leased_until and known.owner != owner:
            return None
        written = await self._take(_work_row(task_hub, owner, until, known.scan), etag)
        if written is None:
            # Another was faster; or it was this one: an answer that is lost on its way is asked for again.
            known, written = await self._read(task_hub)
            if written is None or known.owner != owner:
                return None
        return Lease(task_hub, owner, known, written)

    async def _take(self, row: Mapping[str, Any], etag: str | None) -> str | None:
        """The new ETag; None if the row has another by now."""
        for _ in range(2):
            async with translated():
                try:
                    return (await transact(self._table, [_guarded(row, etag)]))[0]
                except HttpResponseError as error:
                    if is_lost_race(error):
                        break
                    if not is_no_table(error):
                        raise
                    await self._tables.make(TASK_HUBS)
        return None

    async def renew(self, lease: Lease, until: Instant) -> Lease | None:
        # Merged, so that a long scan is not written again each time.
        row = _row(lease.task_hub, "work", LeasedUntil=format_instant(until))
        async with translated():
            try:
                condition = {**unchanged_since(lease.token), "mode": UpdateMode.MERGE}
                [token] = await transact(self._table, [("update", row, condition)])
            except HttpResponseError as error:
                if not (is_lost_race(error) or is_no_table(error)):
                    raise
                # Either another worker has the hub by now, or the answer to this very write was lost.
                known, token = await self._read(lease.task_hub)
                if (known.owner, known.leased_until) != (lease.owner, until):
                    return None
        assert token is not None, "the row exists"
        return replace(lease, token=token)

    async def keep(
        self, lease: Lease, result: ProbeResult | None, scan: Scan | None, memory: MessageMemory | None = None
    ) -> bool:
        operations: list[Operation] = [_guarded(_work_row(lease.task_hub, "", None, scan), lease.token)]
        if memory is not None and memory != lease.kept.memory:
            row = _row(lease.task_hub, "messages", **chunked("Memory", _memory().dump_json(memory).decode()))
            operations.append(("upsert", row, {"mode": UpdateMode.REPLACE}))
        if result is not None:
            row = _row(lease.task_hub, "result", **chunked("Result", _result().dump_json(result).decode()))
            operations.append(("upsert", row, {"mode": UpdateMode.REPLACE}))
        async with translated():
            try:
                await transact(self._table, operations)
            except HttpResponseError as error:
                if not (is_lost_race(error) or is_no_table(error)):
                    raise
                return False
        return True

    async def drop(self, task_hub: str) -> None:
        # Raises if another version of this server wrote them.
        await self._read(task_hub)
        # The lease first: whoever still holds it cannot leave a result behind then.
        for kind in ("work", "result", "messages"):
            async with translated():
                try:
                    await transact(self._table, [("delete", _row(task_hub, kind))])
                except HttpResponseError as error:
                    if not (is_lost_race(error) or is_no_table(error)):
                        raise

    async def _read(self, task_hub: str) -> tuple[ProbeRecord, str | None]:
        rows: dict[str, TableEntity] = {}
        query = "PartitionKey eq @partition and RowKey gt @from and RowKey lt @to"
        parameters = {"partition": _PARTITION, "from": f"{hub_key(task_hub)}|", "to": f"{hub_key(task_hub)}}}"}
        async with translated():
            try:
                async for row in self._table.query_entities(query, parameters=parameters):
                    PROBE.check(row)
                    rows[row["RowKey"].rpartition("|")[2]] = row
            except ResourceNotFoundError:
                return ProbeRecord(), None
        work, result = rows.get("work"), rows.get("result")
        until = work.get("LeasedUntil") if work is not None else None
        return ProbeRecord(
            result=_readable(_result(), "Result", result),
            scan=_readable(_scan(), "Scan", work),
            leased_until=parse_instant(until) if until else None,
            owner=work.get("Owner", "") if work is not None else "",
            memory=_readable(_memory(), "Memory", rows.get("messages")) or MessageMemory(),
        ), (etag_of(work) if work is not None else None)


def _readable(kind: TypeAdapter[Kept], name: str, row: TableEntity | None) -> Kept | None:
    """What is kept in a row; nothing if it cannot be read. Then the task hub is read again."""
    text = unchunked(name, row) if row is not None else ""
    if not text:
        return None
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        log.warning("what was kept of a probe cannot be read: %d errors", error.error_count())
        return None


def _row(task_hub: str, kind: str, **properties: Any) -> dict[str, Any]:
    return {"PartitionKey": _PARTITION, "RowKey": f"{hub_key(task_hub)}|{kind}", **PROBE.stamp, **properties}


def _work_row(task_hub: str, owner: str, until: Instant | None, scan: Scan | None) -> dict[str, Any]:
    lease = {"Owner": owner, "LeasedUntil": format_instant(until)} if until is not None else {}
    return _row(task_hub, "work", **lease, **(chunked("Scan", _scan().dump_json(scan).decode()) if scan else {}))


def _guarded(row: Mapping[str, Any], etag: str | None) -> Operation:
    if etag is None:
        return ("create", row)
    return ("update", row, {**unchanged_since(etag), "mode": UpdateMode.REPLACE})
