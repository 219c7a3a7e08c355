"""Task hubs on Azure Storage: reads the table `{Hub}Instances` as the provider writes it (docs/platform.md, Task hubs
on Azure Storage). Hides rows, partition keys and pages.

A scan returns every row whose instance is not known to have ended, and every row that the storage has stamped since the
scan began. The storage evaluates both conditions on a row at the same moment, so no change falls between them.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import TableEntity
from azure.data.tables.aio import TableClient

from state_api.backends.control_queues import ControlQueues
from state_api.backends.existing_task_hubs import find_existing_in_storage, list_storage_addresses
from state_api.backends.pending_timers import TimerReader
from state_api.backends.protocols import ArtifactKind, BackendError, ObservedPage, ReadFailure, ScanStart
from state_api.backends.provider_values import parse_column_instant, parse_runtime_status
from state_api.backends.storage_account import StorageAccount
from state_api.backends.storage_artifacts import StorageArtifactStore
from state_api.backends.storage_errors import translate_account_errors
from state_api.domain.instants import Instant, datetime_of, seconds
from state_api.domain.names import entity_name, is_entity, same_hub
from state_api.domain.readiness.messages import KnownTimers, QueueSnapshot
from state_api.domain.task_hubs.lifecycle import ENDED_STATUSES
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.ownership import ExistingArtifacts
from state_api.settings import StorageSettings
from state_api.storage.instance_keys import escape_instance_id, unescape_instance_id
from state_api.storage.tables import Tables, error_code, is_table_missing, timestamp_of

DEFAULT_TRACKING_PREFIX = "DurableTask"
"""The prefix of a tracking store's tables, unless host.json sets another (DurableTask.AzureStorage,
AzureStorageOrchestrationServiceSettings.TrackingStoreNamePrefix)."""

_COLUMNS = ["PartitionKey", "Timestamp", "Name", "Version", "CreatedTime", "RuntimeStatus", "TaskHubName"]
_PAGE_SIZE = 1000
_READ_TIMEOUT_SECONDS = 30
_MAX_CONCURRENT_READS = 16
_MAX_NAME_LENGTH = 256
_CLOCK_SKEW_MARGIN = seconds(5)
"""How far a scan looks back, so that the stamp of every later change is later than the time from which it looks.

The stamps of rows are up to two seconds behind the Date of responses (docs/correctness.md, A2). The estimate of the
storage's clock is ahead of that Date by what this machine's clock gains in fifteen minutes: 0.9 s at 0.1 %, a hundred
times what a working clock gains. A larger margin is safe: it costs one more pass over a task hub that has just
changed."""

_MAX_CLOCK_AGE_SECONDS = 600
"""How long the estimate of the storage's clock is used without a response. Time in which this machine was suspended
does not count, and puts the estimate behind, so that the scan looks back further."""

_UNUSED_PARTITION_KEY = "^ "
"""The partition key of no instance: the provider's escape never writes a space after `^`."""

# Entity ids begin with @, and every other id sorts below or above that. Entities that have changed are returned,
# because their code can start orchestrations. A row whose status is missing or unknown counts as active.
_ENDED_FILTER = " or ".join(f"RuntimeStatus eq '{status}'" for status in sorted(ENDED_STATUSES))
_CHANGED_FILTER = "Timestamp ge @since"
_ACTIVE_OR_CHANGED_FILTER = (
    f"({_CHANGED_FILTER} or ((PartitionKey lt '@' or PartitionKey ge 'A') and not ({_ENDED_FILTER})))"
)
_RANGE_FILTER = f"PartitionKey ge @from and PartitionKey lt @to and {_ACTIVE_OR_CHANGED_FILTER}"
_LAST_RANGE_FILTER = f"PartitionKey ge @from and {_ACTIVE_OR_CHANGED_FILTER}"

# Generated instance ids are hexadecimal: one range for each first digit. The other ranges are for ids that people
# choose.
_PARTITION_KEY_RANGES = [
    ("", "0"),
    *((digit, chr(ord(digit) + 1)) for digit in "0123456789"),
    (":", "@"),
    ("@", "A"),
    ("A", "a"),
    *((digit, chr(ord(digit) + 1)) for digit in "abcdef"),
    ("g", None),
]


@dataclass(frozen=True, slots=True)
class TrackingStore:
    """The account, of the setting `setting_name`, in which the app keeps its instance and history tables. Several task
    hubs may share these tables. Their names begin with `prefix`; None stands for the provider's default."""

    settings: StorageSettings
    setting_name: str
    prefix: str | None = None


