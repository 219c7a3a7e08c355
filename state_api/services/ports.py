"""What the use cases need of the world, as Protocols. `storage/` implements them on Azure Tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import InstanceActivity, ProbeResult
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.messages import MessageState
from state_api.domain.readiness.scans import Scan
from state_api.domain.releases.apps import App
from state_api.domain.task_hubs.lifecycle import Instance, LifecycleEvent, RuntimeStatus
from state_api.domain.task_hubs.ownership import OwnershipProof, TaskHubClaim

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items, and the opaque token for the next ones; None at the end."""

    items: tuple[Item, ...]
    continuation_token: str | None


@dataclass(frozen=True, slots=True)
class TaskHubRecord:
    """What the registry knows of a task hub. `app` is the app that claimed it for a slot, `recording` says that
    events were recorded for it, `closed` that cleanup has removed its records for good, `deleting_from` is the source
    that its artifacts are being deleted from, `seen` says that a probe has found it to exist. `confirmed_backend` is
    the source that has shown instances which events told of, and so is that of this hub. `shards` is the number of
    partitions of its instance table, fixed when it was first seen. `run_id` is the pipeline run that claimed it, and
    `proof` what proves that it belongs to the app at its provider."""

    name: str
    shards: int
    app: str | None
    recording: bool
    closed: bool
    deleting_from: str | None = None
    seen: bool = False
    confirmed_backend: str | None = None
    run_id: str | None = None
    proof: OwnershipProof | None = None


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """What is kept of the probes of a task hub: the last result, a scan that waits to be carried on, what is remembered
    of its messages, and until when some worker has the hub for itself."""

    result: ProbeResult | None = None
    scan: Scan | None = None
    leased_until: Instant | None = None
    lease_owner: str = ""
    message_state: MessageState = field(default_factory=MessageState)


@dataclass(frozen=True, slots=True)
class Lease:
    """A task hub that one worker has for itself, with what was kept of it at that moment. `token` proves, when it is
    given back, that nobody has taken it over."""

    task_hub: str
    lease_owner: str
    record: ProbeRecord
    etag: str


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One transition of an app, as it went on record. `details` are JSON values, camelCase."""

    revision: int
    at: Instant
    operation: str
    by: str
    run_url: str | None
    key_name: str | None
    reason: str | None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QuarantinedEvent:
    """An event that was not recorded. `event` is what came in, as JSON text; `truncated` says that it was too long to
    keep whole. An event that waits for its task hub to be claimed has a `task_hub`. `key` identifies a stored event."""

    received_at: Instant
    code: str
    message: str
    endpoint_type: str
    event: str
    truncated: bool = False
    task_hub: str | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """How many events were removed from quarantine, and whether there may be more to remove."""

    removed: int
    has_more: bool


class TableMissing(Exception):
    """The hub's table does not exist: not made yet, or cleaned up."""


class TooManyTaskHubs(Exception):
    """The hub is new, no app has claimed it, and the limit on such hubs is reached."""


class Clock(Protocol):
    @property
    def synchronized(self) -> bool:
        """Whether the storage has answered yet; before, `now` is the time of this machine."""

    def now(self) -> Instant:
        """The time by the storage's clock, so that servers whose own clocks differ agree."""


class Instances(Protocol):
    async def record(self, hub: TaskHubRecord, events: Sequence[LifecycleEvent]) -> list[bool | None]:
        """Record events durably; for each, whether it changed anything, and None if the storage does not take it.
        Raises TableMissing, StorageUnavailable."""

    async def record_corrections(self, hub: TaskHubRecord, corrections: Sequence[Instance]) -> list[bool | None]:
        """Record what a probe saw; for each, whether it changed anything. Raises TableMissing, StorageUnavailable."""

    async def read_activity(
        self, hub: TaskHubRecord, exemptions: Exemptions, *, missing_is_empty: bool = False
    ) -> InstanceActivity: ...

    async def get(self, hub: TaskHubRecord, instance_id: str) -> Instance | None: ...

    async def list_page(
        self,
        hub: TaskHubRecord,
        *,
        active: bool | None = None,
        status: RuntimeStatus | None = None,
        top: int,
        token: str | None = None,
    ) -> Page[Instance]:
        """Up to `top` instances, the active ones first; only those that are `active` or not, and have this `status`,
        where it is given."""

    async def delete_records(self, hub: TaskHubRecord) -> None:
        """Remove all records of the hub. Done already is fine."""


