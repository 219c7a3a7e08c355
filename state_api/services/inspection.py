"""What operators look up: a task hub, its instances, the quarantine, and whether the storage answers."""

from dataclasses import dataclass

from state_api.domain.errors import ProbeNotConfigured, TaskHubNotFound, TaskHubUnavailable
from state_api.domain.readiness.evidence import InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.policy import Policy
from state_api.domain.task_hubs.lifecycle import Instance, RuntimeStatus
from state_api.services.ports import Apps, Instances, Page, Quarantine, QuarantinedEvent, TaskHubRecord, TaskHubs
from state_api.services.probe_requests import VerificationMode
from state_api.services.readiness import Readiness


@dataclass(frozen=True, slots=True)
class TaskHubStatus:
    """A task hub, the slot that holds it now, and what is active in it, whatever any policy says. `waiting` says that
    events of it wait in quarantine until an app claims it."""

    record: TaskHubRecord
    slot: str | None
    activity: InstanceActivity
    has_waiting_events: bool = False


class Inspection:
    def __init__(
        self, apps: Apps, task_hubs: TaskHubs, instances: Instances, quarantine: Quarantine, readiness: Readiness
    ) -> None:
        self._apps = apps
        self._task_hubs = task_hubs
        self._instances = instances
        self._quarantine = quarantine
        self._readiness = readiness

    async def get_claiming_app(self, name: str) -> str | None:
        """The app that has claimed a task hub; None if nobody has. Raises TaskHubNotFound."""
        return (await self._get_task_hub(name)).app

    async def get_task_hub(self, name: str) -> TaskHubStatus:
        """Raises TaskHubNotFound."""
        hub = await self._task_hubs.get(name)
        waiting = await self._quarantine.list_waiting(name, 1) if hub is None or hub.app is None else []
        if hub is None:
            if not waiting:
                raise _not_found(name)
            nothing = TaskHubRecord(waiting[0].task_hub or name, shards=0, app=None, recording=False, closed=False)
            return TaskHubStatus(nothing, None, InstanceActivity(), has_waiting_events=True)
        app = await self._apps.get(hub.app) if hub.app else None
        slot = app.slot_holding(hub.name) if app else None
        return TaskHubStatus(hub, slot, await self._readiness.read_activity(hub.name, Policy()), bool(waiting))

    async def count_versions(self, name: str, verify: VerificationMode) -> tuple[TaskHubRecord, ProbeResult]:
        """A complete probe of the hub, or one that is still on its way. Raises TaskHubNotFound, ProbeNotConfigured,
        TaskHubUnavailable."""
        hub = await self._get_task_hub(name)
        app = await self._apps.get(hub.app) if hub.app else None
        if app is None or app.provider_config is None:
            raise ProbeNotConfigured(
                f"nothing says where task hub {hub.name} lives: give its app taskHubs with PutApp", taskHub=hub.name
            )
        probe = await self._readiness.probe_completely(app, hub.name, verify)
        if probe.status not in (ProbeStatus.COMPLETE, ProbeStatus.INCOMPLETE):
            raise TaskHubUnavailable(
                f"task hub {hub.name} cannot be read: {probe.message}",
                probe.retry_after_seconds or 10,
                taskHub=hub.name,
            )
        return hub, probe

    async def list_instances(
        self, name: str, active: bool | None, status: RuntimeStatus | None, top: int, token: str | None
    ) -> tuple[TaskHubRecord, Page[Instance]]:
        """Raises TaskHubNotFound, InvalidRequest for a foreign token."""
        hub = await self._get_task_hub(name)
        return hub, await self._instances.list_page(hub, active=active, status=status, top=top, token=token)

    async def list_quarantine(self, top: int, token: str | None) -> Page[QuarantinedEvent]:
        return await self._quarantine.list_page(top, token)

    async def check_storage(self) -> None:
        """Raises StorageUnavailable unless the storage answers."""
        await self._task_hubs.ping()

    async def _get_task_hub(self, name: str) -> TaskHubRecord:
        hub = await self._task_hubs.get(name)
        if hub is None:
            raise _not_found(name)
        return hub


def _not_found(task_hub: str) -> TaskHubNotFound:
    return TaskHubNotFound(f"nothing is known of task hub {task_hub}", taskHub=task_hub)