class AzureStorageBackend:
    """Reads the task hubs in the storage account that the setting `setting_name` leads to.

    Instances and histories are in the same account, or in `tracking_store` if the app has one. Raises SettingsError if
    a connection string cannot be valid.
    """

    provider = "azureStorage"
    shows_messages = True

    def __init__(
        self, settings: StorageSettings, setting_name: str, tracking_store: TrackingStore | None = None
    ) -> None:
        """Prepare clients for the account of these settings. With a tracking store, rows and histories are read
        there."""
        tables_settings, self._tables_setting_name = settings, setting_name
        self._table_prefix: str | None = None
        if tracking_store is not None:
            tables_settings, self._tables_setting_name = tracking_store.settings, tracking_store.setting_name
            self._table_prefix = tracking_store.prefix or DEFAULT_TRACKING_PREFIX
        # The caller obeys a status that asks to wait; the client retries broken connections only.
        self._tables = Tables(
            tables_settings,
            f"the setting {self._tables_setting_name}",
            retry_status=0,
            read_timeout=_READ_TIMEOUT_SECONDS,
        )
        self._account = StorageAccount(settings, setting_name)
        self.artifacts = StorageArtifactStore(self._account)
        is_shared = tracking_store is not None
        self._queues = ControlQueues(self._account, shared_tables=is_shared)
        self._timers = TimerReader(self._tables, self._read_execution_ids if is_shared else None)
        self._concurrency_limit = asyncio.Semaphore(_MAX_CONCURRENT_READS)

    @property
    def addresses(self) -> tuple[str, ...]:
        return list_storage_addresses(self.artifacts, self._tracking_table())

    async def find_existing(self, task_hub: str) -> ExistingArtifacts | None:
        async with self._translate_errors(task_hub):
            return await find_existing_in_storage(self.artifacts, task_hub, self._tracking_table())

    async def begin_scan(self, task_hub: str) -> ScanStart:
        """Begin a scan without a request while the storage's clock is known. Then the first page shows whether the task
        hub exists."""
        if not self._tables.clock.had_response_within(_MAX_CLOCK_AGE_SECONDS):
            await self._require_instances_table(task_hub)
        whole_table = _encode_cursor(None, None)
        return ScanStart(Instant(self._tables.clock.now() - _CLOCK_SKEW_MARGIN), (whole_table,), (whole_table,))

    async def read_page(self, task_hub: str, changed_since: Instant, cursor: str) -> ObservedPage:
        """Read one page of a pass; `cursor` says where it begins. Returns its instances and the cursors of what is
        left."""
        range_number, continuation = _decode_cursor(cursor)
        query, parameters = _build_range_query(range_number, changed_since)
        rows = self._instances_table(task_hub).query_entities(
            query, parameters=parameters, select=_COLUMNS, results_per_page=_PAGE_SIZE
        )
        # At run time a continuation is a mapping; the library's annotations say that it is text.
        pages: Any = rows.by_page(continuation)
        async with self._translate_errors(task_hub):
            try:
                page = [row async for row in await anext(pages)]
            except StopAsyncIteration:
                page = []
        next_continuation = pages.continuation_token
        if range_number is None and next_continuation:
            # The table is longer than a page: begin again, with ranges that can be read side by side.
            return ObservedPage((), tuple(_encode_cursor(number, None) for number in range(len(_PARTITION_KEY_RANGES))))
        instances = tuple(observed for row in page if (observed := _parse_row(task_hub, row)) is not None)
        cursors = (_encode_cursor(range_number, next_continuation),) if next_continuation else ()
        return ObservedPage(instances, cursors, len(page))

    async def find_instances(self, task_hub: str, instance_ids: Sequence[str]) -> Mapping[str, ObservedInstance | None]:
        async with self._translate_errors(task_hub):
            rows = await self._read_rows(task_hub, instance_ids, _COLUMNS)
        return {instance_id: None if row is None else _parse_row(task_hub, row) for instance_id, row in rows.items()}

    async def read_queue_snapshot(self, task_hub: str) -> QueueSnapshot:
        try:
            return await self._queues.read_queue_snapshot(task_hub)
        except BackendError as error:
            if error.failure is not ReadFailure.THROTTLED:
                # The queues are read before the first page. If there is no task hub, that is the failure to report.
                await self._require_instances_table(task_hub)
            raise

    async def read_timers(self, task_hub: str, known: KnownTimers) -> KnownTimers:
        async with self._translate_errors(task_hub):
            return await self._timers.read_next(task_hub, self._table_prefix or task_hub, known)

    async def close(self) -> None:
        await self._tables.close()
        await self._account.close()

    async def _require_instances_table(self, task_hub: str) -> None:
        """Raise BackendError, with ReadFailure.MISSING, if the table does not exist."""
        async with self._translate_errors(task_hub):
            # Any read shows whether the table exists, and its response has the storage's time.
            await self._read_row(task_hub, _UNUSED_PARTITION_KEY, ["PartitionKey"])

    async def _read_execution_ids(self, task_hub: str, instance_ids: Sequence[str]) -> dict[str, str]:
        """Return the current execution id of each of these instances that belongs to the task hub."""
        rows = await self._read_rows(task_hub, instance_ids, ["TaskHubName", "ExecutionId"])
        return {
            instance_id: str(row.get("ExecutionId"))
            for instance_id, row in rows.items()
            if row is not None and same_hub(row.get("TaskHubName") or "", task_hub)
        }

    async def _read_rows(
        self, task_hub: str, instance_ids: Sequence[str], columns: list[str]
    ) -> dict[str, TableEntity | None]:
        """Read the rows of these instances, at most _MAX_CONCURRENT_READS at a time."""

        async def read_instance_row(instance_id: str) -> TableEntity | None:
            async with self._concurrency_limit:
                return await self._read_row(task_hub, escape_instance_id(instance_id), columns)

        return dict(zip(instance_ids, await asyncio.gather(*map(read_instance_row, instance_ids)), strict=True))

    async def _read_row(self, task_hub: str, partition_key: str, columns: list[str]) -> TableEntity | None:
        """Return None if the table has no such row. Raises ResourceNotFoundError if there is no table."""
        try:
            return await self._instances_table(task_hub).get_entity(partition_key, "", select=columns)
        except ResourceNotFoundError as error:
            if error_code(error) != "ResourceNotFound":
                raise
            return None

    def _tracking_table(self) -> TableClient | None:
        """The Instances table of a separate tracking store; None if the task hub keeps its rows in its own account."""
        return None if self._table_prefix is None else self._instances_table(self._table_prefix)

    def _instances_table(self, task_hub: str) -> TableClient:
        """The table with a row for each instance: the task hub's own, or the one that a tracking store shares."""
        return self._tables.client(f"{self._table_prefix or task_hub}Instances")

    @asynccontextmanager
    async def _translate_errors(self, task_hub: str) -> AsyncIterator[None]:
        """Turn the library's errors into BackendError. A table that does not exist means that there is no task hub."""
        async with translate_account_errors(self._tables_setting_name, ArtifactKind.TABLE, "Reader"):
            try:
                yield
            except HttpResponseError as error:
                if not is_table_missing(error):
                    raise
                raise BackendError(
                    ReadFailure.MISSING,
                    f"there is no table {self._table_prefix or task_hub}Instances in the storage account of the "
                    f"setting {self._tables_setting_name}: either the app has never started on task hub {task_hub}, or "
                    "the setting leads to another account",
                ) from None


