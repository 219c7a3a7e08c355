"""The sequence of `safe-deploy retire` for each drained release: record the removal as pending, make sure that nothing
has started since, run the user's command, and report the outcome.

What is deleted rests on what was read after the removal was recorded. The same command continues wherever it was
interrupted, so the user's command must be safe to repeat.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from safe_deploy import dead_ends
from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.azure_function_apps import FunctionAppNotFound
from safe_deploy.client import Json, StateServerClient
from safe_deploy.errors import CommandError, ConflictError, Interrupted
from safe_deploy.next_steps import format_reasons
from safe_deploy.side_by_side.app_state import Release, ReleaseState, SideBySideApp
from safe_deploy.side_by_side.function_apps import FunctionAppNotOwned, ReleaseFunctionApps
from safe_deploy.side_by_side.promotion import check_quiescing
from safe_deploy.side_by_side.recorded_task_hubs import RecordedTaskHubs
from safe_deploy.side_by_side.release_commands import build_release_command
from safe_deploy.side_by_side.removals import MAX_ATTEMPTS, ReleaseRemoval, RemovalLost
from safe_deploy.side_by_side.retirement_planner import (
    Outcome,
    RemovalStep,
    RetirementResult,
    plan_after_command,
    plan_after_verdict,
)
from safe_deploy.side_by_side.retirement_results import (
    GONE_CODES,
    VANISHED,
    build_kept_result,
    build_removed_result,
    describe_failed_deletion,
    describe_unknown_deletion,
    explain_refusal,
    refuse_without_function_app,
)
from safe_deploy.subprocesses import CommandResult, SignalGuard
from safe_deploy.wait_progress import BeginWait, SilentProgress, WaitProgress, WaitStatus

ROUTER_WAIT_SECONDS = 180
"""How long a removal waits until routers send nothing more to a staged release: the server allows them 60 s, and then
reads the task hub."""

RESTART_SECONDS = 60
"""How long a Function App may take to restart after its functions were disabled, also by another process."""

_POLL_SECONDS = 5
_LONGEST_REQUEST_SECONDS = 30
"""How long one request waits at the server while several releases are waited for."""


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
    begin_wait: BeginWait
    results: dict[str, RetirementResult] = field(default_factory=dict)
    interrupted: bool = field(default=False, init=False)
    """Whether a signal has come."""
    _progress: WaitProgress = field(default_factory=SilentProgress, init=False)
    """Where a wait until the releases have drained is shown."""
    _streaks: dict[str, dead_ends.Streaks] = field(default_factory=dict, init=False)
    """The reasons that go on, by the release's version."""

    def run(self, releases: Sequence[Release]) -> None:
        """Retire these releases, the first one first. Raises Interrupted after a signal, and the errors of the server
        and of Azure. A release whose command fails does not keep the others from being retired."""
        deadline = time.monotonic() + self.options.timeout_seconds
        with SignalGuard() as guard, self._show_wait(releases) as self._progress:
            remaining = list(releases)
            while True:
                for release in remaining:
                    self._check_signal(guard)
                    self._record(self._retire(release, deadline, guard))
                    self.interrupted = guard.interrupted
                remaining = [release for release in remaining if self.results[release.version].may_drain]
                seconds_left = deadline - time.monotonic()
                if not remaining or not self.options.waits_for_drain or seconds_left <= 0:
                    return
                blocking = "; ".join(self.results[release.version].description for release in remaining)
                self._progress.update(WaitStatus(blocking, blocking, None))
                self._wait_for_change(remaining[0], seconds_left, guard)

    def _show_wait(self, releases: Sequence[Release]) -> AbstractContextManager[WaitProgress]:
        """Say what is waited for, if the releases' drain is."""
        if not self.options.waits_for_drain or not releases:
            return nullcontext(SilentProgress())
        versions = ", ".join(release.version for release in releases)
        noun = "release" if len(releases) == 1 else "releases"
        subject = f"until {noun} {versions} of app {self.server.app} may be removed"
        return self.begin_wait(subject, self.options.timeout_seconds)

    def _record(self, result: RetirementResult) -> None:
        """Keep the result, and report it if it differs from an earlier one."""
        version = result.release.version
        previous = self.results.get(version)
        self.results[version] = result
        if previous is None or _comparison_key(previous) != _comparison_key(result):
            self.report(result.description)

    def _is_dead_end(self, release: Release, verdict: Json) -> bool:
        """Whether it is of no use to wait longer until the release has drained."""
        streaks = dead_ends.extend_streaks(self._streaks.get(release.version, {}), verdict)
        self._streaks[release.version] = streaks
        return self.options.waits_for_drain and dead_ends.find_dead_end(streaks, verdict) is not None

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
            if error.problem_code not in GONE_CODES:
                raise
        # A release that is in use, or a server that stops, is answered at once.
        guard.sleep(min(_POLL_SECONDS, max(0.0, wait_seconds - (time.monotonic() - started)), seconds_left))

    def _retire(self, release: Release, deadline: float, guard: SignalGuard) -> RetirementResult:
        """Retire one release, as far as it has drained."""
        removal_or_result = self._begin(release)
        if isinstance(removal_or_result, RetirementResult):
            return removal_or_result
        removal = removal_or_result
        try:
            return self._remove(removal, deadline, guard)
        except RemovalLost as error:
            outcome = Outcome.RETIRED if error.is_removed else Outcome.FAILED
            return RetirementResult(release=removal.release, outcome=outcome, message=error.message, is_conflict=True)
        except FunctionAppNotOwned as error:
            return _refuse(removal.release, error)
        except CommandError as error:
            if error.problem_code not in GONE_CODES:
                raise
            return build_removed_result(removal.release)

    def _begin(self, release: Release) -> ReleaseRemoval | RetirementResult:
        """Record the removal as pending if the release has drained, or take over one that has begun. The app is the one
        that was checked: if it has changed since, it is checked again."""
        for _ in range(MAX_ATTEMPTS):
            try:
                verdict = self.server.get_release_status(release.version)
                removal_or_result = self._find_obstacle(release, verdict) or self._record_pending(release, verdict)
            except CommandError as error:
                if error.problem_code == "PreconditionFailed":
                    continue
                return explain_refusal(release, error)
            if removal_or_result is not None:
                return removal_or_result
        raise ConflictError(
            f"release {release.version} was not removed, because other callers changed app {self.server.app} "
            f"{MAX_ATTEMPTS} times at that moment. Run the same command again"
        )

    def _find_obstacle(self, release: Release, verdict: Json) -> RetirementResult | None:
        """The result of a release whose removal must not begin; None if it may, or if it has begun."""
        if verdict["state"] == ReleaseState.REMOVING:
            return None
        if self.options.respects_retention and verdict["kept"]:
            return build_kept_result(release, verdict["keptUntil"])
        if verdict["ready"]:
            return None
        return RetirementResult(
            release=release,
            outcome=Outcome.NOT_DRAINED,
            reasons=verdict["reasons"],
            is_dead_end=self._is_dead_end(release, verdict),
        )

    def _record_pending(self, release: Release, verdict: Json) -> ReleaseRemoval | RetirementResult | None:
        """Check the Function App, and record the removal as pending. None if another caller has begun or ended a
        removal since the verdict. Raises ConflictError with the code PreconditionFailed if the app has changed."""
        response, etag = self.server.get_app()
        app = SideBySideApp.from_json(response)
        current = app.releases.get(release.version)
        if current is None:
            return build_removed_result(release)
        continued = current.state == ReleaseState.REMOVING
        if continued != (verdict["state"] == ReleaseState.REMOVING):
            return None
        self._check_quiescing(app)
        try:
            # Only an earlier attempt can have deleted it. Otherwise it may be in another resource group.
            function_app = self._find_own_function_app(app, current, may_be_deleted=continued)
        except FunctionAppNotFound as error:
            return refuse_without_function_app(app, current, error)
        except FunctionAppNotOwned as error:
            return _refuse(current, error)
        return ReleaseRemoval.begin(self.server, current, function_app=function_app, continued=continued, etag=etag)

    def _check_quiescing(self, app: SideBySideApp) -> None:
        """Raises UsageError if functions are to be disabled and Azure is not asked."""
        if self.function_apps is None:
            check_quiescing(app, "")

    def _find_own_function_app(self, app: SideBySideApp, release: Release, *, may_be_deleted: bool) -> str | None:
        """The name of the Function App that may be deleted; None if it is deleted already, or if Azure is not asked.
        Raises FunctionAppNotOwned, and FunctionAppNotFound unless it may be deleted already."""
        if self.function_apps is None:
            return None
        try:
            return self.function_apps.require_own(app, release)
        except FunctionAppNotFound:
            if not may_be_deleted:
                raise
            return None

    def _remove(self, removal: ReleaseRemoval, deadline: float, guard: SignalGuard) -> RetirementResult:
        """Delete the Function App of a release whose removal is pending."""
        while True:
            self._quiesce(removal, guard)
            step, verdict = self._await_verdict(removal, deadline, guard)
            if step is RemovalStep.STOP:
                removal.require_pending("the command was not run")
                continue
            if step is not RemovalStep.DELETE:
                return self._stop(removal, verdict)
            had_function_app = removal.function_app is not None
            with self._giving_back(removal):
                removal.function_app = self._find_own_function_app(removal.app, removal.release, may_be_deleted=True)
            if had_function_app and removal.function_app is None and not removal.continued:
                return RetirementResult(release=removal.release, outcome=Outcome.FAILED, message=VANISHED)
            if guard.interrupted:
                return self._stop(removal, verdict)
            # Last of all, because the verdict and the answers of Azure may have taken minutes.
            if not removal.refresh():
                return self._run_command(removal, guard)

    def _stop(self, removal: ReleaseRemoval, verdict: Json) -> RetirementResult:
        """End a removal whose command was not run. If an earlier attempt may have run it, the removal stays pending."""
        if not removal.continued:
            removal.give_back("the command was not run")
        outcome = Outcome.REMOVING if removal.continued else Outcome.NOT_DRAINED
        return RetirementResult(release=removal.release, outcome=outcome, reasons=verdict["reasons"])

    @contextmanager
    def _giving_back(self, removal: ReleaseRemoval) -> Iterator[None]:
        """Record the outcome Failed if an error ends the block before anything was deleted."""
        try:
            yield
        except CommandError:
            if not removal.continued:
                removal.give_back("the command was not run")
            raise

    def _quiesce(self, removal: ReleaseRemoval, guard: SignalGuard) -> None:
        """Disable the functions that start work by themselves, so that the next verdict holds.

        Called while the removal is pending: earlier, a rollback could have made the release the active one.
        """
        app = removal.app
        with self._giving_back(removal):
            self._check_quiescing(app)
            if self.function_apps is None or removal.function_app is None:
                return
            self.function_apps.quiesce(app, removal.release)
        if app.quiesce_functions:
            # Also if they were disabled already: a promotion, or an attempt that was interrupted, may just have done
            # so.
            self.report(
                f"waiting {RESTART_SECONDS} s, because the functions may start work until the app has restarted"
            )
            guard.sleep(RESTART_SECONDS)

    def _run_command(self, removal: ReleaseRemoval, guard: SignalGuard) -> RetirementResult:
        """Run the user's command, and record the outcome as far as it is known."""
        release = removal.release
        name = removal.function_app or "" if self.function_apps is not None else None
        command = build_release_command(self.options.command_line, release, name)
        self.report(f"release {release.version} is drained and gets no traffic; running {command}")
        with self._giving_back(removal), self._progress.pause():
            result = guard.run(command)
        exists = self._look_for_function_app(release, result)
        step = plan_after_command(result, exists=exists, continued=removal.continued)
        if step is RemovalStep.FINISH:
            return self._finish(removal)
        if step is RemovalStep.GIVE_BACK:
            removal.give_back(f"the command {result}")
            message = f"the command {result}. {describe_failed_deletion(exists=exists)}"
        else:
            message = describe_unknown_deletion(result, exists=exists)
        return RetirementResult(release=release, outcome=Outcome.FAILED, message=message)

    def _await_verdict(self, removal: ReleaseRemoval, deadline: float, guard: SignalGuard) -> tuple[RemovalStep, Json]:
        """The verdict after the removal has begun, which covers what has started until then. For a staged release,
        waits until routers send it nothing more."""
        release, continued = removal.release, removal.continued
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
                has_time=seconds_left > 0 and not guard.interrupted and not self._is_dead_end(release, verdict),
                waits_for_drain=waits_for_drain,
            )
            if step is RemovalStep.DELETE and guard.interrupted:
                return RemovalStep.LEAVE_PENDING if continued else RemovalStep.GIVE_BACK, verdict
            if step is not RemovalStep.WAIT:
                return step, verdict
            codes = [reason["code"] for reason in verdict["reasons"]]
            if codes != reported:
                reported = codes
                details = format_reasons(verdict["reasons"])
                self.report(f"release {release.version} is Removing; waiting: {details}")
            wait_seconds = int(min(_LONGEST_REQUEST_SECONDS, seconds_left))
            guard.sleep(min(1, seconds_left))

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

    def _finish(self, removal: ReleaseRemoval) -> RetirementResult:
        """Delete the task hub on the scheduler, and report that the Function App is deleted."""
        release = removal.release
        deleted = "its Function App is deleted"
        try:
            if self.task_hubs is not None:
                removal.require_pending(deleted)
                self.task_hubs.delete(release.task_hub)
            removal.finish(deleted)
        except RemovalLost:
            raise
        except CommandError as error:
            raise type(error)(
                f"{error.message}. The Function App of release {release.version} is deleted, and the release stays "
                "Removing. Run the same command again to finish its removal",
                error.problem,
            ) from error
        return RetirementResult(release=release, outcome=Outcome.RETIRED)


def _refuse(release: Release, error: FunctionAppNotOwned) -> RetirementResult:
    """The result of a release whose Function App must not be deleted."""
    return RetirementResult(release=release, outcome=Outcome.FAILED, is_conflict=True, message=error.message)


def _comparison_key(result: RetirementResult) -> object:
    """What must differ for a result to be reported again."""
    return result.outcome, result.message, [reason["code"] for reason in result.reasons]
