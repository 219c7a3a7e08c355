"""The evidence of a verdict: recorded events, a probe of the task hub's own storage, and deployments of other runs."""

from dataclasses import dataclass
from enum import StrEnum

from state_api.domain.instants import Instant
from state_api.domain.readiness.exemptions import Waiver
from state_api.domain.readiness.messages import MessageEvidence
from state_api.domain.task_hubs.lifecycle import EvidenceSource, Instance, RuntimeStatus

ACTIVE_LIMIT = 1000
"""Active instances that are counted one by one. Above this number the count is a lower bound (docs/http-api.md)."""

MAX_RETRY_AFTER_SECONDS = 300
"""Longest time that the server leaves a task hub alone, even if its storage asks for a longer wait."""


def is_drained(*, active_count: int, starts_pending: bool) -> bool:
    """Whether a task hub has drained: no instance that blocks is active, and none is about to start."""
    return active_count == 0 and not starts_pending


@dataclass(frozen=True, slots=True)
class ActiveInstance:
    """An active instance, as a verdict lists it. Only probes know the `version`, the orchestration version."""

    instance_id: str
    function_name: str
    runtime_status: RuntimeStatus
    started_at: Instant
    last_event_at: Instant
    source: EvidenceSource
    version: str | None = None

    @classmethod
    def from_instance(cls, instance: Instance) -> "ActiveInstance":
        """The recorded instance as a verdict lists it. Raises ValueError if it is not active."""
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
    """The number of active instances of one orchestration version; None for instances without a version."""

    version: str | None
    active: int
    oldest_started_at: Instant


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of a read of the task hub's own storage.

    - `began_at`: the moment that a complete probe describes.
    - `ended_at`: when reading stopped.
    - `active`: the oldest instances that block.
    - `unlisted_count`: the number of further instances that block.
    - `waived`: instances that a waiver exempts.
    - `ignored_count`: the number of active instances that the policy ignores.
    - `scanned`: the number of instances that the backend returned.
    - `message`: why the probe failed and what to fix, or how far an incomplete probe came.
    - `request_key`: the settings, policy and exemptions that the probe was read under.
    - `resumed`: the probe took more than one request.
    - `read_seconds`: the time spent reading.
    - `correction_epoch`: the epoch of the records before the probe began.
    - `messages`: None where the control queues were not read.
    """

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
        """The number of all active instances, including those that are ignored or waived."""
        return self.blocking_count + len(self.waived) + self.ignored_count

    @property
    def blocking_count(self) -> int:
        """The number of active instances that block."""
        return len(self.active) + self.unlisted_count

    @property
    def found_blocking(self) -> bool:
        """Whether the probe found the task hub not drained."""
        return not is_drained(active_count=self.blocking_count, starts_pending=self.starts_pending)

    @property
    def starts_pending(self) -> bool:
        """Whether the control queues hold a start, or a message that may be one."""
        return self.messages is not None and self.messages.has_pending_starts


@dataclass(frozen=True, slots=True)
class OpenDeployment:
    """The open deployment of another run, as a verdict reports it."""

    task_hub: str
    by: str
    run_url: str | None
    started_at: Instant


@dataclass(frozen=True, slots=True)
class OpenSwap:
    """A swap that has begun and whose outcome is not reported yet, as a verdict reports it."""

    task_hub: str
    by: str
    run_url: str | None
    started_at: Instant


@dataclass(frozen=True, slots=True)
class OpenRollout:
    """A rollout that may bring traffic to a slot or release, as a verdict reports it.

    - `until`: when the last visitor has left and the verdict can know it; None while the rollout is live.
    - `wait`: the step, what the rollout waits for, and until when, as a sentence without its period. None once the
      rollout has ended and its last visitor has left.
    """

    candidate: str
    by: str
    run_url: str | None
    state: str
    until: Instant | None
    wait: str | None


@dataclass(frozen=True, slots=True)
class InstanceActivity:
    """The activity of one task hub by its recorded events.

    - `active`: the oldest active instances, at most ACTIVE_LIMIT.
    - `has_more`: True if there are further active instances.
    - `ignored_count`: the number of active instances that the policy ignores. `active` does not contain them, so that a
      thousand of them cannot hide an instance that blocks.
    - `waived`: active instances that a waiver exempts.
    - `last_event_at`: the publisher's time of the latest event.
    - `last_recorded_at`: the storage's time of the last write of an event. The settle window counts from this time,
      because it also covers events that arrived late.
    - `correction_epoch`: changes whenever a look-up closes instances whose end no event reported.
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
    """All that a verdict on one task hub rests on.

    - `task_hub`: None for an empty slot.
    - `provider`: None where no probe is configured.
    - `probe`: None until there is a result.
    - `active_instance_seen`: the task hub itself has just shown one of the active instances.
    - `looked_up_instances`: instances as the task hub has just shown them.
    - `seen_before`: events or a probe have shown the task hub before.
    """

    task_hub: str | None
    activity: InstanceActivity = InstanceActivity()
    provider: str | None = None
    probe: ProbeResult | None = None
    deployment: OpenDeployment | None = None
    pending_swap: OpenSwap | None = None
    rollout: OpenRollout | None = None
    waivers: tuple[Waiver, ...] = ()
    active_instance_seen: bool = False
    looked_up_instances: tuple[ActiveInstance, ...] = ()
    seen_before: bool = True
