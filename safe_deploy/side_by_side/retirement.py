"""The sequence of `safe-deploy retire` for each drained release: record the removal as pending, make sure that nothing
has started since, run the user's command, and report the outcome.

The same command continues wherever it was interrupted, so the user's command must be safe to repeat.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.azure_function_apps import FunctionAppNotFound
from safe_deploy.client import Json, StateServerClient
from safe_deploy.errors import CommandError
from safe_deploy.scheduler_task_hubs import SchedulerTaskHubs
from safe_deploy.side_by_side.app_state import Release, ReleaseState, SideBySideApp
from safe_deploy.side_by_side.function_apps import ReleaseFunctionApps
from safe_deploy.side_by_side.release_commands import build_release_command
from safe_deploy.side_by_side.retirement_planner import (
    Outcome,
    RemovalStep,
    RetirementResult,
    plan_after_command,
    plan_after_verdict,
)
from safe_deploy.subprocesses import CommandResult, SignalGuard

ROUTER_WAIT_SECONDS = 180
"""How long a removal waits until routers send nothing more to a staged release: the server allows them 60 s, and then
reads the task hub."""

RESTART_SECONDS = 60
"""How long a Function App may take to restart after its functions were disabled, also by another process."""

_POLL_SECONDS = 5
_LONGEST_REQUEST_SECONDS = 30
"""How long one request waits at the server while several releases are waited for."""

_NOT_DRAINED_CODES = frozenset({"ReleaseNotDrained", "ReleaseInUse", "DeploymentInProgress"})
_GONE_CODES = frozenset({"ReleaseNotFound", "ReleaseRemoved"})


_ENDED_BY_OTHERS = (
    "another caller has ended its removal with the outcome Failed, so that it may get traffic again. The command was "
    "not run"
)


class RecordedTaskHubs:
    """Deletes task hubs of a scheduler, if the server has on record that they were new when they were registered."""

    def __init__(self, server: StateServerClient, task_hubs: SchedulerTaskHubs, *, warn: Callable[[str], None]) -> None:
        self._server = server
        self._task_hubs = task_hubs
        self._warn = warn

    def delete(self, task_hub: str) -> None:
        """Delete the task hub, unless it is gone. Without the record it stays, because others may have created it."""
        proof = self._server.get_task_hub(task_hub)["proof"]
        if proof is not None and proof["basis"] == "New":
            self._task_hubs.delete(task_hub)
            return
        self._warn(
            f"task hub {task_hub} stays on the scheduler: the server has no record that it was new when its release "
            "was registered. If it belongs to the release, delete it by hand"
        )


class Interrupted(CommandError):
    """A signal has come. No further release is retired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetirementOptions:
    """`waits_for_drain`: wait until the releases have drained, for at most `timeout_seconds`. `respects_retention`:
    leave alone what the policy keeps for a rollback."""

    command_line: Sequence[str]
    respects_retention: bool
    waits_for_drain: bool
    timeout_seconds: float


