"""The commands of the fake `az` for Function Apps on Flex Consumption, each with a plan and a container of its own.

What they do in Azure was read in the source of the Azure CLI 2.91 and of its SDK."""

from __future__ import annotations

import http.client

from tests.pipelines.fake_az_options import AzError
from tests.pipelines.fake_cloud import PRODUCTION

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.pipelines.fake_az_options import ParsedOptions

    Effect = Callable[[dict[str, Any], ParsedOptions], Any]

_TIER = "FlexConsumption"
_MAX_HOST_ID_LENGTH = 32
"""The Functions host takes as many characters of the app's name for the id under which it locks its storage."""


def _create_app(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp create`: every call creates a plan, also for an app that exists, which gets new settings."""
    if not options.flexconsumption_location:
        raise AzError("The fake creates only apps on Flex Consumption.", 2)
    if len(options.name) > _MAX_HOST_ID_LENGTH:
        raise AzError("The fake refuses a name whose host id is not unique.", 2)
    container = f"{options.storage_account}/{options.deployment_storage_container_name}"
    if container not in state.setdefault("containers", []):
        raise AzError("(ContainerNotFound) The specified container does not exist.")
    plans = state.setdefault("plans", {})
    plan = f"ASP-{options.resource_group}-{len(plans):04x}"
    plans[plan] = {"resourceGroup": options.resource_group, "tier": _TIER}
    settings = {"AzureWebJobsStorage": {"value": "AccountKey=secret", "slotSetting": False}}
    state["apps"][options.name] = {
        "resourceGroup": options.resource_group,
        "plan": plan,
        "container": container,
        "accessRestrictions": [],
        "slots": {PRODUCTION: {"settings": settings}},
    }
    return {"name": options.name, "properties": {"sku": _TIER, "state": "Running"}}


def start_app(state: dict[str, Any], settings: dict[str, Any]) -> None:
    """Let the test start an app that was deployed, if it has set a port for this. The app creates its task hub."""
    port, task_hub = state.get("starterPort"), settings.get("TASK_HUB")
    if port and task_hub:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", f"/{task_hub['value']}")
        if connection.getresponse().status != http.client.OK:
            raise AzError("Deployment was successful but the app appears to be unhealthy. Please check the app logs.")


def _delete_app(state: dict[str, Any], options: ParsedOptions) -> None:
    """`az functionapp delete`: also deletes the plan if it has no other app. An app that does not exist is an error."""
    app = _find_app(state, options)
    del state["apps"][options.name]
    plan = app.get("plan")
    if plan and not options.keep_empty_plan and not _count_apps(state, plan):
        del state["plans"][plan]


def _list_plans(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp plan list`"""
    return [
        {"name": name, "numberOfSites": _count_apps(state, name), "sku": {"name": "FC1", "tier": plan["tier"]}}
        for name, plan in state.get("plans", {}).items()
        if plan["resourceGroup"] == options.resource_group
    ]


def _delete_plan(state: dict[str, Any], options: ParsedOptions) -> None:
    """`az functionapp plan delete`: asks before it deletes, unless `--yes` is given."""
    _require_yes(options)
    if _count_apps(state, options.name):
        raise AzError("(Conflict) Server farm cannot be deleted because it has web app(s) assigned to it.")
    state.get("plans", {}).pop(options.name, None)


def _create_container(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az storage container-rm create`: does nothing if the container exists."""
    container = f"{options.storage_account}/{options.name}"
    if container not in state.setdefault("containers", []):
        state["containers"].append(container)
    return {"name": options.name}


def _delete_container(state: dict[str, Any], options: ParsedOptions) -> None:
    """`az storage container-rm delete`: does nothing if the container does not exist."""
    _require_yes(options)
    container = f"{options.storage_account}/{options.name}"
    state["containers"] = [other for other in state.get("containers", []) if other != container]


def _show_access_restrictions(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp config access-restriction show`"""
    return {"ipSecurityRestrictions": _find_app(state, options).get("accessRestrictions", [])}


def _add_access_restriction(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp config access-restriction add`: adds a rule, also if there is one of the same name."""
    rules: list[dict[str, Any]] = _find_app(state, options).setdefault("accessRestrictions", [])
    rules.append({"name": options.rule_name, "action": options.action, "ip_address": options.ip_address})
    return rules


def _find_app(state: dict[str, Any], options: ParsedOptions) -> dict[str, Any]:
    """The app that the options name. Raises the error of `az` if the group does not have it."""
    app: dict[str, Any] | None = state["apps"].get(options.name)
    if app is None or app["resourceGroup"] != options.resource_group:
        raise AzError(f"(ResourceNotFound) The Resource 'Microsoft.Web/sites/{options.name}' was not found.", 3)
    return app


def _count_apps(state: dict[str, Any], plan: str) -> int:
    """How many apps are on the plan: one with apps cannot be deleted."""
    return sum(app.get("plan") == plan for app in state["apps"].values())


def _require_yes(options: ParsedOptions) -> None:
    """Refuse a deletion without `--yes`, as `az` does without a terminal."""
    if not options.yes:
        raise AzError("Unable to prompt for confirmation as no tty available. Use --yes.")


_SITE = "--resource-group/-g! --name/-n!"
_CONTAINER = "--resource-group/-g --storage-account! --name/-n!"
_CREATE_OPTIONS = (
    f"{_SITE} --flexconsumption-location/-f --runtime! --runtime-version --storage-account/-s! "
    "--deployment-storage-container-name/--dscn! --disable-app-insights"
)
_RULE_OPTIONS = f"{_SITE} --rule-name/-r --action --ip-address --priority/-p!"

FLEX_CONSUMPTION_COMMANDS: dict[str, tuple[str, str, Effect]] = {
    "functionapp create": ("create", _CREATE_OPTIONS, _create_app),
    "functionapp delete": ("delete", f"{_SITE} --keep-empty-plan?", _delete_app),
    "functionapp plan list": ("plan list", "--resource-group/-g!", _list_plans),
    "functionapp plan delete": ("plan delete", f"{_SITE} --yes/-y?", _delete_plan),
    "storage container-rm create": ("container create", _CONTAINER, _create_container),
    "storage container-rm delete": ("container delete", f"{_CONTAINER} --yes/-y?", _delete_container),
    "functionapp config access-restriction show": ("restriction show", _SITE, _show_access_restrictions),
    "functionapp config access-restriction add": ("restriction add", _RULE_OPTIONS, _add_access_restriction),
}
"""As `COMMANDS` in `fake_az_commands`: the key of each command's faults, its options, and its effect."""
