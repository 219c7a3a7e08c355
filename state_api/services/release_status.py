"""GetReleaseStatus and ListReleases: may a release be removed, and what state is each one in?"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial

from state_api.domain.instants import Instant
from state_api.domain.names import AppKey, app_key
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Caller
from state_api.domain.releases.refusals import app_not_found
from state_api.domain.releases.side_by_side import refusals
from state_api.domain.releases.side_by_side.acknowledgements import find_closing_change
from state_api.domain.releases.side_by_side.releases import (
    Model,
    Release,
    ReleaseState,
    RouterAcknowledgement,
)
from state_api.domain.releases.side_by_side.retention import RollbackWindow, find_rollback_window
from state_api.domain.releases.side_by_side.verdicts import (
    ReleaseUse,
    assess_release,
    find_assessed_state,
    find_blocked_until,
    find_blocking_release_deployment,
    find_quiet_since,
    needs_missing_backend,
)
from state_api.domain.releases.transition_checks import check_model
from state_api.services.ownership import Ownership
from state_api.services.ports import Clock, Routers
from state_api.services.readiness import Readiness, Verification
from state_api.services.releases import Releases
from state_api.services.shared_reads import SharedReads
from state_api.services.verdict_reads import VerdictReads
from state_api.services.waiting import WaitingRequests


@dataclass(frozen=True, slots=True)
class ReleaseStatus:
    """A release with its state, how long the policy keeps it, and the verdict on its removal; None if it was not
    assessed."""

    app: App
    release: Release
    state: ReleaseState
    window: RollbackWindow | None
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class AssessedRelease(ReleaseStatus):
    """A release that was assessed. `blocked_until`: when something else than its task hub stops to prevent a Ready."""

    verdict: Verdict
    blocked_until: Instant | None

    @property
    def task_hubs(self) -> tuple[str, ...]:
        return (self.release.task_hub,)


@dataclass(frozen=True, slots=True)
class ReleaseQuestion:
    """May this release be removed? `mode`: how to verify the verdict."""

    app_name: str
    version: str
    caller: Caller
    mode: VerificationMode

    @property
    def key(self) -> Hashable:
        """Equal for questions with the same answer. A run is not blocked by its own deployment, so the caller is part
        of it."""
        return "release", self.version, self.mode, self.caller


@dataclass(frozen=True, slots=True)
class ReleaseList:
    """All releases of an app with their states, and what its routers have acknowledged."""

    app: App
    releases: tuple[ReleaseStatus, ...]
    acknowledgements: tuple[RouterAcknowledgement, ...]


class ReleaseStatuses:
    """Assesses releases."""

    def __init__(
        self,
        *,
        releases: Releases,
        routers: Routers,
        readiness: Readiness,
        ownership: Ownership,
        reads: VerdictReads,
        waiting: WaitingRequests,
        clock: Clock,
    ) -> None:
        self._releases = releases
        self._routers = routers
        self._readiness = readiness
        self._ownership = ownership
        self._reads = reads
        self._waiting = waiting
        self._clock = clock
        self._acknowledgement_reads = SharedReads[AppKey, tuple[RouterAcknowledgement, ...]]()

    async def list_releases(self, name: str) -> ReleaseList:
        """The releases of an app, by what the server knows: no task hub is read. Raises AppNotFound, WrongModel."""
        app = await self._releases.get_with_releases(name)
        acknowledgements = await self._routers.list_acknowledgements(app.name)

        async def get_status(release: Release) -> ReleaseStatus:
            """The state of one release. Only a release that drains needs a verdict on its task hub."""
            state = find_assessed_state(app, release, None)
            if state is not ReleaseState.DRAINING:
                return ReleaseStatus(app, release, state, find_rollback_window(app, release, self._clock.now()), None)
            verification = self._readiness.start_verification(VerificationMode.NONE)
            return await self._assess(app, release, acknowledgements, None, verification)

        statuses = await asyncio.gather(*map(get_status, app.releases.values()))
        routers = tuple(router for router in acknowledgements if not router.is_forgotten)
        return ReleaseList(app, tuple(statuses), routers)

    async def wait_for_status(
        self, question: ReleaseQuestion, *, wait_seconds: float, is_disconnected: Callable[[], Awaitable[bool]]
    ) -> AssessedRelease:
        """The status of a release. While it is NotReady, waits for up to `wait_seconds` until it turns Ready.

        Raises AppNotFound, WrongModel, ReleaseNotFound.
        """
        if wait_seconds <= 0:
            return (await self._get_status(question, self._reads, None))[0]
        return await self._waiting.wait_for_ready(
            question, self._get_status, wait_seconds=wait_seconds, is_disconnected=is_disconnected
        )

    async def _get_status(
        self, question: ReleaseQuestion, reads: VerdictReads, requested_at: Instant | None
    ) -> tuple[AssessedRelease, Instant]:
        """The status of a release, and the time of the request. `requested_at` is that time if the request has asked
        before: it accepts what was read for earlier questions."""
        app = await reads.read_app(question.app_name)
        if app is None:
            raise app_not_found(question.app_name).to_error()
        if refusal := check_model(app, Model.SIDE_BY_SIDE):
            raise refusal.to_error()
        release = app.releases.get(question.version)
        if release is None:
            raise refusals.release_not_found(app, question.version).to_error()
        acknowledgements: tuple[RouterAcknowledgement, ...] = ()
        if find_closing_change(release) is not None:
            # Requests that ask at the same time share the read, which begins after all of them have asked.
            read = partial(self._routers.list_acknowledgements, app.name)
            acknowledgements = await self._acknowledgement_reads.read(app_key(app.name), read)
        verification = self._readiness.start_verification(question.mode, reads=reads)
        if requested_at is not None:
            verification = replace(verification, requested_at=requested_at)
        status = await self._assess(app, release, acknowledgements, question.caller, verification)
        return status, verification.requested_at

    async def _assess(
        self,
        app: App,
        release: Release,
        acknowledgements: tuple[RouterAcknowledgement, ...],
        caller: Caller | None,
        verification: Verification,
    ) -> AssessedRelease:
        """The verdict by what the task hub shows from now on. Call this after the app and the acknowledgements were
        read. Without a `caller`, the open deployment of any run blocks."""
        now = self._clock.now()
        quiet_since = find_quiet_since(release, acknowledgements)
        if verification.mode is not VerificationMode.NONE and quiet_since is not None and quiet_since <= now:
            # A probe that began before `quiet_since` may have missed work that a router sent afterwards.
            verification = replace(verification, must_begin_after=quiet_since)
        task_hub_verdict = await self._readiness.assess_task_hub(
            app, release.task_hub, verification, had_traffic=release.had_traffic
        )
        missing_at = None
        if verification.mode is not VerificationMode.NONE and needs_missing_backend(release, task_hub_verdict):
            missing_at = await self._ownership.find_missing_backend(app, release.task_hub, verification.deadline)
        run_id = None if caller is None else caller.run_id(release.task_hub)
        deployment = find_blocking_release_deployment(app, release, run_id, now)
        use = ReleaseUse(acknowledgements, deployment, now, missing_at)
        verdict = assess_release(app, release, use, task_hub_verdict)
        state = find_assessed_state(app, release, verdict)
        window = find_rollback_window(app, release, now)
        return AssessedRelease(app, release, state, window, verdict, find_blocked_until(app, release, use))
