"""Records lifecycle events: valid events in their instances, all others in quarantine. Events of a task hub above the
limit on unclaimed task hubs wait in quarantine until an app claims it. Events of a task hub that DeleteTaskHub decides
about wait until it is open again. Delivery checks are remembered apart from instances."""

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from state_api.domain.errors import StorageUnavailable, UnsupportedSchema
from state_api.domain.instants import format_instant
from state_api.domain.names import HubKey, hub_key
from state_api.domain.task_hubs.delivery_checks import DeliveryCheck, find_check_id
from state_api.domain.task_hubs.lifecycle import LifecycleEvent
from state_api.services.event_parser import InvalidEvent, parse_event, parse_json, to_event_grid_event
from state_api.services.ports import (
    Clock,
    DeliveryChecks,
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
"""Event Grid waits 30 s for a response (PLATFORM: Event Grid delivery)."""
_REPLAY_TIMEOUT_SECONDS = 60
"""How long one request may record events from quarantine. The next request continues."""
_REPLAY_BATCH_SIZE = 1000
_MAX_WAITING_EVENT_CHARACTERS = 64 * 1024
"""A longer event waits in quarantine with only the members that the server reads, because the quarantine truncates long
events and a truncated event cannot be recorded later."""
_MAX_BRACKETS = 100
"""An event with more objects and arrays is reduced in the same way, because JSON that is nested too deeply cannot be
parsed again."""
_LOOKUP_CONCURRENCY = 16
_STORAGE_REJECTED = "the state storage rejects the event's row"
_TOO_DEEPLY_NESTED = json.dumps("(nested too deeply to be kept)")


@dataclass(frozen=True, slots=True)
class RecordingResult:
    """How many events changed a record, how many changed nothing, and how many went to quarantine."""

    recorded: int = 0
    unchanged: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class _DeliveredEvent:
    """A valid event, as it was delivered and as it was parsed."""

    raw: Any
    parsed: LifecycleEvent


class _TaskHubClosed(Exception):
    """The task hub takes no events. `may_reopen` if DeleteTaskHub has not decided about it yet."""

    def __init__(self, *, may_reopen: bool) -> None:
        super().__init__()
        self.may_reopen = may_reopen


@dataclass(slots=True)
class _DeliveryOutcome:
    """What becomes of a delivery's events: counts, events for quarantine, and the task hubs whose events wait there."""

    recorded: int = 0
    unchanged: int = 0
    rejected: list[QuarantinedEvent] = field(default_factory=list)
    waiting_task_hubs: list[str] = field(default_factory=list)


class Recorder:
    def __init__(
        self,
        task_hubs: TaskHubs,
        instances: Instances,
        quarantine: Quarantine,
        delivery_checks: DeliveryChecks,
        clock: Clock,
    ) -> None:
        self._task_hubs = task_hubs
        self._delivery_checks = delivery_checks
        self._instances = instances
        self._quarantine = quarantine
        self._clock = clock

    async def record(self, events: Sequence[Any], endpoint_type: str) -> RecordingResult:
        """Record events as Event Grid delivered them. Returns when all of them are durable. Raises StorageUnavailable
        when that takes longer than Event Grid waits; then recording all of them again is safe."""
        try:
            async with asyncio.timeout(_RECORD_TIMEOUT_SECONDS):
                return await self._record_delivery(events, endpoint_type)
        except TimeoutError:
            raise StorageUnavailable(
                f"the state storage took more than {_RECORD_TIMEOUT_SECONDS} s: send the events again"
            ) from None

    async def _record_delivery(self, events: Sequence[Any], endpoint_type: str) -> RecordingResult:
        """Record the events of a delivery, each task hub on its own. Those that cannot be recorded go to quarantine."""
        by_hub, rejected = await self._parse_by_storage_time(events, endpoint_type)
        outcome = _DeliveryOutcome(rejected=rejected)
        checks = _extract_delivery_checks(by_hub)
        hub_results = await asyncio.gather(
            *(self._record_task_hub_events([event.parsed for event in hub_events]) for hub_events in by_hub.values()),
            return_exceptions=True,
        )
        for hub_events, hub_result in zip(by_hub.values(), hub_results, strict=True):
            self._add_hub_result(outcome, hub_events, hub_result, endpoint_type)
        if outcome.rejected:
            await self._quarantine.add(outcome.rejected)
            log.warning(
                "%d of %d events went to quarantine: %s",
                len(outcome.rejected),
                len(events),
                outcome.rejected[0].message,
            )
        await self._replay_open_hubs(outcome.waiting_task_hubs)
        # All other events are durable by now, so that no delivery check holds them up.
        new_checks = await self._record_delivery_checks(checks)
        return RecordingResult(
            outcome.recorded + new_checks,
            outcome.unchanged + sum(map(len, checks)) - new_checks,
            len(outcome.rejected),
        )

    async def _record_delivery_checks(self, checks: Sequence[Sequence[LifecycleEvent]]) -> int:
        """Remember delivery checks, which are grouped by task hub. Returns how many are new. Raises
        StorageUnavailable."""
        lookup_slots = asyncio.Semaphore(_LOOKUP_CONCURRENCY)

        async def record(events: Sequence[LifecycleEvent]) -> int:
            """Remember the delivery checks of one task hub."""
            async with lookup_slots:
                return await self._record_checks_of_hub(events)

        results = await asyncio.gather(*(record(events) for events in checks), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return sum(result for result in results if isinstance(result, int))

    async def _record_checks_of_hub(self, events: Sequence[LifecycleEvent]) -> int:
        """Remember the delivery checks of one task hub, in one write. Returns how many are new: none if no app has
        claimed the task hub, because a publisher must not create a task hub by a delivery check."""
        hub = await self._task_hubs.get(events[0].task_hub)
        if hub is None or hub.app is None or hub.closed:
            log.warning("a delivery check for task hub %s is ignored: no app has it", events[0].task_hub)
            return 0
        now = self._clock.now()
        arrived: dict[str, DeliveryCheck] = {}
        for event in events:
            check_id = find_check_id(event.instance_id)
            assert check_id is not None, "_extract_delivery_checks has found it"
            arrived[check_id] = DeliveryCheck(check_id, event.occurred_at, now)
        try:
            return await self._delivery_checks.record(hub.name, list(arrived.values()))
        except UnsupportedSchema as error:
            # Event Grid would send the delivery for 24 hours, in vain.
            log.warning("a delivery check for task hub %s is ignored: %s", hub.name, error.message)
            return 0

    async def _parse_by_storage_time(
        self, events: Sequence[Any], endpoint_type: str
    ) -> tuple[dict[HubKey, list[_DeliveredEvent]], list[QuarantinedEvent]]:
        """Parse events by the storage's clock, because an event is invalid if its time is ahead."""
        if not self._clock.synchronized:
            await self._task_hubs.ping()
        by_hub, rejected = self._parse_events(events, endpoint_type)
        if any(event.code == "BadTime" for event in rejected):
            # The clock is behind if this machine was suspended. Any response of the storage corrects it.
            await self._task_hubs.ping()
            by_hub, rejected = self._parse_events(events, endpoint_type)
        return by_hub, rejected

    def _add_hub_result(
        self,
        outcome: _DeliveryOutcome,
        events: Sequence[_DeliveredEvent],
        result: list[bool | None] | BaseException,
        endpoint_type: str,
    ) -> None:
        """Add the result of one task hub's events to the outcome of the delivery. Raises `result` if it is an error
        that does not send events to quarantine."""
        task_hub = events[0].parsed.task_hub
        if isinstance(result, TooManyTaskHubs):
            message = (
                f"no app has claimed task hub {task_hub}, and there are already as many such task hubs as "
                "STATE_UNCLAIMED_TASK_HUBS allows"
            )
            self._add_waiting(outcome, events, "TooManyTaskHubs", message, endpoint_type)
        elif isinstance(result, _TaskHubClosed) and result.may_reopen:
            message = f"DeleteTaskHub has closed task hub {task_hub}, and has not decided about it yet"
            self._add_waiting(outcome, events, "TaskHubCleanedUp", message, endpoint_type)
        elif isinstance(result, _TaskHubClosed):
            message = f"task hub {task_hub} was cleaned up"
            outcome.rejected += [
                self._to_quarantined("TaskHubCleanedUp", message, endpoint_type, event.raw) for event in events
            ]
        elif isinstance(result, BaseException):
            raise result
        else:
            for event, has_changed in zip(events, result, strict=True):
                if has_changed is None:
                    outcome.rejected.append(
                        self._to_quarantined("StorageRejected", _STORAGE_REJECTED, endpoint_type, event.raw)
                    )
                else:
                    outcome.recorded += has_changed
                    outcome.unchanged += not has_changed

    def _add_waiting(
        self,
        outcome: _DeliveryOutcome,
        events: Sequence[_DeliveredEvent],
        code: str,
        message: str,
        endpoint_type: str,
    ) -> None:
        """Have events of one task hub wait in quarantine, for the reason `code`, until the task hub takes events."""
        outcome.waiting_task_hubs.append(events[0].parsed.task_hub)
        outcome.rejected += [self._to_waiting(event, code, message, endpoint_type) for event in events]

    async def has_waiting_events(self, task_hub: str) -> bool:
        """Whether events of this task hub wait in quarantine."""
        return bool(await self._quarantine.list_waiting(task_hub, 1))

    async def replay_quarantined(self, task_hub: str, *, enforce_limit: bool = True) -> None:
        """Record the events of a task hub that wait in quarantine, and then remove them from there. The next call
        completes one that was interrupted, because recording an event again changes nothing. Raises
        StorageUnavailable, and TooManyTaskHubs for an unclaimed task hub if `enforce_limit` is set."""
        try:
            async with asyncio.timeout(_REPLAY_TIMEOUT_SECONDS):
                while events := await self._quarantine.list_waiting(task_hub, _REPLAY_BATCH_SIZE):
                    await self._replay_batch(task_hub, events, enforce_limit=enforce_limit)
        except _TaskHubClosed:
            return
        except TimeoutError:
            raise StorageUnavailable(
                f"events of task hub {task_hub} are still being recorded from quarantine: send the request again to "
                "continue"
            ) from None

    async def _replay_batch(self, task_hub: str, events: Sequence[QuarantinedEvent], *, enforce_limit: bool) -> None:
        """Record waiting events and remove them from quarantine. Raises _TaskHubClosed."""
        changed = await self._record_task_hub_events(
            [self._parse_waiting_event(event) for event in events], enforce_limit=enforce_limit
        )
        rejected = [
            self._to_quarantined("StorageRejected", _STORAGE_REJECTED, event.endpoint_type, parse_json(event.event))
            for event, has_changed in zip(events, changed, strict=True)
            if has_changed is None
        ]
        if rejected:
            await self._quarantine.add(rejected)
        await self._quarantine.remove(events)
        log.info("%d events of task hub %s were recorded from quarantine", len(events) - len(rejected), task_hub)

    def _parse_waiting_event(self, event: QuarantinedEvent) -> LifecycleEvent:
        """The lifecycle event that waits in quarantine.

        Raises StorageUnavailable if it cannot be parsed: without it, the records could show that a task
        hub has drained although it has not."""
        try:
            # The clock may be behind the time at which the event arrived, and would then make its time invalid.
            return parse_event(parse_json(event.event), max(self._clock.now(), event.received_at))
        except (InvalidEvent, ValueError) as error:
            raise StorageUnavailable(
                f"an event of task hub {event.task_hub} in quarantine, received at "
                f"{format_instant(event.received_at)}, cannot be read: {error}. Remove it with PurgeQuarantine only if "
                "you know that nothing runs on that task hub"
            ) from error

    async def _replay_open_hubs(self, task_hubs: Sequence[str]) -> None:
        """Record events that were just put into quarantine if their task hub takes events by now. The call that has
        claimed or reopened it may have looked for waiting events too early."""
        lookup_slots = asyncio.Semaphore(_LOOKUP_CONCURRENCY)

        async def replay_if_open(task_hub: str) -> None:
            """Record the waiting events of the task hub if it takes events."""
            async with lookup_slots:
                hub = await self._task_hubs.get(task_hub)
                if hub is not None and not hub.closed:
                    await self.replay_quarantined(task_hub)

        await asyncio.gather(*(replay_if_open(task_hub) for task_hub in task_hubs))

    def _parse_events(
        self, events: Sequence[Any], endpoint_type: str
    ) -> tuple[dict[HubKey, list[_DeliveredEvent]], list[QuarantinedEvent]]:
        """The valid events by task hub, and the invalid ones as they go to quarantine."""
        now = self._clock.now()
        by_hub: dict[HubKey, list[_DeliveredEvent]] = defaultdict(list)
        rejected: list[QuarantinedEvent] = []
        for event in events:
            try:
                parsed = parse_event(event, now)
            except InvalidEvent as error:
                rejected.append(self._to_quarantined(error.code, error.message, endpoint_type, event))
            except Exception:
                # A defect in the parser must not make Event Grid send the whole delivery again for 24 hours.
                log.exception("an event could not be parsed")
                message = "the server failed to parse the event; see its log"
                rejected.append(self._to_quarantined("UnexpectedError", message, endpoint_type, event))
            else:
                by_hub[hub_key(parsed.task_hub)].append(_DeliveredEvent(event, parsed))
        return by_hub, rejected

    def _to_quarantined(self, code: str, message: str, endpoint_type: str, event: Any) -> QuarantinedEvent:
        """The event as quarantine keeps it, received now."""
        return QuarantinedEvent(self._clock.now(), code, message, endpoint_type, _to_json_text(event))

    def _to_waiting(self, event: _DeliveredEvent, code: str, message: str, endpoint_type: str) -> QuarantinedEvent:
        """The event as it waits in quarantine for an app to claim its task hub. If it is too long or too deeply nested,
        only the members that the server reads are kept."""
        text = _to_json_text(event.raw)
        if (
            len(text) > _MAX_WAITING_EVENT_CHARACTERS
            or text.count("[") + text.count("{") > _MAX_BRACKETS
            or text == _TOO_DEEPLY_NESTED
        ):
            text = json.dumps(to_event_grid_event(event.parsed))
        now = self._clock.now()
        return QuarantinedEvent(now, code, message, endpoint_type, text, task_hub=event.parsed.task_hub)

    async def _record_task_hub_events(
        self, events: Sequence[LifecycleEvent], *, enforce_limit: bool = True
    ) -> list[bool | None]:
        """Record events of one task hub. For each event: whether it changed a record, or None if the storage rejects
        its row. Raises _TaskHubClosed, TooManyTaskHubs and StorageUnavailable."""
        task_hub = events[0].task_hub
        for _ in range(_MAX_ATTEMPTS):
            hub = await self._task_hubs.get_or_create(task_hub, enforce_limit=enforce_limit)
            if hub.closed:
                raise _TaskHubClosed(may_reopen=not hub.is_closed_for_ever)
            try:
                changed = await self._instances.record(hub, events)
                # After DeleteTaskHub has closed an unclaimed task hub, a worker with a cached record keeps writing
                # until the table is deleted, and what it writes may be deleted with the table. An event that changes
                # nothing may have been written in that time too, by an earlier delivery that was not answered.
                if hub.app is not None or await self._task_hubs.takes_events(task_hub):
                    return changed
            except TableMissing:
                # Another worker's Cleanup has deleted the table, or the worker that began to create it has died.
                self._task_hubs.invalidate_cache(task_hub)
        raise StorageUnavailable(
            f"the instance table of task hub {task_hub} is missing: it is being created or deleted, or was deleted. "
            "Send the events again. If the table was deleted, create it again, empty, only if you know that nothing "
            "runs on the task hub"
        )


def _extract_delivery_checks(by_hub: dict[HubKey, list[_DeliveredEvent]]) -> list[list[LifecycleEvent]]:
    """Remove the delivery checks among the events, and return them by task hub. A delivery check
    never becomes an instance."""
    checks: list[list[LifecycleEvent]] = []
    for key, events in list(by_hub.items()):
        check_flags = [find_check_id(event.parsed.instance_id) is not None for event in events]
        if not any(check_flags):
            continue
        checks.append([event.parsed for event, is_check in zip(events, check_flags, strict=True) if is_check])
        by_hub[key] = [event for event, is_check in zip(events, check_flags, strict=True) if not is_check]
        if not by_hub[key]:
            del by_hub[key]
    return checks


def _to_json_text(event: Any) -> str:
    """The event as JSON text, or a placeholder if it is nested too deeply."""
    try:
        return json.dumps(event, default=str)
    except RecursionError:
        return _TOO_DEEPLY_NESTED
