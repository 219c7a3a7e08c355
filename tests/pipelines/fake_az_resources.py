"""The commands `az resource show`, `az resource patch` and `az rest` of the fake `az`, for what belongs to an app: its
slot-sticky settings, its slots, and its traffic rules.

What they do in Azure was read in the source of the Azure CLI 2.91 and in the reference of Azure's API."""

from __future__ import annotations

import json
import re

from tests.pipelines.fake_az_options import AzError
from tests.pipelines.fake_az_sites import (
    find_app,
    find_slot,
    list_sticky_settings,
    not_found_error,
    site_id,
    slot_host_name,
)

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.pipelines.fake_az_options import ParsedOptions

    Effect = Callable[[dict[str, Any], ParsedOptions], Any]

_UNSET_MEMBERS = dict.fromkeys(
    (
        "changeDecisionCallbackUrl",
        "changeIntervalInMinutes",
        "changeStep",
        "maxReroutePercentage",
        "minReroutePercentage",
    )
)
"""What Azure adds to a rule that does not change by itself."""


def _show_resource(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az resource show`"""
    app_name = (options.parent or "").removeprefix("sites/")
    if options.namespace != "Microsoft.Web":
        raise not_found_error(f"{options.parent}/{options.resource_type}/{options.name}", options.resource_group)
    app = find_app(state, options, app_name)
    if options.resource_type == "slots":
        slot = find_slot(app, options, options.name)
        properties: dict[str, Any] = {"defaultHostName": slot_host_name(app_name, options.name, slot)}
    elif (options.resource_type, options.name) == ("config", "slotConfigNames"):
        properties = {"appSettingNames": list_sticky_settings(app) or None, "connectionStringNames": None}
    elif (options.resource_type, options.name) == ("config", "web"):
        properties = _read_web_configuration(app)
    else:
        raise not_found_error(f"{options.parent}/{options.resource_type}/{options.name}", options.resource_group)
    return {
        "id": f"{site_id(options.resource_group, app_name)}/{options.resource_type}/{options.name}",
        "name": app_name,
        "properties": properties,
        "resourceGroup": options.resource_group,
        "type": "Microsoft.Web/sites",
    }


def _read_web_configuration(app: dict[str, Any]) -> dict[str, Any]:
    """The site configuration. For as many reads as a test has set, it has the rules from before the last change."""
    rules = app.get("rampUpRules", [])
    if app.get("staleReads", 0) > 0:
        app["staleReads"] -= 1
        rules = app.get("previousRampUpRules", [])
    return {"alwaysOn": False, "experiments": {"rampUpRules": [{**_UNSET_MEMBERS, **rule} for rule in rules]}}


def _patch_resource(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az resource patch` for the traffic rules, which are replaced as a whole. Azure accepts any host name."""
    app_name = (options.parent or "").removeprefix("sites/")
    if (options.namespace, options.resource_type, options.name) != ("Microsoft.Web", "config", "web"):
        raise not_found_error(f"{options.parent}/{options.resource_type}/{options.name}", options.resource_group)
    app = find_app(state, options, app_name)
    rules = _parse_properties(options.properties)["experiments"]["rampUpRules"]
    shares = [rule["reroutePercentage"] for rule in rules]
    if sum(shares) > 100 or min(shares, default=0) < 0:
        raise AzError("(BadRequest) The shares of all rules must be between 0 and 100.\nCode: BadRequest")
    app["previousRampUpRules"] = app.get("rampUpRules", [])
    app["staleReads"] = app.get("staleReadsAfterChange", 0)
    if not app.get("ignoresChanges"):
        app["rampUpRules"] = rules
    return _show_resource(state, options)


def _send_request(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az rest` for the list of slot-sticky settings, which is read, and written as a whole."""
    match = re.fullmatch(
        r"/subscriptions/[^/]+/resourceGroups/([^/]+)/providers/Microsoft\.Web/sites/([^/]+)/config/slotConfigNames"
        r"\?api-version=2022-03-01",
        options.url,
    )
    if match is None:
        raise AzError(f"Not Found({options.url})")
    app = next(
        (
            app
            for name, app in state["apps"].items()
            if name.lower() == match[2].lower() and app.get("resourceGroup", match[1]).lower() == match[1].lower()
        ),
        None,
    )
    if app is None:
        raise AzError("Not Found({...ResourceNotFound...})")
    if options.method.lower() == "put":
        properties = _parse_properties(options.body)["properties"]
        app["sticky"] = properties["appSettingNames"]
        app["stickyConnectionStrings"] = properties.get("connectionStringNames")
        for slot in app["slots"].values():
            for name, setting in slot.get("settings", {}).items():
                setting["slotSetting"] = name in app["sticky"]
    return {
        "name": match[2],
        "properties": {
            "appSettingNames": list_sticky_settings(app) or None,
            "azureStorageConfigNames": None,
            "connectionStringNames": app.get("stickyConnectionStrings"),
        },
    }


def _parse_properties(text: str) -> Any:
    """The JSON of `--properties` or `--body`."""
    try:
        return json.loads(text)
    except ValueError:
        raise AzError("Error parsing JSON.") from None


_RESOURCE = "--resource-group/-g! --namespace! --parent --resource-type! --name/-n! --api-version"

RESOURCE_COMMANDS: dict[str, tuple[str, str, Effect]] = {
    "rest": ("rest", "--method/-m --url/-u! --body/-b", _send_request),
    "resource show": ("resource show", _RESOURCE, _show_resource),
    "resource patch": ("resource patch", f"{_RESOURCE} --properties/-p! --is-full-object?", _patch_resource),
}
"""The key of each command's faults, its options, and its effect."""
