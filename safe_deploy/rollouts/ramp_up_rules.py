"""The ramp-up rules of a Function App: which share of the new visitors Azure sends from production to a slot. Pure.

Azure calls them `rampUpRules`. A rule names a slot and its host name. A visitor that was sent to a slot keeps the
cookie `x-ms-routing-name` for an hour, and stays there even if the rules change meanwhile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RampUpRule:
    """One rule. `share` is in percent of the new visitors. `members` is the rule as Azure has it.

    `changes_itself`: Azure raises or lowers the share by itself, within limits that the rule has.
    """

    name: str
    host: str
    share: float
    changes_itself: bool
    members: Mapping[str, Any]

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> "RampUpRule":
        """Read a rule as Azure shows it. Raises KeyError, TypeError and ValueError for anything else."""
        return cls(
            name=str(members.get("name") or ""),
            host=str(members["actionHostName"]),
            share=float(members.get("reroutePercentage") or 0),
            changes_itself=bool(members.get("changeStep") or members.get("changeDecisionCallbackUrl")),
            members=members,
        )

    def __str__(self) -> str:
        """The rule for people, such as `10 % to slot staging`."""
        by_itself = ", which changes by itself" if self.changes_itself else ""
        return f"{self.share:g} % to slot {self.name or 'without a name'} at {self.host}{by_itself}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedTraffic:
    """The rules that Azure shows, seen from one slot. `slot_host` is the slot's own host name in Azure."""

    slot: str
    slot_host: str
    rules: tuple[RampUpRule, ...]

    @property
    def own_rules(self) -> list[RampUpRule]:
        """The rules that send visitors to the slot: by its name, which the cookie has, or by its host name."""
        return [rule for rule in self.rules if self._is_own(rule)]

    @property
    def other_rules(self) -> list[RampUpRule]:
        """The rules that send visitors to other slots."""
        return [rule for rule in self.rules if not self._is_own(rule)]

    @property
    def share(self) -> float:
        """Percent of the new visitors that Azure sends to the slot now."""
        return sum(rule.share for rule in self.own_rules)

    def routes_exactly(self, weight: int) -> bool:
        """Whether the slot gets this share by one rule with the slot's own host name, or no share without a rule that
        could change by itself. Rules of other slots do not matter."""
        own_rules = self.own_rules
        if any(rule.changes_itself for rule in own_rules):
            return False
        if weight == 0:
            return self.share == 0
        return len(own_rules) == 1 and own_rules[0].share == weight and self._has_names_of_slot(own_rules[0])

    def with_share(self, weight: int) -> list[Mapping[str, Any]]:
        """The rules as Azure takes them, so that the slot gets this share. The rules of other slots stay as they are.
        Without a share, the slot has no rule."""
        others = [rule.members for rule in self.other_rules]
        if weight == 0:
            return others
        return [*others, {"name": self.slot, "actionHostName": self.slot_host, "reroutePercentage": weight}]

    def _is_own(self, rule: RampUpRule) -> bool:
        return rule.name.lower() == self.slot.lower() or rule.host.lower() == self.slot_host.lower()

    def _has_names_of_slot(self, rule: RampUpRule) -> bool:
        return rule.name.lower() == self.slot.lower() and rule.host.lower() == self.slot_host.lower()


def describe_rules(rules: Sequence[RampUpRule]) -> str:
    """The rules for people, such as `10 % to slot staging at shop-staging.azurewebsites.net`."""
    return "; ".join(str(rule) for rule in rules) or "no visitors to any slot"
