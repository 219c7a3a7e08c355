"""The platform as docs/platform.md describes it: orchestrations, their rows at the source, and the events that the
extension publishes. It touches the world only through a Store and a Transport."""

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant
from tests.builders import event
from tests.simulator.executions import Episode, Execution, Phase, Store
from tests.simulator.timeline import Timeline
from tests.simulator.traits import Traits
from tests.simulator.transport import Published, Transport
from tests.taskhubs.provider import OVER

CALM = {
    "start": 9.0,
    "start delayed": 1.0,
    "begin": 8.0,
    "go on": 6.0,
    "progress": 1.0,
    "finish": 4.0,
    "suspend": 2.0,
    "resume": 2.0,
    "terminate": 1.5,
    "continue as new": 3.0,
    "call": 3.0,
    "hand over": 3.0,
    "detach": 2.0,
    "restart": 3.0,
    "purge": 1.0,
    "stale episode": 1.0,
    "entity": 1.0,
}
"""How often each move is made, where it is possible."""

RACING = {**CALM, "hand over": 20.0, "finish": 8.0, "restart": 5.0, "suspend": 0.5, "entity": 0.2, "stale episode": 0.2}
"""The same while somebody reads: what a reader can miss happens more often."""

RELAY = {"hand over": 10.0, "begin": 5.0, "go on": 5.0, "resume": 1.0}
"""While somebody reads: there is always something active, but never for long the same."""

AWAKENING = {"begin": 4.0, "finish": 2.0, "continue as new": 2.0, "go on": 1.0}
"""Just after a hub was found drained."""

_TOWARDS_THE_END = ("go on", "begin", "resume", "finish")

_FUNCTIONS = ("ProcessOrder", "Ship", "NightlySync", "Käse")
_REUSED_AFTER = 1.6
"""Seconds after which an id whose execution is over is taken again by a start that writes no row at once. The table and
the events cannot tell two executions of an id apart that are closer than the tolerance for clocks, one second."""


Move = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Surroundings:
    """What a platform acts on."""

    hub: str
    traits: Traits
    rng: random.Random
    store: Store
    transport: Transport
    timeline: Timeline
    tally: Counter[str]
    log: list[str]


