"""The platform as docs/platform.md describes it: what clients and orchestrations can do next on a task hub.

The episodes in which orchestrations do it, with their rows, messages and events, are in tests/simulator/episodes.py."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from tests.simulator.episodes import EpisodeRunner, PlatformContext
from tests.simulator.executions import Episode, Execution, Phase

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


Move = Callable[[], Awaitable[None]]


class SimulatedPlatform:
    """One task hub and the app that runs on it. `executions` has the latest execution of each id."""

    def __init__(self, context: PlatformContext) -> None:
        """Begin with an empty task hub."""
        self._context = context
        self._rng = context.rng
        self._episodes = EpisodeRunner(context)
        self._client_starts_left = context.parameters.root_instances
        self._signal_count = 0

    @property
    def executions(self) -> dict[str, Execution]:
        """The latest execution of each instance id."""
        return self._episodes.executions

    async def make_random_move(self, weights: Mapping[str, float], *, without_faults: bool = False) -> None:
        """Make one of the moves that are possible now. `without_faults`: no worker crashes or is slow."""
        moves = {name: move for name, move in self._possible_moves().items() if weights.get(name)}
        names = sorted(moves)
        if names:
            self._episodes.without_faults = without_faults
            name = self._rng.choices(names, [weights[name] for name in names])[0]
            await self._make_move(name, self._rng.choice(moves[name]))
            self._episodes.without_faults = False

    async def start_instance(self) -> None:
        """Start an instance as a client does, under a new id or under that of an instance that has ended."""
        instance_id = self._episodes.choose_instance_id(unused_seconds=0.0)
        await self._make_move("restart", partial(self._start_pending, instance_id))

    async def start_and_run_instance(self) -> str:
        """Start an instance as a client does, and run its first episode. Returns its id."""
        instance_id = self._episodes.new_instance_id()
        await self._make_move("start", partial(self._start_pending, instance_id))
        self._episodes.without_faults = True
        await self._episodes.run(self.executions[instance_id], Episode(["Running"], "Running", Phase.RUNNING))
        self._episodes.without_faults = False
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
        restarted = self._episodes.new_execution(instance_id, Phase.SCHEDULED)
        self.executions[instance_id] = restarted
        await self._context.storage.send_start_message(instance_id, restarted.function)
        restarted.episode = Episode(["Running"], "Running", Phase.RUNNING)
        self._episodes.publish_events(restarted, restarted.episode.statuses)
        self._context.tally["purged and started again"] += 1

    async def drain(self, remaining: int = 0) -> None:
        """Let all orchestrations end, except `remaining` of them and those that wait for these."""
        active = self._find_active_executions()
        kept_active = self._rng.sample(active, min(remaining, len(active)))
        self._episodes.without_faults = True
        while ending_moves := [
            (name, move)
            for execution in self._find_active_executions()
            if execution not in kept_active
            for name, move in self._possible_moves_of(execution).items()
            if name in _MOVES_TOWARDS_THE_END
        ]:
            await self._make_move(*ending_moves[0])
        self._episodes.without_faults = False

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
            return {"go on": partial(self._episodes.continue_open, execution)}
        terminate = partial(self._terminate, execution)
        match execution.phase:
            case Phase.SCHEDULED:
                return {"begin": partial(self._begin_execution, execution)}
            case Phase.PENDING:
                is_due = self._episodes.without_faults or self._context.transport.step >= execution.not_before
                return {"begin": partial(self._begin_execution, execution)} if is_due else {"terminate": terminate}
            case Phase.CONTINUING_AS_NEW:
                return {"go on": partial(self._start_next_generation, execution)}
            case Phase.SUSPENDED:
                return {
                    "resume": partial(self._episodes.write_phase, execution, "Running", Phase.RUNNING),
                    "terminate": terminate,
                }
            case Phase.WAITING:
                # A sub-orchestration goes on when its parent is terminated.
                return {"terminate": terminate}
            case Phase.ENDED if execution.instance_id in self._episodes.reserved_ids:
                return {}
            case Phase.ENDED:
                moves: dict[str, Move] = {
                    "restart": partial(self._restart, execution),
                    "stale episode": partial(self._episodes.run_stale, execution),
                }
                if execution.row is not None:
                    moves["purge"] = partial(self._purge, execution)
                return moves
            case Phase.RUNNING:
                return {
                    "progress": partial(self._episodes.write_phase, execution, "Running", Phase.RUNNING),
                    "finish": partial(self._finish, execution),
                    "suspend": partial(self._episodes.write_phase, execution, "Suspended", Phase.SUSPENDED),
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
        await self._start_pending(self._episodes.new_instance_id())

    async def _start_delayed(self) -> None:
        """Let a client start an orchestration that begins only some steps later."""
        self._client_starts_left -= 1
        await self._start_pending(self._episodes.new_instance_id(), delay=self._rng.randint(3, 12))

    async def _restart(self, execution: Execution) -> None:
        """Start an instance again under the id that it has had."""
        await self._start_pending(execution.instance_id)

    async def _start_pending(self, instance_id: str, delay: int = 0) -> None:
        """Start an instance as a client does, which writes its row at once. It begins `delay` steps later."""
        execution = self._episodes.new_execution(instance_id, Phase.PENDING)
        execution.not_before = self._context.transport.step + delay
        await self._episodes.write_row(execution, "Pending")

    async def _terminate(self, execution: Execution) -> None:
        """Terminate an execution. Which event that publishes, if any, is a parameter of the history."""
        status = self._context.parameters.terminated_status
        await self._episodes.run(execution, Episode([status] if status else [], "Terminated", Phase.ENDED))

    async def _purge(self, execution: Execution) -> None:
        """Delete the row of an instance that has ended."""
        await self._context.storage.delete_row(execution.instance_id)
        execution.row = None
        self._episodes.log(execution, "purged")

    # Moves of orchestrations.

    async def _begin_execution(self, execution: Execution) -> None:
        """A worker runs the first episode of an execution."""
        if self._episodes.draw_bool(_SINGLE_EPISODE_PROBABILITY):
            # The orchestration awaits nothing, so it ends in its first episode.
            self._context.tally["one episode"] += 1
            outcome = self._episodes.random_outcome()
            await self._episodes.run(execution, Episode(["Running", outcome], outcome, Phase.ENDED))
        else:
            await self._episodes.run(execution, Episode(["Running"], "Running", Phase.RUNNING))

    async def _finish(self, execution: Execution) -> None:
        """End an execution."""
        outcome = self._episodes.random_outcome()
        await self._episodes.run(execution, Episode([outcome], outcome, Phase.ENDED))

    async def _continue_as_new(self, execution: Execution) -> None:
        """End this generation. The next one starts in the same episode, right after it, or by a later move."""
        if self._episodes.draw_bool(_NEXT_GENERATION_IN_EPISODE_PROBABILITY):
            await self._episodes.run(execution, Episode(["Completed", "Running"], "Running", Phase.RUNNING))
            return
        row = self._rng.choice(("ContinuedAsNew", "Running"))
        await self._episodes.run(execution, Episode(["Completed"], row, Phase.CONTINUING_AS_NEW))
        if execution.phase is Phase.CONTINUING_AS_NEW and not self._episodes.draw_bool(_GENERATION_GAP_PROBABILITY):
            await self._start_next_generation(execution)

    async def _start_next_generation(self, execution: Execution) -> None:
        """Go on after continue-as-new, as a new execution of the same instance."""
        await self._episodes.run(execution, Episode(["Running"], "Running", Phase.RUNNING))

    async def _call_sub_orchestration(self, execution: Execution) -> None:
        """Start a sub-orchestration and wait for it."""
        await self._episodes.run(
            execution,
            Episode([], "Running", Phase.WAITING, started_execution=self._episodes.schedule_execution(execution)),
        )

    async def _hand_over(self, execution: Execution) -> None:
        """Let an activity of the orchestration start another one as a client does, and let the orchestration end."""
        await self._start_pending(self._episodes.choose_instance_id(0.0))
        await self._finish(execution)

    async def _start_detached_and_end(self, execution: Execution) -> None:
        """Let the orchestration start another one without waiting for it, and end."""
        outcome = self._episodes.random_outcome()
        await self._episodes.run(
            execution,
            Episode([outcome], outcome, Phase.ENDED, started_execution=self._episodes.schedule_execution(None)),
        )

    async def _signal_entity(self) -> None:
        """Send a signal to one of three entities: it publishes Running and writes its row, and must never block."""
        self._signal_count += 1
        execution = Execution(0, f"@counter@{self._signal_count % 3}", "counter", Phase.RUNNING, self._episodes.now())
        self._episodes.publish_events(execution, ["Running"])
        await self._context.storage.write_row(execution.instance_id, "Running", execution.function, execution.created)
