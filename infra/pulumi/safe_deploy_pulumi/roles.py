"""The built-in roles of Azure that the components assign."""

from collections.abc import Sequence
from enum import StrEnum

import pulumi
from pulumi_azure_native.authorization import RoleAssignment


class Role(StrEnum):
    """A built-in role, by the id of its definition. Has the same roles as infra/roles.bicep."""

    DURABLE_TASK_DATA_CONTRIBUTOR = "0ad04412-c4d5-4796-b79c-f76d14c8d402"
    DURABLE_TASK_DATA_READER = "d6a5505f-6ebb-45a4-896e-ac8274cfc0ac"
    KEY_VAULT_SECRETS_OFFICER = "b86a8fe4-44ce-4948-aee5-eccb2c155cd7"
    KEY_VAULT_SECRETS_USER = "4633458b-17de-408a-b874-0445c86b69e6"
    MONITORING_METRICS_PUBLISHER = "3913510d-42f4-4e42-8a64-420c390055eb"
    STORAGE_BLOB_DATA_CONTRIBUTOR = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"
    STORAGE_BLOB_DATA_OWNER = "b7e6dc6d-f1e8-4753-8033-0f276bb0955b"
    STORAGE_BLOB_DATA_READER = "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"
    STORAGE_QUEUE_DATA_CONTRIBUTOR = "974c5e8b-45b9-4653-ba55-5f855dd0fb88"
    STORAGE_QUEUE_DATA_READER = "19e7f393-937e-4f77-808e-94535e297925"
    STORAGE_TABLE_DATA_CONTRIBUTOR = "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3"
    STORAGE_TABLE_DATA_READER = "76199698-9eea-4c19-bc75-cec21354c6b6"


def assign_roles(
    name: str,
    roles: Sequence[Role],
    *,
    principal_id: pulumi.Input[str],
    scope: pulumi.Input[str],
    principal_type: str = "ServicePrincipal",
    opts: pulumi.ResourceOptions,
) -> list[RoleAssignment]:
    """Assign roles on the resource with the id `scope`. Pulumi makes the names of the assignments, so that one can be
    replaced before the old one is deleted."""
    subscription = pulumi.Output.from_input(scope).apply(lambda scope: scope.split("/")[2])
    return [
        RoleAssignment(
            f"{name}-{role.name.lower().replace('_', '-')}",
            principal_id=principal_id,
            principal_type=principal_type,
            role_definition_id=pulumi.Output.concat(
                "/subscriptions/", subscription, f"/providers/Microsoft.Authorization/roleDefinitions/{role}"
            ),
            scope=scope,
            opts=opts,
        )
        for role in roles
    ]
