"""One random history: the platform changes, events arrive or are lost, requests are checked, and finally everything
ends."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from tests.conftest import new_hub_name
from tests.http.operations import get_staging, post_staging, put_app, reason_codes
from tests.simulator.episodes import MIN_REUSE_DELAY_SECONDS
from tests.simulator.event_grid import PublishedEvent
from tests.simulator.parameters import SimulationParameters, seeded_random
from tests.simulator.platform import (
    AFTER_DRAIN_WEIGHTS,
    DEFAULT_WEIGHTS,
    DURING_READ_WEIGHTS,
    HAND_OVER_WEIGHTS,
    PURGE_WEIGHTS,
)
from tests.simulator.simulated_task_hub import POLICY, SimulatedTaskHub, SimulationContext
from tests.simulator.verdict_checker import NeverReady, WrongVerdict
from tests.storage.stored_timelines import check_timeline

DIRECT_CONNECTION, PROXIED_CONNECTION = "STATE_TASKHUBS_DIRECT", "STATE_TASKHUBS_WATCHED"
"""The connection settings of task hubs: one reads the storage directly, the other through the proxy."""

_SETTLE_WAIT_SECONDS = POLICY.settle_seconds + 0.1
_CONFIRMATION_SECONDS = 2.1
"""Seconds after a start from which a read confirms it.

