"""What the use cases need from the outside, as Protocols: stores for task hubs, instances, probes, apps and quarantined
events, and a clock. `state_api/storage/` implements them on Azure Tables.

Every method of a store raises StorageUnavailable when the storage cannot be used, and UnsupportedSchema for a row that
another version of the server wrote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from state_api.domain.instants import Instant
from state_api.domain.names import AppKey
from state_api.domain.readiness.evidence import InstanceActivity, ProbeResult
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.messages import MessageState
from state_api.domain.readiness.plan import RecordedState
from state_api.domain.readiness.scans import Scan
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.releases import ForgottenRouter, RouterAcknowledgement
from state_api.domain.task_hubs.delivery_checks import DeliveryCheck
from state_api.domain.task_hubs.lifecycle import Instance, LifecycleEvent, RuntimeStatus
from state_api.domain.task_hubs.ownership import OwnershipProof, TaskHubClaim
from state_api.domain.task_hubs.timeline import Minute, Timeline

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items of a list, and the opaque token for the next page; None on the last page."""

    items: tuple[Item, ...]
    continuation_token: str | None


@dataclass(frozen=True, slots=True)
class TaskHubRecord:
    """The registry's record of a task hub.

    - `shards`: the number of partitions of its instance table. This number never changes.
    - `app`: the app that claimed the task hub.
    - `recording`: events or corrections may have been recorded, so a missing instance table means lost records.
    - `closed`: the server records no more events of the task hub.
    - `deletion_id`: DeleteTaskHub has closed the task hub and has not decided yet, so it may be reopened. Its events
      wait in quarantine until then. Empty otherwise.
    - `deleting_from`: the backend that Cleanup began to delete its artifacts from.
    - `proof`: shows that the task hub at its provider belongs to the app.
    """

    name: str
    shards: int
    app: str | None
    recording: bool
    closed: bool
    deletion_id: str = ""
    deleting_from: str | None = None
    proof: OwnershipProof | None = None

    @property
    def is_closed_for_ever(self) -> bool:
        """Whether the task hub is closed and cannot be reopened."""
        return self.closed and not self.deletion_id


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLease:
    """How long a worker may acknowledge events of an unclaimed task hub after it began a read that showed it open.

    DeleteTaskHub can close such a task hub at any moment, and workers do not see it. So DeleteTaskHub closes it, waits
    until every lease has ended, and then reads the records. Every event that a worker has acknowledged by then is in
    what it reads. Either the worker wrote the event before its lease ended, or it has read the row again after the
    write and has put the event into quarantine. All servers on a storage must use the same lease.

    - `seconds`: the length of a lease. Shorter ones cost a read more often: one per task hub and lease.
    - `margin_seconds`: how much longer DeleteTaskHub waits, because clocks run at slightly different speeds and the
      estimate of the storage's time can be a second behind.
    """

    seconds: float = 10.0
    margin_seconds: float = 2.0

    @property
    def closing_delay_seconds(self) -> float:
        """How long DeleteTaskHub waits between closing the task hub and reading its records."""
        return self.seconds + self.margin_seconds


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """What is stored of the probes of a task hub.

    - `result`: the last result.
    - `scan`: a scan to continue.
    - `leased_until`: when the lease of the worker that reads the task hub now expires.
    - `lease_owner`: the worker that holds the lease. Empty without a lease.
    - `message_state`: what is remembered of the messages of the task hub.
    """

    result: ProbeResult | None = None
    scan: Scan | None = None
    leased_until: Instant | None = None
    lease_owner: str = ""
    message_state: MessageState = field(default_factory=MessageState)

    def result_for(self, request_key: str) -> ProbeResult | None:
        """The result, if it was read for requests with this key."""
        return self.result if self.result is not None and self.result.request_key == request_key else None

    def scan_for(self, request_key: str) -> Scan | None:
        """The scan, if it reads for requests with this key."""
        return self.scan if self.scan is not None and self.scan.request_key == request_key else None


@dataclass(frozen=True, slots=True)
class TaskHubRecords:
    """Everything recorded of a task hub that a verdict needs, read by one query.

    - `activity`: what is active, and when something last changed. Empty once Cleanup deletes the task hub.
    - `recording`: events or corrections may have been recorded.
    - `seen`: a probe has found the task hub.
    - `confirmed_backend`: the backend that has shown an instance which events had reported.
    - `probe`: what is stored of its probes, as it was before `activity` was read.
    - `probe_etag`: changes with every write of `probe`. None while nothing is stored.
    - `change_token`: two reads with the same exemptions have the same token if no event and no correction has changed
      anything between them.
    """

    activity: InstanceActivity = field(default_factory=InstanceActivity)
    recording: bool = False
    seen: bool = False
    confirmed_backend: str | None = None
    probe: ProbeRecord = field(default_factory=ProbeRecord)
    probe_etag: str | None = None
    change_token: str = ""

    @property
    def state(self) -> RecordedState:
        """What a verdict rests on."""
        return RecordedState(self.activity, self.recording or self.seen, self.change_token, self.probe_etag)


