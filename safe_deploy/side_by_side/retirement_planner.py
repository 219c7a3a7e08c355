"""Decides which releases are retired, and how each step of a removal ends. Pure: no I/O, no clock.

A removal has three parts: the server records it as pending, the user's command deletes the Function App, and the
outcome is reported. If it is unknown what the command has deleted, the removal stays pending: no traffic can be given
to the release then, and the next run continues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from safe_deploy.dead_ends import DEAD_END_AFTER
from safe_deploy.durations import format_duration
from safe_deploy.errors import CommandError, ConflictError, NotReady, TimedOut
from safe_deploy.next_steps import RELEASE_STEPS, format_reasons, list_next_steps
from safe_deploy.side_by_side.app_state import Release, ReleaseState, SideBySideApp
from safe_deploy.subprocesses import CommandResult

_DEAD_END_PERIOD = format_duration(DEAD_END_AFTER)

_TEMPORARY_REASONS = frozenset(
    {"RoutersBehind", "Settling", "ProbePending", "ProbeIncomplete", "ProbeStale", "ProbeThrottled"}
)
"""Reasons that end by themselves soon after the removal has begun."""


class RemovalStep(Enum):
    """What happens next in a removal that is pending."""

    DELETE = auto()
    """Run the user's command."""
    WAIT = auto()
    """Ask for the verdict again."""
    GIVE_BACK = auto()
    """Report the outcome Failed: nothing was deleted, and the release is as it was before."""
    LEAVE_PENDING = auto()
    """Report nothing: the Function App may be deleted."""
    FINISH = auto()
    """Report the outcome Done, after the task hub on a scheduler is deleted."""
    STOP = auto()
    """The removal is not pending any more: read the app again to see why."""


class Outcome(Enum):
    """What became of a release. The value is shown to people and in JSON."""

    RETIRED = "Retired"
    """Its Function App is deleted, and it is removed."""
    NOT_DRAINED = "NotDrained"
    """It still runs orchestrations, or may get requests."""
    KEPT = "Kept"
    """The policy's retention keeps it for a rollback."""
    REMOVING = "Removing"
    """Its removal has begun: by another run, or by an earlier attempt and something has started since."""
    FAILED = "Failed"
    """It was not retired: the command failed, its Function App is missing or not its own, or another caller changed its
    removal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetirementResult:
    """What became of one release, and why.

    - `is_conflict`: Azure or another caller contradicts what this command has read.
    - `is_dead_end`: it has not drained, and waiting longer is of no use.
    """

    release: Release
    outcome: Outcome
    reasons: Sequence[Mapping[str, str]] = ()
    message: str = ""
    is_conflict: bool = False
    is_dead_end: bool = False

    @property
    def may_drain(self) -> bool:
        """Whether waiting may help."""
        return self.outcome is Outcome.NOT_DRAINED and not self.is_dead_end

    @property
    def description(self) -> str:
        """The release, its outcome and why, in one line."""
        return ": ".join(filter(None, (f"release {self.release.version} is {self.outcome.value}", self.explanation)))

    @property
    def explanation(self) -> str:
        """The message, or the reasons in one line."""
        return self.message or format_reasons(self.reasons)

    def to_json(self) -> dict[str, Any]:
        """The result as `retire --output json` prints it."""
        return {
            "version": self.release.version,
            "taskHub": self.release.task_hub,
            "address": self.release.address,
            "outcome": self.outcome.value,
            "reasons": list(self.reasons),
            "message": self.message or None,
        }


def choose_releases(app: SideBySideApp, version: str | None) -> list[Release]:
    """The releases to retire, the oldest first: those that had traffic and have none now, and those whose removal has
    begun. A staged release waits for its promotion, so it is retired only if it is named.

    `version` names one; there is nothing to do if it is removed. Raises CommandError if it never existed.
    """
    if version is not None:
        return [] if version in app.removed else [app.get_release(version)]
    releases = [
        release for release in app.releases.values() if release.state in (ReleaseState.DRAINING, ReleaseState.REMOVING)
    ]
    return sorted(releases, key=lambda release: release.registered_at)


def find_failure(
    results: Sequence[RetirementResult], *, named: bool, waited_seconds: float | None
) -> CommandError | None:
    """The error that the command ends with; None if it has done what it could.

    A release that still drains is an error only if the caller has `named` it. So a schedule fails only if someone must
    act. `waited_seconds`: how long it was waited until the releases drain, None if it was not.
    """
    failed = [result for result in results if result.outcome is Outcome.FAILED]
    if failed:
        failure_type = ConflictError if all(result.is_conflict for result in failed) else CommandError
        return failure_type("; ".join(f"release {result.release.version}: {result.explanation}" for result in failed))
    left = [result for result in results if result.outcome not in (Outcome.RETIRED, Outcome.KEPT)]
    if waited_seconds is not None:
        left = left if named else [result for result in left if result.outcome is Outcome.NOT_DRAINED]
        within = f" within {waited_seconds:.10g} s"
        error_type: type[CommandError] = TimedOut
        if left and all(result.is_dead_end for result in left):
            within, error_type = f", and waiting does not help: unchanged for at least {_DEAD_END_PERIOD}", NotReady
    else:
        left = left if named else []
        within = ""
        error_type = NotReady
    if not left:
        return None
    details = "; ".join(f"release {result.release.version}: {result.explanation}" for result in left)
    reasons = [reason for result in left if result.is_dead_end for reason in result.reasons]
    steps = list_next_steps(reasons, RELEASE_STEPS)
    return error_type(". ".join([f"not retired{within}: {details}", *steps]))


def plan_after_verdict(
    verdict: Mapping[str, Any], *, continued: bool, has_time: bool, waits_for_drain: bool
) -> RemovalStep:
    """The step after a fresh verdict on a release whose removal is pending.

    `continued`: an earlier attempt began the removal, so its command may have run. `has_time`: the time to wait is not
    over. `waits_for_drain`: instances that are active are waited for, too.
    """
    if verdict["state"] != ReleaseState.REMOVING:
        return RemovalStep.STOP
    if verdict["ready"]:
        return RemovalStep.DELETE
    codes = {reason["code"] for reason in verdict["reasons"]}
    if has_time and (waits_for_drain or codes <= _TEMPORARY_REASONS):
        return RemovalStep.WAIT
    return RemovalStep.LEAVE_PENDING if continued else RemovalStep.GIVE_BACK


def plan_after_command(result: CommandResult, *, exists: bool | None, continued: bool) -> RemovalStep:
    """The step after the user's command.

    `exists`: whether Azure still has the Function App; None if that is unknown. `continued`: an earlier attempt may
    have deleted it.
    """
    if result.interrupted:
        # Azure continues a deletion that it has accepted.
        return RemovalStep.LEAVE_PENDING
    if result.succeeded:
        return RemovalStep.LEAVE_PENDING if exists else RemovalStep.FINISH
    is_maybe_deleted = exists is False or (exists is None and continued)
    return RemovalStep.LEAVE_PENDING if is_maybe_deleted else RemovalStep.GIVE_BACK