class TaskHubs(Protocol):
    async def ping(self) -> None:
        """Ask the storage for next to nothing. Raises StorageUnavailable."""

    async def get(self, task_hub: str) -> TaskHubRecord | None: ...

    async def get_or_create(self, task_hub: str, *, enforce_limit: bool = True) -> TaskHubRecord:
        """The record of a hub that events come for, made with its table when first needed. Raises TooManyTaskHubs if it
        is `enforce_limit`."""

    def invalidate_cache(self, task_hub: str) -> None:
        """Look the hub up again at its next event."""

    async def claim(self, task_hub: str, claim: TaskHubClaim) -> TaskHubRecord:
        """Reserve the hub for this app, for ever. A claim without a proof keeps the one on record. Raises TaskHubInUse
        if another app has it, TaskHubAlreadyUsed if it was cleaned up."""

    async def close(self, task_hub: str, *, deleting_from: str | None = None) -> None:
        """Let no more events in; they go to quarantine from now on. `deleting_from` is kept with it, before anything is
        deleted from there."""

    async def close_unclaimed(self, task_hub: str) -> TaskHubRecord:
        """Close a hub that no app has claimed, in one conditional write. Raises TaskHubClaimed."""

    async def reopen_unclaimed(self, task_hub: str) -> None:
        """Take back `close_unclaimed`."""

    async def takes_events(self, task_hub: str) -> bool:
        """Whether the hub is open, by a read that begins after this call."""

    async def record_seen(self, task_hub: str, *, confirmed_backend: str | None = None) -> None:
        """Note that a probe has found the hub, and perhaps which source has shown that it is this one."""


class Probes(Protocol):
    async def get(self, task_hub: str) -> ProbeRecord: ...

    async def acquire_lease(self, task_hub: str, lease_owner: str, *, until: Instant, now: Instant) -> Lease | None:
        """Take the hub for one worker. None while another has it."""

    async def renew_lease(self, lease: Lease, until: Instant) -> Lease | None:
        """Extend a lease. None if another worker has the hub by now."""

    async def save_and_release(
        self,
        lease: Lease,
        *,
        result: ProbeResult | None = None,
        scan: Scan | None = None,
        message_state: MessageState | None = None,
    ) -> bool:
        """Give the hub back with what came of it; None keeps the last result, no scan to carry on, or the memory that
        was there. False, and nothing is written, if another worker has the hub by now."""

    async def delete_records(self, task_hub: str) -> None:
        """Forget all of it."""


class Apps(Protocol):
    async def get(self, name: str) -> App | None:
        """None also for an app that was deleted."""

    async def get_including_deleted(self, name: str) -> App | None:
        """The same, but deleted apps as well."""

    async def commit(self, before: App, after: App, audit: AuditRecord) -> bool:
        """Write state and audit record in one transaction, provided the state is still `before`. False if not."""

    async def list_page(self, top: int, token: str | None) -> Page[App]: ...

    async def list_history(self, app: App, top: int, token: str | None) -> Page[AuditRecord]: ...


class Quarantine(Protocol):
    async def add(self, events: Sequence[QuarantinedEvent]) -> None: ...

    async def list_page(self, top: int, token: str | None) -> Page[QuarantinedEvent]: ...

    async def list_waiting(self, task_hub: str, top: int) -> list[QuarantinedEvent]:
        """Some of the events that wait for this hub to be claimed; none if there are no more."""

    async def remove(self, events: Sequence[QuarantinedEvent]) -> None:
        """Remove events that `list_waiting` returned. Those that are gone already are fine."""

    async def purge(self, received_before: Instant) -> PurgeResult:
        """Remove events that came before that time, as many as one call can."""
