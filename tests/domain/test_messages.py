"""What the messages of a task hub say: which of them start work, which are explained, and when the rest is harmless."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from state_api.domain.exemptions import Exemptions
from state_api.domain.instants import Instant, seconds
from state_api.domain.messages import (
    LISTED_STARTS,
    MAX_REMEMBERED_TIMERS,
    TIMER_LEEWAY,
    TIMER_MARGIN,
    KnownTimers,
    MessageEvidence,
    MessageKind,
    MessageMemory,
    PendingStart,
    PendingTimer,
    QueueLook,
    QueueSnapshot,
    QuietPeriod,
    VisibleMessage,
    assess_messages,
    hidden_for_seconds,
    observe_quiet,
    signs_of,
)
from tests.domain.builders import at, waiver

NONE = Exemptions()
HIDDEN_FOR = 630


def timer(fires: float, key: int = 1) -> PendingTimer:
    return PendingTimer(key, at(fires))


def visible(kind: MessageKind = MessageKind.START, instance_id: str = "order-1", name: str = "Ship") -> VisibleMessage:
    return VisibleMessage(f"id of {instance_id}", 1, kind, instance_id, name)


def snapshot(*messages: VisibleMessage, invisible: int = 0, more: bool = False) -> QueueSnapshot:
    count = len(messages)
    return QueueSnapshot(count + invisible, messages, count, more, "owners")


def look(*timers: PendingTimer, invisible: int = 0, when: float = 0) -> QueueLook:
    return QueueLook.of(snapshot(invisible=invisible), KnownTimers(timers), at(when), at(when))


def seen(*messages: VisibleMessage, more: bool = False) -> QueueLook:
    return QueueLook(snapshot(*messages, more=more), 0, 0, at(), at())


def quiet(unexplained: int = 1, began: float = 0, **different: object) -> QuietPeriod:
    period = QuietPeriod("key", at(began), at(-5), 7, unexplained, "signs")
    return replace(period, **different)  # type: ignore[arg-type]  # a test names the member that differs


def observed(
    before: QuietPeriod | None, after: QueueLook, *, key: str = "key", stamps: int = 7, signs: str = "signs"
) -> QuietPeriod | None:
    return observe_quiet(before, after, key=key, since=at(-5), stamps=stamps, signs=signs)


def assessed(after: QueueLook, before: QuietPeriod | None = None, *, exemptions: Exemptions = NONE) -> MessageEvidence:
    return assess_messages(after, before, exemptions, hidden_for=HIDDEN_FOR)


# Visible messages


def test_empty_queues_hold_no_start() -> None:
    evidence = assessed(look())
    assert not evidence.pending
    assert (evidence.visible, evidence.invisible, evidence.explained, evidence.checked_at) == (0, 0, 0, at())


@pytest.mark.parametrize("kind", [MessageKind.START, MessageKind.ENTITY, MessageKind.UNREADABLE])
def test_a_visible_message_that_can_start_work_blocks_and_is_named(kind: MessageKind) -> None:
    evidence = assessed(seen(visible(kind)))
    assert evidence.pending
    assert evidence.starts == (PendingStart("order-1", "Ship"),)


def test_another_visible_message_does_not_block() -> None:
    assert not assessed(seen(visible(MessageKind.OTHER))).pending


@pytest.mark.parametrize(
    ("exemptions", "kind", "blocks"),
    [
        (Exemptions(("Sh*",)), MessageKind.START, False),
        (Exemptions(("Sh*",)), MessageKind.ENTITY, False),
        (Exemptions(("Sh*",)), MessageKind.UNREADABLE, True),
        (Exemptions((), (waiver("order-1"),)), MessageKind.START, False),
        (Exemptions((), (waiver("order-2"),)), MessageKind.START, True),
    ],
)
def test_a_start_does_not_block_if_its_function_is_ignored_or_its_instance_waived(
    exemptions: Exemptions, kind: MessageKind, blocks: bool
) -> None:
    evidence = assessed(seen(visible(kind)), exemptions=exemptions)
    assert evidence.pending is blocks


def test_more_messages_than_can_be_peeked_block() -> None:
    evidence = assessed(seen(visible(MessageKind.OTHER), more=True))
    assert evidence.pending
    assert evidence.start_count == 0


def test_many_starts_are_counted_and_the_first_are_listed() -> None:
    messages = [visible(instance_id=f"order-{number}") for number in range(LISTED_STARTS + 5)]
    evidence = assessed(seen(*messages))
    assert (evidence.start_count, len(evidence.starts)) == (LISTED_STARTS + 5, LISTED_STARTS)


# Invisible messages


def test_as_many_pending_timers_as_invisible_messages_explain_them() -> None:
    evidence = assessed(look(timer(3600, 1), timer(86_400, 2), invisible=2))
    assert not evidence.pending
    assert (evidence.invisible, evidence.explained) == (2, 2)


def test_an_invisible_message_without_a_timer_blocks() -> None:
    evidence = assessed(look(timer(3600), invisible=2))
    assert evidence.pending
    assert (evidence.explained, evidence.unexplained) == (1, 1)


def test_a_timer_that_is_about_to_fire_explains_nothing() -> None:
    assert assessed(look(timer(10), invisible=1)).pending
    assert not assessed(look(timer(10.0000001), invisible=1)).pending


@given(
    timers=st.lists(st.integers(-100, 100).map(at), max_size=8),
    starts=st.integers(0, 3),
    fired=st.integers(0, 5),
    moved=st.integers(0, 3),
)
def test_a_hidden_start_is_never_explained_by_timers(
    timers: list[Instant], starts: int, fired: int, moved: int
) -> None:
    """Whatever else is in the queues: every timer that has yet to fire has an invisible message, so the messages that
    are left over are at least as many as the hidden starts."""
    hidden = sum(fire_at > at() + TIMER_MARGIN for fire_at in timers)
    count = hidden + starts + fired + moved
    known = KnownTimers(tuple(PendingTimer(key, fire_at) for key, fire_at in enumerate(timers)))
    # `fired` messages are visible, `moved` ones left between the first peek and the count.
    taken = QueueLook.of(QueueSnapshot(count, (), fired), known, at(), at())
    assert taken.unexplained >= starts
    assert assessed(taken).pending is (starts + moved > 0)


# The time rule


def test_a_message_can_be_hidden_for_the_visibility_timeout_or_the_longest_backoff() -> None:
    assert hidden_for_seconds(60) == 630
    assert hidden_for_seconds(600) == 630
    assert hidden_for_seconds(900) == 930


def test_unexplained_messages_are_harmless_once_nothing_has_changed_for_long_enough() -> None:
    assert assessed(look(invisible=1, when=629.9999999), quiet()).pending
    assert assessed(look(invisible=1, when=629.9999999), quiet()).explained_at == at(630)
    evidence = assessed(look(invisible=1, when=630), quiet())
    assert not evidence.pending
    assert (evidence.explained, evidence.unexplained, evidence.explained_at) == (1, 0, None)


def test_only_the_time_until_the_look_began_counts_for_the_time_rule() -> None:
    """The rows can take long to read, and a snapshot too: what became of a message since is not known."""
    slow = QueueLook(snapshot(invisible=1), 0, 0, at(629), at(700))
    assert assessed(slow, quiet()).pending
    # The message was surely there when the first look ended.
    assert observed(None, slow) == quiet(1, 700)


def test_one_more_message_than_were_observed_blocks_however_long_it_was_quiet() -> None:
    assert assessed(look(invisible=2, when=10_000), quiet()).pending


def test_without_a_quiet_period_there_is_no_end_to_the_wait() -> None:
    evidence = assessed(look(invisible=1), None)
    assert (evidence.pending, evidence.explained_at) == (True, None)


def test_nothing_is_observed_while_every_invisible_message_is_explained() -> None:
    assert observed(quiet(), look(timer(3600), invisible=1)) is None
    assert observed(None, look()) is None


def test_a_quiet_period_begins_with_the_first_unexplained_message() -> None:
    assert observed(None, look(invisible=2, when=3)) == quiet(2, 3)


def test_a_quiet_period_goes_on_while_nothing_changes() -> None:
    assert observed(quiet(), look(invisible=1, when=500)) == quiet()


@pytest.mark.parametrize(
    ("before", "invisible"),
    [
        (quiet(), 2),
        (quiet(2), 1),
        (quiet(exemptions="another key"), 1),
        (quiet(since=at(-6)), 1),
        (quiet(stamps=8), 1),
        (quiet(signs="others"), 1),
    ],
    ids=["one more", "one less", "other exemptions", "rows since another time", "a stamped row", "other signs"],
)
def test_any_change_begins_a_new_quiet_period(before: QuietPeriod, invisible: int) -> None:
    assert observed(before, look(invisible=invisible, when=500)) == quiet(invisible, 500)


def test_a_known_timer_that_fires_does_not_end_a_quiet_period() -> None:
    # Its message may have left the queue by now, or not.
    for invisible in (1, 2):
        taken = look(timer(499), invisible=invisible, when=500)
        assert observed(quiet(), taken) == quiet()
    assert assessed(look(timer(499), invisible=2, when=700), quiet()).pending


def test_messages_can_be_waived_by_their_number() -> None:
    waived = Exemptions((), (replace(waiver(""), unexplained_messages=2), waiver("order-1")))
    assert not assessed(look(invisible=2), exemptions=waived).pending
    assert assessed(look(invisible=2), exemptions=waived).waived == 2
    assert assessed(look(invisible=3), exemptions=waived).pending
    assert waived.waiver_of("") is None
    assert NONE.waived_messages == 0


def test_a_waiver_of_messages_changes_what_a_result_answers_and_not_what_a_quiet_period_is() -> None:
    waived = Exemptions((), (replace(waiver(""), unexplained_messages=2),))
    assert waived.key != NONE.key
    assert waived.key_of_instances == NONE.key_of_instances
    assert Exemptions((), (waiver("order-1"),)).key_of_instances != NONE.key_of_instances


def test_signs_change_with_visible_messages_events_and_owners() -> None:
    first = snapshot(visible(MessageKind.OTHER))
    again = replace(first, visible=(replace(first.visible[0], dequeue_count=2),))
    signs = [
        signs_of(first, at()),
        signs_of(snapshot(), at()),
        signs_of(again, at()),
        signs_of(first, at(1)),
        signs_of(first, None),
        signs_of(replace(first, owners="others"), at()),
        signs_of(replace(first, more_visible=True), at()),
    ]
    assert len(set(signs)) == len(signs)
    assert signs_of(snapshot(visible(), visible(instance_id="a")), None) == signs_of(
        snapshot(visible(instance_id="a"), visible()), None
    )


# What is remembered


def test_a_timer_is_remembered_once_and_until_it_has_fired() -> None:
    known = KnownTimers((timer(10, 1), timer(-61, 2)))
    assert known.with_timers([timer(10, 1), timer(30, 3)], at()) == (timer(10, 1), timer(30, 3))
    assert seconds(60) == TIMER_LEEWAY


def test_no_more_timers_are_remembered_than_fit_into_a_row() -> None:
    few = KnownTimers(tuple(timer(number, number) for number in range(MAX_REMEMBERED_TIMERS)), at())
    assert few.bounded() is few
    many = KnownTimers((*few.timers, timer(-1, MAX_REMEMBERED_TIMERS)), at())
    # A complete read is done anew.
    assert many.bounded() == KnownTimers()
    # An unfinished one goes on, without the timer that fires first.
    unfinished = replace(many, cursor="[false, null]", reading_since=at(1)).bounded()
    assert unfinished == KnownTimers(few.timers, at(), "[false, null]", at(1), partial=True)


def test_memory_is_kept_as_json() -> None:
    memory = MessageMemory("here", KnownTimers((timer(10),), at(1), '{"NextPartitionKey": "a"}', at(2), True), quiet())
    stored = TypeAdapter(MessageMemory)
    assert stored.validate_json(stored.dump_json(memory)) == memory
