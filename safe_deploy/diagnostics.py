"""Is everything set up so that a deployment can rely on it? Asks the server and, where it can, the platform; changes
nothing. A key is tried with requests that every server refuses for their content, after it has looked at the key."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from safe_deploy.client import Json, StateServerClient
from safe_deploy.deployment_slots import AzureUnavailable, DeploymentSlots
from safe_deploy.errors import CommandError, ExitCode, NotAllowed, ServerUnavailable
from safe_deploy.rendering import format_age
from safe_deploy.swap_planner import RecordedSlots, describe_interrupted_swap, is_same_task_hub

RETRY_SECONDS = 15
"""How long the doctor tries one request again: it is there to say what does not work."""

_FAILED_EVIDENCE_REASONS = frozenset({"ProbeFailed", "ProbeDenied", "TaskHubMissing", "VerificationRequired"})

_NONEXISTENT_TASK_HUB = "nothing"
"""A key is tried with this name of a task hub: the answer that there is none shows it to be good."""


class KeyPurpose(StrEnum):
    """What a key must be good for."""

    READ = "read"
    DEPLOY = "deploy"
    ADMINISTER = "administer"


class CheckStatus(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What the doctor found out about one check."""

    check: str
    status: CheckStatus
    message: str
    exit_code: ExitCode = ExitCode.FAILURE

    def to_json(self) -> Json:
        return {"check": self.check, "status": self.status.value, "message": self.message}


def run_checks(
    server: StateServerClient, slot: str, deployment_slots: DeploymentSlots | None, purpose: KeyPurpose, now: datetime
) -> list[CheckResult]:
    """All findings; after one that makes the others impossible, no more."""
    findings = [_check_server(server)]
    if findings[0].status is CheckStatus.FAILED:
        return findings
    findings.append(_check_key(server, slot, purpose))
    try:
        app, _ = server.get_app()
    except CommandError as error:
        return [*findings, CheckResult("app", CheckStatus.FAILED, _add_register_hint(error), error.exit_code)]
    recorded = RecordedSlots.from_app(app, slot)
    findings += [_check_app(app, recorded), *_check_deployment(app, recorded)]
    findings += _check_slots(recorded, deployment_slots) if deployment_slots else [_slots_not_checked()]
    if recorded.production is not None:
        findings += _check_evidence(server, app, recorded.production, now)
    return findings


def _check_server(server: StateServerClient) -> CheckResult:
    try:
        server.request_json("GET", "/api/health")
        server.request_json("GET", "/api/health/ready")
    except CommandError as error:
        return CheckResult("server", CheckStatus.FAILED, error.message, error.exit_code)
    return CheckResult("server", CheckStatus.OK, f"{server.url} and its storage answer")


def _check_key(server: StateServerClient, slot: str, purpose: KeyPurpose) -> CheckResult:
    app = server.app_path
    read: dict[str, Callable[[], object]] = {
        "GetApp": server.get_app,
        "GetStagingStatus": lambda: server.get_staging_status(slot, 0, "none"),
        "GetHistory": lambda: server.get_history(1),
        "GetTaskHub": lambda: server.get_task_hub(_NONEXISTENT_TASK_HUB),
    }
    # Each breaks the contract, so nothing can come of it but the answer of the lock.
    broken: Json = {"taskHub": 0}
    change: dict[str, Callable[[], object]] = {
        "PostStaging": lambda: server.request_json("POST", f"{app}/staging", broken),
        "DeleteStaging": lambda: server.request_json("DELETE", f"{app}/staging"),
        "PostSwap": lambda: server.request_json("POST", f"{app}/swap", broken),
        "Cleanup": lambda: server.request_json("POST", f"{app}/cleanup", {"dryRun": "?"}),
    }
    administer: dict[str, Callable[[], object]] = {
        "PutApp": lambda: server.request_json("PUT", app, {"slots": 0}),
        "PostWaiver": lambda: server.request_json("POST", f"{app}/waivers", broken),
        "ListInstances": lambda: server.list_instances(_NONEXISTENT_TASK_HUB, {"top": 1}),
    }
    tried = {
        KeyPurpose.READ: read,
        KeyPurpose.DEPLOY: read | change,
        KeyPurpose.ADMINISTER: read | change | administer,
    }[purpose]
    refused = []
    for name, request_json in tried.items():
        try:
            request_json()
        except NotAllowed:
            refused.append(name)
        except CommandError as error:
            # Refused for its content by the server itself: the key was good. Anything else says nothing about it.
            if isinstance(error, ServerUnavailable) or not error.problem:
                return CheckResult(
                    "key", CheckStatus.FAILED, f"{name} cannot be tried: {error.message}", error.exit_code
                )
    if refused:
        message = f"it may not do {', '.join(refused)}; a key to {purpose} must. Set SAFE_DEPLOY_KEY to one that may"
        return CheckResult("key", CheckStatus.FAILED, message, ExitCode.NOT_ALLOWED)
    return CheckResult("key", CheckStatus.OK, f"it may do all that it takes to {purpose}")


def _check_app(app: Json, recorded: RecordedSlots) -> CheckResult:
    if recorded.production is None:
        message = "the server knows nothing in production, and takes it for empty: safe-deploy register"
        return CheckResult("app", CheckStatus.FAILED, message)
    held = ", ".join(f"{name} {(content or {}).get('taskHub', 'empty')}" for name, content in app["slots"].items())
    return CheckResult("app", CheckStatus.OK, held)


