"""Verification: reads task hubs at their providers, as `domain/readiness/plan.py` plans it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from state_api.backends.protocols import BackendError, BackendRegistry, backend_id_of
from state_api.domain.readiness.evidence import ProbeResult
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.lookups import LOOKUP_BATCH_SIZE
from state_api.domain.readiness.plan import Done, ProbeOutcome, ReadState, RecordedState, plan_read
from state_api.domain.releases.apps import ProviderConfig
from state_api.domain.task_hubs.lifecycle import EvidenceSource
from state_api.services.early_look_ups import EarlyLookUp, InstanceLookUps, LookUpResult, look_up
from state_api.services.lost_ends import LongActive, StartPeriod, record_lost_ends
from state_api.services.ports import Clock, Instances, Probes, TaskHubRecords, TaskHubs
from state_api.services.probe_requests import ProbeRequest
from state_api.services.record_correction import RecordCorrector
from state_api.services.results_without_scan import failed_result, timed_out_result
from state_api.services.task_hub_reader import ReaderContext, TaskHubReader

PROBE_TIMEOUT_SECONDS = 60.0
"""How long one request may read a task hub. Together with the longest wait of GetStagingStatus it is well below 230 s,
after which Azure ends a request."""


class Verifier:
    """Verifies task hubs. `stopping` interrupts scans when the server shuts down; the next request resumes them."""

    def __init__(
        self,
        backends: BackendRegistry,
        probes: Probes,
        task_hubs: TaskHubs,
        instances: Instances,
        *,
        clock: Clock,
        stopping: asyncio.Event,
    ) -> None:
        """Gather what the readers of all task hubs share."""
        self._backends = backends
        self._task_hubs = task_hubs
        self._instances = instances
        self._clock = clock
        record_corrector = RecordCorrector(task_hubs, instances, clock)
        self._context = ReaderContext(backends, record_corrector, probes, task_hubs, instances, clock, stopping)

    async def get_recorded_state(self, task_hub: str, exemptions: Exemptions) -> RecordedState:
        """What is recorded of a task hub now."""
        return (await self._instances.read_records(task_hub, exemptions)).state

    def backend_id(self, provider_config: ProviderConfig) -> str:
        """Identifies where the provider's settings lead now; empty if a setting is missing or wrong."""
        try:
            return backend_id_of(provider_config, self._backends.backend_for(provider_config))
        except BackendError:
            return ""

    async def confirm_backend(self, request: ProbeRequest) -> None:
        """Find out whether the backend shows instances that events reported, while there are some: they may be purged
        later. The task hub is not read once the backend is confirmed."""
        records = await self._instances.read_records(request.task_hub, request.exemptions)
        latest = records.activity.active[-LOOKUP_BATCH_SIZE:]
        reported = [instance.instance_id for instance in latest if instance.source is EvidenceSource.EVENT]
        if not reported or records.confirmed_backend == request.backend_id:
            return
        try:
            async with asyncio.timeout_at(request.deadline):
                backend = self._backends.backend_for(request.provider_config)
                observed = await backend.find_instances(request.task_hub, reported)
        except (BackendError, TimeoutError):
            return
        if any(observed.values()):
            await self._task_hubs.record_seen(request.task_hub, confirmed_backend=request.backend_id)

    async def record_lost_ends(self, request: ProbeRequest, period: StartPeriod) -> LongActive:
        """Look up the instances of this period that the records hold active, and record which of them have ended."""
        records = await self._instances.read_records(request.task_hub, request.exemptions)
        return await record_lost_ends(request, self._context, records, period)

    async def probe_for_verdict(
        self,
        request: ProbeRequest,
        records: TaskHubRecords | None = None,
        look_ups: InstanceLookUps | None = None,
    ) -> ProbeOutcome:
        """Verify a task hub for a verdict. `records` are those of the request's exemptions, and `look_ups` may have
        begun, if that was since the request."""
        return await self._read(request, records, look_ups, for_verdict=True)

    def begin_look_up(self, provider_config: ProviderConfig, task_hub: str, instance_ids: Sequence[str]) -> EarlyLookUp:
        """Begin to look up instances before the records are read. Its task raises BackendError."""

        async def run() -> LookUpResult:
            """Look up the instances. Raises BackendError, also if a setting of the provider is missing or wrong."""
            backend = self._backends.backend_for(provider_config)
            return await look_up(backend, self._clock, task_hub, instance_ids)

        return EarlyLookUp(tuple(instance_ids), asyncio.create_task(run()))

    def new_look_ups(self, early: EarlyLookUp | None) -> InstanceLookUps:
        """The look-ups for one question about a task hub. Pass the one that has begun for it."""
        return InstanceLookUps(self._clock, early)

    async def probe_regardless_of_activity(self, request: ProbeRequest) -> ProbeResult:
        """Scan the whole task hub, even while instances are active, so that they can be counted by version. Returns a
        stored scan if it is recent enough. The result is incomplete if the deadline passes first."""
        outcome = await self._read(request, None, None, for_verdict=False)
        assert outcome.result is not None, "a request that is not for a verdict ends with a scan"
        return outcome.result

    async def _read(
        self,
        request: ProbeRequest,
        records: TaskHubRecords | None,
        look_ups: InstanceLookUps | None,
        *,
        for_verdict: bool,
    ) -> ProbeOutcome:
        """Take the steps that `plan_read` decides on, until none is left or the deadline has passed."""
        if records is None:
            records = await self._instances.read_records(request.task_hub, request.exemptions)
        state = ReadState(
            request.requirements(for_verdict=for_verdict),
            last_result=records.probe.result_for(request.key),
            stored_scan=records.probe.scan_for(request.key),
            records=records.state,
        )
        reader = TaskHubReader(request, self._context, records, look_ups)
        try:
            while not isinstance(step := plan_read(state, self._clock.now()), Done):
                try:
                    state = await reader.take(step, state)
                except BackendError as error:
                    state = replace(state, failure=failed_result(request, error, self._clock.now()))
                except TimeoutError:
                    message = "looking up what events show active took too long"
                    state = replace(state, failure=timed_out_result(request, message, self._clock.now()))
            outcome = step.outcome
            if for_verdict and outcome.recorded_state is None:
                # Read the records after the scan, so that an event that was recorded in the meantime counts. Its result
                # is being stored at the same time.
                records = await self._instances.read_records(request.task_hub, request.exemptions)
                outcome = replace(outcome, recorded_state=records.state)
            return outcome
        finally:
            await reader.release()
