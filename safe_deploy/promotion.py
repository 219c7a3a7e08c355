"""Carrying out a swap or a rollback: record, command, look, confirm or take back. What to do is decided in `swaps.py`.

Whatever goes wrong, the server's record is right in the end, or it is pending, which keeps everybody else away from the
slot; and the message says what to type.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from safe_deploy.azure import Azure, AzureUnavailable
from safe_deploy.client import Json, Server
from safe_deploy.commands import Command, Ended, Guard
from safe_deploy.errors import CommandError, ConflictError, Unreachable
from safe_deploy.swaps import (
    STICKY,
    Attempt,
    Pending,
    Platform,
    Record,
    Step,
    after,
    before,
    cut_off,
    rollback_target,
    same,
    settled,
)

SETTLE_SECONDS = 300
"""How long Azure is watched before it is believed that it goes on with no swap. A swap takes one to two minutes where
all is well: the slot's instances are started anew and warmed up first."""

_LOOKS = 3
_PAUSE_SECONDS = 2
"""After a swap that went well the platform is looked at so often before its word is doubted."""

_WATCH_SECONDS = 10
"""How often the platform is looked at while it is watched. One look is one or two calls of `az`."""

_BEGINNINGS = 3
"""How often a swap is begun anew because somebody else changed the app at the same moment."""

_HISTORY = 100


@dataclass(frozen=True, slots=True)
class _Swap:
    """One swap: into production, out of it, and by what command. `rollback` goes on record."""

    target: str
    swapped_out: str | None
    command: Command
    rollback: bool
    resumed: bool = False


