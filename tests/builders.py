"""Lifecycle events as the Durable Functions extension publishes them. A test gives only the fields that it is about."""

import time
import uuid
from typing import Any

from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant


def timestamp(offset_seconds: float = 0) -> str:
    """The time `offset_seconds` seconds from now, as .NET writes it."""
    return format_instant(Instant(int((time.time() + offset_seconds) * TICKS_PER_SECOND)))


def event(
    hub: str,
    instance_id: str = "order-1",
    status: str = "Running",
    *,
    time: str | None = None,
    function: str = "ProcessOrder",
    reason: str = "",
) -> dict[str, Any]:
    """One event in the Event Grid schema."""
    return {
        "id": str(uuid.uuid4()),
        "topic": "/subscriptions/0/resourceGroups/shop/providers/Microsoft.EventGrid/topics/shop-lifecycle",
        "subject": f"durable/orchestrator/{status}",
        "eventType": "orchestratorEvent",
        "eventTime": time or timestamp(),
        "metadataVersion": "1",
        "dataVersion": "1.0",
        "data": {
            "hubName": hub,
            "functionName": function,
            "instanceId": instance_id,
            "reason": reason,
            "runtimeStatus": status,
        },
    }


def cloud_event(hub: str, instance_id: str = "order-1", status: str = "Running") -> dict[str, Any]:
    """One event in the CloudEvents schema."""
    return as_cloud_event(event(hub, instance_id, status))


def as_cloud_event(grid_event: dict[str, Any]) -> dict[str, Any]:
    """The event as Event Grid delivers it to a subscription with the CloudEvents schema."""
    return {
        "specversion": "1.0",
        "id": grid_event["id"],
        "source": grid_event["topic"]
        or "/subscriptions/0/resourceGroups/shop/providers/Microsoft.EventGrid/topics/shop",
        "type": grid_event["eventType"],
        "subject": grid_event["subject"],
        "time": grid_event["eventTime"],
        "data": grid_event["data"],
    }
