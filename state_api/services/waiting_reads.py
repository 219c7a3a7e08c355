"""The reads of requests that wait for the same app: shared, counted, and kept in mind as what is known of each task
hub's records."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from state_api.domain.names import HubKey, hub_key
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.plan import ProbeOutcome, RecordedState
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.waiting import KnownActivity, RecordedChanges
from state_api.domain.releases.apps import App, ProviderConfig
from state_api.services.change_signals import ChangeSignals
from state_api.services.probe_requests import ProbeRequest
from state_api.services.request_counter import count_storage_requests
from state_api.services.shared_reads import SharedReads
from state_api.services.verdict_reads import VerdictReads

_Value = TypeVar("_Value")
_ProbeKey = tuple[str, VerificationMode, Policy, ProviderConfig]


@dataclass(frozen=True, slots=True)
class ReadListener:
    """Called when something is known that was not before, and with the number of state storage requests of a read."""

    on_change: Callable[[], None]
    on_requests: Callable[[int], None]


class WaitingReads:
    """What the requests share that wait for one app. Each read begins after the calls that share it."""

    def __init__(self, reads: VerdictReads, signals: ChangeSignals, listener: ReadListener) -> None:
        self._reads = reads
        self._signals = signals
        self._listener = listener
        self._known: dict[HubKey, KnownActivity] = {}
        self._listening = ExitStack()
        self._apps = SharedReads[str, App | None]()
        self._records = SharedReads[tuple[HubKey, Exemptions], RecordedState]()
        self._probes = SharedReads[_ProbeKey, ProbeOutcome]()
        self._probe_requests: dict[_ProbeKey, list[ProbeRequest]] = {}

    def known(self, task_hub: str) -> KnownActivity:
        """What is known of the task hub's records. From the first call on, what this process records is added."""
        key = hub_key(task_hub)
        if key not in self._known:
            known = self._known[key] = KnownActivity()

            def add_changes(changes: RecordedChanges) -> None:
                """Note what this process has recorded, and wake the watch."""
                known.add_changes(changes)
                self._listener.on_change()

            self._listening.enter_context(self._signals.listen_to_task_hub(task_hub, add_changes))
        return self._known[key]

    def close(self) -> None:
        """Listen to no more changes."""
        self._listening.close()

    async def read_app(self, name: str, *, uses_budget: bool) -> App | None:
        """The app; None also for a deleted one."""
        return await self._apps.read(
            name, partial(self._count, partial(self._reads.read_app, name), uses_budget=uses_budget)
        )

    async def read_records(self, task_hub: str, exemptions: Exemptions, *, uses_budget: bool) -> RecordedState:
        """What is recorded of a task hub."""
        read = partial(self._read_records, task_hub, exemptions)
        return await self._records.read(
            (hub_key(task_hub), exemptions), partial(self._count, read, uses_budget=uses_budget)
        )

    async def probe_for_verdict(self, request: ProbeRequest, *, uses_budget: bool) -> ProbeOutcome:
        """Verify a task hub for a verdict, as fresh as the latest of the requests that share the probe demands."""
        key = (request.key, request.mode, request.policy, request.provider_config)
        self._probe_requests.setdefault(key, []).append(request)
        return await self._probes.read(key, partial(self._count, partial(self._probe, key), uses_budget=uses_budget))

    async def _read_records(self, task_hub: str, exemptions: Exemptions) -> RecordedState:
        """Read the records of a task hub, and keep what they show for the watch."""
        known, state = self.known(task_hub), None
        number = known.begin_read()
        try:
            state = await self._reads.read_records(task_hub, exemptions)
        finally:
            known.end_read(number, state, exemptions)
            self._listener.on_change()
        return state

    async def _probe(self, key: _ProbeKey) -> ProbeOutcome:
        """Verify a task hub once for all requests with this key, by the latest of their times."""
        requests = self._probe_requests.pop(key)
        request = replace(
            requests[0],
            requested_at=max(request.requested_at for request in requests),
            deadline=max(request.deadline for request in requests),
            must_begin_after=max(request.must_begin_after for request in requests),
        )
        known, state = self.known(request.task_hub), None
        number = known.begin_read()
        try:
            outcome = await self._reads.probe_for_verdict(request)
            state = outcome.recorded_state
        finally:
            known.end_read(number, state, request.exemptions)
            self._listener.on_change()
        return outcome

    async def _count(self, read: Callable[[], Awaitable[_Value]], *, uses_budget: bool) -> _Value:
        """Run the read. With `uses_budget`, report its requests to the state storage, so that they are charged."""
        with count_storage_requests() as requests:
            try:
                return await read()
            finally:
                if uses_budget:
                    self._listener.on_requests(requests.count)


@dataclass(frozen=True, slots=True)
class SharedVerdictReads:
    """The shared reads, for one request that waits. With `uses_budget`, their storage requests are charged to the
    budget of the app."""

    shared: WaitingReads
    uses_budget: bool

    async def read_app(self, name: str) -> App | None:
        """Read the app; None for a deleted one. Requests that ask for it at the same time share the read."""
        return await self.shared.read_app(name, uses_budget=self.uses_budget)

    async def read_records(self, task_hub: str, exemptions: Exemptions) -> RecordedState:
        """Read the records of the task hub. Requests that ask for them at the same time share the read."""
        return await self.shared.read_records(task_hub, exemptions, uses_budget=self.uses_budget)

    async def probe_for_verdict(self, request: ProbeRequest) -> ProbeOutcome:
        """Verify the task hub at its provider. Requests that ask for the same at the same time share the probe."""
        return await self.shared.probe_for_verdict(request, uses_budget=self.uses_budget)
