"""The evidence of control queue messages that a scan gives, and its quiet period."""

import pytest

from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.messages import MessageEvidence, MessageState, ObservedQueues, QueueSnapshot
from state_api.domain.readiness.scans import (
    Scan,
    assess_scan_messages,
    find_quiet_period,
)
from state_api.domain.task_hubs.lifecycle import RuntimeStatus
from tests.domain.builders import build_observed_instance, noon_plus
from tests.domain.scan_builders import (
    COMPLETED,
    NO_EXEMPTIONS,
    SOME_EXEMPTIONS,
    build_observed_end,
    build_scan,
    read_pass,
)

# Messages


def build_scan_with_queues(invisible: int = 1, *, read_at: float = 0) -> Scan:
    """A scan that read the control queues `read_at` seconds after noon. They hold invisible messages."""
    scan = build_scan("whole")
    snapshot = QueueSnapshot(message_count=invisible)
    scan.observed_queues = ObservedQueues(snapshot, 0, 0, noon_plus(read_at), noon_plus(read_at))
    return scan


NOTHING_REMEMBERED = MessageState("account")


def assess_messages_of_scan(
    scan: Scan,
    state: MessageState = NOTHING_REMEMBERED,
    *,
    exemptions: Exemptions = NO_EXEMPTIONS,
    seconds_after_queues: float = 0,
) -> tuple[MessageEvidence | None, MessageState]:
    """What the messages that a scan has read mean, without a recorded event. `seconds_after_queues`: how long after its
    read of the queues the scan has ended."""
    queues_read_at = scan.observed_queues.ended_at if scan.observed_queues else noon_plus()
    return assess_scan_messages(
        scan,
        state,
        exemptions=exemptions,
        message_visibility_seconds=300,
        last_recorded_at=None,
        ended_at=Instant(queues_read_at + seconds(seconds_after_queues)),
    )


def test_without_a_read_of_the_queues_there_is_no_evidence_of_messages_and_no_quiet_period() -> None:
    _, remembered = assess_messages_of_scan(build_scan_with_queues())
    assert remembered.quiet_period is not None
    assert assess_messages_of_scan(build_scan("whole"), remembered) == (None, NOTHING_REMEMBERED)


def test_unexplained_messages_stop_blocking_after_a_quiet_period() -> None:
    evidence, remembered = assess_messages_of_scan(build_scan_with_queues())
    assert evidence is not None
    assert evidence.unexplained_count == 1
    later, remembered_later = assess_messages_of_scan(build_scan_with_queues(read_at=630), remembered)
    assert later is not None
    assert (later.unexplained_count, later.explained) == (0, 1)
    assert remembered_later == remembered


@pytest.mark.parametrize("active", [True, False])
def test_a_step_of_an_exempt_instance_begins_a_new_quiet_period(*, active: bool) -> None:
    """It may have started an instance that blocks, whose message took the place of another one."""

    def assess(step: int, read_at: float, state: MessageState = NOTHING_REMEMBERED) -> MessageState:
        """Assess what a scan has read when the instance had taken this step."""
        scan = build_scan_with_queues(read_at=read_at)
        status = RuntimeStatus.RUNNING if active else COMPLETED
        scan.add_page([build_observed_instance("nightly", "NightlySync", status, updated=step)], exemptions)
        evidence, remembered = assess_messages_of_scan(scan, state, exemptions=exemptions)
        assert evidence is not None
        assert (evidence.unexplained_count == 0) is (read_at == 1260)
        return remembered

    exemptions = SOME_EXEMPTIONS
    first = assess(1, 0)
    after_step = assess(2, 630, first)
    assert after_step.quiet_period != first.quiet_period
    assert assess(2, 1260, after_step) == after_step


def test_a_quiet_period_begins_when_the_scan_ends() -> None:
    """An exempt instance may have taken a step after the queues were read, and before its row was."""
    _, remembered = assess_messages_of_scan(build_scan_with_queues(), seconds_after_queues=5)
    for read_at, unexplained in ((634, 1), (635, 0)):
        evidence, _ = assess_messages_of_scan(build_scan_with_queues(read_at=read_at), remembered)
        assert evidence is not None
        assert evidence.unexplained_count == unexplained


def test_every_pass_has_a_digest_of_the_exempt_instances_of_its_own() -> None:
    scan = build_scan("whole")
    page = [build_observed_end(), build_observed_instance("nightly", "NightlySync")]
    assert not read_pass(scan, page, exemptions=SOME_EXEMPTIONS)
    assert scan.exempt_digest == 0
    assert read_pass(scan, page, exemptions=SOME_EXEMPTIONS)
    assert scan.exempt_digest != 0


def test_a_quiet_period_under_other_exemptions_does_not_count() -> None:
    _, remembered = assess_messages_of_scan(build_scan_with_queues())
    assert find_quiet_period(remembered, SOME_EXEMPTIONS) is None
    later, _ = assess_messages_of_scan(build_scan_with_queues(read_at=630), remembered, exemptions=SOME_EXEMPTIONS)
    assert later is not None
    assert later.unexplained_count == 1


def test_a_scan_that_found_an_active_instance_begins_no_quiet_period() -> None:
    scan = build_scan_with_queues()
    scan.add_page([build_observed_instance()], NO_EXEMPTIONS)
    _, remembered = assess_messages_of_scan(scan)
    assert remembered.quiet_period is None


@pytest.mark.parametrize(("stamps", "begins"), [(1000, True), (1001, False)])
def test_a_scan_with_too_many_stamps_to_compare_begins_no_quiet_period(stamps: int, *, begins: bool) -> None:
    scan = build_scan_with_queues()
    scan.stamp_count = stamps
    _, remembered = assess_messages_of_scan(scan)
    assert (remembered.quiet_period is not None) is begins
