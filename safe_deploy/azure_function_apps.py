"""The Function Apps of releases in Azure: which one has an address, and which of its functions are disabled. Hides the
commands of `az` and the spellings of the settings that disable functions."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from safe_deploy import app_settings
from safe_deploy.addresses import is_on_this_machine
from safe_deploy.app_settings import Site
from safe_deploy.azure_cli import (
    AZ_TIMEOUT_SECONDS,
    AzureCli,
    AzureResource,
    AzureUnavailable,
    is_valid_name,
    require_valid_name,
)
from safe_deploy.errors import CommandError, UsageError

_FUNCTION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,126}")
"""The same pattern as the server's for the policy `quiesceFunctions`."""

_DISABLING_SETTING = re.compile(r"AzureWebJobs[._](.+)[._]Disabled", re.IGNORECASE)
"""The Functions host reads the name with dots, and the same with underscores."""

_ENABLED_VALUES = frozenset({"1", "true"})
"""The values by which the Functions host takes a setting for switched on, compared without case."""


class FunctionAppNotFound(CommandError):
    """No Function App in the resource group has the address of a release: it was not created yet, or it is deleted."""


@dataclass(frozen=True, slots=True)
class _DisablingSetting:
    """An app setting that disables a function if it is switched on."""

    name: str
    function: str
    is_on: bool


class FunctionApps:
    """The Function Apps of one resource group. Nothing is cached. Raises UsageError for an invalid name of a group."""

    def __init__(
        self,
        resource_group: str,
        *,
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = AZ_TIMEOUT_SECONDS,
    ) -> None:
        require_valid_name("resource group", resource_group)
        self.resource_group = resource_group
        self._az = AzureCli(environment=environment, timeout_seconds=timeout_seconds)

    def find_by_address(self, address: str) -> str:
        """The name of the Function App whose host name is that of a release's address.

        Raises FunctionAppNotFound if there is none, CommandError if there are several or if the address is on this
        machine, and AzureUnavailable.
        """
        if is_on_this_machine(address):
            raise CommandError(
                f"the address {address} is on this machine, so Azure has no Function App for it. Omit --resource-group"
            )
        host = _host_of(address)
        names = sorted(name for name, hosts in self._list_host_names() if host in hosts)
        group = f"resource group {self.resource_group!r}"
        if not names:
            raise FunctionAppNotFound(
                f"no Function App in {group} has the host name {host}. Check --resource-group, the address of the "
                "release, and the subscription with `az account show`"
            )
        if len(names) > 1:
            raise CommandError(
                f"several Function Apps in {group} have the host name {host}: {', '.join(names)}. Remove the host name "
                "from all but one"
            )
        return names[0]

    def list_own_addresses(self, function_app: str, addresses: Iterable[str]) -> list[str]:
        """Those of the addresses that lead to this Function App. Raises AzureUnavailable."""
        hosts = dict(self._list_host_names()).get(function_app, frozenset[str]())
        return [address for address in addresses if _host_of(address) in hosts]

    def read_setting(self, function_app: str, name: str) -> str | None:
        """The value of one app setting, None without it. It may be a secret: do not print it. Raises
        AzureUnavailable."""
        require_valid_name("app setting", name)
        return app_settings.read_setting(self._az, self._find_site(function_app), name)

    def read_settings(self, function_app: str, names: Sequence[str]) -> dict[str, str]:
        """The values of the app settings with exactly these names. They may be secrets. Raises AzureUnavailable."""
        return app_settings.read_settings(self._az, self._find_site(function_app), names)

    def change_settings(self, function_app: str, values: Mapping[str, str]) -> None:
        """Set app settings, which restarts the app. Raises AzureUnavailable."""
        app_settings.change_settings(self._az, self._find_site(function_app), values)

    def read_task_hub(self, function_app: str, setting: str) -> str | None:
        """The task hub name in an app setting, None without it. Raises AzureUnavailable, and TaskHubNameUnknown for a
        value that is no task hub name."""
        value = self.read_setting(function_app, setting)
        resource = self._find_site(function_app).resource
        return app_settings.require_task_hub_name(value, setting=setting, resource=resource) if value else None

    def list_disabled(self, function_app: str) -> frozenset[str]:
        """The names of the functions that are disabled by app settings, as the settings spell them. The host compares
        them without case. Raises AzureUnavailable."""
        settings = self._list_disabling_settings(self._find_site(function_app))
        return frozenset(setting.function for setting in settings if setting.is_on)

    def set_disabled(self, function_app: str, functions: Sequence[str], *, disabled: bool) -> None:
        """Disable or enable functions, in one change of the app's settings, which restarts the app. Without a
        difference nothing is changed.

        Raises UsageError for a name that cannot be disabled, and AzureUnavailable, also if the settings are not as
        wanted afterwards.
        """
        for function in functions:
            require_function_name(function)
        site = self._find_site(function_app)
        changes = _plan_changes(self._list_disabling_settings(site), functions, disabled=disabled)
        if not changes:
            return
        resource = AzureResource(
            description=site.resource.description,
            check=site.resource.check,
            permission=f"change the settings of {site.resource.description}. Give its identity the role Website "
            "Contributor on the function app",
        )
        self._az.change(
            "functionapp config appsettings set",
            {**site.options, "--settings": tuple(f"{name}={value}" for name, value in changes.items())},
            resource,
            timeout_seconds=app_settings.CHANGE_TIMEOUT_SECONDS,
        )
        if _plan_changes(self._list_disabling_settings(site), functions, disabled=disabled):
            raise AzureUnavailable(
                f"az has changed the settings of {site.resource.description}, but they are not as wanted now. "
                "Something else, such as a deployment, changed them at the same time. Wait until it ends, and run the "
                "command again."
            )

    def _find_site(self, function_app: str) -> Site:
        """Raises AzureUnavailable for a name that Azure does not allow."""
        if not is_valid_name("function app", function_app):
            raise AzureUnavailable("az printed a name of a function app that Azure does not allow. Update az.")
        description = f"function app {function_app!r} in resource group {self.resource_group!r}"
        return Site(
            resource_group=self.resource_group,
            function_app=function_app,
            resource=AzureResource(
                description=description,
                check="--resource-group",
                permission=f"read the settings of {description}. Give its identity the role Website Contributor on the "
                "function app",
            ),
        )

    def _list_host_names(self) -> list[tuple[str, frozenset[str]]]:
        """The name and the host names, in lower case, of each Function App in the group."""
        description = f"resource group {self.resource_group!r}"
        resource = AzureResource(
            description=description,
            check="--resource-group",
            permission=f"list the function apps in {description}. Give its identity the role Reader on the resource "
            "group",
        )
        # Some versions of `az` show an app as Azure's API does, with these members in `properties`.
        members = "host:defaultHostName,hosts:hostNames"
        nested = "nestedHost:properties.defaultHostName,nestedHosts:properties.hostNames"
        response = self._az.query(
            "functionapp list",
            {"--resource-group": self.resource_group, "--query": f"{{apps:[].{{name:name,{members},{nested}}}}}"},
            resource,
        )
        apps = response.get("apps")
        if not isinstance(apps, list) or not all(isinstance(app, dict) for app in apps):
            raise AzureUnavailable(f"az printed unexpected JSON about {description}. Update az.")
        return [_parse_host_names(app, description) for app in apps]

    def _list_disabling_settings(self, site: Site) -> list[_DisablingSetting]:
        """The app's settings that disable functions. Raises AzureUnavailable, also for a value that az does not
        show."""
        names = [name for name in app_settings.list_setting_names(self._az, site) if _DISABLING_SETTING.fullmatch(name)]
        values = app_settings.read_settings(self._az, site, names)
        return [_parse_disabling_setting(name, values.get(name), site) for name in names]