def _build_range_query(range_number: int | None, changed_since: Instant) -> tuple[str, dict[str, Any]]:
    """Return the filter for a range of partition keys, and its parameters. Instances match that are active, or have
    changed since `changed_since`. Without a `range_number`, the range is the whole table."""
    parameters: dict[str, Any] = {"since": datetime_of(changed_since)}
    if range_number is None:
        return _ACTIVE_OR_CHANGED_FILTER, parameters
    lower, upper = _PARTITION_KEY_RANGES[range_number]
    if upper is None:
        return _LAST_RANGE_FILTER, {**parameters, "from": lower}
    return _RANGE_FILTER, {**parameters, "from": lower, "to": upper}


def _parse_row(task_hub: str, row: TableEntity) -> ObservedInstance | None:
    """Parse a row of the instance table. Return None if the row is not an instance of this task hub. In a shared
    tracking store, it can belong to another task hub. A purge while the provider migrates leaves a row without name and
    status."""
    if not same_hub(row.get("TaskHubName") or task_hub, task_hub):
        return None
    name, status = row.get("Name"), row.get("RuntimeStatus")
    if name is None and status is None:
        return None
    stamp = timestamp_of(row)
    # Half of a surrogate pair can be neither stored nor sent.
    instance_id = unescape_instance_id(row["PartitionKey"]).encode("utf-8", "replace").decode()
    if is_entity(instance_id):
        # The provider writes the whole id as the name.
        name = entity_name(instance_id)
    return ObservedInstance(
        instance_id=instance_id,
        function_name=str(name or "")[:_MAX_NAME_LENGTH],
        version=str(row["Version"])[:_MAX_NAME_LENGTH] if row.get("Version") else None,
        runtime_status=parse_runtime_status(status),
        created_at=parse_column_instant(row.get("CreatedTime")) or stamp,
        updated_at=stamp,
        stamp=str(stamp),
    )


def _encode_cursor(range_number: int | None, continuation: Mapping[str, Any] | None) -> str:
    """The cursor of a page as text: the range that is being read, and the continuation of the storage within it."""
    return json.dumps([range_number, continuation])


def _decode_cursor(cursor: str) -> tuple[int | None, Any]:
    """The range and the continuation that `_encode_cursor` has encoded."""
    range_number, continuation = json.loads(cursor)
    return range_number, continuation
