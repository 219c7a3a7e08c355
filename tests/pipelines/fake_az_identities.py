"""The commands of the fake `az` about identities, tokens, roles and storage accounts."""

from __future__ import annotations

from tests.pipelines.fake_az_sites import find_app
from tests.pipelines.fake_cloud import SUBSCRIPTION

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.pipelines.fake_az_options import ParsedOptions

    Effect = Callable[[dict[str, Any], ParsedOptions], Any]


def storage_account_id(group: str, account: str) -> str:
    """The resource id of a storage account, as Azure shows it."""
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Storage/storageAccounts/{account}"


def _show_identity(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az functionapp identity show`: nothing for an app without one."""
    return find_app(state, options).get("identity")


def _get_token(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az account get-access-token`"""
    return {
        "accessToken": state.get("token", "a-token"),
        "expiresOn": "2026-11-27 23:00:00.000000",
        "tokenType": "Bearer",
    }


def _list_accounts(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az storage account list`: those of a group, or of the subscription."""
    return [
        {"id": storage_account_id(group, name), "name": name, "resourceGroup": group}
        for name, group in state["storageAccounts"].items()
        if options.resource_group is None or options.resource_group.lower() == group.lower()
    ]


def _assign_role(state: dict[str, Any], options: ParsedOptions) -> Any:
    """`az role assignment create`: has no further effect if the identity has the role."""
    assignment = [options.assignee_object_id, options.role, options.scope]
    if assignment not in state["roleAssignments"]:
        state["roleAssignments"].append(assignment)
    return {"principalId": options.assignee_object_id, "roleDefinitionName": options.role, "scope": options.scope}


IDENTITY_COMMANDS: dict[str, tuple[str, str, Effect]] = {
    "functionapp identity show": ("identity show", "--resource-group/-g! --name/-n! --slot/-s", _show_identity),
    "account get-access-token": ("get-access-token", "--resource --tenant/-t --scope", _get_token),
    "storage account list": ("storage account list", "--resource-group/-g", _list_accounts),
    "role assignment create": (
        "role assignment create",
        "--assignee-object-id --assignee-principal-type --assignee --role! --scope!",
        _assign_role,
    ),
}
"""The key of each command's faults, its options, and its effect."""
