"""Whether the server lives, and whether it can do its work. Anonymous, so nothing that helps an attacker."""

from typing import Literal

from fastapi import APIRouter

from state_api.http.answers.shapes import Given
from state_api.http.dependencies import ServicesOf
from state_api.http.problems import responses

router = APIRouter(prefix="/api/health", tags=["health"])


class HealthAnswer(Given):
    status: Literal["Healthy", "Ready"]


@router.get("", operation_id="Health")
async def health() -> HealthAnswer:
    """The server answers."""
    return HealthAnswer(status="Healthy")


@router.get("/ready", operation_id="Ready", responses=responses(503))
async def ready(services: ServicesOf) -> HealthAnswer:
    """The server and its storage answer. Says nothing about any deployment: that is GetStagingStatus."""
    await services.inspection.check_storage()
    return HealthAnswer(status="Ready")
