"""Invokes functions as the Functions worker does: it passes a request of the azure-functions library to the handler."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlencode

import azure.functions as func

import function_app
from function_app import HOME_FUNCTION
from tests import recordings

ADMIN_KEY = "an-admin-key-0123456789"
HOST_URL = "http://localhost:7071"
EVENT_GRID_FUNCTION = "RecordLifecycleEvent"
PROBE_TIMER, ROLLOUT_TIMER = "ProbeTaskHubs", "AdvanceRollouts"
_SAMPLES = Path(__file__).parent.parent / "samples"


@functools.cache
def indexed_functions() -> dict[str, Any]:
    """All functions of the app by name. Cached, because the library indexes an app only once."""
    return {str(function.get_function_name()): function for function in function_app.app.get_functions()}


def function_url(name: str, route: dict[str, str], query: dict[str, Any] | None = None) -> str:
    """The URL at which the host serves this function."""
    path = "" if name == HOME_FUNCTION else indexed_functions()[name].get_trigger().route.format(**route)
    return f"{HOST_URL}/{path}" + (f"?{urlencode(query)}" if query else "")


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
    """Invoke an HTTP function, by default with the first of its methods.

    The keyword arguments `route` are the parameters in the path, such as `app`.
    """
    function = indexed_functions()[name]
    request = func.HttpRequest(
        method or function.get_trigger().methods[0].value,
        function_url(name, route, query),
        headers={"x-functions-key": key}
        | ({"content-type": "application/json"} if body is not None else {})
        | (headers or {}),
        params={parameter: str(value) for parameter, value in (query or {}).items()},
        route_params=route,
        body=b"" if body is None else json.dumps(body).encode(),
    )
    return await pass_request(name, request)


async def pass_request(name: str, request: func.HttpRequest) -> func.HttpResponse:
    """Call the handler of the HTTP function `name` with this request."""
    context = cast("func.Context", SimpleNamespace(function_name=name, invocation_id="0"))
    response: func.HttpResponse = await indexed_functions()[name].get_user_function()(req=request, context=context)
    return response


async def deliver_event(event: Any) -> None:
    """Invoke the Event Grid trigger, which receives the JSON of the event as text."""
    await deliver_text(json.dumps(event))


async def deliver_text(text: str) -> None:
    """Invoke the Event Grid trigger with this text, which may be no event."""
    await indexed_functions()[EVENT_GRID_FUNCTION].get_user_function()(event=text)


def json_body(response: func.HttpResponse) -> Any:
    """The body of the response, parsed as JSON."""
    return json.loads(response.get_body())


def media_type(response: func.HttpResponse) -> str:
    """The value of the response's only Content-Type header, which the host sends on."""
    (content_type,) = response.headers.getlist("content-type")
    return str(content_type)


def operation_functions() -> dict[str, Any]:
    """The functions of the API's operations, by name."""
    return {
        name: function
        for name, function in indexed_functions().items()
        if name not in (EVENT_GRID_FUNCTION, PROBE_TIMER, ROLLOUT_TIMER, HOME_FUNCTION)
    }


def sample_delivery(name: str, hub: str) -> Any:
    """A delivery of Event Grid, recorded or from the documentation, whose events are those of this task hub."""
    if name in {*recordings.DELIVERIES, "continue-as-new"}:
        return recordings.recorded_delivery(name, hub)
    return json.loads((_SAMPLES / f"{name}.json").read_text().replace('"v41"', f'"{hub}"'))
