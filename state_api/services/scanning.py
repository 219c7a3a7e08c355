"""Scanning: reading a whole task hub, one worker at a time. What events missed is recorded on the way."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from state_api.domain.errors import Unavailable
from state_api.domain.evidence import ACTIVE_LIMIT, Activity, ProbeResult, ProbeStatus
from state_api.domain.healing import missed
from state_api.domain.instants import Instant, seconds
from state_api.domain.lifecycle import Instance, Source
from state_api.domain.readiness import is_overtaken
from state_api.domain.scans import Scan
from state_api.domain.sightings import Sighting
from state_api.services.lookups import LookUps, messages_unseen
from state_api.services.messages import MessageReading
from state_api.services.ports import Clock, Instances, Lease, Probes, TaskHubRecord, TaskHubs
from state_api.services.questions import CLOCKS, LONG_SECONDS, Question, Verify, answers
from state_api.taskhubs.backend import Backend, SourceError, SourcePage, Trouble

log = logging.getLogger(__name__)

_PAGES_AT_ONCE = 8
_RECORDED = ACTIVE_LIMIT + 1
"""Instances that events missed and one scan records: enough to say that there are more than a verdict counts."""
LEASE_SECONDS = 12
"""How long a task hub stays with a worker that has died while it read it."""
_RENEW_SECONDS = 4.0
_POLL_SECONDS = 0.3


@dataclass(slots=True)
class _Held:
    """A lease that is renewed while the work goes on."""

    lease: Lease


class Scanner:
    """`stopping` cuts scans short when the server shuts down; whoever comes next carries them on."""

    def __init__(
        self,
        probes: Probes,
        task_hubs: TaskHubs,
        instances: Instances,
        look_ups: LookUps,
        clock: Clock,
        stopping: asyncio.Event,
    ) -> None:
        self._probes = probes
        self._task_hubs = task_hubs
        self._instances = instances
        self._look_ups = look_ups
        self._clock = clock
        self._stopping = stopping

    async def scan(self, backend: Backend, question: Question, activity: Activity, *, for_verdict: bool) -> ProbeResult:
        """Scan the hub, alone, carrying on what was begun. While another worker scans it, wait for that one. `activity`
        is what the records showed before."""
        loop = asyncio.get_running_loop()
        owner = uuid.uuid4().hex
        task_hub = question.task_hub
        waited = False
        while True:
            left = max(0.0, question.deadline - loop.time())
            now = self._clock.now()
            lease = await self._probes.lease(task_hub, owner, Instant(now + seconds(LEASE_SECONDS)), now)
            if lease is not None:
                break
            kept = await self._probes.get(task_hub)
            if kept.result is not None and self._answers(kept.result, question, activity, for_verdict):
                return kept.result
            if left <= _POLL_SECONDS or self._stopping.is_set():
                return cut_short(question, "another worker is reading it", self._clock.now())
            await asyncio.sleep(_POLL_SECONDS)
            waited = True
        kept = lease.kept
        result: ProbeResult | None = None
        scan = kept.scan
        messages = MessageReading(backend, question, kept.memory, self._clock)
        try:
            async with self._renewed(lease) as held:
                if waited:
                    # The other worker may have closed something, and have read the hub since.
                    activity = await self._activity(question)
                if kept.result is not None and self._answers(kept.result, question, activity, for_verdict):
                    return kept.result
                if scan is not None and not self._may_go_on(scan, question, activity, for_verdict):
                    scan = None
                scan, result = await self._read(backend, question, scan, activity, messages)
        finally:
            # A scan that is over, or was given up, is not carried on.
            given_back = await self._probes.keep(
                held.lease, result if _is_kept(result) else None, scan, messages.memory
            )
            if not given_back:
                log.info("task hub %s: another worker has taken the probe over", task_hub)
        return result

    @asynccontextmanager
    async def _renewed(self, lease: Lease) -> AsyncIterator[_Held]:
        """Renew the lease until the block ends. A worker that has lost it reads on for its own question; what it reads
        is not kept."""
        held, over = _Held(lease), asyncio.Event()

        async def renew() -> None:
            while True:
                try:
                    await asyncio.wait_for(over.wait(), _RENEW_SECONDS)
                    return
                except TimeoutError:
                    pass
                try:
                    until = Instant(self._clock.now() + seconds(LEASE_SECONDS))
                    renewed = await self._probes.renew(held.lease, until)
                except Unavailable as error:
                    log.warning("the lease of task hub %s could not be renewed: %s", lease.task_hub, error.message)
                    continue
                if renewed is None:
                    return
                held.lease = renewed

        task = asyncio.create_task(renew())
        try:
            yield held
        finally:
            # Not cancelled: the lease is given back with the answer to the last renewal.
            over.set()
            await task

    async def _activity(self, question: Question) -> Activity:
        hub = await self._task_hubs.get(question.task_hub)
        if hub is None or not hub.recording or hub.closed:
            return Activity()
        return await self._instances.activity(hub, question.exemptions)

    def _answers(self, result: ProbeResult, question: Question, activity: Activity, for_verdict: bool) -> bool:
        return answers(result, question, activity, self._clock.now(), for_verdict=for_verdict)

    def _may_go_on(self, scan: Scan, question: Question, activity: Activity, for_verdict: bool) -> bool:
        """Whether an interrupted scan can still answer the question. It cannot if the exemptions differ, if it is for a
        verdict and an event or a look-up has overtaken it, if it is older than the freshness (unless reading has taken
        half of that), or if the question asks for a fresh read and the scan began before it (unless reading has taken
        LONG_SECONDS)."""
        freshness = question.policy.freshness_seconds
        large = scan.spent >= LONG_SECONDS
        return (
            scan.exemptions == question.key
            and (self._clock.now() - scan.began_at < seconds(freshness) or scan.spent >= freshness / 2)
            and (question.verify is not Verify.FRESH or large or scan.began_at >= question.asked_at + CLOCKS)
            and not (for_verdict and is_overtaken(scan.began_at, scan.closings, activity, question.policy))
        )

    async def _read(
        self,
        backend: Backend,
        question: Question,
        scan: Scan | None,
        activity: Activity,
        messages: MessageReading,
    ) -> tuple[Scan | None, ProbeResult]:
        """Read until the scan is done or the time is up: the scan to carry on, and what it says. `activity` is what the
        records showed before."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout_at(question.deadline):
                if scan is None:
                    scan = await self._begin(backend, question, activity.closings, messages)
                else:
                    scan.calls += 1
                while not scan.finished():
                    if scan.needs_look:
                        # Before the pass that ends the scan: it must show no change since (docs/correctness.md).
                        scan.look = await messages.look()
                        if scan.looked_in_pass == 0:
                            # Only now: a shared instance table does not show that the task hub exists.
                            await self._task_hubs.mark(question.task_hub)
                        scan.looked_in_pass = scan.passes
                    await self._pass(backend, question, scan)
                scan.spent += loop.time() - began
                found = messages.assess(scan, activity.last_recorded_at)
                return None, scan.result(ProbeStatus.COMPLETE, backend.provider, self._clock.now(), messages=found)
        except TimeoutError:
            if scan is None:
                return None, cut_short(question, "the task hub did not answer in time", self._clock.now())
            scan.spent += loop.time() - began
            return scan, under_way(scan, question, self._clock.now())
        except SourceError as error:
            if scan is not None:
                scan.spent += loop.time() - began
            keep = scan if scan is not None and scan.pages and error.trouble is not Trouble.MISSING else None
            return keep, failed(question, error, self._clock.now())

    async def _begin(self, backend: Backend, question: Question, closings: str, messages: MessageReading) -> Scan:
        began_at = self._clock.now()
        start = await backend.start(question.task_hub)
        scan = Scan(began_at, start.since, list(start.cursors), list(start.again), question.key, closings=closings)
        if messages.quiet is not None:
            # The first pass is compared with the last pass of the scan with which the quiet period began.
            scan.since, scan.changes_before = min(start.since, messages.quiet.since), messages.quiet.stamps
        return scan

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
                    await self._record_missed(backend, question, scan, page.sightings)
                    scan.add(page.sightings, question.exemptions)
                    scan.pages += 1
                    scan.scanned += page.scanned
                    scan.cursors.remove(under_way.pop(task))
                    scan.cursors.extend(page.cursors)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _record_missed(
        self, backend: Backend, question: Question, scan: Scan, sightings: Sequence[Sighting]
    ) -> None:
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
            await self._task_hubs.mark(question.task_hub, question.place)
        if messages_unseen(backend, question):
            shown = [
                (before.started, one)
                for before, one in zip(known, blocking, strict=True)
                if before is not None and before.active and before.started is not None
            ]
            await self._look_ups.record_seen(question, shown, scan.began_at)
        now = self._clock.now()
        lacking = [missed(before, one, now) for before, one in zip(known, blocking, strict=True)]
        await self._look_ups.correct(question.task_hub, [one for one in lacking if one is not None])
        # Not before: a page whose instances could not be recorded is read again.
        scan.recorded += len(blocking)

    async def _known(self, hub: TaskHubRecord, sighting: Sighting) -> Instance | None:
        return await self._instances.get(hub, sighting.instance_id)


