"""All checks of `safe-deploy doctor`, in their order."""

from dataclasses import dataclass
from datetime import datetime

from safe_deploy.azure_function_apps import FunctionApps
from safe_deploy.azure_slots import DeploymentSlots
from safe_deploy.client import StateServerClient
from safe_deploy.diagnostics.keys import KeyPurpose, build_release_requests, build_slot_requests, check_key
from safe_deploy.diagnostics.releases import check_releases
from safe_deploy.diagnostics.results import CheckResult, CheckStatus
from safe_deploy.diagnostics.slots import REGISTER_HINT, check_slots
from safe_deploy.diagnostics.status_urls import StatusUrl
from safe_deploy.errors import CommandError, UsageError
from safe_deploy.side_by_side.app_state import is_side_by_side

RETRY_SECONDS = 15
"""How long `doctor` retries one request. It is shorter than in a deployment, because `doctor` reports what fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What to check, for an app of either model. Without a resource group Azure is not asked."""

    purpose: KeyPurpose
    slot: str
    deployment_slots: DeploymentSlots | None
    function_apps: FunctionApps | None
    task_hub_setting: str
    status_url: StatusUrl | None


def run_checks(server: StateServerClient, options: CheckOptions, now: datetime) -> list[CheckResult]:
    """Run all checks. A failure that makes the other checks impossible ends the list.

    Raises UsageError for an option that does not apply to the app.
    """
    results = [_check_server(server)]
    if results[0].status is CheckStatus.FAILED:
        return results
    app, failure = None, None
    try:
        app, _ = server.get_app()
    except CommandError as error:
        failure = CheckResult("app", CheckStatus.FAILED, _add_register_hint(error), error.exit_code)
    has_releases = app is not None and is_side_by_side(app)
    requests = build_release_requests(server) if has_releases else build_slot_requests(server, options.slot)
    results.append(check_key(requests, options.purpose))
    if app is None:
        assert failure is not None
        return [*results, failure]
    if has_releases:
        release_checks = check_releases(
            server,
            app,
            function_apps=options.function_apps,
            task_hub_setting=options.task_hub_setting,
            status_url=options.status_url,
            now=now,
        )
        return [*results, *release_checks]
    if options.status_url is not None:
        raise UsageError(f"--status-url is for an app with releases side by side, and {app['app']} has slots. Omit it")
    slot_checks = check_slots(server, app, options.slot, deployment_slots=options.deployment_slots, now=now)
    return [*results, *slot_checks]


def _check_server(server: StateServerClient) -> CheckResult:
    """Whether the server and its storage answer."""
    try:
        server.request_json("GET", "/api/health")
        server.request_json("GET", "/api/health/ready")
    except CommandError as error:
        return CheckResult("server", CheckStatus.FAILED, error.message, error.exit_code)
    return CheckResult("server", CheckStatus.OK, f"{server.url} and its storage answer")


def _add_register_hint(error: CommandError) -> str:
    """The message of the error. If the app does not exist, how to register it is added."""
    return f"{error.message}. {REGISTER_HINT}" if error.problem_code == "AppNotFound" else error.message
