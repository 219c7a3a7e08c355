"""Every error as a problem document (RFC 9457): the one place where errors become HTTP."""

import logging
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route

from state_api.domain import errors
from state_api.domain.names import PATTERN_DESCRIPTIONS
from state_api.settings import AccessKey

log = logging.getLogger(__name__)

PROBLEM_MEDIA_TYPE = "application/problem+json"


class Unauthorized(errors.StateError):
    """No key, or one that is not known."""


class Forbidden(errors.StateError):
    """The key's role, or the apps that it is bound to, do not allow this."""


class KeysNotConfigured(errors.Unavailable):
    """A server on a Functions host has no keys. Unavailable, so that Event Grid delivers again."""


class SettingsInvalid(errors.Unavailable):
    """A setting is missing or wrong. Unavailable, so that Event Grid delivers again."""


class RequestTimeout(errors.StateError):
    """The body did not come in time."""


class PayloadTooLarge(errors.StateError):
    """The body, or the number of events in it, is over the limit."""


class UnsupportedMediaType(errors.StateError):
    """The body is not of a type that this operation takes."""


_STATUS_BY_ERROR: list[tuple[type[errors.StateError], int]] = [
    (errors.InvalidRequest, 400),
    (Unauthorized, 401),
    (Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Refused, 409),
    (errors.PreconditionFailed, 412),
    (RequestTimeout, 408),
    (PayloadTooLarge, 413),
    (UnsupportedMediaType, 415),
    (errors.TooManyEvents, 429),
    (errors.Unavailable, 503),
]

PROBLEM_CODES = {
    "InvalidRequest": "The request breaks the contract; `errors` or `detail` say where.",
    "Unauthorized": "No key was sent, or one that this server does not know.",
    "Forbidden": "The key's role or its apps do not allow this; a server without keys answers only under localhost.",
    "NotFound": "There is nothing at this address.",
    "AppNotFound": "The server knows no such app.",
    "SlotNotFound": "The app has no such slot.",
    "TaskHubNotFound": "Nothing is known of this task hub.",
    "WaiverNotFound": "The app has no waiver for this instance.",
    "MethodNotAllowed": "The address exists, but not with this method.",
    "StagingNotReady": "The slot's task hub is not drained; `reasons` say why.",
    "DeploymentInProgress": "Another run deploys into this app; `deployment` says who, since when, which run.",
    "TaskHubInUse": "A slot of an app holds this task hub.",
    "TaskHubAlreadyUsed": "The task hub was used before, or exists at its provider; a new version needs a new name.",
    "TaskHubClaimed": "An app has claimed the task hub; only Cleanup for that app removes its records.",
    "TaskHubNotDrained": "The task hub has active instances, or had until a moment ago; `reasons` say which.",
    "AppNotDrained": "A slot of the app is not drained; `reasons` say why.",
    "CleanupRequired": "The app has retired task hubs whose records only Cleanup removes; `taskHubs` names them.",
    "SwapMismatch": "The slot or the open deployment is not what the caller believes.",
    "SwapPending": "A swap was begun and nobody has said how it went; `pendingSwap` says who, since when, which run.",
    "ProbeNotConfigured": "Nothing says where the app's task hubs live; set `taskHubs` with PutApp.",
    "Conflict": "Others changed the app at the same time, again and again; `updatedBy` says who.",
    "PreconditionFailed": "`If-Match` names another version of the app.",
    "RequestTimeout": "The body did not come in time.",
    "PayloadTooLarge": "The body or the number of events is over the limit.",
    "UnsupportedMediaType": "The body must be of one of the types that `detail` names.",
    "TaskHubUnavailable": "The task hub's own storage cannot be read now; `detail` says what to mend.",
    "KeysNotConfigured": "The server runs in Azure Functions and has no keys; set `STATE_KEYS`.",
    "SettingsInvalid": "A setting of the server is missing or wrong; `detail` says which and what to do.",
    "StorageUnavailable": "The state storage cannot be used now; `Retry-After` says when to try again.",
    "UnsupportedSchema": "Another version of this server wrote the rows that are needed; `detail` says which.",
    "TooManyEvents": "More deliveries are in progress than the server has capacity for; send the delivery again.",
    "InternalError": "Something unforeseen; the server's log has it under `traceId`.",
}
"""Every code that a problem document can carry, for the documentation."""


