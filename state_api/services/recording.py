"""Lifecycle events in: understood ones into their instances, the others into quarantine."""

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from state_api.domain.errors import StorageUnavailable
from state_api.domain.lifecycle import LifecycleEvent
from state_api.domain.names import HubKey, hub_key
from state_api.services.envelopes import NotUnderstood, understand
from state_api.services.ports import Clock, Instances, Quarantine, Quarantined, TableMissing, TaskHubs

log = logging.getLogger(__name__)

_ATTEMPTS = 3
_DEADLINE_SECONDS = 25
"""Event Grid waits 30 s for an answer (PLATFORM: Event Grid delivery)."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """How many events changed something, how many added nothing, how many were not understood."""

    recorded: int = 0
    unchanged: int = 0
    quarantined: int = 0


class Recorder:
    def __init__(self, task_hubs: TaskHubs, instances: Instances, quarantine: Quarantine, clock: Clock) -> None:
        self._task_hubs = task_hubs
        self._instances = instances
        self._quarantine = quarantine
        self._clock = clock

    async def record(self, events: Sequence[Any], source: str) -> Recorded:
        """Record what Event Grid delivered, as it came. Returns once all of it is durable; raises StorageUnavailable
        when it is not within the time that Event Grid waits, and then all of it may be sent again."""
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                return await self._record(events, source)
        except TimeoutError:
            raise StorageUnavailable(f"the state storage took more than {_DEADLINE_SECONDS} s") from None

    async def _record(self, events: Sequence[Any], source: str) -> Recorded:
        if not self._clock.synchronized:
            # Whether an event is ahead of its time is not for this machine's clock to say.
            await self._task_hubs.ping()
        by_hub, rejected = self._sorted(events, source)
        if any(one.code == "BadTime" for one in rejected):
            # Nor for a clock that stood still with a suspended machine: ask what the time is now.
            await self._task_hubs.ping()
            by_hub, rejected = self._sorted(events, source)
        recorded = unchanged = 0
        hubs = list(by_hub.values())
        results = await asyncio.gather(
            *(self._record_hub([event for _, event in of_hub]) for of_hub in hubs), return_exceptions=True
        )
        for of_hub, changed in zip(hubs, results, strict=True):
            if isinstance(changed, BaseException):
                raise changed
            for (event, understood), one in zip(of_hub, changed or [None] * len(of_hub), strict=True):
                if one is not None:
                    recorded += one
                    unchanged += not one
                elif changed is None:
                    message = f"task hub {understood.task_hub} was cleaned up"
                    rejected.append(self._rejected("TaskHubCleanedUp", message, source, event))
                else:
                    message = "the state storage does not take it"
                    rejected.append(self._rejected("NotTaken", message, source, event))
        if rejected:
            await self._quarantine.keep(rejected)
            log.warning("%d of %d events went to quarantine: %s", len(rejected), len(events), rejected[0].message)
        return Recorded(recorded, unchanged, len(rejected))

    def _sorted(
        self, events: Sequence[Any], source: str
    ) -> tuple[dict[HubKey, list[tuple[Any, LifecycleEvent]]], list[Quarantined]]:
        """The events that are understood, by hub and each with how it came, and the others."""
        now = self._clock.now()
        by_hub: dict[HubKey, list[tuple[Any, LifecycleEvent]]] = defaultdict(list)
        rejected: list[Quarantined] = []
        for event in events:
            try:
                understood = understand(event, now)
            except NotUnderstood as reason:
                rejected.append(Quarantined(now, reason.code, reason.message, source, _as_text(event)))
            except Exception:  # a defect of ours must not bring the whole batch back for 24 h
                log.exception("an event could not be read")
                rejected.append(Quarantined(now, "Unforeseen", "the server's log says why", source, _as_text(event)))
            else:
                by_hub[hub_key(understood.task_hub)].append((event, understood))
        return by_hub, rejected

    def _rejected(self, code: str, message: str, source: str, event: Any) -> Quarantined:
        return Quarantined(self._clock.now(), code, message, source, _as_text(event))

    async def _record_hub(self, events: Sequence[LifecycleEvent]) -> list[bool | None] | None:
        """For each event of one hub whether it changed something, and None if the storage does not take it; None for
        all if the hub takes no more events."""
        task_hub = events[0].task_hub
        for _ in range(_ATTEMPTS):
            hub = await self._task_hubs.open(task_hub)
            if hub.closed:
                return None
            try:
                return await self._instances.record(hub, events)
            except TableMissing:
                # Another worker's cleanup took it, or the one that wanted to make it died: look again.
                self._task_hubs.forget(task_hub)
        raise StorageUnavailable(
            f"the table of task hub {task_hub} is being made or removed, or was deleted: then make it again, empty, "
            "only if you know that nothing runs on that hub"
        )


def _as_text(event: Any) -> str:
    try:
        return json.dumps(event, default=str)
    except RecursionError:
        return json.dumps("(nested too deeply to be kept)")
