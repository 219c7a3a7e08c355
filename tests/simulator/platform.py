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
from tests.backends.azure_storage_task_hub import ENDED_STATUS_NAMES
from tests.builders import event
from tests.simulator.activity_timeline import ActivityTimeline
from tests.simulator.event_grid import PublishedEvent, SimulatedEventGrid
from tests.simulator.executions import Episode, Execution, Phase, ProviderStorage
from tests.simulator.parameters import SimulationParameters

DEFAULT_WEIGHTS = {
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
"""The relative frequency of each move, where it is possible."""

PURGING = {**DEFAULT_WEIGHTS, "finish": 8.0, "detach": 8.0, "purge": 8.0, "start": 12.0}
"""The frequencies where messages cannot be seen: ids are purged and started again by a message."""

DURING_READ_WEIGHTS = {
    **DEFAULT_WEIGHTS,
    "hand over": 20.0,
    "finish": 8.0,
    "restart": 5.0,
    "suspend": 0.5,
    "entity": 0.2,
    "stale episode": 0.2,
}
"""The frequencies while the server reads: changes that a reader can miss are more frequent."""

HAND_OVER_WEIGHTS = {"hand over": 10.0, "begin": 5.0, "go on": 5.0, "resume": 1.0}
"""Frequencies while the server reads, such that something is always active, but never the same instance for long."""

AFTER_DRAIN_WEIGHTS = {"begin": 4.0, "finish": 2.0, "continue as new": 2.0, "go on": 1.0}
"""The frequencies just after a task hub was found drained."""

_ENDING_MOVES = ("go on", "begin", "resume", "finish")

_FUNCTIONS = ("ProcessOrder", "Ship", "NightlySync", "Käse")
REUSED_AFTER = 1.6
"""Seconds after the end of an execution before its id is used again by a start without a row.

The table and the events cannot distinguish two executions of an id within the clock tolerance of one second.
"""


Move = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class PlatformContext:
    """What a simulated platform works with."""

    hub: str
    traits: SimulationParameters
    rng: random.Random
    store: ProviderStorage
    transport: SimulatedEventGrid
    timeline: ActivityTimeline
    tally: Counter[str]
    log: list[str]


class SimulatedPlatform:
    """One task hub and the app that runs on it. `executions` has the latest execution of each id."""

    def __init__(self, context: PlatformContext) -> None:
        self._context = context
        self._rng = context.rng
        self._roots_left = context.traits.root_instances
        self._execution_count = 0
        self._entities = 0
        self._without_faults = False
        # Ids that a message is about to start. No other start takes them.
        self._reserved_ids: set[str] = set()
        self.executions: dict[str, Execution] = {}

    async def move(self, weights: Mapping[str, float], *, without_faults: bool = False) -> None:
        """Make one of the moves that are possible now; `without_faults` without crashes and delays."""
        moves = {name: move for name, move in self._possible_moves().items() if weights.get(name)}
        names = sorted(moves)
        if names:
            self._without_faults = without_faults
            name = self._rng.choices(names, [weights[execution] for execution in names])[0]
            await self._make_move(name, self._rng.choice(moves[name]))
            self._without_faults = False

    async def start_instance(self) -> None:
        """A client starts an instance, under a new id or that of any instance that has ended."""
        instance_id = self._choose_instance_id(unused_seconds=0.0)
        await self._make_move("restart", partial(self._start_pending, instance_id))

    async def run_one(self) -> str:
        """A client starts an instance, and its first episode is written. Returns its id."""
        instance_id = self._new_instance_id()
        await self._make_move("start", partial(self._start_pending, instance_id))
        self._without_faults = True
        await self._run_episode(self.executions[instance_id], Episode(["Running"], "Running", Phase.RUNNING))
        self._without_faults = False
        return instance_id

    async def purge(self, instance_id: str) -> bool:
        """Purge an instance. False if it has not ended, or starts again."""
        execution = self.executions[instance_id]
        purges = self._possible_moves_of(execution).get("purge")
        if purges is not None:
            await self._make_move("purge", purges)
        return purges is not None

    async def start_by_message(self, instance_id: str) -> None:
        """Start an id again by a message. The start is published, and a slow worker has not written its row yet."""
        restarted = self._new_execution(instance_id, Phase.SCHEDULED)
        self.executions[instance_id] = restarted
        await self._context.store.enqueue(instance_id, restarted.function)
        restarted.episode = Episode(["Running"], "Running", Phase.RUNNING)
        self._publish_events(restarted, restarted.episode.statuses)
        self._context.tally["purged and started again"] += 1

    async def drain(self, remaining: int = 0) -> None:
        """Let all orchestrations end, except a few and those that wait for them."""
        active = self._active()
        spared = self._rng.sample(active, min(remaining, len(active)))
        self._without_faults = True
        while going := [
            (name, move)
            for execution in self._active()
            if execution not in spared
            for name, move in self._possible_moves_of(execution).items()
            if name in _ENDING_MOVES
        ]:
            await self._make_move(*going[0])
        self._without_faults = False

    def _active(self) -> list[Execution]:
        return [
            execution
            for execution in self.executions.values()
            if execution.phase is not Phase.ENDED or execution.episode is not None
        ]

    async def _make_move(self, name: str, move: Move) -> None:
        self._context.log.append(f"{self._context.transport.step:3} {name}")
        self._context.tally[name] += 1
        await move()

    def _possible_moves(self) -> dict[str, list[Move]]:
        moves: dict[str, list[Move]] = {"entity": [self._signal_entity]}
        if self._roots_left:
            moves["start"], moves["start delayed"] = [self._start], [self._start_delayed]
        for execution in self.executions.values():
            for name, move in self._possible_moves_of(execution).items():
                moves.setdefault(name, []).append(move)
        return moves

    def _possible_moves_of(self, execution: Execution) -> dict[str, Move]:
        if execution.episode is not None:
            return {"go on": partial(self._continue_episode, execution)}
        terminate = partial(self._terminate, execution)
        match execution.phase:
            case Phase.SCHEDULED:
                return {"begin": partial(self._begin_execution, execution)}
            case Phase.PENDING:
                is_due = self._without_faults or self._context.transport.step >= execution.not_before
                return {"begin": partial(self._begin_execution, execution)} if is_due else {"terminate": terminate}
            case Phase.CONTINUING_AS_NEW:
                return {"go on": partial(self._start_next_generation, execution)}
            case Phase.SUSPENDED:
                return {
                    "resume": partial(self._write_phase, execution, "Running", Phase.RUNNING),
                    "terminate": terminate,
                }
            case Phase.WAITING:
                # Its children live on.
                return {"terminate": terminate}
            case Phase.ENDED if execution.instance_id in self._reserved_ids:
                return {}
            case Phase.ENDED:
                moves: dict[str, Move] = {
                    "restart": partial(self._restart, execution),
                    "stale episode": partial(self._stale_episode, execution),
                }
                if execution.row is not None:
                    moves["purge"] = partial(self._purge, execution)
                return moves
            case Phase.RUNNING:
                return {
                    "progress": partial(self._write_phase, execution, "Running", Phase.RUNNING),
                    "finish": partial(self._finish, execution),
                    "suspend": partial(self._write_phase, execution, "Suspended", Phase.SUSPENDED),
                    "terminate": terminate,
                    "continue as new": partial(self._continue_as_new, execution),
                    "call": partial(self._call_sub_orchestration, execution),
                    "hand over": partial(self._hand_over, execution),
                    "detach": partial(self._start_detached_and_end, execution),
                }

    # What clients do.

    async def _start(self) -> None:
        self._roots_left -= 1
        await self._start_pending(self._new_instance_id())

    async def _start_delayed(self) -> None:
        self._roots_left -= 1
        await self._start_pending(self._new_instance_id(), delay=self._rng.randint(3, 12))

    async def _restart(self, execution: Execution) -> None:
        await self._start_pending(execution.instance_id)

    async def _start_pending(self, instance_id: str, delay: int = 0) -> None:
        """A start by a client has a row at once."""
        execution = self._new_execution(instance_id, Phase.PENDING)
        execution.not_before = self._context.transport.step + delay
        await self._write_row(execution, "Pending")

    async def _terminate(self, execution: Execution) -> None:
        status = self._context.traits.terminated_status
        await self._run_episode(execution, Episode([status] if status else [], "Terminated", Phase.ENDED))

    async def _purge(self, execution: Execution) -> None:
        await self._context.store.purge(execution.instance_id)
        execution.row = None
        self._log(execution, "purged")

    # What orchestrations do.

    async def _begin_execution(self, execution: Execution) -> None:
        if self._happens(0.2):
            # No await in it: over in its first episode.
            self._context.tally["one episode"] += 1
            outcome = self._random_outcome()
            await self._run_episode(execution, Episode(["Running", outcome], outcome, Phase.ENDED))
        else:
            await self._run_episode(execution, Episode(["Running"], "Running", Phase.RUNNING))

    async def _finish(self, execution: Execution) -> None:
        outcome = self._random_outcome()
        await self._run_episode(execution, Episode([outcome], outcome, Phase.ENDED))

    async def _continue_as_new(self, execution: Execution) -> None:
        if self._happens(0.5):
            await self._run_episode(execution, Episode(["Completed", "Running"], "Running", Phase.RUNNING))
            return
        row = self._rng.choice(("ContinuedAsNew", "Running"))
        await self._run_episode(execution, Episode(["Completed"], row, Phase.CONTINUING_AS_NEW))
        if execution.phase is Phase.CONTINUING_AS_NEW and not self._happens(0.3):
            await self._start_next_generation(execution)

    async def _start_next_generation(self, execution: Execution) -> None:
        await self._run_episode(execution, Episode(["Running"], "Running", Phase.RUNNING))

    async def _call_sub_orchestration(self, execution: Execution) -> None:
        await self._run_episode(
            execution, Episode([], "Running", Phase.WAITING, started_execution=self._schedule_execution(execution))
        )

    async def _hand_over(self, execution: Execution) -> None:
        """One of its activities starts another orchestration as a client does, and it ends."""
        await self._start_pending(self._choose_instance_id(0.0))
        await self._finish(execution)

    async def _start_detached_and_end(self, execution: Execution) -> None:
        """It starts an orchestration without waiting for it, and ends."""
        outcome = self._random_outcome()
        await self._run_episode(
            execution, Episode([outcome], outcome, Phase.ENDED, started_execution=self._schedule_execution(None))
        )

    async def _signal_entity(self) -> None:
        self._entities += 1
        execution = Execution(0, f"@counter@{self._entities % 3}", "counter", Phase.RUNNING, self._now())
        self._publish_events(execution, ["Running"])
        await self._context.store.put(execution.instance_id, "Running", execution.function, execution.created)

    # Episodes.

    async def _run_episode(self, execution: Execution, episode: Episode) -> None:
        self._publish_events(execution, episode.statuses)
        execution.episode = episode
        if not self._without_faults:
            if self._happens(self._context.traits.crash_probability):
                self._context.tally["crash"] += 1
                self._log(execution, "crashed before its checkpoint")
                episode.crashed = True
                return
            if self._happens(self._context.traits.slow_probability):
                self._context.tally["slow checkpoint"] += 1
                self._log(execution, "slow before its checkpoint")
                return
        await self._checkpoint(execution, episode)

    async def _continue_episode(self, execution: Execution) -> None:
        episode = execution.episode
        assert episode is not None, "only open episodes go on"
        if episode.crashed:
            episode.crashed = False
            await self._run_episode(execution, episode)
        else:
            await self._checkpoint(execution, episode)

    async def _checkpoint(self, execution: Execution, episode: Episode) -> None:
        """Messages are sent before the row is written."""
        if episode.started_execution is not None:
            await self._context.store.enqueue(episode.started_execution.instance_id, episode.started_execution.function)
            if not self._context.traits.messages_unseen:
                self._context.timeline.record_start(episode.started_execution.instance_id)
            # Now there is something of it.
            self.executions[episode.started_execution.instance_id] = episode.started_execution
            self._reserved_ids.discard(episode.started_execution.instance_id)
        first = execution.in_flight
        await self._write_row(execution, episode.row)
        if first:
            await self._context.store.dequeue(execution.instance_id)
        execution.episode = None
        execution.phase = episode.next_phase
        if execution.phase is Phase.WAITING:
            execution.child = episode.started_execution
        if execution.phase is Phase.ENDED:
            parent = execution.parent
            if parent is not None and parent.child is execution and parent.phase is Phase.WAITING:
                parent.child = None
                parent.phase = Phase.RUNNING
        self._context.tally[f"row {episode.row}"] += 1

    async def _stale_episode(self, execution: Execution) -> None:
        """A worker that has lost the instance to another one publishes events, and cannot checkpoint."""
        self._publish_events(execution, self._rng.choice((["Running"], ["Completed"], ["Running", "Completed"])))

    # How it is done.

    async def _write_phase(self, execution: Execution, status: str, phase: Phase) -> None:
        execution.phase = phase
        await self._write_row(execution, status)
        self._context.tally[f"row {status}"] += 1

    async def _write_row(self, execution: Execution, status: str) -> None:
        if status in ENDED_STATUS_NAMES:
            self._context.timeline.record_end(execution.instance_id)
        await self._context.store.put(execution.instance_id, status, execution.function, execution.created)
        if status not in ENDED_STATUS_NAMES:
            self._context.timeline.record_start(execution.instance_id)
        execution.row = status
        execution.row_written_at = time.monotonic()
        self._log(execution, f"row {status}")

    def _publish_events(self, execution: Execution, statuses: Sequence[str]) -> None:
        moment = time.time() + self._rng.choice(self._context.traits.clock_skews)
        for status in statuses:
            # Milliseconds, or less, between two of one episode.
            moment += self._rng.choice((0.00002, 0.001, 0.004))
            at = Instant(int(moment * TICKS_PER_SECOND))
            sent = event(
                self._context.hub,
                execution.instance_id,
                status,
                time=format_instant(at),
                function=execution.function,
            )
            published = PublishedEvent(sent, execution.instance_id, status, at, execution.number)
            if execution.latest_event is None or at > execution.latest_event.occurred_at:
                execution.latest_event = published
            fate = self._context.transport.publish(published)
            self._log(execution, f"published {status} at {format_instant(at)[17:]}, {fate}")

    def _schedule_execution(self, parent: Execution | None) -> Execution:
        """A start that a message will carry. It counts once the message is sent."""
        instance_id = self._choose_instance_id(REUSED_AFTER)
        self._reserved_ids.add(instance_id)
        return self._new_execution(instance_id, Phase.SCHEDULED, parent)

    def _new_execution(self, instance_id: str, phase: Phase, parent: Execution | None = None) -> Execution:
        self._execution_count += 1
        before = self.executions.get(instance_id)
        execution = Execution(
            self._execution_count, instance_id, self._rng.choice(_FUNCTIONS), phase, self._now(), parent=parent
        )
        if before is not None:
            self._context.tally["id taken again"] += 1
            execution.row, execution.latest_event, execution.row_written_at = (
                before.row,
                before.latest_event,
                before.row_written_at,
            )
        if phase is not Phase.SCHEDULED:
            self.executions[instance_id] = execution
        return execution

    def _choose_instance_id(self, unused_seconds: float) -> str:
        """A new id, or one whose last execution ended at least `unused_seconds` ago."""
        over = [
            execution
            for execution in self.executions.values()
            if execution.phase is Phase.ENDED
            and time.monotonic() - execution.row_written_at > unused_seconds
            and execution.instance_id not in self._reserved_ids
        ]
        if not over or not self._happens(0.5):
            return self._new_instance_id()
        latest = max(over, key=lambda execution: execution.row_written_at)
        return (latest if self._happens(0.5) else self._rng.choice(over)).instance_id

    def _new_instance_id(self) -> str:
        number = self._rng.getrandbits(128)
        return self._rng.choice((f"{number:032x}", f"order-{number % 10000}", f"Z/{number % 1000}#é", f"{number}"))

    def _random_outcome(self) -> str:
        return self._rng.choice(("Completed", "Completed", "Failed"))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(time.time() + self._rng.choice(self._context.traits.clock_skews), UTC)

    def _happens(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _log(self, execution: Execution, entry: str) -> None:
        self._context.log.append(f"      {execution.instance_id[:12]} ({execution.number}): {entry}")
