"""The state server in Azure: its Function App, found by the address that commands use, and its identity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from safe_deploy.app_settings import Site, read_settings
from safe_deploy.azure_cli import AzureCli, AzureResource, AzureUnavailable

_ROLE_TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFunctionApp:
    id: str
    name: str
    resource_group: str


class AzureStateServer:
    """Reads the Function App of the server whose address is `url`. The server may also run elsewhere."""

    def __init__(self, az: AzureCli, url: str) -> None:
        self._az = az
        self._host = (urlsplit(url).hostname or "").lower()

    def find(self) -> ServerFunctionApp | None:
        """The Function App with the server's host name; None if `az` sees none in its subscription. Raises
        AzureUnavailable."""
        resource = AzureResource(
            description="the Function Apps of the subscription",
            check="the subscription",
            permission="list the function apps. Give its identity the role Reader on the server's resource group",
        )
        hosts = "host:defaultHostName,hosts:hostNames,nestedHost:properties.defaultHostName,nested:properties.hostNames"
        query = f"{{apps:[].{{id:id,name:name,group:resourceGroup,{hosts}}}}}"
        response = self._az.query("functionapp list", {"--query": query}, resource)
        try:
            for app in response["apps"]:
                names = [app["host"], app["nestedHost"], *(app["hosts"] or []), *(app["nested"] or [])]
                if self._host in {name.lower() for name in names if name}:
                    return ServerFunctionApp(id=app["id"], name=app["name"], resource_group=app["group"])
        except (AttributeError, KeyError, TypeError):
            raise AzureUnavailable("az printed unexpected JSON about the Function Apps. Update az.") from None
        return None

    def list_identities(self, app: ServerFunctionApp) -> dict[str, str]:
        """The object ids of the app's identities by their client ids. That of the app itself has the client id "".
        Raises AzureUnavailable."""
        resource = _describe(app, f"read the identity of function app {app.name!r}. Give its identity the role Reader")
        response = self._az.query("functionapp identity show", _name_options(app), resource)
        assigned: Any = response.get("userAssignedIdentities") or {}
        try:
            identities = {str(item["clientId"]): str(item["principalId"]) for item in assigned.values()}
        except (AttributeError, KeyError, TypeError):
            raise AzureUnavailable(f"az printed unexpected JSON about {resource.description}. Update az.") from None
        own = response.get("principalId")
        return identities | ({"": str(own)} if own else {})

    def read_settings(self, app: ServerFunctionApp, names: Sequence[str]) -> dict[str, str]:
        """The values of the server's app settings with these names. Raises AzureUnavailable."""
        resource = _describe(
            app, f"read the settings of function app {app.name!r}. Give its identity Website Contributor"
        )
        site = Site(resource_group=app.resource_group, function_app=app.name, resource=resource)
        return read_settings(self._az, site, names)

    def list_storage_accounts(self, resource_group: str | None = None) -> dict[str, str]:
        """The ids of the storage accounts in a group or in the subscription, by name. Raises AzureUnavailable."""
        resource = AzureResource(
            description="the storage accounts",
            check="the subscription",
            permission="list the storage accounts. Give its identity the role Reader on the account",
        )
        response = self._az.query(
            "storage account list",
            {"--resource-group": resource_group, "--query": "{accounts:[].{id:id,name:name}}"},
            resource,
        )
        try:
            return {str(account["name"]): str(account["id"]) for account in response["accounts"]}
        except (KeyError, TypeError):
            raise AzureUnavailable("az printed unexpected JSON about the storage accounts. Update az.") from None

    def assign_role(self, *, principal: str, role: str, scope: str) -> None:
        """Give an identity a role. Raises AzureUnavailable."""
        permission = f"assign the role {role}. Its identity needs the role Role Based Access Control Administrator"
        resource = AzureResource(description=f"the scope {scope}", check="the scope", permission=permission)
        self._az.change(
            "role assignment create",
            {
                "--assignee-object-id": principal,
                "--assignee-principal-type": "ServicePrincipal",
                "--role": role,
                "--scope": scope,
            },
            resource,
            timeout_seconds=_ROLE_TIMEOUT_SECONDS,
        )


def _name_options(app: ServerFunctionApp) -> dict[str, str]:
    """The options of `az` that name the app."""
    return {"--resource-group": app.resource_group, "--name": app.name}


def _describe(app: ServerFunctionApp, permission: str) -> AzureResource:
    """The server's Function App in the messages of a failed call."""
    description = f"function app {app.name!r} in resource group {app.resource_group!r}"
    return AzureResource(description=description, check="the server's function app", permission=permission)