def _host_of(address: str) -> str:
    """The host name of a release's address, as Azure spells it."""
    return (urlsplit(address).hostname or "").rstrip(".")


def require_function_name(name: str) -> None:
    """Raises UsageError for a function that no app setting can disable."""
    if "-" in name:
        raise UsageError(
            f"function {name!r} cannot be disabled: on Linux an app setting has no hyphen in its name. Rename the "
            "function, with underscores for example"
        )
    if _FUNCTION_NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a valid name of a function: use letters, digits and underscores, and start with a letter"
        )


def find_functions_in_state(disabled: Collection[str], functions: Iterable[str], *, is_disabled: bool) -> list[str]:
    """The functions that are, or are not, among the disabled ones. Names are compared without case."""
    lower_case = {name.lower() for name in disabled}
    return [name for name in functions if (name.lower() in lower_case) is is_disabled]


def _parse_host_names(app: Mapping[str, object], group: str) -> tuple[str, frozenset[str]]:
    """The name and the host names of a Function App in what `az` printed. Raises AzureUnavailable for unexpected
    JSON."""
    hosts: list[object] = []
    for member in ("host", "nestedHost", "hosts", "nestedHosts"):
        value = app.get(member)
        hosts += value if isinstance(value, list) else [value]
    name = app.get("name")
    if not isinstance(name, str) or not all(isinstance(host, str) for host in hosts if host is not None):
        raise AzureUnavailable(f"az printed unexpected JSON about {group}. Update az.")
    return name, frozenset(host.lower() for host in hosts if isinstance(host, str))


def _parse_disabling_setting(name: str, value: str | None, site: Site) -> _DisablingSetting:
    """The function that an app setting disables, and whether it does so now. Raises AzureUnavailable if `az` does not
    show that."""
    match = _DISABLING_SETTING.fullmatch(name)
    assert match is not None
    value = app_settings.require_value(value, setting=name, resource=site.resource)
    if app_settings.is_reference(value):
        raise AzureUnavailable(
            f"the app setting {name} of {site.resource.description} is a reference to Key Vault or App Configuration, "
            "which az does not resolve. Set it to true or false."
        )
    return _DisablingSetting(name, match[1], is_on=value.lower() in _ENABLED_VALUES)


def _plan_changes(settings: Sequence[_DisablingSetting], functions: Sequence[str], *, disabled: bool) -> dict[str, str]:
    """The settings to write, by name, so that the functions are disabled or enabled; empty if they already are."""
    changes: dict[str, str] = {}
    for function in functions:
        existing = [setting for setting in settings if setting.function.lower() == function.lower()]
        if any(setting.is_on for setting in existing) is disabled:
            continue
        if disabled:
            # Azure refuses a second setting whose name differs only in case.
            name = existing[0].name if existing else f"AzureWebJobs.{function}.Disabled"
            changes[name] = "true"
        else:
            changes |= {setting.name: "false" for setting in existing if setting.is_on}
    return changes
