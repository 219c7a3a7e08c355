"""What lifecycle events say about one orchestration instance, and how they merge.

Events are lossy, late, doubled and unordered, so merging takes the latest evidence of each kind: it is commutative,
associative and idempotent by construction, because an instance is a product of maxima over total orders.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from state_api.domain.instants import Instant
from state_api.domain.names import is_entity


class RuntimeStatus(StrEnum):
    """The runtime statuses of Durable Functions (PLATFORM: Task hubs on Azure Storage)."""

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
"""Characters kept of a reason."""


def shorten_reason(text: str) -> str:
    """What is kept of the reason of an end: its first line, at most MAX_REASON characters. The extension publishes the
    whole failure with its stack trace, several kilobytes that can hold data of the app (PLATFORM: Python
    orchestrations on the Functions host 7). Events are cut before they are merged, so that the same event is always the
    same evidence."""
    lines = text.strip().splitlines()
    return lines[0][:MAX_REASON_LENGTH].rstrip() if lines else ""


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """One orchestration lifecycle event, understood and valid. `occurred_at` is the publisher's clock, `reason` is
    short."""

    task_hub: str
    instance_id: str
    function_name: str
    runtime_status: RuntimeStatus
    reason: str
    occurred_at: Instant


@dataclass(frozen=True, slots=True, order=True)
class Started:
    """Evidence that an instance runs. Field order is the order of resolution: the latest wins, and on equal times
    the names decide in a fixed way, so that the order of arrival never shows. `confirmed_backend` is the place where
    the task hub has shown the instance active after this start, empty if it has not yet. A later start is other
    evidence, so it is not confirmed by what was seen before it."""

    at: Instant
    runtime_status: RuntimeStatus
    function_name: str
    source: EvidenceSource = EvidenceSource.EVENT
    confirmed_backend: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Finished:
    """Evidence that an instance ended. On equal times Terminated wins over Failed over Completed over Canceled
    (their alphabetical order), then the reason and the name decide."""

    at: Instant
    outcome: RuntimeStatus
    reason: str
    function_name: str
    source: EvidenceSource = EvidenceSource.EVENT


@dataclass(frozen=True, slots=True)
class Instance:
    """All that is known of one instance id, across restarts and generations."""

    instance_id: str
    started: Started | None = None
    finished: Finished | None = None

    @property
    def active(self) -> bool:
        """Started and not known to have finished since. On equal times the end wins; entities are never active."""
        if self.started is None or is_entity(self.instance_id):
            return False
        return self.finished is None or self.started.at > self.finished.at

    @property
    def runtime_status(self) -> RuntimeStatus:
        """The status that the latest evidence gives; on equal times that of the end."""
        if self.finished is None or (self.started is not None and self.started.at > self.finished.at):
            assert self.started is not None, "an instance holds at least one piece of evidence"
            return self.started.runtime_status
        return self.finished.outcome

    @property
    def function_name(self) -> str:
        """The name in the last start or the last end, whichever is later and has one; empty if neither has."""
        evidence: list[Started | Finished] = [one for one in (self.started, self.finished) if one is not None]
        evidence.sort(key=lambda one: one.at, reverse=True)
        return next((one.function_name for one in evidence if one.function_name), "")

    @property
    def last_event_at(self) -> Instant:
        return max(evidence.at for evidence in (self.started, self.finished) if evidence is not None)

    @property
    def source(self) -> EvidenceSource:
        """Where the evidence for the present status comes from."""
        latest = self.started if self.active or self.finished is None else self.finished
        assert latest is not None, "an instance holds at least one piece of evidence"
        return latest.source


def instance_from_event(event: LifecycleEvent) -> Instance:
    """The instance as this event alone shows it."""
    if event.runtime_status in ACTIVE_STATUSES:
        started = Started(event.occurred_at, event.runtime_status, event.function_name)
        return Instance(event.instance_id, started=started)
    finished = Finished(event.occurred_at, event.runtime_status, event.reason, event.function_name)
    return Instance(event.instance_id, finished=finished)


def merge_instances(left: Instance, right: Instance) -> Instance:
    """All that both records know. Raises ValueError for records of different instances."""
    if left.instance_id != right.instance_id:
        raise ValueError("only records of the same instance merge")
    return replace(
        left,
        started=_latest((left.started, right.started)),
        finished=_latest((left.finished, right.finished)),
    )


def apply_event(known: Instance | None, event: LifecycleEvent) -> Instance:
    """The record after this event. Equal to `known` when the event adds nothing."""
    return instance_from_event(event) if known is None else merge_instances(known, instance_from_event(event))


_Evidence = TypeVar("_Evidence", Started, Finished)


def _latest(evidence: Iterable[_Evidence | None]) -> _Evidence | None:
    return max((one for one in evidence if one is not None), default=None)
