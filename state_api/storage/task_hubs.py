"""The registry of task hubs: which app claimed a hub, how many shards its table has, whether it is closed for good."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import UpdateMode

from state_api.domain.errors import StorageUnavailable, TaskHubAlreadyUsed, TaskHubInUse
from state_api.domain.instants import format_instant, parse_instant
from state_api.domain.names import HubKey, app_key, hub_key
from state_api.domain.ownership import Basis, Claim, Proof
from state_api.domain.refusals import task_hub_claimed
from state_api.services.ports import TaskHubRecord, TooManyTaskHubs
from state_api.storage.schema import TASK_HUB
from state_api.storage.tables import (
    TASK_HUBS,
    Tables,
    etag_of,
    instance_table,
    is_lost_race,
    is_no_table,
    transact,
    translated,
    unchanged_since,
)
from state_api.storage.unclaimed import UnclaimedLimit

_PARTITION = "hub"
_ATTEMPTS = 10
_REMEMBERED = 10_000
_MADE_AT_ONCE = 8

Change = Callable[[TaskHubRecord | None], dict[str, Any]]
"""What to set in the row of a hub, given what it holds."""


@dataclass(slots=True)
class _Reread:
    """Calls that want to know what the row of a hub holds now, counted, and up to which of them it was read."""

    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: int = 0
    answered: int = 0
    open: bool = False


class TaskHubStore:
    """One row a hub, keyed by its name in lower case, because names are case-insensitive in storage."""

    def __init__(self, tables: Tables, shards: int, unclaimed_limit: int | None = None) -> None:
        self._tables = tables
        self._table = tables.client(TASK_HUBS)
        self._shards = shards
        # A hub that takes events does so until cleanup closes it and drops its table; a missing table is what makes
        # a worker look again, so remembering is safe.
        self._open: dict[HubKey, TaskHubRecord] = {}
        self._rereads: dict[HubKey, _Reread] = {}
        self._making = asyncio.Semaphore(_MADE_AT_ONCE)
        self._unclaimed = UnclaimedLimit(self._table, _PARTITION, unclaimed_limit)

    async def ping(self) -> None:
        # No hub has this name: it begins with no letter.
        await self._read("-")

    async def get(self, task_hub: str) -> TaskHubRecord | None:
        known = await self._read(task_hub)
        return known[0] if known else None

    async def open(self, task_hub: str, *, limited: bool = True) -> TaskHubRecord:
        """The record of a hub that events come for; its row and its table are made when first needed. A closed hub
        is returned as it is. Raises TooManyTaskHubs for a hub that is not registered, if it is `limited` and the limit
        is reached."""
        key = hub_key(task_hub)
        if key not in self._open:
            async with self._making:
                return await self._open_or_make(task_hub, limited=limited)
        return self._open[key]

    async def _open_or_make(self, task_hub: str, *, limited: bool) -> TaskHubRecord:
        key = hub_key(task_hub)
        if key not in self._open:
            known = await self._read(task_hub)
            if known is None and limited and not await self._unclaimed.admit():
                raise TooManyTaskHubs
            record = known[0] if known else await self._change(task_hub, lambda record: {})
            if record.closed:
                return record
            if not record.recording:
                # One that records has a table. If that is gone, so is what was recorded: an empty one in its place
                # would say that nothing runs.
                await self._tables.make(instance_table(record.name))
            # After the table and before the first event: a hub that says it records has a table, and one that lacks it
            # has lost it; a hub that does not say so has nothing to lose.
            record = await self._change(task_hub, lambda record: {} if _closed(record) else {"Recording": True})
            if record.closed:
                return record
            if len(self._open) >= _REMEMBERED:
                self._open.clear()
            self._open[key] = record
        return self._open[key]

    def forget(self, task_hub: str) -> None:
        """Look again at the next event."""
        self._open.pop(hub_key(task_hub), None)

    async def claim(self, task_hub: str, claim: Claim) -> TaskHubRecord:
        """Reserve the hub for this app, for ever: an app that lost the race for a slot keeps the name too, so that
        no other app can ever take a name that a slower writer is about to use. A claim without a proof keeps the one
        on record."""

        def reserve(record: TaskHubRecord | None) -> dict[str, Any]:
            if record is not None and record.closed:
                raise TaskHubAlreadyUsed(
                    f"task hub {task_hub} was used before and cleaned up; use a name that never was", taskHub=task_hub
                )
            if record is not None and record.app is not None and app_key(record.app) != app_key(claim.app):
                raise TaskHubInUse(
                    f"task hub {task_hub} belongs to app {record.app}; use a name that no other app uses",
                    taskHub=task_hub,
                    app=record.app,
                )
            claimed = {"App": claim.app, "Run": claim.run}
            return claimed if claim.proof is None else {**claimed, "Proof": _proof_text(claim.proof)}

        record = await self._change(task_hub, reserve)
        self._unclaimed.forget()
        return record

    async def close(self, task_hub: str, deleting: str | None = None) -> None:
        """Let no more events in. They go to quarantine from now on."""
        await self._change(task_hub, lambda record: {"Closed": True} | ({"Deleting": deleting} if deleting else {}))
        self.forget(task_hub)

    async def close_unclaimed(self, task_hub: str) -> TaskHubRecord:
        """Let no more events in, unless an app has claimed the hub. One conditional write, so that no app can claim it
        at the same time. Raises TaskHubClaimed."""

        def close(record: TaskHubRecord | None) -> dict[str, Any]:
            if record is not None and record.app is not None:
                raise task_hub_claimed(record.name, record.app)
            return {"Closed": True}

        record = await self._change(task_hub, close)
        self.forget(task_hub)
        self._unclaimed.forget()
        return record

    async def reopen_unclaimed(self, task_hub: str) -> None:
        """Take back `close_unclaimed`."""
        await self._change(task_hub, lambda record: {"Closed": False})
        self.forget(task_hub)
        self._unclaimed.forget()

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
                known = await self._read(task_hub)
                reread.open = known is not None and not known[0].closed
                reread.answered = covered
                if known is not None and reread.open and key in self._open:
                    self._open[key] = known[0]
                elif not reread.open:
                    self.forget(task_hub)
            is_open = reread.open
        if not reread.reading.locked() and reread.asked == reread.answered:
            self._rereads.pop(key, None)
        return is_open

    async def mark(self, task_hub: str, matched: str | None = None) -> None:
        """Note that a probe has found the hub, and perhaps which source has shown that it is this one."""
        await self._change(task_hub, lambda record: {"Seen": True} | ({"Matched": matched} if matched else {}))

    async def _read(self, task_hub: str) -> tuple[TaskHubRecord, str] | None:
        async with translated():
            try:
                row = await self._table.get_entity(_PARTITION, hub_key(task_hub))
            except ResourceNotFoundError:
                return None
        TASK_HUB.check(row)
        record = TaskHubRecord(
            name=row["Name"],
            shards=row["Shards"],
            app=row.get("App"),
            recording=row.get("Recording", False),
            closed=row.get("Closed", False),
            deleting=row.get("Deleting"),
            seen=row.get("Seen", False),
            matched=row.get("Matched"),
            run=row.get("Run"),
            proof=_proof(row.get("Proof")),
        )
        return record, etag_of(row)

    async def _change(self, task_hub: str, change: Change) -> TaskHubRecord:
        """Read, let `change` decide what to set, and write under the ETag; again if somebody else was faster."""
        for _ in range(_ATTEMPTS):
            known = await self._read(task_hub)
            record = known[0] if known else None
            properties = change(record)
            if record is not None and all(_value(record, name) == value for name, value in properties.items()):
                return record
            row: dict[str, Any] = {"PartitionKey": _PARTITION, "RowKey": hub_key(task_hub), **properties}
            async with translated():
                try:
                    await transact(
                        self._table,
                        [
                            ("create", {**row, **TASK_HUB.stamp, "Name": task_hub, "Shards": self._shards})
                            if known is None
                            else ("update", row, {**unchanged_since(known[1]), "mode": UpdateMode.MERGE})
                        ],
                    )
                except HttpResponseError as error:
                    if is_no_table(error):
                        await self._tables.make(TASK_HUBS)
                    elif not is_lost_race(error):
                        raise
                    continue
            written = await self._read(task_hub)
            if written is not None:
                return written[0]
        raise StorageUnavailable(f"task hub {task_hub} is registered by too many at once", retry_after=5)


def _closed(record: TaskHubRecord | None) -> bool:
    return record is not None and record.closed


def _value(record: TaskHubRecord, name: str) -> object:
    """What a property of the row is in its record."""
    value = getattr(record, name.lower())
    return _proof_text(value) if isinstance(value, Proof) else value


def _proof_text(proof: Proof) -> str:
    return json.dumps({"basis": proof.basis, "addresses": proof.addresses, "at": format_instant(proof.at)})


def _proof(text: str | None) -> Proof | None:
    """The proof in a row; rows of servers that did not keep proofs have none."""
    if text is None:
        return None
    content = json.loads(text)
    return Proof(Basis(content["basis"]), tuple(content["addresses"]), parse_instant(content["at"]))
