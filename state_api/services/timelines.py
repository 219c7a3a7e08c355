"""What operators read of the timeline of a task hub: starts and ends by time and function."""

from collections.abc import Sequence
from dataclasses import dataclass

from state_api.domain.errors import InvalidRequest
from state_api.domain.instants import Instant
from state_api.domain.releases import refusals
from state_api.domain.task_hubs.timeline import (
    TIMELINE_MINUTES,
    Minute,
    Timeline,
    TimelinePoint,
    instant_of_minute,
    minute_of,
)
from state_api.services.ports import Clock, Instances, TaskHubs

MAX_POINTS = 20_000
"""Points of one answer, about 5 MB."""
_DEFAULT_MINUTES = 60


@dataclass(frozen=True, slots=True)
class TimelineQuery:
    """Which part of a timeline to read. Without `begins_at` it is the hour before `ends_at`, and without `ends_at` it
    ends now. Points are periods of `step_minutes`. An empty `function_name` is the name of a function, None is all."""

    begins_at: Instant | None = None
    ends_at: Instant | None = None
    step_minutes: int = 1
    function_name: str | None = None


@dataclass(frozen=True, slots=True)
class TimelinePart:
    """A part of the timeline of a task hub, in whole minutes. `ends_at` is the end of the last minute."""

    task_hub: str
    begins_at: Instant
    ends_at: Instant
    step_minutes: int
    points: Sequence[TimelinePoint]


class TimelineReader:
    """Reads timelines for people. None of its methods changes anything."""

    def __init__(self, task_hubs: TaskHubs, instances: Instances, clock: Clock) -> None:
        self._task_hubs = task_hubs
        self._instances = instances
        self._clock = clock

    async def read(self, task_hub: str, query: TimelineQuery) -> TimelinePart:
        """The points of a task hub, those of the last 48 hours at most. Raises TaskHubNotFound, and InvalidRequest for
        a period that is empty or has too many points."""
        record = await self._task_hubs.get(task_hub)
        if record is None:
            raise refusals.task_hub_not_found(task_hub).to_error()
        first_minute, end_minute = _choose_minutes(query, self._clock.now())
        timeline = await self._instances.read_timeline(record, first_minute, end_minute)
        if query.function_name is not None:
            timeline = Timeline(
                {key: count for key, count in timeline.counts.items() if key.function_name == query.function_name}
            )
        points = timeline.points(first_minute=first_minute, step_minutes=query.step_minutes)
        if len(points) > MAX_POINTS:
            raise InvalidRequest(
                f"the timeline has {len(points)} points, and an answer has at most {MAX_POINTS}: ask for a longer "
                "step, a shorter time, or one function"
            )
        return TimelinePart(
            record.name, instant_of_minute(first_minute), instant_of_minute(end_minute), query.step_minutes, points
        )


def _choose_minutes(query: TimelineQuery, now: Instant) -> tuple[Minute, Minute]:
    """The first minute of the query, and the minute after its last one. Raises InvalidRequest."""
    this_minute = minute_of(now)
    end_minute = this_minute + 1
    if query.ends_at is not None:
        # A minute that has begun by then belongs to it.
        end_minute = min(end_minute, -minute_of(Instant(-query.ends_at)))
    first_minute = end_minute - _DEFAULT_MINUTES if query.begins_at is None else minute_of(query.begins_at)
    first_minute = max(first_minute, this_minute - TIMELINE_MINUTES)
    if first_minute >= end_minute:
        raise InvalidRequest("from must be a time before to, and both in the last 48 hours")
    return first_minute, end_minute
