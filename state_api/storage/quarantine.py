"""Events that could not be understood, kept with their reason, newest first."""

import hashlib
import secrets
from collections.abc import Sequence

from azure.core.exceptions import HttpResponseError
from azure.data.tables import TableEntity

from state_api.domain.instants import format_instant, parse_instant
from state_api.services.ports import Page, Quarantined
from state_api.storage.schema import QUARANTINED
from state_api.storage.tables import (
    QUARANTINE,
    Tables,
    chunked,
    is_no_table,
    read_page,
    transact,
    translated,
    unchunked,
)
from state_api.storage.transactions import Operation

_PARTITION = "quarantine"
_LAST = 10**20
_LONGEST = 300_000
"""Characters kept of an event: in UTF-16 well below the 1 MiB that an entity may have."""
_TRANSACTION_CHARACTERS = 500_000
"""Event text per transaction: escaped and in UTF-16 it stays below the 4 MiB that a transaction may have."""
_TRANSACTION_ROWS = 100


class QuarantineStore:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._table = tables.client(QUARANTINE)

    async def keep(self, events: Sequence[Quarantined]) -> None:
        """Keep all, durably, or raise StorageUnavailable; then sending them again is safe."""
        for batch in _batches(events):
            operations: list[Operation] = [("create", _row(event)) for event in batch]
            for attempt in range(2):
                async with translated():
                    try:
                        await transact(self._table, operations)
                        break
                    except HttpResponseError as error:
                        if attempt or not is_no_table(error):
                            raise
                        await self._tables.make(QUARANTINE)

    async def page(self, top: int, token: str | None) -> Page[Quarantined]:
        rows = await read_page(self._table, "PartitionKey eq @p", {"p": _PARTITION}, top, token, "quarantine")
        return Page(tuple(_quarantined(row) for row in rows.items), rows.continuation_token)


def _batches(events: Sequence[Quarantined]) -> list[list[Quarantined]]:
    batches: list[list[Quarantined]] = []
    size = 0
    for event in events:
        length = min(len(event.event), _LONGEST)
        if not batches or len(batches[-1]) == _TRANSACTION_ROWS or size + length > _TRANSACTION_CHARACTERS:
            batches.append([])
            size = 0
        batches[-1].append(event)
        size += length
    return batches


def _row(event: Quarantined) -> dict[str, object]:
    # The same event may come twice in one request: the last part keeps their rows apart.
    digest = hashlib.sha256(event.event.encode()).hexdigest()[:16]
    return {
        "PartitionKey": _PARTITION,
        "RowKey": f"{_LAST - event.received_at:020d}|{digest}|{secrets.token_hex(4)}",
        **QUARANTINED.stamp,
        "ReceivedAt": format_instant(event.received_at),
        "Code": event.code,
        "Message": event.message,
        "Source": event.source,
        "Truncated": event.truncated or len(event.event) > _LONGEST,
        **chunked("Event", event.event[:_LONGEST]),
    }


def _quarantined(row: TableEntity) -> Quarantined:
    QUARANTINED.check(row)
    return Quarantined(
        received_at=parse_instant(row["ReceivedAt"]),
        code=row["Code"],
        message=row["Message"],
        source=row["Source"],
        event=unchunked("Event", row),
        truncated=row["Truncated"],
    )
