"""The roles that let the server read task hubs on Azure Storage, and the repair that gives them to it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.azure_state_server import AzureStateServer
from safe_deploy.client import Json
from safe_deploy.diagnostics.results import CheckResult, Repair

ROLES = ("Storage Table Data Reader", "Storage Queue Data Reader", "Storage Blob Data Reader")

_NAME_SUFFIX = "__accountName"
_URI_SUFFIX = "__tableServiceUri"
_CLIENT_SUFFIX = "__clientId"


def plan_roles(
    state_server: AzureStateServer | None, app: Json, check_again: Callable[[], Iterator[CheckResult]]
) -> tuple[Repair | None, str]:
    """What lets the server read the task hubs of an app, and advice if only a person can do it."""
    provider = app["taskHubs"]
    if provider is None or provider["provider"] != "azureStorage":
        return None, ""
    commands = (
        "The commands are az role assignment create --assignee-object-id PRINCIPAL --assignee-principal-type "
        f"ServicePrincipal --scope ACCOUNT_ID --role, with each of: {', '.join(ROLES)}"
    )
    if state_server is None:
        return None, f"{commands}. With --resource-group, --fix can give them"
    try:
        assignment = _find_identity_and_account(state_server, provider)
    except AzureUnavailable as error:
        return None, f"{commands}. They cannot be given from here: {error.message}"
    if assignment is None:
        return None, commands
    principal, account, scope = assignment

    def assign() -> str:
        for role in ROLES:
            state_server.assign_role(principal=principal, role=role, scope=scope)
        return f"gave the server's identity {principal} the roles {', '.join(ROLES)} on storage account {account}"

    question = (
        f"Give the server's identity {principal} the roles {', '.join(ROLES)} on storage account {account}? They let "
        "it read all tables, queues and blobs of the account."
    )
    return Repair(question, assign, check_again), ""


def _find_identity_and_account(
    state_server: AzureStateServer, provider: Mapping[str, Any]
) -> tuple[str, str, str] | None:
    """The object id of the server's identity, and name and id of the storage account. None if the settings of the
    server do not show them, as with a connection string. Raises AzureUnavailable."""
    app = state_server.find()
    if app is None:
        return None
    names = [f"{provider['connection']}{suffix}" for suffix in (_NAME_SUFFIX, _URI_SUFFIX, _CLIENT_SUFFIX)]
    name, uri, client_id = map(state_server.read_settings(app, names).get, names)
    account = name or _find_account(uri or "")
    principal = state_server.list_identities(app).get(client_id or "")
    scope = state_server.list_storage_accounts().get(account)
    return (principal, account, scope) if principal and scope else None


def _find_account(table_service_uri: str) -> str:
    """The storage account with this URI; empty for a domain of its own, which does not begin with the account's
    name. Another account could have that name."""
    account, _, domain = (urlsplit(table_service_uri).hostname or "").partition(".")
    return account if ".table." in f".{domain}" else ""
