"""Looks up, while the app and its records are read, the instances that the last question showed active. This saves a
round trip as long as they stay active."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from state_api.backends.protocols import Backend, BackendError
from state_api.domain.instants import Instant
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.services.ports import Clock


@dataclass(frozen=True, slots=True)
class LookUpResult:
    """What a backend shows of instances, and a time before it was asked, by the storage's clock."""

    observed: Mapping[str, ObservedInstance | None]
    observed_at: Instant

    @property
    def all_active(self) -> bool:
        """Whether the backend shows each of the instances active."""
        return all(instance is not None and instance.active for instance in self.observed.values())


@dataclass(frozen=True, slots=True, eq=False)
class EarlyLookUp:
    """A look-up that has begun before the records were read."""

    instance_ids: tuple[str, ...]
    result: asyncio.Task[LookUpResult]

    async def cancel(self) -> None:
        """End the look-up, if it is not used."""
        self.result.cancel()
        await asyncio.gather(self.result, return_exceptions=True)


class InstanceLookUps:
    """The look-ups of one task hub for one question. One of them may have begun early.

    Safety: the early result is used only if all its instances are active. An instance that was active after the
    question began makes the verdict NotReady, in any order of the reads. That an instance has ended, or is missing,
    counts only after a read of the records, so such instances are looked up again.
    """

    def __init__(self, clock: Clock, early: EarlyLookUp | None = None) -> None:
        self._clock = clock
        self._early = early
        self.active_ids: tuple[str, ...] = ()
        """The instances of the latest look-up that showed all of them active."""

    async def find_instances(self, backend: Backend, task_hub: str, instance_ids: Sequence[str]) -> LookUpResult:
        """Look these instances up, or use the look-up that began early. Raises BackendError."""
        result = await self._take_early_result(tuple(instance_ids))
        if result is None:
            result = await look_up(backend, self._clock, task_hub, instance_ids)
        if result.all_active:
            self.active_ids = tuple(instance_ids)
        return result

    async def _take_early_result(self, instance_ids: tuple[str, ...]) -> LookUpResult | None:
        """The result of the early look-up, once; None unless it is about these instances and all of them are active."""
        early, self._early = self._early, None
        if early is None:
            return None
        if early.instance_ids != instance_ids:
            await early.cancel()
            return None
        try:
            result = await early.result
        except BackendError:
            return None
        return result if result.all_active else None


async def look_up(backend: Backend, clock: Clock, task_hub: str, instance_ids: Sequence[str]) -> LookUpResult:
    """Look these instances up. Raises BackendError."""
    observed_at = clock.now()
    return LookUpResult(await backend.find_instances(task_hub, instance_ids), observed_at)
