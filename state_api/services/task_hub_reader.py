"""Takes the steps that a plan asks for: reads records, instances, control queues and ranges of one task hub.

A scan that takes long holds the task hub's lease. If it is interrupted, it is stored, and the next request resumes it.
"""

import asyncio
from dataclasses import dataclass, replace

from state_api.backends.protocols import Backend, BackendError, BackendRegistry, ObservedPage, ReadFailure
from state_api.domain.readiness.evidence import InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.lookups import start_of
from state_api.domain.readiness.messages import KnownTimers, MessageEvidence, MessageState, ObservedQueues
from state_api.domain.readiness.plan import (
    BeginScan,
    Correct,
    CountMessages,
    LookUp,
    ReadMessages,
    ReadPass,
    ReadRecords,
    ReadState,
    Step,
)
from state_api.domain.readiness.requirements import can_resume, replaces_last_result
from state_api.domain.readiness.scans import Scan, assess_scan_messages, find_quiet_period
from state_api.services.early_look_ups import InstanceLookUps
from state_api.services.ports import Clock, Instances, Probes, TaskHubRecords, TaskHubs
from state_api.services.probe_leases import ProbeSession, is_leased
from state_api.services.probe_requests import ProbeRequest
from state_api.services.record_correction import RecordCorrector
from state_api.services.results_without_scan import failed_result, timed_out_result

_PAGE_CONCURRENCY = 8
_POLL_INTERVAL_SECONDS = 0.3

_PAGES_WITHOUT_LEASE = 2
"""Pages that a scan reads one after the other without the lease. Some providers list what is active and what is new
separately, so they have two at least."""

_SECONDS_WITHOUT_LEASE = 3.0
"""How long a scan reads without the lease."""


class _OvertakenError(Exception):
    """Another worker scans the task hub, or has stored the outcome of its scan, and this scan needs the lease."""


@dataclass(frozen=True, slots=True)
class ReaderContext:
    """What all readers share. `stopping` interrupts scans when the server shuts down."""

    backends: BackendRegistry
    record_corrector: RecordCorrector
    probes: Probes
    task_hubs: TaskHubs
    instances: Instances
    clock: Clock
    stopping: asyncio.Event


