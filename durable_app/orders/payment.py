"""Charging the customer. It fails at random, so orchestrators call it with retries."""

import hashlib
from typing import Any

import azure.durable_functions as df

blueprint = df.Blueprint()

MAX_ATTEMPTS = 3
DECLINED_CARD = "declined"


class CardDeclinedError(Exception):
    """The bank declines the card."""


def payment_retry_options(order: dict[str, Any]) -> df.RetryOptions:
    """Retry options from the order's input.

    An orchestrator must not read settings, because they may differ in a replay."""
    return df.RetryOptions(
        first_retry_interval_in_milliseconds=order["retryMilliseconds"], max_number_of_attempts=MAX_ATTEMPTS
    )


@blueprint.function_name("ChargePayment")
@blueprint.activity_trigger(input_name="charge")
def charge_payment(charge: dict) -> str:
    """Charge `{"orderId", "card", "cents"}` and return the receipt. Raises CardDeclinedError for the card
    `declined`."""
    if charge["card"] == DECLINED_CARD:
        raise CardDeclinedError(f"the card for order {charge['orderId']} was declined")
    # The receipt depends only on the charge: an activity may run twice, and must not charge twice.
    return hashlib.sha256(f"{charge['orderId']}/{charge['cents']}".encode()).hexdigest()[:12]
