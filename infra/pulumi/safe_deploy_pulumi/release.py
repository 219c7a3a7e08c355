"""One release of a guarded durable app whose releases run side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_azure_native.durabletask import get_scheduler_output
from pulumi_azure_native.managedidentity import get_user_assigned_identity_output
from pulumi_azure_native.storage import BlobContainer, get_storage_account_output

from safe_deploy_pulumi.app_settings import Settings, SlotOfApp, set_app_settings
from safe_deploy_pulumi.function_apps import BASE_SITE_CONFIG, FlexApp, create_flex_app
from safe_deploy_pulumi.storage_accounts import get_host_storage_settings
from safe_deploy_pulumi.topics import LifecycleTopic, get_topic_settings

_LONGEST_NAME = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseArgs:
    """Names and options of a release.

    The name is unique worldwide: it is that of the Function App, its plan and its container. Identity and storage
    account are those of `SharedResources`. The task hub is set while the app is new. Later values have no effect. Only
    the `router_addresses`, in CIDR notation, may call the release. The `quiesce_functions` are disabled while the app
    is new: a promotion enables them. With `scheduler`, the task hub is on a Durable Task Scheduler in the resource
    group, where `safe-deploy release` creates it.

    Raises ValueError for a name that is too long, or without an address of a router."""

    name: str
    resource_group: pulumi.Input[str]
    location: pulumi.Input[str]
    identity: str
    storage_account: str
    task_hub: str
    router_addresses: Sequence[str]
    task_hub_setting: str = "TASK_HUB"
    runtime: str = "python"
    runtime_version: str = "3.13"
    quiesce_functions: Sequence[str] = ()
    scheduler: str = ""
    topic: LifecycleTopic | None = None

    def __post_init__(self) -> None:
        if len(self.name) > _LONGEST_NAME:
            raise ValueError(f"the name {self.name} is longer than {_LONGEST_NAME} characters")
        if not self.router_addresses:
            raise ValueError("router_addresses is empty: no router could call the release")


class Release(pulumi.ComponentResource):
    """A Function App on Flex Consumption with a plan and a container of its own, which only the router may call.

    Create each release in a stack of its own, so that retiring it is `pulumi destroy` in that stack."""

    address: pulumi.Output[str]
    """The address of the release, as `safe-deploy release` gets it."""

    def __init__(self, name: str, args: ReleaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("safe-deploy:infra:Release", name, None, opts)
        children = pulumi.ResourceOptions(parent=self)
        lookup = pulumi.InvokeOutputOptions(parent=self)
        identity = get_user_assigned_identity_output(
            resource_name=args.identity, resource_group_name=args.resource_group, opts=lookup
        )
        endpoints = get_storage_account_output(
            account_name=args.storage_account, resource_group_name=args.resource_group, opts=lookup
        ).apply(lambda account: account.primary_endpoints)
        client_id = identity.apply(lambda identity: identity.client_id)
        packages = BlobContainer(
            args.name,
            container_name=args.name,
            account_name=args.storage_account,
            resource_group_name=args.resource_group,
            opts=children,
        )
        site = create_flex_app(
            FlexApp(
                name=args.name,
                resource_group=args.resource_group,
                location=args.location,
                identity_id=identity.apply(lambda identity: identity.id),
                package_container=pulumi.Output.concat(endpoints.apply(lambda services: services.blob), packages.name),
                runtime=args.runtime,
                runtime_version=args.runtime_version,
                maximum_instance_count=100,
                site_config={
                    **BASE_SITE_CONFIG,
                    # Tokens protect nothing if a client can call the release without the router.
                    "ip_security_restrictions_default_action": "Deny",
                    "ip_security_restrictions": [
                        {"name": f"router-{index}", "action": "Allow", "ip_address": address, "priority": 100 + index}
                        for index, address in enumerate(args.router_addresses)
                    ],
                },
            ),
            children,
        )
        scheduler_settings: Settings = {}
        if args.scheduler:
            endpoint = get_scheduler_output(
                scheduler_name=args.scheduler, resource_group_name=args.resource_group, opts=lookup
            ).apply(lambda scheduler: scheduler.properties.endpoint)
            scheduler_settings = {
                "DURABLE_TASK_SCHEDULER_CONNECTION_STRING": pulumi.Output.concat(
                    "Endpoint=", endpoint, ";Authentication=ManagedIdentity;ClientID=", client_id
                )
            }
        set_app_settings(
            SlotOfApp(app=args.name, resource_group=args.resource_group, site=site),
            initial={
                args.task_hub_setting: args.task_hub,
                **{f"AzureWebJobs.{function}.Disabled": "true" for function in args.quiesce_functions},
            },
            owned={
                **get_host_storage_settings(endpoints, client_id),
                **get_topic_settings(args.topic),
                **scheduler_settings,
            },
            opts=children,
        )
        self.address = pulumi.Output.concat("https://", site.default_host_name)
        self.register_outputs({"address": self.address})
