"""Reads and sets in Azure which share of the new visitors a slot gets. Hides the commands of `az` and their JSON.

The share is set with `az resource patch`, because it sends `rampUpRules` alone. The other commands were not chosen:

- `az webapp traffic-routing set` makes up the slot's host name from the names of app and slot (azure-cli, issues 8293
  and 26285). That name is wrong for unique and for shortened host names. It also writes back all other settings.
- `az functionapp config set --generic-configurations` writes all settings, too, and had no effect at all from version
  2.60 to 2.63 of `az` (azure-cli, issues 28962 and 29733).
- `az rest` needs the id of the subscription in its URL.

The host name is read from the slot itself. All of this was read in the source of `az` 2.91.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from safe_deploy.azure_cli import (
    AZ_TIMEOUT_SECONDS,
    AzureCli,
    AzureResource,
    AzureUnavailable,
    require_valid_name,
)
from safe_deploy.azure_slots import FunctionAppTarget
from safe_deploy.rollouts.ramp_up_rules import ObservedTraffic, RampUpRule

_API_VERSION = "2022-03-01"
"""Without a version `az resource` looks one up in the subscription, which a pipeline's identity may not be allowed to
do. Every Azure cloud supports this version."""

CHANGE_TIMEOUT_SECONDS = 60
"""How long a change of the rules may take, after which `az` is killed. It normally takes two to five seconds."""


class SlotTraffic:
    """The traffic of one slot. The host name of the slot is read once, the rules are read at every call.

    Raises UsageError for an invalid name of the slot.
    """

    def __init__(
        self,
        target: FunctionAppTarget,
        slot: str,
        *,
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = AZ_TIMEOUT_SECONDS,
    ) -> None:
        require_valid_name("slot", slot)
        self.target = target
        self._slot = slot
        self._slot_host: str | None = None
        self._az = AzureCli(environment=environment, timeout_seconds=timeout_seconds)

    def observe(self) -> ObservedTraffic:
        """The rules that Azure shows now. Raises AzureUnavailable."""
        if self._slot_host is None:
            self._slot_host = self._read_slot_host()
        resource = self._describe_rules("read")
        response = self._az.query(
            "resource show",
            {
                **self._name_resource(resource_type="config", name="web"),
                "--query": "{rules:properties.experiments.rampUpRules}",
            },
            resource,
        )
        return ObservedTraffic(
            slot=self._slot, slot_host=self._slot_host, rules=_parse_rules(response.get("rules"), resource)
        )

    def set_rules(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace all rules. Raises AzureUnavailable. After a failure the change may still have been made."""
        self._az.patch_resource(
            self._name_resource(resource_type="config", name="web"),
            {"experiments": {"rampUpRules": list(rules)}},
            self._describe_rules("change"),
            timeout_seconds=CHANGE_TIMEOUT_SECONDS,
        )

    def _read_slot_host(self) -> str:
        """The host name of the slot, which may have a random part. Raises AzureUnavailable."""
        resource = AzureResource(
            description=f"slot {self._slot!r} of {self._app}",
            check="--slot, --function-app and --resource-group",
            permission=f"read slot {self._slot!r} of {self._app}. Give its identity the role Website Contributor on "
            "the function app",
        )
        response = self._az.query(
            "resource show",
            {
                **self._name_resource(resource_type="slots", name=self._slot),
                "--query": "{host:properties.defaultHostName}",
            },
            resource,
        )
        host = response.get("host")
        if not isinstance(host, str) or not host:
            raise AzureUnavailable(f"az printed unexpected JSON about {resource.description}. Update az.")
        return host

    @property
    def _app(self) -> str:
        return f"function app {self.target.function_app!r} in resource group {self.target.resource_group!r}"

    def _name_resource(self, *, resource_type: str, name: str) -> dict[str, str | None]:
        """The options of `az resource` that name a resource below the Function App."""
        return {
            "--subscription": self.target.subscription,
            "--resource-group": self.target.resource_group,
            "--namespace": "Microsoft.Web",
            "--parent": f"sites/{self.target.function_app}",
            "--resource-type": resource_type,
            "--name": name,
            "--api-version": _API_VERSION,
        }

    def _describe_rules(self, verb: str) -> AzureResource:
        """The rules in the messages of a failed call."""
        return AzureResource(
            description=f"the traffic rules of {self._app}",
            check="--function-app and --resource-group",
            permission=f"{verb} the traffic rules of {self._app}. Give its identity the role Website Contributor on "
            "the function app",
        )


def _parse_rules(rules: object, resource: AzureResource) -> tuple[RampUpRule, ...]:
    """Parse the traffic rules from the JSON that `az` printed. There are no rules if it is null. Raises
    AzureUnavailable for other JSON."""
    if isinstance(rules, list | None):
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
            return tuple(RampUpRule.from_json(members) for members in rules or [])
    # Not raised inside `except`: the error may hold what az has printed.
    raise AzureUnavailable(f"az printed unexpected JSON about {resource.description}. Update az.")
