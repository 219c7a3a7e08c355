"""One random history: the platform lives, events arrive or do not, somebody asks, and in the end all is over."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from state_api.domain.readiness import Policy
from state_api.services.readiness import Readiness
from tests.conftest import new_hub
from tests.http.client import codes, put, stage, staging
from tests.simulator.alone import EventsAlone
from tests.simulator.judge import Judge, Stuck, Wrong
from tests.simulator.platform import AWAKENING, CALM, RACING, RELAY, Platform, Surroundings
from tests.simulator.stores import HubStore, Stores
from tests.simulator.timeline import Timeline
from tests.simulator.traits import Traits, stream
from tests.simulator.transport import Published, Transport

DIRECT, WATCHED = "STATE_TASKHUBS_DIRECT", "STATE_TASKHUBS_WATCHED"
"""The settings through which the server reads task hubs: the storage itself, and through the proxy."""

POLICY = Policy(settle_seconds=1, freshness_seconds=120)
_SETTLED = POLICY.settle_seconds + 0.1
_LAST_WAIT = 4
"""Seconds that the last question may take to turn Ready: the server's clock comes in whole seconds, and it looks again
every second."""
_MOST_MOVES = 12
"""Moves of the world while one question is answered: a scan of a world that never stops never ends."""

Watcher = Callable[[], Awaitable[None]]


class Watchers(Protocol):
    """Who is told before the server reads a task hub."""

    def watch(self, hub: str, watcher: Watcher) -> None: ...

    def unwatch(self, hub: str) -> None: ...


@dataclass(slots=True)
class Around:
    """What all histories share."""

    http: httpx.AsyncClient
    readiness: Readiness
    stores: Stores
    watchers: Watchers
    tally: Counter[str]


class World:
    """A task hub with the app that runs on it, what is told of it, and who judges what is said of it. `number` counts
    the hubs of one history."""

    def __init__(self, around: Around, traits: Traits, store: HubStore, number: int, log: list[str]) -> None:
        self.hub = store.hub
        self.store = store
        self.timeline = Timeline()
        self.transport = Transport(stream(traits.seed, f"transport {number}"), traits, around.tally)
        rng = stream(traits.seed, f"platform {number}")
        self.platform = Platform(
            Surroundings(self.hub, traits, rng, store, self.transport, self.timeline, around.tally, log)
        )
        self.judge = Judge(self.platform, self.timeline)
        self.alone = EventsAlone(self.hub, POLICY)
        self.delivered_at = 0.0


class History:
    """`log` tells what happened, for whoever has to find out why an answer was wrong."""

    def __init__(self, around: Around, traits: Traits) -> None:
        self._around = around
        self._traits = traits
        self._tally = around.tally
        self._rng = stream(traits.seed, "history")
        self._races = stream(traits.seed, "races")
        self._moving = asyncio.Lock()
        self._moves_left = 0
        self._style: Mapping[str, float] = RACING
        self._over = False
        self._trouble: Exception | None = None
        self._worlds: list[World] = []
        self.log: list[str] = [str(traits)]

    async def run(self) -> None:
        """Raises Wrong, Stuck."""
        try:
            await self._enter(new_hub())
            await self._register()
            for _ in range(self._traits.steps):
                await self._step()
            await self._end()
        finally:
            for world in self._worlds:
                self._around.watchers.unwatch(world.hub)
                await world.store.remove()

    @property
    def _world(self) -> World:
        return self._worlds[-1]

    async def _enter(self, hub: str) -> None:
        """A task hub comes into the slot."""
        store = await self._around.stores.make(hub)
        self._worlds.append(World(self._around, self._traits, store, len(self._worlds), self.log))
        if self._traits.moving:
            self._around.watchers.watch(hub, self._race)

    async def _register(self) -> None:
        self._app = f"app-{self._world.hub}"
        answer = await put(
            self._around.http,
            self._app,
            slots={"staging": {"taskHub": self._world.hub}},
            policy={"settleSeconds": POLICY.settle_seconds, "freshnessSeconds": POLICY.freshness_seconds},
            taskHubs={"provider": "azureStorage", "connection": WATCHED if self._traits.moving else DIRECT},
        )
        assert answer.status_code == 200, answer.text

    async def _step(self) -> None:
        world = self._world
        world.transport.step += 1
        if self._rng.random() < 0.75:
            for _ in range(self._rng.randint(1, 4)):
                await world.platform.move(CALM)
            if self._rng.random() < 0.7:
                await self._deliver(world.transport.due())
        else:
            if self._rng.random() < 0.5:
                await self._lull()
            kind = self._rng.choices(("fresh", "cached", "none", "waiting", "both", "stage"), (40, 20, 5, 5, 10, 15))[0]
            ready = await self._ask(kind)
            if ready and self._rng.random() < 0.4:
                await self._awake()
                await self._ask("cached")

    async def _lull(self) -> None:
        """A hub that has all but drained is the hardest to judge."""
        self._tally["lull"] += 1
        await self._world.platform.drain(leaving=self._rng.choice((0, 0, 1)))
        if self._rng.random() < 0.4:
            await self._world.platform.start_again()

    async def _awake(self) -> None:
        """Somebody starts something just after the hub was found drained; events may or may not tell of it."""
        world = self._world
        self._tally["awakening"] += 1
        world.transport.step += 1
        await world.platform.start_again()
        for _ in range(self._rng.randint(0, 3)):
            await world.platform.move(AWAKENING)
        await self._deliver(world.transport.due())

    async def _deliver(self, batches: list[list[Published]]) -> None:
        world = self._world
        for batch in batches:
            answer = await self._around.http.post("/api/events", json=[one.event for one in batch])
            assert answer.status_code == 200, answer.text
            assert not answer.json()["quarantined"], answer.text
            world.delivered_at = time.monotonic()
            self._tally["deliveries"] += 1
            for one in batch:
                world.alone.record(one)
                world.judge.delivered(one)
                self.log.append(
                    f"      {one.instance_id[:12]}: delivered {one.status} of {one.event['eventTime'][17:]}"
                )

    async def _ask(self, kind: str) -> bool:
        """Ask, and judge the answer: whether it was Ready."""
        world = self._world
        if self._rng.random() < 0.8:
            await self._settle()
        self._tally[f"question {kind}"] += 1
        if world.alone.ready and world.timeline.active:
            self._tally["wrong by events alone"] += 1
        await self._check_records()
        asked = world.timeline.mark()
        self.log.append(f"{world.transport.step:3} {kind}? active: {sorted(world.timeline.active)}")
        self._moves_left = _MOST_MOVES if self._traits.moving else 0
        self._style = self._rng.choice((RACING, RELAY))
        try:
            if kind == "stage":
                ready = await self._stage(asked)
            elif kind == "both":
                by_fresh, by_cached = await asyncio.gather(self._get(), self._get("cached"))
                self._judge(asked, by_fresh, fresh=True)
                self._judge(asked, by_cached, fresh=False)
                ready = by_fresh["ready"]
            else:
                verify = kind if kind in ("cached", "none") else "fresh"
                verdict = await self._get(verify, 2 if kind == "waiting" else 0)
                began = self._judge(asked, verdict, verify == "fresh")
                if not self._traits.moving and began == asked:
                    await self._check_healing(verdict)
                ready = verdict["ready"]
        finally:
            self._moves_left = 0
            # A page that nobody waits for any more may still be about to move the world.
            async with self._moving:
                pass
        if self._trouble is not None:
            raise self._trouble
        if self._traits.moving:
            await self._check_records()
        return bool(ready)

    async def _get(self, verify: str = "fresh", wait: int = 0) -> Any:
        return await staging(self._around.http, self._app, verify=verify, wait=wait)

    def _judge(self, asked: int, verdict: Any, fresh: bool) -> int | None:
        probe = verdict["evidence"]["probe"]
        self.log.append(f"    → ready={verdict['ready']} {codes(verdict)} probe={probe}")
        began = self._world.judge.verdict(asked, verdict, fresh)
        if verdict["ready"]:
            self._count_ready()
            self._tally["Ready by an earlier probe"] += began != asked
        return began

    def _count_ready(self) -> None:
        """Count what is right to be Ready."""
        world = self._world
        self._tally["Ready"] += 1
        self._tally["Ready before the end"] += not self._over
        self._tally["Ready, started since the probe"] += bool(world.timeline.active)

    async def _stage(self, asked: int) -> bool:
        """Put the next task hub into the slot. Where that is let through, life goes on there."""
        hub = new_hub()
        answer = await stage(self._around.http, self._app, hub)
        self.log.append(f"    → {answer.status_code} {answer.text[:300]}")
        if answer.status_code == 200:
            self._tally["staged"] += 1
            self._world.judge.staged(asked)
            self._count_ready()
            await self._enter(hub)
            return True
        assert (answer.status_code, answer.json()["code"]) == (409, "StagingNotReady"), answer.text
        # The answer does not show the probe that it rests on, and a later one may.
        self._judge(asked, await self._get("none"), fresh=False)
        return False

    async def _end(self) -> None:
        """All orchestrations end, what is left of their events arrives or is lost, and then the hub is drained."""
        world = self._world
        await world.platform.drain()
        assert not world.timeline.active, f"still active: {world.timeline.active}"
        await self._deliver(world.transport.rest())
        await self._settle()
        self._over = True
        self._tally["drained"] += 1
        self._tally["question at the end"] += 1
        self._tally["stuck by events alone"] += not world.alone.ready
        asked = world.timeline.mark()
        self.log.append("end: drained and settled")
        verdict = await self._get(wait=_LAST_WAIT)
        self._judge(asked, verdict, fresh=True)
        if not verdict["ready"]:
            raise Stuck(f"NotReady after the end: {verdict['reasons']}")
        if self._rng.random() < 0.2:
            self._tally["question at the end"] += 1
            answer = await stage(self._around.http, self._app, new_hub())
            if answer.status_code != 200:
                raise Stuck(f"PostStaging is refused after the end: {answer.text}")

    async def _settle(self) -> None:
        await asyncio.sleep(max(0.0, self._world.delivered_at + _SETTLED - time.monotonic()))

    async def _race(self) -> None:
        """The server is about to read the hub: the world may move first."""
        async with self._moving:
            if not self._moves_left or self._races.random() >= self._traits.moving or self._trouble:
                return
            self._moves_left -= 1
            world = self._world
            self._tally["moves during a read"] += 1
            try:
                if self._races.random() < 0.85:
                    await world.platform.move(self._style, smooth=self._style is RELAY)
                else:
                    world.transport.step += 1
                    await self._deliver(world.transport.due())
            except Exception as error:  # noqa: BLE001 - the proxy would make an answer of it
                self._trouble = error

    async def _check_records(self) -> None:
        """What events have told must show in the records, whatever a probe made of them."""
        expected = self._world.judge.started_and_heard()
        if expected and not expected <= (recorded := await self._recorded()):
            raise Wrong(f"{expected - recorded} are active, their last event said so, and the records deny it")

    async def _check_healing(self, verdict: Any) -> None:
        """What a probe has found active must show in the records."""
        found = {one["instanceId"] for one in verdict["active"]}
        if found and not found <= (recorded := await self._recorded()):
            raise Wrong(f"{found - recorded} were found active, and the records deny it")

    async def _recorded(self) -> set[str]:
        activity = await self._around.readiness.activity(self._world.hub, POLICY)
        return {one.instance_id for one in activity.active}
