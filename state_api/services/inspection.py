"""What operators look up: a task hub, its instances, the quarantine, and whether the storage answers."""

from dataclasses import dataclass

from state_api.domain.errors import TaskHubNotFound
from state_api.domain.lifecycle import Instance, RuntimeStatus
from state_api.domain.readiness import Activity, Policy
from state_api.services.ports import Apps, Instances, Page, Quarantine, Quarantined, TaskHubRecord, TaskHubs
from state_api.services.readiness import Readiness


@dataclass(frozen=True, slots=True)
class TaskHubStatus:
    """A task hub, the slot that holds it now, and what is active in it, whatever any policy says."""

    hub: TaskHubRecord
    slot: str | None
    activity: Activity


class Inspection:
    def __init__(
        self, apps: Apps, task_hubs: TaskHubs, instances: Instances, quarantine: Quarantine, readiness: Readiness
    ) -> None:
        self._apps = apps
        self._task_hubs = task_hubs
        self._instances = instances
        self._quarantine = quarantine
        self._readiness = readiness

    async def task_hub(self, name: str) -> TaskHubStatus:
        """Raises TaskHubNotFound."""
        hub = await self._hub(name)
        app = await self._apps.get(hub.app) if hub.app else None
        return TaskHubStatus(
            hub, app.slot_of(hub.name) if app else None, await self._readiness.activity(hub.name, Policy())
        )

    async def instances(
        self, name: str, active: bool | None, status: RuntimeStatus | None, top: int, token: str | None
    ) -> tuple[TaskHubRecord, Page[Instance]]:
        """Raises TaskHubNotFound, InvalidRequest for a foreign token."""
        hub = await self._hub(name)
        return hub, await self._instances.page(hub, active, status, top, token)

    async def quarantine(self, top: int, token: str | None) -> Page[Quarantined]:
        return await self._quarantine.page(top, token)

    async def check_storage(self) -> None:
        """Raises StorageUnavailable unless the storage answers."""
        await self._task_hubs.ping()

    async def _hub(self, name: str) -> TaskHubRecord:
        hub = await self._task_hubs.get(name)
        if hub is None:
            raise TaskHubNotFound(f"nothing is known of task hub {name}", taskHub=name)
        return hub
