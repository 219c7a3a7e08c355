"""The commands `az eventgrid` of the fake `az`.

What they print in Azure was read in the source of the Azure CLI 2.91 and in the reference of Azure's API."""

from __future__ import annotations

from tests.pipelines.fake_az_options import AzError
from tests.pipelines.fake_cloud import SUBSCRIPTION

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.pipelines.fake_az_options import ParsedOptions

    Effect = Callable[[dict[str, Any], ParsedOptions], Any]


def topic_id(group: str, topic: str) -> str:
    """The resource id of a topic, as Azure shows it."""
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.EventGrid/topics/{topic}"


def _list_topics(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az eventgrid topic list`: the topics of a group, or of the subscription."""
    return [
        {
            "disableLocalAuth": False,
            "endpoint": topic["endpoint"],
            "id": topic_id(topic["resourceGroup"], name),
            "inputSchema": "EventGridSchema",
            "name": name,
            "publicNetworkAccess": "Enabled",
            "resourceGroup": topic["resourceGroup"],
            "type": "Microsoft.EventGrid/topics",
        }
        for name, topic in state["topics"].items()
        if options.resource_group is None or topic["resourceGroup"].lower() == options.resource_group.lower()
    ]


def _find_topic(state: dict[str, Any], resource_id: str) -> dict[str, Any]:
    """The topic with a resource id. Raises AzError."""
    for name, topic in state["topics"].items():
        if topic_id(topic["resourceGroup"], name).lower() == resource_id.lower():
            topic_state: dict[str, Any] = topic
            return topic_state
    message = f"The Resource '{resource_id}' was not found."
    raise AzError(f"(ResourceNotFound) {message}\nCode: ResourceNotFound\nMessage: {message}", 3)


def _list_keys(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az eventgrid topic key list`"""
    topic = _find_topic(state, topic_id(options.resource_group, options.name))
    return {"key1": topic["key"], "key2": f"second-{topic['key']}"}


def _list_subscriptions(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az eventgrid event-subscription list`"""
    return _find_topic(state, options.source_resource_id).get("subscriptions", [])


def _create_subscription(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az eventgrid event-subscription create`: to a function, which must exist, as far as the fake supports it."""
    topic = _find_topic(state, options.source_resource_id)
    if options.endpoint_type != "azurefunction":
        raise AzError("The fake supports subscriptions to functions only.", 2)
    if not any(f"/sites/{name}/functions/".lower() in options.endpoint.lower() for name in state["apps"]):
        message = "Destination endpoint not found."
        raise AzError(f"(Endpoint validation) {message}\nCode: Endpoint validation\nMessage: {message}")
    subscription = build_subscription(
        options.name,
        options.endpoint,
        attempts=int(options.max_delivery_attempts or 30),
        minutes=int(options.event_ttl or 1440),
        dead_letters=options.deadletter_endpoint or options.deadletter_identity_endpoint,
        types=options.included_event_types,
    )
    others = [known for known in topic.get("subscriptions", []) if known["name"] != options.name]
    topic["subscriptions"] = [*others, subscription]
    return subscription


def build_subscription(
    name: str,
    function_id: str,
    *,
    attempts: int = 30,
    minutes: int = 1440,
    dead_letters: str | None = None,
    types: list[str] | None = None,
) -> dict[str, Any]:
    """A subscription as `az` shows it."""
    container = None
    if dead_letters:
        account, _, container_name = dead_letters.partition("/blobServices/default/containers/")
        destination = {"blobContainerName": container_name, "endpointType": "StorageBlob", "resourceId": account}
        container = {"deadLetterDestination": destination, "identity": {"type": "SystemAssigned"}}
    return {
        "deadLetterDestination": None,
        "deadLetterWithResourceIdentity": container,
        "deliveryWithResourceIdentity": None,
        "destination": {
            "endpointType": "AzureFunction",
            "maxEventsPerBatch": 1,
            "preferredBatchSizeInKilobytes": 64,
            "resourceId": function_id,
        },
        "eventDeliverySchema": "EventGridSchema",
        "filter": {"includedEventTypes": types, "subjectBeginsWith": ""},
        "name": name,
        "provisioningState": "Succeeded",
        "retryPolicy": {"eventTimeToLiveInMinutes": minutes, "maxDeliveryAttempts": attempts},
    }


_SUBSCRIPTION = (
    "--name/-n! --source-resource-id! --endpoint-type --endpoint! --event-delivery-schema --included-event-types+ "
    "--max-delivery-attempts --event-ttl --deadletter-endpoint --deadletter-identity --deadletter-identity-endpoint"
)

EVENT_GRID_COMMANDS: dict[str, tuple[str, str, Effect]] = {
    "eventgrid topic list": ("topic list", "--resource-group/-g", _list_topics),
    "eventgrid topic key list": ("topic key list", "--resource-group/-g! --name/-n!", _list_keys),
    "eventgrid event-subscription list": ("subscription list", "--source-resource-id!", _list_subscriptions),
    "eventgrid event-subscription create": ("subscription create", _SUBSCRIPTION, _create_subscription),
}
"""The key of each command's faults, its options, and its effect."""
