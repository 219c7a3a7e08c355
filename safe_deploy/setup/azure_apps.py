"""What `az` shows of a durable app before it is guarded: the account, the Function Apps, their slots and task hub."""

from dataclasses import dataclass
from typing import Any

from safe_deploy import app_settings
from safe_deploy.azure_cli import AzureCli, AzureResource, AzureUnavailable, require_strings, require_valid_name

_ACCOUNT = AzureResource(description="the account", check="az login", permission="read the account")

_SUBSCRIPTION = AzureResource(
    description="the subscription",
    check="the subscription",
    permission="list function apps. Give its identity the role Reader on the resource groups",
)


@dataclass(frozen=True, slots=True)
class AzureAccount:
    """The subscription that `az` uses, and its tenant."""

    subscription: str
    tenant: str


@dataclass(frozen=True, slots=True)
class SeenFunctionApp:
    """A Function App as `az functionapp list` shows it."""

    name: str
    resource_group: str
    location: str
    host_names: frozenset[str]
    is_flex_consumption: bool


class AzureApps:
    """The Function Apps of the subscription."""

    def __init__(self) -> None:
        self._az = AzureCli()

    def read_account(self) -> AzureAccount:
        """The account that is logged in. Raises AzureUnavailable."""
        response = self._az.query("account show", {"--query": "{subscription:id,tenant:tenantId}"}, _ACCOUNT)
        subscription, tenant = require_strings([response.get("subscription"), response.get("tenant")], _ACCOUNT)
        return AzureAccount(subscription, tenant)

    def list_function_apps(self) -> list[SeenFunctionApp]:
        """The Function Apps of all resource groups, by name. Raises AzureUnavailable."""
        # Some versions of `az` show an app as Azure's API does, with these members in `properties`.
        members = "host:defaultHostName,hosts:hostNames,sku:sku"
        nested = "nestedHost:properties.defaultHostName,nestedHosts:properties.hostNames,nestedSku:properties.sku"
        query = f"{{apps:[].{{name:name,group:resourceGroup,location:location,kind:kind,{members},{nested}}}}}"
        apps = self._az.query("functionapp list", {"--query": query}, _SUBSCRIPTION).get("apps")
        if not isinstance(apps, list) or not all(isinstance(app, dict) for app in apps):
            raise AzureUnavailable(f"az printed unexpected JSON about {_SUBSCRIPTION.description}. Update az.")
        # A Logic App is of this resource type, too.
        seen = [_parse_function_app(app) for app in apps if "workflowapp" not in str(app.get("kind"))]
        return sorted(seen, key=lambda app: app.name)

    def list_slots(self, app: SeenFunctionApp) -> list[str]:
        """The deployment slots of an app, without production. Raises AzureUnavailable."""
        site = _site(app.resource_group, app.name)
        response = self._az.query(
            "functionapp deployment slot list", {**site.options, "--query": "{names:[].name}"}, site.resource
        )
        return require_strings(response.get("names"), site.resource)

    def read_setting(self, resource_group: str, function_app: str, setting: str) -> str | None:
        """The value of an app setting of production; None without it. Raises AzureUnavailable."""
        site = _site(resource_group, function_app)
        return app_settings.read_setting(self._az, site, setting)


def _site(resource_group: str, function_app: str) -> app_settings.Site:
    require_valid_name("resource group", resource_group)
    require_valid_name("function app", function_app)
    description = f"function app {function_app!r} in resource group {resource_group!r}"
    return app_settings.Site(
        resource_group=resource_group,
        function_app=function_app,
        resource=AzureResource(
            description=description,
            check="--function-app and --resource-group",
            permission=f"read {description}. Give its identity the role Website Contributor on the function app",
        ),
    )


def _parse_function_app(app: dict[str, Any]) -> SeenFunctionApp:
    hosts: list[object] = []
    for member in ("host", "nestedHost", "hosts", "nestedHosts"):
        value = app.get(member)
        hosts += value if isinstance(value, list) else [value]
    return SeenFunctionApp(
        name=str(app.get("name")),
        resource_group=str(app.get("group")),
        location=str(app.get("location") or ""),
        host_names=frozenset(host.lower() for host in hosts if isinstance(host, str)),
        is_flex_consumption="flexconsumption" in f"{app.get('sku')} {app.get('nestedSku')}".lower(),
    )
