"""Apps and their slots: GetStagingStatus, PostStaging, DeleteStaging, PostSwap, Cleanup, and what is on record."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from state_api.domain.errors import InvalidRequest
from state_api.domain.names import STAGING
from state_api.http.answers.apps import AppAnswer, AppsAnswer, DeletedAppResponse
from state_api.http.answers.history import AuditAnswer, CleanedUpAnswer, CleanupAnswer, HistoryAnswer
from state_api.http.answers.verdicts import VerdictAnswer
from state_api.http.auth import ADMINISTER, DEPLOY, READ, READ_ACROSS_APPS, CallerOf, VisibleApps
from state_api.http.dependencies import PreconditionOf, ServicesOf, Token, Top, app_answer, etag, with_etag
from state_api.http.problems import responses
from state_api.http.requests import (
    AppName,
    AppRequest,
    CleanupRequest,
    SlotName,
    StagingRequest,
    SwapRequest,
    TaskHubName,
)
from state_api.services.questions import Verify

router = APIRouter(prefix="/api/apps", tags=["apps"])


@router.get("", operation_id="ListApps", dependencies=[READ_ACROSS_APPS], responses=responses(400, 401, 403, 503))
async def list_apps(services: ServicesOf, visible: VisibleApps, top: Top = 100, token: Token = None) -> AppsAnswer:
    """All apps that the server knows; with a key that is bound to apps, these."""
    releases = services.releases
    page = await (releases.page(top, token) if visible is None else releases.page_of(visible, top, token))
    now = services.clock.now()
    return AppsAnswer(apps=[AppAnswer.of(app, now) for app in page.items], continuation_token=page.continuation_token)


@router.get("/{app}", operation_id="GetApp", dependencies=[READ], responses=with_etag(400, 401, 403, 404, 503))
async def get_app(app: AppName, services: ServicesOf, response: Response) -> AppAnswer:
    """Slots, policy, open deployment and retired task hubs of an app."""
    return app_answer(await services.releases.get(app), services, response)


@router.put(
    "/{app}",
    operation_id="PutApp",
    dependencies=[ADMINISTER],
    responses=with_etag(400, 401, 403, 409, 412, 413, 415, 503),
)
async def put_app(
    app: AppName,
    body: AppRequest,
    services: ServicesOf,
    caller: CallerOf,
    precondition: PreconditionOf,
    response: Response,
) -> AppAnswer:
    """Register or correct an app: its slots, its policy, where its task hubs live."""
    if body.app is not None and body.app.lower() != app.lower():
        raise InvalidRequest(f"the body is that of app {body.app[:60]!r}, the address that of {app}")
    changed = await services.releases.register(app, body.registration(), caller, precondition)
    return app_answer(changed, services, response)


@router.delete(
    "/{app}",
    operation_id="DeleteApp",
    dependencies=[ADMINISTER],
    responses=with_etag(400, 401, 403, 404, 409, 412, 503),
)
async def delete_app(
    app: AppName, services: ServicesOf, caller: CallerOf, precondition: PreconditionOf, response: Response
) -> DeletedAppResponse:
    """Delete an app whose slots are drained. Its audit log and the claims on its task hubs stay."""
    deleted = await services.releases.delete(app, caller, precondition)
    response.headers["ETag"] = etag(deleted)
    return DeletedAppResponse.of(deleted)


@router.get(
    "/{app}/staging",
    operation_id="GetStagingStatus",
    dependencies=[READ],
    responses=responses(400, 401, 403, 404, 503),
)
async def get_staging_status(
    app: AppName,
    request: Request,
    services: ServicesOf,
    caller: CallerOf,
    wait: Annotated[int, Query(ge=0, le=120, description="Seconds to wait for Ready at the most.")] = 0,
    verify: Annotated[
        Verify,
        Query(
            description="How to verify where a probe is configured: `fresh` by what is read from now on, `cached` also "
            "by a result that is young enough, `none` without a look at the task hub."
        ),
    ] = Verify.CACHED,
    slot: SlotName = STAGING,
) -> VerdictAnswer:
    """May the code in this slot be overwritten? 200 also when not: `ready` says it."""
    return VerdictAnswer.of(await services.readiness.status(app, slot, caller, wait, verify, request.is_disconnected))


@router.post(
    "/{app}/staging",
    operation_id="PostStaging",
    dependencies=[DEPLOY],
    responses=with_etag(400, 401, 403, 404, 409, 412, 413, 415, 503),
)
async def post_staging(
    app: AppName,
    body: StagingRequest,
    services: ServicesOf,
    caller: CallerOf,
    precondition: PreconditionOf,
    response: Response,
) -> AppAnswer:
    """Put a new task hub into the slot, which must be drained, and open a deployment for the caller's run."""
    changed = await services.releases.stage(app, body.order(), caller, precondition)
    return app_answer(changed, services, response)


@router.delete(
    "/{app}/staging",
    operation_id="DeleteStaging",
    dependencies=[DEPLOY],
    responses=with_etag(400, 401, 403, 404, 409, 412, 503),
)
async def delete_staging(
    app: AppName,
    task_hub: Annotated[TaskHubName, Query(alias="taskHub")],
    services: ServicesOf,
    caller: CallerOf,
    precondition: PreconditionOf,
    response: Response,
    slot: SlotName = STAGING,
) -> AppAnswer:
    """Abandon the open deployment of this task hub. The hub stays in the slot and must drain like any other."""
    changed = await services.releases.abandon(app, task_hub, slot, caller, precondition)
    return app_answer(changed, services, response)


@router.post(
    "/{app}/swap",
    operation_id="PostSwap",
    dependencies=[DEPLOY],
    responses=with_etag(400, 401, 403, 404, 409, 412, 413, 415, 503),
)
async def post_swap(
    app: AppName,
    body: SwapRequest,
    services: ServicesOf,
    caller: CallerOf,
    precondition: PreconditionOf,
    response: Response,
) -> AppAnswer:
    """Exchange production and the slot, provided the slot holds this task hub. A rollback is a swap back.

    In two steps: `Pending` before the platform's swap, then `Done` or `Failed`. In between nothing can be staged."""
    changed = await services.releases.swap(app, body.order(), caller, precondition)
    return app_answer(changed, services, response)


@router.post(
    "/{app}/cleanup",
    operation_id="Cleanup",
    dependencies=[DEPLOY],
    responses=with_etag(400, 401, 403, 404, 409, 412, 413, 415, 503),
)
async def cleanup(
    app: AppName,
    services: ServicesOf,
    caller: CallerOf,
    precondition: PreconditionOf,
    response: Response,
    body: CleanupRequest | None = None,
) -> CleanupAnswer:
    """Remove every retired task hub that is drained: its records, and if asked for what it left at its provider."""
    order = body or CleanupRequest()
    changed, outcomes = await services.cleanup.run(app, order.dry_run, order.delete_task_hubs, caller, precondition)
    response.headers["ETag"] = etag(changed)
    return CleanupAnswer(
        app=AppAnswer.of(changed, services.clock.now()),
        dry_run=order.dry_run,
        task_hubs=[CleanedUpAnswer.of(done) for done in outcomes],
    )


@router.get(
    "/{app}/history", operation_id="GetHistory", dependencies=[READ], responses=responses(400, 401, 403, 404, 503)
)
async def get_history(app: AppName, services: ServicesOf, top: Top = 50, token: Token = None) -> HistoryAnswer:
    """Who changed what, newest first."""
    known, page = await services.releases.history(app, top, token)
    history = [AuditAnswer.of(audit) for audit in page.items]
    return HistoryAnswer(app=known.name, history=history, continuation_token=page.continuation_token)
