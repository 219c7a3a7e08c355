"""The stock's monitor: an eternal orchestration.

It never ends by itself, so it blocks a deployment. Stop it with the event `Stop`, or list it in the policy's
`ignoreFunctions`."""

from collections.abc import Generator
from datetime import timedelta
from math import ceil
from typing import Any

import azure.durable_functions as df

from . import stock
from .order import InvalidOrder, parse_identifier, parse_items, parse_positive_number

blueprint = df.Blueprint()

FUNCTION_NAME = "StockMonitor"
STOP_EVENT = "Stop"


@blueprint.function_name(FUNCTION_NAME)
@blueprint.orchestration_trigger(context_name="context")
def stock_monitor(context: df.DurableOrchestrationContext) -> Generator[Any, Any, dict[str, Any] | None]:
    """Run one round: refill low stock, wait, and continue as new, so that the history does not grow.

    The input is `{"items", "intervalSeconds", "low", "refill", "round"}`."""
    watch = context.get_input(dict)
    levels = {}
    for item in watch["items"]:
        levels[item] = yield context.call_entity(stock.entity_id(item), "get", expected_type=int)
        if levels[item] < watch["low"]:
            context.signal_entity(stock.entity_id(item), "add", watch["refill"])
    context.set_custom_status({"round": watch["round"], "levels": levels})
    stop = context.wait_for_external_event(STOP_EVENT, expected_type=bool)
    pause = context.create_timer(context.current_utc_datetime + timedelta(seconds=watch["intervalSeconds"]))
    winner = yield context.task_any([stop, pause])
    if winner == stop:
        pause.cancel()
        return {"rounds": watch["round"], "levels": levels}
    context.continue_as_new(watch | {"round": watch["round"] + 1})
    return None


def parse_monitor_request(request_body: Any, default_id: str) -> tuple[str, dict[str, Any]]:
    """The instance id and the first input for a request body. Raises InvalidOrder."""
    if not isinstance(request_body, dict):
        raise InvalidOrder("the body must be a JSON object")
    return parse_identifier(request_body, "id", default_id), {
        "items": parse_items(request_body, ["apple"]),
        "intervalSeconds": parse_positive_number(request_body, "intervalSeconds", 30),
        "low": ceil(parse_positive_number(request_body, "low", 3)),
        "refill": ceil(parse_positive_number(request_body, "refill", 10)),
        "round": 1,
    }
