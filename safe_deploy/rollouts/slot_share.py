"""Gives a slot its share in Azure and makes sure that it has it. Hides how often Azure is asked, and what is done if it
does not answer, or shows an old value."""

import itertools
from collections.abc import Callable
from typing import TypeVar

from safe_deploy.azure_cli import AzureResourceNotFound, AzureUnavailable
from safe_deploy.errors import ConflictError
from safe_deploy.rollouts.ramp_up_rules import ObservedTraffic, describe_rules
from safe_deploy.rollouts.slot_traffic import CHANGE_TIMEOUT_SECONDS, SlotTraffic
from safe_deploy.subprocesses import SignalGuard

AZURE_RETRY_SECONDS = 10
"""The pause before a call of `az` that has failed is made again."""

_AZURE_ATTEMPTS = 4
"""How often a call of `az` is made that fails. What is wrong for longer than half a minute needs a person."""

READ_BACK_SECONDS = 3
"""The pause before Azure is read again because it does not show a change yet."""

_READ_BACK_ATTEMPTS = 10

CLEARED_SECONDS = CHANGE_TIMEOUT_SECONDS + 30
"""How long Azure must show no share before that is confirmed: longer than a change of the rules may take. A change that
a killed job had requested before the removal may still arrive, and would undo it. After the confirmation no command
looks at the rules until the next deployment, and the slot would become ready while Azure sends visitors to it."""

_CLEAR_ATTEMPTS = 3
"""How often the share is removed again because it has come back."""

_Result = TypeVar("_Result")


def _do_nothing() -> None:
    """Prevents no change."""


class SlotShare:
    """The share of one slot in Azure."""

    def __init__(self, traffic: SlotTraffic, *, guard: SignalGuard, report: Callable[[str], None]) -> None:
        self._traffic = traffic
        self._guard = guard
        self._report = report

    def observe(self) -> ObservedTraffic:
        """The rules that Azure shows now. Raises AzureUnavailable if it fails several times."""
        return self.retry(self._traffic.observe)

    def set_share(self, weight: int, *, before_change: Callable[[], None] = _do_nothing) -> None:
        """Set the share, and read it back. `before_change` is called before each attempt, and prevents it by an error.
        Raises AzureUnavailable, and ConflictError if Azure does not show the share in time."""
        rules = self.observe().with_share(weight)

        def change() -> None:
            """Make the change, unless it is prevented."""
            before_change()
            self._traffic.set_rules(rules)

        self.retry(change)
        observed = self.observe()
        for _ in range(_READ_BACK_ATTEMPTS - 1):
            if observed.routes_exactly(weight):
                return
            self._guard.sleep(READ_BACK_SECONDS)
            observed = self.observe()
        if not observed.routes_exactly(weight):
            raise ConflictError(
                f"az has set {weight} % for slot {observed.slot} without an error, but Azure still shows "
                f"{describe_rules(observed.own_rules)}. Something else may change the same rules. Look at them in the "
                "portal (Deployment slots), and run the same command again"
            )

    def clear(self, *, before_repeat: Callable[[], None] = _do_nothing) -> bool:
        """Set the share to 0, and watch that it stays so. The rules of other slots stay. `before_repeat` is called
        before a share that has come back is removed, and prevents that by an error.

        Returns whether Azure was watched to the end: a signal ends the watching. Raises AzureUnavailable, and
        ConflictError if the share does not stay 0.
        """
        for _ in range(_CLEAR_ATTEMPTS):
            self.set_share(0)
            self._guard.sleep(CLEARED_SECONDS)
            if self._guard.interrupted:
                return False
            observed = self.observe()
            if observed.routes_exactly(0):
                return True
            before_repeat()
            self._report(f"Azure again has {describe_rules(observed.own_rules)}; removing it once more")
        raise ConflictError(
            f"the share of slot {observed.slot} was removed {_CLEAR_ATTEMPTS} times, and came back each time: "
            f"{describe_rules(observed.own_rules)}. Find out what sets it, such as another job, and run the same "
            "command again"
        )

    def retry(self, call: Callable[[], _Result]) -> _Result:
        """The result of a call of `az`, which is made again if it fails. Raises AzureUnavailable."""
        for attempt in itertools.count(1):
            try:
                return call()
            except AzureResourceNotFound:
                raise
            except AzureUnavailable as error:
                if attempt == _AZURE_ATTEMPTS or self._guard.interrupted:
                    raise
                self._report(f"{error.message} Trying again in {AZURE_RETRY_SECONDS} s")
                self._guard.sleep(AZURE_RETRY_SECONDS)
        raise AssertionError("the loop ends with a result or an error")
