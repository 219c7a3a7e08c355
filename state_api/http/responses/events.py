"""What became of a delivery, and what is in quarantine."""

from typing import Literal

from pydantic import Field

from state_api.domain.instants import format_instant
from state_api.http.responses.base import ResponseModel, Timestamp
from state_api.services.ports import PurgeResult, QuarantinedEvent
from state_api.services.recording import RecordingResult


class DeliveryResponse(ResponseModel):
    recorded: int = Field(description="Events that changed something.")
    unchanged: int = Field(description="Events that added nothing: duplicates and older ones.")
    quarantined: int = Field(description="Events that went to quarantine; ListQuarantine shows them.")

    @classmethod
    def of(cls, recorded: RecordingResult) -> "DeliveryResponse":
        return cls(recorded=recorded.recorded, unchanged=recorded.unchanged, quarantined=recorded.quarantined)


class QuarantinedEventResponse(ResponseModel):
    received_at: Timestamp
    code: str
    message: str
    endpoint_type: Literal["webhook", "trigger"]
    event: str = Field(description="What came in, as JSON text.")
    truncated: bool

    @classmethod
    def of(cls, quarantined: QuarantinedEvent) -> "QuarantinedEventResponse":
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
    removed: int = Field(description="Events that this call removed.")
    has_more: bool = Field(description="There may be more to remove: send the request again.")

    @classmethod
    def of(cls, purged: PurgeResult) -> "PurgeResponse":
        return cls(removed=purged.removed, has_more=purged.has_more)
