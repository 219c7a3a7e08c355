"""The tables, queues and containers of a task hub in a storage account: finds and deletes them (docs/platform.md, Task
hubs on Azure Storage). Hides their names and the order of their deletion.

Only exact names match, never a prefix: nothing of the task hub v100 belongs to v10. A task hub's tables may be a
tracking store that other task hubs use; such tables are not deleted.
"""

from collections.abc import Iterable

from azure.core.exceptions import HttpResponseError

from state_api.backends.protocols import Artifact, ArtifactKind, BackendError, ReadFailure, TaskHubArtifacts
from state_api.backends.storage_account import StorageAccount
from state_api.backends.storage_errors import NOT_FOUND_CODES, DataRole
from state_api.domain.names import hub_key, same_hub
from state_api.storage.tables import error_code, is_table_missing

# The app lease is first: its container cannot be deleted while an app that uses it runs on the task hub, and then
# nothing else is deleted either.
_CONTAINER_SUFFIXES = ("applease", "leases", "largemessages")
_QUEUE_SUFFIXES = (*(f"control-{number:02}" for number in range(16)), "workitems")
_PARTITIONS_SUFFIX, _HISTORY_SUFFIX, _INSTANCES_SUFFIX = "Partitions", "History", "Instances"


class StorageArtifactStore:
    """Finds and deletes what task hubs consist of in one storage account. Every method but `service_address` raises
    BackendError. `role` is what this server needs for the call."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account

    async def find_artifacts(self, task_hub: str) -> TaskHubArtifacts:
        """Return what exists of this task hub now. Reads the whole instance table to see whether other task hubs have
        rows there."""
        containers = await self.find_containers(task_hub)
        queues = await self.find_queues(task_hub)
        tables = await self.find_tables(task_hub)
        # In the order of deletion: partitions, history, instances.
        partitions = [table for table in tables if _has_suffix(table, _PARTITIONS_SUFFIX)]
        tracking = tuple(table for table in tables if table not in partitions)
        instances = [table for table in tracking if _has_suffix(table, _INSTANCES_SUFFIX)]
        is_unshared = instances and not await self._has_other_task_hubs(instances[0].name, task_hub)
        return TaskHubArtifacts(
            (*containers, *queues, *partitions, *(tracking if is_unshared else ())), () if is_unshared else tracking
        )

    async def find_containers(self, task_hub: str, role: DataRole = "Contributor") -> list[Artifact]:
        """Return the task hub's containers that exist, in the order of deletion."""
        async with self._account.translate_errors(ArtifactKind.CONTAINER, role):
            containers = self._account.blob_service().list_containers(name_starts_with=f"{hub_key(task_hub)}-")
            names = [container.name async for container in containers]
        return _select_existing(
            ArtifactKind.CONTAINER, (f"{task_hub}-{suffix}" for suffix in _CONTAINER_SUFFIXES), names
        )

    async def find_queues(self, task_hub: str, role: DataRole = "Contributor") -> list[Artifact]:
        """Return the task hub's queues that exist, in the order of deletion."""
        async with self._account.translate_errors(ArtifactKind.QUEUE, role):
            queues = self._account.queue_service().list_queues(name_starts_with=f"{hub_key(task_hub)}-")
            names = [queue.name async for queue in queues]
        return _select_existing(ArtifactKind.QUEUE, (f"{task_hub}-{suffix}" for suffix in _QUEUE_SUFFIXES), names)

    async def has_queue_deletion_begun(self, task_hub: str) -> bool:
        """Return whether the first control queue is gone. It is the first to be deleted."""
        first = f"{hub_key(task_hub)}-control-00"
        return all(queue.name != first for queue in await self.find_queues(task_hub))

    async def find_tables(self, task_hub: str, role: DataRole = "Contributor") -> list[Artifact]:
        """Return the task hub's tables that exist, in the order of deletion."""
        async with self._account.translate_errors(ArtifactKind.TABLE, role):
            # Lists all tables: names ignore case, but filters on them may not (those of Azurite 3.37 do not, run).
            names = [table.name async for table in self._account.table_service().list_tables()]
        return _select_existing(
            ArtifactKind.TABLE,
            (f"{task_hub}{suffix}" for suffix in (_PARTITIONS_SUFFIX, _HISTORY_SUFFIX, _INSTANCES_SUFFIX)),
            names,
        )

    def service_address(self, kind: ArtifactKind) -> str | None:
        """Return the address of the service for this kind of artifact, without secrets; None if it is not known."""
        return self._account.service_address(kind)

    async def delete(self, artifact: Artifact) -> None:
        """Delete an artifact with its content. Does nothing if the artifact is already gone. Azure does not allow the
        name again for 30 s or more."""
        async with self._account.translate_errors(artifact.kind):
            try:
                match artifact.kind:
                    case ArtifactKind.TABLE:
                        await self._account.table_service().delete_table(artifact.name)
                    case ArtifactKind.QUEUE:
                        await self._account.queue_service().delete_queue(artifact.name)
                    case ArtifactKind.CONTAINER:
                        # Leases on blobs do not prevent the deletion of their container; a lease on it does.
                        await self._account.blob_service().delete_container(artifact.name)
            except HttpResponseError as error:
                code = error_code(error)
                if code == "LeaseIdMissing":
                    raise BackendError(
                        ReadFailure.FAILED,
                        f"{artifact} is leased: an app still runs on this task hub, or stopped less than a minute ago. "
                        "Stop the app and try again",
                    ) from None
                if code not in NOT_FOUND_CODES:
                    raise

    async def _has_other_task_hubs(self, table_name: str, task_hub: str) -> bool:
        """Return whether this instance table has rows of other task hubs. A row without a task hub's name counts as
        this task hub's."""
        # The filter saves the transfer of the task hub's own rows under the names that they most likely have: as this
        # server knows it, and as the table spells it. It compares with case, so each row is compared again without.
        rows = (
            self._account.table_service()
            .get_table_client(table_name)
            .query_entities(
                "TaskHubName ne @known and TaskHubName ne @spelled",
                parameters={"known": task_hub, "spelled": table_name[: -len(_INSTANCES_SUFFIX)]},
                select=["TaskHubName"],
            )
        )
        async with self._account.translate_errors(ArtifactKind.TABLE):
            try:
                async for page in rows.by_page():
                    async for row in page:
                        row_task_hub = row.get("TaskHubName")
                        if row_task_hub and not same_hub(str(row_task_hub), task_hub):
                            return True
            except HttpResponseError as error:
                if not is_table_missing(error):
                    raise
        return False


def _has_suffix(table: Artifact, suffix: str) -> bool:
    """Whether the name of the table ends like this. Azure ignores the case of table names."""
    return table.name.lower().endswith(suffix.lower())


def _select_existing(
    kind: ArtifactKind, expected_names: Iterable[str], existing_names: Iterable[str | None]
) -> list[Artifact]:
    """Return those of the expected artifacts that exist, in the expected order, compared without case."""
    spellings = {name.lower(): name for name in existing_names if name is not None}
    return [Artifact(kind, spellings[name.lower()]) for name in expected_names if name.lower() in spellings]
