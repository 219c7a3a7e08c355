"""The next step of a read of a task hub, as `plan_read` decides it. A table has one row for each case."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from state_api.domain.readiness.evidence import ProbeStatus
from state_api.domain.readiness.lookups import start_of
from state_api.domain.readiness.messages import MessageEvidence
from state_api.domain.readiness.plan import (
    BeginScan,
    Correct,
    CountMessages,
    Done,
    LookUp,
    ReadMessages,
    ReadPass,
    ReadRecords,
    ReadState,
    Step,
    plan_read,
)
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.requirements import (
    VerificationMode,
)
from state_api.domain.task_hubs.lifecycle import RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from tests.domain.builders import NOON, build_active_instance, build_observed_instance
from tests.domain.read_plan_builders import (
    BACKEND_ID,
    FRESH,
    LISTING,
    ORDER_1,
    ORDER_2,
    build_batch,
    build_done,
    build_records,
    build_requirements,
    build_result,
    build_result_with_messages,
    build_scan,
    build_state,
)

STALE = build_result(began=-500)
FOUND_ACTIVE = build_result(ORDER_1)
FOUND_START = build_result_with_messages(MessageEvidence(NOON, start_count=1))
WITHOUT_READING = build_requirements(VerificationMode.NONE)
OBSERVED_ORDER_1 = build_observed_instance("order-1")

NEXT_STEPS: dict[str, tuple[ReadState, Step]] = {
    "the records are read first": (build_state(records=None), ReadRecords()),
    "a task hub whose records show nothing active is scanned": (build_state(), BeginScan()),
    "a recent result answers without a scan": (
        build_state(last_result=build_result()),
        build_done(build_result(), recorded_state=build_records()),
    ),
    "an old result does not answer": (build_state(last_result=STALE), BeginScan()),
    "a result that an event has superseded does not answer": (
        build_state(last_result=build_result(began=-50), records=build_records(last_recorded=-50)),
        BeginScan(),
    ),
    "a result that found an active instance does not answer": (build_state(last_result=FOUND_ACTIVE), BeginScan()),
    "a result that found a start does not answer": (build_state(last_result=FOUND_START), BeginScan()),
    "a failed result does not answer": (build_state(last_result=build_result(status=ProbeStatus.FAILED)), BeginScan()),
    "a fresh verdict is not answered by an earlier result": (
        build_state(last_result=build_result(), requirements=FRESH),
        BeginScan(),
    ),
    "no scan begins within the settle window": (
        build_state(records=build_records(last_recorded=-10)),
        build_done(None, recorded_state=build_records(last_recorded=-10)),
    ),
    "within the settle window the last result is still reported": (
        build_state(last_result=STALE, records=build_records(last_recorded=-10)),
        build_done(STALE, recorded_state=build_records(last_recorded=-10)),
    ),
    "no scan begins at the very moment of the last event": (
        build_state(
            records=build_records(last_recorded=0), requirements=build_requirements(policy=Policy(settle_seconds=0))
        ),
        build_done(None, recorded_state=build_records(last_recorded=0)),
    ),
    "a scan begins when the settle window ends": (build_state(records=build_records(last_recorded=-30)), BeginScan()),
    "a backend that asked for a pause is not read": (
        build_state(
            last_result=replace(build_result(status=ProbeStatus.THROTTLED), retry_after_seconds=60), records=None
        ),
        build_done(replace(build_result(status=ProbeStatus.THROTTLED), retry_after_seconds=60)),
    ),
    "a backend is read again after the pause": (
        build_state(
            last_result=replace(build_result(status=ProbeStatus.THROTTLED), retry_after_seconds=10), records=None
        ),
        ReadRecords(),
    ),
    "a failure ends the read": (
        build_state(failure=build_result(status=ProbeStatus.DENIED)),
        build_done(build_result(status=ProbeStatus.DENIED)),
    ),
    # Without reading
    "verify=none reports the last result without reading the records": (
        build_state(requirements=WITHOUT_READING, last_result=STALE, records=None),
        build_done(STALE),
    ),
    "verify=none does not report active instances of the last result": (
        build_state(requirements=WITHOUT_READING, last_result=FOUND_ACTIVE, records=None),
        build_done(None),
    ),
    "verify=none reports pending starts of the last result": (
        build_state(requirements=WITHOUT_READING, last_result=FOUND_START, records=None),
        build_done(FOUND_START),
    ),
    "verify=none reads the records where a scan waits to be resumed": (
        build_state(requirements=WITHOUT_READING, stored_scan=build_scan("a"), records=None),
        ReadRecords(),
    ),
    "verify=none prefers a valid result to a scan that waits": (
        build_state(requirements=WITHOUT_READING, stored_scan=build_scan("a"), last_result=build_result()),
        build_done(build_result(), recorded_state=build_records()),
    ),
    "verify=none reports how far a scan has come that waits": (
        build_state(requirements=WITHOUT_READING, stored_scan=build_scan("a")),
        build_done(build_scan("a").to_incomplete_result("azureStorage", NOON), recorded_state=build_records()),
    ),
    # Look-ups
    "active instances are looked up before anything is scanned": (
        build_state(records=build_records(ORDER_1, ORDER_2)),
        LookUp((ORDER_1, ORDER_2)),
    ),
    "the next batch follows the one before": (
        build_state(
            records=build_records(*[build_active_instance(f"order-{number}") for number in range(20)]), position=16
        ),
        LookUp(tuple(build_active_instance(f"order-{number}") for number in range(16, 20))),
    ),
    "messages are counted before a missing start is looked up again": (
        build_state(records=build_records(ORDER_1), batch=build_batch(ORDER_1)),
        CountMessages(),
    ),
    "a missing start is looked up again after messages are counted": (
        build_state(records=build_records(ORDER_1), batch=replace(build_batch(ORDER_1), queued_messages=0)),
        LookUp((ORDER_1,), again=True),
    ),
    "messages are not counted where they cannot be seen": (
        build_state(records=build_records(ORDER_1), batch=build_batch(ORDER_1, sees_messages=False)),
        LookUp((ORDER_1,), again=True),
    ),
    "instances that the task hub shows are assessed after one look": (
        build_state(records=build_records(ORDER_1), batch=build_batch(ORDER_1, observed={"order-1": OBSERVED_ORDER_1})),
        Correct(ended=(), is_undecided=True, event_instance_found=True),
    ),
    "look-ups end with the instances that are still active": (
        build_state(records=build_records(ORDER_1), active_instances=(ORDER_1,)),
        build_done(
            None, active_instance_seen=True, looked_up_instances=(ORDER_1,), recorded_state=build_records(ORDER_1)
        ),
    ),
    "look-ups that are in doubt end without an active instance": (
        build_state(records=build_records(ORDER_1), active_instances=()),
        build_done(None, recorded_state=build_records(ORDER_1)),
    ),
    "records that a look-up has corrected are read again for the verdict": (
        build_state(records=build_records(ORDER_1), active_instances=(ORDER_1,), has_corrected=True),
        build_done(None, active_instance_seen=True, looked_up_instances=(ORDER_1,)),
    ),
    "unconfirmed starts need a scan, although there is a recent result": (
        build_state(records=build_records(ORDER_1), unconfirmed_starts=(ORDER_1,), last_result=build_result()),
        BeginScan(),
    ),
    # Scans
    "the control queues are read after the scan has begun and before its first pass": (
        build_state(scan=build_scan("a", "b")),
        ReadMessages(),
    ),
    "a pass follows the control queues": (build_state(scan=build_scan("a", "b", queues_read=1)), ReadPass(("a", "b"))),
    "the control queues are read again before the next pass": (
        build_state(scan=build_scan("again", queues_read=1, pass_number=2)),
        ReadMessages(),
    ),
    "a scan ends with its result": (build_state(scan_result=build_result()), build_done(build_result())),
    "unconfirmed starts are closed after a complete scan without pending starts": (
        build_state(scan_result=build_result(), unconfirmed_starts=(ORDER_1,)),
        Correct(ended=(), absence_counts=True),
    ),
    "unconfirmed starts stay after an incomplete scan": (
        build_state(scan_result=build_result(status=ProbeStatus.INCOMPLETE), unconfirmed_starts=(ORDER_1,)),
        build_done(build_result(status=ProbeStatus.INCOMPLETE)),
    ),
    "unconfirmed starts stay while something is active": (
        build_state(scan_result=FOUND_ACTIVE, unconfirmed_starts=(ORDER_1,)),
        build_done(FOUND_ACTIVE),
    ),
    "unconfirmed starts stay while a start is pending": (
        build_state(scan_result=FOUND_START, unconfirmed_starts=(ORDER_1,)),
        build_done(FOUND_START),
    ),
    "unconfirmed starts stay while messages are only waived": (
        build_state(
            scan_result=build_result_with_messages(MessageEvidence(NOON, waived=1)), unconfirmed_starts=(ORDER_1,)
        ),
        build_done(build_result_with_messages(MessageEvidence(NOON, waived=1))),
    ),
    "unconfirmed starts are closed after messages that block nothing": (
        build_state(
            scan_result=build_result_with_messages(MessageEvidence(NOON, visible=1)), unconfirmed_starts=(ORDER_1,)
        ),
        Correct(ended=(), absence_counts=True),
    ),
    # Lists of what is active
    "a list needs no look-ups": (build_state(requirements=LISTING, records=build_records(ORDER_1)), BeginScan()),
    "a list does not wait for the settle window": (
        build_state(requirements=LISTING, records=build_records(last_recorded=-1)),
        BeginScan(),
    ),
    "a list is answered by a recent result, even if that found active instances": (
        build_state(requirements=LISTING, last_result=FOUND_ACTIVE, records=build_records(last_recorded=-1)),
        build_done(FOUND_ACTIVE),
    ),
    "a fresh list is not answered by an earlier result": (
        build_state(requirements=replace(LISTING, mode=VerificationMode.FRESH), last_result=build_result()),
        BeginScan(),
    ),
    "a list is not answered by an old result": (build_state(requirements=LISTING, last_result=STALE), BeginScan()),
}


def remove_looked_up_instances(step: Step) -> Step:
    """The step without the instances of its look-ups, which tests/domain/test_lookups.py checks."""
    return replace(step, ended=(), active=()) if isinstance(step, Correct) else step


@pytest.mark.parametrize(("known", "step"), NEXT_STEPS.values(), ids=NEXT_STEPS)
def test_the_next_step_follows_from_the_state(known: ReadState, step: Step) -> None:
    assert remove_looked_up_instances(plan_read(known, NOON)) == step


# The state after an outcome


def look_up_batch(
    known: ReadState, observed: Mapping[str, ObservedInstance | None], *, queued_messages: int = 1
) -> ReadState:
    """Look up one batch of instances. Returns the state after its corrections were recorded.

    The task hub shows the instances `observed`, and no further ones in the second look-up."""
    step = plan_read(known, NOON)
    while isinstance(step, LookUp | CountMessages):
        if isinstance(step, CountMessages):
            known = known.after_count(queued_messages)
        elif step.again:
            known = known.after_second_lookup({instance.instance_id: None for instance in step.instances}, {})
        else:
            observed_batch = {instance.instance_id: observed.get(instance.instance_id) for instance in step.instances}
            known = known.after_lookup(step, observed_batch, sees_messages=True)
        step = plan_read(known, NOON)
    assert isinstance(step, Correct)
    return known.after_correction(step, all_recorded=True)


ENDED = build_observed_instance("order-1", status=RuntimeStatus.COMPLETED, updated=-1)


def test_records_are_read_again_after_the_last_batch() -> None:
    known = look_up_batch(build_state(records=build_records(ORDER_1)), {"order-1": ENDED})
    assert plan_read(known, NOON) == ReadRecords()
    assert known.has_corrected
    known = known.after_records(build_records())
    assert plan_read(known, NOON) == BeginScan()


def test_the_next_batch_is_looked_up_before_records_are_read_again() -> None:
    many = [build_active_instance(f"order-{number}", since=-60) for number in range(17)]
    observed_ends = {instance.instance_id: replace(ENDED, instance_id=instance.instance_id) for instance in many}
    known = look_up_batch(build_state(records=build_records(*many)), observed_ends)
    assert plan_read(known, NOON) == LookUp((many[16],))


def test_a_start_that_may_be_a_message_waits_for_a_scan() -> None:
    known = look_up_batch(build_state(records=build_records(ORDER_1)), {})
    assert known.unconfirmed_starts == (ORDER_1,)
    assert plan_read(known.after_records(build_records(ORDER_1)), NOON) == BeginScan()


def test_a_start_that_is_no_message_has_ended() -> None:
    known = look_up_batch(build_state(records=build_records(ORDER_1)), {}, queued_messages=0)
    assert known.unconfirmed_starts == ()
    assert known.has_corrected


def test_an_active_instance_ends_the_look_ups() -> None:
    known = look_up_batch(
        build_state(records=build_records(ORDER_1, ORDER_2)), {"order-1": ENDED, "order-2": OBSERVED_ORDER_1}
    )
    step = plan_read(known, NOON)
    assert isinstance(step, Done)
    assert step.outcome.active_instance_seen
    assert step.outcome.recorded_state is None


def test_an_end_that_the_storage_does_not_record_keeps_its_instance_blocking() -> None:
    known = build_state(records=build_records(ORDER_1), batch=build_batch(ORDER_1, observed={"order-1": ENDED}))
    step = plan_read(known, NOON)
    assert isinstance(step, Correct)
    assert isinstance(plan_read(known.after_correction(step, all_recorded=False), NOON), Done)


def close_unconfirmed_starts(*, all_recorded: bool) -> ReadState:
    """The state after a complete scan has closed an unconfirmed start.

    `all_recorded`: whether the storage recorded its end."""
    known = build_state(
        scan_result=build_result(),
        unconfirmed_starts=(ORDER_1,),
        records=build_records(ORDER_1),
        last_result=build_result(),
    )
    step = plan_read(known, NOON)
    assert isinstance(step, Correct)
    assert [end.instance_id for end in step.ended] == ["order-1"]
    return known.after_correction(step, all_recorded=all_recorded)


def test_the_task_hub_is_scanned_again_after_unconfirmed_starts_were_closed() -> None:
    """The instance of such a start may have started another orchestration before it ended."""
    known = close_unconfirmed_starts(all_recorded=True)
    assert plan_read(known, NOON) == ReadRecords()
    assert plan_read(known.after_records(build_records()), NOON) == BeginScan()


def test_a_read_ends_where_unconfirmed_starts_cannot_be_closed() -> None:
    assert plan_read(close_unconfirmed_starts(all_recorded=False), NOON) == build_done(build_result())


def test_a_scan_that_has_ended_is_not_continued() -> None:
    known = build_state(scan=build_scan("a")).after_scan(build_result())
    assert plan_read(known, NOON) == build_done(build_result())


def test_the_second_look_counts_a_start_only_as_the_records_held_it_before() -> None:
    known = build_state(records=build_records(ORDER_1), batch=build_batch(ORDER_1, sees_messages=False))
    confirmed = replace(start_of(ORDER_1), confirmed_backend=BACKEND_ID)
    step = plan_read(known.after_second_lookup({"order-1": None}, {"order-1": confirmed}), NOON)
    assert isinstance(step, Correct)
    assert not step.is_undecided
    assert [end.instance_id for end in step.ended] == ["order-1"]
