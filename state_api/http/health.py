"""Whether the server lives, and whether it can do its work. Anonymous, so nothing that helps an attacker."""

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
    """The server answers."""
    return HealthResponse(status="Healthy")


@router.get("/ready", operation_id="Ready", responses=problem_responses(503))
async def ready(services: ServicesDependency) -> HealthResponse:
    """The server and its storage answer. Says nothing about any deployment: that is GetStagingStatus."""
    await services.inspection.check_storage()
    return HealthResponse(status="Ready")
