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

from state_api.domain.instants import Instant, datetime_of, seconds
from state_api.domain.lifecycle import ENDED_STATUSES, RuntimeStatus
from state_api.domain.messages import KnownTimers, QueueSnapshot
from state_api.domain.names import entity_name, is_entity, same_hub
from state_api.domain.ownership import Existing
from state_api.domain.sightings import Sighting
from state_api.settings import StorageSettings
from state_api.storage.keys import escape, unescape
from state_api.storage.tables import Tables, error_code, is_no_table, written_at
from state_api.taskhubs.account import StorageAccount, retry_after_of
from state_api.taskhubs.artifacts import StorageArtifacts
from state_api.taskhubs.backend import SourceError, SourcePage, Start, Trouble
from state_api.taskhubs.columns import instant_of
from state_api.taskhubs.control_queues import ControlQueues
from state_api.taskhubs.existing import existing_in_storage, storage_addresses
from state_api.taskhubs.timers import TimerReader

log = logging.getLogger(__name__)

DEFAULT_TRACKING_PREFIX = "DurableTask"
"""What the provider calls the tables of a tracking store of their own, unless host.json says otherwise."""

_COLUMNS = ["PartitionKey", "Timestamp", "Name", "Version", "CreatedTime", "RuntimeStatus", "TaskHubName"]
_PAGE = 1000
_AT_ONCE = 16
_LONGEST_NAME = 256
_MARGIN = seconds(5)
"""The storage's time comes cut to seconds, its machines may differ a little, and so may this one's idea of it. Looking
back further costs nothing but one more pass over a hub that has just changed."""

# Entities' ids begin with @; all other ids lie below or above. Entities that changed are read, because their code can
# start orchestrations. A row whose status is missing or new counts as active.
_ENDED = " or ".join(f"RuntimeStatus eq '{status}'" for status in sorted(ENDED_STATUSES))
_CHANGED = "Timestamp ge @since"
_WANTED = f"({_CHANGED} or ((PartitionKey lt '@' or PartitionKey ge 'A') and not ({_ENDED})))"
_RANGE = f"PartitionKey ge @from and PartitionKey lt @to and {_WANTED}"
_LAST_RANGE = f"PartitionKey ge @from and {_WANTED}"

