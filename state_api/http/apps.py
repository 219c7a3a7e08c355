"""The operations on apps and their slots, with their audit log."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from state_api.domain.errors import InvalidRequest
from state_api.domain.names import STAGING
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.releases.commands import AbandonCommand, DeleteAppCommand
from state_api.http.auth import ADMINISTER, DEPLOY, READ, READ_ACROSS_APPS, CallerDependency, VisibleApps
from state_api.http.dependencies import (
    ContinuationToken,
    CreationPreconditionDependency,
    IsConditionalDependency,
    PageSize,
    PreconditionDependency,
    ServicesDependency,
    app_response,
    etag,
    responses_with_etag,
)
from state_api.http.problems import problem_responses
from state_api.http.requests import (
    AppName,
    AppRequest,
    CleanupRequest,
    SlotName,
    StagingRequest,
    SwapRequest,
    TaskHubName,
)
from state_api.http.responses.apps import AppResponse, AppsResponse, DeletedAppResponse
from state_api.http.responses.history import (
    AuditRecordResponse,
    CleanupResponse,
    HistoryResponse,
    TaskHubCleanupResponse,
)
from state_api.http.responses.verdicts import VerdictResponse
from state_api.services.slot_status import StatusQuestion

router = APIRouter(prefix="/api/apps", tags=["apps"])


@router.get(
    "", operation_id="ListApps", dependencies=[READ_ACROSS_APPS], responses=problem_responses(400, 401, 403, 503)
)
async def list_apps(
    services: ServicesDependency, visible: VisibleApps, top: PageSize = 100, token: ContinuationToken = None
) -> AppsResponse:
    """List all apps. With a key that is bound to apps, list only these."""
    releases = services.releases
    page = await (releases.list_page(top, token) if visible is None else releases.list_page_of(visible, top, token))
    now = services.clock.now()
    return AppsResponse(
        apps=[AppResponse.of(app, now) for app in page.items], continuation_token=page.continuation_token
    )


@router.get(
    "/{app}", operation_id="GetApp", dependencies=[READ], responses=responses_with_etag(400, 401, 403, 404, 503)
)
async def get_app(app: AppName, services: ServicesDependency, response: Response) -> AppResponse:
    """Get an app: its slots, policy, open deployment and retired task hubs."""
    return app_response(await services.releases.get(app), services, response)


@router.put(
    "/{app}",
    operation_id="PutApp",
    dependencies=[ADMINISTER],
    responses=responses_with_etag(400, 401, 403, 409, 412, 413, 415, 503),
)
async def put_app(
    *,
    app: AppName,
    body: AppRequest,
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: CreationPreconditionDependency,
    response: Response,
) -> AppResponse:
    """Register or correct an app: its slots, its policy, and where its task hubs live."""
    if body.app is not None and body.app.lower() != app.lower():
        raise InvalidRequest(f"the body names app {body.app[:60]!r}, but the address names {app}: send the same name")
    changed = await services.releases.register_app(app, body.to_command(caller), precondition)
    return app_response(changed, services, response)


@router.delete(
    "/{app}",
    operation_id="DeleteApp",
    dependencies=[ADMINISTER],
    responses=responses_with_etag(400, 401, 403, 404, 409, 412, 503),
)
async def delete_app(
    *,
    app: AppName,
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: PreconditionDependency,
    response: Response,
) -> DeletedAppResponse:
    """Delete an app whose slots are drained. The server keeps its audit log and its claims on task hubs."""
    deleted = await services.releases.delete_app(app, DeleteAppCommand(caller=caller), precondition)
    response.headers["ETag"] = etag(deleted)
    return DeletedAppResponse.of(deleted)


@router.get(
    "/{app}/staging",
    operation_id="GetStagingStatus",
    dependencies=[READ],
    responses=problem_responses(400, 401, 403, 404, 503),
)
async def get_staging_status(
    *,
    app: AppName,
    request: Request,
    services: ServicesDependency,
    caller: CallerDependency,
    wait: Annotated[int, Query(ge=0, le=120, description="The maximum number of seconds to wait for Ready.")] = 0,
    verify: Annotated[
        VerificationMode,
        Query(
            description="How to verify an app that has taskHubs: `fresh` reads the task hub after this request, "
            "`cached` also accepts a recent probe, `none` does not read the task hub."
        ),
    ] = VerificationMode.CACHED,
    slot: SlotName = STAGING,
) -> VerdictResponse:
    """Report whether the code in this slot may be overwritten. The status is 200 in either case; `ready` has the
    verdict."""
    return VerdictResponse.of(
        await services.readiness.wait_for_status(
            StatusQuestion(app, slot, caller, verify), wait_seconds=wait, is_disconnected=request.is_disconnected
        )
    )


@router.post(
    "/{app}/staging",
    operation_id="PostStaging",
    dependencies=[DEPLOY],
    responses=responses_with_etag(400, 401, 403, 404, 409, 412, 413, 415, 503),
)
async def post_staging(
    *,
    app: AppName,
    body: StagingRequest,
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: PreconditionDependency,
    response: Response,
) -> AppResponse:
    """Record that a new version with its own task hub will be deployed into the slot, which must be drained. Opens a
    deployment for the caller's pipeline run."""
    changed = await services.releases.stage_task_hub(app, body.to_command(caller), precondition)
    return app_response(changed, services, response)


