"""GetStagingStatus: gather the evidence, let the domain judge, wait if asked to."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import Evidence, InstanceActivity, OpenDeployment, OpenSwap, ProbeResult
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.prior_hubs import combine_verdicts
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from state_api.domain.releases import refusals
from state_api.domain.releases.apps import App, Caller, PriorHub, ProviderConfig, Slot
from state_api.domain.releases.checks import check_slot_exists, find_blocking_deployment
from state_api.services.ports import Apps, Clock
from state_api.services.probe_requests import ProbeOutcome, ProbeRequest, RecordedState, VerificationMode
from state_api.services.verification import PROBE_TIMEOUT_SECONDS, Verifier

_POLL_INTERVAL_SECONDS = 1.0
_VERIFY_INTERVAL_SECONDS = 5.0
"""How often a caller who waits makes the server look up active instances in the task hub itself. A hub that has none
left is read as soon as that can make it Ready, but no more than half of the time."""


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A verdict, and what it is about."""

    app: App
    slot_name: str
    slot: Slot | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Verification:
    """How a verdict is to be verified: by what is read from `requested_at` on or by less, and until when, by the clock
    of the event loop; or by what was `checked` a moment ago, by task hub."""

    verify: VerificationMode
    requested_at: Instant
    deadline: float
    probe_outcomes: Mapping[str, ProbeOutcome] = field(default_factory=dict)


