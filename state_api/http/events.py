"""PostEvents: webhook deliveries of lifecycle events in the Event Grid schema and as CloudEvents 1.0 (structured,
batched, binary), with the validation handshakes of both."""

from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from state_api.domain.errors import InvalidRequest
from state_api.http.auth import PUBLISH, check_may_publish
from state_api.http.dependencies import services_of
from state_api.http.middleware import is_delivery
from state_api.http.problems import PayloadTooLarge, UnsupportedMediaType, problem_responses
from state_api.http.responses.events import DeliveryResponse
from state_api.services.event_parser import parse_json

router = APIRouter(prefix="/api/events", tags=["events"])

MAX_EVENTS = 5000
"""The largest batch that Event Grid can be configured to send (docs/platform.md)."""

_JSON = "application/json"
_CLOUD_EVENT = "application/cloudevents+json"
_CLOUD_EVENT_BATCH = "application/cloudevents-batch+json"
_VALIDATION_EVENT_TYPE = "Microsoft.EventGrid.SubscriptionValidationEvent"


class ValidationResponse(BaseModel):
    """The response to Event Grid's validation handshake."""

    validationResponse: str = Field(description="The validationCode of the request.")  # noqa: N815 (Event Grid's own name)


# The schema allows any array items, because events that cannot be parsed go to quarantine. It has no limit on their
# number, because more than MAX_EVENTS are refused with 413 instead of 400.
_DELIVERY_SCHEMA = {"oneOf": [{"type": "array", "items": {}}, {"type": "object"}]}
_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            media_type: {"schema": _DELIVERY_SCHEMA} for media_type in (_JSON, _CLOUD_EVENT, _CLOUD_EVENT_BATCH)
        },
    }
}


@router.post(
    "",
    operation_id="PostEvents",
    dependencies=[PUBLISH],
    response_model=DeliveryResponse | ValidationResponse,
    responses=problem_responses(400, 401, 403, 408, 413, 415, 429, 503),
    openapi_extra=_REQUEST_BODY,
)
async def post_events(request: Request) -> Response:
    """Record a delivery of lifecycle events. Returns 200 once every event is stored durably: recorded, or in quarantine
    if it cannot be parsed."""
    events = _parse_delivery(request.headers, await request.body())
    if len(events) > MAX_EVENTS:
        raise PayloadTooLarge(f"a delivery holds at most {MAX_EVENTS} events, not {len(events)}", limit=MAX_EVENTS)
    if (code := _validation_code(events)) is not None:
        return _json_response(ValidationResponse(validationResponse=code))
    return _json_response(DeliveryResponse.of(await services_of(request).recorder.record(events, "webhook")))


class DirectDeliveries:
    """Serves PostEvents, and passes all other requests to the API.

    For a delivery of one event, FastAPI's own work takes longer than the server's (docs/performance.md). The route of
    PostEvents in the API documents the operation."""

    def __init__(self, api: FastAPI) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Raises the errors of PostEvents, which RequestMiddleware turns into problem documents."""
        if scope["type"] != "http" or not is_delivery(scope):
            await self._api(scope, receive, send)
            return
        scope["app"], scope["route"] = self._api, _POST_EVENTS_ROUTE
        request = Request(scope, receive)
        await check_may_publish(request)
        response = await post_events(request)
        await response(scope, receive, send)


def _json_response(model: BaseModel) -> Response:
    """The response without FastAPI's validation, which would only repeat that of the model."""
    return Response(model.model_dump_json(by_alias=True), media_type=_JSON)


_POST_EVENTS_ROUTE = router.routes[-1]


@router.options("", dependencies=[PUBLISH], include_in_schema=False)
async def validate_cloud_events_webhook(request: Request) -> Response:
    """The handshake of CloudEvents: allow deliveries from every origin, provided the request has a publisher's key."""
    origin = request.headers.get("WebHook-Request-Origin")
    if not origin:
        raise InvalidRequest("the CloudEvents handshake needs the header WebHook-Request-Origin")
    headers = {"Allow": "OPTIONS, POST", "WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*"}
    return Response(status_code=200, headers=headers)


def _parse_delivery(headers: Headers, body: bytes) -> list[Any]:
    """The events of a delivery as JSON values. Raises InvalidRequest, UnsupportedMediaType."""
    if "ce-specversion" in headers:
        return [_parse_binary_cloud_event(headers, body)]
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in (_JSON, _CLOUD_EVENT, _CLOUD_EVENT_BATCH):
        raise UnsupportedMediaType(f"the Content-Type must be {_JSON}, {_CLOUD_EVENT} or {_CLOUD_EVENT_BATCH}")
    try:
        delivery = parse_json(body)
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not valid JSON") from None
    if isinstance(delivery, list):
        return delivery
    if isinstance(delivery, dict):
        return [delivery]
    raise InvalidRequest("the body must be an event or an array of events")


def _parse_binary_cloud_event(headers: Headers, body: bytes) -> dict[str, Any]:
    """A CloudEvent in binary mode: its attributes are headers, its data is the body."""
    event: dict[str, Any] = {
        name.removeprefix("ce-"): unquote(value) for name, value in headers.items() if name.startswith("ce-")
    }
    try:
        event["data"] = parse_json(body)
    except (ValueError, RecursionError):
        event["data"] = body.decode(errors="replace")
    return event


def _validation_code(events: list[Any]) -> str | None:
    """The code of Event Grid's validation handshake; None if the delivery is none. Raises InvalidRequest if it has no
    code."""
    if len(events) != 1 or not isinstance(events[0], dict) or events[0].get("eventType") != _VALIDATION_EVENT_TYPE:
        return None
    data = events[0].get("data")
    code = data.get("validationCode") if isinstance(data, dict) else None
    if not isinstance(code, str) or not code or not code.isprintable():
        raise InvalidRequest("the validation event has no data.validationCode that could be sent back")
    return code
