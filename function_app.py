"""The entry point for Azure Functions: one named function per API operation, the Event Grid trigger, and two timers.
All HTTP functions pass their requests to one ASGI application. Importing this module opens no connection."""

import gc

# No garbage collection during the imports: they create almost no garbage, and collections take a sixth of their time.
gc.disable()

import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import azure.functions as func
from fastapi.responses import JSONResponse

from state_api.app import StateServer
from state_api.garbage_collection import configure_garbage_collection
from state_api.http.health import HealthResponse
from state_api.http.home import HOME_PAGE, HOME_PAGE_HEADERS
from state_api.http.middleware import security_headers
from state_api.http.problems import PROBLEM_MEDIA_TYPE, SettingsInvalid, problem_from_error, problem_response
from state_api.services.event_parser import parse_json
from state_api.settings import SettingsError, read_settings

# Without this, the next collection would walk through all that the imports have created.
gc.freeze()
gc.enable()

OPERATIONS: list[tuple[str, list[str], str]] = [
    ("GetStagingStatus", ["GET"], "apps/{app}/staging"),
    ("PostStaging", ["POST"], "apps/{app}/staging"),
    ("DeleteStaging", ["DELETE"], "apps/{app}/staging"),
    ("PostSwap", ["POST"], "apps/{app}/swap"),
    ("ListReleases", ["GET"], "apps/{app}/releases"),
    ("PostRelease", ["POST"], "apps/{app}/releases"),
    ("DeleteRelease", ["DELETE"], "apps/{app}/releases/{version}"),
    ("GetReleaseStatus", ["GET"], "apps/{app}/releases/{version}/status"),
    ("GetRouting", ["GET"], "apps/{app}/routing"),
    ("PutRouting", ["PUT"], "apps/{app}/routing"),
    ("PutRollout", ["PUT"], "apps/{app}/rollout"),
    ("GetRollout", ["GET"], "apps/{app}/rollout"),
    ("PostRollout", ["POST"], "apps/{app}/rollout/{action}"),
    ("GetRolloutHealth", ["GET"], "apps/{app}/health"),
    ("ForgetRouter", ["DELETE"], "apps/{app}/routers/{router}"),
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
    ("GetTimeline", ["GET"], "taskhubs/{hub}/timeline"),
    ("GetVersions", ["GET"], "taskhubs/{hub}/versions"),
    ("PostEvents", ["POST", "OPTIONS"], "events"),
    ("ListQuarantine", ["GET"], "quarantine"),
    ("PurgeQuarantine", ["DELETE"], "quarantine"),
    ("Health", ["GET"], "health"),
    ("Ready", ["GET"], "health/ready"),
    ("GetOpenApi", ["GET"], "openapi.json"),
]
"""The operations of the API: function, methods, and route under `/api`."""

HOME_FUNCTION = "GetHomePage"
_HOME_ROUTE = "{nothing:maxlength(0)?}"
"""The host has no route for `/` alone. This one has a parameter that can only be empty."""

_SETTINGS_RETRY_SECONDS = 60
"""The Retry-After of a response that reports a wrong setting."""

app = func.FunctionApp()


@functools.cache
def server() -> StateServer:
    """The server of this process. The first invocation creates it, so that the host can index the functions without
    settings. Raises SettingsError; the next invocation then reads the settings again."""
    created = StateServer(read_settings(os.environ, keys_required=True))
    configure_garbage_collection()
    return created


