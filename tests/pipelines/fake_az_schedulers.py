"""The commands `az durabletask` of the fake `az`, and the one that adds their extension."""

from __future__ import annotations

from tests.pipelines.fake_az_options import AzError
from tests.pipelines.fake_cloud import SUBSCRIPTION

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.pipelines.fake_az_options import ParsedOptions

    Effect = Callable[[dict[str, Any], ParsedOptions], Any]


def _error(code: str, message: str, exit_code: int = 1) -> AzError:
    """An error in the form in which Azure Resource Manager reports it through `az`."""
    return AzError(f"({code}) {message}\nCode: {code}\nMessage: {message}", exit_code)


def _find_scheduler(state: dict[str, Any], group: str, name: str, missing: str) -> dict[str, Any]:
    """The scheduler, whose name is compared without case. Raises AzError with the code `missing`."""
    for known, scheduler in state["schedulers"].items():
        if known.lower() == name.lower() and scheduler["resourceGroup"].lower() == group.lower():
            scheduler_state: dict[str, Any] = scheduler
            return scheduler_state
    resource = f"Microsoft.DurableTask/schedulers/{name}"
    raise _error(missing, f"The Resource '{resource}' under resource group '{group}' was not found.", 3)


def _show_scheduler(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az durabletask scheduler show`: with the members of the REST API, version 2025-11-01."""
    scheduler = _find_scheduler(state, options.resource_group, options.name, "ResourceNotFound")
    return {
        "name": options.name,
        "properties": {
            "endpoint": scheduler.get("endpoint", f"https://{options.name}.westeurope.durabletask.io"),
            "ipAllowlist": ["0.0.0.0/0"],
            "provisioningState": "Succeeded",
            "sku": {"name": scheduler.get("sku", "Consumption")},
        },
        "resourceGroup": options.resource_group,
        "type": "Microsoft.DurableTask/schedulers",
    }


def _create_task_hub(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az durabletask taskhub create`: has no further effect if the task hub exists. The error code of a quota is
    assumed."""
    scheduler = _find_scheduler(state, options.resource_group, options.scheduler_name, "ParentResourceNotFound")
    if options.name not in scheduler["taskHubs"]:
        if len(scheduler["taskHubs"]) >= scheduler.get("quota", 5):
            raise _error("QuotaExceeded", "The quota of task hubs is used up.")
        scheduler["taskHubs"].append(options.name)
    return _show_task_hub(state, options)


def _show_task_hub(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az durabletask taskhub show`"""
    scheduler = _find_scheduler(state, options.resource_group, options.scheduler_name, "ParentResourceNotFound")
    name = f"schedulers/{options.scheduler_name}/taskHubs/{options.name}"
    if options.name not in scheduler["taskHubs"]:
        group = options.resource_group
        message = f"The Resource 'Microsoft.DurableTask/{name}' under resource group '{group}' was not found."
        raise _error("ResourceNotFound", message, 3)
    group_id = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{options.resource_group}"
    return {
        "id": f"{group_id}/providers/Microsoft.DurableTask/{name}",
        "name": options.name,
        "properties": {
            "dashboardUrl": "https://dashboard.durabletask.io/",
            "provisioningState": scheduler.get("provisioningState", "Succeeded"),
        },
        "resourceGroup": options.resource_group,
        "type": "Microsoft.DurableTask/schedulers/taskHubs",
    }


def _delete_task_hub(state: dict[str, Any], options: ParsedOptions) -> None:
    """`az durabletask taskhub delete`: succeeds if the task hub does not exist."""
    if not options.yes:
        raise AzError("Unable to prompt for confirmation as no tty available. Use --yes.")
    scheduler = _find_scheduler(state, options.resource_group, options.scheduler_name, "ParentResourceNotFound")
    scheduler["taskHubs"] = [name for name in scheduler["taskHubs"] if name != options.name]


def _add_extension(state: dict[str, Any], options: ParsedOptions) -> None:
    """`az extension add`"""
    if options.name not in state["extensions"]:
        state["extensions"].append(options.name)


def _of_extension(effect: Effect) -> Effect:
    """The effect of a command that only an `az` with the extension knows."""

    def run(state: dict[str, Any], options: ParsedOptions) -> Any:
        """Run the command if the extension `durabletask` is installed, as `az` does."""
        if "durabletask" not in state["extensions"]:
            raise AzError("'durabletask' is misspelled or not recognized by the system.", 2)
        return effect(state, options)

    return run


_TASK_HUB = "--resource-group/-g! --scheduler-name/-s! --name/-n!"

SCHEDULER_COMMANDS: dict[str, tuple[str, str, Effect]] = {
    "extension add": ("extension add", "--name/-n! --upgrade/-U? --yes/-y?", _add_extension),
    "durabletask scheduler show": ("scheduler show", "--resource-group/-g! --name/-n!", _of_extension(_show_scheduler)),
    "durabletask taskhub create": ("taskhub create", f"{_TASK_HUB} --no-wait", _of_extension(_create_task_hub)),
    "durabletask taskhub show": ("taskhub show", _TASK_HUB, _of_extension(_show_task_hub)),
    "durabletask taskhub delete": (
        "taskhub delete",
        f"{_TASK_HUB} --no-wait --yes/-y?",
        _of_extension(_delete_task_hub),
    ),
}
"""The key of each command's faults, its options, and its effect."""
