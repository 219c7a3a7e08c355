"""Scanning: reading a whole task hub, one worker at a time. What events missed is recorded on the way."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from state_api.backends.protocols import Backend, BackendError, ObservedPage, ReadFailure
from state_api.domain.errors import Unavailable
from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.evidence import ACTIVE_LIMIT, InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.scans import Scan
from state_api.domain.readiness.validity import is_superseded
from state_api.domain.task_hubs.lifecycle import EvidenceSource, Instance
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.reconciliation import reconcile_start
from state_api.services.instance_lookup import InstanceLookup, messages_unseen
from state_api.services.message_reader import MessageReader
from state_api.services.ports import Clock, Instances, Lease, Probes, TaskHubRecord, TaskHubs
from state_api.services.probe_requests import (
    CLOCK_TOLERANCE,
    LARGE_HUB_READ_SECONDS,
    ProbeRequest,
    VerificationMode,
    satisfies_request,
)

log = logging.getLogger(__name__)

_PAGE_CONCURRENCY = 8
_MAX_RECORDED_INSTANCES = ACTIVE_LIMIT + 1
"""Instances that events missed and one scan records: enough to say that there are more than a verdict counts."""
LEASE_DURATION_SECONDS = 12
"""How long a task hub stays with a worker that has died while it read it."""
_RENEW_INTERVAL_SECONDS = 4.0
_POLL_INTERVAL_SECONDS = 0.3


@dataclass(slots=True)
class _RenewedLease:
    """A lease that is renewed while the work goes on."""

    lease: Lease


class Scanner:
    """`stopping` cuts scans short when the server shuts down; whoever comes next carries them on."""

    def __init__(
        self,
        probes: Probes,
        task_hubs: TaskHubs,
        instances: Instances,
        lookup: InstanceLookup,
        clock: Clock,
        stopping: asyncio.Event,
    ) -> None:
        self._probes = probes
        self._task_hubs = task_hubs
        self._instances = instances
        self._lookup = lookup
        self._clock = clock
        self._stopping = stopping

    async def scan(
        self, backend: Backend, question: ProbeRequest, activity: InstanceActivity, *, for_verdict: bool
    ) -> ProbeResult:
        """Scan the hub, alone, carrying on what was begun. While another worker scans it, wait for that one. `activity`
        is what the records showed before."""
        loop = asyncio.get_running_loop()
        owner = uuid.uuid4().hex
        task_hub = question.task_hub
        waited = False
        while True:
            left = max(0.0, question.deadline - loop.time())
            now = self._clock.now()
            lease = await self._probes.acquire_lease(
                task_hub, owner, until=Instant(now + seconds(LEASE_DURATION_SECONDS)), now=now
            )
            if lease is not None:
                break
            kept = await self._probes.get(task_hub)
            if kept.result is not None and self._satisfies_request(kept.result, question, activity, for_verdict):
                return kept.result
            if left <= _POLL_INTERVAL_SECONDS or self._stopping.is_set():
                return timed_out_result(question, "another worker is reading it", self._clock.now())
            await asyncio.sleep(_POLL_INTERVAL_SECONDS)
            waited = True
        kept = lease.record
        result: ProbeResult | None = None
        scan = kept.scan
        messages = MessageReader(backend, question, kept.message_state, self._clock)
        try:
            async with self._keep_renewed(lease) as held:
                if waited:
                    # The other worker may have closed something, and have read the hub since.
                    activity = await self._get_activity(question)
                if kept.result is not None and self._satisfies_request(kept.result, question, activity, for_verdict):
                    return kept.result
                if scan is not None and not self._can_resume(scan, question, activity, for_verdict):
                    scan = None
                scan, result = await self._run_scan(backend, question, scan, activity, messages)
        finally:
            # A scan that is over, or was given up, is not carried on.
            given_back = await self._probes.save_and_release(
                held.lease,
                result=result if _replaces_last_result(result) else None,
                scan=scan,
                message_state=messages.message_state,
            )
            if not given_back:
                log.info("task hub %s: another worker has taken the probe over", task_hub)
        return result

    @asynccontextmanager
    async def _keep_renewed(self, lease: Lease) -> AsyncIterator[_RenewedLease]:
        """Renew the lease until the block ends. A worker that has lost it reads on for its own question; what it reads
        is not kept."""
        held, over = _RenewedLease(lease), asyncio.Event()

        async def renew_lease() -> None:
            while True:
                try:
                    await asyncio.wait_for(over.wait(), _RENEW_INTERVAL_SECONDS)
                    return
                except TimeoutError:
                    pass
                try:
                    until = Instant(self._clock.now() + seconds(LEASE_DURATION_SECONDS))
                    renewed = await self._probes.renew_lease(held.lease, until)
                except Unavailable as error:
                    log.warning("the lease of task hub %s could not be renewed: %s", lease.task_hub, error.message)
                    continue
                if renewed is None:
                    return
                held.lease = renewed

        task = asyncio.create_task(renew_lease())
        try:
            yield held
        finally:
            # Not cancelled: the lease is given back with the answer to the last renewal.
            over.set()
            await task

    async def _get_activity(self, question: ProbeRequest) -> InstanceActivity:
        hub = await self._task_hubs.get(question.task_hub)
        if hub is None or not hub.recording or hub.closed:
            return InstanceActivity()
        return await self._instances.read_activity(hub, question.exemptions)

    def _satisfies_request(
        self, result: ProbeResult, question: ProbeRequest, activity: InstanceActivity, for_verdict: bool
    ) -> bool:
        return satisfies_request(result, question, activity, self._clock.now(), for_verdict=for_verdict)

    def _can_resume(self, scan: Scan, question: ProbeRequest, activity: InstanceActivity, for_verdict: bool) -> bool:
        """Whether an interrupted scan can still answer the question. It cannot if the exemptions differ, if it is for a
        verdict and an event or a look-up has overtaken it, if it is older than the freshness (unless reading has taken
        half of that), or if the question asks for a fresh read and the scan began before it (unless reading has taken
        LONG_SECONDS)."""
        freshness = question.policy.freshness_seconds
        large = scan.read_seconds >= LARGE_HUB_READ_SECONDS
        return (
            scan.request_key == question.key
            and (self._clock.now() - scan.began_at < seconds(freshness) or scan.read_seconds >= freshness / 2)
            and (
                question.verify is not VerificationMode.FRESH
                or large
                or scan.began_at >= question.requested_at + CLOCK_TOLERANCE
            )
            and not (for_verdict and is_superseded(scan.began_at, scan.correction_epoch, activity, question.policy))
        )

    async def _run_scan(
        self,
        backend: Backend,
        question: ProbeRequest,
        scan: Scan | None,
        activity: InstanceActivity,
        messages: MessageReader,
    ) -> tuple[Scan | None, ProbeResult]:
        """Read until the scan is done or the time is up: the scan to carry on, and what it says. `activity` is what the
        records showed before."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout_at(question.deadline):
                if scan is None:
                    scan = await self._begin_scan(backend, question, activity.correction_epoch, messages)
                else:
                    scan.call_count += 1
                while not scan.finish_pass():
                    if scan.needs_queue_read:
                        # Before the pass that ends the scan: it must show no change since (docs/correctness.md).
                        scan.observed_queues = await messages.read_queues()
                        if scan.queues_read_in_pass == 0:
                            # Only now: a shared instance table does not show that the task hub exists.
                            await self._task_hubs.record_seen(question.task_hub)
                        scan.queues_read_in_pass = scan.pass_number
                    await self._read_pass(backend, question, scan)
                scan.read_seconds += loop.time() - began
                found = messages.assess_after_scan(scan, activity.last_recorded_at)
                return None, scan.to_result(ProbeStatus.COMPLETE, backend.provider, self._clock.now(), messages=found)
        except TimeoutError:
            if scan is None:
                return None, timed_out_result(question, "the task hub did not answer in time", self._clock.now())
            scan.read_seconds += loop.time() - began
            return scan, incomplete_result(scan, question, self._clock.now())
        except BackendError as error:
            if scan is not None:
                scan.read_seconds += loop.time() - began
            keep = scan if scan is not None and scan.page_count and error.failure is not ReadFailure.MISSING else None
            return keep, failed_result(question, error, self._clock.now())

    async def _begin_scan(
        self, backend: Backend, question: ProbeRequest, correction_epoch: str, messages: MessageReader
    ) -> Scan:
        began_at = self._clock.now()
        start = await backend.begin_scan(question.task_hub)
        scan = Scan(
            began_at,
            start.changed_since,
            list(start.cursors),
            list(start.next_pass_cursors),
            question.key,
            correction_epoch=correction_epoch,
        )
        if messages.quiet_period is not None:
            # The first pass is compared with the last pass of the scan with which the quiet period began.
            scan.changed_since, scan.previous_stamp_digest = (
                min(start.changed_since, messages.quiet_period.changed_since),
                messages.quiet_period.stamp_digest,
            )
        return scan

    async def _read_pass(self, backend: Backend, question: ProbeRequest, scan: Scan) -> None:
        """Follow every cursor to its end, several at a time."""
        under_way: dict[asyncio.Task[ObservedPage], str] = {}
        try:
            while scan.cursors:
                if self._stopping.is_set():
                    raise TimeoutError
                taken = set(under_way.values())
                for cursor in [one for one in scan.cursors if one not in taken][: _PAGE_CONCURRENCY - len(under_way)]:
                    reading = backend.read_page(question.task_hub, scan.changed_since, cursor)
                    under_way[asyncio.ensure_future(reading)] = cursor
                finished, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    page = task.result()
                    # Recorded before the page is done with: a page that is read again is recorded again, to no harm.
                    await self._record_missed_instances(backend, question, scan, page.instances)
                    scan.add_page(page.instances, question.exemptions)
                    scan.page_count += 1
                    scan.scanned += page.scanned
                    scan.cursors.remove(under_way.pop(task))
                    scan.cursors.extend(page.cursors)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _record_missed_instances(
        self, backend: Backend, question: ProbeRequest, scan: Scan, observed: Sequence[ObservedInstance]
    ) -> None:
        """Record what is active and was missed by events, but for functions that the policy ignores."""
        active = [one for one in observed if one.active and not question.exemptions.ignores(one.function_name)]
        blocking = active[: max(0, _MAX_RECORDED_INSTANCES - scan.recorded_count)]
        if not blocking:
            return
        hub = await self._task_hubs.get_or_create(question.task_hub)
        if hub.closed:
            return
        known = await asyncio.gather(*(self._get_recorded_instance(hub, one) for one in blocking))
        if any(one is not None and one.source is EvidenceSource.EVENT for one in known):
            await self._task_hubs.record_seen(question.task_hub, confirmed_backend=question.backend_id)
        if messages_unseen(backend, question):
            shown = [
                (before.started, one)
                for before, one in zip(known, blocking, strict=True)
                if before is not None and before.active and before.started is not None
            ]
            await self._lookup.record_seen(question, shown, scan.began_at)
        now = self._clock.now()
        lacking = [reconcile_start(before, one, now) for before, one in zip(known, blocking, strict=True)]
        await self._lookup.record_corrections(question.task_hub, [one for one in lacking if one is not None])
        # Not before: a page whose instances could not be recorded is read again.
        scan.recorded_count += len(blocking)

    async def _get_recorded_instance(self, hub: TaskHubRecord, observed: ObservedInstance) -> Instance | None:
        return await self._instances.get(hub, observed.instance_id)