async def serve(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """Pass the request to the ASGI application, which checks the key: every function is anonymous to the host.

    The host chooses the function by the escaped path, the application chooses the operation by the unescaped one. A
    path with an escaped slash could therefore reach another operation, and is refused: no valid name contains a slash.
    """
    if "%2f" in urlsplit(req.url).path.lower():
        return _problem_response(req, 404, "NotFound", "there is nothing at this address")
    try:
        application = server().application
    except SettingsError as error:
        return _invalid_settings_response(req, context.function_name, error)
    middleware = func.AsgiMiddleware(application)  # type: ignore[no-untyped-call]  # the library has no types
    try:
        response: func.HttpResponse = await middleware.handle_async(req, context)
    except UnicodeDecodeError:
        # AsgiMiddleware decodes the path.
        return _problem_response(req, 400, "InvalidRequest", "the address is not UTF-8")
    return response


def _invalid_settings_response(req: func.HttpRequest, operation: str, error: SettingsError) -> func.HttpResponse:
    """The response while a setting is missing or wrong. Health and the home page succeed, and all other operations
    report the setting."""
    if operation == HOME_FUNCTION:
        return _http_response(req, 200, HOME_PAGE.encode(), "text/html", HOME_PAGE_HEADERS)
    if operation == "Health":
        return _http_response(req, 200, HealthResponse(status="Healthy").model_dump_json().encode(), "application/json")
    return _to_http_response(req, problem_from_error(SettingsInvalid(str(error), _SETTINGS_RETRY_SECONDS)))


def _problem_response(req: func.HttpRequest, status: int, code: str, detail: str) -> func.HttpResponse:
    """A problem document as the response of a function."""
    return _to_http_response(req, problem_response(status, code, detail))


def _to_http_response(req: func.HttpRequest, problem: JSONResponse) -> func.HttpResponse:
    """A problem document and its headers as a response of the azure-functions library."""
    extra_headers = {
        name: value for name, value in problem.headers.items() if name not in ("content-length", "content-type")
    }
    return _http_response(req, problem.status_code, bytes(problem.body), PROBLEM_MEDIA_TYPE, extra_headers)


def _http_response(
    req: func.HttpRequest, status: int, body: bytes, media_type: str, extra_headers: Mapping[str, str] | None = None
) -> func.HttpResponse:
    """The response of a function, with the same security headers as a server outside Azure sends."""
    headers = security_headers(urlsplit(req.url).scheme) | dict(extra_headers or {})
    return func.HttpResponse(body, status_code=status, headers=headers, mimetype=media_type)


def _create_handler(name: str) -> Callable[[func.HttpRequest, func.Context], Awaitable[func.HttpResponse]]:
    """A new handler. Each function needs its own, because the library stores a function's settings on its handler."""

    async def handler(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
        """Serve an HTTP request with the server's ASGI application."""
        return await serve(req, context)

    handler.__name__ = name
    return handler


# host.json sets an empty route prefix: with the prefix `api` no function could serve `/`.
for _name, _methods, _route in [
    *((name, methods, f"api/{route}") for name, methods, route in OPERATIONS),
    (HOME_FUNCTION, ["GET"], _HOME_ROUTE),
]:
    # The server checks its own access keys (state_api.http.auth); host keys and function keys grant nothing.
    _http_trigger = app.route(route=_route, methods=_methods, auth_level=func.AuthLevel.ANONYMOUS)
    app.function_name(_name)(_http_trigger(_create_handler(_name)))


@app.function_name("RecordLifecycleEvent")
@app.event_grid_trigger(arg_name="event")
async def record_lifecycle_event(event: str) -> None:
    """Record one lifecycle event. An exception makes Event Grid deliver the event again. An event that cannot be parsed
    goes to quarantine and is not delivered again.

    The parameter is text, because the worker then passes the event as Event Grid sent it, in either schema.
    `func.EventGridEvent` would cut the time to microseconds. Its converter raises on times that it cannot parse, and
    Event Grid would deliver such an event again for 24 h.
    """
    with server().admission.reserve(len(event)):
        await server().services.recorder.record([parse_delivered_event(event)], "trigger")


@app.function_name("ProbeTaskHubs")
@app.timer_trigger(schedule="*/30 * * * * *", arg_name="timer", use_monitor=False)
async def probe_task_hubs(timer: func.TimerRequest) -> None:
    """Probe the task hubs that are draining. A missed run is not repeated (`use_monitor=False`): the next one does the
    same work."""
    await server().background.probe_due_hubs()


@app.function_name("AdvanceRollouts")
@app.timer_trigger(schedule="*/30 * * * * *", arg_name="timer", use_monitor=False)
async def advance_rollouts(timer: func.TimerRequest) -> None:
    """Evaluate the rollouts of all apps. It is a function of its own, because a round of probes can take minutes, and
    an unhealthy version must not wait for it."""
    await server().rollouts.advance_all()


def parse_delivered_event(text: str) -> Any:
    """The event as JSON, or as the text itself if it is not JSON: the recorder then puts it in quarantine."""
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return text
