"""What the routers share: access to the services, paging parameters, and the ETag and If-Match headers of apps."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

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
from state_api.services.routing import RoutingReader
from state_api.services.side_by_side import SideBySideReleases
from state_api.services.task_hub_deletion import TaskHubDeletion
from state_api.services.task_hub_queries import TaskHubQueries


@dataclass(frozen=True, slots=True)
class Services:
    """The services that the routers call."""

    recorder: Recorder
    readiness: Readiness
    releases: Releases
    side_by_side: SideBySideReleases
    release_statuses: ReleaseStatuses
    routing: RoutingReader
    cleanup: Cleanup
    task_hub_deletion: TaskHubDeletion
    task_hub_queries: TaskHubQueries
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
