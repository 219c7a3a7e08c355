"""How an orchestration of the simulated platform runs: in episodes, each of which publishes events, sends messages and
writes a row. Between two of these steps a worker may crash or be slow."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant
from tests.backends.azure_storage_task_hub import ENDED_STATUS_NAMES
from tests.builders import event
from tests.simulator.activity_timeline import ActivityTimeline
from tests.simulator.event_grid import PublishedEvent, SimulatedEventGrid
from tests.simulator.executions import Episode, Execution, Phase, ProviderStorage
from tests.simulator.parameters import SimulationParameters

_REUSE_PROBABILITY = 0.5
"""A start uses an id again."""
_LATEST_REUSED_PROBABILITY = 0.5
"""A start that uses an id again takes that of the execution that ended last."""
_FUNCTIONS = ("ProcessOrder", "Ship", "NightlySync", "Käse")
MIN_REUSE_DELAY_SECONDS = 1.6
"""Seconds after the end of an execution before a start without a row may use its id again.

The table and the events cannot distinguish two executions of an id within the clock tolerance of one second.
"""


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


class EpisodeRunner:
    """Runs the episodes of all executions of one task hub. `executions` has the latest execution of each id.

    While `without_faults` is set, no worker crashes or is slow."""

    def __init__(self, context: PlatformContext) -> None:
        """Begin without any execution."""
        self._context = context
        self._rng = context.rng
        self._execution_count = 0
        self.without_faults = False
        self.reserved_ids: set[str] = set()
        """Ids that a message is about to start. No other start takes them."""
        self.executions: dict[str, Execution] = {}

    async def run(self, execution: Execution, episode: Episode) -> None:
        """Publish the events of an episode and checkpoint it. The worker may crash, or be slow, before the
        checkpoint."""
        self.publish_events(execution, episode.statuses)
        execution.episode = episode
        if not self.without_faults:
            if self.draw_bool(self._context.parameters.crash_probability):
                self._context.tally["crash"] += 1
                self.log(execution, "crashed before its checkpoint")
                episode.has_crashed = True
                return
            if self.draw_bool(self._context.parameters.slow_probability):
                self._context.tally["slow checkpoint"] += 1
                self.log(execution, "slow before its checkpoint")
                return
        await self._checkpoint(execution, episode)

    async def continue_open(self, execution: Execution) -> None:
        """Run a crashed episode again, which publishes its events again, or checkpoint a slow one."""
        episode = execution.episode
        assert episode is not None, "only open episodes go on"
        if episode.has_crashed:
            episode.has_crashed = False
            await self.run(execution, episode)
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
            self.reserved_ids.discard(episode.started_execution.instance_id)
        is_first_episode = execution.is_scheduled
        await self.write_row(execution, episode.row)
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

    async def run_stale(self, execution: Execution) -> None:
        """Let a worker that has lost the instance to another worker publish events. It cannot checkpoint."""
        self.publish_events(execution, self._rng.choice((["Running"], ["Completed"], ["Running", "Completed"])))

    async def write_phase(self, execution: Execution, status: str, phase: Phase) -> None:
        """Write the row of an execution that enters another phase."""
        execution.phase = phase
        await self.write_row(execution, status)
        self._context.tally[f"row {status}"] += 1

    async def write_row(self, execution: Execution, status: str) -> None:
        """Write the instance's row. The timeline counts an end from before the write and a start from after it, so that
        it never calls a right verdict wrong."""
        if status in ENDED_STATUS_NAMES:
            self._context.timeline.record_end(execution.instance_id)
        await self._context.storage.write_row(execution.instance_id, status, execution.function, execution.created)
        if status not in ENDED_STATUS_NAMES:
            self._context.timeline.record_start(execution.instance_id)
        execution.row = status
        execution.row_written_at = time.monotonic()
        self.log(execution, f"row {status}")

    def publish_events(self, execution: Execution, statuses: Sequence[str]) -> None:
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
            self.log(execution, f"published {status} at {format_instant(at)[17:]}, {delivery_note}")

    def schedule_execution(self, parent: Execution | None) -> Execution:
        """Choose the instance that a message is to start. It is active once the message is sent."""
        instance_id = self.choose_instance_id(MIN_REUSE_DELAY_SECONDS)
        self.reserved_ids.add(instance_id)
        return self.new_execution(instance_id, Phase.SCHEDULED, parent)

    def new_execution(self, instance_id: str, phase: Phase, parent: Execution | None = None) -> Execution:
        """Create an execution. If its instance id was used before, the row and the latest event of the previous
        execution stay."""
        self._execution_count += 1
        previous = self.executions.get(instance_id)
        execution = Execution(
            self._execution_count, instance_id, self._rng.choice(_FUNCTIONS), phase, self.now(), parent=parent
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

    def choose_instance_id(self, unused_seconds: float) -> str:
        """A new id, or one whose last execution ended at least `unused_seconds` ago."""
        ended_executions = [
            execution
            for execution in self.executions.values()
            if execution.phase is Phase.ENDED
            and time.monotonic() - execution.row_written_at > unused_seconds
            and execution.instance_id not in self.reserved_ids
        ]
        if not ended_executions or not self.draw_bool(_REUSE_PROBABILITY):
            return self.new_instance_id()
        latest = max(ended_executions, key=lambda execution: execution.row_written_at)
        return (
            latest if self.draw_bool(_LATEST_REUSED_PROBABILITY) else self._rng.choice(ended_executions)
        ).instance_id

    def new_instance_id(self) -> str:
        """A random id, in one of the forms that real ids have. Some of them sort far apart in the table."""
        number = self._rng.getrandbits(128)
        return self._rng.choice((f"{number:032x}", f"order-{number % 10000}", f"Z/{number % 1000}#é", f"{number}"))

    def random_outcome(self) -> str:
        """How an execution ends. Two of three complete."""
        return self._rng.choice(("Completed", "Completed", "Failed"))

    def now(self) -> datetime:
        """The present time by the clock of some worker, which may differ from the others."""
        return datetime.fromtimestamp(time.time() + self._rng.choice(self._context.parameters.clock_skews), UTC)

    def draw_bool(self, probability: float) -> bool:
        """True with this probability."""
        return self._rng.random() < probability

    def log(self, execution: Execution, entry: str) -> None:
        """Note what has happened to an execution."""
        self._context.log.append(f"      {execution.instance_id[:12]} ({execution.number}): {entry}")
