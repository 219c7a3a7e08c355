"""Function Apps: what all of them have in common, and those on Flex Consumption.

Nested arguments are dictionaries: the classes of pulumi-azure-native for them add defaults, such as a version of .NET,
which Azure refuses on Flex Consumption.
"""

from dataclasses import dataclass, field

import pulumi
from pulumi_azure_native.web import (
    AppServicePlan,
    FunctionAppConfigArgsDict,
    ManagedServiceIdentityArgsDict,
    ManagedServiceIdentityType,
    SiteConfigArgsDict,
    WebApp,
    WebAppScmAllowed,
)

BASE_SITE_CONFIG: SiteConfigArgsDict = {"http20_enabled": True, "min_tls_version": "1.2", "scm_min_tls_version": "1.2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexApp:
    """A Function App on Flex Consumption.

    Its plan has the same name. `package_container` is the address of the container that its code is deployed to."""

    name: str
    resource_group: pulumi.Input[str]
    location: pulumi.Input[str]
    identity_id: pulumi.Output[str]
    package_container: pulumi.Input[str]
    runtime: str
    runtime_version: str
    maximum_instance_count: int
    site_config: SiteConfigArgsDict = field(default_factory=lambda: BASE_SITE_CONFIG)


def build_identity_args(identity_id: pulumi.Input[str]) -> ManagedServiceIdentityArgsDict:
    """The `identity` argument of a Function App or a slot that has only this user-assigned identity."""
    return {"type": ManagedServiceIdentityType.USER_ASSIGNED, "user_assigned_identities": [identity_id]}


def create_flex_app(app: FlexApp, opts: pulumi.ResourceOptions) -> WebApp:
    """Create the Function App and its plan, and refuse passwords for deployments. Flex Consumption has no FTP."""
    plan = AppServicePlan(
        app.name,
        name=app.name,
        resource_group_name=app.resource_group,
        location=app.location,
        kind="functionapp",
        sku={"name": "FC1", "tier": "FlexConsumption"},
        reserved=True,
        opts=opts,
    )
    site = WebApp(
        app.name,
        name=app.name,
        resource_group_name=app.resource_group,
        location=app.location,
        kind="functionapp,linux",
        identity=build_identity_args(app.identity_id),
        server_farm_id=plan.id,
        https_only=True,
        key_vault_reference_identity=app.identity_id,
        function_app_config=_build_function_app_config(app),
        site_config=app.site_config,
        opts=opts,
    )
    WebAppScmAllowed(app.name, name=site.name, resource_group_name=app.resource_group, allow=False, opts=opts)
    return site


def _build_function_app_config(app: FlexApp) -> FunctionAppConfigArgsDict:
    return {
        "deployment": {
            "storage": {
                "type": "blobContainer",
                "value": app.package_container,
                "authentication": {
                    "type": "UserAssignedIdentity",
                    "user_assigned_identity_resource_id": app.identity_id,
                },
            }
        },
        "runtime": {"name": app.runtime, "version": app.runtime_version},
        "scale_and_concurrency": {
            "instance_memory_mb": 2048,
            "maximum_instance_count": app.maximum_instance_count,
        },
    }
