"""Problem documents (RFC 9457). This is the only module that turns errors into HTTP responses."""

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

_MAX_FIELD_ERRORS = 50
"""Field errors in one response. A body with more of them must not make the response long."""
_MAX_SUMMARIZED_FIELD_ERRORS = 5
"""Field errors that `detail` repeats in one line, for people who see nothing else of the response."""


class Unauthorized(errors.StateError):
    """The request has no key, or one that the server does not know."""


class Forbidden(errors.StateError):
    """The role of the key, or the apps that it is bound to, do not allow the operation."""


class KeysNotConfigured(errors.Unavailable):
    """A server on a Functions host has no keys. The status is 503, so that Event Grid delivers events again."""


class SettingsInvalid(errors.Unavailable):
    """A setting is missing or wrong. The status is 503, so that Event Grid delivers events again."""


class RequestTimeout(errors.StateError):
    """The body did not arrive in time."""


class PayloadTooLarge(errors.StateError):
    """The body, or the number of events in it, exceeds the limit."""


class UnsupportedMediaType(errors.StateError):
    """The operation does not accept the media type of the body."""


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
    "InvalidRequest": "The request is invalid; `errors` or `detail` say where.",
    "Unauthorized": "The request has no key, or one that this server does not know.",
    "Forbidden": "The role or apps of the key do not allow this; without keys, the server answers to localhost only.",
    "NotFound": "There is nothing at this address.",
    "AppNotFound": "The app does not exist.",
    "SlotNotFound": "The app has no slot with this name.",
    "TaskHubNotFound": "The server has no record of this task hub.",
    "WaiverNotFound": "The app has no waiver for this instance.",
    "MethodNotAllowed": "The address does not support this method; the header `Allow` lists those that it does.",
    "StagingNotReady": "The slot's task hub is not drained; `reasons` say why.",
    "DeploymentInProgress": "Another run deploys into this app; `deployment` says who, since when, and which run.",
    "TaskHubInUse": "The task hub is in a slot of an app.",
    "TaskHubAlreadyUsed": "The task hub was used before, or exists at its provider; deploy with a new name.",
    "TaskHubClaimed": "An app has claimed the task hub; only Cleanup of that app removes its records.",
    "TaskHubNotDrained": "The task hub has active instances, or had some a moment ago; `reasons` say which.",
    "AppNotDrained": "A slot of the app is not drained; `reasons` say why.",
    "CleanupRequired": "The app has retired task hubs, named in `taskHubs`; call Cleanup to remove their records.",
    "SwapMismatch": "The slot or the open deployment does not have the task hub that the request names.",
    "SwapPending": "A swap is pending; `pendingSwap` says who began it. Report its outcome with PostSwap.",
    "ReleaseNotFound": "The app has no release with this version.",
    "RouterNotFound": "No router has asked for the routing of the app under this name.",
    "WrongModel": "The operation is for apps of the other model: with slots, or with releases side by side.",
    "TooManyReleases": "The app has as many releases as it may have; remove a drained one.",
    "ReleaseExists": "The version, the task hub or the address belongs to another release, or did before.",
    "AddressNotAllowed": "The policy of the app does not allow this address (`addressPattern`).",
    "ReleaseInUse": "Routers send requests to the release, or it was adopted and may get some past them.",
    "ReleaseNotDrained": "The release is not drained, or a router may still send to it; `reasons` say why.",
    "ReleaseRemoved": "The release is removed, or is being removed.",
    "ReleaseNotDeployed": "The task hub of the release does not exist at its provider: its app has not started.",
    "RemovalPending": "Another run is removing the release; `removal` says who, since when, and which run.",
    "RolloutNotFound": "The app has never had a rollout.",
    "RolloutInProgress": "A rollout needs what would be changed, or its visitors may still come; `rollout` says which.",
    "RolloutEnded": "The rollout has ended, or it is too late for this action; `state` says how.",
    "WeightChanged": "The rollout needs another share than the confirmed one; `weight` says which.",
    "ProbeNotConfigured": "The app does not say where its task hubs live; set `taskHubs` with PutApp.",
    "Conflict": "Other requests changed the app at the same time; `updatedBy` says who. Send the request again.",
    "PreconditionFailed": "`If-Match` does not match the ETag of the app.",
    "RequestTimeout": "The body did not arrive in time.",
    "PayloadTooLarge": "The body or the number of events exceeds the limit.",
    "UnsupportedMediaType": "The body must have one of the media types that `detail` names.",
    "TaskHubUnavailable": "The task hub cannot be read at its provider; `detail` says what to fix.",
    "KeysNotConfigured": "The server runs in Azure Functions and has no keys; set `STATE_KEYS`.",
    "SettingsInvalid": "A setting of the server is missing or wrong; `detail` says which, and how to correct it.",
    "StorageUnavailable": "The state storage is unavailable; `Retry-After` says when to try again.",
    "UnsupportedSchema": "Another version of this server wrote the stored rows; `detail` says which.",
    "TooManyEvents": "Too many deliveries are in progress; send the delivery again.",
    "InternalError": "An unexpected error; the server's log has the details under `traceId`.",
}
"""Every code of a problem document, with its meaning. docs/reasons.md documents the same codes."""


