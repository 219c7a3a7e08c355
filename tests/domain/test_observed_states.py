"""The state of a recorded start by what a probe shows of it, and when a probe confirms a start."""

from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.instants import Instant, seconds
from state_api.domain.task_hubs.lifecycle import (
    ACTIVE_STATUSES,
    ENDED_STATUSES,
    EvidenceSource,
    Instance,
    LifecycleEvent,
    RuntimeStatus,
    Started,
    apply_event,
    instance_from_event,
    merge_instances,
)
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.reconciliation import (
    CLOCK_SKEW,
    START_GRACE_PERIOD,
    ObservedState,
    confirm_start,
    is_recent_start,
    observe_state,
)
from tests.domain.builders import NOON, build_lifecycle_event, build_observed_instance, noon_plus
from tests.domain.reconciliation_builders import (
    BACKEND_ID,
    COMPLETED,
    OBSERVED_ACTIVE,
    OBSERVED_ENDED,
    RUNNING,
    STARTS,
    TIMES_AROUND_NOON,
    build_event_strategy,
    build_start,
)

# The state of a start


@given(STARTS, OBSERVED_ACTIVE)
def test_an_instance_that_the_task_hub_shows_active_is_active(started: Started, seen: ObservedInstance) -> None:
    assert observe_state(started, seen) is ObservedState.ACTIVE


@given(STARTS, st.none() | OBSERVED_ENDED)
def test_a_start_that_a_probe_recorded_has_ended_once_the_task_hub_shows_it_ended_or_not_at_all(
    started: Started, seen: ObservedInstance | None
) -> None:
    assert observe_state(replace(started, source=EvidenceSource.PROBE), seen) is ObservedState.ENDED


@given(STARTS, st.none() | OBSERVED_ENDED)
def test_a_published_start_is_unconfirmed_exactly_while_the_task_hub_shows_only_older_writes(
    started: Started, seen: ObservedInstance | None
) -> None:
    state = observe_state(replace(started, source=EvidenceSource.EVENT), seen)
    older = seen is None or seen.updated_at < started.at - CLOCK_SKEW
    assert state is (ObservedState.UNCONFIRMED if older else ObservedState.ENDED)


@pytest.mark.parametrize(
    ("updated", "expected"),
    [
        (-1.0000001, ObservedState.UNCONFIRMED),
        (-1, ObservedState.ENDED),
        (0, ObservedState.ENDED),
        (60, ObservedState.ENDED),
    ],
)
def test_a_published_start_has_ended_if_the_final_row_was_written_at_most_the_skew_before_it(
    updated: float, expected: ObservedState
) -> None:
    assert observe_state(build_start(0), build_observed_instance(status=COMPLETED, updated=updated)) is expected


@pytest.mark.parametrize("status", sorted(ENDED_STATUSES))
def test_every_final_status_that_the_task_hub_shows_is_an_end(status: RuntimeStatus) -> None:
    assert observe_state(build_start(-60), build_observed_instance(status=status, updated=-5)) is ObservedState.ENDED


def test_a_published_start_that_the_task_hub_does_not_show_is_unconfirmed() -> None:
    assert observe_state(build_start(), None) is ObservedState.UNCONFIRMED


@given(STARTS, st.none() | OBSERVED_ENDED)
def test_a_confirmed_start_has_ended_once_the_same_backend_shows_it_ended_or_not_at_all(
    started: Started, seen: ObservedInstance | None
) -> None:
    assert observe_state(replace(started, confirmed_backend=BACKEND_ID), seen, BACKEND_ID) is ObservedState.ENDED


@given(STARTS, st.none() | OBSERVED_ENDED, st.sampled_from(["", "another place"]))
def test_a_confirmation_by_another_backend_does_not_count(
    started: Started, seen: ObservedInstance | None, confirmed: str
) -> None:
    assert observe_state(replace(started, confirmed_backend=confirmed), seen, BACKEND_ID) is observe_state(
        started, seen
    )
    assert observe_state(replace(started, confirmed_backend=confirmed), seen) is observe_state(started, seen)


# The confirmation of a start


def test_an_active_instance_that_was_written_since_its_start_confirms_the_start() -> None:
    assert confirm_start(
        build_start(-60), build_observed_instance(updated=-60), backend_id=BACKEND_ID, observed_at=noon_plus()
    ) == replace(build_start(-60), confirmed_backend=BACKEND_ID)


