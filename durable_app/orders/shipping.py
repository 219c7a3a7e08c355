"""Shipping: a sub-orchestration that the order's orchestrator calls."""

from collections.abc import Generator
from typing import Any

import azure.durable_functions as df

blueprint = df.Blueprint()


@blueprint.function_name("ShipOrder")
@blueprint.orchestration_trigger(context_name="context")
def ship_order(context: df.DurableOrchestrationContext) -> Generator[Any, Any, str]:
    """Pack `{"orderId", "items"}` and book a carrier. Returns the carrier's tracking number."""
    parcel = yield context.call_activity("PackParcel", context.get_input(dict))
    tracking: str = yield context.call_activity("BookCarrier", parcel)
    return tracking


@blueprint.function_name("PackParcel")
@blueprint.activity_trigger(input_name="order")
def pack_parcel(order: dict) -> str:
    """Pack the items of an order. Returns the number of the parcel."""
    return f"{order['orderId']}/{len(order['items'])}"


@blueprint.function_name("BookCarrier")
@blueprint.activity_trigger(input_name="parcel")
def book_carrier(parcel: str) -> str:
    """Book a carrier for the parcel. Returns the tracking number."""
    return f"TRACK-{parcel.replace('/', '-')}"
