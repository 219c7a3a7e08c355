"""What the routers have in common: the services behind them, and the headers of answers that hold an app."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request, Response

from state_api.domain.errors import PreconditionFailed
from state_api.domain.releases.apps import App
from state_api.http.problems import problem_responses
from state_api.http.responses.apps import AppResponse
from state_api.services.administration import Administration
from state_api.services.cleanup import Cleanup
from state_api.services.inspection import Inspection
from state_api.services.ports import Clock
from state_api.services.readiness import Readiness
from state_api.services.recording import Recorder
from state_api.services.releases import Precondition, Releases


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases that the routers call."""

    recorder: Recorder
    readiness: Readiness
    releases: Releases
    cleanup: Cleanup
    administration: Administration
    inspection: Inspection
    clock: Clock


def services_of(request: Request) -> Services:
    """The use cases of this server."""
    services: Services = request.app.state.services
    return services


# Dependencies are asynchronous without need: FastAPI hands the others to a thread, which costs more than they do.
async def _services(request: Request) -> Services:
    return services_of(request)


ServicesDependency = Annotated[Services, Depends(_services)]

PageSize = Annotated[int, Query(ge=1, le=1000, description="How many at the most.")]
ContinuationToken = Annotated[
    str | None,
    Query(alias="continuationToken", max_length=8000, description="What the previous page gave; opaque."),
]

_ENTITY_TAG = r'(?:W/)?"([^"]*)"'
_IF_MATCH = r'^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)?$'


def etag(app: App) -> str:
    """The app's revision, as an entity tag."""
    return f'"{app.revision}"'


async def _precondition(
    if_match: Annotated[
        str,
        Header(alias="If-Match", pattern=_IF_MATCH, description="Change the app only if its ETag is still this one."),
    ] = "",
) -> Precondition:
    if not if_match:
        return lambda app: None
    tags = re.findall(_ENTITY_TAG, if_match)

    def check(app: App | None) -> None:
        if app is None or (tags and str(app.revision) not in tags):
            now = f"its ETag is {etag(app)}" if app else "there is no such app"
            raise PreconditionFailed(f"the app is not the one that If-Match {if_match} means: {now}")

    return check


PreconditionDependency = Annotated[Precondition, Depends(_precondition)]


_ETAG_RESPONSE: dict[str, Any] = {
    "headers": {"ETag": {"description": "The app's version, for If-Match.", "schema": {"type": "string"}}}
}


def responses_with_etag(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of an operation that answers with an app, for OpenAPI."""
    return {200: _ETAG_RESPONSE, **problem_responses(*statuses)}


def app_response(app: App, services: Services, response: Response) -> AppResponse:
    response.headers["ETag"] = etag(app)
    return AppResponse.of(app, services.clock.now())
