"""Event Grid in Azure: topics, their keys, and the subscriptions that deliver their events. Hides the commands of
`az`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safe_deploy.azure_cli import AzureCli, AzureResource, AzureUnavailable

_CREATE_TIMEOUT_SECONDS = 300
"""How long the creation of a subscription may take. Event Grid asks the function for a handshake."""

_TOKEN_RESOURCE = "https://eventgrid.azure.net"  # noqa: S105  # the name of a service, not a token

RECORDING_FUNCTION = "RecordLifecycleEvent"
"""The function of the server that records the events of a subscription."""

EVENT_TYPE = "orchestratorEvent"
MAX_DELIVERY_ATTEMPTS = 30
EVENT_LIFETIME_MINUTES = 1440
"""What the subscription of the templates has; see infra/event-subscription.bicep."""

DEAD_LETTER_CONTAINER = "lifecycle-dead-letters"
SUBSCRIPTION_NAME = "state-server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    id: str
    name: str
    resource_group: str
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSubscription:
    """A subscription of a topic. `function_id` and `webhook` are where it delivers to, empty if it is another place."""

    name: str
    function_id: str
    webhook: str
    event_types: tuple[str, ...] | None
    max_delivery_attempts: int
    lifetime_minutes: int
    has_dead_letters: bool
    state: str


class EventGrid:
    """The topics that the identity of `az` can see in the subscription that is selected."""

    def __init__(self, az: AzureCli) -> None:
        self._az = az

    def find_topic(self, endpoint: str) -> Topic | None:
        """The topic with this endpoint, None if `az` sees none. Raises AzureUnavailable."""
        wanted = endpoint.rstrip("/").lower()
        return next((topic for topic in self._list_topics(None) if topic.endpoint.rstrip("/").lower() == wanted), None)

    def list_topics(self, resource_group: str) -> list[Topic]:
        """The topics of a resource group. Raises AzureUnavailable."""
        return self._list_topics(resource_group)

    def list_subscriptions(self, topic: Topic) -> list[EventSubscription]:
        """The subscriptions of a topic. Raises AzureUnavailable."""
        resource = _describe(
            topic, f"list the subscriptions of topic {topic.name!r}. Give its identity the role Reader"
        )
        response = self._az.query(
            "eventgrid event-subscription list",
            {"--source-resource-id": topic.id, "--query": "{subscriptions:[]}"},
            resource,
        )
        try:
            return [_parse_subscription(item) for item in response["subscriptions"]]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise AzureUnavailable(f"az printed unexpected JSON about {resource.description}. Update az.") from None

    def get_key(self, topic: Topic) -> str:
        """A key of the topic. Do not print it. Raises AzureUnavailable."""
        action = f"list the keys of topic {topic.name!r}. Give its identity the role EventGrid Contributor"
        resource = _describe(topic, action)
        options = {"--resource-group": topic.resource_group, "--name": topic.name, "--query": "{key:key1}"}
        return _require_text(self._az.query("eventgrid topic key list", options, resource), "key", resource)

    def get_token(self) -> str:
        """A token of the identity of `az` for publishing. Do not print it. Raises AzureUnavailable."""
        resource = AzureResource(
            description="a token for Event Grid", check="the login", permission="get a token for Event Grid"
        )
        options = {"--resource": _TOKEN_RESOURCE, "--query": "{token:accessToken}"}
        return _require_text(self._az.query("account get-access-token", options, resource), "token", resource)

    def create_subscription(
        self, topic: Topic, name: str, function_app_id: str, dead_letter_account_id: str | None
    ) -> None:
        """Create a subscription that delivers to the server's function, with the properties of the templates. Replaces
        one of the topic that has this name. Raises AzureUnavailable."""
        options: dict[str, str | None] = {
            "--name": name,
            "--source-resource-id": topic.id,
            "--endpoint-type": "azurefunction",
            "--endpoint": f"{function_app_id}/functions/{RECORDING_FUNCTION}",
            "--event-delivery-schema": "eventgridschema",
            "--included-event-types": EVENT_TYPE,
            "--max-delivery-attempts": str(MAX_DELIVERY_ATTEMPTS),
            "--event-ttl": str(EVENT_LIFETIME_MINUTES),
        }
        if dead_letter_account_id is not None:
            container = f"{dead_letter_account_id}/blobServices/default/containers/{DEAD_LETTER_CONTAINER}"
            options |= {"--deadletter-identity": "systemassigned", "--deadletter-identity-endpoint": container}
        action = f"create a subscription of topic {topic.name!r}. Give its identity the role EventGrid Contributor"
        self._az.change(
            "eventgrid event-subscription create",
            options,
            _describe(topic, action),
            timeout_seconds=_CREATE_TIMEOUT_SECONDS,
        )

    def _list_topics(self, resource_group: str | None) -> list[Topic]:
        resource = AzureResource(
            description="the Event Grid topics",
            check="the subscription",
            permission="list the Event Grid topics. Give its identity the role Reader on the topic",
        )
        members = "id:id,name:name,group:resourceGroup,endpoint:endpoint,nested:properties.endpoint"
        response = self._az.query(
            "eventgrid topic list",
            {"--resource-group": resource_group, "--query": f"{{topics:[].{{{members}}}}}"},
            resource,
        )
        try:
            return [_parse_topic(topic) for topic in response["topics"]]
        except (KeyError, TypeError):
            raise AzureUnavailable("az printed unexpected JSON about the Event Grid topics. Update az.") from None


def _describe(topic: Topic, permission: str) -> AzureResource:
    """A topic in the messages of a failed call."""
    description = f"topic {topic.name!r} in resource group {topic.resource_group!r}"
    return AzureResource(description=description, check="the topic", permission=permission)


def _require_text(response: Mapping[str, Any], member: str, resource: AzureResource) -> str:
    """A member of what `az` has printed. Raises AzureUnavailable without its value, which is a secret."""
    value = response.get(member)
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value:
        raise AzureUnavailable(f"az printed unexpected JSON about {resource.description}. Update az.")
    return value


def _parse_topic(item: Mapping[str, Any]) -> Topic:
    """A topic as `az` shows it. Raises KeyError or TypeError for another object."""
    members = [item["id"], item["name"], item["group"], item["endpoint"] or item["nested"] or ""]
    if not all(isinstance(member, str) for member in members):
        raise TypeError
    identifier, name, group, endpoint = members
    return Topic(id=identifier, name=name, resource_group=group, endpoint=endpoint)


def _parse_subscription(item: Mapping[str, Any]) -> EventSubscription:
    """A subscription as `az` shows it. Raises an error of Python for another object."""
    # With the identity of the topic, `az` shows destination and dead letters one level deeper.
    identity = item.get("deliveryWithResourceIdentity") or {}
    destination = item.get("destination") or identity.get("destination") or {}
    types = (item.get("filter") or {}).get("includedEventTypes")
    retries = item.get("retryPolicy") or {}
    return EventSubscription(
        name=str(item["name"]),
        function_id=str(destination.get("resourceId") or "") if _is_kind(destination, "AzureFunction") else "",
        webhook=str(destination.get("endpointBaseUrl") or "") if _is_kind(destination, "WebHook") else "",
        event_types=None if types is None else tuple(map(str, types)),
        max_delivery_attempts=int(retries.get("maxDeliveryAttempts") or MAX_DELIVERY_ATTEMPTS),
        lifetime_minutes=int(retries.get("eventTimeToLiveInMinutes") or EVENT_LIFETIME_MINUTES),
        has_dead_letters=bool(item.get("deadLetterDestination") or item.get("deadLetterWithResourceIdentity")),
        state=str(item.get("provisioningState") or ""),
    )


def _is_kind(destination: Mapping[str, Any], kind: str) -> bool:
    return str(destination.get("endpointType")).lower() == kind.lower()
