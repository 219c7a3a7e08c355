"""One table per task hub. `i|<id>` holds an instance, `a|<since>|<id>` exists exactly while it is active, and both
change in one transaction under the ETag of `i|<id>`. `b|<function>`, the function's last beat, tells when an instance
of an orchestrator function last changed in the shard.

"Is anything active?" is then one range read per shard, whatever the hub has finished, and it comes oldest first.
"""

import asyncio
import heapq
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import TableEntity, UpdateMode
from azure.data.tables.aio import TableClient

from state_api.domain.errors import InvalidRequest, StorageUnavailable
from state_api.domain.evidence import ACTIVE_LIMIT, ActiveInstance, Activity
from state_api.domain.exemptions import Exemptions
from state_api.domain.instants import Instant, format_instant, parse_instant
from state_api.domain.lifecycle import Instance, LifecycleEvent, RuntimeStatus, instance_of, merge
from state_api.domain.names import is_entity
from state_api.services.ports import Page, TableMissing, TaskHubRecord
from state_api.storage.instance_rows import (
    ACTIVE_FROM,
    ACTIVE_TO,
    BEAT,
    BEAT_TO,
    active_from,
    active_key_of,
    active_row,
    instance_from,
    instance_key_of,
    instance_row,
    table_row,
)
from state_api.storage.keys import instance_key, ordinal, shard_of
from state_api.storage.tables import (
    FOREIGN_PAGE,
    Operation,
    Tables,
    decode_token,
    encode_token,
    etag_of,
    instance_table,
    is_lost_race,
    is_no_table,
    read_page,
    transact,
    translated,
    unchanged_since,
    written_at,
)

# A transaction takes 100 operations (PLATFORM: Table storage); an instance needs at most four (its row, its old and
# its new active row, the beat of its function). With reasons and names cut as the parser cuts them it stays well
# under 4 MiB.
_INSTANCES_PER_TRANSACTION = 25
_IN_FLIGHT = 32
_ATTEMPTS = 12
_REMEMBERED = 10_000
_LISTED_PAGES = 10
"""Pages of the service that one page of ours may read while a filter finds nothing."""


@dataclass(frozen=True, slots=True)
class _Known:
    """An instance as read, with the ETag that its next write must match; None if it has no row."""

    instance: Instance | None
    etag: str | None


