"""What the routers have in common: the services behind them, and the headers of answers that hold an app."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Query, Request, Response

from state_api.domain.errors import InvalidRequest, PreconditionFailed
from state_api.domain.releases import App
from state_api.http.models import AppAnswer
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
    inspection: Inspection
    clock: Clock


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesOf = Annotated[Services, Depends(_services)]

Top = Annotated[int, Query(ge=1, le=1000, description="How many at the most.")]
Token = Annotated[
    str | None,
    Query(alias="continuationToken", max_length=8000, description="What the previous page gave; opaque."),
]

_ENTITY_TAG = re.compile(r'(?:W/)?"([^"]*)"')


def etag(app: App) -> str:
    """The app's revision, as an entity tag."""
    return f'"{app.revision}"'


def _precondition(
    if_match: Annotated[
        str | None, Header(alias="If-Match", description="Change the app only if its ETag is still this one.")
    ] = None,
) -> Precondition:
    if if_match is None:
        return lambda app: None
    tags = [] if if_match.strip() == "*" else _ENTITY_TAG.findall(if_match)
    if not tags and if_match.strip() != "*":
        raise InvalidRequest('If-Match must be * or entity tags, such as "7"')

    def check(app: App | None) -> None:
        if app is None or (tags and str(app.revision) not in tags):
            now = f"its ETag is {etag(app)}" if app else "there is no such app"
            raise PreconditionFailed(f"the app is not the one that If-Match {if_match} means: {now}")

    return check


PreconditionOf = Annotated[Precondition, Depends(_precondition)]


def app_answer(app: App, services: Services, response: Response) -> AppAnswer:
    response.headers["ETag"] = etag(app)
    return AppAnswer.of(app, services.clock.now())
