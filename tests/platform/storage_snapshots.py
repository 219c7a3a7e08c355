"""Snapshots of a task hub's own storage, and what two of them prove about a response in between. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

ENDED_STATUSES = frozenset({"Completed", "Failed", "Terminated", "Canceled"})
"""The runtime statuses of instances that have ended. An instance that was rewound is Pending until it ends again."""

MAX_PEEKED_MESSAGES = 32
"""Messages that a queue shows at a time (Azure Queue storage, Peek Messages)."""


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """An instance's row. The ETag changes with every write."""

    status: str
    etag: str

    @property
    def is_active(self) -> bool:
        return self.status not in ENDED_STATUSES


@dataclass(frozen=True, slots=True)
class StorageSnapshot:
    """The storage of a task hub at one moment.

    - `rows` are by instance id, entities included.
    - `visible` says of each message that can be peeked, by message id, whether it can start an orchestration.
    - `message_count` is the number of messages in all control queues, invisible ones included.
    - `more_visible` says that a queue may contain more visible messages than can be peeked.
    """

    rows: Mapping[str, InstanceRow]
    visible: Mapping[str, bool]
    message_count: int
    more_visible: bool = False

    @property
    def active(self) -> list[str]:
        """The orchestrations whose rows show them as active. Entities never end and do not count."""
        return sorted(instance_id for instance_id, row in self.rows.items() if row.is_active and instance_id[0] != "@")

    @property
    def starts(self) -> list[str]:
        """The visible messages that can start an orchestration."""
        return sorted(message_id for message_id, can_start in self.visible.items() if can_start)

    @property
    def invisible_count(self) -> int:
        return self.message_count - len(self.visible)


def find_active_throughout(before: StorageSnapshot, after: StorageSnapshot) -> list[str]:
    """Return the orchestrations that were active at every moment between two snapshots: their rows are unchanged."""
    return [instance_id for instance_id in before.active if before.rows[instance_id] == after.rows.get(instance_id)]


def find_starts_throughout(before: StorageSnapshot, after: StorageSnapshot) -> list[str]:
    """Return the messages that could start an orchestration at every moment between two snapshots. A message that a
    worker took and gave back in between was invisible for a while, but never left its queue."""
    return [message_id for message_id in before.starts if after.visible.get(message_id)]


def find_blockers(snapshot: StorageSnapshot, leftover_timer_count: int) -> list[str]:
    """Return why a task hub without a worker is not drained, by its storage; empty if it is drained.

    `leftover_timer_count` is the number of timers of ended instances whose messages stay invisible for days. Any other
    invisible message may be a start that a killed worker had taken, or one that a worker has abandoned and that stays
    invisible for up to 600 s. What it is shows only when it becomes visible, so it must block (docs/correctness.md).
    """
    if snapshot.active:
        return [f"row of {instance_id}" for instance_id in snapshot.active]
    blockers = [f"message {message_id}" for message_id in snapshot.starts]
    if snapshot.more_visible:
        blockers.append("more messages than can be peeked")
    if snapshot.invisible_count > leftover_timer_count:
        blockers.append(f"{snapshot.invisible_count} invisible messages beside {leftover_timer_count} timers")
    return blockers