class InstanceStore:
    """Reads and writes the instance tables."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._in_flight = asyncio.Semaphore(_IN_FLIGHT)
        # The last event that this worker knows of per table, shard and function, so that a late one does not turn the
        # row back. Forgetting is safe: the row is read again.
        self._last_event: dict[tuple[str, str, str], Instant] = {}

    async def record(self, hub: TaskHubRecord, events: Sequence[LifecycleEvent]) -> list[bool]:
        """Merge events into their instances, durably. For each event, whether it changed anything: a duplicate does
        not, and is not written. Raises TableMissing, StorageUnavailable; then any part may have been written, and
        sending all again is safe."""
        return await self._merge(hub, [instance_of(event) for event in events], beating=True)

    async def correct(self, hub: TaskHubRecord, corrections: Sequence[Instance]) -> list[bool]:
        """The same with what a probe has seen, which is no event: the hub's functions do not beat, so that nothing
        has to settle anew."""
        return await self._merge(hub, corrections, beating=False)

    async def _merge(self, hub: TaskHubRecord, evidence: Sequence[Instance], beating: bool) -> list[bool]:
        by_shard: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, one in enumerate(evidence):
            by_shard[_partition(one.instance_id, hub.shards)][one.instance_id].append(number)
        changed = [False] * len(evidence)
        groups = [
            (shard, dict(group)) for shard, instances in by_shard.items() for group in _groups_of_instances(instances)
        ]
        results = await asyncio.gather(
            *(self._merge_group(hub, shard, group, evidence, beating) for shard, group in groups),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
            for number in result:
                changed[number] = True
        return changed

    async def _merge_group(
        self,
        hub: TaskHubRecord,
        shard: str,
        group: Mapping[str, Sequence[int]],
        evidence: Sequence[Instance],
        beating: bool,
    ) -> set[int]:
        """Write some instances of one shard in one transaction; the numbers of the pieces of evidence that changed
        something."""
        table = self._tables.client(instance_table(hub.name))
        for attempt in range(_ATTEMPTS):
            async with translated():
                known = dict(zip(group, await self._read_all(table, shard, group), strict=True))
                effective: set[int] = set()
                operations: list[Operation] = []
                beats: dict[str, Instant] = {}
                for instance_id, numbers in group.items():
                    merged = known[instance_id].instance
                    names = {merged.function_name} if merged is not None else set()
                    for number in numbers:
                        after = evidence[number] if merged is None else merge(merged, evidence[number])
                        if after != merged:
                            effective.add(number)
                            names.add(evidence[number].function_name)
                        merged = after
                    if merged is not None and merged != known[instance_id].instance:
                        operations += _operations(shard, known[instance_id], merged)
                        if beating and not is_entity(instance_id):
                            # Entities never block, so nobody waits for them to settle.
                            # An id that went from one function to another beats for all of them, under no name.
                            name = names.pop() if len(names) == 1 else ""
                            beats[name] = max(beats.get(name, Instant(0)), merged.last_event_at)
                if not operations:
                    return effective
                for name, at in beats.items():
                    operations.append(await self._beat(table, shard, name, at))
                try:
                    async with self._in_flight:
                        await transact(table, operations)
                    return effective
                except HttpResponseError as error:
                    if is_no_table(error):
                        raise TableMissing from error
                    if not is_lost_race(error):
                        raise
            if len(group) > 1:
                # One contended instance must not hold up its neighbours.
                singles = [
                    self._merge_group(hub, shard, {instance_id: numbers}, evidence, beating)
                    for instance_id, numbers in group.items()
                ]
                return set().union(*await asyncio.gather(*singles))
            await asyncio.sleep(random.uniform(0, min(0.5, 0.01 * 2**attempt)))
        raise StorageUnavailable("an instance is written by too many at once", retry_after=5)

    async def _read_all(self, table: TableClient, shard: str, instance_ids: Iterable[str]) -> list[_Known]:
        return await asyncio.gather(*(self._read(table, shard, instance_id) for instance_id in instance_ids))

    async def _read(self, table: TableClient, shard: str, instance_id: str) -> _Known:
        async with self._in_flight:
            try:
                entity = await table.get_entity(shard, instance_key_of(instance_id))
            except ResourceNotFoundError as error:
                if is_no_table(error):
                    raise TableMissing from error
                return _Known(None, None)
        return _Known(instance_from(entity), etag_of(entity))

    async def _beat(self, table: TableClient, shard: str, name: str, at: Instant) -> Operation:
        """Stamp the function. Written without a condition, because every writer of the shard does: the storage's own
        time stamp, which the settle window counts from, is right whoever comes last. `LastEventAt` is for people and
        may briefly lag behind when several workers write."""
        key = BEAT + instance_key(name)
        place = (table.table_name, shard, name)
        if place not in self._last_event:
            if len(self._last_event) >= _REMEMBERED:
                self._last_event.clear()
            with suppress(ResourceNotFoundError):
                known = await table.get_entity(shard, key)
                at = max(at, parse_instant(known["LastEventAt"]))
        latest = max(self._last_event.get(place, Instant(0)), at)
        self._last_event[place] = latest
        stamp = table_row(shard, key, FunctionName=name, LastEventAt=format_instant(latest))
        return ("upsert", stamp, {"mode": UpdateMode.REPLACE})

    async def activity(self, hub: TaskHubRecord, exemptions: Exemptions) -> Activity:
        """What is active, oldest first, and when something last changed, without what is exempt: one range read per
        shard. Raises StorageUnavailable also if the hub's table is gone."""
        table = self._tables.client(instance_table(hub.name))
        async with translated():
            shards = await asyncio.gather(
                *(self._shard_activity(table, shard, exemptions) for shard in _partitions(hub.shards))
            )
        merged = heapq.merge(*(shard.active for shard in shards), key=lambda one: (one.started_at, one.instance_id))
        active = tuple(merged)
        return Activity(
            active=active[:ACTIVE_LIMIT],
            more=len(active) > ACTIVE_LIMIT,
            ignored_count=sum(shard.ignored_count for shard in shards),
            last_event_at=max((shard.last_event_at for shard in shards if shard.last_event_at), default=None),
            last_recorded_at=max((shard.last_recorded_at for shard in shards if shard.last_recorded_at), default=None),
            waived=tuple(one for shard in shards for one in shard.waived),
        )

    async def _shard_activity(self, table: TableClient, shard: str, exemptions: Exemptions) -> Activity:
        active: list[ActiveInstance] = []
        waived: list[ActiveInstance] = []
        ignored = 0
        last_event_at: Instant | None = None
        last_recorded_at: Instant | None = None
        rows = table.query_entities(
            "PartitionKey eq @shard and RowKey ge @from and RowKey lt @to",
            parameters={"shard": shard, "from": ACTIVE_FROM, "to": BEAT_TO},
            results_per_page=1000,
        )
        try:
            async for row in rows:
                ignored_function = exemptions.ignores(row["FunctionName"])
                if row["RowKey"].startswith(BEAT):
                    if not ignored_function:
                        last_event_at = max(last_event_at or Instant(0), parse_instant(row["LastEventAt"]))
                        last_recorded_at = max(last_recorded_at or Instant(0), written_at(row))
                elif ignored_function:
                    ignored += 1
                else:
                    instance = ActiveInstance.of(active_from(row))
                    if exemptions.waiver_of(instance.instance_id) is not None:
                        waived.append(instance)
                        continue
                    active.append(instance)
                    if len(active) > ACTIVE_LIMIT:
                        break
        except ResourceNotFoundError:
            # An empty answer would say that nothing runs.
            raise StorageUnavailable(
                f"the records of a task hub are gone: table {table.table_name} was deleted. Make it again, empty, only "
                "if you know that nothing runs on that hub"
            ) from None
        return Activity(tuple(active), False, ignored, last_event_at, last_recorded_at, tuple(waived))

    async def get(self, hub: TaskHubRecord, instance_id: str) -> Instance | None:
        """The record of one instance."""
        table = self._tables.client(instance_table(hub.name))
        async with translated():
            try:
                return (await self._read(table, _partition(instance_id, hub.shards), instance_id)).instance
            except TableMissing:
                return None

    async def page(
        self, hub: TaskHubRecord, active: bool | None, status: RuntimeStatus | None, top: int, token: str | None
    ) -> Page[Instance]:
        """Instances, the active ones first and of these the oldest first; the finished ones in no order of time.

        A page can be short, even empty, and still have a continuation token, as with the service's own lists.
        """
        finished: dict[str, Any] = {"kind": "finished", "shard": 0, "page": None}
        if token is None:
            position: dict[str, Any] = {"kind": "active", "after": ""} if active is not False else finished
        else:
            position = decode_token(token, "active", "finished")
        if position["kind"] == "active":
            if not isinstance(after := position.get("after"), str):
                raise InvalidRequest(FOREIGN_PAGE)
            page = await self._active_page(hub, after, top)
            items = tuple(one for one in page.items if status is None or one.runtime_status is status)
            if page.continuation_token is not None or active is not None:
                return Page(items, page.continuation_token)
            if len(items) == top:
                return Page(items, encode_token(finished))
            rest = await self._finished_page(hub, status, top - len(items), finished)
            return Page(items + rest.items, rest.continuation_token)
        return await self._finished_page(hub, status, top, position)

    async def _active_page(self, hub: TaskHubRecord, after: str, top: int) -> Page[Instance]:
        table = self._tables.client(instance_table(hub.name))
        async with translated():
            shards = await asyncio.gather(
                *(self._active_rows(table, shard, after, top + 1) for shard in _partitions(hub.shards))
            )
        rows = sorted((row for shard in shards for row in shard), key=lambda row: ordinal(row["RowKey"]))
        if not rows:
            return Page((), None)
        token = encode_token({"kind": "active", "after": rows[top - 1]["RowKey"]}) if len(rows) > top else None
        return Page(tuple(active_from(row) for row in rows[:top]), token)

    async def _active_rows(self, table: TableClient, shard: str, after: str, most: int) -> list[TableEntity]:
        rows = table.query_entities(
            "PartitionKey eq @shard and RowKey gt @after and RowKey lt @to",
            parameters={"shard": shard, "after": max(after, ACTIVE_FROM), "to": ACTIVE_TO},
            results_per_page=min(most, 1000),
        )
        found: list[TableEntity] = []
        try:
            async for row in rows:
                found.append(row)
                if len(found) == most:
                    break
        except ResourceNotFoundError:
            return []
        return found

    async def _finished_page(
        self, hub: TaskHubRecord, status: RuntimeStatus | None, top: int, position: Mapping[str, Any]
    ) -> Page[Instance]:
        shard, token = position.get("shard"), position.get("page")
        if type(shard) is not int or not 0 <= shard < hub.shards or not isinstance(token, str | None):
            raise InvalidRequest(FOREIGN_PAGE)
        table = self._tables.client(instance_table(hub.name))
        query = "PartitionKey eq @shard and RowKey ge 'i|' and RowKey lt 'i}' and Active eq false"
        parameters: dict[str, Any] = {}
        if status is not None:
            query += " and RuntimeStatus eq @status"
            parameters["status"] = status.value
        items: list[Instance] = []
        for _ in range(_LISTED_PAGES):
            parameters["shard"] = _name(shard)
            page = await read_page(table, query, parameters, top - len(items), token, "instances")
            items += [instance_from(row) for row in page.items]
            token = page.continuation_token
            if token is None:
                shard += 1
            if shard == hub.shards:
                return Page(tuple(items), None)
            if len(items) == top:
                break
        return Page(tuple(items), encode_token({"kind": "finished", "shard": shard, "page": token}))

    async def drop(self, hub: TaskHubRecord) -> None:
        table = instance_table(hub.name)
        await self._tables.drop(table)
        self._last_event = {place: at for place, at in self._last_event.items() if place[0] != table}


