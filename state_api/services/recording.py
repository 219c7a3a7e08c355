"""Lifecycle events in: understood ones into their instances, the others into quarantine. Events of task hubs that the
server does not record wait there until an app claims the task hub, and are recorded then."""

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from state_api.domain.errors import StorageUnavailable
from state_api.domain.instants import format_instant
from state_api.domain.names import HubKey, hub_key
from state_api.domain.task_hubs.lifecycle import LifecycleEvent
from state_api.services.event_parser import InvalidEvent, parse_event, parse_json, to_event_grid_event
from state_api.services.ports import (
    Clock,
    Instances,
    Quarantine,
    QuarantinedEvent,
    TableMissing,
    TaskHubs,
    TooManyTaskHubs,
)

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 3
_RECORD_TIMEOUT_SECONDS = 25
"""Event Grid waits 30 s for an answer (PLATFORM: Event Grid delivery)."""
_REPLAY_TIMEOUT_SECONDS = 60
"""How long one request may record events from quarantine; the next request goes on."""
_REPLAY_BATCH_SIZE = 1000
_MAX_WAITING_EVENT_LENGTH = 64 * 1024
"""Characters up to which an event waits in quarantine as it came. A longer one waits without what the server does not
read, because a truncated event could not be recorded later."""
_MAX_BRACKETS = 100
"""The same for objects and arrays in it: one that is nested too deeply could not be read again."""
_LOOKUP_CONCURRENCY = 16
_STORAGE_REJECTED = "the state storage does not take it"
_TOO_DEEPLY_NESTED = json.dumps("(nested too deeply to be kept)")


