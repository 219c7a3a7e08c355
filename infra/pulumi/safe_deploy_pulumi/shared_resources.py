"""What all slots or releases of a guarded durable app share: an identity, and the storage account of the task hubs."""

import pulumi
from pulumi_azure_native.authorization import get_client_config_output
from pulumi_azure_native.managedidentity import UserAssignedIdentity
from pulumi_azure_native.storage import StorageAccount

from safe_deploy_pulumi.roles import Role, assign_roles
from safe_deploy_pulumi.storage_accounts import create_storage_account


class SharedResources(pulumi.ComponentResource):
    """The identity with the name of the app, and the storage account of its task hubs.

    `DurableAppWithSlots` contains it. For releases side by side, create it once, in another stack than the releases.
    With `scheduler`, the identity may use a Durable Task Scheduler that exists in the resource group."""

    identity: UserAssignedIdentity
    storage: StorageAccount
    role_assignments: list[pulumi.Resource]

    def __init__(
        self,
        name: str,
        *,
        resource_group: pulumi.Input[str],
        location: pulumi.Input[str],
        storage_account: str,
        scheduler: str = "",
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("safe-deploy:infra:SharedResources", name, None, opts)
        children = pulumi.ResourceOptions(parent=self)
        self.identity = UserAssignedIdentity(
            name, resource_name_=name, resource_group_name=resource_group, location=location, opts=children
        )
        self.storage = create_storage_account(
            storage_account,
            account_name=storage_account,
            resource_group=resource_group,
            location=location,
            opts=children,
        )
        # The Functions host needs to own its blobs. Durable Functions writes tables, queues and blobs.
        self.role_assignments = [
            *assign_roles(
                f"{name}-storage",
                [
                    Role.STORAGE_BLOB_DATA_OWNER,
                    Role.STORAGE_QUEUE_DATA_CONTRIBUTOR,
                    Role.STORAGE_TABLE_DATA_CONTRIBUTOR,
                ],
                principal_id=self.identity.principal_id,
                scope=self.storage.id,
                opts=children,
            )
        ]
        if scheduler:
            client = get_client_config_output(opts=pulumi.InvokeOutputOptions(parent=self))
            self.role_assignments += assign_roles(
                f"{name}-scheduler",
                [Role.DURABLE_TASK_DATA_CONTRIBUTOR],
                principal_id=self.identity.principal_id,
                scope=pulumi.Output.concat(
                    "/subscriptions/",
                    client.apply(lambda client: client.subscription_id),
                    "/resourceGroups/",
                    resource_group,
                    f"/providers/Microsoft.DurableTask/schedulers/{scheduler}",
                ),
                opts=children,
            )
        self.register_outputs({"client_id": self.identity.client_id})
