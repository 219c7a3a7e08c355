"""The commands of the fake `az`: their options, and their effects on the fake cloud."""

# ruff: noqa: PTH113, PTH119  # importing pathlib takes longer than a whole call
from __future__ import annotations

import json
import os

from tests.pipelines.fake_az_flex_consumption import FLEX_CONSUMPTION_COMMANDS, start_app
from tests.pipelines.fake_az_options import AzError
from tests.pipelines.fake_az_schedulers import SCHEDULER_COMMANDS
from tests.pipelines.fake_cloud import PRODUCTION, SUBSCRIPTION

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.pipelines.fake_az_options import ParsedOptions

    Effect = Callable[[dict[str, Any], ParsedOptions], Any]


def _not_found_error(kind: str, group: str) -> AzError:
    """The error of `az` for a resource that the group does not have."""
    message = f"The Resource 'Microsoft.Web/{kind}' under resource group '{group}' was not found."
    return AzError(f"(ResourceNotFound) {message}\nCode: ResourceNotFound\nMessage: {message}", 3)


def _find_app(state: dict[str, Any], options: ParsedOptions, name: str | None = None) -> dict[str, Any]:
    """The app that the options name, compared without case. Raises AzError."""
    app_name = name or options.name
    for known, app in state["apps"].items():
        group = app.get("resourceGroup", options.resource_group)
        if known.lower() == app_name.lower() and group.lower() == options.resource_group.lower():
            app_state: dict[str, Any] = app
            return app_state
    raise _not_found_error(f"sites/{app_name}", options.resource_group)


def _find_slot(app: dict[str, Any], options: ParsedOptions, name: str | None) -> dict[str, Any]:
    """The slot with this name, production without a name. Raises AzError."""
    for known, slot in app["slots"].items():
        if known.lower() == (name or PRODUCTION).lower():
            slot_state: dict[str, Any] = slot
            slot_state.setdefault("settings", {})
            return slot_state
    raise _not_found_error(f"sites/{options.name}/slots/{name}", options.resource_group)


def _list_sticky_settings(app: dict[str, Any]) -> list[str]:
    """The app's list of slot settings, which all of its slots share."""
    names = list(app.get("sticky", []))
    for slot in app["slots"].values():
        for name, setting in slot.get("settings", {}).items():
            if setting.get("slotSetting") and name not in names:
                names.append(name)
    app["sticky"] = names
    return names


def _list_settings(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp config appsettings list`"""
    app = _find_app(state, options)
    slot, sticky = _find_slot(app, options, options.slot), _list_sticky_settings(app)
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
    app = _find_app(state, options)
    slot, sticky = _find_slot(app, options, options.slot), _list_sticky_settings(app)
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


def _show_resource(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az resource show` for the list of an app's slot-sticky settings, and for nothing else."""
    name = (options.parent or "").removeprefix("sites/")
    if (options.namespace, options.resource_type, options.name) != ("Microsoft.Web", "config", "slotConfigNames"):
        raise _not_found_error(f"{options.parent}/{options.resource_type}/{options.name}", options.resource_group)
    sticky = _list_sticky_settings(_find_app(state, options, name))
    return {
        "id": f"{_site_id(options.resource_group, name)}/config/slotConfigNames",
        "name": name,
        "properties": {"appSettingNames": sticky or None, "connectionStringNames": None},
        "resourceGroup": options.resource_group,
        "type": "Microsoft.Web/sites",
    }


def _swap(state: dict[str, Any], options: ParsedOptions) -> None:
    """`az functionapp deployment slot swap`: packages and settings are exchanged. Slot-sticky settings stay."""
    if options.action not in {None, "swap"}:
        raise AzError("The fake does not support swaps with preview.", 2)
    app = _find_app(state, options)
    source, target = _find_slot(app, options, options.slot), _find_slot(app, options, options.target_slot)
    sticky = {name.lower() for name in _list_sticky_settings(app)}

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
    slot = _find_slot(_find_app(state, options), options, options.slot)
    slot["package"] = os.path.basename(options.src)
    start_app(state, slot["settings"])
    return {"active": True, "complete": True, "deployer": "Push-Deployer", "provisioningState": "Succeeded"}


def _set_state(app_state: str) -> Effect:
    """The effect of `az functionapp start` or `stop`: the slot is `Running` or `Stopped`."""

    def set_state(state: dict[str, Any], options: ParsedOptions) -> None:
        """Put the site into this state."""
        _find_slot(_find_app(state, options), options, options.slot)["state"] = app_state

    return set_state


def _show_app(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp show`"""
    slot = _find_slot(_find_app(state, options), options, options.slot)
    is_slot = options.slot is not None and options.slot.lower() != PRODUCTION
    host = f"{options.name}-{options.slot}" if is_slot else options.name
    return {
        "defaultHostName": f"{host}.azurewebsites.net",
        "id": _site_id(options.resource_group, options.name) + (f"/slots/{options.slot}" if is_slot else ""),
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
        members = {"defaultHostName": default, "hostNames": [*app.get("hostNames", []), default]}
        members = {"properties": members} if app.get("nested") else members
        fixed = {"id": _site_id(app_group, name), "kind": "functionapp,linux", "name": name, "resourceGroup": app_group}
        listed.append(fixed | members | {"type": "Microsoft.Web/sites"})
    return listed


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


def _site_id(group: str, app: str) -> str:
    """The resource id of a Function App, as Azure shows it."""
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Web/sites/{app}"


_SITE = "--resource-group/-g! --name/-n!"
_RESOURCE = "--resource-group/-g! --namespace! --parent --resource-type! --name/-n! --api-version"

COMMANDS: dict[str, tuple[str, str, Effect]] = {
    "functionapp list": ("functionapp list", "--resource-group/-g", _list_apps),
    "account show": ("account show", "", _show_account),
    "login": ("login", "--username/-u --password/-p --tenant/-t --service-principal? --identity?", _login),
    "resource show": ("resource show", _RESOURCE, _show_resource),
}
"""The key of each command's faults, its options, and its effect."""

COMMANDS |= SCHEDULER_COMMANDS | FLEX_CONSUMPTION_COMMANDS

for _kind in ("functionapp", "webapp"):
    _swap_options = f"{_SITE} --slot/-s! --target-slot --action --preserve-vnet"
    _set_options = f"{_SITE} --slot/-s --settings+ --slot-settings+"
    COMMANDS |= {
        f"{_kind} config appsettings list": ("appsettings list", f"{_SITE} --slot/-s", _list_settings),
        f"{_kind} config appsettings set": ("appsettings set", _set_options, _set_settings),
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
