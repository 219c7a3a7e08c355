"""What to read next of a task hub, in order to verify that it has drained.

`plan_read` decides on the next step from what is known, and a loop in `services/verification.py` takes the steps and
feeds their outcomes back, until a step is `Done`. The cheapest reads come first: while the records hold active
instances, only those are looked up; once they hold none, the task hub is scanned.

The order of the steps is a matter of safety (docs/correctness.md). The control queues are read after the scan has begun
and before each of its passes. A start that the task hub does not show is closed only after a complete scan. Then the
task hub is scanned again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import ActiveInstance, InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.lookups import Batch, assess_batch, next_batch, record_end
from state_api.domain.readiness.requirements import (
    ReadRequirements,
    VerificationMode,
    answers,
    is_fresh_enough,
    is_scan_useful,
    must_wait,
)
from state_api.domain.readiness.scans import Scan
from state_api.domain.task_hubs.lifecycle import Instance, Started
from state_api.domain.task_hubs.observations import ObservedInstance


@dataclass(frozen=True, slots=True)
class RecordedState:
    """What the server has recorded of a task hub.

    - `seen_before`: events or a probe have shown the task hub.
    - `change_token`: the same in two reads if no event and no correction has changed anything between them.
    - `probe_version`: the same in two reads if nothing was stored of a probe between them.
    """

    activity: InstanceActivity
    seen_before: bool
    change_token: str = ""
    probe_version: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """The outcome of a verification, for the request with this key.

    - `active_instance_seen`: the task hub has just shown one of the active instances.
    - `looked_up_instances`: the instances that were looked up, as the task hub has just shown them.
    - `recorded_state`: the records, if a verdict may rest on them; otherwise None. A verdict may rest on them in two
      cases. Either they were read after the result, and the task hub was not read since. Or they still contain what was
      looked up since, so that they say NotReady.
    """

    request_key: str
    result: ProbeResult | None
    active_instance_seen: bool = False
    looked_up_instances: tuple[ActiveInstance, ...] = ()
    recorded_state: RecordedState | None = None


# The steps


@dataclass(frozen=True, slots=True)
class ReadRecords:
    """Read what the server has recorded of the task hub."""


@dataclass(frozen=True, slots=True)
class LookUp:
    """Read these instances in the task hub. `again`: it is the second look at starts that the first did not show."""

    instances: tuple[ActiveInstance, ...]
    again: bool = False


@dataclass(frozen=True, slots=True)
class CountMessages:
    """Count the messages in the control queues."""


@dataclass(frozen=True, slots=True)
class Correct:
    """Record that instances have ended. With `absence_counts`, only if the backend is known to be the right one.

    - `pending`: starts of the same batch that stay unconfirmed.
    - `active`: instances that the task hub shows active.
    - `is_undecided`: the look-ups end here, because an instance has not ended or may not have.
    """

    ended: tuple[Instance, ...]
    pending: tuple[ActiveInstance, ...] = ()
    active: tuple[ActiveInstance, ...] = ()
    is_undecided: bool = False
    absence_counts: bool = False
    event_instance_found: bool = False


@dataclass(frozen=True, slots=True)
class BeginScan:
    """Begin a scan of the task hub, or resume one, as the only worker that does."""


@dataclass(frozen=True, slots=True)
class ReadMessages:
    """Read the control queues before the next pass of the scan."""


@dataclass(frozen=True, slots=True)
class ReadPass:
    """Read these ranges of the task hub to their end: one pass of the scan."""

    cursors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to read."""

    outcome: ProbeOutcome


Step = ReadRecords | LookUp | CountMessages | Correct | BeginScan | ReadMessages | ReadPass | Done


# What is known


