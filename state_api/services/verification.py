"""Verification: asking the task hub itself. Cheap first: while the records show active instances, only those are looked
up; once they show none, the hub is scanned. What is seen corrects the records."""

import asyncio
import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace

from state_api.domain.evidence import ACTIVE_LIMIT, Activity, ProbeResult, ProbeStatus
from state_api.domain.exemptions import Exemptions
from state_api.domain.healing import missed
from state_api.domain.instants import Instant, seconds
from state_api.domain.lifecycle import Instance, Source
from state_api.domain.readiness import Policy, is_overtaken
from state_api.domain.scans import Scan
from state_api.domain.sightings import Sighting
from state_api.services.lookups import LOOKED_UP, LookUps
from state_api.services.ports import Clock, Instances, Probes, TaskHubRecord, TaskHubs
from state_api.services.questions import (
    CLOCKS,
    LONG_SECONDS,
    Checked,
    Question,
    Records,
    Verify,
    is_fresh_enough,
)
from state_api.taskhubs.backend import Backend, Backends, SourceError, SourcePage, Trouble

log = logging.getLogger(__name__)

BUDGET_SECONDS = 60.0
"""How long one question may read a task hub. With the longest wait of GetStagingStatus it stays well inside the 230 s
after which the platform cuts a request off."""

