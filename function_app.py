"""Azure Functions entry: one named function per API operation, all served by the one ASGI application, the Event
Grid trigger and a timer. Wiring only; importing it connects to nothing."""

import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import azure.functions as func
from fastapi.responses import JSONResponse

from state_api.app import StateServer
from state_api.http.health import HealthResponse
from state_api.http.middleware import security_headers
from state_api.http.problems import PROBLEM_MEDIA_TYPE, SettingsInvalid, problem_from_error, problem_response
from state_api.services.event_parser import parse_json
from state_api.settings import SettingsError, read_settings

OPERATIONS: list[tuple[str, list[str], str]] = [
    ("GetStagingStatus", ["GET"], "apps/{app}/staging"),
    ("PostStaging", ["POST"], "apps/{app}/staging"),
    ("DeleteStaging", ["DELETE"], "apps/{app}/staging"),
    ("PostSwap", ["POST"], "apps/{app}/swap"),
    ("Cleanup", ["POST"], "apps/{app}/cleanup"),
    ("ListApps", ["GET"], "apps"),
    ("GetApp", ["GET"], "apps/{app}"),
    ("PutApp", ["PUT"], "apps/{app}"),
    ("DeleteApp", ["DELETE"], "apps/{app}"),
    ("GetHistory", ["GET"], "apps/{app}/history"),
    ("PostWaiver", ["POST"], "apps/{app}/waivers"),
    ("DeleteWaiver", ["DELETE"], "apps/{app}/waivers"),
    ("GetTaskHub", ["GET"], "taskhubs/{hub}"),
    ("DeleteTaskHub", ["DELETE"], "taskhubs/{hub}"),
    ("ListInstances", ["GET"], "taskhubs/{hub}/instances"),
    ("GetVersions", ["GET"], "taskhubs/{hub}/versions"),
    ("PostEvents", ["POST", "OPTIONS"], "events"),
    ("ListQuarantine", ["GET"], "quarantine"),
    ("PurgeQuarantine", ["DELETE"], "quarantine"),
    ("Health", ["GET"], "health"),
    ("Ready", ["GET"], "health/ready"),
    ("GetOpenApi", ["GET"], "openapi.json"),
]

_SETTINGS_RETRY_SECONDS = 60
"""How long a caller waits before it asks a server again that has a wrong setting."""

app = func.FunctionApp()


@functools.cache
def server() -> StateServer:
    """The server of this process, made at the first invocation so that indexing needs no settings. Raises
    SettingsError, and is then made at a later invocation."""
    return StateServer(read_settings(os.environ, keys_required=True))


async def serve(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """Hand the request to the ASGI application, which checks the key: to the host every function is anonymous.

    The host has chosen the function by the path as it was sent. An escaped slash would let the application find
    another operation there; no name has one. A path that is not UTF-8 does not get that far: the middleware decodes it
    and raises.
    """
    if "%2f" in urlsplit(req.url).path.lower():
        return _problem(req, 404, "NotFound", "there is nothing at this address")
    try:
        application = server().application
    except SettingsError as error:
        return _invalid_settings_response(req, context.function_name, error)
    middleware = func.AsgiMiddleware(application)  # type: ignore[no-untyped-call]  # the library has no types
    try:
        answer: func.HttpResponse = await middleware.handle_async(req, context)
    except UnicodeDecodeError:
        return _problem(req, 400, "InvalidRequest", "the address is not UTF-8")
    return answer


def _invalid_settings_response(req: func.HttpRequest, operation: str, error: SettingsError) -> func.HttpResponse:
    """The answer while a setting is missing or wrong: the process is healthy, and nothing else can be said."""
    if operation == "Health":
        return _http_response(req, 200, HealthResponse(status="Healthy").model_dump_json().encode(), "application/json")
    return _problem_http_response(req, problem_from_error(SettingsInvalid(str(error), _SETTINGS_RETRY_SECONDS)))


def _problem(req: func.HttpRequest, status: int, code: str, detail: str) -> func.HttpResponse:
    return _problem_http_response(req, problem_response(status, code, detail))


def _problem_http_response(req: func.HttpRequest, refusal: JSONResponse) -> func.HttpResponse:
    """A problem document, with its own headers, as the library's response."""
    extra_headers = {
        name: value for name, value in refusal.headers.items() if name not in ("content-length", "content-type")
    }
    return _http_response(req, refusal.status_code, bytes(refusal.body), PROBLEM_MEDIA_TYPE, extra_headers)


def _http_response(
    req: func.HttpRequest, status: int, body: bytes, media_type: str, extra_headers: Mapping[str, str] | None = None
) -> func.HttpResponse:
    headers = security_headers(urlsplit(req.url).scheme) | dict(extra_headers or {})
    return func.HttpResponse(body, status_code=status, headers=headers, mimetype=media_type)


def _create_handler(name: str) -> Callable[[func.HttpRequest, func.Context], Awaitable[func.HttpResponse]]:
    """A handler of its own for each function: the library keeps its settings on the handler."""

    async def handler(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
        return await serve(req, context)

    handler.__name__ = name
    return handler


for _name, _methods, _route in OPERATIONS:
    # The server's own keys decide (state_api.http.auth); a host key or a function key grants nothing.
    _route_of = app.route(route=_route, methods=_methods, auth_level=func.AuthLevel.ANONYMOUS)
    app.function_name(_name)(_route_of(_create_handler(_name)))


@app.function_name("RecordLifecycleEvent")
@app.event_grid_trigger(arg_name="event")
async def record_lifecycle_event(event: str) -> None:
    """Record one event. An exception makes Event Grid deliver it again; an event that cannot be understood goes to
    quarantine and is done with.

    As text, because the worker then hands over what Event Grid sent, in either schema. `func.EventGridEvent` would
    cut the time to microseconds, and its converter raises, before this code, on times that it cannot read: such an
    event would come back for 24 h.
    """
    with server().admission.reserve(len(event)):
        await server().services.recorder.record([parse_delivered_event(event)], "trigger")


@app.function_name("ProbeTaskHubs")
@app.timer_trigger(schedule="*/30 * * * * *", arg_name="timer", use_monitor=False)
async def probe_task_hubs(timer: func.TimerRequest) -> None:
    """Probe the task hubs that are draining. A round that is missed needs no making up for."""
    await server().background.probe_due_hubs()


def parse_delivered_event(text: str) -> Any:
    """The event as it came, for the parser that the webhook uses too; what is not JSON stays text, for quarantine."""
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return text
