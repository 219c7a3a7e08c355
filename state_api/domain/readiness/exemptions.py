"""What may stay active without holding up a deployment: functions that the policy ignores, and single instances that
somebody has waived, on record."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from state_api.domain.instants import Instant
from state_api.domain.names import same_hub


@dataclass(frozen=True, slots=True)
class Waiver:
    """One instance that does not block until `expires_at`, because `by` answers for it: rows can be stuck in the task
    hub's own storage (PLATFORM: Task hubs on Azure Storage). With `unexplained_messages` in place of an instance id, so
    many invisible messages of the control queues."""

    task_hub: str
    instance_id: str
    reason: str
    by: str
    created_at: Instant
    expires_at: Instant
    unexplained_messages: int = 0

    @property
    def is_for_messages(self) -> bool:
        """Whether the waiver is for messages and not for an instance."""
        return self.unexplained_messages > 0


@dataclass(frozen=True, slots=True)
class Exemptions:
    """What is left out of a verdict on one task hub."""

    ignore_functions: tuple[str, ...] = ()
    waivers: tuple[Waiver, ...] = ()

    @classmethod
    def for_task_hub(
        cls, ignore_functions: tuple[str, ...], waivers: Iterable[Waiver], task_hub: str, now: Instant
    ) -> "Exemptions":
        """Those in force for this hub now."""
        return cls(
            ignore_functions, tuple(one for one in waivers if same_hub(one.task_hub, task_hub) and now < one.expires_at)
        )

    def ignores(self, function_name: str) -> bool:
        return any(fnmatchcase(function_name, pattern) for pattern in self.ignore_functions)

    def find_waiver(self, instance_id: str) -> Waiver | None:
        return next((one for one in self.waivers if not one.is_for_messages and one.instance_id == instance_id), None)

    @property
    def waived_messages(self) -> int:
        """How many invisible messages that nothing explains do not block."""
        return max((waiver.unexplained_messages for waiver in self.waivers), default=0)

    def exempts(self, function_name: str, instance_id: str) -> bool:
        return self.ignores(function_name) or self.find_waiver(instance_id) is not None

    @property
    def key(self) -> str:
        """The same text for the same exemptions: what was read under others says nothing about these."""
        return _digest(self._exempted_names(), self.waived_messages)

    @property
    def instances_key(self) -> str:
        """The same text for the same exempted functions and instances, whatever is waived of messages."""
        return _digest(self._exempted_names())

    def _exempted_names(self) -> tuple[list[str], list[str]]:
        waived = {waiver.instance_id for waiver in self.waivers if not waiver.is_for_messages}
        return sorted(set(self.ignore_functions)), sorted(waived)


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()
