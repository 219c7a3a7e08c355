"""The checks of an app with slots: task hubs on record and in Azure, and a swap that is pending."""

import functools
from collections.abc import Callable, Iterator
from datetime import datetime

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.azure_slots import PRODUCTION, DeploymentSlots
from safe_deploy.client import Json, StateServerClient
from safe_deploy.diagnostics.deployments import check_deployment
from safe_deploy.diagnostics.evidence import EvidenceHints, check_evidence
from safe_deploy.diagnostics.results import CheckResult, CheckStatus
from safe_deploy.errors import ExitCode
from safe_deploy.slot_task_hubs import RecordedSlots, is_same_task_hub
from safe_deploy.swap_messages import describe_interrupted_swap

REGISTER_HINT = "Register the task hub in production: safe-deploy register"
_EVIDENCE_HINTS = EvidenceHints(
    configure_provider=(
        "To have the server read the app's task hubs, run: safe-deploy register --task-hub HUB "
        "--provider azureStorage --connection SETTING"
    ),
    require_verification="Run safe-deploy register with --require-verification",
)


def check_slots(
    server: StateServerClient, app: Json, slot: str, *, deployment_slots: DeploymentSlots | None, now: datetime
) -> Iterator[CheckResult]:
    """Run the checks of an app with slots. `slot` is the one to deploy into."""
    recorded = RecordedSlots.from_app(app, slot)
    yield _check_app(app, recorded)
    yield from _check_swap(recorded)
    yield from check_deployment(app)
    if deployment_slots is None:
        yield _report_unchecked_slots()
    else:
        yield from _check_slots_in_azure(recorded, deployment_slots)
    if recorded.production is not None:
        get_verdict = functools.partial(server.get_staging_status, PRODUCTION)
        yield from check_evidence(app, recorded.production, get_verdict, hints=_EVIDENCE_HINTS, now=now)


def _check_app(app: Json, recorded: RecordedSlots) -> CheckResult:
    """Whether the server has a task hub on record in production."""
    if recorded.production is None:
        message = f"the server has no task hub on record in production, so it counts as empty. {REGISTER_HINT}"
        return CheckResult("app", CheckStatus.FAILED, message)
    slots = ", ".join(f"{name} {(slot or {}).get('taskHub', 'empty')}" for name, slot in app["slots"].items())
    return CheckResult("app", CheckStatus.OK, slots)


def _check_swap(recorded: RecordedSlots) -> Iterator[CheckResult]:
    """Report a pending swap, if there is one."""
    if recorded.pending_swap is not None:
        message = describe_interrupted_swap(recorded, recorded.pending_swap)
        yield CheckResult("swap", CheckStatus.FAILED, message, ExitCode.CONFLICT)


def _report_unchecked_slots() -> CheckResult:
    """The result when Azure cannot be asked, because the options do not name the Function App."""
    message = "not checked. Add --resource-group to compare the task hubs of the slots in Azure with the server's"
    return CheckResult("Azure", CheckStatus.WARNING, message)


def _check_slots_in_azure(recorded: RecordedSlots, deployment_slots: DeploymentSlots) -> Iterator[CheckResult]:
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
