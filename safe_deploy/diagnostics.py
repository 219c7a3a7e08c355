"""Checks whether a deployment can rely on server, key, app, slots, events and verification. Changes nothing.

A key is tried with requests whose content every server refuses. A server checks the key before the content, so the
refusal shows whether the key permits the operation.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.azure_slots import PRODUCTION, DeploymentSlots
from safe_deploy.client import Json, StateServerClient
from safe_deploy.errors import CommandError, ExitCode, NotAllowed, ServerUnavailable
from safe_deploy.rendering import format_age
from safe_deploy.slot_task_hubs import RecordedSlots, is_same_task_hub
from safe_deploy.swap_messages import describe_interrupted_swap

RETRY_SECONDS = 15
"""How long `doctor` retries one request. It is shorter than in a deployment, because `doctor` reports what fails."""

_FAILED_EVIDENCE_REASONS = frozenset({"ProbeFailed", "ProbeDenied", "TaskHubMissing", "VerificationRequired"})

_NONEXISTENT_TASK_HUB = "nothing"
"""GetTaskHub is tried with this name. The answer 404 shows that the key permits the operation."""

_CONFIGURE_PROVIDER_HINT = (
    "To have the server read the app's task hubs, run: safe-deploy register --task-hub HUB "
    "--provider azureStorage --connection SETTING"
)
_REGISTER_HINT = "Register the task hub in production: safe-deploy register"


class KeyPurpose(StrEnum):
    """What a key must permit. Each purpose includes the ones before it."""

    READ = "read"
    DEPLOY = "deploy"
    ADMINISTER = "administer"


class CheckStatus(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. `exit_code` counts only if the check has failed."""

    check: str
    status: CheckStatus
    message: str
    exit_code: ExitCode = ExitCode.FAILURE

    def to_json(self) -> Json:
        return {"check": self.check, "status": self.status.value, "message": self.message}


def run_checks(
    server: StateServerClient,
    *,
    slot: str,
    deployment_slots: DeploymentSlots | None,
    purpose: KeyPurpose,
    now: datetime,
) -> list[CheckResult]:
    """Run all checks. A failure that makes the other checks impossible ends the list."""
    results = [_check_server(server)]
    if results[0].status is CheckStatus.FAILED:
        return results
    results.append(_check_key(server, slot, purpose))
    try:
        app, _ = server.get_app()
    except CommandError as error:
        return [*results, CheckResult("app", CheckStatus.FAILED, _add_register_hint(error), error.exit_code)]
    recorded = RecordedSlots.from_app(app, slot)
    results += [_check_app(app, recorded), *_check_deployment(app, recorded)]
    results += _check_slots(recorded, deployment_slots) if deployment_slots else [_report_unchecked_slots()]
    if recorded.production is not None:
        results += _check_evidence(server, app, recorded.production, now)
    return results


def _check_server(server: StateServerClient) -> CheckResult:
    """Whether the server and its storage answer."""
    try:
        server.request_json("GET", "/api/health")
        server.request_json("GET", "/api/health/ready")
    except CommandError as error:
        return CheckResult("server", CheckStatus.FAILED, error.message, error.exit_code)
    return CheckResult("server", CheckStatus.OK, f"{server.url} and its storage answer")


def _check_key(server: StateServerClient, slot: str, purpose: KeyPurpose) -> CheckResult:
    """Try every operation that the purpose needs."""
    denied = []
    for operation, send_request in _list_operations(server, slot, purpose).items():
        try:
            send_request()
        except NotAllowed:
            denied.append(operation)
        except CommandError as error:
            # A problem document means that the server has accepted the key and refused the content. Any other error
            # does not show whether the key is good.
            if isinstance(error, ServerUnavailable) or not error.problem:
                message = f"{operation} cannot be tried: {error.message}"
                return CheckResult("key", CheckStatus.FAILED, message, error.exit_code)
    if denied:
        message = (
            f"it does not permit {', '.join(denied)}, which --for {purpose} needs. Set SAFE_DEPLOY_KEY to a key that "
            "does"
        )
        return CheckResult("key", CheckStatus.FAILED, message, ExitCode.NOT_ALLOWED)
    return CheckResult("key", CheckStatus.OK, f"it permits all operations that --for {purpose} needs")


