"""The operations on releases side by side and on their routing."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from state_api.domain.errors import PreconditionFailed
from state_api.domain.instants import format_instant
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.commands import (
    ForgetRouterCommand,
    RemovalOutcome,
    RemoveReleaseCommand,
)
from state_api.http.auth import (
    ADMINISTER,
    DEPLOY,
    READ,
    READ_ROUTING,
    CallerDependency,
    access_key_of,
    check_may_acknowledge,
)
from state_api.http.dependencies import (
    ETAG_PATTERN,
    IF_MATCH_PATTERN,
    IsConditionalDependency,
    PreconditionDependency,
    ServicesDependency,
    app_response,
    responses_with_etag,
)
from state_api.http.problems import problem_responses
from state_api.http.release_requests import NewReleaseRequest, RemovalOutcomeName, RouterName, RoutingRequest
from state_api.http.requests import AppName, ReleaseVersion
from state_api.http.responses.apps import AppResponse
from state_api.http.responses.releases import ReleasesResponse, RoutingDocumentResponse
from state_api.http.responses.verdicts import ReleaseVerdictResponse
from state_api.services.release_status import ReleaseQuestion
from state_api.services.releases import Precondition

router = APIRouter(prefix="/api/apps", tags=["releases"])

_MAX_REVISION_DIGITS = 10


def routing_etag(app: App) -> str:
    """The ETag of the routing document, which is its revision in quotation marks."""
    return f'"{app.routing.revision}"'


async def _routing_precondition(
    if_match: Annotated[
        str,
        Header(
            alias="If-Match",
            pattern=IF_MATCH_PATTERN,
            description="Change the routing only if its document still has this ETag.",
        ),
    ] = "",
) -> Precondition:
    """The condition of the header If-Match on the routing; without the header, one that any app meets."""
    if not if_match:
        return lambda app: None
    tags = re.findall(ETAG_PATTERN, if_match)

    def check(app: App | None) -> None:
        if app is None or (tags and str(app.routing.revision) not in tags):
            current = f"the routing has the ETag {routing_etag(app)} now" if app else "the app does not exist"
            raise PreconditionFailed(
                f"If-Match is {if_match}, but {current}: get the routing again, then repeat the change"
            )

    return check


_RoutingPrecondition = Annotated[Precondition, Depends(_routing_precondition)]


async def _known_revision(
    if_none_match: Annotated[
        str,
        Header(
            alias="If-None-Match",
            max_length=200,
            description="The ETag of the document that the caller has. With `router`, it acknowledges that document.",
        ),
    ] = "",
) -> int | None:
    """The revision in the header; None without the header, and for any other text."""
    tags = re.findall(ETAG_PATTERN, if_none_match)
    is_revision = len(tags) == 1 and tags[0].isdecimal() and len(tags[0]) <= _MAX_REVISION_DIGITS
    return int(tags[0]) if is_revision else None


_KnownRevision = Annotated[int | None, Depends(_known_revision)]

_ETAG_HEADER = {"ETag": {"description": "The revision of the routing document.", "schema": {"type": "string"}}}
_ROUTING_ETAG: dict[str, Any] = {"headers": _ETAG_HEADER}

SERVER_TIME_HEADER = "X-Server-Time"
"""The time by which the server decides when visitors have left a release. The header Date is another one: it is the
time of the machine that sends the response."""

_ROUTING_HEADERS: dict[str, Any] = {
    "headers": {
        **_ETAG_HEADER,
        SERVER_TIME_HEADER: {
            "description": "The time of the server, by which the visitors of a release leave it.",
            "schema": {"type": "string", "format": "date-time"},
        },
    }
}


@router.get(
    "/{app}/releases",
    operation_id="ListReleases",
    dependencies=[READ],
    responses=problem_responses(400, 401, 403, 404, 409, 503),
)
async def list_releases(app: AppName, services: ServicesDependency) -> ReleasesResponse:
    """List the releases of an app with their states and traffic, and the routers that ask under a name."""
    return ReleasesResponse.of(await services.release_statuses.list_releases(app))


@router.post(
    "/{app}/releases",
    operation_id="PostRelease",
    dependencies=[DEPLOY],
    responses=responses_with_etag(400, 401, 403, 404, 409, 412, 413, 415, 503),
)
async def post_release(
    *,
    app: AppName,
    body: NewReleaseRequest,
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: PreconditionDependency,
    response: Response,
) -> AppResponse:
    """Register a new release, which gets no traffic yet. Opens a deployment for the caller's pipeline run."""
    changed = await services.side_by_side.register_release(app, body.to_command(caller), precondition)
    return app_response(changed, services, response)


