"""What the routers share: access to the services, paging parameters, and the headers that make a change conditional."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Query, Request, Response

from state_api.domain.errors import PreconditionFailed
from state_api.domain.releases.apps import App
from state_api.http.problems import problem_responses
from state_api.http.responses.apps import AppResponse
from state_api.services.cleanup import Cleanup
from state_api.services.ports import Clock
from state_api.services.quarantine_administration import QuarantineAdministration
from state_api.services.readiness import Readiness
from state_api.services.recording import Recorder
from state_api.services.release_status import ReleaseStatuses
from state_api.services.releases import Precondition, Releases
from state_api.services.rollout_health import RolloutHealth
from state_api.services.rollouts import Rollouts
from state_api.services.routing import RoutingReader
from state_api.services.side_by_side import SideBySideReleases
from state_api.services.task_hub_deletion import TaskHubDeletion
from state_api.services.task_hub_queries import TaskHubQueries
from state_api.services.timelines import TimelineReader


@dataclass(frozen=True, slots=True)
class Services:
    """The services that the routers call."""

    recorder: Recorder
    readiness: Readiness
    releases: Releases
    side_by_side: SideBySideReleases
    release_statuses: ReleaseStatuses
    routing: RoutingReader
    rollouts: Rollouts
    rollout_health: RolloutHealth
    cleanup: Cleanup
    task_hub_deletion: TaskHubDeletion
    task_hub_queries: TaskHubQueries
    timelines: TimelineReader
    quarantine: QuarantineAdministration
    clock: Clock


def services_of(request: Request) -> Services:
    """The services of the server that handles the request."""
    services: Services = request.app.state.services
    return services


# Dependencies are async functions because FastAPI runs others in a thread, which takes longer than they do.
async def _services(request: Request) -> Services:
    """The services of the server that handles the request. FastAPI calls this for each route that depends on them."""
    return services_of(request)


ServicesDependency = Annotated[Services, Depends(_services)]

PageSize = Annotated[int, Query(ge=1, le=1000, description="The maximum number of items.")]
ContinuationToken = Annotated[
    str | None,
    Query(alias="continuationToken", max_length=8000, description="The continuationToken of the previous page."),
]

ETAG_PATTERN = r'(?:W/)?"([^"]*)"'
IF_MATCH_PATTERN = r'^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)?$'


def etag(app: App) -> str:
    """The ETag of an app, which is its revision in quotation marks."""
    return f'"{app.revision}"'


async def _precondition(
    if_match: Annotated[
        str,
        Header(
            alias="If-Match", pattern=IF_MATCH_PATTERN, description="Change the app only if it still has this ETag."
        ),
    ] = "",
) -> Precondition:
    """The condition of the header If-Match; without the header, one that any app meets."""
    if not if_match:
        return lambda app: None
    tags = re.findall(ETAG_PATTERN, if_match)

    def check(app: App | None) -> None:
        if app is None or (tags and str(app.revision) not in tags):
            current = f"the app has the ETag {etag(app)} now" if app else "the app does not exist"
            raise PreconditionFailed(
                f"If-Match is {if_match}, but {current}: get the app again, then repeat the change"
            )

    return check


PreconditionDependency = Annotated[Precondition, Depends(_precondition)]


async def _is_conditional(
    if_match: Annotated[str, Header(alias="If-Match", include_in_schema=False)] = "",
) -> bool:
    """Whether the header If-Match has an ETag, which `*` is not."""
    return re.search(ETAG_PATTERN, if_match) is not None


IsConditionalDependency = Annotated[bool, Depends(_is_conditional)]


async def _creation_precondition(
    precondition: PreconditionDependency,
    if_none_match: Annotated[
        Literal["", "*"],
        Header(alias="If-None-Match", description="`*`: create the app, and change none that exists."),
    ] = "",
) -> Precondition:
    """The conditions of the headers If-Match and If-None-Match; without them, one that any app meets."""
    if not if_none_match:
        return precondition

    def check(app: App | None) -> None:
        precondition(app)
        if app is not None:
            raise PreconditionFailed(
                f"If-None-Match is *, but app {app.name} exists: leave out the header to change this app"
            )

    return check


CreationPreconditionDependency = Annotated[Precondition, Depends(_creation_precondition)]


_ETAG_RESPONSE: dict[str, Any] = {
    "headers": {"ETag": {"description": "The revision of the app, for If-Match.", "schema": {"type": "string"}}}
}


def responses_with_etag(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of an operation that returns an app, for OpenAPI: problem documents, and 200 with an ETag."""
    return {200: _ETAG_RESPONSE, **problem_responses(*statuses)}


def app_response(app: App, services: Services, response: Response) -> AppResponse:
    """The app as a response body. Sets the header ETag."""
    response.headers["ETag"] = etag(app)
    return AppResponse.of(app, services.clock.now())
