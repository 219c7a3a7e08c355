"""In the background: task hubs that are draining are probed before somebody asks, so that a pipeline's question is
usually answered from a fresh result."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator

from state_api.domain.apps import App
from state_api.domain.errors import Unavailable
from state_api.domain.instants import seconds
from state_api.domain.names import PRODUCTION
from state_api.services.ports import Apps, Clock, Probes
from state_api.services.questions import Verify
from state_api.services.readiness import Readiness
from state_api.services.verification import BUDGET_SECONDS

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 30
"""How often hubs are looked at; the timer trigger's schedule says the same."""

_BUDGET_SECONDS = 200.0
"""How long one round may take: well inside the five minutes that host.json gives a function."""
_AT_ONCE = 4
_SHARE = 10
"""A hub is left alone for this many times as long as the last scan took, so that scans stay a small part of its
storage's work."""
_APPS_PAGE = 100


class Background:
    def __init__(self, apps: Apps, probes: Probes, readiness: Readiness, clock: Clock) -> None:
        self._apps = apps
        self._probes = probes
        self._readiness = readiness
        self._clock = clock

    async def run_once(self) -> int:
        """Probe every hub that is draining and whose result is getting old; how many were. One hub's trouble does not
        stop the others, and those that a round has no time for are the next one's."""
        at_once = asyncio.Semaphore(_AT_ONCE)
        deadline = asyncio.get_running_loop().time() + _BUDGET_SECONDS

        async def probe(app: App, task_hub: str) -> bool:
            async with at_once:
                left = deadline - asyncio.get_running_loop().time()
                try:
                    if app.slot_of(task_hub) == PRODUCTION:
                        await self._readiness.acquaint(app, task_hub)
                        return False
                    verify = await self._due(app, task_hub) if left > 0 else Verify.NONE
                    if verify is Verify.NONE:
                        return False
                    # Never longer than a question may: nobody else reads the hub for as long, should this worker die.
                    how = await self._readiness.verification(verify, min(left, BUDGET_SECONDS))
                    await self._readiness.verdict_on(app, task_hub, how)
                except Unavailable as error:
                    log.warning("task hub %s could not be probed: %s", task_hub, error.message)
                except Exception:  # the next round tries again
                    log.exception("task hub %s could not be probed", task_hub)
                    return False
                return True

        hubs = [hub async for hub in self._hubs()]
        # In another order each time, so that slow ones do not always come first.
        random.shuffle(hubs)
        return sum(await asyncio.gather(*(probe(app, hub) for app, hub in hubs)))

    async def run(self, stopping: asyncio.Event) -> None:
        """The same again and again until `stopping` is set, for a server outside Azure Functions."""
        while not stopping.is_set():
            try:
                await self.run_once()
            except Unavailable as error:
                log.warning("the background probe could not look for work: %s", error.message)
            except Exception:  # the next round tries again
                log.exception("the background probe failed")
            try:
                await asyncio.wait_for(stopping.wait(), INTERVAL_SECONDS)
            except TimeoutError:
                continue

    async def _hubs(self) -> AsyncIterator[tuple[App, str]]:
        """The hubs in slots, those that may be beneath them, and retired ones whose scan waits to be carried on."""
        token: str | None = None
        while True:
            page = await self._apps.page(_APPS_PAGE, token)
            for app in page.items:
                if app.task_hubs is None:
                    continue
                for held in app.slots.values():
                    if held is not None:
                        yield app, held.task_hub
                for retired in app.retired:
                    if app.may_carry(retired.task_hub) or (await self._probes.get(retired.task_hub)).scan is not None:
                        yield app, retired.task_hub
            token = page.continuation_token
            if token is None:
                return

    async def _due(self, app: App, task_hub: str) -> Verify:
        """How to verify a hub now; `none` while it rests from the last scan."""
        kept = await self._probes.get(task_hub)
        if kept.result is None or kept.scan is not None:
            return Verify.CACHED
        now = self._clock.now()
        began_at, ended_at = kept.result.began_at, kept.result.ended_at or kept.result.began_at
        if now - ended_at < _SHARE * seconds(kept.result.took_seconds):
            return Verify.NONE
        return Verify.FRESH if now - began_at >= seconds(app.policy.freshness_seconds) // 2 else Verify.CACHED
