"""Requests that wait for the answer to the same question: when they are woken, and what their answers show."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from state_api.domain.instants import Instant
from state_api.domain.names import STAGING
from state_api.domain.readiness.evidence import Evidence, InstanceActivity
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.plan import RecordedState
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from state_api.domain.readiness.waiting import NO_END, InstanceChange, RecordedChanges, VerificationIntervals
from state_api.domain.releases.apps import App, Deployment
from state_api.services.change_signals import ChangeSignals
from state_api.services.slot_status import SlotStatus, StatusQuestion
from state_api.services.waiting_groups import AppChanges, AskedQuestion, WaitingGroup
from state_api.services.waiting_reads import ReadListener, WaitingReads
from tests.domain.builders import (
    ANNA,
    NOON,
    RUN_8_URL,
    build_app,
    build_not_ready_verdict,
    build_ready_verdict,
    build_slot,
    noon_plus,
)

pytestmark = pytest.mark.anyio

HUB = "v41"
KNOWN = AppChanges(revision=3)
"""The revision of the app that `build_app` builds."""


@dataclass
class GroupUnderTest:
    """A group whose reads are never called, and the signals that it hears."""

    group: WaitingGroup
    signals: ChangeSignals

    def answer(self, verdict: Verdict, *, now: Instant = NOON) -> None:
        """One request of the group asks and gets this verdict. The records show what the verdict rests on."""
        known = self.group.reads.known(HUB)
        slot = build_slot(HUB)
        with self.group.track_question(KNOWN, now) as asked:
            activity = InstanceActivity(active=verdict.active)
            known.end_read(known.begin_read(), RecordedState(activity, seen_before=True), Exemptions())
            asked.status = SlotStatus(build_app(staging=slot), STAGING, slot, verdict)

    def end_question(self, asked: AskedQuestion, verdict: Verdict, app: App | None = None) -> None:
        """A question that began before gets this verdict."""
        slot = build_slot(HUB)
        asked.status = SlotStatus(app or build_app(staging=slot), STAGING, slot, verdict)

    def record_end(self) -> None:
        """This process records the end of the active instance. It is a correction, so nothing has to settle."""
        changes = RecordedChanges([InstanceChange("order-1", "ProcessOrder", active=False)], (), NOON)
        self.signals.signal_task_hub(HUB, changes)


@pytest.fixture
def group_under_test(anyio_backend: str) -> Iterator[GroupUnderTest]:
    """A group that waits for the slot staging. At the end, no listener of it must be left."""
    signals = ChangeSignals()
    listener = ReadListener(on_change=lambda: None, on_requests=lambda count: None)
    reads = WaitingReads(None, signals, listener)  # type: ignore[arg-type]
    question = StatusQuestion("shop", STAGING, ANNA, VerificationMode.CACHED)
    yield GroupUnderTest(WaitingGroup(question, reads, VerificationIntervals()), signals)
    reads.close()
    assert not signals.has_listeners(HUB)


async def test_nothing_is_asked_while_an_instance_is_active(group_under_test: GroupUnderTest) -> None:
    group_under_test.answer(build_not_ready_verdict())
    assert group_under_test.group.next_moment(KNOWN, noon_plus(3600)) is None


async def test_a_recorded_end_is_a_reason_to_ask_once(group_under_test: GroupUnderTest) -> None:
    group_under_test.answer(build_not_ready_verdict())
    group_under_test.record_end()
    moment = group_under_test.group.next_moment(KNOWN, noon_plus(1))
    assert moment is not None
    assert moment <= noon_plus(1)
    group_under_test.group.wake()
    assert group_under_test.group.next_moment(KNOWN, noon_plus(1)) is None, "the group was woken for it"


async def test_an_end_that_is_recorded_during_a_question_is_a_reason_to_ask_again(
    group_under_test: GroupUnderTest,
) -> None:
    group_under_test.answer(build_not_ready_verdict())
    group_under_test.group.wake()
    slot = build_slot(HUB)
    with group_under_test.group.track_question(KNOWN, noon_plus(1)) as asked:
        group_under_test.record_end()
        asked.status = SlotStatus(build_app(staging=slot), STAGING, slot, build_not_ready_verdict())
    assert group_under_test.group.next_moment(KNOWN, noon_plus(1)) is not None


async def test_a_new_revision_of_the_app_is_a_reason_to_ask_at_once(group_under_test: GroupUnderTest) -> None:
    group_under_test.answer(build_not_ready_verdict())
    assert group_under_test.group.next_moment(AppChanges(KNOWN.revision + 1), noon_plus(1)) == Instant(0)


async def test_an_acknowledgement_is_a_reason_to_ask_only_while_something_else_than_the_task_hub_blocks(
    group_under_test: GroupUnderTest,
) -> None:
    group, acknowledged = group_under_test.group, replace(KNOWN, acknowledgement_count=1)
    group_under_test.answer(build_not_ready_verdict())
    assert group.next_moment(acknowledged, noon_plus(1)) is None
    assert group.outlook is not None
    group.outlook = replace(group.outlook, blocked_until=NO_END)
    assert group.next_moment(KNOWN, noon_plus(1)) == NO_END
    assert group.next_moment(acknowledged, noon_plus(1)) == Instant(0)


async def test_a_request_that_is_answered_with_ready_wakes_the_others(group_under_test: GroupUnderTest) -> None:
    group_under_test.answer(build_not_ready_verdict())
    wakes = group_under_test.group.wake_count
    group_under_test.answer(build_ready_verdict())
    assert (group_under_test.group.wake_count, group_under_test.group.outlook) == (wakes + 1, None)
    group_under_test.answer(build_not_ready_verdict())
    assert group_under_test.group.outlook is not None, "an instance has started since"


async def test_a_question_that_fails_leaves_the_outlook_as_it_is(group_under_test: GroupUnderTest) -> None:
    group_under_test.answer(build_not_ready_verdict())
    outlook = group_under_test.group.outlook
    group_under_test.group.wake()
    with pytest.raises(ConnectionError), group_under_test.group.track_question(KNOWN, noon_plus(1)):
        raise ConnectionError
    assert group_under_test.group.outlook is outlook
    assert not group_under_test.group.is_busy


def build_blocked_verdict(app: App) -> Verdict:
    """The verdict on a drained task hub while the deployment of this app blocks."""
    assert app.deployment is not None
    evidence = Evidence(HUB, deployment=app.deployment.to_open_deployment())
    return assess_readiness(evidence, app.policy, NOON)


@pytest.mark.parametrize("is_first_to_end", [True, False])
async def test_a_question_beside_another_one_does_not_hide_the_moment_that_the_other_one_waits_for(
    group_under_test: GroupUnderTest, *, is_first_to_end: bool
) -> None:
    """The deployment of another run expires between the beginnings of two questions. The answer to the first one still
    says that it blocks."""
    group = group_under_test.group
    deployment = Deployment(HUB, None, STAGING, NOON, "ben", RUN_8_URL, "run")
    app = replace(build_app(staging=build_slot(HUB)), deployment=deployment)
    expires_at = app.deployment_expires_at(deployment)
    with ExitStack() as first, ExitStack() as second:
        questions = (
            first.enter_context(group.track_question(KNOWN, Instant(expires_at - 1))),
            second.enter_context(group.track_question(KNOWN, Instant(expires_at + 1))),
        )
        group_under_test.end_question(questions[0], build_blocked_verdict(app), app)
        group_under_test.end_question(questions[1], build_not_ready_verdict())
        for question in (first, second) if is_first_to_end else (second, first):
            question.close()
    group_under_test.record_end()
    moment = group.next_moment(KNOWN, Instant(expires_at + 2))
    assert moment is not None
    assert moment <= expires_at + 2


async def test_a_question_that_began_by_a_time_that_had_not_come_yet_is_asked_again_at_its_moment(
    group_under_test: GroupUnderTest,
) -> None:
    """The clock of this machine had gained two seconds when the question began, which the storage's response showed."""
    settling = InstanceActivity(last_recorded_at=noon_plus(-29))
    verdict = assess_readiness(Evidence(HUB, settling), Policy(), NOON)
    known = group_under_test.group.reads.known(HUB)
    with group_under_test.group.track_question(KNOWN, noon_plus(2)) as asked:
        known.end_read(known.begin_read(), RecordedState(settling, seen_before=True), Exemptions())
        group_under_test.end_question(asked, verdict)
    moment = group_under_test.group.next_moment(KNOWN, NOON)
    assert moment is not None
    assert noon_plus(1) <= moment < noon_plus(1.1)
