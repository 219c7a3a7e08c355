"""Task hubs of a scheduler (Durable Task Scheduler), which are resources in Azure. Hides the commands of `az`, which
needs its extension `durabletask`."""

from collections.abc import Mapping
from typing import Any

from safe_deploy.azure_cli import (
    AZ_TIMEOUT_SECONDS,
    AzureCli,
    AzureResource,
    AzureResourceNotFound,
    AzureUnavailable,
    require_valid_name,
)

_CHANGE_TIMEOUT_SECONDS = 600
"""How long the creation or the deletion of a task hub may take. `az` waits until Azure has done it."""


_SUCCEEDED = "Succeeded"
"""The provisioning state of a task hub that can be used."""


class SchedulerTaskHubs:
    """The task hubs of one scheduler. Raises UsageError for an invalid name."""

    def __init__(
        self,
        scheduler: str,
        resource_group: str,
        *,
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = AZ_TIMEOUT_SECONDS,
    ) -> None:
        require_valid_name("scheduler", scheduler)
        require_valid_name("resource group", resource_group)
        self._scheduler = scheduler
        self._resource_group = resource_group
        self._az = AzureCli(environment=environment, timeout_seconds=timeout_seconds)

    def create(self, task_hub: str) -> None:
        """Create a task hub, unless it exists. Raises AzureUnavailable, also if it is not usable afterwards."""
        resource = self._describe(task_hub, "create")
        if self._read_state(task_hub) != _SUCCEEDED:
            self._az.change(
                "durabletask taskhub create",
                self._name_options(task_hub),
                resource,
                timeout_seconds=_CHANGE_TIMEOUT_SECONDS,
            )
        state = self._read_state(task_hub)
        if state != _SUCCEEDED:
            raise AzureUnavailable(
                f"{resource.description} is not usable: its provisioning state is {_describe_state(state)}. Wait until "
                "Azure has created it, and run the command again."
            )

    def delete(self, task_hub: str) -> None:
        """Delete a task hub with everything in it, unless it is gone. Raises AzureUnavailable."""
        if self._read_state(task_hub) is None:
            return
        resource = self._describe(task_hub, "delete")
        self._az.change(
            "durabletask taskhub delete",
            {**self._name_options(task_hub), "--yes": ()},
            resource,
            timeout_seconds=_CHANGE_TIMEOUT_SECONDS,
        )
        if self._read_state(task_hub) is not None:
            raise AzureUnavailable(
                f"az has deleted {resource.description}, but Azure still shows it. Run the command again."
            )

    def read_endpoint(self) -> str | None:
        """The address of the scheduler, such as https://shop-dts.westeurope.durabletask.io; None if `az` does not show
        it. Raises AzureUnavailable."""
        endpoint = self._show_scheduler().get("endpoint")
        return endpoint if isinstance(endpoint, str) and endpoint else None

    def _read_state(self, task_hub: str) -> str | None:
        """The provisioning state of a task hub, None if the scheduler has no such task hub. Raises AzureUnavailable,
        also if there is no such scheduler."""
        try:
            response = self._az.query(
                "durabletask taskhub show",
                {**self._name_options(task_hub), "--query": "{state:properties.provisioningState}"},
                self._describe(task_hub, "read"),
            )
        except AzureResourceNotFound:
            # Azure says the same if the scheduler does not exist. A wrong name must not pass for a deleted task hub.
            self._show_scheduler()
            return None
        return str(response.get("state"))

    def _show_scheduler(self) -> dict[str, Any]:
        """The endpoint of the scheduler. Raises AzureUnavailable if Azure has no such scheduler."""
        description = f"scheduler {self._scheduler!r} in resource group {self._resource_group!r}"
        return self._az.query(
            "durabletask scheduler show",
            {
                "--resource-group": self._resource_group,
                "--name": self._scheduler,
                "--query": "{endpoint:properties.endpoint}",
            },
            AzureResource(
                description=description,
                check="--scheduler and --resource-group",
                permission=f"read {description}. Give its identity the role Reader on the scheduler",
            ),
        )

    def _name_options(self, task_hub: str) -> dict[str, str | tuple[str, ...] | None]:
        """The options of `az` that name the task hub. Raises UsageError for a name that Azure does not allow."""
        require_valid_name("task hub", task_hub)
        return {"--resource-group": self._resource_group, "--scheduler-name": self._scheduler, "--name": task_hub}

    def _describe(self, task_hub: str, action: str) -> AzureResource:
        """The task hub in the messages of a failed command: what it is, what to check, and which permission it
        needs."""
        description = f"task hub {task_hub!r} of scheduler {self._scheduler!r} in {self._resource_group!r}"
        return AzureResource(
            description=description,
            check="--task-hub, --scheduler and --resource-group",
            permission=f"{action} {description}. Give its identity the role Contributor on the scheduler",
        )


def _describe_state(state: str | None) -> str:
    """The provisioning state in a message. `None` is what `az` prints for a value that is missing."""
    return "unknown" if state in (None, "None") else str(state)
