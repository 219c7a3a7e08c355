"""Which messages of a task hub start work, which are explained, and when unexplained ones stop blocking."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.messages import (
    MAX_LISTED_STARTS,
    MAX_REMEMBERED_TIMERS,
    TIMER_EARLY_MARGIN,
    TIMER_LATE_MARGIN,
    KnownTimers,
    MessageEvidence,
    MessageKind,
    MessageState,
    ObservedQueues,
    PendingStart,
    PendingTimer,
    QueueSnapshot,
    QuietPeriod,
    VisibleMessage,
    assess_messages,
    compute_queue_digest,
    max_hidden_seconds,
    track_quiet_period,
)
from tests.domain.builders import build_waiver, noon_plus

NO_EXEMPTIONS = Exemptions()
MAX_INVISIBLE_SECONDS = 630


def build_pending_timer(fires: float, key: int = 1) -> PendingTimer:
    """A timer that fires this many seconds after noon."""
    return PendingTimer(key, noon_plus(fires))


def build_visible_message(
    kind: MessageKind = MessageKind.START, instance_id: str = "order-1", name: str = "Ship"
) -> VisibleMessage:
    """A message for one instance, as a peek shows it."""
    return VisibleMessage(
        message_id=f"id of {instance_id}",
        dequeue_count=1,
        kind=kind,
        instance_id=instance_id,
        function_name=name,
    )


def build_queue_snapshot(*messages: VisibleMessage, invisible: int = 0, more: bool = False) -> QueueSnapshot:
    """A look at the control queues that shows these messages, and counts `invisible` others."""
    count = len(messages)
    return QueueSnapshot(
        message_count=count + invisible,
        visible=messages,
        peeked_twice=count,
        more_visible=more,
        partition_owners="owners",
    )


def build_queues_with_timers(*timers: PendingTimer, invisible: int = 0, when: float = 0) -> ObservedQueues:
    """Control queues with invisible messages, and the pending timers that explain some of them. `when` is in seconds
    after noon."""
    return ObservedQueues.from_snapshot(
        build_queue_snapshot(invisible=invisible), KnownTimers(timers), noon_plus(when), noon_plus(when)
    )


def build_queues_with_messages(*messages: VisibleMessage, more: bool = False) -> ObservedQueues:
    """Queues with visible messages only, looked at by noon, without pending timers."""
    return ObservedQueues(build_queue_snapshot(*messages, more=more), 0, 0, noon_plus(), noon_plus())


def build_quiet_period(unexplained: int = 1, began: float = 0, **changed_members: object) -> QuietPeriod:
    """A time without any change of the task hub, since `began` seconds after noon."""
    period = QuietPeriod(
        exemptions_key="key",
        began_at=noon_plus(began),
        changed_since=noon_plus(-5),
        stamp_digest=7,
        unexplained_count=unexplained,
        queue_digest="signs",
    )
    return replace(period, **changed_members)  # type: ignore[arg-type]  # a test names the member


def track_quiet_period_with_defaults(
    before: QuietPeriod | None, after: ObservedQueues, *, key: str = "key", stamps: int = 7, queue_digest: str = "signs"
) -> QuietPeriod | None:
    """The quiet period after `after` was read. Every member that a test does not change is as it was `before`."""
    return track_quiet_period(
        before,
        after,
        scan_ended_at=after.ended_at,
        key=key,
        changed_since=noon_plus(-5),
        stamp_digest=stamps,
        queue_digest=queue_digest,
    )


def assess_message_evidence(
    after: ObservedQueues, before: QuietPeriod | None = None, *, exemptions: Exemptions = NO_EXEMPTIONS
) -> MessageEvidence:
    """The evidence of the queues as read, with the quiet period as it was before."""
    return assess_messages(after, before, exemptions, max_hidden_seconds=MAX_INVISIBLE_SECONDS)


# Visible messages


def test_empty_queues_hold_no_start() -> None:
    evidence = assess_message_evidence(build_queues_with_timers())
    assert not evidence.has_pending_starts
    assert (evidence.visible, evidence.invisible, evidence.explained, evidence.checked_at) == (0, 0, 0, noon_plus())


@pytest.mark.parametrize("kind", [MessageKind.START, MessageKind.ENTITY, MessageKind.UNREADABLE])
def test_a_visible_message_that_can_start_work_blocks_and_is_named(kind: MessageKind) -> None:
    evidence = assess_message_evidence(build_queues_with_messages(build_visible_message(kind)))
    assert evidence.has_pending_starts
    assert evidence.starts == (PendingStart("order-1", "Ship"),)


def test_another_visible_message_does_not_block() -> None:
    assert not assess_message_evidence(
        build_queues_with_messages(build_visible_message(MessageKind.OTHER))
    ).has_pending_starts


@pytest.mark.parametrize(
    ("exemptions", "kind", "blocks"),
    [
        (Exemptions(("Sh*",)), MessageKind.START, False),
        (Exemptions(("Sh*",)), MessageKind.ENTITY, False),
        (Exemptions(("Sh*",)), MessageKind.UNREADABLE, True),
        (Exemptions((), (build_waiver("order-1"),)), MessageKind.START, False),
        (Exemptions((), (build_waiver("order-2"),)), MessageKind.START, True),
    ],
)
def test_a_start_does_not_block_if_its_function_is_ignored_or_its_instance_waived(
    exemptions: Exemptions, kind: MessageKind, *, blocks: bool
) -> None:
    evidence = assess_message_evidence(build_queues_with_messages(build_visible_message(kind)), exemptions=exemptions)
    assert evidence.has_pending_starts is blocks


def test_more_messages_than_can_be_peeked_block() -> None:
    evidence = assess_message_evidence(build_queues_with_messages(build_visible_message(MessageKind.OTHER), more=True))
    assert evidence.has_pending_starts
    assert evidence.start_count == 0


def test_many_starts_are_counted_and_the_first_are_listed() -> None:
    messages = [build_visible_message(instance_id=f"order-{number}") for number in range(MAX_LISTED_STARTS + 5)]
    evidence = assess_message_evidence(build_queues_with_messages(*messages))
    assert (evidence.start_count, len(evidence.starts)) == (MAX_LISTED_STARTS + 5, MAX_LISTED_STARTS)


# Invisible messages


def test_as_many_pending_timers_as_invisible_messages_explain_them() -> None:
    evidence = assess_message_evidence(
        build_queues_with_timers(build_pending_timer(3600, 1), build_pending_timer(86_400, 2), invisible=2)
    )
    assert not evidence.has_pending_starts
    assert (evidence.invisible, evidence.explained) == (2, 2)


def test_an_invisible_message_without_a_timer_blocks() -> None:
    evidence = assess_message_evidence(build_queues_with_timers(build_pending_timer(3600), invisible=2))
    assert evidence.has_pending_starts
    assert (evidence.explained, evidence.unexplained_count) == (1, 1)


def test_a_timer_that_is_about_to_fire_explains_nothing() -> None:
    assert assess_message_evidence(build_queues_with_timers(build_pending_timer(10), invisible=1)).has_pending_starts
    assert not assess_message_evidence(
        build_queues_with_timers(build_pending_timer(10.0000001), invisible=1)
    ).has_pending_starts


@given(
    timers=st.lists(st.integers(-100, 100).map(noon_plus), max_size=8),
    starts=st.integers(0, 3),
    fired=st.integers(0, 5),
    moved=st.integers(0, 3),
)
def test_a_hidden_start_is_never_explained_by_timers(
    timers: list[Instant], starts: int, fired: int, moved: int
) -> None:
    """Each pending timer explains one invisible message, its own.

    So at least as many messages stay unexplained as there are hidden starts.
    """
    hidden = sum(fire_at > noon_plus() + TIMER_EARLY_MARGIN for fire_at in timers)
    count = hidden + starts + fired + moved
    known = KnownTimers(tuple(PendingTimer(key, fire_at) for key, fire_at in enumerate(timers)))
    # `fired` messages have become visible. `moved` messages left the queue between the first peek and the count.
    queues = ObservedQueues.from_snapshot(QueueSnapshot(count, (), fired), known, noon_plus(), noon_plus())
    assert queues.unexplained_count >= starts
    assert assess_message_evidence(queues).has_pending_starts is (starts + moved > 0)


@given(
    fires_in=st.integers(0, 11_000),
    was_sent_ago=st.integers(0, 2000),
    worker_is_ahead_by=st.integers(-999, 999),
    state_storage_is_ahead_by=st.integers(-999, 999),
    suspended=st.integers(0, 7000),
    has_start=st.booleans(),
)
@example(
    fires_in=8900,
    was_sent_ago=0,
    worker_is_ahead_by=999,
    state_storage_is_ahead_by=-999,
    suspended=7000,
    has_start=True,
)
def test_a_timer_that_has_fired_never_explains_a_hidden_start(
    *,
    fires_in: int,
    was_sent_ago: int,
    worker_is_ahead_by: int,
    state_storage_is_ahead_by: int,
    suspended: int,
    has_start: bool,
) -> None:
    """A queue hides the message for whole seconds. Neither the worker nor the state storage has the clock of the queue,
    and the server has just been suspended. All numbers are milliseconds."""
    delay = max(0, (fires_in + was_sent_ago - worker_is_ahead_by) // 1000 * 1000)
    is_hidden = delay > was_sent_ago + suspended
    read_at = noon_plus(state_storage_is_ahead_by / 1000)
    queues = ObservedQueues.from_snapshot(
        build_queue_snapshot(invisible=is_hidden + has_start),
        KnownTimers((build_pending_timer(fires_in / 1000),)),
        read_at,
        read_at,
    )
    assert queues.unexplained_count >= has_start


# The quiet period


def test_a_message_can_be_hidden_for_the_visibility_timeout_or_the_longest_backoff() -> None:
    assert max_hidden_seconds(60) == 630
    assert max_hidden_seconds(600) == 630
    assert max_hidden_seconds(900) == 930


def test_unexplained_messages_are_harmless_once_nothing_has_changed_for_long_enough() -> None:
    assert assess_message_evidence(
        build_queues_with_timers(invisible=1, when=MAX_INVISIBLE_SECONDS - 1e-7), build_quiet_period()
    ).has_pending_starts
    assert assess_message_evidence(
        build_queues_with_timers(invisible=1, when=MAX_INVISIBLE_SECONDS - 1e-7), build_quiet_period()
    ).unblocks_at == noon_plus(MAX_INVISIBLE_SECONDS)
    evidence = assess_message_evidence(
        build_queues_with_timers(invisible=1, when=MAX_INVISIBLE_SECONDS), build_quiet_period()
    )
    assert not evidence.has_pending_starts
    assert (evidence.explained, evidence.unexplained_count, evidence.unblocks_at) == (1, 0, None)


def test_only_the_time_until_the_read_began_counts_for_the_time_rule() -> None:
    """Reading rows and queues takes time. Changes of a message during the read are unknown."""
    slow_read = ObservedQueues(build_queue_snapshot(invisible=1), 0, 0, noon_plus(629), noon_plus(700))
    assert assess_message_evidence(slow_read, build_quiet_period()).has_pending_starts
    # It is certain that the message was in the queue when the first read ended.
    assert track_quiet_period_with_defaults(None, slow_read) == build_quiet_period(1, 700)


def test_one_more_message_than_observed_blocks_regardless_of_the_quiet_period() -> None:
    assert assess_message_evidence(
        build_queues_with_timers(invisible=2, when=10_000), build_quiet_period()
    ).has_pending_starts


def test_without_a_quiet_period_unexplained_messages_block_without_end() -> None:
    evidence = assess_message_evidence(build_queues_with_timers(invisible=1), None)
    assert (evidence.has_pending_starts, evidence.unblocks_at) == (True, None)


def test_there_is_no_quiet_period_while_every_invisible_message_is_explained() -> None:
    assert (
        track_quiet_period_with_defaults(
            build_quiet_period(), build_queues_with_timers(build_pending_timer(3600), invisible=1)
        )
        is None
    )
    assert track_quiet_period_with_defaults(None, build_queues_with_timers()) is None


def test_a_quiet_period_begins_with_the_first_unexplained_message() -> None:
    assert track_quiet_period_with_defaults(None, build_queues_with_timers(invisible=2, when=3)) == build_quiet_period(
        2, 3
    )


def test_a_quiet_period_continues_while_nothing_changes() -> None:
    assert (
        track_quiet_period_with_defaults(build_quiet_period(), build_queues_with_timers(invisible=1, when=500))
        == build_quiet_period()
    )


@pytest.mark.parametrize(
    ("before", "invisible"),
    [
        (build_quiet_period(), 2),
        (build_quiet_period(2), 1),
        (build_quiet_period(exemptions_key="another key"), 1),
        (build_quiet_period(changed_since=noon_plus(-6)), 1),
        (build_quiet_period(stamp_digest=8), 1),
        (build_quiet_period(queue_digest="others"), 1),
    ],
    ids=["one more", "one less", "other exemptions", "rows since another time", "a stamped row", "other signs"],
)
def test_any_change_begins_a_new_quiet_period(before: QuietPeriod, invisible: int) -> None:
    assert track_quiet_period_with_defaults(
        before, build_queues_with_timers(invisible=invisible, when=500)
    ) == build_quiet_period(invisible, 500)


def test_a_known_timer_that_fires_does_not_end_a_quiet_period() -> None:
    # The message of the timer may have left the queue or not.
    for invisible in (1, 2):
        queues = build_queues_with_timers(build_pending_timer(499), invisible=invisible, when=500)
        assert track_quiet_period_with_defaults(build_quiet_period(), queues) == build_quiet_period()
    assert assess_message_evidence(
        build_queues_with_timers(build_pending_timer(499), invisible=2, when=700), build_quiet_period()
    ).has_pending_starts


def test_messages_can_be_waived_by_their_number() -> None:
    waived = Exemptions((), (replace(build_waiver(""), unexplained_messages=2), build_waiver("order-1")))
    assert not assess_message_evidence(build_queues_with_timers(invisible=2), exemptions=waived).has_pending_starts
    assert assess_message_evidence(build_queues_with_timers(invisible=2), exemptions=waived).waived == 2
    assert assess_message_evidence(build_queues_with_timers(invisible=3), exemptions=waived).has_pending_starts
    assert waived.find_waiver("") is None
    assert NO_EXEMPTIONS.waived_messages == 0


def test_messages_that_the_time_rule_explains_do_not_count_as_waived() -> None:
    """Only what counts as waived keeps an unconfirmed start open, and for as long as the waiver holds."""
    waived = Exemptions((), (replace(build_waiver(""), unexplained_messages=2),))
    before, after = (
        assess_message_evidence(
            build_queues_with_timers(invisible=1, when=when), build_quiet_period(), exemptions=waived
        )
        for when in (MAX_INVISIBLE_SECONDS - 1e-7, MAX_INVISIBLE_SECONDS)
    )
    assert (before.waived, before.explained, before.unblocks_at, before.has_pending_starts) == (1, 1, None, False)
    assert (after.waived, after.explained, after.unblocks_at, after.has_pending_starts) == (0, 1, None, False)


def test_a_waiver_does_not_begin_the_quiet_period_of_one_message_more() -> None:
    """The message that came since the quiet period began may be a start, so it counts as waived."""
    waived = Exemptions((), (replace(build_waiver(""), unexplained_messages=2),))
    evidence = assess_message_evidence(
        build_queues_with_timers(invisible=2, when=10_000), build_quiet_period(), exemptions=waived
    )
    assert (evidence.waived, evidence.has_pending_starts) == (2, False)


def test_a_timer_that_fires_soon_stops_blocking_once_it_has_fired() -> None:
    """After a quiet period, the only message more than before is that of a timer which is about to fire."""
    queues = build_queues_with_timers(build_pending_timer(10_001), invisible=2, when=10_000)
    assert track_quiet_period_with_defaults(build_quiet_period(), queues) == build_quiet_period()
    evidence = assess_message_evidence(queues, build_quiet_period())
    assert evidence.unblocks_at == noon_plus(10_000) + TIMER_EARLY_MARGIN


def test_a_waiver_of_messages_changes_the_key_of_results_and_not_that_of_quiet_periods() -> None:
    waived = Exemptions((), (replace(build_waiver(""), unexplained_messages=2),))
    assert waived.key != NO_EXEMPTIONS.key
    assert waived.instances_key == NO_EXEMPTIONS.instances_key
    assert Exemptions((), (build_waiver("order-1"),)).instances_key != NO_EXEMPTIONS.instances_key


def test_the_queue_digest_changes_with_visible_messages_steps_of_exempt_instances_events_and_owners() -> None:
    first = build_queue_snapshot(build_visible_message(MessageKind.OTHER))
    dequeued_again = replace(first, visible=(replace(first.visible[0], dequeue_count=2),))
    digests = [
        compute_queue_digest(first, 0, noon_plus()),
        compute_queue_digest(build_queue_snapshot(), 0, noon_plus()),
        compute_queue_digest(dequeued_again, 0, noon_plus()),
        compute_queue_digest(first, 0, noon_plus(1)),
        compute_queue_digest(first, 0, None),
        compute_queue_digest(first, 1, noon_plus()),
        compute_queue_digest(replace(first, partition_owners="others"), 0, noon_plus()),
        compute_queue_digest(replace(first, more_visible=True), 0, noon_plus()),
    ]
    assert len(set(digests)) == len(digests)
    assert compute_queue_digest(
        build_queue_snapshot(build_visible_message(), build_visible_message(instance_id="a")), 0, None
    ) == compute_queue_digest(
        build_queue_snapshot(build_visible_message(instance_id="a"), build_visible_message()), 0, None
    )


# Remembered timers, and the stored state


def test_a_timer_is_remembered_once_and_until_it_has_fired() -> None:
    known = KnownTimers((build_pending_timer(10, 1), build_pending_timer(-61, 2)))
    assert known.merge_timers([build_pending_timer(10, 1), build_pending_timer(30, 3)], noon_plus()) == (
        build_pending_timer(10, 1),
        build_pending_timer(30, 3),
    )
    assert seconds(60) == TIMER_LATE_MARGIN


def test_only_as_many_timers_are_remembered_as_fit_into_a_row() -> None:
    full = KnownTimers(
        tuple(build_pending_timer(number, number) for number in range(MAX_REMEMBERED_TIMERS)), noon_plus()
    )
    assert full.limit_size() is full
    too_many = KnownTimers((*full.timers, build_pending_timer(-1, MAX_REMEMBERED_TIMERS)), noon_plus())
    # A complete read of the timers is repeated.
    assert too_many.limit_size() == KnownTimers()
    # An unfinished read of the timers continues, without the timer that fires first.
    unfinished = replace(too_many, cursor="[false, null]", reading_since=noon_plus(1)).limit_size()
    assert unfinished == KnownTimers(full.timers, noon_plus(), "[false, null]", noon_plus(1), truncated=True)


def test_the_message_state_is_unchanged_after_it_was_stored_as_json() -> None:
    state = MessageState(
        "here",
        KnownTimers(
            (build_pending_timer(10),), noon_plus(1), '{"NextPartitionKey": "a"}', noon_plus(2), truncated=True
        ),
        build_quiet_period(),
    )
    stored = TypeAdapter(MessageState)
    assert stored.validate_json(stored.dump_json(state)) == state
