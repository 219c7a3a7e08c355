"""How what a probe saw sets the records right, and that it never hides what happens next."""

from dataclasses import replace
from functools import reduce
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.healing import GONE, GRACE, SKEW, Standing, ended, is_recent, missed, record_seen, standing
from state_api.domain.instants import Instant, seconds
from state_api.domain.lifecycle import (
    ENDED_STATUSES,
    RUNNING_STATUSES,
    Finished,
    Instance,
    LifecycleEvent,
    RuntimeStatus,
    Source,
    Started,
    apply,
    instance_of,
    merge,
)
from state_api.domain.sightings import Sighting
from tests.domain.builders import NOON, at, event, sighting

PLACE = "managementApi at its address"
RUNNING = RuntimeStatus.RUNNING
COMPLETED = RuntimeStatus.COMPLETED

TIMES = st.builds(lambda skews, ticks: Instant(NOON + skews * SKEW + ticks), st.integers(-3, 3), st.integers(-1, 1))
"""Few times, so that they often are the very skew apart, or a tick more or less."""
NAMES = st.sampled_from(["", "ProcessOrder", "ShipOrder"])


def events_of(statuses: frozenset[RuntimeStatus]) -> st.SearchStrategy[LifecycleEvent]:
    return st.builds(event, st.sampled_from(sorted(statuses)), TIMES, function_name=NAMES)


def sightings_of(statuses: frozenset[RuntimeStatus]) -> st.SearchStrategy[Sighting]:
    return st.builds(
        Sighting,
        instance_id=st.just("order-1"),
        function_name=NAMES,
        version=st.none(),
        runtime_status=st.sampled_from(sorted(statuses)),
        created_at=TIMES,
        updated_at=TIMES,
        stamp=st.just("any"),
    )


STARTS = st.builds(Started, TIMES, st.sampled_from(sorted(RUNNING_STATUSES)), NAMES, st.sampled_from(Source))
ENDS = st.builds(Finished, TIMES, st.sampled_from(sorted(ENDED_STATUSES)), st.just(""), NAMES, st.sampled_from(Source))
STARTED = st.builds(Instance, st.just("order-1"), STARTS, st.none() | ENDS)
"""Records with a start, active or not."""
RECORDS = STARTED | st.builds(Instance, st.just("order-1"), st.none(), ENDS)
QUIET = st.none() | RECORDS.filter(lambda known: not known.active)
"""What may be known of an instance that the records do not show active."""
EVENTS = st.lists(events_of(frozenset(RuntimeStatus)), max_size=5)
ACTIVE = sightings_of(RUNNING_STATUSES)
OVER = sightings_of(ENDED_STATUSES)


def start(offset: float = 0, source: Source = Source.EVENT) -> Started:
    return Started(at(offset), RUNNING, "ProcessOrder", source)


def record(started: float | None = None, finished: float | None = None) -> Instance:
    """The record after events at these times."""
    events = [] if started is None else [event(RUNNING, at(started))]
    events += [] if finished is None else [event(COMPLETED, at(finished))]
    return reduce(merge, map(instance_of, events))


def closed(instance: Instance, seen: Sighting | None) -> Instance:
    """The record once the end that a probe saw is recorded."""
    return merge(instance, ended(instance, seen))


def opened(instance: Instance | None, seen: Sighting, now: Instant = NOON) -> Instance:
    """The record once the start that events missed is recorded."""
    evidence = missed(instance, seen, now)
    assert evidence is not None
    return evidence if instance is None else merge(instance, evidence)


# What the task hub says of a start


@given(STARTS, ACTIVE)
def test_what_the_hub_shows_active_is_active(started: Started, seen: Sighting) -> None:
    assert standing(started, seen) is Standing.ACTIVE


@given(STARTS, st.none() | OVER)
def test_a_start_that_a_probe_has_seen_is_over_once_the_hub_shows_it_so_or_not_at_all(
    started: Started, seen: Sighting | None
) -> None:
    assert standing(replace(started, source=Source.PROBE), seen) is Standing.ENDED


