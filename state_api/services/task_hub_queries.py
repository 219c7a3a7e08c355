"""What operators read of a task hub: its app and slot, its instances and their versions."""

from dataclasses import dataclass

from state_api.domain.errors import ProbeNotConfigured, TaskHubUnavailable
from state_api.domain.readiness.evidence import InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.verdict import DEFAULT_RETRY_AFTER_SECONDS
from state_api.domain.releases import refusals
from state_api.domain.releases.apps import TaskHubHolder
from state_api.domain.task_hubs.delivery_checks import DeliveryCheck, current_checks
from state_api.domain.task_hubs.lifecycle import Instance, RuntimeStatus
from state_api.services.ports import (
    Apps,
    Clock,
    DeliveryChecks,
    Instances,
    Page,
    Quarantine,
    TaskHubRecord,
    TaskHubs,
)
from state_api.services.readiness import Readiness


@dataclass(frozen=True, slots=True)
class TaskHubStatus:
    """A task hub, the slot or release that has it now, and what is active in it, without the exemptions of any policy.

    If `has_waiting_events`, events of the task hub wait in quarantine until an app claims it. `delivery_checks` are
    those whose lifetime has not ended, the latest first."""

    record: TaskHubRecord
    holder: TaskHubHolder | None
    activity: InstanceActivity
    has_waiting_events: bool = False
    delivery_checks: tuple[DeliveryCheck, ...] = ()


class TaskHubQueries:
    """Reads for operators. None of them changes anything that a verdict depends on."""

    def __init__(
        self,
        *,
        apps: Apps,
        task_hubs: TaskHubs,
        instances: Instances,
        quarantine: Quarantine,
        delivery_checks: DeliveryChecks,
        readiness: Readiness,
        clock: Clock,
    ) -> None:
        self._apps = apps
        self._task_hubs = task_hubs
        self._instances = instances
        self._quarantine = quarantine
        self._delivery_checks = delivery_checks
        self._readiness = readiness
        self._clock = clock

    async def get_claiming_app(self, name: str) -> str | None:
        """The app that has claimed a task hub; None if it is unclaimed. Raises TaskHubNotFound."""
        return (await self._get_task_hub(name)).app

    async def get_task_hub(self, name: str) -> TaskHubStatus:
        """The task hub as this server knows it. Raises TaskHubNotFound."""
        record = await self._task_hubs.get(name)
        waiting_events = await self._quarantine.list_waiting(name, 1) if record is None or record.app is None else []
        if record is None:
            if not waiting_events:
                raise refusals.task_hub_not_found(name).to_error()
            task_hub = waiting_events[0].task_hub or name
            empty_record = TaskHubRecord(task_hub, shards=0, app=None, recording=False, closed=False)
            return TaskHubStatus(empty_record, None, InstanceActivity(), has_waiting_events=True)
        app = await self._apps.get(record.app) if record.app else None
        holder = app.find_holder(record.name) if app else None
        activity = await self._readiness.read_activity(record.name, Policy())
        return TaskHubStatus(
            record,
            holder,
            activity,
            has_waiting_events=bool(waiting_events),
            delivery_checks=await self._list_delivery_checks(record),
        )

    async def _list_delivery_checks(self, record: TaskHubRecord) -> tuple[DeliveryCheck, ...]:
        """The delivery checks whose lifetime has not ended. Only task hubs that an app has claimed have any."""
        if record.app is None or record.closed:
            return ()
        return current_checks(await self._delivery_checks.list_checks(record.name), self._clock.now())

    async def count_versions(self, name: str, verify: VerificationMode) -> tuple[TaskHubRecord, ProbeResult]:
        """A probe that counts active instances by version: a complete one, or an incomplete one that a repeated call
        continues. Raises TaskHubNotFound, ProbeNotConfigured, TaskHubUnavailable."""
        record = await self._get_task_hub(name)
        app = await self._apps.get(record.app) if record.app else None
        if app is None or app.provider_config is None:
            raise ProbeNotConfigured(
                f"the server does not know where task hub {record.name} lives. Set taskHubs of its app with PutApp",
                taskHub=record.name,
            )
        probe = await self._readiness.probe_regardless_of_activity(app, record.name, verify)
        if probe.status not in (ProbeStatus.COMPLETE, ProbeStatus.INCOMPLETE):
            raise TaskHubUnavailable(
                f"task hub {record.name} cannot be read: {probe.message}. Retry later",
                probe.retry_after_seconds or DEFAULT_RETRY_AFTER_SECONDS,
                taskHub=record.name,
            )
        return record, probe

    async def list_instances(
        self, name: str, *, active: bool | None, status: RuntimeStatus | None, top: int, token: str | None
    ) -> tuple[TaskHubRecord, Page[Instance]]:
        """Up to `top` instances of the task hub, the active ones first; `active` and `status` filter them.

        Raises TaskHubNotFound, and InvalidRequest for a token that this list did not return."""
        record = await self._get_task_hub(name)
        return record, await self._instances.list_page(record, active=active, status=status, top=top, token=token)

    async def check_storage(self) -> None:
        """Raises StorageUnavailable unless the storage answers."""
        await self._task_hubs.ping()

    async def _get_task_hub(self, name: str) -> TaskHubRecord:
        """The record of the task hub. Raises TaskHubNotFound."""
        record = await self._task_hubs.get(name)
        if record is None:
            raise refusals.task_hub_not_found(name).to_error()
        return record