def _check_deployment(app: Json, recorded: RecordedSlots) -> Iterator[CheckResult]:
    if recorded.pending_swap is not None:
        yield CheckResult(
            "swap", CheckStatus.FAILED, describe_interrupted_swap(recorded, recorded.pending_swap), ExitCode.CONFLICT
        )
    deployment = app["deployment"]
    if deployment is not None:
        run = f", run {deployment['runUrl']}" if deployment["runUrl"] else ""
        message = f"{deployment['by']}{run} deploys task hub {deployment['taskHub']} since {deployment['startedAt']}"
        yield CheckResult("deployment", CheckStatus.WARNING, message)


def _slots_not_checked() -> CheckResult:
    message = "not looked at; --resource-group lets the doctor compare what the slots in Azure carry"
    return CheckResult("Azure", CheckStatus.WARNING, message)


def _check_slots(recorded: RecordedSlots, deployment_slots: DeploymentSlots) -> Iterator[CheckResult]:
    complaints: set[str] = set()

    def unavailable(check: str, error: AzureUnavailable) -> Iterator[CheckResult]:
        # What keeps az from looking at all is said once.
        if error.message not in complaints:
            complaints.add(error.message)
            yield CheckResult(check, CheckStatus.FAILED, error.message)

    for slot, believed in (("production", recorded.production), (recorded.slot_name, recorded.slot)):
        check = f"Azure: {slot}"
        try:
            carried = deployment_slots.task_hub(slot)
        except AzureUnavailable as error:
            yield from unavailable(check, error)
            continue
        if is_same_task_hub(carried, believed) or (carried is None and believed is None):
            yield CheckResult(check, CheckStatus.OK, f"carries {carried or 'no task hub'}, as the server believes")
        else:
            message = f"carries {carried or 'no task hub'}, but the server believes {believed or 'it is empty'}"
            yield CheckResult(check, CheckStatus.FAILED, message, ExitCode.CONFLICT)
    try:
        sticky = deployment_slots.is_task_hub_setting_sticky()
    except AzureUnavailable as error:
        yield from unavailable("Azure: setting", error)
        return
    if sticky:
        message = (
            "the setting with the task hub name is slot-sticky: hubs stay with their slots at a swap. Set it anew "
        )
        yield CheckResult("Azure: setting", CheckStatus.FAILED, f"{message}with --settings, not --slot-settings")
    else:
        yield CheckResult("Azure: setting", CheckStatus.OK, "the setting with the task hub name travels with the code")


def _check_evidence(server: StateServerClient, app: Json, production: str, now: datetime) -> Iterator[CheckResult]:
    """Whether the server hears and sees what happens in production."""
    try:
        verdict = server.get_staging_status("production")
    except CommandError as error:
        yield CheckResult("events", CheckStatus.FAILED, error.message, error.exit_code)
        return
    yield _check_events(verdict, production, app["taskHubs"] is not None, now)
    yield _check_verification(app, verdict)
    messages = _find_warning(verdict, "MessagesUnseen")
    if messages is not None:
        yield CheckResult("messages", CheckStatus.WARNING, messages)


def _check_events(verdict: Mapping[str, Any], production: str, verified: bool, now: datetime) -> CheckResult:
    last = verdict["evidence"]["lastEventAt"]
    if last is not None:
        return CheckResult(
            "events", CheckStatus.OK, f"the last one of task hub {production} is {format_age(last, now)} old"
        )
    message = (
        f"none ever came of task hub {production}: look at the topic's settings of the app, the event subscription and "
        "its dead letters"
    )
    return CheckResult("events", CheckStatus.WARNING if verified else CheckStatus.FAILED, message)


def _check_verification(app: Json, verdict: Mapping[str, Any]) -> CheckResult:
    check = "verification"
    message = "; ".join(reason["message"] for reason in verdict["reasons"])
    if any(reason["code"] in _FAILED_EVIDENCE_REASONS for reason in verdict["reasons"]):
        return CheckResult(check, CheckStatus.FAILED, message)
    if app["taskHubs"] is None:
        why = (
            _find_warning(verdict, "EventsOnly") or "off: verdicts rest on lifecycle events alone, and events get lost"
        )
        return CheckResult(check, CheckStatus.FAILED, f"{why.rstrip('.')}. {_CONFIGURE_HINT}")
    provider = app["taskHubs"]["provider"]
    if verdict["assurance"] != "verified":
        return CheckResult(check, CheckStatus.WARNING, f"{provider}; it was not tried through just now: {message}")
    if not app["policy"]["requireVerification"]:
        message = f"{provider}; the policy does not require it, so it can be switched off unnoticed"
        return CheckResult(check, CheckStatus.WARNING, message)
    return CheckResult(check, CheckStatus.OK, f"{provider}, and the policy requires it")


def _find_warning(verdict: Mapping[str, Any], code: str) -> str | None:
    """What the server says that its verdict does not cover, if it says this."""
    return next((str(one["message"]) for one in verdict.get("warnings", []) if one["code"] == code), None)


_CONFIGURE_HINT = (
    "To have the server read the app's task hubs (PutApp, taskHubs), type: safe-deploy register --task-hub HUB "
    "--provider azureStorage --connection SETTING"
)
"""What to do about an app whose task hubs nobody reads."""


def _add_register_hint(error: CommandError) -> str:
    unknown = error.problem.get("code") == "AppNotFound"
    return f"{error.message}. Tell it what is in production now: safe-deploy register" if unknown else error.message
