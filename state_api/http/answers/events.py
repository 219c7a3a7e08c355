"""What became of a delivery, and what is in quarantine."""

from typing import Literal

from pydantic import Field

from state_api.domain.instants import format_instant
from state_api.http.answers.shapes import Given, Time
from state_api.services.ports import Purged, Quarantined
from state_api.services.recording import Recorded


class RecordedAnswer(Given):
    recorded: int = Field(description="Events that changed something.")
    unchanged: int = Field(description="Events that added nothing: duplicates and older ones.")
    quarantined: int = Field(description="Events that went to quarantine; ListQuarantine shows them.")

    @classmethod
    def of(cls, recorded: Recorded) -> "RecordedAnswer":
        return cls(recorded=recorded.recorded, unchanged=recorded.unchanged, quarantined=recorded.quarantined)


class QuarantinedAnswer(Given):
    received_at: Time
    code: str
    message: str
    source: Literal["webhook", "trigger"]
    event: str = Field(description="What came in, as JSON text.")
    truncated: bool

    @classmethod
    def of(cls, quarantined: Quarantined) -> "QuarantinedAnswer":
        return cls(
            received_at=format_instant(quarantined.received_at),
            code=quarantined.code,
            message=quarantined.message,
            source="trigger" if quarantined.source == "trigger" else "webhook",
            event=quarantined.event,
            truncated=quarantined.truncated,
        )


class QuarantineAnswer(Given):
    events: list[QuarantinedAnswer]
    continuation_token: str | None


class PurgedResponse(Given):
    removed: int = Field(description="Events that this call removed.")
    more: bool = Field(description="There may be more to remove: send the request again.")

    @classmethod
    def of(cls, purged: Purged) -> "PurgedResponse":
        return cls(removed=purged.removed, more=purged.more)
