"""Task hubs on Durable Task Scheduler, or on any other server of its `TaskHubSidecarService` (docs/platform.md, Other
durable backends). Hides the protocol's messages.

The protocol has no filter for changes. So a scan is two passes: over all active instances, then over all instances that
were created since the scan began, with any status. If one instance starts another and ends during the first pass,
and neither is active when it is read, the second pass finds the other.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from state_api.backends.protocols import BackendError, ObservedPage, ReadFailure, ReadStorageTime, ScanStart
from state_api.backends.scheduler_client import SchedulerClient
from state_api.backends.scheduler_cursor import SchedulerCursor
from state_api.domain.instants import TICKS_PER_SECOND, Instant, instant_from, seconds
from state_api.domain.names import is_entity
from state_api.domain.readiness.messages import KnownTimers, QueueSnapshot
from state_api.domain.task_hubs.lifecycle import ACTIVE_STATUSES, RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.ownership import ExistingArtifacts

if TYPE_CHECKING:
    from durabletask.internal.orchestrator_service_pb2 import OrchestrationState

PAGE_SIZE = 500
_EXISTENCE_PAGE_SIZE = 10
"""Instances to ask for when one would be enough: a page can contain fewer than were asked for."""
_MAX_CONCURRENT_READS = 16
_CLOCK_SKEW_MARGIN = seconds(60)
"""How far the scheduler's clock may be behind the earlier of two others. Created times are by the scheduler's clock,
which the protocol does not show. A minute is far more than two clocks of Azure differ."""

_STATUSES_BY_NUMBER = (
    RuntimeStatus.RUNNING,
    RuntimeStatus.COMPLETED,
    RuntimeStatus.CONTINUED_AS_NEW,
    RuntimeStatus.FAILED,
    RuntimeStatus.CANCELED,
    RuntimeStatus.TERMINATED,
    RuntimeStatus.PENDING,
    RuntimeStatus.SUSPENDED,
)
"""The members of the protocol's OrchestrationStatus, each at the index of its number."""
_ACTIVE_STATUS_NUMBERS = [number for number, status in enumerate(_STATUSES_BY_NUMBER) if status in ACTIVE_STATUSES]


