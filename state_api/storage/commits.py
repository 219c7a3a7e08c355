"""Group commit: what arrives for a shard while its last transaction is being written shares the next one. Nobody waits
for a timer, and whoever brought something is answered after the transaction that holds it.

Rows that this worker has read or written lately are remembered, and every write is conditional: what somebody else has
changed meanwhile is read again. An instance only ever learns more (domain/lifecycle), so what a remembered row knows
already the row in the storage knows too, and a duplicate costs no request at all.
"""

import asyncio
import logging
import random
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import TableTransactionError, UpdateMode
from azure.data.tables.aio import TableClient

from state_api.domain.errors import StateError, StorageUnavailable, UnsupportedSchema
from state_api.domain.instants import Instant, parse_instant
from state_api.services.ports import TableMissing
from state_api.storage.instance_rows import (
    beat_key_of,
    beat_row,
    check_schema,
    closed_row,
    instance_from,
    instance_key_of,
)
from state_api.storage.plans import MAX_OPERATIONS, Evidence, Known, Plan, plan
from state_api.storage.tables import (
    Tables,
    error_code,
    etag_of,
    is_lost_race,
    is_no_table,
    transact,
    translated,
)
from state_api.storage.transactions import Operation

log = logging.getLogger(__name__)

_IN_FLIGHT = 32
_SECONDS = 15
"""How long one transaction, or the reads for it, may take: whoever waits gives up after 25 s, and what a gateway says
about when to try again must not hold a shard up for longer."""
_REFUSED = frozenset(
    [
        "EntityTooLarge",
        "InvalidInput",
        "KeyValueTooLarge",
        "OutOfRangeInput",
        "PropertyNameTooLong",
        "PropertyValueTooLarge",
        "RequestBodyTooLarge",
        "TooManyProperties",
    ]
)
"""What the storage says of a row that it does not take. Any other 400 is about something else, and may pass."""
_REFUSED_AGAIN = 3
"""Times that it must say so: what goes to quarantine does not come back."""
_ATTEMPTS = 12
REMEMBERED = 20_000
"""Rows, some 1 kB each: what is under way at a time in a busy task hub, several times over."""
_LONG = 500
"""Characters of a reason from which on a row is not remembered but read again: they would be most of the memory."""

Place = tuple[str, str]
"""A table and a shard of it."""
Outcome = tuple[bool, ...] | None
"""For each piece whether it changed anything; None if the storage does not take the row."""


