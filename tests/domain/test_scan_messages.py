"""The evidence of control queue messages that a scan gives, and its quiet period."""

import pytest

from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.messages import MessageEvidence, MessageState, ObservedQueues, QueueSnapshot
from state_api.domain.readiness.scans import (
    Scan,
    assess_scan_messages,
    find_quiet_period,
)
from tests.domain.builders import build_observed_instance, noon_plus
from tests.domain.scan_builders import NO_EXEMPTIONS, SOME_EXEMPTIONS, build_scan

# Messages


def build_scan_with_queues(invisible: int = 1, *, read_at: float = 0) -> Scan:
    """A scan that read the control queues `read_at` seconds after noon. They hold invisible messages."""
    scan = build_scan("whole")
    snapshot = QueueSnapshot(message_count=invisible)
    scan.observed_queues = ObservedQueues(snapshot, 0, 0, noon_plus(read_at), noon_plus(read_at))
    return scan


NOTHING_REMEMBERED = MessageState("account")


def assess_messages_of_scan(
    scan: Scan, state: MessageState = NOTHING_REMEMBERED, *, exemptions: Exemptions = NO_EXEMPTIONS
) -> tuple[MessageEvidence | None, MessageState]:
    """What the messages that a scan has read mean, without a recorded event."""
    return assess_scan_messages(
        scan, state, exemptions=exemptions, message_visibility_seconds=300, last_recorded_at=None
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