class ProblemReason(BaseModel):
    code: str
    message: str


class FieldError(BaseModel):
    field: str = Field(description="Where in the request, such as `body.taskHub`.")
    message: str


class Problem(BaseModel):
    """RFC 9457. `code` is stable; `detail` is for people and says what to do."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:safe-deploy:problem:StagingNotReady"])
    title: str
    status: int
    code: str
    detail: str
    reasons: list[ProblemReason] | None = None
    errors: list[FieldError] | None = None


def problem_response(
    status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **members: Any
) -> JSONResponse:
    content = {
        "type": f"urn:safe-deploy:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        **members,
    }
    return JSONResponse(content, status, headers=dict(headers or {}), media_type=PROBLEM_MEDIA_TYPE)


def problem_from_error(error: errors.StateError) -> JSONResponse:
    status = next(status for kind, status in _STATUS_BY_ERROR if isinstance(error, kind))
    headers: dict[str, str] = {}
    if isinstance(error, errors.Unavailable):
        headers["Retry-After"] = str(error.retry_after)
    elif (seconds := error.details.get("retryAfterSeconds")) is not None:
        headers["Retry-After"] = str(seconds)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'ApiKey realm="state", header="x-functions-key"'
    return problem_response(status, error.code, error.message, headers, **error.details)


def internal_error(error: Exception) -> JSONResponse:
    """The answer to a defect: the facts go to the log, the caller gets what finds them there."""
    trace = uuid.uuid4().hex
    log.error("unforeseen, trace %s", trace, exc_info=error)
    detail = "the server met something unforeseen; its log has the details under this traceId"
    return problem_response(500, "InternalError", detail, traceId=trace)


def install_error_handlers(api: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Answer every error of this application as a problem document. `routes` are all that it has."""

    @api.exception_handler(errors.StateError)
    async def on_state_error(request: Request, error: errors.StateError) -> JSONResponse:
        return problem_from_error(_redact_other_apps(error, request))

    @api.exception_handler(Exception)
    async def on_unhandled_error(request: Request, error: Exception) -> JSONResponse:
        return internal_error(error)

    @api.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [
            {"field": ".".join(str(part) for part in one["loc"]), "message": _validation_message(one)}
            for one in error.errors()
        ]
        detail = "; ".join(f"{one['field']}: {one['message']}" for one in found[:5])
        return problem_response(400, "InvalidRequest", detail, errors=found[:50])

    @api.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        known = {
            400: ("InvalidRequest", "the body cannot be read as JSON"),
            404: ("NotFound", f"there is nothing at {request.url.path}"),
            405: ("MethodNotAllowed", f"{request.method} is not possible at {request.url.path}"),
        }
        code, detail = known.get(error.status_code, ("InvalidRequest", str(error.detail)))
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_allowed_methods(request, routes))
        return problem_response(error.status_code, code, detail, headers)


def _redact_other_apps(error: errors.StateError, request: Request) -> errors.StateError:
    """The error without the name of an app that the key of this request, bound to apps, may not see."""
    key: AccessKey | None = request.scope.get("state", {}).get("key")
    other = error.details.get("app")
    if key is None or other is None or key.may_access(str(other)):
        return error
    task_hub = error.details.get("taskHub")
    return type(error)(
        f"another app has claimed task hub {task_hub}; use a name that no app ever used", taskHub=task_hub
    )


def _allowed_methods(request: Request, routes: Sequence[BaseRoute]) -> list[str]:
    """All methods of an address: the framework only tells those of the first route that it finds there."""
    there = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for route in there if isinstance(route, Route) for method in route.methods or ()})


def _validation_message(error: Mapping[str, Any]) -> str:
    """What a validation error asks for; a naming rule in words instead of its pattern."""
    pattern = error.get("ctx", {}).get("pattern")
    return PATTERN_DESCRIPTIONS.get(pattern) or str(error["msg"])


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem documents of an operation, for OpenAPI."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
