"""What a verdict rests on: the recorded events, a probe of the task hub's own storage, other runs' deployments."""

from dataclasses import dataclass
from enum import StrEnum

from state_api.domain.instants import Instant
from state_api.domain.readiness.exemptions import Waiver
from state_api.domain.readiness.messages import MessageEvidence
from state_api.domain.task_hubs.lifecycle import EvidenceSource, Instance, RuntimeStatus

ACTIVE_LIMIT = 1000
"""Active instances that are counted one by one; above it the count is a lower bound (DESIGN: HTTP contract)."""


@dataclass(frozen=True, slots=True)
class ActiveInstance:
    """An instance that blocks, or would block, a deployment. `version` is known only to probes."""

    instance_id: str
    function_name: str
    runtime_status: RuntimeStatus
    started_at: Instant
    last_event_at: Instant
    source: EvidenceSource
    version: str | None = None

    @classmethod
    def from_instance(cls, instance: Instance) -> "ActiveInstance":
        """An active instance as a verdict shows it. Raises ValueError if it is not active."""
        if instance.started is None or not instance.active:
            raise ValueError(f"instance {instance.instance_id} is not active")
        return cls(
            instance.instance_id,
            instance.function_name,
            instance.runtime_status,
            instance.started.at,
            instance.last_event_at,
            instance.source,
        )


class ProbeStatus(StrEnum):
    """How a read of the task hub's own storage ended."""

    COMPLETE = "Complete"
    INCOMPLETE = "Incomplete"
    FAILED = "Failed"
    DENIED = "Denied"
    THROTTLED = "Throttled"
    MISSING = "Missing"


@dataclass(frozen=True, slots=True)
class VersionCount:
    """Active instances of one orchestration version; None for instances without one."""

    version: str | None
    active: int
    oldest_started_at: Instant


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a read of the task hub's own storage saw. `began_at` is what a complete one certifies: it says what was
    active then. `scanned` counts the instances that the backend handed over; `message` says what to mend when it
    failed, or how far it came when it is incomplete. `active` has the oldest blocking instances, `unlisted_count`
    counts further ones, `waived` has those that would block. `request_key` is the key of what it was read under.
    `resumed` says that it took more than one call, `read_seconds` how long the reading took in all. `correction_epoch`
    are those that the records had before. `messages` is None where nobody looked at the control queues."""

    status: ProbeStatus
    provider: str
    began_at: Instant
    active: tuple[ActiveInstance, ...] = ()
    scanned: int = 0
    message: str = ""
    ended_at: Instant | None = None
    unlisted_count: int = 0
    ignored_count: int = 0
    versions: tuple[VersionCount, ...] = ()
    request_key: str = ""
    resumed: bool = False
    read_seconds: int = 0
    waived: tuple[ActiveInstance, ...] = ()
    retry_after_seconds: int | None = None
    correction_epoch: str = ""
    messages: MessageEvidence | None = None

    @property
    def active_count(self) -> int:
        """All that is active, whatever the policy says of it."""
        return len(self.active) + self.unlisted_count + len(self.waived) + self.ignored_count

    @property
    def found_blocking(self) -> bool:
        return bool(self.active or self.unlisted_count) or self.starts_pending

    @property
    def starts_pending(self) -> bool:
        """Whether an orchestration is, or may be, about to start."""
        return self.messages is not None and self.messages.has_pending_starts


@dataclass(frozen=True, slots=True)
class OpenDeployment:
    """The open deployment of another run, as far as a verdict needs it."""

    task_hub: str
    by: str
    run_url: str | None
    started_at: Instant


@dataclass(frozen=True, slots=True)
class OpenSwap:
    """A swap of which nobody has said how it went, as far as a verdict needs it."""

    task_hub: str
    by: str
    run_url: str | None
    started_at: Instant


@dataclass(frozen=True, slots=True)
class InstanceActivity:
    """What the recorded events show of one task hub.

    `active` holds the oldest first, up to ACTIVE_LIMIT; `has_more` says that there are others. Whoever reads a hub
    leaves out what the policy ignores while it counts, and reports it as `ignored`, so that a thousand instances that
    may stay active never hide one that may not. `last_event_at` is the publisher's time of the last event,
    `last_recorded_at` the storage's time of the last write that changed something: the second is what the settle window
    counts from, because it also covers events that came late. `correction_epoch` is another one whenever a look-up has
    closed instances that no event had ended.
    """

    active: tuple[ActiveInstance, ...] = ()
    has_more: bool = False
    ignored_count: int = 0
    last_event_at: Instant | None = None
    last_recorded_at: Instant | None = None
    waived: tuple[ActiveInstance, ...] = ()
    correction_epoch: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a verdict rests on. `task_hub` is None for an empty slot; `provider` is None where no probe is
    configured, and `probe` is None until it has a result. `active_instance_seen` says that the task hub itself has just
    shown one of the active instances, and `looked_up_instances` how it has shown some of them. `seen_before` says that
    something was seen of the hub before, in events or by a probe."""

    task_hub: str | None
    activity: InstanceActivity = InstanceActivity()
    provider: str | None = None
    probe: ProbeResult | None = None
    deployment: OpenDeployment | None = None
    pending_swap: OpenSwap | None = None
    waivers: tuple[Waiver, ...] = ()
    active_instance_seen: bool = False
    looked_up_instances: tuple[ActiveInstance, ...] = ()
    seen_before: bool = True