@dataclass(slots=True, eq=False)
class _Waiting:
    evidence: Evidence
    done: asyncio.Future[Outcome]

    def answer(self, outcome: Outcome) -> None:
        # Whoever asked may have given up.
        if not self.done.done():
            self.done.set_result(outcome)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class GroupCommit:
    """The one writer of instance rows in this worker."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._queues: dict[Place, deque[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = asyncio.Semaphore(_IN_FLIGHT)
        self._remembered: OrderedDict[tuple[str, str], Known] = OrderedDict()
        # The last event that this worker knows of per table, shard and function, so that a late one does not turn the
        # row back. Forgetting is safe: the row is read again.
        self._last_event: dict[tuple[str, str, str], Instant] = {}
        # Whether a start of an instance that nobody remembers is taken for its first. Where several workers share a
        # hub, or orchestrations continue as new for ever, that fails too often.
        self._starts_are_new = True
        self._closed = False

    async def commit(self, table: str, evidence: Sequence[tuple[str, Evidence]]) -> list[Outcome]:
        """Write evidence, each with its shard, durably. Raises TableMissing, StorageUnavailable; then any part may have
        been written, and sending all again is safe."""
        if self._closed:
            raise _stopping()
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(one, loop.create_future()) for _, one in evidence]
        for (shard, _), one in zip(evidence, waiting, strict=True):
            place = (table, shard)
            if place not in self._queues:
                self._queues[place] = deque()
                self._start(self._drain(place))
            self._queues[place].append(one)
        outcomes = await asyncio.gather(*(one.done for one in waiting), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]

    def forget(self, table: str) -> None:
        """The table is gone."""
        self._remembered = OrderedDict((key, known) for key, known in self._remembered.items() if key[0] != table)
        self._last_event = {key: at for key, at in self._last_event.items() if key[0] != table}

    async def close(self) -> None:
        """End what is still being written; whoever waits for it is told to try again."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A task that never began has told nobody.
        for queue in self._queues.values():
            _tell(queue, _stopping())
        self._queues.clear()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # In a context of its own: it outlives the request that happened to come first.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _drain(self, place: Place) -> None:
        queue = self._queues[place]
        try:
            while queue:
                batch = _next(queue)
                queue.extendleft(reversed(await self._write(place, batch)))
        finally:
            del self._queues[place]
            _tell(queue, _stopping())

    async def _write(self, place: Place, batch: list[_Waiting]) -> list[_Waiting]:
        """Write what fits into one transaction. What is left over for the next."""
        try:
            fresh = False
            while batch:
                made, refusal = await self._attempt(place, batch, fresh)
                if refusal is None:
                    for one, effects in zip(batch, made.effective, strict=False):
                        one.answer(effects)
                    return batch[len(made.effective) :]
                if error_code(refusal) == "ResourceNotFound":
                    # Rows are never deleted: this is another table than the one that they are remembered from.
                    self.forget(place[0])
                if fresh or not is_lost_race(refusal):
                    # What fails although it was just read, or by itself, must not hold up its neighbours.
                    alone = made.culprit(_index_of(refusal)) or batch[0].evidence.instance_id
                    batch = self._part(place, batch, alone)
                fresh = True
        except UnsupportedSchema:
            self._part_all(place, batch)
        except (StateError, TableMissing) as error:
            self._fail(place, batch, error)
        except Exception:  # noqa: BLE001 (whatever it is, each is told what it was for it)
            # Nothing foreseen, such as a row that cannot be read.
            self._part_all(place, batch)
        except BaseException as error:
            self._fail(place, batch, error)
            raise
        return []

    def _part(self, place: Place, batch: list[_Waiting], alone: str) -> list[_Waiting]:
        """Let one instance go on by itself; the others."""
        parted = [one for one in batch if one.evidence.instance_id == alone]
        self._start(self._write_alone(place, parted)).add_done_callback(lambda _: _tell(parted, _stopping()))
        return [one for one in batch if one.evidence.instance_id != alone]

    def _part_all(self, place: Place, batch: list[_Waiting]) -> None:
        """Let each instance go on by itself: one whose row cannot be read must not fail its neighbours."""
        while batch:
            batch = self._part(place, batch, batch[0].evidence.instance_id)

    async def _write_alone(self, place: Place, batch: Sequence[_Waiting]) -> None:
        """The same for one instance that others write, too, or that the storage does not take."""
        refused = 0
        try:
            for attempt in range(_ATTEMPTS):
                made, refusal = await self._attempt(place, batch, fresh=True)
                refused += refusal is not None and not is_lost_race(refusal)
                if refusal is None or refused == _REFUSED_AGAIN:
                    if refusal is not None:
                        log.error("the state storage does not take a row: %s", error_code(refusal))
                    for one, effects in zip(batch, made.effective, strict=True):
                        one.answer(effects if refusal is None else None)
                    return
                await asyncio.sleep(random.uniform(0, min(0.5, 0.01 * 2**attempt)))
            _tell(batch, StorageUnavailable("an instance is written by too many at once", retry_after=5))
        except BaseException as error:
            self._fail(place, batch, error)
            if not isinstance(error, Exception):
                raise

    def _fail(self, place: Place, batch: Iterable[_Waiting], error: BaseException) -> None:
        if isinstance(error, TableMissing):
            # What is remembered of a table that is gone holds for none that is made anew.
            self.forget(place[0])
        _tell(batch, _stopping() if isinstance(error, asyncio.CancelledError) else error)

    async def _attempt(
        self, place: Place, batch: Sequence[_Waiting], fresh: bool
    ) -> tuple[Plan, HttpResponseError | None]:
        """Write what fits into one transaction: what that was, and the error if the storage refuses it for one of its
        rows. Raises TableMissing, StorageUnavailable."""
        evidence = [one.evidence for one in batch]
        made = plan(place[1], evidence, await self._look_up(place, evidence, fresh))
        return made, await self._transact(place, made)

    async def _look_up(self, place: Place, evidence: Iterable[Evidence], fresh: bool) -> dict[str, Known]:
        """What is known of each instance, or assumed and proved by the write."""
        table, shard = place
        found: dict[str, Known] = {}
        only_starts: dict[str, bool] = {}
        for one in evidence:
            only_starts[one.instance_id] = one.only_starts and only_starts.get(one.instance_id, True)
        unknown: list[str] = []
        for instance_id, is_start in only_starts.items():
            remembered = None if fresh else self._remembered.get((table, instance_id))
            if remembered is not None:
                found[instance_id] = remembered
            elif is_start and self._starts_are_new and not fresh:
                found[instance_id] = Known()
            else:
                unknown.append(instance_id)
        if unknown:
            client = self._tables.client(table)
            async with _in_time(), translated():
                read = await asyncio.gather(*(self._read(client, shard, instance_id) for instance_id in unknown))
            starts = [known for instance_id, known in zip(unknown, read, strict=True) if only_starts[instance_id]]
            if starts:
                self._starts_are_new = all(known.etag is None for known in starts)
            for instance_id, known in zip(unknown, read, strict=True):
                found[instance_id] = known
                self._remember(table, instance_id, known)
        return found

    async def _read(self, client: TableClient, shard: str, instance_id: str) -> Known:
        async with self._in_flight:
            return await read_row(client, shard, instance_id)

    async def _transact(self, place: Place, made: Plan) -> HttpResponseError | None:
        if not made.operations:
            return None
        table, shard = place
        client = self._tables.client(table)
        for row in made.rows:
            # Until the answer is here nobody knows.
            self._remembered.pop((table, row.instance.instance_id), None)
        async with _in_time(), translated():
            async with self._in_flight:
                stamps = [await self._beat(client, shard, name, at) for name, at in made.beats.items()]
                if made.closes:
                    # Whoever comes last is right, as with beats.
                    stamps.append(("upsert", closed_row(shard), {"mode": UpdateMode.REPLACE}))
                try:
                    etags = await transact(client, [*made.operations, *stamps])
                except HttpResponseError as error:
                    if is_no_table(error):
                        raise TableMissing from error
                    if is_lost_race(error) or error_code(error) in _REFUSED:
                        return error
                    raise
            for row in made.rows:
                etag = etags[row.operation]
                if etag is not None:
                    self._remember(table, row.instance.instance_id, Known(row.instance, etag))
        return None

    async def _beat(self, client: TableClient, shard: str, name: str, at: Instant) -> Operation:
        """Stamp the function. Written without a condition, because every writer of the shard does: the storage's own
        time stamp, which the settle window counts from, is right whoever comes last. `LastEventAt` is for people and
        may briefly lag behind when several workers write."""
        place = (client.table_name, shard, name)
        if place not in self._last_event:
            if len(self._last_event) >= REMEMBERED:
                self._last_event.clear()
            with suppress(ResourceNotFoundError):
                known = await client.get_entity(shard, beat_key_of(name))
                check_schema(known)
                at = max(at, parse_instant(known["LastEventAt"]))
        latest = max(self._last_event.get(place, Instant(0)), at)
        self._last_event[place] = latest
        return ("upsert", beat_row(shard, name, latest), {"mode": UpdateMode.REPLACE})

    def _remember(self, table: str, instance_id: str, known: Known) -> None:
        key = (table, instance_id)
        self._remembered.pop(key, None)
        finished = known.instance.finished if known.instance is not None else None
        if known.instance is None or (finished is not None and len(finished.reason) > _LONG):
            return
        if len(self._remembered) >= REMEMBERED:
            self._remembered.popitem(last=False)
        self._remembered[key] = known


async def read_row(client: TableClient, shard: str, instance_id: str) -> Known:
    """What the storage has of an instance. Raises TableMissing and the library's errors."""
    try:
        entity = await client.get_entity(shard, instance_key_of(instance_id))
    except ResourceNotFoundError as error:
        if is_no_table(error):
            raise TableMissing from error
        return Known()
    return Known(instance_from(entity), etag_of(entity))


def _next(queue: deque[_Waiting]) -> list[_Waiting]:
    """As many as one transaction can hold at most, without those that nobody waits for any more."""
    taken = [queue.popleft() for _ in range(min(MAX_OPERATIONS, len(queue)))]
    return [one for one in taken if not one.done.cancelled()]


def _index_of(error: HttpResponseError) -> int:
    """Which operation the storage names; the first if it names none."""
    return error.index if isinstance(error, TableTransactionError) else 0


def _tell(waiting: Iterable[_Waiting], error: BaseException) -> None:
    """That it failed, to all that have no answer yet."""
    for one in waiting:
        one.fail(error)


def _stopping() -> StorageUnavailable:
    return StorageUnavailable("the server is stopping")


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_SECONDS):
            yield
    except TimeoutError:
        raise StorageUnavailable(f"the state storage took more than {_SECONDS} s") from None
