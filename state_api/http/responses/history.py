"""Responses of Cleanup and of the audit log."""

from typing import Any

from pydantic import Field

from state_api.domain.instants import format_instant
from state_api.http.responses.apps import AppResponse
from state_api.http.responses.base import ResponseModel, Timestamp
from state_api.http.responses.verdicts import ReasonResponse
from state_api.services.cleanup_results import CleanupOutcome, CleanupResult
from state_api.services.ports import AuditRecord


class TaskHubCleanupResponse(ResponseModel):
    task_hub: str
    version: str | None
    retired_at: Timestamp
    outcome: CleanupOutcome
    reasons: list[ReasonResponse]
    artifacts: list[str] = Field(description="Artifacts at the provider that were deleted, or would be without dryRun.")
    shared: list[str] = Field(description="Artifacts at the provider that are kept because other task hubs use them.")
    message: str | None

    @classmethod
    def of(cls, result: CleanupResult) -> "TaskHubCleanupResponse":
        """What Cleanup did with one retired task hub."""
        return cls(
            task_hub=result.retired_hub.task_hub,
            version=result.retired_hub.version,
            retired_at=format_instant(result.retired_hub.retired_at),
            outcome=result.outcome,
            reasons=[ReasonResponse(code=reason.code, message=reason.message) for reason in result.reasons],
            artifacts=list(result.artifacts),
            shared=list(result.shared),
            message=result.message,
        )


class CleanupResponse(ResponseModel):
    app: AppResponse
    dry_run: bool
    task_hubs: list[TaskHubCleanupResponse]


class AuditRecordResponse(ResponseModel):
    revision: int
    at: Timestamp
    operation: str
    by: str
    run_url: str | None
    key_name: str | None
    reason: str | None
    details: dict[str, Any]

    @classmethod
    def of(cls, record: AuditRecord) -> "AuditRecordResponse":
        """One change of the app in its audit log."""
        return cls(
            revision=record.revision,
            at=format_instant(record.at),
            operation=record.operation,
            by=record.by,
            run_url=record.run_url,
            key_name=record.key_name,
            reason=record.reason,
            details=dict(record.details),
        )


class HistoryResponse(ResponseModel):
    app: str
    history: list[AuditRecordResponse]
    continuation_token: str | None
