"""The task hubs that the state server reads. docs/azure.md says what each member means."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_PREFIX = "STATE_TASKHUBS_"


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaskHubs:
    """Task hubs at any provider. Raises ValueError for a connection that the server would refuse."""

    connection: str

    def __post_init__(self) -> None:
        if not self.connection.startswith(_PREFIX):
            raise ValueError(f"connection {self.connection}: the name must begin with {_PREFIX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureStorageTaskHubs(_TaskHubs):
    """The task hubs in a storage account. Without `subscription`, it is that of the server."""

    storage_account: str
    resource_group: str
    subscription: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerTaskHubs(_TaskHubs):
    """The task hubs of a Durable Task Scheduler. Without `subscription`, it is that of the server."""

    scheduler: str
    endpoint: str
    resource_group: str
    subscription: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagementApiTaskHubs(_TaskHubs):
    """The task hub of an app that answers by its management API. The secret in the server's vault holds its key."""

    endpoint: str
    key_secret: str


TaskHubs = AzureStorageTaskHubs | SchedulerTaskHubs | ManagementApiTaskHubs

_PROVIDERS: Mapping[str, type[TaskHubs]] = {
    "azureStorage": AzureStorageTaskHubs,
    "scheduler": SchedulerTaskHubs,
    "managementApi": ManagementApiTaskHubs,
}
_MEMBERS = {"storageAccount": "storage_account", "resourceGroup": "resource_group", "keySecret": "key_secret"}


def read_task_hubs(entries: Iterable[Mapping[str, Any]]) -> list[TaskHubs]:
    """Read the entries of the list `GUARDED_TASK_HUBS` of docs/azure.md.

    Raises ValueError for an unknown provider, or a connection that the server would refuse, and TypeError for a member
    that is missing or unknown."""
    task_hubs: list[TaskHubs] = []
    for entry in entries:
        members = {_MEMBERS.get(member, member): value for member, value in entry.items()}
        provider = members.pop("provider", None)
        if provider not in _PROVIDERS:
            raise ValueError(f"provider {provider}: must be one of {', '.join(_PROVIDERS)}")
        task_hubs.append(_PROVIDERS[provider](**members))
    return task_hubs
