"""Waivers: an operator exempts an instance, or messages that nothing explains, from blocking a slot, on record."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from state_api.domain.errors import InvalidRequest
from state_api.domain.releases.commands import RemoveWaiverCommand
from state_api.http.auth import DEPLOY, CallerDependency
from state_api.http.dependencies import PreconditionDependency, ServicesDependency, app_response, responses_with_etag
from state_api.http.requests import AppName, InstanceId, TaskHubName, WaiverRequest
from state_api.http.responses.apps import AppResponse

router = APIRouter(prefix="/api/apps", tags=["apps"])


@router.post(
    "/{app}/waivers",
    operation_id="PostWaiver",
    dependencies=[DEPLOY],
    responses=responses_with_etag(400, 401, 403, 404, 409, 412, 413, 415, 503),
)
async def post_waiver(
    *,
    app: AppName,
    body: WaiverRequest,
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: PreconditionDependency,
    response: Response,
) -> AppResponse:
    """Exempt one active instance, or invisible messages that nothing explains, from the verdict until the waiver
    expires."""
    changed = await services.releases.add_waiver(app, body.to_command(caller), precondition)
    return app_response(changed, services, response)


@router.delete(
    "/{app}/waivers",
    operation_id="DeleteWaiver",
    dependencies=[DEPLOY],
    responses=responses_with_etag(400, 401, 403, 404, 409, 412, 503),
)
async def delete_waiver(
    *,
    app: AppName,
    task_hub: Annotated[TaskHubName, Query(alias="taskHub")],
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: PreconditionDependency,
    response: Response,
    instance_id: Annotated[InstanceId | None, Query(alias="instanceId")] = None,
    unexplained_messages: Annotated[
        bool, Query(alias="unexplainedMessages", description="Instead of instanceId: the waiver for messages.")
    ] = False,
) -> AppResponse:
    """Remove a waiver. The instance or the messages block again."""
    if (instance_id is None) is not unexplained_messages:
        raise InvalidRequest("say which waiver to remove: set either instanceId or unexplainedMessages=true")
    command = RemoveWaiverCommand(caller=caller, task_hub=task_hub, instance_id=instance_id)
    changed = await services.releases.remove_waiver(app, command, precondition)
    return app_response(changed, services, response)
