"""Responses about deliveries of events, and about events in quarantine."""

from typing import Literal

from pydantic import Field

from state_api.domain.instants import format_instant
from state_api.http.responses.base import ResponseModel, Timestamp
from state_api.services.ports import PurgeResult, QuarantinedEvent
from state_api.services.recording import RecordingResult


class DeliveryResponse(ResponseModel):
    recorded: int = Field(description="Events that changed a record.")
    unchanged: int = Field(description="Events that changed nothing, such as duplicates.")
    quarantined: int = Field(description="Events in quarantine; ListQuarantine lists them.")

    @classmethod
    def of(cls, result: RecordingResult) -> "DeliveryResponse":
        """How many events of a delivery were recorded, changed nothing, or went to quarantine."""
        return cls(recorded=result.recorded, unchanged=result.unchanged, quarantined=result.quarantined)


class QuarantinedEventResponse(ResponseModel):
    received_at: Timestamp
    code: str
    message: str
    endpoint_type: Literal["webhook", "trigger"]
    event: str = Field(description="The event as JSON text.")
    truncated: bool

    @classmethod
    def of(cls, quarantined: QuarantinedEvent) -> "QuarantinedEventResponse":
        """An event that was not recorded, and why."""
        return cls(
            received_at=format_instant(quarantined.received_at),
            code=quarantined.code,
            message=quarantined.message,
            endpoint_type="trigger" if quarantined.endpoint_type == "trigger" else "webhook",
            event=quarantined.event,
            truncated=quarantined.truncated,
        )


class QuarantineResponse(ResponseModel):
    events: list[QuarantinedEventResponse]
    continuation_token: str | None


class PurgeResponse(ResponseModel):
    removed: int = Field(description="The number of events that this request removed.")
    has_more: bool = Field(description="Whether more events may match: then send the request again.")

    @classmethod
    def of(cls, result: PurgeResult) -> "PurgeResponse":
        """How many events were removed from quarantine, and whether older ones are left."""
        return cls(removed=result.removed, has_more=result.has_more)
