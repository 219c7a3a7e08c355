"""Responses with the timeline of a task hub."""

from pydantic import Field

from state_api.domain.instants import format_instant
from state_api.domain.task_hubs.timeline import OutcomeCounts, TimelinePoint, instant_of_minute
from state_api.http.responses.base import ResponseModel, Timestamp
from state_api.services.timelines import TimelinePart


class CohortResponse(ResponseModel):
    active: int = Field(description="Those that have not ended.")
    completed: int
    failed: int
    terminated: int
    canceled: int

    @classmethod
    def of(cls, active: int, ends: OutcomeCounts) -> "CohortResponse":
        """What has become of the instances that started in the same period."""
        return cls(
            active=active,
            completed=ends.completed,
            failed=ends.failed,
            terminated=ends.terminated,
            canceled=ends.canceled,
        )


class TimelinePointResponse(ResponseModel):
    at: Timestamp = Field(description="When the period begins.")
    function_name: str
    started: int
    completed: int
    failed: int
    terminated: int
    canceled: int
    cohort: CohortResponse = Field(
        description="What has become of the instances that started in this period, by the time of the request."
    )

    @classmethod
    def of(cls, point: TimelinePoint) -> "TimelinePointResponse":
        """What one function did in one period."""
        return cls(
            at=format_instant(instant_of_minute(point.minute)),
            function_name=point.function_name,
            started=point.started,
            completed=point.ends.completed,
            failed=point.ends.failed,
            terminated=point.ends.terminated,
            canceled=point.ends.canceled,
            cohort=CohortResponse.of(point.cohort_active, point.cohort_ends),
        )


class TimelineResponse(ResponseModel):
    task_hub: str
    # A member cannot be named `from` in Python.
    begins_at: Timestamp = Field(
        validation_alias="from", serialization_alias="from", description="The beginning of the first minute."
    )
    ends_at: Timestamp = Field(
        validation_alias="to", serialization_alias="to", description="The end of the last minute."
    )
    step_minutes: int
    points: list[TimelinePointResponse] = Field(
        description="By time and then by function. Periods in which a function neither started nor ended are left out."
    )

    @classmethod
    def of(cls, part: TimelinePart) -> "TimelineResponse":
        """The points of a part of the timeline."""
        return cls(
            task_hub=part.task_hub,
            begins_at=format_instant(part.begins_at),
            ends_at=format_instant(part.ends_at),
            step_minutes=part.step_minutes,
            points=[TimelinePointResponse.of(point) for point in part.points],
        )
