"""Cleanup: what retired task hubs leave behind, in the server's records and, if it is asked for, at their provider."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from state_api.backends.protocols import (
    ArtifactKind,
    ArtifactStore,
    BackendError,
    BackendRegistry,
    TaskHubArtifacts,
    backend_id_of,
)
from state_api.domain.errors import InvalidRequest
from state_api.domain.readiness.plan import VerificationMode
from state_api.domain.readiness.policy import Assurance
from state_api.domain.readiness.reasons import ReadinessReason, ReasonCode
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Caller, RetiredHub
from state_api.domain.releases.staging import find_hubs_kept_by_retention
from state_api.domain.task_hubs.ownership import explain_not_owned
from state_api.services.ports import Apps, Clock, Instances, Probes, TaskHubRecord, TaskHubs
from state_api.services.readiness import Readiness, Verification
from state_api.services.releases import Precondition, Releases

_CLEANUP_TIMEOUT_SECONDS = 150.0
"""How long one call may read task hubs; a scan that needs longer is carried on by the next call."""
_APPS_PAGE = 100


class CleanupOutcome(StrEnum):
    """What cleanup did with a retired hub."""

    REMOVED = "Removed"
    WOULD_REMOVE = "WouldRemove"
    NOT_DRAINED = "NotDrained"
    KEPT = "Kept"
    IN_USE = "InUse"
    NOT_OWNED = "NotOwned"
    UNFINISHED = "Unfinished"


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """What became of one hub. `verdict` is that of a hub that is not drained; `artifacts` what was or would be removed
    at its provider, `shared` what stays there because other hubs use it; `message` what stood in the way."""

    retired_hub: RetiredHub
    outcome: CleanupOutcome
    reasons: tuple[ReadinessReason, ...] = ()
    artifacts: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    message: str | None = None


@dataclass(frozen=True, slots=True)
class _CleanupRequest:
    app: App
    dry_run: bool
    artifacts: ArtifactStore | None
    verification: Verification


class Cleanup:
    def __init__(
        self,
        releases: Releases,
        apps: Apps,
        task_hubs: TaskHubs,
        instances: Instances,
        probes: Probes,
        readiness: Readiness,
        backends: BackendRegistry,
        clock: Clock,
    ) -> None:
        self._releases = releases
        self._apps = apps
        self._task_hubs = task_hubs
        self._instances = instances
        self._probes = probes
        self._readiness = readiness
        self._backends = backends
        self._clock = clock

    async def clean_up(
        self, name: str, dry_run: bool, delete_task_hubs: bool, caller: Caller, precondition: Precondition
    ) -> tuple[App, list[CleanupResult]]:
        """Remove every retired hub that is drained: its records, and with `delete_task_hubs` its artifacts at the
        provider. A call that was cut short is finished by the next: a hub leaves the list of retired ones only after
        all of it is gone. Raises AppNotFound, InvalidRequest, PreconditionFailed."""
        app = await self._releases.get(name)
        precondition(app)
        artifacts = self._get_artifacts(app) if delete_task_hubs else None
        verification = await self._readiness.start_verification(VerificationMode.FRESH, _CLEANUP_TIMEOUT_SECONDS)
        request = _CleanupRequest(app, dry_run, artifacts, verification)
        kept = find_hubs_kept_by_retention(app, self._clock.now())
        outcomes = [
            CleanupResult(hub, CleanupOutcome.KEPT) if hub.task_hub in kept else await self._clean_up_hub(request, hub)
            for hub in app.retired
        ]
        removed = [done.retired_hub.task_hub for done in outcomes if done.outcome is CleanupOutcome.REMOVED]
        not_owned = [
            done.retired_hub.task_hub for done in outcomes if done.outcome is CleanupOutcome.NOT_OWNED and not dry_run
        ]
        if removed or not_owned:
            app = await self._releases.remove_retired_hubs(name, removed, not_owned, caller)
        return app, outcomes

    def _get_artifacts(self, app: App) -> ArtifactStore:
        """Raises InvalidRequest where artifacts cannot be deleted."""
        if app.provider_config is None:
            raise InvalidRequest("deleting task hubs needs to know where they live: set taskHubs with PutApp")
        try:
            artifacts = self._backends.backend_for(app.provider_config).artifacts
        except BackendError as error:
            raise InvalidRequest(f"task hubs cannot be deleted: {error.message}") from None
        if artifacts is None:
            raise InvalidRequest(
                f"task hubs of the provider {app.provider_config.provider} cannot be deleted, only those of azureStorage"
            )
        return artifacts

    async def _clean_up_hub(self, request: _CleanupRequest, retired: RetiredHub) -> CleanupResult:
        slot = request.app.find_possible_slot(retired.task_hub)
        if slot is not None:
            message = f"slot {slot} may still carry it, until what was staged after it has been in production"
            return CleanupResult(retired, CleanupOutcome.IN_USE, message=message)
        hub = await self._task_hubs.get(retired.task_hub)
        artifacts = request.artifacts
        if hub is not None and hub.deleting_from is not None:
            # It was asked for by the call that began it.
            try:
                artifacts = artifacts or self._get_artifacts(request.app)
            except InvalidRequest as error:
                return CleanupResult(
                    retired, CleanupOutcome.UNFINISHED, message=f"its deletion was begun. {error.message}"
                )
            if hub.deleting_from != str(request.app.provider_config):
                message = "its deletion was begun with other taskHubs: set those again until it is done"
                return CleanupResult(retired, CleanupOutcome.UNFINISHED, message=message)
        not_owned = (
            _explain_not_owned(retired.task_hub, hub, artifacts, (ArtifactKind.TABLE,))
            if artifacts is not None
            else None
        )
        if not_owned is not None:
            if hub is not None and hub.proof is not None and hub.deleting_from is not None:
                message = f"its deletion was begun, and the setting leads to another place now. {not_owned}"
                return CleanupResult(retired, CleanupOutcome.UNFINISHED, message=message)
            artifacts = None
        if hub is not None and hub.closed and artifacts is None:
            return await self._finish_without_artifacts(request, retired, hub, not_owned)
        try:
            # Before the verdict: this takes a while, and the verdict does not see what starts after it.
            found = await self._find(request, retired, artifacts)
            if isinstance(found, CleanupResult):
                return found
            verdict = await self._verdict(request, retired, hub, artifacts)
        except BackendError as error:
            return CleanupResult(retired, CleanupOutcome.UNFINISHED, message=error.message)
        missing = any(reason.code is ReasonCode.TASK_HUB_MISSING for reason in verdict.reasons)
        # That it is not there says nothing of what the records show active, if it was never seen there: taskHubs may
        # have been set to another account since.
        believed = not verdict.has_running or (hub is not None and self._is_backend_confirmed(hub, request.app))
        if (
            missing
            and believed
            and (artifacts is None or (hub is not None and (hub.seen or hub.deleting_from is not None)))
        ):
            # Nothing runs in a hub that no slot holds and that is not there any more, and nothing is left to delete.
            return await self._finish_without_artifacts(request, retired, hub, not_owned)
        if reasons := _removal_blockers(verdict, deletes_artifacts=artifacts is not None):
            return CleanupResult(retired, CleanupOutcome.NOT_DRAINED, reasons)
        if artifacts is None or found is None:
            return await self._finish_without_artifacts(request, retired, hub, not_owned)
        return await self._delete_artifacts(request, retired, hub, artifacts, found, verdict.ignored_count)

    async def _find(
        self, request: _CleanupRequest, retired: RetiredHub, artifacts: ArtifactStore | None
    ) -> TaskHubArtifacts | CleanupResult | None:
        """What exists of a hub at its provider; what became of the hub if nothing may be deleted. None if nothing is to
        be. Raises BackendError."""
        if artifacts is None:
            return None
        if (holder := await self._find_slot_holding(retired.task_hub)) is not None:
            return CleanupResult(retired, CleanupOutcome.IN_USE, message=f"{holder} holds it")
        try:
            async with asyncio.timeout_at(request.verification.deadline):
                return await artifacts.find_artifacts(retired.task_hub)
        except TimeoutError:
            return CleanupResult(retired, CleanupOutcome.UNFINISHED, message="it takes longer; call again")

    async def _verdict(
        self, request: _CleanupRequest, retired: RetiredHub, hub: TaskHubRecord | None, artifacts: ArtifactStore | None
    ) -> Verdict:
        """The verdict on a retired hub; one that is to be deleted is read from now on. Raises BackendError."""
        app = await _app_for_verdict(request.app, hub, artifacts)
        if artifacts is None:
            return await self._readiness.assess_task_hub(
                app, retired.task_hub, replace(request.verification, mode=VerificationMode.CACHED)
            )
        now = await self._readiness.start_verification(VerificationMode.FRESH)
        verification = replace(request.verification, mode=VerificationMode.FRESH, requested_at=now.requested_at)
        return await self._readiness.assess_task_hub(app, retired.task_hub, verification)

    def _is_backend_confirmed(self, hub: TaskHubRecord, app: App) -> bool:
        """Whether the place to which `taskHubs` leads now has shown instances that events told of."""
        if app.provider_config is None:
            return False
        try:
            backend = self._backends.backend_for(app.provider_config)
            return hub.confirmed_backend == backend_id_of(app.provider_config, backend)
        except BackendError:
            return False

    async def _finish_without_artifacts(
        self, request: _CleanupRequest, retired: RetiredHub, hub: TaskHubRecord | None, not_owned: str | None = None
    ) -> CleanupResult:
        """Remove the server's own records. `not_owned` is why the hub itself stays although it was to be deleted."""
        if not request.dry_run:
            await self._remove_records(retired, hub)
        if not_owned is not None:
            return CleanupResult(retired, CleanupOutcome.NOT_OWNED, message=not_owned)
        return CleanupResult(retired, CleanupOutcome.WOULD_REMOVE if request.dry_run else CleanupOutcome.REMOVED)

    async def _delete_artifacts(
        self,
        request: _CleanupRequest,
        retired: RetiredHub,
        hub: TaskHubRecord | None,
        artifacts: ArtifactStore,
        found: TaskHubArtifacts,
        ignored: int,
    ) -> CleanupResult:
        """Delete what the hub left at its provider, the evidence of what runs there last, and then the records."""
        message = f"{ignored} active instances of functions that the policy ignores go with it" if ignored else None
        done: list[str] = []
        try:
            async with asyncio.timeout_at(request.verification.deadline):
                shared = tuple(map(str, found.shared))
                kinds = {artifact.kind for artifact in found.deletable}
                if (not_owned := _explain_not_owned(retired.task_hub, hub, artifacts, kinds)) is not None:
                    return await self._finish_without_artifacts(request, retired, hub, not_owned)
                if request.dry_run:
                    own = tuple(map(str, found.deletable))
                    return CleanupResult(retired, CleanupOutcome.WOULD_REMOVE, (), own, shared, message)
                # On record before the first is gone, so that the next call goes on.
                await self._task_hubs.close(retired.task_hub, deleting_from=str(request.app.provider_config))
                queues_gone = False
                for artifact in found.deletable:
                    if queues_gone and artifact.kind is ArtifactKind.TABLE:
                        # Nothing starts without control queues. What has started since the verdict has a row.
                        verdict = await self._verdict(
                            request, retired, await self._task_hubs.get(retired.task_hub), artifacts
                        )
                        if reasons := _removal_blockers(verdict, deletes_artifacts=True):
                            return CleanupResult(retired, CleanupOutcome.NOT_DRAINED, reasons, tuple(done))
                        queues_gone = False
                    await artifacts.delete(artifact)
                    done.append(str(artifact))
                    queues_gone = queues_gone or artifact.kind is ArtifactKind.QUEUE
        except BackendError as error:
            return CleanupResult(retired, CleanupOutcome.UNFINISHED, artifacts=tuple(done), message=error.message)
        except TimeoutError:
            return CleanupResult(
                retired, CleanupOutcome.UNFINISHED, artifacts=tuple(done), message="it takes longer; call again"
            )
        await self._remove_records(retired, hub)
        return CleanupResult(retired, CleanupOutcome.REMOVED, (), tuple(done), shared, message)

    async def _remove_records(self, retired: RetiredHub, hub: TaskHubRecord | None) -> None:
        if hub is not None:
            # Closed first: an event that comes from now on goes to quarantine and cannot make the table anew.
            await self._task_hubs.close(retired.task_hub)
            await self._instances.delete_records(hub)
        await self._probes.delete_records(retired.task_hub)

    async def _find_slot_holding(self, task_hub: str) -> str | None:
        """The slot of any app that holds this hub."""
        token: str | None = None
        while True:
            page = await self._apps.list_page(_APPS_PAGE, token)
            for app in page.items:
                if (slot := app.slot_holding(task_hub)) is not None:
                    return f"slot {slot} of app {app.name}"
            token = page.continuation_token
            if token is None:
                return None


