"""A scan of a task hub: it counts the instances of all pages, knows when it is complete, and gives the result.

A scan is plain data between two pages, so that another worker can resume it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import ActiveInstance, ProbeResult, ProbeStatus, VersionCount
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.messages import (
    MessageEvidence,
    MessageState,
    ObservedQueues,
    QuietPeriod,
    assess_messages,
    compute_queue_digest,
    max_hidden_seconds,
    track_quiet_period,
)
from state_api.domain.task_hubs.lifecycle import EvidenceSource
from state_api.domain.task_hubs.observations import ObservedInstance

MAX_LISTED_BLOCKING = 50
"""Blocking instances that a scan lists, the oldest ones. It counts all of them."""

_MAX_DEDUPLICATED = 1000
"""Active instances, created since the scan began, that are counted only once although two passes can return them."""

_MAX_COMPARED_STAMPS = 1000
"""Stamped rows that are compared from probe to probe. With more, a quiet period begins again at the next probe."""

_DIGEST_MODULUS = 2**64


@dataclass(slots=True)
class Scan:
    """A scan that is under way. `began_at` is by the state storage's clock, `changed_since` by the backend's.

    A pass that returns no active instance proves that none is active only if nothing changed while it read. An instance
    can start another instance and end. A pass that reads the row of the second before its start, and the row of the
    first after its end, returns neither as active. So passes are repeated until a pass returns exactly the changes that
    the pass before it returned. If nothing changes, one pass is enough.

    A start may exist only as a message. So the control queues are read before each pass, and the pass that completes
    the scan shows no change since then. The field `observed_queues` is None where the backend does not show messages.
    """

    began_at: Instant
    changed_since: Instant
    cursors: list[str]
    next_pass_cursors: list[str]
    request_key: str
    call_count: int = 1
    pass_number: int = 1
    page_count: int = 0
    scanned: int = 0
    blocking_count: int = 0
    listed_blocking: list[ActiveInstance] = field(default_factory=list)
    ignored_count: int = 0
    waived: list[ActiveInstance] = field(default_factory=list)
    versions: dict[str, tuple[int, Instant]] = field(default_factory=dict)
    new_instance_hashes: list[int] = field(default_factory=list)
    stamp_digest: int = 0
    stamp_count: int = 0
    """The number of instances whose stamps are in `stamp_digest`."""
    exempt_digest: int = 0
    """Like `stamp_digest`, but of the exempt instances, active or not. A scan can complete while they change. Each step
    may still send a message that starts an instance that blocks, so the queue digest includes it."""
    previous_stamp_digest: int | None = None
    recorded_count: int = 0
    correction_epoch: str = ""
    read_seconds: float = 0.0
    queues_read_in_pass: int = 0
    """The number of the pass before which the control queues were last read; 0 if they were not read yet."""
    observed_queues: ObservedQueues | None = None

    @property
    def needs_queue_read(self) -> bool:
        """Whether the control queues must be read before this pass."""
        return self.queues_read_in_pass < self.pass_number

    def add_page(self, observed: Iterable[ObservedInstance], exemptions: Exemptions) -> list[ObservedInstance]:
        """Count the instances on a page. Returns those that block."""
        blocking = []
        for instance in observed:
            exempt = exemptions.exempts(instance.function_name, instance.instance_id)
            if exempt:
                self.exempt_digest = _add_to_digest(self.exempt_digest, instance)
            if not instance.active:
                if not exempt:
                    self._add_stamp(instance)
            elif not self._is_counted(instance, exempt=exempt):
                self._count_version(instance)
                listed = to_active_instance(instance)
                if exemptions.find_waiver(instance.instance_id) is not None:
                    self.waived.append(listed)
                elif exempt:
                    self.ignored_count += 1
                else:
                    self.blocking_count += 1
                    self.listed_blocking.append(listed)
                    blocking.append(instance)
        self.listed_blocking.sort(key=lambda instance: (instance.started_at, instance.instance_id))
        del self.listed_blocking[MAX_LISTED_BLOCKING:]
        return blocking

    def _add_stamp(self, instance: ObservedInstance) -> None:
        """Add an ended instance to the digest that shows whether a row changed between two passes. The order of rows
        has no effect."""
        self.stamp_digest = _add_to_digest(self.stamp_digest, instance)
        self.stamp_count += 1

    def _is_counted(self, instance: ObservedInstance, *, exempt: bool) -> bool:
        """Whether an active instance is counted already, or need not be counted.

        Passes after the first only look for instances that block, so they do not count exempt instances. An instance id
        can be exempt under one function name and block under another. So until an instance blocks, an id that does not
        block is counted again under its new name.
        """
        if self.pass_number > 1:
            is_known = any(listed.instance_id == instance.instance_id for listed in self.listed_blocking)
        else:
            is_known = self._was_on_earlier_page(instance)
        return (is_known and (exempt or self.blocking_count > 0)) or (exempt and self.pass_number > 1)

    def _was_on_earlier_page(self, instance: ObservedInstance) -> bool:
        """Whether an earlier page returned this instance. Only those created since the scan began can occur twice."""
        if instance.created_at < self.changed_since:
            return False
        instance_hash = _hash64(instance.instance_id)
        if instance_hash in self.new_instance_hashes:
            return True
        if len(self.new_instance_hashes) < _MAX_DEDUPLICATED:
            self.new_instance_hashes.append(instance_hash)
        return False

    def _count_version(self, instance: ObservedInstance) -> None:
        """Count an active instance under its orchestration version, and keep the earliest start of each version."""
        count, oldest = self.versions.get(instance.version or "", (0, instance.created_at))
        self.versions[instance.version or ""] = (count + 1, min(oldest, instance.created_at))

    def finish_pass(self) -> bool:
        """End the pass if it has read everything. Returns whether the scan is complete.

        If another pass is needed, that pass begins."""
        if self.cursors:
            return False
        # An instance that blocks decides the verdict, so no further pass is needed. Otherwise a pass proves that none
        # blocks if it returned no changes (their digest is 0), or exactly those of the pass before it.
        if self.blocking_count or self.stamp_digest in (0, self.previous_stamp_digest):
            return True
        self.previous_stamp_digest, self.stamp_digest, self.stamp_count = self.stamp_digest, 0, 0
        self.exempt_digest = 0
        self.pass_number += 1
        self.cursors = list(self.next_pass_cursors)
        return False

    def to_incomplete_result(self, provider: str, now: Instant) -> ProbeResult:
        """The result of an incomplete scan. Its message says how far the scan came."""
        message = (
            f"{self.page_count} pages are read, {len(self.cursors)} ranges are left in pass {self.pass_number}; the "
            "next request continues the scan"
        )
        return self.to_result(ProbeStatus.INCOMPLETE, provider, now, message=message)

    def to_result(
        self,
        status: ProbeStatus,
        provider: str,
        ended_at: Instant,
        *,
        message: str = "",
        messages: MessageEvidence | None = None,
    ) -> ProbeResult:
        """The result of what the scan has found so far."""
        return ProbeResult(
            status,
            provider,
            self.began_at,
            active=tuple(self.listed_blocking),
            waived=tuple(self.waived),
            scanned=self.scanned,
            message=message,
            ended_at=ended_at,
            unlisted_count=self.blocking_count - len(self.listed_blocking),
            ignored_count=self.ignored_count,
            versions=tuple(
                VersionCount(version or None, count, oldest)
                for version, (count, oldest) in sorted(self.versions.items())
            ),
            request_key=self.request_key,
            resumed=self.call_count > 1,
            read_seconds=round(self.read_seconds),
            correction_epoch=self.correction_epoch,
            messages=messages,
        )


def assess_scan_messages(
    scan: Scan,
    state: MessageState,
    *,
    exemptions: Exemptions,
    message_visibility_seconds: int,
    last_recorded_at: Instant | None,
    ended_at: Instant,
) -> tuple[MessageEvidence | None, MessageState]:
    """The evidence of messages after a complete scan, and the state to remember until the next probe.

    `state` is what was remembered of the same storage account. `ended_at`: the scan has certainly ended by then. The
    evidence is None if the control queues were not read.
    """
    observed = scan.observed_queues
    if observed is None:
        return None, replace(state, quiet_period=None)
    previous = find_quiet_period(state, exemptions)
    quiet_period = None
    if not scan.blocking_count:
        quiet_period = track_quiet_period(
            previous,
            observed,
            scan_ended_at=ended_at,
            key=exemptions.instances_key,
            changed_since=scan.changed_since,
            stamp_digest=scan.stamp_digest,
            queue_digest=compute_queue_digest(observed.snapshot, scan.exempt_digest, last_recorded_at),
        )
        if quiet_period is not previous and scan.stamp_count > _MAX_COMPARED_STAMPS:
            quiet_period = None
    evidence = assess_messages(
        observed, quiet_period, exemptions, max_hidden_seconds=max_hidden_seconds(message_visibility_seconds)
    )
    return evidence, replace(state, quiet_period=quiet_period)


def find_quiet_period(state: MessageState, exemptions: Exemptions) -> QuietPeriod | None:
    """The remembered quiet period, if it was observed under the same exempted functions and instances."""
    quiet_period = state.quiet_period
    return (
        quiet_period if quiet_period is not None and quiet_period.exemptions_key == exemptions.instances_key else None
    )


def to_active_instance(observed: ObservedInstance) -> ActiveInstance:
    """The observed instance as a verdict lists it."""
    return ActiveInstance(
        observed.instance_id,
        observed.function_name,
        observed.runtime_status,
        observed.created_at,
        observed.updated_at,
        EvidenceSource.PROBE,
        observed.version,
    )


def _add_to_digest(digest: int, observed: ObservedInstance) -> int:
    """The digest with this state of this instance. It does not depend on the order of pages."""
    return (digest + _hash_stamp(observed)) % _DIGEST_MODULUS


def _hash_stamp(observed: ObservedInstance) -> int:
    """A number for this state of this instance, never 0."""
    return _hash64(f"{observed.instance_id}\0{observed.stamp}") or 1


def _hash64(text: str) -> int:
    """The first 64 bits of the text's SHA-256, as a number: a short stand-in for an id of any length."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