class Promotion:
    """Brings task hubs into production. `azure` is None where the platform cannot be looked at; `settle` is in
    seconds, see SETTLE_SECONDS."""

    def __init__(
        self, server: Server, slot: str, azure: Azure | None, settle: float, guard: Guard, say: Callable[[str], None]
    ) -> None:
        self._server = server
        self._slot = slot
        self._azure = azure
        self._settle = settle
        self._guard = guard
        self._say = say

    def swap(self, target: str, command: Command, rollback: bool = False) -> Json:
        """Bring `target` into production. Answers the app. Repeating it is safe, however it ended before."""
        for _ in range(_BEGINNINGS):
            app, etag = self._server.get_app()
            record = self._record(app)
            platform = self._look()
            step = before(record, target, platform, self._server.caller.run_url)
            if step is Step.DONE:
                self._say(f"task hub {target} is in production already; the command was not run")
                return app
            if step is Step.RUN and record.pending is not None:
                step = self._wait_out(record, record.pending)
            if step is Step.CONFIRM:
                self._say(f"in Azure, production carries task hub {target} already; the command was not run")
                if record.pending is not None:
                    return self._tell("Done", target, f"production carries task hub {target}", rollback)
            elif record.pending is None:
                self._require_travelling()
            try:
                if step is Step.CONFIRM:
                    # Nobody began it here. The server takes that at once, of the record that was looked at.
                    return self._server.post_swap(target, self._slot, None, rollback, etag)
                begun = self._begin(target, rollback, etag)
            except ConflictError as error:
                if error.problem.get("code") != "PreconditionFailed":
                    raise
                continue
            if self._record(begun).pending is None:
                # Somebody has ended it since the look, which holds no longer.
                continue
            swapped_out = record.pending.swapped_out if record.pending else record.production
            return self._run(_Swap(target, swapped_out, command, rollback, record.pending is not None))
        raise ConflictError(f"app {self._server.app} is changed by others again and again; try again")

    def roll_back(self, asked: str | None, command: Command) -> Json:
        """Bring back the hub that was swapped out, or `asked`."""
        app, _ = self._server.get_app()
        record = self._record(app)
        pending = record.pending
        if pending is not None and not (pending.rollback and (asked is None or same(asked, pending.task_hub))):
            app = self.settle(record)
            record = self._record(app)
            if same(record.production, asked or pending.swapped_out):
                return app
        target = rollback_target(record, asked, self.last_swap())
        self._say(f"rolling back to task hub {target}")
        return self.swap(target, command, rollback=True)

    def tell_rolled_back(self, asked: str | None, outcome: str) -> Json:
        """Say how a rollback went that somebody else carries out: Pending, Done or Failed. Answers the app."""
        app, _ = self._server.get_app()
        record = self._record(app)
        if record.pending is not None and not record.pending.rollback:
            # That a rollback went well would be taken for: that swap did.
            raise ConflictError(cut_off(record, record.pending))
        return self.tell(rollback_target(record, asked, self.last_swap()), outcome, rollback=True)

    def tell(self, target: str, outcome: str, rollback: bool = False) -> Json:
        """Say how a swap goes that somebody else carries out: Pending, Done or Failed. Answers the app. Raises
        ConflictError where it must not be carried out: it was begun before, or is done already."""
        if outcome == "Pending":
            record = self._record(self._server.get_app()[0])
            if record.pending is not None:
                raise ConflictError(cut_off(record, record.pending))
        app = self._server.post_swap(target, self._slot, outcome, rollback)
        if outcome == "Pending" and app["pendingSwap"] is None:
            raise ConflictError(
                f"task hub {target} is in production of app {app['app']} already, and no swap was begun: do not swap "
                "the slots, it would bring the other one back"
            )
        return app

    def settle(self, record: Record) -> Json:
        """Bring a swap that was cut off to its end, as the platform shows it. Raises ConflictError."""
        pending = record.pending
        assert pending is not None, "there is one to settle"
        step = settled(record, pending, self._look(), self._server.caller.run_url)
        if step is Step.TAKE_BACK and self._wait_out(record, pending) is Step.CONFIRM:
            step = Step.CONFIRM
        if step is Step.LEAVE:
            raise ConflictError(cut_off(record, pending))
        outcome = "Done" if step is Step.CONFIRM else "Failed"
        self._say(f"the swap of task hub {pending.task_hub} that was cut off is {outcome.lower()} in Azure")
        return self._tell(outcome, pending.task_hub, f"that swap is {outcome.lower()}", pending.rollback)

    def _record(self, app: Mapping[str, Any]) -> Record:
        return Record.of(app, self._slot, self._server.url)

    def _begin(self, target: str, rollback: bool, etag: str) -> Json:
        """Make the record pending, if the app is still the one that was decided about. Answers the app."""
        try:
            # A pending swap of this very run may be begun again; that of another run is refused.
            return self._server.post_swap(target, self._slot, "Pending", rollback, etag=etag or None)
        except Unreachable as error:
            raise Unreachable(f"{error.message}. The command was not run. Type the same again") from error

    def _require_travelling(self) -> None:
        """Raises ConflictError if the hub's name would stay with its slot: the versions would change hubs."""
        if self._azure is not None and self._azure.is_sticky():
            raise ConflictError(STICKY)

    def _run(self, swap: _Swap) -> Json:
        if self._guard.interrupted:
            raise CommandError(f"stopped before the command was run; {self._not_run(swap)}")
        self._say(f"the server has task hub {swap.target} in production, pending; running {swap.command}")
        try:
            ended = self._guard.run(swap.command)
        except CommandError as error:
            raise type(error)(f"{error.message}; {self._not_run(swap)}") from error
        platform = self._look_after(ended, swap)
        attempt = Attempt(ended.well, self._guard.interrupted, self._azure is not None)
        match after(attempt, platform, swap.target, swap.swapped_out):
            case Step.CONFIRM:
                return self._confirmed(ended, swap, platform)
            case Step.TAKE_BACK:
                raise self._taken_back(ended, swap, platform)
        raise self._left(ended, swap, platform)

    def _not_run(self, swap: _Swap) -> str:
        """What becomes of the record if the command was not run."""
        if swap.resumed:
            # The run before this one may have run it, and the platform may still be at it.
            return "the swap that was cut off stays pending; type the same again"
        self._tell("Failed", swap.target, "the command was not run", swap.rollback)
        return "the record is as it was"

    def _confirmed(self, ended: Ended, swap: _Swap, platform: Platform | None) -> Json:
        app = self._tell("Done", swap.target, str(platform or f"the command {ended}"), swap.rollback)
        if ended.well:
            return app
        raise CommandError(
            f"the command {ended}, but in Azure production carries task hub {swap.target}: the swap is done, and on "
            "record. Look at what the command printed"
        )

    def _taken_back(self, ended: Ended, swap: _Swap, platform: Platform | None) -> CommandError:
        self._tell("Failed", swap.target, str(platform), swap.rollback)
        return CommandError(
            f"the command {ended}, and for {self._settle:.0f} s Azure has shown no swap. The record is swapped back: "
            f"production {swap.swapped_out or 'empty'}, {self._slot} {swap.target}"
        )

    def _left(self, ended: Ended, swap: _Swap, platform: Platform | None) -> CommandError:
        record = Record(self._server.app, self._slot, swap.target, swap.swapped_out, server=self._server.url)
        if ended.well:
            why = "The command swapped nothing, or not yet"
        else:
            why = "Azure goes on with a swap that it has accepted, so this may change"
        shown = f"In Azure, {platform}. {why}" if platform else f"What Azure carries cannot be seen. {why}"
        return ConflictError(
            f"the command {ended}. {shown}. On the server: {self._on_record(swap.target)}; while it is pending nobody "
            f"can stage. Type the same again, which looks first; or, when production carries {swap.target}: "
            f"{record.typed(swap.target, 'done')}; and when it carries {swap.swapped_out or 'something else'} and "
            f"nobody swaps any more: {record.typed(swap.target, 'failed')}"
        )

    def _tell(self, outcome: str, target: str, shown: str, rollback: bool) -> Json:
        """Say how the platform's swap went. If that fails, say what state both are in, and what to type."""
        try:
            return self._server.post_swap(target, self._slot, outcome, rollback)
        except CommandError as error:
            record = Record(self._server.app, self._slot, target, None, server=self._server.url)
            raise type(error)(
                f"{error.message}. On the platform: {shown}. On the server: {self._on_record(target)}. To say it "
                f"again, type: {record.typed(target, outcome.lower())}",
                error.problem,
            ) from error

    def _on_record(self, target: str) -> str:
        """What the server has now: somebody else may have changed it."""
        try:
            record = self._record(self._server.get_app(patience=0)[0])
        except CommandError:
            return f"task hub {target} was put into production, pending, and nobody can stage"
        pending = f", the swap of {record.pending.task_hub} pending" if record.pending else ", no swap pending"
        return f"production {record.production or 'empty'}, {self._slot} {record.slot or 'empty'}{pending}"

    def _look(self) -> Platform | None:
        """The platform now. Raises AzureUnavailable: nothing is begun in the dark where there is a light."""
        if self._azure is None:
            return None
        seen = Platform(self._azure.task_hub("production"), self._azure.task_hub(self._slot))
        if same(seen.production, seen.slot):
            # The two are read one after the other, and a swap may have come in between.
            seen = Platform(self._azure.task_hub("production"), self._azure.task_hub(self._slot))
        return seen

    def _wait_out(self, record: Record, pending: Pending) -> Step:
        """Watch the platform until a swap that was cut off must have come, if it comes. CONFIRM if it does, else RUN.
        Raises ConflictError when it is stopped, or the platform cannot be looked at in the end."""
        self._say(
            f"a swap of task hub {pending.task_hub} was begun at {pending.started_at} and cut off; watching Azure for "
            f"{self._settle:.0f} s whether it comes"
        )
        platform = self._watch(pending.task_hub, pending.swapped_out, self._settle)
        if platform is not None and platform.has_swapped(pending.task_hub, pending.swapped_out):
            return Step.CONFIRM
        # Anything between is a swap that is under way.
        as_before = platform is not None and platform.is_as_before(pending.task_hub, pending.swapped_out)
        if not as_before or self._guard.interrupted:
            raise ConflictError(cut_off(record, pending))
        return Step.RUN

    def _look_after(self, ended: Ended, swap: _Swap) -> Platform | None:
        """The last look after the command: soon if it went well or was stopped, else after watching for long."""
        if self._azure is None:
            return None
        if ended.well:
            return self._watch(swap.target, swap.swapped_out, _PAUSE_SECONDS * (_LOOKS - 1), _PAUSE_SECONDS)
        if not self._guard.interrupted:
            self._say(f"the command {ended}; watching Azure for {self._settle:.0f} s, as it may go on with the swap")
        return self._watch(swap.target, swap.swapped_out, self._settle)

    def _watch(
        self, target: str, swapped_out: str | None, seconds: float, pause: float = _WATCH_SECONDS
    ) -> Platform | None:
        """Look until both have changed places, for so long at most; at least once. The last look, or None if that
        failed. Somebody who wants to stop gets one look."""
        deadline = time.monotonic() + seconds
        while True:
            platform: Platform | None = None
            try:
                platform = self._look()
            except AzureUnavailable as error:
                self._say(str(error))
            left = deadline - time.monotonic()
            swapped = platform is not None and platform.has_swapped(target, swapped_out)
            if swapped or left <= 0 or self._guard.interrupted:
                return platform
            self._guard.sleep(min(pause, left))

    def done_by_this_run(self, record: Record) -> str | None:
        """The hub that this very run has brought into production, if it still is there: a run that is started anew may
        have a new name for its hub, but it is the same release."""
        run_url = self._server.caller.run_url
        if run_url is None or record.pending is not None:
            return None
        last = self.last_swap()
        if last is None or last["runUrl"] != run_url:
            return None
        details = last["details"]
        done = same(details.get("production"), record.production) and not details.get("rollback")
        return record.production if done else None

    def last_swap(self) -> Mapping[str, Any] | None:
        """The newest swap of this slot that was done."""
        token: str | None = None
        while True:
            page = self._server.history(_HISTORY, token)
            for record in page["history"]:
                details = record["details"]
                done = record["operation"] == "PostSwap" and details.get("outcome", "Done") == "Done"
                if done and str(details.get("slot", self._slot)).lower() == self._slot.lower():
                    found: Mapping[str, Any] = record
                    return found
            token = page["continuationToken"]
            if token is None:
                return None
