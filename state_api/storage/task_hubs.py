"""The registry of task hubs: which app claimed a hub, how many shards its table has, whether it is closed for good."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import UpdateMode

from state_api.domain.errors import StorageUnavailable
from state_api.domain.instants import format_instant, parse_instant
from state_api.domain.names import HubKey, app_key, hub_key
from state_api.domain.releases import refusals
from state_api.domain.task_hubs.ownership import OwnershipProof, ProofBasis, TaskHubClaim
from state_api.services.ports import TaskHubRecord, TooManyTaskHubs
from state_api.storage.schema import TASK_HUB_SCHEMA
from state_api.storage.tables import (
    TASK_HUBS_TABLE,
    Tables,
    etag_of,
    if_match,
    instance_table_name,
    is_table_missing,
    is_write_conflict,
    submit_transaction,
    translate_storage_errors,
)
from state_api.storage.unclaimed_limit import UnclaimedTaskHubLimit

_PARTITION = "hub"
_MAX_ATTEMPTS = 10
_MAX_CACHED_RECORDS = 10_000
_MAX_CONCURRENT_CREATIONS = 8

PropertyUpdate = Callable[[TaskHubRecord | None], dict[str, Any]]
"""What to set in the row of a hub, given what it holds."""


@dataclass(slots=True)
class _Reread:
    """Calls that want to know what the row of a hub holds now, counted, and up to which of them it was read."""

    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: int = 0
    answered: int = 0
    is_open: bool = False


class TaskHubStore:
    """One row a hub, keyed by its name in lower case, because names are case-insensitive in storage."""

    def __init__(self, tables: Tables, shards: int, unclaimed_limit: int | None = None) -> None:
        self._tables = tables
        self._table = tables.client(TASK_HUBS_TABLE)
        self._shards = shards
        # A hub that takes events does so until cleanup closes it and drops its table; a missing table is what makes
        # a worker look again, so remembering is safe.
        self._open_records: dict[HubKey, TaskHubRecord] = {}
        self._rereads: dict[HubKey, _Reread] = {}
        self._creation_slots = asyncio.Semaphore(_MAX_CONCURRENT_CREATIONS)
        self._unclaimed = UnclaimedTaskHubLimit(self._table, _PARTITION, unclaimed_limit)

    async def ping(self) -> None:
        # No hub has this name: it begins with no letter.
        await self._read_with_etag("-")

    async def get(self, task_hub: str) -> TaskHubRecord | None:
        known = await self._read_with_etag(task_hub)
        return known[0] if known else None

    async def get_or_create(self, task_hub: str, *, enforce_limit: bool = True) -> TaskHubRecord:
        """The record of a hub that events come for; its row and its table are made when first needed. A closed hub
        is returned as it is. Raises TooManyTaskHubs for a hub that is not registered, if it is `enforce_limit` and the
        limit is reached."""
        key = hub_key(task_hub)
        if key not in self._open_records:
            async with self._creation_slots:
                return await self._get_or_create_record(task_hub, enforce_limit=enforce_limit)
        return self._open_records[key]

    async def _get_or_create_record(self, task_hub: str, *, enforce_limit: bool) -> TaskHubRecord:
        key = hub_key(task_hub)
        if key not in self._open_records:
            known = await self._read_with_etag(task_hub)
            if known is None and enforce_limit and not await self._unclaimed.admit():
                raise TooManyTaskHubs
            record = known[0] if known else await self._update_record(task_hub, lambda record: {})
            if record.closed:
                return record
            if not record.recording:
                # One that records has a table. If that is gone, so is what was recorded: an empty one in its place
                # would say that nothing runs.
                await self._tables.create_table(instance_table_name(record.name))
            # After the table and before the first event: a hub that says it records has a table, and one that lacks it
            # has lost it; a hub that does not say so has nothing to lose.
            record = await self._update_record(
                task_hub, lambda record: {} if _is_closed(record) else {"Recording": True}
            )
            if record.closed:
                return record
            if len(self._open_records) >= _MAX_CACHED_RECORDS:
                self._open_records.clear()
            self._open_records[key] = record
        return self._open_records[key]

    def invalidate_cache(self, task_hub: str) -> None:
        """Look again at the next event."""
        self._open_records.pop(hub_key(task_hub), None)

    async def claim(self, task_hub: str, claim: TaskHubClaim) -> TaskHubRecord:
        """Reserve the hub for this app, for ever: an app that lost the race for a slot keeps the name too, so that
        no other app can ever take a name that a slower writer is about to use. A claim without a proof keeps the one
        on record."""

        def reserve(record: TaskHubRecord | None) -> dict[str, Any]:
            if record is not None and record.closed:
                raise refusals.task_hub_already_used(task_hub).to_error()
            if record is not None and record.app is not None and app_key(record.app) != app_key(claim.app):
                raise refusals.claimed_by_other_app(task_hub, record.app).to_error()
            claimed = {"App": claim.app, "RunId": claim.run_id}
            return claimed if claim.proof is None else {**claimed, "OwnershipProof": _serialize_proof(claim.proof)}

        record = await self._update_record(task_hub, reserve)
        self._unclaimed.invalidate_cache()
        return record

    async def close(self, task_hub: str, deleting_from: str | None = None) -> None:
        """Let no more events in. They go to quarantine from now on."""
        await self._update_record(
            task_hub, lambda record: {"Closed": True} | ({"DeletingFrom": deleting_from} if deleting_from else {})
        )
        self.invalidate_cache(task_hub)

    async def close_unclaimed(self, task_hub: str) -> TaskHubRecord:
        """Let no more events in, unless an app has claimed the hub. One conditional write, so that no app can claim it
        at the same time. Raises TaskHubClaimed."""

        def close(record: TaskHubRecord | None) -> dict[str, Any]:
            if record is not None and record.app is not None:
                raise refusals.task_hub_claimed(record.name, record.app).to_error()
            return {"Closed": True}

        record = await self._update_record(task_hub, close)
        self.invalidate_cache(task_hub)
        self._unclaimed.invalidate_cache()
        return record

    async def reopen_unclaimed(self, task_hub: str) -> None:
        """Take back `close_unclaimed`."""
        await self._update_record(task_hub, lambda record: {"Closed": False})
        self.invalidate_cache(task_hub)
        self._unclaimed.invalidate_cache()

    async def takes_events(self, task_hub: str) -> bool:
        """Whether the hub is open, by a read that begins after this call. Calls that come during a read share the next
        one. What is remembered of the hub is set right."""
        key = hub_key(task_hub)
        reread = self._rereads.setdefault(key, _Reread())
        reread.asked += 1
        ticket = reread.asked
        async with reread.reading:
            if reread.answered < ticket:
                covered = reread.asked
                known = await self._read_with_etag(task_hub)
                reread.is_open = known is not None and not known[0].closed
                reread.answered = covered
                if known is not None and reread.is_open and key in self._open_records:
                    self._open_records[key] = known[0]
                elif not reread.is_open:
                    self.invalidate_cache(task_hub)
            is_open = reread.is_open
        if not reread.reading.locked() and reread.asked == reread.answered:
            self._rereads.pop(key, None)
        return is_open

    async def record_seen(self, task_hub: str, confirmed_backend: str | None = None) -> None:
        """Note that a probe has found the hub, and perhaps which source has shown that it is this one."""
        await self._update_record(
            task_hub,
            lambda record: {"Seen": True} | ({"ConfirmedBackend": confirmed_backend} if confirmed_backend else {}),
        )

    async def _read_with_etag(self, task_hub: str) -> tuple[TaskHubRecord, str] | None:
        async with translate_storage_errors():
            try:
                row = await self._table.get_entity(_PARTITION, hub_key(task_hub))
            except ResourceNotFoundError:
                return None
        TASK_HUB_SCHEMA.check(row)
        record = TaskHubRecord(
            name=row["Name"],
            shards=row["Shards"],
            app=row.get("App"),
            recording=row.get("Recording", False),
            closed=row.get("Closed", False),
            deleting_from=row.get("DeletingFrom"),
            seen=row.get("Seen", False),
            confirmed_backend=row.get("ConfirmedBackend"),
            run_id=row.get("RunId"),
            proof=_parse_proof(row.get("OwnershipProof")),
        )
        return record, etag_of(row)

    async def _update_record(self, task_hub: str, property_update: PropertyUpdate) -> TaskHubRecord:
        """Set what `property_update` returns under the row's ETag. Repeats this when another writer was faster."""
        for _ in range(_MAX_ATTEMPTS):
            known = await self._read_with_etag(task_hub)
            record = known[0] if known else None
            properties = property_update(record)
            if record is not None and all(_property_value(record, name) == value for name, value in properties.items()):
                return record
            row: dict[str, Any] = {"PartitionKey": _PARTITION, "RowKey": hub_key(task_hub), **properties}
            async with translate_storage_errors():
                try:
                    await submit_transaction(
                        self._table,
                        [
                            (
                                "create",
                                {**row, **TASK_HUB_SCHEMA.schema_property, "Name": task_hub, "Shards": self._shards},
                            )
                            if known is None
                            else ("update", row, {**if_match(known[1]), "mode": UpdateMode.MERGE})
                        ],
                    )
                except HttpResponseError as error:
                    if is_table_missing(error):
                        await self._tables.create_table(TASK_HUBS_TABLE)
                    elif not is_write_conflict(error):
                        raise
                    continue
            written = await self._read_with_etag(task_hub)
            if written is not None:
                return written[0]
        raise StorageUnavailable(f"task hub {task_hub} is registered by too many at once", retry_after=5)


def _is_closed(record: TaskHubRecord | None) -> bool:
    return record is not None and record.closed


def _property_value(record: TaskHubRecord, name: str) -> object:
    """What a property of the row is in its record."""
    value = getattr(record, name.lower())
    return _serialize_proof(value) if isinstance(value, OwnershipProof) else value


def _serialize_proof(proof: OwnershipProof) -> str:
    return json.dumps({"basis": proof.basis, "addresses": proof.addresses, "at": format_instant(proof.at)})


def _parse_proof(text: str | None) -> OwnershipProof | None:
    """The proof in a row; rows of servers that did not keep proofs have none."""
    if text is None:
        return None
    content = json.loads(text)
    return OwnershipProof(ProofBasis(content["basis"]), tuple(content["addresses"]), parse_instant(content["at"]))
