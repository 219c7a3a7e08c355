"""Task hubs, their instances, and the quarantine: what operators look up and administrators remove."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request

from state_api.domain.lifecycle import RuntimeStatus
from state_api.http.answers.events import PurgedResponse, QuarantineAnswer, QuarantinedAnswer
from state_api.http.answers.task_hubs import InstanceAnswer, InstancesAnswer, TaskHubAnswer, VersionsAnswer
from state_api.http.auth import (
    ADMINISTER,
    READ_ACROSS_APPS,
    CallerOf,
    check_task_hub,
    key_of,
    may_see_reasons,
)
from state_api.http.dependencies import ServicesOf, Token, Top
from state_api.http.problems import responses
from state_api.http.requests import TaskHubName, time_or_day
from state_api.services.questions import Verify

router = APIRouter(prefix="/api", tags=["task hubs"])


async def _visible_task_hub(hub: TaskHubName, request: Request, services: ServicesOf) -> str:
    """Raises Forbidden for a key that is bound to apps of which none has claimed this task hub."""
    key = key_of(request)
    if key is not None and key.apps is not None:
        check_task_hub(await services.inspection.app_of(hub), key)
    return hub


VisibleTaskHub = Annotated[str, Depends(_visible_task_hub)]


@router.get(
    "/taskhubs/{hub}",
    operation_id="GetTaskHub",
    dependencies=[READ_ACROSS_APPS],
    responses=responses(400, 401, 403, 404, 503),
)
async def get_task_hub(hub: VisibleTaskHub, services: ServicesOf) -> TaskHubAnswer:
    """Who holds a task hub, and how many instances are active in it."""
    return TaskHubAnswer.of(await services.inspection.task_hub(hub))


@router.delete(
    "/taskhubs/{hub}",
    operation_id="DeleteTaskHub",
    dependencies=[ADMINISTER],
    responses=responses(400, 401, 403, 404, 409, 503),
)
async def delete_task_hub(hub: TaskHubName, services: ServicesOf, caller: CallerOf) -> TaskHubAnswer:
    """Remove the records of a drained task hub that no app has claimed, and close its name for ever."""
    record = await services.administration.delete_task_hub(hub, caller)
    return TaskHubAnswer.of(await services.inspection.task_hub(record.name))


@router.get(
    "/taskhubs/{hub}/instances",
    operation_id="ListInstances",
    dependencies=[READ_ACROSS_APPS],
    responses=responses(400, 401, 403, 404, 503),
)
async def list_instances(
    hub: VisibleTaskHub,
    request: Request,
    services: ServicesOf,
    active: Annotated[bool | None, Query(description="Only the active ones, or only the others.")] = None,
    status: Annotated[RuntimeStatus | None, Query(description="Only those of this runtime status.")] = None,
    top: Top = 50,
    token: Token = None,
) -> InstancesAnswer:
    """The instances of a task hub, the active ones first, of these the oldest first. A page can be short, even empty,
    and still have a continuationToken: the end is where there is none."""
    record, page = await services.inspection.instances(hub, active, status, top, token)
    return InstancesAnswer(
        task_hub=record.name,
        instances=[InstanceAnswer.of(instance, with_reason=may_see_reasons(request)) for instance in page.items],
        continuation_token=page.continuation_token,
    )


@router.get(
    "/taskhubs/{hub}/versions",
    operation_id="GetVersions",
    dependencies=[READ_ACROSS_APPS],
    responses=responses(400, 401, 403, 404, 409, 503),
)
async def get_versions(
    hub: VisibleTaskHub,
    services: ServicesOf,
    verify: Annotated[
        Literal["fresh", "cached"],
        Query(description="`fresh` reads the task hub now, `cached` only if the last complete probe is too old."),
    ] = "cached",
) -> VersionsAnswer:
    """Active instances per orchestration version, as the task hub itself shows them."""
    record, probe = await services.inspection.versions(hub, Verify(verify))
    return VersionsAnswer.of(record.name, probe)


@router.get(
    "/quarantine", operation_id="ListQuarantine", dependencies=[ADMINISTER], responses=responses(400, 401, 403, 503)
)
async def list_quarantine(services: ServicesOf, top: Top = 50, token: Token = None) -> QuarantineAnswer:
    """Events that were not recorded, as they came: they may hold data of apps. First those that could not be
    understood, newest first; then by task hub those that wait until an app claims it."""
    page = await services.inspection.quarantine(top, token)
    return QuarantineAnswer(
        events=[QuarantinedAnswer.of(event) for event in page.items], continuation_token=page.continuation_token
    )


@router.delete(
    "/quarantine",
    operation_id="PurgeQuarantine",
    dependencies=[ADMINISTER],
    responses=responses(400, 401, 403, 503),
)
async def purge_quarantine(
    services: ServicesOf,
    caller: CallerOf,
    before: Annotated[
        str, Query(max_length=64, description="A day (`2026-11-30`, from 00:00 UTC) or an RFC 3339 time, not to come.")
    ],
) -> PurgedResponse:
    """Remove events from quarantine that were received before a time. Call again while `more` is true."""
    return PurgedResponse.of(await services.administration.purge_quarantine(time_or_day("before", before), caller))
