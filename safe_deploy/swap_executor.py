"""Carrying out a swap or a rollback: record, command, look, confirm or take back. What to do is decided in `swaps.py`.

Whatever goes wrong, the server's record is right in the end, or it is pending, which keeps everybody else away from the
slot; and the message says what to type.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from safe_deploy.client import Json, StateServerClient
from safe_deploy.deployment_slots import AzureUnavailable, DeploymentSlots
from safe_deploy.errors import CommandError, ConflictError, ServerUnavailable
from safe_deploy.subprocesses import Command, CommandResult, SignalGuard
from safe_deploy.swap_planner import (
    STICKY_SETTING_MESSAGE,
    ObservedSlots,
    PendingSwap,
    RecordedSlots,
    SwapAttempt,
    SwapStep,
    choose_rollback_task_hub,
    describe_interrupted_swap,
    is_same_task_hub,
    plan_after_command,
    plan_interrupted_swap,
    plan_swap,
)

STABILIZATION_SECONDS = 300
"""How long Azure is watched before it is believed that it goes on with no swap. A swap takes one to two minutes where
all is well: the slot's instances are started anew and warmed up first."""

_MAX_OBSERVATIONS = 3
_OBSERVATION_INTERVAL_SECONDS = 2
"""After a swap that went well the platform is looked at so often before its word is doubted."""

_WATCH_INTERVAL_SECONDS = 10
"""How often the platform is looked at while it is watched. One look is one or two calls of `az`."""

_MAX_ATTEMPTS = 3
"""How often a swap is begun anew because somebody else changed the app at the same moment."""

_HISTORY_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class _SwapPlan:
    """One swap: into production, out of it, and by what command. `rollback` goes on record."""

    task_hub: str
    swapped_out: str | None
    command: Command
    rollback: bool
    resumed: bool = False