@given(STARTS, st.none() | OVER)
def test_a_published_start_is_unconfirmed_exactly_while_all_that_the_hub_shows_is_older(
    started: Started, seen: Sighting | None
) -> None:
    found = standing(replace(started, source=Source.EVENT), seen)
    older = seen is None or seen.updated_at < started.at - SKEW
    assert found is (Standing.UNCONFIRMED if older else Standing.ENDED)


@pytest.mark.parametrize(
    ("updated", "expected"),
    [
        (-1.0000001, Standing.UNCONFIRMED),
        (-1, Standing.ENDED),
        (0, Standing.ENDED),
        (60, Standing.ENDED),
    ],
)
def test_a_published_start_is_over_if_the_hub_was_written_no_more_than_the_skew_before_it(
    updated: float, expected: Standing
) -> None:
    assert standing(start(0), sighting(status=COMPLETED, updated=updated)) is expected


@pytest.mark.parametrize("status", sorted(ENDED_STATUSES))
def test_every_end_that_the_hub_shows_is_an_end(status: RuntimeStatus) -> None:
    assert standing(start(-60), sighting(status=status, updated=-5)) is Standing.ENDED


def test_a_published_start_of_which_the_hub_knows_nothing_is_unconfirmed() -> None:
    assert standing(start(), None) is Standing.UNCONFIRMED


@given(STARTS, st.none() | OVER)
def test_a_start_that_the_hub_has_shown_is_over_once_the_same_place_shows_it_so_or_not_at_all(
    started: Started, seen: Sighting | None
) -> None:
    assert standing(replace(started, confirmed_backend=PLACE), seen, PLACE) is Standing.ENDED


@given(STARTS, st.none() | OVER, st.sampled_from(["", "another place"]))
def test_what_another_place_has_shown_says_nothing_of_this_one(
    started: Started, seen: Sighting | None, confirmed: str
) -> None:
    assert standing(replace(started, confirmed_backend=confirmed), seen, PLACE) is standing(started, seen)
    assert standing(replace(started, confirmed_backend=confirmed), seen) is standing(started, seen)


# What a probe has shown of a start that events told of


def test_an_active_instance_that_was_written_since_its_start_confirms_the_start() -> None:
    assert record_seen(start(-60), sighting(updated=-60), PLACE, at()) == replace(start(-60), confirmed_backend=PLACE)


@pytest.mark.parametrize(("age", "confirmed"), [(-5, False), (0, False), (0.9999999, False), (1, True), (60, True)])
def test_a_start_is_confirmed_only_when_every_later_start_has_a_later_time(age: float, confirmed: bool) -> None:
    """A restart that is published after the look, by a clock that is behind, must not be taken for this start."""
    assert (record_seen(start(-age), sighting(updated=0), PLACE, at()) is not None) is confirmed


@pytest.mark.parametrize(("updated", "confirmed"), [(-61.0000001, False), (-61, True), (-60, True), (0, True)])
def test_what_was_written_before_a_start_may_be_an_earlier_run_and_confirms_nothing(
    updated: float, confirmed: bool
) -> None:
    assert (record_seen(start(-60), sighting(updated=updated), PLACE, at()) is not None) is confirmed


@given(STARTS, ACTIVE | OVER, TIMES)
def test_nothing_is_recorded_of_a_start_twice_nor_without_a_place_nor_of_one_that_a_probe_found(
    started: Started, seen: Sighting, looked_at: Instant
) -> None:
    once = record_seen(started, seen, PLACE, looked_at)
    assert once is None or record_seen(once, seen, PLACE, looked_at) is None
    assert record_seen(started, seen, "", looked_at) is None
    assert record_seen(replace(started, source=Source.PROBE), seen, PLACE, looked_at) is None


@given(STARTS, OVER, TIMES)
def test_an_end_confirms_no_start(started: Started, seen: Sighting, looked_at: Instant) -> None:
    assert record_seen(started, seen, PLACE, looked_at) is None


