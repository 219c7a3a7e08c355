"""Lifecycle events of orchestration instances, and how the events of one instance merge into its record.

Events can be lost, late, duplicated and out of order. So merging keeps the latest start and the latest end. It takes
maxima over total orders, and is therefore commutative, associative and idempotent.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from state_api.domain.instants import Instant
from state_api.domain.names import is_entity


class RuntimeStatus(StrEnum):
    """The runtime statuses of Durable Functions (docs/platform.md)."""

    CANCELED = "Canceled"
    COMPLETED = "Completed"
    CONTINUED_AS_NEW = "ContinuedAsNew"
    FAILED = "Failed"
    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    TERMINATED = "Terminated"


ACTIVE_STATUSES = frozenset(
    {RuntimeStatus.RUNNING, RuntimeStatus.PENDING, RuntimeStatus.SUSPENDED, RuntimeStatus.CONTINUED_AS_NEW}
)
ENDED_STATUSES = frozenset(RuntimeStatus) - ACTIVE_STATUSES


class EvidenceSource(StrEnum):
    """Where a piece of evidence comes from."""

    EVENT = "event"
    PROBE = "probe"


MAX_REASON_LENGTH = 1000
"""Characters of a reason that are recorded."""


def shorten_reason(text: str) -> str:
    """The first line of a reason, at most MAX_REASON_LENGTH characters.

    The extension publishes the whole failure with its stack trace: several kilobytes that can contain data of the app
    (docs/platform.md). Reasons are shortened before events are merged, so that equal events are equal evidence.
    """
    lines = text.strip().splitlines()
    return lines[0][:MAX_REASON_LENGTH].rstrip() if lines else ""


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """One valid orchestration lifecycle event. `occurred_at` is by the publisher's clock. `reason` is shortened."""

    task_hub: str
    instance_id: str
    function_name: str
    runtime_status: RuntimeStatus
    reason: str
    occurred_at: Instant


@dataclass(frozen=True, slots=True, order=True)
class Started:
    """Evidence that an instance has started.

    Objects of this class compare by their fields in this order. The latest start counts. The other fields decide
    between equal times, so that the order of arrival makes no difference.

    The field `confirmed_backend` identifies the backend that has shown the instance active after this start. It is
    empty if no backend has. It confirms this start and no later start.
    """

    at: Instant
    runtime_status: RuntimeStatus
    function_name: str
    source: EvidenceSource = EvidenceSource.EVENT
    confirmed_backend: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Finished:
    """Evidence that an instance has ended. Of two ends at the same time, the outcome decides, in reverse alphabetical
    order: Terminated before Failed, Completed and Canceled. Then the reason and the name decide."""

    at: Instant
    outcome: RuntimeStatus
    reason: str
    function_name: str
    source: EvidenceSource = EvidenceSource.EVENT


@dataclass(frozen=True, slots=True)
class Instance:
    """All that is recorded of one instance id, across restarts and generations."""

    instance_id: str
    started: Started | None = None
    finished: Finished | None = None

    @property
    def active(self) -> bool:
        """Whether the latest start is later than the latest end. Entities are never active."""
        if self.started is None or is_entity(self.instance_id):
            return False
        return self.finished is None or self.started.at > self.finished.at

    @property
    def runtime_status(self) -> RuntimeStatus:
        """The status by the latest evidence; that of the end if a start is dated at the same time."""
        if self.finished is None or (self.started is not None and self.started.at > self.finished.at):
            assert self.started is not None, "an instance holds at least one piece of evidence"
            return self.started.runtime_status
        return self.finished.outcome

    @property
    def function_name(self) -> str:
        """The name in the later of start and end that has one; empty if neither has."""
        evidence: list[Started | Finished] = [item for item in (self.started, self.finished) if item is not None]
        evidence.sort(key=lambda item: item.at, reverse=True)
        return next((item.function_name for item in evidence if item.function_name), "")

    @property
    def last_event_at(self) -> Instant:
        """The time of the latest evidence."""
        return max(evidence.at for evidence in (self.started, self.finished) if evidence is not None)

    @property
    def source(self) -> EvidenceSource:
        """Where the evidence of the current status comes from."""
        latest = self.started if self.active or self.finished is None else self.finished
        assert latest is not None, "an instance holds at least one piece of evidence"
        return latest.source


def instance_from_event(event: LifecycleEvent) -> Instance:
    """The record of the instance after this event alone."""
    if event.runtime_status in ACTIVE_STATUSES:
        started = Started(event.occurred_at, event.runtime_status, event.function_name)
        return Instance(event.instance_id, started=started)
    finished = Finished(event.occurred_at, event.runtime_status, event.reason, event.function_name)
    return Instance(event.instance_id, finished=finished)


def merge_instances(left: Instance, right: Instance) -> Instance:
    """The union of two records of an instance. Raises ValueError for records of different instances."""
    if left.instance_id != right.instance_id:
        raise ValueError("only records of the same instance can be merged")
    return replace(
        left,
        started=_latest((left.started, right.started)),
        finished=_latest((left.finished, right.finished)),
    )


def apply_event(recorded: Instance | None, event: LifecycleEvent) -> Instance:
    """The record after this event. Equal to `recorded` if the event adds nothing."""
    return instance_from_event(event) if recorded is None else merge_instances(recorded, instance_from_event(event))


_Evidence = TypeVar("_Evidence", Started, Finished)


def _latest(evidence: Iterable[_Evidence | None]) -> _Evidence | None:
    """The latest fact of one kind about an instance; None if there is none."""
    return max((item for item in evidence if item is not None), default=None)
