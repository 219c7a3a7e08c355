"""Operations that change the releases and the routing of an app. Like the other operations on an app, each gathers
evidence, lets the domain decide, and writes conditionally."""

import asyncio
from dataclasses import replace

from state_api.backends.protocols import BackendRegistry
from state_api.domain.instants import Instant
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.releases.apps import App, Transition
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.side_by_side.commands import (
    ForgetRouterCommand,
    RegisterReleaseCommand,
    RemoveReleaseCommand,
    RouteCommand,
)
from state_api.domain.releases.side_by_side.registration import (
    RegisterReleaseEvidence,
    find_staged_release,
    register_release,
)
from state_api.domain.releases.side_by_side.releases import Model
from state_api.domain.releases.side_by_side.removal import RemovalEvidence, needs_removal_verdict, remove_release
from state_api.domain.releases.side_by_side.routing import (
    RoutingEvidence,
    change_routing,
    find_unproven_releases,
    forget_router,
)
from state_api.domain.releases.side_by_side.verdicts import find_quiet_since, needs_missing_backend
from state_api.domain.releases.transition_checks import check_model
from state_api.services.ownership import Ownership
from state_api.services.ports import Apps, Clock, Routers, TaskHubs
from state_api.services.readiness import Readiness
from state_api.services.release_tokens import new_release_tokens
from state_api.services.releases import Precondition, Releases
from state_api.services.verification import PROBE_TIMEOUT_SECONDS


class SideBySideReleases:
    """Every operation on releases side by side. Besides what the transition refuses, each raises AppNotFound,
    PreconditionFailed, Conflict and StorageUnavailable."""

    def __init__(
        self,
        *,
        releases: Releases,
        apps: Apps,
        routers: Routers,
        task_hubs: TaskHubs,
        readiness: Readiness,
        backends: BackendRegistry,
        clock: Clock,
    ) -> None:
        self._releases = releases
        self._apps = apps
        self._routers = routers
        self._readiness = readiness
        self._ownership = Ownership(task_hubs, backends)
        self._clock = clock

    async def register_release(self, name: str, command: RegisterReleaseCommand, precondition: Precondition) -> App:
        """Register a release, for PostRelease: claim its task hub, which must be new, and open the deployment of the
        run."""

        async def decide(app: App, now: Instant) -> Transition | Refusal:
            if refusal := check_model(app, Model.SIDE_BY_SIDE):
                return refusal
            return register_release(app, command, await self._gather_release_evidence(app, command), now)

        return await self._releases.update_app(name, command, precondition, decide)

    async def remove_release(self, name: str, command: RemoveReleaseCommand, precondition: Precondition) -> App:
        """Remove a release, or begin to, as far as it has drained. Returns the app afterwards."""

        async def decide(app: App, now: Instant) -> Transition | Refusal:
            evidence = RemovalEvidence()
            if needs_removal_verdict(app, command, now):
                evidence = await self._gather_removal_evidence(app, command)
            return remove_release(app, command, evidence, now)

        return await self._releases.update_app(name, command, precondition, decide)

    async def change_routing(self, name: str, command: RouteCommand, precondition: Precondition) -> App:
        """Divide an app's requests among its releases anew. Returns the app afterwards."""

        async def decide(app: App, now: Instant) -> Transition | Refusal:
            deadline = _deadline()
            started = {
                release.version: await self._ownership.has_started(app, release.task_hub, deadline)
                for release in find_unproven_releases(app, command)
            }
            # The provider may have taken long. Routers have a time from the change on, which must not begin before it.
            return change_routing(app, command, RoutingEvidence(started), self._clock.now())

        return await self._releases.update_app(name, command, precondition, decide)

    async def forget_router(self, name: str, command: ForgetRouterCommand, precondition: Precondition) -> App:
        """Forget a router that is gone, so that nothing waits for its acknowledgement."""

        async def decide(app: App, now: Instant) -> Transition | Refusal:
            acknowledgements = await self._routers.list_acknowledgements(app.name)
            # The router may have sent requests while its acknowledgement was read.
            return forget_router(app, command, acknowledgements, self._clock.now())

        return await self._releases.update_app(name, command, precondition, decide)

    async def _gather_release_evidence(self, app: App, command: RegisterReleaseCommand) -> RegisterReleaseEvidence:
        """What a registration depends on. A staged release has claimed its names already. Raises TaskHubInUse and
        TaskHubAlreadyUsed for a task hub of another app."""
        tokens = new_release_tokens()
        if find_staged_release(app, command) is not None:
            return RegisterReleaseEvidence(tokens)
        return RegisterReleaseEvidence(
            tokens,
            await self._apps.find_task_hub_of_version(app.name, command.version),
            await self._releases.was_used_before(app, command.task_hub),
            await self._ownership.find_existing(app, command.task_hub, _deadline()),
        )

    async def _gather_removal_evidence(self, app: App, command: RemoveReleaseCommand) -> RemovalEvidence:
        """What a removal depends on. The task hub is read after the acknowledgements, so that it contains what routers
        had sent."""
        release = app.releases[command.version]
        backend_id = self._ownership.backend_id(app)
        acknowledgements = await self._routers.list_acknowledgements(app.name)
        verification = self._readiness.start_verification(VerificationMode.FRESH)
        quiet_since = find_quiet_since(release, acknowledgements)
        if quiet_since is not None and quiet_since <= verification.requested_at:
            verification = replace(verification, must_begin_after=quiet_since)
        verdict = await self._readiness.assess_task_hub(
            app, release.task_hub, verification, had_traffic=release.had_traffic
        )
        missing_at = None
        if needs_missing_backend(release, verdict):
            missing_at = await self._ownership.find_missing_backend(app, release.task_hub, verification.deadline)
        return RemovalEvidence(verdict, acknowledgements, backend_id, missing_at)


def _deadline() -> float:
    """When the reads of a provider for one request end, by the clock of the event loop."""
    return asyncio.get_running_loop().time() + PROBE_TIMEOUT_SECONDS