def _list_operations(server: StateServerClient, slot: str, purpose: KeyPurpose) -> Mapping[str, Callable[[], object]]:
    """A request for each operation that the purpose needs. Nothing can change, because their content is invalid."""
    app = server.app_path
    invalid_body: Json = {"taskHub": 0}
    read: dict[str, Callable[[], object]] = {
        "GetApp": server.get_app,
        "GetStagingStatus": lambda: server.get_staging_status(slot, verify="none"),
        "GetHistory": lambda: server.get_history(1),
        "GetTaskHub": lambda: server.get_task_hub(_NONEXISTENT_TASK_HUB),
    }
    deploy: dict[str, Callable[[], object]] = {
        "PostStaging": lambda: server.request_json("POST", f"{app}/staging", invalid_body),
        "DeleteStaging": lambda: server.request_json("DELETE", f"{app}/staging"),
        "PostSwap": lambda: server.request_json("POST", f"{app}/swap", invalid_body),
        "Cleanup": lambda: server.request_json("POST", f"{app}/cleanup", {"dryRun": "?"}),
    }
    administer: dict[str, Callable[[], object]] = {
        "PutApp": lambda: server.request_json("PUT", app, {"slots": 0}),
        "PostWaiver": lambda: server.request_json("POST", f"{app}/waivers", invalid_body),
        "ListInstances": lambda: server.list_instances(_NONEXISTENT_TASK_HUB, {"top": 1}),
    }
    return {
        KeyPurpose.READ: read,
        KeyPurpose.DEPLOY: read | deploy,
        KeyPurpose.ADMINISTER: read | deploy | administer,
    }[purpose]


def _check_app(app: Json, recorded: RecordedSlots) -> CheckResult:
    """Whether the server has a task hub on record in production."""
    if recorded.production is None:
        message = f"the server has no task hub on record in production, so it counts as empty. {_REGISTER_HINT}"
        return CheckResult("app", CheckStatus.FAILED, message)
    slots = ", ".join(f"{name} {(slot or {}).get('taskHub', 'empty')}" for name, slot in app["slots"].items())
    return CheckResult("app", CheckStatus.OK, slots)


def _check_deployment(app: Json, recorded: RecordedSlots) -> Iterator[CheckResult]:
    """Report a pending swap and an open deployment, if there are any."""
    if recorded.pending_swap is not None:
        message = describe_interrupted_swap(recorded, recorded.pending_swap)
        yield CheckResult("swap", CheckStatus.FAILED, message, ExitCode.CONFLICT)
    deployment = app["deployment"]
    if deployment is not None:
        run = f" (run {deployment['runUrl']})" if deployment["runUrl"] else ""
        message = (
            f"{deployment['by']}{run} has been deploying task hub {deployment['taskHub']} since "
            f"{deployment['startedAt']}"
        )
        yield CheckResult("deployment", CheckStatus.WARNING, message)


def _report_unchecked_slots() -> CheckResult:
    message = "not checked. Add --resource-group to compare the task hubs of the slots in Azure with the server's"
    return CheckResult("Azure", CheckStatus.WARNING, message)


def _check_slots(recorded: RecordedSlots, deployment_slots: DeploymentSlots) -> Iterator[CheckResult]:
    """Compare both slots in Azure with the record. An error of `az` is reported once, not once a check."""
    reported_errors: set[str] = set()
    checks: dict[str, Callable[[], CheckResult]] = {
        f"Azure: {PRODUCTION}": lambda: _compare_slot(deployment_slots, PRODUCTION, recorded.production),
        f"Azure: {recorded.slot_name}": lambda: _compare_slot(deployment_slots, recorded.slot_name, recorded.slot),
        "Azure: setting": lambda: _check_sticky_setting(deployment_slots),
    }
    for name, run_check in checks.items():
        try:
            yield run_check()
        except AzureUnavailable as error:
            if error.message not in reported_errors:
                reported_errors.add(error.message)
                yield CheckResult(name, CheckStatus.FAILED, error.message)


