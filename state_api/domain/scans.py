"""A scan of a task hub: what its pages add up to, when it is done, and what it then says. It is plain data between two
pages, so that another worker can carry it on."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from state_api.domain.evidence import ActiveInstance, ProbeResult, ProbeStatus, VersionCount
from state_api.domain.exemptions import Exemptions
from state_api.domain.instants import Instant
from state_api.domain.lifecycle import Source
from state_api.domain.messages import MessageEvidence, QueueLook
from state_api.domain.sightings import Sighting

LISTED = 50
"""Blocking instances that a scan keeps, the oldest; it counts all."""
_TOLD_APART = 1000
"""Active instances created since the scan began that are counted once although two passes may show them."""
_MODULUS = 2**64


@dataclass(slots=True)
class Scan:
    """A scan on its way. `began_at` is by the state storage's clock, `since` by the backend's.

    A pass that shows nothing active proves it only if nothing changed meanwhile: an instance may start another one and
    end, and a reader who looks in the wrong order sees neither. So passes go on until one shows the very changes that
    the one before it has shown, which is at once where there are none.

    A start can be nothing but a message. So before each pass the control queues are looked at (`look`, None where a
    backend shows none), and the pass that ends the scan shows no change since then.
    """

    began_at: Instant
    since: Instant
    cursors: list[str]
    again: list[str]
    exemptions: str
    calls: int = 1
    passes: int = 1
    pages: int = 0
    scanned: int = 0
    blocking: int = 0
    listed: list[ActiveInstance] = field(default_factory=list)
    ignored: int = 0
    waived: list[ActiveInstance] = field(default_factory=list)
    versions: dict[str, tuple[int, Instant]] = field(default_factory=dict)
    new: list[int] = field(default_factory=list)
    changes: int = 0
    compared: int = 0
    """Instances whose stamps are in `changes`."""
    changes_before: int | None = None
    recorded: int = 0
    closings: str = ""
    spent: float = 0.0
    """Seconds of reading so far."""
    looked_in_pass: int = 0
    """The pass before which `look` was taken."""
    look: QueueLook | None = None

    @property
    def needs_look(self) -> bool:
        """Whether the control queues have yet to be looked at before this pass."""
        return self.looked_in_pass < self.passes

    def add(self, sightings: Iterable[Sighting], exemptions: Exemptions) -> list[Sighting]:
        """Take note of a page; the instances on it that block."""
        blocking = []
        for one in sightings:
            exempt = exemptions.exempts(one.function_name, one.instance_id)
            if not one.active:
                if not exempt:
                    self.changes = (self.changes + _digest(one)) % _MODULUS
                    self.compared += 1
                continue
            # A later pass looks for what blocks only. And an id that may stay under one name may not under another: it
            # is not enough that it is known, as long as nothing blocks.
            known = one.instance_id in self._listed_ids() if self.passes > 1 else self._known(one)
            if (known and (exempt or self.blocking)) or (exempt and self.passes > 1):
                continue
            count, oldest = self.versions.get(one.version or "", (0, one.created_at))
            self.versions[one.version or ""] = (count + 1, min(oldest, one.created_at))
            shown = shown_as(one)
            if exemptions.waiver_of(one.instance_id) is not None:
                self.waived.append(shown)
            elif exempt:
                self.ignored += 1
            else:
                self.blocking += 1
                self.listed.append(shown)
                blocking.append(one)
        self.listed = sorted(self.listed, key=lambda one: (one.started_at, one.instance_id))[:LISTED]
        return blocking

    def _listed_ids(self) -> set[str]:
        return {one.instance_id for one in self.listed}

    def _known(self, sighting: Sighting) -> bool:
        """Whether an earlier page showed it; only what is new since the scan began can be shown twice."""
        if sighting.created_at < self.since:
            return False
        instance = _number(sighting.instance_id)
        if instance in self.new:
            return True
        if len(self.new) < _TOLD_APART:
            self.new.append(instance)
        return False

    def finished(self) -> bool:
        """Whether every cursor was followed to its end and no other pass is needed. A pass that is over without being
        enough begins the next one."""
        if self.cursors:
            return False
        if self.blocking or self.changes in (0, self.changes_before):
            return True
        self.changes_before, self.changes, self.compared = self.changes, 0, 0
        self.passes += 1
        self.cursors = list(self.again)
        return False

    def result(
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
            active=tuple(self.listed),
            waived=tuple(self.waived),
            scanned=self.scanned,
            message=message,
            ended_at=ended_at,
            unlisted=self.blocking - len(self.listed),
            ignored_count=self.ignored,
            versions=tuple(
                VersionCount(version or None, count, oldest)
                for version, (count, oldest) in sorted(self.versions.items())
            ),
            exemptions=self.exemptions,
            carried_on=self.calls > 1,
            took_seconds=round(self.spent),
            closings=self.closings,
            messages=messages,
        )


def shown_as(sighting: Sighting) -> ActiveInstance:
    return ActiveInstance(
        sighting.instance_id,
        sighting.function_name,
        sighting.runtime_status,
        sighting.created_at,
        sighting.updated_at,
        Source.PROBE,
        sighting.version,
    )


def _digest(sighting: Sighting) -> int:
    """A number for this state of this instance. Sums of them do not depend on the order of pages."""
    return _number(f"{sighting.instance_id}\0{sighting.stamp}") or 1


def _number(text: str) -> int:
    """A short name for a text."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
