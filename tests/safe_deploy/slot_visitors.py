"""Visitors of a Function App with slots: a small model of how the platform divides them by the rules of the fake `az`.

- A new visitor is sent to a slot with the share of its rule, and to production otherwise. It gets the cookie
  `x-ms-routing-name` with the name of the rule, or `self` for production.
- For an hour the cookie decides alone: also at a share of 0 %, without a rule, and after a swap.
- The front ends of the platform obey a changed rule after 30 seconds.
- The name of a slot stays at a swap, and the version behind it changes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.pipelines.fake_cloud import PRODUCTION, FakeAzure

COOKIE_SECONDS = 3600
FRONT_END_SECONDS = 30
_PRODUCTION_COOKIE = "self"
_GOLDEN_RATIO = 0.6180339887
"""Multiples of it, without their whole part, are spread evenly, so few visitors show the share."""


@dataclass
class Visitor:
    """A visitor, with the cookie that it has got and the time at which it expires."""

    cookie: str | None = None
    expires_at: float = 0


@dataclass
class SlotVisitors:
    """The visitors of one app. `now` is a time in seconds. `ignores_share`: the plan of the app ignores the rules."""

    fake_azure: FakeAzure
    app: str
    now: Callable[[], float]
    ignores_share: bool = False
    _count: int = 0
    _changes: list[tuple[float, list[dict[str, Any]]]] = field(default_factory=list)

    def send_request(self, visitor: Visitor) -> str | None:
        """Let a visitor come. Returns the task hub on which its orchestration starts."""
        if visitor.cookie is None or self.now() >= visitor.expires_at:
            visitor.cookie, visitor.expires_at = self._divide(), self.now() + COOKIE_SECONDS
        slot = PRODUCTION if visitor.cookie == _PRODUCTION_COOKIE else visitor.cookie
        return self.fake_azure.settings(self.app, slot).get("TASK_HUB")

    def send_new_visitors(self, count: int) -> list[Visitor]:
        """Let this many new visitors come. Returns those that were sent to a slot."""
        visitors = [Visitor() for _ in range(count)]
        for visitor in visitors:
            self.send_request(visitor)
        return [visitor for visitor in visitors if visitor.cookie != _PRODUCTION_COOKIE]

    def _divide(self) -> str:
        """The value of the cookie for the next new visitor."""
        self._count += 1
        position, limit = self._count * _GOLDEN_RATIO % 1 * 100, 0.0
        for rule in self._obeyed_rules():
            limit += rule["reroutePercentage"]
            if position < limit:
                return str(rule["name"])
        return _PRODUCTION_COOKIE

    def _obeyed_rules(self) -> list[dict[str, Any]]:
        """The rules that the front ends know by now."""
        if self.ignores_share:
            return []
        rules = self.fake_azure.ramp_up_rules(self.app)
        if not self._changes or self._changes[-1][1] != rules:
            self._changes.append((self.now(), rules))
        known = [rules for changed_at, rules in self._changes if changed_at <= self.now() - FRONT_END_SECONDS]
        return known[-1] if known else self._changes[0][1]
