"""Verification: asking the task hub itself. Cheap first: while the records show active instances, only those are looked
up; once they show none, the hub is scanned. What is seen corrects the records."""

import asyncio

from state_api.backends.protocols import BackendError, BackendRegistry, backend_id_of
from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.evidence import InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.policy import Policy
from state_api.domain.releases.apps import ProviderConfig
from state_api.domain.task_hubs.lifecycle import EvidenceSource
from state_api.services.instance_lookup import LOOKUP_BATCH_SIZE, InstanceLookup, LookupResult
from state_api.services.ports import Clock, Instances, ProbeRecord, Probes, TaskHubs
from state_api.services.probe_requests import (
    ProbeOutcome,
    ProbeRequest,
    RecordedState,
    VerificationMode,
    is_fresh_enough,
    satisfies_request,
)
from state_api.services.scanning import Scanner, failed_result, incomplete_result, timed_out_result

PROBE_TIMEOUT_SECONDS = 60.0
"""How long one question may read a task hub. With the longest wait of GetStagingStatus it stays well inside the 230 s
after which the platform cuts a request off."""


class Verifier:
    """`stopping` cuts scans short when the server shuts down; they are carried on by whoever comes next."""

    def __init__(
        self,
        backends: BackendRegistry,
        probes: Probes,
        task_hubs: TaskHubs,
        instances: Instances,
        clock: Clock,
        stopping: asyncio.Event,
    ) -> None:
        self._backends = backends
        self._probes = probes
        self._task_hubs = task_hubs
        self._instances = instances
        self._clock = clock
        self._lookup = InstanceLookup(task_hubs, instances, clock)
        self._scanner = Scanner(probes, task_hubs, instances, self._lookup, clock, stopping)

    async def get_recorded_state(self, task_hub: str, exemptions: Exemptions) -> RecordedState:
        """What is on record of a hub now."""
        hub = await self._task_hubs.get(task_hub)
        if hub is None or not hub.recording or hub.closed:
            return RecordedState(InstanceActivity(), seen_before=hub is not None and (hub.recording or hub.seen))
        return RecordedState(await self._instances.read_activity(hub, exemptions), seen_before=True)

    def backend_id(self, provider_config: ProviderConfig) -> str:
        """Where the source leads now; empty if a setting is missing or wrong."""
        try:
            return backend_id_of(provider_config, self._backends.backend_for(provider_config))
        except BackendError:
            return ""

    async def get_storage_time(self) -> Instant:
        """The storage's time, asked of it: this machine may just have started, or have been suspended."""
        await self._task_hubs.ping()
        return self._clock.now()

    async def confirm_backend(self, question: ProbeRequest) -> None:
        """Find out whether a hub's source is the right one while there are instances to know it by: later they may be
        purged. Costs nothing once it is known."""
        hub = await self._task_hubs.get(question.task_hub)
        if hub is None or hub.closed or not hub.recording or hub.confirmed_backend == question.backend_id:
            return
        active = (await self._instances.read_activity(hub, question.exemptions)).active[-LOOKUP_BATCH_SIZE:]
        told = [one.instance_id for one in active if one.source is EvidenceSource.EVENT]
        try:
            async with asyncio.timeout_at(question.deadline):
                seen = await self._backends.backend_for(question.provider_config).find_instances(
                    question.task_hub, told
                )
        except (BackendError, TimeoutError):
            return
        if any(seen.values()):
            await self._task_hubs.record_seen(question.task_hub, confirmed_backend=question.backend_id)

    async def probe_for_verdict(self, question: ProbeRequest) -> ProbeOutcome:
        """Verify a hub for a verdict."""
        kept = await self._probes.get(question.task_hub)
        result = kept.result if kept.result is not None and kept.result.request_key == question.key else None
        if self._must_wait(result):
            return ProbeOutcome(question.key, result)
        if question.verify is VerificationMode.NONE:
            return await self._outcome_without_read(kept, result, question)
        if result is not None and (result.found_blocking or not is_fresh_enough(result, question)):
            # What it found is in the records, where it has been followed since; and one that is not fresh must not
            # answer after all when the time runs on between here and the verdict.
            result = None
        try:
            backend = self._backends.backend_for(question.provider_config)
            async with asyncio.timeout_at(question.deadline):
                records = await self._get_recorded_state(question)
                found = LookupResult(undecided=False)
                while records.activity.active and not found.unconfirmed_starts:
                    found = await self._lookup.look_up_instances(backend, question, records.activity.active)
                    if found.undecided:
                        still = None if found.records_corrected else records
                        # Without the last result: once these have ended, what they have started is not in it.
                        return ProbeOutcome(
                            question.key, None, bool(found.active_instances), found.active_instances, still
                        )
                    records = await self._get_recorded_state(question)
        except BackendError as error:
            return ProbeOutcome(question.key, failed_result(question, error, self._clock.now()))
        except TimeoutError:
            message = "looking up what events show active took too long"
            return ProbeOutcome(question.key, timed_out_result(question, message, self._clock.now()))
        activity = records.activity
        if self._is_settling(activity, question.policy):
            return ProbeOutcome(question.key, result, recorded_state=records)
        if not found.unconfirmed_starts and self._satisfies_request(result, question, activity):
            return ProbeOutcome(question.key, result, recorded_state=records)
        result = await self._scanner.scan(backend, question, activity, for_verdict=True)
        waived = result.messages.waived if result.messages is not None else 0
        if found.unconfirmed_starts and result.status is ProbeStatus.COMPLETE and not (result.found_blocking or waived):
            # Nothing is on its way, so these starts came to nothing or were purged. What was read before they were
            # closed proves nothing, so the hub is read again.
            try:
                await self._lookup.close_unconfirmed_starts(backend, question, found.unconfirmed_starts)
            except BackendError as error:
                return ProbeOutcome(question.key, failed_result(question, error, self._clock.now()))
            records = await self._get_recorded_state(question)
            result = await self._scanner.scan(backend, question, records.activity, for_verdict=True)
        return ProbeOutcome(question.key, result)

    async def _outcome_without_read(
        self, kept: ProbeRecord, result: ProbeResult | None, question: ProbeRequest
    ) -> ProbeOutcome:
        """What is known without a read of the hub."""
        scan = kept.scan if kept.scan is not None and kept.scan.request_key == question.key else None
        if result is not None and result.found_blocking and not result.starts_pending:
            # What it found is in the records, where it has been followed since.
            result = None
        if scan is None:
            return ProbeOutcome(question.key, result)
        records = await self._get_recorded_state(question)
        if not self._satisfies_request(result, question, records.activity):
            result = incomplete_result(scan, question, self._clock.now())
        return ProbeOutcome(question.key, result, recorded_state=records)

    async def _get_recorded_state(self, question: ProbeRequest) -> RecordedState:
        return await self.get_recorded_state(question.task_hub, question.exemptions)

    async def probe_completely(self, question: ProbeRequest) -> ProbeResult:
        """A scan of the hub that is complete and young enough, whatever it found; read now if there is none."""
        kept = await self._probes.get(question.task_hub)
        result = kept.result if kept.result is not None and kept.result.request_key == question.key else None
        activity = (await self._get_recorded_state(question)).activity
        if result is not None and (
            self._must_wait(result) or self._satisfies_request(result, question, activity, for_verdict=False)
        ):
            return result
        try:
            backend = self._backends.backend_for(question.provider_config)
        except BackendError as error:
            return failed_result(question, error, self._clock.now())
        return await self._scanner.scan(backend, question, activity, for_verdict=False)

    def _satisfies_request(
        self,
        result: ProbeResult | None,
        question: ProbeRequest,
        activity: InstanceActivity,
        *,
        for_verdict: bool = True,
    ) -> bool:
        return satisfies_request(result, question, activity, self._clock.now(), for_verdict=for_verdict)

    def _must_wait(self, result: ProbeResult | None) -> bool:
        """Whether the backend has asked to be left alone until later."""
        if result is None or result.retry_after_seconds is None:
            return False
        return self._clock.now() < (result.ended_at or result.began_at) + seconds(result.retry_after_seconds)

    def _is_settling(self, activity: InstanceActivity, policy: Policy) -> bool:
        """Whether a scan that begins now could not make the hub Ready: it must begin after the last event."""
        last = activity.last_recorded_at
        return last is not None and self._clock.now() <= last + seconds(policy.settle_seconds)