def _explain_not_owned(
    task_hub: str, hub: TaskHubRecord | None, artifacts: ArtifactStore, kinds: Iterable[ArtifactKind]
) -> str | None:
    """Why artifacts of these kinds may not be deleted, by the proof of the hub's claim."""
    addresses = [address for kind in kinds if (address := artifacts.service_address(kind)) is not None]
    return explain_not_owned(task_hub, hub.proof if hub is not None else None, addresses)


async def _app_for_verdict(app: App, hub: TaskHubRecord | None, artifacts: ArtifactStore | None) -> App:
    """The app under the policy by which a task hub is judged. Messages are not looked at once its control queues are
    being deleted: the task hub was drained when the first of them was. Raises BackendError."""
    if (
        hub is None
        or hub.deleting_from is None
        or artifacts is None
        or not await artifacts.has_queue_deletion_begun(hub.name)
    ):
        return app
    return replace(app, policy=replace(app.policy, ignore_messages=True))


def _removal_blockers(verdict: Verdict, *, deletes_artifacts: bool) -> tuple[ReadinessReason, ...]:
    """What stands against removing a hub."""
    if deletes_artifacts and verdict.ready and verdict.assurance is not Assurance.VERIFIED:
        return (ReadinessReason(ReasonCode.VERIFICATION_REQUIRED, "a task hub is only deleted once it is verified"),)
    return verdict.reasons
