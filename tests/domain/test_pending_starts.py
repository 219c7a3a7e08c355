"""How pending starts and unseen messages show in a verdict."""

from dataclasses import replace

import pytest

from state_api.domain.names import entity_name
from state_api.domain.readiness.evidence import Evidence, ProbeStatus
from state_api.domain.readiness.messages import MessageEvidence, PendingStart
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.prior_hubs import combine_verdicts
from state_api.domain.readiness.reasons import WARNING_DESCRIPTIONS, ReasonCode, WarningCode
from state_api.domain.readiness.scans import Scan
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from tests.domain.builders import AZURE_STORAGE, build_evidence, build_probe_result, noon_plus

NO_MESSAGES = MessageEvidence(noon_plus(-10))


def assess_messages(messages: MessageEvidence | None, *, policy: Policy | None = None, began: float = -10) -> Verdict:
    """The verdict at noon on a task hub without active instances, whose probe found these messages."""
    probed = replace(build_probe_result(began=began), messages=messages)
    return assess_readiness(Evidence("v41", provider=AZURE_STORAGE, probe=probed), policy or Policy(), noon_plus())


def get_starts_pending_message(messages: MessageEvidence) -> str:
    """The message of the reason StartsPending, which must be the only reason."""
    [reason] = assess_messages(messages).reasons
    assert reason.code is ReasonCode.STARTS_PENDING
    return reason.message


def test_a_pending_start_blocks_and_counts_as_running() -> None:
    verdict = assess_messages(replace(NO_MESSAGES, start_count=1, starts=(PendingStart("order-7", "Ship"),)))
    assert [reason.code for reason in verdict.reasons] == [ReasonCode.STARTS_PENDING]
    assert (verdict.ready, verdict.has_running, verdict.active_count) == (False, True, 0)


def test_without_pending_starts_nothing_is_running() -> None:
    verdict = assess_messages(NO_MESSAGES)
    assert (verdict.ready, verdict.has_running, verdict.warnings) == (True, False, ())


def test_pending_starts_of_a_stale_probe_do_not_block() -> None:
    verdict = assess_messages(replace(NO_MESSAGES, start_count=1), began=-1000)
    assert [reason.code for reason in verdict.reasons] == [ReasonCode.PROBE_STALE]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (
            replace(NO_MESSAGES, start_count=1, starts=(PendingStart("order-7", "Ship"),)),
            "1 message that starts work waits in the control queues of task hub v41; one is for Ship order-7",
        ),
        (
            replace(NO_MESSAGES, start_count=2, starts=(PendingStart("", ""), PendingStart("order-7", ""))),
            "2 messages that start work wait in the control queues of task hub v41; one is for order-7",
        ),
        (
            replace(NO_MESSAGES, start_count=1, starts=(PendingStart("", ""),), more_visible=True),
            "at least 1 messages that start work wait in the control queues of task hub v41",
        ),
        (
            replace(NO_MESSAGES, more_visible=True),
            "the control queues of task hub v41 hold more messages than can be peeked",
        ),
        (
            replace(NO_MESSAGES, unexplained_count=1),
            (
                "1 invisible message in the control queues of task hub v41 may be a start that a worker took and did "
                "not finish"
            ),
        ),
        (
            replace(NO_MESSAGES, unexplained_count=1, unblocks_at=noon_plus(95)),
            (
                "1 invisible message in the control queues of task hub v41 may be a start that a worker took and did "
                "not finish. If nothing changes, it stops blocking in 1 min. If you know what it is, waive it with "
                "PostWaiver (unexplainedMessages)"
            ),
        ),
        (
            replace(NO_MESSAGES, unexplained_count=3, unblocks_at=noon_plus(95)),
            (
                "3 invisible messages in the control queues of task hub v41 may be starts that a worker took and did "
                "not finish. If nothing changes, they stop blocking in 1 min. If you know what they are, waive them "
                "with PostWaiver (unexplainedMessages)"
            ),
        ),
        *(
            (
                replace(NO_MESSAGES, unexplained_count=1, unblocks_at=noon_plus(remaining_seconds)),
                (
                    "1 invisible message in the control queues of task hub v41 may be a start that a worker took and "
                    "did not finish. If nothing changes, it stops blocking as soon as the control queues are read "
                    "again. If you know what it is, waive it with PostWaiver (unexplainedMessages)"
                ),
            )
            for remaining_seconds in (-9, 0.9)
        ),
    ],
)
def test_the_message_names_the_pending_starts(messages: MessageEvidence, text: str) -> None:
    assert get_starts_pending_message(messages) == text


def test_every_warning_code_is_explained() -> None:
    assert set(WARNING_DESCRIPTIONS) == set(WarningCode)
    assert all(meaning.endswith(".") for meaning in WARNING_DESCRIPTIONS.values())
    assert [code.value for code in WarningCode] == ["EventsOnly", "MessagesUnseen"]


def test_a_verdict_by_events_alone_warns() -> None:
    [warning] = assess_readiness(build_evidence(), Policy(), noon_plus()).warnings
    assert warning.code is WarningCode.EVENTS_ONLY
    assert "Configure taskHubs" in warning.message


def test_an_empty_slot_has_no_warning() -> None:
    assert assess_readiness(build_evidence(None), Policy(), noon_plus()).warnings == ()


@pytest.mark.parametrize(
    ("policy", "why"),
    [(Policy(), "azureStorage does not show them"), (Policy(ignore_messages=True), "the policy says ignoreMessages")],
)
def test_messages_that_were_not_read_are_a_warning(policy: Policy, why: str) -> None:
    verdict = assess_messages(None, policy=policy)
    [warning] = verdict.warnings
    assert (verdict.ready, warning.code) == (True, WarningCode.MESSAGES_UNSEEN)
    assert why in warning.message


def test_there_is_no_warning_about_messages_before_the_task_hub_was_read() -> None:
    assert assess_readiness(Evidence("v41", provider=AZURE_STORAGE), Policy(), noon_plus()).warnings == ()
    failed = build_probe_result(status=ProbeStatus.FAILED)
    assert assess_readiness(Evidence("v41", provider=AZURE_STORAGE, probe=failed), Policy(), noon_plus()).warnings == ()


def test_a_pending_start_counts_as_blocking() -> None:
    assert replace(build_probe_result(), messages=replace(NO_MESSAGES, unexplained_count=1)).found_blocking
    assert not replace(build_probe_result(), messages=NO_MESSAGES).found_blocking


def test_a_verdict_on_several_task_hubs_has_the_starts_and_warnings_of_all() -> None:
    staged = assess_messages(None)
    prior = assess_messages(replace(NO_MESSAGES, start_count=1))
    both = combine_verdicts(staged, [prior])
    assert (both.has_running, both.ready) == (True, False)
    assert both.warnings == staged.warnings


def test_the_control_queues_must_be_read_before_every_pass() -> None:
    scan = Scan(noon_plus(-10), noon_plus(-15), ["whole"], ["again"], "key")
    needed = [scan.needs_queue_read]
    scan.queues_read_in_pass = scan.pass_number
    needed.append(scan.needs_queue_read)
    scan.pass_number += 1
    needed.append(scan.needs_queue_read)
    assert needed == [True, False, True]


def test_an_entity_is_named_by_its_id() -> None:
    assert [entity_name(instance_id) for instance_id in ("@counter@a", "@counter@a@b", "@counter", "@")] == [
        "counter",
        "counter",
        "counter",
        "",
    ]