def incomplete_result(scan: Scan, question: ProbeRequest, now: Instant) -> ProbeResult:
    """What a scan that was cut off says so far."""
    message = (
        f"{scan.page_count} pages are read, {len(scan.cursors)} ranges are left in pass {scan.pass_number}; the next "
        "question carries on"
    )
    return scan.to_result(ProbeStatus.INCOMPLETE, question.provider_config.provider, now, message)


def timed_out_result(question: ProbeRequest, message: str, now: Instant) -> ProbeResult:
    """The result of a read that ran out of time."""
    return _empty_result(question, ProbeStatus.INCOMPLETE, message, now)


def failed_result(question: ProbeRequest, error: BackendError, now: Instant) -> ProbeResult:
    """The result of a read that failed."""
    log.warning("task hub %s cannot be read: %s", question.task_hub, error.message)
    return replace(
        _empty_result(question, _STATUS_BY_FAILURE[error.failure], error.message, now),
        retry_after_seconds=error.retry_after,
    )


def _empty_result(question: ProbeRequest, status: ProbeStatus, message: str, now: Instant) -> ProbeResult:
    return ProbeResult(
        status, question.provider_config.provider, now, message=message, ended_at=now, request_key=question.key
    )


_STATUS_BY_FAILURE = {
    ReadFailure.MISSING: ProbeStatus.MISSING,
    ReadFailure.DENIED: ProbeStatus.DENIED,
    ReadFailure.THROTTLED: ProbeStatus.THROTTLED,
    ReadFailure.FAILED: ProbeStatus.FAILED,
}


def _replaces_last_result(result: ProbeResult | None) -> bool:
    """Whether this result replaces the last one. An incomplete scan replaces it only if it found an active instance or
    a start on its way: the records may lack that instance, so no earlier result may answer."""
    return result is not None and (result.status is not ProbeStatus.INCOMPLETE or result.found_blocking)
