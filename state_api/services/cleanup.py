"""Cleanup: remove the server's records of retired task hubs that have drained and, on request, their artifacts at the
provider. Nothing is deleted at a provider that the claim's proof does not cover."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from state_api.backends.protocols import (
    Artifact,
    ArtifactKind,
    ArtifactStore,
    BackendError,
    BackendRegistry,
    ReadFailure,
    TaskHubArtifacts,
    backend_id_of,
)
from state_api.domain.errors import InvalidRequest
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.policy import Assurance
from state_api.domain.readiness.reasons import ReadinessReason, ReasonCode
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, RetiredHub
from state_api.domain.releases.commands import CleanupCommand, RemoveRetiredHubsCommand
from state_api.domain.releases.retirement import find_hubs_kept_by_retention
from state_api.domain.task_hubs.ownership import explain_not_owned
from state_api.services.cleanup_results import CleanupOutcome, CleanupResult
from state_api.services.ports import Apps, Clock, Instances, TaskHubRecord, TaskHubRecords, TaskHubs
from state_api.services.readiness import Readiness, Verification
from state_api.services.releases import Precondition, Releases

_CLEANUP_TIMEOUT_SECONDS = 150.0
"""How long one call may read and delete task hubs. The next call continues what needs longer."""
_APPS_PER_PAGE = 100
_TIMED_OUT = "there was no time left in this call. Call Cleanup again"


@dataclass(frozen=True, slots=True)
class _Run:
    """One call of Cleanup. `artifact_store` is None unless the caller wants artifacts deleted."""

    app: App
    dry_run: bool
    artifact_store: ArtifactStore | None
    verification: Verification


@dataclass(frozen=True, slots=True)
class _Target:
    """One retired task hub in a call. Without an `artifact_store`, only its records are removed. `not_owned` says why
    its artifacts stay although the caller wants them deleted."""

    retired_hub: RetiredHub
    record: TaskHubRecord | None
    artifact_store: ArtifactStore | None = None
    not_owned: str | None = None

    @property
    def task_hub(self) -> str:
        return self.retired_hub.task_hub


class Cleanup:
    def __init__(
        self,
        *,
        releases: Releases,
        apps: Apps,
        task_hubs: TaskHubs,
        instances: Instances,
        readiness: Readiness,
        backends: BackendRegistry,
        clock: Clock,
    ) -> None:
        self._releases = releases
        self._apps = apps
        self._task_hubs = task_hubs
        self._instances = instances
        self._readiness = readiness
        self._backends = backends
        self._clock = clock

    async def clean_up(
        self, name: str, command: CleanupCommand, precondition: Precondition
    ) -> tuple[App, list[CleanupResult]]:
        """Remove every retired task hub that has drained.

        A task hub leaves the app's list only after everything of it is gone, so the next call finishes a call that was
        cut off. Raises AppNotFound, InvalidRequest, PreconditionFailed.
        """
        app = await self._releases.get(name)
        precondition(app)
        artifact_store = self._get_artifact_store(app) if command.delete_task_hubs else None
        verification = self._readiness.start_verification(VerificationMode.FRESH, _CLEANUP_TIMEOUT_SECONDS)
        run = _Run(app, command.dry_run, artifact_store, verification)
        kept = find_hubs_kept_by_retention(app, self._clock.now())
        results = [
            CleanupResult(retired, CleanupOutcome.KEPT)
            if retired.task_hub in kept
            else await self._clean_up_hub(run, retired)
            for retired in app.retired
        ]
        removed = _select_task_hubs(results, CleanupOutcome.REMOVED)
        not_owned = () if command.dry_run else _select_task_hubs(results, CleanupOutcome.NOT_OWNED)
        if removed or not_owned:
            forget = RemoveRetiredHubsCommand(caller=command.caller, removed=removed, not_owned=not_owned)
            app = await self._releases.remove_retired_hubs(name, forget)
        return app, results

    def _get_artifact_store(self, app: App) -> ArtifactStore:
        """What deletes the task hubs of this app at their provider. Raises InvalidRequest if this server cannot delete
        them."""
        if app.provider_config is None:
            raise InvalidRequest(
                "deleteTaskHubs needs to know where the app's task hubs live: set taskHubs with PutApp"
            )
        try:
            artifact_store = self._backends.backend_for(app.provider_config).artifacts
        except BackendError as error:
            raise InvalidRequest(f"deleteTaskHubs is not possible: {error.message}") from None
        if artifact_store is None:
            raise InvalidRequest(
                f"deleteTaskHubs is not possible with the provider {app.provider_config.provider}, only with "
                "azureStorage. Call Cleanup without it to remove the server's records"
            )
        return artifact_store

    async def _clean_up_hub(self, run: _Run, retired: RetiredHub) -> CleanupResult:
        """Remove the records of a retired task hub, and its artifacts where the run deletes them, if nothing in it is
        active."""
        slot = run.app.find_possible_slot(retired.task_hub)
        if slot is not None:
            message = f"slot {slot} may still carry it until a task hub that was staged later has been in production"
            return CleanupResult(retired, CleanupOutcome.IN_USE, message=message)
        target = self._resolve_target(run, retired, await self._task_hubs.get(retired.task_hub))
        if isinstance(target, CleanupResult):
            return target
        if target.artifact_store is None and target.record is not None and target.record.closed:
            return await self._remove_records_only(run, target)
        if target.record is not None and target.record.closed and not run.dry_run:
            # Close it again, because an earlier call may have ended in the middle of closing it.
            await self._task_hubs.close(target.task_hub)
        try:
            # List the artifacts before the verdict, because listing takes a while, and the verdict does not cover what
            # starts after it.
            existing = await self._find_artifacts(run, target)
            if isinstance(existing, CleanupResult):
                return existing
            verdict = await self._assess(run, target)
        except BackendError as error:
            return CleanupResult(retired, CleanupOutcome.UNFINISHED, message=error.message)
        if await self._is_gone(run, target, verdict):
            return await self._remove_records_only(run, target)
        if blockers := _find_blockers(verdict, deletes_artifacts=target.artifact_store is not None):
            return CleanupResult(retired, CleanupOutcome.NOT_DRAINED, blockers)
        if target.artifact_store is None or existing is None:
            return await self._remove_records_only(run, target)
        return await self._delete_artifacts(run, target, target.artifact_store, existing, verdict)

    def _resolve_target(self, run: _Run, retired: RetiredHub, record: TaskHubRecord | None) -> _Target | CleanupResult:
        """Whether artifacts are deleted, and where. An earlier call may have begun to delete them: then this call
        continues, whether or not it asks for deletion."""
        artifact_store = run.artifact_store
        is_deletion_begun = record is not None and record.deleting_from is not None
        if record is not None and is_deletion_begun:
            try:
                artifact_store = artifact_store or self._get_artifact_store(run.app)
            except InvalidRequest as error:
                return _unfinished(retired, f"an earlier call began to delete it. {error.message}")
            if record.deleting_from != str(run.app.provider_config):
                message = "an earlier call began to delete it with other taskHubs. Set those again until it is deleted"
                return _unfinished(retired, message)
        if artifact_store is None:
            return _Target(retired, record)
        not_owned = _explain_not_owned(retired.task_hub, record, artifact_store, [ArtifactKind.TABLE])
        if not_owned is None:
            return _Target(retired, record, artifact_store)
        if is_deletion_begun and record is not None and record.proof is not None:
            message = f"an earlier call began to delete it, and its setting now leads to another address. {not_owned}"
            return _unfinished(retired, message)
        return _Target(retired, record, None, not_owned)

    async def _find_artifacts(self, run: _Run, target: _Target) -> TaskHubArtifacts | CleanupResult | None:
        """Return the task hub's artifacts at its provider, or None if this call deletes no artifacts.

        Returns a CleanupResult instead if a slot or release has the task hub, or the time is up. Raises BackendError.
        """
        if target.artifact_store is None:
            return None
        if (holder := await self._find_holder(target.task_hub)) is not None:
            return CleanupResult(target.retired_hub, CleanupOutcome.IN_USE, message=f"{holder} holds it")
        try:
            async with asyncio.timeout_at(run.verification.deadline):
                return await target.artifact_store.find_artifacts(target.task_hub)
        except TimeoutError:
            return _unfinished(target.retired_hub, _TIMED_OUT)

    async def _assess(self, run: _Run, target: _Target) -> Verdict:
        """The verdict on the task hub. Before artifacts are deleted, it is read again from now on. Raises
        BackendError."""
        app = await _app_for_verdict(run.app, target)
        if target.artifact_store is None:
            verification = replace(run.verification, mode=VerificationMode.CACHED)
        else:
            # The clock is right, because every caller has just read the state storage, whose response has set it.
            started = self._readiness.start_verification(VerificationMode.FRESH)
            verification = replace(run.verification, mode=VerificationMode.FRESH, requested_at=started.requested_at)
        return await self._readiness.assess_task_hub(app, target.task_hub, verification)

    async def _is_gone(self, run: _Run, target: _Target, verdict: Verdict) -> bool:
        """Whether the task hub does not exist at its provider any more. Nothing runs in a task hub that no slot holds
        and that is gone, and nothing is left to delete."""
        if all(reason.code is not ReasonCode.TASK_HUB_MISSING for reason in verdict.reasons):
            return False
        records = await self._instances.read_records(target.task_hub, Exemptions())
        if verdict.has_running and not self._is_backend_confirmed(run, records):
            # taskHubs may lead to another account since these instances were recorded.
            return False
        if target.artifact_store is None:
            return True
        # An earlier call closes the task hub only once it has drained, and may have deleted the records.
        return records.seen or (target.record is not None and target.record.closed)

    def _is_backend_confirmed(self, run: _Run, records: TaskHubRecords) -> bool:
        """Whether a probe has shown, where `taskHubs` leads now, instances that are known from events."""
        if run.app.provider_config is None:
            return False
        try:
            backend = self._backends.backend_for(run.app.provider_config)
            return records.confirmed_backend == backend_id_of(run.app.provider_config, backend)
        except BackendError:
            return False

    async def _remove_records_only(self, run: _Run, target: _Target) -> CleanupResult:
        """Remove the server's records of a drained task hub, but no artifacts. Either the call did not ask for their
        deletion, or they are gone, or they are not proven to be the app's: then the result is NotOwned."""
        if not run.dry_run:
            await self._delete_records(target)
        if target.not_owned is not None:
            return CleanupResult(target.retired_hub, CleanupOutcome.NOT_OWNED, message=target.not_owned)
        outcome = CleanupOutcome.WOULD_REMOVE if run.dry_run else CleanupOutcome.REMOVED
        return CleanupResult(target.retired_hub, outcome)

    async def _delete_artifacts(
        self, run: _Run, target: _Target, artifact_store: ArtifactStore, existing: TaskHubArtifacts, verdict: Verdict
    ) -> CleanupResult:
        """Delete the artifacts of a drained task hub, then its records."""
        kinds = {artifact.kind for artifact in existing.deletable}
        if (not_owned := _explain_not_owned(target.task_hub, target.record, artifact_store, kinds)) is not None:
            return await self._remove_records_only(run, replace(target, artifact_store=None, not_owned=not_owned))
        result = CleanupResult(
            target.retired_hub,
            CleanupOutcome.WOULD_REMOVE if run.dry_run else CleanupOutcome.REMOVED,
            artifacts=tuple(map(str, existing.deletable)),
            shared=tuple(map(str, existing.shared)),
            message=_describe_ignored(verdict.ignored_count),
        )
        if run.dry_run:
            return result
        # Record the closing before the first artifact is deleted, so that the next call continues.
        await self._task_hubs.close(target.task_hub, deleting_from=str(run.app.provider_config))
        deleted: list[str] = []
        try:
            async with asyncio.timeout_at(run.verification.deadline):
                blockers = await self._delete_in_order(run, target, artifact_store, existing.deletable, deleted)
        except BackendError as error:
            return _unfinished(target.retired_hub, error.message, deleted)
        except TimeoutError:
            return _unfinished(target.retired_hub, _TIMED_OUT, deleted)
        if blockers:
            return CleanupResult(target.retired_hub, CleanupOutcome.NOT_DRAINED, blockers, tuple(deleted))
        await self._delete_records(target)
        return result

    async def _delete_in_order(
        self,
        run: _Run,
        target: _Target,
        artifact_store: ArtifactStore,
        artifacts: Sequence[Artifact],
        deleted: list[str],
    ) -> tuple[ReadinessReason, ...]:
        """Delete the artifacts in the store's order, which ends with the evidence of what runs, and note each in
        `deleted`. Returns why the rest must stay, if something has started since the verdict. Raises BackendError if
        another task hub has begun to use the tables."""
        is_verdict_due = True
        for artifact in artifacts:
            if is_verdict_due and artifact.kind is ArtifactKind.TABLE:
                # The control queues are gone by now, also if an earlier call has deleted them, and nothing starts
                # without them. Instances that started since the first verdict have rows now.
                record = await self._task_hubs.get(target.task_hub)
                verdict = await self._assess(run, replace(target, record=record))
                if blockers := _find_blockers(verdict, deletes_artifacts=True):
                    return blockers
                await _require_unshared(artifact_store, target.task_hub, artifacts)
                is_verdict_due = False
            await artifact_store.delete(artifact)
            deleted.append(str(artifact))
        return ()

    async def _delete_records(self, target: _Target) -> None:
        """Close the task hub to events, and delete the records of its instances."""
        if target.record is not None:
            # Closed first: from now on an event goes to quarantine and cannot create the table again. Neither can a
            # worker that still reads the task hub: it stores its result only in a table that exists.
            await self._task_hubs.close(target.task_hub)
            await self._instances.delete_records(target.record)

    async def _find_holder(self, task_hub: str) -> str | None:
        """The slot or release of any app that has this task hub."""
        token: str | None = None
        while True:
            page = await self._apps.list_page(_APPS_PER_PAGE, token)
            for app in page.items:
                if (holder := app.find_holder(task_hub)) is not None:
                    return f"{holder} of app {app.name}"
            token = page.continuation_token
            if token is None:
                return None


