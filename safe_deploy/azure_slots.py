"""The deployment slots of a Function App in Azure: the task hub and the settings of each slot, and whether the task hub
name stays with its slot."""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PureWindowsPath
from typing import NoReturn

from safe_deploy.app_settings import (
    CHANGE_TIMEOUT_SECONDS,
    Site,
    change_settings,
    read_setting,
    read_settings,
    require_task_hub_name,
)
from safe_deploy.azure_cli import (
    AZ_TIMEOUT_SECONDS,
    AzureCli,
    AzureResource,
    AzureUnavailable,
    is_valid_name,
    require_strings,
    require_valid_name,
)

PRODUCTION = "production"
"""The name of the slot that is the Function App itself."""

_SLOT_NAMES_API_VERSION = "2022-03-01"
"""Without a version `az resource` looks one up in the subscription, which a pipeline's identity may not be allowed to
do. Every Azure cloud supports this version."""

_SLOT_NAME_RULE = "use letters, digits and hyphens, without a hyphen at either end"


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionAppTarget:
    """The Function App to read, and the app setting with its task hub name. Without `subscription`, the subscription
    that `az` has selected is used. Raises UsageError for an invalid name."""

    resource_group: str
    function_app: str
    task_hub_setting: str
    subscription: str | None = None

    def __post_init__(self) -> None:
        """Check the names before `az` is run. Raises UsageError."""
        require_valid_name("resource group", self.resource_group)
        require_valid_name("function app", self.function_app)
        require_valid_name("app setting", self.task_hub_setting)
        if self.subscription is not None:
            require_valid_name("subscription", self.subscription)


class DeploymentSlots:
    """Reads one Function App. Nothing is cached, because the slots may be swapped between two calls."""

    def __init__(
        self,
        target: FunctionAppTarget,
        *,
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = AZ_TIMEOUT_SECONDS,
    ) -> None:
        self.target = target
        self._az = AzureCli(environment=environment, timeout_seconds=timeout_seconds)

    def get_task_hub(self, slot: str) -> str | None:
        """The task hub name in the slot's app setting, None without that setting. Raises AzureUnavailable."""
        setting, site = self.target.task_hub_setting, self._find_site(slot)
        value = read_setting(self._az, site, setting)
        return require_task_hub_name(value, setting=setting, resource=site.resource) if value else None

    def read_settings(self, slot: str, names: Sequence[str]) -> dict[str, str]:
        """The values of the slot's settings with exactly these names. They may be secrets: do not print them. Raises
        AzureUnavailable."""
        return read_settings(self._az, self._find_site(slot), names)

    def change_settings(self, slot: str, values: Mapping[str, str]) -> None:
        """Set app settings of a slot, which restarts the app in it. Raises AzureUnavailable."""
        change_settings(self._az, self._find_site(slot), values)

    def get_host_names(self, slot: str) -> frozenset[str]:
        """The host names of a slot, in lower case. Raises AzureUnavailable."""
        site = self._find_site(slot)
        # Some versions of `az` show an app as Azure's API does, with its members in `properties`.
        members = "host:defaultHostName,nestedHost:properties.defaultHostName"
        lists = "hosts:hostNames,nestedHosts:properties.hostNames"
        response = self._az.query(
            "functionapp show", {**site.options, "--query": f"{{{members},{lists}}}"}, site.resource
        )
        names = [response.get("host"), response.get("nestedHost")]
        for member in ("hosts", "nestedHosts"):
            names += response.get(member) or []
        return frozenset(name.lower() for name in require_strings([name for name in names if name], site.resource))

    def make_task_hub_setting_movable(self) -> None:
        """Remove the task hub setting from the list of settings that stay with their slot. Raises AzureUnavailable.

        `az functionapp config appsettings set --settings` does not remove a name from this list. The list is written as
        a whole, so it is read first, with the names of connection strings and storage mounts in it.
        """
        resource = self._describe_resource(PRODUCTION)
        permission = f"change which settings of {resource.description} stay with their slot"
        resource = replace(resource, permission=f"{permission}. Give its identity the role Website Contributor")
        options = {**self._find_site(PRODUCTION).options, "--query": "{id:id}"}
        site_id = self._az.query("functionapp show", options, resource).get("id")
        url = f"{site_id}/config/slotConfigNames?api-version={_SLOT_NAMES_API_VERSION}"
        subscription = {"--subscription": self.target.subscription}
        response = self._az.query("rest", {**subscription, "--method": "get", "--url": url}, resource)
        properties = response.get("properties")
        if not isinstance(properties, dict):
            raise AzureUnavailable(f"az printed unexpected JSON about {resource.description}. Update az.")
        names = [
            name
            for name in require_strings(properties.get("appSettingNames") or [], resource)
            if not _equals_ignoring_case(name, self.target.task_hub_setting)
        ]
        self._az.change_by_file(
            "rest",
            {**subscription, "--method": "put", "--url": url},
            ("--body", {"properties": {**properties, "appSettingNames": names}}),
            resource,
            timeout_seconds=CHANGE_TIMEOUT_SECONDS,
        )

    def is_task_hub_setting_sticky(self) -> bool:
        """Whether the setting with the task hub name stays with its slot at a swap. Raises AzureUnavailable.

        This reads the app's list of sticky names, which is the same for all slots. The member `slotSetting` that `az`
        shows with a setting is not reliable. A slot without the setting does not have it. It is false if the list
        spells the name in another case.
        """
        resource = self._describe_resource(PRODUCTION)
        response = self._az.query(
            "resource show",
            {
                "--subscription": self.target.subscription,
                "--resource-group": self.target.resource_group,
                "--namespace": "Microsoft.Web",
                "--parent": f"sites/{self.target.function_app}",
                "--resource-type": "config",
                "--name": "slotConfigNames",
                "--api-version": _SLOT_NAMES_API_VERSION,
                "--query": "{names:properties.appSettingNames}",
            },
            resource,
        )
        names = response.get("names", "")
        if names is None:
            return False
        return any(
            _equals_ignoring_case(name, self.target.task_hub_setting) for name in require_strings(names, resource)
        )

    def _find_site(self, slot: str) -> Site:
        """The slot as `az` finds it, also in messages. Production is the Function App itself, without a slot."""
        if not is_valid_name("slot", slot):
            raise AzureUnavailable(f"{slot!r} is not a valid name of a slot: {_SLOT_NAME_RULE}. Check --slot.")
        return Site(
            resource_group=self.target.resource_group,
            function_app=self.target.function_app,
            slot=None if _equals_ignoring_case(slot, PRODUCTION) else slot,
            subscription=self.target.subscription,
            resource=self._describe_resource(slot),
        )

    def _describe_slot(self, slot: str) -> str:
        """The slot in a message, with its function app and resource group."""
        app = f"function app {self.target.function_app!r} in resource group {self.target.resource_group!r}"
        return app if _equals_ignoring_case(slot, PRODUCTION) else f"slot {slot!r} of {app}"

    def _describe_resource(self, slot: str) -> AzureResource:
        """The slot in the messages of a failed query: what it is, what to check, and which permission it needs."""
        description = self._describe_slot(slot)
        return AzureResource(
            description=description,
            check="--slot, --function-app and --resource-group",
            permission=f"read the settings of {description}. Give its identity the role Website Contributor on the "
            "function app",
        )


