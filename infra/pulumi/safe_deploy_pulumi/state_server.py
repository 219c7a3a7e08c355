"""The state server in a resource group of its own, and its access to the task hubs that it reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_azure_native.applicationinsights import Component
from pulumi_azure_native.authorization import get_client_config_output
from pulumi_azure_native.eventgrid import Topic
from pulumi_azure_native.keyvault import SkuFamily, SkuName, Vault
from pulumi_azure_native.managedidentity import UserAssignedIdentity
from pulumi_azure_native.operationalinsights import Workspace
from pulumi_azure_native.resources import ResourceGroup
from pulumi_azure_native.storage import BlobContainer

from safe_deploy_pulumi.app_settings import SlotOfApp, set_app_settings
from safe_deploy_pulumi.event_alerts import create_event_alerts
from safe_deploy_pulumi.function_apps import FlexApp, create_flex_app
from safe_deploy_pulumi.roles import Role, assign_roles
from safe_deploy_pulumi.server_settings import build_server_settings
from safe_deploy_pulumi.storage_accounts import create_storage_account
from safe_deploy_pulumi.task_hubs import AzureStorageTaskHubs, SchedulerTaskHubs, TaskHubs

# Both have a role for each of tables, queues and blobs. Reading task hubs needs all three: see docs/azure.md.
_READER_ROLES = (Role.STORAGE_TABLE_DATA_READER, Role.STORAGE_QUEUE_DATA_READER, Role.STORAGE_BLOB_DATA_READER)
_CONTRIBUTOR_ROLES = (
    Role.STORAGE_TABLE_DATA_CONTRIBUTOR,
    Role.STORAGE_QUEUE_DATA_CONTRIBUTOR,
    Role.STORAGE_BLOB_DATA_CONTRIBUTOR,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateServerArgs:
    """Names and options of a state server. Names of Function App, storage account and vault are unique worldwide.

    The operator is the user, group or service principal that stores the server's keys in the vault. Alerts are sent to
    `alert_email`. With `delete_task_hubs`, Cleanup can delete task hubs on Azure Storage: the server may then write to
    the accounts that it reads."""

    resource_group: str
    location: str
    state_app: str
    storage_account: str
    vault: str
    topic: str
    operator_principal_id: str = ""
    operator_principal_type: str = "User"
    alert_email: str = ""
    python_version: str = "3.11"
    guarded_task_hubs: Sequence[TaskHubs] = ()
    delete_task_hubs: bool = False


class StateServer(pulumi.ComponentResource):
    """A resource group with the state server.

    It has the Function App on Flex Consumption with a user-assigned identity, and a storage account that refuses keys.
    A key vault, a topic, Application Insights, and alerts on lost events belong to it, too. Publish the code after
    that, and then call `subscribe_state_server`."""

    host_name: pulumi.Output[str]
    """The host name of the server."""
    principal_id: pulumi.Output[str]
    """The object id of the server's identity."""

    def __init__(self, name: str, args: StateServerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("safe-deploy:infra:StateServer", name, None, opts)
        self._args = args
        self._opts = pulumi.ResourceOptions(parent=self)
        self._group = ResourceGroup(
            args.resource_group, resource_group_name=args.resource_group, location=args.location, opts=self._opts
        ).name
        self._identity = UserAssignedIdentity(
            args.state_app,
            resource_name_=args.state_app,
            resource_group_name=self._group,
            location=args.location,
            opts=self._opts,
        )
        self._storage = create_storage_account(
            args.storage_account,
            account_name=args.storage_account,
            resource_group=self._group,
            location=args.location,
            opts=self._opts,
        )
        self._create_topic()
        vault, vault_roles = self._create_vault()
        insights = self._create_insights()
        self._allow_reading_task_hubs()
        # The Functions host needs to own its blobs. The state is in tables.
        storage_roles = self._assign_to_server(
            "storage", [Role.STORAGE_BLOB_DATA_OWNER, Role.STORAGE_TABLE_DATA_CONTRIBUTOR], self._storage.id
        )
        packages = self._create_container("package")
        site = create_flex_app(
            FlexApp(
                name=args.state_app,
                resource_group=self._group,
                location=args.location,
                identity_id=self._identity.id,
                package_container=pulumi.Output.concat(
                    self._storage.primary_endpoints.apply(lambda services: services.blob), packages.name
                ),
                runtime="python",
                runtime_version=args.python_version,
                maximum_instance_count=40,
            ),
            # The host reads its storage and the package when it starts.
            pulumi.ResourceOptions(parent=self, depends_on=[*storage_roles, *vault_roles]),
        )
        settings = build_server_settings(
            endpoints=self._storage.primary_endpoints,
            client_id=self._identity.client_id,
            vault_uri=vault.properties.apply(lambda properties: properties.vault_uri or ""),
            insights_connection_string=insights.connection_string,
            task_hubs=args.guarded_task_hubs,
        )
        set_app_settings(
            SlotOfApp(app=args.state_app, resource_group=self._group, site=site),
            initial=settings.initial,
            owned=settings.owned,
            opts=self._opts,
        )
        self.host_name = site.default_host_name
        self.principal_id = self._identity.principal_id
        self.register_outputs({"host_name": self.host_name, "principal_id": self.principal_id})

    def _create_container(self, container: str) -> BlobContainer:
        return BlobContainer(
            f"{self._args.storage_account}-{container}",
            container_name=container,
            account_name=self._storage.name,
            resource_group_name=self._group,
            opts=self._opts,
        )

    def _assign_to_server(self, name: str, roles: Sequence[Role], scope: pulumi.Input[str]) -> list[pulumi.Resource]:
        """Assign roles to the identity of the server."""
        return [
            *assign_roles(
                f"{self._args.state_app}-{name}",
                roles,
                principal_id=self._identity.principal_id,
                scope=scope,
                opts=self._opts,
            )
        ]

    def _create_topic(self) -> None:
        """Create the topic, the container for what it cannot deliver, and the alerts."""
        topic = Topic(
            self._args.topic,
            topic_name=self._args.topic,
            resource_group_name=self._group,
            location=self._args.location,
            identity={"type": "SystemAssigned"},
            input_schema="EventGridSchema",
            minimum_tls_version_allowed="1.2",
            opts=self._opts,
        )
        assign_roles(
            f"{self._args.topic}-dead-letters",
            [Role.STORAGE_BLOB_DATA_CONTRIBUTOR],
            principal_id=topic.identity.apply(lambda identity: (identity and identity.principal_id) or ""),
            scope=self._create_container("lifecycle-dead-letters").id,
            opts=self._opts,
        )
        create_event_alerts(
            topic,
            topic_name=self._args.topic,
            resource_group=self._group,
            email=self._args.alert_email,
            opts=self._opts,
        )

    def _create_vault(self) -> tuple[Vault, list[pulumi.Resource]]:
        """Create the vault with the server's keys. Returns the roles by which the server reads them, too."""
        vault = Vault(
            self._args.vault,
            vault_name=self._args.vault,
            resource_group_name=self._group,
            location=self._args.location,
            properties={
                "tenant_id": get_client_config_output(opts=pulumi.InvokeOutputOptions(parent=self)).apply(
                    lambda client: client.tenant_id
                ),
                "sku": {"family": SkuFamily.A, "name": SkuName.STANDARD},
                "enable_rbac_authorization": True,
                "enable_soft_delete": True,
                "soft_delete_retention_in_days": 90,
            },
            opts=pulumi.ResourceOptions(parent=self, protect=True),
        )
        if self._args.operator_principal_id:
            assign_roles(
                f"{self._args.vault}-operator",
                [Role.KEY_VAULT_SECRETS_OFFICER],
                principal_id=self._args.operator_principal_id,
                principal_type=self._args.operator_principal_type,
                scope=vault.id,
                opts=self._opts,
            )
        return vault, self._assign_to_server("vault", [Role.KEY_VAULT_SECRETS_USER], vault.id)

    def _create_insights(self) -> Component:
        """Create Application Insights, which admits identities only."""
        workspace = Workspace(
            self._args.state_app,
            workspace_name=self._args.state_app,
            resource_group_name=self._group,
            location=self._args.location,
            retention_in_days=30,
            sku={"name": "PerGB2018"},
            opts=self._opts,
        )
        insights = Component(
            self._args.state_app,
            resource_name_=self._args.state_app,
            resource_group_name=self._group,
            location=self._args.location,
            kind="web",
            application_type="web",
            disable_local_auth=True,
            workspace_resource_id=workspace.id,
            opts=self._opts,
        )
        self._assign_to_server("insights", [Role.MONITORING_METRICS_PUBLISHER], insights.id)
        return insights

    def _allow_reading_task_hubs(self) -> None:
        """Let the server read the guarded task hubs, and delete them if the arguments say so."""
        own_subscription = get_client_config_output(opts=pulumi.InvokeOutputOptions(parent=self)).apply(
            lambda client: client.subscription_id
        )
        roles: Sequence[Role]
        for hubs in self._args.guarded_task_hubs:
            match hubs:
                case AzureStorageTaskHubs():
                    roles = _CONTRIBUTOR_ROLES if self._args.delete_task_hubs else _READER_ROLES
                    resource = f"Microsoft.Storage/storageAccounts/{hubs.storage_account}"
                case SchedulerTaskHubs():
                    roles = [Role.DURABLE_TASK_DATA_READER]
                    resource = f"Microsoft.DurableTask/schedulers/{hubs.scheduler}"
                case _:
                    continue
            scope = pulumi.Output.concat(
                "/subscriptions/",
                hubs.subscription or own_subscription,
                f"/resourceGroups/{hubs.resource_group}/providers/{resource}",
            )
            self._assign_to_server(f"read-{hubs.connection.lower().replace('_', '-')}", roles, scope)
