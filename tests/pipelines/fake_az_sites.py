"""The Function Apps and slots of the fake cloud, as the commands of the fake `az` find them."""

from __future__ import annotations

from tests.pipelines.fake_az_options import AzError
from tests.pipelines.fake_cloud import PRODUCTION, SUBSCRIPTION

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from typing import Any

    from tests.pipelines.fake_az_options import ParsedOptions


def not_found_error(kind: str, group: str) -> AzError:
    """The error of `az` for a resource that the group does not have."""
    message = f"The Resource 'Microsoft.Web/{kind}' under resource group '{group}' was not found."
    return AzError(f"(ResourceNotFound) {message}\nCode: ResourceNotFound\nMessage: {message}", 3)


def find_app(state: dict[str, Any], options: ParsedOptions, name: str | None = None) -> dict[str, Any]:
    """The app that the options name, compared without case. Raises AzError."""
    app_name = name or options.name
    for known, app in state["apps"].items():
        group = app.get("resourceGroup", options.resource_group)
        if known.lower() == app_name.lower() and group.lower() == options.resource_group.lower():
            app_state: dict[str, Any] = app
            return app_state
    raise not_found_error(f"sites/{app_name}", options.resource_group)


def find_slot(app: dict[str, Any], options: ParsedOptions, name: str | None) -> dict[str, Any]:
    """The slot with this name, production without a name. Raises AzError."""
    for known, slot in app["slots"].items():
        if known.lower() == (name or PRODUCTION).lower():
            slot_state: dict[str, Any] = slot
            slot_state.setdefault("settings", {})
            return slot_state
    raise not_found_error(f"sites/{options.name}/slots/{name}", options.resource_group)


def list_sticky_settings(app: dict[str, Any]) -> list[str]:
    """The app's list of slot settings, which all of its slots share."""
    names = list(app.get("sticky", []))
    for slot in app["slots"].values():
        for name, setting in slot.get("settings", {}).items():
            if setting.get("slotSetting") and name not in names:
                names.append(name)
    app["sticky"] = names
    return names


def site_id(group: str, app: str) -> str:
    """The resource id of a Function App, as Azure shows it."""
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Web/sites/{app}"


def slot_host_name(app: str, slot: str, slot_state: dict[str, Any]) -> str:
    """The host name of a slot. A slot may have a unique one, which does not follow from the names."""
    derived = app if slot.lower() == PRODUCTION else f"{app}-{slot}"
    return str(slot_state.get("defaultHostName", f"{derived}.azurewebsites.net"))