@dataclass(slots=True, kw_only=True)
class Retirement:
    """Retires releases of one app. `results` has what became of each, also if `run` raises an error."""

    server: StateServerClient
    options: RetirementOptions
    function_apps: ReleaseFunctionApps | None
    task_hubs: RecordedTaskHubs | None
    report: Callable[[str], None]
    results: dict[str, RetirementResult] = field(default_factory=dict)

    def run(self, app: SideBySideApp, releases: Sequence[Release]) -> None:
        """Retire these releases, the first one first. Raises Interrupted after a signal, and the errors of the server
        and of Azure. A release whose command fails does not keep the others from being retired."""
        deadline = time.monotonic() + self.options.timeout_seconds
        with SignalGuard() as guard:
            remaining = list(releases)
            while True:
                for release in remaining:
                    self._check_signal(guard)
                    self._record(self._retire(app, release, deadline, guard))
                remaining = [
                    release for release in remaining if self.results[release.version].outcome is Outcome.NOT_DRAINED
                ]
                seconds_left = deadline - time.monotonic()
                if not remaining or not self.options.waits_for_drain or seconds_left <= 0:
                    return
                self._wait_for_change(remaining[0], seconds_left, guard)

    def _record(self, result: RetirementResult) -> None:
        """Keep the result, and report it if it differs from an earlier one."""
        version = result.release.version
        previous = self.results.get(version)
        self.results[version] = result
        if previous is None or _comparison_key(previous) != _comparison_key(result):
            self.report(": ".join(filter(None, (f"release {version} is {result.outcome.value}", result.explanation))))

    def _check_signal(self, guard: SignalGuard) -> None:
        """Stop between two releases if a signal has come. Raises Interrupted."""
        if guard.interrupted:
            raise Interrupted("stopped before all releases were looked at. Run the same command again")

    def _wait_for_change(self, release: Release, seconds_left: float, guard: SignalGuard) -> None:
        """Wait until this release may have drained, or another one: not longer than one request."""
        self._check_signal(guard)
        started = time.monotonic()
        wait_seconds = int(min(_LONGEST_REQUEST_SECONDS, seconds_left))
        try:
            self.server.get_release_status(release.version, wait_seconds=wait_seconds)
        except CommandError as error:
            if error.problem_code not in _GONE_CODES:
                raise
        # A release that is in use, or a server that stops, is answered at once.
        guard.sleep(min(_POLL_SECONDS, max(0.0, wait_seconds - (time.monotonic() - started)), seconds_left))

    def _retire(self, app: SideBySideApp, release: Release, deadline: float, guard: SignalGuard) -> RetirementResult:
        """Retire one release, as far as it has drained."""
        continued = release.state == ReleaseState.REMOVING
        function_app: str | None = None
        try:
            if not continued:
                verdict = self.server.get_release_status(release.version)
                if self.options.respects_retention and verdict["kept"]:
                    return _keep(release, verdict["keptUntil"])
                if not verdict["ready"]:
                    return RetirementResult(release=release, outcome=Outcome.NOT_DRAINED, reasons=verdict["reasons"])
            if self.function_apps is not None:
                # Only an earlier attempt can have deleted it. Otherwise it may be in another resource group.
                function_app = self.function_apps.find(release) if continued else self.function_apps.require(release)
                shared = function_app and self.function_apps.describe_sharing(app, release, function_app)
                if shared:
                    return RetirementResult(release=release, outcome=Outcome.FAILED, is_conflict=True, message=shared)
            self.server.delete_release(release.version, outcome="Pending")
        except FunctionAppNotFound as error:
            return _refuse_without_function_app(app, release, error)
        except CommandError as error:
            return _explain_refusal(release, error)
        if function_app is not None:
            self._quiesce(app, release, guard, continued=continued)
        return self._remove(release, function_app, deadline, guard, continued=continued)

    def _quiesce(self, app: SideBySideApp, release: Release, guard: SignalGuard, *, continued: bool) -> None:
        """Disable the functions that start work by themselves, so that the next verdict holds.

        Called while the removal is pending: earlier, a rollback could have made the release the active one.
        """
        assert self.function_apps is not None, "called only for a Function App in Azure"
        try:
            self.function_apps.quiesce(app, release)
        except CommandError:
            if not continued:
                self.server.delete_release(release.version, outcome="Failed")
            raise
        if app.quiesce_functions:
            # Also if they were disabled already: a promotion, or an attempt that was interrupted, may just have done
            # so.
            self.report(
                f"waiting {RESTART_SECONDS} s, because the functions may start work until the app has restarted"
            )
            guard.sleep(RESTART_SECONDS)

    def _remove(
        self, release: Release, function_app: str | None, deadline: float, guard: SignalGuard, *, continued: bool
    ) -> RetirementResult:
        """Delete the Function App of a release whose removal is pending."""
        step, verdict = self._await_verdict(release, deadline, guard, continued=continued)
        if step is not RemovalStep.DELETE:
            return self._stop(release, step, verdict)
        name = function_app or "" if self.function_apps is not None else None
        command = build_release_command(self.options.command_line, release, name)
        self.report(f"release {release.version} is drained and gets no traffic; running {command}")
        try:
            result = guard.run(command)
        except CommandError:
            if not continued:
                self.server.delete_release(release.version, outcome="Failed")
            raise
        exists = self._look_for_function_app(release, result)
        step = plan_after_command(result, exists=exists, continued=continued)
        if step is RemovalStep.FINISH:
            return self._finish(release)
        if step is RemovalStep.GIVE_BACK:
            self.server.delete_release(release.version, outcome="Failed")
            message = f"the command {result}. {_describe_failed_deletion(exists=exists)}"
            return RetirementResult(release=release, outcome=Outcome.FAILED, message=message)
        return RetirementResult(
            release=release, outcome=Outcome.FAILED, message=_describe_unknown_deletion(result, exists=exists)
        )

    def _await_verdict(
        self, release: Release, deadline: float, guard: SignalGuard, *, continued: bool
    ) -> tuple[RemovalStep, Json]:
        """The verdict after the removal has begun, which covers what has started until then. For a staged release,
        waits until routers send it nothing more."""
        waits_for_drain = self.options.waits_for_drain
        router_deadline = time.monotonic() + ROUTER_WAIT_SECONDS
        end = max(deadline, router_deadline) if waits_for_drain else router_deadline
        wait_seconds = 0
        reported: list[str] | None = None
        while True:
            verdict = self.server.get_release_status(release.version, wait_seconds=wait_seconds, verify="fresh")
            seconds_left = end - time.monotonic()
            step = plan_after_verdict(
                verdict,
                continued=continued,
                has_time=seconds_left > 0 and not guard.interrupted,
                waits_for_drain=waits_for_drain,
            )
            if step is RemovalStep.DELETE and guard.interrupted:
                return RemovalStep.LEAVE_PENDING if continued else RemovalStep.GIVE_BACK, verdict
            if step is not RemovalStep.WAIT:
                return step, verdict
            codes = [reason["code"] for reason in verdict["reasons"]]
            if codes != reported:
                reported = codes
                details = "; ".join(reason["message"] for reason in verdict["reasons"])
                self.report(f"release {release.version} is Removing; waiting: {details}")
            wait_seconds = int(min(_LONGEST_REQUEST_SECONDS, seconds_left))
            guard.sleep(min(1, seconds_left))

    def _stop(self, release: Release, step: RemovalStep, verdict: Json) -> RetirementResult:
        """End a removal whose command was not run."""
        if step is RemovalStep.LEAVE_PENDING:
            return RetirementResult(release=release, outcome=Outcome.REMOVING, reasons=verdict["reasons"])
        if step is RemovalStep.STOP:
            return RetirementResult(release=release, outcome=Outcome.FAILED, message=_ENDED_BY_OTHERS)
        self.server.delete_release(release.version, outcome="Failed")
        return RetirementResult(release=release, outcome=Outcome.NOT_DRAINED, reasons=verdict["reasons"])

    def _look_for_function_app(self, release: Release, result: CommandResult) -> bool | None:
        """Whether Azure still has the Function App; None if that is unknown. Raises AzureUnavailable after a command
        that failed."""
        if self.function_apps is None or result.interrupted:
            return None
        if not result.succeeded:
            return self.function_apps.find(release) is not None
        try:
            return not self.function_apps.is_deleted(release)
        except AzureUnavailable as error:
            # A pipeline's login may expire while the command runs.
            self.report(f"whether the Function App is gone could not be checked: {error.message}")
            return None

    def _finish(self, release: Release) -> RetirementResult:
        """Delete the task hub on the scheduler, and report that the Function App is deleted."""
        try:
            if self.task_hubs is not None:
                self.task_hubs.delete(release.task_hub)
            self.server.delete_release(release.version, outcome="Done")
        except CommandError as error:
            raise type(error)(
                f"{error.message}. The Function App of release {release.version} is deleted, and the release stays "
                "Removing. Run the same command again to finish its removal",
                error.problem,
            ) from error
        return RetirementResult(release=release, outcome=Outcome.RETIRED)


