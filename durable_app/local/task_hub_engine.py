"""A task hub engine: Microsoft's in-memory engine, changed to behave as the host extension does.

It publishes lifecycle events before it stores an episode, and writes `{TaskHub}Instances` with the episode. Work that a
disconnected worker had taken and not finished goes to the next worker."""

import json
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import grpc
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal import orchestrator_service_pb2_grpc as stubs
from durabletask.testing import InMemoryOrchestrationBackend
from durabletask.testing.in_memory_backend import ActivityWorkItem, OrchestrationInstance
from google.protobuf.empty_pb2 import Empty

from .lifecycle_events import Publisher, StatusChange
from .task_hub_storage import InstanceRow, TaskHubStorageWriter

_THREAD_COUNT = 32

TASK_HUB_KEY = "taskhub"
"""The gRPC metadata key with the name of the task hub, as on Durable Task Scheduler."""

STATUS_NAMES = {
    pb.ORCHESTRATION_STATUS_RUNNING: "Running",
    pb.ORCHESTRATION_STATUS_COMPLETED: "Completed",
    pb.ORCHESTRATION_STATUS_FAILED: "Failed",
    pb.ORCHESTRATION_STATUS_TERMINATED: "Terminated",
    # The extension publishes the end of a generation as Completed.
    pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW: "Completed",
    pb.ORCHESTRATION_STATUS_PENDING: "Pending",
    pb.ORCHESTRATION_STATUS_SUSPENDED: "Suspended",
}


NON_DETERMINISM_ERROR = "NonDeterminismError"
_SCHEDULING_EVENTS = ("taskScheduled", "timerCreated", "subOrchestrationInstanceCreated", "entityOperationCalled")
"""History events of everything that an orchestrator can await, except external events, which only appear when
raised."""


def published_reason(end: pb.CompleteOrchestrationAction, history: Sequence[pb.HistoryEvent]) -> str:
    """The reason in a published event: the operator's text for a termination, or the error of a failure.

    A failure's stack trace is left out. `history` includes the events of the last episode."""
    if end.orchestrationStatus == pb.ORCHESTRATION_STATUS_TERMINATED:
        return str(json.loads(end.result.value or '""'))
    if not end.HasField("failureDetails"):
        return ""
    scheduled = {event.eventId: event.taskScheduled.name for event in history if event.HasField("taskScheduled")}
    failed = [event.taskFailed.taskScheduledId for event in history if event.HasField("taskFailed")]
    cause = end.failureDetails.innerFailure
    if not cause.errorType or not failed:
        return f"Message: {end.failureDetails.errorMessage}"
    return (
        f"Message: Activity function '{scheduled[failed[-1]]}' failed: {_exception_name(cause)}: {cause.errorMessage}"
    )


def failure_output(name: str, failure: pb.TaskFailureDetails) -> str:
    """The output of a failed instance, as its row has it."""
    return f"Orchestrator function '{name}' failed: {_exception_name(failure)}: {failure.errorMessage}"


def _exception_name(failure: pb.TaskFailureDetails) -> str:
    """The class name of the exception, without its module."""
    return failure.errorType.rpartition(".")[2]


def find_published_changes(
    name: str,
    instance_id: str,
    history: Sequence[pb.HistoryEvent],
    new_events: Sequence[pb.HistoryEvent],
    actions: Sequence[pb.OrchestratorAction],
) -> list[StatusChange]:
    """The status changes that the extension publishes about one episode, in the order in which it posts them.

    `history` is the history before the episode, `new_events` are the events that started it. Running is published if
    the episode is the first of its execution. A generation that continues as new is published as Completed; the first
    episode of the next one is Running again. If the first episode is also the last, the extension posts both events at
    once, so they arrive in any order. Here the end comes first, because receivers expect that order less."""
    started = [] if history else [StatusChange(name, instance_id, "Running")]
    ended = []
    for action in actions:
        if action.HasField("completeOrchestration"):
            end = action.completeOrchestration
            if is_end_published(end, history, new_events):
                reason = published_reason(end, [*history, *new_events])
                ended.append(StatusChange(name, instance_id, STATUS_NAMES[end.orchestrationStatus], reason))
    return ended + started


