"""Delivery checks: events that `safe-deploy doctor` publishes to see whether lifecycle events arrive.

A delivery check has the form of an entity's event, and entities never block a deployment. So no event that could be
taken for a delivery check by mistake can hide an orchestration.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from state_api.domain.instants import Instant, seconds

CHECK_ENTITY = "safe-deploy-doctor"
"""The name of the entity. If an app had an entity of this name, its events would be missing in lists, and no verdict
would be another one."""

MAX_REMEMBERED_CHECKS = 20
"""Delivery checks of one task hub that are remembered: those of as many pipelines at the same time."""

CHECK_LIFETIME = seconds(3600)
"""How long a delivery check is remembered."""

_CHECK_INSTANCE_ID = re.compile(f"@{CHECK_ENTITY}@([0-9a-f]{{32}})")


@dataclass(frozen=True, slots=True)
class DeliveryCheck:
    """A delivery check that has arrived. `published_at` is by the publisher's clock, `recorded_at` by the storage's."""

    check_id: str
    published_at: Instant
    recorded_at: Instant


def find_check_id(instance_id: str) -> str | None:
    """The id of the delivery check whose event has this instance id; None for the events of apps."""
    match = _CHECK_INSTANCE_ID.fullmatch(instance_id)
    return match[1] if match else None


def remember_check(known: Iterable[DeliveryCheck], arrived: DeliveryCheck) -> tuple[DeliveryCheck, ...]:
    """The delivery checks to remember, the latest first. One that has arrived before stays as it was recorded."""
    remembered = {check.check_id: check for check in (arrived, *known)}
    recent = current_checks(remembered.values(), arrived.recorded_at)
    return tuple(sorted(recent, key=lambda check: check.recorded_at, reverse=True)[:MAX_REMEMBERED_CHECKS])


def current_checks(checks: Iterable[DeliveryCheck], now: Instant) -> tuple[DeliveryCheck, ...]:
    """The delivery checks whose lifetime has not ended."""
    return tuple(check for check in checks if now - check.recorded_at < CHECK_LIFETIME)
