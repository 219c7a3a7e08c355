"""The records of open task hubs that this worker has read, and how long it may rely on each."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from state_api.domain.instants import TICKS_PER_SECOND, Instant
from state_api.domain.names import HubKey, hub_key
from state_api.services.ports import Clock, TaskHubRecord

MAX_CACHED_RECORDS = 1_000
"""Cached records, about 600 bytes each: more than the task hubs whose events arrive at the same time. A record that is
not cached costs two reads."""


@dataclass(frozen=True, slots=True)
class ReadStart:
    """When a read began: in seconds of this machine's clock, and by the storage's clock."""

    monotonic_seconds: float
    storage_time: Instant


@dataclass(frozen=True, slots=True)
class _OpenRecord:
    record: TaskHubRecord
    read_start: ReadStart


class OpenTaskHubs:
    """A cache of registry rows, each with the start of the read that has shown the task hub open.

    `lease_seconds` is the length of an event lease (`EventLease`). `monotonic` returns seconds.
    """

    def __init__(self, lease_seconds: float, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._open: OrderedDict[HubKey, _OpenRecord] = OrderedDict()

    def start_read(self) -> ReadStart:
        """Call this before the request for a row is sent."""
        return ReadStart(self._monotonic(), self._clock.now())

    def get(self, task_hub: str) -> TaskHubRecord | None:
        """The cached record of the task hub; None if it must be read."""
        cached = self._open.get(hub_key(task_hub))
        return cached.record if cached is not None else None

    def add(self, record: TaskHubRecord, read_start: ReadStart) -> None:
        """Keep a record that was just read. The oldest record is dropped when there are too many."""
        key = hub_key(record.name)
        self._open.pop(key, None)
        if len(self._open) >= MAX_CACHED_RECORDS:
            self._open.popitem(last=False)
        self._open[key] = _OpenRecord(record, read_start)

    def remove(self, task_hub: str) -> None:
        self._open.pop(hub_key(task_hub), None)

    def has_lease(self, task_hub: str) -> bool:
        """Whether the row was read less than `lease_seconds` ago.

        This machine's clock stands still while the machine is suspended. The storage's clock does not: the response to
        a write that ended after the suspension has corrected the estimate. So the longer of the two durations counts,
        the second one between a time that the storage's clock had reached and one that it has not passed.
        """
        cached = self._open.get(hub_key(task_hub))
        if cached is None:
            return False
        by_machine = self._monotonic() - cached.read_start.monotonic_seconds
        by_storage = (self._clock.upper_bound() - cached.read_start.storage_time) / TICKS_PER_SECOND
        return max(by_machine, by_storage) < self._lease_seconds