# Generated ids are hexadecimal, so each of their first digits is a range; the others are for ids that people choose.
_RANGES = [
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
        tracking_name: str | None = None,
        tracking_prefix: str | None = None,
    ) -> None:
        self._name = tracking_name or name
        # A status that asks to wait is for the caller to heed; only broken connections are tried again here.
        self._tables = Tables(tracking or settings, f"the setting {self._name}", retry_status=0, read_timeout=30)
        self._prefix = (tracking_prefix or DEFAULT_TRACKING_PREFIX) if tracking is not None else None
        self._account = StorageAccount(settings, name)
        self.artifacts = StorageArtifacts(self._account)
        self._queues = ControlQueues(self._account, shared_tables=tracking is not None)
        self._timers = TimerReader(self._tables, self._executions if tracking is not None else None)
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    @property
    def addresses(self) -> tuple[str, ...]:
        return storage_addresses(self.artifacts, self._tracking_table())

    async def existing(self, task_hub: str) -> Existing | None:
        async with self._translated(task_hub):
            return await existing_in_storage(self.artifacts, task_hub, self._tracking_table())

    async def start(self, task_hub: str) -> Start:
        async with self._translated(task_hub):
            try:
                # No instance has this id: after ^ the provider's escape never puts a space.
                await self._table(task_hub).get_entity("^ ", "", select=["PartitionKey"])
            except ResourceNotFoundError as error:
                if not _is_absent(error):
                    raise
        whole = _cursor(None, None)
        return Start(Instant(self._tables.clock.now() - _MARGIN), (whole,), (whole,))

    async def page(self, task_hub: str, since: Instant, cursor: str) -> SourcePage:
        number, following = _read_cursor(cursor)
        parameters: dict[str, Any] = {"since": datetime_of(since)}
        query = _WANTED
        if number is not None:
            parameters["from"], upper = _RANGES[number]
            query = _LAST_RANGE if upper is None else _RANGE
            if upper is not None:
                parameters["to"] = upper
        rows = self._table(task_hub).query_entities(
            query, parameters=parameters, select=_COLUMNS, results_per_page=_PAGE
        )
        # The library's iterator carries the service's continuation as a mapping, which its annotations do not say.
        pages: Any = rows.by_page(following)
        async with self._translated(task_hub):
            try:
                found = [row async for row in await anext(pages)]
            except StopAsyncIteration:
                found = []
        onward = pages.continuation_token
        if number is None and onward:
            # Too much for one page: begin again in ranges, side by side.
            return SourcePage((), tuple(_cursor(each, None) for each in range(len(_RANGES))))
        sightings = tuple(sighting for row in found if (sighting := self._sighting(task_hub, row)) is not None)
        return SourcePage(sightings, (_cursor(number, onward),) if onward else (), len(found))

    async def find(self, task_hub: str, instance_ids: Sequence[str]) -> Mapping[str, Sighting | None]:
        table = self._table(task_hub)

        async def find_one(instance_id: str) -> Sighting | None:
            async with self._at_once:
                try:
                    row = await table.get_entity(escape(instance_id), "", select=_COLUMNS)
                except ResourceNotFoundError as error:
                    if not _is_absent(error):
                        raise
                    return None
            return self._sighting(task_hub, row)

        async with self._translated(task_hub):
            return dict(zip(instance_ids, await asyncio.gather(*map(find_one, instance_ids)), strict=True))

    async def snapshot(self, task_hub: str) -> QueueSnapshot:
        return await self._queues.snapshot(task_hub)

    async def read_timers(self, task_hub: str, known: KnownTimers) -> KnownTimers:
        async with self._translated(task_hub):
            return await self._timers.read_on(task_hub, self._prefix or task_hub, known)

    async def _executions(self, task_hub: str, instance_ids: Sequence[str]) -> dict[str, str]:
        """The present execution of those of these instances that belong to the task hub."""
        table = self._table(task_hub)

        async def read(instance_id: str) -> TableEntity | None:
            async with self._at_once:
                try:
                    return await table.get_entity(escape(instance_id), "", select=["TaskHubName", "ExecutionId"])
                except ResourceNotFoundError as error:
                    if not _is_absent(error):
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
        return None if self._prefix is None else self._table(self._prefix)

    def _table(self, task_hub: str) -> TableClient:
        return self._tables.client(f"{self._prefix or task_hub}Instances")

    def _sighting(self, task_hub: str, row: TableEntity) -> Sighting | None:
        """None for what is no instance of this hub: another hub's row in a shared tracking store, and what a purge
        leaves behind while the provider migrates, a row with neither name nor status."""
        if not same_hub(row.get("TaskHubName") or task_hub, task_hub):
            return None
        name, status = row.get("Name"), row.get("RuntimeStatus")
        if name is None and status is None:
            return None
        stamp = written_at(row)
        # Half a surrogate pair is no text that could be stored or answered.
        instance_id = unescape(row["PartitionKey"]).encode("utf-8", "replace").decode()
        if is_entity(instance_id):
            # The provider writes the whole id as the name.
            name = entity_name(instance_id)
        return Sighting(
            instance_id=instance_id,
            function_name=str(name or "")[:_LONGEST_NAME],
            version=str(row["Version"])[:_LONGEST_NAME] if row.get("Version") else None,
            runtime_status=_status(status),
            created_at=instant_of(row.get("CreatedTime")) or stamp,
            updated_at=stamp,
            stamp=str(stamp),
        )

    @asynccontextmanager
    async def _translated(self, task_hub: str) -> AsyncIterator[None]:
        """Turn the library's errors into SourceError."""
        try:
            yield
        except ClientAuthenticationError as error:
            raise self._denied(error) from None
        except HttpResponseError as error:
            raise self._refused(task_hub, error) from None
        except ServiceRequestError:
            raise SourceError(
                Trouble.FAILED,
                f"the storage account of the setting {self._name} cannot be reached: does it exist, and does its "
                "network let this server in?",
            ) from None
        except (AzureError, OSError) as error:
            raise SourceError(
                Trouble.FAILED,
                f"the storage account of the setting {self._name} broke off its answer ({type(error).__name__})",
            ) from None

    def _refused(self, task_hub: str, error: HttpResponseError) -> SourceError:
        code = error_code(error) or "no code"
        if is_no_table(error):
            return SourceError(
                Trouble.MISSING,
                f"there is no table {self._prefix or task_hub}Instances in the storage account of the setting "
                f"{self._name}: either the app has never started on task hub {task_hub}, or the setting is that of "
                "another account",
            )
        if error.status_code in (401, 403):
            return self._denied(error)
        if error.status_code in (429, 503) or code == "ServerBusy":
            return SourceError(
                Trouble.THROTTLED,
                f"the storage account of the setting {self._name} asks to wait ({error.status_code})",
                retry_after_of(error),
            )
        return SourceError(
            Trouble.FAILED, f"the storage account of the setting {self._name} answers {error.status_code} ({code})"
        )

    def _denied(self, error: HttpResponseError) -> SourceError:
        why = error_code(error) or type(error).__name__
        return SourceError(
            Trouble.DENIED,
            f"the storage account of the setting {self._name} refuses this server ({why}): give its identity the role "
            "Storage Table Data Reader there, or correct the connection string",
        )


def _is_absent(error: HttpResponseError) -> bool:
    """Whether the table is there and the row is not."""
    return error_code(error) == "ResourceNotFound"


def _status(value: Any) -> RuntimeStatus:
    """A status that is missing or not known counts as running."""
    try:
        return RuntimeStatus(value)
    except ValueError:
        return RuntimeStatus.RUNNING


def _cursor(number: int | None, following: Mapping[str, Any] | None) -> str:
    return json.dumps([number, following])


def _read_cursor(cursor: str) -> tuple[int | None, Any]:
    number, following = json.loads(cursor)
    return number, following
