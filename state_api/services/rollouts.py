"""PutRollout, GetRollout and PostRollout: rollouts are begun and changed, and go on by the health of their candidate.

Like the other operations on an app, each gathers evidence, lets the domain decide, and writes conditionally. Nothing is
remembered between two evaluations, so any server can make the next one, also while others make it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from state_api.domain.errors import NotFound, Refused, Unavailable
from state_api.domain.instants import Instant
from state_api.domain.names import AppKey
from state_api.domain.releases.apps import App, Caller, Transition
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.side_by_side.routing import RoutingEvidence
from state_api.domain.rollouts import transitions
from state_api.domain.rollouts.commands import ChangeRolloutCommand, ConfirmWeightCommand, StartRolloutCommand
from state_api.domain.rollouts.comparison import compare_rollout, needs_health
from state_api.domain.rollouts.health import Health, HealthStatus
from state_api.domain.rollouts.refusals import rollout_not_found
from state_api.domain.rollouts.rollouts import Rollout
from state_api.domain.rollouts.starts import find_unproven_candidates, start_rollout
from state_api.services.ownership import Ownership
from state_api.services.ports import Apps, Clock
from state_api.services.releases import Precondition, Releases
from state_api.services.rollout_health import HealthReport, RolloutHealth
from state_api.services.rounds import repeat_until_stopped
from state_api.services.verification import PROBE_TIMEOUT_SECONDS

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 30
"""Time between two evaluations of a rollout. The schedule of the timer trigger has the same value."""

_CONCURRENCY = 16
"""Rollouts that are evaluated at a time."""
_APPS_PAGE_SIZE = 100

_TIMER = Caller("state server")
"""The caller in the audit log of a rollout that the timer advances."""


class Rollouts:
    """Every operation on a rollout. Besides what the transition refuses, each raises AppNotFound, PreconditionFailed,
    Conflict and StorageUnavailable."""

    def __init__(
        self, *, releases: Releases, apps: Apps, health: RolloutHealth, ownership: Ownership, clock: Clock
    ) -> None:
        self._releases = releases
        self._apps = apps
        self._health = health
        self._ownership = ownership
        self._clock = clock

    async def get(self, name: str) -> App:
        """The app with its last rollout. Raises RolloutNotFound."""
        app = await self._releases.get(name)
        if app.rollout is None:
            raise rollout_not_found(app).to_error()
        return app

    async def start(self, name: str, command: StartRolloutCommand, precondition: Precondition) -> App:
        """Begin a rollout. A candidate that is a release side by side gets its first share of the requests in the same
        write."""

        async def decide(app: App, now: Instant) -> Transition | Refusal:
            deadline = asyncio.get_running_loop().time() + PROBE_TIMEOUT_SECONDS
            started = {
                release.version: await self._ownership.has_started(app, release.task_hub, deadline)
                for release in find_unproven_candidates(app, command)
            }
            # The provider may have taken long, and routers have the time of the change.
            return start_rollout(app, command, RoutingEvidence(started), self._clock.now())

        return await self._releases.update_app(name, command, precondition, decide)

    async def pause(self, name: str, command: ChangeRolloutCommand, precondition: Precondition) -> App:
        """Let the candidate keep its share."""
        return await self._change(name, command, precondition, transitions.pause_rollout)

    async def resume(self, name: str, command: ChangeRolloutCommand, precondition: Precondition) -> App:
        """Let a paused rollout go on."""
        return await self._change(name, command, precondition, transitions.resume_rollout)

    async def abort(self, name: str, command: ChangeRolloutCommand, precondition: Precondition) -> App:
        """Give all requests back to the baseline."""
        return await self._change(name, command, precondition, transitions.abort_rollout)

    async def finish(self, name: str, command: ChangeRolloutCommand, precondition: Precondition) -> App:
        """Give all requests to the candidate, also if it is unhealthy."""
        return await self._change(name, command, precondition, transitions.finish_rollout)

    async def _change(
        self,
        name: str,
        command: ChangeRolloutCommand,
        precondition: Precondition,
        transition: Callable[[App, ChangeRolloutCommand, Instant], Transition | Refusal],
    ) -> App:
        """Update a rollout by a transition that needs no evidence."""

        async def decide(app: App, now: Instant) -> Transition | Refusal:
            return transition(app, command, now)

        return await self._releases.update_app(name, command, precondition, decide)

    async def confirm_weight(self, name: str, command: ConfirmWeightCommand, precondition: Precondition) -> App:
        """Record that Azure has the share which the rollout of a slot needs."""

        async def decide(app: App, now: Instant) -> Transition | Refusal:
            return transitions.confirm_weight(app, command, now)

        return await self._releases.update_app(name, command, precondition, decide)

    # Evaluation

    async def advance(self, name: str, command: ChangeRolloutCommand, precondition: Precondition) -> App:
        """Evaluate the rollout now, and take at most one step.

        If another server changes the rollout at the same time, the rollout is evaluated again as that server has left
        it, which then usually changes nothing."""
        assessed: tuple[Rollout, Health | None] | None = None

        async def decide(app: App, now: Instant) -> Transition | Refusal:
            nonlocal assessed
            rollout = app.rollout
            if rollout is None:
                return rollout_not_found(app)
            if not needs_health(rollout):
                return transitions.advance_rollout(app, None, now)
            if assessed is None or assessed[0] != rollout:
                assessed = (rollout, await self._read_health(app, rollout, now))
            # The comparison may have taken long, and the time of a change must not be before the change.
            return transitions.advance_rollout(app, assessed[1], self._clock.now())

        return await self._releases.update_app(name, command, precondition, decide)

    async def _read_health(self, app: App, rollout: Rollout, now: Instant) -> Health | None:
        """The health that the rollout may act on. None if it could not be read, also from the state storage."""
        try:
            return _known_health(app, await self._health.compare(app, compare_rollout(rollout, now)))
        except Unavailable as error:
            _log_unknown_health(app, error.message)
            return None

    async def advance_all(self) -> None:
        """Evaluate the rollouts of all apps, for the timer. A failure of one app does not stop the others."""
        capacity = asyncio.Semaphore(_CONCURRENCY)

        async def advance(key: AppKey) -> None:
            """Evaluate the rollout of one app, if it has one that its health can change."""
            async with capacity:
                try:
                    app = await self._apps.get(key)
                    if app is not None and app.rollout is not None and needs_health(app.rollout):
                        await self.advance(app.name, ChangeRolloutCommand(caller=_TIMER), lambda app: None)
                except (Refused, NotFound) as error:
                    log.info("the rollout of app %s was not advanced: %s", key, error.message)
                except Unavailable as error:
                    log.warning("the rollout of app %s could not be evaluated: %s", key, error.message)
                except Exception:  # the next round tries again
                    log.exception("the rollout of app %s could not be evaluated", key)

        await asyncio.gather(*[advance(key) async for key in self._iterate_keys()])

    async def run_until_stopped(self, stopping: asyncio.Event) -> None:
        """Evaluate round after round until `stopping` is set. Azure Functions has a timer trigger instead."""
        await repeat_until_stopped(
            self.advance_all, stopping, interval_seconds=INTERVAL_SECONDS, name="the evaluation of rollouts"
        )

    async def _iterate_keys(self) -> AsyncIterator[AppKey]:
        """The keys of all apps, page by page."""
        token: str | None = None
        while True:
            page = await self._apps.list_keys_page(_APPS_PAGE_SIZE, token)
            for key in page.items:
                yield key
            token = page.continuation_token
            if token is None:
                return


def _known_health(app: App, report: HealthReport) -> Health | None:
    """The health that a rollout may act on. None if a task hub could not be read at its provider, because ends may be
    missing then: nothing lets the candidate take the next step. An unhealthy one is unhealthy all the same."""
    if not report.read_failures or report.health.status is HealthStatus.UNHEALTHY:
        return report.health
    _log_unknown_health(app, "; ".join(report.read_failures))
    return None


def _log_unknown_health(app: App, problem: str) -> None:
    log.warning("the rollout of app %s waits, because its health is unknown: %s", app.name, problem)
