"""Verification: asking the task hub itself. Cheap first: while the records show active instances, only those are looked
up; once they show none, the hub is scanned. What is seen corrects the records."""

import asyncio

from state_api.domain.apps import TaskHubSource
from state_api.domain.evidence import Activity, ProbeResult, ProbeStatus
from state_api.domain.exemptions import Exemptions
from state_api.domain.instants import Instant, seconds
from state_api.domain.lifecycle import Source
from state_api.domain.readiness import Policy
from state_api.services.lookups import LOOKED_UP, LookedUp, LookUps
from state_api.services.ports import Clock, Instances, ProbeRecord, Probes, TaskHubs
from state_api.services.questions import Checked, Question, Records, Verify, answers, is_fresh_enough
from state_api.services.scanning import Scanner, cut_short, failed, under_way
from state_api.taskhubs.backend import Backends, SourceError, place_of

BUDGET_SECONDS = 60.0
"""How long one question may read a task hub. With the longest wait of GetStagingStatus it stays well inside the 230 s
after which the platform cuts a request off."""


class Verifier:
    """`stopping` cuts scans short when the server shuts down; they are carried on by whoever comes next."""

    def __init__(
        self,
        backends: Backends,
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
        self._look_ups = LookUps(task_hubs, instances, clock)
        self._scanner = Scanner(probes, task_hubs, instances, self._look_ups, clock, stopping)

    async def records(self, task_hub: str, exemptions: Exemptions) -> Records:
        """What is on record of a hub now."""
        hub = await self._task_hubs.get(task_hub)
        if hub is None or not hub.recording or hub.closed:
            return Records(Activity(), known=hub is not None and (hub.recording or hub.seen))
        return Records(await self._instances.activity(hub, exemptions), known=True)

    def place(self, source: TaskHubSource) -> str:
        """Where the source leads now; empty if a setting is missing or wrong."""
        try:
            return place_of(source, self._backends.of(source))
        except SourceError:
            return ""

    async def now(self) -> Instant:
        """The storage's time, asked of it: this machine may just have started, or have been suspended."""
        await self._task_hubs.ping()
        return self._clock.now()

    async def acquaint(self, question: Question) -> None:
        """Find out whether a hub's source is the right one while there are instances to know it by: later they may be
        purged. Costs nothing once it is known."""
        hub = await self._task_hubs.get(question.task_hub)
        if hub is None or hub.closed or not hub.recording or hub.matched == question.place:
            return
        active = (await self._instances.activity(hub, question.exemptions)).active[-LOOKED_UP:]
        told = [one.instance_id for one in active if one.source is Source.EVENT]
        try:
            async with asyncio.timeout_at(question.deadline):
                seen = await self._backends.of(question.source).find(question.task_hub, told)
        except (SourceError, TimeoutError):
            return
        if any(seen.values()):
            await self._task_hubs.mark(question.task_hub, question.place)

    async def check(self, question: Question) -> Checked:
        """Verify a hub for a verdict."""
        kept = await self._probes.get(question.task_hub)
        result = kept.result if kept.result is not None and kept.result.exemptions == question.key else None
        if self._is_to_wait(result):
            return Checked(question.key, result)
        if question.verify is Verify.NONE:
            return await self._known_already(kept, result, question)
        if result is not None and (result.found_blocking or not is_fresh_enough(result, question)):
            # What it found is in the records, where it has been followed since; and one that is not fresh must not
            # answer after all when the time runs on between here and the verdict.
            result = None
        try:
            backend = self._backends.of(question.source)
            async with asyncio.timeout_at(question.deadline):
                records = await self._records_for(question)
                found = LookedUp(undecided=False)
                while records.activity.active and not found.unconfirmed:
                    found = await self._look_ups.look_up(backend, question, records.activity.active)
                    if found.undecided:
                        still = None if found.corrected else records
                        # Without the last result: once these have ended, what they have started is not in it.
                        return Checked(question.key, None, bool(found.seen), found.seen, still)
                    records = await self._records_for(question)
        except SourceError as error:
            return Checked(question.key, failed(question, error, self._clock.now()))
        except TimeoutError:
            message = "looking up what events show active took too long"
            return Checked(question.key, cut_short(question, message, self._clock.now()))
        activity = records.activity
        if self._is_settling(activity, question.policy):
            return Checked(question.key, result, records=records)
        if not found.unconfirmed and self._answers(result, question, activity):
            return Checked(question.key, result, records=records)
        result = await self._scanner.scan(backend, question, activity, for_verdict=True)
        waived = result.messages.waived if result.messages is not None else 0
        if found.unconfirmed and result.status is ProbeStatus.COMPLETE and not (result.found_blocking or waived):
            # Nothing is on its way, so these starts came to nothing or were purged. What was read before they were
            # closed proves nothing, so the hub is read again.
            try:
                await self._look_ups.close_unconfirmed(backend, question, found.unconfirmed)
            except SourceError as error:
                return Checked(question.key, failed(question, error, self._clock.now()))
            records = await self._records_for(question)
            result = await self._scanner.scan(backend, question, records.activity, for_verdict=True)
        return Checked(question.key, result)

    async def _known_already(self, kept: ProbeRecord, result: ProbeResult | None, question: Question) -> Checked:
        """What is known without a read of the hub."""
        scan = kept.scan if kept.scan is not None and kept.scan.exemptions == question.key else None
        if result is not None and result.found_blocking and not result.starts_pending:
            # What it found is in the records, where it has been followed since.
            result = None
        if scan is None:
            return Checked(question.key, result)
        records = await self._records_for(question)
        if not self._answers(result, question, records.activity):
            result = under_way(scan, question, self._clock.now())
        return Checked(question.key, result, records=records)

    async def _records_for(self, question: Question) -> Records:
        return await self.records(question.task_hub, question.exemptions)

    async def count(self, question: Question) -> ProbeResult:
        """A scan of the hub that is complete and young enough, whatever it found; read now if there is none."""
        kept = await self._probes.get(question.task_hub)
        result = kept.result if kept.result is not None and kept.result.exemptions == question.key else None
        activity = (await self._records_for(question)).activity
        if result is not None and (
            self._is_to_wait(result) or self._answers(result, question, activity, for_verdict=False)
        ):
            return result
        try:
            backend = self._backends.of(question.source)
        except SourceError as error:
            return failed(question, error, self._clock.now())
        return await self._scanner.scan(backend, question, activity, for_verdict=False)

    def _answers(
        self, result: ProbeResult | None, question: Question, activity: Activity, *, for_verdict: bool = True
    ) -> bool:
        return answers(result, question, activity, self._clock.now(), for_verdict=for_verdict)

    def _is_to_wait(self, result: ProbeResult | None) -> bool:
        """Whether the backend has asked to be left alone until later."""
        if result is None or result.retry_after is None:
            return False
        return self._clock.now() < (result.ended_at or result.began_at) + seconds(result.retry_after)

    def _is_settling(self, activity: Activity, policy: Policy) -> bool:
        """Whether a scan that begins now could not make the hub Ready: it must begin after the last event."""
        last = activity.last_recorded_at
        return last is not None and self._clock.now() <= last + seconds(policy.settle_seconds)
