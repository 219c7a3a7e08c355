"""What exists under a task hub's name at its provider, before an app claims the name."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import product
from typing import Any

from azure.core.exceptions import HttpResponseError
from azure.data.tables.aio import TableClient

from state_api.domain.names import same_hub
from state_api.domain.ownership import Existing, plain_address
from state_api.storage.tables import is_no_table
from state_api.taskhubs.artifacts import StorageArtifacts
from state_api.taskhubs.backend import Artifact, Kind, SourceError, Trouble

_PAGE = 10
"""Instances that a scheduler is asked for: one is enough, but a page can hold fewer than it was asked for."""


def storage_addresses(artifacts: StorageArtifacts, tracking: TableClient | None) -> tuple[str, ...]:
    """Where the task hubs of a storage account are: its table, queue and blob service, as far as they are known, and
    the instance table of a shared tracking store."""
    services = [artifacts.address(kind) for kind in (Kind.TABLE, Kind.QUEUE, Kind.CONTAINER)]
    return _known(*services, _address_of(tracking))


async def existing_in_storage(artifacts: StorageArtifacts, task_hub: str, tracking: TableClient | None) -> Existing:
    """Tables, queues and containers of exactly the task hub's names, and a row of the task hub in a shared tracking
    store. The tables must be readable. Queues and containers that this server has no access to are left out, and so
    are their addresses. Raises SourceError; the library's errors where the tracking store cannot be read."""
    try:
        async with asyncio.TaskGroup() as group:
            tables = group.create_task(artifacts.tables_of(task_hub, "Reader"))
            queues = group.create_task(_if_allowed(artifacts, Kind.QUEUE, artifacts.queues_of, task_hub))
            containers = group.create_task(_if_allowed(artifacts, Kind.CONTAINER, artifacts.containers_of, task_hub))
            rows = group.create_task(_tracked(tracking, task_hub))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the first; it has ended the other calls
    listed = {Kind.TABLE: tables.result(), Kind.QUEUE: queues.result(), Kind.CONTAINER: containers.result()}
    found = [str(artifact) for artifacts_of_kind in listed.values() for artifact in artifacts_of_kind or ()]
    asked = [artifacts.address(kind) for kind, artifacts_of_kind in listed.items() if artifacts_of_kind is not None]
    return Existing((*found, *rows.result()), _known(*asked, _address_of(tracking)))


async def existing_in_scheduler(call: Callable[..., Awaitable[Any]], task_hub: str, address: str) -> Existing:
    """Any instance of the task hub, an entity too. A task hub that the scheduler does not have is as new as an empty
    one: on a scheduler it must be created before the app starts. `call` sends a request of the protocol. Raises
    SourceError."""
    token: str | None = None
    while True:
        query = {"maxInstanceCount": _PAGE, "continuationToken": {"value": token} if token else None}
        try:
            answer = await call(task_hub, "QueryInstances", query=query)
        except SourceError as error:
            if error.trouble is Trouble.MISSING:
                return Existing((), (address,))
            raise
        if answer.orchestrationState:
            return Existing((f"orchestration instances in task hub {task_hub}",), (address,))
        following = answer.continuationToken.value
        if following in {"", "0", token}:
            return Existing((), (address,))
        token = following


async def _if_allowed(
    artifacts: StorageArtifacts,
    kind: Kind,
    listing: Callable[[str, str], Awaitable[list[Artifact]]],
    task_hub: str,
) -> list[Artifact] | None:
    """None where this server may not list them, or does not know where they are."""
    if artifacts.address(kind) is None:
        return None
    try:
        return await listing(task_hub, "Reader")
    except SourceError as error:
        if error.trouble is Trouble.DENIED:
            return None
        raise


async def _tracked(tracking: TableClient | None, task_hub: str) -> list[str]:
    """A row of this task hub in the instance table of a tracking store. The service compares with case, so it is asked
    for all names that begin alike in whatever case; that is as much as its limit of comparisons allows."""
    if tracking is None:
        return []
    ranges = list(_ranges(task_hub))
    # The blank ends the parameter: the library takes a bracket for a part of its name.
    condition = " or ".join(f"(TaskHubName ge @from{n} and TaskHubName lt @to{n} )" for n in range(len(ranges)))
    parameters = {f"from{n}": lower for n, (lower, _) in enumerate(ranges)}
    parameters |= {f"to{n}": upper for n, (_, upper) in enumerate(ranges)}
    rows = tracking.query_entities(condition, parameters=parameters, select=["TaskHubName"])
    try:
        async for row in rows:
            if same_hub(str(row.get("TaskHubName") or ""), task_hub):
                return [f"rows of {row['TaskHubName']} in table {tracking.table_name}"]
    except HttpResponseError as error:
        if not is_no_table(error):
            raise
    return []


def _ranges(task_hub: str) -> Iterator[tuple[str, str]]:
    """The ranges of all names that begin with the first two characters of this one, in either case."""
    beginnings = {"".join(each) for each in product(*((one.lower(), one.upper()) for one in task_hub[:2]))}
    for beginning in sorted(beginnings):
        yield beginning, beginning[0] + chr(ord(beginning[1]) + 1)


def _known(*addresses: str | None) -> tuple[str, ...]:
    return tuple(address for address in addresses if address is not None)


def _address_of(tracking: TableClient | None) -> str | None:
    return None if tracking is None else plain_address(tracking.url) + f"/{tracking.table_name}"
