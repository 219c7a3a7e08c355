"""The delivery checks of a task hub: one row in its instance table, which is deleted together with it.

The row sorts after everything that a verdict reads, so no verdict depends on it."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import UpdateMode

from state_api.domain.errors import StorageUnavailable
from state_api.domain.instants import format_instant, parse_instant
from state_api.domain.task_hubs.delivery_checks import DeliveryCheck, remember_check
from state_api.storage.instance_keys import FIRST_SHARD
from state_api.storage.schema import DELIVERY_CHECK_SCHEMA
from state_api.storage.stored_json import StoredModel
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

DELIVERY_CHECKS_KEY = "d|checks"
_MAX_WRITE_ATTEMPTS = 10
_FIRST_BACKOFF_SECONDS = 0.05
_MAX_BACKOFF_SECONDS = 1.0
"""Without pauses, deliveries that arrive at the same time meet again in every attempt."""


class _StoredCheck(StoredModel):
    check_id: str
    published_at: str
    recorded_at: str


class _StoredChecks(StoredModel):
    checks: list[_StoredCheck]


def delivery_checks_row(checks: tuple[DeliveryCheck, ...]) -> dict[str, Any]:
    """The row that holds the delivery checks of a task hub."""
    stored = _StoredChecks(
        checks=[
            _StoredCheck(
                check_id=check.check_id,
                published_at=format_instant(check.published_at),
                recorded_at=format_instant(check.recorded_at),
            )
            for check in checks
        ]
    )
    return {
        "PartitionKey": FIRST_SHARD,
        "RowKey": DELIVERY_CHECKS_KEY,
        **DELIVERY_CHECK_SCHEMA.schema_property,
        "Checks": stored.to_json(),
    }


def delivery_checks_from_row(row: Mapping[str, Any]) -> tuple[DeliveryCheck, ...]:
    """The delivery checks in a row that `delivery_checks_row` has made. Raises UnsupportedSchema."""
    DELIVERY_CHECK_SCHEMA.check(row)
    return tuple(
        DeliveryCheck(check.check_id, parse_instant(check.published_at), parse_instant(check.recorded_at))
        for check in _StoredChecks.from_json(row["Checks"]).checks
    )


class DeliveryCheckStore:
    """Reads and writes the delivery checks of task hubs that an app has claimed."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def list_checks(self, task_hub: str) -> tuple[DeliveryCheck, ...]:
        """The delivery checks that are stored, also those whose lifetime has ended. Empty without a table."""
        stored = await self._read_with_etag(task_hub)
        return stored[0] if stored else ()

    async def record(self, task_hub: str, arrived: Sequence[DeliveryCheck]) -> int:
        """Remember delivery checks with different ids, durably, in one write. Returns how many are new: none if the
        task hub has no table any more. Raises StorageUnavailable."""
        table = self._tables.client(instance_table_name(task_hub))
        for attempt in range(_MAX_WRITE_ATTEMPTS):
            stored = await self._read_with_etag(task_hub)
            checks = stored[0] if stored else ()
            for check in arrived:
                checks = remember_check(checks, check)
            new_count = sum(check in checks for check in arrived)
            if not new_count:
                return 0
            row = delivery_checks_row(checks)
            write: TableOperation = ("create", row)
            if stored is not None:
                write = ("update", row, {**if_match(stored[1]), "mode": UpdateMode.REPLACE})
            async with translate_storage_errors():
                try:
                    await submit_transaction(table, [write])
                    return new_count
                except HttpResponseError as error:
                    if is_table_missing(error):
                        return 0
                    if not is_write_conflict(error):
                        raise
            await asyncio.sleep(random.uniform(0, min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2**attempt)))
        raise StorageUnavailable(
            f"too many delivery checks of task hub {task_hub} arrive at the same time: send the events again",
            retry_after=5,
        )

    async def _read_with_etag(self, task_hub: str) -> tuple[tuple[DeliveryCheck, ...], str] | None:
        """The stored delivery checks, and the ETag that a conditional write needs. None if there is no row."""
        table = self._tables.client(instance_table_name(task_hub))
        async with translate_storage_errors():
            try:
                row = await table.get_entity(FIRST_SHARD, DELIVERY_CHECKS_KEY)
            except ResourceNotFoundError:
                return None
        return delivery_checks_from_row(row), etag_of(row)
