"""Starts on their way: an orchestration that is about to start can be nothing but a message in a control queue.

Pure. A backend takes a `QueueSnapshot`; this module says which of its messages can still start an orchestration.
docs/correctness.md has the argument.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.exemptions import Exemptions

MAX_PEEKED_MESSAGES = 32
"""Messages that a storage queue shows at a time, without taking them (Azure Queue storage, Peek Messages)."""

MAX_LISTED_STARTS = 20
"""Pending starts that a verdict lists; it counts all."""

MAX_ABANDON_DELAY_SECONDS = 600
"""How long the provider hides a message that a worker has abandoned, at most (DurableTask.AzureStorage,
TaskHubQueue.AbandonMessageAsync)."""

VISIBILITY_MARGIN_SECONDS = 30
"""What the time rule waits beyond the longest time for which a message can be hidden."""

TIMER_EARLY_MARGIN = seconds(10)
"""A timer this close to its `FireAt` explains no invisible message: workers compute the delay by their own clocks, and
queues hide messages for whole seconds, so that a timer fires up to a second early (run on the real extension)."""

TIMER_LATE_MARGIN = seconds(60)
"""How long after its `FireAt` a timer's message may still be counted: until a worker has polled, or for ever where the
app is stopped; then it is visible."""

MAX_REMEMBERED_TIMERS = 5_000
"""Pending timers that are remembered for one task hub. With more, the histories are read anew each time."""


class MessageKind(StrEnum):
    """What a message in a control queue can do."""

    START = "start"
    """Starts or revives an orchestration."""
    ENTITY = "entity"
    """Is for an entity, whose code can start orchestrations."""
    UNREADABLE = "unreadable"
    """Cannot be read, so it may be a start."""
    OTHER = "other"
    """An event, a timer or a result. It does nothing to an instance that has ended."""


@dataclass(frozen=True, slots=True)
class VisibleMessage:
    """A message that can be peeked. `function_name` is that of the orchestrator or entity, empty where the message does
    not say it."""

    message_id: str
    dequeue_count: int
    kind: MessageKind
    instance_id: str = ""
    function_name: str = ""


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """The control queues of a task hub at one moment. `message_count` includes invisible messages. `visible` are the
    messages that were peeked before or after the counting, at most MAX_PEEKED_MESSAGES of each queue each time.
    `message_count` surely includes those that were `peeked_twice`, before and after. `more_visible` says that a queue
    may hold more than could be peeked. `partition_owners` changes when another worker takes over a partition."""

    message_count: int = 0
    visible: tuple[VisibleMessage, ...] = ()
    peeked_twice: int = 0
    more_visible: bool = False
    partition_owners: str = ""

    @property
    def invisible(self) -> int:
        """Never fewer than the messages that were invisible all the time."""
        return max(0, self.message_count - self.peeked_twice)


@dataclass(frozen=True, slots=True)
class PendingTimer:
    """A timer that has been created and has not fired. `key` identifies it within the task hub."""

    key: int
    fire_at: Instant


@dataclass(frozen=True, slots=True)
class KnownTimers:
    """The pending timers that the histories of a task hub show. `read_through` is the provider's time up to which all
    histories are read, None before the first complete read. `cursor` is where an unfinished read goes on and
    `reading_since` when it began. `truncated` says that some of the timers were too many to be remembered."""

    timers: tuple[PendingTimer, ...] = ()
    read_through: Instant | None = None
    cursor: str | None = None
    reading_since: Instant | None = None
    truncated: bool = False

    def count_pending(self, after: Instant) -> int:
        """How many of the timers fire later than `after`."""
        return sum(timer.fire_at > after for timer in self.timers)

    def merge_timers(self, found: Iterable[PendingTimer], now: Instant) -> "tuple[PendingTimer, ...]":
        """These timers and `found`, each once, without those that fired long ago."""
        known = {timer.key: timer for timer in (*self.timers, *found)}
        return tuple(timer for timer in known.values() if timer.fire_at > now - TIMER_LATE_MARGIN)

    def limit_size(self) -> "KnownTimers":
        """What is remembered until the next probe: at most MAX_REMEMBERED_TIMERS, so that it fits into a row. What is
        left out explains nothing, which is safe."""
        if len(self.timers) <= MAX_REMEMBERED_TIMERS:
            return self
        if self.cursor is None:
            return KnownTimers()
        latest = sorted(self.timers, key=lambda timer: timer.fire_at)[-MAX_REMEMBERED_TIMERS:]
        return replace(self, timers=tuple(latest), truncated=True)


@dataclass(frozen=True, slots=True)
class QuietPeriod:
    """Since when invisible messages that nothing explains have been there without any change.

    A change is another number of unexplained messages, another row stamp since `changed_since` (`stamp_digest` is their
    digest), or another `queue_digest`: a visible message, a recorded event, a worker that took over a partition.
    `exemptions` is the key of the exemptions that it was observed under.
    """

    exemptions_key: str
    began_at: Instant
    changed_since: Instant
    stamp_digest: int
    unexplained_count: int
    queue_digest: str


@dataclass(frozen=True, slots=True)
class MessageState:
    """What is remembered of a task hub's messages between two probes. `backend_id` is where they are: what was seen in
    another storage account says nothing."""

    backend_id: str = ""
    timers: KnownTimers = KnownTimers()
    quiet_period: QuietPeriod | None = None


@dataclass(frozen=True, slots=True)
class PendingStart:
    """An orchestration that is about to start. Both are empty where a message cannot be read."""

    instance_id: str
    function_name: str


@dataclass(frozen=True, slots=True)
class MessageEvidence:
    """What a probe found in the control queues. `explained` are the invisible messages that start nothing. `starts` are
    the oldest pending starts that block, `start_count` all of them; `more_visible` says that there may be others.
    `unexplained` are the invisible messages that block, at the latest until `unblocks_at` if nothing changes. `waived`
    are those that would block without a waiver."""

    checked_at: Instant
    visible: int = 0
    invisible: int = 0
    explained: int = 0
    starts: tuple[PendingStart, ...] = ()
    start_count: int = 0
    more_visible: bool = False
    unexplained_count: int = 0
    unblocks_at: Instant | None = None
    waived: int = 0

    @property
    def has_pending_starts(self) -> bool:
        """Whether an orchestration is, or may be, about to start."""
        return self.start_count > 0 or self.more_visible or self.unexplained_count > 0


@dataclass(frozen=True, slots=True)
class ObservedQueues:
    """A snapshot that was taken between `began_at` and `ended_at`, by the state storage's clock. Of the timers that
    were known before, `pending` surely have a hidden message in it; `possibly_pending_timers` also counts those that
    are firing."""

    snapshot: QueueSnapshot
    pending_timers: int
    possibly_pending_timers: int
    began_at: Instant
    ended_at: Instant

    @classmethod
    def from_snapshot(
        cls, snapshot: QueueSnapshot, timers: KnownTimers, began_at: Instant, ended_at: Instant
    ) -> "ObservedQueues":
        return cls(
            snapshot,
            timers.count_pending(Instant(ended_at + TIMER_EARLY_MARGIN)),
            timers.count_pending(Instant(began_at - TIMER_LATE_MARGIN)),
            began_at,
            ended_at,
        )

    @property
    def unexplained_count(self) -> int:
        """Invisible messages that are no known timer's."""
        return max(0, self.snapshot.invisible - self.pending_timers)


