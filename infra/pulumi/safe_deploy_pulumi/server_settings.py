"""The app settings of the state server: docs/settings.md says what they mean."""

from collections.abc import Iterable
from dataclasses import dataclass

import pulumi
from pulumi_azure_native.storage.outputs import EndpointsResponse

from safe_deploy_pulumi.app_settings import Settings
from safe_deploy_pulumi.storage_accounts import get_host_storage_settings
from safe_deploy_pulumi.task_hubs import AzureStorageTaskHubs, SchedulerTaskHubs, TaskHubs


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings that an operator changes later, and those that always get these values."""

    initial: Settings
    owned: Settings


def build_server_settings(
    *,
    endpoints: pulumi.Output[EndpointsResponse],
    client_id: pulumi.Output[str],
    vault_uri: pulumi.Output[str],
    insights_connection_string: pulumi.Output[str],
    task_hubs: Iterable[TaskHubs],
) -> ServerSettings:
    """Build the settings from the addresses of the server's storage and vault, and the client id of its identity."""
    owned: dict[str, pulumi.Input[str]] = {
        "APPLICATIONINSIGHTS_AUTHENTICATION_STRING": pulumi.Output.concat("Authorization=AAD;ClientId=", client_id),
        "APPLICATIONINSIGHTS_CONNECTION_STRING": insights_connection_string,
        "AzureWebJobsDisableHomepage": "true",
        **get_host_storage_settings(endpoints, client_id),
        "STATE_STORAGE__clientId": client_id,
        "STATE_STORAGE__tableServiceUri": endpoints.apply(lambda services: services.table.rstrip("/")),
    }
    for hubs in task_hubs:
        owned |= _build_task_hub_settings(hubs, endpoints=endpoints, client_id=client_id, vault_uri=vault_uri)
    # An operator replaces the reference by one to a version of the secret: see docs/operations.md.
    return ServerSettings(initial={"STATE_KEYS": _refer_to_secret(vault_uri, "state-keys")}, owned=owned)


def _build_task_hub_settings(
    hubs: TaskHubs,
    *,
    endpoints: pulumi.Output[EndpointsResponse],
    client_id: pulumi.Output[str],
    vault_uri: pulumi.Output[str],
) -> Settings:
    """The settings by which the server reads these task hubs."""
    name = hubs.connection
    match hubs:
        case AzureStorageTaskHubs(storage_account=account):
            return {
                f"{name}__blobServiceUri": endpoints.apply(lambda services: _replace_account(services.blob, account)),
                f"{name}__clientId": client_id,
                f"{name}__queueServiceUri": endpoints.apply(lambda services: _replace_account(services.queue, account)),
                f"{name}__tableServiceUri": endpoints.apply(lambda services: _replace_account(services.table, account)),
            }
        case SchedulerTaskHubs(endpoint=endpoint):
            return {
                name: pulumi.Output.concat(f"Endpoint={endpoint};Authentication=ManagedIdentity;ClientID=", client_id)
            }
        case _:
            return {f"{name}__endpoint": hubs.endpoint, f"{name}__key": _refer_to_secret(vault_uri, hubs.key_secret)}


def _refer_to_secret(vault_uri: pulumi.Output[str], secret: str) -> pulumi.Output[str]:
    return pulumi.Output.concat("@Microsoft.KeyVault(SecretUri=", vault_uri, f"secrets/{secret})")


def _replace_account(address: str, account: str) -> str:
    """The address of the same service of another storage account in the same cloud."""
    domain = address.rstrip("/").partition(".")[2]
    return f"https://{account}.{domain}"
