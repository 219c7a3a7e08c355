"""Carries out what `swap_planner` decides: records a swap, runs its command, observes Azure, confirms or reverts.

However a swap ends, the server's record is either correct or pending. A pending swap blocks every other deployment, and
the error message says which command resolves it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from safe_deploy.client import Json, StateServerClient
from safe_deploy.durations import Seconds
from safe_deploy.errors import CommandError, ConflictError, Interrupted, ServerUnavailable
from safe_deploy.rendering import format_instant
from safe_deploy.slot_observer import SlotObserver
from safe_deploy.slot_task_hubs import ObservedSlots, PendingSwap, RecordedSlots, is_same_task_hub
from safe_deploy.subprocesses import Command, CommandResult, SignalGuard
from safe_deploy.swap_history import find_last_swap
from safe_deploy.swap_messages import (
    STICKY_SETTING_MESSAGE,
    describe_interrupted_swap,
    format_outcome_command,
)
from safe_deploy.swap_outcomes import AppChanged, SwapEndedOtherwise, detecting_changes, report_outcome
from safe_deploy.swap_planner import (
    SwapAttempt,
    SwapStep,
    choose_rollback_task_hub,
    plan_after_command,
    plan_interrupted_swap,
    plan_swap,
)

STABILIZATION_SECONDS = Seconds(300)
"""How long Azure is watched before a swap counts as not made. A swap takes one to two minutes: Azure first restarts and
warms up the slot's instances."""

