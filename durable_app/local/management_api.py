"""Two operations of the HTTP management API of Durable Functions, which the host serves beside the app's own functions:
the status of an instance, and an event for it.

As on the host, the query parameter `taskHub` names the task hub. Here it must be that of the slot."""

from collections.abc import Awaitable, Callable
from typing import Any

from durabletask.client import AsyncTaskHubGrpcClient
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .durable_client import DurableClient

PATH = "/runtime/webhooks/durabletask/instances/{id}"
_ENDED_STATUSES = ("Completed", "Failed", "Terminated", "Canceled")

_Handler = Callable[[Request], Awaitable[Response]]


def build_management_routes(task_hub: str, grpc_client: AsyncTaskHubGrpcClient) -> list[Route]:
    """The routes of the management API of a slot on this task hub."""
    client = DurableClient(grpc_client)

    async def get_instance(request: Request) -> Response:
        """Answer with the status of an instance, with the status codes of the extension."""
        status = await client.get_status(request.path_params["id"])
        if not status:
            return JSONResponse({"Message": "there is no such instance"}, 404)
        body: dict[str, Any] = status.to_json()
        # The host answers 202 until the instance has ended.
        return JSONResponse(body, 200 if body["runtimeStatus"] in _ENDED_STATUSES else 202)

    async def raise_event(request: Request) -> Response:
        """Send an external event to an instance. The answer is 410 if the instance has ended."""
        instance_id = request.path_params["id"]
        status = await client.get_status(instance_id)
        if not status:
            return JSONResponse({"Message": "there is no such instance"}, 404)
        if status.to_json()["runtimeStatus"] in _ENDED_STATUSES:
            return Response(status_code=410)
        # The management API encodes the data as JSON once, the library twice.
        await grpc_client.raise_orchestration_event(
            instance_id, request.path_params["event"], data=await request.json()
        )
        return Response(status_code=202)

    def for_task_hub(handler: _Handler) -> _Handler:
        """Refuse requests that name another task hub than this slot's."""

        async def handle(request: Request) -> Response:
            requested_task_hub = request.query_params.get("taskHub", task_hub)
            if requested_task_hub.lower() != task_hub.lower():
                return JSONResponse({"Message": f"this slot has the task hub {task_hub}"}, 400)
            return await handler(request)

        return handle

    return [
        Route(PATH, for_task_hub(get_instance), methods=["GET"]),
        Route(f"{PATH}/raiseEvent/{{event}}", for_task_hub(raise_event), methods=["POST"]),
    ]
