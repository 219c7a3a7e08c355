"""What `safe-deploy retire` says about a release that it did not retire, or whose command has failed."""

from safe_deploy.azure_function_apps import FunctionAppNotFound
from safe_deploy.command_words import describe_problem, list_reasons
from safe_deploy.errors import CommandError
from safe_deploy.rendering import format_instant
from safe_deploy.side_by_side.app_state import Release, SideBySideApp
from safe_deploy.side_by_side.retirement_planner import Outcome, RetirementResult
from safe_deploy.subprocesses import CommandResult

GONE_CODES = frozenset({"ReleaseNotFound", "ReleaseRemoved"})
"""Codes of problems with a release that the app does not have any more."""

_NOT_DRAINED_CODES = frozenset({"ReleaseNotDrained", "ReleaseInUse", "DeploymentInProgress", "RolloutInProgress"})

_STAYS_PENDING = "The release stays Removing, so that it gets no traffic. Run the same command again to continue"

VANISHED = f"its Function App is gone since the removal began, so the command was not run. {_STAYS_PENDING}"
"""Why the removal of a release stays pending whose Function App this command has not deleted."""


def explain_refusal(release: Release, error: CommandError) -> RetirementResult:
    """The result of a release whose removal the server refuses to begin. Raises `error` if it is no such refusal."""
    if error.problem_code in GONE_CODES:
        return build_removed_result(release)
    if error.problem_code == "RemovalPending":
        return RetirementResult(release=release, outcome=Outcome.REMOVING, message=error.message)
    if error.problem_code not in _NOT_DRAINED_CODES:
        raise error
    reasons = list_reasons(error.problem) or [
        {"code": error.problem_code, "message": describe_problem(error.problem) or error.message}
    ]
    return RetirementResult(release=release, outcome=Outcome.NOT_DRAINED, reasons=reasons)


def build_removed_result(release: Release) -> RetirementResult:
    """The result of a release that the app does not have any more."""
    return RetirementResult(release=release, outcome=Outcome.RETIRED, message="it is removed already")


def build_kept_result(release: Release, kept_until: str | None) -> RetirementResult:
    """The result of a release that the policy keeps, which has a time only if it is not kept by `keepLast`."""
    why = (
        "by the policy's retention.keepLast"
        if kept_until is None
        else f"until {format_instant(kept_until)}, by retention.keepForHours"
    )
    return RetirementResult(release=release, outcome=Outcome.KEPT, message=f"it is kept for a rollback {why}")


def refuse_without_function_app(app: SideBySideApp, release: Release, error: FunctionAppNotFound) -> RetirementResult:
    """The result of a release whose Function App is not found, although no attempt to delete it is on record."""
    if app.quiesce_functions:
        # Without a resource group, no function could be disabled.
        way = "send DeleteRelease with the outcome Done"
    else:
        way = f"run safe-deploy retire --version {release.version} -- true, without --resource-group"
    message = f"{error.message}. If the Function App is deleted already, {way}. Nothing was begun"
    return RetirementResult(release=release, outcome=Outcome.FAILED, is_conflict=True, message=message)


def describe_failed_deletion(*, exists: bool | None) -> str:
    """What the release is after a failed command, as far as it is known."""
    if exists:
        return "The release is as it was before, and Azure still has its Function App"
    return (
        "The release is as it was before. Azure was not asked whether the command has deleted its Function App: if it "
        "has, give the release no traffic, and run the same command again"
    )


def describe_unknown_deletion(result: CommandResult, *, exists: bool | None) -> str:
    """Why the removal stays pending after the command, and what comes next."""
    if exists:
        why = f"the command {result}, but Azure still has the Function App"
    elif result.interrupted:
        why = f"the command {result} after a request to stop, and Azure may continue the deletion"
    elif exists is None:
        why = f"the command {result}, and an earlier attempt may have deleted the Function App"
    else:
        why = f"the command {result} after the Function App was deleted"
    return f"{why}. {_STAYS_PENDING}"