class _ProblemPart(BaseModel):
    """A problem document, or a part of one. Only the OpenAPI document needs its schema, so it is built at first use."""

    model_config = ConfigDict(defer_build=True)


class ProblemReason(_ProblemPart):
    code: str
    message: str


class FieldError(_ProblemPart):
    field: str = Field(description="The part of the request, such as `body.taskHub`.")
    message: str


class Problem(_ProblemPart):
    """A problem document (RFC 9457). Programs can rely on `code`; `detail` says what happened and what to do."""

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
    """A problem document with further `members`, such as `reasons`."""
    problem = {
        "type": f"urn:safe-deploy:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        **members,
    }
    return JSONResponse(problem, status, headers=dict(headers or {}), media_type=PROBLEM_MEDIA_TYPE)


def problem_from_error(error: errors.StateError) -> JSONResponse:
    """The problem document of an error. The error's details become its members."""
    status = next(status for error_type, status in _STATUS_BY_ERROR if isinstance(error, error_type))
    headers: dict[str, str] = {}
    if isinstance(error, errors.Unavailable):
        headers["Retry-After"] = str(error.retry_after)
    elif (retry_after_seconds := error.details.get("retryAfterSeconds")) is not None:
        headers["Retry-After"] = str(retry_after_seconds)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'ApiKey realm="state", header="x-functions-key"'
    return problem_response(status, error.code, error.message, headers, **error.details)


def internal_error(error: Exception) -> JSONResponse:
    """The response to an unexpected error. The details go to the log only; the response has the trace id for
    finding them."""
    trace_id = uuid.uuid4().hex
    log.error("unexpected error, trace %s", trace_id, exc_info=error)
    detail = "an unexpected error occurred: the server's log has the details under this traceId"
    return problem_response(500, "InternalError", detail, traceId=trace_id)


def install_error_handlers(api: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Respond to every error of `api` with a problem document. `routes` are all routes of the API."""

    @api.exception_handler(errors.StateError)
    async def on_state_error(request: Request, error: errors.StateError) -> JSONResponse:
        """The problem document for an error of this server's own, such as a refusal."""
        return problem_from_error(_redact_other_apps(error, request))

    @api.exception_handler(Exception)
    async def on_unhandled_error(request: Request, error: Exception) -> JSONResponse:
        """The problem document for a mistake in the server's code."""
        return internal_error(error)

    @api.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        """The problem document for a request that does not match the API's schema."""
        field_errors = [
            {"field": ".".join(str(part) for part in field_error["loc"]), "message": _validation_message(field_error)}
            for field_error in error.errors()
        ]
        summarized = field_errors[:_MAX_SUMMARIZED_FIELD_ERRORS]
        detail = "; ".join(f"{field_error['field']}: {field_error['message']}" for field_error in summarized)
        return problem_response(400, "InvalidRequest", detail, errors=field_errors[:_MAX_FIELD_ERRORS])

    @api.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        """The problem document for an error that FastAPI itself raises."""
        problems = {
            400: ("InvalidRequest", "the body is not valid JSON"),
            404: ("NotFound", f"there is nothing at {request.url.path}"),
            405: ("MethodNotAllowed", f"{request.url.path} does not support {request.method}"),
        }
        code, detail = problems.get(error.status_code, ("InvalidRequest", str(error.detail)))
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_allowed_methods(request, routes))
        return problem_response(error.status_code, code, detail, headers)


def _redact_other_apps(error: errors.StateError, request: Request) -> errors.StateError:
    """The error without the name of an app that the key of this request may not access."""
    key: AccessKey | None = request.scope.get("state", {}).get("key")
    app = error.details.get("app")
    if key is None or app is None or key.may_access(str(app)):
        return error
    task_hub = error.details.get("taskHub")
    return type(error)(
        f"another app has claimed task hub {task_hub}: use a name that no app has used", taskHub=task_hub
    )


def _allowed_methods(request: Request, routes: Sequence[BaseRoute]) -> list[str]:
    """The methods of all routes at this path. Starlette itself reports those of the first matching route only."""
    matching_routes = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for route in matching_routes if isinstance(route, Route) for method in route.methods or ()})


def _validation_message(error: Mapping[str, Any]) -> str:
    """The message of a validation error. A naming rule is stated in words instead of as a pattern."""
    pattern = error.get("ctx", {}).get("pattern")
    return PATTERN_DESCRIPTIONS.get(pattern) or str(error["msg"])


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem responses of an operation with these status codes, for OpenAPI."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