@router.delete(
    "/{app}/staging",
    operation_id="DeleteStaging",
    dependencies=[DEPLOY],
    responses=responses_with_etag(400, 401, 403, 404, 409, 412, 503),
)
async def delete_staging(
    *,
    app: AppName,
    task_hub: Annotated[TaskHubName, Query(alias="taskHub")],
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: PreconditionDependency,
    response: Response,
    slot: SlotName = STAGING,
) -> AppResponse:
    """Abandon the open deployment of this task hub. The task hub stays in the slot and must drain like any other."""
    command = AbandonCommand(caller=caller, task_hub=task_hub, slot=slot)
    changed = await services.releases.abandon_deployment(app, command, precondition)
    return app_response(changed, services, response)


@router.post(
    "/{app}/swap",
    operation_id="PostSwap",
    dependencies=[DEPLOY],
    responses=responses_with_etag(400, 401, 403, 404, 409, 412, 413, 415, 503),
)
async def post_swap(
    *,
    app: AppName,
    body: SwapRequest,
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: PreconditionDependency,
    is_conditional: IsConditionalDependency,
    response: Response,
) -> AppResponse:
    """Record a swap of production and the slot, provided the slot holds this task hub. A rollback is a swap back.

    Send `Pending` before the swap in Azure, and `Done` or `Failed` after it. Nothing can be staged in between."""
    command = body.to_command(caller, is_conditional=is_conditional)
    changed = await services.releases.swap_slots(app, command, precondition)
    return app_response(changed, services, response)


@router.post(
    "/{app}/cleanup",
    operation_id="Cleanup",
    dependencies=[DEPLOY],
    responses=responses_with_etag(400, 401, 403, 404, 409, 412, 413, 415, 503),
)
async def cleanup(
    *,
    app: AppName,
    services: ServicesDependency,
    caller: CallerDependency,
    precondition: PreconditionDependency,
    response: Response,
    body: CleanupRequest | None = None,
) -> CleanupResponse:
    """Remove the records of every retired task hub that is drained and, if requested, its artifacts at the provider."""
    cleanup_request = body or CleanupRequest()
    changed, results = await services.cleanup.clean_up(app, cleanup_request.to_command(caller), precondition)
    response.headers["ETag"] = etag(changed)
    return CleanupResponse(
        app=AppResponse.of(changed, services.clock.now()),
        dry_run=cleanup_request.dry_run,
        task_hubs=[TaskHubCleanupResponse.of(result) for result in results],
    )


@router.get(
    "/{app}/history",
    operation_id="GetHistory",
    dependencies=[READ],
    responses=problem_responses(400, 401, 403, 404, 503),
)
async def get_history(
    app: AppName, services: ServicesDependency, top: PageSize = 50, token: ContinuationToken = None
) -> HistoryResponse:
    """List the changes of an app and who made them, newest first."""
    app_state, page = await services.releases.list_history(app, top, token)
    history = [AuditRecordResponse.of(record) for record in page.items]
    return HistoryResponse(app=app_state.name, history=history, continuation_token=page.continuation_token)
