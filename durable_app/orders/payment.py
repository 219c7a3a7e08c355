"""Charging the customer. It can fail, so orchestrators call it with retries."""

import hashlib
import os
from typing import Any

import azure.durable_functions as df

blueprint = df.Blueprint()

MAX_ATTEMPTS = 3
DECLINED_CARD = "declined"
FAILURE_PERCENT_SETTING = "PAYMENT_FAILURE_PERCENT"


class CardDeclinedError(Exception):
    """The bank declines the card."""


class PaymentDefectError(Exception):
    """The code has a defect that this order's payment meets, however often it is tried."""


def is_payment_defective(order_id: str, percent: float) -> bool:
    """Whether the payment of this order fails in a version that cannot charge this percentage of all orders.

    The order's id decides. So each attempt has the same result, and a version that fails more orders fails these too.
    """
    return int.from_bytes(hashlib.sha256(order_id.encode()).digest()[:4]) < percent / 100 * 2**32


def payment_retry_options(order: dict[str, Any]) -> df.RetryOptions:
    """Retry options from the order's input.

    An orchestrator must not read settings, because they may differ in a replay."""
    return df.RetryOptions(
        first_retry_interval_in_milliseconds=order["retryMilliseconds"], max_number_of_attempts=MAX_ATTEMPTS
    )


@blueprint.function_name("ChargePayment")
@blueprint.activity_trigger(input_name="charge")
def charge_payment(charge: dict) -> str:
    """Charge `{"orderId", "card", "cents"}` and return the receipt. Raises CardDeclinedError for the card `declined`,
    and PaymentDefectError for as many orders as the app setting says."""
    if charge["card"] == DECLINED_CARD:
        raise CardDeclinedError(f"the card for order {charge['orderId']} was declined")
    if is_payment_defective(charge["orderId"], float(os.environ.get(FAILURE_PERCENT_SETTING) or 0)):
        raise PaymentDefectError(f"order {charge['orderId']} cannot be charged")
    # The receipt depends only on the charge: an activity may run twice, and must not charge twice.
    return hashlib.sha256(f"{charge['orderId']}/{charge['cents']}".encode()).hexdigest()[:12]
