"""Registers the app's orchestrators, activities and entity with a `durabletask` worker, and its HTTP functions as
routes."""

import importlib
import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import azure.functions as func
from durabletask.entities import EntityContext
from durabletask.task import ActivityContext, OrchestrationContext
from durabletask.worker import TaskHubGrpcWorker
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .durable_client import DurableClient
from .orchestration_context import DurableContext

APP_FOLDER = Path(__file__).parent.parent


def load_app_functions() -> list[Any]:
    """The app's functions. Imports function_app.py as the host does, from the import root."""
    sys.path.insert(0, str(APP_FOLDER))
    return list(importlib.import_module("function_app").app.get_functions())


def register_functions(worker: TaskHubGrpcWorker, functions: list[Any]) -> None:
    """Register every durable function with the worker, under its function name."""
    # The worker's public methods accept no names, but the app chooses its own. Entity names are lower case, as in the
    # extension.
    registry = worker._registry
    for function in functions:
        name, code = function.get_function_name(), function.get_user_function()
        match function.get_trigger().type:
            case "orchestrationTrigger":
                registry.add_named_orchestrator(name, wrap_orchestrator(code.orchestrator_function))
            case "activityTrigger":
                registry.add_named_activity(name, wrap_activity(code))
            case "entityTrigger":
                registry.add_named_entity(name.lower(), wrap_entity(code))


def wrap_orchestrator(code: Callable[[Any], Generator[Any, Any, Any]]) -> Callable[[OrchestrationContext, Any], Any]:
    """Return an orchestrator for `durabletask` that runs `code`, which is written for `azure-functions-durable`."""

    def run_orchestrator(inner_context: OrchestrationContext, input_value: Any) -> Generator[Any, Any, Any]:
        """Run the orchestrator of the app with a context that has the library's methods."""
        return (yield from code(DurableContext(inner_context, input_value)))

    return run_orchestrator


def wrap_activity(code: Callable[[Any], Any]) -> Callable[[ActivityContext, Any], Any]:
    """Return an activity for `durabletask` that runs `code`."""

    def run_activity(_: ActivityContext, input_value: Any) -> Any:
        """Run the activity of the app, which takes no context."""
        return code(input_value)

    return run_activity


def wrap_entity(code: Callable[[str], str]) -> Callable[[EntityContext, Any], Any]:
    """Return an entity for `durabletask` that calls the handler `code` as the extension does.

    The handler receives a batch of operations as JSON, here always of one operation."""

    def run_operation(context: EntityContext, input_value: Any) -> Any:
        """Run one operation of an entity, in the form in which the extension calls the library: a batch, as JSON."""
        state = context.get_state()
        batch = {
            "self": {"name": context.entity_id.entity, "key": context.entity_id.key},
            "exists": state is not None,
            "state": None if state is None else json.dumps(state),
            # The extension encodes the state as JSON in JSON.
            "batch": [{"name": context.operation, "input": json.dumps(json.dumps(input_value))}],
        }
        response = json.loads(code(json.dumps(batch)))
        (result,) = response["results"]
        if result["isError"]:
            raise RuntimeError(json.loads(result["result"]))
        context.set_state(json.loads(response["entityState"]) if response["entityExists"] else None)
        return json.loads(result["result"])

    return run_operation


def build_routes(functions: list[Any], client: DurableClient) -> list[Route]:
    """A route for every HTTP function. The route templates of the app have the same meaning for Starlette."""
    bindings = []
    for function in functions:
        trigger = function.get_trigger()
        if trigger.type == "httpTrigger":
            methods = [method.value for method in trigger.methods]
            endpoint = wrap_http_function(function.get_user_function(), trigger.name, client)
            bindings.append(
                Route(f"/api/{trigger.route}", endpoint, methods=methods, name=function.get_function_name())
            )
    return bindings


def wrap_http_function(code: Any, request_parameter: str, client: DurableClient) -> Callable[[Request], Any]:
    """Return an endpoint that calls an HTTP function of the app with this durable client.

    It skips the library's middleware, which would create a client of its own."""
    durable = hasattr(code, "client_function")
    user_function = code.client_function if durable else code

    async def handle_request(request: Request) -> Response:
        """Call an HTTP function of the app as the Functions host does, and return its response."""
        functions_request = func.HttpRequest(
            request.method,
            str(request.url),
            headers=dict(request.headers),
            params=dict(request.query_params),
            route_params={name: str(value) for name, value in request.path_params.items()},
            body=await request.body(),
        )
        arguments: dict[str, Any] = {request_parameter: functions_request}
        if durable:
            arguments["client"] = client
        response = await user_function(**arguments)
        headers = dict(response.headers)
        return Response(response.get_body(), response.status_code, headers=headers, media_type=response.mimetype)

    return handle_request
