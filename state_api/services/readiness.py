"""GetStagingStatus: gather the evidence, let the domain judge, wait if asked to."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from state_api.domain.apps import App, Beneath, Caller, Slot, TaskHubSource
from state_api.domain.beneath import combine
from state_api.domain.errors import AppNotFound
from state_api.domain.evidence import Activity, Evidence, OpenDeployment, OpenSwap, ProbeResult
from state_api.domain.exemptions import Exemptions
from state_api.domain.instants import Instant
from state_api.domain.readiness import Policy, Verdict, assess
from state_api.domain.releases import blocking_deployment
from state_api.services.ports import Apps, Clock
from state_api.services.questions import Checked, Question, Records, Verify
from state_api.services.verification import BUDGET_SECONDS, Verifier

_POLL_SECONDS = 1.0
_VERIFY_SECONDS = 5.0
"""How often a caller who waits makes the server look up active instances in the task hub itself. A hub that has none
left is read as soon as that can make it Ready, but no more than half of the time."""


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A verdict, and what it is about."""

    app: App
    slot: str
    content: Slot | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Verification:
    """How a verdict is to be verified: by what is read from `asked_at` on or by less, and until when, by the clock of
    the event loop; or by what was `checked` a moment ago, by task hub."""

    verify: Verify
    asked_at: Instant
    deadline: float
    checked: Mapping[str, Checked] = field(default_factory=dict)


