"""Drives a rollout into a slot: sets in Azure the share that the server decides, confirms it, and swaps at the end.

The server cannot set the share, so it needs this command for every change. However the command is interrupted, running
it again continues from what the server and Azure say then.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.client import Json, StateServerClient
from safe_deploy.errors import CommandError, ConflictError, Interrupted, ServerUnavailable, TimedOut
from safe_deploy.rendering import parse_timestamp
from safe_deploy.rollouts import following, slot_share
from safe_deploy.rollouts.beginning import begin_rollout
from safe_deploy.rollouts.following import BeginLiveLine, RolloutReporter, describe_end
from safe_deploy.rollouts.messages import RolloutState, describe_rollout, has_ended
from safe_deploy.rollouts.rollout_changes import change_rollout
from safe_deploy.rollouts.rollout_identity import build_etag, is_same_rollout, require_same_rollout
from safe_deploy.rollouts.slot_planner import (
    RecordedRollout,
    SlotRolloutStep,
    describe_ignored_share,
    plan_slot_rollout,
    require_clean_start,
)
from safe_deploy.rollouts.slot_share import SlotShare
from safe_deploy.slot_observer import SlotObserver
from safe_deploy.slot_task_hubs import ObservedSlots, RecordedSlots, is_same_task_hub
from safe_deploy.subprocesses import Command, SignalGuard, command_environment
from safe_deploy.swap_executor import SwapExecutor
from safe_deploy.swap_messages import STICKY_SETTING_MESSAGE, describe_production_mismatch
from safe_deploy.wait_progress import WaitProgress

CHECK_SECONDS = 60
"""How often the task hubs of the slots are read in Azure, and the observed share is compared, while nothing changes."""

_ABORT_RETRY_SECONDS = 10
"""How long an abort tries to reach the server before it removes the share in Azure all the same."""

_CONFLICT_ATTEMPTS = 3
"""How often Azure is read before what it shows contradicts the server. It may show an old value for some seconds."""


class _RolloutChanged(Exception):  # ends a step, not the command
    """The server has `rollout` by now, so the step that was planned is not taken."""

    def __init__(self, rollout: Json) -> None:
        super().__init__()
        self.rollout = rollout


@dataclass(kw_only=True)
class SlotRollout:
    """The rollout of an app with slots. The command line swaps the slots. `warn` gets what a person should look at."""

    server: StateServerClient
    slot: str
    share: SlotShare
    observer: SlotObserver
    swap_executor: SwapExecutor
    swap_command_line: Sequence[str]
    guard: SignalGuard
    begin_live_line: BeginLiveLine
    report: Callable[[str], None]
    warn: Callable[[str], None]
    _live_line: WaitProgress | None = field(default=None, init=False)
    """The line of the terminal in which the rollout is followed."""
    _slots_read_at: float = field(default=-math.inf, init=False)
    """When the task hubs of the slots were read last, by the monotonic clock."""
    _share_compared_at: float = field(default=-math.inf, init=False)
    """When the observed share was compared last."""
    _warned_step: int | None = field(default=None, init=False)
    """The step for which an ignored share was reported."""

    @property
    def advances_without_pipeline(self) -> bool:
        return False

    def start(self, body: Json, app: Json, etag: str) -> Json:
        """Begin the rollout, or find that it is in progress already. Returns it.

        Raises ConflictError if visitors are already sent to slots, or if the slots in Azure are not those on record.
        """
        with self.guard:
            if app["rollout"] is None or has_ended(app["rollout"]):
                self._check_before_start(app)
            if self.guard.interrupted:
                raise Interrupted("stopped before the rollout was begun. Nothing has changed")
            return begin_rollout(self.server, body, app, etag, report=self.report)

    def follow(self, rollout: Json, *, timeout_seconds: float) -> Json:
        """Drive the rollout to its end. Returns it. A paused one is followed until a person has decided, because an
        unhealthy candidate must lose its share meanwhile.

        Raises TimedOut, and ConflictError after a signal, or if server and Azure disagree.
        """
        with self.guard, self.begin_live_line(describe_end(rollout), timeout_seconds) as self._live_line:
            return self._drive(rollout, deadline=time.monotonic() + timeout_seconds)

    def change(self, action: str, body: Json) -> Json:
        """Abort or finish the rollout, and drive it to its end. Returns it."""
        with self.guard:
            rollout = self._abort(body) if action == "abort" else self._finish(body)
            return self._drive(rollout, deadline=None)

    def _check_before_start(self, app: Json) -> None:
        """Before the server records a rollout, Azure must be as the server has it. Raises ConflictError."""
        if self.share.retry(self.observer.is_task_hub_setting_sticky):
            raise ConflictError(STICKY_SETTING_MESSAGE)
        recorded = RecordedSlots.from_app(app, self.slot, self.server.url)
        observed = self._read_slots()
        if recorded.production is not None and not is_same_task_hub(recorded.production, observed.production):
            raise ConflictError(describe_production_mismatch(recorded, observed.production))
        if recorded.slot is not None and not is_same_task_hub(recorded.slot, observed.slot):
            raise ConflictError(
                f"the server has task hub {recorded.slot} in slot {self.slot}, but in Azure the slot has "
                f"{observed.slot or 'no task hub'}. Deploy the version with its new task hub name into the slot first"
            )
        require_clean_start(self.server.app, self.share.observe())

    def _finish(self, body: Json) -> Json:
        """Let the rollout on record finish. Returns it."""
        return change_rollout(self.server, self.server.get_rollout(), "finish", body, report=self.report)

    def _abort(self, body: Json) -> Json:
        """Send the abort to the server. If it cannot be reached, the share in Azure is removed all the same."""
        expected: Json | None = None
        try:
            expected = self.server.get_rollout(retry_seconds=_ABORT_RETRY_SECONDS)
            return change_rollout(
                self.server, expected, "abort", body, report=self.report, retry_seconds=_ABORT_RETRY_SECONDS
            )
        except ServerUnavailable as error:
            self.report(f"{error.message}. The share of slot {self.slot} in Azure is removed all the same")
            self.share.set_share(0)
            self.report(f"Azure sends no new visitor to slot {self.slot}; reporting that to the server")
            return self._abort_on_server(expected, body)

    def _abort_on_server(self, expected: Json | None, body: Json) -> Json:
        """Report the abort after the share was removed. `expected`: the rollout, if it could be read before. Raises
        ServerUnavailable with what is left to do."""
        try:
            return change_rollout(self.server, expected or self.server.get_rollout(), "abort", body, report=self.report)
        except ServerUnavailable as error:
            raise ServerUnavailable(
                f"{error.message}. Azure sends no new visitor to slot {self.slot} any more, but the server has not "
                "recorded the abort. Do not run safe-deploy rollout start, which would set the share again. Run "
                "safe-deploy rollout abort again as soon as the server answers; until then the slot is not ready"
            ) from error

    def _drive(self, rollout: Json, *, deadline: float | None) -> Json:
        """Take steps until the rollout has ended. If Azure cannot be asked any more, the error says what is left.

        Raises ConflictError when another rollout has taken its place, which has a command of its own."""
        reporter = RolloutReporter(report=self.report, live_line=self._live_line)
        driven = rollout
        while True:
            require_same_rollout(driven, rollout, consequence=f"The share of slot {self.slot} is left to it.")
            reporter.print_rollout(rollout)
            recorded = RecordedRollout.from_json(rollout)
            if recorded.slot.lower() != self.slot.lower():
                raise ConflictError(f"the rollout is one of slot {recorded.slot}, and --slot is {self.slot}")
            try:
                step = self._plan(recorded)
                if step is SlotRolloutStep.END:
                    return rollout
                if step is SlotRolloutStep.WAIT:
                    self._print_health(rollout, reporter)
                    self._wait(rollout, deadline)
                    rollout = self.server.advance_rollout()
                else:
                    rollout = self._carry_out(step, recorded, rollout)
            except _RolloutChanged as change:
                rollout = change.rollout
            except AzureUnavailable as error:
                raise AzureUnavailable(f"{error.message} {_describe_left(rollout)}") from error

    def _plan(self, recorded: RecordedRollout) -> SlotRolloutStep:
        """The next step. Azure is read again before a contradiction is believed. Raises ConflictError."""
        for _ in range(_CONFLICT_ATTEMPTS - 1):
            try:
                return plan_slot_rollout(recorded, self.share.observe(), self._read_slots_if_needed(recorded))
            except ConflictError:
                self.guard.sleep(slot_share.READ_BACK_SECONDS)
        return plan_slot_rollout(recorded, self.share.observe(), self._read_slots_if_needed(recorded))

    def _read_slots_if_needed(self, recorded: RecordedRollout) -> ObservedSlots | None:
        """The task hubs of the slots before the share is raised, and now and then while it stays."""
        is_recent = time.monotonic() - self._slots_read_at < CHECK_SECONDS
        if recorded.weight == 0 or (recorded.confirmed and is_recent):
            return None
        observed = self._read_slots()
        self._slots_read_at = time.monotonic()
        return observed

    def _read_slots(self) -> ObservedSlots:
        """The task hubs of the slots in Azure."""
        observed = self.share.retry(self.observer.observe)
        assert observed is not None, "a rollout into a slot is driven only if Azure can be read"
        return observed

    def _carry_out(self, step: SlotRolloutStep, recorded: RecordedRollout, rollout: Json) -> Json:
        """Take one step that changes something. Returns the rollout afterwards."""
        if step is SlotRolloutStep.CLEAR:
            if not self.share.clear(before_repeat=lambda: self._require_same_on_server(rollout)):
                raise self._stopped(rollout, "Azure shows no share of the slot, but was not watched for long enough")
            return self._confirm(rollout)
        if self.guard.interrupted:
            raise self._stopped(rollout)
        if step is SlotRolloutStep.SWAP:
            environment = command_environment(SAFE_DEPLOY_TASK_HUB=recorded.task_hub)
            # The command prints for itself.
            with self._live_line.pause() if self._live_line is not None else nullcontext():
                self.swap_executor.swap(recorded.task_hub, Command(self.swap_command_line, environment))
            return self.server.get_rollout()
        if step is SlotRolloutStep.SET_SHARE:
            self.report(f"setting {recorded.weight} % for slot {recorded.slot} in Azure")
            self.share.set_share(recorded.weight, before_change=lambda: self._require_weight_on_server(rollout))
        return self._confirm(rollout)

    def _require_weight_on_server(self, rollout: Json) -> None:
        """Before the share is raised: the server must still have this rollout with this share, because reading Azure
        may have taken minutes. Raises _RolloutChanged."""
        current = self.server.get_rollout()
        if not _has_same_weight(rollout, current):
            raise _RolloutChanged(current)

    def _require_same_on_server(self, rollout: Json) -> None:
        """Before a share that has come back is removed: it must not be that of another rollout. Raises _RolloutChanged.
        A server that cannot be reached does not prevent the removal."""
        with suppress(ServerUnavailable):
            current = self.server.get_rollout(retry_seconds=0)
            if not is_same_rollout(rollout, current):
                raise _RolloutChanged(current)

    def _confirm(self, rollout: Json) -> Json:
        """Report that Azure has the share. Returns the rollout, also if it needs another share by now, or if another
        rollout has taken its place."""
        current = rollout
        while _has_same_weight(rollout, current):
            try:
                return self.server.post_rollout("confirm", {"weight": rollout["weight"]}, etag=build_etag(current))
            except ConflictError as error:
                if error.problem_code != "PreconditionFailed":
                    raise
            current = self.server.get_rollout()
        return current

    def _wait(self, rollout: Json, deadline: float | None) -> None:
        """Wait until the server is asked again. Raises ConflictError after a signal, and TimedOut."""
        if deadline is not None and time.monotonic() >= deadline:
            raise TimedOut(f"the rollout has not ended within --timeout. {_describe_left(rollout)}")
        self.guard.sleep(following.POLL_SECONDS)
        if self.guard.interrupted:
            raise self._stopped(rollout)

    def _stopped(self, rollout: Json, detail: str = "") -> ConflictError:
        """The error after a signal, with what is left."""
        return ConflictError(". ".join(filter(None, ["stopped on request", detail, _describe_left(rollout)])))

    def _print_health(self, rollout: Json, reporter: RolloutReporter) -> None:
        """Report how the candidate does, and warn if Azure seems to ignore the share. A server that cannot answer now
        ends nothing, because it decides itself."""
        if rollout["state"] not in (RolloutState.RUNNING, RolloutState.PAUSED):
            return
        try:
            reporter.print_health(self.server.get_rollout_health(candidate=None, baseline=None, since=None))
            self._warn_about_ignored_share(rollout)
        except CommandError as error:
            reporter.print_failure(f"the health of the candidate is not known: {error.message}")

    def _warn_about_ignored_share(self, rollout: Json) -> None:
        """Warn once a step. The comparison begins with the step, because the share was another one before."""
        is_recent = time.monotonic() - self._share_compared_at < CHECK_SECONDS
        if rollout["stepEndsAt"] is None or self._warned_step == rollout["step"] or is_recent:
            return
        self._share_compared_at = time.monotonic()
        minutes = rollout["steps"][rollout["step"] - 1]["minutes"]
        since = parse_timestamp(rollout["stepEndsAt"]) - timedelta(minutes=minutes)
        health = self.server.get_rollout_health(candidate=None, baseline=None, since=f"{since:%Y-%m-%dT%H:%M:%S}Z")
        if warning := describe_ignored_share(health):
            self._warned_step = rollout["step"]
            self.warn(warning)


def _has_same_weight(rollout: Json, current: Json) -> bool:
    """Whether the same rollout still needs the same share."""
    return is_same_rollout(rollout, current) and bool(rollout["weight"] == current["weight"])


def _describe_left(rollout: Json) -> str:
    """What remains after a command that did not reach the end, and which commands continue."""
    if has_ended(rollout):
        return f"{describe_rollout(rollout)}. Run the same command again"
    return (
        f"{describe_rollout(rollout)}. The slot keeps the share that it has in Azure, and while no command follows the "
        "rollout, nothing changes it. Run the same command again to continue, or safe-deploy rollout abort"
    )
