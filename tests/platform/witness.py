"""What a task hub's own storage says about an answer that was given between two looks at the storage. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

ENDED_STATUSES = frozenset({"Completed", "Failed", "Terminated", "Canceled"})
"""The runtime statuses of instances that have ended. An instance that was rewound is Pending until it ends again."""

MAX_PEEKED = 32
"""Messages that a queue shows at a time."""


@dataclass(frozen=True, slots=True)
class Row:
    """An instance's row. The ETag changes with every write."""

    status: str
    etag: str

    @property
    def is_active(self) -> bool:
        return self.status not in ENDED_STATUSES


@dataclass(frozen=True, slots=True)
class StorageLook:
    """One look at the storage of a task hub. `rows`: by instance id, entities included. `visible`: whether each message
    that can be peeked can start an orchestration, by message id. `full`: a queue may hold more than could be peeked.
    `count`: all messages in the control queues, invisible ones included."""

    rows: Mapping[str, Row]
    visible: Mapping[str, bool]
    count: int
    full: bool = False

    @property
    def active(self) -> list[str]:
        """The orchestrations whose rows show them as active. Entities never end."""
        return sorted(instance_id for instance_id, row in self.rows.items() if row.is_active and instance_id[0] != "@")

    @property
    def starts(self) -> list[str]:
        """The visible messages that can start an orchestration."""
        return sorted(message_id for message_id, starts in self.visible.items() if starts)

    @property
    def invisible(self) -> int:
        return self.count - len(self.visible)


def active_throughout(before: StorageLook, after: StorageLook) -> list[str]:
    """The orchestrations that were active at every moment between two looks: nothing has written to their rows."""
    return [instance_id for instance_id in before.active if before.rows[instance_id] == after.rows.get(instance_id)]


def starts_throughout(before: StorageLook, after: StorageLook) -> list[str]:
    """The messages that could start an orchestration at every moment between two looks. A message that was taken and
    given up in between was invisible for a while; it was in its queue all the same."""
    return [message_id for message_id in before.starts if after.visible.get(message_id)]


def blocking_in(look: StorageLook, leftover_timers: int) -> list[str]:
    """Why a task hub that no worker serves is not drained, by what its storage shows; empty if it is drained.

    `leftover_timers`: the messages of timers of ended instances that will stay invisible for days. Any other invisible
    message may be a start that a killed worker had taken, or one that a worker gave up and that stays hidden for up to
    600 s. Nobody can know before it becomes visible, so it must block (docs/correctness.md).
    """
    if look.active:
        return [f"row of {instance_id}" for instance_id in look.active]
    blocking = [f"message {message_id}" for message_id in look.starts]
    if look.full:
        blocking.append("more messages than can be peeked")
    if look.invisible > leftover_timers:
        blocking.append(f"{look.invisible} invisible messages beside {leftover_timers} timers")
    return blocking