@given(STARTS, ACTIVE, events_of(RUNNING_STATUSES), st.booleans())
def test_a_later_start_is_not_confirmed_by_what_was_seen_before_whichever_is_recorded_first(
    started: Started, seen: Sighting, later: LifecycleEvent, first: bool
) -> None:
    later = replace(later, occurred_at=Instant(started.at + 1))
    confirmed = Instance("order-1", replace(started, confirmed_backend=PLACE))
    pieces = [confirmed, instance_of(later)]
    known = reduce(merge, pieces if first else pieces[::-1])
    assert known.started is not None
    assert known.started.at == later.occurred_at
    assert known.started.confirmed_backend == ""


@given(STARTS)
def test_a_duplicate_of_the_event_leaves_its_start_confirmed(started: Started) -> None:
    again = Instance("order-1", started)
    confirmed = Instance("order-1", replace(started, confirmed_backend=PLACE))
    assert merge(confirmed, again) == merge(again, confirmed) == confirmed


@given(st.integers(0, 2 * SKEW), st.integers(1, 3 * SKEW), st.integers(-SKEW + 1, SKEW - 1))
def test_no_start_that_is_published_after_the_look_is_closed_by_what_the_look_has_shown(
    age: int, gap: int, skew: int
) -> None:
    """The instance is shown, ends, is purged and starts again under its id, as a message only, on a worker whose clock
    differs from the storage's by less than the skew."""
    first = replace(start(), at=Instant(NOON - age))
    seen = replace(sighting(), updated_at=first.at)
    known = Instance("order-1", record_seen(first, seen, PLACE, NOON) or first)
    known = apply(known, event(RUNNING, Instant(NOON + gap + skew)))
    assert known.started is not None
    if NOON + gap + skew > first.at or known.started.confirmed_backend:
        assert standing(known.started, None, PLACE) is Standing.UNCONFIRMED


@pytest.mark.parametrize(("age", "recent"), [(-5, True), (0, True), (599.9999999, True), (600, False), (601, False)])
def test_where_messages_cannot_be_seen_an_unconfirmed_start_blocks_for_ten_minutes(age: float, recent: bool) -> None:
    assert seconds(600) == GRACE
    assert is_recent(start(-age), at()) is recent


# The end that a probe saw


@given(STARTED, st.none() | OVER)
def test_an_instance_is_not_active_after_the_end_that_the_hub_shows(known: Instance, seen: Sighting | None) -> None:
    assert not closed(known, seen).active


@given(STARTED, st.none() | OVER)
def test_the_end_that_the_hub_shows_is_recorded_once(known: Instance, seen: Sighting | None) -> None:
    once = closed(known, seen)
    assert merge(once, ended(known, seen)) == once
    assert closed(once, seen) == once


@given(STARTED, st.none() | OVER, EVENTS, st.data())
def test_it_never_shows_when_the_end_that_the_hub_shows_was_recorded(
    known: Instance, seen: Sighting | None, events: list[LifecycleEvent], data: st.DataObject
) -> None:
    evidence = [known, ended(known, seen), *map(instance_of, events)]
    shuffled = data.draw(st.permutations(evidence), label="as recorded")
    assert reduce(merge, shuffled) == reduce(merge, evidence)


@given(STARTS, OVER, events_of(RUNNING_STATUSES))
def test_the_end_that_the_hub_shows_ends_what_started_before_it_and_nothing_later(
    started: Started, seen: Sighting, later: LifecycleEvent
) -> None:
    known = closed(Instance("order-1", started), seen)
    assert apply(known, later).active is (later.occurred_at > max(started.at, seen.updated_at - SKEW))


@given(STARTS, events_of(RUNNING_STATUSES))
def test_the_end_of_an_instance_that_is_gone_ends_this_start_and_no_later_one(
    started: Started, later: LifecycleEvent
) -> None:
    known = closed(Instance("order-1", started), None)
    assert apply(known, later).active is (later.occurred_at > started.at)


