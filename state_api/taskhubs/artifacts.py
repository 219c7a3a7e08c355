"""What a task hub leaves in the storage account of its app: which tables, queues and containers are its own, and how
they are removed (PLATFORM: Task hubs on Azure Storage).

Only exact names count, never a prefix: the hub v10 has nothing of the hub v100. Its tables may be a tracking store that
other hubs use too, and such tables stay.
"""

from collections.abc import Iterable

from azure.core.exceptions import HttpResponseError

from state_api.domain.names import hub_key, same_hub
from state_api.storage.tables import error_code, is_no_table
from state_api.taskhubs.account import GONE, StorageAccount
from state_api.taskhubs.backend import Artifact, Found, Kind, SourceError, Trouble

# The app lease comes first: while an app that uses it runs on the hub, that container cannot be deleted, and then
# nothing is.
_CONTAINERS = ("applease", "leases", "largemessages")
_QUEUES = (*(f"control-{number:02}" for number in range(16)), "workitems")
_PARTITIONS, _HISTORY, _INSTANCES = "Partitions", "History", "Instances"


class StorageArtifacts:
    """What there is of task hubs in one storage account. Every method raises SourceError."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account

    async def find(self, task_hub: str) -> Found:
        """What exists of this hub now. Reads the whole instance table to see whether other hubs have rows there."""
        containers = await self.containers_of(task_hub)
        queues = await self.queues_of(task_hub)
        tables = await self.tables_of(task_hub)
        # In the order of their removal: partitions, history, instances.
        partitions = [table for table in tables if _is(table, _PARTITIONS)]
        tracking = tuple(table for table in tables if table not in partitions)
        instances = [table for table in tracking if _is(table, _INSTANCES)]
        own = instances and not await self._has_others(instances[0].name, task_hub)
        return Found((*containers, *queues, *partitions, *(tracking if own else ())), () if own else tracking)

    async def containers_of(self, task_hub: str, role: str = "Contributor") -> list[Artifact]:
        """The hub's containers that exist, in the order of their removal. `role` is what the caller needs there."""
        async with self._account.translated(Kind.CONTAINER, role):
            prefix = f"{hub_key(task_hub)}-"
            containers = [one.name async for one in self._account.blobs().list_containers(name_starts_with=prefix)]
        return _existing(Kind.CONTAINER, (f"{task_hub}-{suffix}" for suffix in _CONTAINERS), containers)

    async def queues_of(self, task_hub: str, role: str = "Contributor") -> list[Artifact]:
        """The hub's queues that exist."""
        async with self._account.translated(Kind.QUEUE, role):
            prefix = f"{hub_key(task_hub)}-"
            queues = [one.name async for one in self._account.queues().list_queues(name_starts_with=prefix)]
        return _existing(Kind.QUEUE, (f"{task_hub}-{suffix}" for suffix in _QUEUES), queues)

    async def queues_are_going(self, task_hub: str) -> bool:
        """Whether the deletion of the hub's control queues has begun: the first is deleted first."""
        first = f"{hub_key(task_hub)}-control-00"
        return all(queue.name != first for queue in await self.queues_of(task_hub))

    async def tables_of(self, task_hub: str, role: str = "Contributor") -> list[Artifact]:
        """The hub's tables that exist, in the order of their removal."""
        async with self._account.translated(Kind.TABLE, role):
            # All of them: names ignore case, but it is not said that a filter on them does, and Azurite's does not
            # (3.37, run).
            tables = [table.name async for table in self._account.tables().list_tables()]
        return _existing(Kind.TABLE, (f"{task_hub}{suffix}" for suffix in (_PARTITIONS, _HISTORY, _INSTANCES)), tables)

    def address(self, kind: Kind) -> str | None:
        """The address of the service that keeps artifacts of this kind, without secrets; None if it is not known."""
        return self._account.address(kind)

    async def remove(self, artifact: Artifact) -> None:
        """Delete it with all it holds; one that is gone already is fine. A name stays taken for a while, 30 s or
        more."""
        async with self._account.translated(artifact.kind):
            try:
                match artifact.kind:
                    case Kind.TABLE:
                        await self._account.tables().delete_table(artifact.name)
                    case Kind.QUEUE:
                        await self._account.queues().delete_queue(artifact.name)
                    case Kind.CONTAINER:
                        # Leases on its blobs do not hold it; only one on itself does.
                        await self._account.blobs().delete_container(artifact.name)
            except HttpResponseError as error:
                code = error_code(error)
                if code == "LeaseIdMissing":
                    raise SourceError(
                        Trouble.FAILED,
                        f"{artifact} is leased: an app still runs on this task hub, or did so a minute ago; stop it, "
                        "and try again",
                    ) from None
                if code not in GONE:
                    raise

    async def _has_others(self, table: str, task_hub: str) -> bool:
        """Whether rows of other hubs are in this instance table. Rows without a hub's name are nobody else's."""
        # The filter minds case, so what it lets through is looked at again. It spares the transfer of the hub's own
        # rows, under the names that they most likely have: as it is known here, and as the table was made.
        rows = (
            self._account.tables()
            .get_table_client(table)
            .query_entities(
                "TaskHubName ne @known and TaskHubName ne @made",
                parameters={"known": task_hub, "made": table[: -len(_INSTANCES)]},
                select=["TaskHubName"],
            )
        )
        async with self._account.translated(Kind.TABLE):
            try:
                async for page in rows.by_page():
                    async for row in page:
                        hub = row.get("TaskHubName")
                        if hub and not same_hub(str(hub), task_hub):
                            return True
            except HttpResponseError as error:
                if not is_no_table(error):
                    raise
        return False


def _is(table: Artifact, suffix: str) -> bool:
    return table.name.lower().endswith(suffix.lower())


def _existing(kind: Kind, wanted: Iterable[str], names: Iterable[str | None]) -> list[Artifact]:
    """Those of the wanted names that exist, in the order wanted, whatever their case."""
    found = {name.lower(): name for name in names if name is not None}
    return [Artifact(kind, found[name.lower()]) for name in wanted if name.lower() in found]
