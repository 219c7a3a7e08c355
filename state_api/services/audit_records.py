"""Entries of an app's audit log."""

from state_api.domain.releases.apps import App, Transition
from state_api.domain.releases.commands import Command
from state_api.services.ports import AuditRecord


def build_audit_record(app: App, transition: Transition, command: Command) -> AuditRecord:
    """The entry of the audit log about this transition."""
    return AuditRecord(
        revision=app.revision,
        at=app.updated_at,
        operation=transition.operation,
        by=command.caller.name,
        run_url=command.caller.run_url,
        key_name=command.caller.key_name,
        reason=command.reason,
        details=transition.details,
    )
