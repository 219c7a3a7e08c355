"""The result of a probe as stored JSON: the members of each object, and the conversions from and to the domain."""

from state_api.domain.instants import format_instant, parse_instant
from state_api.domain.readiness.evidence import ActiveInstance, ProbeResult, ProbeStatus, VersionCount
from state_api.domain.readiness.messages import MessageEvidence, PendingStart
from state_api.domain.task_hubs.lifecycle import EvidenceSource, RuntimeStatus
from state_api.storage.stored_json import StoredModel, format_optional_instant, parse_optional_instant


class StoredActiveInstance(StoredModel):
    instance_id: str
    function_name: str
    runtime_status: str
    started_at: str
    last_event_at: str
    source: str
    version: str | None

    @classmethod
    def from_domain(cls, instance: ActiveInstance) -> "StoredActiveInstance":
        return cls(
            instance_id=instance.instance_id,
            function_name=instance.function_name,
            runtime_status=instance.runtime_status.value,
            started_at=format_instant(instance.started_at),
            last_event_at=format_instant(instance.last_event_at),
            source=instance.source.value,
            version=instance.version,
        )

    def to_domain(self) -> ActiveInstance:
        return ActiveInstance(
            instance_id=self.instance_id,
            function_name=self.function_name,
            runtime_status=RuntimeStatus(self.runtime_status),
            started_at=parse_instant(self.started_at),
            last_event_at=parse_instant(self.last_event_at),
            source=EvidenceSource(self.source),
            version=self.version,
        )


class StoredVersionCount(StoredModel):
    version: str | None
    active: int
    oldest_started_at: str

    @classmethod
    def from_domain(cls, count: VersionCount) -> "StoredVersionCount":
        return cls(
            version=count.version, active=count.active, oldest_started_at=format_instant(count.oldest_started_at)
        )

    def to_domain(self) -> VersionCount:
        return VersionCount(
            version=self.version, active=self.active, oldest_started_at=parse_instant(self.oldest_started_at)
        )


class StoredPendingStart(StoredModel):
    instance_id: str
    function_name: str

    @classmethod
    def from_domain(cls, start: PendingStart) -> "StoredPendingStart":
        return cls(instance_id=start.instance_id, function_name=start.function_name)

    def to_domain(self) -> PendingStart:
        return PendingStart(instance_id=self.instance_id, function_name=self.function_name)


class StoredMessageEvidence(StoredModel):
    checked_at: str
    visible: int
    invisible: int
    explained: int
    starts: tuple[StoredPendingStart, ...]
    start_count: int
    more_visible: bool
    unexplained_count: int
    unblocks_at: str | None
    waived: int

    @classmethod
    def from_domain(cls, evidence: MessageEvidence) -> "StoredMessageEvidence":
        return cls(
            checked_at=format_instant(evidence.checked_at),
            visible=evidence.visible,
            invisible=evidence.invisible,
            explained=evidence.explained,
            starts=tuple(StoredPendingStart.from_domain(start) for start in evidence.starts),
            start_count=evidence.start_count,
            more_visible=evidence.more_visible,
            unexplained_count=evidence.unexplained_count,
            unblocks_at=format_optional_instant(evidence.unblocks_at),
            waived=evidence.waived,
        )

    def to_domain(self) -> MessageEvidence:
        return MessageEvidence(
            checked_at=parse_instant(self.checked_at),
            visible=self.visible,
            invisible=self.invisible,
            explained=self.explained,
            starts=tuple(start.to_domain() for start in self.starts),
            start_count=self.start_count,
            more_visible=self.more_visible,
            unexplained_count=self.unexplained_count,
            unblocks_at=parse_optional_instant(self.unblocks_at),
            waived=self.waived,
        )


class StoredProbeResult(StoredModel):
    status: str
    provider: str
    began_at: str
    active: tuple[StoredActiveInstance, ...]
    scanned: int
    message: str
    ended_at: str | None
    unlisted_count: int
    ignored_count: int
    versions: tuple[StoredVersionCount, ...]
    request_key: str
    resumed: bool
    read_seconds: int
    waived: tuple[StoredActiveInstance, ...]
    retry_after_seconds: int | None
    correction_epoch: str
    messages: StoredMessageEvidence | None

    @classmethod
    def from_domain(cls, result: ProbeResult) -> "StoredProbeResult":
        return cls(
            status=result.status.value,
            provider=result.provider,
            began_at=format_instant(result.began_at),
            active=tuple(StoredActiveInstance.from_domain(instance) for instance in result.active),
            scanned=result.scanned,
            message=result.message,
            ended_at=format_optional_instant(result.ended_at),
            unlisted_count=result.unlisted_count,
            ignored_count=result.ignored_count,
            versions=tuple(StoredVersionCount.from_domain(count) for count in result.versions),
            request_key=result.request_key,
            resumed=result.resumed,
            read_seconds=result.read_seconds,
            waived=tuple(StoredActiveInstance.from_domain(instance) for instance in result.waived),
            retry_after_seconds=result.retry_after_seconds,
            correction_epoch=result.correction_epoch,
            messages=StoredMessageEvidence.from_domain(result.messages) if result.messages else None,
        )

    def to_domain(self) -> ProbeResult:
        """The result that was stored. Raises ValueError if a value is invalid."""
        return ProbeResult(
            status=ProbeStatus(self.status),
            provider=self.provider,
            began_at=parse_instant(self.began_at),
            active=tuple(instance.to_domain() for instance in self.active),
            scanned=self.scanned,
            message=self.message,
            ended_at=parse_optional_instant(self.ended_at),
            unlisted_count=self.unlisted_count,
            ignored_count=self.ignored_count,
            versions=tuple(count.to_domain() for count in self.versions),
            request_key=self.request_key,
            resumed=self.resumed,
            read_seconds=self.read_seconds,
            waived=tuple(instance.to_domain() for instance in self.waived),
            retry_after_seconds=self.retry_after_seconds,
            correction_epoch=self.correction_epoch,
            messages=self.messages.to_domain() if self.messages else None,
        )
