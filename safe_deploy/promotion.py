"""Carrying out a swap or a rollback: record, command, look, confirm or take back. What to do is decided in `swaps.py`.

Whatever goes wrong, the server's record is right in the end, or it is pending, which keeps everybody else away from the
slot; and the message says what to type.
"""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safe_deploy.azure import Azure, AzureUnavailable
from safe_deploy.client import Json, Server
from safe_deploy.commands import Ended, Guard
from safe_deploy.errors import CommandError, ConflictError, Unreachable
from safe_deploy.swaps import Attempt, Platform, Record, Step, after, before, cut_off, rollback_target, same, settled

_LOOKS = 3
_PAUSE_SECONDS = 2
"""After a swap that went well the platform is looked at so often before its word is doubted."""

_BEGINNINGS = 3
"""How often a swap is begun anew because somebody else changed the app at the same moment."""

_HISTORY = 100


@dataclass(frozen=True, slots=True)
class Command:
    """The platform's swap: words, or a text for the shell; and the environment that it gets."""

    what: Sequence[str] | str
    env: Mapping[str, str]

    def __str__(self) -> str:
        return self.what if isinstance(self.what, str) else shlex.join(self.what)


class Promotion:
    """Brings task hubs into production. `azure` is None where the platform cannot be looked at."""

    def __init__(self, server: Server, slot: str, azure: Azure | None, say: Callable[[str], None]) -> None:
        self._server = server
        self._slot = slot
        self._azure = azure
        self._say = say

    def swap(self, target: str, command: Command, guard: Guard, rollback: bool = False) -> Json:
        """Bring `target` into production. Answers the app. Repeating it is safe, however it ended before."""
        for _ in range(_BEGINNINGS):
            app, etag = self._server.get_app()
            record = Record.of(app, self._slot)
            step = before(record, target, self._look())
            if step is Step.DONE:
                self._say(f"task hub {target} is in production already; the command was not run")
                return app
            if step is Step.CONFIRM:
                self._say(f"in Azure, production carries task hub {target} already; the command was not run")
                return self._tell("Done", target, f"in Azure, production carries task hub {target}", rollback)
            try:
                begun = self._begin(target, rollback, etag)
            except ConflictError as error:
                if error.problem.get("code") != "PreconditionFailed":
                    raise
                continue
            if Record.of(begun, self._slot).pending is None:
                # Somebody has ended it since the look, which holds no longer.
                continue
            swapped_out = record.pending.swapped_out if record.pending else record.production
            return self._run(target, swapped_out, command, guard, step is Step.RUN, rollback)
        raise ConflictError(f"app {self._server.app} is changed by others again and again; try again")

    def roll_back(self, asked: str | None, command: Command | None, guard: Guard) -> Json:
        """Bring back the hub that was swapped out, or `asked`. Without a command only the record is changed."""
        app, _ = self._server.get_app()
        record = Record.of(app, self._slot)
        pending = record.pending
        if pending is not None and not (pending.rollback and (asked is None or same(asked, pending.task_hub))):
            app = self.settle(record)
            record = Record.of(app, self._slot)
            if same(record.production, asked or pending.swapped_out):
                return app
        target = rollback_target(record, asked, self._last_swap())
        if same(record.production, target) and record.pending is None and command is None:
            self._say(f"task hub {target} is in production already")
            return app
        if command is None:
            return self._server.post_swap(target, self._slot, rollback=True)
        self._say(f"rolling back to task hub {target}")
        return self.swap(target, command, guard, rollback=True)

    def _begin(self, target: str, rollback: bool, etag: str) -> Json:
        """Make the record pending, if the app is still the one that was decided about. Answers the app."""
        try:
            # A pending swap of this very run may be begun again; that of another run is refused.
            return self._server.post_swap(target, self._slot, "Pending", rollback, etag=etag or None)
        except Unreachable as error:
            raise Unreachable(f"{error.message}. The command was not run. Type the same again") from error

    def _run(
        self, target: str, swapped_out: str | None, command: Command, guard: Guard, resumed: bool, rollback: bool
    ) -> Json:
        if guard.interrupted:
            raise CommandError(f"stopped before the command was run; {self._not_run(target, resumed, rollback)}")
        self._say(f"the server has task hub {target} in production, pending; running: {command}")
        try:
            ended = guard.run(command.what, command.env)
        except CommandError as error:
            raise type(error)(f"{error.message}; {self._not_run(target, resumed, rollback)}") from error
        platform = self._look_after(ended, target)
        attempt = Attempt(ended.well, ended.interrupted, resumed, self._azure is not None)
        match after(attempt, platform, target, swapped_out):
            case Step.CONFIRM:
                return self._confirmed(ended, target, platform, rollback)
            case Step.TAKE_BACK:
                raise self._taken_back(ended, target, swapped_out, platform, rollback)
        raise self._left(ended, target, swapped_out, platform)

    def _not_run(self, target: str, resumed: bool, rollback: bool) -> str:
        """What becomes of the record if the command was not run."""
        if resumed:
            # The run before this one may have run it, and the platform may still be at it.
            return "the swap that was cut off stays pending; type the same again"
        self._tell("Failed", target, "the command was not run", rollback)
        return "the record is as it was"

    def _confirmed(self, ended: Ended, target: str, platform: Platform | None, rollback: bool) -> Json:
        shown = f"in Azure, production carries task hub {target}" if platform else f"the command {ended}"
        app = self._tell("Done", target, shown, rollback)
        if ended.well:
            return app
        raise CommandError(
            f"the command {ended}, but in Azure production carries task hub {target}: the swap is done, and on record. "
            "Look at what the command printed"
        )

    def _taken_back(
        self, ended: Ended, target: str, swapped_out: str | None, platform: Platform | None, rollback: bool
    ) -> CommandError:
        shown = f"in Azure, production carries {(platform.production or 'no task hub') if platform else ''}"
        self._tell("Failed", target, shown if platform else f"the command {ended}", rollback)
        back = f"The record is swapped back: production {swapped_out or 'empty'}, {self._slot} {target}"
        if ended.well:
            return ConflictError(
                f"the command {ended}, but {shown}: it swapped nothing, or the setting with the task hub name stays "
                f"with the slot. {back}. safe-deploy doctor says which"
            )
        if ended.interrupted:
            return CommandError(
                f"the command {ended}, as it was told to stop. {back}. If the platform goes on with the swap all the "
                f"same, type: {self._typed(target, 'done')}"
            )
        return CommandError(f"the command {ended}. {back}")

    def _left(self, ended: Ended, target: str, swapped_out: str | None, platform: Platform | None) -> CommandError:
        shown = (
            f"production carries {platform.production or 'no task hub'}" if platform else "it could not be looked at"
        )
        return ConflictError(
            f"the command {ended}. In Azure, {shown}; Azure goes on with a swap that it has accepted, so this may "
            f"change. The server has task hub {target} in production, pending, and lets nobody stage. Type the same "
            f"again, which looks first; or, when production carries {target}: {self._typed(target, 'done')}; and when "
            f"it carries {swapped_out or 'something else'} for good: {self._typed(target, 'failed')}"
        )

    def _tell(self, outcome: str, target: str, shown: str, rollback: bool) -> Json:
        """Say how the platform's swap went. If that fails, say what state both are in, and what to type."""
        try:
            return self._server.post_swap(target, self._slot, outcome, rollback)
        except CommandError as error:
            raise type(error)(
                f"{error.message}. On the platform: {shown}. On the server: task hub {target} is in production, "
                f"pending, and nobody can stage. When it answers again, type: {self._typed(target, outcome.lower())}",
                error.problem,
            ) from error

    def settle(self, record: Record) -> Json:
        """Bring a swap that was cut off to its end, as the platform shows it. Raises ConflictError."""
        pending = record.pending
        assert pending is not None, "there is one to settle"
        step = settled(pending, self._look())
        if step is Step.LEAVE or pending.slot.lower() != self._slot.lower():
            raise ConflictError(cut_off(record, pending))
        outcome = "Done" if step is Step.CONFIRM else "Failed"
        self._say(f"the swap of task hub {pending.task_hub} that was cut off is {outcome.lower()} in Azure")
        return self._tell(outcome, pending.task_hub, f"that swap is {outcome.lower()}", pending.rollback)

    def _look(self) -> Platform | None:
        """The platform now. Raises AzureUnavailable: nothing is begun in the dark where there is a light."""
        if self._azure is None:
            return None
        return Platform(self._azure.task_hub("production"), self._azure.task_hub(self._slot))

    def _look_after(self, ended: Ended, target: str) -> Platform | None:
        platform: Platform | None = None
        for look in range(_LOOKS):
            try:
                platform = self._look()
            except AzureUnavailable as error:
                self._say(str(error))
            if not ended.well or self._azure is None or (platform and same(platform.production, target)):
                break
            if look < _LOOKS - 1:
                time.sleep(_PAUSE_SECONDS)
        return platform

    def _last_swap(self) -> Mapping[str, Any] | None:
        for record in self._server.history(_HISTORY)["history"]:
            if record["operation"] == "PostSwap" and record["details"].get("outcome", "Done") == "Done":
                found: Mapping[str, Any] = record
                return found
        return None

    def _typed(self, target: str, outcome: str) -> str:
        words = ["safe-deploy", "swap", "--server", self._server.url, "--app", self._server.app, "--slot", self._slot]
        return shlex.join([*words, "--task-hub", target, "--outcome", outcome])