class Readiness:
    """`stopping` ends waits early when the server shuts down."""

    def __init__(self, apps: Apps, verifier: Verifier, clock: Clock, stopping: asyncio.Event) -> None:
        self._apps = apps
        self._verifier = verifier
        self._clock = clock
        self._stopping = stopping

    async def verification(self, verify: Verify, budget: float = BUDGET_SECONDS) -> Verification:
        """A verification that begins now and may take `budget` seconds."""
        return Verification(verify, await self._verifier.now(), asyncio.get_running_loop().time() + budget)

    async def status(
        self,
        app_name: str,
        slot: str,
        caller: Caller,
        wait: int,
        verify: Verify,
        gone: Callable[[], Awaitable[bool]],
    ) -> SlotStatus:
        """The verdict on a slot; if it is NotReady, that of up to `wait` seconds later, as soon as it turns Ready.
        `gone` says that nobody waits for the answer any more.

        Raises AppNotFound, SlotNotFound.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        asked_at = await self._verifier.now() if verify is Verify.FRESH else self._clock.now()
        verify_at = loop.time()
        checked: Mapping[str, Checked] = {}
        while True:
            began = loop.time()
            due = began >= verify_at
            how = Verification(verify, asked_at, began + BUDGET_SECONDS, {} if due else checked)
            status, checked = await self._status(app_name, slot, caller, how)
            if due:
                took = loop.time() - began
                verify_at = loop.time() + (_VERIFY_SECONDS if status.verdict.has_running else took)
            elif not status.verdict.has_running:
                verify_at = loop.time()
            left = deadline - loop.time()
            if status.verdict.ready or left <= 0 or self._stopping.is_set() or await gone():
                return status
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(left, _POLL_SECONDS))

    async def _status(
        self, app_name: str, slot: str, caller: Caller, how: Verification
    ) -> tuple[SlotStatus, Mapping[str, Checked]]:
        app = await self._apps.get(app_name)
        if app is None:
            raise AppNotFound(f"there is no app {app_name}; the first PostStaging or PutApp makes it", app=app_name)
        content = app.slot(slot)
        # A question names no hub: who holds a deployment is known by the run URL alone.
        run = caller.run("") if caller.run_url else None
        blocking = blocking_deployment(app, run, self._clock.now())
        pending = app.pending_swap.as_open() if app.pending_swap else None
        deployment = blocking.as_open() if blocking else None
        hubs = content.carried() if content else ()
        verdict, checked = await self._judge_all(app, hubs, how, deployment, pending)
        return SlotStatus(app, app.slot_name(slot), content, verdict), checked

    async def verdict(self, app: App, content: Slot | None, how: Verification) -> Verdict:
        """The verdict on what a slot holds."""
        return (await self._judge_all(app, content.carried() if content else (), how))[0]

    async def verdict_beneath(self, app: App, content: Slot, how: Verification) -> Verdict | None:
        """The verdict on what a slot may still carry beneath the hub that is staged; None if there is nothing."""
        return (await self._judge_all(app, content.beneath, how))[0] if content.beneath else None

    async def verdict_on(self, app: App, task_hub: str, how: Verification) -> Verdict:
        """The verdict on a task hub, whether a slot holds it or not."""
        return (await self._judge(app, task_hub, how, self._clock.now()))[0]

    async def _judge_all(
        self,
        app: App,
        hubs: Sequence[Beneath],
        how: Verification,
        deployment: OpenDeployment | None = None,
        pending_swap: OpenSwap | None = None,
    ) -> tuple[Verdict, Mapping[str, Checked]]:
        """One verdict on all of these hubs, of one moment, and what verification came to by task hub."""
        # Once: a waiver that runs out between two looks must not make one of the hubs be read anew after all others.
        now = self._clock.now()

        async def each(how: Verification) -> list[tuple[Verdict, Checked | None]]:
            judged = (self._judge(app, one.task_hub, how, now, deployment, pending_swap, one.promoted) for one in hubs)
            return await asyncio.gather(*judged)

        if not hubs:
            evidence = Evidence(None, deployment=deployment, pending_swap=pending_swap)
            return assess(evidence, app.policy, now), {}
        judged = await each(how)
        checked = {one.task_hub: found for one, (_, found) in zip(hubs, judged, strict=True) if found is not None}
        if len(hubs) > 1:
            # One may have been read long before the last: what was recorded in the meantime must show.
            judged = await each(replace(how, checked=checked))
        first, *others = (verdict for verdict, _ in judged)
        return combine(first, others), checked

    async def _judge(
        self,
        app: App,
        task_hub: str,
        how: Verification,
        now: Instant,
        deployment: OpenDeployment | None = None,
        pending_swap: OpenSwap | None = None,
        promoted: bool = False,
    ) -> tuple[Verdict, Checked | None]:
        """The verdict under the waivers of `now`, and what verification came to, for the same question a moment later.
        A hub that was `promoted` has been started: if it is not there, that is not because it never was."""
        exemptions = Exemptions.of(app.policy.ignore_functions, app.waivers, task_hub, now)
        checked: Checked | None = None
        records: Records | None = None
        if app.task_hubs is not None:
            question = self._question(app, app.task_hubs, task_hub, exemptions, how)
            # Hub, source, policy and waivers may change while somebody waits.
            before = how.checked.get(task_hub)
            if before is not None and before.key == question.key:
                checked = before
            else:
                checked = await self._verifier.check(question)
                records = checked.records
        if records is None:
            # After the scan: an event that was recorded in the meantime must show.
            records = await self._verifier.records(task_hub, exemptions)
        evidence = Evidence(
            task_hub=task_hub,
            activity=records.activity,
            provider=app.task_hubs.provider if app.task_hubs else None,
            probe=checked.result if checked else None,
            deployment=deployment,
            pending_swap=pending_swap,
            waivers=exemptions.waivers,
            confirmed=checked is not None and checked.confirmed,
            looked_up=checked.looked_up if checked else (),
            known=records.known or promoted,
        )
        return assess(evidence, app.policy, self._clock.now()), checked

    async def acquaint(self, app: App, task_hub: str) -> None:
        """Find out whether a hub is the one that events tell of, of an app that says where its hubs live."""
        assert app.task_hubs is not None, "whoever asks has looked"
        how = await self.verification(Verify.NONE)
        exemptions = Exemptions.of(app.policy.ignore_functions, app.waivers, task_hub, how.asked_at)
        await self._verifier.acquaint(self._question(app, app.task_hubs, task_hub, exemptions, how))

    async def activity(self, task_hub: str, policy: Policy) -> Activity:
        """What was recorded for a hub, whatever is waived."""
        return (await self._verifier.records(task_hub, Exemptions(policy.ignore_functions))).activity

    async def count(self, app: App, task_hub: str, verify: Verify) -> ProbeResult:
        """What a probe finds in a hub, all of it, of an app that says where its hubs live."""
        assert app.task_hubs is not None, "whoever asks has looked"
        how = await self.verification(verify)
        exemptions = Exemptions.of(app.policy.ignore_functions, app.waivers, task_hub, how.asked_at)
        return await self._verifier.count(self._question(app, app.task_hubs, task_hub, exemptions, how))

    def _question(
        self, app: App, source: TaskHubSource, task_hub: str, exemptions: Exemptions, how: Verification
    ) -> Question:
        place = self._verifier.place(source)
        return Question(task_hub, source, place, app.policy, exemptions, how.verify, how.asked_at, how.deadline)
