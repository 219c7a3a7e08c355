"""The durable client of `azure-functions-durable` for HTTP functions, implemented with `durabletask`.

It has only the methods that the sample app uses."""

import json
from datetime import UTC
from typing import Any

from azure.durable_functions.models.DurableOrchestrationStatus import DurableOrchestrationStatus
from azure.durable_functions.models.EntityStateResponse import EntityStateResponse
from azure.durable_functions.models.utils.entity_utils import EntityId
from durabletask.client import AsyncTaskHubGrpcClient, OrchestrationState, OrchestrationStatus
from durabletask.internal import orchestrator_service_pb2 as pb

from .orchestration_context import to_entity_instance_id

STATUS_NAMES = {
    OrchestrationStatus.RUNNING: "Running",
    OrchestrationStatus.COMPLETED: "Completed",
    OrchestrationStatus.FAILED: "Failed",
    OrchestrationStatus.TERMINATED: "Terminated",
    OrchestrationStatus.CONTINUED_AS_NEW: "ContinuedAsNew",
    OrchestrationStatus.PENDING: "Pending",
    OrchestrationStatus.SUSPENDED: "Suspended",
}
# As on the host, the id of an ended instance may be used again.
_REUSE_ID_POLICY = pb.OrchestrationIdReusePolicy(
    replaceableStatus=[
        pb.ORCHESTRATION_STATUS_COMPLETED,
        pb.ORCHESTRATION_STATUS_FAILED,
        pb.ORCHESTRATION_STATUS_TERMINATED,
    ]
)


class DurableClient:
    """A durable client for one task hub."""

    def __init__(self, grpc_client: AsyncTaskHubGrpcClient) -> None:
        self._grpc_client = grpc_client

    async def start_new(self, name: str, instance_id: str | None = None, client_input: Any = None) -> str:
        """Start an orchestration, as the client of the library does. Returns its instance id."""
        return await self._grpc_client.schedule_new_orchestration(
            name, input=client_input, instance_id=instance_id, reuse_id_policy=_REUSE_ID_POLICY
        )

    async def get_status(self, instance_id: str) -> DurableOrchestrationStatus:
        """The status of an instance. As in the original, it is false in a condition if there is no such instance."""
        state = await self._grpc_client.get_orchestration_state(instance_id)
        return DurableOrchestrationStatus() if state is None else to_durable_status(state)

    async def raise_event(self, instance_id: str, event_name: str, event_data: Any = None) -> None:
        """Send an external event to an instance."""
        # As with the library, the data is encoded as JSON twice, because the host encodes it again.
        await self._grpc_client.raise_orchestration_event(instance_id, event_name, data=json.dumps(event_data))

    async def read_entity_state(self, entity_id: EntityId) -> EntityStateResponse:
        """The state of an entity, and whether it exists."""
        metadata = await self._grpc_client.get_entity(to_entity_instance_id(entity_id))
        state = None if metadata is None else metadata.get_typed_state()
        return EntityStateResponse(state is not None, state)


def to_durable_status(state: OrchestrationState) -> DurableOrchestrationStatus:
    """The state of an instance as azure-functions-durable returns it. The output of a failed instance is its error."""
    failure = state.failure_details
    return DurableOrchestrationStatus(
        name=state.name,
        instanceId=state.instance_id,
        createdTime=state.created_at.replace(tzinfo=UTC).isoformat(),
        lastUpdatedTime=state.last_updated_at.replace(tzinfo=UTC).isoformat(),
        output=state.get_output() if failure is None else f"{failure.error_type.rsplit('.')[-1]}: {failure.message}",
        runtimeStatus=STATUS_NAMES[state.runtime_status],
        customStatus=state.get_custom_status(),
    )
