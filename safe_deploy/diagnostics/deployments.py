"""Whether a deployment is open."""

from collections.abc import Iterator
from dataclasses import replace

from safe_deploy.client import Json, StateServerClient
from safe_deploy.diagnostics.results import CheckResult, CheckStatus, Repair, withhold_repairs
from safe_deploy.errors import ConflictError
from safe_deploy.rendering import format_instant


def hold_back_repairs(server: StateServerClient, app: Json, results: Iterator[CheckResult]) -> Iterator[CheckResult]:
    """The results, without repairs while a deployment or a swap changes the app in Azure.

    `az` reads all settings and writes them all. A pipeline that sets the task hub name at the same time would lose it.
    A question may wait for its answer while a deployment begins, so each repair asks the server again.
    """
    reason = _find_change_in_progress(app)
    if reason is not None:
        yield from withhold_repairs(results, reason)
        return
    for result in results:
        repair = result.repair
        yield result if repair is None else replace(result, repair=_run_unless_in_progress(server, repair))


def _run_unless_in_progress(server: StateServerClient, repair: Repair) -> Repair:
    """The repair, which raises ConflictError instead if a deployment or a swap has begun by then."""

    def run() -> str:
        reason = _find_change_in_progress(server.get_app()[0])
        if reason is not None:
            raise ConflictError(reason)
        return repair.run()

    return replace(repair, run=run)


def _find_change_in_progress(app: Json) -> str | None:
    """Who changes the app in Azure now, in words; None if no change is on record."""
    if app.get("pendingSwap") is not None:
        return "a swap is pending"
    deployment = app["deployment"]
    return f"{deployment['by']} deploys task hub {deployment['taskHub']}" if deployment is not None else None


def check_deployment(app: Json) -> Iterator[CheckResult]:
    """Report an open deployment, if there is one."""
    deployment = app["deployment"]
    if deployment is not None:
        run = f" (run {deployment['runUrl']})" if deployment["runUrl"] else ""
        message = (
            f"{deployment['by']}{run} has been deploying task hub {deployment['taskHub']} since "
            f"{format_instant(deployment['startedAt'])}"
        )
        yield CheckResult("deployment", CheckStatus.WARNING, message)