class Platform:
    """One task hub and the app that runs on it. `executions` holds the latest of each id."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._at = surroundings
        self._rng = surroundings.rng
        self._roots = surroundings.traits.roots
        self._numbers = 0
        self._entities = 0
        self._smooth = False
        # Ids that a message is about to start: nobody else takes them.
        self._promised: set[str] = set()
        self.executions: dict[str, Execution] = {}

    async def move(self, weights: Mapping[str, float], smooth: bool = False) -> None:
        """Make one of the moves that are possible now; `smooth` without crashes and delays."""
        moves = {name: move for name, move in self._moves().items() if weights.get(name)}
        names = sorted(moves)
        if names:
            self._smooth = smooth
            name = self._rng.choices(names, [weights[one] for one in names])[0]
            await self._make(name, self._rng.choice(moves[name]))
            self._smooth = False

    async def start_again(self) -> None:
        """A client starts one more, perhaps under an id that was used before."""
        await self._make("restart", partial(self._pending, self._id_to_take(0.0)))

    async def drain(self, leaving: int = 0) -> None:
        """Let all orchestrations end but a few, and those that wait for them."""
        active = self._active()
        spared = self._rng.sample(active, min(leaving, len(active)))
        self._smooth = True
        while going := [
            (name, move)
            for one in self._active()
            if one not in spared
            for name, move in self._moves_of(one).items()
            if name in _TOWARDS_THE_END
        ]:
            await self._make(*going[0])
        self._smooth = False

    def _active(self) -> list[Execution]:
        return [one for one in self.executions.values() if one.phase is not Phase.OVER or one.episode is not None]

    async def _make(self, name: str, move: Move) -> None:
        self._at.log.append(f"{self._at.transport.step:3} {name}")
        self._at.tally[name] += 1
        await move()

    def _moves(self) -> dict[str, list[Move]]:
        moves: dict[str, list[Move]] = {"entity": [self._entity]}
        if self._roots:
            moves["start"], moves["start delayed"] = [self._start], [self._start_delayed]
        for one in self.executions.values():
            for name, move in self._moves_of(one).items():
                moves.setdefault(name, []).append(move)
        return moves

    def _moves_of(self, one: Execution) -> dict[str, Move]:
        if one.episode is not None:
            return {"go on": partial(self._go_on, one)}
        terminate = partial(self._terminate, one)
        match one.phase:
            case Phase.SCHEDULED:
                return {"begin": partial(self._begin, one)}
            case Phase.PENDING:
                is_due = self._smooth or self._at.transport.step >= one.not_before
                return {"begin": partial(self._begin, one)} if is_due else {"terminate": terminate}
            case Phase.RENEWING:
                return {"go on": partial(self._renew, one)}
            case Phase.SUSPENDED:
                return {"resume": partial(self._write_phase, one, "Running", Phase.RUNNING), "terminate": terminate}
            case Phase.WAITING:
                # Its children live on.
                return {"terminate": terminate}
            case Phase.OVER if one.instance_id in self._promised:
                return {}
            case Phase.OVER:
                moves: dict[str, Move] = {
                    "restart": partial(self._restart, one),
                    "stale episode": partial(self._stale_episode, one),
                }
                if one.row is not None:
                    moves["purge"] = partial(self._purge, one)
                return moves
            case Phase.RUNNING:
                return {
                    "progress": partial(self._write_phase, one, "Running", Phase.RUNNING),
                    "finish": partial(self._finish, one),
                    "suspend": partial(self._write_phase, one, "Suspended", Phase.SUSPENDED),
                    "terminate": terminate,
                    "continue as new": partial(self._continue_as_new, one),
                    "call": partial(self._call, one),
                    "hand over": partial(self._hand_over, one),
                    "detach": partial(self._detach, one),
                }

    # What clients do.

    async def _start(self) -> None:
        self._roots -= 1
        await self._pending(self._new_id())

    async def _start_delayed(self) -> None:
        self._roots -= 1
        await self._pending(self._new_id(), delay=self._rng.randint(3, 12))

    async def _restart(self, one: Execution) -> None:
        await self._pending(one.instance_id)

    async def _pending(self, instance_id: str, delay: int = 0) -> None:
        """A client's start is a row first."""
        one = self._execution(instance_id, Phase.PENDING)
        one.not_before = self._at.transport.step + delay
        await self._write(one, "Pending")

    async def _terminate(self, one: Execution) -> None:
        status = self._at.traits.terminated
        await self._run(one, Episode([status] if status else [], "Terminated", Phase.OVER))

    async def _purge(self, one: Execution) -> None:
        await self._at.store.purge(one.instance_id)
        one.row = None
        self._note(one, "purged")

    # What orchestrations do.

    async def _begin(self, one: Execution) -> None:
        if self._chance(0.2):
            # No await in it: over in its first episode.
            self._at.tally["one episode"] += 1
            outcome = self._outcome()
            await self._run(one, Episode(["Running", outcome], outcome, Phase.OVER))
        else:
            await self._run(one, Episode(["Running"], "Running", Phase.RUNNING))

    async def _finish(self, one: Execution) -> None:
        outcome = self._outcome()
        await self._run(one, Episode([outcome], outcome, Phase.OVER))

    async def _continue_as_new(self, one: Execution) -> None:
        if self._chance(0.5):
            await self._run(one, Episode(["Completed", "Running"], "Running", Phase.RUNNING))
            return
        row = self._rng.choice(("ContinuedAsNew", "Running"))
        await self._run(one, Episode(["Completed"], row, Phase.RENEWING))
        if one.phase is Phase.RENEWING and not self._chance(0.3):
            await self._renew(one)

    async def _renew(self, one: Execution) -> None:
        await self._run(one, Episode(["Running"], "Running", Phase.RUNNING))

    async def _call(self, one: Execution) -> None:
        await self._run(one, Episode([], "Running", Phase.WAITING, sends=self._scheduled(one)))

    async def _hand_over(self, one: Execution) -> None:
        """An activity of it starts another orchestration as a client does, and it ends."""
        await self._pending(self._id_to_take(0.0))
        await self._finish(one)

    async def _detach(self, one: Execution) -> None:
        """It starts an orchestration without waiting for it, as its last act."""
        outcome = self._outcome()
        await self._run(one, Episode([outcome], outcome, Phase.OVER, sends=self._scheduled(None)))

    async def _entity(self) -> None:
        self._entities += 1
        one = Execution(0, f"@counter@{self._entities % 3}", "counter", Phase.RUNNING, self._now())
        self._publish(one, ["Running"])
        await self._at.store.put(one.instance_id, "Running", one.function, one.created)

    # Episodes.

    async def _run(self, one: Execution, episode: Episode) -> None:
        self._publish(one, episode.statuses)
        one.episode = episode
        if not self._smooth:
            if self._chance(self._at.traits.crash):
                self._at.tally["crash"] += 1
                self._note(one, "crashed before its checkpoint")
                episode.crashed = True
                return
            if self._chance(self._at.traits.slow):
                self._at.tally["slow checkpoint"] += 1
                self._note(one, "slow before its checkpoint")
                return
        await self._checkpoint(one, episode)

    async def _go_on(self, one: Execution) -> None:
        episode = one.episode
        assert episode is not None, "only open episodes go on"
        if episode.crashed:
            episode.crashed = False
            await self._run(one, episode)
        else:
            await self._checkpoint(one, episode)

    async def _checkpoint(self, one: Execution, episode: Episode) -> None:
        """Messages go out before the row is written."""
        if episode.sends is not None:
            await self._at.store.enqueue(episode.sends.instance_id, episode.sends.function)
            self._at.timeline.started(episode.sends.instance_id)
            # Now there is something of it.
            self.executions[episode.sends.instance_id] = episode.sends
            self._promised.discard(episode.sends.instance_id)
        first = one.in_flight
        await self._write(one, episode.row)
        if first:
            await self._at.store.dequeue(one.instance_id)
        one.episode = None
        one.phase = episode.then
        if one.phase is Phase.WAITING:
            one.child = episode.sends
        if one.phase is Phase.OVER:
            parent = one.parent
            if parent is not None and parent.child is one and parent.phase is Phase.WAITING:
                parent.child = None
                parent.phase = Phase.RUNNING
        self._at.tally[f"row {episode.row}"] += 1

    async def _stale_episode(self, one: Execution) -> None:
        """A worker that has lost the instance to another one without knowing it publishes, and cannot checkpoint."""
        self._publish(one, self._rng.choice((["Running"], ["Completed"], ["Running", "Completed"])))

    # How it is done.

    async def _write_phase(self, one: Execution, status: str, phase: Phase) -> None:
        one.phase = phase
        await self._write(one, status)
        self._at.tally[f"row {status}"] += 1

    async def _write(self, one: Execution, status: str) -> None:
        if status in OVER:
            self._at.timeline.ended(one.instance_id)
        await self._at.store.put(one.instance_id, status, one.function, one.created)
        if status not in OVER:
            self._at.timeline.started(one.instance_id)
        one.row = status
        one.stored_at = time.monotonic()
        self._note(one, f"row {status}")

    def _publish(self, one: Execution, statuses: Sequence[str]) -> None:
        moment = time.time() + self._rng.choice(self._at.traits.skews)
        for status in statuses:
            # Milliseconds, or less, between two of one episode.
            moment += self._rng.choice((0.00002, 0.001, 0.004))
            at = Instant(int(moment * TICKS_PER_SECOND))
            sent = event(self._at.hub, one.instance_id, status, format_instant(at), one.function)
            published = Published(sent, one.instance_id, status, at, one.number)
            if one.latest is None or at > one.latest.occurred_at:
                one.latest = published
            fate = self._at.transport.publish(published)
            self._note(one, f"published {status} at {format_instant(at)[17:]}, {fate}")

    def _scheduled(self, parent: Execution | None) -> Execution:
        """A start that is to be sent in a message. It counts once it is sent."""
        instance_id = self._id_to_take(_REUSED_AFTER)
        self._promised.add(instance_id)
        return self._execution(instance_id, Phase.SCHEDULED, parent)

    def _execution(self, instance_id: str, phase: Phase, parent: Execution | None = None) -> Execution:
        self._numbers += 1
        before = self.executions.get(instance_id)
        one = Execution(self._numbers, instance_id, self._rng.choice(_FUNCTIONS), phase, self._now(), parent=parent)
        if before is not None:
            self._at.tally["id taken again"] += 1
            one.row, one.latest, one.stored_at = before.row, before.latest, before.stored_at
        if phase is not Phase.SCHEDULED:
            self.executions[instance_id] = one
        return one

    def _id_to_take(self, rest: float) -> str:
        """A new id or, as apps with ids of their own do, one whose last execution is over, for `rest` seconds."""
        over = [
            one
            for one in self.executions.values()
            if one.phase is Phase.OVER
            and time.monotonic() - one.stored_at > rest
            and one.instance_id not in self._promised
        ]
        if not over or not self._chance(0.5):
            return self._new_id()
        latest = max(over, key=lambda one: one.stored_at)
        return (latest if self._chance(0.5) else self._rng.choice(over)).instance_id

    def _new_id(self) -> str:
        number = self._rng.getrandbits(128)
        return self._rng.choice((f"{number:032x}", f"order-{number % 10000}", f"Z/{number % 1000}#é", f"{number}"))

    def _outcome(self) -> str:
        return self._rng.choice(("Completed", "Completed", "Failed"))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(time.time() + self._rng.choice(self._at.traits.skews), UTC)

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _note(self, one: Execution, what: str) -> None:
        self._at.log.append(f"      {one.instance_id[:12]} ({one.number}): {what}")
