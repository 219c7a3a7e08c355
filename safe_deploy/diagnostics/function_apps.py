"""Whether the Function Apps of releases have their own task hubs, and which of them run the functions that only the
active release may run."""

from collections.abc import Iterator, Sequence
from functools import partial

from safe_deploy.azure_function_apps import FunctionApps, find_functions_in_state
from safe_deploy.client import Json
from safe_deploy.diagnostics.results import CheckResult, CheckStatus
from safe_deploy.errors import CommandError, ExitCode
from safe_deploy.slot_task_hubs import is_same_task_hub


def check_function_apps(app: Json, function_apps: FunctionApps | None, setting: str) -> Iterator[CheckResult]:
    """Compare the Function App of each release with the record. An error of `az` is reported once, not once a check.

    `app` is the response of GetApp, and `setting` the app setting with the task hub name.
    """
    if function_apps is None:
        message = "not checked. Add --resource-group to compare the task hubs of the Function Apps with the server's"
        yield CheckResult("Azure", CheckStatus.WARNING, message)
        return
    quiesced: list[str] = app["policy"]["quiesceFunctions"]
    reported_errors: set[str] = set()
    for version, release in app["releases"].items():
        checks = {f"Azure: {version}": partial(_compare_task_hub, release["taskHub"], setting)}
        if quiesced:
            is_active = version == app["routing"]["active"]
            checks[f"functions: {version}"] = partial(_check_functions, version, quiesced, is_active=is_active)
        for check, run_check in checks.items():
            try:
                yield run_check(check, function_apps, function_apps.find_by_address(release["address"]))
            except CommandError as error:
                if error.message not in reported_errors:
                    reported_errors.add(error.message)
                    yield CheckResult(check, CheckStatus.FAILED, error.message, error.exit_code)


def _compare_task_hub(
    recorded: str, setting: str, check: str, function_apps: FunctionApps, function_app: str
) -> CheckResult:
    """Whether a Function App has the task hub on record. Raises CommandError."""
    observed = function_apps.read_task_hub(function_app, setting)
    if is_same_task_hub(observed, recorded):
        return CheckResult(check, CheckStatus.OK, f"{function_app} has {observed}, as on the server")
    message = (
        f"{function_app} has {observed or 'no task hub'} in its setting {setting}, but the server has {recorded} on "
        "record. Correct the one that is wrong"
    )
    return CheckResult(check, CheckStatus.FAILED, message, ExitCode.CONFLICT)


def _check_functions(
    version: str,
    quiesced: Sequence[str],
    check: str,
    function_apps: FunctionApps,
    function_app: str,
    *,
    is_active: bool,
) -> CheckResult:
    """Whether the functions that start work by themselves run in the active release, and in no other. Raises
    CommandError."""
    disabled = function_apps.list_disabled(function_app)
    wrong = find_functions_in_state(disabled, quiesced, is_disabled=is_active)
    state = "enabled" if is_active else "disabled"
    if not wrong:
        return CheckResult(check, CheckStatus.OK, f"{', '.join(quiesced)}: {state} in {function_app}")
    command, problem = ("unquiesce", "active and does not run") if is_active else ("quiesce", "not active and runs")
    message = (
        f"release {version} is {problem} {', '.join(wrong)}. Run safe-deploy {command} --version {version} --functions "
        f"{','.join(wrong)} --resource-group {function_apps.resource_group}, which restarts the app"
    )
    return CheckResult(check, CheckStatus.FAILED, message, ExitCode.CONFLICT)