def _comparison_key(result: RetirementResult) -> object:
    """What must differ for a result to be reported again."""
    return result.outcome, result.message, [reason["code"] for reason in result.reasons]


def _explain_refusal(release: Release, error: CommandError) -> RetirementResult:
    """The result of a release whose removal the server refuses to begin. Raises `error` if it is no such refusal."""
    if error.problem_code in _GONE_CODES:
        return RetirementResult(release=release, outcome=Outcome.RETIRED, message="it is removed already")
    if error.problem_code == "RemovalPending":
        return RetirementResult(release=release, outcome=Outcome.REMOVING, message=error.message)
    if error.problem_code not in _NOT_DRAINED_CODES:
        raise error
    reasons = error.problem.get("reasons") or [{"code": error.problem_code, "message": error.message}]
    return RetirementResult(release=release, outcome=Outcome.NOT_DRAINED, reasons=reasons)


def _keep(release: Release, kept_until: str | None) -> RetirementResult:
    """The result of a release that the policy keeps, which has a time only if it is not kept by `keepLast`."""
    why = (
        "by the policy's retention.keepLast" if kept_until is None else f"until {kept_until}, by retention.keepForHours"
    )
    return RetirementResult(release=release, outcome=Outcome.KEPT, message=f"it is kept for a rollback {why}")


def _refuse_without_function_app(app: SideBySideApp, release: Release, error: FunctionAppNotFound) -> RetirementResult:
    """The result of a release whose Function App is not found, although no attempt to delete it is on record."""
    if app.quiesce_functions:
        # Without a resource group, no function could be disabled.
        way = "send DeleteRelease with the outcome Done"
    else:
        way = f"run safe-deploy retire --version {release.version} -- true, without --resource-group"
    message = f"{error.message}. If the Function App is deleted already, {way}. Nothing was begun"
    return RetirementResult(release=release, outcome=Outcome.FAILED, is_conflict=True, message=message)


def _describe_failed_deletion(*, exists: bool | None) -> str:
    """What the release is after a failed command, as far as it is known."""
    if exists:
        return "The release is as it was before, and Azure still has its Function App"
    return (
        "The release is as it was before. Azure was not asked whether the command has deleted its Function App: if it "
        "has, give the release no traffic, and run the same command again"
    )


def _describe_unknown_deletion(result: CommandResult, *, exists: bool | None) -> str:
    """Why the removal stays pending after the command, and what comes next."""
    if exists:
        why = f"the command {result}, but Azure still has the Function App"
    elif result.interrupted:
        why = f"the command {result} after a request to stop, and Azure may continue the deletion"
    elif exists is None:
        why = f"the command {result}, and an earlier attempt may have deleted the Function App"
    else:
        why = f"the command {result} after the Function App was deleted"
    return f"{why}. The release stays Removing, so that it gets no traffic. Run the same command again to continue"
