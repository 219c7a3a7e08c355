"""Invokes functions as the Functions worker does: it passes a request of the azure-functions library to the handler."""

import functools
import json
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlencode

import azure.functions as func

import function_app

ADMIN_KEY = "an-admin-key-0123456789"
HOST_URL = "http://localhost:7071"
EVENT_GRID_FUNCTION = "RecordLifecycleEvent"
TIMER_FUNCTION = "ProbeTaskHubs"


@functools.cache
def indexed_functions() -> dict[str, Any]:
    """All functions of the app by name. Cached, because the library indexes an app only once."""
    return {str(function.get_function_name()): function for function in function_app.app.get_functions()}


def function_url(name: str, route: dict[str, str], query: dict[str, Any] | None = None) -> str:
    """The URL at which the host serves this function."""
    path = indexed_functions()[name].get_trigger().route.format(**route)
    return f"{HOST_URL}/api/{path}" + (f"?{urlencode(query)}" if query else "")


async def invoke(
    name: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    key: str = ADMIN_KEY,
    query: dict[str, Any] | None = None,
    **route: str,
) -> func.HttpResponse:
    """Invoke an HTTP function, by default with the first of its methods."""
    function = indexed_functions()[name]
    request = func.HttpRequest(
        method or function.get_trigger().methods[0].value,
        function_url(name, route, query),
        headers={"x-functions-key": key}
        | ({"content-type": "application/json"} if body is not None else {})
        | (headers or {}),
        params={key: str(value) for key, value in (query or {}).items()},
        route_params=route,
        body=b"" if body is None else json.dumps(body).encode(),
    )
    context = cast("func.Context", SimpleNamespace(function_name=name, invocation_id="0"))
    response: func.HttpResponse = await function.get_user_function()(req=request, context=context)
    return response


async def deliver_event(event: Any) -> None:
    """Invoke the Event Grid trigger, which receives the JSON of the event as text."""
    await indexed_functions()[EVENT_GRID_FUNCTION].get_user_function()(event=json.dumps(event))


def json_body(response: func.HttpResponse) -> Any:
    return json.loads(response.get_body())


def media_type(response: func.HttpResponse) -> str:
    """The type that the host sends: the header, of which there must be one."""
    (content_type,) = response.headers.getlist("content-type")
    return str(content_type)
