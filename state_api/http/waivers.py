"""Waivers: instances that may stay active, and messages that do not block, on record."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from state_api.domain.errors import InvalidRequest
from state_api.http.answers.apps import AppAnswer
from state_api.http.auth import DEPLOY, CallerOf
from state_api.http.dependencies import PreconditionOf, ServicesOf, app_answer, with_etag
from state_api.http.requests import AppName, InstanceId, TaskHubName, WaiverRequest

router = APIRouter(prefix="/api/apps", tags=["apps"])


@router.post(
    "/{app}/waivers",
    operation_id="PostWaiver",
    dependencies=[DEPLOY],
    responses=with_etag(400, 401, 403, 404, 409, 412, 413, 415, 503),
)
async def post_waiver(
    app: AppName,
    body: WaiverRequest,
    services: ServicesOf,
    caller: CallerOf,
    precondition: PreconditionOf,
    response: Response,
) -> AppAnswer:
    """Let one instance stay active, or messages that nothing explains not block, until the waiver expires."""
    changed = await services.releases.waive(app, body.waiver(caller.by), caller, precondition)
    return app_answer(changed, services, response)


@router.delete(
    "/{app}/waivers",
    operation_id="DeleteWaiver",
    dependencies=[DEPLOY],
    responses=with_etag(400, 401, 403, 404, 409, 412, 503),
)
async def delete_waiver(
    app: AppName,
    task_hub: Annotated[TaskHubName, Query(alias="taskHub")],
    services: ServicesOf,
    caller: CallerOf,
    precondition: PreconditionOf,
    response: Response,
    instance_id: Annotated[InstanceId | None, Query(alias="instanceId")] = None,
    unexplained_messages: Annotated[
        bool, Query(alias="unexplainedMessages", description="In place of instanceId: the waiver of messages.")
    ] = False,
) -> AppAnswer:
    """Take a waiver back: what it was for blocks again."""
    if (instance_id is None) is not unexplained_messages:
        raise InvalidRequest("name the waiver to take back: instanceId, or unexplainedMessages=true")
    changed = await services.releases.withdraw(app, task_hub, instance_id, caller, precondition)
    return app_answer(changed, services, response)
