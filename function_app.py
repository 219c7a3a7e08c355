"""Azure Functions entry: one named function per API operation, all served by the one ASGI application, the Event
Grid trigger and a timer. Wiring only; importing it connects to nothing."""

import functools
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import azure.functions as func

from state_api.app import StateServer
from state_api.http.middleware import security_headers
from state_api.http.problems import MEDIA_TYPE, problem
from state_api.services.envelopes import read_json
from state_api.settings import read_settings

KEYED = func.AuthLevel.FUNCTION
OPEN = func.AuthLevel.ANONYMOUS

OPERATIONS: list[tuple[str, list[str], str, func.AuthLevel]] = [
    ("GetStagingStatus", ["GET"], "apps/{app}/staging", KEYED),
    ("PostStaging", ["POST"], "apps/{app}/staging", KEYED),
    ("DeleteStaging", ["DELETE"], "apps/{app}/staging", KEYED),
    ("PostSwap", ["POST"], "apps/{app}/swap", KEYED),
    ("Cleanup", ["POST"], "apps/{app}/cleanup", KEYED),
    ("ListApps", ["GET"], "apps", KEYED),
    ("GetApp", ["GET"], "apps/{app}", KEYED),
    ("PutApp", ["PUT"], "apps/{app}", KEYED),
    ("DeleteApp", ["DELETE"], "apps/{app}", KEYED),
    ("GetHistory", ["GET"], "apps/{app}/history", KEYED),
    ("PostWaiver", ["POST"], "apps/{app}/waivers", KEYED),
    ("DeleteWaiver", ["DELETE"], "apps/{app}/waivers", KEYED),
    ("GetTaskHub", ["GET"], "taskhubs/{hub}", KEYED),
    ("DeleteTaskHub", ["DELETE"], "taskhubs/{hub}", KEYED),
    ("ListInstances", ["GET"], "taskhubs/{hub}/instances", KEYED),
    ("GetVersions", ["GET"], "taskhubs/{hub}/versions", KEYED),
    ("PostEvents", ["POST", "OPTIONS"], "events", KEYED),
    ("ListQuarantine", ["GET"], "quarantine", KEYED),
    ("PurgeQuarantine", ["DELETE"], "quarantine", KEYED),
    ("Health", ["GET"], "health", OPEN),
    ("Ready", ["GET"], "health/ready", OPEN),
    ("GetOpenApi", ["GET"], "openapi.json", OPEN),
]

app = func.FunctionApp()


@functools.cache
def server() -> StateServer:
    """Made at the first invocation: a wrong setting then fails that invocation, and not the indexing of all."""
    return StateServer(read_settings(os.environ))


async def serve(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """Hand the request to the ASGI application.

    The host has chosen the function, and so the key, by the address as it was sent. An escaped slash would let the
    application find another operation there; no name has one. An address that is not UTF-8 does not get that far: the
    middleware decodes it and raises.
    """
    if "%2f" in urlsplit(req.url).path.lower():
        return _refused(req, 404, "NotFound", "there is nothing at this address")
    middleware = func.AsgiMiddleware(server().application)  # type: ignore[no-untyped-call]  # the library has no types
    try:
        answer: func.HttpResponse = await middleware.handle_async(req, context)
    except UnicodeDecodeError:
        return _refused(req, 400, "InvalidRequest", "the address is not UTF-8")
    return answer


def _refused(req: func.HttpRequest, status: int, code: str, detail: str) -> func.HttpResponse:
    body = bytes(problem(status, code, detail).body)
    headers = security_headers(urlsplit(req.url).scheme)
    return func.HttpResponse(body, status_code=status, headers=headers, mimetype=MEDIA_TYPE)


def _operation(name: str) -> Callable[[func.HttpRequest, func.Context], Awaitable[func.HttpResponse]]:
    """A handler of its own for each function: the library keeps its settings on the handler."""

    async def handler(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
        return await serve(req, context)

    handler.__name__ = name
    return handler


for _name, _methods, _route, _level in OPERATIONS:
    _route_of = app.route(route=_route, methods=_methods, auth_level=_level)
    app.function_name(_name)(_route_of(_operation(_name)))


@app.function_name("RecordLifecycleEvent")
@app.event_grid_trigger(arg_name="event")
async def record_lifecycle_event(event: str) -> None:
    """Record one event. An exception makes Event Grid deliver it again; an event that cannot be understood goes to
    quarantine and is done with.

    As text, because the worker then hands over what Event Grid sent, in either schema. `func.EventGridEvent` would
    cut the time to microseconds, and its converter raises, before this code, on times that it cannot read: such an
    event would come back for 24 h.
    """
    with server().intake.admitted(len(event)):
        await server().services.recorder.record([delivered(event)], "trigger")


@app.function_name("ProbeTaskHubs")
@app.timer_trigger(schedule="*/30 * * * * *", arg_name="timer", use_monitor=False)
async def probe_task_hubs(timer: func.TimerRequest) -> None:
    """Probe the task hubs that are draining. A round that is missed needs no making up for."""
    await server().background.run_once()


def delivered(text: str) -> Any:
    """The event as it came, for the parser that the webhook uses too; what is not JSON stays text, for quarantine."""
    try:
        return read_json(text)
    except (ValueError, RecursionError):
        return text
