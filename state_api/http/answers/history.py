"""What was done: cleanups, and the audit log."""

from typing import Any

from pydantic import Field

from state_api.domain.instants import format_instant
from state_api.http.answers.apps import AppAnswer
from state_api.http.answers.shapes import Given, Time
from state_api.http.answers.verdicts import ReasonAnswer
from state_api.services.cleanup import CleanedUp, Outcome
from state_api.services.ports import AuditRecord


class CleanedUpAnswer(Given):
    task_hub: str
    version: str | None
    retired_at: Time
    outcome: Outcome
    reasons: list[ReasonAnswer]
    artifacts: list[str] = Field(description="What was, or with dryRun would be, deleted at the provider.")
    shared: list[str] = Field(description="What stays at the provider because other task hubs use it.")
    message: str | None

    @classmethod
    def of(cls, done: CleanedUp) -> "CleanedUpAnswer":
        return cls(
            task_hub=done.hub.task_hub,
            version=done.hub.version,
            retired_at=format_instant(done.hub.retired_at),
            outcome=done.outcome,
            reasons=[ReasonAnswer(code=reason.code, message=reason.message) for reason in done.reasons],
            artifacts=list(done.artifacts),
            shared=list(done.shared),
            message=done.message,
        )


class CleanupAnswer(Given):
    app: AppAnswer
    dry_run: bool
    task_hubs: list[CleanedUpAnswer]


class AuditAnswer(Given):
    revision: int
    at: Time
    operation: str
    by: str
    run_url: str | None
    key_name: str | None
    reason: str | None
    details: dict[str, Any]

    @classmethod
    def of(cls, audit: AuditRecord) -> "AuditAnswer":
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


class HistoryAnswer(Given):
    app: str
    history: list[AuditAnswer]
    continuation_token: str | None
