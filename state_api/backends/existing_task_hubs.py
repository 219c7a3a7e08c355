"""What exists under a task hub's name at its provider, before an app claims the name."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import product
from typing import Any

from azure.core.exceptions import HttpResponseError
from azure.data.tables.aio import TableClient

from state_api.backends.protocols import Artifact, ArtifactKind, BackendError, ReadFailure
from state_api.backends.storage_artifacts import StorageArtifactStore
from state_api.domain.names import same_hub
from state_api.domain.task_hubs.ownership import ExistingArtifacts, normalize_address
from state_api.storage.tables import is_table_missing

_PAGE_SIZE = 10
"""Instances that a scheduler is asked for: one is enough, but a page can hold fewer than it was asked for."""


def list_storage_addresses(artifacts: StorageArtifactStore, tracking_table: TableClient | None) -> tuple[str, ...]:
    """Where the task hubs of a storage account are: its table, queue and blob service, as far as they are known, and
    the instance table of a shared tracking store."""
    services = [
        artifacts.service_address(kind) for kind in (ArtifactKind.TABLE, ArtifactKind.QUEUE, ArtifactKind.CONTAINER)
    ]
    return _without_unknown(*services, _tracking_table_address(tracking_table))


async def find_existing_in_storage(
    artifacts: StorageArtifactStore, task_hub: str, tracking_table: TableClient | None
) -> ExistingArtifacts:
    """Tables, queues and containers of exactly the task hub's names, and a row of the task hub in a shared tracking
    store. The tables must be readable. Queues and containers that this server has no access to are left out, and so
    are their addresses. Raises BackendError; the library's errors where the tracking store cannot be read."""
    try:
        async with asyncio.TaskGroup() as group:
            tables = group.create_task(artifacts.find_tables(task_hub, "Reader"))
            queues = group.create_task(_list_if_allowed(artifacts, ArtifactKind.QUEUE, artifacts.find_queues, task_hub))
            containers = group.create_task(
                _list_if_allowed(artifacts, ArtifactKind.CONTAINER, artifacts.find_containers, task_hub)
            )
            rows = group.create_task(_find_tracked_rows(tracking_table, task_hub))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the first; it has ended the other calls
    listed = {
        ArtifactKind.TABLE: tables.result(),
        ArtifactKind.QUEUE: queues.result(),
        ArtifactKind.CONTAINER: containers.result(),
    }
    found = [str(artifact) for artifacts_of_kind in listed.values() for artifact in artifacts_of_kind or ()]
    asked = [
        artifacts.service_address(kind) for kind, artifacts_of_kind in listed.items() if artifacts_of_kind is not None
    ]
    return ExistingArtifacts(
        (*found, *rows.result()), _without_unknown(*asked, _tracking_table_address(tracking_table))
    )


async def find_existing_in_scheduler(
    call: Callable[..., Awaitable[Any]], task_hub: str, address: str
) -> ExistingArtifacts:
    """Any instance of the task hub, an entity too. A task hub that the scheduler does not have is as new as an empty
    one: on a scheduler it must be created before the app starts. `call` sends a request of the protocol. Raises
    BackendError."""
    token: str | None = None
    while True:
        query = {"maxInstanceCount": _PAGE_SIZE, "continuationToken": {"value": token} if token else None}
        try:
            answer = await call(task_hub, "QueryInstances", query=query)
        except BackendError as error:
            if error.failure is ReadFailure.MISSING:
                return ExistingArtifacts((), (address,))
            raise
        if answer.orchestrationState:
            return ExistingArtifacts((f"orchestration instances in task hub {task_hub}",), (address,))
        following = answer.continuationToken.value
        if following in {"", "0", token}:
            return ExistingArtifacts((), (address,))
        token = following


async def _list_if_allowed(
    artifacts: StorageArtifactStore,
    kind: ArtifactKind,
    list_artifacts: Callable[[str, str], Awaitable[list[Artifact]]],
    task_hub: str,
) -> list[Artifact] | None:
    """None where this server may not list them, or does not know where they are."""
    if artifacts.service_address(kind) is None:
        return None
    try:
        return await list_artifacts(task_hub, "Reader")
    except BackendError as error:
        if error.failure is ReadFailure.DENIED:
            return None
        raise


async def _find_tracked_rows(tracking_table: TableClient | None, task_hub: str) -> list[str]:
    """A row of this task hub in the instance table of a tracking store. The service compares with case, so it is asked
    for all names that begin alike in whatever case; that is as much as its limit of comparisons allows."""
    if tracking_table is None:
        return []
    ranges = list(_case_insensitive_ranges(task_hub))
    # The blank ends the parameter: the library takes a bracket for a part of its name.
    condition = " or ".join(f"(TaskHubName ge @from{n} and TaskHubName lt @to{n} )" for n in range(len(ranges)))
    parameters = {f"from{n}": lower for n, (lower, _) in enumerate(ranges)}
    parameters |= {f"to{n}": upper for n, (_, upper) in enumerate(ranges)}
    rows = tracking_table.query_entities(condition, parameters=parameters, select=["TaskHubName"])
    try:
        async for row in rows:
            if same_hub(str(row.get("TaskHubName") or ""), task_hub):
                return [f"rows of {row['TaskHubName']} in table {tracking_table.table_name}"]
    except HttpResponseError as error:
        if not is_table_missing(error):
            raise
    return []


def _case_insensitive_ranges(task_hub: str) -> Iterator[tuple[str, str]]:
    """The ranges of all names that begin with the first two characters of this one, in either case."""
    beginnings = {"".join(each) for each in product(*((one.lower(), one.upper()) for one in task_hub[:2]))}
    for beginning in sorted(beginnings):
        yield beginning, beginning[0] + chr(ord(beginning[1]) + 1)


def _without_unknown(*addresses: str | None) -> tuple[str, ...]:
    return tuple(address for address in addresses if address is not None)


def _tracking_table_address(tracking_table: TableClient | None) -> str | None:
    return None if tracking_table is None else normalize_address(tracking_table.url) + f"/{tracking_table.table_name}"