def is_end_published(
    end: pb.CompleteOrchestrationAction, history: Sequence[pb.HistoryEvent], new_events: Sequence[pb.HistoryEvent]
) -> bool:
    """Whether the extension publishes the end of an orchestration (docs/platform.md, Run on the real Functions host).

    It does not if the code has changed under the instance. It also does not if the orchestrator cancels a timer in its
    last step, because the extension then treats the end as replayed. Orchestrators of this app cancel every timer that
    they no longer await. So a timer that has not fired was cancelled."""
    if _exception_name(end.failureDetails) == NON_DETERMINISM_ERROR:
        return False
    if end.orchestrationStatus not in (pb.ORCHESTRATION_STATUS_COMPLETED, pb.ORCHESTRATION_STATUS_FAILED):
        return True
    fired = {event.timerFired.timerId for event in (*history, *new_events) if event.HasField("timerFired")}
    return not any(
        event.HasField("timerCreated") and event.eventId not in fired for event in last_scheduled_events(history)
    )


def last_scheduled_events(history: Sequence[pb.HistoryEvent]) -> list[pb.HistoryEvent]:
    """The events that were scheduled by the last of these episodes that scheduled any."""
    episode: list[pb.HistoryEvent] = []
    statuses = episode
    for event in history:
        if event.HasField("orchestratorStarted"):
            episode = []
        elif event.WhichOneof("eventType") in _SCHEDULING_EVENTS:
            episode.append(event)
            statuses = episode
    return statuses