def parse_swap_command(command: Sequence[str], task_hub_setting: str) -> tuple[FunctionAppTarget, str] | None:
    """The Function App and the slot that `az functionapp|webapp deployment slot swap` swaps with production.

    None for every other command, for a step of a swap with preview, for another target slot, and for a command that
    does not name resource group, app and slot. Raises UsageError for an invalid `task_hub_setting`.
    """
    if len(command) < 5 or PureWindowsPath(command[0]).stem.lower() != "az":
        return None
    if command[1] not in {"functionapp", "webapp"} or list(command[2:5]) != ["deployment", "slot", "swap"]:
        return None
    # `az` parses its arguments with argparse, too, so abbreviated options and forms such as -gshop match.
    parser = _SwapArgumentParser(add_help=False)
    parser.add_argument("--resource-group", "-g")
    parser.add_argument("--name", "-n")
    parser.add_argument("--slot", "-s")
    parser.add_argument("--target-slot", default=PRODUCTION)
    parser.add_argument("--action", default="swap")
    parser.add_argument("--subscription")
    try:
        arguments, _ = parser.parse_known_args(list(command[5:]))
    except _ArgumentError:
        return None
    if arguments.action.lower() != "swap" or not _equals_ignoring_case(arguments.target_slot, PRODUCTION):
        return None
    names = {"resource group": arguments.resource_group, "function app": arguments.name, "slot": arguments.slot}
    if arguments.subscription is not None:
        names["subscription"] = arguments.subscription
    if _equals_ignoring_case(arguments.slot or "", PRODUCTION) or not all(
        is_valid_name(kind, name or "") for kind, name in names.items()
    ):
        return None
    target = FunctionAppTarget(
        resource_group=arguments.resource_group,
        function_app=arguments.name,
        task_hub_setting=task_hub_setting,
        subscription=arguments.subscription,
    )
    return target, arguments.slot


def build_swap_command_line(target: FunctionAppTarget, slot: str) -> list[str]:
    """The command that swaps this slot with production."""
    options = {
        "--resource-group": target.resource_group,
        "--name": target.function_app,
        "--slot": slot,
        "--subscription": target.subscription,
    }
    words = [word for option, value in options.items() if value is not None for word in (option, value)]
    # `which` finds az.cmd on Windows. Starting "az" does not.
    return [shutil.which("az") or "az", "functionapp", "deployment", "slot", "swap", *words]


class _ArgumentError(Exception):
    """The arguments are not those of a swap."""


class _SwapArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise instead of ending the process, as argparse does by itself."""
        raise _ArgumentError(message)


def _equals_ignoring_case(first: str, second: str) -> bool:
    return first.lower() == second.lower()
