"""Finds what exists under a task hub's name in a storage account, before an app claims the name."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import product

from azure.core.exceptions import HttpResponseError
from azure.data.tables.aio import TableClient

from state_api.backends.protocols import Artifact, ArtifactKind, BackendError, ReadFailure
from state_api.backends.storage_artifacts import StorageArtifactStore
from state_api.backends.storage_errors import DataRole
from state_api.domain.names import same_hub
from state_api.domain.task_hubs.ownership import ExistingArtifacts, normalize_address
from state_api.storage.tables import is_table_missing


def list_storage_addresses(artifacts: StorageArtifactStore, tracking_table: TableClient | None) -> tuple[str, ...]:
    """Return the addresses of the table, queue and blob services, as far as they are known, and of the instance table
    of a tracking store."""
    services = [
        artifacts.service_address(kind) for kind in (ArtifactKind.TABLE, ArtifactKind.QUEUE, ArtifactKind.CONTAINER)
    ]
    return _known_addresses(*services, _tracking_table_address(tracking_table))


async def find_existing_in_storage(
    artifacts: StorageArtifactStore, task_hub: str, tracking_table: TableClient | None
) -> ExistingArtifacts:
    """Find tables, queues and containers of exactly the task hub's names, and a row of the task hub in the tracking
    store.

    The tables must be readable. Queues and containers that this server may not list are left out, and so are the
    addresses of their services. Raises BackendError; the library's errors if the tracking store cannot be read.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tables = group.create_task(artifacts.find_tables(task_hub, "Reader"))
            queues = group.create_task(_list_if_allowed(artifacts, ArtifactKind.QUEUE, artifacts.find_queues, task_hub))
            containers = group.create_task(
                _list_if_allowed(artifacts, ArtifactKind.CONTAINER, artifacts.find_containers, task_hub)
            )
            tracked_rows = group.create_task(_find_tracked_rows(tracking_table, task_hub))
    except ExceptionGroup as errors:
        # The first error has cancelled the other tasks.
        raise errors.exceptions[0] from None
    by_kind = {
        ArtifactKind.TABLE: tables.result(),
        ArtifactKind.QUEUE: queues.result(),
        ArtifactKind.CONTAINER: containers.result(),
    }
    listed = {kind: listing for kind, listing in by_kind.items() if listing is not None}
    return ExistingArtifacts(
        (*(str(artifact) for listing in listed.values() for artifact in listing), *tracked_rows.result()),
        _known_addresses(*map(artifacts.service_address, listed), _tracking_table_address(tracking_table)),
    )


async def _list_if_allowed(
    artifacts: StorageArtifactStore,
    kind: ArtifactKind,
    list_artifacts: Callable[[str, DataRole], Awaitable[list[Artifact]]],
    task_hub: str,
) -> list[Artifact] | None:
    """Return None if this server may not list artifacts of this kind, or does not know where they are."""
    if artifacts.service_address(kind) is None:
        return None
    try:
        return await list_artifacts(task_hub, "Reader")
    except BackendError as error:
        if error.failure is ReadFailure.DENIED:
            return None
        raise


async def _find_tracked_rows(tracking_table: TableClient | None, task_hub: str) -> list[str]:
    """Describe a row of this task hub in the instance table of a tracking store; empty if there is none.

    The service compares names with case, and a filter can have 15 comparisons (Azure Table storage, Querying tables and
    entities). So the filter selects all names that begin with the same two letters in either case.
    """
    if tracking_table is None:
        return []
    ranges = _case_insensitive_ranges(task_hub)
    # The blank after a parameter is needed: the library takes a closing bracket for a part of the parameter's name.
    condition = " or ".join(
        f"(TaskHubName ge @from{number} and TaskHubName lt @to{number} )" for number in range(len(ranges))
    )
    parameters = {f"from{number}": lower for number, (lower, _) in enumerate(ranges)}
    parameters |= {f"to{number}": upper for number, (_, upper) in enumerate(ranges)}
    rows = tracking_table.query_entities(condition, parameters=parameters, select=["TaskHubName"])
    try:
        async for row in rows:
            if same_hub(str(row.get("TaskHubName") or ""), task_hub):
                return [f"rows of {row['TaskHubName']} in table {tracking_table.table_name}"]
    except HttpResponseError as error:
        if not is_table_missing(error):
            raise
    return []


def _case_insensitive_ranges(task_hub: str) -> list[tuple[str, str]]:
    """Return the ranges, from and to, of all names that begin with the first two characters of this one in either
    case."""
    spellings = product(*((character.lower(), character.upper()) for character in task_hub[:2]))
    beginnings = sorted({"".join(spelling) for spelling in spellings})
    return [(beginning, beginning[0] + chr(ord(beginning[1]) + 1)) for beginning in beginnings]


def _known_addresses(*addresses: str | None) -> tuple[str, ...]:
    """The addresses without those that are None."""
    return tuple(address for address in addresses if address is not None)


def _tracking_table_address(tracking_table: TableClient | None) -> str | None:
    """The URL of the tracking table; None if there is no tracking store."""
    return None if tracking_table is None else normalize_address(tracking_table.url) + f"/{tracking_table.table_name}"