class SchedulerBackend:
    """Reads the task hubs of the scheduler whose connection string is in the setting `setting_name`. Raises
    SettingsError if the connection string is not valid.

    Read in the source of the in-memory engine (durabletask 1.12). The engine applies runtime statuses, created times
    (from inclusive, to exclusive, in microseconds) and the page size. It shows a continued instance as Pending and
    never returns a version. It starts scheduled instances at once, and ignores the task hub's name.

    A scan misses two changes, because nothing distinguishes them from older ones:

    - An instance was created before the scan and ends before its page is read.
    - An instance is rewound after its page was read.
    """

    provider = "scheduler"
    shows_messages = True
    artifacts = None

    def __init__(
        self,
        connection_string: str,
        setting_name: str,
        page_size: int = PAGE_SIZE,
        *,
        storage_time: ReadStorageTime,
    ) -> None:
        """Prepare a client of the scheduler."""
        self._storage_time = storage_time
        self._client = SchedulerClient(connection_string, setting_name)
        self._page_size = page_size
        self._concurrency_limit = asyncio.Semaphore(_MAX_CONCURRENT_READS)

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self._client.address,)

    async def find_existing(self, task_hub: str) -> ExistingArtifacts | None:
        """Look for any instance, entities included. A task hub that the scheduler does not have is as new as an empty
        one: on a scheduler it must be created before the app starts."""
        token: str | None = None
        while True:
            query = {"maxInstanceCount": _EXISTENCE_PAGE_SIZE, "continuationToken": {"value": token} if token else None}
            try:
                response = await self._client.call(task_hub, "QueryInstances", query=query)
            except BackendError as error:
                if error.failure is ReadFailure.MISSING:
                    return ExistingArtifacts((), self.addresses)
                raise
            if response.orchestrationState:
                return ExistingArtifacts((f"orchestration instances in task hub {task_hub}",), self.addresses)
            next_token = _continuation_token(response)
            if next_token in {None, token}:
                return ExistingArtifacts((), self.addresses)
            token = next_token

    async def begin_scan(self, task_hub: str) -> ScanStart:
        """Begin a scan without a call: `changed_since` is by the state storage's clock or by this machine's, the
        earlier, with a margin. The clock of one machine may be wrong. Too early a time makes the scan read a little
        more, and with too late a time its second pass could miss a change."""
        earlier = min(self._storage_time(), instant_from(datetime.now(UTC)))
        changed_since = Instant(earlier - _CLOCK_SKEW_MARGIN)
        return ScanStart(changed_since, (SchedulerCursor().encode(),), (SchedulerCursor(is_recent_pass=True).encode(),))

    async def read_page(self, task_hub: str, changed_since: Instant, cursor: str) -> ObservedPage:
        """Read one page of a pass; `cursor` says where it begins. Returns its instances and the cursors of what is
        left."""
        position = SchedulerCursor.decode(cursor)
        if position.is_recent_pass and position.lower_bound is None:
            position = replace(position, lower_bound=changed_since)
        query = {
            "runtimeStatus": [] if position.is_recent_pass else _ACTIVE_STATUS_NUMBERS,
            "createdTimeFrom": _to_timestamp(position.lower_bound),
            "createdTimeTo": _to_timestamp(position.upper_bound),
            "maxInstanceCount": self._page_size,
            "continuationToken": {"value": position.token} if position.token else None,
        }
        response = await self._client.call(task_hub, "QueryInstances", query=query)
        token = _continuation_token(response)
        if token is not None and token == position.token:
            raise BackendError(
                ReadFailure.FAILED,
                f"the scheduler of the setting {self._client.setting_name} gives the same page of task hub {task_hub} "
                "again and again",
            )
        states = list(response.orchestrationState)
        instances = tuple(_parse_state(state.instanceId, state) for state in states if not is_entity(state.instanceId))
        created_times = [_to_instant(state.createdTimestamp) for state in states]
        next_position = position.next_cursor(created_times, token, self._page_size)
        return ObservedPage(
            instances, (next_position.encode(),) if next_position is not None else (), scanned=len(instances)
        )

    async def find_instances(self, task_hub: str, instance_ids: Sequence[str]) -> Mapping[str, ObservedInstance | None]:
        """Look up each instance by its id. None for one that the task hub does not show, and for an entity."""

        async def find_instance(instance_id: str) -> ObservedInstance | None:
            if is_entity(instance_id):
                return None
            async with self._concurrency_limit:
                response = await self._client.call(task_hub, "GetInstance", instanceId=instance_id)
            return _parse_state(instance_id, response.orchestrationState) if response.exists else None

        try:
            async with asyncio.TaskGroup() as group:
                tasks = {instance_id: group.create_task(find_instance(instance_id)) for instance_id in instance_ids}
        except ExceptionGroup as errors:
            # The first error has cancelled the other tasks.
            raise errors.exceptions[0] from None
        return {instance_id: task.result() for instance_id, task in tasks.items()}

    async def read_queue_snapshot(self, task_hub: str) -> QueueSnapshot | None:
        """Return no messages: an instance exists from the moment it is scheduled.

        The response to a start names the instance. A worker completes a turn with one message, which includes the
        sub-orchestrations that it starts. The in-memory engine creates them and ends their parent under one lock
        (`CompleteOrchestratorTask`). The managed service's source is not public; it takes the same
        message. Signals to entities are not counted: what an entity starts begins when it processes the signal, as at
        any other trigger.
        """
        return QueueSnapshot()

    async def read_timers(self, task_hub: str, known: KnownTimers) -> KnownTimers:
        """Return what is known: a scheduler has no messages of timers."""
        return known

    async def close(self) -> None:
        await self._client.close()


def _continuation_token(response: Any) -> str | None:
    """Return the token of the next page; None at the end. Microsoft's clients take "0" for the end as well."""
    token: str = response.continuationToken.value
    return None if token in {"", "0"} else token


def _parse_state(instance_id: str, state: "OrchestrationState") -> ObservedInstance:
    """Convert an instance. An unknown status counts as Running."""
    number = state.orchestrationStatus
    created, updated = state.createdTimestamp, state.lastUpdatedTimestamp
    return ObservedInstance(
        instance_id=instance_id,
        function_name=state.name,
        version=state.version.value or None,
        runtime_status=_STATUSES_BY_NUMBER[number] if 0 <= number < len(_STATUSES_BY_NUMBER) else RuntimeStatus.RUNNING,
        created_at=_to_instant(created),
        updated_at=_to_instant(updated),
        stamp=f"{created.seconds}.{created.nanos:09d} {updated.seconds}.{updated.nanos:09d} {number}",
    )


def _to_instant(timestamp: Any) -> Instant:
    """Convert a protocol timestamp, exact to 100 ns."""
    return Instant(timestamp.seconds * TICKS_PER_SECOND + timestamp.nanos // 100)


def _to_timestamp(instant: Instant | None) -> Mapping[str, int] | None:
    """Convert to the fields of a protocol timestamp. None stands for an open bound."""
    if instant is None:
        return None
    return {"seconds": instant // TICKS_PER_SECOND, "nanos": instant % TICKS_PER_SECOND * 100}