def _select_task_hubs(results: Iterable[CleanupResult], outcome: CleanupOutcome) -> tuple[str, ...]:
    """The names of the task hubs with this outcome."""
    return tuple(result.retired_hub.task_hub for result in results if result.outcome is outcome)


async def _require_unshared(artifact_store: ArtifactStore, task_hub: str, artifacts: Sequence[Artifact]) -> None:
    """Raise BackendError if one of these tables must stay by now, because another task hub has rows there."""
    existing = await artifact_store.find_artifacts(task_hub)
    if shared := [str(artifact) for artifact in existing.shared if artifact in artifacts]:
        raise BackendError(
            ReadFailure.FAILED,
            f"another task hub has begun to use {', '.join(shared)}, so these tables must stay. Call Cleanup again",
        )


def _unfinished(retired: RetiredHub, message: str, deleted: Iterable[str] = ()) -> CleanupResult:
    """The result for a task hub whose deletion began and must be repeated; `deleted` are the artifacts that are
    gone."""
    return CleanupResult(retired, CleanupOutcome.UNFINISHED, artifacts=tuple(deleted), message=message)


def _describe_ignored(ignored_count: int) -> str | None:
    """The note that instances of ignored functions are deleted with the task hub; None if there are none."""
    if not ignored_count:
        return None
    return f"{ignored_count} active instances of functions that the policy ignores are deleted with it"


