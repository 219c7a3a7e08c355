"""An unfinished scan as stored JSON, so that another worker can continue it: the members of each object, and the
conversions from and to the domain."""

from state_api.domain.instants import format_instant, parse_instant
from state_api.domain.readiness.messages import MessageKind, ObservedQueues, QueueSnapshot, VisibleMessage
from state_api.domain.readiness.scans import Scan
from state_api.storage.stored_json import StoredModel
from state_api.storage.stored_probe_results import StoredActiveInstance


class StoredVisibleMessage(StoredModel):
    message_id: str
    dequeue_count: int
    kind: str
    instance_id: str
    function_name: str

    @classmethod
    def from_domain(cls, message: VisibleMessage) -> "StoredVisibleMessage":
        return cls(
            message_id=message.message_id,
            dequeue_count=message.dequeue_count,
            kind=message.kind.value,
            instance_id=message.instance_id,
            function_name=message.function_name,
        )

    def to_domain(self) -> VisibleMessage:
        return VisibleMessage(
            message_id=self.message_id,
            dequeue_count=self.dequeue_count,
            kind=MessageKind(self.kind),
            instance_id=self.instance_id,
            function_name=self.function_name,
        )


class StoredQueueSnapshot(StoredModel):
    message_count: int
    visible: tuple[StoredVisibleMessage, ...]
    peeked_twice: int
    more_visible: bool
    partition_owners: str

    @classmethod
    def from_domain(cls, snapshot: QueueSnapshot) -> "StoredQueueSnapshot":
        return cls(
            message_count=snapshot.message_count,
            visible=tuple(StoredVisibleMessage.from_domain(message) for message in snapshot.visible),
            peeked_twice=snapshot.peeked_twice,
            more_visible=snapshot.more_visible,
            partition_owners=snapshot.partition_owners,
        )

    def to_domain(self) -> QueueSnapshot:
        return QueueSnapshot(
            message_count=self.message_count,
            visible=tuple(message.to_domain() for message in self.visible),
            peeked_twice=self.peeked_twice,
            more_visible=self.more_visible,
            partition_owners=self.partition_owners,
        )


class StoredObservedQueues(StoredModel):
    snapshot: StoredQueueSnapshot
    pending_timers: int
    possibly_pending_timers: int
    began_at: str
    ended_at: str

    @classmethod
    def from_domain(cls, observed: ObservedQueues) -> "StoredObservedQueues":
        return cls(
            snapshot=StoredQueueSnapshot.from_domain(observed.snapshot),
            pending_timers=observed.pending_timers,
            possibly_pending_timers=observed.possibly_pending_timers,
            began_at=format_instant(observed.began_at),
            ended_at=format_instant(observed.ended_at),
        )

    def to_domain(self) -> ObservedQueues:
        return ObservedQueues(
            snapshot=self.snapshot.to_domain(),
            pending_timers=self.pending_timers,
            possibly_pending_timers=self.possibly_pending_timers,
            began_at=parse_instant(self.began_at),
            ended_at=parse_instant(self.ended_at),
        )


class StoredScanVersion(StoredModel):
    """The number of active instances of one orchestration version that a scan has counted, and their earliest
    start."""

    active: int
    oldest_started_at: str


class StoredScan(StoredModel):
    began_at: str
    changed_since: str
    cursors: tuple[str, ...]
    next_pass_cursors: tuple[str, ...]
    request_key: str
    call_count: int
    pass_number: int
    page_count: int
    scanned: int
    blocking_count: int
    listed_blocking: tuple[StoredActiveInstance, ...]
    ignored_count: int
    waived: tuple[StoredActiveInstance, ...]
    versions: dict[str, StoredScanVersion]
    new_instance_hashes: tuple[int, ...]
    stamp_digest: int
    stamp_count: int
    exempt_digest: int
    previous_stamp_digest: int | None
    recorded_count: int
    correction_epoch: str
    read_seconds: float
    queues_read_in_pass: int
    observed_queues: StoredObservedQueues | None

    @classmethod
    def from_domain(cls, scan: Scan) -> "StoredScan":
        return cls(
            began_at=format_instant(scan.began_at),
            changed_since=format_instant(scan.changed_since),
            cursors=tuple(scan.cursors),
            next_pass_cursors=tuple(scan.next_pass_cursors),
            request_key=scan.request_key,
            call_count=scan.call_count,
            pass_number=scan.pass_number,
            page_count=scan.page_count,
            scanned=scan.scanned,
            blocking_count=scan.blocking_count,
            listed_blocking=tuple(StoredActiveInstance.from_domain(instance) for instance in scan.listed_blocking),
            ignored_count=scan.ignored_count,
            waived=tuple(StoredActiveInstance.from_domain(instance) for instance in scan.waived),
            versions={
                version: StoredScanVersion(active=active, oldest_started_at=format_instant(oldest_started_at))
                for version, (active, oldest_started_at) in scan.versions.items()
            },
            new_instance_hashes=tuple(scan.new_instance_hashes),
            stamp_digest=scan.stamp_digest,
            stamp_count=scan.stamp_count,
            exempt_digest=scan.exempt_digest,
            previous_stamp_digest=scan.previous_stamp_digest,
            recorded_count=scan.recorded_count,
            correction_epoch=scan.correction_epoch,
            read_seconds=scan.read_seconds,
            queues_read_in_pass=scan.queues_read_in_pass,
            observed_queues=StoredObservedQueues.from_domain(scan.observed_queues) if scan.observed_queues else None,
        )

    def to_domain(self) -> Scan:
        """The scan that was stored. Raises ValueError if a value is invalid."""
        return Scan(
            began_at=parse_instant(self.began_at),
            changed_since=parse_instant(self.changed_since),
            cursors=list(self.cursors),
            next_pass_cursors=list(self.next_pass_cursors),
            request_key=self.request_key,
            call_count=self.call_count,
            pass_number=self.pass_number,
            page_count=self.page_count,
            scanned=self.scanned,
            blocking_count=self.blocking_count,
            listed_blocking=[instance.to_domain() for instance in self.listed_blocking],
            ignored_count=self.ignored_count,
            waived=[instance.to_domain() for instance in self.waived],
            versions={
                version: (count.active, parse_instant(count.oldest_started_at))
                for version, count in self.versions.items()
            },
            new_instance_hashes=list(self.new_instance_hashes),
            stamp_digest=self.stamp_digest,
            stamp_count=self.stamp_count,
            exempt_digest=self.exempt_digest,
            previous_stamp_digest=self.previous_stamp_digest,
            recorded_count=self.recorded_count,
            correction_epoch=self.correction_epoch,
            read_seconds=self.read_seconds,
            queues_read_in_pass=self.queues_read_in_pass,
            observed_queues=self.observed_queues.to_domain() if self.observed_queues else None,
        )
