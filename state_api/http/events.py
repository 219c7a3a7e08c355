"""PostEvents: lifecycle events as webhook deliveries, in the Event Grid schema and as CloudEvents 1.0 (structured,
batched, binary), with the handshakes of both (PLATFORM: Event Grid delivery)."""

from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.datastructures import Headers

from state_api.domain.errors import InvalidRequest
from state_api.http.auth import PUBLISH
from state_api.http.dependencies import services_of
from state_api.http.problems import PayloadTooLarge, UnsupportedMediaType, problem_responses
from state_api.http.responses.events import DeliveryResponse
from state_api.services.event_parser import parse_json

router = APIRouter(prefix="/api/events", tags=["events"])

MAX_EVENTS = 5000
"""Event Grid's largest batch (PLATFORM: Event Grid delivery)."""

_JSON = "application/json"
_CLOUD_EVENT = "application/cloudevents+json"
_CLOUD_EVENT_BATCH = "application/cloudevents-batch+json"
_VALIDATION_EVENT_TYPE = "Microsoft.EventGrid.SubscriptionValidationEvent"


class ValidationResponse(BaseModel):
    """The answer to Event Grid's handshake."""

    validationResponse: str = Field(description="The code that was sent.")  # noqa: N815 (Event Grid's own name)


# Whatever is in the array is taken: what cannot be understood goes to quarantine. More than MAX_EVENTS are told by 413.
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
    """Take a delivery. 200 once every event is durable: recorded, or in quarantine if it cannot be understood."""
    # The services are no dependency as elsewhere: for an event by itself FastAPI's work is most of what it costs.
    events = _parse_delivery(request.headers, await request.body())
    if len(events) > MAX_EVENTS:
        raise PayloadTooLarge(f"a delivery holds at most {MAX_EVENTS} events, not {len(events)}", limit=MAX_EVENTS)
    if (code := _validation_code(events)) is not None:
        return _json_response(ValidationResponse(validationResponse=code))
    return _json_response(DeliveryResponse.of(await services_of(request).recorder.record(events, "webhook")))


def _json_response(model: BaseModel) -> Response:
    """As it is: it was made here, and need not be checked once more for every event."""
    return Response(model.model_dump_json(by_alias=True), media_type=_JSON)


@router.options("", dependencies=[PUBLISH], include_in_schema=False)
async def answer_webhook_validation(request: Request) -> Response:
    """The handshake of CloudEvents: whoever asks with a key that may publish is allowed to deliver."""
    origin = request.headers.get("WebHook-Request-Origin")
    if not origin:
        raise InvalidRequest("the CloudEvents handshake needs the header WebHook-Request-Origin")
    headers = {"Allow": "OPTIONS, POST", "WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*"}
    return Response(status_code=200, headers=headers)


def _parse_delivery(headers: Headers, body: bytes) -> list[Any]:
    """The events of a delivery, each as it came. Raises InvalidRequest, UnsupportedMediaType."""
    if "ce-specversion" in headers:
        return [_parse_binary_cloud_event(headers, body)]
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in (_JSON, _CLOUD_EVENT, _CLOUD_EVENT_BATCH):
        raise UnsupportedMediaType(f"send {_JSON}, {_CLOUD_EVENT} or {_CLOUD_EVENT_BATCH}")
    try:
        content = parse_json(body)
    except (ValueError, RecursionError):
        raise InvalidRequest("the body cannot be read as JSON") from None
    if isinstance(content, list):
        return content
    if isinstance(content, dict):
        return [content]
    raise InvalidRequest("the body must be an event or an array of events")


def _parse_binary_cloud_event(headers: Headers, body: bytes) -> dict[str, Any]:
    """A CloudEvent whose attributes are headers and whose data is the body."""
    event: dict[str, Any] = {
        name.removeprefix("ce-"): unquote(value) for name, value in headers.items() if name.startswith("ce-")
    }
    try:
        event["data"] = parse_json(body)
    except (ValueError, RecursionError):
        event["data"] = body.decode(errors="replace")
    return event


def _validation_code(events: list[Any]) -> str | None:
    if len(events) != 1 or not isinstance(events[0], dict) or events[0].get("eventType") != _VALIDATION_EVENT_TYPE:
        return None
    data = events[0].get("data")
    code = data.get("validationCode") if isinstance(data, dict) else None
    if not isinstance(code, str) or not code:
        raise InvalidRequest("the handshake has no data.validationCode")
    return code