def under_way(scan: Scan, question: Question, now: Instant) -> ProbeResult:
    """What a scan that was cut off says so far."""
    message = (
        f"{scan.pages} pages are read, {len(scan.cursors)} ranges are left in pass {scan.passes}; the next "
        "question carries on"
    )
    return scan.result(ProbeStatus.INCOMPLETE, question.source.provider, now, message)


def cut_short(question: Question, message: str, now: Instant) -> ProbeResult:
    """The result of a read that ran out of time."""
    return _nothing(question, ProbeStatus.INCOMPLETE, message, now)


def failed(question: Question, error: SourceError, now: Instant) -> ProbeResult:
    """The result of a read that failed."""
    log.warning("task hub %s cannot be read: %s", question.task_hub, error.message)
    return replace(_nothing(question, _STATUS[error.trouble], error.message, now), retry_after=error.retry_after)


def _nothing(question: Question, status: ProbeStatus, message: str, now: Instant) -> ProbeResult:
    return ProbeResult(status, question.source.provider, now, message=message, ended_at=now, exemptions=question.key)


_STATUS = {
    Trouble.MISSING: ProbeStatus.MISSING,
    Trouble.DENIED: ProbeStatus.DENIED,
    Trouble.THROTTLED: ProbeStatus.THROTTLED,
    Trouble.FAILED: ProbeStatus.FAILED,
}


def _is_kept(result: ProbeResult | None) -> bool:
    """Whether this result replaces the last one. An incomplete scan replaces it only if it found an active instance or
    a start on its way: the records may lack that instance, so no earlier result may answer."""
    return result is not None and (result.status is not ProbeStatus.INCOMPLETE or result.found_blocking)
