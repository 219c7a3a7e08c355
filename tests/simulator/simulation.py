"""One random history: the platform changes, events arrive or are lost, requests are checked, and finally everything
ends."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from state_api.domain.readiness.policy import Policy
from state_api.services.readiness import Readiness
from tests.conftest import new_hub_name
from tests.http.operations import get_staging, post_staging, put_app, reason_codes
from tests.simulator.activity_timeline import ActivityTimeline
from tests.simulator.event_grid import PublishedEvent, SimulatedEventGrid
from tests.simulator.events_only import EventsOnlyVerdict
from tests.simulator.parameters import SimulationParameters, seeded_random
from tests.simulator.platform import (
    AFTER_DRAIN_WEIGHTS,
    DEFAULT_WEIGHTS,
    DURING_READ_WEIGHTS,
    HAND_OVER_WEIGHTS,
    PURGING,
    REUSED_AFTER,
    PlatformContext,
    SimulatedPlatform,
)
from tests.simulator.task_hub_storage import SimulatedAccount, TaskHubStorage
from tests.simulator.verdict_checker import NeverReady, VerdictChecker, WrongVerdict

DIRECT_CONNECTION, PROXIED_CONNECTION = "STATE_TASKHUBS_DIRECT", "STATE_TASKHUBS_WATCHED"
"""The settings through which the server reads task hubs: the storage itself, and through the proxy."""

POLICY = Policy(settle_seconds=1, freshness_seconds=120)
_SETTLE_WAIT_SECONDS = POLICY.settle_seconds + 0.1
_CONFIRMED_AFTER = 2.1
"""Seconds after which a read confirms a start: one, plus one because the clock may be a second behind."""
_FINAL_WAIT_SECONDS = 4
"""Seconds that the last request may wait for Ready: the server's clock has a resolution of one second, and it checks
every second."""
_MAX_MOVES_PER_REQUEST = 12
"""Maximum number of moves during one request, because a scan never ends while changes continue."""

ReadHook = Callable[[], Awaitable[None]]


class ReadHooks(Protocol):
    """A hook that is called before the server reads a task hub."""

    def register(self, hub: str, read_hook: ReadHook) -> None: ...

    def unregister(self, hub: str) -> None: ...


@dataclass(slots=True)
class SimulationContext:
    """The context that all histories share."""

    http: httpx.AsyncClient
    readiness: Readiness
    stores: SimulatedAccount
    read_hooks: ReadHooks
    tally: Counter[str]


class SimulatedTaskHub:
    """A task hub with its platform, its events and its checker. `number` counts the task hubs of one history."""

    def __init__(
        self,
        context: SimulationContext,
        traits: SimulationParameters,
        store: TaskHubStorage,
        number: int,
        log: list[str],
    ) -> None:
        self.hub = store.hub
        self.store = store
        self.timeline = ActivityTimeline()
        self.transport = SimulatedEventGrid(seeded_random(traits.seed, f"transport {number}"), traits, context.tally)
        rng = seeded_random(traits.seed, f"platform {number}")
        self.platform = SimulatedPlatform(
            PlatformContext(self.hub, traits, rng, store, self.transport, self.timeline, context.tally, log)
        )
        self.judge = VerdictChecker(self.platform, self.timeline, traits.messages_unseen)
        self.alone = EventsOnlyVerdict(self.hub, POLICY)
        self.delivered_at = 0.0


class Simulation:
    """One random history. `log` has what happened, to find out why a response was wrong."""

    def __init__(self, context: SimulationContext, traits: SimulationParameters) -> None:
        self._context = context
        self._traits = traits
        self._tally = context.tally
        self._rng = seeded_random(traits.seed, "history")
        self._race_random = seeded_random(traits.seed, "races")
        self._move_lock = asyncio.Lock()
        self._moves_left = 0
        self._move_weights: Mapping[str, float] = DURING_READ_WEIGHTS
        self._ended = False
        self._failure: Exception | None = None
        self._task_hubs: list[SimulatedTaskHub] = []
        self.log: list[str] = [str(traits)]

    async def run(self) -> None:
        """Run the history. Raises WrongVerdict, NeverReady."""
        try:
            await self._add_task_hub(new_hub_name())
            await self._register_app()
            for number in range(self._traits.steps):
                await self._step()
                if self._traits.messages_unseen and number == self._traits.steps // 2:
                    await self._relapse()
            await self._finish()
        finally:
            for world in self._task_hubs:
                self._context.read_hooks.unregister(world.hub)
                await world.store.delete()

    @property
    def _task_hub(self) -> SimulatedTaskHub:
        return self._task_hubs[-1]

    async def _add_task_hub(self, hub: str) -> None:
        """Put a new task hub into the slot."""
        store = await self._context.stores.create_hub(hub)
        self._task_hubs.append(SimulatedTaskHub(self._context, self._traits, store, len(self._task_hubs), self.log))
        if self._traits.move_probability:
            self._context.read_hooks.register(hub, self._move_before_read)

    async def _register_app(self) -> None:
        self._app = f"app-{self._task_hub.hub}"
        response = await put_app(
            self._context.http,
            self._app,
            slots={"staging": {"taskHub": self._task_hub.hub}},
            policy={
                "settleSeconds": POLICY.settle_seconds,
                "freshnessSeconds": POLICY.freshness_seconds,
                "ignoreMessages": self._traits.messages_unseen,
            },
            taskHubs={
                "provider": "azureStorage",
                "connection": PROXIED_CONNECTION if self._traits.move_probability else DIRECT_CONNECTION,
            },
        )
        assert response.status_code == 200, response.text

    async def _step(self) -> None:
        world = self._task_hub
        world.transport.step += 1
        if self._rng.random() < 0.75:
            for _ in range(self._rng.randint(1, 4)):
                await world.platform.move(PURGING if self._traits.messages_unseen else DEFAULT_WEIGHTS)
            if self._rng.random() < 0.7:
                await self._deliver(world.transport.due())
        else:
            if self._rng.random() < 0.5:
                await self._drain_almost()
            kind = self._rng.choices(("fresh", "cached", "none", "waiting", "both", "stage"), (40, 20, 5, 5, 10, 15))[0]
            ready = await self._request_verdict(kind)
            if ready and self._rng.random() < 0.4:
                await self._start_after_drain()
                await self._request_verdict("cached")

    async def _drain_almost(self) -> None:
        """Drain the task hub almost completely: this is the hardest case."""
        self._tally["lull"] += 1
        await self._task_hub.platform.drain(remaining=self._rng.choice((0, 0, 1)))
        if self._rng.random() < 0.4:
            await self._task_hub.platform.start_instance()

    async def _relapse(self) -> None:
        """For task hubs whose messages cannot be seen: a probe shows an instance, it ends, its end is lost, and it is
        purged. Its id may be started again by a message, so that only an event reports it."""
        world = self._task_hub
        await world.platform.drain()
        world.transport.reliable = True
        instance_id = await world.platform.run_one()
        await self._deliver(world.transport.due())
        world.transport.reliable = False
        await asyncio.sleep(_CONFIRMED_AFTER)
        await self._request_verdict("fresh")
        await world.platform.drain()
        await asyncio.sleep(REUSED_AFTER)
        if not await world.platform.purge(instance_id):
            return
        if self._traits.move_probability or self._rng.random() < 0.5:
            world.transport.reliable = True
            await world.platform.start_by_message(instance_id)
            await self._deliver(world.transport.due())
            world.transport.reliable = False
            await self._wait_for_settle_window()
            await self._request_verdict("fresh")
        else:
            requested_at = world.timeline.next_moment()
            verdict = await self._get_staging()
            self._check_verdict(requested_at, verdict, fresh=True)
            if instance_id in {instance["instanceId"] for instance in verdict["active"]}:
                raise NeverReady(
                    f"{instance_id} was shown and has been purged, and it still blocks: {verdict['reasons']}"
                )
            self._tally["purged and ended"] += 1

    async def _start_after_drain(self) -> None:
        """Start an instance just after the task hub was found drained, with or without events."""
        world = self._task_hub
        self._tally["awakening"] += 1
        world.transport.step += 1
        await world.platform.start_instance()
        for _ in range(self._rng.randint(0, 3)):
            await world.platform.move(AFTER_DRAIN_WEIGHTS)
        await self._deliver(world.transport.due())

    async def _deliver(self, batches: list[list[PublishedEvent]]) -> None:
        world = self._task_hub
        for batch in batches:
            response = await self._context.http.post("/api/events", json=[event.event for event in batch])
            assert response.status_code == 200, response.text
            assert not response.json()["quarantined"], response.text
            world.delivered_at = time.monotonic()
            self._tally["deliveries"] += 1
            for event in batch:
                world.alone.record(event)
                world.judge.record_delivery(event)
                self.log.append(
                    f"      {event.instance_id[:12]}: delivered {event.status} of {event.event['eventTime'][17:]}"
                )

    async def _request_verdict(self, kind: str) -> bool:
        """Send a request and check the response. Returns whether it was Ready."""
        world = self._task_hub
        if self._rng.random() < 0.8:
            await self._wait_for_settle_window()
        self._tally[f"question {kind}"] += 1
        if world.alone.ready and world.timeline.active:
            self._tally["wrong by events alone"] += 1
        await self._check_records()
        requested_at = world.timeline.next_moment()
        self.log.append(f"{world.transport.step:3} {kind}? active: {sorted(world.timeline.active)}")
        self._moves_left = _MAX_MOVES_PER_REQUEST if self._traits.move_probability else 0
        self._move_weights = self._rng.choice((DURING_READ_WEIGHTS, HAND_OVER_WEIGHTS))
        try:
            if kind == "stage":
                ready = await self._post_staging(requested_at)
            elif kind == "both":
                by_fresh, by_cached = await asyncio.gather(self._get_staging(), self._get_staging("cached"))
                self._check_verdict(requested_at, by_fresh, fresh=True)
                self._check_verdict(requested_at, by_cached, fresh=False)
                ready = by_fresh["ready"]
            else:
                verify = kind if kind in ("cached", "none") else "fresh"
                verdict = await self._get_staging(verify, 2 if kind == "waiting" else 0)
                began = self._check_verdict(requested_at, verdict, fresh=verify == "fresh")
                if not self._traits.move_probability and began == requested_at:
                    await self._check_reconciliation(verdict)
                ready = verdict["ready"]
        finally:
            self._moves_left = 0
            # A read of a page that no request awaits any more may still be about to make a move.
            async with self._move_lock:
                pass
        if self._failure is not None:
            raise self._failure
        if self._traits.move_probability:
            await self._check_records()
        return bool(ready)

    async def _get_staging(self, verify: str = "fresh", wait: int = 0) -> Any:
        return await get_staging(self._context.http, self._app, verify=verify, wait=wait)

    def _check_verdict(self, requested_at: int, verdict: Any, *, fresh: bool) -> int | None:
        probe = verdict["evidence"]["probe"]
        self.log.append(f"    → ready={verdict['ready']} {reason_codes(verdict)} probe={probe}")
        began = self._task_hub.judge.check_verdict(requested_at, verdict, fresh=fresh)
        if verdict["ready"]:
            self._count_ready()
            self._tally["Ready by an earlier probe"] += began != requested_at
        return began

    def _count_ready(self) -> None:
        """Count a verdict that is rightly Ready."""
        world = self._task_hub
        self._tally["Ready"] += 1
        self._tally["Ready before the end"] += not self._ended
        self._tally["Ready, started since the probe"] += bool(world.timeline.active)

    async def _post_staging(self, requested_at: int) -> bool:
        """Stage the next task hub. If that succeeds, the history continues there."""
        hub = new_hub_name()
        response = await post_staging(self._context.http, self._app, hub)
        self.log.append(f"    → {response.status_code} {response.text[:300]}")
        if response.status_code == 200:
            self._tally["staged"] += 1
            self._task_hub.judge.check_staging(requested_at)
            self._count_ready()
            await self._add_task_hub(hub)
            return True
        assert (response.status_code, response.json()["code"]) == (409, "StagingNotReady"), response.text
        # The answer does not show the probe that it rests on, and a later one may.
        self._check_verdict(requested_at, await self._get_staging("none"), fresh=False)
        return False

    async def _finish(self) -> None:
        """All orchestrations end, and their remaining events arrive or are lost. Then the task hub is drained."""
        world = self._task_hub
        await world.platform.drain()
        assert not world.timeline.active, f"still active: {world.timeline.active}"
        await self._deliver(world.transport.take_remaining())
        await self._wait_for_settle_window()
        self._ended = True
        self._tally["drained"] += 1
        self._tally["question at the end"] += 1
        self._tally["stuck by events alone"] += not world.alone.ready
        requested_at = world.timeline.next_moment()
        self.log.append("end: drained and settled")
        verdict = await self._get_staging(wait=_FINAL_WAIT_SECONDS)
        self._check_verdict(requested_at, verdict, fresh=True)
        if self._traits.messages_unseen:
            self._tally["drained, messages unseen"] += 1
            if reason_codes(verdict) == ["InstancesActive"]:
                # Starts that no probe has shown. They may be messages, for all that the server knows.
                self._tally["blocked, messages unseen"] += 1
                return
        if not verdict["ready"]:
            raise NeverReady(f"NotReady after the end: {verdict['reasons']}")
        if self._rng.random() < 0.2:
            self._tally["question at the end"] += 1
            response = await post_staging(self._context.http, self._app, new_hub_name())
            if response.status_code != 200:
                raise NeverReady(f"PostStaging is refused after the end: {response.text}")

    async def _wait_for_settle_window(self) -> None:
        await asyncio.sleep(max(0.0, self._task_hub.delivered_at + _SETTLE_WAIT_SECONDS - time.monotonic()))

    async def _move_before_read(self) -> None:
        """Called before the server reads the task hub. The platform may change first."""
        async with self._move_lock:
            if not self._moves_left or self._race_random.random() >= self._traits.move_probability or self._failure:
                return
            self._moves_left -= 1
            world = self._task_hub
            self._tally["moves during a read"] += 1
            try:
                if self._race_random.random() < 0.85:
                    await world.platform.move(
                        self._move_weights, without_faults=self._move_weights is HAND_OVER_WEIGHTS
                    )
                else:
                    world.transport.step += 1
                    await self._deliver(world.transport.due())
            except Exception as error:  # noqa: BLE001 - the proxy would make an answer of it
                self._failure = error

    async def _check_records(self) -> None:
        """Check that the records show what events have reported, regardless of corrections."""
        expected = self._task_hub.judge.expected_active()
        if expected and not expected <= (recorded := await self._recorded_active()):
            raise WrongVerdict(f"{expected - recorded} are active, their last event said so, and the records deny it")

    async def _check_reconciliation(self, verdict: Any) -> None:
        """Check that the records show what a probe has found active."""
        active_ids = {instance["instanceId"] for instance in verdict["active"]}
        if active_ids and not active_ids <= (recorded := await self._recorded_active()):
            raise WrongVerdict(f"{active_ids - recorded} were found active, and the records deny it")

    async def _recorded_active(self) -> set[str]:
        activity = await self._context.readiness.read_activity(self._task_hub.hub, POLICY)
        return {instance.instance_id for instance in activity.active}
