"""An order as callers send it, and as orchestrators take it: checked, and with every duration filled in. The starter
reads the settings, because an orchestrator must not: they may have changed when it is replayed."""

import re
from collections.abc import Mapping
from math import ceil
from typing import Any

APPROVAL_TIMEOUT = "APPROVAL_TIMEOUT_SECONDS"
PACKING = "PACKING_SECONDS"
RETRY = "PAYMENT_RETRY_MILLISECONDS"
DEFAULTS = {APPROVAL_TIMEOUT: 72 * 3600, PACKING: 60, RETRY: 5000}

# These become instance ids and entities' keys, and with them keys of Azure Tables.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAME_RULE = "1 to 100 letters, digits, dots, hyphens and underscores, and begin with a letter or digit"


class InvalidOrder(ValueError):
    """What was sent cannot be taken; the message says why."""


def completed(sent: Any, settings: Mapping[str, str]) -> dict[str, Any]:
    """The orchestrator's input for the order that was sent. Raises InvalidOrder."""
    if not isinstance(sent, dict):
        raise InvalidOrder("an order is a JSON object")
    if not isinstance(approval_needed := sent.get("approvalNeeded", False), bool):
        raise InvalidOrder("approvalNeeded must be true or false")
    if not isinstance(card := sent.get("card", "4711"), str):
        raise InvalidOrder("card must be a text")

    def of(setting: str) -> str | int:
        return settings.get(setting) or DEFAULTS[setting]

    return {
        "orderId": identifier(sent, "orderId"),
        "items": items_of(sent),
        "approvalNeeded": approval_needed,
        "card": card,
        "approvalTimeoutSeconds": positive(sent, "approvalTimeoutSeconds", of(APPROVAL_TIMEOUT)),
        "packingSeconds": positive(sent, "packingSeconds", of(PACKING)),
        "retryMilliseconds": ceil(positive(sent, "retryMilliseconds", of(RETRY))),
    }


def identifier(sent: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = sent.get(name, default)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidOrder(f"{name} must have {_NAME_RULE}")
    return value


def items_of(sent: Mapping[str, Any], default: list[str] | None = None) -> list[str]:
    value = sent.get("items", default)
    if not isinstance(value, list) or not value:
        raise InvalidOrder("items must be a list of at least one item")
    if not all(isinstance(item, str) and _NAME.fullmatch(item) for item in value):
        raise InvalidOrder(f"an item must have {_NAME_RULE}")
    return value


def positive(sent: Mapping[str, Any], name: str, default: str | float) -> float:
    """A number above zero. The default may come from a setting, which is a text."""
    try:
        number = float(sent.get(name, default))
    except (TypeError, ValueError):
        number = 0
    if not 0 < number < 10**9:
        raise InvalidOrder(f"{name} must be a number above 0")
    return number