@dataclass(frozen=True, slots=True)
class Lease:
    """The exclusive right of one worker to scan a task hub. `etag` changes when another worker writes. It is None if
    the task hub has no table: then nothing can be stored."""

    task_hub: str
    lease_owner: str
    etag: str | None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One change of an app. `details` holds JSON values with camelCase members, as the API shows them."""

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
    """An event that was not recorded. `event` is the event as JSON text, `truncated` if it was too long. Only an event
    that waits for its task hub to be claimed or reopened has a `task_hub`. `key` identifies a stored event."""

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
    """The instance table of the task hub does not exist: it was not created yet, or it was deleted."""


class TooManyTaskHubs(Exception):
    """The task hub is new, no app has claimed it, and the limit on unclaimed task hubs is reached."""


class TaskHubReopened(Exception):
    """Another call of DeleteTaskHub has found the task hub in use, and has reopened it."""


class Clock(Protocol):
    """The storage's clock, between two bounds. docs/correctness.md (Two bounds of one clock) says how far they can be
    wrong, and which comparison uses which."""

    @property
    def synchronized(self) -> bool:
        """Whether the storage has responded yet. Until then, both bounds are the time of this machine."""

    def now(self) -> Instant:
        """A time that the storage's clock has reached: behind it by up to a second and a round trip, so that servers
        whose own clocks differ agree. It goes back only with a response: one that shows that the clock was set back or
        has not come as far, or the first one after a minute."""

    def upper_bound(self) -> Instant:
        """A time that the storage's clock had not passed when it responded last, and has not passed since: later than
        `now` by up to a second and a round trip. Call this after a read of the storage."""


class Instances(Protocol):
    async def record(self, hub: TaskHubRecord, events: Sequence[LifecycleEvent]) -> list[bool | None]:
        """Record events durably. For each event: whether it changed the record, or None if the storage rejects the row.
        Raises TableMissing."""

    async def record_corrections(self, hub: TaskHubRecord, corrections: Sequence[Instance]) -> list[bool | None]:
        """Record what a probe has observed. Same result as `record`. Raises TableMissing."""

    async def read_records(self, task_hub: str, exemptions: Exemptions) -> TaskHubRecords:
        """Everything recorded of the task hub that a verdict needs, by one query if it has one shard. Empty if the task
        hub is unknown or was cleaned up. Raises StorageUnavailable if its records are lost."""

    async def get(self, hub: TaskHubRecord, instance_id: str) -> Instance | None: ...

    async def read_timeline(self, hub: TaskHubRecord, first_minute: Minute, end_minute: Minute) -> Timeline:
        """What all servers have counted of these minutes, `end_minute` excluded; nothing of minutes that are older than
        48 hours. Raises StorageUnavailable."""

    async def list_page(
        self,
        hub: TaskHubRecord,
        *,
        active: bool | None = None,
        status: RuntimeStatus | None = None,
        top: int,
        token: str | None = None,
    ) -> Page[Instance]:
        """Up to `top` instances, the active ones first. `active` and `status` filter. Raises InvalidRequest for a
        `token` of another list."""

    async def delete_records(self, hub: TaskHubRecord) -> None:
        """Delete all records of the task hub and of its probes, if there are any. A worker that reads the task hub now
        stores nothing afterwards."""


class TaskHubs(Protocol):
    async def ping(self) -> None:
        """Send the storage a cheap request, which also synchronizes the clock."""

    async def get(self, task_hub: str) -> TaskHubRecord | None: ...

    async def get_or_create(self, task_hub: str, *, enforce_limit: bool = True) -> TaskHubRecord:
        """The record of a task hub that events have arrived for. Creates the record and the instance table when they
        are missing. Raises TooManyTaskHubs if `enforce_limit` is set."""

    def invalidate_cache(self, task_hub: str) -> None:
        """Read the record from storage when the next event of the task hub arrives."""

    async def claim(self, task_hub: str, claim: TaskHubClaim) -> TaskHubRecord:
        """Reserve the task hub for an app, for ever, and create its instance table. A claim without a proof keeps the
        proof on record. Raises TaskHubInUse if another app has claimed it, and TaskHubAlreadyUsed if it is closed."""

    async def close(self, task_hub: str, *, deleting_from: str | None = None) -> None:
        """Take no more events for the task hub; they go to quarantine. `deleting_from` records the backend that its
        artifacts are about to be deleted from. The records of its instances count no more, because events that would
        end them are not recorded."""

    async def close_for_deletion(self, task_hub: str) -> TaskHubRecord:
        """Close a task hub that no app has claimed, in one conditional write. Concurrent calls share the closing.
        Raises TaskHubClaimed."""

    async def decide_deletion(self, closing: TaskHubRecord) -> TaskHubRecord:
        """Keep a task hub closed for ever. Raises TaskHubReopened if another call has reopened it."""

    async def reopen(self, closing: TaskHubRecord) -> TaskHubRecord:
        """Undo `close_for_deletion`, unless another call has decided the deletion or has closed the task hub again.
        Returns the record as it is then."""

    async def takes_events(self, task_hub: str) -> bool:
        """Whether events that were recorded before this call may be acknowledged (`EventLease`)."""

    async def record_seen(self, task_hub: str, *, confirmed_backend: str | None = None) -> None:
        """Record that a probe has found the task hub, and the backend that has shown an instance known from events."""


class Probes(Protocol):
    async def get(self, task_hub: str) -> ProbeRecord:
        """What is stored of the task hub's probes; an empty record if nothing is."""

    async def acquire_lease(
        self, task_hub: str, lease_owner: str, record: ProbeRecord, etag: str | None, *, until: Instant
    ) -> Lease | None:
        """Lease the task hub to one worker, by one conditional write. `record` and `etag` are what was read of its
        probes. None if another worker has written since."""

    async def renew_lease(self, lease: Lease, until: Instant) -> Lease | None:
        """Extend a lease. None if another worker has written since."""

    async def save(
        self,
        task_hub: str,
        etag: str | None,
        *,
        result: ProbeResult | None = None,
        scan: Scan | None = None,
        message_state: MessageState | None = None,
    ) -> bool:
        """Store what came of a scan, and end the lease. Without a `result` or `message_state` the stored one stays;
        without a `scan` the stored one is removed. `etag` is that of the lease, or the one that was read. False, and
        nothing is stored, if another worker has written since, or if the task hub was cleaned up."""

    async def replace_result(self, task_hub: str, result: ProbeResult) -> None:
        """Store a result in place of what other workers have stored, and end the lease of the one that scans now.
        Nothing is stored once the task hub was cleaned up."""


