"""What a task hub leaves in the storage account of its app: which tables, queues and containers are its own, and how
they are removed (PLATFORM: Task hubs on Azure Storage).

Only exact names count, never a prefix: the hub v10 has nothing of the hub v100. Its tables may be a tracking store that
other hubs use too, and such tables stay.
"""

from collections.abc import Iterable

from azure.core.exceptions import HttpResponseError

from state_api.backends.protocols import Artifact, ArtifactKind, BackendError, ReadFailure, TaskHubArtifacts
from state_api.backends.storage_account import NOT_FOUND_CODES, StorageAccount
from state_api.domain.names import hub_key, same_hub
from state_api.storage.tables import error_code, is_table_missing

# The app lease comes first: while an app that uses it runs on the hub, that container cannot be deleted, and then
# nothing is.
_CONTAINER_SUFFIXES = ("applease", "leases", "largemessages")
_QUEUE_SUFFIXES = (*(f"control-{number:02}" for number in range(16)), "workitems")
_PARTITIONS_SUFFIX, _HISTORY_SUFFIX, _INSTANCES_SUFFIX = "Partitions", "History", "Instances"


class StorageArtifactStore:
    """What there is of task hubs in one storage account. Every method raises BackendError."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account

    async def find_artifacts(self, task_hub: str) -> TaskHubArtifacts:
        """What exists of this hub now. Reads the whole instance table to see whether other hubs have rows there."""
        containers = await self.find_containers(task_hub)
        queues = await self.find_queues(task_hub)
        tables = await self.find_tables(task_hub)
        # In the order of their removal: partitions, history, instances.
        partitions = [table for table in tables if _has_suffix(table, _PARTITIONS_SUFFIX)]
        tracking = tuple(table for table in tables if table not in partitions)
        instances = [table for table in tracking if _has_suffix(table, _INSTANCES_SUFFIX)]
        deletable = instances and not await self._has_other_task_hubs(instances[0].name, task_hub)
        return TaskHubArtifacts(
            (*containers, *queues, *partitions, *(tracking if deletable else ())), () if deletable else tracking
        )

    async def find_containers(self, task_hub: str, role: str = "Contributor") -> list[Artifact]:
        """The hub's containers that exist, in the order of their removal. `role` is what the caller needs there."""
        async with self._account.translate_errors(ArtifactKind.CONTAINER, role):
            prefix = f"{hub_key(task_hub)}-"
            containers = [
                one.name async for one in self._account.blob_service().list_containers(name_starts_with=prefix)
            ]
        return _select_existing(
            ArtifactKind.CONTAINER, (f"{task_hub}-{suffix}" for suffix in _CONTAINER_SUFFIXES), containers
        )

    async def find_queues(self, task_hub: str, role: str = "Contributor") -> list[Artifact]:
        """The hub's queues that exist."""
        async with self._account.translate_errors(ArtifactKind.QUEUE, role):
            prefix = f"{hub_key(task_hub)}-"
            queues = [one.name async for one in self._account.queue_service().list_queues(name_starts_with=prefix)]
        return _select_existing(ArtifactKind.QUEUE, (f"{task_hub}-{suffix}" for suffix in _QUEUE_SUFFIXES), queues)

    async def has_queue_deletion_begun(self, task_hub: str) -> bool:
        """Whether the deletion of the hub's control queues has begun: the first is deleted first."""
        first = f"{hub_key(task_hub)}-control-00"
        return all(queue.name != first for queue in await self.find_queues(task_hub))

    async def find_tables(self, task_hub: str, role: str = "Contributor") -> list[Artifact]:
        """The hub's tables that exist, in the order of their removal."""
        async with self._account.translate_errors(ArtifactKind.TABLE, role):
            # All of them: names ignore case, but it is not said that a filter on them does, and Azurite's does not
            # (3.37, run).
            tables = [table.name async for table in self._account.table_service().list_tables()]
        return _select_existing(
            ArtifactKind.TABLE,
            (f"{task_hub}{suffix}" for suffix in (_PARTITIONS_SUFFIX, _HISTORY_SUFFIX, _INSTANCES_SUFFIX)),
            tables,
        )

    def service_address(self, kind: ArtifactKind) -> str | None:
        """The address of the service that keeps artifacts of this kind, without secrets; None if it is not known."""
        return self._account.service_address(kind)

    async def delete(self, artifact: Artifact) -> None:
        """Delete it with all it holds; one that is gone already is fine. A name stays taken for a while, 30 s or
        more."""
        async with self._account.translate_errors(artifact.kind):
            try:
                match artifact.kind:
                    case ArtifactKind.TABLE:
                        await self._account.table_service().delete_table(artifact.name)
                    case ArtifactKind.QUEUE:
                        await self._account.queue_service().delete_queue(artifact.name)
                    case ArtifactKind.CONTAINER:
                        # Leases on its blobs do not hold it; only one on itself does.
                        await self._account.blob_service().delete_container(artifact.name)
            except HttpResponseError as error:
                code = error_code(error)
                if code == "LeaseIdMissing":
                    raise BackendError(
                        ReadFailure.FAILED,
                        f"{artifact} is leased: an app still runs on this task hub, or did so a minute ago; stop it, "
                        "and try again",
                    ) from None
                if code not in NOT_FOUND_CODES:
                    raise

    async def _has_other_task_hubs(self, table: str, task_hub: str) -> bool:
        """Whether rows of other hubs are in this instance table. Rows without a hub's name are nobody else's."""
        # The filter minds case, so what it lets through is looked at again. It spares the transfer of the hub's own
        # rows, under the names that they most likely have: as it is known here, and as the table was made.
        rows = (
            self._account.table_service()
            .get_table_client(table)
            .query_entities(
                "TaskHubName ne @known and TaskHubName ne @made",
                parameters={"known": task_hub, "made": table[: -len(_INSTANCES_SUFFIX)]},
                select=["TaskHubName"],
            )
        )
        async with self._account.translate_errors(ArtifactKind.TABLE):
            try:
                async for page in rows.by_page():
                    async for row in page:
                        hub = row.get("TaskHubName")
                        if hub and not same_hub(str(hub), task_hub):
                            return True
            except HttpResponseError as error:
                if not is_table_missing(error):
                    raise
        return False


def _has_suffix(table: Artifact, suffix: str) -> bool:
    return table.name.lower().endswith(suffix.lower())


def _select_existing(kind: ArtifactKind, expected_names: Iterable[str], names: Iterable[str | None]) -> list[Artifact]:
    """Those of the wanted names that exist, in the order wanted, whatever their case."""
    found = {name.lower(): name for name in names if name is not None}
    return [Artifact(kind, found[name.lower()]) for name in expected_names if name.lower() in found]
