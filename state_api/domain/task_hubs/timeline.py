"""The timeline of a task hub: how many instances started and ended, by minute and function. A fold over the records.

Each instance counts for one start and at most one end: those of its latest life. So a duplicate counts nothing, and an
instance that continues as new counts once, although the extension publishes an end and a start for each generation.
When a record changes, the counts change by the difference of what it counts after and before (`count_change`). The sum
of these differences is what the final records count. It does not depend on the order of the events, nor on the servers
that recorded them.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import floor, log2
from typing import TypeVar

from state_api.domain.instants import TICKS_PER_SECOND, Instant
from state_api.domain.names import is_entity, matches_function_pattern
from state_api.domain.task_hubs.lifecycle import Finished, Instance, RuntimeStatus, Started

Minute = int
"""Whole minutes since 1970-01-01T00:00Z."""

TIMELINE_MINUTES = 48 * 60
"""How far back the timeline is shown."""

_TICKS_PER_MINUTE = 60 * TICKS_PER_SECOND
_TICKS_PER_MILLISECOND = TICKS_PER_SECOND // 1000

BINS_PER_DOUBLING = 4
"""Bins between a duration and its double, so a bin is 19 % wide."""


class Outcome(StrEnum):
    """How an instance ended, as counters name it."""

    COMPLETED = "completed"
    FAILED = "failed"
    TERMINATED = "terminated"
    CANCELED = "canceled"


_OUTCOMES = {
    RuntimeStatus.COMPLETED: Outcome.COMPLETED,
    RuntimeStatus.FAILED: Outcome.FAILED,
    RuntimeStatus.TERMINATED: Outcome.TERMINATED,
    RuntimeStatus.CANCELED: Outcome.CANCELED,
}

STARTED = "started"
"""The counter of starts. An outcome is the counter of these ends."""
_COHORT = "cohort"
"""The first part of a counter of the cohort: of ends that are counted under the minute of their start. The outcome and
the bin of the duration follow. For failures, the minutes from the start to the end follow, too."""


@dataclass(frozen=True, slots=True, order=True)
class CounterKey:
    """What a number counts: `started`, an outcome, `cohort.<outcome>.<bin>` or `cohort.failed.<bin>.<minutes>`, of one
    function in one minute."""

    minute: Minute
    function_name: str
    counter: str


def minute_of(at: Instant) -> Minute:
    """The minute in which a time is."""
    return at // _TICKS_PER_MINUTE


def instant_of_minute(minute: Minute) -> Instant:
    """The time at which a minute begins."""
    return Instant(minute * _TICKS_PER_MINUTE)


def duration_bin(ticks: int) -> int:
    """The bin of a duration: 0 begins at 1 ms, and 40 at 1.024 s."""
    return floor(BINS_PER_DOUBLING * log2(max(1, ticks // _TICKS_PER_MILLISECOND)))


def count_instance(instance: Instance) -> dict[CounterKey, int]:
    """What the record of an instance counts. Entities are no orchestrations, and count nothing. An end that is not
    later than the latest start belongs to an earlier life of the instance id, and does not count."""
    if is_entity(instance.instance_id):
        return {}
    counters: list[tuple[Minute, str]] = []
    started, finished = instance.started, instance.finished
    if started is not None:
        counters.append((minute_of(started.at), STARTED))
    if finished is not None and not instance.active:
        counters.append((minute_of(finished.at), _OUTCOMES[finished.outcome]))
        if started is not None:
            counters.append((minute_of(started.at), _cohort_counter(started, finished)))
    return {CounterKey(minute, instance.function_name, counter): 1 for minute, counter in counters}


def _cohort_counter(started: Started, finished: Finished) -> str:
    """The counter of this end under the minute of its start."""
    outcome = _OUTCOMES[finished.outcome]
    counter = f"{_COHORT}.{outcome}.{duration_bin(finished.at - started.at)}"
    if outcome is Outcome.FAILED:
        counter += f".{minute_of(finished.at) - minute_of(started.at)}"
    return counter


def count_change(before: Instance | None, after: Instance) -> dict[CounterKey, int]:
    """By how much each counter changes when the record of an instance changes. Counters that stay are left out."""
    changes = Counter(count_instance(after))
    if before is not None:
        changes.subtract(count_instance(before))
    return {key: change for key, change in changes.items() if change}


@dataclass(frozen=True, slots=True)
class Cohort:
    """The instances that started within a period, and what has become of them.

    - `started`: how many started, by minute.
    - `failures`: how many failed, by the minute of their start and the minute of their end.
    - `completed`, `terminated`, `canceled`: how many ended otherwise.
    - `duration_counts`: how many ended, with any outcome, by the bin of their duration (`duration_bin`).
    """

    started: Mapping[Minute, int]
    failures: Mapping[tuple[Minute, Minute], int]
    completed: int
    terminated: int
    canceled: int
    duration_counts: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """How many instances ended, by outcome."""

    completed: int = 0
    failed: int = 0
    terminated: int = 0
    canceled: int = 0

    @property
    def total(self) -> int:
        """How many instances ended."""
        return self.completed + self.failed + self.terminated + self.canceled


@dataclass(frozen=True, slots=True)
class TimelinePoint:
    """What one function did in the minutes from `minute` on.

    `ends` are the ends within these minutes. `cohort_ends` are the ends, at any time, of the instances that started
    within them."""

    minute: Minute
    function_name: str
    started: int
    ends: OutcomeCounts
    cohort_ends: OutcomeCounts

    @property
    def cohort_active(self) -> int:
        """How many of the instances that started within these minutes have not ended."""
        return self.started - self.cohort_ends.total


@dataclass(frozen=True, slots=True)
class Timeline:
    """The counters of a task hub, added up over all servers. Those that are 0 are left out."""

    counts: Mapping[CounterKey, int]

    @property
    def is_consistent(self) -> bool:
        """Whether these can be the counts of records: no counter is negative, and no more instances have ended than
        started. They may not be if a record has changed between two reads of its counters."""
        active: Counter[tuple[Minute, str]] = Counter()
        for key, count in self.counts.items():
            if count < 0:
                return False
            if key.counter == STARTED:
                active[key.minute, key.function_name] += count
            elif key.counter not in _END_COUNTERS:
                active[key.minute, key.function_name] -= count
        return all(count >= 0 for count in active.values())

    def points(self, *, first_minute: Minute, step_minutes: int) -> list[TimelinePoint]:
        """The counts by periods of `step_minutes`, one of which begins at `first_minute`, and by function, in this
        order. Periods and functions without a count are left out."""
        started: Counter[tuple[Minute, str]] = Counter()
        ends: dict[tuple[Minute, str], Counter[str]] = defaultdict(Counter)
        cohort_ends: dict[tuple[Minute, str], Counter[str]] = defaultdict(Counter)
        for key, count in self.counts.items():
            place = key.minute - (key.minute - first_minute) % step_minutes, key.function_name
            if key.counter == STARTED:
                started[place] += count
            elif key.counter in _END_COUNTERS:
                ends[place][key.counter] += count
            else:
                cohort_ends[place][_parse_cohort_counter(key.counter).outcome] += count
        return [
            TimelinePoint(*place, started[place], OutcomeCounts(**ends[place]), OutcomeCounts(**cohort_ends[place]))
            for place in sorted({*started, *ends, *cohort_ends})
        ]

    def cohort(self, first_minute: Minute, end_minute: Minute, ignore_functions: Collection[str]) -> Cohort:
        """What has become of the instances that started from `first_minute` on and before `end_minute`. Functions that
        match a pattern of `ignore_functions` do not count, as in a verdict."""
        started: Counter[Minute] = Counter()
        failures: Counter[tuple[Minute, Minute]] = Counter()
        outcomes: Counter[Outcome] = Counter()
        durations: Counter[int] = Counter()
        for key, count in self.counts.items():
            if not first_minute <= key.minute < end_minute:
                continue
            if matches_function_pattern(key.function_name, ignore_functions):
                continue
            if key.counter == STARTED:
                started[key.minute] += count
            elif key.counter not in _END_COUNTERS:
                end = _parse_cohort_counter(key.counter)
                outcomes[end.outcome] += count
                durations[end.duration_bin] += count
                if end.outcome is Outcome.FAILED:
                    failures[key.minute, key.minute + end.minutes] += count
        return Cohort(
            started=_without_zeros(started),
            failures=_without_zeros(failures),
            completed=outcomes[Outcome.COMPLETED],
            terminated=outcomes[Outcome.TERMINATED],
            canceled=outcomes[Outcome.CANCELED],
            duration_counts=_without_zeros(durations),
        )


_END_COUNTERS = frozenset(Outcome)


def add_up_counts(parts: Iterable[Mapping[CounterKey, int]]) -> Timeline:
    """The sums of counters of several servers and shards."""
    sums: Counter[CounterKey] = Counter()
    for part in parts:
        sums.update(part)
    return Timeline(_without_zeros(sums))


@dataclass(frozen=True, slots=True)
class _CohortEnd:
    """What the counter of a cohort counts. `minutes` is known of failures only."""

    outcome: Outcome
    duration_bin: int
    minutes: int


def _parse_cohort_counter(counter: str) -> _CohortEnd:
    """What a counter that `_cohort_counter` has named counts."""
    _, outcome, number, *minutes = counter.split(".")
    return _CohortEnd(Outcome(outcome), int(number), int(minutes[0]) if minutes else 0)


_Key = TypeVar("_Key")


def _without_zeros(counts: Mapping[_Key, int]) -> dict[_Key, int]:
    return {key: count for key, count in counts.items() if count}