A start must be one second old, and the clock may be another second behind."""
_FINAL_WAIT_SECONDS = 4
"""Seconds that the last request may wait for Ready: the server's clock has a resolution of one second, and it checks
every second."""
MOVES_PROBABILITY = 0.75
"""How often a step makes moves in the task hub; otherwise it requests a verdict."""
DELIVERY_PROBABILITY = 0.7
"""How often the events that are due are delivered after such moves."""
NEAR_DRAIN_PROBABILITY = 0.5
"""How often the task hub is nearly drained before a verdict is requested."""
START_AFTER_DRAIN_PROBABILITY = 0.4
"""How often an instance starts right after a verdict was Ready."""
ASK_AGAIN_PROBABILITY = 0.6
"""How often a question follows otherwise, before any event has reported what has happened since."""
REQUEST_WEIGHTS = {"fresh": 40, "cached": 20, "none": 5, "waiting": 5, "both": 10, "stage": 15}
"""How often each kind of request for a verdict is made."""

_MAX_MOVES_PER_REQUEST = 12
"""Maximum number of moves during one request, because a scan never ends while changes continue."""


class Simulation:
    """One random history. `log` lists its events in order, to find out why a response was wrong."""

    def __init__(self, context: SimulationContext, parameters: SimulationParameters) -> None:
        """Prepare one history. Its random numbers come from the seed alone, so it can be replayed."""
        self._context = context
        self._parameters = parameters
        self._tally = context.tally
        self._rng = seeded_random(parameters.seed, "history")
        self._rng_during_reads = seeded_random(parameters.seed, "races")
        self._move_lock = asyncio.Lock()
        self._moves_left = 0
        self._move_weights: Mapping[str, float] = DURING_READ_WEIGHTS
        self._has_ended = False
        self._failure: Exception | None = None
        self._task_hubs: list[SimulatedTaskHub] = []
        self.log: list[str] = [str(parameters)]

    async def run(self) -> None:
        """Run the history. Raises WrongVerdict, NeverReady."""
        try:
            await self._add_task_hub(new_hub_name())
            await self._register_app()
            for number in range(self._parameters.steps):
                await self._step()
                if self._parameters.messages_unseen and number == self._parameters.steps // 2:
                    await self._purge_and_start_again()
            await self._finish()
            for task_hub in self._task_hubs:
                await check_timeline(self._context.server, task_hub.hub)
        finally:
            for task_hub in self._task_hubs:
                self._context.read_hooks.unregister(task_hub.hub)
                await task_hub.storage.delete()

    @property
    def _task_hub(self) -> SimulatedTaskHub:
        """The newest task hub: the one in the slot."""
        return self._task_hubs[-1]

    async def _add_task_hub(self, hub: str) -> None:
        """Put a new task hub into the slot."""
        storage = await self._context.account.create_hub(hub)
        self._task_hubs.append(
            SimulatedTaskHub(self._context, self._parameters, storage, len(self._task_hubs), self.log)
        )
        if self._parameters.move_probability:
            self._context.read_hooks.register(hub, self._move_before_read)

    async def _register_app(self) -> None:
        """Register an app whose slot staging has the simulated task hub. Where the history moves during reads, the
        server reads the task hub through the proxy."""
        self._app = f"app-{self._task_hub.hub}"
        response = await put_app(
            self._context.http,
            self._app,
            slots={"staging": {"taskHub": self._task_hub.hub}},
            policy={
                "settleSeconds": POLICY.settle_seconds,
                "freshnessSeconds": POLICY.freshness_seconds,
                "ignoreMessages": self._parameters.messages_unseen,
            },
            taskHubs={
                "provider": "azureStorage",
                "connection": PROXIED_CONNECTION if self._parameters.move_probability else DIRECT_CONNECTION,
            },
        )
        assert response.status_code == 200, response.text

    async def _step(self) -> None:
        """Make some moves in the task hub and deliver what is due, or request a verdict and check it."""
        task_hub = self._task_hub
        task_hub.transport.step += 1
        if self._rng.random() < MOVES_PROBABILITY:
            for _ in range(self._rng.randint(1, 4)):
                await task_hub.platform.make_random_move(
                    PURGE_WEIGHTS if self._parameters.messages_unseen else DEFAULT_WEIGHTS
                )
            if self._rng.random() < DELIVERY_PROBABILITY:
                await self._deliver(task_hub.transport.take_due_batches())
        else:
            if self._rng.random() < NEAR_DRAIN_PROBABILITY:
                await self._drain_nearly()
            kind = self._rng.choices(list(REQUEST_WEIGHTS), list(REQUEST_WEIGHTS.values()))[0]
            ready = await self._request_verdict(kind)
            if ready and self._rng.random() < START_AFTER_DRAIN_PROBABILITY:
                await self._start_after_drain()
                await self._request_verdict("cached")
            elif ready and self._rng.random() < ASK_AGAIN_PROBABILITY:
                await self._ask_again()

    async def _drain_nearly(self) -> None:
        """Drain the task hub except for one instance at most, because a verdict is hardest to decide then."""
        self._tally["nearly drained"] += 1
        await self._task_hub.platform.drain(remaining=self._rng.choice((0, 0, 1)))
        if self._rng.random() < 0.4:
            await self._task_hub.platform.start_instance()

    async def _purge_and_start_again(self) -> None:
        """Let a probe show an instance. Then let it end, lose the event of its end, and purge it.

        Its id may be started again by a message. Where messages cannot be seen, only an event reports that start."""
        task_hub = self._task_hub
        await task_hub.platform.drain()
        task_hub.transport.reliable = True
        instance_id = await task_hub.platform.start_and_run_instance()
        await self._deliver(task_hub.transport.take_due_batches())
        task_hub.transport.reliable = False
        await asyncio.sleep(_CONFIRMATION_SECONDS)
        await self._request_verdict("fresh")
        await task_hub.platform.drain()
        await asyncio.sleep(MIN_REUSE_DELAY_SECONDS)
        if not await task_hub.platform.purge(instance_id):
            return
        if self._parameters.move_probability or self._rng.random() < 0.5:
            task_hub.transport.reliable = True
            await task_hub.platform.start_by_message(instance_id)
            await self._deliver(task_hub.transport.take_due_batches())
            task_hub.transport.reliable = False
            await self._wait_for_settle_window()
            await self._request_verdict("fresh")
        else:
            requested_at = task_hub.timeline.next_moment()
            verdict = await self._get_staging()
            self._check_verdict(requested_at, verdict, fresh=True)
            if instance_id in {instance["instanceId"] for instance in verdict["active"]}:
                raise NeverReady(
                    f"{instance_id} was shown by a probe and has been purged, but it still blocks: {verdict['reasons']}"
                )
            self._tally["purged and ended"] += 1

    async def _start_after_drain(self) -> None:
        """Start an instance just after the task hub was found drained, with or without events."""
        task_hub = self._task_hub
        self._tally["started after a drain"] += 1
        task_hub.transport.step += 1
        await task_hub.platform.start_instance()
        for _ in range(self._rng.randint(0, 3)):
            await task_hub.platform.make_random_move(AFTER_DRAIN_WEIGHTS)
        await self._deliver(task_hub.transport.take_due_batches())

    async def _ask_again(self) -> None:
        """Ask again after a Ready, perhaps with changes since then that no event has reported."""
        self._tally["asked again"] += 1
        for _ in range(self._rng.randint(0, 3)):
            await self._task_hub.platform.make_random_move(AFTER_DRAIN_WEIGHTS)
        await self._request_verdict("fresh")

    async def _deliver(self, batches: list[list[PublishedEvent]]) -> None:
        """Post batches of lifecycle events to the server, and record the deliveries at the checkers of verdicts."""
        task_hub = self._task_hub
        for batch in batches:
            response = await self._context.http.post("/api/events", json=[event.event for event in batch])
            assert response.status_code == 200, response.text
            assert not response.json()["quarantined"], response.text
            task_hub.delivered_at = time.monotonic()
            self._tally["deliveries"] += 1
            for event in batch:
                task_hub.events_only.record_event(event)
                task_hub.checker.record_delivery(event)
                self.log.append(
                    f"      {event.instance_id[:12]}: delivered {event.status} of {event.event['eventTime'][17:]}"
                )

    async def _request_verdict(self, kind: str) -> bool:
        """Send a request of this kind, check the response, and return whether the verdict is Ready.

        `kind`: `fresh`, `cached` or `none` as in the query parameter `verify`; `waiting` for a long poll; `both` for a
        fresh and a cached request at once; `stage` for PostStaging."""
        task_hub = self._task_hub
        if self._rng.random() < 0.8:
            await self._wait_for_settle_window()
        self._tally[f"question {kind}"] += 1
        if task_hub.events_only.ready and task_hub.timeline.active:
            self._tally["wrong by events alone"] += 1
        await self._check_records()
        requested_at = task_hub.timeline.next_moment()
        self.log.append(f"{task_hub.transport.step:3} {kind}? active: {sorted(task_hub.timeline.active)}")
        self._moves_left = _MAX_MOVES_PER_REQUEST if self._parameters.move_probability else 0
        self._move_weights = self._rng.choice((DURING_READ_WEIGHTS, HAND_OVER_WEIGHTS))
        try:
            if kind == "stage":
                ready = await self._post_staging(requested_at)
            elif kind == "both":
                fresh_verdict, cached_verdict = await asyncio.gather(self._get_staging(), self._get_staging("cached"))
                self._check_verdict(requested_at, fresh_verdict, fresh=True)
                self._check_verdict(requested_at, cached_verdict, fresh=False)
                ready = fresh_verdict["ready"]
            else:
                verify = kind if kind in ("cached", "none") else "fresh"
                verdict = await self._get_staging(verify, 2 if kind == "waiting" else 0)
                probe_began_at = self._check_verdict(requested_at, verdict, fresh=verify == "fresh")
                if not self._parameters.move_probability and probe_began_at == requested_at:
                    await self._check_reconciliation(verdict)
                ready = verdict["ready"]
        finally:
            self._moves_left = 0
            # A read that no request awaits any more may still be making a move. Wait for it.
            async with self._move_lock:
                pass
        if self._failure is not None:
            raise self._failure
        if self._parameters.move_probability:
            await self._check_records()
        return bool(ready)

    async def _get_staging(self, verify: str = "fresh", wait: int = 0) -> Any:
        """Ask whether the slot is ready."""
        return await get_staging(self._context.http, self._app, verify=verify, wait=wait)

    def _check_verdict(self, requested_at: int, verdict: Any, *, fresh: bool) -> int | None:
        """Fail if the verdict is wrong. Returns when its probe began, None without a probe. `requested_at` is in the
        unit of the storage clock."""
        probe = verdict["evidence"]["probe"]
        self.log.append(f"    → ready={verdict['ready']} {reason_codes(verdict)} probe={probe}")
        probe_began_at = self._task_hub.checker.check_verdict(requested_at, verdict, fresh=fresh)
        if verdict["ready"]:
            self._count_ready_verdict()
            self._tally["Ready by an earlier probe"] += probe_began_at != requested_at
        return probe_began_at

    def _count_ready_verdict(self) -> None:
        """Count a verdict that is Ready and was checked."""
        task_hub = self._task_hub
        self._tally["Ready"] += 1
        self._tally["Ready before the end"] += not self._has_ended
        self._tally["Ready, started since the probe"] += bool(task_hub.timeline.active)

    async def _post_staging(self, requested_at: int) -> bool:
        """Stage the next task hub. If that succeeds, the history continues there. Returns whether it succeeded."""
        hub = new_hub_name()
        response = await post_staging(self._context.http, self._app, hub)
        self.log.append(f"    → {response.status_code} {response.text[:300]}")
        if response.status_code == 200:
            self._tally["staged"] += 1
            self._task_hub.checker.check_staging(requested_at)
            self._count_ready_verdict()
            await self._add_task_hub(hub)
            return True
        assert (response.status_code, response.json()["code"]) == (409, "StagingNotReady"), response.text
        # A refusal does not contain its probe. The next verdict does.
        self._check_verdict(requested_at, await self._get_staging("none"), fresh=False)
        return False

    async def _finish(self) -> None:
        """All orchestrations end, and their remaining events arrive or are lost. Then the task hub is drained."""
        task_hub = self._task_hub
        await task_hub.platform.drain()
        assert not task_hub.timeline.active, f"still active: {task_hub.timeline.active}"
        await self._deliver(task_hub.transport.take_remaining_batches())
        await self._wait_for_settle_window()
        self._has_ended = True
        self._tally["drained"] += 1
        self._tally["question at the end"] += 1
        self._tally["stuck by events alone"] += not task_hub.events_only.ready
        requested_at = task_hub.timeline.next_moment()
        self.log.append("end: drained and settled")
        verdict = await self._get_staging(wait=_FINAL_WAIT_SECONDS)
        self._check_verdict(requested_at, verdict, fresh=True)
        if self._parameters.messages_unseen:
            self._tally["drained, messages unseen"] += 1
            if reason_codes(verdict) == ["InstancesActive"]:
                # No probe has shown these starts. They may still be messages, which the server cannot see here.
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
        """Wait until the last delivered event is older than the settle window."""
        await asyncio.sleep(max(0.0, self._task_hub.delivered_at + _SETTLE_WAIT_SECONDS - time.monotonic()))

    async def _move_before_read(self) -> None:
        """Perhaps change the platform. The proxy calls this before the server reads the task hub."""
        async with self._move_lock:
            if (
                not self._moves_left
                or self._rng_during_reads.random() >= self._parameters.move_probability
                or self._failure
            ):
                return
            self._moves_left -= 1
            task_hub = self._task_hub
            self._tally["moves during a read"] += 1
            try:
                if self._rng_during_reads.random() < 0.85:
                    await task_hub.platform.make_random_move(
                        self._move_weights, without_faults=self._move_weights is HAND_OVER_WEIGHTS
                    )
                else:
                    task_hub.transport.step += 1
                    await self._deliver(task_hub.transport.take_due_batches())
            except Exception as error:  # noqa: BLE001 - the proxy would turn it into a response
                self._failure = error

    async def _check_records(self) -> None:
        """Check that the records show every instance active whose latest event reported it active."""
        expected = self._task_hub.checker.find_expected_active_ids()
        if expected and not expected <= (recorded := await self._read_recorded_active_ids()):
            raise WrongVerdict(
                f"{expected - recorded} are active, and the event that says so was delivered, but the records differ"
            )

    async def _check_reconciliation(self, verdict: Any) -> None:
        """Check that the records show every instance active that a probe has found active."""
        active_ids = {instance["instanceId"] for instance in verdict["active"]}
        if active_ids and not active_ids <= (recorded := await self._read_recorded_active_ids()):
            raise WrongVerdict(f"{active_ids - recorded} were found active, but the records do not show them active")

    async def _read_recorded_active_ids(self) -> set[str]:
        """The instances that the records show as active."""
        activity = await self._context.readiness.read_activity(self._task_hub.hub, POLICY)
        return {instance.instance_id for instance in activity.active}