class TaskHubReader:
    """Reads one task hub for one request, which has just read its `records`. `release` must be called at the end."""

    def __init__(
        self,
        request: ProbeRequest,
        context: ReaderContext,
        records: TaskHubRecords,
        look_ups: InstanceLookUps | None = None,
    ) -> None:
        """Prepare to read one task hub for one request. `records` are its records as they were read before. One of the
        `look_ups` may have begun."""
        self._request = request
        self._look_ups = look_ups or InstanceLookUps(context.clock)
        self._records = records
        self._context = context
        self._clock = context.clock
        self._backend: Backend | None = None
        self._session: ProbeSession | None = None
        self._saving: asyncio.Task[None] | None = None
        self._was_overtaken = False
        self._scan: Scan | None = None
        self._scan_began = 0.0
        self._message_state = MessageState(request.backend_id)

    async def take(self, step: Step, state: ReadState) -> ReadState:
        """Take one step; the state with its outcome. Raises BackendError, and TimeoutError after the deadline.

        A failure of a scan is not raised: it is the result of the scan.
        """
        # A step after a scan builds on what the scan has stored.
        await self._finish_saving()
        match step:
            case BeginScan():
                return await self._begin_scan(state)
            case ReadMessages() | ReadPass():
                return await self._continue_scan(step, state)
            case _:
                async with asyncio.timeout_at(self._request.deadline):
                    return await self._read_before_scan(step, state)

    async def release(self) -> None:
        """Store the outcome of the last scan. If the scan was interrupted, give the lease back, and store the scan."""
        if self._session is not None and self._session.has_lease:
            self._end_scan(None, self._scan if self._scan is not None and self._scan.page_count else None)
        await self._finish_saving()

    # Look-ups

    async def _read_before_scan(self, step: Step, state: ReadState) -> ReadState:
        """Take a step that belongs to no scan."""
        request, record_corrector = self._request, self._context.record_corrector
        match step:
            case ReadRecords():
                return await self._read_records(state)
            case LookUp(again=False):
                return await self._look_up(step, state)
            case LookUp():
                return await self._look_up_again(step, state)
            case CountMessages():
                snapshot = await self._get_backend().read_queue_snapshot(request.task_hub)
                assert snapshot is not None, "messages are counted only where the backend shows them"
                return state.after_count(snapshot.message_count)
            case Correct():
                backend, confirmed_backend = self._get_backend(), self._records.confirmed_backend
                all_recorded = await record_corrector.record_ends(backend, request, step, confirmed_backend)
                return state.after_correction(step, all_recorded=all_recorded)
            case _:
                raise AssertionError(f"{step} is no step before a scan")

    async def _read_records(self, state: ReadState) -> ReadState:
        """Read what is recorded of the task hub, and return the state of the plan that knows it."""
        instances, request = self._context.instances, self._request
        self._records = await instances.read_records(request.task_hub, request.exemptions)
        return state.after_records(self._records.state)

    async def _look_up(self, step: LookUp, state: ReadState) -> ReadState:
        """Look up instances in the task hub. Where it does not show messages, record the starts that it confirms."""
        result = await self._look_ups.find_instances(
            self._get_backend(), self._request.task_hub, [instance.instance_id for instance in step.instances]
        )
        if not self._sees_messages():
            observed_starts = [
                (start_of(instance), observed_instance)
                for instance in step.instances
                if (observed_instance := result.observed[instance.instance_id]) is not None
            ]
            await self._context.record_corrector.confirm_starts(
                self._request, observed_starts, observed_at=result.observed_at
            )
        return state.after_lookup(step, result.observed, sees_messages=self._sees_messages())

    async def _look_up_again(self, step: LookUp, state: ReadState) -> ReadState:
        """Look up once more the instances that the first look-up did not show."""
        task_hub = self._request.task_hub
        recorded_starts = {}
        if not self._sees_messages():
            # Read before the look-up: that the task hub does not show an instance proves that it has ended only if its
            # start was confirmed before.
            recorded_starts = dict(await self._context.record_corrector.read_recorded_starts(task_hub, step.instances))
        observed = await self._get_backend().find_instances(
            task_hub, [instance.instance_id for instance in step.instances]
        )
        return state.after_second_lookup(observed, recorded_starts)

    # Scans

    async def _begin_scan(self, state: ReadState) -> ReadState:
        """Resume the stored scan, or begin a new one. While another worker holds the lease, wait for that worker's
        result."""
        backend, record, now = self._get_backend(), self._records.probe, self._clock.now()
        can_continue = record.scan is not None and can_resume(record.scan, state.requirements, _activity(state), now)
        session = ProbeSession(self._context.probes, self._request.task_hub, self._records, self._clock)
        needs_lease = can_continue or self._was_overtaken
        if is_leased(record, now) or (needs_lease and not await session.acquire_lease()):
            return await self._wait_for_other_worker(state)
        self._session = session
        if record.message_state.backend_id == self._request.backend_id:
            self._message_state = record.message_state
        if can_continue and record.scan is not None:
            self._scan = record.scan
            record.scan.call_count += 1
            return replace(state, scan=record.scan)
        try:
            async with asyncio.timeout_at(self._request.deadline):
                self._scan = await self._start_scan(backend, _activity(state).correction_epoch)
        except TimeoutError:
            result = timed_out_result(self._request, "the task hub did not answer in time", self._clock.now())
        except BackendError as error:
            result = failed_result(self._request, error, self._clock.now())
        else:
            return replace(state, scan=self._scan)
        self._end_scan(result, None)
        return state.after_scan(result)

    async def _wait_for_other_worker(self, state: ReadState) -> ReadState:
        """Wait a moment, and read what the other worker has stored. It may have closed instances, too."""
        if self._remaining_seconds() <= _POLL_INTERVAL_SECONDS or self._context.stopping.is_set():
            return state.after_scan(timed_out_result(self._request, "another worker is reading it", self._clock.now()))
        await asyncio.sleep(_POLL_INTERVAL_SECONDS)
        state = await self._read_records(state)
        return replace(state, last_result=self._records.probe.result_for(self._request.key))

    async def _start_scan(self, backend: Backend, correction_epoch: str) -> Scan:
        """Begin a new scan, which continues a quiet period of the control queues if there is one."""
        loop = asyncio.get_running_loop()
        began_at, began = self._clock.now(), loop.time()
        self._scan_began = began
        start = await backend.begin_scan(self._request.task_hub)
        scan = Scan(
            began_at,
            start.changed_since,
            list(start.cursors),
            list(start.next_pass_cursors),
            self._request.key,
            correction_epoch=correction_epoch,
            read_seconds=loop.time() - began,
        )
        quiet_period = find_quiet_period(self._message_state, self._request.exemptions)
        if quiet_period is not None:
            # The first pass is compared with the last pass of the scan with which the quiet period began.
            scan.changed_since = min(start.changed_since, quiet_period.changed_since)
            scan.previous_stamp_digest = quiet_period.stamp_digest
        return scan

    async def _continue_scan(self, step: ReadMessages | ReadPass, state: ReadState) -> ReadState:
        """Take the next step of the scan. When the scan is complete or has failed, end it with a result."""
        scan, began = state.scan, asyncio.get_running_loop().time()
        assert scan is not None, "these steps belong to a scan"
        failure: TimeoutError | BackendError | None = None
        try:
            async with asyncio.timeout_at(self._request.deadline):
                await (self._read_messages(scan) if isinstance(step, ReadMessages) else self._read_pass(scan))
        except _OvertakenError:
            self._session, self._scan, self._was_overtaken = None, None, True
            return await self._wait_for_other_worker(replace(state, scan=None))
        except (TimeoutError, BackendError) as error:
            failure = error
        finally:
            scan.read_seconds += asyncio.get_running_loop().time() - began
        if failure is None and (isinstance(step, ReadMessages) or not scan.finish_pass()):
            return state
        resumable: Scan | None = None
        if failure is None:
            # The scan is complete, so nothing is left to resume. If this request fails from here on, the next one must
            # not use the reads of this scan.
            self._scan = None
            result = await self._complete_result(scan, _activity(state))
        elif isinstance(failure, TimeoutError):
            result, resumable = scan.to_incomplete_result(state.requirements.provider, self._clock.now()), scan
        else:
            result = failed_result(self._request, failure, self._clock.now())
            resumable = scan if scan.page_count and failure.failure is not ReadFailure.MISSING else None
        self._end_scan(result, resumable)
        return state.after_scan(result)

    def _is_long(self, scan: Scan) -> bool:
        """Whether the scan takes so long that two workers should not do the same."""
        elapsed_seconds = asyncio.get_running_loop().time() - self._scan_began
        is_slow = scan.page_count > _PAGES_WITHOUT_LEASE or elapsed_seconds > _SECONDS_WITHOUT_LEASE
        return is_slow or len(scan.cursors) > 1

    async def _require_lease(self) -> None:
        """Take the lease for a scan that proves long. Raises _OvertakenError if another worker scans, or has stored
        something since the records were read."""
        assert self._session is not None, "a scan has a session"
        if not self._session.has_lease and not await self._session.acquire_lease():
            raise _OvertakenError

    def _end_scan(self, result: ProbeResult | None, scan: Scan | None) -> None:
        """Begin to store the result and the scan to resume, and to release the lease."""
        session, self._session, self._scan = self._session, None, None
        assert session is not None, "a scan has a session"
        stored = result if result is not None and replaces_last_result(result) else None
        message_state = replace(self._message_state, timers=self._message_state.timers.limit_size())
        self._saving = asyncio.create_task(session.save(stored, scan, message_state))

    async def _finish_saving(self) -> None:
        """Wait until the outcome of the last scan is stored."""
        saving, self._saving = self._saving, None
        if saving is not None:
            await saving

    async def _complete_result(self, scan: Scan, activity: InstanceActivity) -> ProbeResult:
        """The result of a complete scan, with what its reads of the control queues have shown."""
        evidence, message_state = self._assess_messages(scan, activity)
        quiet_period = message_state.quiet_period
        if quiet_period is not None and quiet_period != self._message_state.quiet_period:
            # A quiet period begins. The read only serves to update the clock by its response. If this machine was
            # suspended during the scan, its clock stood still, and the period would begin too early.
            await self._context.instances.read_records(self._request.task_hub, self._request.exemptions)
            evidence, message_state = self._assess_messages(scan, activity)
        self._message_state = message_state
        provider = self._get_backend().provider
        return scan.to_result(ProbeStatus.COMPLETE, provider, self._clock.now(), messages=evidence)

    def _assess_messages(self, scan: Scan, activity: InstanceActivity) -> tuple[MessageEvidence | None, MessageState]:
        """What the messages mean that a complete scan has seen, and what to remember of them."""
        return assess_scan_messages(
            scan,
            self._message_state,
            exemptions=self._request.exemptions,
            message_visibility_seconds=self._request.policy.message_visibility_seconds,
            last_recorded_at=activity.last_recorded_at,
            ended_at=self._clock.upper_bound(),
        )

    async def _read_messages(self, scan: Scan) -> None:
        """Observe the control queues before the next pass of the scan.

        The order matters: the pass reads the instance of every start that left a queue before this read."""
        scan.observed_queues = await self._observe_queues()
        scan.queues_read_in_pass = scan.pass_number

    async def _observe_queues(self) -> ObservedQueues | None:
        """Read the control queues, and the histories only if the known timers do not explain all invisible messages.
        None if the backend does not show messages, or the policy ignores them."""
        if self._request.policy.ignore_messages:
            return None
        observed = await self._take_snapshot(self._message_state.timers)
        if observed is None or observed.unexplained_count == 0:
            return observed
        timers = await self._read_timers()
        # Count again, because a timer explains a message only if it was known before the messages were counted.
        return await self._take_snapshot(timers)

    async def _read_timers(self) -> KnownTimers:
        """Read the pending timers of the task hub, page by page, to the end."""
        while True:
            timers = await self._get_backend().read_timers(self._request.task_hub, self._message_state.timers)
            # Remembered at once, so that the next request continues a read that is interrupted.
            self._message_state = replace(self._message_state, timers=timers)
            if timers.cursor is None:
                return timers
            await self._require_lease()

    async def _take_snapshot(self, timers: KnownTimers) -> ObservedQueues | None:
        """Look at the control queues once; None if the provider has none."""
        began_at = self._clock.now()
        snapshot = await self._get_backend().read_queue_snapshot(self._request.task_hub)
        ended_at = self._clock.upper_bound()
        return None if snapshot is None else ObservedQueues.from_snapshot(snapshot, timers, began_at, ended_at)

    async def _read_pass(self, scan: Scan) -> None:
        """Follow every cursor to its end, several at a time. Raises TimeoutError when the server shuts down."""
        backend = self._get_backend()
        under_way: dict[asyncio.Task[ObservedPage], str] = {}
        try:
            while scan.cursors:
                if self._context.stopping.is_set():
                    raise TimeoutError
                if self._is_long(scan):
                    await self._require_lease()
                taken = set(under_way.values())
                waiting = [cursor for cursor in scan.cursors if cursor not in taken]
                for cursor in waiting[: _PAGE_CONCURRENCY - len(under_way)]:
                    reading = backend.read_page(self._request.task_hub, scan.changed_since, cursor)
                    under_way[asyncio.ensure_future(reading)] = cursor
                finished, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    await self._add_page(scan, task.result())
                    scan.cursors.remove(under_way.pop(task))
                    scan.cursors.extend(task.result().cursors)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _add_page(self, scan: Scan, page: ObservedPage) -> None:
        """Record and count what a page of the scan shows."""
        if scan.page_count == 0 and not self._records.seen:
            # The queues and the first page together show that the task hub exists. One alone does not: a page shows
            # nothing where task hubs share the instance table, and a policy may ignore messages.
            await self._context.task_hubs.record_seen(self._request.task_hub)
        # Record the page before it is counted. If it is read again, it is recorded again, which has no further effect.
        await self._context.record_corrector.record_missed_instances(
            self._request,
            scan,
            page.instances,
            confirmed_backend=self._records.confirmed_backend,
            sees_messages=self._sees_messages(),
        )
        scan.add_page(page.instances, self._request.exemptions)
        scan.page_count += 1
        scan.scanned += page.scanned

    def _get_backend(self) -> Backend:
        """The backend that reads the task hub. Raises BackendError if a setting is missing or wrong."""
        if self._backend is None:
            self._backend = self._context.backends.backend_for(self._request.provider_config)
        return self._backend

    def _sees_messages(self) -> bool:
        """Whether a start that is only a message can be seen."""
        return self._get_backend().shows_messages and not self._request.policy.ignore_messages

    def _remaining_seconds(self) -> float:
        """The seconds until the deadline of the request, by the clock of the event loop. Negative once it has
        passed."""
        return self._request.deadline - asyncio.get_running_loop().time()


def _activity(state: ReadState) -> InstanceActivity:
    """What the records show of the task hub's instances. A scan begins after they were read."""
    assert state.records is not None, "a scan begins after the records were read"
    return state.records.activity