class Readiness:
    """`stopping` ends waits early when the server shuts down."""

    def __init__(self, apps: Apps, verifier: Verifier, clock: Clock, stopping: asyncio.Event) -> None:
        self._apps = apps
        self._verifier = verifier
        self._clock = clock
        self._stopping = stopping

    async def start_verification(
        self, verify: VerificationMode, timeout_seconds: float = PROBE_TIMEOUT_SECONDS
    ) -> Verification:
        """A verification that begins now and may take `timeout_seconds` seconds."""
        return Verification(
            verify, await self._verifier.get_storage_time(), asyncio.get_running_loop().time() + timeout_seconds
        )

    async def wait_for_status(
        self,
        app_name: str,
        slot: str,
        caller: Caller,
        wait_seconds: int,
        verify: VerificationMode,
        is_disconnected: Callable[[], Awaitable[bool]],
    ) -> SlotStatus:
        """The verdict on a slot; if it is NotReady, that of up to `wait_seconds` seconds later, as soon as it turns
        Ready. `is_disconnected` says that nobody waits for the answer any more.

        Raises AppNotFound, SlotNotFound.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        requested_at = (
            await self._verifier.get_storage_time() if verify is VerificationMode.FRESH else self._clock.now()
        )
        verify_at = loop.time()
        checked: Mapping[str, ProbeOutcome] = {}
        while True:
            began = loop.time()
            due = began >= verify_at
            verification = Verification(verify, requested_at, began + PROBE_TIMEOUT_SECONDS, {} if due else checked)
            status, checked = await self._get_status(app_name, slot, caller, verification)
            if due:
                took = loop.time() - began
                verify_at = loop.time() + (_VERIFY_INTERVAL_SECONDS if status.verdict.has_running else took)
            elif not status.verdict.has_running:
                verify_at = loop.time()
            left = deadline - loop.time()
            if status.verdict.ready or left <= 0 or self._stopping.is_set() or await is_disconnected():
                return status
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(left, _POLL_INTERVAL_SECONDS))

    async def _get_status(
        self, app_name: str, slot: str, caller: Caller, verification: Verification
    ) -> tuple[SlotStatus, Mapping[str, ProbeOutcome]]:
        app = await self._apps.get(app_name)
        if app is None:
            raise refusals.app_not_found(app_name).to_error()
        if refusal := check_slot_exists(app, slot):
            raise refusal.to_error()
        content = app.slot(slot)
        # A question names no hub: who holds a deployment is known by the run URL alone.
        run = caller.run_id("") if caller.run_url else None
        blocking = find_blocking_deployment(app, run, self._clock.now())
        pending = app.pending_swap.to_open_swap() if app.pending_swap else None
        deployment = blocking.to_open_deployment() if blocking else None
        possible_hubs = content.possible_hubs() if content else ()
        verdict, checked = await self._assess_task_hubs(app, possible_hubs, verification, deployment, pending)
        return SlotStatus(app, app.registered_slot_name(slot), content, verdict), checked

    async def assess_slot(self, app: App, slot: Slot | None, verification: Verification) -> Verdict:
        """The verdict on what a slot holds."""
        return (await self._assess_task_hubs(app, slot.possible_hubs() if slot else (), verification))[0]

    async def assess_prior_hubs(self, app: App, slot: Slot, verification: Verification) -> Verdict | None:
        """The verdict on what a slot may still carry beneath the hub that is staged; None if there is nothing."""
        return (await self._assess_task_hubs(app, slot.prior_hubs, verification))[0] if slot.prior_hubs else None

    async def assess_task_hub(self, app: App, task_hub: str, verification: Verification) -> Verdict:
        """The verdict on a task hub, whether a slot holds it or not."""
        return (await self._assess_task_hub(app, task_hub, verification, self._clock.now()))[0]

    async def _assess_task_hubs(
        self,
        app: App,
        possible_hubs: Sequence[PriorHub],
        verification: Verification,
        deployment: OpenDeployment | None = None,
        pending_swap: OpenSwap | None = None,
    ) -> tuple[Verdict, Mapping[str, ProbeOutcome]]:
        """One verdict on all of these hubs, of one moment, and what verification came to by task hub."""
        # Once: a waiver that runs out between two looks must not make one of the hubs be read anew after all others.
        now = self._clock.now()

        async def each(verification: Verification) -> list[tuple[Verdict, ProbeOutcome | None]]:
            judged = (
                self._assess_task_hub(app, one.task_hub, verification, now, deployment, pending_swap, one.promoted)
                for one in possible_hubs
            )
            return await asyncio.gather(*judged)

        if not possible_hubs:
            evidence = Evidence(None, deployment=deployment, pending_swap=pending_swap)
            return assess_readiness(evidence, app.policy, now), {}
        judged = await each(verification)
        checked = {
            one.task_hub: found for one, (_, found) in zip(possible_hubs, judged, strict=True) if found is not None
        }
        if len(possible_hubs) > 1:
            # One may have been read long before the last: what was recorded in the meantime must show.
            judged = await each(replace(verification, probe_outcomes=checked))
        first, *others = (verdict for verdict, _ in judged)
        return combine_verdicts(first, others), checked

    async def _assess_task_hub(
        self,
        app: App,
        task_hub: str,
        verification: Verification,
        now: Instant,
        deployment: OpenDeployment | None = None,
        pending_swap: OpenSwap | None = None,
        promoted: bool = False,
    ) -> tuple[Verdict, ProbeOutcome | None]:
        """The verdict under the waivers of `now`, and what verification came to, for the same question a moment later.
        A hub that was `promoted` has been started: if it is not there, that is not because it never was."""
        exemptions = Exemptions.for_task_hub(app.policy.ignore_functions, app.waivers, task_hub, now)
        checked: ProbeOutcome | None = None
        records: RecordedState | None = None
        if app.provider_config is not None:
            question = self._build_probe_request(app, app.provider_config, task_hub, exemptions, verification)
            # Hub, source, policy and waivers may change while somebody waits.
            before = verification.probe_outcomes.get(task_hub)
            if before is not None and before.request_key == question.key:
                checked = before
            else:
                checked = await self._verifier.probe_for_verdict(question)
                records = checked.recorded_state
        if records is None:
            # After the scan: an event that was recorded in the meantime must show.
            records = await self._verifier.get_recorded_state(task_hub, exemptions)
        evidence = Evidence(
            task_hub=task_hub,
            activity=records.activity,
            provider=app.provider_config.provider if app.provider_config else None,
            probe=checked.result if checked else None,
            deployment=deployment,
            pending_swap=pending_swap,
            waivers=exemptions.waivers,
            active_instance_seen=checked is not None and checked.active_instance_seen,
            looked_up_instances=checked.looked_up_instances if checked else (),
            seen_before=records.seen_before or promoted,
        )
        return assess_readiness(evidence, app.policy, self._clock.now()), checked

    async def confirm_backend(self, app: App, task_hub: str) -> None:
        """Find out whether a hub is the one that events tell of, of an app that says where its hubs live."""
        assert app.provider_config is not None, "whoever asks has looked"
        verification = await self.start_verification(VerificationMode.NONE)
        exemptions = Exemptions.for_task_hub(
            app.policy.ignore_functions, app.waivers, task_hub, verification.requested_at
        )
        await self._verifier.confirm_backend(
            self._build_probe_request(app, app.provider_config, task_hub, exemptions, verification)
        )

    async def read_activity(self, task_hub: str, policy: Policy) -> InstanceActivity:
        """What was recorded for a hub, whatever is waived."""
        return (await self._verifier.get_recorded_state(task_hub, Exemptions(policy.ignore_functions))).activity

    async def probe_completely(self, app: App, task_hub: str, verify: VerificationMode) -> ProbeResult:
        """What a probe finds in a hub, all of it, of an app that says where its hubs live."""
        assert app.provider_config is not None, "whoever asks has looked"
        verification = await self.start_verification(verify)
        exemptions = Exemptions.for_task_hub(
            app.policy.ignore_functions, app.waivers, task_hub, verification.requested_at
        )
        return await self._verifier.probe_completely(
            self._build_probe_request(app, app.provider_config, task_hub, exemptions, verification)
        )

    def _build_probe_request(
        self,
        app: App,
        provider_config: ProviderConfig,
        task_hub: str,
        exemptions: Exemptions,
        verification: Verification,
    ) -> ProbeRequest:
        place = self._verifier.backend_id(provider_config)
        return ProbeRequest(
            task_hub,
            provider_config,
            place,
            app.policy,
            exemptions,
            verification.verify,
            verification.requested_at,
            verification.deadline,
        )