def _groups_of_instances(instances: Mapping[str, list[int]]) -> Iterable[list[tuple[str, list[int]]]]:
    items = list(instances.items())
    for at in range(0, len(items), _INSTANCES_PER_TRANSACTION):
        yield items[at : at + _INSTANCES_PER_TRANSACTION]


def _partition(instance_id: str, shards: int) -> str:
    return _name(shard_of(instance_id, shards))


def _partitions(shards: int) -> list[str]:
    return [_name(number) for number in range(shards)]


def _name(shard: int) -> str:
    return f"{shard:02d}"


def _operations(shard: str, known: _Known, merged: Instance) -> list[Operation]:
    """What turns the rows of `known` into those of `merged`."""
    row = instance_row(shard, merged)
    operations: list[Operation] = []
    if known.etag is None:
        operations.append(("create", row))
    else:
        operations.append(("update", row, {**unchanged_since(known.etag), "mode": UpdateMode.REPLACE}))
    old = active_key_of(known.instance) if known.instance is not None and known.instance.active else None
    new = active_key_of(merged) if merged.active else None
    if old is not None and old != new:
        operations.append(("delete", {"PartitionKey": shard, "RowKey": old}))
    if new is not None:
        operations.append(("upsert", active_row(shard, new, merged), {"mode": UpdateMode.REPLACE}))
    return operations