@given(STARTS, st.none() | OVER, events_of(RUNNING_STATUSES))
def test_a_start_that_is_later_than_all_the_hub_shows_is_active_whenever_it_comes(
    started: Started, seen: Sighting | None, later: LifecycleEvent
) -> None:
    known = Instance("order-1", started)
    latest = started.at if seen is None else max(started.at, seen.updated_at)
    later = replace(later, occurred_at=Instant(latest + 1))
    assert apply(closed(known, seen), later).active
    assert merge(instance_of(later), ended(known, seen)).active


def test_an_end_is_placed_a_skew_before_the_hub_was_written() -> None:
    finished = closed(record(started=-60), sighting(status=COMPLETED, updated=-5)).finished
    assert finished == Finished(at(-6), COMPLETED, "", "ProcessOrder", Source.PROBE)


def test_an_end_is_placed_no_earlier_than_the_start_that_it_ends() -> None:
    finished = closed(record(started=-5.5), sighting(status=RuntimeStatus.TERMINATED, updated=-5)).finished
    assert finished == Finished(at(-5.5), RuntimeStatus.TERMINATED, "", "ProcessOrder", Source.PROBE)


def test_an_instance_that_is_gone_counts_as_canceled_at_its_start() -> None:
    finished = closed(record(started=-60), None).finished
    assert finished == Finished(at(-60), RuntimeStatus.CANCELED, GONE, "ProcessOrder", Source.PROBE)


def test_the_event_of_the_end_still_tells_when_and_how_it_ended() -> None:
    known = closed(record(started=-60), sighting(status=COMPLETED, updated=-5))
    failed = apply(known, event(RuntimeStatus.FAILED, at(-5.1), reason="out of stock"))
    assert failed.finished == Finished(at(-5.1), RuntimeStatus.FAILED, "out of stock", "ProcessOrder", Source.EVENT)


def test_the_evidence_of_a_probe_comes_from_a_probe() -> None:
    assert closed(record(started=-60), None).source is Source.PROBE
    assert opened(record(finished=-60), sighting()).source is Source.PROBE


# The start that events missed


@given(RECORDS, ACTIVE, TIMES)
def test_nothing_was_missed_exactly_if_the_records_show_the_instance_active_under_its_name(
    known: Instance, seen: Sighting, now: Instant
) -> None:
    same_name = seen.function_name in ("", known.function_name)
    assert (missed(known, seen, now) is None) is (known.active and same_name)


@given(RECORDS, ACTIVE, TIMES)
def test_what_runs_under_another_name_than_the_records_say_is_recorded_once_under_its_own(
    known: Instance, seen: Sighting, now: Instant
) -> None:
    """The other may be one that the policy ignores."""
    evidence = missed(known, seen, now)
    if evidence is None:
        return
    once = merge(known, evidence)
    assert once.active
    assert seen.function_name in ("", once.function_name)
    assert missed(once, seen, now) is None


@given(QUIET, ACTIVE, TIMES)
def test_an_instance_is_active_after_the_start_that_the_hub_shows(
    known: Instance | None, seen: Sighting, now: Instant
) -> None:
    after = opened(known, seen, now)
    assert after.active
    assert after.runtime_status is seen.runtime_status
    assert after.source is Source.PROBE


@given(QUIET, ACTIVE, TIMES)
def test_the_start_that_the_hub_shows_is_recorded_once(known: Instance | None, seen: Sighting, now: Instant) -> None:
    evidence = missed(known, seen, now)
    assert evidence is not None
    once = opened(known, seen, now)
    assert merge(once, evidence) == once
    assert missed(once, seen, now) is None


@given(QUIET, ACTIVE, TIMES, EVENTS, st.data())
def test_it_never_shows_when_the_start_that_the_hub_shows_was_recorded(
    known: Instance | None, seen: Sighting, now: Instant, events: list[LifecycleEvent], data: st.DataObject
) -> None:
    evidence = [one for one in (known, missed(known, seen, now)) if one is not None]
    evidence += map(instance_of, events)
    shuffled = data.draw(st.permutations(evidence), label="as recorded")
    assert reduce(merge, shuffled) == reduce(merge, evidence)


