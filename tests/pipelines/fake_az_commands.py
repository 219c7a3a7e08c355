"""The commands of the fake `az`: their options, and their effects on the fake cloud."""

# ruff: noqa: PTH113, PTH119  # importing pathlib takes longer than a whole call
from __future__ import annotations

import json
import os

from tests.pipelines.fake_az_event_grid import EVENT_GRID_COMMANDS
from tests.pipelines.fake_az_flex_consumption import FLEX_CONSUMPTION_COMMANDS, start_app
from tests.pipelines.fake_az_identities import IDENTITY_COMMANDS
from tests.pipelines.fake_az_options import AzError
from tests.pipelines.fake_az_resources import RESOURCE_COMMANDS
from tests.pipelines.fake_az_schedulers import SCHEDULER_COMMANDS
from tests.pipelines.fake_az_sites import find_app, find_slot, list_sticky_settings, site_id, slot_host_name
from tests.pipelines.fake_cloud import PRODUCTION, SUBSCRIPTION

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.pipelines.fake_az_options import ParsedOptions

    Effect = Callable[[dict[str, Any], ParsedOptions], Any]


def _list_settings(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp config appsettings list`"""
    app = find_app(state, options)
    slot, sticky = find_slot(app, options, options.slot), list_sticky_settings(app)
    # As in `az`, names are compared case-sensitively.
    return [
        {"name": name, "slotSetting": name in sticky, "value": setting["value"]}
        for name, setting in slot["settings"].items()
    ]


def _set_settings(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp config appsettings set`: refuses a name that differs from an existing one only in case, and as
    Azure does for apps on Linux, a name with a hyphen. The app restarts."""
    if not options.settings and not options.slot_settings:
        raise AzError("Please provide either --settings or --slot-settings parameter.")
    app = find_app(state, options)
    slot, sticky = find_slot(app, options, options.slot), list_sticky_settings(app)
    slot_settings = _parse_settings(options.slot_settings)
    for name, value in [*_parse_settings(options.settings), *slot_settings]:
        if "-" in name:  # on Linux
            message = f"AppSetting with name '{name}' is not allowed."
            raise AzError(f"(BadRequest) {message}\nCode: BadRequest\nMessage: {message}")
        if any(known != name and known.lower() == name.lower() for known in slot["settings"]):
            raise AzError("Operation returned an invalid status 'Conflict'")
        slot["settings"][name] = {"value": value, "slotSetting": False}
        if (name, value) in slot_settings and name not in sticky:
            sticky.append(name)
    slot["restarts"] = slot.get("restarts", 0) + 1
    for any_slot in app["slots"].values():
        for name, setting in any_slot.get("settings", {}).items():
            setting["slotSetting"] = name in sticky
    # As in `az`, the values are hidden, and `slotSetting` is true only if the call set slot settings.
    named = sticky if options.slot_settings else []
    return [{"name": name, "slotSetting": name in named, "value": None} for name in slot["settings"]]


def _parse_settings(texts: list[str] | None) -> list[tuple[str, str]]:
    """The names and values of settings, each written as `NAME=VALUE`, or several as a JSON object."""
    pairs: list[tuple[str, str]] = []
    for text in texts or []:
        if text.startswith("{"):
            pairs += json.loads(text).items()
            continue
        name, separator, value = text.partition("=")
        if not separator:
            raise AzError(f"Invalid setting format: '{text}'. Expected 'key=value' format or valid JSON.", 2)
        pairs.append((name, value))
    return pairs


def _swap(state: dict[str, Any], options: ParsedOptions) -> None:
    """`az functionapp deployment slot swap`: packages and settings are exchanged. Slot-sticky settings stay."""
    if options.action not in {None, "swap"}:
        raise AzError("The fake does not support swaps with preview.", 2)
    app = find_app(state, options)
    source, target = find_slot(app, options, options.slot), find_slot(app, options, options.target_slot)
    sticky = {name.lower() for name in list_sticky_settings(app)}

    def keep_sticky(settings: dict[str, Any]) -> dict[str, Any]:
        """The settings that stay with the slot at a swap."""
        return {name: setting for name, setting in settings.items() if name.lower() in sticky}

    def drop_sticky(settings: dict[str, Any]) -> dict[str, Any]:
        """The settings that move with the code at a swap."""
        return {name: setting for name, setting in settings.items() if name.lower() not in sticky}

    source_settings, target_settings = source["settings"], target["settings"]
    source["settings"] = keep_sticky(source_settings) | drop_sticky(target_settings)
    target["settings"] = keep_sticky(target_settings) | drop_sticky(source_settings)
    source["package"], target["package"] = target.get("package"), source.get("package")


def _deploy(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp deployment source config-zip`: the slot's package is the name of the file."""
    if not os.path.isfile(options.src):
        raise AzError(f"'{options.src}' is not a valid local file path or you do not have permissions to access it")
    slot = find_slot(find_app(state, options), options, options.slot)
    slot["package"] = os.path.basename(options.src)
    start_app(state, slot["settings"])
    return {"active": True, "complete": True, "deployer": "Push-Deployer", "provisioningState": "Succeeded"}


def _set_state(app_state: str) -> Effect:
    """The effect of `az functionapp start` or `stop`: the slot is `Running` or `Stopped`."""

    def set_state(state: dict[str, Any], options: ParsedOptions) -> None:
        """Put the site into this state."""
        find_slot(find_app(state, options), options, options.slot)["state"] = app_state

    return set_state


def _show_app(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp show`"""
    app = find_app(state, options)
    slot = find_slot(app, options, options.slot)
    is_slot = options.slot is not None and options.slot.lower() != PRODUCTION
    return {
        "defaultHostName": slot_host_name(options.name, options.slot or PRODUCTION, slot),
        "id": site_id(options.resource_group, options.name) + (f"/slots/{options.slot}" if is_slot else ""),
        "kind": "functionapp,linux",
        "name": f"{options.name}/{options.slot}" if is_slot else options.name,
        "resourceGroup": options.resource_group,
        "state": slot.get("state", "Running"),
        "type": "Microsoft.Web/sites/slots" if is_slot else "Microsoft.Web/sites",
    }


def _list_apps(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp list`: the apps of a group, or of the subscription. An app's `hostNames` are a member of its
    state, and `nested` apps are shown as Azure's API does, with their members in `properties`."""
    group = options.resource_group
    groups = {app.get("resourceGroup", "").lower() for app in state["apps"].values()}
    if group and group.lower() not in groups | {name.lower() for name in state["groups"]}:
        message = f"Resource group '{group}' could not be found."
        raise AzError(f"(ResourceGroupNotFound) {message}\nCode: ResourceGroupNotFound\nMessage: {message}", 3)
    listed = []
    for name, app in state["apps"].items():
        app_group = app.get("resourceGroup", group)
        if group and app_group.lower() != group.lower():
            continue
        default = app.get("defaultHostName", f"{name}.azurewebsites.net".lower())
        sku = "FlexConsumption" if "plan" in app else "Standard"
        members = {"defaultHostName": default, "hostNames": [*app.get("hostNames", []), default], "sku": sku}
        members = {"properties": members} if app.get("nested") else members
        fixed = {
            "id": site_id(app_group, name),
            "kind": app.get("kind", "functionapp,linux"),
            "location": app.get("location", "West Europe"),
            "name": name,
            "resourceGroup": app_group,
        }
        listed.append(fixed | members | {"type": "Microsoft.Web/sites"})
    return listed


def _list_slots(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp deployment slot list`: the slots without production."""
    app = find_app(state, options)
    return [
        {
            "id": f"{site_id(options.resource_group, options.name)}/slots/{slot}",
            "name": slot,
            "resourceGroup": options.resource_group,
            "type": "Microsoft.Web/sites/slots",
        }
        for slot in app["slots"]
        if slot != PRODUCTION
    ]


def _show_account(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az account show`"""
    return {
        "environmentName": "AzureCloud",
        "id": options.subscription or SUBSCRIPTION,
        "isDefault": True,
        "name": "stand-in",
        "state": "Enabled",
        "tenantId": SUBSCRIPTION,
        "user": {"name": "pipeline", "type": "servicePrincipal"},
    }


def _login(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az login`: print the account that is signed in."""
    return [_show_account(state, options)]


_SITE = "--resource-group/-g! --name/-n!"

COMMANDS: dict[str, tuple[str, str, Effect]] = {
    "functionapp list": ("functionapp list", "--resource-group/-g", _list_apps),
    "account show": ("account show", "", _show_account),
    "login": ("login", "--username/-u --password/-p --tenant/-t --service-principal? --identity?", _login),
}
"""The key of each command's faults, its options, and its effect."""

COMMANDS |= EVENT_GRID_COMMANDS | IDENTITY_COMMANDS
COMMANDS |= RESOURCE_COMMANDS | SCHEDULER_COMMANDS | FLEX_CONSUMPTION_COMMANDS

for _kind in ("functionapp", "webapp"):
    _swap_options = f"{_SITE} --slot/-s! --target-slot --action --preserve-vnet"
    _set_options = f"{_SITE} --slot/-s --settings+ --slot-settings+"
    COMMANDS |= {
        f"{_kind} config appsettings list": ("appsettings list", f"{_SITE} --slot/-s", _list_settings),
        f"{_kind} config appsettings set": ("appsettings set", _set_options, _set_settings),
        f"{_kind} deployment slot list": ("slot list", _SITE, _list_slots),
        f"{_kind} deployment slot swap": ("swap", _swap_options, _swap),
        f"{_kind} deployment source config-zip": (
            "config-zip",
            f"{_SITE} --src! --slot/-s --build-remote --timeout/-t",
            _deploy,
        ),
        f"{_kind} start": ("start", f"{_SITE} --slot/-s", _set_state("Running")),
        f"{_kind} stop": ("stop", f"{_SITE} --slot/-s", _set_state("Stopped")),
        f"{_kind} restart": ("restart", f"{_SITE} --slot/-s", _set_state("Running")),
        f"{_kind} show": ("show", f"{_SITE} --slot/-s", _show_app),
    }
