"""GetStagingStatus: gather the evidence, let the domain judge, wait if asked to."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from state_api.domain.errors import AppNotFound
from state_api.domain.readiness import Activity, Evidence, OpenDeployment, Policy, Verdict, assess
from state_api.domain.releases import App, Caller, Slot, blocking_deployment
from state_api.services.ports import Apps, Clock, Instances, TaskHubs

_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A verdict, and what it is about."""

    app: App
    slot: str
    content: Slot | None
    verdict: Verdict


class Readiness:
    """`stopping` ends waits early when the server shuts down."""

    def __init__(
        self, apps: Apps, task_hubs: TaskHubs, instances: Instances, clock: Clock, stopping: asyncio.Event
    ) -> None:
        self._apps = apps
        self._task_hubs = task_hubs
        self._instances = instances
        self._clock = clock
        self._stopping = stopping

    async def status(
        self, app_name: str, slot: str, caller: Caller, wait: int, gone: Callable[[], Awaitable[bool]]
    ) -> SlotStatus:
        """The verdict on a slot; if it is NotReady, that of up to `wait` seconds later, as soon as it turns Ready.
        `gone` says that nobody waits for the answer any more.

        Raises AppNotFound, SlotNotFound.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            status = await self._status(app_name, slot, caller)
            left = deadline - loop.time()
            if status.verdict.ready or left <= 0 or self._stopping.is_set() or await gone():
                return status
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(left, _POLL_SECONDS))

    async def _status(self, app_name: str, slot: str, caller: Caller) -> SlotStatus:
        app = await self._apps.get(app_name)
        if app is None:
            raise AppNotFound(f"there is no app {app_name}; the first PostStaging or PutApp makes it", app=app_name)
        content = app.slot(slot)
        # A question names no hub: who holds a deployment is known by the run URL alone.
        run = caller.run("") if caller.run_url else None
        blocking = blocking_deployment(app, run, self._clock.now())
        verdict = await self.verdict(app, content, blocking.as_open() if blocking else None)
        return SlotStatus(app, app.slot_name(slot), content, verdict)

    async def verdict(self, app: App, content: Slot | None, deployment: OpenDeployment | None = None) -> Verdict:
        """The verdict on what a slot holds."""
        return await self.verdict_on(app, content.task_hub if content else None, app.policy, deployment)

    async def verdict_on(
        self, app: App, task_hub: str | None, policy: Policy, deployment: OpenDeployment | None = None
    ) -> Verdict:
        """The verdict on a task hub, whether a slot holds it or not."""
        evidence = Evidence(
            task_hub=task_hub,
            activity=await self.activity(task_hub, policy) if task_hub else Activity(),
            provider=app.task_hubs.provider if app.task_hubs else None,
            deployment=deployment,
        )
        return assess(evidence, policy, self._clock.now())

    async def activity(self, task_hub: str, policy: Policy) -> Activity:
        """What was recorded for a hub; nothing, if nothing ever was or it was cleaned up."""
        hub = await self._task_hubs.get(task_hub)
        if hub is None or not hub.recording or hub.closed:
            return Activity()
        return await self._instances.activity(hub, policy.ignores)
