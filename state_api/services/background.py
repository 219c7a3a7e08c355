"""In the background: task hubs that are draining are probed before somebody asks, so that a pipeline's question is
usually answered from a fresh result."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator

from state_api.domain.errors import Unavailable
from state_api.domain.instants import seconds
from state_api.domain.names import PRODUCTION
from state_api.domain.readiness.plan import VerificationMode
from state_api.domain.releases.apps import App
from state_api.services.ports import Apps, Clock, Probes
from state_api.services.readiness import Readiness
from state_api.services.verification import PROBE_TIMEOUT_SECONDS

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 30
"""How often hubs are looked at; the timer trigger's schedule says the same."""

_ROUND_TIMEOUT_SECONDS = 200.0
"""How long one round may take: well inside the five minutes that host.json gives a function."""
_CONCURRENCY = 4
_REST_FACTOR = 10
"""A hub is left alone for this many times as long as the last scan took, so that scans stay a small part of its
storage's work."""
_APPS_PAGE = 100


class BackgroundProber:
    def __init__(self, apps: Apps, probes: Probes, readiness: Readiness, clock: Clock) -> None:
        self._apps = apps
        self._probes = probes
        self._readiness = readiness
        self._clock = clock

    async def probe_due_hubs(self) -> int:
        """Probe every hub that is draining and whose result is getting old; how many were. One hub's trouble does not
        stop the others, and those that a round has no time for are the next one's."""
        at_once = asyncio.Semaphore(_CONCURRENCY)
        deadline = asyncio.get_running_loop().time() + _ROUND_TIMEOUT_SECONDS

        async def probe(app: App, task_hub: str) -> bool:
            async with at_once:
                left = deadline - asyncio.get_running_loop().time()
                try:
                    if app.slot_holding(task_hub) == PRODUCTION:
                        await self._readiness.confirm_backend(app, task_hub)
                        return False
                    verify = await self._choose_verification(app, task_hub) if left > 0 else VerificationMode.NONE
                    if verify is VerificationMode.NONE:
                        return False
                    # Never longer than a question may: nobody else reads the hub for as long, should this worker die.
                    how = await self._readiness.start_verification(verify, min(left, PROBE_TIMEOUT_SECONDS))
                    await self._readiness.assess_task_hub(app, task_hub, how)
                except Unavailable as error:
                    log.warning("task hub %s could not be probed: %s", task_hub, error.message)
                except Exception:  # the next round tries again
                    log.exception("task hub %s could not be probed", task_hub)
                    return False
                return True

        hubs = [hub async for hub in self._iterate_hubs()]
        # In another order each time, so that slow ones do not always come first.
        random.shuffle(hubs)
        return sum(await asyncio.gather(*(probe(app, hub) for app, hub in hubs)))

    async def run_until_stopped(self, stopping: asyncio.Event) -> None:
        """The same again and again until `stopping` is set, for a server outside Azure Functions."""
        while not stopping.is_set():
            try:
                await self.probe_due_hubs()
            except Unavailable as error:
                log.warning("the background probe could not look for work: %s", error.message)
            except Exception:  # the next round tries again
                log.exception("the background probe failed")
            try:
                await asyncio.wait_for(stopping.wait(), INTERVAL_SECONDS)
            except TimeoutError:
                continue

    async def _iterate_hubs(self) -> AsyncIterator[tuple[App, str]]:
        """The hubs in slots, those that may be beneath them, and retired ones whose scan waits to be carried on."""
        token: str | None = None
        while True:
            page = await self._apps.list_page(_APPS_PAGE, token)
            for app in page.items:
                if app.provider_config is None:
                    continue
                for held in app.slots.values():
                    if held is not None:
                        yield app, held.task_hub
                for retired in app.retired:
                    if (
                        app.find_possible_slot(retired.task_hub)
                        or (await self._probes.get(retired.task_hub)).scan is not None
                    ):
                        yield app, retired.task_hub
            token = page.continuation_token
            if token is None:
                return

    async def _choose_verification(self, app: App, task_hub: str) -> VerificationMode:
        """How to verify a hub now; `none` while it rests from the last scan."""
        kept = await self._probes.get(task_hub)
        if kept.result is None or kept.scan is not None:
            return VerificationMode.CACHED
        now = self._clock.now()
        began_at, ended_at = kept.result.began_at, kept.result.ended_at or kept.result.began_at
        if now - ended_at < _REST_FACTOR * seconds(kept.result.read_seconds):
            return VerificationMode.NONE
        return (
            VerificationMode.FRESH
            if now - began_at >= seconds(app.policy.freshness_seconds) // 2
            else VerificationMode.CACHED
        )