class Apps(Protocol):
    async def get(self, name: str) -> App | None:
        """The app with this name, or None if there is none or it is deleted."""

    async def get_including_deleted(self, name: str) -> App | None:
        """The app with this name, also if it is deleted; None if there never was one."""

    async def find_task_hub_of_version(self, name: str, version: str) -> str | None:
        """The task hub of the release that has or had this version; None for a version that was never used."""

    async def commit(
        self, before: App, after: App, audit: AuditRecord, *, forgotten_router: ForgottenRouter | None = None
    ) -> bool:
        """Write a new state, its audit record and what is to be written of a forgotten router in one transaction, if
        the stored app is still `before`. False if the app has changed, or the acknowledgement of the router."""

    async def list_page(self, top: int, token: str | None) -> Page[App]:
        """Up to `top` apps by name. Raises InvalidRequest for a `token` of another list."""

    async def list_keys_page(self, top: int, token: str | None) -> Page[AppKey]:
        """Up to `top` keys of apps, in order, also of deleted ones. It needs to read no app, so one that cannot be read
        hides no other. Raises InvalidRequest for a `token` of another list."""

    async def list_history(self, app: App, top: int, token: str | None) -> Page[AuditRecord]:
        """Up to `top` audit records, newest first. Raises InvalidRequest for a `token` of another list."""


class Routers(Protocol):
    async def list_acknowledgements(self, app_name: str) -> tuple[RouterAcknowledgement, ...]:
        """What every router of the app that asks under a name has acknowledged last, and the acknowledgement that
        stands for the forgotten routers. A router that is forgotten meanwhile is in one of the two."""

    async def acknowledge(self, app: App, router: str, revision: int, now: Instant) -> None:
        """Record that a router routes by this revision of the app's routing. The last request counts."""


class DeliveryChecks(Protocol):
    async def list_checks(self, task_hub: str) -> tuple[DeliveryCheck, ...]:
        """The delivery checks that are stored, also those whose lifetime has ended."""

    async def record(self, task_hub: str, arrived: Sequence[DeliveryCheck]) -> int:
        """Remember delivery checks, durably. Returns how many are new: none if the task hub has no table any more."""


class Quarantine(Protocol):
    async def add(self, events: Sequence[QuarantinedEvent]) -> None:
        """Store events durably."""

    async def list_page(self, top: int, token: str | None) -> Page[QuarantinedEvent]:
        """Up to `top` events: first those without a task hub, then the waiting ones, newest first in each group. Raises
        InvalidRequest for a `token` of another list."""

    async def list_waiting(self, task_hub: str, top: int) -> list[QuarantinedEvent]:
        """Up to `top` events that wait for an app to claim this task hub. Empty only if there are none."""

    async def remove(self, events: Sequence[QuarantinedEvent]) -> None:
        """Remove events that `list_waiting` returned, as far as they still exist."""

    async def purge(self, received_before: Instant) -> PurgeResult:
        """Remove events that arrived before this time, as many as one call can."""
