"""All checks of `safe-deploy doctor`, in their order."""

from collections.abc import Iterator
from contextlib import suppress

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.client import StateServerClient
from safe_deploy.diagnostics.keys import build_release_requests, build_slot_requests, check_key
from safe_deploy.diagnostics.options import CheckOptions
from safe_deploy.diagnostics.releases import check_releases
from safe_deploy.diagnostics.results import CheckResult, CheckStatus
from safe_deploy.diagnostics.slots import check_slots, plan_registration
from safe_deploy.errors import CommandError
from safe_deploy.next_steps import append_next_step
from safe_deploy.side_by_side.app_state import is_side_by_side

RETRY_SECONDS = 15
"""How long `doctor` retries one request. It is shorter than in a deployment, because `doctor` reports what fails."""


def run_checks(server: StateServerClient, options: CheckOptions) -> Iterator[CheckResult]:
    """Run all checks, one by one as the results are taken. A failure that makes the others impossible ends them.

    Raises UsageError for an option that does not apply to the app.
    """
    first = _check_server(server)
    yield first
    if first.status is not CheckStatus.FAILED:
        yield from _check_app(server, options, with_key=True)


def _check_app(server: StateServerClient, options: CheckOptions, *, with_key: bool) -> Iterator[CheckResult]:
    """The checks of the key and of the app. They need the app, because its model decides what a key must permit."""
    app, failure = None, None
    try:
        app, _ = server.get_app()
    except CommandError as error:
        failure = _report_missing_app(server, options, error)
    has_releases = app is not None and is_side_by_side(app)
    if with_key:
        requests = build_release_requests(server) if has_releases else build_slot_requests(server, options.slot)
        yield check_key(requests, options.purpose)
    if app is None:
        assert failure is not None
        yield failure
    elif has_releases:
        yield from check_releases(server, app, options)
    else:
        yield from check_slots(server, app, options)


def _report_missing_app(server: StateServerClient, options: CheckOptions, error: CommandError) -> CheckResult:
    """The result if the app cannot be read. One that does not exist can be registered if Azure shows its task hub.

    A mistyped name of an app must not be registered, so the Function App must have the same name.
    """
    repair = None
    slots = options.deployment_slots
    has_same_name = slots is not None and slots.target.function_app.lower() == server.app.lower()
    if error.problem_code == "AppNotFound" and has_same_name:
        with suppress(AzureUnavailable):
            repair = plan_registration(server, options, lambda: _check_app(server, options, with_key=False))
    return CheckResult(
        "app", CheckStatus.FAILED, append_next_step(error.message, error.problem_code), error.exit_code, repair
    )


def _check_server(server: StateServerClient) -> CheckResult:
    """Whether the server and its storage answer."""
    try:
        server.request_json("GET", "/api/health")
        server.request_json("GET", "/api/health/ready")
    except CommandError as error:
        return CheckResult("server", CheckStatus.FAILED, error.message, error.exit_code)
    return CheckResult("server", CheckStatus.OK, f"{server.url} and its storage answer")