@router.delete(
    "/{app}/releases/{version}",
    operation_id="DeleteRelease",
    dependencies=[DEPLOY],
    responses=responses_with_etag(400, 401, 403, 404, 409, 412, 503),
)
async def delete_release(
    *,
    app: AppName,
    version: ReleaseVersion,
    outcome: Annotated[
        RemovalOutcomeName,
        Query(description="The state of the deletion of the Function App: about to begin, succeeded, or failed."),
    ],
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: PreconditionDependency,
    is_conditional: IsConditionalDependency,
    response: Response,
) -> AppResponse:
    """Remove a drained release. Send `Pending` before its Function App is deleted, and `Done` or `Failed` after it.
    From `Pending` on, the release gets no traffic."""
    command = RemoveReleaseCommand(
        caller=caller, version=version, outcome=RemovalOutcome(outcome), is_conditional=is_conditional
    )
    changed = await services.side_by_side.remove_release(app, command, precondition)
    return app_response(changed, services, response)


@router.get(
    "/{app}/releases/{version}/status",
    operation_id="GetReleaseStatus",
    dependencies=[READ],
    responses=problem_responses(400, 401, 403, 404, 409, 503),
)
async def get_release_status(
    *,
    app: AppName,
    version: ReleaseVersion,
    request: Request,
    services: ServicesDependency,
    caller: CallerDependency,
    wait: Annotated[int, Query(ge=0, le=120, description="The maximum number of seconds to wait for Ready.")] = 0,
    verify: Annotated[
        VerificationMode, Query(description="How to verify the verdict, as for GetStagingStatus.")
    ] = VerificationMode.CACHED,
) -> ReleaseVerdictResponse:
    """Report whether this release may be removed. The status is 200 in either case; `ready` has the verdict."""
    question = ReleaseQuestion(app, version, caller, verify)
    status = await services.release_statuses.wait_for_status(
        question, wait_seconds=wait, is_disconnected=request.is_disconnected
    )
    return ReleaseVerdictResponse.of(status)


@router.get(
    "/{app}/routing",
    operation_id="GetRouting",
    dependencies=[READ_ROUTING],
    response_model=RoutingDocumentResponse,
    responses={
        200: _ROUTING_HEADERS,
        304: {"description": "The document has still the ETag in If-None-Match.", **_ROUTING_HEADERS},
        **problem_responses(400, 401, 403, 404, 409, 503),
    },
)
async def get_routing(
    *,
    app: AppName,
    request: Request,
    services: ServicesDependency,
    response: Response,
    known_revision: _KnownRevision,
    wait: Annotated[
        int, Query(ge=0, le=120, description="The maximum number of seconds to wait for another document.")
    ] = 0,
    router_name: Annotated[
        RouterName | None,
        Query(alias="router", description="The name of the router, unique in the app. Releases wait for it."),
    ] = None,
) -> RoutingDocumentResponse | Response:
    """Get the routing document of an app. With If-None-Match, the response is 304 if it has not changed after `wait`
    seconds."""
    if router_name is not None:
        check_may_acknowledge(access_key_of(request))
    routed = await services.routing.wait_for_routing(
        app,
        known_revision=known_revision,
        router=router_name,
        wait_seconds=wait,
        is_disconnected=request.is_disconnected,
    )
    server_time = format_instant(services.clock.now())
    if routed is None:
        headers = {"ETag": f'"{known_revision}"', SERVER_TIME_HEADER: server_time}
        return Response(status_code=304, headers=headers)
    response.headers["ETag"] = routing_etag(routed)
    response.headers[SERVER_TIME_HEADER] = server_time
    return RoutingDocumentResponse.of_app(routed)


@router.put(
    "/{app}/routing",
    operation_id="PutRouting",
    dependencies=[DEPLOY],
    responses={200: _ROUTING_ETAG, **problem_responses(400, 401, 403, 404, 409, 412, 413, 415, 503)},
)
async def put_routing(
    *,
    app: AppName,
    body: RoutingRequest,
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: _RoutingPrecondition,
    response: Response,
) -> RoutingDocumentResponse:
    """Promote a release, split the requests between two, or roll back: one conditional write."""
    changed = await services.side_by_side.change_routing(app, body.to_command(caller), precondition)
    response.headers["ETag"] = routing_etag(changed)
    return RoutingDocumentResponse.of_app(changed)


@router.delete(
    "/{app}/routers/{router}",
    operation_id="ForgetRouter",
    dependencies=[ADMINISTER],
    responses=responses_with_etag(400, 401, 403, 404, 409, 412, 503),
)
async def forget_router(
    *,
    app: AppName,
    router: RouterName,
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: PreconditionDependency,
    response: Response,
) -> AppResponse:
    """Forget a router that is gone, so that releases do not wait for it. If it asks again, it counts again."""
    command = ForgetRouterCommand(caller=caller, router=router)
    return app_response(await services.side_by_side.forget_router(app, command, precondition), services, response)
