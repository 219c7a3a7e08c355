"""When a request that waits for Ready should ask again: not before a verdict can be Ready, and as soon as it can be.

These rules only choose the moment. The verdict itself always rests on what is read after that moment.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from state_api.domain.instants import TICKS_PER_SECOND, Instant
from state_api.domain.readiness.evidence import InstanceActivity, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.plan import RecordedState
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.reasons import ReasonCode
from state_api.domain.readiness.validity import remaining_settle_ticks, remaining_supersession_ticks
from state_api.domain.readiness.verdict import Verdict

NO_END = Instant(2**63)
"""When something stops to block that time alone does not end."""

_NOT_ABOUT_THE_TASK_HUB = frozenset(
    {
        ReasonCode.DEPLOYMENT_IN_PROGRESS,
        ReasonCode.SWAP_PENDING,
        ReasonCode.ROLLOUT_IN_PROGRESS,
        ReasonCode.RELEASE_IN_USE,
        ReasonCode.ROUTERS_BEHIND,
    }
)
"""Reasons that reading the task hub again cannot remove."""


@dataclass(frozen=True, slots=True)
class InstanceChange:
    """An instance whose record has changed, and whether it is active since."""

    instance_id: str
    function_name: str
    active: bool


@dataclass(frozen=True, slots=True)
class RecordedChanges:
    """What one transaction has changed in the records of a task hub.

    - `stamped_functions`: the functions whose activity it has stamped. The settle window begins again with a stamp.
    - `recorded_at`: a time by the state storage's clock. It is not later than the stamps, and close to them.
    """

    instances: Sequence[InstanceChange]
    stamped_functions: Iterable[str]
    recorded_at: Instant


class KnownActivity:
    """What this process knows of the records of one task hub: what it has read, and what it has recorded since.

    An instance that is known to be active may have ended, because another process may have recorded its end.
    """

    def __init__(self) -> None:
        """Begin to know nothing of the task hub."""
        self.version = 0
        """Counts the changes of what is known."""
        self.recorded_count = 0
        """Counts what this process has recorded."""
        self.is_exact = False
        """Whether the settle window is known from a read, and not only from the time at which a change was recorded."""
        self._exemptions = Exemptions()
        self._active_ids: set[str] | None = None
        self._last_recorded_at: Instant | None = None
        self._last_read: object = None
        self._begun_read_count = 0
        self._applied_read_number = 0
        self._changes_during_reads: dict[int, list[RecordedChanges]] = {}

    @property
    def is_active(self) -> bool:
        """Whether an instance is known to be active that blocks."""
        return bool(self._active_ids)

    @property
    def activity(self) -> InstanceActivity:
        """The time of the last change, for the rules of time."""
        return InstanceActivity(last_recorded_at=self._last_recorded_at)

    def begin_read(self) -> int:
        """Note that the records are being read. Returns the number of the read, for `end_read`."""
        self._begun_read_count += 1
        self._changes_during_reads[self._begun_read_count] = []
        return self._begun_read_count

    def end_read(self, number: int, state: RecordedState | None, exemptions: Exemptions) -> None:
        """Know what a read has shown under these exemptions; None if it has failed.

        Changes that were recorded during the read are added, because the read may not contain them. A read that began
        before another one whose result is known already is left out.
        """
        changes = self._changes_during_reads.pop(number)
        if state is None or number < self._applied_read_number:
            return
        self._applied_read_number = number
        self._exemptions = exemptions
        self._active_ids = {instance.instance_id for instance in state.activity.active}
        self._last_recorded_at = state.activity.last_recorded_at
        self.is_exact = True
        read = (state.change_token, state.probe_version, exemptions)
        if self._last_read != read:
            self._last_read = read
            self.version += 1
        for change in changes:
            self._apply(change)

    def add_changes(self, changes: RecordedChanges) -> None:
        """Know what this process has recorded."""
        self.recorded_count += 1
        for changes_during_read in self._changes_during_reads.values():
            changes_during_read.append(changes)
        self._apply(changes)

    def _apply(self, changes: RecordedChanges) -> None:
        """Update what is known of the activity by changes that were recorded."""
        self.version += 1
        if self._active_ids is not None:
            for change in changes.instances:
                if change.active and not self._exemptions.exempts(change.function_name, change.instance_id):
                    self._active_ids.add(change.instance_id)
                else:
                    self._active_ids.discard(change.instance_id)
        if any(not self._exemptions.ignores(function_name) for function_name in changes.stamped_functions):
            self._last_recorded_at = max(self._last_recorded_at or Instant(0), changes.recorded_at)
            self.is_exact = False


def earliest_ready_at(
    task_hubs: Iterable[KnownActivity], policy: Policy, now: Instant, *, is_verified: bool
) -> Instant | None:
    """The earliest moment at which a verdict on these task hubs can be Ready; None while an instance is known to be
    active. The moment may be past. With `is_verified`, a scan must be able to begin then."""
    earliest = Instant(0)
    for known in task_hubs:
        if known.is_active:
            return None
        remaining = remaining_settle_ticks(known.activity, policy, now)
        if is_verified:
            remaining = max(remaining, remaining_supersession_ticks(known.activity, policy, now))
        if known.activity.last_recorded_at is not None:
            earliest = max(earliest, Instant(now + remaining))
    return earliest


@dataclass(frozen=True, slots=True)
class VerificationIntervals:
    """How long after a verification a task hub is read again, in seconds.

    - `look_up`: while it shows something active, or something new.
    - `longest`: if it has shown the same several times.
    """

    look_up: float = 5.0
    longest: float = 30.0


@dataclass(frozen=True, slots=True)
class NextVerification:
    """How long after a verification the task hub is to be read again. `observation`: what the
    verification has shown."""

    interval_seconds: float
    observation: object = None


def plan_next_verification(
    verdict: Verdict, previous: NextVerification | None, intervals: VerificationIntervals, *, read_seconds: float
) -> NextVerification | None:
    """When to read the task hub again after this verdict; None if that cannot change the verdict.

    Active instances are looked up at a fixed interval. The interval grows while nothing is active and the task hub
    shows the same again and again. A read that was not completed is continued after as long as it has taken.
    """
    codes = {reason.code for reason in verdict.reasons} - _NOT_ABOUT_THE_TASK_HUB
    if verdict.active_count:
        return NextVerification(intervals.look_up)
    if not codes or ReasonCode.SETTLING in codes:
        return None
    probe = verdict.evidence.probe
    if probe is not None and probe.status is ProbeStatus.INCOMPLETE:
        return NextVerification(max(intervals.look_up, read_seconds))
    messages = probe.messages if probe is not None else None
    observation = (codes, (messages.visible, messages.invisible) if messages is not None else None)
    interval = intervals.look_up
    if previous is not None and previous.observation == observation:
        interval = min(max(interval, 2 * previous.interval_seconds), intervals.longest)
    if messages is not None and messages.unblocks_at is not None:
        interval = min(interval, max(0, messages.unblocks_at - verdict.checked_at) / TICKS_PER_SECOND)
    return NextVerification(max(interval, read_seconds), observation)
