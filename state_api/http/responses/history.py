"""What was done: cleanups, and the audit log."""

from typing import Any

from pydantic import Field

from state_api.domain.instants import format_instant
from state_api.http.responses.apps import AppResponse
from state_api.http.responses.base import ResponseModel, Timestamp
from state_api.http.responses.verdicts import ReasonResponse
from state_api.services.cleanup import CleanupOutcome, CleanupResult
from state_api.services.ports import AuditRecord


class TaskHubCleanupResponse(ResponseModel):
    task_hub: str
    version: str | None
    retired_at: Timestamp
    outcome: CleanupOutcome
    reasons: list[ReasonResponse]
    artifacts: list[str] = Field(description="What was, or with dryRun would be, deleted at the provider.")
    shared: list[str] = Field(description="What stays at the provider because other task hubs use it.")
    message: str | None

    @classmethod
    def of(cls, done: CleanupResult) -> "TaskHubCleanupResponse":
        return cls(
            task_hub=done.retired_hub.task_hub,
            version=done.retired_hub.version,
            retired_at=format_instant(done.retired_hub.retired_at),
            outcome=done.outcome,
            reasons=[ReasonResponse(code=reason.code, message=reason.message) for reason in done.reasons],
            artifacts=list(done.artifacts),
            shared=list(done.shared),
            message=done.message,
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
    def of(cls, audit: AuditRecord) -> "AuditRecordResponse":
        return cls(
            revision=audit.revision,
            at=format_instant(audit.at),
            operation=audit.operation,
            by=audit.by,
            run_url=audit.run_url,
            key_name=audit.key_name,
            reason=audit.reason,
            details=dict(audit.details),
        )


class HistoryResponse(ResponseModel):
    app: str
    history: list[AuditRecordResponse]
    continuation_token: str | None