def _compare_slot(deployment_slots: DeploymentSlots, slot: str, recorded_hub: str | None) -> CheckResult:
    """Whether a slot in Azure has the task hub that the server has on record. Raises AzureUnavailable."""
    observed_hub = deployment_slots.get_task_hub(slot)
    observed_text, recorded_text = observed_hub or "no task hub", recorded_hub or "no task hub"
    if is_same_task_hub(observed_hub, recorded_hub) or (observed_hub is None and recorded_hub is None):
        return CheckResult(f"Azure: {slot}", CheckStatus.OK, f"has {observed_text}, as on the server")
    message = f"has {observed_text}, but the server has {recorded_text} on record. Correct the one that is wrong"
    return CheckResult(f"Azure: {slot}", CheckStatus.FAILED, message, ExitCode.CONFLICT)


def _check_sticky_setting(deployment_slots: DeploymentSlots) -> CheckResult:
    """Whether the app setting with the task hub name moves with the code at a swap. Raises AzureUnavailable."""
    if deployment_slots.is_task_hub_setting_sticky():
        message = (
            "the app setting with the task hub name is slot-sticky: at a swap task hubs stay in their slots. Set it "
            "again with az's --settings, not --slot-settings"
        )
        return CheckResult("Azure: setting", CheckStatus.FAILED, message)
    return CheckResult("Azure: setting", CheckStatus.OK, "the app setting with the task hub name moves with the code")


def _check_evidence(server: StateServerClient, app: Json, production: str, now: datetime) -> Iterator[CheckResult]:
    """Check whether the server receives events of production's task hub, and whether it can read the task hub."""
    try:
        verdict = server.get_staging_status(PRODUCTION)
    except CommandError as error:
        yield CheckResult("events", CheckStatus.FAILED, error.message, error.exit_code)
        return
    yield _check_events(verdict, production, is_verified=app["taskHubs"] is not None, now=now)
    yield _check_verification(app, verdict)
    messages_unseen = _find_warning(verdict, "MessagesUnseen")
    if messages_unseen is not None:
        yield CheckResult("messages", CheckStatus.WARNING, messages_unseen)


def _check_events(verdict: Mapping[str, Any], production: str, *, is_verified: bool, now: datetime) -> CheckResult:
    """A task hub without events is a warning if the server reads the task hub itself, else a failure."""
    last_event_at = verdict["evidence"]["lastEventAt"]
    if last_event_at is not None:
        message = f"the last event of task hub {production} is {format_age(last_event_at, now)} old"
        return CheckResult("events", CheckStatus.OK, message)
    message = (
        f"no event of task hub {production} has ever arrived. Check the app's settings for the Event Grid topic, the "
        "event subscription and its dead letters"
    )
    return CheckResult("events", CheckStatus.WARNING if is_verified else CheckStatus.FAILED, message)


def _check_verification(app: Json, verdict: Mapping[str, Any]) -> CheckResult:
    """Whether verdicts rest on reads of the task hub, and whether the policy requires that."""
    check = "verification"
    reasons = "; ".join(reason["message"] for reason in verdict["reasons"])
    if any(reason["code"] in _FAILED_EVIDENCE_REASONS for reason in verdict["reasons"]):
        return CheckResult(check, CheckStatus.FAILED, reasons)
    if app["taskHubs"] is None:
        warning = _find_warning(verdict, "EventsOnly")
        message = warning or "off: verdicts rest on lifecycle events alone, and events can be lost"
        return CheckResult(check, CheckStatus.FAILED, f"{message.rstrip('.')}. {_CONFIGURE_PROVIDER_HINT}")
    provider = app["taskHubs"]["provider"]
    if verdict["assurance"] != "verified":
        message = f"{provider}, but the task hub was not read for this verdict: {reasons}"
        return CheckResult(check, CheckStatus.WARNING, message)
    if not app["policy"]["requireVerification"]:
        message = (
            f"{provider}, but the policy does not require it, so removing the provider would go unnoticed. Run "
            "safe-deploy register with --require-verification"
        )
        return CheckResult(check, CheckStatus.WARNING, message)
    return CheckResult(check, CheckStatus.OK, f"{provider}, and the policy requires it")


def _find_warning(verdict: Mapping[str, Any], code: str) -> str | None:
    """The message of the verdict's warning with this code."""
    return next((str(warning["message"]) for warning in verdict.get("warnings", []) if warning["code"] == code), None)


def _add_register_hint(error: CommandError) -> str:
    return f"{error.message}. {_REGISTER_HINT}" if error.problem_code == "AppNotFound" else error.message