@pytest.mark.parametrize(("age", "confirmed"), [(-5, False), (0, False), (0.9999999, False), (1, True), (60, True)])
def test_a_start_is_confirmed_only_if_every_later_start_has_a_later_time(age: float, *, confirmed: bool) -> None:
    """A restart that is published after the read, by a clock that is behind, must not count as this start."""
    assert (
        confirm_start(
            build_start(-age), build_observed_instance(updated=0), backend_id=BACKEND_ID, observed_at=noon_plus()
        )
        is not None
    ) is confirmed


@pytest.mark.parametrize(("updated", "confirmed"), [(-61.0000001, False), (-61, True), (-60, True), (0, True)])
def test_a_row_that_was_written_before_a_start_does_not_confirm_it(updated: float, *, confirmed: bool) -> None:
    assert (
        confirm_start(
            build_start(-60), build_observed_instance(updated=updated), backend_id=BACKEND_ID, observed_at=noon_plus()
        )
        is not None
    ) is confirmed


@given(STARTS, OBSERVED_ACTIVE | OBSERVED_ENDED, TIMES_AROUND_NOON)
def test_a_start_is_confirmed_once_and_only_by_a_known_backend_and_only_if_events_reported_it(
    started: Started, seen: ObservedInstance, observed_at: Instant
) -> None:
    once = confirm_start(started, seen, backend_id=BACKEND_ID, observed_at=observed_at)
    assert once is None or confirm_start(once, seen, backend_id=BACKEND_ID, observed_at=observed_at) is None
    assert confirm_start(started, seen, backend_id="", observed_at=observed_at) is None
    assert (
        confirm_start(
            replace(started, source=EvidenceSource.PROBE), seen, backend_id=BACKEND_ID, observed_at=observed_at
        )
        is None
    )


@given(STARTS, OBSERVED_ENDED, TIMES_AROUND_NOON)
def test_an_end_confirms_no_start(started: Started, seen: ObservedInstance, observed_at: Instant) -> None:
    assert confirm_start(started, seen, backend_id=BACKEND_ID, observed_at=observed_at) is None


@given(started=STARTS, later=build_event_strategy(ACTIVE_STATUSES), confirmed_first=st.booleans())
def test_a_confirmation_of_a_start_does_not_confirm_a_later_start_in_either_order(
    started: Started, later: LifecycleEvent, *, confirmed_first: bool
) -> None:
    later = replace(later, occurred_at=Instant(started.at + 1))
    confirmed = Instance("order-1", replace(started, confirmed_backend=BACKEND_ID))
    records = [confirmed, instance_from_event(later)]
    known = reduce(merge_instances, records if confirmed_first else records[::-1])
    assert known.started is not None
    assert known.started.at == later.occurred_at
    assert known.started.confirmed_backend == ""


@given(STARTS)
def test_a_duplicate_of_the_event_leaves_its_start_confirmed(started: Started) -> None:
    duplicate = Instance("order-1", started)
    confirmed = Instance("order-1", replace(started, confirmed_backend=BACKEND_ID))
    assert merge_instances(confirmed, duplicate) == merge_instances(duplicate, confirmed) == confirmed


@given(st.integers(0, 2 * CLOCK_SKEW), st.integers(1, 3 * CLOCK_SKEW), st.integers(-CLOCK_SKEW + 1, CLOCK_SKEW - 1))
def test_a_read_never_closes_a_start_that_is_published_after_it(age: int, gap: int, skew: int) -> None:
    """A probe shows an instance. Then it ends, is purged, and is started again under its id by a message.

    The clock of its worker differs from the storage's clock by less than the skew.
    """
    first = replace(build_start(), at=Instant(NOON - age))
    seen = replace(build_observed_instance(), updated_at=first.at)
    known = Instance("order-1", confirm_start(first, seen, backend_id=BACKEND_ID, observed_at=NOON) or first)
    known = apply_event(known, build_lifecycle_event(RUNNING, Instant(NOON + gap + skew)))
    assert known.started is not None
    if NOON + gap + skew > first.at or known.started.confirmed_backend:
        assert observe_state(known.started, None, BACKEND_ID) is ObservedState.UNCONFIRMED


@pytest.mark.parametrize(("age", "recent"), [(-5, True), (0, True), (599.9999999, True), (600, False), (601, False)])
def test_an_unconfirmed_start_blocks_for_ten_minutes_if_the_control_queues_are_not_read(
    age: float, *, recent: bool
) -> None:
    assert seconds(600) == START_GRACE_PERIOD
    assert is_recent_start(build_start(-age), noon_plus()) is recent
