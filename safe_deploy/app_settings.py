"""Reads and sets app settings of a Function App or of one of its slots, without reading the values of other settings.

App settings hold connection strings. Therefore `az` is queried for the names of all settings, and for the values of the
named ones only. App Service and the Functions host ignore the case of a setting's name. A query of `az` does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from safe_deploy.azure_cli import AzureCli, AzureResource, AzureUnavailable, is_valid_name, require_strings

CHANGE_TIMEOUT_SECONDS = 180
"""How long a change of app settings may take. `az` reads all settings and writes them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A Function App, or one of its slots."""

    resource_group: str
    function_app: str
    resource: AzureResource
    slot: str | None = None
    subscription: str | None = None

    @property
    def options(self) -> dict[str, str | None]:
        """The options of `az` that name this site."""
        return {
            "--subscription": self.subscription,
            "--resource-group": self.resource_group,
            "--name": self.function_app,
            "--slot": self.slot,
        }


def list_setting_names(az: AzureCli, site: Site) -> list[str]:
    """The names of all app settings, as they are spelled. Raises AzureUnavailable."""
    response = az.query(_LIST_COMMAND, {**site.options, "--query": "{names:[].name}"}, site.resource)
    return require_strings(response.get("names"), site.resource)


def read_settings(az: AzureCli, site: Site, names: Sequence[str]) -> dict[str, str]:
    """The values of the settings with exactly these names. Settings that are missing are left out. Raises
    AzureUnavailable."""
    # One member a setting, because `|` would be an operator of the shell that runs az.cmd on Windows.
    members = {f"value{index}": name for index, name in enumerate(names) if is_valid_name("app setting", name)}
    if not members:
        return {}
    query = ",".join(f"{member}:[?name=='{name}'].value" for member, name in members.items())
    response = az.query(_LIST_COMMAND, {**site.options, "--query": f"{{{query}}}"}, site.resource)
    values = {name: require_strings(response.get(member), site.resource) for member, name in members.items()}
    return {name: values_of_name[0] for name, values_of_name in values.items() if values_of_name}


def read_setting(az: AzureCli, site: Site, name: str) -> str | None:
    """The value of one setting, whose name is compared without case; None without that setting. Raises
    AzureUnavailable."""
    query = f"{{names:[].name,values:[?name=='{name}'].value}}"
    response = az.query(_LIST_COMMAND, {**site.options, "--query": query}, site.resource)
    names = require_strings(response.get("names"), site.resource)
    values = require_strings(response.get("values"), site.resource)
    spellings = [other for other in names if other.lower() == name.lower() and is_valid_name("app setting", other)]
    if not spellings:
        return None
    if name not in spellings:
        values = list(read_settings(az, site, spellings[:1]).values())
    return require_value(values[0] if values else None, setting=spellings[0], resource=site.resource)


def require_value(value: str | None, *, setting: str, resource: AzureResource) -> str:
    """The value of a setting that `az` has listed. Raises AzureUnavailable if `az` does not show it."""
    if value is None:
        raise AzureUnavailable(
            f"az lists the app setting {setting} of {resource.description}, but does not show its value. Run the "
            "command again. If that does not help, update az."
        )
    return value


def change_settings(az: AzureCli, site: Site, values: Mapping[str, str]) -> None:
    """Set app settings, which restarts the app. Their values do not become arguments, because they may be secrets.
    Raises AzureUnavailable."""
    permission = f"change the settings of {site.resource.description}. Give its identity the role Website Contributor"
    az.change_by_file(
        "functionapp config appsettings set",
        site.options,
        ("--settings", dict(values)),
        replace(site.resource, permission=permission),
        timeout_seconds=CHANGE_TIMEOUT_SECONDS,
    )


def is_reference(value: str) -> bool:
    """Whether the value refers to Key Vault or App Configuration. `az` shows the reference, not the value."""
    return value.lower().startswith("@microsoft.")


class TaskHubNameUnknown(AzureUnavailable):
    """The value of the app setting is not a task hub name. The message does not hold the value."""


def require_task_hub_name(value: str, *, setting: str, resource: AzureResource) -> str:
    """The value of an app setting, if it is a task hub name. Raises TaskHubNameUnknown with what to check."""
    subject = f"the app setting {setting} of {resource.description}"
    if is_reference(value):
        raise TaskHubNameUnknown(
            f"{subject} is a reference to Key Vault or App Configuration, which az does not resolve. "
            "Set it to the task hub name itself."
        )
    if not is_valid_name("task hub", value):
        raise TaskHubNameUnknown(
            f"{subject} is not a task hub name (3 to 45 letters and digits, starting with a letter). "
            "Check --task-hub-setting and the value of the setting."
        )
    return value


_LIST_COMMAND = "functionapp config appsettings list"
