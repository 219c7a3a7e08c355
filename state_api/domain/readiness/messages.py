"""Starts that exist only as messages in the control queues, before the orchestration has a row.

A backend reads a `QueueSnapshot`. This module decides which of its messages can still start an orchestration.
docs/correctness.md has the argument.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.exemptions import Exemptions

MAX_PEEKED_MESSAGES = 32
"""Messages that one peek of a storage queue returns (Azure Queue storage, Peek Messages)."""

MAX_LISTED_STARTS = 20
"""Pending starts that a verdict lists. It counts all of them."""

MAX_ABANDON_DELAY_SECONDS = 600
"""Longest time for which the provider hides a message that a worker has abandoned (DurableTask.AzureStorage,
TaskHubQueue.AbandonMessageAsync)."""

VISIBILITY_MARGIN_SECONDS = 30
"""Time that a quiet period must last beyond the longest time for which a message can be hidden."""

TIMER_EARLY_MARGIN = seconds(10)
"""A timer that fires within this time explains no invisible message, because its message may be visible already, or
gone. A queue hides a message for whole seconds, so a timer fires up to a second early (measured on the real extension,
docs/platform.md, The Durable Functions extension, 6). Two more seconds are for clocks. The rest is for a machine that
is suspended just before it reads the queues (docs/correctness.md, Messages that cannot be seen)."""

TIMER_LATE_MARGIN = seconds(60)
"""How long after its `FireAt` a timer's message may still be in the queue, until a worker has polled. Where the app is
stopped the message stays, but it is visible then."""

MAX_REMEMBERED_TIMERS = 5_000
"""Pending timers that are remembered for one task hub. With more, each probe reads the histories again."""


class MessageKind(StrEnum):
    """What a message in a control queue can do."""

    START = "start"
    """It starts or revives an orchestration."""
    ENTITY = "entity"
    """It is for an entity, whose code can start orchestrations."""
    UNREADABLE = "unreadable"
    """It cannot be read, so it may be a start."""
    OTHER = "other"
    """It is an event, a timer or a result, and has no effect on an instance that has ended."""


@dataclass(frozen=True, slots=True)
class VisibleMessage:
    """A message that a peek returned. `function_name` is that of the orchestrator or entity; empty if the message does
    not contain it."""

    message_id: str
    dequeue_count: int
    kind: MessageKind
    instance_id: str = ""
    function_name: str = ""


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """The control queues of a task hub at one moment.

    - `message_count`: the number of all messages, including invisible messages.
    - `visible`: the messages that were peeked before or after the count, at most MAX_PEEKED_MESSAGES of each queue each
      time.
    - `peeked_twice`: the number of messages that were peeked both before and after, so the count includes them.
    - `more_visible`: a queue may hold more messages than a peek returns.
    - `partition_owners`: changes when another worker takes over a partition.
    """

    message_count: int = 0
    visible: tuple[VisibleMessage, ...] = ()
    peeked_twice: int = 0
    more_visible: bool = False
    partition_owners: str = ""

    @property
    def invisible(self) -> int:
        """The number of invisible messages. It includes every message that was invisible during the whole snapshot."""
        return max(0, self.message_count - self.peeked_twice)


@dataclass(frozen=True, slots=True)
class PendingTimer:
    """A timer that has been created and has not fired. `key` identifies it within the task hub."""

    key: int
    fire_at: Instant


@dataclass(frozen=True, slots=True)
class KnownTimers:
    """The pending timers that the histories of a task hub show.

    `read_through`: the provider's time up to which all histories are read; None before the first complete read.
    `cursor`: where an unfinished read goes on; `reading_since`: when that read began.
    `truncated`: there were more timers than are remembered.
    """

    timers: tuple[PendingTimer, ...] = ()
    read_through: Instant | None = None
    cursor: str | None = None
    reading_since: Instant | None = None
    truncated: bool = False

    def count_pending(self, after: Instant) -> int:
        """How many of the timers fire later than `after`."""
        return sum(timer.fire_at > after for timer in self.timers)

    def merge_timers(self, others: Iterable[PendingTimer], now: Instant) -> "tuple[PendingTimer, ...]":
        """These timers and `others`, each once, without those that fired more than TIMER_LATE_MARGIN ago."""
        timers = {timer.key: timer for timer in (*self.timers, *others)}
        return tuple(timer for timer in timers.values() if timer.fire_at > now - TIMER_LATE_MARGIN)

    def limit_size(self) -> "KnownTimers":
        """At most MAX_REMEMBERED_TIMERS of the timers, so that they fit into a row until the next probe. It is safe to
        forget a timer, because it only explains fewer messages then."""
        if len(self.timers) <= MAX_REMEMBERED_TIMERS:
            return self
        if self.cursor is None:
            return KnownTimers()
        latest = sorted(self.timers, key=lambda timer: timer.fire_at)[-MAX_REMEMBERED_TIMERS:]
        return replace(self, timers=tuple(latest), truncated=True)


@dataclass(frozen=True, slots=True)
class QuietPeriod:
    """A period in which unexplained invisible messages have been in the queues without any change.

    The quiet period ends when one of these changes:

    - `unexplained_count`: the number of unexplained messages.
    - `stamp_digest`: the rows stamped since `changed_since`.
    - `queue_digest`: the visible messages, the recorded events, the rows of exempt instances, and the owners of the
      partitions.

    The `exemptions_key` identifies the exemptions that the quiet period was observed under.
    """

    exemptions_key: str
    began_at: Instant
    changed_since: Instant
    stamp_digest: int
    unexplained_count: int
    queue_digest: str


@dataclass(frozen=True, slots=True)
class MessageState:
    """The state of a task hub's messages that is stored between two probes.

    `backend_id` identifies the storage account, because a state of another account proves nothing."""

    backend_id: str = ""
    timers: KnownTimers = KnownTimers()
    quiet_period: QuietPeriod | None = None


@dataclass(frozen=True, slots=True)
class PendingStart:
    """An orchestration that is about to start. Both names are empty if the message cannot be read."""

    instance_id: str
    function_name: str


@dataclass(frozen=True, slots=True)
class MessageEvidence:
    """What a probe found in the control queues.

    - `explained`: the number of invisible messages that start nothing.
    - `starts`: the oldest pending starts that block.
    - `start_count`: the number of all pending starts that block.
    - `more_visible`: there may be further starts that a peek does not return.
    - `unexplained_count`: the number of invisible messages that block. They stop blocking at `unblocks_at` if nothing
      changes.
    - `waived`: the number of invisible messages that would block without a waiver.
    """

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
    """A snapshot of the control queues that was certainly taken between `began_at` and `ended_at`, by the state
    storage's clock.

    `pending_timers`: timers, known before, that certainly have an invisible message in the snapshot.
    `possibly_pending_timers`: these, and timers that are firing.
    """

    snapshot: QueueSnapshot
    pending_timers: int
    possibly_pending_timers: int
    began_at: Instant
    ended_at: Instant

    @classmethod
    def from_snapshot(
        cls, snapshot: QueueSnapshot, timers: KnownTimers, began_at: Instant, ended_at: Instant
    ) -> "ObservedQueues":
        """The snapshot together with the timers that were known before it was taken."""
        return cls(
            snapshot,
            timers.count_pending(Instant(ended_at + TIMER_EARLY_MARGIN)),
            timers.count_pending(Instant(began_at - TIMER_LATE_MARGIN)),
            began_at,
            ended_at,
        )

    @property
    def unexplained_count(self) -> int:
        """The number of invisible messages that no known timer explains."""
        return max(0, self.snapshot.invisible - self.pending_timers)

    @property
    def min_unexplained_count(self) -> int:
        """The number of unexplained invisible messages if all timers that are firing still have their message."""
        return max(0, self.snapshot.invisible - self.possibly_pending_timers)


def max_hidden_seconds(message_visibility_seconds: int) -> int:
    """How long a message can stay invisible before a worker or a peek sees it again, with a margin."""
    return max(message_visibility_seconds, MAX_ABANDON_DELAY_SECONDS) + VISIBILITY_MARGIN_SECONDS


def compute_queue_digest(snapshot: QueueSnapshot, exempt_digest: int, last_recorded_at: Instant | None) -> str:
    """A digest that changes with every visible message, recorded event, and change of a partition's owner. It also
    changes with every step of an exempt instance. `exempt_digest` comes from the scan that read the queues."""
    visible = sorted((message.message_id, message.dequeue_count) for message in snapshot.visible)
    text = repr((visible, snapshot.more_visible, snapshot.partition_owners, exempt_digest, last_recorded_at))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def track_quiet_period(
    previous: QuietPeriod | None,
    observed: ObservedQueues,
    *,
    scan_ended_at: Instant,
    key: str,
    changed_since: Instant,
    stamp_digest: int,
    queue_digest: str,
) -> QuietPeriod | None:
    """The quiet period after these queues were read: `previous` if nothing has changed, or else a new one.

    None if every invisible message is explained. `changed_since` and `stamp_digest` are those of the scan that read the
    queues. A quiet period begins when that scan ends: an exempt instance may have sent a message between the read of
    the queues and that of its row.
    """
    if observed.unexplained_count == 0:
        return None
    if (
        previous is not None
        and (previous.exemptions_key, previous.changed_since, previous.stamp_digest, previous.queue_digest)
        == (key, changed_since, stamp_digest, queue_digest)
        and observed.min_unexplained_count <= previous.unexplained_count <= observed.unexplained_count
    ):
        return previous
    return QuietPeriod(key, scan_ended_at, changed_since, stamp_digest, observed.unexplained_count, queue_digest)


def assess_messages(
    observed: ObservedQueues, quiet_period: QuietPeriod | None, exemptions: Exemptions, *, max_hidden_seconds: int
) -> MessageEvidence:
    """The evidence that these queues give.

    Unexplained messages block until they were seen unchanged for `max_hidden_seconds`, or are waived. Only the time
    until the queues were read counts, because later changes are unknown. The time rule comes before the waiver, because
    it proves that the messages start nothing. A waiver proves nothing, so it closes no unconfirmed start.
    """
    snapshot = observed.snapshot
    starts = _find_pending_starts(snapshot.visible, exemptions)
    unexplained = observed.unexplained_count
    waived = 0
    unblocks_at: Instant | None = None
    if unexplained and quiet_period is not None:
        unblocks_at = Instant(quiet_period.began_at + seconds(max_hidden_seconds))
        if unexplained > quiet_period.unexplained_count:
            # A timer that fires soon may be among them.
            unblocks_at = max(unblocks_at, Instant(observed.ended_at + TIMER_EARLY_MARGIN))
        elif observed.began_at >= unblocks_at:
            unexplained, unblocks_at = 0, None
    if exemptions.waived_messages >= unexplained:
        unexplained, waived, unblocks_at = 0, unexplained, None
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


def _find_pending_starts(visible: Sequence[VisibleMessage], exemptions: Exemptions) -> list[PendingStart]:
    """The visible messages that start work which is not exempt. A message that cannot be read counts as one."""
    return [
        PendingStart(message.instance_id, message.function_name)
        for message in visible
        if message.kind is MessageKind.UNREADABLE
        or (
            message.kind in (MessageKind.START, MessageKind.ENTITY)
            and not exemptions.exempts(message.function_name, message.instance_id)
        )
    ]
