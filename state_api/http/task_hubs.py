"""The operations on task hubs, their instances, and the quarantine."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request

from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.task_hubs.lifecycle import RuntimeStatus
from state_api.http.auth import (
    ADMINISTER,
    READ_ACROSS_APPS,
    CallerDependency,
    access_key_of,
    check_task_hub_access,
    may_see_reasons,
)
from state_api.http.dependencies import ContinuationToken, PageSize, ServicesDependency
from state_api.http.problems import problem_responses
from state_api.http.requests import TaskHubName, parse_time_or_day
from state_api.http.responses.events import PurgeResponse, QuarantinedEventResponse, QuarantineResponse
from state_api.http.responses.task_hubs import InstanceResponse, InstancesResponse, TaskHubResponse, VersionsResponse
from state_api.http.responses.timeline import TimelineResponse
from state_api.services.timelines import TimelineQuery

router = APIRouter(prefix="/api", tags=["task hubs"])


async def _check_task_hub_visible(hub: TaskHubName, request: Request, services: ServicesDependency) -> str:
    """The name of the task hub in the path. Raises Forbidden if the key is bound to apps, none of which has claimed
    it."""
    key = access_key_of(request)
    if key is not None and key.apps is not None:
        check_task_hub_access(await services.task_hub_queries.get_claiming_app(hub), key)
    return hub


VisibleTaskHub = Annotated[str, Depends(_check_task_hub_visible)]


@router.get(
    "/taskhubs/{hub}",
    operation_id="GetTaskHub",
    dependencies=[READ_ACROSS_APPS],
    responses=problem_responses(400, 401, 403, 404, 503),
)
async def get_task_hub(hub: VisibleTaskHub, services: ServicesDependency) -> TaskHubResponse:
    """Get the app and slot of a task hub, and the instances that are active in it."""
    return TaskHubResponse.of(await services.task_hub_queries.get_task_hub(hub))


@router.delete(
    "/taskhubs/{hub}",
    operation_id="DeleteTaskHub",
    dependencies=[ADMINISTER],
    responses=problem_responses(400, 401, 403, 404, 409, 503),
)
async def delete_task_hub(hub: TaskHubName, services: ServicesDependency, caller: CallerDependency) -> TaskHubResponse:
    """Remove the records of a drained task hub that no app has claimed. Its name cannot be used again."""
    record = await services.task_hub_deletion.delete_task_hub(hub, caller)
    return TaskHubResponse.of(await services.task_hub_queries.get_task_hub(record.name))


@router.get(
    "/taskhubs/{hub}/instances",
    operation_id="ListInstances",
    dependencies=[READ_ACROSS_APPS],
    responses=problem_responses(400, 401, 403, 404, 503),
)
async def list_instances(
    *,
    hub: VisibleTaskHub,
    request: Request,
    services: ServicesDependency,
    active: Annotated[
        bool | None, Query(description="Return only active instances, or only instances that are not active.")
    ] = None,
    status: Annotated[
        RuntimeStatus | None, Query(description="Return only instances with this runtime status.")
    ] = None,
    top: PageSize = 50,
    token: ContinuationToken = None,
) -> InstancesResponse:
    """List the instances of a task hub: active ones first, the oldest of these first. A page can be short or empty and
    still have a continuationToken; the last page has none."""
    record, page = await services.task_hub_queries.list_instances(
        hub, active=active, status=status, top=top, token=token
    )
    return InstancesResponse(
        task_hub=record.name,
        instances=[InstanceResponse.of(instance, with_reason=may_see_reasons(request)) for instance in page.items],
        continuation_token=page.continuation_token,
    )


@router.get(
    "/taskhubs/{hub}/timeline",
    operation_id="GetTimeline",
    dependencies=[READ_ACROSS_APPS],
    responses=problem_responses(400, 401, 403, 404, 503),
)
async def get_timeline(
    *,
    hub: VisibleTaskHub,
    services: ServicesDependency,
    begins: Annotated[
        str | None,
        Query(alias="from", max_length=64, description="An RFC 3339 time or a day; by default, an hour before `to`."),
    ] = None,
    ends: Annotated[
        str | None, Query(alias="to", max_length=64, description="An RFC 3339 time or a day; by default, now.")
    ] = None,
    step: Annotated[int, Query(ge=1, le=1440, description="The minutes of each period.")] = 1,
    function_name: Annotated[
        str | None, Query(alias="functionName", max_length=256, description="Return only this function.")
    ] = None,
) -> TimelineResponse:
    """Get how many instances started and ended in the last 48 hours, by time and function, and what has become of those
    that started in each period."""
    query = TimelineQuery(
        begins_at=parse_time_or_day("from", begins) if begins is not None else None,
        ends_at=parse_time_or_day("to", ends) if ends is not None else None,
        step_minutes=step,
        function_name=function_name,
    )
    return TimelineResponse.of(await services.timelines.read(hub, query))


@router.get(
    "/taskhubs/{hub}/versions",
    operation_id="GetVersions",
    dependencies=[READ_ACROSS_APPS],
    responses=problem_responses(400, 401, 403, 404, 409, 503),
)
async def get_versions(
    hub: VisibleTaskHub,
    services: ServicesDependency,
    verify: Annotated[
        Literal["fresh", "cached"],
        Query(
            description="`fresh` reads the task hub now. `cached` reads it only if the last complete probe is too old."
        ),
    ] = "cached",
) -> VersionsResponse:
    """Count the active instances of each orchestration version, as the task hub itself shows them."""
    record, probe = await services.task_hub_queries.count_versions(hub, VerificationMode(verify))
    return VersionsResponse.of(record.name, probe)


@router.get(
    "/quarantine",
    operation_id="ListQuarantine",
    dependencies=[ADMINISTER],
    responses=problem_responses(400, 401, 403, 503),
)
async def list_quarantine(
    services: ServicesDependency, top: PageSize = 50, token: ContinuationToken = None
) -> QuarantineResponse:
    """List events that were not recorded. They can contain data of apps. Events that could not be parsed come first,
    newest first; then, by task hub, those that wait until an app claims their task hub."""
    page = await services.quarantine.list_page(top, token)
    return QuarantineResponse(
        events=[QuarantinedEventResponse.of(event) for event in page.items], continuation_token=page.continuation_token
    )


@router.delete(
    "/quarantine",
    operation_id="PurgeQuarantine",
    dependencies=[ADMINISTER],
    responses=problem_responses(400, 401, 403, 503),
)
async def purge_quarantine(
    services: ServicesDependency,
    caller: CallerDependency,
    before: Annotated[
        str,
        Query(
            max_length=64,
            description="A day (`2026-11-30`, which begins at 00:00 UTC) or an RFC 3339 time; not in the future.",
        ),
    ],
) -> PurgeResponse:
    """Remove events from quarantine that were received before a time. Repeat the request while `hasMore` is true."""
    return PurgeResponse.of(await services.quarantine.purge(parse_time_or_day("before", before), caller))
