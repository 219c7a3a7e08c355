"""Sends lifecycle events from the topic to the state server."""

import pulumi
from pulumi_azure_native.authorization import get_client_config_output
from pulumi_azure_native.eventgrid import AzureFunctionEventSubscriptionDestinationArgs, TopicEventSubscription


def subscribe_state_server(
    name: str,
    *,
    resource_group: str,
    state_app: str,
    topic: str,
    storage_account: str,
    opts: pulumi.ResourceOptions | None = None,
) -> TopicEventSubscription:
    """Create the subscription, which needs the code of the server: Event Grid refuses a function that does not exist.

    What cannot be delivered goes to the container that `StateServer` has made in the storage account."""
    client = get_client_config_output(opts=pulumi.InvokeOutputOptions(provider=opts.provider if opts else None))
    subscription = client.apply(lambda client: client.subscription_id)
    group = pulumi.Output.concat("/subscriptions/", subscription, f"/resourceGroups/{resource_group}/providers")
    return TopicEventSubscription(
        name,
        topic_name=topic,
        resource_group_name=resource_group,
        event_subscription_name="state-server",
        destination=AzureFunctionEventSubscriptionDestinationArgs(
            endpoint_type="AzureFunction",
            resource_id=pulumi.Output.concat(group, f"/Microsoft.Web/sites/{state_app}/functions/RecordLifecycleEvent"),
            # With batches, one failure returns the whole batch.
            max_events_per_batch=1,
            preferred_batch_size_in_kilobytes=64,
        ),
        event_delivery_schema="EventGridSchema",
        filter={"included_event_types": ["orchestratorEvent"]},
        retry_policy={"max_delivery_attempts": 30, "event_time_to_live_in_minutes": 1440},
        # The account refuses keys, so the identity of the topic writes.
        dead_letter_with_resource_identity={
            "identity": {"type": "SystemAssigned"},
            "dead_letter_destination": {
                "endpoint_type": "StorageBlob",
                "resource_id": pulumi.Output.concat(group, f"/Microsoft.Storage/storageAccounts/{storage_account}"),
                "blob_container_name": "lifecycle-dead-letters",
            },
        },
        opts=opts,
    )