@given(ENDS, ACTIVE, TIMES, events_of(ENDED_STATUSES))
def test_any_end_later_than_the_one_known_ends_what_the_hub_has_shown(
    finished: Finished, seen: Sighting, now: Instant, end: LifecycleEvent
) -> None:
    known = opened(Instance("order-1", finished=finished), seen, now)
    assert apply(known, end).active is (end.occurred_at <= finished.at)


@given(ACTIVE, TIMES, events_of(ENDED_STATUSES))
def test_any_end_later_than_its_creation_ends_what_only_the_hub_has_shown(
    seen: Sighting, now: Instant, end: LifecycleEvent
) -> None:
    assert apply(opened(None, seen, now), end).active is (end.occurred_at < min(seen.created_at, now))


def test_an_instance_without_a_record_started_when_it_was_created() -> None:
    seen = sighting("lost", "ShipOrder", RuntimeStatus.PENDING, created=-60)
    assert missed(None, seen, at()) == Instance(
        "lost", Started(at(-60), RuntimeStatus.PENDING, "ShipOrder", Source.PROBE)
    )


def test_an_instance_never_started_ahead_of_the_clock() -> None:
    evidence = missed(None, sighting(created=5), at())
    assert evidence == Instance("order-1", Started(at(), RUNNING, "ProcessOrder", Source.PROBE))


@pytest.mark.parametrize("created", [-3600, -5, 5])
def test_an_instance_that_ended_before_was_started_again_right_after_that(created: float) -> None:
    known = record(started=-60, finished=-30)
    evidence = missed(known, sighting(created=created), at())
    assert evidence is not None
    assert evidence.started == Started(Instant(at(-30) + 1), RUNNING, "ProcessOrder", Source.PROBE)
    assert evidence.finished == known.finished


def test_the_event_of_a_missed_start_still_tells_when_it_was() -> None:
    started = apply(opened(record(finished=-60), sighting()), event(RUNNING, at(-5))).started
    assert started == start(-5)


def test_an_entity_is_never_active_whatever_a_probe_shows() -> None:
    entity = sighting("@counter@order-1")
    known = opened(None, entity)
    assert not known.active
    assert not opened(known, entity).active
    assert not closed(known, None).active


# Looking again and again


def looked_up(known: Instance | None, seen: Sighting, now: Instant) -> Instance | None:
    """The record after a look at the hub."""
    if known is not None and known.active:
        assert known.started is not None
        return known if standing(known.started, seen) is Standing.ACTIVE else closed(known, seen)
    if not seen.active:
        return known
    return opened(known, seen, now)


@given(
    st.lists(st.integers(1, 2 * SKEW), min_size=1, max_size=8),
    st.lists(st.integers(-SKEW, SKEW), min_size=8, max_size=8),
    st.data(),
)
def test_whatever_events_were_lost_or_late_a_look_at_the_hub_sets_the_record_right(
    gaps: list[int], skews: list[int], data: st.DataObject
) -> None:
    """The hub starts and ends an instance in turns; workers whose clocks differ publish some of that."""
    moments = list(accumulate(gaps, initial=int(NOON)))[1:]
    rows = [
        replace(sighting(), runtime_status=COMPLETED if turn % 2 else RUNNING, updated_at=Instant(moment))
        for turn, moment in enumerate(moments)
    ]
    published = [
        event(row.runtime_status, Instant(row.updated_at + skew)) for row, skew in zip(rows, skews, strict=False)
    ]
    known: Instance | None = None
    for turn, row in enumerate(rows):
        for arrived in data.draw(st.lists(st.sampled_from(published[: turn + 1]), max_size=3), label="arrived"):
            known = apply(known, arrived)
        if turn == len(rows) - 1 or data.draw(st.booleans(), label="looked"):
            known = looked_up(known, row, row.updated_at)
            assert (known is not None and known.active) is row.active
