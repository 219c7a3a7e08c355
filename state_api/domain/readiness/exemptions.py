"""Exemptions, which do not block: functions that the policy ignores, and instances and messages with a waiver."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from state_api.domain.instants import Instant
from state_api.domain.names import matches_function_pattern, same_hub


@dataclass(frozen=True, slots=True)
class Waiver:
    """One instance that does not block until `expires_at`, on the responsibility of `by`. A waiver is needed where a
    row is stuck in the task hub's own storage (docs/platform.md).

    A waiver of messages has no instance id. It exempts `unexplained_messages` invisible messages of the control queues.
    """

    task_hub: str
    instance_id: str
    reason: str
    by: str
    created_at: Instant
    expires_at: Instant
    unexplained_messages: int = 0

    @property
    def is_for_messages(self) -> bool:
        """Whether the waiver exempts messages and not an instance."""
        return self.unexplained_messages > 0

    def is_in_force(self, now: Instant) -> bool:
        """Whether the waiver has not expired."""
        return now < self.expires_at


@dataclass(frozen=True, slots=True)
class Exemptions:
    """What does not count in a verdict on one task hub."""

    ignore_functions: tuple[str, ...] = ()
    waivers: tuple[Waiver, ...] = ()

    @classmethod
    def for_task_hub(
        cls, ignore_functions: tuple[str, ...], waivers: Iterable[Waiver], task_hub: str, now: Instant
    ) -> "Exemptions":
        """The ignored functions, and those of the waivers that are for this task hub and have not expired."""
        in_force = (waiver for waiver in waivers if same_hub(waiver.task_hub, task_hub) and waiver.is_in_force(now))
        return cls(ignore_functions, tuple(in_force))

    def ignores(self, function_name: str) -> bool:
        """Whether the policy ignores this function."""
        return matches_function_pattern(function_name, self.ignore_functions)

    def find_waiver(self, instance_id: str) -> Waiver | None:
        """The waiver of this instance; None if it has none."""
        waivers = (waiver for waiver in self.waivers if not waiver.is_for_messages)
        return next((waiver for waiver in waivers if waiver.instance_id == instance_id), None)

    @property
    def waived_messages(self) -> int:
        """How many unexplained invisible messages do not block."""
        return max((waiver.unexplained_messages for waiver in self.waivers), default=0)

    def exempts(self, function_name: str, instance_id: str) -> bool:
        """Whether this instance may stay active."""
        return self.ignores(function_name) or self.find_waiver(instance_id) is not None

    @property
    def key(self) -> str:
        """A digest of all exemptions. A probe that was read under another key proves nothing under these."""
        return _digest(self._exempted_names(), self.waived_messages)

    @property
    def instances_key(self) -> str:
        """A digest of the exempted functions and instances, without waivers of messages."""
        return _digest(self._exempted_names())

    def _exempted_names(self) -> tuple[list[str], list[str]]:
        """The ignored functions and the waived instances, sorted, so that equal exemptions have equal keys."""
        waived = {waiver.instance_id for waiver in self.waivers if not waiver.is_for_messages}
        return sorted(set(self.ignore_functions)), sorted(waived)


def _digest(*values: object) -> str:
    """A short text that is equal for equal values, also in another process."""
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()