@dataclass(frozen=True, slots=True)
class ReadState:
    """What is known of a task hub while it is read.

    - `last_result`: the stored result of an earlier probe with the same request key.
    - `stored_scan`: a stored scan that waits to be resumed.
    - `records`: None if the records must be read, or read again.
    - `position`: the number of active instances of the records that have been looked up.
    - `batch`: the instances that are being looked up.
    - `pending`: the starts that the look-ups have not confirmed so far.
    - `unconfirmed_starts`: the starts that are unconfirmed after all look-ups.
    - `has_corrected`: a look-up has closed instances.
    - `active_instances`: what the last look-up has shown active, once it has decided the verdict.
    - `scan`: the scan that is under way.
    - `scan_result`: what the scan has found.
    - `failure`: why reading failed.
    """

    requirements: ReadRequirements
    last_result: ProbeResult | None = None
    stored_scan: Scan | None = None
    records: RecordedState | None = None
    position: int = 0
    batch: Batch | None = None
    pending: tuple[ActiveInstance, ...] = ()
    unconfirmed_starts: tuple[ActiveInstance, ...] = ()
    has_corrected: bool = False
    active_instances: tuple[ActiveInstance, ...] | None = None
    scan: Scan | None = None
    scan_result: ProbeResult | None = None
    failure: ProbeResult | None = None

    def after_records(self, records: RecordedState) -> "ReadState":
        """Return the state after the records were read."""
        return replace(self, records=records)

    def after_lookup(
        self, step: LookUp, observed: Mapping[str, ObservedInstance | None], *, sees_messages: bool
    ) -> "ReadState":
        """Return the state after the first look-up of a batch of instances."""
        return replace(self, batch=Batch(step.instances, observed, sees_messages))

    def after_second_lookup(
        self, observed: Mapping[str, ObservedInstance | None], recorded_starts: Mapping[str, Started]
    ) -> "ReadState":
        """Return the state after the second look-up of the batch's unconfirmed instances."""
        assert self.batch is not None, "the second look-up needs the batch of the first"
        return replace(self, batch=self.batch.after_second_look(observed, recorded_starts))

    def after_count(self, message_count: int) -> "ReadState":
        """Return the state after the messages in the control queues were counted."""
        assert self.batch is not None, "messages are counted for a batch"
        return replace(self, batch=replace(self.batch, queued_messages=message_count))

    def after_correction(self, step: Correct, *, all_recorded: bool) -> "ReadState":
        """Return the state after the ends were recorded. `all_recorded`: the storage has recorded every end."""
        if self.batch is None:
            return self._after_closing_unconfirmed_starts(all_recorded=all_recorded)
        has_corrected = self.has_corrected or bool(step.ended)
        if step.is_undecided or not all_recorded:
            return replace(self, has_corrected=has_corrected, active_instances=step.active)
        position = self.position + len(self.batch.instances)
        pending = (*self.pending, *step.pending)
        state = replace(self, has_corrected=has_corrected, position=position, pending=pending, batch=None)
        assert self.records is not None, "the records name the instances to look up"
        if position < len(self.records.activity.active):
            return state
        return replace(state, records=None, position=0, pending=(), unconfirmed_starts=pending)

    def _after_closing_unconfirmed_starts(self, *, all_recorded: bool) -> "ReadState":
        """The state after the unconfirmed starts were recorded as ended, as far as the storage has recorded them."""
        if not all_recorded:
            return replace(self, unconfirmed_starts=())
        # What was read before these starts were closed proves nothing, so the task hub is scanned again.
        return replace(self, unconfirmed_starts=(), scan_result=None, last_result=None, records=None)

    def after_scan(self, result: ProbeResult) -> "ReadState":
        """Return the state after the scan has ended, or after another worker has read the task hub."""
        return replace(self, scan=None, scan_result=result)


def plan_read(state: ReadState, now: Instant) -> Step:
    """The next step. `now` is by the state storage's clock."""
    requirements = state.requirements
    if state.failure is not None:
        return _done(state, state.failure)
    if state.active_instances is not None:
        return _done_by_lookup(state, state.active_instances)
    if state.scan is not None:
        return ReadMessages() if state.scan.needs_queue_read else ReadPass(tuple(state.scan.cursors))
    if state.scan_result is not None:
        return _plan_after_scan(state, state.scan_result)
    if must_wait(state.last_result, now):
        return _done(state, state.last_result, records=state.records)
    if requirements.for_verdict and requirements.mode is VerificationMode.NONE:
        return _plan_without_reading(state, now)
    if state.records is None:
        return ReadRecords()
    if requirements.for_verdict:
        return _plan_for_verdict(state, state.records, now)
    if answers(state.last_result, requirements, state.records.activity, now):
        return _done(state, state.last_result)
    return BeginScan()