def _explain_not_owned(
    task_hub: str, record: TaskHubRecord | None, artifact_store: ArtifactStore, kinds: Iterable[ArtifactKind]
) -> str | None:
    """Why artifacts of these kinds must not be deleted, by the proof of the claim; None if they may be."""
    addresses = [address for kind in kinds if (address := artifact_store.service_address(kind)) is not None]
    return explain_not_owned(task_hub, record.proof if record is not None else None, addresses)


async def _app_for_verdict(app: App, target: _Target) -> App:
    """The app with the policy for the verdict. Once the deletion of control queues has begun, messages do not count:
    the task hub had drained before. Raises BackendError."""
    record, artifact_store = target.record, target.artifact_store
    if record is None or record.deleting_from is None or artifact_store is None:
        return app
    if not await artifact_store.has_queue_deletion_begun(record.name):
        return app
    return replace(app, policy=replace(app.policy, ignore_messages=True))


def _find_blockers(verdict: Verdict, *, deletes_artifacts: bool) -> tuple[ReadinessReason, ...]:
    """Why a task hub must not be removed. Artifacts are only deleted after a probe has verified the verdict."""
    if deletes_artifacts and verdict.ready and verdict.assurance is not Assurance.VERIFIED:
        message = "deleteTaskHubs needs a verdict that a probe has verified. Call Cleanup again"
        return (ReadinessReason(ReasonCode.VERIFICATION_REQUIRED, message),)
    return verdict.reasons
