"""The app's HTTP functions: starters and status. They talk to orchestrations by nothing but the durable client."""

import json
import os
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from azure.durable_functions.models.DurableOrchestrationStatus import DurableOrchestrationStatus

from . import DEFAULT_VERSION, VERSION_SETTING, approval, monitor, stock
from .order import InvalidOrder, completed

blueprint = df.Blueprint()

_OVER = ("Completed", "Failed", "Terminated", "Canceled")
MONITOR_ID = "stock-monitor"


def answer(status: int, **content: Any) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(content), status_code=status, mimetype="application/json")


def shown(status: DurableOrchestrationStatus) -> dict[str, Any]:
    """An instance's status, as callers see it."""
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


def sent(req: func.HttpRequest) -> Any:
    """The request's JSON; an empty body is an empty object. Raises InvalidOrder."""
    try:
        return req.get_json() if req.get_body() else {}
    except ValueError:
        raise InvalidOrder("the body must be JSON") from None


async def start(
    client: df.DurableOrchestrationClient, name: str, instance_id: str, given: dict[str, Any], place: str
) -> func.HttpResponse:
    """Start an instance, unless one of this id runs: the client would replace it without a word."""
    status = await client.get_status(instance_id)
    if status and status.runtime_status.name not in _OVER:
        return answer(409, error=f"{instance_id} runs already", **shown(status))
    await client.start_new(name, instance_id, given)
    response = answer(202, instanceId=instance_id, functionName=name)
    response.headers["Location"] = place
    return response


async def told(client: df.DurableOrchestrationClient, instance_id: str, event: str, data: Any) -> func.HttpResponse:
    """Raise an event on an instance that runs."""
    status = await client.get_status(instance_id)
    if not status:
        return answer(404, error=f"there is no {instance_id}")
    if status.runtime_status.name in _OVER:
        return answer(409, error=f"{instance_id} is over", **shown(status))
    await client.raise_event(instance_id, event, data)
    return answer(202, instanceId=instance_id, event=event)


async def looked_up(client: df.DurableOrchestrationClient, instance_id: str) -> func.HttpResponse:
    status = await client.get_status(instance_id)
    return answer(200, **shown(status)) if status else answer(404, error=f"there is no {instance_id}")


@blueprint.function_name("StartOrder")
@blueprint.route(route="orders", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
async def start_order(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    try:
        order = completed(sent(req), os.environ)
    except InvalidOrder as error:
        return answer(400, error=str(error))
    return await start(client, "ProcessOrder", order["orderId"], order, f"/api/orders/{order['orderId']}")


@blueprint.function_name("GetOrder")
@blueprint.route(route="orders/{id}", methods=["GET"])
@blueprint.durable_client_input(client_name="client")
async def get_order(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return await looked_up(client, req.route_params["id"])


@blueprint.function_name("ApproveOrder")
@blueprint.route(route="orders/{id}/approve", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
async def approve_order(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return await told(client, req.route_params["id"], approval.EVENT, True)


@blueprint.function_name("RejectOrder")
@blueprint.route(route="orders/{id}/reject", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
async def reject_order(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return await told(client, req.route_params["id"], approval.EVENT, False)


@blueprint.function_name("StartMonitor")
@blueprint.route(route="monitor/start", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
async def start_monitor(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """The body may say `{"id", "items", "intervalSeconds", "low", "refill"}`."""
    try:
        instance_id, watch = monitor.watched(sent(req), MONITOR_ID)
    except InvalidOrder as error:
        return answer(400, error=str(error))
    return await start(client, monitor.NAME, instance_id, watch, f"/api/monitor/{instance_id}")


@blueprint.function_name("GetMonitor")
@blueprint.route(route="monitor/{id}", methods=["GET"])
@blueprint.durable_client_input(client_name="client")
async def get_monitor(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return await looked_up(client, req.route_params["id"])


@blueprint.function_name("StopMonitor")
@blueprint.route(route="monitor/{id}/stop", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
async def stop_monitor(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return await told(client, req.route_params["id"], monitor.STOP, True)


@blueprint.function_name("GetStock")
@blueprint.route(route="stock/{item}", methods=["GET"])
@blueprint.durable_client_input(client_name="client")
async def get_stock(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    item = req.route_params["item"]
    found = await client.read_entity_state(stock.entity_id(item))
    return answer(200, item=item, pieces=found.entity_state if found.entity_exists else stock.AT_FIRST)


@blueprint.function_name("About")
@blueprint.route(route="about", methods=["GET"])
async def about(req: func.HttpRequest) -> func.HttpResponse:
    """Which version and task hub this slot has: after a swap both must have moved together."""
    return answer(200, version=os.environ.get(VERSION_SETTING, DEFAULT_VERSION), taskHub=os.environ.get("TASK_HUB"))
