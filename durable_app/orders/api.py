"""The app's HTTP functions: start, read and signal orchestrations with the durable client."""

import json
import os
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from azure.durable_functions.models.DurableOrchestrationStatus import DurableOrchestrationStatus

from . import DEFAULT_VERSION, VERSION_SETTING, approval, monitor, stock
from .order import InvalidOrder, parse_order

blueprint = df.Blueprint()

_ENDED_STATUSES = ("Completed", "Failed", "Terminated", "Canceled")
MONITOR_ID = "stock-monitor"


def build_json_response(status: int, **body: Any) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(body), status_code=status, mimetype="application/json")


def build_status_body(status: DurableOrchestrationStatus) -> dict[str, Any]:
    """The status of an instance as a JSON object."""
    assert status.runtime_status is not None
    return {
        "instanceId": status.instance_id,
        "functionName": status.name,
        "runtimeStatus": status.runtime_status.name,
        "customStatus": status.custom_status,
        "output": status.output,
        "createdTime": status.created_time.isoformat(),
        "lastUpdatedTime": status.last_updated_time.isoformat(),
    }


def read_json_body(req: func.HttpRequest) -> Any:
    """The JSON body of the request; an empty body is an empty object. Raises InvalidOrder."""
    try:
        return req.get_json() if req.get_body() else {}
    except ValueError:
        raise InvalidOrder("the body must be JSON") from None


async def start_instance(
    client: df.DurableOrchestrationClient,
    name: str,
    instance_id: str,
    orchestration_input: dict[str, Any],
    location: str,
) -> func.HttpResponse:
    """Start an instance, unless an instance with this id is active, which the client would silently replace."""
    status = await client.get_status(instance_id)
    if status and status.runtime_status.name not in _ENDED_STATUSES:
        return build_json_response(409, error=f"{instance_id} runs already", **build_status_body(status))
    await client.start_new(name, instance_id, orchestration_input)
    # The task hub stays with the instance, so management calls that name it reach this release also after a promotion.
    response = build_json_response(202, instanceId=instance_id, functionName=name, taskHub=os.environ.get("TASK_HUB"))
    response.headers["Location"] = location
    return response


async def raise_instance_event(
    client: df.DurableOrchestrationClient, instance_id: str, event: str, data: Any
) -> func.HttpResponse:
    """Raise an event on an active instance."""
    status = await client.get_status(instance_id)
    if not status:
        return build_json_response(404, error=f"there is no {instance_id}")
    if status.runtime_status.name in _ENDED_STATUSES:
        return build_json_response(409, error=f"{instance_id} is over", **build_status_body(status))
    await client.raise_event(instance_id, event, data)
    return build_json_response(202, instanceId=instance_id, event=event)


async def get_instance(client: df.DurableOrchestrationClient, instance_id: str) -> func.HttpResponse:
    """The response with the status of an instance; 404 if there is none."""
    status = await client.get_status(instance_id)
    return (
        build_json_response(200, **build_status_body(status))
        if status
        else build_json_response(404, error=f"there is no {instance_id}")
    )


@blueprint.function_name("StartOrder")
@blueprint.route(route="orders", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
async def start_order(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """Start the orchestration of an order. The order's id is the instance id, so a repeated request starts no second
    one."""
    try:
        order = parse_order(read_json_body(req), os.environ)
    except InvalidOrder as error:
        return build_json_response(400, error=str(error))
    return await start_instance(client, "ProcessOrder", order["orderId"], order, f"/api/orders/{order['orderId']}")


@blueprint.function_name("GetOrder")
@blueprint.route(route="orders/{id}", methods=["GET"])
@blueprint.durable_client_input(client_name="client")
async def get_order(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return await get_instance(client, req.route_params["id"])


@blueprint.function_name("ApproveOrder")
@blueprint.route(route="orders/{id}/approve", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
async def approve_order(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """Approve an order that waits for a decision."""
    return await raise_instance_event(client, req.route_params["id"], approval.APPROVAL_EVENT, data=True)


@blueprint.function_name("RejectOrder")
@blueprint.route(route="orders/{id}/reject", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
async def reject_order(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """Reject an order that waits for a decision."""
    return await raise_instance_event(client, req.route_params["id"], approval.APPROVAL_EVENT, data=False)


@blueprint.function_name("StartMonitor")
@blueprint.route(route="monitor/start", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
async def start_monitor(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """Start the stock monitor. All members of the body are optional: id, items, intervalSeconds, low and refill."""
    try:
        instance_id, watch = monitor.parse_monitor_request(read_json_body(req), MONITOR_ID)
    except InvalidOrder as error:
        return build_json_response(400, error=str(error))
    return await start_instance(client, monitor.FUNCTION_NAME, instance_id, watch, f"/api/monitor/{instance_id}")


@blueprint.function_name("GetMonitor")
@blueprint.route(route="monitor/{id}", methods=["GET"])
@blueprint.durable_client_input(client_name="client")
async def get_monitor(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return await get_instance(client, req.route_params["id"])


@blueprint.function_name("StopMonitor")
@blueprint.route(route="monitor/{id}/stop", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
async def stop_monitor(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return await raise_instance_event(client, req.route_params["id"], monitor.STOP_EVENT, data=True)


@blueprint.function_name("GetStock")
@blueprint.route(route="stock/{item}", methods=["GET"])
@blueprint.durable_client_input(client_name="client")
async def get_stock(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """The pieces of an item in stock, which an entity counts."""
    item = req.route_params["item"]
    state = await client.read_entity_state(stock.entity_id(item))
    return build_json_response(
        200, item=item, pieces=state.entity_state if state.entity_exists else stock.INITIAL_PIECES
    )


@blueprint.function_name("About")
@blueprint.route(route="about", methods=["GET"])
async def about(req: func.HttpRequest) -> func.HttpResponse:
    """The version and the task hub of this slot. After a swap both must have moved together."""
    return build_json_response(
        200, version=os.environ.get(VERSION_SETTING, DEFAULT_VERSION), taskHub=os.environ.get("TASK_HUB")
    )
