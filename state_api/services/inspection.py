"""What operators look up: a task hub, its instances, the quarantine, and whether the storage answers."""

from dataclasses import dataclass

from state_api.domain.errors import ProbeNotConfigured, SourceUnavailable, TaskHubNotFound
from state_api.domain.evidence import Activity, ProbeResult, ProbeStatus
from state_api.domain.lifecycle import Instance, RuntimeStatus
from state_api.domain.readiness import Policy
from state_api.services.ports import Apps, Instances, Page, Quarantine, Quarantined, TaskHubRecord, TaskHubs
from state_api.services.questions import Verify
from state_api.services.readiness import Readiness


@dataclass(frozen=True, slots=True)
class TaskHubStatus:
    """A task hub, the slot that holds it now, and what is active in it, whatever any policy says. `waiting` says that
    events of it wait in quarantine until an app claims it."""

    hub: TaskHubRecord
    slot: str | None
    activity: Activity
    waiting: bool = False


class Inspection:
    def __init__(
        self, apps: Apps, task_hubs: TaskHubs, instances: Instances, quarantine: Quarantine, readiness: Readiness
    ) -> None:
        self._apps = apps
        self._task_hubs = task_hubs
        self._instances = instances
        self._quarantine = quarantine
        self._readiness = readiness

    async def app_of(self, name: str) -> str | None:
        """The app that has claimed a task hub; None if nobody has. Raises TaskHubNotFound."""
        return (await self._hub(name)).app

    async def task_hub(self, name: str) -> TaskHubStatus:
        """Raises TaskHubNotFound."""
        hub = await self._task_hubs.get(name)
        waiting = await self._quarantine.waiting(name, 1) if hub is None or hub.app is None else []
        if hub is None:
            if not waiting:
                raise _not_found(name)
            nothing = TaskHubRecord(waiting[0].task_hub or name, shards=0, app=None, recording=False, closed=False)
            return TaskHubStatus(nothing, None, Activity(), waiting=True)
        app = await self._apps.get(hub.app) if hub.app else None
        slot = app.slot_of(hub.name) if app else None
        return TaskHubStatus(hub, slot, await self._readiness.activity(hub.name, Policy()), bool(waiting))

    async def versions(self, name: str, verify: Verify) -> tuple[TaskHubRecord, ProbeResult]:
        """A complete probe of the hub, or one that is still on its way. Raises TaskHubNotFound, ProbeNotConfigured,
        SourceUnavailable."""
        hub = await self._hub(name)
        app = await self._apps.get(hub.app) if hub.app else None
        if app is None or app.task_hubs is None:
            raise ProbeNotConfigured(
                f"nothing says where task hub {hub.name} lives: give its app taskHubs with PutApp", taskHub=hub.name
            )
        probe = await self._readiness.count(app, hub.name, verify)
        if probe.status not in (ProbeStatus.COMPLETE, ProbeStatus.INCOMPLETE):
            raise SourceUnavailable(
                f"task hub {hub.name} cannot be read: {probe.message}", probe.retry_after or 10, taskHub=hub.name
            )
        return hub, probe

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
            raise _not_found(name)
        return hub


def _not_found(task_hub: str) -> TaskHubNotFound:
    return TaskHubNotFound(f"nothing is known of task hub {task_hub}", taskHub=task_hub)