class SwapExecutor:
    """Brings task hubs into production. `deployment_slots` is None where the platform cannot be looked at;
    `finish_interrupted_swap` is in
    seconds, see SETTLE_SECONDS."""

    def __init__(
        self,
        server: StateServerClient,
        slot: str,
        deployment_slots: DeploymentSlots | None,
        stabilization_seconds: float,
        guard: SignalGuard,
        report: Callable[[str], None],
    ) -> None:
        self._server = server
        self._slot = slot
        self._deployment_slots = deployment_slots
        self._stabilization_seconds = stabilization_seconds
        self._guard = guard
        self._report = report

    def swap(self, task_hub: str, command: Command, rollback: bool = False) -> Json:
        """Bring `task_hub` into production. Answers the app. Repeating it is safe, however it ended before."""
        for _ in range(_MAX_ATTEMPTS):
            app, etag = self._server.get_app()
            recorded = self._read_recorded_slots(app)
            observed = self._observe_slots()
            step = plan_swap(recorded, task_hub, observed, self._server.caller.run_url)
            if step is SwapStep.ALREADY_SWAPPED:
                self._report(f"task hub {task_hub} is in production already; the command was not run")
                return app
            if step is SwapStep.RESUME and recorded.pending_swap is not None:
                step = self._await_interrupted_swap(recorded, recorded.pending_swap)
            if step is SwapStep.CONFIRM:
                self._report(f"in Azure, production carries task hub {task_hub} already; the command was not run")
                if recorded.pending_swap is not None:
                    return self._report_outcome("Done", task_hub, f"production carries task hub {task_hub}", rollback)
            elif recorded.pending_swap is None:
                self._require_setting_not_sticky()
            try:
                if step is SwapStep.CONFIRM:
                    # Nobody began it here. The server takes that at once, of the record that was looked at.
                    return self._server.post_swap(task_hub, self._slot, None, rollback, etag)
                begun = self._record_pending_swap(task_hub, rollback, etag)
            except ConflictError as error:
                if error.problem.get("code") != "PreconditionFailed":
                    raise
                continue
            if self._read_recorded_slots(begun).pending_swap is None:
                # Somebody has ended it since the look, which holds no longer.
                continue
            swapped_out = recorded.pending_swap.swapped_out if recorded.pending_swap else recorded.production
            return self._run_swap_command(
                _SwapPlan(task_hub, swapped_out, command, rollback, recorded.pending_swap is not None)
            )
        raise ConflictError(f"app {self._server.app} is changed by others again and again; try again")

    def roll_back(self, requested_task_hub: str | None, command: Command) -> Json:
        """Bring back the hub that was swapped out, or `requested_task_hub`."""
        app, _ = self._server.get_app()
        recorded = self._read_recorded_slots(app)
        pending_swap = recorded.pending_swap
        if pending_swap is not None and not (
            pending_swap.rollback
            and (requested_task_hub is None or is_same_task_hub(requested_task_hub, pending_swap.task_hub))
        ):
            app = self.finish_interrupted_swap(recorded)
            recorded = self._read_recorded_slots(app)
            if is_same_task_hub(recorded.production, requested_task_hub or pending_swap.swapped_out):
                return app
        task_hub = choose_rollback_task_hub(recorded, requested_task_hub, self.find_last_swap())
        self._report(f"rolling back to task hub {task_hub}")
        return self.swap(task_hub, command, rollback=True)

    def report_rollback_outcome(self, requested_task_hub: str | None, outcome: str) -> Json:
        """Say how a rollback went that somebody else carries out: Pending, Done or Failed. Answers the app."""
        app, _ = self._server.get_app()
        recorded = self._read_recorded_slots(app)
        if recorded.pending_swap is not None and not recorded.pending_swap.rollback:
            # That a rollback went well would be taken for: that swap did.
            raise ConflictError(describe_interrupted_swap(recorded, recorded.pending_swap))
        return self.report_swap_outcome(
            choose_rollback_task_hub(recorded, requested_task_hub, self.find_last_swap()), outcome, rollback=True
        )

    def report_swap_outcome(self, task_hub: str, outcome: str, rollback: bool = False) -> Json:
        """Say how a swap goes that somebody else carries out: Pending, Done or Failed. Answers the app. Raises
        ConflictError where it must not be carried out: it was begun before, or is done already."""
        if outcome == "Pending":
            recorded = self._read_recorded_slots(self._server.get_app()[0])
            if recorded.pending_swap is not None:
                raise ConflictError(describe_interrupted_swap(recorded, recorded.pending_swap))
        app = self._server.post_swap(task_hub, self._slot, outcome, rollback)
        if outcome == "Pending" and app["pendingSwap"] is None:
            raise ConflictError(
                f"task hub {task_hub} is in production of app {app['app']} already, and no swap was begun: do not swap "
                "the slots, it would bring the other one back"
            )
        return app

    def finish_interrupted_swap(self, recorded: RecordedSlots) -> Json:
        """Bring a swap that was cut off to its end, as the platform shows it. Raises ConflictError."""
        pending_swap = recorded.pending_swap
        assert pending_swap is not None, "there is one to settle"
        step = plan_interrupted_swap(recorded, pending_swap, self._observe_slots(), self._server.caller.run_url)
        if step is SwapStep.REVERT and self._await_interrupted_swap(recorded, pending_swap) is SwapStep.CONFIRM:
            step = SwapStep.CONFIRM
        if step is SwapStep.LEAVE_PENDING:
            raise ConflictError(describe_interrupted_swap(recorded, pending_swap))
        outcome = "Done" if step is SwapStep.CONFIRM else "Failed"
        self._report(f"the swap of task hub {pending_swap.task_hub} that was cut off is {outcome.lower()} in Azure")
        return self._report_outcome(
            outcome, pending_swap.task_hub, f"that swap is {outcome.lower()}", pending_swap.rollback
        )

    def _read_recorded_slots(self, app: Mapping[str, Any]) -> RecordedSlots:
        return RecordedSlots.from_app(app, self._slot, self._server.url)

    def _record_pending_swap(self, task_hub: str, rollback: bool, etag: str) -> Json:
        """Make the record pending, if the app is still the one that was decided about. Answers the app."""
        try:
            # A pending swap of this very run may be begun again; that of another run is refused.
            return self._server.post_swap(task_hub, self._slot, "Pending", rollback, etag=etag or None)
        except ServerUnavailable as error:
            raise ServerUnavailable(f"{error.message}. The command was not run. Type the same again") from error

    def _require_setting_not_sticky(self) -> None:
        """Raises ConflictError if the hub's name would stay with its slot: the versions would change hubs."""
        if self._deployment_slots is not None and self._deployment_slots.is_task_hub_setting_sticky():
            raise ConflictError(STICKY_SETTING_MESSAGE)

    def _run_swap_command(self, swap: _SwapPlan) -> Json:
        if self._guard.interrupted:
            raise CommandError(f"stopped before the command was run; {self._revert_unrun_swap(swap)}")
        self._report(f"the server has task hub {swap.task_hub} in production, pending; running {swap.command}")
        try:
            result = self._guard.run(swap.command)
        except CommandError as error:
            raise type(error)(f"{error.message}; {self._revert_unrun_swap(swap)}") from error
        observed = self._observe_after_command(result, swap)
        attempt = SwapAttempt(result.succeeded, self._guard.interrupted, self._deployment_slots is not None)
        match plan_after_command(attempt, observed, swap.task_hub, swap.swapped_out):
            case SwapStep.CONFIRM:
                return self._confirm(result, swap, observed)
            case SwapStep.REVERT:
                raise self._revert(result, swap, observed)
        raise self._leave_pending(result, swap, observed)

    def _revert_unrun_swap(self, swap: _SwapPlan) -> str:
        """What becomes of the record if the command was not run."""
        if swap.resumed:
            # The run before this one may have run it, and the platform may still be at it.
            return "the swap that was cut off stays pending; type the same again"
        self._report_outcome("Failed", swap.task_hub, "the command was not run", swap.rollback)
        return "the record is as it was"

    def _confirm(self, result: CommandResult, swap: _SwapPlan, observed: ObservedSlots | None) -> Json:
        app = self._report_outcome("Done", swap.task_hub, str(observed or f"the command {result}"), swap.rollback)
        if result.succeeded:
            return app
        raise CommandError(
            f"the command {result}, but in Azure production carries task hub {swap.task_hub}: the swap is done, and on "
            "record. Look at what the command printed"
        )

    def _revert(self, result: CommandResult, swap: _SwapPlan, observed: ObservedSlots | None) -> CommandError:
        self._report_outcome("Failed", swap.task_hub, str(observed), swap.rollback)
        return CommandError(
            f"the command {result}, and for {self._stabilization_seconds:.0f} s Azure has shown no swap. The "
            f"record is swapped back: "
            f"production {swap.swapped_out or 'empty'}, {self._slot} {swap.task_hub}"
        )

    def _leave_pending(self, result: CommandResult, swap: _SwapPlan, observed: ObservedSlots | None) -> CommandError:
        recorded = RecordedSlots(self._server.app, self._slot, swap.task_hub, swap.swapped_out, server=self._server.url)
        if result.succeeded:
            why = "The command swapped nothing, or not yet"
        else:
            why = "Azure goes on with a swap that it has accepted, so this may change"
        observation = f"In Azure, {observed}. {why}" if observed else f"What Azure carries cannot be seen. {why}"
        return ConflictError(
            f"the command {result}. {observation}. On the server: {self._describe_record(swap.task_hub)}; while "
            f"it is pending nobody "
            f"can stage. Type the same again, which looks first; or, when production carries {swap.task_hub}: "
            f"{recorded.outcome_command(swap.task_hub, 'done')}; and when it carries "
            f"{swap.swapped_out or 'something else'} and "
            f"nobody swaps any more: {recorded.outcome_command(swap.task_hub, 'failed')}"
        )

    def _report_outcome(self, outcome: str, task_hub: str, observation: str, rollback: bool) -> Json:
        """Say how the platform's swap went. If that fails, say what state both are in, and what to type."""
        try:
            return self._server.post_swap(task_hub, self._slot, outcome, rollback)
        except CommandError as error:
            recorded = RecordedSlots(self._server.app, self._slot, task_hub, None, server=self._server.url)
            raise type(error)(
                f"{error.message}. On the platform: {observation}. On the server: "
                f"{self._describe_record(task_hub)}. To say it "
                f"again, type: {recorded.outcome_command(task_hub, outcome.lower())}",
                error.problem,
            ) from error

    def _describe_record(self, task_hub: str) -> str:
        """What the server has now: somebody else may have changed it."""
        try:
            recorded = self._read_recorded_slots(self._server.get_app(retry_for=0)[0])
        except CommandError:
            return f"task hub {task_hub} was put into production, pending, and nobody can stage"
        pending_swap = (
            f", the swap of {recorded.pending_swap.task_hub} pending" if recorded.pending_swap else ", no swap pending"
        )
        return f"production {recorded.production or 'empty'}, {self._slot} {recorded.slot or 'empty'}{pending_swap}"

    def _observe_slots(self) -> ObservedSlots | None:
        """The platform now. Raises AzureUnavailable: nothing is begun in the dark where there is a light."""
        if self._deployment_slots is None:
            return None
        seen = ObservedSlots(self._deployment_slots.task_hub("production"), self._deployment_slots.task_hub(self._slot))
        if is_same_task_hub(seen.production, seen.slot):
            # The two are read one after the other, and a swap may have come in between.
            seen = ObservedSlots(
                self._deployment_slots.task_hub("production"), self._deployment_slots.task_hub(self._slot)
            )
        return seen

    def _await_interrupted_swap(self, recorded: RecordedSlots, pending_swap: PendingSwap) -> SwapStep:
        """Watch the platform until a swap that was cut off must have come, if it comes. CONFIRM if it does, else RUN.
        Raises ConflictError when it is stopped, or the platform cannot be looked at in the end."""
        self._report(
            f"a swap of task hub {pending_swap.task_hub} was begun at {pending_swap.started_at} and cut off; "
            f"watching Azure for "
            f"{self._stabilization_seconds:.0f} s whether it comes"
        )
        observed = self._watch_slots(pending_swap.task_hub, pending_swap.swapped_out, self._stabilization_seconds)
        if observed is not None and observed.has_swapped(pending_swap.task_hub, pending_swap.swapped_out):
            return SwapStep.CONFIRM
        # Anything between is a swap that is under way.
        as_before = observed is not None and observed.is_unswapped(pending_swap.task_hub, pending_swap.swapped_out)
        if not as_before or self._guard.interrupted:
            raise ConflictError(describe_interrupted_swap(recorded, pending_swap))
        return SwapStep.RESUME

    def _observe_after_command(self, result: CommandResult, swap: _SwapPlan) -> ObservedSlots | None:
        """The last look after the command: soon if it went well or was stopped, else after watching for long."""
        if self._deployment_slots is None:
            return None
        if result.succeeded:
            return self._watch_slots(
                swap.task_hub,
                swap.swapped_out,
                _OBSERVATION_INTERVAL_SECONDS * (_MAX_OBSERVATIONS - 1),
                _OBSERVATION_INTERVAL_SECONDS,
            )
        if not self._guard.interrupted:
            self._report(
                f"the command {result}; watching Azure for {self._stabilization_seconds:.0f} s, as it may go on "
                f"with the swap"
            )
        return self._watch_slots(swap.task_hub, swap.swapped_out, self._stabilization_seconds)

    def _watch_slots(
        self, task_hub: str, swapped_out: str | None, seconds: float, pause: float = _WATCH_INTERVAL_SECONDS
    ) -> ObservedSlots | None:
        """Look until both have changed places, for so long at most; at least once. The last look, or None if that
        failed. Somebody who wants to stop gets one look."""
        deadline = time.monotonic() + seconds
        while True:
            observed: ObservedSlots | None = None
            try:
                observed = self._observe_slots()
            except AzureUnavailable as error:
                self._report(str(error))
            left = deadline - time.monotonic()
            swapped = observed is not None and observed.has_swapped(task_hub, swapped_out)
            if swapped or left <= 0 or self._guard.interrupted:
                return observed
            self._guard.sleep(min(pause, left))

    def find_hub_swapped_by_this_run(self, recorded: RecordedSlots) -> str | None:
        """The hub that this very run has brought into production, if it still is there: a run that is started anew may
        have a new name for its hub, but it is the same release."""
        run_url = self._server.caller.run_url
        if run_url is None or recorded.pending_swap is not None:
            return None
        last = self.find_last_swap()
        if last is None or last["runUrl"] != run_url:
            return None
        details = last["details"]
        done = is_same_task_hub(details.get("production"), recorded.production) and not details.get("rollback")
        return recorded.production if done else None

    def find_last_swap(self) -> Mapping[str, Any] | None:
        """The newest swap of this slot that was done."""
        token: str | None = None
        while True:
            page = self._server.get_history(_HISTORY_PAGE_SIZE, token)
            for recorded in page["history"]:
                details = recorded["details"]
                done = recorded["operation"] == "PostSwap" and details.get("outcome", "Done") == "Done"
                if done and str(details.get("slot", self._slot)).lower() == self._slot.lower():
                    found: Mapping[str, Any] = recorded
                    return found
            token = page["continuationToken"]
            if token is None:
                return None
