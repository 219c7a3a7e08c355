"""GetStagingStatus: gathers the evidence, assesses it, and waits if the caller asks for that."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import Evidence, InstanceActivity, OpenDeployment, OpenSwap, ProbeResult
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.plan import ProbeOutcome, RecordedState, VerificationMode
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.prior_hubs import combine_verdicts
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from state_api.domain.releases import refusals
from state_api.domain.releases.apps import App, Caller, PriorHub, ProviderConfig, Slot
from state_api.domain.releases.transition_checks import check_slot_exists, find_blocking_deployment
from state_api.services.ports import Apps, Clock
from state_api.services.probe_requests import ProbeRequest
from state_api.services.verification import PROBE_TIMEOUT_SECONDS, Verifier

_POLL_INTERVAL_SECONDS = 1.0
_VERIFY_INTERVAL_SECONDS = 5.0
"""How often a waiting request looks up active instances in the task hub itself. Once none is active, the task hub is
read as soon as that can make the verdict Ready, but for at most half of the time."""


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """The verdict on a slot, with the app and the slot that it is about."""

    app: App
    slot_name: str
    slot: Slot | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Verification:
    """How to verify a verdict.

    - `requested_at`: a time by the state storage's clock.
    - `deadline`: a time by the clock of the event loop, in seconds.
    - `probe_outcomes`: the outcomes of a moment ago, by task hub. They are used instead of reading again.
    """

    mode: VerificationMode
    requested_at: Instant
    deadline: float
    probe_outcomes: Mapping[str, ProbeOutcome] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Blockers:
    """What other runs are doing to the app."""

    deployment: OpenDeployment | None = None
    pending_swap: OpenSwap | None = None


_NO_BLOCKERS = _Blockers()


class Readiness:
    """Assesses slots and task hubs. `stopping` ends waits early when the server shuts down."""

    def __init__(self, apps: Apps, verifier: Verifier, clock: Clock, stopping: asyncio.Event) -> None:
        self._apps = apps
        self._verifier = verifier
        self._clock = clock
        self._stopping = stopping

    def start_verification(
        self, mode: VerificationMode, timeout_seconds: float = PROBE_TIMEOUT_SECONDS
    ) -> Verification:
        """A verification that begins now and may read task hubs for `timeout_seconds`.

        Call this after a read of the state storage that began after the request, such as that of the app. Its response
        has set the clock, also of a machine that has just started or was suspended. The time is later than that of the
        request, so a probe that is fresh by it is fresh for the request.
        """
        return Verification(mode, self._clock.now(), asyncio.get_running_loop().time() + timeout_seconds)

    async def wait_for_status(
        self,
        app_name: str,
        slot_name: str,
        caller: Caller,
        *,
        wait_seconds: int,
        mode: VerificationMode,
        is_disconnected: Callable[[], Awaitable[bool]],
    ) -> SlotStatus:
        """The status of a slot. While it is NotReady, waits for up to `wait_seconds` until it turns Ready.

        `is_disconnected` returns True when the caller has closed the connection. Raises AppNotFound, SlotNotFound.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        verify_at = loop.time()
        requested_at: Instant | None = None
        outcomes: Mapping[str, ProbeOutcome] = {}
        while True:
            began = loop.time()
            is_due = began >= verify_at
            app = await self._read_app(app_name, slot_name)
            verification = self.start_verification(mode, PROBE_TIMEOUT_SECONDS)
            # Later questions of the same request accept what was read for earlier ones.
            requested_at = verification.requested_at if requested_at is None else requested_at
            verification = replace(verification, requested_at=requested_at, probe_outcomes={} if is_due else outcomes)
            status, outcomes = await self._get_status(app, slot_name, caller, verification)
            if is_due:
                duration = loop.time() - began
                interval = _VERIFY_INTERVAL_SECONDS if status.verdict.has_running else duration
                verify_at = loop.time() + interval
            elif not status.verdict.has_running:
                verify_at = loop.time()
            remaining = deadline - loop.time()
            if status.verdict.ready or remaining <= 0 or self._stopping.is_set() or await is_disconnected():
                return status
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(remaining, _POLL_INTERVAL_SECONDS))

    async def _read_app(self, app_name: str, slot_name: str) -> App:
        """Raises AppNotFound, SlotNotFound."""
        app = await self._apps.get(app_name)
        if app is None:
            raise refusals.app_not_found(app_name).to_error()
        if refusal := check_slot_exists(app, slot_name):
            raise refusal.to_error()
        return app

    async def _get_status(
        self, app: App, slot_name: str, caller: Caller, verification: Verification
    ) -> tuple[SlotStatus, Mapping[str, ProbeOutcome]]:
        slot = app.slot(slot_name)
        # The request names no task hub, so the run URL alone identifies the owner of a deployment.
        run = caller.run_id("") if caller.run_url else None
        deployment = find_blocking_deployment(app, run, self._clock.now())
        blockers = _Blockers(
            deployment.to_open_deployment() if deployment else None,
            app.pending_swap.to_open_swap() if app.pending_swap else None,
        )
        possible_hubs = slot.possible_hubs() if slot else ()
        verdict, outcomes = await self._assess_task_hubs(app, possible_hubs, verification, blockers)
        return SlotStatus(app, app.registered_slot_name(slot_name), slot, verdict), outcomes

    async def assess_slot(self, app: App, slot: Slot | None, verification: Verification) -> Verdict:
        """The verdict on all task hubs that the slot may carry."""
        return (await self._assess_task_hubs(app, slot.possible_hubs() if slot else (), verification))[0]

    async def assess_prior_hubs(self, app: App, slot: Slot, verification: Verification) -> Verdict | None:
        """The verdict on the prior task hubs that the slot may still carry instead of the staged one; None without
        prior task hubs."""
        return (await self._assess_task_hubs(app, slot.prior_hubs, verification))[0] if slot.prior_hubs else None

    async def assess_task_hub(self, app: App, task_hub: str, verification: Verification) -> Verdict:
        """The verdict on one task hub, whether a slot holds it or not."""
        hub = PriorHub(task_hub, promoted=False)
        return (await self._assess_task_hub(app, hub, verification, self._clock.now(), _NO_BLOCKERS))[0]

    async def _assess_task_hubs(
        self,
        app: App,
        task_hubs: Sequence[PriorHub],
        verification: Verification,
        blockers: _Blockers = _NO_BLOCKERS,
    ) -> tuple[Verdict, Mapping[str, ProbeOutcome]]:
        """One verdict on all of these task hubs, and the outcome of the verification by task hub."""
        # The same time for all: a waiver that expires in between must not cause one of them to be read again.
        now = self._clock.now()
        if not task_hubs:
            evidence = Evidence(None, deployment=blockers.deployment, pending_swap=blockers.pending_swap)
            return assess_readiness(evidence, app.policy, now), {}

        async def assess_each(verification: Verification) -> list[tuple[Verdict, ProbeOutcome | None]]:
            assessments = (self._assess_task_hub(app, hub, verification, now, blockers) for hub in task_hubs)
            return await asyncio.gather(*assessments)

        assessed = await assess_each(verification)
        outcomes = {
            hub.task_hub: outcome for hub, (_, outcome) in zip(task_hubs, assessed, strict=True) if outcome is not None
        }
        if len(task_hubs) > 1:
            # The first may have been read long before the last, so events that were recorded since are included.
            assessed = await assess_each(replace(verification, probe_outcomes=outcomes))
        first, *others = (verdict for verdict, _ in assessed)
        return combine_verdicts(first, others), outcomes

    async def _assess_task_hub(
        self, app: App, hub: PriorHub, verification: Verification, now: Instant, blockers: _Blockers
    ) -> tuple[Verdict, ProbeOutcome | None]:
        """The verdict under the waivers that are in force at `now`, and the outcome of the verification.

        A promoted task hub was started. If it does not exist now, it has been deleted.
        """
        exemptions = Exemptions.for_task_hub(app.policy.ignore_functions, app.waivers, hub.task_hub, now)
        outcome: ProbeOutcome | None = None
        records: RecordedState | None = None
        if app.provider_config is not None:
            request = self._build_probe_request(app, app.provider_config, hub.task_hub, exemptions, verification)
            earlier = verification.probe_outcomes.get(hub.task_hub)
            # While a request waits, the task hub, provider, policy and waivers may change, and with them the key.
            if earlier is not None and earlier.request_key == request.key:
                outcome = earlier
            else:
                outcome = await self._verifier.probe_for_verdict(request)
                records = outcome.recorded_state
        if records is None:
            # Read after the scan, so that an event that was recorded in the meantime counts.
            records = await self._verifier.get_recorded_state(hub.task_hub, exemptions)
        evidence = Evidence(
            task_hub=hub.task_hub,
            activity=records.activity,
            provider=app.provider_config.provider if app.provider_config else None,
            probe=outcome.result if outcome else None,
            deployment=blockers.deployment,
            pending_swap=blockers.pending_swap,
            waivers=exemptions.waivers,
            active_instance_seen=outcome is not None and outcome.active_instance_seen,
            looked_up_instances=outcome.looked_up_instances if outcome else (),
            seen_before=records.seen_before or hub.promoted,
        )
        return assess_readiness(evidence, app.policy, self._clock.now()), outcome

    async def confirm_backend(self, app: App, task_hub: str) -> None:
        """Find out whether the app's provider shows instances of this task hub that events reported."""
        await self._verifier.confirm_backend(self._start_probe_request(app, task_hub, VerificationMode.NONE))

    async def read_activity(self, task_hub: str, policy: Policy) -> InstanceActivity:
        """What is recorded of a task hub, regardless of waivers."""
        return (await self._verifier.get_recorded_state(task_hub, Exemptions(policy.ignore_functions))).activity

    async def was_seen_before(self, task_hub: str) -> bool:
        """Whether events or a probe have shown the task hub."""
        return (await self._verifier.get_recorded_state(task_hub, Exemptions())).seen_before

    async def probe_completely(self, app: App, task_hub: str, mode: VerificationMode) -> ProbeResult:
        """The result of a complete scan of a task hub."""
        return await self._verifier.probe_completely(self._start_probe_request(app, task_hub, mode))

    def _start_probe_request(self, app: App, task_hub: str, mode: VerificationMode) -> ProbeRequest:
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
        return ProbeRequest(
            task_hub,
            provider_config,
            self._verifier.backend_id(provider_config),
            app.policy,
            exemptions,
            verification.mode,
            verification.requested_at,
            verification.deadline,
        )
