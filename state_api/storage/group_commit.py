"""Group commit: updates that arrive while a shard's transaction is being written share the shard's next transaction.
Nothing waits for a timer, and each caller gets its outcome once the transaction with its updates has ended.

Instances that this worker has read or written lately are cached. Every write is conditional on the row's ETag, so a
stale cache entry causes a conflict and another read. A cache entry that is older than the row still recognizes a
duplicate, because merging into a record never removes what it contains (domain/task_hubs/lifecycle.py). So a duplicate
of a cached record costs no request.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from azure.core.exceptions import AzureError, HttpResponseError
from azure.data.tables import TableTransactionError, UpdateMode
from azure.data.tables.aio import TableClient

from state_api.domain.errors import StateError, StorageUnavailable, UnsupportedSchema
from state_api.domain.instants import Instant
from state_api.services.ports import TableMissing
from state_api.storage.activity_stamps import ActivityStamps
from state_api.storage.instance_cache import InstanceCache
from state_api.storage.instance_loader import InstanceLoader
from state_api.storage.instance_rows import correction_epoch_row
from state_api.storage.tables import (
    Tables,
    error_code,
    is_table_missing,
    is_write_conflict,
    submit_transaction,
    translate_storage_errors,
)
from state_api.storage.timeline_counters import TimelineCounters
from state_api.storage.timeline_reader import delete_old_counters, first_counted_minute
from state_api.storage.transaction_plan import (
    MAX_OPERATIONS,
    InstanceUpdate,
    StoredInstance,
    TransactionPlan,
    plan_transaction,
)

log = logging.getLogger(__name__)

_MAX_CONCURRENT_REQUESTS = 32
_TRANSACTION_TIMEOUT_SECONDS = 15
"""How long one transaction, or the reads for it, may take. Event Grid stops waiting after 30 s, and a Retry-After of
the storage must not block a shard for longer than that."""
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
"""Error codes with which the storage rejects the content of a row. Other codes with status 400 have other causes, which
may be temporary."""
_MAX_REJECTIONS = 3
"""How often the storage must reject a row before its events go to quarantine, from where they are not recorded
again."""
_MAX_ATTEMPTS = 12
_MAX_RETRY_DELAY_SECONDS = 0.5

ShardKey = tuple[str, str]
"""The name of an instance table, and one of its partitions."""
UpdateOutcome = tuple[bool, ...] | None
"""For each change of an update whether it changed the record; None if the storage rejects the row."""


RecordedListener = Callable[[str, TransactionPlan, Instant], None]
"""Called after a transaction is durable, with its table, its plan, and a time shortly before it was sent."""


def _ignore(table: str, plan: TransactionPlan, sent_at: Instant) -> None:
    """Does nothing: the listener of a group commit whose transactions need not be signalled."""


@dataclass(slots=True, eq=False)
class _QueuedUpdate:
    update: InstanceUpdate
    future: asyncio.Future[UpdateOutcome]

    def resolve(self, outcome: UpdateOutcome) -> None:
        """Give the waiting caller the outcome."""
        # The future is done already if the caller has given up.
        if not self.future.done():
            self.future.set_result(outcome)

    def fail(self, error: BaseException) -> None:
        """Raise the error in the waiting caller, unless it has given up."""
        if not self.future.done():
            self.future.set_exception(error)


class GroupCommit:
    """The only writer of instance rows in this worker. A task per shard writes the shard's queue."""

    def __init__(self, tables: Tables, on_recorded: RecordedListener = _ignore) -> None:
        """Begin with empty queues and caches. `on_recorded` is called after each transaction."""
        self._tables = tables
        self._on_recorded = on_recorded
        self._queues: dict[ShardKey, deque[_QueuedUpdate]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._request_slots = asyncio.Semaphore(_MAX_CONCURRENT_REQUESTS)
        self._cache = InstanceCache()
        self._loader = InstanceLoader(self._cache, self._request_slots)
        self._stamps = ActivityStamps(self._request_slots)
        self._counters = TimelineCounters()
        self._closed = False

    async def commit(self, table: str, updates: Sequence[tuple[str, InstanceUpdate]]) -> list[UpdateOutcome]:
        """Write updates, each given with its shard, durably. Raises TableMissing and StorageUnavailable; then any of
        the updates may have been written, and committing all of them again is safe."""
        if self._closed:
            raise _stopping_error()
        loop = asyncio.get_running_loop()
        queued = [_QueuedUpdate(update, loop.create_future()) for _, update in updates]
        for (shard, _), queued_update in zip(updates, queued, strict=True):
            shard_key = (table, shard)
            if shard_key not in self._queues:
                self._queues[shard_key] = deque()
                self._start_task(self._process_queue(shard_key))
            self._queues[shard_key].append(queued_update)
        outcomes = await asyncio.gather(*(queued_update.future for queued_update in queued), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]

    def invalidate_cache(self, table: str) -> None:
        """Forget all rows of a table that was deleted."""
        self._cache.remove_table(table)
        self._stamps.invalidate_cache(table)
        self._counters.invalidate_cache(table)

    async def close(self) -> None:
        """Cancel what is being written. Waiting callers get StorageUnavailable."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A task that was cancelled before it began has not failed its queue.
        for queue in self._queues.values():
            _fail_all(queue, _stopping_error())
        self._queues.clear()

    def _start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` in the background. `close` waits for it."""
        # In an empty context, because the task outlives the request that starts it.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _process_queue(self, shard_key: ShardKey) -> None:
        """Write the queue of a shard, batch by batch, until it is empty."""
        queue = self._queues[shard_key]
        try:
            while queue:
                batch = _next_batch(queue)
                queue.extendleft(reversed(await self._write_batch(shard_key, batch)))
        finally:
            del self._queues[shard_key]
            _fail_all(queue, _stopping_error())

    async def _write_batch(self, shard_key: ShardKey, batch: list[_QueuedUpdate]) -> list[_QueuedUpdate]:
        """Write as much of the batch as fits into one transaction. Returns the updates that are left over."""
        try:
            bypass_cache = False
            while batch:
                plan, error = await self._try_write(shard_key, batch, bypass_cache=bypass_cache)
                if error is None:
                    for queued_update, effects in zip(batch, plan.effective, strict=False):
                        queued_update.resolve(effects)
                    return batch[len(plan.effective) :]
                if error_code(error) == "ResourceNotFound":
                    # The server deletes no instance row, and no row of counters that another server may still write,
                    # so the cached rows belong to an earlier table.
                    self.invalidate_cache(shard_key[0])
                if bypass_cache or not is_write_conflict(error):
                    # An instance that was just read and conflicts again, or whose row is rejected, must not delay the
                    # others.
                    instance_id = plan.instance_of_operation(_failed_operation_index(error))
                    batch = self._write_separately(shard_key, batch, instance_id or batch[0].update.instance_id)
                bypass_cache = True
        except UnsupportedSchema:
            self._write_each_separately(shard_key, batch)
        except (StateError, TableMissing) as error:
            self._fail_batch(shard_key, batch, error)
        except Exception:  # noqa: BLE001 (each instance then fails with its own error)
            # For example a row that cannot be parsed.
            self._write_each_separately(shard_key, batch)
        except BaseException as error:
            self._fail_batch(shard_key, batch, error)
            raise
        return []

    def _write_separately(
        self, shard_key: ShardKey, batch: list[_QueuedUpdate], instance_id: str
    ) -> list[_QueuedUpdate]:
        """Write the updates of one instance in a task of their own. Returns the updates of the other instances."""
        separate = [queued for queued in batch if queued.update.instance_id == instance_id]
        self._start_task(self._write_with_retries(shard_key, separate)).add_done_callback(
            lambda _: _fail_all(separate, _stopping_error())
        )
        return [queued for queued in batch if queued.update.instance_id != instance_id]

    def _write_each_separately(self, shard_key: ShardKey, batch: list[_QueuedUpdate]) -> None:
        """Write each instance in a task of its own, because an unreadable row must not fail the other instances."""
        while batch:
            batch = self._write_separately(shard_key, batch, batch[0].update.instance_id)

    async def _write_with_retries(self, shard_key: ShardKey, batch: Sequence[_QueuedUpdate]) -> None:
        """Write the updates of one instance. Retries if another server writes the instance at the same time, or if the
        storage rejects its row."""
        rejections = 0
        try:
            for attempt in range(_MAX_ATTEMPTS):
                plan, error = await self._try_write(shard_key, batch, bypass_cache=True)
                rejections += error is not None and not is_write_conflict(error)
                if error is None or rejections == _MAX_REJECTIONS:
                    if error is not None:
                        log.error("the state storage rejects a row: %s", error_code(error))
                    for queued_update, effects in zip(batch, plan.effective, strict=True):
                        queued_update.resolve(effects if error is None else None)
                    return
                await asyncio.sleep(random.uniform(0, min(_MAX_RETRY_DELAY_SECONDS, 0.01 * 2**attempt)))
            _fail_all(
                batch,
                StorageUnavailable(
                    "too many servers write an instance at the same time: send the events again", retry_after=5
                ),
            )
        except BaseException as error:
            self._fail_batch(shard_key, batch, error)
            if not isinstance(error, Exception):
                raise

    def _fail_batch(self, shard_key: ShardKey, batch: Iterable[_QueuedUpdate], error: BaseException) -> None:
        """Raise the error in all callers whose updates are in the batch."""
        if isinstance(error, TableMissing):
            # A table that is created again under this name has none of the cached rows.
            self.invalidate_cache(shard_key[0])
        _fail_all(batch, _stopping_error() if isinstance(error, asyncio.CancelledError) else error)

    async def _try_write(
        self, shard_key: ShardKey, batch: Sequence[_QueuedUpdate], *, bypass_cache: bool
    ) -> tuple[TransactionPlan, HttpResponseError | None]:
        """Write as many updates as fit into one transaction. Returns its plan, and the error if one of its rows
        conflicts or is rejected. Raises TableMissing and StorageUnavailable."""
        table, shard = shard_key
        updates = [queued_update.update for queued_update in batch]
        async with _transaction_timeout(), translate_storage_errors():
            stored = await self._loader.load(self._tables.client(table), shard, updates, bypass_cache=bypass_cache)
        first_minute = first_counted_minute(self._tables.clock.now())
        plan = plan_transaction(shard, updates, stored, first_counted_minute=first_minute)
        return plan, await self._execute_plan(shard_key, plan)

    async def _execute_plan(self, shard_key: ShardKey, plan: TransactionPlan) -> HttpResponseError | None:
        """Write the plan's transaction. Returns the error if a row conflicts or is rejected."""
        if not plan.operations:
            return None
        table, shard = shard_key
        client, sent_at = self._tables.client(table), self._tables.clock.now()
        for row in plan.rows:
            # Remove the row from the cache: until the response arrives, it is not known whether the row was written.
            self._cache.remove(table, row.instance.instance_id)
        async with _transaction_timeout(), translate_storage_errors():
            stamps = await asyncio.gather(
                *(
                    self._stamps.build_write(client, shard, function_name, at)
                    for function_name, at in plan.activity_stamps.items()
                )
            )
            if plan.advances_epoch:
                # The row is written without a condition, as stamps are, because any new epoch will do.
                stamps.append(("upsert", correction_epoch_row(shard), {"mode": UpdateMode.REPLACE}))
            counter_rows = self._counters.take_rows(table, shard, plan.counter_changes)
            counter_writes = [row.build_write() for row in counter_rows]
            async with self._request_slots:
                try:
                    etags = await submit_transaction(client, [*plan.operations, *counter_writes, *stamps])
                except HttpResponseError as error:
                    if is_table_missing(error):
                        raise TableMissing from error
                    if is_write_conflict(error) or error_code(error) in _REJECTED_ROW_CODES:
                        return error
                    raise
            for row in plan.rows:
                etag = etags[row.operation_index]
                if etag is not None:
                    self._cache.put(table, row.instance.instance_id, StoredInstance(row.instance, etag))
        self._counters.return_rows(counter_rows, etags[len(plan.operations) :][: len(counter_rows)])
        if self._counters.begins_bucket(table, shard, counter_rows):
            self._start_task(self._delete_old_counters(client, shard))
        self._on_recorded(table, plan, sent_at)
        return None

    async def _delete_old_counters(self, client: TableClient, shard: str) -> None:
        """Delete the counters that are too old to be shown. What is left over is deleted the next time."""
        try:
            async with asyncio.timeout(_TRANSACTION_TIMEOUT_SECONDS), self._request_slots:
                await delete_old_counters(client, shard, self._tables.clock.now())
        except (AzureError, TimeoutError) as error:
            # For example because another server deletes them, or because the task hub was cleaned up.
            log.debug("counters of %s were not deleted: %s", client.table_name, type(error).__name__)


def _next_batch(queue: deque[_QueuedUpdate]) -> list[_QueuedUpdate]:
    """Take as many updates as one transaction can hold at most. Leaves out those whose caller has given up."""
    taken = [queue.popleft() for _ in range(min(MAX_OPERATIONS, len(queue)))]
    return [queued_update for queued_update in taken if not queued_update.future.cancelled()]


def _failed_operation_index(error: HttpResponseError) -> int:
    """The index of the operation that the storage names in its error; 0 if it names none."""
    return error.index if isinstance(error, TableTransactionError) else 0


def _fail_all(queued: Iterable[_QueuedUpdate], error: BaseException) -> None:
    """Fail all updates that have no outcome yet."""
    for queued_update in queued:
        queued_update.fail(error)


def _stopping_error() -> StorageUnavailable:
    """The error for updates that are not written because the server shuts down."""
    return StorageUnavailable("the server is stopping: send the request again")


@asynccontextmanager
async def _transaction_timeout() -> AsyncIterator[None]:
    """Raises StorageUnavailable when the block takes longer than _TRANSACTION_TIMEOUT_SECONDS."""
    try:
        async with asyncio.timeout(_TRANSACTION_TIMEOUT_SECONDS):
            yield
    except TimeoutError:
        raise StorageUnavailable(
            f"the state storage took more than {_TRANSACTION_TIMEOUT_SECONDS} s: try again"
        ) from None
