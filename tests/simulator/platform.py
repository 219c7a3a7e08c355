"""The platform as docs/platform.md describes it: orchestrations, their rows, and the events of the extension.

It writes rows and messages to a ProviderStorage, and publishes events to a SimulatedEventGrid."""

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

PURGE_WEIGHTS = {**DEFAULT_WEIGHTS, "finish": 8.0, "detach": 8.0, "purge": 8.0, "start": 12.0}
"""The frequencies for task hubs whose messages cannot be seen: more instances end and are purged."""

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
"""The frequencies while the server reads, so that an instance is always active, but none stays active for long."""

AFTER_DRAIN_WEIGHTS = {"begin": 4.0, "finish": 2.0, "continue as new": 2.0, "go on": 1.0}
"""The frequencies just after a task hub was found drained."""

_MOVES_TOWARDS_THE_END = ("go on", "begin", "resume", "finish")

_SINGLE_EPISODE_PROBABILITY = 0.2
"""An orchestration ends in its first episode."""
_NEXT_GENERATION_IN_EPISODE_PROBABILITY = 0.5
"""An episode that continues as new starts the next generation too."""
_GENERATION_GAP_PROBABILITY = 0.3
"""The next generation does not start at once."""
_REUSE_PROBABILITY = 0.5
"""A start uses an id again."""
_LATEST_REUSED_PROBABILITY = 0.5
"""A start that uses an id again takes that of the execution that ended last."""
_FUNCTIONS = ("ProcessOrder", "Ship", "NightlySync", "Käse")
MIN_REUSE_DELAY_SECONDS = 1.6
"""Seconds after the end of an execution before a start without a row may use its id again.

The table and the events cannot distinguish two executions of an id within the clock tolerance of one second.
"""


Move = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class PlatformContext:
    """The storage, Event Grid, random source and log of a simulated platform."""

    hub: str
    parameters: SimulationParameters
    rng: random.Random
    storage: ProviderStorage
    transport: SimulatedEventGrid
    timeline: ActivityTimeline
    tally: Counter[str]
    log: list[str]


