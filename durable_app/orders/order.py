"""Orders: validation of the request, and the orchestrator's input with every duration filled in.

The starter reads the settings. An orchestrator must not read them, because they may differ in a replay."""

import re
from collections.abc import Mapping
from math import ceil
from typing import Any

APPROVAL_TIMEOUT_SETTING = "APPROVAL_TIMEOUT_SECONDS"
PACKING_SETTING = "PACKING_SECONDS"
PAYMENT_RETRY_SETTING = "PAYMENT_RETRY_MILLISECONDS"
DEFAULT_DURATIONS = {APPROVAL_TIMEOUT_SETTING: 72 * 3600, PACKING_SETTING: 60, PAYMENT_RETRY_SETTING: 5000}

# Identifiers become instance ids and entity keys, which are keys in Azure Tables.
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAME_RULE = "1 to 100 letters, digits, dots, hyphens and underscores, and begin with a letter or digit"


class InvalidOrder(ValueError):
    """The request is no valid order, with the reason."""


def parse_order(request_body: Any, settings: Mapping[str, str]) -> dict[str, Any]:
    """The orchestrator's input for the order in a request. Raises InvalidOrder."""
    if not isinstance(request_body, dict):
        raise InvalidOrder("an order is a JSON object")
    if not isinstance(approval_needed := request_body.get("approvalNeeded", False), bool):
        raise InvalidOrder("approvalNeeded must be true or false")
    if not isinstance(card := request_body.get("card", "4711"), str):
        raise InvalidOrder("card must be a text")

    def of(setting: str) -> str | int:
        """The duration in this setting, or its default."""
        return settings.get(setting) or DEFAULT_DURATIONS[setting]

    return {
        "orderId": parse_identifier(request_body, "orderId"),
        "items": parse_items(request_body),
        "approvalNeeded": approval_needed,
        "card": card,
        "approvalTimeoutSeconds": parse_positive_number(
            request_body, "approvalTimeoutSeconds", of(APPROVAL_TIMEOUT_SETTING)
        ),
        "packingSeconds": parse_positive_number(request_body, "packingSeconds", of(PACKING_SETTING)),
        "retryMilliseconds": ceil(parse_positive_number(request_body, "retryMilliseconds", of(PAYMENT_RETRY_SETTING))),
    }


def parse_identifier(request_body: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A member of an order that is an id or a name. Raises InvalidOrder."""
    value = request_body.get(name, default)
    if not isinstance(value, str) or not _NAME_PATTERN.fullmatch(value):
        raise InvalidOrder(f"{name} must have {_NAME_RULE}")
    return value


def parse_items(request_body: Mapping[str, Any], default: list[str] | None = None) -> list[str]:
    """The items of an order, of which there is at least one. Raises InvalidOrder."""
    value = request_body.get("items", default)
    if not isinstance(value, list) or not value:
        raise InvalidOrder("items must be a list of at least one item")
    if not all(isinstance(item, str) and _NAME_PATTERN.fullmatch(item) for item in value):
        raise InvalidOrder(f"an item must have {_NAME_RULE}")
    return value


def parse_positive_number(request_body: Mapping[str, Any], name: str, default: str | float) -> float:
    """A positive number. The default may come from a setting, which is a string."""
    try:
        number = float(request_body.get(name, default))
    except (TypeError, ValueError):
        number = 0
    if not 0 < number < 10**9:
        raise InvalidOrder(f"{name} must be a number above 0")
    return number
