"""The Event Grid topic that durable apps publish lifecycle events to."""

from dataclasses import dataclass

import pulumi
from pulumi_azure_native.eventgrid import get_topic_output, list_topic_shared_access_keys_output

from safe_deploy_pulumi.app_settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleTopic:
    """The endpoint of a topic and its key, which is a secret."""

    endpoint: pulumi.Output[str]
    key: pulumi.Output[str]

    @classmethod
    def read(
        cls,
        name: pulumi.Input[str],
        *,
        resource_group: pulumi.Input[str],
        opts: pulumi.InvokeOutputOptions | None = None,
    ) -> "LifecycleTopic":
        """Read a topic. `opts` can name a provider for another subscription, or the state server that it depends on."""
        topic = get_topic_output(topic_name=name, resource_group_name=resource_group, opts=opts)
        keys = list_topic_shared_access_keys_output(topic_name=name, resource_group_name=resource_group, opts=opts)
        return cls(
            endpoint=topic.apply(lambda topic: topic.endpoint),
            key=pulumi.Output.secret(keys.apply(lambda keys: keys.key1 or "")),
        )


def get_topic_settings(topic: LifecycleTopic | None) -> Settings:
    """The settings that host.json of a durable app takes the topic from. None without a topic."""
    if topic is None:
        return {}
    return {"LIFECYCLE_TOPIC_ENDPOINT": topic.endpoint, "LIFECYCLE_TOPIC_KEY": topic.key}
