"""Task hubs on Azure Storage: the table `{Hub}Instances`, read as the provider writes it (PLATFORM: Task hubs on Azure
Storage).

A scan takes every row that is not known to have ended, and every row that the storage has stamped since the scan
began. The storage does both in one look at a row, so that no change falls between two looks.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
)
from azure.data.tables import TableEntity
from azure.data.tables.aio import TableClient

from state_api.backends.control_queues import ControlQueues
from state_api.backends.existing_task_hubs import find_existing_in_storage, list_storage_addresses
from state_api.backends.pending_timers import TimerReader
from state_api.backends.protocols import BackendError, ObservedPage, ReadFailure, ScanStart
from state_api.backends.storage_account import StorageAccount, retry_after_seconds
from state_api.backends.storage_artifacts import StorageArtifactStore
from state_api.backends.table_columns import parse_column_instant
from state_api.domain.instants import Instant, datetime_of, seconds
from state_api.domain.names import entity_name, is_entity, same_hub
from state_api.domain.readiness.messages import KnownTimers, QueueSnapshot
from state_api.domain.task_hubs.lifecycle import ENDED_STATUSES, RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.ownership import ExistingArtifacts
from state_api.settings import StorageSettings
from state_api.storage.instance_keys import escape_instance_id, unescape_instance_id
from state_api.storage.tables import Tables, error_code, is_table_missing, timestamp_of

log = logging.getLogger(__name__)

DEFAULT_TRACKING_PREFIX = "DurableTask"
"""What the provider calls the tables of a tracking store of their own, unless host.json says otherwise."""

_COLUMNS = ["PartitionKey", "Timestamp", "Name", "Version", "CreatedTime", "RuntimeStatus", "TaskHubName"]
_PAGE_SIZE = 1000
_MAX_CONCURRENT_READS = 16
_MAX_NAME_LENGTH = 256
_CLOCK_SKEW_MARGIN = seconds(5)
"""The storage's time comes cut to seconds, its machines may differ a little, and so may this one's idea of it. Looking
back further costs nothing but one more pass over a hub that has just changed."""

# Entities' ids begin with @; all other ids lie below or above. Entities that changed are read, because their code can
# start orchestrations. A row whose status is missing or new counts as active.
_ENDED_FILTER = " or ".join(f"RuntimeStatus eq '{status}'" for status in sorted(ENDED_STATUSES))
_CHANGED_FILTER = "Timestamp ge @since"
_ACTIVE_OR_CHANGED_FILTER = (
    f"({_CHANGED_FILTER} or ((PartitionKey lt '@' or PartitionKey ge 'A') and not ({_ENDED_FILTER})))"
)
_RANGE_FILTER = f"PartitionKey ge @from and PartitionKey lt @to and {_ACTIVE_OR_CHANGED_FILTER}"
_LAST_RANGE_FILTER = f"PartitionKey ge @from and {_ACTIVE_OR_CHANGED_FILTER}"

# Generated ids are hexadecimal, so each of their first digits is a range; the others are for ids that people choose.
_PARTITION_KEY_RANGES = [
    ("", "0"),
    *((digit, chr(ord(digit) + 1)) for digit in "0123456789"),
    (":", "@"),
    ("@", "A"),
    ("A", "a"),
    *((digit, chr(ord(digit) + 1)) for digit in "abcdef"),
    ("g", None),
]


class AzureStorageBackend:
    """Reads with the connection in the setting `name`. The tables are in the same account, or, with a tracking store
    of its own, in that account under the prefix of that store, which other hubs may share."""

    provider = "azureStorage"
    shows_messages = True

    def __init__(
        self,
        settings: StorageSettings,
        name: str,
        tracking: StorageSettings | None = None,
        tracking_setting_name: str | None = None,
        tracking_prefix: str | None = None,
    ) -> None:
        self._setting_name = tracking_setting_name or name
        # A status that asks to wait is for the caller to heed; only broken connections are tried again here.
        self._tables = Tables(
            tracking or settings, f"the setting {self._setting_name}", retry_status=0, read_timeout=30
        )
        self._table_prefix = (tracking_prefix or DEFAULT_TRACKING_PREFIX) if tracking is not None else None
        self._account = StorageAccount(settings, name)
        self.artifacts = StorageArtifactStore(self._account)
        self._queues = ControlQueues(self._account, shared_tables=tracking is not None)
        self._timers = TimerReader(self._tables, self._read_execution_ids if tracking is not None else None)
        self._concurrency_limit = asyncio.Semaphore(_MAX_CONCURRENT_READS)

    @property
    def addresses(self) -> tuple[str, ...]:
        return list_storage_addresses(self.artifacts, self._tracking_table())

    async def find_existing(self, task_hub: str) -> ExistingArtifacts | None:
        async with self._translate_errors(task_hub):
            return await find_existing_in_storage(self.artifacts, task_hub, self._tracking_table())

    async def begin_scan(self, task_hub: str) -> ScanStart:
        async with self._translate_errors(task_hub):
            try:
                # No instance has this id: after ^ the provider's escape never puts a space.
                await self._instances_table(task_hub).get_entity("^ ", "", select=["PartitionKey"])
            except ResourceNotFoundError as error:
                if not _is_row_missing(error):
                    raise
        whole = _encode_cursor(None, None)
        return ScanStart(Instant(self._tables.clock.now() - _CLOCK_SKEW_MARGIN), (whole,), (whole,))

    async def read_page(self, task_hub: str, since: Instant, cursor: str) -> ObservedPage:
        number, following = _decode_cursor(cursor)
        parameters: dict[str, Any] = {"since": datetime_of(since)}
        query = _ACTIVE_OR_CHANGED_FILTER
        if number is not None:
            parameters["from"], upper = _PARTITION_KEY_RANGES[number]
            query = _LAST_RANGE_FILTER if upper is None else _RANGE_FILTER
            if upper is not None:
                parameters["to"] = upper
        rows = self._instances_table(task_hub).query_entities(
            query, parameters=parameters, select=_COLUMNS, results_per_page=_PAGE_SIZE
        )
        # The library's iterator carries the service's continuation as a mapping, which its annotations do not say.
        pages: Any = rows.by_page(following)
        async with self._translate_errors(task_hub):
            try:
                found = [row async for row in await anext(pages)]
            except StopAsyncIteration:
                found = []
        onward = pages.continuation_token
        if number is None and onward:
            # Too much for one page: begin again in ranges, side by side.
            return ObservedPage((), tuple(_encode_cursor(each, None) for each in range(len(_PARTITION_KEY_RANGES))))
        observed_instances = tuple(
            observed for row in found if (observed := self._parse_row(task_hub, row)) is not None
        )
        return ObservedPage(observed_instances, (_encode_cursor(number, onward),) if onward else (), len(found))

    async def find_instances(self, task_hub: str, instance_ids: Sequence[str]) -> Mapping[str, ObservedInstance | None]:
        table = self._instances_table(task_hub)

        async def find_one(instance_id: str) -> ObservedInstance | None:
            async with self._concurrency_limit:
                try:
                    row = await table.get_entity(escape_instance_id(instance_id), "", select=_COLUMNS)
                except ResourceNotFoundError as error:
                    if not _is_row_missing(error):
                        raise
                    return None
            return self._parse_row(task_hub, row)

        async with self._translate_errors(task_hub):
            return dict(zip(instance_ids, await asyncio.gather(*map(find_one, instance_ids)), strict=True))

    async def read_queue_snapshot(self, task_hub: str) -> QueueSnapshot:
        return await self._queues.read_queue_snapshot(task_hub)

    async def read_timers(self, task_hub: str, known: KnownTimers) -> KnownTimers:
        async with self._translate_errors(task_hub):
            return await self._timers.read_next(task_hub, self._table_prefix or task_hub, known)

    async def _read_execution_ids(self, task_hub: str, instance_ids: Sequence[str]) -> dict[str, str]:
        """The present execution of those of these instances that belong to the task hub."""
        table = self._instances_table(task_hub)

        async def read(instance_id: str) -> TableEntity | None:
            async with self._concurrency_limit:
                try:
                    return await table.get_entity(
                        escape_instance_id(instance_id), "", select=["TaskHubName", "ExecutionId"]
                    )
                except ResourceNotFoundError as error:
                    if not _is_row_missing(error):
                        raise
                    return None

        rows = zip(instance_ids, await asyncio.gather(*map(read, instance_ids)), strict=True)
        return {
            instance_id: str(row.get("ExecutionId"))
            for instance_id, row in rows
            if row is not None and same_hub(row.get("TaskHubName") or "", task_hub)
        }

    async def close(self) -> None:
        await self._tables.close()
        await self._account.close()

    def _tracking_table(self) -> TableClient | None:
        return None if self._table_prefix is None else self._instances_table(self._table_prefix)

    def _instances_table(self, task_hub: str) -> TableClient:
        return self._tables.client(f"{self._table_prefix or task_hub}Instances")

    def _parse_row(self, task_hub: str, row: TableEntity) -> ObservedInstance | None:
        """None for what is no instance of this hub: another hub's row in a shared tracking store, and what a purge
        leaves behind while the provider migrates, a row with neither name nor status."""
        if not same_hub(row.get("TaskHubName") or task_hub, task_hub):
            return None
        name, status = row.get("Name"), row.get("RuntimeStatus")
        if name is None and status is None:
            return None
        stamp = timestamp_of(row)
        # Half a surrogate pair is no text that could be stored or answered.
        instance_id = unescape_instance_id(row["PartitionKey"]).encode("utf-8", "replace").decode()
        if is_entity(instance_id):
            # The provider writes the whole id as the name.
            name = entity_name(instance_id)
        return ObservedInstance(
            instance_id=instance_id,
            function_name=str(name or "")[:_MAX_NAME_LENGTH],
            version=str(row["Version"])[:_MAX_NAME_LENGTH] if row.get("Version") else None,
            runtime_status=_parse_status(status),
            created_at=parse_column_instant(row.get("CreatedTime")) or stamp,
            updated_at=stamp,
            stamp=str(stamp),
        )

    @asynccontextmanager
    async def _translate_errors(self, task_hub: str) -> AsyncIterator[None]:
        """Turn the library's errors into BackendError."""
        try:
            yield
        except ClientAuthenticationError as error:
            raise self._access_denied_error(error) from None
        except HttpResponseError as error:
            raise self._http_error(task_hub, error) from None
        except ServiceRequestError:
            raise BackendError(
                ReadFailure.FAILED,
                f"the storage account of the setting {self._setting_name} cannot be reached: does it exist, and "
                f"does its "
                "network let this server in?",
            ) from None
        except (AzureError, OSError) as error:
            raise BackendError(
                ReadFailure.FAILED,
                f"the storage account of the setting {self._setting_name} broke off its answer "
                f"({type(error).__name__})",
            ) from None

    def _http_error(self, task_hub: str, error: HttpResponseError) -> BackendError:
        code = error_code(error) or "no code"
        if is_table_missing(error):
            return BackendError(
                ReadFailure.MISSING,
                f"there is no table {self._table_prefix or task_hub}Instances in the storage account of the setting "
                f"{self._setting_name}: either the app has never started on task hub {task_hub}, or the setting "
                f"is that of "
                "another account",
            )
        if error.status_code in (401, 403):
            return self._access_denied_error(error)
        if error.status_code in (429, 503) or code == "ServerBusy":
            return BackendError(
                ReadFailure.THROTTLED,
                f"the storage account of the setting {self._setting_name} asks to wait ({error.status_code})",
                retry_after_seconds(error),
            )
        return BackendError(
            ReadFailure.FAILED,
            f"the storage account of the setting {self._setting_name} answers {error.status_code} ({code})",
        )

    def _access_denied_error(self, error: HttpResponseError) -> BackendError:
        why = error_code(error) or type(error).__name__
        return BackendError(
            ReadFailure.DENIED,
            f"the storage account of the setting {self._setting_name} refuses this server ({why}): give its "
            f"identity the role "
            "Storage Table Data Reader there, or correct the connection string",
        )


def _is_row_missing(error: HttpResponseError) -> bool:
    """Whether the table is there and the row is not."""
    return error_code(error) == "ResourceNotFound"


def _parse_status(value: Any) -> RuntimeStatus:
    """A status that is missing or not known counts as running."""
    try:
        return RuntimeStatus(value)
    except ValueError:
        return RuntimeStatus.RUNNING


def _encode_cursor(number: int | None, following: Mapping[str, Any] | None) -> str:
    return json.dumps([number, following])


def _decode_cursor(cursor: str) -> tuple[int | None, Any]:
    number, following = json.loads(cursor)
    return number, following
