"""The reads that a verdict rests on: the app, the records of its task hubs, and the task hubs at their provider."""

from typing import Protocol

from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.plan import ProbeOutcome, RecordedState
from state_api.domain.releases.apps import App
from state_api.services.ports import Apps
from state_api.services.probe_requests import ProbeRequest
from state_api.services.verification import Verifier


class VerdictReads(Protocol):
    """Reads that begin after each call."""

    async def read_app(self, name: str) -> App | None:
        """The app with this name, or None if there is none or it is deleted."""

    async def read_records(self, task_hub: str, exemptions: Exemptions) -> RecordedState:
        """What is recorded of a task hub."""

    async def probe_for_verdict(self, request: ProbeRequest) -> ProbeOutcome:
        """Verify a task hub for a verdict."""


class DirectReads:
    """Reads for one request alone."""

    def __init__(self, apps: Apps, verifier: Verifier) -> None:
        self._apps = apps
        self._verifier = verifier

    async def read_app(self, name: str) -> App | None:
        """Read the app from storage."""
        return await self._apps.get(name)

    async def read_records(self, task_hub: str, exemptions: Exemptions) -> RecordedState:
        """Read the records of the task hub from storage."""
        return await self._verifier.get_recorded_state(task_hub, exemptions)

    async def probe_for_verdict(self, request: ProbeRequest) -> ProbeOutcome:
        """Verify the task hub for this request."""
        return await self._verifier.probe_for_verdict(request)
