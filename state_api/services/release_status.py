"""GetReleaseStatus and ListReleases: may a release be removed, and what state is each one in?"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from state_api.domain.names import AppKey, app_key
from state_api.domain.readiness.plan import VerificationMode
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Caller
from state_api.domain.releases.side_by_side import refusals
from state_api.domain.releases.side_by_side.releases import (
    Model,
    Release,
    ReleaseState,
    RouterAcknowledgement,
)
from state_api.domain.releases.side_by_side.verdicts import (
    ReleaseUse,
    assess_release,
    find_assessed_state,
    find_blocking_release_deployment,
    find_closing_change,
    find_quiet_since,
)
from state_api.domain.releases.transition_checks import check_model
from state_api.services.change_signals import ChangeSignals
from state_api.services.ports import Clock, Routers
from state_api.services.readiness import Readiness
from state_api.services.releases import Releases
from state_api.services.shared_reads import SharedReads

_ASK_INTERVAL_SECONDS = 5.0
"""How often waiting requests ask again. A change of the app in this process wakes them sooner."""
_CONNECTION_CHECK_SECONDS = 1.0

_Question = tuple[AppKey, str, Caller, VerificationMode]


@dataclass(frozen=True, slots=True)
class ReleaseStatus:
    """A release with its state, and the verdict on its removal; None if it was not assessed."""

    app: App
    release: Release
    state: ReleaseState
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class AssessedRelease(ReleaseStatus):
    """A release that was assessed."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class ReleaseList:
    """All releases of an app with their states, and what its routers have acknowledged."""

    app: App
    releases: tuple[ReleaseStatus, ...]
    acknowledgements: tuple[RouterAcknowledgement, ...]


class ReleaseStatuses:
    """Assesses releases. `stopping` ends waits early when the server shuts down."""

    def __init__(
        self,
        *,
        releases: Releases,
        routers: Routers,
        readiness: Readiness,
        signals: ChangeSignals,
        clock: Clock,
        stopping: asyncio.Event,
    ) -> None:
        self._releases = releases
        self._routers = routers
        self._readiness = readiness
        self._signals = signals
        self._clock = clock
        self._stopping = stopping
        self._answers = SharedReads[_Question, AssessedRelease]()

    async def list_releases(self, name: str) -> ReleaseList:
        """The releases of an app, by what the server knows: no task hub is read. Raises AppNotFound, WrongModel."""
        app = await self._get_app(name)
        acknowledgements = await self._routers.list_acknowledgements(app.name)

        async def get_status(release: Release) -> ReleaseStatus:
            state = find_assessed_state(app, release, None)
            if state is not ReleaseState.DRAINING:
                return ReleaseStatus(app, release, state, None)
            return await self._assess(app, release, acknowledgements, None, VerificationMode.NONE)

        statuses = await asyncio.gather(*map(get_status, app.releases.values()))
        return ReleaseList(app, tuple(statuses), acknowledgements)

    async def wait_for_status(
        self,
        name: str,
        version: str,
        caller: Caller,
        *,
        wait_seconds: float,
        mode: VerificationMode,
        is_disconnected: Callable[[], Awaitable[bool]],
    ) -> AssessedRelease:
        """The status of a release. While it is NotReady, waits for up to `wait_seconds` until it turns Ready.

        Raises AppNotFound, WrongModel, ReleaseNotFound.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        question = (app_key(name), version, caller, mode)
        changed = asyncio.Event()
        with self._signals.listen_to_app(name, lambda app: changed.set()):
            while True:
                changed.clear()
                # Requests that ask the same at once share the answer, which is read after all of them have asked.
                status = await self._answers.read(question, lambda: self._get_status(name, version, caller, mode))
                if status.verdict.ready or loop.time() >= deadline:
                    return status
                # At multiples of the interval, so that all requests that wait in this process share the answer.
                next_time = (loop.time() // _ASK_INTERVAL_SECONDS + 1) * _ASK_INTERVAL_SECONDS
                if not await self._wait(changed, min(deadline, next_time), is_disconnected):
                    return status

    async def _wait(self, changed: asyncio.Event, until: float, is_disconnected: Callable[[], Awaitable[bool]]) -> bool:
        """Wait for a change of the app. False if the request is to end."""
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set() and not await is_disconnected():
            remaining = until - loop.time()
            if changed.is_set() or remaining <= 0:
                return True
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(remaining, _CONNECTION_CHECK_SECONDS))
        return False

    async def _get_status(self, name: str, version: str, caller: Caller, mode: VerificationMode) -> AssessedRelease:
        app = await self._get_app(name)
        release = app.releases.get(version)
        if release is None:
            raise refusals.release_not_found(app, version).to_error()
        acknowledgements: tuple[RouterAcknowledgement, ...] = ()
        if find_closing_change(release) is not None:
            acknowledgements = await self._routers.list_acknowledgements(app.name)
        return await self._assess(app, release, acknowledgements, caller, mode)

    async def _assess(
        self,
        app: App,
        release: Release,
        acknowledgements: tuple[RouterAcknowledgement, ...],
        caller: Caller | None,
        mode: VerificationMode,
    ) -> AssessedRelease:
        """The verdict by what the task hub shows from now on. Call this after the app and the acknowledgements were
        read. Without a `caller`, the open deployment of any run blocks."""
        now = self._clock.now()
        verification = self._readiness.start_verification(mode)
        quiet_since = find_quiet_since(release, acknowledgements)
        if mode is VerificationMode.CACHED and quiet_since is not None and quiet_since <= now:
            # A probe from before then may have missed what a router sent afterwards.
            verification = replace(verification, mode=VerificationMode.FRESH, requested_at=quiet_since)
        task_hub_verdict = await self._readiness.assess_task_hub(
            app, release.task_hub, verification, promoted=release.had_traffic
        )
        run_id = None if caller is None else caller.run_id(release.task_hub)
        deployment = find_blocking_release_deployment(app, release, run_id, now)
        verdict = assess_release(app, release, ReleaseUse(acknowledgements, deployment, now), task_hub_verdict)
        return AssessedRelease(app, release, find_assessed_state(app, release, verdict), verdict)

    async def _get_app(self, name: str) -> App:
        """Raises AppNotFound, WrongModel."""
        app = await self._releases.get(name)
        if refusal := check_model(app, Model.SIDE_BY_SIDE):
            raise refusal.to_error()
        return app