class SimulatedPlatform:
    """One task hub and the app that runs on it. `executions` has the latest execution of each id."""

    def __init__(self, context: PlatformContext) -> None:
        self._context = context
        self._rng = context.rng
        self._client_starts_left = context.parameters.root_instances
        self._execution_count = 0
        self._signal_count = 0
        self._without_faults = False
        # Ids that a message is about to start. No other start takes them.
        self._reserved_ids: set[str] = set()
        self.executions: dict[str, Execution] = {}

    async def make_random_move(self, weights: Mapping[str, float], *, without_faults: bool = False) -> None:
        """Make one of the moves that are possible now. `without_faults`: no worker crashes or is slow."""
        moves = {name: move for name, move in self._possible_moves().items() if weights.get(name)}
        names = sorted(moves)
        if names:
            self._without_faults = without_faults
            name = self._rng.choices(names, [weights[name] for name in names])[0]
            await self._make_move(name, self._rng.choice(moves[name]))
            self._without_faults = False

    async def start_instance(self) -> None:
        """Start an instance as a client does, under a new id or under that of an instance that has ended."""
        instance_id = self._choose_instance_id(unused_seconds=0.0)
        await self._make_move("restart", partial(self._start_pending, instance_id))

    async def start_and_run_instance(self) -> str:
        """Start an instance as a client does, and run its first episode. Returns its id."""
        instance_id = self._new_instance_id()
        await self._make_move("start", partial(self._start_pending, instance_id))
        self._without_faults = True
        await self._run_episode(self.executions[instance_id], Episode(["Running"], "Running", Phase.RUNNING))
        self._without_faults = False
        return instance_id

    async def purge(self, instance_id: str) -> bool:
        """Purge an instance. Returns False if that is not possible, because it has not ended or is to start again."""
        execution = self.executions[instance_id]
        purge_move = self._possible_moves_of(execution).get("purge")
        if purge_move is not None:
            await self._make_move("purge", purge_move)
        return purge_move is not None

    async def start_by_message(self, instance_id: str) -> None:
        """Start an instance again under its id by a message.

        The event of the start is published. The worker is slow and has not written the row yet."""
        restarted = self._new_execution(instance_id, Phase.SCHEDULED)
        self.executions[instance_id] = restarted
        await self._context.storage.send_start_message(instance_id, restarted.function)
        restarted.episode = Episode(["Running"], "Running", Phase.RUNNING)
        self._publish_events(restarted, restarted.episode.statuses)
        self._context.tally["purged and started again"] += 1

    async def drain(self, remaining: int = 0) -> None:
        """Let all orchestrations end, except `remaining` of them and those that wait for these."""
        active = self._find_active_executions()
        kept_active = self._rng.sample(active, min(remaining, len(active)))
        self._without_faults = True
        while ending_moves := [
            (name, move)
            for execution in self._find_active_executions()
            if execution not in kept_active
            for name, move in self._possible_moves_of(execution).items()
            if name in _MOVES_TOWARDS_THE_END
        ]:
            await self._make_move(*ending_moves[0])
        self._without_faults = False

    def _find_active_executions(self) -> list[Execution]:
        """The executions that have not ended, or whose last episode is not checkpointed."""
        return [
            execution
            for execution in self.executions.values()
            if execution.phase is not Phase.ENDED or execution.episode is not None
        ]

    async def _make_move(self, name: str, move: Move) -> None:
        """Make a move of the simulation, and note it in the log."""
        self._context.log.append(f"{self._context.transport.step:3} {name}")
        self._context.tally[name] += 1
        await move()

    def _possible_moves(self) -> dict[str, list[Move]]:
        """What can happen next in the task hub, by the name of the kind of move."""
        moves: dict[str, list[Move]] = {"entity": [self._signal_entity]}
        if self._client_starts_left:
            moves["start"], moves["start delayed"] = [self._start], [self._start_delayed]
        for execution in self.executions.values():
            for name, move in self._possible_moves_of(execution).items():
                moves.setdefault(name, []).append(move)
        return moves

    def _possible_moves_of(self, execution: Execution) -> dict[str, Move]:
        """What can happen next to one execution, by the name of the kind of move."""
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
                # A sub-orchestration goes on when its parent is terminated.
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

    # Moves of clients.

    async def _start(self) -> None:
        """Let a client start a new orchestration."""
        self._client_starts_left -= 1
        await self._start_pending(self._new_instance_id())

    async def _start_delayed(self) -> None:
        """Let a client start an orchestration that begins only some steps later."""
        self._client_starts_left -= 1
        await self._start_pending(self._new_instance_id(), delay=self._rng.randint(3, 12))

    async def _restart(self, execution: Execution) -> None:
        """Start an instance again under the id that it has had."""
        await self._start_pending(execution.instance_id)

    async def _start_pending(self, instance_id: str, delay: int = 0) -> None:
        """Start an instance as a client does, which writes its row at once. It begins `delay` steps later."""
        execution = self._new_execution(instance_id, Phase.PENDING)
        execution.not_before = self._context.transport.step + delay
        await self._write_row(execution, "Pending")

    async def _terminate(self, execution: Execution) -> None:
        """Terminate an execution. Which event that publishes, if any, is a parameter of the history."""
        status = self._context.parameters.terminated_status
        await self._run_episode(execution, Episode([status] if status else [], "Terminated", Phase.ENDED))

    async def _purge(self, execution: Execution) -> None:
        """Delete the row of an instance that has ended."""
        await self._context.storage.delete_row(execution.instance_id)
        execution.row = None
        self._log(execution, "purged")

    # Moves of orchestrations.

    async def _begin_execution(self, execution: Execution) -> None:
        """A worker runs the first episode of an execution."""
        if self._draw_bool(_SINGLE_EPISODE_PROBABILITY):
            # The orchestration awaits nothing, so it ends in its first episode.
            self._context.tally["one episode"] += 1
            outcome = self._random_outcome()
            await self._run_episode(execution, Episode(["Running", outcome], outcome, Phase.ENDED))
        else:
            await self._run_episode(execution, Episode(["Running"], "Running", Phase.RUNNING))

    async def _finish(self, execution: Execution) -> None:
        """End an execution."""
        outcome = self._random_outcome()
        await self._run_episode(execution, Episode([outcome], outcome, Phase.ENDED))

    async def _continue_as_new(self, execution: Execution) -> None:
        """End this generation. The next one starts in the same episode, right after it, or by a later move."""
        if self._draw_bool(_NEXT_GENERATION_IN_EPISODE_PROBABILITY):
            await self._run_episode(execution, Episode(["Completed", "Running"], "Running", Phase.RUNNING))
            return
        row = self._rng.choice(("ContinuedAsNew", "Running"))
        await self._run_episode(execution, Episode(["Completed"], row, Phase.CONTINUING_AS_NEW))
        if execution.phase is Phase.CONTINUING_AS_NEW and not self._draw_bool(_GENERATION_GAP_PROBABILITY):
            await self._start_next_generation(execution)

    async def _start_next_generation(self, execution: Execution) -> None:
        """Go on after continue-as-new, as a new execution of the same instance."""
        await self._run_episode(execution, Episode(["Running"], "Running", Phase.RUNNING))

    async def _call_sub_orchestration(self, execution: Execution) -> None:
        """Start a sub-orchestration and wait for it."""
        await self._run_episode(
            execution, Episode([], "Running", Phase.WAITING, started_execution=self._schedule_execution(execution))
        )

    async def _hand_over(self, execution: Execution) -> None:
        """Let an activity of the orchestration start another one as a client does, and let the orchestration end."""
        await self._start_pending(self._choose_instance_id(0.0))
        await self._finish(execution)

    async def _start_detached_and_end(self, execution: Execution) -> None:
        """Let the orchestration start another one without waiting for it, and end."""
        outcome = self._random_outcome()
        await self._run_episode(
            execution, Episode([outcome], outcome, Phase.ENDED, started_execution=self._schedule_execution(None))
        )

    async def _signal_entity(self) -> None:
        """Send a signal to one of three entities: it publishes Running and writes its row, and must never block."""
        self._signal_count += 1
        execution = Execution(0, f"@counter@{self._signal_count % 3}", "counter", Phase.RUNNING, self._now())
        self._publish_events(execution, ["Running"])
        await self._context.storage.write_row(execution.instance_id, "Running", execution.function, execution.created)

    # Episodes.

    async def _run_episode(self, execution: Execution, episode: Episode) -> None:
        """Publish the events of an episode and checkpoint it. The worker may crash, or be slow, before the
        checkpoint."""
        self._publish_events(execution, episode.statuses)
        execution.episode = episode
        if not self._without_faults:
            if self._draw_bool(self._context.parameters.crash_probability):
                self._context.tally["crash"] += 1
                self._log(execution, "crashed before its checkpoint")
                episode.has_crashed = True
                return
            if self._draw_bool(self._context.parameters.slow_probability):
                self._context.tally["slow checkpoint"] += 1
                self._log(execution, "slow before its checkpoint")
                return
        await self._checkpoint(execution, episode)

    async def _continue_episode(self, execution: Execution) -> None:
        """Run a crashed episode again, which publishes its events again, or checkpoint a slow one."""
        episode = execution.episode
        assert episode is not None, "only open episodes go on"
        if episode.has_crashed:
            episode.has_crashed = False
            await self._run_episode(execution, episode)
        else:
            await self._checkpoint(execution, episode)

    async def _checkpoint(self, execution: Execution, episode: Episode) -> None:
        """Send the messages of an episode, and then write its row."""
        if episode.started_execution is not None:
            await self._context.storage.send_start_message(
                episode.started_execution.instance_id, episode.started_execution.function
            )
            if not self._context.parameters.messages_unseen:
                self._context.timeline.record_start(episode.started_execution.instance_id)
            # From here on the start exists: as a message.
            self.executions[episode.started_execution.instance_id] = episode.started_execution
            self._reserved_ids.discard(episode.started_execution.instance_id)
        is_first_episode = execution.is_scheduled
        await self._write_row(execution, episode.row)
        if is_first_episode:
            await self._context.storage.delete_start_message(execution.instance_id)
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
        """Let a worker that has lost the instance to another worker publish events. It cannot checkpoint."""
        self._publish_events(execution, self._rng.choice((["Running"], ["Completed"], ["Running", "Completed"])))

    # Rows, events and ids.

    async def _write_phase(self, execution: Execution, status: str, phase: Phase) -> None:
        """Write the row of an execution that enters another phase."""
        execution.phase = phase
        await self._write_row(execution, status)
        self._context.tally[f"row {status}"] += 1

    async def _write_row(self, execution: Execution, status: str) -> None:
        """Write the instance's row. The timeline counts an end from before the write and a start from after it, so that
        it never calls a right verdict wrong."""
        if status in ENDED_STATUS_NAMES:
            self._context.timeline.record_end(execution.instance_id)
        await self._context.storage.write_row(execution.instance_id, status, execution.function, execution.created)
        if status not in ENDED_STATUS_NAMES:
            self._context.timeline.record_start(execution.instance_id)
        execution.row = status
        execution.row_written_at = time.monotonic()
        self._log(execution, f"row {status}")

    def _publish_events(self, execution: Execution, statuses: Sequence[str]) -> None:
        """Publish lifecycle events with the times of a clock that may be wrong."""
        moment = time.time() + self._rng.choice(self._context.parameters.clock_skews)
        for status in statuses:
            # Two events of one episode are a few milliseconds apart, or less.
            moment += self._rng.choice((0.00002, 0.001, 0.004))
            at = Instant(int(moment * TICKS_PER_SECOND))
            event_body = event(
                self._context.hub,
                execution.instance_id,
                status,
                time=format_instant(at),
                function=execution.function,
            )
            published = PublishedEvent(event_body, execution.instance_id, status, at, execution.number)
            if execution.latest_event is None or at > execution.latest_event.occurred_at:
                execution.latest_event = published
            delivery_note = self._context.transport.publish(published)
            self._log(execution, f"published {status} at {format_instant(at)[17:]}, {delivery_note}")

    def _schedule_execution(self, parent: Execution | None) -> Execution:
        """Choose the instance that a message is to start. It is active once the message is sent."""
        instance_id = self._choose_instance_id(MIN_REUSE_DELAY_SECONDS)
        self._reserved_ids.add(instance_id)
        return self._new_execution(instance_id, Phase.SCHEDULED, parent)

    def _new_execution(self, instance_id: str, phase: Phase, parent: Execution | None = None) -> Execution:
        """Create an execution. If its instance id was used before, the row and the latest event of the previous
        execution stay."""
        self._execution_count += 1
        previous = self.executions.get(instance_id)
        execution = Execution(
            self._execution_count, instance_id, self._rng.choice(_FUNCTIONS), phase, self._now(), parent=parent
        )
        if previous is not None:
            self._context.tally["id taken again"] += 1
            execution.row, execution.latest_event, execution.row_written_at = (
                previous.row,
                previous.latest_event,
                previous.row_written_at,
            )
        if phase is not Phase.SCHEDULED:
            self.executions[instance_id] = execution
        return execution

    def _choose_instance_id(self, unused_seconds: float) -> str:
        """A new id, or one whose last execution ended at least `unused_seconds` ago."""
        ended_executions = [
            execution
            for execution in self.executions.values()
            if execution.phase is Phase.ENDED
            and time.monotonic() - execution.row_written_at > unused_seconds
            and execution.instance_id not in self._reserved_ids
        ]
        if not ended_executions or not self._draw_bool(_REUSE_PROBABILITY):
            return self._new_instance_id()
        latest = max(ended_executions, key=lambda execution: execution.row_written_at)
        return (
            latest if self._draw_bool(_LATEST_REUSED_PROBABILITY) else self._rng.choice(ended_executions)
        ).instance_id

    def _new_instance_id(self) -> str:
        """A random id, in one of the forms that real ids have. Some of them sort far apart in the table."""
        number = self._rng.getrandbits(128)
        return self._rng.choice((f"{number:032x}", f"order-{number % 10000}", f"Z/{number % 1000}#é", f"{number}"))

    def _random_outcome(self) -> str:
        """How an execution ends. Two of three complete."""
        return self._rng.choice(("Completed", "Completed", "Failed"))

    def _now(self) -> datetime:
        """The present time by the clock of some worker, which may differ from the others."""
        return datetime.fromtimestamp(time.time() + self._rng.choice(self._context.parameters.clock_skews), UTC)

    def _draw_bool(self, probability: float) -> bool:
        """True with this probability."""
        return self._rng.random() < probability

    def _log(self, execution: Execution, entry: str) -> None:
        """Note what has happened to an execution."""
        self._context.log.append(f"      {execution.instance_id[:12]} ({execution.number}): {entry}")