_MAX_ATTEMPTS = 3
"""How often a swap starts over because another caller changed the app at the same moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Swap:
    """A swap that is on record as pending, with the ETag of the app. `resumed`: an earlier attempt of this run recorded
    it."""

    pending_swap: PendingSwap
    etag: str
    command: Command
    resumed: bool

    @property
    def task_hub(self) -> str:
        return self.pending_swap.task_hub

    @property
    def swapped_out(self) -> str | None:
        return self.pending_swap.swapped_out


class SwapExecutor:
    """Swaps and rolls back one slot of one app. `stabilization_seconds`: see STABILIZATION_SECONDS."""

    def __init__(
        self,
        server: StateServerClient,
        *,
        slot: str,
        observer: SlotObserver,
        stabilization_seconds: float,
        guard: SignalGuard,
        report: Callable[[str], None],
    ) -> None:
        """Prepare to swap this slot. After a failed or interrupted swap, Azure is watched for `stabilization_seconds`,
        because the swap may still complete."""
        self._server = server
        self._slot = slot
        self._observer = observer
        self._stabilization_seconds = stabilization_seconds
        self._guard = guard
        self._report = report

    def swap(self, task_hub: str, command: Command, *, rollback: bool = False) -> Json:
        """Bring `task_hub` into production. Returns the app. It is safe to repeat, however an earlier call ended."""
        for _ in range(_MAX_ATTEMPTS):
            try:
                return self._try_swap(task_hub, command, rollback=rollback)
            except AppChanged:
                continue
        raise ConflictError(
            f"app {self._server.app} was changed by other callers {_MAX_ATTEMPTS} times while the swap was to be "
            "recorded. Nothing was swapped. Run the same command again"
        )

    def _try_swap(self, task_hub: str, command: Command, *, rollback: bool) -> Json:
        """One attempt. Raises AppChanged if the app changed before the swap was recorded."""
        app, etag = self._server.get_app()
        recorded = self._read_recorded_slots(app, etag)
        pending_swap = recorded.pending_swap
        step = plan_swap(recorded, self._observer.observe(), task_hub=task_hub, run_url=self._server.caller.run_url)
        if step is SwapStep.ALREADY_SWAPPED:
            self._report(f"task hub {task_hub} is in production already; the command was not run")
            return app
        if step is SwapStep.RESUME and pending_swap is not None:
            step = self._await_interrupted_swap(recorded, pending_swap)
        if step is SwapStep.CONFIRM:
            self._report(f"in Azure, production has task hub {task_hub} already; the command was not run")
            return self._confirm_without_command(task_hub, recorded, rollback=rollback)
        if pending_swap is None and self._observer.is_task_hub_setting_sticky():
            raise ConflictError(STICKY_SETTING_MESSAGE)
        try:
            recorded_swap, etag = self._record_pending_swap(task_hub, rollback=rollback, etag=etag)
            return self._run_swap_command(
                _Swap(pending_swap=recorded_swap, etag=etag, command=command, resumed=pending_swap is not None)
            )
        except KeyboardInterrupt:
            raise ConflictError(
                f"stopped at once. The swap of task hub {task_hub} may be on record as pending, and Azure continues a "
                "swap that it has accepted. Run the same command again"
            ) from None

    def roll_back(self, requested_task_hub: str | None, command: Command) -> Json:
        """Bring back the task hub that was swapped out, or `requested_task_hub`. Returns the app."""
        recorded = self._read_recorded_slots(*self._server.get_app())
        pending_swap = recorded.pending_swap
        if pending_swap is not None and not _is_requested_rollback(pending_swap, requested_task_hub):
            app = self.finish_interrupted_swap(recorded)
            recorded = self._read_recorded_slots(app)
            if is_same_task_hub(recorded.production, requested_task_hub or pending_swap.swapped_out):
                return app
        task_hub = choose_rollback_task_hub(
            recorded, requested_task_hub=requested_task_hub, last_swap=find_last_swap(self._server, self._slot)
        )
        self._report(f"rolling back to task hub {task_hub}")
        return self.swap(task_hub, command, rollback=True)

    def finish_interrupted_swap(self, recorded: RecordedSlots) -> Json:
        """Report the outcome of an interrupted swap as Azure shows it. Returns the app. Raises ConflictError if Azure
        does not show it."""
        pending_swap = recorded.pending_swap
        assert pending_swap is not None, "called only with a pending swap"
        step = plan_interrupted_swap(
            recorded, pending_swap, self._observer.observe(), run_url=self._server.caller.run_url
        )
        if step is SwapStep.REVERT and self._await_interrupted_swap(recorded, pending_swap) is SwapStep.CONFIRM:
            step = SwapStep.CONFIRM
        if step is SwapStep.LEAVE_PENDING:
            raise ConflictError(describe_interrupted_swap(recorded, pending_swap))
        outcome = "Done" if step is SwapStep.CONFIRM else "Failed"
        azure_state = "has swapped" if step is SwapStep.CONFIRM else "has not swapped"
        self._report(f"Azure {azure_state} task hub {pending_swap.task_hub}; the interrupted swap is {outcome.lower()}")
        return self._report_outcome(pending_swap, outcome=outcome, observation=f"it {azure_state}", etag=recorded.etag)

    def _read_recorded_slots(self, app: Mapping[str, Any], etag: str = "") -> RecordedSlots:
        """What the server has recorded of production and of the slot that is swapped."""
        return RecordedSlots.from_app(app, self._slot, self._server.url, etag=etag)

    def _confirm_without_command(self, task_hub: str, recorded: RecordedSlots, *, rollback: bool) -> Json:
        """Record a swap that Azure already shows. Raises AppChanged."""
        if recorded.pending_swap is not None:
            return self._report_outcome(
                recorded.pending_swap,
                outcome="Done",
                observation=f"production has task hub {task_hub}",
                etag=recorded.etag,
            )
        # The swap was made outside of safe-deploy. Without an outcome the server records it in one step.
        with detecting_changes():
            return self._server.post_swap(
                task_hub, slot=self._slot, outcome=None, rollback=rollback, etag=recorded.etag or None
            )[0]

    def _record_pending_swap(self, task_hub: str, *, rollback: bool, etag: str) -> tuple[PendingSwap, str]:
        """Record the swap as pending if the app has not changed since it was read. Returns it with the app's new ETag.
        Raises AppChanged.

        The server accepts a pending swap of this run again and refuses that of another run.
        """
        try:
            with detecting_changes():
                app, etag = self._server.post_swap(
                    task_hub, slot=self._slot, outcome="Pending", rollback=rollback, etag=etag or None
                )
        except ServerUnavailable as error:
            raise ServerUnavailable(f"{error.message}. The command was not run. Run the same command again") from error
        pending_swap = self._read_recorded_slots(app).pending_swap
        if pending_swap is None:
            # Another caller reported the outcome of this swap after the app was read.
            raise AppChanged
        return pending_swap, etag

    def _run_swap_command(self, swap: _Swap) -> Json:
        """Run the swap command, and record what it did: the swap is confirmed, reverted or left pending. Returns the
        app, or raises CommandError."""
        if self._guard.interrupted:
            error_type = ConflictError if swap.resumed else Interrupted
            raise error_type(f"stopped before the command was run; {self._revert_unrun_swap(swap)}")
        self._report(
            f"the server has the swap of task hub {swap.task_hub} into production on record as pending; "
            f"running {swap.command}"
        )
        try:
            result = self._guard.run(swap.command)
        except CommandError as error:
            raise type(error)(f"{error.message}; {self._revert_unrun_swap(swap)}") from error
        observed = self._observe_after_command(result, swap)
        attempt = SwapAttempt(
            succeeded=result.succeeded,
            interrupted=self._guard.interrupted,
            is_observable=self._observer.is_available,
        )
        step = plan_after_command(attempt, observed, task_hub=swap.task_hub, swapped_out=swap.swapped_out)
        if step is SwapStep.CONFIRM:
            return self._confirm(result, swap, observed)
        if step is SwapStep.REVERT:
            raise self._revert(result, swap, observed)
        raise self._leave_pending(result, swap, observed)

    def _revert_unrun_swap(self, swap: _Swap) -> str:
        """Revert the record of a swap whose command was not run. Returns what became of it.

        A resumed swap stays pending, because the run before this one may have started its command.
        """
        if swap.resumed:
            return "the interrupted swap stays pending. Run the same command again"
        self._report_outcome(swap.pending_swap, outcome="Failed", observation="the command was not run", etag=swap.etag)
        return "the server's record is unchanged"

    def _confirm(self, result: CommandResult, swap: _Swap, observed: ObservedSlots | None) -> Json:
        """Report the swap as done. Returns the app. Raises CommandError if the command has failed although Azure has
        swapped."""
        app = self._report_outcome(
            swap.pending_swap,
            outcome="Done",
            observation=str(observed or f"the command {result}"),
            etag=swap.etag,
        )
        if result.succeeded:
            return app
        error_type = Interrupted if result.interrupted else CommandError
        raise error_type(
            f"the command {result}, but in Azure production has task hub {swap.task_hub}: the swap is done and on "
            "record. Check the output of the command"
        )

    def _revert(self, result: CommandResult, swap: _Swap, observed: ObservedSlots | None) -> CommandError:
        """Report the swap as failed. Returns the error to raise."""
        self._report_outcome(swap.pending_swap, outcome="Failed", observation=str(observed), etag=swap.etag)
        return CommandError(
            f"the command {result}, and Azure has shown no swap for {self._stabilization_seconds:.0f} s. The record is "
            f"reverted: production {swap.swapped_out or 'empty'}, {self._slot} {swap.task_hub}. Fix what the command "
            "reports, then run the same command again"
        )

    def _leave_pending(self, result: CommandResult, swap: _Swap, observed: ObservedSlots | None) -> CommandError:
        """Report nothing, because the outcome is unknown. Returns the error to raise, with the commands that report an
        outcome."""
        why = (
            "The command has not swapped the slots, or Azure does not show it yet"
            if result.succeeded
            else "Azure continues a swap that it has accepted, so this may change"
        )
        observation = f"In Azure {observed}" if observed else "Azure could not be queried"
        return ConflictError(
            f"the command {result}. {observation}. {why}. On the server: {self._describe_record(swap.task_hub)}. While "
            "the swap is pending, no run can stage. Run the same command again: it checks Azure first. Or report the "
            f"outcome: if production has {swap.task_hub}, run: {self._outcome_command(swap.pending_swap, 'done')}; "
            f"if it has {swap.swapped_out or 'another task hub'} and no swap is in progress, run: "
            f"{self._outcome_command(swap.pending_swap, 'failed')}"
        )

    def _report_outcome(self, swap: PendingSwap, *, outcome: str, observation: str, etag: str) -> Json:
        """Report how the swap in Azure ended. If that fails, the error says what both have and, if the swap may still
        be pending, which command reports the outcome later. `observation` is what is known about Azure."""
        try:
            return report_outcome(self._server, swap, outcome, etag=etag)
        except CommandError as error:
            state = f"In Azure: {observation}. On the server: {self._describe_record(swap.task_hub)}"
            later = f"To report the outcome later, run: {self._outcome_command(swap, outcome.lower())}"
            sentences = [error.message, state, *([] if isinstance(error, SwapEndedOtherwise) else [later])]
            raise type(error)(". ".join(sentences), error.problem) from error

    def _outcome_command(self, swap: PendingSwap, outcome: str) -> str:
        """The command line by which a person reports the outcome of the swap, for a message."""
        return format_outcome_command(server_url=self._server.url, app=self._server.app, swap=swap, outcome=outcome)

    def _describe_record(self, task_hub: str) -> str:
        """What the server has on record now, which another caller may have changed."""
        try:
            recorded = self._read_recorded_slots(self._server.get_app(retry_seconds=0)[0])
        except CommandError:
            return f"the swap of task hub {task_hub} into production is pending, and no run can stage"
        pending_swap = (
            f", the swap of {recorded.pending_swap.task_hub} pending" if recorded.pending_swap else ", no swap pending"
        )
        return f"production {recorded.production or 'empty'}, {self._slot} {recorded.slot or 'empty'}{pending_swap}"

    def _await_interrupted_swap(self, recorded: RecordedSlots, pending_swap: PendingSwap) -> SwapStep:
        """Watch Azure for the stabilization window: CONFIRM if the interrupted swap completes, else RESUME.

        Raises ConflictError if a signal comes, if Azure cannot be queried at the end, or if it shows a swap that is
        still in progress.
        """
        self._report(
            f"a swap of task hub {pending_swap.task_hub} was started at {format_instant(pending_swap.started_at)} and "
            f"interrupted; watching Azure for {self._stabilization_seconds:.0f} s, because the swap may still complete"
        )
        observed = self._observer.watch_for_swap(
            pending_swap.task_hub, pending_swap.swapped_out, seconds=self._stabilization_seconds
        )
        if observed is not None and observed.has_swapped(pending_swap.task_hub, pending_swap.swapped_out):
            return SwapStep.CONFIRM
        is_unswapped = observed is not None and observed.is_unswapped(pending_swap.task_hub, pending_swap.swapped_out)
        if not is_unswapped or self._guard.interrupted:
            raise ConflictError(describe_interrupted_swap(recorded, pending_swap))
        return SwapStep.RESUME

    def _observe_after_command(self, result: CommandResult, swap: _Swap) -> ObservedSlots | None:
        """The last observation after the command: briefly if it succeeded, else for the stabilization window. A signal
        ends the watching."""
        if not self._observer.is_available:
            return None
        if result.succeeded:
            return self._observer.confirm_swap(swap.task_hub, swap.swapped_out)
        if not self._guard.interrupted:
            self._report(
                f"the command {result}; watching Azure for {self._stabilization_seconds:.0f} s, because Azure may have "
                "accepted the swap"
            )
        return self._observer.watch_for_swap(swap.task_hub, swap.swapped_out, seconds=self._stabilization_seconds)


def _is_requested_rollback(pending_swap: PendingSwap, requested_task_hub: str | None) -> bool:
    """Whether the pending swap is the rollback that is requested, so that it continues."""
    return pending_swap.rollback and (
        requested_task_hub is None or is_same_task_hub(requested_task_hub, pending_swap.task_hub)
    )
