"""Records, observations and events of one instance for tests of reconciliation, and strategies of these."""

from functools import reduce

from hypothesis import strategies as st

from state_api.domain.instants import Instant
from state_api.domain.task_hubs.lifecycle import (
    ACTIVE_STATUSES,
    ENDED_STATUSES,
    EvidenceSource,
    Finished,
    Instance,
    LifecycleEvent,
    RuntimeStatus,
    Started,
    instance_from_event,
    merge_instances,
)
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.reconciliation import (
    CLOCK_SKEW,
    reconcile_end,
    reconcile_start,
)
from tests.domain.builders import NOON, build_lifecycle_event, noon_plus

BACKEND_ID = "managementApi at its address"
RUNNING = RuntimeStatus.RUNNING
COMPLETED = RuntimeStatus.COMPLETED
TIMES_AROUND_NOON = st.builds(
    lambda skews, ticks: Instant(NOON + skews * CLOCK_SKEW + ticks), st.integers(-3, 3), st.integers(-1, 1)
)
"""Few times, so that two of them often differ by exactly the clock skew, or by a tick more or less."""
NAMES = st.sampled_from(["", "ProcessOrder", "ShipOrder"])


def build_event_strategy(statuses: frozenset[RuntimeStatus]) -> st.SearchStrategy[LifecycleEvent]:
    """Events with one of these statuses, at times around noon."""
    return st.builds(build_lifecycle_event, st.sampled_from(sorted(statuses)), TIMES_AROUND_NOON, function_name=NAMES)


def build_observation_strategy(statuses: frozenset[RuntimeStatus]) -> st.SearchStrategy[ObservedInstance]:
    """Instances as a backend shows them, with one of these statuses, created and updated around noon."""
    return st.builds(
        ObservedInstance,
        instance_id=st.just("order-1"),
        function_name=NAMES,
        version=st.none(),
        runtime_status=st.sampled_from(sorted(statuses)),
        created_at=TIMES_AROUND_NOON,
        updated_at=TIMES_AROUND_NOON,
        stamp=st.just("any"),
    )


STARTS = st.builds(
    Started, TIMES_AROUND_NOON, st.sampled_from(sorted(ACTIVE_STATUSES)), NAMES, st.sampled_from(EvidenceSource)
)
ENDS = st.builds(
    Finished,
    TIMES_AROUND_NOON,
    st.sampled_from(sorted(ENDED_STATUSES)),
    st.just(""),
    NAMES,
    st.sampled_from(EvidenceSource),
)
STARTED = st.builds(Instance, st.just("order-1"), STARTS, st.none() | ENDS)
"""Records with a start, active or not."""
RECORDS = STARTED | st.builds(Instance, st.just("order-1"), st.none(), ENDS)
NOT_ACTIVE_OR_UNKNOWN = st.none() | RECORDS.filter(lambda known: not known.active)
"""Records of an instance that is not active, or no record."""
EVENTS = st.lists(build_event_strategy(frozenset(RuntimeStatus)), max_size=5)
OBSERVED_ACTIVE = build_observation_strategy(ACTIVE_STATUSES)
OBSERVED_ENDED = build_observation_strategy(ENDED_STATUSES)


def build_start(offset: float = 0, source: EvidenceSource = EvidenceSource.EVENT) -> Started:
    return Started(noon_plus(offset), RUNNING, "ProcessOrder", source)


def build_record(started: float | None = None, finished: float | None = None) -> Instance:
    """The record of an instance after events at these times, in seconds after noon."""
    events = [] if started is None else [build_lifecycle_event(RUNNING, noon_plus(started))]
    events += [] if finished is None else [build_lifecycle_event(COMPLETED, noon_plus(finished))]
    return reduce(merge_instances, map(instance_from_event, events))


def record_observed_end(instance: Instance, seen: ObservedInstance | None) -> Instance:
    """Record the end of an instance that a probe has observed. Returns the record after it."""
    return merge_instances(instance, reconcile_end(instance, seen))


def record_observed_start(instance: Instance | None, seen: ObservedInstance, now: Instant = NOON) -> Instance:
    """Record the start of an instance that a probe has observed. Returns the record after it."""
    start = reconcile_start(instance, seen, now)
    assert start is not None
    return start if instance is None else merge_instances(instance, start)
