"""Health and readiness of the server itself. Both operations need no key, so they reveal nothing about apps."""

from typing import Literal

from fastapi import APIRouter

from state_api.http.dependencies import ServicesDependency
from state_api.http.problems import problem_responses
from state_api.http.responses.base import ResponseModel

router = APIRouter(prefix="/api/health", tags=["health"])


class HealthResponse(ResponseModel):
    status: Literal["Healthy", "Ready"]


@router.get("", operation_id="Health")
async def health() -> HealthResponse:
    """Report that the server responds."""
    return HealthResponse(status="Healthy")


@router.get("/ready", operation_id="Ready", responses=problem_responses(503))
async def ready(services: ServicesDependency) -> HealthResponse:
    """Report that the server and its storage respond. Whether a slot may be overwritten is the verdict
    of GetStagingStatus."""
    await services.task_hub_queries.check_storage()
    return HealthResponse(status="Ready")
