"""Background probes: task hubs that are draining are read before a pipeline asks, so that a recent result usually
answers its request."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator

from state_api.domain.errors import Unavailable
from state_api.domain.instants import seconds
from state_api.domain.names import PRODUCTION, same_hub
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.releases.apps import App
from state_api.services.ports import Apps, Clock, Probes
from state_api.services.readiness import Readiness
from state_api.services.rounds import repeat_until_stopped
from state_api.services.verification import PROBE_TIMEOUT_SECONDS

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 30
"""Time between two rounds. The schedule of the timer trigger has the same value."""

_ROUND_TIMEOUT_SECONDS = 200.0
"""How long one round may take. It is well below the five minutes that host.json allows a function."""
_CONCURRENCY = 4
_REST_FACTOR = 10
"""After a scan, the task hub is not scanned for this many times the duration of that scan. Scans then stay a small part
of the work of its storage."""

_APPS_PAGE_SIZE = 100


class BackgroundProber:
    """Probes the task hubs of all apps, round after round."""

    def __init__(self, apps: Apps, probes: Probes, readiness: Readiness, clock: Clock) -> None:
        self._apps = apps
        self._probes = probes
        self._readiness = readiness
        self._clock = clock

    async def probe_due_hubs(self) -> int:
        """Probe every draining task hub whose last result is old. Returns how many were probed.

        A failure of one task hub does not stop the others. Task hubs for which this round has no time are probed in the
        next one.
        """
        capacity = asyncio.Semaphore(_CONCURRENCY)
        deadline = asyncio.get_running_loop().time() + _ROUND_TIMEOUT_SECONDS

        async def probe(app: App, task_hub: str) -> bool:
            """Probe a task hub that needs it. Returns whether that was tried."""
            async with capacity:
                remaining = deadline - asyncio.get_running_loop().time()
                try:
                    if _is_serving(app, task_hub):
                        await self._readiness.confirm_backend(app, task_hub)
                        return False
                    mode = await self._choose_mode(app, task_hub) if remaining > 0 else VerificationMode.NONE
                    if mode is VerificationMode.NONE:
                        return False
                    # Read at most as long as a request may: other workers cannot read the task hub in this time.
                    timeout_seconds = min(remaining, PROBE_TIMEOUT_SECONDS)
                    verification = self._readiness.start_verification(mode, timeout_seconds)
                    await self._readiness.assess_task_hub(app, task_hub, verification)
                except Unavailable as error:
                    log.warning("task hub %s could not be probed: %s", task_hub, error.message)
                except Exception:  # the next round tries again
                    log.exception("task hub %s could not be probed", task_hub)
                    return False
                return True

        hubs = [hub async for hub in self._iterate_hubs()]
        # Change the order each time, so that slow task hubs do not always come first.
        random.shuffle(hubs)
        return sum(await asyncio.gather(*(probe(app, hub) for app, hub in hubs)))

    async def run_until_stopped(self, stopping: asyncio.Event) -> None:
        """Probe round after round until `stopping` is set. Azure Functions has a timer trigger instead."""
        await repeat_until_stopped(
            self.probe_due_hubs, stopping, interval_seconds=INTERVAL_SECONDS, name="the background probe"
        )

    async def _iterate_hubs(self) -> AsyncIterator[tuple[App, str]]:
        """The task hubs in slots, those of releases, prior task hubs that slots may still carry, and retired ones whose
        scan waits to be resumed."""
        token: str | None = None
        while True:
            page = await self._apps.list_page(_APPS_PAGE_SIZE, token)
            for app in page.items:
                if app.provider_config is None:
                    continue
                for slot in app.slots.values():
                    if slot is not None:
                        yield app, slot.task_hub
                for release in app.releases.values():
                    yield app, release.task_hub
                for retired in app.retired:
                    if (
                        app.find_possible_slot(retired.task_hub)
                        or (await self._probes.get(retired.task_hub)).scan is not None
                    ):
                        yield app, retired.task_hub
            token = page.continuation_token
            if token is None:
                return

    async def _choose_mode(self, app: App, task_hub: str) -> VerificationMode:
        """How to verify the task hub now; `none` if it was scanned a short time ago."""
        stored = await self._probes.get(task_hub)
        if stored.result is None or stored.scan is not None:
            return VerificationMode.CACHED
        now = self._clock.now()
        began_at, ended_at = stored.result.began_at, stored.result.ended_at or stored.result.began_at
        if now - ended_at < _REST_FACTOR * seconds(stored.result.read_seconds):
            return VerificationMode.NONE
        return (
            VerificationMode.FRESH
            if now - began_at >= seconds(app.policy.freshness_seconds) // 2
            else VerificationMode.CACHED
        )


def _is_serving(app: App, task_hub: str) -> bool:
    """Whether customers start work in this task hub: so it is not drained."""
    rollout = app.rollout
    if rollout is not None and rollout.is_live and same_hub(rollout.candidate_hub, task_hub):
        return True
    release = app.release_holding(task_hub)
    if release is not None:
        return app.routing.share_of(release.version) > 0
    return app.slot_holding(task_hub) == PRODUCTION
