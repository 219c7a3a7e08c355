"""The order's orchestrator, version 1."""

from collections.abc import Generator
from datetime import timedelta
from typing import Any

import azure.durable_functions as df

from .. import stock
from ..approval import Decision, wait_for_decision
from ..payment import payment_retry_options

blueprint = df.Blueprint()


@blueprint.function_name("ProcessOrder")
@blueprint.orchestration_trigger(context_name="context")
def process_order(context: df.DurableOrchestrationContext) -> Generator[Any, Any, dict[str, Any]]:
    """Process an order until it is shipped. The input is the result of `orders.order.parse_order`."""
    order = context.get_input(dict)
    prices = yield context.task_all([context.call_activity("PriceItem", item) for item in order["items"]])
    total = sum(prices)
    if order["approvalNeeded"]:
        decision = yield from wait_for_decision(context, order["approvalTimeoutSeconds"])
        if decision is not Decision.APPROVED:
            return {"status": decision.value, "cents": total}

    context.set_custom_status("Charging")
    charge = {"orderId": order["orderId"], "card": order["card"], "cents": total}
    receipt = yield context.call_activity_with_retry("ChargePayment", payment_retry_options(order), charge)
    for item in order["items"]:
        context.signal_entity(stock.entity_id(item), "take", 1)

    context.set_custom_status("Packing")
    yield context.create_timer(context.current_utc_datetime + timedelta(seconds=order["packingSeconds"]))
    parcel = {"orderId": order["orderId"], "items": order["items"]}
    tracking = yield context.call_sub_orchestrator("ShipOrder", parcel, f"{context.instance_id}-shipping")
    context.set_custom_status("Shipped")
    return {"status": "Shipped", "cents": total, "receipt": receipt, "tracking": tracking}
