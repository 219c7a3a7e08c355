"""Storage accounts that refuse keys, anonymous readers and old TLS, and the addresses of their services."""

import pulumi
from pulumi_azure_native.storage import StorageAccount
from pulumi_azure_native.storage.outputs import EndpointsResponse

from safe_deploy_pulumi.app_settings import Settings


def create_storage_account(
    name: str,
    *,
    account_name: str,
    resource_group: pulumi.Input[str],
    location: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
) -> StorageAccount:
    """Create a storage account for managed identities only.

    It holds state that cannot be restored, so Pulumi refuses to delete it until `pulumi state unprotect` allows it."""
    return StorageAccount(
        name,
        account_name=account_name,
        resource_group_name=resource_group,
        location=location,
        kind="StorageV2",
        sku={"name": "Standard_LRS"},
        allow_blob_public_access=False,
        allow_cross_tenant_replication=False,
        allow_shared_key_access=False,
        default_to_o_auth_authentication=True,
        minimum_tls_version="TLS1_2",
        enable_https_traffic_only=True,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(protect=True)),
    )


def get_host_storage_settings(endpoints: pulumi.Output[EndpointsResponse], client_id: pulumi.Input[str]) -> Settings:
    """The settings by which a Functions host reaches its storage account with a user-assigned identity."""
    return {
        "AzureWebJobsStorage__blobServiceUri": endpoints.apply(lambda services: services.blob.rstrip("/")),
        "AzureWebJobsStorage__clientId": client_id,
        "AzureWebJobsStorage__credential": "managedidentity",
        "AzureWebJobsStorage__queueServiceUri": endpoints.apply(lambda services: services.queue.rstrip("/")),
        "AzureWebJobsStorage__tableServiceUri": endpoints.apply(lambda services: services.table.rstrip("/")),
    }
