"""The app as it is indexed: its orchestrators, activities and entity, put on a `durabletask` worker, and its HTTP
functions, put behind Starlette routes."""

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
    """The app's functions, from function_app.py as the host finds it: at the root of what is imported."""
    sys.path.insert(0, str(APP_FOLDER))
    return list(importlib.import_module("function_app").app.get_functions())


def register_functions(worker: TaskHubGrpcWorker, functions: list[Any]) -> None:
    """Put everything durable on the worker, under its function's name."""
    # The names are given by the app, and the worker's public methods take none. Entity names are folded, as the
    # extension folds them.
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
    def run(inner_context: OrchestrationContext, given: Any) -> Generator[Any, Any, Any]:
        return (yield from code(DurableContext(inner_context, given)))

    return run


def wrap_activity(code: Callable[[Any], Any]) -> Callable[[ActivityContext, Any], Any]:
    def run(_: ActivityContext, given: Any) -> Any:
        return code(given)

    return run


def wrap_entity(code: Callable[[str], str]) -> Callable[[EntityContext, Any], Any]:
    """The entity's own handler, called as the extension calls it: with a batch, here of one operation, as JSON."""

    def run(context: EntityContext, given: Any) -> Any:
        state = context.get_state()
        batch = {
            "self": {"name": context.entity_id.entity, "key": context.entity_id.key},
            "exists": state is not None,
            "state": None if state is None else json.dumps(state),
            # The extension writes JSON into JSON.
            "batch": [{"name": context.operation, "input": json.dumps(json.dumps(given))}],
        }
        answer = json.loads(code(json.dumps(batch)))
        (result,) = answer["results"]
        if result["isError"]:
            raise RuntimeError(json.loads(result["result"]))
        context.set_state(json.loads(answer["entityState"]) if answer["entityExists"] else None)
        return json.loads(result["result"])

    return run


def build_routes(functions: list[Any], client: DurableClient) -> list[Route]:
    """A route for every HTTP function; the host's and Starlette's templates agree for what the app uses."""
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
    """The function of the app behind the middleware of the library, which would make a client of its own."""
    durable = hasattr(code, "client_function")
    user_function = code.client_function if durable else code

    async def endpoint(request: Request) -> Response:
        taken = func.HttpRequest(
            request.method,
            str(request.url),
            headers=dict(request.headers),
            params=dict(request.query_params),
            route_params={name: str(value) for name, value in request.path_params.items()},
            body=await request.body(),
        )
        arguments: dict[str, Any] = {request_parameter: taken}
        if durable:
            arguments["client"] = client
        answer = await user_function(**arguments)
        headers = dict(answer.headers)
        return Response(answer.get_body(), answer.status_code, headers=headers, media_type=answer.mimetype)

    return endpoint