class TaskHubEngine(InMemoryOrchestrationBackend):
    """The engine of one task hub."""

    def __init__(self, task_hub: str, port: int, publisher: Publisher, storage: TaskHubStorageWriter) -> None:
        """Prepare an engine that keeps this task hub in memory, and writes and publishes every change of an
        instance."""
        super().__init__(port=port)
        self._task_hub = task_hub
        self._publisher = publisher
        self._storage = storage
        self._execution_ids: dict[str, str] = {}
        # Activities that a worker has taken and not completed.
        self._activities_in_progress: set[tuple[str, int]] = set()

    def start(self) -> str:
        """Start to listen on loopback only, on a port that no other engine shares."""
        self._server = grpc.server(ThreadPoolExecutor(_THREAD_COUNT), options=[("grpc.so_reuseport", 0)])
        stubs.add_TaskHubSidecarServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        self._server.start()
        return f"127.0.0.1:{self._port}"

    # Methods of the protocol, which workers and clients call.

    def Hello(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        """Refuse a worker or a client of another task hub."""
        requested_task_hub = dict(context.invocation_metadata()).get(TASK_HUB_KEY)
        if requested_task_hub != self._task_hub:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"this is the engine of {self._task_hub}")
        return super().Hello(request, context)

    def StartInstance(
        self, request: pb.CreateInstanceRequest, context: grpc.ServicerContext
    ) -> pb.CreateInstanceResponse:
        """Start an instance, and write its row with a new execution id."""
        with self._lock:
            response = super().StartInstance(request, context)
            self._execution_ids.pop(response.instanceId, None)
            self._write_row(response.instanceId)
        return response

    def SuspendInstance(self, request: pb.SuspendRequest, context: grpc.ServicerContext) -> pb.SuspendResponse:
        """Suspend an instance. One that has ended stays as it is, as in Azure."""
        with self._lock:
            return pb.SuspendResponse() if self._is_ended(request) else super().SuspendInstance(request, context)

    def ResumeInstance(self, request: pb.ResumeRequest, context: grpc.ServicerContext) -> pb.ResumeResponse:
        """Resume an instance. One that has ended stays as it is, as in Azure."""
        with self._lock:
            return pb.ResumeResponse() if self._is_ended(request) else super().ResumeInstance(request, context)

    def CompleteOrchestratorTask(
        self, request: pb.OrchestratorResponse, context: grpc.ServicerContext
    ) -> pb.CompleteTaskResponse:
        """Publish the status changes of an episode, and then checkpoint it: the order of the real extension."""
        with self._lock:
            instance = self._find_awaiting_instance(request)
            if instance is None:
                return pb.CompleteTaskResponse()
            status_changes = find_published_changes(
                instance.name, request.instanceId, instance.history, instance.dispatched_events, request.actions
            )
        # Publish without the lock: the endpoint may be slow, and other instances continue meanwhile.
        for status_change in status_changes:
            self._publisher.publish(status_change)
        with self._lock:
            if self._find_awaiting_instance(request) is None:
                return pb.CompleteTaskResponse()
            response = super().CompleteOrchestratorTask(request, context)
            if self._is_terminal_status(instance.status):
                # The provider drops events after the end. The base class would run the end again.
                instance.pending_events.clear()
            if instance.status == pb.ORCHESTRATION_STATUS_PENDING:
                # Continued as new: the first episode of the next generation writes the row.
                self._execution_ids.pop(request.instanceId, None)
                instance.created_at = instance.last_updated_at
            else:
                self._write_row(request.instanceId)
        return response

    def CompleteActivityTask(
        self, request: pb.ActivityResponse, context: grpc.ServicerContext
    ) -> pb.CompleteTaskResponse:
        """Complete an activity, which is then no longer delivered again when its worker disconnects."""
        with self._lock:
            self._activities_in_progress.discard((request.instanceId, request.taskId))
            return super().CompleteActivityTask(request, context)

    def CompleteEntityTask(
        self, request: pb.EntityBatchResult, context: grpc.ServicerContext
    ) -> pb.CompleteTaskResponse:
        """Complete a batch of operations of an entity. Its first batch publishes Running, and every batch writes its
        row."""
        with self._lock:
            tokens = {str(entity.completion_token): entity_id for entity_id, entity in self._entities.items()}
            entity_id = tokens.get(request.completionToken)
        if entity_id is None:
            # A response of a disconnected worker.
            return super().CompleteEntityTask(request, context)
        if entity_id not in self._execution_ids:
            self._publisher.publish(StatusChange(entity_id.split("@")[1], entity_id, "Running"))
        with self._lock:
            response = super().CompleteEntityTask(request, context)
            # In the provider an entity is an orchestration that continues as new after each batch of operations.
            self._execution_ids[entity_id] = uuid.uuid4().hex
            now = datetime.now(UTC)
            self._storage.upsert(InstanceRow(entity_id, self._execution_ids[entity_id], entity_id, "Running", now, now))
        return response

    def PurgeInstances(
        self, request: pb.PurgeInstancesRequest, context: grpc.ServicerContext
    ) -> pb.PurgeInstancesResponse:
        """Purge instances, and delete their rows."""
        with self._lock:
            before = set(self._instances)
            response = super().PurgeInstances(request, context)
            for instance_id in before - set(self._instances):
                self._storage.delete(instance_id)
        return response

    def GetWorkItems(self, request: pb.GetWorkItemsRequest, context: grpc.ServicerContext) -> Iterator[pb.WorkItem]:
        """Stream work items to a worker. When it disconnects, what it has not completed is delivered to the next
        one."""
        taken: list[pb.WorkItem] = []
        try:
            for work_item in super().GetWorkItems(request, context):
                with self._lock:
                    taken = [item for item in taken if self._is_in_progress(item)]
                    taken.append(work_item)
                    if work_item.HasField("activityRequest"):
                        self._activities_in_progress.add(_activity_key(work_item))
                yield work_item
        finally:
            with self._lock:
                for work_item in taken:
                    if self._is_in_progress(work_item):
                        self._requeue(work_item)

    # Internal differences from the base class.

    def _find_awaiting_instance(self, request: pb.OrchestratorResponse) -> OrchestrationInstance | None:
        """The instance whose episode this response completes.

        None if the worker was disconnected, because another worker has the episode then. The base class ignores that.
        """
        instance = self._instances.get(request.instanceId)
        return None if instance is None or str(instance.completion_token) != request.completionToken else instance

    def _is_ended(self, request: pb.SuspendRequest | pb.ResumeRequest) -> bool:
        """Whether the instance has ended; false for one that does not exist."""
        instance = self._instances.get(request.instanceId)
        return instance is not None and self._is_terminal_status(instance.status)

    def _is_in_progress(self, work_item: pb.WorkItem) -> bool:
        """Whether a worker has taken this work item and not finished it."""
        match work_item.WhichOneof("request"):
            case "orchestratorRequest":
                instance = self._instances.get(work_item.orchestratorRequest.instanceId)
                return (
                    instance is not None
                    and instance.instance_id in self._orchestration_in_flight
                    and str(instance.completion_token) == work_item.completionToken
                )
            case "activityRequest":
                return _activity_key(work_item) in self._activities_in_progress
            case _:
                entity = self._entities.get(work_item.entityRequestV2.instanceId)
                return (
                    entity is not None
                    and entity.instance_id in self._entity_in_flight
                    and str(entity.completion_token) == work_item.completionToken
                )

    def _requeue(self, work_item: pb.WorkItem) -> None:
        """Return a work item of a disconnected worker to its queue.

        It gets a new completion token, so that a late response of the old worker is ignored."""
        match work_item.WhichOneof("request"):
            case "orchestratorRequest":
                instance = self._instances[work_item.orchestratorRequest.instanceId]
                instance.pending_events[:0] = instance.dispatched_events
                instance.dispatched_events.clear()
                instance.completion_token = self._next_token()
                self._orchestration_in_flight.discard(instance.instance_id)
                self._enqueue_orchestration(instance.instance_id)
            case "activityRequest":
                self._activities_in_progress.discard(_activity_key(work_item))
                self._activity_queue.append(_to_work_item(work_item))
                self._work_available.set()
            case _:
                entity = self._entities[work_item.entityRequestV2.instanceId]
                entity.pending_operations[:0] = entity.dispatched_operations
                entity.dispatched_operations.clear()
                entity.completion_token = self._next_token()
                self._entity_in_flight.discard(entity.instance_id)
                self._enqueue_entity(entity.instance_id)

    def _next_token(self) -> int:
        """A number by which a worker returns the result of the work that it was given."""
        self._next_completion_token += 1
        return self._next_completion_token - 1

    def _wait_for_state(self, instance_id: str, predicate: Any, timeout: float | None) -> Any:
        """Wait without a limit if there is no timeout.

        The base class would stop after 30 seconds, and the caller would never learn about a later end."""
        return super()._wait_for_state(instance_id, predicate, threading.TIMEOUT_MAX if timeout is None else timeout)

    # The rows of the storage account.

    def _write_row(self, instance_id: str) -> None:
        """Write the row of an instance from its state in memory."""
        instance = self._instances[instance_id]
        failure = instance.failure_details
        self._storage.upsert(
            InstanceRow(
                instance_id=instance_id,
                execution_id=self._execution_id(instance_id),
                name=instance.name,
                runtime_status=STATUS_NAMES[instance.status],
                created_at=instance.created_at,
                updated_at=instance.last_updated_at,
                completed_at=instance.completed_at,
                version=instance.version,
                input_json=instance.input,
                output=instance.output if failure is None else failure_output(instance.name, failure),
                custom_status=instance.custom_status,
            )
        )

    def _execution_id(self, instance_id: str) -> str:
        """The id of the instance's current execution, which the base class does not store."""
        return self._execution_ids.setdefault(instance_id, uuid.uuid4().hex)


def _activity_key(work_item: pb.WorkItem) -> tuple[str, int]:
    """What identifies a scheduled activity: its instance, and the number of the task in it."""
    request = work_item.activityRequest
    return request.orchestrationInstance.instanceId, request.taskId


def _to_work_item(work_item: pb.WorkItem) -> ActivityWorkItem:
    """The activity work item in the form in which the engine queues it."""
    request = work_item.activityRequest
    input_json = request.input.value if request.HasField("input") else None
    return ActivityWorkItem(
        request.orchestrationInstance.instanceId,
        request.name,
        request.taskId,
        input_json,
        int(work_item.completionToken),
    )