def _plan_for_verdict(state: ReadState, records: RecordedState, now: Instant) -> Step:
    """The next step for a verdict: look up active instances, scan, or end because neither could change the verdict."""
    requirements, activity = state.requirements, records.activity
    if activity.active and not state.unconfirmed_starts:
        return _plan_lookup(state, activity, now)
    result = _usable_result(state)
    if not is_scan_useful(activity, requirements.policy, now):
        return _done(state, result, records=records)
    if not state.unconfirmed_starts and answers(result, requirements, activity, now):
        return _done(state, result, records=records)
    return BeginScan()


def _plan_lookup(state: ReadState, activity: InstanceActivity, now: Instant) -> Step:
    """The next step for the active instances: look them up, a second time if needed, and record what has ended."""
    if state.batch is None:
        return LookUp(next_batch(activity.active, state.position))
    return plan_batch(state.batch, backend_id=state.requirements.backend_id, now=now)


def plan_batch(batch: Batch, *, backend_id: str, now: Instant) -> LookUp | CountMessages | Correct:
    """The next step for instances that were looked up once: look again if needed, then record what has ended."""
    if batch.needs_second_look:
        if batch.sees_messages and batch.queued_messages is None:
            return CountMessages()
        return LookUp(batch.unconfirmed, again=True)
    assessment = assess_batch(batch, backend_id=backend_id, now=now)
    return Correct(
        ended=assessment.ended,
        pending=assessment.pending,
        active=assessment.active,
        is_undecided=assessment.is_undecided,
        absence_counts=assessment.absence_counts,
        event_instance_found=assessment.event_instance_found,
    )


def _plan_after_scan(state: ReadState, result: ProbeResult) -> Step:
    """Close the unconfirmed starts if the scan proves that they are over; otherwise end with the scan's result.

    An unconfirmed start is an instance that events show and the task hub does not. If a complete scan finds nothing
    active and no message that could start an instance, the instance never started or was purged."""
    waived_messages = result.messages.waived if result.messages is not None else 0
    nothing_is_pending = result.status is ProbeStatus.COMPLETE and not result.found_blocking and waived_messages == 0
    if state.unconfirmed_starts and nothing_is_pending:
        ended = tuple(record_end(start, None) for start in state.unconfirmed_starts)
        return Correct(ended, absence_counts=True)
    return _done(state, result)


def _plan_without_reading(state: ReadState, now: Instant) -> Step:
    """The end of a request that must not read the task hub: what an earlier probe or a stored scan has shown."""
    requirements, scan, result = state.requirements, state.stored_scan, state.last_result
    if result is not None and result.found_blocking and not result.starts_pending:
        # The instances that it found are in the records, which are more recent.
        result = None
    if scan is None:
        return _done(state, result, records=state.records)
    if state.records is None:
        return ReadRecords()
    if not answers(result, requirements, state.records.activity, now):
        result = scan.to_incomplete_result(requirements.provider, now)
    return _done(state, result, records=state.records)


def _usable_result(state: ReadState) -> ProbeResult | None:
    """The last result, unless a verdict must not rest on it.

    The instances that it found are in the records, which are more recent. And a result that is not fresh must not
    become valid because time passes before the verdict.
    """
    result = state.last_result
    if result is None or result.found_blocking or not is_fresh_enough(result, state.requirements):
        return None
    return result


def _done(state: ReadState, result: ProbeResult | None, *, records: RecordedState | None = None) -> Done:
    """The last step of a read: its outcome for this request."""
    return Done(ProbeOutcome(state.requirements.request_key, result, recorded_state=records))


def _done_by_lookup(state: ReadState, active_instances: tuple[ActiveInstance, ...]) -> Done:
    """End with the instances that the last look-up has shown active."""
    # The last result is left out, because it does not show what instances that have ended since then have started.
    return Done(
        ProbeOutcome(
            state.requirements.request_key,
            None,
            active_instance_seen=bool(active_instances),
            looked_up_instances=active_instances,
            recorded_state=None if state.has_corrected else state.records,
        )
    )
