"""A guarded durable app with a staging slot.

Every version has a task hub of its own. Its name is an app setting that moves with the code when the slots are
swapped. The program owns nothing that a swap moves and that differs between the slots. Such are the name of the task
hub, the version of the runtime, and whether a slot runs. Both slots have the same identity.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_azure_native.web import (
    AppServicePlan,
    SiteConfigArgsDict,
    WebApp,
    WebAppFtpAllowed,
    WebAppFtpAllowedSlot,
    WebAppScmAllowed,
    WebAppScmAllowedSlot,
    WebAppSlot,
    WebAppSlotConfigurationNames,
)

from safe_deploy_pulumi.app_settings import Settings, SlotOfApp, set_app_settings, set_runtime_version
from safe_deploy_pulumi.function_apps import BASE_SITE_CONFIG, build_identity_args
from safe_deploy_pulumi.shared_resources import SharedResources
from safe_deploy_pulumi.storage_accounts import get_host_storage_settings
from safe_deploy_pulumi.topics import LifecycleTopic, get_topic_settings

# Without app settings, which would replace those that pipelines have set, and without a runtime version.
_SITE_CONFIG: SiteConfigArgsDict = {**BASE_SITE_CONFIG, "always_on": True, "ftps_state": "Disabled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableAppWithSlotsArgs:
    """Names and options of a durable app with slots. Names of Function App and storage account are unique worldwide.

    Task hubs and runtime version (as in `linuxFxVersion`) are set in a slot that has none. Later values have no effect.
    For `task_hub`, give the name that production uses today. The plan needs a tier with slots and without an Azure
    Files share, so S1 or larger. Functions that start work by themselves, such as those with a timer, belong into
    `functions_disabled_in_staging`.

    Raises ValueError if both slots would have one task hub."""

    name: str
    resource_group: pulumi.Input[str]
    location: pulumi.Input[str]
    storage_account: str
    task_hub: str
    staging_task_hub: str
    task_hub_setting: str = "TASK_HUB"
    staging_slot: str = "staging"
    plan_sku: str = "P0v3"
    runtime: str = "python"
    runtime_version: str = "PYTHON|3.13"
    functions_disabled_in_staging: Sequence[str] = ()
    topic: LifecycleTopic | None = None

    def __post_init__(self) -> None:
        if self.staging_task_hub.lower() == self.task_hub.lower():
            raise ValueError(f"the staging slot must not have the task hub {self.task_hub} of production")


class DurableAppWithSlots(pulumi.ComponentResource):
    """An App Service plan with a Function App and its staging slot, their identity, and the storage account of the task
    hubs.

    Pulumi refuses to delete app, slot and account until `pulumi state unprotect` allows it. Do not run `pulumi up`
    between `safe-deploy stage` and the end of the swap: a change of settings that meets a swap would undo a part of
    it."""

    host_name: pulumi.Output[str]
    """The host name of production."""
    staging_host_name: pulumi.Output[str]
    """The host name of the staging slot."""

    def __init__(self, name: str, args: DurableAppWithSlotsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("safe-deploy:infra:DurableAppWithSlots", name, None, opts)
        self._args = args
        self._opts = pulumi.ResourceOptions(parent=self)
        self._shared = SharedResources(
            args.name,
            resource_group=args.resource_group,
            location=args.location,
            storage_account=args.storage_account,
            opts=self._opts,
        )
        disabled = {f"AzureWebJobs.{function}.Disabled": "true" for function in args.functions_disabled_in_staging}
        site, slot = self._create_slots()
        self._refuse_passwords(site, slot)
        # The names of all settings that stay with their slot. The task hub must not be one of them.
        WebAppSlotConfigurationNames(
            args.name,
            name=site.name,
            resource_group_name=args.resource_group,
            app_setting_names=[*disabled],
            opts=self._opts,
        )
        self._configure(site, "", args.task_hub, {})
        self._configure(slot, args.staging_slot, args.staging_task_hub, disabled)
        self.host_name = site.default_host_name
        self.staging_host_name = slot.default_host_name
        self.register_outputs({"host_name": self.host_name, "staging_host_name": self.staging_host_name})

    def _create_slots(self) -> tuple[WebApp, WebAppSlot]:
        args, identity = self._args, self._shared.identity.id
        plan = AppServicePlan(
            args.name,
            name=args.name,
            resource_group_name=args.resource_group,
            location=args.location,
            kind="linux",
            sku={"name": args.plan_sku},
            reserved=True,
            opts=self._opts,
        )
        protected = pulumi.ResourceOptions(parent=self, protect=True, depends_on=self._shared.role_assignments)
        site = WebApp(
            args.name,
            name=args.name,
            resource_group_name=args.resource_group,
            location=args.location,
            kind="functionapp,linux",
            identity=build_identity_args(identity),
            server_farm_id=plan.id,
            https_only=True,
            key_vault_reference_identity=identity,
            site_config=_SITE_CONFIG,
            opts=protected,
        )
        slot = WebAppSlot(
            f"{args.name}-{args.staging_slot}",
            name=site.name,
            slot=args.staging_slot,
            resource_group_name=args.resource_group,
            location=args.location,
            kind="functionapp,linux",
            identity=build_identity_args(identity),
            server_farm_id=plan.id,
            https_only=True,
            key_vault_reference_identity=identity,
            site_config=_SITE_CONFIG,
            opts=protected,
        )
        return site, slot

    def _refuse_passwords(self, site: WebApp, slot: WebAppSlot) -> None:
        """Refuse the passwords of both ways to deploy code, in both slots."""
        args = self._args
        for policy in (WebAppFtpAllowed, WebAppScmAllowed):
            policy(args.name, name=site.name, resource_group_name=args.resource_group, allow=False, opts=self._opts)
        for slot_policy in (WebAppFtpAllowedSlot, WebAppScmAllowedSlot):
            slot_policy(
                f"{args.name}-{args.staging_slot}",
                name=site.name,
                slot=args.staging_slot,
                resource_group_name=args.resource_group,
                allow=False,
                opts=pulumi.ResourceOptions(parent=self, depends_on=[slot]),
            )

    def _configure(self, site: WebApp | WebAppSlot, slot_name: str, task_hub: str, extra: Settings) -> None:
        """Set the settings and the first runtime version of a slot."""
        args = self._args
        slot = SlotOfApp(app=args.name, resource_group=args.resource_group, site=site, slot=slot_name)
        set_app_settings(
            slot,
            initial={args.task_hub_setting: task_hub},
            owned={
                **get_host_storage_settings(self._shared.storage.primary_endpoints, self._shared.identity.client_id),
                **get_topic_settings(args.topic),
                "FUNCTIONS_EXTENSION_VERSION": "~4",
                "FUNCTIONS_WORKER_RUNTIME": args.runtime,
                "WEBSITE_ADD_SITENAME_BINDINGS_IN_APPHOST_CONFIG": "1",
                **extra,
            },
            opts=self._opts,
        )
        set_runtime_version(slot, initial=args.runtime_version, opts=self._opts)
