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
    activity_stamp_key,
    activity_stamp_row,
    check_schema,
    correction_epoch_row,
    instance_from_row,
    instance_row_key,
)
from state_api.storage.tables import (
    Tables,
    error_code,
    etag_of,
    is_table_missing,
    is_write_conflict,
    submit_transaction,
    translate_storage_errors,
)
from state_api.storage.transaction_plan import (
    MAX_OPERATIONS,
    InstanceUpdate,
    StoredInstance,
    TransactionPlan,
    plan_transaction,
)
from state_api.storage.transactions import TableOperation

log = logging.getLogger(__name__)

_MAX_CONCURRENT_REQUESTS = 32
_TRANSACTION_TIMEOUT_SECONDS = 15
"""How long one transaction, or the reads for it, may take: whoever waits gives up after 25 s, and what a gateway says
about when to try again must not hold a shard up for longer."""
_REJECTED_ROW_CODES = frozenset(
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
_MAX_REJECTIONS = 3
"""Times that it must say so: what goes to quarantine does not come back."""
_MAX_ATTEMPTS = 12
MAX_CACHED_ROWS = 20_000
"""Rows, some 1 kB each: what is under way at a time in a busy task hub, several times over."""
_MAX_CACHED_REASON_CHARACTERS = 500
"""Characters of a reason from which on a row is not remembered but read again: they would be most of the memory."""

Place = tuple[str, str]
"""A table and a shard of it."""
UpdateOutcome = tuple[bool, ...] | None
"""For each piece whether it changed anything; None if the storage does not take the row."""


@dataclass(slots=True, eq=False)
class _QueuedUpdate:
    update: InstanceUpdate
    done: asyncio.Future[UpdateOutcome]

    def resolve(self, outcome: UpdateOutcome) -> None:
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
        self._queues: dict[Place, deque[_QueuedUpdate]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._request_slots = asyncio.Semaphore(_MAX_CONCURRENT_REQUESTS)
        self._cache: OrderedDict[tuple[str, str], StoredInstance] = OrderedDict()
        # The last event that this worker knows of per table, shard and function, so that a late one does not turn the
        # row back. Forgetting is safe: the row is read again.
        self._last_event_at: dict[tuple[str, str, str], Instant] = {}
        # Whether a start of an instance that nobody remembers is taken for its first. Where several workers share a
        # hub, or orchestrations continue as new for ever, that fails too often.
        self._assume_new_starts = True
        self._closed = False

    async def commit(self, table: str, updates: Sequence[tuple[str, InstanceUpdate]]) -> list[UpdateOutcome]:
        """Write evidence, each with its shard, durably. Raises TableMissing, StorageUnavailable; then any part may have
        been written, and sending all again is safe."""
        if self._closed:
            raise _stopping_error()
        loop = asyncio.get_running_loop()
        waiting = [_QueuedUpdate(one, loop.create_future()) for _, one in updates]
        for (shard, _), one in zip(updates, waiting, strict=True):
            shard_key = (table, shard)
            if shard_key not in self._queues:
                self._queues[shard_key] = deque()
                self._start_task(self._process_queue(shard_key))
            self._queues[shard_key].append(one)
        outcomes = await asyncio.gather(*(one.done for one in waiting), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]

    def invalidate_cache(self, table: str) -> None:
        """The table is gone."""
        self._cache = OrderedDict((key, known) for key, known in self._cache.items() if key[0] != table)
        self._last_event_at = {key: at for key, at in self._last_event_at.items() if key[0] != table}

    async def close(self) -> None:
        """End what is still being written; whoever waits for it is told to try again."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A task that never began has told nobody.
        for queue in self._queues.values():
            _fail_all(queue, _stopping_error())
        self._queues.clear()

    def _start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # In a context of its own: it outlives the request that happened to come first.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _process_queue(self, shard_key: Place) -> None:
        queue = self._queues[shard_key]
        try:
            while queue:
                batch = _next_batch(queue)
                queue.extendleft(reversed(await self._write_batch(shard_key, batch)))
        finally:
            del self._queues[shard_key]
            _fail_all(queue, _stopping_error())

    async def _write_batch(self, shard_key: Place, batch: list[_QueuedUpdate]) -> list[_QueuedUpdate]:
        """Write what fits into one transaction. What is left over for the next."""
        try:
            bypass_cache = False
            while batch:
                planned, refusal = await self._try_write(shard_key, batch, bypass_cache)
                if refusal is None:
                    for one, effects in zip(batch, planned.effective, strict=False):
                        one.resolve(effects)
                    return batch[len(planned.effective) :]
                if error_code(refusal) == "ResourceNotFound":
                    # Rows are never deleted: this is another table than the one that they are remembered from.
                    self.invalidate_cache(shard_key[0])
                if bypass_cache or not is_write_conflict(refusal):
                    # What fails although it was just read, or by itself, must not hold up its neighbours.
                    instance_id = (
                        planned.instance_of_operation(_failed_operation_index(refusal)) or batch[0].update.instance_id
                    )
                    batch = self._write_separately(shard_key, batch, instance_id)
                bypass_cache = True
        except UnsupportedSchema:
            self._write_each_separately(shard_key, batch)
        except (StateError, TableMissing) as error:
            self._fail_batch(shard_key, batch, error)
        except Exception:  # noqa: BLE001 (whatever it is, each is told what it was for it)
            # Nothing foreseen, such as a row that cannot be read.
            self._write_each_separately(shard_key, batch)
        except BaseException as error:
            self._fail_batch(shard_key, batch, error)
            raise
        return []

    def _write_separately(self, shard_key: Place, batch: list[_QueuedUpdate], instance_id: str) -> list[_QueuedUpdate]:
        """Let one instance go on by itself; the others."""
        parted = [one for one in batch if one.update.instance_id == instance_id]
        self._start_task(self._write_with_retries(shard_key, parted)).add_done_callback(
            lambda _: _fail_all(parted, _stopping_error())
        )
        return [one for one in batch if one.update.instance_id != instance_id]

    def _write_each_separately(self, shard_key: Place, batch: list[_QueuedUpdate]) -> None:
        """Let each instance go on by itself: one whose row cannot be read must not fail its neighbours."""
        while batch:
            batch = self._write_separately(shard_key, batch, batch[0].update.instance_id)

    async def _write_with_retries(self, shard_key: Place, batch: Sequence[_QueuedUpdate]) -> None:
        """The same for one instance that others write, too, or that the storage does not take."""
        refused = 0
        try:
            for attempt in range(_MAX_ATTEMPTS):
                planned, refusal = await self._try_write(shard_key, batch, bypass_cache=True)
                refused += refusal is not None and not is_write_conflict(refusal)
                if refusal is None or refused == _MAX_REJECTIONS:
                    if refusal is not None:
                        log.error("the state storage does not take a row: %s", error_code(refusal))
                    for one, effects in zip(batch, planned.effective, strict=True):
                        one.resolve(effects if refusal is None else None)
                    return
                await asyncio.sleep(random.uniform(0, min(0.5, 0.01 * 2**attempt)))
            _fail_all(batch, StorageUnavailable("an instance is written by too many at once", retry_after=5))
        except BaseException as error:
            self._fail_batch(shard_key, batch, error)
            if not isinstance(error, Exception):
                raise

    def _fail_batch(self, shard_key: Place, batch: Iterable[_QueuedUpdate], error: BaseException) -> None:
        if isinstance(error, TableMissing):
            # What is remembered of a table that is gone holds for none that is made anew.
            self.invalidate_cache(shard_key[0])
        _fail_all(batch, _stopping_error() if isinstance(error, asyncio.CancelledError) else error)

    async def _try_write(
        self, shard_key: Place, batch: Sequence[_QueuedUpdate], bypass_cache: bool
    ) -> tuple[TransactionPlan, HttpResponseError | None]:
        """Write what fits into one transaction: what that was, and the error if the storage refuses it for one of its
        rows. Raises TableMissing, StorageUnavailable."""
        updates = [one.update for one in batch]
        planned = plan_transaction(shard_key[1], updates, await self._load_instances(shard_key, updates, bypass_cache))
        return planned, await self._execute_plan(shard_key, planned)

    async def _load_instances(
        self, shard_key: Place, updates: Iterable[InstanceUpdate], bypass_cache: bool
    ) -> dict[str, StoredInstance]:
        """What is known of each instance, or assumed and proved by the write."""
        table, shard = shard_key
        found: dict[str, StoredInstance] = {}
        only_starts: dict[str, bool] = {}
        for one in updates:
            only_starts[one.instance_id] = one.only_starts and only_starts.get(one.instance_id, True)
        unknown: list[str] = []
        for instance_id, is_start in only_starts.items():
            remembered = None if bypass_cache else self._cache.get((table, instance_id))
            if remembered is not None:
                found[instance_id] = remembered
            elif is_start and self._assume_new_starts and not bypass_cache:
                found[instance_id] = StoredInstance()
            else:
                unknown.append(instance_id)
        if unknown:
            client = self._tables.client(table)
            async with _transaction_timeout(), translate_storage_errors():
                read = await asyncio.gather(
                    *(self._read_instance(client, shard, instance_id) for instance_id in unknown)
                )
            starts = [known for instance_id, known in zip(unknown, read, strict=True) if only_starts[instance_id]]
            if starts:
                self._assume_new_starts = all(known.etag is None for known in starts)
            for instance_id, known in zip(unknown, read, strict=True):
                found[instance_id] = known
                self._cache_instance(table, instance_id, known)
        return found

    async def _read_instance(self, client: TableClient, shard: str, instance_id: str) -> StoredInstance:
        async with self._request_slots:
            return await read_stored_instance(client, shard, instance_id)

    async def _execute_plan(self, shard_key: Place, planned: TransactionPlan) -> HttpResponseError | None:
        if not planned.operations:
            return None
        table, shard = shard_key
        client = self._tables.client(table)
        for row in planned.rows:
            # Until the answer is here nobody knows.
            self._cache.pop((table, row.instance.instance_id), None)
        async with _transaction_timeout(), translate_storage_errors():
            async with self._request_slots:
                stamps = [
                    await self._stamp_activity(client, shard, name, at) for name, at in planned.activity_stamps.items()
                ]
                if planned.advances_epoch:
                    # Whoever comes last is right, as with beats.
                    stamps.append(("upsert", correction_epoch_row(shard), {"mode": UpdateMode.REPLACE}))
                try:
                    etags = await submit_transaction(client, [*planned.operations, *stamps])
                except HttpResponseError as error:
                    if is_table_missing(error):
                        raise TableMissing from error
                    if is_write_conflict(error) or error_code(error) in _REJECTED_ROW_CODES:
                        return error
                    raise
            for row in planned.rows:
                etag = etags[row.operation_index]
                if etag is not None:
                    self._cache_instance(table, row.instance.instance_id, StoredInstance(row.instance, etag))
        return None

    async def _stamp_activity(self, client: TableClient, shard: str, name: str, at: Instant) -> TableOperation:
        """Stamp the function. Written without a condition, because every writer of the shard does: the storage's own
        time stamp, which the settle window counts from, is right whoever comes last. `LastEventAt` is for people and
        may briefly lag behind when several workers write."""
        shard_key = (client.table_name, shard, name)
        if shard_key not in self._last_event_at:
            if len(self._last_event_at) >= MAX_CACHED_ROWS:
                self._last_event_at.clear()
            with suppress(ResourceNotFoundError):
                known = await client.get_entity(shard, activity_stamp_key(name))
                check_schema(known)
                at = max(at, parse_instant(known["LastEventAt"]))
        latest = max(self._last_event_at.get(shard_key, Instant(0)), at)
        self._last_event_at[shard_key] = latest
        return ("upsert", activity_stamp_row(shard, name, latest), {"mode": UpdateMode.REPLACE})

    def _cache_instance(self, table: str, instance_id: str, known: StoredInstance) -> None:
        key = (table, instance_id)
        self._cache.pop(key, None)
        finished = known.instance.finished if known.instance is not None else None
        if known.instance is None or (finished is not None and len(finished.reason) > _MAX_CACHED_REASON_CHARACTERS):
            return
        if len(self._cache) >= MAX_CACHED_ROWS:
            self._cache.popitem(last=False)
        self._cache[key] = known


async def read_stored_instance(client: TableClient, shard: str, instance_id: str) -> StoredInstance:
    """What the storage has of an instance. Raises TableMissing and the library's errors."""
    try:
        entity = await client.get_entity(shard, instance_row_key(instance_id))
    except ResourceNotFoundError as error:
        if is_table_missing(error):
            raise TableMissing from error
        return StoredInstance()
    return StoredInstance(instance_from_row(entity), etag_of(entity))


def _next_batch(queue: deque[_QueuedUpdate]) -> list[_QueuedUpdate]:
    """As many as one transaction can hold at most, without those that nobody waits for any more."""
    taken = [queue.popleft() for _ in range(min(MAX_OPERATIONS, len(queue)))]
    return [one for one in taken if not one.done.cancelled()]


def _failed_operation_index(error: HttpResponseError) -> int:
    """Which operation the storage names; the first if it names none."""
    return error.index if isinstance(error, TableTransactionError) else 0


def _fail_all(waiting: Iterable[_QueuedUpdate], error: BaseException) -> None:
    """That it failed, to all that have no answer yet."""
    for one in waiting:
        one.fail(error)


def _stopping_error() -> StorageUnavailable:
    return StorageUnavailable("the server is stopping")


@asynccontextmanager
async def _transaction_timeout() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_TRANSACTION_TIMEOUT_SECONDS):
            yield
    except TimeoutError:
        raise StorageUnavailable(f"the state storage took more than {_TRANSACTION_TIMEOUT_SECONDS} s") from None