_PAGES_AT_ONCE = 8
_RECORDED = ACTIVE_LIMIT + 1
"""Instances that events missed and one scan records: enough to say that there are more than a verdict counts."""
_LEASE_SECONDS = 30
"""What a lease outlasts the work by."""
_POLL_SECONDS = 0.3


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
        self._stopping = stopping
        self._look_ups = LookUps(task_hubs, instances, clock)

    async def records(self, task_hub: str, exemptions: Exemptions) -> Records:
        """What is on record of a hub now."""
        hub = await self._task_hubs.get(task_hub)
        if hub is None or not hub.recording or hub.closed:
            return Records(Activity(), known=hub is not None and (hub.recording or hub.seen))
        return Records(await self._instances.activity(hub, exemptions), known=True)

    async def now(self) -> Instant:
        """The storage's time, asked of it: this machine may just have started, or have been suspended."""
        await self._task_hubs.ping()
        return self._clock.now()

    async def acquaint(self, question: Question) -> None:
        """Find out whether a hub's source is the right one while there are instances to know it by: later they may be
        purged. Costs nothing once it is known."""
        hub = await self._task_hubs.get(question.task_hub)
        if hub is None or hub.closed or not hub.recording or hub.matched == str(question.source):
            return
        active = (await self._instances.activity(hub, question.exemptions)).active[-LOOKED_UP:]
        told = [one.instance_id for one in active if one.source is Source.EVENT]
        try:
            async with asyncio.timeout_at(question.deadline):
                seen = await self._backends.of(question.source).find(question.task_hub, told)
        except (SourceError, TimeoutError):
            return
        if any(seen.values()):
            await self._task_hubs.mark(question.task_hub, str(question.source))

    async def check(self, question: Question) -> Checked:
        """Verify a hub for a verdict."""
        kept = await self._probes.get(question.task_hub)
        result = kept.result if kept.result is not None and kept.result.exemptions == question.key else None
        if self._is_to_wait(result):
            return Checked(question.key, result)
        if result is not None and (result.found_blocking or not is_fresh_enough(result, question)):
            # What it found is in the records, where it has been followed since; and one that is not fresh must not
            # answer after all when the time runs on between here and the verdict.
            result = None
        if question.verify is Verify.NONE:
            scan = kept.scan if kept.scan is not None and kept.scan.exemptions == question.key else None
            if scan is None:
                return Checked(question.key, result)
            records = await self._records_for(question)
            if not self._is_good(result, question, records.activity):
                result = self._under_way(scan, question)
            return Checked(question.key, result, records=records)
        try:
            backend = self._backends.of(question.source)
            async with asyncio.timeout_at(question.deadline):
                records = await self._records_for(question)
                while records.activity.active:
                    found = await self._look_ups.look_up(backend, question, records.activity.active)
                    if found.undecided:
                        still = None if found.corrected else records
                        # Without the last result: once these have ended, what they have started is not in it.
                        return Checked(question.key, None, bool(found.seen), found.seen, still)
                    records = await self._records_for(question)
        except SourceError as error:
            return Checked(question.key, self._failed(question, error))
        except TimeoutError:
            message = "looking up what events show active took too long"
            return Checked(question.key, self._cut_short(question, message))
        activity = records.activity
        if self._is_settling(activity, question.policy) or self._is_good(result, question, activity):
            return Checked(question.key, result, records=records)
        return Checked(question.key, await self._scan(backend, question, activity, for_verdict=True))

    async def _records_for(self, question: Question) -> Records:
        return await self.records(question.task_hub, question.exemptions)

    async def count(self, question: Question) -> ProbeResult:
        """A scan of the hub that is complete and young enough, whatever it found; read now if there is none."""
        kept = await self._probes.get(question.task_hub)
        result = kept.result if kept.result is not None and kept.result.exemptions == question.key else None
        activity = (await self._records_for(question)).activity
        if result is not None and (self._is_to_wait(result) or self._is_good(result, question, activity, False)):
            return result
        try:
            backend = self._backends.of(question.source)
        except SourceError as error:
            return self._failed(question, error)
        return await self._scan(backend, question, activity, for_verdict=False)

    def _is_good(
        self, result: ProbeResult | None, question: Question, activity: Activity, for_verdict: bool = True
    ) -> bool:
        """Whether a result answers the question without another look. A verdict needs more of it: one that found
        something active never turns Ready, nor does one that was overtaken."""
        if result is None or result.status is not ProbeStatus.COMPLETE or (for_verdict and result.found_blocking):
            return False
        age = self._clock.now() - result.began_at
        if not 0 <= age < seconds(question.policy.freshness_seconds):
            return False
        if for_verdict and is_overtaken(result.began_at, result.closings, activity, question.policy):
            return False
        return is_fresh_enough(result, question)

    def _is_to_wait(self, result: ProbeResult | None) -> bool:
        """Whether the backend has asked to be left alone until later."""
        if result is None or result.retry_after is None:
            return False
        return self._clock.now() < (result.ended_at or result.began_at) + seconds(result.retry_after)

    def _is_settling(self, activity: Activity, policy: Policy) -> bool:
        """Whether a scan that begins now could not make the hub Ready: it must begin after the last event."""
        last = activity.last_recorded_at
        return last is not None and self._clock.now() <= last + seconds(policy.settle_seconds)

    async def _scan(self, backend: Backend, question: Question, activity: Activity, for_verdict: bool) -> ProbeResult:
        """Scan the hub, alone, carrying on what was begun. While another worker scans it, wait for that one."""
        loop = asyncio.get_running_loop()
        owner = uuid.uuid4().hex
        task_hub = question.task_hub
        waited = False
        while True:
            left = max(0.0, question.deadline - loop.time())
            now = self._clock.now()
            lease = await self._probes.lease(task_hub, owner, Instant(now + seconds(left + _LEASE_SECONDS)), now)
            if lease is not None:
                break
            kept = await self._probes.get(task_hub)
            if kept.result is not None and self._answers(kept.result, question, activity, for_verdict):
                return kept.result
            if left <= _POLL_SECONDS or self._stopping.is_set():
                return self._cut_short(question, "another worker is reading it")
            await asyncio.sleep(_POLL_SECONDS)
            waited = True
        kept = lease.kept
        result: ProbeResult | None = None
        scan = kept.scan
        try:
            if waited:
                # The other worker may have closed something, and have read the hub since.
                activity = (await self._records_for(question)).activity
            if kept.result is not None and self._answers(kept.result, question, activity, for_verdict):
                return kept.result
            if scan is not None and not self._may_go_on(scan, question, activity, for_verdict):
                scan = None
            scan, result = await self._read(backend, question, scan, activity.closings)
        finally:
            # A scan that is over, or was given up, is not carried on.
            given_back = await self._probes.keep(lease, result if _is_kept(result) else None, scan)
            if not given_back:
                log.info("task hub %s: another worker has taken the probe over", task_hub)
        return result

    def _answers(self, result: ProbeResult, question: Question, activity: Activity, for_verdict: bool) -> bool:
        return result.exemptions == question.key and self._is_good(result, question, activity, for_verdict)

    def _may_go_on(self, scan: Scan, question: Question, activity: Activity, for_verdict: bool) -> bool:
        """Whether a scan that was cut off will answer the question once it is done. One that was overtaken will not,
        nor one that lay about for too long, unless it takes so long to read the hub. And what asks for a fresh
        look gets one, unless the hub is too large for that."""
        freshness = question.policy.freshness_seconds
        large = scan.spent >= LONG_SECONDS
        return (
            scan.exemptions == question.key
            and (self._clock.now() - scan.began_at < seconds(freshness) or scan.spent >= freshness / 2)
            and (question.verify is not Verify.FRESH or large or scan.began_at >= question.asked_at + CLOCKS)
            and not (for_verdict and is_overtaken(scan.began_at, scan.closings, activity, question.policy))
        )

    async def _read(
        self, backend: Backend, question: Question, scan: Scan | None, closings: str
    ) -> tuple[Scan | None, ProbeResult]:
        """Read until the scan is done or the time is up: the scan to carry on, and what it says. `closings` are those
        of the records as they were read before."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout_at(question.deadline):
                if scan is None:
                    began_at = self._clock.now()
                    start = await backend.start(question.task_hub)
                    await self._task_hubs.mark(question.task_hub)
                    cursors, again = list(start.cursors), list(start.again)
                    scan = Scan(began_at, start.since, cursors, again, question.key, closings=closings)
                else:
                    scan.calls += 1
                while not scan.finished():
                    await self._pass(backend, question, scan)
                scan.spent += loop.time() - began
                return None, scan.result(ProbeStatus.COMPLETE, backend.provider, self._clock.now())
        except TimeoutError:
            if scan is None:
                return None, self._cut_short(question, "the task hub did not answer in time")
            scan.spent += loop.time() - began
            return scan, self._under_way(scan, question)
        except SourceError as error:
            if scan is not None:
                scan.spent += loop.time() - began
            keep = scan if scan is not None and scan.pages and error.trouble is not Trouble.MISSING else None
            return keep, self._failed(question, error)

    async def _pass(self, backend: Backend, question: Question, scan: Scan) -> None:
        """Follow every cursor to its end, several at a time."""
        under_way: dict[asyncio.Task[SourcePage], str] = {}
        try:
            while scan.cursors:
                if self._stopping.is_set():
                    raise TimeoutError
                taken = set(under_way.values())
                for cursor in [one for one in scan.cursors if one not in taken][: _PAGES_AT_ONCE - len(under_way)]:
                    reading = backend.page(question.task_hub, scan.since, cursor)
                    under_way[asyncio.ensure_future(reading)] = cursor
                finished, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    page = task.result()
                    # Recorded before the page is done with: a page that is read again is recorded again, to no harm.
                    await self._record_missed(question, scan, page.sightings)
                    scan.add(page.sightings, question.exemptions)
                    scan.pages += 1
                    scan.scanned += page.scanned
                    scan.cursors.remove(under_way.pop(task))
                    scan.cursors.extend(page.cursors)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _record_missed(self, question: Question, scan: Scan, sightings: Sequence[Sighting]) -> None:
        """Record what is active and was missed by events, but for functions that the policy ignores."""
        active = [one for one in sightings if one.active and not question.exemptions.ignores(one.function_name)]
        blocking = active[: max(0, _RECORDED - scan.recorded)]
        if not blocking:
            return
        hub = await self._task_hubs.open(question.task_hub)
        if hub.closed:
            return
        known = await asyncio.gather(*(self._known(hub, one) for one in blocking))
        if any(one is not None and one.source is Source.EVENT for one in known):
            await self._task_hubs.mark(question.task_hub, str(question.source))
        now = self._clock.now()
        lacking = [missed(before, one, now) for before, one in zip(known, blocking, strict=True)]
        await self._look_ups.correct(question.task_hub, [one for one in lacking if one is not None])
        # Not before: a page whose instances could not be recorded is read again.
        scan.recorded += len(blocking)

    async def _known(self, hub: TaskHubRecord, sighting: Sighting) -> Instance | None:
        return await self._instances.get(hub, sighting.instance_id)

    def _under_way(self, scan: Scan, question: Question) -> ProbeResult:
        message = (
            f"{scan.pages} pages are read, {len(scan.cursors)} ranges are left in pass {scan.passes}; the next "
            "question carries on"
        )
        return scan.result(ProbeStatus.INCOMPLETE, question.source.provider, self._clock.now(), message)

    def _cut_short(self, question: Question, message: str) -> ProbeResult:
        return self._nothing(question, ProbeStatus.INCOMPLETE, message)

    def _failed(self, question: Question, error: SourceError) -> ProbeResult:
        log.warning("task hub %s cannot be read: %s", question.task_hub, error.message)
        return replace(self._nothing(question, _STATUS[error.trouble], error.message), retry_after=error.retry_after)

    def _nothing(self, question: Question, status: ProbeStatus, message: str) -> ProbeResult:
        now = self._clock.now()
        return ProbeResult(
            status, question.source.provider, now, message=message, ended_at=now, exemptions=question.key
        )


_STATUS = {
    Trouble.MISSING: ProbeStatus.MISSING,
    Trouble.DENIED: ProbeStatus.DENIED,
    Trouble.THROTTLED: ProbeStatus.THROTTLED,
    Trouble.FAILED: ProbeStatus.FAILED,
}


def _is_kept(result: ProbeResult | None) -> bool:
    """Whether it takes the place of the last result. A scan that goes on does if it has found something: should that
    not be on record, no earlier result may answer once it has ended."""
    return result is not None and (result.status is not ProbeStatus.INCOMPLETE or result.found_blocking)
