"""Whether verdicts on the task hub that gets new work rest on events and on reads of the task hub."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from safe_deploy.azure_state_server import AzureStateServer
from safe_deploy.client import Json
from safe_deploy.diagnostics.results import CheckResult, CheckStatus
from safe_deploy.diagnostics.roles import plan_roles
from safe_deploy.errors import CommandError
from safe_deploy.next_steps import format_reason, format_reasons
from safe_deploy.rendering import format_age

_FAILED_EVIDENCE_REASONS = frozenset({"ProbeFailed", "ProbeDenied", "TaskHubMissing", "VerificationRequired"})


@dataclass(frozen=True, slots=True)
class EvidenceHints:
    """How an administrator configures the app's provider, and requires verification: the ends of two sentences."""

    configure_provider: str
    require_verification: str


def check_evidence(
    app: Json,
    task_hub: str,
    get_verdict: Callable[[str], Json],
    *,
    hints: EvidenceHints,
    now: datetime,
    state_server: AzureStateServer | None,
) -> Iterator[CheckResult]:
    """Check whether the server receives events of a task hub, and whether it can read the task hub.

    `get_verdict` returns the verdict on it, for a way to verify. `state_server` is None if Azure may not be asked.
    """
    try:
        verdict = get_verdict("cached")
    except CommandError as error:
        yield CheckResult("events", CheckStatus.FAILED, error.message, error.exit_code)
        return
    yield _check_events(verdict, task_hub, is_verified=app["taskHubs"] is not None, now=now)
    verification = _check_verification(app, verdict, hints)
    if any(reason["code"] == "ProbeDenied" for reason in verdict["reasons"]):
        verification = _add_role_repair(verification, app, get_verdict, hints, state_server)
    yield verification
    for warning in verdict.get("warnings", []):
        if warning["code"] != "EventsOnly":  # part of the check of the verification
            check = "messages" if warning["code"] == "MessagesUnseen" else f"warning {warning['code']}"
            yield CheckResult(check, CheckStatus.WARNING, warning["message"])


def _add_role_repair(
    result: CheckResult,
    app: Json,
    get_verdict: Callable[[str], Json],
    hints: EvidenceHints,
    state_server: AzureStateServer | None,
) -> CheckResult:
    """The result of the verification, with the repair for a storage account that refuses the server."""

    def check_again() -> Iterator[CheckResult]:
        """Read the task hub anew. A new role takes effect after some minutes."""
        again = _check_verification(app, get_verdict("fresh"), hints)
        if again.status is CheckStatus.FAILED:
            message = f"{again.message}. Azure takes up to ten minutes to apply a new role: run the command again then"
            again = replace(again, message=message)
        yield again

    repair, advice = plan_roles(state_server, app, check_again)
    message = f"{result.message.rstrip('.')}. {advice}" if advice else result.message
    return replace(result, message=message, repair=repair)


def _check_events(verdict: Mapping[str, Any], task_hub: str, *, is_verified: bool, now: datetime) -> CheckResult:
    """A task hub without events is a warning if the server reads the task hub itself, else a failure."""
    last_event_at = verdict["evidence"]["lastEventAt"]
    if last_event_at is not None:
        message = f"the last event of task hub {task_hub} is {format_age(last_event_at, now)} old"
        return CheckResult("events", CheckStatus.OK, message)
    message = (
        f"no event of task hub {task_hub} has ever arrived. Check the app's settings for the Event Grid topic, the "
        "event subscription and its dead letters"
    )
    return CheckResult("events", CheckStatus.WARNING if is_verified else CheckStatus.FAILED, message)


def _check_verification(app: Json, verdict: Mapping[str, Any], hints: EvidenceHints) -> CheckResult:
    """Whether verdicts rest on reads of the task hub, and whether the policy requires that."""
    check = "verification"
    reasons = format_reasons(verdict["reasons"])
    if any(reason["code"] in _FAILED_EVIDENCE_REASONS for reason in verdict["reasons"]):
        return CheckResult(check, CheckStatus.FAILED, reasons)
    if app["taskHubs"] is None:
        warning = _find_warning(verdict, "EventsOnly")
        message = warning or "off: verdicts rest on lifecycle events alone, and events can be lost"
        return CheckResult(check, CheckStatus.FAILED, f"{message.rstrip('.')}. {hints.configure_provider}")
    provider = app["taskHubs"]["provider"]
    if verdict["assurance"] != "verified":
        message = f"{provider}, but the task hub was not read for this verdict: {reasons}"
        return CheckResult(check, CheckStatus.WARNING, message)
    if not app["policy"]["requireVerification"]:
        message = (
            f"{provider}, but the policy does not require it, so removing the provider would go unnoticed. "
            f"{hints.require_verification}"
        )
        return CheckResult(check, CheckStatus.WARNING, message)
    return CheckResult(check, CheckStatus.OK, f"{provider}, and the policy requires it")


def _find_warning(verdict: Mapping[str, Any], code: str) -> str | None:
    """The verdict's warning with this code, as `CODE: text`."""
    return next((format_reason(warning) for warning in verdict.get("warnings", []) if warning["code"] == code), None)