def max_hidden_seconds(message_visibility_seconds: int) -> int:
    """How long a message can stay invisible before a worker or a peek sees it again, with a margin."""
    return max(message_visibility_seconds, MAX_ABANDON_DELAY_SECONDS) + VISIBILITY_MARGIN_SECONDS


def compute_queue_digest(snapshot: QueueSnapshot, last_recorded_at: Instant | None) -> str:
    """A text that changes with every visible message, recorded event and change of a partition's owner."""
    visible = sorted((message.message_id, message.dequeue_count) for message in snapshot.visible)
    text = repr((visible, snapshot.more_visible, snapshot.partition_owners, last_recorded_at))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def track_quiet_period(
    previous: QuietPeriod | None,
    observed: ObservedQueues,
    *,
    key: str,
    changed_since: Instant,
    stamp_digest: int,
    queue_digest: str,
) -> QuietPeriod | None:
    """The quiet period after this look: the one before if nothing has changed, else a new one; None if every invisible
    message is explained. `changed_since` and `stamp_digest` are those of the scan that the look belongs to."""
    if observed.unexplained_count == 0:
        return None
    lowest = max(0, observed.snapshot.invisible - observed.possibly_pending_timers)
    if (
        previous is not None
        and (previous.exemptions_key, previous.changed_since, previous.stamp_digest, previous.queue_digest)
        == (key, changed_since, stamp_digest, queue_digest)
        and lowest <= previous.unexplained_count <= observed.unexplained_count
    ):
        return previous
    return QuietPeriod(key, observed.ended_at, changed_since, stamp_digest, observed.unexplained_count, queue_digest)


def assess_messages(
    observed: ObservedQueues, quiet_period: QuietPeriod | None, exemptions: Exemptions, *, max_hidden_seconds: int
) -> MessageEvidence:
    """What the look says. Unexplained messages block until they were seen unchanged for `max_hidden_seconds` seconds,
    or are waived. Only the time until the look counts: what happened to them since is not known."""
    snapshot = observed.snapshot
    starts = _pending_starts(snapshot.visible, exemptions)
    unexplained = observed.unexplained_count
    waived = 0
    unblocks_at: Instant | None = None
    if unexplained and exemptions.waived_messages >= unexplained:
        unexplained, waived = 0, unexplained
    elif unexplained and quiet_period is not None:
        unblocks_at = Instant(quiet_period.began_at + seconds(max_hidden_seconds))
        if observed.began_at >= unblocks_at and unexplained <= quiet_period.unexplained_count:
            unexplained, unblocks_at = 0, None
    return MessageEvidence(
        checked_at=observed.began_at,
        visible=len(snapshot.visible),
        invisible=snapshot.invisible,
        explained=snapshot.invisible - unexplained,
        starts=tuple(starts[:MAX_LISTED_STARTS]),
        start_count=len(starts),
        more_visible=snapshot.more_visible,
        unexplained_count=unexplained,
        unblocks_at=unblocks_at,
        waived=waived,
    )


def _pending_starts(visible: Sequence[VisibleMessage], exemptions: Exemptions) -> list[PendingStart]:
    return [
        PendingStart(message.instance_id, message.function_name)
        for message in visible
        if message.kind is MessageKind.UNREADABLE
        or (
            message.kind in (MessageKind.START, MessageKind.ENTITY)
            and not exemptions.exempts(message.function_name, message.instance_id)
        )
    ]
