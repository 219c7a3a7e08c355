"""The operations on gradual rollouts, and on the health of a candidate."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from state_api.domain.errors import InvalidRequest
from state_api.domain.instants import Instant, parse_instant
from state_api.domain.releases.apps import App
from state_api.domain.rollouts.comparison import ComparisonQuestion
from state_api.http.auth import DEPLOY, READ, CallerDependency
from state_api.http.dependencies import (
    PreconditionDependency,
    Services,
    ServicesDependency,
    etag,
    responses_with_etag,
)
from state_api.http.problems import problem_responses
from state_api.http.requests import AppName, ReleaseVersion
from state_api.http.responses.rollouts import RolloutHealthResponse, RolloutResponse
from state_api.http.rollout_requests import RolloutActionName, RolloutActionRequest, RolloutRequest

router = APIRouter(prefix="/api/apps", tags=["rollouts"])


def _rollout_response(app: App, services: Services, response: Response) -> RolloutResponse:
    """The rollout as a response body. Sets the header ETag."""
    assert app.rollout is not None, "the operation has begun or found a rollout"
    response.headers["ETag"] = etag(app)
    return RolloutResponse.of(app, app.rollout, services.clock.now())


@router.get(
    "/{app}/rollout",
    operation_id="GetRollout",
    dependencies=[READ],
    responses=responses_with_etag(400, 401, 403, 404, 503),
)
async def get_rollout(app: AppName, services: ServicesDependency, response: Response) -> RolloutResponse:
    """Get the last rollout of an app: its step, what it waits for, and what decided last."""
    return _rollout_response(await services.rollouts.get(app), services, response)


@router.put(
    "/{app}/rollout",
    operation_id="PutRollout",
    dependencies=[DEPLOY],
    responses=responses_with_etag(400, 401, 403, 404, 409, 412, 413, 415, 503),
)
async def put_rollout(
    *,
    app: AppName,
    body: RolloutRequest,
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: PreconditionDependency,
    response: Response,
) -> RolloutResponse:
    """Begin to give a new version more and more of the requests, as long as it is healthy. Side by side, the server
    routes; with slots, the pipeline sets the share in Azure and confirms it with PostRollout."""
    changed = await services.rollouts.start(app, body.to_command(caller), precondition)
    return _rollout_response(changed, services, response)


@router.post(
    "/{app}/rollout/{action}",
    operation_id="PostRollout",
    dependencies=[DEPLOY],
    responses=responses_with_etag(400, 401, 403, 404, 409, 412, 413, 415, 503),
)
async def post_rollout(
    *,
    app: AppName,
    action: RolloutActionName,
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: PreconditionDependency,
    response: Response,
    body: RolloutActionRequest | None = None,
) -> RolloutResponse:
    """Pause, resume, abort or finish the rollout, confirm the share that a slot has in Azure, or evaluate the rollout
    now."""
    request, rollouts = body or RolloutActionRequest(), services.rollouts
    if action == "confirm":
        changed = await rollouts.confirm_weight(app, request.to_confirmation(caller), precondition)
    else:
        operations = {
            "pause": rollouts.pause,
            "resume": rollouts.resume,
            "abort": rollouts.abort,
            "finish": rollouts.finish,
            "advance": rollouts.advance,
        }
        changed = await operations[action](app, request.to_command(caller), precondition)
    return _rollout_response(changed, services, response)


@router.get(
    "/{app}/health",
    operation_id="GetRolloutHealth",
    dependencies=[READ],
    responses=problem_responses(400, 401, 403, 404, 503),
)
async def get_rollout_health(
    *,
    app: AppName,
    services: ServicesDependency,
    candidate: Annotated[
        ReleaseVersion | None,
        Query(
            description="A release or a slot. By default that of the last rollout; else the release of a split that "
            "is not active, or the slot staging."
        ),
    ] = None,
    baseline: Annotated[
        ReleaseVersion | None,
        Query(
            description="A release or a slot. By default that of the last rollout; else the active release, or the "
            "slot production."
        ),
    ] = None,
    since: Annotated[
        str | None,
        Query(
            max_length=64,
            description="RFC 3339, in the last 48 hours: only instances that started later count. By default the "
            "beginning of the rollout; else the last change of the routing or of the slots.",
        ),
    ] = None,
) -> RolloutHealthResponse:
    """Compare the instances of two versions: does the candidate fail more often than the baseline?"""
    question = ComparisonQuestion(candidate, baseline, None if since is None else _parse_since(since))
    return RolloutHealthResponse.of(await services.rollout_health.get_health(app, question))


def _parse_since(text: str) -> Instant:
    """The time in the query parameter `since`. Raises InvalidRequest."""
    try:
        return parse_instant(text)
    except ValueError:
        raise InvalidRequest("since must be an RFC 3339 time, such as 2026-11-30T12:00:00Z") from None
