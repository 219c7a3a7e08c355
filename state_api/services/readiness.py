"""GetStagingStatus: gathers the evidence, assesses it, and waits if the caller asks for that."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import (
    Evidence,
    InstanceActivity,
    OpenDeployment,
    OpenRollout,
    OpenSwap,
    ProbeResult,
)
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.plan import ProbeOutcome, RecordedState
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.prior_hubs import combine_verdicts
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from state_api.domain.releases import refusals
from state_api.domain.releases.apps import App, PriorHub, ProviderConfig, Slot
from state_api.domain.releases.rollout_checks import find_open_rollout
from state_api.domain.releases.side_by_side.releases import Model
from state_api.domain.releases.transition_checks import check_model, check_slot_exists, find_blocking_deployment
from state_api.services.lost_ends import LongActive, StartPeriod
from state_api.services.parallel_reads import ParallelReads
from state_api.services.ports import Clock
from state_api.services.probe_requests import ProbeRequest
from state_api.services.slot_status import SlotStatus, StatusQuestion
from state_api.services.verdict_reads import VerdictReads
from state_api.services.verification import PROBE_TIMEOUT_SECONDS, Verifier
from state_api.services.waiting import WaitingRequests


@dataclass(frozen=True, slots=True)
class Verification:
    """How to verify a verdict.

    - `requested_at`: a time after the request, by the state storage's clock.
    - `deadline`: a time by the clock of the event loop, in seconds.
    - `must_begin_after`: a time by the state storage's clock. A probe that began earlier does not count.
    - `reads`: how to read. Requests that wait share their reads.
    - `probe_outcomes`: the outcomes of a moment ago, by task hub. They are used instead of reading again.
    """

    mode: VerificationMode
    requested_at: Instant
    deadline: float
    reads: VerdictReads
    probe_outcomes: Mapping[str, ProbeOutcome] = field(default_factory=dict)
    must_begin_after: Instant = Instant(0)


@dataclass(frozen=True, slots=True)
class _Blockers:
    """What other runs are doing to the app, and the rollout of the slot."""

    deployment: OpenDeployment | None = None
    pending_swap: OpenSwap | None = None
    rollout: OpenRollout | None = None


_NO_BLOCKERS = _Blockers()


class Readiness:
    """Assesses slots and task hubs."""

    def __init__(
        self,
        reads: VerdictReads,
        parallel_reads: ParallelReads,
        verifier: Verifier,
        clock: Clock,
        waiting: WaitingRequests,
    ) -> None:
        self._reads = reads
        self._parallel_reads = parallel_reads
        self._verifier = verifier
        self._clock = clock
        self._waiting = waiting

    def start_verification(
        self,
        mode: VerificationMode,
        timeout_seconds: float = PROBE_TIMEOUT_SECONDS,
        *,
        reads: VerdictReads | None = None,
    ) -> Verification:
        """A verification that begins now and may read task hubs for `timeout_seconds`.

        Call this after a read of the state storage that began after the request, such as that of the app. Its response
        has set the clock, also of a machine that has just started or was suspended. The time is certainly later than
        that of the request, so a probe that began after it by any server's clock is fresh for the request.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        return Verification(mode, self._clock.upper_bound(), deadline, reads or self._reads)

    async def wait_for_status(
        self,
        question: StatusQuestion,
        *,
        wait_seconds: float,
        is_disconnected: Callable[[], Awaitable[bool]],
    ) -> SlotStatus:
        """The status of a slot. While it is NotReady, waits for up to `wait_seconds` until it turns Ready.

        `is_disconnected` returns True when the caller has closed the connection. Raises AppNotFound, WrongModel,
        SlotNotFound.
        """
        if wait_seconds <= 0:
            async with self._parallel_reads.begin(question) as reads:
                return (await self._get_status(question, reads, None))[0]
        return await self._waiting.wait_for_ready(
            question, self._get_status, wait_seconds=wait_seconds, is_disconnected=is_disconnected
        )

    async def _get_status(
        self, question: StatusQuestion, reads: VerdictReads, requested_at: Instant | None
    ) -> tuple[SlotStatus, Instant]:
        """The status of a slot, and the time of the request. `requested_at` is that time if the request has asked
        before: it accepts what was read for earlier questions."""
        app = await reads.read_app(question.app_name)
        if app is None:
            raise refusals.app_not_found(question.app_name).to_error()
        if refusal := check_model(app, Model.SLOTS) or check_slot_exists(app, question.slot_name):
            raise refusal.to_error()
        verification = self.start_verification(question.mode, PROBE_TIMEOUT_SECONDS, reads=reads)
        if requested_at is not None:
            verification = replace(verification, requested_at=requested_at)
        slot = app.slot(question.slot_name)
        # The request names no task hub, so the run URL alone identifies the owner of a deployment.
        run = question.caller.run_id("") if question.caller.run_url else None
        deployment = find_blocking_deployment(app, run, self._clock.now())
        blockers = _Blockers(
            deployment.to_open_deployment() if deployment else None,
            app.pending_swap.to_open_swap() if app.pending_swap else None,
            find_open_rollout(app, app.registered_slot_name(question.slot_name), self._clock.now()),
        )
        possible_hubs = slot.possible_hubs() if slot else ()
        verdict = await self._assess_task_hubs(app, possible_hubs, verification, blockers)
        status = SlotStatus(app, app.registered_slot_name(question.slot_name), slot, verdict)
        return status, verification.requested_at

    async def assess_slot(self, app: App, name: str, verification: Verification) -> Verdict:
        """The verdict on all task hubs that the slot may carry, and on the visitors whom a rollout brings there."""
        slot = app.slot(name)
        blockers = _Blockers(rollout=find_open_rollout(app, app.registered_slot_name(name), self._clock.now()))
        return await self._assess_task_hubs(app, slot.possible_hubs() if slot else (), verification, blockers)

    async def assess_repeated_stage(self, app: App, slot: Slot, verification: Verification) -> Verdict | None:
        """The verdict for the run that has staged the slot's task hub and deploys it again: on all task hubs with work
        that it may break. None without such task hubs."""
        task_hubs = slot.hubs_to_drain_before_redeployment()
        return await self._assess_task_hubs(app, task_hubs, verification) if task_hubs else None

    async def assess_task_hub(
        self, app: App, task_hub: str, verification: Verification, *, had_traffic: bool = False
    ) -> Verdict:
        """The verdict on one task hub, whether a slot holds it or not. `had_traffic`: it got requests, so it was
        started."""
        hub = PriorHub(task_hub, promoted=False, had_traffic=had_traffic)
        return (await self._assess_task_hub(app, hub, verification, self._clock.now(), _NO_BLOCKERS))[0]

    async def _assess_task_hubs(
        self,
        app: App,
        task_hubs: Sequence[PriorHub],
        verification: Verification,
        blockers: _Blockers = _NO_BLOCKERS,
    ) -> Verdict:
        """One verdict on all of these task hubs."""
        # The same time for all: a waiver that expires in between must not cause one of them to be read again.
        now = self._clock.now()
        if not task_hubs:
            evidence = Evidence(
                None,
                deployment=blockers.deployment,
                pending_swap=blockers.pending_swap,
                rollout=blockers.rollout,
            )
            return assess_readiness(evidence, app.policy, now)

        async def assess_each(verification: Verification) -> list[tuple[Verdict, ProbeOutcome | None]]:
            assessments = (self._assess_task_hub(app, hub, verification, now, blockers) for hub in task_hubs)
            return await asyncio.gather(*assessments)

        assessed = await assess_each(verification)
        if len(task_hubs) > 1:
            # The first may have been read long before the last, so events that were recorded since are included.
            outcomes = {
                hub.task_hub: outcome
                for hub, (_, outcome) in zip(task_hubs, assessed, strict=True)
                if outcome is not None
            }
            assessed = await assess_each(replace(verification, probe_outcomes=outcomes))
        first, *others = (verdict for verdict, _ in assessed)
        return combine_verdicts(first, others)

    async def _assess_task_hub(
        self, app: App, hub: PriorHub, verification: Verification, now: Instant, blockers: _Blockers
    ) -> tuple[Verdict, ProbeOutcome | None]:
        """The verdict under the waivers that are in force at `now`, and the outcome of the verification.

        A task hub that was started counts as seen, although its events may be lost.
        """
        exemptions = Exemptions.for_task_hub(app.policy.ignore_functions, app.waivers, hub.task_hub, now)
        outcome = verification.probe_outcomes.get(hub.task_hub)
        records: RecordedState | None = None
        if app.provider_config is not None and outcome is None:
            request = self._build_probe_request(app, app.provider_config, hub.task_hub, exemptions, verification)
            outcome = await verification.reads.probe_for_verdict(request)
            records = outcome.recorded_state
        if records is None:
            # Read after the scan, so that an event that was recorded in the meantime counts.
            records = await verification.reads.read_records(hub.task_hub, exemptions)
        evidence = Evidence(
            task_hub=hub.task_hub,
            activity=records.activity,
            provider=app.provider_config.provider if app.provider_config else None,
            probe=outcome.result if outcome else None,
            deployment=blockers.deployment,
            pending_swap=blockers.pending_swap,
            rollout=blockers.rollout,
            waivers=exemptions.waivers,
            active_instance_seen=outcome is not None and outcome.active_instance_seen,
            looked_up_instances=outcome.looked_up_instances if outcome else (),
            seen_before=records.seen_before or hub.was_started,
        )
        return assess_readiness(evidence, app.policy, self._clock.now()), outcome

    async def confirm_backend(self, app: App, task_hub: str) -> None:
        """Find out whether the app's provider shows instances of this task hub that events reported."""
        await self._verifier.confirm_backend(self._start_probe_request(app, task_hub, VerificationMode.NONE))

    async def read_activity(self, task_hub: str, policy: Policy) -> InstanceActivity:
        """What is recorded of a task hub, regardless of waivers."""
        return (await self._verifier.get_recorded_state(task_hub, Exemptions(policy.ignore_functions))).activity

    async def find_long_active(
        self, app: App, task_hub: str, period: StartPeriod, *, timeout_seconds: float
    ) -> LongActive:
        """The oldest active instance that started in this period, after a look at the provider that records the ends
        which no event has reported. An app without a provider is known by its events alone."""
        verification = self.start_verification(VerificationMode.CACHED, timeout_seconds)
        exemptions = Exemptions.for_task_hub(
            app.policy.ignore_functions, app.waivers, task_hub, verification.requested_at
        )
        if app.provider_config is None:
            recorded = await self._verifier.get_recorded_state(task_hub, exemptions)
            return LongActive(next(iter(period.select(recorded.activity.active)), None))
        request = self._build_probe_request(app, app.provider_config, task_hub, exemptions, verification)
        return await self._verifier.record_lost_ends(request, period)

    async def was_seen_before(self, task_hub: str) -> bool:
        """Whether events or a probe have shown the task hub."""
        return (await self._verifier.get_recorded_state(task_hub, Exemptions())).seen_before

    async def probe_regardless_of_activity(self, app: App, task_hub: str, mode: VerificationMode) -> ProbeResult:
        """Scan the whole task hub, even while instances are active, so that they can be counted by version."""
        return await self._verifier.probe_regardless_of_activity(self._start_probe_request(app, task_hub, mode))

    def _start_probe_request(self, app: App, task_hub: str, mode: VerificationMode) -> ProbeRequest:
        """The request to probe the task hub now, with the exemptions of the app's policy and waivers."""
        assert app.provider_config is not None, "the caller has checked that the app has a provider"
        verification = self.start_verification(mode)
        exemptions = Exemptions.for_task_hub(
            app.policy.ignore_functions, app.waivers, task_hub, verification.requested_at
        )
        return self._build_probe_request(app, app.provider_config, task_hub, exemptions, verification)

    def _build_probe_request(
        self,
        app: App,
        provider_config: ProviderConfig,
        task_hub: str,
        exemptions: Exemptions,
        verification: Verification,
    ) -> ProbeRequest:
        """The request to read a task hub as far as this verification needs."""
        return ProbeRequest(
            task_hub,
            provider_config,
            self._verifier.backend_id(provider_config),
            app.policy,
            exemptions,
            verification.mode,
            verification.requested_at,
            verification.deadline,
            verification.must_begin_after,
        )