@dataclass(frozen=True, slots=True)
class RecordingResult:
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

    async def record(self, events: Sequence[Any], endpoint_type: str) -> RecordingResult:
        """Record what Event Grid delivered, as it came. Returns once all of it is durable; raises StorageUnavailable
        when it is not within the time that Event Grid waits, and then all of it may be sent again."""
        try:
            async with asyncio.timeout(_RECORD_TIMEOUT_SECONDS):
                return await self._record(events, endpoint_type)
        except TimeoutError:
            raise StorageUnavailable(f"the state storage took more than {_RECORD_TIMEOUT_SECONDS} s") from None

    async def _record(self, events: Sequence[Any], endpoint_type: str) -> RecordingResult:
        if not self._clock.synchronized:
            # Whether an event is ahead of its time is not for this machine's clock to say.
            await self._task_hubs.ping()
        by_hub, rejected = self._parse_events(events, endpoint_type)
        if any(one.code == "BadTime" for one in rejected):
            # Nor for a clock that stood still with a suspended machine: ask what the time is now.
            await self._task_hubs.ping()
            by_hub, rejected = self._parse_events(events, endpoint_type)
        recorded = unchanged = 0
        waiting_task_hubs: list[str] = []
        hubs = list(by_hub.values())
        results = await asyncio.gather(
            *(self._record_task_hub_events([event for _, event in of_hub]) for of_hub in hubs), return_exceptions=True
        )
        for of_hub, changed in zip(hubs, results, strict=True):
            if isinstance(changed, TooManyTaskHubs):
                waiting_task_hubs.append(of_hub[0][1].task_hub)
                rejected += [self._to_waiting(endpoint_type, event, parsed) for event, parsed in of_hub]
                continue
            if isinstance(changed, BaseException):
                raise changed
            for (event, parsed), one in zip(of_hub, changed or [None] * len(of_hub), strict=True):
                if one is not None:
                    recorded += one
                    unchanged += not one
                elif changed is None:
                    message = f"task hub {parsed.task_hub} was cleaned up"
                    rejected.append(self._to_quarantined("TaskHubCleanedUp", message, endpoint_type, event))
                else:
                    rejected.append(self._to_quarantined("StorageRejected", _STORAGE_REJECTED, endpoint_type, event))
        if rejected:
            await self._quarantine.add(rejected)
            log.warning("%d of %d events went to quarantine: %s", len(rejected), len(events), rejected[0].message)
        await self._replay_claimed_hubs(waiting_task_hubs)
        return RecordingResult(recorded, unchanged, len(rejected))

    async def has_waiting_events(self, task_hub: str) -> bool:
        """Whether events of this hub wait in quarantine."""
        return bool(await self._quarantine.list_waiting(task_hub, 1))

    async def replay_quarantined(self, task_hub: str, *, enforce_limit: bool = True) -> None:
        """Record the events of a hub that wait in quarantine, and then remove them there. Recording is idempotent, so
        a replay that was cut short does no harm and is finished by the next one. Raises StorageUnavailable, and
        TooManyTaskHubs for an unclaimed hub if it is `enforce_limit`."""
        try:
            async with asyncio.timeout(_REPLAY_TIMEOUT_SECONDS):
                while events := await self._quarantine.list_waiting(task_hub, _REPLAY_BATCH_SIZE):
                    if not await self._record_quarantined(task_hub, events, enforce_limit=enforce_limit):
                        return
        except TimeoutError:
            raise StorageUnavailable(
                f"events of task hub {task_hub} are being recorded from quarantine; send the request again to go on"
            ) from None

    async def _record_quarantined(
        self, task_hub: str, events: Sequence[QuarantinedEvent], *, enforce_limit: bool
    ) -> bool:
        """False if the hub takes no more events."""
        changed = await self._record_task_hub_events(
            [self._parse_waiting_event(event) for event in events], enforce_limit=enforce_limit
        )
        if changed is None:
            return False
        not_taken = [
            self._to_quarantined("StorageRejected", _STORAGE_REJECTED, event.endpoint_type, parse_json(event.event))
            for event, one in zip(events, changed, strict=True)
            if one is None
        ]
        if not_taken:
            await self._quarantine.add(not_taken)
        await self._quarantine.remove(events)
        log.info("%d events of task hub %s were recorded from quarantine", len(events) - len(not_taken), task_hub)
        return True

    def _parse_waiting_event(self, event: QuarantinedEvent) -> LifecycleEvent:
        try:
            # The time at which it came, if this machine's idea of the time is older than that.
            return parse_event(parse_json(event.event), max(self._clock.now(), event.received_at))
        except (InvalidEvent, ValueError) as error:
            # Without this event the records could say that a task hub has drained that has not.
            raise StorageUnavailable(
                f"an event of task hub {event.task_hub} in quarantine, received at "
                f"{format_instant(event.received_at)}, cannot be read: {error}. Remove it with PurgeQuarantine only if "
                "you know that nothing runs on that task hub"
            ) from error

    async def _replay_claimed_hubs(self, task_hubs: Sequence[str]) -> None:
        """Record the events that were just put into quarantine if an app has claimed their hub in the meantime: whoever
        claimed it may have looked for them before."""
        at_once = asyncio.Semaphore(_LOOKUP_CONCURRENCY)

        async def replay_if_claimed(task_hub: str) -> None:
            async with at_once:
                hub = await self._task_hubs.get(task_hub)
                if hub is not None and hub.app is not None:
                    await self.replay_quarantined(task_hub)

        await asyncio.gather(*(replay_if_claimed(task_hub) for task_hub in task_hubs))

    def _parse_events(
        self, events: Sequence[Any], endpoint_type: str
    ) -> tuple[dict[HubKey, list[tuple[Any, LifecycleEvent]]], list[QuarantinedEvent]]:
        """The events that are understood, by hub and each with how it came, and the others."""
        now = self._clock.now()
        by_hub: dict[HubKey, list[tuple[Any, LifecycleEvent]]] = defaultdict(list)
        rejected: list[QuarantinedEvent] = []
        for event in events:
            try:
                parsed = parse_event(event, now)
            except InvalidEvent as reason:
                rejected.append(QuarantinedEvent(now, reason.code, reason.message, endpoint_type, _to_json_text(event)))
            except Exception:  # a defect of ours must not bring the whole batch back for 24 h
                log.exception("an event could not be read")
                rejected.append(
                    QuarantinedEvent(
                        now, "UnexpectedError", "the server's log says why", endpoint_type, _to_json_text(event)
                    )
                )
            else:
                by_hub[hub_key(parsed.task_hub)].append((event, parsed))
        return by_hub, rejected

    def _to_quarantined(self, code: str, message: str, endpoint_type: str, event: Any) -> QuarantinedEvent:
        return QuarantinedEvent(self._clock.now(), code, message, endpoint_type, _to_json_text(event))

    def _to_waiting(self, endpoint_type: str, event: Any, parsed: LifecycleEvent) -> QuarantinedEvent:
        text = _to_json_text(event)
        if (
            len(text) > _MAX_WAITING_EVENT_LENGTH
            or text.count("[") + text.count("{") > _MAX_BRACKETS
            or text == _TOO_DEEPLY_NESTED
        ):
            text = json.dumps(to_event_grid_event(parsed))
        message = (
            f"no app has claimed task hub {parsed.task_hub}, and there are already as many such task hubs as "
            "STATE_UNCLAIMED_TASK_HUBS allows"
        )
        now = self._clock.now()
        return QuarantinedEvent(now, "TooManyTaskHubs", message, endpoint_type, text, task_hub=parsed.task_hub)

    async def _record_task_hub_events(
        self, events: Sequence[LifecycleEvent], *, enforce_limit: bool = True
    ) -> list[bool | None] | None:
        """For each event of one hub whether it changed something, and None if the storage does not take it; None for
        all if the hub takes no more events. Raises TooManyTaskHubs."""
        task_hub = events[0].task_hub
        for _ in range(_MAX_ATTEMPTS):
            hub = await self._task_hubs.get_or_create(task_hub, enforce_limit=enforce_limit)
            if hub.closed:
                return None
            try:
                changed = await self._instances.record(hub, events)
                # A worker that remembers an unclaimed hub goes on writing after DeleteTaskHub has closed it, until its
                # table is gone. What was written since then goes with the table.
                is_lost = hub.app is None and any(changed) and not await self._task_hubs.takes_events(task_hub)
                return None if is_lost else changed
            except TableMissing:
                # Another worker's cleanup took it, or the one that wanted to make it died: look again.
                self._task_hubs.invalidate_cache(task_hub)
        raise StorageUnavailable(
            f"the table of task hub {task_hub} is being made or removed, or was deleted: then make it again, empty, "
            "only if you know that nothing runs on that hub"
        )


def _to_json_text(event: Any) -> str:
    try:
        return json.dumps(event, default=str)
    except RecursionError:
        return _TOO_DEEPLY_NESTED
