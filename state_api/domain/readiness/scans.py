"""A scan of a task hub: what its pages add up to, when it is done, and what it then says. It is plain data between two
pages, so that another worker can carry it on."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import ActiveInstance, ProbeResult, ProbeStatus, VersionCount
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.messages import MessageEvidence, ObservedQueues
from state_api.domain.task_hubs.lifecycle import EvidenceSource
from state_api.domain.task_hubs.observations import ObservedInstance

MAX_LISTED_BLOCKING = 50
"""Blocking instances that a scan keeps, the oldest; it counts all."""
_MAX_DEDUPLICATED = 1000
"""Active instances created since the scan began that are counted once although two passes may show them."""
_DIGEST_MODULUS = 2**64


@dataclass(slots=True)
class Scan:
    """A scan on its way. `began_at` is by the state storage's clock, `changed_since` by the backend's.

    A pass that shows nothing active proves it only if nothing changed meanwhile: an instance may start another one and
    end, and a reader who looks in the wrong order sees neither. So passes go on until one shows the very changes that
    the one before it has shown, which is at once where there are none.

    A start can be nothing but a message. So before each pass the control queues are looked at (`observed_queues`, None
    where a backend shows none), and the pass that ends the scan shows no change since then.
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
    """Instances whose stamps are in `stamp_digest`."""
    previous_stamp_digest: int | None = None
    recorded_count: int = 0
    correction_epoch: str = ""
    read_seconds: float = 0.0
    """Seconds of reading so far."""
    queues_read_in_pass: int = 0
    """The pass before which `observed_queues` was taken."""
    observed_queues: ObservedQueues | None = None

    @property
    def needs_queue_read(self) -> bool:
        """Whether the control queues have yet to be looked at before this pass."""
        return self.queues_read_in_pass < self.pass_number

    def add_page(self, observed: Iterable[ObservedInstance], exemptions: Exemptions) -> list[ObservedInstance]:
        """Take note of a page; the instances on it that block."""
        blocking = []
        for one in observed:
            exempt = exemptions.exempts(one.function_name, one.instance_id)
            if not one.active:
                if not exempt:
                    self.stamp_digest = (self.stamp_digest + _hash_stamp(one)) % _DIGEST_MODULUS
                    self.stamp_count += 1
                continue
            # A later pass looks for what blocks only. And an id that may stay under one name may not under another: it
            # is not enough that it is known, as long as nothing blocks.
            known = one.instance_id in self._listed_ids() if self.pass_number > 1 else self._is_seen_before(one)
            if (known and (exempt or self.blocking_count)) or (exempt and self.pass_number > 1):
                continue
            count, oldest = self.versions.get(one.version or "", (0, one.created_at))
            self.versions[one.version or ""] = (count + 1, min(oldest, one.created_at))
            shown = to_active_instance(one)
            if exemptions.find_waiver(one.instance_id) is not None:
                self.waived.append(shown)
            elif exempt:
                self.ignored_count += 1
            else:
                self.blocking_count += 1
                self.listed_blocking.append(shown)
                blocking.append(one)
        self.listed_blocking = sorted(self.listed_blocking, key=lambda one: (one.started_at, one.instance_id))[
            :MAX_LISTED_BLOCKING
        ]
        return blocking

    def _listed_ids(self) -> set[str]:
        return {one.instance_id for one in self.listed_blocking}

    def _is_seen_before(self, observed: ObservedInstance) -> bool:
        """Whether an earlier page showed it; only what is new since the scan began can be shown twice."""
        if observed.created_at < self.changed_since:
            return False
        instance = _hash64(observed.instance_id)
        if instance in self.new_instance_hashes:
            return True
        if len(self.new_instance_hashes) < _MAX_DEDUPLICATED:
            self.new_instance_hashes.append(instance)
        return False

    def finish_pass(self) -> bool:
        """Whether every cursor was followed to its end and no other pass is needed. A pass that is over without being
        enough begins the next one."""
        if self.cursors:
            return False
        if self.blocking_count or self.stamp_digest in (0, self.previous_stamp_digest):
            return True
        self.previous_stamp_digest, self.stamp_digest, self.stamp_count = self.stamp_digest, 0, 0
        self.pass_number += 1
        self.cursors = list(self.next_pass_cursors)
        return False

    def to_result(
        self,
        status: ProbeStatus,
        provider: str,
        ended_at: Instant,
        message: str = "",
        messages: MessageEvidence | None = None,
    ) -> ProbeResult:
        """What the scan says so far, or in the end."""
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


def to_active_instance(observed: ObservedInstance) -> ActiveInstance:
    return ActiveInstance(
        observed.instance_id,
        observed.function_name,
        observed.runtime_status,
        observed.created_at,
        observed.updated_at,
        EvidenceSource.PROBE,
        observed.version,
    )


def _hash_stamp(observed: ObservedInstance) -> int:
    """A number for this state of this instance. Sums of them do not depend on the order of pages."""
    return _hash64(f"{observed.instance_id}\0{observed.stamp}") or 1


def _hash64(text: str) -> int:
    """A short name for a text."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
