"""Watches the slots in Azure during a swap. Hides how often Azure is queried and what happens if it cannot be."""

import time
from collections.abc import Callable

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.azure_slots import PRODUCTION, DeploymentSlots
from safe_deploy.slot_task_hubs import ObservedSlots, is_same_task_hub
from safe_deploy.subprocesses import SignalGuard

CONFIRMATION_INTERVAL_SECONDS = 2
_CONFIRMATION_OBSERVATIONS = 3
"""After a successful swap command, Azure is queried up to this many times before its answer contradicts the command."""

_WATCH_INTERVAL_SECONDS = 10
"""How often Azure is queried during the stabilization window. An observation is one or two calls of `az`."""


class SlotObserver:
    """Reads production and one slot. Without `deployment_slots` every observation is None."""

    def __init__(
        self,
        deployment_slots: DeploymentSlots | None,
        *,
        slot: str,
        guard: SignalGuard,
        report: Callable[[str], None],
    ) -> None:
        self._deployment_slots = deployment_slots
        self._slot = slot
        self._guard = guard
        self._report = report

    @property
    def is_available(self) -> bool:
        """Whether Azure can be queried at all: by --resource-group, or because the swap command names the app."""
        return self._deployment_slots is not None

    def is_task_hub_setting_sticky(self) -> bool:
        """Whether the task hub name stays with its slot at a swap. False without `deployment_slots`. Raises
        AzureUnavailable."""
        return self._deployment_slots is not None and self._deployment_slots.is_task_hub_setting_sticky()

    def observe(self) -> ObservedSlots | None:
        """Read both slots now. Raises AzureUnavailable: if Azure can be queried, no swap starts without an answer."""
        if self._deployment_slots is None:
            return None
        observed = self._read_slots(self._deployment_slots)
        if is_same_task_hub(observed.production, observed.slot):
            # The slots are read one after the other, so a swap in between shows the same task hub twice.
            observed = self._read_slots(self._deployment_slots)
        return observed

    def confirm_swap(self, task_hub: str, swapped_out: str | None) -> ObservedSlots | None:
        """Observe after a successful swap command: Azure may show the new settings a few seconds late."""
        return self._watch(
            task_hub,
            swapped_out,
            seconds=CONFIRMATION_INTERVAL_SECONDS * (_CONFIRMATION_OBSERVATIONS - 1),
            interval_seconds=CONFIRMATION_INTERVAL_SECONDS,
        )

    def watch_for_swap(self, task_hub: str, swapped_out: str | None, *, seconds: float) -> ObservedSlots | None:
        """Observe until Azure shows the swap, for at most `seconds`. Returns the last observation, None if Azure could
        not be queried then."""
        return self._watch(task_hub, swapped_out, seconds=seconds, interval_seconds=_WATCH_INTERVAL_SECONDS)

    def _read_slots(self, deployment_slots: DeploymentSlots) -> ObservedSlots:
        """Ask Azure which task hubs production and the slot have now."""
        return ObservedSlots(deployment_slots.get_task_hub(PRODUCTION), deployment_slots.get_task_hub(self._slot))

    def _watch(
        self, task_hub: str, swapped_out: str | None, *, seconds: float, interval_seconds: float
    ) -> ObservedSlots | None:
        """Observe at least once. After a signal the next observation is the last."""
        if self._deployment_slots is None:
            return None
        deadline = time.monotonic() + seconds
        while True:
            observed: ObservedSlots | None = None
            try:
                observed = self.observe()
            except AzureUnavailable as error:
                self._report(str(error))
            seconds_left = deadline - time.monotonic()
            has_swapped = observed is not None and observed.has_swapped(task_hub, swapped_out)
            if has_swapped or seconds_left <= 0 or self._guard.interrupted:
                return observed
            self._guard.sleep(min(interval_seconds, seconds_left))
